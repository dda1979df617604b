//! Data sets a run read and models it made: inputs, logged models (MLflow 3), their record in the
//! run (MLflow 2), and versions in the model registry.
//!
//! Creating a logged model or a version twice makes two; [`Client::logged_models_of`] and
//! [`Client::versions_of`] tell what a run has already.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Client;
use super::address::query_value;
use super::client::IgnoredObject;
use super::retry::Repeated::{Harmless, Twice};
use super::wire::Pair;
use crate::{Dataset, Error, Result};

/// A model that a run made, as an MLflow 3 server keeps it.
#[derive(Debug, Clone, Deserialize)]
pub struct LoggedModel {
    /// `m-` and 32 hexadecimal digits.
    pub model_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Where its files go.
    #[serde(default)]
    pub artifact_uri: String,
    /// The run that made it.
    #[serde(default)]
    pub source_run_id: String,
    /// `LOGGED_MODEL_PENDING`, `LOGGED_MODEL_READY` or `LOGGED_MODEL_UPLOAD_FAILED`.
    #[serde(default)]
    pub status: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Pair>,
}

/// A logged model to create.
#[derive(Debug, Clone, Serialize)]
pub struct NewLoggedModel<'a> {
    /// The experiment of the run.
    pub experiment_id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The run that made it.
    pub source_run_id: &'a str,
    /// Parameters of the model.
    pub params: Vec<Pair>,
    /// Tags of the model.
    pub tags: Vec<Pair>,
}

/// A version of a registered model.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelVersion {
    /// The registered model's name.
    pub name: String,
    /// The version's number.
    pub version: String,
    /// Where its files are.
    #[serde(default)]
    pub source: String,
    /// `READY`, `PENDING_REGISTRATION` or `FAILED_REGISTRATION`.
    #[serde(default)]
    pub status: String,
    /// What went wrong, if something did.
    #[serde(default)]
    pub status_message: String,
    /// The logged model it is, on servers that have them.
    #[serde(default)]
    pub model_id: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Pair>,
    /// The aliases that point at it; a search leaves them out.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// A version to create.
#[derive(Debug, Clone, Serialize)]
pub struct NewModelVersion<'a> {
    /// The registered model's name.
    pub name: &'a str,
    /// Where its files are: `models:/m-…`, or an artifact location.
    pub source: &'a str,
    /// The run that made it.
    pub run_id: &'a str,
    /// The logged model, on servers that have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<&'a str>,
    /// Tags of the version.
    pub tags: Vec<Pair>,
}

#[derive(Deserialize)]
struct Described {
    info: LoggedModel,
}

#[derive(Deserialize)]
struct OneModel {
    model: Described,
}

#[derive(Deserialize)]
struct OneVersion {
    model_version: ModelVersion,
}

impl Client {
    /// Names the data sets that a run reads. One named again changes nothing.
    ///
    /// # Errors
    /// A text longer than MLflow's tables hold; what the server or the way to it answers.
    pub fn log_inputs(&self, run_id: &str, datasets: &[Dataset]) -> Result<()> {
        datasets.iter().try_for_each(Dataset::check)?;
        let datasets: Vec<_> = datasets
            .iter()
            .map(|dataset| {
                json!({
                    "tags": [{ "key": "mlflow.data.context", "value": dataset.context }],
                    "dataset": {
                        "name": dataset.name,
                        "digest": dataset.digest,
                        "source_type": dataset.source_type,
                        "source": dataset.source,
                        "schema": dataset.schema,
                        "profile": dataset.profile,
                    },
                })
            })
            .collect();
        self.post("runs/log-inputs", &json!({ "run_id": run_id, "datasets": datasets }))
    }

    /// Creates a logged model, which then waits for its files and for
    /// [`finish_logged_model`](Self::finish_logged_model).
    ///
    /// # Errors
    /// 404 from a server before MLflow 3; what the server or the way to it answers.
    pub fn create_logged_model(&self, model: &NewLoggedModel<'_>) -> Result<LoggedModel> {
        let answer: OneModel = self.http.send("POST", &self.url("logged-models"), model, Twice)?;
        Ok(answer.model.info)
    }

