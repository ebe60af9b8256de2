//! What the kernel is told of a pod's limits, who dies for want of memory, and who goes for want of disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_for, with};

const MEMORY_HOG: &str = "x=a; while true; do x=$x$x; done";

/// The hierarchy that has this controller, and whether that is v2.
fn hierarchy(controller: &str) -> (PathBuf, bool) {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return (root.to_owned(), true);
    }
    (root.join(controller), false)
}

/// The first word of a control file; `None`: the machine has no such file.
fn control(controller: &str, cgroup: &str, v1: &str, v2: &str) -> Option<String> {
    let (root, is_v2) = hierarchy(controller);
    let file = root.join(cgroup).join(if is_v2 { v2 } else { v1 });
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// What a cgroup weighs, in v1's shares: v2's weight is looked up among those that the tests use.
fn shares(cgroup: &str) -> Option<u64> {
    let found: u64 = control("cpu", cgroup, "cpu.shares", "cpu.weight")?.parse().unwrap();
    if !hierarchy("cpu").1 {
        return Some(found);
    }
    let weight = |shares: f64| {
        let log = shares.log2();
        10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil()
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let same = |shares: &u64| *shares > 2 && (weight(*shares as f64) - found as f64).abs() < 0.5;
    if found == 1 {
        return Some(2);
    }
    [102, 204, 256, 307, 512].into_iter().find(same)
}

fn quota(cgroup: &str) -> Option<String> {
    control("cpu", cgroup, "cpu.cfs_quota_us", "cpu.max")
}

fn memory(cgroup: &str) -> Option<String> {
    control("memory", cgroup, "memory.limit_in_bytes", "memory.max")
}

/// How much swap beside its memory a cgroup may use; `None`: the machine does not limit it.
fn swap(cgroup: &str) -> Option<u64> {
    let found = control("memory", cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max")?;
    let found: u64 = found.parse().unwrap();
    if hierarchy("memory").1 {
        return Some(found);
    }
    Some(found - memory(cgroup)?.parse::<u64>().unwrap())
}

fn wait_shares(what: &str, cgroup: &str, expected: u64) {
    wait_for(what, || match shares(cgroup) {
        Some(found) if found == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// What a container was made with: not every machine lets podd lower it.
fn oom_score_adj(agent: &Agent, pod: &Value, container: &str) -> i64 {
    let config = agent.sandbox_dir(&uid(pod)).join(format!("{container}-0/config.json"));
    let spec: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    spec["process"]["oomScoreAdj"].as_i64().unwrap()
}

fn asking(name: &str, cpu: &str, memory: &str) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu, "memory": memory}});
    })
}

#[test]
fn classes_weigh_what_their_pods_ask_for() {
    let agent = Agent::start_with(&["--pod-pids-limit=100"]);
    let root = agent.cgroup_root();
    let (burstable, best_effort) = (format!("{root}/burstable"), format!("{root}/besteffort"));
    agent.create(&asking("a", "100m", "16Mi"));
    agent.create(&asking("b", "200m", "16Mi"));
    agent.create(&pod("idle", &[("c", "exec sleep 1000")]));
    for name in ["a", "b", "idle"] {
        agent.wait_running(name);
    }
    wait_shares("both pods to weigh", &burstable, 307);
    wait_shares("the class that asks for nothing", &best_effort, 2);
    let a = agent.pod("a");
    let of_a = format!("{burstable}/pod{}", uid(&a));
    assert_eq!(shares(&of_a), Some(102));
    assert_eq!(shares(&format!("{of_a}/c-0")), Some(102));
    assert_eq!(control("pids", &of_a, "pids.max", "pids.max").as_deref(), Some("100"));
    agent.delete("a", Some(0));
    agent.wait_gone("a");
    wait_shares("one pod less", &burstable, 204);
}

#[test]
fn a_new_agent_knows_what_its_pods_weigh() {
    let mut agent = Agent::start();
    agent.create(&asking("a", "100m", "16Mi"));
    agent.wait_running("a");
    agent.kill();
    agent.start_again();
    agent.create(&asking("b", "200m", "16Mi"));
    agent.wait_running("b");
    wait_shares("both pods to weigh", &format!("{}/burstable", agent.cgroup_root()), 307);
}

