//! What this machine is: read once at start.
//!
//! Goes in: the root of the file system, where `/proc`, `/sys` and `/etc` are beneath. Comes out: [`Facts`].
//!
//! What cannot be read is left empty, as a kubelet leaves it, but for the memory and the disk that pods share.

use std::collections::BTreeMap;
use std::path::Path;

use super::NodeError;
use crate::linux::host;

/// What a Node tells of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system that pods write to.
    pub disk: u64,
    /// Bytes of huge pages, by the size of one page in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    pub kernel: String,
    pub os_image: String,
    pub boot_id: String,
    pub machine_id: String,
    pub system_uuid: String,
}

impl Facts {
    /// Of the machine whose files are beneath `root`; `state` is where pods write.
    pub fn read(root: &Path, state: &Path) -> Result<Self, NodeError> {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let word = |path: &str| text(path).trim().to_owned();
        let machine_id = word("etc/machine-id");
        let system_uuid = Some(word("sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty());
        Ok(Self {
            cpus: cpus(&text("sys/devices/system/cpu/online"))
                .or_else(|| std::thread::available_parallelism().ok().map(|n| n.get() as u64))
                .unwrap_or(1),
            memory: host::memory_total().map_err(NodeError::Memory)?,
            disk: host::disk_size(state).map_err(|source| NodeError::Disk {
                path: state.to_owned(),
                source,
            })?,
            huge_pages: huge_pages(&root.join("sys/kernel/mm/hugepages")),
            kernel: word("proc/sys/kernel/osrelease"),
            os_image: os_image(&text("etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
            boot_id: word("proc/sys/kernel/random/boot_id"),
            system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
            machine_id,
        })
    }

    /// Huge pages that no pod can be kept from are given to none: there are none of other sizes than these, in bytes.
    pub fn keep_page_sizes(&mut self, limited: &[u64]) {
        for (size, bytes) in &mut self.huge_pages {
            if !limited.contains(size) && *bytes > 0 {
                tracing::warn!(
                    page.bytes = size,
                    "no cgroup hierarchy that podd uses has the hugetlb controller: pods get no huge pages"
                );
                *bytes = 0;
            }
        }
    }
}

/// `0-3,8` is five.
fn cpus(online: &str) -> Option<u64> {
    let mut count = 0;
    for range in online.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// `PRETTY_NAME` of os-release(5).
fn os_image(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// `hugepages-<kB>kB/nr_hugepages` of each size that the kernel knows.
fn huge_pages(directory: &Path) -> BTreeMap<u64, u64> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let kilobytes: u64 = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            let size = kilobytes.checked_mul(1024)?;
            Some((size, size.checked_mul(pages.trim().parse().ok()?)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_ranges() {
        for (online, count) in [
            ("0\n", Some(1)),
            ("0-3", Some(4)),
            ("0-1,4,6-7\n", Some(5)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(cpus(online), count, "{online:?}");
        }
    }

    #[test]
    fn the_os_is_named_as_it_names_itself() {
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        assert_eq!(os_image("ID=x\n"), None);
    }

    #[test]
    fn huge_pages_that_cannot_be_limited_are_not_there() {
        let mut facts = Facts {
            cpus: 1,
            memory: 1,
            disk: 1,
            huge_pages: [(2 << 20, 8 << 20), (1 << 30, 1 << 30)].into(),
            kernel: String::new(),
            os_image: String::new(),
            boot_id: String::new(),
            machine_id: String::new(),
            system_uuid: String::new(),
        };
        facts.keep_page_sizes(&[2 << 20]);
        assert_eq!(facts.huge_pages, [(2 << 20, 8 << 20), (1 << 30, 0)].into());
        facts.keep_page_sizes(&[]);
        assert_eq!(facts.huge_pages, [(2 << 20, 0), (1 << 30, 0)].into());
    }

    #[test]
    fn facts_come_from_the_files_beneath_the_root() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-7\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4\n"),
            ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("proc/sys/kernel/random/boot_id", "b\n"),
            ("etc/os-release", "PRETTY_NAME=\"An OS\"\n"),
            ("etc/machine-id", "m\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let facts = Facts::read(root.path(), root.path()).unwrap();
        assert!(facts.memory > 0 && facts.disk > 0);
        assert_eq!(
            facts,
            Facts {
                cpus: 8,
                memory: facts.memory,
                disk: facts.disk,
                huge_pages: [(2 << 20, 8 << 20), (1 << 30, 0)].into(),
                kernel: "6.1.0".to_owned(),
                os_image: "An OS".to_owned(),
                boot_id: "b".to_owned(),
                machine_id: "m".to_owned(),
                // Where the firmware tells none, it is the machine's.
                system_uuid: "m".to_owned(),
            }
        );
    }
}