    /// The logged models that a run made.
    ///
    /// # Errors
    /// 404 from a server before MLflow 3; what the server or the way to it answers.
    pub fn logged_models_of(&self, experiment_id: &str, run_id: &str) -> Result<Vec<LoggedModel>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            models: Vec<Described>,
        }
        let body = json!({
            "experiment_ids": [experiment_id],
            "filter": format!("source_run_id = '{run_id}'"),
            "max_results": 100,
        });
        let url = self.url("logged-models/search");
        let answer: Answer = self.http.send("POST", &url, &body, Harmless)?;
        Ok(answer.models.into_iter().map(|model| model.info).collect())
    }

    /// Declares a logged model ready, and an output of its run at a step. Declared again, nothing
    /// changes.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn finish_logged_model(&self, run_id: &str, model_id: &str, step: i64) -> Result<()> {
        let ready = json!({ "model_id": model_id, "status": "LOGGED_MODEL_READY" });
        let url = self.url(&format!("logged-models/{}", query_value(model_id)));
        let _: IgnoredObject = self.http.send("PATCH", &url, &ready, Harmless)?;
        let outputs =
            json!({ "run_id": run_id, "models": [{ "model_id": model_id, "step": step }] });
        match self.post("runs/outputs", &outputs) {
            // MLflow takes no output twice.
            Err(error @ Error::Refused { status: 400, .. }) => {
                let there = self.run(run_id)?.outputs.models;
                if there.iter().any(|output| output.model_id == model_id) {
                    return Ok(());
                }
                Err(error)
            }
            answer => answer,
        }
    }

    /// Deletes a logged model.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn delete_logged_model(&self, model_id: &str) -> Result<()> {
        self.delete(&format!("logged-models/{}", query_value(model_id)), &json!({}))
    }

    /// Tells a run that a folder of its artifacts holds a model, as MLflow 2 does; `description`
    /// is the folder's `MLmodel` as JSON.
    ///
    /// # Errors
    /// What the server or the way to it answers.
    pub fn record_model(&self, run_id: &str, description: &serde_json::Value) -> Result<()> {
        let body = json!({ "run_id": run_id, "model_json": description.to_string() });
        let url = self.url("runs/log-model");
        let _: IgnoredObject = self.http.send("POST", &url, &body, Twice)?;
        Ok(())
    }

    /// Makes sure that there is a registered model of this name.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn ensure_registered_model(&self, name: &str) -> Result<()> {
        let registry = self.registry();
        let url = registry.url("registered-models/create");
        let created = registry.http.send("POST", &url, &json!({ "name": name }), Harmless);
        match created.map(|_: IgnoredObject| ()) {
            Err(error) if error.is_present() => Ok(()),
            answer => answer,
        }
    }

    /// Creates the next version of a registered model.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn create_model_version(&self, version: &NewModelVersion<'_>) -> Result<ModelVersion> {
        let registry = self.registry();
        let url = registry.url("model-versions/create");
        let answer: OneVersion = registry.http.send("POST", &url, version, Twice)?;
        Ok(answer.model_version)
    }

    /// A version of a registered model.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn model_version(&self, name: &str, version: &str) -> Result<ModelVersion> {
        let (name, version) = (query_value(name), query_value(version));
        let registry = self.registry();
        let call = format!("model-versions/get?name={name}&version={version}");
        let answer: OneVersion = registry.http.get(&registry.url(&call))?;
        Ok(answer.model_version)
    }

    /// The registered versions that a run made.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn versions_of(&self, run_id: &str) -> Result<Vec<ModelVersion>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            model_versions: Vec<ModelVersion>,
        }
        let registry = self.registry();
        let filter = query_value(&format!("run_id = '{run_id}'"));
        let call = format!("model-versions/search?filter={filter}&max_results=1000");
        let answer: Answer = registry.http.get(&registry.url(&call))?;
        Ok(answer.model_versions)
    }

    /// Deletes a version of a registered model.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn delete_model_version(&self, name: &str, version: &str) -> Result<()> {
        let body = json!({ "name": name, "version": version });
        self.registry().delete("model-versions/delete", &body)
    }

    /// Makes an alias of a registered model point at a version.
    ///
    /// # Errors
    /// What the registry or the way to it answers.
    pub fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        let body = json!({ "name": name, "alias": alias, "version": version });
        self.registry().post("registered-models/alias", &body)
    }

    fn registry(&self) -> &Self {
        self.registry.as_deref().unwrap_or(self)
    }
}
