//! Who may do what: every route of the document and those beside it, times the roles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderMap;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::api::auth::Identity;
use crate::api::auth::attributes::{Attributes, Resource, Target};
use crate::api::auth::identity::{MASTERS, VIEWERS};
use crate::api::auth::rules::{is_named, is_public};
use crate::api::auth::tokens::TokenFile;
use crate::api::guard::{Guard, Peer, Shown, guarded};
use crate::api::tests::bearers;
use tokio_util::task::TaskTracker;

/// Served, or to be served, and not in the document: streams, discovery, the document itself, podd's images. And what is
/// served nowhere must be closed as well.
const BESIDE: &[(&str, &str)] = &[
    ("GET", "/api"),
    ("GET", "/api/v1"),
    ("GET", "/apis"),
    ("GET", "/apis/authorization.k8s.io/v1"),
    ("GET", "/.well-known/openid-configuration"),
    ("GET", "/openid/v1/jwks"),
    ("GET", "/openapi.json"),
    ("GET", "/openapi/v2"),
    ("GET", "/openapi/v3"),
    ("GET", "/openapi/v3/api/v1"),
    ("GET", "/podd/v1/images"),
    ("DELETE", "/podd/v1/images"),
    ("POST", "/podd/v1/images/import"),
    ("GET", "/podd/v1/images/inspect"),
    ("GET", "/podd/v1/images/export"),
    ("POST", "/podd/v1/images/tag"),
    ("POST", "/podd/v1/images/prune"),
    ("POST", "/podd/v1/images/verify"),
    ("POST", "/podd/v1/images/repair"),
    ("POST", "/podd/v1/images/pull"),
    ("POST", "/podd/v1/images/push"),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/exec"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/{name}/exec"),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/attach"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/{name}/attach"),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/portforward"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/{name}/portforward"),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/proxy"),
    ("GET", "/api/v1/namespaces/{namespace}/pods/{name}/proxy/a"),
    ("PUT", "/api/v1/namespaces/{namespace}/pods/{name}/proxy/a"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/{name}/binding"),
    ("POST", "/api/v1/namespaces/{namespace}/pods/{name}/eviction"),
    (
        "PATCH",
        "/api/v1/namespaces/{namespace}/pods/{name}/ephemeralcontainers",
    ),
    ("PATCH", "/api/v1/namespaces/{namespace}/pods/{name}/resize"),
    ("GET", "/api/v1/secrets"),
    ("GET", "/api/v1/namespaces/{namespace}/secrets"),
    ("GET", "/api/v1/namespaces/{namespace}/secrets?watch=1"),
    ("GET", "/api/v1/namespaces/{namespace}/secrets/{name}"),
    ("POST", "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"),
    ("GET", "/api/v1/nodes/{name}/proxy"),
    ("GET", "/api/v1/namespaces/{namespace}/configmaps"),
    ("POST", "/api/v1/namespaces/{namespace}/configmaps"),
    ("GET", "/api/v1/namespaces/{namespace}/events"),
    ("PATCH", "/api/v1/nodes/{name}"),
    ("OPTIONS", "/api/v1/pods"),
    ("POST", "/version"),
];
/// No rule names these, nor should one.
const UNKNOWN: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/debug/pprof"),
    ("GET", "/api/v1/surprises"),
    ("GET", "/apis/example.com/v1/surprises"),
    ("GET", "/apis/example.com/v1/secrets"),
];

/// Method and path of every operation in a document.
fn routes(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let mut routes = BTreeSet::new();
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            if ["get", "put", "post", "delete", "patch", "options", "head"].contains(&method.as_str()) {
                routes.insert((path.clone(), method.to_uppercase()));
            }
        }
    }
    assert!(!routes.is_empty());
    routes
}

/// Every route there is, once: path, then method.
fn all() -> BTreeSet<(String, String)> {
    let written: Value = serde_json::from_str(include_str!("../../../openapi/podd.json")).unwrap();
    let mut all = routes(&written);
    all.extend(routes(
        &crate::api::openapi::document(crate::api::openapi::Version::V3_1).unwrap(),
    ));
    all.extend(
        BESIDE
            .iter()
            .map(|(method, path)| ((*path).to_owned(), (*method).to_owned())),
    );
    all
}

