"""How fast the API answers: raw requests over the unix socket, written ahead, so that the client costs next to nothing."""

import concurrent.futures
import contextlib
import json
import selectors
import socket
import statistics
import time

NAMESPACE = "/api/v1/namespaces/default"
MAPS = NAMESPACE + "/configmaps"
# Seconds after which the agent has given back what only a burst of work needed.
SETTLED = 4


def text(method, path, body=None):
    data = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if data:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


class Wire:
    """One connection."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))
        self.rest = b""

    def whole(self):
        """The next answer, if all of it is here: (code, body)."""
        head, found, body = self.rest.partition(b"\r\n\r\n")
        if not found:
            return None
        lower = head.lower()
        if b"content-length:" not in lower:
            raise ValueError(f"an answer without a length: {head!r}")
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return None
        self.rest = body[length:]
        return int(head.split(b" ")[1]), body[:length]

    def read(self):
        part = self.sock.recv(1 << 20)
        if not part:
            raise ConnectionError("the agent closed the connection")
        self.rest += part

    def ask(self, request):
        self.sock.sendall(request)
        while (answer := self.whole()) is None:
            self.read()
        return answer


def timed(path, request, count):
    """Milliseconds of each, one after the other."""
    wire, taken = Wire(path), []
    for _ in range(count):
        begun = time.perf_counter()
        code, _ = wire.ask(request)
        taken.append((time.perf_counter() - begun) * 1000)
        if code != 200:
            raise ValueError(f"{request!r}: {code}")
    return taken


def at_once(path, requests, concurrency):
    """Requests a second, so many being answered at any time."""
    left = iter(requests)
    chooser = selectors.DefaultSelector()
    begun, done, busy = time.perf_counter(), 0, 0
    for _ in range(concurrency):
        wire = Wire(path)
        wire.sock.sendall(next(left))
        chooser.register(wire.sock, selectors.EVENT_READ, wire)
        busy += 1
    while busy:
        for key, _ in chooser.select(30) or [(None, None)]:
            if key is None:
                raise TimeoutError("no answer for 30 s")
            key.data.read()
            answer = key.data.whole()
            if answer is None:
                continue
            if answer[0] != 201:
                raise ValueError(f"{answer}")
            done += 1
            request = next(left, None)
            if request is None:
                chooser.unregister(key.fileobj)
                key.data.sock.close()
                busy -= 1
            else:
                key.data.sock.sendall(request)
    return done / (time.perf_counter() - begun)


def beginning(path, name):
    """What Kubernetes' own tests begin with, each: a namespace, its account and its authority by streaming lists, the node,
    and what might run everywhere. Milliseconds."""
    begun = time.perf_counter()
    wire = Wire(path)
    code, answer = wire.ask(text("POST", "/api/v1/namespaces", {"metadata": {"name": name}}))
    if code != 201:
        raise ValueError(f"{code} {answer}")
    for kind, wanted in (("serviceaccounts", "default"), ("configmaps", "kube-root-ca.crt")):
        watch = Wire(path)
        watch.sock.sendall(text("GET", f"/api/v1/namespaces/{name}/{kind}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true"
                                       f"&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3D{wanted}"))
        while f'"name":"{wanted}"'.encode() not in watch.rest:
            watch.read()
        watch.sock.close()
    for what in ("/api/v1/nodes", "/apis/apps/v1/daemonsets", "/apis/apps/v1/replicasets", "/api/v1/replicationcontrollers"):
        code, answer = wire.ask(text("GET", what))
        if code != 200:
            raise ValueError(f"{what}: {code} {answer}")
    wire.sock.close()
    return (time.perf_counter() - begun) * 1000


def namespaces(path, count, concurrency):
    """Milliseconds of each beginning, so many side by side."""
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        taken = list(pool.map(lambda n: beginning(path, f"test-{n}"), range(count)))
    wire = Wire(path)
    for n in range(count):
        wire.ask(text("DELETE", f"/api/v1/namespaces/test-{n}"))
    return taken


def measure(path, memory):
    """All figures; `memory` tells the agent's PSS in MB."""
    asked = Wire(path)
    maps = [text("POST", MAPS, {"metadata": {"name": f"m-{n}"}, "data": {"key": "value" * 20}}) for n in range(4000)]
    created = at_once(path, maps, 16)
    for n in range(1000):
        pod = {"metadata": {"name": f"listed-{n}", "labels": {"app": "listed"}},
               "spec": {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "x", "command": ["sleep", "1"]}]}}
        code, answer = asked.ask(text("POST", NAMESPACE + "/pods", pod))
        if code != 201:
            raise ValueError(f"{code} {answer}")
    listed = timed(path, text("GET", NAMESPACE + "/pods?labelSelector=app%3Dlisted"), 20)
    got = timed(path, text("GET", NAMESPACE + "/pods/listed-500"), 500)

    version = json.loads(asked.ask(text("GET", MAPS + "?limit=1"))[1])["metadata"]["resourceVersion"]
    time.sleep(SETTLED)
    before = memory()
    watches = []
    try:
        for _ in range(1000):
            wire = Wire(path)
            wire.sock.sendall(text("GET", f"{MAPS}?watch=true&resourceVersion={version}"))
            watches.append(wire)
        for wire in watches:
            while b"\r\n\r\n" not in wire.rest:
                wire.read()
            wire.rest = b""
        time.sleep(SETTLED)
        watching = memory() - before
        seen = []
        for n in range(5):
            begun = time.perf_counter()
            asked.ask(text("POST", MAPS, {"metadata": {"name": f"seen-{n}"}}))
            for wire in watches:
                while f'"seen-{n}"'.encode() not in wire.rest:
                    wire.read()
                wire.rest = b""
            seen.append((time.perf_counter() - begun) * 1000)
    finally:
        for wire in watches:
            with contextlib.suppress(OSError):
                wire.sock.close()
    for kind in ("pods?labelSelector=app%3Dlisted&gracePeriodSeconds=0", "configmaps"):
        code, answer = asked.ask(text("DELETE", f"{NAMESPACE}/{kind}"))
        if code != 200:
            raise ValueError(f"{code} {answer[:300]}")
    begun = namespaces(path, 300, 30)
    return [
        ("300 namespaces, 30 at a time: made, watched for their account and authority, node listed, ms (median, most)",
         f"{statistics.median(begun):.1f}, {max(begun):.1f}", "-"),
        ("LIST of 1,000 pods, ms (median, most)", f"{statistics.median(listed):.1f}, {max(listed):.1f}", "60"),
        ("GET of a pod, ms (median, 99th percentile)",
         f"{statistics.median(got):.2f}, {sorted(got)[int(len(got) * 0.99)]:.2f}", "1"),
        ("ConfigMaps created a second at concurrency 16, durable", f"{created:.0f}", "2000 or more"),
        ("1,000 idle watches, MB more of the agent's PSS", f"{watching:.1f}", "30"),
        ("a change seen by all 1,000, ms (median, most)", f"{statistics.median(seen):.1f}, {max(seen):.1f}", "100"),
    ]
