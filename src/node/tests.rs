//! The node's objects by themselves, and its keeper over a real store.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::status;

fn now() -> Timestamp {
    "2026-01-01T00:00:00.5Z".parse().unwrap()
}

fn identity() -> Identity {
    Identity {
        name: "node-1".to_owned(),
        host_ips: vec!["10.244.0.1".parse().unwrap()],
        pod_cidr: "10.244.0.0/22".to_owned(),
        version: "v1.36.0+podd.1".to_owned(),
        handlers: vec![Handler {
            name: String::new(),
            recursive_read_only: true,
            user_namespaces: false,
        }],
    }
}

fn facts() -> Facts {
    Facts {
        cpus: 8,
        memory: 16 << 30,
        disk: 3 << 40,
        huge_pages: [(2 << 20, 8 << 20), (1 << 30, 0)].into(),
        kernel: "6.1.0".to_owned(),
        os_image: "An OS".to_owned(),
        boot_id: "boot-1".to_owned(),
        machine_id: "machine".to_owned(),
        system_uuid: "system".to_owned(),
    }
}

fn supply() -> Supply {
    Supply::new(&facts(), 1021, &Amounts::default(), &Amounts::default())
}

fn machine<'a>(identity: &'a Identity, facts: &'a Facts, supply: &'a Supply) -> object::Machine<'a> {
    static NOTHING: std::sync::LazyLock<pressure::Found> = std::sync::LazyLock::new(pressure::Found::default);
    object::Machine {
        identity,
        facts,
        supply,
        found: &NOTHING,
    }
}

/// A machine whose files are beneath `root`.
fn places(root: &std::path::Path) -> Places {
    Places {
        root: root.to_owned(),
        pods: root.to_owned(),
        images: root.to_owned(),
    }
}

fn uid(text: &str) -> Uid {
    Uid(text.to_owned())
}

#[test]
fn a_node_is_what_a_kubelet_would_make_of_the_machine() {
    let node = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        None,
        &uid("u"),
        Some(true),
        Vec::new(),
    );
    let node = serde_json::to_value(node).unwrap();
    let capacity = json!({"cpu": "8", "memory": "16Gi", "ephemeral-storage": "3Ti", "pods": "1021",
        "hugepages-2Mi": "8Mi", "hugepages-1Gi": "0"});
    let mut allocatable = capacity.clone();
    allocatable["memory"] = "16376Mi".into();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let labels = json!({"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux",
        "kubernetes.io/arch": schedule_architecture()});
    assert_eq!(
        node,
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels},
            "spec": {"podCIDR": "10.244.0.0/22", "podCIDRs": ["10.244.0.0/22"]},
            "status": {
                "runtimeHandlers": [
                    {"name": "", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": false}},
                ],
                "features": {"supplementalGroupsPolicy": true},
                "capacity": capacity, "allocatable": allocatable,
                "addresses": [{"type": "InternalIP", "address": "10.244.0.1"}, {"type": "Hostname", "address": "node-1"}],
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                    condition("Ready", "True", "KubeletReady", "podd is posting ready status"),
                ],
                "nodeInfo": {
                    "architecture": schedule_architecture(), "bootID": "boot-1",
                    "containerRuntimeVersion": format!("podd://{}", env!("CARGO_PKG_VERSION")),
                    "kernelVersion": "6.1.0", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0+podd.1",
                    "machineID": "machine", "operatingSystem": "linux", "osImage": "An OS", "systemUUID": "system",
                },
            },
        })
    );
}

fn schedule_architecture() -> &'static str {
    crate::schedule::architecture()
}

