//! Mounts that find their way between the machine and a container, and mounts that nothing can be written to.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, wait_for, with};

/// A tmpfs on the machine whose mounts are told to its peers.
#[derive(Debug)]
struct Shared(PathBuf);

impl Shared {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount_tmpfs(&at);
        mount_change(&at, MountPropagationFlags::SHARED).unwrap();
        Self(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What is mounted in it goes with it.
        let _gone = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn mount_tmpfs(at: &Path) {
    mount("test", at, "tmpfs", MountFlags::empty(), None).unwrap();
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = at.to_str().unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(at))
}

fn mounting(name: &str, script: &str, volume: Value, mount: Value) -> Value {
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["volumes"] = Value::Array(vec![volume]);
        p["spec"]["containers"][0]["volumeMounts"] = Value::Array(vec![mount]);
        p["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    })
}

#[test]
fn what_the_machine_mounts_later_is_seen_only_where_that_was_asked_for() {
    let agent = Agent::start();
    let shared = Shared::mount(agent.dir.join("shared"));
    fs::create_dir(shared.0.join("later")).unwrap();
    let volume = json!({"name": "v", "hostPath": {"path": shared.0}});
    let script = "echo ready; until test -e /v/later/file; do sleep 0.05; done; echo seen; exec sleep 1000";
    let alone = "echo ready; exec sleep 1000";
    let to_container = json!({"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"});
    agent.create(&mounting("sees", script, volume.clone(), to_container));
    let blind = agent.create(&mounting(
        "blind",
        alone,
        volume,
        json!({"name": "v", "mountPath": "/v"}),
    ));
    for name in ["sees", "blind"] {
        agent.wait_log(name, "", "ready");
    }
    mount_tmpfs(&shared.0.join("later"));
    fs::write(shared.0.join("later/file"), "").unwrap();
    agent.wait_log("sees", "", "seen");
    let root = PathBuf::from(format!("/proc/{}/root/v/later", agent.container_pid(&uid(&blind), "c")));
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn what_a_container_mounts_is_seen_by_the_machine_if_that_was_asked_for() {
    let agent = Agent::start();
    let shared = Shared::mount(agent.dir.join("shared"));
    let script = "mkdir -p /v/$HOSTNAME && mount -t tmpfs inner /v/$HOSTNAME && echo mounted; exec sleep 1000";
    let of = |name: &str, propagation: &str| {
        let volume = json!({"name": "v", "hostPath": {"path": shared.0}});
        let mount = json!({"name": "v", "mountPath": "/v", "mountPropagation": propagation});
        agent.create(&mounting(name, script, volume, mount));
        agent.wait_log(name, "", "mounted");
        shared.0.join(name)
    };
    let (both, one) = (of("both", "Bidirectional"), of("one", "HostToContainer"));
    assert!(is_mounted(&both) && !is_mounted(&one));
    // The machine's directory keeps it when the pod goes: it is the machine's now.
    agent.delete("both", Some(0));
    agent.wait_gone("both");
    assert!(is_mounted(&both));
}

#[test]
fn a_mount_that_cannot_be_propagated_is_an_error_that_says_so() {
    let agent = Agent::start();
    // Its own peers, if any, are not those of the machine.
    let private = Shared::mount(agent.dir.join("private"));
    mount_change(&private.0, MountPropagationFlags::PRIVATE).unwrap();
    for (name, propagation, words) in [
        ("both", "Bidirectional", "but it is not a shared mount"),
        ("one", "HostToContainer", "but it is not a shared or slave mount"),
    ] {
        let volume = json!({"name": "v", "hostPath": {"path": private.0}});
        let mount = json!({"name": "v", "mountPath": "/v", "mountPropagation": propagation});
        agent.create(&mounting(name, "exec sleep 1000", volume, mount));
        let waiting = agent.wait_pod(name, "to be told why it does not start", |p| {
            container(p, "c")["state"]["waiting"]["reason"] == "CreateContainerError"
        });
        let message = container(&waiting, "c")["state"]["waiting"]["message"].to_string();
        assert!(message.contains(words) && message.contains("/private"), "{message}");
    }
}

#[test]
fn what_was_mounted_in_a_pods_own_volume_goes_with_it_and_is_not_followed() {
    // A root whose mounts are shared, as on most machines.
    let place = PathBuf::from(format!("/tmp/podd-test-shared-{}", std::process::id()));
    let shared = Shared::mount(place.clone());
    let agent = Agent::start_with(&[&format!("--root={}", shared.0.join("root").display())]);
    let canary = agent.dir.join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("bird"), "alive").unwrap();
    let made = agent.create(&with(
        mounting(
            "p",
            "mkdir /v/a /v/b && mount -t tmpfs inner /v/a && mount -o bind /h /v/b && echo mounted; exec sleep 1000",
            json!({"name": "v", "emptyDir": {}}),
            json!({"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}),
        ),
        |p| {
            let volumes = p["spec"]["volumes"].as_array_mut().unwrap();
            volumes.push(json!({"name": "h", "hostPath": {"path": canary}}));
            let mounts = p["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            mounts.push(json!({"name": "h", "mountPath": "/h"}));
        },
    ));
    agent.wait_log("p", "", "mounted");
    let volume = shared.0.join("root/pods").join(uid(&made)).join("volumes/v");
    assert!(is_mounted(&volume.join("a")) && is_mounted(&volume.join("b")));
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    assert!(!is_mounted(&volume.join("a")) && !is_mounted(&volume.join("b")));
    assert!(!volume.exists());
    assert_eq!(fs::read_to_string(canary.join("bird")).unwrap(), "alive");
    drop(agent);
    drop(shared);
    fs::remove_dir(place).unwrap();
}

#[test]
fn a_mount_is_read_only_all_the_way_down_if_that_was_asked_for() {
    let agent = Agent::start();
    let outer = Shared::mount(agent.dir.join("outer"));
    fs::create_dir(outer.0.join("inner")).unwrap();
    mount_tmpfs(&outer.0.join("inner"));
    let script = "for d in /plain /rro /maybe; do for f in $d/x $d/inner/x; do \
                  touch $f 2>/dev/null && echo $f; done; done; echo done; exec sleep 1000";
    agent.create(&with(pod("p", &[("c", script)]), |p| {
        p["spec"]["automountServiceAccountToken"] = json!(false);
        p["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": outer.0}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "v", "mountPath": "/plain", "readOnly": true},
            {"name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "v", "mountPath": "/maybe", "readOnly": true, "recursiveReadOnly": "IfPossible"},
            {"name": "v", "mountPath": "/rw"},
        ]);
    }));
    let log = agent.wait_log("p", "", "done");
    assert_eq!(log, "/plain/inner/x\ndone\n");
    let running = agent.wait_running("p");
    assert_eq!(
        container(&running, "c")["volumeMounts"],
        json!([
            {"name": "v", "mountPath": "/plain", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "v", "mountPath": "/maybe", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "v", "mountPath": "/rw"},
        ])
    );
}

#[test]
fn a_sub_path_that_changes_under_our_feet_never_leads_outside() {
    let agent = Agent::start_with(&["--max-restart-backoff=1s"]);
    let home = agent.dir.join("volume");
    fs::create_dir_all(home.join("real")).unwrap();
    fs::create_dir_all(agent.dir.join("outside")).unwrap();
    fs::write(home.join("real/where"), "inside\n").unwrap();
    fs::write(agent.dir.join("outside/where"), "outside\n").unwrap();
    let outside = agent.dir.join("outside").display().to_string();
    // One container swaps the directory for a link that leads out of the volume, and back, as fast as it can.
    let swap = format!(
        "cd /v; ln -s {outside} link; echo swapping; while true; do mv real kept; mv link real; mv real link; \
         mv kept real; done"
    );
    // The other one says what it finds there, over and over.
    let made = agent.create(&with(
        pod(
            "p",
            &[
                ("swap", &swap),
                ("c", "cat /m/where 2>/dev/null; ls /m | head -1; exec sleep 1000"),
            ],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": home}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
            p["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "v", "mountPath": "/m", "subPath": "real"}]);
        },
    ));
    agent.wait_log("p", "container=swap", "swapping");
    // Each start of it, also those that failed because of what they found, is one more try.
    let mut tried = 0;
    let id = uid(&made);
    while tried < 50 {
        let running = wait_for("the container to run", || {
            let p = agent.pod("p");
            let state = &container(&p, "c")["state"];
            if state["running"].is_object() {
                Ok(p.clone())
            } else {
                Err(state.to_string())
            }
        });
        let pid = agent.container_pid(&id, "c");
        let found = fs::read_to_string(format!("/proc/{pid}/root/m/where")).unwrap_or_default();
        assert_ne!(found, "outside\n");
        let mounted = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let line = mounted.lines().find(|line| line.split(' ').nth(4) == Some("/m"));
        assert!(line.is_none_or(|line| !line.contains("/outside")), "{line:?}");
        let count = container(&running, "c")["restartCount"].as_u64().unwrap();
        signal(pid, "KILL");
        agent.wait_pod("p", "to have begun again", |p| {
            container(p, "c")["restartCount"].as_u64().unwrap() > count
                || !container(p, "c")["state"]["running"].is_object()
        });
        tried += 1;
    }
    assert!(!agent.log("p", "container=c").contains("outside"));
}
