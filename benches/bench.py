#!/usr/bin/env python3
"""podd beside its peers, in one interleaved run.

Every figure is taken from outside with the same yardstick for all: a container writes a line into a named pipe of the
host as its first act, so "running" means that its own program runs, whatever an API says of it. Rounds are interleaved
(podd, podman, crun, runc, podd, ...), with an idle gap before each act, because an idle kernel is slower to start
things than a busy one. Figures are in milliseconds: median, 95th percentile, and the ratio of medians to podd's.

    make bench                      everything, about ten minutes
    benches/bench.py --rounds 5     fewer rounds
    benches/bench.py --only podd    without peers
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import platform
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import answers
import pulls

HERE = pathlib.Path(__file__).resolve().parent
GAP = 0.2
PATIENCE = 60
SCRIPT = "echo $NAME > /sync/pipe; exec sleep 100000"


class Failure(Exception):
    """A pod did not do what it was asked: the run is worth nothing."""


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket, kept open."""

    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self.request(method, path, body=data, headers=headers)
        answer = self.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.strip().startswith((b"{", b"[")) else text


class Pipe:
    """The named pipe that containers write their names to."""

    def __init__(self, directory):
        self.path = directory / "pipe"
        os.mkfifo(self.path)
        # Open for both: the pipe never sees its end.
        self.fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.rest = b""

    def line(self):
        """The next name, and when it came."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self.rest:
            if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failure("no container came up in time")
            self.rest += os.read(self.fd, 65536)
        at = time.perf_counter()
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode(), at

    def wait(self, name):
        while True:
            line, at = self.line()
            if line == name:
                return at


def volatile(work, name):
    """A directory for what lives no longer than the machine, where all of them have it by default: beneath /run."""
    directory = pathlib.Path("/run") / work.name / name
    directory.mkdir(parents=True)
    return directory


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_dead(pid):
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise Failure(f"process {pid} does not die")
        finally:
            os.close(fd)


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **options)


def sleepers(name):
    """Pids of containers' programs, found by the name in their environment."""
    found = []
    mark = f"NAME={name}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in pathlib.Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def program(name):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [p for p in sleepers(name) if b"sleep" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        if found:
            return found[0]
        time.sleep(0.005)
    raise Failure(f"no process of {name}")


