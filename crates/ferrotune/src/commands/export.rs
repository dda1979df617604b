//! `ferrotune export RUN --format FORMAT`: a trained model in a format of those who run it.
//!
//! The folder appears whole or not at all, and takes the place of nothing that is there.

use crate::artifact::{self, CARD};
use crate::cli::ExportArguments;
use crate::config::PrecisionName;
use crate::device::Device;
use crate::exports::Export;
use crate::failure::{BeforeStart, Outcome};
use crate::progress::tell;
use crate::run_folder;
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Runs the command.
pub fn run(arguments: &ExportArguments) -> Outcome {
    let model = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let output = output(arguments).before_start()?;
    durable::refuse_content(&output).before_start()?;
    let device = Device::new(None, PrecisionName::True32).before_start()?;
    let export =
        Export::open(&model, None, arguments.format, arguments.int8, device.isa).before_start()?;
    durable::new_folder(&output, |folder| device.run(|| export.write(folder)))?;
    tell(format_args!("written: {}", output.display()));
    Ok(())
}

fn output(arguments: &ExportArguments) -> Result<PathBuf> {
    if let Some(output) = &arguments.output {
        return Ok(std::path::absolute(output)?);
    }
    if arguments.run.join(CARD).is_file() {
        bail!("{} is one model: name the folder to make with --output", arguments.run.display());
    }
    Ok(run_folder::export(&std::path::absolute(&arguments.run)?, arguments.format))
}