fn filled(path: &str) -> String {
    let mut text = path.replace("{namespace}", "default");
    while let (Some(from), Some(to)) = (text.find('{'), text.find('}')) {
        text.replace_range(from..=to, "x");
    }
    text
}

fn in_group(user: &str, group: Option<&str>) -> Arc<Identity> {
    Arc::new(Identity {
        user: user.to_owned(),
        groups: group.into_iter().map(str::to_owned).collect(),
        ..Identity::default()
    })
}

fn known(identity: Arc<Identity>) -> Shown {
    Shown::Known { identity, until: None }
}

/// The roles: no credentials, credentials without any group, a service account of the namespace `default` and one of
/// another, viewers, masters.
fn roles() -> [(&'static str, Shown); 6] {
    let account = |namespace: &str| {
        known(Arc::new(Identity {
            user: format!("system:serviceaccount:{namespace}:a"),
            groups: crate::account::groups(namespace),
            ..Identity::default()
        }))
    };
    [
        ("none", Shown::Nothing),
        ("nobody", known(in_group("ned", None))),
        ("account", account("default")),
        ("stranger", account("other")),
        ("viewer", known(in_group("vera", Some(VIEWERS)))),
        ("master", known(in_group("max", Some(MASTERS)))),
    ]
}

fn peer(shown: Shown) -> Peer {
    Peer {
        shown,
        hosts: None,
        local: None,
        remote: None,
        stopping: watch::channel(false).1,
        streams: TaskTracker::new(),
    }
}

fn guard() -> Guard {
    Guard::new(&Limits::default(), None)
}

async fn ask(router: &Router, shown: Shown, mut request: Request<Body>) -> Answer {
    request.extensions_mut().insert(peer(shown));
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        code: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

#[test]
fn every_route_has_a_rule() {
    for (path, method) in all() {
        let uri = filled(&path).parse().unwrap();
        let asked = Attributes::of(&method.parse().unwrap(), &uri);
        assert!(
            is_named(&asked.target),
            "{method} {path} has no rule: say in src/api/auth/rules.rs who may do this"
        );
    }
    for (method, path) in UNKNOWN {
        let asked = Attributes::of(&method.parse().unwrap(), &path.parse().unwrap());
        assert!(!is_named(&asked.target), "{method} {path}");
    }
}

#[tokio::test]
async fn the_matrix_of_routes_and_roles() {
    let reached = || async { StatusCode::NO_CONTENT };
    let router = guarded(Router::new().fallback(reached), guard());
    let mut matrix = Vec::new();
    let beside = UNKNOWN
        .iter()
        .map(|(method, path)| ((*path).to_owned(), (*method).to_owned()));
    for (path, method) in all().into_iter().chain(beside) {
        let mut cells = Vec::new();
        for (role, shown) in roles() {
            let answer = ask(&router, shown, request(&method, &filled(&path))).await;
            let word = match answer.code {
                StatusCode::NO_CONTENT => "yes",
                StatusCode::UNAUTHORIZED => "401",
                StatusCode::FORBIDDEN => "403",
                other => panic!("{method} {path} as {role}: {other}"),
            };
            cells.push(format!("{role} {word}"));
        }
        matrix.push(format!("{}  {method} {path}", cells.join("  ")));
    }
    insta::assert_snapshot!(matrix.join("\n"));
}

#[tokio::test]
async fn what_is_refused_has_no_effect_and_its_body_is_not_read() {
    let server = Server::start().await;
    server.create("x", &json!({})).await;
    let router = guarded(server.router.clone(), guard());
    let before = server.store.resource_version().await.unwrap();
    let mut refused = 0;
    for (path, method) in all() {
        let path = filled(&path);
        for (role, shown) in roles() {
            if role == "master" || is_public(&path) {
                continue;
            }
            let uri = path.parse().unwrap();
            let asked = Attributes::of(&method.parse().unwrap(), &uri);
            let allowed = match &shown {
                Shown::Known { identity, .. } => {
                    let identity = Identity::clone(identity).with_standing();
                    crate::api::auth::rules::authorize(&identity, &asked).is_allowed()
                }
                Shown::Nothing | Shown::Refused(_) => false,
            };
            if allowed {
                continue;
            }
            let read = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&read);
            let body = futures_util::stream::once(async move {
                seen.store(true, Ordering::SeqCst);
                Ok::<_, std::io::Error>(Bytes::from(pod("new", &json!({})).to_string()))
            });
            let request = Request::builder()
                .method(method.as_str())
                .uri(&path)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from_stream(body))
                .unwrap();
            let answer = ask(&router, shown, request).await;
            let expected = if role == "none" { 401 } else { 403 };
            assert_eq!(answer.code, expected, "{method} {path} as {role}");
            if method != "HEAD" {
                assert_eq!(answer.json()["kind"], "Status", "{method} {path} as {role}");
            }
            assert!(!read.load(Ordering::SeqCst), "{method} {path} as {role}");
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
    assert_eq!(server.store.resource_version().await.unwrap(), before);
}

#[tokio::test]
async fn refusals_are_worded_as_kubernetes_words_them() {
    let server = Server::start().await;
    let router = guarded(server.router.clone(), guard());
    let viewer = || known(in_group("vera", Some(VIEWERS)));
    for (method, path, message, details) in [
        (
            "POST",
            PODS,
            "pods is forbidden: User \"vera\" cannot create resource \"pods\" in API group \"\" in the namespace \"default\"",
            json!({"kind": "pods"}),
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/x/exec",
            "pods \"x\" is forbidden: User \"vera\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"",
            json!({"kind": "pods", "name": "x"}),
        ),
        (
            "GET",
            "/api/v1/secrets",
            "secrets is forbidden: User \"vera\" cannot list resource \"secrets\" in API group \"\" at the cluster scope",
            json!({"kind": "secrets"}),
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/d",
            "deployments.apps \"d\" is forbidden: User \"vera\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"a\"",
            json!({"kind": "deployments", "group": "apps", "name": "d"}),
        ),
        (
            "DELETE",
            "/podd/v1/images?name=a",
            "forbidden: User \"vera\" cannot delete path \"/podd/v1/images\"",
            json!({}),
        ),
    ] {
        let answer = ask(&router, viewer(), request(method, path)).await;
        assert_eq!(answer.code, 403, "{path}");
        let status = answer.json();
        assert_eq!(
            status,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                "reason": "Forbidden", "details": details, "code": 403})
        );
    }
    let answer = ask(&router, Shown::Nothing, request("GET", PODS)).await;
    assert_eq!(
        answer.json(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "Unauthorized",
            "reason": "Unauthorized", "code": 401})
    );
    let answer = ask(&router, Shown::Refused("it is a forgery"), request("GET", PODS)).await;
    assert_eq!(
        (answer.code.as_u16(), answer.message()),
        (401, "Unauthorized: it is a forgery".to_owned())
    );
}

