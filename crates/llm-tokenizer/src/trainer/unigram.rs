//! Unigram training (Kudo 2018, "Subword Regularization", arXiv 1804.10959; SentencePiece's `src/unigram_model_trainer.cc`): begin with too
//! many pieces, fit their probabilities to the text (EM), drop the quarter that costs least likelihood, until few enough are left.
//!
//! Sums over words go over a fixed number of parts, whatever the threads, so the result is the same to the last bit.

use super::config::TrainerConfig;
use super::lattice::{Lattice, Trie, UNKNOWN};
use super::pieces::{Alphabet, Rules, as_text, reserved, room};
use super::save_pieces;
use super::seeds::seeds;
use super::table::{Table, hash};
use super::words::Words;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Parts that sums are made of.
const PARTS: usize = 16;
/// EM steps between two prunings.
const SUB_ITERATIONS: usize = 2;
/// Pieces that are expected less often are dropped.
const LEAST_EXPECTED: f64 = 0.5;
/// Share of the pieces that a pruning keeps.
const SHRINKING: f64 = 0.75;
/// Pieces when pruning ends, as a multiple of the vocabulary.
const SPARE: f64 = 1.1;
/// How much less likely than any piece an unknown character is.
const UNKNOWN_PENALTY: f64 = 10.0;
/// Keeps the scores of characters apart that lost theirs.
const TINY: f64 = 1e-4;

/// The tokenizer and the number of its pieces. One occurrence of a word counts `unit`.
pub fn train(counted: Words, config: &TrainerConfig, unit: u64, keep_going: &mut dyn FnMut(usize, usize) -> bool) -> Result<(Tokenizer, usize)> {
    let alphabet = Alphabet::new(&counted, config.character_coverage);
    let required = required(&alphabet, config);
    Alphabet::check_room(required.len(), config)?;
    let rules = Rules::new(config);
    let mut start = seeds(&counted, &alphabet, &rules, config.seed_sentencepiece_size, config.min_frequency.max(1), unit as f64)?;
    let mut runs = Table::default();
    for (word, count) in counted.iter() {
        alphabet.runs(word).for_each(|run| runs.add(run.as_bytes(), hash(run.as_bytes()), count));
    }
    drop(counted);
    let text = Text { runs, unit: unit as f64 };
    let all = start.iter().map(|seed| seed.1).sum::<f64>().ln();
    start.iter_mut().for_each(|seed| seed.1 = seed.1.ln() - all);
    let mut model = Model::new(start);
    let enough = (config.vocab_size as f64 * SPARE) as usize;
    let rounds = 1.0 + ((model.pieces.len() as f64 / enough as f64).ln() / -SHRINKING.ln()).ceil().max(0.0);
    for round in 1.. {
        for _ in 0..SUB_ITERATIONS {
            model.fit(&text);
            let done = (round as f64 / rounds).min(1.0);
            if !keep_going((done * config.vocab_size as f64) as usize, config.vocab_size) {
                return Err(Error::Train("interrupted".to_string()));
            }
        }
        let before = model.size();
        if before <= enough {
            break;
        }
        model = model.pruned(&text, enough);
        if model.size() >= before {
            break;
        }
    }
    let pieces = model.best(&required, room(config));
    Ok((save_pieces::unigram(&pieces, config)?, pieces.len()))
}

/// Characters that stay whatever their probability: the alphabet, most frequent first, and what special tokens and byte tokens are
/// spelled with, so that their text can always be cut into pieces.
fn required(alphabet: &Alphabet, config: &TrainerConfig) -> Vec<char> {
    let known: HashSet<char> = alphabet.chars().iter().copied().collect();
    let spelling: BTreeSet<char> = reserved(config).flat_map(|token| token.chars().collect::<Vec<_>>()).filter(|c| !known.contains(c)).collect();
    alphabet.chars().iter().copied().chain(spelling).collect()
}

/// Words without rare characters.
struct Text {
    runs: Table,
    unit: f64,
}

impl Text {
    /// Let `each` see every run with its count and add up what it finds; the sum is the same for any number of threads.
    fn sum(&self, size: usize, model: &Model, each: impl Fn(&mut Lattice, f64, &mut [f64]) + Sync) -> Vec<f64> {
        let length = self.runs.len().div_ceil(PARTS);
        let unknown = model.lowest() - UNKNOWN_PENALTY;
        let parts: Vec<Vec<f64>> = (0..PARTS)
            .into_par_iter()
            .map(|part| {
                let (mut sums, mut lattice) = (vec![0.0; size], Lattice::default());
                for i in part * length..((part + 1) * length).min(self.runs.len()) {
                    lattice.fill(as_text(self.runs.word(i)), &model.trie, &model.scores, unknown);
                    each(&mut lattice, self.runs.count(i) as f64 / self.unit, &mut sums);
                }
                sums
            })
            .collect();
        (0..size).map(|i| parts.iter().map(|part| part[i]).sum()).collect()
    }
}

/// Pieces with the logarithms of their probabilities; minus infinity for a piece that was dropped.
struct Model {
    pieces: Vec<String>,
    scores: Vec<f64>,
    trie: Trie,
}

impl Model {
    fn new(pieces: Vec<(String, f64)>) -> Self {
        let (pieces, scores): (Vec<String>, Vec<f64>) = pieces.into_iter().unzip();
        Self { trie: Trie::new(pieces.iter().map(String::as_str)), pieces, scores }
    }

    /// Pieces that are left.
    fn size(&self) -> usize {
        self.scores.iter().filter(|s| s.is_finite()).count()
    }

    fn lowest(&self) -> f64 {
        self.scores.iter().copied().filter(|s| s.is_finite()).fold(0.0, f64::min)
    }

