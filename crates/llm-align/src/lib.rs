//! From a model that continues text to one that answers: on the one trainer and the one engine.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`sft`](mod@sft) | `Sft` | imitate answers; loss on the assistant's tokens only |
//! | [`grpo`](mod@grpo) | `Grpo` | reward what can be verified, relative to the group |
//! | [`model`] | | the model that is trained, whole or by an adapter, and its reference |
//! | [`merge`] | `Merge` | adapters into the weights, with a check that nothing changed |
//! | [`verifier`] | `Verifier` | is this answer right? |
//! | [`watchdog`] | `Watchdog`, `Samples` | reward hacking, forgetting, entropy collapse: seen, told, stopped |
//!
//! Deliberately absent: a second training loop, a second way to generate.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod grpo;
pub mod merge;
pub mod model;
pub mod sft;
pub mod verifier;
pub mod watchdog;

pub use grpo::{GrpoConfig, grpo};
pub use llm_train::{Error, Result, sequences};
pub use sft::{SftConfig, sft};
pub use verifier::{ExerciseVerifier, Verifier};
pub use watchdog::{Watchdog, WatchdogConfig};