#[tokio::test]
async fn a_certificate_is_good_no_longer_than_its_time() {
    let server = Server::start().await;
    let router = guarded(server.router.clone(), guard());
    let until = |until| Shown::Known {
        identity: in_group("max", Some(MASTERS)),
        until: Some(until),
    };
    assert_eq!(ask(&router, until(u64::MAX), request("GET", PODS)).await.code, 200);
    let answer = ask(&router, until(1), request("GET", PODS)).await;
    assert_eq!(answer.code, 401);
    assert_eq!(answer.message(), "Unauthorized: the client certificate has expired");
}

/// A state directory with tokens, and a router behind a guard that knows them. It answers with the headers it was given.
struct Door {
    _root: tempfile::TempDir,
    router: Router,
    viewer: String,
}

impl Door {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("podd.db")).await.unwrap();
        let file = TokenFile::open(root.path()).unwrap();
        let viewer = file.create(&in_group("vera", Some(VIEWERS))).unwrap();
        let guard = Guard::new(&Limits::default(), Some(bearers(root.path(), &store)));
        let told = |headers: HeaderMap, axum::Extension(identity): axum::Extension<Arc<Identity>>| async move {
            format!("{identity:?} {headers:?}")
        };
        let public = axum::routing::get(|| async { "ok" });
        Self {
            _root: root,
            router: guarded(Router::new().route("/livez", public).fallback(told), guard),
            viewer,
        }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ask(&self.router, Shown::Nothing, request.body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn a_token_says_who_asks_and_no_handler_sees_it() {
    let door = Door::new().await;
    let bearer = format!("Bearer {}", door.viewer);
    let answer = door.ask(PODS, &[("authorization", &bearer)]).await;
    assert_eq!(answer.code, 200);
    assert!(
        answer.text.contains("vera") && answer.text.contains("system:authenticated"),
        "{}",
        answer.text
    );
    assert!(!answer.text.contains(&door.viewer), "{}", answer.text);
    // Nowhere else.
    let basic = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("vera:{}", door.viewer),
    );
    for (path, headers) in [
        (format!("{PODS}?token={}", door.viewer), vec![]),
        (format!("{PODS}?access_token={}", door.viewer), vec![]),
        (PODS.to_owned(), vec![("authorization", format!("Basic {basic}"))]),
        (PODS.to_owned(), vec![("authorization", door.viewer.clone())]),
        (PODS.to_owned(), vec![("authorization", format!("{bearer}x"))]),
        (PODS.to_owned(), vec![("cookie", format!("token={}", door.viewer))]),
        (
            PODS.to_owned(),
            vec![
                ("x-remote-user", "max".to_owned()),
                ("x-remote-group", MASTERS.to_owned()),
            ],
        ),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(door.ask(&path, &headers).await.code, 401, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn a_websocket_may_carry_its_token_among_the_subprotocols() {
    let door = Door::new().await;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &door.viewer);
    let protocol = format!("base64url.bearer.authorization.k8s.io.{encoded}, v4.channel.k8s.io");
    let websocket = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", protocol.as_str()),
    ];
    let answer = door.ask("/api/v1/pods?watch=1", &websocket).await;
    assert_eq!(answer.code, 200);
    assert!(
        answer
            .text
            .contains("\"sec-websocket-protocol\": \"v4.channel.k8s.io\""),
        "{}",
        answer.text
    );
    assert!(!answer.text.contains(&encoded), "{}", answer.text);
    let plain = [("sec-websocket-protocol", protocol.as_str())];
    assert_eq!(door.ask("/api/v1/pods", &plain).await.code, 401);
    let alone = format!("base64url.bearer.authorization.k8s.io.{encoded}");
    let alone = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", alone.as_str()),
    ];
    let answer = door.ask("/api/v1/pods?watch=1", &alone).await;
    assert_eq!(answer.code, 401);
    assert_eq!(answer.message(), "Unauthorized: missing additional subprotocol");
}

