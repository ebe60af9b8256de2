//! The pod proxy from the request to a server that stands for the pod's, and back.

use std::sync::Arc;

use serde_json::json;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::api::Limits;
use crate::api::serve::serve_unix_with;

/// What the server got, one request after the other, answered with what it was told to.
struct Pod {
    address: SocketAddr,
    task: tokio::task::JoinHandle<String>,
}

impl Pod {
    /// Reads a request up to `end`, and answers.
    async fn answering(end: &'static str, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !String::from_utf8_lossy(&got).ends_with(end) {
                assert!(connection.read_buf(&mut got).await.unwrap() > 0, "{got:?}");
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
            if answer.starts_with("HTTP/1.1 101") {
                // What was upgraded to: everything comes back in capitals.
                let mut buffer = [0; 100];
                while let Ok(length @ 1..) = connection.read(&mut buffer).await {
                    connection
                        .write_all(&buffer[..length].to_ascii_uppercase())
                        .await
                        .unwrap();
                }
            }
            String::from_utf8(got).unwrap()
        });
        Self { address, task }
    }

    fn target(&self) -> Target {
        Target {
            is_https: false,
            address: self.address,
        }
    }
}

fn context() -> Context {
    Context {
        idle_limit: Duration::MAX,
        stop_timeout: Duration::from_secs(1),
        stopping: None,
    }
}

async fn permit() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap()
}

