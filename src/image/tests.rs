//! The image store as a whole: archives of every kind go in, images come out, and nothing is left of what fails.

mod keeping;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll};

use serde_json::{Value, json};
use tokio::io::ReadBuf;

use super::documents::architecture;
use super::tape::Tape;
use super::*;
use crate::model::{Attempt, AttemptLife, AttemptState, Backoff, Observed, Uid};

fn clock() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// A machine's images on a directory of their own.
struct Bench {
    directory: tempfile::TempDir,
    store: Store,
    images: ImageStore,
}

impl Bench {
    async fn new() -> Self {
        Self::within(Limits {
            keep_free: 0,
            ..Limits::default()
        })
        .await
    }

    async fn within(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("podd.db")).await.unwrap();
        let images = ImageStore::open(&directory.path().join("images"), store.clone(), limits, clock)
            .await
            .unwrap();
        Self {
            directory,
            store,
            images,
        }
    }

    async fn import(&self, bytes: &[u8], name: Option<&str>) -> Result<Vec<ImageRow>, ImportError> {
        self.images.import(bytes, name).await
    }

    /// Import what must fail, and see that nothing of it is left.
    async fn fails(&self, bytes: &[u8], name: Option<&str>) -> ImportError {
        let before = self.files();
        let error = self.import(bytes, name).await.unwrap_err();
        assert_eq!(self.files(), before, "{error:?}");
        error
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("images").join(directory)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn files(&self) -> [Vec<String>; 3] {
        assert!(self.names("tmp").is_empty(), "{:?}", self.names("tmp"));
        ["layers", "blobs/sha256", "tmp"].map(|directory| self.names(directory))
    }

    async fn resolve(&self, name: &str) -> ResolvedImage {
        self.images
            .resolve(name)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{name} is not there"))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn lower() -> Vec<u8> {
    Tape::new()
        .dir("etc")
        .file("etc/passwd", b"root:x:0:0::/:\nweb:x:33:33::/:\n")
        .file("bin/sh", b"#!")
        .end()
}

fn upper() -> Vec<u8> {
    Tape::new().file("app/run", b"#!app").file("etc/.wh.motd", b"").end()
}

fn config(layers: &[&[u8]]) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/app/run"], "Cmd": ["-v"], "Env": ["A=b"], "User": "web", "WorkingDir": "/app"},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| Digest::of(layer).to_string()).collect::<Vec<_>>()},
    })
}

/// An archive as `docker save` wrote it for ten years.
fn docker(config: &Value, layers: &[&[u8]], tags: &[&str]) -> Vec<u8> {
    let config = config.to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let names: Vec<_> = (0..layers.len())
        .map(|index| format!("{index:064}/layer.tar"))
        .collect();
    let mut tape = Tape::new();
    for (name, layer) in names.iter().zip(layers) {
        tape = tape.dir(name.trim_end_matches("layer.tar")).file(name, layer);
    }
    let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": names}]);
    tape.file(&name, config.as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .end()
}

/// An OCI layout in the making.
struct Layout(Tape);

impl Layout {
    fn new() -> Self {
        Self(Tape::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#))
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let name = format!("blobs/sha256/{}", digest.hex());
        self.0 = std::mem::take(&mut self.0).file(&name, bytes);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn manifest(&mut self, config: &Value, layers: &[(&str, &[u8])]) -> Value {
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let layers: Vec<_> = layers
            .iter()
            .map(|(suffix, layer)| self.blob(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), layer))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        )
    }

    fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
    }

    fn end(self, manifests: &[Value]) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.0.file("index.json", index.to_string().as_bytes()).end()
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

fn for_platform(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

#[tokio::test]
async fn a_root_filesystem_becomes_an_image() {
    let bench = Bench::new().await;
    let rows = bench.import(&lower(), Some("demo/busybox:1")).await.unwrap();
    assert_eq!(rows[0].names, ["docker.io/demo/busybox:1"]);
    assert_eq!(rows[0].size, 33);
    assert_eq!(rows[0].created_at, clock());
    let image = bench.resolve("demo/busybox:1").await;
    assert_eq!(image.id.0, rows[0].id);
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert!(image.config.env[0].starts_with("PATH="));
    assert_eq!(image.layers.len(), 1);
    assert_eq!(std::fs::read(image.layers[0].join("bin/sh")).unwrap(), b"#!");
    // The same again, packed: the same image, with a second name.
    for (packed, name) in [(gzip(&lower()), "two"), (zstd(&lower()), "three:3")] {
        assert_eq!(bench.import(&packed, Some(name)).await.unwrap()[0].id, rows[0].id);
    }
    let all = bench.images.list().await.unwrap();
    let names = [
        "docker.io/demo/busybox:1",
        "docker.io/library/three:3",
        "docker.io/library/two:latest",
    ];
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].names, names);
    assert_eq!(bench.files()[0].len(), 1);
}

