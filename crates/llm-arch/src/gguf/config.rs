//! Metadata of a GGUF file to [`DecoderConfig`].
//!
//! The keys say what a `config.json` says, under other names. So they are translated into one and read by [`crate::hf`]: a family's defaults stand
//! in one place. A key of the architecture that is not known here is an error, since what it asks for would be left out silently.
//!
//! What no key says is found as llama.cpp finds it: whether there are biases, a tied table or experts, by looking for the tensors; Gemma 2's
//! scale of the scores by the number of layers; the frequencies of Llama 3 in the tensor `rope_freqs.weight`.

use crate::config::{DecoderConfig, Family, MOST_LAYERS};
use crate::hf::config_from_json;
use crate::rope::RopeScaling;
use llm_tokenizer::formats::gguf::{ARCHITECTURE, Metadata, Value};
use serde_json::{Map, Value as Json, json};
use std::cell::RefCell;
use std::collections::BTreeSet;

type Result<T> = std::result::Result<T, String>;

/// Each `general.architecture` that is read, with the `model_type` of its `config.json`.
pub const ARCHITECTURES: [(&str, &str); 12] = [
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen2moe", "qwen2_moe"),
    ("qwen3moe", "qwen3_moe"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("phi3", "phi3"),
    ("gpt2", "gpt2"),
    ("olmo2", "olmo2"),
    ("olmoe", "olmoe"),
    ("deepseek2", "deepseek_v2"),
];

/// Keys that say nothing about the numbers, or what other keys and the shapes say already.
const IDLE: [&str; 7] = [
    "vocab_size",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_ext_factor",
    "tensor_data_layout",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "embedding_length_out",
];

/// Control tokens that end a turn, whatever the file's keys say; llama.cpp knows them by their texts too.
const ENDS: [&str; 9] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>", "_<EOT>"];

/// No model has more positions.
const MOST_POSITIONS: usize = 1 << 24;

/// What the tensors of a file tell.
pub(crate) trait Tensors {
    /// Dimensions, the slowest first.
    fn shape(&self, name: &str) -> Option<&[usize]>;
    /// The values of a dense vector.
    fn vector(&self, name: &str) -> Result<Option<Vec<f32>>>;
}

/// The keys of an architecture; remembers which were asked for.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let key = format!("{}.{key}", self.architecture);
        let value = self.metadata.0.get(&key);
        self.asked.borrow_mut().insert(key);
        value
    }

    fn wrong(&self, key: &str, expected: &str) -> String {
        format!("`{}.{key}`: expected {expected}", self.architecture)
    }

    /// A whole number, or one for each layer if they are all the same.
    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let same = || {
            let list = value.sizes()?;
            let first = *list.first()?;
            list.iter().all(|n| *n == first).then_some(first)
        };
        let size = value.size().or_else(same).filter(|n| *n <= 1 << 32);
        size.map(Some).ok_or_else(|| self.wrong(key, "a whole number, the same for all layers"))
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| format!("`{}.{key}` is missing; expected a whole number", self.architecture))
    }

    /// Positions. Tables are made for all of them, so a damaged number must not be believed.
    fn context(&self) -> Result<usize> {
        let context = self.required("context_length")?;
        if context <= MOST_POSITIONS { Ok(context) } else { Err(self.wrong("context_length", &format!("at most {MOST_POSITIONS}, not {context}"))) }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.number().filter(|n| n.is_finite()).map(shortest).ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.flag().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.text().ok_or_else(|| self.wrong(key, "a text"))).transpose()
    }

    /// The first key that nobody asked for.
    fn unknown(&self) -> Option<&'a str> {
        let prefix = format!("{}.", self.architecture);
        let asked = self.asked.borrow();
        let own = self.metadata.0.keys().filter(|key| key.strip_prefix(&prefix).is_some_and(|rest| !IDLE.contains(&rest)));
        own.map(String::as_str).find(|key| !asked.contains(*key))
    }
}

/// The number that was meant: files hold `1e-5` in single precision.
fn shortest(number: f64) -> f64 {
    let single = number as f32;
    if f64::from(single) == number { single.to_string().parse().unwrap_or(number) } else { number }
}

