//! What a run is: its identity, its status, its metric points; and new ids and names for it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_EXPERIMENT_LENGTH, MAX_KEY_LENGTH, check_length};
use crate::{Error, Result, point};

/// The identity of a run, fixed when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// 32 lower-case hexadecimal digits; see [`new_run_id`].
    pub run_id: String,
    /// The name people read; need not be unique.
    pub run_name: String,
    /// The experiment the run belongs to; "Default" is MLflow's own.
    pub experiment_name: String,
    /// Who started it.
    pub user: String,
    /// When it started, in milliseconds since 1970.
    pub start_time_ms: i64,
}

impl RunInfo {
    /// A new run of this experiment: fresh id, random name, the current user, now.
    #[must_use]
    pub fn new(experiment_name: &str) -> Self {
        Self {
            run_id: new_run_id(),
            run_name: new_run_name(),
            experiment_name: experiment_name.to_owned(),
            user: current_user(),
            start_time_ms: now_ms(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_run_id(&self.run_id)?;
        for (kind, text, limit) in [
            ("run name", &self.run_name, MAX_KEY_LENGTH),
            ("experiment name", &self.experiment_name, MAX_EXPERIMENT_LENGTH),
            ("user name", &self.user, MAX_KEY_LENGTH),
        ] {
            check_length(kind, text, limit)?;
            if text.is_empty() {
                return Err(Error::Name { kind, name: String::new(), reason: "it is empty" });
            }
        }
        Ok(())
    }
}

/// A run id becomes a folder's name.
pub(crate) fn check_run_id(run_id: &str) -> Result<()> {
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if run_id.len() == 32 && run_id.bytes().all(hex) {
        return Ok(());
    }
    Err(Error::RunId(run_id.to_owned()))
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It goes on, or its process died without a word.
    Running,
    /// It did what it was to do.
    Finished,
    /// It stopped on an error.
    Failed,
    /// It was told to stop.
    Killed,
}

/// One point of a metric's history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Metric {
    /// The metric's name; slashes group metrics.
    pub key: String,
    /// The value; NaN and the infinities are values like any other.
    #[serde(with = "point::value")]
    pub value: f64,
    /// The place on the x-axis: an optimizer step or an epoch.
    #[serde(with = "point::whole")]
    pub step: i64,
    /// When it was measured, in milliseconds since 1970.
    #[serde(rename = "timestamp", with = "point::whole")]
    pub timestamp_ms: i64,
}

/// Equality to the bit, so that two histories can be compared; a NaN equals any NaN, since files
/// keep no more of it.
impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
        (&self.key, bits(self.value), self.timestamp_ms, self.step)
            == (&other.key, bits(other.value), other.timestamp_ms, other.step)
    }
}

impl Eq for Metric {}

/// A new random run id.
#[must_use]
pub fn new_run_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A new random run name like `patient-otter-417`.
#[must_use]
pub fn new_run_name() -> String {
    const ADJECTIVES: [&str; 24] = [
        "amber", "bold", "brisk", "calm", "clear", "cosy", "deft", "eager", "fair", "gentle",
        "keen", "light", "merry", "mild", "nimble", "patient", "plain", "quiet", "rapid", "sober",
        "steady", "sunny", "warm", "witty",
    ];
    const NOUNS: [&str; 24] = [
        "badger", "beetle", "birch", "brook", "cedar", "comet", "crane", "falcon", "fern",
        "harbor", "heron", "lark", "lynx", "maple", "meadow", "otter", "pebble", "quartz", "raven",
        "reed", "sparrow", "tern", "thistle", "willow",
    ];
    let bits = rand::random::<u64>() as usize;
    let (adjective, noun) = (ADJECTIVES[bits % 24], NOUNS[bits / 24 % 24]);
    format!("{adjective}-{noun}-{:03}", bits / 576 % 1000)
}

/// The clock in MLflow's unit: milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Who runs this, found as Python's `getpass.getuser` and thereby MLflow do: what the environment says,
/// else the system's name of the user. A container sets no variables.
fn current_user() -> String {
    ["LOGNAME", "USER", "LNAME", "USERNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .or_else(|| whoami::username().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_runs_are_valid_and_differ() {
        let (one, two) = (RunInfo::new("Default"), RunInfo::new("Default"));
        one.check().expect("a new run is valid");
        assert_ne!(one.run_id, two.run_id);
        assert_eq!(one.run_name.split('-').count(), 3);
    }

    #[test]
    fn a_run_id_that_is_no_file_name_is_refused() {
        for id in ["", "../../etc", "ABCDEF0123456789abcdef0123456789", "abc"] {
            let info = RunInfo { run_id: id.to_owned(), ..RunInfo::new("x") };
            assert!(matches!(info.check(), Err(Error::RunId(given)) if given == id));
        }
        let info = RunInfo { experiment_name: String::new(), ..RunInfo::new("x") };
        assert!(info.check().is_err());
    }
}
