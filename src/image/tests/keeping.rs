//! What happens to images once they are there: names, copies that are given away, damage, and their end.

use super::*;
use crate::image::import::unpack_layer;
use crate::image::seal::{self, Damage};

/// A layer of everything that a layer may hold.
fn motley() -> Vec<u8> {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    Tape::new()
        .dir("etc")
        .file("etc/passwd", b"root:x:0:0::/:\n")
        .hard_link("etc/also", "etc/passwd")
        .symlink("etc/link", "../../outside")
        .symlink("etc/untidy", ".//a/./b/")
        .file("etc/.wh.motd", b"")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .char_device("dev/null", (1, 3))
        .pax(&[("path", long.as_bytes()), ("SCHILY.xattr.user.note", b"\x00kept")])
        .file("ignored", b"long")
        .entry(&crate::image::tape::Entry {
            path: b"bin/su",
            data: b"#!",
            mode: 0o4755,
            owner: (3_000_000, 7),
            ..Default::default()
        })
        .end()
}

fn archive(packed: Packed) -> Vec<u8> {
    let mut bytes = Vec::new();
    packed.write_archive(&mut bytes).unwrap();
    bytes
}

fn seals(image: &ResolvedImage) -> Vec<Digest> {
    let open = |path: &PathBuf| std::os::fd::OwnedFd::from(std::fs::File::open(path).unwrap());
    let seal = |path: &PathBuf| seal::seal(&open(path), false).unwrap();
    image.layers.iter().map(seal).collect()
}

#[tokio::test]
async fn what_is_packed_is_the_same_image_elsewhere_and_every_time() {
    let (here, there) = (Bench::new().await, Bench::new().await);
    let (motley, upper) = (motley(), upper());
    let layers = [&motley[..], &upper];
    here.import(&docker(&config(&layers), &layers, &["me/app:1"]), None)
        .await
        .unwrap();
    let packed = here.images.pack("me/app:1").await.unwrap();
    let again = here.images.pack("me/app:1").await.unwrap();
    assert_eq!(packed.digest(), again.digest());
    let bytes = archive(packed);
    there.import(&bytes, None).await.unwrap();
    let (before, after) = (here.resolve("me/app:1").await, there.resolve("me/app:1").await);
    assert_eq!(before.config, after.config);
    assert_eq!(seals(&before), seals(&after));
    let target = std::fs::read_link(after.layers[1].join("etc/untidy")).unwrap();
    assert_eq!(target.as_os_str(), ".//a/./b/");
    let long = after.layers[1].join("d".repeat(120)).join("f".repeat(200));
    assert_eq!(xattr::get(long, "user.note").unwrap().unwrap(), b"\x00kept");
    assert_eq!(there.images.pack("me/app:1").await.unwrap().digest(), again.digest());
    drop(again);
    assert!(here.names("tmp").is_empty());
    assert!(matches!(
        here.images.pack("nothing").await,
        Err(PackError::NotFound { .. })
    ));
}

#[tokio::test]
async fn an_image_gets_a_name_more_and_a_name_moves() {
    let bench = Bench::new().await;
    bench.import(&lower(), Some("a")).await.unwrap();
    bench.import(&upper(), Some("b")).await.unwrap();
    let tagged = bench.images.tag("a", "me/c:2").await.unwrap();
    assert_eq!(tagged.names, ["docker.io/library/a:latest", "docker.io/me/c:2"]);
    bench.images.tag("b", "a").await.unwrap();
    assert_eq!(bench.resolve("a").await.id, bench.resolve("b").await.id);
    assert_eq!(bench.resolve("me/c:2").await.id.0, tagged.id);
    assert!(matches!(
        bench.images.tag("nothing", "x").await,
        Err(TagError::NotFound { .. })
    ));
    assert!(matches!(bench.images.tag("a", "X Y").await, Err(TagError::Name(_))));
}

