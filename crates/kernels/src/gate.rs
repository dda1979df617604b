//! Gated activation (Dauphin et al. 2016; GeGLU and its kin, Shazeer 2020): of two halves side by side
//! one goes through an activation and is multiplied by the other. The halves give way to the slopes,
//! from which backward is a multiplication.

use crate::activation::{Activation, activate_on_this_thread};
use crate::{Isa, threads};

/// Rows that one task walks.
const ROWS: usize = 16;

/// Rows of `u` [T, 2F] hold a and b; `y` [T, F] ← f(a) ∘ b, and `u` becomes the slopes by a and by b.
///
/// # Panics
/// Lengths do not fit.
pub fn gate(isa: Isa, f: Activation, u: &mut [f32], y: &mut [f32], columns: usize) {
    assert!(u.len() == 2 * y.len() && columns > 0 && y.len().is_multiple_of(columns));
    let size = ROWS * columns;
    threads::for_each(u.chunks_mut(2 * size).zip(y.chunks_mut(size)), |(u, y)| {
        for (u, y) in u.chunks_exact_mut(2 * columns).zip(y.chunks_exact_mut(columns)) {
            let (a, b) = u.split_at_mut(columns);
            y.copy_from_slice(a);
            activate_on_this_thread(isa, f, y, Some(a));
            for ((y, slope), b) in y.iter_mut().zip(a).zip(b) {
                let value = *y;
                *y = value * *b;
                *slope *= *b;
                *b = value;
            }
        }
    });
}

/// From `dy` [T, F]: the slopes [T, 2F] become the gradient of what [`gate`] was given.
///
/// # Panics
/// Lengths do not fit.
pub fn gate_backward(slopes: &mut [f32], dy: &[f32], columns: usize) {
    assert!(slopes.len() == 2 * dy.len() && columns > 0 && dy.len().is_multiple_of(columns));
    let size = ROWS * columns;
    threads::for_each(slopes.chunks_mut(2 * size).zip(dy.chunks(size)), |(slopes, dy)| {
        for (slopes, dy) in slopes.chunks_exact_mut(2 * columns).zip(dy.chunks_exact(columns)) {
            for half in slopes.chunks_exact_mut(columns) {
                half.iter_mut().zip(dy).for_each(|(slope, dy)| *slope *= dy);
            }
        }
    });
}
