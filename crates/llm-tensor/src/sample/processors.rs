//! What changes logits before the temperature: a grammar's mask, biases, penalties, bans, in the order of Hugging Face's `generate`.
//!
//! The two OpenAI penalties have no place in that order; they follow the repetition penalty, as in vLLM. Formulas: OpenAI API
//! reference, "Advanced usage" (frequency and presence), Keskar et al. 2019 (repetition).

use super::{History, Sampling};
use std::collections::BTreeMap;

/// Apply everything that is on. Bans that would leave no token at all are lifted again: a vocabulary can be used up by
/// `no_repeat_ngram_size = 1`, and some token must come out.
pub(super) fn process(logits: &mut [f32], sampling: &Sampling, history: History<'_>) {
    if let Some(words) = history.allowed {
        for (i, logits) in logits.chunks_mut(32).enumerate() {
            let word = words.get(i).copied().unwrap_or(0);
            if word != u32::MAX {
                let forbidden = logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
                forbidden.for_each(|(_, l)| *l = f32::NEG_INFINITY);
            }
        }
    }
    for &(id, bias) in &sampling.logit_bias {
        if let Some(l) = logits.get_mut(id as usize) {
            *l += bias;
        }
    }
    if sampling.repetition_penalty != 1.0 {
        let mut seen = history.tokens.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let Some(l) = logits.get_mut(id as usize) else { continue };
            *l = if *l > 0.0 { *l / sampling.repetition_penalty } else { *l * sampling.repetition_penalty };
        }
    }
    if sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0 {
        let mut counts = BTreeMap::new();
        for &id in history.generated() {
            *counts.entry(id).or_insert(0u32) += 1;
        }
        for (id, count) in counts {
            if let Some(l) = logits.get_mut(id as usize) {
                *l -= count as f32 * sampling.frequency_penalty + sampling.presence_penalty;
            }
        }
    }
    let mut banned = ngram_ends(history.tokens, sampling.no_repeat_ngram_size);
    if history.generated().len() < sampling.min_tokens {
        banned.extend(history.end_ids.iter().chain(&sampling.stop_ids));
    }
    banned.retain(|&id| (id as usize) < logits.len());
    // Sorted and unique, so that lifting the bans puts back what was there.
    banned.sort_unstable();
    banned.dedup();
    let before: Vec<f32> = banned.iter().map(|&id| std::mem::replace(&mut logits[id as usize], f32::NEG_INFINITY)).collect();
    if !banned.is_empty() && logits.iter().all(|&l| l == f32::NEG_INFINITY) {
        for (&id, l) in banned.iter().zip(before) {
            logits[id as usize] = l;
        }
    }
}

/// The tokens that would complete an n-gram of `tokens` a second time.
fn ngram_ends(tokens: &[u32], n: usize) -> Vec<u32> {
    if n == 0 || tokens.len() < n {
        return Vec::new();
    }
    let begun = &tokens[tokens.len() + 1 - n..];
    tokens.windows(n).filter(|ngram| ngram[..n - 1] == *begun).map(|ngram| ngram[n - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processed(sampling: &Sampling, tokens: &[u32], prompt_len: usize) -> Vec<f32> {
        let mut logits = vec![1.0, 3.0, 2.0, -1.0, 0.0];
        process(&mut logits, sampling, History { tokens, prompt_len, end_ids: &[4], ..History::default() });
        logits
    }

    const BAN: f32 = f32::NEG_INFINITY;

    #[test]
    fn ngrams_are_not_completed_twice() {
        assert_eq!(ngram_ends(&[1, 2, 3, 1, 4, 1], 2), [2, 4]);
        assert_eq!(ngram_ends(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(ngram_ends(&[1, 2, 1], 1), [1, 2, 1]);
        assert_eq!(ngram_ends(&[1, 2], 3), [0u32; 0]);
        assert_eq!(ngram_ends(&[2, 2], 3), [0u32; 0], "one 2 more makes the first 2 2 2, not the second");
        assert_eq!(processed(&Sampling { no_repeat_ngram_size: 2, ..Sampling::default() }, &[1, 2, 1], 2), [1.0, 3.0, BAN, -1.0, 0.0]);
    }

    #[test]
    fn repetition_counts_the_prompt_and_the_openai_penalties_do_not() {
        let tokens = [0, 3, 1, 1, 99];
        assert_eq!(processed(&Sampling { repetition_penalty: 2.0, ..Sampling::default() }, &tokens, 2), [0.5, 1.5, 2.0, -2.0, 0.0]);
        let openai = Sampling { frequency_penalty: 0.5, presence_penalty: 0.25, ..Sampling::default() };
        assert_eq!(processed(&openai, &tokens, 2), [1.0, 1.75, 2.0, -1.0, 0.0]);
    }

    #[test]
    fn bias_comes_first() {
        let sampling = Sampling { logit_bias: vec![(0, -3.0), (77, 1.0)], repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(processed(&sampling, &[0], 1)[0], -4.0, "biased to -2, then the penalty of a negative logit");
    }

    #[test]
    fn end_tokens_wait_for_min_tokens() {
        let sampling = Sampling { min_tokens: 2, stop_ids: vec![1, 4, 99], ..Sampling::default() };
        assert_eq!(processed(&sampling, &[0, 0, 0], 2), [1.0, BAN, 2.0, -1.0, BAN], "one of two is generated");
        assert_eq!(processed(&sampling, &[0, 0, 0, 0], 2), [1.0, 3.0, 2.0, -1.0, 0.0]);
    }

    #[test]
    fn bans_that_leave_nothing_are_lifted() {
        let sampling = Sampling { no_repeat_ngram_size: 1, min_tokens: 9, ..Sampling::default() };
        assert_eq!(processed(&sampling, &[0, 1, 2], 0), [BAN, BAN, BAN, -1.0, BAN]);
        assert_eq!(processed(&sampling, &[0, 1, 2, 3], 0), [1.0, 3.0, 2.0, -1.0, 0.0]);
    }
}
