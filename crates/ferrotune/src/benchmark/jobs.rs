//! Runs of a benchmark: each a process of this program's `train`, so many at a time, with its words in
//! a log. One that was begun goes on. Asked to end, the processes are told once; each leaves a
//! checkpoint. One that outlived its benchmark is waited for.

use super::outcome::{self, Outcome};
use super::{Job, Method, Settings, run_in};
use crate::config::VARIABLE_PREFIX;
use crate::interrupt::Interrupt;
use crate::progress::tell;
use crate::run_folder;
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracking::{RunRecord, Status};

/// The configuration that a run is started with.
pub const SETTINGS: &str = "settings.toml";
const POLL: Duration = Duration::from_millis(50);
/// Why a run that was cut off has no outcome.
const INTERRUPTED: &str = "interrupted; the same command goes on with it";

/// What runs jobs.
pub struct Runner<'a> {
    /// What all have in common.
    pub settings: &'a Settings,
    /// By [`Job::method`].
    pub methods: &'a [Method],
    /// Where configurations and logs are kept.
    pub folder: &'a Path,
    /// How many at a time.
    pub parallel: usize,
    /// Threads of each.
    pub threads: usize,
    /// Whether to end.
    pub interrupt: &'a Interrupt,
}

impl Runner<'_> {
    /// What each job came to, in their order, or why it came to nothing.
    pub fn run(&self, jobs: &[Job]) -> Vec<Result<Outcome, String>> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..jobs.len()).collect());
        let interrupted = || Err(INTERRUPTED.to_owned());
        let outcomes = Mutex::new(vec![interrupted(); jobs.len()]);
        let work = || {
            while !self.interrupt.requested() {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(next) = next else { return };
                let outcome = self.one(&jobs[next]).map_err(|error| format!("{error:#}"));
                self.tell(&jobs[next], &outcome);
                outcomes.lock().unwrap_or_else(PoisonError::into_inner)[next] = outcome;
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.parallel.min(jobs.len()) {
                scope.spawn(work);
            }
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, job: &Job, outcome: &Result<Outcome, String>) {
        let (method, seed) = (&self.methods[job.method].name, job.seed);
        match outcome {
            Ok(Outcome { micro_f1, macro_f1, .. }) => tell(format_args!(
                "{method}, seed {seed}: micro-F1 {:.1}, macro-F1 {:.1}",
                100.0 * micro_f1.value,
                100.0 * macro_f1.value
            )),
            Err(reason) => tell(format_args!("{method}, seed {seed}: {reason}")),
        }
    }

    fn one(&self, job: &Job) -> Result<Outcome> {
        let method = &self.methods[job.method];
        durable::create_folder(&job.folder)?;
        let lock = self.lock(job, method)?;
        let run = run_in(&job.folder)?;
        // Whoever held the lock may have done it.
        if let Some(run) = &run
            && let Some(outcome) = ended(run)?
        {
            return Ok(outcome);
        }
        let log = self.log(job, method)?;
        let mut command = Command::new(std::env::current_exe().context("where am I?")?);
        // Each run is one of its own.
        command.env_remove("MLFLOW_RUN_ID");
        command.arg("train");
        match &run {
            Some(run) => command.arg("--resume").arg(run),
            None => {
                let (model, folder) = (method.model.as_deref(), &job.folder);
                let config = self.settings.config(model, job.seed, folder, self.threads)?;
                let path = job.folder.join(SETTINGS);
                durable::write(&path, config.to_toml().as_bytes())?;
                command.arg("--config").arg(path)
            }
        };
        tell(format_args!(
            "{}, seed {}: {}, see {}",
            method.name,
            job.seed,
            if run.is_some() { "goes on" } else { "begins" },
            log.display()
        ));
        let status = self.watch(start(command, lock, &log)?)?;
        if self.interrupt.requested() && !status.success() {
            bail!(INTERRUPTED);
        }
        if !status.success() {
            bail!("{}", last_error(&log));
        }
        let run = run_in(&job.folder)?.context("the run left no folder")?;
        ended(&run)?.context("the run left no report")
    }

    /// The job's folder for this process and the one it starts, which can outlive it.
    fn lock(&self, job: &Job, method: &Method) -> Result<File> {
        let mut told = false;
        loop {
            if let Some(lock) = run_folder::lock(&job.folder)? {
                return Ok(lock);
            }
            if self.interrupt.requested() {
                bail!(INTERRUPTED);
            }
            if !told {
                let (name, seed) = (&method.name, job.seed);
                tell(format_args!("{name}, seed {seed}: another process is at it; waiting for it"));
                told = true;
            }
            std::thread::sleep(POLL);
        }
    }

    fn log(&self, job: &Job, method: &Method) -> Result<PathBuf> {
        let folder = self.folder.join("log");
        durable::create_folder(&folder)?;
        Ok(folder.join(format!("{}-seed-{}.log", method.file_name(), job.seed)))
    }

    /// Waits for a process, and passes on that it is to end.
    fn watch(&self, mut child: Child) -> Result<std::process::ExitStatus> {
        let mut told = false;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a run")? {
                return Ok(status);
            }
            if self.interrupt.requested() && !told {
                terminate(&mut child)?;
                told = true;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// What a run came to, if it ended well.
///
/// # Errors
/// Its record or report is damaged.
pub fn ended(run: &Path) -> Result<Option<Outcome>> {
    let is_finished = RunRecord::exists(run) && RunRecord::open(run)?.status() == Status::Finished;
    if is_finished { outcome::read(run) } else { Ok(None) }
}

/// Starts a process whose words go to the end of a file. A Ctrl-C on the terminal does not reach it,
/// and what the environment sets is in its configuration already. It reads no standard input, whose
/// place the lock takes: so it is held until the process ends.
fn start(mut command: Command, lock: File, log: &Path) -> Result<Child> {
    let open = || File::options().create(true).append(true).open(log);
    let log = || open().with_context(|| format!("cannot write {}", log.display()));
    command.stdin(lock).stdout(log()?).stderr(log()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
            command.env_remove(name);
        }
    }
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("cannot start a run")
}

#[cfg(unix)]
fn terminate(child: &mut Child) -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    let id = nix::unistd::Pid::from_raw(child.id().cast_signed());
    kill(id, Signal::SIGTERM).context("cannot end a run")
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) -> Result<()> {
    child.kill().context("cannot end a run")
}

/// The last error that a run told, with its causes.
fn last_error(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut reason = String::new();
    for line in text.lines() {
        if let Some(error) = line.strip_prefix("error: ") {
            reason = error.to_owned();
        } else if let Some(cause) = line.strip_prefix("caused by: ") {
            reason = format!("{reason}: {cause}");
        }
    }
    match reason.is_empty() {
        true => format!("it ended without a word, see {}", log.display()),
        false => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told_with_its_causes() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert!(last_error(&log).contains("without a word"));
        let text = "error: old\nepoch 1\nerror: new\ncaused by: the disk\nhint: make room\n";
        durable::write(&log, text.as_bytes()).unwrap();
        assert_eq!(last_error(&log), "new: the disk");
    }
}
