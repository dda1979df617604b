//! Ctrl-C and SIGTERM: the first asks the loop to checkpoint and end, the second ends at once.

use crate::progress::tell;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of an interrupted run.
pub const INTERRUPTED: i32 = 130;

/// Work was left because someone asked the process to end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether someone asked the process to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// There is something to checkpoint, and a loop that looks here.
    checkpoints: AtomicBool,
    requested: AtomicBool,
}

impl Interrupt {
    /// Listens from now on. Until [`Interrupt::checkpoints_from_now_on`] a signal ends the process.
    ///
    /// # Errors
    /// The system refuses the handler.
    pub fn listen() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let state = interrupt.0.clone();
        ctrlc::set_handler(move || {
            let checkpoints = state.checkpoints.load(Ordering::SeqCst);
            if !checkpoints || state.requested.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
            tell(format_args!(
                "\ninterrupted: ending where the run can go on; once more ends at once"
            ));
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(interrupt)
    }

    /// From now on the first signal waits for a checkpoint.
    pub fn checkpoints_from_now_on(&self) {
        self.0.checkpoints.store(true, Ordering::SeqCst);
    }

    /// Whether to end.
    pub fn requested(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// For work that can be left at this point.
    ///
    /// # Errors
    /// [`Interrupted`], if someone asked.
    pub fn check(&self) -> Result<()> {
        if self.requested() { Err(Interrupted.into()) } else { Ok(()) }
    }
}
