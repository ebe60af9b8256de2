//! Streams as their clients meet them: the router behind a real listener, and processes of this machine as the pod's.

pub(in crate::api) mod fake;
mod forwarding;
mod programs;
mod proxying;
mod refusals;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::spdy::{Decoder, Encoder, Event};
use super::websocket::tests::masked;
use super::{spdy, websocket};
use crate::api::serve::serve_unix_with;
use crate::api::{ApiState, Limits, router_with};
use crate::model::{Timestamp, Uid};
use crate::store::Store;
use fake::Local;

const WEB: &str = "/api/v1/namespaces/default/pods/web";
const FOR_EVER: Duration = Duration::MAX;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A listener with one pod, `web`, whose containers `main` and `side` run, and `idle` does not.
struct Rig {
    _dir: tempfile::TempDir,
    store: Store,
    local: Arc<Local>,
    socket: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Rig {
    async fn start() -> Self {
        Self::with(Limits::default(), FOR_EVER).await
    }

    async fn with(limits: Limits, idle: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        crate::garbage::bootstrap(&store, &crate::api::tests::garbage())
            .await
            .unwrap();
        let local = Local::new(dir.path().to_owned());
        let (_ready, ready) = watch::channel(true);
        let state = ApiState {
            store: store.clone(),
            node_name: "node-1".to_owned(),
            log_dir: dir.path().join("logs"),
            ready,
            streams: Arc::<Local>::clone(&local),
            streaming_idle_timeout: idle,
            bearers: crate::api::tests::bearers(dir.path(), &store),
            address: crate::api::tests::garbage().api,
            clock: now,
        };
        let socket = dir.path().join("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve_unix_with(listener, router_with(state, limits), stopping, limits));
        let rig = Self {
            _dir: dir,
            store,
            local,
            socket,
            stop,
            task,
        };
        rig.pod("web", &["main", "side", "idle"], &["main", "side"], &json!({}))
            .await;
        rig
    }

    async fn pod(&self, name: &str, containers: &[&str], running: &[&str], more: &Value) {
        let containers: Vec<Value> = containers
            .iter()
            .map(|c| json!({"name": c, "image": "busybox:test", "ports": [{"containerPort": 8080}]}))
            .collect();
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}});
        let body = pod.to_string();
        let head = format!(
            "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (answer, _) = self.ask(&head).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let uid = self.store.get("Pod", "default", name).await.unwrap().unwrap().uid;
        let statuses: Vec<Value> = running
            .iter()
            .map(|c| {
                json!({"name": c, "image": "busybox:test", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
            })
            .collect();
        let mut status = json!({"phase": "Running", "containerStatuses": statuses});
        for (name, value) in more.as_object().unwrap() {
            status[name] = value.clone();
        }
        self.store.set_status(&Uid(uid.0), status).await.unwrap();
    }

    /// Send a request; the head of its answer, and the connection with what came after it.
    async fn ask(&self, request: &str) -> (String, Socket) {
        let mut io = UnixStream::connect(&self.socket).await.unwrap();
        io.write_all(request.as_bytes()).await.unwrap();
        let mut input = BytesMut::new();
        let end = loop {
            if let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(io.read_buf(&mut input).await.unwrap() > 0, "{input:?}");
        };
        let head = input.split_to(end);
        (String::from_utf8(head.to_vec()).unwrap(), Socket { io, input })
    }

    /// The status of what must be refused.
    async fn refused(&self, method: &str, path: &str, headers: &str) -> Value {
        let (head, mut socket) = self
            .ask(&format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n"
            ))
            .await;
        assert!(!head.contains(" 101 "), "{head}");
        let body = socket.rest().await;
        serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {head}{body:?}"))
    }

    async fn websocket(&self, path: &str, protocol: &str) -> Socket {
        let offer = if protocol.is_empty() {
            String::new()
        } else {
            format!("sec-websocket-protocol: {protocol}\r\n")
        };
        let (head, socket) = self
            .ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n{offer}{WEBSOCKET}\r\n"))
            .await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains(&offer), "{head}");
        socket
    }

