//! Admission as a whole: each rule with its path and its exact words, the manifests it was built for, and what holds
//! for any input.

mod accounts;
mod changes;
mod decoding;
mod life;
mod manifests;
mod model;
mod placement;
mod projected;
mod properties;
mod rules;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{AdmitContext, Admitted, Fault};
use crate::model::{Timestamp, Uid};

pub(super) const UID: &str = "0b7ac2a1-6a5e-4f0e-9f5a-0d2f1f6f7a10";

pub(super) fn context() -> AdmitContext<'static> {
    AdmitContext {
        now: "2026-01-02T03:04:05.678Z".parse::<Timestamp>().expect("a time"),
        uid: Uid(UID.to_owned()),
        namespace: "default",
        name_suffix: "x7k2q",
    }
}

/// A pod in which every honoured field is set.
pub(super) fn full_pod() -> Value {
    let mut pod = full_process();
    let placed = json!({
        "schedulerName": "mine", "schedulingGates": [{"name": "example.com/wait"}],
        "readinessGates": [{"conditionType": "example.com/ready"}],
        "tolerations": [
            {"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5},
            {"operator": "Exists"},
        ],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}],
             "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["other"]}]},
        ]}}},
    });
    for (field, value) in placed.as_object().expect("an object") {
        pod["spec"][field] = value.clone();
    }
    for (field, value) in full_life().as_object().expect("an object") {
        pod["spec"]["containers"][0][field] = value.clone();
    }
    pod["spec"]["os"] = json!({"name": "linux"});
    pod["spec"]["activeDeadlineSeconds"] = json!(600);
    pod["spec"]["initContainers"] = json!([
        {"name": "first", "image": "example.com/first:1", "restartPolicy": "OnFailure"},
        {"name": "proxy", "image": "example.com/proxy:1", "restartPolicy": "Always",
            "readinessProbe": {"tcpSocket": {"port": 15000}},
            "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}},
    ]);
    pod
}

/// What happens over its time.
fn full_life() -> Value {
    json!({
        "livenessProbe": {
            "httpGet": {"port": "http", "path": "/healthz", "scheme": "HTTPS",
                "httpHeaders": [{"name": "X-Probe", "value": "yes"}]},
            "initialDelaySeconds": 2, "periodSeconds": 3, "timeoutSeconds": 4, "failureThreshold": 5,
            "terminationGracePeriodSeconds": 6,
        },
        "readinessProbe": {"grpc": {"port": 9000, "service": "web"}, "successThreshold": 2},
        "startupProbe": {"exec": {"command": ["test", "-e", "$(NAME)"]}},
        "lifecycle": {
            "postStart": {"httpGet": {"host": "10.0.0.9", "port": 81}},
            "preStop": {"sleep": {"seconds": 3}},
            "stopSignal": "SIGUSR1",
        },
        "restartPolicy": "Never", "terminationMessagePolicy": "FallbackToLogsOnError",
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
    })
}

/// The part of it that says what runs.
fn full_process() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "full", "namespace": "default",
            "labels": {"app": "web", "example.com/tier": "front"},
            "annotations": {"example.com/note": "any text at all: {}"},
        },
        "spec": {
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 7,
            "hostname": "web", "subdomain": "sub",
            "shareProcessNamespace": true,
            "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": "node-1"},
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["10.0.0.1", "2001:db8::1"], "searches": ["example.com", "_tcp.example.com."],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
            },
            "hostAliases": [{"ip": "127.0.0.2", "hostnames": ["a.example.com", "b"]}],
            "securityContext": {
                "runAsUser": 1000, "runAsGroup": 1001, "runAsNonRoot": true, "supplementalGroups": [5, 6],
                "seccompProfile": {"type": "Unconfined"},
            },
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "data", "hostPath": {"path": "/srv/data/", "type": "DirectoryOrCreate"}},
            ],
            "containers": [
                {
                    "name": "web", "image": "example.com/web:1.2", "imagePullPolicy": "Never",
                    "command": ["/bin/web", "--name=$(NAME)", "$$(NAME)"], "args": ["$(GREETING)", "$(UNKNOWN)"],
                    "workingDir": "/srv",
                    "env": [
                        {"name": "NAME", "value": "podd"}, {"name": "GREETING", "value": "hello $(NAME)"},
                        {"name": "EMPTY"},
                    ],
                    "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
                    "volumeMounts": [
                        {"name": "scratch", "mountPath": "/tmp/scratch/"},
                        {"name": "data", "mountPath": "srv//data", "subPath": "./a/b", "readOnly": true},
                    ],
                    "resources": {
                        "limits": {"cpu": "1.5", "memory": "128Mi"}, "requests": {"cpu": "250m"},
                    },
                    "securityContext": {
                        "runAsUser": 2000, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"add": ["CAP_NET_ADMIN", "sys_time"], "drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "stdin": true, "stdinOnce": true, "tty": true, "terminationMessagePath": "/var/last-words",
                },
                {"name": "side", "image": "busybox", "securityContext": {"privileged": true}},
            ],
        },
    })
}

/// The least that a pod needs.
pub(super) fn small_pod() -> Value {
    json!({
        "metadata": {"name": "small"},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.36"}]},
    })
}

pub(super) fn wire(pod: Value) -> Pod {
    serde_json::from_value(pod).expect("a pod of the right types")
}

pub(super) fn admit(pod: Value) -> Result<Admitted, Vec<Fault>> {
    super::pod(wire(pod), &context())
}

/// `field: detail` of every fault.
pub(super) fn faults(pod: Value) -> Vec<String> {
    admit(pod)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Puts `value` where a JSON pointer says, making what is missing on the way.
pub(super) fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let mut place = &mut pod;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/");
        place = match part.parse::<usize>() {
            Ok(index) => {
                if place.is_null() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().expect("a list");
                while list.len() <= index {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            Err(_) => &mut place[part],
        };
    }
    *place = value;
    pod
}