/// The configuration of a file. The error names the key.
pub(crate) fn config(metadata: &Metadata, tensors: &impl Tensors) -> Result<DecoderConfig> {
    let architecture = metadata.0.get(ARCHITECTURE).and_then(Value::text).ok_or_else(|| format!("`{ARCHITECTURE}` is missing; expected a text"))?;
    let known = || ARCHITECTURES.map(|(name, _)| name).join(", ");
    let Some((_, model_type)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        return Err(format!("`{ARCHITECTURE}` = \"{architecture}\" is not supported; supported are {}", known()));
    };
    if let Some(count) = metadata.0.get("split.count").and_then(Value::size).filter(|n| *n > 1) {
        return Err(format!("`split.count` = {count}: models in several files are not read; join them with llama-gguf-split --merge"));
    }
    let keys = Keys { metadata, architecture, asked: RefCell::default() };
    let mut json = Map::new();
    json.insert("model_type".into(), json!(model_type));
    match architecture {
        "gpt2" => gpt2(&keys, tensors, &mut json)?,
        "deepseek2" => deepseek(&keys, tensors, &mut json)?,
        _ => llama_like(&keys, tensors, &mut json)?,
    }
    token_ids(metadata, &mut json)?;
    if let Some(key) = keys.unknown() {
        return Err(format!("`{key}` is not supported: what it asks of the model is not known here"));
    }
    let mut config = config_from_json(&Json::Object(json))?;
    config.qkv_bias = ["attn_q", "attn_qkv"].iter().any(|name| tensors.shape(&format!("blk.0.{name}.bias")).is_some());
    config.output_bias = tensors.shape("blk.0.attn_output.bias").is_some();
    config.mlp_bias = tensors.shape("blk.0.ffn_up.bias").is_some();
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn table(tensors: &impl Tensors) -> Result<usize> {
    match tensors.shape("token_embd.weight") {
        Some([rows, _]) => Ok(*rows),
        _ => Err("the matrix `token_embd.weight` is missing".into()),
    }
}

fn gpt2(keys: &Keys, tensors: &impl Tensors, json: &mut Map<String, Json>) -> Result<()> {
    let heads = keys.required("attention.head_count")?;
    if keys.size("attention.head_count_kv")?.is_some_and(|kv| kv != heads) {
        return Err(keys.wrong("attention.head_count_kv", &format!("{heads}, as many as heads")));
    }
    let mut put = |key: &str, value: Json| drop(json.insert(key.into(), value));
    put("vocab_size", json!(table(tensors)?));
    put("n_embd", json!(keys.required("embedding_length")?));
    put("n_head", json!(heads));
    put("n_layer", json!(keys.required("block_count")?));
    put("n_positions", json!(keys.context()?));
    put("n_inner", json!(keys.required("feed_forward_length")?));
    put("layer_norm_epsilon", json!(keys.number("attention.layer_norm_epsilon")?.unwrap_or(1e-5)));
    put("tie_word_embeddings", json!(tensors.shape("output.weight").is_none()));
    Ok(())
}

/// DeepSeek-V2 and V3; the third's router has a bias.
fn deepseek(keys: &Keys, tensors: &impl Tensors, json: &mut Map<String, Json>) -> Result<()> {
    let heads = keys.required("attention.head_count")?;
    let layers = keys.required("block_count")?;
    let context = keys.context()?;
    let rotated = keys.required("rope.dimension_count")?;
    // Newer files give the sizes of the cached latent under the plain names.
    let either = |key: &str| -> Result<usize> {
        let plain = keys.required(key)?;
        Ok(keys.size(&format!("{key}_mla"))?.unwrap_or(plain))
    };
    let (key, value) = (either("attention.key_length")?, either("attention.value_length")?);
    let plain = key.checked_sub(rotated).ok_or_else(|| keys.wrong("attention.key_length", &format!("at least {rotated}, what is rotated of it")))?;
    keys.get("attention.head_count_kv");
    let mut put = |key: &str, value: Json| drop(json.insert(key.into(), value));
    let v3 = (0..layers.min(MOST_LAYERS)).any(|i| tensors.shape(&format!("blk.{i}.exp_probs_b.bias")).is_some());
    put("model_type", json!(if v3 { "deepseek_v3" } else { "deepseek_v2" }));
    put("vocab_size", json!(table(tensors)?));
    put("hidden_size", json!(keys.required("embedding_length")?));
    put("intermediate_size", json!(keys.required("feed_forward_length")?));
    put("num_hidden_layers", json!(layers));
    put("num_attention_heads", json!(heads));
    put("max_position_embeddings", json!(context));
    put("rms_norm_eps", json!(keys.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)));
    put("rope_theta", json!(keys.number("rope.freq_base")?.unwrap_or(10_000.0)));
    put("tie_word_embeddings", json!(tensors.shape("output.weight").is_none()));
    put("q_lora_rank", json!(keys.size("attention.q_lora_rank")?.filter(|n| *n > 0)));
    put("kv_lora_rank", json!(keys.required("attention.kv_lora_rank")?));
    put("qk_rope_head_dim", json!(rotated));
    put("qk_nope_head_dim", json!(plain));
    put("v_head_dim", json!(value));
    let mscale = keys.number("rope.scaling.yarn_log_multiplier")?.map(|m| shortest(f64::from((m * 10.0) as f32)));
    if let Some(mut scaling) = rope_scaling(keys, tensors, context)? {
        if scaling["rope_type"] == "yarn" {
            match mscale {
                Some(mscale) => (scaling["mscale"], scaling["mscale_all_dim"]) = (json!(mscale), json!(mscale)),
                None => scaling["attention_factor"] = json!(1.0),
            }
        }
        put("rope_scaling", scaling);
    }
    let Some(experts) = keys.size("expert_count")?.filter(|n| *n > 0) else {
        put("n_routed_experts", Json::Null);
        return Ok(());
    };
    let scoring = keys.size("expert_gating_func")?.filter(|f| *f != 0).unwrap_or(if v3 { 2 } else { 1 });
    if scoring != if v3 { 2 } else { 1 } {
        let expected = if v3 { "2, a sigmoid, as there are router biases" } else { "1, a softmax, as there are no router biases" };
        return Err(keys.wrong("expert_gating_func", expected));
    }
    let normed = keys.flag("expert_weights_norm")?.unwrap_or(false);
    if normed && !v3 {
        return Err(keys.wrong("expert_weights_norm", "false for a softmax router"));
    }
    let groups = keys.size("expert_group_count")?.filter(|n| *n > 1).unwrap_or(1);
    put("n_routed_experts", json!(experts));
    put("num_experts_per_tok", json!(keys.required("expert_used_count")?));
    put("n_shared_experts", json!(keys.size("expert_shared_count")?.unwrap_or(0)));
    put("moe_intermediate_size", json!(keys.required("expert_feed_forward_length")?));
    put("first_k_dense_replace", json!(keys.size("leading_dense_block_count")?.unwrap_or(0)));
    put("routed_scaling_factor", json!(keys.number("expert_weights_scale")?.filter(|s| *s != 0.0).unwrap_or(1.0)));
    put("norm_topk_prob", json!(normed));
    put("topk_method", json!(if groups > 1 { "group_limited_greedy" } else { "greedy" }));
    put("n_group", json!(groups));
    put("topk_group", json!(keys.size("expert_group_used_count")?.unwrap_or(groups).min(groups)));
    Ok(())
}

