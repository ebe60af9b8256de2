#!/usr/bin/env python3
"""Write src/admit/wire/table.rs: field numbers, names and merge keys of the wire types.

    deploy/wire-types.py PROTOS DEFINITIONS > src/admit/wire/table.rs && cargo fmt

PROTOS       src/v1_35 of the crate k8s-rs-pb 0.5.0 (`cargo vendor`): it carries the descriptors of upstream's
             generated.proto files.
DEFINITIONS  v1.36.0-local/_definitions.json of the Python package kubernetes-validate 1.37.0: upstream's OpenAPI
             schemas with x-kubernetes-patch-strategy and x-kubernetes-patch-merge-key.

Fails when the two disagree about a field in a way that is not known here.
"""

import glob
import json
import re
import sys

ROOTS = [
    "core.v1.Pod", "core.v1.PodTemplate", "core.v1.ConfigMap", "core.v1.Secret", "core.v1.Namespace",
    "core.v1.ServiceAccount", "core.v1.Service", "core.v1.Node", "core.v1.Event", "core.v1.Binding",
    "core.v1.ReplicationController", "events.v1.Event", "policy.v1.Eviction", "coordination.v1.Lease",
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

# Younger in one source than in the other: known to PROTOS alone (dropped, so that their numbers are unknown fields),
# and known to DEFINITIONS alone.
GONE = {("core.v1.PodSpec", "workloadRef")}
YOUNG = {
    ("core.v1.PodSpec", "schedulingGroup"), ("core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses"),
    ("core.v1.ResourceHealth", "message"), ("core.v1.VolumeMountStatus", "volumeStatus"),
}

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

SCALARS = {3: "Integer", 5: "Integer", 8: "Boolean", 9: "Text", 12: "Bytes"}
MESSAGE = 11


def unescape(text):
    """The bytes of a Rust byte string literal."""
    out, i = bytearray(), 0
    plain = {"n": 10, "r": 13, "t": 9, "\\": 92, '"': 34, "'": 39, "0": 0}
    while i < len(text):
        if text[i] != "\\":
            out.append(ord(text[i]))
            i += 1
        elif text[i + 1] == "x":
            out.append(int(text[i + 2:i + 4], 16))
            i += 4
        elif text[i + 1] == "\n":
            i += 2
            while i < len(text) and text[i] in " \t\n":
                i += 1
        else:
            out.append(plain[text[i + 1]])
            i += 2
    return bytes(out)


def varint(data, i):
    value = shift = 0
    while True:
        byte = data[i]
        i += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, i


def fields(data):
    i = 0
    while i < len(data):
        key, i = varint(data, i)
        if key & 7 == 0:
            value, i = varint(data, i)
        elif key & 7 == 2:
            length, i = varint(data, i)
            value = data[i:i + length]
            i += length
        else:
            sys.exit(f"wire type {key & 7} in a descriptor")
        yield key >> 3, value


def short(name):
    """`api.core.v1.Pod` as `core.v1.Pod`."""
    for prefix in ("api.", "apimachinery.pkg.apis.", "apimachinery.pkg.api.", "apimachinery.pkg.util.", "apimachinery.pkg."):
        if name.startswith(prefix):
            return name[len(prefix):]
    return name


def long(name):
    if name.startswith("meta."):
        return "io.k8s.apimachinery.pkg.apis." + name
    return "io.k8s.api." + name


def read_protos(root):
    """Message name → (is it a map's entry, its fields: number, name, repeated?, type, type name)."""
    found = {}

    def message(data, scope):
        parts = list(fields(data))
        full = scope + "." + next(v for n, v in parts if n == 1).decode()
        own, entry = [], False
        for number, value in parts:
            if number == 2:
                field = dict(fields(value))
                type_name = short(field.get(6, b"").decode().lstrip("."))
                own.append((field[3], field[1].decode(), field[4] == 3, field[5], type_name))
            elif number == 3:
                message(value, full)
            elif number == 7:
                entry = dict(fields(value)).get(7) == 1
        found[short(full)] = (entry, sorted(own))

    for path in sorted(glob.glob(root + "/**/mod.rs", recursive=True)):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        literal = re.search(r"file_descriptor_proto_data: &'static \[u8\] = b\"(.*?)(?<!\\)\";", text, re.S)
        if not literal:
            continue
        parts = list(fields(unescape(literal.group(1))))
        package = next(v for n, v in parts if n == 2).decode()
        for number, value in parts:
            if number == 4:
                message(value, package)
    return found


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
        for _, field, _, kind, type_name in protos[name][1]:
            if kind == MESSAGE and (name, field) not in GONE:
                entry, inner = protos[type_name]
                type_name = inner[1][4] if entry else type_name
                if type_name:
                    todo.append(type_name)

    def kind_of(kind, type_name):
        if kind != MESSAGE:
            return f"Kind::{SCALARS[kind]}"
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
        groups = {"core": "", "meta": "", "events": "events.k8s.io/", "coordination": "coordination.k8s.io/",
                  "node": "node.k8s.io/", "authorization": "authorization.k8s.io/",
                  "authentication": "authentication.k8s.io/"}
        print(f'    ("{groups.get(group, group + "/")}{version}", "{kind}", &{constant(name)}),')
    print("];")

    for name in sorted(reached):
        properties = (definitions.get(long(name)) or {}).get("properties")
        known, lines = set(), []
        for number, field, repeated, kind, type_name in protos[name][1]:
            if (name, field) in GONE:
                continue
            field = RENAMED.get((name, field), field)
            if kind == MESSAGE and protos[type_name][0]:
                value = protos[type_name][1][1]
                line = f'map({number}, "{field}", {kind_of(value[3], value[4])})'
            elif field in INLINE and (properties is None or field not in properties):
                line = f'one({number}, "", Kind::Inline(&{constant(type_name)}))'
                known.update(f[1] for f in protos[type_name][1])
                lines.append(line)
                continue
            else:
                line = f'{"many" if repeated else "one"}({number}, "{field}", {kind_of(kind, type_name)})'
            if field in PLAIN.get(name, "").split() or (
                field == "readOnly" and kind == 8 and name not in POINTER_READ_ONLY
            ):
                line += ".plain()"
            known.add(field)
            if properties is not None and field not in properties:
                sys.exit(f"{name}.{field} is in no schema")
            schema = (properties or {}).get(field, {})
            if name == "core.v1.EphemeralContainerCommon":
                schema = definitions["io.k8s.api.core.v1.EphemeralContainer"]["properties"].get(field, {})
            if "merge" in schema.get("x-kubernetes-patch-strategy", "") and repeated:
                line += f'.merged("{schema.get("x-kubernetes-patch-merge-key", "")}")'
            lines.append(line)
        for field in properties or {}:
            typed = "x-kubernetes-group-version-kind" in definitions[long(name)]
            young = (name, field) in YOUNG or (typed and field in ("apiVersion", "kind"))
            if field not in known and not young:
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
