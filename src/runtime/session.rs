//! Sessions with living pods: the [`Streams`] of this machine.
//!
//! Goes in: who is meant. Comes out: pipes that the program itself holds the other end of (exec) or that the shim writes
//! to (attach), and sockets that belong to the pod's network namespace (dial).
//!
//! Each session has a connection of its own with the pod's shim. Its end is the end of the session, however it comes
//! about: dropped, cut off, or because the agent has died. Nothing else has to be told to anybody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Machine;
use super::shims::{ShimError, Shims, receive, send};
use super::stream::{Exec, Input, Output, Session, SessionEnd, StreamError, Streams, TerminalSize, Wanted};
use crate::linux::{fd, netns, process, terminal};
use crate::model::{InfraSnapshot, Uid};
use crate::shim::client::{self, SESSION_REQUEST};
use crate::shim::protocol::{
    Attach, Exec as ExecRequest, ExecStreams, FromShim, Reply, Request, RequestBody, SESSIONS, WaitStatus,
};

/// How long a shim may take to begin a session. A program joins its container within milliseconds.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a port of a pod may take to answer: it is on the same machine.
const DIAL: Duration = Duration::from_secs(10);
/// Sizes that wait for a terminal.
const SIZES: usize = 8;

/// What podd's other end of a stream needs of the machine is its shims.
impl Streams for Machine {
    fn exec<'a>(&'a self, uid: &'a Uid, exec: Exec) -> BoxFuture<'a, Result<Session, StreamError>> {
        self.shims.exec(uid, exec)
    }

    fn attach<'a>(
        &'a self,
        uid: &'a Uid,
        container: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<Session, StreamError>> {
        self.shims.attach(uid, container, wanted)
    }

    fn dial<'a>(&'a self, uid: &'a Uid, port: u16) -> BoxFuture<'a, Result<TcpStream, StreamError>> {
        self.shims.dial(uid, port)
    }
}

impl Streams for Arc<Shims> {
    fn exec<'a>(&'a self, uid: &'a Uid, exec: Exec) -> BoxFuture<'a, Result<Session, StreamError>> {
        Box::pin(async move {
            if exec.wanted.tty.is_some() {
                self.exec_terminal(uid, exec).await
            } else {
                self.exec_files(uid, exec).await
            }
        })
    }

    fn attach<'a>(
        &'a self,
        uid: &'a Uid,
        container: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<Session, StreamError>> {
        Box::pin(self.attach_to(uid, container, wanted))
    }

    fn dial<'a>(&'a self, uid: &'a Uid, port: u16) -> BoxFuture<'a, Result<TcpStream, StreamError>> {
        Box::pin(self.dial_localhost(uid, port))
    }
}

impl Shims {
    /// A program with pipes: it and we hold their ends, nobody is between.
    async fn exec_files(&self, uid: &Uid, exec: Exec) -> Result<Session, StreamError> {
        let Exec {
            container,
            command,
            wanted,
        } = exec;
        let pipes = Pipes::make(wanted).map_err(StreamError::Shim)?;
        let request = ExecRequest {
            container,
            command,
            streams: ExecStreams::Files {
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
            },
        };
        let (link, reply) = self
            .begin(uid, RequestBody::Exec(Box::new(request)), pipes.theirs)
            .await?;
        executed(reply)?;
        Ok(link.session(pipes.stdin, pipes.stdout, pipes.stderr, None, None))
    }

