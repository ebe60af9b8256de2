//! Pods with `hostUsers: false`: what they see of themselves, and what the machine sees of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, wait_dead, wait_for, with};

/// Where the ranges of these tests begin.
const FIRST: u32 = 131_072;
const RANGE: u32 = 65_536;

/// `None`, and says so, where the kernel cannot show a pod's files to it: what is seen there has a test of its own.
fn agent() -> Option<Agent> {
    agent_with("131072:655360")
}

fn agent_with(ids: &str) -> Option<Agent> {
    let agent = Agent::start_with(&[&format!("--user-ids={ids}")]);
    let can = can_map(&agent);
    if !can {
        eprintln!("skipped: this kernel cannot map a tmpfs, as hostUsers: false needs (Linux 6.3 can)");
    }
    can.then_some(agent)
}

/// What the node says of podd's own runtime.
fn can_map(agent: &Agent) -> bool {
    let node = agent.request("GET", "/api/v1/nodes/node-under-test", None).json();
    let can = &node["status"]["runtimeHandlers"][0]["features"]["userNamespaces"];
    can.as_bool().unwrap_or_else(|| panic!("{:#}", node["status"]))
}

fn apart(name: &str, containers: &[(&str, &str)]) -> Value {
    with(pod(name, containers), |p| p["spec"]["hostUsers"] = json!(false))
}

