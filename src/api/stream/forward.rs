//! Port-forward: connections to ports of a pod, each as a pair of streams (its bytes, and what went wrong).
//!
//! Over SPDY (raw, or inside a WebSocket) a client opens as many pairs as it has connections, each with a `requestid`; over
//! WebSocket channels it names its ports in the query, and each has one connection.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::multiplex::{Opened, Stream};
use super::wire::{Gone, Incoming, Outgoing, PIECE, Wire};
use super::{Context, spdy, websocket};
use crate::model::Uid;
use crate::runtime::stream::{StreamError, Streams};

/// Connections of one session at once.
const CONNECTIONS: usize = 256;
/// Pairs of which only one half has come.
const HALVES: usize = 64;
/// How long the other half is waited for.
const PAIR_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Ports that one WebSocket may name.
pub(super) const PORTS: usize = 64;

/// Whose ports they are.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pod: String,
    pub(super) uid: Uid,
    pub(super) streams: Arc<dyn Streams>,
    /// What all streams of all clients share.
    pub(super) permits: Arc<Semaphore>,
}

impl Target {
    fn refused(&self, port: u16, why: &str) -> String {
        format!(
            "error forwarding port {port} to pod {}, uid {}: {why}",
            self.pod, self.uid
        )
    }

    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        self.streams.dial(&self.uid, port).await.map_err(|error| {
            let why = match &error {
                StreamError::Dial { source, .. } => format!(
                    "failed to connect to localhost:{port} inside the pod: {}",
                    super::dial_error(source)
                ),
                StreamError::NotRunning(_) | StreamError::NotExecuted(_) | StreamError::Shim(_) => {
                    super::session::chain(&error)
                }
            };
            self.refused(port, &why)
        })
    }
}

/// One connection: its bytes both ways, and where it is told what went wrong.
struct Pair {
    input: Incoming,
    output: Outgoing,
    errors: Outgoing,
    /// The client wants nothing of it any more. `None` where it cannot say so.
    was_reset: Option<oneshot::Receiver<()>>,
}

impl Pair {
    /// Ends once both directions have, or the client is gone.
    async fn forward(mut self, target: &Target, port: u16) -> Result<(), Gone> {
        let connection = match Arc::clone(&target.permits).try_acquire_owned() {
            Ok(permit) => target.dial(port).await.map(|connection| (connection, permit)),
            Err(_) => Err(target.refused(port, "too many streams at once, please try again")),
        };
        let (connection, _permit) = match connection {
            Ok(made) => made,
            Err(why) => {
                self.errors.send(why.as_bytes()).await?;
                self.errors.finish().await?;
                return self.output.finish().await;
            }
        };
        let (from, to) = connection.into_split();
        let upward = upward(&mut self.input, to);
        let downward = async {
            downward(from, &self.output).await?;
            // Clients wait for the end of both before they close their own end.
            self.output.finish().await?;
            self.errors.finish().await
        };
        let reset = async {
            if let Some(reset) = self.was_reset
                && reset.await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        };
        // Cancel-safe: what is dropped here ends the connection to the pod, as the client wants.
        tokio::select! {
            ((), sent) = async { tokio::join!(upward, downward) } => sent,
            () = reset => Ok(()),
        }
    }
}

/// Client to pod, and the client's end.
async fn upward(from: &mut Incoming, to: OwnedWriteHalf) {
    let mut to = Some(to);
    while let Some(bytes) = from.recv().await {
        if let Some(connection) = &mut to
            && connection.write_all(&bytes).await.is_err()
        {
            // The pod has closed: what comes is dropped, so that other connections are still heard.
            to = None;
        }
    }
    if let Some(mut connection) = to {
        let _closed_by_its_drop = connection.shutdown().await;
    }
}

/// Pod to client, up to the pod's end.
async fn downward(mut from: OwnedReadHalf, to: &Outgoing) -> Result<(), Gone> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => to.send(&buffer[..read]).await?,
        }
    }
}

/// Serve the ports of the query, channels 2i and 2i+1 for the i-th. Ends when all their connections have.
pub(super) async fn serve_channels(
    ports: &[u16],
    inputs: Vec<Incoming>,
    framing: impl Fn(u8) -> super::wire::Framing,
    wire: Wire,
    target: &Target,
    context: &Context,
) {
    let outgoing = |channel: usize| Outgoing {
        wire: wire.clone(),
        framing: framing(u8::try_from(channel).unwrap_or(u8::MAX)),
    };
    let mut pairs = Vec::new();
    for (at, (port, input)) in ports.iter().zip(inputs).enumerate() {
        let (output, errors) = (outgoing(2 * at), outgoing(2 * at + 1));
        // An error means that the client is gone, as the connections will find out.
        let _gone = output.send(&port.to_le_bytes()).await;
        let _gone = errors.send(&port.to_le_bytes()).await;
        let pair = Pair {
            input,
            output,
            errors,
            was_reset: None,
        };
        pairs.push((*port, pair));
    }
    let connections = async {
        let mut all = JoinSet::new();
        for (port, pair) in pairs {
            let target = target.clone();
            all.spawn(async move { pair.forward_down(&target, port).await });
        }
        while all.join_next().await.is_some() {}
    };
    // Cancel-safe: what is dropped here ends all connections.
    tokio::select! {
        () = connections => {}
        () = context.stopped() => {}
        () = wire.activity.idle(context.idle_limit) => {}
    }
    let _gone = wire.frame(websocket::close(websocket::NORMAL)).await;
    wire.end().await;
}

