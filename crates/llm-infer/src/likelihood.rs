//! How likely are given endings: multiple choice, where many sequences begin alike.
//!
//! The sequences of a batch are laid out as one tree: what several of them begin with is a node chain computed once, whatever
//! it is (few-shot examples, a question in front of its four answers), and an ending of one token costs nothing but a look at
//! its question's last logits. On the CPU the tree is one forward pass through the paged cache with pages of one token, so a
//! branch simply names the rows of its own path (tree attention; Miao et al., SpecInfer, 2023). Logits are computed only where
//! a token is scored.
//!
//! Elsewhere, and where rotary frequencies depend on a sequence's length, sequences run side by side, each whole.
//!
//! `N` tokens, `R` scored rows, `D` hidden size.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

use crate::{Error, Model, Result};
use llm_arch::{CachedBatch, Decoder, KvDtype, KvPool, PackedBatch};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, sample};
use std::collections::BTreeMap;

/// Tokens per forward pass.
const BATCH_TOKENS: usize = 4096;
/// Logits in memory at once.
const BATCH_LOGITS: usize = 1 << 24;
/// Bytes of keys and values in memory at once.
const CACHE_BYTES: usize = 1 << 30;

/// A sequence whose tokens from `start` on are scored.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// All tokens, at most one more than the context holds: the last one is never fed.
    pub tokens: &'a [u32],
    /// First scored one; at least 1.
    pub start: usize,
}

/// How likely an ending is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Sum of log p of its tokens, in nats.
    pub sum: f64,
    /// Every token is the likeliest one.
    pub greedy: bool,
}

/// Score the endings, in order. The work is cut into passes by the sequences alone, so the same call gives the same bits.
pub fn likelihoods(model: &Model, sequences: &[Scored]) -> Result<Vec<Likelihood>> {
    let decoder = model.decoder.untracked();
    let config = decoder.config();
    let (context, vocab) = (config.max_position_embeddings, config.vocab_size as u32);
    for &Scored { tokens, start } in sequences {
        if start == 0 || start > tokens.len() {
            return Err(Error::Request(format!("scoring from token {start} of {}: expected at least one token before it", tokens.len())));
        }
        if tokens.len() > context + 1 {
            return Err(Error::ContextLength { prompt: tokens.len(), max_tokens: 0, context });
        }
        if let Some(id) = tokens.iter().find(|&&id| id >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
    }
    let stretched = config.rope_scaling.depends_on_length();
    let tree = !stretched && llm_tensor::device::is_cpu(&decoder.device());
    let cache = CACHE_BYTES / KvPool::page_bytes(config, 1, KvDtype::F32).max(1);
    let budget = if stretched { 0 } else { BATCH_TOKENS.min(cache) };
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by(|&a, &b| sequences[a].tokens.cmp(sequences[b].tokens));
    let mut out = vec![Likelihood { sum: 0.0, greedy: true }; sequences.len()];
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let batch = Batch::fill(sequences, rest, budget, tree);
        let done = batch.members.len();
        for (member, likelihood) in rest.iter().zip(batch.run(&decoder)) {
            out[*member] = likelihood;
        }
        rest = &rest[done..];
    }
    Ok(out)
}

/// One forward pass.
struct Batch<'a> {
    /// Tokens fed, `[N]`.
    ids: Vec<u32>,
    positions: Vec<u32>,
    members: Vec<Member<'a>>,
    tree: bool,
}

/// Row and token.
type Place = (u32, u32);
/// log p of the token at a place, and whether it is the likeliest.
type Found = (f32, bool);

