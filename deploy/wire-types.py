#!/usr/bin/env python3
"""Write src/admit/wire/table.rs: field numbers, names and merge keys of the wire types.

    deploy/wire-types.py PROTOS DEFINITIONS > src/admit/wire/table.rs && cargo fmt

PROTOS       usr/share/gocode/src/k8s.io of Debian's packages golang-k8s-api-dev and golang-k8s-apimachinery-dev 0.36.4
             (`apt-get download`, `dpkg -x`): upstream's generated.proto files.
DEFINITIONS  kubernetes-json-schema/v1.36.0-local/_definitions.json of the Python package kubernetes-validate 1.37.0:
             upstream's OpenAPI schemas with x-kubernetes-patch-strategy and x-kubernetes-patch-merge-key.

Fails when the two disagree about a field in a way that is not known here.
"""

import glob
import json
import re
import sys

ROOTS = [
    "core.v1.Pod", "core.v1.PodTemplate", "core.v1.ConfigMap", "core.v1.Secret", "core.v1.Namespace",
    "core.v1.ServiceAccount", "core.v1.Service", "core.v1.Endpoints", "core.v1.Node", "core.v1.Event", "core.v1.Binding",
    "core.v1.ReplicationController", "discovery.v1.EndpointSlice", "events.v1.Event", "policy.v1.Eviction",
    "coordination.v1.Lease",
    "node.v1.RuntimeClass", "authorization.v1.SelfSubjectAccessReview", "authorization.v1.SelfSubjectRulesReview",
    "authorization.v1.SubjectAccessReview", "authentication.v1.SelfSubjectReview",
    "authentication.v1.TokenRequest", "authentication.v1.TokenReview", "apps.v1.Deployment", "apps.v1.ReplicaSet", "apps.v1.StatefulSet",
    "apps.v1.DaemonSet", "autoscaling.v1.Scale", "batch.v1.Job", "meta.v1.DeleteOptions",
]

# Message types that are one value in JSON.
SPECIAL = {
    "meta.v1.Time": "Time", "meta.v1.MicroTime": "MicroTime", "meta.v1.FieldsV1": "Json",
    "resource.Quantity": "Quantity", "intstr.IntOrString": "IntOrText",
    "authentication.v1.ExtraValue": "Texts", "authorization.v1.ExtraValue": "Texts",
}

# Go's embedded structs: a message of their own on the wire, their fields beside the others in JSON.
INLINE = {"localObjectReference", "ephemeralContainerCommon", "handler", "volumeSource"}

# Names that go-to-protobuf spells otherwise.
RENAMED = {("authentication.v1.BoundObjectReference", "uID"): "uid"}

# Numbers and booleans that are no pointers in Go: always on the wire, their zero stands for absent.
PLAIN = {
    "core.v1.Container": "stdin stdinOnce tty", "core.v1.EphemeralContainerCommon": "stdin stdinOnce tty",
    "core.v1.ContainerPort": "hostPort", "core.v1.PodSpec": "hostNetwork hostPID hostIPC",
    "core.v1.Probe": "initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold",
    "core.v1.ServicePort": "nodePort", "core.v1.ServiceSpec": "healthCheckNodePort publishNotReadyAddresses",
    "core.v1.NodeSpec": "unschedulable", "core.v1.Event": "count", "core.v1.EventSeries": "count",
    "core.v1.ISCSIVolumeSource": "readOnly chapAuthDiscovery chapAuthSession",
    "core.v1.GCEPersistentDiskVolumeSource": "readOnly partition",
    "core.v1.AWSElasticBlockStoreVolumeSource": "readOnly partition",
    "core.v1.ScaleIOVolumeSource": "readOnly sslEnabled", "core.v1.ContainerStateTerminated": "signal",
    "core.v1.PodCondition": "observedGeneration", "core.v1.PodStatus": "observedGeneration",
    "core.v1.ReplicationControllerSpec": "minReadySeconds", "events.v1.Event": "deprecatedCount",
    "meta.v1.ObjectMeta": "generation", "meta.v1.Condition": "observedGeneration",
    "apps.v1.DeploymentSpec": "minReadySeconds paused", "apps.v1.DaemonSetSpec": "minReadySeconds",
    "apps.v1.ReplicaSetSpec": "minReadySeconds", "apps.v1.StatefulSetSpec": "minReadySeconds",
    "apps.v1.StatefulSetOrdinals": "start",
}
POINTER_READ_ONLY = {"core.v1.CSIVolumeSource", "core.v1.AzureDiskVolumeSource"}

SCALARS = {"int32": "Integer", "int64": "Integer", "bool": "Boolean", "string": "Text", "bytes": "Bytes"}

FIELD = re.compile(r"  (optional |repeated |)(map<string, ([\w.]+)>|[\w.]+) (\w+) = (\d+);")


