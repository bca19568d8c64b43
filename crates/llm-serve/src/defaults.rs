//! Sampling when the request does not say: `generation_config.json` of the model folder.
//!
//! What vLLM takes from that file is taken here too: `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`,
//! `max_new_tokens` (`eos_token_id` is `llm_infer`'s). One decision differs: without a `temperature` the file means greedy decoding
//! (that is what Hugging Face's `generate` does), unless it says `do_sample: true`.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// Values for what a request leaves out.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// 0 = greedy.
    pub temperature: f32,
    /// 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub top_k: usize,
    /// 0 = off.
    pub min_p: f32,
    /// 1 = off.
    pub repetition_penalty: f32,
    /// `None`: as much as the context holds.
    pub max_tokens: Option<usize>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0, max_tokens: None }
    }
}

/// Hugging Face's file has dozens of other keys; they do not concern sampling here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<usize>,
}

impl Defaults {
    /// Read `generation_config.json` in `model_dir`; a missing file, or a model that is no folder, means greedy decoding.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("generation_config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(Self::default()),
            Err(e) => return Err(Error::ModelFile { path, message: format!("cannot read: {e}") }),
        };
        let file: GenerationConfig =
            serde_json::from_slice(&bytes).map_err(|e| Error::ModelFile { path, message: format!("not a generation config: {e}") })?;
        let greedy = file.do_sample == Some(false) || (file.temperature.is_none() && file.do_sample.is_none());
        let off = Self::default();
        Ok(Self {
            temperature: if greedy { 0.0 } else { file.temperature.unwrap_or(1.0) },
            top_p: file.top_p.unwrap_or(off.top_p),
            top_k: file.top_k.and_then(|k| usize::try_from(k).ok()).unwrap_or(off.top_k),
            min_p: file.min_p.unwrap_or(off.min_p),
            repetition_penalty: file.repetition_penalty.unwrap_or(off.repetition_penalty),
            max_tokens: file.max_new_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Defaults> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
        Defaults::load(dir.path())
    }

    #[test]
    fn values_come_from_the_file() {
        let d = load(
            r#"{"do_sample":true,"temperature":0.6,"top_p":0.9,"top_k":-1,"eos_token_id":[3,5],"max_new_tokens":40,"transformers_version":"5"}"#,
        )
        .unwrap();
        assert_eq!(d, Defaults { temperature: 0.6, top_p: 0.9, max_tokens: Some(40), ..Defaults::default() });
    }

    #[test]
    fn greedy_unless_the_file_says_otherwise() {
        assert_eq!(load(r#"{"eos_token_id":2}"#).unwrap().temperature, 0.0);
        assert_eq!(load(r#"{"do_sample":false,"temperature":0.7}"#).unwrap().temperature, 0.0);
        assert_eq!(load(r#"{"do_sample":true}"#).unwrap().temperature, 1.0);
        assert_eq!(load(r#"{"temperature":0.7}"#).unwrap().temperature, 0.7);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Defaults::load(dir.path()).unwrap(), Defaults::default());
    }

    #[test]
    fn a_damaged_file_is_named_with_its_position() {
        let message = load("{\n  \"top_p\": oops}").unwrap_err().to_string();
        assert!(message.contains("generation_config.json") && message.contains("line 2"), "{message}");
    }
}
