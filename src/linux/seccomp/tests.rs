use std::ptr;

use oci_spec::runtime::{Capability, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder};
use proptest::prelude::*;

use super::*;
use crate::runtime::spec::seccomp::runtime_default;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = RETURN_ERRNO + 1;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;

/// The capabilities of an ordinary container.
const ORDINARY: [Capability; 3] = [Capability::Chown, Capability::SysChroot, Capability::Kill];

#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

/// What the kernel does with a classic BPF program, and how many instructions that took.
fn run(program: &Program, call: Call) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(call.number.to_le_bytes());
    data.extend(call.arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    data.extend(call.arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut at, mut accumulator) = (0usize, 0u32);
    for steps in 1.. {
        let line = program.instructions[at];
        at += 1;
        let jump = match line.code {
            LOAD => {
                let offset = usize::try_from(line.operand).unwrap();
                assert_eq!(offset % 4, 0);
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                continue;
            }
            AND => {
                accumulator &= line.operand;
                continue;
            }
            JUMP => {
                at += usize::try_from(line.operand).unwrap();
                continue;
            }
            RETURN => return (line.operand, steps),
            JUMP_IF_EQUAL => accumulator == line.operand,
            JUMP_IF_GREATER => accumulator > line.operand,
            JUMP_IF_AT_LEAST => accumulator >= line.operand,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if jump { line.jump_true } else { line.jump_false });
    }
    unreachable!()
}

fn holds(argument: &LinuxSeccompArg, call: Call) -> bool {
    let (given, value) = (call.arguments[argument.index()], argument.value());
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => given != value,
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpEq => given == value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => given & value == argument.value_two().unwrap_or(0),
    }
}

/// A profile read rule by rule, without a tree, ranges or halves of numbers.
struct Oracle<'a> {
    default: u32,
    greatest: Option<u32>,
    by_number: HashMap<u32, Vec<(&'a LinuxSyscall, u32)>>,
}

impl<'a> Oracle<'a> {
    fn new(profile: &'a LinuxSeccomp, table: &'static str) -> Self {
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        let numbers: HashMap<&str, u32> = table::entries(table).collect();
        let mut by_number: HashMap<u32, Vec<_>> = HashMap::new();
        for rule in profile.syscalls().iter().flatten() {
            let action = rule.action().as_u32(rule.errno_ret());
            let mut named: Vec<u32> = rule
                .names()
                .iter()
                .filter_map(|name| numbers.get(name.as_str()))
                .copied()
                .collect();
            named.sort_unstable();
            named.dedup();
            for number in named.into_iter().filter(|_| action != default) {
                by_number.entry(number).or_default().push((rule, action));
            }
        }
        let permissive = [0x7fff_0000, 0x7ffc_0000].contains(&default);
        let greatest = by_number.keys().max().copied().filter(|_| !permissive);
        Self {
            default,
            greatest,
            by_number,
        }
    }

    fn answer(&self, call: Call) -> u32 {
        if call.arch == X86_64 && call.number >= X32_BIT {
            return REFUSED;
        }
        if self.greatest.is_some_and(|greatest| call.number > greatest) {
            return REFUSED;
        }
        let Some(rules) = self.by_number.get(&call.number) else {
            return self.default;
        };
        let arguments = |rule: &LinuxSyscall| rule.args().clone().unwrap_or_default();
        if let Some((_, action)) = rules.iter().find(|(rule, _)| arguments(rule).is_empty()) {
            return *action;
        }
        for (rule, action) in rules {
            let arguments = arguments(rule);
            let mut indices: Vec<_> = arguments.iter().map(LinuxSeccompArg::index).collect();
            indices.sort_unstable();
            indices.dedup();
            let matches = if indices.len() == arguments.len() {
                arguments.iter().all(|argument| holds(argument, call))
            } else {
                arguments.iter().any(|argument| holds(argument, call))
            };
            if matches {
                return *action;
            }
        }
        self.default
    }
}

fn number(table: &'static str, name: &str) -> u32 {
    table::entries(table)
        .find(|(have, _)| *have == name)
        .unwrap_or_else(|| panic!("{name}"))
        .1
}

