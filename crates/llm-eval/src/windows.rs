//! How a document longer than the model's context is cut for scoring.
//!
//! Window `k` starts with the last token of window `k-1`, which it sees as context and does not score. A window of `L`
//! tokens scores `L - 1` of them, so every token of the sequence but the first (BOS) is scored exactly once, and no
//! token is scored without at least one token before it. These are the disjoint rolling windows with a context of one
//! that lm-evaluation-harness uses for perplexity, except that its windows hold `L + 1` tokens: it feeds `L` and scores
//! `L`, we never hand the model more than its context.

use std::ops::Range;

/// The windows over a sequence of `length` tokens (BOS included) for a model that sees `context` tokens at once.
///
/// Token `i` of a window is scored by log p(token i | window[..i]) for every `i >= 1`. A context below 2 cannot score
/// anything and gives no windows; so does a sequence of fewer than two tokens.
pub fn windows(length: usize, context: usize) -> impl Iterator<Item = Range<usize>> {
    let stride = context.saturating_sub(1);
    let count = if stride == 0 { 0 } else { length.saturating_sub(1).div_ceil(stride) };
    (0..count).map(move |k| k * stride..(k * stride + context).min(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_but_the_first_is_scored_exactly_once(length in 0usize..2000, context in 2usize..70) {
            let mut scored = vec![0u32; length];
            for window in windows(length, context) {
                prop_assert!(window.len() >= 2 && window.len() <= context);
                for i in window.skip(1) {
                    scored[i] += 1;
                }
            }
            prop_assert!(scored.iter().enumerate().all(|(i, &n)| n == u32::from(i > 0)));
        }
    }

    #[test]
    fn a_window_starts_with_the_last_token_of_the_one_before() {
        assert_eq!(windows(10, 4).collect::<Vec<_>>(), [0..4, 3..7, 6..10]);
        assert_eq!(windows(11, 4).collect::<Vec<_>>(), [0..4, 3..7, 6..10, 9..11]);
        assert_eq!(windows(1, 4).count() + windows(0, 4).count() + windows(9, 1).count(), 0);
    }
}
