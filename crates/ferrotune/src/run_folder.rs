//! A run's folder: `config.toml` (resolved), `metrics.jsonl` and the rest of the tracking record,
//! `last/` and `best/` models, `report.html` and `report.md`. One process at a time.

use crate::artifact::{read_json, write_json};
use crate::cli::Format;
use crate::config::Config;
use crate::trainer::TrainerState;
use anyhow::{Context, Result, bail};
use architectures::{Cpu, Optimizer, Parameters, TensorFile, write_tensors};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const LOCK: &str = ".lock";
const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// A run's folder, held by this process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Unlocked when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Makes a folder for a new run and keeps its configuration there.
    ///
    /// # Errors
    /// The folder exists or cannot be made.
    pub fn create(path: PathBuf, config: &Config) -> Result<RunFolder> {
        if path.exists() {
            bail!("run folder {} exists already", path.display());
        }
        durable::create_folder(&path)?;
        let lock = hold(&path)?;
        durable::write(&path.join(CONFIG), config.to_toml().as_bytes())?;
        Ok(RunFolder { path, _lock: lock })
    }

    /// Opens the folder of an earlier run.
    ///
    /// # Errors
    /// It is no run folder, or another process holds it.
    pub fn open(path: &Path) -> Result<(RunFolder, Config)> {
        let config = path.join(CONFIG);
        if !config.is_file() {
            bail!("{} is not a run folder: it has no {CONFIG}", path.display());
        }
        let path = std::path::absolute(path)
            .with_context(|| format!("cannot resolve {}", path.display()))?;
        let lock = hold(&path)?;
        for model in ["last", "best"] {
            durable::recover_folder(&path.join(model))?;
        }
        Ok((RunFolder { path, _lock: lock }, Config::read(&config)?))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration's file.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Where the model of the last step is kept.
    pub fn last(&self) -> PathBuf {
        self.path.join("last")
    }

    /// Where the best model is kept.
    pub fn best(&self) -> PathBuf {
        self.path.join("best")
    }
}

/// Where the run in this folder keeps its export in this format.
pub fn export(run: &Path, format: Format) -> PathBuf {
    run.join("export").join(format.name())
}

fn hold(path: &Path) -> Result<File> {
    let held = || format!("another process is working in run folder {}", path.display());
    lock(path)?.with_context(held)
}

/// Locks a folder until the file that is returned and all its copies are closed; none where another
/// process holds it.
///
/// # Errors
/// The file system refuses.
pub fn lock(path: &Path) -> Result<Option<File>> {
    let file = path.join(LOCK);
    let lock = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&file)
        .with_context(|| format!("cannot open {}", file.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", file.display()))
        }
    }
}

/// Adds to a model folder what resuming needs.
///
/// # Errors
/// The file system refuses.
pub fn write_state(
    folder: &Path,
    backend: &Cpu,
    state: &TrainerState,
    optimizer: &Optimizer<Cpu>,
    parameters: &Parameters<Cpu>,
) -> Result<()> {
    write_tensors(&folder.join(OPTIMIZER), optimizer.state(backend, parameters))?;
    write_json(&folder.join(STATE), state)
}

/// Takes back what [`write_state`] wrote.
///
/// # Errors
/// A file is missing or damaged.
pub fn read_state(
    folder: &Path,
    backend: &Cpu,
    optimizer: &mut Optimizer<Cpu>,
    parameters: &Parameters<Cpu>,
) -> Result<TrainerState> {
    let state: TrainerState = read_json(&folder.join(STATE))?;
    let path = folder.join(OPTIMIZER);
    let file = TensorFile::open(&path)?;
    optimizer.restore(backend, parameters, state.step, |name, size| {
        match file.tensor(name)? {
            Some((shape, data)) if shape == [size] => Ok(data),
            found => {
                let found = found.map(|(shape, _)| shape);
                bail!("{}: `{name}` is {found:?}, expected [{size}]", path.display())
            }
        }
    })?;
    Ok(state)
}
