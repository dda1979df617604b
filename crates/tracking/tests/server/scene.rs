//! A run as training logs it, and what a server must have of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tracking::{
    Client, Connection, Dataset, Metric, Model, Placement, Run, RunInfo, RunRecord, Server, Synced,
    Tracker, standard_tags, sync,
};

use crate::real::connection;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A run folder and where it is sent.
pub struct Scene {
    pub place: tempfile::TempDir,
    pub info: RunInfo,
    pub connection: Connection,
    pub placement: Option<Placement>,
}

impl Scene {
    pub fn new(uri: &str) -> Self {
        let info =
            RunInfo { start_time_ms: 1_700_000_000_000, ..RunInfo::new(&tracking::new_run_name()) };
        Self {
            place: tempfile::tempdir().expect("folder"),
            info,
            connection: connection(uri),
            placement: None,
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.place.path().join("run")
    }

    pub fn placement(&self) -> Placement {
        let name = || Placement::ExperimentName(self.info.experiment_name.clone());
        self.placement.clone().unwrap_or_else(name)
    }

    /// Creates the run, or opens it, with a server that follows it.
    pub fn run(&self) -> Run {
        let record = match RunRecord::exists(&self.folder()) {
            true => RunRecord::open(&self.folder()),
            false => RunRecord::create(&self.folder(), &self.info),
        };
        let mut run = Run::new(record.expect("a record"));
        run.follow("server", Box::new(self.server(PATIENCE).expect("starts"))).expect("follows");
        run
    }

    pub fn server(&self, patience: Duration) -> tracking::Result<Server> {
        Server::start(&self.folder(), &self.connection, &self.placement(), patience)
    }

    pub fn sync(&self, replace: bool) -> tracking::Result<Synced> {
        sync(&self.folder(), &self.connection, &self.placement(), replace)
    }

    /// The runs a server has of this experiment's only one.
    pub fn runs(&self, client: &Client) -> Vec<String> {
        let experiment =
            client.experiment_by_name(&self.info.experiment_name).expect("asked").expect("there");
        let runs =
            client.runs_with_tag(&experiment.experiment_id, "ferrotune.run_id", &self.info.run_id);
        runs.expect("found").into_iter().map(|run| run.info.run_id).collect()
    }
}

pub fn points(steps: std::ops::Range<i64>) -> Vec<Metric> {
    let point = |key: &str, value, step| Metric {
        key: key.to_owned(),
        value,
        step,
        timestamp_ms: 1_700_000_000_000 + step,
    };
    steps
        .flat_map(|step| {
            let loss = if step == 3 { f64::NAN } else { 1.0 / step as f64 };
            [point("Train_Loss_Step", loss, step), point("Learning Rate/x", 0.1, step)]
        })
        .collect()
}

/// Logs what a training run would.
pub fn log_all(run: &mut Run, place: &Path, steps: i64) {
    let params: Vec<_> = (0..120).map(|n| (format!("section.p{n}"), n.to_string())).collect();
    run.log_params(&params).expect("params");
    run.log_params(&[("long".to_owned(), "é".repeat(6001))]).expect("params");
    let info = run.record().info().clone();
    run.set_tags(&standard_tags(&info, "train", Some("a *note*"), place)).expect("tags");
    run.log_dataset(&dataset()).expect("data set");
    for step in 0..steps {
        run.log_metrics(&points(step..step + 1)).expect("metrics");
    }
    let report = place.join("report of ü.html");
    durable::write(&report, b"12345").expect("write");
    run.log_artifact(&report, "").expect("artifact");
    run.log_artifact(&report, "best").expect("artifact");
    run.log_model(&model(place, &info)).expect("model");
}

/// A model that MLflow loads with nothing but itself.
pub fn model(place: &Path, info: &RunInfo) -> Model {
    let folder = place.join("export");
    for (path, text) in [
        (
            "MLmodel",
            "flavors:\n  python_function:\n    code: code\n    data: data\n    \
             loader_module: echo_model\nutc_time_created: '2026-01-01 00:00:00.000000'\n",
        ),
        (
            "code/echo_model.py",
            "class Echo:\n    def predict(self, texts, params=None):\n        \
             return [f'{self.word} {text}' for text in texts]\n\n\n\
             def _load_pyfunc(path):\n    echo = Echo()\n    \
             echo.word = open(path + '/word.txt').read()\n    return echo\n",
        ),
        ("data/word.txt", "fair:"),
    ] {
        let file = folder.join(path);
        durable::create_folder(file.parent().expect("a folder")).expect("folder");
        durable::write(&file, text.as_bytes()).expect("write");
    }
    let registered_name = Some(registered(info));
    Model { name: "model".to_owned(), folder, registered_name, alias: Some("champion".to_owned()) }
}

pub fn registered(info: &RunInfo) -> String {
    format!("clauses of {}", info.experiment_name)
}

fn dataset() -> Dataset {
    Dataset {
        name: "clauses".to_owned(),
        digest: "0123abcd".to_owned(),
        source_type: "local".to_owned(),
        source: r#"{"uri": "train.csv"}"#.to_owned(),
        schema: String::new(),
        profile: r#"{"num_rows": 3}"#.to_owned(),
        context: "training".to_owned(),
    }
}

/// What MLflow's client reads equals the record.
pub fn assert_read(read: &Value, record: &RunRecord) {
    let info = record.info();
    assert_eq!(read["run_name"], json!(info.run_name));
    assert_eq!(read["user"], json!(info.user));
    assert_eq!(read["experiment"], json!(info.experiment_name));
    assert_eq!(read["start_time"], json!(info.start_time_ms));
    assert_eq!(read["end_time"], json!(record.end_time_ms()));
    assert_eq!(read["status"], json!(record.status()));
    let mut params: BTreeMap<_, _> = record.params().clone();
    params.insert("long".to_owned(), "é".repeat(6000));
    assert_eq!(read["params"], json!(params));
    for (key, value) in record.tags() {
        assert_eq!(read["tags"][key], json!(value), "{key}");
    }
    let of_run = |entry: &&Value| !entry[0].as_str().is_some_and(|p| p.starts_with("model/"));
    let found: Vec<_> =
        read["artifacts"].as_array().expect("files").iter().filter(of_run).collect();
    let artifacts: Vec<_> = record.artifacts().map(|(path, _)| json!([path, 5])).collect();
    assert_eq!(json!(found), json!(artifacts));
    assert_eq!(read["datasets"], json!([["clauses", "0123abcd", "training"]]));
    let mut expected = BTreeMap::<String, BTreeSet<String>>::new();
    for m in record.history().expect("history") {
        let value = if m.value.is_nan() { "nan".to_owned() } else { format!("{:?}", m.value) };
        let value = value.replace("inf", "1.7976931348623157e308");
        expected.entry(m.key).or_default().insert(format!("{} {value} {}", m.timestamp_ms, m.step));
    }
    let metrics = read["metrics"].as_object().expect("metrics");
    assert_eq!(metrics.keys().collect::<BTreeSet<_>>(), expected.keys().collect::<BTreeSet<_>>());
    for (key, found) in metrics {
        let found: Vec<_> = found.as_array().expect("points").iter().map(spelled).collect();
        assert_eq!(found.len(), expected[key].len(), "{key}: no point twice");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected[key], "{key}");
    }
}

