//! The driver over a real store, without an API: what is made and changed here is what the API would store.

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

struct World {
    _dir: TempDir,
    store: Store,
    driver: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn settings() -> Settings {
    let kind = |group: &str, kind: &str, namespaced| OwnerKind {
        group: group.to_owned(),
        kind: kind.to_owned(),
        stored_as: kind.to_owned(),
        namespaced,
    };
    Settings {
        ca: "the authority".to_owned(),
        api: "10.1.2.3:6443".parse().unwrap(),
        kinds: vec![
            kind("", "Pod", true),
            kind("", "ConfigMap", true),
            kind("", "Namespace", false),
            kind("", "Node", false),
        ],
        clock: now,
    }
}

/// A config map of the namespace `default`.
const MAP: &str = "ConfigMap";

impl World {
    async fn stopped() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        bootstrap(&store, &settings()).await.unwrap();
        Self {
            _dir: dir,
            store,
            driver: None,
        }
    }

    async fn running() -> Self {
        let mut world = Self::stopped().await;
        world.start();
        world
    }

    fn start(&mut self) {
        let (stop, stopped) = watch::channel(false);
        let garbage = Garbage {
            store: self.store.clone(),
            settings: settings(),
        };
        self.driver = Some((stop, tokio::spawn(garbage.run(stopped))));
    }

    async fn stop(&mut self) {
        let (stop, driver) = self.driver.take().unwrap();
        stop.send_replace(true);
        driver.await.unwrap();
    }

    /// An object of the namespace, with references to `owners` (an object, and whether it waits for this one).
    async fn make(&self, kind: &str, namespace: &str, name: &str, owners: &[(&StoredObject, bool)]) -> StoredObject {
        let references: Vec<Value> = owners
            .iter()
            .map(|(owner, blocking)| {
                json!({"apiVersion": "v1", "kind": &*owner.kind, "name": &*owner.name, "uid": owner.uid.as_str(),
                    "blockOwnerDeletion": blocking})
            })
            .collect();
        let uid = namespace::new_uid();
        let mut metadata = namespace::metadata(namespace, name, &uid, now());
        if !references.is_empty() {
            metadata["ownerReferences"] = references.into();
        }
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
        if kind == "Pod" {
            object["spec"]["nodeName"] = "n".into();
        }
        self.store
            .create_in_namespace(kind, namespace, name, &uid, object, None)
            .await
            .unwrap()
    }

    async fn map(&self, name: &str, owners: &[(&StoredObject, bool)]) -> StoredObject {
        self.make(MAP, "default", name, owners).await
    }

    async fn namespace(&self, name: &str) -> StoredObject {
        let uid = namespace::new_uid();
        let object = json!({"apiVersion": "v1", "kind": NAMESPACE, "metadata": namespace::metadata("", name, &uid, now()),
            "spec": {"finalizers": ["kubernetes"]}});
        let status = json!({"phase": "Active"});
        self.store
            .create_in_namespace(NAMESPACE, "", name, &uid, object, Some(status))
            .await
            .unwrap()
    }

    /// As the API deletes.
    async fn delete(&self, object: &StoredObject, propagation: Propagation) {
        let garbage = Garbage {
            store: self.store.clone(),
            settings: settings(),
        };
        garbage.delete(&object.uid, propagation).await.unwrap();
    }

    async fn get(&self, object: &StoredObject) -> Option<Value> {
        let found = self.store.get_any(&object.uid).await.unwrap();
        found.map(|found| found.json.as_ref().clone())
    }

    /// Wait until what is stored is as `wanted` says.
    async fn until(&self, object: &StoredObject, wanted: impl Fn(Option<&Value>) -> bool) {
        let mut changes = self.store.subscribe();
        while !wanted(self.get(object).await.as_ref()) {
            if changes.is_empty() {
                let _ = changes.recv().await;
            } else {
                changes = changes.resubscribe();
            }
        }
    }

    async fn gone(&self, objects: &[&StoredObject]) {
        for object in objects {
            self.until(object, |found| found.is_none()).await;
        }
    }

    /// Everything that was begun before this is done: an object whose only owner is gone goes last.
    async fn settled(&self) {
        let owner = self.map("settled-owner", &[]).await;
        let last = self.map("settled", &[(&owner, false)]).await;
        self.delete(&owner, Propagation::Background).await;
        self.gone(&[&last]).await;
    }
}

