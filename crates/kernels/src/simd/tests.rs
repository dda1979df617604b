//! The operations of every variant against the scalar one, or against plain arithmetic. `mul_wide` and
//! `xor_u` are in dropout's tests.

use super::*;

/// Numbers that every variant walks: a multiple of all widths.
const N: usize = 16;
const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;
/// Few bits each, so that a product and a sum are exact and fused or not does not matter. Halves
/// show how ties are rounded.
const A: [f32; N] =
    [0.5, 1.5, -2.5, 3.5, -0.5, 7.0, 0.0, -1.0, NAN, 2.0, INF, -INF, 1e6, -96.5, 0.25, 42.0];
const B: [f32; N] =
    [2.0, -1.5, 2.5, 0.125, 3.0, NAN, 1.0, -1.0, 1.0, -8.0, 5.0, 6.0, -7.0, 0.5, -16.0, 2.5];
const POWERS: [f32; N] = [
    -126.0, -125.0, -64.0, -24.0, -23.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 23.0, 24.0, 64.0, 126.0,
    127.0,
];

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn assert_same(isa: Isa, what: &str, ours: &[f32], expected: &[f32]) {
    let same = |(x, y): (&f32, &f32)| x == y || x.is_nan() && y.is_nan();
    assert!(ours.iter().zip(expected).all(same), "{isa} {what}: {ours:?}, not {expected:?}");
}

const ARITHMETIC: [&str; 13] = [
    "splat",
    "add",
    "sub",
    "mul",
    "div",
    "fma",
    "max",
    "max back",
    "min",
    "min back",
    "sqrt",
    "round",
    "exp2_whole",
];

struct Arithmetic;

impl Kernel for Arithmetic {
    type Output = [[f32; N]; ARITHMETIC.len()];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let mut results = [[777.0; N]; ARITHMETIC.len()];
        for lane in (0..N).step_by(S::LANES) {
            // SAFETY: LANES numbers from `lane` on are inside the arrays; `simd::run` chose `S`.
            unsafe {
                let (a, b) = (S::load(A.as_ptr().add(lane)), S::load(B.as_ptr().add(lane)));
                let vectors = [
                    S::splat(-3.0),
                    S::add(a, b),
                    S::sub(a, b),
                    S::mul(a, b),
                    S::div(a, b),
                    S::fma(a, b, S::splat(0.75)),
                    S::max(a, b),
                    S::max(b, a),
                    S::min(a, b),
                    S::min(b, a),
                    S::sqrt(a),
                    S::round(a),
                    S::exp2_whole(S::load(POWERS.as_ptr().add(lane))),
                ];
                for (result, vector) in results.iter_mut().zip(vectors) {
                    S::store(result.as_mut_ptr().add(lane), vector);
                }
            }
        }
        results
    }
}

#[test]
fn arithmetic_is_the_scalar_variants() {
    let expected = run(Isa::Scalar, Arithmetic);
    let [.., largest, back, _, _, _, rounded, powers] = expected;
    assert!(
        (largest[5].is_nan(), largest[8], back[5]) == (true, 1.0, 7.0),
        "b where a or b is NaN"
    );
    assert_eq!(rounded[..6], [0.0, 2.0, -2.0, 4.0, 0.0, 7.0]);
    assert_same(Isa::Scalar, "exp2_whole", &powers, &POWERS.map(f32::exp2));
    for isa in available() {
        for (what, (ours, expected)) in
            ARITHMETIC.into_iter().zip(run(isa, Arithmetic).iter().zip(&expected))
        {
            assert_same(isa, what, ours, expected);
        }
    }
}

/// The sum of whole numbers, in any order, and the largest.
struct Reductions([f32; N]);

impl Kernel for Reductions {
    type Output = (f32, f32);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (f32, f32) {
        let (mut sum, mut largest) = (0.0, -INF);
        for lane in (0..N).step_by(S::LANES) {
            // SAFETY: LANES numbers from `lane` on are inside the array; `simd::run` chose `S`.
            unsafe {
                let x = S::load(self.0.as_ptr().add(lane));
                sum += S::sum(x);
                largest = S::maximum(x).max(largest);
            }
        }
        (sum, largest)
    }
}