impl Pair {
    /// The same for a client that cannot say that it has ended: the pod's end is the end.
    async fn forward_down(self, target: &Target, port: u16) -> Result<(), Gone> {
        let Self {
            mut input,
            output,
            errors,
            was_reset: _,
        } = self;
        let connection = match target.dial(port).await {
            Ok(connection) => connection,
            Err(why) => return errors.send(why.as_bytes()).await,
        };
        let (from, to) = connection.into_split();
        let mut down = std::pin::pin!(downward(from, &output));
        // Cancel-safe: the pod has ended, so nobody reads what the client still sends.
        tokio::select! {
            sent = down.as_mut() => sent,
            () = upward(&mut input, to) => down.await,
        }
    }
}

/// The halves of pairs that have come.
#[derive(Default)]
struct Halves {
    waiting: HashMap<String, (Instant, Half)>,
}

enum Half {
    Data(Stream),
    Errors(Stream),
}

/// What a new stream makes.
enum Met {
    Waits,
    Pair(u16, Box<Pair>),
    /// The stream says something that cannot be.
    Wrong(Stream, String),
    /// Said on the error stream of the pair.
    Twice(Stream, String),
}

impl Halves {
    fn meet(&mut self, stream: Stream) -> Met {
        let port = match stream.header("port").map(|text| (text, text.parse::<u16>())) {
            None => return Met::Wrong(stream, "\"port\" header is required".to_owned()),
            Some((_, Ok(port))) if port > 0 => port,
            Some((text, _)) => {
                let why = format!("unable to parse \"{text}\" as a port");
                return Met::Wrong(stream, why);
            }
        };
        let is_data = match stream.header("streamtype") {
            Some("data") => true,
            Some("error") => false,
            Some(other) => {
                let why = format!("invalid stream type \"{other}\"");
                return Met::Wrong(stream, why);
            }
            None => return Met::Wrong(stream, "\"streamtype\" header is required".to_owned()),
        };
        // Clients older than request ids open the error stream first, then the data stream.
        let request = stream.header("requestid").map_or_else(
            || (if is_data { stream.id.wrapping_sub(2) } else { stream.id }).to_string(),
            str::to_owned,
        );
        match self.waiting.remove(&request) {
            None if self.waiting.len() >= HALVES => Met::Wrong(stream, "too many streams without a pair".to_owned()),
            None => {
                let half = if is_data {
                    Half::Data(stream)
                } else {
                    Half::Errors(stream)
                };
                self.waiting.insert(request, (Instant::now(), half));
                Met::Waits
            }
            Some((_, Half::Data(data))) if !is_data => Met::Pair(port, Box::new(pair(data, stream))),
            Some((_, Half::Errors(errors))) if is_data => Met::Pair(port, Box::new(pair(stream, errors))),
            Some((since, half)) => {
                let why = format!(
                    "error processing stream for request {request}: {} stream already assigned",
                    if is_data { "data" } else { "error" }
                );
                self.waiting.insert(request, (since, half));
                Met::Twice(stream, why)
            }
        }
    }

    /// When the oldest half has waited long enough.
    fn deadline(&self) -> Option<Instant> {
        let oldest = self.waiting.values().map(|(since, _)| *since).min();
        oldest.map(|since| since + PAIR_TIMEOUT)
    }

    fn take_late(&mut self) -> Vec<(String, Half)> {
        let now = Instant::now();
        let late = self.waiting.extract_if(|_, (since, _)| *since + PAIR_TIMEOUT <= now);
        late.map(|(request, (_, half))| (request, half)).collect()
    }
}

fn pair(data: Stream, errors: Stream) -> Pair {
    Pair {
        input: data.input,
        output: data.output,
        errors: errors.output,
        was_reset: Some(data.was_reset),
    }
}

/// Serve pairs as they come, until the client is gone.
pub(super) async fn serve_streams(mut opened: Opened, wire: Wire, target: &Target, context: &Context) {
    let mut halves = Halves::default();
    let mut connections = JoinSet::new();
    loop {
        let late = async {
            match halves.deadline() {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: queues keep what they have not given out; timers count to the same moment in the next round.
        let stream = tokio::select! {
            stream = opened.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            () = late => {
                for (request, half) in halves.take_late() {
                    give_up(&request, half).await;
                }
                continue;
            }
            () = context.stopped() => break,
            () = wire.activity.idle(context.idle_limit) => break,
        };
        match halves.meet(stream) {
            Met::Waits => {}
            Met::Pair(port, pair) if connections.len() < CONNECTIONS => {
                let target = target.clone();
                connections.spawn(async move { (*pair).forward(&target, port).await });
            }
            Met::Pair(port, pair) => {
                let why = target.refused(port, "too many connections at once");
                let _gone = pair.errors.send(why.as_bytes()).await;
                let _gone = pair.errors.finish().await;
                let _gone = pair.output.finish().await;
            }
            Met::Wrong(stream, why) => {
                tracing::debug!(why, "a stream of a port-forward is refused");
                stream.reset().await;
            }
            Met::Twice(stream, why) => {
                let _gone = stream.output.send(why.as_bytes()).await;
                let _gone = stream.output.finish().await;
            }
        }
    }
    connections.shutdown().await;
    let _gone = wire.frame(spdy::go_away(0)).await;
    wire.end().await;
}

async fn give_up(request: &str, half: Half) {
    match half {
        Half::Errors(stream) => {
            let why = format!("error processing stream for request {request}: timed out waiting for streams");
            let _gone = stream.output.send(why.as_bytes()).await;
            let _gone = stream.output.finish().await;
        }
        Half::Data(stream) => stream.reset().await,
    }
}
