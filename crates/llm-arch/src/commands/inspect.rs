//! `llm-arch inspect`: what a model folder or a preset is and costs. Of weight files only the headers are read.

use super::format::{bytes, count, flops, gib, thousands};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use llm_arch::budget::report::{Fit, ModeMemory};
use llm_arch::budget::{Parts, Report, chinchilla::DEFAULT_CONTEXT};
use llm_arch::gguf;
use llm_arch::hf::{self, Checkpoint};
use llm_arch::{DecoderConfig, KvDtype, presets};
use llm_tensor::weights::Weights;
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Model folder (config.json, with or without weights) or name of a preset.
    #[arg(value_name = "DIR|PRESET")]
    model: String,
    /// Rows of a micro-batch when training, texts at once when serving.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokens of each [default: what the model was made for, at most 4096].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Number format of the cached keys and values: f32, bf16, int8 [default: bf16; f32 with f32 weights].
    #[arg(long, value_name = "FORMAT")]
    kv_dtype: Option<KvDtype>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the headers of the weight files say.
struct OnDisk {
    tensors: usize,
    /// Elements, without copies and buffers that no configuration counts.
    parameters: usize,
    bytes: usize,
    /// Why the weights do not fit config.json.
    problem: Option<String>,
}

impl Inspect {
    pub fn run(&self) -> Result<()> {
        let dir = Path::new(&self.model);
        let (name, config, disk) = if let Some(file) = gguf::find(dir) {
            let checkpoint = gguf::Checkpoint::open(&file)?;
            let types: Vec<String> = checkpoint.types().into_iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            let (parameters, bytes) = (checkpoint.num_parameters(), checkpoint.total_bytes());
            let tensors = checkpoint.types().values().sum();
            let disk = OnDisk { tensors, parameters, bytes, problem: None };
            (format!("{} ({})", self.model, types.join(", ")), checkpoint.config, Some(disk))
        } else if dir.is_dir() {
            let config = hf::load_config(dir)?;
            (self.model.clone(), config.clone(), on_disk(dir, &config)?)
        } else if self.model.contains(['/', '\\']) && presets::find(&self.model).is_none() {
            bail!("{}: not a folder; expected a model folder with config.json, or the name of a preset (`llm-arch presets`)", self.model);
        } else {
            let preset = super::preset(&self.model)
                .map_err(|e| if dir.is_file() { anyhow!("{}: a file; give the folder that holds it", self.model) } else { e })?;
            (format!("{} ({})", preset.name, preset.source), preset.config(), None)
        };
        let context = self.context.map_or_else(|| config.max_position_embeddings.min(DEFAULT_CONTEXT), |c| c as usize);
        let report = Report::with_cache(&config, self.batch as usize, context, self.kv_dtype);
        if self.json {
            let disk = disk.as_ref().map(|d| json!({"tensors": d.tensors, "parameters": d.parameters, "bytes": d.bytes, "problem": d.problem}));
            let value = json!({"model": name, "config": config, "weights": disk, "report": report});
            println!("{}", serde_json::to_string_pretty(&value)?);
        } else {
            print!("{}", text(&name, &config, disk.as_ref(), &report)?);
        }
        match disk.and_then(|d| d.problem) {
            Some(problem) => bail!(problem),
            None => Ok(()),
        }
    }
}

/// None when the folder has no weights at all.
fn on_disk(dir: &Path, config: &DecoderConfig) -> Result<Option<OnDisk>> {
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() && !dir.join("model.safetensors").exists() {
        return Ok(None);
    }
    let weights = Weights::open(dir)?;
    let names = weights.names();
    let size = |name: &&str| weights.shape(name).map_or(0, |s| s.iter().product::<usize>());
    let parameters = names.iter().filter(|n| counted(config, n)).map(size).sum();
    let problem = Checkpoint::open(dir).err().map(|e| e.to_string());
    Ok(Some(OnDisk { tensors: names.len(), parameters, bytes: weights.total_bytes(), problem }))
}

/// Learned, and not a second copy of a tied table: buffers of old checkpoints, block scales and router biases are not.
fn counted(config: &DecoderConfig, name: &str) -> bool {
    let buffer = name.ends_with("inv_freq")
        || name.ends_with(".attn.bias")
        || name.ends_with(".masked_bias")
        || name.ends_with(".attention.bias")
        || name.ends_with("_scale_inv")
        || name.ends_with("e_score_correction_bias");
    let tied_copy = config.tie_word_embeddings && matches!(name, "lm_head.weight" | "embed_out.weight");
    !buffer && !tied_copy
}

