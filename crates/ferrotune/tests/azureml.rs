//! `ferrotune azureml job` from the command line: the folder that it writes, and what arrives at a service
//! written from the public description of Azure Resource Manager. It is not Azure.

mod common;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/azure/service.rs"]
mod service;

use common::{Answer, Scene, answer, assert_nowhere};
use serde_json::{Value, json};
use service::{Azure, CLIENT_SECRET, SIGNATURE, SUBSCRIPTION, TOKEN, workspace};
use std::path::PathBuf;
use std::process::Command;

const IMAGE: &str = "r.azurecr.io/ferrotune:0.1.0";
const SECRETS: [&str; 3] = [CLIENT_SECRET, SIGNATURE, TOKEN];

/// Writes a job of the scene's run; the program tells all it knows.
fn job(scene: &Scene, environment: &[(String, String)], more: &[&str]) -> Answer {
    let mut arguments = scene.train_arguments(&["tracking.uri=azureml"]);
    arguments.splice(..1, ["azureml", "job", "--image", IMAGE].map(str::to_owned));
    arguments.extend(more.iter().map(|text| (*text).to_owned()));
    let mut command = scene.command();
    command.args(arguments).envs(environment.iter().cloned()).env("RUST_LOG", "trace");
    let done = answer(command, b"");
    for secret in SECRETS {
        assert!(!done.stderr.contains(secret) && !done.stdout.contains(secret), "{}", done.stderr);
    }
    done
}

/// The folder of the only job.
fn job_folder(scene: &Scene) -> PathBuf {
    let mut jobs = std::fs::read_dir(scene.path("azureml-jobs")).expect("a folder of jobs");
    let folder = jobs.next().expect("a job").expect("its folder").path();
    assert!(jobs.next().is_none(), "one job");
    folder
}

/// Files below a folder, sorted, by path.
fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// A YAML file, as Python reads it; none where no Python with PyYAML is named.
fn yaml(path: &std::path::Path) -> Option<Value> {
    let Ok(python) = std::env::var("FERROTUNE_MLFLOW_PYTHON") else {
        eprintln!("skipped: FERROTUNE_MLFLOW_PYTHON is not set");
        return None;
    };
    let mut command = Command::new(python);
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    command.args(["-c", program]).arg(path);
    let read = answer(command, b"");
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    Some(serde_json::from_str(&read.stdout).expect("JSON"))
}

const CODE: [&str; 7] = [
    "config.toml",
    "data/test.jsonl",
    "data/train.jsonl",
    "data/validation.jsonl",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
];

#[test]
fn a_job_s_folder_describes_it_and_trains_wherever_it_is() {
    let scene = Scene::new();
    let more = ["--compute", "cpu-1", "--set", "description=a: \"b\" # c"];
    let more = [&more[..], &["--set", "tracking.experiment_name=clauses"]].concat();
    let done = job(&scene, &[], &more);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stdout, "");
    let folder = job_folder(&scene);
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(done.stderr.contains("az ml job create --file azureml-jobs/tiny-"), "{}", done.stderr);
    assert!(name.starts_with("tiny-"), "{name}");
    assert_eq!(files(&folder.join("code")), CODE);
    for (there, here) in [
        ("data/train.jsonl", "train.jsonl"),
        ("model/model.safetensors", "model/model.safetensors"),
    ] {
        let copy = std::fs::read(folder.join("code").join(there)).expect("a copy");
        assert!(copy == scene.read(here), "{there}");
    }
    if let Some(read) = yaml(&folder.join("job.yml")) {
        let expected = json!({
            "$schema": "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json",
            "type": "command",
            "display_name": "tiny",
            "experiment_name": "clauses",
            "description": "a: \"b\" # c",
            "code": "code",
            "command": "ferrotune train --config config.toml",
            "environment": { "image": IMAGE },
            "compute": "azureml:cpu-1",
            "resources": { "instance_count": 1 },
        });
        assert_eq!(read, expected);
    }

    // Elsewhere, with the job's command: a run of what travelled, and of nothing else.
    let elsewhere = Scene::new();
    for name in ["model", "train.jsonl", "validation.jsonl", "test.jsonl"] {
        let path = elsewhere.path(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.expect("there");
    }
    let moved = elsewhere.path("code");
    std::fs::rename(folder.join("code"), &moved).expect("moved");
    let mut command = elsewhere.command();
    command.current_dir(&moved).args(["train", "--config", "config.toml"]);
    let trained = answer(command, b"");
    assert_eq!(trained.code, Some(0), "{}", trained.stderr);
    assert!(moved.join("outputs").is_dir(), "{}", trained.stderr);
}

