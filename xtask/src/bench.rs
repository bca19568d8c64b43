//! `cargo xtask bench`: the measurements that take several programs, as committed commands with a JSON result.
//!
//! | command | question |
//! |---|---|
//! | `gpu` | does a card compute the right numbers, and how fast does it train? ([`gpu`]) |
//! | `train` | how fast is our training step beside PyTorch's on this processor? ([`train`]) |

pub mod gpu;
pub mod train;

use crate::programs;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to measure.
#[derive(clap::Subcommand)]
pub enum BenchTask {
    /// Parity and training speed on a GPU: builds the programs for it, compares every family with the recorded numbers, times GPT-2
    Gpu(gpu::Args),
    /// Training speed on the processor, beside PyTorch with --python
    Train(train::Args),
}

/// Run a measurement.
pub fn run(task: &BenchTask) -> Result<()> {
    match task {
        BenchTask::Gpu(args) => gpu::run(args),
        BenchTask::Train(args) => train::run(args),
    }
}

/// Where the programs are: in a folder that was given, or built beside this one.
fn programs(given: Option<&Path>, names: &[&str], device: &str, features: &[String]) -> Result<Vec<PathBuf>> {
    match given {
        Some(folder) => names
            .iter()
            .map(|name| {
                let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
                ensure!(path.is_file(), "{}: no such program; --programs takes the folder that holds {}", path.display(), names.join(" and "));
                Ok(path)
            })
            .collect(),
        None => {
            programs::build_with(names.iter().copied(), &[device], features)?;
            names.iter().map(|name| programs::locate(name)).collect()
        }
    }
}

/// The JSON that a program prints, and the last line of its complaints when it failed.
fn json(mut command: Command) -> Result<(Value, Option<String>)> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("cannot start {shown}"))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let last = complaints.lines().rev().find(|l| !l.trim().is_empty() && !l.starts_with("note: ")).unwrap_or("it said nothing").trim();
    let last = last.strip_prefix("error: ").unwrap_or(last).to_string();
    match serde_json::from_slice(&output.stdout) {
        Ok(value) => Ok((value, (!output.status.success()).then_some(last))),
        Err(_) if !output.status.success() => bail!("{last} ({shown}, {})", crate::process::describe(output.status)),
        Err(e) => bail!("{shown} printed no JSON: {e}"),
    }
}

/// The middle one (of an even number the later); none of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Write `NAME.json` into the folder.
fn save(out: &Path, name: &str, value: &Value) -> Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let path = out.join(format!("{name}.json"));
    llm_run::atomic::write(&path, serde_json::to_string_pretty(value)? + "\n")?;
    Ok(path)
}
