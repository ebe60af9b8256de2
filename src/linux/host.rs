//! What this machine is called and has, and signals by number and by name.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as nix_kill};
use nix::unistd::Pid;

/// Cannot be caught or ignored.
pub const SIGKILL: i32 = libc::SIGKILL;
/// The polite request to end.
pub const SIGTERM: i32 = libc::SIGTERM;

/// gethostname(2).
pub fn name() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}

/// Bytes of memory this machine has (`MemTotal` of /proc/meminfo).
pub fn memory_total() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))
}

/// Bytes of the file system that `path` is on.
pub fn disk_size(path: &Path) -> io::Result<u64> {
    disk_room(path).map(|room| room.bytes)
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    pub bytes: u64,
    /// That whoever is not root can still write.
    pub bytes_available: u64,
    /// 0: it does not count them.
    pub inodes: u64,
    pub inodes_free: u64,
}

/// How full the file system is that `path` is on.
pub fn disk_room(path: &Path) -> io::Result<DiskRoom> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(DiskRoom {
        bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        bytes_available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// Send a signal to a process that is known, by a lock it holds, to be the one that is meant. Gone already: done.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    match nix_kill(Pid::from_raw(pid), Signal::try_from(signal)?) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// `SIGTERM`, `TERM`, `15` or `RTMIN+3`, as images name their stop signals (moby `signal.ParseSignal`).
pub fn signal_number(name: &str) -> Option<i32> {
    const SIGRTMIN: i32 = 34;
    const SIGRTMAX: i32 = 64;
    if let Ok(number) = name.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(SIGRTMIN, offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(SIGRTMAX, offset);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
    let number = base.checked_add(offset)?;
    (34..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_read_as_images_write_them() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN", Some(34)),
            ("65", None),
            ("SIGNOPE", None),
            ("RTMIN+99", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn this_machine_has_memory_and_a_name() {
        assert!(memory_total().unwrap() > 1 << 20);
        assert!(disk_size(Path::new("/")).unwrap() > 1 << 20);
        assert!(!name().unwrap().is_empty());
    }
}
