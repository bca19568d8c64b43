//! LoRA adapters in PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! | module | job |
//! |---|---|
//! | [`config`] | which projections, how strong |
//! | `read` | the folder against a model: what happens to which rows of which of our parameters |
//! | `merge` | into the weights, once and for all |
//! | `attach` | beside the weights, for the rows of a batch that ask for it |
//! | `spec` | what to train, and how the frozen model is kept |
//! | `targets` | which parameters that is in a model |
//! | `base` | the frozen model, quantised tensor by tensor |
//! | `train` | on the weights, with gradients: fresh or going on |
//! | `write` | what was trained, as a folder |
//! | `folder` | from an adapter's folder to its model |
//! | `combine` | several adapters of one model as one |
//!
//! An adapter of a module that a checkpoint keeps fused (`qkv_proj`, `c_attn`, `query_key_value`) changes several of our parameters: all with the
//! same A, each with its own rows of B.

mod attach;
mod base;
mod combine;
pub mod config;
mod folder;
mod merge;
mod read;
mod spec;
mod targets;
mod train;
mod write;

pub use attach::{attach, detach};
pub use base::{build_frozen, load_frozen};
pub use combine::{Combination, combine};
pub use config::AdapterConfig;
pub use folder::{base_of, is_folder};
pub use merge::merge;
pub use spec::{AdapterSpec, BaseFormat, ModuleNames};
pub use targets::{Target, Targets};
pub use train::{AdapterTraining, beside, restore, resume, train};
pub use write::write;

use std::collections::BTreeMap;
use std::path::PathBuf;

/// An adapter that was found to fit a model.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its configuration.
    pub config: AdapterConfig,
    /// What it does, by canonical name of the parameter.
    pub changes: BTreeMap<String, Vec<Change>>,
}

/// What happens to consecutive rows of a parameter, all leading dimensions flattened.
#[derive(Debug, Clone)]
pub struct Change {
    /// The first of them.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// What.
    pub delta: Delta,
}

/// What happens to rows.
#[derive(Debug, Clone)]
pub enum Delta {
    /// `W + scale * B A`; with magnitudes each row of that is scaled to its magnitude.
    LowRank {
        /// R.
        rank: usize,
        /// Factor of the product.
        scale: f32,
        /// `[R, I]`.
        a: Vec<f32>,
        /// `[rows, R]`.
        b: Vec<f32>,
        /// `[rows]` (DoRA).
        magnitude: Option<Vec<f32>>,
    },
    /// Other numbers.
    Whole(Vec<f32>),
}
