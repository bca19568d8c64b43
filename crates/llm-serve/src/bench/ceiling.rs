//! The speed that memory allows, and the one that the processor does. Memory: a token needs every active weight once, so a stream makes at most
//! bandwidth / bytes of weights steps a second, however fast the processor is.
//!
//! The bandwidth is measured on this machine, by reading from all cores; decoding does nothing else. Bytes are those of
//! the file: matrices count in full, of experts the share that a token uses, and not the embedding table, of which a token
//! needs one row, unless it is the output matrix as well. Keys and values are not counted: the ceiling is a little
//! too high for long texts.

use anyhow::{Context, Result, ensure};
use llm_tensor::kernels::bandwidth;
use llm_tokenizer::formats::gguf;
use serde::Serialize;
use serde_json::Value;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Headers of safetensors files are smaller.
const LARGEST_HEADER: u64 = 100 << 20;

/// What the memory allows.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceiling {
    /// Measured, bytes a second.
    pub bandwidth: f64,
    /// Of weights, for one step.
    pub bytes_per_step: f64,
}

impl Ceiling {
    /// Measure, and count the weights in `model`.
    pub fn of(model: &Path) -> Result<Self> {
        Ok(Self { bytes_per_step: bytes_per_step(model)?, bandwidth: bandwidth::measure() })
    }

    /// Steps a second; for one stream, tokens a second.
    pub fn steps_per_second(&self) -> f64 {
        self.bandwidth / self.bytes_per_step
    }
}

/// What the processor allows: tokens of prompts a second when answers have one token. Every token of a load is computed as these are, only in
/// smaller steps, and those of answers cost the output matrix on top. Of prompts shorter than some dozen tokens the requests themselves take the time,
/// so a load with long answers can pass it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compute {
    /// Tokens of prompts a second, all streams together.
    pub tokens_per_second: f64,
    /// Prompts at a time.
    pub streams: usize,
}

/// Those of a GGUF file. A tensor ends where the next one begins.
fn gguf_bytes(model: &Path) -> Result<f64> {
    let file = File::open(model).with_context(|| format!("{}: cannot open", model.display()))?;
    let length = file.metadata().with_context(|| format!("{}: cannot read", model.display()))?.len();
    let header = gguf::Header::parse(BufReader::new(file), model)?;
    let mut ends: Vec<u64> = header.tensors.iter().map(|t| t.offset).chain([length.saturating_sub(header.data)]).collect();
    ends.sort_unstable();
    let tied = !header.tensors.iter().any(|t| t.name == "output.weight");
    let read = header.tensors.iter().filter(|t| tied || t.name != "token_embd.weight");
    let bytes = |offset: u64| ends.iter().find(|&&end| end > offset).map_or(0, |end| end - offset);
    Ok(read.map(|t| bytes(t.offset)).sum::<u64>() as f64)
}

/// Bytes of weights that one step of one stream reads.
pub fn bytes_per_step(model: &Path) -> Result<f64> {
    if model.is_file() {
        return gguf_bytes(model);
    }
    let config: Value = std::fs::read(model.join("config.json"))
        .with_context(|| format!("{}: no config.json", model.display()))
        .and_then(|bytes| serde_json::from_slice(&bytes).context("config.json is not JSON"))?;
    let config = config.get("text_config").filter(|c| c.is_object()).unwrap_or(&config);
    let number = |names: &[&str]| names.iter().find_map(|n| config[*n].as_f64());
    let used = number(&["num_experts_per_tok", "moe_topk"]);
    let experts = number(&["num_local_experts", "num_experts", "n_routed_experts"]);
    let share = used.zip(experts).map_or(1.0, |(used, all)| (used / all.max(1.0)).min(1.0));
    let mut files: Vec<PathBuf> = std::fs::read_dir(model)
        .with_context(|| format!("{}: cannot read", model.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{}: no .safetensors file here to count the weights of", model.display());
    let mut tensors = Vec::new();
    for file in &files {
        tensors.extend(header(file).with_context(|| format!("{}: not a safetensors file", file.display()))?);
    }
    let untied = tensors.iter().any(|(name, _)| name.contains("lm_head") || name.contains("embed_out"));
    let counted = |(name, bytes): &(String, f64)| match name {
        name if untied && ["embed_tokens", "word_embeddings", "embed_in", "wte"].iter().any(|n| name.contains(n)) => 0.0,
        // Looked at once for an image, not for a token.
        name if ["vision_tower", "vision_model", "multi_modal_projector", "wpe"].iter().any(|n| name.contains(n)) => 0.0,
        name if name.contains(".experts.") => bytes * share,
        _ => *bytes,
    };
    let bytes: f64 = tensors.iter().map(counted).sum();
    ensure!(bytes > 0.0, "{}: the files hold no weights", model.display());
    Ok(bytes)
}

/// Names and sizes of the tensors of a file.
fn header(path: &Path) -> Result<Vec<(String, f64)>> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= LARGEST_HEADER, "a header of {length} bytes");
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text)?;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&text)?;
    let size = |value: &Value| Some(value["data_offsets"][1].as_f64()? - value["data_offsets"][0].as_f64()?);
    Ok(header.iter().filter(|(name, _)| *name != "__metadata__").filter_map(|(name, value)| Some((name.clone(), size(value)?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(config: Value, tensors: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let mut at = 0;
        let mut header = json!({"__metadata__": {"format": "pt"}});
        for (name, bytes) in tensors {
            header[*name] = json!({"dtype": "F32", "shape": [bytes / 4], "data_offsets": [at, at + bytes]});
            at += bytes;
        }
        let text = header.to_string();
        let file = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; at]].concat();
        std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
        dir
    }

    #[test]
    fn a_step_reads_the_matrices_and_not_the_embedding_table() {
        let tensors = [("model.embed_tokens.weight", 400), ("model.layers.0.mlp.up_proj.weight", 1000), ("lm_head.weight", 400)];
        assert_eq!(bytes_per_step(folder(json!({}), &tensors).path()).unwrap(), 1400.0);
        assert_eq!(bytes_per_step(folder(json!({}), &tensors[..2]).path()).unwrap(), 1400.0, "a tied table is the output matrix");
    }

    #[test]
    fn of_experts_those_count_that_are_used() {
        let tensors = [("model.layers.0.mlp.experts.0.up_proj.weight", 800), ("model.layers.0.mlp.gate.weight", 40), ("lm_head.weight", 60)];
        let config = json!({"num_experts_per_tok": 2, "num_local_experts": 8});
        assert_eq!(bytes_per_step(folder(config, &tensors).path()).unwrap(), 300.0);
    }

    #[test]
    fn what_is_no_model_is_an_error() {
        assert!(bytes_per_step(Path::new("no/such")).is_err());
        let dir = folder(json!({}), &[("a", 4)]);
        std::fs::write(dir.path().join("model.safetensors"), [0xff; 16]).unwrap();
        assert!(format!("{:#}", bytes_per_step(dir.path()).unwrap_err()).contains("model.safetensors"));
    }
}
