//! Activation functions with their slopes, from which backward is a multiplication.

use crate::Isa;
use crate::rows::SMALL;
use crate::simd::{self, Kernel, Simd};
use crate::threads;
use std::f32::consts::FRAC_1_SQRT_2;

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`, Φ the normal distribution function (Hendrycks & Gimpel 2016).
    Gelu,
    /// `x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2`, which comes near to it.
    GeluTanh,
    /// `max(0, x)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
}

/// `y ← f(y)`; the slope f′ there goes to `slope` where it is given.
///
/// # Panics
/// Lengths differ.
pub fn activate(isa: Isa, f: Activation, y: &mut [f32], slope: Option<&mut [f32]>) {
    let one = |y: &mut [f32], slope: Option<&mut [f32]>| activate_on_this_thread(isa, f, y, slope);
    match slope {
        None if y.len() < SMALL => one(y, None),
        None => threads::for_each(y.chunks_mut(CHUNK), |y| one(y, None)),
        Some(slope) => {
            assert_eq!(y.len(), slope.len());
            threads::for_each(y.chunks_mut(CHUNK).zip(slope.chunks_mut(CHUNK)), |(y, slope)| {
                one(y, Some(slope));
            });
        }
    }
}

/// As [`activate`], of a few numbers.
pub(crate) fn activate_on_this_thread(
    isa: Isa,
    f: Activation,
    y: &mut [f32],
    slope: Option<&mut [f32]>,
) {
    match f {
        Activation::Gelu => simd::run(isa, Elementwise { f: Gelu, y, slope }),
        Activation::GeluTanh => simd::run(isa, Elementwise { f: GeluTanh, y, slope }),
        // A NaN stays one.
        Activation::Relu => {
            each(y, slope, |x| if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) });
        }
        Activation::Tanh => each(y, slope, |x| {
            let y = x.tanh();
            (y, 1.0 - y * y)
        }),
    }
}

/// `f` gives value and slope.
fn each(y: &mut [f32], slope: Option<&mut [f32]>, f: impl Fn(f32) -> (f32, f32)) {
    match slope {
        None => y.iter_mut().for_each(|y| *y = f(*y).0),
        Some(slope) => y.iter_mut().zip(slope).for_each(|(y, slope)| (*y, *slope) = f(*y)),
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

/// A function of a vector.
trait Function: Copy {
    unsafe fn value<S: Simd>(self, x: S::F) -> S::F;
    unsafe fn value_and_slope<S: Simd>(self, x: S::F) -> (S::F, S::F);
}

struct Elementwise<'a, F> {
    f: F,
    y: &'a mut [f32],
    slope: Option<&'a mut [f32]>,
}

impl<F: Function> Kernel for Elementwise<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Elementwise { f, y, mut slope } = self;
        for i in (0..y.len()).step_by(S::LANES) {
            let n = (y.len() - i).min(S::LANES);
            // SAFETY: `n` numbers from `i` on lie inside both slices; `simd::run` chose `S`.
            unsafe {
                let at = y.as_mut_ptr().add(i);
                let x = S::load_first(at, n);
                match &mut slope {
                    None => S::store_first(at, n, f.value::<S>(x)),
                    Some(slope) => {
                        let (value, d) = f.value_and_slope::<S>(x);
                        S::store_first(at, n, value);
                        S::store_first(slope.as_mut_ptr().add(i), n, d);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    unsafe fn value<S: Simd>(self, x: S::F) -> S::F {
        // SAFETY: the caller vouches for `S`.
        unsafe { gelu_of::<S>(x) }
    }

    #[inline(always)]
    unsafe fn value_and_slope<S: Simd>(self, x: S::F) -> (S::F, S::F) {
        // SAFETY: the caller vouches for `S`.
        unsafe { gelu_and_slope::<S>(x) }
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    unsafe fn value<S: Simd>(self, x: S::F) -> S::F {
        // SAFETY: the caller vouches for `S`.
        unsafe { self.value_and_slope::<S>(x).0 }
    }

    /// (1 + tanh u) / 2 is the logistic function σ(2u), which loses no digits where tanh nears −1.
    #[inline(always)]
    unsafe fn value_and_slope<S: Simd>(self, x: S::F) -> (S::F, S::F) {
        const TWICE: f32 = 1.595_769; // 2·√(2/π)
        const CUBE: f32 = 0.044_715;
        // SAFETY: register arithmetic; the caller vouches for `S`.
        unsafe {
            let (one, square) = (S::splat(1.0), S::mul(x, x));
            let inner = S::mul(x, S::fma(square, S::splat(CUBE), one));
            let e = simd::exp::<S>(S::mul(inner, S::splat(-TWICE)));
            let sigma = S::div(one, S::add(one, e));
            let rise = S::mul(S::splat(TWICE), S::fma(square, S::splat(3.0 * CUBE), one)); // (2u)′
            let bend = S::mul(S::mul(x, rise), S::mul(sigma, S::mul(sigma, e)));
            (S::mul(x, sigma), S::add(sigma, bend))
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

    const ALL: [Activation; 4] =
        [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];

    /// Value and slope in f64.
    fn reference(f: Activation, x: f64) -> (f64, f64) {
        match f {
            Activation::Gelu => {
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * phi(x), phi(x) + x * density)
            }
            Activation::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let tanh = (root * (x + 0.044_715 * x.powi(3))).tanh();
                let rise = root * (1.0 + 3.0 * 0.044_715 * x * x);
                (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh + x * (1.0 - tanh * tanh) * rise))
            }
            Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Tanh => (x.tanh(), 1.0 - x.tanh() * x.tanh()),
        }
    }

    #[test]
    fn values_and_slopes_are_exact_to_f32_rounding() {
        for (isa, f) in available().flat_map(|isa| ALL.map(|f| (isa, f))) {
            let (x, mut y, mut slope) = (points(), points(), points());
            activate(isa, f, &mut y, Some(&mut slope));
            let mut alone = points();
            activate(isa, f, &mut alone, None);
            assert_eq!(y, alone);
            for ((x, y), slope) in x.iter().zip(&y).zip(&slope) {
                let (value, expected) = reference(f, f64::from(*x));
                let bound = 5e-7 * f64::from(x.abs().max(1.0));
                assert!((f64::from(*y) - value).abs() <= bound, "{isa} {f:?}: {x} → {y}");
                assert!(
                    (f64::from(*slope) - expected).abs() <= 2e-6,
                    "{isa} {f:?}: slope {slope} at {x}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn nan_stays_nan_and_large_numbers_finite() {
        for (isa, f) in available().flat_map(|isa| ALL.map(|f| (isa, f))) {
            let (mut y, mut slope) = ([1.0, f32::NAN, -1e4, 1e4], [0.0; 4]);
            activate(isa, f, &mut y, Some(&mut slope));
            assert!(y[1].is_nan() && !y[0].is_nan(), "{isa} {f:?}: {y:?}");
            assert!(y[2].abs() <= 1.0 && y[3] > 0.9 && y[3].is_finite(), "{isa} {f:?}: {y:?}");
            assert!(slope[2].abs() < 1e-6 && slope[3].is_finite(), "{isa} {f:?}: {slope:?}");
        }
    }
}
