//! A workspace: named by a `config.json`, as the studio gives it out, by an `azureml://` address, or by its
//! id; and what Azure Resource Manager knows and takes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Tokens;
use crate::error::at;
use crate::server::http::{Authorization, Http};
use crate::server::retry::Repeated;
use crate::server::{Address, Environment, PART, Retry, Secret, answer_within, query_value};
use crate::{Connection, Error, Result};

/// The version of the resource manager's description of workspaces that requests are written by.
const API: &str = "2024-10-01";
/// How long the resource manager has for an answer, unless `MLFLOW_HTTP_REQUEST_TIMEOUT` is shorter.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the start of a run waits for the address of a workspace, sign-in and repetitions included.
const LOOKED_UP: Duration = Duration::from_secs(20);
const FILE: &str = "config.json";
/// Folders that the file is looked for in, from the working directory upward, as Azure's SDK does.
const FOLDERS: [&str; 2] = [".azureml", ""];

/// The names of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Workspace {
    /// The subscription's id.
    pub subscription_id: String,
    /// The resource group's name.
    pub resource_group: String,
    /// The workspace's name.
    pub workspace_name: String,
}

/// Whether a tracking URI names a workspace, but not where it is: `azureml`, `azureml:FILE`, or
/// `azureml:/subscriptions/…/workspaces/NAME`.
#[must_use]
pub fn is_reference(uri: &str) -> bool {
    uri == "azureml" || (uri.starts_with("azureml:") && !uri.starts_with("azureml://"))
}

impl Workspace {
    /// The workspace that a text names: `azureml://…`, `azureml:FILE`, `azureml:ID`, a file, an id, or, as
    /// `azureml` or nothing, the `config.json` of the working directory or of a folder around it.
    ///
    /// # Errors
    /// [`Error::Setting`] with what the file lacks, or where it was looked for; [`Error::Uri`].
    pub fn find(text: &str) -> Result<Self> {
        if text.contains("://") {
            return Self::of_address(text);
        }
        let name = text.strip_prefix("azureml:").unwrap_or(text);
        if let Some(workspace) = Self::of_id(name) {
            return Ok(workspace);
        }
        match name {
            "" | "azureml" => Self::read(&found()?),
            file => Self::read(Path::new(file)),
        }
    }

    fn of_address(uri: &str) -> Result<Self> {
        let (address, _) = Address::parse(uri)?;
        Self::of_id(address.workspace().unwrap_or_default()).ok_or_else(|| {
            let uri = crate::without_user(uri);
            let reason = "it names no workspace: /subscriptions/…/workspaces/… is missing";
            Error::Uri { uri, reason }
        })
    }

    fn of_id(id: &str) -> Option<Self> {
        let parts: Vec<_> = id.strip_prefix('/')?.split('/').collect();
        let [subscriptions, subscription, _, group, _, _, workspaces, name] = parts[..] else {
            return None;
        };
        let is_id = subscriptions.eq_ignore_ascii_case("subscriptions")
            && workspaces.eq_ignore_ascii_case("workspaces");
        let plain = |part: &str| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned());
        is_id.then_some(Self {
            subscription_id: plain(subscription)?,
            resource_group: plain(group)?,
            workspace_name: plain(name)?,
        })
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(at("read the workspace's", path))?;
        serde_json::from_str(&text).map_err(|error| Error::Setting {
            name: path.display().to_string(),
            reason: format!("it does not name a workspace: {error}"),
        })
    }

    /// The tracking URI of the workspace: as the environment has it, or as the resource manager tells it to
    /// the identity that this machine has.
    ///
    /// # Errors
    /// As for [`Management::new`] and [`Management::tracking_uri`]; [`Error::Unreachable`] if there is no
    /// answer within 20 s.
    pub fn tracking_uri(&self, environment: &Environment) -> Result<String> {
        let is_ours = |uri: &&str| Self::of_address(uri).is_ok_and(|named| named == *self);
        if let Some(uri) = environment.tracking_uri().filter(is_ours) {
            return Ok(uri.to_owned());
        }
        let (workspace, environment) = (self.clone(), environment.clone());
        let asked = move || Management::new(&workspace, &environment)?.tracking_uri();
        answer_within(LOOKED_UP, asked)?.unwrap_or_else(|| {
            Err(Error::Unreachable {
                url: format!("the resource manager of the workspace {self}"),
                reason: format!("nothing for {} s", LOOKED_UP.as_secs()),
                sent: true,
            })
        })
    }

    /// A tracking URI that names the workspace from anywhere, wherever it is.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("azureml:{}", self.id())
    }

    /// How the workspace is reached once its address is known, which is left open; so that settings that
    /// cannot be used are told early.
    pub(crate) fn connection(&self, environment: &Environment) -> Result<Connection> {
        let uri = format!("azureml://address.invalid/mlflow/v1.0{}", self.id());
        Connection::from_environment(&uri, environment)
    }

    /// As the resource manager names it: `/subscriptions/…/workspaces/…`.
    #[must_use]
    pub fn id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}",
            query_value(&self.subscription_id),
            query_value(&self.resource_group),
            query_value(&self.workspace_name)
        )
    }
}

