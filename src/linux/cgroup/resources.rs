//! OCI resources into the files of a cgroup.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{CgroupError, Cgroups, device_filter, relative, write};

impl Cgroups {
    /// Set the limits of a cgroup that is there: cpu shares, quota and period; memory limit, swap (which OCI counts
    /// together with memory) and reservation; huge pages; pids; devices; and, in v2, the files that `unified` names.
    /// Everything else in `resources` is not podd's to set and is ignored (the spec podd builds has nothing else). A
    /// controller that the machine lacks is ignored too: `podd doctor` tells.
    ///
    /// # Errors
    /// `InvalidPath`, `Write`, `Devices`.
    pub fn apply(&self, path: &str, resources: &LinuxResources) -> Result<(), CgroupError> {
        let path = relative(path)?;
        if let (Some(cpu), Some(hierarchy)) = (resources.cpu(), self.controlling("cpu")) {
            let directory = hierarchy.mount_point.join(path);
            if hierarchy.v2 {
                cpu_v2(&directory, cpu)?;
            } else {
                cpu_v1(&directory, cpu)?;
            }
        }
        if let (Some(memory), Some(hierarchy)) = (resources.memory(), self.controlling("memory")) {
            let directory = hierarchy.mount_point.join(path);
            if hierarchy.v2 {
                memory_v2(&directory, memory)?;
            } else {
                memory_v1(&directory, memory)?;
            }
        }
        if let (Some(limits), Some(hierarchy)) = (resources.hugepage_limits(), self.controlling("hugetlb")) {
            let directory = hierarchy.mount_point.join(path);
            for limit in limits {
                huge_pages(&directory, hierarchy.v2, limit)?;
            }
        }
        if let (Some(files), [hierarchy]) = (resources.unified(), self.hierarchies())
            && hierarchy.v2
        {
            let directory = hierarchy.mount_point.join(path);
            for (name, value) in files {
                // The kernel's files are of one directory; none other is written.
                if !name.contains('/') {
                    write_if_there(directory.join(name), value)?;
                }
            }
        }
        if let (Some(pids), Some(hierarchy)) = (resources.pids(), self.controlling("pids")) {
            // 0 and less: no limit (OCI config-linux.md, "PIDs").
            let limit = if pids.limit() > 0 {
                pids.limit().to_string()
            } else {
                "max".to_owned()
            };
            write(hierarchy.mount_point.join(path).join("pids.max"), &limit)?;
        }
        if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
            if let Some(hierarchy) = self.controlling("devices") {
                devices_v1(&hierarchy.mount_point.join(path), rules)?;
            } else if let Some(hierarchy) = self.used().find(|h| h.v2) {
                device_filter::attach(&hierarchy.mount_point.join(path), rules)?;
            }
        }
        Ok(())
    }
}

fn cpu_v1(directory: &Path, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        write(directory.join("cpu.shares"), &shares.to_string())?;
    }
    if let Some(period) = cpu.period().filter(|period| *period > 0) {
        write(directory.join("cpu.cfs_period_us"), &period.to_string())?;
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        write(directory.join("cpu.cfs_quota_us"), &quota.to_string())?;
    }
    Ok(())
}

fn cpu_v2(directory: &Path, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        write(directory.join("cpu.weight"), &weight(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if quota.is_some() || cpu.period().is_some() {
        let limit = match quota {
            Some(quota) if quota > 0 => quota.to_string(),
            Some(_) | None => "max".to_owned(),
        };
        write(
            directory.join("cpu.max"),
            &format!("{limit} {}", cpu.period().unwrap_or(100_000)),
        )?;
    }
    Ok(())
}

/// v1 shares (2 ..= 262144, default 1024) as v2 weight (1 ..= 10000, default 100): the curve through the three points
/// which runc 1.3 and Kubernetes use (opencontainers/cgroups `ConvertCPUSharesToCgroupV2Value`).
pub(super) fn weight(shares: u64) -> u64 {
    let Ok(shares) = u32::try_from(shares) else {
        return 10_000;
    };
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = f64::from(shares).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 for the shares that are left here"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight
}

fn memory_v1(directory: &Path, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let both = memory.swap().filter(|swap| *swap != 0);
    let write_limit = || {
        limit.map_or(Ok(()), |limit| {
            write(directory.join("memory.limit_in_bytes"), &limit.to_string())
        })
    };
    let write_both = || {
        both.map_or(Ok(()), |both| {
            write_if_there(directory.join("memory.memsw.limit_in_bytes"), &both.to_string())
        })
    };
    // Memory alone may never exceed memory and swap together: what grows, grows there first.
    match write_limit() {
        Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::InvalidInput && both.is_some() => {
            write_both()?;
            write_limit()?;
        }
        result => {
            result?;
            write_both()?;
        }
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        write(directory.join("memory.soft_limit_in_bytes"), &reservation.to_string())?;
    }
    Ok(())
}

fn memory_v2(directory: &Path, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let amount = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(limit) = limit {
        write(directory.join("memory.max"), &amount(limit))?;
    }
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        // OCI's swap is memory and swap together; v2 counts swap alone (runc `ConvertMemorySwapToCgroupV2Value`).
        let swap = if swap < 0 {
            swap
        } else {
            (swap - limit.unwrap_or(0)).max(0)
        };
        write_if_there(directory.join("memory.swap.max"), &amount(swap))?;
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        write(directory.join("memory.low"), &amount(reservation))?;
    }
    Ok(())
}

/// Pages that are in use and, where the kernel counts them, those that are promised to a mapping
/// (opencontainers/cgroups `fs/hugetlb.go`, `fs2/hugetlb.go`).
fn huge_pages(directory: &Path, v2: bool, limit: &LinuxHugepageLimit) -> Result<(), CgroupError> {
    let (size, file) = (limit.page_size(), if v2 { "max" } else { "limit_in_bytes" });
    let value = limit.limit().to_string();
    write(directory.join(format!("hugetlb.{size}.{file}")), &value)?;
    write_if_there(directory.join(format!("hugetlb.{size}.rsvd.{file}")), &value)
}

/// A kernel that does not count something has no file for it, and nothing to limit.
fn write_if_there(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    match write(path, value) {
        Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// In order, one rule a write: the last one that matches decides.
fn devices_v1(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let open = |name: &str| {
        let path = directory.join(name);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| CgroupError::Open { path, source })
    };
    let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules {
        let (file, name) = if rule.allow() {
            (&mut allow, "devices.allow")
        } else {
            (&mut deny, "devices.deny")
        };
        let value = device_rule(rule);
        file.write_all(value.as_bytes()).map_err(|source| CgroupError::Write {
            path: directory.join(name),
            value,
            source,
        })?;
    }
    Ok(())
}

/// The kernel's words for a rule; every device, in all ways, is just `a`.
fn device_rule(rule: &LinuxDeviceCgroup) -> String {
    use oci_spec::runtime::LinuxDeviceType as Type;
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        Some(_) | None => "*".to_owned(),
    };
    let kind = match rule.typ().unwrap_or_default() {
        Type::A => return "a".to_owned(),
        Type::B => "b",
        Type::C | Type::U => "c",
        Type::P => "p",
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}
