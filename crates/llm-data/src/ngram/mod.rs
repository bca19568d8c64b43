//! n-gram language models: trained, read, written, and used to tell fluent text from noise by its perplexity.
//!
//! Training is interpolated modified Kneser-Ney (Chen and Goodman, 1998; Heafield et al., 2013, whose `lmplz` sets the details).
//! Models are read and written as ARPA text and as KenLM's binary format with probing hash tables, whose layout is also the one in
//! memory. Scores are log10, as there. CCNet (Wenzek et al., 2020) sorts documents into head, middle and tail by the quantiles of
//! perplexity on a reference sample: see [`buckets`].

mod arpa;
pub mod buckets;
mod kenlm;
mod model;
pub mod sample;
mod scorer;
mod train;

pub use model::Model;
pub use model::Score;
pub use scorer::{DESCRIPTION, Description, Scorer, Unit, Units, train};
pub use train::{Estimate, TrainConfig, estimate};

/// Longest n-gram of a model.
pub const MAX_ORDER: usize = 8;

/// Something that says how surprising a text is.
pub trait Perplexity: Send + Sync {
    /// Perplexity per token, ends of lines counted; infinite for a text without tokens.
    fn perplexity(&self, text: &str) -> f64;
}
