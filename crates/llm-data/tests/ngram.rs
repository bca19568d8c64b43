//! n-gram models: the estimate is Kneser-Ney by the book, files are KenLM's, damaged files are errors.

use llm_data::ngram::{Model, TrainConfig, Unit, Units, estimate, train};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/ngram"))
}

const TEXT: &str = "the cat sat on the mat\nthe dog sat on the log\nthe cat saw the dog\na dog saw a cat on a mat\nthe mat\nthe cat sat\n\
                    on the log the cat sat\na cat and a dog sat on the mat and the log\nno cat sat\nthe cat sat on the mat";

fn sentences() -> Vec<Vec<&'static str>> {
    TEXT.lines().map(|l| l.split_whitespace().collect()).collect()
}

/// Kneser-Ney written down from the definition, with sets and maps.
struct ByTheBook {
    order: usize,
    counts: Vec<BTreeMap<Vec<String>, f64>>,
    discounts: Vec<[f64; 3]>,
    vocabulary: f64,
}

impl ByTheBook {
    fn new(sentences: &[Vec<&str>], order: usize, discounts: Vec<[f64; 3]>) -> Self {
        let padded: Vec<Vec<String>> = sentences.iter().map(|s| ["<s>"].iter().chain(s).chain(&["</s>"]).map(|w| w.to_string()).collect()).collect();
        let counts = (1..=order)
            .map(|n| {
                let mut counts: BTreeMap<Vec<String>, f64> = BTreeMap::new();
                let mut lefts: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
                for s in &padded {
                    for (i, gram) in s.windows(n).enumerate() {
                        if n == 1 && gram[0] == "<s>" {
                            continue;
                        }
                        if n == order || gram[0] == "<s>" {
                            *counts.entry(gram.to_vec()).or_default() += 1.0;
                        } else if i > 0 {
                            lefts.entry(gram.to_vec()).or_default().insert(s[i - 1].clone());
                        }
                    }
                }
                counts.extend(lefts.into_iter().map(|(gram, set)| (gram, set.len() as f64)));
                counts
            })
            .collect();
        let words: BTreeSet<&String> = padded.iter().flatten().filter(|w| *w != "<s>").collect();
        Self { order, counts, discounts, vocabulary: words.len() as f64 + 1.0 }
    }

    fn probability(&self, context: &[String], word: &str) -> f64 {
        let n = context.len() + 1;
        let d = |c: f64| if c == 0.0 { 0.0 } else { self.discounts[n - 1][(c as usize).min(3) - 1] };
        let followers: Vec<f64> = self.counts[n - 1].iter().filter(|(g, _)| g[..n - 1] == *context).map(|(_, c)| *c).collect();
        let lower = || if n == 1 { 1.0 / self.vocabulary } else { self.probability(&context[1..], word) };
        let total: f64 = followers.iter().sum();
        if total == 0.0 {
            return lower();
        }
        let gram: Vec<String> = context.iter().cloned().chain([word.to_string()]).collect();
        let own = self.counts[n - 1].get(&gram).map_or(0.0, |c| c - d(*c));
        (own + followers.iter().map(|c| d(*c)).sum::<f64>() * lower()) / total
    }

    fn log10(&self, sentence: &[&str]) -> f64 {
        let words: Vec<String> = ["<s>"].iter().chain(sentence).chain(&["</s>"]).map(|w| w.to_string()).collect();
        (1..words.len()).map(|i| self.probability(&words[i.saturating_sub(self.order - 1)..i], &words[i]).log10()).sum()
    }
}

fn model_of(order: usize) -> (llm_data::ngram::Estimate, Model) {
    let sentences = sentences();
    let estimate = estimate(sentences.iter().map(|s| s.iter().map(|w| w.as_bytes())), &TrainConfig { order, ..TrainConfig::default() }).unwrap();
    let model = estimate.model().unwrap();
    (estimate, model)
}

const QUESTIONS: &[&str] =
    &["the cat sat on the mat", "a mat saw the cat", "dog", "", "the zebra sat on the zebra mat", "on on on on", "the cat sat on a log and the dog"];

#[test]
fn the_estimate_is_kneser_ney() {
    for order in 2..=5 {
        let (estimate, model) = model_of(order);
        let book = ByTheBook::new(&sentences(), order, estimate.discounts.clone());
        for question in QUESTIONS {
            let words: Vec<&str> = question.split_whitespace().collect();
            let ours = model.score(words.iter().map(|w| w.as_bytes())).log10;
            // The unknown word has no count in the book either.
            let theirs = book.log10(&words);
            assert!((ours - theirs).abs() < 1e-4, "order {order}, {question}: {ours} {theirs}");
        }
    }
}

#[test]
fn probabilities_sum_to_one() {
    let (_, model) = model_of(4);
    let words: BTreeSet<&str> = TEXT.split_whitespace().collect();
    for context in ["", "the", "the cat", "the cat sat", "on a", "zebra the"] {
        let context: Vec<&str> = context.split_whitespace().collect();
        let score = |next: Option<&str>| {
            // P(context next …) / P(context …) leaves the last step.
            let line: Vec<&[u8]> = context.iter().copied().chain(next).map(str::as_bytes).collect();
            model.prefix_log10(line.into_iter())
        };
        let base = score(None);
        let sum: f64 = words.iter().map(|w| 10f64.powf(score(Some(w)) - base)).sum::<f64>()
            + 10f64.powf(score(Some("never-seen")) - base)
            + 10f64.powf(model.score(context.iter().map(|w| w.as_bytes())).log10 - base);
        assert!((sum - 1.0).abs() < 1e-4, "{context:?}: {sum}");
    }
}

