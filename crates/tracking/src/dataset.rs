//! The data sets a run reads, as MLflow describes them: what they are called, which content they
//! had, where they came from, what is in them.

use serde::{Deserialize, Serialize};

use crate::limits::check_length;
use crate::{Error, Result};

/// A data set that a run reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// What tells its content from another's; at most 36 characters of a hash.
    pub digest: String,
    /// The kind of source: `local`, `hugging_face`, `http`, …
    pub source_type: String,
    /// The source as JSON, such as `{"uri": "train.csv"}`.
    pub source: String,
    /// The columns as JSON: `{"mlflow_colspec": [{"name": "text", "type": "string"}, …]}`.
    #[serde(default)]
    pub schema: String,
    /// Figures as JSON, such as `{"num_rows": 5532}`.
    #[serde(default)]
    pub profile: String,
    /// What the run reads it for: `training`, `validation`, `test`.
    pub context: String,
}

impl Dataset {
    /// Checks the limits of MLflow's tables.
    pub(crate) fn check(&self) -> Result<()> {
        for (kind, text, limit) in [
            ("data set name", &self.name, 500),
            ("data set digest", &self.digest, 36),
            ("data set source type", &self.source_type, 36),
            ("data set source", &self.source, 65_535),
            ("data set schema", &self.schema, 1_048_575),
            ("data set profile", &self.profile, 16_777_215),
            ("data set context", &self.context, 500),
        ] {
            check_length(kind, text, limit)?;
            if text.is_empty() && limit <= 500 {
                return Err(Error::Name { kind, name: String::new(), reason: "it is empty" });
            }
        }
        Ok(())
    }
}
