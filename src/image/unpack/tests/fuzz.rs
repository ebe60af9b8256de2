//! Archives as nobody would write them, unpacked by podd, by GNU tar and by libarchive's bsdtar.
//!
//! Where all three take an archive, they must make the same of it: what podd makes of each path is what one of the others
//! makes of it, and where these two agree it is that. Whatever the archive, podd neither panics nor hangs, and touches
//! nothing beside its directory. Out of the comparison is what podd reads otherwise on purpose: whiteouts, which are no
//! files, and what Go's archive/tar reads otherwise than the two: members without data whose header gives them some
//! (it reads none), and NULs before the digits of a number (it passes over them).

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::super::member::Kind;
use super::*;

/// Names that lead somewhere, one a line.
const DICTIONARY: &str = include_str!("../../../../tests/fixtures/layers/dictionary");
/// No archive here is worth more.
const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 512;

/// Numbers that look random, always the same from one seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.roll().to_le_bytes()[0])
            .take(size)
            .collect()
    }

    /// A name of few parts, so that members meet each other; what ends in `last` is mostly new.
    fn name(&mut self, last: &[&str]) -> Vec<u8> {
        if self.one_in(12) {
            let words: Vec<&str> = DICTIONARY.lines().collect();
            return self.pick(&words).as_bytes().to_vec();
        }
        let mut parts: Vec<&str> = (0..self.below(3)).map(|_| self.pick(&DIRECTORIES)).collect();
        parts.push(self.pick(last));
        parts.join("/").into_bytes()
    }
}

/// What names are made of: mostly directories, and mostly not.
const DIRECTORIES: [&str; 3] = ["a", "b", "c"];
const OTHERS: [&str; 8] = ["d", "e", "f", "g", "h", "i", "j", "a"];

// ---- archives in the making ----

fn octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}", width = field.len() - 1);
    field[..text.len()].copy_from_slice(text.as_bytes());
}

/// As GNU tar writes what octal digits have no room for.
fn binary(field: &mut [u8], value: i64) {
    let sign = if value < 0 { 0xff } else { 0 };
    field.fill(sign);
    let (start, bytes) = (field.len() - 8, value.to_be_bytes());
    field[start..].copy_from_slice(&bytes);
    field[0] |= 0x80;
}

fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut header[148..155], sum);
    header[155] = b' ';
}

