//! How much memory a training step will need, before it is taken, and the largest micro-batch that fits into a budget.
//!
//! | module | job |
//! |---|---|
//! | `adapter` | a frozen base and what trains above it |
//! | `composed` | what operations composed of Burn's keep |
//! | `moments` | what exists beside weights and optimiser at the moments of a step |
//! | `fit` | micro-batch and recomputation for a budget |
//! | `host` | what this machine has left, and what this process takes |
//!
//! The plan adds up tensors: weights, moments and master copies always exist; gradients, activations and buffers are those of the moment
//! at which their sum is largest. The fused operations of the CPU in `f32` keep little (`llm_arch::budget::memory` has the list); operations
//! that are composed of Burn's, on a GPU or in another format, keep more, above all the scores of attention.
//!
//! What the process has already taken counts as `program`. Training shards are files mapped into memory: what was read of them is
//! memory that the system takes back when it needs it, and does not count.

mod adapter;
mod composed;
mod fit;
mod host;
mod moments;

pub use adapter::AdapterPlan;
pub use fit::{Choice, fit};
pub use host::{available, measured_peak, resident};

use crate::freeze::is_frozen;
use crate::optimizer::OptimizerConfig;
use crate::recompute::Recompute;
use llm_arch::DecoderConfig;
use llm_arch::parameters::{Parameter, Role, parameters};
use llm_run::progress::thousands;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::device::is_cpu;
use serde::Serialize;
use std::fmt;

/// What is trained, and in which pieces.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Sizes.
    pub model: &'a DecoderConfig,
    /// Number format of weights, activations and, within a micro-batch, gradients.
    pub precision: Precision,
    /// Rows of a micro-batch.
    pub rows: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Activations kept or computed again.
    pub recompute: Recompute,
    /// Do the fused operations of the CPU apply ([`is_fused`])?
    pub fused: bool,
    /// Micro-batches computed at the same time.
    pub workers: usize,
    /// Whose moments are kept.
    pub optimizer: &'a OptimizerConfig,
    /// Patterns on the names of parameters that are not trained.
    pub freeze: &'a [String],
    /// The adapter, if one is trained.
    pub adapter: Option<&'a AdapterPlan>,
    /// Is the model saved, now and then or at the end? That copies it.
    pub saves: Saves,
}

/// The fused operations are those of the CPU in `f32`.
pub fn is_fused(device: &Device, precision: Precision) -> bool {
    is_cpu(device) && precision == Precision::F32
}

/// What is written while the optimiser is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Saves {
    /// Nothing: a measurement of steps.
    Nothing,
    /// The model at the end.
    Model,
    /// Checkpoints, between two steps.
    Checkpoints,
    /// Checkpoints, while training goes on: the weights and moments of the saved step, and their copies on the way to the file, may exist
    /// beside everything else.
    Beside,
}

impl Workload<'_> {
    fn tokens(&self) -> usize {
        self.rows * self.length
    }

    /// Those of the model and those of its adapter.
    fn parameters(&self) -> Vec<Parameter> {
        let mut all = parameters(self.model);
        all.extend(self.adapter.iter().flat_map(|adapter| adapter.parameters()));
        all
    }

    fn is_trained(&self, p: &Parameter) -> bool {
        p.role != Role::Buffer && !is_frozen(self.freeze, &p.name) && self.adapter.is_none_or(|adapter| adapter.trains(&p.name))
    }

    /// Bytes of a parameter in the format that it is kept in.
    fn bytes(&self, p: &Parameter) -> usize {
        let number = self.precision.bytes();
        self.adapter.map_or(p.size() * number, |adapter| adapter.bytes(p, number))
    }
}

/// Share of the tensors that glibc needs besides: holes between buffers of different sizes, and an arena for each thread, because freed
/// memory is kept (`llm_tensor::host::keep_freed_memory`). Measured at 8 to 14 %, and 0 with `MALLOC_MMAP_THRESHOLD_` at 256 KiB, which
/// gives every buffer back; with one arena (`MALLOC_ARENA_MAX=1`) a third of it.
const HOLES: f64 = 0.1;

