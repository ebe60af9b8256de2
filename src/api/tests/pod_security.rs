//! Pods against the standards of their namespace.

use super::*;

const NAMESPACES: &str = "/api/v1/namespaces";

impl Server {
    async fn namespace(&self, name: &str, labels: &Value) -> Answer {
        let labels: Value = (labels.as_object().unwrap().iter())
            .map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), value.clone()))
            .collect();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        if self.get(&format!("{NAMESPACES}/{name}")).await.code == StatusCode::OK {
            let path = format!("{NAMESPACES}/{name}");
            return self.call("PUT", &path, "application/json", namespace.to_string()).await;
        }
        let made = self.post(NAMESPACES, &namespace).await;
        // Nobody else makes it here.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.post(&format!("{NAMESPACES}/{name}/serviceaccounts"), &account)
            .await;
        made
    }

    async fn pod_in(&self, namespace: &str, name: &str, context: Value) -> Answer {
        let mut pod = pod(name, &json!({}));
        pod["spec"]["containers"][0]["securityContext"] = context;
        self.post(&format!("{NAMESPACES}/{namespace}/pods"), &pod).await
    }
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all(header::WARNING).iter();
    all.map(|text| text.to_str().unwrap().to_owned()).collect()
}

fn privileged() -> Value {
    json!({"privileged": true})
}

#[tokio::test]
async fn a_pod_that_breaks_what_is_enforced_is_refused() {
    let server = Server::start().await;
    // Before there are any labels everything goes.
    assert_eq!(
        server.pod_in("default", "free", privileged()).await.code,
        StatusCode::CREATED
    );
    assert_eq!(
        server.namespace("strict", &json!({"enforce": "baseline"})).await.code,
        StatusCode::CREATED
    );
    let refused = server.pod_in("strict", "p", privileged()).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["reason"], "Forbidden");
    let container = pod("p", &json!({}))["spec"]["containers"][0]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        refused.message(),
        format!(
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"{container}\" \
             must not set securityContext.privileged=true)"
        )
    );
    assert_eq!(
        server.get(&format!("{NAMESPACES}/strict/pods/p")).await.code,
        StatusCode::NOT_FOUND
    );
    let good = server.pod_in("strict", "p", json!({})).await;
    assert_eq!(good.code, StatusCode::CREATED, "{}", good.text);
    assert_eq!(
        server.pod_in("default", "free-2", privileged()).await.code,
        StatusCode::CREATED
    );

    // What the namespace says now holds for the very next pod.
    server.namespace("strict", &json!({"enforce": "privileged"})).await;
    assert_eq!(
        server.pod_in("strict", "q", privileged()).await.code,
        StatusCode::CREATED
    );
    server.namespace("strict", &json!({"enforce": "restricted"})).await;
    let refused = server.pod_in("strict", "r", json!({})).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN);
    assert!(
        refused
            .message()
            .contains("violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (")
    );

    // Of a pod that is there already, only a new image or container is looked at.
    let path = format!("{NAMESPACES}/strict/pods/q");
    let change = |to: Value| server.call("PATCH", &path, "application/merge-patch+json", to.to_string());
    assert_eq!(
        change(json!({"metadata": {"labels": {"a": "b"}}})).await.code,
        StatusCode::OK
    );
    let mut stored = server.get(&path).await.json();
    stored["spec"]["containers"][0]["image"] = json!("other:1");
    let refused = server.call("PUT", &path, "application/json", stored.to_string()).await;
    assert_eq!(refused.code, StatusCode::FORBIDDEN, "{}", refused.text);
}

#[tokio::test]
async fn a_client_is_warned_and_the_pod_is_made() {
    let server = Server::start().await;
    server
        .namespace(
            "warned",
            &json!({"enforce": "privileged", "warn": "baseline", "warn-version": "v1.30"}),
        )
        .await;
    let made = server.pod_in("warned", "p", privileged()).await;
    assert_eq!(made.code, StatusCode::CREATED);
    let told = warnings(&made).join("\n");
    assert!(
        told.contains("would violate PodSecurity \\\"baseline:v1.30\\\": privileged (container"),
        "{told}"
    );
    assert_eq!(
        warnings(&server.pod_in("warned", "q", json!({})).await),
        Vec::<String>::new()
    );
    // So it is of a template, which nobody refuses.
    server.namespace("warned", &json!({"enforce": "baseline"})).await;
    let mut spec = pod("x", &json!({}))["spec"].clone();
    spec["hostNetwork"] = json!(true);
    let template = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"},
        "template": {"spec": spec}});
    let made = server
        .post(&format!("{NAMESPACES}/warned/podtemplates"), &template)
        .await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.text);
    let told = warnings(&made).join("\n");
    assert!(told.contains("host namespaces (hostNetwork=true)"), "{told}");
}

#[tokio::test]
async fn whoever_makes_a_namespace_stricter_is_told_of_its_pods() {
    let server = Server::start().await;
    server.namespace("n", &json!({})).await;
    for name in ["b", "a", "c"] {
        server.pod_in("n", name, privileged()).await;
    }
    server.pod_in("n", "good", json!({})).await;
    let changed = server.namespace("n", &json!({"enforce": "baseline"})).await;
    assert_eq!(changed.code, StatusCode::OK, "{}", changed.text);
    let told = warnings(&changed);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains(
            "existing pods in namespace \\\"n\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\""
        ),
        "{told:?}"
    );
    assert!(told[1].contains("a (and 2 other pods): privileged"), "{told:?}");
    // Said once: what is relaxed or stays needs no word.
    assert!(
        warnings(
            &server
                .namespace("n", &json!({"enforce": "baseline", "warn": "baseline"}))
                .await
        )
        .is_empty()
    );
    assert!(warnings(&server.namespace("n", &json!({})).await).is_empty());
}

#[tokio::test]
async fn labels_that_mean_nothing_are_refused() {
    let server = Server::start().await;
    let refused = server.namespace("n", &json!({"enforce": "strict"})).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.message(),
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
    assert_eq!(server.namespace("n", &json!({})).await.code, StatusCode::CREATED);
    let refused = server.namespace("n", &json!({"warn-version": "1"})).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
}