#[test]
fn every_lane_is_in_the_sum_and_may_be_the_largest() {
    for isa in available() {
        for at in 0..N {
            let numbers = std::array::from_fn(|i| if i == at { 1000.0 } else { -(i as f32) - 1.0 });
            let expected = (1000.0 - 136.0 + at as f32 + 1.0, 1000.0);
            assert_eq!(run(isa, Reductions(numbers)), expected, "{isa} {at}");
        }
    }
}

/// `source` into the first lanes; from there all lanes to `whole` and, plus 1, the first to `first`.
struct First<'a> {
    source: &'a [f32],
    whole: &'a mut [f32; N],
    first: &'a mut [f32; N],
}

impl Kernel for First<'_> {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        let n = self.source.len();
        if n <= S::LANES {
            // SAFETY: `source` has `n` numbers, the others N ≥ LANES; `simd::run` chose `S`.
            unsafe {
                let x = S::load_first(self.source.as_ptr(), n);
                S::store(self.whole.as_mut_ptr(), x);
                S::store_first(self.first.as_mut_ptr(), n, S::add(x, S::splat(1.0)));
            }
        }
        S::LANES
    }
}

#[test]
fn the_first_lanes_are_read_and_written_and_no_others() {
    for isa in available() {
        for n in 0..=N {
            let source: Vec<f32> = (0..n).map(|i| i as f32 + 5.0).collect();
            let (mut whole, mut first) = ([777.0; N], [777.0; N]);
            let lanes = run(isa, First { source: &source, whole: &mut whole, first: &mut first });
            if n > lanes {
                break;
            }
            for i in 0..N {
                let (read, written) = (if i < n { i as f32 + 5.0 } else { 0.0 }, i as f32 + 6.0);
                assert_eq!(whole[i], if i < lanes { read } else { 777.0 }, "{isa} {n} {i}");
                assert_eq!(first[i], if i < n { written } else { 777.0 }, "{isa} {n} {i}");
            }
        }
    }
}

/// Eight rows, of which number `step` of `row` is `8·step + row`, transposed.
struct Transpose {
    stride: usize,
    out: Vec<f32>,
}

impl Kernel for Transpose {
    type Output = (usize, Vec<f32>);

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) -> (usize, Vec<f32>) {
        assert!(self.stride >= 8 && self.out.len() >= N * self.stride);
        // SAFETY: `out` has N ≥ LANES groups; `simd::run` chose `S`.
        unsafe {
            let mut rows = [S::splat(0.0); 8];
            for (row, vector) in rows.iter_mut().enumerate() {
                let numbers: [f32; N] = std::array::from_fn(|step| (8 * step + row) as f32);
                *vector = S::load(numbers.as_ptr());
            }
            S::store_transposed(rows, self.out.as_mut_ptr(), self.stride);
        }
        (S::LANES, self.out)
    }
}

#[test]
fn eight_rows_are_transposed_at_any_stride() {
    for (isa, stride) in available().flat_map(|isa| [8, 12, 48].map(|stride| (isa, stride))) {
        let (lanes, out) = run(isa, Transpose { stride, out: vec![777.0; N * stride] });
        for (i, x) in out.into_iter().enumerate() {
            let (step, row) = (i / stride, i % stride);
            let expected = if step < lanes && row < 8 { (8 * step + row) as f32 } else { 777.0 };
            assert_eq!(x, expected, "{isa} {stride} {step} {row}");
        }
    }
}

/// Bytes as numbers, and as half bytes looked up.
struct Decode<'a> {
    table: &'a [f32; 16],
    bytes: &'a [u8; N],
}