/// A header of one of the three forms, and its data.
fn member(dice: &mut Dice, kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Vec<u8> {
    let mut header = [0; BLOCK];
    let form = dice.below(3);
    match form {
        0 => header[257..265].copy_from_slice(b"ustar  \0"),
        1 => header[257..265].copy_from_slice(b"ustar\x0000"),
        _ => {}
    }
    let split = (form == 1 && name.len() > 100 || dice.one_in(4))
        .then(|| name.iter().take(155).rposition(|byte| *byte == b'/'))
        .flatten()
        .filter(|at| form == 1 && *at > 0 && name.len() - at - 1 <= 100 && name.len() > at + 1);
    let rest = match split {
        Some(at) => {
            header[345..345 + at].copy_from_slice(&name[..at]);
            &name[at + 1..]
        }
        None => name,
    };
    let cut = |text: &[u8]| text.len().min(100);
    header[..cut(rest)].copy_from_slice(&rest[..cut(rest)]);
    header[157..157 + cut(link)].copy_from_slice(&link[..cut(link)]);
    let odd = dice.below(0o10000) as u64;
    let mode = dice.pick(&[0o644, 0o755, 0o700, 0o4755, 0o1777, 0, 0o100_644, odd]);
    octal(&mut header[100..108], mode);
    for field in [108..116, 116..124] {
        let id = dice.pick(&[0, 0, 1, 1000, 65_534, 2_000_000]);
        if dice.one_in(8) {
            binary(
                &mut header[field],
                i64::try_from(dice.pick(&[id, 3_000_000_000])).unwrap(),
            );
        } else {
            octal(&mut header[field], id);
        }
    }
    octal(&mut header[124..136], data.len() as u64);
    if dice.one_in(10) {
        binary(&mut header[136..148], dice.pick(&[-1, -1_000_000, 1, 5_000_000_000]));
    } else {
        octal(&mut header[136..148], dice.pick(&[0, 1, 1_000_000_000, 1_234_567_890]));
    }
    header[156] = kind;
    if matches!(kind, b'3' | b'4') {
        for field in [329..337, 337..345] {
            octal(&mut header[field], dice.pick(&[1, 3, 7, 300]));
        }
    }
    sum(&mut header);
    let mut bytes = header.to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A member with all that stands before it.
fn entry(dice: &mut Dice, bytes: &mut Vec<u8>, files: &mut Vec<Vec<u8>>) {
    let kinds = b"0000000005555555222211111\x007346";
    let kind = if dice.one_in(60) {
        dice.pick(b"SVAMZ89")
    } else {
        dice.pick(kinds)
    };
    let mut name = dice.name(if kind == b'5' { &DIRECTORIES } else { &OTHERS });
    if kind == b'5' && dice.one_in(2) {
        name.push(b'/');
    }
    let link = match kind {
        b'2' if dice.one_in(5) => dice
            .pick(&[&b"/canary/etc"[..], b"../canary/etc", b"../../canary", b"/", b".."])
            .to_vec(),
        b'1' if !files.is_empty() && !dice.one_in(20) => dice.pick(files),
        b'1' | b'2' => dice.name(&DIRECTORIES),
        _ => Vec::new(),
    };
    let size = dice.pick(&[0, 1, 5, 511, 512, 513, 1400]);
    let data = match kind {
        b'0' | b'7' | 0 => {
            files.push(name.clone());
            dice.bytes(size)
        }
        _ => Vec::new(),
    };
    let mut records = Vec::new();
    if name.len() > 100 || dice.one_in(8) {
        if dice.one_in(2) {
            records.extend(record("path", &name));
        } else {
            bytes.extend(member(dice, b'L', b"././@LongLink", b"", &[&name[..], b"\0"].concat()));
        }
    }
    if dice.one_in(6) && !link.is_empty() {
        if dice.one_in(2) {
            records.extend(record("linkpath", &link));
        } else {
            bytes.extend(member(dice, b'K', b"././@LongLink", b"", &[&link[..], b"\0"].concat()));
        }
    }
    if dice.one_in(8) {
        records.extend(match dice.below(8) {
            0 => record("uid", b"4294967290"),
            1 => record("gid", b"70000"),
            2 => record("mtime", b"1234567890.123456789"),
            3 => record("mtime", b"-5.25"),
            4 => record("comment", b"words"),
            5 => record("SCHILY.xattr.user.x", b"value"),
            6 if matches!(kind, b'0' | b'7') => record("size", data.len().to_string().as_bytes()),
            _ => record("atime", b"1"),
        });
    }
    if !records.is_empty() {
        bytes.extend(member(dice, b'x', b"PaxHeaders/x", b"", &records));
    }
    if dice.one_in(40) {
        bytes.extend(member(
            dice,
            b'g',
            b"pax_global_header",
            b"",
            &record("comment", b"words"),
        ));
    }
    bytes.extend(member(dice, kind, &name, &link, &data));
}

/// Damage, which leaves most headers with a right sum.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        if bytes.len() < 2 * BLOCK {
            return;
        }
        let block = dice.below(bytes.len() / BLOCK) * BLOCK;
        match dice.below(6) {
            0 => bytes.truncate(dice.below(bytes.len())),
            1 => drop(bytes.drain(block..block + BLOCK)),
            2 => {
                let again = bytes[block..block + BLOCK].to_vec();
                let at = dice.below(bytes.len() / BLOCK) * BLOCK;
                bytes.splice(at..at, again);
            }
            damage => {
                let header = &mut bytes[block..block + BLOCK];
                if damage == 3 {
                    let (at, word) = (dice.pick(&[0, 157, 345]), dice.name(&OTHERS));
                    let length = word.len().min(BLOCK - at);
                    header[at..at + length].copy_from_slice(&word[..length]);
                } else {
                    for _ in 0..=dice.below(3) {
                        let at = dice.pick(&[0, 100, 108, 116, 124, 136, 156, 157, 257, 263, 345]) + dice.below(12);
                        header[at] = dice.pick(&[
                            0,
                            b'0',
                            b'1',
                            b'7',
                            b' ',
                            b'/',
                            b'.',
                            0x80,
                            0xff,
                            dice.0.to_le_bytes()[0],
                        ]);
                    }
                }
                if !dice.one_in(4) {
                    sum(header);
                }
            }
        }
    }
}

