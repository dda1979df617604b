//! What the run runs on: threads, instruction set, precision.

use crate::config::PrecisionName;
use anyhow::{Context, Result};
use architectures::{Isa, Precision, Threads};

/// Threads, instruction set and precision of a run.
#[derive(Debug)]
pub struct Device {
    /// The instruction set.
    pub isa: Isa,
    /// Precision of large products.
    pub precision: Precision,
    threads: Threads,
    /// For what is no kernel: tokenizing, resampling.
    pool: rayon::ThreadPool,
}

impl Device {
    /// `threads` defaults to one per core.
    ///
    /// # Errors
    /// A forced instruction set is unknown or missing, or threads cannot be started.
    pub fn new(threads: Option<usize>, precision: PrecisionName) -> Result<Device> {
        let isa = Isa::detect()?;
        let precision = match precision {
            PrecisionName::True32 => Precision::F32,
            PrecisionName::Bf16Mixed => Precision::Bf16,
            PrecisionName::Auto if isa.has_bf16() => Precision::Bf16,
            PrecisionName::Auto => Precision::F32,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .build()
            .context("cannot start threads")?;
        let threads = Threads::new(threads).context("cannot start threads")?;
        Ok(Device { isa, precision, threads, pool })
    }

    /// Runs `f` on this device's threads.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.install(|| self.threads.run(f))
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The precision as a configuration names it; never `auto`.
    pub fn precision_setting(&self) -> PrecisionName {
        match self.precision {
            Precision::F32 => PrecisionName::True32,
            Precision::Bf16 => PrecisionName::Bf16Mixed,
        }
    }

    /// `32-true` or `bf16-mixed`.
    pub fn precision_name(&self) -> &'static str {
        match self.precision {
            Precision::F32 => "32-true",
            Precision::Bf16 => "bf16-mixed",
        }
    }
}
