//! `llm-vision parity`: models and image processors against recorded numbers.

use anyhow::{Result, bail};
use clap::Args;
use llm_tensor::{DeviceSpec, Precision};
use llm_vision::parity::{self, Report};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `parity`.
#[derive(Debug, Args)]
pub struct Parity {
    /// Folders of models with inputs and expected.safetensors, or of images with processor_NAME folders.
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Number format of the weights while computing: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Largest difference of a model, relative to the largest expected value; pixels have limits of their own.
    #[arg(long, default_value_t = parity::TOLERANCE)]
    tolerance: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Parity {
    pub fn run(&self) -> Result<()> {
        let device = self.device.open()?;
        let (mut rows, mut failed) = (Vec::new(), 0);
        if !self.json {
            println!("{:<38} {:<12} {:>7} {:>9} {:>9}", "folder", "numbers", "tensors", "worst", "limit");
        }
        for folder in &self.folders {
            let outcome = parity::check(folder, &device, self.precision, self.tolerance);
            failed += usize::from(!outcome.as_ref().is_ok_and(|r| r.passed));
            match (outcome, self.json) {
                (Ok(report), true) => rows.push(serde_json::to_value(report)?),
                (Ok(report), false) => print(&report),
                (Err(e), true) => rows.push(json!({"name": folder, "error": e.to_string(), "passed": false})),
                (Err(e), false) => println!("{:<38} FAILED: {e}", folder.display()),
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        if failed > 0 {
            bail!("{failed} of {} folders are outside the limits", self.folders.len());
        }
        Ok(())
    }
}

fn print(report: &Report) {
    let mut name = report.name.as_str();
    for q in &report.quantities {
        let verdict = if q.worst <= q.limit { "" } else { "  FAILED" };
        println!("{name:<38} {:<12} {:>7} {:>9} {:>9}{verdict}", q.name, q.tensors, format!("{:.1e}", q.worst), format!("{:.1e}", q.limit));
        name = "";
    }
    if let Some((equal, all)) = report.greedy {
        println!("{name:<38} {:<12} {:>7} {:>19}{}", "greedy", all, format!("{equal} equal"), if equal == all { "" } else { "  FAILED" });
    }
    if report.quantities.is_empty() {
        println!("{name:<38} FAILED: nothing to compare");
    }
    if !report.skipped.is_empty() {
        println!("{:<38} not compared: {}", "", report.skipped.len());
    }
}
