//! The signed dynamic 8-bit code of bitsandbytes (Dettmers et al. 2022, "8-bit optimizers via
//! block-wise quantization"), which holds the scales of doubly quantised NF4.

/// The 256 values in ascending order: for each of seven decades, the midpoints of 2ⁱ equal parts of
/// 0.1..1, both signs; 0; 1.
pub(super) fn code() -> [f32; 256] {
    let mut values = vec![0.0f32, 1.0];
    for i in 0..7 {
        let parts: usize = 1 << i;
        // As torch.linspace gives them: from the nearer end, rounded once.
        let step = f64::from((1.0f32 - 0.1) / parts as f32);
        let edge = |n: usize| {
            if n < parts.div_ceil(2) {
                (f64::from(0.1f32) + step * n as f64) as f32
            } else {
                (1.0 - step * (parts - n) as f64) as f32
            }
        };
        let decade = 10f64.powi(i - 6) as f32;
        for n in 0..parts {
            let value = decade * ((edge(n) + edge(n + 1)) / 2.0);
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("2 + 2·127 values")
}

/// The code nearest to `x`, the lower of two equally near.
pub(super) fn nearest(code: &[f32; 256], x: f32) -> u8 {
    let above = code.partition_point(|&value| value < x).min(255);
    let below = above.saturating_sub(1);
    let nearer_below = x - code[below] <= code[above] - x;
    if nearer_below { below as u8 } else { above as u8 }
}
