//! Sparse feed-forward: a router sends each token to a few of many experts, and time grows with those few.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `MoeConfig` | sizes and choices, under Hugging Face's names |
//! | [`router`] | `Router` | scores, the choice (Mixtral, Qwen, OLMoE, DeepSeek-V2 and V3), weights |
//! | [`experts`] | `Experts`, `Grouping` | tokens grouped per expert, one product per group |
//! | [`layer`] | `Moe`, `Routing` | the whole block, with shared experts |
//! | [`balance`] | - | auxiliary losses, the loss-free bias update |
//! | [`stats`] | `RoutingStats` | is the router collapsing? |
//!
//! Deliberately absent: the decoder around the block, checkpoint names of particular families, optimisation.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod balance;
pub mod config;
mod error;
pub mod experts;
pub mod layer;
pub mod router;
pub mod stats;

pub use config::{MoeConfig, Scoring, TopkMethod};
pub use error::{Error, Result};
pub use experts::{Experts, Grouping};
pub use layer::{Moe, Routing, SharedExpert};
pub use router::Router;
pub use stats::RoutingStats;