#[test]
fn data_in_azure_is_an_input_and_no_password_travels() {
    let scene = Scene::new();
    let done = {
        let mut command = scene.command();
        command.args(["azureml", "job", "--image", IMAGE, "--instance-type", "Standard_D8s_v5"]);
        command.args(["--data", "azureml:clauses:1", "--set", "name=w 1", "--output", "job"]);
        command.args(["--set", "tracking.uri=https://me:pa55w0rd@mlflow.example"]);
        answer(command, b"")
    };
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(files(&scene.path("job/code")), ["config.toml"]);
    assert_nowhere("pa55w0rd", &scene.path("job"));
    let config = String::from_utf8(scene.read("job/code/config.toml")).expect("text");
    assert!(
        config.contains("https://mlflow.example") && config.contains("\"outputs\""),
        "{config}"
    );
    assert!(!config.contains("lex_glue"), "{config}");
    let Some(read) = yaml(&scene.path("job/job.yml")) else { return };
    assert_eq!(read["display_name"], json!("w 1"));
    assert_eq!(read.get("compute"), None);
    let resources = json!({ "instance_count": 1, "instance_type": "Standard_D8s_v5" });
    assert_eq!(read["resources"], resources);
    let input = json!({ "type": "uri_folder", "mode": "ro_mount", "path": "azureml:clauses:1" });
    assert_eq!(read["inputs"], json!({ "data": input }));
    let command = "ferrotune train --config config.toml --set 'data.dataset=\"${{inputs.data}}\"'";
    assert_eq!(read["command"], json!(command));
}

/// The scene with the `config.json` that the studio gives out.
fn scene_with_workspace() -> Scene {
    let scene = Scene::new();
    let workspace =
        json!({ "subscription_id": SUBSCRIPTION, "resource_group": "g", "workspace_name": "w" });
    scene.file("config.json", workspace.to_string());
    scene
}

#[test]
fn a_submitted_job_is_an_environment_its_code_and_a_command_job() {
    let azure = Azure::start(None);
    let scene = scene_with_workspace();
    let environment = azure.environment_with_secret();
    let more = ["--compute", "cpu-1", "--submit", "--set", "tracking.experiment_name=clauses"];
    let done = job(&scene, &environment, &more);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let folder = job_folder(&scene);
    let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
    let page = format!("https://ml.azure.com/runs/{name}?wsid={}\n", workspace());
    assert_eq!(done.stdout, page);
    assert!(done.stderr.contains(&format!("submitted: {name} to w")), "{}", done.stderr);

    let calls = azure.requests("/workspaces/w");
    let targets: Vec<_> = calls
        .iter()
        .map(|call| {
            assert!(call.headers["authorization"].starts_with(&format!("Bearer {TOKEN}")));
            let path = call.target.strip_prefix(&workspace()).expect("of the workspace");
            (call.method.as_str(), path.strip_suffix("?api-version=2024-10-01").expect(path))
        })
        .collect();
    let code = format!("/codes/ferrotune/versions/{name}");
    let job = format!("/jobs/{name}");
    let image = targets[1].1.to_owned();
    assert!(image.starts_with("/environments/ferrotune/versions/"), "{image}");
    let expected = [
        ("GET", ""),
        ("PUT", &image),
        ("POST", &format!("{code}/startPendingUpload")),
        ("PUT", &code),
        ("PUT", &job),
    ];
    assert_eq!(targets, expected);
    let bodies: Vec<Value> = [1, 3, 4]
        .map(|call: usize| serde_json::from_slice(&calls[call].body).expect("JSON"))
        .into();
    assert_eq!(bodies[0], json!({ "properties": { "image": IMAGE, "osType": "Linux" } }));
    let uri = format!("{}/blobs/code/ferrotune", azure.uri());
    assert_eq!(bodies[1], json!({ "properties": { "codeUri": uri, "isAnonymous": true } }));
    let properties = json!({
        "jobType": "Command",
        "command": "ferrotune train --config config.toml",
        "codeId": format!("{}{code}", workspace()),
        "environmentId": format!("{}{image}", workspace()),
        "computeId": format!("{}/computes/cpu-1", workspace()),
        "resources": { "instanceCount": 1 },
        "displayName": "tiny",
        "experimentName": "clauses",
    });
    assert_eq!(bodies[2], json!({ "properties": properties }));
    let blobs = azure.state().blobs.clone();
    let there: Vec<_> = blobs.keys().map(|path| path.replace("code/ferrotune/", "")).collect();
    assert_eq!(there, CODE);
    for (path, content) in &blobs {
        let local = folder.join("code").join(path.replace("code/ferrotune/", ""));
        assert!(*content == std::fs::read(local).expect("a file"), "{path}");
    }
    for secret in SECRETS.into_iter().chain(["sig="]) {
        assert_nowhere(secret, &folder);
        for call in &calls {
            assert!(!String::from_utf8_lossy(&call.body).contains(secret), "{}", call.target);
        }
    }
}

