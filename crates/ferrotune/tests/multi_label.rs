//! Any number of labels per row, from the command line: train, test, predict, resume, and thresholds
//! that are tuned on validation rows.

mod common;

use common::{Answer, Scene};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Clauses with the labels they stand for, none of them at the end.
const CLAUSES: [(&str, &[&str]); 4] = [
    ("We may end your account at any time", &["termination"]),
    ("without notice", &["notice"]),
    ("We may end your account without notice at any time", &["notice", "termination"]),
    ("You can always leave", &[]),
];

const MULTI_LABEL: [&str; 4] = [
    "data.task=multi_label",
    "training.max_epochs=25",
    "early_stopping.metric=micro_f1",
    "early_stopping.patience=0",
];

fn rows(count: usize) -> impl Iterator<Item = (String, &'static [&'static str])> {
    (0..count).map(|n| {
        let (clause, labels) = CLAUSES[n % 4];
        (format!("{clause} {}", ".".repeat(1 + n / 4 % 5)), labels)
    })
}

fn jsonl(count: usize) -> String {
    rows(count)
        .map(|(text, labels)| format!("{}\n", json!({"text": text, "labels": labels})))
        .collect()
}

fn scene() -> Scene {
    let scene = Scene::new();
    for (name, count) in [("train", 40), ("validation", 12), ("test", 16)] {
        scene.file(&format!("{name}.jsonl"), jsonl(count));
    }
    scene
}

fn with<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let learning = ["training.learning_rate=1e-3", "method=full"];
    MULTI_LABEL.iter().chain(&learning).chain(settings).copied().collect()
}

#[track_caller]
fn ended_well(answer: &Answer) {
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
}

/// The last point of each metric.
fn metrics(run: &Path) -> serde_json::Map<String, Value> {
    let history = std::fs::read_to_string(run.join("metrics.jsonl")).expect("a record");
    let points = history.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    points
        .map(|point| (point["key"].as_str().expect("a key").to_owned(), point["value"].clone()))
        .collect()
}

#[test]
fn a_run_learns_reports_tests_and_predicts() {
    let scene = scene();
    let answer = scene.train(&with(&["early_stopping.metric=loss"]));
    ended_well(&answer);
    for part in ["micro-F1", "macro-F1", "exact match", "best model (epoch "] {
        assert!(answer.stdout.contains(part), "{}", answer.stdout);
    }
    assert!(answer.stderr.contains("(no label)"), "{}", answer.stderr);
    let run = scene.run_folder();
    let read = |name: &str| std::fs::read_to_string(Path::new(&run).join(name)).expect(name);

    let metrics = metrics(Path::new(&run));
    for prefix in ["Train", "Val", "Test", "Last_Test"] {
        let micro = metrics[&format!("{prefix}_Micro_F1_Score")].as_f64().expect("a number");
        assert!(micro > 0.9, "{prefix}: {micro}");
        assert!(metrics.contains_key(&format!("{prefix}_Macro_F1_Score")));
        assert!(!metrics.contains_key(&format!("{prefix}_F1_Score")));
    }
    let config: Value = serde_json::from_str(&read("best/config.json")).expect("JSON");
    assert_eq!(config["problem_type"], "multi_label_classification");
    assert_eq!(config["id2label"], json!({"0": "notice", "1": "termination"}));

    let (html, markdown) = (read("report.html"), read("report.md"));
    for part in ["Micro-F1", "By label", "notice", "none", "validation micro-F1"] {
        assert!(html.contains(part), "{part} is not in the page");
    }
    assert!(!html.contains("Confusion matrix"));
    assert!(markdown.contains("| label | precision | recall | F1 | rows |"), "{markdown}");
    assert!(markdown.contains("2 labels, any number per row"), "{markdown}");

    let tested = scene.run(&["test", &run, "--json"]);
    ended_well(&tested);
    let tested: Value = serde_json::from_str(&tested.stdout).expect("JSON");
    assert_eq!(tested["scores"]["micro_f1"], metrics["Test_Micro_F1_Score"]);
    assert_eq!(tested["rows"], 16);
    assert_eq!(tested["scores"]["labels"]["tallies"].as_array().map(Vec::len), Some(3));
    assert!(tested["intervals"]["micro_f1"]["low"].is_number());
    let csv =
        scene.file("new.csv", "text,labels\nYou can always leave .,\nwithout notice .,notice\n");
    let answer = scene.run(&["test", &run, "--file", &csv]);
    ended_well(&answer);
    assert!(answer.stdout.contains("test, 2 rows"), "{}", answer.stdout);
    let csv = scene.file("bad.csv", "text,labels\nYou can always leave .,notice;other\n");
    let bad = scene.run(&["test", &run, "--file", &csv]);
    bad.refused(&["bad.csv, row 1", "unknown label `other`", "`notice`, `termination`"]);

    let texts: Vec<&str> = CLAUSES.iter().map(|(text, _)| *text).collect();
    let mut arguments = vec!["predict", &run];
    arguments.extend(&texts);
    let predicted = scene.run(&arguments);
    ended_well(&predicted);
    let lines = predicted.stdout.lines();
    for ((text, labels), line) in CLAUSES.iter().zip(lines) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&line["text"], &line["labels"]), (&json!(text), &json!(labels)));
        let p = line["probabilities"].as_object().expect("probabilities");
        let keys: BTreeSet<&str> = p.keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["notice", "termination"]));
        let above = |name: &&str| p[*name].as_f64().expect("a number") > 0.5;
        assert!(labels.iter().all(above), "{line}");
        assert!(line.get("label").is_none() && line.get("thresholds").is_none());
    }
}

