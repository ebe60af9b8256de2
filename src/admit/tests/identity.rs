//! One row for each rule about whom a pod runs as, and which walls it has.

use serde_json::{Value, json};

use super::{admit, faults, small_pod, with};
use crate::admit::to_model;
use crate::model::{AppArmorProfile, SeccompProfile};

const SYSCTLS: &str = "/spec/securityContext/sysctls";

fn check(rows: &[(&str, Value, &[&str])]) {
    for (pointer, value, expected) in rows {
        let pod = with(small_pod(), pointer, value.clone());
        assert_eq!(faults(pod), *expected, "{pointer} = {value}");
    }
}

#[test]
fn groups_of_volumes_and_processes() {
    let range = "must be between 0 and 2147483647, inclusive";
    check(&[
        ("/spec/securityContext/fsGroup", json!(0), &[]),
        ("/spec/securityContext/fsGroup", json!(i32::MAX), &[]),
        (
            "/spec/securityContext/fsGroup",
            json!(1_i64 << 31),
            &[&format!(
                "spec.securityContext.fsGroup: Invalid value: 2147483648: {range}"
            )],
        ),
        (
            "/spec/securityContext/fsGroupChangePolicy",
            json!("OnRootMismatch"),
            &[],
        ),
        (
            "/spec/securityContext/fsGroupChangePolicy",
            json!("Never"),
            &[
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \
               \"OnRootMismatch\"",
            ],
        ),
        ("/spec/securityContext/supplementalGroupsPolicy", json!("Strict"), &[]),
        (
            "/spec/securityContext/supplementalGroupsPolicy",
            json!("strict"),
            &[
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"strict\": supported values: \
               \"Merge\", \"Strict\"",
            ],
        ),
    ]);
}

#[test]
fn kernel_parameters() {
    let regex = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    check(&[
        (SYSCTLS, json!([{"name": "kernel.shm_rmid_forced", "value": "1"}]), &[]),
        // Whether it is allowed is the node's to say.
        (SYSCTLS, json!([{"name": "kernel.msgmax", "value": "1"}]), &[]),
        (
            SYSCTLS,
            json!([{"name": "", "value": "1"}, {"name": "foo-", "value": "b"}, {"name": "a.b", "value": ""},
                   {"name": "a/b", "value": ""}]),
            &[
                "spec.securityContext.sysctls[0].name: Required value",
                &format!("spec.securityContext.sysctls[1].name: Invalid value: \"foo-\": {regex}"),
                "spec.securityContext.sysctls[3].name: Duplicate value: \"a/b\"",
            ],
        ),
    ]);
    for (wall, name, detail) in [
        (
            "hostNetwork",
            "net.core.somaxconn",
            "may not be specified when 'hostNetwork' is true",
        ),
        (
            "hostIPC",
            "kernel/shm_rmid_forced",
            "may not be specified when 'hostIPC' is true",
        ),
    ] {
        let pod = with(small_pod(), SYSCTLS, json!([{"name": name, "value": "1"}]));
        let pod = with(pod, &format!("/spec/{wall}"), json!(true));
        let expected = format!("spec.securityContext.sysctls[0].name: Invalid value: {name:?}: {detail}");
        assert_eq!(faults(pod), [expected]);
    }
    let pod = with(
        small_pod(),
        SYSCTLS,
        json!([{"name": "net/ipv4/tcp_wmem", "value": "1 2 3"}]),
    );
    let model = to_model(&admit(pod).unwrap().pod).unwrap();
    let expected = ("net.ipv4.tcp_wmem".to_owned(), "1 2 3".to_owned());
    assert_eq!(model.security.sysctls, [expected]);
}

#[test]
fn walls_that_are_moved() {
    check(&[("/spec/hostPID", json!(true), &[]), ("/spec/hostIPC", json!(true), &[])]);
    let pod = with(small_pod(), "/spec/hostPID", json!(true));
    assert_eq!(
        faults(with(pod, "/spec/shareProcessNamespace", json!(true))),
        ["spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"]
    );
    let at = "/spec/containers/0/securityContext";
    check(&[
        (at, json!({"procMount": "Default"}), &[]),
        (
            at,
            json!({"procMount": "Unmasked"}),
            &[
                "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false \
               to use `Unmasked`",
            ],
        ),
        (
            at,
            json!({"procMount": "None"}),
            &[
                "spec.containers[0].securityContext.procMount: Unsupported value: \"None\": supported values: \
               \"Default\", \"Unmasked\"",
            ],
        ),
    ]);
}

#[test]
fn profiles_of_the_machine() {
    let at = "/spec/containers/0/securityContext";
    let (seccomp, app_armor) = (
        "spec.containers[0].securityContext.seccompProfile.localhostProfile",
        "spec.containers[0].securityContext.appArmorProfile.localhostProfile",
    );
    let localhost = |field: &str, name: Value| json!({field: {"type": "Localhost", "localhostProfile": name}});
    check(&[
        (at, localhost("seccompProfile", json!("a/b.json")), &[]),
        (
            at,
            json!({"seccompProfile": {"type": "Localhost"}}),
            &[&format!(
                "{seccomp}: Required value: must be set when seccomp type is Localhost"
            )],
        ),
        (
            at,
            localhost("seccompProfile", json!("/a")),
            &[&format!("{seccomp}: Invalid value: \"/a\": must be a relative path")],
        ),
        (
            at,
            localhost("seccompProfile", json!("a/../../b")),
            &[&format!(
                "{seccomp}: Invalid value: \"a/../../b\": must not contain '..'"
            )],
        ),
        (at, localhost("appArmorProfile", json!("own")), &[]),
        (
            at,
            json!({"appArmorProfile": {"type": "Localhost"}}),
            &[&format!(
                "{app_armor}: Required value: must be set when AppArmor type is Localhost"
            )],
        ),
        (
            at,
            localhost("appArmorProfile", json!(" own")),
            &[&format!(
                "{app_armor}: Invalid value: \" own\": must not be padded with whitespace"
            )],
        ),
    ]);
    let pod = with(
        small_pod(),
        "/spec/securityContext",
        localhost("seccompProfile", json!("pod.json")),
    );
    let pod = with(pod, at, localhost("appArmorProfile", json!("own")));
    let model = to_model(&admit(pod).unwrap().pod).unwrap();
    let security = &model.containers[0].security;
    assert_eq!(security.seccomp, SeccompProfile::Localhost("pod.json".into()));
    assert_eq!(security.app_armor, AppArmorProfile::Localhost("own".to_owned()));
}

#[test]
fn a_whole_name_needs_room_in_the_kernel() {
    let named = |hostname: &str| {
        let pod = with(small_pod(), "/spec/hostname", json!(hostname));
        let pod = with(pod, "/spec/subdomain", json!("sub"));
        let pod = with(pod, "/spec/setHostnameAsFQDN", json!(true));
        to_model(&admit(pod).unwrap().pod).unwrap()
    };
    let short = named("web");
    let whole = format!("web.sub.{}.svc.cluster.local", short.namespace);
    assert_eq!((short.fqdn(), short.kernel_name()), (Some(whole.clone()), Ok(whole)));
    let long = named(&"a".repeat(60));
    let error = long.kernel_name().unwrap_err().to_string();
    let whole = long.fqdn().unwrap();
    let expected = format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long (64 characters is the \
         max, {} characters requested)",
        whole.len()
    );
    assert_eq!(error, expected);
}
