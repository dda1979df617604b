//! Orders and batches: nothing lost, nothing twice, budgets kept.

use data::{Encoded, by_length, epoch_order, micro_batches, pack};
use proptest::prelude::*;

#[test]
fn the_order_is_the_same_for_ever() {
    assert_eq!(epoch_order(42, 0, 8), epoch_order(42, 0, 8));
    assert_ne!(epoch_order(42, 0, 100), epoch_order(42, 1, 100));
    assert_ne!(epoch_order(42, 0, 100), epoch_order(43, 0, 100));
    assert!(epoch_order(42, 0, 0).is_empty());
    // Resumed runs depend on these very numbers.
    assert_eq!(epoch_order(42, 3, 8), [4, 5, 2, 6, 7, 1, 0, 3]);
}

proptest! {
    #[test]
    fn an_epoch_visits_every_row_once(seed: u64, epoch: u64, n in 0_u32..500) {
        let mut order = epoch_order(seed, epoch, n);
        order.sort_unstable();
        prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn micro_batches_keep_order_and_budget(
        lengths in prop::collection::vec(1_u32..200, 1..100),
        budget in 0_usize..500,
    ) {
        let rows = epoch_order(1, 0, lengths.len() as u32);
        let batches: Vec<&[u32]> = micro_batches(&rows, &lengths, budget).collect();
        prop_assert_eq!(batches.concat(), rows.as_slice());
        let tokens = |batch: &[u32]| batch.iter().map(|&row| lengths[row as usize]).sum::<u32>();
        for batch in &batches {
            prop_assert!(batch.len() == 1 || tokens(batch) as usize <= budget);
        }
        // Greedy: the first row of a batch did not fit into the one before.
        for pair in batches.windows(2) {
            let next = lengths[pair[1][0] as usize];
            prop_assert!((tokens(pair[0]) + next) as usize > budget);
        }
    }

    #[test]
    fn evaluation_batches_hold_the_whole_split(
        lengths in prop::collection::vec(1_u32..200, 0..100),
        budget in 1_usize..500,
    ) {
        let order = by_length(&lengths, budget).concat();
        prop_assert!(order.iter().map(|&row| lengths[row as usize]).is_sorted_by(|a, b| a >= b));
        let mut rows = order;
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..lengths.len() as u32).collect::<Vec<_>>());
    }

    #[test]
    fn a_packed_batch_unpacks_to_its_sequences(
        texts in prop::collection::vec(prop::collection::vec(0_u32..30_000, 1..50), 1..40),
        seed: u64,
    ) {
        let encoded: Vec<Encoded> =
            texts.iter().map(|ids| Encoded { ids: ids.clone(), length: ids.len() }).collect();
        let labels: Vec<u32> = (0..texts.len() as u32).map(|row| row % 3).collect();
        let mut rows = epoch_order(seed, 0, texts.len() as u32);
        rows.truncate(texts.len().div_ceil(2));
        let batch = pack(&encoded, &labels, &rows);
        prop_assert_eq!(batch.cu_seqlens.len(), rows.len() + 1);
        for (position, &row) in rows.iter().enumerate() {
            let [begin, end] = [0, 1].map(|next| batch.cu_seqlens[position + next] as usize);
            prop_assert_eq!(&batch.ids[begin..end], &texts[row as usize]);
            prop_assert_eq!(batch.labels[position], labels[row as usize]);
        }
        prop_assert_eq!(*batch.cu_seqlens.last().expect("an end") as usize, batch.ids.len());
        prop_assert!(pack(&encoded, &[], &rows).labels.is_empty());
        prop_assert_eq!(batch.rows, rows);
    }
}
