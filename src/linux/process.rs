//! Processes: made, named, signalled, waited for.
//!
//! A process is held by a pidfd or, while it is our own child that nobody has waited for, by its pid.

#![expect(unsafe_code, reason = "clone3, fork and pidfd_send_signal have no safe form")]

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as NixStatus, waitid};
use nix::unistd::Pid;

use super::sys;

/// How a process ended, as waitid(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    Parent { child: i32 },
    Child,
}

/// fork(2), for a process with one thread: in the child everything is usable then.
///
/// # Errors
/// What fork(2) gives; `Deadlock` when this process has more threads, because the child could inherit their locks.
pub fn fork_single_threaded() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::Deadlock.into());
    }
    // SAFETY: there is one thread, so no lock is held by another and no memory is half written.
    match Errno::result(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent { child }),
    }
}

/// End this process at once, without destructors or buffers: what a forked child must use.
pub fn exit_now(code: i32) -> ! {
    sys::exit(code)
}

/// The result of [`clone3`].
pub(super) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// clone3(2) in the manner of fork: the child has a copy of the memory and every signal's default action.
///
/// # Safety
/// Until it execs, the child may only make system calls: no allocation, no locks.
pub(super) unsafe fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned()) | CLONE_CLEAR_SIGHAND;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(directory) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(directory.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the structure lives through the call and its size is given; no stack is given, so the child goes on here
    // with its own copy of this one.
    let pid =
        Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    let pid = i32::try_from(pid).map_err(|_| Errno::ERANGE)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid, pidfd })
}

/// clone(2) in the manner of fork, but the child is our parent's: `Some(pid)`, as we see it, for us; `None` for the child.
/// The old call and not clone3, which seccomp filters refuse because they cannot look into its arguments.
///
/// # Safety
/// As for [`clone3`].
pub(super) unsafe fn clone_sibling() -> Result<Option<i32>, Errno> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: no stack is given, so the child goes on here with its own copy of this one; no memory is written.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })?;
    if pid == 0 {
        return Ok(None);
    }
    i32::try_from(pid).map(Some).map_err(|_| Errno::ERANGE)
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Send a signal to the process behind a pidfd. `Ok(false)`: it has ended.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    // SAFETY: no siginfo is given; the kernel makes one.
    let value = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match Errno::result(value) {
        Ok(_) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Field 22 of /proc/<pid>/stat, in clock ticks since the boot. Works until the process is waited for.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in the second field may hold anything, also parentheses: what follows the last one is numbers.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = after_name
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|text| text.parse().ok());
    field.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat has no start time"),
        )
    })
}

/// The mount namespace of a child that nobody has waited for yet. It lives while this is open.
pub fn mount_namespace(pid: i32) -> io::Result<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/mnt")).map(OwnedFd::from)
}

/// This process's own id, in its own pid namespace.
pub fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// A child that has ended but was not waited for yet, so that its pid still names it.
pub fn ended_child() -> io::Result<Option<i32>> {
    match waitid(
        Id::All,
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
    ) {
        Ok(NixStatus::Exited(pid, _) | NixStatus::Signaled(pid, _, _)) => Ok(Some(pid.as_raw())),
        Ok(_) | Err(Errno::ECHILD) => Ok(None),
        // A real-time signal ended it, which nix has no name for: the kernel's own record is asked.
        Err(Errno::EINVAL) => peek_raw(),
        Err(errno) => Err(errno.into()),
    }
}

fn waitid_raw(kind: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> Result<libc::siginfo_t, Errno> {
    // SAFETY: siginfo_t is plain memory, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives through the call.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, options) })?;
    Ok(info)
}

fn peek_raw() -> io::Result<Option<i32>> {
    let info = waitid_raw(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?;
    // SAFETY: waitid filled it for a child, or left it zero.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Whether this is a child of ours that nobody has waited for yet.
pub fn is_child(pid: i32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    libc::id_t::try_from(pid).is_ok_and(|id| id != 0 && waitid_raw(libc::P_PID, id, options).is_ok())
}

/// A descriptor of a child of ours that nobody has waited for yet.
pub fn pidfd_of_child(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Wait for this child, which has ended.
pub fn reap(pid: i32) -> io::Result<Ended> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    let info = loop {
        match waitid_raw(libc::P_PID, id, libc::WEXITED) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    // SAFETY: waitid filled it for a child that has ended.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED {
        Ended::Code(status)
    } else {
        Ended::Signal(status)
    })
}

/// Send SIGKILL to a child of ours that nobody has waited for yet.
pub fn kill_child(pid: i32) -> io::Result<()> {
    Ok(nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?)
}

/// A new session without a terminal.
pub fn new_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// Orphans of our descendants become our children.
pub fn become_subreaper() -> io::Result<()> {
    Ok(sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?)
}

/// Nobody but root can look into this process (or, after a fork, into its children) until it execs.
pub fn set_not_dumpable() -> io::Result<()> {
    Ok(sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)?)
}

/// The name `ps` shows, of which 15 bytes are kept.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    Ok(sys::set_name(name)?)
}

