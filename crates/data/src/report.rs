//! What a user should know about the data before training on it: rows, class balance, token
//! lengths, what truncation loses, repeated texts, and texts that leak between splits, with
//! warnings as sentences.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::dataset::class_counts;
use crate::{Dataset, Encoded, Example, LabelScheme, Task};

/// Above this share of cut rows, truncation is worth a warning.
const TRUNCATED_SHARE: f64 = 0.01;
/// Above this many rows of the largest class per row of the smallest, imbalance is.
const IMBALANCE: f64 = 20.0;
/// Below this many rows of a class, a score on it is mostly chance.
const FEW_ROWS: usize = 10;
/// Classes that one warning names.
const FEW_NAMED: usize = 5;

/// The report on a dataset; its `Display` is a plain-text table with the warnings below.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataReport {
    /// Tokens at which texts are cut; none of texts that are not tokenized, whose lengths are all 0.
    pub max_length: Option<usize>,
    /// Train, validation, test.
    pub splits: [SplitReport; 3],
    /// Texts in both of two splits, for the three pairs.
    pub shared: [SharedTexts; 3],
    /// What to look at, as sentences.
    pub warnings: Vec<String>,
}

/// One split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SplitReport {
    /// `train`, `validation` or `test`.
    pub name: &'static str,
    /// Number of rows.
    pub rows: usize,
    /// Rows of each class, by index.
    pub classes: Vec<ClassCount>,
    /// Rows without any label, for multi-label tasks.
    pub unlabelled: Option<usize>,
    /// Lengths before truncation.
    pub tokens: TokenLengths,
    /// Rows that are cut.
    pub truncated_rows: usize,
    /// Tokens that the cuts lose.
    pub lost_tokens: usize,
    /// Rows whose text occurred before in the same split.
    pub repeats: usize,
    /// Distinct texts whose rows disagree about their labels.
    pub conflicting: usize,
}

/// Rows of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// Its rows.
    pub rows: usize,
}

/// Token lengths with special tokens; percentiles by nearest rank, 0 for an empty split.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TokenLengths {
    pub mean: f64,
    pub p50: usize,
    pub p95: usize,
    pub p99: usize,
    pub max: usize,
}

/// Distinct texts that occur in both of two splits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedTexts {
    /// The two splits.
    pub splits: [&'static str; 2],
    /// Number of distinct texts.
    pub texts: usize,
    /// How many of them carry more than one label.
    pub conflicting: usize,
}

impl DataReport {
    /// Reports on `dataset`; the encodings are those of its train, validation and test texts, cut
    /// at `max_length`.
    #[must_use]
    pub fn new(dataset: &Dataset, encoded: [&[Encoded]; 3], max_length: usize) -> Self {
        Self::of(dataset, encoded, Some(max_length))
    }

    /// Reports on all but lengths.
    #[must_use]
    pub fn of_rows(dataset: &Dataset) -> Self {
        Self::of(dataset, [&[]; 3], None)
    }

    fn of(dataset: &Dataset, encoded: [&[Encoded]; 3], max_length: Option<usize>) -> Self {
        let labels = &dataset.labels;
        let (train, validation, test) = (
            (dataset.train.as_slice(), "train"),
            (&*dataset.validation, "validation"),
            (&*dataset.test, "test"),
        );
        let [a, b, c] = encoded;
        let splits = [(train, a), (validation, b), (test, c)]
            .map(|((examples, name), encoded)| SplitReport::new(name, examples, encoded, labels));
        let shared = [(train, validation), (train, test), (validation, test)]
            .map(|(one, other)| SharedTexts::new(one, other));
        let mut report = Self { max_length, splits, shared, warnings: vec![] };
        report.warnings = report.warn();
        report
    }

    fn warn(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for SharedTexts { splits: [one, other], texts, conflicting } in &self.shared {
            if *texts == 0 {
                continue;
            }
            let conflict = match conflicting {
                0 => String::new(),
                some => format!(" ({some} with conflicting labels)"),
            };
            let (verb, consequence) = (
                if *texts == 1 { "occurs" } else { "occur" },
                format!("scores on {other} flatter the model"),
            );
            let texts = count(*texts, "text");
            warnings.push(format!(
                "{texts} of {other} {verb} verbatim in {one}{conflict}: {consequence}."
            ));
        }
        for split in self.splits.iter().filter(|split| split.rows > 0) {
            let SplitReport { name, rows, .. } = split;
            let share = split.truncated_rows as f64 / *rows as f64;
            if let Some(max_length) = self.max_length
                && share > TRUNCATED_SHARE
            {
                warnings.push(format!(
                    "{:.1} % of the {name} rows are longer than max_length {max_length} and lose {}.",
                    share * 100.0,
                    count(split.lost_tokens, "token"),
                ));
            }
            if split.conflicting > 0 {
                let (texts, has) = match split.conflicting {
                    1 => (count(1, "text"), "has"),
                    more => (count(more, "text"), "have"),
                };
                warnings.push(format!(
                    "{texts} of {name} {has} rows with different labels: no model gets all of them right."
                ));
            }
            let few = || split.classes.iter().filter(|class| class.rows < FEW_ROWS);
            if few().next().is_some() {
                let mut named: Vec<String> = few()
                    .take(FEW_NAMED)
                    .map(|class| format!("`{}` ({})", class.name, class.rows))
                    .collect();
                if few().count() > FEW_NAMED {
                    named.push(format!("and {} more", few().count() - FEW_NAMED));
                }
                let consequence = match *name {
                    "train" => "too few to learn from",
                    _ => "its scores will swing with each of them",
                };
                let named = named.join(", ");
                warnings.push(format!(
                    "{name} has fewer than {FEW_ROWS} rows of class {named}: {consequence}."
                ));
            }
        }
        let SplitReport { classes, unlabelled, rows, .. } = &self.splits[0];
        if unlabelled.is_some() {
            warnings.extend(warn_of_rare(classes, *rows));
            return warnings;
        }
        let by_rows = |class: &&ClassCount| class.rows;
        let present = || classes.iter().filter(|class| class.rows > 0);
        if let (Some(least), Some(most)) =
            (present().min_by_key(by_rows), present().max_by_key(by_rows))
        {
            let ratio = most.rows as f64 / least.rows as f64;
            if ratio > IMBALANCE {
                warnings.push(format!(
                    "train has {ratio:.0} rows of class `{}` for each of class `{}`: consider class weights.",
                    most.name, least.name
                ));
            }
        }
        warnings
    }
}

