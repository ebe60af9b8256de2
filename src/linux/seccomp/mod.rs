#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]
//! OCI seccomp profiles as BPF programs, without libseccomp (which takes 15 ms for a profile of this size).
//!
//! Goes in: `linux.seccomp` of a runtime spec. Comes out: a program that a process installs for itself, once, as the
//! last thing before it is executed.
//!
//! The program looks at the architecture, then finds the system call's number in a balanced tree of ranges, all of
//! whose numbers are treated alike; only calls with rules about arguments have instructions of their own. What is
//! decided by the number alone the kernel works out once (its per-filter bitmap), so such calls cost nothing later.
//!
//! Where profiles are silent this does as runc does:
//! * a name this architecture does not have is skipped;
//! * a rule that says what the default says is skipped;
//! * several conditions of one rule must all hold, unless two of them are about the same argument: then each is a rule;
//! * a rule without conditions wins over rules with some; among the others the first that matches decides;
//! * if the default refuses, numbers above every one that the profile names answer `ENOSYS`, so that programs fall back
//!   from calls newer than the profile;
//! * x32 calls, and calls of architectures that the profile does not list (or podd has no table for), answer `ENOSYS`.
//!
//! **Invariant:** [`Program::install`] allocates nothing and takes no lock: it is called between fork and exec.

mod assembler;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use assembler::{Assembler, Label};
use nix::errno::Errno;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

/// What a profile asks for that podd cannot do. Nothing is ever left out of a filter silently.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeccompError {
    #[error("seccomp action {action} is not supported")]
    UnsupportedAction { action: LinuxSeccompAction },
    #[error("seccomp flag {flag} is not supported")]
    UnsupportedFlag { flag: LinuxSeccompFilterFlag },
    #[error("a seccomp listener is not supported")]
    UnsupportedListener,
    #[error("seccomp rule for {syscall}: there is no argument {index}")]
    ArgumentIndex { syscall: String, index: usize },
    #[error("seccomp rule for {syscall}: {errno} is not an error number")]
    ErrorNumber { syscall: String, errno: u32 },
    #[error("the seccomp profile needs {instructions} instructions, the kernel takes 4096")]
    TooLong { instructions: usize },
    #[error("podd has no system call table for this architecture")]
    UnknownMachine,
}

/// `struct sock_filter` (linux/filter.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

// linux/bpf_common.h: class, size and mode, or operation and source.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

// `struct seccomp_data`: nr, arch, instruction_pointer, args. Both machines podd runs on are little endian.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