    async fn spdy(&self, method: &str, path: &str, protocol: &str) -> Spdy {
        let (head, socket) = self
            .ask(&format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: {protocol}\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(
            head.contains(&format!("x-stream-protocol-version: {protocol}")),
            "{head}"
        );
        Spdy::new(socket)
    }

    /// The agent stops; everything ends by itself.
    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.local.until_alive(0).await;
    }
}

const WEBSOCKET: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A client's end of a connection.
struct Socket {
    io: UnixStream,
    input: BytesMut,
}

impl Socket {
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.input.split().to_vec();
        self.io.read_to_end(&mut rest).await.unwrap();
        rest
    }

    async fn send(&mut self, channel: u8, payload: &[u8]) {
        let frame = masked(websocket::BINARY, true, &[&[channel], payload].concat());
        self.io.write_all(&frame).await.unwrap();
    }

    async fn fill(&mut self, length: usize) {
        while self.input.len() < length {
            assert!(self.io.read_buf(&mut self.input).await.unwrap() > 0, "{:?}", self.input);
        }
    }

    /// The next frame but pings: its opcode and payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            let (opcode, payload) = self.any_frame().await;
            if opcode != 9 {
                return (opcode, payload);
            }
        }
    }

    /// Frames of a server are whole and not masked.
    async fn any_frame(&mut self) -> (u8, Vec<u8>) {
        self.fill(2).await;
        let head = self.input.split_to(2);
        assert_eq!((head[0] & 0xf0, head[1] & 0x80), (0x80, 0));
        let length = match head[1] {
            126 => {
                self.fill(2).await;
                usize::from(u16::from_be_bytes(self.input.split_to(2)[..].try_into().unwrap()))
            }
            short => usize::from(short),
        };
        self.fill(length).await;
        (head[0] & 15, self.input.split_to(length).to_vec())
    }

    /// Everything up to the server's close, which is answered: what came on each channel, joined, and the close code.
    async fn all(&mut self) -> ([String; 4], u16) {
        let mut channels: [Vec<u8>; 4] = Default::default();
        loop {
            let (opcode, payload) = self.frame().await;
            match opcode {
                websocket::BINARY => channels[usize::from(payload[0])].extend_from_slice(&payload[1..]),
                8 => {
                    // An answer to our own close is the end already.
                    let _closed = self.io.write_all(&masked(8, true, &payload)).await;
                    let code = u16::from_be_bytes(payload[..2].try_into().unwrap());
                    assert_eq!(self.rest().await, b"", "nothing follows a close");
                    return (channels.map(|c| String::from_utf8_lossy(&c).into_owned()), code);
                }
                other => panic!("opcode {other}: {payload:?}"),
            }
        }
    }
}

/// A client of SPDY.
struct Spdy {
    socket: Socket,
    encoder: Encoder,
    decoder: Decoder,
    /// What came of each stream.
    said: HashMap<u32, Vec<u8>>,
    finished: Vec<u32>,
}

impl Spdy {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            said: HashMap::new(),
            finished: Vec::new(),
        }
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let frame = self.encoder.open(id, false, headers);
        self.socket.io.write_all(&frame).await.unwrap();
    }

    async fn send(&mut self, id: u32, fin: bool, payload: &[u8]) {
        self.socket.io.write_all(&spdy::data(id, fin, payload)).await.unwrap();
    }

    /// The next event; `None` once the server has closed.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.decode(&mut self.socket.input).unwrap() {
                return Some(event);
            }
            if self.socket.io.read_buf(&mut self.socket.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// What comes of these streams up to their ends.
    async fn all<const N: usize>(&mut self, ids: [u32; N]) -> [String; N] {
        while !ids.iter().all(|id| self.finished.contains(id)) {
            match self.next().await.expect("the streams end before the connection") {
                Event::Data { id, fin, bytes } => {
                    self.said.entry(id).or_default().extend_from_slice(&bytes);
                    self.finished.extend(fin.then_some(id));
                }
                Event::Ping { .. } => {}
                other @ (Event::Opened { .. } | Event::Finished { .. } | Event::Reset { .. } | Event::GoAway) => {
                    panic!("{other:?}")
                }
            }
        }
        ids.map(|id| String::from_utf8(self.said.remove(&id).unwrap_or_default()).unwrap())
    }
}
