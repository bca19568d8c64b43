//! What a configuration costs: parameters, arithmetic, memory, devices, and how much training a budget buys.
//!
//! Everything here follows from [`crate::DecoderConfig`] alone; no tensor is made, so 671 billion parameters take no longer than one million.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`parts`] | `Parts` | parameters by part of the model |
//! | [`flops`] | `Flops` | arithmetic of a token, forward and in training |
//! | [`memory`] | `Memory`, `Mode` | bytes of weights, gradients, optimiser, activations, keys and values |
//! | [`devices`] | `Device`, `DEVICES` | memory and peak arithmetic of common accelerators |
//! | [`chinchilla`] | `Plan`, `Goal` | size, tokens, time and money of a training run |
//! | [`report`] | `Report` | all of it for one model, ready to print |

pub mod chinchilla;
pub mod devices;
pub mod flops;
pub mod memory;
pub mod parts;
pub mod report;

pub use chinchilla::{Assumptions, Goal, Plan};
pub use devices::{DEVICES, Device};
pub use flops::Flops;
pub use memory::{Memory, Mode, Optimizer, Storage};
pub use parts::Parts;
pub use report::Report;
