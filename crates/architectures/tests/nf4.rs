//! 4-bit weights against bitsandbytes: its stored states give its numbers bit for bit, and what we
//! quantise has its codes. Models written in 4 bits train as those quantised in memory.

use architectures::{
    Backend, Batch, Checkpoint, Cpu, Error, Isa, LoraConfig, Method, NamedTensor, Pass, Precision,
    Quantization, Quantizer, SequenceClassifier, StoredWeight, TensorFile, write_tensors,
};
use kernels::{Nf4Absmax, Nf4Matrix, QuantizedMatrix};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
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
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
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
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(base.join("config.json"), folder.path().join("config.json")).expect("copied");
    let mut tensors = Vec::new();
    for name in file.names().expect("names") {
        let (shape, mut data) = file.tensor(&name).expect("readable").expect("there");
        if name.contains(".layer.") && shape.len() == 2 {
            let matrix = Nf4Matrix::quantize(&data, shape[1], true);
            data = QuantizedMatrix::Nf4(matrix).to_dense();
        }
        tensors.push(NamedTensor::new(name, shape, move || data.clone()));
    }
    write_tensors(&folder.path().join("model.safetensors"), tensors).expect("written");
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for precision in [Precision::F32, Precision::Bf16] {
            let ours = gradients(&base, &Cpu::new(isa, precision, Quantization::Nf4));
            let dense = gradients(folder.path(), &Cpu::new(isa, precision, Quantization::None));
            assert!(ours == dense, "{isa} {precision:?}");
        }
    }
}

/// Type, shape and bytes of the tensors of a file, by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read_tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let stored = |view: &safetensors::tensor::TensorView<'_>| {
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    };
    file.iter().map(|(name, view)| (name.to_owned(), stored(&view))).collect()
}

/// A fixture's model in a folder of its own, changed; `model.safetensors` and `config.json`.
fn source(
    fixture: &str,
    change: impl FnOnce(&mut Tensors, &mut Value),
) -> (tempfile::TempDir, Tensors) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let mut tensors = read_tensors(&from.join("model.safetensors"));
    let config = std::fs::read(from.join("config.json")).expect("a configuration");
    let mut config = serde_json::from_slice(&config).expect("JSON");
    change(&mut tensors, &mut config);
    let folder = tempfile::tempdir().expect("a folder");
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes);
        (name, view.expect("a tensor"))
    });
    let weights = safetensors::serialize(views, None).expect("serialised");
    durable::write(&folder.path().join("model.safetensors"), &weights).expect("written");
    let config = config.to_string();
    durable::write(&folder.path().join("config.json"), config.as_bytes()).expect("written");
    (folder, tensors)
}

/// The model in `folder`, quantised into a folder of its own.
fn quantized(folder: &Path) -> tempfile::TempDir {
    let target = tempfile::tempdir().expect("a folder");
    std::fs::copy(folder.join("config.json"), target.path().join("config.json")).expect("copied");
    let quantizer = Quantizer::open(folder).expect("a model");
    let steps = std::cell::RefCell::new(Vec::new());
    let path = target.path().join("model.safetensors");
    let written = quantizer.write_nf4(&path, |done, of| steps.borrow_mut().push((done, of)));
    let written = written.expect("written");
    let all = 2 * written.matrices;
    assert_eq!(steps.into_inner(), (1..=all).map(|done| (done, all)).collect::<Vec<_>>());
    let bytes = |folder: &Path| -> usize {
        read_tensors(&folder.join("model.safetensors")).values().map(|(_, _, b)| b.len()).sum()
    };
    assert_eq!((written.bytes_before, written.bytes), (bytes(folder), bytes(target.path())));
    target
}

#[test]
fn a_written_model_trains_as_one_quantised_in_memory() {
    let others = ["albert/model", "distilbert/model", "electra/classifier", "mpnet/model"];
    let both = ["bert/model", "bert/classifier", "roberta/model", "roberta/classifier"];
    for fixture in both.into_iter().chain(others) {
        let (folder, _) = source(fixture, |_, _| {});
        let written = quantized(folder.path());
        let isa = Isa::detect().expect("an instruction set");
        for precision in [Precision::F32, Precision::Bf16] {
            let backend = Cpu::new(isa, precision, Quantization::Nf4);
            let memory = gradients(folder.path(), &backend);
            assert!(gradients(written.path(), &backend) == memory, "{fixture} {precision:?}");
            // Without the setting it is dequantised, which is the same again.
            let dense = Cpu::new(isa, precision, Quantization::None);
            assert!(gradients(written.path(), &dense) == memory, "{fixture} {precision:?}");
            assert!(gradients(folder.path(), &dense) != memory, "{fixture} {precision:?}");
        }
    }
}

