//! What of the machine's own power podd can hand on to a container: capabilities and device nodes.
//!
//! Goes in: where `/proc/self/status` and `/dev` are. Comes out: OCI values.
//!
//! **Invariant:** it only looks.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

/// By their numbers (linux/capability.h).
pub const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Not shown to privileged containers, which have their own (containerd `getDevices`).
const NOT_DEVICES: [&str; 9] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    ".lxc",
    ".lxd-mounts",
    ".udev",
    "console",
    "hugepages",
];

/// The capabilities of this process which it may hand on: those that it has and that its bounding set lets it keep.
/// `status` is `/proc/self/status`.
///
/// # Errors
/// It cannot be read, or lacks one of the two lines.
pub fn capabilities(status: &Path) -> io::Result<Vec<Capability>> {
    let text = fs::read_to_string(status)?;
    let set = |name: &str| {
        let hex = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let bits = hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} has no {name}", status.display()),
            )
        })
    };
    let bits = set("CapPrm")? & set("CapBnd")?;
    Ok((0..)
        .zip(CAPABILITIES)
        .filter(|(number, _)| bits & (1 << number) != 0)
        .map(|(_, name)| name)
        .collect())
}

/// Every device node beneath `dev` (`/dev`), links not followed, sorted by path; terminals of `pts` and the console are
/// not among them.
///
/// # Errors
/// A directory cannot be read.
pub fn devices(dev: &Path) -> io::Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    collect(dev, &mut found)?;
    found.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<LinuxDevice>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if NOT_DEVICES.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Unplugged while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect(&entry.path(), found)?;
            continue;
        }
        let typ = if kind.is_block_device() {
            LinuxDeviceType::B
        } else if kind.is_char_device() {
            LinuxDeviceType::C
        } else {
            continue;
        };
        let number = metadata.rdev();
        let device = LinuxDeviceBuilder::default()
            .path(entry.path())
            .typ(typ)
            .major(i64::from(libc::major(number)))
            .minor(i64::from(libc::minor(number)))
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build();
        found.push(device.expect("every field of a device has a default"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_held_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let status = directory.path().join("status");
        fs::write(
            &status,
            "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000010000000003\nCapBnd:\t0000010000000005\n",
        )
        .unwrap();
        assert_eq!(
            capabilities(&status).unwrap(),
            [Capability::Chown, Capability::CheckpointRestore]
        );
        fs::write(&status, "CapPrm:\tzz\n").unwrap();
        assert!(capabilities(&status).is_err());
        // Numbers and names agree with the kernel's header, of which nix has no words: the two ends and one between.
        assert_eq!(CAPABILITIES[21], Capability::SysAdmin);
        assert!(
            capabilities(Path::new("/proc/self/status"))
                .unwrap()
                .contains(&Capability::SysAdmin)
        );
    }

    #[test]
    fn devices_of_this_machine() {
        let devices = devices(Path::new("/dev")).unwrap();
        let null = devices
            .iter()
            .find(|device| device.path() == Path::new("/dev/null"))
            .unwrap();
        assert_eq!((null.typ(), null.major(), null.minor()), (LinuxDeviceType::C, 1, 3));
        assert!(!devices.iter().any(|device| device.path().starts_with("/dev/pts")));
        assert!(devices.is_sorted_by_key(|device| device.path().clone()));
    }
}
