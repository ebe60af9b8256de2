//! The process that shims are forked from: `podd shim`, run by the agent from a sealed copy of its executable.
//!
//! Goes in: [`Spawn`] messages with the shim's end of its first connection, on descriptor 3. Comes out: shims, which share
//! all their memory with this process until they write to it.
//!
//! It ends when the agent's end of the socket closes; its shims live on.
//!
//! **Invariant:** one thread from the beginning to the end, so that a fork of it is a whole process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::frame::{self, Decoder, FrameError};
use super::protocol::{Spawn, Spawned};
use super::supervisor;
use crate::linux::process::{self, Fork};
use crate::linux::{fd, namespace};

#[derive(Debug, thiserror::Error)]
enum ZygoteError {
    #[error("descriptor 3 is not a socket: this is started by `podd serve`")]
    NoSocket,
    #[error("cannot make the empty mount namespace")]
    Namespace(#[source] io::Error),
    #[error("cannot set up")]
    SetUp(#[source] io::Error),
    #[error("the agent cannot be heard")]
    Receive(#[source] io::Error),
    #[error("the agent speaks nonsense")]
    Frame(#[source] FrameError),
    #[error("the agent cannot be answered")]
    Answer(#[source] io::Error),
}

/// The whole life of the zygote, and of each shim that is forked from it. Call it before any thread exists.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// stderr is the agent's own here: shims close it.
fn report(error: &dyn std::error::Error) {
    use std::io::Write;
    let mut text = format!("podd shim: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    // If even stderr is gone, the exit code has to do.
    let _unheard = writeln!(io::stderr(), "{text}");
}

fn serve() -> Result<(), ZygoteError> {
    let socket = UnixStream::from(process::inherited_socket().ok_or(ZygoteError::NoSocket)?);
    let set_up = || {
        process::close_others()?;
        process::set_not_dumpable()?;
        process::set_name(c"podd-zygote")?;
        process::ignore_children()?;
        process::set_umask(0o022);
        process::new_session()
    };
    set_up().map_err(ZygoteError::SetUp)?;
    let mounts = namespace::empty_mount_namespace().map_err(ZygoteError::Namespace)?;
    let mut decoder = Decoder::default();
    let mut connection = None;
    loop {
        let Some((spawn, shims_end)) = next_request(&socket, &mut decoder, &mut connection)? else {
            return Ok(());
        };
        let answer = match process::fork_single_threaded() {
            Ok(Fork::Child) => {
                drop(socket);
                let code = supervisor::run(&spawn, shims_end, mounts);
                process::exit_now(code);
            }
            Ok(Fork::Parent { child }) => Spawned::Pid(child),
            Err(error) => Spawned::Failed(error.to_string()),
        };
        drop(shims_end);
        let bytes = frame::encode(&answer).map_err(ZygoteError::Frame)?;
        io::Write::write_all(&mut &socket, &bytes).map_err(ZygoteError::Answer)?;
    }
}

/// The next request and its descriptor; `None` when the agent is gone.
fn next_request(
    socket: &UnixStream,
    decoder: &mut Decoder,
    connection: &mut Option<OwnedFd>,
) -> Result<Option<(Spawn, OwnedFd)>, ZygoteError> {
    let mut buffer = [0; 4096];
    loop {
        // The agent sends one request and waits for its answer, so at most one descriptor is under way.
        if let Some(descriptor) = connection.take() {
            match decoder.message().map_err(ZygoteError::Frame)? {
                Some(spawn) => return Ok(Some((spawn, descriptor))),
                None => *connection = Some(descriptor),
            }
        }
        let (length, descriptor) =
            fd::receive_with_fd(socket.as_fd(), &mut buffer, true).map_err(ZygoteError::Receive)?;
        if length == 0 {
            return Ok(None);
        }
        *connection = descriptor.or(connection.take());
        decoder.push(&buffer[..length]);
    }
}
