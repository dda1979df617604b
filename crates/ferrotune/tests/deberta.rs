//! DeBERTa from the files that its versions were published in, end to end.

mod common;

use common::{Scene, WORDS};
use std::path::Path;

/// Trains such a model with adapters, predicts, and checks that the pooler, which the published file
/// lacks, is among what is saved.
fn trains(fixture: &str, files: &[&str], adapted: &[&str]) {
    let scene = Scene::new();
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::remove_file(scene.path("model").join(name)).expect("the scene's own");
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let weights = fixtures.join("architectures/tests/fixtures/pickle").join(fixture);
    let vocabulary = fixtures.join("data/tests/fixtures/tokenizers").join(fixture);
    let files = files.iter().map(|name| (&vocabulary, *name));
    for (folder, name) in files.chain([(&weights, "config.json"), (&weights, "pytorch_model.bin")])
    {
        let content = std::fs::read(folder.join(name)).expect("a fixture");
        scene.file(&format!("model/{name}"), content);
    }
    let answer = scene.train(&["data.max_length=64", "seed=3"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let run = scene.run_folder();
    let long = WORDS.join(" ");
    let answer = scene.run(&["predict", &run, &long, "We may"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(answer.stdout.lines().count(), 2, "{}", answer.stdout);
    scene.train(&["data.max_length=65"]).refused(&["reads at most 64 tokens"]);

    let best = Path::new(&run).join("best");
    assert!(best.join("vocab.json").is_file() || best.join("spm.model").is_file());
    let adapter = std::fs::read(best.join("adapter_model.safetensors")).expect("an adapter");
    let adapter = String::from_utf8_lossy(&adapter);
    let layer = "base_model.model.deberta.encoder.layer.1.attention.self";
    let mut names: Vec<String> =
        adapted.iter().map(|part| format!("{layer}.{part}.lora_B.weight")).collect();
    names.push("base_model.model.pooler.dense.weight".to_owned());
    names.push("base_model.model.classifier.bias".to_owned());
    for name in names {
        assert!(adapter.contains(&format!("\"{name}\"")), "no {name}");
    }
}

#[test]
fn the_first_version_trains_from_its_published_files() {
    trains("deberta", &["vocab.json", "merges.txt"], &["in_proj"]);
}

#[test]
fn the_third_version_trains_from_its_published_files() {
    trains("deberta_v2", &["spm.model"], &["query_proj", "value_proj"]);
}
