//! Activation functions: exact ("erf") GELU and tanh, each followed by its backward.

use crate::Isa;
use crate::rows::SMALL;
use crate::simd::{self, Kernel, Simd};
use crate::threads;
use std::f32::consts::FRAC_1_SQRT_2;

/// `y = x·Φ(x)`, Φ the normal distribution function (Hendrycks & Gimpel 2016; not the tanh form).
///
/// # Panics
/// Lengths differ.
pub fn gelu(isa: Isa, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    chunked(y, x, |y, x| simd::run(isa, Gelu { x, y }));
}

/// `dy ← dy · (Φ(x) + x·φ(x))`, φ the normal density.
///
/// # Panics
/// Lengths differ.
pub fn gelu_backward(isa: Isa, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len());
    chunked(dy, x, |dy, x| simd::run(isa, GeluBackward { x, dy }));
}

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

fn chunked(y: &mut [f32], x: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync + Send) {
    if y.len() < SMALL {
        f(y, x);
    } else {
        let size = SMALL / 4;
        threads::for_each(y.chunks_mut(size).zip(x.chunks(size)), |(y, x)| f(y, x));
    }
}

struct Gelu<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: whole vectors and the rest lie inside both slices.
        unsafe {
            let mut i = 0;
            while i < self.x.len() {
                let n = (self.x.len() - i).min(S::LANES);
                let x = S::load_first(self.x.as_ptr().add(i), n);
                let y = S::mul(x, normal_distribution::<S>(x));
                S::store_first(self.y.as_mut_ptr().add(i), n, y);
                i += n;
            }
        }
    }
}

struct GeluBackward<'a> {
    x: &'a [f32],
    dy: &'a mut [f32],
}

impl Kernel for GeluBackward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const DENSITY_AT_0: f32 = 0.398_942_3; // 1/√(2π)
        // SAFETY: whole vectors and the rest lie inside both slices.
        unsafe {
            let mut i = 0;
            while i < self.x.len() {
                let n = (self.x.len() - i).min(S::LANES);
                let x = S::load_first(self.x.as_ptr().add(i), n);
                let dy = S::load_first(self.dy.as_ptr().add(i), n);
                let square = S::mul(S::mul(x, x), S::splat(-0.5));
                let density = S::mul(simd::exp::<S>(square), S::splat(DENSITY_AT_0));
                let slope = S::fma(x, density, normal_distribution::<S>(x));
                S::store_first(self.dy.as_mut_ptr().add(i), n, S::mul(dy, slope));
                i += n;
            }
        }
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
            gelu(isa, &x, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let x = f64::from(*x);
                let bound = 5e-7 * x.abs().max(1.0);
                assert!((f64::from(*y) - x * phi(x)).abs() <= bound, "{isa}: {x} → {y}");
            }
        }
    }

    #[test]
    fn gelu_backward_is_the_slope() {
        for isa in available() {
            let (x, mut dy) = (points(), vec![2.0; points().len()]);
            gelu_backward(isa, &x, &mut dy);
            for (x, dy) in x.iter().zip(&dy) {
                let x = f64::from(*x);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let expected = 2.0 * (phi(x) + x * density);
                assert!((f64::from(*dy) - expected).abs() <= 2e-6, "{isa}: {x} → {dy}");
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        for isa in available() {
            let mut y = [0.0; 3];
            gelu(isa, &[1.0, f32::NAN, 2.0], &mut y);
            assert!(y[1].is_nan() && !y[0].is_nan(), "{isa}: {y:?}");
        }
    }
}
