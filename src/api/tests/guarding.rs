//! Who gets in, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::api::auth::Identity;
use crate::api::auth::tokens::TokenFile;
use crate::api::guard::{Guard, guarded};
use crate::api::serve::{serve_tls_with, serve_unix_with};
use crate::api::tls::Pki;

struct Tls {
    server: Server,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn moment() -> Timestamp {
    let since = rustls::pki_types::UnixTime::now().as_secs();
    Timestamp::from_second(i64::try_from(since).unwrap()).unwrap()
}

fn impatient() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(200),
        body_timeout: Duration::from_millis(200),
        stop_timeout: Duration::from_millis(200),
        ..Limits::default()
    }
}

impl Tls {
    async fn start(limits: Limits) -> Self {
        let server = Server::with(limits, crate::store::Limits::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pki = Pki::open(server.dir.path(), "node-1", address, None, moment()).unwrap();
        let (stop, stopping) = watch::channel(false);
        let router = server.router.clone();
        let task = tokio::spawn(serve_tls_with(
            listener,
            pki.server_config(server.bearers.clone()).unwrap(),
            router,
            stopping,
            limits,
        ));
        Self {
            server,
            address,
            stop,
            task,
        }
    }

    /// A connection with the certificate of this directory's administrator, or with none.
    async fn connect(&self, client: Option<&std::path::Path>, http2: bool) -> TlsStream<TcpStream> {
        let pem = |dir: &std::path::Path, name: &str| std::fs::read(dir.join("pki").join(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem(self.server.dir.path(), "ca.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(dir) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(&pem(dir, "admin.crt")).unwrap()],
                    PrivateKeyDer::from_pem_slice(&pem(dir, "admin.key")).unwrap(),
                )
                .unwrap(),
        };
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    async fn admin(&self) -> TlsStream<TcpStream> {
        self.connect(Some(self.server.dir.path()), false).await
    }
}

/// Send a whole request and read the answer to the end of the connection.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> String {
    stream
        .write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

const LIST: &str = "GET /api/v1/pods HTTP/1.1\r\nHost: 127.0.0.1";

#[tokio::test]
async fn only_a_certificate_of_our_own_authority_opens_the_door() {
    let tls = Tls::start(Limits::default()).await;
    let other = tempfile::tempdir().unwrap();
    Pki::open(other.path(), "node-1", tls.address, None, moment()).unwrap();
    assert_eq!(code(&exchange(tls.admin().await, LIST).await), "200");
    for client in [None, Some(other.path())] {
        let answer = exchange(tls.connect(client, false).await, LIST).await;
        assert_eq!(code(&answer), "401");
        assert!(answer.contains("\"reason\":\"Unauthorized\""), "{answer}");
        let why = "the client certificate was not made by this server's authority";
        assert_eq!(answer.contains(why), client.is_some(), "{answer}");
        for path in ["/livez", "/healthz", "/version"] {
            let open = format!("GET {path} HTTP/1.1\r\nHost: localhost");
            assert_eq!(
                code(&exchange(tls.connect(client, false).await, &open).await),
                "200",
                "{path}"
            );
        }
        let unready = "GET /readyz HTTP/1.1\r\nHost: localhost";
        assert_eq!(code(&exchange(tls.connect(client, false).await, unready).await), "503");
    }
}

#[tokio::test]
async fn pages_of_browsers_and_bent_names_are_refused() {
    let tls = Tls::start(Limits::default()).await;
    for (head, wanted) in [
        (format!("{LIST}\r\nOrigin: https://evil.example"), "403"),
        (format!("{LIST}\r\nOrigin: null"), "403"),
        (format!("{LIST}\r\nOrigin: file://localhost"), "403"),
        (format!("{LIST}\r\nOrigin: https://localhost.evil.example"), "403"),
        (
            format!("{LIST}\r\nOrigin: https://localhost\r\nOrigin: https://evil.example"),
            "403",
        ),
        // What a page of our own name makes a browser send, as an application in a pod behind the proxy could.
        (
            format!("{LIST}\r\nOrigin: https://localhost\r\nUser-Agent: Mozilla/5.0"),
            "403",
        ),
        (
            format!("{LIST}\r\nOrigin: http://localhost\r\nAccept-Language: en"),
            "403",
        ),
        (
            format!("{LIST}\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin"),
            "403",
        ),
        // An image or a link in a foreign page; and what a person types.
        (format!("{LIST}\r\nSec-Fetch-Site: cross-site"), "403"),
        (format!("{LIST}\r\nSec-Fetch-Site: same-site"), "403"),
        (
            format!("{LIST}\r\nSec-Fetch-Site: none\r\nUser-Agent: Mozilla/5.0"),
            "200",
        ),
        // Python's websocket-client, Kubernetes' test suite, and Node's fetch.
        (format!("{LIST}\r\nOrigin: https://{}", tls.address), "200"),
        (
            format!("{LIST}\r\nOrigin: http://localhost\r\nUser-Agent: e2e.test/v1.36"),
            "200",
        ),
        (
            format!("{LIST}\r\nSec-Fetch-Mode: cors\r\nAccept-Language: *\r\nUser-Agent: node"),
            "200",
        ),
        ("GET /api/v1/pods HTTP/1.1\r\nHost: evil.example".to_owned(), "421"),
        ("GET /livez HTTP/1.1\r\nHost: evil.example:7443".to_owned(), "421"),
        ("GET /api/v1/pods HTTP/1.1\r\nX: y".to_owned(), "421"),
        ("GET /api/v1/pods HTTP/1.1\r\nHost: NODE-1:7443".to_owned(), "200"),
        (format!("GET /api/v1/pods HTTP/1.1\r\nHost: {}", tls.address), "200"),
    ] {
        assert_eq!(code(&exchange(tls.admin().await, &head).await), wanted, "{head}");
    }
}

/// A directory like a state directory, in which the administrator's certificate is somebody's, made by our authority.
fn issued(tls: &Tls, user: &str, groups: &[&str], last_year: i32) -> tempfile::TempDir {
    let ours = tls.server.dir.path().join("pki");
    let read = |name: &str| std::fs::read_to_string(ours.join(name)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), authority).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    for group in groups {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *group);
    }
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("pki")).unwrap();
    std::fs::write(dir.path().join("pki/admin.crt"), certificate.pem()).unwrap();
    std::fs::write(dir.path().join("pki/admin.key"), key.serialize_pem()).unwrap();
    dir
}

