//! `benchmark` from the command line: a table of several methods and seeds, nothing run twice, what was
//! cut off goes on, what cannot be had has a row that says why.

mod common;

use common::Scene;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Sentences with the numbers of their labels; the words occur often enough for the baseline.
const SENTENCES: [(&str, &[u32]); 4] = [
    ("We may end your account at any time .", &[1]),
    ("You can leave without notice .", &[0]),
    ("We may end your account without notice .", &[0, 1]),
    ("You can always leave .", &[]),
];

/// A scene whose `unfair_tos/` is a data set of 40, 12 and 12 rows.
fn scene() -> Scene {
    let scene = Scene::new();
    durable::create_folder(&scene.path("unfair_tos")).expect("a folder");
    for (split, rows) in [("train", 40), ("validation", 12), ("test", 12)] {
        let row = |n: usize| {
            let (text, labels) = SENTENCES[n % 4];
            format!("{}\n", json!({"text": format!("{text} {}", n % 7), "labels": labels}))
        };
        scene.file(&format!("unfair_tos/{split}.jsonl"), (0..rows).map(row).collect::<String>());
    }
    scene
}

fn arguments(more: &[&str]) -> Vec<String> {
    // Two labels only, so the names of the eight kinds do not fit.
    let names = "data.label_names=[\"notice\", \"termination\"]";
    let settings = ["training.max_epochs=2", "training.learning_rate=1e-3", "data.max_length=32"];
    let mut all = vec!["benchmark".to_owned(), "unfair_tos".to_owned()];
    for setting in settings.iter().chain([&names]) {
        all.extend(["--set".to_owned(), (*setting).to_owned()]);
    }
    all.extend(["--threads", "2", "--output", "out"].map(str::to_owned));
    all.extend(more.iter().map(|&argument| argument.to_owned()));
    all
}

/// The run folders of a method, by seed.
fn runs(scene: &Scene, method: &str) -> Vec<PathBuf> {
    let Ok(seeds) = std::fs::read_dir(scene.path("out/runs").join(method)) else { return vec![] };
    let mut runs: Vec<PathBuf> = seeds
        .flatten()
        .flat_map(|seed| std::fs::read_dir(seed.path()).expect("a folder").flatten())
        .map(|entry| entry.path())
        .filter(|path| path.join("config.toml").is_file())
        .collect();
    runs.sort();
    runs
}

fn read(scene: &Scene, name: &str) -> String {
    String::from_utf8(scene.read(name)).expect("text")
}

#[test]
fn methods_are_compared_and_nothing_is_run_twice() {
    let scene = scene();
    let methods = ["--methods", "tfidf-svm,model,bert-base", "--seeds", "1,2"];
    let answer = scene.run(&arguments(&methods));
    // The hub is not asked: bert-base-uncased is in no cache.
    answer.ended(1, &["without a result: bert-base: ", "2 at a time with 1 threads each"]);
    for part in ["tfidf-svm", "model", "bert-base", "95.6", "81.3", "0 of 2"] {
        assert!(answer.stdout.contains(part), "`{part}` is not in:\n{}", answer.stdout);
    }
    let (markdown, csv, html) = (
        read(&scene, "out/benchmark.md"),
        read(&scene, "out/benchmark.csv"),
        read(&scene, "out/benchmark.html"),
    );
    assert!(markdown.contains("| tfidf-svm |") && markdown.contains("- **bert-base**: "));
    assert_eq!(csv.lines().count(), 7, "{csv}");
    assert!(html.contains("<svg") && html.contains("bert-base"));
    let begun = runs(&scene, "model");
    assert_eq!(begun.len(), 2);
    let report: Value =
        serde_json::from_slice(&std::fs::read(begun[0].join("report.json")).expect("a report"))
            .expect("JSON");
    let micro = report["test"]["scores"][0]["best"]["value"].as_f64().expect("a figure");
    assert!(csv.contains(&format!("\"model\",1,{micro},")), "{csv}");

    let again = scene.run(&arguments(&methods));
    again.ended(1, &["without a result: bert-base: "]);
    assert!(!again.stderr.contains("begins") && !again.stderr.contains("goes on"));
    assert_eq!(again.stdout, answer.stdout);
    assert_eq!(runs(&scene, "model"), begun);

    // A further seed is added; the methods that are there need no model any more.
    std::fs::rename(scene.path("model"), scene.path("moved")).expect("renamed");
    let subset = scene.run(&arguments(&["--methods", "model", "--seeds", "1,2"]));
    assert_eq!(subset.code, Some(0), "{}", subset.stderr);
    let more = scene.run(&arguments(&["--methods", "model", "--seeds", "2,3"]));
    more.ended(1, &["without a result: model: seed 3: "]);
    assert!(more.stdout.contains("1 of 2"), "{}", more.stdout);
}

#[test]
fn other_settings_are_another_benchmark() {
    let scene = scene();
    let first = scene.run(&arguments(&["--methods", "tfidf-svm", "--seeds", "1"]));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stdout.contains('['), "one seed has the bootstrap's interval: {}", first.stdout);
    let other = ["--methods", "tfidf-svm", "--seeds", "1", "--protocol", "lora"];
    scene.run(&arguments(&other)).refused(&["out holds runs of", "Lexglue", "Lora", "--output"]);
    let refused = |more: &[&str], parts: &[&str]| scene.run(&arguments(more)).refused(parts);
    refused(&["--seeds", "1,1"], &["--seeds is [1, 1]", "once"]);
    refused(&["--methods", "model,model"], &["names model twice"]);
    refused(&["--set", "training.epochs=3"], &["training", "did you mean `max_epochs`?"]);
    refused(&["--set", "data.task=binary"], &["multi-label"]);
    refused(&["--parallel", "0"], &["--parallel"]);
}

/// What must be equal in the end, whatever came between.
fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("best/model.safetensors")).expect("weights")
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_is_told_once_and_goes_on() {
    let scene = scene();
    let long = [
        "--methods",
        "model",
        "--seeds",
        "5",
        "--set",
        "training.max_epochs=30",
        "--set",
        "early_stopping.patience=0",
        "--set",
        "training.batch_size=1",
    ];
    let mut child = scene
        .command()
        .args(arguments(&long))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let started = Instant::now();
    while runs(&scene, "model").first().is_none_or(|run| !run.join("last").is_dir()) {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg("-INT").arg(child.id().to_string()).status().expect("kill runs").success());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
    assert!(read(&scene, "out/benchmark.md").contains("interrupted"));
    let run = runs(&scene, "model").remove(0);
    let record = std::fs::read_to_string(run.join("run.json")).expect("a record");
    assert!(record.contains("KILLED"), "{record}");

    let resumed = scene.run(&arguments(&long));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("model, seed 5: goes on"), "{}", resumed.stderr);
    let cut = weights(&run);
    std::fs::rename(scene.path("out"), scene.path("cut")).expect("renamed");
    assert_eq!(scene.run(&arguments(&long)).code, Some(0));
    assert!(cut == weights(&runs(&scene, "model").remove(0)), "the weights differ");
}
