//! Whom containers run as, and which walls stand between a pod and the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_dead, wait_for, with};

/// A pod that runs a script once.
fn once(name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Value {
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        change(p);
    })
}

/// Run it to its end and give its output.
fn run(agent: &Agent, pod: &Value) -> String {
    agent.create(pod);
    let name = pod["metadata"]["name"].as_str().unwrap();
    agent.wait_pod(name, "to end", |p| {
        ["Succeeded", "Failed"].contains(&p["status"]["phase"].as_str().unwrap_or(""))
    });
    agent.log(name, "")
}

fn waiting_for<'a>(pod: &'a Value, reason: &str) -> Option<&'a str> {
    let waiting = &container(pod, "c")["state"]["waiting"];
    (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default())
}

#[test]
fn a_process_has_its_pods_user_and_groups_and_the_status_tells_them() {
    let agent = Agent::start();
    let output = run(
        &agent,
        &once("ids", "id -u; id -g; id -G", |p| {
            p["spec"]["securityContext"] = json!({
                "runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 4242, "supplementalGroups": [60000],
                "supplementalGroupsPolicy": "Strict",
            });
        }),
    );
    assert_eq!(output, "1000\n1001\n1001 4242 60000\n");
    let told = agent.pod("ids");
    assert_eq!(
        container(&told, "c")["user"]["linux"],
        json!({"uid": 1000, "gid": 1001, "supplementalGroups": [1001, 4242, 60000]})
    );

    // A user without a group, and without an entry in the image, has group 0.
    let output = run(
        &agent,
        &once("bare", "id -u; id -g", |p| {
            p["spec"]["securityContext"] = json!({"runAsUser": 54321});
        }),
    );
    assert_eq!(output, "54321\n0\n");
}

#[test]
fn a_user_stays_the_same_over_restarts_and_agents() {
    let mut agent = Agent::start_with(&["--max-restart-backoff=1s"]);
    agent.create(&with(
        pod(
            "same",
            &[(
                "c",
                "id -u | tee -a /v/ids; [ -e /v/end ] || exit 1; echo last; exec sleep 1000",
            )],
        ),
        |p| {
            p["spec"]["securityContext"] = json!({"runAsUser": 1234, "fsGroup": 77});
            p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        },
    ));
    agent.wait_pod("same", "a restart", |p| {
        container(p, "c")["restartCount"].as_u64() >= Some(1)
    });
    agent.kill();
    agent.start_again();
    let pod = agent.pod("same");
    let volume = agent.root().join("pods").join(uid(&pod)).join("volumes/v");
    fs::write(volume.join("end"), "").unwrap();
    // A run that began before the file was there may be told to be running still, and end: the last one says that it is.
    assert_eq!(agent.wait_log("same", "", "last"), "1234\nlast\n");
    let ids = fs::read_to_string(volume.join("ids")).unwrap();
    assert!(ids.lines().count() >= 2 && ids.lines().all(|id| id == "1234"), "{ids}");
    let pod = agent.wait_running("same");
    assert_eq!(
        container(&pod, "c")["user"]["linux"],
        json!({"uid": 1234, "gid": 0, "supplementalGroups": [0, 77]})
    );
}

