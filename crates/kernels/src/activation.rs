//! Activation functions: exact ("erf") GELU and tanh, each followed by its backward.

use crate::Isa;
use crate::rows::SMALL;
use crate::simd::{self, Kernel, Simd};
use crate::threads;
use std::f32::consts::FRAC_1_SQRT_2;

/// `y ← y·Φ(y)`, Φ the normal distribution function (Hendrycks & Gimpel 2016; not the tanh form);
/// its slope goes to `slope` where it is given.
///
/// # Panics
/// Lengths differ.
pub fn gelu(isa: Isa, y: &mut [f32], slope: Option<&mut [f32]>) {
    match slope {
        None if y.len() < SMALL => simd::run(isa, Gelu { y, slope: None }),
        None => threads::for_each(y.chunks_mut(CHUNK), |y| simd::run(isa, Gelu { y, slope: None })),
        Some(slope) => {
            assert_eq!(y.len(), slope.len());
            threads::for_each(y.chunks_mut(CHUNK).zip(slope.chunks_mut(CHUNK)), |(y, slope)| {
                simd::run(isa, Gelu { y, slope: Some(slope) });
            });
        }
    }
}

/// `y ← y ∘ factors`: the backward of an elementwise function with these slopes.
///
/// # Panics
/// Lengths differ.
pub fn multiply(y: &mut [f32], factors: &[f32]) {
    assert_eq!(y.len(), factors.len());
    threads::for_each(y.chunks_mut(CHUNK).zip(factors.chunks(CHUNK)), |(y, factors)| {
        y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
    });
}

/// Numbers that one thread takes at a time.
const CHUNK: usize = SMALL / 4;

/// `y ← tanh(y)`.
pub fn tanh(y: &mut [f32]) {
    for y in y {
        *y = y.tanh();
    }
}

/// `dy ← dy · (1 − y²)` where `y` is tanh's output.
///
/// # Panics
/// Lengths differ.
pub fn tanh_backward(y: &[f32], dy: &mut [f32]) {
    assert_eq!(y.len(), dy.len());
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy *= 1.0 - y * y;
    }
}

struct Gelu<'a> {
    y: &'a mut [f32],
    slope: Option<&'a mut [f32]>,
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Gelu { y, mut slope } = self;
        for i in (0..y.len()).step_by(S::LANES) {
            let n = (y.len() - i).min(S::LANES);
            // SAFETY: `n` numbers from `i` on lie inside both slices; `simd::run` chose `S`.
            unsafe {
                let at = y.as_mut_ptr().add(i);
                let x = S::load_first(at, n);
                match &mut slope {
                    None => S::store_first(at, n, gelu_of::<S>(x)),
                    Some(slope) => {
                        let (value, d) = gelu_and_slope::<S>(x);
                        S::store_first(at, n, value);
                        S::store_first(slope.as_mut_ptr().add(i), n, d);
                    }
                }
            }
        }
    }
}

/// x·Φ(x).
#[inline(always)]
pub(crate) unsafe fn gelu_of<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic; the caller vouches for `S`.
    unsafe { S::mul(x, normal_distribution::<S>(x)) }
}

/// x·Φ(x), and its slope Φ(x) + x·φ(x), φ the normal density.
#[inline(always)]
pub(crate) unsafe fn gelu_and_slope<S: Simd>(x: S::F) -> (S::F, S::F) {
    const DENSITY_AT_0: f32 = 0.398_942_3; // 1/√(2π)
    // SAFETY: register arithmetic; the caller vouches for `S`.
    unsafe {
        let phi = normal_distribution::<S>(x);
        let square = S::mul(S::mul(x, x), S::splat(-0.5));
        let density = S::mul(simd::exp::<S>(square), S::splat(DENSITY_AT_0));
        (S::mul(x, phi), S::fma(x, density, phi))
    }
}

/// Φ(x) = (1 + erf(x/√2)) / 2.
#[inline(always)]
unsafe fn normal_distribution<S: Simd>(x: S::F) -> S::F {
    // SAFETY: register arithmetic; the caller vouches for `S`.
    unsafe {
        let erf = simd::erf::<S>(S::mul(x, S::splat(FRAC_1_SQRT_2)));
        S::fma(erf, S::splat(0.5), S::splat(0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    fn points() -> Vec<f32> {
        (-1203..=1203).map(|i| i as f32 * 0.01).collect()
    }

    fn phi(x: f64) -> f64 {
        0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
    }

    #[test]
    fn gelu_is_exact_to_f32_rounding() {
        for isa in available() {
            let (x, mut y) = (points(), points());
            gelu(isa, &mut y, None);
            for (x, y) in x.iter().zip(&y) {
                let x = f64::from(*x);
                let bound = 5e-7 * x.abs().max(1.0);
                assert!((f64::from(*y) - x * phi(x)).abs() <= bound, "{isa}: {x} → {y}");
            }
        }
    }

    #[test]
    fn the_slope_is_the_derivative() {
        for isa in available() {
            let (x, mut y, mut slope) = (points(), points(), points());
            gelu(isa, &mut y, Some(&mut slope));
            let mut alone = points();
            gelu(isa, &mut alone, None);
            assert_eq!(y, alone);
            for (x, slope) in x.iter().zip(&slope) {
                let x = f64::from(*x);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let expected = phi(x) + x * density;
                assert!((f64::from(*slope) - expected).abs() <= 1e-6, "{isa}: {x} → {slope}");
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        for isa in available() {
            let mut y = [1.0, f32::NAN, 2.0];
            gelu(isa, &mut y, None);
            assert!(y[1].is_nan() && !y[0].is_nan(), "{isa}: {y:?}");
        }
    }
}