/// What the machine says of a process: the four ids of a line of its status.
fn ids(pid: i32, line: &str) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn namespace(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

fn kubectl(agent: &Agent, arguments: &[&str]) -> String {
    let kubeconfig = agent.root().join("admin.kubeconfig");
    let said = Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(arguments)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn root_inside_is_nobody_outside() {
    let Some(agent) = agent() else { return };
    let script = "echo $(id -u) $(id -g); cat /proc/self/uid_map; echo made > /made; echo data > /v/by-root; \
                  echo ready; exec sleep 1000";
    let user = "until test -e /v/by-root; do sleep 0.05; done; echo x > /v/by-user; echo $(id -u) $(id -g); \
                exec sleep 1000";
    let made = agent.create(&with(apart("p", &[("c", script), ("u", user)]), |p| {
        p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        p["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        p["spec"]["containers"][1]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 2000});
    }));
    let id = uid(&made);
    agent.wait_running("p");
    let log = agent.wait_log("p", "container=c", "ready");
    assert!(log.starts_with("0 0\n"), "{log}");
    let map: Vec<_> = log.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(map, ["0", "131072", "65536"], "{log}");
    agent.wait_log("p", "container=u", "1000 2000");

    let (first, other, infra) = (
        agent.container_pid(&id, "c"),
        agent.container_pid(&id, "u"),
        agent.infra_pid(&id),
    );
    assert_eq!(ids(first, "Uid:"), [FIRST; 4]);
    assert_eq!(ids(first, "Gid:"), [FIRST; 4]);
    assert_eq!(ids(other, "Uid:"), [FIRST + 1000; 4]);
    assert_eq!(ids(other, "Gid:"), [FIRST + 2000; 4]);
    assert_eq!(ids(infra, "Uid:"), [FIRST; 4], "not even infra is the machine's root");
    assert_ne!(
        namespace(first, "user"),
        namespace(std::process::id().try_into().unwrap(), "user")
    );
    for kind in ["user", "net", "ipc", "uts"] {
        assert_eq!(namespace(first, kind), namespace(infra, kind), "{kind}");
    }

    // On the disk everything belongs to the numbers that the pod knows.
    let owner = |path: &std::path::Path| {
        let file = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (file.uid(), file.gid())
    };
    let home = agent.root().join("pods").join(&id);
    assert_eq!(owner(&home.join("volumes/v/by-root")), (0, 0));
    assert_eq!(owner(&home.join("volumes/v/by-user")), (1000, 2000));
    assert_eq!(owner(&home.join("c/0/upper/made")), (0, 0));

    agent.delete("p", Some(0));
    agent.wait_gone("p");
    for pid in [first, other, infra] {
        wait_dead(pid);
    }
    agent.wait_no_leftovers();
}

#[test]
fn what_a_container_finds_belongs_to_it() {
    let Some(agent) = agent() else { return };
    let script = "stat -c '%u:%g %n' / /bin/busybox /etc/hosts /etc/hostname /dev /dev/null /dev/pts /dev/shm \
                  /dev/mqueue /dev/termination-log /v; \
                  hostname; echo x > /dev/shm/x && stat -c '%u:%g %n' /dev/shm/x; mkdir /new/ && stat -c '%u:%g %n' /new; \
                  touch /etc/x && chown 5:6 /etc/x && stat -c '%u:%g %n' /etc/x; rm /etc/passwd && echo removed; \
                  ls /sys/class/net | tr '\\n' ' '; test -e /proc/self/status && echo proc; \
                  echo last words > /dev/termination-log; mknod /tmp/null c 1 3 2>/dev/null || echo no devices; \
                  (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo no sysctls; echo done";
    agent.create(&with(apart("p", &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {"medium": "Memory"}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    }));
    let ended = agent.wait_phase("p", "Succeeded");
    let log = agent.log("p", "");
    let (owned, rest): (Vec<_>, Vec<_>) = log
        .lines()
        .partition(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    for line in &owned {
        let wanted = if line.ends_with("/etc/x") { "5:6 " } else { "0:0 " };
        assert!(line.starts_with(wanted), "{line:?} in {log}");
    }
    assert_eq!(owned.len(), 14, "{log}");
    assert_eq!(
        rest,
        ["p", "removed", "eth0 lo proc", "no devices", "no sysctls", "done"],
        "{log}"
    );
    let end = &container(&ended, "c")["state"]["terminated"];
    assert_eq!(end["message"], "last words\n");
}

#[test]
fn each_pod_has_ids_of_its_own_and_keeps_them() {
    let Some(mut agent) = agent() else { return };
    let long = &[("c", "exec sleep 1000")];
    let [a, b] = ["a", "b"].map(|name| uid(&agent.create(&apart(name, long))));
    for name in ["a", "b"] {
        agent.wait_running(name);
    }
    let first = |agent: &Agent, id: &str| ids(agent.container_pid(id, "c"), "Uid:")[0];
    let mut given = [first(&agent, &a), first(&agent, &b)];
    let kept = given[0];
    given.sort_unstable();
    assert_eq!(given, [FIRST, FIRST + RANGE]);

    // Over a restart of the agent, of the container, and of the whole sandbox.
    agent.kill();
    agent.start_again();
    signal(agent.container_pid(&a, "c"), "KILL");
    agent.wait_pod("a", "to run again", |p| {
        container(p, "c")["restartCount"] == 1 && container(p, "c")["state"]["running"].is_object()
    });
    assert_eq!(first(&agent, &a), kept);
    let infra = agent.infra_pid(&a);
    signal(infra, "KILL");
    wait_dead(infra);
    agent.wait_pod("a", "to run in another sandbox", |p| {
        container(p, "c")["restartCount"] == 2 && container(p, "c")["state"]["running"].is_object()
    });
    assert_ne!(agent.infra_pid(&a), infra);
    assert_eq!(first(&agent, &a), kept);

    // Whoever comes after one that is gone gets what it had.
    agent.delete("a", Some(0));
    agent.wait_gone("a");
    let c = uid(&agent.create(&apart("c", long)));
    agent.wait_running("c");
    assert_eq!(first(&agent, &c), kept);
}

#[test]
fn when_no_ids_are_left_a_pod_waits_for_them() {
    let Some(agent) = agent_with("131072:65536") else {
        return;
    };
    agent.create(&apart("a", &[("c", "exec sleep 1000")]));
    agent.wait_running("a");
    agent.create(&apart("b", &[("c", "exec sleep 1000")]));
    wait_for("the reason to be told", || {
        let events = agent.request("GET", "/api/v1/namespaces/default/events", None).text;
        let told = events.contains("FailedCreatePodSandBox") && events.contains("ranges of user ids");
        if told { Ok(()) } else { Err(events) }
    });
    assert_eq!(agent.pod("b")["status"]["phase"], "Pending");
    // Who wants none is not in want of any.
    agent.create(&pod("plain", &[("c", "exec sleep 1000")]));
    agent.wait_running("plain");
}

#[test]
fn programs_join_a_container_in_its_user_namespace() {
    let Some(agent) = agent() else { return };
    let made = agent.create(&with(
        apart("p", &[("c", "echo ready; exec sleep 1000"), ("u", "exec sleep 1000")]),
        |p| {
            p["spec"]["containers"][1]["securityContext"] = json!({"runAsUser": 1000});
            p["spec"]["containers"][0]["readinessProbe"] =
                json!({"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1});
        },
    ));
    let id = uid(&made);
    agent.wait_running("p");
    let said = kubectl(
        &agent,
        &[
            "exec",
            "p",
            "-c",
            "c",
            "--",
            "sh",
            "-c",
            "id -u; cat /proc/self/uid_map; echo x > /dev/stdout; readlink /proc/self/ns/user",
        ],
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "0", "{said}");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "131072", "65536"]
    );
    assert_eq!(lines[2], "x");
    assert_eq!(lines[3], namespace(agent.container_pid(&id, "c"), "user"));
    assert_eq!(kubectl(&agent, &["exec", "p", "-c", "u", "--", "id", "-u"]), "1000\n");

    // A terminal, and what is written by its name.
    let mut typed = Command::new("script")
        .args(["-qec"])
        .arg(format!(
            "kubectl --kubeconfig={} exec -it p -c c -- sh -c 'tty; echo typed > /dev/tty; stat -c %u $(tty)'",
            agent.root().join("admin.kubeconfig").display()
        ))
        .arg("/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // What script(1) types at the end of its input would be echoed among the words.
    let _open = typed.stdin.take();
    let typed = typed.wait_with_output().unwrap();
    let typed = String::from_utf8_lossy(&typed.stdout).into_owned();
    assert!(typed.contains("/dev/pts/") && typed.contains("typed"), "{typed}");
    assert!(typed.lines().any(|line| line.trim() == "0"), "{typed}");

    // A probe is such a program too.
    kubectl(&agent, &["exec", "p", "-c", "c", "--", "touch", "/ready"]);
    agent.wait_pod("p", "to be ready", |p| container(p, "c")["ready"] == true);

    let file = agent.dir.join("file");
    fs::write(&file, "copied\n").unwrap();
    let from = file.display().to_string();
    kubectl(&agent, &["cp", "-c", "c", &from, "p:/copied"]);
    assert_eq!(
        kubectl(&agent, &["exec", "p", "-c", "c", "--", "cat", "/copied"]),
        "copied\n"
    );
}

#[test]
fn a_shared_process_namespace_goes_with_a_user_namespace() {
    let Some(agent) = agent() else { return };
    agent.create(&with(
        apart(
            "p",
            &[
                ("a", "exec sleep 1234"),
                (
                    "b",
                    "while ! ps | grep -q '[s]leep 1234'; do sleep 0.05; done; echo seen; exec sleep 1000",
                ),
            ],
        ),
        |p| p["spec"]["shareProcessNamespace"] = json!(true),
    ));
    agent.wait_running("p");
    agent.wait_log("p", "container=b", "seen");
}

#[test]
fn an_image_as_a_volume_belongs_to_whom_the_image_says() {
    let Some(agent) = agent() else { return };
    let script = "stat -c '%u:%g' /i /i/bin/busybox; touch /i/x 2>/dev/null || echo read-only";
    agent.create(&with(apart("p", &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["volumes"] =
            json!([{"name": "i", "image": {"reference": "busybox:test", "pullPolicy": "IfNotPresent"}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "i", "mountPath": "/i"}]);
    }));
    agent.wait_phase("p", "Succeeded");
    assert_eq!(agent.log("p", ""), "0:0\n0:0\nread-only\n");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    agent.wait_no_leftovers();
}

#[test]
fn devices_of_the_machine_are_not_the_privileged_containers() {
    let Some(agent) = agent() else { return };
    let script = "head -c 1 /dev/vda > /dev/null 2>&1 || echo not to be read; echo x > /dev/null && echo done";
    agent.create(&with(apart("p", &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    }));
    agent.wait_phase("p", "Succeeded");
    let log = agent.log("p", "");
    assert!(log.ends_with("not to be read\ndone\n"), "{log}");
}

#[test]
fn files_of_the_machine_are_mapped_and_nobody_gets_more_than_the_mount_gives() {
    let Some(agent) = agent() else { return };
    let dir = agent.dir.join("host");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/f"), "of the host\n").unwrap();
    fs::set_permissions(dir.join("sub/f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let script = "cat /h/sub/f /s/f; stat -c '%u:%g' /h/sub/f /s/f; touch /h/new; touch /s/x 2>&1 | grep -o 'Read-only.*'; \
                  mount -t tmpfs none /tmp 2>/dev/null || echo no mounts; echo done";
    agent.create(&with(apart("p", &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": dir}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([
            {"name": "h", "mountPath": "/h"},
            {"name": "h", "mountPath": "/s", "subPath": "sub", "readOnly": true},
            {"name": "h", "mountPath": "/n", "subPath": "made/here"},
        ]);
    }));
    agent.wait_phase("p", "Succeeded");
    let log = agent.log("p", "");
    assert_eq!(
        log,
        "of the host\nof the host\n0:0\n0:0\nRead-only file system\nno mounts\ndone\n"
    );
    for made in ["new", "made/here"] {
        assert_eq!(fs::metadata(dir.join(made)).unwrap().uid(), 0, "{made}");
    }
}

/// Everything at once that has to do with owners: `hostUsers` is the only difference between two such pods.
fn of_many_owners(name: &str, host_users: bool) -> Value {
    let look = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '; echo; \
                cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range; \
                stat -Lc '%u:%g %a %n' /disk /memory /conf/k /key/k /both/k /both/token; cat /conf/k /key/k; echo; \
                echo x > /disk/f; echo x > /memory/f; stat -c '%u:%g %n' /disk/f /memory/f; \
                until test -e /disk/of-sidecar; do sleep 0.05; done; stat -c '%u:%g %n' /disk/of-sidecar; \
                echo ready; until grep -q new /conf/k; do sleep 0.05; done; echo updated; exec sleep 1000";
    let side = "echo x > /disk/of-sidecar; exec sleep 1000";
    with(pod(name, &[("c", look)]), |p| {
        let spec = &mut p["spec"];
        spec["hostUsers"] = json!(host_users);
        spec["securityContext"] = json!({
            "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000],
            "sysctls": [
                {"name": "kernel.shm_rmid_forced", "value": "1"},
                {"name": "net.ipv4.ip_local_port_range", "value": "30000 40000"},
            ],
        });
        spec["volumes"] = json!([
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "conf", "configMap": {"name": name, "defaultMode": 0o400}},
            {"name": "key", "secret": {"secretName": name}},
            {"name": "both", "projected": {"sources": [
                {"configMap": {"name": name}}, {"serviceAccountToken": {"path": "token"}},
            ]}},
        ]);
        let mounts = ["disk", "memory", "conf", "key", "both"];
        let mounts = mounts.map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
        spec["containers"][0]["volumeMounts"] = json!(mounts);
        let mut sidecar = spec["containers"][0].clone();
        sidecar["name"] = json!("side");
        sidecar["restartPolicy"] = json!("Always");
        sidecar["command"] = json!(["sh", "-c", side]);
        sidecar["securityContext"] = json!({"runAsUser": 0, "runAsGroup": 0});
        spec["initContainers"] = json!([sidecar]);
    })
}

#[test]
fn owners_are_those_that_a_pod_without_a_namespace_sees() {
    let Some(agent) = agent() else { return };
    let namespaced = "/api/v1/namespaces/default";
    let seen = ["plain", "apart"].map(|name| {
        for (kind, object) in [
            ("configmaps", json!({"metadata": {"name": name}, "data": {"k": "old"}})),
            (
                "secrets",
                json!({"metadata": {"name": name}, "stringData": {"k": "hidden"}}),
            ),
        ] {
            let answer = agent.request("POST", &format!("{namespaced}/{kind}"), Some(&object));
            assert_eq!(answer.code, 201, "{answer:?}");
        }
        agent.create(&of_many_owners(name, name == "plain"));
        agent.wait_log(name, "container=c", "ready\n")
    });
    let [plain, apart] = &seen;
    assert_eq!(plain, apart);
    let expected = "1000\n3000\n2000 3000 4000 \n1\n30000\t40000\n";
    assert!(apart.starts_with(expected), "{apart}");
    for line in [
        "0:2000 2777 /disk",
        "0:2000 2777 /memory",
        "0:2000 440 /conf/k",
        "0:2000 644 /key/k",
        "oldhidden",
        "1000:2000 /disk/f",
        "1000:2000 /memory/f",
        "0:2000 /disk/of-sidecar",
    ] {
        assert!(apart.lines().any(|seen| seen == line), "{line:?} is not in {apart}");
    }

    // None of its processes is anybody of the machine's; its files have the numbers that it knows.
    let id = uid(&agent.pod("apart"));
    assert_eq!(ids(agent.container_pid(&id, "c"), "Uid:"), [FIRST + 1000; 4]);
    assert_eq!(ids(agent.container_pid(&id, "c"), "Gid:"), [FIRST + 3000; 4]);
    let mut groups = ids(agent.container_pid(&id, "c"), "Groups:");
    groups.sort_unstable();
    assert_eq!(groups, [2000, 3000, 4000].map(|group| FIRST + group));
    assert_eq!(ids(agent.container_pid(&id, "side"), "Uid:"), [FIRST; 4]);
    let on_disk = fs::metadata(agent.root().join("pods").join(&id).join("volumes/disk/f")).unwrap();
    assert_eq!((on_disk.uid(), on_disk.gid()), (1000, 2000));

    // A change comes through, and another life of the container sees the same owners.
    let change = json!({"data": {"k": "new"}}).to_string();
    let path = format!("{namespaced}/configmaps/apart");
    let changed = agent.raw_request("PATCH", &path, "application/merge-patch+json", change.as_bytes());
    assert_eq!(changed.unwrap().code, 200);
    agent.wait_log("apart", "container=c", "updated\n");
    signal(agent.container_pid(&id, "c"), "KILL");
    agent.wait_pod("apart", "to run again", |p| {
        container(p, "c")["restartCount"] == 1 && container(p, "c")["state"]["running"].is_object()
    });
    let again = agent.wait_log("apart", "container=c", "updated\n");
    assert_eq!(again.replace("updated\n", "").replace("new", "old"), *apart);
    assert_eq!(ids(agent.container_pid(&id, "c"), "Uid:"), [FIRST + 1000; 4]);
    for name in ["plain", "apart"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    agent.wait_no_leftovers();
}

/// The messages of all events of the default namespace.
fn wait_told(agent: &Agent, reason: &str, words: &[&str]) {
    wait_for(&format!("{reason} to be told"), || {
        let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
        let found = events["items"].as_array().unwrap().iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == reason && words.iter().all(|word| message.contains(word))
        });
        if found { Ok(()) } else { Err(format!("{events:#}")) }
    });
}

#[test]
fn a_file_system_that_cannot_be_mapped_is_named() {
    let Some(agent) = agent() else { return };
    agent.create(&with(apart("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": "/sys/class"}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "h", "mountPath": "/h"}]);
    }));
    let why = "sysfs is a file system that cannot be mounted with a pod's own ids";
    wait_told(&agent, "Failed", &["/sys/class", why]);
    agent.wait_pod("p", "to say why", |p| {
        let waiting = &container(p, "c")["state"];
        waiting.to_string().contains(why)
    });
}

#[test]
fn an_old_kernel_is_told_to_be_too_old() {
    let agent = Agent::start();
    if can_map(&agent) {
        eprintln!("skipped: this kernel maps every file system that podd needs");
        return;
    }
    agent.create(&apart("p", &[("c", "exec sleep 1000")]));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let why = format!(
        "tmpfs cannot be mounted with a pod's own ids by Linux {}: it needs Linux 6.3",
        release.trim()
    );
    wait_told(&agent, "FailedCreatePodSandBox", &[&why]);
    assert_eq!(agent.pod("p")["status"]["phase"], "Pending");
    let doctor = String::from_utf8(agent.podd(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&why), "{doctor}");
    // Who wants none is not in want of any.
    agent.create(&pod("plain", &[("c", "exec sleep 1000")]));
    agent.wait_running("plain");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
}