#[test]
fn a_pod_is_limited_as_a_whole() {
    let agent = Agent::start();
    let made = agent.create(&with(
        pod("whole", &[("free", "exec sleep 1000"), ("small", "exec sleep 1000")]),
        |pod| {
            pod["spec"]["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
            pod["spec"]["containers"][1]["resources"] =
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "32Mi"}});
        },
    ));
    // Its containers ask for less cpu than it may have: that is what it asks for.
    assert_eq!(
        made["spec"]["resources"]["requests"],
        json!({"cpu": "100m", "memory": "32Mi"})
    );
    let running = agent.wait_running("whole");
    let status = &running["status"];
    assert_eq!(status["qosClass"], "Burstable");
    assert_eq!(
        status["resources"],
        json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "32Mi"}})
    );
    assert_eq!(status["allocatedResources"], json!({"cpu": "100m", "memory": "32Mi"}));
    let cgroup = format!("{}/burstable/pod{}", agent.cgroup_root(), uid(&running));
    let limits = |cgroup: &str| (quota(cgroup).unwrap(), memory(cgroup).unwrap());
    assert_eq!(limits(&cgroup), ("50000".to_owned(), "67108864".to_owned()));
    let free = format!("{cgroup}/free-0");
    assert_eq!(limits(&free), ("50000".to_owned(), "67108864".to_owned()));
    let small = format!("{cgroup}/small-0");
    assert_eq!(limits(&small), ("20000".to_owned(), "33554432".to_owned()));
    assert!(matches!(swap(&small), None | Some(0)), "{:?}", swap(&small));

    let made = agent.create(&with(pod("sure", &[("c", "exec sleep 1000")]), |pod| {
        let both = json!({"cpu": "250m", "memory": "64Mi"});
        pod["spec"]["resources"] = json!({"limits": both, "requests": both});
    }));
    let running = agent.wait_running("sure");
    assert_eq!(running["status"]["qosClass"], "Guaranteed");
    assert_eq!(oom_score_adj(&agent, &made, "c"), -997);
    assert_eq!(shares(&format!("{}/pod{}", agent.cgroup_root(), uid(&made))), Some(256));
}

#[test]
fn an_init_container_without_memory_is_told_as_such() {
    let agent = Agent::start();
    agent.create(&with(pod("hog", &[("c", "true")]), |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        let mut init = pod["spec"]["containers"][0].clone();
        init["name"] = json!("init");
        // Not the first process itself: what it runs.
        init["command"] = json!(["/bin/sh", "-c", format!("sh -c '{MEMORY_HOG}'")]);
        init["resources"] = json!({"limits": {"memory": "32Mi"}});
        pod["spec"]["initContainers"] = json!([init]);
    }));
    let failed = agent.wait_phase("hog", "Failed");
    let init = &failed["status"]["initContainerStatuses"][0];
    let terminated = &init["state"]["terminated"];
    assert_eq!(
        (&terminated["reason"], &terminated["exitCode"]),
        (&json!("OOMKilled"), &json!(137)),
        "{init}"
    );
}

/// The exit code of a container in which memory was lacking.
fn out_of_memory(pod: &Value, name: &str) -> Value {
    let terminated = &container(pod, name)["state"]["terminated"];
    assert_eq!(terminated["reason"], "OOMKilled", "{pod:#}");
    terminated["exitCode"].clone()
}

#[test]
fn who_survives_the_lack_of_memory_ends_with_its_own_code() {
    let agent = Agent::start();
    let child = format!("sh -c '{MEMORY_HOG}'");
    let (success, failure) = (format!("{child}; exit 0"), format!("{child}; exit 3"));
    agent.create(&with(
        pod(
            "ends",
            &[("zero", &success), ("three", &failure), ("itself", MEMORY_HOG)],
        ),
        |pod| {
            pod["spec"]["restartPolicy"] = json!("Never");
            for container in pod["spec"]["containers"].as_array_mut().unwrap() {
                container["resources"] = json!({"limits": {"memory": "32Mi"}});
            }
        },
    ));
    let failed = agent.wait_phase("ends", "Failed");
    // v2 kills the whole container, as a kubelet has it done.
    let whole = hierarchy("memory").1;
    let code = |own: u8| json!(if whole { 137 } else { own });
    assert_eq!(out_of_memory(&failed, "zero"), code(0));
    assert_eq!(out_of_memory(&failed, "three"), code(3));
    assert_eq!(out_of_memory(&failed, "itself"), json!(137));

    // It is the exit code that decides whether a container is to be started again.
    agent.create(&with(pod("once", &[("c", &success)]), |pod| {
        pod["spec"]["restartPolicy"] = json!("OnFailure");
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
    }));
    if whole {
        agent.wait_pod("once", "to be started again", |pod| {
            container(pod, "c")["restartCount"].as_u64() > Some(0)
        });
        return;
    }
    let succeeded = agent.wait_phase("once", "Succeeded");
    assert_eq!(out_of_memory(&succeeded, "c"), json!(0));
    assert_eq!(container(&succeeded, "c")["restartCount"], 0);
}

