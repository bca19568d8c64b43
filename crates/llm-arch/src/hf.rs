//! Hugging Face model folders: `config.json`, `generation_config.json`, `model.safetensors`.
//!
//! Reads the transformers 4 spelling (`rope_theta`, `rope_scaling`, `torch_dtype`) and the transformers 5 one
//! (`rope_parameters`, `dtype`); writes both where they do not conflict, so that either opens what is saved here.

use crate::{Decoder, DecoderConfig, Error, Family, Result, RopeScaling};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::{self, Weights};
use llm_tensor::{host, params};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Load a model folder onto a device. Missing, unexpected and ill-shaped tensors are reported all at once.
pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Decoder> {
    let dir = dir.as_ref();
    let config = load_config(dir)?;
    let weights = Weights::open(dir)?;
    let mut decoder = Decoder::new(&config, Seed(0), device)?;
    let shapes = params::shapes(&decoder);
    let mut problems = Vec::new();
    let mut loaded = BTreeMap::new();
    for (name, shape) in &shapes {
        if !weights.contains(name) {
            problems.push(format!("missing `{name}` {shape:?}"));
            continue;
        }
        let tensor = weights.get(name)?;
        if tensor.shape != *shape {
            problems.push(format!("`{name}` has shape {:?}, expected {shape:?}", tensor.shape));
        }
        loaded.insert(name.clone(), tensor.values);
    }
    for name in weights.names() {
        let tied_copy = config.tie_word_embeddings && name == "lm_head.weight";
        if !shapes.contains_key(name) && !tied_copy && !name.ends_with("rotary_emb.inv_freq") {
            problems.push(format!("unexpected `{name}`"));
        }
    }
    if !problems.is_empty() {
        return Err(Error::Weights { path: dir.to_path_buf(), problems });
    }
    let plain = device.clone().inner();
    decoder = params::map(decoder, |name, _, old| match loaded.remove(name) {
        Some(values) => {
            let n = values.len();
            host::from_vec(values, [n], &plain)
        }
        None => old,
    });
    Ok(decoder)
}

/// Save `config.json`, `generation_config.json` and `model.safetensors` into `dir`, each atomically.
pub fn save(dir: impl AsRef<Path>, decoder: &Decoder) -> Result<()> {
    let dir = dir.as_ref();
    let config = decoder.config();
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    weights::save(dir.join("model.safetensors"), &params::to_host(decoder))?;
    llm_run::atomic::write(dir.join("config.json"), pretty(&config_to_json(config)))?;
    let mut generation = Map::new();
    insert_token_ids(&mut generation, config);
    Ok(llm_run::atomic::write(dir.join("generation_config.json"), pretty(&Value::Object(generation)))?)
}

/// Read `dir/config.json`.
pub fn load_config(dir: impl AsRef<Path>) -> Result<DecoderConfig> {
    let path = dir.as_ref().join("config.json");
    let file_error = |message: String| Error::File { path: path.clone(), message };
    let text = std::fs::read_to_string(&path).map_err(|e| file_error(format!("cannot read model configuration: {e}")))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| file_error(format!("not valid JSON: {e}")))?;
    let config = config_from_json(&value).map_err(file_error)?;
    config.validate().map_err(|e| file_error(e.to_string()))?;
    Ok(config)
}

/// Translate a `config.json` value. The error names the field.
pub fn config_from_json(value: &Value) -> std::result::Result<DecoderConfig, String> {
    let object = value.as_object().ok_or("expected a JSON object")?;
    let present = |key: &str| object.get(key).filter(|v| !v.is_null());
    let size = |key: &str| -> std::result::Result<Option<usize>, String> {
        present(key).map(|v| v.as_u64().map(|n| n as usize).ok_or_else(|| format!("`{key}`: expected a whole number, got {v}"))).transpose()
    };
    let number = |key: &str, default: f64| -> std::result::Result<f64, String> {
        present(key).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| format!("`{key}`: expected a number, got {v}")))
    };
    let flag = |key: &str, default: bool| -> std::result::Result<bool, String> {
        present(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| format!("`{key}`: expected true or false, got {v}")))
    };
    let required = |key: &str| size(key)?.ok_or_else(|| format!("`{key}` is missing"));

    let model_type = present("model_type").and_then(Value::as_str).ok_or("`model_type` is missing")?;
    let family = match model_type {
        "llama" => Family::Llama,
        "mistral" => Family::Mistral,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        other => return Err(format!("`model_type` = \"{other}\" is not supported; supported are llama, mistral, qwen2, qwen3")),
    };
    if let Some(act) = present("hidden_act").and_then(Value::as_str).filter(|a| *a != "silu" && *a != "swish") {
        return Err(format!("`hidden_act` = \"{act}\" is not supported; expected \"silu\""));
    }
    let heads = required("num_attention_heads")?;
    let attention_bias = flag("attention_bias", family == Family::Qwen2)?;
    let windowed = match family {
        Family::Qwen2 | Family::Qwen3 => flag("use_sliding_window", false)?,
        _ => true,
    };
    let sliding_window = size("sliding_window")?.filter(|_| windowed && family != Family::Llama);
    if let Some(types) = present("layer_types").and_then(Value::as_array)
        && sliding_window.is_some()
        && types.iter().any(|t| t.as_str() != Some("sliding_attention"))
    {
        return Err("`layer_types` mixes full and sliding attention, which is not supported".into());
    }
    let (rope_theta, rope_scaling) = rope(object, number("rope_theta", 10_000.0)?)?;
    let ids = |key: &str| -> std::result::Result<Vec<u32>, String> {
        let bad = || format!("`{key}`: expected a token id or a list of them");
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(bad);
        match present(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    };
    Ok(DecoderConfig {
        family,
        vocab_size: required("vocab_size")?,
        hidden_size: required("hidden_size")?,
        intermediate_size: required("intermediate_size")?,
        num_hidden_layers: required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: size("head_dim")?.unwrap_or(if family == Family::Qwen3 { 128 } else { 0 }),
        max_position_embeddings: size("max_position_embeddings")?.unwrap_or(2048),
        rms_norm_eps: number("rms_norm_eps", 1e-6)?,
        rope_theta,
        rope_scaling,
        qkv_bias: attention_bias,
        output_bias: attention_bias && family == Family::Llama,
        mlp_bias: flag("mlp_bias", false)?,
        qk_norm: family == Family::Qwen3,
        sliding_window,
        tie_word_embeddings: flag("tie_word_embeddings", false)?,
        bos_token_id: ids("bos_token_id")?.first().copied(),
        eos_token_id: ids("eos_token_id")?,
        pad_token_id: ids("pad_token_id")?.first().copied(),
    })
}

