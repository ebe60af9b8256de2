//! Defaults, and the way from the stored pod to the model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::{admit, full_pod, small_pod, with};
use crate::admit::{ModelError, to_model};
use crate::model::{
    Capabilities, ContainerSecurity, Deletion, DnsPolicy, EmptyDirMedium, EnvValue, EnvVar, HostPathType, PodSpec,
    PullPolicy, QosClass, Resources, RestartPolicy, SeccompProfile, VolumeSource,
};

fn model(pod: Value) -> PodSpec {
    to_model(&admit(pod).expect("admitted").pod).expect("understood")
}

#[test]
fn defaults_are_kubernetes_own() {
    let pod = with(
        small_pod(),
        "/spec",
        json!({
            "volumes": [{"name": "h", "hostPath": {"path": "/a"}}],
            "containers": [
                {"name": "a", "image": "nginx", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}},
                {"name": "b", "image": "nginx:1.25"},
            ],
        }),
    );
    insta::assert_json_snapshot!(admit(pod).expect("admitted").pod);
}

#[test]
fn pull_policy_by_tag() {
    for (image, policy) in [
        ("nginx", PullPolicy::Always),
        ("nginx:latest", PullPolicy::Always),
        ("nginx:1", PullPolicy::IfNotPresent),
        ("localhost:5000/nginx", PullPolicy::Always),
        ("localhost:5000/nginx:1", PullPolicy::IfNotPresent),
        ("nginx@sha256:00", PullPolicy::IfNotPresent),
        ("nginx:latest@sha256:00", PullPolicy::Always),
    ] {
        let pod = with(small_pod(), "/spec/containers/0/image", json!(image));
        assert_eq!(model(pod).containers[0].pull_policy, policy, "{image}");
    }
}

#[test]
fn a_full_pod_as_podd_means_it() {
    let pod = model(full_pod());
    assert_eq!(
        (pod.uid.as_str(), pod.namespace.as_str(), pod.name.as_str()),
        (super::UID, "default", "full")
    );
    assert_eq!(
        (pod.generation, pod.created_at.to_string().as_str()),
        (1, "2026-01-02T03:04:05Z")
    );
    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(pod.termination_grace, Duration::from_secs(7));
    assert!(pod.share_process_namespace && !pod.host_network);
    assert_eq!((pod.hostname.as_str(), pod.subdomain.as_deref()), ("web", Some("sub")));
    assert_eq!(pod.host_aliases[0].ip.to_string(), "127.0.0.2");
    assert_eq!(pod.host_aliases[0].hostnames, ["a.example.com", "b"]);
    assert_eq!(pod.dns.policy, DnsPolicy::None);
    assert_eq!(pod.dns.nameservers, ["10.0.0.1", "2001:db8::1"]);
    assert_eq!(pod.dns.searches, ["example.com", "_tcp.example.com."]);
    assert_eq!(pod.dns.options, ["ndots:2", "edns0"]);
    assert_eq!(pod.security.supplemental_groups, [5, 6]);
    assert_eq!(
        pod.volumes[0].source,
        VolumeSource::EmptyDir {
            medium: EmptyDirMedium::Memory,
            size_limit: Some(64 << 20)
        }
    );
    assert_eq!(
        pod.volumes[1].source,
        VolumeSource::HostPath {
            path: PathBuf::from("/srv/data"),
            kind: HostPathType::DirectoryOrCreate
        }
    );
    assert_eq!(pod.deletion, None);
    assert_eq!(pod.qos_class(), QosClass::Burstable);

    let web = &pod.containers[0];
    assert_eq!(web.pull_policy, PullPolicy::Never);
    assert_eq!(web.command, ["/bin/web", "--name=$(NAME)", "$$(NAME)"]);
    assert_eq!(web.args, ["$(GREETING)", "$(UNKNOWN)"]);
    let text = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: EnvValue::Text(value.to_owned()),
    };
    assert_eq!(
        web.env,
        [
            text("NAME", "podd"),
            text("GREETING", "hello $(NAME)"),
            text("EMPTY", "")
        ]
    );
    assert_eq!(web.working_dir.as_deref(), Some(Path::new("/srv")));
    assert_eq!(
        (web.mounts[0].path.as_path(), &web.mounts[0].sub_path),
        (Path::new("/tmp/scratch"), &None)
    );
    assert_eq!(web.mounts[1].path, Path::new("/srv/data"));
    assert_eq!(web.mounts[1].sub_path.as_deref(), Some(Path::new("a/b")));
    assert!(web.mounts[1].read_only && !web.mounts[0].read_only);
    assert_eq!(
        web.resources,
        Resources {
            cpu_request_milli: Some(250),
            cpu_limit_milli: Some(1500),
            memory_request: Some(128 << 20),
            memory_limit: Some(128 << 20),
            ..Resources::default()
        }
    );
    assert_eq!(
        web.security,
        ContainerSecurity {
            run_as_user: Some(2000),
            run_as_group: Some(1001),
            run_as_non_root: true,
            privileged: false,
            allow_privilege_escalation: false,
            read_only_root: true,
            capabilities: Capabilities {
                add: vec!["NET_ADMIN".to_owned(), "SYS_TIME".to_owned()],
                drop: vec!["ALL".to_owned()],
            },
            seccomp: SeccompProfile::RuntimeDefault,
            app_armor: crate::model::AppArmorProfile::Unset,
            unmasked_proc: false,
        }
    );
    assert!(web.stdin && web.stdin_once && web.tty);
    assert_eq!(web.termination_message_path, Path::new("/var/last-words"));

    let side = &pod.containers[1];
    assert_eq!(side.security.run_as_user, Some(1000));
    assert!(side.security.privileged && side.security.allow_privilege_escalation);
    assert_eq!(side.security.seccomp, SeccompProfile::Unconfined);
    assert_eq!(side.termination_message_path, Path::new("/dev/termination-log"));
    assert_eq!(
        (side.working_dir.clone(), side.resources.clone()),
        (None, Resources::default())
    );
}

