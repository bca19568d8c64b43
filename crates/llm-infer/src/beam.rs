//! Beam search as Hugging Face's `generate(num_beams=...)` does it: the same sequences with the same scores.
//!
//! Every step extends each of `num_beams` open sequences by every token and keeps the best. A sequence that ends among the best is
//! put aside with its score, the sum of log p of all its tokens (the end token too) over `length^length_penalty`; the search ends when no
//! open sequence can do better, as [`EarlyStopping`] judges it.
//!
//! Beams share the pages of what they have in common; where one becomes two, only the last, partial page is copied. Who holds a page is a
//! count here, as nothing is ever looked up by its tokens.

use crate::{Error, FinishReason, Model, Result};
use llm_arch::{CachedBatch, Decoder, KvDtype, KvPool};
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, sample};

/// Tokens per page.
const PAGE: usize = 16;
/// Prompt tokens per forward pass.
const CHUNK: usize = 512;
/// Bytes of keys and values of one search.
const CACHE_BYTES: usize = 1 << 30;
/// Beams of one search.
const MOST_BEAMS: usize = 256;

/// When a search ends before its open sequences do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// When the best open sequence, scored at its present length, is worse than all finished ones: `early_stopping=False`.
    #[default]
    Heuristic,
    /// As soon as `num_beams` are finished: `early_stopping=True`.
    Full,
    /// When the best open sequence is worse at any length: `early_stopping="never"`.
    Never,
}

/// Settings of a search, named and preset as in Hugging Face's `GenerationConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamSettings {
    /// Open sequences.
    pub num_beams: usize,
    /// Sequences to return, at most `num_beams`.
    pub num_return_sequences: usize,
    /// Most tokens of a sequence, its end token included.
    pub max_tokens: usize,
    /// Above 0 favours long sequences, below 0 short ones.
    pub length_penalty: f32,
    /// When to stop looking.
    pub early_stopping: EarlyStopping,
    /// Tokens that end a sequence besides the model's own.
    pub stop_ids: Vec<u32>,
    /// The model's own end tokens are tokens like others.
    pub ignore_eos: bool,
}

impl Default for BeamSettings {
    fn default() -> Self {
        Self {
            num_beams: 4,
            num_return_sequences: 1,
            max_tokens: 256,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            stop_ids: Vec::new(),
            ignore_eos: false,
        }
    }
}

/// A sequence that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Beam {
    /// Generated tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Log-probability of each.
    pub logprobs: Vec<f32>,
    /// The token that ended it, if one did.
    pub end_token: Option<u32>,
    /// Sum of log p, the end token's included, over `length^length_penalty`.
    pub score: f32,
    /// [`FinishReason::Stop`] or [`FinishReason::Length`].
    pub finish_reason: FinishReason,
}

/// The best sequences, best first.
pub fn beam_search(model: &Model, prompt: &[u32], settings: &BeamSettings) -> Result<Vec<Beam>> {
    beam_search_while(model, prompt, settings, |_| true)
}

/// [`beam_search`] that asks before every pass whether to go on, with the number of passes done; if not, it returns what it has finished.
pub fn beam_search_while(model: &Model, prompt: &[u32], settings: &BeamSettings, mut go_on: impl FnMut(usize) -> bool) -> Result<Vec<Beam>> {
    let mut ends = settings.stop_ids.clone();
    if !settings.ignore_eos {
        ends.extend(&model.eos_token_ids);
    }
    let mut search = Search::new(model.decoder.untracked(), prompt, settings, ends)?;
    let mut passes = 0;
    while search.open && go_on(passes) {
        search.step();
        passes += 1;
    }
    let Search { mut finished, .. } = search;
    finished.truncate(settings.num_return_sequences);
    Ok(finished)
}

/// An open sequence.
#[derive(Debug, Clone, Default)]
struct Open {
    /// Prompt and what was generated.
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    sum: f32,
    pages: Vec<u32>,
}

/// An open sequence with one more token.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    logprob: f32,
    sum: f32,
}

/// How many sequences hold each page.
struct Holders {
    counts: Vec<u32>,
    free: Vec<u32>,
}

impl Holders {
    fn new(pages: usize) -> Self {
        Self { counts: vec![0; pages], free: (0..pages as u32).rev().collect() }
    }

    /// Grow a table until it covers `tokens` tokens. The search has made the pool large enough.
    fn reserve(&mut self, table: &mut Vec<u32>, tokens: usize) {
        while table.len() * PAGE < tokens {
            let Some(page) = self.free.pop() else { return };
            self.counts[page as usize] = 1;
            table.push(page);
        }
    }

    /// A second sequence with the same first `tokens` tokens: full pages are shared, and the partial one is to be copied from the first to
    /// the second of the pages returned.
    fn fork(&mut self, table: &[u32], tokens: usize) -> (Vec<u32>, Option<(u32, u32)>) {
        let mut forked = table[..tokens / PAGE].to_vec();
        forked.iter().for_each(|&page| self.counts[page as usize] += 1);
        self.reserve(&mut forked, tokens);
        let copy = forked.get(tokens / PAGE).map(|&to| (table[tokens / PAGE], to));
        (forked, copy)
    }

