//! New tokens behind the old ids. Old ids keep their meaning, so a model's old rows stay right.

use super::chains::Chains;
use super::parts::Parts;
use crate::added::AddedToken;
use crate::byte_level::{from_alphabet, to_alphabet};
use crate::error::{Error, Result};
use crate::tokenizer::{Engine, Tokenizer};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A token to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its text.
    pub content: String,
    /// A control token: never made from untrusted text, left out when decoding for people.
    pub special: bool,
}

/// How ordinary vocabulary should enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// As merges where the tokenizer is byte-level BPE and the text is one word of its pre-tokenisation, as an added token elsewhere.
    Merges,
    /// As added tokens: found everywhere in a text, inside words too.
    Added,
}

/// How a token entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placing {
    /// As an added token.
    Added,
    /// Through merges.
    Merged,
    /// On the way to one that was asked for.
    Intermediate,
}

/// A token that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub id: u32,
    /// Its text; half characters become U+FFFD.
    pub text: String,
    /// The ids that the old tokenizer cuts its text into.
    pub pieces: Vec<u32>,
    /// How it entered.
    pub placing: Placing,
}

/// A tokenizer with more tokens.
#[derive(Debug)]
pub struct Grown {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What is new, in the order of the ids, which follow the old ones without a gap.
    pub made: Vec<Made>,
    /// Texts that were one token already, with its id.
    pub present: Vec<(String, u32)>,
}

impl Tokenizer {
    /// Add tokens that are found in text before it is cut. Texts that are tokens already, and texts given twice, are errors.
    pub fn with_tokens(&self, tokens: &[NewToken]) -> Result<Grown> {
        let mut parts = Parts::of(self)?;
        let vocab = parts.vocab()?;
        let mut made: Vec<Made> = Vec::new();
        for NewToken { content, special } in tokens {
            if content.is_empty() {
                return Err(Error::Surgery("a token without text; give it one".into()));
            }
            if let Some(id) = self.special_id(content).or_else(|| vocab.get(content).copied()) {
                return Err(Error::Surgery(format!("{content:?} is in the vocabulary already, with id {id}; leave it out")));
            }
            if made.iter().any(|token| token.text == *content) {
                return Err(Error::Surgery(format!("{content:?} is given twice")));
            }
            made.push(self.added(&mut parts, content, *special, self.vocab_size() + made.len()));
        }
        found(parts.finish()?, made, Vec::new())
    }

    /// Make one token of each text, as ordinary vocabulary. Texts that are one token already are reported and left.
    pub fn with_vocabulary(&self, texts: &[String], placement: Placement) -> Result<Grown> {
        let mut parts = Parts::of(self)?;
        let old: HashMap<Vec<u8>, u32> = parts.vocab()?.iter().filter_map(|(token, &id)| Some((from_alphabet(token)?, id))).collect();
        let mut chains = Chains::new(&old, self.vocab_size() as u32);
        let bytes = |id: u32| self.token_bytes(id).unwrap_or_default().to_vec();
        let (mut wanted, mut present, mut apart): (HashMap<u32, &str>, _, Vec<&str>) = (HashMap::new(), Vec::new(), Vec::new());
        for text in texts.iter().map(String::as_str).filter(|text| !text.is_empty()) {
            let pieces = self.encode(text);
            if let [id] = *pieces.as_slice() {
                present.push((text.to_string(), id));
            } else if placement == Placement::Merges && self.joins(text) {
                // An old token that no rule made before is no new one.
                if let Some(id) = chains.join(&pieces, bytes)
                    && (wanted.insert(id, text).is_some() || id < self.vocab_size() as u32)
                {
                    present.push((text.to_string(), id));
                }
            } else if !apart.contains(&text) {
                apart.push(text);
            }
        }
        let mut made: Vec<Made> = Vec::new();
        for token in &chains.made {
            let placing = if wanted.contains_key(&token.id) { Placing::Merged } else { Placing::Intermediate };
            let text = String::from_utf8_lossy(&token.bytes).into_owned();
            made.push(Made { id: token.id, text, pieces: token.pieces.clone(), placing });
        }
        let spelled = |id: u32| to_alphabet(&chains.get(id).map_or_else(|| bytes(id), |made| made.bytes.clone()));
        let rules: Vec<(String, String)> = chains.rules.iter().map(|&(left, right, _)| (spelled(left), spelled(right))).collect();
        let names: Vec<(String, u32)> = chains.made.iter().map(|token| (spelled(token.id), token.id)).collect();
        if !rules.is_empty() {
            append(&mut parts.json, self.added_tokens(), &rules, names);
        }
        for text in apart {
            made.push(self.added(&mut parts, text, false, self.vocab_size() + made.len()));
        }
        let grown = found(parts.finish()?, made, present)?;
        // Where whole words go before merges (`ignore_merges`), an entry of the vocabulary is within reach of any text.
        match self.added_tokens().iter().find(|token| token.special && grown.tokenizer.encode(&token.content).contains(&token.id)) {
            Some(token) => Err(Error::Surgery(format!("untrusted text could then write the special token {:?}; use added tokens", token.content))),
            None => Ok(grown),
        }
    }

    fn added(&self, parts: &mut Parts, content: &str, special: bool, id: usize) -> Made {
        parts.add(&AddedToken { special, ..AddedToken::special(id as u32, content) });
        Made { id: id as u32, text: content.to_string(), pieces: self.encode(content), placing: Placing::Added }
    }

    /// True if merges can make one token of `text`.
    fn joins(&self, text: &str) -> bool {
        let Engine::ByteLevel(native) = &self.0.engine else { return false };
        native.is_word(text) && self.added_tokens().iter().all(|token| token.content.is_empty() || !text.contains(&token.content))
    }
}

/// New rules and vocabulary into a byte-level BPE.
///
/// The `tokenizers` crate numbers added tokens that are not in the model's vocabulary behind it. The vocabulary now ends behind them, so
/// they must be entries of it too, as many published tokenizers have them; no rule makes them.
fn append(json: &mut Value, added: &[AddedToken], rules: &[(String, String)], names: Vec<(String, u32)>) {
    let model = &mut json["model"];
    if let Some(merges) = model["merges"].as_array_mut() {
        let lines = merges.first().is_some_and(Value::is_string);
        merges.extend(rules.iter().map(|(left, right)| if lines { json!(format!("{left} {right}")) } else { json!([left, right]) }));
    }
    if let Some(vocab) = model["vocab"].as_object_mut() {
        for token in added {
            if !vocab.contains_key(&token.content) {
                vocab.insert(token.content.clone(), token.id.into());
            }
        }
        vocab.extend(names.into_iter().map(|(name, id)| (name, id.into())));
    }
}

/// Every token that was asked for must be what its text is cut into.
fn found(tokenizer: Tokenizer, made: Vec<Made>, present: Vec<(String, u32)>) -> Result<Grown> {
    for token in made.iter().filter(|token| token.placing != Placing::Intermediate) {
        let ids = tokenizer.encode_with_special(&token.text);
        if ids != [token.id] {
            let message = format!("{:?} would not be found in text: it is cut into {ids:?} and not into its id {}", token.text, token.id);
            return Err(Error::Surgery(message));
        }
    }
    Ok(Grown { tokenizer, made, present })
}
