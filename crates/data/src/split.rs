//! Carving validation and test rows off the training rows, and the balanced sample of debug mode.
//! Both are stratified by class and pure functions of the seed. A row of several labels counts as one
//! of the rarest of them, and a row of none as one of a class of its own.

use std::collections::HashMap;

use crate::Example;
use crate::dataset::class_counts;
use crate::order::{Purpose, permutation};

/// Parts of one set of rows, each in the original order.
pub(crate) struct Parts {
    pub train: Vec<Example>,
    pub validation: Vec<Example>,
    pub test: Vec<Example>,
}

/// Gives each class's share of rows to validation and to test. Rows of the same text stay together,
/// so a carved split never repeats a training text; every class keeps a row in train.
pub(crate) fn carve(
    examples: Vec<Example>,
    classes: usize,
    validation_fraction: f64,
    test_fraction: f64,
    seed: u64,
) -> Parts {
    let mut place = vec![Place::Train; examples.len()];
    for (class, groups) in groups_by_class(&examples, classes).into_iter().enumerate() {
        let rows: usize = groups.iter().map(Vec::len).sum();
        let share = |fraction: f64| (rows as f64 * fraction).round() as usize;
        let mut test_left = share(test_fraction).min(rows.saturating_sub(1));
        let mut validation_left =
            share(validation_fraction).min(rows.saturating_sub(1 + test_left));
        for pick in permutation(seed, Purpose::Split, class as u64, groups.len() as u32) {
            let group = &groups[pick as usize];
            let (left, here) = if group.len() <= test_left {
                (&mut test_left, Place::Test)
            } else if group.len() <= validation_left {
                (&mut validation_left, Place::Validation)
            } else {
                continue;
            };
            *left -= group.len();
            group.iter().for_each(|&row| place[row] = here);
        }
    }
    let mut parts = Parts { train: vec![], validation: vec![], test: vec![] };
    for (example, place) in examples.into_iter().zip(place) {
        match place {
            Place::Train => parts.train.push(example),
            Place::Validation => parts.validation.push(example),
            Place::Test => parts.test.push(example),
        }
    }
    parts
}

#[derive(Clone, Copy)]
enum Place {
    Train,
    Validation,
    Test,
}

/// The class of each row: the rarest of its labels, or `classes` where it has none.
fn strata(examples: &[Example], classes: usize) -> Vec<usize> {
    let counts = class_counts(examples, classes);
    let rarest = |example: &Example| example.labels.iter().copied().min_by_key(|&l| counts[l]);
    examples.iter().map(|example| rarest(example).unwrap_or(classes)).collect()
}

/// Per class, the positions of its rows, equal texts in one group. A text whose rows are of several
/// classes goes with its first.
fn groups_by_class(examples: &[Example], classes: usize) -> Vec<Vec<Vec<usize>>> {
    let mut groups = vec![Vec::new(); classes + 1];
    let mut known: HashMap<&str, (usize, usize)> = HashMap::new();
    let strata = strata(examples, classes);
    for (position, (example, &class)) in examples.iter().zip(&strata).enumerate() {
        let (class, group) = *known.entry(&example.text).or_insert_with(|| {
            groups[class].push(Vec::new());
            (class, groups[class].len() - 1)
        });
        groups[class][group].push(position);
    }
    groups
}

/// `wanted` rows, as many of each class as of any other while they last, in the original order.
pub(crate) fn balanced_sample(
    examples: Vec<Example>,
    classes: usize,
    wanted: usize,
    seed: u64,
) -> Vec<Example> {
    let mut by_class = vec![Vec::new(); classes + 1];
    for (position, class) in strata(&examples, classes).into_iter().enumerate() {
        by_class[class].push(position);
    }
    let mut draws: Vec<_> = by_class
        .iter()
        .enumerate()
        .map(|(class, rows)| {
            let order = permutation(seed, Purpose::Sample, class as u64, rows.len() as u32);
            order.into_iter().map(|pick| rows[pick as usize])
        })
        .collect();
    let mut chosen = vec![false; examples.len()];
    let mut left = wanted.min(examples.len());
    while left > 0 {
        // One of each class per round.
        for row in draws.iter_mut().filter_map(Iterator::next).take(left).collect::<Vec<_>>() {
            chosen[row] = true;
            left -= 1;
        }
    }
    let mut chosen = chosen.into_iter();
    examples.into_iter().filter(|_| chosen.next() == Some(true)).collect()
}