impl std::fmt::Display for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.workspace_name)
    }
}

/// The nearest `config.json`.
fn found() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(at("find", Path::new(".")))?;
    for folder in FOLDERS {
        let mut files = here.ancestors().map(|around| around.join(folder).join(FILE));
        if let Some(file) = files.find(|file| file.is_file()) {
            return Ok(file);
        }
    }
    Err(Error::Setting {
        name: FILE.to_owned(),
        reason: format!("no workspace's {FILE} in {} or a folder around it", here.display()),
    })
}

/// Azure Resource Manager's view of a workspace.
pub struct Management {
    workspace: Workspace,
    resource_manager: String,
    http: Http,
}

impl Management {
    /// The workspace, with the identity that this machine has. Tokens are asked for with the first
    /// request.
    ///
    /// # Errors
    /// A setting of the environment that cannot be used; a list of clouds, if one is set, that does not
    /// come.
    pub fn new(workspace: &Workspace, environment: &Environment) -> Result<Self> {
        let tokens = Tokens::new(environment, Some(&workspace.subscription_id));
        // Somebody waits for the answer.
        let patience = Retry { retries: 3, ..Retry::from_environment(environment)? };
        let cloud = patience.run(Repeated::Harmless, || tokens.cloud())?;
        let resource_manager = cloud.resource_manager;
        let timeout = environment.request_timeout()?.map_or(TIMEOUT, |theirs| theirs.min(TIMEOUT));
        let http = Http::of_service(Authorization::Tokens(tokens), patience, timeout)?;
        Ok(Self { workspace: workspace.clone(), resource_manager, http })
    }

    /// The workspace.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The resource manager's host, which tells the cloud.
    #[must_use]
    pub fn host(&self) -> &str {
        self.resource_manager.split("://").nth(1).unwrap_or_default()
    }

    /// The tracking URI of the workspace.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::TokenRefused`]; 404 if there is no such workspace, 403 if it is not
    /// for this identity; no answer.
    pub fn tracking_uri(&self) -> Result<String> {
        let url = self.url("");
        let answer: Value = self.http.get(&url)?;
        let found = answer["properties"]["mlFlowTrackingUri"].as_str();
        found.map(str::to_owned).ok_or_else(|| Error::Setting {
            name: url,
            reason: "the workspace has no mlFlowTrackingUri".to_owned(),
        })
    }

    /// Makes something in the workspace, such as `jobs/NAME`, or changes it; gives what it is then.
    ///
    /// # Errors
    /// As for [`tracking_uri`](Self::tracking_uri); 400 for what is not as it should be.
    pub fn put(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.http.send("PUT", &self.url(path), body, Repeated::Harmless)
    }

