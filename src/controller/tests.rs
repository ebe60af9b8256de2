//! One look after another at one pod, on a machine that is made of records, with programs that are real.

mod room;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::pass::{Pass, Record, Round};
use super::{Controller, POD, Room};
use crate::event::{EVENT, Recorder};
use crate::eviction::{self, Evictions};
use crate::model::{
    Action, Allocatable, ContainerPhase, ContainerSnapshot, ContainerSpec, ExitStatus, FailureReason, HookRecord,
    ImageConfig, ImageId, InfraSnapshot, Observed, PodSpec, Probe, ResolvedImage, Resources, RestartPolicy,
    SandboxSnapshot, Snapshot, StopReason, Timestamp, Uid, User,
};
use crate::probe::testing::{Programs, shell};
use crate::probe::{Parts, Probes};
use crate::reconcile::testing::{BOOT, at, deleted, pod};
use crate::reconcile::{Limits, is_ready};
use crate::runtime::{Image, LogDirName, ObserveError, Recorded, Runtime, StepError, VolumeNews};
use crate::status::NodeFacts;
use crate::store::Store;

thread_local! {
    /// Seconds; each test has a thread of its own.
    static CLOCK: Cell<i64> = const { Cell::new(100) };
}

fn now() -> Timestamp {
    at(CLOCK.get())
}

/// A machine that does at once what it is told, but for containers that do not hear the stop signal.
#[derive(Debug, Default)]
struct Machine {
    sandboxes: Mutex<Vec<SandboxSnapshot>>,
    /// What was done, in order.
    done: Mutex<Vec<String>>,
    deaf: bool,
    resize_fails: bool,
}

impl Machine {
    fn did(&self, what: String) {
        self.done.lock().unwrap().push(what);
    }

    fn end(&self, container: &str, attempt: u32, status: ExitStatus) {
        for known in self
            .sandboxes
            .lock()
            .unwrap()
            .iter_mut()
            .flat_map(|s| &mut s.containers)
        {
            if known.container == container && known.attempt == attempt {
                known.phase = ContainerPhase::Exited {
                    status,
                    started_at: now(),
                    finished_at: now(),
                };
            }
        }
    }

    fn signalled(&self, container: &str, attempt: u32) {
        for known in self
            .sandboxes
            .lock()
            .unwrap()
            .iter_mut()
            .flat_map(|s| &mut s.containers)
        {
            if known.container == container && known.attempt == attempt {
                known.stop_signalled_at = Some(now());
            }
        }
    }
}

impl Runtime for Machine {
    async fn observe(&self, _: &Uid) -> Result<Snapshot, ObserveError> {
        Ok(Snapshot {
            sandboxes: self.sandboxes.lock().unwrap().clone(),
        })
    }

    async fn pods(&self) -> Result<Vec<Uid>, ObserveError> {
        Ok(Vec::new())
    }

    async fn create_sandbox(
        &self,
        _: &PodSpec,
        attempt: u32,
        _: Option<IpAddr>,
        mut recorded: Recorded,
    ) -> Result<(), StepError> {
        recorded.wait().await;
        self.sandboxes.lock().unwrap().push(SandboxSnapshot {
            attempt,
            shim_alive: true,
            infra: InfraSnapshot::Running { pid: 1, since: now() },
            containers: Vec::new(),
        });
        Ok(())
    }

    async fn stop_sandbox(&self, _: &Uid, _: u32) -> Result<(), StepError> {
        for sandbox in self.sandboxes.lock().unwrap().iter_mut() {
            sandbox.shim_alive = false;
        }
        self.did("stop sandbox".to_owned());
        Ok(())
    }

    async fn remove_sandbox(&self, _: &Uid, _: u32) -> Result<(), StepError> {
        self.sandboxes.lock().unwrap().clear();
        Ok(())
    }

    async fn image(&self, _: &PodSpec, container: &ContainerSpec, _: &mut Vec<VolumeNews>) -> Result<Image, StepError> {
        Ok(Image::Present {
            image: Box::new(ResolvedImage {
                repo_digest: None,
                id: ImageId(container.image.clone()),
                layers: Vec::new(),
                config: ImageConfig::default(),
            }),
            pulled: None,
        })
    }

    async fn user(&self, _: &PodSpec, _: &ContainerSpec, _: &ResolvedImage) -> Result<User, StepError> {
        Ok(User::default())
    }

    async fn start_container(
        &self,
        _: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        _: u32,
        _: &ResolvedImage,
        _: &User,
        _: Option<IpAddr>,
        mut recorded: Recorded,
    ) -> Result<(), StepError> {
        recorded.wait().await;
        self.did(format!("start {} {attempt}", container.name));
        if let Some(sandbox) = self.sandboxes.lock().unwrap().last_mut() {
            sandbox.containers.push(ContainerSnapshot {
                container: container.name.clone(),
                attempt,
                phase: ContainerPhase::Running {
                    pid: 2,
                    started_at: now(),
                },
                stop_signalled_at: None,
                killed_at: None,
            });
        }
        Ok(())
    }

