//! What is probed.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Answers each path in its own way, and keeps the heads of what it was asked.
#[derive(Debug, Clone)]
pub(super) struct Web {
    pub(super) port: u16,
    pub(super) heads: Arc<Mutex<Vec<String>>>,
    pub(super) asked: watch::Sender<usize>,
    /// The status of `/switch`.
    pub(super) status: Arc<Mutex<u16>>,
}

impl Web {
    pub(super) async fn plain() -> Self {
        Self::serve(None).await
    }

    pub(super) async fn tls() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["somebody.else".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self::serve(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let web = Self {
            port: listener.local_addr().unwrap().port(),
            heads: Arc::default(),
            asked: watch::Sender::new(0),
            status: Arc::new(Mutex::new(200)),
        };
        let served = web.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (web, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                web.answer(stream).await;
                            }
                        }
                        None => web.answer(tcp).await,
                    }
                });
            }
        });
        web
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 8 && !head.starts_with(b"GET /") {
                // No HTTP: what a plain server says to that.
                let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return;
            }
            match stream.read_buf(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        self.heads.lock().unwrap().push(head);
        self.asked.send_modify(|asked| *asked += 1);
        let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 4\r\n\r\nmove");
        let status = |status: u16| format!("HTTP/1.1 {status} X\r\ncontent-length: 6\r\n\r\nsecret");
        let answer = match path.as_str() {
            "/switch" => status(*self.status.lock().unwrap()),
            "/absolute" => redirect(&format!("http://127.0.0.1:{}/200", self.port)),
            "/relative" => redirect("200?x=1"),
            "/away" => redirect("http://elsewhere.invalid/"),
            "/loop" => redirect("/loop"),
            "/nowhere" => "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/slow" => {
                // Until the client has had enough.
                let _gone = stream.read_buf(&mut Vec::new()).await;
                return;
            }
            "/half" => {
                let _gone = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                    .await;
                return;
            }
            "/long" => format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100_000)),
            "/rude" => "what?\r\n\r\n".to_owned(),
            path => {
                let path = path.split('?').next().unwrap_or_default();
                status(path.trim_start_matches('/').parse().unwrap_or(404))
            }
        };
        let _gone = stream.write_all(answer.as_bytes()).await;
        let _gone = stream.shutdown().await;
    }
}

/// A health service: each service has the status of its name, `broken` fails, others are not known.
pub(super) async fn health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service_fn(check)),
            );
        }
    });
    port
}

type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn check(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let frame = request.into_body().collect().await.unwrap().to_bytes();
    let service = String::from_utf8_lossy(frame.get(7..).unwrap_or_default()).into_owned();
    let (status, message, answer) = match service.as_str() {
        "" | "serving" => ("0", "", Some(1)),
        "down" => ("0", "", Some(2)),
        "broken" => ("14", "no%20way", None),
        "hanging" => std::future::pending().await,
        _ => ("12", "unknown service", None),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    trailers.insert("grpc-message", message.parse().unwrap());
    let mut frames = Vec::new();
    if let Some(answer) = answer {
        frames.push(Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, answer]))));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let response = Response::builder().header("content-type", "application/grpc");
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(response.body(body).unwrap())
}

/// A web server that speaks HTTP/2 but knows no health service.
pub(super) async fn no_health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = service_fn(|_| async {
                let response = Response::builder().status(404).body(Full::new(Bytes::new()));
                Ok::<_, Infallible>(response.unwrap())
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    port
}

/// A port that nobody listens on.
pub(super) async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
