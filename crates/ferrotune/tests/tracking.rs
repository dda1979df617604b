//! Runs on a real MLflow server, read back by MLflow's own client: trained to the end, interrupted and
//! resumed, failed, and caught up after an outage; and what the server refuses. Needs the Pythons that
//! `crates/tracking/tests/server/real.rs` names.

mod common;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "../../tracking/tests/server/real.rs"]
mod real;

use common::{Answer, Scene, answer, assert_nowhere};
use real::{Server, Version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tracking::{Metric, RunRecord, Status};

const SECRET: &str = "s3cret-password";

/// The only run below this folder of the scene.
fn run_in(scene: &Scene, folder: &str) -> PathBuf {
    let mut runs = std::fs::read_dir(scene.path(folder)).expect("a folder of runs");
    runs.next().expect("a run").expect("its folder").path()
}

/// The run on the server, as MLflow's client reads it.
fn on_server(server: &Server, folder: &Path) -> Value {
    let page = tracking::page(folder).expect("readable").expect("it was sent");
    server.read(page.rsplit('/').next().expect("an id"))
}

/// What the client reads is what the folder records.
#[track_caller]
fn assert_equal(read: &Value, folder: &Path, status: Status) {
    let record = RunRecord::open(folder).expect("a record");
    assert_eq!(record.status(), status);
    assert_eq!(read["status"], json!(status));
    assert_eq!(read["run_name"], json!(record.info().run_name));
    assert_eq!(read["experiment"], json!(record.info().experiment_name));
    assert_eq!(read["end_time"], json!(record.end_time_ms()));
    assert_eq!(read["params"], json!(record.params()));
    for (key, value) in record.tags() {
        assert_eq!(read["tags"][key], json!(value), "{key}");
    }
    let datasets: Vec<_> = record
        .datasets()
        .iter()
        .map(|dataset| json!([dataset.name, dataset.digest, dataset.context]))
        .collect();
    let found = read["datasets"].as_array().expect("data sets");
    assert!(
        found.len() == 3 && datasets.iter().all(|dataset| found.contains(dataset)),
        "{found:?}"
    );
    let files: Vec<_> = record
        .artifacts()
        .map(|(path, file)| json!([path, file.metadata().expect("a file").len()]))
        .collect();
    // MLflow 3 shows a run's models among its artifacts.
    let of_run = |entry: &&Value| !entry[0].as_str().is_some_and(|p| p.starts_with("model/"));
    let found: Vec<_> =
        read["artifacts"].as_array().expect("files").iter().filter(of_run).collect();
    assert_eq!(json!(found), json!(files));
    let mut points = BTreeMap::<String, BTreeSet<(i64, i64, u64)>>::new();
    let history = record.history().expect("a history");
    for Metric { key, value, step, timestamp_ms } in history {
        points.entry(key).or_default().insert((timestamp_ms, step, value.to_bits()));
    }
    let found = read["metrics"].as_object().expect("metrics");
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), points.keys().collect::<BTreeSet<_>>());
    for (key, history) in found {
        let history = history.as_array().expect("points");
        assert_eq!(history.len(), points[key].len(), "{key}: no point twice");
        for point in history {
            let time = point[0].as_i64().expect("a time");
            let step = point[2].as_i64().expect("a step");
            let bits = from_hex(point[1].as_str().expect("text")).to_bits();
            assert!(points[key].contains(&(time, step, bits)), "{key}: {point}");
        }
    }
}

/// Python's `float.hex` of a number of ordinary size.
fn from_hex(text: &str) -> f64 {
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |text| (-1.0, text));
    let (digits, exponent) = text.strip_prefix("0x").and_then(|t| t.split_once('p')).expect(text);
    let whole = u64::from_str_radix(&digits.replace('.', ""), 16).expect("hexadecimal");
    let places = digits.len().saturating_sub(2) * 4;
    let exponent: i32 = exponent.parse().expect("a number");
    sign * whole as f64 * 2f64.powi(exponent - places as i32)
}

fn train(scene: &Scene, uri: &str, settings: &[&str]) -> Answer {
    let mut command = scene.command();
    command.args(scene.train_arguments(settings)).env("MLFLOW_TRACKING_URI", uri);
    answer(command, b"")
}

