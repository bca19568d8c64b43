//! Pre-training, and the loop everyone else uses.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`trainer`] | `Trainer`, `Objective` | the loop: batches, gradients, clipping, optimiser, metrics, checkpoints |
//! | [`trainable`] | `Trainable` | what the loop asks of a model |
//! | [`freeze`] | | which parameters stay as they are |
//! | [`optimizer`] | `Optimizer`, `Clip` | AdamW, Muon, Adafactor, Lion; decoupled weight decay on matrices, state by parameter name |
//! | [`schedule`] | `Schedule` | the learning rate as a pure function of the step |
//! | [`mixture`] | `Mixture` | balancing and watching the experts of a sparse model |
//! | [`recompute`] | `Recompute`, `Deferred` | activations of a block again in the backward pass, to the bit |
//! | [`memory`] | `MemoryPlan` | what a step will need, before it is taken; the largest micro-batch that fits |
//! | [`spikes`] | `SpikeConfig`, `Monitor` | steps that look wrong: logged, skipped, or taken back; divergence |
//! | [`loss_scale`] | `LossScale` | float16's small gradients |
//! | [`checkpoint`] | `Snapshot`, `Writer`, `Identity` | written beside the training, atomic, checksummed, refused when the run changed |
//! | [`mod@watch`] | `Watch` | progress line, dashboard, TensorBoard files, report and forecast |
//! | [`evaluation`] | `Evaluation` | benchmarks while training, with every validation |
//! | [`mod@bench`] | `Training`, `Report` | the step on random weights and tokens: tokens/s, MFU, memory |
//! | [`dial`] | `Dial`, `Recipe` | one number sets shape, batch, rate and steps |
//! | [`sweep`] | `Spec`, `Execution` | many runs that differ in some settings, ranked |
//! | [`scaling`] | `Fit`, `IsoFlops` | scaling laws from runs, with intervals |
//! | [`quantity`] | | large numbers for people |
//! | [`sequences`] | `Sequences` | conversations of any length as one ragged batch without padding |
//! | [`pretrain`] | `Pretrain` | next-token prediction over packed shards |
//! | [`vision`] | `Contrastive`, `Instruct` | towers from pictures and captions; a language model that answers about pictures |
//!
//! SFT and reinforcement learning are further `Objective`s and live in `llm-align`.
//!
//! The order of data, the learning rate and every random number are functions of (seed, step). A run that is killed and
//! started again is the same run, to the last bit.
//!
//! Deliberately absent: text, chat templates, sampling.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod bench;
pub mod checkpoint;
pub mod dial;
mod error;
pub mod evaluation;
pub mod freeze;
pub mod loss_scale;
pub mod memory;
pub mod mixture;
pub mod optimizer;
pub mod pretrain;
pub mod quantity;
pub mod recompute;
pub mod scaling;
pub mod schedule;
pub mod sequences;
pub mod spikes;
pub mod sweep;
pub mod trainable;
pub mod trainer;
pub mod vision;
pub mod watch;

pub use error::{Error, Result};
pub use optimizer::{Clip, Optimizer, OptimizerConfig, OptimizerKind, ParameterGroup, StateFormat};
pub use recompute::Recompute;
pub use schedule::{Decay, Schedule, ScheduleKind, Warmup};
pub use trainable::Trainable;
pub use trainer::{Loss, Objective, Trainer, TrainerConfig};
pub use watch::{Watch, WatchArgs, WatchConfig};
