//! Tokenizer files of every kind, found by what is in them.
//!
//! | file | read | written |
//! |---|---|---|
//! | `tokenizer.json` (Hugging Face) | `crate::folder` | all |
//! | `tokenizer.model`, `spiece.model` (SentencePiece) | `spm::model` | models of pieces |
//! | `NAME.tiktoken`, Llama 3's `tokenizer.model` (ranks) | `tiktoken` | byte-level BPE |
//! | `NAME.gguf` (llama.cpp) | `gguf`, `gguf_vocab` | both |
//! | `vocab.json` with `merges.txt`, CLIP's merges | `merges` | |

pub mod gguf;
pub(crate) mod gguf_vocab;
pub(crate) mod merges;
pub(crate) mod protobuf;
pub(crate) mod save;
pub(crate) mod tiktoken;

pub use save::Format;

use crate::added::AddedToken;
use crate::error::{Result, format, io};
use crate::pretokenize::Pattern;
use crate::spm::model::PieceModel;
use gguf_vocab::Vocabulary;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A tokenizer as its file has it.
#[derive(Debug)]
pub(crate) enum Source {
    /// The text of a `tokenizer.json`.
    Json(String),
    /// A SentencePiece model.
    Pieces(Box<PieceModel>),
    /// tiktoken's ranks.
    Ranks(Box<tiktoken::Ranks>),
}

/// Files that a folder may have its tokenizer in, the best first.
const NAMES: [&str; 5] = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "encoder.json"];
/// Merges go with a vocabulary.
const PAIRS: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];
/// No tokenizer file is larger; a model's weights are.
const MAX_BYTES: u64 = 1 << 30;

/// The tokenizer's file: the path itself, or what is in the folder.
pub(crate) fn find(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if let Some(file) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let entries = fs::read_dir(path).map_err(io(path, "cannot read"))?;
    let is_one = |file: &PathBuf| file.extension().is_some_and(|e| e == "tiktoken" || e == "gguf");
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_one).collect();
    files.sort();
    match files.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(format(path, "there is no tokenizer.json here, nor a tokenizer.model, .tiktoken, .gguf or vocab.json with merges.txt")),
        many => Err(format(path, format!("{} files could be the tokenizer ({} ..): name one", many.len(), many[0].display()))),
    }
}

/// Read a tokenizer's file; the settings have the names of `tokenizer_config.json`.
pub(crate) fn read(file: &Path) -> Result<(Source, Map<String, Value>)> {
    let mut input = fs::File::open(file).map_err(io(file, "cannot read the tokenizer"))?;
    let mut magic = [0; 4];
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start).map_err(io(file, "cannot read the tokenizer"))?;
    magic[..start.len()].copy_from_slice(&start);
    if &magic == gguf::MAGIC {
        let (vocabulary, config) = gguf_vocab::read(&gguf::Metadata::read(file)?, file)?;
        let source = match vocabulary {
            Vocabulary::Json(json) => Source::Json(pretty(&json)),
            Vocabulary::Pieces(model) => Source::Pieces(Box::new(model)),
        };
        return Ok((source, config));
    }
    let bytes = {
        let mut bytes = start;
        input.take(MAX_BYTES).read_to_end(&mut bytes).map_err(io(file, "cannot read the tokenizer"))?;
        if bytes.len() as u64 >= MAX_BYTES {
            return Err(format(file, "larger than a GiB: not a tokenizer"));
        }
        bytes
    };
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok((Source::Json(pretty(&merges::clip(file, &unzip(file, &bytes)?)?)), Map::new()));
    }
    if let Some((vocab, rules)) = pair_of(file) {
        let text = |path: &Path| fs::read_to_string(path).map_err(io(path, "cannot read"));
        return Ok((Source::Json(pretty(&merges::gpt2(&vocab, &text(&vocab)?, &rules, &text(&rules)?)?)), gpt2_config()));
    }
    if bytes.trim_ascii_start().starts_with(b"{") {
        let text = String::from_utf8(bytes).map_err(|e| format(file, format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?;
        return Ok((Source::Json(text), Map::new()));
    }
    if tiktoken::looks_like(&bytes) {
        let ranks = tiktoken::read(file, &bytes)?;
        let names = [("bos_token", &ranks.bos), ("eos_token", &ranks.eos)];
        let config = names.iter().filter_map(|(name, token)| Some(((*name).to_string(), token.as_deref()?.into()))).collect();
        return Ok((Source::Ranks(Box::new(ranks)), config));
    }
    if bytes.first() == Some(&0x0a) {
        let model = PieceModel::parse(&bytes).map_err(|e| format(file, format!("not a SentencePiece model: {e}")))?;
        let config = pieces_config(&model);
        return Ok((Source::Pieces(Box::new(model)), config));
    }
    Err(format(file, "not a tokenizer that is known here: tokenizer.json, SentencePiece .model, tiktoken ranks, GGUF, vocab.json with merges.txt"))
}

/// `(vocab, merges)` if the file is one of such a pair and both are there.
fn pair_of(file: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = file.file_name()?.to_str()?;
    let (vocab, rules) = PAIRS.iter().find(|(vocab, rules)| name == *vocab || name == *rules)?;
    let (vocab, rules) = (file.with_file_name(vocab), file.with_file_name(rules));
    (vocab.is_file() && rules.is_file()).then_some((vocab, rules))
}

fn unzip(file: &Path, bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).take(MAX_BYTES).read_to_string(&mut text).map_err(io(file, "cannot unpack"))?;
    Ok(text)
}

fn gpt2_config() -> Map<String, Value> {
    ["bos_token", "eos_token"].into_iter().map(|name| (name.to_string(), "<|endoftext|>".into())).collect()
}

fn pieces_config(model: &PieceModel) -> Map<String, Value> {
    let has = |text: &str| model.pieces.iter().any(|p| p.text == text);
    let unknown = model.pieces.iter().find(|p| p.kind == crate::spm::model::PieceType::Unknown).map_or("", |p| p.text.as_str());
    let names = [("bos_token", model.bos_piece.as_str()), ("eos_token", &model.eos_piece), ("pad_token", &model.pad_piece), ("unk_token", unknown)];
    names.into_iter().filter(|(_, text)| has(text)).map(|(name, text)| (name.to_string(), text.into())).collect()
}

fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

/// The `tokenizer.json` of a byte-level BPE.
pub(crate) fn byte_level_json(
    pattern: Pattern,
    vocab: Map<String, Value>,
    merges: Vec<Value>,
    added: &[AddedToken],
    whole_words: bool,
    bos: Option<&str>,
) -> Value {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = json!({"type": "Split", "pattern": {"Regex": pattern.regex()}, "behavior": "Isolated", "invert": false});
    let bos = bos.and_then(|text| Some((text, added.iter().find(|t| t.content == text)?.id)));
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(false)]},
        "post_processor": bos.map_or(Value::Null, |(text, id)| begins_with(text, id as usize)),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": whole_words,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// The post-processor that puts a token in front.
pub(crate) fn begins_with(bos: &str, id: usize) -> Value {
    let sequence = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
    let begin = |type_id: u8| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [begin(0), sequence("A", 0)],
        "pair": [begin(0), sequence("A", 0), begin(1), sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    })
}
