//! Pods for tests.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// With one container, and otherwise as the API makes one that says nothing more.
pub(crate) fn pod() -> PodSpec {
    PodSpec {
        uid: Uid("6b0b1c1e-62b0-4b6c-9d5e-1c3e0a2f4b5d".to_owned()),
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        generation: 1,
        created_at: Timestamp::UNIX_EPOCH,
        about: About::default(),
        restart_policy: RestartPolicy::Always,
        termination_grace: Duration::from_secs(30),
        host_network: false,
        share_process_namespace: false,
        isolation: Isolation::default(),
        hostname: "web".to_owned(),
        subdomain: None,
        host_aliases: Vec::new(),
        readiness_gates: Vec::new(),
        dns: DnsSpec {
            policy: DnsPolicy::Default,
            nameservers: Vec::new(),
            searches: Vec::new(),
            options: Vec::new(),
        },
        security: PodSecurity::default(),
        resources: Resources::default(),
        volumes: Vec::new(),
        active_deadline: None,
        init_containers: Vec::new(),
        containers: vec![container("app")],
        ephemeral_containers: Vec::new(),
        runtime: PodRuntime::default(),
        deletion: None,
    }
}

pub(crate) fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image: "busybox".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        env_from: Vec::new(),
        working_dir: None,
        mounts: Vec::new(),
        resources: Resources::default(),
        security: ContainerSecurity {
            run_as_user: None,
            run_as_group: None,
            run_as_non_root: false,
            privileged: false,
            allow_privilege_escalation: true,
            read_only_root: false,
            capabilities: Capabilities::default(),
            seccomp: SeccompProfile::RuntimeDefault,
            app_armor: AppArmorProfile::Unset,
            unmasked_proc: false,
        },
        stdin: false,
        stdin_once: false,
        tty: false,
        termination_message_path: PathBuf::from("/dev/termination-log"),
        host_ports: Vec::new(),
        life: ContainerLife::default(),
    }
}
