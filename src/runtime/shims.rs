//! The agent's side of the shims: making them, finding them again, asking them.
//!
//! Goes in: requests for one sandbox. Comes out: replies, journals folded into snapshots, and hints for the controller.
//!
//! **Invariant:** a shim's word is its journal; replies and hints only say when to read it. Whether a shim lives is told
//! by its lock alone, asked *before* its journal is read, so that the facts of a shim found dead are its last ones.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use super::journal::{self, Journal};
use crate::linux::lock::Holder;
use crate::model::Uid;
use crate::shim::client::{self, SpawnError, Zygote};
use crate::shim::protocol::{FromShim, JOURNAL, PROTOCOL, Reply, Request, RequestBody, SandboxConfig, Spawn};

/// How long a shim may take to answer before it is taken for stuck. Starting a container takes milliseconds; a volume
/// on a hanging disk may take longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The largest message a shim may send.
const MESSAGE_MAX: u32 = 1 << 20;

/// All shims of one agent.
#[derive(Debug)]
pub struct Shims {
    /// `RUN_DIR/pods`.
    directory: PathBuf,
    boot_id: String,
    zygote: Mutex<Option<Zygote>>,
    connections: Mutex<HashMap<PathBuf, Arc<Connection>>>,
    hints: mpsc::UnboundedSender<Uid>,
}

/// A shim could not be made, reached or understood.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a shim in {}", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: SpawnError,
    },
    #[error("the journal {} cannot be understood", path.display())]
    Journal {
        path: PathBuf,
        #[source]
        source: journal::JournalError,
    },
    #[error("the shim in {} is gone", path.display())]
    Gone { path: PathBuf },
    #[error("the shim in {} did not answer within {} s", path.display(), PATIENCE.as_secs())]
    Stuck { path: PathBuf },
    #[error("the shim in {} speaks protocol {theirs}, this agent {PROTOCOL}", path.display())]
    Protocol { path: PathBuf, theirs: u32 },
    #[error("the shim in {} refused: {message}", path.display())]
    Refused { path: PathBuf, message: String },
    #[error("{message}")]
    Failed { message: String },
}

impl Shims {
    pub fn new(run_dir: &Path, boot_id: String, hints: mpsc::UnboundedSender<Uid>) -> Self {
        Self {
            directory: run_dir.join("pods"),
            boot_id,
            zygote: Mutex::new(None),
            connections: Mutex::new(HashMap::new()),
            hints,
        }
    }

    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// `RUN_DIR/pods/<uid>`.
    pub fn pod_dir(&self, uid: &Uid) -> PathBuf {
        self.directory.join(uid.as_str())
    }

    /// `RUN_DIR/pods/<uid>/<attempt>`.
    pub fn sandbox_dir(&self, uid: &Uid, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join(attempt.to_string())
    }

    /// Every pod that has a directory here.
    pub fn pods(&self) -> Result<Vec<Uid>, ShimError> {
        Ok(names(&self.directory)?.into_iter().map(Uid).collect())
    }

    /// The sandbox attempts of a pod that have a directory here, ascending.
    pub fn attempts(&self, uid: &Uid) -> Result<Vec<u32>, ShimError> {
        let mut attempts: Vec<u32> = names(&self.pod_dir(uid))?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        attempts.sort_unstable();
        Ok(attempts)
    }

    /// Make the zygote now rather than at the first pod.
    pub fn warm(&self) -> Result<(), ShimError> {
        let mut zygote = guard(&self.zygote);
        if zygote.is_none() {
            *zygote = Some(self.new_zygote()?);
        }
        Ok(())
    }

