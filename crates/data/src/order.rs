//! Random orders as pure functions: a Fisher–Yates shuffle whose draws come from Philox4x32-10
//! (Salmon et al., SC 2011) keyed by the seed. No state is kept, so a resumed run needs none, and
//! the same arguments give the same order on every platform.

/// What an order is for; keeps draws of one purpose apart from those of another.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Epoch,
    Split,
    Sample,
}

/// The order in which epoch `epoch` visits `n` training rows.
#[must_use]
pub fn epoch_order(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
    permutation(seed, Purpose::Epoch, epoch, n)
}

/// A permutation of `0..n`.
pub(crate) fn permutation(seed: u64, purpose: Purpose, stream: u64, n: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    let mut spare = None;
    for last in (1..n).rev() {
        let random = spare.take().unwrap_or_else(|| {
            let block = philox(
                [last, purpose as u32, stream as u32, (stream >> 32) as u32],
                [seed as u32, (seed >> 32) as u32],
            );
            spare = Some(u64::from(block[2]) << 32 | u64::from(block[3]));
            u64::from(block[0]) << 32 | u64::from(block[1])
        });
        // The high half of the product is below `last + 1`; its bias is under 2^-32.
        let pick = (u128::from(random) * u128::from(last + 1)) >> 64;
        order.swap(last as usize, pick as usize);
    }
    order
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = product(0xD251_1F53, counter[0]);
        let (high1, low1) = product(0xCD9E_8D57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123 library.
    #[test]
    fn philox_gives_the_published_words() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_position_is_equally_likely() {
        let mut first = [0_u32; 5];
        for epoch in 0..5000 {
            first[epoch_order(7, epoch, 5)[0] as usize] += 1;
        }
        assert!(first.iter().all(|&count| (900..1100).contains(&count)), "{first:?}");
    }
}
