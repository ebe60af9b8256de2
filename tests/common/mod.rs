//! Real agents for tests: each with directories, bridge, addresses and cgroups of its own, and a look at what is left.
//!
//! **Invariant:** nothing here sleeps for the sake of time: [`wait_for`] polls a condition and prints the last state.

#![expect(dead_code, reason = "each test binary uses its own part of the harness")]
#![expect(unreachable_pub, reason = "a module shared by test binaries")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a loaded machine of two cores before a test calls it wrong. An emulated machine asks for
/// more, in seconds, by a variable: there a JVM alone wants minutes.
#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
pub fn patience() -> Duration {
    let asked = std::env::var("PODD_TEST_PATIENCE");
    asked.map_or(Duration::from_mins(1), |seconds| {
        Duration::from_secs(seconds.parse().unwrap())
    })
}

/// The image every test has: busybox, as `busybox:test`.
pub const BUSYBOX: &str = "busybox:test";

/// Poll until there is a value; panic with the last state when there is none in time.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("waited in vain for {what}; last seen: {last}"),
            Err(_) => pause(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that polls: every wait has a condition"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// A number no other test has while this process lives; resources are named after it.
#[derive(Debug)]
struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    fn take() -> Self {
        let dir = Path::new("/tmp/podd-test-slots");
        fs::create_dir_all(dir).unwrap();
        for number in 1..250 {
            let path = dir.join(number.to_string());
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .unwrap();
            if file.try_lock().is_ok() {
                return Self { number, _lock: file };
            }
        }
        panic!("no free slot");
    }
}

