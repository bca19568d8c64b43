//! `llm-vision inspect`: what a model folder is. Of weight files only the headers are read.

use super::{KINDS, config};
use anyhow::{Result, bail};
use clap::Args;
use llm_run::progress::thousands;
use llm_tensor::weights::Weights;
use llm_vision::{ConnectorKind, ImageProcessor, PairConfig, SelectStrategy, TextConfig, VisionConfig, VlmConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Model folder (config.json, with or without weights).
    model: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lines of a name and what is said about it.
type Lines = Vec<(&'static str, String)>;

impl Inspect {
    pub fn run(&self) -> Result<()> {
        let (value, kind) = config(&self.model)?;
        let mut lines: Lines = vec![("model", kind.clone())];
        let named = |e: llm_vision::Error| anyhow::anyhow!("{}: {e}", self.model.join("config.json").display());
        match kind.as_str() {
            "clip_vision_model" | "siglip_vision_model" => vision(&mut lines, &VisionConfig::from_json(&value).map_err(named)?),
            "clip" | "siglip" => pair(&mut lines, &PairConfig::from_json(&value).map_err(named)?),
            "llava" => vlm(&mut lines, &VlmConfig::from_json(&value).map_err(named)?),
            other => bail!("{}: `model_type` = \"{other}\"; expected {KINDS}", self.model.display()),
        }
        let has_processor = ["preprocessor_config.json", "processor_config.json"].iter().any(|name| self.model.join(name).exists());
        if has_processor {
            lines.push(("preprocessing", processor(&ImageProcessor::load(&self.model)?)));
        }
        let parts = parts(&self.model)?;
        if self.json {
            let fields: serde_json::Map<String, Value> = lines.into_iter().map(|(name, text)| (name.replace(' ', "_"), json!(text))).collect();
            println!("{}", serde_json::to_string_pretty(&json!({"model": fields, "config": value, "parameters": parts}))?);
            return Ok(());
        }
        for (name, text) in lines {
            println!("{name:<16} {text}");
        }
        let total: usize = parts.values().sum();
        for (name, n) in &parts {
            println!("{:<16} {:>15} {:>6.1} %", name, thousands(*n as u64), 100.0 * *n as f64 / total as f64);
        }
        if parts.len() > 1 {
            println!("{:<16} {:>15}", "together", thousands(total as u64));
        }
        Ok(())
    }
}

fn vision(lines: &mut Lines, c: &VisionConfig) {
    let class = if c.class_tokens() == 1 { ", a class token" } else { "" };
    lines.push(("image", format!("{0} x {0} pixels, patches of {1} x {1}", c.image_size, c.patch_size)));
    lines.push(("tokens", format!("{} of an image: {2} x {2} patches{class}{1}", c.num_tokens(), leftover(c), c.grid())));
    lines
        .push(("vision tower", format!("{:?}, {}", c.family, shape(c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size))));
}

fn leftover(c: &VisionConfig) -> String {
    match c.image_size % c.patch_size {
        0 => String::new(),
        n => format!("; {n} pixels at the right and bottom are not seen"),
    }
}

fn shape(layers: usize, width: usize, heads: usize, inner: usize) -> String {
    format!("{layers} blocks, width {width}, {heads} heads, feed-forward {inner}")
}

fn pair(lines: &mut Lines, c: &PairConfig) {
    vision(lines, &c.vision);
    let t: &TextConfig = &c.text;
    lines.push(("text tower", shape(t.num_hidden_layers, t.hidden_size, t.num_attention_heads, t.intermediate_size)));
    lines.push(("texts", format!("at most {} tokens of {}", t.max_position_embeddings, thousands(t.vocab_size as u64))));
    lines.push(("features", c.feature_size().to_string()));
}

fn vlm(lines: &mut Lines, c: &VlmConfig) {
    vision(lines, &c.vision);
    let states: Vec<String> = c.feature_layers.iter().map(usize::to_string).collect();
    let which = match c.select {
        SelectStrategy::Default => "without the first token",
        SelectStrategy::Full => "all tokens",
    };
    lines.push(("features", format!("hidden state {} of {}, {which}", states.join(" and "), c.vision.num_hidden_layers)));
    let connector = match c.connector {
        ConnectorKind::Linear => "one layer".to_string(),
        ConnectorKind::Mlp => format!("two layers, {:?}", c.projector_hidden_act),
    };
    lines.push(("connector", format!("{connector}, {} -> {}", c.feature_size(), c.text.hidden_size)));
    lines.push(("in the prompt", format!("{} tokens an image, placeholder {}", c.tokens_per_image(), c.image_token_id)));
    let t = &c.text;
    lines.push((
        "language model",
        format!("{:?}, {}", t.family, shape(t.num_hidden_layers, t.hidden_size, t.num_attention_heads, t.intermediate_size)),
    ));
    let images = t.max_position_embeddings / c.tokens_per_image();
    lines.push(("context", format!("{} tokens, at most {images} images", thousands(t.max_position_embeddings as u64))));
}

fn processor(p: &ImageProcessor) -> String {
    let mut steps = Vec::new();
    if p.pad_to_square {
        steps.push("pad to a square".to_string());
    }
    if let Some(size) = p.size {
        steps.push(format!("resize to {size} ({:?})", p.resample));
    }
    if let Some((height, width)) = p.crop {
        steps.push(format!("cut out {height} x {width}"));
    }
    if p.normalize.is_some() {
        steps.push("normalise".to_string());
    }
    if steps.is_empty() { "none".into() } else { steps.join(", ") }
}

/// Parameters by part, from the headers; none without weights.
fn parts(dir: &Path) -> Result<BTreeMap<&'static str, usize>> {
    const PARTS: [(&str, &str); 6] = [
        ("vision_tower.", "vision tower"),
        ("vision_model.", "vision tower"),
        ("text_model.", "text tower"),
        ("multi_modal_projector.", "connector"),
        ("language_model.", "language model"),
        ("lm_head.", "language model"),
    ];
    let mut out = BTreeMap::new();
    if !dir.join("model.safetensors").exists() && !dir.join("model.safetensors.index.json").exists() {
        return Ok(out);
    }
    let weights = Weights::open(dir)?;
    for name in weights.names().into_iter().filter(|name| !name.ends_with("position_ids")) {
        let size: usize = weights.shape(name).unwrap_or_default().iter().product();
        let known = PARTS.iter().find(|(prefix, _)| name.contains(prefix)).map(|(_, part)| *part);
        // The tower alone has names without a prefix in transformers 5; a pair has projections and scales beside its towers.
        let rest = if name.contains("projection.") || name.starts_with("logit_") { "beside towers" } else { "vision tower" };
        *out.entry(known.unwrap_or(rest)).or_insert(0) += size;
    }
    Ok(out)
}
