//! Learning from preferences: pairs of answers (`llm-align dpo`) and single answers with a verdict (`llm-align kto`).
//!
//! | file | job |
//! |---|---|
//! | [`config`] | settings of both |
//! | [`pairs`] | `Dpo`: the objective on pairs, with and without reference |
//! | [`unpaired`] | `Kto`: the objective on single answers |
//! | `rows` | encoded rows, their order, and their packing |
//! | [`scores`] | from packed sequences to one log-probability per answer |
//! | [`mod@reference`] | the reference's log-probabilities, cached or with every step |
//! | `metrics` | what a step did, under TRL's names |
//!
//! All answers of a micro-batch go through the model in one ragged batch without padding, and only positions whose next token belongs to an
//! answer reach the output projection. The losses are in [`crate::losses`].

pub mod config;
mod metrics;
pub mod pairs;
pub mod reference;
mod rows;
pub mod scores;
mod start;
pub mod unpaired;

pub use config::{DpoConfig, KtoConfig};
pub use pairs::{Dpo, dpo};
pub use reference::ReferenceLogProbs;
pub use unpaired::{Kto, kto};