#[tokio::test]
async fn a_certificate_says_who_asks_and_in_which_groups() {
    const DELETE: &str = "DELETE /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: localhost";
    let tls = Tls::start(Limits::default()).await;
    let ask =
        async |dir: &tempfile::TempDir, head: &str| exchange(tls.connect(Some(dir.path()), false).await, head).await;
    let viewer = issued(&tls, "vera", &["podd:viewers"], 2090);
    assert_eq!(code(&ask(&viewer, LIST).await), "200");
    let refused = ask(&viewer, DELETE).await;
    assert_eq!(code(&refused), "403");
    assert!(
        refused.contains("User \\\"vera\\\" cannot deletecollection resource"),
        "{refused}"
    );
    let master = issued(&tls, "max", &["system:masters"], 2090);
    assert_eq!(code(&ask(&master, DELETE).await), "200");
    let nobody = issued(&tls, "ned", &[], 2090);
    assert_eq!(code(&ask(&nobody, LIST).await), "403");
    assert_eq!(code(&ask(&nobody, &LIST.replace("/api/v1/pods", "/api")).await), "200");
    let expired = ask(&issued(&tls, "max", &["system:masters"], 2021), LIST).await;
    assert_eq!(code(&expired), "401");
    assert!(
        expired.contains("Unauthorized: the client certificate has expired"),
        "{expired}"
    );
    let nameless = ask(&issued(&tls, "", &["system:masters"], 2090), LIST).await;
    assert_eq!(code(&nameless), "401");
    assert!(nameless.contains("has no common name"), "{nameless}");
}