/// The whole report at 80 columns.
fn text(name: &str, config: &DecoderConfig, disk: Option<&OnDisk>, report: &Report) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "{name}\n")?;
    shape(&mut out, config)?;
    parameters(&mut out, config, disk, &report.parameters)?;
    let f = &report.flops;
    writeln!(out, "\nArithmetic per token, {}-token text", thousands(f.context))?;
    let share = 100.0 * f.attention / f.forward;
    writeln!(out, "  {:<22} {:>14}   matrices {}, attention {share:.0} %", "forward", flops(f.forward), flops(f.matrices))?;
    writeln!(out, "  {:<22} {:>14}   forward and backward", "training", flops(f.training))?;
    writeln!(out, "  {:<22} {:>14}   one more token after such a text", "generation", flops(f.decoding))?;
    writeln!(out, "\nKV cache, {}", report.kv_dtype)?;
    writeln!(out, "  {:<22} {:>14}   {}", "per token", format!("{} B", thousands(report.kv_bytes_per_token)), cache_note(config, report.kv_dtype))?;
    let sliding = (0..config.num_hidden_layers).filter(|&i| config.window(i).is_some()).count();
    let bound = match config.sliding_window {
        Some(w) if sliding > 0 => format!("   {sliding} layers hold at most {}", thousands(w)),
        _ => String::new(),
    };
    writeln!(out, "  {:<22} {:>14}{bound}", format!("text of {}", thousands(report.context)), bytes(report.kv_bytes_per_text as f64))?;
    memory(&mut out, report)?;
    fits(&mut out, report)?;
    Ok(out)
}

fn shape(out: &mut String, config: &DecoderConfig) -> Result<()> {
    let heads = match &config.mla {
        Some(mla) => format!("{}, latent {} + {}", config.num_attention_heads, mla.kv_lora_rank, mla.qk_rope_head_dim),
        None if config.num_key_value_heads == config.num_attention_heads => format!("{} of {}", config.num_attention_heads, config.head_size()),
        None => format!("{} of {}, {} key/value", config.num_attention_heads, config.head_size(), config.num_key_value_heads),
    };
    let width = match &config.moe {
        Some(moe) => {
            let shared = if moe.shared_expert_intermediate_size > 0 { " + shared" } else { "" };
            format!("{} of {} x {}{shared}", moe.num_experts_per_tok, moe.num_experts, thousands(moe.moe_intermediate_size))
        }
        None => thousands(config.intermediate_size),
    };
    let feed = if config.moe.is_some() { "experts" } else { "feed-forward" };
    let family = serde_json::to_value(config.family)?.as_str().unwrap_or_default().to_string();
    let window = match config.sliding_window {
        Some(w) if config.layer_types.is_empty() => format!("{} (window {})", thousands(config.max_position_embeddings), thousands(w)),
        Some(w) => format!("{} (some {})", thousands(config.max_position_embeddings), thousands(w)),
        None => thousands(config.max_position_embeddings),
    };
    for (a, x, b, y) in [
        ("family", family, "layers", thousands(config.num_hidden_layers)),
        ("hidden size", thousands(config.hidden_size), "heads", heads),
        (feed, width, "context", window),
        ("vocabulary", thousands(config.vocab_size), "tied head", if config.tie_word_embeddings { "yes".into() } else { "no".into() }),
    ] {
        writeln!(out, "  {a:<13} {x:<26} {b:<10} {y}")?;
    }
    Ok(())
}

