//! Questions about oneself.

use std::sync::Arc;

use super::*;
use crate::api::auth::Identity;
use crate::api::auth::identity::{MASTERS, VIEWERS};

const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn identity(group: &str) -> Identity {
    let identity = Identity {
        user: "jane".to_owned(),
        uid: "7".to_owned(),
        groups: vec![group.to_owned()],
        extra: std::iter::once(("project".to_owned(), vec!["a".to_owned()])).collect(),
    };
    identity.with_standing()
}

async fn ask(server: &Server, group: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(Arc::new(identity(group)));
    server.send(request.body(body.into()).unwrap()).await
}

async fn may(server: &Server, group: &str, spec: Value) -> Value {
    let answer = ask(server, group, ACCESS, json!({ "spec": spec }).to_string()).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let review = answer.json();
    assert_eq!(review["kind"], "SelfSubjectAccessReview");
    assert_eq!(review["spec"], spec);
    review["status"].clone()
}

#[tokio::test]
async fn everyone_can_ask_what_they_may_do() {
    let server = Server::start().await;
    for (group, resource, verb, allowed) in [
        (MASTERS, "pods", "create", true),
        (MASTERS, "secrets", "*", true),
        (VIEWERS, "pods", "list", true),
        (VIEWERS, "pods", "create", false),
        (VIEWERS, "pods", "*", false),
        (VIEWERS, "secrets", "get", false),
        (VIEWERS, "*", "get", false),
        ("others", "pods", "get", false),
    ] {
        let spec = json!({"resourceAttributes": {"verb": verb, "resource": resource, "namespace": "default"}});
        let status = may(&server, group, spec).await;
        assert_eq!(status["allowed"], allowed, "{group} {verb} {resource}");
        let reason = allowed.then(|| format!("allowed to group \"{group}\""));
        assert_eq!(status["reason"].as_str(), reason.as_deref());
    }
    for (group, path, allowed) in [
        ("others", "/api", true),
        ("others", "/logs", false),
        (MASTERS, "/logs", true),
    ] {
        let spec = json!({"nonResourceAttributes": {"verb": "get", "path": path}});
        assert_eq!(may(&server, group, spec).await["allowed"], allowed, "{group} {path}");
    }
    let log = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "log"}});
    assert_eq!(may(&server, VIEWERS, log).await["allowed"], true);
    let exec = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "exec"}});
    assert_eq!(may(&server, VIEWERS, exec).await["allowed"], false);
}

#[tokio::test]
async fn a_question_must_be_one() {
    let server = Server::start().await;
    let path = json!({"verb": "get", "path": "/x"});
    for (body, code, message) in [
        (
            json!({"spec": {}}),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            json!({"spec": {"resourceAttributes": {"verb": "get"}, "nonResourceAttributes": path}}),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.nonResourceAttributes: Invalid value: cannot be specified in combination with resourceAttributes",
        ),
        (
            json!({"metadata": {"name": "x"}, "spec": {"nonResourceAttributes": path}}),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: metadata: Invalid value: must be empty",
        ),
    ] {
        let answer = ask(&server, MASTERS, ACCESS, body.to_string()).await;
        assert_eq!(answer.code.as_u16(), code, "{body}");
        assert_eq!(answer.message(), message);
    }
    let answer = ask(&server, MASTERS, RULES, r#"{"spec": {}}"#).await;
    assert_eq!(
        (answer.code.as_u16(), answer.message().as_str()),
        (400, "no namespace on request")
    );
    let answer = ask(
        &server,
        MASTERS,
        &format!("{ACCESS}?fieldValidation=Strict"),
        r#"{"spec": {"x": 1}}"#,
    )
    .await;
    assert_eq!(answer.code, 400);
    assert!(answer.message().contains("unknown field \"spec.x\""), "{}", answer.text);
    // Without a guard there is nobody to tell about.
    assert_eq!(server.post(WHO, &json!({})).await.code, 401);
}

#[tokio::test]
async fn the_list_of_what_one_may_do_is_what_one_may_do() {
    let server = Server::start().await;
    let answer = ask(&server, MASTERS, RULES, r#"{"spec": {"namespace": "default"}}"#).await;
    assert_eq!(answer.code, 201);
    let status = answer.json()["status"].clone();
    assert_eq!(status["incomplete"], false);
    assert_eq!(
        status["resourceRules"][0],
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
    );
    assert_eq!(
        status["nonResourceRules"][0],
        json!({"verbs": ["*"], "nonResourceURLs": ["*"]})
    );
    let answer = ask(&server, VIEWERS, RULES, r#"{"spec": {"namespace": "default"}}"#).await;
    let text = answer.text;
    assert!(text.contains("pods/log"), "{text}");
    for never in ["secrets", "exec", "attach", "portforward", "proxy", "token", "\"*\""] {
        assert!(!text.contains(never), "{never}: {text}");
    }
}

#[tokio::test]
async fn everyone_is_told_who_they_are_in_json_or_yaml() {
    let server = Server::start().await;
    let answer = ask(&server, "team", WHO, r#"{"metadata": {"creationTimestamp": null}}"#).await;
    assert_eq!(answer.code, 201);
    let told = json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"userInfo": {"username": "jane", "uid": "7", "groups": ["team", "system:authenticated"],
            "extra": {"project": ["a"]}}},
    });
    assert_eq!(answer.json(), told);
    let beta = WHO.replace("v1", "v1beta1");
    let body = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1beta1"});
    let mut told_before = told.clone();
    told_before["apiVersion"] = body["apiVersion"].clone();
    assert_eq!(ask(&server, "team", &beta, body.to_string()).await.json(), told_before);
    assert_eq!(ask(&server, "team", WHO, body.to_string()).await.code, 400);
    let request = Request::post(WHO)
        .header(header::CONTENT_TYPE, "application/yaml")
        .header(header::ACCEPT, "application/yaml")
        .extension(Arc::new(identity("team")));
    let yaml = "apiVersion: authentication.k8s.io/v1\nkind: SelfSubjectReview\n";
    let answer = server.send(request.body(yaml.into()).unwrap()).await;
    assert_eq!(answer.code, 201);
    assert_eq!(serde_yaml_ng::from_str::<Value>(&answer.text).unwrap(), told);
}

#[tokio::test]
async fn questions_are_found_in_discovery_and_are_not_stored() {
    let server = Server::start().await;
    let before = server.store.resource_version().await.unwrap();
    let list = server.get("/apis/authorization.k8s.io/v1").await.json();
    let names: Vec<(&str, &Value)> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["name"].as_str().unwrap(), &r["verbs"]))
        .collect();
    let create = json!(["create"]);
    assert_eq!(
        names,
        [
            ("selfsubjectaccessreviews", &create),
            ("selfsubjectrulesreviews", &create)
        ]
    );
    ask(&server, MASTERS, WHO, "{}").await;
    assert_eq!(server.store.resource_version().await.unwrap(), before);
    assert_eq!(server.get(WHO).await.code, 405);
    assert_eq!(server.get(&format!("{WHO}/x")).await.code, 404);
    // Old clients ask for older versions first, and go on when they are not there.
    assert_eq!(
        server
            .post("/apis/authentication.k8s.io/v1alpha1/selfsubjectreviews", &json!({}))
            .await
            .code,
        404
    );
}
