//! Interpolated modified Kneser-Ney, as `lmplz` estimates it.
//!
//! One sort does the counting: the ends of all n-grams in the corpus are sorted by the words read backwards from there, so that equal
//! n-grams of every length lie together, the shorter around the longer, and the words to the left of an n-gram are the groups within
//! its own. Memory is about 8 bytes a token for the sort and `4 n + 16` bytes a distinct n-gram.

use super::MAX_ORDER;
use super::model::{Builder, Model, combine};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

const UNKNOWN: u32 = 0;
const BEGIN: u32 = 1;
const END: u32 = 2;

/// A word as bytes.
type Word = Box<[u8]>;

/// Settings of the estimate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Longest n-gram, 2 to 6.
    pub order: usize,
    /// Words seen less often count as unknown.
    pub min_count: u64,
    /// Leave out n-grams of three words and more that were seen once; their mass goes to the shorter ones.
    pub prune_singletons: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self { order: 5, min_count: 1, prune_singletons: false }
    }
}

/// n-grams of one length.
#[derive(Debug, Clone, Default)]
struct Grams {
    /// `n` word numbers each, from the last word to the first.
    reversed: Vec<u32>,
    /// Where the n-gram without its first word is, one length below.
    tail: Vec<u32>,
    counts: Vec<u32>,
    /// Probability, not its logarithm.
    prob: Vec<f64>,
    /// 1 for what is no context.
    backoff: Vec<f64>,
    is_context: Vec<bool>,
    kept: Vec<bool>,
}

/// A trained model.
#[derive(Debug, Clone)]
pub struct Estimate {
    words: Vec<Word>,
    grams: Vec<Grams>,
    /// `D1, D2, D3+` of each length.
    pub discounts: Vec<[f64; 3]>,
    /// What the reader should know, e.g. that discounts were replaced.
    pub notices: Vec<String>,
    /// Tokens with ends of sentences.
    pub tokens: u64,
}

/// Estimate a model from sentences, each a list of words.
pub fn estimate<'a, S: Iterator<Item = &'a [u8]>>(sentences: impl Iterator<Item = S>, config: &TrainConfig) -> Result<Estimate> {
    if !(2..=6.min(MAX_ORDER)).contains(&config.order) {
        return Err(Error::Config(format!("order is {}, expected 2 to 6", config.order)));
    }
    let (words, tokens) = number(sentences, config.min_count)?;
    let mut this = Estimate { words, grams: Vec::new(), discounts: Vec::new(), notices: Vec::new(), tokens: 0 };
    this.tokens = tokens.iter().filter(|t| **t != BEGIN).count() as u64;
    if this.tokens < 2 {
        return Err(Error::Empty("no words to train an n-gram model on".into()));
    }
    this.grams = count(&tokens, config.order);
    drop(tokens);
    for n in 1..=config.order {
        this.smooth(n, config);
    }
    Ok(this)
}

/// Words to numbers, in the order of their first use; each sentence between `BEGIN` and `END`.
fn number<'a, S: Iterator<Item = &'a [u8]>>(sentences: impl Iterator<Item = S>, min_count: u64) -> Result<(Vec<Word>, Vec<u32>)> {
    let special: [&[u8]; 3] = [b"<unk>", b"<s>", b"</s>"];
    let mut words: Vec<Word> = special.iter().map(|w| (*w).into()).collect();
    let mut numbers: HashMap<Word, u32> = words.iter().cloned().zip(0..).collect();
    let mut counts = vec![0u64; 3];
    let mut tokens = Vec::new();
    for sentence in sentences {
        tokens.push(BEGIN);
        for word in sentence {
            let id = match numbers.get(word) {
                // Marks that are written in the text itself.
                Some(&id) if id <= END => UNKNOWN,
                Some(&id) => id,
                None => {
                    let id = words.len() as u32;
                    words.push(word.into());
                    numbers.insert(word.into(), id);
                    counts.push(0);
                    id
                }
            };
            counts[id as usize] += 1;
            tokens.push(id);
        }
        tokens.push(END);
        if tokens.len() >= u32::MAX as usize {
            return Err(Error::Config("more than 4 billion tokens; train on a sample".into()));
        }
    }
    if min_count > 1 {
        let mut map = vec![UNKNOWN; words.len()];
        let mut kept = Vec::new();
        for (id, word) in words.into_iter().enumerate() {
            if id <= END as usize || counts[id] >= min_count {
                map[id] = kept.len() as u32;
                kept.push(word);
            }
        }
        tokens.iter_mut().for_each(|t| *t = map[*t as usize]);
        words = kept;
    }
    Ok((words, tokens))
}

