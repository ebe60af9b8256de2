#!/usr/bin/env bash
# Installs what building, testing and showing podd needs on a Debian machine that has Rust. Idempotent: says what it
# does, and says nothing where there is nothing to do. Runtime needs of podd itself are few: a kernel of 5.14 or
# later, and nft for reaching the outside from a pod.
#
#   deploy/setup.sh            what `make test` and `make demo` need
#   deploy/setup.sh bench      and the peers that `make bench` measures podd against
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=(gcc make curl jq iproute2 nftables busybox-static runc crun skopeo docker-registry apache2-utils mmdebstrap git sqlite3 python3 procps
    libarchive-tools e2fsprogs mount util-linux)
if [ "${1:-}" = bench ]; then
    packages+=(podman netavark iptables catatonit containerd)
fi
missing=()
# What makes SDKs of podd's document in the tests; of another origin than Debian they serve as well.
if [ "${1:-test}" = test ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
fi
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# A C compiler that is not Debian's package serves as well.
command -v cc >/dev/null || { say 'no C compiler (cc) found'; exit 1; }
command -v cargo >/dev/null || { say 'Rust is missing: install a toolchain of 1.95 or later with rustup'; exit 1; }

if ! command -v kubectl >/dev/null; then
    say 'installing kubernetes-client (kubectl)'
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends kubernetes-client >/dev/null \
        || say 'no kubectl to be had: tests that need it say so'
fi

cargo_tool() { # name of the command, name of the crate
    if ! command -v "$1" >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/$1" ]; then
        say "installing $2 with cargo (once, some minutes)"
        cargo install --locked --quiet "$2" || say "$2 could not be installed"
    fi
}
case "${1:-test}" in
    test)
        cargo_tool cargo-nextest cargo-nextest
        cargo_tool cargo-deny cargo-deny
        ;;
esac
