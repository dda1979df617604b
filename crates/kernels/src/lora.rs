//! The thin products of a LoRA adapter (Hu et al. 2021), `y += s·dropout(x)·Aᵀ·Bᵀ`, with dropout
//! applied on the way: every pass reads a wide matrix once and no masked copy of it is written. The
//! product with Bᵀ belongs to the frozen weight's ([`LowRank`](crate::LowRank)); the others are
//! here, each followed by its backward. They are bound by memory and so stay in f32 whatever the
//! precision of large products.
//!
//! Sums over tokens go through parts of [`PART`] rows, added in order: the same bits for any number
//! of threads.

use crate::dropout::Dropout;
use crate::simd::{self, Access, First, Kernel, Simd, Whole};
use crate::{Isa, threads};
use std::cell::RefCell;
use std::ops::Range;

/// Tokens that are summed together.
const PART: usize = 128;
/// Tokens whose masked rows are held at a time, so that they stay in cache.
const ROWS: usize = 16;
/// Rows of A, or of Bᵀ, that are taken together.
const RANKS: usize = 8;

/// Numbers that the sums of `tokens` rows into a [r, n] gradient need on the way.
pub fn lora_partial_sums(tokens: usize, r: usize, n: usize) -> usize {
    tokens.div_ceil(PART) * r * n
}

/// `z = s·dropout(x)·Aᵀ`: `x` [T, in], `a` [r, in], `z` [T, r].
///
/// # Panics
/// Lengths do not fit.
pub fn lora_down(
    isa: Isa,
    x: &[f32],
    a: &[f32],
    r: usize,
    scale: f32,
    dropout: Option<Dropout>,
    z: &mut [f32],
) {
    let columns = a.len() / r;
    assert!(a.len() == r * columns && x.len() * r == z.len() * columns);
    let parts = z.chunks_mut(ROWS * r).zip(x.chunks(ROWS * columns)).enumerate();
    threads::for_each(parts, |(part, (z, x))| {
        with_scratch(|scratch| {
            let input = Input { x, columns, dropout, first_row: part * ROWS };
            simd::run(isa, Down { input, a, r, scale, z, scratch });
        });
    });
}

/// Backward of [`lora_down`]: from `dz` [T, r], the gradient of `z / s`, adds A's gradient to `da`
/// and x's to `dx` if it is wanted. `partial` is scratch of [`lora_partial_sums`]`(T, r, in)`.
///
/// # Panics
/// Lengths do not fit.
#[expect(clippy::too_many_arguments, reason = "forward's inputs, and where gradients go")]
pub fn lora_down_backward(
    isa: Isa,
    x: &[f32],
    a: &[f32],
    r: usize,
    dropout: Option<Dropout>,
    dz: &[f32],
    da: &mut [f32],
    dx: Option<&mut [f32]>,
    partial: &mut [f32],
) {
    let columns = a.len() / r;
    assert!(r * columns == a.len() && da.len() == a.len() && x.len() * r == dz.len() * columns);
    assert!(dx.as_ref().is_none_or(|dx| dx.len() == x.len()));
    let tokens = x.len() / columns;
    assert_eq!(partial.len(), lora_partial_sums(tokens, r, columns));
    let part = |index: usize, da: &mut [f32], dx: Option<&mut [f32]>| {
        let rows = index * PART..((index + 1) * PART).min(tokens);
        let x = &x[rows.start * columns..rows.end * columns];
        let input = Input { x, columns, dropout, first_row: rows.start };
        let dz = &dz[rows.start * r..rows.end * r];
        with_scratch(|scratch| simd::run(isa, DownBackward { input, a, r, dz, da, dx, scratch }));
    };
    let partials = partial.chunks_mut(r * columns);
    match dx {
        None => threads::for_each(partials.enumerate(), |(index, da)| part(index, da, None)),
        Some(dx) => {
            let parts = partials.zip(dx.chunks_mut(PART * columns)).enumerate();
            threads::for_each(parts, |(index, (da, dx))| part(index, da, Some(dx)));
        }
    }
    add_partials(da, partial, |i| i);
}

