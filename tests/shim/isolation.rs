//! What a container sees, and what it does not.

use podd::shim::protocol::{Reply, RequestBody, WaitStatus};
use serde_json::{Value, json};

use crate::harness::{Sandbox, kill, status_field};

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

#[test]
fn only_the_three_streams_are_open() {
    let mut sandbox = Sandbox::new();
    assert_eq!(
        sandbox.run("web", "exec ls /proc/self/fd"),
        "0\n1\n2\n3\n",
        "3 is the directory that ls reads"
    );
    sandbox.stop();
}

#[test]
fn the_entrypoint_is_the_first_process_of_its_own_namespace() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.run("web", "echo $$ /proc/[0-9]*"), "1 /proc/1\n");
    sandbox.stop();
}

#[test]
fn containers_of_a_pod_share_what_they_should() {
    for share_pid in [false, true] {
        let mut sandbox = Sandbox::with(|config| config.share_pid = share_pid);
        let script = "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done";
        let one = sandbox.run("one", script);
        let two = sandbox.run("two", script);
        let of_infra = |n: &str| {
            std::fs::read_link(format!("/proc/{}/ns/{n}", sandbox.infra))
                .unwrap()
                .into_os_string()
                .into_string()
                .unwrap()
        };
        for (index, (name, shared)) in [("net", true), ("ipc", true), ("uts", true), ("pid", share_pid)]
            .into_iter()
            .enumerate()
        {
            let (a, b) = (one.lines().nth(index).unwrap(), two.lines().nth(index).unwrap());
            assert_eq!(a == of_infra(name), shared, "{name}");
            assert_eq!(a == b, shared, "{name}");
            let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert_ne!(host.to_str().unwrap(), a, "{name}");
        }
        assert_eq!(sandbox.run("name", "hostname"), "web-0\n");
        sandbox.stop();
    }
}

