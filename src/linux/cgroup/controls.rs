//! What of a container's resources this machine's cgroups can limit.

use std::fs;
use std::path::Path;

use super::Cgroups;

/// Looked at once: it does not change while the machine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controls {
    /// There is one hierarchy, and it is v2.
    pub v2: bool,
    /// Swap can be limited: by the kernel's build, and in v1 by its command line (`swapaccount`).
    pub swap: bool,
    /// Sizes of huge pages that can be limited, in bytes, ascending; empty without the controller.
    pub page_sizes: Vec<u64>,
}

impl Controls {
    /// Of the machine whose files are beneath `root` (`/`).
    pub fn of(cgroups: &Cgroups, root: &Path) -> Self {
        let v2 = cgroups.hierarchies().iter().all(|hierarchy| hierarchy.v2);
        let memory = cgroups.controlling("memory").filter(|hierarchy| !hierarchy.v2);
        let swap = match memory {
            Some(hierarchy) => hierarchy.mount_point.join("memory.memsw.limit_in_bytes").exists(),
            // The root cgroup has no such file in v2; a kernel without swap has no list of it either.
            None => v2 && root.join("proc/swaps").exists(),
        };
        let page_sizes = match cgroups.controlling("hugetlb") {
            Some(_) => page_sizes(&root.join("sys/kernel/mm/hugepages")),
            None => Vec::new(),
        };
        Self { v2, swap, page_sizes }
    }
}

/// `hugepages-<kB>kB` for each size that the kernel knows.
fn page_sizes(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let kilobytes = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            kilobytes.parse::<u64>().ok()?.checked_mul(1024)
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// A size of pages as the files of the controller have it: `2MB`, `1GB`, `64KB`.
pub fn page_size_name(bytes: u64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let unit = units.into_iter().find(|(size, _)| bytes >= *size);
    unit.map_or_else(|| format!("{bytes}B"), |(size, name)| format!("{}{name}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_as_the_kernel_names_them() {
        for (bytes, name) in [
            (2 << 20, "2MB"),
            (1 << 30, "1GB"),
            (64 << 10, "64KB"),
            (512 << 20, "512MB"),
            (16 << 30, "16GB"),
        ] {
            assert_eq!(page_size_name(bytes), name);
        }
    }

    #[test]
    fn what_can_be_limited_is_told_by_the_machines_files() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n");
        put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "4\n");
        let pages = vec![2 << 20, 1 << 30];
        let look = |cgroups: &str| Controls::of(&Cgroups::detect(&root.path().join(cgroups)).unwrap(), root.path());

        put("v2/cgroup.controllers", "cpu memory pids hugetlb");
        let expected = Controls {
            v2: true,
            swap: false,
            page_sizes: pages,
        };
        assert_eq!(look("v2"), expected);
        put("proc/swaps", "");
        assert_eq!(look("v2"), Controls { swap: true, ..expected });

        put("v1/memory/tasks", "");
        assert_eq!(look("v1"), Controls::default());
        put("v1/memory/memory.memsw.limit_in_bytes", "1");
        let expected = Controls {
            swap: true,
            ..Controls::default()
        };
        assert_eq!(look("v1"), expected);
    }
}