class Podd:
    name = "podd"

    def __init__(self, binary, work, rootfs):
        self.dir = work / "podd"
        self.dir.mkdir()
        self.run = volatile(work, "podd")
        self.binary = binary
        self.bridge = "podd-bench"
        self.cgroup = "podd-bench"
        self.log = open(self.dir / "agent.log", "w")
        self.agent = subprocess.Popen(
            [binary, "serve", "--root", self.dir / "root", "--run-dir", self.run, "--log-dir", self.dir / "log",
             "--listen", "127.0.0.1:7445", "--bridge", self.bridge, "--pod-cidr", "10.244.248.0/22",
             "--cgroup-root", self.cgroup, "--node-name", "bench", "--eviction-hard=", "--max-restart-backoff", "1s"],
            stdout=self.log, stderr=self.log)
        self.socket = self.run / "podd.sock"
        self.local = threading.local()
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if Unix(self.socket).ask("GET", "/readyz")[0] == 200:
                    break
            if self.agent.poll() is not None or time.monotonic() > deadline:
                raise Failure("podd does not start: " + (self.dir / "agent.log").read_text()[-2000:])
            time.sleep(0.01)
        run(binary, "image", "import", rootfs, "--name", "bench/busybox:1", "--socket", self.socket)
        self.version = run(binary, "version").stdout.strip()

    def api(self):
        if not hasattr(self.local, "api"):
            self.local.api = Unix(self.socket)
        return self.local.api

    PODS = "/api/v1/namespaces/default/pods"

    def start(self, name, sync, change=None):
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "volumes": [{"name": "sync", "hostPath": {"path": str(sync)}}],
            "containers": [{"name": "c", "image": "bench/busybox:1", "command": ["sh", "-c", SCRIPT],
                            "env": [{"name": "NAME", "value": name}],
                            "volumeMounts": [{"name": "sync", "mountPath": "/sync"}]}]}}
        if change:
            change(body["spec"])
        code, answer = self.api().ask("POST", self.PODS, body)
        if code != 201:
            raise Failure(f"podd refused {name}: {code} {answer}")

    def delete(self, name):
        code, answer = self.api().ask("DELETE", f"{self.PODS}/{name}?gracePeriodSeconds=0")
        if code != 200:
            raise Failure(f"podd does not delete {name}: {code} {answer}")
        deadline = time.monotonic() + PATIENCE
        while self.api().ask("GET", f"{self.PODS}/{name}")[0] != 404:
            if time.monotonic() > deadline:
                raise Failure(f"{name} is not gone")
            time.sleep(0.0005)

    restarts = True

    def processes(self):
        """(agent and zygote, shims, infra and containers)"""
        shims, pods = [], []
        children = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            pid = int(entry)
            with contextlib.suppress(OSError):
                cgroups = pathlib.Path(f"/proc/{pid}/cgroup").read_text()
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(stat[1]), []).append(pid)
                if f"/{self.cgroup}/" in cgroups:
                    pods.append(pid)
        for directory, _, files in os.walk(self.run / "pods"):
            if "journal" in files:
                first = json.loads((pathlib.Path(directory) / "journal").read_text().split("\n", 1)[0])
                shims.append(first["fact"]["Shim"]["pid"])
        agent = [self.agent.pid] + [p for p in children.get(self.agent.pid, []) if p not in shims]
        return agent, shims, pods

    def close(self):
        with contextlib.suppress(Exception):
            _, answer = self.api().ask("GET", self.PODS)
            for item in answer["items"]:
                self.delete(item["metadata"]["name"])
        self.agent.terminate()
        self.agent.wait()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        for line in tables.splitlines():
            words = line.split()
            if len(words) == 3 and words[2].endswith(self.bridge):
                subprocess.run(["nft", "delete", *words], capture_output=True)
        subprocess.run(["find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", f"*/{self.cgroup}*", "-exec", "rmdir", "{}", "+"],
                       capture_output=True)


