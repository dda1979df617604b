//! ONNX files of every family in onnxruntime: the logits are ours, alone and in padded batches, in f32
//! and close to them in 8 bits; also with weights beside the file. Needs a Python with the packages of `tests/requirements.txt`, named by
//! `FERROTUNE_ONNX_PYTHON`.
use super::{LARGEST_MESSAGE, write};
use crate::{Classifier, Tokenizer};
use architectures::{Batch, Cpu, Isa, Method, Precision, Quantization, SequenceClassifier, peft};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Deserialize)]
struct Adapter {
    family: String,
    base: String,
    adapter: String,
    num_labels: usize,
    sequences: Vec<Vec<u32>>,
}

/// The adapters that PEFT wrote, one a family.
fn adapters() -> (PathBuf, Vec<Adapter>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../architectures/tests/fixtures");
    let text = std::fs::read_to_string(fixtures.join("adapters.json")).unwrap();
    (fixtures, serde_json::from_str(&text).unwrap())
}

/// Writes `model.onnx` and what it should answer.
fn write_case(fixtures: &Path, adapter: &Adapter, int8: bool, limit: usize, folder: &Path) {
    let family = fixtures.join(&adapter.family);
    let (base, source) = (family.join(&adapter.base), folder.join("model"));
    durable::create_folder(&source).unwrap();
    let copy = |from: &Path, name: &str| {
        durable::write(&source.join(name), &std::fs::read(from.join(name)).unwrap()).unwrap();
    };
    copy(&family.join(&adapter.adapter), peft::ADAPTER_CONFIG);
    copy(&family.join(&adapter.adapter), peft::ADAPTER_WEIGHTS);
    let config = std::fs::read_to_string(base.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let names: Vec<String> = (0..adapter.num_labels).map(|n| format!("kind {n}")).collect();
    config["id2label"] =
        names.iter().enumerate().map(|(n, name)| (n.to_string(), json!(name))).collect();
    config["problem_type"] = json!("single_label_classification");
    durable::write(&source.join("config.json"), config.to_string().as_bytes()).unwrap();

    let isa = Isa::detect().unwrap();
    let backend = Cpu::new(isa, Precision::F32, Quantization::None);
    let method = Method::Lora(peft::read_adapter_config(&source).unwrap());
    let mut model =
        SequenceClassifier::load(&backend, &base, adapter.num_labels, &method, 1).unwrap();
    peft::read_adapter(&backend, &mut model, &source).unwrap();
    // Sixteen, of mixed lengths.
    let sequences: Vec<Vec<u32>> = (0..16)
        .map(|n| {
            let sequence = &adapter.sequences[n % adapter.sequences.len()];
            sequence[..sequence.len() - (n / adapter.sequences.len()).min(sequence.len() - 1)]
                .to_vec()
        })
        .collect();
    let logits: Vec<Vec<f32>> = sequences
        .iter()
        .map(|ids| model.predict(&backend, &Batch::new(&backend, ids, &[0, ids.len() as u32])))
        .collect();
    let tokenizer =
        Tokenizer { json: "{}".to_owned(), files: Vec::new(), max_length: 64, pad_token: None };
    let classifier =
        Classifier::open(&source, Some(&base), Quantization::None, "base", tokenizer, isa).unwrap();
    let metadata = json!({"thresholds": {"kind 1": 0.5}});
    let metadata = metadata.as_object().unwrap();
    write(&classifier, int8, metadata, folder, limit, |_, _| ()).unwrap();
    let case = json!({"sequences": sequences, "logits": logits}).to_string();
    durable::write(&folder.join("case.json"), case.as_bytes()).unwrap();
}

/// What `check_onnx.py` says about each folder; none without a Python.
fn checked(folders: &[PathBuf]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("FERROTUNE_ONNX_PYTHON") else {
        eprintln!("skipped: FERROTUNE_ONNX_PYTHON names no Python with onnx and onnxruntime");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_onnx.py");
    let output = Command::new(python).arg(script).args(folders).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), folders.len());
    Some(answers)
}

fn check(families: &str, int8: bool, limit: usize, tolerance: f64) {
    let (fixtures, mut adapters) = adapters();
    adapters.retain(|adapter| adapter.family.contains(families));
    let place = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = adapters
        .iter()
        .map(|adapter| {
            let folder = place.path().join(&adapter.family);
            write_case(&fixtures, adapter, int8, limit, &folder);
            let beside = folder.join("model.onnx.data").is_file();
            assert_eq!(beside, limit < LARGEST_MESSAGE);
            folder
        })
        .collect();
    let Some(answers) = checked(&folders) else { return };
    for (adapter, answer) in adapters.iter().zip(answers) {
        let error = answer["error"].as_f64().unwrap();
        eprintln!("{}: {error:.2e}", adapter.family);
        assert!(error <= tolerance, "{}: {error}", adapter.family);
        assert!(!int8 || error > 1e-6, "{}: {error} is too good for 8 bits", adapter.family);
        assert_eq!(answer["opset"], json!([["", 17]]));
        assert_eq!(
            answer["outputs"],
            json!([["logits", "tensor(float)", ["batch", adapter.num_labels]]])
        );
        for input in answer["inputs"].as_array().unwrap() {
            assert_eq!(input[1], "tensor(int64)");
            assert_eq!(input[2], json!(["batch", "sequence"]));
        }
        let metadata = &answer["metadata"];
        assert_eq!(metadata["problem_type"], "single_label_classification");
        assert_eq!(metadata["thresholds"], "{\"kind 1\":0.5}");
        let names: Value = serde_json::from_str(metadata["id2label"].as_str().unwrap()).unwrap();
        assert_eq!(names["1"], "kind 1");
    }
}

#[test]
fn every_family_gives_our_logits() {
    check("", false, LARGEST_MESSAGE, 1e-4);
}

#[test]
fn in_8_bits_the_logits_are_close() {
    check("", true, LARGEST_MESSAGE, 0.1);
}

#[test]
fn weights_beyond_the_limit_of_a_message_lie_beside_it() {
    check("bert", false, 1 << 12, 1e-4);
}
