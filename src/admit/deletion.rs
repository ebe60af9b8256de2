//! What a DELETE makes of an object (`apiserver/pkg/registry/rest/delete.go`, `apiserver/pkg/registry/generic/registry/store.go`;
//! `pkg/registry/core/pod/strategy.go`, `CheckGracefulDelete`; `pkg/registry/core/namespace/storage`).
//!
//! **Invariant:** pure. An object that finalizers hold, a pod, and a namespace are only marked; someone else finishes.

use jiff::SignedDuration;
use serde_json::Value;

use crate::model::Timestamp;

/// Finalizer: the dependants lose their owner before it goes.
pub const ORPHAN: &str = "orphan";
/// Finalizer: the dependants go before their owner.
pub const FOREGROUND: &str = "foregroundDeletion";
/// What a namespace's `spec.finalizers` holds until it is empty.
pub const KUBERNETES: &str = "kubernetes";

/// What becomes of the dependants: `propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They go after their owner.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// How the objects of a kind go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Marked, and removed by the controller once nothing of it is left on the machine.
    Graceful,
    /// Removed at once, if no finalizer holds it.
    AtOnce,
    /// Marked, and removed once nothing is left in it.
    Emptied,
}

impl Manner {
    /// Of the objects that are stored under `kind`.
    pub fn of(kind: &str) -> Self {
        match kind {
            "Pod" => Self::Graceful,
            "Namespace" => Self::Emptied,
            _ => Self::AtOnce,
        }
    }
}

/// What is to be done to the object.
#[derive(Debug, PartialEq)]
pub enum Deletion {
    /// It is being deleted already, and this changes nothing.
    Unchanged,
    /// It is to be replaced by this.
    Mark(Value),
    /// It is to be removed.
    Remove,
}

/// `grace` and `propagation` as the client asked for them.
pub fn delete(
    manner: Manner,
    object: &Value,
    grace: Option<i64>,
    propagation: Option<Propagation>,
    now: Timestamp,
) -> Deletion {
    let pending = object["metadata"]["deletionTimestamp"].is_string();
    let finalizers = finalizers_for(object, propagation);
    let marked = match manner {
        Manner::Graceful => {
            let Some(mut marked) = mark(object, grace, now) else {
                return Deletion::Unchanged;
            };
            if !pending {
                set_finalizers(&mut marked, &finalizers);
            }
            marked
        }
        Manner::AtOnce | Manner::Emptied if pending => {
            return if is_held(manner, object) {
                Deletion::Unchanged
            } else {
                Deletion::Remove
            };
        }
        Manner::AtOnce | Manner::Emptied => {
            let mut marked = object.clone();
            set_finalizers(&mut marked, &finalizers);
            if !is_held(manner, &marked) {
                return Deletion::Remove;
            }
            put_mark(&mut marked, now, 0);
            if manner == Manner::Emptied {
                marked["status"]["phase"] = "Terminating".into();
            }
            marked
        }
    };
    Deletion::Mark(marked)
}

/// An object that is being deleted may go: a change took away the last that held it.
pub fn is_over(manner: Manner, object: &Value) -> bool {
    manner != Manner::Graceful && object["metadata"]["deletionTimestamp"].is_string() && !is_held(manner, object)
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    texts(&object["metadata"]["finalizers"])
}

/// Replace the finalizers of an object; none at all leave no field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
    } else {
        object["metadata"]["finalizers"] = finalizers.into();
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn is_held(manner: Manner, object: &Value) -> bool {
    let emptied = manner != Manner::Emptied || texts(&object["spec"]["finalizers"]).is_empty();
    !emptied || !finalizers(object).is_empty()
}

/// Those of the object, but of the two of garbage collection the one that was asked for; when nothing was, the one it has.
fn finalizers_for(object: &Value, propagation: Option<Propagation>) -> Vec<String> {
    let present = finalizers(object);
    let wanted = match propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => [ORPHAN, FOREGROUND].into_iter().find(|name| present.contains(name)),
    };
    present
        .into_iter()
        .filter(|name| ![ORPHAN, FOREGROUND].contains(name))
        .chain(wanted)
        .map(str::to_owned)
        .collect()
}