fn llama_like(keys: &Keys, tensors: &impl Tensors, json: &mut Map<String, Json>) -> Result<()> {
    let heads = keys.required("attention.head_count")?;
    let hidden = keys.required("embedding_length")?;
    let layers = keys.required("block_count")?;
    let head = keys.size("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    if let Some(value) = keys.size("attention.value_length")?.filter(|value| *value != head) {
        return Err(keys.wrong("attention.value_length", &format!("{head}, the size of a key head, not {value}")));
    }
    let context = keys.context()?;
    let eps = keys.number("attention.layer_norm_rms_epsilon")?;
    let eps = eps.ok_or_else(|| format!("`{}.attention.layer_norm_rms_epsilon` is missing; expected a number", keys.architecture))?;
    let mut put = |key: &str, value: Json| drop(json.insert(key.into(), value));
    put("vocab_size", json!(table(tensors)?));
    put("hidden_size", json!(hidden));
    put("num_hidden_layers", json!(layers));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(keys.size("attention.head_count_kv")?.unwrap_or(heads)));
    put("head_dim", json!(head));
    put("max_position_embeddings", json!(context));
    put("rms_norm_eps", json!(eps));
    put("rope_theta", json!(keys.number("rope.freq_base")?.unwrap_or(10_000.0)));
    put("tie_word_embeddings", json!(tensors.shape("output.weight").is_none()));
    if let Some(rotated) = keys.size("rope.dimension_count")?.filter(|rotated| *rotated != head) {
        put("partial_rotary_factor", json!(rotated as f64 / head.max(1) as f64));
        if keys.architecture != "phi3" {
            return Err(keys.wrong("rope.dimension_count", &format!("{head}, the size of a head")));
        }
    }
    if let Some(scaling) = rope_scaling(keys, tensors, context)? {
        put("rope_scaling", scaling);
    }
    let experts = keys.size("expert_count")?.unwrap_or(0);
    let used = keys.size("expert_used_count")?.unwrap_or(0);
    let width = keys.size("feed_forward_length")?;
    match keys.architecture {
        "llama" if experts > 0 => {
            put("model_type", json!("mixtral"));
            put("num_local_experts", json!(experts));
        }
        // Mistral's files say `llama`; the window is what sets them apart.
        "llama" => {
            if let Some(window) = keys.size("attention.sliding_window")? {
                put("model_type", json!("mistral"));
                put("sliding_window", json!(window));
            }
        }
        "phi3" => put("sliding_window", json!(keys.size("attention.sliding_window")?.filter(|n| *n > 0))),
        "gemma2" => {
            put("sliding_window", json!(keys.required("attention.sliding_window")?));
            for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                // Absent is the class default; 0 is none.
                if let Some(cap) = keys.number(key)? {
                    put(key, json!(Some(cap).filter(|cap| *cap != 0.0)));
                }
            }
            // No key says it. The largest model, of 46 layers, is the one that divides by something else than the size of a head.
            put("query_pre_attn_scalar", json!(if layers == 46 { hidden / heads.max(1) } else { head }));
        }
        "qwen2moe" | "qwen3moe" | "olmoe" => {
            put("num_experts", json!(experts));
            let norm = keys.flag("expert_weights_norm")?.unwrap_or(keys.architecture == "qwen3moe");
            put("norm_topk_prob", json!(norm));
            if keys.architecture == "olmoe" {
                put("clip_qkv", json!(keys.number("attention.clamp_kqv")?));
            }
        }
        _ => {}
    }
    if keys.flag("attention.causal")? == Some(false) {
        return Err(keys.wrong("attention.causal", "true: encoders are not read"));
    }
    if let Some(other) = keys.size("expert_gating_func")?.filter(|f| *f > 1) {
        return Err(keys.wrong("expert_gating_func", &format!("1, a softmax, not {other}")));
    }
    if let Some(scale) = keys.number("expert_weights_scale")?.filter(|scale| *scale != 1.0 && *scale != 0.0) {
        return Err(keys.wrong("expert_weights_scale", &format!("1, not {scale}")));
    }
    if experts > 0 {
        put("num_experts_per_tok", json!(used));
        mixture(tensors, layers, &mut put);
    }
    if let Some(width) = width.filter(|n| *n > 0) {
        put("intermediate_size", json!(width));
    } else if experts == 0 {
        return Err(format!("`{}.feed_forward_length` is missing; expected a whole number", keys.architecture));
    }
    Ok(())
}

