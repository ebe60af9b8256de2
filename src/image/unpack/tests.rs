//! Layers as strangers make them.

mod fuzz;
mod others;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::CWD;
use tar::EntryType;

use super::super::limits::{Budget, Limits};
use super::super::tape::{Bytes, Entry, Tape};
use super::*;

/// What one path is: everything that can be seen of it, but its access time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    links: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    data: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn see(path: &Path) -> Seen {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let data = if kind.is_file() {
        std::fs::read(path).unwrap()
    } else if kind.is_symlink() {
        std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let xattrs = xattr::list(path)
        .unwrap()
        .map(|name| (name.as_bytes().to_vec(), xattr::get(path, &name).unwrap().unwrap()))
        .collect();
    Seen {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        device: meta.rdev(),
        links: meta.nlink(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        ctime: (meta.ctime(), meta.ctime_nsec()),
        data,
        xattrs,
    }
}

/// A tree as a whole.
fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut tree = BTreeMap::from([(PathBuf::new(), see(root))]);
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), see(&path));
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    tree
}

/// A layer beside a tree that nothing may touch.
struct Bench {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let canary = directory.path().join("canary");
        std::fs::create_dir_all(canary.join("etc/sub")).unwrap();
        std::fs::write(canary.join("etc/passwd"), "root").unwrap();
        std::fs::write(canary.join("etc/sub/file"), "file").unwrap();
        std::os::unix::fs::symlink("passwd", canary.join("etc/link")).unwrap();
        for made in ["layer", "trash"] {
            std::fs::create_dir(directory.path().join(made)).unwrap();
        }
        let before = tree(&canary);
        Self { directory, before }
    }

    fn canary(&self) -> String {
        self.directory.path().join("canary").to_str().unwrap().to_owned()
    }

    fn layer(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    fn unpack(&self, bytes: Vec<u8>) -> Result<()> {
        self.unpack_within(
            bytes,
            &Limits {
                keep_free: 0,
                ..Limits::default()
            },
        )
    }

    fn unpack_within(&self, bytes: Vec<u8>, limits: &Limits) -> Result<()> {
        let open = |name: &str| openat(CWD, self.directory.path().join(name), OPEN_DIRECTORY, Mode::empty()).unwrap();
        let mut share = Share::of(&Budget::new(limits));
        let result = unpack(
            &mut Members::new(Bytes::new(bytes)),
            open("layer"),
            open("trash").as_fd(),
            &mut share,
        );
        assert_eq!(
            tree(&self.directory.path().join("canary")),
            self.before,
            "the canary is dead: {result:?}"
        );
        let beside: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(beside.len(), 3, "{beside:?}");
        result
    }

    fn fault(&self, tape: Tape) -> Fault {
        match self.unpack(tape.end()) {
            Err(UnpackError::Refused { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    fn see(&self, path: &str) -> Seen {
        see(&self.layer().join(path))
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let seen = self.see(path);
        seen.mode & 0o170_000 == 0o020_000 && seen.device == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.see(path).xattrs.get(&b"trusted.overlay.opaque"[..]) == Some(&b"y".to_vec())
    }
}

fn unpacked(tape: Tape) -> Bench {
    let bench = Bench::new();
    bench.unpack(tape.end()).unwrap();
    bench
}

// ---- what a layer means ----

#[test]
fn owners_modes_times_and_data_are_kept() {
    let at = |path: &'static [u8], kind, mode, owner, mtime| Entry {
        kind,
        path,
        mode,
        owner,
        mtime,
        ..Entry::default()
    };
    let tape = Tape::new()
        .entry(&at(b"./", EntryType::Directory, 0o711, (1, 2), 1_111_111_111))
        .entry(&at(b"tmp/", EntryType::Directory, 0o1777, (0, 0), 1_222_222_222))
        .entry(&Entry {
            data: b"#!",
            ..at(b"tmp/su", EntryType::Regular, 0o6755, (1000, 1001), 1_333_333_333)
        })
        .entry(&at(b"tmp/none", EntryType::Regular, 0, (70_000, 70_001), 0))
        .entry(&Entry {
            device: (5, 1),
            ..at(b"console", EntryType::Char, 0o600, (0, 5), 7)
        })
        .entry(&Entry {
            device: (7, 300),
            ..at(b"loop", EntryType::Block, 0o660, (0, 6), 7)
        })
        .entry(&at(b"pipe", EntryType::Fifo, 0o622, (3, 3), 7))
        .entry(&Entry {
            link: b"/nowhere",
            ..at(b"link", EntryType::Symlink, 0o777, (9, 8), 1_444_444_444)
        });
    let bench = unpacked(tape);
    let seen = |path: &str| {
        let seen = bench.see(path);
        (seen.mode, seen.owner, seen.mtime.0)
    };
    assert_eq!(seen(""), (0o040_711, (1, 2), 1_111_111_111));
    assert_eq!(seen("tmp"), (0o041_777, (0, 0), 1_222_222_222));
    assert_eq!(seen("tmp/su"), (0o106_755, (1000, 1001), 1_333_333_333));
    assert_eq!(seen("tmp/none"), (0o100_000, (70_000, 70_001), 0));
    assert_eq!(seen("console"), (0o020_600, (0, 5), 7));
    assert_eq!(bench.see("console").device, makedev(5, 1));
    assert_eq!(seen("loop"), (0o060_660, (0, 6), 7));
    assert_eq!(bench.see("loop").device, makedev(7, 300));
    assert_eq!(seen("pipe"), (0o010_622, (3, 3), 7));
    assert_eq!(seen("link"), (0o120_777, (9, 8), 1_444_444_444));
    assert_eq!(
        (bench.see("tmp/su").data, bench.see("link").data),
        (b"#!".to_vec(), b"/nowhere".to_vec())
    );
}

#[test]
fn hard_links_are_one_file() {
    let tape = Tape::new()
        .file("a/f", b"x")
        .hard_link("b/g", "a/f")
        .hard_link("h", "/a/f")
        .hard_link("h", "./h");
    let bench = unpacked(tape.symlink("s", "a/f").hard_link("t", "s"));
    let inode = |path: &str| std::fs::symlink_metadata(bench.layer().join(path)).unwrap().ino();
    assert_eq!((inode("a/f"), inode("a/f")), (inode("b/g"), inode("h")));
    assert_eq!(bench.see("a/f").links, 3);
    assert_eq!(inode("s"), inode("t"), "a link's hard link is the link itself");
}

#[test]
fn extended_attributes_that_are_the_images_are_kept() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 8] = [
        ("SCHILY.xattr.user.mine", b"yes"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.any", b"x"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.system.posix_acl_access", b"x"),
    ];
    let tape = Tape::new()
        .pax(&records)
        .file("ping", b"elf")
        .pax(&records[2..])
        .dir("d")
        .pax(&records)
        .symlink("l", "x");
    let bench = unpacked(tape);
    let want: BTreeMap<_, _> = [
        (b"user.mine".to_vec(), b"yes".to_vec()),
        (b"security.capability".to_vec(), capability.to_vec()),
    ]
    .into();
    assert_eq!(bench.see("ping").xattrs, want);
    assert!(bench.see("d").xattrs.is_empty());
    assert!(bench.see("l").xattrs.is_empty());
}

#[test]
fn whiteouts_and_opaque_directories_are_overlays_own() {
    let tape = Tape::new()
        .dir("etc")
        .file("etc/.wh.passwd", b"")
        .file("var/.wh..wh..opq", b"")
        .file("var/new", b"x");
    let bench = unpacked(
        tape.file(".wh.gone", b"")
            .file(".wh..wh.plnk/12.34", b"")
            .file(".wh..wh.aufs", b""),
    );
    assert!(bench.is_whiteout("etc/passwd") && bench.is_whiteout("gone"));
    assert!(bench.is_opaque("var") && !bench.is_opaque("etc"));
    let names: Vec<_> = tree(&bench.layer()).into_keys().collect();
    assert_eq!(
        names,
        ["", "etc", "etc/passwd", "gone", "var", "var/new"].map(PathBuf::from)
    );
}

#[test]
fn a_whiteout_beside_what_replaces_it_means_both() {
    let before = Tape::new()
        .file(".wh.d", b"")
        .dir("d")
        .file("d/x", b"")
        .file(".wh.f", b"")
        .file("f", b"1");
    let after = Tape::new()
        .dir("d")
        .file("d/x", b"")
        .file(".wh.d", b"")
        .file("f", b"1")
        .file(".wh.f", b"");
    let implied = Tape::new()
        .file(".wh.d", b"")
        .file("d/x", b"")
        .file(".wh.f", b"")
        .file(".wh.f", b"")
        .file("f", b"1");
    for tape in [before, after, implied] {
        let bench = unpacked(tape);
        assert!(bench.is_opaque("d") && bench.layer().join("d/x").is_file());
        assert_eq!(bench.see("f").data, b"1");
    }
}

#[test]
fn overlay_shows_what_the_layers_mean() {
    let lower = unpacked(
        Tape::new()
            .file("etc/passwd", b"1")
            .file("etc/group", b"1")
            .file("var/old", b"1")
            .dir("run"),
    );
    let upper = unpacked(
        Tape::new()
            .file("etc/.wh.passwd", b"")
            .file("var/.wh..wh..opq", b"")
            .file("var/new", b"2")
            .file(".wh.run", b""),
    );
    let target = tempfile::tempdir().unwrap();
    let options = format!("lowerdir={}:{}", upper.layer().display(), lower.layer().display());
    let flags = rustix::mount::MountFlags::RDONLY;
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount("overlay", target.path(), "overlay", flags, Some(options.as_c_str())).unwrap();
    let names: Vec<_> = tree(target.path()).into_keys().collect();
    rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(names, ["", "etc", "etc/group", "var", "var/new"].map(PathBuf::from));
}

#[test]
fn the_last_of_equal_names_wins() {
    let tape = Tape::new()
        .file("a", b"file")
        .dir("a")
        .file("a/in", b"1")
        .file("b/x/y", b"1")
        .file("b", b"file again")
        .file("c", b"1")
        .file("c", b"22")
        .symlink("d", "c")
        .file("d", b"not c")
        .dir("e")
        .symlink("e", "a")
        .symlink("f", "a")
        .dir("f")
        .file("g", b"1")
        .hard_link("h", "g")
        .file("h", b"2");
    let bench = unpacked(tape);
    assert_eq!(bench.see("a/in").data, b"1");
    assert_eq!(bench.see("b").data, b"file again");
    assert_eq!(bench.see("c").data, b"22");
    assert_eq!(bench.see("d").data, b"not c");
    assert_eq!(bench.see("e").data, b"a");
    assert!(std::fs::symlink_metadata(bench.layer().join("f")).unwrap().is_dir());
    assert_eq!(bench.see("g").data, b"1", "replacing one name leaves the other");
}

#[test]
fn a_directory_named_twice_keeps_what_is_in_it() {
    let again = Entry {
        kind: EntryType::Directory,
        path: b"d",
        mode: 0o700,
        mtime: 77,
        ..Entry::default()
    };
    let bench = unpacked(Tape::new().dir("d").file("d/f", b"x").entry(&again));
    assert_eq!((bench.see("d").mode, bench.see("d").mtime.0), (0o040_700, 77));
    assert_eq!(bench.see("d/f").data, b"x");
}

#[test]
fn a_layer_may_write_through_its_own_links() {
    let tape = Tape::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/a", b"a")
        .symlink("abs", "/usr")
        .file("abs/lib/b", b"b")
        .symlink("deep", "abs/../lib/../../../../usr/./lib")
        .file("deep/c", b"c")
        // The directory itself may be in a lower layer alone.
        .symlink("var/run", "/run")
        .file("var/run/new/pid", b"1");
    let bench = unpacked(tape);
    for (path, data) in [
        ("usr/lib/a", "a"),
        ("usr/lib/b", "b"),
        ("usr/lib/c", "c"),
        ("run/new/pid", "1"),
    ] {
        assert_eq!(bench.see(path).data, data.as_bytes(), "{path}");
    }
    assert_eq!(bench.see("run").mode, 0o040_755);
}

#[test]
fn a_parent_replaced_is_not_remembered() {
    // The directory of the last member is kept open: after it was replaced, names must lead to the new one.
    let tape = Tape::new()
        .file("d/a", b"1")
        .symlink("d", "e")
        .dir("e")
        .file("d/b", b"2")
        .file("e/c", b"3")
        .dir("d");
    let bench = unpacked(tape.file("d/x", b"4"));
    assert_eq!(bench.see("e/b").data, b"2");
    assert_eq!(bench.see("d/x").data, b"4");
    assert!(!bench.layer().join("e/x").exists() && !bench.layer().join("d/a").exists());
}

#[test]
fn missing_parents_are_ordinary_directories() {
    let bench = unpacked(Tape::new().file("a/b/c", b"x"));
    for path in ["a", "a/b"] {
        let seen = bench.see(path);
        assert_eq!((seen.mode, seen.owner), (0o040_755, (0, 0)));
    }
    assert_eq!(
        std::fs::metadata(bench.layer()).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

// ---- what a layer may not do: nothing beside it changes ----

#[test]
fn names_that_lead_out_are_contained_or_refused() {
    let bench = Bench::new();
    let canary = bench.canary();
    assert_eq!(
        bench.fault(Tape::new().file("../canary/etc/passwd", b"evil")),
        Fault::DotDot
    );
    assert_eq!(
        bench.fault(Tape::new().file("a/../../canary/etc/passwd", b"evil")),
        Fault::DotDot
    );
    assert_eq!(bench.fault(Tape::new().dir("..")), Fault::DotDot);
    assert_eq!(
        bench.fault(Tape::new().pax(&[("path", b"x/../../canary/new")]).file("f", b"evil")),
        Fault::DotDot
    );
    bench
        .unpack(
            Tape::new()
                .pax(&[("path", format!("{canary}/etc/passwd").as_bytes())])
                .file("f", b"evil")
                .end(),
        )
        .unwrap();
    assert_eq!(
        bench
            .see(&format!("{}/etc/passwd", canary.trim_start_matches('/')))
            .data,
        b"evil"
    );
    bench.unpack(Tape::new().file("//./etc//x", b"x").end()).unwrap();
    assert!(bench.layer().join("etc/x").exists());
}

#[test]
fn links_out_are_links_within() {
    for link in [
        "/",
        "../../../../../../../../../..",
        "/proc/self/root",
        "/proc/self/cwd",
    ] {
        let bench = Bench::new();
        let canary = bench.canary();
        let inside = format!("l{canary}/etc/passwd");
        let tape = Tape::new()
            .symlink("l", link)
            .file(&inside, b"evil")
            .dir(&format!("l{canary}/etc/new"));
        bench.unpack(tape.end()).unwrap();
    }
    let bench = Bench::new();
    let canary = bench.canary();
    let tape = Tape::new()
        .symlink("abs", &canary)
        .symlink("rel", "../canary")
        .symlink("two", "rel/etc")
        .file("abs/etc/passwd", b"evil")
        .file("rel/etc/passwd", b"evil")
        .file("two/passwd", b"evil")
        .dir("abs/etc")
        .char_device("rel/etc/null", (1, 3))
        .symlink("rel/etc/l", "/x")
        .hard_link("rel/etc/h", "rel/etc/passwd");
    bench.unpack(tape.end()).unwrap();
    assert_eq!(bench.see("canary/etc/passwd").data, b"evil", "it stays inside");
}

#[test]
fn a_file_over_a_link_replaces_the_link() {
    let bench = Bench::new();
    let target = format!("{}/etc/passwd", bench.canary());
    let own = |path: &'static [u8], kind| Entry {
        kind,
        path,
        mode: 0o6777,
        owner: (5, 5),
        mtime: 5,
        ..Entry::default()
    };
    let tape = Tape::new()
        .symlink("f", &target)
        .entry(&own(b"f", EntryType::Regular))
        .symlink("d", &bench.canary())
        .entry(&own(b"d", EntryType::Directory))
        .file("d/etc", b"x")
        .symlink("p", &target)
        .entry(&own(b"p", EntryType::Fifo))
        .symlink("c", &target)
        .entry(&Entry {
            device: (1, 3),
            ..own(b"c", EntryType::Char)
        })
        .symlink("l", &target)
        .entry(&Entry {
            link: b"elsewhere",
            ..own(b"l", EntryType::Symlink)
        });
    bench.unpack(tape.end()).unwrap();
    assert_eq!(bench.see("d/etc").data, b"x");
    assert_eq!(bench.see("l").data, b"elsewhere");
}

#[test]
fn hard_links_out_find_nothing() {
    let bench = Bench::new();
    let canary = bench.canary();
    let passwd = format!("{canary}/etc/passwd");
    assert_eq!(bench.fault(Tape::new().hard_link("h", &passwd)), Fault::LinkTarget);
    assert_eq!(
        bench.fault(Tape::new().hard_link("h", "../canary/etc/passwd")),
        Fault::DotDot
    );
    assert_eq!(
        bench.fault(Tape::new().symlink("s", &canary).hard_link("h", "s/etc/passwd")),
        Fault::LinkTarget
    );
    assert_eq!(
        bench.fault(Tape::new().symlink("s", "../canary").hard_link("h", "s/etc/passwd")),
        Fault::LinkTarget
    );
    assert_eq!(
        bench.fault(Tape::new().hard_link("h", "not-in-this-layer")),
        Fault::LinkTarget
    );
    assert_eq!(bench.fault(Tape::new().hard_link("h", "")), Fault::LinkTarget);
    assert_eq!(bench.fault(Tape::new().hard_link("h", "/")), Fault::LinkTarget);
    assert_eq!(
        bench.fault(Tape::new().dir("dir").hard_link("h", "dir")),
        Fault::LinkToDirectory
    );
    assert_eq!(
        bench.fault(Tape::new().file(".wh.w", b"").hard_link("h", "w")),
        Fault::LinkTarget
    );
    // A link to a link, then written through: the name is replaced, nothing is followed.
    let bench = Bench::new();
    let tape = Tape::new()
        .symlink("s", &passwd)
        .hard_link("h", "s")
        .file("h", b"evil")
        .file("s", b"evil");
    bench.unpack(tape.end()).unwrap();
    assert_eq!(bench.see("h").data, b"evil");
}

#[test]
fn whiteouts_through_links_stay_within() {
    let bench = Bench::new();
    let tape = Tape::new()
        .symlink("abs", &bench.canary())
        .symlink("rel", "../canary")
        .file("abs/etc/.wh.passwd", b"")
        .file("rel/etc/.wh.passwd", b"")
        .file("abs/etc/.wh..wh..opq", b"")
        .file("rel/etc/sub/.wh..wh..opq", b"");
    bench.unpack(tape.end()).unwrap();
    assert!(bench.is_whiteout("canary/etc/passwd"));
}

#[test]
fn odd_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh...", "d/.wh.."] {
        assert_eq!(
            Bench::new().fault(Tape::new().file(name, b"")),
            Fault::Whiteout,
            "{name}"
        );
    }
    assert_eq!(Bench::new().fault(Tape::new().file(".wh.x/f", b"")), Fault::Reserved);
    assert_eq!(
        Bench::new().fault(Tape::new().symlink("s", ".wh.x").file("s/f", b"")),
        Fault::Reserved
    );
    assert_eq!(
        Bench::new().fault(Tape::new().char_device("x", (0, 0))),
        Fault::ZeroDevice
    );
}

