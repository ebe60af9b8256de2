//! The seccomp profile `RuntimeDefault`: what a container may ask of the kernel unless its pod says otherwise.
//!
//! Goes in: the container's bounding capabilities. Comes out: an OCI profile. Everything that is not named is refused
//! with `EPERM`. It allows what containerd 2 and moby allow by default, so that images behave here as they do there.
//!
//! Refused on purpose, with or without any capability: kernel keyrings (`keyctl`, `add_key`, `request_key`: not
//! namespaced), `userfaultfd` and `io_uring` (attack surface), `kexec`, swap, `pivot_root`, moving other processes'
//! pages, `AF_VSOCK` sockets (they reach the hypervisor past the network namespace) and `AF_ALG` sockets
//! (CVE-2026-31431: a write into the page cache, and so into other containers' files).

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// What every container may call. Names without a number on the machine's architecture are skipped by the compiler.
#[rustfmt::skip]
const EVERYONE: &[&str] = &[
    // Files by path and by directory.
    "access", "chdir", "chmod", "chown", "chown32", "creat", "faccessat", "faccessat2", "fchdir", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchown32", "fchownat", "file_getattr", "file_setattr", "fstat", "fstat64", "fstatat64",
    "fstatfs", "fstatfs64", "futimesat", "getcwd", "getdents", "getdents64", "lchown", "lchown32", "link", "linkat",
    "listmount", "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open",
    "openat", "openat2", "readdir", "readlink", "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat",
    "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "truncate", "truncate64", "umask",
    "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    // Extended attributes.
    "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
    "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat",
    // Descriptors: reading, writing, waiting.
    "_llseek", "_newselect", "cachestat", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fcntl",
    "fcntl64", "fdatasync", "flock", "fsync", "ftruncate", "ftruncate64", "inotify_add_watch", "inotify_init",
    "inotify_init1", "inotify_rm_watch", "ioctl", "lseek", "memfd_create", "memfd_secret", "pipe", "pipe2", "poll",
    "ppoll", "ppoll_time64", "pread64", "preadv", "preadv2", "pselect6", "pselect6_time64", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readv", "select", "sendfile", "sendfile64", "signalfd", "signalfd4", "splice",
    "sync", "sync_file_range", "sync_file_range2", "syncfs", "tee", "vmsplice", "write", "writev",
    // Asynchronous input and output of the old kind.
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
    "ioprio_get", "ioprio_set",
    // Memory.
    "brk", "madvise", "map_shadow_stack", "membarrier", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2",
    "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "process_mrelease", "remap_file_pages",
    // Processes, threads and their identity.
    "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list", "get_thread_area",
    "getcpu", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresgid32", "getresuid", "getresuid32",
    "getrlimit", "getrusage", "getsid", "gettid", "getuid", "getuid32", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lsm_get_self_attr", "lsm_list_modules", "pause", "pidfd_open", "pidfd_send_signal",
    "prctl", "prlimit64", "restart_syscall", "rseq", "seccomp", "set_robust_list", "set_thread_area", "set_tid_address",
    "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setpgid",
    "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "setsid", "setuid", "setuid32", "sysinfo", "times", "ugetrlimit", "uname", "vfork",
    "wait4", "waitid", "waitpid",
    // Tracing: safe since Linux 4.8, where a tracer can no longer get round the filter; yama and the pid namespace hold.
    "process_vm_readv", "process_vm_writev", "ptrace",
    // Scheduling.
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield",
    // Signals.
    "kill", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaction", "sigaltstack", "signal",
    "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "tgkill", "tkill",
    // Time.
    "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
    "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep",
    "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64",
    "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64",
    // Locks, message queues, semaphores and shared memory.
    "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "ipc", "mq_getsetattr",
    "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64",
    "shmat", "shmctl", "shmdt", "shmget",
    // Sockets; `socket` itself has a rule about its family below.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom",
    "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown",
    "socketpair",
    // Randomness.
    "getrandom",
];

/// What belongs to one kind of processor.
const X86: &[&str] = &["arch_prctl", "modify_ldt", "uretprobe"];
const ARM: &[&str] = &[
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "set_tls",
];

/// What a capability opens, when the container has it.
#[rustfmt::skip]
const BY_CAPABILITY: &[(Capability, &[&str])] = &[
    (
        Capability::SysAdmin,
        &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
            "mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "quotactl",
            "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
        ],
    ),
    (Capability::Bpf, &["bpf"]),
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::Perfmon, &["perf_event_open"]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (
        Capability::SysModule,
        &["delete_module", "finit_module", "init_module", "query_module"],
    ),
    (
        Capability::SysNice,
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (
        Capability::SysTime,
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::Syslog, &["syslog"]),
];

/// Personalities that change nothing about security: Linux, 32-bit Linux, each with `UNAME26`, and asking which it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET` (sched.h).
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// Socket families from here on are named one by one (socket.h).
const AF_ALG: u64 = 38;
/// `AF_NFC`, then `AF_KCM` to `AF_MCTP`: all there are but `AF_ALG` (38) and `AF_VSOCK` (40). Anything greater is refused, for
/// the kernel cuts the family to 32 bits: one with a higher bit set would pass as "not 38" and be 38 all the same.
const LATER_FAMILIES: [u64; 6] = [39, 41, 42, 43, 44, 45];

/// The profile for a container with these capabilities in its bounding set.
pub fn runtime_default(capabilities: &[Capability]) -> LinuxSeccomp {
    let mut syscalls = vec![allow(EVERYONE, Vec::new())];
    let architectures = if cfg!(target_arch = "aarch64") {
        syscalls.push(allow(ARM, Vec::new()));
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        syscalls.push(allow(X86, Vec::new()));
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    };
    for personality in PERSONALITIES {
        syscalls.push(allow(
            &["personality"],
            vec![argument(0, LinuxSeccompOperator::ScmpCmpEq, personality, None)],
        ));
    }
    syscalls.push(allow(
        &["socket"],
        vec![argument(0, LinuxSeccompOperator::ScmpCmpLt, AF_ALG, None)],
    ));
    for family in LATER_FAMILIES {
        syscalls.push(allow(
            &["socket"],
            vec![argument(0, LinuxSeccompOperator::ScmpCmpEq, family, None)],
        ));
    }
    // 32-bit programs of before Linux 4.3 made sockets through this one, whose family lies in memory.
    syscalls.push(refuse("socketcall", ENOSYS));
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            syscalls.push(allow(names, Vec::new()));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let no_namespace = argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0));
        syscalls.push(allow(&["clone"], vec![no_namespace]));
        // Its flags lie in memory, where no filter can look. C libraries fall back to clone on ENOSYS, not on EPERM.
        syscalls.push(refuse("clone3", ENOSYS));
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(architectures));
    profile.set_syscalls(Some(syscalls));
    profile
}

fn allow(names: &[&str], arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule.set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

fn refuse(name: &str, errno: u32) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.to_owned()]);
    rule.set_action(LinuxSeccompAction::ScmpActErrno);
    rule.set_errno_ret(Some(errno));
    rule
}

fn argument(index: usize, operator: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default().index(index).op(operator).value(value);
    let argument = value_two.into_iter().fold(argument, LinuxSeccompArgBuilder::value_two);
    argument.build().expect("every field of an argument has a default")
}
