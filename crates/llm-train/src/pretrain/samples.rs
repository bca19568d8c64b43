//! Texts that the model writes while it is trained: a look that no number gives. They go to the record of a validation under `samples`.

use crate::{Error, Result};
use llm_arch::{Decoder, DecoderConfig};
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What to write on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplesConfig {
    /// Beginnings; none is no samples, an empty one is a text from its first word.
    pub prompts: Vec<String>,
    /// Tokens of each at most.
    pub max_new_tokens: usize,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Draw from the most likely tokens with this much probability.
    pub top_p: f32,
}

impl Default for SamplesConfig {
    fn default() -> Self {
        Self { prompts: Vec::new(), max_new_tokens: 64, temperature: 0.0, top_p: 1.0 }
    }
}

/// Prompts written together.
const MAX_BATCH: usize = 16;

/// Prompts, ready to be continued.
#[derive(Debug)]
pub struct Samples {
    config: SamplesConfig,
    ids: Vec<Vec<u32>>,
    tokenizer: Tokenizer,
    seed: u64,
}

impl Samples {
    /// Encode the prompts and see that they fit. None when there are none.
    pub fn open(config: &SamplesConfig, model: &DecoderConfig, tokenizer: &Tokenizer, seed: u64) -> Result<Option<Self>> {
        if config.prompts.is_empty() {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for prompt in &config.prompts {
            let prompt_ids: Vec<u32> = tokenizer.bos_id().into_iter().chain(tokenizer.encode(prompt)).collect();
            if prompt_ids.is_empty() {
                return Err(Error::Config("samples.prompts: a prompt is empty, and the tokenizer has no begin-of-text token to start with".into()));
            }
            let (length, context) = (prompt_ids.len() + config.max_new_tokens, model.max_position_embeddings);
            if length > context {
                let message =
                    format!("samples: the prompt {prompt:?} and max_new_tokens are {length} tokens, more than max_position_embeddings = {context}");
                return Err(Error::Config(message));
            }
            ids.push(prompt_ids);
        }
        Ok(Some(Self { config: config.clone(), ids, tokenizer: tokenizer.clone(), seed }))
    }

    /// `[{prompt, text}]`, with the text after the prompt.
    pub fn run(&self, model: &Decoder) -> Result<Value> {
        let failed = |e: llm_infer::Error| Error::Objective(format!("samples: {e}"));
        let model = Model::from_parts(model.clone(), self.tokenizer.clone(), "training");
        let mut engine = Engine::new(&model, EngineConfig { max_batch: self.ids.len().min(MAX_BATCH), ..EngineConfig::default() }).map_err(failed)?;
        let SamplesConfig { max_new_tokens, temperature, top_p, .. } = self.config;
        let requests = (0..).zip(&self.ids).map(|(i, ids)| {
            // The same noise at every validation, so that a change is the model's.
            let sampling = Sampling { temperature, top_p, max_tokens: max_new_tokens, seed: self.seed.wrapping_add(i), ..Sampling::default() };
            Request::new(ids.clone(), sampling)
        });
        let completions = engine.generate(requests.collect()).map_err(failed)?;
        let texts = completions.iter().map(|completion| self.tokenizer.decode(&completion.tokens, false));
        Ok(self.config.prompts.iter().zip(texts).map(|(prompt, text)| json!({"prompt": prompt, "text": text})).collect())
    }
}
