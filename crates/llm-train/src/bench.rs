//! How fast a training step is: the real one (forward, loss, backward, clipping, AdamW) on random weights and random tokens.
//! No operation's time depends on them. With an adapter the weights are frozen and kept as its settings say.
//!
//! Arithmetic is counted by [`llm_arch::budget::Flops`] (masked scores are not work), and MFU is its share of the peak that the
//! maker of the card states for bf16. A step ends when the device has finished it.

use crate::memory::{self, AdapterPlan, MemoryPlan, Saves, Workload};
use crate::recompute::{self, Forward, Recompute};
use crate::trainer::{Accumulated, Loss, Objective, accumulate, read_loss};
use crate::{Clip, Error, Optimizer, OptimizerConfig, Result, Trainable};
use llm_arch::budget::{self, Flops};
use llm_arch::config::Positions;
use llm_arch::parameters::initial_values;
use llm_arch::{AdapterSpec, Decoder, DecoderConfig, PackedBatch, adapter};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::{DeviceSpec, Precision, ops};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

/// Learning rate of every step; any will do.
const LR: f64 = 1e-4;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Sizes.
    pub model: DecoderConfig,
    /// Where.
    pub device: DeviceSpec,
    /// Number format of weights and activations.
    pub precision: Precision,
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Forward and backward passes over so many rows before a step.
    pub micro_batches: usize,
    /// Activations kept or computed again.
    pub recompute: Recompute,
    /// What is trained instead of the model.
    pub adapter: Option<AdapterSpec>,
}

impl Setup {
    /// What its steps will need.
    pub fn memory_plan(&self, device: &Device) -> Result<MemoryPlan> {
        let adapter = self.adapter.as_ref().map(|spec| AdapterPlan::of(&self.model, spec)).transpose()?;
        let workload = Workload {
            model: &self.model,
            precision: self.precision,
            rows: self.batch,
            length: self.length,
            micro_batches: self.micro_batches,
            recompute: self.recompute,
            fused: memory::is_fused(device, self.precision),
            workers: 1,
            optimizer: &OptimizerConfig::default(),
            freeze: &[],
            adapter: adapter.as_ref(),
            saves: Saves::Nothing,
        };
        Ok(MemoryPlan::of(&workload, memory::resident().unwrap_or(0.0)))
    }
}

/// The 5.3 M-parameter Llama that `benches/peers/train_step.py` trains with PyTorch, for rows of `length` tokens.
pub fn reference_model(length: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size: 4096,
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 4,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        max_position_embeddings: length,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    }
}

/// Next-token prediction on random rows.
#[derive(Debug)]
struct RandomRows {
    rows: usize,
    length: usize,
    vocab: usize,
    micro_batches: usize,
    recompute: Recompute,
}

impl Objective for RandomRows {
    type Model = Decoder;
    type Batch = (PackedBatch, ops::Indices);

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<Self::Batch>> {
        let mut rng = Seed(1).at(step).rng();
        let mut draw = || (0..self.rows * self.length).map(|_| rng.below(self.vocab) as u32).collect::<Vec<_>>();
        let starts = vec![&[0u32][..]; self.rows];
        Ok((0..self.micro_batches).map(|_| (PackedBatch::documents(draw(), &starts, self.length), draw().into())).collect())
    }

    fn loss(&self, model: &Decoder, (batch, targets): &Self::Batch) -> Result<Loss> {
        let tokens = targets.len() as u64;
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, batch, None, self.recompute);
        let value = model.nll(hidden_ND, targets.clone()).sum() / (tokens * self.micro_batches as u64) as f32;
        Ok(Loss { value, tokens, deferred })
    }
}

/// Everything a step needs and changes.
#[derive(Debug)]
pub struct Training {
    /// Absent only after a step that failed.
    decoder: Option<Decoder>,
    optimizer: Optimizer,
    objective: RandomRows,
    device: Device,
    step: u64,
}

impl Training {
    /// Fresh weights on the device.
    pub fn new(setup: &Setup) -> Result<Self> {
        let Setup { model, batch, length, micro_batches, .. } = setup;
        if *batch == 0 || *length == 0 || *micro_batches == 0 {
            return Err(Error::Config(format!("{micro_batches} micro-batches of {batch} x {length} tokens: all must be at least 1")));
        }
        if *length > model.max_position_embeddings {
            let max = model.max_position_embeddings;
            let cost = if model.positions == Positions::Learned { "; that makes the position table longer" } else { "" };
            let message = format!("rows of {length} tokens, but max_position_embeddings = {max}; --set max_position_embeddings={length}{cost}");
            return Err(Error::Config(message));
        }
        let device = setup.device.open()?;
        if !device.supports_dtype(setup.precision.dtype()) {
            return Err(Error::Config(format!("{} does not compute in {}; choose another --precision", setup.device, setup.precision)));
        }
        let decoder = match &setup.adapter {
            None => Decoder::new_as(model, Seed(0), setup.precision, &device.clone().autodiff())?.tracked(),
            Some(spec) => {
                let mut init = |name: &str, shape: &[usize]| llm_arch::Result::Ok(initial_values(model, Seed(0), name, shape));
                let base = adapter::build_frozen(model, spec, &device.clone().autodiff(), setup.precision, &mut init)?;
                adapter::train(base, spec, Seed(0), PathBuf::new())?
            }
        };
        let objective =
            RandomRows { rows: *batch, length: *length, vocab: model.vocab_size, micro_batches: *micro_batches, recompute: setup.recompute };
        let optimizer = Optimizer::new(OptimizerConfig::default(), &decoder.trained(&BTreeSet::new()))?;
        Ok(Self { decoder: Some(decoder), optimizer, objective, device, step: 0 })
    }