#[test]
fn odd_names_are_refused() {
    let bench = Bench::new();
    let long = [b'n'; 256];
    assert_eq!(
        bench.fault(Tape::new().pax(&[("path", &long)]).file("f", b"")),
        Fault::NameTooLong
    );
    assert_eq!(
        bench.fault(Tape::new().pax(&[("linkpath", &long)]).hard_link("h", "f")),
        Fault::NameTooLong
    );
    let deep = "d/".repeat(257);
    assert_eq!(
        bench.fault(Tape::new().pax(&[("path", deep.as_bytes())]).file("f", b"")),
        Fault::TooDeep
    );
    assert_eq!(bench.fault(Tape::new().file("", b"x")), Fault::NoName);
    assert_eq!(bench.fault(Tape::new().file("./.", b"x")), Fault::NoName);
    assert_eq!(bench.fault(Tape::new().symlink("/", "x")), Fault::NoName);
    assert_eq!(bench.fault(Tape::new().symlink("s", "")), Fault::EmptyLink);
    assert_eq!(
        bench.fault(Tape::new().file("f", b"").file("f/g", b"")),
        Fault::ParentNotDirectory
    );
    assert_eq!(
        bench.fault(Tape::new().symlink("a", "b").symlink("b", "a").file("a/x", b"")),
        Fault::Loop
    );
    assert_eq!(
        bench.fault(Tape::new().symlink("c", "c/c").file("c/x", b"")),
        Fault::Loop
    );
    // Names that are only odd are kept.
    bench
        .unpack(
            Tape::new()
                .file("\u{1}\n*?", b"")
                .pax(&[("path", b"\xff\xfe")])
                .file("f", b"")
                .end(),
        )
        .unwrap();
    assert!(bench.layer().join("\u{1}\n*?").exists());
}

