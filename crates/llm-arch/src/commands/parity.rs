//! `llm-arch parity`: a model against recorded numbers.

use anyhow::{Result, bail};
use clap::Args;
use llm_arch::parity::{self, Report};
use llm_tensor::{DeviceSpec, Precision};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `parity`.
#[derive(Debug, Args)]
pub struct Parity {
    /// Folders with config.json, weights, inputs.json and expected.safetensors (benches/peers/dump_parity.py makes them).
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// Where to compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// Number format of the weights while computing: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Largest difference, relative to the largest expected value.
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
            println!("{:<28} {:>9} {:>9} {:>9}", "folder", "logits", "hidden", "greedy");
        }
        for folder in &self.folders {
            let outcome = parity::check(folder, &device, self.precision, self.tolerance);
            failed += usize::from(!outcome.as_ref().is_ok_and(|r| r.passed));
            match (outcome, self.json) {
                (Ok(report), true) => rows.push(serde_json::to_value(report)?),
                (Ok(report), false) => println!("{}", line(&report)),
                (Err(e), true) => rows.push(json!({"name": folder, "error": e.to_string(), "passed": false})),
                (Err(e), false) => println!("{:<28} {e}", folder.display()),
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        if failed > 0 {
            bail!("{failed} of {} folders differ by more than {:.0e} of the largest expected value", self.folders.len(), self.tolerance);
        }
        Ok(())
    }
}

fn line(r: &Report) -> String {
    let hidden = r.hidden.map_or("-".into(), |h| format!("{h:.1e}"));
    let verdict = match r.first_divergent_layer {
        _ if r.passed => String::new(),
        Some(0) => "  FAILED: differs from the embeddings on".into(),
        Some(layer) => format!("  FAILED: block {} is the first to differ", layer - 1),
        None => "  FAILED".into(),
    };
    format!("{:<28} {:>9} {hidden:>9} {:>9}{verdict}", r.name, format!("{:.1e}", r.logits), format!("{}/{}", r.greedy.0, r.greedy.1))
}
