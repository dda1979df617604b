//! Writes the weights of a model folder as f32, those stored in 4 bits as we dequantise them, for
//! comparison with bitsandbytes:
//!
//!     dequantized FOLDER OUT.safetensors

use architectures::{Cpu, Isa, Method, Precision, Quantization, SequenceClassifier, write_tensors};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out] = &arguments[..] else {
        return Err("usage: dequantized FOLDER OUT.safetensors".into());
    };
    let backend = Cpu::new(Isa::detect()?, Precision::F32, Quantization::None);
    // The number of labels matters to the head alone, which is never in 4 bits.
    let model = SequenceClassifier::load(&backend, Path::new(folder), 2, &Method::Full, 0)?;
    write_tensors(Path::new(out), model.state(&backend))?;
    Ok(())
}
