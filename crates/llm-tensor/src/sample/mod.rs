//! From logits to a token, in the order of Hugging Face's `generate`.
//!
//! | step | settings |
//! |---|---|
//! | processors, on logits | a grammar's mask, `logit_bias`, `repetition_penalty`, `frequency_penalty` and `presence_penalty`, `no_repeat_ngram_size`, `min_tokens` |
//! | temperature | `temperature`; 0 takes the largest logit here |
//! | filters, on probabilities | `top_k`, `top_p`, `min_p`, `typical_p`, `epsilon_cutoff`, `eta_cutoff` |
//!
//! The random number is a function of (seed, position), so a request's tokens do not depend on its neighbours. Plain slices,
//! no tensors: one row of logits at a time, rows in parallel if the caller likes.

mod filters;
mod processors;
mod settings;

use filters::Ranking;
use llm_run::Seed;
pub use settings::Sampling;

/// The sequence so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// Prompt, then what was generated.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// Tokens that end every generation of the model, besides [`Sampling::stop_ids`]; `min_tokens` bans both.
    pub end_ids: &'a [u32],
    /// The tokens a grammar allows, one bit each: token `i` is bit `i % 32` of word `i / 32`. None allows all.
    pub allowed: Option<&'a [u32]>,
}

impl<'a> History<'a> {
    /// What comes after the prompt.
    pub fn generated(self) -> &'a [u32] {
        self.tokens.get(self.prompt_len..).unwrap_or_default()
    }
}

/// A chosen token with its log-probability under the unmodified distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most likely alternatives, best first.
    pub top: Vec<(u32, f32)>,
}

/// Index of the largest element, the first of equals.
fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

crate::kernels::vectorized! {
    /// The logarithm of the sum of exponentials of a row of logits: what turns a logit into a log-probability.
    pub fn normaliser(logits: &[f32]) -> f32 {
        let largest = crate::kernels::max(logits);
        largest + crate::kernels::sum_exp(logits, largest).ln()
    }

    /// True if no other logit is larger, nor equal to it and before it.
    pub fn is_largest(logits: &[f32], token: usize) -> bool {
        let (before, from) = logits.split_at(token);
        crate::kernels::max(before) < from[0] && crate::kernels::max(from) <= from[0]
    }
}

/// Probabilities `(token, p)` after all processors and filters, most likely first; dropped tokens are not in the list.
pub fn distribution(logits: &[f32], sampling: &Sampling, history: History<'_>) -> Vec<(u32, f64)> {
    candidates(logits, sampling, history, f64::INFINITY)
}

/// [`distribution`], which may end after `enough` probability if no filter needs more.
fn candidates(logits: &[f32], sampling: &Sampling, history: History<'_>, enough: f64) -> Vec<(u32, f64)> {
    let mut logits = logits.to_vec();
    processors::process(&mut logits, sampling, history);
    if sampling.temperature <= 0.0 {
        return vec![(argmax(&logits), 1.0)];
    }
    for l in &mut logits {
        *l /= sampling.temperature;
    }
    filters::filter(&logits, sampling, enough)
}

