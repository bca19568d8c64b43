//! A language model that sees: tower, connector and decoder (LLaVA, Liu et al., 2023).
//!
//! A prompt holds one placeholder token for every image token; their vectors are replaced by the connector's output in order of
//! appearance, and the decoder runs as it always does. After the prompt nothing of the image is needed: it is in the cache.
//!
//! Legend: N tokens, I images, P tokens of an image, E width of the tower's features, D width of the language model.

use crate::checkpoint::{Reader, read_json};
use crate::config::{VisionConfig, size};
use crate::{Connector, Error, Result, VisionTower};
use llm_arch::decoder::Observer;
use llm_arch::hf::{self, Checkpoint};
use llm_arch::{CachedBatch, Decoder, DecoderConfig, KvPool, PackedBatch};
use llm_tensor::Precision;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::ops::{self, Activation};
use llm_tensor::weights::Weights;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Which tokens of the tower are features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelectStrategy {
    /// All but the first: the patches of a tower with a class token.
    #[default]
    Default,
    /// All.
    Full,
}

/// What lies between tower and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectorKind {
    /// One layer.
    Linear,
    /// Two layers with a non-linearity between.
    #[default]
    Mlp,
}

/// Sizes and choices of a [`Vlm`].
#[derive(Debug, Clone, PartialEq)]
pub struct VlmConfig {
    /// The tower.
    pub vision: VisionConfig,
    /// The language model.
    pub text: DecoderConfig,
    /// The placeholder.
    pub image_token_id: u32,
    /// Hidden states of the tower that are features, as indices into [`crate::VisionOutput::hidden_states`]; several are concatenated.
    pub feature_layers: Vec<usize>,
    /// Which of its tokens.
    pub select: SelectStrategy,
    /// Connector.
    pub connector: ConnectorKind,
    /// Non-linearity of the connector.
    pub projector_hidden_act: Activation,
    /// Biases in the connector.
    pub multimodal_projector_bias: bool,
}

impl VlmConfig {
    /// Read the `config.json` of a LLaVA folder, in the spelling of transformers 4 or 5.
    pub fn from_json(value: &Value) -> Result<Self> {
        let bad = |message: String| Error::Config(message);
        let object = value.as_object().ok_or_else(|| bad("expected a JSON object".into()))?;
        match object.get("model_type").and_then(Value::as_str) {
            Some("llava") => {}
            other => return Err(bad(format!("`model_type` = {other:?} is not supported; expected \"llava\""))),
        }
        let vision = VisionConfig::from_json(object.get("vision_config").unwrap_or(&json!({}))).map_err(|e| bad(format!("vision_config: {e}")))?;
        let text = hf::config_from_json(&text_config(object)?).map_err(|e| bad(format!("text_config: {e}")))?;
        text.validate()?;
        let token_key = if object.contains_key("image_token_id") { "image_token_id" } else { "image_token_index" };
        let image_token_id = size(object, token_key, 32_000)?;
        if image_token_id >= text.vocab_size {
            return Err(bad(format!("`{token_key}` = {image_token_id} is not below vocab_size = {}", text.vocab_size)));
        }
        let select = match object.get("vision_feature_select_strategy").and_then(Value::as_str) {
            None | Some("default") => SelectStrategy::Default,
            Some("full") => SelectStrategy::Full,
            Some(other) => return Err(bad(format!("`vision_feature_select_strategy` = \"{other}\"; expected default or full"))),
        };
        let connector = match object.get("mm_projector_type").and_then(Value::as_str) {
            None | Some("mlp2x_gelu") => ConnectorKind::Mlp,
            Some("linear") => ConnectorKind::Linear,
            Some(other) => return Err(bad(format!("`mm_projector_type` = \"{other}\"; expected linear or mlp2x_gelu"))),
        };
        let projector_hidden_act = match object.get("projector_hidden_act").and_then(Value::as_str) {
            None | Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("silu" | "swish") => Activation::Silu,
            Some(other) => return Err(bad(format!("`projector_hidden_act` = \"{other}\"; expected gelu, gelu_pytorch_tanh or silu"))),
        };
        Ok(Self {
            feature_layers: feature_layers(object.get("vision_feature_layer"), vision.num_hidden_layers)?,
            image_token_id: image_token_id as u32,
            multimodal_projector_bias: object.get("multimodal_projector_bias").and_then(Value::as_bool).unwrap_or(true),
            vision,
            text,
            select,
            connector,
            projector_hidden_act,
        })
    }