/// Children are not waited for: the kernel forgets them at once.
pub fn ignore_children() -> io::Result<()> {
    set_action(Signal::SIGCHLD, SigHandler::SigIgn)
}

/// What a shim wants of signals: children are waited for, a broken pipe is an error and not a death, and the terminal it
/// does not have says nothing.
pub fn shim_signal_actions() -> io::Result<()> {
    set_action(Signal::SIGCHLD, SigHandler::SigDfl)?;
    for ignored in [
        Signal::SIGPIPE,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        set_action(ignored, SigHandler::SigIgn)?;
    }
    Ok(())
}

fn set_action(signal: Signal, handler: SigHandler) -> io::Result<()> {
    // SAFETY: no handler function is installed, only one of the kernel's own actions.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// Block these signals and read them from the descriptor (non-blocking) instead.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<SignalDescriptor> {
    let mut set = SigSet::empty();
    for &number in signals {
        set.add(Signal::try_from(number)?);
    }
    set.thread_block()?;
    let flags = nix::sys::signalfd::SfdFlags::SFD_NONBLOCK | nix::sys::signalfd::SfdFlags::SFD_CLOEXEC;
    Ok(SignalDescriptor {
        inner: nix::sys::signalfd::SignalFd::with_flags(&set, flags)?,
    })
}

/// Signals as something to read.
#[derive(Debug)]
pub struct SignalDescriptor {
    inner: nix::sys::signalfd::SignalFd,
}

impl SignalDescriptor {
    /// The next signal's number; `None` when there is none.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let signal = self.inner.read_signal()?;
        Ok(signal.map(|info| i32::try_from(info.ssi_signo).unwrap_or(0)))
    }
}

impl std::os::fd::AsFd for SignalDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Copy an executable into anonymous memory that nobody can change or enlarge any more, so that whoever finds it through
/// /proc/<pid>/exe cannot write to the file on disk.
pub fn sealed_copy(executable: &Path) -> io::Result<File> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let mut source = File::open(executable)?;
    // MFD_EXEC (0x10) is wanted from kernels that have it, where vm.memfd_noexec may be set; others refuse the bit.
    let wanted = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let created =
        memfd_create("podd", wanted | MFdFlags::from_bits_retain(0x10)).or_else(|_| memfd_create("podd", wanted));
    let mut copy = File::from(created?);
    io::copy(&mut source, &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    copy.rewind()?;
    Ok(copy)
}

/// The descriptor on which a program started by [`spawn_sealed`] finds its socket.
pub const INHERITED_SOCKET: RawFd = 3;

/// Run a sealed copy of `executable` with these arguments, `socket` as descriptor 3 and nothing else open but an
/// inherited stderr. The child is the caller's to wait for.
pub fn spawn_sealed(executable: &Path, arguments: &[&str], socket: &OwnedFd) -> io::Result<std::process::Child> {
    let copy = sealed_copy(executable)?;
    let program = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let raw = socket.as_raw_fd();
    let mut command = Command::new(program);
    command
        .arg0("podd")
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only these two system calls are made.
    unsafe {
        command.pre_exec(move || {
            // dup2 onto itself would leave it to be closed by exec.
            if raw == INHERITED_SOCKET {
                Errno::result(libc::fcntl(raw, libc::F_SETFD, 0))?;
            } else {
                Errno::result(libc::dup2(raw, INHERITED_SOCKET))?;
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Take the descriptor that [`spawn_sealed`] left. `None`: it is not open, or not a socket.
///
/// # Safety contract kept by the caller
/// Called once, at the very start of the program, before anything else can own descriptor 3.
pub fn inherited_socket() -> Option<OwnedFd> {
    // SAFETY: only looked at, not owned.
    let borrowed = unsafe { BorrowedFd::borrow_raw(INHERITED_SOCKET) };
    let stat = sys::stat(borrowed).ok()?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return None;
    }
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(borrowed, flags).ok()?;
    // SAFETY: it is open, and at the start of the program nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(INHERITED_SOCKET) })
}

/// Close everything but the standard streams and [`INHERITED_SOCKET`]. At the start of a program, before it owns more.
pub fn close_others() -> io::Result<()> {
    Ok(sys::close_from(INHERITED_SOCKET + 1, 0)?)
}

/// Point stdin, stdout and stderr to /dev/null, so that no pipe of whoever started us is held open.
pub fn detach_stdio() -> io::Result<()> {
    let null = sys::open(c"/dev/null", libc::O_RDWR)?;
    for standard in 0..=2 {
        sys::dup2(std::os::fd::AsFd::as_fd(&null), standard)?;
    }
    Ok(())
}

/// Set the umask of this process.
pub fn set_umask(mask: u32) {
    // SAFETY: umask cannot fail and touches no memory.
    unsafe { libc::umask(mask) };
}

/// `CLOCK_REALTIME` in nanoseconds since the epoch.
pub fn realtime() -> i64 {
    // The call fails for clocks that do not exist alone, and this one always does.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or((0, 0), |now| (now.tv_sec(), now.tv_nsec()));
    now.0 * 1_000_000_000 + now.1
}

/// Let all threads share two heaps (glibc, mallopt(3) `M_ARENA_MAX`): with eight a core, each thread's small leftovers
/// add up to megabytes. Call it before there is a second thread.
pub fn share_heaps() {
    // SAFETY: mallopt takes two integers and only sets a limit for heaps made later.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Give memory that is free now back to the kernel: a shim sleeps most of its life.
pub fn trim_heap() {
    // SAFETY: glibc's own function on its own heap.
    unsafe { libc::malloc_trim(0) };
}

/// Give back the stack's pages that only a deeper call needed. For the main thread alone, whose stack has room to grow.
#[inline(never)]
pub fn trim_stack() {
    const PAGE: usize = 4096;
    // What lies so far beneath the main thread's stack pointer is its own: the kernel keeps everything else out of the
    // 128 MiB beneath the top (`mmap_base`).
    const DEEPEST: usize = 1 << 20;
    let here = 0_u8;
    let here = std::hint::black_box(&raw const here).expose_provenance();
    // A page beneath this frame stays, for the call below.
    let end = (here & !(PAGE - 1)).saturating_sub(PAGE);
    let from = end.saturating_sub(DEEPEST);
    // SAFETY: no frame lives beneath this one but that of the call itself, for which a page is left; what is dropped is
    // never read before it is written again. Where nothing is mapped nothing happens (ENOMEM).
    let _unmapped = unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut(from),
            end - from,
            libc::MADV_DONTNEED,
        )
    };
}

/// Let go of the pages of this program's code that are mapped by now. Those that are still needed come back from the page
/// cache when they are next run, a few at a time.
pub fn unmap_code() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (from, to) in maps.lines().filter_map(|line| code_of(line, &program)) {
        // SAFETY: a private mapping of a file that is only read and run was never written to: each of its pages is read
        // from the file again, with the same content, when it is touched next.
        let done = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(from),
                to.saturating_sub(from),
                libc::MADV_DONTNEED,
            )
        };
        Errno::result(done)?;
    }
    Ok(())
}

