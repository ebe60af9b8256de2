//! Volumes whose files podd writes: what is in them, how it changes, what a killed writer may leave.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};

use super::tests::{Root, context, mode, pod, with};
use super::*;
use crate::model::{
    About, Data, DownwardFile, DownwardValue, Field, KeyToPath, ObjectKind, ResourceField, ResourceValue, Token, Volume,
};

fn volume(name: &str, projections: Vec<Projection>) -> Volume {
    Volume {
        name: name.to_owned(),
        source: VolumeSource::Projected {
            sources: projections,
            default_mode: 0o644,
        },
    }
}

fn object(kind: ObjectKind, name: &str, items: &[(&str, &str, Option<u32>)], optional: bool) -> Projection {
    Projection::Object {
        kind,
        name: name.to_owned(),
        items: items
            .iter()
            .map(|(key, path, mode)| KeyToPath {
                key: (*key).to_owned(),
                path: PathBuf::from(path),
                mode: *mode,
            })
            .collect(),
        optional,
    }
}

fn config_map(name: &str) -> Projection {
    object(ObjectKind::ConfigMap, name, &[], false)
}

fn label(path: &str, key: &str) -> DownwardFile {
    DownwardFile {
        path: path.into(),
        mode: None,
        value: DownwardValue::Field(Field::Label(key.to_owned())),
    }
}

fn token(path: &str) -> Projection {
    Projection::Token {
        audience: String::new(),
        expiration: std::time::Duration::from_hours(1),
        path: path.into(),
    }
}

fn data(entries: &[(&str, &[u8])]) -> Data {
    let entries = entries.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec()));
    Data(entries.collect())
}

type Entries<'a> = &'a [(&'a str, &'a [u8])];

fn sources(objects: &[(ObjectKind, &str, Entries<'_>)]) -> Sources {
    let objects = objects
        .iter()
        .map(|(kind, name, entries)| ((*kind, (*name).to_owned()), data(entries)));
    Sources {
        objects: objects.collect(),
        ..Sources::default()
    }
}

/// The ConfigMap `c` alone.
fn maps(entries: &[(&str, &[u8])]) -> Sources {
    sources(&[(ObjectKind::ConfigMap, "c", entries)])
}

impl Root {
    fn make(&self, pod: &PodSpec, sources: &Sources) -> Result<PathBuf, VolumeError> {
        let prepared = self.volumes.prepare(pod, &context(), sources)?;
        Ok(prepared.sources[&pod.volumes[0].name].clone())
    }
}

/// What one sees who looks from outside: names that do not begin with two dots, and what they lead to.
fn seen(volume: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(volume).unwrap().map(|entry| entry.unwrap());
    let own = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".."));
    own.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = if entry.path().is_dir() {
            format!("{:?}", seen(&entry.path()))
        } else {
            fs::read_to_string(entry.path()).unwrap_or_else(|error| error.to_string())
        };
        (name, text)
    })
    .collect()
}

fn texts(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    let entries = entries
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    entries.collect()
}

fn own_names(volume: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("..")).collect()
}

#[test]
fn keys_items_and_modes() {
    let root = Root::new();
    let items = [("a", "deep/er/one", Some(0o400)), ("bytes", "two", None)];
    let pod = with(vec![
        volume("all", vec![config_map("c")]),
        volume("some", vec![object(ObjectKind::ConfigMap, "c", &items, false)]),
    ]);
    let sources = maps(&[("a", b"1"), ("bytes", &[0, 255]), ("empty", b"")]);
    let prepared = root.volumes.prepare(&pod, &context(), &sources).unwrap();
    let (all, some) = (&prepared.sources["all"], &prepared.sources["some"]);
    assert_eq!(*all, root.path().join("memory").join(pod.uid.as_str()).join("all"));
    assert_eq!(fs::read(all.join("bytes")).unwrap(), [0, 255]);
    assert_eq!(fs::read(all.join("empty")).unwrap(), b"");
    assert_eq!(mode(&all.join("a")), 0o644);
    assert_eq!(mode(&some.join("deep/er/one")), 0o400);
    assert_eq!((mode(&some.join("deep/er")), mode(some)), (0o755, 0o777));
    assert_eq!(fs::read(some.join("two")).unwrap(), [0, 255]);
    assert_eq!(
        seen(some).keys().collect::<Vec<_>>(),
        ["deep", "two"],
        "only what was chosen"
    );
    assert_eq!(fs::read_link(some.join("deep")).unwrap(), Path::new("..data/deep"));
    let kinds: Vec<_> = root.mounts().iter().map(|mount| mount.source.clone()).collect();
    assert_eq!(kinds, [memory::SOURCE], "one mount for all of them");
}

