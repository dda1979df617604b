//! `ferrotune quantize`: what it writes is trained on and answers as what was quantised in memory;
//! what it refuses, and that nothing is left behind then.

mod common;

use common::Scene;
use serde_json::Value;

/// Names in a folder of the scene, sorted.
fn names(scene: &Scene, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scene.path(folder)).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[track_caller]
fn quantize(scene: &Scene, model: &str, output: &str) {
    let answer = scene.run(&["quantize", model, "--output", output]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout, "", "stdout is for data");
}

#[test]
fn a_run_from_it_is_the_run_that_quantises_in_memory() {
    let scene = Scene::new();
    scene.file("model/tokenizer_config.json", "{}");
    quantize(&scene, "model", "deep/nf4");
    let expected = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&scene, "deep/nf4"), expected);
    assert_eq!(names(&scene, "deep"), ["nf4"]);

    let mut runs = Vec::new();
    for model in ["model", "deep/nf4"] {
        let from = [&format!("pretrained_model={model}"), "quantization=nf4", "seed=3"];
        let answer = scene.train(&from);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert!(answer.stderr.contains(", frozen weights in nf4"), "{}", answer.stderr);
        let run = scene.run_folder();
        let texts = scene.run(&["predict", &run, "we may end your account", "you can leave"]);
        assert_eq!(texts.code, Some(0), "{}", texts.stderr);
        let adapter = std::fs::read(format!("{run}/last/adapter_model.safetensors"));
        runs.push((adapter.expect("an adapter"), texts.stdout));
        std::fs::remove_dir_all(scene.path("runs")).expect("removed");
    }
    assert!(runs[0] == runs[1]);
}

#[test]
fn the_configuration_is_the_models_own_and_tells_transformers_what_is_in_4_bits() {
    let scene = Scene::new();
    quantize(&scene, "model", "nf4");
    let read = |name: &str| -> Value { serde_json::from_slice(&scene.read(name)).expect("JSON") };
    let mut config = read("nf4/config.json");
    let settings = config.as_object_mut().expect("an object").remove("quantization_config");
    let settings = settings.expect("a quantization_config");
    assert_eq!(config, read("model/config.json"));
    assert_eq!(settings["quant_method"], "bitsandbytes");
    assert_eq!(
        (&settings["load_in_4bit"], &settings["load_in_8bit"]),
        (&true.into(), &false.into())
    );
    let skipped = settings["llm_int8_skip_modules"].as_array().expect("a list");
    assert!(skipped.contains(&"pooler.dense".into()) && skipped.contains(&"classifier".into()));
}

/// A classifier fine-tuned in full stays one: its head and its labels are as they were.
#[test]
fn a_classifier_answers_in_4_bits_as_well() {
    let scene = Scene::new();
    let answer = scene.train(&["method=full", "precision=32-true"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    quantize(&scene, &format!("{}/best", scene.run_folder()), "nf4");
    let dense = scene.run(&["predict", &scene.run_folder(), "we may end your account"]);
    let few = scene.run(&["predict", &scene.at("nf4"), "we may end your account"]);
    assert_eq!(few.code, Some(0), "{}", few.stderr);
    let score = |text: &str| -> f64 {
        let line: Value = serde_json::from_str(text).expect("JSON");
        line["probabilities"]["1"].as_f64().expect("a probability")
    };
    let (dense, few) = (score(&dense.stdout), score(&few.stdout));
    assert!(dense != few && (dense - few).abs() < 0.1, "{dense} {few}");
}

#[test]
fn what_is_there_stays_there() {
    let scene = Scene::new();
    durable::create_folder(&scene.path("mine")).expect("a folder");
    quantize(&scene, "model", "mine"); // it was empty
    let before = scene.read("mine/model.safetensors");
    let again = scene.run(&["quantize", "model", "--output", "mine"]);
    again.refused(&["mine", "directory not empty"]);
    assert!(scene.read("mine/model.safetensors") == before);
    scene.run(&["quantize", "model", "--output", "train.jsonl"]).refused(&["train.jsonl"]);
    assert_eq!(scene.read("train.jsonl"), common::jsonl(40).as_bytes());
}

#[test]
fn what_cannot_be_quantised_is_refused_and_leaves_nothing() {
    let scene = Scene::new();
    quantize(&scene, "model", "nf4");
    let all = names(&scene, ".");
    let quantized = |model: &str| scene.run(&["quantize", model, "--output", "new"]);
    quantized("nf4").refused(&["nf4 is quantised already", "quantization_config of bitsandbytes"]);
    quantized("./nowhere").refused(&["nowhere"]);
    let trained = scene.trained();
    quantized(&format!("{trained}/best")).refused(&["best", "lacks model.safetensors"]);
    scene.edit_json("model/config.json", |config| config["model_type"] = "gpt2".into());
    quantized("model").refused(&["model_type `gpt2` is not supported"]);
    scene.edit_json("model/config.json", |config| config["model_type"] = "bert".into());
    scene.edit_json("model/config.json", |config| config["hidden_size"] = 80.into());
    quantized("model")
        .refused(&["word_embeddings.weight` has shape [120, 40], expected [120, 80]"]);
    std::fs::remove_dir_all(scene.path("runs")).expect("removed");
    assert_eq!(names(&scene, "."), all);
}
