//! A learned quality score: hashed n-gram logistic regression, trained in the run, on the run's own documents.
//!
//! Web-scale pipelines train such a classifier on reference text against raw crawl (Brown et al., 2020, appendix A; Li et
//! al., DCLM, 2024). A small corpus has no crawl to learn from, so the negatives are made: each reference document is
//! also damaged in one of five ways (see [`crate::corrupt`]). The model learns what running text looks like as opposed to
//! menus, lists, repetition and noise; it is no judge of truth or style.
//!
//! Everything is a function of the documents and the seed: training is sequential, features are hashed with fixed keys.

use crate::corrupt::corrupt;
use crate::document::Document;
use crate::error::{Error, Result};
use llm_run::{Seed, atomic};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Number of hashed features.
const BUCKETS: usize = 1 << 15;
/// Characters of one window; long documents are scored by the mean of several.
const WINDOW: usize = 3_000;
const MAX_WINDOWS: usize = 3;

/// Settings of the score.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QualityConfig {
    /// Score and filter at all.
    pub enabled: bool,
    /// Documents below are dropped.
    pub threshold: f32,
    /// Reference documents used for training.
    pub max_references: usize,
    /// Fewer reference documents than this: no model, no filtering.
    pub min_references: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// Step size.
    pub learning_rate: f64,
    /// L2 penalty per step.
    pub l2: f64,
}

impl Default for QualityConfig {
    fn default() -> Self {
        Self { enabled: true, threshold: 0.3, max_references: 2_000, min_references: 20, epochs: 6, learning_rate: 0.5, l2: 1e-6 }
    }
}

/// The trained model, as saved in `quality.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityModel {
    /// Size of the hashed feature space.
    pub buckets: usize,
    /// Intercept.
    pub bias: f32,
    /// `[bucket, weight]` of the non-zero weights.
    pub weights: Vec<(u32, f32)>,
    /// How it did on documents it was not trained on.
    pub evaluation: Evaluation,
    #[serde(skip)]
    dense: Vec<f32>,
}

/// Quality of the classifier on the fifth of the references that training did not see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Windows of reference documents in training.
    pub training_windows: usize,
    /// Windows of held-out reference documents.
    pub test_windows: usize,
    /// Share of held-out references at or above 0.5.
    pub references_kept: f64,
    /// Share of held-out damaged texts below 0.5, per kind of damage.
    pub damaged_dropped: std::collections::BTreeMap<String, f64>,
}

/// Indices of the features of one window; a bucket may occur more than once.
fn features(text: &str) -> Vec<u32> {
    let mut out = Vec::with_capacity(1024);
    let mut push = |kind: u64, hash: u64| out.push((mix(hash ^ kind.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 49) as u32);
    let (mut previous, mut before) = (0u64, 0u64);
    let (mut lines, mut short, mut ended, mut words) = (0usize, 0usize, 0usize, 0usize);
    let mut seen = std::collections::HashSet::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        lines += 1;
        let mut in_line = 0;
        for word in line.split_whitespace() {
            let hash = hash_word(word);
            push(1, hash);
            push(2, hash ^ previous.rotate_left(17));
            push(3, hash ^ before.rotate_left(31));
            seen.insert(hash);
            (before, previous) = (previous, hash);
            in_line += 1;
        }
        words += in_line;
        short += usize::from(in_line <= 3);
        ended += usize::from(line.ends_with(['.', '!', '?', ':', '"', '”', '»', ';']));
    }
    // The shape of the text, in tenths; repeated so that it weighs as much as a few dozen words.
    let tenths = |a: usize, b: usize| (10 * a / b.max(1)).min(10) as u64;
    for _ in 0..12 {
        push(10, tenths(short, lines));
        push(11, tenths(ended, lines));
        push(12, tenths(seen.len(), words));
        push(13, ((words / lines.max(1)).min(40) / 4) as u64);
    }
    out
}

fn hash_word(word: &str) -> u64 {
    let trimmed = word.trim_matches(|c: char| !c.is_alphanumeric());
    if trimmed.is_empty() {
        // Punctuation is kept as it is: it tells menus and noise from prose.
        return word.bytes().fold(0x1234_5678_9ABC_DEF1, step);
    }
    trimmed.chars().flat_map(char::to_lowercase).fold(0xCBF2_9CE4_8422_2325, |h, c| (h ^ u64::from(u32::from(c))).wrapping_mul(0x0000_0100_0000_01B3))
}

