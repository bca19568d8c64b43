//! A card: `llm-arch parity` of every decoder fixture on it and on the processor, then GPT-2 124M's training step in bfloat16.
//!
//! `benches/gpu.sh` runs the same commands on a machine without Rust.

use super::{json, programs as find_programs, save};
use crate::machine::Machine;
use crate::programs;
use crate::term::{Paint, clip, thousands};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `bench gpu`.
#[derive(clap::Args)]
pub struct Args {
    /// `cuda`, `cuda:1`, `vulkan`, `webgpu`, `webgpu:cpu` (or `cpu`, to try the command out)
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Folder of the result, gpu-DEVICE.json
    #[arg(long, value_name = "DIR", default_value = "benches/results")]
    out: PathBuf,
    /// Use these programs instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Features of llm-tensor to build with, besides the device's: autotune, fusion (repeatable)
    #[arg(long = "feature", value_name = "NAME", value_parser = ["autotune", "fusion"])]
    features: Vec<String>,
    /// Preset or folder of the model to train
    #[arg(long, default_value = "gpt2")]
    model: String,
    /// Override a value of it (repeatable) [for gpt2: vocab_size=50304, a multiple of the matrix kernels' tiles]
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Number format of the training step
    #[arg(long, default_value = "bfloat16")]
    precision: String,
    /// Rows per step (repeatable) [8, 16, 32, 64]
    #[arg(long = "batch", value_name = "ROWS")]
    batches: Vec<u32>,
    /// Tokens of a row
    #[arg(long, default_value_t = 1024)]
    length: u32,
    /// Steps to measure
    #[arg(long, default_value_t = 20)]
    steps: u32,
    /// Largest difference from the recorded numbers on the device, relative to the largest of them (TF32)
    #[arg(long, default_value_t = 2e-2)]
    tolerance: f64,
    /// Decoder fixture to compare (repeatable); all without it
    #[arg(long = "fixture", value_name = "NAME")]
    fixtures: Vec<String>,
}

/// Measure, save, print.
pub fn run(args: &Args) -> Result<()> {
    if let Some(reason) = absent(&args.device) {
        bail!("{}: {reason}; nothing was measured", args.device);
    }
    let programs = find_programs(args.programs.as_deref(), &["llm-arch", "llm-train"], &args.device, &args.features)?;
    let folders = folders(&args.fixtures)?;
    eprintln!("parity of {} models on cpu and {}", folders.len(), args.device);
    let parity = |device: &str, tolerance: f64| -> Result<Value> {
        let mut command = Command::new(&programs[0]);
        command.arg("parity").args(&folders).args(["--device", device, "--json", "--tolerance", &tolerance.to_string()]);
        // Models that fail are in the list; only a program that breaks off is an error.
        Ok(json(command).with_context(|| format!("parity on {device}"))?.0)
    };
    let cpu = parity("cpu", 1e-4)?;
    let device = parity(&args.device, args.tolerance)?;
    let training: Vec<Value> = train(args, &programs[1]);
    let result = json!({
        "bench": "gpu",
        "device": args.device,
        "features": args.features,
        "machine": Machine::here(),
        "tolerance": args.tolerance,
        "parity": {"cpu": cpu, "device": device},
        "train": training,
    });
    let path = save(&args.out, &format!("gpu-{}", args.device.replace(':', "-")), &result)?;
    println!("{}", text(&result));
    println!("{}", programs::short(&path).display());
    let rows = result["parity"]["device"].as_array().map_or(&[][..], Vec::as_slice);
    let wrong = rows.iter().filter(|row| !within(row, args.tolerance)).count();
    if wrong > 0 || rows.len() != folders.len() {
        bail!("{wrong} of {} models differ on {} by more than {:e}", rows.len(), args.device, args.tolerance);
    }
    if training.iter().all(|t| t.get("error").is_some()) {
        bail!("no batch size could be trained on {}", args.device);
    }
    Ok(())
}