/// Bytes at the moment of a step at which most are taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// What the process took before: code, tokenizer, tables.
    pub program: f64,
    /// Parameters in the format they are multiplied in.
    pub weights: f64,
    /// What the optimiser keeps of every trained parameter.
    pub moments: f64,
    /// Master copies where weights are not `f32`.
    pub master: f64,
    /// Of this micro-batch, and the sum of those before.
    pub gradients: f64,
    /// What the backward pass still needs.
    pub activations: f64,
    /// What exists for the operation under way: gradients of activations, logits, copies.
    pub buffers: f64,
    /// What the allocator loses between tensors, and scratch of matrix products; on the CPU only.
    pub allocator: f64,
    /// All of it.
    pub peak: f64,
    /// When that is.
    pub at: String,
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Activations kept or computed again.
    pub recompute: Recompute,
    /// What this process may take, where that is known and counts.
    pub available: Option<f64>,
}

impl MemoryPlan {
    /// Of a process that takes `program` bytes before the model is made; 0 on a card, whose allocator is not ours.
    pub fn of(w: &Workload, program: f64) -> Self {
        let all = w.parameters();
        let trained: usize = all.iter().filter(|p| w.is_trained(p)).map(Parameter::size).sum();
        let weights = all.iter().map(|p| w.bytes(p)).sum::<usize>() as f64;
        let moments = moments::kept_by_optimizer(w, &all);
        let master = if w.precision == Precision::F32 { 0.0 } else { 4.0 * trained as f64 };
        let lasting = weights + moments + master;
        let most: moments::Moment =
            moments::moments(w, moments, lasting).into_iter().max_by(|a, b| a.total().total_cmp(&b.total())).unwrap_or_default();
        let allocator = if program > 0.0 { host::scratch() + HOLES * (lasting + most.total()) } else { 0.0 };
        Self {
            program,
            weights,
            moments,
            master,
            gradients: most.gradients,
            activations: most.activations,
            buffers: most.buffers,
            allocator,
            peak: program + lasting + most.total() + allocator,
            at: most.at,
            micro_batch_size: w.rows,
            sequence_length: w.length,
            micro_batches: w.micro_batches,
            recompute: w.recompute,
            available: None,
        }
    }

    /// The plan beside what the process took in the end, for one line of text.
    pub fn compared(&self, measured: f64) -> String {
        let difference = 100.0 * (self.peak / measured - 1.0);
        format!("memory: {} MiB planned, {} MiB at the peak ({difference:+.1} %)", mib(self.peak), mib(measured))
    }
}

fn mib(bytes: f64) -> String {
    thousands((bytes / (1u64 << 20) as f64).round() as u64)
}

/// A table at 80 columns.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.micro_batch_size * self.sequence_length;
        let kept = match self.recompute {
            Recompute::None => "all kept",
            Recompute::Block => "one block's and the inputs of the others",
        };
        let gradients = if self.micro_batches > 1 { format!("{} micro-batches are summed", self.micro_batches) } else { String::new() };
        writeln!(f, "memory of a step with micro-batches of {} rows of {} tokens, MiB", self.micro_batch_size, self.sequence_length)?;
        for (part, bytes, note) in [
            ("program", self.program, String::new()),
            ("weights", self.weights, String::new()),
            ("moments", self.moments, "of the optimiser".into()),
            ("master copies", self.master, "float32".into()),
            ("gradients", self.gradients, gradients),
            ("activations", self.activations, format!("{} tokens, {kept}", thousands(tokens as u64))),
            ("buffers", self.buffers, String::new()),
            ("allocator", self.allocator, String::new()),
            ("peak", self.peak, self.at.clone()),
        ] {
            if bytes > 0.0 {
                writeln!(f, "{}", format!("  {part:<14}{:>10}  {note}", mib(bytes)).trim_end())?;
            }
        }
        match self.available {
            Some(bytes) => write!(f, "  {:<14}{:>10}", "available", mib(bytes)),
            None => Ok(()),
        }
    }
}
