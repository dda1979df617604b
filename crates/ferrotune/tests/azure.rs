//! Azure ML from the command line, against a service written from the public descriptions of Azure's: runs
//! in a workspace, and where their secrets are not.

mod common;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/real.rs"]
mod real;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/azure/service.rs"]
mod service;

use common::{Answer, Scene, answer, assert_nowhere};
use real::{Server, Version};
use serde_json::json;
use service::{Azure, CLIENT_SECRET, REFRESH_TOKEN, SIGNATURE, SUBSCRIPTION, TOKEN, cli_login};
use tracking::{Metric, NewRun, RunRecord};

const SECRETS: [&str; 4] = [CLIENT_SECRET, REFRESH_TOKEN, SIGNATURE, TOKEN];

/// The scene with the `config.json` that the studio gives out.
fn scene() -> Scene {
    let scene = Scene::new();
    let workspace =
        json!({ "subscription_id": SUBSCRIPTION, "resource_group": "g", "workspace_name": "w" });
    scene.file("config.json", workspace.to_string());
    scene
}

/// Runs the program, which tells all it knows.
fn run(scene: &Scene, environment: &[(String, String)], arguments: &[String]) -> Answer {
    let mut command = scene.command();
    command.args(arguments).envs(environment.iter().cloned()).env("RUST_LOG", "trace");
    let done = answer(command, b"");
    for secret in SECRETS {
        assert!(!done.stderr.contains(secret) && !done.stdout.contains(secret), "{}", done.stderr);
    }
    done
}

#[test]
fn a_run_in_a_workspace_is_the_run_in_its_folder_and_no_secret_is_anywhere() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    let azure = Azure::start(Some(server.port));
    let scene = scene();
    scene.file("model/tokenizer_config.json", "{}");
    let settings = ["tracking.uri=azureml", "export.formats=[\"mlflow\"]"];
    let environment = azure.environment_with_secret();
    let done = run(&scene, &environment, &scene.train_arguments(&settings));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let folder = scene.run_folder();
    let record = RunRecord::open(folder.as_ref()).expect("a record");
    let page = tracking::page(folder.as_ref()).expect("readable").expect("it was sent");
    assert!(done.stderr.contains(&format!("MLflow: {page}")), "{}", done.stderr);
    let run_id = page.split("/runs/").nth(1).and_then(|rest| rest.split('?').next());
    let read = server.read(run_id.expect("an id"));
    assert_eq!((&read["status"], &read["run_name"]), (&json!("FINISHED"), &json!("tiny")));
    assert_eq!(read["params"], json!(record.params()));
    assert_eq!(read["params"]["tracking.uri"], json!(azure.tracking_uri()));
    let history = record.history().expect("a history");
    let read_points = read["metrics"].as_object().expect("metrics");
    let points = read_points.values().map(|points| points.as_array().expect("points").len());
    assert_eq!(points.sum::<usize>(), history.len());
    let artifacts = read["artifacts"].to_string();
    for (path, file) in record.artifacts() {
        let entry = json!([path, file.metadata().expect("a file").len()]).to_string();
        assert!(artifacts.contains(&entry), "{entry} in {artifacts}");
    }
    assert!(artifacts.contains("model/components/tokenizer/tokenizer.json"), "{artifacts}");

    let sync = ["sync".to_owned(), folder.clone()];
    let synced = run(&scene, &environment, &sync);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    let all = format!("{} metric points, the same on {page}", history.len());
    assert!(synced.stderr.contains(&all), "{}", synced.stderr);
    let config = String::from_utf8(scene.read(&format!("{folder}/config.toml"))).expect("text");
    assert!(config.contains(&format!("uri = \"{}\"", azure.tracking_uri())), "{config}");
    for secret in SECRETS.into_iter().chain(["sig="]) {
        assert_nowhere(secret, folder.as_ref());
    }
    for request in azure.requests("/mlflow/") {
        let body = String::from_utf8_lossy(&request.body);
        assert!(SECRETS.iter().all(|secret| !body.contains(secret)), "{body}");
    }
}

