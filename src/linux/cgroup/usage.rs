//! What a cgroup has and uses now, read from its files.

use std::fs;
use std::path::PathBuf;

use super::{CgroupError, Cgroups, relative};

/// Microseconds to which a quota is scaled: the period that podd writes.
const PERIOD: i64 = 100_000;

/// Limits of a cgroup; `None` where it has none, or the machine cannot limit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds of cpu time in each 100 ms.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<u64>,
}

impl Cgroups {
    /// The limits of a cgroup that is there.
    ///
    /// # Errors
    /// `InvalidPath`, `Read` (the cgroup is not there).
    pub fn limits(&self, path: &str) -> Result<Limits, CgroupError> {
        Ok(Limits {
            cpu_quota: self.cpu_quota(path)?,
            memory: self.memory_limit(path)?,
        })
    }

    /// Bytes of memory that a cgroup uses, with what lies beneath it; `None` without a memory controller.
    ///
    /// # Errors
    /// `InvalidPath`, `Read` (the cgroup is not there).
    pub fn memory_usage(&self, path: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.text("memory", path, "memory.usage_in_bytes", "memory.current")? else {
            return Ok(None);
        };
        Ok(text.trim().parse().ok())
    }

    fn memory_limit(&self, path: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.text("memory", path, "memory.limit_in_bytes", "memory.max")? else {
            return Ok(None);
        };
        // v1 has no word for "none": it says the largest multiple of a page.
        Ok(text.trim().parse().ok().filter(|limit| *limit < 1 << 62))
    }

    fn cpu_quota(&self, path: &str) -> Result<Option<i64>, CgroupError> {
        let Some(text) = self.text("cpu", path, "cpu.cfs_quota_us", "cpu.max")? else {
            return Ok(None);
        };
        let mut numbers = text.split_whitespace().map(|number| number.parse::<i64>().ok());
        let quota = numbers.next().flatten().filter(|quota| *quota > 0);
        let period = if let Some(period) = numbers.next() {
            period
        } else {
            let text = self.text("cpu", path, "cpu.cfs_period_us", "cpu.max")?;
            text.and_then(|text| text.trim().parse().ok())
        };
        let scaled = |quota: i64| quota.saturating_mul(PERIOD) / period.filter(|period| *period > 0).unwrap_or(PERIOD);
        Ok(quota.map(scaled))
    }

    /// The text of one of two files, whichever the layout has; `None` where nothing controls it.
    fn text(&self, controller: &str, path: &str, v1: &str, v2: &str) -> Result<Option<String>, CgroupError> {
        let path = relative(path)?;
        let Some(hierarchy) = self.controlling(controller) else {
            return Ok(None);
        };
        let file: PathBuf = hierarchy
            .mount_point
            .join(path)
            .join(if hierarchy.v2 { v2 } else { v1 });
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(source) => Err(CgroupError::Read { path: file, source }),
        }
    }
}
