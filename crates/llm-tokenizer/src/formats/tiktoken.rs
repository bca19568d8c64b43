//! tiktoken's rank files: a line for each token, base64 of its bytes and its rank, which is its id too.
//!
//! Two tokens are joined if their join is a token; the lower its rank, the sooner. The file says neither how text is cut into words nor
//! which control tokens there are: that is known for the published files by their number of ranks, and for others in a file beside it,
//! `NAME.json` for `NAME.tiktoken`, with the names of `tiktoken.Encoding`: `{"pat_str": .., "special_tokens": {"<|endoftext|>": 100257}}`.

use crate::added::AddedToken;
use crate::bpe::Rule;
use crate::byte_level::to_alphabet;
use crate::error::{Result, format, io};
use crate::native::{Native, VocabEntry};
use crate::pretokenize::Pattern;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Tokens by rank, and what the file does not say.
#[derive(Debug)]
pub struct Ranks {
    /// In the order of ids.
    pub tokens: Vec<VocabEntry>,
    pub pattern: Pattern,
    pub special: Vec<AddedToken>,
    pub eos: Option<String>,
    pub bos: Option<String>,
}

/// The file beside a rank file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    pub pat_str: String,
    #[serde(default)]
    pub special_tokens: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explicit_n_vocab: Option<u32>,
}

/// True if a file begins as a rank file does.
pub fn looks_like(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    parse_line(line).is_some()
}

fn parse_line(line: &[u8]) -> Option<VocabEntry> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (token, rank) = line.split_once(' ')?;
    Some((STANDARD.decode(token).ok().filter(|t| !t.is_empty())?, rank.parse().ok()?))
}

/// Read a rank file and what stands beside it.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Ranks> {
    let mut tokens: Vec<VocabEntry> = Vec::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let entry = parse_line(line);
        tokens.push(entry.ok_or_else(|| format(path, format!("line {}: expected base64 of a token, a blank, its rank", number + 1)))?);
    }
    tokens.sort_by_key(|(_, rank)| *rank);
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].1 == pair[1].1) {
        return Err(format(path, format!("rank {} is given twice", pair[0].1)));
    }
    let sidecar = sidecar_of(path);
    if sidecar.is_file() {
        let text = std::fs::read_to_string(&sidecar).map_err(io(&sidecar, "cannot read"))?;
        let known: Sidecar = serde_json::from_str(&text).map_err(|e| format(&sidecar, e.to_string()))?;
        let pattern = Pattern::from_regex(&known.pat_str).ok_or_else(|| {
            format(
                &sidecar,
                "pat_str: this regular expression is not known here; known are those of GPT-2, Llama 3, Qwen 2, cl100k_base and o200k_base",
            )
        })?;
        let special = known.special_tokens.iter().map(|(text, &id)| AddedToken::special(id, text)).collect();
        return Ok(Ranks { tokens, pattern, special, eos: known.special_tokens.contains_key(END).then(|| END.into()), bos: None });
    }
    published(tokens).map_err(|tokens| {
        let message = format!(
            "{} ranks are none of the published files (50256 r50k_base, 50280 p50k_base, 100256 cl100k_base, 199998 o200k_base, 128000 Llama 3): \
             put {} beside it, {{\"pat_str\": .., \"special_tokens\": {{..}}}}",
            tokens.len(),
            sidecar.display()
        );
        format(path, message)
    })
}

/// `NAME.json` for `NAME.tiktoken`.
pub fn sidecar_of(path: &Path) -> PathBuf {
    path.with_extension("json")
}

const END: &str = "<|endoftext|>";

fn published(tokens: Vec<VocabEntry>) -> Result<Ranks, Vec<VocabEntry>> {
    let named = |list: &[(u32, &str)]| list.iter().map(|&(id, text)| AddedToken::special(id, text)).collect::<Vec<_>>();
    let fim = [(100_257, END), (100_258, "<|fim_prefix|>"), (100_259, "<|fim_middle|>"), (100_260, "<|fim_suffix|>"), (100_276, "<|endofprompt|>")];
    let (pattern, special) = match tokens.len() {
        50_256 | 50_280 => (Pattern::Gpt2, named(&[(50_256, END)])),
        100_256 => (Pattern::Cl100k, named(&fim)),
        199_998 => (Pattern::O200k, named(&[(199_999, END), (200_018, "<|endofprompt|>")])),
        128_000 => {
            let (bos, eos) = ("<|begin_of_text|>".to_string(), "<|end_of_text|>".to_string());
            return Ok(Ranks { tokens, pattern: Pattern::Llama3 { digits: 3 }, special: llama3_special(), bos: Some(bos), eos: Some(eos) });
        }
        _ => return Err(tokens),
    };
    Ok(Ranks { tokens, pattern, special, bos: None, eos: Some(END.to_string()) })
}

