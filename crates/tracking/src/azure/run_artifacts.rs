//! Artifacts of a run in a workspace. The run history service makes an entry for each and gives the
//! address in the workspace's storage that its content is put to.
//!
//! An entry is made once: for one that is there, because the answer was lost or the file changed, the
//! artifact service gives an address to write to. Addresses hold until some time later; one whose time is
//! over is asked for again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::server::{Address, Client, Secret, query_value};
use crate::{Error, Result};

/// The artifacts of a run, at the two services that know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunArtifacts {
    /// …/runs/RUN/artifacts of the run history.
    history: String,
    /// …/artifacts/ORIGIN/CONTAINER of the artifact service.
    store: String,
    /// The folder that is meant; no slash at either end.
    folder: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Made {
    artifact_content_information: BTreeMap<String, Content>,
    errors: Option<BTreeMap<String, Failed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    content_uri: String,
}

#[derive(Deserialize)]
struct Failed {
    #[serde(default)]
    error: Said,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Said {
    code: String,
    message: String,
}

impl Address {
    /// The artifacts of a run that an artifact location names, where this is its workspace.
    pub fn run_artifacts(&self, location: &str) -> Option<RunArtifacts> {
        let (workspace, path) = (self.workspace()?, location.strip_prefix("azureml://")?);
        let (before, after) = path.split_once("/runs/")?;
        let (before, experiment) = before.rsplit_once('/')?;
        let (run, rest) = after.split_once('/')?;
        let folder =
            rest.strip_prefix("artifacts").filter(|f| f.is_empty() || f.starts_with('/'))?;
        let kind = match before.rsplit_once('/')?.1 {
            "experimentids" => "experimentids",
            _ => "experiments",
        };
        let origin = self.origin();
        let runs = format!("{workspace}/{kind}/{experiment}/runs/{run}");
        Some(RunArtifacts {
            history: format!("{origin}/history/v1.0{runs}/artifacts"),
            store: format!("{origin}/artifact/v2.0{workspace}/artifacts/ExperimentRun/dcid.{run}"),
            folder: folder.trim_matches('/').to_owned(),
        })
    }
}

impl Client {
    /// Puts a file at `path` among the artifacts; one that is there is replaced.
    pub(crate) fn upload_to_workspace(
        &self,
        run: &RunArtifacts,
        path: &str,
        local: &Path,
    ) -> Result<()> {
        let folder = if run.folder.is_empty() { "" } else { "/" };
        let path = format!("{}{folder}{path}", run.folder);
        let address = self.made(run, &path)?;
        let block = self.multipart.part;
        match self.http.put_blob(&address, local, block) {
            Err(Error::Refused { status: 401 | 403, .. }) => {
                self.http.put_blob(&self.writable(run, &path)?, local, block)
            }
            answer => answer,
        }
    }

    /// The address for the content of a new artifact, or of the one that is there.
    fn made(&self, run: &RunArtifacts, path: &str) -> Result<Secret> {
        let url = format!("{}/batch/metadata", run.history);
        let body = json!({ "paths": [{ "path": path }] });
        let made: Made = self.http.send_for_secret("POST", &url, &body)?;
        if let Some((_, Failed { error })) = made.errors.into_iter().flatten().next() {
            if error.message.contains("already exists") {
                return self.writable(run, path);
            }
            let (code, message) = (error.code, error.message);
            return Err(Error::Refused { url, status: 400, code, message, retry_after: None });
        }
        let mut made = made.artifact_content_information;
        // There is one, under its path.
        let content = made.remove(path).or_else(|| made.into_values().next());
        let content = content.ok_or_else(|| Error::BadAnswer {
            url,
            reason: "it gives no address for an artifact".to_owned(),
        })?;
        Ok(Secret::new(content.content_uri))
    }

    fn writable(&self, run: &RunArtifacts, path: &str) -> Result<Secret> {
        let url = format!("{}/write?path={}", run.store, query_value(path));
        let content: Content = self.http.get_secret(&url)?;
        Ok(Secret::new(content.content_uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_in_artifact_locations() {
        let workspace = "/subscriptions/s/resourceGroups/g/providers/\
                         Microsoft.MachineLearningServices/workspaces/w";
        let uri = format!("azureml://h.api.azureml.ms/mlflow/v1.0{workspace}");
        let (address, _) = Address::parse(&uri).expect("a workspace");
        let base = "https://h.api.azureml.ms";
        for (location, kind, folder) in [
            (format!("{uri}/experiments/e/runs/r/artifacts"), "experiments", ""),
            (
                format!("azureml://h{workspace}/experimentids/e/runs/r/artifacts/"),
                "experimentids",
                "",
            ),
            (format!("{uri}/experiments/e/runs/r/artifacts/a/b"), "experiments", "a/b"),
        ] {
            let found = address.run_artifacts(&location).expect("a run");
            let history = format!("{base}/history/v1.0{workspace}/{kind}/e/runs/r/artifacts");
            assert_eq!((found.history, found.folder.as_str()), (history, folder));
            let store = format!("{base}/artifact/v2.0{workspace}/artifacts/ExperimentRun/dcid.r");
            assert_eq!(found.store, store);
        }
        for elsewhere in ["s3://b/runs/r/artifacts", "azureml://h/x", "mlflow-artifacts:/1/r"] {
            assert_eq!(address.run_artifacts(elsewhere), None, "{elsewhere}");
        }
        let (server, _) = Address::parse("https://h/mlflow").expect("a server");
        assert_eq!(server.run_artifacts(&format!("{uri}/experiments/e/runs/r/artifacts")), None);
    }
}
