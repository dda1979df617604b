//! `ferrotune predict RUN`: texts in, one JSON line per text out, in order.
//!
//! A line holds `text` (and `row`, from a file), `label` by name, `score` (the label's
//! probability), and `probabilities` of all labels.

use crate::artifact;
use crate::cli::PredictArguments;
use crate::evaluation::{Split, TOKEN_BUDGET, logits, predicted, softmax};
use crate::failure::{BeforeStart, Outcome};
use crate::progress::{Downloads, bar};
use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Read, Write};

/// Runs the command.
pub fn run(arguments: &PredictArguments) -> Outcome {
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let downloads = Downloads::default();
    let (loaded, device) = artifact::load(&folder, &downloads).before_start()?;
    let tokenizer = loaded.tokenizer(&folder).before_start()?;
    let texts = texts(arguments, &loaded.card.text_column).before_start()?;
    let names = &loaded.card.labels.names;
    let answers = device.run(|| -> Result<Vec<f32>> {
        let plain: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
        let split = Split::new(tokenizer.encode_batch(&plain)?, Vec::new());
        let bar = bar(texts.len() as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}");
        let mut answers = logits(&loaded.backend, &loaded.model, &split, TOKEN_BUDGET, |rows| {
            bar.inc(rows as u64);
            Ok(())
        })?;
        softmax(&mut answers, names.len());
        bar.finish_and_clear();
        Ok(answers)
    })?;
    let write = |out: &mut dyn Write| -> std::io::Result<()> {
        for ((row, text), probabilities) in texts.iter().zip(answers.chunks(names.len())) {
            writeln!(out, "{}", line(*row, text, names, probabilities))?;
        }
        out.flush()
    };
    match &arguments.output {
        // A pipe, a device or a link is written through; renaming a file over it would replace it.
        Some(path) if path.symlink_metadata().is_ok_and(|what| !what.is_file()) => {
            let open = std::fs::File::options().write(true).truncate(true).open(path);
            let file = open.with_context(|| format!("cannot open {}", path.display()))?;
            write(&mut BufWriter::new(file))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Some(path) => durable::write_with(path, write)?,
        None => match write(&mut BufWriter::new(std::io::stdout().lock())) {
            // Whoever read us has had enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.context("cannot write to standard output")?,
        },
    }
    Ok(())
}

fn line(row: Option<usize>, text: &str, names: &[String], probabilities: &[f32]) -> Value {
    let label = predicted(probabilities);
    let all: Map<String, Value> =
        names.iter().zip(probabilities).map(|(name, p)| (name.clone(), json!(p))).collect();
    let mut line = Map::new();
    line.extend(row.map(|row| ("row".to_owned(), json!(row))));
    line.insert("text".to_owned(), json!(text));
    line.insert("label".to_owned(), json!(names[label]));
    line.insert("score".to_owned(), json!(probabilities[label]));
    line.insert("probabilities".to_owned(), all.into());
    line.into()
}

/// Texts with their row in the file, if they come from one.
fn texts(arguments: &PredictArguments, column: &str) -> Result<Vec<(Option<usize>, String)>> {
    if let Some(file) = &arguments.file {
        let column = arguments.text_column.as_deref().unwrap_or(column);
        let rows = data::read_texts(file, column)?;
        return Ok(rows.into_iter().map(|(row, text)| (Some(row), text)).collect());
    }
    if !arguments.texts.is_empty() {
        return Ok(arguments.texts.iter().map(|text| (None, text.clone())).collect());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    let input = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        anyhow!("line {line} of standard input is not UTF-8 text")
    })?;
    Ok(input.lines().map(|line| (None, line.to_owned())).collect())
}