#[test]
fn a_debugger_sees_the_processes_of_its_target() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1234"]), Reply::Done);
    let web = sandbox.pid_of("web", 0);
    let ask = |sandbox: &mut Sandbox, attempt: u32, pid: i32, target: &str| {
        let mut spec = sandbox.spec("debug", attempt, &["sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "pid");
        namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
        let mut start = sandbox.start_of("debug", attempt, &spec);
        start.target = Some(target.to_owned());
        sandbox.connection.ask(RequestBody::Start(Box::new(start)))
    };
    assert_eq!(ask(&mut sandbox, 0, web, "web"), Reply::Done);
    assert_eq!(sandbox.exited("debug", 0), WaitStatus::Code(0));
    assert_eq!(sandbox.output("debug", 0, "stdout"), "sleep 1234 ");
    assert_eq!(sandbox.pid_of("web", 0), web, "its target lives on");
    // A pid that is not, or not any more, the first process of the target.
    let infra = sandbox.infra;
    let refused = Reply::Failed("the target container web does not run".to_owned());
    assert_eq!(ask(&mut sandbox, 1, infra, "web"), refused);
    assert_eq!(sandbox.signal("web", 0, 9, false), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert_eq!(ask(&mut sandbox, 2, web, "web"), refused);
    sandbox.stop();
}

#[test]
fn the_hosts_network_keeps_the_hosts_name() {
    let mut sandbox = Sandbox::with(|config| config.host_network = true);
    let mut spec = sandbox.spec(
        "web",
        0,
        &[
            "sh",
            "-c",
            "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname",
        ],
    );
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "network" && n["type"] != "uts");
    let (_, output) = sandbox.run_spec("web", &spec);
    let host = |n: &str| {
        std::fs::read_link(format!("/proc/self/ns/{n}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(output, format!("{}\n{}\n{name}", host("net"), host("uts")));
    sandbox.stop();
}

#[test]
fn infra_shows_nothing_of_the_host() {
    let sandbox = Sandbox::new();
    let root = format!("/proc/{}/root", sandbox.infra);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    assert_eq!(
        std::fs::write(format!("{root}/x"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    assert_eq!(
        std::fs::read_dir(format!("/proc/{}/fd", sandbox.infra))
            .unwrap()
            .count(),
        0
    );
    let exe = std::fs::read_link(format!("/proc/{}/exe", sandbox.infra)).unwrap();
    assert_eq!(exe.to_str().unwrap(), "/memfd:podd (deleted)");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", sandbox.infra)).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    // The binary in memory cannot be changed even by root.
    let denied = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/exe", sandbox.infra));
    assert!(denied.is_err());
}

#[test]
fn nothing_of_a_container_is_mounted_on_the_host() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(sandbox.home.path().to_str().unwrap()), "{mounts}");
    let inside = std::fs::read_to_string(format!("/proc/{}/mountinfo", sandbox.pid_of("web", 0))).unwrap();
    assert!(
        !inside.contains("/vda") && !inside.contains("ext4"),
        "nothing of the host is left inside: {inside}"
    );
    sandbox.stop();
}

#[test]
fn the_root_can_be_written_and_the_layer_stays_as_it_was() {
    let mut sandbox = Sandbox::new();
    assert_eq!(
        sandbox.run("web", "echo new > /file; rm /etc/passwd; cat /file"),
        "new\n"
    );
    assert_eq!(sandbox.run("other", "cat /file 2>/dev/null; ls /etc"), "passwd\n");
    sandbox.stop();
}

#[test]
fn a_read_only_root_is_read_only_and_volumes_are_not() {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.home.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut spec = sandbox.spec(
        "web",
        0,
        &[
            "sh",
            "-c",
            "touch /x 2>&1; touch /tmp/x 2>&1; echo ok > /data/x; cat /data/x",
        ],
    );
    spec["root"]["readonly"] = true.into();
    add_mount(
        &mut spec,
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"]}),
    );
    let (_, output) = sandbox.run_spec("web", &spec);
    assert_eq!(
        output,
        "touch: /x: Read-only file system\ntouch: /tmp/x: Read-only file system\nok\n"
    );
    assert_eq!(std::fs::read_to_string(volume.join("x")).unwrap(), "ok\n");
    sandbox.stop();
}

#[test]
fn a_read_only_volume_is_read_only() {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.home.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut spec = sandbox.spec(
        "web",
        0,
        &["sh", "-c", "touch /data/x 2>&1; grep ' /data ' /proc/self/mountinfo"],
    );
    let options = json!(["rbind", "ro", "nosuid", "rprivate"]);
    add_mount(
        &mut spec,
        json!({"destination": "/data", "type": "bind", "source": volume, "options": options}),
    );
    let (_, output) = sandbox.run_spec("web", &spec);
    assert!(
        output.starts_with("touch: /data/x: Read-only file system\n"),
        "{output}"
    );
    assert!(output.lines().nth(1).unwrap().contains(" ro,nosuid,"), "{output}");
    sandbox.stop();
}

#[test]
fn a_single_file_can_be_mounted_also_over_a_dangling_link() {
    let mut sandbox = Sandbox::new();
    let file = sandbox.home.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 10.0.0.1\n").unwrap();
    let start = sandbox.spec("web", 0, &["cat", "/etc/resolv.conf"]);
    std::os::unix::fs::symlink(
        "../run/stub/resolv.conf",
        sandbox.home.path().join("layer/etc/resolv.conf"),
    )
    .unwrap();
    let mut spec = start;
    add_mount(
        &mut spec,
        json!({"destination": "/etc/resolv.conf", "type": "bind", "source": file, "options": ["rbind"]}),
    );
    assert_eq!(
        sandbox.run_spec("web", &spec),
        (WaitStatus::Code(0), "nameserver 10.0.0.1\n".to_owned())
    );
    sandbox.stop();
}

#[test]
fn a_mount_target_that_is_a_link_to_the_host_stays_inside() {
    let mut sandbox = Sandbox::new();
    let home = sandbox.home.path().to_owned();
    let canary = home.join("canary");
    std::fs::create_dir(&canary).unwrap();
    let volume = home.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::os::unix::fs::symlink(&canary, home.join("layer/data")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../..", home.join("layer/up")).unwrap();
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", "echo x > /data/sub/x; echo y > /tmp/up/y"]);
    for target in ["/data/sub", "/up/tmp/up"] {
        add_mount(
            &mut spec,
            json!({"destination": target, "type": "bind", "source": volume, "options": ["rbind"]}),
        );
    }
    assert_eq!(sandbox.run_spec("web", &spec).0, WaitStatus::Code(0));
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 2);
    sandbox.stop();
}

#[test]
fn proc_over_a_link_is_refused() {
    let mut sandbox = Sandbox::new();
    let layer = sandbox.home.path().join("layer");
    std::fs::remove_dir(layer.join("proc")).unwrap();
    std::fs::create_dir(layer.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", layer.join("proc")).unwrap();
    let Reply::Failed(message) = sandbox.start("web", 0, &["true"]) else {
        panic!()
    };
    assert_eq!(
        message,
        "mount proc to \"/proc\": destination: too many symbolic links encountered"
    );
    sandbox.stop();
}

#[test]
fn a_sub_path_is_made_and_cannot_leave_the_volume() {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.home.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", "echo x > /data/x"]);
    add_mount(
        &mut spec,
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind"]}),
    );
    assert_eq!(sandbox.start_with_sub_path(&spec, "/data", "a/b"), Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(std::fs::read_to_string(volume.join("a/b/x")).unwrap(), "x\n");
    drop(sandbox);

    let mut sandbox = Sandbox::new();
    let volume = sandbox.home.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
    let mut spec = sandbox.spec("web", 0, &["true"]);
    add_mount(
        &mut spec,
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind"]}),
    );
    let Reply::Failed(message) = sandbox.start_with_sub_path(&spec, "/data", "out") else {
        panic!()
    };
    let text = format!("mount \"out\" of {volume:?} to \"/data\": source: cross-device link");
    assert_eq!(message.to_lowercase(), text.to_lowercase());
    sandbox.stop();
}

#[test]
fn devices_links_and_masks_are_in_place() {
    let mut sandbox = Sandbox::new();
    let script = "exec 2>&1; cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t %T %a' $d; done; \
        for l in fd stdin stdout stderr ptmx; do readlink $l; done; \
        stat -c '%t %T' /proc/keys; ls /sys/firmware | wc -l; \
        echo 1 > /proc/sys/vm/swappiness; touch /sys/x 2>&1; echo hi > /dev/null; echo pts > /dev/shm/x";
    let spec = sandbox.spec("web", 0, &["sh", "-c", script]);
    let (_, output) = sandbox.run_spec("web", &spec);
    let expected = "null character special file 1 3 666\nzero character special file 1 5 666\n\
        full character special file 1 7 666\nrandom character special file 1 8 666\n\
        urandom character special file 1 9 666\ntty character special file 5 0 666\n\
        /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n\
        1 3\n0\nsh: can't create /proc/sys/vm/swappiness: Read-only file system\n";
    assert!(output.starts_with(expected), "{output}");
    assert!(output.contains("touch: /sys/x: Read-only file system"), "{output}");
    sandbox.stop();
}

#[test]
fn an_image_cannot_lay_a_trap_in_dev() {
    let mut sandbox = Sandbox::new();
    let layer = sandbox.home.path().join("layer");
    let canary = sandbox.home.path().join("canary");
    std::fs::write(&canary, "safe").unwrap();
    std::os::unix::fs::symlink(&canary, layer.join("dev/null")).unwrap();
    std::fs::write(layer.join("dev/zero"), "file").unwrap();
    let mut spec = sandbox.spec(
        "web",
        0,
        &["sh", "-c", "echo x > /dev/null; stat -c '%F' /dev/null /dev/zero"],
    );
    // Without a /dev of its own the image's is used.
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    assert_eq!(
        sandbox.run_spec("web", &spec).1,
        "character special file\ncharacter special file\n"
    );
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "safe");
    sandbox.stop();
}

#[test]
fn privileges_are_as_the_spec_says() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.spec("root", 0, &["cat", "/proc/self/status"]);
    let (_, text) = sandbox.run_spec("root", &spec);
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, MKNOD, SETFCAP
    for (field, value) in [
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000880405fb"),
        ("CapEff", "00000000880405fb"),
        ("CapBnd", "00000000880405fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("Groups", ""),
        ("Umask", "0022"),
    ] {
        assert_eq!(status_field(&text, field), value, "{field}");
    }
    assert_eq!(sandbox.run("score", "cat /proc/self/oom_score_adj"), "500\n");

    let mut spec = sandbox.spec(
        "user",
        0,
        &[
            "sh",
            "-c",
            "cat /proc/self/status; id -u; id -G; echo log > /dev/stdout",
        ],
    );
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [2000, 2001], "umask": 0o077});
    spec["process"]["capabilities"]["ambient"] = json!(["CAP_NET_BIND_SERVICE"]);
    spec["process"]["capabilities"]["inheritable"] = json!(["CAP_NET_BIND_SERVICE"]);
    spec["process"]["capabilities"]["effective"] = json!(["CAP_NET_BIND_SERVICE"]);
    spec["process"]["capabilities"]["permitted"] = json!(["CAP_NET_BIND_SERVICE"]);
    spec["process"]["noNewPrivileges"] = false.into();
    let (status, text) = sandbox.run_spec("user", &spec);
    assert_eq!(status, WaitStatus::Code(0), "{}", sandbox.output("user", 0, "stderr"));
    for (field, value) in [
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Gid", "1001\t1001\t1001\t1001"),
        ("Groups", "2000 2001"),
        ("CapEff", "0000000000000400"),
        ("CapAmb", "0000000000000400"),
        ("NoNewPrivs", "0"),
        ("Umask", "0077"),
    ] {
        assert_eq!(status_field(&text, field), value, "{field}");
    }
    assert!(text.ends_with("1000\n1001 2000 2001\nlog\n"), "{text}");

    let mut spec = sandbox.spec("none", 0, &["cat", "/proc/self/status"]);
    spec["process"].as_object_mut().unwrap().remove("capabilities");
    let (_, text) = sandbox.run_spec("none", &spec);
    assert_eq!(status_field(&text, "CapBnd"), "0000000000000000");
    assert_eq!(status_field(&text, "CapEff"), "0000000000000000");
    sandbox.stop();
}

#[test]
fn all_capabilities_means_all_that_the_machine_has() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.spec("web", 0, &["cat", "/proc/self/status"]);
    let all = json!(["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let (status, text) = sandbox.run_spec("web", &spec);
    assert_eq!(status, WaitStatus::Code(0));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = u64::from_str_radix(&status_field(&own, "CapPrm"), 16).unwrap();
    let wanted = (1 << 24 | 1 << 21 | 1 << 12) & own;
    assert_eq!(status_field(&text, "CapEff"), format!("{wanted:016x}"));
    sandbox.stop();
}

#[test]
fn limits_that_cannot_be_raised_are_lowered_to_what_there_is() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", "ulimit -n; ulimit -c"]);
    spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 1_000_000_000_u64, "hard": 1_000_000_000_u64},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    let (status, output) = sandbox.run_spec("web", &spec);
    assert_eq!(status, WaitStatus::Code(0));
    let lines: Vec<u64> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines[0] >= 1024, "{lines:?}");
    assert_eq!(lines[1], 0);
    sandbox.stop();
}

#[test]
fn the_working_directory_is_made_and_stays_inside() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.spec("web", 0, &["pwd"]);
    spec["process"]["cwd"] = "/work/deep".into();
    assert_eq!(
        sandbox.run_spec("web", &spec),
        (WaitStatus::Code(0), "/work/deep\n".to_owned())
    );
    for number in 3..40 {
        let attempt = number;
        let mut spec = sandbox.spec("evil", attempt, &["sh", "-c", "ls ../../../../.. ; pwd"]);
        spec["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
        let reply = sandbox.start_spec("evil", attempt, &spec);
        assert!(
            matches!(&reply, Reply::Failed(message) if message.starts_with("working directory")),
            "{reply:?}"
        );
    }
    sandbox.stop();
}

#[test]
fn a_terminal_is_the_controlling_one_and_its_console() {
    let mut sandbox = Sandbox::new();
    let script = "tty; ls -l /dev/console | cut -c1; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; \
        echo mine > /dev/tty; ls /proc/self/fd | tr '\\n' ' '; ls /dev/pts | tr '\\n' ' '";
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", script]);
    spec["process"]["terminal"] = true.into();
    spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let (status, output) = sandbox.run_spec("web", &spec);
    assert_eq!(status, WaitStatus::Code(0), "{output}");
    assert_eq!(output, "/dev/pts/0\r\nc\r\n33 99\r\nall\r\nmine\r\n0 1 2 3 0 ptmx ");
    sandbox.stop();
}

#[test]
fn the_cgroup_is_the_containers_own_and_goes_with_it() {
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.start("web", 0, &["sleep", "1000"]), Reply::Done);
    let pid = sandbox.pid_of("web", 0);
    let own = format!("/{}", sandbox.cgroup_of("web", 0));
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for controller in ["memory", "pids"] {
        let line = text
            .lines()
            .find(|line| line.split(':').nth(1) == Some(controller))
            .unwrap();
        assert_eq!(line.split(':').nth(2), Some(own.as_str()), "{text}");
    }
    kill(pid);
    sandbox.exited("web", 0);
    let script = "grep -E ':(memory|pids):' /proc/self/cgroup | cut -d: -f3; ls /sys/fs/cgroup/memory | grep -c limit_in_bytes; \
        touch /sys/fs/cgroup/x 2>&1; mkdir /sys/fs/cgroup/memory/x 2>&1; true";
    let output = sandbox.run("look", script);
    assert!(
        output.starts_with("/\n/\n"),
        "its own is the root of what it sees: {output}"
    );
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    sandbox.stop();
}

#[test]
fn without_a_cgroup_namespace_the_own_cgroup_is_mounted() {
    let mut sandbox = Sandbox::new();
    let script = "cat /sys/fs/cgroup/pids/cgroup.procs | wc -l; touch /sys/fs/cgroup/pids/x 2>&1; true";
    let mut spec = sandbox.spec("web", 0, &["sh", "-c", script]);
    spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "cgroup");
    let (status, output) = sandbox.run_spec("web", &spec);
    assert_eq!(status, WaitStatus::Code(0));
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(
        output.starts_with('3') || output.starts_with('2'),
        "only the container's own processes: {output}"
    );
    sandbox.stop();
}

