//! What a pod gets from its service account.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::*;
use crate::admit::{AccountRefusal, account_of, apply_account};

fn account(value: Value) -> ServiceAccount {
    serde_json::from_value(value).expect("a service account")
}

/// The pod as it is after its account gave what it gives, without the other defaults.
fn given(pod: Value, of: Value) -> Value {
    let mut pod = wire(pod);
    let name = account_of(&pod).expect("no mirror").expect("an account").to_owned();
    apply_account(&mut pod, &name, &account(of.clone()), "x7k2q");
    let once = serde_json::to_value(&pod).expect("JSON");
    apply_account(&mut pod, &name, &account(of), "other");
    assert_eq!(
        serde_json::to_value(&pod).expect("JSON")["spec"]["volumes"],
        once["spec"]["volumes"]
    );
    once
}

fn token_volume() -> Value {
    json!({"name": "kube-api-access-x7k2q", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

fn token_mount() -> Value {
    json!({
        "name": "kube-api-access-x7k2q", "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    })
}

#[test]
fn a_pod_gets_a_token_where_clients_look_for_it() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "initContainers": [{"name": "i", "image": "x"}],
        "containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
        "volumes": [{"name": "d", "emptyDir": {}}],
    }});
    let pod = given(pod, json!({}));
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "d", "emptyDir": {}}, token_volume()])
    );
    assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"], json!([token_mount()]));
    assert_eq!(
        pod["spec"]["containers"][0]["volumeMounts"],
        json!([{"name": "d", "mountPath": "/d"}, token_mount()])
    );
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["serviceAccount"], "default");
}

#[test]
fn the_pod_says_before_its_account_whether_there_is_a_token() {
    let (yes, no) = (json!(true), json!(false));
    for (of_pod, of_account, mounted) in [
        (None, None, true),
        (None, Some(&no), false),
        (None, Some(&yes), true),
        (Some(&yes), Some(&no), true),
        (Some(&no), Some(&yes), false),
        (Some(&no), None, false),
    ] {
        let mut pod = small_pod();
        let mut account = json!({});
        if let Some(value) = of_pod {
            pod["spec"]["automountServiceAccountToken"] = value.clone();
        }
        if let Some(value) = of_account {
            account["automountServiceAccountToken"] = value.clone();
        }
        let pod = given(pod, account);
        assert_eq!(pod["spec"]["volumes"].is_array(), mounted, "{of_pod:?} {of_account:?}");
    }
}

#[test]
fn whatever_is_mounted_there_stays() {
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "x", "volumeMounts": [{"name": "own", "mountPath": path}]}],
        "volumes": [{"name": "own", "emptyDir": {}}],
    }});
    assert_eq!(given(pod.clone(), json!({}))["spec"]["volumes"], pod["spec"]["volumes"]);
    // A volume of that name is taken for it.
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "x"}],
        "volumes": [{"name": "kube-api-access-mine", "emptyDir": {}}],
    }});
    let pod = given(pod, json!({}));
    assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        pod["spec"]["containers"][0]["volumeMounts"][0]["name"],
        "kube-api-access-mine"
    );
}

#[test]
fn pull_secrets_come_from_the_account_where_the_pod_has_none() {
    let of = json!({"imagePullSecrets": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(
        given(small_pod(), of.clone())["spec"]["imagePullSecrets"],
        json!([{"name": "a"}, {"name": "b"}])
    );
    let own = with(small_pod(), "/spec/imagePullSecrets", json!([{"name": "own"}]));
    assert_eq!(given(own, of)["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
    assert!(given(small_pod(), json!({}))["spec"]["imagePullSecrets"].is_null());
}

#[test]
fn the_newer_name_wins_and_both_are_shown() {
    for (newer, older, shown) in [
        (json!("robot"), json!("other"), "robot"),
        (json!(""), json!("other"), "other"),
        (Value::Null, json!("other"), "other"),
        (json!("robot"), Value::Null, "robot"),
    ] {
        let pod = with(small_pod(), "/spec/serviceAccountName", newer);
        let pod = with(pod, "/spec/serviceAccount", older);
        assert_eq!(account_of(&wire(pod.clone())), Ok(Some(shown)));
        let spec = admit(pod).expect("admitted").pod.spec.expect("a spec");
        assert_eq!(spec.service_account_name.as_deref(), Some(shown));
        assert_eq!(spec.service_account.as_deref(), Some(shown));
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    let found = faults(with(small_pod(), "/spec/serviceAccountName", json!("No_Name")));
    assert!(
        found[0].starts_with("spec.serviceAccountName: Invalid value: \"No_Name\": a lowercase RFC 1123 subdomain"),
        "{found:?}"
    );
}

#[test]
fn a_mirror_pod_has_no_account() {
    let mirror = with(
        small_pod(),
        "/metadata/annotations",
        json!({"kubernetes.io/config.mirror": "hash"}),
    );
    assert_eq!(account_of(&wire(mirror.clone())), Ok(None));
    assert_eq!(
        account_of(&wire(with(mirror.clone(), "/spec/serviceAccountName", json!("robot")))),
        Err(AccountRefusal::OfMirror)
    );
    let volume = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    assert_eq!(
        account_of(&wire(with(mirror, "/spec/volumes", volume))),
        Err(AccountRefusal::TokenOfMirror)
    );
}
