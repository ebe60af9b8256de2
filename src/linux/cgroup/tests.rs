#![expect(unsafe_code, reason = "what a child does before exec")]

use std::ffi::CString;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimit,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::*;

/// A directory shaped like a machine's /sys/fs/cgroup.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new(files: &[(&str, &str)]) -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            fake.put(path, text);
        }
        fake
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::detect(self.0.path()).unwrap()
    }

    fn v1() -> Self {
        let fake = Self::new(&[]);
        for name in [
            "cpu,cpuacct",
            "memory",
            "pids",
            "devices",
            "freezer",
            "cpuset",
            "systemd",
            "blkio",
        ] {
            fake.put(&format!("{name}/tasks"), "");
            fake.put(&format!("{name}/cgroup.clone_children"), "0");
        }
        std::os::unix::fs::symlink("cpu,cpuacct", fake.0.path().join("cpu")).unwrap();
        fake
    }

    fn v2() -> Self {
        Self::new(&[
            ("cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
            ("cgroup.subtree_control", "memory\n"),
        ])
    }
}

fn used(cgroups: &Cgroups) -> Vec<&str> {
    cgroups.used().map(|h| h.name.as_str()).collect()
}

fn rule(allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access)
        .build()
        .unwrap();
    rule.set_major(major);
    rule.set_minor(minor);
    rule
}

fn deny_all_but_null() -> Vec<LinuxDeviceCgroup> {
    vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::C, Some(1), Some(3), "rwm"),
        rule(true, LinuxDeviceType::C, Some(1), Some(9), "r"),
    ]
}

fn limits() -> LinuxResources {
    LinuxResourcesBuilder::default()
        .cpu(
            LinuxCpuBuilder::default()
                .shares(512u64)
                .quota(50_000i64)
                .period(100_000u64)
                .build()
                .unwrap(),
        )
        .memory(
            LinuxMemoryBuilder::default()
                .limit(64i64 << 20)
                .swap(64i64 << 20)
                .build()
                .unwrap(),
        )
        .pids(LinuxPidsBuilder::default().limit(17i64).build().unwrap())
        .devices(deny_all_but_null())
        .build()
        .unwrap()
}

#[test]
fn v1_uses_each_hierarchy_once_and_leaves_cpuset_alone() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    assert_eq!(used(&cgroups), ["cpu,cpuacct", "devices", "freezer", "memory", "pids"]);
    let all: Vec<_> = cgroups
        .hierarchies()
        .iter()
        .map(|h| (h.name.as_str(), h.controllers.len(), h.v2))
        .collect();
    assert!(all.contains(&("cpuset", 1, false)), "{all:?}");
    assert!(all.contains(&("systemd", 0, false)), "{all:?}");
    assert!(
        !all.iter().any(|(name, ..)| *name == "cpu"),
        "a link is not a second hierarchy: {all:?}"
    );
}

#[test]
fn hybrid_lets_v1_decide() {
    let fake = Fake::v1();
    fake.put("unified/cgroup.controllers", "hugetlb\n");
    assert!(!used(&fake.cgroups()).contains(&"unified"));
    // A controller that is nowhere else makes the v2 hierarchy worth its cost; v1 still wins where both have one.
    fs::remove_dir_all(fake.0.path().join("pids")).unwrap();
    fake.put("unified/cgroup.controllers", "memory pids\n");
    let cgroups = fake.cgroups();
    assert_eq!(
        used(&cgroups),
        ["cpu,cpuacct", "devices", "freezer", "memory", "unified"]
    );
    assert_eq!(cgroups.controlling("memory").unwrap().name, "memory");
    assert_eq!(cgroups.controlling("pids").unwrap().name, "unified");
}

#[test]
fn nothing_mounted_is_an_error() {
    let fake = Fake::new(&[]);
    assert!(matches!(
        Cgroups::detect(fake.0.path()),
        Err(CgroupError::NoHierarchy { .. })
    ));
    let absent = fake.0.path().join("absent");
    assert!(matches!(Cgroups::detect(&absent), Err(CgroupError::NoHierarchy { .. })));
}

