//! Logs: without loss, rotated, and never in the way.

use std::fs;

use podd::shim::protocol::{Fact, Reply, RequestBody, WaitStatus};

use crate::harness::Sandbox;

#[test]
fn much_output_arrives_whole() {
    let mut sandbox = Sandbox::new();
    let output = sandbox.run(
        "web",
        "seq 1 200000; head -c 100000 /dev/zero | tr '\\0' x; echo; echo end",
    );
    let numbers: Vec<String> = (1..=200_000).map(|n| n.to_string()).collect();
    let mut expected = numbers.join("\n");
    expected.push('\n');
    expected.push_str(&"x".repeat(100_000));
    expected.push_str("\nend\n");
    assert!(output == expected, "{} bytes of {}", output.len(), expected.len());
    sandbox.stop();
}

#[test]
fn logs_are_rotated_without_loss() {
    let mut sandbox = Sandbox::with(|config| {
        config.log_max_size = 100_000;
        config.log_max_files = 1000;
    });
    assert_eq!(sandbox.start("web", 0, &["seq", "1", "50000"]), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    let directory = sandbox.log_path("web", 0).parent().unwrap().to_owned();
    let mut numbers = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        files += 1;
        assert!(fs::metadata(&path).unwrap().len() <= 100_000, "{path:?}");
        numbers.extend(
            fs::read_to_string(path)
                .unwrap()
                .lines()
                .map(|l| l.split(' ').nth(3).unwrap().parse::<u32>().unwrap()),
        );
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50_000).collect::<Vec<_>>());
    assert!(files > 10, "{files}");
    sandbox.stop();
}

#[test]
fn a_full_disk_does_not_stop_a_container_and_the_loss_is_told() {
    let mut sandbox = Sandbox::new();
    let log_dir = sandbox.home.path().join("full");
    fs::create_dir(&log_dir).unwrap();
    let mount = |arguments: &[&str]| {
        assert!(
            std::process::Command::new("mount")
                .args(arguments)
                .arg(&log_dir)
                .status()
                .unwrap()
                .success()
        );
    };
    mount(&["-t", "tmpfs", "-o", "size=64k", "podd-test"]);
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", "seq 1 100000; echo done > /data/done"]);
    let volume = sandbox.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    spec["mounts"].as_array_mut().unwrap().push(serde_json::json!(
        {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind"]}
    ));
    let mut start = sandbox.start_of("web", 0, &spec);
    start.log = log_dir.join("0.log");
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(fs::read_to_string(volume.join("done")).unwrap(), "done\n");
    let lost: u64 = sandbox
        .facts()
        .iter()
        .filter_map(|fact| match fact {
            Fact::LogLost { bytes, .. } => Some(*bytes),
            _ => None,
        })
        .sum();
    let text = fs::read_to_string(log_dir.join("0.log")).unwrap();
    let kept: usize = text.lines().map(|line| line.split(' ').nth(3).unwrap().len() + 1).sum();
    let written: usize = (1..=100_000_u32).map(|n| n.to_string().len() + 1).sum();
    assert_eq!(
        kept + usize::try_from(lost).unwrap(),
        written,
        "what is not there is counted"
    );
    assert!(text.ends_with('\n'));
    sandbox.stop();
    assert!(
        std::process::Command::new("umount")
            .arg(&log_dir)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn stdin_is_null_or_an_open_pipe() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.run("null", "cat; readlink /proc/self/fd/0"), "/dev/null\n");
    let spec = sandbox.spec("pipe", 0, &["sh", "-c", "readlink /proc/self/fd/0 | cut -d: -f1; cat"]);
    let mut start = sandbox.start_of("pipe", 0, &spec);
    start.stdin = true;
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    while sandbox.output("pipe", 0, "stdout") != "pipe\n" {}
    assert!(
        !sandbox
            .facts()
            .iter()
            .any(|fact| matches!(fact, Fact::Exited { container, .. } if container == "pipe"))
    );
    sandbox.stop();
}