/// One agent and all it has on the machine.
#[derive(Debug)]
pub struct Agent {
    slot: Slot,
    /// Holds root, run and log directories.
    pub dir: PathBuf,
    child: Option<Child>,
    extra: Vec<String>,
    /// Variables of its environment, beside the test's own.
    environment: Vec<(String, String)>,
    /// Cleaned up already, or to be left alone.
    done: bool,
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub headers: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl Agent {
    /// An agent that is ready and has the busybox image.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments for `podd serve`.
    pub fn start_with(extra: &[&str]) -> Self {
        let agent = Self::start_empty(extra);
        agent.import_busybox();
        agent
    }

    /// An agent that is ready and has no image.
    pub fn start_empty(extra: &[&str]) -> Self {
        Self::start_empty_in(extra, &[])
    }

    /// The same with variables in its environment.
    pub fn start_empty_in(extra: &[&str], environment: &[(&str, &str)]) -> Self {
        let slot = Slot::take();
        let dir = PathBuf::from(format!("/tmp/podd-test-{}", slot.number));
        let mut agent = Self {
            slot,
            dir,
            child: None,
            extra: extra.iter().map(|&s| s.to_owned()).collect(),
            environment: environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            done: false,
        };
        agent.clear();
        fs::create_dir_all(&agent.dir).unwrap();
        agent.spawn();
        agent.wait_ready();
        agent
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("podd.sock")
    }
    pub fn bridge(&self) -> String {
        format!("pt{}", self.slot.number)
    }
    pub fn cgroup_root(&self) -> String {
        format!("poddtest{}", self.slot.number)
    }
    pub fn port(&self) -> u16 {
        17400 + u16::from(self.slot.number)
    }
    /// 10.77.N.0/24
    pub fn cidr(&self) -> String {
        format!("10.77.{}.0/24", self.slot.number)
    }
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.slot.number, 1)
    }
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }
    /// The agent's process.
    pub fn pid(&self) -> i32 {
        self.child
            .as_ref()
            .map(|child| i32::try_from(child.id()).unwrap())
            .expect("the agent runs")
    }

    /// The arguments this agent is served with.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--root={}", self.root().display()),
            format!("--run-dir={}", self.run_dir().display()),
            format!("--log-dir={}", self.log_dir().display()),
            format!("--listen=127.0.0.1:{}", self.port()),
            format!("--pod-cidr={}", self.cidr()),
            format!("--bridge={}", self.bridge()),
            format!("--cgroup-root={}", self.cgroup_root()),
            "--node-name=node-under-test".to_owned(),
            // How full the machine is that runs the tests is no matter of theirs.
            "--eviction-hard=".to_owned(),
        ];
        for extra in &self.extra {
            let name = extra.split('=').next().unwrap_or(extra);
            arguments.retain(|argument| argument.split('=').next() != Some(name));
            arguments.push(extra.clone());
        }
        arguments
    }

    fn spawn(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("agent.log"))
            .unwrap();
        let mut command = podd();
        command
            .args(self.arguments())
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn wait_ready(&mut self) {
        let started = Instant::now();
        while started.elapsed() < patience() {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the agent ended ({status}): {}", self.agent_log());
            }
            if self
                .try_request("GET", "/readyz", None)
                .is_ok_and(|answer| answer.code == 200)
            {
                return;
            }
            pause();
        }
        panic!("the agent does not become ready: {}", self.agent_log());
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and wait until it is gone.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        signal(i32::try_from(child.id()).unwrap(), "TERM");
        child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// The same with other arguments than those it was started with first.
    pub fn start_again_with(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&s| s.to_owned()).collect();
        self.start_again();
    }

    /// A client command of podd, on this agent's socket.
    pub fn podd(&self, arguments: &[&str]) -> Output {
        podd()
            .args(arguments)
            .env("PODD_SOCKET", self.socket())
            .output()
            .unwrap()
    }

    pub fn import_busybox(&self) {
        let file = busybox_root_tar(&self.dir);
        let output = self.podd(&["image", "import", file.to_str().unwrap(), "--name", BUSYBOX]);
        assert!(output.status.success(), "{output:?} {}", self.agent_log());
    }

    /// One request on the unix socket.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.try_request(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}: {}", self.agent_log()))
    }

    pub fn try_request(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.raw_request(method, path, "application/json", body.as_bytes())
    }

    pub fn raw_request(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(patience()))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: application/json\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse_answer(&bytes)
    }

    /// Lines of a watch, as they come.
    pub fn watch(&self, path: &str) -> impl Iterator<Item = Value> + use<> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        reader
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str(&line).ok())
    }

    pub fn create(&self, pod: &Value) -> Value {
        let answer = self.request(
            "POST",
            "/api/v1/namespaces/default/pods?fieldValidation=Strict",
            Some(pod),
        );
        assert_eq!(answer.code, 201, "{answer:?}");
        answer.json()
    }

    pub fn pod(&self, name: &str) -> Value {
        self.try_pod(name)
            .unwrap_or_else(|answer| panic!("{answer:?} {}", self.agent_log()))
    }

    pub fn try_pod(&self, name: &str) -> Result<Value, Answer> {
        let answer = self.request("GET", &format!("/api/v1/namespaces/default/pods/{name}"), None);
        if answer.code == 200 {
            Ok(answer.json())
        } else {
            Err(answer)
        }
    }

    /// Wait until the pod is as asked; the last state is printed when it never is.
    pub fn wait_pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("pod {name} {what}"), || {
            let pod = self.try_pod(name).map_err(|answer| format!("{answer:?}"))?;
            if is(&pod) {
                Ok(pod)
            } else {
                Err(format!("{:#}\n{}", pod["status"], tail(&self.agent_log())))
            }
        })
    }

    /// Wait until every container of the pod is running.
    pub fn wait_running(&self, name: &str) -> Value {
        self.wait_pod(name, "to run", |pod| {
            pod["status"]["phase"] == "Running"
                && pod["status"]["containerStatuses"]
                    .as_array()
                    .is_some_and(|all| all.iter().all(|c| c["state"]["running"].is_object()))
        })
    }

    pub fn wait_phase(&self, name: &str, phase: &str) -> Value {
        self.wait_pod(name, &format!("to be {phase}"), |pod| pod["status"]["phase"] == phase)
    }

    pub fn delete(&self, name: &str, grace: Option<u32>) {
        let query = grace
            .map(|seconds| format!("?gracePeriodSeconds={seconds}"))
            .unwrap_or_default();
        let answer = self.request(
            "DELETE",
            &format!("/api/v1/namespaces/default/pods/{name}{query}"),
            None,
        );
        assert!(
            answer.code == 200 || answer.code == 202 || answer.code == 404,
            "{answer:?}"
        );
    }

    pub fn wait_gone(&self, name: &str) {
        wait_for(&format!("pod {name} to be gone"), || match self.try_pod(name) {
            Err(answer) if answer.code == 404 => Ok(()),
            Err(answer) => Err(format!("{answer:?}")),
            Ok(pod) => Err(format!("{pod:#}\n{}", tail(&self.agent_log()))),
        });
    }

    pub fn log(&self, pod: &str, query: &str) -> String {
        let answer = self.request(
            "GET",
            &format!("/api/v1/namespaces/default/pods/{pod}/log?{query}"),
            None,
        );
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.text
    }

    /// Wait until the container's log has this text.
    pub fn wait_log(&self, pod: &str, query: &str, text: &str) -> String {
        wait_for(&format!("{text:?} in the log of {pod}"), || {
            let answer = self.request(
                "GET",
                &format!("/api/v1/namespaces/default/pods/{pod}/log?{query}"),
                None,
            );
            if answer.code == 200 && answer.text.contains(text) {
                Ok(answer.text)
            } else {
                Err(format!("{answer:?}"))
            }
        })
    }

    /// The directory of a pod's newest sandbox.
    pub fn sandbox_dir(&self, uid: &str) -> PathBuf {
        let pod = self.run_dir().join("pods").join(uid);
        let newest = fs::read_dir(&pod)
            .unwrap_or_else(|error| panic!("{}: {error}", pod.display()))
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
            .max()
            .expect("the pod has a sandbox");
        pod.join(newest.to_string())
    }

    /// The lines of a pod's newest journal, in order: facts, each with its time. One that is being written is no line yet.
    pub fn entries(&self, uid: &str) -> Vec<Value> {
        fs::read_to_string(self.sandbox_dir(uid).join("journal"))
            .unwrap()
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The facts of a pod's newest journal, in order.
    pub fn journal(&self, uid: &str) -> Vec<Value> {
        self.entries(uid).iter().map(|entry| entry["fact"].clone()).collect()
    }

    pub fn infra_pid(&self, uid: &str) -> i32 {
        self.pid_of_fact(uid, |fact| fact.get("InfraStarted").cloned())
    }

    pub fn shim_pid(&self, uid: &str) -> i32 {
        self.pid_of_fact(uid, |fact| fact.get("Shim").cloned())
    }

    /// The first process of a container's newest attempt.
    pub fn container_pid(&self, uid: &str, container: &str) -> i32 {
        self.pid_of_fact(uid, |fact| {
            fact.get("Started").filter(|f| f["container"] == container).cloned()
        })
    }

    fn pid_of_fact(&self, uid: &str, find: impl Fn(&Value) -> Option<Value>) -> i32 {
        let journal = self.journal(uid);
        let fact = journal
            .iter()
            .rev()
            .find_map(find)
            .unwrap_or_else(|| panic!("no such fact in {journal:?}"));
        i32::try_from(fact["pid"].as_i64().unwrap()).unwrap()
    }

    /// Everything that this agent's pods have on the machine; empty when nothing is left.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let dir = self.dir.to_str().unwrap();
        let cgroup = format!("/{}", self.cgroup_root());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if groups.contains(&cgroup) {
                left.push(format!(
                    "process {name} {:?}",
                    fs::read_to_string(entry.path().join("comm"))
                ));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            if line.contains(&format!(" {dir}/")) {
                left.push(format!("mount {line}"));
            }
        }
        let links = Command::new("ip")
            .args(["-o", "link", "show", "master", &self.bridge()])
            .output()
            .unwrap();
        for line in String::from_utf8_lossy(&links.stdout).lines() {
            left.push(format!("link {line}"));
        }
        for (name, kind) in [("root/pods", "state"), ("run/pods", "run"), ("log", "log")] {
            if let Ok(entries) = fs::read_dir(self.dir.join(name)) {
                left.extend(
                    entries
                        .flatten()
                        .map(|entry| format!("{kind} directory {}", entry.path().display())),
                );
            }
        }
        for path in cgroup_directories(&self.cgroup_root()) {
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("pod"))
                && !path.ends_with(self.cgroup_root())
            {
                left.push(format!("cgroup {}", path.display()));
            }
        }
        left
    }

    /// Wait until nothing of any pod is left on the machine (links go a moment after their namespace).
    pub fn wait_no_leftovers(&self) {
        wait_for("nothing to be left", || {
            let left = self.leftovers();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    /// Remove whatever an earlier run under this slot left.
    fn clear(&self) {
        for path in cgroup_directories(&self.cgroup_root()) {
            for _ in 0..100 {
                let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                if pids.is_empty() {
                    break;
                }
                for pid in pids.lines() {
                    signal(pid.parse().unwrap(), "KILL");
                }
                pause();
            }
            let _ = fs::remove_dir(path);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines().rev() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            if point.starts_with(&format!("{}/", self.dir.display())) {
                let _ = Command::new("umount").args(["-l", point]).output();
            }
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge()]).output();
        let tables = Command::new("nft")
            .args(["list", "tables"])
            .output()
            .map(|o| o.stdout)
            .unwrap_or_default();
        for line in String::from_utf8_lossy(&tables).lines() {
            let mut words = line.split_whitespace().skip(1);
            if let (Some(family), Some(table)) = (words.next(), words.next())
                && table.ends_with(&self.bridge())
            {
                let _ = Command::new("nft").args(["delete", "table", family, table]).output();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the agent's log ---\n{}", tail(&self.agent_log()));
        }
        // Shims outlive their agent by design: end those of this test by their pids.
        for pid in pids_under(&self.run_dir()) {
            signal(pid, "KILL");
        }
        self.clear();
    }
}

/// Pids of shims that hold a lock beneath a run directory, as their journals name them.
fn pids_under(run_dir: &Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for pod in fs::read_dir(run_dir.join("pods")).into_iter().flatten().flatten() {
        for sandbox in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(sandbox.path().join("journal")).unwrap_or_default();
            let first: Value = text
                .lines()
                .next()
                .and_then(|l| serde_json::from_str(l).ok())
                .unwrap_or_default();
            if let Some(pid) = first["fact"]["Shim"]["pid"].as_i64() {
                let pid = i32::try_from(pid).unwrap();
                // Only a process of podd's: the pid may be another's by now.
                if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().contains("podd")) {
                    pids.push(pid);
                }
            }
        }
    }
    pids
}

