//! Volumes whose files podd writes, as the processes of a pod see them.

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_for, with};

fn path(kind: &str, name: &str) -> String {
    format!("/api/v1/namespaces/default/{kind}/{name}")
}

fn create(agent: &Agent, kind: &str, object: &Value) {
    let answer = agent.request("POST", &format!("/api/v1/namespaces/default/{kind}"), Some(object));
    assert_eq!(answer.code, 201, "{answer:?}");
}

fn config_map(agent: &Agent, name: &str, data: &Value) {
    create(agent, "configmaps", &json!({"metadata": {"name": name}, "data": data}));
}

fn secret(agent: &Agent, name: &str, data: &Value) {
    create(
        agent,
        "secrets",
        &json!({"metadata": {"name": name}, "stringData": data}),
    );
}

fn merge(agent: &Agent, kind: &str, name: &str, change: &Value) {
    let body = change.to_string();
    let answer = agent.raw_request(
        "PATCH",
        &path(kind, name),
        "application/merge-patch+json",
        body.as_bytes(),
    );
    let answer = answer.unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn remove(agent: &Agent, kind: &str, name: &str) {
    let answer = agent.request("DELETE", &path(kind, name), None);
    assert_eq!(answer.code, 200, "{answer:?}");
}

/// A pod with these volumes, each mounted at `/<its name>`.
fn mounting(name: &str, script: &str, volumes: &Value) -> Value {
    let mounts: Vec<Value> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap())}))
        .collect();
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["volumes"] = volumes.clone();
        p["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    })
}

fn ended(agent: &Agent, pod: &Value) -> String {
    agent.create(pod);
    let name = pod["metadata"]["name"].as_str().unwrap();
    agent.wait_phase(name, "Succeeded");
    agent.log(name, "")
}

/// Run again and again, with what it says between two marks.
fn again(script: &str) -> String {
    format!("while :; do echo \"<$({script})>\"; sleep 0.05; done")
}

#[test]
fn files_are_there_with_their_bytes_and_modes() {
    let agent = Agent::start();
    create(
        &agent,
        "configmaps",
        &json!({
            "metadata": {"name": "conf"},
            "data": {"plain": "text", "run": "#!/bin/sh\necho executed\n"},
            "binaryData": {"bytes": "AP8QAA=="},
        }),
    );
    secret(&agent, "key", &json!({"id": "opens"}));
    let script = "cat /conf/plain; echo; od -An -tx1 /conf/bytes; /conf/run; cat /chosen/deep/er/file; echo
        stat -Lc %a /conf/plain /chosen/deep/er/file /chosen/other /key/id; ls /chosen; stat -fc %T /key
        touch /conf/x /key/x 2>&1 | grep -c 'Read-only file system'; cat /key/id";
    let log = ended(
        &agent,
        &with(
            mounting(
                "files",
                script,
                &json!([
                    {"name": "conf", "configMap": {"name": "conf", "defaultMode": 0o555}},
                    {"name": "chosen", "configMap": {"name": "conf", "items": [
                        {"key": "plain", "path": "deep/er/file", "mode": 0o404},
                        {"key": "bytes", "path": "other"},
                    ]}},
                    {"name": "key", "secret": {"secretName": "key"}},
                ]),
            ),
            // Neither root nor of root's group.
            |p| p["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000}),
        ),
    );
    assert_eq!(
        log.lines().map(str::trim).collect::<Vec<_>>(),
        [
            "text",
            "00 ff 10 00",
            "executed",
            "text",
            "555",
            "404",
            "644",
            "644",
            "deep",
            "other",
            "tmpfs",
            "2",
            "opens"
        ]
    );
}

#[test]
fn one_directory_of_everything() {
    let agent = Agent::start();
    config_map(&agent, "conf", &json!({"a": "from the map"}));
    secret(&agent, "key", &json!({"b": "from the secret"}));
    let sources = json!([
        {"configMap": {"name": "conf"}},
        {"secret": {"name": "key", "items": [{"key": "b", "path": "in/b"}]}},
        {"downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}},
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "memory", "resourceFieldRef":
                {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "requests.cpu", "divisor": "1m"}},
        ]}},
    ]);
    let made = with(
        mounting(
            "all",
            "cd /v; for f in a in/b name uid labels memory cpu; do cat $f; echo; done",
            &json!([{"name": "v", "projected": {"sources": sources}}]),
        ),
        |p| {
            p["metadata"]["labels"] = json!({"b": "two", "a": "one"});
            p["spec"]["containers"][0]["resources"] =
                json!({"limits": {"memory": "48Mi"}, "requests": {"cpu": "125m"}});
        },
    );
    let log = ended(&agent, &made);
    let uid = uid(&agent.pod("all"));
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        [
            "from the map",
            "from the secret",
            "all",
            &uid,
            "a=\"one\"",
            "b=\"two\"",
            "48",
            "125"
        ]
    );
}

