//! Figures, not tests: `cargo test --lib store::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

/// About as long as those of a pod of two containers: 2.5 kB desired, 1.5 kB status.
fn big_pod(uid: &Uid, name: &str) -> serde_json::Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "docker.io/library/busybox:latest", "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", "while true; do sleep 1; done"],
            "env": (0..8).map(|n| json!({ "name": format!("VARIABLE_{n}"), "value": "a value of some length" })).collect::<Vec<_>>(),
            "resources": { "limits": { "cpu": "100m", "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "64Mi" } },
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }, { "name": "more", "mountPath": "/more" }],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "uid": uid.as_str(), "generation": 1,
            "creationTimestamp": "2026-11-21T01:02:03Z", "labels": { "app": "figures", "tier": "none" } },
        "spec": { "containers": [container("main"), container("side")], "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "schedulerName": "podd",
            "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "more", "emptyDir": {} }] },
    })
}

fn big_status(phase: &str) -> serde_json::Value {
    let condition = |name: &str| json!({ "type": name, "status": "True", "lastTransitionTime": "2026-11-21T01:02:03Z", "observedGeneration": 1 });
    let conditions = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ]
    .map(condition);
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0,
            "image": "docker.io/library/busybox:latest", "imageID": format!("sha256:{}", "a".repeat(64)),
            "containerID": format!("podd://{}", "b".repeat(64)),
            "state": { "running": { "startedAt": "2026-11-21T01:02:03Z" } }, "lastState": {},
        })
    };
    json!({
        "phase": phase, "podIP": "10.244.0.2", "podIPs": [{ "ip": "10.244.0.2" }], "hostIP": "192.168.0.1",
        "startTime": "2026-11-21T01:02:03Z", "qosClass": "Guaranteed", "observedGeneration": 1,
        "conditions": conditions,
        "containerStatuses": [container("main"), container("side")],
    })
}

/// What the store does for one pod between POST and Running.
async fn start_pod(store: &Store, n: u32) -> Vec<(&'static str, Duration)> {
    let mut times = Vec::new();
    macro_rules! timed {
        ($name:literal, $operation:expr) => {{
            let start = Instant::now();
            let done = $operation.await.unwrap();
            times.push(($name, start.elapsed()));
            done
        }};
    }
    let name = format!("pod-{n}");
    let uid = uid(n);
    timed!(
        "create",
        store.create("Pod", "default", &name, &uid, big_pod(&uid, &name))
    );
    let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 255, 254));
    let mut before = Observed::default();
    for step in 0..3 {
        timed!("get_by_uid", store.get_by_uid("Pod", &uid)).unwrap();
        assert_eq!(timed!("observed", store.observed(&uid)), before);
        if step == 1 {
            timed!("address", address_of(store, &uid, (range.0, range.1)));
        }
        let mut after = observed::full(1);
        after.attempts.truncate(step);
        after.started_at = Some(jiff::Timestamp::from_second(i64::from(n) + i64::try_from(step).unwrap()).unwrap());
        timed!("save_observed", store.save_observed(&uid, &before, &after));
        before = after;
    }
    timed!("set_status", store.set_status(&uid, big_status("Running")));
    timed!("set_status, equal", store.set_status(&uid, big_status("Running")));
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures() {
    const PODS: u32 = 1_000;
    for callers in [1, 4, 10, 50] {
        let (store, _scratch) = fresh().await;
        let start = Instant::now();
        let done = join_all((0..callers).map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in (caller..PODS).step_by(usize::try_from(callers).unwrap()) {
                    times.extend(start_pod(&store, n).await);
                }
                times
            })
        }))
        .await;
        let took = start.elapsed();
        let times: Vec<_> = done.into_iter().flat_map(Result::unwrap).collect();
        let mut kinds: std::collections::BTreeMap<_, Vec<_>> = std::collections::BTreeMap::new();
        for (name, time) in times {
            kinds.entry(name).or_default().push(time);
        }
        println!(
            "{callers} callers: {:.0} pods/s, {:.0} durable writes/s",
            f64::from(PODS) / took.as_secs_f64(),
            f64::from(PODS * 6) / took.as_secs_f64()
        );
        for (name, mut times) in kinds {
            times.sort_unstable();
            println!(
                "  {name:20} p50 {:>10.1?} p95 {:>10.1?} p99 {:>10.1?}",
                times[times.len() / 2],
                times[times.len() * 95 / 100],
                times[times.len() * 99 / 100]
            );
        }
    }
}
