//! From a model that continues text to one that answers: on the one trainer and the one engine.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`sft`](mod@sft) | `Sft` | imitate answers; loss on the assistant's tokens only |
//! | [`grpo`](mod@grpo) | `Grpo` | reward what can be verified, relative to the group |
//! | [`reward`](mod@reward) | `RewardModel` | learn which of two answers is preferred, and how sure to be of it |
//! | [`ppo`](mod@ppo) | `Ppo`, `ActorCritic` | follow a learned reward, with a value function and a leash |
//! | [`judge`](mod@judge) | `Judgement` | the finished model on held-out prompts: rewards, length, divergence |
//! | [`losses`] | | every loss as a pure function |
//! | [`rollouts`] | `Sampler`, `Rollout` | answers of the policy as it is, through the one engine |
//! | [`data`] | `Conversation`, `Pair`, `Labelled`, `Prompt`, `Encoder` | rows of others' formats, checked, as ids and loss masks |
//! | [`pairs`](mod@pairs) | `PairsConfig` | preference pairs from a model's own answers |
//! | [`replay`] | `Replay` | general data in every step of SFT, and how much is forgotten |
//! | [`show`] | `Shown` | which tokens of a row are trained |
//! | [`watchdog`] | `Watchdog`, `Samples` | reward hacking, forgetting, entropy collapse: seen, told, stopped |
//! | [`model`] | | the model that is trained, whole or by an adapter, and its reference |
//! | [`merge`] | `Merge` | adapters into the weights, with a check that nothing changed |
//! | [`preference`] | `Dpo`, `Kto` | prefer the better of two answers, or the good ones |
//! | [`loss_lab`] | | what losses on pairs do, as a page |
//!
//! Deliberately absent: a second training loop, a second way to generate.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod data;
pub mod grpo;
pub mod judge;
pub mod loss_lab;
pub mod losses;
pub mod merge;
pub mod model;
pub mod pairs;
pub mod ppo;
pub mod preference;
pub mod replay;
pub mod reward;
pub mod rollouts;
pub mod sft;
pub mod show;
pub mod watchdog;

pub use grpo::{GrpoConfig, grpo};
pub use llm_train::{Error, Result, sequences};
pub use pairs::{PairsConfig, pairs};
pub use ppo::{ActorCritic, PpoConfig, ppo};
pub use preference::{DpoConfig, KtoConfig, dpo, kto};
pub use reward::{RewardConfig, RewardModel, ScoreConfig, reward, score};
pub use sft::{SftConfig, sft};
pub use watchdog::{Watchdog, WatchdogConfig};