    /// One step of EM. The maximisation is that of a Dirichlet prior that favours few pieces: digamma instead of the logarithm.
    fn fit(&mut self, text: &Text) {
        let expected = text.sum(self.pieces.len(), self, |lattice, count, sums| lattice.expect(count, sums));
        let all = digamma(expected.iter().filter(|&&e| e >= LEAST_EXPECTED).sum());
        self.scores = expected.iter().map(|&e| if e < LEAST_EXPECTED { f64::NEG_INFINITY } else { digamma(e) - all }).collect();
    }

    /// Without the pieces whose loss costs the least likelihood, if what they are used for were spelled in other pieces.
    fn pruned(&self, text: &Text, enough: usize) -> Self {
        let unknown = self.lowest() - UNKNOWN_PENALTY;
        // None: the piece itself is not the best way to cut its text. Empty: there is no other way.
        let alternatives: Vec<Option<Vec<u32>>> = (0..self.pieces.len())
            .into_par_iter()
            .map_init(Lattice::default, |lattice, i| {
                lattice.fill(&self.pieces[i], &self.trie, &self.scores, unknown);
                let whole = self.scores[i].is_finite() && lattice.viterbi(false).is_some_and(|best| best.len() == 1);
                whole.then(|| lattice.viterbi(true).unwrap_or_default().to_vec())
            })
            .collect();
        let used = text.sum(self.pieces.len(), self, |lattice, count, sums| {
            for &piece in lattice.viterbi(false).unwrap_or_default() {
                if piece != UNKNOWN {
                    sums[piece as usize] += count;
                }
            }
        });
        let all: f64 = used.iter().sum();
        let count_of = |piece: u32| used.get(piece as usize).copied().unwrap_or(0.0);
        let (mut kept, mut losses) = (Vec::new(), Vec::new());
        for (i, alternative) in alternatives.iter().enumerate() {
            let Some(parts) = alternative.as_ref().filter(|_| used[i] > 0.0) else { continue };
            if parts.is_empty() {
                kept.push(i);
                continue;
            }
            let all_then = (all + used[i] * (parts.len() as f64 - 1.0)).ln();
            let then: f64 = parts.iter().map(|&part| (count_of(part) + used[i]).ln() - all_then).sum();
            losses.push((used[i] * (used[i].ln() - all.ln() - then), i));
        }
        let most = enough.max((SHRINKING * self.size() as f64) as usize);
        losses.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        kept.extend(losses.iter().take(most.saturating_sub(kept.len())).map(|loss| loss.1));
        Self::new(kept.into_iter().map(|i| (self.pieces[i].clone(), self.scores[i])).collect())
    }

    /// The vocabulary: required characters, then the likeliest pieces, as far as there is room; in order of their scores.
    fn best(self, required: &[char], room: usize) -> Vec<(String, f64)> {
        let lowest = self.lowest();
        let mut scores: HashMap<String, f64> = self.pieces.into_iter().zip(self.scores).filter(|(_, score)| score.is_finite()).collect();
        let mut lost = 0.0;
        let mut best: Vec<(String, f64)> = Vec::with_capacity(room);
        for c in required {
            let score = scores.remove(c.encode_utf8(&mut [0; 4]) as &str).unwrap_or_else(|| {
                lost += TINY;
                lowest + lost - TINY
            });
            best.push((c.to_string(), score));
        }
        let order = |a: &(String, f64), b: &(String, f64)| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        let mut others: Vec<(String, f64)> = scores.into_iter().collect();
        others.sort_unstable_by(order);
        best.extend(others.into_iter().take(room.saturating_sub(required.len())));
        best.sort_unstable_by(order);
        best
    }
}

/// The derivative of the logarithm of the gamma function, for positive numbers: shifted up, then the asymptotic series
/// (Abramowitz and Stegun, 6.3.5 and 6.3.18).
fn digamma(mut x: f64) -> f64 {
    let mut shifted = 0.0;
    while x < 10.0 {
        shifted -= 1.0 / x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    shifted + x.ln() - 0.5 / x - y * (1.0 / 12.0 - y * (1.0 / 120.0 - y * (1.0 / 252.0 - y * (1.0 / 240.0 - y / 132.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digamma_has_its_known_values() {
        let euler = 0.577_215_664_901_532_9;
        for (x, value) in [(1.0, -euler), (2.0, 1.0 - euler), (0.5, -euler - 2.0 * std::f64::consts::LN_2), (100.0, 4.600_161_852_738_087)] {
            assert!((digamma(x) - value).abs() < 1e-12, "{x}: {}", digamma(x));
        }
    }

    /// "ab" is always together: one piece explains the text better than two.
    #[test]
    fn the_pieces_of_a_made_up_language_are_found() {
        let mut runs = Table::default();
        for (word, count) in [("▁abcd", 40), ("▁cdab", 40), ("▁ab", 20), ("▁cd", 20)] {
            runs.add(word.as_bytes(), hash(word.as_bytes()), count);
        }
        let text = Text { runs, unit: 1.0 };
        let start = ["▁", "a", "b", "c", "d", "ab", "cd", "bc", "▁ab"].map(|p| (p.to_string(), -2.0)).to_vec();
        let mut model = Model::new(start);
        (0..3).for_each(|_| model.fit(&text));
        let model = model.pruned(&text, 4);
        assert!(model.pieces.contains(&"cd".to_string()) && model.pieces.contains(&"▁ab".to_string()), "{:?}", model.pieces);
        assert!(!model.pieces.contains(&"bc".to_string()), "{:?}", model.pieces);
        let best = model.best(&['▁', 'a', 'z'], 5);
        assert!(best.len() <= 5 && best.iter().any(|p| p.0 == "z") && best.is_sorted_by(|a, b| a.1 >= b.1), "{best:?}");
    }
}