    /// Tokens that an image takes in the prompt.
    pub fn tokens_per_image(&self) -> usize {
        self.vision.num_tokens() - usize::from(self.select == SelectStrategy::Default)
    }
}

/// Class defaults that files of LLaVA leave out of `text_config`.
fn text_config(object: &Map<String, Value>) -> Result<Value> {
    let mut text = object.get("text_config").cloned().unwrap_or_else(|| json!({}));
    let fields = text.as_object_mut().ok_or_else(|| Error::Config("`text_config`: expected an object".into()))?;
    let model_type = fields.entry("model_type").or_insert_with(|| json!("llama")).as_str().unwrap_or_default().to_string();
    let defaults: &[(&str, usize)] = match model_type.as_str() {
        "llama" => &[("vocab_size", 32_000), ("intermediate_size", 11_008)],
        "mistral" => &[("vocab_size", 32_000), ("intermediate_size", 14_336), ("num_key_value_heads", 8)],
        "qwen2" => &[("vocab_size", 151_936), ("intermediate_size", 22_016)],
        _ => return Ok(text),
    };
    for &(key, value) in defaults.iter().chain(&[("hidden_size", 4096), ("num_hidden_layers", 32), ("num_attention_heads", 32)]) {
        fields.entry(key).or_insert_with(|| json!(value));
    }
    Ok(text)
}

/// One index or several, counted from the end where negative.
fn feature_layers(value: Option<&Value>, layers: usize) -> Result<Vec<usize>> {
    let bad = |v: &Value| Error::Config(format!("`vision_feature_layer` = {v}; expected indices from {} to {layers}", -(layers as i64) - 1));
    let index = |v: &Value| {
        let states = layers as i64 + 1;
        let i = v.as_i64().filter(|i| (-states..states).contains(i)).ok_or_else(|| bad(v))?;
        Ok(i.rem_euclid(states) as usize)
    };
    match value {
        None | Some(Value::Null) => index(&json!(-2)).map(|i| vec![i]),
        Some(Value::Array(list)) if !list.is_empty() => list.iter().map(index).collect(),
        Some(v) => index(v).map(|i| vec![i]),
    }
}

/// Tower, connector, decoder.
#[derive(Module, Debug)]
pub struct Vlm {
    /// The tower.
    pub vision_tower: VisionTower,
    /// The connector.
    pub multi_modal_projector: Connector,
    /// The decoder.
    pub language_model: Decoder,
    #[module(skip)]
    config: VlmConfig,
}