#[test]
fn an_init_container_that_lacked_memory_has_failed_whatever_its_code() {
    let agent = Agent::start();
    agent.create(&with(pod("hog", &[("c", "true")]), |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        let mut init = pod["spec"]["containers"][0].clone();
        init["name"] = json!("init");
        init["command"] = json!(["/bin/sh", "-c", format!("sh -c '{MEMORY_HOG}'; exit 0")]);
        init["resources"] = json!({"limits": {"memory": "32Mi"}});
        pod["spec"]["initContainers"] = json!([init]);
    }));
    let failed = agent.wait_phase("hog", "Failed");
    let init = &failed["status"]["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(init["reason"], "OOMKilled", "{failed:#}");
    let code = if hierarchy("memory").1 { 137 } else { 0 };
    assert_eq!(init["exitCode"], code, "{failed:#}");
    assert!(container(&failed, "c")["state"]["running"].is_null(), "{failed:#}");
}

#[test]
fn memory_that_a_child_wants_is_told_of_the_container_it_takes_with_it() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "group",
            &[("c", &format!("(sh -c '{MEMORY_HOG}'; echo gone) & exec sleep 1000"))],
        ),
        |pod| {
            pod["spec"]["restartPolicy"] = json!("Never");
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
        },
    ));
    if hierarchy("memory").1 {
        let failed = agent.wait_phase("group", "Failed");
        let terminated = &container(&failed, "c")["state"]["terminated"];
        assert_eq!(terminated["reason"], "OOMKilled", "{terminated}");
        assert_eq!(terminated["exitCode"], 137);
        return;
    }
    // v1 kills the one process; the container's first one lives on.
    agent.wait_log("group", "", "gone");
    let pod = agent.pod("group");
    assert!(container(&pod, "c")["state"]["running"].is_object(), "{pod:#}");
}

#[test]
fn a_program_that_joined_and_wanted_too_much_counts_for_the_container() {
    let agent = Agent::start();
    agent.create(&with(
        pod("joined", &[("c", "while [ ! -e /end ]; do sleep 0.05; done; exit 3")]),
        |pod| {
            pod["spec"]["restartPolicy"] = json!("Never");
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
        },
    ));
    agent.wait_running("joined");
    let exec = |script: &str| {
        let kubeconfig = agent.root().join("admin.kubeconfig");
        Command::new("kubectl")
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args(["exec", "joined", "--", "sh", "-c", script])
            .output()
            .unwrap()
    };
    assert!(!exec(MEMORY_HOG).status.success());
    // On v2 the whole container goes with it.
    let code = if hierarchy("memory").1 {
        137
    } else {
        assert!(exec("touch /end").status.success());
        3
    };
    assert_eq!(out_of_memory(&agent.wait_phase("joined", "Failed"), "c"), json!(code));
}

/// Writes so many MiB to a path, and waits for its end.
fn writer(name: &str, path: &str, mib: u32) -> Value {
    let script = format!("dd if=/dev/zero of={path} bs=1M count={mib} 2>/dev/null; echo written; exec sleep 1000");
    with(pod(name, &[("c", &script)]), |pod| {
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    })
}

