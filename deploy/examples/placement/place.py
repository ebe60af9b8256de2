#!/usr/bin/env python3
"""Runs a pod on the first of several machines that has room for it.

    place.py POD.json KUBECONFIG ...

Each kubeconfig is that of one podd agent. They are asked in order of how much of their memory and processors is taken,
the emptiest first. An agent takes a pod whole or refuses it whole, in one step, so that two clients that ask at the
same time cannot both get the last place: there is no need to reserve anything, only to look at the answer and to go on
to the next agent.

The package `sdk` is what openapi-python-client makes of podd's OpenAPI document: README.md says how.
"""

import base64
import json
import ssl
import sys
import tempfile
from decimal import Decimal

import httpx
from sdk import Client
from sdk.api.core_v1 import (
    create_core_v1_namespaced_pod,
    delete_core_v1_namespaced_pod,
    list_core_v1_namespaced_pod,
    list_core_v1_node,
    list_core_v1_pod_for_all_namespaces,
)
from sdk.models import IoK8SApiCoreV1Pod

# How much each suffix of a quantity means.
UNITS = {"m": Decimal("0.001"), "": Decimal(1)}
UNITS |= {suffix: Decimal(1000) ** (n + 1) for n, suffix in enumerate(["k", "M", "G", "T", "P", "E"])}
UNITS |= {suffix: Decimal(1024) ** (n + 1) for n, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])}

# A pod that is over takes nothing.
OVER = ("Succeeded", "Failed")


def amount(quantity):
    """A Kubernetes quantity such as 500m or 2Gi, as a number."""
    digits = quantity.rstrip("kmKMGTPEi")
    return Decimal(digits) * UNITS[quantity[len(digits) :]]


def connect(kubeconfig):
    """A client with the certificate of this kubeconfig. podd writes each value of it on a line of its own."""
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


def requests_of(spec, resource):
    """What a pod asks for: its containers and sidecars together, or the most that one init container needs."""

    def request(container):
        return amount(container.get("resources", {}).get("requests", {}).get(resource, "0"))

    beside = Decimal(0)
    most = Decimal(0)
    for init in spec.get("initContainers", []):
        if init.get("restartPolicy") == "Always":
            beside += request(init)
            most = max(most, beside)
        else:
            most = max(most, beside + request(init))
    together = beside + sum(request(container) for container in spec["containers"])
    overhead = amount(spec.get("overhead", {}).get(resource, "0"))
    return max(together, most) + overhead


class Agent:
    """One machine, as it is now."""

    def __init__(self, kubeconfig):
        self.client = connect(kubeconfig)
        node = list_core_v1_node.sync(client=self.client).items[0].to_dict()
        self.name = node["metadata"]["name"]
        self.allocatable = node["status"]["allocatable"]

    def taken(self):
        """The share of its memory or processors that is taken, whichever is more."""
        pods = list_core_v1_pod_for_all_namespaces.sync(client=self.client).to_dict()["items"]
        here = [
            pod["spec"]
            for pod in pods
            if pod["spec"].get("nodeName") == self.name and pod["status"].get("phase") not in OVER
        ]
        shares = []
        for resource in ("cpu", "memory"):
            has = amount(self.allocatable[resource])
            used = sum(requests_of(spec, resource) for spec in here)
            shares.append(used / has if has else Decimal(1))
        return max(shares)

    def run(self, pod, namespace="default"):
        """Post the pod and wait: None when it runs, else why it does not. What was refused is removed again."""
        made = create_core_v1_namespaced_pod.sync(namespace, client=self.client, body=pod, field_validation="Strict")
        if not isinstance(made, IoK8SApiCoreV1Pod):
            return f"{made.reason}: {made.message}"
        status = self.settled(made, namespace)
        if status["phase"] not in OVER:
            return None
        delete_core_v1_namespaced_pod.sync(namespace, made.metadata.name, client=self.client)
        return f"{status.get('reason', status['phase'])}: {status.get('message', '')}"

    def settled(self, made, namespace):
        """The pod's status once all of it runs or nothing of it will. The generator has no words for streams of JSON."""
        request = list_core_v1_namespaced_pod._get_kwargs(
            namespace,
            watch=True,
            field_selector=f"metadata.name={made.metadata.name}",
            resource_version=made.metadata.resource_version,
        )
        with self.client.get_httpx_client().stream(**request) as events:
            for line in events.iter_lines():
                event = json.loads(line)
                status = event["object"].get("status", {})
                if event["type"] == "DELETED":
                    return {"phase": "Failed", "reason": "Deleted", "message": "somebody has deleted it meanwhile"}
                if status.get("phase") in ("Running", *OVER):
                    return status
        raise ConnectionError(f"{self.name} has ended the watch")


def main(manifest, kubeconfigs):
    with open(manifest) as text:
        pod = IoK8SApiCoreV1Pod.from_dict(json.load(text))
    agents = [Agent(kubeconfig) for kubeconfig in kubeconfigs]
    shares = [(agent.taken(), place, agent) for place, agent in enumerate(agents)]
    for taken, _, agent in sorted(shares, key=lambda entry: entry[:2]):
        why = agent.run(pod)
        if why is None:
            print(f"{pod.metadata.name} runs on {agent.name} ({taken:.0%} was taken)", flush=True)
            return 0
        print(f"{agent.name} ({taken:.0%} taken) refused: {why}", flush=True)
    print(f"no machine has room for {pod.metadata.name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