#[test]
fn what_users_wrote_on_the_node_outlives_a_restart() {
    let mut stored = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        None,
        &uid("u"),
        Some(true),
        Vec::new(),
    );
    let labels = stored.metadata.labels.get_or_insert_default();
    labels.insert("disk".to_owned(), "ssd".to_owned());
    labels.insert("kubernetes.io/hostname".to_owned(), "spoilt".to_owned());
    stored.metadata.annotations = Some([("note".to_owned(), "mine".to_owned())].into());
    let spec = stored.spec.get_or_insert_default();
    spec.unschedulable = Some(true);
    spec.taints = Some(vec![k8s_openapi::api::core::v1::Taint {
        key: "k".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    }]);
    let mut facts = facts();
    facts.cpus = 16;
    let supply = Supply::new(&facts, 1021, &Amounts::default(), &Amounts::default());
    let later: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
    let node = object::node(
        later,
        machine(&identity(), &facts, &supply),
        Some(stored.clone()),
        &uid("u"),
        None,
        Vec::new(),
    );
    let mut expected = stored;
    expected
        .metadata
        .labels
        .get_or_insert_default()
        .insert("kubernetes.io/hostname".to_owned(), "node-1".to_owned());
    for amounts in {
        let status = expected.status.as_mut().unwrap();
        [&mut status.capacity, &mut status.allocatable]
    } {
        amounts.as_mut().unwrap().get_mut("cpu").unwrap().0 = "16".to_owned();
    }
    expected
        .spec
        .as_mut()
        .unwrap()
        .taints
        .as_mut()
        .unwrap()
        .push(k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            time_added: Some(object::wire_time(later)),
            ..Default::default()
        });
    // The conditions and their times among it: nothing has become of them.
    assert_eq!(node, expected);
}

#[test]
fn a_new_node_is_not_ready_until_the_agent_is() {
    let starting = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        None,
        &uid("u"),
        None,
        Vec::new(),
    );
    assert!(!object::is_ready(&starting));
    let ready = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        Some(starting),
        &uid("u"),
        Some(true),
        Vec::new(),
    );
    assert!(object::is_ready(&ready));
    let again = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        Some(ready),
        &uid("u"),
        None,
        Vec::new(),
    );
    assert!(object::is_ready(&again));
}

#[test]
fn the_taint_of_a_cordon_comes_and_goes_with_it() {
    let mut node = object::node(
        now(),
        machine(&identity(), &facts(), &supply()),
        None,
        &uid("u"),
        None,
        Vec::new(),
    );
    assert!(!object::taint(now(), &mut node));
    node.spec.get_or_insert_default().unschedulable = Some(true);
    assert!(object::taint(now(), &mut node));
    let taints = serde_json::to_value(&node.spec.as_ref().unwrap().taints).unwrap();
    assert_eq!(
        taints,
        json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}])
    );
    assert!(!object::taint(now(), &mut node));
    node.spec.get_or_insert_default().unschedulable = None;
    assert!(object::taint(now(), &mut node));
    assert_eq!(node.spec.unwrap().taints, None);
}

/// A keeper over a store of its own, and what ends it.
struct Running {
    store: Store,
    ready: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

fn keeper(store: &Store) -> NodeKeeper {
    NodeKeeper {
        store: store.clone(),
        recorder: Recorder::hasty(store.clone(), now),
        identity: identity(),
        facts: facts(),
        supply: supply(),
        gauge: Gauge::new(Thresholds([].into()), Duration::ZERO, places("/".as_ref())),
        images: watch::channel(()).1,
        clock: now,
    }
}

async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
    let keeper = keeper(&store);
    keeper.register().await.unwrap();
    let (ready, readiness) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    Running {
        store,
        ready,
        stop,
        task: tokio::spawn(keeper.run(readiness, stopped)),
        dir,
    }
}

impl Running {
    async fn node(&self) -> StoredObject {
        self.store.get(NODE, "", "node-1").await.unwrap().unwrap()
    }

    /// Change the node as a client would.
    async fn edit(&self, edit: impl Fn(&mut Value)) {
        loop {
            let node = self.node().await;
            let mut wanted = (*node.json).clone();
            edit(&mut wanted);
            match self
                .store
                .update(NODE, "", "node-1", node.resource_version, wanted)
                .await
            {
                Err(StoreError::Conflict { .. }) => {}
                done => {
                    done.unwrap();
                    return;
                }
            }
        }
    }

    /// A pod as the API makes it.
    async fn create(&self, name: &str, spec: Value) -> StoredObject {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let wire = serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(object.clone()).unwrap();
        let model = crate::admit::to_model(&wire).unwrap();
        let node = view(&self.store, "node-1").await.unwrap();
        let placement = crate::schedule::place(wire.spec.as_ref().unwrap(), &node);
        if placement == crate::schedule::Placement::Fits {
            object["spec"]["nodeName"] = "node-1".into();
        }
        object["status"] = serde_json::to_value(status::initial(now(), &model, &placement)).unwrap();
        self.store
            .create("Pod", "default", name, &uid(name), object)
            .await
            .unwrap()
    }

