//! Containers for tests: their programs are those of this machine.

use std::process::Stdio;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};

use crate::model::{Action, Uid};
use crate::runtime::stream::{Exec, Session, SessionEnd, StreamError, Streams, Wanted};

/// Containers whose programs are those of this machine.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    /// How many run.
    pub(crate) alive: watch::Sender<usize>,
    /// How many were begun, those that could not be executed included.
    pub(crate) begun: watch::Sender<usize>,
    /// When set, nothing can be executed.
    pub(crate) refusal: Mutex<Option<fn() -> StreamError>>,
}

struct Alive(watch::Sender<usize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

impl Programs {
    fn run(&self, exec: &Exec) -> Result<Session, StreamError> {
        self.begun.send_modify(|begun| *begun += 1);
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(refusal());
        }
        let mut child = Command::new(&exec.command[0])
            .args(&exec.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| StreamError::NotExecuted(error.to_string()))?;
        self.alive.send_modify(|alive| *alive += 1);
        let alive = Alive(self.alive.clone());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (ended, end) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _alive = alive;
            let code = child.wait().await.unwrap().code();
            let end = code.map_or_else(|| SessionEnd::Lost("killed".to_owned()), SessionEnd::Code);
            let _nobody_waits = ended.send(end);
        });
        Ok(Session {
            stdin: None,
            stdout: Some(Box::new(stdout)),
            stderr: Some(Box::new(stderr)),
            resize: None,
            end,
            guard: Box::new(tokio_util::task::AbortOnDropHandle::new(task)),
        })
    }
}

impl Streams for Programs {
    fn exec<'a>(&'a self, _uid: &'a Uid, exec: Exec) -> BoxFuture<'a, Result<Session, StreamError>> {
        Box::pin(async move { self.run(&exec) })
    }

    fn attach<'a>(&'a self, _: &'a Uid, _: &'a str, _: Wanted) -> BoxFuture<'a, Result<Session, StreamError>> {
        Box::pin(async { Err(StreamError::NotRunning("no probe attaches".to_owned())) })
    }

    fn dial<'a>(&'a self, _: &'a Uid, _: u16) -> BoxFuture<'a, Result<TcpStream, StreamError>> {
        Box::pin(async { Err(StreamError::NotRunning("no probe dials".to_owned())) })
    }
}

pub(crate) fn shell(script: &str) -> Action {
    Action::Exec {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
    }
}