    /// Uploads files as a version of a code asset, and gives its id. `files` are paths below the asset and
    /// where they are.
    ///
    /// # Errors
    /// As for [`put`](Self::put); what the storage or a file answers.
    pub fn upload_code(
        &self,
        name: &str,
        version: &str,
        files: &[(String, PathBuf)],
    ) -> Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Upload {
            blob_reference_for_consumption: Blobs,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Blobs {
            blob_uri: String,
            credential: Credential,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Credential {
            sas_uri: String,
        }
        let path = format!("codes/{}/versions/{}", query_value(name), query_value(version));
        let url = self.url(&format!("{path}/startPendingUpload"));
        let body = json!({ "pendingUploadType": "TemporaryBlobReference" });
        let upload: Upload = self.http.send_for_secret("POST", &url, &body)?;
        let Blobs { blob_uri, credential } = upload.blob_reference_for_consumption;
        let (container, signature) =
            credential.sas_uri.split_once('?').unwrap_or((&credential.sas_uri, ""));
        for (path, local) in files {
            let segments: Vec<_> = path.split('/').map(query_value).collect();
            let container = container.trim_end_matches('/');
            let address = format!("{container}/{name}/{}?{signature}", segments.join("/"));
            self.http.put_blob(&Secret::new(address), local, PART)?;
        }
        let uri = format!("{}/{name}", blob_uri.trim_end_matches('/'));
        let body = json!({ "properties": { "codeUri": uri, "isAnonymous": true } });
        self.put(&path, &body)?;
        Ok(format!("{}/{path}", self.workspace.id()))
    }

    fn url(&self, path: &str) -> String {
        let slash = if path.is_empty() { "" } else { "/" };
        format!("{}{}{slash}{path}?api-version={API}", self.resource_manager, self.workspace.id())
    }
}

/// Where the studio shows a run (a job is one), of the cloud that `host` is of.
#[must_use]
pub fn studio_page(host: &str, workspace: &str, run_id: &str) -> String {
    let studio = if host.ends_with(".azure.cn") || host.ends_with(".chinacloudapi.cn") {
        "studio.ml.azure.cn"
    } else if host.ends_with(".azure.us") || host.ends_with(".usgovcloudapi.net") {
        "ml.azure.us"
    } else {
        "ml.azure.com"
    };
    format!("https://{studio}/runs/{run_id}?wsid={workspace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w";

    #[test]
    fn a_workspace_is_read_from_its_file_or_its_address() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("ws.json");
        let text =
            r#"{"subscription_id": "s", "resource_group": "g", "workspace_name": "w", "x": 1}"#;
        durable::write(&file, text.as_bytes()).expect("write");
        let file = file.display().to_string();
        for text in [
            file.clone(),
            format!("azureml:{file}"),
            format!("azureml://westeurope.api.azureml.ms/mlflow/v1.0{ID}"),
            ID.to_owned(),
            format!("azureml:{ID}"),
        ] {
            assert_eq!(Workspace::find(&text).expect(&text).id(), ID);
        }
        durable::write(Path::new(&file), b"{\"resource_group\": \"g\"}").expect("write");
        let error = Workspace::find(&file).expect_err("half a workspace").to_string();
        assert!(error.contains("ws.json") && error.contains("subscription_id"), "{error}");
        for text in ["azureml://h/mlflow/v1.0/subscriptions/s", "https://h", "no such file"] {
            Workspace::find(text).expect_err(text);
        }
    }

    #[test]
    fn references_are_told_from_addresses() {
        for reference in ["azureml", "azureml:config.json", "azureml:/a/b.json"] {
            assert!(is_reference(reference), "{reference}");
        }
        for other in ["azureml://h/x", "azureml-runs", "./azureml", ""] {
            assert!(!is_reference(other), "{other}");
        }
    }

    #[test]
    fn names_of_a_file_stay_names_in_an_address() {
        let odd = Workspace {
            subscription_id: "s/../t".into(),
            resource_group: "g?x".into(),
            workspace_name: "w#".into(),
        };
        assert!(odd.id().contains("/s%2F..%2Ft/resourceGroups/g%3Fx/"), "{}", odd.id());
        assert!(is_reference(&odd.reference()));
        assert_eq!(Workspace::find(&odd.reference()).expect("as it is named"), odd);
    }
}