#[test]
fn files_are_read_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    for order in [2, 3, 5] {
        let (estimate, model) = model_of(order);
        let (arpa, binary) = (dir.path().join("m.arpa"), dir.path().join("m.kenlm"));
        estimate.save_arpa(&arpa).unwrap();
        model.save_kenlm(&binary).unwrap();
        for path in [&arpa, &binary] {
            let again = Model::open(path).unwrap();
            assert_eq!(again.counts(), model.counts());
            for question in QUESTIONS {
                let words = || question.split_whitespace().map(str::as_bytes);
                let (a, b) = (again.score(words()), model.score(words()));
                assert!((a.log10 - b.log10).abs() < 1e-5 && a.unknown == b.unknown, "{}: {question}: {a:?} {b:?}", path.display());
            }
        }
        Model::open(&arpa).unwrap().save_kenlm(&dir.path().join("again.kenlm")).unwrap();
        let again = std::fs::read(dir.path().join("again.kenlm")).unwrap();
        assert_eq!(again.len(), std::fs::read(&binary).unwrap().len());
    }
}

#[test]
fn pruned_models_still_sum_and_load() {
    let sentences = sentences();
    let config = TrainConfig { order: 4, prune_singletons: true, ..TrainConfig::default() };
    let estimate = estimate(sentences.iter().map(|s| s.iter().map(|w| w.as_bytes())), &config).unwrap();
    let (_, full) = model_of(4);
    let model = estimate.model().unwrap();
    assert!(model.counts()[3] < full.counts()[3] && model.counts()[1] == full.counts()[1]);
    let sum: f64 = TEXT
        .split_whitespace()
        .chain(["never-seen"])
        .collect::<BTreeSet<_>>()
        .iter()
        .map(|w| {
            10f64.powf(
                model.prefix_log10(["the", "cat", w].iter().map(|w| w.as_bytes())) - model.prefix_log10(["the", "cat"].iter().map(|w| w.as_bytes())),
            )
        })
        .sum::<f64>()
        + 10f64
            .powf(model.score(["the", "cat"].iter().map(|w| w.as_bytes())).log10 - model.prefix_log10(["the", "cat"].iter().map(|w| w.as_bytes())));
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
}

#[derive(serde::Deserialize)]
struct Expected {
    text: String,
    log10: f64,
}

/// Models of ours scored by the KenLM library, from our ARPA and from its own binary of it.
#[test]
fn scores_are_kenlms() {
    let expected: Vec<Expected> = serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    assert!(expected.len() >= 40);
    for name in ["alice.arpa", "alice.kenlm"] {
        let model = Model::open(&fixtures().join(name)).unwrap();
        for e in &expected {
            let ours = model.score(e.text.split_ascii_whitespace().map(str::as_bytes)).log10;
            assert!((ours - e.log10).abs() < 1e-4, "{name}: {:?}: {ours} {}", e.text, e.log10);
        }
    }
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let error = |bytes: &[u8]| {
        let path = dir.path().join("m.arpa");
        std::fs::write(&path, bytes).unwrap();
        Model::open(&path).unwrap_err().to_string()
    };
    assert!(error(b"").contains("truncated"));
    assert!(error(b"hello\n").contains("line 1") && error(b"hello\n").contains("\\data\\"));
    assert!(error(b"\\data\\\nngram 1=99999999\nngram 2=5\n\n\\1-grams:\n").contains("do not fit"));
    assert!(error(b"\\data\\\nngram 1=1\nngram 2=1\n\n\\1-grams:\nx\ty\n\n").contains("line 6"));
    let binary = std::fs::read(fixtures().join("alice.kenlm")).unwrap();
    assert!(error(&binary[..binary.len() / 2]).contains("truncated"));
    let mut trie = binary.clone();
    trie[96] = 2;
    assert!(error(&trie).contains("trie"), "{}", error(&trie));
}

#[test]
fn characters_and_normalised_words_are_tokens_too() {
    let text = "Der Café kostet 12 Euro!\nWirklich, 35 Euro?";
    let tokens = |units: &Units| {
        let mut all = Vec::new();
        units.lines(None, text, |line| all.push(line.join(" ")));
        all
    };
    let words = Units { normalise: true, ..Units::default() };
    assert_eq!(tokens(&words), ["der cafe kostet 00 euro !", "wirklich , 00 euro ?"]);
    assert_eq!(tokens(&Units { unit: Unit::Characters, ..Units::default() })[1], "W i r k l i c h , ▁ 3 5 ▁ E u r o ?");
    let estimate =
        train(&[text, text], &Units { unit: Unit::Characters, ..Units::default() }, &TrainConfig { order: 3, ..TrainConfig::default() }).unwrap();
    assert!(estimate.tokens > 60);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_files_do_not_panic(binary in any::<bool>(), head in any::<bool>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12)) {
        let mut bytes = std::fs::read(fixtures().join(if binary { "alice.kenlm" } else { "alice.arpa" })).unwrap();
        for (at, value, kind) in edits {
            let at = at.index(if head { 160 } else { bytes.len() });
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.truncate(at.max(160)),
                _ => bytes.insert(at, value),
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(model) = Model::open(&path) {
            let _ = model.score(["alice", "was", "so", "zebra"].iter().map(|w| w.as_bytes()));
        }
    }
}
