//! A decoder as a GGUF file that llama.cpp loads.

use super::config::architecture;
use super::names::{Change, FileTensor, latent, paired_row, part_latent, tensors};
use crate::config::{DecoderConfig, Family, LayerType, Positions};
use crate::rope::RopeScaling;
use crate::{Decoder, Error, Result};
use llm_run::atomic::AtomicFile;
use llm_tensor::nn::NormKind;
use llm_tensor::params;
use llm_tensor::quant::gguf::{BlockType, WRITTEN, quantize};
use llm_tensor::weights::{HostTensor, Pending};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::formats::gguf::{ALIGNMENT, ARCHITECTURE, Metadata, TensorInfo, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Write a model and its tokenizer as one file, atomically. Matrices get `kind` where their rows are whole blocks and half precision elsewhere;
/// vectors and routers are written in single precision, and for `Q4_0` the tables of tokens in `Q8_0`. The error says what the format cannot express.
pub fn save(path: impl AsRef<Path>, decoder: &Decoder, tokenizer: Option<&Tokenizer>, name: &str, kind: BlockType) -> Result<()> {
    let path = path.as_ref();
    let config = decoder.config();
    let bad = |message: String| Error::File { path: path.to_path_buf(), message: format!("cannot be written as GGUF: {message}") };
    if !WRITTEN.contains(&kind) {
        return Err(bad(format!("elements of type {kind} are read but not written; {} are", WRITTEN.map(|k| k.to_string()).join(", "))));
    }
    let mut metadata = match tokenizer {
        Some(tokenizer) => padded(tokenizer.gguf_metadata(path)?, config.vocab_size),
        None => Metadata::default(),
    };
    describe(config, name, kind, &mut metadata).map_err(bad)?;
    let all = FileTensors::of(decoder);
    let (mut infos, mut kinds, mut offset) = (Vec::new(), Vec::new(), 0u64);
    for tensor in &all.tensors {
        let kind = kind_of(tensor, kind);
        let [rows, width] = match *tensor.shape.as_slice() {
            [width] => [1, width],
            _ => tensor.rows(),
        };
        let bytes = kind.row_bytes(width).unwrap_or(0) * rows;
        infos.push(TensorInfo { name: tensor.name.clone(), shape: tensor.shape.clone(), kind: kind.number(), offset });
        kinds.push((kind, bytes));
        offset += (bytes as u64).next_multiple_of(ALIGNMENT);
    }
    let mut file = AtomicFile::create(path)?;
    let failed = |e: std::io::Error| bad(e.to_string());
    file.write_all(&metadata.header_bytes(&infos)).map_err(failed)?;
    for (tensor, (kind, bytes)) in all.tensors.iter().zip(kinds) {
        let values = all.values(&tensor.name).ok_or_else(|| bad(format!("the decoder has no values for `{}`", tensor.name)))?;
        let mut data = Vec::with_capacity(bytes);
        quantize(kind, &values, &mut data)
            .filter(|()| data.len() == bytes)
            .ok_or_else(|| bad(format!("`{}` has an unexpected size", tensor.name)))?;
        data.resize(bytes.next_multiple_of(ALIGNMENT as usize), 0);
        file.write_all(&data).map_err(failed)?;
    }
    Ok(file.commit()?)
}

/// The tensors of a decoder as a file has them.
#[derive(Debug)]
pub struct FileTensors {
    tensors: Vec<FileTensor>,
    ours: BTreeMap<String, HostTensor>,
    /// Those that are no parameters.
    extra: BTreeMap<String, Vec<f32>>,
    config: DecoderConfig,
}

impl FileTensors {
    /// Those of that decoder, copied to the host.
    pub fn of(decoder: &Decoder) -> Self {
        let extra = extra(decoder.config());
        let mut all: Vec<FileTensor> =
            extra.iter().map(|(name, values)| FileTensor { name: name.clone(), shape: vec![values.len()], parts: Vec::new() }).collect();
        all.extend(tensors(decoder.config(), false));
        Self { tensors: all, ours: params::to_host(decoder), extra, config: decoder.config().clone() }
    }

    /// Names and shapes, the slowest dimension first.
    pub fn pending(&self) -> Vec<Pending> {
        self.tensors.iter().map(|t| Pending { name: t.name.clone(), shape: t.shape.clone() }).collect()
    }

    /// The values of one of them, changed as conversion does; none under another name.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        if let Some(values) = self.extra.get(name) {
            return Some(values.clone());
        }
        if let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'))
            && let ("attn_k_b.weight" | "attn_v_b.weight", Some([keys, _])) = (part, latent(&self.config, ""))
        {
            let joined = self.ours.get(&format!("model.layers.{layer}.mla.kv_b_proj.weight"))?;
            return Some(part_latent(&joined.values, keys.1, part == "attn_k_b.weight"));
        }
        let tensor = self.tensors.iter().find(|t| t.name == name)?;
        let mut out = Vec::with_capacity(tensor.shape.iter().product());
        for part in &tensor.parts {
            let values = &self.ours.get(&part.parameter)?.values;
            match part.change {
                Change::None => out.extend_from_slice(values),
                Change::PlusOne => out.extend(values.iter().map(|v| v + 1.0)),
                Change::Paired(heads) => {
                    let width = values.len() / part.rows.max(1);
                    let mut moved = vec![0.0; values.len()];
                    for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
                        moved[paired_row(row, part.rows, heads) * width..][..width].copy_from_slice(values);
                    }
                    out.extend(moved);
                }
            }
        }
        Some(out)
    }
}