/// All distinct n-grams up to `order` with their (adjusted) counts.
fn count(tokens: &[u32], order: usize) -> Vec<Grams> {
    let mut ends: Vec<u32> = (0..tokens.len() as u32).filter(|i| tokens[*i as usize] != BEGIN).collect();
    // Words backwards from the end, up to the beginning of the sentence.
    ends.par_sort_unstable_by(|a, b| {
        for d in 0..order {
            let (x, y) = (tokens[*a as usize - d], tokens[*b as usize - d]);
            if x != y {
                return x.cmp(&y);
            }
            if x == BEGIN {
                break;
            }
        }
        std::cmp::Ordering::Equal
    });
    let mut grams = vec![Grams::default(); order];
    // The beginning of a sentence is only ever a context, and the unknown word may never have been seen.
    for word in [BEGIN, UNKNOWN] {
        grams[0].reversed.push(word);
        grams[0].tail.push(0);
        grams[0].counts.push(0);
    }
    let mut previous: Option<usize> = None;
    for &end in &ends {
        let end = end as usize;
        let word = |d: usize| tokens[end - d];
        let length = (0..order).find(|d| word(*d) == BEGIN).map_or(order, |d| d + 1);
        // Words shared with the entry before.
        let shared = previous.map_or(0, |p| {
            let mut d = 0;
            while d < length && tokens[p - d] == word(d) {
                d += 1;
                if word(d - 1) == BEGIN {
                    break;
                }
            }
            d
        });
        if shared == length {
            // The same whole n-gram once more.
            if let Some(c) = grams[length - 1].counts.last_mut() {
                *c = c.saturating_add(1);
            }
        }
        for n in shared + 1..=length {
            if n > 1 {
                // One more word to the left of the shorter n-gram.
                let tail = current(&grams[n - 2], n == 2 && word(0) == UNKNOWN);
                grams[n - 2].counts[tail] += 1;
            }
            if n == 1 && word(0) == UNKNOWN {
                continue;
            }
            let tail = if n > 1 { current(&grams[n - 2], n == 2 && word(0) == UNKNOWN) } else { 0 };
            let g = &mut grams[n - 1];
            g.reversed.extend((0..n).map(word));
            g.tail.push(tail as u32);
            // Whole: as long as the model goes, or up to the beginning.
            g.counts.push(u32::from(n == length));
        }
        previous = Some(end);
    }
    grams
}

/// The n-gram being counted: the last, but the unknown word has its place at the start.
fn current(grams: &Grams, unknown: bool) -> usize {
    if unknown { 1 } else { grams.counts.len() - 1 }
}

impl Estimate {
    fn smooth(&mut self, n: usize, config: &TrainConfig) {
        let discounts = self.discount(n);
        let d = |count: u32| if count == 0 { 0.0 } else { discounts[(count as usize).min(3) - 1] };
        let vocabulary = self.words.len() as f64 - 1.0;
        let (lower, upper) = self.grams.split_at_mut(n - 1);
        let g = &mut upper[0];
        let len = g.counts.len();
        g.backoff = vec![1.0; len];
        g.is_context = vec![false; len];
        g.kept = vec![true; len];
        if n == 1 {
            let total: f64 = g.counts.iter().map(|c| f64::from(*c)).sum();
            let gamma: f64 = g.counts.iter().map(|c| d(*c)).sum::<f64>() / total;
            g.prob = g.counts.iter().map(|c| (f64::from(*c) - d(*c)) / total + gamma / vocabulary).collect();
        } else {
            let below = &mut lower[n - 2];
            let contexts = contexts(g, below, n);
            let (mut totals, mut left) = (vec![0f64; below.counts.len()], vec![0f64; below.counts.len()]);
            for (j, &context) in contexts.iter().enumerate() {
                let c = g.counts[j];
                g.kept[j] = !(config.prune_singletons && n > 2 && c <= 1);
                totals[context as usize] += f64::from(c);
                left[context as usize] += if g.kept[j] { d(c) } else { f64::from(c) };
                below.is_context[context as usize] |= g.kept[j];
            }
            for (i, total) in totals.iter().enumerate().filter(|(_, t)| **t > 0.0) {
                below.backoff[i] = left[i] / total;
            }
            g.prob = (0..len)
                .map(|j| {
                    let c = g.counts[j];
                    let own = if g.kept[j] { (f64::from(c) - d(c)) / totals[contexts[j] as usize] } else { 0.0 };
                    own + below.backoff[contexts[j] as usize] * below.prob[g.tail[j] as usize]
                })
                .collect();
        }
        self.discounts.push(discounts);
        if n == config.order && config.prune_singletons {
            self.keep_needed();
        }
    }

