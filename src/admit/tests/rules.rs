//! One row for each rule: what is put where, and exactly what is said.

use serde_json::{Value, json};

use super::{admit, faults, full_pod, small_pod, with};
use crate::admit::FaultReason;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Each row on its own, put into the smallest pod, gives exactly these faults.
fn check(rows: Vec<(&str, Value, Vec<String>)>) {
    for (pointer, value, expected) in rows {
        let pod = with(small_pod(), pointer, value.clone());
        assert_eq!(faults(pod), expected, "{pointer} = {value}");
    }
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

#[test]
fn a_full_and_a_small_pod_are_admitted() {
    assert_eq!(faults(full_pod()), Vec::<String>::new());
    assert_eq!(faults(small_pod()), Vec::<String>::new());
    assert_eq!(admit(full_pod()).expect("admitted").warnings, Vec::<String>::new());
}

#[test]
fn metadata() {
    check(vec![
        (
            "/metadata",
            json!({}),
            one("metadata.name: Required value: name or generateName is required"),
        ),
        (
            "/metadata/name",
            json!("Bad_Name"),
            vec![format!("metadata.name: Invalid value: \"Bad_Name\": {SUBDOMAIN}")],
        ),
        (
            "/metadata/name",
            json!("../etc"),
            vec![format!("metadata.name: Invalid value: \"../etc\": {SUBDOMAIN}")],
        ),
        (
            "/metadata/name",
            json!("a".repeat(254)),
            vec![format!(
                "metadata.name: Invalid value: {:?}: must be no more than 253 bytes",
                "a".repeat(254)
            )],
        ),
        (
            "/metadata/name",
            json!("a".repeat(211)),
            vec![format!(
                "metadata.name: Invalid value: {:?}: must be no more than 210 bytes in this namespace: podd's log \
                 directory bears both names",
                "a".repeat(211)
            )],
        ),
        (
            "/metadata/namespace",
            json!("other"),
            one(
                "metadata.namespace: Invalid value: \"other\": the namespace of the provided object does not match \
                 the namespace sent on the request (\"default\")",
            ),
        ),
        (
            "/metadata/generateName",
            json!("Web-"),
            vec![format!("metadata.generateName: Invalid value: \"Web-\": {SUBDOMAIN}")],
        ),
        (
            "/metadata/labels",
            json!({"a b": "x"}),
            one(
                "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', \
                 '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  \
                 or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ),
        (
            "/metadata/labels",
            json!({"a": "b c"}),
            one(
                "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
                 (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
                 '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
        ),
        (
            "/metadata/annotations",
            json!({"a": "x".repeat(256 * 1024)}),
            one("metadata.annotations: Too long: may not be more than 262144 bytes"),
        ),
        ("/metadata/annotations", json!({"example.com/A_b": "x\ny"}), vec![]),
        ("/metadata/labels", json!({"a": ""}), vec![]),
        ("/metadata/generateName", json!("web-"), vec![]),
    ]);
}

#[test]
fn generated_names_and_what_the_server_says() {
    let mut pod = with(
        small_pod(),
        "/metadata",
        json!({"generateName": "web-", "uid": "mine", "generation": 9,
        "resourceVersion": "5", "selfLink": "/x", "creationTimestamp": "2020-01-01T00:00:00Z",
        "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3,
        "managedFields": [{"manager": "m"}]}),
    );
    pod["status"] = json!({"phase": "Running"});
    let admitted = admit(pod).expect("admitted").pod;
    assert_eq!(
        serde_json::to_value(&admitted.metadata).expect("JSON"),
        json!({"name": "web-x7k2q", "generateName": "web-", "namespace": "default", "uid": super::UID,
            "generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"})
    );
    assert_eq!(admitted.status, None);
    // Binding is the scheduler's affair.
    assert_eq!(admitted.spec.expect("a spec").node_name, None);

    let long = with(small_pod(), "/metadata", json!({"generateName": "a".repeat(100)}));
    let name = admit(long).expect("admitted").pod.metadata.name.expect("a name");
    assert_eq!(name, format!("{}x7k2q", "a".repeat(58)));
}

#[test]
fn containers() {
    let at = "/spec/containers/0";
    let c = |field: &str| format!("{at}/{field}");
    let rows: Vec<(String, Value, Vec<String>)> = vec![
        (
            "/spec/containers".into(),
            json!([]),
            one("spec.containers: Required value"),
        ),
        ("/spec".into(), json!({}), one("spec.containers: Required value")),
        (c("name"), json!(""), one("spec.containers[0].name: Required value")),
        (
            c("name"),
            json!("A"),
            vec![format!("spec.containers[0].name: Invalid value: \"A\": {LABEL}")],
        ),
        (
            c("name"),
            json!("a.b"),
            one("spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"),
        ),
        (
            c("name"),
            json!(".."),
            vec![format!("spec.containers[0].name: Invalid value: \"..\": {LABEL}")],
        ),
        (
            "/spec/containers/1".into(),
            json!({"name": "c", "image": "x"}),
            one("spec.containers[1].name: Duplicate value: \"c\""),
        ),
        (c("image"), json!(""), one("spec.containers[0].image: Required value")),
        (
            c("image"),
            json!(" nginx"),
            one("spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace"),
        ),
        (
            c("image"),
            json!("ngi nx"),
            one("spec.containers[0].image: Invalid value: \"ngi nx\": must not contain whitespace"),
        ),
        (
            c("imagePullPolicy"),
            json!("Sometimes"),
            one(
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\"",
            ),
        ),
        (
            c("command"),
            json!(["sh", "a\u{0}b"]),
            one("spec.containers[0].command[1]: Invalid value: \"a\\0b\": must not contain a NUL character"),
        ),
        (
            c("workingDir"),
            json!("srv"),
            one("spec.containers[0].workingDir: Invalid value: \"srv\": must be an absolute path"),
        ),
        (
            c("terminationMessagePath"),
            json!("/a/../b"),
            one("spec.containers[0].terminationMessagePath: Invalid value: \"/a/../b\": must not contain '..'"),
        ),
        (
            c("terminationMessagePolicy"),
            json!("Never"),
            one(
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Never\": supported values: \
                 \"FallbackToLogsOnError\", \"File\"",
            ),
        ),
        (
            c("ports"),
            json!([{}]),
            one("spec.containers[0].ports[0].containerPort: Required value"),
        ),
        (
            c("ports"),
            json!([{"containerPort": 65_536}, {"containerPort": -1}]),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, \
                 inclusive"
                    .into(),
                "spec.containers[0].ports[1].containerPort: Invalid value: -1: must be between 1 and 65535, inclusive"
                    .into(),
            ],
        ),
        (
            c("ports"),
            json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a", "protocol": "ICMP"}]),
            vec![
                "spec.containers[0].ports[1].name: Duplicate value: \"a\"".into(),
                "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\""
                    .into(),
            ],
        ),
        (
            c("ports"),
            json!([{"containerPort": 1, "name": "-8080--is-much-too-long"}]),
            vec![
                "spec.containers[0].ports[0].name: Invalid value: \"-8080--is-much-too-long\": must be no more than \
                 15 bytes"
                    .into(),
                "spec.containers[0].ports[0].name: Invalid value: \"-8080--is-much-too-long\": must not contain \
                 consecutive hyphens"
                    .into(),
                "spec.containers[0].ports[0].name: Invalid value: \"-8080--is-much-too-long\": must not begin or end \
                 with a hyphen"
                    .into(),
            ],
        ),
        (
            c("env"),
            json!([{"value": "x"}]),
            one("spec.containers[0].env[0].name: Required value"),
        ),
        (
            c("env"),
            json!([{"name": "A=B"}]),
            one(
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must \
                 consist only of printable ASCII characters other than '='",
            ),
        ),
        (c("env"), json!([{"name": "my.env-name 1"}]), vec![]),
        (
            c("env"),
            json!([{"name": "A", "value": "x\u{0}"}]),
            one("spec.containers[0].env[0].value: Invalid value: \"x\\0\": must not contain a NUL character"),
        ),
    ];
    check(
        rows.iter()
            .map(|(p, v, e)| (p.as_str(), v.clone(), e.clone()))
            .collect(),
    );
}

#[test]
fn mounts_and_volumes() {
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    for (mounts, expected) in [
        (json!([{"name": "v", "mountPath": "/a"}]), vec![]),
        (
            json!([{"name": "w", "mountPath": "/a"}]),
            one("spec.containers[0].volumeMounts[0].name: Not found: \"w\""),
        ),
        (
            json!([{}]),
            vec![
                "spec.containers[0].volumeMounts[0].name: Required value".to_owned(),
                "spec.containers[0].volumeMounts[0].mountPath: Required value".to_owned(),
            ],
        ),
        (
            json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a/"}]),
            one("spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a/\": must be unique"),
        ),
        (
            json!([{"name": "v", "mountPath": "//."}]),
            one(
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"//.\": must not be the root of the \
                 container",
            ),
        ),
        (
            json!([{"name": "v", "mountPath": "/a/../../etc"}]),
            one("spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a/../../etc\": must not contain '..'"),
        ),
        (
            json!([{"name": "v", "mountPath": "/a", "subPath": "../x"}]),
            one("spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'"),
        ),
        (
            json!([{"name": "v", "mountPath": "/a", "subPath": "/x"}]),
            one("spec.containers[0].volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path"),
        ),
        (
            json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Sideways"}]),
            one(
                "spec.containers[0].volumeMounts[0].mountPropagation: Unsupported value: \"Sideways\": supported \
                 values: \"Bidirectional\", \"HostToContainer\", \"None\"",
            ),
        ),
    ] {
        let pod = with(small_pod(), "/spec/volumes", volumes.clone());
        assert_eq!(
            faults(with(pod, "/spec/containers/0/volumeMounts", mounts.clone())),
            expected,
            "{mounts}"
        );
    }
    check(vec![
        (
            "/spec/volumes",
            json!([{"name": "v"}]),
            one("spec.volumes[0]: Required value: must specify a volume type"),
        ),
        (
            "/spec/volumes",
            json!([{"emptyDir": {}}]),
            one("spec.volumes[0].name: Required value"),
        ),
        (
            "/spec/volumes",
            json!([{"name": "v.w", "emptyDir": {}}]),
            one("spec.volumes[0].name: Invalid value: \"v.w\": must not contain dots"),
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]),
            one("spec.volumes[1].name: Duplicate value: \"v\""),
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}]),
            one("spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {"medium": "Disk", "sizeLimit": "-1"}}]),
            vec![
                "spec.volumes[0].emptyDir.medium: Unsupported value: \"Disk\": supported values: \"\", \"Memory\""
                    .to_owned(),
                "spec.volumes[0].emptyDir.sizeLimit: Invalid value: \"-1\": must be greater than or equal to 0"
                    .to_owned(),
            ],
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "image": {"pullPolicy": "Sometimes"}}]),
            vec![
                "spec.volumes[0].image.reference: Required value".to_owned(),
                "spec.volumes[0].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\""
                    .to_owned(),
            ],
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {}}]),
            one("spec.volumes[0].hostPath.path: Required value"),
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "data/../x", "type": "Folder"}}]),
            vec![
                "spec.volumes[0].hostPath.path: Invalid value: \"data/../x\": must be an absolute path".to_owned(),
                "spec.volumes[0].hostPath.path: Invalid value: \"data/../x\": must not contain '..'".to_owned(),
                "spec.volumes[0].hostPath.type: Unsupported value: \"Folder\": supported values: \"\", \
                 \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \
                 \"Socket\""
                    .to_owned(),
            ],
        ),
    ]);
}

