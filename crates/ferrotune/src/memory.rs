//! Memory of this process: what it has, what it will need, what there is.

use std::fmt;

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes @ 0..=104_857_600 => write!(f, "{} MiB", bytes.div_ceil(MIB)),
            bytes => write!(f, "{:.2} GiB", bytes as f64 / (1024 * MIB) as f64),
        }
    }
}

/// What this process holds now, where the system tells.
pub fn held() -> Option<Bytes> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// The most it has held, pages of files included, where the system tells.
pub fn peak() -> Option<Bytes> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// What it can still take: the machine's free memory, or what its container leaves.
pub fn available() -> Option<Bytes> {
    let machine = kilobytes("/proc/meminfo", "MemAvailable:")?;
    let container = || -> Option<Bytes> {
        let number =
            |file: &str| -> Option<u64> { std::fs::read_to_string(file).ok()?.trim().parse().ok() };
        let limit = number("/sys/fs/cgroup/memory.max")?;
        let used = number("/sys/fs/cgroup/memory.current")?;
        // Pages of files count as used, but are given up where they are in the way.
        let stat = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        let files = stat.lines().filter_map(|line| match line.split_once(' ')? {
            ("active_file" | "inactive_file", value) => value.parse::<u64>().ok(),
            _ => None,
        });
        Some(Bytes(limit.saturating_sub(used.saturating_sub(files.sum()))))
    };
    Some(container().map_or(machine, |container| machine.min(container)))
}

fn kilobytes(file: &str, key: &str) -> Option<Bytes> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(Bytes(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells() {
        let (held, peak) = (held().expect("held"), peak().expect("peak"));
        assert!(Bytes(1 << 20) < held && held <= peak && available() > Some(Bytes(1 << 20)));
        assert_eq!(Bytes(3 << 29).to_string(), "1.50 GiB");
        assert_eq!(Bytes(61 << 20).to_string(), "61 MiB");
    }
}
