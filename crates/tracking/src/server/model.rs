//! Sends the models of a run: as logged models to MLflow 3, as folders of the run's artifacts to
//! MLflow 2; and registers them. Each step that was acknowledged is kept, and whatever would make a
//! second model or version is looked for before it is made.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::client::is_unknown_call;
use super::progress::{RunOnServer, Stamp};
use super::sender::{OWN_ID, Sender, may_be_done};
use super::{ModelVersion, NewLoggedModel, NewModelVersion, Pair};
use crate::facts::Facts;
use crate::model::{RecordedModel, description};
use crate::{Error, Result, artifact};

/// Where MLflow 2 keeps what models a run has.
const HISTORY: &str = "mlflow.log-model.history";

/// How far a model got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ModelSent {
    place: Option<ModelPlace>,
    files: BTreeMap<String, Stamp>,
    ready: bool,
    /// A request that creates the logged model or the version got no answer; see
    /// [`Progress::perhaps_twice`](super::progress::Progress::perhaps_twice).
    perhaps_twice: bool,
    /// The registered model and the version of it.
    version: Option<(String, String)>,
    alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ModelPlace {
    /// Of a logged model.
    model_id: Option<String>,
    /// Where its files are: an artifact location, and the folder below it.
    artifact_uri: String,
    folder: String,
}

impl Sender {
    pub(super) fn models(&mut self, facts: &Facts, run: &RunOnServer) -> Result<()> {
        for (name, model) in &facts.models {
            let mut sent = self.progress.sent.models.remove(name).unwrap_or_default();
            let result = self.model(name, model, run, &facts.state.info.run_id, &mut sent);
            self.progress.sent.models.insert(name.clone(), sent);
            result?;
        }
        Ok(())
    }