/// Backward of `y += z·Bᵀ` where z = s·dropout(x)·Aᵀ: from `dy` [T, out] writes the gradient of z/s
/// to `dz` [T, r] and adds B's to `db` [out, r]. `transposed` is scratch as large as B, `partial`
/// of [`lora_partial_sums`]`(T, r, out)`.
///
/// # Panics
/// Lengths do not fit.
#[expect(clippy::too_many_arguments, reason = "forward's inputs, and where gradients go")]
pub fn lora_up_backward(
    isa: Isa,
    dy: &[f32],
    z: &[f32],
    b: &[f32],
    r: usize,
    scale: f32,
    dz: &mut [f32],
    db: &mut [f32],
    transposed: &mut [f32],
    partial: &mut [f32],
) {
    let out = b.len() / r;
    assert!(b.len() == out * r && db.len() == b.len() && transposed.len() == b.len());
    assert!(z.len() == dz.len() && dy.len() * r == dz.len() * out);
    assert_eq!(partial.len(), lora_partial_sums(z.len() / r, r, out));
    for (i, row) in b.chunks_exact(r).enumerate() {
        for (k, &x) in row.iter().enumerate() {
            transposed[k * out + i] = x;
        }
    }
    let b = &*transposed;
    let parts = partial.chunks_mut(r * out).zip(dz.chunks_mut(PART * r));
    let inputs = dy.chunks(PART * out).zip(z.chunks(PART * r));
    threads::for_each(parts.zip(inputs), |((db, dz), (dy, z))| {
        simd::run(isa, UpBackward { dy, z, b, r, scale, dz, db });
    });
    add_partials(db, partial, |i| i % r * out + i / r);
}

/// Adds to every number those at its place in all parts, in order.
fn add_partials(sums: &mut [f32], partial: &[f32], place: impl Fn(usize) -> usize + Sync) {
    const CHUNK: usize = 4096;
    let size = sums.len();
    threads::for_each(sums.chunks_mut(CHUNK).enumerate(), |(chunk, sums)| {
        for part in partial.chunks_exact(size) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += part[place(chunk * CHUNK + i)];
            }
        }
    });
}

/// Memory of a thread for a few rows' masks and masked rows.
#[derive(Default)]
struct Scratch {
    factors: Vec<f32>,
    rows: Vec<f32>,
}

fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()));
}

/// Rows of x and their masks.
#[derive(Clone, Copy)]
struct Input<'a> {
    x: &'a [f32],
    columns: usize,
    dropout: Option<Dropout>,
    first_row: usize,
}

impl<'a> Input<'a> {
    /// `count ≤ ROWS` rows behind their masks, and the masks if there are any.
    #[inline(always)]
    unsafe fn masked<'s, S: Simd>(
        &self,
        first: usize,
        count: usize,
        scratch: &'s mut Scratch,
    ) -> (&'s [f32], Option<&'s [f32]>)
    where
        'a: 's,
    {
        let size = count * self.columns;
        let x = &self.x[first * self.columns..][..size];
        let Some(dropout) = self.dropout else { return (x, None) };
        let Scratch { factors, rows } = scratch;
        factors.resize(factors.len().max(size), 0.0);
        rows.resize(rows.len().max(size), 0.0);
        let (factors, rows) = (&mut factors[..size], &mut rows[..size]);
        for (i, factors) in factors.chunks_exact_mut(self.columns).enumerate() {
            // SAFETY: the caller vouches for `S`.
            unsafe { dropout.factors::<S>(self.first_row + first + i, factors) };
        }
        for ((row, x), factor) in rows.iter_mut().zip(x).zip(&*factors) {
            *row = x * factor;
        }
        (rows, Some(factors))
    }
}

struct Down<'a> {
    input: Input<'a>,
    a: &'a [f32],
    r: usize,
    scale: f32,
    z: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Kernel for Down<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Down { input, a, r, scale, z, scratch } = self;
        // SAFETY: `simd::run` chose `S`.
        unsafe {
            let (rows, _) = input.masked::<S>(0, z.len() / r, scratch);
            dots::<S>(rows, a, r, scale, z);
        }
    }
}

struct DownBackward<'a> {
    input: Input<'a>,
    a: &'a [f32],
    r: usize,
    dz: &'a [f32],
    da: &'a mut [f32],
    dx: Option<&'a mut [f32]>,
    scratch: &'a mut Scratch,
}

