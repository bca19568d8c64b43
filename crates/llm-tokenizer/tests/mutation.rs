//! Tokenizer files of every kind, damaged: bytes flipped, cut, inserted, repeated, numbers and words exchanged. A file loads or is an error
//! that names it; a tokenizer that loads encodes and decodes anything. Nothing panics.
//!
//! The quick form runs with the tests; the long one is
//! `FUZZ_SECONDS=600 cargo test -p llm-tokenizer --test mutation -- --ignored --nocapture`. The input in work is kept in the system's
//! temporary folder (`llm-tokenizer-mutation.*`), so that a crash leaves its cause behind.
mod common;

use common::{fixtures, hard_texts};
use llm_run::{Rng, Seed};
use llm_tokenizer::{Format, Tokenizer};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

struct Target {
    /// A file of the kind, and its name, which tells some kinds apart.
    name: &'static str,
    bytes: Vec<u8>,
    /// What is put in: pieces that mean something in the format.
    words: &'static [&'static str],
}

const JSON: &[&str] = &[
    "null",
    "true",
    "-1",
    "4294967295",
    "1e308",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"type\":",
    "\"BPE\"",
    "\"Unigram\"",
    "\"WordPiece\"",
    "\"Sequence\"",
    "\"ByteLevel\"",
    "\"Metaspace\"",
    "\"Replace\"",
    "\"Regex\"",
    "\"(\"",
    "\"\\ud800\"",
    "\"<0x41>\"",
    "\"unk_id\":",
    "\"vocab\":",
    "\"merges\":",
    "\"Ġ\"",
];

fn targets() -> Vec<Target> {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    let tokenizers = fixtures().join("tokenizers");
    let model = tokenizers.join("sentencepiece_bpe/tokenizer.model");
    let pieces = Tokenizer::load(&model).unwrap();
    let byte_level = Tokenizer::load(tokenizers.join("bytelevel_gpt2")).unwrap();
    let written = |tokenizer: &Tokenizer, format: Format, name: &str| {
        let out = dir.path().join(name);
        tokenizer.save_as(format, &out).unwrap();
        bytes(&if format == Format::Hf { out.join("tokenizer.json") } else { out })
    };
    let json = |name: &str| bytes(&tokenizers.join(name).join("tokenizer.json"));
    vec![
        Target { name: "byte_level.json", bytes: json("bytelevel_llama3_split"), words: JSON },
        Target { name: "unigram.json", bytes: json("unigram_metaspace"), words: JSON },
        Target { name: "wordpiece.json", bytes: json("wordpiece_bert"), words: JSON },
        Target { name: "pieces.json", bytes: written(&pieces, Format::Hf, "hf"), words: JSON },
        Target { name: "bpe.model", bytes: bytes(&model), words: &["\x0a\x05", "\x18\x06", "\x12\u{0}", "▁", "<0x41>", "<0xZZ>"] },
        Target {
            name: "unigram.model",
            bytes: bytes(&tokenizers.join("sentencepiece_unigram/tokenizer.model")),
            words: &["\x15\x00\x00\u{0}", "▁", "\x18\x04", "\x18\x05"],
        },
        Target {
            name: "gpt2.gguf",
            bytes: written(&byte_level, Format::Gguf, "g.gguf"),
            words: &["tokenizer.ggml.pre", "llama", "gpt2", "bert", "t5", "gpt-4o", "\x09\0\0\0"],
        },
        Target {
            name: "llama.gguf",
            bytes: written(&pieces, Format::Gguf, "l.gguf"),
            words: &["tokenizer.ggml.scores", "llama", "t5", "bert", "gpt2", "\x08\0\0\0"],
        },
        Target {
            name: "tiny.tiktoken",
            bytes: bytes(&tokenizers.join("tiktoken_tiny/tiny.tiktoken")),
            words: &["IQ==", " 0\n", "-1", "99999999999", "\n\n", "="],
        },
    ]
}

fn mutate(bytes: &[u8], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let below = |rng: &mut Rng, n: usize| rng.below(n.max(1));
    for _ in 0..1 + below(rng, 4) / 2 {
        let at = below(rng, out.len());
        let length = 1 + below(rng, 12);
        let end = (at + length).min(out.len());
        match below(rng, 8) {
            0 if !out.is_empty() => out[at] ^= 1 << below(rng, 8),
            1 => out.truncate(at),
            2 => drop(out.splice(at..at, (0..length).map(|_| rng.below(256) as u8).collect::<Vec<_>>())),
            3 => drop(out.drain(at..end)),
            4 => {
                let piece = out[at..end].to_vec();
                drop(out.splice(at..at, piece.repeat(3)));
            }
            5 => drop(out.splice(at..end, words[below(rng, words.len())].bytes())),
            6 => {
                // Another number where one is.
                if let Some(from) = out[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) {
                    let to = out[from..].iter().position(|b| !b.is_ascii_digit()).map_or(out.len(), |i| from + i);
                    let number = [0, 1, 255, 256, 65_536, 4_294_967_295, u64::MAX][below(rng, 7)];
                    drop(out.splice(from..to, number.to_string().bytes()));
                }
            }
            // A whole value for a word, where the format is text.
            _ => {
                if let Some(from) = out[at..].iter().position(|&b| b == b':').map(|i| at + i + 1) {
                    let to = out[from..].iter().position(|b| b",}]\n".contains(b)).map_or(out.len(), |i| from + i);
                    drop(out.splice(from..to, words[below(rng, words.len())].bytes()));
                }
            }
        }
    }
    out
}