/// Widths of experts and which layers have them, from the tensors.
fn mixture(tensors: &impl Tensors, layers: usize, put: &mut impl FnMut(&str, Json)) {
    let layers = layers.min(MOST_LAYERS);
    let first = |name: &str| (0..layers).find_map(|i| tensors.shape(&format!("blk.{i}.{name}.weight")));
    if let Some([_, width, _]) = first("ffn_gate_exps") {
        put("moe_intermediate_size", json!(width));
    }
    if let Some([width, _]) = first("ffn_gate_shexp") {
        put("shared_expert_intermediate_size", json!(width));
    }
    let dense = (0..layers).filter(|i| tensors.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_none());
    put("mlp_only_layers", json!(dense.collect::<Vec<_>>()));
}

fn rope_scaling(keys: &Keys, tensors: &impl Tensors, context: usize) -> Result<Option<Json>> {
    let kind = keys.text("rope.scaling.type")?.unwrap_or("none");
    let factor = keys.number("rope.scaling.factor")?.or(keys.number("rope.scale_linear")?).filter(|f| *f != 0.0);
    let original = keys.size("rope.scaling.original_context_length")?;
    let attention = keys.number("rope.scaling.attn_factor")?.or(keys.number("rope.scaling.yarn_attn_factor")?);
    let (fast, slow) = (keys.number("rope.scaling.yarn_beta_fast")?, keys.number("rope.scaling.yarn_beta_slow")?);
    let factors = |name: &str| -> Result<Option<Vec<f64>>> { Ok(tensors.vector(name)?.map(|v| v.iter().map(|&v| shortest(f64::from(v))).collect())) };
    if let (Some(short), Some(long)) = (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?) {
        let original = original.unwrap_or(context);
        let stretched = context as f64 / original.max(1) as f64;
        let mut json = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long, "factor": stretched});
        json["original_max_position_embeddings"] = json!(original);
        if let Some(attention) = attention {
            json["attention_factor"] = json!(attention);
        }
        return Ok(Some(json));
    }
    if let Some(divisors) = factors("rope_freqs.weight")? {
        let scaling = divided(keys.number("rope.freq_base")?.unwrap_or(10_000.0), divisors, context);
        return serde_json::to_value(scaling).map(Some).map_err(|e| format!("`rope_freqs.weight`: {e}"));
    }
    match (kind, factor) {
        ("none", None | Some(1.0)) | ("linear", None | Some(1.0)) => Ok(None),
        ("linear" | "none", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        ("yarn", factor) => {
            let mut json = json!({"rope_type": "yarn", "original_max_position_embeddings": original.unwrap_or(context)});
            for (key, value) in [("factor", factor), ("attention_factor", attention), ("beta_fast", fast), ("beta_slow", slow)] {
                if let Some(value) = value {
                    json[key] = json!(value);
                }
            }
            Ok(Some(json))
        }
        ("longrope", _) => Err("`rope.scaling.type` is longrope, but `rope_factors_short.weight` and `rope_factors_long.weight` are missing".into()),
        (other, _) => Err(format!("`{}.rope.scaling.type` = \"{other}\" is not supported; none, linear, yarn and longrope are", keys.architecture)),
    }
}

