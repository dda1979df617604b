//! Models as they were published years ago: pickled weights under old names, a bare vocabulary; and as
//! they are published now.

mod common;

use common::{Scene, WORDS};
use std::path::Path;

/// A scene whose model is the tiny BERT in these weights, and its tokenizer this file.
fn scene(model: &str, weights: &str, tokenizer: (&str, String)) -> Scene {
    let scene = Scene::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../architectures/tests/fixtures/pickle")
        .join(model);
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::remove_file(scene.path("model").join(name)).expect("the scene's own");
    }
    for name in ["config.json", weights] {
        let content = std::fs::read(fixture.join(name)).expect("a fixture");
        scene.file(&format!("model/{name}"), content);
    }
    scene.file(&format!("model/{}", tokenizer.0), tokenizer.1);
    scene
}

fn train(scene: &Scene) -> String {
    let answer = scene.train(&["data.max_length=16", "seed=3"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    answer.stdout
}

#[test]
fn old_files_train_to_the_same_figures_as_new_ones() {
    let new = scene("model", "model.safetensors", ("tokenizer.json", common::tokenizer(&WORDS)));
    let old = scene("old", "pytorch_model.bin", ("vocab.txt", WORDS.join("\n")));
    assert_eq!(train(&new), train(&old));

    let run = old.run_folder();
    assert!(Path::new(&run).join("best/vocab.txt").is_file());
    let answers = [&new, &old].map(|scene| scene.run(&["predict", &scene.run_folder(), "We may"]));
    assert_eq!(answers[0].code, Some(0), "{}", answers[0].stderr);
    assert_eq!(answers[0].stdout, answers[1].stdout);
}

/// Pickled weights, with a head that shares the embeddings: what is written loads, and trains as what is
/// quantised in memory.
#[test]
fn old_files_are_quantised() {
    let old = scene("old", "pytorch_model.bin", ("vocab.txt", WORDS.join("\n")));
    let answer = old.run(&["quantize", "model", "--output", "nf4"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(old.path("nf4/vocab.txt").is_file());
    let trained = ["model", "nf4"].map(|model| {
        let model = format!("pretrained_model={model}");
        let answer = old.train(&["data.max_length=16", "seed=3", "quantization=nf4", &model]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        let adapter = Path::new(&old.run_folder()).join("last/adapter_model.safetensors");
        let adapter = std::fs::read(adapter).expect("an adapter");
        std::fs::remove_dir_all(old.path("runs")).expect("removed");
        adapter
    });
    assert!(trained[0] == trained[1]);
}

/// ModernBERT has a `tokenizer.json` alone, and a name of its own for every layer.
#[test]
fn modernbert_trains_and_answers() {
    let scene = Scene::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../architectures/tests/fixtures/modernbert/model");
    for name in ["config.json", "model.safetensors"] {
        scene.file(&format!("model/{name}"), std::fs::read(fixture.join(name)).expect("a fixture"));
    }
    let answer = scene.train(&["seed=3"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(answer.stderr.contains("head.dense.weight"), "a new head is named: {}", answer.stderr);

    let run = scene.run_folder();
    let settings = std::fs::read_to_string(Path::new(&run).join("best/adapter_config.json"));
    let settings: serde_json::Value =
        serde_json::from_str(&settings.expect("an adapter")).expect("JSON");
    assert_eq!(settings["target_modules"], serde_json::json!(["Wqkv"]));
    assert_eq!(settings["modules_to_save"], serde_json::json!(["classifier", "head"]));
    let texts = ["predict", &run, "we may end your account", "you can always leave"];
    let answer = scene.run(&texts);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout.lines().count(), 2, "{}", answer.stdout);

    // Rotary positions have no table; what the model was made for still counts.
    std::fs::remove_dir_all(scene.path("runs")).expect("removed");
    scene.train(&["data.max_length=161"]).refused(&["max_length", "160"]);
}

#[test]
fn a_vocabulary_of_an_unknown_kind_is_refused_by_its_name() {
    let scene = scene("old", "pytorch_model.bin", ("vocab.txt", WORDS.join("\n")));
    scene.edit_json("model/config.json", |config| config["tokenizer_class"] = "T5Tokenizer".into());
    scene.train(&["data.max_length=16"]).refused(&["no tokenizer in", "T5Tokenizer", "deberta-v2"]);
}

#[test]
fn damaged_pickles_are_refused_before_training() {
    let scene = scene("old", "pytorch_model.bin", ("vocab.txt", WORDS.join("\n")));
    let whole = scene.read("model/pytorch_model.bin");
    for content in [&b""[..], b"\x80\x02cposix\nsystem\n.", &whole[..whole.len() / 2]] {
        scene.file("model/pytorch_model.bin", content);
        scene.train(&["data.max_length=16"]).refused(&["pytorch_model.bin is not read: "]);
    }
}
