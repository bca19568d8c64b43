//! Log-probabilities of given tokens: the numbers behind perplexity and multiple choice.

use crate::{Error, Model, Result};
use llm_arch::PackedBatch;
use llm_tensor::{host, ops};

/// Tokens per forward pass.
const BATCH_TOKENS: usize = 4096;

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
