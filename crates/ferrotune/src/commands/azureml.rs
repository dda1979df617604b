//! `ferrotune azureml job`: writes a training run as a job for Azure Machine Learning, and submits it.

use crate::azureml::{Compute, Job};
use crate::cli::{AzuremlArguments, AzuremlCommand, JobArguments};
use crate::config::{Config, environment};
use crate::failure::{BeforeStart, Outcome};
use crate::progress::{print, tell};
use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tracking::Environment;
use tracking::azure::{Management, Workspace, studio_page};

/// Under which the workspace keeps the job's code and its environment.
const ASSET: &str = "ferrotune";

/// Runs the command.
pub fn run(arguments: &AzuremlArguments) -> Outcome {
    let AzuremlCommand::Job(arguments) = &arguments.command;
    let job = job(arguments).before_start()?;
    let management = match arguments.submit {
        true => Some(management(arguments).before_start()?),
        false => None,
    };
    let default = || PathBuf::from("azureml-jobs").join(&job.name);
    let folder = arguments.output.clone().unwrap_or_else(default);
    durable::refuse_content(&folder).before_start()?;
    write(&job, &folder)?;
    let file = folder.join("job.yml");
    tell(format_args!("job: {}", file.display()));
    match management {
        Some(management) => submit(&job, &management, &folder)?,
        None => tell(format_args!("submit it with: az ml job create --file {}", file.display())),
    }
    Ok(())
}

fn job(arguments: &JobArguments) -> Result<Job> {
    let config = Config::resolve(arguments.config.as_deref(), environment(), &arguments.set)?;
    let compute = match (&arguments.compute, &arguments.instance_type) {
        (Some(name), None) => Compute::Named(name.clone()),
        (None, Some(size)) => Compute::Serverless(size.clone()),
        _ => bail!("name either a --compute or an --instance-type"),
    };
    Job::new(config, &arguments.image, compute, arguments.data.as_deref())
}

/// The workspace, once it answered.
fn management(arguments: &JobArguments) -> Result<Management> {
    let workspace = Workspace::find(arguments.workspace.as_deref().unwrap_or("azureml"))?;
    let management = Management::new(&workspace, &Environment::of_process())?;
    management.tracking_uri().with_context(|| format!("the workspace {workspace} takes no job"))?;
    Ok(management)
}

fn write(job: &Job, folder: &Path) -> Result<()> {
    durable::new_folder(folder, |folder| -> Result<()> {
        let code = folder.join("code");
        for (path, local) in &job.files {
            let target = code.join(path);
            durable::create_folder(target.parent().context("a file has a folder")?)?;
            let mut from = std::fs::File::open(local)
                .with_context(|| format!("cannot read {}", local.display()))?;
            durable::write_with(&target, |out| std::io::copy(&mut from, out).map(drop))?;
        }
        durable::create_folder(&code)?;
        durable::write(&code.join("config.toml"), job.config.to_toml().as_bytes())?;
        durable::write(&folder.join("job.yml"), job.yaml().as_bytes())?;
        Ok(())
    })
}

/// Puts code, environment and job into the workspace.
fn submit(job: &Job, management: &Management, folder: &Path) -> Result<()> {
    let workspace = management.workspace();
    // The same image is the same environment.
    let digest = Sha256::digest(job.image.as_bytes());
    let version: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let environment = format!("environments/{ASSET}/versions/{version}");
    let image = json!({ "properties": { "image": job.image, "osType": "Linux" } });
    management.put(&environment, &image).context("the workspace does not take the image")?;
    let environment = format!("{}/{environment}", workspace.id());
    let code = folder.join("code");
    let paths = job.files.iter().map(|(path, _)| path.as_str()).chain(["config.toml"]);
    let files: Vec<_> = paths.map(|path| (path.to_owned(), code.join(path))).collect();
    let code = management
        .upload_code(ASSET, &job.name, &files)
        .context("the workspace does not take the job's code")?;
    let body = job.body(workspace, &code, &environment);
    let path = format!("jobs/{}", job.name);
    let made = management.put(&path, &body).context("the workspace does not take the job")?;
    tell(format_args!("submitted: {} to {workspace}", job.name));
    let page = made.pointer("/properties/services/Studio/endpoint").and_then(|at| at.as_str());
    let own = || studio_page(management.host(), &workspace.id(), &job.name);
    print(format_args!("{}", page.map_or_else(own, str::to_owned)))
}
