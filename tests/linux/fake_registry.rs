//! A registry that does as its test says: it stops at a byte, asks for tokens and lets them expire, and remembers what it
//! was asked.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::common::patience;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Blobs are sent in pieces of so many bytes.
const PIECE: usize = 4096;

/// Who gets what.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    Open,
    /// With this `name:password`.
    Basic(String),
    /// With a token, each good for so many requests, from the token server for whoever shows it this.
    Token {
        shown: Shown,
        uses: usize,
    },
}

/// What a token server wants to see.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    /// `name:password`, in a header.
    Password(String),
    /// In the body of a POST.
    RefreshToken(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) body: String,
}

#[derive(Debug)]
struct State {
    guard: Guard,
    /// By path beneath `/v2/`: type and bytes.
    content: HashMap<String, (&'static str, Arc<Vec<u8>>)>,
    /// Bytes of blobs that may be sent, and that were.
    allowed: u64,
    sent: u64,
    seen: Vec<Seen>,
    /// What each token that was given is still good for.
    tokens: HashMap<String, usize>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// See the module's doc. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct FakeRegistry(Arc<Shared>);

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
        // Whoever waits for connections looks again.
        let _ = TcpStream::connect(self.0.address);
    }
}

impl FakeRegistry {
    pub(crate) fn start(guard: Guard) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            address: listener.local_addr().unwrap(),
            state: Mutex::new(State {
                guard,
                content: HashMap::new(),
                allowed: u64::MAX,
                sent: 0,
                seen: Vec::new(),
                tokens: HashMap::new(),
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if serving.state().ended {
                    return;
                }
                let shared = Arc::clone(&serving);
                // Who goes away in the middle is what the tests are about.
                std::thread::spawn(move || drop(serve(&shared, connection)));
            }
        });
        Self(shared)
    }

    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host())
    }

    /// `address:port`.
    pub(crate) fn host(&self) -> String {
        self.0.address.to_string()
    }

    /// Take in an image of these layers (plain tar), under a name. Gives the hex of each layer's digest.
    pub(crate) fn put(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Vec<String> {
        let mut content = Vec::new();
        let mut blob = |bytes: &[u8]| {
            let digest = digest(bytes);
            content.push((
                format!("{repository}/blobs/{digest}"),
                ("application/octet-stream", Arc::new(bytes.to_vec())),
            ));
            digest
        };
        let digests: Vec<String> = layers.iter().map(|layer| blob(layer)).collect();
        let config = json!({
            "os": "linux",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
        .to_string();
        let described: Vec<_> = digests
            .iter()
            .zip(layers)
            .map(|(digest, layer)| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest,
                    "size": layer.len(),
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": blob(config.as_bytes()),
                "size": config.len(),
            },
            "layers": described,
        })
        .to_string();
        for name in [tag.to_owned(), digest(manifest.as_bytes())] {
            let bytes = Arc::new(manifest.clone().into_bytes());
            content.push((format!("{repository}/manifests/{name}"), (MANIFEST, bytes)));
        }
        self.0.state().content.extend(content);
        digests
            .iter()
            .map(|digest| digest.strip_prefix("sha256:").unwrap().to_owned())
            .collect()
    }

    /// From now on send so many bytes of blobs, and then wait.
    pub(crate) fn allow(&self, bytes: u64) {
        let mut state = self.0.state();
        (state.allowed, state.sent) = (bytes, 0);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Wait until all that was allowed was sent.
    pub(crate) fn wait_sent(&self) {
        let is_less = |state: &mut State| state.sent < state.allowed;
        let (state, waited) = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), patience(), is_less)
            .unwrap();
        assert!(
            !waited.timed_out(),
            "{} of {} bytes were taken",
            state.sent,
            state.allowed
        );
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.state().seen.clone()
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    format!("sha256:{hex}")
}