#[tokio::test]
async fn docker_archives_are_imported() {
    let (lower, upper) = (lower(), upper());
    let config = config(&[&lower, &upper]);
    let archive = docker(&config, &[&lower, &upper], &["app:1", "ghcr.io/me/app:latest"]);
    for packed in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let bench = Bench::new().await;
        let rows = bench.import(&packed, None).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].id, Digest::of(config.to_string().as_bytes()).to_string());
        let image = bench.resolve("ghcr.io/me/app").await;
        let other = bench.resolve("app:1").await;
        // Each name is told with the digest in its own repository.
        let repositories = [&image, &other].map(|image| image.repo_digest.clone().unwrap_or_default());
        assert!(
            repositories[0].starts_with("ghcr.io/me/app@sha256:"),
            "{repositories:?}"
        );
        assert!(
            repositories[1].starts_with("docker.io/library/app@sha256:"),
            "{repositories:?}"
        );
        assert_eq!((&other.id, &other.layers), (&image.id, &image.layers));
        assert_eq!(image.config.entrypoint, ["/app/run"]);
        assert_eq!((&image.config.user[..], &image.config.working_dir[..]), ("web", "/app"));
        assert!(image.layers[0].join("app/run").is_file(), "topmost first");
        assert!(image.layers[1].join("bin/sh").is_file());
        let ids = user::resolve_user(&image.layers, &image.config.user, &user::Wish::default()).unwrap();
        assert_eq!((ids.uid, ids.gid), (33, 33));
        // Manifest and config are kept.
        let kept = bench
            .directory
            .path()
            .join("images/blobs/sha256")
            .join(&rows[0].manifest_digest[7..]);
        assert_eq!(
            Digest::of(&std::fs::read(kept).unwrap()).to_string(),
            rows[0].manifest_digest
        );
        assert_eq!(bench.files()[1].len(), 2);
    }
}

#[tokio::test]
async fn equal_layers_of_a_docker_archive_may_be_links() {
    let layer = lower();
    let config = config(&[&layer, &layer]).to_string();
    let manifest = json!([{"Config": "config", "RepoTags": ["a"], "Layers": ["1/layer.tar", "./2/layer.tar"]}]);
    let tape = Tape::new()
        .file("1/layer.tar", &layer)
        .symlink("2/layer.tar", "../1/layer.tar");
    let tape = tape
        .file("config", config.as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes());
    let bench = Bench::new().await;
    bench.import(&tape.end(), None).await.unwrap();
    assert_eq!(
        bench.resolve("a").await.layers.len(),
        1,
        "overlay takes no directory twice"
    );
}

#[tokio::test]
async fn oci_archives_are_imported() {
    let (lower, upper) = (lower(), upper());
    let mut layout = Layout::new();
    let manifest = layout.manifest(
        &config(&[&lower, &upper]),
        &[("+gzip", &gzip(&lower)), ("+zstd", &zstd(&upper))],
    );
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    let archive = layout.end(&[named(manifest.clone(), "me/app:2"), named(manifest, "me/app:latest")]);
    let bench = Bench::new().await;
    let rows = bench.import(&archive, None).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].manifest_digest, digest, "the archive's own manifest");
    assert_eq!(rows[0].names, ["docker.io/me/app:2", "docker.io/me/app:latest"]);
    let image = bench.resolve("me/app").await;
    for name in [
        format!("me/app@{digest}"),
        format!("me/app:other@{digest}"),
        rows[0].id.clone(),
    ] {
        assert_eq!(bench.resolve(&name).await, image, "{name}");
    }
    for name in [&rows[0].id[7..], &rows[0].id[7..19], &rows[0].id[..19]] {
        assert_eq!(bench.resolve(name).await, image, "{name}");
    }
    let other = format!("me/other@{digest}");
    let wrong = format!("me/app@{}", rows[0].id);
    for name in [
        &other[..],
        &wrong,
        "me/app:3",
        &rows[0].id[7..18],
        "sha256:000000000000",
    ] {
        let found = bench.images.resolve(name).await;
        assert!(
            matches!(found, Ok(None) | Err(ResolveError::InvalidName { .. })),
            "{name}: {found:?}"
        );
    }
}

