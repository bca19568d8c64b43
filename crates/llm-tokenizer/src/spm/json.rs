//! SentencePiece models as pipelines of a `tokenizer.json`, and those pipelines of other people's files that we run ourselves.

use super::bpe::PieceBpe;
use super::decode::Rules;
use super::model::{Kind, Piece, PieceModel, PieceType};
use super::normalize::{BLANK, Normalizer, Prefix};
use super::unigram::Unigram;
use super::{Algorithm, Spm, Unknown, byte_ids};
use crate::added::AddedToken;
use crate::error::{Result, format};
use crate::native::{BpeSection, VocabEntry};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

impl Spm {
    /// `None` if the pipeline is not a Llama-like BPE or Unigram; an error if it is but the file is damaged.
    pub fn from_json(json: &Value, added: &[AddedToken], path: &Path) -> Result<Option<(Self, Vec<VocabEntry>)>> {
        let Some((prefix, rules, by_words)) = pipeline(json) else { return Ok(None) };
        let rewritten =
            |t: &AddedToken| t.lstrip || t.rstrip || t.single_word || t.normalized && (prefix != Prefix::Never || t.content.contains(' '));
        if added.iter().any(rewritten) {
            return Ok(None);
        }
        let model = &json["model"];
        if model["type"] == "Unigram" { unigram(model, added, (prefix, rules, by_words), path) } else { merges(model, prefix, rules, path) }
    }
}

