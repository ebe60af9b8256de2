//! An exec or attach from its first byte to its status, whatever the transport.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::wire::{Incoming, Outgoing, PIECE};
use super::{Context, websocket};
use crate::model::Uid;
use crate::runtime::stream::{Exec, Input, Output, Session, SessionEnd, StreamError, Streams, TerminalSize, Wanted};

/// How long a terminal's first size is waited for.
const FIRST_SIZE: Duration = Duration::from_millis(50);
/// Bytes of a size that is not yet whole.
const SIZE_LIMIT: usize = 1024;

/// What is begun.
#[derive(Debug)]
pub(super) enum Start {
    Exec(Exec),
    Attach { container: String, wanted: Wanted },
}

/// The streams of a client, over whichever transport.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stdin: Option<Incoming>,
    pub(super) stdout: Option<Outgoing>,
    pub(super) stderr: Option<Outgoing>,
    pub(super) resize: Option<Incoming>,
    pub(super) status: Outgoing,
    /// A whole `Status`, as version 4 and later want it; else only what went wrong, as text.
    pub(super) has_status: bool,
    /// The transport's last word, if it has one.
    pub(super) is_websocket: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success,
    Exit(i32),
    Failed(String),
}

impl Outcome {
    /// `metav1.Status` (`kubelet/pkg/cri/streaming/remotecommand`).
    fn status(&self) -> Value {
        match self {
            Self::Success => json!({ "metadata": {}, "status": "Success" }),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.text(),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.text(),
                "reason": "InternalError",
                "details": { "causes": [{ "message": why }] },
                "code": 500,
            }),
        }
    }

    /// Empty for success: nothing is said then.
    fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }
}

/// Serve a client until its session ends. Dropped where the client is gone: then the session ends with it.
pub(super) async fn serve(mut client: Client, start: Start, uid: &Uid, streams: Arc<dyn Streams>, context: &Context) {
    let activity = client.status.wire.activity.clone();
    let outcome = {
        let running = run(&mut client, start, uid, streams);
        // Cancel-safe: what is dropped here ends as a session without a client does.
        tokio::select! {
            outcome = running => outcome,
            () = context.stopped() => Outcome::Failed("the agent is stopping".to_owned()),
            () = activity.idle(context.idle_limit) => {
                Outcome::Failed(format!("the stream was idle for {} seconds", context.idle_limit.as_secs()))
            }
        }
    };
    // Nothing more is read of the client: what it still sends is dropped.
    (client.stdin, client.resize) = (None, None);
    // An error means that the client is gone: nobody is left to be told.
    let _gone = say(&client, &outcome).await;
    client.status.wire.end().await;
}

async fn say(client: &Client, outcome: &Outcome) -> Result<(), super::wire::Gone> {
    let text = if client.has_status {
        outcome.status().to_string()
    } else {
        outcome.text()
    };
    for piece in text.as_bytes().chunks(PIECE) {
        client.status.send(piece).await?;
    }
    client.status.finish().await?;
    for output in client.stdout.iter().chain(&client.stderr) {
        output.finish().await?;
    }
    if client.is_websocket {
        client.status.wire.frame(websocket::close(websocket::NORMAL)).await?;
    }
    Ok(())
}

async fn run(client: &mut Client, start: Start, uid: &Uid, streams: Arc<dyn Streams>) -> Outcome {
    let mut sizes = Sizes::new(client.resize.take());
    let is_exec = matches!(start, Start::Exec(_));
    let begun = match start {
        Start::Exec(mut exec) => {
            if let Some(size) = &mut exec.wanted.tty {
                // None in time: the terminal begins without a size, as it would with nobody telling one.
                *size = tokio::time::timeout(FIRST_SIZE, sizes.next()).await.ok().flatten();
            }
            let program = exec.command.first().cloned().unwrap_or_default();
            streams.exec(uid, exec).await.map_err(|error| match &error {
                StreamError::NotExecuted(why) => {
                    format!("error executing command in container: exec: \"{program}\": {why}")
                }
                StreamError::NotRunning(_) | StreamError::Dial { .. } | StreamError::Shim(_) => {
                    format!("error executing command in container: {}", chain(&error))
                }
            })
        }
        Start::Attach { container, wanted } => streams
            .attach(uid, &container, wanted)
            .await
            .map_err(|error| format!("error attaching to container: {}", chain(&error))),
    };
    let session = match begun {
        Ok(session) => session,
        Err(why) => return Outcome::Failed(why),
    };
    match joined(client, session, sizes).await {
        SessionEnd::Code(0) => Outcome::Success,
        SessionEnd::Code(code) if is_exec => Outcome::Exit(code),
        // How a container ended that one was attached to is told by its pod's status.
        SessionEnd::Code(_) => Outcome::Success,
        SessionEnd::Lost(why) => Outcome::Failed(why),
    }
}