impl Kernel for Decode<'_> {
    type Output = ([f32; N], [f32; 2 * N]);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let (mut integers, mut looked_up) = ([777.0; N], [777.0; 2 * N]);
        for lane in (0..N).step_by(S::LANES) {
            // SAFETY: LANES bytes from `lane` on are read; `simd::run` chose `S`.
            unsafe {
                let x = S::from_i8(self.bytes.as_ptr().add(lane).cast());
                S::store(integers.as_mut_ptr().add(lane), x);
            }
        }
        for lane in (0..2 * N).step_by(S::LANES) {
            // SAFETY: LANES / 2 bytes from `lane / 2` on are read; `simd::run` chose `S`.
            unsafe {
                let x = S::lookup_nibbles(self.table, self.bytes.as_ptr().add(lane / 2));
                S::store(looked_up.as_mut_ptr().add(lane), x);
            }
        }
        (integers, looked_up)
    }
}

#[test]
fn every_byte_is_an_integer_and_two_codes() {
    let table = std::array::from_fn(|i| i as f32 * 1.25 - 9.0);
    for isa in available() {
        for first in (0..=u8::MAX).step_by(N) {
            let bytes = std::array::from_fn(|i| first + i as u8);
            let (integers, looked_up) = run(isa, Decode { table: &table, bytes: &bytes });
            assert_eq!(integers, bytes.map(|byte| f32::from(byte as i8)), "{isa}");
            for (codes, byte) in looked_up.chunks(2).zip(bytes) {
                let expected = [byte >> 4, byte & 15].map(|code| table[usize::from(code)]);
                assert_eq!(codes, expected, "{isa} {byte}");
            }
        }
    }
}

/// Sums of four products of bytes, and one of them as numbers.
struct Quads<'a> {
    a: &'a [[i8; 4]; N],
    b: &'a [[i8; 4]; N],
}

impl Kernel for Quads<'_> {
    type Output = ([f32; N], [[f32; N]; 4]);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let (mut sums, mut bytes) = ([777.0; N], [[777.0; N]; 4]);
        for lane in (0..N).step_by(S::LANES) {
            let (a, b) = (self.a[lane..].as_ptr(), self.b[lane..].as_ptr());
            // SAFETY: LANES groups of four bytes from `lane` on are inside the arrays; `simd::run`
            // chose `S`.
            unsafe {
                let start = S::splat(f32::from_bits(-1_000_000i32 as u32));
                let sum = S::dot_quads(S::load(a.cast()), S::load(b.cast()), start);
                S::store(sums.as_mut_ptr().add(lane), S::from_i32(sum));
                for (byte, bytes) in bytes.iter_mut().enumerate() {
                    let x = S::from_quads(a.cast(), byte);
                    S::store(bytes.as_mut_ptr().add(lane), x);
                }
            }
        }
        (sums, bytes)
    }
}

#[test]
fn four_products_of_bytes_are_summed_exactly() {
    let pattern = |seed: i32| {
        std::array::from_fn(|lane| {
            std::array::from_fn(|i| {
                let extreme = [127, -127, 0, 127][(lane / 4 + i * (1 + seed as usize)) % 4];
                if lane < 8 { extreme } else { ((lane * 83 + i * 57) as i32 * seed % 128) as i8 }
            })
        })
    };
    for (a, b) in [(1, 2), (2, 1), (3, 3)].map(|(a, b)| (pattern(a), pattern(b))) {
        for isa in available() {
            let (sums, bytes) = run(isa, Quads { a: &a, b: &b });
            for lane in 0..N {
                let products = (0..4).map(|i| i32::from(a[lane][i]) * i32::from(b[lane][i]));
                let expected = products.sum::<i32>() - 1_000_000;
                assert_eq!(sums[lane], expected as f32, "{isa} {:?} {:?}", a[lane], b[lane]);
                assert_eq!(bytes.map(|x| x[lane]), a[lane].map(f32::from), "{isa}");
            }
        }
    }
}

/// Rounded to bytes, as they are and flipped.
struct ToQuads<'a>(&'a [f32; 4 * N]);