async fn passed(request: Request, target: &Target) -> (StatusCode, HeaderMap, String) {
    let response = pass(request, target, permit().await, context())
        .await
        .unwrap_or_else(IntoResponse::into_response);
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

const PROXY: &str = "/api/v1/namespaces/n/pods/http:p:80/proxy";

#[tokio::test]
async fn a_request_goes_on_without_what_is_its_clients_own() {
    let pod = Pod::answering(
        "the body",
        "HTTP/1.1 201 Created\r\ncontent-length: 6\r\nconnection: close, x-hop\r\nx-hop: 1\r\nx-end: 2\r\naccess-control-allow-origin: *\r\n\r\nanswer",
    )
    .await;
    let request = Request::put(format!("{PROXY}/a%2Fb/c?q=1"))
        .header("host", "127.0.0.1:7443")
        .header("authorization", "Bearer secret")
        .header("impersonate-user", "secret")
        .header("x-remote-extra-scopes", "secret")
        .header("connection", "x-mine")
        .header("x-mine", "hop")
        .header("cookie", "kept")
        .body(Body::from("the body"))
        .unwrap();
    let (code, headers, body) = passed(request, &pod.target()).await;
    assert_eq!((code, body.as_str()), (StatusCode::CREATED, "answer"));
    assert!(headers.contains_key("x-end"));
    for gone in ["connection", "x-hop", "access-control-allow-origin"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    let got = pod.task.await.unwrap();
    assert!(got.starts_with("PUT /a%2Fb/c?q=1 HTTP/1.1\r\n"), "{got}");
    for kept in [
        "host: 127.0.0.1:7443",
        "cookie: kept",
        "x-forwarded-uri: /api/v1/namespaces/n/pods/http:p:80/proxy/a%2Fb/c",
        "x-forwarded-host: 127.0.0.1:7443",
    ] {
        assert!(got.contains(kept), "{kept}: {got}");
    }
    assert!(!got.contains("secret") && !got.contains("x-mine"), "{got}");
}

#[tokio::test]
async fn redirects_lead_through_the_proxy() {
    for (location, expected) in [
        ("/login", Some(format!("{PROXY}/login"))),
        ("http://127.0.0.1:7443/x?y=1", Some(format!("{PROXY}/x?y=1"))),
        ("next", None),
        ("https://example.com/x", None),
        ("//example.com/x", None),
    ] {
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let pod = Pod::answering("\r\n\r\n", answer.leak()).await;
        let request = Request::get(format!("{PROXY}/"))
            .header("host", "127.0.0.1:7443")
            .body(Body::empty())
            .unwrap();
        let (_, headers, _) = passed(request, &pod.target()).await;
        assert_eq!(
            headers["location"],
            expected.unwrap_or_else(|| location.to_owned()),
            "{location}"
        );
    }
    // Without its slash, the root itself is one.
    let nowhere = Target {
        is_https: false,
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let request = Request::get(format!("{PROXY}?a=b")).body(Body::empty()).unwrap();
    let (code, headers, _) = passed(request, &nowhere).await;
    assert_eq!(code, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(headers["location"], format!("{PROXY}/?a=b"));
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_unavailable() {
    let nowhere = Target {
        is_https: false,
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let request = Request::get(format!("{PROXY}/")).body(Body::empty()).unwrap();
    let (code, _, body) = passed(request, &nowhere).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["reason"], "ServiceUnavailable");
    assert_eq!(
        status["message"],
        "error trying to reach service: dial tcp 127.0.0.1:1: connect: connection refused"
    );
}

#[tokio::test]
async fn other_protocols_go_through_both_ways() {
    let pod = Pod::answering(
        "\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
    let target = pod.target();
    let router = axum::Router::new().fallback(move |request: Request| {
        let target = target.clone();
        async move {
            pass(request, &target, permit().await, context())
                .await
                .unwrap_or_else(IntoResponse::into_response)
        }
    });
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve_unix_with(listener, router, stopping, Limits::default()));
    let mut client = UnixStream::connect(dir.path().join("sock")).await.unwrap();
    let request = format!(
        "GET {PROXY}/ws HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0, chat\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        assert!(client.read_buf(&mut got).await.unwrap() > 0);
    }
    let head = String::from_utf8(got).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"),
        "{head}"
    );
    client.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HELLO");
    drop(client);
    let got = pod.task.await.unwrap();
    assert!(
        got.contains("sec-websocket-protocol: chat\r\n") && got.contains("sec-websocket-key: k"),
        "{got}"
    );
    stop.send_replace(true);
    serving.await.unwrap();
}

#[tokio::test]
async fn the_certificates_of_pods_are_not_checked() {
    let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut tls = acceptor.accept(tcp).await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            assert!(tls.read_buf(&mut got).await.unwrap() > 0);
        }
        tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret")
            .await
            .unwrap();
        tls.shutdown().await.unwrap();
    });
    let target = Target {
        is_https: true,
        address,
    };
    let request = Request::get(format!("{PROXY}/")).body(Body::empty()).unwrap();
    let (code, _, body) = passed(request, &target).await;
    assert_eq!((code, body.as_str()), (StatusCode::OK, "secret"));
}

#[test]
fn ids_name_scheme_and_port() {
    assert_eq!(split("p"), Some(("", "p", "")));
    assert_eq!(split("p:80"), Some(("", "p", "80")));
    assert_eq!(split("https:p:80"), Some(("https", "p", "80")));
    assert_eq!(split("https:p:"), Some(("https", "p", "")));
    for wrong in ["", ":80", "ftp:p:80", "a:b:c:d"] {
        assert_eq!(split(wrong), None, "{wrong}");
    }
}

#[test]
fn the_first_port_of_the_containers_is_meant_where_none_is_named() {
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}, {"containerPort": 9090}]}]},
        "status": {"podIP": "10.244.0.9"},
    }))
    .unwrap();
    let of = |scheme, port| Target::of(&pod, scheme, port).map(|t| (t.is_https, t.address.to_string()));
    assert_eq!(of("", "").unwrap(), (false, "10.244.0.9:8080".to_owned()));
    assert_eq!(of("https", "1").unwrap(), (true, "10.244.0.9:1".to_owned()));
    assert_eq!(of("", "web").unwrap_err().reason_and_code().0, "ServiceUnavailable");
}

#[test]
fn addresses_of_the_machine_itself_are_not_for_the_proxy() {
    for (ip, expected) in [
        ("10.244.0.2", true),
        ("fd00::2", true),
        ("127.0.0.1", false),
        ("::1", false),
        ("0.0.0.0", false),
        ("169.254.169.254", false),
        ("fe80::1", false),
        ("224.0.0.1", false),
    ] {
        assert_eq!(is_proxyable(&ip.parse().unwrap()), expected, "{ip}");
    }
}
