//! Softmax cross-entropy over class logits, with class weights, as
//! `torch.nn.CrossEntropyLoss(weight, reduction="mean")`.

/// The sum over i of `wᵢ·(−log softmax(xᵢ)[yᵢ])` for `logits` x [B, `classes`], not yet divided;
/// `gradient` [B, `classes`] becomes d(sum / `total_weight`)/d x.
///
/// `total_weight` is the sum of the class weights of all labels of the *whole* batch, so that
/// micro-batches add up to the batch's mean. `weights` has one number per class, or is empty.
///
/// # Panics
/// A label is not below `classes`, or lengths do not fit.
pub fn cross_entropy(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    weights: &[f32],
    total_weight: f32,
    gradient: &mut [f32],
) -> f64 {
    assert_eq!(logits.len(), labels.len() * classes);
    assert_eq!(logits.len(), gradient.len());
    assert!(weights.is_empty() || weights.len() == classes);
    let mut weighted_sum = 0.0;
    for ((x, dx), &label) in logits.chunks(classes).zip(gradient.chunks_mut(classes)).zip(labels) {
        let label = label as usize;
        assert!(label < classes, "label {label} of {classes} classes");
        let weight = weights.get(label).copied().unwrap_or(1.0);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = x.iter().map(|x| (x - max).exp()).sum();
        weighted_sum += f64::from(weight) * f64::from(sum.ln() + max - x[label]);
        for (class, (dx, x)) in dx.iter_mut().zip(x).enumerate() {
            let target = if class == label { 1.0 } else { 0.0 };
            *dx = weight / total_weight * ((x - max).exp() / sum - target);
        }
    }
    weighted_sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(logits: &[f32], labels: &[u32], weights: &[f32], total: f32) -> (f64, Vec<f32>) {
        let mut gradient = vec![f32::NAN; logits.len()];
        let classes = logits.len() / labels.len();
        let sum = cross_entropy(logits, labels, classes, weights, total, &mut gradient);
        (sum, gradient)
    }

    #[test]
    fn the_gradient_is_the_slope_and_parts_add_up() {
        let logits = [0.3, -1.2, 2.0, 0.1, 0.0, -0.5];
        let (labels, weights) = ([2, 0], [0.5, 1.0, 2.0]);
        let (whole, gradient) = loss(&logits, &labels, &weights, 2.5);
        let parts = [
            loss(&logits[..3], &labels[..1], &weights, 2.5),
            loss(&logits[3..], &labels[1..], &weights, 2.5),
        ];
        assert!((whole - parts[0].0 - parts[1].0).abs() < 1e-12);
        for i in 0..6 {
            let shifted = |by: f32| {
                let mut x = logits;
                x[i] += by;
                loss(&x, &labels, &weights, 2.5).0 / 2.5
            };
            let slope = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-4);
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let (sum, gradient) = loss(&[1e4, -1e4], &[1], &[], 1.0);
        assert_eq!(sum, 2e4);
        assert_eq!(gradient, [1.0, -1.0]);
    }
}
