"""A pod's life through the client that openapi-python-client makes of podd's document.

Arguments: the agent's kubeconfig, the image of the pod. The package `sdk` is on the path.
"""

import base64
import json
import ssl
import sys
import tempfile

import httpx
from sdk import Client
from sdk.api.core_v1 import (
    create_core_v1_namespaced_pod,
    delete_core_v1_namespaced_pod,
    list_core_v1_namespaced_pod,
    patch_core_v1_namespaced_pod,
    read_core_v1_namespaced_pod,
    read_core_v1_namespaced_pod_log,
)
from sdk.models import (
    IoK8SApiCoreV1Container,
    IoK8SApiCoreV1Pod,
    IoK8SApiCoreV1PodSpec,
    IoK8SApimachineryPkgApisMetaV1ObjectMeta,
    IoK8SApimachineryPkgApisMetaV1Patch,
)

NAME = "made-by-python"


def connect(kubeconfig):
    """TLS with the administrator's certificate. podd writes each value of a kubeconfig on a line of its own."""
    values = {}
    with open(kubeconfig) as lines:
        for line in lines:
            name, _, value = line.strip().lstrip("- ").partition(":")
            values.setdefault(name.strip('"'), value.strip().strip('",'))
    context = ssl.create_default_context(cadata=base64.b64decode(values["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pem:
        for field in ("client-certificate-data", "client-key-data"):
            pem.write(base64.b64decode(values[field]) + b"\n")
        pem.flush()
        context.load_cert_chain(pem.name)
    return Client(
        base_url=values["server"], verify_ssl=context, timeout=httpx.Timeout(60), raise_on_unexpected_status=True
    )


def watch(client, pod, wanted):
    """Events after this version of the pod, until one is as asked. The generator has no words for streams of JSON."""
    request = list_core_v1_namespaced_pod._get_kwargs(
        "default",
        watch=True,
        field_selector=f"metadata.name={NAME}",
        resource_version=pod.metadata.resource_version,
    )
    with client.get_httpx_client().stream(**request) as events:
        assert events.status_code == 200, events.read()
        for line in events.iter_lines():
            event = json.loads(line)
            if wanted(event["type"], IoK8SApiCoreV1Pod.from_dict(event["object"])):
                return
    raise AssertionError("the watch ended")


client = connect(sys.argv[1])
pod = IoK8SApiCoreV1Pod(
    metadata=IoK8SApimachineryPkgApisMetaV1ObjectMeta(name=NAME),
    spec=IoK8SApiCoreV1PodSpec(
        termination_grace_period_seconds=1,
        containers=[
            IoK8SApiCoreV1Container(
                name="main",
                image=sys.argv[2],
                command=["/bin/sh", "-c", "echo hello from python; exec sleep 1000"],
            )
        ],
    ),
)
made = create_core_v1_namespaced_pod.sync("default", client=client, body=pod, field_validation="Strict")
assert isinstance(made, IoK8SApiCoreV1Pod), made
again = create_core_v1_namespaced_pod.sync_detailed("default", client=client, body=pod)
assert (again.status_code, again.parsed.reason) == (409, "AlreadyExists"), again

watch(client, made, lambda _, pod: pod.status.phase == "Running")

log = read_core_v1_namespaced_pod_log.sync("default", NAME, client=client, follow=True, limit_bytes=17)
assert log == "hello from python", log

patch = IoK8SApimachineryPkgApisMetaV1Patch.from_dict({"metadata": {"labels": {"patched": "yes"}}})
# Of the kinds of patches the generator takes the last, the strategic one: of labels it is as good as any.
patched = patch_core_v1_namespaced_pod.sync("default", NAME, client=client, body=patch)
assert patched.metadata.labels["patched"] == "yes", patched
found = list_core_v1_namespaced_pod.sync("default", client=client, label_selector="patched=yes")
assert [pod.metadata.name for pod in found.items] == [NAME], found

deleted = delete_core_v1_namespaced_pod.sync("default", NAME, client=client)
watch(client, deleted, lambda kind, _: kind == "DELETED")
gone = read_core_v1_namespaced_pod.sync_detailed("default", NAME, client=client)
assert (gone.status_code, gone.parsed.reason) == (404, "NotFound"), gone
print("done")
