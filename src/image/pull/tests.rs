//! Pulls from a registry that fails in every way it can.

mod trust;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;

use super::under_way::Outcome;
use super::*;
use crate::image::registry::{DockerConfig, ProxySettings, RegistrySettings};
use crate::image::{Limits, RepairError};
use crate::store::Store;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What one request was.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    path: String,
    authorization: Option<String>,
}

/// How a fake registry fails. Counts go down with each failure.
#[derive(Debug, Default)]
struct Faults {
    /// Every answer with a blob ends after so many bytes.
    cut: Option<usize>,
    no_ranges: bool,
    /// So many blobs are cut; all of them when it is `usize::MAX`.
    cuts: AtomicUsize,
    /// So many large blobs have a wrong byte, one that gunzip does not mind.
    damages: AtomicUsize,
    /// These many requests are answered so.
    statuses: Mutex<Vec<StatusCode>>,
    /// Always.
    status: Option<StatusCode>,
    /// `Authorization` that is asked for with this challenge.
    wants: Option<(String, String)>,
    /// A token serves for so many requests.
    token_uses: Option<usize>,
    tokens: AtomicUsize,
    /// By `Authorization`.
    uses: Mutex<HashMap<String, usize>>,
    /// Blobs are elsewhere.
    redirect: Option<String>,
    /// Large blobs do not go on after their first bytes.
    stalls: bool,
    no_head: bool,
}

struct Fake {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    /// By path beneath `/v2/`: type and bytes.
    content: Mutex<HashMap<String, (String, Bytes)>>,
    seen: Mutex<Vec<Seen>>,
    faults: Faults,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    async fn new(faults: Faults) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            seen: Mutex::default(),
            faults,
        });
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            server,
        }
    }

    fn put(&self, path: String, media_type: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        let mut content = self.shared.content.lock().unwrap();
        content.insert(path, (media_type.to_owned(), bytes.into()));
        digest
    }

    /// A repository with one image; gives the digest of its manifest.
    fn image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let (manifest, _) = self.manifest(repository, layers, MANIFEST, |_| {});
        let digest = self.put(format!("{repository}/manifests/{tag}"), MANIFEST, manifest.clone());
        self.put(format!("{repository}/manifests/{digest}"), MANIFEST, manifest);
        digest
    }

    fn manifest(
        &self,
        repository: &str,
        layers: &[Vec<u8>],
        media_type: &str,
        change: impl Fn(&mut serde_json::Value),
    ) -> (Vec<u8>, Digest) {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|layer| Digest::of(&plain(layer)).to_string())
            .collect();
        let config = json!({
            "os": "linux",
            "architecture": architecture(),
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let config_digest = self.put_blob(repository, &config);
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.put_blob(repository, layer);
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": digest.to_string(),
                    "size": layer.len(),
                })
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.to_string(),
                "size": config.len(),
            },
            "layers": layers,
        });
        change(&mut manifest);
        (serde_json::to_vec(&manifest).unwrap(), config_digest)
    }

    fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.put(
            format!("{repository}/blobs/{digest}"),
            "application/octet-stream",
            bytes.to_vec(),
        )
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How often a path with this end was fetched.
    fn fetched(&self, end: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.method == "GET" && seen.path.ends_with(end))
            .count()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let faults = &shared.faults;
    let path = request.uri().path().to_owned();
    let authorization = request
        .headers()
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned());
    shared.seen.lock().unwrap().push(Seen {
        method: request.method().to_string(),
        path: path.clone(),
        authorization: authorization.clone(),
    });
    if path == "/token" {
        let serial = faults.tokens.fetch_add(1, Ordering::SeqCst);
        return axum::Json(json!({"token": format!("token-{serial}")})).into_response();
    }
    if let Some(status) = faults.status {
        return status.into_response();
    }
    if let Some(status) = faults.statuses.lock().unwrap().pop() {
        return (status, [("retry-after", "0")]).into_response();
    }
    if let Some((wanted, challenge)) = &faults.wants {
        let is_right = match faults.token_uses {
            None => authorization.as_ref() == Some(wanted),
            Some(most) => authorization.is_some_and(|token| {
                let mut uses = faults.uses.lock().unwrap();
                let count = uses.entry(token).or_default();
                *count += 1;
                *count <= most
            }),
        };
        if !is_right {
            let challenge = challenge.clone();
            let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
            return (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", challenge)],
                axum::Json(body),
            )
                .into_response();
        }
    }
    if request.method() == "HEAD" && faults.no_head {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let found = path
        .strip_prefix("/v2/")
        .and_then(|path| shared.content.lock().unwrap().get(path).cloned());
    let Some((media_type, bytes)) = found else {
        let body = json!({"errors": [{"code": "NAME_UNKNOWN", "message": "repository name not known"}]});
        return (StatusCode::NOT_FOUND, axum::Json(body)).into_response();
    };
    if path.contains("/manifests/") {
        let digest = Digest::of(&bytes).to_string();
        return ([("content-type", media_type), ("docker-content-digest", digest)], bytes).into_response();
    }
    if let Some(elsewhere) = &faults.redirect {
        let location = format!("{elsewhere}{path}");
        return (StatusCode::TEMPORARY_REDIRECT, [("location", location)]).into_response();
    }
    blob(faults, request.headers(), &bytes)
}

