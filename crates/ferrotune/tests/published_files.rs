//! Models as they were published years ago: pickled weights under old names, a bare vocabulary.

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
