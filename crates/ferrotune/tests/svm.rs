//! TF-IDF and linear support vector machines from the command line: the figures are those of the
//! library, the run folder serves `test` and `predict`, a run that was killed goes on, and keys of
//! networks are refused.

mod common;

use common::{Answer, Scene};
use linear::{Labels, Split, SvmConfig, exact_match, search};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Words that speak for a class, and words that speak for none.
const TELLING: [&[&str]; 3] =
    [&["terminate", "suspend", "close"], &["pay", "fee", "charge"], &["court", "law", "judge"]];
const PLAIN: [&str; 6] = ["user", "service", "account", "terms", "notice", "agreement"];

/// A row of so many words, most of which speak for its class; no two runs differ.
fn text(class: usize, row: usize) -> String {
    let mut state = (row * 3 + class) as u64;
    let mut draw = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let words = (0..7).map(|_| match draw(10) {
        0..3 => TELLING[class][draw(3)],
        3 => TELLING[draw(3)][draw(3)],
        _ => PLAIN[draw(6)],
    });
    words.collect::<Vec<_>>().join(" ")
}

const SPLITS: [(&str, std::ops::Range<usize>); 3] =
    [("train", 0..90), ("validation", 100..130), ("test", 200..240)];

/// A scene whose rows have `label` of their class.
fn scene(label: impl Fn(usize) -> Value) -> Scene {
    let scene = Scene::new();
    for (name, rows) in SPLITS {
        let line = |row: usize| {
            format!("{}\n", json!({"text": text(row % 3, row), "labels": label(row % 3)}))
        };
        scene.file(&format!("{name}.jsonl"), rows.map(line).collect::<String>());
    }
    scene
}

fn arguments(more: &[&str]) -> Vec<String> {
    let settings = [
        "method=svm",
        "data.train_file=train.jsonl",
        "data.validation_file=validation.jsonl",
        "data.test_file=test.jsonl",
        "output_dir=runs",
        "name=tiny",
        "seed=1",
        "svm.min_df=2",
    ];
    let settings = settings.iter().chain(more);
    std::iter::once("train".to_owned())
        .chain(settings.flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]))
        .collect()
}

#[track_caller]
fn train(scene: &Scene, more: &[&str]) -> Answer {
    let answer = scene.run(&arguments(more));
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    answer
}

