//! Which keys of its sequence a query sees: all; those within a window, with or without the first
//! key (Longformer, Beltagy et al. 2020); or those of some blocks (BigBird, Zaheer et al. 2020).
//!
//! Queries are walked in blocks. The columns of a block's scores are the keys that any of its
//! queries sees, span by span. All positions here are counted from a sequence's start.

use std::ops::Range;

/// Which keys of its sequence a query sees.
#[derive(Clone, Copy, Debug, Default)]
pub enum Pattern<'a> {
    /// All.
    #[default]
    All,
    /// Those near it; a sequence's queries are its first tokens. Not together with a bias.
    Window {
        /// The farthest distance at which a key is seen.
        reach: usize,
        /// Whether the sequence's first key is seen from everywhere.
        first: bool,
    },
    /// Those of some blocks; a sequence's queries are its first tokens. Not together with a bias.
    Blocks(Blocks<'a>),
}

/// Sequences are cut into blocks of keys. Queries of the first and of the last block see all keys;
/// the others those of the first and the last block, of their own and its neighbours, and of random
/// ones: a block that is chosen twice is seen twice.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// Keys per block; a sequence's last may have fewer.
    pub size: usize,
    /// Sequences of at most so many keys are not cut: all keys are seen. Probabilities of those
    /// that are cut are not dropped out (as in Transformers).
    pub whole: usize,
    /// Random blocks of each query.
    pub random: usize,
    /// Their numbers, for rows of blocks of queries and for each head [rows, heads, random].
    pub table: &'a [u32],
    /// The row of each sequence's second block; its third has the next, and so on `[B]`.
    pub rows: &'a [u32],
}

impl<'a> Pattern<'a> {
    /// # Panics
    /// A sequence has more queries than keys, or blocks that are not in the table.
    pub(crate) fn check(&self, heads: usize, cu_q: &[u32], cu_kv: &[u32]) {
        if matches!(self, Pattern::All) {
            return;
        }
        let lengths = |cu: &[u32]| cu.windows(2).map(|w| (w[1] - w[0]) as usize).collect();
        let (queries, keys): (Vec<usize>, Vec<usize>) = (lengths(cu_q), lengths(cu_kv));
        assert!(queries.iter().zip(&keys).all(|(q, kv)| q <= kv), "more queries than keys");
        let Pattern::Blocks(blocks) = self else { return };
        assert!(blocks.size > 0, "blocks of no keys");
        assert_eq!(blocks.rows.len(), keys.len(), "rows of the table");
        for (&row, &keys) in blocks.rows.iter().zip(&keys).filter(|(_, keys)| **keys > blocks.whole)
        {
            let (count, per_row) = (keys.div_ceil(blocks.size), heads * blocks.random);
            let chosen = row as usize * per_row..(row as usize + count.max(2) - 2) * per_row;
            assert!(blocks.table[chosen].iter().all(|&b| (b as usize) < count), "no such block");
        }
    }

    /// The pattern in one head of one sequence of so many keys.
    pub(crate) fn in_head(
        &self,
        (sequence, head): (usize, usize),
        heads: usize,
        keys: usize,
    ) -> HeadPattern<'a> {
        let kind = match *self {
            Pattern::Window { reach, first } if reach + 1 < keys => Kind::Window { reach, first },
            Pattern::Blocks(blocks) if keys > blocks.whole => {
                let Blocks { size, random, table, rows, .. } = blocks;
                let per_row = heads * random;
                let first = rows[sequence] as usize * per_row + head * random;
                Kind::Blocks { size, random, table, first, per_row }
            }
            _ => Kind::All,
        };
        HeadPattern { kind, keys }
    }
}

/// The pattern in one head of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct HeadPattern<'a> {
    kind: Kind<'a>,
    keys: usize,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    All,
    Window {
        reach: usize,
        first: bool,
    },
    /// The second block's `random` numbers begin at `first` in the table, the third's `per_row`
    /// later.
    Blocks {
        size: usize,
        random: usize,
        table: &'a [u32],
        first: usize,
        per_row: usize,
    },
}

