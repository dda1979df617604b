//! A convolution over the tokens of each sequence, cut into a product and this: beside each token's
//! vector come those of its neighbours, zeros beyond the sequence's ends.

use crate::rows::for_each_row;

/// Row `t` of `y` [T, H · size] receives the vectors of the `size` tokens of `x` [T, H] around token
/// `t`, one number of each in turn (as PyTorch stores a convolution's weight [out, H, size]).
///
/// # Panics
/// Lengths do not fit, or `size` is even.
pub fn unfold(x: &[f32], cu_seqlens: &[u32], size: usize, columns: usize, y: &mut [f32]) {
    check(x, cu_seqlens, size, columns, y);
    for_each_row(y, columns * size, |t, y| {
        let sequence = sequence_of(cu_seqlens, t);
        for tap in 0..size {
            let y = y.iter_mut().skip(tap).step_by(size);
            match (t + tap).checked_sub(size / 2).filter(|s| sequence.contains(s)) {
                Some(s) => y.zip(&x[s * columns..][..columns]).for_each(|(y, x)| *y = *x),
                None => y.for_each(|y| *y = 0.0),
            }
        }
    });
}

/// Backward of [`unfold`]: adds the gradient of `x` to `dx`.
///
/// # Panics
/// As [`unfold`].
pub fn fold(dy: &[f32], cu_seqlens: &[u32], size: usize, columns: usize, dx: &mut [f32]) {
    check(dx, cu_seqlens, size, columns, dy);
    for_each_row(dx, columns, |s, dx| {
        let sequence = sequence_of(cu_seqlens, s);
        for tap in 0..size {
            let Some(t) = (s + size / 2).checked_sub(tap).filter(|t| sequence.contains(t)) else {
                continue;
            };
            let dy = dy[t * columns * size..][..columns * size].iter().skip(tap).step_by(size);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
    });
}

fn check(x: &[f32], cu_seqlens: &[u32], size: usize, columns: usize, y: &[f32]) {
    assert!(size % 2 == 1, "a window of {size}");
    assert_eq!(y.len(), x.len() * size);
    assert!(cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted());
    assert_eq!(cu_seqlens.last().map(|&t| t as usize * columns), Some(x.len()));
}

/// The tokens of the sequence that has this one.
fn sequence_of(cu_seqlens: &[u32], token: usize) -> std::ops::Range<usize> {
    let next = cu_seqlens.partition_point(|&first| first as usize <= token);
    cu_seqlens[next - 1] as usize..cu_seqlens[next] as usize
}

#[cfg(test)]
mod tests {
    use super::{fold, unfold};

    #[test]
    fn neighbours_come_from_the_same_sequence() {
        let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        let mut y = [f32::NAN; 18];
        unfold(&x, &[0, 2, 3], 3, 2, &mut y);
        assert_eq!(y[..6], [0.0, 1.0, 2.0, 0.0, 10.0, 20.0]);
        assert_eq!(y[6..12], [1.0, 2.0, 0.0, 10.0, 20.0, 0.0]);
        assert_eq!(y[12..], [0.0, 3.0, 0.0, 0.0, 30.0, 0.0]);
    }

    #[test]
    fn fold_is_the_transpose_of_unfold() {
        let number = |i: usize| (i as f32 * 0.7).sin();
        let (cu_seqlens, columns) = ([0, 1, 1, 8, 10], 5);
        let x: Vec<f32> = (0..50).map(number).collect();
        for size in [1, 3, 5, 21] {
            let dy: Vec<f32> = (7..7 + 50 * size).map(number).collect();
            let (mut y, mut dx) = (vec![f32::NAN; 50 * size], vec![1.0; 50]);
            unfold(&x, &cu_seqlens, size, columns, &mut y);
            fold(&dy, &cu_seqlens, size, columns, &mut dx);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let expected = dot(&y, &dy) + x.iter().sum::<f32>();
            assert!((dot(&x, &dx) - expected).abs() < 1e-3, "{size}");
        }
    }
}