    fn model(
        &self,
        name: &str,
        model: &RecordedModel,
        run: &RunOnServer,
        own_id: &str,
        sent: &mut ModelSent,
    ) -> Result<()> {
        let place = match &sent.place {
            Some(place) => place.clone(),
            None => self.place(name, run, own_id, &mut sent.perhaps_twice)?,
        };
        sent.place = Some(place.clone());
        let folder = self.folder.join(&model.folder);
        for (file, path) in artifact::files(&folder, &place.folder)? {
            let stamp = Stamp::of(&file)?;
            if sent.files.get(&path) != Some(&stamp) {
                self.client.upload_artifact(&place.artifact_uri, &path, &file)?;
                sent.files.insert(path, stamp);
                self.taken.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !sent.ready {
            match &place.model_id {
                Some(id) => self.client.finish_logged_model(&run.run_id, id, 0)?,
                None => self.record_model(name, &folder, run)?,
            }
            sent.ready = true;
        }
        if let Some(registered) = &model.registered_name {
            if sent.version.as_ref().is_none_or(|(name, _)| name != registered) {
                let twice = &mut sent.perhaps_twice;
                let version = self.version(registered, &place, run, own_id, twice)?;
                sent.version = Some((registered.clone(), version));
                sent.alias = None;
            }
            if let (Some(alias), Some((_, version))) = (&model.alias, &sent.version)
                && sent.alias.as_ref() != Some(alias)
            {
                self.client.set_alias(registered, alias, version)?;
                sent.alias = Some(alias.clone());
            }
        }
        Ok(())
    }

    /// The logged model of this name, which is created if need be; on a server without them, the
    /// folder of this name among the artifacts.
    fn place(
        &self,
        name: &str,
        run: &RunOnServer,
        own_id: &str,
        perhaps_twice: &mut bool,
    ) -> Result<ModelPlace> {
        let among_artifacts = || ModelPlace {
            model_id: None,
            artifact_uri: run.artifact_uri.clone(),
            folder: name.to_owned(),
        };
        // Azure ML speaks the API of MLflow 2.
        if self.in_workspace {
            return Ok(among_artifacts());
        }
        let experiment_id = self.progress.experiment_id.clone().unwrap_or_default();
        let found = match self.client.logged_models_of(&experiment_id, &run.run_id) {
            Ok(found) => found.into_iter().find(|model| model.name == name),
            Err(error) if is_unknown_call(&error) => return Ok(among_artifacts()),
            Err(error) => return Err(error),
        };
        let model = match found {
            Some(found) => found,
            None => {
                let created = self.client.create_logged_model(&NewLoggedModel {
                    experiment_id: &experiment_id,
                    name,
                    source_run_id: &run.run_id,
                    params: Vec::new(),
                    tags: vec![Pair::new(OWN_ID, own_id)],
                });
                *perhaps_twice |= created.as_ref().is_err_and(may_be_done);
                created?
            }
        };
        Ok(ModelPlace {
            model_id: Some(model.model_id),
            artifact_uri: model.artifact_uri,
            folder: String::new(),
        })
    }

    /// For MLflow 2, whose list of models grows with each time that one is named.
    fn record_model(&self, name: &str, folder: &std::path::Path, run: &RunOnServer) -> Result<()> {
        let mut described = description(folder)?;
        described["run_id"] = run.run_id.clone().into();
        described["artifact_path"] = name.into();
        let there = self.client.run(&run.run_id)?;
        let known = there.tag(HISTORY).and_then(|text| serde_json::from_str(text).ok());
        let known: Vec<serde_json::Value> = known.unwrap_or_default();
        if known.iter().any(|model| model["artifact_path"] == described["artifact_path"]) {
            return Ok(());
        }
        self.client.record_model(&run.run_id, &described)
    }

    /// The version of a registered model that this model is, which is created if need be.
    fn version(
        &self,
        registered: &str,
        place: &ModelPlace,
        run: &RunOnServer,
        own_id: &str,
        perhaps_twice: &mut bool,
    ) -> Result<String> {
        self.client.ensure_registered_model(registered)?;
        let found = self.client.versions_of(&run.run_id)?;
        let found = found.into_iter().find(|v| v.name == registered && place.is_of(v));
        if let Some(found) = found {
            return Ok(found.version);
        }
        let created = self.client.create_model_version(&NewModelVersion {
            name: registered,
            source: &place.source(),
            run_id: &run.run_id,
            model_id: place.model_id.as_deref(),
            tags: vec![Pair::new(OWN_ID, own_id)],
        });
        *perhaps_twice |= created.as_ref().is_err_and(may_be_done);
        let created = created?;
        if created.status == "FAILED_REGISTRATION" {
            return Err(Error::Registration {
                name: registered.to_owned(),
                version: created.version,
                reason: created.status_message,
            });
        }
        Ok(created.version)
    }

    /// Logged models that never became ready, and versions of the same model under the same name that
    /// nobody gave an alias.
    pub(super) fn remove_twins_of_models(&self, own_id: &str, run: &RunOnServer) -> Result<()> {
        let experiment_id = self.progress.experiment_id.clone().unwrap_or_default();
        let is_ours = |tags: &[Pair]| tags.contains(&Pair::new(OWN_ID, own_id));
        let models = self.progress.sent.models.iter().filter(|(_, sent)| sent.perhaps_twice);
        for (name, sent) in models {
            let Some(place) = &sent.place else { continue };
            if let Some(id) = &place.model_id {
                for twin in self.client.logged_models_of(&experiment_id, &run.run_id)? {
                    let pending = twin.status == "LOGGED_MODEL_PENDING" && is_ours(&twin.tags);
                    if pending && twin.name == *name && twin.model_id != *id {
                        self.client.delete_logged_model(&twin.model_id)?;
                    }
                }
            }
            if let Some((registered, version)) = &sent.version {
                for twin in self.client.versions_of(&run.run_id)? {
                    // MLflow's copies of a version have its tags, but name it as their source.
                    let same = twin.name == *registered && twin.source == place.source();
                    if !same || !is_ours(&twin.tags) || twin.version == *version {
                        continue;
                    }
                    // A search does not tell of aliases.
                    if self.client.model_version(&twin.name, &twin.version)?.aliases.is_empty() {
                        self.client.delete_model_version(&twin.name, &twin.version)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl ModelPlace {
    /// Where a version says that its files are.
    fn source(&self) -> String {
        match &self.model_id {
            Some(id) => format!("models:/{id}"),
            None => format!("{}/{}", self.artifact_uri, self.folder),
        }
    }

    /// Whether a version is of the model that is here.
    fn is_of(&self, version: &ModelVersion) -> bool {
        version.source == self.source()
            || self.model_id.as_ref().is_some_and(|id| version.model_id == *id)
    }
}
