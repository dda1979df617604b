//! `ferrotune predict RUN`: texts in, one JSON line per text out, in order.
//!
//! A line holds `text` (and `row`, from a file), `label` by name, `score` (the label's
//! probability), and `probabilities` of all labels. Of a multi-label model it holds `labels`, those
//! given, instead of the first two. Thresholds that were tuned with the model decide, and are named.
//! A linear model has no probabilities: its score is a decision value, and `decision_values` stand in
//! their place.

use crate::artifact;
use crate::classifier::Classifier;
use crate::cli::{Kept, PredictArguments};
use crate::evaluation::Scale;
use crate::failure::{BeforeStart, Outcome};
use crate::metrics::{self, Classes};
use crate::progress::{Downloads, bar};
use crate::thresholds::Thresholds;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Runs the command.
pub fn run(arguments: &PredictArguments) -> Outcome {
    check_output(arguments).before_start()?;
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let quantization = arguments.quantization.map(Kept::quantization);
    let classifier =
        Classifier::load(&folder, quantization, &Downloads::default()).before_start()?;
    let texts = texts(arguments, &classifier.schema.text_column).before_start()?;
    let plain: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
    let bar = bar(texts.len() as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}");
    let outputs = classifier.answer(&plain, |rows| bar.inc(rows as u64))?;
    bar.finish_and_clear();
    let tuned = classifier.thresholds.as_ref().map_or_else(Vec::new, Thresholds::values);
    let names = &classifier.schema.labels.names;
    let (classes, scale) = (classifier.classes(), classifier.scale());
    let answers = Answers { names, classes, scale, outputs, tuned };
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

/// Refuses an output that would be found out about only after all texts are answered, or is the input.
fn check_output(arguments: &PredictArguments) -> Result<()> {
    let Some(output) = &arguments.output else { return Ok(()) };
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bail!("--output is {}, but there is no folder {}", output.display(), folder.display());
    }
    let real = |path: &Path| path.canonicalize().ok();
    let input = arguments.file.as_deref().and_then(real);
    if input.is_some() && input == real(output) {
        bail!("--output is {}, which --file reads", output.display());
    }
    Ok(())
}

/// What the model says of all texts.
struct Answers<'a> {
    names: &'a [String],
    classes: Classes,
    scale: Scale,
    /// [N, C]
    outputs: Vec<f32>,
    /// Thresholds that were tuned, if they were.
    tuned: Vec<f32>,
}

impl Answers<'_> {
    /// What is said of each text.
    fn lines(&self) -> impl Iterator<Item = Map<String, Value>> {
        let usual = self.scale.thresholds(self.classes);
        let thresholds = if self.tuned.is_empty() { &usual } else { &self.tuned };
        let answers = metrics::answers(&self.outputs, self.classes, thresholds);
        let width = self.classes.width();
        self.outputs.chunks(self.names.len()).enumerate().map(move |(row, outputs)| {
            let answer = &answers[row * width..][..width];
            self.line(outputs, answer)
        })
    }

    fn line(&self, outputs: &[f32], answer: &[u32]) -> Map<String, Value> {
        let by_name = |values: &[f32], first: usize| -> Value {
            let names = &self.names[first..];
            names.iter().zip(values).map(|(name, p)| (name.clone(), json!(p))).collect()
        };
        let mut line = Map::new();
        match self.classes {
            Classes::Binary | Classes::Multi(_) => {
                let label = answer[0] as usize;
                line.insert("label".to_owned(), json!(self.names[label]));
                line.insert("score".to_owned(), json!(outputs[label]));
            }
            Classes::MultiLabel(_) => {
                let given = self.names.iter().zip(answer).filter(|&(_, &has)| has == 1);
                let given: Vec<&String> = given.map(|(name, _)| name).collect();
                line.insert("labels".to_owned(), json!(given));
            }
        }
        let key = match self.scale {
            Scale::Probability => "probabilities",
            Scale::DecisionValue => "decision_values",
        };
        line.insert(key.to_owned(), by_name(outputs, 0));
        if !self.tuned.is_empty() {
            let first = self.names.len() - self.tuned.len();
            line.insert("thresholds".to_owned(), by_name(&self.tuned, first));
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