impl HeadPattern<'_> {
    /// Whether every block of queries sees every key, in the order of the sequence.
    pub(crate) fn is_all(&self) -> bool {
        matches!(self.kind, Kind::All)
    }

    /// Whether probabilities may be dropped out.
    pub(crate) fn may_drop(&self) -> bool {
        !matches!(self.kind, Kind::Blocks { .. })
    }

    /// So many queries, cut into blocks of at most `most` that see the same spans.
    pub(crate) fn blocks(
        &self,
        queries: usize,
        most: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = match self.kind {
            Kind::Blocks { size, .. } => size,
            Kind::All | Kind::Window { .. } => most,
        };
        (0..queries).step_by(size).flat_map(move |first| {
            let end = (first + size).min(queries);
            (first..end).step_by(most).map(move |start| start..(start + most).min(end))
        })
    }

    /// The keys that some query of a block sees, in the order of the columns.
    pub(crate) fn spans(&self, block: &Range<usize>, spans: &mut Vec<Range<usize>>) {
        spans.clear();
        match self.kind {
            Kind::All => spans.push(0..self.keys),
            Kind::Window { reach, first } => {
                let window = block.start.saturating_sub(reach)..(block.end + reach).min(self.keys);
                if first && window.start > 0 {
                    spans.push(0..1);
                }
                spans.push(window);
            }
            Kind::Blocks { size, random, table, first, per_row } => {
                let (own, last) = (block.start / size, (self.keys - 1) / size);
                if own == 0 || own == last {
                    spans.push(0..self.keys);
                    return;
                }
                let keys = |block: usize| block * size..((block + 1) * size).min(self.keys);
                let near = (own - 1).max(1)..=(own + 1).min(last - 1);
                let chosen = &table[first + (own - 1) * per_row..][..random];
                let chosen = chosen.iter().map(|&block| block as usize);
                spans.extend([0].into_iter().chain(near).chain(chosen).chain([last]).map(keys));
            }
        }
    }

    /// Which columns of a block's scores each of its rows sees.
    pub(crate) fn band(&self, block: &Range<usize>, columns: usize) -> Band {
        let window = match self.kind {
            Kind::Window { reach, first } => {
                let least = block.start.saturating_sub(reach);
                let start = usize::from(first && least > 0);
                Some(Window { own: start + block.start - least, start, reach, first })
            }
            Kind::All | Kind::Blocks { .. } => None,
        };
        Band { columns, window }
    }

    /// Most keys that a block of at most `most` queries may see.
    pub(crate) fn most_seen(&self, most: usize) -> usize {
        match self.kind {
            Kind::All => self.keys,
            Kind::Window { reach, first } => (most + 2 * reach + usize::from(first)).min(self.keys),
            Kind::Blocks { size, random, .. } => self.keys.max((5 + random) * size),
        }
    }
}

/// Which columns of a block's scores are of keys that a row's query sees.
#[derive(Clone, Copy)]
pub(crate) struct Band {
    pub(crate) columns: usize,
    window: Option<Window>,
}

#[derive(Clone, Copy)]
struct Window {
    /// Column of the key at the first row's own position.
    own: usize,
    /// Column where the window's keys begin.
    start: usize,
    reach: usize,
    /// Whether column 0 is seen in any case.
    first: bool,
}

impl Band {
    /// The columns that a row sees, and whether it sees column 0 beside them.
    pub(crate) fn row(&self, row: usize) -> (Range<usize>, bool) {
        let Some(Window { own, start, reach, first }) = self.window else {
            return (0..self.columns, false);
        };
        let own = own + row;
        let range = own.saturating_sub(reach).max(start)..(own + reach + 1).min(self.columns);
        let beside = first && range.start > 0;
        (range, beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pattern: Pattern<'_>, keys: usize, most: usize) -> Vec<Vec<usize>> {
        let head = pattern.in_head((0, 0), 1, keys);
        let (mut spans, mut all) = (Vec::new(), Vec::new());
        for block in head.blocks(keys, most) {
            head.spans(&block, &mut spans);
            let columns: Vec<usize> = spans.iter().cloned().flatten().collect();
            assert!(columns.len() <= head.most_seen(most));
            let band = head.band(&block, columns.len());
            for row in 0..block.len() {
                let (range, beside) = band.row(row);
                let mut keys: Vec<usize> = columns[range].to_vec();
                keys.extend(beside.then_some(columns[0]));
                keys.sort_unstable();
                all.push(keys);
            }
        }
        all
    }

    #[test]
    fn a_window_is_what_its_words_say() {
        for (keys, most) in [(1, 4), (2, 4), (9, 1), (23, 4), (40, 64)] {
            for reach in [0, 1, 2, 5, 11, 40] {
                for first in [false, true] {
                    let expected: Vec<Vec<usize>> = (0..keys)
                        .map(|i: usize| {
                            let near = |&j: &usize| i.abs_diff(j) <= reach || first && j == 0;
                            (0..keys).filter(near).collect()
                        })
                        .collect();
                    assert_eq!(seen(Pattern::Window { reach, first }, keys, most), expected);
                }
            }
        }
    }

    #[test]
    fn blocks_are_the_first_the_last_the_neighbours_and_the_chosen() {
        let table = [4, 4, 0, 5, 1, 1, 2, 0];
        let blocks = Blocks { size: 3, whole: 4, random: 2, table: &table, rows: &[0] };
        let keys_of = |blocks: &[usize]| -> Vec<usize> {
            let mut keys: Vec<usize> =
                blocks.iter().flat_map(|b| b * 3..(b * 3 + 3).min(17)).collect();
            keys.sort_unstable();
            keys
        };
        let by_block = [
            keys_of(&[0, 1, 2, 3, 4, 5]),
            keys_of(&[0, 1, 2, 5, 4, 4]),
            keys_of(&[0, 1, 2, 3, 5, 0, 5]),
            keys_of(&[0, 2, 3, 4, 5, 1, 1]),
            keys_of(&[0, 3, 4, 5, 2, 0]),
            keys_of(&[0, 1, 2, 3, 4, 5]),
        ];
        for most in [1, 2, 64] {
            let seen = seen(Pattern::Blocks(blocks), 17, most);
            for (i, keys) in seen.iter().enumerate() {
                assert_eq!(*keys, by_block[i / 3], "query {i}");
            }
        }
        let whole = seen(Pattern::Blocks(blocks), 4, 64);
        assert!(whole.iter().all(|keys| *keys == [0, 1, 2, 3]));
    }
}
