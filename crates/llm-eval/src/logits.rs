//! Logits and greedy tokens of prompts as JSON, for comparison with another implementation of the same model
//! (`benches/peers/interop_transformers.py`, and with an adapter `benches/peers/align_parity.py`).

use crate::error::{Error, Result};
use llm_arch::adapter::attach;
use llm_arch::{Adapter, PackedBatch};
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_tensor::host;
use llm_tensor::nn::lora::Rows;
use serde::{Deserialize, Serialize};
use std::path::Path;

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

/// Compute them, with the adapter of a PEFT folder beside the weights if one is given.
pub fn logits(model: &Model, adapter: Option<&Path>, prompts: Prompts) -> Result<Answers> {
    let mut engine = Engine::new(model, EngineConfig::default())?;
    let id = adapter.map(|dir| engine.load_adapter(dir)).transpose()?;
    let (mut decoder, rows) = (model.decoder.clone(), Rows::default());
    if let Some(dir) = adapter {
        let adapter = Adapter::load(dir, decoder.config()).map_err(llm_infer::Error::from)?;
        attach(&mut decoder, &rows, 0, &adapter).map_err(llm_infer::Error::from)?;
    }
    let vocab = model.decoder.config().vocab_size;
    let mut answers = Vec::with_capacity(prompts.prompts.len());
    for Prompt { text } in prompts.prompts {
        let ids: Vec<u32> = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode(&text)).collect();
        if ids.is_empty() {
            return Err(Error::Config("a prompt has no tokens; expected text, or a tokenizer with a beginning-of-text token".into()));
        }
        let sampling = Sampling { max_tokens: prompts.max_tokens, ..Sampling::default() };
        let request = Request { adapter: id, ..Request::new(ids.clone(), sampling) };
        let greedy = engine.generate(vec![request])?.pop().map(|c| c.tokens).unwrap_or_default();
        rows.select(&vec![adapter.map(|_| 0); ids.len()]);
        let flat = host::to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&ids))));
        answers.push(Answer { text, ids, logits: flat.chunks(vocab).map(<[f32]>::to_vec).collect(), greedy });
    }
    Ok(Answers { prompts: answers, max_tokens: prompts.max_tokens })
}