#[test]
fn what_changes_is_seen_by_who_runs() {
    let mut agent = Agent::start();
    config_map(&agent, "conf", &json!({"k": "first", "gone": "x"}));
    let script = again("cat /conf/k; echo; ls /conf; cat /own/labels; echo; ls /may; cat /pinned");
    agent.create(&with(
        mounting(
            "seer",
            &script,
            &json!([
                {"name": "conf", "configMap": {"name": "conf"}},
                {"name": "own", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                ]}},
                {"name": "may", "secret": {"secretName": "later", "optional": true}},
            ]),
        ),
        |p| {
            p["metadata"]["labels"] = json!({"colour": "red"});
            let mounts = p["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            mounts.push(json!({"name": "conf", "mountPath": "/pinned", "subPath": "k"}));
        },
    ));
    let sees = |agent: &Agent, text: &str| drop(agent.wait_log("seer", "tailLines=16", text));
    sees(&agent, "<first\ngone\nk\ncolour=\"red\"\nfirst>");

    merge(
        &agent,
        "configmaps",
        "conf",
        &json!({"data": {"k": "second", "gone": null, "new": "y"}}),
    );
    // One part of a volume is what it was when the container was started.
    sees(&agent, "<second\nk\nnew\ncolour=\"red\"\nfirst>");

    merge(
        &agent,
        "pods",
        "seer",
        &json!({"metadata": {"labels": {"colour": "blue"}}}),
    );
    sees(&agent, "<second\nk\nnew\ncolour=\"blue\"\nfirst>");

    secret(&agent, "later", &json!({"here": "z"}));
    sees(&agent, "<second\nk\nnew\ncolour=\"blue\"\nhere\nfirst>");
    merge(
        &agent,
        "secrets",
        "later",
        &json!({"data": {"here": null, "there": "eg=="}}),
    );
    sees(&agent, "<second\nk\nnew\ncolour=\"blue\"\nthere\nfirst>");
    remove(&agent, "secrets", "later");
    sees(&agent, "<second\nk\nnew\ncolour=\"blue\"\nfirst>");

    // What must be there and is gone stays as it was, and the next one of its name is shown.
    remove(&agent, "configmaps", "conf");
    agent.kill();
    agent.start_again();
    config_map(&agent, "conf", &json!({"k": "third"}));
    sees(&agent, "<third\nk\ncolour=\"blue\"\nfirst>");
    assert_eq!(container(&agent.pod("seer"), "c")["restartCount"], 0);
    assert!(
        !agent.log("seer", "").contains("No such file"),
        "never was a file missing"
    );
}

