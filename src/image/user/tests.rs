use proptest::prelude::*;
use rustix::fs::{XattrFlags, mknodat, setxattr};

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n\nweb:x:33:34:Web:/srv:/bin/false\nbroken:x:abc:0::/:\n\
    short:x:5\nbig:x:4294967296:0::/:\nnegative:x:-1:0::/:\n:x:8:8::/:\nweb2:x:33:99::/:\n1000:x:77:78::/:\n";
const GROUP: &str = "root:x:0:\nweb:x:34:web\nadm:x:4:root,web\ndisk:x:6: web ,other\nbad:x:x:web\nnone:x:9\n";

type Files<'a> = &'a [(&'a str, Option<&'a str>)];

/// Layers, topmost first, made of `path` and content; a content of `None` is a whiteout.
fn layers(layers: &[Files<'_>]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (index, files) in layers.iter().enumerate() {
        let layer = directory.path().join(index.to_string());
        std::fs::create_dir(&layer).unwrap();
        for (path, content) in *files {
            let path = layer.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content {
                Some(content) => std::fs::write(path, content).unwrap(),
                None => mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap(),
            }
        }
        paths.push(layer);
    }
    (directory, paths)
}

fn usual() -> (tempfile::TempDir, Vec<PathBuf>) {
    layers(&[
        &[("bin/sh", Some(""))],
        &[("etc/passwd", Some(PASSWD)), ("etc/group", Some(GROUP))],
    ])
}

fn ids(uid: u32, gid: u32, additional: &[u32]) -> UserIds {
    UserIds {
        uid,
        gid,
        additional_gids: additional.to_vec(),
    }
}

fn with_groups(groups: &[u32]) -> Wish {
    Wish {
        groups: groups.to_vec(),
        ..Wish::default()
    }
}

#[test]
fn strict_groups_are_the_pods_alone() {
    let (_directory, layers) = usual();
    let strict = |spec: &str, groups: &[u32]| {
        let wish = Wish {
            strict_groups: true,
            ..with_groups(groups)
        };
        resolve_user(&layers, spec, &wish).unwrap()
    };
    assert_eq!(strict("web", &[]), ids(33, 34, &[34]));
    assert_eq!(strict("web:adm", &[7, 8]), ids(33, 4, &[4, 7, 8]));
    assert_eq!(strict("", &[0, 9]), ids(0, 0, &[0, 9]));
}

#[test]
fn each_form_of_user_is_understood() {
    let (_directory, layers) = usual();
    for (spec, want) in [
        ("", ids(0, 0, &[0, 4])),
        ("root", ids(0, 0, &[0, 4])),
        ("0", ids(0, 0, &[0, 4])),
        ("web", ids(33, 34, &[34, 4, 6])),
        ("33", ids(33, 34, &[34, 4, 6])),
        ("033", ids(33, 34, &[34, 4, 6])),
        ("web:adm", ids(33, 4, &[4, 6])),
        ("web:7", ids(33, 7, &[7, 4, 6])),
        ("33:adm", ids(33, 4, &[4, 6])),
        ("33:7", ids(33, 7, &[7, 4, 6])),
        ("5000", ids(5000, 0, &[0])),
        ("5000:6000", ids(5000, 6000, &[6000])),
        ("2147483647", ids(2_147_483_647, 0, &[0])),
        // Digits are a number, whatever a user may be called.
        ("1000", ids(1000, 0, &[0])),
    ] {
        assert_eq!(resolve_user(&layers, spec, &Wish::default()).unwrap(), want, "{spec:?}");
    }
}