#[tokio::test]
async fn whoever_tries_many_tokens_has_to_wait_even_with_a_good_one() {
    let door = Door::new().await;
    let mut codes = Vec::new();
    for n in 0..30 {
        let guess = format!("Bearer guess-{n}");
        codes.push(door.ask(PODS, &[("authorization", &guess)]).await.code.as_u16());
    }
    assert_eq!(codes[0], 401);
    assert_eq!(codes[29], 429);
    let bearer = format!("Bearer {}", door.viewer);
    let answer = door.ask(PODS, &[("authorization", &bearer)]).await;
    assert_eq!(answer.code, 429);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    // Without a token there is nothing to guess.
    assert_eq!(door.ask("/livez", &[("authorization", "Bearer x")]).await.code, 200);
}

#[tokio::test]
async fn masters_may_ask_as_somebody_else_and_nobody_else_may() {
    let told = |headers: HeaderMap, axum::Extension(identity): axum::Extension<Arc<Identity>>| async move {
        format!("{identity:?} {headers:?}")
    };
    let router = guarded(Router::new().fallback(told), guard());
    let ask_as = |shown: Shown, path: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (router, request) = (router.clone(), request.body(Body::empty()).unwrap());
        async move { ask(&router, shown, request).await }
    };
    let master = || known(in_group("max", Some(MASTERS)));
    let viewer = vec![("Impersonate-User", "jane"), ("Impersonate-Group", VIEWERS)];
    let answer = ask_as(master(), "/api/v1/pods", viewer.clone()).await;
    assert_eq!(answer.code, 200);
    assert!(
        answer.text.contains("jane") && !answer.text.contains("impersonate"),
        "{}",
        answer.text
    );
    let answer = ask_as(master(), "/api/v1/secrets", viewer.clone()).await;
    assert_eq!(
        answer.message(),
        "secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
    let answer = ask_as(known(in_group("vera", Some(VIEWERS))), "/api/v1/pods", viewer).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "users \"jane\" is forbidden: User \"vera\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let headless = vec![("Impersonate-Group", MASTERS)];
    assert_eq!(ask_as(master(), "/api/v1/pods", headless).await.code, 400);
}