fn blob(faults: &Faults, headers: &HeaderMap, bytes: &Bytes) -> Response {
    let from: usize = headers
        .get("range")
        .filter(|_| !faults.no_ranges)
        .and_then(|value| {
            value
                .to_str()
                .unwrap()
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut rest = bytes.slice(from..);
    if rest.len() > 10_000 && faults.damages.load(Ordering::SeqCst) > 0 {
        faults.damages.fetch_sub(1, Ordering::SeqCst);
        let mut damaged = rest.to_vec();
        damaged[4] ^= 1;
        rest = damaged.into();
    }
    let length = rest.len();
    if faults.stalls && length > 10_000 {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(rest.slice(..100))]);
        return Body::from_stream(first.chain(futures_util::stream::pending())).into_response();
    }
    let is_cut = faults.cuts.load(Ordering::SeqCst) > 0 && faults.cut.is_some_and(|cut| length > cut);
    let body = match faults.cut.filter(|_| is_cut) {
        Some(cut) => {
            if faults.cuts.load(Ordering::SeqCst) != usize::MAX {
                faults.cuts.fetch_sub(1, Ordering::SeqCst);
            }
            let piece = rest.slice(..cut);
            let pieces =
                futures_util::stream::once(std::future::ready(Ok(piece))).chain(futures_util::stream::once(async {
                    // What came before is sent first.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
                }));
            Body::from_stream(pieces)
        }
        None => Body::from(rest),
    };
    let mut response = Response::new(body);
    if from > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        response.headers_mut().insert("content-range", range.parse().unwrap());
    }
    response.headers_mut().insert("content-length", length.into());
    response
}

/// A layer with one file of noise, gzip.
fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let mut state = name.len() as u64 + 1;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(size)
    .collect();
    header.set_size(size as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, name, &noise[..]).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar.into_inner().unwrap()).unwrap();
    gzip.finish().unwrap()
}

fn plain(layer: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let (_, mut reader) =
        crate::image::stream::decompressed(std::io::Cursor::new(layer.to_vec()), &Limits::default()).unwrap();
    std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
    plain
}

struct Machine {
    directory: tempfile::TempDir,
    images: ImageStore,
}

