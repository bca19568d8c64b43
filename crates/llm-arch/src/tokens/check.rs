//! Do a tokenizer and a model belong together? Cheap enough to ask whenever both are loaded: two small files are read, no weights.
//!
//! A model that reads ids of another tokenizer does not fail, it writes nonsense. What can be seen from outside: ids without a row, control
//! tokens that the two name differently, and the hash of the vocabulary where `config.json` records one (folders written by
//! `llm-arch tokens` do).

use super::ids;
use crate::{DecoderConfig, Error, Result};
use llm_tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Field of `config.json` with [`Tokenizer::vocabulary_hash`].
pub const HASH_FIELD: &str = "vocabulary_hash";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Reasons not to use the two together.
    pub problems: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// The tokenizer is larger than the tables.
pub(super) fn rows(config: &DecoderConfig, tokenizer: &Tokenizer) -> Option<String> {
    let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size);
    (tokens > rows).then(|| {
        format!(
            "the tokenizer has {tokens} tokens but the model only {rows} rows; take the tokenizer of this model, or add rows with `llm-arch tokens`"
        )
    })
}

/// Compare the tokenizer with the configuration in `dir`.
pub fn compare(dir: &Path, config: &DecoderConfig, tokenizer: &Tokenizer) -> Result<Findings> {
    let mut found = Findings::default();
    found.problems.extend(rows(config, tokenizer));
    let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size);
    if tokens < rows {
        found.notes.push(format!("{} of the model's {rows} rows have no token: they pad its tables", rows - tokens));
    }
    let mut named = Vec::new();
    let mut recorded = None;
    for file in ["config.json", "generation_config.json"] {
        let Some(value) = read(&dir.join(file))? else { continue };
        if file == "config.json" {
            recorded = value[HASH_FIELD].as_str().map(str::to_string);
        }
        for (field, id) in ids::list(&value) {
            found.id(file, &field, id, rows, tokenizer);
            named.push((field, id));
        }
    }
    let ids = |wanted: &str| -> BTreeSet<u64> { named.iter().filter(|(field, _)| field == wanted).map(|&(_, id)| id).collect() };
    for (field, ours) in [("bos_token_id", tokenizer.bos_id()), ("eos_token_id", tokenizer.eos_id()), ("pad_token_id", tokenizer.pad_id())] {
        let theirs = ids(field);
        // A text may end in several ways, and each file may name some of them; it begins in one.
        let agrees = |id: u32| theirs.contains(&u64::from(id)) && (field != "bos_token_id" || theirs.len() == 1);
        let Some(ours) = ours.filter(|&id| !agrees(id)) else { continue };
        let shown = shown(tokenizer, ours);
        let said = format!("the tokenizer's {} is {shown} with id {ours}", field.trim_end_matches("_id"));
        match (theirs.is_empty(), field) {
            (true, "pad_token_id") => {}
            (true, _) => found.notes.push(format!("{said}, but config.json and generation_config.json have no `{field}`")),
            (false, "pad_token_id") => found.notes.push(format!("{said}, but `{field}` is {}", list(&theirs))),
            (false, _) => found.problems.push(format!("{said}, but `{field}` is {}; one of the two is another model's", list(&theirs))),
        }
    }
    if let Some(recorded) = recorded {
        let hash = tokenizer.vocabulary_hash();
        if recorded != hash {
            let short = |hash: &str| hash.chars().take(12).collect::<String>();
            found.problems.push(format!(
                "config.json records a vocabulary with hash {}, the tokenizer's has {}; put the tokenizer back that was written with this model",
                short(&recorded),
                short(&hash)
            ));
        }
    }
    Ok(found)
}

/// [`compare`] with every problem as one error.
pub fn require(dir: &Path, config: &DecoderConfig, tokenizer: &Tokenizer) -> Result<()> {
    let problems = compare(dir, config, tokenizer)?.problems;
    if problems.is_empty() { Ok(()) } else { Err(Error::Vocabulary { path: dir.to_path_buf(), problems }) }
}

impl Findings {
    /// One id that a file names.
    fn id(&mut self, file: &str, field: &str, id: u64, rows: usize, tokenizer: &Tokenizer) {
        let said = format!("{file}: `{field}` = {id}");
        let token = u32::try_from(id).ok().filter(|&id| tokenizer.token_bytes(id).is_some());
        if id >= rows as u64 {
            self.problems.push(format!("{said} is out of range: the model has {rows} rows"));
            return;
        }
        let problem = match token {
            None => format!("{said} is no token of the tokenizer, which has {}", tokenizer.vocab_size()),
            Some(id) if is_control(tokenizer, id) => return,
            Some(id) => format!("{said} is the ordinary token {} of the tokenizer, not a control token", shown(tokenizer, id)),
        };
        // A batch can be filled with anything, as it is masked; and other fields do not tell what kind of token they want.
        let list = if matches!(field, "bos_token_id" | "eos_token_id") { &mut self.problems } else { &mut self.notes };
        list.push(problem);
    }
}

fn is_control(tokenizer: &Tokenizer, id: u32) -> bool {
    [tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()].contains(&Some(id)) || tokenizer.added_tokens().iter().any(|token| token.id == id)
}

fn shown(tokenizer: &Tokenizer, id: u32) -> String {
    format!("{:?}", String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()))
}

fn list(ids: &BTreeSet<u64>) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// A JSON file; none if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bad = |message: String| Error::File { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot read: {e}")))?;
    serde_json::from_str(&text).map(Some).map_err(|e| bad(format!("not valid JSON: {e}")))
}
