//! Service accounts: the pods that have them, their tokens, and what those are worth at the door.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_util::task::TaskTracker;

use super::*;
use crate::api::auth::Identity;
use crate::api::auth::tokens::TokenFile;
use crate::api::guard::{Guard, Peer, Shown, guarded};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ISSUER: &str = crate::account::testing::ISSUER;
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A server whose guard knows the tokens that its API makes.
struct Doors {
    server: Server,
    outside: Router,
}

impl Doors {
    async fn new() -> Self {
        let server = Server::start().await;
        let guard = Guard::new(&Limits::default(), Some(server.bearers.clone()));
        Self {
            outside: guarded(server.router.clone(), guard),
            server,
        }
    }

    async fn account(&self, name: &str) {
        let made = self.server.post(ACCOUNTS, &json!({"metadata": {"name": name}})).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }

    async fn token_of(&self, name: &str, spec: Value) -> String {
        let answer = self.request(name, &json!({ "spec": spec })).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.json()["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn request(&self, name: &str, body: &Value) -> Answer {
        self.server.post(&format!("{ACCOUNTS}/{name}/token"), body).await
    }

    /// From outside, with a token.
    async fn ask(&self, token: &str, path: &str) -> Answer {
        let peer = Peer {
            shown: Shown::Nothing,
            hosts: None,
            local: None,
            remote: None,
            stopping: watch::channel(false).1,
            streams: TaskTracker::new(),
        };
        let request = Request::get(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .extension(peer);
        let request = request.body(Body::empty()).unwrap();
        let response = self.outside.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn review(&self, spec: Value) -> Value {
        let answer = self.server.post(REVIEWS, &json!({ "spec": spec })).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer.json()["status"].clone()
    }
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_is_made_as_kubectl_asks_for_it() {
    let doors = Doors::new().await;
    doors.account("robot").await;
    let answer = doors.request("robot", &json!({"spec": {"audiences": null}})).await;
    assert_eq!(answer.code, 201, "{}", answer.text);
    let made = answer.json();
    assert_eq!(
        (&made["kind"], &made["apiVersion"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io/v1"))
    );
    assert_eq!(made["metadata"]["name"], "robot");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["spec"], json!({"audiences": [ISSUER], "expirationSeconds": 3600}));
    assert_eq!(made["status"]["expirationTimestamp"], "2026-01-01T01:00:00Z");
    let said = claims(made["status"]["token"].as_str().unwrap());
    assert_eq!(said["sub"], "system:serviceaccount:default:robot");
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 3600);
    let of_others = doors
        .token_of("robot", json!({"audiences": ["vault", "x"], "expirationSeconds": 600}))
        .await;
    assert_eq!(claims(&of_others)["aud"], json!(["vault", "x"]));
}

#[tokio::test]
async fn a_token_that_cannot_be_is_refused() {
    let doors = Doors::new().await;
    doors.account("robot").await;
    doors.server.create("web", &json!({})).await;
    for (body, code, message) in [
        (
            json!({"spec": {"expirationSeconds": 599}}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"spec": {"expirationSeconds": (1_i64 << 32) + 1}}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (
            json!({"metadata": {"name": "other"}, "spec": {}}),
            422,
            "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \"other\": must match the service account name if specified",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}}),
            404,
            "pods \"none\" not found",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}}}),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "x"}}}),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
    ] {
        let answer = doors.request("robot", &body).await;
        assert_eq!((answer.code.as_u16(), answer.message().as_str()), (code, message));
    }
    let answer = doors.request("none", &json!({"spec": {}})).await;
    assert_eq!(answer.code, 404);
    assert_eq!(answer.message(), "serviceaccounts \"none\" not found");
}

