//! Which tensor of a GGUF file holds which of our parameters, and what was done to it on the way.
//!
//! A file's tensor is a stack of one or more of our parameters (fused q, k, v; gate and up). Llama's conversion also moves the rows of q and k,
//! so that the two halves which a rotation mixes become neighbours; whole rows move, which quantised ones survive. Gemma's stores `1 + w` for
//! norms. The table is read forwards to load and backwards to save.

use crate::config::{DecoderConfig, Family, Layout};
use crate::parameters::parameters;

/// What was done to a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Rows of each of so many heads went from halves to pairs.
    Paired(usize),
    /// One was added.
    PlusOne,
}

/// A parameter within a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub parameter: String,
    /// Rows, all leading dimensions flattened; elements of a vector.
    pub rows: usize,
    pub change: Change,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileTensor {
    pub name: String,
    /// The slowest dimension first.
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
}

impl FileTensor {
    /// Rows and elements of a row; a vector is a column.
    pub fn rows(&self) -> [usize; 2] {
        match *self.shape.as_slice() {
            [] => [1, 1],
            [n] => [n, 1],
            [ref rows @ .., width] => [rows.iter().product(), width],
        }
    }
}

/// Row `row` of ours is which row of the file, in a parameter of `rows` rows.
pub(crate) fn paired_row(row: usize, rows: usize, heads: usize) -> usize {
    let half = rows / heads.max(1) / 2;
    if half == 0 {
        return row;
    }
    let (head, part, at) = (row / (2 * half), row / half % 2, row % half);
    head * 2 * half + 2 * at + part
}

/// DeepSeek's second projection of keys and values in the two tensors that files have of it: `attn_k_b [H, rank, nope]`, transposed, and
/// `attn_v_b [H, v, rank]`. The names and shapes, of a layer whose tensors begin with `at`.
pub(crate) fn latent(config: &DecoderConfig, at: &str) -> Option<[(String, [usize; 3]); 2]> {
    let (mla, heads) = (config.mla.as_ref()?, config.num_attention_heads);
    let keys = (format!("{at}attn_k_b.weight"), [heads, mla.kv_lora_rank, mla.qk_nope_head_dim]);
    Some([keys, (format!("{at}attn_v_b.weight"), [heads, mla.v_head_dim, mla.kv_lora_rank])])
}

/// Every tensor that a file of this configuration has; `whole` says that keys and values of latent attention are in one tensor, as in older files.
pub(crate) fn tensors(config: &DecoderConfig, whole: bool) -> Vec<FileTensor> {
    let mut out: Vec<FileTensor> = Vec::new();
    for p in parameters(config) {
        let name = name_of(config, &p.name);
        if let (false, Some(at)) = (whole, name.strip_suffix("attn_kv_b.weight")) {
            let two = latent(config, at).into_iter().flatten();
            out.extend(two.map(|(name, shape)| FileTensor { name, shape: shape.to_vec(), parts: Vec::new() }));
            continue;
        }
        let part = Part {
            parameter: p.name.clone(),
            rows: p.shape[..p.shape.len().saturating_sub(1).max(1)].iter().product(),
            change: change(config, &p.name),
        };
        // The gate of a shared expert is one row, which ggml calls a vector.
        let shape = if p.name.ends_with("shared_expert_gate.weight") { vec![p.shape[1]] } else { p.shape };
        match out.iter_mut().rev().take(8).find(|t| t.name == name) {
            Some(tensor) => {
                tensor.shape[0] += shape[0];
                tensor.parts.push(part);
            }
            None => out.push(FileTensor { name, shape, parts: vec![part] }),
        }
    }
    out
}

fn change(config: &DecoderConfig, ours: &str) -> Change {
    let llama = matches!(config.family, Family::Llama | Family::Mistral | Family::Mixtral);
    if llama && ours.contains(".self_attn.q_proj.") {
        return Change::Paired(config.num_attention_heads);
    }
    if llama && ours.contains(".self_attn.k_proj.") {
        return Change::Paired(config.num_key_value_heads);
    }
    let gemma = matches!(config.family, Family::Gemma | Family::Gemma2);
    if gemma && ours.ends_with("norm.weight") { Change::PlusOne } else { Change::None }
}

