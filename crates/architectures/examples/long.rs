//! Time and memory of one sequence, forward and backward, as it grows:
//!
//!     long [longformer | big_bird | full] [32-true | bf16-mixed] [TOKENS…]
//!
//! The shapes are those of `allenai/longformer-base-4096` and `google/bigbird-roberta-base`; `full` is
//! the latter with full attention. Weights are random; LoRA (r 8, query and value) is trained, with
//! dropout. One short step comes first and is not counted. Processor time is that of all threads, and
//! says more than the clock where others use the machine; memory is what a step takes beyond the model.
//! Linux alone tells both.

use architectures::{
    Backend, Batch, Checkpoint, Config, Cpu, Isa, LoraConfig, Method, Pass, Precision,
    Quantization, SequenceClassifier, Threads, step_bytes,
};
use serde_json::json;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

const LENGTHS: [u32; 4] = [512, 1024, 2048, 4096];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str);
    let network = arguments.next().unwrap_or("longformer");
    let precision = arguments.next().unwrap_or("bf16-mixed");
    let lengths = arguments.map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let lengths = if lengths.is_empty() { LENGTHS.to_vec() } else { lengths };
    let precision = match precision {
        "32-true" => Precision::F32,
        "bf16-mixed" => Precision::Bf16,
        other => return Err(format!("no precision `{other}`").into()),
    };
    Threads::new(None)?.run(|| measure(network, precision, &lengths))
}

fn measure(network: &str, precision: Precision, lengths: &[u32]) -> Result<(), Box<dyn Error>> {
    let config = config(network)?;
    let isa = Isa::detect()?;
    // Each step has a machine of its own, so that it does not find the memory of the one before.
    let machine = || Cpu::new(isa, precision, Quantization::None);
    let method = Method::Lora(LoraConfig::default());
    let weights = Checkpoint::random(1);
    let mut model = SequenceClassifier::build(&machine(), config.clone(), &weights, 2, &method, 1)?;
    println!("{network}, {precision:?}, {isa}; the model takes {}", mebibytes(kilobytes("VmRSS:")));
    println!("tokens    seconds   processor   per token      memory   predicted");
    step(&mut model, &machine(), 512);
    for &length in lengths {
        forget_peak();
        let before = kilobytes("VmRSS:");
        let (start, used) = (Instant::now(), processor_seconds());
        step(&mut model, &machine(), length);
        let seconds = start.elapsed().as_secs_f64();
        let beyond = kilobytes("VmHWM:").zip(before).map(|(peak, before)| peak - before);
        let predicted = step_bytes(&config, 2, &method, false, &[vec![length]])? as u64 >> 10;
        let used = processor_seconds().zip(used).map_or(f64::NAN, |(now, used)| now - used);
        let each = format!("{:.2} ms", 1e3 * used / f64::from(length));
        let (beyond, predicted) = (mebibytes(beyond), mebibytes(Some(predicted)));
        println!("{length:6} {seconds:10.2} {used:11.2} {each:>11} {beyond:>11} {predicted:>11}");
    }
    Ok(())
}

/// Forward and backward of one sequence.
fn step(model: &mut SequenceClassifier<Cpu>, backend: &Cpu, length: u32) {
    let ids: Vec<u32> = (0..length).map(|i| 5 + i * 7919 % 30_000).collect();
    let batch = Batch::new(backend, &ids, &[0, length]);
    let pass = Pass { dropout: true, ..Pass::evaluation() };
    model.parameters.clear_gradients(backend);
    let (logits, saved) = model.forward(backend, &pass, &batch);
    let (_, dlogits) = backend.cross_entropy(&logits, &backend.indices(vec![1]), &[], 1.0);
    model.backward(backend, &pass, &batch, saved, &dlogits);
}

fn config(network: &str) -> Result<Config, Box<dyn Error>> {
    let mut keys = json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072,
    });
    let own = match network {
        "longformer" => json!({
            "model_type": "longformer", "vocab_size": 50265, "max_position_embeddings": 4098,
            "pad_token_id": 1, "type_vocab_size": 1, "attention_window": 512,
            "layer_norm_eps": 1e-5,
        }),
        "big_bird" | "full" => json!({
            "model_type": "big_bird", "vocab_size": 50358, "max_position_embeddings": 4096,
            "type_vocab_size": 2, "block_size": 64, "num_random_blocks": 3,
            "attention_type": if network == "full" { "original_full" } else { "block_sparse" },
        }),
        other => return Err(format!("no network `{other}`").into()),
    };
    let own = own.as_object().cloned().unwrap_or_default();
    keys.as_object_mut().expect("an object").extend(own);
    Ok(Config::parse(Path::new("config.json"), &keys.to_string())?)
}

/// A line of what the system tells of this process.
fn kilobytes(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What all threads have had, in user and system mode.
fn processor_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold anything: state, ten numbers, both times.
    let numbers = text.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks = numbers.map(str::parse::<u64>).sum::<Result<u64, _>>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// Lets VmHWM begin anew; where the system does not, peaks are those since the start.
#[expect(clippy::disallowed_methods, reason = "no file, but a switch of the kernel's")]
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn mebibytes(kilobytes: Option<u64>) -> String {
    kilobytes.map_or("?".to_owned(), |kilobytes| format!("{} MiB", kilobytes >> 10))
}
