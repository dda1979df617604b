//! Gradient checkpointing changes memory, and no bit of the result.

use architectures::{
    Backend, Batch, Config, Cpu, Isa, LoraConfig, Method, Pass, Precision, Quantization,
    SequenceClassifier, TargetKeyword, TargetModules, step_bytes,
};
use std::path::Path;

fn methods() -> [Method; 3] {
    let upper = "1.attention.self.value".to_owned(); // nothing is trained below layer 1
    let targets =
        [TargetModules::Keyword(TargetKeyword::AllLinear), TargetModules::Names(vec![upper])];
    let [all, upper] = targets
        .map(|target_modules| Method::Lora(LoraConfig { target_modules, ..LoraConfig::default() }));
    [Method::Full, all, upper]
}

fn gradients(method: &Method, gradient_checkpointing: bool) -> Vec<Vec<f32>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert/model");
    let backend = Cpu::new(Isa::Scalar, Precision::F32, Quantization::None);
    let mut model = SequenceClassifier::load(&backend, &folder, 2, method, 3).expect("a model");
    model.gradient_checkpointing = gradient_checkpointing;
    let batch = Batch::new(&backend, &[2, 7, 9, 11, 3, 2, 5, 3], &[0, 5, 8]);
    let pass = Pass { dropout: true, seed: 1, step: 0, first_token: 0, first_sequence: 0 };
    let (logits, saved) = model.forward(&backend, &pass, &batch);
    let (_, dlogits) = backend.cross_entropy(&logits, &backend.indices(vec![1, 0]), &[], 2.0);
    model.backward(&backend, &pass, &batch, saved, &dlogits);
    model.parameters.iter().map(|p| backend.download(&p.gradient)).collect()
}

#[test]
fn gradients_are_the_same_to_the_bit() {
    for method in methods() {
        let plain = gradients(&method, false);
        assert!(plain.iter().flatten().any(|&x| x != 0.0));
        assert!(plain == gradients(&method, true), "{method:?}");
    }
}

#[test]
fn memory_is_counted_and_less_with_checkpointing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert/model");
    let [full, ..] = methods();
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
