//! Streams of pods that are processes of this machine: the other end of what the API serves, for tests.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};

use crate::model::Uid;
use crate::runtime::stream::{Exec, Session, SessionEnd, StreamError, Streams, TerminalSize, Wanted};

/// Runs programs in a directory, and dials ports of the loopback.
#[derive(Debug)]
pub(crate) struct Local {
    directory: PathBuf,
    /// Sessions that live.
    pub(crate) alive: watch::Sender<usize>,
    /// Every size that a terminal was given, the first one included.
    pub(crate) sizes: Arc<Mutex<Vec<TerminalSize>>>,
}

impl Local {
    pub(crate) fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            directory,
            alive: watch::Sender::new(0),
            sizes: Arc::default(),
        })
    }

    /// Completes once so many sessions live.
    pub(crate) async fn until_alive(&self, wanted: usize) {
        self.alive.subscribe().wait_for(|alive| *alive == wanted).await.unwrap();
    }

    fn run(&self, command: &[String], wanted: Wanted) -> Result<Session, StreamError> {
        let mut run = if wanted.tty.is_some() {
            // Its own terminal is made by script(1).
            let mut script = Command::new("script");
            script.args(["-qec", &command.join(" "), "/dev/null"]);
            script
        } else {
            let mut run = Command::new(&command[0]);
            run.args(&command[1..]);
            run
        };
        let pipe = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = run
            .current_dir(&self.directory)
            .stdin(pipe(wanted.stdin))
            .stdout(pipe(wanted.stdout))
            .stderr(pipe(wanted.stderr))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|_| StreamError::NotExecuted("no such file or directory".to_owned()))?;
        self.alive.send_modify(|alive| *alive += 1);
        let guard = Guard {
            group: child.id(),
            alive: self.alive.clone(),
        };
        let resize = wanted.tty.map(|first| {
            let (sender, mut receiver) = mpsc::channel(4);
            let sizes = Arc::clone(&self.sizes);
            sizes.lock().unwrap().extend(first);
            tokio::spawn(async move {
                while let Some(size) = receiver.recv().await {
                    sizes.lock().unwrap().push(size);
                }
            });
            sender
        });
        let (ended, end) = oneshot::channel();
        let session = Session {
            stdin: child.stdin.take().map(|s| Box::new(s) as _),
            stdout: child.stdout.take().map(|s| Box::new(s) as _),
            stderr: child.stderr.take().map(|s| Box::new(s) as _),
            resize,
            end,
            guard: Box::new(guard),
        };
        tokio::spawn(async move {
            let code = child.wait().await.ok().and_then(|status| status.code());
            let _nobody_waits =
                ended.send(code.map_or_else(|| SessionEnd::Lost("killed".to_owned()), SessionEnd::Code));
        });
        Ok(session)
    }
}

/// Ends what was started, with all its children.
struct Guard {
    group: Option<u32>,
    alive: watch::Sender<usize>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let group = self
            .group
            .and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().ok()?));
        if let Some(group) = group {
            let _gone_already = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        self.alive.send_modify(|alive| *alive -= 1);
    }
}

impl Streams for Local {
    fn exec<'a>(&'a self, _uid: &'a Uid, exec: Exec) -> BoxFuture<'a, Result<Session, StreamError>> {
        Box::pin(async move { self.run(&exec.command, exec.wanted) })
    }

    fn attach<'a>(
        &'a self,
        _uid: &'a Uid,
        container: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<Session, StreamError>> {
        let command = ["sh", "-c", "echo attached to $0; exec cat", container].map(str::to_owned);
        Box::pin(async move { self.run(&command, wanted) })
    }

    fn dial<'a>(&'a self, _uid: &'a Uid, port: u16) -> BoxFuture<'a, Result<TcpStream, StreamError>> {
        Box::pin(async move {
            TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|source| StreamError::Dial { port, source })
        })
    }
}
