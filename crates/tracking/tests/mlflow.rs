//! MLflow's own client reads what the file store wrote. Needs a Python that has the packages of
//! `tests/requirements-3.txt`, named by `FERROTUNE_MLFLOW_PYTHON`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tracking::{
    Dataset, FileStore, Metric, Run, RunInfo, RunRecord, Status, Tracker, standard_tags,
};

#[test]
fn mlflow_reads_back_what_was_logged() {
    let Some(python) = std::env::var_os("FERROTUNE_MLFLOW_PYTHON") else {
        eprintln!("skipped: FERROTUNE_MLFLOW_PYTHON names no Python with MLflow");
        return;
    };
    let place = tempfile::tempdir().expect("folder");
    let store = place.path().join("a store/mlruns");
    let info = RunInfo {
        run_name: "it's: a \"run\" #1, ünïcode\tand tab".to_owned(),
        experiment_name: "2024".to_owned(),
        user: "me".to_owned(),
        start_time_ms: 1_700_000_000_000,
        ..RunInfo::new("x")
    };
    let mut run = Run::new(RunRecord::create(&place.path().join("run"), &info).expect("record"));
    let uri = store.to_str().expect("UTF-8");
    run.follow(uri, Box::new(FileStore::open_uri(uri, &info).expect("store"))).expect("follows");

    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let long = "é".repeat(6001);
    run.log_params(&[
        pair("lr", "0.001"),
        pair("optimizer/betas", "[0.9, 0.999]"),
        pair("empty", ""),
        pair("lines", "a\nb\r\nc"),
        pair("long", &long),
    ])
    .expect("params");
    run.set_tags(&standard_tags(&info, "ferrotune", Some("a *note*"), place.path())).expect("tags");

    let dataset = |context: &str| Dataset {
        name: "it's: #1".to_owned(),
        digest: "0123abcd".to_owned(),
        source_type: "local".to_owned(),
        source: r#"{"uri": "a \"b\".csv"}"#.to_owned(),
        schema: String::new(),
        profile: r#"{"num_rows": 3}"#.to_owned(),
        context: context.to_owned(),
    };
    for context in ["training", "test", "test"] {
        run.log_dataset(&dataset(context)).expect("data set");
    }

    let values =
        [0.1, -0.0, 1.0, 1e-7, 5e-324, f64::MAX, 1e22, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let point = |key: &str, value, step: i64| Metric {
        key: key.to_owned(),
        value,
        timestamp_ms: 1_700_000_000_000 + step,
        step,
    };
    let history: Vec<_> = (0i64..).zip(values).map(|(n, v)| point("loss", v, n)).collect();
    run.log_metrics(&history).expect("metrics");
    run.log_metrics(&[point("Größe/F1 Score", 0.5, -1)]).expect("metrics");
    run.sync().expect("sync");
    let position = run.record().position();
    run.log_metrics(&[point("loss", 9.0, 99), point("lost", 1.0, 99)]).expect("metrics");
    run.rewind_to(position).expect("rewind");

    let file = place.path().join("report of ü.html");
    durable::write(&file, b"12345").expect("write");
    run.log_artifact(&file, "").expect("artifact");
    run.log_artifact(&file, "model/data").expect("artifact");
    run.finish(Status::Killed, 1_700_000_001_000).expect("finish");

    let read = read(&python, uri, &info.run_id);
    let spelled: Vec<_> = [
        "0x1.999999999999ap-4",
        "-0x0.0p+0",
        "0x1.0000000000000p+0",
        "0x1.ad7f29abcaf48p-24",
        "0x0.0000000000001p-1022",
        "0x1.fffffffffffffp+1023",
        "0x1.0f0cf064dd592p+73",
        "nan",
        "inf",
        "-inf",
    ]
    .into_iter()
    .zip(&history)
    .map(|(text, m)| json!([m.timestamp_ms, text, m.step]))
    .collect();
    assert_eq!(
        read,
        json!({
            "experiments": ["2024", "Default"],
            "experiment": "2024",
            "runs": [info.run_id],
            "run_name": info.run_name,
            "user": "me",
            "status": "KILLED",
            "start_time": 1_700_000_000_000_i64,
            "end_time": 1_700_000_001_000_i64,
            "params": {
                "lr": "0.001",
                "optimizer/betas": "[0.9, 0.999]",
                "empty": "",
                "lines": "a\nb\r\nc",
                "long": "é".repeat(6000),
            },
            "tags": {
                "mlflow.user": "me",
                "mlflow.runName": info.run_name,
                "mlflow.source.name": "ferrotune",
                "mlflow.source.type": "LOCAL",
                "mlflow.note.content": "a *note*",
            },
            "metrics": {
                "loss": spelled,
                "Größe/F1 Score": [[1_699_999_999_999_i64, "0x1.0000000000000p-1", -1]],
            },
            "datasets": [["it's: #1", "0123abcd", "test"], ["it's: #1", "0123abcd", "training"]],
            "artifacts": [["model/data/report of ü.html", 5], ["report of ü.html", 5]],
        })
    );
}

fn read(python: &std::ffi::OsStr, store: &str, run_id: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_with_mlflow.py");
    let output = Command::new(python).arg(script).args([store, run_id]).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
