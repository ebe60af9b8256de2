use super::*;
use oci_spec::runtime::{LinuxDeviceBuilder, MountBuilder, ProcessBuilder};
use serde_json::{Value, json};

fn process(args: &[&str], env: &[&str]) -> Process {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    ProcessBuilder::default()
        .args(owned(args))
        .env(owned(env))
        .cwd("/")
        .build()
        .unwrap()
}

fn candidates(args: &[&str], env: &[&str]) -> Vec<String> {
    let exec = exec(&process(args, env)).unwrap();
    exec.candidates
        .iter()
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_name_is_searched_along_the_containers_path() {
    assert_eq!(candidates(&["sh"], &["PATH=/a:/b"]), ["/a/sh", "/b/sh"]);
    assert_eq!(candidates(&["sh"], &["PATH=:/b"]), ["./sh", "/b/sh"]);
    assert_eq!(candidates(&["sh"], &["PATH=/a", "PATH=/last"]), ["/last/sh"]);
    assert_eq!(candidates(&["sh"], &[]).len(), 6);
    assert_eq!(candidates(&["./sh"], &["PATH=/a"]), ["./sh"]);
    assert_eq!(candidates(&["/bin/sh"], &["PATH=/a"]), ["/bin/sh"]);
    assert!(candidates(&[""], &["PATH=/a"]).is_empty());
}

#[test]
fn arguments_with_a_nul_are_refused() {
    assert!(matches!(exec(&process(&["a\0b"], &[])), Err(PrepareError::Nul { .. })));
    assert!(matches!(
        exec(&process(&[], &[])),
        Err(PrepareError::Missing { field: "process.args" })
    ));
}

#[test]
fn sysctl_names_cannot_climb() {
    let one = |name: &str| sysctls(Some(&HashMap::from([(name.to_owned(), "1".to_owned())])));
    assert_eq!(
        one("net.ipv4.ip_forward").unwrap()[0].path.to_str(),
        Ok("/proc/sys/net/ipv4/ip_forward")
    );
    assert_eq!(
        one("net/ipv4/conf/eth0.1/x").unwrap()[0].path.to_str(),
        Ok("/proc/sys/net/ipv4/conf/eth0.1/x")
    );
    for bad in ["", "..", "net..x", "/net", "net/../../x", "net.ipv4.x+y=z", "a b"] {
        assert!(matches!(one(bad), Err(PrepareError::Sysctl { .. })), "{bad}");
    }
}

#[test]
fn owners_of_new_file_systems_are_counted_as_the_machine_counts() {
    assert_eq!(
        owned_by("mode=0620,gid=5,uid=1", 65_536),
        "mode=0620,gid=65541,uid=65537"
    );
    assert_eq!(owned_by("gid=5,size=64k", 0), "gid=5,size=64k");
    assert_eq!(owned_by("", 65_536), "");
}

#[test]
fn a_user_namespace_has_one_range_of_ids() {
    let of = |uids: Value, gids: Value| {
        let spec = json!({"ociVersion": "1.2.0", "linux": {"uidMappings": uids, "gidMappings": gids}});
        first_id(&serde_json::from_value::<Spec>(spec).unwrap())
    };
    let one = json!([{"containerID": 0, "hostID": 131_072, "size": 65_536}]);
    let other = json!([{"containerID": 0, "hostID": 65_536, "size": 65_536}]);
    let inner = json!([{"containerID": 1, "hostID": 131_072, "size": 65_536}]);
    let two = json!([one[0], other[0]]);
    assert_eq!(of(one.clone(), one.clone()).unwrap(), Some(131_072));
    assert_eq!(of(json!([]), json!([])).unwrap(), None);
    for (uids, gids) in [
        (one.clone(), other),
        (one, json!([])),
        (inner.clone(), inner),
        (two.clone(), two),
    ] {
        assert!(matches!(of(uids, gids), Err(PrepareError::UserNamespace)));
    }
}

#[test]
fn sub_paths_are_plain_and_relative() {
    let of = |path: &str| sub_path(Path::new("/data"), Path::new(path));
    assert_eq!(of("a/./b").unwrap().to_str(), Ok("a/./b"));
    for bad in ["", "/etc", "..", "a/../b"] {
        assert!(matches!(of(bad), Err(PrepareError::SubPath { .. })), "{bad}");
    }
}

fn hierarchy(name: &str, controllers: &[&str], v2: bool) -> Hierarchy {
    Hierarchy {
        name: name.to_owned(),
        controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
        mount_point: Path::new("/sys/fs/cgroup").join(name),
        v2,
        used: true,
    }
}

fn cgroups(hierarchies: &[Hierarchy], own_namespace: bool) -> (Vec<String>, Vec<String>) {
    let mount = MountBuilder::default()
        .destination("/sys/fs/cgroup")
        .typ("cgroup")
        .options(vec!["ro".to_owned(), "nosuid".to_owned()])
        .build()
        .unwrap();
    let (mut mounts, mut links) = (Vec::new(), Vec::new());
    cgroup_mounts(
        &mount,
        hierarchies,
        "/podd/pod1/web-0",
        own_namespace,
        &mut mounts,
        &mut links,
    )
    .unwrap();
    let text = |mount: &Mount| {
        let destination = mount.destination.to_str().unwrap();
        match &mount.what {
            What::Bind { source, .. } => format!("{destination} bind {}", source.to_str().unwrap()),
            What::New { kind, data, .. } => {
                format!("{destination} {} {}", kind.to_str().unwrap(), data.to_str().unwrap())
            }
        }
    };
    let link = |link: &Link| format!("{} -> {}", link.name.to_str().unwrap(), link.target.to_str().unwrap());
    (mounts.iter().map(text).collect(), links.iter().map(link).collect())
}

#[test]
fn one_hierarchy_of_version_2_is_mounted_itself() {
    let v2 = [hierarchy("", &["cpu", "memory"], true)];
    assert_eq!(cgroups(&v2, true).0, ["/sys/fs/cgroup cgroup2 "]);
    assert_eq!(
        cgroups(&v2, false).0,
        ["/sys/fs/cgroup bind /sys/fs/cgroup/podd/pod1/web-0"]
    );
}

#[test]
fn hierarchies_of_version_1_lie_beneath_a_tmpfs_with_links_for_those_mounted_together() {
    let v1 = [
        hierarchy("cpu,cpuacct", &["cpu", "cpuacct"], false),
        hierarchy("memory", &["memory"], false),
    ];
    let (mounts, links) = cgroups(&v1, true);
    assert_eq!(
        mounts,
        [
            "/sys/fs/cgroup tmpfs mode=755",
            "/sys/fs/cgroup/cpu,cpuacct cgroup cpu,cpuacct",
            "/sys/fs/cgroup/memory cgroup memory",
        ]
    );
    assert_eq!(links, ["cpu -> cpu,cpuacct", "cpuacct -> cpu,cpuacct"]);
    let (mounts, _) = cgroups(&v1, false);
    assert_eq!(
        mounts[2],
        "/sys/fs/cgroup/memory bind /sys/fs/cgroup/memory/podd/pod1/web-0"
    );
}

#[test]
fn devices_of_the_spec_take_the_place_of_the_default_ones() {
    let null = LinuxDeviceBuilder::default()
        .path("/dev/null")
        .typ(LinuxDeviceType::C)
        .major(1)
        .minor(3)
        .file_mode(0o600_u32)
        .build()
        .unwrap();
    let (devices, links) = devices(std::slice::from_ref(&null)).unwrap();
    assert_eq!(devices.len(), 6);
    assert_eq!(devices.last().unwrap().mode, libc::S_IFCHR | 0o600);
    assert!(links.iter().any(|link| link.name.as_c_str() == c"ptmx"));
    let wrong = LinuxDeviceBuilder::default()
        .path("/dev/x")
        .typ(LinuxDeviceType::A)
        .major(1)
        .minor(3);
    assert!(matches!(
        plan_device(&wrong.build().unwrap()),
        Err(PrepareError::Device { .. })
    ));
}

#[test]
fn a_bind_mount_without_a_word_about_propagation_is_private() {
    let mount = MountBuilder::default()
        .destination("/data")
        .source("/volume")
        .typ("bind")
        .options(vec!["rbind".to_owned()])
        .build()
        .unwrap();
    let planned = plan_mount(&mount, &HashMap::new(), 0).unwrap();
    assert_eq!(planned.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
    let relative = MountBuilder::default()
        .destination("data")
        .source("/volume")
        .typ("bind")
        .build()
        .unwrap();
    assert!(matches!(
        plan_mount(&relative, &HashMap::new(), 0),
        Err(PrepareError::NotAbsolute { .. })
    ));
}