class Podman:
    """podman's REST service, with what podman 4.3 needs on a machine of cgroup v1 without systemd."""

    name = "podman"
    restarts = True

    def __init__(self, work, rootfs):
        self.dir = work / "podman"
        self.dir.mkdir()
        (self.dir / "networks").mkdir()
        conf = self.dir / "containers.conf"
        conf.write_text(
            '[containers]\ndefault_ulimits=["nofile=20000:20000","nproc=30000:30000"]\nlog_driver="k8s-file"\n'
            '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\nruntime="crun"\n'
            '[network]\nnetwork_backend="netavark"\n')
        policy = self.dir / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.socket = self.dir / "podman.sock"
        self.global_options = ["--root", self.dir / "root", "--runroot", volatile(work, "podman"), "--network-config-dir",
                               self.dir / "networks", "--tmpdir", self.dir / "tmp"]
        self.env = dict(os.environ, CONTAINERS_CONF=str(conf))
        # crun 1.8 refuses a hybrid hierarchy: it gets a mount namespace without the v2 part.
        inside = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\""
        self.prefix = ["unshare", "--mount", "sh", "-c", inside, "sh"]
        run(*self.prefix, "podman", *self.global_options, "import", "-c", "ENV PATH=/bin:/sbin:/usr/bin", rootfs,
            "bench/busybox:1", env=self.env)
        self.log = open(self.dir / "service.log", "w")
        self.service = subprocess.Popen(
            [str(c) for c in [*self.prefix, "podman", *self.global_options, "system", "service", "--time", "0",
                              f"unix://{self.socket}"]],
            stdout=self.log, stderr=self.log, env=self.env)
        deadline = time.monotonic() + PATIENCE
        while not self.socket.exists():
            if self.service.poll() is not None or time.monotonic() > deadline:
                raise Failure("podman does not start: " + (self.dir / "service.log").read_text()[-2000:])
            time.sleep(0.01)
        self.local = threading.local()
        self.version = run("podman", "--version").stdout.strip() + ", " + run("crun", "--version").stdout.split("\n")[0]

    def api(self):
        if not hasattr(self.local, "api"):
            self.local.api = Unix(self.socket)
        return self.local.api

    def must(self, wanted, method, path, body=None):
        code, answer = self.api().ask(method, "/v4.0.0/libpod" + path, body)
        if code not in wanted:
            log = (self.dir / "service.log").read_text()[-1500:]
            raise Failure(f"podman: {method} {path}: {code} {answer} {log}")
        return answer

    def start(self, name, sync):
        self.must([201], "POST", "/pods/create", {"name": name})
        made = self.must([201], "POST", "/containers/create", {
            "name": f"{name}-c", "pod": name, "image": "localhost/bench/busybox:1", "command": ["sh", "-c", SCRIPT],
            "env": {"NAME": name}, "restart_policy": "always",
            "mounts": [{"type": "bind", "source": str(sync), "destination": "/sync", "options": ["rw"]}]})
        self.must([204], "POST", f"/containers/{made['Id']}/start")

    def delete(self, name):
        self.must([200], "DELETE", f"/pods/{name}?force=true&timeout=0")

    def close(self):
        with contextlib.suppress(Exception):
            for pod in self.must([200], "GET", "/pods/json") or []:
                self.delete(pod["Name"])
        with contextlib.suppress(Exception):
            run(*self.prefix, "podman", *self.global_options, "system", "reset", "--force", env=self.env, timeout=60)
        self.service.terminate()
        self.service.wait()
        for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split()[4]
            if point.startswith(str(self.dir)):
                subprocess.run(["umount", "-l", point], capture_output=True)
        subprocess.run(["ip", "link", "del", "podman0"], capture_output=True)


class Oci:
    """A bare OCI runtime: no pod, no network of its own, no log, no supervisor. A bound, not a peer."""

    restarts = False

    def __init__(self, command, work, tree):
        self.name = command
        self.dir = work / command
        self.dir.mkdir()
        self.tree = tree
        self.version = run(command, "--version").stdout.split("\n")[0]
        prefix = "umount /sys/fs/cgroup/unified 2>/dev/null; " if command == "crun" else ""
        self.command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", prefix + "exec \"$@\"", "sh", command,
                        "--root", str(self.dir / "state")]
        template = self.dir / "template"
        template.mkdir()
        run("runc", "spec", cwd=template)
        self.spec = json.loads((template / "config.json").read_text())

    def start(self, name, sync):
        bundle = self.dir / name
        bundle.mkdir()
        spec = json.loads(json.dumps(self.spec))
        spec["root"] = {"path": str(self.tree), "readonly": True}
        spec["process"]["terminal"] = False
        spec["process"]["args"] = ["sh", "-c", SCRIPT]
        spec["process"]["env"].append(f"NAME={name}")
        spec["process"].pop("rlimits", None)
        spec["mounts"].append({"destination": "/sync", "type": "bind", "source": str(sync), "options": ["rbind", "rw"]})
        (bundle / "config.json").write_text(json.dumps(spec))
        null = subprocess.DEVNULL
        subprocess.run([*self.command, "run", "--detach", "--bundle", str(bundle), name], check=True, stdin=null,
                       stdout=null, stderr=open(self.dir / "errors", "a"))

    def delete(self, name):
        subprocess.run([*self.command, "delete", "--force", name], check=True, capture_output=True)

    def close(self):
        pass


def summary(values):
    values = sorted(values)
    return statistics.median(values), values[min(len(values) - 1, int(len(values) * 0.95))]


