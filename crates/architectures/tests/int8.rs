//! Products of 8-bit integers against bitsandbytes' LLM.int8() on the CPU, and networks that are
//! computed with them against the same in f32.

use architectures::{
    Backend, Batch, Cpu, Isa, LoraConfig, Method, Pass, Precision, Quantization,
    SequenceClassifier, TensorFile,
};
use kernels::{Epilogue, Int8Matrix, Matrix, QuantizedMatrix, Right, gemm};
use std::path::{Path, PathBuf};

const CASES: [&str; 3] = ["plain", "outliers", "wide"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn tensor(name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = TensorFile::open(&fixtures().join("int8/int8.safetensors")).expect("the fixture");
    file.tensor(name).expect("readable").expect("there")
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Largest difference over the largest magnitude.
fn relative(ours: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-7, |m: f32, x| m.max(x.abs()));
    ours.iter().zip(expected).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn weights_have_bitsandbytes_codes_and_magnitudes() {
    for (case, isa) in CASES.into_iter().flat_map(|case| available().map(move |isa| (case, isa))) {
        let (shape, weight) = tensor(&format!("{case}.weight"));
        let (codes, absmax) =
            (tensor(&format!("{case}.codes")).1, tensor(&format!("{case}.absmax")).1);
        let ours = QuantizedMatrix::Int8(Int8Matrix::quantize(isa, &weight, shape[1])).to_dense();
        for (i, (x, code)) in ours.into_iter().zip(codes).enumerate() {
            assert_eq!(x, code * (absmax[i / shape[1]] / 127.0), "{isa} {case} at {i}");
        }
    }
}

/// A row's result is bitsandbytes' for that row alone, but for rounding. It takes a column with an
/// outlier in one row as one of outliers for all rows: that is another rounding to integers.
#[test]
fn products_are_bitsandbytes() {
    for (case, isa) in CASES.into_iter().flat_map(|case| available().map(move |isa| (case, isa))) {
        let [(shape, x), (of_weight, weight), (_, bias), (_, alone), (_, together)] =
            ["x", "weight", "bias", "alone", "together"]
                .map(|key| tensor(&format!("{case}.{key}")));
        let weight = QuantizedMatrix::Int8(Int8Matrix::quantize(isa, &weight, shape[1]));
        let right =
            Right::Quantized { weight: &weight, transposed: true, precision: Precision::F32 };
        let mut y = vec![0.0; shape[0] * of_weight[0]];
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
        gemm(isa, Matrix::new(&x, shape[0], shape[1]), right, &mut y, epilogue);
        // Their 1/127² is 1.000018 times what it should be.
        assert!(relative(&y, &alone) < 2.5e-5, "{isa} {case}: {:e}", relative(&y, &alone));
        assert!(relative(&y, &together) < 0.01, "{isa} {case}: {}", relative(&y, &together));
        if case == "plain" {
            assert_eq!(alone, together, "there are no outliers");
        }
    }
}

const LENGTHS: [u32; 4] = [11, 3, 16, 7];

fn batch(backend: &Cpu, first: usize, lengths: &[u32]) -> Batch<Cpu> {
    let mut cu_seqlens = vec![0];
    cu_seqlens.extend(lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    let before: u32 = LENGTHS[..first].iter().sum();
    let tokens = before..before + lengths.iter().sum::<u32>();
    let ids: Vec<u32> = tokens.map(|i| 2 + i * 7 % 40).collect();
    Batch::new(backend, &ids, &cu_seqlens)
}

/// A model with an adapter that is not 0.
fn model(backend: &Cpu, family: &str) -> SequenceClassifier<Cpu> {
    let method = Method::Lora(LoraConfig::default());
    let folder = fixtures().join(family).join("model");
    let mut model = SequenceClassifier::load(backend, &folder, 2, &method, 3).expect("a model");
    let started = model.restore::<()>(backend, |name, shape| {
        let size = shape.iter().product::<usize>();
        Ok((0..size).map(|i| ((i + name.len()) % 7) as f32 * 0.02 - 0.06).collect())
    });
    assert_eq!(started, Ok(()));
    model
}

/// Logits, and all gradients as one vector.
fn step(backend: &Cpu, family: &str) -> (Vec<f32>, Vec<f32>) {
    let mut model = model(backend, family);
    let batch = batch(backend, 0, &LENGTHS);
    let pass = Pass { dropout: false, ..Pass::evaluation() };
    let (logits, saved) = model.forward(backend, &pass, &batch);
    let labels = backend.indices(vec![1, 0, 0, 1]);
    let (_, dlogits) = backend.cross_entropy(&logits, &labels, &[], 4.0);
    model.backward(backend, &pass, &batch, saved, &dlogits);
    let gradients = model.parameters.iter().flat_map(|p| backend.download(&p.gradient)).collect();
    (backend.download(&logits), gradients)
}

/// The cosine of the angle between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// These networks are tiny: their vectors of 32 numbers average less of the rounding out than those
/// of pretrained ones.
#[test]
fn logits_and_gradients_stay_near_those_of_f32() {
    for family in ["albert", "bert", "distilbert", "roberta"] {
        for isa in available() {
            let backend = |precision, quantization| Cpu::new(isa, precision, quantization);
            let (logits, gradients) = step(&backend(Precision::F32, Quantization::None), family);
            for precision in [Precision::F32, Precision::Bf16] {
                let ours = step(&backend(precision, Quantization::Int8), family);
                let off = relative(&ours.0, &logits);
                assert!(off > 0.0 && off < 0.03, "{family} {isa} {precision:?}: {off}");
                let cosine = cosine(&ours.1, &gradients);
                assert!(cosine > 0.98, "{family} {isa} {precision:?}: {cosine}");
            }
        }
    }
}

/// To the bit: which numbers are outliers is decided row by row.
#[test]
fn an_answer_does_not_depend_on_the_texts_beside_it() {
    for isa in available() {
        let backend = Cpu::new(isa, Precision::F32, Quantization::Int8);
        let model = model(&backend, "roberta");
        let whole = model.predict(&backend, &batch(&backend, 0, &LENGTHS));
        for first in 0..LENGTHS.len() {
            let alone = batch(&backend, first, &LENGTHS[first..=first]);
            let alone = model.predict(&backend, &alone);
            assert_eq!(alone, whole[2 * first..][..2], "{isa} {first}");
        }
    }
}
