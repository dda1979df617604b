//! Initial weights: a generator per tensor, and the two distributions that new layers take.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A generator for one tensor, a function of the seed and the tensor's name: adding a layer changes
/// no other layer's numbers.
pub(crate) fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ChaCha8Rng::seed_from_u64(seed ^ hash)
}

/// In 0..1.
pub(crate) fn uniform(random: &mut impl Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 24) as f32
}

/// Standard normal, by Box and Muller's transform.
pub(crate) fn normal(random: &mut impl Rng) -> f32 {
    let radius = (-2.0 * f64::from(1.0 - uniform(random)).ln()).sqrt();
    let angle = 2.0 * std::f64::consts::PI * f64::from(uniform(random));
    (radius * angle.cos()) as f32
}
