//! Sizes and choices of a vision tower, read from and written to `config.json` of CLIP and SigLIP.
//!
//! Files leave out what equals the class default of transformers, so those defaults are part of the format and stand here.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Which of the two published towers: they differ in class token, norms and pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionFamily {
    /// Class token, norm before the first block, pooled by the class token (Radford et al., 2021).
    #[default]
    Clip,
    /// No class token, biased patch embedding, pooled by attention (Zhai et al., 2023).
    Siglip,
}

/// The non-linearity of the feed-forward blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisionActivation {
    /// `x * sigmoid(1.702 x)`.
    #[default]
    QuickGelu,
    /// `x * Phi(x)`.
    Gelu,
    /// Gelu by `tanh`.
    GeluPytorchTanh,
}

/// A vision transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Kind of tower.
    pub family: VisionFamily,
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Colours.
    pub num_channels: usize,
    /// Height and width of the input in pixels.
    pub image_size: usize,
    /// Height and width of a patch; what is left over at the right and bottom is not seen.
    pub patch_size: usize,
    /// Non-linearity.
    pub hidden_act: VisionActivation,
    /// Added to the variance in all norms.
    pub layer_norm_eps: f64,
    /// SigLIP: pooling head present.
    pub vision_use_head: bool,
}

impl VisionConfig {
    /// What transformers assumes for absent fields.
    pub fn defaults(family: VisionFamily) -> Self {
        let clip = family == VisionFamily::Clip;
        Self {
            family,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: if clip { 32 } else { 16 },
            hidden_act: if clip { VisionActivation::QuickGelu } else { VisionActivation::GeluPytorchTanh },
            layer_norm_eps: if clip { 1e-5 } else { 1e-6 },
            vision_use_head: !clip,
        }
    }

    /// Patches along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Patches of an image.
    pub fn num_patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// 1 where there is a class token.
    pub fn class_tokens(&self) -> usize {
        usize::from(self.family == VisionFamily::Clip)
    }

    /// Tokens of an image inside the tower.
    pub fn num_tokens(&self) -> usize {
        self.num_patches() + self.class_tokens()
    }

    /// Read a tower's own `config.json`, that of a CLIP or SigLIP pair, or the `vision_config` of a larger model.
    pub fn from_json(value: &Value) -> Result<Self> {
        let object = value.as_object().ok_or_else(|| Error::Config("expected a JSON object".into()))?;
        let model_type = object.get("model_type").and_then(Value::as_str).unwrap_or("clip_vision_model");
        let family = match model_type {
            "clip" | "siglip" => {
                let inner = object.get("vision_config").filter(|v| v.is_object());
                let mut inner = inner.cloned().ok_or_else(|| Error::Config("`vision_config` is missing; expected an object".into()))?;
                inner["model_type"] = json!(format!("{model_type}_vision_model"));
                return Self::from_json(&inner);
            }
            "clip_vision_model" => VisionFamily::Clip,
            "siglip_vision_model" => VisionFamily::Siglip,
            other => return Err(Error::Config(format!("`model_type` = \"{other}\"; expected clip_vision_model or siglip_vision_model"))),
        };
        let base = Self::defaults(family);
        let config = Self {
            family,
            hidden_size: size(object, "hidden_size", base.hidden_size)?,
            intermediate_size: size(object, "intermediate_size", base.intermediate_size)?,
            num_hidden_layers: size(object, "num_hidden_layers", base.num_hidden_layers)?,
            num_attention_heads: size(object, "num_attention_heads", base.num_attention_heads)?,
            num_channels: size(object, "num_channels", base.num_channels)?,
            image_size: size(object, "image_size", base.image_size)?,
            patch_size: size(object, "patch_size", base.patch_size)?,
            hidden_act: activation(object, base.hidden_act)?,
            layer_norm_eps: number(object, "layer_norm_eps", base.layer_norm_eps)?,
            vision_use_head: family == VisionFamily::Siglip && object.get("vision_use_head").and_then(Value::as_bool).unwrap_or(true),
        };
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` of this tower, without number formats.
    pub fn to_json(&self) -> Value {
        let (architecture, model_type) = match self.family {
            VisionFamily::Clip => ("CLIPVisionModel", "clip_vision_model"),
            VisionFamily::Siglip => ("SiglipVisionModel", "siglip_vision_model"),
        };
        let mut value = json!({
            "architectures": [architecture],
            "model_type": model_type,
            "attention_dropout": 0.0,
            "hidden_act": self.hidden_act,
            "hidden_size": self.hidden_size,
            "image_size": self.image_size,
            "intermediate_size": self.intermediate_size,
            "layer_norm_eps": self.layer_norm_eps,
            "num_attention_heads": self.num_attention_heads,
            "num_channels": self.num_channels,
            "num_hidden_layers": self.num_hidden_layers,
            "patch_size": self.patch_size,
        });
        if self.family == VisionFamily::Siglip {
            value["vision_use_head"] = json!(self.vision_use_head);
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
            ("num_channels", self.num_channels),
            ("patch_size", self.patch_size),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size == 0 || *size > 1 << 20) {
            return bad(format!("`{name}` = {size}; expected 1 to 1048576"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(format!("`hidden_size` = {} is not a multiple of `num_attention_heads` = {}", self.hidden_size, self.num_attention_heads));
        }
        if self.image_size < self.patch_size || self.image_size > 1 << 14 {
            return bad(format!("`image_size` = {}; expected at least `patch_size` = {} and at most 16384", self.image_size, self.patch_size));
        }
        Ok(())
    }
}

/// `hidden_act` of a tower.
pub(crate) fn activation(object: &Map<String, Value>, default: VisionActivation) -> Result<VisionActivation> {
    let Some(act) = object.get("hidden_act").filter(|v| !v.is_null()) else { return Ok(default) };
    match act.as_str() {
        Some("quick_gelu") => Ok(VisionActivation::QuickGelu),
        Some("gelu") => Ok(VisionActivation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(VisionActivation::GeluPytorchTanh),
        _ => Err(Error::Config(format!("`hidden_act` = {act}; expected quick_gelu, gelu or gelu_pytorch_tanh"))),
    }
}

/// A number that may be absent.
pub(crate) fn number(object: &Map<String, Value>, key: &str, default: f64) -> Result<f64> {
    match object.get(key).filter(|v| !v.is_null()) {
        None => Ok(default),
        Some(v) => v.as_f64().ok_or_else(|| Error::Config(format!("`{key}`: expected a number, got {v}"))),
    }
}

/// A whole number that may be absent.
pub(crate) fn size(object: &Map<String, Value>, key: &str, default: usize) -> Result<usize> {
    match object.get(key).filter(|v| !v.is_null()) {
        None => Ok(default),
        Some(v) => v.as_u64().map(|n| n as usize).ok_or_else(|| Error::Config(format!("`{key}`: expected a whole number, got {v}"))),
    }
}
