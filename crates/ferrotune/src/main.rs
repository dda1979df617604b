//! `ferrotune`: labelled text and a pretrained model in, a tracked, tested, deployable classifier
//! out.
//!
//! Exit codes: 0 done; 1 the job failed; 2 nothing was started, because the command line, the
//! configuration, the data or the model cannot be used; 130 interrupted, with a checkpoint.
#![forbid(unsafe_code)]

mod artifact;
mod azureml;
mod benchmark;
mod classifier;
mod cli;
mod commands;
mod config;
mod device;
mod evaluation;
mod exports;
mod failure;
mod inputs;
mod interrupt;
mod job;
mod memory;
mod metrics;
mod prepared;
mod progress;
mod recorder;
mod report;
mod results;
mod run_folder;
mod schedule;
mod svm;
mod texts;
mod thresholds;
mod trackers;
mod trainer;

use clap::Parser;
use cli::{Cli, Command};

fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing_subscriber::filter::LevelFilter::WARN.into())
                .from_env_lossy(),
        )
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let outcome = match Cli::parse().command {
        Command::Train(arguments) => commands::train::run(&arguments),
        Command::Test(arguments) => commands::test::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Benchmark(arguments) => commands::benchmark::run(&arguments),
        Command::Predict(arguments) => commands::predict::run(&arguments),
        Command::Sync(arguments) => commands::sync::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Quantize(arguments) => commands::quantize::run(&arguments),
        Command::Upload(arguments) => commands::upload::run(&arguments),
        Command::Azureml(arguments) => commands::azureml::run(&arguments),
    };
    if let Err(failure) = outcome {
        failure.print();
        std::process::exit(failure.exit_code());
    }
}
