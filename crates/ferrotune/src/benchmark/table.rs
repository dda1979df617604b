//! The benchmark's table: on the terminal, as Markdown and as CSV. Figures in percent.

use super::outcome::{Row, Score, Summary};
use crate::memory::Bytes;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use std::fmt::Write as _;

const MISSING: &str = "–";
/// What the intervals are.
pub const NOTE: &str = "Figures in percent, of the best model on the test rows, \"none\" counting as a \
label. ±: 95 % interval of the mean over seeds, by Student's t; brackets: with one seed, or seeds that \
change nothing, 95 % interval by the bootstrap over test rows. Published: Chalkidis et al. 2022, from five \
seeds, on the 1,607 test rows of UNFAIR-ToS. Time: in training \
steps, of tfidf-svm in its whole search; mean of the runs. Memory: the most that one held.";

/// The names of [`cells`].
pub const HEAD: [&str; 8] =
    ["method", "micro-F1", "published", "macro-F1", "published", "seeds", "time", "memory"];

/// A row as it is read.
pub fn cells(row: &Row) -> [String; 8] {
    let summary = row.summary();
    let figure = |at: usize| summary.map_or(MISSING.to_owned(), |both| in_words(&both[at]));
    let published = |at: usize| {
        row.method.published.map_or(MISSING.to_owned(), |both| format!("{:.1}", both[at]))
    };
    let cost = row.cost();
    let (done, all) = (row.done().count(), row.outcomes.len());
    [
        row.method.name.clone(),
        figure(0),
        published(0),
        figure(1),
        published(1),
        if done == all { all.to_string() } else { format!("{done} of {all}") },
        cost.map_or(MISSING.to_owned(), |(seconds, _)| time(seconds)),
        cost.and_then(|(_, memory)| memory)
            .map_or(MISSING.to_owned(), |memory| Bytes(memory).to_string()),
    ]
}

fn in_words(summary: &Summary) -> String {
    let [mean, low, high] =
        [summary.mean, summary.interval.low, summary.interval.high].map(|share| 100.0 * share);
    match summary.seeds {
        1 => format!("{mean:.1} [{low:.1}, {high:.1}]"),
        _ => format!("{mean:.1} ± {:.1}", high - mean),
    }
}

fn time(seconds: f64) -> String {
    match seconds.round() as u64 {
        0..60 => format!("{seconds:.1} s"),
        whole @ 60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        whole => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// For the terminal.
pub fn terminal(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(HEAD);
    for row in rows {
        let mut cells = cells(row).map(Cell::new).into_iter();
        let mut line: Vec<Cell> = cells.by_ref().take(1).collect();
        line.extend(cells.map(|cell| cell.set_alignment(CellAlignment::Right)));
        table.add_row(line);
    }
    table.to_string()
}

/// As Markdown, with why what is missing is missing.
pub fn markdown(title: &str, rows: &[Row]) -> String {
    let safe = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let mut text =
        format!("# {}\n\n| {} |\n|{}\n", safe(title), HEAD.join(" | "), "---|".repeat(8));
    for row in rows {
        let _ = writeln!(text, "| {} |", cells(row).map(|cell| safe(&cell)).join(" | "));
    }
    let _ = writeln!(text, "\n{NOTE}");
    for row in rows {
        for reason in row.failures() {
            let _ = writeln!(text, "\n- **{}**: {}", safe(&row.method.name), safe(&reason));
        }
    }
    text
}

/// As CSV, one line per run and its figures as they are, so that others can sum them up; `low` and
/// `high` are the run's interval by the bootstrap over test rows.
pub fn csv(rows: &[Row]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = "method,seed,micro_f1,micro_f1_low,micro_f1_high,macro_f1,macro_f1_low,\
                    macro_f1_high,published_micro_f1,published_macro_f1,training_seconds,\
                    peak_memory_bytes,problem\n"
        .to_owned();
    let figures = |Score { value, interval: (low, high) }: Score| format!("{value},{low},{high}");
    for row in rows {
        let published = row.method.published.map(|both| both.map(|percent| percent / 100.0));
        let published =
            |at: usize| published.map_or(String::new(), |both| format!("{:.3}", both[at]));
        for (seed, outcome) in &row.outcomes {
            let name = quoted(&row.method.name);
            let (micro, macro_) = (published(0), published(1));
            let _ = match outcome {
                Ok(o) => writeln!(
                    text,
                    "{name},{seed},{},{},{micro},{macro_},{:.3},{},",
                    figures(o.micro_f1),
                    figures(o.macro_f1),
                    o.seconds,
                    o.peak_memory_bytes.map_or(String::new(), |bytes| bytes.to_string())
                ),
                Err(reason) => {
                    writeln!(text, "{name},{seed},,,,,,,{micro},{macro_},,,{}", quoted(reason))
                }
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::outcome::Outcome;
    use super::*;

    fn outcome(micro: f64) -> Outcome {
        let score = |value, low, high| Score { value, interval: (low, high) };
        let (micro_f1, macro_f1) = (score(micro, 0.939, 0.962), score(0.8, 0.789, 0.812));
        Outcome { micro_f1, macro_f1, seconds: 75.0, peak_memory_bytes: Some(3 << 29) }
    }

    #[test]
    fn every_format_shows_figures_and_what_is_missing() {
        let method = |name| Method::named(name, "lex_glue/unfair_tos");
        let rows = [
            Row {
                method: method("bert-base"),
                outcomes: vec![(1, Ok(outcome(0.95))), (2, Ok(outcome(0.96)))],
            },
            Row { method: method("a|b"), outcomes: vec![(1, Ok(outcome(0.95)))] },
            Row {
                method: method("tfidf-svm"),
                outcomes: vec![(1, Ok(outcome(0.95))), (2, Ok(outcome(0.95)))],
            },
            Row {
                method: method("bigbird"),
                outcomes: vec![(1, Err("no \"hub\"".into())), (2, Err("no \"hub\"".into()))],
            },
        ];
        let text = markdown("t", &rows);
        for line in [
            "| bert-base | 95.5 ± 6.4 | 95.6 | 80.0 ± 0.0 | 81.3 | 2 | 1 min 15 s | 1.50 GiB |",
            "| a\\|b | 95.0 [93.9, 96.2] | – | 80.0 [78.9, 81.2] | – | 1 | 1 min 15 s | 1.50 GiB |",
            "| tfidf-svm | 95.0 [93.9, 96.2] | 94.7 | 80.0 [78.9, 81.2] | 75.0 | 2 | 1 min 15 s |",
            "| bigbird | – | 95.7 | – | 81.3 | 0 of 2 | – | – |",
            "- **bigbird**: no \"hub\"",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let text = csv(&rows);
        assert!(
            text.contains("\"bert-base\",1,0.95,0.939,0.962,0.8,0.789,0.812,0.956,0.813,75.000,"),
            "{text}"
        );
        assert!(text.contains("\"bigbird\",2,,,,,,,0.957,0.813,,,\"no \"\"hub\"\"\"\n"), "{text}");
        assert_eq!(text.lines().count(), 8);
        assert!(terminal(&rows).contains("95.5 ± 6.4"));
    }
}
