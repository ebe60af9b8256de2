//! Containers made by an OCI runtime's command line: `runc`, `crun` and what is called like them.
//!
//! Goes in: a container to start, the runtime. Comes out: commands of the runtime as children of the shim, and their ends
//! told apart.
//!
//! ```text
//! shim ── fork ──> runtime create ── fork ──> the container's first process, which waits
//!   │                    └─ ends: that process is the shim's child now (it is a subreaper); its pid is in a file
//!   └──── fork ──> runtime start: the process becomes the program
//!   └──── fork ──> runtime delete --force, when it has ended
//! ```
//!
//! The bundle is made from the spec as the agent wrote it; state, bundle and the runtime's own log lie in the attempt's
//! directory and go with it. Root and sub paths are mounted for the runtime alone: see [`crate::linux::command`].
//!
//! **Invariant:** nothing here waits for a command: its end is heard like that of every child, and one that takes too long
//! is killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::protocol::{OciRuntime, Overlay, SubPath, WaitStatus};
use super::supervisor::SIGKILL;
use crate::linux::command::{self, Bind, RootMount, Run, Spawned, View};
use crate::linux::container::{Machine, Streams};
use crate::linux::{fd, process, unix};

/// How long a command may take. The agent waits a little longer for the answer.
const PATIENCE: Duration = Duration::from_secs(45);
/// Where the hierarchies are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Names in the attempt's directory.
const BUNDLE: &str = "bundle";
const STATE: &str = "oci";
const PARTS: &str = "parts";
/// Names in the bundle.
const CONSOLE: &str = "console.sock";
const PID: &str = "pid";
const LOG: &str = "log";
/// Nothing of a later version is used, and older runtimes refuse to read one.
const OCI_VERSION: &str = "1.0.2";
/// Of the runtime's own log, this much of its end is read.
const LOG_TAIL: usize = 16 * 1024;

/// What a runtime needs to be told of one container.
#[derive(Debug, Clone)]
pub(super) struct Place {
    runtime: OciRuntime,
    /// The attempt's directory.
    directory: PathBuf,
    /// The container's name for the runtime.
    id: String,
}

/// A container on its way that no process stands for yet.
#[derive(Debug)]
pub(super) struct Creating {
    spawned: Spawned,
    deadline: Instant,
    console: Option<UnixListener>,
}

/// What came of `create`.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) pid: i32,
    /// The master of its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Commands other than `create` that run.
#[derive(Debug, Default)]
pub(super) struct Commands {
    running: BTreeMap<i32, Command>,
}

#[derive(Debug)]
struct Command {
    purpose: Purpose,
    spawned: Spawned,
    place: Place,
    deadline: Instant,
}

/// What a command was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The program of the container whose first process this is.
    Start { first: i32 },
    /// Whatever comes of it.
    Other,
}

/// A command could not be run, or did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("cannot make the bundle {}", path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run {}", path.display())]
    Run {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{handler} {command}: {message}")]
    Failed {
        handler: String,
        command: &'static str,
        message: String,
    },
}

impl Place {
    pub(super) fn new(runtime: &OciRuntime, spec: &Path, container: &str, attempt: u32) -> Self {
        Self {
            runtime: runtime.clone(),
            directory: spec.parent().unwrap_or(Path::new("/")).to_owned(),
            id: format!("{container}-{attempt}"),
        }
    }

    /// See [`OciRuntime::plain`].
    pub(super) fn is_plain(&self) -> bool {
        self.runtime.plain
    }

    pub(super) fn handler(&self) -> &str {
        &self.runtime.handler
    }

    fn bundle(&self) -> PathBuf {
        self.directory.join(BUNDLE)
    }