impl Kernel for DownBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let DownBackward { input, a, r, dz, da, mut dx, scratch } = self;
        da.fill(0.0);
        for (index, dz) in dz.chunks(ROWS * r).enumerate() {
            let (first, count) = (index * ROWS, dz.len() / r);
            // SAFETY: `simd::run` chose `S`.
            unsafe {
                let (rows, factors) = input.masked::<S>(first, count, scratch);
                outer::<S>(rows, dz, r, da);
                if let Some(dx) = &mut dx {
                    let dx = &mut dx[first * input.columns..][..count * input.columns];
                    expand::<S>(dz, a, r, factors, dx);
                }
            }
        }
    }
}

struct UpBackward<'a> {
    dy: &'a [f32],
    z: &'a [f32],
    b: &'a [f32],
    r: usize,
    scale: f32,
    dz: &'a mut [f32],
    db: &'a mut [f32],
}

impl Kernel for UpBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let UpBackward { dy, z, b, r, scale, dz, db } = self;
        let size = ROWS * (b.len() / r);
        db.fill(0.0);
        let rows = dy.chunks(size).zip(z.chunks(ROWS * r));
        for (dz, (dy, z)) in dz.chunks_mut(ROWS * r).zip(rows) {
            // SAFETY: `simd::run` chose `S`.
            unsafe {
                dots::<S>(dy, b, r, scale, dz);
                outer::<S>(dy, z, r, db);
            }
        }
    }
}

/// `out[t, k] = scale · Σⱼ rows[t, j]·a[k, j]`: `rows` [t, n], `a` [r, n], `out` [t, r].
#[inline(always)]
unsafe fn dots<S: Simd>(rows: &[f32], a: &[f32], r: usize, scale: f32, out: &mut [f32]) {
    let n = a.len() / r;
    assert!(rows.len() * r == out.len() * n && a.len() == r * n);
    let tokens = out.len() / r;
    let mut t = 0;
    // SAFETY: rows t and t + 1 exist where two are taken; the caller vouches for `S`.
    unsafe {
        while t + 2 <= tokens && S::REGISTERS == 32 {
            dots_of::<S, 2>(rows, a, r, scale, t, out);
            t += 2;
        }
        while t < tokens {
            dots_of::<S, 1>(rows, a, r, scale, t, out);
            t += 1;
        }
    }
}

/// [`dots`] of rows `t..t + R`.
#[inline(always)]
unsafe fn dots_of<S: Simd, const R: usize>(
    rows: &[f32],
    a: &[f32],
    r: usize,
    scale: f32,
    t: usize,
    out: &mut [f32],
) {
    let n = a.len() / r;
    // SAFETY: rows t.. of `rows` and, clamped to the last, all rows of `a` have `n` numbers; the
    // caller vouches for the rest.
    unsafe {
        let rows = rows.as_ptr().add(t * n);
        for first in (0..r).step_by(RANKS) {
            let a: [*const f32; RANKS] =
                std::array::from_fn(|k| a.as_ptr().wrapping_add((first + k).min(r - 1) * n));
            let mut sums = [[S::splat(0.0); RANKS]; R];
            let mut j = 0;
            while j + S::LANES <= n {
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = S::load(rows.add(i * n + j));
                    for (sum, a) in sums.iter_mut().zip(a) {
                        *sum = S::fma(x, S::load(a.add(j)), *sum);
                    }
                }
                j += S::LANES;
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = S::load_first(rows.add(i * n + j), n - j);
                for (sum, a) in sums.iter_mut().zip(a) {
                    *sum = S::fma(x, S::load_first(a.add(j), n - j), *sum);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (k, &sum) in sums.iter().enumerate().take(r - first) {
                    out[(t + i) * r + first + k] = scale * S::sum(sum);
                }
            }
        }
    }
}

/// `sums[k, j] += Σₜ c[t, k]·rows[t, j]`: `rows` [t, n], `c` [t, r], `sums` [r, n], t ≤ ROWS.
#[inline(always)]
unsafe fn outer<S: Simd>(rows: &[f32], c: &[f32], r: usize, sums: &mut [f32]) {
    let n = sums.len() / r;
    assert!(sums.len() == r * n && rows.len() * r == c.len() * n && c.len() <= ROWS * r);
    for first in (0..r).step_by(RANKS) {
        let ranks = (r - first).min(RANKS);
        // Ranks that do not exist count as 0.
        let mut factors = [[0.0; RANKS]; ROWS];
        for (factors, c) in factors.iter_mut().zip(c.chunks_exact(r)) {
            factors[..ranks].copy_from_slice(&c[first..first + ranks]);
        }
        let factors = &factors[..c.len() / r];
        let sums = &mut sums[first * n..(first + ranks) * n];
        let mut j = 0;
        // SAFETY: columns j.. exist where whole vectors are taken; the caller vouches for `S`.
        unsafe {
            while j + 2 * S::LANES <= n && S::REGISTERS == 32 {
                outer_of::<S, Whole, 2>(rows, factors, n, j, sums);
                j += 2 * S::LANES;
            }
            while j + S::LANES <= n {
                outer_of::<S, Whole, 1>(rows, factors, n, j, sums);
                j += S::LANES;
            }
            if j < n {
                outer_of::<S, First, 1>(rows, factors, n, j, sums);
            }
        }
    }
}