/// What the JSON of a Unigram model section holds.
#[derive(Deserialize)]
struct UnigramSection {
    vocab: Vec<(String, f64)>,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

/// `added`: control tokens, which text never gives.
fn unigram(
    model: &Value,
    added: &[AddedToken],
    (prefix, rules, by_words): (Prefix, Rules, bool),
    path: &Path,
) -> Result<Option<(Spm, Vec<VocabEntry>)>> {
    let section = UnigramSection::deserialize(model).map_err(|e| format(path, format!("model: {e}")))?;
    let vocab = || (0..).zip(&section.vocab).map(|(id, (text, _))| (text.as_str(), id));
    let bytes = if section.byte_fallback { byte_ids(vocab()) } else { None };
    let unknown = section.unk_id.filter(|&id| (id as usize) < section.vocab.len());
    if let Some(at) = section.vocab.iter().position(|(_, score)| !score.is_finite()) {
        return Err(format(path, format!("model.vocab[{at}]: the score is not a number")));
    }
    let (Some(unknown), false) = (unknown, section.byte_fallback && bytes.is_none()) else { return Ok(None) };
    let control = |id: u32| added.iter().any(|t| t.special && t.id == id);
    let kind = |(text, id): (&str, u32)| match () {
        () if id == unknown => PieceType::Unknown,
        () if control(id) => PieceType::Control,
        () if bytes.is_some() && super::byte_of(text).is_some() => PieceType::Byte,
        () => PieceType::Normal,
    };
    let kinds: Vec<PieceType> = vocab().map(kind).collect();
    let entries = vocab().map(|(text, id)| (spelled(text, kinds[id as usize]), id)).collect();
    let spm = Spm {
        normalizer: Normalizer::plain(prefix),
        algorithm: Algorithm::Unigram(Unigram::from_vocab(&section.vocab, by_words, |id| kinds[id as usize] == PieceType::Normal)),
        decoding: rules,
        kinds,
        unknown: Unknown { id: unknown, bytes, fuse: true },
        model: None,
    };
    Ok(Some((spm, entries)))
}

/// Bytes of a piece in text.
fn spelled(text: &str, kind: PieceType) -> Vec<u8> {
    match super::byte_of(text).filter(|_| kind == PieceType::Byte) {
        Some(byte) => vec![byte],
        None => text.replace(BLANK, " ").into_bytes(),
    }
}

fn merges(model: &Value, prefix: Prefix, rules: Rules, path: &Path) -> Result<Option<(Spm, Vec<VocabEntry>)>> {
    let section = BpeSection::deserialize(model).map_err(|e| format(path, format!("model: {e}")))?;
    let vocab = || section.vocab.iter().map(|(text, &id)| (text.as_str(), id));
    let bytes = if section.byte_fallback { byte_ids(vocab()) } else { None };
    let unknown = section.unk_token.as_ref().and_then(|token| section.vocab.get(token)).copied();
    // With some byte pieces missing, or nothing for the unknown, the library has its own ideas.
    if (section.byte_fallback && bytes.is_none()) || (bytes.is_none() && unknown.is_none()) {
        return Ok(None);
    }
    let merges = section.rules(path)?;
    let size = section.vocab.values().max().map_or(0, |&id| id as usize + 1);
    let mut kinds = vec![PieceType::Unused; size];
    let mut entries = Vec::with_capacity(section.vocab.len());
    for (text, id) in vocab() {
        let byte = super::byte_of(text).is_some() && matches!(rules, Rules::HuggingFace { byte_fallback: true, .. });
        let kind = match byte {
            true => PieceType::Byte,
            false if Some(id) == unknown => PieceType::Unknown,
            false => PieceType::Normal,
        };
        kinds[id as usize] = kind;
        entries.push((spelled(text, kind), id));
    }
    let spm = Spm {
        normalizer: Normalizer::plain(prefix),
        algorithm: Algorithm::Bpe(Box::new(PieceBpe::from_merges(vocab(), &merges))),
        decoding: rules,
        kinds,
        unknown: Unknown { id: unknown.unwrap_or(u32::MAX), bytes, fuse: section.fuse_unk },
        model: None,
    };
    Ok(Some((spm, entries)))
}

/// How blanks are put in front, how text is put together, and whether words are cut off first, if the pipeline is one of ours.
fn pipeline(json: &Value) -> Option<(Prefix, Rules, bool)> {
    let model = &json["model"];
    let unset = |name: &str| matches!(&model[name], Value::Null | Value::Bool(false)) || model[name].as_str() == Some("");
    let unigram = model["type"] == "Unigram" && model["vocab"].is_array();
    let bpe = model["type"].as_str().is_none_or(|t| t == "BPE")
        && model["vocab"].is_object()
        && model["merges"].is_array()
        && ["continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"].iter().all(|name| unset(name))
        && model["dropout"].as_f64().unwrap_or(0.0) == 0.0;
    if !unigram && !bpe {
        return None;
    }
    let steps = |value: &Value, list: &str| match value["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => value[list].as_array().cloned().unwrap_or_default(),
        Some(_) => vec![value.clone()],
    };
    let is_blank_rule = |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == BLANK;
    let normalizer = steps(&json["normalizer"], "normalizers");
    let pre = steps(&json["pre_tokenizer"], "pretokenizers");
    let is_metaspace = |step: &Value| step["type"] == "Metaspace" && step["replacement"] == BLANK;
    // Words of a BPE are its own business; those of a Unigram are summed up one by one.
    let by_words = unigram && pre.first().is_some_and(|step| is_metaspace(step) && step["split"].as_bool().unwrap_or(true));
    let prefix = match (normalizer.as_slice(), pre.as_slice()) {
        ([prepend, replace], [words])
            if prepend["type"] == "Prepend"
                && prepend["prepend"] == BLANK
                && is_blank_rule(replace)
                && is_metaspace(words)
                && words["prepend_scheme"] == "never"
                && (by_words || words["split"] == false) =>
        {
            Prefix::Always
        }
        ([prepend, replace], []) if prepend["type"] == "Prepend" && prepend["prepend"] == BLANK && is_blank_rule(replace) => Prefix::Always,
        ([replace], []) if is_blank_rule(replace) => Prefix::Never,
        // Gemma: there is no blank left to split at.
        ([replace], [split]) if is_blank_rule(replace) && split["type"] == "Split" && split["pattern"]["String"] == " " => Prefix::Never,
        ([], [metaspace]) if is_metaspace(metaspace) && (by_words || metaspace["split"] == false) => match metaspace["prepend_scheme"].as_str()? {
            "always" => Prefix::UnlessBlank,
            "first" => Prefix::First,
            "never" => Prefix::Never,
            _ => return None,
        },
        _ => return None,
    };
    let decoders = steps(&json["decoder"], "decoders");
    let is_text_rule = |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == BLANK && step["content"] == " ";
    let is_strip = |step: &Value| step["type"] == "Strip" && step["content"] == " " && step["start"] == 1 && step["stop"] == 0;
    let named: Vec<&str> = decoders.iter().filter_map(|step| step["type"].as_str()).collect();
    let rules = match named.as_slice() {
        ["Replace", "ByteFallback", "Fuse"] => Rules::HuggingFace { strip: false, byte_fallback: true },
        ["Replace", "ByteFallback", "Fuse", "Strip"] if is_strip(decoders.last()?) => Rules::HuggingFace { strip: true, byte_fallback: true },
        ["Replace", "Fuse"] => Rules::HuggingFace { strip: false, byte_fallback: false },
        ["Replace", "Fuse", "Strip"] if is_strip(decoders.last()?) => Rules::HuggingFace { strip: true, byte_fallback: false },
        _ => return None,
    };
    is_text_rule(decoders.first()?).then_some((prefix, rules, by_words))
}

/// The `tokenizer.json` of a SentencePiece model, as transformers converts it. The error says what cannot be expressed.
pub fn to_json(model: &PieceModel) -> Result<Value, String> {
    if model.whitespace_as_suffix {
        return Err("treat_whitespace_as_suffix".into());
    }
    if !model.escape_whitespaces {
        return Err("escape_whitespaces = false".into());
    }
    let mut normalizers = Vec::new();
    if !model.charsmap.is_identity() {
        let map = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, model.charsmap.as_bytes());
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if model.remove_extra_whitespaces {
        // Not `Strip`: that would take line ends too.
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}));
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if model.add_dummy_prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": BLANK}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK}));
    let mut decoders =
        vec![json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if model.add_dummy_prefix || model.remove_extra_whitespaces {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = model.pieces.iter().position(|p| p.kind == PieceType::Unknown).unwrap_or_default();
    let bos = model.pieces.iter().position(|p| p.kind == PieceType::Control && p.text == model.bos_piece);
    let post_processor = bos.filter(|_| model.kind == Kind::Bpe).map_or(Value::Null, |id| crate::formats::begins_with(&model.bos_piece, id));
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(model).iter().map(|t| json!(t)).collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": post_processor,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": match model.kind {
            Kind::Unigram => json!({
                "type": "Unigram",
                "unk_id": unknown,
                "vocab": model.pieces.iter().map(|p| json!([p.text, p.score])).collect::<Vec<_>>(),
                "byte_fallback": model.byte_fallback,
            }),
            Kind::Bpe => bpe(&model.pieces, unknown, model.byte_fallback),
        },
    }))
}