    /// Make the container, up to where its first process waits. What becomes of it is told by the end of the command.
    pub(super) fn create(
        &self,
        spec: Spec,
        rootfs: &Overlay,
        sub_paths: Vec<SubPath>,
        stdin: bool,
        machine: &Machine,
    ) -> Result<(Creating, Streams), CommandError> {
        let bundle = self.bundle();
        let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal) == Some(true);
        let bundled = || {
            fs::create_dir_all(&bundle)?;
            let (spec, binds) = adapted(spec, rootfs, sub_paths, &self.directory.join(PARTS), machine)?;
            fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
            let console = terminal.then(|| unix::listen(&bundle, CONSOLE)).transpose()?;
            let (ours, theirs) = if terminal {
                (Streams::default(), command::silence()?)
            } else {
                command::pipes(stdin)?
            };
            Ok((binds, console, ours, theirs))
        };
        let (binds, console, ours, theirs) = bundled().map_err(|source| CommandError::Bundle {
            path: bundle.clone(),
            source,
        })?;
        if let Some(console) = &console {
            // It connects while it creates: whoever is not there at its end never comes.
            console.set_nonblocking(true).map_err(|source| CommandError::Bundle {
                path: bundle.join(CONSOLE),
                source,
            })?;
        }
        let mut arguments: Vec<OsString> = vec!["create".into(), "--bundle".into(), bundle.clone().into()];
        arguments.extend(["--pid-file".into(), bundle.join(PID).into()]);
        if terminal {
            // Of the directory it runs in: a socket's path must be short.
            arguments.extend(["--console-socket".into(), CONSOLE.into()]);
        }
        arguments.push(self.id.clone().into());
        let root = RootMount {
            lower: &rootfs.lower,
            upper: &rootfs.upper,
            work: &rootfs.work,
            target: &rootfs.target,
        };
        let spawned = self.run(arguments, theirs, Some(root), &binds, machine)?;
        let creating = Creating {
            spawned,
            deadline: Instant::now() + PATIENCE,
            console,
        };
        Ok((creating, ours))
    }

    fn run(
        &self,
        command: Vec<OsString>,
        stdio: [OwnedFd; 3],
        root: Option<RootMount<'_>>,
        binds: &[Bind],
        machine: &Machine,
    ) -> Result<Spawned, CommandError> {
        let bundle = self.bundle();
        let mut arguments: Vec<OsString> = self.runtime.arguments.iter().map(OsString::from).collect();
        arguments.extend(["--root".into(), self.directory.join(STATE).into()]);
        arguments.extend(["--log".into(), bundle.join(LOG).into()]);
        arguments.extend(["--log-format".into(), "json".into()]);
        arguments.extend(command);
        let run = Run {
            program: &self.runtime.path,
            arguments: &arguments,
            directory: &bundle,
            stdio,
            view: View {
                root,
                binds,
                hierarchies: machine.cgroups.hierarchies(),
                cgroups_at: Path::new(CGROUP_ROOT),
            },
        };
        command::spawn(&run).map_err(|source| CommandError::Run {
            path: self.runtime.path.clone(),
            source,
        })
    }

    /// Why a command failed, in the last words of its log; `None`: it did not.
    fn failure(&self, command: &'static str, spawned: &Spawned, status: WaitStatus) -> Option<CommandError> {
        if status == WaitStatus::Code(0) {
            return None;
        }
        let message = spawned.failure().or_else(|| self.last_words()).unwrap_or(match status {
            WaitStatus::Code(code) => format!("ended with code {code}"),
            WaitStatus::Signal(signal) => format!("killed by signal {signal}"),
        });
        Some(CommandError::Failed {
            handler: self.runtime.handler.clone(),
            command,
            message,
        })
    }

    fn last_words(&self) -> Option<String> {
        let log = fs::read(self.bundle().join(LOG)).ok()?;
        last_error(&String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]))
    }
}

impl Creating {
    pub(super) fn pid(&self) -> i32 {
        self.spawned.pid
    }

    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.spawned.pidfd
    }

    /// `create` has ended and was waited for.
    ///
    /// # Errors
    /// The runtime's own words, or what it should have left and did not.
    pub(super) fn finish(self, place: &Place, status: WaitStatus) -> Result<Created, CommandError> {
        if let Some(error) = place.failure("create", &self.spawned, status) {
            return Err(error);
        }
        let lacks = |message: &str| CommandError::Failed {
            handler: place.runtime.handler.clone(),
            command: "create",
            message: message.to_owned(),
        };
        let pid = fs::read_to_string(place.bundle().join(PID)).ok();
        let pid = pid.and_then(|text| text.trim().parse().ok());
        let pid = pid.ok_or_else(|| lacks("it wrote no pid"))?;
        if !process::is_child(pid) {
            return Err(lacks("the container's process has ended"));
        }
        let terminal = match self.console {
            None => None,
            Some(console) => Some(master(&console).map_err(|error| lacks(&format!("no terminal came: {error}")))?),
        };
        Ok(Created { pid, terminal })
    }
}

