//! Any number of labels per row: lists, text with a separator, a column per label; what of them is
//! refused; and what carving, sampling and the report make of rows with several labels or none.

mod common;

use common::{Folder, refused, train_only, whole};
use data::{
    DataConfig, DataReport, Dataset, Encoded, Error, Example, LabelScheme, SplitFiles, Task, load,
    load_split,
};

fn multi_label() -> DataConfig {
    DataConfig { task: Task::MultiLabel, ..whole() }
}

fn columns(names: &[&str]) -> DataConfig {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    DataConfig { label_columns: Some(names), ..multi_label() }
}

fn sets(examples: &[Example]) -> Vec<&[usize]> {
    examples.iter().map(|example| example.labels.as_slice()).collect()
}

#[track_caller]
fn expect(config: &DataConfig, file: &str, content: &str, names: &[&str], labels: &[&[usize]]) {
    let data = Folder::new().load(config, file, content).expect("readable labels");
    assert_eq!(data.labels, LabelScheme { names: owned(names), task: Task::MultiLabel });
    assert_eq!(sets(&data.train), labels);
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Rows of JSON lines with these labels.
fn jsonl(labels: &[&str]) -> String {
    let row = |label: &&str| format!("{{\"text\": \"t\", \"labels\": {label}}}\n");
    labels.iter().map(row).collect()
}

#[test]
fn lists_of_numbers_and_of_words() {
    let rows = jsonl(&["[]", "[10, 2]", "[2, 2]"]);
    expect(&multi_label(), "a.jsonl", &rows, &["2", "10"], &[&[], &[0, 1], &[0]]);
    let rows = jsonl(&[r#"["b"]"#, r#"["c", "a"]"#]);
    expect(&multi_label(), "a.jsonl", &rows, &["a", "b", "c"], &[&[1], &[0, 2]]);
    let named = DataConfig { label_names: Some(owned(&["x", "y", "z"])), ..multi_label() };
    let rows = jsonl(&["[2]", r#"["y", 0]"#]);
    expect(&named, "a.jsonl", &rows, &["x", "y", "z"], &[&[2], &[0, 1]]);
}

#[test]
fn text_is_cut_at_the_separator_and_an_empty_cell_is_no_label() {
    let rows = "text,label\nt,a;c\nt,\nt,\"\"\nt, b ; a ;\n";
    expect(&multi_label(), "a.csv", rows, &["a", "b", "c"], &[&[0, 2], &[], &[], &[0, 1]]);
    let comma = DataConfig { label_separator: ",".into(), ..multi_label() };
    expect(&comma, "a.csv", "text,labels\nt,\"1,0\"\nt,1\n", &["0", "1"], &[&[0, 1], &[1]]);
    let rows = jsonl(&[r#""a;b""#, r#""""#]);
    expect(&multi_label(), "a.jsonl", &rows, &["a", "b"], &[&[0, 1], &[]]);
}

#[test]
fn a_column_per_label_in_every_spelling_of_yes_and_no() {
    let rows = "b,text,a\n0,t,1\nTrue,t,1.0\nfalse,t,0\n";
    expect(&columns(&["a", "b"]), "a.csv", rows, &["a", "b"], &[&[0], &[0, 1], &[]]);
    let rows = r#"{"text": "t", "a": true, "b": 0}
{"text": "t", "a": 0.0, "b": "1"}
"#;
    expect(&columns(&["a", "b"]), "a.jsonl", rows, &["a", "b"], &[&[0], &[1]]);
    let bad = |content: &str| Folder::new().load(&columns(&["a", "b"]), "a.csv", content);
    refused(bad("text,a,b\nt,1,0\nt,2,0\n"), &["a.csv, row 2", "`a` holds `2`, not 0 or 1"]);
    refused(bad("text,a,b\nt,1,0\nt,,0\n"), &["a.csv, row 2", "`a` is missing or null"]);
    refused(bad("text,a,B\nt,1,0\n"), &["no column `b`", "did you mean `B`?"]);
}

#[test]
fn unfair_tos_has_the_names_of_its_eight_kinds() -> Result<(), Error> {
    let dataset = Some("lex_glue/unfair_tos".into());
    let config = DataConfig { dataset, ..multi_label() };
    let data = Folder::new().load(&config, "a.jsonl", jsonl(&["[]", "[0, 7]"]))?;
    assert_eq!(data.labels.names.len(), 8);
    assert_eq!(
        [&data.labels.names[0], &data.labels.names[7]],
        ["Limitation of liability", "Arbitration"]
    );
    assert_eq!(sets(&data.train), [&[][..], &[0, 7]]);
    Ok(())
}

#[test]
fn labels_that_cannot_be_read_or_learnt_are_refused() {
    let read = |labels: &[&str]| Folder::new().load(&multi_label(), "a.jsonl", jsonl(labels));
    refused(read(&["[0]", "3"]), &["a.jsonl, row 2", "holds `3`, not a list of labels"]);
    refused(read(&["[0]", "null"]), &["row 2", "`labels` is missing or null"]);
    refused(read(&["[0, 1]", "[[1]]"]), &["row 2", "unknown label `[1]`"]);
    refused(read(&["[0, 1]", "[1, 0]"]), &["all 2", "same labels (`0`, `1`)"]);
    refused(read(&["[]", "[]"]), &["all 2", "same labels (none)"]);
    refused(read(&["[]", "[4]"]), &["task = multi_label", "one label, `4`", "binary task"]);

    let folder = Folder::new();
    let files = |labels: &str| SplitFiles {
        test: vec![folder.file("test.jsonl", jsonl(&["[]", labels]))],
        ..train_only(folder.file("train.jsonl", jsonl(&["[0]", "[1]"])))
    };
    refused(load(&multi_label(), &files("[1, 2]"), 1), &["test.jsonl, row 2", "unknown label `2`"]);
    let named = DataConfig { label_names: Some(owned(&["x", "y", "z"])), ..multi_label() };
    refused(load(&named, &files("[2]"), 1), &["test.jsonl, row 2", "`z`", "never occurs"]);
}

#[test]
fn settings_at_odds_with_each_other_are_refused() {
    let check = |change: &dyn Fn(&mut DataConfig)| {
        let mut config = columns(&["a", "b"]);
        change(&mut config);
        config.check()
    };
    assert!(check(&|_| ()).is_ok());
    refused(check(&|c| c.task = Task::Binary), &["label_columns", "needs task = \"multi_label\""]);
    refused(check(&|c| c.label_column = Some("c".into())), &["beside label_column"]);
    refused(check(&|c| c.label_names = Some(owned(&["x", "y"]))), &["as label_names does"]);
    refused(check(&|c| c.text_column = "a".into()), &["holds the text column"]);
    refused(check(&|c| c.label_columns = Some(owned(&["a", "a"]))), &["twice"]);
    refused(check(&|c| c.label_columns = Some(owned(&["a"]))), &["at least two labels"]);
    refused(check(&|c| c.label_separator = " ".into()), &["label_separator = \" \"", "is no sign"]);
}

#[test]
fn a_stored_scheme_reads_new_files() -> Result<(), Error> {
    let scheme = LabelScheme { names: owned(&["a", "b", "c"]), task: Task::MultiLabel };
    let folder = Folder::new();
    let read = |file: &str, content: &str| {
        load_split(&multi_label(), &folder.file(file, content), &scheme)
    };
    assert_eq!(sets(&read("a.csv", "text,label\nt,c;a\nt,\nt,1\n")?), [&[0, 2][..], &[], &[1]]);
    refused(read("a.csv", "text,label\nt,c;d\n"), &["row 1", "unknown label `d`", "`a`, `b`, `c`"]);
    Ok(())
}

/// Row i has label 0 where 2 divides i, label 1 where 10 does, and so none where i is odd.
fn many(rows: usize) -> String {
    let labels = |i: usize| match (i % 2, i % 10) {
        (0, 0) => "a;b",
        (0, _) => "a",
        _ => "",
    };
    (0..rows).fold("text,label\n".to_owned(), |all, i| format!("{all}t{i},{}\n", labels(i)))
}

#[test]
fn carving_and_sampling_go_by_the_rarest_label() -> Result<(), Error> {
    let config = DataConfig { validation_fraction: 0.1, test_fraction: 0.1, ..multi_label() };
    let data = Folder::new().load(&config, "a.csv", many(600))?;
    let counts = |split: &[Example]| {
        [&[0, 1][..], &[0], &[]].map(|set| split.iter().filter(|e| e.labels == set).count())
    };
    assert_eq!(counts(&data.test), [6, 24, 30]);
    assert_eq!(counts(&data.validation), [6, 24, 30]);
    assert_eq!(counts(&data.train), [48, 192, 240]);

    let config = DataConfig { debug_mode_sample: Some(31), ..multi_label() };
    let sampled = Folder::new().load(&config, "a.csv", many(600))?;
    let mut each = counts(&sampled.train);
    each.sort_unstable();
    assert_eq!(each, [10, 10, 11]);
    Ok(())
}

#[test]
fn the_report_counts_labels_and_rows_without_any() {
    let example =
        |text: &str, labels: &[usize]| Example { text: text.into(), labels: labels.into(), row: 1 };
    let mut train = vec![example("same", &[0, 1]), example("other", &[0])];
    train.extend((0..40).map(|i| example(&i.to_string(), &[])));
    let dataset = Dataset {
        train,
        validation: vec![example("same", &[1]), example("other", &[0])],
        test: vec![],
        labels: LabelScheme { names: owned(&["a", "b"]), task: Task::MultiLabel },
    };
    let one = |rows: &[Example]| vec![Encoded { ids: vec![0], length: 1 }; rows.len()];
    let (a, b) = (one(&dataset.train), one(&dataset.validation));
    let report = DataReport::new(&dataset, [&a, &b, &[]], 4);
    let rows = report.splits.each_ref().map(|split| {
        (split.classes.iter().map(|class| class.rows).collect::<Vec<_>>(), split.unlabelled)
    });
    assert_eq!(rows[0], (vec![2, 1], Some(40)));
    assert_eq!(rows[1], (vec![1, 1], Some(0)));
    assert_eq!((report.shared[0].texts, report.shared[0].conflicting), (2, 1));
    let text = report.to_string();
    for part in ["  (no label)  ", "the rarest label, `b`, is on 1 of 42 train rows"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

/// The real data, where it is at hand: `FERROTUNE_UNFAIR_TOS` names its folder.
#[test]
fn unfair_tos_gives_the_known_counts() {
    let Some(folder) = std::env::var_os("FERROTUNE_UNFAIR_TOS") else {
        println!("skipped: FERROTUNE_UNFAIR_TOS is not set to the folder of UNFAIR-ToS");
        return;
    };
    let folder = std::path::Path::new(&folder);
    let files = |of: &dyn Fn(&str) -> String| {
        let path = |split: &str| vec![folder.join(of(split))];
        SplitFiles { train: path("train"), validation: path("validation"), test: path("test") }
    };
    let config = DataConfig { task: Task::MultiLabel, ..DataConfig::default() };
    let dataset = load(&config, &files(&|split| format!("{split}.jsonl")), 1).expect("readable");
    let parquet = |split: &str| format!("parquet/unfair_tos/{split}-00000-of-00001.parquet");
    let hub = load(&config, &files(&parquet), 1).expect("readable");
    assert!(dataset == hub, "JSONL and Parquet differ");
    let labelled = |split: &[Example]| split.iter().filter(|e| !e.labels.is_empty()).count();
    assert_eq!(labelled(&dataset.train), 630);
    assert_eq!(labelled(&dataset.validation), 230);
    assert_eq!(labelled(&dataset.test), 172);
}