    /// What a kept n-gram needs is kept: the one it ends in, and the one it begins with.
    fn keep_needed(&mut self) {
        for n in (2..=self.grams.len()).rev() {
            let (lower, upper) = self.grams.split_at_mut(n - 1);
            let (g, below) = (&upper[0], &mut lower[n - 2]);
            let contexts = contexts(g, below, n);
            for (j, context) in contexts.iter().enumerate().filter(|(j, _)| g.kept[*j]) {
                below.kept[g.tail[j] as usize] = true;
                below.kept[*context as usize] = true;
            }
        }
    }

    /// Discounts from the counts of counts (Chen and Goodman, 1998, equation 26); fixed ones where a corpus has too few.
    fn discount(&mut self, n: usize) -> [f64; 3] {
        let mut of = [0u64; 5];
        for (j, &count) in self.grams[n - 1].counts.iter().enumerate() {
            // Counts of the two special words are none.
            if (1..=4).contains(&count) && !(n == 1 && j == 0) {
                of[count as usize] += 1;
            }
        }
        let of = of.map(|c| c as f64);
        let y = of[1] / (of[1] + 2.0 * of[2]);
        let found = [1, 2, 3].map(|k| k as f64 - (k + 1) as f64 * y * of[k + 1] / of[k]);
        let valid = found.iter().zip(1..).all(|(d, k)| d.is_finite() && *d >= 0.0 && *d <= f64::from(k)) && of[1..4].iter().all(|c| *c > 0.0);
        if valid {
            return found;
        }
        self.notices.push(format!("too little text to discount {n}-grams by their counts of counts; 0.5, 1 and 1.5 are taken"));
        [0.5, 1.0, 1.5]
    }

    /// Longest n-gram.
    pub fn order(&self) -> usize {
        self.grams.len()
    }

    /// n-grams of each length.
    pub fn counts(&self) -> Vec<u64> {
        self.grams.iter().map(|g| g.kept.iter().filter(|k| **k).count() as u64).collect()
    }

    /// Words, log10 probability and log10 back-off (none for what is no context) of the n-grams of length `n`.
    pub(super) fn ngrams(&self, n: usize) -> impl Iterator<Item = (impl Iterator<Item = &[u8]>, f32, Option<f32>)> {
        let g = &self.grams[n - 1];
        (0..g.counts.len()).filter(|j| g.kept[*j]).map(move |j| {
            let words = g.reversed[j * n..(j + 1) * n].iter().rev().map(|w| &*self.words[*w as usize]);
            (words, self.log_prob(n, j), g.is_context[j].then(|| log10(g.backoff[j])))
        })
    }

    fn log_prob(&self, n: usize, j: usize) -> f32 {
        // Nothing comes before the beginning: its probability is never asked for.
        if n == 1 && j == 0 { -99.0 } else { log10(self.grams[n - 1].prob[j]) }
    }

    /// As a model to score with.
    pub fn model(&self) -> Result<Model> {
        let mut builder = Builder::new(&self.counts(), super::kenlm::MULTIPLIER);
        let failed = Error::Config;
        for (mut words, prob, backoff) in self.ngrams(1) {
            builder.unigram(words.next().unwrap_or_default(), (prob, backoff.filter(|b| *b != 0.0).unwrap_or(-0.0))).map_err(failed)?;
        }
        let ids: Vec<u32> = self.words.iter().map(|w| builder.word(w)).collect();
        for n in 2..=self.order() {
            let g = &self.grams[n - 1];
            for j in (0..g.counts.len()).filter(|j| g.kept[*j]) {
                let reversed: Vec<u32> = g.reversed[j * n..(j + 1) * n].iter().map(|w| ids[*w as usize]).collect();
                let backoff = if g.is_context[j] { log10(g.backoff[j]) } else { -0.0 };
                builder.ngram(&reversed, (self.log_prob(n, j), if backoff == 0.0 { -0.0 } else { backoff })).map_err(failed)?;
            }
        }
        builder.finish().map_err(failed)
    }
}

fn log10(p: f64) -> f32 {
    p.log10() as f32
}

/// For each n-gram, where the one without its last word is, one length below.
fn contexts(g: &Grams, below: &Grams, n: usize) -> Vec<u32> {
    let key = |reversed: &[u32]| reversed[1..].iter().fold(u64::from(reversed[0]), |key, word| combine(key, *word));
    let places: HashMap<u64, u32> = below.reversed.chunks_exact(n - 1).map(key).zip(0..).collect();
    g.reversed.par_chunks_exact(n).map(|reversed| places.get(&key(&reversed[1..])).copied().unwrap_or(0)).collect()
}
