//! Changing the vocabulary of a tokenizer that a model was trained with: new tokens behind the old ids ([`Tokenizer::with_tokens`],
//! [`Tokenizer::with_vocabulary`]), or fewer tokens under new ids ([`Tokenizer::pruned`]).
//!
//! | module | job |
//! |---|---|
//! | `parts` | the texts of a tokenizer folder, taken apart and put together again |
//! | `grow` | new tokens, as added tokens or as merges |
//! | `chains` | merges that make one token of a word |
//! | `prune` | fewer tokens, renumbered |
//! | `keep` | what pruning may not take away |
//!
//! Rows of a model are not changed here; `llm-arch tokens` does both. Every result was also opened with the `tokenizers` crate, which
//! numbers added tokens by its own rule and not by the `id` in the file: a result that it would number differently is refused.

mod chains;
mod grow;
mod keep;
mod parts;
mod prune;

pub use grow::{Grown, Made, NewToken, Placement, Placing};
pub use prune::Pruned;

use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// BLAKE3 of what every id stands for: tokenizers with the same hash read the rows of a model the same way. How text is cut does
    /// not enter, so it stays when merges are reordered or a chat template changes.
    pub fn vocabulary_hash(&self) -> String {
        let mut bytes = Vec::new();
        for id in 0..self.vocab_size() as u32 {
            if let Some(token) = self.token_bytes(id) {
                bytes.extend_from_slice(&id.to_le_bytes());
                bytes.extend_from_slice(&(token.len() as u32).to_le_bytes());
                bytes.extend_from_slice(token);
            }
        }
        llm_run::hash::bytes(&bytes)
    }
}
