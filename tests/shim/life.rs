//! Starts, ends, signals, stops.

use std::path::Path;

use podd::shim::client;
use podd::shim::protocol::{Ahead, Fact, Reply, RequestBody, StartContainer, WaitStatus};

use crate::harness::{Connection, Sandbox, kill, pidfd, start_zygote, try_pidfd, wait_for_end};

#[test]
fn infra_starts_and_stop_leaves_nothing() {
    let mut sandbox = Sandbox::new();
    let facts = sandbox.facts();
    assert!(
        matches!(&facts[0], Fact::Shim { pid, .. } if *pid == sandbox.shim),
        "{facts:?}"
    );
    assert!(matches!(facts[1], Fact::InfraStarted { .. }));
    assert_eq!(sandbox.connection.hello.unwrap().1, sandbox.shim);
    let infra = pidfd(sandbox.infra);
    sandbox.stop();
    wait_for_end(&infra);
    assert_eq!(
        sandbox.facts()[2],
        Fact::InfraExited {
            status: WaitStatus::Signal(9)
        }
    );
}

#[test]
fn a_container_runs_and_its_output_is_exact() {
    let mut sandbox = Sandbox::new();
    assert_eq!(
        sandbox.run("web", "echo one; echo; printf 'two\\nno newline'; echo bad >&2"),
        "one\n\ntwo\nno newline"
    );
    assert_eq!(sandbox.output("web", 0, "stderr"), "bad\n");
    let facts = sandbox.facts();
    let own = &facts[2..];
    assert!(matches!(own[0], Fact::Starting { attempt: 0, .. }));
    assert!(matches!(own[1], Fact::Started { attempt: 0, .. }));
    assert!(matches!(
        own[2],
        Fact::Exited {
            attempt: 0,
            status: WaitStatus::Code(0),
            oom_killed: false,
            ..
        }
    ));
    assert_eq!(own.len(), 3);
    sandbox.stop();
}

#[test]
fn exit_codes_and_signals_are_true() {
    let mut sandbox = Sandbox::new();
    for (attempt, code) in [0, 1, 2, 3, 42, 126, 127, 128, 137, 143, 254, 255]
        .into_iter()
        .enumerate()
    {
        let attempt = u32::try_from(attempt).unwrap();
        assert_eq!(
            sandbox.start("code", attempt, &["sh", "-c", &format!("exit {code}")]),
            Reply::Done
        );
        assert_eq!(sandbox.exited("code", attempt), WaitStatus::Code(code));
    }
    for (attempt, signal) in [1, 2, 3, 6, 9, 15, 34].into_iter().enumerate() {
        let attempt = u32::try_from(attempt).unwrap();
        // As first process of its namespace a shell would not die of its own signals; from outside KILL works always.
        assert_eq!(sandbox.start("signal", attempt, &["sleep", "1000"]), Reply::Done);
        if signal == 9 {
            assert_eq!(sandbox.signal("signal", attempt, signal, false), Reply::Done);
            assert_eq!(sandbox.exited("signal", attempt), WaitStatus::Signal(9));
        } else {
            assert_eq!(sandbox.signal("signal", attempt, 9, true), Reply::Done);
            assert_eq!(sandbox.exited("signal", attempt), WaitStatus::Signal(9));
        }
    }
    sandbox.stop();
}

#[test]
fn signals_reach_the_first_process_and_are_written_down_once() {
    let mut sandbox = Sandbox::new();
    let script = "trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    assert_eq!(sandbox.start("web", 0, &["sh", "-c", script]), Reply::Done);
    // The trap is set when the line is out; the journal says nothing about that, so the signal is sent until it is taken.
    while sandbox.output("web", 0, "stdout").is_empty() {}
    assert_eq!(sandbox.signal("web", 0, 15, false), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(7));
    assert_eq!(
        sandbox.signal("web", 0, 15, false),
        Reply::Done,
        "also when it has ended"
    );
    let written = sandbox
        .facts()
        .into_iter()
        .filter(|fact| matches!(fact, Fact::Signalled { .. }))
        .count();
    assert_eq!(written, 1);
    assert!(matches!(sandbox.signal("nobody", 0, 15, false), Reply::Refused(_)));
}

