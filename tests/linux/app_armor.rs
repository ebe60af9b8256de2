//! AppArmor, on machines whose kernel has it; elsewhere each of these tests says that it was skipped.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, with};

/// What `RuntimeDefault` means where it is loaded.
const DEFAULT: &str = "podd-default";

fn agent() -> Option<Agent> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|enabled| enabled.starts_with('Y')) {
        eprintln!("skipped: the kernel has no AppArmor");
        return None;
    }
    Some(Agent::start())
}

/// A profile in the kernel, removed with this.
struct Profile {
    text: String,
}

impl Profile {
    /// It allows everything but to write `/forbidden`.
    fn load(name: &str) -> Self {
        let text = format!(
            "profile {name} flags=(attach_disconnected) {{\n file,\n capability,\n network,\n mount,\n umount,\n \
             signal,\n ptrace,\n unix,\n deny /forbidden w,\n}}\n"
        );
        let profile = Self { text };
        assert!(profile.parser("--replace"), "apparmor_parser loads {name}");
        profile
    }

    fn parser(&self, action: &str) -> bool {
        let mut parser = Command::new("apparmor_parser")
            .args([action, "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        parser.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        parser.wait().unwrap().success()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

/// A pod whose container says how it is confined and tries to write.
fn confined(name: &str, profile: &Value) -> Value {
    let script = "cat /proc/self/attr/current; echo x > /allowed && echo allowed; \
                  (echo x > /forbidden) 2>/dev/null || echo refused; echo done";
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        if !profile.is_null() {
            p["spec"]["containers"][0]["securityContext"] = json!({"appArmorProfile": profile});
        }
    })
}

fn said(agent: &Agent, pod: &Value) -> Vec<String> {
    agent.create(pod);
    let name = pod["metadata"]["name"].as_str().unwrap();
    agent.wait_phase(name, "Succeeded");
    agent.log(name, "").lines().map(ToOwned::to_owned).collect()
}

fn localhost(name: &str) -> Value {
    json!({"type": "Localhost", "localhostProfile": name})
}

#[test]
fn a_container_runs_under_the_profile_that_it_names() {
    let Some(agent) = agent() else { return };
    let name = format!("podd-test-{}", agent.bridge());
    let _profile = Profile::load(&name);
    let enforced = format!("{name} (enforce)");
    let own = confined("own", &localhost(&name));
    assert_eq!(said(&agent, &own), [enforced.as_str(), "allowed", "refused", "done"]);
    // What holds for the pod holds for its containers, unless they say otherwise.
    let of_pod = with(confined("pod", &Value::Null), |p| {
        p["spec"]["securityContext"] = json!({"appArmorProfile": localhost(&name)});
    });
    assert_eq!(said(&agent, &of_pod)[0], enforced);
    let free = with(confined("free", &json!({"type": "Unconfined"})), |p| {
        p["spec"]["securityContext"] = json!({"appArmorProfile": localhost(&name)});
    });
    assert_eq!(said(&agent, &free), ["unconfined", "allowed", "done"]);

    // A program that joins is confined as the container is.
    let probed = with(pod("probed", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["securityContext"] = json!({"appArmorProfile": localhost(&name)});
        p["spec"]["containers"][0]["readinessProbe"] = json!({
            "exec": {"command": ["sh", "-c", format!("grep -qx '{enforced}' /proc/self/attr/current")]},
            "periodSeconds": 1,
        });
    });
    agent.create(&probed);
    agent.wait_pod("probed", "to be ready", |p| container(p, "c")["ready"] == true);
}

#[test]
fn a_profile_that_the_kernel_does_not_have_starts_nothing() {
    let Some(agent) = agent() else { return };
    let name = format!("podd-missing-{}", agent.bridge());
    agent.create(&confined("p", &localhost(&name)));
    let why = format!("failed to generate apparmor spec opts: apparmor profile not found {name}");
    agent.wait_pod("p", "to say why", |p| {
        let waiting = &container(p, "c")["state"]["waiting"];
        waiting["reason"] == "CreateContainerError" && waiting["message"] == why.as_str()
    });
    // It starts by itself once the profile is there.
    let _profile = Profile::load(&name);
    agent.wait_phase("p", "Succeeded");
    assert_eq!(agent.log("p", "").lines().next(), Some(&*format!("{name} (enforce)")));
}

#[test]
fn the_default_is_what_the_operator_has_loaded() {
    let Some(agent) = agent() else { return };
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap();
    if loaded.lines().any(|line| line.starts_with(DEFAULT)) {
        eprintln!("skipped: this machine has a profile {DEFAULT} of its own");
        return;
    }
    let default = json!({"type": "RuntimeDefault"});
    let without = confined("without", &default);
    assert_eq!(said(&agent, &without), ["unconfined", "allowed", "done"]);

    let _profile = Profile::load(DEFAULT);
    let enforced = format!("{DEFAULT} (enforce)");
    for (name, profile) in [("asked", &default), ("unset", &Value::Null)] {
        let pod = confined(name, profile);
        assert_eq!(
            said(&agent, &pod),
            [enforced.as_str(), "allowed", "refused", "done"],
            "{name}"
        );
    }
    // As containerd has it: not those that may do everything anyway, unless they name a profile.
    let privileged = with(confined("privileged", &Value::Null), |p| {
        p["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    });
    assert_eq!(said(&agent, &privileged)[0], "unconfined");
}