#[test]
fn the_encoders_matrices_are_in_4_bits_and_all_else_is_as_it_was() {
    for (fixture, root) in [("bert/model", "bert"), ("roberta/classifier", "roberta")] {
        let (folder, before) = source(fixture, |_, _| {});
        let written = quantized(folder.path());
        let after = read_tensors(&written.path().join("model.safetensors"));
        let checkpoint = Checkpoint::open(written.path()).expect("a checkpoint");
        let mut matrices = 0;
        for (name, (dtype, shape, bytes)) in &before {
            if !(name.contains(".layer.") && shape.len() == 2) {
                assert!(after[name] == (*dtype, shape.clone(), bytes.clone()), "{name}");
                continue;
            }
            matrices += 1;
            let numbers: Vec<f32> =
                bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let stored = checkpoint.get_weight(root, name, shape).expect("a weight");
            let StoredWeight::Nf4(stored) = stored else { panic!("{name} is not in 4 bits") };
            assert!(stored == Nf4Matrix::quantize(&numbers, shape[1], true), "{name}");
            let (dtype, shape, _) = &after[name];
            assert_eq!((*dtype, &shape[..]), (Dtype::U8, &[numbers.len() / 2, 1][..]), "{name}");
        }
        assert_eq!(after.len(), before.len() + 5 * matrices);
        // Each tensor begins where its type may begin; the numbers follow a header of whole words.
        let file = std::fs::read(written.path().join("model.safetensors")).expect("a file");
        let (length, metadata) = SafeTensors::read_metadata(&file).expect("a header");
        assert!(length.is_multiple_of(8));
        for (name, info) in metadata.tensors() {
            assert!((info.data_offsets.0 * 8).is_multiple_of(info.dtype.bitsize()), "{name}");
        }
        let format = metadata.metadata().as_ref().and_then(|all| all.get("format").cloned());
        assert_eq!(format.as_deref(), Some("pt"));
    }
}

/// A checkpoint as they were in 2019: with a language model's head, LayerNorms of gamma and beta, halves.
#[test]
fn old_names_become_those_of_today() {
    let (folder, _) = source("bert/model", |tensors, config| {
        let half = half::f16::from_f32(0.5).to_le_bytes();
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, (_, shape, _))| {
                let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
                let name = format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta"));
                let bytes = half.repeat(shape.iter().product());
                (name, (Dtype::F16, shape, bytes))
            })
            .collect();
        let head = (Dtype::F16, vec![1], half.to_vec());
        tensors.insert("cls.predictions.transform.LayerNorm.beta".to_owned(), head);
        let ids = (Dtype::I64, vec![1], 7i64.to_le_bytes().to_vec());
        tensors.insert("embeddings.position_ids".to_owned(), ids);
        config["architectures"] = serde_json::json!(["BertLMHeadModel"]);
    });
    let written = quantized(folder.path());
    let tensors = read_tensors(&written.path().join("model.safetensors"));
    assert!(tensors.keys().all(|name| name.starts_with("bert.") || name.starts_with("cls.")));
    assert!(!tensors.keys().any(|name| name.contains("gamma") || name.contains("beta")));
    assert_eq!(tensors["bert.embeddings.LayerNorm.weight"].0, Dtype::F16);
    assert_eq!(tensors["cls.predictions.transform.LayerNorm.bias"].0, Dtype::F16);
    assert_eq!(tensors["bert.embeddings.position_ids"].2, 7i64.to_le_bytes());
    // What is dequantised is not rounded to halves, as it would not be in memory.
    let backend = Cpu::new(Isa::Scalar, Precision::F32, Quantization::Nf4);
    assert!(gradients(written.path(), &backend) == gradients(folder.path(), &backend));
    let state = "bert.encoder.layer.0.output.dense.weight.quant_state.bitsandbytes__nf4";
    let state: Value = serde_json::from_slice(&tensors[state].2).expect("JSON");
    assert_eq!((&state["dtype"], &state["shape"]), (&"float32".into(), &vec![40, 72].into()));
}

#[test]
fn models_that_cannot_be_quantised_are_refused() {
    let refused = |folder: &Path| Quantizer::open(folder).expect_err("refused").to_string();
    let query = "encoder.layer.1.attention.self.query.weight";
    let tensor = |name: &str, tensor: Option<(Dtype, Vec<usize>, Vec<u8>)>| {
        let (folder, _) = source("bert/model", |tensors, _| match tensor {
            Some(tensor) => drop(tensors.insert(name.to_owned(), tensor)),
            None => drop(tensors.remove(name)),
        });
        refused(folder.path())
    };
    let one = |x: f32| (Dtype::F32, vec![40, 40], x.to_le_bytes().repeat(1600));
    for (text, part) in [
        (tensor(query, None), "has no tensor `bert.encoder.layer.1.attention.self.query.weight`"),
        (tensor("embeddings.word_embeddings.weight", None), "has no tensor `bert.embeddings.word"),
        (tensor(query, Some(one(f32::NAN))), "holds NaN at index 0"),
        (tensor(query, Some((Dtype::I8, vec![40, 40], vec![0; 1600]))), "is of type I8"),
        (tensor(query, Some((Dtype::U8, vec![800], vec![0; 800]))), "is of type U8"),
        (tensor(&format!("bert.{query}"), Some(one(0.0))), "twice, as bert.encoder.layer.1."),
        (tensor("x.quant_state.bitsandbytes__fp4", Some(one(0.0))), "is quantised already"),
    ] {
        assert!(text.contains(part), "{text}");
    }
    let (folder, _) = source("bert/model", |_, config| {
        config["quantization_config"] = serde_json::json!({"quant_method": "gptq"});
    });
    assert!(refused(folder.path()).contains("quantization_config of gptq"));

    let (folder, _) = source("bert/model", |_, _| {});
    let nowhere = folder.path().join("nowhere/model.safetensors");
    let error = Quantizer::open(folder.path()).expect("a model").write_nf4(&nowhere, |_, _| {});
    assert!(matches!(error, Err(Error::Write(_))), "{error:?}");
}
