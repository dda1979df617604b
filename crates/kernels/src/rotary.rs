//! Rotary positions (Su et al. 2021): the numbers of a query or key are turned pairwise by angles in
//! proportion to its position, so that scores depend on distances. As Transformers has it, number j of
//! a head is paired with number j + D/2, and its angle is `position · θ^(−2j/D)`.
//!
//! Queries, keys and values come side by side from one product; they are parted on the way. A rotation's
//! backward is the rotation back.

use crate::Isa;
use crate::simd::{self, Kernel, Simd};
use crate::threads;

/// Rows that one task walks.
const ROWS: usize = 16;

/// Angles by position.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// Position of each row `[T]`.
    pub positions: &'a [u32],
    /// As [`rotary_table`] makes it [positions, D].
    pub table: &'a [f32],
    /// D, an even number.
    pub head_size: usize,
}

/// Cosines, then sines, of the D/2 angles of each position: [positions, D]. Angles are rounded to f32,
/// as Transformers rounds them.
///
/// # Panics
/// D is odd.
pub fn rotary_table(positions: usize, head_size: usize, theta: f64) -> Vec<f32> {
    assert!(head_size.is_multiple_of(2), "a head of {head_size} has no pairs");
    let half = head_size / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|j| 1.0 / theta.powf(2.0 * j as f64 / head_size as f64) as f32).collect();
    let mut table = vec![0.0; positions * head_size];
    threads::for_each(table.chunks_mut(head_size).enumerate(), |(position, row)| {
        let (cosines, sines) = row.split_at_mut(half);
        for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(&frequencies) {
            let (s, c) = f64::from(position as f32 * frequency).sin_cos();
            (*cos, *sin) = (c as f32, s as f32);
        }
    });
    table
}

impl Rotary<'_> {
    fn check(&self, joined: &[f32], parts: [&[f32]; 3]) -> usize {
        let size = parts[0].len();
        assert!(parts.into_iter().all(|part| part.len() == size), "parts differ in length");
        assert_eq!(joined.len(), 3 * size, "rows hold three parts");
        assert!(self.head_size > 0 && self.head_size.is_multiple_of(2));
        let rows = self.positions.len();
        assert!(rows > 0 && size.is_multiple_of(rows * self.head_size), "not {rows} rows of heads");
        let known = self.table.len() / self.head_size;
        assert!(self.positions.iter().all(|&p| (p as usize) < known), "a position beyond {known}");
        size / rows
    }

    fn angles(&self, row: usize) -> (&[f32], &[f32]) {
        let row = &self.table[self.positions[row] as usize * self.head_size..][..self.head_size];
        row.split_at(self.head_size / 2)
    }
}

/// Rows of `qkv` [T, 3H] are parted into `q`, `k` and `v` [T, H]; those of `q` and `k` are rotated.
///
/// # Panics
/// Lengths do not fit, or a position is beyond the table.
pub fn split_rotated(
    isa: Isa,
    qkv: &[f32],
    rotary: Rotary<'_>,
    q: &mut [f32],
    k: &mut [f32],
    v: &mut [f32],
) {
    let width = rotary.check(qkv, [q, k, v]);
    let size = ROWS * width;
    let parts = q.chunks_mut(size).zip(k.chunks_mut(size)).zip(v.chunks_mut(size));
    let blocks = qkv.chunks(3 * size).zip(parts).enumerate();
    threads::for_each(blocks, |(block, (qkv, ((q, k), v)))| {
        simd::run(isa, Split { qkv, q, k, v, rotary, width, first_row: block * ROWS });
    });
}

struct Split<'a> {
    qkv: &'a [f32],
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    rotary: Rotary<'a>,
    width: usize,
    first_row: usize,
}

impl Kernel for Split<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Split { rotary, width, first_row, .. } = self;
        let qkv = self.qkv.chunks_exact(3 * width);
        let parts = self.q.chunks_exact_mut(width).zip(self.k.chunks_exact_mut(width));
        let parts = parts.zip(self.v.chunks_exact_mut(width));
        for (i, (qkv, ((q, k), v))) in qkv.zip(parts).enumerate() {
            let (cos, sin) = rotary.angles(first_row + i);
            rotate(&qkv[..width], cos, sin, 1.0, q);
            rotate(&qkv[width..2 * width], cos, sin, 1.0, k);
            v.copy_from_slice(&qkv[2 * width..]);
        }
    }
}

/// The gradient of `qkv` from those of what [`split_rotated`] made of it.
///
/// # Panics
/// As there.
pub fn split_rotated_backward(
    isa: Isa,
    dq: &[f32],
    dk: &[f32],
    dv: &[f32],
    rotary: Rotary<'_>,
    dqkv: &mut [f32],
) {
    let width = rotary.check(dqkv, [dq, dk, dv]);
    let size = ROWS * width;
    let parts = dq.chunks(size).zip(dk.chunks(size)).zip(dv.chunks(size));
    let blocks = dqkv.chunks_mut(3 * size).zip(parts).enumerate();
    threads::for_each(blocks, |(block, (dqkv, ((dq, dk), dv)))| {
        simd::run(isa, Join { dqkv, dq, dk, dv, rotary, width, first_row: block * ROWS });
    });
}

struct Join<'a> {
    dqkv: &'a mut [f32],
    dq: &'a [f32],
    dk: &'a [f32],
    dv: &'a [f32],
    rotary: Rotary<'a>,
    width: usize,
    first_row: usize,
}

impl Kernel for Join<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Join { rotary, width, first_row, .. } = self;
        let dqkv = self.dqkv.chunks_exact_mut(3 * width);
        let parts = self.dq.chunks_exact(width).zip(self.dk.chunks_exact(width));
        let parts = parts.zip(self.dv.chunks_exact(width));
        for (i, (dqkv, ((dq, dk), dv))) in dqkv.zip(parts).enumerate() {
            let (cos, sin) = rotary.angles(first_row + i);
            rotate(dq, cos, sin, -1.0, &mut dqkv[..width]);
            rotate(dk, cos, sin, -1.0, &mut dqkv[width..2 * width]);
            dqkv[2 * width..].copy_from_slice(dv);
        }
    }
}

/// Turns the heads of a row by the angles, or with `sense` −1 back.
#[inline(always)]
fn rotate(x: &[f32], cos: &[f32], sin: &[f32], sense: f32, y: &mut [f32]) {
    let half = cos.len();
    for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
        let ((a, b), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
        for j in 0..half {
            let sin = sense * sin[j];
            ya[j] = a[j] * cos[j] - b[j] * sin;
            yb[j] = b[j] * cos[j] + a[j] * sin;
        }
    }
}