fn owners(object: &Value) -> usize {
    object["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn the_first_start_makes_what_every_cluster_has_and_the_next_changes_nothing() {
    let world = World::stopped().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = world.store.get(NAMESPACE, "", namespace).await.unwrap().unwrap();
        assert_eq!(object.json["status"]["phase"], "Active");
        assert_eq!(object.json["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(
            object.json["metadata"]["labels"]["kubernetes.io/metadata.name"],
            namespace
        );
        assert!(
            world
                .store
                .get("ServiceAccount", namespace, "default")
                .await
                .unwrap()
                .is_some()
        );
        let ca = world
            .store
            .get(MAP, namespace, "kube-root-ca.crt")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ca.json["data"], json!({"ca.crt": "the authority"}));
    }
    let service = world
        .store
        .get("Service", "default", "kubernetes")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(service.json["spec"]["clusterIP"], "10.1.2.3");
    assert_eq!(service.json["spec"]["ports"][0]["port"], 6443);
    let ports = json!([{"name": "https", "port": 6443, "protocol": "TCP"}]);
    let of = async |kind| world.store.get(kind, "default", "kubernetes").await.unwrap().unwrap();
    let subsets = json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": ports}]);
    assert_eq!(of("Endpoints").await.json["subsets"], subsets);
    let slice = of("EndpointSlice").await;
    assert_eq!(
        slice.json["metadata"]["labels"],
        json!({"kubernetes.io/service-name": "kubernetes"})
    );
    assert_eq!(slice.json["addressType"], "IPv4");
    let endpoints = json!([{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}]);
    assert_eq!((&slice.json["endpoints"], &slice.json["ports"]), (&endpoints, &ports));
    let version = world.store.resource_version().await.unwrap();
    bootstrap(&world.store, &settings()).await.unwrap();
    assert_eq!(world.store.resource_version().await.unwrap(), version);
}