#[tokio::test]
async fn a_pods_token_ends_with_the_pod() {
    let doors = Doors::new().await;
    let pod = doors.server.create("web", &json!({})).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let reference =
        |uid: &str| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid}});
    let answer = doors.request("default", &json!({ "spec": reference("another") })).await;
    assert_eq!(answer.code, 409, "{}", answer.text);
    let token = doors.token_of("default", reference(uid)).await;
    assert_eq!(
        claims(&token)["kubernetes.io"]["pod"],
        json!({"name": "web", "uid": uid})
    );
    assert_eq!(claims(&token)["kubernetes.io"]["node"]["name"], "node-1");
    assert_eq!(doors.ask(&token, PODS).await.code, 200);
    let who = doors.review(json!({ "token": token })).await;
    assert_eq!(
        who["user"]["extra"]["authentication.kubernetes.io/pod-uid"],
        json!([uid])
    );

    let uid = crate::model::Uid(uid.to_owned());
    let stored = doors.server.store.get_by_uid("Pod", &uid).await.unwrap().unwrap();
    let gone = doors
        .server
        .store
        .delete("Pod", "default", "web", stored.resource_version);
    gone.await.unwrap();
    assert_eq!(doors.ask(&token, PODS).await.code, 401);
    let status = doors.review(json!({ "token": token })).await;
    assert_eq!(
        status,
        json!({"error": "[invalid bearer token, service account token has been invalidated]", "user": {}})
    );
}

#[tokio::test]
async fn a_service_account_reads_its_own_namespace_alone() {
    let doors = Doors::new().await;
    doors.account("robot").await;
    doors.server.create("web", &json!({})).await;
    let token = doors.token_of("robot", json!({})).await;
    for (path, code) in [
        ("/api/v1/namespaces/default/pods", 200),
        ("/api/v1/namespaces/default/pods/web", 200),
        ("/api/v1/namespaces/default/configmaps", 200),
        ("/api/v1/namespaces/default/serviceaccounts/robot", 200),
        ("/api/v1/namespaces/default", 200),
        ("/api/v1/namespaces/default/secrets", 403),
        ("/api/v1/namespaces/default/secrets/x", 403),
        ("/api/v1/namespaces/default/pods/web/exec?command=sh", 403),
        ("/api/v1/namespaces/default/pods/web/proxy/", 403),
        ("/api/v1/namespaces/kube-system/pods", 403),
        ("/api/v1/namespaces/kube-system/pods?watch=1", 403),
        ("/api/v1/namespaces/kube-system", 403),
        ("/api/v1/pods", 403),
        ("/api/v1/pods?watch=1", 403),
        ("/api/v1/pods?fieldSelector=metadata.namespace%3Ddefault", 403),
        ("/api/v1/watch/namespaces/default/secrets", 403),
        ("/api/v1/namespaces", 403),
        ("/api/v1/nodes", 403),
        ("/podd/v1/images", 403),
        ("/metrics", 403),
        ("/api", 200),
        ("/apis", 200),
        ("/version", 200),
        ("/openid/v1/jwks", 200),
        ("/.well-known/openid-configuration", 200),
    ] {
        let answer = doors.ask(&token, path).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.text);
    }
    let refused = doors.ask(&token, "/api/v1/namespaces/kube-system/pods").await;
    assert_eq!(
        refused.message(),
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"kube-system\""
    );
    assert_eq!(doors.ask(&format!("{token}A"), PODS).await.code, 401);
}

#[tokio::test]
async fn a_review_tells_whose_a_token_is() {
    let doors = Doors::new().await;
    doors.account("robot").await;
    let token = doors.token_of("robot", json!({})).await;
    let status = doors.review(json!({ "token": token })).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!([ISSUER]));
    assert!(status.get("error").is_none());
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        status["user"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    let vault = doors.token_of("robot", json!({"audiences": ["vault"]})).await;
    let status = doors.review(json!({ "token": vault })).await;
    assert!(
        status["authenticated"].is_null() && status["error"].is_string(),
        "{status}"
    );
    let status = doors.review(json!({"token": vault, "audiences": ["x", "vault"]})).await;
    assert_eq!(status["audiences"], json!(["vault"]));
    let status = doors.review(json!({"token": "nonsense"})).await;
    assert_eq!(status, json!({"error": "invalid bearer token", "user": {}}));
    let answer = doors.server.post(REVIEWS, &json!({"spec": {"token": ""}})).await;
    assert_eq!(
        (answer.code.as_u16(), answer.message().as_str()),
        (400, "token is required for TokenReview in authentication")
    );

    // One of the file is for the API itself.
    let file = TokenFile::open(doors.server.dir.path()).unwrap();
    let jane = file
        .create(&Identity {
            user: "jane".to_owned(),
            ..Identity::default()
        })
        .unwrap();
    let status = doors.review(json!({ "token": jane })).await;
    assert_eq!(
        status["user"],
        json!({"username": "jane", "groups": ["system:authenticated"]})
    );
    let status = doors.review(json!({"token": jane, "audiences": ["vault"]})).await;
    assert!(status["authenticated"].is_null(), "{status}");
}

