//! Sizes and choices of a text tower and of an image-text pair, read from and written to `config.json` of CLIP and SigLIP.
//!
//! As for vision towers, what files leave out is the class default of transformers, so those defaults stand here.

use crate::config::{VisionActivation, VisionConfig, VisionFamily, activation, number, size};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A text transformer beside a vision tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// CLIP: each token sees those before it, pooled at the end token. SigLIP: each sees all, pooled at the last place.
    pub family: VisionFamily,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Non-linearity.
    pub hidden_act: VisionActivation,
    /// Added to the variance in all norms.
    pub layer_norm_eps: f64,
    /// SigLIP: width of the text features. CLIP does not use it: there the pair projects.
    pub projection_size: usize,
    /// Padding; only written to files.
    pub pad_token_id: Option<u32>,
    /// Beginning of text; only written to files.
    pub bos_token_id: Option<u32>,
    /// CLIP: where a text is pooled. The value 2, which older files have although it is wrong, means the largest id of the text.
    pub eos_token_id: u32,
}

impl TextConfig {
    /// What transformers assumes for absent fields.
    pub fn defaults(family: VisionFamily) -> Self {
        let clip = family == VisionFamily::Clip;
        Self {
            family,
            vocab_size: if clip { 49_408 } else { 32_000 },
            hidden_size: if clip { 512 } else { 768 },
            intermediate_size: if clip { 2048 } else { 3072 },
            num_hidden_layers: 12,
            num_attention_heads: if clip { 8 } else { 12 },
            max_position_embeddings: if clip { 77 } else { 64 },
            hidden_act: if clip { VisionActivation::QuickGelu } else { VisionActivation::GeluPytorchTanh },
            layer_norm_eps: if clip { 1e-5 } else { 1e-6 },
            projection_size: if clip { 512 } else { 768 },
            pad_token_id: Some(1),
            bos_token_id: Some(49_406),
            eos_token_id: 49_407,
        }
    }

    /// Read the `text_config` of a pair.
    pub fn from_json(family: VisionFamily, object: &Map<String, Value>) -> Result<Self> {
        let base = Self::defaults(family);
        let hidden_size = size(object, "hidden_size", base.hidden_size)?;
        let id = |key: &str, default: Option<u32>| match object.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(v) => {
                let id = v.as_u64().and_then(|id| u32::try_from(id).ok());
                id.map(Some).ok_or_else(|| Error::Config(format!("`{key}`: expected one token id, got {v}")))
            }
        };
        let config = Self {
            family,
            vocab_size: size(object, "vocab_size", base.vocab_size)?,
            hidden_size,
            intermediate_size: size(object, "intermediate_size", base.intermediate_size)?,
            num_hidden_layers: size(object, "num_hidden_layers", base.num_hidden_layers)?,
            num_attention_heads: size(object, "num_attention_heads", base.num_attention_heads)?,
            max_position_embeddings: size(object, "max_position_embeddings", base.max_position_embeddings)?,
            hidden_act: activation(object, base.hidden_act)?,
            layer_norm_eps: number(object, "layer_norm_eps", base.layer_norm_eps)?,
            projection_size: size(object, "projection_size", hidden_size)?,
            pad_token_id: id("pad_token_id", base.pad_token_id)?,
            bos_token_id: id("bos_token_id", base.bos_token_id)?,
            eos_token_id: id("eos_token_id", Some(base.eos_token_id))?.unwrap_or(base.eos_token_id),
        };
        config.validate()?;
        Ok(config)
    }

    /// The `text_config` of a pair.
    pub fn to_json(&self) -> Value {
        let clip = self.family == VisionFamily::Clip;
        let mut value = json!({
            "model_type": if clip { "clip_text_model" } else { "siglip_text_model" },
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "hidden_act": self.hidden_act,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "pad_token_id": self.pad_token_id,
            "vocab_size": self.vocab_size,
        });
        if !clip {
            value["projection_size"] = json!(self.projection_size);
        }
        value
    }

    /// Sizes that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Config(message));
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("projection_size", self.projection_size),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size == 0 || *size > 1 << 20) {
            return bad(format!("text tower: `{name}` = {size}; expected 1 to 1048576"));
        }
        if self.vocab_size == 0 || self.vocab_size > 1 << 24 {
            return bad(format!("text tower: `vocab_size` = {}; expected 1 to 16777216", self.vocab_size));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (d, h) = (self.hidden_size, self.num_attention_heads);
            return bad(format!("text tower: `hidden_size` = {d} is not a multiple of `num_attention_heads` = {h}"));
        }
        Ok(())
    }
}

/// A vision tower and a text tower whose features are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairConfig {
    /// The text tower.
    pub text: TextConfig,
    /// The vision tower, of the same family.
    pub vision: VisionConfig,
    /// CLIP: width of the features. SigLIP's are as wide as its vision tower, and this is not used.
    #[serde(default = "default_projection_dim")]
    pub projection_dim: usize,
    /// Logarithm of the factor on cosines that a fresh pair starts with.
    pub logit_scale_init_value: f64,
    /// SigLIP: what a fresh pair adds to its logits.
    #[serde(default)]
    pub logit_bias_init_value: f64,
}

