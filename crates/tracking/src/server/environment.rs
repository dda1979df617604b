//! MLflow's environment variables, read as MLflow reads them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::{Error, Result};

/// The environment that settings are read from: the process's own, or one made up.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The tracking URI that `MLFLOW_TRACKING_URI` names.
    #[must_use]
    pub fn tracking_uri(&self) -> Option<&str> {
        self.text("MLFLOW_TRACKING_URI")
    }

    /// How long a request waits for its answer.
    pub(crate) fn request_timeout(&self) -> Result<Option<Duration>> {
        let seconds = self.number("MLFLOW_HTTP_REQUEST_TIMEOUT", 1..=86_400)?;
        Ok(seconds.map(Duration::from_secs))
    }

    /// A variable that is set and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.text(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(refused(name, other, "true, false, 1 or 0")),
        }
    }

    /// A number in `range`.
    pub(crate) fn number<T: FromStr + PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let wanted = format!("a number from {} to {}", range.start(), range.end());
                Err(refused(name, text, &wanted))
            }
        }
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

fn refused(name: &str, value: &str, wanted: &str) -> Error {
    Error::Setting {
        name: name.to_owned(),
        reason: format!("it is {value:?}, but must be {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_mlflow_reads_them_and_others_named() {
        let environment: Environment =
            [("A", "TRUE"), ("B", "0"), ("C", "yes"), ("D", "12"), ("E", "-1"), ("F", "")]
                .into_iter()
                .collect();
        assert_eq!(environment.flag("A").expect("a flag"), Some(true));
        assert_eq!(environment.flag("B").expect("a flag"), Some(false));
        assert_eq!(environment.flag("F").expect("empty is unset"), None);
        let error = environment.flag("C").expect_err("no flag").to_string();
        assert!(error.contains('C') && error.contains("yes"), "{error}");
        assert_eq!(environment.number("D", 0..=12).expect("a number"), Some(12));
        assert!(environment.number("D", 0..=11).is_err());
        assert!(environment.number::<u32>("E", 0..=9).is_err());
        assert!(environment.number("C", 0.0..=9.0).is_err());
    }
}