    /// Wait until the store's object of this kind satisfies.
    async fn until(&self, kind: &str, satisfied: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.store.subscribe();
        loop {
            let page = self.store.list(kind, None, None, None).await.unwrap();
            if let Some(found) = page.objects.iter().find(|object| satisfied(&object.json)) {
                return (*found.json).clone();
            }
            while &*changes.recv().await.unwrap().object.kind != kind {}
        }
    }

    async fn event(&self, reason: &str) -> Value {
        self.until("Event", |event| event["reason"] == reason).await
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

fn scheduled(pod: &Value) -> (&str, &str) {
    let conditions = pod["status"]["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let told = conditions.iter().find(|told| told["type"] == "PodScheduled");
    told.map_or(("", ""), |told| {
        (
            told["status"].as_str().unwrap(),
            told["message"].as_str().unwrap_or_default(),
        )
    })
}

#[tokio::test]
async fn node_and_lease_are_there_before_the_agent_is_ready() {
    let running = start().await;
    let node = running.node().await;
    let lease = running.store.get(LEASE, LEASES, "node-1").await.unwrap().unwrap();
    assert_eq!(
        lease.json["spec"],
        json!({"holderIdentity": "node-1", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.500000Z"})
    );
    assert_eq!(
        lease.json["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": node.uid.as_str()}])
    );
    running.event("Starting").await;
    running.ready.send_replace(true);
    let event = running.event("NodeReady").await;
    assert_eq!(event["message"], "Node node-1 status is now: NodeReady");
    let ready = running.node().await;
    assert_eq!(ready.json["status"]["conditions"][3]["status"], "True");

    // The next agent finds nothing to write: the node was ready, and so it stays.
    let (store, dir) = (running.store.clone(), tempfile::tempdir().unwrap());
    running.end().await;
    let version = store.get(NODE, "", "node-1").await.unwrap().unwrap().resource_version;
    keeper(&store).register().await.unwrap();
    assert_eq!(
        store.get(NODE, "", "node-1").await.unwrap().unwrap().resource_version,
        version
    );
    drop(dir);
}

#[tokio::test]
async fn a_node_with_a_new_name_is_the_same_node() {
    let running = start().await;
    let renamed = NodeKeeper {
        identity: Identity {
            name: "node-2".to_owned(),
            ..identity()
        },
        ..keeper(&running.store)
    };
    let Running { store, stop, task, .. } = &running;
    stop.send_replace(true);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    renamed.register().await.unwrap();
    for kind in [NODE, LEASE] {
        let page = store.list(kind, None, None, None).await.unwrap();
        let names: Vec<&str> = page.objects.iter().map(|object| &*object.name).collect();
        assert_eq!(names, ["node-2"], "{kind}");
    }
}

#[tokio::test]
async fn a_reboot_is_told() {
    let running = start().await;
    let later = || "2026-01-01T01:00:00Z".parse().unwrap();
    let rebooted = NodeKeeper {
        facts: Facts {
            boot_id: "boot-2".to_owned(),
            ..facts()
        },
        recorder: Recorder::hasty(running.store.clone(), later),
        clock: later,
        ..keeper(&running.store)
    };
    rebooted.register().await.unwrap();
    let event = running.event("Rebooted").await;
    assert_eq!(event["message"], "Node node-1 has been rebooted, boot id: boot-2");
    assert_eq!(event["type"], "Warning");
    running.end().await;
}

#[tokio::test]
async fn a_pod_that_fits_is_told_to_be_scheduled() {
    let running = start().await;
    running.create("web", json!({})).await;
    let event = running.event("Scheduled").await;
    assert_eq!(event["message"], "Successfully assigned default/web to node-1");
    assert_eq!(event["source"]["component"], "default-scheduler");
    assert_eq!(event["involvedObject"]["name"], "web");
    running.end().await;
}

#[tokio::test]
async fn a_pod_waits_for_its_label_and_is_bound_once_the_node_has_it() {
    let running = start().await;
    let pod = running.create("web", json!({"nodeSelector": {"disk": "ssd"}})).await;
    let why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
               preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(scheduled(&pod.json), ("False", why));
    let event = running.event("FailedScheduling").await;
    assert_eq!(
        (event["message"].as_str(), event["type"].as_str()),
        (Some(why), Some("Warning"))
    );

    running
        .edit(|node| node["metadata"]["labels"]["disk"] = "ssd".into())
        .await;
    let bound = running.until("Pod", |pod| pod["spec"]["nodeName"] == "node-1").await;
    assert_eq!(scheduled(&bound), ("True", ""));
    running.event("Scheduled").await;
    running.end().await;
}

#[tokio::test]
async fn a_cordon_holds_pods_back_until_it_is_taken_away() {
    let running = start().await;
    running.edit(|node| node["spec"]["unschedulable"] = true.into()).await;
    running.event("NodeNotSchedulable").await;
    running
        .until(NODE, |node| {
            node["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable"
        })
        .await;
    let pod = running.create("web", json!({})).await;
    assert!(
        scheduled(&pod.json).1.contains("1 node(s) were unschedulable."),
        "{}",
        pod.json
    );
    // What names its node itself is not held back, nor is what is there already touched.
    running.create("mine", json!({"nodeName": "node-1"})).await;
    running
        .edit(|node| {
            node["spec"].as_object_mut().unwrap().remove("unschedulable");
        })
        .await;
    running
        .until("Pod", |pod| {
            pod["metadata"]["name"] == "web" && pod["spec"]["nodeName"] == "node-1"
        })
        .await;
    assert!(running.node().await.json["spec"]["taints"].is_null());
    running.event("NodeSchedulable").await;
    running.end().await;
}

#[tokio::test]
async fn the_reason_why_a_pod_waits_follows_the_node() {
    let running = start().await;
    running.create("web", json!({"nodeSelector": {"disk": "ssd"}})).await;
    running
        .edit(|node| node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]))
        .await;
    running
        .until("Pod", |pod| {
            scheduled(pod).1.contains("1 node(s) had untolerated taint {k: v}.")
        })
        .await;
    running.end().await;
}

#[tokio::test]
async fn gated_pods_foreign_schedulers_and_other_nodes_are_let_be() {
    let running = start().await;
    let gated = running
        .create("gated", json!({"schedulingGates": [{"name": "wait"}]}))
        .await;
    assert_eq!(
        scheduled(&gated.json).1,
        "Scheduling is blocked due to non-empty scheduling gates"
    );
    let theirs = running.create("theirs", json!({"schedulerName": "theirs"})).await;
    let elsewhere = running.create("elsewhere", json!({"nodeName": "mars"})).await;
    // The gate is taken away, as a client does it.
    let mut open = (*gated.json).clone();
    open["spec"].as_object_mut().unwrap().remove("schedulingGates");
    running
        .store
        .update("Pod", "default", "gated", gated.resource_version, open)
        .await
        .unwrap();
    running
        .until("Pod", |pod| {
            pod["metadata"]["name"] == "gated" && pod["spec"]["nodeName"] == "node-1"
        })
        .await;
    for (name, before) in [("theirs", theirs), ("elsewhere", elsewhere)] {
        let after = running.store.get("Pod", "default", name).await.unwrap().unwrap();
        assert_eq!(after.json, before.json, "{name}");
    }
    running.end().await;
}

#[tokio::test]
async fn a_node_that_is_deleted_comes_back() {
    let running = start().await;
    let node = running.node().await;
    running
        .store
        .delete(NODE, "", "node-1", node.resource_version)
        .await
        .unwrap();
    let back = running.until(NODE, |_| true).await;
    assert_ne!(back["metadata"]["uid"], node.json["metadata"]["uid"]);
    running.end().await;
}

#[tokio::test]
async fn pods_that_waited_while_the_agent_was_away_are_looked_at() {
    let running = start().await;
    let node = running.node().await;
    let waiting = running.create("web", json!({"nodeSelector": {"disk": "ssd"}})).await;
    let (store, dir) = (running.store.clone(), Arc::new(node));
    running.stop.send_replace(true);
    running.task.await.unwrap();
    let mut labelled = (*dir.json).clone();
    labelled["metadata"]["labels"]["disk"] = "ssd".into();
    store
        .update(NODE, "", "node-1", dir.resource_version, labelled)
        .await
        .unwrap();
    let mut changes = store.subscribe();
    let (stop, stopped) = watch::channel(false);
    let (_ready, readiness) = watch::channel(false);
    let next = tokio::spawn(keeper(&store).run(readiness, stopped));
    loop {
        let change = changes.recv().await.unwrap();
        if change.object.uid == waiting.uid {
            assert_eq!(change.object.json["spec"]["nodeName"], "node-1");
            break;
        }
    }
    stop.send_replace(true);
    next.await.unwrap();
}

#[tokio::test]
async fn the_node_tells_of_its_largest_images() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
    let digest = |letter: char| format!("sha256:{}", String::from(letter).repeat(64));
    for size in 1..=60_u64 {
        let image = crate::store::ImageRow {
            id: format!("sha256:{size:064}"),
            manifest_digest: digest('a'),
            config: "{}".to_owned(),
            layers: Vec::new(),
            size,
            created_at: now(),
            names: vec![
                format!("docker.io/library/i{size}:1"),
                format!("docker.io/library/i{size}:2"),
            ],
        };
        store.put_image(&image).await.unwrap();
    }
    let mut pulled = store.images().await.unwrap().pop().unwrap();
    pulled.names = vec![format!("docker.io/library/i60@{}", digest('b'))];
    store.put_image(&pulled).await.unwrap();

    let (images, changes) = watch::channel(());
    let keeper = NodeKeeper {
        images: changes,
        ..keeper(&store)
    };
    keeper.register().await.unwrap();
    let node = store.get(NODE, "", "node-1").await.unwrap().unwrap();
    let told = node.json["status"]["images"].as_array().unwrap();
    assert_eq!(told.len(), 50);
    assert_eq!(
        told[0],
        serde_json::json!({"sizeBytes": 60, "names": [
            format!("docker.io/library/i60@{}", digest('b')),
            "docker.io/library/i60:1",
            "docker.io/library/i60:2",
        ]})
    );
    assert_eq!(told[49]["names"][0], format!("docker.io/library/i11@{}", digest('a')));

    let mut seen = store.subscribe();
    let (stop, stopped) = watch::channel(false);
    let (_ready, readiness) = watch::channel(false);
    let running = tokio::spawn(keeper.run(readiness, stopped));
    store.remove_image(&pulled.id).await.unwrap();
    images.send_replace(());
    loop {
        let change = seen.recv().await.unwrap();
        if &*change.object.kind == NODE && change.object.json["status"]["images"][0]["sizeBytes"] == 59 {
            break;
        }
    }
    stop.send_replace(true);
    running.await.unwrap();
}

fn write_free_memory(root: &std::path::Path, mebibytes: u64) {
    std::fs::create_dir_all(root.join("proc")).unwrap();
    let text = format!(
        "MemTotal: 1048576 kB\nMemFree: {} kB\nInactive(file): 0 kB\n",
        mebibytes * 1024
    );
    std::fs::write(root.join("proc/meminfo"), text).unwrap();
}

/// The type, status and reason of a condition, and the keys of the node's taints.
fn pressure_of(node: &Value, type_: &str) -> (String, String, Vec<String>) {
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let told = conditions.iter().find(|told| told["type"] == type_).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    (
        text(&told["status"]),
        text(&told["reason"]),
        taints.map(|taint| text(&taint["key"])).collect(),
    )
}

#[tokio::test]
async fn a_machine_that_is_short_of_memory_takes_no_pods_that_ask_for_none() {
    let dir = tempfile::tempdir().unwrap();
    write_free_memory(dir.path(), 99);
    let store = Store::open(&dir.path().join("podd.db")).await.unwrap();
    let mut gauge = Gauge::new(Thresholds::default(), Duration::ZERO, places(dir.path()));
    // How full the disk is that the tests run on is no matter of theirs.
    gauge.places.pods = dir.path().join("absent");
    gauge.places.images = dir.path().join("absent");
    gauge.every = Duration::from_millis(1);
    let keeper = NodeKeeper {
        gauge,
        ..keeper(&store)
    };
    keeper.register().await.unwrap();
    let (ready, readiness) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let running = Running {
        store,
        ready,
        stop,
        task: tokio::spawn(keeper.run(readiness, stopped)),
        dir,
    };
    let (status, reason, taints) = pressure_of(&running.node().await.json, "MemoryPressure");
    assert_eq!((&*status, &*reason), ("True", "KubeletHasInsufficientMemory"));
    assert_eq!(taints, ["node.kubernetes.io/memory-pressure"]);
    let event = running.event("NodeHasInsufficientMemory").await;
    assert_eq!(event["message"], "Node node-1 status is now: NodeHasInsufficientMemory");
    running.event("NodeHasNoDiskPressure").await;

    let pod = running.create("modest", json!({})).await;
    assert!(
        scheduled(&pod.json)
            .1
            .contains("1 node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }."),
        "{}",
        pod.json
    );
    let resources = json!({"requests": {"memory": "1Mi"}});
    let asks = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
    let pod = running.create("asks", asks).await;
    assert_eq!(scheduled(&pod.json), ("True", ""));

    write_free_memory(running.dir.path(), 100);
    let bound = running
        .until("Pod", |pod| {
            pod["metadata"]["name"] == "modest" && pod["spec"]["nodeName"] == "node-1"
        })
        .await;
    assert_eq!(scheduled(&bound), ("True", ""));
    let (status, reason, taints) = pressure_of(&running.node().await.json, "MemoryPressure");
    assert_eq!((&*status, &*reason), ("False", "KubeletHasSufficientMemory"));
    assert_eq!(taints, [""; 0]);
    running.event("NodeHasSufficientMemory").await;
    running.end().await;
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|told| told["type"] == type_)
}