/// Theta and scaling from `rope_parameters` (5.x) or `rope_theta` + `rope_scaling` (4.x, `rope_type` or `type`).
fn rope(object: &Map<String, Value>, theta: f64) -> std::result::Result<(f64, RopeScaling), String> {
    let Some(table) = object.get("rope_parameters").or_else(|| object.get("rope_scaling")).and_then(Value::as_object) else {
        return Ok((theta, RopeScaling::Default));
    };
    let theta = table.get("rope_theta").and_then(Value::as_f64).unwrap_or(theta);
    let get = |key: &str| table.get(key).and_then(Value::as_f64).ok_or_else(|| format!("rope scaling: `{key}` is missing or not a number"));
    let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: get("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: get("factor")?,
            low_freq_factor: get("low_freq_factor")?,
            high_freq_factor: get("high_freq_factor")?,
            original_max_position_embeddings: get("original_max_position_embeddings")? as usize,
        },
        other => return Err(format!("rope scaling \"{other}\" is not supported; supported are default, linear, llama3")),
    };
    Ok((theta, scaling))
}

fn insert_token_ids(out: &mut Map<String, Value>, config: &DecoderConfig) {
    if let Some(id) = config.bos_token_id {
        out.insert("bos_token_id".into(), json!(id));
    }
    match config.eos_token_id.as_slice() {
        [] => {}
        [one] => drop(out.insert("eos_token_id".into(), json!(one))),
        many => drop(out.insert("eos_token_id".into(), json!(many))),
    }
    if let Some(id) = config.pad_token_id {
        out.insert("pad_token_id".into(), json!(id));
    }
}

/// The `config.json` of a configuration.
pub fn config_to_json(config: &DecoderConfig) -> Value {
    let (model_type, architecture) = match config.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Mistral => ("mistral", "MistralForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
    };
    let scaling = match config.rope_scaling {
        RopeScaling::Default => Value::Null,
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    };
    let mut parameters = scaling.as_object().cloned().unwrap_or_else(|| Map::from_iter([("rope_type".to_string(), json!("default"))]));
    parameters.insert("rope_theta".into(), json!(config.rope_theta));
    let mut out = Map::new();
    for (key, value) in [
        ("architectures", json!([architecture])),
        ("model_type", json!(model_type)),
        ("vocab_size", json!(config.vocab_size)),
        ("hidden_size", json!(config.hidden_size)),
        ("intermediate_size", json!(config.intermediate_size)),
        ("num_hidden_layers", json!(config.num_hidden_layers)),
        ("num_attention_heads", json!(config.num_attention_heads)),
        ("num_key_value_heads", json!(config.num_key_value_heads)),
        ("head_dim", json!(config.head_size())),
        ("hidden_act", json!("silu")),
        ("max_position_embeddings", json!(config.max_position_embeddings)),
        ("rms_norm_eps", json!(config.rms_norm_eps)),
        ("rope_theta", json!(config.rope_theta)),
        ("rope_scaling", scaling),
        ("rope_parameters", Value::Object(parameters)),
        ("tie_word_embeddings", json!(config.tie_word_embeddings)),
        ("attention_dropout", json!(0.0)),
        ("initializer_range", json!(0.02)),
        ("use_cache", json!(true)),
        ("torch_dtype", json!("float32")),
    ] {
        out.insert(key.into(), value);
    }
    match config.family {
        Family::Llama => {
            out.insert("attention_bias".into(), json!(config.qkv_bias));
            out.insert("mlp_bias".into(), json!(config.mlp_bias));
        }
        Family::Mistral => drop(out.insert("sliding_window".into(), json!(config.sliding_window))),
        Family::Qwen2 | Family::Qwen3 => {
            out.insert("use_sliding_window".into(), json!(config.sliding_window.is_some()));
            out.insert("sliding_window".into(), json!(config.sliding_window));
            if config.family == Family::Qwen3 {
                out.insert("attention_bias".into(), json!(config.qkv_bias));
            }
        }
    }
    insert_token_ids(&mut out, config);
    Value::Object(out)
}