/// What the library makes of the same rows: the predictions for the test rows.
fn by_the_library(labels: impl Fn(&[usize]) -> Labels) -> Labels {
    let of = |split: usize| {
        let rows: Vec<usize> = SPLITS[split].1.clone().collect();
        let texts: Vec<String> = rows.iter().map(|&row| text(row % 3, row)).collect();
        let classes: Vec<usize> = rows.iter().map(|row| row % 3).collect();
        (texts, labels(&classes))
    };
    let [(train, truth), (validation, held_out), (test, _)] = [0, 1, 2].map(of);
    let found = search(
        &Split { texts: &train, labels: &truth },
        &Split { texts: &validation, labels: &held_out },
        &linear::VectorizerConfig { min_df: 2, ..Default::default() },
        &SvmConfig::default(),
        &linear::Grid::default(),
        exact_match,
        &|| false,
    );
    found.expect("a model").model.predict(&test)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn test_figures(scene: &Scene, run: &str) -> Value {
    let tested = scene.run(&["test", run, "--json"]);
    assert_eq!(tested.code, Some(0), "{}", tested.stderr);
    serde_json::from_str(&tested.stdout).expect("JSON")
}

#[test]
fn classes_are_told_as_the_library_tells_them() {
    let scene = scene(|class| json!(["ending", "money", "disputes"][class]));
    let names = "data.label_names=[\"ending\", \"money\", \"disputes\"]";
    let answer = train(&scene, &["data.task=multiclass", names]);
    for part in ["macro-F1", "accuracy", "loss", "best model (C ", "["] {
        assert!(answer.stdout.contains(part), "{}", answer.stdout);
    }
    assert!(answer.stderr.contains("18 combinations fitted"), "{}", answer.stderr);
    assert!(!answer.stderr.contains("tokens"), "{}", answer.stderr);
    let run = scene.run_folder();
    let read = |name: &str| std::fs::read_to_string(Path::new(&run).join(name)).expect(name);

    let Labels::Classes { rows: expected, .. } =
        by_the_library(|classes| Labels::Classes { count: 3, rows: classes.to_vec() })
    else {
        panic!("classes were asked for")
    };
    let predicted = scene.run(&["predict", &run, "--file", "test.jsonl"]);
    assert_eq!(predicted.code, Some(0), "{}", predicted.stderr);
    let lines = json_lines(&predicted.stdout);
    let names = ["ending", "money", "disputes"];
    assert_eq!(lines.len(), expected.len());
    for (line, class) in lines.iter().zip(&expected) {
        assert_eq!(line["label"], names[*class]);
        let values = line["decision_values"].as_object().expect("decision values");
        let score = line["score"].as_f64().expect("a number");
        assert!(values.values().all(|value| value.as_f64().expect("a number") <= score));
        assert!(line.get("probabilities").is_none());
    }
    let right = expected.iter().zip(SPLITS[2].1.clone()).filter(|(class, row)| **class == row % 3);
    let accuracy = right.count() as f64 / expected.len() as f64;
    assert!((0.6..1.0).contains(&accuracy), "rows that say something: {accuracy}");
    let tested = test_figures(&scene, &run);
    assert_eq!(tested["scores"]["accuracy"], accuracy);

    let metrics = json_lines(&read("metrics.jsonl"));
    let of = |key: &str| metrics.iter().filter(|m| m["key"] == key).collect::<Vec<_>>();
    assert_eq!(of("Search_Score").len(), 18);
    assert_eq!(of("Test_Accuracy")[0]["value"], accuracy);
    let chosen = of("Val_Accuracy")[0];
    let scores = of("Search_Score");
    let best = scores.iter().map(|m| m["value"].as_f64().expect("a number")).fold(0.0, f64::max);
    assert_eq!(chosen["value"], best);
    assert_eq!(scores.iter().find(|m| m["value"] == best).expect("it")["step"], chosen["step"]);
    let params = read("params.json");
    assert!(params.contains("svm.c") && !params.contains("training."), "{params}");

    let (html, markdown) = (read("report.html"), read("report.md"));
    for part in ["Search", "Decision value", "TF-IDF of", "validation accuracy"] {
        assert!(html.contains(part), "{part} is not in the page");
    }
    assert!(!html.contains("Probability") && !html.contains("Last model"));
    assert!(markdown.contains("| C | loss | max\\_features | validation accuracy |"), "{markdown}");

    // The written configuration reruns the run, to the same bits.
    let answer =
        scene.run(&["train", "--config", &format!("{run}/config.toml"), "--name", "again"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let again = std::fs::read_dir(scene.path("runs")).expect("runs").flatten();
    let again = again.map(|run| run.path()).find(|path| path.to_string_lossy().contains("again"));
    let weights = |run: &Path| std::fs::read(run.join("best/svm.safetensors")).expect("weights");
    assert!(weights(&again.expect("another run")) == weights(Path::new(&run)));
}

#[test]
fn two_classes_have_figures_of_the_positive_one() {
    let scene = scene(|class| json!(class % 2));
    let answer = train(&scene, &["data.label_names=[\"fair\", \"unfair\"]", "svm.metric=f1"]);
    assert!(answer.stdout.contains("average precision"), "{}", answer.stdout);
    let run = scene.run_folder();
    let tested = test_figures(&scene, &run);
    assert!(tested["scores"]["average_precision"].as_f64().expect("a number") > 0.5);
    assert!(tested.get("tuned").is_none());
    let predicted = scene.run(&["predict", &run, "they pay a fee", "court law judge", ""]);
    let lines = json_lines(&predicted.stdout);
    assert_eq!((&lines[0]["label"], &lines[1]["label"]), (&json!("unfair"), &json!("fair")));
    for line in &lines {
        let values = &line["decision_values"];
        let value = |name: &str| values[name].as_f64().expect("a number");
        assert_eq!(value("fair"), -value("unfair"));
        assert_eq!(line["score"], values[line["label"].as_str().expect("a name")]);
    }
    let export = scene.run(&["export", &run, "--format", "merged"]);
    export.refused(&["best has no network"]);
    scene.run(&["test", &run, "--model", "last"]).refused(&["no trained model", "last"]);
    scene.edit_json(&format!("{run}/best/ferrotune.json"), |card| {
        card["labels"] = json!({"names": ["a", "b", "c"], "task": "multiclass"})
    });
    scene.run(&["predict", &run, "x"]).refused(&["svm.safetensors tells 2 classes", "3 classes"]);
}

#[test]
fn any_number_of_labels_are_told_as_the_library_tells_them() {
    // The third class has no label.
    let scene = scene(|class| json!([vec!["ending"], vec!["ending", "money"], vec![]][class]));
    let answer = train(&scene, &["data.task=multi_label"]);
    for part in ["micro-F1", "macro-F1", "exact match"] {
        assert!(answer.stdout.contains(part), "{}", answer.stdout);
    }
    let run = scene.run_folder();
    let Labels::MultiLabel(expected) = by_the_library(|classes| {
        Labels::MultiLabel(classes.iter().map(|&class| vec![class < 2, class == 1]).collect())
    }) else {
        panic!("labels were asked for")
    };
    let predicted = scene.run(&["predict", &run, "--file", "test.jsonl"]);
    for (line, expected) in json_lines(&predicted.stdout).iter().zip(&expected) {
        let names = ["ending", "money"].into_iter().zip(expected);
        let given: Vec<&str> = names.filter(|(_, has)| **has).map(|(name, _)| name).collect();
        assert_eq!(line["labels"], json!(given));
    }
    assert!(expected.iter().any(|row| !row.contains(&true)), "some row is told to have none");
    let tested = test_figures(&scene, &run);
    assert_eq!(tested["scores"]["labels"]["tallies"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_killed_run_goes_on_and_a_finished_one_says_so() {
    let scene = scene(|class| json!(class % 2));
    train(&scene, &[]);
    let run = scene.run_folder();
    let best = Path::new(&run).join("best");
    let read = |name: &str| std::fs::read(best.join(name)).expect(name);
    let (weights, metrics) =
        (read("svm.safetensors"), std::fs::read_to_string(format!("{run}/metrics.jsonl")));
    let figures = |text: &str| -> Vec<(Value, Value)> {
        json_lines(text).into_iter().map(|m| (m["key"].clone(), m["value"].clone())).collect()
    };
    let before = figures(&metrics.expect("a record"));

    let again = scene.run(&["train", "--resume", &run]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("fitted already: C "), "{}", again.stderr);
    let record = || std::fs::read_to_string(format!("{run}/metrics.jsonl")).expect("a record");
    assert_eq!(figures(&record()), before);

    let damaged = scene.read(&format!("{run}/best/search.json"));
    scene.edit_json(&format!("{run}/best/search.json"), |search| search["best"] = json!(18));
    scene.run(&["train", "--resume", &run]).refused(&["search.json is damaged"]);
    scene.file(&format!("{run}/best/search.json"), damaged);

    // As a kill during the search leaves it: no model.
    std::fs::remove_dir_all(&best).expect("the model");
    let again = scene.run(&["train", "--resume", &run]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("18 combinations fitted"), "{}", again.stderr);
    assert!(read("svm.safetensors") == weights);
    assert_eq!(figures(&record()), before);

    // Killed at any moment, it leaves a whole model or none, and goes on.
    for pause in [0, 10, 40, 160] {
        let runs = scene.path(&format!("runs-{pause}"));
        let output = format!("output_dir={}", runs.display());
        let mut command = scene.command();
        command.args(arguments(&[&output])).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program");
        let started = Instant::now();
        let folder = loop {
            let entry = std::fs::read_dir(&runs).ok().and_then(|mut runs| runs.next());
            if let Some(Ok(entry)) = entry
                && entry.path().join("config.toml").is_file()
            {
                break entry.path();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no run folder");
            std::thread::sleep(Duration::from_millis(1));
        };
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().expect("a signal");
        child.wait().expect("a child");
        let again = scene.run(&["train", "--resume", &folder.display().to_string()]);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        let its = std::fs::read(folder.join("best/svm.safetensors")).expect("weights");
        assert!(its == weights, "killed after {pause} ms");
    }

    scene.file("train.jsonl", common::jsonl(40));
    let refused = scene.run(&["train", "--resume", &run]);
    refused.refused(&["the training rows are not those the model was fitted to"]);
}

/// A search that would take hours ends at once, within a fit, too.
#[cfg(unix)]
#[test]
fn an_interrupted_search_ends_at_once_and_is_begun_anew() {
    let scene = scene(|class| json!(class % 2));
    // Nothing that can be told apart, and errors that cost much: no fit ends before its last pass.
    let rows: String = (0..600)
        .map(|row| format!("{}\n", json!({"text": text(row % 3, row), "labels": row / 3 % 2})))
        .collect();
    scene.file("train.jsonl", rows);
    let costs: Vec<String> = (0..500).map(|n| format!("{}.0", 10_000_000 + n)).collect();
    let costs = format!("svm.c=[{}]", costs.join(", "));
    let resume = || vec!["train".to_owned(), "--resume".to_owned(), scene.run_folder()];

    for (number, signal) in ["-INT", "-TERM"].into_iter().enumerate() {
        let arguments =
            if number == 0 { arguments(&[&costs, "svm.loss=[\"hinge\"]"]) } else { resume() };
        let mut command = scene.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut next = || lines.next().expect("a line").expect("text");
        while !next().starts_with("fitting 1500 combinations") {}
        let mut kill = std::process::Command::new("kill");
        let sent = kill.arg(signal).arg(child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        let rest: Vec<String> = lines.map(|line| line.expect("text")).collect();
        assert_eq!(child.wait().expect("a child").code(), Some(130), "{rest:?}");
        let run = scene.run_folder();
        assert!(rest.iter().any(|line| line.starts_with("interrupted: ")), "{rest:?}");
        let hint = format!("go on with: ferrotune train --resume {run}");
        assert!(rest.iter().any(|line| line.ends_with(&hint)), "{rest:?}");
        let record = std::fs::read_to_string(Path::new(&run).join("run.json")).expect("a record");
        assert!(record.contains("KILLED"), "{record}");
        assert!(!Path::new(&run).join("best").exists());
    }
}

#[test]
fn keys_that_mean_nothing_and_values_out_of_range_are_refused() {
    let scene = scene(|class| json!(class % 2));
    let refused = |settings: &[&str], parts: &[&str]| {
        scene.run(&arguments(settings)).refused(parts);
        assert!(!scene.has_run());
    };
    refused(
        &["training.max_epochs=3", "lora.r=4", "pretrained_model=model"],
        &["method = \"svm\"", "`pretrained_model`, `lora.r`, `training.max_epochs`"],
    );
    refused(&["quantization=nf4"], &["`quantization`"]);
    refused(&["precision=32-true"], &["`precision`"]);
    refused(&["data.max_length=64"], &["`data.max_length`"]);
    refused(&["export.formats=[\"merged\"]"], &["`export.formats`"]);
    refused(&["tracking.registered_model_name=m"], &["`tracking.registered_model_name`"]);
    refused(&["svm.c=[1.0, -1.0]"], &["svm.c holds -1"]);
    refused(&["svm.c=[]"], &["svm.c is empty"]);
    refused(&["svm.ngram_range=[2, 1]"], &["svm.ngram_range is [2, 1]"]);
    refused(&["svm.max_features=[0]"], &["svm.max_features holds 0"]);
    refused(&["svm.metric=loss"], &["svm.metric is loss"]);
    refused(&["svm.metric=micro_f1"], &["only a multi-label task has"]);
    refused(&["svm.class_weights=[1.0, 2.0, 3.0]"], &["has 3 weights", "2 classes"]);
    refused(&["svm.epochs=3"], &["svm", "there is no `epochs`"]);
    refused(&["seed=4294967296"], &["seed is 4294967296", "4294967295"]);
    scene.train(&["svm.min_df=2"]).refused(&["method = \"lora\" has no use for `svm.min_df`"]);
    scene.run(&["bench", "epoch", "--set", "method=svm"]).refused(&["trains no network"]);

    // Only the texts tell that no n-gram is left.
    let failed = scene.run(&arguments(&["svm.min_df=1000"]));
    failed.ended(1, &["min_df", "1000"]);
}
