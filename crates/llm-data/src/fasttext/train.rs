//! Training: stochastic gradient descent on a linear model with a shared hidden layer, as fastText does it.
//!
//! The reference lets threads write into each other's weights, so that no two runs agree. Here a batch of [`BATCH`] examples is
//! answered with the same weights, in parallel; then every row gets its updates in the order of the examples, rows in parallel. The
//! result is a function of examples, settings and seed, whatever the number of threads. Shapes: D hidden, L labels.

use super::dictionary::{Dictionary, EOS, Entry};
use super::matrix::{Dense, Matrix};
use super::output::softmax;
use super::{Args, LABEL_PREFIX, Loss, Model};
use crate::error::{Error, Result, check_interrupt};
use llm_run::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Examples answered with the same weights.
pub const BATCH: usize = 32;
/// Parts of the input matrix that are updated in parallel.
const SHARDS: usize = 64;

/// Settings of training; names are the reference's where it has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Size of the hidden layer.
    pub dim: usize,
    /// Step size; falls linearly to zero.
    pub lr: f32,
    /// Passes over the examples.
    pub epoch: usize,
    /// Words seen less often have no row of their own.
    pub min_count: i64,
    /// Longest n-gram of words.
    pub word_ngrams: usize,
    /// Shortest n-gram of characters.
    pub minn: usize,
    /// Longest n-gram of characters; 0: none.
    pub maxn: usize,
    /// Rows for hashed n-grams.
    pub bucket: usize,
    /// `softmax`, or `ova` for labels that do not exclude each other.
    pub loss: Loss,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self { dim: 16, lr: 0.5, epoch: 5, min_count: 2, word_ngrams: 2, minn: 0, maxn: 0, bucket: 200_000, loss: Loss::Softmax }
    }
}

/// A text and its label (without prefix).
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// One word.
    pub label: String,
    /// The text.
    pub text: String,
}

impl TrainConfig {
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(format!("classifier: {what}")));
        if self.dim == 0 || self.dim > 4096 {
            return wrong(format!("dim is {}, expected 1 to 4096", self.dim));
        }
        if !(self.lr > 0.0 && self.lr <= 100.0) {
            return wrong(format!("lr is {}, expected above 0, at most 100", self.lr));
        }
        if self.word_ngrams == 0 || self.word_ngrams > 16 || self.maxn > 16 || (self.maxn > 0 && (self.minn == 0 || self.minn > self.maxn)) {
            return wrong(format!(
                "word_ngrams {}, minn {}, maxn {}: expected word_ngrams 1 to 16, and 1 <= minn <= maxn <= 16 or maxn = 0",
                self.word_ngrams, self.minn, self.maxn
            ));
        }
        if self.bucket > i32::MAX as usize / 2 {
            return wrong(format!("bucket is {}, expected at most {}", self.bucket, i32::MAX / 2));
        }
        if !matches!(self.loss, Loss::Softmax | Loss::Ova) {
            return wrong(format!("loss {:?} can be read but not trained; set loss to softmax or ova", self.loss));
        }
        Ok(())
    }

    fn args(&self) -> Args {
        let uses_buckets = self.word_ngrams > 1 || self.maxn > 0;
        Args {
            dim: self.dim as i32,
            ws: 5,
            epoch: self.epoch as i32,
            min_count: self.min_count as i32,
            neg: 5,
            word_ngrams: self.word_ngrams as i32,
            loss: self.loss,
            model: 3,
            bucket: if uses_buckets { self.bucket as i32 } else { 0 },
            minn: self.minn as i32,
            maxn: self.maxn as i32,
            lr_update_rate: 100,
            t: 1e-4,
        }
    }
}

fn dictionary(examples: &[Example], config: &TrainConfig, args: &Args) -> Result<Dictionary> {
    let count = |part: &[Example]| {
        let mut words: HashMap<Box<[u8]>, i64> = HashMap::new();
        for example in part {
            // The reference separates words at ASCII white space and keeps labels out of the text.
            for word in example.text.split([' ', '\n', '\r', '\t', '\u{b}', '\u{c}', '\0']) {
                if !word.is_empty() && !word.starts_with(LABEL_PREFIX) {
                    match words.get_mut(word.as_bytes()) {
                        Some(n) => *n += 1,
                        None => drop(words.insert(word.as_bytes().into(), 1)),
                    }
                }
            }
        }
        words
    };
    let mut words = examples.par_chunks(1024).map(count).reduce(HashMap::new, |mut a, mut b| {
        if a.len() < b.len() {
            std::mem::swap(&mut a, &mut b);
        }
        b.into_iter().for_each(|(word, n)| *a.entry(word).or_default() += n);
        a
    });
    let tokens = words.values().sum::<i64>() + examples.len() as i64;
    *words.entry(EOS.into()).or_default() += examples.len() as i64;
    words.retain(|word, n| *n >= config.min_count || **word == *EOS);
    let mut labels: HashMap<Box<[u8]>, i64> = HashMap::new();
    for example in examples {
        let name = format!("{LABEL_PREFIX}{}", example.label);
        if example.label.is_empty() || example.label.contains(|c: char| c.is_ascii_whitespace() || c == '\0') {
            return Err(Error::Config(format!("label `{}` must be one word without white space", example.label)));
        }
        *labels.entry(name.into_bytes().into()).or_default() += 1;
    }
    if labels.len() < 2 {
        return Err(Error::Empty(format!("{} label(s) among {} examples: a classifier needs two at least", labels.len(), examples.len())));
    }
    let sorted = |all: HashMap<Box<[u8]>, i64>, is_label| {
        let mut all: Vec<Entry> = all.into_iter().map(|(word, count)| Entry { word, count, is_label }).collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.word.cmp(&b.word)));
        all
    };
    let mut entries = sorted(words, false);
    entries.extend(sorted(labels, true));
    Dictionary::new(entries, tokens, None, args).map_err(Error::Config)
}