#[test]
fn sysctls_are_set_in_the_pods_namespaces_only() {
    let mut sandbox = Sandbox::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let before = read();
    let mut spec = sandbox.spec(
        "web",
        0,
        &[
            "sh",
            "-c",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
        ],
    );
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1"});
    assert_eq!(sandbox.run_spec("web", &spec).1, "77\n1\n");
    assert_eq!(read(), before);
    let mut spec = sandbox.spec("evil", 0, &["true"]);
    spec["linux"]["sysctl"] = json!({"kernel/../../etc": "1"});
    assert!(matches!(sandbox.start_spec("evil", 0, &spec), Reply::Failed(m) if m.contains("not a plain name")));
    sandbox.stop();
}

#[test]
fn many_layers_are_one_root() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.spec("web", 0, &["sh", "-c", "cat /who; ls /many | wc -l"]);
    let mut start = sandbox.start_of("web", 0, &spec);
    let deep = sandbox
        .home
        .path()
        .join("a-long-name-so-that-all-of-them-do-not-fit-on-one-page".repeat(2));
    let mut lower = Vec::new();
    for number in 0..127 {
        let layer = deep.join(format!("layer-{number}"));
        std::fs::create_dir_all(layer.join("many")).unwrap();
        std::fs::write(layer.join("who"), format!("{number}\n")).unwrap();
        std::fs::write(layer.join(format!("many/{number}")), "").unwrap();
        lower.push(layer);
    }
    lower.append(&mut start.rootfs.lower);
    start.rootfs.lower = lower;
    let reply = sandbox
        .connection
        .ask(podd::shim::protocol::RequestBody::Start(Box::new(start)));
    assert_eq!(reply, Reply::Done);
    assert_eq!(sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(sandbox.output("web", 0, "stdout"), "0\n127\n");
    sandbox.stop();
}

