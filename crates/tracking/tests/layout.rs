//! The file store's layout, byte for byte, and how it treats what other programs left there.

use std::path::{Path, PathBuf};

use tracking::{Error, FileStore, Metric, RunInfo, Status, Tracker};

const RUN_ID: &str = "0123456789abcdef0123456789abcdef";

fn info(experiment: &str) -> RunInfo {
    RunInfo {
        run_id: RUN_ID.to_owned(),
        run_name: "calm-otter-042".to_owned(),
        experiment_name: experiment.to_owned(),
        user: "me".to_owned(),
        start_time_ms: 1_700_000_000_000,
    }
}

fn listing(folder: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            listing(&path, below, found);
        } else {
            found.push(path.strip_prefix(below).expect("below").display().to_string());
        }
    }
    found.sort();
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_layout_is_mlflows_to_the_byte() {
    let place = tempfile::tempdir().expect("folder");
    let root = place.path().join("ml runs");
    let mut store = FileStore::create(&root, &info("Default")).expect("store");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    store.log_params(&[pair("lr", "0.1"), pair("lora/r", "8")]).expect("params");
    store.set_tags(&[pair("mlflow.user", "me")]).expect("tags");
    let point = |key: &str, value: f64, step| Metric {
        key: key.to_owned(),
        value,
        timestamp_ms: 1_700_000_000_001,
        step,
    };
    store.log_metrics(&[point("loss", 0.5, 1), point("val/F1", 1.0, 1)]).expect("metrics");
    store.log_metrics(&[point("loss", f64::NAN, 2), point("loss", f64::INFINITY, 3)]).expect("m");
    let file = place.path().join("a.txt");
    durable::write(&file, b"x").expect("write");
    store.log_artifact(&file, "dir/sub").expect("artifact");
    store.finish(Status::Finished, 1_700_000_000_002).expect("finish");

    let mut files = Vec::new();
    listing(&root, &root, &mut files);
    let run = |path: &str| format!("0/{RUN_ID}/{path}");
    assert_eq!(
        files,
        [
            run("artifacts/dir/sub/a.txt"),
            run("meta.yaml"),
            run("metrics/loss"),
            run("metrics/val/F1"),
            run("params/lora/r"),
            run("params/lr"),
            run("tags/mlflow.runName"),
            run("tags/mlflow.user"),
            "0/meta.yaml".to_owned(),
        ]
    );
    assert!(root.join(".trash").is_dir());
    let uri = format!("file://{}/ml%20runs/0", place.path().display());
    assert_eq!(
        text(root.join("0/meta.yaml")),
        format!(
            "artifact_location: {uri}\ncreation_time: 1700000000000\n\
             effective_trace_archival_retention: null\nexperiment_id: '0'\n\
             last_update_time: 1700000000000\nlifecycle_stage: active\nname: Default\n\
             trace_location: null\nworkspace: default\n"
        )
    );
    assert_eq!(
        text(store.folder().join("meta.yaml")),
        format!(
            "artifact_uri: {uri}/{RUN_ID}/artifacts\nend_time: 1700000000002\n\
             entry_point_name: ''\nexperiment_id: '0'\nlifecycle_stage: active\nrun_id: {RUN_ID}\n\
             run_name: calm-otter-042\nsource_name: ''\nsource_type: 4\nsource_version: ''\n\
             start_time: 1700000000000\nstatus: 3\ntags: []\nuser_id: me\n"
        )
    );
    assert_eq!(
        text(store.folder().join("metrics/loss")),
        "1700000000001 0.5 1\n1700000000001 nan 2\n1700000000001 inf 3\n"
    );
    assert_eq!(text(store.folder().join("params/lr")), "0.1");
    assert_eq!(text(store.folder().join("tags/mlflow.runName")), "calm-otter-042");
}

#[test]
fn an_experiment_is_found_by_its_name_or_made_with_18_digits() {
    let place = tempfile::tempdir().expect("folder");
    let uri = format!("file:{}", place.path().join("mlruns").display());
    let experiment = |info: &RunInfo| {
        let store = FileStore::open_uri(&uri, info).expect("store");
        store.folder().parent().and_then(Path::file_name).expect("id").to_owned()
    };
    let first = experiment(&info("clauses: it's"));
    assert_eq!(first.len(), 18);
    assert_eq!(experiment(&info("clauses: it's")), first, "the run is opened again");
    let second = RunInfo { run_id: "f".repeat(32), ..info("clauses: it's") };
    assert_eq!(experiment(&second), first);
    let other = RunInfo { run_id: "e".repeat(32), ..info("other") };
    assert_ne!(experiment(&other), first);
}

#[test]
fn what_other_programs_left_is_respected() {
    let place = tempfile::tempdir().expect("folder");
    let root = place.path();
    let experiment = |folder: &str, yaml: &str| {
        durable::create_folder(&root.join(folder)).expect("folder");
        durable::write(&root.join(folder).join("meta.yaml"), yaml.as_bytes()).expect("write");
    };
    // Damaged, in the trash, with its name folded over two lines, with artifacts elsewhere.
    experiment("1", "name: [");
    experiment(".trash/2", "artifact_location: file:///x\nlifecycle_stage: deleted\nname: gone\n");
    experiment("3", "artifact_location: s3://b/3\nlifecycle_stage: active\nname: two\n  words\n");
    let refused = FileStore::create(root, &info("gone"));
    assert!(matches!(refused, Err(Error::DeletedExperiment { .. })));
    let mut store = FileStore::create(root, &info("two words")).expect("store");
    assert_eq!(store.folder(), root.join("3").join(RUN_ID));
    let file = root.join("3/meta.yaml");
    let refused = store.log_artifact(&file, "").expect_err("no client for it").to_string();
    assert!(refused.contains("s3://b/3"), "{refused}");
}
