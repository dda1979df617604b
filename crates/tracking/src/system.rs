//! What the machine does while a run goes on, under MLflow's names: the processors' load, and the
//! memory in use, as `mlflow/system_metrics` samples them. On Linux, from `/proc`; nothing elsewhere.

use std::time::{Duration, Instant};

use crate::{Environment, Metric, Result, now_ms};

/// The points' names begin so; no rewind takes them back, since they are not measured again.
pub(crate) const PREFIX: &str = "system/";

/// Samples the machine now and then.
#[derive(Debug)]
pub struct SystemMetrics {
    interval: Duration,
    next: Instant,
    /// Points have the sample's number on the x-axis.
    sample: i64,
    processors: Option<Processors>,
}

/// Ticks since the machine started.
#[derive(Debug, Clone, Copy)]
struct Processors {
    busy: u64,
    all: u64,
}

impl SystemMetrics {
    /// A sample each `interval`, numbered from `first`: how many an earlier process took.
    #[must_use]
    pub fn new(interval: Duration, first: i64) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
            sample: first,
            processors: read("/proc/stat", processors),
        }
    }

    /// Whether MLflow's `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING` asks for samples.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for a value that is neither true nor false.
    pub fn wanted(environment: &Environment) -> Result<bool> {
        Ok(environment.flag("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")?.unwrap_or(false))
    }

    /// The time between samples that `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` asks for, in seconds;
    /// 10 by default.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for a value out of range.
    pub fn interval(environment: &Environment) -> Result<Duration> {
        let seconds =
            environment.number("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", 0.1..=86_400.0)?;
        Ok(Duration::from_secs_f64(seconds.unwrap_or(10.0)))
    }

    /// A sample, if it is time for one.
    pub fn due(&mut self) -> Vec<Metric> {
        let now = Instant::now();
        if now < self.next {
            return Vec::new();
        }
        self.next = now + self.interval;
        let mut figures = Vec::new();
        let processors = read("/proc/stat", processors);
        if let (Some(before), Some(after)) = (self.processors, processors) {
            figures.extend(load(before, after).map(|value| ("cpu_utilization_percentage", value)));
        }
        self.processors = processors;
        if let Some((used, all)) = read("/proc/meminfo", memory) {
            figures.push(("system_memory_usage_megabytes", used / 1e6));
            figures.push(("system_memory_usage_percentage", used / all * 100.0));
        }
        let (timestamp_ms, step) = (now_ms(), self.sample);
        self.sample += 1;
        let round = |value: f64| (value * 10.0).round() / 10.0;
        figures
            .into_iter()
            .map(|(name, value)| Metric {
                key: format!("{PREFIX}{name}"),
                value: round(value),
                step,
                timestamp_ms,
            })
            .collect()
    }
}

fn read<T>(path: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    parse(&std::fs::read_to_string(path).ok()?)
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`, of which the guests' ticks
/// are among the user's.
fn processors(stat: &str) -> Option<Processors> {
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let ticks: Vec<u64> = ticks.map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
    let all = ticks.iter().sum();
    let idle: u64 = ticks.get(3..5)?.iter().sum();
    Some(Processors { busy: all - idle, all })
}

/// In per cent of all processors.
fn load(before: Processors, after: Processors) -> Option<f64> {
    let all = after.all.checked_sub(before.all).filter(|&ticks| ticks > 0)?;
    Some(after.busy.saturating_sub(before.busy) as f64 / all as f64 * 100.0)
}

/// Bytes of memory in use, and all there are.
fn memory(info: &str) -> Option<(f64, f64)> {
    let bytes = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
    };
    let all = bytes("MemTotal:")?;
    Some((all - bytes("MemAvailable:")?, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = |busy: u64, idle: u64| {
            processors(&format!("cpu  {busy} 0 10 {idle} 5 0 0 0 99 0\ncpu0 1 2\n")).expect("read")
        };
        assert_eq!(load(stat(0, 0), stat(30, 10)), Some(75.0));
        assert_eq!(load(stat(7, 7), stat(7, 7)), None, "no tick since");
        let info = "MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n";
        assert_eq!(memory(info), Some((1500.0 * 1024.0, 2000.0 * 1024.0)));
        assert_eq!((processors("").map(|p| p.all), memory("")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn samples_come_when_they_are_due() {
        let mut system = SystemMetrics::new(Duration::from_secs(3600), 4);
        assert_eq!(system.due(), []);
        let mut system = SystemMetrics::new(Duration::ZERO, 4);
        std::thread::sleep(Duration::from_millis(50));
        let points = system.due();
        let names: Vec<_> = points.iter().map(|point| point.key.as_str()).collect();
        let expected = [
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_megabytes",
            "system/system_memory_usage_percentage",
        ];
        assert_eq!(names, expected);
        assert!(points.iter().all(|point| point.step == 4 && point.value >= 0.0));
        assert!(points[0].value <= 100.0 && points[2].value <= 100.0);
        assert_eq!(system.due().first().map(|point| point.step), Some(5));
    }
}
