//! Probes and hooks against real listeners on the loopback and real programs of this machine.

mod asking;
mod hooks;
mod servers;
mod watching;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::testing::{Programs, shell};
use super::{Inner, Parts, Probes, Target};
use crate::event::{EVENT, Recorder};
use crate::model::{Action, Observed, PodSpec, Probe, Report, RestartPolicy, Timestamp, Uid};
use crate::reconcile::testing::{at, attempt, pod, ready, running};
use crate::store::Store;

/// The agent of these tests has just begun.
fn now() -> Timestamp {
    at(100)
}

/// A machine with one pod, `web`, whose container `c` runs since the agent began.
struct World {
    probes: Probes,
    programs: Arc<Programs>,
    hints: mpsc::UnboundedReceiver<Uid>,
    store: Store,
    pod: PodSpec,
    observed: Observed,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let programs = Arc::<Programs>::default();
        let (hint, hints) = mpsc::unbounded_channel();
        let probes = Probes::new(Parts {
            streams: programs.clone(),
            hints: hint,
            recorder: Recorder::hasty(store.clone(), now),
            node_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            clock: now,
        });
        let mut observed = ready(vec![attempt("c", 0, running(100))]);
        if let Some(sandbox) = &mut observed.sandbox {
            sandbox.ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        Self {
            probes,
            programs,
            hints,
            store,
            pod: pod(RestartPolicy::Always, &["c"]),
            observed,
            _dir: dir,
        }
    }

    fn inner(&self) -> &Inner {
        &self.probes.0
    }

    fn target(&self) -> Target {
        self.inner().target(&self.pod, &self.observed, "c", 0)
    }

    fn watch(&self) {
        self.probes.watch(&self.pod, &self.observed);
    }

    /// The next report, recorded and settled as the controller does it.
    async fn hear(&mut self) -> Report {
        loop {
            let uid = self.hints.recv().await.unwrap();
            assert_eq!(uid, self.pod.uid);
            let reports = self.probes.reports(&uid, 0);
            let Some(report) = reports.into_iter().next() else {
                continue;
            };
            self.observed = crate::reconcile::report(now(), &self.pod, &self.observed, &report);
            self.probes.settle(&uid, 1);
            self.watch();
            return report;
        }
    }

    /// Completes with the message of the first event of this reason.
    async fn told(&self, reason: &str) -> String {
        let mut changes = self.store.subscribe();
        loop {
            let events = self.store.list(EVENT, None, None, None).await.unwrap();
            let found = events.objects.iter().find(|event| event.json["reason"] == reason);
            if let Some(event) = found {
                return event.json["message"].as_str().unwrap().to_owned();
            }
            changes.recv().await.unwrap();
        }
    }
}

/// Often, and once is enough.
fn probe(action: Action) -> Probe {
    Probe {
        action,
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(5),
        timeout: Duration::from_secs(30),
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace: None,
    }
}

fn http(port: u16, path: &str) -> Action {
    Action::HttpGet {
        host: None,
        port,
        https: false,
        path: path.to_owned(),
        headers: Vec::new(),
    }
}
