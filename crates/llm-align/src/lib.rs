//! From a model that continues text to one that answers: on the one trainer and the one engine.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`sft`](mod@sft) | `Sft` | imitate answers; loss on the assistant's tokens only |
//! | [`grpo`](mod@grpo) | `Grpo` | reward what can be verified, relative to the group |
//! | [`reward`](mod@reward) | `RewardModel` | learn which of two answers is preferred, and how sure to be of it |
//! | [`ppo`](mod@ppo) | `Ppo`, `ActorCritic` | follow a learned reward, with a value function and a leash |
//! | [`losses`] | | the formulas, as pure functions |
//! | [`verifier`] | `Verifier` | is this answer right? |
//!
//! Deliberately absent: a second training loop, a second way to generate.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod grpo;
pub mod losses;
pub mod ppo;
pub mod reward;
pub mod sft;
pub mod verifier;

pub use grpo::{GrpoConfig, grpo};
pub use llm_train::{Error, Result, sequences};
pub use ppo::{ActorCritic, PpoConfig, ppo};
pub use reward::{RewardConfig, RewardModel, ScoreConfig, reward, score};
pub use sft::{SftConfig, sft};
pub use verifier::{ExerciseVerifier, Verifier};
