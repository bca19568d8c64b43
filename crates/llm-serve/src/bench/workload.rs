//! What is asked: request bodies that differ from each other, so that a prefix cache helps only where it is meant to.
//!
//! Random prompts are token ids where the vocabulary is known, and ordinary words where it is not; their length in tokens
//! is then set by one question to the server. Which prompt comes at which place is a function of the seed.

use anyhow::{Context, Result, ensure};
use llm_run::Seed;
use serde_json::{Value, json};
use std::path::Path;

/// Short words that most vocabularies hold as one token each.
const WORDS: [&str; 48] = [
    "the", "time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family", "student", "group",
    "country", "problem", "hand", "part", "place", "case", "week", "company", "system", "question", "work", "number", "night", "point", "home",
    "water", "room", "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "side",
];

/// Where prompts come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Random ids of a vocabulary, control tokens left out.
    Ids(Vec<u32>),
    /// Random words, so many to a token.
    Words {
        /// Words for one token of the server's count.
        per_token: f64,
    },
    /// Conversations of a file, in turn.
    Messages(Vec<Value>),
}

/// Request bodies by number.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Name of the model; `None` leaves it out.
    pub model: Option<String>,
    /// Prompts.
    pub source: Source,
    /// Tokens of a random prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub output_tokens: usize,
    /// Share of a random prompt that all have in common.
    pub shared_prefix: f64,
    /// Same seed, same prompts.
    pub seed: u64,
}

impl Workload {
    /// The path that takes the bodies.
    pub fn path(&self) -> &'static str {
        if matches!(self.source, Source::Messages(_)) { "/v1/chat/completions" } else { "/v1/completions" }
    }

    /// The body of request `number`.
    pub fn body(&self, number: u64) -> Value {
        let shared = (self.prompt_tokens as f64 * self.shared_prefix).round() as usize;
        let (common, own) = (Seed(self.seed).stream("shared"), Seed(self.seed).stream("prompt").at(number));
        let parts = [(common, shared), (own, self.prompt_tokens - shared.min(self.prompt_tokens))];
        let mut body = json!({
            "stream": true, "stream_options": {"include_usage": true}, "temperature": 0, "max_tokens": self.output_tokens, "ignore_eos": true,
        });
        match &self.source {
            Source::Ids(ids) => {
                let draw = |(seed, count): (Seed, usize)| {
                    let mut rng = seed.rng();
                    (0..count).map(|_| ids[rng.below(ids.len())]).collect::<Vec<_>>()
                };
                body["prompt"] = json!(parts.map(draw).concat());
            }
            Source::Words { per_token } => {
                let draw = |(seed, count): (Seed, usize)| {
                    let mut rng = seed.rng();
                    (0..(count as f64 * per_token).round() as usize).map(|_| *rng.pick(&WORDS)).collect::<Vec<_>>()
                };
                body["prompt"] = json!(parts.map(draw).concat().join(" "));
            }
            Source::Messages(all) => {
                let row = &all[number as usize % all.len()];
                body["messages"] = row["messages"].clone();
                if let Some(limit) = row.get("max_tokens") {
                    body["max_tokens"] = limit.clone();
                }
            }
        }
        if let Some(model) = &self.model {
            body["model"] = json!(model);
        }
        body
    }
}

/// Lines of JSON, each `{"messages": [...]}`, with `max_tokens` if the answer's length is to be its own.
pub fn read_dataset(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}:{}", path.display(), index + 1);
        let row: Value = serde_json::from_str(line).with_context(place)?;
        ensure!(row["messages"].as_array().is_some_and(|m| !m.is_empty()), "{}: no list of messages under \"messages\"", place());
        rows.push(row);
    }
    ensure!(!rows.is_empty(), "{}: no conversations", path.display());
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(source: Source) -> Workload {
        Workload { model: Some("m".into()), source, prompt_tokens: 40, output_tokens: 8, shared_prefix: 0.25, seed: 3 }
    }

    #[test]
    fn prompts_share_their_beginning_and_nothing_else() {
        let w = workload(Source::Ids((5..4000).collect()));
        let ids = |n| w.body(n)["prompt"].as_array().unwrap().clone();
        let (a, b) = (ids(0), ids(1));
        assert_eq!((a.len(), b.len()), (40, 40));
        assert_eq!(a[..10], b[..10]);
        assert_ne!(a[10..], b[10..]);
        assert_eq!(ids(0), a);
        assert_eq!(w.body(0)["ignore_eos"], true);
        assert_eq!(w.path(), "/v1/completions");
    }

    #[test]
    fn words_are_counted_in_tokens() {
        let w = workload(Source::Words { per_token: 0.5 });
        assert_eq!(w.body(9)["prompt"].as_str().unwrap().split(' ').count(), 20);
    }

    #[test]
    fn a_dataset_is_read_in_turn_and_its_mistakes_are_located() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.jsonl");
        std::fs::write(
            &path,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"b\"}],\"max_tokens\":3}\n",
        )
        .unwrap();
        let w = workload(Source::Messages(read_dataset(&path).unwrap()));
        assert_eq!(w.path(), "/v1/chat/completions");
        let said = |n| w.body(n)["messages"][0]["content"].as_str().unwrap().to_string();
        assert_eq!([said(0), said(1), said(2)], ["a", "b", "a"]);
        assert_eq!((&w.body(0)["max_tokens"], &w.body(1)["max_tokens"]), (&json!(8), &json!(3)));
        std::fs::write(&path, "{\"messages\":[]}\n").unwrap();
        assert!(read_dataset(&path).unwrap_err().to_string().contains("c.jsonl:1"));
    }
}