#[tokio::test]
async fn a_taint_drives_off_what_does_not_tolerate_it() {
    let running = start().await;
    running.create("plain", json!({})).await;
    let toleration = |seconds: Value| json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    running
        .create("stays", json!({"tolerations": toleration(Value::Null)}))
        .await;
    running
        .create("later", json!({"tolerations": toleration(3600.into())}))
        .await;
    running
        .create("at-once", json!({"tolerations": toleration(0.into())}))
        .await;
    running.create("elsewhere", json!({"nodeName": "mars"})).await;
    running
        .edit(|node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]))
        .await;
    let is_going = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    for name in ["plain", "at-once"] {
        let gone = running
            .until("Pod", |pod| pod["metadata"]["name"] == name && is_going(pod))
            .await;
        let told = condition(&gone, "DisruptionTarget").unwrap();
        assert_eq!(
            (&told["status"], &told["reason"], &told["message"]),
            (
                &json!("True"),
                &json!("DeletionByTaintManager"),
                &json!("Taint manager: deleting due to NoExecute taint")
            )
        );
        let message = format!("Marking for deletion Pod default/{name}");
        let event = running.until("Event", |event| event["message"] == *message).await;
        assert_eq!(event["reason"], "TaintManagerEviction");
        assert_eq!(event["source"]["component"], "taint-eviction-controller");
    }
    let node = running.node().await;
    assert_eq!(node.json["spec"]["taints"][0]["timeAdded"], "2026-01-01T00:00:00Z");
    // A pod that comes while the taint is there is driven off too.
    running.create("bold", json!({"nodeName": "node-1"})).await;
    running
        .until("Pod", |pod| pod["metadata"]["name"] == "bold" && is_going(pod))
        .await;
    for name in ["stays", "later", "elsewhere"] {
        let pod = running.store.get("Pod", "default", name).await.unwrap().unwrap();
        assert!(!is_going(&pod.json), "{name}");
    }
    running
        .edit(|node| {
            node["spec"].as_object_mut().unwrap().remove("taints");
        })
        .await;
    let event = running
        .until("Event", |event| {
            event["message"] == "Cancelling deletion of Pod default/later"
        })
        .await;
    assert_eq!(event["reason"], "TaintManagerEviction");
    running.end().await;
}

#[tokio::test]
async fn an_agent_that_comes_later_drives_off_whose_time_has_passed_meanwhile() {
    let running = start().await;
    let toleration = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
    running.create("patient", json!({"tolerations": toleration})).await;
    running
        .edit(|node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]))
        .await;
    running
        .until(NODE, |node| node["spec"]["taints"][0]["timeAdded"].is_string())
        .await;
    running.stop.send_replace(true);
    running.task.await.unwrap();
    for (clock, goes) in [
        ((|| "2026-01-01T00:00:59Z".parse().unwrap()) as fn() -> Timestamp, false),
        (|| "2026-01-01T00:01:01Z".parse().unwrap(), true),
    ] {
        let next = NodeKeeper {
            clock,
            ..keeper(&running.store)
        };
        let mut departures = Departures::default();
        next.drive_off_all(&mut departures).await.unwrap();
        assert_eq!(departures.next().is_none(), goes);
        let pod = running.store.get("Pod", "default", "patient").await.unwrap().unwrap();
        assert_eq!(pod.json["metadata"]["deletionTimestamp"].is_string(), goes);
    }
}
