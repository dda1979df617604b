//! `ferrotune predict RUN`: texts in, one JSON line per text out, in order.
//!
//! A line holds `text` (and `row`, from a file), `label` by name, `score` (the label's
//! probability), and `probabilities` of all labels. Of a multi-label model it holds `labels`, those
//! given, instead of the first two. Thresholds that were tuned with the model decide, and are named.

use crate::artifact;
use crate::cli::{Kept, PredictArguments};
use crate::evaluation::{Split, TOKEN_BUDGET, classes_of, logits, probabilities};
use crate::failure::{BeforeStart, Outcome};
use crate::metrics::{self, Classes};
use crate::progress::{Downloads, bar};
use crate::thresholds::Thresholds;
use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Read, Write};

/// Runs the command.
pub fn run(arguments: &PredictArguments) -> Outcome {
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let downloads = Downloads::default();
    let quantization = arguments.quantization.map(Kept::quantization);
    let (loaded, device) = artifact::load(&folder, quantization, &downloads).before_start()?;
    let tokenizer = loaded.tokenizer(&folder).before_start()?;
    let texts = texts(arguments, &loaded.card.text_column).before_start()?;
    let thresholds = Thresholds::read(&folder, &loaded.card).before_start()?;
    let thresholds = thresholds.map_or_else(Vec::new, |thresholds| thresholds.values());
    let classes = classes_of(&loaded.card.labels);
    let names = &loaded.card.labels.names;
    let answers = device.run(|| -> Result<Vec<f32>> {
        let plain: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
        let split = Split::new(tokenizer.encode_batch(&plain)?, Vec::new());
        let bar = bar(texts.len() as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}");
        let mut answers = logits(&loaded.backend, &loaded.model, &split, TOKEN_BUDGET, |rows| {
            bar.inc(rows as u64);
            Ok(())
        })?;
        probabilities(&mut answers, classes);
        bar.finish_and_clear();
        Ok(answers)
    })?;
    let answers = Answers { names, classes, probabilities: answers, thresholds };
    let write = |out: &mut dyn Write| -> std::io::Result<()> {
        for ((row, text), answer) in texts.iter().zip(answers.lines()) {
            let mut line = Map::new();
            line.extend(row.map(|row| ("row".to_owned(), json!(row))));
            line.insert("text".to_owned(), json!(text));
            line.extend(answer);
            writeln!(out, "{}", Value::from(line))?;
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

/// What the model says of all texts.
struct Answers<'a> {
    names: &'a [String],
    classes: Classes,
    /// [N, C]
    probabilities: Vec<f32>,
    thresholds: Vec<f32>,
}

impl Answers<'_> {
    /// What is said of each text.
    fn lines(&self) -> impl Iterator<Item = Map<String, Value>> {
        let answers = metrics::answers(&self.probabilities, self.classes, &self.thresholds);
        let width = self.classes.width();
        self.probabilities.chunks(self.names.len()).enumerate().map(move |(row, probabilities)| {
            let answer = &answers[row * width..][..width];
            self.line(probabilities, answer)
        })
    }

    fn line(&self, probabilities: &[f32], answer: &[u32]) -> Map<String, Value> {
        let by_name = |values: &[f32], first: usize| -> Value {
            let names = &self.names[first..];
            names.iter().zip(values).map(|(name, p)| (name.clone(), json!(p))).collect()
        };
        let mut line = Map::new();
        match self.classes {
            Classes::Binary | Classes::Multi(_) => {
                let label = answer[0] as usize;
                line.insert("label".to_owned(), json!(self.names[label]));
                line.insert("score".to_owned(), json!(probabilities[label]));
            }
            Classes::MultiLabel(_) => {
                let given = self.names.iter().zip(answer).filter(|&(_, &has)| has == 1);
                let given: Vec<&String> = given.map(|(name, _)| name).collect();
                line.insert("labels".to_owned(), json!(given));
            }
        }
        line.insert("probabilities".to_owned(), by_name(probabilities, 0));
        if !self.thresholds.is_empty() {
            let first = self.names.len() - self.thresholds.len();
            line.insert("thresholds".to_owned(), by_name(&self.thresholds, first));
        }
        line
    }
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