#[tokio::test]
async fn the_keys_are_published_with_where_they_are() {
    let doors = Doors::new().await;
    let configuration = doors.server.get("/.well-known/openid-configuration").await;
    assert_eq!(
        configuration.json(),
        json!({
            "issuer": ISSUER, "jwks_uri": "https://10.1.2.3:6443/openid/v1/jwks",
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    );
    let keys = doors.server.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers[header::CONTENT_TYPE], "application/jwk-set+json");
    let key = &keys.json()["keys"][0];
    assert_eq!(
        (&key["alg"], &key["crv"], &key["use"]),
        (&json!("ES256"), &json!("P-256"), &json!("sig"))
    );
}

#[tokio::test]
async fn a_new_pod_has_its_account() {
    let doors = Doors::new().await;
    let pod = doors.server.create("web", &json!({})).await;
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["serviceAccount"], "default");
    let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(
        volume.starts_with("kube-api-access-") && volume.len() == "kube-api-access-".len() + 5,
        "{volume}"
    );
    let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["mountPath"], &mount["name"]), (&json!(MOUNT), &json!(volume)));

    // What is written back unchanged changes nothing.
    let put = doors
        .server
        .call("PUT", &format!("{PODS}/web"), "application/json", pod.to_string())
        .await;
    assert_eq!(put.code, 200, "{}", put.text);
    assert_eq!(
        put.json()["metadata"]["resourceVersion"],
        pod["metadata"]["resourceVersion"]
    );

    doors.account("quiet").await;
    let path = format!("{ACCOUNTS}/quiet");
    let quiet = json!({"automountServiceAccountToken": false, "imagePullSecrets": [{"name": "mine"}]});
    let patched = doors
        .server
        .call("PATCH", &path, "application/merge-patch+json", quiet.to_string())
        .await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let mut of_quiet = super::pod("calm", &json!({}));
    of_quiet["spec"]["serviceAccountName"] = json!("quiet");
    let made = doors.server.post(PODS, &of_quiet).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert!(made.json()["spec"]["volumes"].is_null());
    assert_eq!(made.json()["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
    // The account as it is now counts, not as it was for the last pod.
    let loud = json!({"automountServiceAccountToken": true});
    doors
        .server
        .call("PATCH", &path, "application/merge-patch+json", loud.to_string())
        .await;
    of_quiet["metadata"]["name"] = json!("loud");
    let made = doors.server.post(PODS, &of_quiet).await;
    assert!(made.json()["spec"]["volumes"].is_array(), "{}", made.text);
}

#[tokio::test]
async fn a_pod_of_an_account_that_is_not_there_is_refused() {
    let doors = Doors::new().await;
    let mut pod = super::pod("web", &json!({}));
    pod["spec"]["serviceAccountName"] = json!("none");
    let answer = doors.server.post(PODS, &pod).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "pods \"web\" is forbidden: error looking up service account default/none: serviceaccount \"none\" not found"
    );
    let answer = doors
        .server
        .post("/api/v1/namespaces/nowhere/pods", &super::pod("web", &json!({})))
        .await;
    assert_eq!(
        (answer.code.as_u16(), answer.message().as_str()),
        (404, "namespaces \"nowhere\" not found")
    );
}