fn evicted(agent: &Agent, name: &str, message: &str) {
    let failed = agent.wait_phase(name, "Failed");
    let status = &failed["status"];
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("Evicted"), &json!(message)),
        "{status:#}"
    );
    let conditions = status["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget");
    let target = target.unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (&json!("True"), &json!("TerminationByKubelet"), &json!(message))
    );
    wait_for("the event", || {
        let query = format!("fieldSelector=involvedObject.name%3D{name},reason%3DEvicted");
        let events = agent.request("GET", &format!("/api/v1/namespaces/default/events?{query}"), None);
        let events = events.json();
        match events["items"].as_array().and_then(|items| items.first()) {
            Some(event) if event["message"] == message && event["type"] == "Warning" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn pods_that_write_too_much_are_evicted_and_no_others() {
    let mut agent = Agent::start();
    let limited =
        |limit: Value| move |pod: &mut Value| pod["spec"]["containers"][0]["resources"] = json!({"limits": limit});
    let sized = |mib: u32| {
        move |pod: &mut Value| pod["spec"]["volumes"][0]["emptyDir"] = json!({"sizeLimit": format!("{mib}Mi")})
    };
    agent.create(&with(writer("volume", "/v/x", 3), sized(1)));
    agent.create(&with(
        writer("layer", "/x", 3),
        limited(json!({"ephemeral-storage": "2Mi"})),
    ));
    agent.create(&with(writer("enough", "/v/x", 3), sized(64)));
    let held = agent.create(&with(
        writer("total", "/v/x", 3),
        limited(json!({"ephemeral-storage": "1Mi"})),
    ));
    assert_eq!(
        held["spec"]["containers"][0]["resources"]["requests"],
        json!({"ephemeral-storage": "1Mi"})
    );
    for name in ["volume", "layer", "enough", "total"] {
        agent.wait_log(name, "", "written");
    }
    // Whoever comes after it measures too.
    agent.kill();
    agent.start_again();
    evicted(
        &agent,
        "volume",
        "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ",
    );
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers ";
    evicted(&agent, "layer", &format!("{message}2Mi. "));
    evicted(&agent, "total", &format!("{message}1Mi. "));
    let enough = agent.pod("enough");
    assert_eq!(enough["status"]["phase"], "Running");
    assert_eq!(container(&enough, "c")["restartCount"], 0);
    for name in ["volume", "layer", "total", "enough"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    agent.wait_no_leftovers();
}

/// Whether the hierarchy that podd uses limits huge pages.
fn has_hugetlb() -> bool {
    let (root, is_v2) = hierarchy("hugetlb");
    if !is_v2 {
        return root.join("tasks").exists();
    }
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    controllers.split_whitespace().any(|name| name == "hugetlb")
}

fn asking_for_pages(name: &str, pages: &str) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"]["containers"][0]["resources"] =
            json!({"limits": {"cpu": "100m", "memory": "32Mi", "hugepages-2Mi": pages}});
    })
}

#[test]
fn huge_pages_are_limited() {
    let pages = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let pages: u64 = pages.map_or(0, |pages| pages.trim().parse().unwrap());
    if !has_hugetlb() || pages < 4 {
        eprintln!("skipped: no hugetlb controller that podd uses, or fewer than 4 pages of 2 MiB");
        return;
    }
    let agent = Agent::start();
    let node = agent.request("GET", "/api/v1/nodes/node-under-test", None).json();
    assert_eq!(
        node["status"]["allocatable"]["hugepages-2Mi"],
        format!("{}Mi", pages * 2)
    );
    let made = agent.create(&asking_for_pages("huge", "4Mi"));
    agent.wait_running("huge");
    let of_pod = format!("{}/pod{}", agent.cgroup_root(), uid(&made));
    for cgroup in [format!("{of_pod}/c-0"), of_pod] {
        let limit = control("hugetlb", &cgroup, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
        assert_eq!(limit.as_deref(), Some("4194304"), "{cgroup}");
    }
    agent.create(&asking_for_pages("more", &format!("{}Mi", pages * 2)));
    let refused = agent.wait_phase("more", "Failed");
    assert_eq!(refused["status"]["reason"], "OutOfhugepages-2Mi", "{refused:#}");
}

#[test]
fn huge_pages_that_cannot_be_limited_are_given_to_nobody() {
    if has_hugetlb() || !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        eprintln!("skipped: huge pages can be limited here, or there are none");
        return;
    }
    let agent = Agent::start();
    agent.create(&asking_for_pages("huge", "4Mi"));
    let refused = agent.wait_phase("huge", "Failed");
    assert_eq!(refused["status"]["reason"], "OutOfhugepages-2Mi", "{refused:#}");
    let why =
        "Pod was rejected: Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0";
    assert_eq!(refused["status"]["message"], why);
    let doctor = String::from_utf8(agent.podd(&["doctor"]).stdout).unwrap();
    let told = doctor.lines().find(|line| line.contains("hugetlb is missing"));
    assert!(told.is_some_and(|line| line.contains("OutOfhugepages")), "{doctor}");
}

#[test]
fn what_a_pod_may_not_say_of_itself_is_refused_by_name() {
    let agent = Agent::start_empty(&[]);
    let refused = |resources: Value, of_container: Value| {
        let pod = with(pod("p", &[("c", "true")]), |pod| {
            pod["spec"]["resources"] = resources;
            pod["spec"]["containers"][0]["resources"] = of_container;
        });
        let answer = agent.request("POST", "/api/v1/namespaces/default/pods", Some(&pod));
        assert_eq!(answer.code, 422, "{answer:?}");
        answer.json()["message"].as_str().unwrap().to_owned()
    };
    for (whole, part, message) in [
        (
            json!({"limits": {"ephemeral-storage": "1Gi"}}),
            json!({}),
            "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \
             \"cpu\", \"hugepages-\", \"memory\"",
        ),
        (
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1500m"}}),
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container \
             requests of 1500m",
        ),
        (
            json!({"limits": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "2Gi"}, "requests": {"memory": "1Gi"}}),
            "must be less than or equal to pod limits of 1Gi",
        ),
        (
            json!({"claims": [{"name": "x"}]}),
            json!({}),
            "spec.resources.claims: Forbidden: claims cannot be set for Resources at pod-level",
        ),
    ] {
        let found = refused(whole, part);
        assert!(found.contains(message), "{found}");
    }
}
