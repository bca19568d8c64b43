//! `llm-train bench`: tokens per second, MFU and memory of a training step, for people or as JSON.

use anyhow::{Context, Result, anyhow};
use llm_arch::{AdapterSpec, DecoderConfig, hf, presets};
use llm_run::{Progress, config};
use llm_tensor::{DeviceSpec, Precision};
use llm_train::Recompute;
use llm_train::bench::{self, Report, Setup};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Preset (llm-arch presets) or folder with config.json [default: a Llama of 5.3 M parameters, as benches/peers/train_step.py].
    #[arg(long, value_name = "PRESET|DIR")]
    model: Option<String>,
    /// Override a value of the model, e.g. --set num_hidden_layers=2 (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Number format of weights and activations: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Rows.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokens of a row [default: 256; with --model what it was made for, at most 1024].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    length: Option<u32>,
    /// Forward and backward passes over so many rows before a step.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    micro_batches: u32,
    /// Keep of the activations only what enters each block and compute the rest again.
    #[arg(long)]
    recompute: bool,
    /// Train an adapter instead of the model, e.g. --adapter r=16 --adapter base=nf4 (keys of `adapter` in llm-align; repeatable).
    #[arg(long = "adapter", value_name = "KEY=VALUE")]
    adapter: Vec<String>,
    /// Steps to measure.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them.
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// What the device could do, for MFU, in 10^12 FLOP/s [default: bf16 peak of the card, if it is a known one].
    #[arg(long, value_name = "X", value_parser = peak)]
    peak_tflops: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn peak(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
    value.ok_or_else(|| format!("`{text}`: expected a positive number such as 989.4"))
}

impl BenchArgs {
    pub fn run(&self) -> Result<()> {
        let mut model = match &self.model {
            None => bench::reference_model(self.length.map_or(256, |l| l as usize)),
            Some(name) if Path::new(name).is_dir() => hf::load_config(name)?,
            Some(name) => preset(name)?,
        };
        model = overridden(model, &self.sets)?;
        let length = self.length.map_or_else(|| model.max_position_embeddings.min(1024), |l| l as usize);
        let setup = Setup {
            model,
            device: self.device,
            precision: self.precision,
            batch: self.batch as usize,
            length,
            micro_batches: self.micro_batches as usize,
            recompute: if self.recompute { Recompute::Block } else { Recompute::None },
            adapter: adapter(&self.adapter)?,
        };
        let (warmup, steps) = (self.warmup as usize, self.steps as usize);
        let mut progress = Progress::new("bench", (warmup + steps) as u64, "steps");
        let report = bench::run(&setup, warmup, steps, self.peak_tflops, &mut |step, loss, rate| {
            progress.message(format!("loss {loss:.3} {rate:.0} tok/s"));
            progress.set(step as u64);
        })?;
        progress.finish(format!("{} tokens/s", grouped(report.tokens_per_second)));
        let name = self.model.as_deref().unwrap_or("llama-5m");
        if self.json {
            let mut value = serde_json::to_value(&report)?;
            value["model"] = name.into();
            value["set"] = self.sets.clone().into();
            println!("{value}");
        } else {
            print!("{}", text(name, &report)?);
        }
        Ok(())
    }
}

fn preset(name: &str) -> Result<DecoderConfig> {
    presets::preset(name).ok_or_else(|| {
        let near = presets::suggestions(name);
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        anyhow!("`{name}` is neither a folder with config.json nor a preset{hint} (`llm-arch presets` lists them)")
    })
}

/// The settings of `--adapter`.
fn adapter(sets: &[String]) -> Result<Option<AdapterSpec>> {
    if sets.is_empty() {
        return Ok(None);
    }
    let value = serde_json::to_value(config::table(None, sets)?)?;
    let spec = serde_json::from_value(value).map_err(|e| anyhow!(config::suggest(&e.to_string()))).context("--adapter")?;
    Ok(Some(spec))
}

/// The configuration with `--set` applied.
fn overridden(model: DecoderConfig, sets: &[String]) -> Result<DecoderConfig> {
    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value))
            }
            (into, from) => *into = from,
        }
    }
    if sets.is_empty() {
        return Ok(model);
    }
    let mut value = serde_json::to_value(&model)?;
    merge(&mut value, serde_json::to_value(config::table(None, sets)?)?);
    serde_json::from_value(value).map_err(|e| anyhow!(config::suggest(&e.to_string()))).context("--set")
}

/// `115,234`.
fn grouped(x: f64) -> String {
    llm_run::progress::thousands(x.round() as u64)
}

/// The report at 80 columns.
fn text(name: &str, r: &Report) -> Result<String> {
    let mut out = String::new();
    // A path may be long; what counts is its end.
    let skip = name.chars().count().saturating_sub(30);
    let name: String = name.chars().skip(skip).collect();
    writeln!(out, "{name}: {} parameters, {}", grouped(r.parameters as f64), r.precision)?;
    let place = match &r.card {
        Some(card) => format!("{} ({})", r.device, card.chars().take(40).collect::<String>()),
        None => format!("{}, {} thread{}", r.device, r.threads, if r.threads == 1 { "" } else { "s" }),
    };
    writeln!(out, "{place}")?;
    let times = if r.micro_batches == 1 { String::new() } else { format!("{} x ", r.micro_batches) };
    let again = if r.recompute.is_none() { "" } else { ", recomputing" };
    writeln!(out, "{times}{} rows of {} tokens, {} steps after {}{again}\n", r.batch[0], r.batch[1], r.steps, r.warmup)?;
    let s = r.step_seconds;
    let mut row = |label: &str, value: String, note: String| writeln!(out, "{}", format!("  {label:<14}{value:>14}  {note}").trim_end());
    row("tokens/s", grouped(r.tokens_per_second), format!("median; best {}", grouped(r.tokens_per_second_best)))?;
    row("step", format!("{:.1} ms", 1e3 * s.median), format!("median; {:.1} to {:.1}", 1e3 * s.least, 1e3 * s.most))?;
    row("loss", format!("{:.4}", r.last_loss), format!("last; first {:.4}", r.first_loss))?;
    row("arithmetic", format!("{}/s", flops(1e12 * r.tflops)), format!("{} per token, forward and backward", flops(r.flops_per_token)))?;
    match (r.mfu, r.peak_tflops) {
        (Some(mfu), Some(peak)) => row("MFU", format!("{:.1} %", 100.0 * mfu), format!("of {peak} TFLOP/s"))?,
        _ => row("MFU", "-".into(), "peak not known; give --peak-tflops X".into())?,
    }
    if let Some(bytes) = r.frozen_bytes_per_parameter {
        row("trained", grouped(r.trained_parameters as f64), format!("parameters; the others take {bytes:.3} bytes each"))?;
    }
    row("host memory", mib(r.host_peak_mib), format!("peak; {} planned", mib(Some(r.planned_mib))))?;
    if r.device_mib.is_some() {
        row("device memory", mib(r.device_mib), "held by the allocator".into())?;
    }
    Ok(out)
}

/// `855 MFLOP`, `98.7 TFLOP`.
fn flops(x: f64) -> String {
    let (scale, unit) = [(1e12, "TFLOP"), (1e9, "GFLOP")].into_iter().find(|(scale, _)| x >= *scale).unwrap_or((1e6, "MFLOP"));
    let digits = if x / scale < 10.0 { 2 } else { 1 };
    format!("{:.digits$} {unit}", x / scale)
}

fn mib(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{} MiB", grouped(x)))
}