#[test]
fn starts_are_idempotent_by_attempt() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    let pid = sandbox.pid_of("web", 0);
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    assert!(
        matches!(sandbox.start("web", 1, &["sleep", "1000"]), Reply::Refused(_)),
        "the older one lives"
    );
    assert_eq!(sandbox.pid_of("web", 0), pid);
    kill(pid);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert_eq!(
        sandbox.start("web", 0, &["sleep", "1000"]),
        Reply::Done,
        "whatever became of it"
    );
    assert_eq!(sandbox.start("web", 1, &["sleep", "1000"]), Reply::Done);
    assert!(matches!(sandbox.start("web", 1, &["true"]), Reply::Done));
    let starts = sandbox
        .facts()
        .into_iter()
        .filter(|fact| matches!(fact, Fact::Started { .. }))
        .count();
    assert_eq!(starts, 2);
    sandbox.stop();
}

/// What `web`'s attempt will be asked for: a program that says which pids limit it has, and ends.
fn limited(sandbox: &Sandbox, attempt: u32, limit: u32) -> StartContainer {
    let script = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max; echo $$";
    let mut spec = sandbox.spec("web", attempt, &["sh", "-c", script]);
    spec["linux"]["resources"] = serde_json::json!({"pids": {"limit": limit}});
    sandbox.start_of("web", attempt, &spec)
}

fn ahead(sandbox: &mut Sandbox, start: StartContainer) {
    let ahead = Ahead {
        start,
        after_success: true,
    };
    assert_eq!(sandbox.connection.ask(RequestBody::Ahead(Box::new(ahead))), Reply::Done);
}

/// The process in this attempt's cgroup, if there is one, once everything asked for before is done.
fn process_of(sandbox: &mut Sandbox, attempt: u32) -> Option<i32> {
    assert!(matches!(sandbox.signal("nobody", 0, 15, false), Reply::Refused(_)));
    let name = format!("web-{attempt}");
    sandbox.cgroups().iter().find_map(|pod| {
        let processes = std::fs::read_to_string(pod.join(&name).join("cgroup.procs")).ok()?;
        processes.lines().next()?.parse().ok()
    })
}

/// The process that was made ahead for this attempt: it is on its way into its cgroup.
fn waiting(sandbox: &mut Sandbox, attempt: u32) -> i32 {
    loop {
        if let Some(pid) = process_of(sandbox, attempt) {
            return pid;
        }
        std::thread::yield_now();
    }
}

#[test]
fn what_is_expected_next_waits_for_its_start_and_becomes_it() {
    let mut sandbox = Sandbox::new();
    let start = limited(&sandbox, 0, 77);
    ahead(&mut sandbox, start.clone());
    let waiting = waiting(&mut sandbox, 0);
    let started = |sandbox: &mut Sandbox| {
        let facts = sandbox.facts();
        facts
            .iter()
            .filter(|fact| matches!(fact, Fact::Starting { .. } | Fact::Started { .. }))
            .count()
    };
    assert_eq!(started(&mut sandbox), 0, "nothing of it is written down");
    assert!(!sandbox.log_path("web", 0).exists(), "and its program says nothing");
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    assert_eq!(sandbox.pid_of("web", 0), waiting);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(sandbox.output("web", 0, "stdout"), "77\n1\n");
    sandbox.stop();
}

#[test]
fn the_next_attempt_is_made_when_the_one_before_it_ends() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    let start = limited(&sandbox, 1, 77);
    ahead(&mut sandbox, start.clone());
    assert_eq!(process_of(&mut sandbox, 1), None, "not while the other lives");
    assert_eq!(sandbox.signal("web", 0, 9, false), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    let waiting = waiting(&mut sandbox, 1);
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    assert_eq!(sandbox.pid_of("web", 1), waiting);
    assert_eq!(sandbox.exited("web", 1), WaitStatus::Code(0));
    sandbox.stop();
}

