//! Carved splits and the debug sample: disjoint, stratified, pure functions of the seed.

mod common;

use std::collections::HashSet;

use common::{Folder, refused, whole};
use data::{DataConfig, Dataset, Error, Example, SplitFiles, load};

/// `texts[i]` is the text of row i; every third row is positive.
fn csv(texts: impl Iterator<Item = usize>) -> String {
    let rows = texts.enumerate().map(|(row, text)| format!("t{text},{}\n", u8::from(row % 3 == 0)));
    format!("text,label\n{}", rows.collect::<String>())
}

fn positives(split: &[Example]) -> usize {
    split.iter().filter(|example| example.labels == [1]).count()
}

fn rows(split: &[Example]) -> Vec<usize> {
    split.iter().map(|example| example.row).collect()
}

fn carved(seed: u64) -> Result<Dataset, Error> {
    let folder = Folder::new();
    let train = vec![folder.file("a.csv", csv(0..600))];
    let config = DataConfig { test_fraction: 0.2, ..DataConfig::default() };
    load(&config, &SplitFiles { train, ..SplitFiles::default() }, seed)
}

#[test]
fn carved_splits_keep_proportions_and_share_nothing() -> Result<(), Error> {
    let data = carved(1)?;
    let counts = [&data.train, &data.validation, &data.test].map(|s| (s.len(), positives(s)));
    assert_eq!(counts, [(420, 140), (60, 20), (120, 40)]);
    let all: HashSet<usize> =
        [&data.train, &data.validation, &data.test].iter().flat_map(|split| rows(split)).collect();
    assert_eq!(all.len(), 600);
    assert!(rows(&data.train).is_sorted());
    assert_eq!(carved(1)?, data);
    assert_ne!(rows(&carved(2)?.test), rows(&data.test));
    Ok(())
}

#[test]
fn rows_of_one_text_stay_in_one_split() -> Result<(), Error> {
    let data = Folder::new().load(&DataConfig::default(), "a.csv", csv((0..600).map(|i| i / 2)))?;
    let texts = |split: &[Example]| -> HashSet<String> {
        split.iter().map(|example| example.text.clone()).collect()
    };
    let [train, validation, test] = [&data.train, &data.validation, &data.test].map(|s| texts(s));
    assert!(train.is_disjoint(&validation) && train.is_disjoint(&test));
    assert!(validation.is_disjoint(&test));
    assert!((50..=60).contains(&data.test.len()), "{}", data.test.len());
    Ok(())
}

#[test]
fn only_a_split_without_a_file_is_carved() -> Result<(), Error> {
    let folder = Folder::new();
    let files = SplitFiles {
        train: vec![folder.file("a.csv", csv(0..60)), folder.file("b.csv", csv(60..90))],
        validation: vec![],
        test: vec![folder.file("test.csv", csv(0..9))],
    };
    let data = load(&DataConfig::default(), &files, 1)?;
    assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (81, 9, 9));
    Ok(())
}

#[test]
fn too_few_rows_to_carve_from_is_an_error() {
    let result = Folder::new().load(&DataConfig::default(), "a.csv", csv(0..6));
    refused(result, &["validation split of 0.1", "6 rows with 6 different texts"]);
}

#[test]
fn the_debug_sample_is_balanced_and_touches_train_alone() -> Result<(), Error> {
    let config = DataConfig { debug_mode_sample: Some(20), ..DataConfig::default() };
    let data = Folder::new().load(&config, "a.csv", csv(0..600))?;
    assert_eq!((data.train.len(), positives(&data.train)), (20, 10));
    assert_eq!((data.validation.len(), data.test.len()), (60, 60));
    assert!(rows(&data.train).is_sorted());

    let all = DataConfig { debug_mode_sample: Some(1000), ..whole() };
    assert_eq!(Folder::new().load(&all, "a.csv", csv(0..30))?.train.len(), 30);
    let more = DataConfig { debug_mode_sample: Some(25), ..whole() };
    let data = Folder::new().load(&more, "a.csv", csv(0..30))?;
    assert_eq!((data.train.len(), positives(&data.train)), (25, 10));
    Ok(())
}
