//! Token ids of every text of a file as JSON lines, uncut, for comparison with Transformers:
//! `cargo run -p data --example ids MODEL_FOLDER FILE.jsonl`.

use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file] = arguments.as_slice() else {
        return Err("usage: ids MODEL_FOLDER FILE".into());
    };
    let tokenizer = data::Tokenizer::from_folder(Path::new(folder), usize::MAX)?;
    let texts: Vec<String> =
        data::read_texts(Path::new(file), "text")?.into_iter().map(|(_, text)| text).collect();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for encoded in tokenizer.encode_batch(&texts)? {
        writeln!(out, "{}", serde_json::json!({ "ids": encoded.ids }))?;
    }
    Ok(out.flush()?)
}