/// [`outer`] of V vectors of columns from `j` on.
#[inline(always)]
unsafe fn outer_of<S: Simd, A: Access<S>, const V: usize>(
    rows: &[f32],
    factors: &[[f32; RANKS]],
    n: usize,
    j: usize,
    sums: &mut [f32],
) {
    // SAFETY: each row of `rows` and `sums` has V vectors from `j` on; the caller vouches for the
    // rest.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; RANKS];
        for (t, factors) in factors.iter().enumerate() {
            let mut x = [S::splat(0.0); V];
            for (v, x) in x.iter_mut().enumerate() {
                *x = A::load(rows.as_ptr().add(t * n + j + v * S::LANES), n - j);
            }
            for (acc, &factor) in acc.iter_mut().zip(factors) {
                let factor = S::splat(factor);
                for (acc, &x) in acc.iter_mut().zip(&x) {
                    *acc = S::fma(factor, x, *acc);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(n)) {
            for (v, &acc) in acc.iter().enumerate() {
                let sum = sums.as_mut_ptr().add(j + v * S::LANES);
                A::store(sum, n - j, S::add(A::load(sum, n - j), acc));
            }
        }
    }
}

/// `y[t, j] += factors[t, j] · Σₖ c[t, k]·a[k, j]`: `c` [t, r], `a` [r, n], `y` [t, n].
#[inline(always)]
unsafe fn expand<S: Simd>(c: &[f32], a: &[f32], r: usize, factors: Option<&[f32]>, y: &mut [f32]) {
    /// Rows that share a load of A.
    const R: usize = 4;
    let n = a.len() / r;
    let tokens = c.len() / r;
    assert!(a.len() == r * n && y.len() == tokens * n);
    assert!(factors.is_none_or(|factors| factors.len() == y.len()));
    for first in (0..tokens).step_by(R) {
        let c: [&[f32]; R] = std::array::from_fn(|i| &c[(first + i).min(tokens - 1) * r..][..r]);
        let rows = first..(first + R).min(tokens);
        let mut j = 0;
        // SAFETY: columns j.. exist where whole vectors are taken; the caller vouches for `S`.
        unsafe {
            while j + S::LANES <= n {
                expand_of::<S, Whole, R>(c, a, factors, rows.clone(), n, j, y);
                j += S::LANES;
            }
            if j < n {
                expand_of::<S, First, R>(c, a, factors, rows, n, j, y);
            }
        }
    }
}

/// [`expand`] of one vector of columns from `j` on; the rows that do not exist repeat the last.
#[inline(always)]
unsafe fn expand_of<S: Simd, A: Access<S>, const R: usize>(
    c: [&[f32]; R],
    a: &[f32],
    factors: Option<&[f32]>,
    rows: Range<usize>,
    n: usize,
    j: usize,
    y: &mut [f32],
) {
    // SAFETY: each row of `a`, `factors` and `y` has a vector at `j`; the caller vouches for the
    // rest.
    unsafe {
        let mut acc = [S::splat(0.0); R];
        for (k, a) in a.chunks_exact(n).enumerate() {
            let a = A::load(a.as_ptr().add(j), n - j);
            for (acc, c) in acc.iter_mut().zip(c) {
                *acc = S::fma(S::splat(*c.get_unchecked(k)), a, *acc);
            }
        }
        for (row, &acc) in rows.zip(&acc) {
            let y = y.as_mut_ptr().add(row * n + j);
            let acc = match factors {
                Some(factors) => S::mul(acc, A::load(factors.as_ptr().add(row * n + j), n - j)),
                None => acc,
            };
            A::store(y, n - j, S::add(A::load(y, n - j), acc));
        }
    }
}