/// Our name to the file's.
fn name_of(config: &DecoderConfig, ours: &str) -> String {
    let Some((layer, rest)) = ours.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return match ours {
            "model.embed_tokens.weight" => "token_embd.weight".into(),
            "model.position_embeddings.weight" => "position_embd.weight".into(),
            "lm_head.weight" => "output.weight".into(),
            _ => ours.replace("model.norm", "output_norm"),
        };
    };
    let (path, kind) = match rest.rsplit_once('.') {
        Some((path, kind @ ("weight" | "bias"))) => (path, kind),
        // Stacked experts are a parameter without a field of their own.
        _ => (rest, if rest.ends_with("e_score_correction_bias") { "bias" } else { "weight" }),
    };
    let fused = matches!(config.family, Family::Gpt2 | Family::Phi3);
    let behind = matches!(config.layout, Layout::Sandwich | Layout::PostNorm);
    let name = match path {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if behind => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" if fused => "attn_qkv",
        "self_attn.q_proj" | "mla.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" | "mla.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mla.q_a_proj" => "attn_q_a",
        "mla.q_a_layernorm" => "attn_q_a_norm",
        "mla.q_b_proj" => "attn_q_b",
        "mla.kv_a_proj_with_mqa" => "attn_kv_a_mqa",
        "mla.kv_a_layernorm" => "attn_kv_a_norm",
        "mla.kv_b_proj" => "attn_kv_b",
        "mlp.gate_proj" if config.family == Family::Phi3 => "ffn_up",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "moe.gate" => "ffn_gate_inp",
        "moe.gate.e_score_correction_bias" => "exp_probs_b",
        "moe.experts.gate_proj" => "ffn_gate_exps",
        "moe.experts.up_proj" => "ffn_up_exps",
        "moe.experts.down_proj" => "ffn_down_exps",
        "moe.shared_experts.gate_proj" => "ffn_gate_shexp",
        "moe.shared_experts.up_proj" => "ffn_up_shexp",
        "moe.shared_experts.down_proj" => "ffn_down_shexp",
        "moe.shared_expert_gate" => "ffn_gate_inp_shexp",
        other => other,
    };
    format!("blk.{layer}.{name}.{kind}")
}

/// `[H * (nope + v), rank]` of the two tensors of [`latent`].
pub(crate) fn join_latent(keys: &[f32], values: &[f32], [heads, rank, nope]: [usize; 3]) -> Vec<f32> {
    let (k, v) = (rank * nope, values.len() / heads.max(1));
    let mut out = Vec::with_capacity(keys.len() + values.len());
    for head in 0..heads {
        let keys = &keys[head * k..][..k];
        (0..nope).for_each(|i| out.extend((0..rank).map(|r| keys[r * nope + i])));
        out.extend_from_slice(&values[head * v..][..v]);
    }
    out
}

/// The way back: the keys or the values.
pub(crate) fn part_latent(joined: &[f32], [heads, rank, nope]: [usize; 3], keys: bool) -> Vec<f32> {
    let each = joined.len() / heads.max(1);
    let head = |head: usize| &joined[head * each..][..each];
    match keys {
        true => (0..heads).flat_map(|h| (0..rank).flat_map(move |r| (0..nope).map(move |i| head(h)[i * rank + r]))).collect(),
        false => (0..heads).flat_map(|h| &head(h)[nope * rank..]).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_pairs_are_a_permutation_of_each_head() {
        // Two heads of four: halves (0 1 | 2 3) are stored as 0 2 1 3.
        let rows: Vec<usize> = (0..8).map(|row| paired_row(row, 8, 2)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        for (rows, heads) in [(48, 4), (24, 2), (64, 1), (6, 3)] {
            let mut seen: Vec<usize> = (0..rows).map(|row| paired_row(row, rows, heads)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn keys_and_values_of_latent_attention_come_together_again() {
        let shape = [2, 3, 4]; // heads, rank, elements of a key; five of a value
        let joined: Vec<f32> = (0..2 * (4 + 5) * 3).map(|i| i as f32).collect();
        let (keys, values) = (part_latent(&joined, shape, true), part_latent(&joined, shape, false));
        assert_eq!((keys.len(), values.len()), (2 * 3 * 4, 2 * 5 * 3));
        assert_eq!(keys[..4], [0.0, 3.0, 6.0, 9.0]);
        assert_eq!(join_latent(&keys, &values, shape), joined);
    }

    #[test]
    fn fused_projections_are_one_tensor() {
        let config = DecoderConfig { family: Family::Phi3, tie_word_embeddings: false, ..Default::default() };
        let all = tensors(&config, false);
        let find = |name: &str| all.iter().find(|t| t.name == name).unwrap();
        assert_eq!(find("blk.3.attn_qkv.weight").shape, [192 + 2 * 64, 192]);
        assert_eq!(find("blk.0.ffn_up.weight").parts.len(), 2);
        assert_eq!(find("output.weight").shape, [4096, 192]);
    }
}
