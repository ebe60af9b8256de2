//! Single system calls, in the form that a child between clone and exec may use: no allocation, no locks.
//!
//! Goes in: descriptors, C strings, numbers. Comes out: owned descriptors or an [`Errno`].
//!
//! **Invariant:** nothing here allocates, and nothing here tries twice but for `EINTR`.

#![expect(unsafe_code, reason = "raw system calls, each with its own reason")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_uint};
use nix::errno::Errno;

/// `mount_setattr(2)`: `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MountAttr {
    pub(super) attr_set: u64,
    pub(super) attr_clr: u64,
    pub(super) propagation: u64,
    pub(super) userns_fd: u64,
}

pub(super) const OPEN_TREE_CLONE: c_uint = 1;
pub(super) const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC.cast_unsigned();
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;

/// Paths stay beneath the directory they start from as if it were `/`, and no `/proc/<pid>/fd/<n>` is followed.
pub(super) const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// Paths that would leave the directory they start from fail with `EXDEV`.
pub(super) const BENEATH: u64 = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;

fn result(value: c_long) -> Result<c_long, Errno> {
    Errno::result(value)
}

fn descriptor(value: c_long) -> Result<OwnedFd, Errno> {
    let raw = RawFd::try_from(result(value)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// openat2(2). `mode` only with `O_CREAT`.
pub(super) fn openat2(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: c_int,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd, Errno> {
    // SAFETY: open_how is plain integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // The kernel gives EAGAIN when a rename elsewhere made it unsure about `..`: as runc does, try some more.
    let mut tries = 0;
    loop {
        // SAFETY: the path is a C string, the structure lives through the call and its size is given.
        let value = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match descriptor(value) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// open(2) of a path of the host, always close-on-exec.
pub(super) fn open(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is a C string.
    descriptor(c_long::from(unsafe {
        libc::open(path.as_ptr(), flags | libc::O_CLOEXEC)
    }))
}

pub(super) fn mkdirat(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    result(c_long::from(unsafe {
        libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode)
    }))
    .map(drop)
}

pub(super) fn mknodat(directory: BorrowedFd<'_>, name: &CStr, mode: u32, device: libc::dev_t) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    result(c_long::from(unsafe {
        libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device)
    }))
    .map(drop)
}

pub(super) fn symlinkat(target: &CStr, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both are C strings.
    result(c_long::from(unsafe {
        libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr())
    }))
    .map(drop)
}

pub(super) fn unlinkat(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    result(c_long::from(unsafe {
        libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0)
    }))
    .map(drop)
}

/// Change the owner of what a descriptor names (`O_PATH` too).
pub(super) fn chown(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: the path is an empty C string.
    result(c_long::from(unsafe {
        libc::fchownat(file.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH)
    }))
    .map(drop)
}

pub(super) fn chmodat(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: the name is a C string.
    result(c_long::from(unsafe {
        libc::fchmodat(directory.as_raw_fd(), name.as_ptr(), mode, 0)
    }))
    .map(drop)
}

/// The target of a symbolic link opened with `O_PATH | O_NOFOLLOW`, as long as the buffer has room.
pub(super) fn readlink<'a>(link: BorrowedFd<'_>, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    // SAFETY: the buffer is ours and its length is given.
    let length = result(unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) as c_long
    })?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    if length == buffer.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(&buffer[..length])
}

pub(super) fn stat(file: BorrowedFd<'_>) -> Result<libc::stat, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the structure has the size that fstat(2) fills.
    result(c_long::from(unsafe {
        libc::fstat(file.as_raw_fd(), stat.as_mut_ptr())
    }))?;
    // SAFETY: fstat succeeded and has written all of it.
    Ok(unsafe { stat.assume_init() })
}

pub(super) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> Result<(), Errno> {
    // SAFETY: all are C strings.
    result(c_long::from(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    }))
    .map(drop)
}

/// Change the propagation of the mount at `target` (and of those beneath it, with `MS_REC`).
pub(super) fn propagate(target: &CStr, flags: libc::c_ulong) -> Result<(), Errno> {
    mount(c"none", target, c"", flags, c"")
}

pub(super) fn unmount(target: &CStr, flags: c_int) -> Result<(), Errno> {
    // SAFETY: the path is a C string.
    result(c_long::from(unsafe { libc::umount2(target.as_ptr(), flags) })).map(drop)
}

