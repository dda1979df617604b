//! GEMM at the shapes of RoBERTa-base against the machine's limit:
//!
//!     cargo bench -p kernels --bench gemm [-- [THREADS] [f32|bf16|int8]...]
//!
//! The limit is a loop of nothing but multiply-adds on registers, measured in the same run on the
//! same threads. Time includes everything a call does: copying and rounding the activations too, to
//! 8-bit integers where those are multiplied (billions of operations per second then, not of floating
//! point). One number in a thousand is an outlier that integers leave to f32.
//! Calls follow each other as in a network, in series of some milliseconds. A speed is the median of
//! several series, the limit the best of as many, measured in turn.

use kernels::{
    Epilogue, Int8Matrix, Isa, Matrix, PackedMatrix, Precision, QuantizedMatrix, Right, Threads,
    gemm,
};
use std::time::Instant;

const SHAPES: [(usize, usize); 3] = [(768, 768), (768, 3072), (3072, 768)];
const TOKENS: [usize; 4] = [256, 1024, 4096, 8192];
const REPEATS: usize = 15;
/// Operations of a series of calls, at least.
const SERIES: f64 = 2e9;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = arguments.iter().find_map(|argument| argument.parse().ok());
    let named = |inputs: Inputs| format!("{inputs:?}").to_lowercase();
    let all = [Inputs::F32, Inputs::Bf16, Inputs::Int8];
    let mut chosen: Vec<Inputs> =
        all.into_iter().filter(|inputs| arguments.contains(&named(*inputs))).collect();
    if chosen.is_empty() {
        chosen.extend(all);
    }
    let isa = Isa::detect().expect("an instruction set");
    let threads = Threads::new(threads).expect("threads");
    println!("{isa}, {} threads", threads.count());
    println!("inputs  tokens × in × out        GFLOP/s   limit   share");
    for inputs in chosen {
        for (input, out) in SHAPES {
            for tokens in TOKENS {
                measure(isa, inputs, &threads, (tokens, input, out));
            }
        }
    }
}

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
enum Inputs {
    F32,
    Bf16,
    Int8,
}

/// A packed weight.
enum Weight {
    Packed(PackedMatrix),
    Int8(QuantizedMatrix),
}

