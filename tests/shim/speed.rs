//! Leaks over many starts, and (on demand) how long a start takes.

use std::fs;
use std::time::Instant;

use podd::shim::protocol::{Fact, Reply, WaitStatus};

use crate::harness::{Sandbox, start_zygote};

fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn a_thousand_starts_leak_nothing() {
    let mut sandbox = Sandbox::new();
    let before = open_files(sandbox.shim);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    for attempt in 0..1000 {
        let args: &[&str] = if attempt % 10 == 9 { &["nope"] } else { &["true"] };
        let reply = sandbox.start("web", attempt, args);
        if attempt % 10 == 9 {
            assert!(matches!(reply, Reply::Failed(_)));
        } else {
            assert_eq!(reply, Reply::Done);
            assert_eq!(sandbox.exited("web", attempt), WaitStatus::Code(0));
        }
    }
    // The mounts of the last few are let go of in a quiet moment.
    assert!(open_files(sandbox.shim) < before + 10);
    let begin = Instant::now();
    while open_files(sandbox.shim) != before {
        assert!(
            begin.elapsed().as_secs() < 30,
            "{} files are open",
            open_files(sandbox.shim)
        );
        std::thread::yield_now();
    }
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", sandbox.shim)).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "infra alone");
    // Others run beside us: not exact, but a thousand would show.
    assert!(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count() < mounts + 100);
    sandbox.stop();
}

/// `cargo nextest run --test shim --run-ignored only --no-capture latency`
#[test]
#[ignore = "measures; needs a quiet machine"]
fn latency_after_idle_gaps() {
    let mut sandbox = Sandbox::new();
    let mut asked = Vec::new();
    let mut inside = Vec::new();
    for attempt in 0..50 {
        let spec = sandbox.spec("web", attempt, &["true"]);
        let start = sandbox.start_of("web", attempt, &spec);
        // An idle machine is the slow case: RCU grace periods, cold caches.
        let _slept = rustix::thread::nanosleep(&rustix::thread::Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        });
        let begin = Instant::now();
        let reply = sandbox
            .connection
            .ask(podd::shim::protocol::RequestBody::Start(Box::new(start)));
        asked.push(begin.elapsed());
        assert_eq!(reply, Reply::Done);
        sandbox.exited("web", attempt);
    }
    let entries = sandbox.entries();
    for pair in entries.windows(2) {
        if let (Fact::Starting { .. }, Fact::Started { .. }) = (&pair[0].fact, &pair[1].fact) {
            inside.push(std::time::Duration::from_nanos(
                u64::try_from(pair[1].at - pair[0].at).unwrap(),
            ));
        }
    }
    for (name, times) in [("request to answer", &mut asked), ("Starting to Started", &mut inside)] {
        times.sort();
        println!("{name}: p50 {:?} p95 {:?} max {:?}", times[25], times[47], times[49]);
    }
    println!(
        "{}",
        fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.shim)).unwrap()
    );
    println!(
        "{}",
        fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.infra)).unwrap()
    );
    sandbox.stop();
}

/// From the request to the end of `true`, told to the agent.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; needs a quiet machine"]
async fn latency_of_exec_after_idle_gaps() {
    let mut pod = crate::sessions::Pod::sleeping();
    let mut times = Vec::new();
    for _ in 0..50 {
        let _slept = rustix::thread::nanosleep(&rustix::thread::Timespec {
            tv_sec: 0,
            tv_nsec: 200_000_000,
        });
        let begin = Instant::now();
        pod.run(&["true"]).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("exec: min {:?} p50 {:?} p95 {:?}", times[0], times[25], times[47]);
    println!(
        "{}",
        fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.sandbox.shim)).unwrap()
    );
    pod.sandbox.stop();
}

fn pss(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What a pod costs when there are many of them.
#[test]
#[ignore = "measures; says more of a release build"]
fn memory_of_many_pods() {
    const PODS: u64 = 50;
    let mut zygote = start_zygote();
    let mut sandboxes: Vec<Sandbox> = (0..PODS).map(|_| Sandbox::from(&mut zygote, |_| {})).collect();
    let mut sums = [0; 3];
    for sandbox in &mut sandboxes {
        assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    }
    for sandbox in &sandboxes {
        for (sum, pid) in sums
            .iter_mut()
            .zip([sandbox.shim, sandbox.infra, sandbox.pid_of("web", 0)])
        {
            *sum += pss(pid);
        }
    }
    println!(
        "PSS in kB a pod of {PODS}: shim {}, infra {}, container {}",
        sums[0] / PODS,
        sums[1] / PODS,
        sums[2] / PODS
    );
}
