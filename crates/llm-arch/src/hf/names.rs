//! Which tensor of a checkpoint holds which of our parameters.
//!
//! A checkpoint's tensor, transposed first where a family stores `[in, out]`, is a stack of rows; each run of rows belongs to one of
//! our parameters. That covers everything: plain renaming (one run), fused q, k, v (three runs), interleaved by head (three runs a
//! head), single experts (one run in the stacked parameter). The same table is read forwards to load and backwards to save.

use crate::config::{DecoderConfig, Family, Layout};
use crate::parameters::{Parameter, parameters};
use std::collections::BTreeMap;

/// A run of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Our parameter.
    pub parameter: String,
    /// First row in it, all leading dimensions flattened.
    pub row: usize,
    /// How many.
    pub rows: usize,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its name there.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Stored `[in, out]`.
    pub transposed: bool,
    /// Its rows (after transposing), in order.
    pub runs: Vec<Run>,
}

impl Source {
    /// Elements per row.
    pub fn width(&self) -> usize {
        match (self.shape.as_slice(), self.transposed) {
            ([first, ..], true) => *first,
            ([_, rest @ ..], false) => rest.iter().product(),
            ([], _) => 1,
        }
    }
}

/// Every tensor that a checkpoint of this configuration has.
pub(crate) fn sources(config: &DecoderConfig) -> Vec<Source> {
    let all = parameters(config);
    let by_name: BTreeMap<&str, &Parameter> = all.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut out = Vec::new();
    for p in &all {
        match target(config, &p.name) {
            Target::Plain(name) => out.push(whole(p, name, false)),
            Target::Transposed(name) => out.push(whole(p, name, p.shape.len() == 2)),
            Target::Experts(prefix, suffix) => {
                let [experts, rows, columns] = *p.shape.as_slice() else { continue };
                out.extend((0..experts).map(|e| Source {
                    name: format!("{prefix}{e}{suffix}"),
                    shape: vec![rows, columns],
                    transposed: false,
                    runs: vec![Run { parameter: p.name.clone(), row: e * rows, rows }],
                }));
            }
            // Made once, at the first of its parts.
            Target::Fused(kind, name) => out.extend(fused(config, kind, name, p, &by_name)),
        }
    }
    out
}