#[test]
fn a_bidirectional_mount_reaches_the_host_and_a_private_one_does_not() {
    let mut sandbox = Sandbox::new();
    let volume = sandbox.home.path().join("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new("mount")
            .args(arguments)
            .arg(&volume)
            .status()
            .unwrap();
        assert!(done.success());
    };
    run(&["-t", "tmpfs", "none"]);
    run(&["--make-shared"]);
    std::fs::create_dir(volume.join("sub")).unwrap();
    let seen = || {
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .matches("volume/sub")
            .count()
    };
    for (container, propagation, expected) in [
        ("private", "rprivate", 0),
        ("slave", "rslave", 0),
        ("shared", "rshared", 1),
    ] {
        let mut spec = sandbox.spec(container, 0, &["sh", "-c", "mount -t tmpfs none /data/sub"]);
        let all = json!(["CAP_SYS_ADMIN"]);
        spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        let options = json!(["rbind", propagation]);
        add_mount(
            &mut spec,
            json!({"destination": "/data", "type": "bind", "source": volume, "options": options}),
        );
        let (status, _) = sandbox.run_spec(container, &spec);
        assert_eq!((status, seen()), (WaitStatus::Code(0), expected), "{propagation}");
    }
    for target in [volume.join("sub"), volume.clone()] {
        assert!(
            std::process::Command::new("umount")
                .arg(target)
                .status()
                .unwrap()
                .success()
        );
    }
    sandbox.stop();
}

#[test]
fn a_seccomp_profile_is_in_force_with_and_without_new_privileges() {
    let mut sandbox = Sandbox::new();
    for (container, no_new_privileges) in [("bound", true), ("free", false)] {
        let mut spec = sandbox.spec(container, 0, &["sh", "-c", "mkdir /x 2>&1; cat /proc/self/status"]);
        spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        let (status, output) = sandbox.run_spec(container, &spec);
        assert_eq!(status, WaitStatus::Code(0));
        assert!(
            output.starts_with("mkdir: can't create directory '/x': Operation not supported\n"),
            "{output}"
        );
        assert_eq!(status_field(&output, "Seccomp"), "2");
        assert_eq!(
            status_field(&output, "NoNewPrivs"),
            if no_new_privileges { "1" } else { "0" }
        );
    }
    sandbox.stop();
}