#[test]
fn one_directory_of_all_kinds_where_the_later_wins() {
    let root = Root::new();
    let cpu = DownwardFile {
        path: "cpu".into(),
        mode: Some(0o640),
        value: DownwardValue::Resource(ResourceValue {
            container: Some("c".to_owned()),
            resource: ResourceField::LimitsCpu,
            divisor: 1,
        }),
    };
    let mut pod = with(vec![volume(
        "v",
        vec![
            config_map("c"),
            object(ObjectKind::Secret, "s", &[("k", "a", None)], false),
            Projection::Downward {
                items: vec![label("label", "app"), cpu],
            },
            token("token"),
        ],
    )]);
    pod.about = About {
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ..About::default()
    };
    let mut all = sources(&[
        (ObjectKind::ConfigMap, "c", &[("a", b"map"), ("b", b"map")]),
        (ObjectKind::Secret, "s", &[("k", b"secret")]),
    ]);
    let jwt = Token {
        text: "jwt".to_owned(),
        expires_at: "2026-01-01T01:00:00Z".parse().unwrap(),
        renew_at: "2026-01-01T00:48:00Z".parse().unwrap(),
    };
    all.tokens.insert(("v".to_owned(), "token".into()), jwt);
    let at = root.make(&pod, &all).unwrap();
    assert_eq!(
        seen(&at),
        texts(&[
            ("a", "secret"),
            ("b", "map"),
            ("cpu", "2000"),
            ("label", "web"),
            ("token", "jwt")
        ])
    );
    assert_eq!((mode(&at.join("cpu")), mode(&at.join("token"))), (0o640, 0o644));

    // Whose it is alone, once somebody is named.
    root.volumes.remove(&pod.uid).unwrap();
    for container in &mut pod.containers {
        container.security.run_as_user = Some(1234);
    }
    let at = root.make(&pod, &all).unwrap();
    let there = fs::metadata(at.join("token")).unwrap();
    assert_eq!((there.uid(), mode(&at.join("token"))), (1234, 0o600));
    assert_eq!(fs::metadata(at.join("a")).unwrap().uid(), 0);
}

#[test]
fn a_group_reads_what_is_its_pods() {
    let root = Root::new();
    let items = [("a", "deep/a", Some(0o400))];
    let mut pod = with(vec![volume(
        "v",
        vec![object(ObjectKind::ConfigMap, "c", &items, false), token("token")],
    )]);
    pod.security.fs_group = Some(2000);
    let mut all = maps(&[("a", b"1")]);
    let jwt = Token {
        text: "jwt".to_owned(),
        expires_at: "2026-01-01T01:00:00Z".parse().unwrap(),
        renew_at: "2026-01-01T00:48:00Z".parse().unwrap(),
    };
    all.tokens.insert(("v".to_owned(), "token".into()), jwt);
    let at = root.make(&pod, &all).unwrap();
    for (path, expected) in [
        ("deep/a", 0o440),
        ("token", 0o640),
        ("deep", 0o2755),
        ("..data", 0o2755),
        (".", 0o2777),
    ] {
        let there = fs::metadata(at.join(path)).unwrap();
        assert_eq!((there.gid(), there.uid()), (2000, 0), "{path}");
        assert_eq!(mode(&at.join(path)), expected, "{path}");
    }
}