    /// Learned numbers.
    pub fn num_parameters(&self) -> usize {
        self.decoder.as_ref().map_or(0, Decoder::num_parameters)
    }

    /// Learned numbers that are trained, and bytes of those that are not.
    pub fn trained_and_frozen(&self) -> (usize, usize) {
        let Some(decoder) = &self.decoder else { return (0, 0) };
        let trained: usize = decoder.trained(&BTreeSet::new()).values().map(|(shape, _)| shape.iter().product::<usize>()).sum();
        (trained, decoder.frozen_bytes())
    }

    /// One step, until the device has finished it; returns its loss.
    pub fn step(&mut self) -> Result<f32> {
        let decoder = self.decoder.take().ok_or_else(|| Error::Config("a step of this training failed before".into()))?;
        decoder.set_step(self.step);
        let batches = self.objective.batches(self.step, &decoder)?;
        let models = [decoder];
        let Accumulated { losses, gradients, .. } = accumulate(&self.objective, &models, batches, 1.0)?;
        let [decoder] = models;
        self.step += 1;
        let clip = Clip::new(&gradients, self.optimizer.config().grad_clip, 1.0);
        self.decoder = Some(self.optimizer.step(decoder, gradients, &clip, LR, self.step));
        let loss = read_loss(losses);
        self.device.sync().map_err(|e| Error::Config(format!("step {}: the device failed: {e}", self.step)))?;
        Ok(loss)
    }
}

/// Median and extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one (of an even number the later).
    pub median: f64,
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub most: f64,
}

impl Spread {
    /// None of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self { median: *values.get(values.len() / 2)?, least: *values.first()?, most: *values.last()? })
    }
}

/// What `llm-train bench` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `train_step`, as the scripts of `benches/peers` say.
    pub bench: &'static str,
    /// Whose step.
    pub framework: &'static str,
    /// Device as given.
    pub device: String,
    /// What the card calls itself.
    pub card: Option<String>,
    /// Threads of the CPU kernels.
    pub threads: usize,
    /// Number format.
    pub precision: Precision,
    /// Learned numbers.
    pub parameters: usize,
    /// Of these, those that are trained.
    pub trained_parameters: usize,
    /// The adapter, if one is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Bytes of the model below the adapter by number, tables and norms included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_bytes_per_parameter: Option<f64>,
    /// Rows and tokens of each.
    pub batch: [usize; 2],
    /// Batches of a step.
    pub micro_batches: usize,
    /// Activations kept or computed again.
    pub recompute: Recompute,
    /// Steps that count, after `warmup` that do not.
    pub steps: usize,
    /// See there.
    pub warmup: usize,
    /// At the median step time.
    pub tokens_per_second: f64,
    /// At the shortest step time.
    pub tokens_per_second_best: f64,
    /// Seconds of a step.
    pub step_seconds: Spread,
    /// Of the first step, warm-up included.
    pub first_loss: f32,
    /// Of the last step.
    pub last_loss: f32,
    /// Forward and backward.
    pub flops_per_token: f64,
    /// Achieved at the median, in 10^12 FLOP/s.
    pub tflops: f64,
    /// What the device could do, if that is known.
    pub peak_tflops: Option<f64>,
    /// `tflops / peak_tflops`.
    pub mfu: Option<f64>,
    /// Largest resident memory of this process.
    pub host_peak_mib: Option<f64>,
    /// What was planned before the first step ([`crate::memory`]).
    pub planned_mib: f64,
    /// Memory that Burn's allocator holds on the device at the end; it never gives back what a step needed.
    pub device_mib: Option<f64>,
}

