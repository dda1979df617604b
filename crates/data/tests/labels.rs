//! Label columns of every kind under both tasks, and the labels that are refused.

mod common;

use common::{Folder, refused, train_only, whole};
use data::{DataConfig, Error, LabelScheme, SplitFiles, Task, load, load_split};

fn jsonl(labels: &[&str]) -> String {
    let row = |label: &&str| format!("{{\"text\": \"t\", \"label\": {label}}}\n");
    labels.iter().map(row).collect()
}

/// The class names found, and the class of each row.
fn read(config: &DataConfig, labels: &[&str]) -> Result<(Vec<String>, Vec<usize>), Error> {
    let data = Folder::new().load(config, "a.jsonl", jsonl(labels))?;
    Ok((data.labels.names, data.train.iter().map(|example| example.labels[0]).collect()))
}

#[track_caller]
fn expect(config: &DataConfig, labels: &[&str], names: &[&str], classes: &[usize]) {
    let (found, read) = read(config, labels).expect("readable labels");
    assert_eq!(found, names);
    assert_eq!(read, classes);
}

fn multiclass() -> DataConfig {
    DataConfig { task: Task::Multiclass, ..whole() }
}

#[test]
fn binary_labels_of_every_type() {
    expect(&whole(), &["1", "0"], &["0", "1"], &[1, 0]);
    expect(&whole(), &["1", "-1"], &["-1", "1"], &[1, 0]);
    expect(&whole(), &["true", "false"], &["false", "true"], &[1, 0]);
    expect(&whole(), &[r#""spam""#, r#""ham""#], &["ham", "spam"], &[1, 0]);
    expect(&whole(), &["[]", "[0]", "[2, 5]"], &["none", "any"], &[0, 1, 1]);
    let named = |names: [&str; 2]| DataConfig {
        label_names: Some(names.map(String::from).into()),
        ..whole()
    };
    expect(&named(["fair", "unfair"]), &["1", "0"], &["fair", "unfair"], &[1, 0]);
    expect(&named(["fair", "unfair"]), &["[]", "[7]"], &["fair", "unfair"], &[0, 1]);
    expect(&named(["spam", "ham"]), &[r#""ham""#, r#""spam""#], &["spam", "ham"], &[1, 0]);
    refused(read(&named(["1", "2"]), &["1", "0"]), &["row 2", "`0`", "`1`, `2`"]);
}

#[test]
fn multiclass_labels_are_sorted_numbers_by_value() {
    expect(&multiclass(), &["10", "9", "-1"], &["-1", "9", "10"], &[2, 1, 0]);
    expect(&multiclass(), &[r#""b""#, r#""a""#, r#""c""#], &["a", "b", "c"], &[1, 0, 2]);
    expect(&multiclass(), &["[3]", "[1]", "[2]"], &["1", "2", "3"], &[2, 0, 1]);
}

#[test]
fn the_hub_dataset_has_its_own_names() -> Result<(), Error> {
    let rows = jsonl(&["[]", "[0]"]);
    for dataset in ["lex_glue/unfair_tos", "downloads/unfair_tos/"] {
        let config = DataConfig { dataset: Some(dataset.into()), ..whole() };
        let data = Folder::new().load(&config, "a.jsonl", &rows)?;
        assert_eq!(data.labels.names, ["fair", "unfair"]);
    }
    let own = DataConfig { train_file: Some("a.jsonl".into()), ..DataConfig::default() };
    let own = DataConfig { validation_fraction: 0.0, test_fraction: 0.0, ..own };
    let data = Folder::new().load(&own, "a.jsonl", &rows)?;
    assert_eq!(data.labels.names, ["none", "any"]);
    Ok(())
}

#[test]
fn a_stored_scheme_reads_new_files_and_refuses_unknown_labels() -> Result<(), Error> {
    let folder = Folder::new();
    let scheme =
        LabelScheme { names: vec!["a".into(), "b".into(), "c".into()], task: Task::Multiclass };
    let path = folder.file("new.csv", "text,label\nt,c\nt,1\n");
    let read = load_split(&multiclass(), &path, &scheme)?;
    assert_eq!(read.iter().map(|example| example.labels[0]).collect::<Vec<_>>(), [2, 1]);
    let path = folder.file("new.csv", "text,label\nt,c\nt,d\n");
    let parts = ["new.csv, row 2", "unknown label `d`", "`a`, `b`, `c`"];
    refused(load_split(&multiclass(), &path, &scheme), &parts);
    Ok(())
}

#[test]
fn labels_that_cannot_be_learnt_are_refused() {
    let third = ["a.jsonl, row 3", "`2`", "`1`, `0`", "multiclass"];
    refused(read(&whole(), &["1", "0", "2"]), &third);
    refused(read(&whole(), &["1", "1"]), &["all 2", "label `1`", "one class only"]);
    refused(read(&whole(), &["[]", "[]"]), &["one class only"]);
    refused(read(&whole(), &["[]", "[1]", "5"]), &["row 3", "unknown label `5`"]);
    refused(read(&multiclass(), &["1", "[1, 2]"]), &["row 2", "2 labels"]);

    let folder = Folder::new();
    let files = |evaluation: &str| SplitFiles {
        test: vec![folder.file("test.jsonl", jsonl(&["0", evaluation]))],
        ..train_only(folder.file("train.jsonl", jsonl(&["0", "1"])))
    };
    refused(load(&whole(), &files("2"), 1), &["test.jsonl, row 2", "unknown label `2`"]);
    let names = ["x", "y", "z"].map(String::from).into();
    let named = DataConfig { label_names: Some(names), ..multiclass() };
    refused(load(&named, &files("2"), 1), &["test.jsonl, row 2", "`z`", "never occurs"]);
    refused(load(&whole(), &SplitFiles::default(), 1), &["no training file"]);
}

#[test]
fn a_configuration_at_odds_with_itself_is_refused() {
    let check = |change: &dyn Fn(&mut DataConfig)| {
        let mut config = whole();
        change(&mut config);
        read(&config, &["0", "1"])
    };
    refused(check(&|c| c.validation_fraction = 1.0), &["validation_fraction = 1", "below 1"]);
    refused(check(&|c| c.test_fraction = f64::NAN), &["test_fraction = NaN"]);
    refused(
        check(&|c| (c.test_fraction, c.validation_fraction) = (0.5, 0.5)),
        &["test_fraction = 0.5", "no training rows"],
    );
    refused(check(&|c| c.label_names = Some(vec!["a".into(); 2])), &["label_names", "twice"]);
    refused(check(&|c| c.label_names = Some(vec!["a".into()])), &["exactly two"]);
    refused(check(&|c| c.label_column = Some("text".into())), &["label_column = text"]);
    refused(check(&|c| c.debug_mode_sample = Some(1)), &["debug_mode_sample"]);
}
