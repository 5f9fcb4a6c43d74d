//! Shuffle sharding: each flow gets a hand of queues, dealt by its hash, so that two flows seldom share all of them.

use smallvec::SmallVec;

/// Some queues, by their numbers.
pub type Hand = SmallVec<[usize; 8]>;

/// A hand of different queues, of `deck` in all.
pub fn deal(mut hash: u64, deck: usize, size: usize) -> Hand {
    let mut hand = Hand::new();
    let size = size.min(deck);
    for dealt in 0..size {
        let left = (deck - dealt) as u64;
        // The remainder is below `deck`.
        let mut card = usize::try_from(hash % left).unwrap_or_default();
        hash /= left;
        // Counts over the cards that are left: those dealt before, in growing order, are skipped.
        let mut before = hand.clone();
        before.sort_unstable();
        for other in before {
            if other <= card {
                card += 1;
            }
        }
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn hand(hash: u64, deck: usize, size: usize) -> Vec<usize> {
        deal(hash, deck, size).into_vec()
    }

    #[test]
    fn hands_of_a_small_deck_are_as_upstream_deals_them() {
        assert_eq!(hand(0, 6, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(hand(1, 4, 3), [1, 0, 2]);
        assert_eq!(hand(7, 4, 2), [3, 1]);
    }

    #[test]
    fn every_queue_is_dealt_about_as_often_as_any_other() {
        let mut counts = [0_u32; 16];
        // A step that shares no factor with the number of hands goes through all of them.
        for hash in 0..16 * 15 * 14 * 13_u64 {
            hand(hash, 16, 4).into_iter().for_each(|queue| counts[queue] += 1);
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_hand_holds_different_queues_of_the_deck(hash: u64, deck in 1_usize..200, size in 1_usize..12) {
            let mut found = hand(hash, deck, size);
            prop_assert_eq!(found.len(), size.min(deck));
            prop_assert!(found.iter().all(|queue| *queue < deck));
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found.len(), size.min(deck));
        }
    }
}