/// Says of multi-label rows that a label is on few of them.
fn warn_of_rare(labels: &[ClassCount], rows: usize) -> Option<String> {
    let rarest = labels.iter().filter(|label| label.rows > 0).min_by_key(|label| label.rows)?;
    (rows as f64 / rarest.rows as f64 > IMBALANCE).then(|| {
        format!(
            "the rarest label, `{}`, is on {} of {} train rows: consider class weights.",
            rarest.name,
            grouped(rarest.rows),
            grouped(rows)
        )
    })
}

impl SplitReport {
    fn new(
        name: &'static str,
        examples: &[Example],
        encoded: &[Encoded],
        labels: &LabelScheme,
    ) -> Self {
        let counts = class_counts(examples, labels.names.len());
        let classes = labels
            .names
            .iter()
            .zip(counts)
            .map(|(name, rows)| ClassCount { name: name.clone(), rows })
            .collect();
        let by_text = labels_by_text(examples);
        let lost = encoded.iter().map(|text| text.length - text.ids.len()).filter(|&lost| lost > 0);
        Self {
            name,
            rows: examples.len(),
            classes,
            unlabelled: (labels.task == Task::MultiLabel)
                .then(|| examples.iter().filter(|example| example.labels.is_empty()).count()),
            tokens: TokenLengths::new(encoded.iter().map(|text| text.length).collect()),
            truncated_rows: lost.clone().count(),
            lost_tokens: lost.sum(),
            repeats: examples.len() - by_text.len(),
            conflicting: by_text.values().filter(|labels| labels.is_none()).count(),
        }
    }
}

impl TokenLengths {
    fn new(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let Some(&max) = lengths.last() else { return Self::default() };
        let percentile = |p: usize| lengths[(lengths.len() * p).div_ceil(100) - 1];
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        Self { mean, p50: percentile(50), p95: percentile(95), p99: percentile(99), max }
    }
}

impl SharedTexts {
    fn new(one: (&[Example], &'static str), other: (&[Example], &'static str)) -> Self {
        let labels = labels_by_text(one.0);
        let (mut texts, mut conflicting) = (0, 0);
        for (text, there) in labels_by_text(other.0) {
            if let Some(here) = labels.get(text) {
                texts += 1;
                conflicting += usize::from(*here != there || here.is_none());
            }
        }
        Self { splits: [one.1, other.1], texts, conflicting }
    }
}

/// Each distinct text with its labels, or none where its rows disagree.
fn labels_by_text(examples: &[Example]) -> HashMap<&str, Option<&[usize]>> {
    let mut by_text = HashMap::new();
    for Example { text, labels, .. } in examples {
        let known = by_text.entry(text.as_str()).or_insert(Some(labels.as_slice()));
        if *known != Some(labels.as_slice()) {
            *known = None;
        }
    }
    by_text
}

/// `1 row`, `2,000 rows`.
fn count(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |name: &str, cell: &dyn Fn(&SplitReport) -> String| {
            (name.to_owned(), self.splits.each_ref().map(cell))
        };
        let mut table =
            vec![row("", &|split| split.name.into()), row("rows", &|split| grouped(split.rows))];
        for (index, class) in self.splits[0].classes.iter().enumerate() {
            let name: String = class.name.chars().filter(|c| !c.is_control()).take(40).collect();
            table.push(row(&format!("  {name}"), &|split| grouped(split.classes[index].rows)));
        }
        if self.splits[0].unlabelled.is_some() {
            let rows = |split: &SplitReport| grouped(split.unlabelled.unwrap_or_default());
            table.push(row("  (no label)", &rows));
        }
        if let Some(max_length) = self.max_length {
            table.extend([
                row("tokens, mean", &|split| format!("{:.1}", split.tokens.mean)),
                row("  median", &|split| grouped(split.tokens.p50)),
                row("  95th percentile", &|split| grouped(split.tokens.p95)),
                row("  99th percentile", &|split| grouped(split.tokens.p99)),
                row("  longest", &|split| grouped(split.tokens.max)),
                row(&format!("rows cut at {max_length} tokens"), &|split| {
                    grouped(split.truncated_rows)
                }),
                row("tokens lost by cutting", &|split| grouped(split.lost_tokens)),
            ]);
        }
        table.push(row("rows that repeat a text", &|split| grouped(split.repeats)));
        let width = |text: &String| text.chars().count();
        let first = table.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        let columns: [usize; 3] = std::array::from_fn(|column| {
            table.iter().map(|(_, cells)| width(&cells[column])).max().unwrap_or(0)
        });
        for (name, cells) in &table {
            write!(f, "{name:first$}")?;
            for (cell, width) in cells.iter().zip(columns) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        for SharedTexts { splits: [one, other], texts, conflicting } in &self.shared {
            let texts = count(*texts, "text");
            writeln!(
                f,
                "{texts} in both {one} and {other}, {conflicting} with conflicting labels"
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