#[test]
fn a_path_cannot_leave_the_hierarchy() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    for path in ["", "/", ".", "..", "podd/../../x", "//podd", "podd/./x/.."] {
        assert!(
            matches!(cgroups.create(path), Err(CgroupError::InvalidPath { .. })),
            "{path:?}"
        );
        assert!(
            matches!(cgroups.remove(path), Err(CgroupError::InvalidPath { .. })),
            "{path:?}"
        );
        assert!(
            matches!(cgroups.kill(path), Err(CgroupError::InvalidPath { .. })),
            "{path:?}"
        );
    }
    cgroups.create("/podd/x").unwrap();
    assert_eq!(cgroups.list("podd").unwrap(), ["x"]);
}

#[test]
fn v1_makes_lists_and_removes_in_every_hierarchy() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    for name in ["a", "b", "a"] {
        cgroups.create(&format!("podd/pod1/{name}")).unwrap();
    }
    fs::remove_dir(fake.0.path().join("memory/podd/pod1/b")).unwrap();
    assert_eq!(cgroups.list("podd/pod1").unwrap(), ["a", "b"]);
    assert!(!fake.0.path().join("cpuset/podd").exists());
    assert!(cgroups.remove("podd").unwrap());
    assert!(cgroups.remove("podd").unwrap(), "absent is removed");
    assert_eq!(cgroups.list("podd").unwrap(), Vec::<String>::new());
    assert!(!fake.0.path().join("pids/podd").exists());
}

#[test]
fn v1_writes_limits_as_the_kernel_reads_them() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    cgroups.create("podd/x").unwrap();
    for file in [
        "cpu,cpuacct/podd/x/cpu.shares",
        "cpu,cpuacct/podd/x/cpu.cfs_period_us",
        "cpu,cpuacct/podd/x/cpu.cfs_quota_us",
        "memory/podd/x/memory.limit_in_bytes",
        "pids/podd/x/pids.max",
        "devices/podd/x/devices.allow",
        "devices/podd/x/devices.deny",
    ] {
        fake.put(file, "");
    }
    cgroups.apply("podd/x", &limits()).unwrap();
    assert_eq!(fake.text("cpu,cpuacct/podd/x/cpu.shares"), "512");
    assert_eq!(fake.text("cpu,cpuacct/podd/x/cpu.cfs_period_us"), "100000");
    assert_eq!(fake.text("cpu,cpuacct/podd/x/cpu.cfs_quota_us"), "50000");
    assert_eq!(fake.text("memory/podd/x/memory.limit_in_bytes"), "67108864");
    assert_eq!(fake.text("pids/podd/x/pids.max"), "17");
    assert_eq!(fake.text("devices/podd/x/devices.deny"), "a");
    // The kernel takes one rule each write; a plain file shows them in a row.
    assert_eq!(fake.text("devices/podd/x/devices.allow"), "c *:* mc 1:3 rwmc 1:9 r");
}

#[test]
fn swap_is_limited_where_the_kernel_counts_it() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    fake.put("memory/x/memory.limit_in_bytes", "");
    let mut resources = LinuxResourcesBuilder::default().build().unwrap();
    resources.set_memory(*limits().memory());
    cgroups.apply("x", &resources).unwrap();
    fake.put("memory/x/memory.memsw.limit_in_bytes", "");
    cgroups.apply("x", &resources).unwrap();
    assert_eq!(fake.text("memory/x/memory.memsw.limit_in_bytes"), "67108864");
}

#[test]
fn huge_pages_are_limited_by_their_size_in_both_layouts() {
    let mut page = LinuxHugepageLimit::default();
    page.set_page_size("2MB".to_owned()).set_limit(4 << 20);
    let mut none = LinuxHugepageLimit::default();
    none.set_page_size("1GB".to_owned()).set_limit(0);
    let mut resources = LinuxResourcesBuilder::default().build().unwrap();
    resources.set_hugepage_limits(Some(vec![page, none]));
    let (v1, v2) = (Fake::v1(), Fake::v2());
    // Without the controller there is nothing to be limited.
    v1.cgroups().apply("x", &resources).unwrap();
    v1.put("hugetlb/tasks", "");
    for (fake, directory, file) in [(&v1, "hugetlb/x", "limit_in_bytes"), (&v2, "x", "max")] {
        for size in ["2MB", "1GB"] {
            fake.put(&format!("{directory}/hugetlb.{size}.{file}"), "");
        }
        fake.put(&format!("{directory}/hugetlb.2MB.rsvd.{file}"), "");
        fake.cgroups().apply("x", &resources).unwrap();
        assert_eq!(fake.text(&format!("{directory}/hugetlb.2MB.{file}")), "4194304");
        assert_eq!(fake.text(&format!("{directory}/hugetlb.2MB.rsvd.{file}")), "4194304");
        assert_eq!(fake.text(&format!("{directory}/hugetlb.1GB.{file}")), "0");
    }
}

