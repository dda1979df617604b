//! `ferrotune upload RUN`: a run's models, exports, reports and record into an artifact store, as
//! training does at its end where `artifacts.uri` says so.

use crate::cli::UploadArguments;
use crate::failure::{BeforeStart, Outcome};
use crate::interrupt::{Interrupt, Interrupted};
use crate::progress::{bar, tell};
use crate::run_folder::RunFolder;
use anyhow::{Context, Result, bail};
use std::path::Path;
use stores::{Collection, News, Store};
use tracking::{RunRecord, Status};

/// What of a run folder is kept elsewhere: all but what only `--resume` needs, and `run.json`, which
/// tells how the run ended and so ends after the upload.
const PARTS: [&str; 10] = [
    "best",
    "export",
    "config.toml",
    "metrics.jsonl",
    "params.json",
    "report.html",
    "report.json",
    "report.md",
    "tags.json",
    "artifacts.json",
];

/// Runs the command.
pub fn run(arguments: &UploadArguments) -> Outcome {
    let interrupt = Interrupt::listen()?;
    let (folder, config) = RunFolder::open(&arguments.run).before_start()?;
    let location = arguments.to.as_ref().or(config.artifacts.uri.as_ref());
    let location = location
        .context("the run's configuration has no artifacts.uri: name the store with --to")
        .before_start()?;
    let status = status(folder.path()).before_start()?;
    let store = open(location).before_start()?;
    if status == Status::Running {
        tell(format_args!("warning: the run has not ended; what it has so far is copied"));
    }
    interrupt.checkpoints_from_now_on();
    match upload(&store, folder.path(), &interrupt) {
        Err(error) if error.is::<Interrupted>() => Err(crate::failure::Failure::Interrupted),
        uploaded => Ok(uploaded?),
    }
}

/// How the run ended, if it did.
fn status(folder: &Path) -> Result<Status> {
    if !folder.join(PARTS[0]).is_dir() {
        bail!("{} has no model yet: `ferrotune train --resume` goes on with it", folder.display());
    }
    Ok(RunRecord::open(folder)?.status())
}

/// The store at this location, after a look whether it takes anything.
///
/// # Errors
/// It does not exist, or refuses.
pub fn open(location: &str) -> Result<Store> {
    let store = Store::open(location, crate::config::environment())?;
    store.check()?;
    Ok(store)
}

/// Sends what the store does not have yet of the run in `folder`.
///
/// # Errors
/// The store refuses or cannot be reached; someone asked the process to end.
pub fn upload(store: &Store, folder: &Path, interrupt: &Interrupt) -> Result<()> {
    let name = folder.file_name().and_then(|name| name.to_str()).context("a run has a name")?;
    let collection = Collection::new(name, folder, &PARTS)?;
    let bar = bar(0, "uploading {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    let uploaded = store.upload(&collection, |news| {
        match news {
            News::Progress { done, total } => {
                bar.set_length(total);
                bar.set_position(done);
            }
            News::DamagedManifest { place, reason } => bar.suspend(|| {
                tell(format_args!(
                    "warning: {place} is damaged ({reason}): removed, and written anew"
                ));
            }),
        }
        !interrupt.requested()
    });
    bar.finish_and_clear();
    let uploaded = match uploaded {
        Err(stores::Error::Stopped) => return Err(Interrupted.into()),
        uploaded => uploaded?,
    };
    let present = match uploaded.present {
        0 => String::new(),
        count => format!(", {count} were there already"),
    };
    tell(format_args!("uploaded: {} files to {}{present}", uploaded.sent, uploaded.location));
    Ok(())
}