impl Machine {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("podd.db")).await.unwrap();
        let clock = || "2026-01-02T03:04:05Z".parse().unwrap();
        let root = directory.path().join("images");
        let images = ImageStore::open(&root, store, limits, clock).await.unwrap();
        let images = images.with_registries(RegistrySettings {
            hosts: directory.path().join("certs.d"),
            docker_config: directory.path().join("config.json"),
            default_registry: "docker.io".to_owned(),
            proxies: ProxySettings::default(),
        });
        Self { directory, images }
    }

    async fn pull(&self, name: &str) -> Outcome {
        self.images.pull(name, Credentials::default(), |_| {}).await
    }

    async fn refusal(&self, name: &str) -> (String, Arc<PullError>) {
        let error = self.pull(name).await.unwrap_err();
        let mut words = error.to_string();
        let mut cause = std::error::Error::source(&*error);
        while let Some(inner) = cause {
            words = format!("{words}: {inner}");
            cause = inner.source();
        }
        (words, error)
    }

    fn hosts(&self, registry: &str, text: &str) {
        let directory = self.directory.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    fn entries(&self, of: &str) -> usize {
        entries(&self.directory.path().join("images").join(of))
    }
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[tokio::test]
async fn an_image_comes_whole_and_is_found_by_tag_and_digest() {
    let fake = Fake::new(Faults::default()).await;
    let zstd = zstd::encode_all(&plain(&layer("b", 500))[..], 3).unwrap();
    let layers = [layer("a", 200_000), zstd, plain(&layer("c", 10))];
    let (manifest, config) = fake.manifest("team/app", &layers, MANIFEST, |_| {});
    let digest = fake.put("team/app/manifests/x".to_owned(), MANIFEST, manifest.clone());
    fake.put(format!("team/app/manifests/{digest}"), MANIFEST, manifest.clone());
    let other = "0".repeat(64);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {"mediaType": MANIFEST, "digest": format!("sha256:{other}"), "size": 1, "platform": {"os": "linux", "architecture": "sparc"}},
            {"mediaType": MANIFEST, "digest": digest.to_string(), "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture()}},
        ],
    });
    let index = serde_json::to_vec(&index).unwrap();
    let top = fake.put("team/app/manifests/v1".to_owned(), INDEX, index.clone());
    fake.put(format!("team/app/manifests/{top}"), INDEX, index);

    let machine = Machine::new().await;
    let steps = Mutex::new(Vec::new());
    let name = fake.name("team/app:v1");
    let row = machine
        .images
        .pull(&name, Credentials::default(), |step| steps.lock().unwrap().push(step))
        .await
        .unwrap();
    assert_eq!(row.id, config.to_string());
    assert_eq!(row.layers.len(), 3);
    assert_eq!(row.manifest_digest, digest.to_string());
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.first(), Some(&Progress::Resolving));
    assert_eq!(steps.last(), Some(&Progress::Done));
    let whole: BTreeMap<String, bool> = steps
        .iter()
        .filter_map(|step| match step {
            Progress::Layer { digest, done, total } => Some((digest.clone(), done == total)),
            Progress::Resolving | Progress::Unpacking { .. } | Progress::Done => None,
        })
        .collect();
    assert_eq!(whole.values().collect::<Vec<_>>(), [&true; 3], "{whole:?}");
    for name in [
        name.clone(),
        fake.name(&format!("team/app@{top}")),
        fake.name(&format!("team/app@{digest}")),
        fake.name(&format!("team/app:v1@{top}")),
        row.id.clone(),
    ] {
        let found = machine.images.resolve(&name).await.unwrap();
        assert_eq!(found.unwrap().id.0, row.id, "{name}");
    }
    assert_eq!(machine.entries("tmp"), 0);

    // Again: the tag is asked for, and nothing is fetched.
    let gets = fake.fetched("");
    machine.pull(&name).await.unwrap();
    assert_eq!(fake.fetched(""), gets);
    assert_eq!(fake.seen().last().unwrap().method, "HEAD");
}

