//! What agent and shim say to each other, and what the shim writes down.
//!
//! These formats outlive an upgrade of the agent: fields are only ever added, with a default, and a change of meaning
//! takes a new [`PROTOCOL`]. Nothing here knows `model`.
//!
//! Both ends say in their `Hello` what they speak, and then speak the lower of the two: a shim of an older podd gets no
//! request that it does not know, and one that comes all the same is answered with `Refused` (a shim of protocol 1 closes
//! the connection instead).
//!
//! On the wire each message is a little-endian u32 length and that many bytes of JSON, over a unix stream socket.
//! In the journal each [`Entry`] is one line of JSON, appended with a single write(2).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of everything in this file. 2 added sessions: `Exec`, `Attach`, `Resize`, `Ended`, `CutOff`; 3 added
/// `Ahead`.
pub const PROTOCOL: u32 = 3;
/// The first version with sessions.
pub const SESSIONS: u32 = 2;

/// Names inside a sandbox directory (`RUN_DIR/pods/<uid>/<attempt>/`).
pub const SOCKET: &str = "shim.sock";
/// Held with `fcntl(F_SETLK)` by the shim for as long as it lives: whoever finds it free knows that the shim is dead.
pub const LOCK: &str = "lock";
pub const JOURNAL: &str = "journal";

/// Agent to zygote (the process that shims are forked from): make a shim for this sandbox.
///
/// Sent with one `SCM_RIGHTS` descriptor: the shim's end of its first connection with the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// The sandbox directory, which exists and is empty.
    pub dir: PathBuf,
    pub sandbox: SandboxConfig,
}

/// Zygote to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Spawned {
    Pid(i32),
    Failed(String),
}

/// How to make a sandbox: the infra process and its namespaces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub protocol: u32,
    pub uid: String,
    pub attempt: u32,
    /// From `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What sethostname(2) gets; ignored with the host's network.
    pub hostname: String,
    /// Infra keeps the host's network (and uts) namespace.
    pub host_network: bool,
    /// Containers join infra's pid namespace instead of having one each.
    pub share_pid: bool,
    /// Infra and the containers stay in the host's pid namespace.
    #[serde(default)]
    pub host_pid: bool,
    /// In the host's IPC namespace.
    #[serde(default)]
    pub host_ipc: bool,
    /// Kernel parameters that infra sets in its namespaces, in this order: names with slashes (`net/ipv4/...`).
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// The pod's cgroup, relative to each hierarchy's root: `podd/burstable/pod<uid>`. The shim makes it, with the
    /// limits below, and `infra` beneath it for the infra process.
    pub cgroup: String,
    /// Sum of the containers' limits where every container has one (Kubernetes `cm/helpers_linux.go ResourceConfigForPod`).
    pub resources: PodResources,
    pub oom_score_adj: i32,
    /// The value of the `log` size at which a file is rotated, in bytes, and how many files are kept in all.
    pub log_max_size: u64,
    pub log_max_files: u32,
    /// Who makes the containers of this sandbox; `None`: the shim itself.
    #[serde(default)]
    pub runtime: Option<OciRuntime>,
    /// The sandbox has a user namespace of its own, to which its other namespaces belong.
    #[serde(default)]
    pub users: Option<Users>,
}

/// The ids of a sandbox's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The machine's ids from here on are the namespace's from 0 on, users and groups alike.
    pub first: u32,
    pub count: u32,
    /// Directories whose file systems must be able to show their files as the namespace counts; else there is no sandbox.
    pub mapped: Vec<PathBuf>,
}

/// A program with the command line of an OCI runtime: `create`, `start`, `kill`, `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// What it is called where a pod asks for it.
    pub handler: String,
    /// An absolute path.
    pub path: PathBuf,
    /// Before the command.
    pub arguments: Vec<String>,
    /// Its containers are processes of this machine's kernel in namespaces, as the shim's own are: they can be joined and
    /// signalled from outside.
    pub plain: bool,
}

/// Limits of the pod's own cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of cpu time in each period of 100 ms.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages, by the size of a page as the kernel's files have it (`2MB`).
    #[serde(default)]
    pub hugepages: BTreeMap<String, i64>,
}

/// Agent to shim. Every request but `Hello` gets exactly one [`Reply`] with the same `id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub body: RequestBody,
}

/// A [`Request`] whose body is not understood yet.
#[derive(Debug, Deserialize)]
pub struct RawRequest {
    pub id: u64,
    pub body: Box<serde_json::value::RawValue>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RequestBody {
    /// First on every connection.
    Hello { protocol: u32 },
    /// Start this attempt of a container. Answered `Done` when the process runs, and also when this attempt is known
    /// already (whatever became of it); `Refused` when an older attempt of the same container still lives or the
    /// infra process is dead; `Failed` when it could not be executed (which is also in the journal).
    Start(Box<StartContainer>),
    /// What the next start of this container will most likely be: its process is made ready, but its program is not
    /// executed, when the attempt that lives now has ended, or at once when none lives. Answered `Done` before anything is
    /// made; nothing is written down of it.
    Ahead(Box<Ahead>),
    /// Send a signal to the container's first process; with `all`, SIGKILL to everything in the container. The first
    /// time for each (attempt, signal) is written down; a second one is sent again. `Done` also when it has ended.
    Signal {
        container: String,
        attempt: u32,
        signal: i32,
        all: bool,
    },
    /// Kill every container and infra, write down their ends, remove the cgroups, answer `Done`, exit.
    Stop,
    /// Run a program in a container that runs. A session: it has a connection of its own, and when that closes, the
    /// program and everything it has started is killed, unless it has ended by itself. The request comes with
    /// descriptors (`SCM_RIGHTS`, with a byte of the request or before it). Answered `Done` when the program runs,
    /// `Failed` when it could not be executed, `Refused` when the container does not run; later comes
    /// [`FromShim::Ended`].
    Exec(Box<Exec>),
    /// Be at the output, and the input, of a container that runs. A session too; nothing happens to the container when
    /// it closes, but for `stdinOnce`. Answered [`Reply::Attached`], `Failed`, or `Refused` when the container does not
    /// run; later comes [`FromShim::Ended`] or
    /// [`FromShim::CutOff`].
    Attach(Attach),
    /// In a session with `Attach`: the size of the container's terminal.
    Resize { width: u16, height: u16 },
}

/// A program to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub container: String,
    /// Looked up in the container's `PATH`, and its arguments.
    pub command: Vec<String>,
    pub streams: ExecStreams,
}