/// What one example asks to change.
struct Update {
    rows: Vec<u32>,
    hidden_d: Vec<f32>,
    /// `lr * (target - probability)` of each label.
    errors_l: Vec<f32>,
    /// What every row of the example gets.
    step_d: Vec<f32>,
}

/// Train on `examples`.
pub fn train(examples: &[Example], config: &TrainConfig, seed: u64) -> Result<Model> {
    config.check()?;
    let args = config.args();
    let dictionary = dictionary(examples, config, &args)?;
    let (rows, labels, dim) = (dictionary.words() + args.bucket as usize, dictionary.labels(), config.dim);
    let seed = Seed(seed).stream("classifier");
    let mut input = vec![0f32; rows * dim];
    let start = seed.stream("input");
    input.par_chunks_mut(dim).enumerate().for_each(|(row, weights)| {
        let mut rng = start.at(row as u64).rng();
        weights.iter_mut().for_each(|w| *w = ((2.0 * rng.uniform() - 1.0) / dim as f64) as f32);
    });
    let mut output = vec![0f32; labels * dim];
    let index: HashMap<String, usize> =
        (0..labels).map(|i| (String::from_utf8_lossy(&dictionary.label(i)[LABEL_PREFIX.len()..]).into_owned(), i)).collect();
    let targets: Vec<usize> = examples.iter().map(|e| index.get(&e.label).copied().unwrap_or(0)).collect();

    let mut order: Vec<usize> = (0..examples.len()).collect();
    let total = (config.epoch * examples.len()).max(1) as f32;
    let mut done = 0usize;
    for epoch in 0..config.epoch {
        seed.stream("order").at(epoch as u64).rng().shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            check_interrupt()?;
            let lr = config.lr * (1.0 - done as f32 / total);
            done += batch.len();
            let updates: Vec<Update> = batch
                .par_iter()
                .map(|&i| {
                    let mut rows = Vec::new();
                    dictionary.features(examples[i].text.as_bytes(), &args, &mut rows);
                    update(rows, targets[i], &input, &output, config, lr)
                })
                .collect();
            apply(&updates, &mut input, &mut output, dim);
        }
    }
    let matrix = |data, rows| Matrix::Dense(Dense { rows, columns: dim, data });
    Model::new(args, dictionary, matrix(input, rows), matrix(output, labels), false).map_err(Error::Config)
}

fn update(rows: Vec<u32>, target: usize, input: &[f32], output: &[f32], config: &TrainConfig, lr: f32) -> Update {
    let dim = config.dim;
    let scale = 1.0 / rows.len().max(1) as f32;
    let mut hidden_d = vec![0f32; dim];
    for &row in &rows {
        hidden_d.iter_mut().zip(&input[row as usize * dim..][..dim]).for_each(|(h, w)| *h += w);
    }
    hidden_d.iter_mut().for_each(|h| *h *= scale);
    let scores: Vec<f32> = output.chunks_exact(dim).map(|w_d| w_d.iter().zip(&hidden_d).map(|(w, h)| w * h).sum()).collect();
    let mut errors_l = match config.loss {
        Loss::Softmax => softmax(scores),
        _ => scores.into_iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
    };
    for (label, e) in errors_l.iter_mut().enumerate() {
        *e = lr * (f32::from(u8::from(label == target)) - *e);
    }
    let mut step_d = vec![0f32; dim];
    for (w_d, e) in output.chunks_exact(dim).zip(&errors_l) {
        step_d.iter_mut().zip(w_d).for_each(|(s, w)| *s += e * w);
    }
    step_d.iter_mut().for_each(|s| *s *= scale);
    Update { rows, hidden_d, errors_l, step_d }
}

/// Every row gets its updates in the order of the examples.
fn apply(updates: &[Update], input: &mut [f32], output: &mut [f32], dim: usize) {
    for update in updates {
        for (w_d, e) in output.chunks_exact_mut(dim).zip(&update.errors_l) {
            w_d.iter_mut().zip(&update.hidden_d).for_each(|(w, h)| *w += e * h);
        }
    }
    let per_shard = (input.len() / dim).div_ceil(SHARDS).max(1);
    let mut pairs: Vec<Vec<(u32, u32)>> = vec![Vec::new(); SHARDS];
    for (i, update) in updates.iter().enumerate() {
        for &row in &update.rows {
            pairs[row as usize / per_shard].push((row, i as u32));
        }
    }
    input.par_chunks_mut(per_shard * dim).zip(pairs).enumerate().for_each(|(shard, (weights, pairs))| {
        for (row, i) in pairs {
            let at = (row as usize - shard * per_shard) * dim;
            weights[at..at + dim].iter_mut().zip(&updates[i as usize].step_d).for_each(|(w, s)| *w += s);
        }
    });
}