#[tokio::test]
async fn of_several_platforms_this_machines_is_taken() {
    let (mine, other) = (lower(), upper());
    let mut layout = Layout::new();
    let there = layout.manifest(&config(&[&other]), &[("", &other)]);
    let here = layout.manifest(&config(&[&mine]), &[("", &mine)]);
    let attestation = for_platform(there.clone(), "unknown", "unknown");
    let (there, here) = (
        for_platform(there, "linux", "pdp11"),
        for_platform(here, "linux", architecture()),
    );
    let nested = layout.index(&[attestation.clone(), there.clone(), here]);
    let nested = layout.index(&[nested]);
    let bench = Bench::new().await;
    bench
        .import(&layout.end(&[named(nested, "multi")]), None)
        .await
        .unwrap();
    assert!(bench.resolve("multi").await.layers[0].join("bin/sh").exists());

    let mut layout = Layout::new();
    let manifest = layout.manifest(&config(&[&other]), &[("", &other)]);
    let nested = layout.index(&[for_platform(manifest, "linux", "pdp11"), attestation]);
    let error = bench.fails(&layout.end(&[nested]), Some("x")).await;
    assert!(
        matches!(&error, ImportError::Archive(ArchiveError::Platform { there }) if there == "linux/pdp11"),
        "{error}"
    );
}

#[tokio::test]
async fn indexes_in_indexes_end() {
    let mut layout = Layout::new();
    let mut index = layout.index(&[]);
    for _ in 0..4 {
        // Each refers a thousand times to the one before: 10^12 ways, if each were walked.
        index = layout.index(&vec![index; 1000]);
    }
    let error = Bench::new().await.fails(&layout.end(&[index.clone()]), Some("x")).await;
    assert!(
        matches!(error, ImportError::Archive(ArchiveError::IndexDepth)),
        "{error}"
    );
    let mut layout = Layout::new();
    let mut index = layout.index(&[]);
    for _ in 0..3 {
        index = layout.index(&vec![index; 1000]);
    }
    let error = Bench::new().await.fails(&layout.end(&[index]), Some("x")).await;
    assert!(matches!(error, ImportError::Archive(ArchiveError::NoImage)), "{error}");
}

#[tokio::test]
async fn an_archive_of_both_kinds_is_an_oci_layout() {
    // docker 25 and later.
    let layer = lower();
    let mut layout = Layout::new();
    let config = config(&[&layer]);
    let mut manifest = layout.manifest(&config, &[("", &layer)]);
    manifest["annotations"] =
        json!({"io.containerd.image.name": "docker.io/library/new:7", "org.opencontainers.image.ref.name": "7"});
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let docker =
        json!([{"Config": blob(config.to_string().as_bytes()), "RepoTags": ["new:7"], "Layers": [blob(&layer)]}]);
    layout.0 = layout.0.file("manifest.json", docker.to_string().as_bytes());
    let bench = Bench::new().await;
    let rows = bench.import(&layout.end(&[manifest]), None).await.unwrap();
    assert_eq!(rows[0].names, ["docker.io/library/new:7"]);
}

#[tokio::test]
async fn names_are_asked_for_when_they_are_missing() {
    let bench = Bench::new().await;
    let error = bench.fails(&lower(), None).await;
    assert!(matches!(error, ImportError::RootFilesystemUnnamed), "{error}");
    assert!(error.to_string().contains("--name"));
    let layer = lower();
    let unnamed = docker(&config(&[&layer]), &[&layer], &[]);
    assert!(matches!(bench.fails(&unnamed, None).await, ImportError::Unnamed { .. }));
    assert!(bench.import(&unnamed, Some("given")).await.is_ok());
    let mut layout = Layout::new();
    let manifest = layout.manifest(&config(&[&layer]), &[("", &layer)]);
    let archive = layout.end(&[named(manifest, "latest")]);
    assert!(matches!(bench.fails(&archive, None).await, ImportError::Unnamed { .. }));
    for name in ["", "UPPER", "a b", "a@sha256:x"] {
        assert!(
            matches!(bench.fails(&lower(), Some(name)).await, ImportError::Name { .. }),
            "{name}"
        );
    }
    let digest = format!("a@{}", Digest::of(b""));
    assert!(matches!(
        bench.fails(&lower(), Some(&digest)).await,
        ImportError::NameWithDigest { .. }
    ));
    let bad_tag = docker(&config(&[&layer]), &[&layer], &["Bad Name"]);
    assert!(matches!(bench.fails(&bad_tag, None).await, ImportError::Name { .. }));
}

