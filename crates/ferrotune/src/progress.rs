//! Progress bars on a terminal, nothing elsewhere; lines for people go to standard error.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;

/// A line for people, on standard error. Nobody listening is no reason to stop.
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Lines of results, on standard output. A reader that has had enough is no error.
///
/// # Errors
/// They cannot be written.
pub fn print(lines: fmt::Arguments<'_>) -> Result<()> {
    match writeln!(io::stdout(), "{lines}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// A bar over `length` steps; hidden where standard error is no terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a template of ours");
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
}

/// The training bar.
pub fn training(length: u64) -> ProgressBar {
    bar(length, "{prefix} {wide_bar} {pos}/{len} steps  {msg}  ETA {eta}")
}

/// Draws downloads.
#[derive(Debug, Default)]
pub struct Downloads(Mutex<Option<ProgressBar>>);

impl sources::Progress for Downloads {
    fn start(&self, what: &str, total_bytes: Option<u64>) {
        let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
        let bar = bar(total_bytes.unwrap_or(0), template).with_prefix(format!("fetching {what}"));
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        let bar = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}
