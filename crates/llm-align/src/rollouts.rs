//! Answers of the policy as it is: through the one engine, on the weights that are trained.
//!
//! Nothing is copied: the engine takes the decoder of the trainer ([`Engine::set_decoder`]) and shares its memory. Answers to one prompt
//! share the prompt's pages in the cache, so that a group reads its prompt once. A rollout is a function of (seed, step, index): the same
//! weights give the same answers, whatever else is in the batch.
//!
//! Log-probabilities for the loss are never taken from the engine but from the forward pass of training ([`token_log_probs`]), which both
//! sides of a ratio go through.

use llm_arch::Decoder;
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_run::Seed;
use llm_tensor::burn::tensor::Tensor;
use llm_tokenizer::Tokenizer;
use llm_train::sequences::{Sequence, Sequences};
use llm_train::{Error, Result};
use serde::{Deserialize, Serialize};

/// How answers are drawn: `[sampling]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Temperature; 0 takes the likeliest token. A loss that uses the unmodified distribution is on-policy at 1.
    pub temperature: f32,
    /// Keep the likeliest tokens with this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keep so many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Answers generated at the same time.
    pub max_batch: usize,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { max_tokens: 96, temperature: 1.0, top_p: 1.0, top_k: 0, max_batch: 256 }
    }
}

impl SamplingConfig {
    /// Values that cannot work are errors that name the key.
    pub fn check(&self) -> Result<()> {
        if self.max_tokens == 0 || self.max_batch == 0 {
            return Err(Error::Config("max_tokens and max_batch must be positive".into()));
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::Config(format!("temperature must be at least 0 and finite, not {}", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Config(format!("top_p must be above 0 and at most 1, not {}", self.top_p)));
        }
        Ok(())
    }

    fn sampling(&self, seed: Seed) -> Sampling {
        let Self { max_tokens, temperature, top_p, top_k, .. } = *self;
        Sampling { max_tokens, temperature, top_p, top_k, seed: seed.0, ..Sampling::default() }
    }
}

/// An answer that the policy drew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollout {
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// The answer's ids, with the token that ended it if one did.
    pub tokens: Vec<u32>,
    /// An end token was drawn; otherwise the answer is cut off.
    pub ended: bool,
}

impl Rollout {
    /// The answer's ids without the token that ended it.
    pub fn answer(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - usize::from(self.ended && !self.tokens.is_empty())]
    }

    /// Prompt and answer, of which the answer is trained.
    pub fn sequence(&self) -> Sequence {
        let ids: Vec<u32> = self.prompt.iter().chain(&self.tokens).copied().collect();
        let loss_mask = (0..ids.len()).map(|at| at >= self.prompt.len()).collect();
        Sequence { ids, loss_mask }
    }
}

/// `[M]` log-probabilities of the trained tokens of a packed batch, in nats: those of the training forward.
pub fn token_log_probs(model: &Decoder, sequences: &Sequences) -> Tensor<1> {
    sequences.nll(model).neg()
}

/// Draws rollouts from a model that changes between the calls.
#[derive(Debug)]
pub struct Sampler {
    engine: Engine,
    config: SamplingConfig,
    seed: Seed,
}

impl Sampler {
    /// Allocate the cache for models of this shape.
    pub fn new(model: &Decoder, tokenizer: &Tokenizer, config: SamplingConfig, seed: Seed) -> Result<Self> {
        config.check()?;
        let max_batch = config.max_batch;
        let engine = EngineConfig { max_batch, max_step_tokens: max_batch.max(512), ..EngineConfig::default() };
        Self::with_engine(model, tokenizer, config, seed, engine)
    }

    /// The same with settings of the engine of one's own, e.g. [`EngineConfig::exact`].
    pub fn with_engine(model: &Decoder, tokenizer: &Tokenizer, config: SamplingConfig, seed: Seed, engine: EngineConfig) -> Result<Self> {
        let model = Model::from_parts(model.clone(), tokenizer.clone(), "policy");
        let engine = Engine::new(&model, engine).map_err(|e| Error::Objective(format!("rollouts: {e}")))?;
        Ok(Self { engine, config, seed })
    }

    /// Most tokens of prompt and answer together.
    pub fn context_length(&self) -> usize {
        self.engine.context_length()
    }

    /// How answers are drawn.
    pub fn config(&self) -> &SamplingConfig {
        &self.config
    }

    /// One rollout for each prompt, in order, with the weights of `model`. Give a prompt several times for a group.
    pub fn sample(&mut self, model: &Decoder, step: u64, prompts: &[&[u32]]) -> Result<Vec<Rollout>> {
        self.sample_from(model, step, 0, prompts)
    }

    /// [`Sampler::sample`] of rollouts whose indices within the step begin at `first`: for more of them in the same step.
    pub fn sample_from(&mut self, model: &Decoder, step: u64, first: u64, prompts: &[&[u32]]) -> Result<Vec<Rollout>> {
        let seed = self.seed.stream("rollout").at(step);
        let sampling = |i: usize| self.config.sampling(seed.at(first + i as u64));
        let requests = prompts.iter().enumerate().map(|(i, prompt)| Request::new(prompt.to_vec(), sampling(i))).collect();
        self.run(model, requests, prompts).map_err(|e| Error::Objective(format!("rollouts of step {step}: {e}")))
    }

    /// Answers under other settings than those of training, e.g. the likeliest ones for a validation. Their seeds are `seed` at their index.
    pub fn answer(&mut self, model: &Decoder, config: &SamplingConfig, seed: Seed, prompts: &[&[u32]]) -> Result<Vec<Rollout>> {
        let request = |(i, prompt): (usize, &&[u32])| Request::new(prompt.to_vec(), config.sampling(seed.at(i as u64)));
        let requests = prompts.iter().enumerate().map(request).collect();
        self.run(model, requests, prompts).map_err(|e| Error::Objective(format!("answers: {e}")))
    }

    fn run(&mut self, model: &Decoder, requests: Vec<Request>, prompts: &[&[u32]]) -> llm_infer::Result<Vec<Rollout>> {
        self.engine.set_decoder(model)?;
        let completions = self.engine.generate(requests)?;
        let rollout = |(prompt, completion): (&&[u32], llm_infer::Completion)| Rollout {
            prompt: prompt.to_vec(),
            tokens: completion.tokens.into_iter().chain(completion.end_token).collect(),
            ended: completion.end_token.is_some(),
        };
        Ok(prompts.iter().zip(completions).map(rollout).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_is_trained() {
        let rollout = Rollout { prompt: vec![1, 2], tokens: vec![7, 8, 9], ended: true };
        let Sequence { ids, loss_mask } = rollout.sequence();
        assert_eq!(ids, [1, 2, 7, 8, 9]);
        assert_eq!(loss_mask, [false, false, true, true, true]);
        assert_eq!(rollout.answer(), [7, 8]);
        assert_eq!(Rollout { ended: false, ..rollout }.answer(), [7, 8, 9]);
        assert_eq!(Rollout { ended: true, ..Rollout::default() }.answer(), [0u32; 0]);
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let ok = SamplingConfig::default();
        ok.check().unwrap();
        for (config, key) in [
            (SamplingConfig { max_tokens: 0, ..ok }, "max_tokens"),
            (SamplingConfig { temperature: f32::NAN, ..ok }, "temperature"),
            (SamplingConfig { top_p: 0.0, ..ok }, "top_p"),
        ] {
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