#[test]
fn small_things() {
    let pod = model(small_pod());
    assert_eq!(pod.dns.policy, DnsPolicy::Default);
    assert_eq!(pod.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.termination_grace, Duration::from_secs(30));
    assert_eq!(pod.qos_class(), QosClass::BestEffort);
    assert_eq!(pod.containers[0].security.seccomp, SeccompProfile::RuntimeDefault);
    assert!(pod.containers[0].security.allow_privilege_escalation);

    let long = format!("{}-tail", "a".repeat(62));
    assert_eq!(
        model(with(small_pod(), "/metadata/name", json!(long))).hostname,
        "a".repeat(62)
    );
    let overridden = with(small_pod(), "/spec/hostnameOverride", json!("web.example.com"));
    let overridden = model(with(overridden, "/spec/subdomain", json!("sub")));
    assert_eq!(
        (overridden.hostname.as_str(), overridden.subdomain),
        ("web.example.com", None)
    );
    let zero = with(
        small_pod(),
        "/spec/containers/0/resources",
        json!({"limits": {"cpu": "0", "memory": 0}}),
    );
    assert_eq!(model(zero).qos_class(), QosClass::BestEffort);
    let equal = with(
        small_pod(),
        "/spec/containers/0/resources",
        json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
    );
    assert_eq!(model(equal).qos_class(), QosClass::Guaranteed);
}

#[test]
fn a_deletion_counts_from_when_it_was_asked_for() {
    let mut pod = admit(small_pod()).expect("admitted").pod;
    let deadline = "2026-01-02T03:05:00Z".parse::<jiff::Timestamp>().expect("a time");
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deadline));
    pod.metadata.deletion_grace_period_seconds = Some(30);
    let deletion = to_model(&pod).expect("understood").deletion.expect("a deletion");
    let asked = "2026-01-02T03:04:30Z".parse::<jiff::Timestamp>().expect("a time");
    assert_eq!(
        deletion,
        Deletion {
            requested_at: asked,
            grace: Duration::from_secs(30)
        }
    );
}

#[test]
fn what_another_version_wrote_is_named() {
    let admitted = admit(small_pod()).expect("admitted").pod;
    let mut pod = admitted.clone();
    pod.spec.as_mut().expect("a spec").restart_policy = Some("Sometimes".to_owned());
    assert_eq!(
        to_model(&pod).expect_err("not understood").to_string(),
        "the stored pod has spec.restartPolicy \"Sometimes\", which this version of podd does not understand"
    );
    let mut pod = admitted.clone();
    pod.metadata.uid = None;
    assert_eq!(
        to_model(&pod),
        Err(ModelError::Missing {
            field: "metadata.uid".to_owned()
        })
    );
    let mut pod = admitted;
    pod.spec.as_mut().expect("a spec").volumes = Some(vec![
        serde_json::from_value(json!({"name": "v", "nfs": {}})).expect("a volume"),
    ]);
    assert_eq!(
        to_model(&pod).expect_err("not understood").to_string(),
        "the stored pod lacks a source that is known for spec.volumes[v]"
    );
}
