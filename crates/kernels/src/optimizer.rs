//! AdamW's inner loop (Loshchilov & Hutter 2019), in the order of operations of `torch.optim.AdamW`.

use crate::Isa;
use crate::rows::SMALL;
use crate::simd::{self, Kernel, Simd};
use crate::threads;

/// Hyper-parameters of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient (clipping).
    pub gradient_scale: f32,
}

/// One step: `p ← p·(1 − lr·λ) − lr·m̂/(√v̂ + ε)`.
///
/// # Panics
/// Lengths differ.
pub fn adamw(isa: Isa, step: AdamW, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    assert!(p.len() == g.len() && p.len() == m.len() && p.len() == v.len());
    let size = SMALL / 4;
    let chunks = p.chunks_mut(size).zip(g.chunks(size));
    let moments = m.chunks_mut(size).zip(v.chunks_mut(size));
    threads::for_each(chunks.zip(moments), |((p, g), (m, v))| {
        simd::run(isa, Step { step, p, g, m, v });
    });
}

struct Step<'a> {
    step: AdamW,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let AdamW { lr, betas: (b1, b2), eps, weight_decay, step, gradient_scale } = self.step;
        let correction = |beta: f64| 1.0 - beta.powi(step.min(1 << 30) as i32);
        let step_size = (lr / correction(b1)) as f32;
        let root = correction(b2).sqrt() as f32;
        let decay = (1.0 - lr * weight_decay) as f32;
        let (first, second, keep) = ((1.0 - b1) as f32, (1.0 - b2) as f32, b2 as f32);
        // SAFETY: whole vectors and the rest lie inside all four slices.
        unsafe {
            let mut i = 0;
            while i < self.p.len() {
                let n = (self.p.len() - i).min(S::LANES);
                let g = S::load_first(self.g.as_ptr().add(i), n);
                let g = S::mul(g, S::splat(gradient_scale));
                let m = S::load_first(self.m.as_ptr().add(i), n);
                let m = S::fma(S::sub(g, m), S::splat(first), m);
                let v = S::load_first(self.v.as_ptr().add(i), n);
                let v = S::fma(S::mul(g, g), S::splat(second), S::mul(v, S::splat(keep)));
                let denominator = S::add(S::div(S::sqrt(v), S::splat(root)), S::splat(eps as f32));
                let p = S::mul(S::load_first(self.p.as_ptr().add(i), n), S::splat(decay));
                let p = S::sub(p, S::div(S::mul(m, S::splat(step_size)), denominator));
                S::store_first(self.p.as_mut_ptr().add(i), n, p);
                S::store_first(self.m.as_mut_ptr().add(i), n, m);
                S::store_first(self.v.as_mut_ptr().add(i), n, v);
                i += n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_steps_follow_the_f64_recurrence() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let n = 37;
            let gradient = |i: usize, t: u64| ((i as f32 + 1.0) * (t as f32)).sin() * 0.1;
            let mut p: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            let mut expected: Vec<(f64, f64, f64)> =
                p.iter().map(|&p| (f64::from(p), 0.0, 0.0)).collect();
            for t in 1..=10 {
                let g: Vec<f32> = (0..n).map(|i| gradient(i, t)).collect();
                let step = AdamW {
                    lr: 1e-2,
                    betas: (0.9, 0.999),
                    eps: 1e-8,
                    weight_decay: 0.1,
                    step: t,
                    gradient_scale: 0.5,
                };
                adamw(isa, step, &mut p, &g, &mut m, &mut v);
                for (i, (p, m, v)) in expected.iter_mut().enumerate() {
                    let g = 0.5 * f64::from(gradient(i, t));
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.999 * *v + 0.001 * g * g;
                    let (mh, vh) =
                        (*m / (1.0 - 0.9f64.powi(t as i32)), *v / (1.0 - 0.999f64.powi(t as i32)));
                    *p = *p * (1.0 - 1e-2 * 0.1) - 1e-2 * mh / (vh.sqrt() + 1e-8);
                }
            }
            for (p, (expected, ..)) in p.iter().zip(&expected) {
                assert!((f64::from(*p) - expected).abs() < 1e-5, "{isa}: {p} {expected}");
            }
        }
    }
}
