//! How long a connection of HTTP/1 may take for a request's head, and how long it may be idle between two.
//!
//! The HTTP library knows one time for both: it gets the longer one. The shorter one is kept here, where bytes come in.
//!
//! **Invariant:** a connection that is in the middle of a head has until its deadline, whatever it sends meanwhile.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Between two requests: the next byte begins a head.
const IDLE: u8 = 0;
/// A head has begun, or the first one could have.
const HEAD: u8 = 1;
/// A request is being answered, or the connection belongs to a stream: what comes in now has other limits.
const BUSY: u8 = 2;

/// Where a connection is, as its service and its bytes both know it.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<AtomicU8>);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(HEAD)))
    }

    /// A head is complete.
    pub(crate) fn begun(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// This answers it. Once it is sent, the connection is idle; unless it has become a stream.
    pub(crate) fn answered(&self, answer: Response<Body>) -> Response<Body> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return answer;
        }
        let pace = self.clone();
        answer.map(|body| Body::new(Answer { body, pace }))
    }
}

/// A body whose end is noticed.
struct Answer {
    body: Body,
    pace: Pace,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pace.0.store(IDLE, Ordering::Relaxed);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a connection.
pub(crate) struct Paced<S> {
    stream: S,
    pace: Pace,
    patience: Duration,
    /// Only while it is needed.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// The first head has to come within `patience` from now.
    pub(crate) fn new(stream: S, pace: Pace, patience: Duration) -> Self {
        Self {
            stream,
            pace,
            patience,
            deadline: None,
        }
    }

    /// Whether a head is overdue.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pace.0.load(Ordering::Relaxed) != HEAD {
            self.deadline = None;
            return Poll::Pending;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        deadline.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.poll_overdue(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            let idle = self
                .pace
                .0
                .compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
            if idle.is_ok() {
                self.deadline = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