/// Which descriptors come with an [`Exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecStreams {
    /// In this order those that are true; the others are /dev/null.
    Files { stdin: bool, stdout: bool, stderr: bool },
    /// One, a socket: the master of the program's terminal is sent over it.
    Terminal { width: u16, height: u16 },
}

/// Where a container's streams go. The descriptors are those of the streams that are true, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub container: String,
    /// A pipe to read the container's input from.
    pub stdin: bool,
    /// A pipe to write its output to. Who does not read it holds the container up, but not for long: see `CutOff`.
    pub stdout: bool,
    pub stderr: bool,
}

/// What is likely to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    pub start: StartContainer,
    /// Whether it comes also when the attempt before it ends with code 0.
    pub after_success: bool,
}

/// A container to start: an OCI runtime spec (config.json) and what that has no words for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartContainer {
    pub container: String,
    pub attempt: u32,
    /// The OCI runtime spec (1.2). `linux.namespaces`: a namespace with a path `/proc/<infra>/ns/...` is joined, one
    /// without a path is made. `linux.cgroupsPath` is absolute from each hierarchy's root.
    pub spec: PathBuf,
    pub rootfs: Overlay,
    /// For mounts whose `destination` is here: the relative path beneath the mount's source, resolved without ever
    /// leaving it (openat2 `RESOLVE_BENEATH`), made as a directory (0750, Kubernetes subpath) if nothing is there.
    pub sub_paths: Vec<SubPath>,
    /// The log file, CRI format. Its directory is made if it is not there.
    pub log: PathBuf,
    /// Keep stdin open (a pipe, or the terminal's); else /dev/null.
    pub stdin: bool,
    /// The first session that was attached to stdin closes it for good when it ends.
    #[serde(default)]
    pub stdin_once: bool,
    /// The container whose pid namespace the spec names by the path `/proc/<pid>/ns/pid`: nothing is started unless that
    /// is its first process. A shim that does not know this field joins whatever has that pid.
    #[serde(default)]
    pub target: Option<String>,
}

/// The container's root: mounted by the container itself, inside its own mount namespace, so that the host never has
/// a mount to lose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Topmost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An existing directory to mount on.
    pub target: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubPath {
    pub destination: PathBuf,
    pub path: PathBuf,
}

/// Shim to agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromShim {
    /// Answer to `Hello`.
    Hello {
        protocol: u32,
        pid: i32,
    },
    Reply {
        id: u64,
        result: Reply,
    },
    /// Something was appended to the journal, which is now this long. A hint without data.
    Journal {
        length: u64,
    },
    /// To a session: its program, or the container it is attached to, has ended.
    Ended {
        status: WaitStatus,
    },
    /// To a session that is attached: it is not any more, and this is why.
    CutOff {
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Refused(String),
    Failed(String),
    /// To `Attach`: whether the container has an input that is still open, and a terminal.
    Attached {
        stdin: bool,
        tty: bool,
    },
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Nanoseconds since the epoch (`CLOCK_REALTIME`).
    pub at: i64,
    pub fact: Fact,
}

/// What happened. Written before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// Always first.
    Shim {
        protocol: u32,
        pid: i32,
        boot_id: String,
    },
    /// `start_time`: field 22 of /proc/<pid>/stat, so that (pid, start time, boot id) names the process.
    InfraStarted {
        pid: i32,
        start_time: u64,
    },
    /// Making infra failed; the shim exits after this.
    InfraFailed {
        message: String,
    },
    InfraExited {
        status: WaitStatus,
    },
    /// About to be started: written before the process is made.
    Starting {
        container: String,
        attempt: u32,
    },
    Started {
        container: String,
        attempt: u32,
        pid: i32,
        start_time: u64,
    },
    StartFailed {
        container: String,
        attempt: u32,
        message: String,
    },
    Signalled {
        container: String,
        attempt: u32,
        signal: i32,
    },
    Exited {
        container: String,
        attempt: u32,
        status: WaitStatus,
        oom_killed: bool,
    },
    /// This much output could not be written and is gone (disk full).
    LogLost {
        container: String,
        attempt: u32,
        bytes: u64,
    },
}

/// As waitid(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitStatus {
    Code(i32),
    Signal(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_of_an_older_agent_is_understood() {
        let text = r#"{"id": 3, "body": {"Start": {"container": "web", "attempt": 0, "spec": "/c", "rootfs":
            {"lower": ["/l"], "upper": "/u", "work": "/w", "target": "/t"}, "sub_paths": [], "log": "/log", "stdin": true}}}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        let RequestBody::Start(start) = request.body else {
            panic!("{request:?}")
        };
        assert!(start.stdin && !start.stdin_once && start.target.is_none());
    }
}
