//! Training a vocabulary: byte-level BPE, SentencePiece's BPE, Unigram ([`Model`]).
//!
//! Text is cut into words and these are counted on all threads ([`Trainer::feed`]), on disk where memory is short; then pairs are
//! merged (`merge`), or for Unigram substrings weighed and dropped (`unigram`). The result depends on the text alone: not on threads, nor on the order of the texts,
//! nor on the memory allowed.
//!
//! Ids of byte-level BPE: 0..256 are the bytes, then the merges in the order they were made, then the special tokens. Of the others:
//! the special tokens, 256 byte tokens, the pieces from best to worst.

mod config;
mod count;
mod lattice;
mod merge;
mod pair_hash;
mod pieces;
mod runs;
mod save;
mod save_pieces;
mod script;
mod seeds;
mod sentencepiece_bpe;
mod table;
mod trace;
mod unigram;
mod weights;
mod words;

pub use config::{BEGIN_OF_TEXT, ByteOrder, END_OF_TEXT, Model, PAD, PIECE_SPECIAL_TOKENS, Pretokenizer, SPECIAL_TOKENS, TrainerConfig, UNKNOWN};
pub use trace::{TOY_CORPUS, trace};
pub use weights::{Share, Weights};

use crate::byte_level::to_alphabet;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use count::WordCounts;
use merge::{Learner, Limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use words::Words;

/// Bytes of text between two reports of progress and checks for Ctrl-C.
const BATCH_BYTES: usize = 8 << 20;

/// A training that is fed text bit by bit.
#[derive(Debug)]
pub struct Trainer {
    config: TrainerConfig,
    counts: WordCounts,
    /// Bytes of each group of `weights`; one entry where there are none.
    group_bytes: Vec<u64>,
    spill: Option<Spill>,
}

/// Where counts go that have no place in memory.
#[derive(Debug)]
struct Spill {
    dir: PathBuf,
    memory: usize,
}

/// What a trainer needs to go on after its process ended; its counts are in the run files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    runs: Vec<String>,
    bytes: u64,
    words: u64,
    group_bytes: Vec<u64>,
}

/// What a training saw and made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Bytes of text.
    pub bytes: u64,
    /// Words, each occurrence.
    pub words: u64,
    /// Different words; for Unigram a word is another one at the end of a line.
    pub unique_words: usize,
    /// Merges made; for Unigram, pieces kept.
    pub merges: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Weighted groups: what each contributed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, Share>,
}