#[tokio::test]
async fn a_tag_that_moved_is_another_image_and_the_old_one_stays_by_its_digest() {
    let fake = Fake::new(Faults::default()).await;
    let old = fake.image("app", "latest", &[layer("old", 10)]);
    let machine = Machine::new().await;
    let first = machine.pull(&fake.name("app")).await.unwrap();
    fake.image("app", "latest", &[layer("a newer one", 10)]);
    let second = machine.pull(&fake.name("app")).await.unwrap();
    assert_ne!(first.id, second.id);
    let kept = machine.images.resolve(&fake.name(&format!("app@{old}"))).await.unwrap();
    assert_eq!(kept.unwrap().id.0, first.id);
    let named = machine.images.resolve(&fake.name("app")).await.unwrap();
    assert_eq!(named.unwrap().id.0, second.id);
    // With its last tag goes the image, its digest's name too.
    machine.images.remove(&fake.name("app")).await.unwrap();
    assert_eq!(machine.images.resolve(&second.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_blob_that_is_cut_off_again_and_again_is_resumed() {
    let faults = Faults {
        cut: Some(64 * 1024),
        cuts: AtomicUsize::new(usize::MAX),
        ..Faults::default()
    };
    let fake = Fake::new(faults).await;
    let blob = layer("a", 700_000);
    fake.image("app", "v1", std::slice::from_ref(&blob));
    let machine = Machine::new().await;
    machine.pull(&fake.name("app:v1")).await.unwrap();
    let fetched = fake.fetched(&Digest::of(&blob).to_string());
    assert_eq!(fetched, blob.len().div_ceil(64 * 1024), "each piece once");
}

#[tokio::test]
async fn a_host_that_does_not_resume_is_asked_from_the_beginning() {
    let faults = Faults {
        cut: Some(100_000),
        cuts: AtomicUsize::new(2),
        no_ranges: true,
        ..Faults::default()
    };
    let fake = Fake::new(faults).await;
    fake.image("app", "v1", &[layer("a", 300_000)]);
    let machine = Machine::new().await;
    machine.pull(&fake.name("app:v1")).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_was_damaged_on_its_way_is_fetched_once_more_and_counts_once() {
    let fake = Fake::new(Faults {
        damages: AtomicUsize::new(1),
        ..Faults::default()
    })
    .await;
    let blob = layer("a", 300_000);
    fake.image("app", "v1", std::slice::from_ref(&blob));
    let machine = Machine::with(Limits {
        unpacked: 400_000,
        ..Limits::default()
    })
    .await;
    let row = machine.pull(&fake.name("app:v1")).await.unwrap();
    assert_eq!(fake.fetched(&Digest::of(&blob).to_string()), 2);
    assert_eq!(row.size, 300_000);
    let found = machine.images.resolve(&row.id).await.unwrap().unwrap();
    assert_eq!(std::fs::metadata(found.layers[0].join("a")).unwrap().len(), 300_000);
    assert_eq!(machine.entries("tmp"), 0);
}

#[tokio::test]
async fn faults_that_pass_are_waited_for() {
    let statuses = vec![
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::INTERNAL_SERVER_ERROR,
    ];
    let faults = Faults {
        statuses: Mutex::new(statuses),
        no_head: true,
        ..Faults::default()
    };
    let fake = Fake::new(faults).await;
    fake.image("app", "v1", &[layer("a", 10)]);
    Machine::new().await.pull(&fake.name("app:v1")).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_out_of_order_is_unavailable_and_an_unknown_image_is_not() {
    let machine = Machine::new().await;
    let fake = Fake::new(Faults {
        status: Some(StatusCode::BAD_GATEWAY),
        ..Faults::default()
    })
    .await;
    let (words, error) = machine.refusal(&fake.name("app:v1")).await;
    assert!(error.is_unavailable() && words.contains("502"), "{words}");
    let gone = fake.name("app:v2");
    drop(fake);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = listener.local_addr().unwrap();
    drop(listener);
    let (words, error) = machine.refusal(&format!("{deaf}/app:v1")).await;
    assert!(error.is_unavailable(), "{words} {gone}");
    let fake = Fake::new(Faults::default()).await;
    let (words, error) = machine.refusal(&fake.name("app:v1")).await;
    assert!(!error.is_unavailable(), "{words}");
    assert!(words.contains("not found") && words.contains("NAME_UNKNOWN"), "{words}");
    assert!(words.contains(&fake.name("app:v1")), "{words}");
}

#[tokio::test]
async fn bytes_that_are_not_what_the_manifest_says_are_refused_and_leave_nothing() {
    let fake = Fake::new(Faults::default()).await;
    let blob = layer("a", 1000);
    let digest = Digest::of(&blob);
    fake.image("app", "v1", std::slice::from_ref(&blob));
    let machine = Machine::new().await;
    let mut flipped = blob.clone();
    flipped[500] ^= 1;
    let mut longer = blob.clone();
    longer.push(0);
    for (bytes, expected) in [
        (flipped, "digest"),
        (longer, "more than"),
        (blob[..900].to_vec(), "900 of"),
    ] {
        fake.put(format!("app/blobs/{digest}"), "", bytes);
        let (words, _) = machine.refusal(&fake.name("app:v1")).await;
        assert!(
            words.contains(expected) && words.contains(&digest.to_string()),
            "{words}"
        );
        assert_eq!(machine.entries("layers") + machine.entries("tmp"), 0);
    }
    fake.put(format!("app/blobs/{digest}"), "", blob);
    machine.pull(&fake.name("app:v1")).await.unwrap();

    // A manifest under the digest of another.
    let digest = fake.image("lie", "v1", &[layer("b", 10)]);
    let (other, _) = fake.manifest("lie", &[layer("c", 10)], MANIFEST, |_| {});
    fake.put(format!("lie/manifests/{digest}"), MANIFEST, other);
    let (words, _) = machine.refusal(&fake.name(&format!("lie@{digest}"))).await;
    assert!(words.contains("damaged"), "{words}");
    // A page of a proxy.
    fake.put("page/manifests/v1".to_owned(), "text/html", b"<html>".to_vec());
    assert!(machine.pull(&fake.name("page:v1")).await.is_err());
}

#[tokio::test]
async fn a_password_goes_to_the_registry_and_not_where_it_redirects() {
    let store = Fake::new(Faults::default()).await;
    let auth = "Basic bWU6c2VjcmV0".to_owned();
    let fake = Fake::new(Faults {
        wants: Some((auth.clone(), "Basic realm=\"r\"".to_owned())),
        redirect: Some(format!("http://{}", store.address)),
        ..Faults::default()
    })
    .await;
    for fake in [&fake, &store] {
        fake.image("app", "v1", &[layer("a", 10)]);
    }
    let machine = Machine::new().await;
    let (words, error) = machine.refusal(&fake.name("app:v1")).await;
    assert!(
        words.contains("pull access denied") && !error.is_unavailable(),
        "{words}"
    );
    let credentials = Credentials::password("me", "secret");
    machine
        .images
        .pull(&fake.name("app:v1"), credentials, |_| {})
        .await
        .unwrap();
    let elsewhere = store.seen();
    assert!(!elsewhere.is_empty());
    assert!(
        elsewhere.iter().all(|seen| seen.authorization.is_none()),
        "{elsewhere:?}"
    );
    assert!(!words.contains("secret"));
}

#[tokio::test]
async fn tokens_that_expire_are_fetched_anew() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let realm = listener.local_addr().unwrap();
    drop(listener);
    let token_server = tokio::net::TcpListener::bind(realm).await.unwrap();
    let fake = Fake::new(Faults {
        wants: Some((
            String::new(),
            format!("Bearer realm=\"http://{realm}/token\",service=\"s\",scope=\"repository:app:pull\""),
        )),
        token_uses: Some(2),
        ..Faults::default()
    })
    .await;
    let router = axum::Router::new()
        .fallback(answer)
        .with_state(Arc::clone(&fake.shared));
    let server = tokio::spawn(async move { axum::serve(token_server, router).await.unwrap() });
    fake.image("app", "v1", &[layer("a", 10), layer("bb", 10), layer("ccc", 10)]);
    let machine = Machine::new().await;
    std::fs::write(
        machine.directory.path().join("config.json"),
        format!(
            r#"{{"auths": {{"{}": {{"username": "me", "password": "secret"}}}}}}"#,
            fake.address
        ),
    )
    .unwrap();
    machine.pull(&fake.name("app:v1")).await.unwrap();
    let tokens: Vec<_> = fake.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert!(tokens.len() > 1, "{tokens:?}");
    let password = Some("Basic bWU6c2VjcmV0".to_owned());
    assert!(tokens.iter().all(|seen| seen.authorization == password), "{tokens:?}");
    server.abort();
}

#[tokio::test]
async fn mirrors_are_asked_first_and_get_no_password_of_the_registry() {
    let auth = "Basic bWU6c2VjcmV0".to_owned();
    let origin = Fake::new(Faults {
        wants: Some((auth, "Basic realm=\"r\"".to_owned())),
        ..Faults::default()
    })
    .await;
    let mirror = Fake::new(Faults::default()).await;
    let dead = Fake::new(Faults {
        status: Some(StatusCode::FORBIDDEN),
        ..Faults::default()
    })
    .await;
    origin.image("app", "v1", &[layer("a", 10)]);
    origin.image("app", "v2", &[layer("bb", 10)]);
    mirror.image("app", "v1", &[layer("a", 10)]);
    let machine = Machine::new().await;
    machine.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            origin.address, dead.address, mirror.address
        ),
    );
    let config = r#"{"auths": {"registry.test": {"username": "me", "password": "secret"}}}"#;
    let credentials = Credentials::of_configs(vec![DockerConfig::parse(config.as_bytes(), "test").unwrap()]);
    let row = machine
        .images
        .pull("registry.test/app:v1", credentials.clone(), |_| {})
        .await
        .unwrap();
    assert!(row.names.contains(&"registry.test/app:v1".to_owned()), "{row:?}");
    assert!(origin.seen().is_empty(), "the mirror had it all");
    assert_eq!(dead.seen().len(), 1, "it is not asked again once it refused");
    machine
        .images
        .pull("registry.test/app:v2", credentials, |_| {})
        .await
        .unwrap();
    assert!(!origin.seen().is_empty());
    let mirrors = mirror.seen();
    assert!(mirrors.iter().all(|seen| seen.authorization.is_none()), "{mirrors:?}");
}

#[tokio::test]
async fn one_pull_serves_all_who_ask_and_a_shared_layer_comes_once() {
    let fake = Fake::new(Faults::default()).await;
    let (shared, one, two) = (layer("shared", 400_000), layer("o", 10), layer("tw", 10));
    fake.image("one", "v1", &[shared.clone(), one.clone()]);
    fake.image("two", "v1", &[two.clone(), shared.clone()]);
    let machine = Machine::new().await;
    let names: Vec<String> = ["one:v1", "two:v1"].map(|name| fake.name(name)).to_vec();
    let pulls = (0..32).map(|at| machine.pull(&names[at % 2]));
    for pulled in futures_util::future::join_all(pulls).await {
        pulled.unwrap();
    }
    for blob in [shared, one, two] {
        assert_eq!(fake.fetched(&Digest::of(&blob).to_string()), 1);
    }
    for manifest in ["one/manifests/v1", "two/manifests/v1"] {
        let heads = fake.seen().iter().filter(|seen| seen.path.ends_with(manifest)).count();
        assert_eq!(heads, 1, "{manifest}");
    }
}

#[tokio::test]
async fn what_podd_cannot_or_may_not_take_is_refused_by_name() {
    let fake = Fake::new(Faults::default()).await;
    let (foreign, _) = fake.manifest("foreign", &[layer("a", 10)], DOCKER_MANIFEST, |manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/x"]);
    });
    fake.put("foreign/manifests/v1".to_owned(), DOCKER_MANIFEST, foreign.clone());
    fake.put(
        format!("foreign/manifests/{}", Digest::of(&foreign)),
        DOCKER_MANIFEST,
        foreign,
    );
    let machine = Machine::with(Limits {
        unpacked: 100_000,
        ..Limits::default()
    })
    .await;
    let (words, _) = machine.refusal(&fake.name("foreign:v1")).await;
    assert!(words.contains("foreign layer"), "{words}");
    fake.image("large", "v1", &[layer("a", 200_000)]);
    let (words, _) = machine.refusal(&fake.name("large:v1")).await;
    assert!(words.contains("--max-image-size"), "{words}");
    assert_eq!(
        fake.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count(),
        0
    );
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": format!("sha256:{}", "1".repeat(64)), "size": 1, "platform": {"os": "windows", "architecture": "amd64"}},
    ]});
    let index = serde_json::to_vec(&index).unwrap();
    fake.put("other/manifests/v1".to_owned(), INDEX, index.clone());
    fake.put(format!("other/manifests/{}", Digest::of(&index)), INDEX, index);
    let (words, _) = machine.refusal(&fake.name("other:v1")).await;
    assert!(words.contains("windows/amd64"), "{words}");
    let (words, error) = machine.refusal("Not/A/Name").await;
    assert!(matches!(&*error, PullError::Name { .. }), "{words}");
}