/// A cgroup and all beneath it in every hierarchy, deepest first.
fn cgroup_directories(root: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), into);
            }
        }
        if path.is_dir() {
            into.push(path.to_owned());
        }
    }
    let mut all = Vec::new();
    walk(&Path::new("/sys/fs/cgroup").join(root), &mut all);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        walk(&hierarchy.path().join(root), &mut all);
    }
    all
}

fn parse_answer(bytes: &[u8]) -> io::Result<Answer> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(bytes).into_owned());
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(invalid)?;
    let headers = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let code = headers
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(invalid)?;
    let body = &bytes[end + 4..];
    let body = if headers.to_lowercase().contains("transfer-encoding: chunked") {
        dechunk(body)
    } else {
        body.to_vec()
    };
    Ok(Answer {
        code,
        headers,
        text: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&body[..end]), 16).unwrap_or(0);
        if size == 0 || body.len() < end + 2 + size {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[(end + 4 + size).min(body.len())..];
    }
    whole
}

/// The real binary.
pub fn podd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_podd"))
}

pub fn signal(pid: i32, name: &str) {
    let _ = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .output();
}

/// Wait until a process is gone.
pub fn wait_dead(pid: i32) {
    wait_for(&format!("process {pid} to be gone"), || {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => Ok(()),
            Ok(stat) => Err(stat),
        }
    });
}

