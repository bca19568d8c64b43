//! A model and its tokenizer, changed together or compared: more tokens, fewer tokens, tokens that training never met.
//!
//! | module | noun | job |
//! |---|---|---|
//! | `folder` | [`ModelFolder`] | read a folder without its weights, write it again with other vocabulary tables |
//! | [`rows`] | `Row`, `RowInit` | where each row of a new table comes from |
//! | [`transplant`] | `Transplant`, `Resize` | another tokenizer for a model |
//! | [`samples`] | `Counts`, `Recut` | which tokens texts use, and how they are cut afterwards |
//! | [`check`] | `Findings` | do tokenizer and model belong together? |
//! | [`glitch`] | `Report` | tokens that training hardly met |
//! | `indicators` | | numbers about rows that `glitch` sorts by |
//! | `ids` | | token ids in `config.json` and `generation_config.json` |
//!
//! The tokenizer's half is `llm_tokenizer::surgery`. Weights are rows of bytes here: nothing is computed on a device, and what does not change
//! is copied to the bit, in whatever number format it is stored.

pub mod check;
mod folder;
pub mod glitch;
mod ids;
mod indicators;
pub mod rows;
pub mod samples;
pub mod transplant;

pub use folder::{ModelFolder, ROUND, Settings, Sizes};
pub use transplant::{Resize, Transplant};
