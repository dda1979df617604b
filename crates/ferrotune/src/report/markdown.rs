//! The report as Markdown: the figures and tables of the page, for terminals and code reviews.
//! Text of the run and its data cannot break out of its cell: every sign that Markdown or HTML
//! would act upon is escaped, and line breaks become spaces.
use std::fmt::Write as _;

use super::view::{MISSING, View};

const THRESHOLD_HEAD: [&str; 9] = [
    "label",
    "threshold",
    "validation rows",
    "precision at 0.5",
    "recall at 0.5",
    "F1 at 0.5",
    "precision tuned",
    "recall tuned",
    "F1 tuned",
];

pub(super) fn write(view: &View) -> String {
    let report = view.report;
    let mut out = format!("# {}\n\n", text(&report.run_name));
    for (name, value) in [
        ("Ended by", &report.ending),
        ("Date", &report.date),
        ("Model", &report.model),
        ("Method", &report.method),
        ("Task", &report.task),
    ] {
        let _ = writeln!(out, "- **{name}**: {}", text(value));
    }
    test(&mut out, view);
    if !view.epochs.is_empty() {
        out.push_str("\n## Epochs\n\n");
        if let Some(best) = &view.best_epoch {
            let _ = writeln!(out, "Best: {best}, by {}.\n", text(&report.selected_by));
        }
        table(&mut out, &view.epoch_head, view.epochs.iter().cloned());
    }
    if !view.candidates.is_empty() {
        out.push_str("\n## Search\n\n");
        table(&mut out, &view.candidate_head, view.candidates.iter().cloned());
    }
    data(&mut out, view);
    for (name, facts) in &view.facts {
        let _ = writeln!(out, "\n## {name}\n");
        for (name, value) in facts {
            let _ = writeln!(out, "- {name}: {}", text(value));
        }
        if *name == "Model" && !report.parameters.new_layers.is_empty() {
            let layers: Vec<_> = report.parameters.new_layers.iter().map(|l| text(l)).collect();
            let _ = writeln!(out, "- Newly initialised and trained: {}", layers.join(", "));
        }
    }
    if !report.config.is_empty() {
        let fence = fence(&report.config);
        let config = report.config.trim_end();
        let _ = writeln!(out, "\n## Configuration\n\n{fence}toml\n{config}\n{fence}");
    }
    out
}

fn test(out: &mut String, view: &View) {
    out.push_str("\n## Test\n\n");
    if view.scores.is_empty() {
        out.push_str("The models of this run were not tested.\n");
        return;
    }
    let _ = writeln!(out, "{} rows; 95 % intervals in brackets.\n", view.test_rows);
    let epoch = |name: &str, epoch: &Option<String>| match epoch {
        Some(epoch) => format!("{name} ({epoch})"),
        None => name.to_owned(),
    };
    let (best, last) =
        (epoch("best model", &view.best_epoch), epoch("last model", &view.last_epoch));
    let cell = |f: &super::view::Figure| match f.interval.as_str() {
        "" => f.value.clone(),
        interval => format!("{} ({interval})", f.value),
    };
    if view.has_last {
        let row =
            |s: &super::view::ScoreView| vec![s.name.to_owned(), cell(&s.best), cell(&s.last)];
        table(out, &["figure", &best, &last], view.scores.iter().map(row));
    } else {
        let rows = view.scores.iter().map(|s| vec![s.name.to_owned(), cell(&s.best)]);
        table(out, &["figure", &best], rows);
    }
    if !view.labels.is_empty() {
        out.push_str("\n### Best model by label\n\n");
        let head = ["label", "precision", "recall", "F1", "rows"];
        table(out, &head, view.labels.iter().map(|row| row.to_vec()));
    }
    if let Some(thresholds) = &view.thresholds {
        out.push_str("\n### Best model at thresholds tuned on validation rows\n\n");
        let rows = thresholds.scores.iter();
        let rows = rows.map(|(name, half, tuned)| vec![name.to_string(), cell(half), cell(tuned)]);
        table(out, &["figure", "at 0.5", "tuned"], rows);
        out.push('\n');
        table(out, &THRESHOLD_HEAD, thresholds.labels.iter().map(|row| row.to_vec()));
    }
    if let Some(confusion) = &view.confusion {
        out.push_str("\n### Confusion matrix of the best model (row: true, column: predicted)\n\n");
        let mut head = vec!["true \\ predicted"];
        head.extend(confusion.labels.iter().map(String::as_str));
        let rows = confusion.rows.iter().map(|row| {
            let cells = row.cells.iter().map(|c| format!("{} ({})", c.count, c.share));
            std::iter::once(row.label.to_owned()).chain(cells).collect()
        });
        table(out, &head, rows);
    }
    if !view.mistakes.is_empty() {
        let _ = writeln!(out, "\n### Worst of {} mistakes\n", view.mistakes_in_all);
        let head = ["row", "true", "predicted", view.scale, "text"];
        let rows = view.mistakes.iter().map(|m| {
            let (truth, predicted) = (m.truth.to_owned(), m.predicted.to_owned());
            vec![m.row.to_string(), truth, predicted, m.confidence.clone(), m.opening.clone()]
        });
        table(out, &head, rows);
    }
}

fn data(out: &mut String, view: &View) {
    let Some(data) = &view.data else { return };
    out.push_str("\n## Data\n\n");
    for warning in data.warnings {
        let _ = writeln!(out, "- **Warning**: {}", text(warning));
    }
    if !data.warnings.is_empty() {
        out.push('\n');
    }
    let mut head = vec![""];
    head.extend(&data.names);
    let counts = data.rows.iter().map(|(name, cells)| (name.clone(), cells.clone()));
    let balance = data.balance.iter().map(|(label, shares)| {
        let cells = shares.iter().map(|s| format!("{} ({})", s.rows, s.share)).collect();
        (format!("Label: {label}"), cells)
    });
    let rows = counts.chain(balance);
    table(out, &head, rows.map(|(name, cells)| std::iter::once(name).chain(cells).collect()));
}

fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells.map(text).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    out.push_str(&line(&mut head.iter().copied()));
    let _ = writeln!(out, "|{}", "---|".repeat(head.len()));
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
}

fn text(raw: &str) -> String {
    if raw.is_empty() {
        return MISSING.to_owned();
    }
    let mut safe = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '!' | '#' => safe.extend(['\\', c]),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A code fence longer than any run of backticks inside.
fn fence(code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}
