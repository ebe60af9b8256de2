#!/usr/bin/env bash
# The tests of tests/linux on a machine with systemd and cgroup v2 alone: a Debian guest in QEMU, emulated (TCG), so it
# needs no virtualisation of the host and is slow. Its kernel has AppArmor, huge pages and SCTP, and cannot map a tmpfs.
# `make test-v2` runs it; `make test` does not.
#
#   tests/vm/run.sh [FILTER...]     each a part of the names of tests to run
#
# VM_RELEASE=1 runs the program as it is released, which the emulation has done sooner. VM_TIMEOUT is in seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=target/vm
mkdir -p "$work"
say() { printf 'vm: %s\n' "$*"; }

packages=(qemu-system-x86 mmdebstrap e2fsprogs)
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ -n "${missing+x}" ]; then
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The program is built with its tests.
tests=$(cargo test --no-run --test linux --message-format json 2>/dev/null \
    | jq -r 'select(.reason == "compiler-artifact" and .target.name == "linux") | .executable')
podd=$(realpath target/debug/podd)
program=$podd
if [ -n "${VM_RELEASE:-}" ]; then
    cargo build --quiet --release --bin podd
    program=target/release/podd
fi

# What boots, and every program that the tests call.
inside=systemd-sysv,linux-image-cloud-amd64,apparmor,busybox-static,iproute2,nftables,runc,crun,sqlite3,curl,procps,udev,dbus
inside+=,skopeo,docker-registry,apache2-utils,python3,nodejs,git,ca-certificates
if [ "$(cat "$work/inside" 2>/dev/null)" != "$inside" ]; then
    say 'making a Debian guest (once)'
    rm -rf "$work/root" "$work/root.new"
    mmdebstrap --variant=minbase --include="$inside" bookworm "$work/root.new" >"$work/mmdebstrap.log" 2>&1 \
        || { tail -n 20 "$work/mmdebstrap.log"; exit 1; }
    mv "$work/root.new" "$work/root"
    echo "$inside" >"$work/inside"
fi
root=$work/root
mkdir -p "$root$(dirname "$podd")" "$root/opt"
cp "$program" "$root$podd"
cp "$tests" "$root/opt/linux-tests"
# Tests that read files of the repository find them where it was built.
mkdir -p "$root$PWD"
for path in migrations deploy tests/fixtures; do
    mkdir -p "$root$PWD/$(dirname "$path")"
    rm -rf "$root$PWD/$path"
    cp -r "$path" "$root$PWD/$path"
done
skip=()
if kubectl=$(command -v kubectl); then
    cp -L "$kubectl" "$root/usr/local/bin/kubectl"
else
    say 'skipped: what has kubectl in its name, as there is none here'
    skip+=(--skip kubectl)
fi
# The guest reaches no mirror: its images of the examples are those that the same tests left here.
images=target/tmp/example-images
rm -rf "$root$PWD/$images"
if [ -d "$images" ]; then
    mkdir -p "$root$PWD/$images"
    cp -r "$images/." "$root$PWD/$images"
else
    say "skipped: the examples, as there is no $images yet (cargo test --test linux examples:: makes it)"
    skip+=(--skip examples::)
fi
cat >"$root/opt/run" <<SCRIPT
#!/bin/sh
cat /proc/version; stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers
mkdir -p /tmp; cd $(dirname "$podd")
export PODD_TEST_PATIENCE=300
/opt/linux-tests --test-threads 2 --show-output ${skip[*]} $*
echo "vm-exit: \$?"
poweroff -f
SCRIPT
chmod +x "$root/opt/run"
cat >"$root/etc/systemd/system/run-tests.service" <<'UNIT'
[Unit]
Description=podd's tests
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/opt/run
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Delegate=yes
TasksMax=infinity
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../run-tests.service "$root/etc/systemd/system/multi-user.target.wants/run-tests.service"

rm -f "$work/disk.img"
mke2fs -q -t ext4 -d "$root" -L root "$work/disk.img" 6G
say 'booting the guest'
timeout "${VM_TIMEOUT:-3600}" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 3G -nographic -no-reboot \
    -kernel "$(ls "$root"/boot/vmlinuz-* | tail -1)" -initrd "$(ls "$root"/boot/initrd.img-* | tail -1)" \
    -append 'root=LABEL=root rw console=ttyS0 quiet systemd.unified_cgroup_hierarchy=1 systemd.mask=serial-getty@ttyS0.service apparmor=1 security=apparmor hugepages=16' \
    -drive file="$work/disk.img",if=virtio,format=raw -nic none </dev/null | tee "$work/console.log"
grep -q 'vm-exit: 0' "$work/console.log"
