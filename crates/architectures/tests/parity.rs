//! Transformers and PEFT as the oracle: logits, loss, every gradient and ten AdamW steps, replayed
//! from fixtures that `tests/parity/fixtures.py` made.
#![expect(clippy::unwrap_used, reason = "tests")]

use architectures::{
    AdamWSettings, Backend, Batch, Checkpoint, Cpu, Isa, LoraConfig, Method, NamedTensor,
    Optimizer, Pass, Precision, Quantization, SentenceEncoder, SequenceClassifier, TargetModules,
    TensorFile, peft,
};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Case {
    name: String,
    family: String,
    checkpoint: String,
    num_labels: usize,
    method: String,
    lora: Option<Lora>,
    class_weights: Option<Vec<f32>>,
    max_grad_norm: Option<f64>,
    lr: f64,
    weight_decay: f64,
    steps: usize,
    sequences: Vec<Vec<u32>>,
    /// Whether passes are those of training, in a model without dropout.
    #[serde(default)]
    training: bool,
    /// A class per sequence, or [`targets`](Case::targets).
    #[serde(default)]
    labels: Vec<u32>,
    /// For any number of labels per sequence: 0 or 1 for each.
    #[serde(default)]
    targets: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Lora {
    r: usize,
    alpha: f64,
    target_modules: TargetModules,
    use_rslora: bool,
}

#[derive(Deserialize)]
struct Adapter {
    name: String,
    family: String,
    base: String,
    adapter: String,
    num_labels: usize,
    sequences: Vec<Vec<u32>>,
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn packed(backend: &Cpu, sequences: &[Vec<u32>]) -> Batch<Cpu> {
    let mut cu_seqlens = vec![0];
    for sequence in sequences {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + sequence.len() as u32);
    }
    Batch::new(backend, &sequences.concat(), &cu_seqlens)
}

/// Largest difference over the largest magnitude.
fn relative(ours: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let scale = expected.iter().fold(1e-7, |m: f32, x| m.max(x.abs()));
    ours.iter().zip(expected).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / scale
}

struct Trial<'a> {
    backend: Cpu,
    case: &'a Case,
    file: TensorFile,
    prefix: &'static str,
    model: SequenceClassifier<Cpu>,
}

