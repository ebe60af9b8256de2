//! A program run in a container, to its end, with the beginning of what it printed.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{Inner, Target};
use crate::runtime::stream::{Exec, Output, Session, SessionEnd, StreamError, Wanted};

/// Bytes of each of its outputs that are kept (`pkg/probe/exec/exec.go maxReadLength`); more is read and thrown away.
pub(super) const OUTPUT_MAX: usize = 10 << 10;
/// How long output may still come after its program has ended: what it left in the background may hold it for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ExecError {
    #[error(transparent)]
    Begin(#[from] StreamError),
    #[error("it was cut off: {0}")]
    CutOff(String),
}

/// Run it. Dropping the future ends the program.
pub(super) async fn run(inner: &Inner, target: &Target, command: &[String]) -> Result<Ran, ExecError> {
    let exec = Exec {
        container: target.container.clone(),
        command: command.to_vec(),
        wanted: Wanted {
            stdin: false,
            stdout: true,
            stderr: true,
            tty: None,
        },
    };
    let Session {
        stdin: _,
        stdout,
        stderr,
        resize: _,
        mut end,
        guard: _guard,
    } = inner.parts.streams.exec(&target.uid, exec).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = {
        let reading = async { tokio::join!(collect(stdout, &mut out), collect(stderr, &mut err)) };
        tokio::pin!(reading);
        let mut all_read = false;
        let end = loop {
            // Cancel-safe: both are only borrowed here.
            tokio::select! {
                end = &mut end => break end,
                _ = &mut reading, if !all_read => all_read = true,
            }
        };
        if !all_read {
            // What did not come in time is not waited for.
            let _ = tokio::time::timeout(LAST_WORDS, &mut reading).await;
        }
        end
    };
    match end {
        Ok(SessionEnd::Code(code)) => Ok(Ran {
            code,
            stdout: out,
            stderr: err,
        }),
        Ok(SessionEnd::Lost(message)) => Err(ExecError::CutOff(message)),
        Err(_) => Err(ExecError::CutOff("nobody knows how it ended".to_owned())),
    }
}

async fn collect(output: Option<Output>, kept: &mut Vec<u8>) {
    let Some(mut output) = output else { return };
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        let room = OUTPUT_MAX.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&piece[..room]);
    }
}