fn parameters(out: &mut String, config: &DecoderConfig, disk: Option<&OnDisk>, parts: &Parts) -> Result<()> {
    writeln!(out, "\nParameters")?;
    writeln!(out, "  {:<22} {:>16} {:>9}", "total", thousands(parts.total), count(parts.total as f64))?;
    if config.moe.is_some() {
        writeln!(out, "  {:<22} {:>16} {:>9}   what one token uses", "active", thousands(parts.active), count(parts.active as f64))?;
    }
    for (part, n) in [
        ("embeddings", parts.embedding),
        ("attention", parts.attention),
        ("feed-forward", parts.feed_forward),
        ("experts", parts.experts),
        ("routers, shared", parts.routing),
        ("norms", parts.norms),
    ] {
        if n > 0 {
            writeln!(out, "    {part:<20} {:>16} {:>7.1} %", thousands(n), 100.0 * n as f64 / parts.total as f64)?;
        }
    }
    if let Some(disk) = disk {
        let verdict = match (&disk.problem, disk.parameters == parts.total) {
            (None, true) => "every tensor fits the configuration",
            (None, false) => "every tensor fits, but others are counted",
            (Some(_), _) => "DO NOT FIT config.json, see below",
        };
        let size = format!("{} tensors, {}", thousands(disk.tensors), bytes(disk.bytes as f64));
        writeln!(out, "  {:<22} {:>16}           {size}", "weight files", thousands(disk.parameters))?;
        writeln!(out, "  {:<22} {verdict}", "")?;
    }
    Ok(())
}

fn cache_note(config: &DecoderConfig, dtype: KvDtype) -> String {
    let layers = config.num_hidden_layers;
    let bytes = |width: usize| match dtype {
        KvDtype::F32 => format!("{width} x 4"),
        KvDtype::Bf16 => format!("{width} x 2"),
        KvDtype::Int8 => format!("({width} + 4)"),
    };
    match &config.mla {
        Some(mla) if dtype == KvDtype::Int8 => format!("{layers} layers x ({} + {} rotated + 4)", mla.kv_lora_rank, mla.qk_rope_head_dim),
        Some(mla) => format!("{layers} layers x ({} + {} rotated) x {}", mla.kv_lora_rank, mla.qk_rope_head_dim, dtype.vector_bytes(1)),
        None => format!("{layers} layers x {} heads x {} x 2", config.num_key_value_heads, bytes(config.head_size())),
    }
}

fn memory(out: &mut String, report: &Report) -> Result<()> {
    writeln!(out, "\nMemory in GiB, batch {} x {} tokens", thousands(report.batch), thousands(report.context))?;
    writeln!(out, "  {:<24} {:>8} {:>9} {:>9} {:>11} {:>9}", "", "weights", "gradients", "optimiser", "activations", "total")?;
    let (train, serve): (Vec<&ModeMemory>, Vec<&ModeMemory>) = report.memory.iter().partition(|m| m.mode.starts_with("train"));
    for m in train {
        let b = &m.bytes;
        let cells = (gib(b.weights), gib(b.gradients), gib(b.optimizer), gib(b.activations), gib(m.total));
        writeln!(out, "  {:<24} {:>8} {:>9} {:>9} {:>11} {:>9}", m.mode, cells.0, cells.1, cells.2, cells.3, cells.4)?;
    }
    writeln!(out, "  {:<24} {:>8} {:>9} {:>9} {:>11} {:>9}", "", "weights", "", "", "KV cache", "total")?;
    for m in serve {
        writeln!(out, "  {:<24} {:>8} {:>9} {:>9} {:>11} {:>9}", m.mode, gib(m.bytes.weights), "", "", gib(m.bytes.kv_cache), gib(m.total))?;
    }
    Ok(())
}

fn fits(out: &mut String, report: &Report) -> Result<()> {
    writeln!(out, "\nDevices needed (weights, gradients, optimiser and cache spread over all)")?;
    let columns = ["train", "train 8-bit", "serve bf16", "int8", "int4"];
    writeln!(out, "  {:<17} {:>8} {:>8} {:>12} {:>11} {:>6} {:>6}", "", "GiB", columns[0], columns[1], columns[2], columns[3], columns[4])?;
    let cell = |fit: &Fit, i: usize| fit.devices_needed.get(i).copied().flatten().map_or("-".to_string(), thousands);
    for fit in &report.fits {
        let c: Vec<String> = (0..columns.len()).map(|i| cell(fit, i)).collect();
        writeln!(out, "  {:<17} {:>8} {:>8} {:>12} {:>11} {:>6} {:>6}", fit.device, fit.memory_gib, c[0], c[1], c[2], c[3], c[4])?;
    }
    if report.fits.iter().any(|f| f.devices_needed.contains(&None)) {
        writeln!(out, "  - : the activations of this batch alone do not fit; take fewer rows or tokens")?;
    }
    Ok(())
}
