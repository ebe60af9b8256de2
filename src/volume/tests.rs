//! Real directories and mounts beneath a temporary root.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use tempfile::TempDir;

use super::*;
use crate::model::{ContainerSpec, HostPathType, Resources, Volume, testing};

const UID: &str = "0b9a3c52-6f0e-4d57-9a53-0c7f3b1b2a10";

pub(super) fn pod() -> PodSpec {
    PodSpec {
        uid: Uid(UID.to_owned()),
        containers: vec![container(None)],
        ..testing::pod()
    }
}

fn container(memory_limit: Option<u64>) -> ContainerSpec {
    ContainerSpec {
        resources: Resources {
            memory_limit,
            ..Resources::default()
        },
        ..testing::container("c")
    }
}

fn empty_dir(name: &str, medium: EmptyDirMedium, size_limit: Option<u64>) -> Volume {
    Volume {
        name: name.to_owned(),
        source: VolumeSource::EmptyDir { medium, size_limit },
    }
}

fn host_path(name: &str, path: &Path, kind: HostPathType) -> Volume {
    Volume {
        name: name.to_owned(),
        source: VolumeSource::HostPath {
            path: path.to_owned(),
            kind,
        },
    }
}

pub(super) fn with(volumes: Vec<Volume>) -> PodSpec {
    PodSpec { volumes, ..pod() }
}

pub(super) fn context() -> EtcContext {
    EtcContext {
        ip: Some("10.244.0.7".parse().unwrap()),
        node_name: "node".to_owned(),
        ..EtcContext::default()
    }
}

/// A root of its own, from which every mount is taken when the test is over, however it ends.
pub(super) struct Root {
    dir: TempDir,
    pub(super) volumes: Volumes,
}

impl Root {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let allocatable = Capacity {
            cpu_milli: 2_000,
            memory: 1 << 30,
            storage: 1 << 40,
        };
        let volumes = Volumes::new(dir.path().join("pods"), dir.path().join("memory"), allocatable);
        Self { dir, volumes }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn mounts(&self) -> Vec<mounts::MountPoint> {
        mounts::beneath(&self.path().canonicalize().unwrap()).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for mount in self.mounts() {
            let _ = mounts::unmount_now_or_later(&mount.path);
        }
    }
}