    fn release(&mut self, table: &mut Vec<u32>) {
        for page in table.drain(..) {
            self.counts[page as usize] -= 1;
            if self.counts[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }
}

struct Search<'a> {
    decoder: Decoder,
    pool: KvPool,
    holders: Holders,
    settings: &'a BeamSettings,
    ends: Vec<u32>,
    prompt: usize,
    /// Best first.
    running: Vec<Open>,
    /// Best first, at most `num_beams`.
    finished: Vec<Beam>,
    open: bool,
}

impl<'a> Search<'a> {
    fn new(decoder: Decoder, prompt: &[u32], settings: &'a BeamSettings, mut ends: Vec<u32>) -> Result<Self> {
        let BeamSettings { num_beams, num_return_sequences, max_tokens, length_penalty, .. } = *settings;
        let (context, vocab) = (decoder.config().max_position_embeddings, decoder.config().vocab_size);
        if num_beams == 0 || num_beams > MOST_BEAMS {
            return Err(Error::Request(format!("num_beams: must be from 1 to {MOST_BEAMS}, not {num_beams}")));
        }
        if num_return_sequences == 0 || num_return_sequences > num_beams {
            return Err(Error::Request(format!("num_return_sequences: must be from 1 to the {num_beams} beams, not {num_return_sequences}")));
        }
        if !length_penalty.is_finite() {
            return Err(Error::Request(format!("length_penalty: must be finite, not {length_penalty}")));
        }
        if prompt.is_empty() || max_tokens == 0 {
            return Err(Error::Request(format!("{} prompt tokens and max_tokens {max_tokens}: there must be at least one of each", prompt.len())));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        if prompt.len() + max_tokens > context {
            return Err(Error::ContextLength { prompt: prompt.len(), max_tokens, context });
        }
        ends.retain(|&id| (id as usize) < vocab);
        ends.sort_unstable();
        ends.dedup();
        // The prompt once; for each beam its tokens, a copied page and one that begins.
        let pages = prompt.len().div_ceil(PAGE) + num_beams * (max_tokens.div_ceil(PAGE) + 2);
        let bytes = pages * KvPool::page_bytes(decoder.config(), PAGE, KvDtype::F32);
        if bytes > CACHE_BYTES {
            let message = format!("{num_beams} beams of {max_tokens} tokens may take {} MB of cache, at most {}", bytes >> 20, CACHE_BYTES >> 20);
            return Err(Error::Request(format!("{message}; lower num_beams or max_tokens")));
        }
        let mut search = Self {
            pool: KvPool::new(decoder.config(), pages, PAGE, KvDtype::F32),
            holders: Holders::new(pages),
            decoder,
            settings,
            ends,
            prompt: prompt.len(),
            running: vec![Open { tokens: prompt.to_vec(), logprobs: Vec::new(), sum: 0.0, pages: Vec::new() }],
            finished: Vec::new(),
            open: true,
        };
        search.read_prompt();
        Ok(search)
    }

    /// All of the prompt but its last token, which is the first step's.
    fn read_prompt(&mut self) {
        let Open { tokens, pages, .. } = &mut self.running[0];
        self.holders.reserve(pages, tokens.len());
        let fed = &tokens[..tokens.len() - 1];
        for (i, chunk) in fed.chunks(CHUNK).enumerate() {
            let positions: Vec<u32> = (i * CHUNK..i * CHUNK + chunk.len()).map(|p| p as u32).collect();
            let batch = CachedBatch { ids: chunk.to_vec().into(), positions: positions.into(), pages: vec![pages.as_slice(); chunk.len()] };
            self.decoder.hidden_cached(&batch, &mut self.pool);
        }
    }

    /// One pass over the last tokens of all open sequences; their candidates, the best `keep`, best first.
    fn candidates(&mut self, keep: usize) -> Vec<Candidate> {
        let vocab = self.decoder.config().vocab_size;
        let ids: Vec<u32> = self.running.iter().filter_map(|open| open.tokens.last().copied()).collect();
        let positions: Vec<u32> = self.running.iter().map(|open| open.tokens.len() as u32 - 1).collect();
        let pages = self.running.iter().map(|open| open.pages.as_slice()).collect();
        let hidden = self.decoder.hidden_cached(&CachedBatch { ids: ids.into(), positions: positions.into(), pages }, &mut self.pool);
        let logits = host::to_vec(self.decoder.logits(hidden));
        let best = |(parent, (open, logits)): (usize, (&Open, &[f32]))| {
            let normaliser = sample::normaliser(logits);
            let candidate = |(token, logit): (usize, &f32)| {
                let logprob = logit - normaliser;
                Candidate { parent, token: token as u32, logprob, sum: open.sum + logprob }
            };
            best_of(logits.iter().enumerate().map(candidate).collect(), keep)
        };
        let all: Vec<Vec<Candidate>> = self.running.par_iter().zip(logits.par_chunks_exact(vocab)).enumerate().map(best).collect();
        best_of(all.concat(), keep)
    }

    fn step(&mut self) {
        let BeamSettings { num_beams, max_tokens, early_stopping, .. } = *self.settings;
        // So many that `num_beams` of them go on, even if every sequence is about to end in all ways it can.
        let candidates = self.candidates(2.max(1 + self.ends.len()) * num_beams);
        let length = self.running[0].tokens.len() - self.prompt + 1;
        let last = length == max_tokens;
        // Only the best `num_beams` count as found; the rest are there to go on.
        for candidate in candidates.iter().take(num_beams) {
            if last || self.ends.contains(&candidate.token) {
                let beam = self.finish(candidate, length);
                self.finished.push(beam);
            }
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(num_beams);
        if last {
            self.open = false;
            return;
        }
        let full = self.finished.len() == num_beams;
        let go_on: Vec<Candidate> = candidates.into_iter().filter(|c| !self.ends.contains(&c.token)).take(num_beams).collect();
        let Some(best) = go_on.first() else {
            // Every token is an end token.
            self.open = false;
            return;
        };
        let hoped = match early_stopping {
            EarlyStopping::Never if self.settings.length_penalty > 0.0 => max_tokens,
            _ => length,
        };
        let hope = self.score(best.sum, hoped);
        let better = !full || self.finished.last().is_none_or(|worst| hope > worst.score);
        self.open = better && !(full && early_stopping == EarlyStopping::Full);
        if self.open {
            self.branch(&go_on);
        }
    }

    fn score(&self, sum: f32, length: usize) -> f32 {
        sum / (length as f32).powf(self.settings.length_penalty)
    }

    fn finish(&self, &Candidate { parent, token, logprob, sum }: &Candidate, length: usize) -> Beam {
        let open = &self.running[parent];
        let mut tokens = open.tokens[self.prompt..].to_vec();
        let mut logprobs = open.logprobs.clone();
        let end_token = self.ends.contains(&token).then_some(token);
        if end_token.is_none() {
            tokens.push(token);
            logprobs.push(logprob);
        }
        let finish_reason = if end_token.is_some() { FinishReason::Stop } else { FinishReason::Length };
        Beam { tokens, logprobs, end_token, score: self.score(sum, length), finish_reason }
    }

    /// The candidates become the open sequences. The last child of a sequence takes its pages over, the others share them.
    fn branch(&mut self, candidates: &[Candidate]) {
        let mut children = vec![0usize; self.running.len()];
        candidates.iter().for_each(|c| children[c.parent] += 1);
        for (open, _) in self.running.iter_mut().zip(&children).filter(|(_, n)| **n == 0) {
            self.holders.release(&mut open.pages);
        }
        let mut next = Vec::with_capacity(candidates.len());
        for &Candidate { parent, token, logprob, sum } in candidates {
            children[parent] -= 1;
            let open = &mut self.running[parent];
            let mut child = if children[parent] == 0 {
                std::mem::take(open)
            } else {
                let (pages, copy) = self.holders.fork(&open.pages, open.tokens.len());
                if let Some((from, to)) = copy {
                    self.pool.copy_page(from, to);
                }
                Open { tokens: open.tokens.clone(), logprobs: open.logprobs.clone(), sum, pages }
            };
            child.tokens.push(token);
            child.logprobs.push(logprob);
            child.sum = sum;
            self.holders.reserve(&mut child.pages, child.tokens.len());
            next.push(child);
        }
        self.running = next;
    }
}

/// The `keep` best, best first; of equals the one that came first.
fn best_of(mut candidates: Vec<Candidate>, keep: usize) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.sum.total_cmp(&a.sum).then((a.parent, a.token).cmp(&(b.parent, b.token)));
    if candidates.len() > keep {
        candidates.select_nth_unstable_by(keep, order);
        candidates.truncate(keep);
    }
    candidates.sort_unstable_by(order);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_shares_full_pages_and_copies_the_partial_one() {
        let mut holders = Holders::new(8);
        let mut a = Vec::new();
        holders.reserve(&mut a, 2 * PAGE + 3);
        let (mut b, copy) = holders.fork(&a, 2 * PAGE + 3);
        assert_eq!((&b[..2], copy), (&a[..2], Some((a[2], b[2]))));
        let (mut c, copy) = holders.fork(&a, 2 * PAGE);
        assert_eq!((c.as_slice(), copy), (&a[..2], None), "nothing partial, nothing copied");
        holders.reserve(&mut c, 2 * PAGE + 1);
        assert!(c[2] != a[2] && c[2] != b[2], "what is written is not shared");
        for table in [&mut a, &mut b, &mut c] {
            holders.release(table);
        }
        assert_eq!(holders.free.len(), 8);
    }

    #[test]
    fn the_best_come_first_and_equals_in_their_order() {
        let of = |sums: &[f32]| sums.iter().enumerate().map(|(i, &sum)| Candidate { parent: 0, token: i as u32, logprob: sum, sum }).collect();
        let tokens = |sums: &[f32], keep| best_of(of(sums), keep).iter().map(|c| c.token).collect::<Vec<_>>();
        assert_eq!(tokens(&[-3.0, -1.0, -2.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(tokens(&[-3.0, f32::NEG_INFINITY], 3), [0, 1]);
    }
}
