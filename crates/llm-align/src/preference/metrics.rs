//! What a step did, under TRL's names: implicit rewards, margins, accuracies, log-probabilities.

use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};

/// One micro-batch, as far as the metrics need it.
#[derive(Debug)]
pub(super) struct Seen {
    /// Its number in the step.
    pub micro: usize,
    /// Log-probabilities of its answers, still on the device.
    pub policy: Tensor<1>,
    /// The reference's.
    pub reference: Vec<f32>,
    /// Tokens of each answer.
    pub lengths: Vec<f32>,
    /// Verdicts on single answers; none on pairs.
    pub desirable: Vec<bool>,
}

/// The micro-batches of a step, in whatever order they end.
#[derive(Debug, Default)]
pub(super) struct Step(Mutex<Vec<Seen>>);

/// A step's answers, in order.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub policy: Vec<f32>,
    pub reference: Vec<f32>,
    pub lengths: Vec<f32>,
    pub desirable: Vec<bool>,
}

impl Step {
    pub fn push(&self, seen: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }

    /// All of it, and start anew.
    pub fn take(&mut self) -> Answers {
        let mut parts = std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        parts.sort_by_key(|seen| seen.micro);
        let mut all = Answers::default();
        for seen in parts {
            all.policy.extend(host::to_vec(seen.policy));
            all.reference.extend(seen.reference);
            all.lengths.extend(seen.lengths);
            all.desirable.extend(seen.desirable);
        }
        all
    }
}

/// What an implicit reward is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reward {
    /// Its factor.
    pub beta: f64,
    /// Log-ratio to the reference, or the log-probability alone.
    pub against_reference: bool,
    /// Per token instead of per answer (without reference).
    pub per_token: bool,
}

impl Reward {
    fn of(&self, answers: &Answers, i: usize) -> f64 {
        let policy = f64::from(answers.policy[i]);
        let raw = match (self.against_reference, self.per_token) {
            (true, _) => policy - f64::from(answers.reference[i]),
            (false, true) => policy / f64::from(answers.lengths[i].max(1.0)),
            (false, false) => policy,
        };
        self.beta * raw
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0u64), |(sum, n), x| (sum + x, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Metrics of pairs (interleaved answers), their keys after `prefix`.
///
/// `kl` is the mean over all answers of `log ref - log pi`, in nats: an estimate of KL(reference || policy) where the answers were sampled
/// from the reference. Other data make it a number to watch, and no divergence.
pub(super) fn of_pairs(prefix: &str, answers: &Answers, reward: Reward) -> Map<String, Value> {
    let pairs = answers.policy.len() / 2;
    let rewards: Vec<(f64, f64)> = (0..pairs).map(|i| (reward.of(answers, 2 * i), reward.of(answers, 2 * i + 1))).collect();
    let policy = |offset: usize| mean((0..pairs).map(|i| f64::from(answers.policy[2 * i + offset])));
    let tokens: f64 = (0..pairs).map(|i| f64::from(answers.lengths[2 * i])).sum();
    let nll: f64 = (0..pairs).map(|i| -f64::from(answers.policy[2 * i])).sum();
    let kl = reward.against_reference.then(|| mean(answers.policy.iter().zip(&answers.reference).map(|(p, r)| f64::from(*r) - f64::from(*p))));
    keyed(
        prefix,
        [
            ("rewards/chosen", mean(rewards.iter().map(|r| r.0))),
            ("rewards/rejected", mean(rewards.iter().map(|r| r.1))),
            ("rewards/margins", mean(rewards.iter().map(|r| r.0 - r.1))),
            ("rewards/accuracies", mean(rewards.iter().map(|r| f64::from(u8::from(r.0 > r.1))))),
            ("logps/chosen", policy(0)),
            ("logps/rejected", policy(1)),
            ("nll_loss", (tokens > 0.0).then(|| nll / tokens)),
            ("kl", kl.flatten()),
        ],
    )
}

/// Metrics of single answers. `kl` is the number in the loss.
pub(super) fn of_answers(prefix: &str, answers: &Answers, reward: Reward, kl: f64) -> Map<String, Value> {
    let of = |good: bool| (0..answers.policy.len()).filter(move |&i| answers.desirable[i] == good);
    let rewards = |good: bool| mean(of(good).map(|i| reward.of(answers, i)));
    let log_probs = |good: bool| mean(of(good).map(|i| f64::from(answers.policy[i])));
    let margin = rewards(true).zip(rewards(false)).map(|(chosen, rejected)| chosen - rejected);
    keyed(
        prefix,
        [
            ("kl", Some(kl)),
            ("rewards/chosen", rewards(true)),
            ("rewards/rejected", rewards(false)),
            ("rewards/margins", margin),
            ("logps/chosen", log_probs(true)),
            ("logps/rejected", log_probs(false)),
        ],
    )
}

fn keyed<const N: usize>(prefix: &str, numbers: [(&str, Option<f64>); N]) -> Map<String, Value> {
    numbers.into_iter().filter_map(|(key, number)| Some((format!("{prefix}{key}"), json!(number?)))).collect()
}

/// `loss 0.651 margin 0.09 accuracy 0.72`, for the progress line.
pub(super) fn line(loss: f32, metrics: &Map<String, Value>) -> String {
    let number = |key: &str, name: &str| metrics.get(key).and_then(Value::as_f64).map(|x| format!(" {name} {x:.3}")).unwrap_or_default();
    format!("loss {loss:.3}{}{}", number("rewards/margins", "margin"), number("rewards/accuracies", "accuracy"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;

    fn seen(micro: usize, policy: [f32; 2], reference: [f32; 2]) -> Seen {
        let policy = host::from_vec(policy.to_vec(), [2], &Device::flex());
        Seen { micro, policy, reference: reference.to_vec(), lengths: vec![2.0, 4.0], desirable: Vec::new() }
    }

    /// If this fails, two workers that end in another order log other numbers.
    #[test]
    fn metrics_do_not_depend_on_who_ends_first() {
        let reward = Reward { beta: 0.5, against_reference: true, per_token: false };
        let of = |order: [usize; 2]| {
            let mut step = Step::default();
            let parts = [([-4.0, -8.0], [-5.0, -5.0]), ([-6.0, -3.0], [-6.0, -4.0])];
            order.into_iter().for_each(|i| step.push(seen(i, parts[i].0, parts[i].1)));
            of_pairs("", &step.take(), reward)
        };
        assert_eq!(of([0, 1]), of([1, 0]));
        let metrics = of([0, 1]);
        // Log-ratios: 1, -3; 0, 1.
        for (key, want) in [
            ("rewards/chosen", 0.25),
            ("rewards/rejected", -0.5),
            ("rewards/margins", 0.75),
            ("rewards/accuracies", 0.5),
            ("logps/chosen", -5.0),
            ("nll_loss", 2.5),
            ("kl", 0.25),
        ] {
            assert_eq!(metrics[key].as_f64(), Some(want), "{key}");
        }
    }

    #[test]
    fn answers_without_bad_ones_have_no_margin() {
        let answers = Answers { policy: vec![-2.0, -4.0], reference: vec![-3.0, -3.0], lengths: vec![1.0; 2], desirable: vec![true, true] };
        let reward = Reward { beta: 1.0, against_reference: true, per_token: false };
        let metrics = of_answers("eval_", &answers, reward, 0.5);
        assert_eq!((metrics["eval_rewards/chosen"].as_f64(), metrics["eval_kl"].as_f64()), (Some(0.0), Some(0.5)));
        assert!(!metrics.contains_key("eval_rewards/margins") && !metrics.contains_key("eval_rewards/rejected"));
    }
}
