use super::*;

/// A tmpfs that goes with this value.
pub(in crate::shim) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(in crate::shim) fn mount(at: &Path, options: &str) -> Self {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "podd-test"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const AT: i64 = 1_700_000_000_000_000_000;

fn read(path: &Path) -> Vec<String> {
    String::from_utf8(fs::read(path).unwrap())
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What the container wrote, from what the log has.
fn joined(lines: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let mut fields = line.splitn(4, ' ');
        let (_time, _stream, tag, text) = (
            fields.next().unwrap(),
            fields.next().unwrap(),
            fields.next().unwrap(),
            fields.next().unwrap(),
        );
        bytes.extend_from_slice(text.as_bytes());
        if tag == "F" {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn log(directory: &Path) -> LogFile {
    LogFile::open(&directory.join("deep/er/0.log"), 10 << 20, 5)
}

#[test]
fn lines_carry_time_stream_and_tag() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = log(directory.path());
    assert!(Stream::stdout().push(&mut log, AT + 5, b"one\n\ntwo\n"));
    assert!(Stream::stderr().push(&mut log, AT, b"bad\n"));
    assert_eq!(
        read(&log.path),
        [
            "2023-11-14T22:13:20.000000005Z stdout F one",
            "2023-11-14T22:13:20.000000005Z stdout F ",
            "2023-11-14T22:13:20.000000005Z stdout F two",
            "2023-11-14T22:13:20.000000000Z stderr F bad",
        ]
    );
}

#[test]
fn a_line_that_arrives_in_parts_is_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = log(directory.path());
    let mut stream = Stream::stdout();
    assert!(!stream.push(&mut log, AT, b"hel"));
    assert!(stream.push(&mut log, AT, b"lo\nwor"));
    assert!(stream.flush(&mut log, AT));
    assert!(!stream.flush(&mut log, AT));
    let lines = read(&log.path);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with(" F hello"));
    assert!(lines[1].ends_with(" P wor"));
}

#[test]
fn long_lines_are_written_in_parts_of_16_kib() {
    for length in [MAX_TEXT - 1, MAX_TEXT, MAX_TEXT + 1, 2 * MAX_TEXT, 2 * MAX_TEXT + 5] {
        for chunk in [1000, MAX_TEXT, MAX_TEXT + 1, 100_000] {
            let directory = tempfile::tempdir().unwrap();
            let mut log = log(directory.path());
            let mut stream = Stream::stdout();
            let mut bytes = vec![b'x'; length];
            bytes.extend_from_slice(b"\nnext\n");
            for part in bytes.chunks(chunk) {
                stream.push(&mut log, AT, part);
            }
            let lines = read(&log.path);
            assert_eq!(joined(&lines), bytes, "{length} in chunks of {chunk}");
            assert!(
                lines.iter().all(|line| line.len() <= MAX_TEXT + 41),
                "{length} in chunks of {chunk}"
            );
        }
    }
}

#[test]
fn a_full_log_is_rotated_and_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("3.log");
    let mut log = LogFile::open(&path, 200, 3);
    let mut stream = Stream::stdout();
    for number in 0..20 {
        // All within the same two seconds, so that the names collide.
        stream.push(
            &mut log,
            AT + number * 100_000_000,
            format!("line {number} {}\n", "x".repeat(40)).as_bytes(),
        );
    }
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["3.log", "3.log.20231114-221321-3", "3.log.20231114-221321-4"]);
    let mut lines = read(&directory.path().join("3.log.20231114-221321-3"));
    lines.extend(read(&directory.path().join("3.log.20231114-221321-4")));
    lines.extend(read(&path));
    let numbers: Vec<u32> = lines
        .iter()
        .map(|line| line.split(' ').nth(4).unwrap().parse().unwrap())
        .collect();
    assert_eq!(numbers, (14..20).collect::<Vec<_>>());
    assert!(
        names
            .iter()
            .all(|name| fs::metadata(directory.path().join(name)).unwrap().len() <= 200)
    );
}

#[test]
fn rotated_files_are_ordered_by_number_within_a_second() {
    let order = |name: &str| rotation_order(&name.into());
    assert!(order("0.log.20231114-221320-9") < order("0.log.20231114-221320-10"));
    assert!(order("0.log.20231114-221320") < order("0.log.20231114-221320-1"));
    assert!(order("0.log.20231114-221320-10") < order("0.log.20231114-221321"));
}

#[test]
fn a_full_disk_drops_and_counts_and_leaves_whole_records() {
    let directory = tempfile::tempdir().unwrap();
    let _tmpfs = Tmpfs::mount(directory.path(), "size=64k");
    let path = directory.path().join("0.log");
    let mut log = LogFile::open(&path, 10 << 20, 5);
    let mut stream = Stream::stdout();
    let line = format!("{}\n", "y".repeat(999));
    let mut written = 0_u64;
    while stream.push(&mut log, AT, line.as_bytes()) {
        written += 1;
    }
    assert!(!stream.push(&mut log, AT, b"small but too much?\n") || written > 0);
    let lost = log.take_lost();
    assert!(lost >= 1000, "{lost}");
    assert_eq!(log.take_lost(), 0);
    let text = fs::read(&path).unwrap();
    assert_eq!(text.last(), Some(&b'\n'));
    // Space returns, and so does the log.
    fs::remove_file(&path).unwrap();
    drop(log);
    let mut log = LogFile::open(&path, 10 << 20, 5);
    assert!(stream.push(&mut log, AT, b"back\n"));
    assert!(read(&path)[0].ends_with(" F back"));
}

#[test]
fn a_link_in_the_place_of_the_log_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, b"").unwrap();
    let path = directory.path().join("0.log");
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    let mut log = LogFile::open(&path, 1000, 5);
    assert!(!Stream::stdout().push(&mut log, AT, b"evil\n"));
    assert_eq!(log.take_lost(), 5);
    assert_eq!(fs::read(&victim).unwrap(), b"");
}

#[test]
fn a_pipe_in_the_place_of_the_log_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let mut log = LogFile::open(&path, 1000, 5);
    assert!(!Stream::stdout().push(&mut log, AT, b"x\n"));
    assert_eq!(log.take_lost(), 2);
}