fn kind_of(tensor: &FileTensor, kind: BlockType) -> BlockType {
    if tensor.shape.len() < 2 || tensor.name.contains("ffn_gate_inp") {
        return BlockType::F32;
    }
    let table = matches!(tensor.name.as_str(), "token_embd.weight" | "output.weight");
    let kind = if table && kind == BlockType::Q4_0 { BlockType::Q8_0 } else { kind };
    // llama.cpp adds learned positions to tokens, and has no code for it in other types.
    if tensor.name == "position_embd.weight" {
        return BlockType::F32;
    }
    if kind.row_bytes(tensor.rows()[1]).is_some() { kind } else { BlockType::F16 }
}

/// As many tokens as the model has rows: llama.cpp asks for it.
fn padded(mut metadata: Metadata, rows: usize) -> Metadata {
    const UNUSED: i32 = 5;
    for (key, value) in &mut metadata.0 {
        match (key.as_str(), value) {
            ("tokenizer.ggml.tokens", Value::Texts(tokens)) => (tokens.len()..rows).for_each(|id| tokens.push(format!("[PAD{id}]"))),
            ("tokenizer.ggml.token_type", Value::I32s(kinds)) => kinds.resize(kinds.len().max(rows), UNUSED),
            ("tokenizer.ggml.scores", Value::F32s(scores)) => scores.resize(scores.len().max(rows), -1000.0),
            _ => {}
        }
    }
    metadata
}

/// Factors of the frequencies, which files keep as tensors.
fn extra(config: &DecoderConfig) -> BTreeMap<String, Vec<f32>> {
    let single = |list: &[f64]| list.iter().map(|&f| f as f32).collect::<Vec<f32>>();
    let list = match &config.rope_scaling {
        RopeScaling::Llama3 { .. } => {
            let plain = RopeScaling::Default.inverse_frequencies(config.rope_theta, config.rotary_dim(), config.max_position_embeddings, 0);
            let scaled = config.inverse_frequencies(0);
            vec![("rope_freqs.weight", plain.iter().zip(&scaled).map(|(p, s)| p / s).collect())]
        }
        RopeScaling::Longrope { short_factor, long_factor, .. } => {
            vec![("rope_factors_short.weight", single(short_factor)), ("rope_factors_long.weight", single(long_factor))]
        }
        _ => Vec::new(),
    };
    list.into_iter().map(|(name, values)| (name.to_string(), values)).collect()
}

