//! Exec and dial, as the agent does them. Attach is in `attach.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use podd::model::Uid;
use podd::runtime::Shims;
use podd::runtime::stream::{Exec, Session, SessionEnd, StreamError, Streams, TerminalSize, Wanted};
use podd::shim::client;
use podd::shim::frame::{self, Decoder};
use podd::shim::protocol::{FromShim, PROTOCOL, Reply, Request, RequestBody, StartContainer, WaitStatus};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Sandbox, kill, pidfd, status_field, wait_for_end};

/// Longer than anything here takes on a loaded machine; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(40);

/// A sandbox, and the agent's way to it.
pub(crate) struct Pod {
    pub(crate) sandbox: Sandbox,
    shims: Arc<Shims>,
    uid: Uid,
}

const NOTHING: Wanted = Wanted {
    stdin: false,
    stdout: false,
    stderr: false,
    tty: None,
};
pub(crate) const OUTPUTS: Wanted = Wanted {
    stdout: true,
    stderr: true,
    ..NOTHING
};
pub(crate) const ALL: Wanted = Wanted { stdin: true, ..OUTPUTS };

pub(crate) fn terminal(width: u16, height: u16) -> Wanted {
    Wanted {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: Some(Some(TerminalSize { width, height })),
    }
}

pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it took too long")
}

impl Pod {
    pub(crate) fn of(sandbox: Sandbox) -> Self {
        let (hints, _) = tokio::sync::mpsc::unbounded_channel();
        let shims = Shims::new(&sandbox.home.path().join("run"), sandbox.config.boot_id.clone(), hints);
        Self {
            sandbox,
            shims: Arc::new(shims),
            uid: Uid("uid".to_owned()),
        }
    }

    /// With a container `web` that sleeps.
    pub(crate) fn sleeping() -> Self {
        Self::running(|_| {})
    }

    fn running(change: impl FnOnce(&mut Value)) -> Self {
        let mut sandbox = Sandbox::new();
        let mut spec = sandbox.spec("web", 0, &["sleep", "100000"]);
        change(&mut spec);
        assert_eq!(sandbox.start_spec("web", 0, &spec), Reply::Done);
        Self::of(sandbox)
    }

    pub(crate) fn start(&mut self, args: &[&str], change: impl FnOnce(&mut Value, &mut StartContainer)) {
        let mut spec = self.sandbox.spec("web", 0, args);
        let mut start = self.sandbox.start_of("web", 0, &spec);
        change(&mut spec, &mut start);
        fs::write(&start.spec, serde_json::to_vec(&spec).unwrap()).unwrap();
        assert_eq!(
            self.sandbox.connection.ask(RequestBody::Start(Box::new(start))),
            Reply::Done
        );
    }

    async fn exec(&self, command: &[&str], wanted: Wanted) -> Result<Session, StreamError> {
        let exec = Exec {
            container: "web".to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            wanted,
        };
        in_time(self.shims.exec(&self.uid, exec)).await
    }

    /// Run to the end: how it ended, stdout, stderr.
    pub(crate) async fn run(&self, command: &[&str]) -> (SessionEnd, String, String) {
        let mut session = self.exec(command, OUTPUTS).await.unwrap();
        let (out, error) = (all(&mut session, false).await, all(&mut session, true).await);
        (in_time(&mut session.end).await.unwrap(), out, error)
    }

    async fn sh(&self, script: &str) -> String {
        let (end, out, error) = self.run(&["sh", "-c", script]).await;
        assert_eq!(end, SessionEnd::Code(0), "{script}: {out} {error}");
        out
    }

    pub(crate) async fn attach(&self, wanted: Wanted) -> Session {
        in_time(self.shims.attach(&self.uid, "web", wanted)).await.unwrap()
    }

    /// Pids of the container, as the host sees them.
    fn pids(&self) -> BTreeSet<i32> {
        let cgroups = podd::linux::cgroup::Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap();
        let pids = cgroups.pids(&self.sandbox.cgroup_of("web", 0)).unwrap();
        pids.into_iter().collect()
    }