/// An error and what it came from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Copy until the program has ended and everything it wrote is sent.
async fn joined(client: &mut Client, session: Session, mut sizes: Sizes) -> SessionEnd {
    let Session {
        stdin,
        stdout,
        stderr,
        resize,
        end,
        guard,
    } = session;
    let outputs = async {
        tokio::join!(
            pump(stdout, client.stdout.as_ref()),
            pump(stderr, client.stderr.as_ref())
        );
        end.await
    };
    let input = feed(client.stdin.as_mut(), stdin);
    let resizing = async {
        // A terminal of an attach has its size from the first client on.
        while let Some(resize) = &resize
            && let Some(size) = sizes.next().await
        {
            if resize.send(size).await.is_err() {
                break;
            }
        }
        // Nobody wants sizes any more: what comes is dropped, so that the client is still heard.
        sizes.from = None;
    };
    let for_ever = async {
        tokio::join!(input, resizing);
        std::future::pending().await
    };
    // Cancel-safe: what the program did not read by its end it will never read.
    let ended = tokio::select! {
        ended = outputs => ended,
        never = for_ever => never,
    };
    drop(guard);
    ended.unwrap_or_else(|_| SessionEnd::Lost("the session was cut off".to_owned()))
}

/// Everything a program writes, to the client.
async fn pump(from: Option<Output>, to: Option<&Outgoing>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "the output of a session cannot be read");
                return;
            }
        };
        if let Some(to) = to
            && to.send(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}

/// Everything a client sends, to the program; and its end.
async fn feed(from: Option<&mut Incoming>, to: Option<Input>) {
    let Some(from) = from else { return };
    let mut to = to;
    while let Some(bytes) = from.recv().await {
        if let Some(input) = &mut to
            && let Err(error) = written(input, &bytes).await
        {
            // It closed its input and goes on: what comes is dropped, so that the client is still heard.
            tracing::debug!(%error, "the input of a session is closed");
            to = None;
        }
    }
    if let Some(mut input) = to {
        let _closed_by_its_drop = input.shutdown().await;
    }
}

async fn written(input: &mut Input, bytes: &[u8]) -> std::io::Result<()> {
    input.write_all(bytes).await?;
    input.flush().await
}

/// As Go writes it.
#[derive(Debug, Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// The sizes a client tells, one JSON value after the other.
#[derive(Debug)]
struct Sizes {
    from: Option<mpsc::Receiver<bytes::Bytes>>,
    rest: Vec<u8>,
}

impl Sizes {
    fn new(from: Option<Incoming>) -> Self {
        Self { from, rest: Vec::new() }
    }

    /// The newest size; `None` once no more will come, or what comes is no size. Cancel-safe.
    async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            let from = self.from.as_mut()?;
            match from.recv().await {
                Some(bytes) if self.rest.len() + bytes.len() <= SIZE_LIMIT => self.rest.extend_from_slice(&bytes),
                Some(_) | None => {
                    self.from = None;
                    return None;
                }
            }
            let mut values = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
            let mut newest = None;
            let mut used = 0;
            let broken = loop {
                match values.next() {
                    Some(Ok(size)) => {
                        newest = Some(size);
                        used = values.byte_offset();
                    }
                    Some(Err(error)) => break !error.is_eof(),
                    None => break false,
                }
            };
            self.rest.drain(..used);
            if broken {
                self.from = None;
            }
            if let Some(Size { width, height }) = newest {
                return Some(TerminalSize { width, height });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_the_sizes_that_came_together_counts() {
        let (sender, receiver) = mpsc::channel(8);
        let mut sizes = Sizes::new(Some(receiver));
        let size = |width, height| Some(TerminalSize { width, height });
        sender.send("{\"Width\":99,\"Height\":33}\n".into()).await.unwrap();
        assert_eq!(sizes.next().await, size(99, 33));
        for piece in ["{\"Wid", "th\":1,\"Height\":2}\n{\"Width\":3,\"Height\":4}{\"W"] {
            sender.send(piece.into()).await.unwrap();
        }
        assert_eq!(sizes.next().await, size(3, 4));
        sender.send("idth\":5,\"Height\":6}".into()).await.unwrap();
        assert_eq!(sizes.next().await, size(5, 6));
        sender.send("nonsense".into()).await.unwrap();
        assert_eq!(sizes.next().await, None);
    }

    #[test]
    fn outcomes_are_worded_as_kubernetes_words_them() {
        assert_eq!(
            Outcome::Exit(3).status(),
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: exit status 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}})
        );
        assert_eq!(Outcome::Success.status(), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(Outcome::Success.text(), "");
        let failed = Outcome::Failed("x".to_owned());
        assert_eq!(failed.status()["message"], "Internal error occurred: x");
        assert_eq!(failed.status()["code"], 500);
    }
}
