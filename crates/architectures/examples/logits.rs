//! Prints the logits of an adapter on token ids, for comparison with PEFT:
//!
//!     logits BASE_FOLDER ADAPTER_FOLDER LABELS < IDS.jsonl > LOGITS.jsonl
//!
//! Lines are `{"ids": […]}` in, `{"ids": […], "logits": […]}` out. f32 throughout.

use architectures::{Batch, Cpu, Isa, Method, Precision, Quantization, SequenceClassifier, peft};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, adapter, labels] = &arguments[..] else {
        return Err("usage: logits BASE_FOLDER ADAPTER_FOLDER LABELS < IDS.jsonl".into());
    };
    let (base, adapter) = (Path::new(base), Path::new(adapter));
    let backend = Cpu::new(Isa::detect()?, Precision::F32, Quantization::None);
    let method = Method::Lora(peft::read_adapter_config(adapter)?);
    let mut model = SequenceClassifier::load(&backend, base, labels.parse()?, &method, 0)?;
    peft::read_adapter(&backend, &mut model, adapter)?;
    for line in std::io::stdin().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        let ids: Vec<u32> = serde_json::from_value(line["ids"].clone())?;
        let batch = Batch::new(&backend, &ids, &[0, ids.len() as u32]);
        println!("{}", json!({ "ids": ids, "logits": model.predict(&backend, &batch) }));
    }
    Ok(())
}
