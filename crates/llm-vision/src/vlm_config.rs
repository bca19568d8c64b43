//! Sizes and choices of a vision-language model, read from and written to the `config.json` of LLaVA.

use crate::config::{VisionConfig, VisionFamily, size};
use crate::{Error, Result};
use llm_arch::{DecoderConfig, hf};
use llm_tensor::Precision;
use llm_tensor::ops::Activation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Which tokens of the tower are features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectStrategy {
    /// All but the first: the patches of a tower with a class token.
    #[default]
    Default,
    /// All.
    Full,
}

/// What lies between tower and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorKind {
    /// One layer.
    Linear,
    /// Two layers with a non-linearity between.
    #[default]
    Mlp,
}

/// What is chosen when a [`crate::Vlm`] is put together from a decoder and a tower. The defaults are LLaVA-1.5's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VlmOptions {
    /// The placeholder, a token of the language model that texts do not contain.
    pub image_token_id: u32,
    /// Connector.
    pub connector: ConnectorKind,
    /// Non-linearity of the connector; a linear one has none.
    pub projector_hidden_act: Activation,
    /// Biases in the connector.
    pub multimodal_projector_bias: bool,
    /// Hidden states of the tower that are features: 0 is what enters the first block, negative numbers count from the last.
    pub vision_feature_layer: Vec<i64>,
    /// Which of its tokens. `full` for a SigLIP tower, which has no class token to leave out.
    pub vision_feature_select_strategy: SelectStrategy,
    /// Patches along a side of the squares that become one image token, their features side by side; 1 is LLaVA. Fewer tokens, and what
    /// spans patches can be read from one of them (as in InternVL and Qwen2-VL); transformers' LLaVA does not know it.
    pub spatial_merge_size: usize,
}

impl Default for VlmOptions {
    fn default() -> Self {
        Self {
            image_token_id: 32_000,
            connector: ConnectorKind::Mlp,
            projector_hidden_act: Activation::Gelu,
            multimodal_projector_bias: true,
            vision_feature_layer: vec![-2],
            vision_feature_select_strategy: SelectStrategy::Default,
            spatial_merge_size: 1,
        }
    }
}

/// Sizes and choices of a [`crate::Vlm`].
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
    /// Patches along a side of the squares that become one image token.
    pub spatial_merge_size: usize,
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
            _ if connector == ConnectorKind::Linear => Activation::Gelu,
            None | Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("silu" | "swish") => Activation::Silu,
            Some(other) => return Err(bad(format!("`projector_hidden_act` = \"{other}\"; expected gelu, gelu_pytorch_tanh or silu"))),
        };
        let config = Self {
            feature_layers: feature_layers(object.get("vision_feature_layer"), vision.num_hidden_layers)?,
            image_token_id: u32::try_from(image_token_id).unwrap_or(u32::MAX),
            multimodal_projector_bias: object.get("multimodal_projector_bias").and_then(Value::as_bool).unwrap_or(true),
            spatial_merge_size: size(object, "spatial_merge_size", 1)?,
            vision,
            text,
            select,
            connector,
            projector_hidden_act,
        };
        config.validate()?;
        Ok(config)
    }

    /// Of a model put together from parts.
    pub fn from_parts(text: &DecoderConfig, vision: &VisionConfig, options: &VlmOptions) -> Result<Self> {
        let select = options.vision_feature_select_strategy;
        if select == SelectStrategy::Default && vision.family == VisionFamily::Siglip {
            let message = "`vision_feature_select_strategy` = default would leave out the first patch: SigLIP has no class token; use full";
            return Err(Error::Config(message.into()));
        }
        let config = Self {
            vision: vision.clone(),
            text: text.clone(),
            image_token_id: options.image_token_id,
            feature_layers: feature_layers(Some(&json!(options.vision_feature_layer)), vision.num_hidden_layers)?,
            select,
            connector: options.connector,
            projector_hidden_act: options.projector_hidden_act,
            multimodal_projector_bias: options.multimodal_projector_bias,
            spatial_merge_size: options.spatial_merge_size,
        };
        config.validate()?;
        Ok(config)
    }

    /// Sizes that contradict each other.
    pub fn validate(&self) -> Result<()> {
        self.vision.validate()?;
        self.text.validate()?;
        if self.image_token_id as usize >= self.text.vocab_size {
            let (id, vocab) = (self.image_token_id, self.text.vocab_size);
            return Err(Error::Config(format!("`image_token_index` = {id} is not below vocab_size = {vocab} of the language model")));
        }
        let (merge, grid) = (self.spatial_merge_size, self.vision.grid());
        if merge == 0 || !grid.is_multiple_of(merge) {
            return Err(Error::Config(format!("`spatial_merge_size` = {merge} does not divide the {grid} x {grid} patches of an image")));
        }
        if merge > 1 && self.selected_tokens() != self.vision.num_patches() {
            let message = "`spatial_merge_size` above 1 takes patches only; choose the vision_feature_select_strategy that leaves out a class token";
            return Err(Error::Config(message.into()));
        }
        if self.tokens_per_image() == 0 {
            return Err(Error::Config("an image would take no token; expected a tower with more than one patch".into()));
        }
        Ok(())
    }

    /// The `config.json` of LLaVA, for weights stored in `precision`.
    ///
    /// Transformers knows connectors of two layers only: a linear one is written as such with an identity as second layer.
    pub fn to_json(&self, precision: Precision) -> Value {
        let states = self.vision.num_hidden_layers as i64 + 1;
        let layers: Vec<i64> = self.feature_layers.iter().map(|&i| i as i64 - states).collect();
        let mut vision = self.vision.to_json();
        if let Some(fields) = vision.as_object_mut() {
            fields.remove("architectures");
        }
        let (kind, act) = match (self.connector, self.projector_hidden_act) {
            (ConnectorKind::Linear, _) => ("linear", "linear"),
            (ConnectorKind::Mlp, Activation::Gelu) => ("mlp2x_gelu", "gelu"),
            (ConnectorKind::Mlp, Activation::GeluTanh) => ("mlp2x_gelu", "gelu_pytorch_tanh"),
            (ConnectorKind::Mlp, Activation::Silu) => ("mlp2x_gelu", "silu"),
        };
        let mut value = json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "dtype": precision,
            "torch_dtype": precision,
            "ignore_index": -100,
            "image_seq_length": self.tokens_per_image(),
            "image_token_index": self.image_token_id,
            "mm_projector_type": kind,
            "multimodal_projector_bias": self.multimodal_projector_bias,
            "projector_hidden_act": act,
            "text_config": hf::config_to_json(&self.text, precision),
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "vision_config": vision,
            "vision_feature_layer": if let [one] = layers.as_slice() { json!(one) } else { json!(layers) },
            "vision_feature_select_strategy": self.select,
        });
        if self.spatial_merge_size > 1 {
            value["spatial_merge_size"] = json!(self.spatial_merge_size);
        }
        value
    }

    /// Tokens that an image takes in the prompt.
    pub fn tokens_per_image(&self) -> usize {
        self.selected_tokens() / self.spatial_merge_size.pow(2).max(1)
    }

    /// Numbers that the connector is given for one image token.
    pub fn feature_size(&self) -> usize {
        self.vision.hidden_size * self.feature_layers.len() * self.spatial_merge_size.pow(2)
    }

    /// Tokens of the tower that are features.
    pub(crate) fn selected_tokens(&self) -> usize {
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