impl<'a> Trial<'a> {
    fn new(case: &'a Case, isa: Isa, precision: Precision) -> Trial<'a> {
        let backend = Cpu::new(isa, precision, Quantization::None);
        let (method, prefix) = match &case.lora {
            Some(lora) => {
                let lora = LoraConfig {
                    r: lora.r,
                    alpha: lora.alpha,
                    dropout: 0.0,
                    target_modules: lora.target_modules.clone(),
                    use_rslora: lora.use_rslora,
                };
                (Method::Lora(lora), "base_model.model.")
            }
            None => (Method::Full, ""),
        };
        assert_eq!(case.lora.is_some(), case.method == "lora");
        let folder = fixtures().join(&case.family).join(&case.checkpoint);
        let file =
            TensorFile::open(&fixtures().join(format!("{}.safetensors", case.name))).unwrap();
        let mut model =
            SequenceClassifier::load(&backend, &folder, case.num_labels, &method, 1).unwrap();
        let own: Vec<(String, Vec<f32>)> =
            model.state(&backend).into_iter().map(|t| (t.name.clone(), t.data())).collect();
        model
            .restore::<()>(&backend, |name, _| {
                let given = file.tensor(&format!("init.{prefix}{name}")).unwrap();
                let own = || own.iter().find(|(n, _)| n == name).unwrap().1.clone();
                Ok(given.map_or_else(own, |(_, data)| data))
            })
            .unwrap();
        Trial { backend, case, file, prefix, model }
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        self.file.tensor(name).unwrap().unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Forward and backward over micro-batches of at most `at_a_time` sequences; gradients add up.
    fn gradients(&mut self, at_a_time: usize) -> (f64, Vec<f32>) {
        let Trial { backend, case, model, .. } = self;
        let weights = case.class_weights.clone().unwrap_or_default();
        let targets = case.targets.concat();
        // Numbers per sequence that say what it is.
        let (answers, width) = match targets.as_slice() {
            [] => (&case.labels, 1),
            _ => (&targets, case.num_labels),
        };
        let total = match width {
            1 => answers.iter().map(|&l| weights.get(l as usize).unwrap_or(&1.0)).sum(),
            _ => answers.len() as f32,
        };
        model.parameters.clear_gradients(backend);
        let (mut sum, mut all) = (0.0, Vec::new());
        let at_a_time = at_a_time.min(case.sequences.len());
        let parts = case.sequences.chunks(at_a_time).zip(answers.chunks(at_a_time * width));
        for (sequences, labels) in parts {
            let batch = packed(backend, sequences);
            let pass = Pass { dropout: case.training, ..Pass::evaluation() };
            let (logits, saved) = model.forward(backend, &pass, &batch);
            let labels = backend.indices(labels.to_vec());
            let (loss, dlogits) = match width {
                1 => backend.cross_entropy(&logits, &labels, &weights, total),
                _ => backend.binary_cross_entropy(&logits, &labels, &weights, total),
            };
            sum += loss;
            model.backward(backend, &pass, &batch, saved, &dlogits);
            all.extend(backend.download(&logits));
        }
        (sum / f64::from(total), all)
    }
}

/// Of a layer whose result nobody reads: in PyTorch it has no gradient and is left alone.
fn is_unread(name: &str, family: &str) -> bool {
    name.starts_with("bert.pooler.") && family.starts_with("big_bird")
}

fn check(case: &Case, isa: Isa, at_a_time: usize) {
    let mut trial = Trial::new(case, isa, Precision::F32);
    let (loss, logits) = trial.gradients(at_a_time);
    let at = format!("{} {isa} by {at_a_time}", case.name);
    let error = relative(&logits, &trial.expected("logits"));
    assert!(error <= 1e-4, "{at}: logits {error}");
    let error = relative(&[loss as f32], &trial.expected("loss"));
    assert!(error <= 1e-4, "{at}: loss {error}");
    assert!(trial.model.parameters.count() > 0);
    let largest = trial
        .model
        .parameters
        .iter()
        .filter(|p| !is_unread(&p.name, &case.family))
        .map(|p| trial.expected(&format!("grad.{}{}", trial.prefix, p.name)))
        .fold(0.0, |m: f32, g| g.iter().fold(m, |m, x| m.max(x.abs())));
    for parameter in trial.model.parameters.iter() {
        let ours = trial.backend.download(&parameter.gradient);
        if is_unread(&parameter.name, &case.family) {
            assert!(ours.iter().all(|&x| x == 0.0), "{at}: {}", parameter.name);
            continue;
        }
        let expected = trial.expected(&format!("grad.{}{}", trial.prefix, parameter.name));
        // A gradient that is zero but for rounding (a key's bias) is compared on the whole scale.
        let negligible = expected.iter().all(|x| x.abs() < 1e-5 * largest);
        let error = if negligible {
            ours.iter().zip(&expected).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / largest
        } else {
            relative(&ours, &expected)
        };
        assert!(error <= 1e-4, "{at}: gradient of {} {error}", parameter.name);
    }

    let settings = AdamWSettings {
        weight_decay: case.weight_decay,
        max_grad_norm: case.max_grad_norm,
        ..AdamWSettings::default()
    };
    let mut optimizer = Optimizer::new(&trial.backend, &trial.model.parameters, settings);
    let mut losses = Vec::new();
    for _ in 0..case.steps {
        losses.push(trial.gradients(at_a_time).0 as f32);
        optimizer.step(&trial.backend, &mut trial.model.parameters, case.lr);
    }
    let error = relative(&losses, &trial.expected("losses"));
    assert!(error <= 1e-4, "{at}: losses {losses:?} {error}");
    for tensor in trial.model.state(&trial.backend) {
        let (ours, NamedTensor { name, shape, .. }) = (tensor.data(), tensor);
        // Adam turns the rounding noise of a key bias's zero gradient into full steps.
        if ["key.bias", "key_global.bias", "k_lin.bias", "attn.k.bias", "pos_key_proj.bias"]
            .iter()
            .any(|key| name.ends_with(key))
            || is_unread(&name, &case.family)
        {
            continue;
        }
        let file = trial.file.tensor(&format!("final.{}{name}", trial.prefix)).unwrap().unwrap();
        assert_eq!(file.0, shape);
        let error = relative(&ours, &file.1);
        assert!(error <= 1e-4, "{at}: {name} after {} steps {error}", case.steps);
    }
}

/// Families whose cases are run side by side: each list by a test of its own.
const FAMILIES: [&[&str]; 9] = [
    &["albert", "electra"],
    &["bert"],
    &["camembert", "roberta", "xlm_roberta"],
    &["distilbert", "mpnet"],
    &["longformer"],
    &["modernbert", "modernbert_biased"],
    &["big_bird", "big_bird_dense", "big_bird_long"],
    &["deberta", "deberta_c2p"],
    &["deberta_v2", "deberta_v2_conv", "deberta_v2_p2c"],
];

/// All cases of some families, on every instruction set.
fn check_all(families: &[&str]) {
    let cases: Vec<Case> = json("cases.json");
    let cases = || cases.iter().filter(|case| families.contains(&case.family.as_str()));
    assert!(cases().count() >= 4, "{families:?}");
    for case in cases() {
        for isa in available() {
            check(case, isa, usize::MAX);
        }
        check(case, Isa::detect().unwrap(), 2);
    }
}

#[test]
fn albert_and_electra_match_on_every_instruction_set() {
    check_all(FAMILIES[0]);
}

#[test]
fn bert_matches_on_every_instruction_set() {
    check_all(FAMILIES[1]);
}

#[test]
fn roberta_and_its_kin_match_on_every_instruction_set() {
    check_all(FAMILIES[2]);
}

#[test]
fn distilbert_and_mpnet_match_on_every_instruction_set() {
    check_all(FAMILIES[3]);
}

#[test]
fn longformer_matches_on_every_instruction_set() {
    check_all(FAMILIES[4]);
}

#[test]
fn modernbert_matches_on_every_instruction_set() {
    check_all(FAMILIES[5]);
}

#[test]
fn big_bird_matches_on_every_instruction_set() {
    check_all(FAMILIES[6]);
}

#[test]
fn deberta_matches_on_every_instruction_set() {
    check_all(FAMILIES[7]);
}

#[test]
fn deberta_v2_matches_on_every_instruction_set() {
    check_all(FAMILIES[8]);
}

#[test]
fn no_case_is_left_out() {
    let cases: Vec<Case> = json("cases.json");
    let families: BTreeSet<&str> = cases.iter().map(|case| case.family.as_str()).collect();
    assert_eq!(families, FAMILIES.into_iter().flatten().copied().collect());
}

#[test]
fn bf16_stays_close_to_f32() {
    let cases: Vec<Case> = json("cases.json");
    for case in &cases {
        for isa in available() {
            let mut trial = Trial::new(case, isa, Precision::Bf16);
            let (_, logits) = trial.gradients(usize::MAX);
            let error = relative(&logits, &trial.expected("logits"));
            assert!(error > 0.0 && error <= 5e-2, "{} {isa}: {error}", case.name);
        }
    }
}

#[test]
fn adapters_written_by_peft_load_and_ours_read_back() {
    let adapters: Vec<Adapter> = json("adapters.json");
    assert_eq!(adapters.len(), 19);
    for case in &adapters {
        let backend = Cpu::new(Isa::detect().unwrap(), Precision::F32, Quantization::None);
        let (base, adapter) = (
            fixtures().join(&case.family).join(&case.base),
            fixtures().join(&case.family).join(&case.adapter),
        );
        let lora = peft::read_adapter_config(&adapter).unwrap();
        let method = Method::Lora(lora.clone());
        let load = |folder: &std::path::Path| {
            let mut model =
                SequenceClassifier::load(&backend, &base, case.num_labels, &method, 7).unwrap();
            peft::read_adapter(&backend, &mut model, folder).unwrap();
            model
        };
        let model = load(&adapter);
        let logits = model.predict(&backend, &packed(&backend, &case.sequences));
        let file =
            TensorFile::open(&fixtures().join(format!("{}.safetensors", case.name))).unwrap();
        let error = relative(&logits, &file.tensor("logits").unwrap().unwrap().1);
        assert!(error <= 1e-4, "{}: {error}", case.name);

        let written = tempfile::tempdir().unwrap();
        peft::write_adapter(&backend, &model, &lora, "base", written.path()).unwrap();
        assert_eq!(peft::read_adapter_config(written.path()).unwrap(), lora);
        let again = load(written.path()).predict(&backend, &packed(&backend, &case.sequences));
        assert_eq!(logits, again);
        let names = |folder: &std::path::Path| {
            TensorFile::open(&folder.join(peft::ADAPTER_WEIGHTS)).unwrap().names().unwrap()
        };
        assert_eq!(names(&adapter), names(written.path()), "PEFT's names and ours");
    }
}

#[test]
fn a_checkpoint_lists_what_it_lacks() {
    let backend = Cpu::new(Isa::Scalar, Precision::F32, Quantization::None);
    let folder = fixtures().join("bert/model");
    assert!(Checkpoint::open(&folder).is_ok());
    let model = SequenceClassifier::load(&backend, &folder, 2, &Method::Full, 1).unwrap();
    assert_eq!(model.newly_initialised, ["classifier.weight", "classifier.bias"]);
    let folder = fixtures().join("roberta/classifier");
    // Made for three labels; with two, the last layer is new and the dense layer is kept.
    let model = SequenceClassifier::load(&backend, &folder, 2, &Method::Full, 1).unwrap();
    assert_eq!(model.newly_initialised, ["classifier.out_proj.weight", "classifier.out_proj.bias"]);
}

#[test]
fn sentence_embeddings_are_those_of_transformers() {
    let adapters: Vec<Adapter> = json("adapters.json");
    let means = TensorFile::open(&fixtures().join("embeddings.safetensors")).unwrap();
    let families = means.names().unwrap();
    assert!(families.len() >= 8, "{families:?}");
    for family in families {
        let case = adapters.iter().find(|adapter| adapter.family == family).unwrap();
        let expected = means.tensor(&family).unwrap().unwrap().1;
        for isa in available() {
            let backend = Cpu::new(isa, Precision::F32, Quantization::None);
            let folder = fixtures().join(&family).join(&case.base);
            let model = SentenceEncoder::load(&backend, &folder).unwrap();
            let packed = model.embed(&backend, &packed(&backend, &case.sequences));
            let error = relative(&packed, &expected);
            assert!(error <= 1e-4, "{family} {isa}: {error}");
        }
    }
}
