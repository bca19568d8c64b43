//! Fewer tokens: those that are wanted, those that they are built from, and those that no tokenizer may lack, under new ids in the old order.

use super::keep::{Keep, pair};
use super::parts::{Parts, each_id};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// A tokenizer with fewer tokens.
#[derive(Debug)]
pub struct Pruned {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// By new id, the id a token had.
    pub old_ids: Vec<u32>,
}

impl Tokenizer {
    /// Keep the wanted ids, all added tokens, the tokens of single bytes (or characters), the unknown, and whatever merges need to
    /// build what is kept. Text whose tokens are all wanted is cut as before.
    pub fn pruned(&self, wanted: impl IntoIterator<Item = u32>) -> Result<Pruned> {
        let mut parts = Parts::of(self)?;
        let vocab = parts.vocab()?;
        let mut keep = Keep::new(self.vocab_size(), &vocab);
        for id in wanted {
            if self.token_bytes(id).is_none() {
                return Err(Error::Surgery(format!("id {id} should be kept, but this tokenizer has no such token")));
            }
            keep.id(id);
        }
        self.added_tokens().iter().for_each(|token| keep.id(token.id));
        for (_, value) in parts.config.iter().filter(|(name, _)| name.ends_with("_token")) {
            if let Some(token) = value.as_str().or_else(|| value["content"].as_str()) {
                keep.token(token);
            }
        }
        each_id(&mut parts.json, &mut |id| keep.id(id.as_u64().unwrap_or(u64::MAX).min(u64::from(u32::MAX)) as u32));
        keep.base(&parts.json);
        keep.ways(&parts.json)?;

        let old_ids: Vec<u32> = (0..self.vocab_size() as u32).filter(|&id| keep.ids[id as usize] && self.token_bytes(id).is_some()).collect();
        let mut new_ids = vec![None; self.vocab_size()];
        old_ids.iter().enumerate().for_each(|(new, &old)| new_ids[old as usize] = Some(new as u32));
        let new_id = |old: &Value| old.as_u64().and_then(|old| new_ids.get(old as usize).copied().flatten());
        renumber(&mut parts, &new_id)?;
        Ok(Pruned { tokenizer: parts.finish()?, old_ids })
    }
}

fn renumber(parts: &mut Parts, new_id: &impl Fn(&Value) -> Option<u32>) -> Result<()> {
    let mut renamed = |value: &mut Value| {
        if let Some(id) = new_id(value) {
            *value = id.into();
        }
    };
    each_id(&mut parts.json, &mut renamed);
    for token in parts.json["added_tokens"].as_array_mut().into_iter().flatten() {
        renamed(&mut token["id"]);
    }
    let model = &mut parts.json["model"];
    match &mut model["vocab"] {
        Value::Object(map) => {
            let kept = std::mem::take(map).into_iter().filter_map(|(token, id)| Some((token, new_id(&id)?.into())));
            *map = kept.collect();
        }
        Value::Array(list) => {
            let mut place = 0;
            list.retain(|_| {
                place += 1;
                new_id(&Value::from(place - 1)).is_some()
            });
        }
        _ => {}
    }
    if model["unk_id"].is_u64() {
        renamed(&mut model["unk_id"]);
    }
    if let Some(rules) = model["merges"].as_array().cloned() {
        let vocab = &model["vocab"];
        let mut kept = Vec::new();
        for rule in rules {
            let (left, right) = pair(&rule)?;
            if [left, right, &format!("{left}{right}")].iter().all(|token| vocab.get(token).is_some()) {
                kept.push(rule);
            }
        }
        model["merges"] = kept.into();
    }
    if let Some(decoder) = parts.config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
        let entry = |(id, token): (String, Value)| Some((new_id(&Value::from(id.parse::<u64>().ok()?))?.to_string(), token));
        let entries: Map<String, Value> = std::mem::take(decoder).into_iter().filter_map(entry).collect();
        *decoder = entries;
    }
    Ok(())
}
