//! Logits and greedy tokens of prompts as JSON, for comparison with another implementation of the same model
//! (`benches/peers/interop_transformers.py`).

use crate::error::{Error, Result};
use llm_arch::PackedBatch;
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_tensor::host;
use serde::{Deserialize, Serialize};

/// What to ask.
#[derive(Debug, Clone, Deserialize)]
pub struct Prompts {
    /// Texts.
    pub prompts: Vec<Prompt>,
    /// Greedy tokens per prompt.
    pub max_tokens: usize,
}

/// One text.
#[derive(Debug, Clone, Deserialize)]
pub struct Prompt {
    /// The text; special tokens in it are not recognised.
    pub text: String,
}

/// Our numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Answers {
    /// In the order of the prompts.
    pub prompts: Vec<Answer>,
    /// As asked.
    pub max_tokens: usize,
}

/// Our numbers for one text.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Beginning of text, then the encoding.
    pub ids: Vec<u32>,
    /// `[ids, vocabulary]`.
    pub logits: Vec<Vec<f32>>,
    /// The most likely continuation, without its end token.
    pub greedy: Vec<u32>,
}

/// Compute them.
pub fn logits(model: &Model, prompts: Prompts) -> Result<Answers> {
    let mut engine = Engine::new(model, EngineConfig::default())?;
    let vocab = model.decoder.config().vocab_size;
    let mut answers = Vec::with_capacity(prompts.prompts.len());
    for Prompt { text } in prompts.prompts {
        let ids: Vec<u32> = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode(&text)).collect();
        if ids.is_empty() {
            return Err(Error::Config("a prompt has no tokens; expected text, or a tokenizer with a beginning-of-text token".into()));
        }
        let sampling = Sampling { max_tokens: prompts.max_tokens, ..Sampling::default() };
        let greedy = engine.generate(vec![Request::new(ids.clone(), sampling)])?.pop().map(|c| c.tokens).unwrap_or_default();
        let flat = host::to_vec(model.decoder.logits(model.decoder.hidden(&PackedBatch::sequence(&ids))));
        answers.push(Answer { text, ids, logits: flat.chunks(vocab).map(<[f32]>::to_vec).collect(), greedy });
    }
    Ok(Answers { prompts: answers, max_tokens: prompts.max_tokens })
}
