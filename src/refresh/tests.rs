//! The driver over a real store and a machine that notes whose files it was to write.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::model::FailureReason;
use crate::runtime::StepError;

const NAMESPACE: &str = "default";

/// How many seconds have passed, for one test alone.
static PASSED: AtomicI64 = AtomicI64::new(0);

fn now() -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Timestamp::from_second(start.as_second() + PASSED.load(Ordering::Relaxed)).unwrap()
}

/// Notes each pod whose files were to be written, by name; some fail.
#[derive(Debug)]
struct Noted {
    told: mpsc::UnboundedSender<String>,
    renewals: Mutex<Option<mpsc::UnboundedReceiver<(Uid, Timestamp)>>>,
}

impl Files for Noted {
    async fn refresh_volumes(&self, pod: &PodSpec) -> Result<(), StepError> {
        self.told.send(pod.name.clone()).unwrap();
        if pod.name.starts_with("broken") {
            return Err(StepError {
                reason: FailureReason::FailedMount,
                message: "cannot".to_owned(),
            });
        }
        Ok(())
    }

    fn renewals(&self) -> Option<mpsc::UnboundedReceiver<(Uid, Timestamp)>> {
        self.renewals.lock().unwrap().take()
    }
}

struct World {
    _dir: TempDir,
    store: Store,
    noted: Arc<Noted>,
    told: mpsc::UnboundedReceiver<String>,
    renew: mpsc::UnboundedSender<(Uid, Timestamp)>,
    driver: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let (renew, renewals) = mpsc::unbounded_channel();
        let noted = Arc::new(Noted {
            told: tell,
            renewals: Mutex::new(Some(renewals)),
        });
        Self {
            _dir: dir,
            store,
            noted,
            told,
            renew,
            driver: None,
        }
    }

    fn start(&mut self) {
        let refresher = Refresher {
            store: self.store.clone(),
            runtime: Arc::clone(&self.noted),
            node_name: "here".to_owned(),
            clock: now,
        };
        let (stop, stopped) = watch::channel(false);
        self.driver = Some((stop, tokio::spawn(refresher.run(stopped))));
    }

    /// Start, and wait until it has read what there is: whatever comes from here on is a change.
    async fn started(&mut self) {
        self.pod("there", json!([{"name": "v", "secret": {"secretName": "there"}}]))
            .await;
        self.start();
        assert_eq!(self.next().await, ["there"]);
    }

    async fn stop(&mut self) {
        let (stop, driver) = self.driver.take().unwrap();
        stop.send_replace(true);
        driver.await.unwrap();
    }

    async fn pod(&self, name: &str, volumes: Value) -> Uid {
        self.pod_of("here", name, volumes).await
    }

    async fn pod_of(&self, node: &str, name: &str, volumes: Value) -> Uid {
        let uid = Uid(uuid::Uuid::new_v4().to_string());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": NAMESPACE, "uid": uid.0, "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"nodeName": node, "volumes": volumes, "containers": [{"name": "c", "image": "busybox:1"}]},
            "status": {"phase": "Running"},
        });
        self.store.create("Pod", NAMESPACE, name, &uid, pod).await.unwrap();
        uid
    }

    /// Make the object, or change it.
    async fn put(&self, kind: &str, namespace: &str, name: &str) {
        let uid = Uid(uuid::Uuid::new_v4().to_string());
        match self.store.get(kind, namespace, name).await.unwrap() {
            None => {
                let object = json!({"metadata": {"name": name, "namespace": namespace}, "data": {}});
                self.store.create(kind, namespace, name, &uid, object).await.unwrap();
            }
            Some(there) => {
                let mut object = Value::clone(&there.json);
                object["data"]["k"] = json!(uid.0);
                let version = there.resource_version;
                self.store.update(kind, namespace, name, version, object).await.unwrap();
            }
        }
    }

    async fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let there = self.store.get("Pod", NAMESPACE, name).await.unwrap().unwrap();
        let mut pod = Value::clone(&there.json);
        change(&mut pod);
        let version = there.resource_version;
        self.store.update("Pod", NAMESPACE, name, version, pod).await.unwrap();
    }

    /// The next pods whose files were written, in any order.
    async fn next<const N: usize>(&mut self) -> [String; N] {
        let mut names = Vec::new();
        while names.len() < N {
            names.push(self.told.recv().await.unwrap());
        }
        names.sort();
        names.try_into().unwrap()
    }

    /// Nothing but this pod's files were written until now: it is changed itself to be told of as the last one.
    async fn only_then(&mut self, marker: &str) {
        self.put("Secret", NAMESPACE, marker).await;
        assert_eq!(self.next().await, ["marker"]);
    }

    /// A pod that shows a Secret of its own.
    async fn marker(&mut self, secret: &str) {
        self.pod("marker", json!([{"name": "v", "secret": {"secretName": secret}}]))
            .await;
    }
}