#[tokio::test]
async fn damage_is_found_discarded_and_mended() {
    let bench = Bench::new().await;
    bench.import(&lower(), Some("a")).await.unwrap();
    bench.import(&upper(), Some("b")).await.unwrap();
    let verify = async || {
        let verified = bench.images.verify(None).await.unwrap();
        verified.into_iter().map(|image| image.damage).collect::<Vec<_>>()
    };
    assert_eq!(verify().await, [vec![], vec![]]);
    let id = bench.resolve("a").await.id.0;
    let layer = bench.resolve("a").await.layers.remove(0);
    let named = || format!("sha256:{}", layer.file_name().unwrap().to_str().unwrap());
    let changed = || vec![Damage::LayerChanged { layer: named() }];

    // A byte, with everything else as it was.
    let file = layer.join("bin/sh");
    let meant = std::fs::read(&file).unwrap();
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    let set = |bytes: &[u8]| {
        let mut open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        open.write_all(bytes).unwrap();
        open.set_modified(time).unwrap();
    };
    set(b"$!");
    assert_eq!(verify().await, [changed(), vec![]]);
    set(&meant);
    assert_eq!(verify().await, [vec![], vec![]]);
    // What else a container could see.
    std::fs::write(layer.join("more"), b"").unwrap();
    assert_eq!(verify().await, [changed(), vec![]]);
    std::fs::remove_file(layer.join("more")).unwrap();
    xattr::set(&file, "user.x", b"y").unwrap();
    assert_eq!(verify().await, [changed(), vec![]]);

    let verified = bench.images.verify(Some("a")).await.unwrap().remove(0);
    bench.images.discard(&verified.damage).await.unwrap();
    let missing = vec![Damage::LayerMissing { layer: named() }];
    assert_eq!(verify().await, [missing, vec![]]);
    assert!(bench.images.resolve("a").await.unwrap().is_none());
    bench.import(&lower(), Some("a")).await.unwrap();
    assert_eq!(verify().await, [vec![], vec![]]);

    let blob = bench
        .directory
        .path()
        .join("images/blobs/sha256")
        .join(&id["sha256:".len()..]);
    std::fs::write(&blob, "{}").unwrap();
    assert_eq!(
        verify().await,
        [vec![Damage::DocumentChanged { digest: id.clone() }], vec![]]
    );
    std::fs::remove_file(&blob).unwrap();
    assert_eq!(verify().await, [vec![Damage::DocumentMissing { digest: id }], vec![]]);
}

/// A pod that the controller has seen, in which a container runs this image.
pub(super) async fn pod_with(bench: &Bench, image: Option<ImageId>) -> Uid {
    let uid = Uid("11111111-1111-4111-8111-111111111111".to_owned());
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": uid.as_str()}});
    bench.store.create("Pod", "default", "p", &uid, pod).await.unwrap();
    let attempt = Attempt {
        container: "c".to_owned(),
        attempt: 0,
        sandbox: 0,
        image: "a".to_owned(),
        image_id: image,
        state: AttemptState::Starting,
        backoff: Backoff::default(),
        stop_signalled_at: None,
        killed_at: None,
        life: AttemptLife::default(),
    };
    let after = Observed {
        attempts: vec![attempt],
        ..Observed::default()
    };
    bench
        .store
        .save_observed(&uid, &Observed::default(), &after)
        .await
        .unwrap();
    uid
}

#[tokio::test]
async fn what_a_pod_uses_is_not_discarded() {
    let bench = Bench::new().await;
    bench.import(&lower(), Some("a")).await.unwrap();
    bench.images.verify(None).await.unwrap();
    let image = bench.resolve("a").await;
    pod_with(&bench, Some(image.id)).await;
    std::fs::write(image.layers[0].join("more"), b"").unwrap();
    let verified = bench.images.verify(Some("a")).await.unwrap().remove(0);
    assert!(matches!(
        bench.images.discard(&verified.damage).await,
        Err(RemoveError::InUse { .. })
    ));
    assert!(image.layers[0].join("more").exists());
}

#[tokio::test]
async fn a_volume_means_the_image_that_it_was_bound_to() {
    let bench = Bench::new().await;
    let uid = pod_with(&bench, None).await;
    assert_eq!(bench.images.volume(&uid, "v").await.unwrap(), None);
    bench.import(&lower(), Some("data:1")).await.unwrap();
    let bound = bench.resolve("data:1").await;
    bench.images.bind_volume(&uid, "v", &bound.id).await.unwrap();
    bench.import(&upper(), Some("data:1")).await.unwrap();
    let later = bench.images.volume(&uid, "v").await.unwrap().unwrap();
    assert_eq!(later.id, bound.id);
    assert_eq!(bench.images.in_use().await.unwrap(), [bound.id.clone()].into());
    assert_eq!(
        bench
            .images
            .free(u64::MAX, std::time::Duration::ZERO)
            .await
            .unwrap()
            .images
            .len(),
        1
    );
    assert!(bound.layers[0].is_dir());
    bench.store.delete("Pod", "default", "p", 1).await.ok();
    bench.store.forget_pod(&uid).await.unwrap();
    assert!(bench.images.in_use().await.unwrap().is_empty());
}