fn bpe(pieces: &[Piece], unknown: usize, byte_fallback: bool) -> Value {
    let ids: std::collections::HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, p)| (p.text.as_str(), id)).collect();
    let joinable = |p: &Piece| matches!(p.kind, PieceType::Normal | PieceType::UserDefined);
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(|p| joinable(p)) {
        let cuts = piece.text.char_indices().skip(1).map(|(cut, _)| piece.text.split_at(cut));
        let is_piece = |text: &str| ids.get(text).copied().filter(|&id| joinable(&pieces[id]));
        let mut ways: Vec<_> = cuts.filter_map(|(l, r)| Some(((is_piece(l)?, is_piece(r)?), l, r))).collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, l, r)| (piece.score, l, r)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": pieces[unknown].text,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": byte_fallback,
        "ignore_merges": false,
        "vocab": pieces.iter().enumerate().map(|(id, p)| (p.text.clone(), id.into())).collect::<Map<_, _>>(),
        "merges": merges.iter().map(|(_, l, r)| json!([l, r])).collect::<Vec<_>>(),
    })
}

/// Control and unknown pieces are control tokens, user-defined ones ordinary added tokens.
pub fn added_tokens(model: &PieceModel) -> Vec<AddedToken> {
    let added = |(id, piece): (usize, &Piece)| {
        let special = match piece.kind {
            PieceType::Control | PieceType::Unknown => true,
            PieceType::UserDefined => false,
            _ => return None,
        };
        Some(AddedToken { special, ..AddedToken::special(id as u32, &piece.text.replace(BLANK, if special { BLANK } else { " " })) })
    };
    model.pieces.iter().enumerate().filter_map(added).collect()
}

