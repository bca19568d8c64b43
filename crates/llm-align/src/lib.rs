//! From a model that continues text to one that answers: on the one trainer and the one engine.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`sft`](mod@sft) | `Sft` | imitate answers; loss on the assistant's tokens only |
//! | [`grpo`](mod@grpo) | `Grpo` | reward what can be verified, relative to the group |
//! | [`verifier`] | `Verifier` | is this answer right? |
//! | [`preference`] | `Dpo`, `Kto` | prefer the better of two answers, or the good ones |
//! | [`losses`] | | the losses of all of them, as pure functions |
//! | [`loss_lab`] | | what losses on pairs do, as a page |
//!
//! Deliberately absent: a second training loop, a second way to generate.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod grpo;
pub mod loss_lab;
pub mod losses;
pub mod preference;
pub mod sft;
pub mod verifier;

pub use grpo::{GrpoConfig, grpo};
pub use llm_train::{Error, Result, sequences};
pub use preference::{DpoConfig, KtoConfig, dpo, kto};
pub use sft::{SftConfig, sft};
pub use verifier::{ExerciseVerifier, Verifier};