fn default_projection_dim() -> usize {
    512
}

impl PairConfig {
    /// What transformers assumes for absent fields. The scale and bias of SigLIP are those that training starts from in the paper (Zhai et
    /// al., 2023, section 3.2): `ln 10` and -10, where transformers has zeros.
    pub fn defaults(family: VisionFamily) -> Self {
        let (scale, bias) = match family {
            VisionFamily::Clip => (2.6592, 0.0),
            VisionFamily::Siglip => (std::f64::consts::LN_10, -10.0),
        };
        Self {
            text: TextConfig::defaults(family),
            vision: VisionConfig::defaults(family),
            projection_dim: default_projection_dim(),
            logit_scale_init_value: scale,
            logit_bias_init_value: bias,
        }
    }

    /// Which of the two pairs.
    pub fn family(&self) -> VisionFamily {
        self.vision.family
    }

    /// Width of the features.
    pub fn feature_size(&self) -> usize {
        match self.family() {
            VisionFamily::Clip => self.projection_dim,
            VisionFamily::Siglip => self.vision.hidden_size,
        }
    }

    /// Read the `config.json` of a CLIP or SigLIP pair.
    pub fn from_json(value: &Value) -> Result<Self> {
        let object = value.as_object().ok_or_else(|| Error::Config("expected a JSON object".into()))?;
        let family = match object.get("model_type").and_then(Value::as_str) {
            Some("clip") => VisionFamily::Clip,
            Some("siglip") => VisionFamily::Siglip,
            other => return Err(Error::Config(format!("`model_type` = {other:?} is no image-text pair; expected \"clip\" or \"siglip\""))),
        };
        let part = |part: &str| -> Result<Map<String, Value>> {
            let mut out = Map::new();
            // The oldest files say it twice, and the second wins.
            for key in [format!("{part}_config"), format!("{part}_config_dict")] {
                match object.get(&key) {
                    None | Some(Value::Null) => {}
                    Some(Value::Object(fields)) => out.extend(fields.clone()),
                    Some(other) => return Err(Error::Config(format!("`{key}`: expected an object, got {other}"))),
                }
            }
            Ok(out)
        };
        let base = Self::defaults(family);
        let mut vision = part("vision")?;
        vision.insert("model_type".into(), json!(if family == VisionFamily::Clip { "clip_vision_model" } else { "siglip_vision_model" }));
        let config = Self {
            text: TextConfig::from_json(family, &part("text")?).map_err(|e| Error::Config(format!("text_config: {e}")))?,
            vision: VisionConfig::from_json(&Value::Object(vision)).map_err(|e| Error::Config(format!("vision_config: {e}")))?,
            projection_dim: size(object, "projection_dim", base.projection_dim)?,
            logit_scale_init_value: number(object, "logit_scale_init_value", base.logit_scale_init_value)?,
            logit_bias_init_value: number(object, "logit_bias_init_value", base.logit_bias_init_value)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` of this pair, without number formats.
    pub fn to_json(&self) -> Value {
        let (mut text, mut vision) = (self.text.to_json(), self.vision.to_json());
        if let Some(fields) = vision.as_object_mut() {
            fields.remove("architectures");
        }
        match self.family() {
            VisionFamily::Clip => {
                text["projection_dim"] = json!(self.projection_dim);
                vision["projection_dim"] = json!(self.projection_dim);
                json!({
                    "architectures": ["CLIPModel"],
                    "model_type": "clip",
                    "initializer_factor": 1.0,
                    "logit_scale_init_value": self.logit_scale_init_value,
                    "projection_dim": self.projection_dim,
                    "text_config": text,
                    "vision_config": vision,
                })
            }
            VisionFamily::Siglip => json!({
                "architectures": ["SiglipModel"],
                "model_type": "siglip",
                "initializer_factor": 1.0,
                "logit_scale_init_value": self.logit_scale_init_value,
                "logit_bias_init_value": self.logit_bias_init_value,
                "text_config": text,
                "vision_config": vision,
            }),
        }
    }

    /// Sizes that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Config(message));
        self.vision.validate()?;
        self.text.validate()?;
        if self.text.family != self.vision.family {
            return bad(format!("the text tower is {:?}, the vision tower {:?}; expected two of one family", self.text.family, self.vision.family));
        }
        if self.projection_dim == 0 || self.projection_dim > 1 << 20 {
            return bad(format!("`projection_dim` = {}; expected 1 to 1048576", self.projection_dim));
        }
        if !self.logit_scale_init_value.is_finite() || !self.logit_bias_init_value.is_finite() {
            return bad("`logit_scale_init_value` and `logit_bias_init_value` must be finite".into());
        }
        if self.family() == VisionFamily::Siglip {
            if !self.vision.vision_use_head {
                return bad("`vision_use_head` is false; without its pooling head a tower has no features to compare".into());
            }
            let (text, vision) = (self.text.projection_size, self.vision.hidden_size);
            if text != vision {
                return bad(format!("`projection_size` = {text} of the text tower is not `hidden_size` = {vision} of the vision tower"));
            }
        }
        Ok(())
    }
}
