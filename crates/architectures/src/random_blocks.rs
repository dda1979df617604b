//! The blocks of keys that BigBird draws at random (Zaheer et al. 2020), as Transformers does in
//! training: with numpy's old generator, seeded anew by the layer's number in every pass. So a layer
//! draws the same blocks in all passes, and they are tables here. In evaluation Transformers takes
//! block 0 in place of each.
//!
//! There are two ways to draw. That of most lengths gives a block of queries the same whatever comes
//! behind it, so one table serves all of them; the other is for lengths of 1,024, 3,072 and 4,096.

use crate::backend::{Backend, Pattern};
use std::ops::Range;

/// How sequences are cut into blocks, and how many are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSizes {
    /// Tokens per block.
    pub(crate) size: usize,
    /// Random blocks of a block of queries.
    pub(crate) random: usize,
    pub(crate) heads: usize,
    /// The longest sequence there is.
    pub(crate) max_length: usize,
}

/// Lengths, with padding to whole blocks, that are drawn for as in BigBird's paper.
const PAPER: [usize; 3] = [1024, 3072, 4096];
/// Where the paper's way stops to draw.
const PAPER_END: usize = 1024;

impl BlockSizes {
    /// Sequences of at most so many tokens see all of themselves.
    pub(crate) fn whole(&self) -> usize {
        (5 + 2 * self.random) * self.size
    }

    /// Rows of a table that has one for each block of queries but the first and the last.
    fn rows(&self) -> usize {
        self.max_length.div_ceil(self.size).saturating_sub(2)
    }

    /// Numbers in all tables of a layer.
    pub(crate) fn table_size(&self) -> usize {
        3 * self.rows() * self.heads * self.random
    }

    /// Whether sequences of this length are drawn for as in the paper.
    fn as_in_the_paper(&self, length: usize) -> bool {
        let padded = length.next_multiple_of(self.size);
        length > self.whole() && padded <= self.max_length && PAPER.contains(&padded)
    }

    /// The first block of queries for which the paper's way has too few blocks to choose from, if
    /// it is ever gone.
    pub(crate) fn impossible(&self) -> Option<usize> {
        if self.random == 0 || !PAPER.into_iter().any(|length| self.as_in_the_paper(length)) {
            return None;
        }
        // One that is left is taken for all (numpy repeats it); none, or some but too few, fail.
        let fits = |left: usize| left == 1 || left >= self.random;
        (1..=self.paper_rows()).find(|&block| !fits(self.paper_choice(block).count()))
    }

    fn paper_rows(&self) -> usize {
        (self.max_length / self.size).saturating_sub(2)
    }

    /// What a block of queries may choose from in the paper's way; as in Transformers that is now
    /// and then its own neighbour.
    fn paper_choice(&self, block: usize) -> impl Iterator<Item = u32> + use<> {
        let count = self.max_length / self.size;
        let blocks = if PAPER_END > 2 * self.size { PAPER_END / self.size } else { count };
        let end = blocks - 1;
        // Of the blocks between the first and the last, by index.
        let between = |range: Range<usize>| {
            let end = range.end.min(count - 2);
            range.start.min(end)..end
        };
        let (before, behind) = match block {
            1 => (0..0, 2..end),
            2 => (0..0, 3..end),
            _ if block + 3 == count || block + 2 == count => (0..end, 0..0),
            _ if block - 2 > end => (0..end, 0..0),
            _ if block + 1 == end => (0..block - 2, 0..0),
            _ => (0..block - 2, block + 1..end),
        };
        between(before).chain(between(behind)).map(|index| index as u32 + 1)
    }

    /// The paper's way [rows, heads, random].
    fn draw_as_in_the_paper(&self, seed: u32) -> Vec<u32> {
        let mut state = RandomState::new(seed);
        let per_row = self.heads * self.random;
        let mut table = vec![0; self.paper_rows() * per_row];
        for head in 0..self.heads {
            for block in 1..=self.paper_rows() {
                let mut choice: Vec<u32> = self.paper_choice(block).collect();
                state.permute(&mut choice);
                let chosen = &mut table[(block - 1) * per_row + head * self.random..];
                for (i, chosen) in chosen[..self.random].iter_mut().enumerate() {
                    *chosen = choice[if choice.len() == 1 { 0 } else { i }];
                }
            }
        }
        table
    }

    /// The way of all other lengths [rows, heads, random].
    fn draw(&self, seed: u32) -> Vec<u32> {
        let mut state = RandomState::new(seed);
        let end = 2 * self.random as u32 + 5;
        let mut table = Vec::with_capacity(self.rows() * self.heads * self.random);
        for block in 1..=self.rows() as u32 {
            for _ in 0..self.heads {
                let mut order: Vec<u32> = (0..end).collect();
                state.permute(&mut order);
                let forbidden = |chosen: u32| {
                    chosen.abs_diff(block) <= 1
                        || chosen == 0
                        || chosen == end - 1
                        || block == 1 && chosen == end - 2
                        || block == end - 2 && chosen == 1
                };
                let allowed = order.into_iter().filter(|&chosen| !forbidden(chosen));
                table.extend(allowed.take(self.random));
            }
        }
        table
    }
}