impl Kernel for ToQuads<'_> {
    type Output = [[i8; 4 * N]; 2];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let mut bytes = [[77; 4 * N]; 2];
        for first in (0..4 * N).step_by(4 * S::LANES) {
            // SAFETY: 4·LANES numbers and bytes from `first` on are inside the arrays; `simd::run`
            // chose `S`.
            unsafe {
                let x = self.0.as_ptr().add(first);
                let mut vectors = [S::splat(0.0); 4];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(x.add(i * S::LANES));
                }
                for (flip, bytes) in [0, 0x8080_8080].into_iter().zip(&mut bytes) {
                    let quads = S::to_quads(vectors, flip);
                    S::store(bytes.as_mut_ptr().add(first).cast(), quads);
                }
            }
        }
        bytes
    }
}

#[test]
fn numbers_become_bytes_in_their_order() {
    for start in [-127.0f32, -64.0, -20.0, 0.0, 95.75] {
        let x: [f32; 4 * N] = std::array::from_fn(|i| (start + i as f32 * 0.5).min(127.0));
        let expected = x.map(|x| x.round_ties_even() as i8);
        for isa in available() {
            let [plain, flipped] = run(isa, ToQuads(&x));
            assert_eq!(plain, expected, "{isa}");
            assert_eq!(flipped, expected.map(|x| x ^ -128), "{isa}");
        }
    }
}

/// Magnitudes below 3.5.
struct Below;

impl Kernel for Below {
    type Output = ([f32; N], u32);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let (mut magnitudes, mut others) = ([777.0; N], 0);
        for lane in (0..N).step_by(S::LANES) {
            // SAFETY: LANES numbers from `lane` on are inside the arrays; `simd::run` chose `S`.
            unsafe {
                let (x, bits) = S::below(S::load(A.as_ptr().add(lane)), 3.5);
                S::store(magnitudes.as_mut_ptr().add(lane), x);
                others |= bits << lane;
            }
        }
        (magnitudes, others)
    }
}

#[test]
fn magnitudes_below_a_limit_are_told_from_others_and_from_nan() {
    let below = |x: f32| x.abs() < 3.5;
    let magnitudes = A.map(|x| if below(x) { x.abs() } else { 0.0 });
    let others = (0..N).filter(|&i| !below(A[i])).map(|i| 1 << i).sum::<u32>();
    for isa in available() {
        assert_eq!(run(isa, Below), (magnitudes, others), "{isa}");
    }
}

/// 7 where a half of `start + i` is at least `threshold`, else 0: low halves, then high ones.
struct Halves {
    start: u32,
    threshold: u32,
}

impl Kernel for Halves {
    type Output = [[f32; N]; 2];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        let mut halves = [[777.0; N]; 2];
        for lane in (0..N).step_by(S::LANES) {
            // SAFETY: LANES numbers from `lane` on are inside the arrays; `simd::run` chose `S`.
            unsafe {
                let bits = S::count_from(self.start.wrapping_add(lane as u32));
                let (low, high) = S::keep_halves(bits, self.threshold, S::splat(7.0));
                S::store(halves[0].as_mut_ptr().add(lane), low);
                S::store(halves[1].as_mut_ptr().add(lane), high);
            }
        }
        halves
    }
}

#[test]
fn halves_are_kept_from_the_threshold_on() {
    // Low halves pass each threshold; high ones are below, at and above it, or wrap.
    for threshold in [1u32, 0x1999, 0x8000, 0xffff, 0x1_0000] {
        for high in [threshold - 1, threshold, threshold + 1] {
            let start = (high << 16).wrapping_add(threshold).wrapping_sub(N as u32 / 2);
            let keep = |half: u32| if half >= threshold { 7.0 } else { 0.0 };
            let bits: [u32; N] = std::array::from_fn(|i| start.wrapping_add(i as u32));
            let expected =
                [bits.map(|bits| keep(bits & 0xffff)), bits.map(|bits| keep(bits >> 16))];
            for isa in available() {
                assert_eq!(run(isa, Halves { start, threshold }), expected, "{isa} {threshold}");
            }
        }
    }
}