    async fn stop_container(&self, _: &Uid, _: u32, container: &str, attempt: u32) -> Result<(), StepError> {
        self.did(format!("stop {container} {attempt}"));
        self.signalled(container, attempt);
        if !self.deaf {
            self.end(container, attempt, ExitStatus::Signal(15));
        }
        Ok(())
    }

    async fn kill_container(&self, _: &Uid, _: u32, container: &str, attempt: u32) -> Result<(), StepError> {
        self.did(format!("kill {container} {attempt}"));
        self.end(container, attempt, ExitStatus::Signal(9));
        Ok(())
    }

    async fn resize(
        &self,
        _: &PodSpec,
        container: &str,
        attempt: u32,
        _: u32,
        resources: &Resources,
    ) -> Result<(), StepError> {
        self.did(format!("resize {container} {attempt} {:?}", resources.memory_limit));
        if self.resize_fails {
            return Err(StepError {
                reason: FailureReason::RunContainerError,
                message: "too much is in use".to_owned(),
            });
        }
        Ok(())
    }

    async fn termination_message(&self, _: &PodSpec, container: &ContainerSpec, attempt: u32, failed: bool) -> String {
        self.did(format!("last words {} {attempt} {failed}", container.name));
        format!("so long, {}", container.name)
    }

    async fn remove_old_attempt(&self, _: &Uid, _: u32, _: &str, _: u32) -> Result<(), StepError> {
        Ok(())
    }

    async fn remove_pod(&self, _: &Uid, _: Option<&LogDirName>) -> Result<(), StepError> {
        self.did("remove".to_owned());
        Ok(())
    }

    fn hints(&self) -> Option<mpsc::UnboundedReceiver<Uid>> {
        None
    }
}

struct World {
    pass: Pass<Machine>,
    programs: Arc<Programs>,
    hints: mpsc::UnboundedReceiver<Uid>,
    pod: PodSpec,
    record: Record,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(pod: PodSpec, machine: Machine) -> Self {
        let plenty = Allocatable {
            cpu_milli: 64_000,
            memory: 1 << 40,
            storage: 1 << 40,
            pods: 100,
            hugepages: [].into(),
        };
        Self::with_room(pod, machine, plenty).await
    }

    async fn with_room(pod: PodSpec, machine: Machine, allocatable: Allocatable) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let object =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.name, "namespace": pod.namespace}});
        let created = store.create(POD, &pod.namespace, &pod.name, &pod.uid, object).await;
        created.unwrap();
        let programs = Arc::<Programs>::default();
        let (hint, hints) = mpsc::unbounded_channel();
        let recorder = Recorder::hasty(store.clone(), now);
        let evictions = Evictions::new(eviction::Parts {
            pods: dir.path().join("pods"),
            log_dir: dir.path().join("log"),
            hints: hint.clone(),
            period: std::time::Duration::from_millis(1),
        });
        let probes = Probes::new(Parts {
            streams: programs.clone(),
            hints: hint,
            recorder: recorder.clone(),
            node_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            clock: now,
        });
        let controller = Controller {
            store,
            runtime: Arc::new(machine),
            probes,
            evictions,
            limits: Limits::default(),
            node: NodeFacts {
                host_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
                name: "node-1".to_owned(),
                capacity: None,
            },
            boot_id: BOOT.to_owned(),
            room: Room::new(allocatable),
            pool: (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 9)),
            waiting: super::Waiting::default(),
            recorder,
            clock: now,
        };
        Self {
            pass: Pass::new(Arc::new(controller), pod.uid.clone()),
            programs,
            hints,
            pod,
            record: Record {
                stored: Observed::default(),
                observed: Observed::default(),
                heard: 0,
            },
            _dir: dir,
        }
    }

    fn controller(&self) -> &Controller<Machine> {
        &self.pass.controller
    }

    /// Look until there is nothing to do but wait; gives until when.
    async fn rest(&mut self) -> Option<Timestamp> {
        for _ in 0..40 {
            let object = self.controller().store.get_by_uid(POD, &self.pod.uid).await.unwrap();
            let version = object.unwrap().resource_version;
            match self
                .pass
                .round(&self.pod, None, version, &mut self.record)
                .await
                .unwrap()
            {
                Round::Again => {}
                Round::Wait(wake_at) => return wake_at,
                Round::Forgotten => panic!("nobody forgot the pod"),
            }
        }
        panic!("it does not come to rest: {:?}", self.done());
    }

    /// Look until nothing is left of the pod.
    async fn until_forgotten(&mut self) {
        let mut version = 0;
        for _ in 0..40 {
            let store = &self.controller().store;
            if let Some(object) = store.get_by_uid(POD, &self.pod.uid).await.unwrap() {
                version = object.resource_version;
            }
            let round = self.pass.round(&self.pod, None, version, &mut self.record).await;
            if matches!(round.unwrap(), Round::Forgotten) {
                return;
            }
        }
        panic!("it does not go: {:?}", self.done());
    }

    /// A new look, as on a hint.
    async fn look(&mut self) -> Option<Timestamp> {
        let runtime = &self.pass.controller.runtime;
        let snapshot = runtime.observe(&self.pod.uid).await.unwrap();
        self.record.observed = crate::reconcile::record(now(), BOOT, &self.record.stored, &snapshot);
        self.pass.last_words(&self.pod, &mut self.record).await;
        self.rest().await
    }

    /// The next report of a probe or a hook, and what comes of it.
    async fn hear(&mut self) {
        self.hints.recv().await.unwrap();
        self.look().await;
    }

    fn done(&self) -> Vec<String> {
        self.controller().runtime.done.lock().unwrap().clone()
    }

    fn attempt(&self, container: &str) -> &crate::model::Attempt {
        self.record.observed.newest(container).unwrap()
    }

    /// Completes with the newest event of this reason that has this message.
    async fn told(&self, reason: &str, message: &str) -> serde_json::Value {
        let store = &self.controller().store;
        let mut changes = store.subscribe();
        loop {
            let events = store.list(EVENT, None, None, None).await.unwrap();
            let mut events = events.objects.iter().map(|event| (*event.json).clone());
            if let Some(event) = events.find(|event| event["reason"] == reason && event["message"] == message) {
                return event;
            }
            changes.recv().await.unwrap();
        }
    }
}

