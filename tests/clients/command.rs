//! One kubectl of a certain version, meant for one agent.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::Value;

use crate::common::{Agent, patience, wait_for};

/// What a command wrote, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A kubectl with a home of its own.
#[derive(Debug)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    kubeconfig: PathBuf,
    /// Cache, manifests, files to copy.
    pub(crate) dir: PathBuf,
}

/// A command that goes on in the background; killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// The kubectl of this minor version, where this machine has one.
pub(crate) fn of_minor(minor: u32) -> Option<PathBuf> {
    let first = on_path()?;
    let beside = fs::canonicalize(first)
        .ok()?
        .parent()?
        .join(format!("kubectl.1.{minor}"));
    beside.exists().then_some(beside)
}

/// The kubectl that a user gets.
pub(crate) fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("kubectl"))
        .find(|file| file.exists())
}

impl Kubectl {
    pub(crate) fn new(program: &Path, agent: &Agent) -> Self {
        let dir = agent.dir.join("kubectl");
        fs::create_dir_all(&dir).unwrap();
        Self {
            program: program.to_owned(),
            kubeconfig: agent.root().join("admin.kubeconfig"),
            dir,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("HOME", &self.dir)
            .env("KUBECONFIG", &self.kubeconfig)
            .arg(format!("--cache-dir={}", self.dir.join("cache").display()))
            .args(arguments);
        command
    }

    pub(crate) fn say(&self, arguments: &[&str], stdin: &str) -> Said {
        Self::say_in(self.command(arguments), stdin)
    }

    pub(crate) fn say_in(mut command: Command, stdin: &str) -> Said {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = stdin.to_owned();
        // It may end without having read all.
        let writer = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    pub(crate) fn ok_with(&self, arguments: &[&str], stdin: &str) -> String {
        let said = self.say(arguments, stdin);
        assert_eq!(said.code, 0, "{} {arguments:?}: {said:?}", self.program.display());
        said.out
    }

    /// What deleting says, without the namespace that kubectl names since 1.34.
    pub(crate) fn delete(&self, arguments: &[&str]) -> String {
        let said = self.ok(&[&["delete"], arguments].concat());
        said.replace(" from default namespace", "")
    }

    /// What it complains of; it must fail.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let said = self.say(arguments, "");
        assert_ne!(said.code, 0, "{} {arguments:?}: {said:?}", self.program.display());
        said.err
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Ask until it prints something that is right.
    pub(crate) fn until(&self, arguments: &[&str], right: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("{arguments:?}"), || {
            let said = self.say(arguments, "");
            if said.code == 0 && right(&said.out) {
                Ok(said.out)
            } else {
                Err(format!("{said:?}"))
            }
        })
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Background {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Background {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Run it on a terminal: python's `pty` is everywhere where the tests are. Returns all that the terminal showed.
    pub(crate) fn on_terminal(&self, arguments: &[&str], keys: &str) -> String {
        const SCRIPT: &str = r"
import os, pty, sys, select, struct, fcntl, termios
keys = sys.argv[1].encode().decode('unicode_escape').encode()
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 99, 0, 0))
shown, sent = b'', False
while True:
    try:
        part = os.read(fd, 65536)
    except OSError:
        break
    if not part:
        break
    shown += part
    if not sent and b'# ' in shown:
        os.write(fd, keys)
        sent = True
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.write(shown.decode(errors='replace'))
sys.exit(status)
";
        let inner = self.command(arguments);
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, keys]).arg(inner.get_program());
        command.args(inner.get_args());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap());
        }
        let said = Self::say_in(command, "");
        assert_eq!(said.code, 0, "{arguments:?} on a terminal: {said:?}");
        said.out
    }
}

impl Background {
    /// The next line for which this is true; lines before it are passed over.
    pub(crate) fn line(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + patience();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if is(&line) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {what} ({error}) in {:#?}", self.seen),
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