#[test]
fn a_start_that_differs_never_gets_what_was_made_for_another() {
    let mut sandbox = Sandbox::new();
    // Other limits, and another attempt.
    for (guessed, (attempt, limit)) in [(0, (0, 99)), (1, (2, 77))] {
        let guess = limited(&sandbox, guessed, 77);
        ahead(&mut sandbox, guess);
        let waiting = waiting(&mut sandbox, guessed);
        let start = limited(&sandbox, attempt, limit);
        assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
        assert_ne!(sandbox.pid_of("web", attempt), waiting);
        assert_eq!(sandbox.exited("web", attempt), WaitStatus::Code(0));
        assert_eq!(sandbox.output("web", attempt, "stdout"), format!("{limit}\n1\n"));
        while Path::new(&format!("/proc/{waiting}")).exists() {
            std::thread::yield_now();
        }
    }
    sandbox.stop();
}

#[test]
fn what_nobody_asks_for_goes_away_and_can_still_be_started() {
    let mut sandbox = Sandbox::new();
    let start = limited(&sandbox, 0, 77);
    ahead(&mut sandbox, start.clone());
    let waiting = waiting(&mut sandbox, 0);
    while sandbox.cgroups().iter().any(|pod| pod.join("web-0").exists()) {
        std::thread::yield_now();
    }
    assert!(!Path::new(&format!("/proc/{waiting}")).exists());
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    sandbox.stop();
}

#[test]
fn what_was_killed_while_it_waited_is_made_anew() {
    let mut sandbox = Sandbox::new();
    let start = limited(&sandbox, 0, 77);
    ahead(&mut sandbox, start.clone());
    let waiting = waiting(&mut sandbox, 0);
    kill(waiting);
    while Path::new(&format!("/proc/{waiting}")).exists() {
        std::thread::yield_now();
    }
    assert_eq!(sandbox.connection.ask(RequestBody::Start(Box::new(start))), Reply::Done);
    assert_ne!(sandbox.pid_of("web", 0), waiting);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(sandbox.output("web", 0, "stdout"), "77\n1\n");
    sandbox.stop();
}

#[test]
fn a_sandbox_that_stops_takes_with_it_what_waits() {
    let mut sandbox = Sandbox::new();
    let start = limited(&sandbox, 0, 77);
    ahead(&mut sandbox, start);
    let waiting = waiting(&mut sandbox, 0);
    sandbox.stop();
    assert!(!Path::new(&format!("/proc/{waiting}")).exists());
}

#[test]
fn two_requests_for_one_attempt_make_one_process() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.spec("web", 0, &["sleep", "1000"]);
    let start = sandbox.start_of("web", 0, &spec);
    let ids: Vec<u64> = (0..3)
        .map(|_| sandbox.connection.post(RequestBody::Start(Box::new(start.clone()))))
        .collect();
    for id in ids {
        assert_eq!(sandbox.connection.answer(id), Reply::Done);
    }
    assert_eq!(
        sandbox
            .facts()
            .into_iter()
            .filter(|f| matches!(f, Fact::Started { .. }))
            .count(),
        1
    );
}

#[test]
fn what_cannot_be_executed_is_said_exactly() {
    let mut sandbox = Sandbox::new();
    for (attempt, (args, message)) in [
        (vec!["/bin/nope"], "exec: \"/bin/nope\": no such file or directory"),
        (vec!["nope"], "exec: \"nope\": executable file not found in $PATH"),
        (vec!["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
        (vec!["/etc"], "exec: \"/etc\": permission denied"),
        (vec!["/bin/busybox/x"], "exec: \"/bin/busybox/x\": not a directory"),
    ]
    .into_iter()
    .enumerate()
    {
        let attempt = u32::try_from(attempt).unwrap();
        assert_eq!(sandbox.start("web", attempt, &args), Reply::Failed(message.to_owned()));
        let last = sandbox.facts().pop().unwrap();
        assert_eq!(
            last,
            Fact::StartFailed {
                container: "web".to_owned(),
                attempt,
                message: message.to_owned()
            }
        );
    }
    sandbox.stop();
}

#[test]
fn a_spec_that_cannot_be_carried_out_is_refused_by_name() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.spec("web", 0, &["true"]);
    spec["process"]["selinuxLabel"] = "custom".into();
    assert_eq!(
        sandbox.start_spec("web", 0, &spec),
        Reply::Failed("process.selinuxLabel is not supported".to_owned())
    );
    let mut spec = sandbox.spec("web", 1, &["true"]);
    spec["mounts"].as_array_mut().unwrap().push(serde_json::json!(
        {"destination": "/data", "type": "bind", "source": "/nowhere/at/all", "options": ["rbind"]}
    ));
    assert_eq!(
        sandbox.start_spec("web", 1, &spec),
        Reply::Failed("mount \"/nowhere/at/all\" to \"/data\": source: no such file or directory".to_owned())
    );
    sandbox.stop();
}

#[test]
fn the_end_of_infra_is_written_down_and_nothing_starts_any_more() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    kill(sandbox.infra);
    let status = sandbox.wait(|facts| {
        facts.iter().find_map(|fact| match fact {
            Fact::InfraExited { status } => Some(*status),
            _ => None,
        })
    });
    assert_eq!(status, WaitStatus::Signal(9));
    assert!(matches!(sandbox.start("other", 0, &["true"]), Reply::Refused(_)));
    // The container is left for the agent to stop.
    assert!(try_pidfd(sandbox.pid_of("web", 0)).is_some());
    sandbox.stop();
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
}