fn whole(p: &Parameter, name: String, transposed: bool) -> Source {
    let shape = if transposed { p.shape.iter().rev().copied().collect() } else { p.shape.clone() };
    Source { name, shape, transposed, runs: vec![Run { parameter: p.name.clone(), row: 0, rows: p.shape[0] }] }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fusion {
    /// q, k, v one after the other.
    Stacked,
    /// q, k, v one after the other, stored `[in, out]`.
    StackedTransposed,
    /// For each key/value head: its queries, its key, its value.
    ByHead,
    /// gate, up.
    GateUp,
}

enum Target {
    Plain(String),
    Transposed(String),
    Experts(String, String),
    Fused(Fusion, String),
}

fn fused(config: &DecoderConfig, kind: Fusion, name: String, first: &Parameter, by_name: &BTreeMap<&str, &Parameter>) -> Option<Source> {
    let parts: &[&str] = if kind == Fusion::GateUp { &["gate_proj", "up_proj"] } else { &["q_proj", "k_proj", "v_proj"] };
    if !first.name.contains(parts[0]) {
        return None;
    }
    let names: Vec<String> = parts.iter().map(|part| first.name.replace(parts[0], part)).collect();
    let rows: Vec<usize> = names.iter().filter_map(|n| by_name.get(n.as_str()).map(|p| p.shape[0])).collect();
    let total = rows.iter().sum();
    let runs = if kind == Fusion::ByHead {
        let (g, k) = (config.num_key_value_heads, config.head_size());
        let group = config.num_attention_heads / g * k;
        let run = |part: usize, row: usize, rows: usize| Run { parameter: names[part].clone(), row, rows };
        (0..g).flat_map(|i| [run(0, i * group, group), run(1, i * k, k), run(2, i * k, k)]).collect()
    } else {
        names.iter().zip(&rows).map(|(name, &rows)| Run { parameter: name.clone(), row: 0, rows }).collect()
    };
    let mut shape = vec![total];
    shape.extend(&first.shape[1..]);
    let transposed = kind == Fusion::StackedTransposed && shape.len() == 2;
    if transposed {
        shape.reverse();
    }
    Some(Source { name, shape, transposed, runs })
}

/// Our name to a checkpoint's.
fn target(config: &DecoderConfig, ours: &str) -> Target {
    match config.family {
        Family::Gpt2 => gpt2(ours),
        Family::Falcon => falcon(config, ours),
        Family::GptNeox => gpt_neox(ours),
        _ => llama(config.family, ours),
    }
}

/// `model.layers.7.mlp.up_proj.weight` -> (`7`, `mlp.up_proj.weight`).
fn layer(ours: &str) -> Option<(&str, &str)> {
    ours.strip_prefix("model.layers.")?.split_once('.')
}

fn llama(family: Family, ours: &str) -> Target {
    let Some((i, rest)) = layer(ours) else { return Target::Plain(ours.into()) };
    let at = |name: String| format!("model.layers.{i}.{name}");
    if let Some(rest) = rest.strip_prefix("mla.") {
        return Target::Plain(at(format!("self_attn.{rest}")));
    }
    if let Some(rest) = rest.strip_prefix("moe.") {
        let mixtral = family == Family::Mixtral;
        let block = if mixtral { "block_sparse_moe" } else { "mlp" };
        if let Some(projection) = rest.strip_prefix("experts.") {
            let name = match (mixtral, projection) {
                (true, "gate_proj") => "w1",
                (true, "down_proj") => "w2",
                (true, _) => "w3",
                (false, name) => name,
            };
            return Target::Experts(at(format!("{block}.experts.")), format!(".{name}.weight"));
        }
        let rest = if family == Family::Qwen2Moe { rest.replace("shared_experts.", "shared_expert.") } else { rest.to_string() };
        return Target::Plain(at(format!("{block}.{rest}")));
    }
    if family == Family::Phi3 {
        if ["q_proj", "k_proj", "v_proj"].iter().any(|p| rest.contains(p)) {
            return Target::Fused(Fusion::Stacked, at("self_attn.qkv_proj.weight".into()));
        }
        if rest.contains("gate_proj") || rest.contains("up_proj") {
            return Target::Fused(Fusion::GateUp, at("mlp.gate_up_proj.weight".into()));
        }
    }
    Target::Plain(ours.into())
}

fn gpt2(ours: &str) -> Target {
    let Some((i, rest)) = layer(ours) else {
        return Target::Plain(match ours {
            "model.embed_tokens.weight" => "transformer.wte.weight".into(),
            "model.position_embeddings.weight" => "transformer.wpe.weight".into(),
            _ => ours.replace("model.norm", "transformer.ln_f"),
        });
    };
    let kind = rest.rsplit('.').next().unwrap_or_default();
    let at = |name: &str| format!("transformer.h.{i}.{name}.{kind}");
    match rest.rsplit_once('.').map_or(rest, |r| r.0) {
        "input_layernorm" => Target::Plain(at("ln_1")),
        "post_attention_layernorm" => Target::Plain(at("ln_2")),
        "self_attn.o_proj" => Target::Transposed(at("attn.c_proj")),
        "mlp.up_proj" => Target::Transposed(at("mlp.c_fc")),
        "mlp.down_proj" => Target::Transposed(at("mlp.c_proj")),
        _ => Target::Fused(Fusion::StackedTransposed, at("attn.c_attn")),
    }
}

fn falcon(config: &DecoderConfig, ours: &str) -> Target {
    let Some((i, rest)) = layer(ours) else {
        return Target::Plain(match ours {
            "model.embed_tokens.weight" => "transformer.word_embeddings.weight".into(),
            _ => ours.replace("model.norm", "transformer.ln_f"),
        });
    };
    let kind = rest.rsplit('.').next().unwrap_or_default();
    let at = |name: &str| format!("transformer.h.{i}.{name}.{kind}");
    let two = config.layout == Layout::Parallel;
    match rest.rsplit_once('.').map_or(rest, |r| r.0) {
        "input_layernorm" => Target::Plain(at(if two { "ln_attn" } else { "input_layernorm" })),
        "post_attention_layernorm" => Target::Plain(at(if two { "ln_mlp" } else { "post_attention_layernorm" })),
        "self_attn.o_proj" => Target::Plain(at("self_attention.dense")),
        "mlp.up_proj" => Target::Plain(at("mlp.dense_h_to_4h")),
        "mlp.down_proj" => Target::Plain(at("mlp.dense_4h_to_h")),
        _ => Target::Fused(Fusion::ByHead, at("self_attention.query_key_value")),
    }
}

fn gpt_neox(ours: &str) -> Target {
    let Some((i, rest)) = layer(ours) else {
        return Target::Plain(match ours {
            "model.embed_tokens.weight" => "gpt_neox.embed_in.weight".into(),
            "lm_head.weight" => "embed_out.weight".into(),
            _ => ours.replace("model.norm", "gpt_neox.final_layer_norm"),
        });
    };
    let kind = rest.rsplit('.').next().unwrap_or_default();
    let at = |name: &str| format!("gpt_neox.layers.{i}.{name}.{kind}");
    match rest.rsplit_once('.').map_or(rest, |r| r.0) {
        norm @ ("input_layernorm" | "post_attention_layernorm") => Target::Plain(at(norm)),
        "self_attn.o_proj" => Target::Plain(at("attention.dense")),
        "mlp.up_proj" => Target::Plain(at("mlp.dense_h_to_4h")),
        "mlp.down_proj" => Target::Plain(at("mlp.dense_4h_to_h")),
        _ => Target::Fused(Fusion::ByHead, at("attention.query_key_value")),
    }
}

/// Tensors that a checkpoint may hold besides: buffers, copies of tied tables, layers we leave out (multi-token prediction).
pub(crate) fn ignorable(config: &DecoderConfig, name: &str) -> bool {
    let head = if config.family == Family::GptNeox { "embed_out.weight" } else { "lm_head.weight" };
    let buffer = ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
    let extra_layer = || {
        let i = name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok()?;
        Some(i >= config.num_hidden_layers)
    };
    config.tie_word_embeddings && name == head
        || buffer.iter().any(|b| name.ends_with(b))
        || name.ends_with("_scale_inv")
        || config.family == Family::DeepseekV3 && extra_layer() == Some(true)
}
