//! Vocabularies as older programs wrote them: GPT-2's `encoder.json` with `vocab.bpe` (also called `vocab.json` with `merges.txt`), and
//! CLIP's merges alone, from which its vocabulary follows.

use crate::added::AddedToken;
use crate::byte_level::to_alphabet;
use crate::error::{Result, format};
use crate::pretokenize::Pattern;
use serde_json::{Map, Value, json};
use std::path::Path;

/// GPT-2's end of text, where the vocabulary has it.
const END: &str = "<|endoftext|>";

/// Lines `a b` without the version line.
fn lines<'a>(path: &'a Path, text: &'a str) -> impl Iterator<Item = Result<(&'a str, &'a str)>> {
    let rows = text.lines().enumerate().filter(|(i, line)| !(line.is_empty() || *i == 0 && line.contains("#version")));
    rows.map(move |(i, line)| line.split_once(' ').ok_or_else(|| format(path, format!("line {}: expected two tokens with a blank between", i + 1))))
}

/// The `tokenizer.json` of a vocabulary and merges.
pub fn gpt2(vocab_path: &Path, vocab: &str, merges_path: &Path, merges: &str) -> Result<Value> {
    let vocab: Map<String, Value> = serde_json::from_str(vocab).map_err(|e| format(vocab_path, format!("expected {{\"token\": id}}: {e}")))?;
    let merges = lines(merges_path, merges).map(|row| row.map(|(a, b)| json!([a, b]))).collect::<Result<Vec<_>>>()?;
    let special: Vec<AddedToken> = vocab.get(END).and_then(Value::as_u64).map(|id| AddedToken::special(id as u32, END)).into_iter().collect();
    Ok(super::byte_level_json(Pattern::Gpt2, vocab, merges, &special, false, None))
}

/// Merges that CLIP uses of its file, 49152 minus bytes and control tokens.
const CLIP_MERGES: usize = 49152 - 256 - 2;
const CLIP_PATTERN: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The `tokenizer.json` of CLIP: lower case, words end in `</w>`.
pub fn clip(path: &Path, merges: &str) -> Result<Value> {
    let merges: Vec<(&str, &str)> = lines(path, merges).take(CLIP_MERGES).collect::<Result<_>>()?;
    if merges.len() < CLIP_MERGES {
        return Err(format(path, format!("{} merges; CLIP needs {CLIP_MERGES}", merges.len())));
    }
    // Printable bytes first, as their characters come.
    let mut alphabet: Vec<String> = (0..=255).map(|b| to_alphabet(&[b])).collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet.iter().cloned().chain(alphabet.iter().map(|c| format!("{c}</w>"))).collect();
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let (start, end) = ("<|startoftext|>", END);
    tokens.extend([start.to_string(), end.to_string()]);
    let id = tokens.len() - 2;
    let added = [AddedToken::special(id as u32, start), AddedToken::special(id as u32 + 1, end)];
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": CLIP_PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [end, id + 1], "cls": [start, id], "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": end,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect::<Map<_, _>>(),
            "merges": merges.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>(),
        },
    }))
}