#[test]
fn serverless_compute_and_data_are_named_as_the_resource_manager_knows_them() {
    let azure = Azure::start(None);
    let scene = scene_with_workspace();
    let environment = azure.environment_with_secret();
    let workspace = workspace();
    let of_store = format!(
        "azureml://subscriptions/{SUBSCRIPTION}/resourcegroups/g/workspaces/w/datastores/d/paths/p"
    );
    for (n, (data, uri)) in [
        ("azureml:clauses:1", format!("{workspace}/data/clauses/versions/1")),
        ("azureml://datastores/d/paths/p", of_store),
        ("https://a.blob.core.windows.net/c/p", "https://a.blob.core.windows.net/c/p".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let studio = json!({ "Studio": { "endpoint": format!("https://studio.example/{n}") } });
        let made = json!({ "properties": { "services": studio } });
        azure.answer("/jobs/", &[service::Answer::Json(201, made)]);
        let output = format!("job-{n}");
        let mut command = scene.command();
        command.args(["azureml", "job", "--image", IMAGE, "--instance-type", "Standard_D8s_v5"]);
        command.args(["--data", data, "--output", &output, "--submit"]).envs(environment.clone());
        let done = answer(command, b"");
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(done.stdout, format!("https://studio.example/{n}\n"));
        let sent = azure.requests("/jobs/").pop().expect("a job");
        let body: Value = serde_json::from_slice(&sent.body).expect("JSON");
        let properties = &body["properties"];
        assert_eq!(properties.get("computeId"), None);
        let resources = json!({ "instanceCount": 1, "instanceType": "Standard_D8s_v5" });
        assert_eq!(properties["resources"], resources);
        let input = json!({ "jobInputType": "uri_folder", "mode": "ReadOnlyMount", "uri": uri });
        assert_eq!(properties["inputs"], json!({ "data": input }));
    }
}

#[test]
fn what_cannot_be_a_job_is_refused_and_nothing_is_written() {
    let scene = scene_with_workspace();
    let on = |more: &[&str]| job(&scene, &[], &[&["--compute", "cpu-1"], more].concat());
    job(&scene, &[], &["--compute", "Standard_NC24ads_A100_v4"]).refused(&["--instance-type"]);
    job(&scene, &[], &[]).refused(&["--compute"]);
    on(&["--instance-type", "Standard_D8s_v5"]).refused(&["--instance-type"]);
    on(&["--data", "azureml:clauses:1"]).refused(&["data.train_file", "leave one out"]);
    let signed = format!("https://a.blob.core.windows.net/c/p?sig={SIGNATURE}");
    on(&["--data", &signed]).refused(&["without a signature"]);
    on(&["--data", "clauses.csv"]).refused(&["azureml:NAME:VERSION"]);
    on(&["--set", "data.train_file=nowhere.jsonl"]).refused(&["nowhere.jsonl"]);
    on(&["--set", "data.train_file=config.json"]).refused(&["config.json"]);
    on(&["--set", "artifacts.uri=models"]).refused(&["artifacts.uri is models, a folder"]);
    on(&["--set", "training.max_epoch=1"]).refused(&["max_epochs"]);
    on(&["--workspace", "config.json"]).refused(&["--submit"]);
    on(&["--output", "model"]).refused(&["model"]);
    let mut command = scene.command();
    command.args(["azureml", "job", "--compute", "cpu-1", "--image", "a b"]);
    answer(command, b"").refused(&["--image is `a b`"]);
    for n in 0..2000 {
        let link = scene.path(&format!("model/{n}.txt"));
        std::fs::hard_link(scene.path("config.json"), link).expect("a file");
    }
    on(&[]).refused(&["2006 files", "takes 2000", "--data"]);
    assert!(!scene.path("azureml-jobs").exists());
}

#[test]
fn who_may_not_submit_is_told() {
    let azure = Azure::start(None);
    let scene = scene_with_workspace();
    let submit = ["--compute", "cpu-1", "--submit"];
    job(&scene, &azure.environment(), &submit).refused(&["no access token for Azure", "hint: "]);
    let environment = azure.environment_with_secret();
    let says = |status, code| {
        service::Answer::Json(status, json!({ "error": { "code": code, "message": "not you" } }))
    };
    azure.answer("/workspaces/w", &[says(403, "AuthorizationFailed")]);
    let refused = job(&scene, &environment, &submit);
    refused.refused(&[
        "the workspace w takes no job",
        "403 AuthorizationFailed: not you",
        "a role",
    ]);
    assert!(!scene.path("azureml-jobs").exists(), "nothing was written");

    // A reader, who may look at the workspace: the folder stays for `az`.
    azure.answer("/jobs/", &[says(403, "AuthorizationFailed")]);
    let refused = job(&scene, &environment, &submit);
    refused.ended(1, &["the workspace does not take the job", "403 AuthorizationFailed", "a role"]);
    assert!(job_folder(&scene).join("job.yml").is_file());
    assert!(azure.state().resources.keys().all(|path| !path.starts_with("jobs/")));

    // A token that ended once is asked for anew; one that never serves is told.
    azure.answer("/workspaces/w", &[says(401, "ExpiredAuthenticationToken"), says(401, "No")]);
    job(&scene, &environment, &submit).refused(&["401 No: not you", "hint: "]);
}
