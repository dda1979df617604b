//! `benchmark` from the command line: a table of several methods and seeds, nothing run twice, what was
//! cut off goes on, what cannot be had has a row that says why.

mod common;

use common::Scene;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
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

/// A benchmark of one method and seed that takes some seconds.
const LONG: [&str; 10] = [
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

/// Starts [`LONG`], and waits until its run has a checkpoint.
fn begun(scene: &Scene) -> Child {
    let mut command = scene.command();
    command.args(arguments(&LONG)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("the program");
    let started = Instant::now();
    while runs(scene, "model").first().is_none_or(|run| !run.join("last").is_dir()) {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
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

    // The baseline is a run like the others, with its own search alone.
    let svm = runs(&scene, "tfidf-svm");
    assert_eq!(svm.len(), 2);
    let config = std::fs::read_to_string(svm[0].join("config.toml")).expect("a configuration");
    assert!(config.contains("method = \"svm\"") && config.contains("drop_last_word = true"));
    let search = std::fs::read(svm[0].join("best/search.json")).expect("its search");
    let search: Value = serde_json::from_slice(&search).expect("JSON");
    assert_eq!(search["candidates"].as_array().map(Vec::len), Some(18));
    let of_svm = csv.lines().find(|line| line.starts_with("\"tfidf-svm\",1,")).expect("a line");
    let memory: u64 = of_svm.split(',').nth(11).expect("memory").parse().expect("bytes");
    assert!(memory > 1 << 20, "{of_svm}");

    let again = scene.run(&arguments(&methods));
    again.ended(1, &["without a result: bert-base: "]);
    assert!(!again.stderr.contains("begins") && !again.stderr.contains("goes on"));
    assert_eq!(again.stdout, answer.stdout);
    assert_eq!(runs(&scene, "model"), begun);

    // A further seed is added; the methods that are there need no model any more.
    std::fs::rename(scene.path("model"), scene.path("moved")).expect("renamed");
    let subset = scene.run(&arguments(&["--methods", "model", "--seeds", "1,2"]));
    assert_eq!(subset.code, Some(0), "{}", subset.stderr);
    // But for the width of columns.
    let of_model = |text: &str| {
        let line = text.lines().find(|line| line.contains(" model ")).map(str::to_owned);
        line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(of_model(&subset.stdout), of_model(&answer.stdout));
    assert!(of_model(&answer.stdout).is_some(), "{}", answer.stdout);
    let others = ["tfidf-svm", "bert-base"].map(|name| subset.stdout.contains(name));
    assert_eq!(others, [true, false], "what was run before stays: {}", subset.stdout);
    let more = scene.run(&arguments(&["--methods", "model", "--seeds", "2,3"]));
    more.ended(1, &["without a result: model: seed 3: "]);
    assert!(more.stdout.contains("2 of 3"), "{}", more.stdout);
    let markdown = read(&scene, "out/benchmark.md");
    let rows: Vec<_> = markdown.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(rows[2..4], ["model", "tfidf-svm"], "what was asked for comes first: {markdown}");
    assert_eq!(read(&scene, "out/benchmark.csv").lines().count(), 6);
}

#[test]
fn other_settings_are_another_benchmark() {
    let scene = scene();
    let first = scene.run(&arguments(&["--methods", "tfidf-svm", "--seeds", "1"]));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert!(first.stdout.contains('['), "one seed has the bootstrap's interval: {}", first.stdout);
    let other = ["--methods", "tfidf-svm", "--seeds", "1", "--protocol", "lora"];
    let kept = "out holds runs of the protocol lexglue, not of lora";
    scene.run(&arguments(&other)).refused(&[kept, "--output"]);
    let refused = |more: &[&str], parts: &[&str]| scene.run(&arguments(more)).refused(parts);
    refused(&["--seeds", "1,1"], &["--seeds is [1, 1]", "once"]);
    refused(&["--methods", ""], &["--methods has an empty name"]);
    refused(&["--methods", "model,model"], &["names model twice"]);
    refused(&["--set", "training.epochs=3"], &["training", "did you mean `max_epochs`?"]);
    refused(&["--set", "data.task=binary"], &["multi-label"]);
    refused(&["--parallel", "0"], &["--parallel"]);
    refused(&["--set", "seed=9"], &["--set seed is not for a benchmark", "--seeds"]);
    refused(&["--set", "output_dir=x"], &["--set output_dir is not for a benchmark", "--output"]);
    refused(&["--set", "svm.epochs=3"], &["svm", "there is no `epochs`"]);
}

#[test]
fn settings_of_the_environment_and_of_svms_reach_the_runs_that_they_mean() {
    let scene = scene();
    let mut command = scene.command();
    command
        .env("FERROTUNE__TRAINING__MAX_EPOCHS", "1")
        .env("FERROTUNE__SVM__MIN_DF", "2")
        .env("FERROTUNE__SEED", "77")
        .args(arguments(&["--methods", "tfidf-svm,model", "--seeds", "4", "--set", "svm.c=[1.0]"]));
    let answer = common::answer(command, b"");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let config = |method: &str| {
        std::fs::read_to_string(runs(&scene, method)[0].join("config.toml")).expect("a file")
    };
    // The command line wins, which asks for two epochs.
    for (method, part) in [("tfidf-svm", "min_df = 2"), ("model", "max_epochs = 2")] {
        assert!(config(method).contains(part), "{}", config(method));
        assert!(config(method).contains("seed = 4"), "{}", config(method));
    }
    let search = scene.run(&arguments(&["--methods", "tfidf-svm", "--seeds", "4"]));
    search.refused(&["out holds runs of the settings `seed=77`, `svm.min_df=2`", "--output"]);
}

/// What must be equal in the end, whatever came between.
fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("best/model.safetensors")).expect("weights")
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_is_told_once_and_goes_on() {
    let scene = scene();
    let mut child = begun(&scene);
    let mut kill = std::process::Command::new("kill");
    assert!(kill.arg("-INT").arg(child.id().to_string()).status().expect("kill runs").success());
    assert_eq!(child.wait().expect("a child").code(), Some(130));
    assert!(read(&scene, "out/benchmark.md").contains("interrupted"));
    let run = runs(&scene, "model").remove(0);
    let record = std::fs::read_to_string(run.join("run.json")).expect("a record");
    assert!(record.contains("KILLED"), "{record}");

    let resumed = scene.run(&arguments(&LONG));
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("model, seed 5: goes on"), "{}", resumed.stderr);
    let cut = weights(&run);
    std::fs::rename(scene.path("out"), scene.path("cut")).expect("renamed");

    // The run outlives its benchmark: the next waits for it, and begins none beside it.
    let mut child = begun(&scene);
    child.kill().expect("a signal");
    child.wait().expect("a child");
    let taken_over = scene.run(&arguments(&LONG));
    assert_eq!(taken_over.code, Some(0), "{}", taken_over.stderr);
    assert!(!taken_over.stderr.contains("begins"), "{}", taken_over.stderr);
    assert_eq!(runs(&scene, "model").len(), 1);
    assert!(cut == weights(&runs(&scene, "model").remove(0)), "the weights differ");
}