def pss(pid):
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def cpu_ns(pid):
    """Processor time of a process and all threads it ever had, in steps of a clock tick (10 ms)."""
    with contextlib.suppress(OSError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return 0


def written(pid):
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return 0


def one_life(name, start, peer, pipe):
    """A pod is started, its container killed where the peer starts it again, and it is deleted: how long each took, in
    ms; the second may be None."""
    time.sleep(GAP)
    begun = time.perf_counter()
    start()
    started = (pipe.wait(name) - begun) * 1000
    restarted = None
    if peer.restarts:
        pid = program(name)
        time.sleep(GAP)
        begun = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        restarted = (pipe.wait(name) - begun) * 1000
    pid = program(name)
    time.sleep(GAP)
    begun = time.perf_counter()
    peer.delete(name)
    wait_dead(pid)
    return started, restarted, (time.perf_counter() - begun) * 1000


def rounds(peers, count, pipe, sync):
    figures = {peer.name: {"start": [], "restart": [], "delete": []} for peer in peers}
    for number in range(count + 1):
        for peer in peers:
            name = f"{peer.name}-{number}-{uuid.uuid4().hex[:6]}"
            lives = one_life(name, lambda: peer.start(name, sync), peer, pipe)
            if number == 0:
                continue  # the first round warms caches
            for what, value in zip(("start", "restart", "delete"), lives):
                if value is not None:
                    figures[peer.name][what].append(value)
        print(f"  round {number}/{count}", file=sys.stderr)
    return figures


def without_token(spec):
    spec["automountServiceAccountToken"] = False


def ten_config_maps(spec):
    spec["volumes"] += [{"name": f"config-{n}", "configMap": {"name": f"config-{n}"}} for n in range(10)]
    spec["containers"][0]["volumeMounts"] += [{"name": f"config-{n}", "mountPath": f"/config/{n}"} for n in range(10)]


def host_port(spec):
    spec["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 18099}]


def user_namespace(spec):
    spec["hostUsers"] = False


def probed(spec):
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 10}
    spec["containers"][0].update(startupProbe=probe, livenessProbe=probe, readinessProbe=probe)


def with_sidecar(spec):
    spec["initContainers"] = [{"name": "sidecar", "image": "bench/busybox:1", "command": ["sleep", "1000000"],
                               "restartPolicy": "Always"}]


def layered_image(work, tree):
    """An archive of an image of five layers with 10,000 files, as docker saves it."""
    tars = [work / f"layer-{n}.tar" for n in range(5)]
    run("tar", "-C", tree, "-cf", tars[0], ".")
    for number, tar in enumerate(tars[1:]):
        files = work / "files"
        for n in range(2500):
            path = files / f"usr/share/{number}/{n % 50}/{n}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{n}\n" * 500)
        run("tar", "-C", files, "-cf", tar, ".")
        shutil.rmtree(files)
    config = {"architecture": pulls.architecture(), "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [
        "sha256:" + run("sha256sum", tar).stdout.split()[0] for tar in tars]}}
    (work / "config.json").write_text(json.dumps(config))
    (work / "manifest.json").write_text(json.dumps(
        [{"Config": "config.json", "RepoTags": ["bench/layers:1"], "Layers": [tar.name for tar in tars]}]))
    archive = work / "layers.tar"
    run("tar", "-C", work, "-cf", archive, "manifest.json", "config.json", *(tar.name for tar in tars))
    for tar in tars:
        tar.unlink()
    return archive


def many_layers(spec):
    spec["containers"][0]["image"] = "bench/layers:1"


LARGE = {"nothing more, once more": None, "an image of 5 layers, 10,000 files": many_layers}
EXTRAS = {"nothing more": None, "no service account token": without_token, "10 configMap volumes": ten_config_maps,
          "a hostPort": host_port, "a user namespace": user_namespace, "three probes": probed, "a sidecar": with_sidecar}


def make_config_maps(podd):
    for n in range(10):
        code, answer = podd.api().ask("POST", "/api/v1/namespaces/default/configmaps",
                                      {"metadata": {"name": f"config-{n}"}, "data": {"a": "1", "b": "2", "c": "3"}})
        if code != 201:
            raise Failure(f"no ConfigMap: {code} {answer}")


