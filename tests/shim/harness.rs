//! A zygote, a sandbox, and what is asked of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use podd::shim::client::{self, Zygote};
use podd::shim::frame::{self, Decoder};
use podd::shim::journal;
use podd::shim::protocol::{
    Entry, Fact, FromShim, JOURNAL, Overlay, PROTOCOL, PodResources, Reply, Request, RequestBody, SandboxConfig, Spawn,
    StartContainer, SubPath, WaitStatus,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

/// Longer than anything here takes on a loaded machine; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn start_zygote() -> Zygote {
    Zygote::start(Path::new(env!("CARGO_BIN_EXE_podd"))).unwrap()
}

/// One sandbox with its shim, and the agent's connection with it.
pub(crate) struct Sandbox {
    pub(crate) home: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) config: SandboxConfig,
    pub(crate) shim: i32,
    pub(crate) infra: i32,
    pub(crate) connection: Connection,
    zygote: Option<Zygote>,
    cgroup_root: String,
    layer: PathBuf,
}

pub(crate) struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    next: u64,
    replies: BTreeMap<u64, Reply>,
    pub(crate) hello: Option<(u32, i32)>,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            decoder: Decoder::default(),
            next: 1,
            replies: BTreeMap::new(),
            hello: None,
        }
    }

    pub(crate) fn greet(&mut self) {
        self.post(RequestBody::Hello { protocol: PROTOCOL });
        while self.hello.is_none() {
            assert!(self.hear(), "the shim closed the connection");
        }
    }

    /// Send a request without waiting; returns its id.
    pub(crate) fn post(&mut self, body: RequestBody) -> u64 {
        let id = self.next;
        self.next += 1;
        self.socket
            .write_all(&frame::encode(&Request { id, body }).unwrap())
            .unwrap();
        id
    }

    pub(crate) fn answer(&mut self, id: u64) -> Reply {
        loop {
            if let Some(reply) = self.replies.remove(&id) {
                return reply;
            }
            assert!(self.hear(), "the shim closed the connection");
        }
    }

    pub(crate) fn ask(&mut self, body: RequestBody) -> Reply {
        let id = self.post(body);
        self.answer(id)
    }

    /// Wait for one message, whichever it is. `false`: the other end is closed.
    pub(crate) fn hear(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.message::<FromShim>().unwrap() {
                match message {
                    FromShim::Hello { protocol, pid } => self.hello = Some((protocol, pid)),
                    FromShim::Reply { id, result } => assert_eq!(self.replies.insert(id, result), None),
                    FromShim::Journal { .. } | FromShim::Ended { .. } | FromShim::CutOff { .. } => {}
                }
                return true;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(error) => panic!("nothing was heard from the shim for {PATIENCE:?}: {error}"),
            }
        }
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A root file system with busybox and its names, as one layer.
fn make_layer(at: &Path) {
    for directory in ["bin", "etc", "proc", "dev", "sys", "tmp", "var"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", at.join("bin/busybox")).unwrap();
    let names = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(names)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    fs::write(
        at.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
    )
    .unwrap();
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let mut zygote = start_zygote();
        let mut sandbox = Self::from(&mut zygote, change);
        sandbox.zygote = Some(zygote);
        sandbox
    }

    pub(crate) fn from(zygote: &mut Zygote, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("run/pods/uid/0");
        fs::create_dir_all(&dir).unwrap();
        let layer = home.path().join("layer");
        make_layer(&layer);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup_root = format!("podd-test-{}-{number}", std::process::id());
        let mut config = SandboxConfig {
            host_pid: false,
            host_ipc: false,
            sysctls: Vec::new(),
            protocol: PROTOCOL,
            uid: "uid".to_owned(),
            attempt: 0,
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .unwrap()
                .trim()
                .to_owned(),
            hostname: "web-0".to_owned(),
            host_network: false,
            share_pid: false,
            cgroup: format!("{cgroup_root}/burstable/poduid"),
            resources: PodResources::default(),
            oom_score_adj: -998,
            log_max_size: 10 << 20,
            log_max_files: 5,
            runtime: None,
            users: None,
        };
        change(&mut config);
        let (shim, socket) = zygote
            .spawn(&Spawn {
                dir: dir.clone(),
                sandbox: config.clone(),
            })
            .unwrap();
        let mut connection = Connection::new(socket);
        connection.greet();
        let mut sandbox = Self {
            home,
            dir,
            config,
            shim,
            infra: 0,
            connection,
            zygote: None,
            cgroup_root,
            layer,
        };
        sandbox.infra = sandbox.wait(|facts| {
            facts.iter().find_map(|fact| match fact {
                Fact::InfraStarted { pid, .. } => Some(*pid),
                _ => None,
            })
        });
        sandbox
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let begin = Instant::now();
        loop {
            let bytes = fs::read(self.dir.join(JOURNAL)).unwrap();
            let (entries, consumed) = journal::read(&bytes).unwrap();
            if consumed == bytes.len() {
                return entries;
            }
            // A line that crosses a page is seen in two parts by who reads in the middle of its write(2).
            let rest = String::from_utf8_lossy(&bytes[consumed..]);
            assert!(begin.elapsed().as_secs() < 10, "a part of a line stays: {rest}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.entries().into_iter().map(|entry| entry.fact).collect()
    }

    /// Look at the journal, and again after each message of the shim, until there is an answer.
    pub(crate) fn wait<T>(&mut self, look: impl Fn(&[Fact]) -> Option<T>) -> T {
        loop {
            if let Some(found) = look(&self.facts()) {
                return found;
            }
            assert!(
                self.connection.hear(),
                "the shim ended; its journal: {:#?}",
                self.facts()
            );
        }
    }

    pub(crate) fn log_path(&self, container: &str, attempt: u32) -> PathBuf {
        self.home
            .path()
            .join(format!("log/ns_pod_uid/{container}/{attempt}.log"))
    }

    /// The container's cgroup, relative to a hierarchy.
    pub(crate) fn cgroup_of(&self, container: &str, attempt: u32) -> String {
        format!("{}/{container}-{attempt}", self.config.cgroup)
    }

    /// A spec much as the agent writes them.
    pub(crate) fn spec(&self, container: &str, attempt: u32, args: &[&str]) -> Value {
        let infra = self.infra;
        let mut namespaces = vec![
            json!({"type": "mount"}),
            json!({"type": "cgroup"}),
            json!({"type": "ipc", "path": format!("/proc/{infra}/ns/ipc")}),
            json!({"type": "uts", "path": format!("/proc/{infra}/ns/uts")}),
            json!({"type": "network", "path": format!("/proc/{infra}/ns/net")}),
        ];
        namespaces.push(if self.config.share_pid {
            json!({"type": "pid", "path": format!("/proc/{infra}/ns/pid")})
        } else {
            json!({"type": "pid"})
        });
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_KILL",
            "CAP_MKNOD",
            "CAP_NET_BIND_SERVICE",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETPCAP",
            "CAP_SETFCAP",
            "CAP_SYS_CHROOT",
        ];
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/usr/local/bin:/bin"],
                "cwd": "/",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": true,
                "oomScoreAdj": 500,
            },
            "root": {"path": "rootfs", "readonly": false},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                    "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            ],
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": format!("/{}", self.cgroup_of(container, attempt)),
                "resources": {},
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    /// The request for a spec, with everything it names made.
    pub(crate) fn start_of(&self, container: &str, attempt: u32, spec: &Value) -> StartContainer {
        let bundle = self.dir.join(format!("{container}-{attempt}"));
        let state = self.home.path().join(format!("state/{container}/{attempt}"));
        let (upper, work, target) = (state.join("upper"), state.join("work"), bundle.join("rootfs"));
        for directory in [&upper, &work, &target] {
            fs::create_dir_all(directory).unwrap();
        }
        let config = bundle.join("config.json");
        fs::write(&config, serde_json::to_vec(spec).unwrap()).unwrap();
        StartContainer {
            container: container.to_owned(),
            attempt,
            spec: config,
            rootfs: Overlay {
                lower: vec![self.layer.clone()],
                upper,
                work,
                target,
            },
            sub_paths: Vec::new(),
            log: self.log_path(container, attempt),
            stdin: false,
            stdin_once: false,
            target: None,
        }
    }

    pub(crate) fn start(&mut self, container: &str, attempt: u32, args: &[&str]) -> Reply {
        let spec = self.spec(container, attempt, args);
        self.start_spec(container, attempt, &spec)
    }

    pub(crate) fn start_spec(&mut self, container: &str, attempt: u32, spec: &Value) -> Reply {
        let start = self.start_of(container, attempt, spec);
        self.connection.ask(RequestBody::Start(Box::new(start)))
    }

    pub(crate) fn start_with_sub_path(&mut self, spec: &Value, destination: &str, path: &str) -> Reply {
        let mut start = self.start_of("web", 0, spec);
        start.sub_paths = vec![SubPath {
            destination: destination.into(),
            path: path.into(),
        }];
        self.connection.ask(RequestBody::Start(Box::new(start)))
    }

    pub(crate) fn exited(&mut self, container: &str, attempt: u32) -> WaitStatus {
        self.wait(|facts| exit_of(facts, container, attempt))
    }

    /// Run a command to its end; its exit and the text it wrote to stdout.
    pub(crate) fn run_spec(&mut self, container: &str, spec: &Value) -> (WaitStatus, String) {
        assert_eq!(self.start_spec(container, 0, spec), Reply::Done);
        let status = self.exited(container, 0);
        (status, self.output(container, 0, "stdout"))
    }

    pub(crate) fn run(&mut self, container: &str, script: &str) -> String {
        let spec = self.spec(container, 0, &["/bin/sh", "-c", script]);
        let (status, output) = self.run_spec(container, &spec);
        let errors = self.output(container, 0, "stderr");
        assert_eq!(status, WaitStatus::Code(0), "{script}: {output} {errors}");
        output
    }

    /// What the container wrote, byte for byte, from the log.
    pub(crate) fn output(&self, container: &str, attempt: u32, stream: &str) -> String {
        let text = fs::read_to_string(self.log_path(container, attempt)).unwrap_or_default();
        let mut output = String::new();
        for line in text.split_terminator('\n') {
            let mut fields = line.splitn(4, ' ').skip(1);
            let (name, tag, text) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
            if name == stream {
                output.push_str(text);
                if tag == "F" {
                    output.push('\n');
                }
            }
        }
        output
    }

    pub(crate) fn pid_of(&self, container: &str, attempt: u32) -> i32 {
        let started = self.facts().into_iter().find_map(|fact| match fact {
            Fact::Started {
                container: c,
                attempt: a,
                pid,
                ..
            } if c == container && a == attempt => Some(pid),
            _ => None,
        });
        started.expect("it has started")
    }

    pub(crate) fn signal(&mut self, container: &str, attempt: u32, signal: i32, all: bool) -> Reply {
        self.connection.ask(RequestBody::Signal {
            container: container.to_owned(),
            attempt,
            signal,
            all,
        })
    }

    /// Stop, and see that nothing is left.
    pub(crate) fn stop(&mut self) {
        let shim = pidfd(self.shim);
        assert_eq!(self.connection.ask(RequestBody::Stop), Reply::Done);
        wait_for_end(&shim);
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert_eq!(client::shim_of(&self.dir).unwrap(), podd::linux::lock::Holder::Free);
    }

    /// Directories of this sandbox in any hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let pod = &self.config.cgroup;
        hierarchies()
            .into_iter()
            .map(|h| h.join(pod))
            .filter(|path| path.exists())
            .collect()
    }
}