fn describe(config: &DecoderConfig, name: &str, kind: BlockType, metadata: &mut Metadata) -> Result<(), String> {
    let architecture = architecture(config.family).ok_or_else(|| format!("the family {:?} is not written", config.family))?;
    refuse(config)?;
    let mut put = |key: &str, value: Value| drop(metadata.0.insert(key.replace("{}", architecture), value));
    let size = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let number = |n: f64| Value::F32(n as f32);
    put(ARCHITECTURE, Value::Text(architecture.into()));
    put("general.type", Value::Text("model".into()));
    put("general.name", Value::Text(name.into()));
    put("general.quantization_version", Value::U32(2));
    let file_type = match kind {
        BlockType::F32 => 0,
        BlockType::F16 => 1,
        BlockType::Q4_0 => 2,
        BlockType::Bf16 => 32,
        _ => 7,
    };
    put("general.file_type", Value::U32(file_type));
    put("{}.vocab_size", size(config.vocab_size));
    put("{}.context_length", size(config.max_position_embeddings));
    put("{}.embedding_length", size(config.hidden_size));
    put("{}.block_count", size(config.num_hidden_layers));
    put("{}.feed_forward_length", size(config.intermediate_size));
    put("{}.attention.head_count", size(config.num_attention_heads));
    put("{}.attention.head_count_kv", size(config.num_key_value_heads));
    let eps = if config.norm == NormKind::LayerNorm { "{}.attention.layer_norm_epsilon" } else { "{}.attention.layer_norm_rms_epsilon" };
    put(eps, number(config.norm_eps));
    if config.positions == Positions::Rope {
        put("{}.attention.key_length", size(config.head_size()));
        put("{}.attention.value_length", size(config.head_size()));
        put("{}.rope.dimension_count", size(config.rotary_dim()));
        put("{}.rope.freq_base", number(config.rope_theta));
    }
    match &config.rope_scaling {
        RopeScaling::Linear { factor } => {
            put("{}.rope.scaling.type", Value::Text("linear".into()));
            put("{}.rope.scaling.factor", number(*factor));
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, .. } => {
            put("{}.rope.scaling.type", Value::Text("yarn".into()));
            put("{}.rope.scaling.factor", number(*factor));
            put("{}.rope.scaling.original_context_length", size(*original_max_position_embeddings));
            put("{}.rope.scaling.yarn_beta_fast", number(*beta_fast));
            put("{}.rope.scaling.yarn_beta_slow", number(*beta_slow));
            if let Some(factor) = attention_factor {
                put("{}.rope.scaling.yarn_attn_factor", number(*factor));
            }
        }
        RopeScaling::Longrope { original_max_position_embeddings, .. } => {
            put("{}.rope.scaling.type", Value::Text("longrope".into()));
            put("{}.rope.scaling.original_context_length", size(*original_max_position_embeddings));
            put("{}.rope.scaling.attn_factor", number(config.rope_scaling.attention_factor()));
        }
        RopeScaling::Default | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic { .. } => {}
    }
    if let Some(window) = config.sliding_window {
        put("{}.attention.sliding_window", size(window));
    }
    for (key, cap) in [("{}.attn_logit_softcapping", config.attn_logit_softcapping), ("{}.final_logit_softcapping", config.final_logit_softcapping)] {
        if config.family == Family::Gemma2 {
            put(key, number(cap.unwrap_or(0.0)));
        }
    }
    if let Some(clip) = config.clip_qkv {
        put("{}.attention.clamp_kqv", number(clip));
    }
    if let Some(moe) = &config.moe {
        put("{}.expert_count", size(moe.num_experts));
        put("{}.expert_used_count", size(moe.num_experts_per_tok));
        if matches!(config.family, Family::Qwen2Moe | Family::Qwen3Moe) {
            put("{}.expert_feed_forward_length", size(moe.moe_intermediate_size));
        }
        if moe.shared_expert_intermediate_size > 0 {
            put("{}.expert_shared_feed_forward_length", size(moe.shared_expert_intermediate_size));
        }
    }
    // Ends that the tokenizer's settings do not name.
    for (key, id) in [("tokenizer.ggml.bos_token_id", config.bos_token_id), ("tokenizer.ggml.padding_token_id", config.pad_token_id)] {
        if let Some(id) = id {
            put(key, Value::U32(id));
        }
    }
    for (key, id) in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"].iter().zip(&config.eos_token_id) {
        put(key, Value::U32(*id));
    }
    Ok(())
}

/// What the format, or llama.cpp, would leave out silently.
fn refuse(config: &DecoderConfig) -> Result<(), String> {
    let no = |what: &str| Err(format!("{what} cannot be expressed"));
    if matches!(config.rope_scaling, RopeScaling::Dynamic { .. }) {
        return no("rope scaling `dynamic`");
    }
    if let RopeScaling::Yarn { mscale, mscale_all_dim, truncate, .. } = config.rope_scaling
        && (mscale.is_some() || mscale_all_dim.is_some() || !truncate)
    {
        return no("`mscale`, `mscale_all_dim` or `truncate` of rope scaling `yarn`");
    }
    if matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) && matches!(config.family, Family::Phi3 | Family::Gpt2) {
        return no("rope scaling `llama3` of this family");
    }
    if config.scale_attn_by_inverse_layer_idx {
        return no("`scale_attn_by_inverse_layer_idx`");
    }
    if config.eos_token_id.len() > 3 {
        return no("more than three ids in `eos_token_id`");
    }
    let alternate = || (0..config.num_hidden_layers).all(|i| config.window(i).is_some() == i.is_multiple_of(2));
    let windowed = match config.family {
        Family::Gemma2 => config.sliding_window.is_none() || !alternate(),
        Family::Mistral | Family::Phi3 => config.layer_types.contains(&LayerType::FullAttention),
        _ => config.sliding_window.is_some(),
    };
    if windowed {
        return no("this use of `sliding_window`");
    }
    let scalar = if config.num_hidden_layers == 46 { config.hidden_size / config.num_attention_heads } else { config.head_size() };
    if config.query_pre_attn_scalar.is_some_and(|s| s != scalar as f64) {
        return no("`query_pre_attn_scalar` other than the size of a head");
    }
    if let Some(moe) = &config.moe {
        let normed = matches!(config.family, Family::Mixtral | Family::Qwen3Moe);
        if moe.norm_topk_prob != normed {
            return no("this `norm_topk_prob`");
        }
        if !config.mlp_only_layers.is_empty() {
            return no("dense layers among those with experts");
        }
    }
    Ok(())
}
