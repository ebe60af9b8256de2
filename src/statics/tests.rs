//! Manifests by themselves, and the driver over a real store and a real directory.

use std::fs;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::manifest::Made;
use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00.5Z".parse().unwrap()
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}], "terminationGracePeriodSeconds": 7},
    })
}

fn read(file: &str, manifest: &Value) -> Result<Manifest, ManifestError> {
    Manifest::read(file, manifest.to_string().as_bytes(), "node-1")
}

fn made(manifest: &Manifest) -> Made {
    let (uid, node) = (Uid("uid".to_owned()), Uid("node-uid".to_owned()));
    manifest.make(now(), &uid, "node-1", &node).unwrap()
}

#[test]
fn a_manifest_becomes_what_a_kubelet_would_show_of_it() {
    let manifest = read("web.json", &pod("web")).unwrap();
    let Made {
        object,
        status,
        warnings: _,
    } = made(&manifest);
    assert_eq!(
        object["metadata"],
        json!({
            "name": "web-node-1", "namespace": "default", "uid": "uid", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {
                "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": manifest.hash,
                "kubernetes.io/config.mirror": manifest.hash, "kubernetes.io/config.seen": "2026-01-01T00:00:00.5Z",
                "podd.dev/manifest": "web.json",
            },
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid", "controller": true},
            ],
        })
    );
    assert_eq!(object["spec"]["nodeName"], "node-1");
    assert_eq!(
        object["spec"]["tolerations"],
        json!([{"operator": "Exists", "effect": "NoExecute"}])
    );
    assert_eq!(status["phase"], "Pending");
}

#[test]
fn the_hash_is_of_what_a_manifest_says() {
    let hash = |file: &str, manifest: &Value| read(file, manifest).unwrap().hash;
    let plain = hash("a", &pod("web"));
    assert_eq!(plain.len(), 32);
    let yaml = "# the same\nkind: Pod\napiVersion: v1\nspec:\n  terminationGracePeriodSeconds: 7\n  \
                containers:\n  - {image: busybox, name: c}\nmetadata: {name: web}\n";
    assert_eq!(Manifest::read("a", yaml.as_bytes(), "node-1").unwrap().hash, plain);
    assert_ne!(hash("b", &pod("web")), plain);
    let mut other = pod("web");
    other["spec"]["containers"][0]["image"] = json!("nginx");
    assert_ne!(hash("a", &other), plain);
    assert_ne!(Manifest::read("a", yaml.as_bytes(), "node-2").unwrap().hash, plain);
}