#[test]
fn a_container_that_is_started_again_sees_what_is_there_by_now() {
    let agent = Agent::start();
    config_map(&agent, "conf", &json!({"k": "first"}));
    agent.create(&with(
        mounting(
            "again",
            "echo \"<$(cat /conf/k) $(cat /pinned)>\"; until test -e /shared/go; do sleep 0.05; done; rm /shared/go",
            &json!([
                {"name": "conf", "configMap": {"name": "conf"}},
                {"name": "shared", "emptyDir": {}},
            ]),
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Always");
            let mounts = p["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap();
            mounts.push(json!({"name": "conf", "mountPath": "/pinned", "subPath": "k"}));
        },
    ));
    agent.wait_log("again", "", "<first first>");
    merge(&agent, "configmaps", "conf", &json!({"data": {"k": "second"}}));
    let uid = uid(&agent.pod("again"));
    let shown = agent.run_dir().join("volumes").join(&uid).join("conf/k");
    wait_for("the change to be shown", || match std::fs::read_to_string(&shown) {
        Ok(text) if text == "second" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    std::fs::write(agent.root().join("pods").join(&uid).join("volumes/shared/go"), "").unwrap();
    agent.wait_log("again", "", "<second second>");
}

#[test]
fn without_what_it_needs_a_pod_waits_and_then_starts() {
    let agent = Agent::start();
    secret(&agent, "key", &json!({"other": "x"}));
    agent.create(&mounting(
        "waits",
        "cat /conf/k; cat /key/k; echo; exec sleep 1000",
        &json!([
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "key", "secret": {"secretName": "key", "items": [{"key": "k", "path": "k"}]}},
        ]),
    ));
    let told = |text: &str| {
        wait_for(text, || {
            let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
            let all = events["items"].as_array().cloned().unwrap_or_default();
            let is_told = |event: &&Value| event["reason"] == "FailedMount" && event["message"] == text;
            if all.iter().any(|event| is_told(&event)) {
                Ok(())
            } else {
                Err(format!("{all:#?}"))
            }
        });
    };
    told(r#"MountVolume.SetUp failed for volume "conf" : configmap "conf" not found"#);
    let waiting = agent.pod("waits");
    assert_eq!(waiting["status"]["phase"], "Pending");
    assert_eq!(
        container(&waiting, "c")["state"]["waiting"]["reason"],
        "ContainerCreating",
        "{waiting:#}"
    );
    config_map(&agent, "conf", &json!({"k": "here"}));
    told(r#"MountVolume.SetUp failed for volume "key" : references non-existent secret key: k"#);
    merge(&agent, "secrets", "key", &json!({"data": {"k": "dGhlcmU="}}));
    agent.wait_running("waits");
    agent.wait_log("waits", "", "herethere");
}

#[test]
fn fifty_volumes_in_one_pod_and_nothing_is_left_of_them() {
    let agent = Agent::start();
    let volumes: Vec<Value> = (0..50)
        .map(|number| {
            let name = format!("v{number}");
            config_map(&agent, &name, &json!({"k": format!("{number} ")}));
            json!({"name": name, "configMap": {"name": name}})
        })
        .collect();
    let script = "for i in $(seq 0 49); do cat /v$i/k; done; echo; exec sleep 1000";
    agent.create(&mounting("many", script, &json!(volumes)));
    agent.create(&mounting("other", "exec sleep 1000", &json!([volumes[0]])));
    let numbers: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    agent.wait_log("many", "", &numbers.join(" "));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = format!(" {}/volumes", agent.run_dir().display());
    assert_eq!(mounts.lines().filter(|line| line.contains(&ours)).count(), 1);
    agent.wait_running("other");
    for name in ["many", "other"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    agent.wait_no_leftovers();
    assert!(!agent.run_dir().join("volumes").exists());
}

#[test]
fn what_an_agent_left_is_removed_by_the_next() {
    let mut agent = Agent::start();
    config_map(&agent, "conf", &json!({"k": "v"}));
    agent.create(&mounting(
        "p",
        "exec sleep 1000",
        &json!([{"name": "conf", "configMap": {"name": "conf"}}]),
    ));
    agent.wait_running("p");
    agent.kill();
    // Files of a pod that nobody knows, and what a killed writer leaves to one that is known.
    let volumes = agent.run_dir().join("volumes");
    let orphan = volumes.join("0b9a3c52-6f0e-4d57-9a53-0c7f3b1b2a10");
    std::fs::create_dir_all(orphan.join("v/..1")).unwrap();
    let known = volumes.join(uid_of_first(&volumes, &orphan)).join("conf");
    std::fs::create_dir(known.join("..7")).unwrap();
    agent.start_again();
    wait_for("the orphan to be gone", || {
        if orphan.exists() {
            Err(orphan.display().to_string())
        } else {
            Ok(())
        }
    });
    wait_for("what the writer left to be gone", || {
        if known.join("..7").exists() {
            Err(known.display().to_string())
        } else {
            Ok(())
        }
    });
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    agent.wait_no_leftovers();
}

/// The one pod's directory beside the orphan's.
fn uid_of_first(volumes: &std::path::Path, orphan: &std::path::Path) -> std::ffi::OsString {
    let entries = std::fs::read_dir(volumes).unwrap().map(|entry| entry.unwrap());
    let mut others = entries.filter(|entry| entry.path() != orphan);
    others.next().expect("the pod has files").file_name()
}