/// The same of a JSON document as a document: values replaced, removed, exchanged.
fn mutate_json(bytes: &[u8], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(bytes).unwrap();
    for _ in 0..1 + rng.below(3) {
        let mut at = &mut json;
        // Few steps, so that the pipeline is met as often as the vocabulary.
        for _ in 0..1 + rng.below(5) {
            let inner = match at {
                Value::Array(list) => list.len(),
                Value::Object(map) => map.len(),
                _ => 0,
            };
            if inner == 0 {
                break;
            }
            let which = rng.below(inner);
            at = match at {
                Value::Array(list) => &mut list[which],
                Value::Object(map) => map.iter_mut().nth(which).unwrap().1,
                _ => unreachable!(),
            };
        }
        let word = serde_json::from_str(words[rng.below(words.len())]).unwrap_or(Value::Null);
        match (rng.below(6), &mut *at) {
            (0, Value::Array(list)) => drop(list.pop()),
            (1, Value::Array(list)) => list.reverse(),
            (2, Value::Array(list)) => list.push(list.first().cloned().unwrap_or(word)),
            (0, Value::Object(map)) => {
                let key = map.keys().next().cloned().unwrap_or_default();
                map.remove(&key);
            }
            (_, Value::Number(_)) => *at = [0, 1, 7, 256, 70_000, u32::MAX as u64, u64::MAX][rng.below(7)].into(),
            (_, Value::Bool(flag)) => *flag = !*flag,
            (0..3, Value::String(text)) => text.push_str(["a", " ", "▁", "(", "[", "\u{0}", "é"][rng.below(7)]),
            _ => *at = word,
        }
    }
    json.to_string().into_bytes()
}

fn run(time: Duration, least: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut texts = hard_texts();
    texts.retain(|t| t.len() < 400);
    texts.push("é".repeat(90) + "<s></s><unk>" + &"a".repeat(80));
    let (start, mut round, mut loaded) = (Instant::now(), 0, 0);
    let targets = targets();
    while round < least || start.elapsed() < time {
        for target in &targets {
            let mut rng = Seed(7).stream("mutation").at(round as u64).rng();
            let structural = target.name.ends_with("json") && rng.chance(0.8);
            let bytes = if structural { mutate_json(&target.bytes, target.words, &mut rng) } else { mutate(&target.bytes, target.words, &mut rng) };
            std::fs::write(std::env::temp_dir().join(format!("llm-tokenizer-mutation.{}", target.name)), &bytes).unwrap();
            let file = dir.path().join(target.name);
            std::fs::write(&file, &bytes).unwrap();
            if target.name.ends_with("tiktoken") {
                let beside = serde_json::json!({"pat_str": llm_tokenizer::pretokenize::LLAMA3_REGEX, "special_tokens": {"<|endoftext|>": 457}});
                std::fs::write(file.with_extension("json"), beside.to_string()).unwrap();
            }
            match Tokenizer::load(&file) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(target.name.split('.').next().unwrap()), "names no file: {error}");
                }
                Ok(tokenizer) => {
                    loaded += 1;
                    for text in &texts {
                        let ids = tokenizer.encode(text);
                        tokenizer.encode_with_special(text);
                        tokenizer.decode(&ids, round % 2 == 0);
                    }
                    tokenizer.decode(&[0, 1, 5, 300, 1 << 20, u32::MAX], false);
                    for format in [Format::Sentencepiece, Format::Gguf, Format::Tiktoken, Format::Hf] {
                        tokenizer.save_as(format, dir.path().join(format!("out-{format:?}"))).ok();
                    }
                }
            }
        }
        round += 1;
    }
    println!("{round} rounds of {} files, {loaded} loaded", targets.len());
    assert!(loaded > round, "damage is so heavy that nothing is ever used");
}

#[test]
fn damaged_files() {
    run(Duration::from_secs(3), 10);
}

#[test]
#[ignore = "runs for FUZZ_SECONDS (60)"]
fn damaged_files_for_long() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    run(Duration::from_secs(seconds), 100);
}