#[test]
fn files_of_v2_are_written_by_name_and_only_there() {
    let files = [
        ("memory.oom.group", "1"),
        ("memory.swap.max", "0"),
        ("../memory.max", "1"),
    ];
    let files = files.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut resources = LinuxResourcesBuilder::default().build().unwrap();
    resources.set_unified(Some(files.into()));
    let v2 = Fake::v2();
    v2.put("memory.max", "");
    v2.put("x/memory.oom.group", "");
    v2.cgroups().apply("x", &resources).unwrap();
    assert_eq!(v2.text("x/memory.oom.group"), "1");
    assert_eq!(v2.text("memory.max"), "", "it is not the cgroup's own");
    Fake::v1().cgroups().apply("x", &resources).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    let error = cgroups.apply("podd/x", &limits()).unwrap_err();
    assert!(error.to_string().contains("podd/x/cpu.shares"), "{error}");
    let error = cgroups.entry("podd/x").unwrap_err();
    assert!(error.to_string().contains("podd/x/tasks"), "{error}");
}

#[test]
fn v2_enables_what_is_there_in_every_ancestor() {
    let fake = Fake::v2();
    let cgroups = fake.cgroups();
    fake.put("podd/cgroup.subtree_control", "cpu memory pids cpuset hugetlb\n");
    fake.put("podd/burstable/cgroup.subtree_control", "");
    cgroups.create("podd/burstable/x").unwrap();
    assert_eq!(fake.text("cgroup.subtree_control"), "+cpu +pids +cpuset +hugetlb");
    assert_eq!(
        fake.text("podd/cgroup.subtree_control"),
        "cpu memory pids cpuset hugetlb\n"
    );
    assert_eq!(
        fake.text("podd/burstable/cgroup.subtree_control"),
        "+cpu +memory +pids +cpuset +hugetlb"
    );
    assert!(!fake.0.path().join("podd/burstable/x/cgroup.subtree_control").exists());
}

#[test]
fn v2_writes_limits_as_the_kernel_reads_them() {
    let fake = Fake::v2();
    let cgroups = fake.cgroups();
    for file in ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "pids.max"] {
        fake.put(&format!("x/{file}"), "");
    }
    let mut resources = limits();
    resources.set_devices(None);
    cgroups.apply("x", &resources).unwrap();
    assert_eq!(fake.text("x/cpu.weight"), "59");
    assert_eq!(fake.text("x/cpu.max"), "50000 100000");
    assert_eq!(fake.text("x/memory.max"), "67108864");
    assert_eq!(fake.text("x/memory.swap.max"), "0");
    assert_eq!(fake.text("x/pids.max"), "17");
}

#[test]
fn limits_and_use_are_read_in_both_layouts() {
    let v1 = Fake::v1();
    for (file, text) in [
        ("cpu,cpuacct/pod/cpu.cfs_quota_us", "25000\n"),
        ("cpu,cpuacct/pod/cpu.cfs_period_us", "50000\n"),
        ("memory/pod/memory.limit_in_bytes", "4096\n"),
        ("memory/pod/memory.usage_in_bytes", "1234\n"),
        ("cpu,cpuacct/free/cpu.cfs_quota_us", "-1\n"),
        ("cpu,cpuacct/free/cpu.cfs_period_us", "100000\n"),
        ("memory/free/memory.limit_in_bytes", "9223372036854771712\n"),
    ] {
        v1.put(file, text);
    }
    let v2 = Fake::v2();
    for (file, text) in [
        ("pod/cpu.max", "25000 50000\n"),
        ("pod/memory.max", "4096\n"),
        ("pod/memory.current", "1234\n"),
        ("free/cpu.max", "max 100000\n"),
        ("free/memory.max", "max\n"),
    ] {
        v2.put(file, text);
    }
    for cgroups in [v1.cgroups(), v2.cgroups()] {
        let limited = Limits {
            cpu_quota: Some(50_000),
            memory: Some(4096),
        };
        let free = Limits {
            cpu_quota: None,
            memory: None,
        };
        assert_eq!(cgroups.limits("pod").unwrap(), limited);
        assert_eq!(cgroups.memory_usage("pod").unwrap(), Some(1234));
        assert_eq!(cgroups.limits("free").unwrap(), free);
        assert!(matches!(cgroups.limits("gone"), Err(CgroupError::Read { .. })));
    }
}

