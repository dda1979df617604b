//! Azure ML from the command line, against a service written from the public descriptions of Azure's: runs
//! in a workspace, and where their secrets are not.

mod common;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/real.rs"]
mod real;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/azure/service.rs"]
mod service;

use common::{Answer, Scene, answer, assert_nowhere};
use proxy::{Proxy, Trouble};
use real::{Server, Version};
use serde_json::json;
use service::{
    Azure, CLIENT, CLIENT_SECRET, REFRESH_TOKEN, SIGNATURE, SUBSCRIPTION, TENANT, TOKEN, cli_login,
};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tracking::{Metric, NewRun, RunRecord, Status};

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

/// The workspace has what the folder records, no more and no less.
#[track_caller]
fn assert_same(server: &Server, azure: &Azure, folder: &Path) {
    let record = RunRecord::open(folder).expect("a record");
    let page = tracking::page(folder).expect("readable").expect("it was sent");
    let run_id = page.split("/runs/").nth(1).and_then(|rest| rest.split('?').next());
    let run_id = run_id.expect("an id");
    let client = server.client();
    let found = client.run(run_id).expect("there");
    assert_eq!(json!(found.info.status), json!(record.status()));
    assert_eq!(found.info.end_time, record.end_time_ms());
    let params: Vec<_> = found.data.params.iter().map(|p| (&p.key, &p.value)).collect();
    assert_eq!(params.into_iter().collect::<BTreeSet<_>>(), record.params().iter().collect());
    let point = |m: &Metric| (m.key.clone(), m.step, m.timestamp_ms, m.value.to_bits());
    let history = record.history().expect("a history");
    let keys: BTreeSet<_> = history.iter().chain(&found.data.metrics).map(|m| &m.key).collect();
    let mut there = Vec::new();
    for key in keys {
        there.extend(client.metric_history(run_id, key).expect("asked").iter().map(point));
    }
    assert_eq!(there.len(), history.len(), "no point twice");
    let points = |all: Vec<_>| all.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(points(there), points(history.iter().map(point).collect()));
    let blobs = azure.state().blobs.clone();
    let files: Vec<_> = record.artifacts().collect();
    assert_eq!(blobs.len(), files.len());
    for (path, file) in files {
        let sent = &blobs[&format!("dcid.{run_id}/{path}")];
        assert!(*sent == std::fs::read(file).expect("a file"), "{path}");
    }
}

#[test]
fn a_run_arrives_through_trouble_with_every_call() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    std::thread::scope(|threads| {
        for trouble in [Trouble::Hang, Trouble::Reset, Trouble::Half] {
            let server = &server;
            threads.spawn(move || arrives_through(server, trouble));
        }
    });
}

fn arrives_through(server: &Server, trouble: Trouble) {
    let mut proxy = None;
    let azure =
        Azure::start(Some(server.port)).behind(|port| proxy.insert(Proxy::before(port)).port);
    let proxy = proxy.expect("started");
    let mut environment = azure.environment_with_secret();
    environment.push(("MLFLOW_HTTP_REQUEST_TIMEOUT".to_owned(), "2".to_owned()));
    let scene = scene();
    proxy.make(trouble);
    let done = run(&scene, &environment, &scene.train_arguments(&["tracking.uri=azureml"]));
    assert_eq!(done.code, Some(0), "{trouble:?}: {}", done.stderr);
    assert!(done.stderr.matches("does not take the run now").count() <= 1, "{}", done.stderr);
    let mut hit = proxy.calm();
    let folder = PathBuf::from(scene.run_folder());
    assert_same(server, &azure, &folder);

    // From nothing but the record, with the same trouble on the way.
    std::fs::remove_file(folder.join("server.json")).expect("there");
    proxy.make(trouble);
    let sync = ["sync".to_owned(), folder.display().to_string()];
    let mut synced = run(&scene, &environment, &sync);
    if synced.code != Some(0) {
        // Who waits is told soon that nobody answers: here the list of clouds and the sign-in.
        synced.ended(1, &["no answer from ", "/token: "]);
        synced = run(&scene, &environment, &sync);
    }
    assert_eq!(synced.code, Some(0), "{trouble:?}: {}", synced.stderr);
    assert!(synced.stderr.contains("metric points, the same on "), "{}", synced.stderr);
    hit.extend(proxy.calm());
    assert_same(server, &azure, &folder);
    for secret in SECRETS.into_iter().chain(["sig="]) {
        assert_nowhere(secret, &folder);
    }
    for call in [
        "GET /metadata",
        "POST v2.0/token",
        "GET workspaces/w",
        "POST runs/create",
        "POST runs/log-batch",
        "POST runs/update",
        "POST batch/metadata",
        "GET RUN/write",
        "PUT blob",
    ] {
        assert!(hit.contains(call), "{trouble:?}: {call} in {hit:?}");
    }
}

