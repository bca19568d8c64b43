//! What pruning may not take away.
//!
//! **Merges.** BPE joins the pair with the lowest rank. Within a token of the result all joins happened in the order they happen on the
//! token's own text, because no join crossed its ends. So it is enough to keep what is built on the way to each kept token: rules that are
//! left out were never chosen where only kept tokens came out, and leaving out a rule that is not chosen changes nothing.
//! **Unigram and WordPiece** choose among the pieces that match; with the chosen ones kept, fewer rivals change nothing. The penalty of the
//! unknown is ten below the worst score of the vocabulary, so a piece with the worst score stays.

use crate::bpe::{Merges, Rule};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;

/// Which ids stay.
#[derive(Debug)]
pub struct Keep<'a> {
    /// By id.
    pub ids: Vec<bool>,
    vocab: &'a HashMap<String, u32>,
}

impl<'a> Keep<'a> {
    /// Nothing yet, of `size` ids.
    pub fn new(size: usize, vocab: &'a HashMap<String, u32>) -> Self {
        Self { ids: vec![false; size], vocab }
    }

    /// Keep that one; ids outside the vocabulary are left out.
    pub fn id(&mut self, id: u32) {
        if let Some(kept) = self.ids.get_mut(id as usize) {
            *kept = true;
        }
    }

    /// Keep a token by its spelling in the file, if there is one.
    pub fn token(&mut self, token: &str) {
        if let Some(&id) = self.vocab.get(token) {
            self.id(id);
        }
    }

    /// What text that nobody has seen yet is cut into: bytes, or characters where bytes are no tokens; and the token of the unknown.
    pub fn base(&mut self, json: &Value) {
        let model = &json["model"];
        let fallback = model["byte_fallback"] == true;
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
        for (token, &id) in self.vocab {
            let byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            let bare = token.strip_prefix(prefix).filter(|rest| !rest.is_empty()).unwrap_or(token);
            let smallest = if fallback { byte } else { bare.chars().count() == 1 };
            if smallest {
                self.id(id);
            }
        }
        if let Some(unknown) = model["unk_token"].as_str() {
            self.token(unknown);
        }
        if let Some(unknown) = model["unk_id"].as_u64() {
            self.id(unknown as u32);
        }
        // Unigram: pieces and scores.
        let score = |piece: &Value| piece[1].as_f64().unwrap_or(f64::INFINITY);
        let worst = model["vocab"].as_array().and_then(|list| (0..list.len()).min_by(|&a, &b| score(&list[a]).total_cmp(&score(&list[b]))));
        if let Some(worst) = worst {
            self.id(worst as u32);
        }
    }

    /// What the rules build on the way to each kept token.
    pub fn ways(&mut self, json: &Value) -> Result<()> {
        let model = &json["model"];
        if !model["merges"].is_array() {
            return Ok(());
        }
        for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model[name].as_str().is_some_and(|affix| !affix.is_empty()) {
                return Err(Error::Surgery(format!("this BPE has a {name} ({}), whose merges cannot be pruned yet", model[name])));
            }
        }
        let id = |token: &str| self.vocab.get(token).copied();
        let mut rules = Vec::new();
        for rule in model["merges"].as_array().into_iter().flatten() {
            let (left, right) = pair(rule)?;
            let joined = format!("{left}{right}");
            match (id(left), id(right), id(&joined)) {
                (Some(left), Some(right), Some(joined)) => rules.push(Rule { left, right, rank: rules.len() as u32, joined }),
                _ => return Err(Error::Surgery(format!("merge {rule} needs both parts and their join in model.vocab"))),
            }
        }
        let merges = Merges::new(&rules);
        let kept: Vec<&String> = self.vocab.iter().filter(|&(_, &id)| self.ids.get(id as usize) == Some(&true)).map(|(token, _)| token).collect();
        let ways: Vec<u32> = kept.into_iter().flat_map(|token| way(token, self.vocab, &merges)).collect();
        ways.into_iter().for_each(|id| self.id(id));
        Ok(())
    }
}

/// The two sides of a merge as they are written: a pair, or one text with a blank.
pub fn pair(rule: &Value) -> Result<(&str, &str)> {
    let sides = match rule {
        Value::String(line) => line.split_once(' '),
        list => list[0].as_str().zip(list[1].as_str()),
    };
    sides.ok_or_else(|| Error::Surgery(format!("model.merges holds {rule}; expected two texts")))
}

/// Every token that occurs while rules build `token` from its characters; nothing if they do not build it.
fn way(token: &str, vocab: &HashMap<String, u32>, merges: &Merges) -> Vec<u32> {
    let mut text = [0; 4];
    let Some(mut ids) = token.chars().map(|c| vocab.get(c.encode_utf8(&mut text) as &str).copied()).collect::<Option<Vec<u32>>>() else {
        return Vec::new();
    };
    let mut seen = ids.clone();
    loop {
        let rule = |(at, pair): (usize, &[u32])| (merges.get(pair[0], pair[1]), at);
        let best = ids.windows(2).enumerate().map(rule).min().filter(|((rank, _), _)| *rank != u32::MAX);
        let Some(((_, joined), at)) = best else { break };
        ids[at] = joined;
        ids.remove(at + 1);
        seen.push(joined);
    }
    if ids.len() == 1 && vocab.get(token) == ids.first() { seen } else { Vec::new() }
}