#[tokio::test]
async fn pods_of_an_older_agent_find_their_namespace_made() {
    let world = World::stopped().await;
    let uid = namespace::new_uid();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": namespace::metadata("old", "p", &uid, now())});
    world.store.create("Pod", "old", "p", &uid, pod).await.unwrap();
    bootstrap(&world.store, &settings()).await.unwrap();
    assert!(world.store.get(NAMESPACE, "", "old").await.unwrap().is_some());
    assert!(
        world
            .store
            .get("ServiceAccount", "old", "default")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn what_every_namespace_has_is_made_and_made_again() {
    let world = World::running().await;
    let mut changes = world.store.subscribe();
    world.namespace("n").await;
    let mut made = Vec::new();
    while made.len() < 3 {
        let change = changes.recv().await.unwrap();
        made.push(change.object.kind.as_ref().to_owned());
    }
    made.sort();
    assert_eq!(made, [MAP, NAMESPACE, "ServiceAccount"]);

    let account = world
        .store
        .get("ServiceAccount", "n", "default")
        .await
        .unwrap()
        .unwrap();
    world.delete(&account, Propagation::Background).await;
    let ca = world.store.get(MAP, "n", "kube-root-ca.crt").await.unwrap().unwrap();
    let mut spoilt = ca.json.as_ref().clone();
    spoilt["data"] = json!({"ca.crt": "another"});
    let (kind, name) = (&ca.kind, &ca.name);
    world
        .store
        .update(kind, "n", name, ca.resource_version, spoilt)
        .await
        .unwrap();
    loop {
        let change = changes.recv().await.unwrap();
        if change.object.kind.as_ref() == "ServiceAccount" && change.change_type == ChangeType::Added {
            assert_ne!(change.object.uid, account.uid);
            break;
        }
    }
    world
        .until(&ca, |map| map.unwrap()["data"]["ca.crt"] == "the authority")
        .await;
}

#[tokio::test]
async fn a_namespace_goes_when_everything_in_it_is_gone() {
    let world = World::running().await;
    let namespace = world.namespace("n").await;
    let map = world.make(MAP, "n", "m", &[]).await;
    let pod = world.make("Pod", "n", "p", &[]).await;
    world.delete(&namespace, Propagation::Background).await;
    world
        .until(&pod, |pod| pod.unwrap()["metadata"]["deletionTimestamp"].is_string())
        .await;
    world.gone(&[&map]).await;
    world
        .until(&namespace, |namespace| {
            let status = &namespace.unwrap()["status"];
            status["phase"] == "Terminating" && status["conditions"][0]["reason"] == "SomeResourcesRemain"
        })
        .await;
    let uid = namespace::new_uid();
    let late = json!({"metadata": {"name": "late"}});
    let refused = world
        .store
        .create_in_namespace(MAP, "n", "late", &uid, late, None)
        .await;
    assert!(matches!(refused, Err(StoreError::EndingNamespace { .. })));
    // The controller has stopped the pod.
    assert!(world.store.forget_pod(&pod.uid).await.unwrap());
    world.gone(&[&namespace]).await;
    assert_eq!(world.store.contents("n").await.unwrap(), []);
}

#[tokio::test]
async fn the_end_of_a_namespace_goes_on_after_a_restart() {
    let mut world = World::running().await;
    let namespace = world.namespace("n").await;
    let pod = world.make("Pod", "n", "p", &[]).await;
    world.delete(&namespace, Propagation::Background).await;
    world
        .until(&pod, |pod| pod.unwrap()["metadata"]["deletionTimestamp"].is_string())
        .await;
    world.stop().await;
    assert!(world.store.forget_pod(&pod.uid).await.unwrap());
    world.start();
    world.gone(&[&namespace]).await;
}

#[tokio::test]
async fn finalizers_hold_a_pod_and_its_namespace() {
    let world = World::running().await;
    let namespace = world.namespace("n").await;
    let pod = world.make("Pod", "n", "p", &[]).await;
    let garbage = Garbage {
        store: world.store.clone(),
        settings: settings(),
    };
    let hold = |object: &mut Value| {
        object["metadata"]["finalizers"] = json!(["a.com/b"]);
        true
    };
    garbage.change(&pod.uid, hold).await.unwrap();
    world.delete(&namespace, Propagation::Background).await;
    world
        .until(&pod, |pod| pod.unwrap()["metadata"]["deletionTimestamp"].is_string())
        .await;
    assert!(!world.store.forget_pod(&pod.uid).await.unwrap());
    assert!(world.get(&pod).await.is_some() && world.get(&namespace).await.is_some());
    let free = |object: &mut Value| {
        deletion::set_finalizers(object, &[]);
        true
    };
    garbage.change(&pod.uid, free).await.unwrap();
    assert!(world.store.forget_pod(&pod.uid).await.unwrap());
    world.gone(&[&namespace]).await;
}

#[tokio::test]
async fn hundreds_of_namespaces_come_and_go_side_by_side() {
    let world = Arc::new(World::running().await);
    let lives = (0..200).map(|n| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let name = format!("n-{n}");
            let namespace = world.namespace(&name).await;
            let map = world.make(MAP, &name, "m", &[]).await;
            world.delete(&namespace, Propagation::Background).await;
            world.gone(&[&map, &namespace]).await;
            world.store.contents(&name).await.unwrap()
        })
    });
    for life in futures_util::future::join_all(lives).await {
        assert_eq!(life.unwrap(), []);
    }
}

#[tokio::test]
async fn what_is_put_into_a_namespace_that_is_not_there_is_removed() {
    let world = World::running().await;
    let uid = namespace::new_uid();
    let event = json!({"metadata": {"name": "e"}});
    let event = world.store.create("Event", "nowhere", "e", &uid, event).await.unwrap();
    world.gone(&[&event]).await;
}

#[tokio::test]
async fn dependants_go_after_their_owner_in_the_background() {
    let world = World::running().await;
    let owner = world.map("owner", &[]).await;
    let child = world.map("child", &[(&owner, true)]).await;
    let grandchild = world.map("grandchild", &[(&child, false)]).await;
    let pod = world.make("Pod", "default", "p", &[(&owner, false)]).await;
    let other = world.map("other", &[]).await;
    world.delete(&owner, Propagation::Background).await;
    world.gone(&[&owner, &child, &grandchild]).await;
    world
        .until(&pod, |pod| pod.unwrap()["metadata"]["deletionGracePeriodSeconds"] == 30)
        .await;
    assert!(world.get(&other).await.is_some());
}