pub(super) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn everything_is_made_once() {
    let root = Root::new();
    let pod = with(vec![
        empty_dir("disk", EmptyDirMedium::Disk, None),
        empty_dir("memory", EmptyDirMedium::Memory, Some(1 << 20)),
    ]);
    let prepared = root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap();
    let (disk, memory) = (&prepared.sources["disk"], &prepared.sources["memory"]);
    assert_eq!(*disk, root.path().join("pods").join(UID).join("volumes/disk"));
    assert_eq!((mode(disk), mode(memory)), (0o777, 0o777));
    assert_eq!(mode(&root.path().join("pods").join(UID)), 0o700);
    assert_eq!(mode(&prepared.hosts), 0o644);
    assert!(
        fs::read_to_string(&prepared.hosts)
            .unwrap()
            .ends_with("\n10.244.0.7\tweb\n")
    );
    assert_eq!(fs::read_to_string(&prepared.hostname).unwrap(), "web\n");

    fs::write(disk.join("f"), "kept").unwrap();
    fs::write(memory.join("f"), "kept too").unwrap();
    fs::set_permissions(disk, fs::Permissions::from_mode(0o750)).unwrap();
    let inode = fs::metadata(&prepared.hosts).unwrap().ino();
    assert_eq!(
        root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap(),
        prepared
    );
    assert_eq!(fs::read_to_string(disk.join("f")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(memory.join("f")).unwrap(), "kept too");
    assert_eq!(mode(disk), 0o750, "what a container changed stays");
    assert_eq!(
        fs::metadata(&prepared.hosts).unwrap().ino(),
        inode,
        "the file that containers have mounted"
    );
    assert_eq!(root.mounts().len(), 1);

    // A container wrote into it, or the address is another one: it is a new file then, and the old one stays as it is.
    let old = fs::File::open(&prepared.hosts).unwrap();
    let moved = EtcContext {
        ip: Some("10.244.0.8".parse().unwrap()),
        ..context()
    };
    root.volumes.prepare(&pod, &moved, &Sources::default()).unwrap();
    assert!(
        fs::read_to_string(&prepared.hosts)
            .unwrap()
            .ends_with("\n10.244.0.8\tweb\n")
    );
    assert!(io::read_to_string(old).unwrap().ends_with("\n10.244.0.7\tweb\n"));

    assert_eq!(root.volumes.list().unwrap(), [Uid(UID.to_owned())]);
    root.volumes.remove(&pod.uid).unwrap();
    root.volumes.remove(&pod.uid).unwrap();
    assert_eq!(root.volumes.list().unwrap(), []);
    assert_eq!(root.mounts(), []);
    assert_eq!(fs::read_dir(root.path().join("pods")).unwrap().count(), 0);
}

#[test]
fn the_kernel_keeps_the_size_of_a_memory_volume() {
    let root = Root::new();
    let pod = with(vec![empty_dir("m", EmptyDirMedium::Memory, Some(64 << 10))]);
    let prepared = root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap();
    let error = fs::write(prepared.sources["m"].join("f"), vec![1; 65 << 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    fs::write(prepared.sources["m"].join("f"), vec![1; 64 << 10]).unwrap();
    root.volumes.remove(&pod.uid).unwrap();
}

#[test]
fn a_memory_volume_is_never_larger_than_the_pods_memory() {
    let sized = |limits: &[Option<u64>], size_limit| {
        let pod = PodSpec {
            containers: limits.iter().map(|limit| container(*limit)).collect(),
            ..pod()
        };
        memory_size(&pod, size_limit)
    };
    assert_eq!(sized(&[None], None), None);
    assert_eq!(sized(&[None], Some(0)), None);
    assert_eq!(sized(&[None], Some(7)), Some(7));
    assert_eq!(sized(&[Some(3), Some(4)], None), Some(7));
    assert_eq!(sized(&[Some(3), Some(4)], Some(5)), Some(5));
    assert_eq!(sized(&[Some(3), Some(4)], Some(9)), Some(7));
    assert_eq!(sized(&[Some(3), None], Some(9)), Some(9));
}

#[test]
fn host_paths_of_every_type() {
    use HostPathType::{BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket, Unset};
    let root = Root::new();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "").unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    symlink(at("dir"), at("to-dir")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    let block = at("block");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &block,
        rustix::fs::FileType::BlockDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(7, 250),
    )
    .unwrap();
    let null = Path::new("/dev/null").to_owned();

    let expected = |kind| match kind {
        Unset => "anything",
        DirectoryOrCreate | Directory => "a directory",
        FileOrCreate | File => "a file",
        Socket => "a socket file",
        CharDevice => "a character device",
        BlockDevice => "a block device",
    };
    let kinds = [
        Unset,
        DirectoryOrCreate,
        Directory,
        FileOrCreate,
        File,
        Socket,
        CharDevice,
        BlockDevice,
    ];
    let not_directories = [Unset, FileOrCreate, File].as_slice();
    let fits: [(PathBuf, Vec<HostPathType>); 6] = [
        (at("dir"), vec![Unset, DirectoryOrCreate, Directory]),
        (at("to-dir"), vec![Unset, DirectoryOrCreate, Directory]),
        (at("file"), not_directories.to_vec()),
        (at("socket"), [not_directories, &[Socket]].concat()),
        (null, [not_directories, &[CharDevice]].concat()),
        (block, [not_directories, &[BlockDevice]].concat()),
    ];
    for (path, fitting) in &fits {
        for kind in kinds {
            let pod = with(vec![host_path("v", path, kind)]);
            match root.volumes.prepare(&pod, &context(), &Sources::default()) {
                Ok(prepared) => {
                    assert!(fitting.contains(&kind), "{kind:?} {path:?}");
                    assert_eq!(prepared.sources["v"], *path);
                }
                Err(error) => {
                    assert!(!fitting.contains(&kind), "{kind:?} {path:?}: {error}");
                    let words = format!(
                        "hostPath type check failed: {} is not {}",
                        path.display(),
                        expected(kind)
                    );
                    assert_eq!(error.to_string(), words);
                }
            }
        }
    }
    for kind in [Directory, File, Socket, CharDevice, BlockDevice] {
        let pod = with(vec![host_path("v", &at("absent"), kind)]);
        let error = root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap_err();
        assert!(error.to_string().starts_with("hostPath type check failed: "), "{error}");
        assert!(!at("absent").exists());
    }
    for (number, kind) in [Unset, DirectoryOrCreate].into_iter().enumerate() {
        let path = at(&format!("made-{number}/inner"));
        root.volumes
            .prepare(
                &with(vec![host_path("v", &path, kind)]),
                &context(),
                &Sources::default(),
            )
            .unwrap();
        assert_eq!(mode(&path), 0o755);
    }
    root.volumes
        .prepare(
            &with(vec![host_path("v", &at("made"), FileOrCreate)]),
            &context(),
            &Sources::default(),
        )
        .unwrap();
    assert_eq!((mode(&at("made")), fs::metadata(at("made")).unwrap().len()), (0o644, 0));
    let error = root
        .volumes
        .prepare(
            &with(vec![host_path("v", &at("no/file"), FileOrCreate)]),
            &context(),
            &Sources::default(),
        )
        .unwrap_err();
    assert!(matches!(error, VolumeError::HostPath { .. }), "{error}");

    root.volumes.remove(&Uid(UID.to_owned())).unwrap();
    assert!(
        at("dir").is_dir() && at("made").is_file(),
        "a host path is never removed"
    );
}

#[test]
fn removing_spares_what_is_foreign() {
    let root = Root::new();
    let pod = with(vec![
        empty_dir("disk", EmptyDirMedium::Disk, None),
        empty_dir("m", EmptyDirMedium::Memory, None),
    ]);
    let prepared = root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap();
    let canary = root.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("bird"), "alive").unwrap();
    symlink(&canary, prepared.sources["disk"].join("link")).unwrap();
    let cage = prepared.sources["disk"].join("deep/cage");
    fs::create_dir_all(&cage).unwrap();
    mount_bind(&canary, &cage).unwrap();
    // A second tmpfs on the first, as two agents might leave them, and one of somebody else.
    mounts::mount_tmpfs(&prepared.sources["m"], TMPFS_SOURCE, None, 0o777).unwrap();
    let foreign = prepared.sources["disk"].join("tmpfs");
    fs::create_dir(&foreign).unwrap();
    mounts::mount_tmpfs(&foreign, "somebody", None, 0o700).unwrap();
    fs::write(foreign.join("theirs"), "kept").unwrap();

    let error = root.volumes.remove(&pod.uid).unwrap_err();
    assert!(error.to_string().starts_with("cannot remove "), "{error}");
    assert_eq!(fs::read_to_string(canary.join("bird")).unwrap(), "alive");
    assert_eq!(fs::read_to_string(foreign.join("theirs")).unwrap(), "kept");
    assert_eq!(root.mounts().len(), 2, "only the foreign ones are left");
    assert!(!prepared.hosts.exists() && !prepared.sources["m"].exists());

    for path in [&cage, &foreign] {
        unmount(path, UnmountFlags::empty()).unwrap();
    }
    root.volumes.remove(&pod.uid).unwrap();
    assert_eq!(fs::read_to_string(canary.join("bird")).unwrap(), "alive");
    assert!(!root.path().join("pods").join(UID).exists());
}

#[test]
fn a_memory_volume_in_use_goes_all_the_same() {
    let root = Root::new();
    let pod = with(vec![empty_dir("m", EmptyDirMedium::Memory, None)]);
    let prepared = root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap();
    let _open = fs::File::create(prepared.sources["m"].join("f")).unwrap();
    root.volumes.remove(&pod.uid).unwrap();
    assert_eq!(root.mounts(), []);
    assert_eq!(root.volumes.list().unwrap(), []);
}

#[test]
fn only_what_podd_made_is_listed_and_no_name_leads_out() {
    let root = Root::new();
    assert_eq!(root.volumes.list().unwrap(), [], "before the first pod");
    root.volumes.prepare(&pod(), &context(), &Sources::default()).unwrap();
    for name in ["lost+found", "0B9A3C52-6F0E-4D57-9A53-0C7F3B1B2A10", ".0b9a3c52"] {
        fs::create_dir(root.path().join("pods").join(name)).unwrap();
    }
    assert_eq!(root.volumes.list().unwrap(), [Uid(UID.to_owned())]);
    for name in ["", ".", "..", "../x", "a/b", "/", "a/"] {
        let uid = Uid(name.to_owned());
        assert!(
            matches!(root.volumes.remove(&uid), Err(VolumeError::Name { .. })),
            "{name:?}"
        );
        let out = with(vec![empty_dir(name, EmptyDirMedium::Disk, None)]);
        assert!(
            matches!(
                root.volumes.prepare(&out, &context(), &Sources::default()),
                Err(VolumeError::Name { .. })
            ),
            "{name:?}"
        );
    }
    // Somebody put a link where a volume belongs: it is not followed.
    let pod = with(vec![empty_dir("v", EmptyDirMedium::Memory, None)]);
    symlink(root.path(), root.path().join("pods").join(UID).join("volumes/v")).unwrap();
    root.volumes.prepare(&pod, &context(), &Sources::default()).unwrap_err();
    assert_eq!(root.mounts(), []);
}