fn step(h: u64, b: u8) -> u64 {
    (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Up to `MAX_WINDOWS` evenly spaced windows, cut at characters.
pub(crate) fn windows(text: &str) -> Vec<&str> {
    let count = text.len().div_ceil(WINDOW).clamp(1, MAX_WINDOWS);
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let last = text.len().saturating_sub(WINDOW);
    (0..count).map(|i| if count == 1 { 0 } else { last * i / (count - 1) }).map(|start| &text[floor(start)..floor(start + WINDOW)]).collect()
}

/// Documents that serve as references: `docs` and `readme`; a language that has fewer than `min` of those contributes its
/// documents of every domain but code, so that no language is judged by another one's words.
pub fn is_reference(document: &Document, scarce: &std::collections::BTreeSet<String>) -> bool {
    let curated = matches!(document.domain.as_str(), "docs" | "readme");
    !document.is_code() && (curated || document.lang.as_ref().is_some_and(|l| scarce.contains(l)))
}

impl QualityModel {
    /// Train on reference texts `(id, text)`. `None` when there are fewer than `min_references`.
    pub fn train(references: &[(String, String)], config: &QualityConfig, seed: u64) -> Option<Self> {
        if references.len() < config.min_references.max(1) {
            return None;
        }
        let seed = Seed(seed).stream("quality");
        let is_test = |id: &str| seed.stream("test").stream(id).0.is_multiple_of(5);
        let examples: Vec<(bool, Vec<u32>, bool, usize)> = references
            .par_iter()
            .flat_map_iter(|(id, text)| {
                let own = seed.stream("damage").stream(id);
                let test = is_test(id);
                let pairs = windows(text).into_iter().enumerate().map(move |(i, window)| (window, corrupt(window, own.at(i as u64))));
                pairs.flat_map(move |(window, (damaged, kind))| [(true, features(window), test, 0), (false, features(&damaged), test, kind)])
            })
            .collect();
        let mut model = Self { buckets: BUCKETS, bias: 0.0, weights: Vec::new(), evaluation: Evaluation::default(), dense: Vec::new() };
        model.fit(&examples, config, seed);
        model.evaluation = model.evaluate(&examples);
        Some(model)
    }

    /// Plain stochastic gradient descent with a step that falls linearly to zero.
    fn fit(&mut self, examples: &[(bool, Vec<u32>, bool, usize)], config: &QualityConfig, seed: Seed) {
        let mut order: Vec<usize> = (0..examples.len()).filter(|&i| !examples[i].2).collect();
        let mut weights = vec![0f64; BUCKETS];
        let mut bias = 0f64;
        let total = (config.epochs * order.len()).max(1) as f64;
        let mut done = 0f64;
        for epoch in 0..config.epochs {
            seed.stream("order").at(epoch as u64).rng().shuffle(&mut order);
            for &i in &order {
                let (label, indices, _, _) = &examples[i];
                let rate = config.learning_rate * (1.0 - done / total);
                done += 1.0;
                // Every window has length 1 whatever its number of words.
                let scale = 1.0 / (indices.len().max(1) as f64).sqrt();
                let z = bias + indices.iter().map(|&f| weights[f as usize]).sum::<f64>() * scale;
                let error = f64::from(u8::from(*label)) - sigmoid(z);
                bias += 0.1 * rate * error;
                for &f in indices {
                    let w = &mut weights[f as usize];
                    *w += rate * (error * scale - config.l2 * *w);
                }
            }
        }
        let rounded = |w: f64| (w * 1e4).round() as f32 / 1e4;
        self.bias = rounded(bias);
        self.weights = weights.iter().enumerate().map(|(i, &w)| (i as u32, rounded(w))).filter(|(_, w)| *w != 0.0).collect();
        self.expand();
    }

    fn expand(&mut self) {
        self.dense = vec![0.0; self.buckets];
        for &(bucket, weight) in &self.weights {
            if let Some(slot) = self.dense.get_mut(bucket as usize) {
                *slot = weight;
            }
        }
    }

    fn evaluate(&self, examples: &[(bool, Vec<u32>, bool, usize)]) -> Evaluation {
        let mut evaluation = Evaluation { training_windows: examples.iter().filter(|e| e.0 && !e.2).count(), ..Default::default() };
        let mut kept = 0usize;
        let mut damaged: std::collections::BTreeMap<String, (usize, usize)> = Default::default();
        for (label, indices, _, kind) in examples.iter().filter(|e| e.2) {
            let score = self.probability(indices);
            if *label {
                evaluation.test_windows += 1;
                kept += usize::from(score >= 0.5);
            } else {
                let entry = damaged.entry(crate::corrupt::KINDS[*kind].to_string()).or_default();
                entry.0 += usize::from(score < 0.5);
                entry.1 += 1;
            }
        }
        let share = |a: usize, b: usize| (a as f64 / b.max(1) as f64 * 1e4).round() / 1e4;
        evaluation.references_kept = share(kept, evaluation.test_windows);
        evaluation.damaged_dropped = damaged.into_iter().map(|(k, (a, b))| (k, share(a, b))).collect();
        evaluation
    }

    fn probability(&self, indices: &[u32]) -> f32 {
        let sum: f64 = indices.iter().map(|&f| f64::from(self.dense[f as usize])).sum();
        sigmoid(f64::from(self.bias) + sum / (indices.len().max(1) as f64).sqrt()) as f32
    }

    /// 0 (noise) to 1 (running text): the mean over the document's windows.
    pub fn score(&self, text: &str) -> f32 {
        let all = windows(text);
        all.iter().map(|w| self.probability(&features(w))).sum::<f32>() / all.len() as f32
    }

    /// Write `quality.json`.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(atomic::write(path, serde_json::to_string(self).unwrap_or_default())?)
    }

    /// Read `quality.json`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(crate::error::io(path, "cannot read"))?;
        let mut model: Self = serde_json::from_str(&text)
            .map_err(|e| Error::Format { path: path.to_path_buf(), message: format!("not a quality model ({e}); run `llm-data filter` again") })?;
        if model.buckets != BUCKETS {
            return Err(Error::Format {
                path: path.to_path_buf(),
                message: format!("has {} buckets, expected {BUCKETS}; run `llm-data filter` again", model.buckets),
            });
        }
        model.expand();
        Ok(model)
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sentences from a small grammar: enough to learn word order.
    fn prose(n: u64) -> String {
        let mut rng = Seed(n).stream("prose").rng();
        let subjects = ["The compiler", "A borrowed value", "Every thread", "The iterator", "This function"];
        let verbs = ["checks", "returns", "does not change", "takes ownership of", "waits for"];
        let objects =
            ["the reference before it is used", "a value of the same type", "its argument when the scope ends", "the next element of the list"];
        (0..40).map(|_| format!("{} {} {}. ", rng.pick(&subjects), rng.pick(&verbs), rng.pick(&objects))).collect()
    }

    fn references(n: u64) -> Vec<(String, String)> {
        (0..n).map(|i| (format!("d{i}"), prose(i))).collect()
    }

    #[test]
    fn it_learns_prose_from_damage() {
        let model = QualityModel::train(&references(300), &QualityConfig::default(), 1).unwrap();
        assert!(model.evaluation.references_kept > 0.95, "{:?}", model.evaluation);
        // This grammar repeats itself, so "repeated fragments" is the one kind that looks like it.
        let hard = |kind: &str| kind != "repeated fragments";
        assert!(model.evaluation.damaged_dropped.iter().all(|(kind, share)| !hard(kind) || *share > 0.9), "{:?}", model.evaluation);
        let unseen = prose(10_000);
        let menu = "Home\nProducts\nAbout us\nContact\nLogin\nImprint\n".repeat(20);
        assert!(model.score(&unseen) > 0.8 && model.score(&menu) < 0.2, "{} {}", model.score(&unseen), model.score(&menu));
    }

    #[test]
    fn training_is_a_function_of_documents_and_seed() {
        let documents = references(60);
        let a = QualityModel::train(&documents, &QualityConfig::default(), 1).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(a, one.install(|| QualityModel::train(&documents, &QualityConfig::default(), 1)).unwrap());
        assert_ne!(a.weights, QualityModel::train(&documents, &QualityConfig::default(), 2).unwrap().weights);
        let dir = tempfile::tempdir().unwrap();
        a.save(&dir.path().join("quality.json")).unwrap();
        assert_eq!(QualityModel::load(&dir.path().join("quality.json")).unwrap().score(&prose(3)), a.score(&prose(3)));
    }

    #[test]
    fn too_few_references_mean_no_model() {
        assert_eq!(QualityModel::train(&references(5), &QualityConfig::default(), 1), None);
    }

    #[test]
    fn a_damaged_model_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quality.json");
        std::fs::write(&path, "{\"buckets\": 12").unwrap();
        assert!(QualityModel::load(&path).unwrap_err().to_string().contains("quality.json"));
    }

    proptest! {
        #[test]
        fn windows_cover_the_start_and_the_end(text in "[a-zäö \n]{0,9000}") {
            let all = windows(&text);
            prop_assert!(text.starts_with(all[0]) && text.ends_with(all[all.len() - 1]));
            prop_assert!(features(&text).iter().all(|f| (*f as usize) < BUCKETS));
        }
    }
}
