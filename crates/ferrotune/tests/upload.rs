//! `artifacts.uri` and `ferrotune upload`: what arrives, what is not sent twice, what is refused
//! before any work.

mod common;

use common::{Scene, answer};
use serde_json::Value;

#[test]
fn a_finished_run_is_copied_and_not_sent_twice() {
    let scene = Scene::new();
    let settings = ["artifacts.uri=archive", "tracking.uri=store", "export.formats=[\"peft\"]"];
    let trained = scene.train(&settings);
    assert_eq!(trained.code, Some(0), "{}", trained.stderr);
    let run = scene.run_folder();
    let name = run.rsplit('/').next().expect("a name").to_owned();
    let place = format!("archive/{name}");
    let manifest: Value =
        serde_json::from_slice(&scene.read(&format!("{place}/manifest.json"))).expect("JSON");
    let files = manifest["files"].as_object().expect("files");
    for file in ["best/adapter_model.safetensors", "export/peft/adapter_config.json", "report.html"]
    {
        assert!(files.contains_key(file), "{file} is not in {files:?}");
        let (there, here) =
            (scene.read(&format!("{place}/{file}")), scene.read(&format!("runs/{name}/{file}")));
        assert_eq!(there, here, "{file}");
    }
    assert!(files.keys().all(|file| !file.starts_with("last/") && !file.starts_with('.')));

    // Relative paths were those of the folder in which it was trained.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let there = |action: &str| {
        let mut command = scene.command();
        command.current_dir(elsewhere.path()).args([action, &scene.at(&run)]);
        answer(command, b"")
    };
    let again = there("upload");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("uploaded: 0 files"), "{}", again.stderr);
    let synced = there("sync");
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    assert!(scene.path("store").is_dir());
    assert_eq!(elsewhere.path().read_dir().expect("a folder").count(), 0);
    scene.file(&format!("{place}/manifest.json"), "{");
    let mended = scene.run(&["upload", &run]);
    let warning = format!("/archive/{name}/manifest.json is damaged");
    assert!(mended.stderr.contains(&warning), "{}", mended.stderr);
    let written = scene.read(&format!("{place}/manifest.json"));
    assert_eq!(serde_json::from_slice::<Value>(&written).expect("JSON"), manifest);
    scene.edit_json(&format!("{run}/run.json"), |info| info["status"] = "RUNNING".into());
    let warned = scene.run(&["upload", &run]);
    assert!(warned.stderr.contains("warning: the run has not ended"), "{}", warned.stderr);
    let other = scene.run(&["upload", &run, "--to", "elsewhere"]);
    assert!(other.stderr.contains(&format!("uploaded: {} files", files.len())), "{}", other.stderr);
}

#[test]
fn a_store_that_takes_nothing_is_found_before_training() {
    let scene = Scene::new();
    scene.file("file", "");
    for (uri, said) in [
        ("file/below", "file/below"),
        ("azure://container?sig=SECRET", "environment"),
        ("azure://models/clauses", "azure://models/clauses"),
    ] {
        let mut command = scene.command();
        command.args(scene.train_arguments(&[&format!("artifacts.uri={uri}")]));
        // No one listens at port 1.
        let nowhere = "AccountName=a;AccountKey=U0VDUkVU;BlobEndpoint=http://127.0.0.1:1/a";
        command.env("AZURE_STORAGE_CONNECTION_STRING", nowhere);
        let output = command.output().expect("the program");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said) && !stderr.contains("SECRET"), "{stderr}");
        assert!(!stderr.contains("U0VDUkVU"), "{stderr}");
    }
    assert!(!scene.has_run());
    let run = scene.trained();
    std::fs::remove_dir_all(scene.path(&format!("{run}/best"))).expect("removed");
    scene.run(&["upload", &run, "--to", "archive"]).refused(&["has no model yet", "--resume"]);
    let answer = scene.run(&["upload", "no-run"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
}
