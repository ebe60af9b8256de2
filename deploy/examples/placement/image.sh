#!/bin/sh
# Makes the image of pod.json from Debian's package busybox-static and gives it to the agents whose sockets are named.
#
#   image.sh /run/podd/podd.sock ...
set -eu
podd=${PODD:-podd}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/root/bin" "$scratch/root/tmp"
cp /bin/busybox "$scratch/root/bin/busybox"
ln -s busybox "$scratch/root/bin/sleep"
tar -C "$scratch/root" -cf "$scratch/image.tar" .
for socket in "$@"; do
    PODD_SOCKET=$socket "$podd" image import "$scratch/image.tar" --name example/busybox:1
done
