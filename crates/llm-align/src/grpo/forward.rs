//! Numbers that the training forward has anyway, or nearly: entropy, divergence, how much was clipped.
//!
//! They stay on the device until the step is taken, so that nobody waits for them. Micro-batches may run on several threads; they are summed in
//! their order, whoever was first.
//!
//! Legend: R rows that the entropy is taken of, D hidden, V vocabulary.

use llm_arch::Decoder;
use llm_tensor::burn::tensor::{Tensor, activation};
use llm_tensor::{host, ops};
use llm_train::sequences::Sequences;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Rows per micro-batch that the entropy is taken of: logits of a small part of the trained positions cost little beside those of all.
const ENTROPY_ROWS: usize = 64;

/// Sums over one micro-batch; each tensor has one element and no tape.
#[derive(Debug, Default)]
pub struct Part {
    /// Trained tokens.
    pub tokens: usize,
    /// Answers.
    pub answers: usize,
    /// Entropy in nats, and of how many tokens.
    pub entropy: Option<(Tensor<1>, usize)>,
    /// k3 to the starting model.
    pub kl: Option<Tensor<1>>,
    /// k3 to the weights that drew the answers.
    pub moved: Option<Tensor<1>>,
    /// Clipped tokens: below with a negative advantage, above with a positive one.
    pub clipped: Option<(Tensor<1>, Tensor<1>)>,
}

/// Entropy of the policy at evenly spaced trained positions: their sum in nats, and how many there are. The exact entropy of the whole
/// distribution at each, not that of the drawn token.
pub fn entropy(model: &Decoder, hidden_ND: Tensor<2>, sequences: &Sequences) -> Option<(Tensor<1>, usize)> {
    let stride = sequences.trained().div_ceil(ENTROPY_ROWS).max(1);
    let rows: Vec<u32> = sequences.rows.iter().copied().step_by(stride).collect();
    if rows.is_empty() {
        return None;
    }
    let n = rows.len();
    let hidden_RD = ops::embedding(hidden_ND.inner(), rows.into());
    let log_p_RV = activation::log_softmax(model.untracked().logits(hidden_RD), 1);
    Some(((log_p_RV.clone().exp() * log_p_RV).sum().neg(), n))
}

/// The parts of a step, by the number of the micro-batch.
#[derive(Debug, Default)]
pub struct Parts(Mutex<BTreeMap<usize, Part>>);

impl Parts {
    /// A new step begins.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What a micro-batch came to.
    pub fn add(&self, number: usize, part: Part) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
    }

    /// Means over the step, by name; what no micro-batch measured is left out.
    pub fn take(&self) -> Map<String, Value> {
        let parts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let read = |x: &Tensor<1>| f64::from(host::scalar(x.clone()));
        let sum = |of: &dyn Fn(&Part) -> Option<f64>| parts.values().filter_map(of).reduce(|a, b| a + b);
        let tokens = parts.values().map(|p| p.tokens).sum::<usize>() as f64;
        let answers = parts.values().map(|p| p.answers).sum::<usize>() as f64;
        let rows = sum(&|p| Some(p.entropy.as_ref()?.1 as f64));
        let entropy = sum(&|p| Some(read(&p.entropy.as_ref()?.0)));
        let kl = sum(&|p| Some(read(p.kl.as_ref()?)));
        let numbers = [
            ("entropy", entropy.zip(rows).map(|(sum, rows)| sum / rows)),
            ("kl", kl.map(|sum| sum / tokens)),
            ("kl_per_answer", kl.map(|sum| sum / answers)),
            ("approx_kl", sum(&|p| Some(read(p.moved.as_ref()?))).map(|sum| sum / tokens)),
            ("clip_low", sum(&|p| Some(read(&p.clipped.as_ref()?.0))).map(|sum| sum / tokens)),
            ("clip_high", sum(&|p| Some(read(&p.clipped.as_ref()?.1))).map(|sum| sum / tokens)),
        ];
        numbers.into_iter().filter_map(|(key, number)| Some((key.to_string(), json!(number?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;

    fn one(x: f32) -> Tensor<1> {
        host::from_vec(vec![x], [1], &Device::flex())
    }

    /// If this fails, a step with several micro-batches logs the mean of means, or what nobody measured as 0.
    #[test]
    fn parts_are_averaged_over_tokens_and_answers() {
        let parts = Parts::default();
        let part = |tokens, kl: f32| Part { tokens, answers: 1, kl: Some(one(kl)), entropy: Some((one(2.0), 4)), ..Part::default() };
        parts.add(1, part(1, 3.0));
        parts.add(0, part(3, 1.0));
        let record = parts.take();
        assert_eq!((record["kl"].as_f64(), record["kl_per_answer"].as_f64(), record["entropy"].as_f64()), (Some(1.0), Some(2.0), Some(0.5)));
        assert!(!record.contains_key("clip_low"));
        assert!(parts.take().is_empty());
    }
}