#[test]
fn a_workspace_that_hangs_holds_up_nothing() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    // Connections are made, and nothing is read from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("bound");
    let environment = [
        ("AZURE_AUTHORITY_HOST", format!("http://{at}")),
        ("AZURE_TENANT_ID", TENANT.to_owned()),
        ("AZURE_CLIENT_ID", CLIENT.to_owned()),
        ("AZURE_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let uri = format!("tracking.uri=azureml://{at}/mlflow/v1.0{}", service::workspace());
    let scene = scene();
    let start = Instant::now();
    let short = [uri.as_str(), "tracking.patience=1s", "output_dir=short"];
    let done = run(&scene, &environment, &scene.train_arguments(&short));
    // A request alone would wait for two minutes, a sign-in for 20 s.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr.matches("does not take the run now").count(), 1, "{}", done.stderr);
    let short = only_run(&scene, "short");
    let hint = format!("hint: catch up with: ferrotune sync {}", short.display());
    assert!(done.stderr.contains(&hint), "{}", done.stderr);

    // Whoever does not want to wait for it at the end, says so.
    let patient = [uri.as_str(), "tracking.patience=10m", "output_dir=long"];
    let mut command = scene.command();
    command.args(scene.train_arguments(&patient)).envs(environment).stderr(Stdio::piped());
    let child = command.spawn().expect("the program");
    let waiting = Instant::now();
    let ended = || {
        let runs = std::fs::read_dir(scene.path("long"));
        let begun = runs.is_ok_and(|mut runs| runs.next().is_some());
        begun
            && RunRecord::open(&only_run(&scene, "long"))
                .is_ok_and(|record| record.status() == Status::Finished)
    };
    while !ended() {
        assert!(waiting.elapsed() < Duration::from_secs(60), "training waits");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut kill = Command::new("kill");
    assert!(kill.arg("-TERM").arg(child.id().to_string()).status().expect("kill").success());
    let asked = Instant::now();
    let done = child.wait_with_output().expect("its output");
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "the run is whole: {stderr}");
    let long = only_run(&scene, "long");
    assert!(stderr.contains(&format!("ferrotune sync {}", long.display())), "{stderr}");

    // Once somebody answers, the workspace gets all of it.
    for folder in [short, long] {
        let azure = Azure::start(Some(server.port));
        let folder_name = folder.display().to_string();
        let sync = ["sync", &folder_name, "--tracking-uri", &azure.tracking_uri()];
        let sync = sync.map(str::to_owned);
        let synced = run(&scene, &azure.environment_with_secret(), &sync);
        assert_eq!(synced.code, Some(0), "{}", synced.stderr);
        assert_same(&server, &azure, &folder);
    }
}

#[test]
fn a_workspace_whose_address_nobody_tells_yet_gets_the_run_later() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    // Down at the start, and at the first try of the run itself.
    let azure = Azure::start(Some(server.port));
    let down = service::Answer::Json(503, json!({}));
    azure.answer("/workspaces/w", &vec![down; 10]);
    let scene = scene();
    let environment = azure.environment_with_secret();
    let arguments = scene.train_arguments(&["tracking.uri=azureml", "output_dir=soon"]);
    let done = run(&scene, &environment, &arguments);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr.matches("does not take the run now").count(), 1, "{}", done.stderr);
    assert_same(&server, &azure, &only_run(&scene, "soon"));

    // Connections are made, and nothing is read from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}/metadata/endpoints", silent.local_addr().expect("bound"));
    let mut mute = environment.clone();
    mute.push(("ARM_CLOUD_METADATA_URL".to_owned(), nobody));
    let start = Instant::now();
    let settings = ["tracking.uri=azureml", "tracking.patience=1s", "output_dir=later"];
    let done = run(&scene, &mute, &scene.train_arguments(&settings));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr.matches("does not take the run now").count(), 1, "{}", done.stderr);
    let folder = only_run(&scene, "later");
    let name = folder.display().to_string();
    let hint = format!("hint: catch up with: ferrotune sync {name}");
    assert!(done.stderr.contains(&hint), "{}", done.stderr);
    let reference = format!("azureml:{}", service::workspace());
    let record = RunRecord::open(&folder).expect("a record");
    assert_eq!(record.params()["tracking.uri"], reference);
    let sync = ["sync".to_owned(), name.clone()];
    run(&scene, &mute, &sync).ended(1, &["cannot find the tracking address of the workspace w"]);

    // It is that workspace, whatever becomes of the file.
    std::fs::remove_file(scene.path("config.json")).expect("there");
    let azure = Azure::start(Some(server.port));
    let resume = ["train", "--resume", &name].map(str::to_owned);
    let resumed = run(&scene, &azure.environment_with_secret(), &resume);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_same(&server, &azure, &folder);
    let synced = run(&scene, &azure.environment_with_secret(), &sync);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    let record = RunRecord::open(&folder).expect("a record");
    assert_eq!(record.params()["tracking.uri"], reference, "a parameter stays");
}

/// The only run below this folder of the scene.
fn only_run(scene: &Scene, folder: &str) -> PathBuf {
    let mut runs = std::fs::read_dir(scene.path(folder)).expect("a folder of runs");
    runs.next().expect("a run").expect("its folder").path()
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