#[test]
fn the_pod_has_the_last_word() {
    let (_directory, layers) = usual();
    let resolve = |user, group, more: &[u32]| {
        let wish = Wish {
            run_as_user: user,
            run_as_group: group,
            groups: more.to_vec(),
            strict_groups: false,
        };
        resolve_user(&layers, "web:adm", &wish).unwrap()
    };
    assert_eq!(resolve(Some(33), None, &[]), ids(33, 34, &[34, 4, 6]));
    assert_eq!(resolve(Some(5000), None, &[]), ids(5000, 0, &[0]));
    assert_eq!(resolve(Some(33), Some(50), &[7, 4, 7, 50]), ids(33, 50, &[50, 4, 6, 7]));
    assert_eq!(resolve(Some(0), Some(0), &[]), ids(0, 0, &[0, 4]));
    let error = {
        let wish = Wish {
            run_as_group: Some(5),
            ..Wish::default()
        };
        resolve_user(&layers, "web", &wish).unwrap_err()
    };
    assert_eq!(error.to_string(), "user group 5 is specified without user");
}

#[test]
fn what_cannot_be_said_is_an_error() {
    let (_directory, layers) = usual();
    let error = |spec: &str| resolve_user(&layers, spec, &Wish::default()).unwrap_err();
    for spec in [
        "nobody",
        "4294967296",
        "2147483648",
        "-1",
        "+1",
        "broken",
        "big",
        "negative",
        "short",
        "0x0",
        "root ",
        " ",
    ] {
        assert!(matches!(error(spec), UserError::NoSuchUser { .. }), "{spec:?}");
        assert!(
            matches!(error(&format!("{spec}:0")), UserError::NoSuchUser { .. }),
            "{spec:?}"
        );
    }
    for group in ["nogroup", "4294967296", "-1", "bad", ""] {
        assert!(
            matches!(error(&format!("root:{group}")), UserError::NoSuchGroup { .. }),
            "{group:?}"
        );
    }
    assert!(matches!(error(":0"), UserError::NoSuchUser { .. }));
    assert!(matches!(error("a:b:c"), UserError::InvalidSpec { .. }));
}

#[test]
fn an_image_without_the_files_has_numbers_alone() {
    let (_directory, layers) = layers(&[&[("bin/sh", Some(""))]]);
    assert_eq!(
        resolve_user(&layers, "7:8", &with_groups(&[9])).unwrap(),
        ids(7, 8, &[8, 9])
    );
    assert_eq!(resolve_user(&layers, "", &Wish::default()).unwrap(), ids(0, 0, &[0]));
    assert!(matches!(
        resolve_user(&layers, "web", &Wish::default()),
        Err(UserError::NoSuchUser { .. })
    ));
    assert!(matches!(
        resolve_user(&layers, "7:web", &Wish::default()),
        Err(UserError::NoSuchGroup { .. })
    ));
}

