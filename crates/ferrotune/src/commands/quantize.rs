//! `ferrotune quantize MODEL --output FOLDER`: a pretrained model written anew with its encoder in
//! 4 bits, as bitsandbytes stores it.
//!
//! The folder appears whole or not at all, and takes the place of nothing that is there.

use crate::artifact::{self, Base, CARD};
use crate::cli::QuantizeArguments;
use crate::failure::{BeforeStart, Outcome};
use crate::progress::{Downloads, bar, tell};
use anyhow::Result;
use architectures::{Quantized, Quantizer, quantization_config};
use data::TOKENIZER_FILES;
use serde_json::{Map, Value};
use std::path::Path;

/// Runs the command.
pub fn run(arguments: &QuantizeArguments) -> Outcome {
    let output = std::path::absolute(&arguments.output).before_start()?;
    durable::refuse_content(&output).before_start()?;
    let base = Base::find(&arguments.model, &Downloads::default()).before_start()?;
    let quantizer = Quantizer::open(&base.folder).before_start()?;
    let quantized = durable::new_folder(&output, |folder| write(&base.folder, &quantizer, folder))?;
    let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    tell(format_args!(
        "{}: {} matrices of {} numbers in 4 bits; {:.1} MiB of weights instead of {:.1}",
        base.pinned,
        quantized.matrices,
        quantized.numbers,
        mebibytes(quantized.bytes),
        mebibytes(quantized.bytes_before)
    ));
    tell(format_args!("written: {}", output.display()));
    Ok(())
}

fn write(source: &Path, quantizer: &Quantizer, folder: &Path) -> Result<Quantized> {
    let bar = bar(0, "quantising {wide_bar} {percent} %  ETA {eta}");
    let quantized = quantizer.write_nf4(&folder.join("model.safetensors"), |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let mut config: Map<String, Value> = artifact::read_json(&source.join("config.json"))?;
    config.insert("quantization_config".to_owned(), quantization_config());
    artifact::write_json(&folder.join("config.json"), &config)?;
    // A classifier fine-tuned in full stays one that `predict` and `test` know.
    artifact::copy_files(source, folder, &TOKENIZER_FILES)?;
    artifact::copy_files(source, folder, &[CARD])?;
    Ok(quantized)
}