#[test]
fn a_wildcard_in_a_mount_path_is_legal_and_remarked_upon() {
    let pod = with(small_pod(), "/spec/volumes", json!([{"name": "v", "emptyDir": {}}]));
    let mounts = json!([{"name": "v", "mountPath": "/root/apache-*/webapps"}]);
    let warnings = admit(with(pod, "/spec/containers/0/volumeMounts", mounts))
        .expect("admitted")
        .warnings;
    assert_eq!(
        warnings,
        [
            "spec.containers[0].volumeMounts[0].mountPath: \"/root/apache-*/webapps\" is taken as it stands: podd does \
          not expand wildcards in a mountPath"
        ]
    );
}

#[test]
fn resources() {
    let at = "/spec/containers/0/resources";
    let bad = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    check(vec![
        (
            at,
            json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1G"}}),
            vec![],
        ),
        (
            at,
            json!({"limits": {"cpu": "1x"}, "requests": {"cpu": "1"}}),
            vec![format!(
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"1x\": {bad}"
            )],
        ),
        (
            at,
            json!({"limits": {"memory": "-1Mi"}, "requests": {"memory": "0"}}),
            vec![
                "spec.containers[0].resources.limits[memory]: Invalid value: \"-1Mi\": must be greater than or equal \
                 to 0"
                    .to_owned(),
            ],
        ),
        (
            at,
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1001m"}}),
            one(
                "spec.containers[0].resources.requests: Invalid value: \"1001m\": must be less than or equal to cpu \
                 limit of 1",
            ),
        ),
        (
            at,
            json!({"requests": {"disk": "1"}}),
            one(
                "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource \
                 for containers",
            ),
        ),
        (
            at,
            json!({"limits": {"memroy": "1Gi"}}),
            one(
                "spec.containers[0].resources.limits[memroy]: Invalid value: \"memroy\": must be a standard resource \
                 for containers, did you mean \"memory\"?",
            ),
        ),
        (
            at,
            json!({"requests": {"nvidia.com/gpu": "1"}}),
            one(
                "spec.containers[0].resources.requests[nvidia.com/gpu]: Forbidden: podd does not support extended \
                 resources yet",
            ),
        ),
        (
            at,
            json!({"requests": {"cpu": "1", "hugepages-2Mi": "2Mi"}}),
            one(
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable \
                 resources",
            ),
        ),
        (
            at,
            json!({"limits": {"hugepages-2Mi": "2Mi"}}),
            one("spec.containers[0].resources: Forbidden: HugePages require cpu or memory"),
        ),
        (
            at,
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "3Mi"}}),
            one(
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive \
                 integer multiple of hugepages-2Mi",
            ),
        ),
        (
            at,
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}),
            one(
                "spec.containers[0].resources.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi limit \
                 of 4Mi",
            ),
        ),
    ]);
    let fractional = json!({"requests": {"memory": "100m", "ephemeral-storage": "1Gi"}});
    assert_eq!(
        admit(with(small_pod(), at, fractional)).expect("admitted").warnings,
        [
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an \
             integer",
        ]
    );
}

