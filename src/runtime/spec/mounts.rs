//! What is mounted, where, and in which order.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{SpecError, SpecInput, Variables};
use crate::model::{Propagation, Volume, VolumeSource};
use crate::shim::protocol::SubPath;

/// In the order of mounting: the defaults, then everything of the machine's, so that what lies beneath another mount
/// comes after it (containerd `WithMounts`: a stable sort by the number of names in the path). A default that the
/// container mounts over, or whose parent it does, is left out.
pub(super) fn mounts(input: &SpecInput<'_>, variables: &Variables) -> Result<(Vec<Mount>, Vec<SubPath>), SpecError> {
    let mut bound = Vec::new();
    let mut sub_paths = Vec::new();
    for mount in &input.container.mounts {
        let source = input
            .volumes
            .get(&mount.volume)
            .ok_or_else(|| SpecError::UnknownVolume {
                name: mount.volume.clone(),
            })?;
        let destination = absolute(&mount.path);
        if let Some(path) = variables.sub_path(mount)? {
            sub_paths.push(SubPath {
                destination: destination.clone(),
                path,
            });
        }
        let of = |is: fn(&VolumeSource) -> bool| {
            let mut volumes = input.pod.volumes.iter();
            volumes.any(|volume: &Volume| volume.name == mount.volume && is(&volume.source))
        };
        let is_image = of(|source| matches!(source, VolumeSource::Image { .. }));
        let is_written_by_podd = of(|source| matches!(source, VolumeSource::Projected { .. }));
        // Nobody writes into an image, nor into files that podd keeps, whatever the mount says (kubelet
        // `toKubeContainerImageVolumes`, `mustMountRO`).
        let read_only = mount.read_only || is_image || is_written_by_podd;
        let propagation = match mount.propagation {
            Propagation::None => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = match (read_only, mount.recursive_read_only) {
            (false, _) => "rw",
            (true, false) => "ro",
            // What is mounted beneath it is read-only as well.
            (true, true) => "rro",
        };
        let mut bound_volume = bind(source, destination, &["rbind", propagation, access], input);
        if is_image {
            // An overlay cannot be mapped: its layers are, where it is mounted.
            bound_volume.set_uid_mappings(None).set_gid_mappings(None);
        }
        bound.push(bound_volume);
    }
    let taken: BTreeSet<PathBuf> = bound.iter().map(|mount: &Mount| mount.destination().clone()).collect();

    let read_only_root = input.container.security.read_only_root;
    let etc = &input.etc;
    let files = [
        // kubelet `makeHostsMount`: writable even where the root is not; the other two follow the root (containerd).
        (&etc.hosts, Path::new("/etc/hosts"), false),
        (&etc.hostname, Path::new("/etc/hostname"), read_only_root),
        (&etc.resolv_conf, Path::new("/etc/resolv.conf"), read_only_root),
        (
            &etc.termination_log,
            input.container.termination_message_path.as_path(),
            false,
        ),
    ];
    for (source, destination, read_only) in files {
        let destination = absolute(destination);
        if !taken.contains(&destination) {
            let access = if read_only { "ro" } else { "rw" };
            bound.push(bind(source, destination, &["rbind", "rprivate", access], input));
        }
    }
    bound.sort_by_key(|mount| mount.destination().components().count());

    let mut all = defaults(input.container.security.privileged);
    if input.pod.isolation.host_ipc {
        // Shared memory is the machine's, too (containerd `sandboxDevShm`).
        let shm = Path::new(SHM);
        all.retain(|mount| mount.destination() != shm);
        all.push(bind(shm, shm.to_owned(), &["rbind", "rprivate", "rw"], input));
    }
    let root = Path::new("/");
    all.retain(|mount| {
        !mount
            .destination()
            .ancestors()
            .any(|above| above != root && taken.contains(above))
    });
    all.extend(bound);
    Ok((all, sub_paths))
}

const SHM: &str = "/dev/shm";

/// OCI's and containerd's (`defaultMounts`), without `/run`, which the CRI plugin leaves to the image.
fn defaults(privileged: bool) -> Vec<Mount> {
    let mode = if privileged { "rw" } else { "ro" };
    vec![
        new("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        new(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        new(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        new(
            SHM,
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        new("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        new("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode]),
        new(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", mode],
        ),
    ]
}

fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(super::strings(options)));
    mount
}

/// In a user namespace its files belong to the same numbers there as on the disk (kubelet `makeMounts`: every mount).
fn bind(source: &Path, destination: PathBuf, options: &[&str], input: &SpecInput<'_>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination)
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(super::strings(options)))
        .set_uid_mappings(super::mappings(input))
        .set_gid_mappings(super::mappings(input));
    mount
}

/// The path from `/`, with `.` and `..` resolved by their letters alone (Go `filepath.Clean`, as containerd has it):
/// links are the shim's to resolve, in the container's root.
fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}
