//! From pieces to `tokenizer.json`, in the form in which Hugging Face's libraries hold Llama 2 (BPE) and the Unigram models of
//! SentencePiece, byte fallback included.

use super::config::{TrainerConfig, UNKNOWN};
use super::pieces::{BLANK, reserved};
use super::save::Pipeline;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// BPE from its pieces, best first.
///
/// Every way to split a piece into two others is a merge, longer left part first: SentencePiece joins whatever gives the best piece.
pub fn sentencepiece_bpe(pieces: &[String], config: &TrainerConfig) -> Result<Tokenizer> {
    let vocab: Map<String, Value> = reserved(config).chain(pieces.iter().cloned()).zip(0..).map(|(piece, id)| (piece, Value::from(id))).collect();
    let known: HashSet<&str> = pieces.iter().map(String::as_str).collect();
    let mut merges = Vec::new();
    for piece in pieces {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at)).collect::<Vec<_>>();
        merges.extend(
            cuts.iter().rev().filter(|(left, right)| known.contains(left) && known.contains(right)).map(|(left, right)| json!([left, right])),
        );
    }
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": UNKNOWN,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": merges,
    });
    pipeline(Value::Null, model).finish(0, config)
}

/// Unigram from its pieces with their log-probabilities, best first.
///
/// Special tokens and byte tokens are part of the vocabulary that text is matched with, so they get a score with which spelling
/// them in pieces always wins: the text `<s>` or `<0x0A>` must not become the token.
pub fn unigram(pieces: &[(String, f64)], config: &TrainerConfig) -> Result<Tokenizer> {
    let lowest = pieces.iter().map(|&(_, score)| score).fold(0.0, f64::min) - 1.0;
    let longest = reserved(config).map(|token| token.chars().count()).max().unwrap_or(0);
    let never = lowest * (longest + 1) as f64;
    let vocab: Vec<Value> =
        reserved(config).map(|token| json!([token, never])).chain(pieces.iter().map(|(piece, score)| json!([piece, score]))).collect();
    let unknown = config.special_tokens.iter().position(|token| token == UNKNOWN);
    let model = json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": true});
    // No piece has the mark inside, so cutting there changes nothing but the speed.
    let words = json!({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": true});
    pipeline(words, model).finish(0, config)
}

fn pipeline(pre_tokenizer: Value, model: Value) -> Pipeline {
    let blank = json!({"String": " "});
    let mark = json!({"String": BLANK});
    Pipeline {
        normalizer: json!({
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": BLANK}, {"type": "Replace", "pattern": blank, "content": BLANK}],
        }),
        pre_tokenizer,
        decoder: json!({
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": mark, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        }),
        model,
    }
}