/// Why there can be no such device; none when there may be one. Building for it takes long, so this comes first.
fn absent(device: &str) -> Option<&'static str> {
    let exists = |path: &str| Path::new(path).exists();
    match device.split(':').next().unwrap_or_default() {
        "cuda" if cfg!(target_os = "linux") && !["/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"].into_iter().any(exists) => {
            Some("no NVIDIA card on this machine (no /dev/nvidiactl)")
        }
        "vulkan" if cfg!(target_os = "linux") && !["/dev/dri", "/dev/nvidiactl", "/dev/dxg"].into_iter().any(exists) => {
            Some("no card on this machine (no /dev/dri)")
        }
        "cuda" | "vulkan" | "webgpu" | "cpu" => None,
        _ => Some("no such kind of device; expected cuda[:N], vulkan[:N], webgpu[:N|:cpu] or cpu"),
    }
}

/// Folders below `fixtures/decoder`, all or those named.
fn folders(names: &[String]) -> Result<Vec<PathBuf>> {
    let root = programs::root().join("fixtures/decoder");
    let entries = std::fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.join("inputs.json").is_file()).collect();
    folders.sort();
    if names.is_empty() {
        return Ok(folders);
    }
    let known: Vec<String> = folders.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
    if let Some(name) = names.iter().find(|n| !known.contains(n)) {
        let hint = crate::term::nearest(name, known.iter().map(String::as_str)).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        bail!("no fixture `{name}` in {}{hint}", programs::short(&root).display());
    }
    Ok(names.iter().map(|name| root.join(name)).collect())
}

/// One record per batch size; after the first that fails, for want of memory most likely, no larger one is tried.
fn train(args: &Args, program: &Path) -> Vec<Value> {
    let mut batches = if args.batches.is_empty() { vec![8, 16, 32, 64] } else { args.batches.clone() };
    batches.sort_unstable();
    let padded = args.sets.is_empty() && args.model == "gpt2";
    let sets = if padded { vec!["vocab_size=50304".to_string()] } else { args.sets.clone() };
    let mut records = Vec::new();
    for batch in batches {
        eprintln!("training {}, {batch} x {} tokens, {} on {}", args.model, args.length, args.precision, args.device);
        let mut command = Command::new(program);
        command.args(["bench", "--json", "--model", &args.model, "--device", &args.device, "--precision", &args.precision]);
        command.args(["--batch", &batch.to_string(), "--length", &args.length.to_string(), "--steps", &args.steps.to_string()]);
        for set in &sets {
            command.args(["--set", set]);
        }
        match json(command) {
            Ok((record, None)) => records.push(record),
            Ok((_, Some(error))) => records.push(json!({"batch": [batch, args.length], "error": error})),
            Err(e) => records.push(json!({"batch": [batch, args.length], "error": format!("{e:#}")})),
        }
        if records.last().is_some_and(|r| r.get("error").is_some()) {
            break;
        }
    }
    records
}

/// Within tolerance. Greedy tokens are shown but not demanded: rounding to TF32 decides between logits that are nearly equal.
fn within(row: &Value, tolerance: f64) -> bool {
    let worst = |key: &str| row[key].as_f64().is_some_and(|x| x <= tolerance);
    worst("logits") && (row["hidden"].is_null() || worst("hidden"))
}