impl Trainer {
    /// An error if the settings cannot work.
    pub fn new(config: TrainerConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { counts: WordCounts::default(), group_bytes: vec![0; config.weights.0.len().max(1)], spill: None, config })
    }

    /// Let word counts take about `memory` bytes and put what is more into sorted files in `dir`.
    pub fn spill_to(&mut self, dir: impl Into<PathBuf>, memory: usize) {
        self.spill = Some(Spill { dir: dir.into(), memory });
    }

    /// Count the words of some texts, on all threads. With weights this text belongs to no group and is left out.
    pub fn feed<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        self.feed_group(texts, None);
    }

    /// Count the words of texts of one group (see [`Weights::group`]).
    pub fn feed_group<T: AsRef<str> + Sync>(&mut self, texts: &[T], group: Option<u8>) {
        let group = match (self.config.weights.is_empty(), group) {
            (true, _) => None,
            (false, Some(group)) => Some(group),
            (false, None) => return,
        };
        if let Some(bytes) = self.group_bytes.get_mut(usize::from(group.unwrap_or(0))) {
            *bytes += texts.iter().map(|t| t.as_ref().len() as u64).sum::<u64>();
        }
        match self.config.model {
            Model::ByteLevelBpe => {
                let pattern = self.config.pattern();
                self.counts.add(texts, group, &|text, each| pattern.words(text).for_each(|word| each(word.as_bytes())));
            }
            Model::SentencepieceBpe => self.counts.add(texts, group, &pieces::words),
            Model::Unigram => self.counts.add(texts, group, &pieces::words_of_lines),
        }
    }

    /// True when counts take more memory than [`Trainer::spill_to`] allows: time for [`Trainer::save_counts`].
    pub fn wants_to_spill(&self) -> bool {
        // A table that grows holds its old slots too, and sorting needs room: spill at half.
        self.spill.as_ref().is_some_and(|s| self.counts.memory() > s.memory / 2)
    }

    /// Put all counts on disk and say how to go on from there. Needs [`Trainer::spill_to`].
    pub fn save_counts(&mut self) -> Result<Progress> {
        let Some(spill) = &self.spill else {
            return Err(Error::Train("internal: no folder for word counts".to_string()));
        };
        if self.counts.memory() > 0 {
            self.counts.spill(&spill.dir.join(format!("{:05}.run", self.counts.runs().len())))?;
        }
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Progress {
            runs: self.counts.runs().iter().map(name).collect(),
            bytes: self.counts.bytes(),
            words: self.counts.words(),
            group_bytes: self.group_bytes.clone(),
        })
    }

    /// Go on from counts in the folder of [`Trainer::spill_to`].
    pub fn resume(&mut self, progress: &Progress) {
        if let Some(spill) = &self.spill {
            let runs = progress.runs.iter().map(|name| spill.dir.join(name)).collect();
            self.counts = WordCounts::resume(runs, progress.bytes, progress.words);
            self.group_bytes.clone_from(&progress.group_bytes);
        }
    }

    /// Bytes of text counted so far.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes()
    }

    /// Learn and make the tokenizer.
    pub fn finish(self) -> Result<(Tokenizer, Summary)> {
        self.finish_with(|_, _| true)
    }

    /// [`Trainer::finish`]; `keep_going` hears how many tokens of how many there are and may stop the training.
    pub fn finish_with(self, mut keep_going: impl FnMut(usize, usize) -> bool) -> Result<(Tokenizer, Summary)> {
        if self.counts.is_empty() {
            let hint = if self.config.weights.is_empty() { "" } else { ": no text has a `lang` or `domain` that `weights` names" };
            return Err(Error::Train(format!("there is no text to learn from{hint}")));
        }
        let (bytes, words) = (self.counts.bytes(), self.counts.words());
        let weighted = !self.config.weights.is_empty();
        let factors = if weighted { self.config.weights.factors(&self.group_bytes) } else { Vec::new() };
        let shares = if weighted { self.config.weights.shares(&self.group_bytes) } else { BTreeMap::new() };
        let unit = if weighted { weights::UNIT } else { 1 };
        let min_frequency = self.config.min_frequency.max(1).saturating_mul(unit);
        let counted = self.counts.into_words(&factors)?;
        let unique_words = counted.len();
        let (tokenizer, merges) = match self.config.model {
            Model::ByteLevelBpe => byte_level(counted, &self.config, min_frequency, &mut keep_going)?,
            Model::SentencepieceBpe => sentencepiece_bpe::train(counted, &self.config, min_frequency, &mut keep_going)?,
            Model::Unigram => unigram::train(counted, &self.config, unit, &mut keep_going)?,
        };
        let summary = Summary { bytes, words, unique_words, merges, vocab_size: tokenizer.vocab_size(), weights: shares };
        Ok((tokenizer, summary))
    }
}

/// The bytes in the order of their ids.
fn byte_order(config: &TrainerConfig) -> Vec<u8> {
    let mut order: Vec<u8> = (0..=255).collect();
    if config.byte_order == ByteOrder::Gpt2 {
        order.sort_by_key(|&b| to_alphabet(&[b]));
    }
    order
}

fn byte_level(
    counted: Words,
    config: &TrainerConfig,
    min_frequency: u64,
    keep_going: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(Tokenizer, usize)> {
    let order = byte_order(config);
    let mut id_of = [0u32; 256];
    order.iter().zip(0..).for_each(|(&byte, id)| id_of[usize::from(byte)] = id);
    let wanted = config.vocab_size - config.special_tokens.len();
    let allowed = |text: &[u8]| text.len() <= config.max_token_bytes;
    let words = counted.iter().map(|(word, count)| (word.iter().map(|&b| id_of[usize::from(b)]).collect(), count));
    let tokens = order.iter().map(|&b| vec![b].into_boxed_slice()).collect();
    let mut learner = Learner::new(tokens, (counted.len(), counted.total_bytes()), words, Limits::by_id(min_frequency, &allowed));
    drop(counted);
    let mut merges = Vec::new();
    while learner.tokens().len() < wanted
        && let Some(step) = learner.step()
    {
        merges.push(step.pair);
        if merges.len() % 64 == 0 && !keep_going(learner.tokens().len(), wanted) {
            return Err(Error::Train("interrupted".to_string()));
        }
    }
    let tokens = learner.into_tokens();
    Ok((save::byte_level_bpe(&tokens, &merges, config)?, merges.len()))
}

/// Train on texts. For more text than fits memory feed a [`Trainer`].
pub fn train<T: AsRef<str> + Sync>(texts: impl IntoIterator<Item = T>, config: &TrainerConfig) -> Result<Tokenizer> {
    let mut trainer = Trainer::new(config.clone())?;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for text in texts {
        bytes += text.as_ref().len();
        batch.push(text);
        if bytes >= BATCH_BYTES {
            trainer.feed(&batch);
            batch.clear();
            bytes = 0;
        }
    }
    trainer.feed(&batch);
    Ok(trainer.finish()?.0)
}