/// A pod as JSON: containers are (name, shell script).
pub fn pod(name: &str, containers: &[(&str, &str)]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, script)| {
            json!({
                "name": name,
                "image": BUSYBOX,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script],
            })
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": { "containers": containers, "terminationGracePeriodSeconds": 5 },
    })
}

/// Change a value in place and give it back.
pub fn with(mut value: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut value);
    value
}

pub fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().expect("a pod has a uid").to_owned()
}

/// The status of one container; null while there is none.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    pod["status"]["containerStatuses"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == name))
        .unwrap_or(&NONE)
}

/// A plain root file system: busybox and a link for each of its applets.
pub fn busybox_root_tar(dir: &Path) -> PathBuf {
    let path = dir.join("busybox.tar");
    let binary = fs::read("/bin/busybox").expect("busybox-static is installed");
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    let mut tar = tar::Builder::new(File::create(&path).unwrap());
    let mut header = tar::Header::new_gnu();
    for directory in ["bin/", "etc/", "tmp/", "root/", "proc/", "sys/", "dev/", "var/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        header.set_mtime(1);
        tar.append_data(&mut header, directory, io::empty()).unwrap();
    }
    let mut file = |name: &str, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(u64::try_from(data.len()).unwrap());
        header.set_mtime(1);
        tar.append_data(&mut header, name, data).unwrap();
    };
    file("bin/busybox", 0o755, &binary);
    file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n",
    );
    file("etc/group", 0o644, b"root:x:0:\nalice:x:1000:\nextra:x:2000:alice\n");
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mtime(1);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    tar.finish().unwrap();
    path
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
