#!/usr/bin/env python3
"""Pulls of one image from one registry, podd beside podman and containerd, interleaved.

The image is a Debian root file system of about 120 MB packed, made by mmdebstrap and cut into five layers, once packed by
gzip and once by zstd. The registry is Debian's docker-registry on loopback. Each pull begins with an empty store and with
the registry's files in memory, and ends when the command does: the image is unpacked and recorded. Memory is the most
that the process which unpacks had resident at a time: podd's agent, podman itself, containerd.

    benches/pulls.py                      this part of the benchmark alone
    benches/pulls.py --rounds 3 --binary target/debug/podd
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
GAP = 0.2
PATIENCE = 600
LAYERS = 5
PACKINGS = ("gzip", "zstd")


class Failure(Exception):
    """A pull did not do what it was asked: the run is worth nothing."""


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=PATIENCE, **options)
    if done.returncode != 0:
        raise Failure(f"{command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(what, look):
    deadline = time.monotonic() + PATIENCE
    while not look():
        if time.monotonic() > deadline:
            raise Failure(f"waited in vain for {what}")
        time.sleep(0.02)


def architecture():
    """This machine's, in the words of images."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def make_image(work):
    """An OCI layout of five layers: a Debian root, its directories dealt out by size."""
    tree = work / "debian"
    run("mmdebstrap", "--variant=apt", "--include=perl,python3-minimal,openssl,curl,git", "bookworm", tree)
    for device in (tree / "dev").iterdir():
        shutil.rmtree(device) if device.is_dir() and not device.is_symlink() else device.unlink()
    parts = []
    for path in sorted(tree.iterdir()):
        # /usr is most of it: its parts are dealt out one by one.
        parts += sorted(path.iterdir()) if path.name == "usr" and not path.is_symlink() else [path]
    sized = sorted(((int(run("du", "-sk", p).split()[0]), p) for p in parts), reverse=True)
    shares = [[0, []] for _ in range(LAYERS)]
    for size, path in sized:
        share = min(shares, key=lambda share: share[0])
        share[0] += size
        share[1].append(str(path.relative_to(tree)))
    layout = work / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def put(data):
        """A file that becomes a blob; its digest and size."""
        digest = run("sha256sum", data).split()[0]
        size = data.stat().st_size
        data.rename(layout / "blobs/sha256" / digest)
        return {"digest": f"sha256:{digest}", "size": size}

    def put_text(value, media_type):
        text = work / "text"
        text.write_text(json.dumps(value))
        return {"mediaType": media_type, **put(text)}

    tars = []
    for index, (_, paths) in enumerate(shares):
        tars.append(work / f"{index}.tar")
        run("tar", "-C", tree, "--numeric-owner", "--xattrs", "-cf", tars[-1], *paths)
    config = put_text({"architecture": architecture(), "os": "linux", "config": {"Cmd": ["/bin/sh"]}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + run("sha256sum", tar).split()[0] for tar in tars]}},
        "application/vnd.oci.image.config.v1+json")
    manifests = []
    for packing in PACKINGS:
        layers = []
        # Packed here: skopeo, asked for another packing, pushes the blobs once more that a registry has already.
        for tar in tars:
            packed = work / "packed"
            with open(packed, "wb") as out:
                subprocess.run([packing, "-c", str(tar)], stdout=out, check=True)
            layers.append({"mediaType": f"application/vnd.oci.image.layer.v1.tar+{packing}", **put(packed)})
        manifest = put_text({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                             "config": config, "layers": layers}, "application/vnd.oci.image.manifest.v1+json")
        manifests.append({**manifest, "annotations": {"org.opencontainers.image.ref.name": packing}})
    for tar in tars:
        tar.unlink()
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    shutil.rmtree(tree)
    return layout


class Registry:
    def __init__(self, work):
        self.port = free_port()
        self.storage = work / "registry"
        config = work / "registry.yml"
        config.write_text(json.dumps({
            "version": "0.1", "log": {"level": "warn"}, "http": {"addr": f"127.0.0.1:{self.port}"},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}}}))
        self.log = open(work / "registry.log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=self.log, stderr=self.log,
                                        env=dict(os.environ, OTEL_TRACES_EXPORTER="none"))

        def listens():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False
        wait("the registry", listens)

    def name(self, packing):
        return f"127.0.0.1:{self.port}/debian:{packing}"

    def fill(self, layout):
        """Push both packings; bytes of each."""
        sizes = {}
        for packing in PACKINGS:
            run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests", f"oci:{layout}:{packing}",
                f"docker://{self.name(packing)}")
            manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.name(packing)}"))
            packings = {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]}
            if packings != {packing}:
                raise Failure(f"the registry has {packings} for {packing}")
            sizes[packing] = sum(layer["size"] for layer in manifest["layers"])
        return sizes

    def warm(self):
        for path in self.storage.rglob("data"):
            path.read_bytes()

    def close(self):
        self.process.terminate()
        self.process.wait()


