//! `ferrotune predict RUN`: texts in, one JSON line per text out, in order and as they come.
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
use crate::failure::{BeforeStart, Failure, Outcome};
use crate::metrics::{self, Classes};
use crate::progress::{Downloads, bar, tell};
use crate::texts::Texts;
use crate::thresholds::Thresholds;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

/// Runs the command.
pub fn run(arguments: &PredictArguments) -> Outcome {
    check_output(arguments).before_start()?;
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let quantization = arguments.quantization.map(Kept::quantization);
    let classifier =
        Classifier::load(&folder, quantization, &Downloads::default()).before_start()?;
    let column = arguments.text_column.as_deref().unwrap_or(&classifier.schema.text_column);
    let texts = match &arguments.file {
        Some(file) => Texts::of_file(file, column).before_start()?,
        None if arguments.texts.is_empty() => Texts::of_standard_input(),
        None => Texts::of_arguments(&arguments.texts),
    };
    let mut failed = None;
    let write = |out: &mut dyn Write| {
        let answered = answer_all(&classifier, texts, out, arguments.output.is_none());
        answered.map_err(|ended| match ended {
            Ended::Output(error) => error,
            Ended::Other(failure) => {
                failed = Some(failure);
                std::io::ErrorKind::Other.into()
            }
        })
    };
    let written = match &arguments.output {
        // A pipe, a device or a link is written through; renaming a file over it would replace it.
        Some(path) if path.symlink_metadata().is_ok_and(|what| !what.is_file()) => {
            let open = std::fs::File::options().write(true).truncate(true).open(path);
            let file = open.with_context(|| format!("cannot open {}", path.display()))?;
            write(&mut BufWriter::new(file))
                .with_context(|| format!("cannot write {}", path.display()))
        }
        Some(path) => durable::write_with(path, write).map_err(Into::into),
        None => match write(&mut BufWriter::new(std::io::stdout().lock())) {
            // Whoever read us has had enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to standard output"),
        },
    };
    match failed {
        Some(failure) => Err(failure),
        None => Ok(written?),
    }
}

/// Why not all texts were answered.
enum Ended {
    /// The answers cannot be written.
    Output(std::io::Error),
    Other(Failure),
}

/// Answers texts as they come. However that ends, it tells how many the model saw only a part of.
fn answer_all(
    classifier: &Classifier,
    texts: Texts,
    out: &mut dyn Write,
    to_standard_output: bool,
) -> Result<(), Ended> {
    let shown = !(to_standard_output && std::io::stdout().is_terminal());
    let bar = match texts.count().filter(|_| shown) {
        Some(count) => bar(count as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}"),
        None => ProgressBar::hidden(),
    };
    let mut seen = Seen::default();
    let ended = answer_each(classifier, texts, out, &bar, &mut seen);
    bar.finish_and_clear();
    let Seen { all, cut, limit } = seen;
    if cut > 0 {
        tell(format_args!(
            "warning: {cut} of {all} texts are longer than {limit} tokens: what follows has no say"
        ));
    }
    ended
}

/// Texts answered so far, and how many of them were cut at how many tokens.
#[derive(Default)]
struct Seen {
    all: usize,
    cut: usize,
    limit: usize,
}

/// Writes what is said of some texts before the next are taken.
fn answer_each(
    classifier: &Classifier,
    mut texts: Texts,
    out: &mut dyn Write,
    bar: &ProgressBar,
    seen: &mut Seen,
) -> Result<(), Ended> {
    let tuned = classifier.thresholds.as_ref().map_or_else(Vec::new, Thresholds::values);
    let names = &classifier.schema.labels.names;
    let (classes, scale) = (classifier.classes(), classifier.scale());
    loop {
        let some = texts.next().map_err(|error| Ended::Other(Failure::Usage(error)))?;
        if some.is_empty() {
            return Ok(());
        }
        let plain: Vec<&str> = some.iter().map(|(_, text)| text.as_str()).collect();
        let answered = classifier.answer(&plain, |rows| bar.inc(rows as u64));
        let answered = answered.map_err(|error| Ended::Other(Failure::Job(error)))?;
        seen.all += some.len();
        seen.cut += answered.cut;
        seen.limit = answered.limit;
        let answers = Answers { names, classes, scale, outputs: answered.outputs, tuned: &tuned };
        for ((row, text), answer) in some.iter().zip(answers.lines()) {
            let mut line = Map::new();
            line.extend(row.map(|row| ("row".to_owned(), json!(row))));
            line.insert("text".to_owned(), json!(text));
            line.extend(answer);
            writeln!(out, "{}", Value::from(line)).map_err(Ended::Output)?;
        }
        out.flush().map_err(Ended::Output)?;
    }
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
    tuned: &'a [f32],
}

impl Answers<'_> {
    /// What is said of each text.
    fn lines(&self) -> impl Iterator<Item = Map<String, Value>> {
        let usual = self.scale.thresholds(self.classes);
        let thresholds = if self.tuned.is_empty() { &usual[..] } else { self.tuned };
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
            line.insert("thresholds".to_owned(), by_name(self.tuned, first));
        }
        line
    }
}