#[test]
fn a_run_on_a_server_is_the_run_in_its_folder() {
    let Some(server) = Server::start(Version::Three, &[]) else { return };
    let scene = Scene::new();
    // The password goes to a server that asks for none.
    let uri = server.uri().replace("//", &format!("//me:{SECRET}@"));
    let uri_set = format!("tracking.uri={uri}");
    scene.file("model/tokenizer_config.json", "{}");
    let settings = [
        uri_set.as_str(),
        "description=a *note*",
        "tracking.experiment_name=clauses",
        "export.formats=[\"mlflow\"]",
        "tracking.registered_model_name=unfair clauses",
        "tracking.registered_model_alias=champion",
    ];
    let done = scene.train(&[&settings[..], &["output_dir=whole"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let whole = run_in(&scene, "whole");
    let read = on_server(&server, &whole);
    assert_equal(&read, &whole, Status::Finished);
    assert_eq!(read["tags"]["mlflow.note.content"], json!("a *note*"));
    let artifacts = read["artifacts"].to_string();
    for file in ["config.toml", "report.html", "best/adapter_model.safetensors"] {
        assert!(artifacts.contains(file), "{file} in {artifacts}");
    }
    assert_eq!(read["params"]["tracking.uri"], json!(server.uri()));
    let version = server.client().model_version("unfair clauses", "1").expect("registered");
    assert_eq!(version.status, "READY");
    let run_id = read["runs"][0].as_str().expect("an id");
    let models = server.client().logged_models_of("1", run_id).expect("asked");
    assert_eq!(models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["model"]);
    let stored = models[0].artifact_uri.trim_start_matches("mlflow-artifacts:/");
    let stored = server.folder().join("artifacts").join(stored);
    for file in ["MLmodel", "model/model.safetensors", "components/tokenizer/tokenizer.json"] {
        let sent = std::fs::read(whole.join("export/mlflow").join(file)).expect("exported");
        assert!(std::fs::read(stored.join(file)).expect("stored") == sent, "{file}");
    }
    assert!(done.stderr.contains(&format!("MLflow: {}/#/experiments/", server.uri())));
    for text in [&done.stderr, &done.stdout, &read.to_string()] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert_nowhere(SECRET, &scene.path("whole"));

    interrupted_and_resumed(&scene, &server);

    let failed = ["training.learning_rate=1e30", "output_dir=failed"];
    train(&scene, &uri, &failed).ended(1, &["diverged"]);
    let folder = run_in(&scene, "failed");
    assert_equal(&on_server(&server, &folder), &folder, Status::Failed);

    down_and_caught_up(&scene, &server);
}

fn interrupted_and_resumed(scene: &Scene, server: &Server) {
    let mut command = scene.command();
    let long = ["training.batch_size=1", "training.max_epochs=40", "output_dir=cut"];
    let mut child = command
        .args(scene.train_arguments(&long))
        .env("MLFLOW_TRACKING_URI", server.uri())
        .env("MLFLOW_EXPERIMENT_NAME", "cut")
        .env("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
        .env("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
        .spawn()
        .expect("the program");
    let waiting = Instant::now();
    // The folder of runs is made a moment before the run's.
    let begun = || std::fs::read_dir(scene.path("cut")).is_ok_and(|mut runs| runs.next().is_some());
    let checkpoint = || begun() && run_in(scene, "cut").join("last").is_dir();
    let sampled = || {
        let points = std::fs::read_to_string(run_in(scene, "cut").join("metrics.jsonl"));
        points.is_ok_and(|points| points.contains("system/")) || cfg!(not(target_os = "linux"))
    };
    while !(checkpoint() && sampled()) {
        assert!(waiting.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut kill = Command::new("kill");
    assert!(kill.arg("-TERM").arg(child.id().to_string()).status().expect("kill").success());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
    let folder = run_in(scene, "cut");
    let page = tracking::page(&folder).expect("readable");
    let read = on_server(server, &folder);
    assert_equal(&read, &folder, Status::Killed);
    #[cfg(target_os = "linux")]
    assert!(read["metrics"]["system/cpu_utilization_percentage"].is_array());

    // Killed without a word, some time after it went on.
    let resume = ["train".to_owned(), "--resume".to_owned(), folder.display().to_string()];
    let mut child = scene.command().args(&resume).spawn().expect("the program");
    let points = || std::fs::metadata(folder.join("metrics.jsonl")).expect("a file").len();
    let (before, waiting) = (points(), Instant::now());
    while points() <= before {
        assert!(waiting.elapsed() < Duration::from_secs(60), "it does not go on");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("a signal");
    child.wait().expect("a child");
    let resumed = scene.run(&resume);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(tracking::page(&folder).expect("readable"), page, "the same run");
    assert_equal(&on_server(server, &folder), &folder, Status::Finished);
}

fn down_and_caught_up(scene: &Scene, server: &Server) {
    let nobody = "http://127.0.0.1:9";
    let done = train(scene, nobody, &["tracking.patience=0s", "output_dir=down"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr.matches("does not take the run now").count(), 1, "{}", done.stderr);
    let folder = run_in(scene, "down");
    let hint = format!("hint: catch up with: ferrotune sync {}", folder.display());
    assert!(done.stderr.contains(&hint), "{}", done.stderr);
    let folder_name = folder.display().to_string();
    scene.run(&["sync", &folder_name]).ended(1, &["no answer from http://127.0.0.1:9"]);

    for _ in 0..2 {
        let synced = scene.run(&["sync", &folder_name, "--tracking-uri", &server.uri()]);
        assert_eq!(synced.code, Some(0), "{}", synced.stderr);
        assert!(synced.stderr.contains("metric points, the same on http"), "{}", synced.stderr);
        assert_equal(&on_server(server, &folder), &folder, Status::Finished);
    }
    let store = format!("file:{}", scene.at("mlruns"));
    let synced = scene.run(&["sync", &folder_name, "--tracking-uri", &store]);
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
}

#[test]
fn refused_credentials_are_told_before_training_and_shown_nowhere() {
    let Some(server) = Server::start(Version::Three, &["auth"]) else { return };
    let scene = Scene::new();
    let uri = server.uri().replace("//", "//admin:wr0ng-password@");
    let refused = train(&scene, &uri, &[]);
    refused.refused(&["401", &server.uri(), "hint: set MLFLOW_TRACKING_USERNAME"]);
    assert!(!refused.stderr.contains("wr0ng-password"), "{}", refused.stderr);
    assert!(!scene.has_run());

    let mut command = scene.command();
    command.args(scene.train_arguments(&["training.max_epochs=1"]));
    command.env("MLFLOW_TRACKING_URI", server.uri());
    command.envs([("MLFLOW_TRACKING_USERNAME", "admin"), ("MLFLOW_TRACKING_PASSWORD", SECRET)]);
    let done = answer(command, b"");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("MLflow: http"), "{}", done.stderr);
    assert_nowhere(SECRET, &scene.path("runs"));

    let sqlite = train(&scene, "sqlite:///mlflow.db", &[]);
    sqlite.refused(&["MLFLOW_TRACKING_URI", "sqlite:///mlflow.db", "http://"]);
    let run = scene.run_folder();
    scene.run(&["sync", &run, "--tracking-uri", ""]).refused(&["--tracking-uri"]);
}
