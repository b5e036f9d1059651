//! What the system says of this process, under the names that all Prometheus clients use. Read from `/proc`; elsewhere
//! than on Linux there is none, and these metrics are left out.

use std::fmt;
use std::fs;
use std::time::Duration;

use super::exposition::Encoder;

/// Ticks a second in `/proc`: the same on every architecture that we run on, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// What memory is told in.
const KIBIBYTE: u64 = 1024;

pub(super) fn encode(encoder: &mut Encoder<'_>) -> fmt::Result {
    if let Some(stat) = Stat::read() {
        let help = "Seconds of CPU that the process has used";
        encoder.counter("process_cpu_seconds", help)?.sample(&[], stat.cpu)?;
        if let Some(start) = stat.start {
            let help = "When the process started, in seconds since 1970";
            encoder.gauge("process_start_time_seconds", help)?.sample(&[], start.as_secs_f64())?;
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, help, field) in [
        ("process_resident_memory_bytes", "Bytes of memory that are in use", "VmRSS:"),
        ("process_virtual_memory_bytes", "Bytes of address space that are in use", "VmSize:"),
    ] {
        if let Some(kibibytes) = number(&status, field) {
            encoder.gauge(name, help)?.sample(&[], kibibytes * KIBIBYTE)?;
        }
    }
    if let Some(threads) = number(&status, "Threads:") {
        encoder.gauge("process_threads", "Threads of the process")?.sample(&[], threads)?;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder's own.
        let open = open.count().saturating_sub(1) as u64;
        encoder.gauge("process_open_fds", "File descriptors that are open")?.sample(&[], open)?;
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = number(&limits, "Max open files") {
        encoder.gauge("process_max_fds", "File descriptors that may be open")?.sample(&[], most)?;
    }
    Ok(())
}

/// The number behind `field`, at the beginning of a line.
fn number(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_whitespace().next()?.parse().ok()
}

struct Stat {
    /// Seconds.
    cpu: f64,
    /// Since 1970.
    start: Option<Duration>,
}

impl Stat {
    fn read() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&own, &system)
    }

    /// From `/proc/self/stat`, and `/proc/stat` for when the system was started.
    fn parse(own: &str, system: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold anything.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        // proc(5) counts from 1, and the first field here is its third.
        let ticks = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS);
        let cpu = ticks(14)? + ticks(15)?;
        let boot = number(system, "btime");
        let start = boot.and_then(|boot| Some(Duration::from_secs(boot) + Duration::from_secs_f64(ticks(22)?)));
        Some(Self { cpu, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let own = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 1234 1000000 200 18446744073709551615";
        let stat = Stat::parse(own, "cpu 1 2 3\nbtime 1000\n").expect("it is right");
        assert_eq!((stat.cpu, stat.start), (2.0, Some(Duration::from_millis(1_012_340))));
        assert_eq!(number("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(
            number("Max open files            1024                 524288    files", "Max open files"),
            Some(1024)
        );
        assert!(Stat::parse("7 (a) S", "").is_none());
    }
}
