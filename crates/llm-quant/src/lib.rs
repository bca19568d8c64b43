//! Smaller weights, and what they cost.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `QuantizeConfig`, `Method` | what `llm-quant quantize` can be told |
//! | [`quantize`] | `quantize` | a model folder to a smaller one |
//! | [`round`] | `Grid` | round to nearest: groups of 4 or 8 bits |
//! | [`mod@gptq`] | `Hessian`, `quantize` | rounding that makes up for its errors on calibration inputs |
//! | [`calibration`] | `Calibration` | token rows from shards or documents |
//! | [`sequential`] | `run` | GPTQ through the blocks of a decoder |
//! | [`linalg`] | | the Cholesky factor behind GPTQ |
//! | [`mod@compare`] | `Comparison` | size, bits per byte, KL, flips, tasks, speed |
//!
//! Codes, layouts, NF4, int8 rows and kernels are in `llm_tensor::quant` and behind `llm_tensor::nn::Linear`; folders in `llm_arch::hf`. Deliberately absent: a
//! way of its own to run or load a model.

pub mod calibration;
pub mod compare;
pub mod config;
mod error;
pub mod gptq;
pub mod linalg;
pub mod quantize;
pub mod round;
pub mod sequential;

pub use error::{Error, Result};
