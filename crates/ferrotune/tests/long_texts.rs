//! Families for long texts, from the files that they were published in, end to end.

mod common;

use common::{Scene, WORDS};
use serde_json::{Value, json};
use std::path::Path;

/// A scene whose model is this one among the fixtures of pickles, with this tokenizer and texts of
/// one clause to ten, one after another.
fn scene(model: &str, tokenizer: &str, files: &[&str]) -> Scene {
    let scene = Scene::new();
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::remove_file(scene.path("model").join(name)).expect("the scene's own");
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let weights = fixtures.join("architectures/tests/fixtures/pickle").join(model);
    let vocabulary = fixtures.join("data/tests/fixtures/tokenizers").join(tokenizer);
    let files = files.iter().map(|name| (&vocabulary, *name));
    for (folder, name) in files.chain([(&weights, "config.json"), (&weights, "pytorch_model.bin")])
    {
        let content = std::fs::read(folder.join(name)).expect("a fixture");
        scene.file(&format!("model/{name}"), content);
    }
    for (name, rows) in [("train", 20), ("validation", 10), ("test", 10)] {
        let row = |i: usize| {
            let clause = ["we may end your account", "you can always leave"][i % 2];
            let text = format!("{clause} {} ", WORDS[4 + i % 7]).repeat(1 + i % 10);
            json!({ "text": text, "label": (i + 1) % 2 }).to_string()
        };
        let rows: Vec<String> = (0..rows).map(row).collect();
        scene.file(&format!("{name}.jsonl"), rows.join("\n"));
    }
    scene
}

/// Trains, predicts, and returns the names in the best adapter.
fn run(scene: &Scene, max_length: usize) -> Vec<String> {
    let longest = format!("data.max_length={max_length}");
    let answer = scene.train(&[&longest, "training.tokens_per_micro_batch=64"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);

    let run = scene.run_folder();
    let long = "we may end your account ".repeat(20);
    let predicted = [1, 2].map(|_| scene.run(&["predict", &run, &long, "you can always leave"]));
    assert_eq!(predicted[0].code, Some(0), "{}", predicted[0].stderr);
    assert_eq!(predicted[0].stdout.lines().count(), 2, "{}", predicted[0].stdout);
    assert_eq!(predicted[0].stdout, predicted[1].stdout);

    let too_long = format!("data.max_length={}", max_length + 1);
    let limit = format!("reads at most {max_length} tokens");
    scene.train(&[&too_long]).refused(&[&too_long.replace('=', " is "), &limit]);

    let file = std::fs::read(Path::new(&run).join("best/adapter_model.safetensors"));
    let file = file.expect("an adapter");
    let header = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..][..header]).expect("JSON");
    let names = header.as_object().expect("tensors").keys().cloned();
    let mut names: Vec<String> = names.filter(|name| name != "__metadata__").collect();
    names.sort();
    names
}

fn expected(root: &str) -> Vec<String> {
    let adapters = (0..2).flat_map(|layer| {
        ["query", "value"].into_iter().flat_map(move |part| {
            ["lora_A", "lora_B"].map(|factor| {
                format!("{root}.encoder.layer.{layer}.attention.self.{part}.{factor}.weight")
            })
        })
    });
    let head = ["dense.bias", "dense.weight", "out_proj.bias", "out_proj.weight"];
    let names = adapters.chain(head.map(|part| format!("classifier.{part}")));
    let mut names: Vec<String> = names.map(|name| format!("base_model.model.{name}")).collect();
    names.sort();
    names
}

#[test]
fn longformer_trains_from_its_published_files() {
    let scene = scene("longformer", "roberta", &["vocab.json", "merges.txt"]);
    assert_eq!(run(&scene, 88), expected("longformer"));
    let best = Path::new(&scene.run_folder()).join("best");
    assert!(best.join("vocab.json").is_file() && best.join("merges.txt").is_file());
}

#[test]
fn big_bird_trains_from_its_published_files() {
    let scene = scene("big_bird", "big_bird", &["spiece.model"]);
    assert_eq!(run(&scene, 128), expected("bert"));
    assert!(Path::new(&scene.run_folder()).join("best/spiece.model").is_file());
}