#[test]
fn when_the_shim_is_killed_everything_of_its_pod_dies() {
    for share_pid in [false, true] {
        let mut sandbox = Sandbox::with(|config| config.share_pid = share_pid);
        assert_eq!(sandbox.start("root", 0, &["sleep", "1000"]), Reply::Done);
        let mut spec = sandbox.spec("user", 0, &["sleep", "1000"]);
        spec["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
        assert_eq!(sandbox.start_spec("user", 0, &spec), Reply::Done);
        let all = [
            sandbox.infra,
            sandbox.pid_of("root", 0),
            sandbox.pid_of("user", 0),
            sandbox.shim,
        ]
        .map(pidfd);
        kill(sandbox.shim);
        for process in &all {
            wait_for_end(process);
        }
        assert_eq!(client::shim_of(&sandbox.dir).unwrap(), podd::linux::lock::Holder::Free);
    }
}

#[test]
fn the_shim_outlives_zygote_and_agent_and_is_found_again() {
    let mut zygote = start_zygote();
    let mut sandbox = Sandbox::from(&mut zygote, |_| {});
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    drop(zygote);
    let (other, _closed) = std::os::unix::net::UnixStream::pair().unwrap();
    // The old connection closes; nobody is there when the container ends.
    drop(std::mem::replace(&mut sandbox.connection, Connection::new(other)));
    let container = pidfd(sandbox.pid_of("web", 0));
    kill(sandbox.pid_of("web", 0));
    wait_for_end(&container);
    assert_eq!(
        client::shim_of(&sandbox.dir).unwrap(),
        podd::linux::lock::Holder::Pid(sandbox.shim)
    );
    sandbox.connection = Connection::new(client::connect(&sandbox.dir).unwrap());
    sandbox.connection.greet();
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert_eq!(sandbox.start("web", 1, &["true"]), Reply::Done);
    assert_eq!(sandbox.exited("web", 1), WaitStatus::Code(0));
    sandbox.stop();
}

#[test]
fn a_connection_that_does_not_greet_or_speaks_nonsense_is_closed_and_harms_nobody() {
    let mut sandbox = Sandbox::new();
    let mut rude = Connection::new(client::connect(&sandbox.dir).unwrap());
    rude.post(RequestBody::Stop);
    assert!(!rude.hear());
    let mut nonsense = client::connect(&sandbox.dir).unwrap();
    std::io::Write::write_all(&mut nonsense, &[255; 64]).unwrap();
    let mut rest = Vec::new();
    // Closed or reset, but not served.
    let _reset = std::io::Read::read_to_end(&mut nonsense, &mut rest);
    assert!(rest.is_empty());
    assert_eq!(sandbox.run("web", "echo fine"), "fine\n");
    sandbox.stop();
}

#[test]
fn zombies_are_reaped() {
    let mut sandbox = Sandbox::with(|config| config.share_pid = true);
    // Each of them leaves an orphan that ends after its parent: infra, the first process of the pod's pid namespace,
    // becomes its parent.
    let script = "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 & ) ; done; exec sleep 1000";
    assert_eq!(sandbox.start("web", 0, &["sh", "-c", script]), Reply::Done);
    let output = |sandbox: &mut Sandbox, attempt: u32| {
        assert_eq!(
            sandbox.start("look", attempt, &["sh", "-c", "ps -o stat,comm; exit 0"]),
            Reply::Done
        );
        sandbox.exited("look", attempt);
        sandbox.output("look", attempt, "stdout")
    };
    let mut attempt = 0;
    let mut seen = output(&mut sandbox, attempt);
    while seen.lines().filter(|line| line.contains("sleep")).count() > 1 {
        attempt += 1;
        seen = output(&mut sandbox, attempt);
    }
    assert!(!seen.lines().any(|line| line.trim_start().starts_with('Z')), "{seen}");
    let shim_children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", sandbox.shim)).unwrap();
    assert_eq!(shim_children.split_whitespace().count(), 2, "infra and web");
    sandbox.stop();
}

#[test]
fn what_a_container_leaves_in_a_shared_pid_namespace_is_killed() {
    let mut sandbox = Sandbox::with(|config| config.share_pid = true);
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo started";
    assert_eq!(sandbox.start("web", 0, &["sh", "-c", script]), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    // Its cgroup can only go when nobody is left in it, and the next attempt sees nobody.
    assert_eq!(
        sandbox.start(
            "look",
            0,
            &["sh", "-c", "while ps | grep -q '[s]leep 1000'; do :; done"]
        ),
        Reply::Done
    );
    assert_eq!(sandbox.exited("look", 0), WaitStatus::Code(0));
    sandbox.stop();
}

#[test]
fn a_process_left_behind_does_not_hold_up_the_end() {
    let mut sandbox = Sandbox::with(|config| config.share_pid = true);
    // The other container's process holds a copy of the first one's stdout by way of /proc.
    assert_eq!(
        sandbox.start("web", 0, &["sh", "-c", "printf partial; exec sleep 1000"]),
        Reply::Done
    );
    let look =
        "p=$(ps -o pid,args | awk '/sleep 100[0]/ {print $1}'); exec 5>/proc/$p/fd/1; echo held; exec sleep 2000";
    let mut spec = sandbox.spec("holder", 0, &["sh", "-c", look]);
    let all = spec["process"]["capabilities"]["bounding"].as_array().unwrap().clone();
    let with: Vec<_> = all.into_iter().chain(["CAP_SYS_PTRACE".into()]).collect();
    spec["process"]["capabilities"] = serde_json::json!({"bounding": with, "effective": with, "permitted": with});
    assert_eq!(sandbox.start_spec("holder", 0, &spec), Reply::Done);
    while sandbox.output("holder", 0, "stdout") != "held\n" {
        assert_eq!(sandbox.output("holder", 0, "stderr"), "");
    }
    kill(sandbox.pid_of("web", 0));
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert_eq!(sandbox.output("web", 0, "stdout"), "partial");
    sandbox.stop();
}

#[test]
fn a_sandbox_directory_has_one_shim() {
    let mut zygote = start_zygote();
    let mut sandbox = Sandbox::from(&mut zygote, |_| {});
    let spawn = podd::shim::protocol::Spawn {
        dir: sandbox.dir.clone(),
        sandbox: sandbox.config.clone(),
    };
    let (_, socket) = zygote.spawn(&spawn).unwrap();
    // The second one finds the lock taken and goes.
    assert!(!Connection::new(socket).hear());
    assert_eq!(sandbox.run("web", "echo fine"), "fine\n");
    assert_eq!(
        sandbox
            .facts()
            .iter()
            .filter(|fact| matches!(fact, Fact::Shim { .. }))
            .count(),
        1
    );
    sandbox.stop();
}

#[test]
fn a_termination_signal_stops_the_sandbox_in_order() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    let shim = pidfd(sandbox.shim);
    rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::TERM).unwrap();
    wait_for_end(&shim);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert!(sandbox.cgroups().is_empty());
}

#[test]
fn an_out_of_memory_kill_is_told() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", "x=$(yes | head -c 100000000); echo survived"]);
    spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 8_388_608}});
    assert_eq!(sandbox.start_spec("web", 0, &spec), Reply::Done);
    sandbox.exited("web", 0);
    assert_ne!(sandbox.output("web", 0, "stdout"), "survived\n");
    let told = sandbox
        .facts()
        .into_iter()
        .any(|fact| matches!(fact, Fact::Exited { oom_killed: true, .. }));
    assert!(told, "{:?}", sandbox.facts());
    sandbox.stop();
}