/// Tables at 80 columns.
fn text(result: &Value) -> String {
    let paint = Paint::stdout();
    let device = result["device"].as_str().unwrap_or_default();
    let tolerance = result["tolerance"].as_f64().unwrap_or(0.0);
    let rows = |side: &str| result["parity"][side].as_array().cloned().unwrap_or_default();
    let number = |x: &Value| x.as_f64().map_or("-".to_string(), |x| format!("{x:.1e}"));
    let mut lines = vec![format!("{:<26} {:>9} {:>9} {:>9} {:>9}", "worst error", "cpu", clip(device, 9), "hidden", "greedy")];
    let cpu = rows("cpu");
    for (i, row) in rows("device").iter().enumerate() {
        let name = clip(row["name"].as_str().unwrap_or("?"), 26);
        if let Some(error) = row["error"].as_str() {
            lines.push(clip(&format!("{name:<26} {error}"), 80));
            continue;
        }
        let greedy = format!("{}/{}", row["greedy"][0], row["greedy"][1]);
        let there = cpu.get(i).map_or("-".to_string(), |c| number(&c["logits"]));
        let verdict = if within(row, tolerance) { "" } else { "  FAILED" };
        let line = format!("{name:<26} {there:>9} {:>9} {:>9} {greedy:>9}", number(&row["logits"]), number(&row["hidden"]));
        lines.push(format!("{line}{}", paint.yellow(verdict)));
    }
    lines.push(String::new());
    lines.push(format!("{:<14} {:>10} {:>10} {:>10} {:>9} {:>7} {:>10}", "training step", "tokens/s", "best", "ms", "TFLOP/s", "MFU", "memory"));
    for record in result["train"].as_array().map_or(&[][..], Vec::as_slice) {
        let batch = format!("{} x {}", record["batch"][0], record["batch"][1]);
        if let Some(error) = record["error"].as_str() {
            lines.push(clip(&format!("{batch:<14} {error}"), 80));
            continue;
        }
        let whole = |key: &str| record[key].as_f64().map_or("-".to_string(), |x| thousands(x as u64));
        let mfu = record["mfu"].as_f64().map_or("-".to_string(), |x| format!("{:.1} %", 100.0 * x));
        let memory = record["device_mib"].as_f64().or(record["host_peak_mib"].as_f64());
        lines.push(format!(
            "{batch:<14} {:>10} {:>10} {:>10.1} {:>9.2} {mfu:>7} {:>10}",
            whole("tokens_per_second"),
            whole("tokens_per_second_best"),
            1e3 * record["step_seconds"]["median"].as_f64().unwrap_or(f64::NAN),
            record["tflops"].as_f64().unwrap_or(f64::NAN),
            memory.map_or("-".to_string(), |m| format!("{:.1} GiB", m / 1024.0)),
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_and_greedy_tokens_decide_nothing() {
        let row = |name: &str, logits: f64| json!({"name": name, "logits": logits, "hidden": 1e-3, "greedy": [31, 32], "passed": false});
        assert!(within(&row("a", 1e-2), 2e-2) && !within(&row("a", 3e-2), 2e-2) && !within(&json!({"logits": null}), 2e-2));
        let train = json!({"batch": [8, 1024], "tokens_per_second": 115_234.0, "tokens_per_second_best": 118_001.0, "tflops": 98.7,
            "step_seconds": {"median": 0.0711}, "mfu": 0.0998, "device_mib": 30_000.0});
        let result = json!({
            "device": "cuda:0", "tolerance": 2e-2, "train": [train, {"batch": [64, 1024], "error": "out of memory ".repeat(20)}],
            "parity": {"cpu": [row("llama", 1e-6)], "device": [row("llama", 1e-3), row("a_very_long_name_of_a_fixture_folder", 0.5),
                {"name": "broken", "error": "no weights ".repeat(20), "passed": false}]},
        });
        let text = text(&result);
        assert!(text.lines().all(|l| crate::term::columns(l) <= 80), "{text}");
        for part in ["1.0e-6", "115,234", "10.0 %", "29.3 GiB", "FAILED", "out of memory", "no weights"] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert_eq!(text.matches("FAILED").count(), 1);
    }

    #[test]
    fn fixtures_and_devices_are_checked_by_name() {
        assert!(folders(&[]).unwrap().len() > 20);
        assert!(folders(&["mixtrall".into()]).unwrap_err().to_string().contains("mixtral"));
        assert!(absent("tpu").is_some() && absent("cpu").is_none());
    }
}
