//! What tests of pre-training stand on.

use llm_data::document::{Document, DocumentWriter};
use llm_data::pack::{PackConfig, pack};
use std::path::Path;

pub mod program;

/// Of `text(0)`, `text(1)`, ...: `train` documents and after them `heldout` others as rows of 32 tokens below `dir/pack`, and a small tokenizer in
/// `dir/tokenizer`.
pub fn packed(dir: &Path, train: usize, heldout: usize, text: impl Fn(usize) -> String) {
    for (name, first, n) in [("train", 0, train), ("heldout", train, heldout)] {
        let mut writer = DocumentWriter::create(&dir.join(name)).unwrap();
        let document = |i: usize| Document { id: format!("d{i}"), text: text(i), source: "test".into(), ..Document::default() };
        (first..first + n).for_each(|i| writer.push(document(i)).unwrap());
        writer.finish().unwrap();
    }
    let texts: Vec<String> = (0..8).map(text).collect();
    let tokenizer = llm_tokenizer::trainer::train(&texts, &llm_tokenizer::trainer::TrainerConfig { vocab_size: 300, ..Default::default() }).unwrap();
    tokenizer.save(dir.join("tokenizer")).unwrap();
    let packing = PackConfig {
        tokenizer: dir.join("tokenizer"),
        train: dir.join("train"),
        heldout: Some(dir.join("heldout")),
        sequence_length: 32,
        ..PackConfig::default()
    };
    pack(&packing, &dir.join("pack")).unwrap();
}