/// `open_tree(2)`; with an empty path, of the descriptor itself.
pub(super) fn open_tree(directory: BorrowedFd<'_>, path: &CStr, flags: c_uint) -> Result<OwnedFd, Errno> {
    let empty = if path.is_empty() {
        libc::AT_EMPTY_PATH.cast_unsigned()
    } else {
        0
    };
    let flags = flags | empty | OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a C string.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// `move_mount(2)`: put a detached mount where a descriptor points to.
pub(super) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are empty C strings.
    result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// `mount_setattr(2)` of the mount whose root a descriptor is.
pub(super) fn mount_setattr(mounted: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure lives through the call and its size is given.
    result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Replace the root: the current directory becomes it, and the old one is mounted on top of it.
pub(super) fn pivot_root_here() -> Result<(), Errno> {
    // SAFETY: both are C strings.
    result(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

pub(super) fn fchdir(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    result(c_long::from(unsafe { libc::fchdir(directory.as_raw_fd()) })).map(drop)
}

pub(super) fn chdir(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the path is a C string.
    result(c_long::from(unsafe { libc::chdir(path.as_ptr()) })).map(drop)
}

pub(super) fn setns(namespace: BorrowedFd<'_>, kind: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    result(c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), kind) })).map(drop)
}

pub(super) fn unshare(flags: c_int) -> Result<(), Errno> {
    // SAFETY: only namespaces are named by the callers; they have one thread.
    result(c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Write all of it with one write(2).
pub(super) fn write(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the memory is ours and its length is given.
        let value = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as c_long;
        match result(value) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(length) => return usize::try_from(length).map_err(|_| Errno::EINVAL),
        }
    }
}

/// prctl(2) with numbers only.
pub(super) fn prctl(option: c_int, second: libc::c_ulong, third: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used take no pointers.
    result(c_long::from(unsafe { libc::prctl(option, second, third, 0, 0) })).map(drop)
}

/// Name this process (15 bytes) for `ps` and /proc/<pid>/comm.
pub(super) fn set_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: a C string, of which the kernel reads 16 bytes at most and stops at the NUL.
    result(c_long::from(unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0)
    }))
    .map(drop)
}

pub(super) fn dup2(from: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    // SAFETY: replaces one of the standard descriptors, which nothing here owns.
    result(c_long::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// `close_range(2)` from `first` upwards; with `CLOSE_RANGE_CLOEXEC` only marked to be closed by exec.
pub(super) fn close_from(first: RawFd, flags: c_uint) -> Result<(), Errno> {
    // SAFETY: called by a child that is about to exec or to sleep for ever, and owns no descriptor beyond that.
    result(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) }).map(drop)
}

/// Close these descriptors, the last one included.
pub(super) fn close_between(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: as for `close_from`.
    result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

pub(super) fn setgroups(groups: &[libc::gid_t]) -> Result<(), Errno> {
    // SAFETY: the list is ours and its length is given. The raw call concerns this thread only, and there is but one.
    result(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

pub(super) fn setresgid(gid: libc::gid_t) -> Result<(), Errno> {
    // SAFETY: no memory is involved; there is one thread.
    result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

pub(super) fn setresuid(uid: libc::uid_t) -> Result<(), Errno> {
    // SAFETY: no memory is involved; there is one thread.
    result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// The user and the group that files are made as and looked at with: setfsuid(2), setfsgid(2).
pub(super) fn set_file_ids(id: u32) -> Result<(), Errno> {
    for call in [libc::SYS_setfsgid, libc::SYS_setfsuid] {
        // It gives no error, only what was set before: asked a second time, that is what we want.
        // SAFETY: no memory is involved; there is one thread.
        let set = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, id)
        };
        if set != c_long::from(id) {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// Three sets of capabilities, one bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CapSets {
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

fn halves(mask: u64) -> (u32, u32) {
    let low = u32::try_from(mask & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let high = u32::try_from(mask >> 32).unwrap_or(u32::MAX);
    (low, high)
}

pub(super) fn capset(sets: &CapSets) -> Result<(), Errno> {
    let header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let (effective, permitted, inheritable) =
        (halves(sets.effective), halves(sets.permitted), halves(sets.inheritable));
    let data = [
        CapData {
            effective: effective.0,
            permitted: permitted.0,
            inheritable: inheritable.0,
        },
        CapData {
            effective: effective.1,
            permitted: permitted.1,
            inheritable: inheritable.1,
        },
    ];
    // SAFETY: version 3 takes two structures of this layout.
    result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The capabilities of this thread.
pub(super) fn capget() -> Result<CapSets, Errno> {
    let header = CapHeader {
        version: CAP_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills two structures of this layout.
    result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Set a limit of this process; returns the one in force before.
pub(super) fn prlimit(resource: c_int, limit: Option<&libc::rlimit64>) -> Result<libc::rlimit64, Errno> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = limit.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live through the call; a null one is allowed.
    result(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut old) })?;
    Ok(old)
}

/// A new, anonymous session keyring, so that keys of other containers cannot be reached.
pub(super) fn new_session_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    result(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) }).map(drop)
}

/// Nothing is blocked any more: exec(2) keeps the mask.
pub(super) fn unblock_signals() -> Result<(), Errno> {
    let empty: u64 = 0;
    // SAFETY: the kernel's signal set has 8 bytes.
    result(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
    .map(drop)
}

/// End this process at once: no destructors, no buffers written.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// A list of strings as execve(2) wants it: pointers to each, and a null at the end.
#[derive(Debug)]
pub(super) struct Strings {
    /// What the pointers point into; the bytes of a `CString` stay where they are when it is moved.
    owned: Vec<std::ffi::CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    pub(super) fn new(owned: Vec<std::ffi::CString>) -> Self {
        let pointers = owned.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { owned, pointers }
    }
}

/// execve(2): returns only with what went wrong.
pub(super) fn execve(program: &CStr, arguments: &Strings, environment: &Strings) -> Errno {
    debug_assert_eq!(arguments.owned.len() + 1, arguments.pointers.len());
    // SAFETY: all strings are owned by the lists, which live through the call; each list ends with a null.
    unsafe {
        libc::execve(
            program.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// Send a few bytes on a connected socket, with a descriptor if there is one. A closed other end is `EPIPE`, no signal.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_LENGTH]);
    // SAFETY: CMSG_SPACE only computes.
    const CONTROL_LENGTH: usize = unsafe { libc::CMSG_SPACE(4) } as usize;
    let mut control = Control([0; CONTROL_LENGTH]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain memory, for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(descriptor) = descriptor {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LENGTH;
        // SAFETY: the control buffer is aligned and has room for one header and one int.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(message)
                .cast::<c_int>()
                .write_unaligned(descriptor.as_raw_fd());
        }
    }
    loop {
        // SAFETY: header, part and control live through the call.
        let value = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) } as c_long;
        match result(value) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Wait for a message of one byte on a connected socket. Its end is `EPIPE`.
pub(super) fn receive_byte(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: the buffer is one byte long and lives through the call.
        let value = unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, 0) } as c_long;
        match result(value) {
            Err(Errno::EINTR) => {}
            Ok(0) => return Err(Errno::EPIPE),
            other => return other.map(drop),
        }
    }
}

/// The slave of a terminal's master, opened without a path (`TIOCGPTPEER`), after it was unlocked.
pub(super) fn terminal_peer(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let unlock: c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    result(c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock)
    }))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a descriptor.
    descriptor(c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    }))
}