#[test]
fn shares_become_weights_as_in_runc() {
    // From the table of opencontainers/cgroups' own test.
    let cases = [
        (0, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (1023, 100),
        (1024, 100),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ];
    for (shares, weight) in cases {
        assert_eq!(resources::weight(shares), weight, "{shares}");
    }
}

#[test]
fn oom_kills_are_read_in_both_layouts() {
    let fake = Fake::v1();
    fake.put(
        "memory/x/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    );
    assert_eq!(fake.cgroups().oom_kills("x").unwrap(), 3);
    assert!(fake.cgroups().oom_kills("y").is_err());
    let fake = Fake::v2();
    fake.put(
        "x/memory.events",
        "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n",
    );
    assert_eq!(fake.cgroups().oom_kills("x").unwrap(), 2);
}

#[test]
fn v2_kills_with_one_write() {
    let fake = Fake::v2();
    fake.put("x/cgroup.procs", "0\n999999999\n");
    fake.put("x/y/cgroup.procs", "999999998\n");
    fake.put("x/cgroup.kill", "");
    assert_eq!(fake.cgroups().pids("x").unwrap(), [999_999_998, 999_999_999]);
    assert_eq!(fake.cgroups().kill("x").unwrap(), 2);
    assert_eq!(fake.text("x/cgroup.kill"), "1");
    assert_eq!(fake.cgroups().kill("absent").unwrap(), 0);
}

/// What the kernel would do with the few instructions the compiler uses.
fn decide(program: &[device_filter::Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    use device_filter as f;
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0i64; 6];
    let mut at = 0usize;
    loop {
        let line = program[at];
        at += 1;
        let (to, from) = (usize::from(line.registers & 15), usize::from(line.registers >> 4));
        let jump = match line.code {
            f::LOAD_WORD => {
                assert_eq!(from, 1, "only the context is read");
                registers[to] = i64::from(context[usize::try_from(line.offset / 4).unwrap()]);
                false
            }
            f::MOVE => {
                registers[to] = i64::from(line.immediate);
                false
            }
            f::MOVE_REGISTER => {
                registers[to] = registers[from];
                false
            }
            f::AND => {
                registers[to] &= i64::from(line.immediate);
                false
            }
            f::SHIFT_RIGHT => {
                registers[to] >>= line.immediate;
                false
            }
            f::JUMP_IF_EQUAL => registers[to] == i64::from(line.immediate),
            f::JUMP_IF_NOT => registers[to] != i64::from(line.immediate),
            f::EXIT => return registers[0] == 1,
            code => panic!("instruction {code:#x}"),
        };
        if jump {
            at += usize::try_from(line.offset).unwrap();
        }
    }
}

#[test]
fn the_device_program_lets_the_last_matching_rule_decide() {
    let program = device_filter::compile(&deny_all_but_null());
    let (block, character) = (1, 2);
    let (mknod, read, write) = (1, 2, 4);
    for (kind, access, major, minor, allowed) in [
        (character, read | write, 1, 3, true),
        (character, mknod, 1, 3, true),
        (character, read, 1, 9, true),
        (character, read | write, 1, 9, false),
        (character, mknod, 10, 200, true),
        (character, mknod | read, 10, 200, false),
        (character, read, 1, 5, false),
        (block, read, 1, 3, false),
        (block, mknod, 8, 0, false),
    ] {
        assert_eq!(
            decide(&program, kind, access, major, minor),
            allowed,
            "{kind} {access} {major}:{minor}"
        );
    }
    let everything = device_filter::compile(&[rule(true, LinuxDeviceType::A, None, None, "rwm")]);
    assert!(decide(&everything, block, read | write, 8, 0));
    let but_write = device_filter::compile(&[rule(false, LinuxDeviceType::B, Some(8), None, "w")]);
    assert!(decide(&but_write, block, read, 8, 1));
    assert!(!decide(&but_write, block, read | write, 8, 1));
    assert!(decide(&but_write, block, write, 9, 1));
}

// From here on: the machine's own hierarchies.

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of the machine, with a name of its own, that is killed and removed when dropped.
struct Real {
    cgroups: Cgroups,
    path: String,
}

impl Real {
    fn new(cgroups: Cgroups) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = format!(
            "podd-cgroup-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        cgroups.create(&path).unwrap();
        Self { cgroups, path }
    }

    fn machine() -> Self {
        Self::new(Cgroups::detect(Path::new(ROOT)).unwrap())
    }

    fn apply(&self, resources: &LinuxResources) {
        self.cgroups.apply(&self.path, resources).unwrap();
    }

    /// A shell that enters the cgroup as a container's first process does, before it is executed.
    fn shell(&self, path: &str, script: &str) -> Child {
        Self::shell_in(self.cgroups.entry(path).unwrap(), script)
    }

    fn shell_in(entry: Entry, script: &str) -> Child {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let directory = entry.directory.as_ref().map(|directory| {
            let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).unwrap();
            CString::new(path.join("cgroup.procs").into_os_string().into_encoded_bytes()).unwrap()
        });
        // SAFETY: between fork and exec only write(2), open(2) and close(2) are called, on what exists already.
        unsafe {
            command.pre_exec(move || {
                for tasks in &entry.tasks {
                    if libc::write(tasks.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                // A test waits for RCU gladly: Command cannot clone3.
                if let Some(directory) = &directory {
                    let file = libc::open(directory.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                    if file < 0 || libc::write(file, b"0".as_ptr().cast(), 1) != 1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        command.spawn().unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // Dying processes leave within moments; every try makes the kernel look again.
        for _ in 0..100_000 {
            let _signalled = self.cgroups.kill(&self.path);
            if self.cgroups.remove(&self.path).unwrap_or(true) {
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn output(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat();
    (output.status.code(), text)
}

#[test]
fn a_process_enters_is_seen_killed_and_its_cgroup_removed() {
    let real = Real::machine();
    let inner = format!("{}/pod/web-0", real.path);
    real.cgroups.create(&inner).unwrap();
    let mut child = real.shell(&inner, "sleep 1000 & sleep 1000 & echo started; wait");
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "started\n");
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for hierarchy in real.cgroups.used().filter(|h| !h.v2) {
        let wanted = format!(":{}:/{inner}", hierarchy.name);
        assert!(
            membership.lines().any(|line| line.ends_with(&wanted)),
            "{wanted} in {membership}"
        );
    }
    let pids = real.cgroups.pids(&real.path).unwrap();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&i32::try_from(child.id()).unwrap()));
    assert!(!real.cgroups.remove(&real.path).unwrap(), "busy");
    assert_eq!(real.cgroups.list(&real.path).unwrap(), ["pod"]);
    assert_eq!(real.cgroups.kill(&real.path).unwrap(), 3);
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
        Some(9)
    );
    while !real.cgroups.remove(&real.path).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(real.cgroups.kill(&real.path).unwrap(), 0, "absent: nothing to kill");
    assert_eq!(real.cgroups.pids(&real.path).unwrap(), Vec::<i32>::new());
}

#[test]
fn a_fork_bomb_stays_in_its_limit_and_dies() {
    let real = Real::machine();
    real.apply(
        &LinuxResourcesBuilder::default()
            .pids(LinuxPidsBuilder::default().limit(40i64).build().unwrap())
            .build()
            .unwrap(),
    );
    // The shells may end by themselves where they cannot fork; the sleep does not.
    let mut child = real.shell(
        &real.path,
        "sleep 1000 & echo started; b() { b | b & }; while :; do b; done 2>/dev/null",
    );
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert!(real.cgroups.pids(&real.path).unwrap().len() <= 40);
    assert!(real.cgroups.kill(&real.path).unwrap() >= 1);
    child.wait().unwrap();
    while !real.cgroups.remove(&real.path).unwrap() {
        std::thread::yield_now();
    }
}

#[test]
fn limits_hold_on_this_machine() {
    let real = Real::machine();
    let mut resources = limits();
    resources.set_pids(None);
    real.apply(&resources);
    real.apply(&resources);
    let script = ": >/dev/null && head -c1 /dev/urandom >/dev/null && echo good; : >/dev/zero || :; : </dev/zero";
    let (code, text) = output(real.shell(&real.path, script));
    assert!(text.contains("good\n"), "{text}");
    assert!(text.contains("/dev/zero"), "{text}");
    assert_ne!(code, Some(0), "/dev/zero is not in the list");
    assert_eq!(real.cgroups.oom_kills(&real.path).unwrap(), 0);
    // 64 MiB may be had; a string of 128 MiB may not.
    let (code, text) = output(real.shell(&real.path, "x=$(yes | head -c 134217728); echo $?"));
    assert!(code != Some(0) || text.trim() != "0", "{code:?} {text}");
    assert_eq!(real.cgroups.oom_kills(&real.path).unwrap(), 1);
}

#[test]
fn who_joins_a_cgroup_can_be_killed_alone() {
    for root in [ROOT.to_owned(), format!("{ROOT}/unified")] {
        // On a machine with v2 alone the first of them is it.
        let Ok(cgroups) = Cgroups::detect(Path::new(&root)) else {
            continue;
        };
        let real = Real::new(cgroups);
        let mut first = real.shell(&real.path, "read go; exit 3");
        let entry = real.cgroups.create_within(&real.path, "inner").unwrap();
        let again = real.cgroups.create_within(&real.path, "inner").unwrap_err();
        assert!(matches!(again, CgroupError::Create { .. }), "{again}");
        let mut joined = Real::shell_in(entry, "setsid sleep 1000 & echo go; sleep 1001");
        let mut word = [0; 3];
        io::Read::read_exact(joined.stdout.as_mut().unwrap(), &mut word).unwrap();
        let inner = format!("{}/inner", real.path);
        assert!(real.cgroups.pids(&inner).unwrap().len() > 1);
        assert!(real.cgroups.pids(&real.path).unwrap().len() > 2);
        assert!(!real.cgroups.remove(&inner).unwrap());
        assert!(real.cgroups.kill(&inner).unwrap() > 1);
        let (code, _) = output(joined);
        assert_eq!(code, None, "killed");
        while !real.cgroups.remove(&inner).unwrap() {
            std::thread::yield_now();
        }
        first.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(output(first).0, Some(3), "it was left alone");
    }
}

#[test]
fn v1_marks_who_joins_in_the_freezer_alone() {
    let fake = Fake::v1();
    let cgroups = fake.cgroups();
    cgroups.create("podd/x").unwrap();
    for name in ["cpu,cpuacct", "devices", "memory", "pids", "freezer"] {
        fake.put(&format!("{name}/podd/x/tasks"), "");
    }
    // A directory of this file system has no `tasks` of its own.
    let error = cgroups.create_within("podd/x", "y").unwrap_err();
    assert!(
        matches!(&error, CgroupError::Open { path, .. } if path.ends_with("freezer/podd/x/y/tasks")),
        "{error}"
    );
    assert!(!fake.0.path().join("freezer/podd/x/y").exists(), "it is taken back");
    assert!(!fake.0.path().join("memory/podd/x/y").exists());
}

#[test]
fn the_device_program_holds_in_v2() {
    // Beside v1 controllers the v2 hierarchy is there as well, and the kernel knows device programs in it.
    let unified = [ROOT.to_owned(), format!("{ROOT}/unified")]
        .into_iter()
        .find(|path| Path::new(path).join("cgroup.controllers").exists())
        .expect("a v2 hierarchy");
    let real = Real::new(Cgroups::detect(Path::new(&unified)).unwrap());
    let resources = LinuxResourcesBuilder::default()
        .devices(deny_all_but_null())
        .build()
        .unwrap();
    real.apply(&resources);
    real.apply(&resources);
    let script =
        "read go; : >/dev/null && head -c1 /dev/urandom >/dev/null && echo good; (: </dev/zero); (: >/dev/urandom); :";
    let mut child = real.shell(&real.path, script);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let (_, text) = output(child);
    assert!(text.contains("good\n"), "{text}");
    assert!(text.contains("/dev/zero: Operation not permitted"), "{text}");
    assert!(text.contains("/dev/urandom: Operation not permitted"), "{text}");
    // No rules of ours but everything: as a privileged container has it.
    let all = vec![rule(true, LinuxDeviceType::A, None, None, "rwm")];
    real.apply(&LinuxResourcesBuilder::default().devices(all).build().unwrap());
    assert_eq!(output(real.shell(&real.path, ": </dev/zero")), (Some(0), String::new()));
}
