"""kr8s leads a pod through its life: kubeconfig, image, on the command line."""

import sys

import kr8s
from kr8s.objects import ConfigMap, Pod

kubeconfig, image = sys.argv[1:]
api = kr8s.api(kubeconfig=kubeconfig)
assert api.version()["major"] == "1"

settings = ConfigMap({"metadata": {"name": "settings", "namespace": "default"}, "data": {"color": "blue"}}, api=api)
settings.create()
settings.patch({"data": {"color": "green"}})
assert ConfigMap.get("settings", namespace="default", api=api).data.color == "green"

pod = Pod({
    "metadata": {"name": "kr8s", "namespace": "default", "labels": {"app": "kr8s"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never",
                        "command": ["sh", "-c", "echo hello; sleep 100000"]}],
    },
}, api=api)
pod.create()
pod.wait("condition=Ready", timeout=60)
# It is ready a moment before it has said anything.
assert list(pod.logs(follow=True, limit_bytes=6)) == ["hello"]
assert list(pod.logs()) == ["hello"], list(pod.logs())
assert pod.exec(["echo", "hi"]).stdout == b"hi\n"
pod.label(tier="front")
found = list(api.get("pods", namespace="default", label_selector="tier=front"))
assert [each.name for each in found] == ["kr8s"]
for kind, each in api.watch("pods", namespace="default", field_selector="metadata.name=kr8s"):
    assert kind == "ADDED" and each.name == "kr8s"
    break
pod.delete()
pod.wait("delete", timeout=60)
assert not pod.exists()
settings.delete()
print("done")