def short(name, package):
    """`.k8s.io.api.core.v1.Pod` as `core.v1.Pod`, and `Pod` as that of its package; scalars as they are."""
    if name in SCALARS:
        return name
    name = name[1:] if name.startswith(".") else f"{package}.{name}"
    for prefix in ("api.", "apimachinery.pkg.apis.", "apimachinery.pkg.api.", "apimachinery.pkg.util.", "apimachinery.pkg."):
        if name.startswith("k8s.io." + prefix):
            return name[len("k8s.io." + prefix):]
    return name


def long(name):
    if name.startswith("meta."):
        return "io.k8s.apimachinery.pkg.apis." + name
    return "io.k8s.api." + name


def read_protos(root):
    """Message name → its fields by number: number, name, how many (One, Many, Map), type."""
    found = {}
    for path in sorted(glob.glob(root + "/**/generated.proto", recursive=True)):
        package, fields = None, None
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        for line in lines:
            if declared := re.match(r"package ([\w.]+);", line):
                package = declared[1]
            elif message := re.match(r"message (\w+) {", line):
                fields = found.setdefault(short(message[1], package), [])
            elif field := FIELD.match(line):
                count, type_name, of_map, name, number = field.groups()
                count = "Map" if of_map else "Many" if count == "repeated " else "One"
                fields.append((int(number), name, count, short(of_map or type_name, package)))
    return {name: sorted(fields) for name, fields in found.items()}


def constant(name):
    """`core.v1.PodSpec` as `CORE_V1_POD_SPEC`."""
    group, version, kind = name.rsplit(".", 2)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind)
    return f"{group}_{version}_{words}".upper()


def main():
    protos = read_protos(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        definitions = json.load(file)["$defs"]

    reached, todo = set(), list(ROOTS)
    while todo:
        name = todo.pop()
        if name in reached or name in SPECIAL:
            continue
        reached.add(name)
        todo.extend(type_name for _, _, _, type_name in protos[name] if type_name not in SCALARS)

    def kind_of(type_name):
        if type_name in SCALARS:
            return f"Kind::{SCALARS[type_name]}"
        if type_name in SPECIAL:
            return f"Kind::{SPECIAL[type_name]}"
        return f"Kind::Message(&{constant(type_name)})"

    print("//! Made by `deploy/wire-types.py` out of upstream's `generated.proto` files and `OpenAPI` schemas: do not edit.")
    print()
    print("use super::{Kind, Message, many, map, one};")
    print()
    print("/// The kinds that are sent whole: apiVersion, kind, message.")
    print("pub(super) static ROOTS: &[(&str, &str, &Message)] = &[")
    for name in ROOTS:
        group, version, kind = name.rsplit(".", 2)
        groups = {"core": "", "meta": "", "discovery": "discovery.k8s.io/", "events": "events.k8s.io/",
                  "coordination": "coordination.k8s.io/",
                  "node": "node.k8s.io/", "authorization": "authorization.k8s.io/",
                  "authentication": "authentication.k8s.io/"}
        print(f'    ("{groups.get(group, group + "/")}{version}", "{kind}", &{constant(name)}),')
    print("];")

    for name in sorted(reached):
        properties = (definitions.get(long(name)) or {}).get("properties")
        known, lines = set(), []
        for number, field, count, type_name in protos[name]:
            field = RENAMED.get((name, field), field)
            if field in INLINE and (properties is None or field not in properties):
                lines.append(f'one({number}, "", Kind::Inline(&{constant(type_name)}))')
                known.update(inner[1] for inner in protos[type_name])
                continue
            line = f'{count.lower()}({number}, "{field}", {kind_of(type_name)})'
            if field in PLAIN.get(name, "").split() or (
                field == "readOnly" and type_name == "bool" and name not in POINTER_READ_ONLY
            ):
                line += ".plain()"
            known.add(field)
            if properties is not None and field not in properties:
                sys.exit(f"{name}.{field} is in no schema")
            schema = (properties or {}).get(field, {})
            if name == "core.v1.EphemeralContainerCommon":
                schema = definitions["io.k8s.api.core.v1.EphemeralContainer"]["properties"].get(field, {})
            if "merge" in schema.get("x-kubernetes-patch-strategy", "") and count == "Many":
                line += f'.merged("{schema.get("x-kubernetes-patch-merge-key", "")}")'
            lines.append(line)
        for field in properties or {}:
            typed = "x-kubernetes-group-version-kind" in definitions[long(name)]
            if field not in known and not (typed and field in ("apiVersion", "kind")):
                sys.exit(f"{name}.{field} is in no message")
        print()
        print(f"static {constant(name)}: Message = Message {{")
        print(f'    name: "{name}",')
        print("    fields: &[")
        for line in lines:
            print(f"        {line},")
        print("    ],")
        print("};")


main()
