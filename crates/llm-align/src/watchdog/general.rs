//! The forgetting monitor: how well the model still predicts text that the training is not about.
//!
//! The rows are the same at every validation, so a change is the model's and no noise. The loss is the mean over all their tokens, in nats; it
//! stands in `metrics.jsonl` as `val_general_loss`.

use super::WatchdogConfig;
use llm_arch::Decoder;
use llm_tensor::host;
use llm_tokenizer::{Message, Tokenizer};
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::{Error, Result};
use serde::Deserialize;
use std::io::BufRead;

/// Tokens per forward pass.
const MICRO_BATCH_TOKENS: usize = 2048;
/// The key of the loss in the record of a validation.
pub const KEY: &str = "val_general_loss";

/// A line of the file.
#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
}

/// Held-out general text.
#[derive(Debug, Clone)]
pub struct General {
    sequences: Vec<Sequence>,
}

impl General {
    /// Read `watchdog.general`; None where it is not set. Texts longer than the context are cut.
    pub fn open(config: &WatchdogConfig, tokenizer: &Tokenizer, context: usize) -> Result<Option<Self>> {
        let path = &config.general;
        if path.as_os_str().is_empty() || !config.enabled {
            return Ok(None);
        }
        let bad = |message: String| Error::Objective(format!("watchdog.general = {}: {message}", path.display()));
        let file =
            std::fs::File::open(path).map_err(|e| bad(format!("cannot open ({e}); expected a JSONL file with `text` or `messages` per line")))?;
        let mut sequences = Vec::new();
        for (i, line) in std::io::BufReader::new(file).lines().enumerate() {
            if sequences.len() == config.general_rows {
                break;
            }
            let line = line.map_err(|e| bad(format!("row {}: cannot read ({e})", i + 1)))?;
            if line.trim().is_empty() {
                continue;
            }
            let row: Row = serde_json::from_str(&line).map_err(|e| bad(format!("row {}: {e}", i + 1)))?;
            let (mut ids, mut loss_mask) = match (row.text, row.messages) {
                (Some(text), _) => {
                    let ids: Vec<u32> = tokenizer.bos_id().into_iter().chain(tokenizer.encode(&text)).collect();
                    let mask = vec![true; ids.len()];
                    (ids, mask)
                }
                (None, Some(messages)) => {
                    let tokens = tokenizer.apply_chat_template(&messages, false).map_err(|e| bad(format!("row {}: {e}", i + 1)))?;
                    (tokens.ids, tokens.assistant_mask)
                }
                (None, None) => return Err(bad(format!("row {}: expected a field `text` or `messages`", i + 1))),
            };
            ids.truncate(context);
            loss_mask.truncate(context);
            if loss_mask.iter().skip(1).any(|trained| *trained) {
                sequences.push(Sequence { ids, loss_mask });
            }
        }
        if sequences.is_empty() {
            return Err(bad("no row with two tokens or more; expected `text` or `messages` per line".to_string()));
        }
        Ok(Some(Self { sequences }))
    }

    /// Nats per token.
    pub fn loss(&self, model: &Decoder) -> f64 {
        let (mut nll, mut tokens) = (0f64, 0usize);
        for group in groups(&self.sequences, MICRO_BATCH_TOKENS) {
            let sequences = Sequences::pack(group);
            tokens += sequences.trained();
            nll += host::to_vec(sequences.nll(model)).iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        nll / tokens.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_arch::DecoderConfig;
    use llm_run::Seed;
    use llm_tensor::burn::tensor::Device;
    use std::fs;

    fn tokenizer() -> Tokenizer {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/bytelevel_gpt2/tokenizer.json");
        Tokenizer::load(file).unwrap()
    }

    /// If this fails, the forgetting monitor reads another text than it was given, or says nothing about a file that it cannot use.
    #[test]
    fn text_is_read_cut_and_measured_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        let mut config = WatchdogConfig { general: dir.path().join("general.jsonl"), ..WatchdogConfig::default() };
        fs::write(
            &config.general,
            format!("{}\n\n{}\n", r#"{"text": "A mouse ran over the roof."}"#, r#"{"text": "Im Winter wird es kalt.", "id": 3}"#),
        )
        .unwrap();
        let general = General::open(&config, &tokenizer, 4).unwrap().unwrap();
        assert_eq!(general.sequences.iter().map(|s| s.ids.len()).collect::<Vec<_>>(), [4, 4]);
        let mut shape = DecoderConfig { hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, ..DecoderConfig::default() };
        (shape.num_attention_heads, shape.num_key_value_heads, shape.max_position_embeddings) = (2, 2, 16);
        llm_train::pretrain::fit_to_tokenizer(&mut shape, &tokenizer);
        let loss = general.loss(&Decoder::new(&shape, Seed(1), &Device::flex()).unwrap());
        let uniform = (shape.vocab_size as f64).ln();
        assert!((loss - uniform).abs() < 0.2 * uniform, "a fresh model knows nothing: {loss} of {uniform}");
        fs::write(&config.general, "{\"text\": \"one two three\"}\n{\"words\": 1}\n").unwrap();
        let message = General::open(&config, &tokenizer, 4).unwrap_err().to_string();
        assert!(message.contains("row 2") && message.contains("`text`"), "{message}");
        config.general = dir.path().join("none.jsonl");
        assert!(General::open(&config, &tokenizer, 4).unwrap_err().to_string().contains("none.jsonl"));
        assert!(General::open(&WatchdogConfig::default(), &tokenizer, 4).unwrap().is_none());
    }
}