#[tokio::test]
async fn a_token_opens_the_door_until_it_is_revoked() {
    let tls = Tls::start(Limits::default()).await;
    let file = TokenFile::open(tls.server.dir.path()).unwrap();
    let identity = |user: &str, group: &str| Identity {
        user: user.to_owned(),
        groups: vec![group.to_owned()],
        ..Identity::default()
    };
    let token = file.create(&identity("vera", "podd:viewers")).unwrap();
    let mut stream = tls.connect(None, false).await;
    let mut ask = async |method: &str, path: &str, token: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // An answer with its body: all of these are short and have a length.
        while !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        code(&String::from_utf8(answer).unwrap()).to_owned()
    };
    assert_eq!(ask("GET", "/api/v1/pods", &token).await, "200");
    assert_eq!(ask("POST", PODS, &token).await, "403");
    assert_eq!(ask("GET", "/api/v1/pods", "guess").await, "401");
    assert_eq!(file.revoke_all("vera").unwrap(), 1);
    assert_eq!(ask("GET", "/api/v1/pods", &token).await, "401");
    let token = file.create(&identity("max", "system:masters")).unwrap();
    assert_eq!(ask("DELETE", PODS, &token).await, "200");
    // A certificate that is not believed does not spoil a good token, nor a bad token a good certificate.
    let other = tempfile::tempdir().unwrap();
    Pki::open(other.path(), "node-1", tls.address, None, moment()).unwrap();
    let head = format!("{LIST}\r\nAuthorization: Bearer {token}");
    let foreign = tls.connect(Some(other.path()), false).await;
    assert_eq!(code(&exchange(foreign, &head).await), "200");
    let head = format!("{LIST}\r\nAuthorization: Bearer guess");
    assert_eq!(code(&exchange(tls.admin().await, &head).await), "200");
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    const KEEP: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let tls = Tls::start(impatient()).await;
    let ask = async |stream: &mut TlsStream<TcpStream>| {
        stream.write_all(KEEP.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
    };
    let mut idle = tls.admin().await;
    ask(&mut idle).await;
    // One that says nothing from the beginning, and one that stops within its second head, are closed meanwhile.
    let mut half = tls.admin().await;
    ask(&mut half).await;
    half.write_all(b"GET /livez HT").await.unwrap();
    let mut rest = Vec::new();
    let _either = half.read_to_end(&mut rest).await;
    let _either = tls.admin().await.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    ask(&mut idle).await;

    let tls = Tls::start(Limits {
        idle_timeout: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let mut idle = tls.admin().await;
    ask(&mut idle).await;
    let _either = idle.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let tls = Tls::start(impatient()).await;
    // No handshake at all; no request; half a head; HTTP/2 without a word.
    let mut bare = TcpStream::connect(tls.address).await.unwrap();
    let mut silent = tls.admin().await;
    let mut half = tls.admin().await;
    half.write_all(b"GET /api/v1/pods HT").await.unwrap();
    let mut h2 = tls.connect(Some(tls.server.dir.path()), true).await;
    let mut rest = Vec::new();
    for result in [
        bare.read_to_end(&mut rest).await,
        silent.read_to_end(&mut rest).await,
        half.read_to_end(&mut rest).await,
        h2.read_to_end(&mut rest).await,
    ] {
        // Closed either way: with a proper end, or in the middle of TLS.
        drop(result);
    }
    // A body that does not come.
    let mut slow = tls.admin().await;
    let head = format!(
        "POST {PODS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    drop(slow.read_to_end(&mut answer).await);
    assert_eq!(code(&String::from_utf8_lossy(&answer)), "408");
    assert_eq!(code(&exchange(tls.admin().await, LIST).await), "200");
}

#[tokio::test]
async fn stopping_ends_watches_and_closes_the_listener() {
    let tls = Tls::start(Limits::default()).await;
    let mut watching = tls.admin().await;
    watching
        .write_all(format!("GET {PODS}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut head = [0; 12];
    watching.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    tls.stop.send_replace(true);
    let mut rest = Vec::new();
    watching.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the watch ends properly");
    tls.task.await.unwrap();
    assert!(TcpStream::connect(tls.address).await.is_err());
}

#[tokio::test]
async fn root_needs_no_certificate_on_the_unix_socket() {
    let server = Server::start().await;
    let path = server.dir.path().join("podd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve_unix_with(
        listener,
        server.router.clone(),
        stopping,
        Limits::default(),
    ));
    // curl --unix-socket sends whatever host is in its URL.
    let head = "GET /api/v1/pods HTTP/1.1\r\nHost: podd";
    assert_eq!(
        code(&exchange(UnixStream::connect(&path).await.unwrap(), head).await),
        "200"
    );
    stop.send_replace(true);
    task.await.unwrap();
}

#[tokio::test]
async fn without_a_listener_nobody_is_anyone() {
    let server = Server::start().await;
    let guarded = guarded(server.router.clone(), Guard::new(&Limits::default(), None));
    let request = Request::get("/api/v1/pods").body(Body::empty()).unwrap();
    assert_eq!(
        guarded.oneshot(request).await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_handler_that_panics_is_a_status() {
    async fn panics() -> &'static str {
        panic!("a secret")
    }
    let router = Router::new().route("/version", axum::routing::get(panics));
    let response = guarded(router, Guard::new(&Limits::default(), None));
    let request = Request::get("/version").body(Body::empty()).unwrap();
    let response = response.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(status["reason"], "InternalError");
    assert!(!status.to_string().contains("secret"));
}
