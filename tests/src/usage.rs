//! What a process has of the machine's: memory, threads, open files.

use std::fmt;
use std::path::Path;

/// What a process has now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory, in bytes (`VmRSS`).
    pub resident: u64,
    /// Threads.
    pub threads: usize,
    /// Open files, sockets among them.
    pub files: usize,
}

impl Usage {
    /// Of the process with this id, as `/proc` has it.
    pub(crate) fn of(pid: u32) -> Self {
        let proc = Path::new("/proc").join(pid.to_string());
        let status = std::fs::read_to_string(proc.join("status")).expect("the process was not waited for");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u64 = line.trim_end_matches("kB").trim().parse().unwrap_or_default();
        let count = |what| std::fs::read_dir(proc.join(what)).map_or(0, Iterator::count);
        Self { resident: kib << 10, threads: count("task"), files: count("fd") }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let resident = self.resident as f64 / f64::from(1 << 20);
        write!(to, "{resident:.1} MiB resident, {} threads, {} open files", self.threads, self.files)
    }
}