    /// Make a shim for this sandbox, unless it was made already (then it may also be dead: the journal tells).
    pub async fn spawn(self: &Arc<Self>, uid: &Uid, sandbox: SandboxConfig) -> Result<(), ShimError> {
        let dir = self.sandbox_dir(uid, sandbox.attempt);
        std::fs::create_dir_all(&dir).map_err(|source| io_error("make", &dir, source))?;
        if self.holder(&dir)?.is_some() || !read(&dir.join(JOURNAL))?.is_empty() {
            return Ok(());
        }
        let shims = Arc::clone(self);
        let spawn = Spawn {
            dir: dir.clone(),
            sandbox,
        };
        let ours = tokio::task::spawn_blocking(move || shims.spawn_from_zygote(&spawn))
            .await
            .map_err(|_| ShimError::Gone { path: dir.clone() })??;
        let stream = ours
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(ours))
            .map_err(|source| io_error("prepare the socket of", &dir, source))?;
        let connection = self.connected(uid, &dir, stream).await?;
        guard(&self.connections).insert(dir, connection);
        Ok(())
    }

    fn spawn_from_zygote(&self, spawn: &Spawn) -> Result<std::os::unix::net::UnixStream, ShimError> {
        let cannot = |source| ShimError::Spawn {
            path: spawn.dir.clone(),
            source,
        };
        let mut zygote = guard(&self.zygote);
        if let Some(alive) = &mut *zygote {
            match alive.spawn(spawn) {
                Ok((_pid, socket)) => return Ok(socket),
                Err(error @ SpawnError::Fork(_)) => return Err(cannot(error)),
                // A zygote that was killed costs one try.
                Err(error) => tracing::warn!(%error, "the zygote failed: making a new one"),
            }
        }
        let (_pid, socket) = zygote.insert(self.new_zygote()?).spawn(spawn).map_err(cannot)?;
        Ok(socket)
    }

    fn new_zygote(&self) -> Result<Zygote, ShimError> {
        Zygote::start(Path::new("/proc/self/exe"))
            .map_err(|source| io_error("make the zygote for", &self.directory, source))
    }

    /// The journal of a sandbox, folded; `None` when there is none of this boot.
    pub(super) async fn journal(self: &Arc<Self>, uid: &Uid, attempt: u32) -> Result<Option<Journal>, ShimError> {
        let dir = self.sandbox_dir(uid, attempt);
        let alive = self.holder(&dir)?.is_some();
        let path = dir.join(JOURNAL);
        let bytes = read(&path)?;
        let journal = journal::fold(&bytes, attempt, alive).map_err(|source| ShimError::Journal { path, source })?;
        if journal.boot_id.as_ref() != Some(&self.boot_id) {
            return Ok(None);
        }
        if alive && !self.is_connected(&dir) {
            self.connect(uid, &dir).await?;
        }
        Ok(Some(journal))
    }

    /// The process that holds a sandbox directory's lock: its shim.
    pub fn holder(&self, dir: &Path) -> Result<Option<i32>, ShimError> {
        match client::shim_of(dir) {
            Ok(Holder::Free) => Ok(None),
            Ok(Holder::Pid(pid)) => Ok(Some(pid)),
            Err(source) => Err(io_error("ask for the lock of", dir, source)),
        }
    }

    fn is_connected(&self, dir: &Path) -> bool {
        guard(&self.connections)
            .get(dir)
            .is_some_and(|connection| !connection.is_closed())
    }

    async fn connect(self: &Arc<Self>, uid: &Uid, dir: &Path) -> Result<Arc<Connection>, ShimError> {
        let known = guard(&self.connections)
            .get(dir)
            .filter(|connection| !connection.is_closed())
            .map(Arc::clone);
        if let Some(connection) = known {
            return Ok(connection);
        }
        let stream = client::connect(dir)
            .and_then(|stream| {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)
            })
            .map_err(|source| io_error("connect to the shim of", dir, source))?;
        let connection = self.connected(uid, dir, stream).await?;
        guard(&self.connections).insert(dir.to_owned(), Arc::clone(&connection));
        Ok(connection)
    }

    async fn connected(&self, uid: &Uid, dir: &Path, stream: UnixStream) -> Result<Arc<Connection>, ShimError> {
        let hello = tokio::time::timeout(PATIENCE, Connection::open(dir, stream, uid.clone(), self.hints.clone()));
        hello.await.map_err(|_| ShimError::Stuck { path: dir.to_owned() })?
    }

    /// Ask a living shim for something and wait for its answer.
    pub async fn ask(self: &Arc<Self>, uid: &Uid, attempt: u32, body: RequestBody) -> Result<(), ShimError> {
        let dir = self.sandbox_dir(uid, attempt);
        let connection = self.connect(uid, &dir).await?;
        let reply = tokio::time::timeout(PATIENCE, connection.ask(body))
            .await
            .map_err(|_| ShimError::Stuck { path: dir.clone() })??;
        match reply {
            Reply::Done | Reply::Attached { .. } => Ok(()),
            Reply::Refused(message) => Err(ShimError::Refused { path: dir, message }),
            Reply::Failed(message) => Err(ShimError::Failed { message }),
        }
    }

    /// Wait until the journal has grown past what `seen` last read, or the shim is gone.
    pub async fn journal_grows(self: &Arc<Self>, uid: &Uid, attempt: u32, seen: u64) -> Result<(), ShimError> {
        let dir = self.sandbox_dir(uid, attempt);
        let connection = self.connect(uid, &dir).await?;
        tokio::time::timeout(PATIENCE, connection.grown(seen))
            .await
            .map_err(|_| ShimError::Stuck { path: dir })
    }

    /// How long the journal is now, in bytes.
    pub fn journal_length(&self, uid: &Uid, attempt: u32) -> u64 {
        let path = self.sandbox_dir(uid, attempt).join(JOURNAL);
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    }

    /// Wait until the shim of this sandbox has ended its connection (it is dead or about to be).
    pub async fn closed(&self, uid: &Uid, attempt: u32) {
        let dir = self.sandbox_dir(uid, attempt);
        let connection = guard(&self.connections).get(&dir).map(Arc::clone);
        if let Some(connection) = connection {
            connection.closed().await;
        }
    }

    /// Forget the connection of a sandbox that is gone.
    pub fn forget(&self, uid: &Uid, attempt: u32) {
        guard(&self.connections).remove(&self.sandbox_dir(uid, attempt));
    }
}

