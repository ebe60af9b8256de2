#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]
//! v2 has no devices controller: a `BPF_PROG_TYPE_CGROUP_DEVICE` program decides over each open and mknod.
//!
//! Goes in: the OCI device rules. Comes out: a program that looks at them from the last to the first, as the last rule
//! that matches decides; what no rule speaks of is allowed, as in a new v1 cgroup.
//!
//! **Invariant:** an access is never wider than one rule allows: two rules (`r` and `w`) for one device do not add up.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::CgroupError;

/// `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// Destination register in the low half, source in the high half.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

// linux/bpf_common.h and linux/bpf.h: class, size or operation, source.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const MOVE_REGISTER: u8 = 0xbf;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
pub(super) const JUMP_IF_EQUAL: u8 = 0x15;
pub(super) const JUMP_IF_NOT: u8 = 0x55;
pub(super) const EXIT: u8 = 0x95;

// Registers: 0 is the answer, 1 the context (and free once the context is read).
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// `struct bpf_cgroup_dev_ctx`: access << 16 | type, major, minor.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

// enum bpf_cmd, bpf_prog_type, bpf_attach_type.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

/// What a rule asks before it decides. Each condition jumps to the next rule if it does not hold.
struct Rule {
    allow: bool,
    kind: Option<i32>,
    access: i32,
    major: Option<i32>,
    minor: Option<i32>,
}

impl Rule {
    /// `None`: speaks of no block or character device (fifos), or of a number that cannot be one.
    fn of(rule: &LinuxDeviceCgroup) -> Option<Self> {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
            LinuxDeviceType::P => return None,
        };
        let access = match rule.access().as_deref() {
            None | Some("") => MKNOD | READ | WRITE,
            Some(letters) => letters.chars().fold(0, |access, letter| {
                access
                    | match letter {
                        'm' => MKNOD,
                        'r' => READ,
                        'w' => WRITE,
                        _ => 0,
                    }
            }),
        };
        let number = |number: Option<i64>| match number {
            Some(number) if number >= 0 => i32::try_from(number).map(Some),
            Some(_) | None => Ok(None),
        };
        // Type `a` is every device, whatever else the rule says (kernel, device_cgroup.c).
        let (major, minor) = if kind.is_some() {
            (number(rule.major()).ok()?, number(rule.minor()).ok()?)
        } else {
            return Some(Self {
                allow: rule.allow(),
                kind,
                access: MKNOD | READ | WRITE,
                major: None,
                minor: None,
            });
        };
        Some(Self {
            allow: rule.allow(),
            kind,
            access,
            major,
            minor,
        })
    }

    fn matches_all(&self) -> bool {
        self.kind.is_none()
    }

    fn emit(&self, program: &mut Vec<Instruction>) {
        let mut block = Vec::new();
        for (register, value) in [(TYPE, self.kind), (MAJOR, self.major), (MINOR, self.minor)] {
            if let Some(value) = value {
                block.push(instruction(JUMP_IF_NOT, register, 0, 0, value));
            }
        }
        if self.access != MKNOD | READ | WRITE {
            block.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
            if self.allow {
                // All that is asked for is in the rule.
                block.push(instruction(AND, SCRATCH, 0, 0, !self.access));
                block.push(instruction(JUMP_IF_NOT, SCRATCH, 0, 0, 0));
            } else {
                // Something of what is asked for is in the rule.
                block.push(instruction(AND, SCRATCH, 0, 0, self.access));
                block.push(instruction(JUMP_IF_EQUAL, SCRATCH, 0, 0, 0));
            }
        }
        block.push(instruction(MOVE, ANSWER, 0, 0, i32::from(self.allow)));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (position, line) in block.iter_mut().enumerate() {
            if matches!(line.code, JUMP_IF_EQUAL | JUMP_IF_NOT) {
                line.offset = i16::try_from(length - position - 1).expect("a rule has at most 8 instructions");
            }
        }
        program.append(&mut block);
    }
}

pub(super) fn compile(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(AND, TYPE, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev().filter_map(Rule::of) {
        rule.emit(&mut program);
        if rule.matches_all() {
            // Nothing before this rule can ever decide, and the kernel refuses programs with unreachable ends.
            return program;
        }
    }
    program.push(instruction(MOVE, ANSWER, 0, 0, 1));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

/// Make the rules hold for the cgroup at `directory`, instead of those attached before.
pub(super) fn attach(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let failed = |source| CgroupError::Devices {
        path: directory.to_owned(),
        source,
    };
    let program = load(&compile(rules)).map_err(failed)?;
    let cgroup = fs::File::open(directory).map_err(failed)?;
    // Without BPF_F_ALLOW_MULTI a second attachment replaces the first, and no cgroup beneath can loosen it.
    attach_program(cgroup.as_raw_fd(), &program).map_err(failed)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out as zero.
    #[repr(C)]
    struct Load {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    let count = u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let attributes = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `attributes` is a valid, initialised head of `bpf_attr` of the given size and outlives the call; the
    // pointers in it (instructions with their count, a NUL-terminated license) are only read, and outlive it too.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Load>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec), and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn attach_program(cgroup: RawFd, program: &OwnedFd) -> io::Result<()> {
    /// The head of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: RawFd,
        program: RawFd,
        kind: u32,
        flags: u32,
    }
    let attributes = Attach {
        target: cgroup,
        program: program.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: `attributes` is a valid, initialised head of `bpf_attr` of the given size, read only, without pointers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attributes,
            size_of::<Attach>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
