//! Validation: held-out prompts, answered as a user would get them (the likeliest tokens) and, for pass@k, drawn.
//!
//! The numbers drawn are the same at every validation, so that two of them differ by the weights alone.

use super::collect::Collector;
use super::prompts::{Prompts, grade};
use crate::rollouts::{Rollout, SamplingConfig};
use crate::watchdog::Samples;
use llm_arch::Decoder;
use llm_run::Seed;
use llm_train::Result;
use serde_json::{Map, Value, json};

/// Answers kept for the eye.
const SAMPLES: usize = 4;

/// Held-out prompts.
#[derive(Debug)]
pub struct Heldout {
    /// The prompts.
    pub prompts: Prompts,
    /// Drawn answers per prompt.
    pub draws: usize,
    /// `samples.jsonl`.
    pub samples: Samples,
}

/// Probability that at least one of `k` answers is right when `right` of `n >= k` were: `1 - C(n - right, k) / C(n, k)` (Chen et al.,
/// Evaluating Large Language Models Trained on Code, 2021).
pub fn pass_at_k(n: usize, right: usize, k: usize) -> f64 {
    if n < right + k {
        return 1.0;
    }
    1.0 - (n - right + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

impl Heldout {
    /// Rewards and shares of right answers after `steps` steps.
    pub fn validate(&mut self, collector: &mut Collector, model: &Decoder, steps: u64) -> Result<Map<String, Value>> {
        let config = collector.config.sampling();
        let seed = Seed(collector.config.seed).stream("heldout");
        let asked: Vec<&[u32]> = self.prompts.ids.iter().map(Vec::as_slice).collect();
        let greedy = collector.sampler.answer(model, &SamplingConfig { temperature: 0.0, ..config }, seed, &asked)?;
        let answers: Vec<(usize, &Rollout)> = greedy.iter().enumerate().collect();
        let grades = grade(&collector.rewards, &collector.tokenizer, &self.prompts, &answers)?;
        let scored: Vec<f64> = grades.iter().filter_map(|g| g.total).map(f64::from).collect();
        let n = scored.len().max(1) as f64;
        let mean_of = |value: &dyn Fn(&Rollout) -> usize| greedy.iter().map(|r| value(r) as f64).sum::<f64>() / greedy.len().max(1) as f64;
        let mut record = Map::from_iter([
            ("val_reward".to_string(), json!(scored.iter().sum::<f64>() / n)),
            ("val_accuracy".to_string(), json!(scored.iter().filter(|&&r| r > 0.5).count() as f64 / n)),
            ("val_length".to_string(), json!(mean_of(&|r| r.tokens.len()))),
            ("val_cut_off".to_string(), json!(mean_of(&|r| usize::from(!r.ended)))),
        ]);
        if collector.thinking.known() {
            let thinking = collector.thinking;
            record.insert("val_thinking_length".into(), json!(mean_of(&|r| thinking.tokens(&r.prompt, &r.tokens))));
        }
        for (i, rollout) in greedy.iter().enumerate().take(SAMPLES) {
            let text = collector.tokenizer.decode(rollout.answer(), false);
            self.samples.record(steps, self.prompts.rows[i].text(), &text, grades[i].total.map(f64::from))?;
        }
        record.insert("samples".into(), self.samples.newest());
        if self.draws > 0 {
            let several: Vec<&[u32]> = asked.iter().flat_map(|&ids| std::iter::repeat_n(ids, self.draws)).collect();
            let drawn = collector.sampler.answer(model, &config, seed.stream("drawn"), &several)?;
            let answers: Vec<(usize, &Rollout)> = drawn.iter().enumerate().map(|(i, r)| (i / self.draws, r)).collect();
            let grades = grade(&collector.rewards, &collector.tokenizer, &self.prompts, &answers)?;
            let right: Vec<usize> =
                grades.chunks(self.draws).map(|group| group.iter().filter(|g| g.total.is_some_and(|r| r > 0.5)).count()).collect();
            for k in [1, self.draws] {
                let pass = right.iter().map(|&right| pass_at_k(self.draws, right, k)).sum::<f64>() / right.len().max(1) as f64;
                record.insert(format!("val_pass@{k}"), json!(pass));
            }
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, pass@k is too high or too low.
    #[test]
    fn pass_at_k_is_the_share_of_draws_with_a_right_one() {
        assert_eq!(pass_at_k(4, 0, 2), 0.0);
        assert_eq!(pass_at_k(4, 3, 2), 1.0);
        assert!((pass_at_k(4, 1, 1) - 0.25).abs() < 1e-12);
        // Of the six pairs of four, three have the right one.
        assert!((pass_at_k(4, 1, 2) - 0.5).abs() < 1e-12);
        assert_eq!(pass_at_k(4, 1, 4), 1.0);
    }
}
