//! The prompts of a run.

use super::PpoConfig;
use crate::data::{self, Encoder, Prompt, Skipped};
use llm_tokenizer::Tokenizer;
use llm_train::Result;
use serde_json::{Map, Value};
use std::path::Path;

/// A prompt that is ready to be answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// 1-based row of its file.
    pub row: usize,
    /// Its id.
    pub id: String,
    /// What is asked, as text.
    pub text: String,
    /// Up to where the answer begins.
    pub ids: Vec<u32>,
    /// The gold answer.
    pub answer: Option<String>,
    /// All columns.
    pub columns: Map<String, Value>,
}

/// Read prompts that leave room for an answer in `context` tokens.
pub fn load(path: &Path, config: &PpoConfig, tokenizer: &Tokenizer, context: usize) -> Result<(Vec<Asked>, Vec<Skipped>)> {
    let (encoder, room) = (Encoder::new(tokenizer, context), config.sampling.max_tokens);
    let encode = |prompt: &Prompt| {
        let ids = encoder.prompt(&prompt.messages)?;
        if ids.len() + room > context {
            return Err(format!("{} prompt tokens and sampling.max_tokens = {room} exceed the context of {context}", ids.len()));
        }
        let Prompt { row, id, answer, columns, .. } = prompt.clone();
        Ok(Asked { row, id, text: prompt.text().to_string(), ids, answer, columns })
    };
    data::keep(path, data::prompts(path, config.on_bad_row)?, config.on_bad_row, encode)
}
