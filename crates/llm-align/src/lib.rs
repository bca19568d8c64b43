//! From a model that continues text to one that answers: on the one trainer and the one engine.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`sft`](mod@sft) | `Sft` | imitate answers; loss on the assistant's tokens only |
//! | [`grpo`](mod@grpo) | `Grpo` | reward what can be verified, relative to the group |
//! | [`judge`](mod@judge) | `Judgement` | the finished model on held-out prompts: rewards, length, divergence |
//! | [`losses`] | | every loss as a pure function |
//! | [`rollouts`] | `Sampler`, `Rollout` | answers of the policy as it is, through the one engine |
//! | [`verifier`] | `Verifier` | is this answer right? |
//!
//! Deliberately absent: a second training loop, a second way to generate.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod grpo;
pub mod judge;
pub mod losses;
pub mod rollouts;
pub mod sft;
pub mod verifier;

pub use grpo::{GrpoConfig, grpo};
pub use llm_train::{Error, Result, sequences};
pub use sft::{SftConfig, sft};
pub use verifier::{ExerciseVerifier, Verifier};
