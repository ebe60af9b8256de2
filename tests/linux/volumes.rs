//! What a pod mounts.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, wait_for, with};

fn mounted(name: &str, script: &str, volumes: Value, mounts: Value) -> Value {
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["volumes"] = volumes;
        p["spec"]["containers"][0]["volumeMounts"] = mounts;
    })
}

fn ended(agent: &Agent, pod: &Value) -> String {
    agent.create(pod);
    let name = pod["metadata"]["name"].as_str().unwrap();
    agent.wait_pod(name, "to end", |p| {
        ["Succeeded", "Failed"].contains(&p["status"]["phase"].as_str().unwrap_or(""))
    });
    agent.log(name, "")
}

#[test]
fn an_empty_dir_is_shared_and_as_large_as_allowed() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "share",
            &[
                ("w", "echo hello > /a/f; exec sleep 1000"),
                (
                    "r",
                    "while ! cat /b/f 2>/dev/null; do sleep 0.05; done; exec sleep 1000",
                ),
            ],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/a"}]);
            p["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "v", "mountPath": "/b", "readOnly": true}]);
        },
    ));
    agent.wait_log("share", "container=r", "hello");

    let log = ended(
        &agent,
        &mounted(
            "memory",
            "stat -c %a /m; grep ' /m ' /proc/self/mounts | cut -d' ' -f3; dd if=/dev/zero of=/m/x bs=1M count=8 2>&1 | grep -o 'No space left on device'",
            json!([{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}]),
            json!([{"name": "m", "mountPath": "/m"}]),
        ),
    );
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["777", "tmpfs", "No space left on device"]
    );
}

#[test]
fn read_only_mounts_are_read_only() {
    let agent = Agent::start();
    let log = ended(
        &agent,
        &mounted(
            "ro",
            "touch /v/x 2>&1 | grep -o 'Read-only file system'",
            json!([{"name": "v", "emptyDir": {}}]),
            json!([{"name": "v", "mountPath": "/v", "readOnly": true}]),
        ),
    );
    assert_eq!(log, "Read-only file system\n");
}

#[test]
fn host_paths_of_every_type_are_checked_before_they_are_mounted() {
    let agent = Agent::start();
    let dir = agent.dir.join("host");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("file"), "from the host\n").unwrap();
    let log = ended(
        &agent,
        &mounted(
            "there",
            "cat /file; ls -d /made /made-file; test -c /zero && echo device",
            json!([
                {"name": "file", "hostPath": {"path": dir.join("file"), "type": "File"}},
                {"name": "made", "hostPath": {"path": dir.join("made"), "type": "DirectoryOrCreate"}},
                {"name": "made-file", "hostPath": {"path": dir.join("made-file"), "type": "FileOrCreate"}},
                {"name": "device", "hostPath": {"path": "/dev/zero", "type": "CharDevice"}},
            ]),
            json!([
                {"name": "file", "mountPath": "/file"},
                {"name": "made", "mountPath": "/made"},
                {"name": "made-file", "mountPath": "/made-file"},
                {"name": "device", "mountPath": "/zero"},
            ]),
        ),
    );
    assert_eq!(log, "from the host\n/made\n/made-file\ndevice\n");
    assert!(dir.join("made").is_dir() && dir.join("made-file").is_file());

    agent.create(&mounted(
        "wrong",
        "true",
        json!([{"name": "v", "hostPath": {"path": dir.join("file"), "type": "Directory"}}]),
        json!([{"name": "v", "mountPath": "/v"}]),
    ));
    wait_for("the wrong type to be said", || {
        let log = agent.agent_log();
        if log.contains("hostPath type check failed") && log.contains("is not a directory") {
            Ok(())
        } else {
            Err(log)
        }
    });
    agent.wait_phase("wrong", "Pending");
    agent.delete("wrong", Some(0));
    agent.wait_gone("wrong");
    assert!(dir.join("file").is_file(), "a host path is never removed");
}

#[test]
fn a_sub_path_stays_inside_its_volume() {
    let agent = Agent::start();
    let dir = agent.dir.join("host");
    std::fs::create_dir_all(dir.join("sub/inner")).unwrap();
    std::fs::write(dir.join("sub/inner/f"), "inside\n").unwrap();
    symlink("sub", dir.join("link")).unwrap();
    symlink("../../../../../../etc", dir.join("escape")).unwrap();
    let volumes = json!([{"name": "v", "hostPath": {"path": dir}}]);
    let log = ended(
        &agent,
        &mounted(
            "inside",
            "cat /a/f /b/inner/f; ls -d /new",
            volumes.clone(),
            json!([
                {"name": "v", "mountPath": "/a", "subPath": "sub/inner"},
                {"name": "v", "mountPath": "/b", "subPath": "link"},
                {"name": "v", "mountPath": "/new", "subPath": "new/dir"},
            ]),
        ),
    );
    assert_eq!(log, "inside\ninside\n/new\n");
    assert!(dir.join("new/dir").is_dir());

    agent.create(&mounted(
        "outside",
        "cat /x/passwd",
        volumes,
        json!([{"name": "v", "mountPath": "/x", "subPath": "escape"}]),
    ));
    let failed = agent.wait_pod("outside", "to be refused", |p| {
        let state = &container(p, "c")["state"];
        state["waiting"]["reason"]
            .as_str()
            .is_some_and(|r| r != "ContainerCreating")
            || state["terminated"].is_object()
    });
    assert_ne!(
        container(&failed, "c")["state"]["terminated"]["exitCode"],
        0,
        "{failed:#}"
    );
}

#[test]
fn the_files_of_etc_are_as_a_kubelet_writes_them() {
    let agent = Agent::start();
    let log = ended(
        &agent,
        &with(
            mounted(
                "etc",
                "cat /etc/hosts; echo ==; cat /etc/hostname; echo ==; cat /etc/resolv.conf",
                json!([]),
                json!([]),
            ),
            |p| {
                p["spec"]["hostname"] = json!("myhost");
                p["spec"]["hostAliases"] = json!([{"ip": "10.1.2.3", "hostnames": ["foo", "bar"]}]);
                p["spec"]["dnsPolicy"] = json!("None");
                p["spec"]["dnsConfig"] = json!({"nameservers": ["1.2.3.4"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}]});
            },
        ),
    );
    let pod = agent.pod("etc");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let parts: Vec<&str> = log.split("==\n").collect();
    assert!(
        parts[0].starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
        "{log}"
    );
    assert!(parts[0].contains(&format!("\n{ip}\tmyhost\n")), "{log}");
    assert!(
        parts[0].ends_with("\n# Entries added by HostAliases.\n10.1.2.3\tfoo\tbar\n"),
        "{log}"
    );
    assert_eq!(parts[1], "myhost\n");
    assert_eq!(parts[2], "search a.example\nnameserver 1.2.3.4\noptions ndots:2\n");
}