fn archive(dice: &mut Dice) -> Vec<u8> {
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    for _ in 0..=dice.below(10) {
        entry(dice, &mut bytes, &mut files);
    }
    if !dice.one_in(12) {
        bytes.extend([0; 2 * BLOCK]);
    }
    if dice.one_in(2) {
        mutate(dice, &mut bytes);
    }
    bytes
}

// ---- what is made of them ----

/// What podd makes of it: `None` is a refusal. An error is what must never be.
fn podd(bytes: &[u8]) -> Result<Option<Bench>, String> {
    let bytes = bytes.to_vec();
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let bench = Bench::new();
        let unpacked = bench.unpack(bytes);
        // Nobody waits any more if that took too long.
        let _ = done.send(unpacked.is_ok().then_some(bench));
    });
    match result.recv_timeout(PATIENCE) {
        Ok(made) => Ok(made),
        Err(mpsc::RecvTimeoutError::Timeout) => Err("podd hangs".to_owned()),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().unwrap_err();
            let words = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "podd panics: {}",
                words.unwrap_or_else(|| "without a word".to_owned())
            ))
        }
    }
}

/// What another program makes of it; `None`: it has something against it.
fn other(program: &[&str], bytes: &[u8]) -> Option<(tempfile::TempDir, BTreeMap<PathBuf, Seen>)> {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new("prlimit")
        .args(["--fsize=16777216", "timeout", "--signal=KILL", "10"])
        .args(program)
        .current_dir(directory.path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prlimit (util-linux) is installed");
    // A program that gave up says so when it has ended.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() != Some(127),
        "{program:?} is not installed: {words}"
    );
    (output.status.success()).then(|| {
        let seen = tree(directory.path());
        (directory, seen)
    })
}

const TAR: &[&str] = &[
    "tar",
    "-xpf",
    "-",
    "--numeric-owner",
    "--same-owner",
    "--delay-directory-restore",
    "--no-xattrs",
    "--no-acls",
];
const BSDTAR: &[&str] = &[
    "bsdtar",
    "-xpf",
    "-",
    "--numeric-owner",
    "--same-owner",
    "--no-xattrs",
    "--no-acls",
    "--no-fflags",
];

/// Directories that an archive names in one way, and whether it may be compared at all. Of one that is first `./a` and then
/// `a`, GNU tar restores what came first, as it knows its directories by their spelling.
fn comparable(bytes: &[u8]) -> Option<HashSet<PathBuf>> {
    let mut members = Members::new(Bytes::new(bytes.to_vec()));
    let mut named: HashMap<PathBuf, HashSet<Vec<u8>>> = HashMap::new();
    while let Ok(Some(member)) = members.next() {
        let parts: Vec<&[u8]> = member
            .path
            .split(|byte| *byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
            .collect();
        if parts.iter().any(|part| part.starts_with(b".wh.")) {
            return None;
        }
        let header = usize::try_from(member.offset).unwrap() - BLOCK;
        let numbers = [100..108, 108..116, 116..124, 124..136, 136..148];
        let begins_with_nul = |field: std::ops::Range<usize>| {
            let field = &bytes[header + field.start..header + field.end];
            field[0] == 0 && field.iter().any(|digit| !matches!(digit, b' ' | 0))
        };
        if numbers.into_iter().any(begins_with_nul) {
            return None;
        }
        let size = &bytes[header + 124..header + 136];
        if member.kind != Kind::File && size.iter().any(|digit| !matches!(digit, b'0' | b' ' | 0)) {
            return None;
        }
        // By its slash a directory, by its type none.
        if member.kind != Kind::Directory && member.path.ends_with(b"/") {
            return None;
        }
        if member.kind == Kind::Directory {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&parts.join(&b'/')));
            named.entry(path).or_default().insert(member.path.clone());
        }
    }
    named.retain(|_, spellings| spellings.len() == 1);
    Some(named.into_keys().collect())
}

/// What an archive decides of a path.
fn decided(named: &HashSet<PathBuf>, path: &Path, seen: Option<&Seen>) -> Option<Seen> {
    let mut seen = seen?.clone();
    seen.ctime = (0, 0);
    seen.xattrs.clear();
    if seen.mode & 0o170_000 == 0o040_000 {
        seen.links = 0;
        // A directory that no member names is made as each program likes.
        if !named.contains(path) {
            (seen.mode, seen.owner, seen.mtime) = (0o040_000, (0, 0), (0, 0));
        }
    }
    Some(seen)
}

