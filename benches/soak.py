#!/usr/bin/env python3
"""Kill the agent, again and again, at random moments under a churn of pods; then count what is wrong.

Pods come and go all the time: some run until they are deleted, some end by themselves with an exit code known
beforehand, some crash and are started again. The agent gets SIGKILL at random moments, 200 times unless told otherwise,
and now and then a shim, an infra process or a container gets it too. What is doubled is seen from outside: two attempts
of one container with living processes at once (by their cgroups), or more lives than the restart count allows (each
life appends a line to a file of its own). In the end everything is deleted, and nothing may be left.

    make soak KILLS=200
    benches/soak.py --kills 20 --seed 7

With --steady the pods stay: one that is Ready, one that is not, one that has not Started, one whose probes have failed
and will go on to fail, each with probes that run all the time. Nothing about them may change, however often the agent
dies: not a condition, not a container's state, not even the version of the object.

    benches/soak.py --steady --kills 300
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PODS = "/api/v1/namespaces/default/pods"
PATIENCE = 90


class Wrong(Exception):
    """Something that must never be."""


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


class Agent:
    def __init__(self, binary, work, steady):
        self.binary, self.dir = binary, work
        # Names of their own: both kinds of soak may run side by side.
        self.bridge = self.cgroup = "podd-steady" if steady else "podd-soak"
        self.port, self.cidr = (7447, "10.244.236.0/22") if steady else (7446, "10.244.240.0/22")
        self.log = open(work / "agent.log", "a")
        self.child = None

    def start(self):
        self.child = subprocess.Popen(
            [self.binary, "serve", "--root", self.dir / "root", "--run-dir", self.dir / "run", "--log-dir", self.dir / "log",
             "--listen", f"127.0.0.1:{self.port}", "--bridge", self.bridge, "--pod-cidr", self.cidr,
             "--cgroup-root", self.cgroup, "--node-name", "soak", "--eviction-hard=", "--max-restart-backoff", "1s"],
            stdout=self.log, stderr=self.log)

    def ask(self, method, path, body=None):
        connection = Unix(self.dir / "run/podd.sock")
        with contextlib.closing(connection):
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, body=data, headers={"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else text

    def try_ask(self, method, path, body=None):
        """None when the agent is not there to answer."""
        try:
            return self.ask(method, path, body)
        except (OSError, http.client.HTTPException):
            return None

    def wait_ready(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.try_ask("GET", "/readyz")
            if answer and answer[0] == 200:
                return
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise Wrong("the agent does not come back: " + (self.dir / "agent.log").read_text()[-3000:])
            time.sleep(0.005)

    def kill(self):
        self.child.kill()
        self.child.wait()


def pod(name, kind, code, out):
    life = f"echo life >> /out/{name}.lives; "
    script = {
        "runs": life + "trap 'exit 0' TERM; while true; do sleep 0.2; done",
        "ends": life + f"sleep 0.{random.randint(1, 9)}; exit {code}",
        "crashes": life + f"sleep 0.{random.randint(1, 9)}; exit {code}",
    }[kind]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"kind": kind, "code": str(code)}}, "spec": {
        "restartPolicy": "Never" if kind == "ends" else "Always", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "out", "hostPath": {"path": str(out)}}, {"name": "empty", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "soak/busybox:1", "command": ["sh", "-c", script],
                        "volumeMounts": [{"name": "out", "mountPath": "/out"}, {"name": "empty", "mountPath": "/empty"}]},
                       {"name": "side", "image": "soak/busybox:1",
                        "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done"] if kind != "ends"
                        else ["true"]}]}}


def processes(cgroup):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if f"/{cgroup}/" in pathlib.Path(f"/proc/{entry}/cgroup").read_text():
                    found.append(int(entry))
    return found


def uid_of(pid):
    """The pod a process belongs to, by its cgroup."""
    with contextlib.suppress(OSError):
        found = re.search(r"/pod([0-9a-f-]{36})/", pathlib.Path(f"/proc/{pid}/cgroup").read_text())
        return found and found.group(1)
    return None


def doubled(cgroup):
    """Containers of which two attempts live at once."""
    attempts = {}
    for pid in processes(cgroup):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
                pod, _, leaf = line.rpartition("/")
                container, dash, attempt = leaf.rpartition("-")
                # A zombie has no program any more, and lives no more.
                if dash and attempt.isdigit() and os.path.exists(f"/proc/{pid}/exe"):
                    attempts.setdefault((pod.rpartition("/")[2], container), set()).add(attempt)
    return [f"{pod} {container}: attempts {sorted(found)} at once" for (pod, container), found in attempts.items() if len(found) > 1]


def lives_too_many(agent, name, out):
    """More lives than the restart count allows; the status may lag behind a life for a moment."""
    deadline = time.monotonic() + 5
    while True:
        answer = agent.try_ask("GET", f"{PODS}/{name}")
        if answer is None or answer[0] != 200:
            return None
        restarts = max((s["restartCount"] for s in answer[1].get("status", {}).get("containerStatuses", []) if s["name"] == "c"), default=0)
        lives = len((out / f"{name}.lives").read_text().splitlines()) if (out / f"{name}.lives").exists() else 0
        if lives <= restarts + 1:
            return None
        if time.monotonic() > deadline:
            return f"{name}: {lives} lives, but {restarts} restarts"
        time.sleep(0.05)


def shims(run):
    """Pids of living shims, and the uids of their pods."""
    found = []
    # Directories come and go meanwhile: os.walk passes over what is gone.
    for directory, _, files in os.walk(run / "pods"):
        if "journal" in files:
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                text = (pathlib.Path(directory) / "journal").read_text()
                pid = json.loads(text.split("\n", 1)[0])["fact"]["Shim"]["pid"]
                if os.path.exists(f"/proc/{pid}"):
                    found.append((pid, pathlib.Path(directory).parent.name))
    return found


def check(item, wrong, disturbed):
    """One pod as the API tells it, against what it was told to do."""
    labels = item["metadata"]["labels"]
    name, uid = item["metadata"]["name"], item["metadata"]["uid"]
    for status in item.get("status", {}).get("containerStatuses", []):
        for state in (status.get("state", {}), status.get("lastState", {})):
            ended = state.get("terminated")
            if not ended or status["name"] != "c":
                continue
            code, reason = ended["exitCode"], ended.get("reason")
            lost = reason == "ContainerStatusUnknown"
            if lost and not ended.get("containerID"):
                continue  # deleted before it ever ran: Kubernetes words it so too
            if lost and uid not in disturbed:
                wrong.append(f"{name}: an exit was lost although nobody killed its shim: {ended}")
            killed = (code == 137 or reason == "StartError") and (uid in disturbed or item["metadata"].get("deletionTimestamp"))
            expected = int(labels["code"]) if labels["kind"] != "runs" else 0
            if not lost and not killed and code != expected:
                wrong.append(f"{name}: exit code {code} ({reason}), not {expected}")


def left(agent):
    found = [f"process {p}" for p in processes(agent.cgroup)]
    found += [f"shim {p}" for p, _ in shims(agent.dir / "run")]
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if f" {agent.dir}/" in line]
    links = subprocess.run(["ip", "-o", "link", "show", "master", agent.bridge], capture_output=True, text=True).stdout
    found += [f"link {line}" for line in links.splitlines()]
    for part in ("root/pods", "run/pods", "log"):
        found += [f"directory {path}" for path in (agent.dir / part).glob("*")]
    cgroups = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-path", f"*/{agent.cgroup}/*pod*"],
                             capture_output=True, text=True).stdout
    found += [f"cgroup {line}" for line in cgroups.splitlines()]
    rows = subprocess.run(["sqlite3", agent.dir / "root/podd.db", "select count(*) from address"], capture_output=True, text=True)
    if rows.returncode == 0 and rows.stdout.strip() != "0":
        found.append(f"{rows.stdout.strip()} addresses")
    return found


def churn(agent, options, out):
    """Pods come and go while the agent is killed; what is wrong with them, in words."""
    wrong, disturbed, alive = [], set(), {}
    counts = {"created": 0, "deleted": 0, "agent": 0, "shim": 0, "infra or container": 0, "ends seen": 0}
    begun = time.monotonic()
    serial = 0
    while counts["agent"] < options.kills:
        until = time.monotonic() + random.uniform(0.01, 1.5)
        while time.monotonic() < until:
            if len(alive) < options.pods:
                kind = random.choice(["runs", "ends", "crashes"])
                code = 0 if kind == "runs" else random.choice([0, 1, 3, 42, 255])
                name = f"{kind}-{serial}"
                serial += 1
                made = agent.try_ask("POST", PODS, pod(name, kind, code, out))
                if made is None:
                    break
                if made[0] != 201:
                    wrong.append(f"{name} was refused: {made}")
                alive[name] = kind
                counts["created"] += 1
            elif random.random() < 0.5:
                name = random.choice(list(alive))
                answer = agent.try_ask("DELETE", f"{PODS}/{name}?gracePeriodSeconds={random.choice([0, 0, 1])}")
                if answer is None:
                    break
                if answer[0] not in (200, 404):
                    wrong.append(f"{name} is not deleted: {answer}")
                del alive[name]
                counts["deleted"] += 1
            else:
                listed = agent.try_ask("GET", PODS)
                if listed is None:
                    break
                wrong += doubled(agent.cgroup)
                for item in listed[1]["items"]:
                    check(item, wrong, disturbed)
                    if random.random() < 0.1:
                        wrong += filter(None, [lives_too_many(agent, item["metadata"]["name"], out)])
                    counts["ends seen"] += item.get("status", {}).get("phase") in ("Succeeded", "Failed")
            if random.random() < 0.02:
                victims = [(p, "shim", uid) for p, uid in shims(agent.dir / "run")]
                victims += [(p, "infra or container", uid_of(p)) for p in processes(agent.cgroup)]
                if victims:
                    pid, what, uid = random.choice(victims)
                    disturbed.add(uid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        counts[what] += 1
        agent.kill()
        counts["agent"] += 1
        agent.start()
        agent.wait_ready()
        if counts["agent"] % 20 == 0:
            print(f"  {counts['agent']} kills, {counts['created']} pods made, {len(wrong)} wrong", file=sys.stderr)

    for name in alive:
        wrong += filter(None, [lives_too_many(agent, name, out)])
    deadline = time.monotonic() + PATIENCE
    while True:
        code, listed = agent.ask("GET", PODS)
        for item in listed["items"]:
            check(item, wrong, disturbed)
        if not listed["items"]:
            break
        if time.monotonic() > deadline:
            wrong.append(f"pods that do not go: {[i['metadata']['name'] for i in listed['items']]}")
            break
        agent.ask("DELETE", PODS + "?gracePeriodSeconds=0")
        time.sleep(0.1)
    while remains := left(agent):
        if time.monotonic() > deadline:
            wrong += remains
            break
        time.sleep(0.1)
    took = time.monotonic() - begun
    print(f"soak: {took:.0f} s, " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    return wrong


def probed(name, probes):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "initContainers": [{"name": "init", "image": "soak/busybox:1", "command": ["true"]},
                           {"name": "sidecar", "image": "soak/busybox:1", "command": ["sleep", "100000"],
                            "restartPolicy": "Always", "readinessProbe": probe("true")}],
        "containers": [{"name": "c", "image": "soak/busybox:1", "command": ["sleep", "100000"], **probes}]}}


def probe(command, **more):
    return {"exec": {"command": [command]}, "periodSeconds": 1, **more}


def steady(agent, options, _out):
    """Pods in which nothing happens, while the agent is killed; what has changed all the same, in words."""
    pods = {
        "ready": {"startupProbe": probe("true"), "livenessProbe": probe("true"), "readinessProbe": probe("true")},
        "not-ready": {"livenessProbe": probe("true"), "readinessProbe": probe("false")},
        "not-started": {"startupProbe": probe("false", failureThreshold=1_000_000), "readinessProbe": probe("true")},
        "no-longer-ready": {"readinessProbe": probe("false", failureThreshold=2)},
    }
    for name, probes in pods.items():
        code, answer = agent.ask("POST", PODS, probed(name, probes))
        if code != 201:
            raise Wrong(f"{name} was refused: {answer}")

    def told():
        code, listed = agent.ask("GET", PODS)
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    def expected(pod):
        status = (pod["status"].get("containerStatuses") or [{}])[0]
        return (status.get("ready"), status.get("started")) == {
            "ready": (True, True), "not-started": (False, False)}.get(pod["metadata"]["name"], (False, True))

    deadline = time.monotonic() + PATIENCE
    while not all(expected(pod) for pod in told().values()):
        if time.monotonic() > deadline:
            raise Wrong(f"the pods do not become as they should: {told()}")
        time.sleep(0.1)
    time.sleep(3)  # every probe has run a few times: nothing is left to change
    before, begun, wrong = told(), time.monotonic(), []
    for kills in range(1, options.kills + 1):
        time.sleep(random.uniform(0, 1.5))
        agent.kill()
        agent.start()
        agent.wait_ready()
        for name, pod in told().items():
            if pod != before[name]:
                wrong.append(f"{name} has changed after {kills} kills: {pod}, before: {before[name]}")
                before[name] = pod
        if kills % 20 == 0:
            print(f"  {kills} kills, {len(wrong)} wrong", file=sys.stderr)
    time.sleep(3)  # and the last agent's probes have run, too
    wrong += [f"{name} has changed in the end: {pod}" for name, pod in told().items() if pod != before[name]]
    print(f"soak: {options.kills} kills of the agent in {time.monotonic() - begun:.0f} s under {len(before)} pods that stay as they are")
    agent.ask("DELETE", PODS + "?gracePeriodSeconds=0")
    while remains := left(agent):
        if time.monotonic() > deadline + PATIENCE + 3 * options.kills:
            return wrong + remains
        time.sleep(0.1)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--binary", default=str(HERE.parent / "target/release/podd"))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"soak: seed {options.seed}, {options.kills} kills" + ("" if options.steady else f", {options.pods} pods"))
    work = pathlib.Path(tempfile.mkdtemp(prefix="podd-soak-"))
    out = work / "out"
    out.mkdir()
    tree = work / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", tree, "-cf", work / "rootfs.tar", "."], check=True)

    agent = Agent(options.binary, work, options.steady)
    try:
        agent.start()
        agent.wait_ready()
        subprocess.run([options.binary, "image", "import", work / "rootfs.tar", "--name", "soak/busybox:1", "--socket",
                        work / "run/podd.sock"], check=True, capture_output=True)
        wrong = (steady if options.steady else churn)(agent, options, out)
        agent.child.terminate()
        agent.child.wait()
    except BaseException:
        with contextlib.suppress(Exception):
            agent.kill()
        for pid in [p for p, _ in shims(work / "run")] + processes(agent.cgroup):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    finally:
        subprocess.run(["ip", "link", "del", agent.bridge], capture_output=True)
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        for line in tables.splitlines():
            words = line.split()
            if len(words) == 3 and words[2].endswith(agent.bridge):
                subprocess.run(["nft", "delete", *words], capture_output=True)
        subprocess.run(["find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", f"*/{agent.cgroup}*", "-exec", "rmdir", "{}", "+"],
                       capture_output=True)
    if wrong:
        print("soak: WRONG:\n  " + "\n  ".join(sorted(set(wrong))[:50]))
        print(f"soak: state is kept in {work}, seed {options.seed}")
        sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)
    print("soak: nothing changed, nothing left" if options.steady else "soak: nothing doubled, no exit code wrong, nothing left")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
