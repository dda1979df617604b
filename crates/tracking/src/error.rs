//! What can go wrong when a run is tracked: each error names the value, the limit and the place.

use std::path::PathBuf;

/// A tracking step that was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter, metric, tag or artifact name that MLflow would refuse, or that could leave
    /// its folder.
    #[error("{kind} {name:?} is refused: {reason}")]
    Name {
        /// "parameter name", "metric name", "tag name", "artifact path", …
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text longer than its limit, where cutting it would make it another thing.
    #[error("{kind} {start:?}… has {length} characters; the limit is {limit}")]
    TooLong {
        /// What the text is.
        kind: &'static str,
        /// Its first characters.
        start: String,
        /// Its length in characters.
        length: usize,
        /// The greatest length allowed.
        limit: usize,
    },
    /// A run id that is not 32 lower-case hexadecimal digits.
    #[error("run id {0:?} is not 32 lower-case hexadecimal digits")]
    RunId(String),
    /// A metric point before the epoch.
    #[error(
        "metric {key:?} at step {step} has the timestamp {timestamp_ms}; it must be 0 or later"
    )]
    Timestamp {
        /// The metric.
        key: String,
        /// Its step.
        step: i64,
        /// The timestamp in milliseconds.
        timestamp_ms: i64,
    },
    /// A parameter logged again with another value; parameters never change.
    #[error("parameter {key:?} of {} is {old:?} and cannot become {new:?}", path.display())]
    ParamChanged {
        /// The parameter.
        key: String,
        /// The value it has.
        old: String,
        /// The value it was to get.
        new: String,
        /// The file that holds it.
        path: PathBuf,
    },
    /// A rewind to a point that was never reached.
    #[error("cannot rewind {} to metric point {position}: it holds {points}", path.display())]
    Position {
        /// The position asked for.
        position: u64,
        /// The number of points there are.
        points: u64,
        /// The file that holds them.
        path: PathBuf,
    },
    /// A run was to finish with the status of one that goes on.
    #[error("a run cannot finish with the status RUNNING")]
    NotFinal,
    /// A run was to be created where one is.
    #[error("{} holds a run already", .0.display())]
    RunExists(PathBuf),
    /// No run where one was to be opened.
    #[error("no run {run_id} in {}", store.display())]
    NoRun {
        /// The run looked for.
        run_id: String,
        /// The folder looked in.
        store: PathBuf,
    },
    /// The experiment's name belongs to a deleted experiment.
    #[error("experiment {name:?} is deleted; restore it or remove {}", path.display())]
    DeletedExperiment {
        /// The experiment's name.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// A tracking URI of a kind that no tracker here serves.
    #[error("tracking URI {uri:?}: {reason}")]
    Uri {
        /// The URI as given.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An artifact location that is neither a local folder nor behind a server's artifact proxy.
    #[error("artifacts of this run live at {uri:?}, which cannot be written from here")]
    RemoteArtifacts {
        /// The location, from the experiment's `meta.yaml` or from the server.
        uri: String,
    },
    /// A symbolic link where it would lead artifacts in or out of their folder.
    #[error("{} is a symbolic link; artifacts are copied from and to real files only", .0.display())]
    Link(PathBuf),
    /// A file whose content is not what it should be.
    #[error("{}{}: {reason}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where there are lines.
        line: Option<usize>,
        /// What the reader found.
        reason: String,
    },
    /// A setting, from the environment or a file, that cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The environment variable, or the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A server that gave no answer.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// The address, without credentials.
        url: String,
        /// What went wrong on the way.
        reason: String,
        /// Whether the request may have been carried out all the same.
        sent: bool,
    },
    /// An answer that is none of MLflow's, or Azure's: HTML, half an answer, a redirect.
    #[error("{url} does not answer as its API should: {reason}")]
    BadAnswer {
        /// The address, without credentials.
        url: String,
        /// What came instead.
        reason: String,
    },
    /// A request that the server refused or failed at.
    #[error("{url} answers {status} {code}: {message}")]
    Refused {
        /// The address, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
        /// MLflow's error code, if the answer has one.
        code: String,
        /// The server's explanation.
        message: String,
        /// How long the server asks to wait before the next try.
        retry_after: Option<std::time::Duration>,
    },
    /// No identity on this machine that Azure gives access tokens to.
    #[error("no access token for Azure{}", tried.iter().map(|(by, why)| format!("; {by}: {why}")).collect::<String>())]
    NoToken {
        /// Where an identity was looked for, and why there is none.
        tried: Vec<(&'static str, String)>,
    },
    /// An identity that is refused.
    #[error("no access token for Azure: {by}: {reason}")]
    TokenRefused {
        /// Where the identity is from.
        by: &'static str,
        /// What was answered.
        reason: String,
    },
    /// An experiment, or a run, that someone deleted on the server.
    #[error("{kind} {name} is deleted on {url}; restore it there or choose another")]
    DeletedOnServer {
        /// "experiment" or "run".
        kind: &'static str,
        /// Its name.
        name: String,
        /// The server's address, without credentials.
        url: String,
    },
    /// A version of a registered model that came to nothing.
    #[error("version {version} of the registered model {name:?} failed: {reason}")]
    Registration {
        /// The registered model.
        name: String,
        /// The version.
        version: String,
        /// What the registry says.
        reason: String,
    },
    /// A server that does not have the whole run at its end.
    #[error("{url} does not have the whole run: {reason}")]
    Behind {
        /// The server's address, without credentials.
        url: String,
        /// What was in the way last.
        reason: String,
    },
    /// A server that has other metric points than the record.
    #[error(
        "run {run_id} on {url} differs from the record: {missing} points are missing, {extra} are \
         not in the record"
    )]
    Differs {
        /// The run as the server calls it.
        run_id: String,
        /// The server's address, without credentials.
        url: String,
        /// Points of the record that the server lacks.
        missing: usize,
        /// Points of the server that the record does not have.
        extra: usize,
    },
    /// Whatever the file system answers.
    #[error(transparent)]
    File(#[from] durable::Error),
}

/// What a failed request says about the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was not carried out, and may be later: any request can be repeated.
    NotDone,
    /// It may have been carried out: only a request that does no harm twice can be repeated.
    Unknown,
    /// Credentials are missing, wrong or expired.
    Credentials,
    /// Repeating it will not help.
    Final,
}

impl Error {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Unreachable { sent: false, .. } | Self::Refused { status: 408 | 429, .. } => {
                Failure::NotDone
            }
            // MLflow's own server can answer 503 after it stored what was sent.
            Self::Unreachable { .. }
            | Self::BadAnswer { .. }
            | Self::Refused { status: 500 | 502..=504, .. } => Failure::Unknown,
            Self::Refused { status: 401 | 403, .. }
            | Self::NoToken { .. }
            | Self::TokenRefused { .. } => Failure::Credentials,
            _ => Failure::Final,
        }
    }

    /// Whether it may be over later: nobody answers, or not as they should.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.failure(), Failure::NotDone | Failure::Unknown)
    }

    /// The server answered that what was to be created is there.
    pub(crate) fn is_present(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "RESOURCE_ALREADY_EXISTS")
    }
}

/// The result of a tracking step.
pub type Result<T> = std::result::Result<T, Error>;

/// Turns an I/O error into ours, with the step and the path.
pub(crate) fn at<'a>(
    step: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File(durable::Error { step, path: path.to_path_buf(), source })
}