#[test]
fn who_must_not_be_root_is_not_started_as_root() {
    let agent = Agent::start();
    let pod = agent.create(&once("root", "id -u", |p| {
        p["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    }));
    let uid = uid(&pod);
    let seen = agent.wait_pod("root", "to be refused", |p| {
        waiting_for(p, "CreateContainerConfigError").is_some()
    });
    let message = waiting_for(&seen, "CreateContainerConfigError").unwrap();
    let expected =
        format!("container has runAsNonRoot and image will run as root (pod: \"root_default({uid})\", container: c)");
    assert_eq!(message, expected);
    let pod = agent.create(&once("zero", "id -u", |p| {
        p["spec"]["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 0});
    }));
    let uid = self::uid(&pod);
    let seen = agent.wait_pod("zero", "to be refused", |p| {
        waiting_for(p, "CreateContainerConfigError").is_some()
    });
    let message = waiting_for(&seen, "CreateContainerConfigError").unwrap();
    let expected = format!("container's runAsUser breaks non-root policy (pod: \"zero_default({uid})\", container: c)");
    assert_eq!(message, expected);
    let output = run(
        &agent,
        &once("user", "id -u", |p| {
            p["spec"]["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 7});
        }),
    );
    assert_eq!(output, "7\n");
}

#[test]
fn volumes_belong_to_the_pods_group_and_what_is_the_machines_does_not() {
    let agent = Agent::start();
    let machines = tempfile::tempdir().unwrap();
    fs::set_permissions(machines.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::metadata(machines.path()).unwrap();
    let script = "for d in /disk /memory; do stat -c '%g %a' $d; touch $d/f; stat -c '%u %g' $d/f; done";
    let output = run(
        &agent,
        &once("group", script, |p| {
            p["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 4242});
            p["spec"]["volumes"] = json!([
                {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "host", "hostPath": {"path": machines.path()}},
            ]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([
                {"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
                {"name": "host", "mountPath": "/host"},
            ]);
        }),
    );
    assert_eq!(output, "4242 2777\n1000 4242\n4242 2777\n1000 4242\n");
    let after = fs::metadata(machines.path()).unwrap();
    assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
}

#[test]
fn a_new_sandbox_leaves_what_the_pod_made_of_its_volume() {
    let agent = Agent::start();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "").unwrap();
    let before = fs::metadata(&target).unwrap();
    let pod = agent.create(&with(pod("again", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["securityContext"] = json!({"fsGroup": 4242});
        p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    }));
    let uid = uid(&pod);
    agent.wait_running("again");
    let volume = agent.root().join("pods").join(&uid).join("volumes/v");
    fs::write(volume.join("own"), "").unwrap();
    fs::set_permissions(volume.join("own"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&target, volume.join("link")).unwrap();
    // The volume's root is not the group's any more: with the next sandbox everything in it is given again.
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).unwrap();
    let infra = agent.infra_pid(&uid);
    crate::common::signal(infra, "KILL");
    wait_for("a new sandbox", || {
        match fs::metadata(volume.join("own")).unwrap().mode() & 0o7777 {
            0o660 => Ok(()),
            other => Err(format!("mode {other:o}")),
        }
    });
    assert_eq!(fs::metadata(volume.join("own")).unwrap().gid(), 4242);
    assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o2770);
    let after = fs::metadata(&target).unwrap();
    assert_eq!(
        (after.gid(), after.mode()),
        (before.gid(), before.mode()),
        "no link is followed"
    );
    agent.delete("again", Some(0));
    agent.wait_gone("again");
}

#[test]
fn kernel_parameters_are_the_pods_own() {
    let agent = Agent::start_with(&["--allowed-unsafe-sysctls", "kernel.msg*,net.core.somaxconn"]);
    let hosts = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
    let (shm, msg) = (hosts("kernel/shm_rmid_forced"), hosts("kernel/msgmax"));
    let script = "cd /proc/sys; cat kernel/shm_rmid_forced kernel/msgmax net/core/somaxconn \
                  net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range";
    let output = run(
        &agent,
        &once("set", script, |p| {
            p["spec"]["securityContext"] = json!({"sysctls": [
                {"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "kernel/msgmax", "value": "4711"},
                {"name": "net/core/somaxconn", "value": "77"},
                {"name": "net.ipv4.ip_unprivileged_port_start", "value": "1000"},
            ]});
        }),
    );
    assert_eq!(output, "1\n4711\n77\n1000\n0\t2147483647\n");
    assert_eq!((hosts("kernel/shm_rmid_forced"), hosts("kernel/msgmax")), (shm, msg));

    agent.create(&once("bad", "true", |p| {
        p["spec"]["securityContext"] = json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "many"}]});
    }));
    agent.wait_pod("bad", "to have no sandbox", |p| {
        let message = container(p, "c")["state"]["waiting"]["message"]
            .as_str()
            .unwrap_or_default();
        message.contains("set sysctl kernel/shm_rmid_forced")
    });
}

#[test]
fn a_forbidden_parameter_turns_the_pod_away() {
    let agent = Agent::start();
    agent.create(&once("msg", "true", |p| {
        p["spec"]["securityContext"] = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    }));
    let pod = agent.wait_phase("msg", "Failed");
    let status = &pod["status"];
    assert_eq!(status["reason"], "SysctlForbidden");
    assert_eq!(
        status["message"],
        "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
    );
    assert!(
        status["containerStatuses"].is_null() && status["podIP"].is_null(),
        "{status}"
    );
    wait_for("its event", || {
        let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
        let events = events["items"].as_array().unwrap().clone();
        let found = events.iter().find(|event| event["reason"] == "SysctlForbidden");
        let message = found.map(|event| event["message"].clone()).ok_or("none yet")?;
        assert_eq!(message, "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        Ok(())
    });
    assert!(
        !agent.root().join("pods").join(uid(&pod)).exists(),
        "nothing of it was made"
    );
    agent.delete("msg", None);
    agent.wait_gone("msg");
}

#[test]
fn without_app_armor_who_needs_it_is_turned_away() {
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|enabled| enabled.starts_with('Y')) {
        eprintln!("skipped: the kernel has AppArmor");
        return;
    }
    let agent = Agent::start();
    agent.create(&once("armed", "true", |p| {
        p["spec"]["securityContext"] = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "own"}});
    }));
    let pod = agent.wait_phase("armed", "Failed");
    assert_eq!(pod["status"]["reason"], "AppArmor");
    let message = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    assert_eq!(pod["status"]["message"], message);
    let output = run(
        &agent,
        &once("open", "echo runs", |p| {
            p["spec"]["securityContext"] = json!({"appArmorProfile": {"type": "Unconfined"}});
        }),
    );
    assert_eq!(output, "runs\n");
}

#[test]
fn a_seccomp_profile_of_the_machine_is_waited_for_and_kept() {
    let agent = Agent::start();
    let confined = |p: &mut Value| {
        p["spec"]["containers"][0]["securityContext"] =
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "own/no-mkdir.json"}});
    };
    let script = "mkdir /tmp-x 2>&1 | grep -o 'Operation not permitted'; touch /f && echo touched";
    agent.create(&once("filter", script, confined));
    let path = agent.root().join("seccomp/own/no-mkdir.json");
    let seen = agent.wait_pod("filter", "to lack its profile", |p| {
        waiting_for(p, "CreateContainerError").is_some()
    });
    let message = waiting_for(&seen, "CreateContainerError").unwrap();
    let expected = format!(
        "failed to generate seccomp spec opts: cannot load seccomp profile \"{}\": No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(message, expected);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    fs::write(&path, profile.to_string()).unwrap();
    // It starts by itself once the profile is there.
    agent.wait_phase("filter", "Succeeded");
    assert_eq!(agent.log("filter", ""), "Operation not permitted\ntouched\n");
}