/// The object as it is once its deletion was asked for; `None` when it is being deleted already and this changes nothing.
fn mark(object: &Value, asked: Option<i64>, now: Timestamp) -> Option<Value> {
    let metadata = &object["metadata"];
    let (grace, from) = if let Some(until) = metadata["deletionTimestamp"].as_str() {
        let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        // A second delete may only shorten the grace; it counts from the first one.
        let grace = asked.map(non_negative).filter(|g| *g < before)?;
        let until: Timestamp = until.parse().ok()?;
        (grace, until.checked_sub(SignedDuration::from_secs(before)).ok()?)
    } else {
        let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
            // Nothing runs of a pod that has no node.
            || object["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
        let of_spec = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        (
            if ended {
                0
            } else {
                non_negative(asked.unwrap_or(of_spec))
            },
            now,
        )
    };
    let mut marked = object.clone();
    put_mark(&mut marked, from, grace);
    Some(marked)
}

fn put_mark(object: &mut Value, from: Timestamp, grace: i64) {
    let until = from
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let metadata = &mut object["metadata"];
    metadata["deletionTimestamp"] = whole_seconds(until).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    // Kinds that count nothing have none.
    if let Some(generation) = metadata["generation"].as_i64() {
        metadata["generation"] = (generation + 1).into();
    }
}

/// A negative grace counts as one second (`CheckGracefulDelete`).
fn non_negative(grace: i64) -> i64 {
    if grace < 0 { 1 } else { grace }
}

/// `metav1.Time` has whole seconds. A started one counts as whole, so that nobody gets less than the grace he was given.
fn whole_seconds(at: Timestamp) -> String {
    let started = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second() + started)
        .unwrap_or(at)
        .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}, "status": {"phase": "Running"}})
    }

    #[test]
    fn the_first_delete_marks_the_pod_with_its_own_grace() {
        let marked = mark(&pod(), None, at("2026-01-01T00:00:00.9Z")).unwrap();
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:21Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(marked["metadata"]["generation"], 2);
    }

    #[test]
    fn a_later_delete_may_only_shorten_the_grace() {
        let marked = mark(&pod(), Some(60), at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(mark(&marked, None, at("2026-01-01T00:00:05Z")), None);
        assert_eq!(mark(&marked, Some(60), at("2026-01-01T00:00:05Z")), None);
        let shorter = mark(&marked, Some(10), at("2026-01-01T00:00:05Z")).unwrap();
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 10);
        let killed = mark(&shorter, Some(0), at("2026-01-01T00:00:06Z")).unwrap();
        assert_eq!(killed["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(mark(&killed, Some(0), at("2026-01-01T00:00:06Z")), None);
    }

    #[test]
    fn an_ended_pod_needs_no_grace_and_a_negative_one_is_a_second() {
        let mut ended = pod();
        ended["status"]["phase"] = "Succeeded".into();
        assert_eq!(
            mark(&ended, Some(30), at("2026-01-01T00:00:00Z")).unwrap()["metadata"]["deletionGracePeriodSeconds"],
            0
        );
        assert_eq!(
            mark(&pod(), Some(-5), at("2026-01-01T00:00:00Z")).unwrap()["metadata"]["deletionGracePeriodSeconds"],
            1
        );
    }

    #[test]
    fn a_grace_beyond_all_time_does_no_harm() {
        assert!(mark(&pod(), Some(i64::MAX), at("2026-01-01T00:00:00Z")).is_some());
    }

    fn object(finalizers: &[&str]) -> Value {
        json!({"metadata": {"name": "o", "finalizers": finalizers}})
    }

    fn marked(object: &Value, propagation: Option<Propagation>) -> Value {
        match delete(Manner::AtOnce, object, None, propagation, at("2026-01-01T00:00:00Z")) {
            Deletion::Mark(marked) => marked,
            other @ (Deletion::Unchanged | Deletion::Remove) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_without_finalizers_goes_at_once() {
        let gone = delete(Manner::AtOnce, &object(&[]), Some(30), None, at("2026-01-01T00:00:00Z"));
        assert_eq!(gone, Deletion::Remove);
    }

    #[test]
    fn finalizers_hold_an_object_and_a_second_delete_changes_nothing() {
        let held = marked(&object(&["a.com/b"]), None);
        assert_eq!(
            held["metadata"],
            json!({"name": "o", "finalizers": ["a.com/b"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0})
        );
        let again = delete(
            Manner::AtOnce,
            &held,
            Some(0),
            Some(Propagation::Orphan),
            at("2026-01-01T00:00:09Z"),
        );
        assert_eq!(again, Deletion::Unchanged);
        assert!(!is_over(Manner::AtOnce, &held));
        let mut freed = held;
        set_finalizers(&mut freed, &[]);
        assert!(is_over(Manner::AtOnce, &freed));
    }

    #[test]
    fn the_policy_becomes_a_finalizer() {
        use Propagation::{Background, Foreground, Orphan};
        for (present, asked, after) in [
            (vec![], Some(Foreground), vec![FOREGROUND]),
            (vec![], Some(Orphan), vec![ORPHAN]),
            (vec!["a.com/b", ORPHAN], Some(Foreground), vec!["a.com/b", FOREGROUND]),
            (vec!["a.com/b", ORPHAN], Some(Background), vec!["a.com/b"]),
            (vec![ORPHAN], None, vec![ORPHAN]),
        ] {
            assert_eq!(
                finalizers(&marked(&object(&present), asked)),
                after,
                "{present:?} {asked:?}"
            );
        }
        let background = delete(
            Manner::AtOnce,
            &object(&[ORPHAN]),
            None,
            Some(Background),
            at("2026-01-01T00:00:00Z"),
        );
        assert_eq!(background, Deletion::Remove);
    }

    #[test]
    fn a_namespace_is_marked_until_it_is_empty() {
        let namespace =
            json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let now = at("2026-01-01T00:00:00Z");
        let Deletion::Mark(mut marked) = delete(Manner::Emptied, &namespace, None, None, now) else {
            panic!("a namespace goes only when it is empty");
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(delete(Manner::Emptied, &marked, None, None, now), Deletion::Unchanged);
        marked["spec"]["finalizers"] = json!([]);
        assert!(is_over(Manner::Emptied, &marked));
    }
}