fn exec_probe(script: &str) -> Probe {
    Probe {
        action: shell(script),
        initial_delay: Duration::ZERO,
        period: Duration::from_hours(1),
        timeout: Duration::from_mins(1),
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace: None,
    }
}

/// Until the file at `$0` is there.
fn until(path: &std::path::Path) -> Action {
    shell(&format!("until [ -e {} ]; do :; done", path.display()))
}

#[tokio::test]
async fn a_post_start_hook_holds_up_the_next_container_but_not_the_look() {
    let flag = tempfile::tempdir().unwrap();
    let path = flag.path().join("done");
    let mut wanted = pod(RestartPolicy::Always, &["a", "b"]);
    wanted.containers[0].life.post_start = Some(until(&path));
    let mut world = World::new(wanted, Machine::default()).await;
    world.rest().await;
    assert_eq!(world.done(), ["start a 0"]);
    assert_eq!(world.attempt("a").life.post_start, HookRecord::Begun { at: now() });
    world.look().await;
    assert_eq!(*world.programs.begun.borrow(), 1, "it is under way");
    std::fs::write(&path, "").unwrap();
    world.hear().await;
    assert_eq!(world.done(), ["start a 0", "start b 0"]);
    assert_eq!(
        world.record.stored.newest("a").unwrap().life.post_start,
        HookRecord::Done { at: now() }
    );
}

#[tokio::test]
async fn a_post_start_hook_that_fails_takes_its_container_with_it() {
    let mut wanted = pod(RestartPolicy::Never, &["a"]);
    wanted.containers[0].life.post_start = Some(shell("exit 1"));
    let mut world = World::new(wanted, Machine::default()).await;
    world.rest().await;
    world.hear().await;
    let done = world.done();
    assert!(
        done.contains(&"stop a 0".to_owned()) && !done.contains(&"start a 1".to_owned()),
        "{done:?}"
    );
    world.told("FailedPostStartHook", "PostStartHook failed").await;
    world.told("Killing", "FailedPostStartHook").await;
}

#[tokio::test]
async fn a_failed_liveness_probe_starts_the_container_anew() {
    let mut wanted = pod(RestartPolicy::Always, &["a"]);
    wanted.containers[0].life.liveness = Some(exec_probe("exit 1"));
    let mut world = World::new(wanted, Machine::default()).await;
    world.rest().await;
    world.hear().await;
    assert_eq!(
        world.done(),
        ["start a 0", "stop a 0", "last words a 0 true", "start a 1"]
    );
    let stopped = world.record.observed.attempts.iter().find(|a| a.attempt == 0).unwrap();
    assert_eq!(stopped.life.stop.as_ref().unwrap().why, StopReason::LivenessFailed);
    let event = world
        .told("Killing", "Container a failed liveness probe, will be restarted")
        .await;
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{a}");
}

