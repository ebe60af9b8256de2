//! What other people's programs make of the same archive: GNU tar, and Python's tarfile.

use std::process::{Command, Stdio};

use super::*;

/// A member of an archive that means one thing to everybody.
#[derive(Debug, Clone)]
enum Harmless {
    File {
        directory: usize,
        name: String,
        data: Vec<u8>,
    },
    Symlink {
        directory: usize,
        target: String,
    },
    /// To one of the files before it.
    HardLink {
        directory: usize,
        file: prop::sample::Index,
    },
}

#[derive(Debug, Clone)]
struct Meta {
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
}

const DIRECTORIES: [&str; 4] = ["", "one/", "one/two/", "one/two/three with a space/"];

fn meta() -> impl Strategy<Value = Meta> {
    let mode = prop_oneof![0_u32..0o1000, Just(0o4755), Just(0o2755), Just(0o1777), Just(0o6711)];
    (mode, 0_u64..3_000_000, 0_u64..3_000_000, 0_u64..4_000_000_000).prop_map(|(mode, user, group, mtime)| Meta {
        mode,
        owner: (user, group),
        mtime,
    })
}

fn harmless() -> impl Strategy<Value = Vec<(Harmless, Meta)>> {
    let directory = 0..DIRECTORIES.len();
    // Also longer than a header has room for, and not of ASCII alone.
    let name = prop_oneof!["[a-z]{1,3}", "[a-z]{90,140}", "[äöü€]{1,40}"];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        prop::collection::vec(any::<u8>(), 510..515),
        prop::collection::vec(any::<u8>(), 1000..3000),
    ];
    let file = (directory.clone(), name, data).prop_map(|(directory, name, data)| Harmless::File {
        directory,
        name: format!("f{name}"),
        data,
    });
    let symlink =
        (directory.clone(), "[a-z./]{1,150}").prop_map(|(directory, target)| Harmless::Symlink { directory, target });
    let hard_link =
        (directory, any::<prop::sample::Index>()).prop_map(|(directory, file)| Harmless::HardLink { directory, file });
    // Links last: whether a file that comes again is a new one is where the others differ.
    let files = prop::collection::vec((file, meta()), 0..12);
    let links = prop::collection::vec((prop_oneof![symlink, hard_link], meta()), 0..6);
    (files, links).prop_map(|(files, links)| files.into_iter().chain(links).collect())
}

/// With what does not fit into its header before it, in one form or another.
fn put(tape: Tape, in_pax: bool, path: &[u8], link: &[u8], entry: &Entry<'_>) -> Tape {
    let mut tape = tape;
    let fits = |text: &[u8]| text.len() <= 100;
    let cut = |text: &[u8]| text[..text.len().min(100)].to_vec();
    if in_pax && (!fits(path) || !fits(link)) {
        let mut records: Vec<(&str, &[u8])> = vec![("path", path)];
        if !link.is_empty() {
            records.push(("linkpath", link));
        }
        tape = tape.pax(&records);
    } else {
        for (kind, text) in [(EntryType::GNULongName, path), (EntryType::GNULongLink, link)] {
            if !fits(text) {
                tape = tape.special(kind, &[text, b"\0"].concat());
            }
        }
    }
    let (path, link) = (cut(path), cut(link));
    tape.entry(&Entry {
        path: &path,
        link: &link,
        ..*entry
    })
}

fn archive(members: &[(Harmless, Meta)], in_pax: bool) -> Vec<u8> {
    let mut tape = Tape::new();
    for directory in &DIRECTORIES[1..] {
        tape = tape.dir(directory);
    }
    let mut files: Vec<String> = Vec::new();
    for (at, (member, Meta { mode, owner, mtime })) in members.iter().enumerate() {
        let entry = |kind, data| Entry {
            kind,
            data,
            mode: *mode,
            owner: *owner,
            mtime: *mtime,
            ..Entry::default()
        };
        tape = match member {
            Harmless::File { directory, name, data } => {
                let path = format!("{}{name}", DIRECTORIES[*directory]);
                files.push(path.clone());
                put(tape, in_pax, path.as_bytes(), b"", &entry(EntryType::Regular, data))
            }
            Harmless::Symlink { directory, target } => {
                let path = format!("{}link{at}", DIRECTORIES[*directory]);
                let entry = entry(EntryType::Symlink, &[]);
                put(tape, in_pax, path.as_bytes(), target.as_bytes(), &entry)
            }
            Harmless::HardLink { .. } if files.is_empty() => tape,
            Harmless::HardLink { directory, file } => {
                let target = file.get(&files);
                let path = format!("{}hard{at}", DIRECTORIES[*directory]);
                // What a hard link says of its file the programs take, or not.
                let same = members.iter().rev().find_map(|(member, meta)| match member {
                    Harmless::File { directory, name, .. } => {
                        (format!("{}{name}", DIRECTORIES[*directory]) == *target).then_some(meta)
                    }
                    Harmless::Symlink { .. } | Harmless::HardLink { .. } => None,
                });
                let Meta { mode, owner, mtime } = same.expect("it is one of them").clone();
                let entry = Entry {
                    kind: EntryType::Link,
                    mode,
                    owner,
                    mtime,
                    ..Entry::default()
                };
                put(tape, in_pax, path.as_bytes(), target.as_bytes(), &entry)
            }
        };
    }
    tape.end()
}

/// All that an archive decides: no change times, and no directory's length.
fn decided(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = tree(root);
    // The root itself is in none of the archives.
    seen.remove(Path::new(""));
    for one in seen.values_mut() {
        one.ctime = (0, 0);
    }
    seen
}

fn extracted_by(
    program: &str,
    arguments: &[&str],
    bytes: &[u8],
) -> Option<(tempfile::TempDir, BTreeMap<PathBuf, Seen>)> {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory.path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // A program that gave up says so when it has ended.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen = decided(directory.path());
    Some((directory, seen))
}

const PYTHON: &str = "\
import sys, tarfile
trust = {'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as archive:
    for member in archive:
        archive.extract(member, numeric_owner=True, **trust)
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn harmless_archives_are_what_tar_and_python_make_of_them(members in harmless(), in_pax in any::<bool>()) {
        let bytes = archive(&members, in_pax);
        let bench = Bench::new();
        bench.unpack(bytes.clone()).unwrap();
        let ours = decided(&bench.layer());
        let tar = ["-xpPf", "-", "--numeric-owner", "--same-owner", "--delay-directory-restore"];
        if let Some((_directory, theirs)) = extracted_by("tar", &tar, &bytes) {
            prop_assert_eq!(&ours, &theirs, "GNU tar");
        }
        if let Some((_directory, mut theirs)) = extracted_by("/usr/bin/python3", &["-c", PYTHON], &bytes) {
            let mut ours = ours;
            // Read as a stream, Python sets directories' times before it fills them, and never those of links.
            for seen in [&mut ours, &mut theirs] {
                for one in seen.values_mut().filter(|one| one.mode & 0o170_000 != 0o100_000) {
                    one.mtime = (0, 0);
                }
            }
            prop_assert_eq!(&ours, &theirs, "Python");
        }
    }
}