/// What came of one archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Refused,
    /// By podd, but not by both of the others, or not to be compared.
    Taken,
    Compared,
}

/// What is wrong with what podd makes of an archive.
fn judge(bytes: &[u8]) -> Result<Came, String> {
    let Some(bench) = podd(bytes)? else {
        return Ok(Came::Refused);
    };
    let Some(named) = comparable(bytes) else {
        return Ok(Came::Taken);
    };
    let (Some((_tar, tar)), Some((_bsd, bsd))) = (other(TAR, bytes), other(BSDTAR, bytes)) else {
        return Ok(Came::Taken);
    };
    let ours = tree(&bench.layer());
    let mut wrong = String::new();
    let paths: std::collections::BTreeSet<&PathBuf> = ours.keys().chain(tar.keys()).chain(bsd.keys()).collect();
    for path in paths.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        let [ours, tar, bsd] = [&ours, &tar, &bsd].map(|tree| decided(&named, path, tree.get(path)));
        if ours != tar && ours != bsd {
            writeln!(
                wrong,
                "{path:?}:\n  podd   {ours:x?}\n  tar    {tar:x?}\n  bsdtar {bsd:x?}"
            )
            .unwrap();
        }
    }
    if wrong.is_empty() {
        Ok(Came::Compared)
    } else {
        Err(wrong)
    }
}

/// The fewest blocks that still show what is wrong.
fn smaller(bytes: &[u8]) -> Vec<u8> {
    let mut least = bytes.to_vec();
    for size in [16, 8, 4, 2, 1] {
        let mut at = 0;
        while at < least.len() {
            let mut less = least.clone();
            less.drain(at..(at + size * BLOCK).min(least.len()));
            if judge(&less).is_err() {
                least = less;
            } else {
                at += size * BLOCK;
            }
        }
    }
    least
}

/// Try archives made from this seed and those that follow it, until it is enough. Gives how many were tried, taken by
/// podd, and compared.
fn fuzz(seed: u64, mut is_enough: impl FnMut(usize) -> bool) -> [usize; 3] {
    let [mut tried, mut taken, mut compared] = [0; 3];
    while !is_enough(tried) {
        let seed = seed.wrapping_add(tried as u64);
        let bytes = archive(&mut Dice(seed));
        tried += 1;
        let Ok(came) = judge(&bytes) else {
            let least = smaller(&bytes);
            let path = std::env::temp_dir().join(format!("podd-fuzz-{seed}.tar"));
            std::fs::write(&path, &least).unwrap();
            let wrong = judge(&least).unwrap_err();
            panic!("SEED={seed} ({tried} tried), in {}:\n{wrong}", path.display());
        };
        taken += usize::from(came != Came::Refused);
        compared += usize::from(came == Came::Compared);
    }
    [tried, taken, compared]
}

#[test]
fn odd_archives_are_what_tar_and_bsdtar_make_of_them() {
    let [_, taken, compared] = fuzz(1, |tried| tried == 80);
    assert!(taken > 15 && compared > 10, "{taken} were taken, {compared} compared");
}

/// One of each form of tar, and archives that showed a fault once.
#[test]
fn kept_archives_are_what_tar_and_bsdtar_make_of_them() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layers");
    let mut kept = 0;
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(judge(&bytes), Ok(Came::Compared), "{}", path.display());
            kept += 1;
        }
    }
    assert!(kept >= 3, "only {kept} were found");
}

/// `make fuzz`: for as long as it is asked to, from a seed that it says.
#[test]
#[ignore = "runs for as long as PODD_FUZZ_SECONDS says"]
#[expect(clippy::disallowed_methods, reason = "settings of this test alone")]
fn odd_archives_for_a_while() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PODD_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed"));
    let end = Instant::now() + Duration::from_secs(number("PODD_FUZZ_SECONDS").unwrap_or(60));
    eprintln!("SEED={seed}");
    let [tried, taken, compared] = fuzz(seed, |_| Instant::now() > end);
    eprintln!("{tried} archives: {taken} taken by podd, {compared} compared with tar and bsdtar");
}
