//! A training run as a command job of Azure Machine Learning: the files that travel with it, its
//! description for `az ml job create` (CLI v2's command job schema) and as a body for the REST API
//! (`CommandJob` of Microsoft.MachineLearningServices).
//!
//! What the configuration names on this machine travels as the job's code: data files, folders of data,
//! a model's folder. Refused: more than Azure ML takes that way.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tracking::azure::Workspace;

/// Files and bytes of a job's code, at most.
const MOST_FILES: usize = 2000;
const MOST_BYTES: u64 = 300 << 20;

/// What a job's name, and those of computes, may consist of.
const PLAIN: fn(char) -> bool = |c| c.is_ascii_alphanumeric() || c == '-' || c == '_';

/// What the job runs on.
#[derive(Clone, Debug, PartialEq)]
pub enum Compute {
    /// A compute of the workspace.
    Named(String),
    /// A virtual machine of this size that Azure starts for the job.
    Serverless(String),
}

/// A command job.
pub struct Job {
    /// Unique in a workspace.
    pub name: String,
    /// The run's configuration, as the job reads it.
    pub config: Config,
    /// The image that ferrotune is in.
    pub image: String,
    /// What it runs on.
    pub compute: Compute,
    /// A folder in Azure with train, validation and test files.
    pub data: Option<String>,
    /// The files of its code, by path; not the configuration.
    pub files: Vec<(String, PathBuf)>,
}

impl Job {
    /// The job that trains from this configuration.
    ///
    /// # Errors
    /// A compute or an image that cannot be one; a file that is not there; more than Azure ML takes.
    pub fn new(
        mut config: Config,
        image: &str,
        compute: Compute,
        data: Option<&str>,
    ) -> Result<Job> {
        check(image, &compute, data)?;
        let run_name = config.name.clone().unwrap_or_else(tracking::new_run_name);
        let plain: String = run_name.chars().filter(|c| PLAIN(*c)).take(100).collect();
        let id = &tracking::new_run_id()[..8];
        let name = format!("{plain}-{id}").trim_start_matches(['-', '_']).to_owned();
        let mut files = Vec::new();
        if Path::new(&config.pretrained_model).is_dir() {
            carry(Path::new(&config.pretrained_model), "model", &mut files)?;
            "model".clone_into(&mut config.pretrained_model);
        }
        let settings = &mut config.data;
        if data.is_some() {
            for (key, file) in [
                ("train_file", &settings.train_file),
                ("validation_file", &settings.validation_file),
                ("test_file", &settings.test_file),
            ] {
                if file.is_some() {
                    bail!("--data and data.{key} both name rows: leave one out");
                }
            }
            settings.dataset = None;
        }
        for (split, file) in [
            ("train", &mut settings.train_file),
            ("validation", &mut settings.validation_file),
            ("test", &mut settings.test_file),
        ] {
            if let Some(path) = file {
                data::check_format(path)?;
                let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
                let there = format!("data/{split}.{ending}");
                carry(path, &there, &mut files)?;
                *file = Some(there.into());
            }
        }
        if let (None, Some(folder)) = (&settings.train_file, &mut settings.dataset)
            && Path::new(folder).is_dir()
        {
            carry(Path::new(folder), "dataset", &mut files)?;
            "dataset".clone_into(folder);
        }
        check_size(&files)?;
        if let Some(uri) = config.artifacts.uri.as_deref().filter(|uri| !uri.contains("://")) {
            bail!(
                "artifacts.uri is {uri}, a folder, which a job would fill on a machine that is gone \
                 afterwards: leave it out, since the run folder is kept among the job's outputs"
            );
        }
        // What lies there is kept with the job.
        config.output_dir = "outputs".into();
        config.tracking.leave_to_job();
        let (image, data) = (image.to_owned(), data.map(str::to_owned));
        Ok(Job { name, config, image, compute, data, files })
    }

    /// What the job runs, in the folder of its code.
    fn command(&self) -> String {
        let mut command = "ferrotune train --config config.toml".to_owned();
        if self.data.is_some() {
            command += " --set 'data.dataset=\"${{inputs.data}}\"'";
        }
        command
    }

    /// For `az ml job create --file`, beside a folder `code` with the configuration and the files.
    pub fn yaml(&self) -> String {
        let schema = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json";
        let mut yaml = format!("$schema: {schema}\ntype: command\n");
        let mut line = |indent: &str, key: &str, value: &str| {
            // A JSON string is one of YAML's.
            yaml.push_str(&format!("{indent}{key}: {}\n", Value::from(value)));
        };
        for (key, value) in self.named() {
            line("", key, value);
        }
        line("", "code", "code");
        line("", "command", &self.command());
        yaml += "environment:\n";
        let mut line = |indent: &str, key: &str, value: &str| {
            yaml.push_str(&format!("{indent}{key}: {}\n", Value::from(value)));
        };
        line("  ", "image", &self.image);
        if let Compute::Named(name) = &self.compute {
            line("", "compute", &format!("azureml:{name}"));
        }
        yaml += "resources:\n  instance_count: 1\n";
        if let Compute::Serverless(size) = &self.compute {
            yaml += &format!("  instance_type: {}\n", Value::from(size.as_str()));
        }
        if let Some(data) = &self.data {
            let data = Value::from(data.as_str());
            yaml += &format!(
                "inputs:\n  data:\n    type: uri_folder\n    mode: ro_mount\n    path: {data}\n"
            );
        }
        yaml
    }

