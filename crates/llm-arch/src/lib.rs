//! The decoder family: one declarative model, Hugging Face checkpoints in and out.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `DecoderConfig` | sizes and choices of a decoder; parameter counts |
//! | [`decoder`] | `Decoder` | the model: packed training forward, cached inference forward |
//! | [`cache`] | `KvPool`, `CachedBatch` | storage of keys and values in pages |
//! | [`hf`] | `load`, `save` | `config.json` and `model.safetensors` |
//!
//! Deliberately absent: text, sampling, optimisation, and a file per model family.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod cache;
pub mod config;
pub mod decoder;
mod error;
pub mod hf;

pub use cache::{CachedBatch, KvPool};
pub use config::{DecoderConfig, Family, RopeScaling};
pub use decoder::{Decoder, PackedBatch};
pub use error::{Error, Result};