#[tokio::test]
async fn several_images_come_in_one_archive() {
    let (one, two) = (lower(), upper());
    let mut layout = Layout::new();
    let first = layout.manifest(&config(&[&one]), &[("", &one)]);
    let second = layout.manifest(&config(&[&one, &two]), &[("", &one), ("", &two)]);
    let archive = layout.end(&[named(first, "one:1"), named(second, "two:2")]);
    let bench = Bench::new().await;
    assert!(matches!(
        bench.fails(&archive, Some("x")).await,
        ImportError::SeveralImages { count: 2 }
    ));
    assert_eq!(bench.import(&archive, None).await.unwrap().len(), 2);
    assert_eq!(bench.files()[0].len(), 2);
    assert_eq!(
        bench.resolve("two:2").await.layers[1],
        bench.resolve("one:1").await.layers[0]
    );
}

#[tokio::test]
async fn a_whole_image_beside_a_damaged_one_is_not_kept() {
    let (one, two) = (lower(), upper());
    let mut layout = Layout::new();
    let good = layout.manifest(&config(&[&one]), &[("", &one)]);
    let bad = layout.manifest(&config(&[&two]), &[("", &one)]);
    let bench = Bench::new().await;
    let error = bench
        .fails(&layout.end(&[named(good, "one:1"), named(bad, "two:2")]), None)
        .await;
    assert!(matches!(error, ImportError::LayerDigest { .. }), "{error}");
    assert!(bench.images.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_given_up() {
    let silence = std::time::Duration::from_millis(20);
    let bench = Bench::within(Limits {
        keep_free: 0,
        silence,
        ..Limits::default()
    })
    .await;
    let (reader, mut writer) = tokio::io::simplex(64);
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"half").await.unwrap();
    let error = bench.images.import(reader, Some("a")).await.unwrap_err();
    let ImportError::Upload(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(bench.files().concat().is_empty());
    drop(writer);
}

#[tokio::test]
async fn damage_is_found_and_nothing_is_left() {
    let (layer, other) = (lower(), upper());
    let bench = Bench::new().await;
    let is = |error: ImportError, want: &str| {
        let text = format!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
        assert!(text.contains(want), "{want}: {text}");
        assert_eq!(error.fault(), Fault::Request, "{text}");
    };
    // A layer that is another than the config says; a config that is another than its name says.
    is(
        bench.fails(&docker(&config(&[&other]), &[&layer], &["a"]), None).await,
        "is damaged",
    );
    let good = docker(&config(&[&layer]), &[&layer], &["a"]);
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    let mut bad = good.clone();
    let at = find(&bad, b"WorkingDir");
    bad[at + 14] ^= 1;
    is(bench.fails(&bad, None).await, "is damaged");
    let two = docker(&config(&[&layer, &other]), &[&layer], &["a"]);
    is(bench.fails(&two, None).await, "2 diff ids");
    // Cut off anywhere.
    for cut in [0, 1, 511, 513, good.len() / 2, good.len() - 1025] {
        let error = bench.fails(&good[..cut], Some("a")).await;
        assert_eq!(error.fault(), Fault::Request, "{cut}: {error}");
    }
    is(bench.fails(&lower()[..2048], Some("a")).await, "cut off");
    for packed in [gzip(&good), zstd(&good)] {
        is(bench.fails(&packed[..packed.len() - 9], None).await, "decompress");
    }
    is(bench.fails(b"this is not an archive", Some("a")).await, "cut off");
    is(bench.fails(&[b'x'; 600], Some("a")).await, "not a tar archive");
    is(bench.fails(b"BZh9....", Some("a")).await, "decompress");
    is(bench.fails(&[0; 1024], Some("a")).await, "empty");
    // A layer's own damage: the blob is what the manifest says, and holds something else than it should.
    let mut layout = Layout::new();
    let manifest = layout.manifest(&config(&[&layer]), &[("+gzip", &gzip(&other))]);
    is(
        bench.fails(&layout.end(&[named(manifest, "a")]), None).await,
        "is damaged",
    );
    // A blob that is not what its name says.
    let mut layout = Layout::new();
    let manifest = layout.manifest(&config(&[&layer]), &[("", &layer)]);
    let mut archive = layout.end(&[named(manifest, "a")]);
    let at = find(&archive, b"root:x:0");
    archive[at] = b'R';
    is(bench.fails(&archive, None).await, "is damaged");
    // What a document refers to must be there, and as large as it says.
    let mut layout = Layout::new();
    let mut manifest = layout.manifest(&config(&[&layer]), &[("", &layer)]);
    manifest["size"] = json!(1);
    is(
        bench.fails(&layout.end(&[manifest.clone()]), Some("a")).await,
        "should have 1",
    );
    manifest["digest"] = json!(Digest::of(b"missing").to_string());
    is(bench.fails(&Layout::new().end(&[manifest]), Some("a")).await, "missing");
    let missing = json!([{"Config": "../../etc/passwd", "Layers": ["/etc/passwd"]}]).to_string();
    let archive = Tape::new().file("manifest.json", missing.as_bytes()).end();
    is(bench.fails(&archive, Some("a")).await, "missing");
    // Ambiguous documents.
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    let archive = Tape::new()
        .file("oci-layout", b"{}")
        .file("index.json", both.to_string().as_bytes())
        .end();
    is(bench.fails(&archive, Some("a")).await, "both an index and a manifest");
    // A hostile layer.
    let hostile = Tape::new().file("../../../../escape", b"evil").end();
    is(
        bench
            .fails(&docker(&config(&[&hostile]), &[&hostile], &["a"]), None)
            .await,
        "`..`",
    );
    let old = Tape::new()
        .file("repositories", b"{}")
        .file("1/layer.tar", &layer)
        .end();
    is(bench.fails(&old, Some("a")).await, "docker before 1.10");
    assert!(bench.files().concat().is_empty());
}

#[tokio::test]
async fn flipped_bits_break_nothing() {
    let (lower, upper) = (lower(), upper());
    let mut layout = Layout::new();
    let manifest = layout.manifest(&config(&[&lower, &upper]), &[("+gzip", &gzip(&lower)), ("", &upper)]);
    let good = layout.end(&[named(manifest, "me/app:2")]);
    let bench = Bench::new().await;
    let mut state = 1_u64;
    let mut imported = 0;
    for _ in 0..300 {
        let mut bad = good.clone();
        for _ in 0..3 {
            // Knuth's generator: the same bits in every run.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).unwrap() % (bad.len() * 8);
            bad[at / 8] ^= 1 << (at % 8);
        }
        match bench.import(&bad, None).await {
            Ok(rows) => {
                // Only padding and the like may differ: what is kept is what was verified.
                imported += 1;
                assert_eq!(
                    rows[0].layers,
                    [Digest::of(&lower), Digest::of(&upper)].map(|layer| layer.to_string())
                );
                bench.images.remove(&rows[0].id).await.unwrap();
            }
            Err(error) => assert_eq!(error.fault(), Fault::Request, "{error:?}"),
        }
        assert!(bench.files().concat().is_empty());
    }
    assert!(imported < 300);
}

#[tokio::test]
async fn limits_end_an_import() {
    let small = Limits {
        upload: 1 << 20,
        manifest: 2000,
        config: 2000,
        layers: 3,
        unpacked: 1 << 19,
        entries: 100,
        bomb_ratio: 50,
        bomb_floor: 1 << 18,
        keep_free: 0,
        ..Limits::default()
    };
    let bench = Bench::within(small.clone()).await;
    let noise: Vec<u8> = (0..2_000_000_u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let too_large = |error: ImportError, want: &str| {
        assert_eq!(error.fault(), Fault::TooLarge, "{error}");
        assert!(error.to_string().contains(want), "{want}: {error}");
    };
    too_large(
        bench.fails(&Tape::new().file("f", &noise).end(), Some("a")).await,
        "1048576 bytes",
    );
    too_large(
        bench
            .fails(&gzip(&Tape::new().file("f", &noise).end()), Some("a"))
            .await,
        "1048576 bytes",
    );
    too_large(
        bench
            .fails(&gzip(&Tape::new().file("f", &vec![0; 1 << 20]).end()), Some("a"))
            .await,
        "bomb",
    );
    too_large(
        bench
            .fails(&zstd(&Tape::new().file("f", &vec![0; 1 << 20]).end()), Some("a"))
            .await,
        "bomb",
    );
    too_large(
        bench
            .fails(&Tape::new().file("f", &noise[..600_000]).end(), Some("a"))
            .await,
        "524288 bytes",
    );
    let bomb = Tape::new().file("f", &vec![0; 400_000]).end();
    let packed = docker(&config(&[&bomb]), &[&gzip(&bomb)], &["a"]);
    too_large(bench.fails(&packed, None).await, "bomb");
    let many = (0..101)
        .fold(Tape::new(), |tape, i| tape.file(&format!("f{i}"), b""))
        .end();
    too_large(
        bench.fails(&docker(&config(&[&many]), &[&many], &["a"]), None).await,
        "more than 100 files",
    );
    let layer = lower();
    let mut large = config(&[&layer]);
    large["history"] = json!(vec!["x"; 1000]);
    let error = bench.fails(&docker(&large, &[&layer], &["a"]), None).await;
    assert!(
        matches!(error, ImportError::Archive(ArchiveError::TooLarge { limit: 2000, .. })),
        "{error}"
    );
    let four = [&layer[..]; 4];
    let error = bench.fails(&docker(&config(&four), &four, &["a"]), None).await;
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("more than 3 layers"), "{source}");

    let full = Bench::within(Limits {
        keep_free: u64::MAX,
        ..Limits::default()
    })
    .await;
    let error = full.fails(&lower(), Some("a")).await;
    assert_eq!(error.fault(), Fault::Machine);
    assert!(error.to_string().contains("no space"), "{error}");
}

/// Gives some bytes, and then fails.
struct Broken(&'static [u8]);

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let bench = Bench::new().await;
    let error = bench
        .images
        .import(Broken(b"half an archive"), Some("a"))
        .await
        .unwrap_err();
    assert!(matches!(error, ImportError::Upload(_)), "{error}");
    // Nobody waits for it any more.
    let (reader, mut writer) = tokio::io::simplex(64);
    let images = bench.images.clone();
    let import = tokio::spawn(async move { images.import(reader, Some("a")).await });
    tokio::io::AsyncWriteExt::write_all(&mut writer, b"half").await.unwrap();
    import.abort();
    assert!(import.await.unwrap_err().is_cancelled());
    // The slots of imports are given back when all is cleaned up.
    let slots = bench
        .images
        .inner
        .imports
        .acquire_many(u32::try_from(IMPORTS).unwrap())
        .await
        .unwrap();
    assert!(bench.files().concat().is_empty());
    drop(slots);
}

#[tokio::test]
async fn removing_the_last_name_removes_the_image() {
    let bench = Bench::new().await;
    let (lower, upper) = (lower(), upper());
    let both = docker(&config(&[&lower, &upper]), &[&lower, &upper], &["both:1", "both:2"]);
    bench.import(&both, None).await.unwrap();
    bench.import(&lower, Some("base")).await.unwrap();
    let id = bench.resolve("both:1").await.id;
    let pod = keeping::pod_with(&bench, Some(id.clone())).await;

    bench.images.remove("both:1").await.unwrap();
    assert!(bench.images.resolve("both:1").await.unwrap().is_none());
    for name in ["both:2", &id.0[..], &id.0[7..20]] {
        let refused = bench.images.remove(name).await;
        assert!(matches!(refused, Err(RemoveError::InUse { .. })), "{name}: {refused:?}");
    }
    assert_eq!(bench.files()[0].len(), 2);
    bench.store.forget_pod(&pod).await.unwrap();
    let was = bench.images.remove("both:2").await.unwrap();
    assert_eq!(was.id, id.0);
    assert_eq!(
        bench.files()[0],
        [Digest::of(&lower).hex()],
        "the other image needs this layer"
    );
    assert_eq!(bench.files()[1].len(), 2);
    for name in ["both:2", "nothing"] {
        let refused = bench.images.remove(name).await;
        assert!(matches!(refused, Err(RemoveError::NotFound { .. })));
    }
    let refused = bench.images.remove("No Name").await;
    assert!(matches!(
        refused,
        Err(RemoveError::Resolve(ResolveError::InvalidName { .. }))
    ));
    bench.images.remove("base").await.unwrap();
    assert!(bench.files().concat().is_empty());
}

#[tokio::test]
async fn a_name_that_moves_leaves_its_old_image_without() {
    let bench = Bench::new().await;
    let old = bench.import(&lower(), Some("app")).await.unwrap();
    let new = bench.import(&upper(), Some("app")).await.unwrap();
    assert_eq!(bench.resolve("app").await.id.0, new[0].id);
    assert_eq!(bench.resolve(&old[0].id).await.layers.len(), 1, "a pod may run it");
    let rows = bench.images.list().await.unwrap();
    assert_eq!(rows.iter().map(|row| row.names.len()).collect::<Vec<_>>(), [0, 1]);
    bench.images.remove(&old[0].id).await.unwrap();
    assert_eq!(bench.files()[0].len(), 1);
}

#[tokio::test]
async fn opening_removes_what_no_image_has() {
    let bench = Bench::new().await;
    bench.import(&lower(), Some("kept")).await.unwrap();
    let images = bench.directory.path().join("images");
    let stray = images.join("layers").join(Digest::of(b"stray").hex());
    std::fs::create_dir_all(stray.join("etc")).unwrap();
    std::fs::create_dir_all(images.join("layers/odd name")).unwrap();
    std::fs::write(images.join("tmp/upload"), b"half").unwrap();
    std::fs::write(images.join("blobs/sha256/odd"), b"x").unwrap();
    let again = ImageStore::open(&images, bench.store.clone(), Limits::default(), clock)
        .await
        .unwrap();
    assert_eq!(bench.files()[0], [Digest::of(&lower()).hex()]);
    assert_eq!(bench.files()[1].len(), 2);
    assert!(again.resolve("kept").await.unwrap().is_some());
}

#[tokio::test]
async fn a_missing_layer_is_told_and_mended() {
    let bench = Bench::new().await;
    bench.import(&lower(), Some("a")).await.unwrap();
    let layer = bench.resolve("a").await.layers.remove(0);
    std::fs::remove_dir_all(&layer).unwrap();
    assert!(bench.images.resolve("a").await.unwrap().is_none());
    bench.import(&lower(), Some("a")).await.unwrap();
    assert!(layer.join("bin/sh").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_and_removals_side_by_side_agree() {
    let bench = Bench::new().await;
    let (lower, upper) = (lower(), upper());
    let tasks: Vec<_> = (0..12)
        .map(|task| {
            let images = bench.images.clone();
            let (lower, upper) = (lower.clone(), upper.clone());
            tokio::spawn(async move {
                let name = format!("app:{task}");
                for round in 0..4 {
                    // Layers are shared by all; the order differs.
                    let layers = if task % 2 == 0 {
                        [&lower[..], &upper]
                    } else {
                        [&upper[..], &lower]
                    };
                    let archive = docker(&config(&layers), &layers, &[&name]);
                    images.import(&archive[..], None).await.unwrap();
                    let image = images.resolve(&name).await.unwrap().expect("it was just imported");
                    assert!(
                        image
                            .layers
                            .iter()
                            .all(|layer| std::fs::read_dir(layer).unwrap().count() == 2)
                    );
                    if task % 3 != 0 || round < 3 {
                        images.remove(&name).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(bench.files()[0].len(), 2);
    assert_eq!(
        bench
            .images
            .list()
            .await
            .unwrap()
            .iter()
            .map(|row| row.names.len())
            .sum::<usize>(),
        4
    );
    bench.resolve("app:0").await;
}

#[tokio::test]
async fn images_of_pods_are_in_use() {
    let bench = Bench::new().await;
    let id = |name: &str| Some(ImageId(name.to_owned()));
    let exited = || {
        AttemptState::Exited(crate::model::Exit {
            status: crate::model::ExitStatus::Code(0),
            started_at: None,
            finished_at: clock(),
            message: String::new(),
        })
    };
    let attempt = |container: &str, attempt, image: &str, state| Attempt {
        container: container.to_owned(),
        attempt,
        sandbox: 0,
        image: image.to_owned(),
        image_id: id(image),
        state,
        backoff: Backoff::default(),
        stop_signalled_at: None,
        killed_at: None,
        life: AttemptLife::default(),
    };
    let attempts = vec![
        attempt("a", 0, "old", exited()),
        attempt("a", 1, "starting", AttemptState::Starting),
        attempt("b", 0, "ended", exited()),
    ];
    for (uid, torn_down) in [
        ("11111111-1111-4111-8111-111111111111", false),
        ("22222222-2222-4222-8222-222222222222", true),
    ] {
        let uid = Uid(uid.to_owned());
        let attempts = if torn_down {
            vec![attempt("c", 0, "torn down", exited())]
        } else {
            attempts.clone()
        };
        let pod = json!({"metadata": {"name": uid.as_str(), "namespace": "default", "uid": uid.as_str()}});
        bench
            .store
            .create("Pod", "default", uid.as_str(), &uid, pod)
            .await
            .unwrap();
        let after = Observed {
            attempts,
            torn_down,
            ..Observed::default()
        };
        bench
            .store
            .save_observed(&uid, &Observed::default(), &after)
            .await
            .unwrap();
    }
    let want: HashSet<_> = ["starting", "ended"].into_iter().filter_map(id).collect();
    assert_eq!(bench.images.in_use().await.unwrap(), want);
}

// ---- archives made by other people's tools, where they are installed ----

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| {
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        true
    })
}

/// A root filesystem as `tar` packs it: directories, links, hard links, long names.
fn rootfs(directory: &Path) -> PathBuf {
    let root = directory.join("root");
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::create_dir_all(root.join("a".repeat(90)).join("b".repeat(90))).unwrap();
    std::fs::write(root.join("a".repeat(90)).join("b".repeat(90)).join("c"), b"long").unwrap();
    std::fs::write(root.join("usr/bin/tool"), vec![7; 100_000]).unwrap();
    std::fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/also")).unwrap();
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    let tar = directory.join("root.tar");
    assert!(run(
        "tar",
        &[
            "--xattrs",
            "-C",
            root.to_str().unwrap(),
            "-cf",
            tar.to_str().unwrap(),
            "."
        ]
    ));
    tar
}

#[tokio::test]
async fn what_tar_packs_is_imported() {
    let bench = Bench::new().await;
    let tar = rootfs(bench.directory.path());
    bench.import(&std::fs::read(tar).unwrap(), Some("tar")).await.unwrap();
    let layer = bench.resolve("tar").await.layers.remove(0);
    let root = bench.directory.path().join("root");
    assert!(run(
        "diff",
        &[
            "-r",
            "--no-dereference",
            root.to_str().unwrap(),
            layer.to_str().unwrap()
        ]
    ));
}

#[tokio::test]
async fn what_skopeo_writes_is_imported() {
    let bench = Bench::new().await;
    let tar = rootfs(bench.directory.path());
    let bytes = std::fs::read(&tar).unwrap();
    let docker_archive = bench.directory.path().join("first.tar");
    std::fs::write(
        &docker_archive,
        docker(&config(&[&bytes, &upper()]), &[&bytes, &upper()], &["first:1"]),
    )
    .unwrap();
    let path = |name: &str| bench.directory.path().join(name).to_str().unwrap().to_owned();
    let copy = |from: &str, to: &str, more: &[&str]| {
        let arguments = [&["--insecure-policy", "copy", "--quiet"], more, &[from, to]].concat();
        run("skopeo", &arguments)
    };
    let from = format!("docker-archive:{}", path("first.tar"));
    if !copy(&from, &format!("oci-archive:{}:me/oci:1", path("oci.tar")), &[]) {
        eprintln!("skopeo is not installed");
        return;
    }
    assert!(copy(
        &from,
        &format!("docker-archive:{}:me/docker:1", path("docker.tar")),
        &[]
    ));
    assert!(copy(
        &from,
        &format!("oci-archive:{}:me/zstd:1", path("zstd.tar")),
        &["--dest-compress-format", "zstd"]
    ));
    for (file, name) in [
        ("oci.tar", "me/oci:1"),
        ("docker.tar", "me/docker:1"),
        ("zstd.tar", "me/zstd:1"),
    ] {
        let rows = bench.import(&std::fs::read(path(file)).unwrap(), None).await.unwrap();
        assert_eq!(rows[0].names.last().unwrap(), &format!("docker.io/{name}"), "{file}");
        let image = bench.resolve(name).await;
        assert_eq!(image.layers.len(), 2);
        assert!(run(
            "diff",
            &[
                "-r",
                "--no-dereference",
                &path("root"),
                image.layers[1].to_str().unwrap()
            ]
        ));
        assert_eq!(image.config.entrypoint, ["/app/run"]);
    }
    assert_eq!(bench.files()[0].len(), 2, "the same layers, however they were packed");
}