struct Member<'a> {
    scored: Scored<'a>,
    /// Rows of its tokens in the pass: the path through the tree.
    path: Vec<u32>,
    /// Its own rows start here; the ones before are shared with the member before.
    shared: usize,
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl<'a> Batch<'a> {
    /// As many of the sorted sequences as fit the budget of new tokens, at least one.
    fn fill(sequences: &[Scored<'a>], order: &[usize], budget: usize, tree: bool) -> Self {
        let mut batch = Self { ids: Vec::new(), positions: Vec::new(), members: Vec::new(), tree };
        for &place in order {
            let scored = sequences[place];
            let fed = &scored.tokens[..scored.tokens.len() - 1];
            let last = batch.members.last();
            let before = last.map_or(&[][..], |m| &m.scored.tokens[..m.scored.tokens.len() - 1]);
            // Side by side only a sequence that adds nothing is free.
            let shared = match common(before, fed) {
                n if tree || n == fed.len() => n,
                _ => 0,
            };
            if last.is_some() && batch.ids.len() + fed.len() - shared > budget {
                break;
            }
            let mut path = last.map_or(Vec::new(), |m| m.path[..shared].to_vec());
            for (position, &id) in fed.iter().enumerate().skip(shared) {
                path.push(batch.ids.len() as u32);
                batch.ids.push(id);
                batch.positions.push(position as u32);
            }
            batch.members.push(Member { scored, path, shared });
        }
        batch
    }

    fn hidden_ND(&self, decoder: &Decoder) -> Tensor<2> {
        if !self.tree {
            let starts: Vec<u32> = self.members.iter().filter(|m| m.shared == 0).map(|m| m.path[0]).collect();
            return decoder.hidden(&PackedBatch::documents(self.ids.clone(), &[&starts], self.ids.len()));
        }
        let mut pages: Vec<&[u32]> = Vec::with_capacity(self.ids.len());
        for member in &self.members {
            pages.extend(std::iter::repeat_n(member.path.as_slice(), member.path.len() - member.shared));
        }
        let mut pool = KvPool::new(decoder.config(), self.ids.len(), 1, KvDtype::F32);
        let batch = CachedBatch { ids: self.ids.clone().into(), positions: self.positions.clone().into(), pages };
        decoder.hidden_cached(&batch, &mut pool)
    }

    fn run(&self, decoder: &Decoder) -> Vec<Likelihood> {
        let (d, vocab) = (decoder.config().hidden_size, decoder.config().vocab_size);
        let hidden_ND = self.hidden_ND(decoder);
        let device = hidden_ND.device();
        let hidden = host::to_vec(hidden_ND);
        // Row -> tokens that are scored there; a row may be the end of several questions.
        let mut wanted: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for Member { scored, path, .. } in &self.members {
            for (&row, &token) in path[scored.start - 1..].iter().zip(&scored.tokens[scored.start..]) {
                let tokens = wanted.entry(row).or_default();
                if !tokens.contains(&token) {
                    tokens.push(token);
                }
            }
        }
        let wanted: Vec<(u32, Vec<u32>)> = wanted.into_iter().collect();
        let mut found: BTreeMap<Place, Found> = BTreeMap::new();
        for rows in wanted.chunks((BATCH_LOGITS / vocab).max(1)) {
            let picked: Vec<f32> = rows.iter().flat_map(|&(row, _)| hidden[row as usize * d..(row as usize + 1) * d].iter().copied()).collect();
            let logits = host::to_vec(decoder.logits(host::from_vec(picked, [rows.len(), d], &device)));
            let scores: Vec<Vec<(Place, Found)>> = rows
                .par_iter()
                .zip(logits.par_chunks_exact(vocab))
                .map(|((row, tokens), logits)| {
                    let normaliser = sample::normaliser(logits);
                    let score = |&token: &u32| ((*row, token), (logits[token as usize] - normaliser, sample::is_largest(logits, token as usize)));
                    tokens.iter().map(score).collect()
                })
                .collect();
            found.extend(scores.into_iter().flatten());
        }
        let member = |Member { scored, path, .. }: &Member| {
            let mut likelihood = Likelihood { sum: 0.0, greedy: true };
            for (&row, &token) in path[scored.start - 1..].iter().zip(&scored.tokens[scored.start..]) {
                let (log_p, greedy) = found[&(row, token)];
                likelihood.sum += f64::from(log_p);
                likelihood.greedy &= greedy;
            }
            likelihood
        };
        self.members.iter().map(member).collect()
    }
}
