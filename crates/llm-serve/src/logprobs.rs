//! Log-probabilities in the two forms of the API.

use crate::api::response::{TextLogprobs, TokenLogprob};
use llm_infer::TokenScore;
use llm_tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// Chat form of one token and its alternatives.
pub fn chat_entry(tokenizer: &Tokenizer, token: u32, logprob: f32, top: &[(u32, f32)]) -> TokenLogprob {
    let alternatives = top.iter().map(|&(id, lp)| entry(tokenizer, id, lp)).collect();
    TokenLogprob { top_logprobs: Some(alternatives), ..entry(tokenizer, token, logprob) }
}

fn entry(tokenizer: &Tokenizer, token: u32, logprob: f32) -> TokenLogprob {
    let (token, bytes) = text_of(tokenizer, token);
    TokenLogprob { token, logprob, bytes, top_logprobs: None }
}

/// The text of a single token and its exact bytes; control tokens show under their name.
fn text_of(tokenizer: &Tokenizer, token: u32) -> (String, Vec<u8>) {
    match tokenizer.token_bytes(token) {
        Some(bytes) if !tokenizer.is_special(token) => (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec()),
        _ => {
            let name = tokenizer.decode(&[token], false);
            let bytes = name.clone().into_bytes();
            (name, bytes)
        }
    }
}

/// Completion form: parallel lists that grow token by token. `offset` is where the token's text starts, in characters;
/// returns where the next one does.
pub fn push_text(lists: &mut TextLogprobs, tokenizer: &Tokenizer, token: u32, logprob: f32, top: &[(u32, f32)], offset: usize) -> usize {
    let (text, _) = text_of(tokenizer, token);
    let next = offset + text.chars().count();
    lists.tokens.push(text);
    lists.token_logprobs.push(Some(logprob));
    let alternatives: Map<String, Value> = top.iter().map(|&(id, lp)| (text_of(tokenizer, id).0, Value::from(lp))).collect();
    lists.top_logprobs.push(Some(alternatives));
    lists.text_offset.push(offset);
    next
}

/// Completion form of an echoed prompt; `added` of its first tokens are not part of the caller's text and take no room in it.
/// Offsets count the characters that have begun before a token, so half a character moves nothing.
pub fn prompt_lists(tokenizer: &Tokenizer, ids: &[u32], added: usize, scores: &[TokenScore]) -> TextLogprobs {
    let mut lists = TextLogprobs::default();
    let mut offset = 0;
    for (i, &id) in ids.iter().enumerate() {
        let (text, bytes) = text_of(tokenizer, id);
        lists.tokens.push(text);
        let score = i.checked_sub(1).and_then(|before| scores.get(before));
        lists.token_logprobs.push(score.map(|s| s.logprob));
        lists.top_logprobs.push(score.map(|s| s.top.iter().map(|&(id, lp)| (text_of(tokenizer, id).0, Value::from(lp))).collect()));
        lists.text_offset.push(offset);
        if i >= added {
            offset += bytes.iter().filter(|&&b| b & 0xC0 != 0x80).count();
        }
    }
    lists
}