fn measure(isa: Isa, inputs: Inputs, threads: &Threads, (m, k, n): (usize, usize, usize)) {
    let numbers = |count: usize| (0..count).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    let (mut a, w): (Vec<f32>, Vec<f32>) = (numbers(m * k), numbers(n * k));
    a.iter_mut().step_by(1009).for_each(|x| *x *= 20.0);
    let mut c = vec![0.0; m * n];
    let precision = if let Inputs::Bf16 = inputs { Precision::Bf16 } else { Precision::F32 };
    let weight = match inputs {
        Inputs::Int8 => Weight::Int8(QuantizedMatrix::Int8(Int8Matrix::quantize(isa, &w, k))),
        _ => Weight::Packed(PackedMatrix::new(isa, precision, Matrix::new(&w, n, k).transposed())),
    };
    let right = match &weight {
        Weight::Packed(packed) => Right::Packed(packed),
        Weight::Int8(weight) => Right::Quantized { weight, transposed: true, precision },
    };
    let work = 2.0 * (m * k * n) as f64;
    let calls = (SERIES / work).ceil();
    let (mut speeds, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..=REPEATS {
        limits.push(limit(isa, inputs, threads.count()));
        let a = Matrix::new(&a, m, k);
        let started = Instant::now();
        threads.run(|| {
            (0..calls as usize).for_each(|_| gemm(isa, a, right, &mut c, Epilogue::default()));
        });
        speeds.push(calls * work / started.elapsed().as_secs_f64() * 1e-9);
    }
    std::hint::black_box(&c);
    // The limit is the best seen: a loop that shared its core with another one tells less.
    let (speed, limit) = (median(&mut speeds[1..]), limits.into_iter().fold(0.0, f64::max));
    let name = format!("{inputs:?}");
    let share = 100.0 * speed / limit;
    println!("{name:6}  {m:5} × {k:4} × {n:4}      {speed:9.1} {limit:7.1}   {share:4.0} %");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// GFLOP/s of a register-only loop on this many threads.
fn limit(isa: Isa, inputs: Inputs, threads: usize) -> f64 {
    const STEPS: usize = 1 << 20;
    let steps = || match (isa, inputs) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` found the instruction set.
        (Isa::Amx, Inputs::Bf16) => unsafe { x86::amx_bf16(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Amx, Inputs::Int8) => unsafe { x86::amx_int8(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16, Inputs::Bf16) => unsafe { x86::bf16(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16 | Isa::Avx512Vnni, Inputs::Int8) => unsafe { x86::vnni(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512, Inputs::Int8) => unsafe { x86::int8_avx512(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx2, Inputs::Int8) => unsafe { x86::int8_avx2(STEPS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512, _) => unsafe {
            x86::avx512(STEPS)
        },
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
    use std::arch::{asm, x86_64::*};

    /// Defines a loop of products of whole matrix tiles, summed up in six of them.
    macro_rules! tiles {
        ($name:ident, $dot:literal, $operations:expr) => {
            /// # Safety
            /// The processor has AMX, and the process may use it.
            pub(super) unsafe fn $name(steps: usize) -> f64 {
                #[repr(align(64))]
                struct Shapes([u8; 64]);
                let mut shapes = Shapes([0; 64]);
                shapes.0[0] = 1;
                for tile in 0..8 {
                    (shapes.0[16 + 2 * tile], shapes.0[48 + tile]) = (64, 16);
                }
                // SAFETY: tiles are configured, used and released.
                unsafe {
                    asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack));
                    for _ in 0..steps {
                        asm!(
                            concat!($dot, " tmm0, tmm6, tmm7"),
                            concat!($dot, " tmm1, tmm6, tmm7"),
                            concat!($dot, " tmm2, tmm6, tmm7"),
                            concat!($dot, " tmm3, tmm6, tmm7"),
                            concat!($dot, " tmm4, tmm6, tmm7"),
                            concat!($dot, " tmm5, tmm6, tmm7"),
                            out("tmm0") _, out("tmm1") _, out("tmm2") _,
                            out("tmm3") _, out("tmm4") _, out("tmm5") _,
                            options(nomem, nostack),
                        );
                    }
                    asm!("tilerelease", options(nomem, nostack));
                }
                (6 * $operations) as f64
            }
        };
    }
    tiles!(amx_bf16, "tdpbf16ps", 2 * 16 * 16 * 32);
    tiles!(amx_int8, "tdpbssd", 2 * 16 * 16 * 64);

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
    /// The processor has AVX-512 F and VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn vnni(steps: usize) -> f64 {
        let mut sums = [_mm512_setzero_si512(); 24];
        let x = std::hint::black_box(_mm512_set1_epi8(3));
        let y = std::hint::black_box(_mm512_set1_epi8(-5));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, y);
            }
        }
        std::hint::black_box(sums);
        (2 * 64 * sums.len()) as f64
    }

    /// Signs are moved from one factor to the other for every product, as they have to be.
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn int8_avx512(steps: usize) -> f64 {
        let mut sums = [_mm512_setzero_si512(); 16];
        let x = std::hint::black_box(_mm512_set1_epi8(3));
        let mut y = std::hint::black_box(_mm512_set1_epi8(-5));
        let signs = std::hint::black_box(0x5555);
        let (ones, zero) = (std::hint::black_box(_mm512_set1_epi16(1)), _mm512_setzero_si512());
        for _ in 0..steps {
            for sum in &mut sums {
                // No instruction, but y may be another one: or there would be one product for all.
                unsafe { asm!("/* {0} */", inout(zmm_reg) y, options(pure, nomem, nostack)) };
                let pairs = _mm512_maddubs_epi16(x, _mm512_mask_sub_epi8(y, signs, zero, y));
                *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(pairs, ones));
            }
        }
        std::hint::black_box(sums);
        (2 * 64 * sums.len()) as f64
    }

    /// As [`int8_avx512`], but signs are bits to be inverted.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn int8_avx2(steps: usize) -> f64 {
        let mut sums = [_mm256_setzero_si256(); 10];
        let x = std::hint::black_box(_mm256_set1_epi8(3));
        let signs = std::hint::black_box(_mm256_set1_epi16(0xff));
        let mut y = std::hint::black_box(_mm256_set1_epi8(-5));
        let ones = std::hint::black_box(_mm256_set1_epi16(1));
        for _ in 0..steps {
            for sum in &mut sums {
                unsafe { asm!("/* {0} */", inout(ymm_reg) y, options(pure, nomem, nostack)) };
                let pairs = _mm256_maddubs_epi16(x, _mm256_xor_si256(y, signs));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
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
