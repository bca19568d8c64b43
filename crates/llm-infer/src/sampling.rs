//! From logits to a token, in the order of Hugging Face's logits processors: repetition penalty, temperature, top-k, top-p,
//! min-p. The random number is a function of (seed, position), so a request's tokens do not depend on its neighbours.

use llm_run::Seed;

/// How to pick tokens, and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 picks the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set with this much probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this fraction of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide (multiply if negative) logits of tokens already seen; 1 is off (Keskar et al., CTRL, 2019).
    pub repetition_penalty: f32,
    /// Random seed.
    pub seed: u64,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Texts that end the generation.
    pub stop: Vec<String>,
    /// Further tokens that end the generation, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// How many alternatives to report per token.
    pub top_logprobs: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            max_tokens: 256,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            top_logprobs: 0,
        }
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

fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|l| f64::from(l - max).exp()).sum::<f64>().ln() as f32
}

/// Most likely first, the lower id first among equals.
fn ranked(logits: &[f32], candidates: &mut [u32]) {
    candidates.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
}

/// Probabilities `(token, p)` after all processors, most likely first. `seen` are the tokens of prompt and answer so far.
pub fn distribution(logits: &[f32], sampling: &Sampling, seen: &[u32]) -> Vec<(u32, f64)> {
    let mut logits = logits.to_vec();
    if sampling.repetition_penalty != 1.0 {
        let mut seen = seen.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let Some(l) = logits.get_mut(id as usize) else { continue };
            *l = if *l > 0.0 { *l / sampling.repetition_penalty } else { *l * sampling.repetition_penalty };
        }
    }
    if sampling.temperature <= 0.0 {
        return vec![(argmax(&logits), 1.0)];
    }
    for l in &mut logits {
        *l /= sampling.temperature;
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    if sampling.top_k > 0 && sampling.top_k < order.len() {
        let k = sampling.top_k;
        order.select_nth_unstable_by(k - 1, |&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        order.truncate(k);
    }
    ranked(&logits, &mut order);
    let max = order.first().map_or(0.0, |&i| logits[i as usize]);
    let mut weights: Vec<(u32, f64)> = order.into_iter().map(|i| (i, f64::from(logits[i as usize] - max).exp())).collect();
    let total: f64 = weights.iter().map(|w| w.1).sum();
    weights.iter_mut().for_each(|w| w.1 /= total);
    if sampling.top_p < 1.0 {
        let mut before = 0.0;
        let keep = weights
            .iter()
            .take_while(|w| {
                let keep = before < f64::from(sampling.top_p);
                before += w.1;
                keep
            })
            .count();
        weights.truncate(keep.max(1));
    }
    if sampling.min_p > 0.0 {
        let floor = weights[0].1 * f64::from(sampling.min_p);
        weights.retain(|w| w.1 >= floor);
    }
    let total: f64 = weights.iter().map(|w| w.1).sum();
    weights.iter_mut().for_each(|w| w.1 /= total);
    weights
}

/// Pick the token at `position` of a sequence.
pub fn choose(logits: &[f32], sampling: &Sampling, seen: &[u32], position: usize) -> Choice {
    let plain = sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0.0 && sampling.repetition_penalty == 1.0;
    let mut uniform = Seed(sampling.seed).stream("sample").at(position as u64).rng();
    let normaliser = log_sum_exp(logits);
    let token = if plain && sampling.temperature <= 0.0 {
        argmax(logits)
    } else if plain {
        // No need to sort the vocabulary: walk it in id order.
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |l: f32| f64::from((l - max) / sampling.temperature).exp();
        let total: f64 = logits.iter().map(|&l| weight(l)).sum();
        let mut rest = uniform.uniform() * total;
        let found = logits.iter().position(|&l| {
            rest -= weight(l);
            rest < 0.0
        });
        found.map_or_else(|| argmax(logits), |i| i as u32)
    } else {
        let weights = distribution(logits, sampling, seen);
        let mut rest = uniform.uniform();
        let found = weights.iter().find(|w| {
            rest -= w.1;
            rest < 0.0
        });
        found.or(weights.last()).map_or(0, |w| w.0)
    };
    let mut top = Vec::new();
    if sampling.top_logprobs > 0 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        ranked(logits, &mut order);
        top = order.into_iter().take(sampling.top_logprobs).map(|i| (i, logits[i as usize] - normaliser)).collect();
    }
    Choice { token, logprob: logits[token as usize] - normaliser, top }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.0];

    #[test]
    fn greedy_takes_the_first_largest() {
        assert_eq!(choose(&[0.0, 2.0, 2.0], &Sampling::default(), &[], 0).token, 1);
    }

    #[test]
    fn filters_keep_what_they_should() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let tokens = |s: &Sampling| distribution(&LOGITS, s, &[]).iter().map(|w| w.0).collect::<Vec<_>>();
        assert_eq!(tokens(&base), [1, 2, 0, 4, 3]);
        assert_eq!(tokens(&Sampling { top_k: 2, ..base.clone() }), [1, 2]);
        // p = .636, .234, .086, ...: 0.7 needs two.
        assert_eq!(tokens(&Sampling { top_p: 0.7, ..base.clone() }), [1, 2]);
        assert_eq!(tokens(&Sampling { top_p: 0.1, ..base.clone() }), [1]);
        assert_eq!(tokens(&Sampling { min_p: 0.3, ..base.clone() }), [1, 2]);
        let penalised = distribution(&LOGITS, &Sampling { repetition_penalty: 2.0, ..base }, &[1, 3]);
        assert_eq!(penalised[0].0, 2, "3.0 / 2 < 2.0");
    }

    #[test]
    fn samples_follow_the_distribution_and_repeat_with_the_seed() {
        for sampling in [Sampling { temperature: 0.8, ..Sampling::default() }, Sampling { temperature: 0.8, top_p: 0.95, ..Sampling::default() }] {
            let want = distribution(&LOGITS, &sampling, &[]);
            let mut counts = [0usize; 5];
            let n = 20_000;
            for i in 0..n {
                counts[choose(&LOGITS, &sampling, &[], i).token as usize] += 1;
            }
            for (token, p) in want {
                let expected = p * n as f64;
                assert!((counts[token as usize] as f64 - expected).abs() < 5.0 * expected.sqrt().max(1.0), "token {token}");
            }
            assert_eq!(choose(&LOGITS, &sampling, &[], 3), choose(&LOGITS, &sampling, &[], 3));
        }
    }

    #[test]
    fn logprobs_are_of_the_unmodified_distribution() {
        let choice = choose(&LOGITS, &Sampling { temperature: 0.1, top_logprobs: 2, ..Sampling::default() }, &[], 0);
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        assert!((f64::from(choice.logprob) - (3.0 - total.ln())).abs() < 1e-6);
        assert_eq!(choice.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
    }
}
