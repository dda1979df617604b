//! `ferrotune sync RUN`: brings an MLflow server, or a file store, to what the run's folder records.

use crate::cli::SyncArguments;
use crate::failure::{BeforeStart, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::progress::tell;
use crate::run_folder::RunFolder;
use crate::trackers::{Place, is_passing};
use anyhow::Context;
use tracking::{Environment, Run, RunRecord};

/// Runs the command.
pub fn run(arguments: &SyncArguments) -> Outcome {
    let (folder, mut config) = RunFolder::open(&arguments.run).before_start()?;
    let environment = Environment::of_process();
    if let Some(uri) = &arguments.tracking_uri {
        config.tracking.set_uri(uri);
        config.tracking.check().before_start()?;
    }
    config.tracking.complete(&environment).before_start()?;
    config.tracking.locate(&environment).map_err(|error| match is_passing(&error) {
        true => Failure::Job(error),
        false => Failure::Usage(error),
    })?;
    let place = config.tracking.place(&environment).before_start()?;
    let place = place
        .context("the run is tracked nowhere else: name a server with --tracking-uri")
        .before_start()?;
    match &place {
        Place::Server { connection, placement, .. } => {
            let synced = tracking::sync(folder.path(), connection, placement, arguments.replace)?;
            let page = synced.page.unwrap_or(synced.run_id);
            tell(format_args!("{} metric points, the same on {page}", synced.points));
        }
        // A file store is written anew in any case.
        Place::Folder(_) | Place::Workspace { .. } => {
            let mut run = Run::new(RunRecord::open(folder.path())?);
            place.follow(&mut run, folder.path(), &Interrupt::default())?;
            tell(format_args!("{} metric points, the same in {place}", run.record().position()));
        }
    }
    Ok(())
}
