//! MLflow's rules for names and lengths, checked before anything is written.
//!
//! Mirrors `mlflow/utils/validation.py` and `mlflow/utils/uri.py` of MLflow 3.17: names become
//! file names, so a name must be its own normal form, stay inside its folder and use a small set of
//! characters. Too long values of parameters and tags are cut with a warning, as MLflow does.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::{Error, Metric, Result};

/// The greatest length of a parameter, metric or tag name, in characters.
pub const MAX_KEY_LENGTH: usize = 250;
/// The greatest length of a parameter's value; a longer one is cut.
pub const MAX_PARAM_LENGTH: usize = 6000;
/// The greatest length of a tag's value; a longer one is cut.
pub const MAX_TAG_LENGTH: usize = 8000;
/// The greatest length of an experiment's name.
pub const MAX_EXPERIMENT_LENGTH: usize = 500;

/// Where a workspace of Azure ML takes less: its page "Service limits in Azure Machine Learning".
pub(crate) mod of_workspace {
    pub const MAX_EXPERIMENT_LENGTH: usize = 256;
    pub const MAX_TAG_KEY_LENGTH: usize = 100;
    pub const MAX_TAG_LENGTH: usize = 1000;
    /// Metric points of a request.
    pub const MOST_METRICS: usize = 250;
}

/// Checks a parameter, metric or tag name.
pub(crate) fn check_key(kind: &'static str, key: &str) -> Result<()> {
    check_length(kind, key, MAX_KEY_LENGTH)?;
    // Python's `\w`: letters, numbers and the underscore.
    let allowed = |c: char| {
        "/_.- :".contains(c)
            || c.is_ascii_alphanumeric()
            || (!c.is_ascii()
                && matches!(
                    c.general_category_group(),
                    GeneralCategoryGroup::Letter | GeneralCategoryGroup::Number
                ))
    };
    if !key.chars().all(allowed) {
        return Err(refused(
            kind,
            key,
            "only letters, digits, '_', '-', '.', ' ', ':' and '/' are allowed",
        ));
    }
    check_relative(kind, key)
}

/// Checks the folder below the artifact root that an artifact is to lie in; empty is the root.
pub(crate) fn check_artifact_path(path: &str) -> Result<()> {
    const KIND: &str = "artifact path";
    if path.is_empty() {
        return Ok(());
    }
    check_relative(KIND, path)?;
    if path.chars().any(char::is_control) {
        return Err(refused(KIND, path, "control characters are not allowed"));
    }
    // Readers decode escapes before they look, so `%2e%2e` would be `..` to them.
    if path.contains(['\\', '%', '#', ':']) {
        return Err(refused(KIND, path, "'\\', '%', '#' and ':' are not allowed"));
    }
    Ok(())
}

/// A name that is a path must be relative and its own normal form.
fn check_relative(kind: &'static str, name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.starts_with('/') {
        "it is an absolute path"
    } else if name.starts_with("..") || name.split('/').any(|part| part == "..") {
        "it would leave its folder"
    } else if name.split('/').any(|part| part.is_empty() || part == ".") {
        "as a path it would resolve to another name"
    } else {
        return Ok(());
    };
    Err(refused(kind, name, reason))
}

/// Checks one metric point; any value, NaN and the infinities included, is allowed.
pub(crate) fn check_metric(metric: &Metric) -> Result<()> {
    check_key("metric name", &metric.key)?;
    if metric.timestamp_ms < 0 {
        return Err(Error::Timestamp {
            key: metric.key.clone(),
            step: metric.step,
            timestamp_ms: metric.timestamp_ms,
        });
    }
    Ok(())
}

/// Refuses a text of more than `limit` characters.
pub(crate) fn check_length(kind: &'static str, text: &str, limit: usize) -> Result<()> {
    let length = text.chars().count();
    if length <= limit {
        return Ok(());
    }
    Err(Error::TooLong { kind, start: text.chars().take(40).collect(), length, limit })
}

/// Cuts a value to `limit` characters, with a warning.
pub(crate) fn cut<'a>(kind: &str, key: &str, value: &'a str, limit: usize) -> &'a str {
    match value.char_indices().nth(limit) {
        None => value,
        Some((end, _)) => {
            let length = value.chars().count();
            tracing::warn!("value of {kind} {key:?} cut from {length} to {limit} characters");
            &value[..end]
        }
    }
}

fn refused(kind: &'static str, name: &str, reason: &'static str) -> Error {
    Error::Name { kind, name: name.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_mlflow_takes_are_taken() {
        for key in ["loss", "val/F1 Score", "a:b", "Train_Loss", "Fläche-²", ".hidden", "a/..b"] {
            check_key("metric name", key).expect(key);
        }
    }

    #[test]
    fn names_that_could_become_another_path_are_refused_by_name() {
        let long = "k".repeat(MAX_KEY_LENGTH + 1);
        for key in [
            "", ".", "..", "../x", "a/../b", "/abs", "//abs", "a//b", "a/", "./a", "a/./b", "..x",
            "%2e%2e", "%2e%2e/x", "a\0b", "a\nb", "a\\b", "a\u{301}", &long,
        ] {
            let error = check_key("tag name", key).expect_err(key).to_string();
            assert!(error.starts_with("tag name "), "{error}");
        }
        for path in ["..", "../x", "a/../../b", "/etc", "%2e%2e/x", "a\0", "a\\..\\b", "C:x", "a/"]
        {
            check_artifact_path(path).expect_err(path);
        }
        for path in ["", "model", "model/data", "a b/ü"] {
            check_artifact_path(path).expect(path);
        }
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        assert_eq!(cut("tag", "k", "äöü", 2), "äö");
        assert_eq!(cut("tag", "k", "äöü", 3), "äöü");
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_in_its_folder_as_itself(key in r"[a./\\%2e :_\-é\x00]{0,12}") {
            if check_key("metric name", &key).is_ok() {
                let path = Path::new("root").join(&key);
                prop_assert!(path.components().skip(1).all(|c| matches!(c, Component::Normal(_))));
                let normal: Vec<_> = path.components().skip(1).map(|c| c.as_os_str()).collect();
                prop_assert_eq!(normal.join(std::ffi::OsStr::new("/")), key.as_str());
            }
        }

        #[test]
        fn no_name_panics(key in any::<String>()) {
            let _ = check_key("metric name", &key);
            let _ = check_artifact_path(&key);
            prop_assert_eq!(cut("tag", "k", &key, 3).chars().count(), key.chars().count().min(3));
        }
    }
}