fn shows(config_map: &str) -> Value {
    json!([{"name": "v", "configMap": {"name": config_map}}])
}

#[tokio::test]
async fn a_change_reaches_the_pods_that_show_it_and_no_others() {
    let mut world = World::new().await;
    world.started().await;
    world.pod("first", shows("c")).await;
    let sources = json!([{"secret": {"name": "x"}}, {"configMap": {"name": "c"}}]);
    world
        .pod("second", json!([{"name": "v", "projected": {"sources": sources}}]))
        .await;
    world.pod("other", shows("d")).await;
    world.pod("plain", json!([{"name": "v", "emptyDir": {}}])).await;
    world.pod_of("elsewhere", "far", shows("c")).await;
    world.marker("m").await;

    world.put("ConfigMap", NAMESPACE, "c").await;
    assert_eq!(world.next().await, ["first", "second"]);
    world.put("ConfigMap", NAMESPACE, "c").await;
    assert_eq!(world.next().await, ["first", "second"]);
    let there = world.store.get("ConfigMap", NAMESPACE, "c").await.unwrap().unwrap();
    let version = there.resource_version;
    world.store.delete("ConfigMap", NAMESPACE, "c", version).await.unwrap();
    assert_eq!(world.next().await, ["first", "second"]);
    // Of the same name, and something else.
    world.put("Secret", NAMESPACE, "c").await;
    world.put("ConfigMap", "kube-system", "c").await;
    world.put("Secret", NAMESPACE, "d").await;
    world.only_then("m").await;
    world.put("Secret", NAMESPACE, "x").await;
    assert_eq!(world.next().await, ["second"]);
    world.stop().await;
}

#[tokio::test]
async fn a_pod_that_shows_itself_is_told_of_its_changes() {
    let mut world = World::new().await;
    world.started().await;
    let labels = json!([{"path": "l", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}}]);
    world
        .pod("mirror", json!([{"name": "v", "downwardAPI": {"items": labels}}]))
        .await;
    world.pod("other", shows("c")).await;
    world.marker("m").await;
    world
        .change_pod("other", |pod| pod["metadata"]["labels"] = json!({"a": "b"}))
        .await;
    world.only_then("m").await;
    world
        .change_pod("mirror", |pod| pod["metadata"]["labels"] = json!({"a": "b"}))
        .await;
    assert_eq!(world.next().await, ["mirror"]);
    world.stop().await;
}

#[tokio::test]
async fn a_new_agent_writes_what_may_have_changed_meanwhile() {
    let mut world = World::new().await;
    world.pod("one", shows("c")).await;
    world.pod("two", shows("d")).await;
    let over = world.pod("over", shows("c")).await;
    let ended = json!({"phase": "Succeeded"});
    world.store.set_status(&over, ended).await.unwrap();
    world.start();
    assert_eq!(world.next().await, ["one", "two"]);
    world.put("ConfigMap", NAMESPACE, "c").await;
    assert_eq!(world.next().await, ["one"]);
    world.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_over_is_left_alone() {
    let mut world = World::new().await;
    world.started().await;
    let gone = world.pod("gone", shows("c")).await;
    world.pod("stays", shows("c")).await;
    world.marker("m").await;
    let ended = json!({"phase": "Failed"});
    world.store.set_status(&gone, ended).await.unwrap();
    world.put("ConfigMap", NAMESPACE, "c").await;
    assert_eq!(world.next().await, ["stays"]);
    // Not even its token is renewed.
    world.renew.send((gone, now())).unwrap();
    world.only_then("m").await;
    world.stop().await;
}

#[tokio::test]
async fn a_token_is_renewed_when_it_is_due_and_a_failure_is_tried_again() {
    let mut world = World::new().await;
    world.started().await;
    let token = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    let robot = world.pod("robot", token).await;
    let broken = world.pod("broken", shows("c")).await;
    world.marker("m").await;
    let later = now().checked_add(Duration::from_hours(1)).unwrap();
    world.renew.send((broken, later)).unwrap();
    world.renew.send((robot.clone(), later)).unwrap();
    // The newest word counts.
    world.renew.send((robot, now())).unwrap();
    assert_eq!(world.next().await, ["robot"]);
    world.put("ConfigMap", NAMESPACE, "c").await;
    assert_eq!(world.next().await, ["broken"]);
    world.only_then("m").await;
    PASSED.store(61, Ordering::Relaxed);
    // Whatever happens, the time is looked at.
    world.put("ConfigMap", NAMESPACE, "unrelated").await;
    assert_eq!(world.next().await, ["broken"]);
    world.only_then("m").await;
    world.stop().await;
}
