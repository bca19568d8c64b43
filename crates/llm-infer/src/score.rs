//! Log-probabilities of given tokens: the numbers behind perplexity and multiple choice.

use crate::{Error, Model, Result};
use llm_arch::PackedBatch;
use llm_tensor::rayon::prelude::*;
use llm_tensor::{host, ops, sample};

/// Tokens per forward pass.
const BATCH_TOKENS: usize = 4096;
/// Logits in memory at once.
const BATCH_LOGITS: usize = 1 << 24;

/// `log p(tokens[i] | tokens[..i])` for `i >= 1`, in nats, for each sequence. Several sequences are packed into one pass; they
/// do not see each other.
pub fn score(model: &Model, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
    let decoder = model.decoder.untracked();
    let (context, vocab) = (decoder.config().max_position_embeddings, decoder.config().vocab_size as u32);
    for tokens in sequences {
        if tokens.len() > context {
            return Err(Error::ContextLength { prompt: tokens.len(), max_tokens: 0, context });
        }
        if let Some(id) = tokens.iter().find(|&&id| id >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
    }
    let mut out = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut total = 0;
        let taken = rest
            .iter()
            .take_while(|s| {
                total += s.len();
                total <= BATCH_TOKENS
            })
            .count()
            .max(1);
        let (group, tail) = rest.split_at(taken);
        rest = tail;
        let ids: Vec<u32> = group.concat();
        if ids.is_empty() {
            out.extend(group.iter().map(|_| Vec::new()));
            continue;
        }
        let mut starts = Vec::new();
        let mut targets = vec![ops::IGNORE; ids.len()];
        let mut at = 0;
        for tokens in group.iter().filter(|t| !t.is_empty()) {
            starts.push(at as u32);
            targets[at..at + tokens.len() - 1].copy_from_slice(&tokens[1..]);
            at += tokens.len();
        }
        let length = ids.len();
        let batch = PackedBatch::documents(ids, &[&starts], length);
        let nll = host::to_vec(decoder.nll(decoder.hidden(&batch), targets.into()));
        let mut at = 0;
        for tokens in group {
            out.push(nll[at..at + tokens.len().saturating_sub(1)].iter().map(|x| -x).collect());
            at += tokens.len();
        }
    }
    Ok(out)
}

/// A given token and the likeliest ones at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// `log p` of the given token, in nats.
    pub logprob: f32,
    /// The best tokens with theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// [`score`] of one sequence with the `top` likeliest tokens at each place: what a server shows of a prompt.
pub fn score_top(model: &Model, tokens: &[u32], top: usize) -> Result<Vec<TokenScore>> {
    let decoder = model.decoder.untracked();
    let (context, vocab, d) = (decoder.config().max_position_embeddings, decoder.config().vocab_size, decoder.config().hidden_size);
    if tokens.len() > context {
        return Err(Error::ContextLength { prompt: tokens.len(), max_tokens: 0, context });
    }
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
    }
    let Some((_, fed)) = tokens.split_last().filter(|(_, fed)| !fed.is_empty()) else { return Ok(Vec::new()) };
    let hidden = decoder.hidden(&PackedBatch::sequence(fed));
    let device = hidden.device();
    let hidden = host::to_vec(hidden);
    let rows = (BATCH_LOGITS / vocab).max(1);
    let mut scores = Vec::with_capacity(fed.len());
    for (hidden, targets) in hidden.chunks(rows * d).zip(tokens[1..].chunks(rows)) {
        let logits = host::to_vec(decoder.logits(host::from_vec(hidden.to_vec(), [targets.len(), d], &device)));
        let one = |(logits, &token): (&[f32], &u32)| {
            let normaliser = sample::normaliser(logits);
            let mut order: Vec<u32> = (0..vocab as u32).collect();
            let by_logit = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
            if top < vocab && top > 0 {
                order.select_nth_unstable_by(top - 1, by_logit);
            }
            order.truncate(top);
            order.sort_unstable_by(by_logit);
            let top = order.into_iter().map(|id| (id, logits[id as usize] - normaliser)).collect();
            TokenScore { logprob: logits[token as usize] - normaliser, top }
        };
        scores.par_extend(logits.par_chunks_exact(vocab).zip(targets).map(one));
    }
    Ok(scores)
}