/// A layer's tables.
#[derive(Debug)]
pub(crate) struct RandomBlocks<B: Backend> {
    sizes: BlockSizes,
    /// Zeros, for evaluation; what most lengths draw; what some draw [rows, heads, random].
    table: B::Indices,
}

impl<B: Backend> RandomBlocks<B> {
    /// The tables of layer `seed`.
    pub(crate) fn new(backend: &B, sizes: BlockSizes, seed: u32) -> RandomBlocks<B> {
        let mut table = vec![0; sizes.rows() * sizes.heads * sizes.random];
        table.extend(sizes.draw(seed));
        if PAPER.into_iter().any(|length| sizes.as_in_the_paper(length)) {
            table.extend(sizes.draw_as_in_the_paper(seed));
        }
        RandomBlocks { sizes, table: backend.indices(table) }
    }

    /// What queries of sequences of these lengths see.
    pub(crate) fn pattern(
        &self,
        backend: &B,
        lengths: &[u32],
        training: bool,
    ) -> Pattern<'_, B::Indices> {
        let first_row = |&length: &u32| match training {
            false => 0,
            true if self.sizes.as_in_the_paper(length as usize) => 2 * self.sizes.rows() as u32,
            true => self.sizes.rows() as u32,
        };
        Pattern::Blocks {
            size: self.sizes.size,
            whole: self.sizes.whole(),
            random: self.sizes.random,
            table: &self.table,
            rows: backend.indices(lengths.iter().map(first_row).collect()),
        }
    }
}

const WORDS: usize = 624;

/// numpy's `RandomState`: MT19937 (Matsumoto and Nishimura 1998) and what it makes of its words.
struct RandomState {
    words: [u32; WORDS],
    next: usize,
}

impl RandomState {
    /// As `numpy.random.seed(seed)` leaves it.
    fn new(seed: u32) -> RandomState {
        let mut words = [seed; WORDS];
        for i in 1..WORDS {
            let before = words[i - 1];
            words[i] = (before ^ before >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        RandomState { words, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for i in 0..WORDS {
                let next = self.words[(i + 1) % WORDS];
                let mixed = self.words[i] & 0x8000_0000 | next & 0x7FFF_FFFF;
                let twist = if next & 1 == 0 { 0 } else { 0x9908_B0DF };
                self.words[i] = self.words[(i + 397) % WORDS] ^ mixed >> 1 ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9D2C_5680;
        word ^= word << 15 & 0xEFC6_0000;
        word ^ word >> 18
    }

    /// One of 0, …, `most`: words under the mask of its bits, until one is not beyond it.
    fn at_most(&mut self, most: u32) -> u32 {
        let mask = u32::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.word() & mask;
            if value <= most {
                return value;
            }
        }
    }

    /// As `numpy.random.permutation` orders them.
    fn permute(&mut self, values: &mut [u32]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.at_most(i as u32) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockSizes, RandomState};
    use serde::Deserialize;

    /// What Transformers draws, from `tests/parity/fixtures.py`.
    #[derive(Deserialize)]
    struct Drawn {
        seed: u32,
        heads: usize,
        size: usize,
        random: usize,
        max_length: usize,
        length: usize,
        /// [rows, heads, random]
        blocks: Vec<u32>,
    }

    #[test]
    fn blocks_are_those_that_transformers_draws() {
        let text = include_str!("../tests/fixtures/random_blocks.json");
        let cases: Vec<Drawn> = serde_json::from_str(text).expect("a fixture");
        let mut ways = [0, 0];
        for Drawn { seed, heads, size, random, max_length, length, blocks } in cases {
            let sizes = BlockSizes { size, random, heads, max_length };
            let paper = sizes.as_in_the_paper(length);
            let table = if paper { sizes.draw_as_in_the_paper(seed) } else { sizes.draw(seed) };
            assert_eq!(table[..blocks.len()], blocks, "{sizes:?} at {length}");
            assert_eq!(blocks.len(), (length.div_ceil(size) - 2) * heads * random);
            assert_eq!(sizes.impossible(), None);
            ways[usize::from(paper)] += 1;
        }
        assert!(ways.iter().all(|&way| way >= 4), "{ways:?}");
    }

    #[test]
    fn the_generator_is_numpys() {
        // np.random.seed(7); np.random.permutation(12)
        let mut values: Vec<u32> = (0..12).collect();
        RandomState::new(7).permute(&mut values);
        assert_eq!(values, [7, 10, 2, 5, 0, 1, 11, 8, 3, 6, 9, 4]);
    }

    #[test]
    fn lengths_that_cannot_be_drawn_for_are_known() {
        // The third block may choose among none.
        let sizes = BlockSizes { size: 256, random: 3, heads: 2, max_length: 4096 };
        assert_eq!(sizes.impossible(), Some(2));
        // As no length of the paper is cut into such blocks, or none is so long.
        assert_eq!(BlockSizes { size: 300, ..sizes }.impossible(), None);
        assert_eq!(BlockSizes { max_length: 3071, ..sizes }.impossible(), None);
        assert_eq!(BlockSizes { size: 64, ..sizes }.impossible(), None);
    }
}