/// One connection with one shim.
#[derive(Debug)]
struct Connection {
    path: PathBuf,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Arc<Mutex<Pending>>,
    /// The journal's length as last told; the sender is dropped when the connection ends.
    journal: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    closed: bool,
}

impl Connection {
    async fn open(
        dir: &Path,
        stream: UnixStream,
        uid: Uid,
        hints: mpsc::UnboundedSender<Uid>,
    ) -> Result<Arc<Self>, ShimError> {
        let (mut reader, mut writer) = stream.into_split();
        let hello = Request {
            id: 0,
            body: RequestBody::Hello { protocol: PROTOCOL },
        };
        send(&mut writer, &hello)
            .await
            .map_err(|source| io_error("greet the shim of", dir, source))?;
        loop {
            let message = receive(&mut reader)
                .await
                .map_err(|source| io_error("hear the shim of", dir, source))?;
            match message {
                // It speaks the lower of both, and a lower one lacks only what this connection does not ask for.
                Some(FromShim::Hello {
                    protocol: 1..=PROTOCOL,
                    pid: _,
                }) => break,
                Some(FromShim::Hello {
                    protocol: theirs,
                    pid: _,
                }) => {
                    return Err(ShimError::Protocol {
                        path: dir.to_owned(),
                        theirs,
                    });
                }
                // What it says before it has heard our greeting is read from the journal anyway.
                Some(
                    FromShim::Journal { .. }
                    | FromShim::Reply { .. }
                    | FromShim::Ended { .. }
                    | FromShim::CutOff { .. },
                ) => {}
                None => return Err(ShimError::Gone { path: dir.to_owned() }),
            }
        }
        let pending = Arc::new(Mutex::new(Pending::default()));
        let (length, journal) = watch::channel(0);
        let connection = Self {
            path: dir.to_owned(),
            writer: tokio::sync::Mutex::new(writer),
            pending: Arc::clone(&pending),
            journal,
        };
        tokio::spawn(listen(reader, pending, length, uid, hints));
        Ok(Arc::new(connection))
    }

    fn is_closed(&self) -> bool {
        guard(&self.pending).closed
    }

    async fn ask(&self, body: RequestBody) -> Result<Reply, ShimError> {
        let gone = || ShimError::Gone {
            path: self.path.clone(),
        };
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut pending = guard(&self.pending);
            if pending.closed {
                return Err(gone());
            }
            pending.next += 1;
            let id = pending.next;
            pending.waiting.insert(id, sender);
            id
        };
        {
            let mut writer = self.writer.lock().await;
            send(&mut writer, &Request { id, body }).await.map_err(|_| gone())?;
        }
        receiver.await.map_err(|_| gone())
    }

    async fn grown(&self, seen: u64) {
        let mut journal = self.journal.clone();
        // An error says that the connection has ended: then the journal has its last word.
        let _ = journal.wait_for(|length| *length > seen).await;
    }

    async fn closed(&self) {
        let mut journal = self.journal.clone();
        while journal.changed().await.is_ok() {}
    }
}

/// Read what a shim says until it says no more.
async fn listen(
    mut reader: OwnedReadHalf,
    pending: Arc<Mutex<Pending>>,
    length: watch::Sender<u64>,
    uid: Uid,
    hints: mpsc::UnboundedSender<Uid>,
) {
    loop {
        match receive(&mut reader).await {
            Ok(Some(FromShim::Reply { id, result })) => {
                if let Some(sender) = guard(&pending).waiting.remove(&id) {
                    // Nobody waits any more: the answer is in the journal all the same.
                    let _ = sender.send(result);
                }
            }
            Ok(Some(FromShim::Journal { length: now })) => {
                length.send_replace(now);
                let _ = hints.send(uid.clone());
            }
            // The last two are for sessions, which have connections of their own.
            Ok(Some(FromShim::Hello { .. } | FromShim::Ended { .. } | FromShim::CutOff { .. })) => {}
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(pod.uid = %uid, %error, "lost the connection with a shim");
                break;
            }
        }
    }
    {
        let mut pending = guard(&pending);
        pending.closed = true;
        pending.waiting.clear();
    }
    drop(length);
    // The controller has ended when nobody listens.
    let _ = hints.send(uid);
}

pub(super) async fn send(writer: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let body = serde_json::to_vec(request)?;
    let length = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    writer.write_all(&frame).await
}

/// One message; `None` at the end.
pub(super) async fn receive(reader: &mut OwnedReadHalf) -> io::Result<Option<FromShim>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes"),
        ));
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    reader.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Names in a directory; none when it is not there.
fn names(dir: &Path) -> Result<Vec<String>, ShimError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", dir, source)),
    };
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .map_err(|source| io_error("list", dir, source))
        })
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ShimError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> ShimError {
    ShimError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// A lock whose holder panicked still guards a map that is whole.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
