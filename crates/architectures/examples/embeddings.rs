//! Prints sentence embeddings, for comparison with Transformers:
//!
//!     embeddings MODEL_FOLDER < IDS.jsonl > EMBEDDINGS.jsonl
//!
//! Lines are `{"ids": […]}` in, `{"ids": […], "embedding": […]}` out: the mean of the last vectors, scaled
//! to length 1. f32 throughout.

use architectures::{Batch, Cpu, Isa, Precision, Quantization, SentenceEncoder};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        return Err("usage: embeddings MODEL_FOLDER < IDS.jsonl".into());
    };
    let backend = Cpu::new(Isa::detect()?, Precision::F32, Quantization::None);
    let model = SentenceEncoder::load(&backend, Path::new(folder))?;
    for line in std::io::stdin().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        let ids: Vec<u32> = serde_json::from_value(line["ids"].clone())?;
        let batch = Batch::new(&backend, &ids, &[0, ids.len() as u32]);
        let mut embedding = model.embed(&backend, &batch);
        let norm = embedding.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        embedding.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        println!("{}", json!({ "ids": ids, "embedding": embedding }));
    }
    Ok(())
}
