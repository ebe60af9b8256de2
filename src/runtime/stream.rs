//! What a client may do inside a living pod: run a program (exec), be at a container's own input and output (attach),
//! and reach a port (port-forward, proxy).
//!
//! Goes in: who is meant, and bytes. Comes out: bytes, and how a program ended. Nothing of it is recorded: a session
//! lives as long as both its ends.
//!
//! **Invariants:** a slow reader slows the program down and loses nothing. Dropping a [`Session`] of an exec whose program
//! still runs ends the program with all that it started; what a program left in the background when it ended by itself is
//! left alone. Dropping a session of an attach only lets go of the container.

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::model::Uid;

/// What a session reads from.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;
/// What a session writes to. Shutting it down, or dropping it, closes the program's standard input.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// A program to be run in a container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    pub container: String,
    /// The program, looked up in the container's `PATH`, and its arguments; not empty.
    pub command: Vec<String>,
    pub wanted: Wanted,
}

/// Which of its streams are wanted. Those that are not are `/dev/null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    /// Never with `tty`: a terminal has one output.
    pub stderr: bool,
    /// Exec: a terminal of its own, of the given size where one is known. Attach: the container has one.
    pub tty: Option<Option<TerminalSize>>,
}

/// In characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// How the program of a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// With this code; one that was killed by signal n has 128 + n.
    Code(i32),
    /// It was cut off (its shim or its sandbox died, the agent stops): how it ended is not known.
    Lost(String),
}

/// A running exec or attach.
pub struct Session {
    pub stdin: Option<Input>,
    /// Ends when the program has closed it, everything written before included.
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Sizes for its terminal; `None` where it has none.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// Exec: how the program ended. Attach: how the container did.
    pub end: oneshot::Receiver<SessionEnd>,
    /// What is dropped with the session.
    pub guard: Box<dyn Send>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Why a stream could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The container (or the pod's sandbox) does not run.
    #[error("container not found or not running: {0}")]
    NotRunning(String),
    /// The program could not be executed; the text is the system's (`no such file or directory`).
    #[error("{0}")]
    NotExecuted(String),
    /// The port of the pod refused the connection, or nobody answered.
    #[error("cannot connect to port {port} of the pod")]
    Dial {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    /// The shim could not be asked.
    #[error("the pod's shim cannot be asked")]
    Shim(#[source] std::io::Error),
}

/// The streams of the pods of this machine.
pub trait Streams: Send + Sync + std::fmt::Debug + 'static {
    /// Run a program in a running container: in its namespaces, cgroup, root file system, with its user, environment,
    /// working directory, capabilities, seccomp filter and no-new-privileges.
    fn exec<'a>(&'a self, uid: &'a Uid, exec: Exec) -> BoxFuture<'a, Result<Session, StreamError>>;

    /// Be at the input and output of a container's first process, from now on. Its input only where its spec has
    /// `stdin`; with `stdinOnce` the first client that closes it closes it for good.
    fn attach<'a>(
        &'a self,
        uid: &'a Uid,
        container: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<Session, StreamError>>;

    /// Connect to `localhost:port` as seen inside the pod (IPv4, else IPv6).
    fn dial<'a>(&'a self, uid: &'a Uid, port: u16) -> BoxFuture<'a, Result<TcpStream, StreamError>>;
}
