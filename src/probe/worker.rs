//! One probe of one attempt, again and again until it is cut off.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::action::{self, Outcome, ProbeError};
use super::words::title;
use super::{Inner, Target};
use crate::model::{Probe, ProbeKind, Timestamp};

/// How often one probe is tried when it cannot be carried out (`prober.go maxProbeRetries`).
const TRIES: usize = 3;

/// No probe comes more often than this, whatever its period.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct Worker {
    pub(super) inner: Arc<Inner>,
    pub(super) target: Target,
    pub(super) probe: Probe,
    pub(super) kind: ProbeKind,
}

impl Worker {
    pub(super) async fn run(self, first: Duration) {
        let mut ticks = interval_at(Instant::now() + first, self.probe.period.max(SHORTEST));
        // One that takes longer than its period leaves those out that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if let Some(success) = self.probe().await {
                self.inner.probed(&self.target, self.kind, success);
            }
        }
    }

    /// One probe. `None`: it could not be carried out, which says nothing of the container.
    async fn probe(&self) -> Option<bool> {
        let mut outcome = self.once().await;
        for _ in 1..TRIES {
            if outcome.is_ok() {
                break;
            }
            outcome = self.once().await;
        }
        let kind = title(self.kind);
        match outcome {
            Ok(Outcome::Success) => Some(true),
            Ok(Outcome::Warning(output)) => {
                let message = format!("{kind} probe warning: {output}");
                self.inner.warn(&self.target, "ProbeWarning", message);
                Some(true)
            }
            Ok(Outcome::Failure(output)) => {
                let message = format!("{kind} probe failed: {output}");
                self.inner.warn(&self.target, "Unhealthy", message);
                Some(false)
            }
            // It has just ended, or its sandbox has: that is told elsewhere.
            Err(ProbeError::NotRunning) => None,
            Err(error) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {error}");
                self.inner.warn(&self.target, "Unhealthy", message);
                None
            }
        }
    }

    async fn once(&self) -> Result<Outcome, ProbeError> {
        action::run_probe(&self.inner, &self.target, &self.probe).await
    }
}

/// How long the first probe waits: for its initial delay, counted from the start of the container; one that an agent
/// before this one has started may have been probed a moment ago, and waits for a part of its period (`random`, 0 to 1).
pub(super) fn first_wait(
    now: Timestamp,
    started_at: Timestamp,
    agent_since: Timestamp,
    probe: &Probe,
    random: f64,
) -> Duration {
    let delay = probe.initial_delay.saturating_sub(since(started_at, now));
    if started_at < agent_since {
        delay.max(probe.period.mul_f64(random))
    } else {
        delay
    }
}

/// How long ago; zero where the clock went back.
pub(super) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

/// 0 to 1. Spreads load and is of no other use.
#[expect(clippy::cast_precision_loss, reason = "a few of its bits are enough")]
pub(super) fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
