#!/bin/sh
# Keeps a working copy of a branch, and swaps it in as a whole: a reader sees the old content or the new, never a mixture.
set -eu
: "${GIT_SYNC_REPO:?}" "${GIT_SYNC_DEST:?}" "${GIT_SYNC_BRANCH:=master}" "${GIT_SYNC_WAIT:=10}"
store=$GIT_SYNC_DEST/.git-sync
trap 'exit 0' TERM INT
[ -d "$store/objects" ] || git init --quiet --bare "$store"
while :; do
    if git -C "$store" fetch --quiet --depth 1 "$GIT_SYNC_REPO" "$GIT_SYNC_BRANCH"; then
        revision=$(git -C "$store" rev-parse FETCH_HEAD)
        now=$(readlink "$GIT_SYNC_DEST/current" || true)
        if [ "$now" != "$revision" ]; then
            rm -rf "$GIT_SYNC_DEST/$revision"
            mkdir "$GIT_SYNC_DEST/$revision"
            git -C "$store" --work-tree "$GIT_SYNC_DEST/$revision" checkout --quiet --force FETCH_HEAD -- .
            ln -s "$revision" "$GIT_SYNC_DEST/next"
            mv -T "$GIT_SYNC_DEST/next" "$GIT_SYNC_DEST/current"
            [ -z "$now" ] || rm -rf "${GIT_SYNC_DEST:?}/$now"
            echo "$revision"
        fi
    fi
    sleep "$GIT_SYNC_WAIT" &
    wait $!
done