#[test]
fn what_means_no_pod_is_refused_with_its_reason() {
    let with = |change: fn(&mut Value)| {
        let mut manifest = pod("web");
        change(&mut manifest);
        manifest
    };
    for (manifest, reason) in [
        (with(|p| drop(p["metadata"].take())), "name is needed for the pod"),
        (with(|p| p["kind"] = json!("ConfigMap")), "cannot be handled as a Pod"),
        (with(|p| p["spec"]["contaners"] = json!([])), "contaners"),
        (with(|p| p["metadata"]["name"] = json!("No_Name")), "metadata.name"),
        (with(|p| p["spec"]["containers"] = json!([])), "spec.containers"),
        (
            with(|p| p["spec"]["serviceAccountName"] = json!("me")),
            "static pods may not reference serviceaccounts",
        ),
        (
            with(|p| p["spec"]["imagePullSecrets"] = json!([{"name": "s"}])),
            "static pods may not reference secrets",
        ),
        (
            with(|p| p["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "m"}}])),
            "static pods may not reference configmaps",
        ),
        (
            with(|p| {
                p["spec"]["initContainers"] = json!([{"name": "i", "image": "b", "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]);
            }),
            "static pods may not reference secrets",
        ),
        (
            with(|p| p["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])),
            "static pods may not reference persistentvolumeclaims",
        ),
        (
            with(|p| {
                p["spec"]["volumes"] =
                    json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
            }),
            "static pods may not reference serviceaccounts (via projected volumes)",
        ),
    ] {
        let error = read("f", &manifest).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(Manifest::read("f", b"", "node-1").is_err());
    assert!(Manifest::read("f", b"kind: [Pod", "node-1").is_err());
}

/// A driver, its directory and its store.
struct Driven {
    dir: tempfile::TempDir,
    store: Store,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Driven {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
        for (kind, name) in [("Node", "node-1"), ("Namespace", "default")] {
            let uid = Uid(Uuid::new_v4().to_string());
            let object = json!({"kind": kind, "metadata": {"name": name, "uid": uid.as_str()}});
            store.create(kind, "", name, &uid, object).await.unwrap();
        }
        let (stop, _) = watch::channel(false);
        Self {
            dir,
            store,
            stop,
            task: None,
        }
    }

    async fn started() -> Self {
        let mut driven = Self::new().await;
        driven.start();
        driven
    }

    fn start(&mut self) {
        let statics = Statics {
            store: self.store.clone(),
            recorder: Recorder::hasty(self.store.clone(), now),
            directory: self.dir.path().join("manifests"),
            node_name: "node-1".to_owned(),
            clock: now,
        };
        self.stop.send_replace(false);
        self.task = Some(tokio::spawn(statics.run(self.stop.subscribe())));
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        self.task.take().unwrap().await.unwrap();
    }

    /// As an editor writes it: whole.
    fn write(&self, file: &str, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.dir.path().join("manifests").join(file)).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join("manifests").join(file)).unwrap();
    }

    /// Wait until the store is as asked.
    async fn until<T>(&self, what: &str, look: impl AsyncFn(&Store) -> Option<T>) -> T {
        let mut changes = self.store.subscribe();
        let wait = async {
            loop {
                if let Some(found) = look(&self.store).await {
                    return found;
                }
                drop(changes.recv().await);
            }
        };
        let found = tokio::time::timeout(Duration::from_mins(1), wait).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    async fn pod(&self, name: &str) -> StoredObject {
        self.until(name, async |store| store.get(POD, "default", name).await.unwrap())
            .await
    }

    async fn ending(&self, uid: &Uid) -> StoredObject {
        self.until("an end", async |store| {
            let pod = store.get_by_uid(POD, uid).await.unwrap()?;
            pod.json["metadata"]["deletionTimestamp"].is_string().then_some(pod)
        })
        .await
    }

    /// What the controller does at the end of a pod.
    async fn gone(&self, uid: &Uid) {
        assert!(self.store.forget_pod(uid).await.unwrap());
    }

    async fn event(&self, text: &str) {
        self.until(text, async |store| {
            let events = store.list("Event", None, None, None).await.unwrap().objects;
            let told = |event: &StoredObject| {
                event.json["involvedObject"]["kind"] == "Node"
                    && event.json["reason"] == INVALID
                    && event.json["message"]
                        .as_str()
                        .is_some_and(|message| message.contains(text))
            };
            events.iter().any(told).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_file_makes_a_pod_and_takes_it_away() {
    let driven = Driven::started().await;
    driven.write(".hidden", &pod("hidden").to_string());
    driven.write("web", &pod("web").to_string());
    let made = driven.pod("web-node-1").await;
    driven.remove("web");
    let ending = driven.ending(&made.uid).await;
    assert_eq!(ending.json["metadata"]["deletionGracePeriodSeconds"], 7);
    driven.gone(&made.uid).await;
    driven.write("next", &pod("next").to_string());
    driven.pod("next-node-1").await;
    let all = driven.store.list(POD, None, None, None).await.unwrap().objects;
    assert_eq!(all.len(), 1, "{all:?}");
}

#[tokio::test]
async fn a_changed_file_makes_its_pod_anew_once_the_old_one_is_gone() {
    let driven = Driven::started().await;
    driven.write("web", &pod("web").to_string());
    let old = driven.pod("web-node-1").await;
    let mut changed = pod("web");
    changed["spec"]["containers"][0]["image"] = json!("nginx");
    driven.write("web", &changed.to_string());
    driven.ending(&old.uid).await;
    driven.gone(&old.uid).await;
    let new = driven.pod("web-node-1").await;
    assert_ne!(new.uid, old.uid);
    assert_eq!(new.json["spec"]["containers"][0]["image"], "nginx");
}

#[tokio::test]
async fn a_pod_deleted_by_somebody_else_comes_back() {
    let driven = Driven::started().await;
    driven.write("web", &pod("web").to_string());
    let old = driven.pod("web-node-1").await;
    let version = old.resource_version;
    driven
        .store
        .delete(POD, "default", "web-node-1", version)
        .await
        .unwrap();
    let new = driven.pod("web-node-1").await;
    assert_ne!(new.uid, old.uid);
    let hash = |pod: &StoredObject| pod.json["metadata"]["annotations"][HASH].clone();
    assert_eq!(hash(&new), hash(&old));
}

#[tokio::test]
async fn a_new_agent_finds_the_pods_of_the_old_one_and_what_was_changed_meanwhile() {
    let mut driven = Driven::started().await;
    driven.write("kept", &pod("kept").to_string());
    driven.write("gone", &pod("gone").to_string());
    let kept = driven.pod("kept-node-1").await;
    let gone = driven.pod("gone-node-1").await;
    driven.end().await;
    driven.remove("gone");
    driven.write("new", &pod("new").to_string());
    driven.start();
    driven.ending(&gone.uid).await;
    driven.pod("new-node-1").await;
    let still = driven.pod("kept-node-1").await;
    assert_eq!(
        still.resource_version, kept.resource_version,
        "nothing was written to it"
    );
}

#[tokio::test]
async fn a_broken_file_is_told_of_and_harms_nobody() {
    let driven = Driven::started().await;
    driven.write("web", &pod("web").to_string());
    let web = driven.pod("web-node-1").await;
    driven.write("web", "kind: Pod\nspec: {");
    driven.event("manifests/web: ").await;
    driven.write("zz-twice", &pod("twice").to_string());
    driven.pod("twice-node-1").await;
    driven.write("zz-twice-again", &pod("twice").to_string());
    driven
        .event("the pod default/twice-node-1 is that of \"zz-twice\" already")
        .await;
    let mut lost = pod("lost");
    lost["metadata"]["namespace"] = json!("nowhere");
    driven.write("lost", &lost.to_string());
    driven.event("the namespace nowhere does not exist").await;
    let still = driven.pod("web-node-1").await;
    assert_eq!(still.resource_version, web.resource_version);
}

#[tokio::test]
async fn pods_of_others_are_left_alone() {
    let mut driven = Driven::new().await;
    let uid = Uid(Uuid::new_v4().to_string());
    let mut foreign = pod("web-node-1");
    foreign["metadata"]["uid"] = json!(uid.as_str());
    foreign["metadata"]["annotations"] = json!({ SOURCE: "file" });
    let stored = driven.store.create(POD, "default", "web-node-1", &uid, foreign);
    let stored = stored.await.unwrap();
    driven.write("web", &pod("web").to_string());
    driven.start();
    driven.event("Pod default/web-node-1 exists already").await;
    let still = driven.pod("web-node-1").await;
    assert_eq!(still.resource_version, stored.resource_version);
}
