//! A model folder with random weights and a tokenizer trained on the texts that it will meet.

use llm_arch::{Decoder, DecoderConfig, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::trainer;
use std::path::Path;

/// Two blocks of 32.
pub fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 256,
        ..DecoderConfig::default()
    }
}

/// Write one of these sizes.
pub fn save(dir: &Path, texts: &[String], vocab_size: usize, mut config: DecoderConfig) {
    let tokenizer = trainer::train(texts, &trainer::TrainerConfig { vocab_size, ..Default::default() }).unwrap();
    llm_train::pretrain::fit_to_tokenizer(&mut config, &tokenizer);
    hf::save(dir, &Decoder::new(&config, Seed(1), &Device::flex()).unwrap()).unwrap();
    tokenizer.save(dir).unwrap();
}