#[tokio::test]
async fn room_is_made_with_no_more_than_is_needed() {
    let bench = Bench::new().await;
    let shared = lower();
    for (name, size) in [("a", 1000), ("b", 2000), ("c", 3000)] {
        let own = Tape::new().file("own", &vec![b'x'; size]).end();
        let layers = [&shared[..], &own];
        bench
            .import(&docker(&config(&layers), &layers, &[name]), None)
            .await
            .unwrap();
    }
    // Used long ago: after those that never were.
    let id = bench.images.get("a").await.unwrap().unwrap().id;
    let past = "2025-01-01T00:00:00Z".parse().unwrap();
    bench.store.note_image_use(&id, past).await.unwrap();
    let minute = std::time::Duration::from_mins(1);
    assert_eq!(
        bench.images.free(1, minute).await.unwrap().images,
        [],
        "all of them came this minute"
    );
    let freed = bench.images.free(1, std::time::Duration::ZERO).await.unwrap().images;
    assert_eq!(freed.len(), 1);
    assert!([2000, 3000].contains(&freed[0].freed), "{freed:?}");
    let freed = bench.images.free(1, std::time::Duration::ZERO).await.unwrap().images;
    assert_ne!(freed[0].image.id, id);
    let freed = bench.images.prune().await.unwrap().images;
    assert_eq!(freed[0].image.id, id);
    assert!(freed[0].freed > 1000, "the shared layer goes with its last image");
    assert_eq!(bench.files()[0].len(), 0);
}

/// Bytes of a stranger that have taken over who reads them.
struct Curious;

impl std::io::Read for Curious {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        std::fs::File::open("/etc/passwd").map(|_| 0)
    }
}

#[test]
fn whoever_reads_a_layer_opens_no_file() {
    // Not every kernel can keep a thread from it.
    let confined = std::thread::spawn(|| {
        crate::linux::confine::to_nothing().unwrap();
        std::fs::File::open("/etc/passwd").is_err()
    });
    let is_refused = confined.join().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let open = || std::os::fd::OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
    let limits = Limits::default();
    let budget = crate::image::limits::Budget::new(&limits);
    let mut share = crate::image::limits::Share::of(&budget);
    let read = unpack_layer("a", &mut Curious, open(), &open(), &limits, &mut share);
    let words = format!("{:?}", read.unwrap_err());
    assert_eq!(words.contains("PermissionDenied"), is_refused, "{words}");
}

#[tokio::test]
async fn an_image_that_is_asked_for_while_others_go_stays() {
    let bench = Bench::new().await;
    let idle = bench.import(&lower(), Some("idle")).await.unwrap().remove(0);
    let wanted = bench.import(&upper(), Some("wanted")).await.unwrap().remove(0);
    let looked = std::time::Instant::now();
    let resolved = bench.resolve("wanted").await;
    let images = &bench.images;
    assert!(!images.remove_unless_asked_for(&wanted, looked).await.unwrap());
    assert!(images.remove_unless_asked_for(&idle, looked).await.unwrap());
    assert!(images.resolve("idle").await.unwrap().is_none());
    images.prune().await.unwrap();
    assert!(resolved.layers[0].is_dir());
    assert_eq!(bench.files()[0].len(), 1);
}

#[tokio::test]
async fn skopeo_and_podman_read_what_is_exported() {
    let bench = Bench::new().await;
    let tar = rootfs(bench.directory.path());
    bench
        .import(&std::fs::read(tar).unwrap(), Some("me/given:1"))
        .await
        .unwrap();
    let file = bench.directory.path().join("given.tar");
    std::fs::write(&file, archive(bench.images.pack("me/given:1").await.unwrap())).unwrap();
    let path = |name: &str| bench.directory.path().join(name).to_str().unwrap().to_owned();
    let copied = [
        "--insecure-policy".to_owned(),
        "copy".to_owned(),
        "--quiet".to_owned(),
        format!("oci-archive:{}", file.display()),
        format!("dir:{}", path("copied")),
    ];
    if !run("skopeo", &copied.each_ref().map(String::as_str)) {
        eprintln!("skopeo is not installed");
        return;
    }
    let manifest: Value = serde_json::from_slice(&std::fs::read(path("copied/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let storage = [
        "--root",
        &path("storage"),
        "--runroot",
        &path("run"),
        "--storage-driver=vfs",
    ];
    let load = [&storage[..], &["load", "--input", file.to_str().unwrap()]].concat();
    if run("podman", &load) {
        assert!(run(
            "podman",
            &[&storage[..], &["image", "exists", "docker.io/me/given:1"]].concat()
        ));
    }
}
