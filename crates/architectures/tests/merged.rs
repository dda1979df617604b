//! Adapters that PEFT wrote, merged: the logits are PEFT's, the names those of Transformers' class;
//! and with frozen weights in few bits, what the unmerged network answers.
#![expect(clippy::unwrap_used, reason = "tests")]

use architectures::{
    Batch, Checkpoint, Config, Cpu, Isa, Merged, Method, NamedTensor, Precision, Quantization,
    SequenceClassifier, TensorFile, peft, write_tensors,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Adapter {
    name: String,
    family: String,
    base: String,
    adapter: String,
    num_labels: usize,
    sequences: Vec<Vec<u32>>,
}

impl Adapter {
    fn all() -> Vec<Adapter> {
        let text = std::fs::read_to_string(fixtures().join("adapters.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn base(&self) -> PathBuf {
        fixtures().join(&self.family).join(&self.base)
    }

    fn folder(&self) -> PathBuf {
        fixtures().join(&self.family).join(&self.adapter)
    }

    fn merged(&self, quantization: Quantization) -> Merged {
        self.merged_onto(&self.base(), quantization)
    }

    fn merged_onto(&self, base: &Path, quantization: Quantization) -> Merged {
        let (config, isa) = (Config::read(base).unwrap(), Isa::detect().unwrap());
        let folder = self.folder();
        Merged::open(config, &folder, Some(base), self.num_labels, quantization, isa).unwrap()
    }

    fn logits(&self, backend: &Cpu, model: &SequenceClassifier<Cpu>) -> Vec<f32> {
        let mut cu_seqlens = vec![0];
        for sequence in &self.sequences {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + sequence.len() as u32);
        }
        model.predict(backend, &Batch::new(backend, &self.sequences.concat(), &cu_seqlens))
    }

    /// The logits of what `merged` writes.
    fn written_logits(&self, merged: &Merged) -> Vec<f32> {
        let folder = tempfile::tempdir().unwrap();
        merged.write(&folder.path().join("model.safetensors"), |_, _| ()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let (config, method) = (merged.config.clone(), Method::Full);
        let backend = backend(Quantization::None);
        let labels = self.num_labels;
        let model = SequenceClassifier::build(&backend, config, &checkpoint, labels, &method, 1);
        let model = model.unwrap();
        assert!(model.newly_initialised.is_empty(), "{:?}", model.newly_initialised);
        self.logits(&backend, &model)
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn backend(quantization: Quantization) -> Cpu {
    Cpu::new(Isa::detect().unwrap(), Precision::F32, quantization)
}

#[track_caller]
fn assert_close(name: &str, ours: &[f32], expected: &[f32], limit: f32) {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-7, |m: f32, x| m.max(x.abs()));
    let error = ours.iter().zip(expected).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / scale;
    assert!(error <= limit, "{name}: {error}");
}

#[test]
fn the_logits_are_those_of_peft() {
    for case in Adapter::all() {
        let logits = case.written_logits(&case.merged(Quantization::None));
        let file =
            TensorFile::open(&fixtures().join(format!("{}.safetensors", case.name))).unwrap();
        assert_close(&case.name, &logits, &file.tensor("logits").unwrap().unwrap().1, 1e-4);
    }
}

#[test]
fn with_frozen_weights_in_few_bits_the_logits_are_those_of_the_network_that_was_trained() {
    for case in Adapter::all() {
        // In 8 bits products round what they multiply as well, which no checkpoint holds.
        for (quantization, limit) in [(Quantization::Nf4, 1e-4), (Quantization::Int8, 0.2)] {
            let backend = backend(quantization);
            let method = Method::Lora(peft::read_adapter_config(&case.folder()).unwrap());
            let (base, labels) = (case.base(), case.num_labels);
            let mut model = SequenceClassifier::load(&backend, &base, labels, &method, 1).unwrap();
            peft::read_adapter(&backend, &mut model, &case.folder()).unwrap();
            let expected = case.logits(&backend, &model);
            let logits = case.written_logits(&case.merged(quantization));
            assert_close(&case.name, &logits, &expected, limit);
        }
    }
}

/// The fixtures' classifiers were saved by Transformers' own classes.
#[test]
fn names_and_shapes_are_those_of_transformers() {
    let mut compared = 0;
    for case in Adapter::all() {
        let folder = fixtures().join(&case.family).join("classifier");
        if !folder.is_dir() {
            continue;
        }
        let theirs = TensorFile::open(&folder.join("model.safetensors")).unwrap();
        let mut names = theirs.names().unwrap();
        let config = Config::read(&folder).unwrap();
        let isa = Isa::detect().unwrap();
        let merged =
            Merged::open(config, &folder, None, case.num_labels, Quantization::None, isa).unwrap();
        let written = tempfile::tempdir().unwrap();
        merged.write(&written.path().join("model.safetensors"), |_, _| ()).unwrap();
        let written = TensorFile::open(&written.path().join("model.safetensors")).unwrap();
        let mut ours = written.names().unwrap();
        ours.sort();
        names.sort();
        assert_eq!(ours, names, "{}", case.family);
        for name in names {
            assert_eq!(written.tensor(&name).unwrap(), theirs.tensor(&name).unwrap(), "{name}");
        }
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}

/// Transformers' BigBird classifier has a pooler that nothing reads, and publishers leave it out.
#[test]
fn what_nobody_reads_may_be_missing_in_the_base_and_is_zero() {
    for case in Adapter::all().into_iter().filter(|case| case.family.starts_with("big_bird")) {
        let base = tempfile::tempdir().unwrap();
        let whole = TensorFile::open(&case.base().join("model.safetensors")).unwrap();
        let names = whole.names().unwrap();
        let kept = names.iter().filter(|name| !name.contains("pooler")).map(|name| {
            let (shape, data) = whole.tensor(name).unwrap().unwrap();
            NamedTensor::new(name.clone(), shape, move || data.clone())
        });
        let kept: Vec<NamedTensor> = kept.collect();
        assert_eq!(kept.len() + 2, names.len());
        write_tensors(&base.path().join("model.safetensors"), kept).unwrap();
        let config = std::fs::read(case.base().join("config.json")).unwrap();
        durable::write(&base.path().join("config.json"), &config).unwrap();

        let merged = case.merged_onto(base.path(), Quantization::None);
        assert_eq!(merged.tensors(), case.merged(Quantization::None).tensors());
        let mut tensors = merged.tensors().iter();
        let (name, shape) = tensors.find(|(name, _)| name == "bert.pooler.bias").unwrap();
        assert!(merged.tensor(name, shape).unwrap().iter().all(|&x| x == 0.0));
        let file =
            TensorFile::open(&fixtures().join(format!("{}.safetensors", case.name))).unwrap();
        let expected = file.tensor("logits").unwrap().unwrap().1;
        assert_close(&case.name, &case.written_logits(&merged), &expected, 1e-4);
    }
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let cases = Adapter::all();
    let named = |family: &str| cases.iter().find(|case| case.family == family).unwrap();
    let open = |folder: &Path, base: &Path, labels| {
        let config = Config::read(base).unwrap();
        let isa = Isa::detect().unwrap();
        let merged = Merged::open(config, folder, Some(base), labels, Quantization::None, isa);
        merged.unwrap_err().to_string()
    };
    let (bert, roberta) = (named("bert"), named("roberta"));
    let error = open(&bert.folder(), &roberta.base(), 3);
    assert!(error.contains("belongs to no part of this model"), "{error}");
    let error = open(&bert.folder(), &bert.base(), 2);
    assert!(error.contains("has shape [3, 40], expected [2, 40]"), "{error}");
}
