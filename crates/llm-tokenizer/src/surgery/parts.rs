//! The texts of a tokenizer folder, taken apart to be changed and put together again.

use crate::added::AddedToken;
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};
use crate::tokenizer::{Inner, Tokenizer};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The files of a tokenizer as values.
#[derive(Debug)]
pub struct Parts {
    /// `tokenizer.json`.
    pub json: Value,
    /// `tokenizer_config.json` without the chat template.
    pub config: Map<String, Value>,
    template: Option<ChatTemplate>,
}

impl Parts {
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let Inner { config, template, .. } = &*tokenizer.0;
        let json = tokenizer.json_value().map_err(|what| Error::Surgery(format!("a tokenizer.json cannot express {what}")))?;
        Ok(Self { json, config: config.clone(), template: template.clone() })
    }

    /// Ids of the model's own vocabulary by their spelling in the file.
    pub fn vocab(&self) -> Result<HashMap<String, u32>> {
        match &self.json["model"]["vocab"] {
            Value::Object(map) => Ok(map.iter().filter_map(|(token, id)| Some((token.clone(), id.as_u64()? as u32))).collect()),
            // Unigram: pieces with their scores, the id is the place.
            Value::Array(list) => Ok(list.iter().enumerate().filter_map(|(id, piece)| Some((piece[0].as_str()?.to_string(), id as u32))).collect()),
            other => Err(Error::Surgery(format!("model.vocab of tokenizer.json is {other}; expected an object, or a list of pieces and scores"))),
        }
    }

    /// One more added token, in all files that name them.
    pub fn add(&mut self, token: &AddedToken) {
        let fields = json!({
            "id": token.id, "content": token.content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": token.special,
        });
        if let Some(decoder) = self.config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
            let mut entry = fields.clone();
            if let Some(entry) = entry.as_object_mut() {
                entry.shift_remove("id");
            }
            decoder.insert(token.id.to_string(), entry);
        }
        if token.special
            && let Some(list) = self.config.get_mut("additional_special_tokens").and_then(Value::as_array_mut)
        {
            list.push(token.content.as_str().into());
        }
        match &mut self.json["added_tokens"] {
            Value::Array(list) => list.push(fields),
            nothing => *nothing = json!([fields]),
        }
    }

    /// The tokenizer of the changed files.
    pub fn finish(self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_parts(format!("{:#}\n", self.json), self.config, self.template, Path::new("tokenizer.json"))?;
        let bad = |message: String| Err(Error::Surgery(message));
        let reference = match tokenizer.json().unwrap_or_default().parse::<tokenizers::Tokenizer>() {
            Ok(reference) => reference,
            Err(e) => return bad(format!("the tokenizers crate would not open the result: {e}")),
        };
        for token in tokenizer.added_tokens() {
            let theirs = reference.token_to_id(&token.content);
            if theirs != Some(token.id) {
                return bad(format!(
                    "added token {:?} has id {}, but Hugging Face's tokenizers would give it {}: they number added tokens without gaps behind the \
                     model's vocabulary; this tokenizer has gaps there and cannot be changed",
                    token.content,
                    token.id,
                    theirs.map_or("none".to_string(), |id| id.to_string())
                ));
            }
        }
        Ok(tokenizer)
    }
}

/// Every place in `tokenizer.json` outside of vocabulary and added tokens that holds an id: post-processors and padding.
pub fn each_id(json: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    if let Some(steps) = json.get_mut("post_processor") {
        processor(steps, visit);
    }
    if let Some(id) = json.get_mut("padding").and_then(|padding| padding.get_mut("pad_id")) {
        visit(id);
    }
}

fn processor(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    if let Some(list) = value.get_mut("processors").and_then(Value::as_array_mut) {
        list.iter_mut().for_each(|step| processor(step, visit));
    }
    // TemplateProcessing.
    if let Some(tokens) = value.get_mut("special_tokens").and_then(Value::as_object_mut) {
        for (_, token) in tokens {
            token["ids"].as_array_mut().into_iter().flatten().for_each(&mut *visit);
        }
    }
    // BertProcessing and RobertaProcessing: text and id.
    for name in ["sep", "cls"] {
        if let Some(id) = value.get_mut(name).and_then(|pair| pair.get_mut(1)) {
            visit(id);
        }
    }
}