#[test]
fn in_the_machines_process_namespace_everything_is_seen_and_only_the_pods_own_ends() {
    let agent = Agent::start();
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let here = bystander.id();
    let script = format!("cat /proc/{here}/comm; readlink /proc/self/ns/pid; setsid sleep 1000 & exec sleep 1000");
    agent.create(&with(
        pod(
            "own",
            &[("c", &format!("cat /proc/{here}/comm || echo none; exec sleep 1000"))],
        ),
        |_| {},
    ));
    let host = agent.create(&with(pod("host", &[("c", &script), ("d", "exec sleep 1000")]), |p| {
        p["spec"]["hostPID"] = json!(true);
    }));
    agent.wait_running("own");
    agent.wait_running("host");
    agent.wait_log("own", "", "none");
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let seen = agent.wait_log("host", "container=c", "pid:");
    assert_eq!(seen, format!("sleep\n{}\n", namespace.display()));
    // A program that joins it later is there, too.
    let kubeconfig = agent.root().join("admin.kubeconfig");
    let joined = std::process::Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["exec", "host", "-c", "c", "--", "readlink", "/proc/self/ns/pid"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&joined.stdout),
        format!("{}\n", namespace.display()),
        "{joined:?}"
    );
    // A container that is killed is started again, and what it had left is gone.
    let first = agent.container_pid(&uid(&host), "c");
    crate::common::signal(first, "KILL");
    agent.wait_pod("host", "a restart", |p| {
        container(p, "c")["restartCount"] == 1 && container(p, "c")["ready"] == true
    });
    let pids: Vec<i32> = ["c", "d"].map(|name| agent.container_pid(&uid(&host), name)).to_vec();
    let infra = agent.infra_pid(&uid(&host));
    agent.delete("host", Some(0));
    agent.wait_gone("host");
    for pid in pids.into_iter().chain([infra]) {
        wait_dead(pid);
    }
    assert!(
        bystander.try_wait().unwrap().is_none(),
        "a process that is not the pod's goes on"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert_eq!(container(&agent.pod("own"), "c")["ready"], true);
    agent.delete("own", Some(0));
    agent.wait_gone("own");
    agent.wait_no_leftovers();
}

#[test]
fn in_the_machines_ipc_namespace_its_shared_memory_is_seen() {
    let agent = Agent::start();
    let name = format!("podd-test-{}", std::process::id());
    let file = Path::new("/dev/shm").join(&name);
    fs::write(&file, "of the machine\n").unwrap();
    let script = format!("readlink /proc/self/ns/ipc; cat /dev/shm/{name} 2>/dev/null || echo none");
    let host = run(&agent, &once("host", &script, |p| p["spec"]["hostIPC"] = json!(true)));
    let own = run(&agent, &once("own", &script, |_| {}));
    fs::remove_file(&file).unwrap();
    let namespace = fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!(host, format!("{}\nof the machine\n", namespace.display()));
    assert!(
        own.ends_with("none\n") && !own.contains(&*namespace.to_string_lossy()),
        "{own}"
    );
}

#[test]
fn the_kernel_can_know_a_pod_by_its_whole_name() {
    let agent = Agent::start();
    let named = |name: &str, hostname: &str| {
        once(
            name,
            "hostname; cat /etc/hostname; echo $HOSTNAME; tail -n 1 /etc/hosts | cut -f 2,3",
            |p| {
                p["spec"]["hostname"] = json!(hostname);
                p["spec"]["subdomain"] = json!("sub");
                p["spec"]["setHostnameAsFQDN"] = json!(true);
            },
        )
    };
    let whole = "web.sub.default.svc.cluster.local";
    assert_eq!(
        run(&agent, &named("short", "web")),
        format!("{whole}\n{whole}\n{whole}\n{whole}\tweb\n")
    );

    agent.create(&named("long", &"a".repeat(40)));
    let expected = "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN \
                    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sub.default.svc.cluster.local is too long (64 characters \
                    is the max, 70 characters requested)";
    wait_for("its event", || {
        let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
        let events = events["items"].as_array().unwrap().clone();
        let found = events.iter().find(|event| event["reason"] == "FailedCreatePodSandBox");
        assert_eq!(found.ok_or("none yet")?["message"], expected);
        Ok(())
    });
    assert_eq!(agent.pod("long")["status"]["phase"], "Pending");
}
