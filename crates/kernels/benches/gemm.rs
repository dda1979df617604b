//! GEMM at the shapes of RoBERTa-base against the machine's limit:
//!
//!     cargo bench -p kernels --bench gemm [-- THREADS]
//!
//! The limit is a loop of nothing but multiply-adds on registers, measured in the same run on the
//! same threads. Time includes everything a call does: copying and rounding the activations too.
//! A speed is the median of several calls, the limit the best of as many, measured in turn.

use kernels::{Epilogue, Isa, Matrix, PackedMatrix, Precision, Threads, gemm};
use std::time::Instant;

const SHAPES: [(usize, usize); 3] = [(768, 768), (768, 3072), (3072, 768)];
const TOKENS: [usize; 4] = [256, 1024, 4096, 8192];
const REPEATS: usize = 15;

fn main() {
    let threads = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let isa = Isa::detect().expect("an instruction set");
    let threads = Threads::new(threads).expect("threads");
    println!("{isa}, {} threads", threads.count());
    println!("precision  tokens × in × out        GFLOP/s   limit   share");
    for precision in [Precision::F32, Precision::Bf16] {
        for (input, out) in SHAPES {
            for tokens in TOKENS {
                measure(isa, precision, &threads, (tokens, input, out));
            }
        }
    }
}

fn measure(isa: Isa, precision: Precision, threads: &Threads, (m, k, n): (usize, usize, usize)) {
    let numbers = |count: usize| (0..count).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    let (a, b): (Vec<f32>, Vec<f32>) = (numbers(m * k), numbers(k * n));
    let mut c = vec![0.0; m * n];
    let packed = PackedMatrix::new(isa, precision, Matrix::new(&b, k, n));
    let work = 2.0 * (m * k * n) as f64;
    let (mut speeds, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..=REPEATS {
        limits.push(limit(isa, precision, threads.count()));
        let a = Matrix::new(&a, m, k);
        let started = Instant::now();
        threads.run(|| gemm(isa, a, &packed, &mut c, Epilogue::default()));
        speeds.push(work / started.elapsed().as_secs_f64() * 1e-9);
    }
    std::hint::black_box(&c);
    // The limit is the best seen: a loop that shared its core with another one tells less.
    let (speed, limit) = (median(&mut speeds[1..]), limits.into_iter().fold(0.0, f64::max));
    let name = format!("{precision:?}");
    let share = 100.0 * speed / limit;
    println!("{name:9}  {m:5} × {k:4} × {n:4}      {speed:9.1} {limit:7.1}   {share:4.0} %");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// GFLOP/s of a register-only loop on this many threads.
fn limit(isa: Isa, precision: Precision, threads: usize) -> f64 {
    const STEPS: usize = 1 << 20;
    let steps = || match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` found the instruction set.
        (Isa::Avx512Bf16, Precision::Bf16) => unsafe { x86::bf16(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16 | Isa::Avx512, _) => unsafe { x86::avx512(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx2, _) => unsafe { x86::avx2(STEPS) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        (Isa::Neon, _) => unsafe { neon(STEPS) },
        _ => plain(STEPS),
    };
    let speed = || {
        let started = Instant::now();
        steps() * STEPS as f64 / started.elapsed().as_secs_f64() * 1e-9
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(speed)).collect();
        // This thread takes part: idle, it would be put on the core of one of the others.
        let here = speed();
        here + others.into_iter().map(|other| other.join().expect("no panic")).sum::<f64>()
    })
}

/// What the compiler makes of 16 independent sums of 4 lanes; returns operations per step.
fn plain(steps: usize) -> f64 {
    let mut sums = [[0.0f32; 4]; 16];
    let (x, y) = (std::hint::black_box([0.9f32; 4]), std::hint::black_box([0.1f32; 4]));
    for _ in 0..steps {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = sum[lane] * x[lane] + y[lane];
            }
        }
    }
    std::hint::black_box(sums);
    (2 * 4 * sums.len()) as f64
}

/// # Safety
/// The processor has NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(steps: usize) -> f64 {
    use std::arch::aarch64::*;
    let mut sums = [vdupq_n_f32(0.0); 24];
    let (x, y) = (std::hint::black_box(vdupq_n_f32(0.9)), std::hint::black_box(vdupq_n_f32(0.1)));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = vfmaq_f32(*sum, x, y);
        }
    }
    std::hint::black_box(sums);
    (2 * 4 * sums.len()) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(steps: usize) -> f64 {
        let mut sums = [_mm512_set1_ps(0.0); 24];
        let (x, y) =
            (std::hint::black_box(_mm512_set1_ps(0.9)), std::hint::black_box(_mm512_set1_ps(0.1)));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
        }
        std::hint::black_box(sums);
        (2 * 16 * sums.len()) as f64
    }

    /// # Safety
    /// The processor has AVX-512 F and BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn bf16(steps: usize) -> f64 {
        let mut sums = [_mm512_set1_ps(0.0); 24];
        let ones = std::hint::black_box(_mm512_set1_ps(1.0));
        let (x, y) = (_mm512_cvtne2ps_pbh(ones, ones), _mm512_cvtne2ps_pbh(ones, ones));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, y);
            }
        }
        std::hint::black_box(sums);
        (2 * 32 * sums.len()) as f64
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(steps: usize) -> f64 {
        let mut sums = [_mm256_set1_ps(0.0); 12];
        let (x, y) =
            (std::hint::black_box(_mm256_set1_ps(0.9)), std::hint::black_box(_mm256_set1_ps(0.1)));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        std::hint::black_box(sums);
        (2 * 8 * sums.len()) as f64
    }
}