/// A piece of a path, as it is or with some of it escaped, or another one.
fn piece(own: String) -> impl Strategy<Value = String> {
    let escaped = own.bytes().next().map_or_else(String::new, |first| {
        format!("%{first:02x}{}", own.get(1..).unwrap_or_default())
    });
    prop_oneof![
        8 => Just(own),
        2 => Just(escaped),
        1 => prop::sample::select(vec![
            "", ".", "..", "a%2Fb", "watch", "proxy", "namespaces", "pods", "secrets", "exec", "log", "status", "finalize",
        ])
        .prop_map(str::to_owned),
    ]
}

/// A path like one that is served.
fn path_like(routes: Vec<String>) -> impl Strategy<Value = String> {
    prop::sample::select(routes).prop_flat_map(|route| {
        let pieces: Vec<_> = route.split('/').skip(1).map(|own| piece(own.to_owned())).collect();
        pieces.prop_map(|pieces| format!("/{}", pieces.join("/")))
    })
}

#[test]
fn the_guard_understands_a_path_as_the_router_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start());
    // Instead of a handler's answer, the pattern that led to it.
    let told = |matched: axum::extract::MatchedPath| async move { matched.as_str().to_owned() };
    let router = server.router.clone().route_layer(axum::middleware::from_fn(
        move |matched: axum::extract::MatchedPath, _: axum::extract::Request, _: axum::middleware::Next| told(matched),
    ));
    let known = all().into_iter().map(|(path, _)| filled(&path)).collect();
    let kind = |asked: Attributes| match asked.target {
        Target::Resource(Resource {
            group,
            version,
            plural,
            subresource,
            ..
        }) => Some((asked.verb, group, version, plural, subresource)),
        Target::Path(_) => None,
    };
    let hits = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2000));
    let result = runner.run(&path_like(known), |path| {
        let uri: axum::http::Uri = path.parse().unwrap();
        let request = Request::get(uri.clone()).body(Body::empty()).unwrap();
        let response = runtime.block_on(router.clone().oneshot(request)).unwrap();
        if response.status() == StatusCode::OK {
            hits.set(hits.get() + 1);
            let bytes = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
            let mut pattern = filled(std::str::from_utf8(&bytes).unwrap());
            if let Some(query) = uri.query() {
                pattern = format!("{pattern}?{query}");
            }
            let meant = Attributes::of(&axum::http::Method::GET, &pattern.parse().unwrap());
            let seen = Attributes::of(&axum::http::Method::GET, &uri);
            prop_assert_eq!(kind(seen), kind(meant), "{} is served as {}", path, pattern);
        }
        Ok(())
    });
    result.unwrap();
    assert!(hits.get() > 100, "{}", hits.get());
}

#[tokio::test]
async fn more_requests_than_are_worked_on_wait_for_their_turn() {
    let server = Server::start().await;
    let limits = Limits {
        requests: 2,
        ..Limits::default()
    };
    let router = guarded(server.router.clone(), Guard::new(&limits, None));
    let asks = (0..100).map(|_| {
        let request = Request::get(PODS).body(Body::empty()).unwrap();
        ask(&router, known(in_group("max", Some(MASTERS))), request)
    });
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer.code, 200, "{}", answer.text);
    }
}