fn uid_of_a(layers: &[PathBuf]) -> Option<u32> {
    match resolve_user(layers, "a", &Wish::default()) {
        Ok(ids) => Some(ids.uid),
        Err(UserError::NoSuchUser { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn layers_hide_each_other_as_in_overlay() {
    let (one, two) = (Some("a:x:1:1::/:"), Some("a:x:2:2::/:"));
    let file = "etc/passwd";
    let cases: [(&[Files<'_>], Option<u32>); 6] = [
        (&[&[(file, one)], &[(file, two)]], Some(1)),
        (&[&[("etc/group", two)], &[(file, two)]], Some(2)),
        (&[&[(file, None)], &[(file, two)]], None),
        (&[&[("etc", None)], &[(file, two)]], None),
        (&[&[("etc", one)], &[(file, two)]], None),
        (&[&[(file, one)], &[("etc", None)], &[(file, two)]], Some(1)),
    ];
    for (number, (stack, want)) in cases.into_iter().enumerate() {
        let (_directory, layers) = layers(stack);
        assert_eq!(uid_of_a(&layers), want, "case {number}");
    }
    let (_directory, layers) = layers(&[&[("etc/group", one)], &[("etc/group", one)], &[(file, two)]]);
    assert_eq!(uid_of_a(&layers), Some(2));
    setxattr(
        layers[1].join("etc"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    assert_eq!(uid_of_a(&layers), None);
}

#[test]
fn links_are_followed_within_the_layers_alone() {
    let file = ("usr/share/passwd", Some("a:x:3:3::/:"));
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("passwd"), "a:x:666:666::/:").unwrap();
    let outside = secret.path().join("passwd");
    for (target, want) in [
        ("/usr/share/passwd", Some(3)),
        ("../usr/share/passwd", Some(3)),
        ("../../../../../../usr/share/../share/passwd", Some(3)),
        ("/missing", None),
        (outside.to_str().unwrap(), None),
        ("/usr/share/passwd/x", None),
    ] {
        let (_directory, layers) = layers(&[&[("etc/x", Some(""))], &[file]]);
        std::os::unix::fs::symlink(target, layers[0].join("etc/passwd")).unwrap();
        assert_eq!(uid_of_a(&layers), want, "{target}");
    }
    // A directory that is a link, into another layer.
    let (_directory, layers) = layers(&[&[("x", Some(""))], &[("usr/etc/passwd", Some("a:x:4:4::/:"))]]);
    std::os::unix::fs::symlink("usr/etc", layers[0].join("etc")).unwrap();
    assert_eq!(uid_of_a(&layers), Some(4));
}

#[test]
fn odd_files_are_errors_and_nothing_waits() {
    let read = |make: &dyn Fn(&std::path::Path)| {
        let (_directory, layers) = layers(&[&[("etc/x", Some(""))]]);
        make(&layers[0].join("etc/passwd"));
        resolve_user(&layers, "a", &Wish::default()).unwrap_err()
    };
    let pipe = |path: &std::path::Path| mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(matches!(read(&pipe), UserError::NotAFile { .. }));
    let device = |path: &std::path::Path| mknodat(CWD, path, FileType::CharacterDevice, Mode::RWXU, 0x105).unwrap();
    assert!(matches!(read(&device), UserError::NotAFile { .. }));
    assert!(matches!(
        read(&|path| std::fs::create_dir(path).unwrap()),
        UserError::NotAFile { .. }
    ));
    let huge = |path: &std::path::Path| std::fs::File::create(path).unwrap().set_len(2 << 30).unwrap();
    assert!(matches!(read(&huge), UserError::TooLarge { .. }));
    let circle = |path: &std::path::Path| std::os::unix::fs::symlink("passwd", path).unwrap();
    assert!(matches!(read(&circle), UserError::Read { .. }));
}

#[test]
fn root_is_told_in_the_kubelets_words() {
    let check =
        |image: &str, run_as: Option<u32>, uid| check_non_root(image, run_as, uid).map_err(|error| error.to_string());
    let root = "container has runAsNonRoot and image will run as root";
    let name = "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root";
    for (image, run_as, uid, want) in [
        ("", None, 0, Err(root)),
        ("0", None, 0, Err(root)),
        ("00:5", None, 0, Err(root)),
        ("web", None, 33, Err(name)),
        ("web:5", None, 33, Err(name)),
        ("5", None, 5, Ok(())),
        ("5:0", None, 5, Ok(())),
        ("root", Some(5), 5, Ok(())),
        ("5", Some(0), 0, Err("container's runAsUser breaks non-root policy")),
    ] {
        assert_eq!(
            check(image, run_as, uid),
            want.map_err(str::to_owned),
            "{image:?} {run_as:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_file_makes_a_root_of_somebody(passwd in "([a-z0-9:,# -]{0,30}\n){0,10}", user in "[a-z]{1,3}") {
        let (_directory, layers) = layers(&[&[("etc/passwd", Some(&passwd))]]);
        if let Ok(ids) = resolve_user(&layers, &user, &Wish::default()) && ids.uid == 0 {
            let is_root = |line: &str| {
                let fields: Vec<_> = line.trim().split(':').collect();
                fields[0] == user && fields.len() > 3 && !fields[2].is_empty() && fields[2].bytes().all(|b| b == b'0')
            };
            prop_assert!(passwd.lines().any(is_root), "{passwd:?}");
        }
    }
}