/// Frequencies divided by a list: Llama 3's formula if that is where the list is from, else the list itself.
fn divided(theta: f64, divisors: Vec<f64>, context: usize) -> RopeScaling {
    let factor = divisors.iter().copied().fold(1.0, f64::max);
    let close = |scaling: &RopeScaling| {
        let plain = RopeScaling::Default.inverse_frequencies(theta, 2 * divisors.len(), context, 0);
        let scaled = scaling.inverse_frequencies(theta, 2 * divisors.len(), context, 0);
        plain.iter().zip(&scaled).zip(&divisors).all(|((p, s), d)| (f64::from(p / s) / d - 1.0).abs() < 1e-5)
    };
    let llama3 =
        |original: usize| RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: original };
    if let Some(found) = (5..=17).map(|bits| llama3(1 << bits)).find(close) {
        return found;
    }
    RopeScaling::Longrope {
        short_factor: divisors.clone(),
        long_factor: divisors,
        original_max_position_embeddings: context,
        factor: 1.0,
        attention_factor: Some(1.0),
    }
}

fn token_ids(metadata: &Metadata, json: &mut Map<String, Json>) -> Result<()> {
    let id = |name: &str| match metadata.tokenizer(&format!("{name}_token_id")) {
        None => Ok(None),
        // Old files say "none" with all bits set.
        Some(Value::U32(u32::MAX)) => Ok(None),
        Some(value) => value.id().map(Some).ok_or_else(|| format!("`tokenizer.ggml.{name}_token_id`: expected a token id")),
    };
    let mut ends: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
    if let (Some(Value::Texts(tokens)), Some(Value::I32s(kinds))) = (metadata.tokenizer("tokens"), metadata.tokenizer("token_type")) {
        let control = tokens.iter().zip(kinds).enumerate().filter(|(_, (text, kind))| **kind == 3 && ENDS.contains(&text.as_str()));
        ends.extend(control.map(|(id, _)| id as u32));
    }
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    json.insert("bos_token_id".into(), json!(id("bos")?));
    json.insert("eos_token_id".into(), json!(ends));
    json.insert("pad_token_id".into(), json!(id("padding")?));
    Ok(())
}

/// The `general.architecture` of a family; none for those that llama.cpp's files keep in ways that are not written here.
pub(crate) fn architecture(family: Family) -> Option<&'static str> {
    Some(match family {
        Family::Llama | Family::Mistral | Family::Mixtral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Qwen2Moe => "qwen2moe",
        Family::Qwen3Moe => "qwen3moe",
        Family::Gemma => "gemma",
        Family::Gemma2 => "gemma2",
        Family::Phi3 => "phi3",
        Family::Gpt2 => "gpt2",
        Family::Olmo2 => "olmo2",
        Family::Olmoe => "olmoe",
        Family::Falcon | Family::GptNeox | Family::Deepseek | Family::DeepseekV2 | Family::DeepseekV3 => return None,
    })
}