/// Measure `steps` steps after `warmup` others. `peak_tflops` replaces what is known of the card; `progress` hears of every step.
pub fn run(setup: &Setup, warmup: usize, steps: usize, peak_tflops: Option<f64>, progress: &mut dyn FnMut(usize, f32, f64)) -> Result<Report> {
    let plan = setup.memory_plan(&setup.device.open()?)?;
    let mut training = Training::new(setup)?;
    let tokens = (setup.micro_batches * setup.batch * setup.length) as f64;
    let (mut seconds, mut first_loss, mut last_loss) = (Vec::new(), f32::NAN, f32::NAN);
    for i in 0..warmup + steps {
        let clock = Instant::now();
        last_loss = training.step()?;
        let elapsed = clock.elapsed().as_secs_f64();
        if !last_loss.is_finite() {
            return Err(Error::Diverged { step: i as u64, reason: format!("the loss is {last_loss}"), lr: LR });
        }
        if i == 0 {
            first_loss = last_loss;
        }
        if i >= warmup {
            seconds.push(elapsed);
        }
        progress(i + 1, last_loss, tokens / elapsed);
    }
    let step_seconds = Spread::of(seconds).ok_or_else(|| Error::Config("at least one step must be measured".into()))?;
    let card = DeviceSpec::card(&training.device);
    // Forward, and backward through inputs and weights; of a frozen model through inputs only.
    let share = if setup.adapter.is_some() { 2.0 / 3.0 } else { 1.0 };
    let flops_per_token = share * Flops::of(&setup.model, setup.length).training;
    let (trained_parameters, frozen_bytes) = training.trained_and_frozen();
    let frozen = setup.model.num_parameters();
    let tflops = flops_per_token * tokens / step_seconds.median / 1e12;
    let peak_tflops = peak_tflops.or_else(|| Some(peak_of(card.as_deref()?)? / 1e12));
    Ok(Report {
        bench: "train_step",
        framework: "llm-train",
        device: setup.device.to_string(),
        card,
        threads: llm_tensor::rayon::current_num_threads(),
        precision: setup.precision,
        parameters: training.num_parameters(),
        trained_parameters,
        adapter: setup.adapter.clone(),
        frozen_bytes_per_parameter: setup.adapter.is_some().then(|| frozen_bytes as f64 / frozen.max(1) as f64),
        batch: [setup.batch, setup.length],
        micro_batches: setup.micro_batches,
        recompute: setup.recompute,
        steps,
        warmup,
        tokens_per_second: (tokens / step_seconds.median).round(),
        tokens_per_second_best: (tokens / step_seconds.least).round(),
        step_seconds,
        first_loss,
        last_loss,
        flops_per_token,
        tflops,
        peak_tflops,
        mfu: peak_tflops.map(|peak| tflops / peak),
        host_peak_mib: host_peak_mib(),
        planned_mib: plan.peak / MIB,
        device_mib: training.device.memory_pool_usage().map(|usage| usage.bytes_reserved as f64 / MIB),
    })
}

const MIB: f64 = (1u64 << 20) as f64;

/// Peak resident memory of this process, as Linux counts it.
pub fn host_peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()? / 1024.0)
}

/// Peak bf16 FLOP/s of a card by the name that its driver gives. Slower variants of a listed model are not guessed.
pub(crate) fn peak_of(card: &str) -> Option<f64> {
    let words: Vec<String> = card.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect();
    if words.iter().any(|w| matches!(w.as_str(), "pcie" | "nvl" | "laptop" | "max" | "d" | "mig")) {
        return None;
    }
    let has = |wanted: &str| words.iter().any(|w| *w == wanted || w.strip_suffix("gb") == Some(wanted));
    let named = |device: &&budget::Device| device.name.split([' ', '-']).all(|part| has(&part.to_ascii_lowercase()));
    budget::DEVICES.iter().find(named)?.peak_flops
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, MFU is a share of the wrong number.
    #[test]
    fn peaks_are_found_by_the_names_that_drivers_give() {
        for (card, tflops) in [
            ("NVIDIA H100 80GB HBM3", Some(989.4)),
            ("NVIDIA H200", Some(989.4)),
            ("NVIDIA A100-SXM4-40GB", Some(312.0)),
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA GeForce RTX 4090", Some(165.2)),
            ("NVIDIA L40S", Some(362.0)),
            ("NVIDIA H100 PCIe", None),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
            ("llvmpipe (LLVM 15.0.6, 256 bits)", None),
            ("", None),
        ] {
            assert_eq!(peak_of(card).map(|p| p / 1e12), tflops, "{card}");
        }
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn impossible_batches_are_refused_with_the_setting_to_change() {
        let setup = |batch, length| Setup {
            model: reference_model(8),
            device: DeviceSpec::Cpu,
            precision: Precision::F32,
            batch,
            length,
            micro_batches: 1,
            recompute: Recompute::None,
            adapter: None,
        };
        let message = |s: &Setup| Training::new(s).map(|_| ()).unwrap_err().to_string();
        assert!(message(&setup(0, 8)).contains("at least 1"));
        assert!(message(&setup(1, 9)).contains("max_position_embeddings=9"));
    }
}
