mod environment;

use std::collections::HashSet;

use serde_json::Value;

use super::super::profiles::Profiles;
use super::*;
use crate::linux::privilege;
use crate::model::testing::{container, pod};
use crate::model::{
    Capabilities, ContainerLife, EnvValue, EnvVar, ImageConfig, ImageId, Mount, Propagation, Resources, RestartPolicy,
};

const UID: &str = "6b0b1c1e-62b0-4b6c-9d5e-1c3e0a2f4b5d";
const MEMORY: u64 = 8 << 30;

fn image() -> ResolvedImage {
    ResolvedImage {
        repo_digest: None,
        id: ImageId("sha256:0".to_owned()),
        config: ImageConfig {
            entrypoint: vec!["/bin/entry".to_owned()],
            cmd: vec!["cmd".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "FROM=image".to_owned()],
            user: String::new(),
            working_dir: "/work".to_owned(),
            stop_signal: "SIGQUIT".to_owned(),
        },
        layers: vec![PathBuf::from("/layers/0")],
    }
}

/// What a spec is made of, to be changed by each test.
struct Given {
    pod: PodSpec,
    image: ResolvedImage,
    sources: Sources,
    user: ResolvedUser,
    volumes: BTreeMap<String, PathBuf>,
    controls: Controls,
    capabilities: Vec<Capability>,
    api: Option<std::net::SocketAddr>,
    profiles: Profiles,
}