def forget_peak(pid):
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid):
    line = next(l for l in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Podd:
    name = "podd"

    def __init__(self, binary, work):
        self.binary, self.dir = binary, work / "podd"
        self.dir.mkdir()
        self.socket = self.dir / "podd.sock"
        self.bridge = "podd-pulls"
        self.log = open(self.dir / "agent.log", "w")
        self.agent = subprocess.Popen(
            [binary, "serve", "--root", self.dir / "root", "--run-dir", self.dir / "run", "--log-dir", self.dir / "log",
             "--socket", self.socket, "--listen", "127.0.0.1:7446", "--bridge", self.bridge, "--pod-cidr", "10.244.252.0/24",
             "--cgroup-root", self.bridge, "--node-name", "pulls", "--eviction-hard="], stdout=self.log, stderr=self.log)
        wait("podd", self.socket.exists)
        self.version = run(binary, "version").strip()

    def pull(self, image):
        forget_peak(self.agent.pid)
        begun = time.perf_counter()
        run(self.binary, "image", "pull", image, "--socket", self.socket)
        return time.perf_counter() - begun, peak_mb(self.agent.pid)

    def clear(self, image):
        run(self.binary, "image", "remove", image, "--socket", self.socket)

    def close(self):
        self.agent.terminate()
        self.agent.wait()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        for family in ("ip", "inet"):
            subprocess.run(["nft", "delete", "table", family, f"podd-{self.bridge}"], capture_output=True)


class Podman:
    name = "podman"

    def __init__(self, work):
        self.dir = work / "podman"
        self.dir.mkdir()
        policy = self.dir / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.command = ["podman", "--root", self.dir / "root", "--runroot", self.dir / "run", "--storage-driver", "overlay"]
        self.options = ["--quiet", "--tls-verify=false", "--signature-policy", policy]
        self.version = run("podman", "--version").strip()

    def pull(self, image):
        command = [str(c) for c in [*self.command, "pull", *self.options, image]]
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        took = time.perf_counter() - begun
        child.returncode = status
        if status != 0:
            raise Failure(f"podman: {errors.decode()[-2000:]}")
        return took, usage.ru_maxrss / 1024

    def clear(self, image):
        run(*self.command, "rmi", "--force", image)

    def close(self):
        subprocess.run([str(c) for c in [*self.command, "system", "reset", "--force"]], capture_output=True)


class Containerd:
    name = "containerd"

    def __init__(self, work):
        self.dir = work / "containerd"
        self.dir.mkdir()
        config = self.dir / "config.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self.socket = self.dir / "containerd.sock"
        self.log = open(self.dir / "log", "w")
        self.daemon = subprocess.Popen(
            ["containerd", "--config", config, "--root", self.dir / "root", "--state", self.dir / "state", "--address",
             self.socket], stdout=self.log, stderr=self.log)
        wait("containerd", self.socket.exists)
        self.version = " ".join(run("containerd", "--version").split()[:3])

    def pull(self, image):
        forget_peak(self.daemon.pid)
        begun = time.perf_counter()
        run("ctr", "--address", self.socket, "images", "pull", "--plain-http", image)
        return time.perf_counter() - begun, peak_mb(self.daemon.pid)

    def clear(self, image):
        run("ctr", "--address", self.socket, "images", "rm", "--sync", image)

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()


def measure(binary, count):
    """Lines of a table in Markdown."""
    for program in ("mmdebstrap", "skopeo", "docker-registry"):
        if not shutil.which(program):
            raise Failure(f"{program} is not installed: run deploy/setup.sh bench")
    work = pathlib.Path(tempfile.mkdtemp(prefix="podd-pulls-"))
    closing = []
    try:
        registry = Registry(work)
        closing.append(registry)
        sizes = registry.fill(make_image(work))
        peers = [Podd(binary, work)]
        closing += peers
        for peer, program in ((Podman, "podman"), (Containerd, "ctr")):
            if shutil.which(program):
                peers.append(peer(work))
                closing.append(peers[-1])
        figures = {(peer.name, packing): [] for peer in peers for packing in PACKINGS}
        for _ in range(count):
            for packing in PACKINGS:
                for peer in peers:
                    registry.warm()
                    os.sync()
                    time.sleep(GAP)
                    figures[peer.name, packing].append(peer.pull(registry.name(packing)))
                    peer.clear(registry.name(packing))
        lines = [f"| pull of {LAYERS} layers, s (peak MB) | MB | " + " | ".join(peer.version for peer in peers) + " |",
                 "| --- |" + " --- |" * (len(peers) + 1)]
        for packing in PACKINGS:
            cells = []
            for peer in peers:
                times, peaks = zip(*figures[peer.name, packing])
                cells.append(f"{statistics.median(times):.2f} ({max(peaks):.0f})")
            lines.append(f"| {packing} | {sizes[packing] / 1e6:.0f} | " + " | ".join(cells) + " |")
        return lines
    finally:
        for one in reversed(closing):
            one.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/podd"))
    options = parser.parse_args()
    try:
        print("\n".join(measure(options.binary, options.rounds)))
    except Failure as failure:
        print(f"pulls: {failure}", file=sys.stderr)
        sys.exit(1)