/// The bit that marks an x32 call among those of `x86_64`.
const X32_BIT: u32 = 0x4000_0000;
const MAX_ERRNO: u32 = 4095;
const RETURN_ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_ERRNO | ENOSYS`.
const REFUSED: u32 = RETURN_ERRNO + 38;

/// A filter, ready to be installed any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Box<[Instruction]>,
    length: u16,
    flags: libc::c_ulong,
}

impl Program {
    /// Filter the calling thread and everything it executes from now on.
    ///
    /// Without `no_new_privs` the caller needs `CAP_SYS_ADMIN` in its user namespace. Async-signal-safe.
    ///
    /// # Errors
    /// As seccomp(2): `EACCES` (neither of the two), `EINVAL`, `ENOMEM`.
    pub fn install(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: self.length,
            filter: self.instructions.as_ptr().cast_mut().cast(),
        };
        // SAFETY: `program` names `length` instructions with the layout of `sock_filter`, which live through the call;
        // the kernel copies and checks them and writes to none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
                self.flags,
                &raw const program,
            )
        };
        if result == 0 { Ok(()) } else { Err(Errno::last()) }
    }

    /// How many instructions it has.
    pub fn instructions(&self) -> usize {
        self.instructions.len()
    }
}

/// Compile a profile for the machine podd was built for.
///
/// # Errors
/// Whatever in it podd cannot do: the container must then not be started.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let machine = if cfg!(target_arch = "x86_64") {
        Machine::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Machine::Aarch64
    } else {
        return Err(SeccompError::UnknownMachine);
    };
    compile_for(machine, profile)
}

/// A kernel, with the architectures whose calls it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    X86_64,
    Aarch64,
}

/// One architecture's part of the program.
#[derive(Debug, Clone, Copy)]
struct Section {
    /// `AUDIT_ARCH_*` (linux/audit.h).
    audit_arch: u32,
    table: &'static str,
    /// Numbers from here on are another architecture's.
    end: Option<u32>,
}

impl Machine {
    fn sections(self, listed: &[Arch]) -> Vec<Section> {
        match self {
            Self::X86_64 => {
                let mut sections = vec![Section {
                    audit_arch: 0xc000_003e,
                    table: table::X86_64,
                    end: Some(X32_BIT),
                }];
                if listed.contains(&Arch::ScmpArchX86) {
                    sections.push(Section {
                        audit_arch: 0x4000_0003,
                        table: table::I386,
                        end: None,
                    });
                }
                sections
            }
            Self::Aarch64 => vec![Section {
                audit_arch: 0xc000_00b7,
                table: table::AARCH64,
                end: None,
            }],
        }
    }
}

/// One comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: LinuxSeccompOperator,
    value: u64,
    value_two: u64,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Always(u32),
    /// The first rule whose conditions all hold, else the default.
    Rules(Vec<(Vec<Condition>, u32)>),
}

fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::UnsupportedListener);
    }
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(SeccompError::UnsupportedFlag { flag: *flag });
            }
        };
    }
    let rules = Rules::of(profile)?;
    let listed = profile.architectures().as_deref().unwrap_or_default();

    let mut assembler = Assembler::default();
    let mut dispatch = assembler.answer(REFUSED);
    for section in machine.sections(listed).iter().rev() {
        let body = rules.section(section, &mut assembler);
        dispatch = assembler.branch(JUMP_IF_EQUAL, section.audit_arch, body, dispatch);
    }
    assembler.before(load(OFFSET_ARCH), dispatch);
    let instructions = assembler.finish();

    match u16::try_from(instructions.len()) {
        Ok(length) if instructions.len() <= MAX_INSTRUCTIONS => Ok(Program {
            instructions: instructions.into(),
            length,
            flags,
        }),
        Ok(_) | Err(_) => Err(SeccompError::TooLong {
            instructions: instructions.len(),
        }),
    }
}

/// A profile's rules, checked, by name.
struct Rules<'a> {
    default: u32,
    /// The default lets calls happen.
    permissive: bool,
    by_name: HashMap<&'a str, Verdict>,
}

impl<'a> Rules<'a> {
    fn of(profile: &'a LinuxSeccomp) -> Result<Self, SeccompError> {
        let default = answer("default", profile.default_action(), profile.default_errno_ret())?;
        let permissive = matches!(
            profile.default_action(),
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
        );
        let mut by_name: HashMap<&str, Verdict> = HashMap::new();
        for rule in profile.syscalls().iter().flatten() {
            let name = rule.names().first().map_or("", String::as_str);
            let answer = answer(name, rule.action(), rule.errno_ret())?;
            let conditions = conditions(name, rule.args().as_deref().unwrap_or_default())?;
            if answer == default {
                continue;
            }
            for name in rule.names() {
                add(&mut by_name, name, &conditions, answer);
            }
        }
        Ok(Self {
            default,
            permissive,
            by_name,
        })
    }

    /// The part for one architecture.
    fn section(&self, section: &Section, assembler: &mut Assembler) -> Label {
        let always_default = Verdict::Always(self.default);
        let numbered: BTreeMap<u32, &Verdict> = table::entries(section.table)
            .filter_map(|(name, number)| Some((number, self.by_name.get(name)?)))
            .collect();

        // Neighbours that are treated alike are one range. Each begins at its number and ends where the next begins.
        let mut ranges: Vec<(u32, &Verdict)> = vec![(0, &always_default)];
        let mut expected = 0;
        for (number, verdict) in numbered {
            if number > expected {
                push(&mut ranges, expected, &always_default);
            }
            push(&mut ranges, number, verdict);
            expected = number + 1;
        }
        let refused = Verdict::Always(REFUSED);
        if !self.permissive && expected > 0 {
            push(&mut ranges, expected, &refused);
        } else {
            push(&mut ranges, expected, &always_default);
            if let Some(end) = section.end {
                push(&mut ranges, end, &refused);
            }
        }

        let tree = self.tree(&ranges, assembler);
        assembler.before(load(OFFSET_NUMBER), tree)
    }

    /// Halve the ranges until one is left.
    fn tree(&self, ranges: &[(u32, &Verdict)], assembler: &mut Assembler) -> Label {
        if let [(_, verdict)] = ranges {
            return self.verdict(verdict, assembler);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let (boundary, _) = high[0];
        let above = self.tree(high, assembler);
        let below = self.tree(low, assembler);
        assembler.branch(JUMP_IF_AT_LEAST, boundary, above, below)
    }

    fn verdict(&self, verdict: &Verdict, assembler: &mut Assembler) -> Label {
        match verdict {
            Verdict::Always(answer) => assembler.answer(*answer),
            Verdict::Rules(rules) => {
                let mut otherwise = assembler.answer(self.default);
                for (conditions, answer) in rules.iter().rev() {
                    let mut then = assembler.answer(*answer);
                    for condition in conditions.iter().rev() {
                        then = condition.test(then, otherwise, assembler);
                    }
                    otherwise = then;
                }
                otherwise
            }
        }
    }
}

/// Begin a new range, unless it would be treated as the last one is.
fn push<'v>(ranges: &mut Vec<(u32, &'v Verdict)>, start: u32, verdict: &'v Verdict) {
    match ranges.last_mut() {
        Some((_, last)) if *last == verdict => {}
        Some((begin, last)) if *begin == start => *last = verdict,
        Some(_) | None => ranges.push((start, verdict)),
    }
}

fn add<'a>(by_name: &mut HashMap<&'a str, Verdict>, name: &'a str, conditions: &[Condition], answer: u32) {
    let unconditional = conditions.is_empty();
    match by_name.get_mut(name) {
        // Two rules without conditions: the first one stands.
        Some(Verdict::Always(_)) => {}
        Some(verdict @ Verdict::Rules(_)) if unconditional => *verdict = Verdict::Always(answer),
        Some(Verdict::Rules(rules)) => rules.extend(split(conditions, answer)),
        None if unconditional => {
            by_name.insert(name, Verdict::Always(answer));
        }
        None => {
            by_name.insert(name, Verdict::Rules(split(conditions, answer)));
        }
    }
}

/// All conditions in one rule, or each in its own if two are about the same argument.
fn split(conditions: &[Condition], answer: u32) -> Vec<(Vec<Condition>, u32)> {
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(at, c)| conditions[..at].iter().any(|d| d.index == c.index));
    if repeated {
        conditions.iter().map(|condition| (vec![*condition], answer)).collect()
    } else {
        vec![(conditions.to_vec(), answer)]
    }
}

/// An action as the kernel takes it from the program.
fn answer(syscall: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    match action {
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::UnsupportedAction { action }),
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {
            if let Some(errno) = errno.filter(|errno| *errno > MAX_ERRNO) {
                return Err(SeccompError::ErrorNumber {
                    syscall: syscall.to_owned(),
                    errno,
                });
            }
        }
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActAllow => {}
    }
    // EPERM where no number is given.
    Ok(action.as_u32(errno))
}

fn conditions(syscall: &str, arguments: &[LinuxSeccompArg]) -> Result<Vec<Condition>, SeccompError> {
    arguments
        .iter()
        .map(|argument| match u32::try_from(argument.index()) {
            Ok(index) if index < 6 => Ok(Condition {
                index,
                operator: argument.op(),
                value: argument.value(),
                value_two: argument.value_two().unwrap_or(0),
            }),
            Ok(_) | Err(_) => Err(SeccompError::ArgumentIndex {
                syscall: syscall.to_owned(),
                index: argument.index(),
            }),
        })
        .collect()
}

impl Condition {
    /// On to `then` if it holds, else to `otherwise`. Arguments have 64 bits, the machine compares 32.
    fn test(&self, then: Label, otherwise: Label, assembler: &mut Assembler) -> Label {
        let low_half = OFFSET_ARGUMENTS + 8 * self.index;
        let (load_high, load_low) = (load(low_half + 4), load(low_half));
        let (high, low) = halves(self.value);
        match self.operator {
            LinuxSeccompOperator::ScmpCmpEq => {
                let test = assembler.branch(JUMP_IF_EQUAL, low, then, otherwise);
                let test = assembler.before(load_low, test);
                let test = assembler.branch(JUMP_IF_EQUAL, high, test, otherwise);
                assembler.before(load_high, test)
            }
            LinuxSeccompOperator::ScmpCmpNe => {
                let equal = Self {
                    operator: LinuxSeccompOperator::ScmpCmpEq,
                    ..*self
                };
                equal.test(otherwise, then, assembler)
            }
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                let (wanted_high, wanted_low) = halves(self.value_two);
                let test = assembler.branch(JUMP_IF_EQUAL, wanted_low, then, otherwise);
                let test = assembler.before(and(low), test);
                let test = assembler.before(load_low, test);
                let test = assembler.branch(JUMP_IF_EQUAL, wanted_high, test, otherwise);
                let test = assembler.before(and(high), test);
                assembler.before(load_high, test)
            }
            LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
                let strict = self.operator == LinuxSeccompOperator::ScmpCmpGt;
                let code = if strict { JUMP_IF_GREATER } else { JUMP_IF_AT_LEAST };
                let test = assembler.branch(code, low, then, otherwise);
                let test = assembler.before(load_low, test);
                let test = assembler.branch(JUMP_IF_EQUAL, high, test, otherwise);
                let test = assembler.branch(JUMP_IF_GREATER, high, then, test);
                assembler.before(load_high, test)
            }
            LinuxSeccompOperator::ScmpCmpLt => {
                let at_least = Self {
                    operator: LinuxSeccompOperator::ScmpCmpGe,
                    ..*self
                };
                at_least.test(otherwise, then, assembler)
            }
            LinuxSeccompOperator::ScmpCmpLe => {
                let greater = Self {
                    operator: LinuxSeccompOperator::ScmpCmpGt,
                    ..*self
                };
                greater.test(otherwise, then, assembler)
            }
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let bytes = value.to_be_bytes();
    let (high, low) = bytes.split_at(4);
    let half = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("half of eight bytes"));
    (half(high), half(low))
}

const fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jump_true: 0,
        jump_false: 0,
        operand: offset,
    }
}

const fn and(mask: u32) -> Instruction {
    Instruction {
        code: AND,
        jump_true: 0,
        jump_false: 0,
        operand: mask,
    }
}