def extras(podd, changes, count, pipe, sync):
    """What each thing that a pod may have costs it: start, restart and delete, interleaved; medians in ms."""
    taken = {what: ([], [], []) for what in changes}
    for number in range(count + 1):
        for what, change in changes.items():
            name = f"extra-{number}-{uuid.uuid4().hex[:6]}"
            lives = one_life(name, lambda: podd.start(name, sync, change), podd, pipe)
            if number > 0:
                for values, value in zip(taken[what], lives):
                    values.append(value)
    return [(what, *(statistics.median(values) for values in three)) for what, three in taken.items()]


def many(peer, count, concurrency, pipe, sync):
    names = [f"many-{peer.name}-{n}" for n in range(count)]
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        starts = [pool.submit(peer.start, name, sync) for name in names]
        waiting = set(names)
        last = begun
        while waiting:
            name, last = pipe.line()
            waiting.discard(name)
        for start in starts:
            start.result()
    created = count / (last - begun)
    return names, created


def remove(peer, names, concurrency):
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        for result in [pool.submit(peer.delete, name) for name in names]:
            result.result()
    return len(names) / (time.perf_counter() - begun)


def memory(podd, pipe, sync):
    rows, names = [], []
    for target in (1, 10, 50, 100):
        while len(names) < target:
            name = f"mem-{len(names)}"
            podd.start(name, sync)
            pipe.wait(name)
            names.append(name)
        time.sleep(4)  # events are written, and what only the burst needed is given back
        agent, shims, pods = podd.processes()
        rows.append((target, sum(map(pss, shims)) / target, sum(map(pss, pods)) / target, sum(map(pss, agent)) / 1024))
    return rows, names


def idle(podd, seconds):
    time.sleep(5)
    agent, shims, pods = podd.processes()
    everyone = agent + shims + pods
    before = {pid: (cpu_ns(pid), written(pid)) for pid in everyone}
    time.sleep(seconds)
    spent = sum(cpu_ns(pid) - before[pid][0] for pid in everyone)
    wrote = sum(written(pid) - before[pid][1] for pid in everyone)
    return spent / (seconds * 1e9) * 100, wrote