#[test]
fn links_that_grow_end() {
    // Each link leads through the one before twice: 2^40 steps, if nobody counted.
    let mut tape = Tape::new().symlink("l0", "missing");
    for i in 1..40 {
        tape = tape.symlink(&format!("l{i}"), &format!("l{}/../l{}", i - 1, i - 1));
    }
    assert_eq!(Bench::new().fault(tape.file("l39/x", b"")), Fault::Loop);
    // Each link leads 200 directories deeper.
    let mut tape = Tape::new();
    for i in 0..5 {
        let down = "d/".repeat(200);
        tape = tape.pax(&[("linkpath", format!("{down}l{}", i + 1).as_bytes())]);
        tape = tape.pax(&[(
            "path",
            format!("{}l{i}", "d/".repeat(if i == 0 { 0 } else { 200 })).as_bytes(),
        )]);
        tape = tape.symlink("s", "t");
    }
    let _ = Bench::new().unpack(tape.file("l0/x", b"").end());
}

#[test]
fn cut_off_layers_and_limits_are_errors() {
    let whole = Tape::new().file("f", &[1; 5000]).end();
    let error = Bench::new().unpack(whole[..3000].to_vec()).unwrap_err();
    assert!(matches!(error, UnpackError::Tar(TarError::Truncated)), "{error}");

    let limits = Limits {
        unpacked: 4999,
        keep_free: 0,
        ..Limits::default()
    };
    let error = Bench::new().unpack_within(whole.clone(), &limits).unwrap_err();
    assert!(
        matches!(error, UnpackError::Limit(LimitError::Unpacked { limit: 4999 })),
        "{error}"
    );
    // A size that is only claimed is not written.
    let huge = Tape::new()
        .pax(&[("size", b"8000000000000000000")])
        .file("f", b"x")
        .end();
    let bench = Bench::new();
    let error = bench.unpack(huge).unwrap_err();
    assert!(
        matches!(error, UnpackError::Limit(LimitError::Unpacked { .. })),
        "{error}"
    );
    assert!(!bench.layer().join("f").exists());

    let mut tape = Tape::new();
    for i in 0..20 {
        tape = tape.file(&format!("f{i}"), b"");
    }
    let limits = Limits {
        entries: 19,
        keep_free: 0,
        ..Limits::default()
    };
    let error = Bench::new().unpack_within(tape.end(), &limits).unwrap_err();
    assert!(
        matches!(error, UnpackError::Limit(LimitError::Entries { limit: 19 })),
        "{error}"
    );

    let limits = Limits {
        keep_free: u64::MAX,
        ..Limits::default()
    };
    let error = Bench::new().unpack_within(whole, &limits).unwrap_err();
    let UnpackError::Io { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(LimitError::within(&source), Some(&LimitError::Space { keep: u64::MAX }));
}

#[test]
fn attributes_too_large_for_the_disk_are_told() {
    let value = vec![b'x'; 64 * 1024];
    let records = [("SCHILY.xattr.user.a", &value[..]), ("SCHILY.xattr.user.b", &value[..])];
    // Some file systems take them; what counts is that nothing else happens.
    let result = Bench::new().unpack(Tape::new().pax(&records).file("f", b"").end());
    assert!(
        matches!(
            result,
            Ok(())
                | Err(UnpackError::Io {
                    action: "set an extended attribute",
                    ..
                })
        ),
        "{result:?}"
    );
    let faulty = Tape::new()
        .pax(&[("SCHILY.xattr.security.capability", b"x")])
        .file("f", b"");
    assert!(matches!(Bench::new().unpack(faulty.end()), Err(UnpackError::Io { .. })));
}

#[test]
fn long_forms_of_names_are_no_way_out_either() {
    for tape in [
        Tape::new()
            .pax(&[("path", b"../canary/etc/passwd")])
            .file("ignored", b"evil"),
        Tape::new()
            .special(EntryType::GNULongName, b"a/../../canary/etc/passwd\0")
            .file("ignored", b"evil"),
    ] {
        assert_eq!(Bench::new().fault(tape), Fault::DotDot);
    }
    let bench = Bench::new();
    let canary = bench.canary();
    // A link by a long name is a link, and what goes through it stays within.
    let tape = Tape::new()
        .pax(&[("linkpath", canary.as_bytes())])
        .symlink("out", "ignored")
        .file("out/etc/passwd", b"evil");
    bench.unpack(tape.end()).unwrap();
    let tape = Tape::new()
        .symlink("out", &format!("{canary}/etc/passwd"))
        .pax(&[("linkpath", b"out")])
        .entry(&Entry {
            kind: EntryType::Link,
            path: b"again",
            link: b"ignored",
            mode: 0o6777,
            owner: (12, 34),
            ..Entry::default()
        })
        .file("again", b"evil");
    // The link is what is linked, never what it leads to: its owner, mode and data are the canary's own.
    bench.unpack(tape.end()).unwrap();
    assert_eq!(std::fs::read(bench.layer().join("again")).unwrap(), b"evil");
}

/// Members of every kind whose names and links are made of the same few parts, so that they meet.
fn hostile() -> impl Strategy<Value = Vec<(usize, String, String)>> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".",
        "canary",
        "etc",
        "passwd",
    ]);
    let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let up = prop::sample::select(vec!["", "/", "../", "../../", "../canary/", "/proc/self/root/"]);
    let link = (up, path.clone()).prop_map(|(up, path)| format!("{up}{path}"));
    prop::collection::vec((0_usize..7, path, link), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_layer_touches_what_is_beside_it(members in hostile()) {
        let bench = Bench::new();
        let canary = bench.canary();
        let mut tape = Tape::new().symlink("out", &canary);
        for (kind, path, link) in members {
            tape = match kind {
                0 => tape.file(&path, b"evil"),
                1 => tape.dir(&path),
                2 => tape.symlink(&path, &link),
                3 => tape.hard_link(&path, &link),
                4 => tape.char_device(&path, (1, 3)),
                5 => tape.symlink(&path, &canary),
                _ => tape.file(&format!("out/{path}"), b"evil"),
            };
            // One refusal ends a layer: each prefix of the members is tried, too.
            let _ = bench.unpack(tape.clone().end());
        }
        // No file of the layer is one of the canary's.
        let device = std::fs::metadata(&canary).unwrap().dev();
        let inodes: Vec<u64> = tree(Path::new(&canary)).keys()
            .map(|path| std::fs::symlink_metadata(Path::new(&canary).join(path)).unwrap().ino()).collect();
        for path in tree(&bench.layer()).keys() {
            let meta = std::fs::symlink_metadata(bench.layer().join(path)).unwrap();
            prop_assert!(meta.dev() == device && !inodes.contains(&meta.ino()));
        }
    }
}