/// What the runtime has sent: the master of the container's terminal.
fn master(console: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _) = console.accept()?;
    let (_, master) = fd::receive_with_fd(socket.as_fd(), &mut [0; 256], false)?;
    master.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl Commands {
    pub(super) fn none_running(&self) -> bool {
        self.running.is_empty()
    }

    /// Let the program of a created container begin.
    pub(super) fn start(&mut self, place: &Place, first: i32, machine: &Machine) -> Result<(), CommandError> {
        let arguments = vec!["start".into(), place.id.clone().into()];
        self.begin(place, Purpose::Start { first }, arguments, machine)
    }

    /// Forget the container: whatever the runtime still has of it goes, also what runs.
    pub(super) fn delete(&mut self, place: &Place, machine: &Machine) {
        let arguments = vec!["delete".into(), "--force".into(), place.id.clone().into()];
        // What cannot be done now goes with the directory and the cgroup.
        let _left = self.begin(place, Purpose::Other, arguments, machine);
    }

    /// Send a signal through the runtime, where processes cannot be seen from outside.
    pub(super) fn signal(&mut self, place: &Place, signal: i32, machine: &Machine) -> Result<(), CommandError> {
        let arguments = vec!["kill".into(), place.id.clone().into(), signal.to_string().into()];
        self.begin(place, Purpose::Other, arguments, machine)
    }

    fn begin(
        &mut self,
        place: &Place,
        purpose: Purpose,
        arguments: Vec<OsString>,
        machine: &Machine,
    ) -> Result<(), CommandError> {
        let cannot = |source| CommandError::Run {
            path: place.runtime.path.clone(),
            source,
        };
        let spawned = place.run(arguments, command::silence().map_err(cannot)?, None, &[], machine)?;
        let command = Command {
            purpose,
            place: place.clone(),
            deadline: Instant::now() + PATIENCE,
            spawned,
        };
        self.running.insert(command.spawned.pid, command);
        Ok(())
    }

    /// A child has ended and was waited for: what it was for, and how that went. `None`: it is none of these.
    pub(super) fn ended(&mut self, pid: i32, status: WaitStatus) -> Option<(Purpose, Result<(), CommandError>)> {
        let Command {
            purpose,
            spawned,
            place,
            deadline: _,
        } = self.running.remove(&pid)?;
        let name = match purpose {
            Purpose::Start { .. } => "start",
            Purpose::Other => "command",
        };
        let done = place.failure(name, &spawned, status).map_or(Ok(()), Err);
        Some((purpose, done))
    }

    pub(super) fn kill_starts(&self) {
        for command in self.running.values() {
            if matches!(command.purpose, Purpose::Start { .. }) {
                // A child that nobody has waited for can always be signalled.
                let _sent = process::signal(command.spawned.pidfd.as_fd(), SIGKILL);
            }
        }
    }

    /// Who takes too long is killed. Returns when to look again.
    pub(super) fn cut_off<'a>(&'a self, creating: impl Iterator<Item = &'a Creating>, now: Instant) -> Option<Instant> {
        let all = self
            .running
            .values()
            .map(|command| (&command.spawned, command.deadline));
        let all = all.chain(creating.map(|creating| (&creating.spawned, creating.deadline)));
        let mut next = None;
        for (spawned, deadline) in all {
            if deadline <= now {
                let _sent = process::signal(spawned.pidfd.as_fd(), SIGKILL);
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        next
    }
}

/// The spec as a runtime gets it: its root where it is mounted, parts of volumes where they are mounted, and nothing asked
/// for that this machine does not let us give.
fn adapted(
    mut spec: Spec,
    rootfs: &Overlay,
    sub_paths: Vec<SubPath>,
    parts: &Path,
    machine: &Machine,
) -> io::Result<(Spec, Vec<Bind>)> {
    spec.set_version(OCI_VERSION.to_owned());
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.target.clone());
    }
    let mut binds = Vec::new();
    for (number, SubPath { destination, path }) in sub_paths.into_iter().enumerate() {
        let mounts = spec.mounts_mut().iter_mut().flatten();
        for mount in mounts.filter(|mount| *mount.destination() == destination) {
            let target = parts.join(number.to_string());
            if let Some(source) = mount.source().clone() {
                binds.push(Bind {
                    source,
                    sub_path: path.clone(),
                    target: target.clone(),
                });
            }
            mount.set_source(Some(target));
        }
    }
    if !machine.can_lower_oom_score() {
        let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")?
            .trim()
            .parse()
            .map_err(|_| io::ErrorKind::InvalidData)?;
        if let Some(process) = spec.process_mut() {
            let wanted = process.oom_score_adj().map(|wanted| wanted.max(own));
            process.set_oom_score_adj(wanted);
        }
    }
    Ok((spec, binds))
}

/// The message of the last error in a log of a runtime, one JSON object a line; of one that writes plain text, its last
/// line.
fn last_error(log: &str) -> Option<String> {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let message = |line: &str| {
        let entry: Value = serde_json::from_str(line).ok()?;
        let level = entry["level"].as_str().unwrap_or("error");
        let message = entry["msg"].as_str().filter(|_| matches!(level, "error" | "fatal"))?;
        Some(message.to_owned())
    };
    lines().find_map(message).or_else(|| lines().next().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_what_a_user_reads() {
        let runc = r#"{"error":"openat2","level":"warning","msg":"unable to get oom kill count"}
{"level":"error","msg":"exec: \"nope\": executable file not found in $PATH"}
{"level":"warning","msg":"later"}
"#;
        assert_eq!(
            last_error(runc).as_deref(),
            Some("exec: \"nope\": executable file not found in $PATH")
        );
        assert_eq!(last_error("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(last_error("\n"), None);
    }
}
