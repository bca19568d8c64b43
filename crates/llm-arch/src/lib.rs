//! The decoder family: one declarative model, Hugging Face and GGUF checkpoints in and out.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `DecoderConfig` | sizes and choices of a decoder |
//! | [`rope`] | `RopeScaling` | rotary frequencies and their stretching |
//! | [`parameters`] | `Parameter` | names and shapes of all weights, counts, initial values |
//! | [`decoder`] | `Decoder` | the model: packed training forward, cached inference forward |
//! | `linears` | `Decoder::linears_mut` | the projections by name |
//! | [`attention`] | `Attention`, `LatentAttention` | how a block attends |
//! | [`cache`] | `KvPool`, `CachedBatch` | storage of keys and values in pages |
//! | [`adapter`] | `Adapter`, `AdapterSpec`, `merge`, `attach`, `train` | LoRA adapters: into the weights, for single rows of a batch, or trained |
//! | [`presets`] | `preset`, `PRESETS` | published models by name |
//! | [`budget`] | `Report`, `Plan` | what a configuration costs, without a tensor |
//! | [`hf`] | `load`, `save` | `config.json` and `model.safetensors` |
//! | [`gguf`] | `load`, `save` | the files of llama.cpp |
//! | [`tokens`] | `ModelFolder`, `check`, `glitch` | a model and its tokenizer, changed together or compared |
//! | [`parity`] | `check` | a model against recorded numbers of another implementation |
//!
//! Deliberately absent: optimisation, a file per model family, and text: only [`tokens`] knows what ids stand for.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod adapter;
pub mod attention;
pub mod budget;
mod build;
pub mod cache;
pub mod config;
pub mod decoder;
mod error;
pub mod gguf;
pub mod hf;
mod linears;
pub mod parameters;
pub mod parity;
pub mod presets;
pub mod rope;
pub mod tokens;

pub use adapter::{Adapter, AdapterSpec};
pub use build::Init;
pub use cache::{CachedBatch, KvDtype, KvPool};
pub use config::{DecoderConfig, Family};
pub use decoder::{Decoder, PackedBatch};
pub use error::{Error, Result};
pub use rope::RopeScaling;
