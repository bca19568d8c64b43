//! `llm-quant quantize` makes a model smaller; `llm-quant compare` says what that costs; `llm-quant inspect` shows what a folder holds.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use llm_quant::compare::{CompareConfig, compare, memory};
use llm_quant::config::QuantizeConfig;
use llm_quant::quantize::quantize;
use llm_run::Args;
use llm_tensor::burn::tensor::Device;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Quantise language models to 4 and 8 bits, in the layouts of GPTQ and bitsandbytes.
#[derive(Debug, Parser)]
#[command(name = "llm-quant", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Quantise the projections of a model; --out is a model folder
    ///
    /// Example: llm-quant quantize --set model=model/ --set method=gptq --set bits=4 --set group_size=64 --set calibration=pack/train --out model-int4/
    Quantize(Args),
    /// Compare smaller models with their original: size, bits per byte, KL, flips, exercises, speed
    ///
    /// Example: llm-quant compare --set 'models=["model", "model-int4"]' --set documents=heldout/ --out comparison/
    Compare {
        #[command(flatten)]
        args: Args,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show how the projections of a folder are stored
    Inspect {
        /// Model folder.
        model: PathBuf,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    llm_run::program::main(|| body(cli.command))
}

fn body(command: Command) -> Result<()> {
    match command {
        Command::Quantize(args) => {
            llm_run::program::catch_interrupts();
            let config: QuantizeConfig = args.load()?;
            let layers = quantize(&config, &args.out)?;
            let (weights, bytes) = layers.iter().fold((0, 0), |(w, b), l| (w + l.shape[0] * l.shape[1], b + l.bytes));
            let error = layers.iter().map(|l| l.weight_error).sum::<f64>() / layers.len().max(1) as f64;
            let bits = 8.0 * bytes as f64 / weights.max(1) as f64;
            println!("{} projections, {weights} weights, {bits:.2} bits each with scales, mean relative error {error:.4}", layers.len());
        }
        Command::Compare { args, json } => {
            llm_run::program::catch_interrupts();
            let config: CompareConfig = args.load()?;
            let comparison = compare(&config, &args.out)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&comparison).context("comparison as JSON")?);
            } else {
                print!("{}", comparison.table());
            }
        }
        Command::Inspect { model, json } => inspect(&model, json)?,
    }
    Ok(())
}

fn inspect(model: &std::path::Path, json: bool) -> Result<()> {
    let mut decoder = llm_arch::hf::load(model, &Device::flex())?;
    let (bytes, storage) = memory(&decoder);
    let rows: Vec<(String, [usize; 2], String, usize)> = decoder
        .linears_mut()
        .into_iter()
        .map(|(name, linear)| {
            let shape = linear.weight.shape();
            match linear.weight.as_packed() {
                Some(matrix) => (name, shape, matrix.describe(), matrix.bytes()),
                None => (name, shape, "dense".to_string(), 4 * shape[0] * shape[1]),
            }
        })
        .collect();
    if json {
        let layers: Vec<_> =
            rows.iter().map(|(name, shape, storage, bytes)| json!({"name": name, "shape": shape, "storage": storage, "bytes": bytes})).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"storage": storage, "memory_bytes": bytes, "projections": layers})).context("JSON")?);
        return Ok(());
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    for (name, [outputs, inputs], storage, bytes) in &rows {
        let shape = format!("{outputs} x {inputs}");
        println!("{name:<width$}  {shape:>13}  {bytes:>10} bytes  {storage}");
    }
    println!("{:.2} MB of weights in memory, projections: {storage}", bytes as f64 / 1e6);
    Ok(())
}
