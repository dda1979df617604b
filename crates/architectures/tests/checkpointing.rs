//! Gradient checkpointing changes memory, and no bit of the result.

use architectures::{
    Backend, Batch, Config, Cpu, Isa, LoraConfig, Method, Pass, Precision, Quantization,
    SequenceClassifier, TargetKeyword, TargetModules, step_bytes,
};
use std::path::Path;

/// Fixtures, of which one shares layers, one adds biases to the scores, one sees windows, one
/// blocks, two normalise the inputs of their layers and three meet positions, with methods; the last
/// trains nothing below layer 1.
fn cases() -> Vec<(&'static str, Method)> {
    let lora =
        |target_modules| Method::Lora(LoraConfig { target_modules, ..LoraConfig::default() });
    let all = lora(TargetModules::Keyword(TargetKeyword::AllLinear));
    let families = [
        "bert/model",
        "albert/model",
        "mpnet/model",
        "longformer/model",
        "big_bird/model",
        "modernbert/model",
        "modernbert_biased/model",
        "deberta/model",
        "deberta_v2/model",
        "deberta_v2_conv/model",
    ];
    let whole = families.map(|family| [(family, Method::Full), (family, all.clone())]);
    let upper = lora(TargetModules::Names(vec!["1.attention.self.value".to_owned()]));
    whole.into_iter().flatten().chain([("bert/model", upper)]).collect()
}

fn gradients(fixture: &str, method: &Method, gradient_checkpointing: bool) -> Vec<Vec<f32>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let backend = Cpu::new(Isa::Scalar, Precision::F32, Quantization::None);
    let mut model = SequenceClassifier::load(&backend, &folder, 2, method, 3).expect("a model");
    model.gradient_checkpointing = gradient_checkpointing;
    let ids: Vec<u32> = (0..43).map(|i| 2 + i * i % 10).collect();
    let batch = Batch::new(&backend, &ids, &[0, 40, 43]);
    let pass = Pass { dropout: true, seed: 1, step: 0, first_token: 0, first_sequence: 0 };
    let (logits, saved) = model.forward(&backend, &pass, &batch);
    let (_, dlogits) = backend.cross_entropy(&logits, &backend.indices(vec![1, 0]), &[], 2.0);
    model.backward(&backend, &pass, &batch, saved, &dlogits);
    model.parameters.iter().map(|p| backend.download(&p.gradient)).collect()
}

#[test]
fn gradients_are_the_same_to_the_bit() {
    for (fixture, method) in cases() {
        let plain = gradients(fixture, &method, false);
        assert!(plain.iter().flatten().any(|&x| x != 0.0));
        assert!(plain == gradients(fixture, &method, true), "{fixture} {method:?}");
    }
}

#[test]
fn memory_is_counted_and_less_with_checkpointing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert/model");
    let full = Method::Full;
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut keys: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    keys["num_hidden_layers"] = 8.into();
    let config = Config::parse(&path, &keys.to_string()).expect("a configuration");
    let bytes = |lengths: Vec<Vec<u32>>, checkpointing| {
        step_bytes(&config, 2, &full, checkpointing, &lengths).expect("counted")
    };
    let (short, long) = (vec![16; 4], vec![16; 64]);
    let shorter = vec![16; 40];
    assert!(bytes(vec![long.clone()], false) > 8 * bytes(vec![short.clone()], false));
    assert!(bytes(vec![long.clone()], true) < bytes(vec![long.clone()], false) / 2);
    // A somewhat shorter batch finds most of the buffers of a long one.
    let (both, one) = (bytes(vec![long.clone(), shorter], false), bytes(vec![long], false));
    assert!(one <= both && both < one + one / 4, "{both} after {one}");
}
