//! What a request says about sampling, and which of it makes sense.
//!
//! Names and defaults are those of Hugging Face's `GenerationConfig`; the two OpenAI penalties, `logit_bias` and
//! `min_tokens` are named as in the OpenAI and vLLM interfaces.

use crate::{Error, Result};

/// How to pick tokens, and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 picks the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all. Of equally likely tokens the one with the lower id is kept.
    pub top_k: usize,
    /// Keep the smallest set with this much probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this fraction of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens whose surprise is nearest to the entropy, up to this much probability; 1 keeps all (Meister et al.,
    /// Locally Typical Sampling, 2022).
    pub typical_p: f32,
    /// Drop tokens below this probability; 0 keeps all (Hewitt et al., Truncation Sampling as Language Model Desmoothing, 2022).
    pub epsilon_cutoff: f32,
    /// The same with a bound that falls with the entropy, min(eta, sqrt(eta) exp(-H)); 0 keeps all (same paper).
    pub eta_cutoff: f32,
    /// Divide (multiply if negative) logits of tokens of prompt and answer; 1 is off (Keskar et al., CTRL, 2019).
    pub repetition_penalty: f32,
    /// Subtract this for every time the token was generated; 0 is off. The prompt does not count.
    pub frequency_penalty: f32,
    /// Subtract this once if the token was generated; 0 is off. The prompt does not count.
    pub presence_penalty: f32,
    /// Never complete a sequence of this many tokens that prompt and answer contain already; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Added to the logits of these tokens, before anything else; minus infinity bans a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Random seed.
    pub seed: u64,
    /// Ban the end tokens until so many tokens are generated. A stop text ends the answer all the same.
    pub min_tokens: usize,
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
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            logit_bias: Vec::new(),
            seed: 0,
            min_tokens: 0,
            max_tokens: 256,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            top_logprobs: 0,
        }
    }
}

impl Sampling {
    /// Values outside their range, and tokens outside a vocabulary of `vocab_size`, are errors that name the field.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let fraction = |v: f32| (0.0..=1.0).contains(&v);
        for (field, value, fits, expected) in [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "at least 0 and finite"),
            ("top_p", self.top_p, fraction(self.top_p), "between 0 and 1"),
            ("min_p", self.min_p, fraction(self.min_p), "between 0 and 1"),
            ("typical_p", self.typical_p, fraction(self.typical_p) && self.typical_p > 0.0, "above 0 and at most 1"),
            ("epsilon_cutoff", self.epsilon_cutoff, fraction(self.epsilon_cutoff) && self.epsilon_cutoff < 1.0, "at least 0 and below 1"),
            ("eta_cutoff", self.eta_cutoff, fraction(self.eta_cutoff) && self.eta_cutoff < 1.0, "at least 0 and below 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "above 0 and finite",
            ),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "finite"),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "finite"),
        ] {
            if !fits {
                return Err(Error::Sampling { field, message: format!("must be {expected}, not {value}") });
            }
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                let message = format!("token {id} is not in the vocabulary; ids go from 0 to {}", vocab_size.saturating_sub(1));
                return Err(Error::Sampling { field: "logit_bias", message });
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(Error::Sampling { field: "logit_bias", message: format!("the bias of token {id} must be finite, not {bias}") });
            }
        }
        if self.min_tokens > self.max_tokens {
            let message = format!("must be at most the {} tokens that may be generated, not {}", self.max_tokens, self.min_tokens);
            return Err(Error::Sampling { field: "min_tokens", message });
        }
        Ok(())
    }

    /// Something changes the logits before the temperature does.
    pub(super) fn processes(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || self.no_repeat_ngram_size > 0
            || !self.logit_bias.is_empty()
            || self.min_tokens > 0
    }

    /// Something drops tokens after the temperature.
    pub(super) fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0 || self.typical_p < 1.0 || self.epsilon_cutoff > 0.0 || self.eta_cutoff > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let off = Sampling::default;
        off().check(10).unwrap();
        Sampling { logit_bias: vec![(9, f32::NEG_INFINITY)], min_tokens: 256, ..off() }.check(10).unwrap();
        for (sampling, field) in [
            (Sampling { temperature: -1.0, ..off() }, "temperature"),
            (Sampling { temperature: f32::NAN, ..off() }, "temperature"),
            (Sampling { top_p: 1.1, ..off() }, "top_p"),
            (Sampling { min_p: -0.1, ..off() }, "min_p"),
            (Sampling { typical_p: 0.0, ..off() }, "typical_p"),
            (Sampling { epsilon_cutoff: 1.0, ..off() }, "epsilon_cutoff"),
            (Sampling { eta_cutoff: f32::NAN, ..off() }, "eta_cutoff"),
            (Sampling { repetition_penalty: 0.0, ..off() }, "repetition_penalty"),
            (Sampling { frequency_penalty: f32::INFINITY, ..off() }, "frequency_penalty"),
            (Sampling { presence_penalty: f32::NAN, ..off() }, "presence_penalty"),
            (Sampling { logit_bias: vec![(10, 1.0)], ..off() }, "logit_bias"),
            (Sampling { logit_bias: vec![(1, f32::INFINITY)], ..off() }, "logit_bias"),
            (Sampling { min_tokens: 5, max_tokens: 4, ..off() }, "min_tokens"),
        ] {
            let message = sampling.check(10).unwrap_err().to_string();
            assert!(message.contains(field), "{field}: {message}");
        }
    }
}
