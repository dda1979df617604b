//! `ferrotune export`, and `export.formats`: what is written answers as the run's model does; what is
//! refused, and that nothing is left behind then.

mod common;

use common::Scene;
use serde_json::{Value, json};
use std::path::Path;

const TEXTS: [&str; 2] = ["We may end your account at any time without notice.", "You can leave"];

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// The probability of class 1 of each of [`TEXTS`].
fn probabilities(scene: &Scene, model: &str) -> Vec<f64> {
    let answer = scene.run(&["predict", model, TEXTS[0], TEXTS[1]]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let lines = answer.stdout.lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.map(|line| line["probabilities"]["1"].as_f64().expect("a probability")).collect()
}

#[track_caller]
fn export(scene: &Scene, arguments: &[&str]) {
    let answer = scene.run(&[&["export"], arguments].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout, "", "stdout is for data");
}

#[track_caller]
fn assert_close(a: &[f64], b: &[f64]) {
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
}

/// Adapters, adapters on 4-bit weights, and full fine-tuning.
#[test]
fn a_merged_checkpoint_answers_as_the_run_does() {
    for settings in [
        &["lora.target_modules=all-linear", "lora.use_rslora=true"][..],
        &["quantization=nf4"],
        &["method=full"],
    ] {
        let scene = Scene::new();
        let kept = json!({"tokenizer_class": "BertTokenizerFast", "model_max_length": 512});
        scene.file("model/tokenizer_config.json", kept.to_string());
        let settings = [&["precision=32-true", "training.learning_rate=1e-2"], settings].concat();
        let answer = scene.train(&settings);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let run = scene.run_folder();
        export(&scene, &[&run, "--format", "merged"]);
        let merged = Path::new(&run).join("export/merged");
        let files = [
            "config.json",
            "ferrotune.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(names(&merged), files);
        let expected = probabilities(&scene, &run);
        assert_close(&probabilities(&scene, &merged.display().to_string()), &expected);
        let config = json(&merged.join("config.json"));
        assert_eq!(config["architectures"], json!(["BertForSequenceClassification"]));
        assert_eq!(config["id2label"], json!({"0": "0", "1": "1"}));
        assert_eq!(config["problem_type"], "single_label_classification");
        assert_eq!(json(&merged.join("ferrotune.json"))["quantization"], "none");
        let tokenizer = json(&merged.join("tokenizer_config.json"));
        assert_eq!(
            tokenizer,
            json!({"tokenizer_class": "BertTokenizerFast", "model_max_length": 32})
        );
    }
}

#[test]
fn every_format_of_the_configuration_is_written_at_the_end() {
    let scene = Scene::new();
    scene.edit_json("model/config.json", |config| config["pad_token_id"] = 0.into());
    let formats = "export.formats=[\"merged\", \"peft\", \"mlflow\", \"onnx\"]";
    let answer = scene.train(&[formats, "precision=32-true", "training.learning_rate=1e-2"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let run = scene.run_folder();
    let exports = Path::new(&run).join("export");
    assert_eq!(names(&exports), ["merged", "mlflow", "onnx", "peft"]);
    let expected = probabilities(&scene, &run);
    for format in ["merged", "peft"] {
        let answers = probabilities(&scene, &exports.join(format).display().to_string());
        assert_close(&answers, &expected);
        let tokenizer = json(&exports.join(format).join("tokenizer_config.json"));
        assert_eq!(tokenizer, json!({"model_max_length": 32}));
    }

    let mlflow = exports.join("mlflow");
    let files = ["MLmodel", "components", "model", "python_env.yaml", "requirements.txt"];
    assert_eq!(names(&mlflow), files);
    assert_eq!(
        names(&mlflow.join("model")),
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    );
    let settings = json(&mlflow.join("components/tokenizer/tokenizer_config.json"));
    assert_eq!(
        settings,
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "pad_token": "[PAD]",
        })
    );
    let files = ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&exports.join("onnx")), files);
    export(&scene, &[&run, "--format", "onnx", "--int8", "--output", "int8"]);
    let size = |path: &Path| std::fs::metadata(path.join("model.onnx")).expect("a file").len();
    assert!(size(&scene.path("int8")) < size(&exports.join("onnx")));

    let text = std::fs::read_to_string(mlflow.join("MLmodel")).expect("MLmodel");
    for line in [
        "      max_length: 32",
        "    loader_module: \"mlflow.transformers\"",
        "    pipeline_model_type: \"BertForSequenceClassification\"",
        "    task: \"text-classification\"",
    ] {
        assert!(text.lines().any(|l| l == line), "no `{line}` in {text}");
    }
}

#[test]
fn the_last_model_can_be_chosen_and_a_model_folder_given() {
    let scene = Scene::new();
    let run = scene.trained();
    export(&scene, &[&run, "--format", "merged", "--model", "last", "--output", "last"]);
    export(&scene, &[&format!("{run}/last"), "--format", "merged", "--output", "same"]);
    assert!(scene.read("last/model.safetensors") == scene.read("same/model.safetensors"));
    let last = probabilities(&scene, &format!("{run}/last"));
    assert_close(&probabilities(&scene, "last"), &last);
}

#[test]
fn what_cannot_be_exported_is_refused_and_leaves_nothing() {
    let scene = Scene::new();
    let run = scene.trained();
    let before = names(Path::new(&run));
    let export = |arguments: &[&str]| scene.run(&[&["export"], arguments].concat());
    export(&[&run]).refused(&["--format"]);
    export(&["nowhere", "--format", "merged"]).refused(&["no trained model in nowhere"]);
    let best = format!("{run}/best");
    export(&[&best, "--format", "merged"]).refused(&["best is one model", "--output"]);
    export(&[&run, "--format", "merged", "--output", "model"])
        .refused(&["model", "directory not empty"]);
    export(&[&run, "--format", "merged", "--int8"]).refused(&["8 bits are for the format onnx"]);
    let weights = format!("{best}/adapter_model.safetensors");
    let content = std::fs::read(&weights).expect("an adapter");
    durable::write(Path::new(&weights), &content[..content.len() / 2]).expect("written");
    export(&[&run, "--format", "merged"]).refused(&["adapter_model.safetensors is damaged"]);
    durable::write(Path::new(&weights), &content).expect("written");
    assert_eq!(names(Path::new(&run)), before);

    scene
        .train(&["method=full", "export.formats=[\"peft\"]"])
        .refused(&["export.formats names `peft`, but method = \"full\" trains no adapter"]);
    std::fs::remove_dir_all(scene.path("runs")).expect("removed");
    let answer = scene.train(&["method=full"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    export(&[&scene.run_folder(), "--format", "peft"])
        .refused(&["has no adapter: every weight was trained"]);
    scene.file("busy", "");
    export(&[&scene.run_folder(), "--format", "merged", "--output", "busy"]).refused(&["busy"]);
}
