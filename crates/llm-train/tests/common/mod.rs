//! What tests of pre-training stand on.

#![allow(dead_code)] // every test uses a part

use llm_arch::DecoderConfig;
use llm_data::document::{Document, DocumentWriter};
use llm_data::pack::{PackConfig, pack};
use llm_tensor::DeviceSpec;
use llm_tokenizer::trainer::{TrainerConfig, train};
use llm_train::pretrain::PretrainConfig;
use std::path::Path;

pub mod program;

/// Of `text(0)`, `text(1)`, ...: `train` documents and after them `heldout` others as rows of 32 tokens below `dir/pack`, and a small tokenizer in
/// `dir/tokenizer`.
pub fn packed(dir: &Path, train: usize, heldout: usize, text: impl Fn(usize) -> String) {
    let document = |i: usize| Document { id: format!("d{i}"), text: text(i), source: "test".into(), ..Document::default() };
    packed_documents(dir, train, heldout, document, PackConfig { sequence_length: 32, ..PackConfig::default() });
}

/// The same of whole documents and with other settings.
pub fn packed_documents(dir: &Path, train: usize, heldout: usize, document: impl Fn(usize) -> Document, settings: PackConfig) {
    for (name, first, n) in [("train", 0, train), ("heldout", train, heldout)] {
        let mut writer = DocumentWriter::create(&dir.join(name)).unwrap();
        (first..first + n).for_each(|i| writer.push(document(i)).unwrap());
        writer.finish().unwrap();
    }
    let texts: Vec<String> = (0..8).map(|i| document(i).text).collect();
    tokenizer(dir, "tokenizer", 300, &texts);
    repacked(dir, "pack", "tokenizer", settings);
}

/// A tokenizer in `dir/name`.
pub fn tokenizer(dir: &Path, name: &str, vocab_size: usize, texts: &[String]) {
    train(texts, &TrainerConfig { vocab_size, ..TrainerConfig::default() }).unwrap().save(dir.join(name)).unwrap();
}

/// The documents of `dir` as rows below `dir/name`.
pub fn repacked(dir: &Path, name: &str, tokenizer: &str, settings: PackConfig) {
    let config = PackConfig { tokenizer: dir.join(tokenizer), train: dir.join("train"), heldout: Some(dir.join("heldout")), ..settings };
    pack(&config, &dir.join(name)).unwrap();
}

/// Two small layers on the shards of [`packed`].
pub fn small(dir: &Path) -> PretrainConfig {
    PretrainConfig {
        train: dir.join("pack/train"),
        heldout: dir.join("pack/heldout"),
        tokenizer: dir.join("tokenizer"),
        model: DecoderConfig {
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            ..DecoderConfig::default()
        },
        device: DeviceSpec::Cpu,
        ..PretrainConfig::default()
    }
}