/// The 256 control tokens of Llama 3.1 and later, from 128000 on; Llama 3.0 calls some of them reserved.
fn llama3_special() -> Vec<AddedToken> {
    let named = |i: u32| match i {
        0 => "<|begin_of_text|>",
        1 => "<|end_of_text|>",
        4 => "<|finetune_right_pad_id|>",
        6 => "<|start_header_id|>",
        7 => "<|end_header_id|>",
        8 => "<|eom_id|>",
        9 => "<|eot_id|>",
        10 => "<|python_tag|>",
        _ => "",
    };
    let mut reserved = 0..;
    let text = |i: u32| match named(i) {
        "" => format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or(0)),
        name => name.to_string(),
    };
    let texts: Vec<String> = (0..256).map(text).collect();
    (128_000..).zip(texts).map(|(id, text)| AddedToken::special(id, &text)).collect()
}

impl Ranks {
    /// Every way to make a token of two.
    fn rules(&self) -> Vec<Rule> {
        let ids: HashMap<&[u8], u32> = self.tokens.iter().map(|(bytes, id)| (bytes.as_slice(), *id)).collect();
        let ways = self.tokens.iter().flat_map(|(bytes, id)| (1..bytes.len()).map(move |cut| (bytes.split_at(cut), *id)));
        ways.filter_map(|((l, r), id)| Some(Rule { left: *ids.get(l)?, right: *ids.get(r)?, rank: id, joined: id })).collect()
    }

    /// The encoder; `path` is named in errors.
    pub fn encoder(&self, path: &Path) -> Result<Native> {
        let native = Native::new(self.pattern, false, &self.tokens, &self.rules(), true);
        native.ok_or_else(|| format(path, "some bytes have no token of their own, so not all text could be encoded"))
    }

    /// The `tokenizer.json`, as transformers converts it: merges in the order of ranks, ways to make one token by its parts.
    pub fn to_json(&self) -> Value {
        let text: HashMap<u32, String> = self.tokens.iter().map(|(bytes, id)| (*id, to_alphabet(bytes))).collect();
        let mut rules = self.rules();
        rules.sort_by_key(|r| (r.rank, r.left, r.right));
        let merges: Vec<Value> = rules.iter().map(|r| json!([text[&r.left], text[&r.right]])).collect();
        let vocab: Map<String, Value> = self.tokens.iter().map(|(_, id)| (text[id].clone(), (*id).into())).collect();
        super::byte_level_json(self.pattern, vocab, merges, &self.special, true, self.bos.as_deref())
    }
}

/// A rank file and what goes beside it, of a byte-level BPE. The error says why it cannot be one.
pub fn write(vocab: &[VocabEntry], rules: &[(u32, u32, u32)], pattern: Pattern, special: &[AddedToken]) -> Result<(Vec<u8>, Sidecar), String> {
    let mut last = None;
    for (rank, &(.., joined)) in rules.iter().enumerate() {
        if last.is_some_and(|last| joined < last) {
            return Err(format!(
                "merge {rank} makes id {joined}, lower than the one before: tiktoken joins by id, so ids have to follow the order of merges"
            ));
        }
        last = Some(joined);
    }
    let mut tokens: Vec<&VocabEntry> = vocab.iter().filter(|(_, id)| special.iter().all(|t| t.id != *id)).collect();
    tokens.sort_unstable_by_key(|(_, id)| *id);
    let mut file = Vec::new();
    for (bytes, id) in tokens {
        file.extend(format!("{} {id}\n", STANDARD.encode(bytes)).bytes());
    }
    let special_tokens = special.iter().map(|t| (t.content.clone(), t.id)).collect();
    Ok((file, Sidecar { pat_str: pattern.regex(), special_tokens, name: None, explicit_n_vocab: None }))
}
