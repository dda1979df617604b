//! A model that a run made: a folder with an `MLmodel` file, which MLflow can load and serve.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::at;
use crate::limits::check_artifact_path;
use crate::{Error, Result};

/// The file that makes a folder a model.
pub(crate) const DESCRIPTION: &str = "MLmodel";

/// A finished model to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What it is called among the run's models. One logged again under its name takes the place of
    /// the one before.
    pub name: String,
    /// The folder that holds `MLmodel`.
    pub folder: PathBuf,
    /// The registered model that it becomes a version of.
    pub registered_name: Option<String>,
    /// An alias of the registered model that is to point at that version.
    pub alias: Option<String>,
}

/// A model as the record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedModel {
    /// Relative to the run folder.
    pub folder: PathBuf,
    pub registered_name: Option<String>,
    pub alias: Option<String>,
}

impl Model {
    /// Checks the name, and that there is a model.
    pub(crate) fn check(&self) -> Result<()> {
        const KIND: &str = "model name";
        check_artifact_path(&self.name)?;
        if self.name.is_empty() || self.name.contains(['/', '.', '"', '\'']) {
            let reason = "it is empty, or has one of / . \" '";
            return Err(Error::Name { kind: KIND, name: self.name.clone(), reason });
        }
        if self.alias.is_some() && self.registered_name.is_none() {
            let name = self.alias.clone().unwrap_or_default();
            let reason = "only a registered model has aliases";
            return Err(Error::Name { kind: "model alias", name, reason });
        }
        description(&self.folder).map(drop)
    }
}

/// What the `MLmodel` of a folder says.
pub(crate) fn description(folder: &Path) -> Result<serde_json::Value> {
    let path = folder.join(DESCRIPTION);
    let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    serde_saphyr::from_str(&text).map_err(|error| Error::Damaged {
        path,
        line: None,
        reason: error.to_string(),
    })
}
