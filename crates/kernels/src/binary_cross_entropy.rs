//! Binary cross-entropy of any number of labels per row, from logits, as
//! `torch.nn.BCEWithLogitsLoss(pos_weight, reduction="mean")`.

/// The sum over rows and labels of `−p·y·log σ(x) − (1 − y)·log(1 − σ(x))` for `logits` x
/// [B, `labels`] and `targets` y [B, `labels`] of 0 and 1, not yet divided; `gradient`
/// [B, `labels`] becomes d(sum / `total`)/d x.
///
/// `total` is rows times labels of the *whole* batch, so that micro-batches add up to the batch's
/// mean. `positive_weights` p has one number per label, or is empty.
///
/// # Panics
/// A target is neither 0 nor 1, or lengths do not fit.
pub fn binary_cross_entropy(
    logits: &[f32],
    targets: &[u32],
    labels: usize,
    positive_weights: &[f32],
    total: f32,
    gradient: &mut [f32],
) -> f64 {
    assert_eq!(logits.len(), targets.len());
    assert_eq!(logits.len(), gradient.len());
    assert_eq!(logits.len() % labels, 0);
    assert!(positive_weights.is_empty() || positive_weights.len() == labels);
    let mut sum = 0.0;
    for (index, ((&x, &target), dx)) in logits.iter().zip(targets).zip(gradient).enumerate() {
        assert!(target < 2, "target {target} is neither 0 nor 1");
        // −log(1 − σ(|x|)) without its |x|: what both cases share, and never too large.
        let decay = (-x.abs()).exp();
        let rest = decay.ln_1p();
        let (weight, loss, slope) = if target == 1 {
            let weight = positive_weights.get(index % labels).copied().unwrap_or(1.0);
            (weight, rest + (-x).max(0.0), -sigmoid(-x, decay))
        } else {
            (1.0, rest + x.max(0.0), sigmoid(x, decay))
        };
        sum += f64::from(weight) * f64::from(loss);
        *dx = weight / total * slope;
    }
    sum
}

/// σ(x), given exp(−|x|).
fn sigmoid(x: f32, decay: f32) -> f32 {
    if x >= 0.0 { 1.0 / (1.0 + decay) } else { decay / (1.0 + decay) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABELS: usize = 3;

    /// The textbook's formulas in f64, where they are exact enough for logits of moderate size.
    fn reference(x: &[f32], y: &[u32], weights: &[f32], total: f32) -> (f64, Vec<f64>) {
        let (mut sum, mut gradient) = (0.0, Vec::new());
        for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
            let (x, y) = (f64::from(x), f64::from(y));
            let weight = weights.get(i % LABELS).map_or(1.0, |&w| f64::from(w));
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            let other = 1.0 / (1.0 + x.exp());
            sum -= weight * y * sigmoid.ln() + (1.0 - y) * other.ln();
            let slope = (1.0 - y) * sigmoid - weight * y * other;
            gradient.push(slope / f64::from(total));
        }
        (sum, gradient)
    }

    proptest! {
        #[test]
        fn loss_and_gradient_equal_the_reference_and_parts_add_up(
            rows in prop::collection::vec(
                prop::array::uniform3((-30.0..30.0f32, 0..2u32)), 1..12,
            ),
            weights in prop_oneof![Just(vec![]), prop::collection::vec(0.1..50.0f32, LABELS)],
            cut in 0..12usize,
        ) {
            let (x, y): (Vec<f32>, Vec<u32>) = rows.into_iter().flatten().unzip();
            let total = x.len() as f32;
            let mut gradient = vec![f32::NAN; x.len()];
            let sum = binary_cross_entropy(&x, &y, LABELS, &weights, total, &mut gradient);
            let (expected, slopes) = reference(&x, &y, &weights, total);
            prop_assert!((sum - expected).abs() <= 1e-6 * expected.abs().max(1.0));
            for (ours, slope) in gradient.iter().zip(slopes) {
                prop_assert!((f64::from(*ours) - slope).abs() <= 1e-6 * slope.abs().max(1e-3));
            }
            let cut = (cut * LABELS).min(x.len());
            let mut parts = vec![f32::NAN; x.len()];
            let (first, second) = parts.split_at_mut(cut);
            let of = |x: &[f32], y: &[u32], dx: &mut [f32]| {
                binary_cross_entropy(x, y, LABELS, &weights, total, dx)
            };
            let both = of(&x[..cut], &y[..cut], first) + of(&x[cut..], &y[cut..], second);
            prop_assert!((both - sum).abs() <= 1e-12 * sum.max(1.0));
            prop_assert_eq!(parts, gradient);
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut gradient = [f32::NAN; 4];
        let sum = binary_cross_entropy(
            &[1e4, -1e4, 1e4, -1e4],
            &[1, 0, 0, 1],
            2,
            &[],
            1.0,
            &mut gradient,
        );
        assert_eq!(sum, 2e4);
        assert_eq!(gradient, [0.0, 0.0, 1.0, -1.0]);
    }

    #[test]
    #[should_panic(expected = "target 2 is neither 0 nor 1")]
    fn a_class_is_no_target() {
        binary_cross_entropy(&[0.0], &[2], 1, &[], 1.0, &mut [0.0]);
    }
}