#[test]
fn what_a_pod_leaves_out_of_its_own_resources_comes_from_its_containers_or_its_limits() {
    let of = |whole: serde_json::Value, part: serde_json::Value| {
        let pod = with(small_pod(), "/spec/containers/0/resources", part);
        let admitted = admit(with(pod, "/spec/resources", whole)).expect("admitted").pod;
        serde_json::to_value(admitted.spec.expect("a spec").resources).expect("JSON")
    };
    assert_eq!(
        of(
            json!({"limits": {"cpu": "2", "memory": "1Gi"}}),
            json!({"requests": {"cpu": "100m"}})
        ),
        json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}})
    );
    assert_eq!(
        of(
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}),
            json!({"limits": {"cpu": "500m", "hugepages-2Mi": "4Mi"}})
        ),
        json!({
            "limits": {"cpu": "2", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "1", "hugepages-2Mi": "4Mi"},
        })
    );
    let pages = |whole: &str| json!({"limits": {"cpu": "2", "hugepages-2Mi": whole}});
    let part = json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}});
    let pod = with(small_pod(), "/spec/containers/0/resources", part);
    let faults = admit(with(pod, "/spec/resources", pages("2Mi"))).expect_err("refused");
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "spec.resources.requests[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater than or equal to \
             aggregate container requests of 4Mi",
            "spec.resources.limits[hugepages-2Mi]: Invalid value: \"2Mi\": must be greater than or equal to \
             aggregate container limits of 4Mi",
            "spec.resources.containers[0].resources[hugepages-2Mi].limits: Invalid value: \"4Mi\": must be less than or \
             equal to pod limits of 2Mi",
        ]
    );
}