/// The size of a terminal's window, in characters.
pub(super) fn set_window(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    result(c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))
    .map(drop)
}

/// This terminal becomes the session's own.
pub(super) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes a number.
    result(c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))
    .map(drop)
}

pub(super) fn new_session() -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    result(c_long::from(unsafe { libc::setsid() })).map(drop)
}

pub(super) fn umask(mask: u32) {
    // SAFETY: umask cannot fail and touches no memory.
    unsafe { libc::umask(mask) };
}

pub(super) fn sethostname(name: &[u8]) -> Result<(), Errno> {
    // SAFETY: the memory is ours and its length is given.
    result(c_long::from(unsafe {
        libc::sethostname(name.as_ptr().cast(), name.len())
    }))
    .map(drop)
}

/// Sleep until a signal that is not ignored arrives.
pub(super) fn pause() {
    // SAFETY: no memory is involved.
    unsafe { libc::pause() };
}

/// Block every signal that can be blocked, and let children be forgotten by the kernel when they end.
pub(super) fn sleep_actions() -> Result<(), Errno> {
    let all: u64 = u64::MAX;
    // SAFETY: the kernel's signal set has 8 bytes.
    result(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })?;
    // SAFETY: no handler function is installed, only one of the kernel's own actions.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(Errno::last());
    }
    Ok(())
}

/// Every signal has its default action again: exec(2) keeps what is ignored. The raw call also reaches the two signals that
/// the C library keeps to itself.
pub(super) fn default_actions() {
    // The kernel's struct sigaction: handler (0 is the default), flags, restorer, mask.
    let action = [0_u64; 4];
    for number in 1..=64 {
        // SAFETY: no handler function is installed, only the kernel's own action; SIGKILL and SIGSTOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                action.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Whether this lies on a proc file system, whose links may lead anywhere.
pub(super) fn is_proc(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the structure has the size that fstatfs(2) fills.
    result(c_long::from(unsafe {
        libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr())
    }))?;
    // SAFETY: fstatfs succeeded and has written all of it.
    Ok(unsafe { stat.assume_init() }.f_type == libc::PROC_SUPER_MAGIC)
}

/// Which device a node is.
pub(super) fn device_number(major: u32, minor: u32) -> libc::dev_t {
    libc::makedev(major, minor)
}
