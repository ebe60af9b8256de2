"""The official Python client leads a pod through its life: kubeconfig, image, on the command line."""

import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

kubeconfig, image = sys.argv[1:]
config.load_kube_config(kubeconfig)
core = client.CoreV1Api()
server = client.VersionApi().get_code()
assert server.major == "1", server

core.create_namespace({"metadata": {"name": "team"}})
core.create_namespaced_config_map("team", {"metadata": {"name": "settings"}, "data": {"color": "blue"}})
core.patch_namespaced_config_map("settings", "team", {"data": {"color": None, "size": "7"}})
assert core.read_namespaced_config_map("settings", "team").data == {"size": "7"}
core.create_namespaced_secret("team", {"metadata": {"name": "door"}, "stringData": {"key": "sesame"}})
assert core.read_namespaced_secret("door", "team").data == {"key": "c2VzYW1l"}

pod = {
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "Never",
            "command": ["sh", "-c", "echo hello; mkdir /www; echo page > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"],
        }],
    },
}
made = core.create_namespaced_pod("team", pod)
assert made.status.phase == "Pending", made.status
seen = watch.Watch()
for event in seen.stream(core.list_namespaced_pod, "team", field_selector="metadata.name=web", timeout_seconds=60):
    if any(c.type == "Ready" and c.status == "True" for c in event["object"].status.conditions or []):
        break
else:
    raise AssertionError("it is not ready in time")
# It is ready a moment before it has said anything.
assert core.read_namespaced_pod_log("web", "team", follow=True, limit_bytes=6) == "hello\n"
assert core.read_namespaced_pod_log("web", "team") == "hello\n"
assert core.list_namespaced_pod("team", label_selector="app=web").items[0].metadata.name == "web"

assert stream(core.connect_get_namespaced_pod_exec, "web", "team", command=["echo", "hi"], stderr=True, stdin=False,
              stdout=True, tty=False) == "hi\n"
told = stream(core.connect_get_namespaced_pod_exec, "web", "team", command=["sh", "-c", "read x; echo got $x; exit 3"],
              stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
told.write_stdin("this\n")
told.run_forever(timeout=30)
assert told.read_stdout() == "got this\n" and told.returncode == 3
forward = portforward(core.connect_get_namespaced_pod_portforward, "web", "team", ports="8080")
sock = forward.socket(8080)
sock.setblocking(True)
sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
page = b""
while part := sock.recv(4096):
    page += part
assert page.endswith(b"page\n"), page

core.patch_namespaced_pod("web", "team", {"metadata": {"labels": {"tier": "front"}}})
core.patch_namespaced_pod("web", "team", [{"op": "remove", "path": "/metadata/labels/tier"}])
assert core.read_namespaced_pod("web", "team").metadata.labels == {"app": "web"}
whole = core.read_namespaced_pod("web", "team")
whole.metadata.annotations = {"note": "replaced"}
core.replace_namespaced_pod("web", "team", whole)
try:
    core.replace_namespaced_pod("web", "team", whole)
except ApiException as error:
    assert error.status == 409, error
else:
    raise AssertionError("a stale version was taken")

pods = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="Pod")
assert pods.get(name="web", namespace="team").metadata.annotations.note == "replaced"

core.delete_namespaced_pod("web", "team")
for event in watch.Watch().stream(core.list_namespaced_pod, "team", timeout_seconds=60):
    if event["type"] == "DELETED":
        break
core.delete_namespace("team")
try:
    while True:
        core.read_namespace("team")
except ApiException as error:
    assert error.status == 404, error
print("done")