#[test]
fn the_pod_itself() {
    check(vec![
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            one(
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \
                 \"Never\"",
            ),
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            one("spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0"),
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(i64::MAX),
            one(
                "spec.terminationGracePeriodSeconds: Invalid value: 9223372036854775807: must be between 0 and \
                 2147483647, inclusive",
            ),
        ),
        (
            "/spec/dnsPolicy",
            json!("Cluster"),
            one(
                "spec.dnsPolicy: Unsupported value: \"Cluster\": supported values: \"ClusterFirstWithHostNet\", \
                 \"ClusterFirst\", \"Default\", \"None\"",
            ),
        ),
        (
            "/spec/dnsPolicy",
            json!("None"),
            one("spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
        ),
        (
            "/spec/dnsConfig",
            json!({"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "x"], "searches": ["a_b.c.", "."],
                "options": [{"value": "x"}, {"name": "a b"}]}),
            vec![
                "spec.dnsConfig.nameservers: Invalid value: [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\", \"x\"]: must \
                 not have more than 3 nameservers"
                    .to_owned(),
                "spec.dnsConfig.nameservers[3]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)"
                    .to_owned(),
                "spec.dnsConfig.options[0]: Required value: must not be empty".to_owned(),
                "spec.dnsConfig.options[1].name: Invalid value: \"a b\": must not contain whitespace".to_owned(),
            ],
        ),
        (
            "/spec/dnsConfig",
            json!({"searches": ["-x"]}),
            vec![format!(
                "spec.dnsConfig.searches[0]: Invalid value: \"-x\": {SUBDOMAIN}"
            )],
        ),
        (
            "/spec/hostname",
            json!("a.b"),
            one("spec.hostname: Invalid value: \"a.b\": must not contain dots"),
        ),
        (
            "/spec/subdomain",
            json!("A"),
            vec![format!("spec.subdomain: Invalid value: \"A\": {LABEL}")],
        ),
        (
            "/spec/hostnameOverride",
            json!("a".repeat(65)),
            one("spec.hostnameOverride: Too long: may not be more than 64 bytes"),
        ),
        (
            "/spec/hostAliases",
            json!([{"ip": "1.2.3", "hostnames": ["a\nb"]}]),
            vec![
                "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)"
                    .to_owned(),
                format!("spec.hostAliases[0].hostnames: Invalid value: \"a\\nb\": {SUBDOMAIN}"),
            ],
        ),
        (
            "/spec/nodeName",
            json!("Node_2"),
            vec![format!("spec.nodeName: Invalid value: \"Node_2\": {SUBDOMAIN}")],
        ),
        (
            "/spec/os",
            json!({"name": "windows"}),
            one("spec.os.name: Unsupported value: \"windows\": supported values: \"linux\""),
        ),
    ]);
}