/// A point as the script prints it, with the value in decimals.
fn spelled(point: &Value) -> String {
    let hex = point[1].as_str().expect("text");
    let value = match hex.strip_prefix("0x") {
        None => hex.to_owned(),
        Some(hex) => {
            let (digits, exponent) = hex.split_once('p').expect("an exponent");
            let digits: String = digits.replace('.', "");
            let whole = u64::from_str_radix(&digits, 16).expect("hexadecimal") as f64;
            let exponent: i32 = exponent.parse().expect("a number");
            format!("{:?}", whole * 2f64.powi(-52) * 2f64.powi(exponent))
        }
    };
    format!("{} {value} {}", point[0], point[2])
}

/// However often it was sent, it is one model and one version, and the alias points there.
pub fn assert_one_model(scene: &Scene, client: &Client, run_id: &str) {
    let versions = client.versions_of(run_id).expect("asked");
    let names: Vec<_> = versions.iter().map(|v| (v.name.clone(), v.version.as_str())).collect();
    assert_eq!(names, [(registered(&scene.info), "1")]);
    let experiment = client.run(run_id).expect("there").info.experiment_id;
    match client.logged_models_of(&experiment, run_id) {
        Ok(models) => assert_eq!(models.len(), 1),
        Err(_) => {
            let run = client.run(run_id).expect("there");
            let history = run.tag("mlflow.log-model.history").expect("MLflow 2 lists models here");
            assert_eq!(serde_json::from_str::<Vec<Value>>(history).expect("JSON").len(), 1);
        }
    }
}
