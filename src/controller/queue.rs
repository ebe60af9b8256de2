//! Which pods to look at, and when: without duplicates, with delays, never the same pod twice at once.
//!
//! Goes in: hints (`wake`), planned looks (`wake_at`), ends of looks (`done`). Comes out: the next pod to look at.
//!
//! **Invariant:** pure. No clock (every instant is passed in), no lock, no task. A hint that comes while a pod is being
//! looked at makes it be looked at once more: no hint is ever lost.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use crate::model::Uid;

#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Uid>,
    /// Members of `ready`.
    waiting: HashSet<Uid>,
    /// Being looked at; true when a hint came meanwhile.
    active: HashMap<Uid, bool>,
    /// Planned looks, one a pod, ordered by time.
    planned: BTreeSet<(Instant, Uid)>,
    planned_at: HashMap<Uid, Instant>,
}

impl Queue {
    /// Look at this pod as soon as possible.
    pub(super) fn wake(&mut self, uid: Uid) {
        if let Some(again) = self.active.get_mut(&uid) {
            *again = true;
        } else if self.waiting.insert(uid.clone()) {
            self.ready.push_back(uid);
        }
    }

    /// Look at this pod at `when`, whatever was planned before.
    pub(super) fn wake_at(&mut self, uid: &Uid, when: Option<Instant>) {
        if let Some(old) = self.planned_at.remove(uid) {
            self.planned.remove(&(old, uid.clone()));
        }
        if let Some(when) = when {
            self.planned_at.insert(uid.clone(), when);
            self.planned.insert((when, uid.clone()));
        }
    }

    /// The next pod to look at. It is active until `done`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Uid> {
        while let Some((when, _)) = self.planned.first() {
            if *when > now {
                break;
            }
            let (_, uid) = self.planned.pop_first()?;
            self.planned_at.remove(&uid);
            self.wake(uid);
        }
        let uid = self.ready.pop_front()?;
        self.waiting.remove(&uid);
        self.active.insert(uid.clone(), false);
        Some(uid)
    }

    /// The look at this pod has ended.
    pub(super) fn done(&mut self, uid: &Uid) {
        if self.active.remove(uid) == Some(true) {
            self.wake(uid.clone());
        }
    }

    /// When the next planned look is due.
    pub(super) fn next_planned(&self) -> Option<Instant> {
        self.planned.first().map(|(when, _)| *when)
    }

    /// Nobody is looked at, and nobody waits to be.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn uid(n: u8) -> Uid {
        Uid(format!("pod-{n}"))
    }

    #[test]
    fn hints_for_one_pod_are_one_look() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.wake(uid(1));
        queue.wake(uid(1));
        assert_eq!(queue.pop(now), Some(uid(1)));
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_hint_during_a_look_makes_another_look() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.wake(uid(1));
        let first = queue.pop(now).unwrap();
        queue.wake(uid(1));
        assert_eq!(queue.pop(now), None, "never twice at once");
        queue.done(&first);
        assert_eq!(queue.pop(now), Some(uid(1)));
    }

    #[test]
    fn a_new_plan_replaces_the_old_one() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut queue = Queue::default();
        queue.wake_at(&uid(1), Some(now + Duration::from_secs(1)));
        queue.wake_at(&uid(1), Some(later));
        assert_eq!(queue.next_planned(), Some(later));
        assert_eq!(queue.pop(now + Duration::from_secs(5)), None);
        assert_eq!(queue.pop(later), Some(uid(1)));
        queue.wake_at(&uid(1), None);
        assert_eq!(queue.next_planned(), None);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Wake(u8),
        WakeAt(u8, u64),
        Pop,
        Done(u8),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..4u8).prop_map(Op::Wake),
            (0..4u8, 0..50u64).prop_map(|(n, at)| Op::WakeAt(n, at)),
            Just(Op::Pop),
            (0..4u8).prop_map(Op::Done),
            (0..10u64).prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Against a model that keeps, for each pod, only "owed a look" and "being looked at".
        #[test]
        fn no_hint_is_lost_and_no_pod_is_looked_at_twice_at_once(ops in proptest::collection::vec(op(), 0..100)) {
            let start = Instant::now();
            let mut now = start;
            let mut queue = Queue::default();
            let mut owed: HashSet<u8> = HashSet::new();
            let mut planned: HashMap<u8, Instant> = HashMap::new();
            let mut active: HashSet<u8> = HashSet::new();
            for op in ops {
                match op {
                    Op::Wake(n) => { queue.wake(uid(n)); owed.insert(n); }
                    Op::WakeAt(n, at) => {
                        let when = start + Duration::from_secs(at);
                        queue.wake_at(&uid(n), Some(when));
                        planned.insert(n, when);
                    }
                    Op::Pass(seconds) => now += Duration::from_secs(seconds),
                    Op::Done(n) => { if active.remove(&n) { queue.done(&uid(n)); } }
                    Op::Pop => {
                        for n in 0..4 {
                            if planned.get(&n).is_some_and(|when| *when <= now) {
                                planned.remove(&n);
                                owed.insert(n);
                            }
                        }
                        match queue.pop(now) {
                            Some(popped) => {
                                let n = (0..4).find(|n| uid(*n) == popped).unwrap();
                                prop_assert!(owed.remove(&n), "looked at a pod that nobody asked for");
                                prop_assert!(active.insert(n), "looked at a pod twice at once");
                            }
                            None => prop_assert!(owed.iter().all(|n| active.contains(n)), "a hint was lost"),
                        }
                    }
                }
            }
            prop_assert_eq!(queue.next_planned(), planned.values().min().copied());
        }
    }
}