#[test]
fn host_network() {
    let pod = with(small_pod(), "/spec/hostNetwork", json!(true));
    let ports = |ports: Value| with(pod.clone(), "/spec/containers/0/ports", ports);
    let admitted = admit(ports(json!([{"containerPort": 80}]))).expect("admitted").pod;
    let port = &admitted.spec.expect("a spec").containers[0]
        .ports
        .clone()
        .expect("ports")[0];
    assert_eq!(port.host_port, Some(80));
    assert_eq!(
        faults(ports(json!([{"containerPort": 80, "hostPort": 81}]))),
        [
            "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is \
          true"
        ]
    );
    assert_eq!(
        faults(ports(json!([{"containerPort": 80}, {"containerPort": 80}]))),
        ["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""]
    );
    assert_eq!(
        faults(with(pod, "/spec/hostnameOverride", json!("x"))),
        ["spec.hostnameOverride: Forbidden: may not be set when hostNetwork is true"]
    );
}

#[test]
fn host_ports() {
    let ports = |ports: Value| with(small_pod(), "/spec/containers/0/ports", ports);
    let admitted = admit(ports(json!([
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8080, "protocol": "UDP"},
        {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
        {"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1", "protocol": "SCTP"},
        {"containerPort": 81, "hostIP": "192.0.2.1"},
    ])));
    assert_eq!(admitted.expect("admitted").warnings, Vec::<String>::new());
    let range = "must be between 1 and 65535, inclusive";
    let at = "spec.containers[0].ports";
    assert_eq!(
        faults(ports(json!([
            {"containerPort": 80, "hostPort": 65_536},
            {"containerPort": 80, "hostPort": -1},
            {"containerPort": 80, "hostPort": 80, "hostIP": "1.2.3"},
            {"containerPort": 81, "hostPort": 8080},
            {"containerPort": 82, "hostPort": 8080, "protocol": "TCP"},
        ]))),
        [
            format!("{at}[0].hostPort: Invalid value: 65536: {range}"),
            format!("{at}[1].hostPort: Invalid value: -1: {range}"),
            format!(
                "{at}[2].hostIP: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)"
            ),
            format!("{at}[4].hostPort: Duplicate value: \"TCP//8080\""),
        ]
    );
    // Two containers of one pod cannot have one port, nor can one that comes before them have it twice.
    let two = with(
        ports(json!([{"containerPort": 80, "hostPort": 8080}])),
        "/spec/containers/1",
        json!({"name": "second", "image": "b", "ports": [{"containerPort": 90, "hostPort": 8080}]}),
    );
    assert_eq!(
        faults(two),
        ["spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//8080\""]
    );
}

#[test]
fn security_contexts() {
    let range = "must be between 0 and 2147483647, inclusive";
    let at = "/spec/containers/0/securityContext";
    check(vec![
        (
            "/spec/securityContext",
            json!({"runAsUser": -1, "runAsGroup": 1_i64 << 32, "supplementalGroups": [0, -5]}),
            vec![
                format!("spec.securityContext.runAsUser: Invalid value: -1: {range}"),
                format!("spec.securityContext.runAsGroup: Invalid value: 4294967296: {range}"),
                format!("spec.securityContext.supplementalGroups[1]: Invalid value: -5: {range}"),
            ],
        ),
        (at, json!({"runAsUser": 0, "runAsNonRoot": true}), vec![]),
        (
            at,
            json!({"capabilities": {"add": ["net_admin", "CAP_CHOWN", "ALL"], "drop": ["all"]}}),
            vec![],
        ),
        (
            at,
            json!({"capabilities": {"add": ["NET_AMDIN"], "drop": ["CAP_FOO"]}}),
            vec![
                "spec.containers[0].securityContext.capabilities.add[0]: Invalid value: \"NET_AMDIN\": must be a \
                 Linux capability or ALL, did you mean \"NET_ADMIN\"?"
                    .to_owned(),
                "spec.containers[0].securityContext.capabilities.drop[0]: Invalid value: \"CAP_FOO\": must be a \
                 Linux capability or ALL"
                    .to_owned(),
            ],
        ),
        (
            at,
            json!({"allowPrivilegeEscalation": false, "privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}}),
            vec![
                "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set \
                 `allowPrivilegeEscalation` to false and `privileged` to true"
                    .to_owned(),
                "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set \
                 `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
                    .to_owned(),
            ],
        ),
        (
            at,
            json!({"seccompProfile": {"type": "Strict"}}),
            one(
                "spec.containers[0].securityContext.seccompProfile.type: Unsupported value: \"Strict\": supported \
                 values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
            ),
        ),
        (
            at,
            json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "x"}}),
            one(
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"x\": can only \
                 be set when seccomp type is Localhost",
            ),
        ),
        (
            at,
            json!({"seccompProfile": {}, "appArmorProfile": {"type": "Unconfined"}}),
            one(
                "spec.containers[0].securityContext.seccompProfile.type: Required value: type is required when \
                 seccompProfile is set",
            ),
        ),
    ]);
}