    /// Wait for the shim's next turn and those after it until this is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = std::time::Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            // Each answer is one more turn of the shim's loop.
            assert_eq!(self.sandbox.signal("web", 0, 0, false), Reply::Done);
        }
    }
}

pub(crate) async fn all(session: &mut Session, stderr: bool) -> String {
    let output = if stderr {
        session.stderr.as_mut()
    } else {
        session.stdout.as_mut()
    };
    let mut text = String::new();
    in_time(output.unwrap().read_to_string(&mut text)).await.unwrap();
    text
}

/// Read stdout until it holds this; what was read.
pub(crate) async fn until_it_says(session: &mut Session, wanted: &str) -> String {
    let output = session.stdout.as_mut().unwrap();
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0; 4096];
        let length = in_time(output.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "ended without {wanted:?}: {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

pub(crate) async fn say(session: &mut Session, text: &str) {
    let input = session.stdin.as_mut().unwrap();
    in_time(input.write_all(text.as_bytes())).await.unwrap();
}

pub(crate) async fn end_of(session: &mut Session) -> SessionEnd {
    in_time(&mut session.end).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_with_its_own_code() {
    let mut pod = Pod::sleeping();
    for (command, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -15 $$"], 143),
        (&["/bin/sh", "-c", "exit 255"], 255),
    ] {
        assert_eq!(pod.run(command).await.0, SessionEnd::Code(code), "{command:?}");
    }
    let mut session = pod.exec(&["sh", "-c", "exit 7"], NOTHING).await.unwrap();
    assert!(session.stdin.is_none() && session.stdout.is_none() && session.stderr.is_none());
    assert_eq!(end_of(&mut session).await, SessionEnd::Code(7));
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_executed_says_why() {
    let mut pod = Pod::sleeping();
    for (command, message) in [
        ("nope", r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", r#"exec: "/nope": no such file or directory"#),
        ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
        ("/bin", r#"exec: "/bin": permission denied"#),
    ] {
        match pod.exec(&[command], ALL).await {
            Err(StreamError::NotExecuted(text)) => assert_eq!(text, message),
            other => panic!("{other:?}"),
        }
        match pod.exec(&[command], terminal(80, 24)).await {
            Err(StreamError::NotExecuted(text)) => assert_eq!(text, message),
            other => panic!("{other:?}"),
        }
    }
    let exec = Exec {
        container: "other".to_owned(),
        command: vec!["true".to_owned()],
        wanted: NOTHING,
    };
    let refused = pod.shims.exec(&pod.uid, exec.clone()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "container not found or not running: container other is not running"
    );
    let nobody = Uid("nobody".to_owned());
    let refused = pod.shims.exec(&nobody, exec).await.unwrap_err();
    assert!(matches!(refused, StreamError::NotRunning(_)), "{refused}");
    kill(pod.sandbox.pid_of("web", 0));
    pod.sandbox.exited("web", 0);
    let refused = pod.exec(&["true"], NOTHING).await.unwrap_err();
    assert!(matches!(refused, StreamError::NotRunning(_)), "{refused}");
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_echoed_and_its_end_is_heard() {
    let mut pod = Pod::sleeping();
    let mut session = pod
        .exec(&["sh", "-c", "cat; echo over >&2; exit 3"], ALL)
        .await
        .unwrap();
    assert!(session.resize.is_none());
    say(&mut session, "hello\n").await;
    assert_eq!(until_it_says(&mut session, "\n").await, "hello\n");
    // By shutting it down, not only by dropping it.
    session.stdin.as_mut().unwrap().shutdown().await.unwrap();
    assert_eq!(all(&mut session, false).await, "");
    assert_eq!(all(&mut session, true).await, "over\n");
    assert_eq!(end_of(&mut session).await, SessionEnd::Code(3));
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_come_and_go_whole() {
    const LENGTH: usize = 100 << 20;
    let mut pod = Pod::sleeping();
    let mut session = pod.exec(&["cat"], ALL).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        let mut digest = Sha256::new();
        let mut chunk = vec![0_u8; 1 << 20];
        for round in 0..LENGTH / chunk.len() {
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = u8::try_from((at / 7 + at * 31 + round * 13) % 251).unwrap();
            }
            digest.update(&chunk);
            stdin.write_all(&chunk).await.unwrap();
        }
        digest.finalize()
    });
    let mut stdout = session.stdout.take().unwrap();
    let mut digest = Sha256::new();
    let (mut chunk, mut total) = (vec![0; 1 << 16], 0);
    loop {
        let length = in_time(stdout.read(&mut chunk)).await.unwrap();
        if length == 0 {
            break;
        }
        total += length;
        digest.update(&chunk[..length]);
    }
    assert_eq!(total, LENGTH);
    assert_eq!(digest.finalize(), writing.await.unwrap());
    assert_eq!(end_of(&mut session).await, SessionEnd::Code(0));
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_from_the_first_moment_and_is_resized() {
    let mut pod = Pod::sleeping();
    let script = "stty size; tty; echo $TERM; read line; stty size; echo got $line; exit 5";
    let mut session = pod.exec(&["sh", "-c", script], terminal(133, 47)).await.unwrap();
    assert!(session.stderr.is_none());
    let begin = until_it_says(&mut session, "xterm").await;
    assert!(begin.starts_with("47 133\r\n/dev/pts/0\r\nxterm"), "{begin:?}");
    let resize = session.resize.take().unwrap();
    resize.send(TerminalSize { width: 61, height: 17 }).await.unwrap();
    // It is not the last one who keeps the terminal open.
    drop(resize);
    let watch = async || {
        while pod.sh("stty size </dev/pts/0").await != "17 61\n" {}
    };
    in_time(watch()).await;
    say(&mut session, "word\r").await;
    let rest = all(&mut session, false).await;
    assert!(rest.contains("17 61\r\n") && rest.ends_with("got word\r\n"), "{rest:?}");
    assert_eq!(end_of(&mut session).await, SessionEnd::Code(5));
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_reaches_the_foreground_of_a_terminal() {
    let mut pod = Pod::sleeping();
    let mut session = pod
        .exec(
            &[
                "sh",
                "-c",
                "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done",
            ],
            terminal(80, 24),
        )
        .await
        .unwrap();
    until_it_says(&mut session, "ready").await;
    say(&mut session, "\u{3}").await;
    let rest = all(&mut session, false).await;
    assert!(rest.contains("caught"), "{rest:?}");
    assert_eq!(end_of(&mut session).await, SessionEnd::Code(9));
    pod.sandbox.stop();
}

/// What of a process must be as the first process has it.
const STATUS: [&str; 16] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "SigQ",
    "SigBlk",
    "SigIgn",
    "NStgid",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_what_the_first_process_is() {
    for (uid, no_new_privileges) in [(0, true), (0, false), (1000, true), (1000, false)] {
        let mut pod = Pod::running(|spec| {
            spec["process"]["user"] = json!({"uid": uid, "gid": 1234, "additionalGids": [1234, 7, 8], "umask": 63});
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["process"]["cwd"] = json!("/tmp");
            spec["process"]["env"] = json!(["PATH=/usr/local/bin:/bin", "A=b c", "HOME=/home/x"]);
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]);
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            });
        });
        let what = format!("uid {uid}, no_new_privs {no_new_privileges}");
        let (first, own) = (
            pod.sh("cat /proc/1/status").await,
            pod.sh("exec cat /proc/self/status").await,
        );
        for field in STATUS.into_iter().filter(|field| !matches!(*field, "SigQ" | "NStgid")) {
            assert_eq!(
                status_field(&own, field),
                status_field(&first, field),
                "{field} of {what}"
            );
        }
        for file in ["limits", "oom_score_adj", "environ", "mountinfo"] {
            let script = format!("cat /proc/1/{file}");
            let (first, own) = (
                pod.sh(&script).await,
                pod.run(&["cat", &format!("/proc/self/{file}")]).await.1,
            );
            assert_eq!(own, first, "{file} of {what}");
        }
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts", "user"] {
            let own = pod.run(&["readlink", &format!("/proc/self/ns/{name}")]).await.1;
            let host = pidfd_namespace(pod.sandbox.pid_of("web", 0), name);
            assert_eq!(own.trim(), host, "{name} of {what}");
        }
        assert_eq!(pod.sh("pwd").await, "/tmp\n");
        let refused = pod.run(&["mkdir", "/tmp/x"]).await;
        assert_eq!(refused.0, SessionEnd::Code(1), "the filter holds: {refused:?}");
        pod.sandbox.stop();
    }
}

fn pidfd_namespace(pid: i32, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    link.into_os_string().into_string().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_counted_and_limited_with_its_container() {
    let mut pod = Pod::running(|spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 33_554_432}, "pids": {"limit": 50}});
    });
    let cgroups = pod.sh("cat /proc/self/cgroup").await;
    for line in cgroups.lines() {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        let of_first = if controllers == "freezer" || controllers.is_empty() && !cgroups.contains("memory") {
            path.starts_with("/podd-exec-")
        } else {
            // A hierarchy that podd does not use shows where the shim is.
            path == "/" || !["cpu", "cpuacct", "memory", "pids", "devices"].contains(&controllers)
        };
        assert!(of_first, "{line} in {cgroups}");
    }
    let (end, _, _) = pod.run(&["sh", "-c", "tail -c 100000000 /dev/zero"]).await;
    assert_eq!(end, SessionEnd::Code(137), "out of the container's memory");
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_three_descriptors_and_is_the_leader_of_its_session() {
    let mut pod = Pod::sleeping();
    let (_, files, _) = pod.run(&["ls", "/proc/self/fd"]).await;
    assert_eq!(files, "0\n1\n2\n3\n", "3 is the directory that ls reads");
    let mut session = pod.exec(&["ls", "/proc/self/fd"], terminal(80, 24)).await.unwrap();
    assert_eq!(all(&mut session, false).await.split_whitespace().count(), 4);
    let stat = pod.sh("exec cat /proc/self/stat").await;
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let pid = stat.split_whitespace().next().unwrap();
    assert_eq!((fields[2], fields[3]), (pid, pid), "group and session: {stat}");
    assert_eq!(fields[1], "0", "its parent is outside: {stat}");
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_leaves_no_process() {
    let mut pod = Pod::sleeping();
    let first = pod.pids();
    assert_eq!(first.len(), 1);
    let script = "trap '' TERM HUP; setsid sh -c 'sleep 1001 & sleep 1002' & (sleep 1003 &) ; echo go; sleep 1004";
    for wanted in [ALL, terminal(80, 24)] {
        let mut session = pod.exec(&["sh", "-c", script], wanted).await.unwrap();
        until_it_says(&mut session, "go").await;
        assert!(pod.pids().len() > 2);
        drop(session);
        pod.until("all are gone", |pod| pod.pids() == first);
    }
    // Also one whose answer nobody has waited for.
    for _ in 0..20 {
        let exec = Exec {
            container: "web".to_owned(),
            command: vec!["sleep".to_owned(), "1005".to_owned()],
            wanted: ALL,
        };
        let begun = tokio::time::timeout(Duration::from_micros(500), pod.shims.exec(&pod.uid, exec)).await;
        drop(begun);
    }
    pod.until("all are gone", |pod| pod.pids() == first);
    pod.until("their cgroups are gone", |pod| exec_cgroups(pod).is_empty());
    pod.sandbox.stop();
}

fn exec_cgroups(pod: &Pod) -> Vec<String> {
    let cgroups = podd::linux::cgroup::Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap();
    cgroups.list(&pod.sandbox.cgroup_of("web", 0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_program_left_behind_lives_on() {
    let mut pod = Pod::sleeping();
    let first = pod.pids();
    let (end, _, _) = pod.run(&["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"]).await;
    assert_eq!(end, SessionEnd::Code(0));
    assert_eq!(pod.run(&["true"]).await.0, SessionEnd::Code(0));
    let left: Vec<i32> = pod.pids().difference(&first).copied().collect();
    let [left] = left[..] else { panic!("{left:?}") };
    kill(left);
    pod.until("it is gone", |pod| pod.pids() == first);
    pod.run(&["true"]).await;
    pod.until("no cgroup is left", |pod| exec_cgroups(pod).is_empty());
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_container_ends_its_programs() {
    for share_pid in [false, true] {
        let mut sandbox = Sandbox::with(|config| config.share_pid = share_pid);
        assert_eq!(sandbox.start("web", 0, &["sleep", "100000"]), Reply::Done);
        let mut pod = Pod::of(sandbox);
        let mut one = pod.exec(&["sleep", "1000"], ALL).await.unwrap();
        let mut two = pod
            .exec(&["sh", "-c", "sleep 1000; true"], terminal(80, 24))
            .await
            .unwrap();
        kill(pod.sandbox.pid_of("web", 0));
        assert_eq!(end_of(&mut one).await, SessionEnd::Code(137));
        assert_eq!(end_of(&mut two).await, SessionEnd::Code(137));
        assert_eq!(all(&mut one, false).await, "");
        assert_eq!(pod.sandbox.exited("web", 0), WaitStatus::Signal(9));
        pod.sandbox.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_sandbox_ends_its_sessions() {
    let mut pod = Pod::sleeping();
    let mut stopped = pod.exec(&["sleep", "1000"], ALL).await.unwrap();
    pod.sandbox.stop();
    assert!(matches!(
        end_of(&mut stopped).await,
        SessionEnd::Code(137) | SessionEnd::Lost(_)
    ));

    let pod = Pod::sleeping();
    let mut lost = pod.exec(&["sleep", "1000"], ALL).await.unwrap();
    let mut attached = pod.attach(OUTPUTS).await;
    let pids: Vec<_> = pod.pids().into_iter().map(pidfd).collect();
    kill(pod.sandbox.shim);
    assert!(matches!(end_of(&mut lost).await, SessionEnd::Lost(_)));
    assert!(matches!(end_of(&mut attached).await, SessionEnd::Lost(_)));
    for process in &pids {
        wait_for_end(process);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_programs_run_at_once_and_leave_nothing() {
    const COUNT: usize = 300;
    let mut pod = Pod::sleeping();
    let open = |pod: &Pod| fs::read_dir(format!("/proc/{}/fd", pod.sandbox.shim)).unwrap().count();
    let before = open(&pod);
    let mut sessions = Vec::new();
    for _ in 0..COUNT {
        sessions.push(pod.exec(&["cat"], ALL).await.unwrap());
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        say(session, &number.to_string()).await;
        session.stdin = None;
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        assert_eq!(all(session, false).await, number.to_string());
        assert_eq!(end_of(session).await, SessionEnd::Code(0));
    }
    drop(sessions);
    pod.until("all is closed", |pod| open(pod) == before);
    pod.until("no cgroup is left", |pod| exec_cgroups(pod).is_empty());
    // Side by side from the first moment on.
    let (shims, uid) = (Arc::clone(&pod.shims), pod.uid.clone());
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let (shims, uid) = (Arc::clone(&shims), uid.clone());
            tokio::spawn(async move {
                let exec = Exec {
                    container: "web".to_owned(),
                    command: ["sh", "-c", &format!("exit {number}")].map(str::to_owned).to_vec(),
                    wanted: OUTPUTS,
                };
                let session = shims.exec(&uid, exec).await.unwrap();
                assert_eq!(session.end.await.unwrap(), SessionEnd::Code(number));
            })
        })
        .collect();
    for task in tasks {
        in_time(task).await.unwrap();
    }
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_inside_sees_a_process_with_more_than_the_container_has() {
    let mut pod = Pod::running(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let list = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            list.push(json!("CAP_SYS_PTRACE"));
        }
    });
    // It looks at whoever comes and goes, as fast as it can.
    let script = "echo go; end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do \
        grep -h -e ^CapPrm -e ^CapBnd /proc/[0-9]*/status 2>/dev/null; done | sort -u";
    let mut watcher = pod.exec(&["sh", "-c", script], OUTPUTS).await.unwrap();
    until_it_says(&mut watcher, "go").await;
    let mine = pod.sh("grep -h -e ^CapPrm -e ^CapBnd /proc/self/status").await;
    while watcher.end.try_recv().is_err() {
        pod.run(&["true"]).await;
    }
    let seen = all(&mut watcher, false).await;
    let seen: BTreeSet<&str> = seen.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(seen, mine.lines().collect::<BTreeSet<_>>());
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_is_looked_up_inside_alone() {
    for (cwd, expected) in [
        ("/proc/self/fd/7", "working directory"),
        ("/proc/self/cwd", "working directory"),
    ] {
        let pod = Pod::sleeping();
        // The shim reads it again for each program.
        let config = pod.sandbox.dir.join("web-0/config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["cwd"] = json!(cwd);
        fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
        match pod.exec(&["true"], NOTHING).await {
            Err(StreamError::NotExecuted(text)) => assert!(text.starts_with(expected), "{text}"),
            other => panic!("{cwd}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_the_pods_localhost_is_reached() {
    let pod = Pod::running(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let list = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            list.push(json!("CAP_NET_ADMIN"));
        }
    });
    pod.sh("ip link set lo up").await;
    pod.sh("echo hello > /tmp/file").await;
    let server = ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/tmp"];
    let _server = pod.exec(&server, NOTHING).await.unwrap();
    let begin = std::time::Instant::now();
    let mut stream = loop {
        assert!(begin.elapsed() < PATIENCE);
        match in_time(pod.shims.dial(&pod.uid, 8080)).await {
            Ok(stream) => break stream,
            // It does not listen yet.
            Err(StreamError::Dial { port: 8080, source }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    in_time(stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.ends_with("\r\n\r\nhello\n"), "{text:?}");
    let nobody = pod.shims.dial(&pod.uid, 1).await.unwrap_err();
    assert_eq!(nobody.to_string(), "cannot connect to port 1 of the pod");
    let infra = pidfd(pod.sandbox.infra);
    kill(pod.sandbox.shim);
    wait_for_end(&infra);
    let gone = pod.shims.dial(&pod.uid, 8080).await.unwrap_err();
    assert!(matches!(gone, StreamError::NotRunning(_)), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_the_hosts_network_is_joined_and_reached_there() {
    let mut sandbox = Sandbox::with(|config| config.host_network = true);
    let mut spec = sandbox.spec("web", 0, &["sleep", "100000"]);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "network" && n["type"] != "uts");
    assert_eq!(sandbox.start_spec("web", 0, &spec), Reply::Done);
    let mut pod = Pod::of(sandbox);
    for name in ["net", "uts"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let own = pod.run(&["readlink", &format!("/proc/self/ns/{name}")]).await.1;
        assert_eq!(own.trim(), host.to_str().unwrap());
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = std::net::TcpListener::bind(address).unwrap();
        let here = listener.local_addr().unwrap();
        let stream = in_time(pod.shims.dial(&pod.uid, here.port())).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), here);
    }
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_age_is_answered() {
    use std::io::{Read, Write};
    let mut pod = Pod::sleeping();
    // An older agent hears its own protocol.
    let mut socket = client::connect(&pod.sandbox.dir).unwrap();
    let hello = Request {
        id: 0,
        body: RequestBody::Hello { protocol: 1 },
    };
    socket.write_all(&frame::encode(&hello).unwrap()).unwrap();
    // A newer one asks for what this shim does not know.
    let unknown = json!({"id": 7, "body": {"Checkpoint": {"to": "/x"}}});
    socket.write_all(&frame::encode(&unknown).unwrap()).unwrap();
    let (mut decoder, mut buffer, mut said) = (Decoder::default(), [0; 4096], Vec::new());
    while said.len() < 3 {
        let length = socket.read(&mut buffer).unwrap();
        assert_ne!(length, 0);
        decoder.push(&buffer[..length]);
        while let Some(message) = decoder.message::<FromShim>().unwrap() {
            said.push(message);
        }
    }
    assert!(matches!(said[0], FromShim::Hello { protocol: 1, .. }), "{said:?}");
    let FromShim::Reply {
        id: 7,
        result: Reply::Refused(message),
    } = &said[2]
    else {
        panic!("{said:?}")
    };
    assert!(
        message.starts_with(&format!(
            "this shim speaks protocol {PROTOCOL} and does not know the request"
        )),
        "{message}"
    );
    pod.sandbox.stop();
}