fn call(arch: u32, name: &str, arguments: &[u64]) -> Call {
    let table = match arch {
        X86_64 => table::X86_64,
        I386 => table::I386,
        _ => table::AARCH64,
    };
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call {
        arch,
        number: number(table, name),
        arguments: all,
    }
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscallBuilder {
    LinuxSyscallBuilder::default()
        .names(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .action(action)
}

fn profile(default: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(default)
        .syscalls(rules)
        .build()
        .unwrap()
}

#[test]
fn tables_agree_with_the_c_library() {
    let mut known = 0;
    for (name, number) in table::entries(if cfg!(target_arch = "x86_64") {
        table::X86_64
    } else {
        table::AARCH64
    }) {
        let expected = match name {
            "read" => libc::SYS_read,
            "clone" => libc::SYS_clone,
            "sched_rr_get_interval" => libc::SYS_sched_rr_get_interval,
            "fanotify_init" => libc::SYS_fanotify_init,
            "openat2" => libc::SYS_openat2,
            "rseq" => libc::SYS_rseq,
            "statx" => libc::SYS_statx,
            "pidfd_send_signal" => libc::SYS_pidfd_send_signal,
            "clone3" => libc::SYS_clone3,
            "futex_waitv" => libc::SYS_futex_waitv,
            "fchmodat2" => libc::SYS_fchmodat2,
            "mseal" => libc::SYS_mseal,
            _ => continue,
        };
        assert_eq!(i64::from(number), expected, "{name}");
        known += 1;
    }
    assert_eq!(known, 12);
    // Those of which no C library constant is at hand here.
    for (name, i386, aarch64) in [
        ("exit_group", 252, 94),
        ("clone3", 435, 435),
        ("mseal", 462, 462),
        ("socket", 359, 198),
    ] {
        assert_eq!(number(table::I386, name), i386, "{name}");
        assert_eq!(number(table::AARCH64, name), aarch64, "{name}");
    }
    assert_eq!(number(table::I386, "personality"), 136);
}

#[test]
fn the_default_profile_on_each_architecture() {
    let profile = runtime_default(&ORDINARY);
    for (machine, arch) in [
        (Machine::X86_64, X86_64),
        (Machine::X86_64, I386),
        (Machine::Aarch64, AARCH64),
    ] {
        let program = compile_for(machine, &profile).unwrap();
        let answer = |name: &str, arguments: &[u64]| run(&program, call(arch, name, arguments)).0;
        assert_eq!(answer("getpid", &[]), ALLOW);
        assert_eq!(answer("chroot", &[]), ALLOW, "CAP_SYS_CHROOT");
        for name in [
            "mount",
            "umount2",
            "keyctl",
            "add_key",
            "unshare",
            "setns",
            "bpf",
            "kexec_load",
            "io_uring_setup",
        ] {
            assert_eq!(answer(name, &[]), EPERM, "{name}");
        }
        for personality in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(answer("personality", &[personality]), ALLOW, "{personality:#x}");
        }
        assert_eq!(answer("personality", &[0x004_0000]), EPERM, "ADDR_NO_RANDOMIZE");
        assert_eq!(answer("clone", &[0x11]), ALLOW);
        assert_eq!(answer("clone", &[0x1000_0011]), EPERM, "CLONE_NEWUSER");
        assert_eq!(answer("clone", &[0x0200_0000]), EPERM, "CLONE_NEWCGROUP");
        assert_eq!(answer("clone3", &[]), REFUSED);
        for family in [1, 2, 10, 16, 17, 39, 44] {
            assert_eq!(answer("socket", &[family]), ALLOW, "{family}");
        }
        for family in [38, 40, 0x1_0000_0026, u64::MAX] {
            assert_eq!(answer("socket", &[family]), EPERM, "{family}");
        }
        assert_eq!(
            run(
                &program,
                Call {
                    arch,
                    number: 500,
                    arguments: [0; 6]
                }
            )
            .0,
            REFUSED,
            "not yet invented"
        );
        assert_eq!(
            run(
                &program,
                Call {
                    arch,
                    number: u32::MAX,
                    arguments: [0; 6]
                }
            )
            .0,
            REFUSED
        );
        assert_eq!(
            run(
                &program,
                Call {
                    arch: 0x4000_0028,
                    number: 1,
                    arguments: [0; 6]
                }
            )
            .0,
            REFUSED,
            "32-bit arm"
        );
    }
    let program = compile_for(Machine::X86_64, &profile).unwrap();
    let x32 = Call {
        arch: X86_64,
        number: X32_BIT + 39,
        arguments: [0; 6],
    };
    assert_eq!(run(&program, x32).0, REFUSED);
    assert_eq!(
        run(&program, call(I386, "socketcall", &[1])).0,
        REFUSED,
        "its family cannot be seen"
    );
}

#[test]
fn capabilities_open_calls() {
    let program = compile_for(
        Machine::X86_64,
        &runtime_default(&[Capability::SysAdmin, Capability::SysTime]),
    )
    .unwrap();
    let answer = |name: &str, arguments: &[u64]| run(&program, call(X86_64, name, arguments)).0;
    for name in ["mount", "unshare", "setns", "clone3", "bpf", "clock_settime"] {
        assert_eq!(answer(name, &[]), ALLOW, "{name}");
    }
    assert_eq!(answer("clone", &[0x1000_0000]), ALLOW);
    for name in ["keyctl", "chroot", "init_module", "open_by_handle_at"] {
        assert_eq!(answer(name, &[]), EPERM, "{name}");
    }
}

#[test]
fn the_default_profile_is_small_and_shallow() {
    let program = compile_for(Machine::X86_64, &runtime_default(&ORDINARY)).unwrap();
    assert!(
        program.instructions() < 320,
        "{} instructions for two architectures",
        program.instructions()
    );
    let deepest = (0..470)
        .map(|number| {
            run(
                &program,
                Call {
                    arch: X86_64,
                    number,
                    arguments: [u64::MAX; 6],
                },
            )
            .1
        })
        .max();
    assert!(deepest < Some(30), "{deepest:?}");
}

#[test]
fn a_rule_without_conditions_wins_and_unknown_names_are_skipped() {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(1u64)
        .op(LinuxSeccompOperator::ScmpCmpEq);
    let rules = vec![
        rule(&["close", "no_such_call"], LinuxSeccompAction::ScmpActTrap)
            .args(vec![argument.build().unwrap()])
            .build()
            .unwrap(),
        rule(&["close"], LinuxSeccompAction::ScmpActAllow).build().unwrap(),
        rule(&["close"], LinuxSeccompAction::ScmpActKillProcess)
            .build()
            .unwrap(),
    ];
    let program = compile_for(Machine::X86_64, &profile(LinuxSeccompAction::ScmpActErrno, rules)).unwrap();
    assert_eq!(run(&program, call(X86_64, "close", &[1])).0, ALLOW);
    assert_eq!(run(&program, call(X86_64, "read", &[1])).0, EPERM);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let refused = |rules| compile(&profile(LinuxSeccompAction::ScmpActAllow, rules)).unwrap_err();
    let notify = rule(&["mount"], LinuxSeccompAction::ScmpActNotify).build().unwrap();
    assert!(matches!(refused(vec![notify]), SeccompError::UnsupportedAction { .. }));
    let errno = rule(&["mount"], LinuxSeccompAction::ScmpActErrno)
        .errno_ret(4096u32)
        .build()
        .unwrap();
    assert_eq!(
        refused(vec![errno]),
        SeccompError::ErrorNumber {
            syscall: "mount".to_owned(),
            errno: 4096
        }
    );
    let argument = LinuxSeccompArgBuilder::default().index(6usize).build().unwrap();
    let sixth = rule(&["mount"], LinuxSeccompAction::ScmpActTrap)
        .args(vec![argument])
        .build()
        .unwrap();
    assert_eq!(
        refused(vec![sixth]),
        SeccompError::ArgumentIndex {
            syscall: "mount".to_owned(),
            index: 6
        }
    );
    let mut listening = profile(LinuxSeccompAction::ScmpActAllow, Vec::new());
    listening.set_listener_path(Some("/run/x".into()));
    assert_eq!(compile(&listening), Err(SeccompError::UnsupportedListener));
    let arguments = (0..6usize).map(|index| LinuxSeccompArgBuilder::default().index(index).build().unwrap());
    let long = rule(&["mount"], LinuxSeccompAction::ScmpActTrap)
        .args(arguments.collect::<Vec<_>>())
        .build()
        .unwrap();
    assert!(matches!(refused(vec![long; 300]), SeccompError::TooLong { .. }));
}

/// Every kind of profile podd compiles: names known and unknown, conditions alone and together.
fn profiles() -> impl Strategy<Value = LinuxSeccomp> {
    let actions = prop::sample::select(vec![
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActErrno,
        LinuxSeccompAction::ScmpActLog,
        LinuxSeccompAction::ScmpActTrap,
        LinuxSeccompAction::ScmpActKillProcess,
        LinuxSeccompAction::ScmpActKill,
    ]);
    let names: Vec<String> = table::entries(table::X86_64)
        .filter(|(_, number)| number % 3 == 0 || *number < 12)
        .map(|(name, _)| name.to_owned())
        .chain(["no_such_call".to_owned()])
        .collect();
    let operators = prop::sample::select(vec![
        LinuxSeccompOperator::ScmpCmpNe,
        LinuxSeccompOperator::ScmpCmpLt,
        LinuxSeccompOperator::ScmpCmpLe,
        LinuxSeccompOperator::ScmpCmpEq,
        LinuxSeccompOperator::ScmpCmpGe,
        LinuxSeccompOperator::ScmpCmpGt,
        LinuxSeccompOperator::ScmpCmpMaskedEq,
    ]);
    let argument = (0usize..3, operators, values(), prop::option::of(values())).prop_map(|(index, op, value, two)| {
        let argument = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
        two.into_iter()
            .fold(argument, LinuxSeccompArgBuilder::value_two)
            .build()
            .unwrap()
    });
    let rule = (
        prop::collection::vec(prop::sample::select(names), 1..8),
        actions.clone(),
        prop::option::of(0u32..200),
        prop::collection::vec(argument, 0..4),
    )
        .prop_map(|(names, action, errno, arguments)| {
            let rule = LinuxSyscallBuilder::default()
                .names(names)
                .action(action)
                .args(arguments);
            errno
                .into_iter()
                .fold(rule, LinuxSyscallBuilder::errno_ret)
                .build()
                .unwrap()
        });
    (actions, prop::collection::vec(rule, 0..40)).prop_map(|(default, rules)| profile(default, rules))
}

/// Numbers that meet each other, in each half.
fn values() -> impl Strategy<Value = u64> {
    let half = prop::sample::select(vec![
        0u64,
        1,
        2,
        8,
        0x2_0000,
        0x7e02_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
    ]);
    prop_oneof![
        3 => (half.clone(), half.clone()).prop_map(|(high, low)| high << 32 | low),
        3 => half,
        1 => any::<u64>(),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    let number = prop_oneof![8 => 0u32..480, 1 => any::<u32>(), 1 => X32_BIT..X32_BIT + 600];
    (number, prop::array::uniform6(values())).prop_map(|(number, arguments)| Call {
        arch: X86_64,
        number,
        arguments,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn programs_say_what_profiles_say(profile in profiles(), calls in prop::collection::vec(calls(), 100)) {
        let program = compile_for(Machine::X86_64, &profile).unwrap();
        let oracle = Oracle::new(&profile, table::X86_64);
        // Calls the profile speaks of, besides any at all.
        let named: Vec<u32> = oracle.by_number.keys().copied().collect();
        for (at, call) in calls.iter().enumerate() {
            let number = if at % 2 == 0 || named.is_empty() { call.number } else { named[at % named.len()] };
            let call = Call { number, ..*call };
            prop_assert_eq!(run(&program, call).0, oracle.answer(call), "{:?}", call);
        }
    }

    #[test]
    fn the_default_profile_says_what_it_says(arguments in prop::array::uniform6(values()), admin: bool) {
        let profile = runtime_default(if admin { &[Capability::SysAdmin] } else { &[] });
        let program = compile_for(Machine::X86_64, &profile).unwrap();
        for (arch, table) in [(X86_64, table::X86_64), (I386, table::I386)] {
            let oracle = Oracle::new(&profile, table);
            for number in (0..480).chain(X32_BIT..X32_BIT + 10) {
                let call = Call { arch, number, arguments };
                prop_assert_eq!(run(&program, call).0, oracle.answer(call), "{:?}", call);
            }
        }
    }
}

/// Make calls in a child under the filter; what each answered (an error as a negative number), and how the child ended.
fn probe(program: &Program, calls: &[(i64, [u64; 3])]) -> (Vec<i64>, i32) {
    const SIZE: usize = 4096;
    assert!(calls.len() * 8 <= SIZE);
    // SAFETY: a new anonymous mapping, no address is asked for.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    let answers: *mut i64 = page.cast();
    // SAFETY: the child calls nothing but system calls and ends with _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: plain system calls; `answers` has room for each answer and is mapped in the child as well.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || program.install().is_err() {
                libc::_exit(100);
            }
            for (at, (number, [a, b, c])) in calls.iter().enumerate() {
                let answer = libc::syscall(*number, *a, *b, *c);
                answers.add(at).write(if answer < 0 {
                    -i64::from(Errno::last_raw())
                } else {
                    answer
                });
            }
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is ours, `child` is our child; afterwards nobody writes to the page any more.
    unsafe {
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        let result = std::slice::from_raw_parts(answers, calls.len()).to_vec();
        libc::munmap(page, SIZE);
        (result, status)
    }
}

#[test]
fn the_kernel_does_as_the_default_profile_says() {
    let program = compile(&runtime_default(&ORDINARY)).unwrap();
    let refused = |errno: i32| -i64::from(errno);
    let (answers, status) = probe(
        &program,
        &[
            (libc::SYS_getppid, [0; 3]),
            (libc::SYS_mount, [0; 3]),
            (libc::SYS_personality, [0xffff_ffff, 0, 0]),
            (libc::SYS_personality, [0x004_0000, 0, 0]),
            (libc::SYS_clone, [0x1000_0011, 0, 0]),
            (libc::SYS_clone3, [0; 3]),
            (libc::SYS_keyctl, [0; 3]),
            (libc::SYS_unshare, [0x1000_0000, 0, 0]),
            (libc::SYS_socket, [38, 5, 0]),
            (libc::SYS_socket, [0x1_0000_0026, 5, 0]),
            (libc::SYS_socket, [40, 1, 0]),
            (libc::SYS_bpf, [0; 3]),
            (600, [0; 3]),
            (libc::SYS_close, [u64::from(u32::MAX), 0, 0]),
        ],
    );
    assert_eq!(status, 0);
    assert_eq!(answers[0], i64::from(std::process::id()));
    assert!(answers[2] >= 0, "{answers:?}");
    let errors = [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13].map(|at| answers[at]);
    let eperm = refused(libc::EPERM);
    let enosys = refused(libc::ENOSYS);
    let ebadf = refused(libc::EBADF);
    assert_eq!(
        errors,
        [
            eperm, eperm, eperm, enosys, eperm, eperm, eperm, eperm, eperm, eperm, enosys, ebadf
        ]
    );
}

#[test]
fn every_action_does_what_it_is_called() {
    let ends = |action| {
        let rules = vec![rule(&["getpid"], action).errno_ret(7u32).build().unwrap()];
        probe(
            &compile(&profile(LinuxSeccompAction::ScmpActAllow, rules)).unwrap(),
            &[(libc::SYS_getpid, [0; 3])],
        )
    };
    assert_eq!(ends(LinuxSeccompAction::ScmpActErrno), (vec![-7], 0));
    assert!(ends(LinuxSeccompAction::ScmpActLog).0[0] > 0);
    assert_eq!(libc::WTERMSIG(ends(LinuxSeccompAction::ScmpActTrap).1), libc::SIGSYS);
    assert_eq!(
        libc::WTERMSIG(ends(LinuxSeccompAction::ScmpActKillProcess).1),
        libc::SIGSYS
    );
}
