//! The size of a pod of the manifests, put around a client by a control group of Linux.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// What a worker's manifest asks for: half a processor.
const PERIOD: u64 = 100_000;
const QUOTA: u64 = PERIOD / 2;
/// And its memory limit, in bytes.
const MEMORY: u64 = 512 << 20;
const ROOT: &str = "/sys/fs/cgroup";

/// A control group. Dropping it removes it, if nobody is in it any more.
#[derive(Debug)]
pub(crate) struct Pod(Vec<PathBuf>);

impl Pod {
    /// Makes one; it takes root, and either version of control groups.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let name = format!("fleet-bench-{}", std::process::id());
        let root = Path::new(ROOT);
        let (groups, limits) = if root.join("cgroup.controllers").is_file() {
            let group = root.join(name);
            let limits = vec![
                (group.join("cpu.max"), format!("{QUOTA} {PERIOD}")),
                (group.join("memory.max"), MEMORY.to_string()),
            ];
            (vec![group], limits)
        } else {
            let (cpu, memory) = (root.join("cpu").join(&name), root.join("memory").join(&name));
            let limits = vec![
                (cpu.join("cpu.cfs_period_us"), PERIOD.to_string()),
                (cpu.join("cpu.cfs_quota_us"), QUOTA.to_string()),
                (memory.join("memory.limit_in_bytes"), MEMORY.to_string()),
            ];
            (vec![cpu, memory], limits)
        };
        // From here on whatever was made is removed.
        let pod = Self(groups);
        for group in &pod.0 {
            fs::create_dir(group).with_context(|| format!("{}", group.display()))?;
        }
        for (file, limit) in limits {
            fs::write(&file, limit).with_context(|| format!("{}", file.display()))?;
        }
        Ok(pod)
    }

    /// Puts a process into it, with all its threads.
    pub(crate) fn take(&self, process: u32) -> anyhow::Result<()> {
        for group in &self.0 {
            let file = group.join("cgroup.procs");
            fs::write(&file, process.to_string()).with_context(|| format!("{}", file.display()))?;
        }
        Ok(())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for group in &self.0 {
            drop(fs::remove_dir(group));
        }
    }
}