/// Pick the next token of a sequence. `logits` of length vocabulary, not empty.
pub fn choose(logits: &[f32], sampling: &Sampling, history: History<'_>) -> Choice {
    let plain = !sampling.processes() && !sampling.filters() && history.allowed.is_none();
    let mut rng = Seed(sampling.seed).stream("sample").at(history.tokens.len() as u64).rng();
    let mut known = None;
    let token = if plain && sampling.temperature <= 0.0 {
        argmax(logits)
    } else if plain {
        // Nothing to rank: walk the vocabulary in id order.
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits.iter().map(|l| f64::from((l - max) / sampling.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        if sampling.temperature == 1.0 {
            known = Some(max + total.ln() as f32);
        }
        let mut rest = rng.uniform() * total;
        let found = weights.iter().position(|weight| {
            rest -= weight;
            rest < 0.0
        });
        found.map_or_else(|| argmax(logits), |i| i as u32)
    } else {
        let mut rest = rng.uniform();
        // A little more than the number drawn, so that rounding cannot end the list too early.
        let weights = candidates(logits, sampling, history, rest + 1e-9);
        let found = weights.iter().find(|w| {
            rest -= w.1;
            rest < 0.0
        });
        found.or(weights.last()).map_or(0, |w| w.0)
    };
    let normaliser = known.unwrap_or_else(|| normaliser(logits));
    let mut top = Vec::new();
    if sampling.top_logprobs > 0 {
        let mut ranking = Ranking::new(logits.iter().copied());
        top = ranking.first(sampling.top_logprobs).map(|i| (i as u32, logits[i] - normaliser)).collect();
    }
    Choice { token, logprob: logits[token as usize] - normaliser, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.0];

    #[test]
    fn greedy_takes_the_first_largest() {
        assert_eq!(choose(&[0.0, 2.0, 2.0], &Sampling::default(), History::default()).token, 1);
    }

    #[test]
    fn filters_keep_what_they_should() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let tokens = |s: &Sampling| distribution(&LOGITS, s, History::default()).iter().map(|w| w.0).collect::<Vec<_>>();
        assert_eq!(tokens(&base), [1, 2, 0, 4, 3]);
        assert_eq!(tokens(&Sampling { top_k: 2, ..base.clone() }), [1, 2]);
        // p = .636, .234, .086, ...: 0.7 needs two.
        assert_eq!(tokens(&Sampling { top_p: 0.7, ..base.clone() }), [1, 2]);
        assert_eq!(tokens(&Sampling { top_p: 0.1, ..base.clone() }), [1]);
        assert_eq!(tokens(&Sampling { min_p: 0.3, ..base.clone() }), [1, 2]);
        let penalised = distribution(&LOGITS, &Sampling { repetition_penalty: 2.0, ..base }, History { tokens: &[1, 3], ..History::default() });
        assert_eq!(penalised[0].0, 2, "3.0 / 2 < 2.0");
    }

    #[test]
    fn a_row_is_normalised_and_its_largest_found() {
        let row: Vec<f32> = (0..100).map(|i| ((i * 37) % 23) as f32 * 0.3 - 2.0).collect();
        let want = row.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
        assert!((f64::from(normaliser(&row)) - want).abs() < 1e-5);
        let best = argmax(&row) as usize;
        assert!((0..row.len()).all(|i| is_largest(&row, i) == (i == best)), "only the first of equals is the largest");
        assert!(is_largest(&[1.0], 0) && !is_largest(&[1.0, 1.0], 1));
    }

    /// If this fails, an answer that must be JSON is not.
    #[test]
    fn what_a_grammar_forbids_is_never_chosen() {
        let allowed = [0b10101];
        let history = History { allowed: Some(&allowed), ..History::default() };
        assert_eq!(choose(&LOGITS, &Sampling::default(), history).token, 2);
        let biased = Sampling { logit_bias: vec![(1, 50.0), (2, f32::NEG_INFINITY)], ..Sampling::default() };
        assert_eq!(choose(&LOGITS, &biased, history).token, 0);
        let tokens: Vec<u32> = distribution(&LOGITS, &Sampling { temperature: 1.0, ..Sampling::default() }, history).iter().map(|w| w.0).collect();
        assert_eq!(tokens, [2, 0, 4]);
        // The only one that is allowed is banned by a wish: the wish gives way.
        let end = History { allowed: Some(&[0b10000]), end_ids: &[4], ..History::default() };
        assert_eq!(choose(&LOGITS, &Sampling { min_tokens: 3, max_tokens: 9, ..Sampling::default() }, end).token, 4);
        assert!((choose(&LOGITS, &Sampling::default(), history).logprob - (2.0 - normaliser(&LOGITS))).abs() < 1e-6);
    }

    #[test]
    fn logprobs_are_of_the_unmodified_distribution() {
        let choice = choose(&LOGITS, &Sampling { temperature: 0.1, top_logprobs: 2, ..Sampling::default() }, History::default());
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((f64::from(choice.logprob) - (3.0 - total.ln())).abs() < 2e-6);
        assert_eq!(choice.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
    }
}