/// A few lines can stand for more text than there is memory; Linux would not execute it anyway.
#[test]
fn what_grows_too_long_is_refused() {
    let mut env = vec![json!({"name": "A0", "value": "yyyyyyyy"})];
    env.extend((1..20).map(|i| json!({"name": format!("A{i}"), "value": format!("$(A{0})$(A{0})", i - 1)})));
    let pod = with(small_pod(), "/spec/containers/0/env", json!(env));
    assert_eq!(
        faults(pod),
        ["spec.containers[0].env[14].value: Too long: may not be more than 131071 bytes"],
        "what refers to it stays as it is, and is short"
    );
    let pod = with(
        small_pod(),
        "/spec/containers/0/env",
        json!([{"name": "A", "value": "y".repeat(100_000)}]),
    );
    assert_eq!(faults(pod.clone()), Vec::<String>::new());
    let long = with(pod.clone(), "/spec/containers/0/args", json!(["x", "$(A)$(A)"]));
    assert_eq!(
        faults(long),
        ["spec.containers[0].args[1]: Too long: may not be more than 131071 bytes"]
    );
    let many = with(pod, "/spec/containers/0/args", json!(vec!["$(A)"; 83]));
    assert_eq!(
        faults(many),
        [
            "spec.containers[0].args[82]: Forbidden: arguments and variables of a pod may not be more than 8388608 bytes \
          in all"
        ]
    );
    check(vec![(
        "/spec/containers/0/workingDir",
        json!(format!("/{}", "a".repeat(4095))),
        one("spec.containers[0].workingDir: Too long: may not be more than 4095 bytes"),
    )]);
}