    /// A program with a terminal, whose master it sends us itself.
    async fn exec_terminal(&self, uid: &Uid, exec: Exec) -> Result<Session, StreamError> {
        let Exec {
            container,
            command,
            wanted,
        } = exec;
        let size = wanted.tty.flatten().unwrap_or(TerminalSize { width: 0, height: 0 });
        let (ours, theirs) = fd::stream_pair().map_err(StreamError::Shim)?;
        let request = ExecRequest {
            container,
            command,
            streams: ExecStreams::Terminal {
                width: size.width,
                height: size.height,
            },
        };
        let (link, reply) = self
            .begin(uid, RequestBody::Exec(Box::new(request)), vec![theirs.into()])
            .await?;
        executed(reply)?;
        // It came before the program was executed.
        let master = match fd::receive_with_fd(ours.as_fd(), &mut [0], false) {
            Ok((_, Some(master))) => master,
            Ok((_, None)) => return Err(StreamError::Shim(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(StreamError::Shim(error)),
        };
        let (stdin, stdout) = terminal_streams(&master, wanted).map_err(StreamError::Shim)?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(SIZES);
        let task = tokio::spawn(async move {
            while let Some(TerminalSize { width, height }) = sizes.recv().await {
                // A terminal that cannot be resized stays as it is.
                let _ = terminal::resize(master.as_fd(), height, width);
            }
            // Held until the session ends: the program's terminal must not hang up because nobody resizes it.
            std::future::pending::<()>().await;
        });
        Ok(link.session(stdin, stdout, None, Some(resize), Some(task.abort_handle())))
    }

    async fn attach_to(&self, uid: &Uid, container: &str, wanted: Wanted) -> Result<Session, StreamError> {
        let pipes = Pipes::make(wanted).map_err(StreamError::Shim)?;
        let request = Attach {
            container: container.to_owned(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let (mut link, reply) = self.begin(uid, RequestBody::Attach(request), pipes.theirs).await?;
        let (has_stdin, has_terminal) = match reply {
            Reply::Attached { stdin, tty } => (stdin, tty),
            Reply::Refused(message) => return Err(StreamError::NotRunning(message)),
            Reply::Failed(message) => return Err(StreamError::Shim(io::Error::other(message))),
            Reply::Done => return Err(StreamError::Shim(nonsense())),
        };
        let stdin = pipes.stdin.filter(|_| has_stdin);
        let (mut resize, mut task) = (None, None);
        if has_terminal && let Some(mut writer) = link.writer.take() {
            let mut id = SESSION_REQUEST;
            if let Some(Some(size)) = wanted.tty {
                id += 1;
                let sent = send(&mut writer, &resize_request(id, size)).await;
                sent.map_err(StreamError::Shim)?;
            }
            let (sender, mut sizes) = mpsc::channel(SIZES);
            let running = tokio::spawn(async move {
                while let Some(size) = sizes.recv().await {
                    id += 1;
                    if send(&mut writer, &resize_request(id, size)).await.is_err() {
                        break;
                    }
                }
                // Nobody resizes any more; the session goes on.
                writer.forget();
            });
            (resize, task) = (Some(sender), Some(running.abort_handle()));
        }
        Ok(link.session(stdin, pipes.stdout, pipes.stderr, resize, task))
    }

    /// Ask the shim of the pod's newest sandbox for a session, and wait for its answer.
    async fn begin(
        &self,
        uid: &Uid,
        body: RequestBody,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Link, Reply), StreamError> {
        let dir = self.newest_sandbox(uid)?.1;
        let connected = tokio::task::spawn_blocking(move || {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let socket = client::begin_session(&dir, body, &borrowed)?;
            let own = socket.try_clone()?;
            socket.set_nonblocking(true)?;
            Ok((socket, own))
        });
        let (socket, own) = connected
            .await
            .map_err(|_| StreamError::Shim(io::Error::other("the work panicked")))?
            .map_err(|error: io::Error| {
                let is_gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                if is_gone {
                    no_sandbox(uid)
                } else {
                    StreamError::Shim(error)
                }
            })?;
        let (reader, writer) = UnixStream::from_std(socket).map_err(StreamError::Shim)?.into_split();
        let mut link = Link {
            hold: Hold {
                socket: own,
                task: None,
            },
            reader,
            writer: Some(writer),
        };
        let reply = tokio::time::timeout(PATIENCE, link.answer())
            .await
            .map_err(|_| StreamError::Shim(io::ErrorKind::TimedOut.into()))??;
        Ok((link, reply))
    }

    fn newest_sandbox(&self, uid: &Uid) -> Result<(u32, PathBuf), StreamError> {
        let attempts = self.attempts(uid).map_err(shim_error)?;
        let newest = *attempts.last().ok_or_else(|| no_sandbox(uid))?;
        Ok((newest, self.sandbox_dir(uid, newest)))
    }

    /// Connect from within the pod's network namespace. Only the socket is made there, by a thread of its own; it
    /// belongs there for ever.
    async fn dial_localhost(self: &Arc<Self>, uid: &Uid, port: u16) -> Result<TcpStream, StreamError> {
        let (sandbox, _) = self.newest_sandbox(uid)?;
        let journal = self.journal(uid, sandbox).await.map_err(shim_error)?;
        let journal = journal.filter(|journal| journal.sandbox.shim_alive);
        let infra = journal.and_then(|journal| match journal.sandbox.infra {
            InfraSnapshot::Running { pid, since: _ } => Some((pid, journal.infra_start_time?)),
            InfraSnapshot::Absent | InfraSnapshot::Exited { .. } => None,
        });
        let (pid, start_time) = infra.ok_or_else(|| no_sandbox(uid))?;
        let mut last = None;
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let made = tokio::task::spawn_blocking(move || socket_of(pid, start_time, ip.is_ipv6()))
                .await
                .map_err(|_| StreamError::Shim(io::Error::other("the work panicked")))?;
            let socket = match made {
                Ok(Some(socket)) => TcpSocket::from_std_stream(socket.into()),
                Ok(None) => return Err(no_sandbox(uid)),
                Err(error) => {
                    // The kernel has no IPv6, say: what the first address answered tells more.
                    last.get_or_insert(error);
                    continue;
                }
            };
            match tokio::time::timeout(DIAL, socket.connect(SocketAddr::new(ip, port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last.get_or_insert(error),
                Err(_) => last.get_or_insert(io::ErrorKind::TimedOut.into()),
            };
        }
        let source = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        Err(StreamError::Dial { port, source })
    }
}

fn resize_request(id: u64, size: TerminalSize) -> Request {
    let TerminalSize { width, height } = size;
    Request {
        id,
        body: RequestBody::Resize { width, height },
    }
}

/// A socket in the network namespace of this process; `None` if it has ended (and its pid may name another).
fn socket_of(pid: i32, start_time: u64, ipv6: bool) -> io::Result<Option<OwnedFd>> {
    let Ok(netns) = netns::of_process(pid) else {
        return Ok(None);
    };
    // Looked at after it was opened: the same process then and now.
    if process::start_time(pid).ok() != Some(start_time) {
        return Ok(None);
    }
    netns::tcp_socket(netns.as_fd(), ipv6).map(Some)
}

fn no_sandbox(uid: &Uid) -> StreamError {
    StreamError::NotRunning(format!("pod {uid} has no running sandbox"))
}

fn shim_error(error: ShimError) -> StreamError {
    StreamError::Shim(io::Error::other(error))
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its answer makes no sense")
}

fn executed(reply: Reply) -> Result<(), StreamError> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(message) => Err(StreamError::NotRunning(message)),
        Reply::Failed(message) => Err(StreamError::NotExecuted(message)),
        Reply::Attached { .. } => Err(StreamError::Shim(nonsense())),
    }
}

/// A terminal's master for reading and for writing. Shutting it down does nothing: a terminal's input has no end but the
/// one that is typed.
fn terminal_streams(master: &OwnedFd, wanted: Wanted) -> io::Result<(Option<Input>, Option<Output>)> {
    fd::set_nonblocking(master.as_fd())?;
    let stdin = if wanted.stdin {
        let writer = pipe::Sender::from_owned_fd_unchecked(fd::duplicate(master)?)?;
        Some(Box::new(writer) as Input)
    } else {
        None
    };
    let stdout = if wanted.stdout {
        let reader = pipe::Receiver::from_owned_fd_unchecked(fd::duplicate(master)?)?;
        Some(Box::new(TerminalOutput(reader)) as Output)
    } else {
        None
    };
    Ok((stdin, stdout))
}

/// Our ends of the pipes that are wanted, and theirs in the order in which a request names them.
struct Pipes {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn make(wanted: Wanted) -> io::Result<Self> {
        let mut theirs = Vec::new();
        let stdin = if wanted.stdin {
            let (reads, writes) = fd::pipe()?;
            theirs.push(reads);
            let pipe = pipe::Sender::from_owned_fd(writes)?;
            Some(Box::new(ClosingPipe(Some(pipe))) as Input)
        } else {
            None
        };
        let mut output = |wanted: bool| -> io::Result<Option<Output>> {
            if !wanted {
                return Ok(None);
            }
            let (reads, writes) = fd::pipe()?;
            theirs.push(writes);
            Ok(Some(Box::new(pipe::Receiver::from_owned_fd(reads)?)))
        };
        let (stdout, stderr) = (output(wanted.stdout)?, output(wanted.stderr)?);
        Ok(Self {
            stdin,
            stdout,
            stderr,
            theirs,
        })
    }
}

/// A connection that is a session.
struct Link {
    hold: Hold,
    reader: OwnedReadHalf,
    /// Dropping it would end the session.
    writer: Option<tokio::net::unix::OwnedWriteHalf>,
}

impl Link {
    async fn answer(&mut self) -> Result<Reply, StreamError> {
        loop {
            match receive(&mut self.reader).await.map_err(StreamError::Shim)? {
                Some(FromShim::Hello { protocol, pid: _ }) if protocol < SESSIONS => {
                    let message = format!(
                        "it is from an older podd (protocol {protocol}) and knows no exec and no attach; the pod must be made anew"
                    );
                    return Err(StreamError::Shim(io::Error::new(io::ErrorKind::Unsupported, message)));
                }
                Some(FromShim::Reply {
                    id: SESSION_REQUEST,
                    result,
                }) => return Ok(result),
                Some(
                    FromShim::Hello { .. }
                    | FromShim::Journal { .. }
                    | FromShim::Reply { .. }
                    | FromShim::Ended { .. }
                    | FromShim::CutOff { .. },
                ) => {}
                None => return Err(StreamError::Shim(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    fn session(
        self,
        stdin: Option<Input>,
        stdout: Option<Output>,
        stderr: Option<Output>,
        resize: Option<mpsc::Sender<TerminalSize>>,
        task: Option<AbortHandle>,
    ) -> Session {
        let Self {
            mut hold,
            mut reader,
            writer,
        } = self;
        if let Some(writer) = writer {
            writer.forget();
        }
        hold.task = task;
        let (told, end) = oneshot::channel();
        // It ends with the connection, which ends with `hold` at the latest.
        tokio::spawn(async move {
            let end = how_it_ends(&mut reader).await;
            // Nobody asks any more.
            let _ = told.send(end);
        });
        Session {
            stdin,
            stdout,
            stderr,
            resize,
            end,
            guard: Box::new(hold),
        }
    }
}

async fn how_it_ends(reader: &mut OwnedReadHalf) -> SessionEnd {
    loop {
        match receive(reader).await {
            Ok(Some(FromShim::Ended { status })) => {
                return SessionEnd::Code(match status {
                    WaitStatus::Code(code) => code,
                    WaitStatus::Signal(signal) => 128 + signal,
                });
            }
            Ok(Some(FromShim::CutOff { message })) => return SessionEnd::Lost(message),
            Ok(Some(FromShim::Hello { .. } | FromShim::Reply { .. } | FromShim::Journal { .. })) => {}
            Ok(None) => return SessionEnd::Lost("the pod's sandbox is gone".to_owned()),
            Err(error) => return SessionEnd::Lost(format!("the pod's shim cannot be heard: {error}")),
        }
    }
}

/// The session, as long as it is held.
#[derive(Debug)]
struct Hold {
    /// The connection once more: it is ended at once and for all who read from it.
    socket: std::os::unix::net::UnixStream,
    task: Option<AbortHandle>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Ended already by the other side.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A pipe that is closed when it is shut down: its reader gets the end of file.
#[derive(Debug)]
struct ClosingPipe(Option<pipe::Sender>);

impl ClosingPipe {
    fn with<T>(&mut self, poll: impl FnOnce(Pin<&mut pipe::Sender>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.0 {
            Some(pipe) => poll(Pin::new(pipe)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncWrite for ClosingPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|pipe| pipe.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// A terminal's master, read. It has no end of file of its own.
#[derive(Debug)]
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buffer)) {
            // Nobody holds the other side any more: everything was read.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}