def facts():
    memory_kb = next(l for l in open("/proc/meminfo") if l.startswith("MemTotal")).split()[1]
    cgroup = "v2" if pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1 hybrid"
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} x {model}, {int(memory_kb) // 1048576} GiB, kernel {platform.release()}, cgroup {cgroup}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--idle", type=int, default=30, help="seconds of idleness to measure")
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/podd"))
    parser.add_argument("--only", help="peers, separated by commas: podd,podman,crun,runc")
    parser.add_argument("--no-pulls", action="store_true", help="leave out the pulls, which have a program of their own")
    parser.add_argument("--results", default=str(HERE / "RESULTS.md"))
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else ["podd", "podman", "crun", "runc"]
    work = pathlib.Path(tempfile.mkdtemp(prefix="podd-bench-"))
    peers = []
    try:
        tree = work / "tree"
        (tree / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", tree / "bin/busybox")
        for applet in run("/bin/busybox", "--list").stdout.split():
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")
        for directory in ("proc", "sys", "dev", "tmp", "etc", "sync"):
            (tree / directory).mkdir()
        rootfs = work / "rootfs.tar"
        run("tar", "-C", tree, "-cf", rootfs, ".")
        sync = work / "sync"
        sync.mkdir()
        pipe = Pipe(sync)

        podd = Podd(options.binary, work, rootfs)
        peers.append(podd)
        for name in wanted:
            if name == "podd" or not shutil.which(name):
                continue
            peers.append(Podman(work, rootfs) if name == "podman" else Oci(name, work, tree))
        figures = rounds(peers, options.rounds, pipe, sync)
        make_config_maps(podd)
        more = extras(podd, EXTRAS, max(3, options.rounds // 2), pipe, sync)

        throughput = {}
        for peer in peers:
            if peer.restarts:
                count = options.pods if peer is podd else max(10, options.pods // 4)
                names, created = many(peer, count, 4, pipe, sync)
                throughput[peer.name] = (count, created, remove(peer, names, 4))
        sizes, names = memory(podd, pipe, sync)
        cpu, wrote = idle(podd, options.idle)
        remove(podd, names, 4)
        # Only now: what an import leaves in the agent's heap would be counted above.
        run(options.binary, "image", "import", layered_image(work, tree), "--socket", podd.socket)
        more += extras(podd, LARGE, max(3, options.rounds // 2), pipe, sync)
        api = answers.measure(podd.socket, lambda: sum(map(pss, podd.processes()[0])) / 1024)
        # What was measured by now is not lost if a pull fails; the run fails all the same.
        report(options, peers, figures, more, throughput, sizes, cpu, wrote, api, [])
        if not options.no_pulls:
            pulled = pulls.measure(options.binary, max(1, options.rounds // 4))
            report(options, peers, figures, more, throughput, sizes, cpu, wrote, api, pulled)
    finally:
        for peer in reversed(peers):
            peer.close()
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(pathlib.Path("/run") / work.name, ignore_errors=True)


def report(options, peers, figures, more, throughput, sizes, cpu, wrote, api, pulled):
    out = ["# What podd takes, beside its peers", ""]
    out.append(f"Machine: {facts()}. " + "; ".join(p.version for p in peers) + ".")
    out.append("")
    out.append(
        f"{options.rounds} rounds, interleaved, {int(GAP * 1000)} ms of idleness before each act. start: from the first byte "
        "of the request to the container's own program writing into a pipe of the host. restart: from SIGKILL of that "
        "program to the same from its successor. delete: from the request to the process dead and the name unknown. "
        "podd and podman make a pod (infra, bridge network, log); crun and runc only a container, as a bound.")
    out += ["", "| ms, median (p95) | " + " | ".join(p.name for p in peers) + " | podman / podd |",
            "| --- |" + " --- |" * (len(peers) + 1)]
    for act in ("start", "restart", "delete"):
        cells = []
        for peer in peers:
            values = figures[peer.name][act]
            cells.append("{:.1f} ({:.1f})".format(*summary(values)) if values else "-")
        ratio = "-"
        if "podman" in figures and figures["podman"][act]:
            ratio = f"{summary(figures['podman'][act])[0] / summary(figures['podd'][act])[0]:.1f}"
        out.append(f"| {act} | " + " | ".join(cells) + f" | {ratio} |")
    out += ["", "| podd, ms, median: a pod with | start | restart | delete |", "| --- | --- | --- | --- |"]
    for what, start, restart, delete in more:
        out.append(f"| {what} | {start:.1f} | {restart:.1f} | {delete:.1f} |")
    out += ["", "| 4 at a time | pods | created a second | deleted a second |", "| --- | --- | --- | --- |"]
    for name, (count, created, deleted) in throughput.items():
        out.append(f"| {name} | {count} | {created:.1f} | {deleted:.1f} |")
    out += ["", "| podd, pods | shim, kB PSS a pod | infra and container | together | agent, MB PSS |", "| --- | --- | --- | --- | --- |"]
    for target, shim, pod, agent in sizes:
        out.append(f"| {target} | {shim:.0f} | {pod:.0f} | {shim + pod:.0f} | {agent:.1f} |")
    out += ["", f"Idle for {options.idle} s with 100 pods: all of podd's processes took {cpu:.3f} % of a core and wrote "
                f"{wrote} bytes to disk.", ""]
    out += ["| podd's API over the unix socket | | asked |", "| --- | --- | --- |"]
    out += [f"| {what} | {figure} | {asked} |" for what, figure, asked in api]
    out += ["", *pulled] if pulled else []
    out.append("")
    text = "\n".join(out)
    print(text)
    pathlib.Path(options.results).write_text(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        main()
    except (Failure, pulls.Failure) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        sys.exit(1)
