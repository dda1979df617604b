//! Queries, keys and values that one product gives head by head, as DeBERTa's does: a row holds those
//! of head 0, then those of head 1, and so on.

use crate::threads;

/// Rows that one task walks.
const ROWS: usize = 32;

/// The parts of `qkv` [T, heads · 3 · D]: queries, keys and values [T, heads · D].
///
/// # Panics
/// Lengths do not fit.
pub fn split_heads(qkv: &[f32], parts: [&mut [f32]; 3], heads: usize, head_size: usize) {
    let width = heads * head_size;
    assert!(width > 0 && parts.iter().all(|part| 3 * part.len() == qkv.len()));
    assert!(qkv.len().is_multiple_of(3 * width));
    let [q, k, v] = parts.map(|part| part.chunks_mut(ROWS * width));
    let blocks = qkv.chunks(3 * ROWS * width).zip(q.zip(k).zip(v));
    threads::for_each(blocks, |(qkv, ((q, k), v))| {
        for (index, from) in qkv.chunks_exact(head_size).enumerate() {
            let part = [&mut *q, &mut *k, &mut *v].into_iter().nth(index % 3).expect("three");
            part[index / 3 * head_size..][..head_size].copy_from_slice(from);
        }
    });
}

/// The way back: also the gradient of `qkv` from those of its parts.
///
/// # Panics
/// Lengths do not fit.
pub fn join_heads(parts: [&[f32]; 3], qkv: &mut [f32], heads: usize, head_size: usize) {
    let width = heads * head_size;
    assert!(width > 0 && parts.iter().all(|part| 3 * part.len() == qkv.len()));
    assert!(qkv.len().is_multiple_of(3 * width));
    let [q, k, v] = parts.map(|part| part.chunks(ROWS * width));
    let blocks = qkv.chunks_mut(3 * ROWS * width).zip(q.zip(k).zip(v));
    threads::for_each(blocks, |(qkv, ((q, k), v))| {
        for (index, to) in qkv.chunks_exact_mut(head_size).enumerate() {
            to.copy_from_slice(&[q, k, v][index % 3][index / 3 * head_size..][..head_size]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{join_heads, split_heads};

    #[test]
    fn heads_are_split_and_joined() {
        // Two rows of two heads of one number.
        let qkv: Vec<f32> = (0..12u8).map(f32::from).collect();
        let [mut q, mut k, mut v] = [(); 3].map(|()| vec![0.0; 4]);
        split_heads(&qkv, [&mut q, &mut k, &mut v], 2, 1);
        assert_eq!(
            (&q[..], &k[..], &v[..]),
            (&[0.0, 3.0, 6.0, 9.0][..], &[1.0, 4.0, 7.0, 10.0][..], &[2.0, 5.0, 8.0, 11.0][..],)
        );
        let (heads, size) = (3, 5);
        let qkv: Vec<f32> = (0..70 * 3 * heads * size).map(|i| i as f32).collect();
        let mut parts = [(); 3].map(|()| vec![0.0; qkv.len() / 3]);
        split_heads(&qkv, parts.each_mut().map(|part| &mut part[..]), heads, size);
        let mut again = vec![0.0; qkv.len()];
        join_heads(parts.each_ref().map(|part| &part[..]), &mut again, heads, size);
        assert_eq!(again, qkv);
    }
}