impl Vlm {
    /// Load a LLaVA folder. Tensor names may be those of published files or of transformers 5.
    pub fn load(dir: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        let config = VlmConfig::from_json(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
        let weights = Weights::open(dir)?;
        let mut reader = Reader::new(&weights, device, precision);
        let vision_tower = reader.tower(&config.vision);
        let name = weights.names().into_iter().find_map(|name| name.strip_suffix("multi_modal_projector.linear_1.weight")).unwrap_or_default();
        let at = format!("{name}multi_modal_projector");
        let (d, e, bias) = (config.text.hidden_size, config.vision.hidden_size * config.feature_layers.len(), config.multimodal_projector_bias);
        let multi_modal_projector = Connector {
            linear_1: reader.linear(&format!("{at}.linear_1"), d, e, bias),
            linear_2: (config.connector == ConnectorKind::Mlp).then(|| reader.linear(&format!("{at}.linear_2"), d, d, bias)),
            hidden_act: config.projector_hidden_act,
        };
        reader.finish(dir, |name| !name.contains("language_model.") && !name.starts_with("lm_head."))?;
        let language_model = Checkpoint::open_part(dir, config.text.clone(), "language_model")?.load(device, precision)?;
        Ok(Self { vision_tower, multi_modal_projector, language_model, config })
    }

    /// Sizes and choices.
    pub fn config(&self) -> &VlmConfig {
        &self.config
    }

    /// `pixel_values [I, C, image_size, image_size]` -> `[I * P, D]`, image after image.
    pub fn image_features(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
        image_features(&self.vision_tower, &self.multi_modal_projector, &self.config, pixel_values)
    }

    /// Every placeholder becomes as many as an image has tokens: from one token per image to what [`Vlm::embed`] takes.
    pub fn expand(&self, ids: &[u32]) -> Vec<u32> {
        let image = self.config.image_token_id;
        ids.iter().flat_map(|&id| std::iter::repeat_n(id, if id == image { self.config.tokens_per_image() } else { 1 })).collect()
    }

    /// Token vectors `[N, D]` with the rows of `features` in the place of the placeholders, in order.
    pub fn embed(&self, ids: &[u32], features: Option<Tensor<2>>) -> Result<Tensor<2>> {
        let placeholders = ids.iter().filter(|&&id| id == self.config.image_token_id).count();
        let rows = features.as_ref().map_or(0, |f| f.dims()[0]);
        if placeholders != rows {
            let message = format!("{placeholders} image tokens for {rows} image features; each image takes {}", self.config.tokens_per_image());
            return Err(Error::Prompt(message));
        }
        let text_ND = self.language_model.embed(ids.into());
        let Some(features) = features else { return Ok(text_ND) };
        // One table of both, and for each token the row that it takes.
        let mut next = ids.len() as u32;
        let row = |(n, &id): (usize, &u32)| {
            if id != self.config.image_token_id {
                return n as u32;
            }
            next += 1;
            next - 1
        };
        let rows: Vec<u32> = ids.iter().enumerate().map(row).collect();
        let features = features.cast(text_ND.dtype());
        Ok(ops::embedding(Tensor::cat(vec![text_ND, features], 0), rows.into()))
    }

    /// Final hidden states `[N, D]` of a packed batch whose placeholders stand for `features`.
    pub fn hidden(&self, batch: &PackedBatch, features: Option<Tensor<2>>, observer: Option<Observer>) -> Result<Tensor<2>> {
        Ok(self.language_model.hidden_from(self.embed(&batch.ids, features)?, batch, observer))
    }

    /// The same for a batch that reads and extends the cache.
    pub fn hidden_cached(&self, batch: &CachedBatch, features: Option<Tensor<2>>, pool: &mut KvPool) -> Result<Tensor<2>> {
        Ok(self.language_model.hidden_cached_from(self.embed(&batch.ids, features)?, batch, pool))
    }
}

/// [`Vlm::image_features`] for who holds the parts without the decoder.
pub fn image_features(tower: &VisionTower, connector: &Connector, config: &VlmConfig, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
    let images = pixel_values.dims()[0];
    let VlmConfig { vision, feature_layers, select, .. } = config;
    let states = tower.hidden_states(pixel_values, feature_layers.iter().copied().max().unwrap_or(0))?;
    let first = usize::from(*select == SelectStrategy::Default);
    let selected = feature_layers.iter().map(|&i| states[i].clone().narrow(1, first, vision.num_tokens() - first)).collect();
    let x_IPE = Tensor::cat(selected, 2);
    let width = x_IPE.dims()[2];
    Ok(connector.forward(x_IPE.reshape([images * config.tokens_per_image(), width])))
}
