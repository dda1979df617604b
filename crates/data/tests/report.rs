//! The data report: counts by hand, warnings, and the figures known of UNFAIR-ToS.

mod common;

use std::path::Path;

use common::{Folder, whole};
use data::{
    DataConfig, DataReport, Dataset, Encoded, Example, LabelScheme, SplitFiles, Task, load,
};

fn examples(rows: &[(&str, usize)]) -> Vec<Example> {
    let example = |(row, (text, label)): (usize, &(&str, usize))| Example {
        text: text.to_string(),
        labels: vec![*label],
        row: row + 1,
    };
    rows.iter().enumerate().map(example).collect()
}

/// As many tokens as the text has bytes, cut at 4.
fn encode(examples: &[Example]) -> Vec<Encoded> {
    let encode = |example: &Example| Encoded {
        ids: vec![0; example.text.len().min(4)],
        length: example.text.len(),
    };
    examples.iter().map(encode).collect()
}

fn report(dataset: &Dataset, max_length: usize) -> DataReport {
    let [train, validation, test] =
        [&dataset.train, &dataset.validation, &dataset.test].map(|split| encode(split));
    DataReport::new(dataset, [&train, &validation, &test], max_length)
}

#[test]
fn counts_and_warnings_by_hand() {
    let mut train = vec![("same", 0); 30];
    train.extend([("both", 1), ("split", 0), ("split", 1), ("a longer one", 0)]);
    let dataset = Dataset {
        train: examples(&train),
        validation: examples(&[("both", 0), ("new", 1)]),
        test: examples(&[("same", 0), ("split", 1), ("split", 1)]),
        labels: LabelScheme { names: vec!["fair".into(), "unfair".into()], task: Task::Binary },
    };
    let report = report(&dataset, 4);
    let [train, validation, test] = &report.splits;
    assert_eq!((train.rows, train.classes[1].rows, train.repeats), (34, 2, 30));
    assert_eq!((train.truncated_rows, train.lost_tokens), (3, 10));
    assert_eq!((train.tokens.p50, train.tokens.p95, train.tokens.max), (4, 5, 12));
    assert_eq!((validation.repeats, test.repeats), (0, 1));
    assert_eq!((train.conflicting, validation.conflicting, test.conflicting), (1, 0, 0));
    let shared = report.shared.each_ref().map(|shared| (shared.texts, shared.conflicting));
    assert_eq!(shared, [(1, 1), (2, 1), (0, 0)]);
    let text = report.to_string();
    for part in [
        "warning: 1 text of validation occurs verbatim in train (1 with conflicting labels)",
        "warning: 2 texts of test occur verbatim in train (1 with conflicting labels)",
        "warning: 1 text of train has rows with different labels: no model gets all of them right.",
        "warning: 8.8 % of the train rows are longer than max_length 4 and lose 10 tokens.",
        "warning: train has fewer than 10 rows of class `unfair` (2): too few to learn from.",
        "warning: test has fewer than 10 rows of class `fair` (1), `unfair` (2): its scores will swing",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let table: Vec<&str> = text.lines().take(12).collect();
    assert!(table.iter().all(|line| line.len() == table[0].len()), "{text}");
}

#[test]
fn imbalance_is_a_warning_and_empty_splits_are_not() {
    let mut rows: Vec<(String, usize)> = (0..410).map(|row| (row.to_string(), 0)).collect();
    rows.extend((410..420).map(|row| (row.to_string(), 1)));
    let rows: Vec<(&str, usize)> = rows.iter().map(|(text, label)| (&**text, *label)).collect();
    let dataset = Dataset {
        train: examples(&rows),
        validation: vec![],
        test: vec![],
        labels: LabelScheme { names: vec!["0".into(), "1".into()], task: Task::Binary },
    };
    let report = report(&dataset, 4);
    assert_eq!(report.warnings.len(), 1);
    assert!(report.warnings[0].contains("41 rows of class `0` for each of class `1`"));
    assert_eq!(report.splits[2].tokens.max, 0);
    serde_json::to_string(&report).expect("serializable");
}

/// The real data, where it is at hand: `FERROTUNE_UNFAIR_TOS` names its folder.
#[test]
fn unfair_tos_gives_the_known_figures() {
    let Some(folder) = std::env::var_os("FERROTUNE_UNFAIR_TOS") else {
        println!("skipped: FERROTUNE_UNFAIR_TOS is not set to the folder of UNFAIR-ToS");
        return;
    };
    let folder = Path::new(&folder);
    let jsonl = |split: &str| vec![folder.join(format!("{split}.jsonl"))];
    let parquet = |split: &str| {
        vec![folder.join(format!("parquet/unfair_tos/{split}-00000-of-00001.parquet"))]
    };
    let files = |of: &dyn Fn(&str) -> Vec<_>| SplitFiles {
        train: of("train"),
        validation: of("validation"),
        test: of("test"),
    };
    let dataset = load(&DataConfig::default(), &files(&jsonl), 1).expect("readable");
    let hub = load(&DataConfig::default(), &files(&parquet), 1).expect("readable");
    assert!(dataset == hub, "JSONL and Parquet differ");
    assert_eq!(dataset.labels.names, ["fair", "unfair"]);
    assert!(dataset.train[0].text.ends_with('\n'));

    let report = report(&dataset, 4);
    println!("{report}");
    let counts = report.splits.each_ref().map(|s| (s.rows, s.classes[1].rows, s.repeats));
    assert_eq!(counts, [(5532, 630, 105), (2275, 230, 14), (1607, 172, 7)]);
    assert_eq!(report.shared.each_ref().map(|shared| shared.texts), [18, 33, 8]);
}

#[test]
fn the_report_of_loaded_files_is_displayed() {
    let folder = Folder::new();
    let dataset = folder.load(&whole(), "a.csv", "text,label\na,yes\nb,no\n").expect("readable");
    let text = report(&dataset, 4).to_string();
    assert!(text.starts_with("                         train  validation  test\nrows"), "{text}");
}