#[test]
fn what_is_missing_is_told_in_a_kubelets_words() {
    let root = Root::new();
    let all = sources(&[
        (ObjectKind::ConfigMap, "c", &[("a", b"1")]),
        (ObjectKind::Secret, "s", &[("a", b"1")]),
    ]);
    let key = [("k", "k", None)];
    let nobody = DownwardFile {
        path: "cpu".into(),
        mode: None,
        value: DownwardValue::Resource(ResourceValue {
            container: Some("nobody".to_owned()),
            resource: ResourceField::RequestsCpu,
            divisor: 1,
        }),
    };
    for (projections, expected) in [
        (vec![config_map("x")], r#"configmap "x" not found"#),
        (
            vec![object(ObjectKind::Secret, "x", &[], false)],
            r#"secret "x" not found"#,
        ),
        (
            vec![object(ObjectKind::ConfigMap, "c", &key, false)],
            "configmap references non-existent config key: k",
        ),
        (
            vec![object(ObjectKind::Secret, "s", &key, false)],
            "references non-existent secret key: k",
        ),
        (
            vec![token("t")],
            r#"failed to fetch token: serviceaccounts "robot" not found"#,
        ),
        (
            vec![Projection::Downward { items: vec![nobody] }],
            "container nobody not found",
        ),
        (
            vec![config_map("x"), object(ObjectKind::Secret, "y", &[], false)],
            r#"[configmap "x" not found, secret "y" not found]"#,
        ),
    ] {
        let mut pod = with(vec![volume("v", projections)]);
        pod.about.service_account = "robot".to_owned();
        let error = root.make(&pod, &all).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(
            format!("{error}: {cause}"),
            format!(r#"MountVolume.SetUp failed for volume "v" : {expected}"#)
        );
        assert!(!root.volumes.has_files(&pod.uid));
    }
    // What may be missing is left out.
    let some = [("k", "k", None), ("a", "a", None)];
    let pod = with(vec![volume(
        "v",
        vec![
            object(ObjectKind::ConfigMap, "x", &[], true),
            object(ObjectKind::Secret, "s", &some, true),
        ],
    )]);
    assert_eq!(seen(&root.make(&pod, &all).unwrap()), texts(&[("a", "1")]));
}

#[test]
fn a_change_is_shown_at_once_and_what_is_gone_vanishes() {
    let root = Root::new();
    let pod = with(vec![volume("v", vec![config_map("c")])]);
    let at = root.make(&pod, &maps(&[("a", b"1"), ("b", b"1")])).unwrap();
    let before = fs::read_link(at.join("..data")).unwrap();
    let open = fs::File::open(at.join("a")).unwrap();

    root.volumes.refresh(&pod, &maps(&[("a", b"2"), ("c", b"2")])).unwrap();
    assert_eq!(seen(&at), texts(&[("a", "2"), ("c", "2")]));
    let after = fs::read_link(at.join("..data")).unwrap();
    assert_ne!(before, after);
    assert_eq!(
        own_names(&at),
        ["..data".to_owned(), after.display().to_string()].into(),
        "nothing old is left"
    );
    assert_eq!(open.metadata().unwrap().len(), 1, "who has it open keeps it");

    root.volumes.refresh(&pod, &maps(&[("a", b"2"), ("c", b"2")])).unwrap();
    assert_eq!(
        fs::read_link(at.join("..data")).unwrap(),
        after,
        "the same: nothing changes"
    );

    let error = root.volumes.refresh(&pod, &Sources::default()).unwrap_err();
    assert!(matches!(error, VolumeError::SetUp { .. }), "{error}");
    assert_eq!(
        seen(&at),
        texts(&[("a", "2"), ("c", "2")]),
        "it shows what it has shown"
    );
}

#[test]
fn an_optional_object_comes_and_goes_beside_one_that_fails() {
    let root = Root::new();
    let pod = with(vec![
        volume("must", vec![config_map("c")]),
        volume("may", vec![object(ObjectKind::Secret, "s", &[], true)]),
    ]);
    let prepared = root.volumes.prepare(&pod, &context(), &maps(&[("a", b"1")])).unwrap();
    let may = &prepared.sources["may"];
    assert_eq!(seen(may), texts(&[]));
    let secret = sources(&[(ObjectKind::Secret, "s", &[("k", b"v")])]);
    root.volumes.refresh(&pod, &secret).unwrap_err();
    assert_eq!(
        seen(may),
        texts(&[("k", "v")]),
        "another volume's failure is not its own"
    );
    assert_eq!(seen(&prepared.sources["must"]), texts(&[("a", "1")]));
    root.volumes.refresh(&pod, &maps(&[("a", b"1")])).unwrap();
    assert_eq!(seen(may), texts(&[]));
}

#[test]
fn who_prepares_again_puts_nothing_older_in_place() {
    let root = Root::new();
    let pod = with(vec![volume("v", vec![config_map("c")])]);
    let old = maps(&[("a", b"1")]);
    let at = root.make(&pod, &old).unwrap();
    root.volumes.refresh(&pod, &maps(&[("a", b"2")])).unwrap();
    assert_eq!(root.make(&pod, &old).unwrap(), at);
    assert_eq!(seen(&at), texts(&[("a", "2")]));
    // Not even what is missing by now is missed.
    root.make(&pod, &Sources::default()).unwrap();
}

#[test]
fn only_what_was_made_is_written_anew() {
    let root = Root::new();
    let pod = with(vec![volume("v", vec![config_map("c")])]);
    root.volumes.refresh(&pod, &maps(&[("a", b"1")])).unwrap();
    assert!(!root.volumes.has_files(&pod.uid));
    assert_eq!(root.mounts(), []);
}

/// What it had done, by name.
type Crash = (&'static str, fn(&Path));

/// Every state in which a writer can be killed, and what the next one makes of it.
#[test]
fn a_killed_writer_leaves_nothing_that_matters() {
    let old = maps(&[("a", b"1"), ("b", b"1")]);
    let new = maps(&[("a", b"2"), ("new", b"2")]);
    let crashes: [Crash; 6] = [
        ("half of the files", |at| {
            fs::create_dir(at.join("..2")).unwrap();
            fs::write(at.join("..2/a"), "half").unwrap();
        }),
        ("all files and some links", |at| {
            fs::create_dir(at.join("..2")).unwrap();
            symlink("..data/new", at.join("new")).unwrap();
        }),
        ("the new link", |at| {
            fs::create_dir(at.join("..2")).unwrap();
            symlink("..2", at.join("..data_tmp")).unwrap();
        }),
        ("after the change", |at| {
            fs::create_dir(at.join("..2")).unwrap();
            fs::write(at.join("..2/a"), "2").unwrap();
            fs::write(at.join("..2/new"), "2").unwrap();
            symlink("..data/new", at.join("new")).unwrap();
            fs::remove_file(at.join("..data")).unwrap();
            symlink("..2", at.join("..data")).unwrap();
        }),
        ("before the first change", |at| {
            fs::remove_file(at.join("..data")).unwrap();
        }),
        ("the files are gone", |at| {
            fs::remove_dir_all(at.join("..1")).unwrap();
        }),
    ];
    for (what, crash) in crashes {
        for (wanted, expected) in [
            (&new, texts(&[("a", "2"), ("new", "2")])),
            (&old, texts(&[("a", "1"), ("b", "1")])),
        ] {
            let root = Root::new();
            let pod = with(vec![volume("v", vec![config_map("c")])]);
            let at = root.make(&pod, &old).unwrap();
            crash(&at);
            // A pod that is started and one that runs alike.
            root.make(&pod, wanted).unwrap();
            root.volumes.refresh(&pod, wanted).unwrap();
            assert_eq!(seen(&at), expected, "{what}");
            assert_eq!(own_names(&at).len(), 2, "{what}");
        }
    }
}

#[test]
fn what_cannot_be_written_leaves_what_is_shown() {
    let root = Root::new();
    let pod = with(vec![volume("v", vec![config_map("c")])]);
    let at = root.make(&pod, &maps(&[("a", b"1")])).unwrap();
    let long = "x".repeat(300);
    root.volumes
        .refresh(&pod, &maps(&[("a", b"2"), (&long, b"2")]))
        .unwrap_err();
    assert_eq!(seen(&at), texts(&[("a", "1")]));
    assert_eq!(own_names(&at).len(), 2);
    // A file where another wants a directory.
    let clash = [("a", "x", None), ("a", "x/y", None)];
    let clashing = with(vec![volume(
        "w",
        vec![object(ObjectKind::ConfigMap, "c", &clash, false)],
    )]);
    root.make(&clashing, &maps(&[("a", b"1")])).unwrap_err();
}

#[test]
fn the_last_pod_takes_the_mount_with_it() {
    let root = Root::new();
    let first = with(vec![volume("v", vec![config_map("c")])]);
    let second = PodSpec {
        uid: Uid("1b9a3c52-6f0e-4d57-9a53-0c7f3b1b2a11".to_owned()),
        ..first.clone()
    };
    let all = maps(&[("a", b"1")]);
    root.make(&first, &all).unwrap();
    let at = root.make(&second, &all).unwrap();
    // Nothing of it on the disk is left to tell of the pod.
    fs::remove_dir_all(root.path().join("pods")).unwrap();
    assert_eq!(root.volumes.list().unwrap(), [first.uid.clone(), second.uid.clone()]);

    root.volumes.remove(&first.uid).unwrap();
    root.volumes.remove(&first.uid).unwrap();
    assert_eq!(seen(&at), texts(&[("a", "1")]));
    root.volumes.refresh(&first, &all).unwrap();
    assert!(!root.volumes.has_files(&first.uid), "what is removed stays removed");
    root.volumes.remove(&second.uid).unwrap();
    assert_eq!(root.mounts(), []);
    assert!(!root.path().join("memory").exists());
    assert_eq!(root.volumes.list().unwrap(), []);

    // And it is made again, as after a reboot.
    assert_eq!(seen(&root.make(&pod_of(&first), &all).unwrap()), texts(&[("a", "1")]));
}

fn pod_of(other: &PodSpec) -> PodSpec {
    PodSpec {
        volumes: other.volumes.clone(),
        ..pod()
    }
}

#[test]
fn readers_see_the_old_files_or_the_new_ones() {
    let root = Root::new();
    let pod = with(vec![volume("v", vec![config_map("c")])]);
    let state = |number: u32| {
        let text = number.to_string();
        maps(&[("a", text.as_bytes()), ("b", text.as_bytes())])
    };
    let at = root.make(&pod, &state(0)).unwrap();
    let data = at.join("..data");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u32;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                // As `..data` is looked through once: by a descriptor of the directory.
                let Ok(directory) = fs::File::open(&data) else {
                    // Between the look at the link and the one at where it led that was removed, as with a kubelet.
                    fs::symlink_metadata(&data).expect("the link itself is always there");
                    continue;
                };
                let read = |name: &str| {
                    use std::os::fd::AsFd as _;
                    let file = path::open_beneath(directory.as_fd(), Path::new(name), rustix::fs::OFlags::RDONLY);
                    file.and_then(|file| io::read_to_string(fs::File::from(file)))
                };
                // A directory that was removed meanwhile is empty.
                if let (Ok(a), Ok(b)) = (read("a"), read("b")) {
                    assert_eq!(a, b);
                    looks += 1;
                }
            }
            looks
        });
        for number in 1..200 {
            root.volumes.refresh(&pod, &state(number)).unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(seen(&at), texts(&[("a", "199"), ("b", "199")]));
}