#[tokio::test]
async fn an_owner_in_the_foreground_goes_after_what_blocks_it() {
    let world = World::running().await;
    let owner = world.map("owner", &[]).await;
    let pod = world.make("Pod", "default", "p", &[(&owner, true)]).await;
    let map = world.map("m", &[(&owner, false)]).await;
    world.delete(&owner, Propagation::Foreground).await;
    world
        .until(&pod, |pod| pod.unwrap()["metadata"]["deletionTimestamp"].is_string())
        .await;
    world.gone(&[&map]).await;
    world.settled().await;
    let waiting = world.get(&owner).await.unwrap();
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    world.store.forget_pod(&pod.uid).await.unwrap();
    world.gone(&[&owner]).await;
}

#[tokio::test]
async fn owners_in_a_circle_go_in_the_foreground_too() {
    let world = World::running().await;
    let first = world.map("first", &[]).await;
    let second = world.map("second", &[(&first, true)]).await;
    let garbage = Garbage {
        store: world.store.clone(),
        settings: settings(),
    };
    let reference = json!([{"apiVersion": "v1", "kind": MAP, "name": "second", "uid": second.uid.as_str(), "blockOwnerDeletion": true}]);
    let close = |object: &mut Value| {
        object["metadata"]["ownerReferences"] = reference.clone();
        true
    };
    garbage.change(&first.uid, close).await.unwrap();
    world.delete(&first, Propagation::Foreground).await;
    world.gone(&[&first, &second]).await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let world = World::running().await;
    let owner = world.map("owner", &[]).await;
    let child = world.map("child", &[(&owner, true)]).await;
    world.delete(&owner, Propagation::Orphan).await;
    world.gone(&[&owner]).await;
    world.settled().await;
    assert_eq!(owners(&world.get(&child).await.unwrap()), 0);
}

#[tokio::test]
async fn one_owner_that_is_left_keeps_its_dependant() {
    let world = World::running().await;
    let (a, b) = (world.map("a", &[]).await, world.map("b", &[]).await);
    let child = world.map("child", &[(&a, false), (&b, false)]).await;
    world.delete(&a, Propagation::Background).await;
    world.until(&child, |child| owners(child.unwrap()) == 1).await;
    world.delete(&b, Propagation::Background).await;
    world.gone(&[&child]).await;
}

#[tokio::test]
async fn a_dependant_goes_whose_owner_never_was() {
    let world = World::running().await;
    let owner = world.map("owner", &[]).await;
    let elsewhere = world.make(MAP, "kube-system", "elsewhere", &[]).await;
    // Of another namespace; of another name; of a uid that is nobody's.
    let foreign = world.map("foreign", &[(&elsewhere, false)]).await;
    let renamed = StoredObject {
        name: "renamed".into(),
        ..owner.clone()
    };
    let renamed = world.map("wrong-name", &[(&renamed, false)]).await;
    let nobody = StoredObject {
        uid: Uid("nobody".to_owned()),
        ..owner.clone()
    };
    let orphan = world.map("no-owner", &[(&nobody, false)]).await;
    world.gone(&[&foreign, &renamed, &orphan]).await;
    // A kind that podd does not know cannot be looked up: nobody can say that it is gone.
    let unknown = StoredObject {
        kind: "Widget".into(),
        ..nobody
    };
    let kept = world.map("kept", &[(&unknown, false)]).await;
    world.settled().await;
    assert!(world.get(&kept).await.is_some() && world.get(&owner).await.is_some());
}

#[tokio::test]
async fn what_lost_its_owner_while_no_agent_ran_goes_at_the_next_start() {
    let mut world = World::stopped().await;
    let owner = world.map("owner", &[]).await;
    let child = world.map("child", &[(&owner, false)]).await;
    let waiting = world.map("waiting", &[]).await;
    let blocking = world.map("blocking", &[(&waiting, true)]).await;
    world.delete(&owner, Propagation::Background).await;
    world.delete(&waiting, Propagation::Foreground).await;
    world.start();
    world.gone(&[&child, &blocking, &waiting]).await;
}

#[test]
fn the_queue_holds_each_thing_once_and_gives_none_out_twice() {
    let mut queue = Queue::default();
    let (a, b) = (Look::Namespace("a".to_owned()), Look::Namespace("b".to_owned()));
    queue.wake(a.clone());
    queue.wake(a.clone());
    queue.wake(b.clone());
    assert_eq!(queue.pop(), Some(a.clone()));
    queue.wake(a.clone());
    assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(b), Some(a), None));
}
