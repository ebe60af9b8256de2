#!/usr/bin/env bash
# Makes one image from Debian's packages and gives it to the agent.
#
#   image.sh NAME PACKAGE,PACKAGE... [COMMAND]
#
# The packages and what they depend on are unpacked, not configured: enough for programs that need no setting up, small,
# and done in seconds. Busybox brings /bin/sh and its friends. COMMAND is run by a shell with ROOT set to the new root,
# before it is packed. Needs root, mmdebstrap and a Debian mirror.
#
# PODD is the program that imports it (default: podd; PODD_SOCKET says to which agent); with REGISTRY, as HOST:PORT, it is
# pushed there instead, over plain HTTP, with skopeo. RUN is what the image runs by itself, as a JSON list. CACHE is the
# directory where images are kept for the next time (default: /var/cache/podd-examples).
set -euo pipefail
name=$1 packages=$2 command=${3:-true}
cache=${CACHE:-/var/cache/podd-examples}
mkdir -p "$cache"

# The same packages and command make the same image: what is there already is used again.
recipe=$(printf '%s\n' "$packages" "$command" "${RUN:-}" | cat - "$0" | sha256sum | cut -c 1-16)
file="$cache/$(printf '%s' "$name" | tr '/:' '__')-$recipe.tar"
if [ ! -e "$file" ]; then
    hook=$(mktemp) && trap 'rm -f "$hook"' EXIT
    cat >"$hook" <<'HOOK'
set -eu
ROOT=$1
export ROOT
chroot "$ROOT" /bin/busybox --install -s /bin 2>/dev/null
mkdir -p "$ROOT/etc" "$ROOT/tmp" "$ROOT/root" "$ROOT/run" "$ROOT/var/log"
chmod 1777 "$ROOT/tmp"
echo 'root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$ROOT/etc/passwd"
echo 'root:x:0:
adm:x:4:
www-data:x:33:
nogroup:x:65534:' >"$ROOT/etc/group"
sh -eu -c "$COMMAND"
rm -rf "$ROOT/usr/share/doc" "$ROOT/usr/share/man" "$ROOT/usr/share/locale"
HOOK
    export COMMAND=$command
    root=$(mktemp "$file.XXXXXX") new=$(mktemp "$file.XXXXXX")
    mmdebstrap --quiet --format=tar --variant=extract --include="busybox-static,$packages" \
        --extract-hook="sh $hook \"\$1\"" "${SUITE:-bookworm}" - "${MIRROR:-http://deb.debian.org/debian}" >"$root"
    # One layer and its configuration, as `docker save` writes it.
    python3 - "$root" "$new" "$name" "${RUN:-null}" <<'PYTHON'
import hashlib, io, json, platform, sys, tarfile
root, out, name, run = sys.argv[1:]
with open(root, "rb") as layer:
    digest = hashlib.file_digest(layer, "sha256").hexdigest()
config = json.dumps({
    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
    "os": "linux",
    "config": {"Cmd": json.loads(run), "WorkingDir": "/"},
    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
}).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(out, "w") as archive:
    for path, text in (("manifest.json", manifest), (config_name, config)):
        entry = tarfile.TarInfo(path)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    archive.add(root, "layer.tar")
PYTHON
    rm -f "$root"
    mv "$new" "$file"
fi
if [ -n "${REGISTRY:-}" ]; then
    skopeo copy --quiet --dest-tls-verify=false "docker-archive:$file" "docker://$REGISTRY/$name"
else
    "${PODD:-podd}" image import "$file" --name "$name"
fi