/// From where to where a line of `proc_pid_maps(5)` maps code of this program.
fn code_of(line: &str, program: &Path) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp";
    let path = words.nth(3)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (is_code && Path::new(path) == program).then_some((address(from)?, address(to)?))
}

/// This thread lets others go first on the processor and the disk, for the rest of its life. It is not starved by them:
/// whoever fills the disk must not be able to keep it from being measured.
pub fn stand_back() {
    const WHO_PROCESS: libc::c_int = 1;
    // The last of the ordinary class (ioprio_set(2)).
    const LAST: libc::c_int = (2 << 13) | 7;
    // Neither is needed for what it does; 0 is this thread.
    let _ = rustix::process::setpriority_process(None, 10);
    // SAFETY: it takes three numbers and touches no memory.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, LAST) };
}

/// This boot's id, from `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    let mut text = String::new();
    File::open("/proc/sys/kernel/random/boot_id")?.read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own, since a test runs in a thread.
    #[test]
    fn a_stack_that_was_deep_goes_on_after_it_was_given_back() {
        fn deep(levels: u8) -> u64 {
            let page = std::hint::black_box([levels; 4096]);
            let below = if levels == 0 { 0 } else { deep(levels - 1) };
            below + u64::from(page[17])
        }
        // SAFETY: the child calls nothing that allocates or locks, and leaves by _exit.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let before = deep(60);
                trim_stack();
                let is_right = before == deep(60) && before == (0..=60).sum::<u64>();
                // SAFETY: as above.
                unsafe { libc::_exit(i32::from(!is_right)) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn only_the_programs_own_code_is_let_go_of() {
        let program = Path::new("/usr/bin/podd");
        let line = "55d0c000-55d0f000 r-xp 00003000 fe:00 1234                       /usr/bin/podd";
        assert_eq!(code_of(line, program), Some((0x55d0_c000, 0x55d0_f000)));
        for other in [
            line.replace("r-xp", "r--p"),
            line.replace("bin/podd", "lib/libc.so.6"),
            line.replace("/usr/bin/podd", ""),
            String::new(),
        ] {
            assert_eq!(code_of(&other, program), None, "{other}");
        }
        unmap_code().unwrap();
    }
    use std::io::Write;

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let mut copy = sealed_copy(Path::new("/bin/busybox")).unwrap();
        assert_eq!(copy.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        let mut bytes = Vec::new();
        copy.rewind().unwrap();
        copy.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, std::fs::read("/bin/busybox").unwrap());
    }

    #[test]
    fn the_start_time_of_a_process_stays_and_differs_from_its_childs_pid() {
        let own = start_time(own_pid()).unwrap();
        assert_eq!(own, start_time(own_pid()).unwrap());
        assert!(own > 0);
    }
}
