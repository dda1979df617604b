//! What goes over the wire: the objects of MLflow's REST API under MLflow's names. Fields that a
//! server leaves out because they are empty read as empty.

use serde::{Deserialize, Serialize};

use crate::point;

/// An experiment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Experiment {
    /// Its id.
    pub experiment_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// `active` or `deleted`.
    #[serde(default)]
    pub lifecycle_stage: String,
}

impl Experiment {
    /// Whether it was deleted: its name is still taken, but no run can be created in it.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.lifecycle_stage == "deleted"
    }
}

/// A run as a server keeps it.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerRun {
    /// Identity and status.
    pub info: ServerRunInfo,
    /// Latest metrics, parameters, tags.
    #[serde(default)]
    pub data: ServerRunData,
    /// What it read.
    #[serde(default)]
    pub inputs: ServerRunInputs,
    /// What it made.
    #[serde(default)]
    pub outputs: ServerRunOutputs,
}

impl ServerRun {
    /// The value of a tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.data.tags.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
    }
}

/// Identity and status of a run on a server.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerRunInfo {
    /// The id the server gave it.
    pub run_id: String,
    /// The experiment it belongs to.
    pub experiment_id: String,
    /// `RUNNING`, `FINISHED`, `FAILED`, `KILLED`, `SCHEDULED`.
    #[serde(default)]
    pub status: String,
    /// When it started, in milliseconds since 1970.
    #[serde(default, deserialize_with = "point::whole::optional")]
    pub start_time: Option<i64>,
    /// When it ended, in milliseconds since 1970.
    #[serde(default, deserialize_with = "point::whole::optional")]
    pub end_time: Option<i64>,
    /// Where its artifacts are.
    #[serde(default)]
    pub artifact_uri: String,
    /// `active` or `deleted`.
    #[serde(default)]
    pub lifecycle_stage: String,
}

/// The data of a run on a server.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServerRunData {
    /// The latest point of each metric.
    #[serde(default)]
    pub metrics: Vec<crate::Metric>,
    /// The parameters.
    #[serde(default)]
    pub params: Vec<Pair>,
    /// The tags.
    #[serde(default)]
    pub tags: Vec<Pair>,
}

/// What a run on a server read.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServerRunInputs {
    /// The data sets.
    #[serde(default, rename = "dataset_inputs")]
    pub datasets: Vec<DatasetInput>,
}

/// What a run on a server made.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServerRunOutputs {
    /// The logged models.
    #[serde(default, rename = "model_outputs")]
    pub models: Vec<ModelOutput>,
}

/// A logged model that a run on a server made.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelOutput {
    /// The logged model.
    pub model_id: String,
}

/// A data set that a run on a server read.
#[derive(Debug, Clone, Deserialize)]
pub struct DatasetInput {
    /// Tags such as what it was read for.
    #[serde(default)]
    pub tags: Vec<Pair>,
    /// The data set.
    pub dataset: ServerDataset,
}

/// A data set as a server keeps it.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerDataset {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What tells its content from another's.
    #[serde(default)]
    pub digest: String,
}

/// A parameter or a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

impl Pair {
    /// A parameter or a tag.
    #[must_use]
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned() }
    }
}

/// A run to create.
#[derive(Debug, Clone, Serialize)]
pub struct NewRun<'a> {
    /// The experiment it will belong to.
    pub experiment_id: &'a str,
    /// Who started it.
    pub user_id: &'a str,
    /// The name people read; need not be unique.
    pub run_name: &'a str,
    /// When it started, in milliseconds since 1970.
    pub start_time: i64,
    /// Its first tags.
    pub tags: Vec<Pair>,
}

/// What is logged in one request. At most 1000 metrics, 100 parameters, 100 tags and 1000 of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Batch {
    /// Points to add; one that is there already changes nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<crate::Metric>,
    /// Parameters, which never change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Pair>,
    /// Tags to set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Pair>,
}

/// What a server says about itself; older ones say nothing.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServerInfo {
    /// Whether large files can be uploaded in parts.
    #[serde(default)]
    pub multipart_uploads_enabled: bool,
}