/// The model of a Llama-like `tokenizer.json`. The error says what a model cannot express.
pub fn to_model(json: &Value, spm: &Spm, added: &[AddedToken], config: &Map<String, Value>) -> Result<PieceModel, String> {
    let add_dummy_prefix = match spm.normalizer.prefix {
        Prefix::Always => true,
        Prefix::Never => false,
        other => return Err(format!("its rule for the blank in front ({other:?})")),
    };
    let (kind, byte_fallback, scored) = match json["model"]["type"] == "Unigram" {
        true => {
            let section = UnigramSection::deserialize(&json["model"]).map_err(|e| e.to_string())?;
            let scored = (0..).zip(section.vocab).map(|(id, (text, score))| (text, id, score as f32)).collect();
            (Kind::Unigram, section.byte_fallback, scored)
        }
        false => {
            let section = BpeSection::deserialize(&json["model"]).map_err(|e| e.to_string())?;
            let scored = scores_of_merges(&section)?;
            (Kind::Bpe, section.byte_fallback, scored)
        }
    };
    let size = scored.iter().map(|(_, id, _)| id).chain(added.iter().map(|t| &t.id)).max().map_or(0, |&id| id as usize + 1);
    let mut pieces: Vec<Option<Piece>> = vec![None; size];
    for (text, id, score) in scored {
        let kind = spm.kind(id).unwrap_or(PieceType::Normal);
        pieces[id as usize] = Some(Piece { text, score: if kind == PieceType::Normal { score } else { 0.0 }, kind });
    }
    for token in added {
        let unknown = pieces[token.id as usize].as_ref().is_some_and(|p| p.kind == PieceType::Unknown);
        let kind = match (unknown, token.special) {
            (true, _) => PieceType::Unknown,
            (_, true) => PieceType::Control,
            (_, false) => PieceType::UserDefined,
        };
        pieces[token.id as usize] = Some(Piece { text: token.content.replace(' ', BLANK), score: 0.0, kind });
    }
    let whole: Option<Vec<Piece>> = pieces.into_iter().collect();
    let mut model = PieceModel::new(kind, whole.ok_or("ids without a token")?, byte_fallback);
    model.add_dummy_prefix = add_dummy_prefix;
    for (field, name) in [(&mut model.bos_piece, "bos_token"), (&mut model.eos_piece, "eos_token"), (&mut model.pad_piece, "pad_token")] {
        if let Some(text) = config.get(name).and_then(|v| v.as_str().or_else(|| v["content"].as_str())) {
            *field = text.to_string();
        }
    }
    model.check()?;
    Ok(model)
}

/// Text, id and score of every token: minus the rank of the merge that makes it.
fn scores_of_merges(section: &BpeSection) -> Result<Vec<(String, u32, f32)>, String> {
    let rules = section.rules(Path::new("tokenizer.json")).map_err(|e| e.to_string())?;
    let mut ranks = std::collections::HashMap::new();
    for (rank, &(.., joined)) in rules.iter().enumerate() {
        let first = *ranks.entry(joined).or_insert(rank);
        if first < rank && rules[rank - 1].2 != joined {
            return Err(format!("two merges of different rank for id {joined} (ranks {first} and {rank})"));
        }
    }
    let score = |id: &u32| -(ranks.get(id).copied().unwrap_or(rules.len()) as f32);
    Ok(section.vocab.iter().map(|(text, id)| (text.clone(), *id, score(id))).collect())
}