impl Given {
    fn new() -> Self {
        Self {
            pod: pod(),
            image: image(),
            sources: Sources::default(),
            user: ResolvedUser {
                uid: 0,
                gid: 0,
                additional_gids: vec![10],
            },
            volumes: BTreeMap::from([("data".to_owned(), PathBuf::from("/pods/uid/volumes/data"))]),
            controls: Controls::default(),
            capabilities: privilege::CAPABILITIES.to_vec(),
            api: None,
            profiles: Profiles::default(),
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut given = Self::new();
        change(&mut given);
        given
    }

    fn container(&mut self) -> &mut ContainerSpec {
        &mut self.pod.containers[0]
    }

    fn check<T>(&self, look: impl FnOnce(&SpecInput<'_>) -> T) -> T {
        let mut fuse = LinuxDevice::default();
        fuse.set_path(PathBuf::from("/dev/fuse"))
            .set_typ(oci_spec::runtime::LinuxDeviceType::C)
            .set_major(10);
        fuse.set_minor(229);
        let parent = pod_cgroup("podd", &self.pod);
        look(&SpecInput {
            pod: &self.pod,
            container: &self.pod.containers[0],
            attempt: 3,
            image: &self.image,
            sources: &self.sources,
            user: self.user.clone(),
            home: "/root",
            infra_pid: 4242,
            target_pid: None,
            first_id: None,
            cgroup_parent: &parent,
            volumes: &self.volumes,
            etc: EtcFiles {
                hosts: PathBuf::from("/pods/uid/etc/hosts"),
                hostname: PathBuf::from("/pods/uid/etc/hostname"),
                resolv_conf: PathBuf::from("/pods/uid/etc/resolv.conf"),
                termination_log: PathBuf::from("/pods/uid/app/3/termination-log"),
            },
            memory: MEMORY,
            pids_limit: 4096,
            controls: &self.controls,
            node_name: "node",
            place: &Place {
                node_name: "node".to_owned(),
                host_ips: vec!["192.0.2.1".parse().unwrap()],
                pod_ips: vec!["10.0.0.7".parse().unwrap()],
            },
            api: self.api,
            allocatable: &Capacity {
                cpu_milli: 2000,
                memory: MEMORY,
                storage: 1 << 40,
            },
            capabilities: &self.capabilities,
            host_devices: &[fuse],
            profiles: &self.profiles,
        })
    }

    fn build(&self) -> Result<Built, SpecError> {
        self.check(build)
    }

    /// As JSON, with sets in order, and of the seccomp profile only whether there is one.
    fn json(&self) -> Value {
        let mut json = serde_json::to_value(self.build().unwrap().spec).unwrap();
        if let Some(sets) = json["process"]["capabilities"].as_object_mut() {
            for set in sets.values_mut() {
                set.as_array_mut().unwrap().sort_by_key(ToString::to_string);
            }
        }
        if let Some(profile) = json["linux"].get_mut("seccomp") {
            *profile = Value::from(format!("default action {}", profile["defaultAction"]));
        }
        json
    }

    /// What differs from the plain container: path, plain value, value.
    fn difference(&self) -> Vec<String> {
        let mut found = Vec::new();
        differences("", &Self::new().json(), &self.json(), &mut found);
        found
    }
}

fn differences(path: &str, plain: &Value, value: &Value, found: &mut Vec<String>) {
    match (plain, value) {
        (Value::Object(plain), Value::Object(value)) => {
            let names: std::collections::BTreeSet<_> = plain.keys().chain(value.keys()).collect();
            for name in names {
                let at = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or(Value::Null);
                differences(&format!("{path}/{name}"), &at(plain), &at(value), found);
            }
        }
        (Value::Array(plain), Value::Array(value)) if plain != value => {
            found.extend(
                plain
                    .iter()
                    .filter(|p| !value.contains(p))
                    .map(|p| format!("{path} - {p}")),
            );
            found.extend(
                value
                    .iter()
                    .filter(|v| !plain.contains(v))
                    .map(|v| format!("{path} + {v}")),
            );
        }
        (plain, value) if plain != value => found.push(format!("{path}: {plain} -> {value}")),
        _ => {}
    }
}

#[test]
fn a_plain_container() {
    insta::assert_json_snapshot!(Given::new().json());
}

#[test]
fn a_privileged_container() {
    let given = Given::with(|given| given.container().security.privileged = true);
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_without_root_and_with_a_read_only_one() {
    let given = Given::with(|given| {
        given.user = ResolvedUser {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![1001, 20],
        };
        given.pod.security.supplemental_groups = vec![20, 30];
        let security = &mut given.container().security;
        security.allow_privilege_escalation = false;
        security.read_only_root = true;
        security.capabilities.drop = vec!["ALL".to_owned()];
    });
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_on_the_hosts_network() {
    let given = Given::with(|given| given.pod.host_network = true);
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_in_the_hosts_namespaces() {
    let given = Given::with(|given| {
        given.pod.isolation.host_pid = true;
        given.pod.isolation.host_ipc = true;
    });
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_with_what_its_pod_says_of_its_confinement() {
    let given = Given::with(|given| {
        given.pod.security.sysctls = vec![
            ("net.ipv4.ping_group_range".to_owned(), "0 1".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ];
        given.pod.subdomain = Some("sub".to_owned());
        given.pod.isolation.hostname_is_fqdn = true;
        let mut profile = oci_spec::runtime::LinuxSeccomp::default();
        profile.set_default_action(oci_spec::runtime::LinuxSeccompAction::ScmpActLog);
        given.profiles = Profiles {
            seccomp: Some(profile),
            app_armor: Some("own".to_owned()),
        };
        let security = &mut given.container().security;
        security.seccomp = SeccompProfile::Localhost("own.json".into());
        security.unmasked_proc = true;
    });
    let json = given.json();
    let built = given.build().unwrap().spec;
    assert_eq!(built.linux().as_ref().unwrap().seccomp(), &given.profiles.seccomp);
    assert_eq!(json["process"]["apparmorProfile"], "own");
    assert_eq!(
        json["linux"]["sysctl"],
        serde_json::json!({"net.ipv4.ip_unprivileged_port_start": "0"})
    );
    assert_eq!(
        (&json["linux"]["maskedPaths"], &json["linux"]["readonlyPaths"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    let name = format!("HOSTNAME={}", given.pod.fqdn().unwrap());
    assert!(
        json["process"]["env"].as_array().unwrap().iter().any(|v| *v == name),
        "{json:#}"
    );
}

#[test]
fn a_privileged_container_has_no_filter_of_any_kind() {
    let given = Given::with(|given| {
        given.profiles.seccomp = Some(oci_spec::runtime::LinuxSeccomp::default());
        let security = &mut given.container().security;
        security.privileged = true;
        security.seccomp = SeccompProfile::Localhost("own.json".into());
    });
    let built = given.build().unwrap().spec;
    assert!(built.linux().as_ref().unwrap().seccomp().is_none());
}

#[test]
fn a_container_that_sees_the_pods_processes() {
    let given = Given::with(|given| given.pod.share_process_namespace = true);
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_with_a_terminal() {
    let given = Given::with(|given| given.container().tty = true);
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_container_without_seccomp() {
    let given = Given::with(|given| given.container().security.seccomp = SeccompProfile::Unconfined);
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_burstable_container() {
    let given = Given::with(|given| {
        given.container().resources = Resources {
            cpu_request_milli: Some(250),
            memory_request: Some(1 << 30),
            ..Resources::default()
        };
    });
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn a_guaranteed_container_where_swap_can_be_limited() {
    let given = Given::with(|given| {
        given.controls = Controls {
            v2: true,
            swap: true,
            page_sizes: vec![2 << 20, 1 << 30],
        };
        given.container().resources = Resources {
            cpu_limit_milli: Some(1500),
            memory_limit: Some(256 << 20),
            ..Resources::default()
        };
    });
    insta::assert_yaml_snapshot!(given.difference());
}

#[test]
fn command_and_args_against_entrypoint_and_cmd() {
    for (command, args, expected) in [
        (vec![], vec![], vec!["/bin/entry", "cmd"]),
        (vec![], vec!["a"], vec!["/bin/entry", "a"]),
        (vec!["c"], vec![], vec!["c"]),
        (vec!["c"], vec!["a", "b"], vec!["c", "a", "b"]),
    ] {
        let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let given = Given::with(|given| {
            given.container().command = owned(command);
            given.container().args = owned(args);
        });
        assert_eq!(given.json()["process"]["args"], Value::from(owned(expected)));
    }
    let given = Given::with(|given| {
        given.image.config.entrypoint.clear();
        given.image.config.cmd.clear();
    });
    assert_eq!(given.build().unwrap_err(), SpecError::NoCommand);
    assert_eq!(given.build().unwrap_err().to_string(), "no command specified");
}

fn environment_of(given: &Given) -> Vec<String> {
    given.check(|input| environment(input, &Variables::of(input).unwrap()))
}

#[test]
fn the_environment_in_order() {
    let given = Given::with(|given| {
        given.image.config.env = ["A=1", "HOSTNAME=x", "B=2", "C=3", "PATH"].map(str::to_owned).to_vec();
        given.container().tty = true;
        given.container().env = [("B", "two"), ("D", "4"), ("D", "=5")]
            .map(|(name, value)| EnvVar {
                name: name.to_owned(),
                value: EnvValue::Text(value.to_owned()),
            })
            .to_vec();
    });
    assert_eq!(
        environment_of(&given),
        ["TERM=xterm", "HOSTNAME=x", "HOME=/root", "A=1", "B=two", "C=3", "D==5"]
    );
    let given = Given::with(|given| given.image.config.env.clear());
    assert_eq!(
        environment_of(&given)[0],
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
}

#[test]
fn the_working_directory_begins_at_the_root() {
    for (container, image, expected) in [
        (None, "", "/"),
        (None, "srv/app", "/srv/app"),
        (Some("/tmp"), "/work", "/tmp"),
        (None, "/work", "/work"),
    ] {
        let given = Given::with(|given| {
            given.container().working_dir = container.map(PathBuf::from);
            given.image.config.working_dir = image.to_owned();
        });
        assert_eq!(given.json()["process"]["cwd"], Value::from(expected));
    }
}

#[test]
fn what_exec_cannot_take_is_refused() {
    let given = Given::with(|given| given.image.config.cmd = vec!["a\0b".to_owned()]);
    assert_eq!(given.build().unwrap_err(), SpecError::Nul { what: "an argument" });
    let given = Given::with(|given| given.image.config.env = vec!["a=\0".to_owned()]);
    assert_eq!(
        given.build().unwrap_err(),
        SpecError::Nul {
            what: "an environment variable"
        }
    );
    let given = Given::with(|given| given.image.config.working_dir = "\0".to_owned());
    assert_eq!(
        given.build().unwrap_err(),
        SpecError::Nul {
            what: "the working directory"
        }
    );
}

fn bounding(add: &[&str], drop: &[&str]) -> Result<Vec<String>, SpecError> {
    let given = Given::with(|given| {
        // As on a machine whose boundary lacks one.
        given
            .capabilities
            .retain(|capability| *capability != Capability::SysResource);
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        given.container().security.capabilities = Capabilities {
            add: owned(add),
            drop: owned(drop),
        };
    });
    let spec = given.build()?.spec;
    let process = spec.process().as_ref().unwrap();
    let sets = process.capabilities().as_ref().unwrap();
    assert_eq!(sets.bounding(), sets.permitted());
    assert_eq!(sets.bounding(), sets.effective());
    assert_eq!(sets.inheritable().as_ref().map(HashSet::len), Some(0));
    assert_eq!(sets.ambient().as_ref().map(HashSet::len), Some(0));
    let mut names: Vec<String> = sets.bounding().iter().flatten().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}

#[test]
fn capabilities_as_containerd_counts_them() {
    assert_eq!(bounding(&[], &[]).unwrap().len(), 14);
    assert_eq!(bounding(&[], &["ALL"]).unwrap(), Vec::<String>::new());
    assert_eq!(bounding(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(), ["NET_BIND_SERVICE"]);
    assert_eq!(bounding(&["ALL"], &[]).unwrap().len(), 40);
    assert_eq!(bounding(&["all"], &["SYS_ADMIN"]).unwrap().len(), 39);
    assert_eq!(bounding(&["ALL"], &["ALL"]).unwrap().len(), 0);
    assert_eq!(bounding(&["NET_ADMIN"], &["NET_ADMIN", "CHOWN"]).unwrap().len(), 13);
    let unknown = SpecError::UnknownCapability { name: "FLY".to_owned() };
    assert_eq!(bounding(&["FLY"], &[]).unwrap_err(), unknown);
    assert_eq!(bounding(&[], &["FLY"]).unwrap_err(), unknown);
    let unavailable = SpecError::CapabilityUnavailable {
        name: "SYS_RESOURCE".to_owned(),
    };
    assert_eq!(bounding(&["SYS_RESOURCE"], &[]).unwrap_err(), unavailable);
}

#[test]
fn capabilities_open_the_seccomp_profile() {
    let profile = |add: &[&str]| {
        let given = Given::with(|given| {
            given.container().security.capabilities.add = add.iter().map(|name| (*name).to_owned()).collect();
        });
        let spec = given.build().unwrap().spec;
        let profile = spec.linux().as_ref().unwrap().seccomp().clone().unwrap();
        let rules = profile.syscalls().clone().unwrap();
        rules.iter().any(|rule| rule.names().iter().any(|name| name == "mount"))
    };
    assert!(!profile(&[]));
    assert!(profile(&["SYS_ADMIN"]));
}

fn mount(volume: &str, path: &str, sub_path: Option<&str>, read_only: bool) -> Mount {
    Mount {
        volume: volume.to_owned(),
        path: PathBuf::from(path),
        sub_path: sub_path.map(PathBuf::from),
        sub_path_expr: None,
        read_only,
        recursive_read_only: false,
        propagation: Propagation::None,
    }
}

/// Destinations in the order of mounting, each with its last option.
fn mounted(given: &Given) -> Vec<String> {
    let spec = given.build().unwrap().spec;
    let mounts = spec.mounts().clone().unwrap();
    let last = |mount: &oci_spec::runtime::Mount| mount.options().as_ref().unwrap().last().unwrap().clone();
    mounts
        .iter()
        .map(|mount| format!("{} {}", mount.destination().display(), last(mount)))
        .collect()
}

#[test]
fn volumes_are_mounted_parents_first() {
    let given = Given::with(|given| {
        given.container().mounts = vec![
            mount("data", "/srv/a/b", Some("x/y"), true),
            mount("data", "/srv", None, false),
            mount("data", "data/../srv/./c/", None, false),
        ];
        given.container().termination_message_path = PathBuf::from("/srv/a/last");
    });
    let all = mounted(&given);
    let from = all.iter().position(|line| line == "/srv rw").unwrap();
    assert_eq!(
        all[from..],
        [
            "/srv rw",
            "/srv/c rw",
            "/etc/hosts rw",
            "/etc/hostname rw",
            "/etc/resolv.conf rw",
            "/srv/a/b ro",
            "/srv/a/last rw"
        ]
    );
    let [sub_path] = given.build().unwrap().sub_paths.try_into().unwrap();
    assert_eq!(sub_path.destination, Path::new("/srv/a/b"));
    assert_eq!(sub_path.path, Path::new("x/y"));
}

#[test]
fn what_the_container_mounts_itself_is_left_to_it() {
    let given = Given::with(|given| {
        given.container().mounts = [
            "/etc/hosts",
            "/etc/resolv.conf",
            "/dev/termination-log",
            "/dev/shm",
            "/sys",
        ]
        .map(|path| mount("data", path, None, true))
        .to_vec();
    });
    assert_eq!(
        mounted(&given),
        [
            "/proc nodev",
            "/dev size=65536k",
            "/dev/pts gid=5",
            "/dev/mqueue nodev",
            "/sys ro",
            "/etc/hosts ro",
            "/etc/resolv.conf ro",
            "/dev/termination-log ro",
            "/dev/shm ro",
            "/etc/hostname rw",
        ]
    );
    let given = Given::with(|given| given.container().mounts = vec![mount("data", "/dev", None, false)]);
    let all = mounted(&given);
    assert!(
        all.iter()
            .filter(|line| line.starts_with("/dev"))
            .eq(["/dev rw", "/dev/termination-log rw"]),
        "{all:?}"
    );
    let given = Given::with(|given| given.container().mounts = vec![mount("other", "/x", None, false)]);
    assert_eq!(
        given.build().unwrap_err(),
        SpecError::UnknownVolume {
            name: "other".to_owned()
        }
    );
}

fn resources(cpu: [Option<u64>; 2], memory: [Option<u64>; 2]) -> Resources {
    Resources {
        cpu_request_milli: cpu[0],
        cpu_limit_milli: cpu[1],
        memory_request: memory[0],
        memory_limit: memory[1],
        ..Resources::default()
    }
}

#[test]
fn pods_lie_where_a_kubelet_puts_them() {
    let placed = |all: Vec<Resources>| {
        let mut pod = pod();
        pod.containers = all
            .into_iter()
            .map(|resources| ContainerSpec {
                resources,
                ..container("app")
            })
            .collect();
        (
            pod_cgroup("podd", &pod),
            pod_resources(&pod, &Controls::default(), None),
        )
    };
    let (none, some) = ([None, None], |value| [None, Some(value)]);
    let (path, limits) = placed(vec![Resources::default()]);
    assert_eq!(path, format!("podd/besteffort/pod{UID}"));
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota, limits.memory_limit),
        (Some(2), None, None)
    );

    let (path, limits) = placed(vec![resources(some(500), some(100)), resources(some(250), some(50))]);
    assert_eq!(path, format!("podd/pod{UID}"));
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota, limits.memory_limit),
        (Some(768), Some(75_000), Some(150))
    );

    // One container without a memory limit: the pod has none.
    let (path, limits) = placed(vec![
        resources(some(5), some(100)),
        resources([Some(100), Some(200)], none),
    ]);
    assert_eq!(path, format!("podd/burstable/pod{UID}"));
    assert_eq!(
        (limits.cpu_shares, limits.cpu_quota, limits.memory_limit),
        (Some(107), Some(20_500), None)
    );
    assert_eq!(limits.pids_limit, None);
}

/// An init container that asks for, and is limited to, so much; a sidecar if it is always restarted.
fn init(name: &str, amount: u64, is_sidecar: bool) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        resources: resources([None, Some(amount)], [None, Some(amount)]),
        life: ContainerLife {
            restart_policy: is_sidecar.then_some(RestartPolicy::Always),
            ..ContainerLife::default()
        },
        ..container("app")
    }
}

#[test]
fn a_pod_has_room_for_what_runs_at_once() {
    let limits = |inits: Vec<ContainerSpec>| {
        let mut pod = pod();
        pod.containers = vec![init("app", 100, false), init("other", 50, false)];
        pod.init_containers = inits;
        pod_resources(&pod, &Controls::default(), None)
    };
    for (inits, at_once) in [
        (vec![], 150),
        (vec![init("a", 60, false), init("b", 120, false)], 150),
        (vec![init("a", 400, false)], 400),
        (vec![init("s", 70, true)], 220),
        // Beside the sidecars that were started before it.
        (
            vec![init("s", 70, true), init("a", 200, false), init("t", 30, true)],
            270,
        ),
        (vec![init("a", 200, false), init("s", 70, true)], 220),
    ] {
        let found = limits(inits);
        assert_eq!(found.memory_limit, Some(at_once));
        assert_eq!(found.cpu_quota, Some(at_once * 100));
        assert_eq!(found.cpu_shares, Some(u64::try_from(at_once).unwrap() * 1024 / 1000));
    }
    let mut unlimited = init("a", 1, false);
    unlimited.resources.memory_limit = None;
    let found = limits(vec![unlimited]);
    assert_eq!((found.memory_limit, found.cpu_quota), (None, Some(15_000)));
}

#[test]
fn a_sidecar_is_not_killed_before_whom_it_serves() {
    let asks = |name: &str, bytes: u64, is_sidecar: bool| {
        let mut container = init(name, 1, is_sidecar);
        container.resources = resources([Some(1), None], [Some(bytes), None]);
        container
    };
    let mut pod = pod();
    pod.containers = vec![asks("app", MEMORY / 4, false), asks("other", MEMORY / 2, false)];
    pod.init_containers = vec![
        asks("small", MEMORY / 8, true),
        asks("large", MEMORY / 2, true),
        asks("init", MEMORY / 8, false),
    ];
    let scores = |pod: &PodSpec| {
        let all: Vec<_> = pod
            .init_containers
            .iter()
            .map(|init| oom_score_adj(pod, init, MEMORY))
            .collect();
        all
    };
    assert_eq!(scores(&pod), [750, 500, 875]);
}

#[test]
fn what_a_pod_says_of_itself_as_a_whole_is_what_counts() {
    let mut pod = pod();
    let asks = |bytes: u64| ContainerSpec {
        resources: resources([Some(10), None], [Some(bytes), None]),
        ..container("app")
    };
    pod.containers = vec![asks(MEMORY / 8), asks(MEMORY / 8)];
    pod.resources = resources([Some(500), Some(2000)], [Some(MEMORY / 2), Some(MEMORY)]);
    pod.runtime.overhead_cpu_milli = 100;
    let controls = Controls {
        v2: true,
        swap: true,
        page_sizes: vec![2 << 20, 1 << 30],
    };
    pod.containers[0].resources.hugepages = [(2 << 20, 4 << 20)].into();
    let limits = pod_resources(&pod, &controls, Some(300));
    assert_eq!(limits.cpu_shares, Some(600 * 1024 / 1000));
    assert_eq!(limits.cpu_quota, Some(210_000));
    assert_eq!(limits.memory_limit, Some(i64::try_from(MEMORY).unwrap()));
    assert_eq!(limits.pids_limit, Some(300));
    let pages = [("1GB".to_owned(), 0), ("2MB".to_owned(), 4 << 20)];
    assert_eq!(limits.hugepages, pages.into());
    assert_eq!(pod_cgroup("podd", &pod), format!("podd/burstable/pod{UID}"));

    // A quarter of the machine is left to both, so each has an eighth more than it asked for.
    assert_eq!(oom_score_adj(&pod, &pod.containers[0], MEMORY), 750);
    // A container without a limit of its own has its pod's.
    let own = resources([None, None], [None, Some(5)]);
    let found = effective(&pod, &own);
    assert_eq!((found.cpu_limit_milli, found.memory_limit), (Some(2000), Some(5)));

    pod.resources = resources([None, Some(2000)], [None, Some(MEMORY)]);
    assert_eq!(pod_cgroup("podd", &pod), format!("podd/pod{UID}"), "Guaranteed");
    // Without a word of it, huge pages are no reason for a class.
    pod.resources = Resources::default();
    for container in &mut pod.containers {
        container.resources = Resources {
            hugepages: [(2 << 20, 4 << 20)].into(),
            storage_limit: Some(1),
            ..Resources::default()
        };
    }
    assert_eq!(pod_cgroup("podd", &pod), format!("podd/besteffort/pod{UID}"));
}

#[test]
fn the_stop_signal_of_the_pod_wins_over_the_images() {
    let signal = |given: &Given| given.json()["annotations"][STOP_SIGNAL].clone();
    assert_eq!(signal(&Given::new()), "SIGQUIT");
    let mut given = Given::with(|given| given.container().life.stop_signal = Some("SIGUSR1".to_owned()));
    assert_eq!(signal(&given), "SIGUSR1");
    given.image.config.stop_signal.clear();
    assert_eq!(signal(&given), "SIGUSR1");
    given.container().life.stop_signal = None;
    assert_eq!(signal(&given), Value::Null);
}

#[test]
fn a_target_is_joined_where_the_pod_shares_nothing() {
    let pid_namespace = |given: &Given| {
        let spec = given.check(|input| {
            let input = SpecInput {
                target_pid: Some(77),
                ..input.clone()
            };
            build(&input).unwrap().spec
        });
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let pid = namespaces.into_iter().find(|n| n.typ() == LinuxNamespaceType::Pid);
        pid.unwrap().path().clone()
    };
    assert_eq!(pid_namespace(&Given::new()), Some(PathBuf::from("/proc/77/ns/pid")));
    let shared = Given::with(|given| given.pod.share_process_namespace = true);
    assert_eq!(pid_namespace(&shared), Some(PathBuf::from("/proc/4242/ns/pid")));
}

#[test]
fn a_pod_in_a_user_namespace_joins_it_and_has_its_files_mapped() {
    let given = Given::with(|given| given.container().mounts = vec![mount("data", "/data", None, false)]);
    let spec = given.check(|input| {
        let input = SpecInput {
            first_id: Some(131_072),
            ..input.clone()
        };
        serde_json::to_value(build(&input).unwrap().spec).unwrap()
    });
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    let user = namespaces.iter().find(|namespace| namespace["type"] == "user").unwrap();
    assert_eq!(user["path"], "/proc/4242/ns/user");
    let mapping = serde_json::json!([{"containerID": 0, "hostID": 131_072, "size": 65_536}]);
    assert_eq!(spec["linux"]["uidMappings"], mapping);
    assert_eq!(spec["linux"]["gidMappings"], mapping);
    // The group of every group is not there to be allowed to.
    assert_eq!(spec["linux"]["sysctl"].get("net.ipv4.ping_group_range"), None);
    for mounted in spec["mounts"].as_array().unwrap() {
        let is_bind = mounted["type"] == "bind";
        assert_eq!(mounted.get("uidMappings"), is_bind.then_some(&mapping), "{mounted}");
    }
}

#[test]
fn mounts_are_propagated_and_read_only_as_asked() {
    let options = |change: fn(&mut Mount)| {
        let given = Given::with(|given| {
            let mut mount = mount("data", "/data", None, true);
            change(&mut mount);
            given.container().mounts = vec![mount];
        });
        let spec = serde_json::to_value(given.build().unwrap().spec).unwrap();
        let all = spec["mounts"].as_array().unwrap();
        all.iter().find(|mount| mount["destination"] == "/data").unwrap()["options"].clone()
    };
    assert_eq!(options(|_| {}), serde_json::json!(["rbind", "rprivate", "ro"]));
    assert_eq!(
        options(|mount| mount.recursive_read_only = true),
        serde_json::json!(["rbind", "rprivate", "rro"])
    );
    assert_eq!(
        options(|mount| mount.propagation = Propagation::HostToContainer),
        serde_json::json!(["rbind", "rslave", "ro"])
    );
    assert_eq!(
        options(|mount| mount.propagation = Propagation::Bidirectional),
        serde_json::json!(["rbind", "rshared", "ro"])
    );
}

#[test]
fn who_is_killed_first() {
    let score = |resources: Resources, memory| {
        let mut pod = pod();
        pod.containers[0].resources = resources;
        oom_score_adj(&pod, &pod.containers[0], memory)
    };
    let memory = |bytes| resources([Some(1), None], [Some(bytes), None]);
    assert_eq!(score(Resources::default(), MEMORY), 1000);
    assert_eq!(score(resources([None, Some(1)], [None, Some(1)]), MEMORY), -997);
    assert_eq!(score(memory(MEMORY / 4), MEMORY), 750);
    assert_eq!(score(memory(1), MEMORY), 999, "never as high as BestEffort");
    assert_eq!(score(memory(MEMORY * 2), MEMORY), 3, "never as low as Guaranteed");
    assert_eq!(score(memory(u64::MAX), 0), 999, "an unknown machine");
    // A request that is not there is the limit.
    assert_eq!(score(resources([Some(1), None], [None, Some(MEMORY / 2)]), MEMORY), 500);
}

#[test]
fn tiny_and_huge_cpu_stays_in_the_kernels_limits() {
    let cpu = |milli| {
        let given = Given::with(|given| given.container().resources.cpu_limit_milli = Some(milli));
        let json = given.json();
        let cpu = &json["linux"]["resources"]["cpu"];
        (cpu["shares"].as_u64(), cpu["quota"].as_i64())
    };
    assert_eq!(cpu(1), (Some(2), Some(1000)));
    assert_eq!(cpu(0), (Some(2), None));
    assert_eq!(cpu(1000), (Some(1024), Some(100_000)));
    assert_eq!(cpu(u64::MAX).0, Some(262_144));
}

#[test]
fn the_same_input_gives_the_same_spec() {
    assert_eq!(Given::new().build().unwrap().spec, Given::new().build().unwrap().spec);
}

/// `runc` is the judge of whether a spec is one. It has no infra to join, so all namespaces are new.
#[test]
fn runc_runs_it() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["rootfs/bin", "rootfs/etc", "data"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists());
    fs::copy(busybox.expect("busybox-static is installed"), at("rootfs/bin/busybox")).unwrap();
    for applet in ["sh", "id", "cat", "grep", "touch"] {
        symlink("busybox", at("rootfs/bin").join(applet)).unwrap();
    }
    for name in ["hosts", "hostname", "resolv.conf", "last"] {
        fs::write(at(name), format!("this is {name}\n")).unwrap();
    }
    fs::set_permissions(at("last"), Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(at("data"), Permissions::from_mode(0o777)).unwrap();

    let given = Given::with(|given| {
        given.capabilities = privilege::capabilities(Path::new("/proc/self/status")).unwrap();
        given.user = ResolvedUser {
            uid: 1000,
            gid: 1000,
            additional_gids: vec![10],
        };
        given.volumes = BTreeMap::from([("data".to_owned(), at("data"))]);
        let script = "id; cat /etc/hosts /etc/resolv.conf; echo $FROM $HOSTNAME; echo end >/dev/termination-log; \
            touch /srv/made; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj; \
            grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapEff):' /proc/self/status";
        let container = given.container();
        container.command = ["/bin/sh", "-e", "-c", script].map(str::to_owned).to_vec();
        container.working_dir = Some(PathBuf::from("/"));
        container.mounts = vec![mount("data", "/srv", None, false)];
        container.security.allow_privilege_escalation = false;
    });
    let name = format!("podd-spec-test-{}", std::process::id());
    let mut spec = given.check(|input| {
        let etc = EtcFiles {
            hosts: at("hosts"),
            hostname: at("hostname"),
            resolv_conf: at("resolv.conf"),
            termination_log: at("last"),
        };
        build(&SpecInput {
            etc,
            cgroup_parent: &name,
            ..input.clone()
        })
        .unwrap()
        .spec
    });
    for namespace in spec.linux_mut().as_mut().unwrap().namespaces_mut().iter_mut().flatten() {
        namespace.set_path(None);
    }
    spec.save(at("config.json")).unwrap();

    let runc = std::process::Command::new("runc")
        .args([
            "--root".as_ref(),
            at("state").as_os_str(),
            "run".as_ref(),
            "--bundle".as_ref(),
        ])
        .args([directory.path().as_os_str(), name.as_ref()])
        .output()
        .expect("runc is installed");
    let cgroups = crate::linux::cgroup::Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap();
    // runc has removed its own; what is left in hierarchies that podd does not use goes with the name of the test.
    for hierarchy in cgroups.hierarchies() {
        let _absent = fs::remove_dir(hierarchy.mount_point.join(&name));
    }

    assert_eq!(String::from_utf8(runc.stderr).unwrap(), "");
    let bounding = "CapBnd:\t00000000a80425fb\n";
    assert_eq!(
        String::from_utf8(runc.stdout).unwrap(),
        format!(
            "uid=1000 gid=1000 groups=10,1000\nthis is hosts\nthis is resolv.conf\nimage web\n0\n1000\n\
             CapEff:\t0000000000000000\n{bounding}NoNewPrivs:\t1\nSeccomp:\t2\n"
        )
    );
    assert!(runc.status.success());
    assert_eq!(fs::read_to_string(at("last")).unwrap(), "end\n");
    assert!(at("data/made").exists());
}

#[test]
fn the_same_spec_is_always_the_same_text() {
    let made = || {
        Given::new().check(|input| {
            let built = build(input).unwrap();
            String::from_utf8(text(&built.spec).unwrap()).unwrap()
        })
    };
    let first = made();
    // Sets and maps begin anew in each, in an order of their own.
    for _ in 0..16 {
        assert_eq!(made(), first);
    }
}
