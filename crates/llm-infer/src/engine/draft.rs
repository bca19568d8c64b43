//! Guesses of a smaller model.
//!
//! The draft model has a pool of its own with the pages of the model's: page 7 of a sequence's table holds the keys of the same tokens in both,
//! so sharing, forking and giving back are decided once. It reads the prompts along with the model. What a page lacks (a sequence that was not
//! guessed for, or was swapped) makes guesses worse and nothing else: the model decides.
//!
//! It draws its guesses as the model draws its choices, with the random number of the position. Where the two distributions are alike, so are
//! the tokens; a greedy draft under a sampling model would be right less often.

use super::schedule::Slot;
use super::sequence::Sequence;
use crate::Model;
use crate::sampling::{self, History};
use llm_arch::{CachedBatch, Decoder, KvDtype, KvPool};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, ops};
use std::ops::Range;

/// Tokens of several sequences for one pass.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    ids: Vec<u32>,
    positions: Vec<u32>,
    pages: Vec<&'a [u32]>,
}

impl<'a> Rows<'a> {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of one sequence from position `start` on.
    pub fn add(&mut self, start: usize, tokens: &[u32], pages: &'a [u32]) {
        self.ids.extend(tokens);
        self.positions.extend(start as u32..(start + tokens.len()) as u32);
        self.pages.extend(std::iter::repeat_n(pages, tokens.len()));
    }

    pub fn batch(self) -> CachedBatch<'a> {
        CachedBatch { ids: self.ids.into(), positions: self.positions.into(), pages: self.pages }
    }
}

/// The chosen rows of `[N, D]`.
pub(super) fn pick(hidden_ND: Tensor<2>, rows: Vec<u32>) -> Tensor<2> {
    if rows.len() == hidden_ND.dims()[0] { hidden_ND } else { ops::embedding(hidden_ND, rows.into()) }
}

/// The smaller model.
#[derive(Debug)]
pub(super) struct Draft {
    decoder: Decoder,
    pub pool: KvPool,
    context: usize,
}

impl Draft {
    pub fn new(model: &Model, pages: usize, page_size: usize, dtype: KvDtype) -> Self {
        let decoder = model.decoder.untracked();
        let context = decoder.config().max_position_embeddings;
        Self { pool: KvPool::new(decoder.config(), pages, page_size, dtype), decoder, context }
    }

    /// Read the prompts' pieces of this step, and guess for each `wanted` (sequence, number of tokens) what follows it. Returns how many were
    /// guessed. At most `limit` tokens a pass: a sequence that lags behind is read a piece at a time and guessed for afterwards.
    pub fn guess(&mut self, running: &mut [Sequence], prompts: &[Slot], wanted: &[(usize, usize)], limit: usize, end_ids: &[u32]) -> usize {
        let context = self.context;
        let mut goals: Vec<Option<usize>> = vec![None; running.len()];
        let lengths: Vec<usize> = running.iter().map(|s| s.tokens.len()).collect();
        let mut ends: Vec<(usize, usize)> = Vec::new();
        for &(i, k) in wanted {
            if k > 0 && lengths[i] + k <= context {
                goals[i] = Some(lengths[i] + k);
                ends.push((i, lengths[i]));
            }
        }
        ends.extend(prompts.iter().map(|&Slot { i, n }| (i, (running[i].computed + n).min(context))));
        let mut guessed = 0;
        while !ends.is_empty() {
            let mut budget = limit;
            let (mut rows, mut pieces, mut last) = (Rows::default(), Vec::<(usize, Range<usize>)>::new(), Vec::<(usize, u32)>::new());
            for &(i, end) in &ends {
                let sequence = &running[i];
                let piece = sequence.drafted.min(end)..end.min(sequence.drafted + budget);
                if piece.is_empty() {
                    continue;
                }
                budget -= piece.len();
                rows.add(piece.start, &sequence.tokens[piece.clone()], sequence.table.pages());
                if piece.end == sequence.tokens.len() && goals[i].is_some_and(|goal| goal > piece.end) {
                    last.push((i, rows.len() as u32 - 1));
                }
                pieces.push((i, piece));
            }
            if rows.len() == 0 {
                break;
            }
            let hidden_ND = self.decoder.hidden_cached(&rows.batch(), &mut self.pool);
            for (i, piece) in pieces {
                running[i].drafted = piece.end;
            }
            if last.is_empty() {
                break;
            }
            let vocab = self.decoder.config().vocab_size;
            let logits = host::to_vec(self.decoder.logits(pick(hidden_ND, last.iter().map(|l| l.1).collect())));
            let choose = |(&(i, _), logits): (&(usize, u32), &[f32])| {
                let Sequence { tokens, prompt, sampling, .. } = &running[i];
                (i, sampling::choose(logits, sampling, History { tokens, prompt_len: *prompt, end_ids, ..History::default() }).token)
            };
            let tokens: Vec<(usize, u32)> = last.par_iter().zip(logits.par_chunks_exact(vocab)).map(choose).collect();
            guessed += tokens.len();
            ends.clear();
            for (i, token) in tokens {
                running[i].tokens.push(token);
                // The last guess need not be read, and nothing follows an end.
                if goals[i].is_some_and(|goal| running[i].tokens.len() < goal) && !end_ids.contains(&token) {
                    ends.push((i, running[i].tokens.len()));
                }
            }
        }
        for &(i, _) in wanted {
            let sequence = &mut running[i];
            sequence.guesses = sequence.tokens.split_off(lengths[i]);
        }
        guessed
    }
}
