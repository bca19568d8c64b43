//! The only crate that knows how Burn works.
//!
//! Everything above reaches devices, dtypes, attention, fused operations and weight files through these small modules,
//! because Burn changes them from release to release. Plain tensor arithmetic and `#[derive(Module)]` are used directly
//! everywhere and re-exported from [`burn`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | `DeviceSpec`: `auto`, `cpu`, `cuda:N`, `vulkan:N`, `webgpu:N` |
//! | [`dtype`] | `Precision`: float32, bfloat16, float16 |
//! | [`ops`] | attention, rope, norms, activations, cross entropy, linear, AdamW: fused on the CPU, composed elsewhere |
//! | [`kernels`] | the CPU kernels behind them, on plain slices |
//! | [`nn`] | `Linear`, `Embedding`, `Norm`; `lora`: adapters of single rows |
//! | [`params`] | parameters and gradients by checkpoint name |
//! | [`quant`] | matrices in 4, 6, 8 and 16 bits, and the layouts of 4 and 8 bits in files |
//! | [`weights`] | safetensors in and out, in Hugging Face layout |
//! | [`sample`] | from logits to a token, on plain slices |
//! | [`host`] | tensors to and from `Vec<f32>` |
//!
//! Deliberately absent: models, tokenizers, files other than weights.

pub mod device;
pub mod dtype;
mod error;
pub mod host;
pub mod kernels;
pub mod nn;
pub mod ops;
pub mod params;
pub mod quant;
pub mod sample;
pub mod weights;

pub use burn;
pub use device::DeviceSpec;
pub use dtype::Precision;
pub use error::{Error, Result};
pub use rayon;
