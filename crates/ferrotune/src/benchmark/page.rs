//! The benchmark as one HTML page that needs nothing but itself: the table, and beside each figure
//! where it lies, its interval and what was published.

use super::outcome::{Row, Summary};
use super::table::{HEAD, NOTE, cells};
use crate::report;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    head: [&'static str; 8],
    rows: Vec<PageRow>,
    note: &'static str,
    /// Where the drawings of micro-F1 and of macro-F1 begin, in percent; they end at 100.
    starts: [u32; 2],
    version: &'static str,
}

#[derive(Serialize)]
struct PageRow {
    cells: [String; 8],
    /// Of micro-F1 and macro-F1.
    drawings: [String; 2],
    problems: Vec<String>,
}

/// The page.
///
/// # Errors
/// The template engine's answer, if it cannot render; no content should cause that.
pub fn html(title: &str, rows: &[Row]) -> Result<String, minijinja::Error> {
    let starts = [0, 1].map(|at| start(rows, at));
    let row = |row: &Row| {
        let drawing = |at: usize| {
            let ours = row.summary().map(|both| both[at]);
            let ours = ours
                .map(|Summary { mean, interval, .. }| (mean, Some((interval.low, interval.high))));
            let published = row.method.published.map(|both| (both[at] / 100.0, None));
            report::whiskers([ours, published], starts[at])
        };
        PageRow { cells: cells(row), drawings: [drawing(0), drawing(1)], problems: row.failures() }
    };
    let page = Page {
        title,
        head: HEAD,
        rows: rows.iter().map(row).collect(),
        note: NOTE,
        starts: starts.map(|share| (share * 100.0).round() as u32),
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.add_template("benchmark.html", include_str!("page.html"))?;
    templates.get_template("benchmark.html")?.render(Serde(page))
}

/// The round share below all that is drawn.
fn start(rows: &[Row], at: usize) -> f64 {
    let ours = rows.iter().filter_map(|row| Some(row.summary()?[at].interval.low));
    let published = rows.iter().filter_map(|row| Some(row.method.published?[at] / 100.0));
    let lowest = ours.chain(published).filter(|share| share.is_finite()).fold(1.0, f64::min);
    ((lowest * 20.0).floor() / 20.0).clamp(0.0, 0.95)
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::outcome::{Outcome, Score};
    use super::*;

    #[test]
    fn the_page_draws_figures_and_escapes_names() {
        let score = |value| Score { value, interval: (value - 0.01, value + 0.01) };
        let done = Outcome {
            micro_f1: score(0.94),
            macro_f1: score(0.72),
            seconds: 1.0,
            peak_memory_bytes: None,
        };
        let rows = [
            Row {
                method: Method::named("legal-bert", "lex_glue/unfair_tos"),
                outcomes: vec![(1, Ok(done))],
            },
            Row {
                method: Method::named("<script>", "lex_glue/unfair_tos"),
                outcomes: vec![(1, Err("<b>gone</b>".into()))],
            },
        ];
        let page = html("title", &rows).unwrap();
        for part in ["94.0 [93.0, 95.0]", "96.0", "&lt;script&gt;", "&lt;b&gt;gone", "<svg", "70"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script") && !page.contains("http://"));
        assert_eq!((start(&rows, 0), start(&rows, 1)), (0.9, 0.7));
        assert_eq!(start(&[], 0), 0.95);
    }
}
