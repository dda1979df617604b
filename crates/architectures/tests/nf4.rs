//! 4-bit weights against bitsandbytes: its stored states give its numbers bit for bit, and what we
//! quantise has its codes.

use architectures::{
    Backend, Batch, Checkpoint, Cpu, Isa, LoraConfig, Method, NamedTensor, Pass, Precision,
    Quantization, SequenceClassifier, StoredWeight, TensorFile, write_tensors,
};
use kernels::{Int8Matrix, Nf4Absmax, Nf4Matrix, QuantizedMatrix};
use std::path::{Path, PathBuf};

const CASES: [(&str, bool); 5] = [
    ("plain", false),
    ("double", true),
    ("straddling", true),
    ("bfloat16", true),
    ("float16", false),
];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4/nf4.safetensors")
}

/// A folder in which the fixture is a model's weights.
fn checkpoint() -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(fixture(), folder.path().join("model.safetensors")).expect("copied");
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    (folder, checkpoint)
}

fn tensor(name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = TensorFile::open(&fixture()).expect("the fixture");
    file.tensor(name).expect("readable").expect("there")
}

#[test]
fn stored_states_give_the_same_numbers_to_the_bit() {
    let (_folder, checkpoint) = checkpoint();
    for (case, _) in CASES {
        let (shape, expected) = tensor(&format!("{case}.expected"));
        let name = format!("{case}.weight");
        let weight = checkpoint.get("bert", &name, &shape).expect("a 4-bit weight");
        for (i, (x, y)) in weight.iter().zip(&expected).enumerate() {
            assert_eq!(x.to_bits(), y.to_bits(), "{case} at {i}: {x:e}, not {y:e}");
        }
        assert!(checkpoint.get("bert", &name, &[1, 1]).is_err());
    }
}

/// Shards are cut between any two tensors.
#[test]
fn parts_in_different_shards_are_found() {
    let (shape, _) = tensor("double.expected");
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(fixture()).expect("the fixture");
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut weight_map = serde_json::Map::new();
    for shard in 0..3 {
        let name = format!("model-{shard}.safetensors");
        let part = all.tensors().into_iter().enumerate().filter(|(i, _)| i % 3 == shard);
        let part: Vec<_> = part.map(|(_, tensor)| tensor).collect();
        weight_map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        let bytes = safetensors::serialize(part, None).expect("serialised");
        durable::write(&folder.path().join(name), &bytes).expect("written");
    }
    let index = serde_json::json!({"weight_map": weight_map}).to_string();
    let path = folder.path().join("model.safetensors.index.json");
    durable::write(&path, index.as_bytes()).expect("written");
    let sharded = Checkpoint::open(folder.path()).expect("a checkpoint");
    let (_whole_folder, whole) = checkpoint();
    let get = |c: &Checkpoint| c.get("bert", "double.weight", &shape).expect("a 4-bit weight");
    assert!(get(&sharded) == get(&whole));
}

#[test]
fn codes_are_the_same_and_magnitudes_differ_by_a_step_at_most() {
    let (_folder, checkpoint) = checkpoint();
    for (case, double) in CASES {
        let (shape, original) = tensor(&format!("{case}.original"));
        let ours = Nf4Matrix::quantize(&original, shape[1], double);
        let stored = checkpoint.get_weight("bert", &format!("{case}.weight"), &shape);
        let Ok(StoredWeight::Nf4(theirs)) = stored else { panic!("{case} is not 4-bit") };
        assert_eq!(ours.codes(), theirs.codes(), "{case}");
        match (ours.absmax(), theirs.absmax()) {
            (Nf4Absmax::Plain(ours), Nf4Absmax::Plain(theirs)) => assert_eq!(ours, theirs),
            (
                Nf4Absmax::Nested { codes: ours, map, offset, absmax, .. },
                Nf4Absmax::Nested { codes, map: map2, offset: offset2, absmax: absmax2, .. },
            ) => {
                for (i, (x, y)) in map.iter().zip(map2.iter()).enumerate() {
                    assert_eq!(x.to_bits(), y.to_bits(), "{case}, value {i}: {x:e}, not {y:e}");
                }
                assert!((offset - offset2).abs() <= offset.abs() * 1e-6, "{case}");
                for (a, b) in absmax.iter().zip(absmax2) {
                    assert!((a - b).abs() <= a * 1e-4, "{case}: {a} {b}");
                }
                // bitsandbytes rounds to nearest by a coarse table.
                let far = ours.iter().zip(codes).filter(|(a, b)| a.abs_diff(**b) > 1).count();
                assert_eq!(far, 0, "{case}");
            }
            _ => panic!("{case}: one of them is nested"),
        }
    }
}

/// Logits and all gradients of one batch.
fn gradients(folder: &Path, backend: &Cpu) -> Vec<Vec<f32>> {
    let method = Method::Lora(LoraConfig::default());
    let mut model = SequenceClassifier::load(backend, folder, 2, &method, 3).expect("a model");
    // B is 0 at the start, which would hide A's gradient.
    let started = model.restore::<()>(backend, |name, shape| {
        let size = shape.iter().product::<usize>();
        Ok((0..size).map(|i| ((i + name.len()) % 7) as f32 * 0.01 - 0.03).collect())
    });
    assert_eq!(started, Ok(()));
    let batch = Batch::new(backend, &[2, 7, 9, 11, 3, 2, 5, 3], &[0, 5, 8]);
    let pass = Pass { dropout: true, seed: 1, step: 0, first_token: 0, first_sequence: 0 };
    let (logits, saved) = model.forward(backend, &pass, &batch);
    let (_, dlogits) = backend.cross_entropy(&logits, &backend.indices(vec![1, 0]), &[], 2.0);
    model.backward(backend, &pass, &batch, saved, &dlogits);
    let gradients = model.parameters.iter().map(|p| backend.download(&p.gradient));
    std::iter::once(backend.download(&logits)).chain(gradients).collect()
}

/// QLoRA is LoRA on the dequantised weights, to the bit, in every precision.
#[test]
fn quantised_training_equals_training_on_dequantised_weights() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert/model");
    let file = TensorFile::open(&base.join("model.safetensors")).expect("weights");
    for quantization in [Quantization::Nf4, Quantization::Int8] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(base.join("config.json"), folder.path().join("config.json")).expect("copied");
        let mut tensors = Vec::new();
        for name in file.names().expect("names") {
            let (shape, mut data) = file.tensor(&name).expect("readable").expect("there");
            if name.contains(".layer.") && shape.len() == 2 {
                data = match quantization {
                    Quantization::Int8 => {
                        QuantizedMatrix::Int8(Int8Matrix::quantize(&data, shape[1])).to_dense()
                    }
                    _ => {
                        let matrix = Nf4Matrix::quantize(&data, shape[1], true);
                        QuantizedMatrix::Nf4(matrix).to_dense()
                    }
                };
            }
            tensors.push(NamedTensor::new(name, shape, move || data.clone()));
        }
        write_tensors(&folder.path().join("model.safetensors"), tensors).expect("written");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for precision in [Precision::F32, Precision::Bf16] {
                let ours = gradients(&base, &Cpu::new(isa, precision, quantization));
                let dense = gradients(folder.path(), &Cpu::new(isa, precision, Quantization::None));
                assert!(ours == dense, "{quantization:?} {isa} {precision:?}");
            }
        }
    }
}