/// Answer one request.
fn serve(shared: &Shared, connection: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let seen = Seen {
        method,
        path,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    shared.state().seen.push(seen.clone());
    answer(shared, connection, &seen, &headers)
}

fn answer(
    shared: &Shared,
    mut connection: TcpStream,
    seen: &Seen,
    headers: &HashMap<String, String>,
) -> io::Result<()> {
    let authorization = headers.get("authorization").map(String::as_str);
    if seen.path.starts_with("/token") {
        return match token(shared, seen, authorization) {
            Some(token) => {
                let text = json!({ "token": token }).to_string();
                head(&mut connection, "200 OK", &[], text.len())?;
                connection.write_all(text.as_bytes())
            }
            None => refuse(&mut connection, "incorrect username or password", &[]),
        };
    }
    if let Some(challenge) = challenge(shared, authorization) {
        return refuse(
            &mut connection,
            "authentication required",
            &[("WWW-Authenticate", challenge)],
        );
    }
    let found = seen
        .path
        .strip_prefix("/v2/")
        .and_then(|path| shared.state().content.get(path).cloned());
    let Some((media_type, bytes)) = found else {
        return head(&mut connection, "404 Not Found", &[], 0);
    };
    let from = headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut more = vec![
        ("Content-Type", media_type.to_owned()),
        ("Docker-Content-Digest", digest(&bytes)),
    ];
    let rest = &bytes[from.unwrap_or(0)..];
    let status = if let Some(from) = from {
        more.push((
            "Content-Range",
            format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
        ));
        "206 Partial Content"
    } else {
        "200 OK"
    };
    head(&mut connection, status, &more, rest.len())?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    if !seen.path.contains("/blobs/") {
        return connection.write_all(rest);
    }
    for piece in rest.chunks(PIECE) {
        let size = piece.len() as u64;
        let is_held = |state: &mut State| state.sent >= state.allowed && !state.ended;
        let mut state = shared.changed.wait_while(shared.state(), is_held).unwrap();
        if state.ended {
            return Ok(());
        }
        state.sent += size;
        drop(state);
        connection.write_all(piece)?;
        shared.changed.notify_all();
    }
    Ok(())
}

/// A new token, for whoever shows the right thing.
fn token(shared: &Shared, seen: &Seen, authorization: Option<&str>) -> Option<String> {
    let mut state = shared.state();
    let Guard::Token { shown, uses } = state.guard.clone() else {
        return None;
    };
    let is_right = match shown {
        Shown::Password(password) => {
            seen.method == "GET" && authorization == Some(&format!("Basic {}", STANDARD.encode(password)))
        }
        Shown::RefreshToken(token) => {
            let form: Vec<&str> = seen.body.split('&').collect();
            seen.method == "POST"
                && authorization.is_none()
                && form.contains(&"grant_type=refresh_token")
                && form.contains(&format!("refresh_token={token}").as_str())
        }
    };
    if !is_right {
        return None;
    }
    let token = format!("token-{}", state.tokens.len());
    state.tokens.insert(token.clone(), uses);
    Some(token)
}

/// What a request lacks.
fn challenge(shared: &Shared, authorization: Option<&str>) -> Option<String> {
    let mut state = shared.state();
    match state.guard.clone() {
        Guard::Open => None,
        Guard::Basic(password) => (authorization != Some(&format!("Basic {}", STANDARD.encode(password))))
            .then(|| "Basic realm=\"test\"".to_owned()),
        Guard::Token { .. } => {
            let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
            if let Some(left) = token.and_then(|token| state.tokens.get_mut(token))
                && *left > 0
            {
                *left -= 1;
                return None;
            }
            Some(format!(
                "Bearer realm=\"http://{}/token\",service=\"test\"",
                shared.address
            ))
        }
    }
}

fn refuse(connection: &mut TcpStream, why: &str, more: &[(&str, String)]) -> io::Result<()> {
    let text = json!({"errors": [{"code": "UNAUTHORIZED", "message": why}]}).to_string();
    head(connection, "401 Unauthorized", more, text.len())?;
    connection.write_all(text.as_bytes())
}

fn head(connection: &mut TcpStream, status: &str, more: &[(&str, String)], length: usize) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in more {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    write!(connection, "{text}\r\n")
}