/// The row under all the names that its content has come by.
#[tokio::test]
async fn an_image_is_told_by_the_name_that_was_asked_for() {
    let fake = Fake::new(Faults::default()).await;
    let blob = layer("a", 100);
    for repository in ["zebra", "app"] {
        fake.image(repository, "v1", std::slice::from_ref(&blob));
    }
    let machine = Machine::new().await;
    for repository in ["zebra", "app", "zebra"] {
        let name = fake.name(&format!("{repository}:v1"));
        let row = machine.pull(&name).await.unwrap();
        assert_eq!(row.names[0], name);
        let found = machine.images.resolve_as(&row.id, &name).await.unwrap().unwrap();
        let digest = format!("{}@{}", fake.name(repository), row.manifest_digest);
        assert_eq!(found.repo_digest, Some(digest));
    }
}

#[tokio::test]
async fn a_repair_mends_what_it_can_and_removes_nothing_else() {
    let fake = Fake::new(Faults::default()).await;
    let shared = layer("shared", 5000);
    for name in ["a", "b"] {
        fake.image(name, "v1", &[shared.clone(), layer(name, 10)]);
    }
    let machine = Machine::new().await;
    let pulled = machine.pull(&fake.name("b:v1")).await.unwrap();
    let imported = machine.pull(&fake.name("a:v1")).await.unwrap();
    // As if it had come from an archive.
    for name in imported.names.iter().filter(|name| name.contains('@')) {
        machine.images.inner.store.remove_image_name(name).await.unwrap();
    }
    machine.images.verify(None).await.unwrap();
    let repair = async || {
        let verified = machine.images.verify(None).await.unwrap();
        let told = Mutex::new(Vec::new());
        let tell = |image: ImageRow, done: Result<(), RepairError>| {
            told.lock()
                .unwrap()
                .push((image.id, done.map_err(|error| error.to_string())));
        };
        machine.images.repair(verified, &Credentials::default(), tell).await;
        told.into_inner().unwrap()
    };
    let of_imported = machine.images.resolve(&imported.id).await.unwrap().unwrap().layers;
    std::fs::write(of_imported[1].join("shared"), "damaged").unwrap();
    assert_eq!(repair().await, [(pulled.id, Ok(())), (imported.id.clone(), Ok(()))]);
    let verified = machine.images.verify(None).await.unwrap();
    assert_eq!(
        verified.iter().map(|image| image.damage.len()).sum::<usize>(),
        0,
        "{verified:?}"
    );

    std::fs::write(of_imported[0].join("a"), "damaged").unwrap();
    let told = repair().await;
    let [(id, Err(words))] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(*id, imported.id);
    assert!(words.contains("came from no registry"), "{words}");
    assert_eq!(std::fs::read(of_imported[0].join("a")).unwrap(), b"damaged");
}

#[tokio::test]
async fn a_prune_takes_layers_that_no_image_has() {
    let fake = Fake::new(Faults::default()).await;
    fake.image("app", "v1", &[layer("good", 5000)]);
    let machine = Machine::new().await;
    let row = machine.pull(&fake.name("app:v1")).await.unwrap();
    // As a pull leaves them whose other layers could not be had.
    machine.images.inner.store.remove_image(&row.id).await.unwrap();
    assert_eq!(machine.entries("layers"), 1);
    let freed = machine.images.prune().await.unwrap();
    assert_eq!((freed.leftovers, freed.images), (5000, Vec::new()));
    assert_eq!(machine.entries("layers"), 0);
    let nothing = machine.images.prune().await.unwrap();
    assert_eq!(nothing.total(), 0);
}