/// Everything Kubernetes knows and podd cannot do: refused by the name of the field.
#[test]
fn what_podd_cannot_do_is_refused_by_name() {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let rows = vec![
        (
            "/spec/affinity",
            json!({"podAntiAffinity": {required: [{"topologyKey": "x"}]}}),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            "required affinities to pods",
        ),
        (
            "/spec/resourceClaims",
            json!([{"name": "x"}]),
            "spec.resourceClaims",
            "resource claims",
        ),
        (
            "/spec/securityContext/seLinuxOptions",
            json!({"level": "s0"}),
            "spec.securityContext.seLinuxOptions",
            "SELinux labels",
        ),
        (
            "/spec/securityContext/windowsOptions",
            json!({"runAsUserName": "x"}),
            "spec.securityContext.windowsOptions",
            "Windows options",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "csi": {}}]),
            "spec.volumes[0].csi",
            "csi volumes",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "projected": {"sources": [{"podCertificate": {"keyType": "ED25519", "signerName": "x"}}]}}]),
            "spec.volumes[0].projected.sources[0].podCertificate",
            "pod certificates",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}]),
            "spec.volumes[0].projected.sources[0].clusterTrustBundle",
            "cluster trust bundles",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "nfs": {}}]),
            "spec.volumes[0].nfs",
            "nfs volumes",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "emptyDir": {"medium": "HugePages-2Mi"}}]),
            "spec.volumes[0].emptyDir.medium",
            "huge pages",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}]),
            "spec.containers[0].env[0].valueFrom.fileKeyRef",
            "variables from files of volumes",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "2001:db8::1"}]),
            "spec.containers[0].ports[0].hostIP",
            "IPv6 addresses of the host",
        ),
        (
            "/spec/containers/0/volumeDevices",
            json!([{"name": "v", "devicePath": "/dev/x"}]),
            "spec.containers[0].volumeDevices",
            "block devices as volumes",
        ),
        (
            "/spec/containers/0/resources",
            json!({"claims": [{"name": "x"}]}),
            "spec.containers[0].resources.claims",
            "resource claims",
        ),
    ];
    for (pointer, value, field, what) in rows {
        assert_eq!(
            faults(with(small_pod(), pointer, value)),
            [format!("{field}: Forbidden: podd does not support {what} yet")],
            "{pointer}"
        );
    }
}

#[test]
fn a_user_namespace_goes_with_no_namespace_of_the_host() {
    let pod = with(small_pod(), "/spec/hostUsers", json!(false));
    assert_eq!(faults(pod.clone()), Vec::<String>::new());
    let shared = with(pod, "/spec/hostNetwork", json!(true));
    assert_eq!(
        faults(shared),
        ["spec.hostNetwork: Forbidden: when `hostUsers` is false"]
    );
}

#[test]
fn mounts_are_propagated_and_read_only_as_kubernetes_allows() {
    let pod = with(small_pod(), "/spec/volumes", json!([{"name": "v", "emptyDir": {}}]));
    let of = |pod: &Value, fields: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/a"});
        mount
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        faults(with(pod.clone(), "/spec/containers/0/volumeMounts", json!([mount])))
    };
    let at = "spec.containers[0].volumeMounts[0]";
    let well: [String; 0] = [];
    assert_eq!(of(&pod, json!({"mountPropagation": "HostToContainer"})), well);
    assert_eq!(
        of(&pod, json!({"mountPropagation": "Bidirectional"})),
        [format!(
            "{at}.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"
        )]
    );
    let privileged = with(
        pod.clone(),
        "/spec/containers/0/securityContext",
        json!({"privileged": true}),
    );
    assert_eq!(of(&privileged, json!({"mountPropagation": "Bidirectional"})), well);

    for mode in ["Enabled", "IfPossible"] {
        assert_eq!(of(&pod, json!({"readOnly": true, "recursiveReadOnly": mode})), well);
        assert_eq!(
            of(
                &pod,
                json!({"recursiveReadOnly": mode, "mountPropagation": "HostToContainer"})
            ),
            [
                format!("{at}.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"),
                format!(
                    "{at}.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not \
                     specified"
                ),
            ]
        );
    }
    assert_eq!(of(&pod, json!({"recursiveReadOnly": "Disabled"})), well);
    assert_eq!(
        of(&pod, json!({"recursiveReadOnly": "Perhaps"})),
        [format!(
            "{at}.recursiveReadOnly: Unsupported value: \"Perhaps\": supported values: \"Disabled\", \"Enabled\", \
             \"IfPossible\""
        )]
    );
}

