//! The heartbeats of the node, put in as it is read.
//!
//! Goes in: an object from the store. Comes out: the same; the agent's own Node and Lease with their beats as of now.
//!
//! A kubelet writes its Lease every 10 s and its status every 5 minutes, to tell an API server elsewhere that it is alive.
//! Here both are one process, and an idle machine writes nothing to its disk: whoever gets an answer has it from the living
//! agent. So the times are worked out when they are asked for, to the beats a kubelet keeps, and never stored. The resource
//! version does not change with them, and watches show them only with other changes.

use std::sync::Arc;

use jiff::Unit;
use serde_json::Value;

use crate::model::Timestamp;

/// `nodeStatusReportFrequency` and `nodeLeaseDurationSeconds / 4`, in seconds.
const STATUS_EVERY: i64 = 300;
const LEASE_EVERY: i64 = 10;

/// What only a kubelet writes.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) fn beaten(kind: &str, node_name: &str, object: Arc<Value>, now: Timestamp) -> Arc<Value> {
    if object["metadata"]["name"] != node_name {
        return object;
    }
    match kind {
        "Node" => {
            let mut object = Arc::unwrap_or_clone(object);
            let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
            for condition in conditions.into_iter().flatten() {
                let is_own = CONDITIONS.iter().any(|own| condition["type"] == *own);
                if is_own && let Some(at) = beat(&condition["lastHeartbeatTime"], now, STATUS_EVERY) {
                    condition["lastHeartbeatTime"] = at.to_string().into();
                }
            }
            Arc::new(object)
        }
        "Lease" if object["metadata"]["namespace"] == "kube-node-lease" => {
            let mut object = Arc::unwrap_or_clone(object);
            if let Some(spec) = object.get_mut("spec")
                && spec["holderIdentity"] == node_name
                && let Some(at) = beat(&spec["renewTime"], now, LEASE_EVERY)
            {
                spec["renewTime"] = format!("{at:.6}").into();
            }
            Arc::new(object)
        }
        _ => object,
    }
}

/// The last beat before `now`, if it is later than the one that is stored.
fn beat(stored: &Value, now: Timestamp, every: i64) -> Option<Timestamp> {
    let stored: Timestamp = stored.as_str()?.parse().ok()?;
    let since = now.duration_since(stored).as_secs();
    let passed = since.checked_div(every)?.max(0) * every;
    let at = stored.checked_add(jiff::SignedDuration::from_secs(passed)).ok()?;
    (passed > 0).then(|| at.round(Unit::Microsecond).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_lease_is_renewed_every_ten_seconds() {
        let lease = |renewed: &str| {
            json!({"metadata": {"name": "n", "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": "n", "renewTime": renewed}})
        };
        let stored = lease("2026-01-01T00:00:00.123456Z");
        for (now, expected) in [
            ("2026-01-01T00:00:09Z", "2026-01-01T00:00:00.123456Z"),
            ("2026-01-01T00:00:11Z", "2026-01-01T00:00:10.123456Z"),
            ("2026-01-01T01:00:00.2Z", "2026-01-01T01:00:00.123456Z"),
            // The clock was set back: never earlier than what was said once.
            ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z"),
        ] {
            let read = beaten("Lease", "n", Arc::new(stored.clone()), at(now));
            assert_eq!(*read, lease(expected), "{now}");
        }
    }

    #[test]
    fn the_node_reports_every_five_minutes_what_is_its_own_to_report() {
        let node = |own: &str| {
            json!({"metadata": {"name": "n"}, "status": {"conditions": [
                {"type": "Ready", "lastHeartbeatTime": own, "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Somebodys", "lastHeartbeatTime": "2026-01-01T00:00:00Z"},
            ]}})
        };
        let read = beaten(
            "Node",
            "n",
            Arc::new(node("2026-01-01T00:00:00Z")),
            at("2026-01-01T00:14:00Z"),
        );
        assert_eq!(*read, node("2026-01-01T00:10:00Z"));
    }

    #[test]
    fn nothing_else_is_touched() {
        for (kind, object) in [
            (
                "Node",
                json!({"metadata": {"name": "other"}, "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": "2020-01-01T00:00:00Z"}]}}),
            ),
            (
                "Lease",
                json!({"metadata": {"name": "n", "namespace": "mine"}, "spec": {"holderIdentity": "n", "renewTime": "2020-01-01T00:00:00.000000Z"}}),
            ),
            (
                "Lease",
                json!({"metadata": {"name": "n", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "me", "renewTime": "2020-01-01T00:00:00.000000Z"}}),
            ),
            ("Pod", json!({"metadata": {"name": "n"}})),
            ("Node", json!({"metadata": {"name": "n"}})),
        ] {
            let read = beaten(kind, "n", Arc::new(object.clone()), at("2026-01-01T00:00:00Z"));
            assert_eq!(*read, object);
        }
    }
}