#[tokio::test]
async fn readiness_is_recorded_and_a_new_agent_knows_it_at_once() {
    let mut wanted = pod(RestartPolicy::Always, &["a"]);
    wanted.containers[0].life.readiness = Some(exec_probe("true"));
    let mut world = World::new(wanted, Machine::default()).await;
    world.rest().await;
    assert!(!is_ready(&world.pod.containers[0], world.attempt("a")));
    world.hear().await;
    let stored = world.controller().store.observed(&world.pod.uid).await.unwrap();
    assert!(is_ready(&world.pod.containers[0], stored.newest("a").unwrap()));
    assert_eq!(
        world.controller().probes.reports(&world.pod.uid, 0),
        Vec::new(),
        "it is settled"
    );
}

#[tokio::test]
async fn a_pre_stop_hook_comes_before_the_signal_and_is_cut_off_when_the_grace_is_over() {
    let mut wanted = pod(RestartPolicy::Always, &["a", "b"]);
    wanted.containers[0].life.pre_stop = Some(shell("exec sleep 1000"));
    let mut world = World::new(
        wanted,
        Machine {
            deaf: true,
            ..Machine::default()
        },
    )
    .await;
    world.rest().await;
    world.pod = deleted(world.pod.clone(), now(), 30);
    let wake_at = world.rest().await;
    assert_eq!(wake_at, Some(at(130)), "at the end of the grace");
    assert_eq!(world.done()[2..], ["stop b 0"], "it is not held up");
    let mut alive = world.programs.alive.subscribe();
    alive.wait_for(|alive| *alive == 1).await.unwrap();
    world.told("Killing", "Stopping container a").await;

    CLOCK.set(130);
    let wake_at = world.look().await;
    // One does not wait for the other.
    let mut done = world.done().split_off(3);
    done.sort_unstable();
    assert_eq!(done, ["kill b 0", "last words b 0 true", "stop a 0"]);
    assert_eq!(wake_at, Some(at(132)), "it has two seconds at least");
    alive.wait_for(|alive| *alive == 0).await.unwrap();
}

#[tokio::test]
async fn the_last_words_of_a_container_are_asked_for_once_and_stored_with_its_end() {
    let mut world = World::new(pod(RestartPolicy::Never, &["a", "b"]), Machine::default()).await;
    world.rest().await;
    world.controller().runtime.end("a", 0, ExitStatus::Code(3));
    world.look().await;
    let stored = world.controller().store.observed(&world.pod.uid).await.unwrap();
    assert_eq!(stored.newest("a").unwrap().exit().unwrap().message, "so long, a");
    world.controller().runtime.end("b", 0, ExitStatus::Code(0));
    world.look().await;
    let asked: Vec<String> = world
        .done()
        .into_iter()
        .filter(|done| done.starts_with("last"))
        .collect();
    assert_eq!(asked, ["last words a 0 true", "last words b 0 false"]);
}

#[tokio::test]
async fn a_resize_is_carried_out_and_recorded_or_rests_after_it_failed() {
    for resize_fails in [false, true] {
        let machine = Machine {
            resize_fails,
            ..Machine::default()
        };
        let mut world = World::new(pod(RestartPolicy::Always, &["a"]), machine).await;
        world.rest().await;
        world.pod.containers[0].resources.memory_limit = Some(7);
        let wake_at = world.rest().await;
        assert_eq!(world.done(), ["start a 0", "resize a 0 Some(7)"]);
        let has = world.attempt("a").life.resources.as_ref().unwrap().memory_limit;
        assert_eq!(has, if resize_fails { None } else { Some(7) });
        assert_eq!(wake_at.is_some(), resize_fails);
        world.look().await;
        assert_eq!(world.done().len(), 2, "it is not tried again at once");
    }
}

#[tokio::test]
async fn a_pod_past_its_deadline_is_given_up_and_that_is_told() {
    let mut wanted = pod(RestartPolicy::Always, &["a"]);
    wanted.active_deadline = Some(Duration::from_secs(10));
    let mut world = World::new(wanted, Machine::default()).await;
    assert_eq!(world.rest().await, Some(at(110)));
    CLOCK.set(110);
    world.look().await;
    assert!(world.done().contains(&"stop a 0".to_owned()));
    let message = "Pod was active on the node longer than the specified deadline";
    world.told("DeadlineExceeded", message).await;
    let object = world
        .controller()
        .store
        .get_by_uid(POD, &world.pod.uid)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(object.json["status"]["reason"], "DeadlineExceeded");
}

#[tokio::test]
async fn events_name_the_list_that_a_container_is_in() {
    let mut wanted = pod(RestartPolicy::Always, &["a"]);
    wanted.init_containers = vec![ContainerSpec {
        name: "first".to_owned(),
        ..wanted.containers[0].clone()
    }];
    let mut world = World::new(wanted, Machine::default()).await;
    world.rest().await;
    let event = world.told("Started", "Started container first").await;
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.initContainers{first}");
}