    /// Names and texts that are set, as CLI v2 calls them.
    fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Config { name, description, tracking, .. } = &self.config;
        let experiment = tracking.experiment_name.as_deref();
        [
            ("display_name", name.as_deref()),
            ("experiment_name", experiment),
            ("description", description.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }

    /// The body of `PUT …/jobs/NAME`, with the ids of its code and environment.
    pub fn body(&self, workspace: &Workspace, code: &str, environment: &str) -> Value {
        let mut properties = json!({
            "jobType": "Command",
            "command": self.command(),
            "codeId": code,
            "environmentId": environment,
            "resources": { "instanceCount": 1 },
        });
        for (key, value) in self.named() {
            let key = match key {
                "display_name" => "displayName",
                "experiment_name" => "experimentName",
                key => key,
            };
            properties[key] = value.into();
        }
        match &self.compute {
            Compute::Named(name) => {
                properties["computeId"] = format!("{}/computes/{name}", workspace.id()).into();
            }
            Compute::Serverless(size) => {
                properties["resources"]["instanceType"] = size.as_str().into();
            }
        }
        if let Some(data) = &self.data {
            properties["inputs"] = json!({ "data": {
                "jobInputType": "uri_folder",
                "mode": "ReadOnlyMount",
                "uri": full(data, workspace),
            } });
        }
        json!({ "properties": properties })
    }
}

/// A data asset or a place in a datastore by its whole name, as the REST API knows it.
fn full(data: &str, workspace: &Workspace) -> String {
    let Workspace { subscription_id, resource_group, workspace_name } = workspace;
    if let Some(place) = data.strip_prefix("azureml://datastores/") {
        return format!(
            "azureml://subscriptions/{subscription_id}/resourcegroups/{resource_group}/workspaces/\
             {workspace_name}/datastores/{place}"
        );
    }
    match data.strip_prefix("azureml:").and_then(|asset| asset.split_once(':')) {
        Some((name, version)) => format!("{}/data/{name}/versions/{version}", workspace.id()),
        None => data.to_owned(),
    }
}

fn check(image: &str, compute: &Compute, data: Option<&str>) -> Result<()> {
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
        bail!("--image is `{image}`, but must be like REGISTRY.azurecr.io/ferrotune:0.1.0");
    }
    match compute {
        Compute::Named(name) if name.starts_with("Standard_") => {
            bail!("--compute is `{name}`, which is a size: name it with --instance-type")
        }
        Compute::Named(text) | Compute::Serverless(text) => {
            if text.is_empty() || !text.chars().all(PLAIN) {
                bail!("`{text}` is no name of a compute, and no size of a virtual machine");
            }
        }
    }
    let Some(data) = data else { return Ok(()) };
    let asset = data.strip_prefix("azureml:").is_some_and(|rest| rest.split(':').count() == 2);
    let is_place = ["azureml://", "https://", "wasbs://", "abfss://"]
        .iter()
        .any(|scheme| data.starts_with(scheme));
    if data.contains('?') || !(is_place || asset) {
        let shown = data.split('?').next().unwrap_or_default();
        bail!(
            "--data is `{shown}`, but must be azureml:NAME:VERSION, azureml://datastores/NAME/paths/PATH \
             or https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH, without a signature"
        );
    }
    Ok(())
}

fn check_size(files: &[(String, PathBuf)]) -> Result<()> {
    let mut bytes = 0;
    for (_, path) in files {
        let found = path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        bytes += found.len();
    }
    if files.len() > MOST_FILES || bytes > MOST_BYTES {
        bail!(
            "{} files of {} MB would travel with the job, which takes {MOST_FILES} and {} MB: keep data in a \
             datastore and name it with --data, and models in the hub or a Python package",
            files.len(),
            bytes >> 20,
            MOST_BYTES >> 20
        );
    }
    Ok(())
}

/// Adds a file, or what is in a folder, under this path.
fn carry(local: &Path, path: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let found = local.metadata().with_context(|| format!("cannot read {}", local.display()))?;
    if !found.is_dir() {
        files.push((path.to_owned(), local.to_path_buf()));
        return Ok(());
    }
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths: Vec<_> =
            std::fs::read_dir(local)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    for entry in list().with_context(|| format!("cannot list {}", local.display()))? {
        let name = entry.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} is not UTF-8", entry.display()))?;
        carry(&entry, &format!("{path}/{name}"), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_compute_image_or_data_is_refused() {
        let named = |name: &str| Compute::Named(name.to_owned());
        for (image, compute, data, said) in [
            ("a b", named("gpu"), None, "--image is `a b`"),
            ("i", named("Standard_NC24ads_A100_v4"), None, "--instance-type"),
            ("i", named("a/b"), None, "`a/b`"),
            ("i", named("gpu"), Some("clauses.csv"), "azureml:NAME:VERSION"),
            ("i", named("gpu"), Some("https://a/b?sig=SECRET"), "without a signature"),
        ] {
            let error = check(image, &compute, data).expect_err(said).to_string();
            assert!(error.contains(said) && !error.contains("SECRET"), "{error}");
        }
        for data in ["azureml:clauses:1", "azureml://datastores/d/paths/p", "https://a.b/c/d"] {
            check("r.azurecr.io/ferrotune:0.1", &named("gpu-1"), Some(data)).expect(data);
        }
    }
}