#[test]
fn a_job_trains_in_the_run_that_it_is() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    let azure = Azure::start(Some(server.port));
    let client = server.client();
    let experiment = client.create_experiment("clauses").expect("created");
    let new = NewRun {
        experiment_id: &experiment,
        user_id: "service",
        run_name: "job",
        start_time: 1_700_000_000_000,
        tags: vec![],
    };
    let run_id = client.create_run(&new).expect("created").info.run_id;
    let scene = Scene::new();
    let mut environment = azure.environment();
    for (name, value) in [
        ("MLFLOW_TRACKING_URI", azure.tracking_uri()),
        ("MLFLOW_TRACKING_TOKEN", azure.token()),
        ("MLFLOW_EXPERIMENT_NAME", "clauses".to_owned()),
        ("MLFLOW_RUN_ID", run_id.clone()),
        ("AZUREML_RUN_ID", run_id.clone()),
    ] {
        environment.push((name.to_owned(), value));
    }
    let arguments = scene.train_arguments(&["output_dir=outputs"]);
    let done = run(&scene, &environment, &arguments);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let read = server.read(&run_id);
    assert_eq!((&read["status"], &read["run_name"]), (&json!("RUNNING"), &json!("job")));
    assert_eq!(read["experiment"], json!("clauses"));
    assert_eq!(read["runs"], json!([run_id]), "no other run was made");
    assert!(read["metrics"]["Test_F1_Score"].is_array(), "{}", read["metrics"]);
    let mut folders = std::fs::read_dir(scene.path("outputs")).expect("a folder of runs");
    let folder = folders.next().expect("a run").expect("its folder").path();
    let record = RunRecord::open(&folder).expect("a record");
    assert_eq!(record.info().experiment_name, "clauses");
    let Metric { key, .. } = record.history().expect("a history").remove(0);
    assert!(read["metrics"][key].is_array());
}

#[test]
fn who_cannot_sign_in_is_told_before_training() {
    let azure = Azure::start(None);
    let scene = scene();
    let train = scene.train_arguments(&["tracking.uri=azureml"]);
    let nobody = run(&scene, &azure.environment(), &train);
    nobody.refused(&[
        "cannot find the tracking address of the workspace w",
        "no access token for Azure",
        "client secret: AZURE_CLIENT_SECRET is not set",
        "hint: run `az login`",
    ]);
    let mut wrong = azure.environment_with_secret();
    wrong.push(("AZURE_CLIENT_SECRET".to_owned(), "wr0ng~s3cret".to_owned()));
    let refused = run(&scene, &wrong, &train);
    refused.refused(&["client secret: ", "invalid_client", "AADSTS7000215", "hint: "]);
    assert!(!refused.stderr.contains("wr0ng~s3cret"), "{}", refused.stderr);
    // With the address there is nothing to look up, and the same is told.
    let uri = format!("tracking.uri={}", azure.tracking_uri());
    run(&scene, &wrong, &scene.train_arguments(&[&uri])).refused(&["AADSTS7000215", "hint: "]);

    // Someone who is logged in, but has no role in the workspace.
    let authority = azure.uri().replace("http://", "");
    cli_login(&scene.path(".azure"), &authority, "user");
    let forbidden =
        json!({ "error": { "code": "AuthorizationFailed", "message": "may not read" } });
    azure.answer("/workspaces/w", &[service::Answer::Json(403, forbidden)]);
    let refused = run(&scene, &azure.environment(), &train);
    refused.refused(&["403 AuthorizationFailed: may not read", "hint: the identity needs a role"]);
    assert!(refused.stderr.contains("access token from: Azure CLI"), "{}", refused.stderr);

    std::fs::remove_file(scene.path("config.json")).expect("there");
    let train = scene.train_arguments(&["tracking.uri=azureml"]);
    run(&scene, &azure.environment(), &train).refused(&["no workspace's config.json in"]);
    assert!(!scene.has_run());
}
