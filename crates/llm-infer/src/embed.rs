//! Embeddings: one vector for a text, from the last layer's hidden states after the final norm.
//!
//! Which position stands for the text, or whether all do, is the model's affair: decoders trained for it use the last token, others the
//! mean.

use crate::{Error, Model, Result};
use llm_arch::PackedBatch;
use llm_tensor::host;

/// Tokens per forward pass.
const BATCH_TOKENS: usize = 4096;

/// From a hidden state for each token to one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// That of the last token, which has seen all.
    #[default]
    Last,
    /// Their mean.
    Mean,
    /// That of the first token. A causal decoder's first token has seen nothing else; for models that were trained so.
    Cls,
}

/// A vector of `hidden_size` for each sequence, in order; of length 1 if `normalise`. Several sequences are packed into one pass; they do
/// not see each other.
pub fn embed(model: &Model, sequences: &[Vec<u32>], pooling: Pooling, normalise: bool) -> Result<Vec<Vec<f32>>> {
    let decoder = model.decoder.untracked();
    let config = decoder.config();
    let (context, vocab, d) = (config.max_position_embeddings, config.vocab_size as u32, config.hidden_size);
    for tokens in sequences {
        if tokens.is_empty() {
            return Err(Error::Request("a text without tokens has no embedding".into()));
        }
        if tokens.len() > context {
            return Err(Error::ContextLength { prompt: tokens.len(), max_tokens: 0, context });
        }
        if let Some(id) = tokens.iter().find(|&&id| id >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
    }
    // Where frequencies depend on the length of a pass, each sequence has its own.
    let budget = if config.rope_scaling.depends_on_length() { 0 } else { BATCH_TOKENS };
    let mut out = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut total = 0;
        let taken = rest.iter().take_while(|s| {
            total += s.len();
            total <= budget
        });
        let (group, tail) = rest.split_at(taken.count().max(1));
        rest = tail;
        let ids = group.concat();
        let starts: Vec<u32> = group
            .iter()
            .scan(0, |at, tokens| {
                *at += tokens.len() as u32;
                Some(*at - tokens.len() as u32)
            })
            .collect();
        let length = ids.len();
        let hidden = host::to_vec(decoder.hidden(&PackedBatch::documents(ids, &[&starts], length)));
        let mut hidden = hidden.chunks_exact(d);
        for tokens in group {
            let rows: Vec<&[f32]> = hidden.by_ref().take(tokens.len()).collect();
            let mut vector = pool(&rows, pooling);
            if normalise {
                to_unit_length(&mut vector);
            }
            out.push(vector);
        }
    }
    Ok(out)
}

fn pool(rows: &[&[f32]], pooling: Pooling) -> Vec<f32> {
    match pooling {
        Pooling::Last => rows.last().map_or(Vec::new(), |row| row.to_vec()),
        Pooling::Cls => rows.first().map_or(Vec::new(), |row| row.to_vec()),
        Pooling::Mean => {
            let mut sum = vec![0.0f64; rows.first().map_or(0, |row| row.len())];
            for row in rows {
                sum.iter_mut().zip(*row).for_each(|(s, x)| *s += f64::from(*x));
            }
            sum.into_iter().map(|s| (s / rows.len() as f64) as f32).collect()
        }
    }
}

/// A vector of zeros stays one.
fn to_unit_length(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}