#[test]
fn what_changes_little_is_warned_of() {
    for (pointer, value, warning) in [
        (
            "/spec/priorityClassName",
            json!("high"),
            "spec.priorityClassName: podd never preempts a pod for another: priorities change nothing",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A"}, {"name": "A"}]),
            "spec.containers[0].env[1]: hides previous definition of \"A\" at env[0]",
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"appArmorProfile": {"type": "RuntimeDefault"}}),
            "spec.containers[0].securityContext.appArmorProfile.type: podd loads no AppArmor profiles: the container \
             has podd-default where the kernel has that, else none",
        ),
    ] {
        assert_eq!(
            admit(with(small_pod(), pointer, value)).expect("admitted").warnings,
            [warning],
            "{pointer}"
        );
    }
}

/// What changes nothing on one machine passes without a word: it stands in manifests that came from a cluster.
#[test]
fn what_changes_nothing_is_accepted_silently() {
    for (pointer, value) in [
        (
            "/spec/tolerations",
            json!([{"key": "x", "operator": "Exists", "effect": "NoExecute"}]),
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule"}]),
        ),
        (
            "/spec/affinity",
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}),
        ),
        ("/spec/enableServiceLinks", json!(false)),
        ("/spec/serviceAccountName", json!("default")),
        ("/spec/serviceAccountName", json!("robot")),
        ("/spec/automountServiceAccountToken", json!(false)),
        ("/spec/automountServiceAccountToken", json!(true)),
        ("/spec/hostUsers", json!(true)),
        ("/spec/hostPID", json!(false)),
        ("/spec/initContainers", json!([])),
        ("/spec/os", json!({"name": "linux"})),
        ("/spec/nodeName", json!("node-1")),
        ("/spec/priority", json!(0)),
        (
            "/spec/securityContext",
            json!({"seLinuxOptions": {}, "fsGroupChangePolicy": "Always"}),
        ),
        ("/spec/containers/0/lifecycle", json!({})),
        (
            "/spec/containers/0/resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
        ),
        ("/spec/containers/0/securityContext", json!({"procMount": "Default"})),
    ] {
        let admitted = admit(with(small_pod(), pointer, value));
        assert_eq!(admitted.map(|a| a.warnings), Ok(vec![]), "{pointer}");
    }
}

#[test]
fn reasons_are_kubernetes_own() {
    for (reason, text) in [
        (FaultReason::Required, "FieldValueRequired"),
        (FaultReason::Invalid, "FieldValueInvalid"),
        (FaultReason::NotSupported, "FieldValueNotSupported"),
        (FaultReason::Forbidden, "FieldValueForbidden"),
        (FaultReason::Duplicate, "FieldValueDuplicate"),
        (FaultReason::NotFound, "FieldValueNotFound"),
        (FaultReason::TooLong, "FieldValueTooLong"),
        (FaultReason::TypeInvalid, "FieldValueTypeInvalid"),
    ] {
        assert_eq!(reason.as_str(), text);
    }
}

/// One manifest with nearly everything wrong: all of it is said at once.
#[test]
fn a_thoroughly_bad_manifest() {
    let pod = json!({
        "metadata": {"name": "Bad Name", "namespace": "elsewhere", "labels": {"-": "!"}},
        "spec": {
            "restartPolicy": "Whenever", "terminationGracePeriodSeconds": -30, "dnsPolicy": "None",
            "hostname": "a.b", "nodeName": "MARS", "hostPID": true, "initContainers": [{"name": "i"}],
            "hostAliases": [{"ip": "localhost"}],
            "securityContext": {"runAsUser": -1, "fsGroup": 1},
            "volumes": [{"name": "a"}, {"name": "a", "secret": {}}, {"hostPath": {"path": "../x", "type": "Dir"}}],
            "containers": [
                {"name": "Web", "image": "", "ports": [{"containerPort": 0, "hostPort": 99_999, "protocol": "X"}],
                    "env": [{"name": ""}, {"name": "A", "valueFrom": {}}],
                    "volumeMounts": [{"name": "b", "mountPath": ""}],
                    "resources": {"limits": {"cpu": "one"}, "requests": {"memory": "-1"}},
                    "livenessProbe": {}},
                {"name": "x", "image": "a b", "securityContext": {"privileged": true,
                    "allowPrivilegeEscalation": false, "capabilities": {"add": ["FLY"]}}},
                {"name": "x", "image": "y", "imagePullPolicy": "Maybe", "tty": true},
            ],
        },
    });
    insta::assert_snapshot!(faults(pod).join("\n"));
}