/// Ended after two epochs of four and resumed, a run is the one that was not.
/// `mlflow.pyfunc` answers with a column per rank, in which is a label with its score.
#[test]
fn the_mlflow_model_says_that_it_answers_with_every_label() {
    let scene = scene();
    ended_well(&scene.train(&with(&["training.max_epochs=1", "export.formats=[\"mlflow\"]"])));
    let folder = Path::new(&scene.run_folder()).join("export/mlflow");
    let text = std::fs::read_to_string(folder.join("MLmodel")).expect("MLmodel");
    assert!(text.lines().any(|line| line == "      top_k: null"), "{text}");
    let outputs = text.lines().find_map(|line| line.strip_prefix("  outputs: ")).expect("outputs");
    let outputs: String = serde_json::from_str(outputs).expect("a string");
    let column = |rank: usize| {
        let properties = json!({
            "label": {"type": "string", "required": true},
            "score": {"type": "double", "required": true},
        });
        json!({"type": "object", "properties": properties, "name": rank, "required": true})
    };
    let outputs: Value = serde_json::from_str(&outputs).expect("a schema");
    assert_eq!(outputs, json!([column(0), column(1)]));
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let scene = scene();
    let settings = ["training.max_epochs=4", "training.class_weights=balanced", "thresholds=tuned"];
    let outcome = |output: &str| {
        let runs = std::fs::read_dir(scene.path(output)).expect("runs").next();
        let run = runs.expect("a run").expect("its folder").path();
        let read = |file: &str| std::fs::read(run.join(file)).expect("a file of the run");
        let files = ["last/adapter_model.safetensors", "best/adapter_model.safetensors"].map(read);
        (run.clone(), files, read("best/thresholds.json"), metrics(&run))
    };
    let arguments = |output: &str| {
        let output = format!("output_dir={output}");
        let mut all: Vec<&str> = MULTI_LABEL.iter().chain(&settings).copied().collect();
        all.push(&output);
        scene.train_arguments(&all)
    };
    ended_well(&scene.run(&arguments("whole")));

    // Killed as soon as there is a checkpoint.
    let mut command = scene.command();
    command.args(arguments("cut")).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("the program");
    let checkpoint = || {
        let runs = std::fs::read_dir(scene.path("cut")).ok()?;
        runs.flatten().find(|run| run.path().join("last").is_dir())
    };
    let started = std::time::Instant::now();
    let run = loop {
        if let Some(run) = checkpoint() {
            break run.path();
        }
        assert!(started.elapsed().as_secs() < 60, "no checkpoint");
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    child.kill().expect("a signal");
    child.wait().expect("a child");
    ended_well(&scene.run(&["train", "--resume", &run.display().to_string()]));

    let ((_, weights, thresholds, figures), (_, again, its, its_figures)) =
        (outcome("whole"), outcome("cut"));
    assert!(weights == again, "the weights differ");
    assert_eq!((thresholds, figures), (its, its_figures));
}

#[test]
fn tuned_thresholds_travel_with_the_best_model_and_both_figures_are_shown() {
    let scene = scene();
    // Hardly trained, so that one half is not the best threshold.
    let settings = ["thresholds=tuned", "training.max_epochs=2", "training.learning_rate=5e-4"];
    let answer = scene.train(&with(&settings));
    ended_well(&answer);
    assert!(answer.stdout.contains("best model, tuned thresholds"), "{}", answer.stdout);
    let run = scene.run_folder();
    let read = |name: &str| std::fs::read_to_string(Path::new(&run).join(name)).expect(name);
    let thresholds: Value = serde_json::from_str(&read("best/thresholds.json")).expect("JSON");
    assert_eq!(thresholds["tuned_on"], "validation");
    let labels = thresholds["labels"].as_array().expect("labels");
    assert_eq!(labels.len(), 2);
    for label in labels {
        let at = |key: &str| label[key].as_f64().expect("a number");
        assert!(at("f1") >= at("f1_at_half"), "{label}");
        assert_eq!(at("rows"), 6.0);
    }
    assert!(!Path::new(&run).join("last/thresholds.json").exists());
    assert!(read("report.md").contains("thresholds tuned on validation rows"));
    assert!(read("report.html").contains("Thresholds tuned on validation rows"));
    let metrics = metrics(Path::new(&run));

    let tested: Value =
        serde_json::from_str(&scene.run(&["test", &run, "--json"]).stdout).expect("JSON");
    assert_eq!(tested["scores"]["micro_f1"], metrics["Test_Micro_F1_Score"]);
    assert_eq!(tested["tuned"]["scores"]["micro_f1"], metrics["Tuned_Test_Micro_F1_Score"]);
    let last: Value =
        serde_json::from_str(&scene.run(&["test", &run, "--json", "--model", "last"]).stdout)
            .expect("JSON");
    assert!(last.get("tuned").is_none());

    let line: Value =
        serde_json::from_str(&scene.run(&["predict", &run, CLAUSES[0].0]).stdout).expect("JSON");
    let given: Vec<&str> =
        line["labels"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for (name, p) in line["probabilities"].as_object().expect("probabilities") {
        let threshold = line["thresholds"][name].as_f64().expect("a threshold");
        let above = p.as_f64().expect("a number") > threshold;
        assert_eq!(given.contains(&name.as_str()), above, "{line}");
    }
    scene.edit_json(&format!("{run}/best/thresholds.json"), |value| {
        value["labels"][1]["label"] = json!("other")
    });
    scene.run(&["predict", &run, "text"]).refused(&["thresholds.json", "other", "termination"]);
}

#[test]
fn a_binary_task_has_the_threshold_of_its_positive_class() {
    let scene = Scene::new();
    let settings =
        ["thresholds=tuned", "data.label_names=[\"fair\", \"unfair\"]", "training.max_epochs=1"];
    let answer = scene.train(&settings);
    ended_well(&answer);
    assert!(answer.stdout.contains("best model, tuned thresholds"), "{}", answer.stdout);
    let run = scene.run_folder();
    let line: Value =
        serde_json::from_str(&scene.run(&["predict", &run, "We may end"]).stdout).expect("JSON");
    let thresholds = line["thresholds"].as_object().expect("thresholds");
    assert_eq!(thresholds.keys().collect::<Vec<_>>(), ["unfair"]);
    let p = line["probabilities"]["unfair"].as_f64().expect("a number");
    let label =
        if p > thresholds["unfair"].as_f64().expect("a number") { "unfair" } else { "fair" };
    assert_eq!(line["label"], label);
}

#[test]
fn settings_that_the_task_does_not_have_are_refused() {
    let scene = scene();
    let refused = |settings: &[&str], parts: &[&str]| {
        scene.train(&with(settings)).refused(parts);
        assert!(!scene.has_run());
    };
    refused(&["early_stopping.metric=average_precision"], &["only a binary task has"]);
    refused(&["training.class_weights=[1.0]"], &["has 1 weights, but there are 2"]);
    refused(
        &["thresholds=tuned", "data.task=multiclass"],
        &["thresholds is \"tuned\"", "most probable"],
    );
    let binary = ["data.task=binary", "early_stopping.metric=micro_f1"];
    refused(&binary, &["micro_f1", "only a multi-label task has"]);
    refused(
        &["data.task=multiclass"],
        &["labels where a multiclass task takes one", "multi_label"],
    );
}

#[test]
fn a_model_that_learned_nothing_is_told() {
    let told =
        |answer: &Answer| answer.stderr.contains("the best model answers every test row with");
    let answer = scene().train(&with(&["training.max_epochs=1", "training.learning_rate=1e-9"]));
    ended_well(&answer);
    assert!(told(&answer), "{}", answer.stderr);
    let answer = scene().train(&with(&[]));
    ended_well(&answer);
    assert!(!told(&answer), "{}", answer.stderr);
}

#[test]
fn of_models_with_equal_figures_the_one_with_the_lower_loss_is_the_best() {
    let scene = scene();
    let answer = scene.train(&with(&["training.max_epochs=3", "training.learning_rate=1e-5"]));
    ended_well(&answer);
    let epochs: Vec<&str> =
        answer.stderr.lines().filter(|line| line.starts_with("epoch ")).collect();
    let figure = |line: &str| line.split("micro-F1 ").nth(1).expect("a figure")[..6].to_owned();
    assert!(epochs.iter().all(|line| figure(line) == figure(epochs[0])), "{}", answer.stderr);
    assert!(epochs.iter().all(|line| line.ends_with("best")), "losses fall: {}", answer.stderr);
    assert!(answer.stdout.contains("best model (epoch 3)"), "{}", answer.stdout);
}