fn hierarchies() -> Vec<PathBuf> {
    fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.is_dir())
        .collect()
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The shim goes, and with it everything that dies with it; then what tests left of cgroups.
        if let Ok(podd::linux::lock::Holder::Pid(pid)) = client::shim_of(&self.dir)
            && let Some(shim) = try_pidfd(pid)
        {
            // A test that failed may leave anything: nothing here fails a second time.
            let _sent = rustix::process::pidfd_send_signal(&shim, rustix::process::Signal::TERM);
            let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
            let _ended = poll(&mut [PollFd::new(&shim, PollFlags::IN)], Some(&timeout));
        }
        for hierarchy in hierarchies() {
            remove_cgroups(&hierarchy.join(&self.cgroup_root));
        }
    }
}

fn remove_cgroups(at: &Path) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _busy = fs::remove_dir(at);
}

pub(crate) fn exit_of(facts: &[Fact], container: &str, attempt: u32) -> Option<WaitStatus> {
    facts.iter().find_map(|fact| match fact {
        Fact::Exited {
            container: c,
            attempt: a,
            status,
            ..
        } if c == container && *a == attempt => Some(*status),
        _ => None,
    })
}

/// A descriptor of a process that lives now; `None` if it has ended already.
pub(crate) fn try_pidfd(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).ok()
}

pub(crate) fn pidfd(pid: i32) -> OwnedFd {
    try_pidfd(pid).expect("the process lives")
}

pub(crate) fn wait_for_end(process: &OwnedFd) {
    let timeout = Timespec { tv_sec: 30, tv_nsec: 0 };
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&timeout)).unwrap(), 1, "the process did not end");
}

pub(crate) fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

/// The lines of /proc/<pid>/status that begin with these words.
pub(crate) fn status_field(text: &str, field: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{field}:")))
        .expect("the field is there");
    line.split_once(':').unwrap().1.trim().to_owned()
}
