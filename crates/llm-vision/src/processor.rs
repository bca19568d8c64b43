//! From an image to `pixel_values`: what `preprocessor_config.json` of CLIP, SigLIP and LLaVA asks for.
//!
//! Order: pad to a square (LLaVA), resize, cut out the centre, scale to 0..1, normalise. Absent fields have the defaults of the class in
//! transformers, which differ between CLIP and SigLIP.

use crate::checkpoint::{read_json, write_json};
use crate::config::{VisionConfig, VisionFamily};
use crate::decode::{MAX_PIXELS, check_size};
use crate::resize::{Resample, resize};
use crate::{Error, Result, RgbImage};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::path::Path;

/// What an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The shorter side; the other follows.
    ShortestEdge(usize),
    /// Both sides, whatever the proportions were.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ShortestEdge(side) => write!(f, "{side} on the shorter side"),
            Self::Exact { height, width } => write!(f, "{height} x {width}"),
        }
    }
}

/// Preprocessing of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// Pad to a square with the mean colour first.
    pub pad_to_square: bool,
    /// Resize to this.
    pub size: Option<Size>,
    /// Filter.
    pub resample: Resample,
    /// Cut out the centre: rows, columns.
    pub crop: Option<(usize, usize)>,
    /// Factor of the 8-bit values; 1 where there is none.
    pub rescale_factor: f64,
    /// Subtracted from and divided by, for each colour.
    pub normalize: Option<([f64; 3], [f64; 3])>,
    /// Mean colour, also where it is not subtracted.
    pub image_mean: [f64; 3],
}

/// Means and deviations of OpenAI's training set.
const CLIP: ([f64; 3], [f64; 3]) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);

impl ImageProcessor {
    /// Read `preprocessor_config.json` of a model folder, or `processor_config.json`, which newer folders have.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let newer = dir.join("processor_config.json");
        let path = Some(dir.join("preprocessor_config.json")).filter(|path| path.exists() || !newer.exists()).unwrap_or(newer);
        Self::from_json(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))
    }

    /// Translate a configuration. The error names the field.
    pub fn from_json(value: &Value) -> Result<Self> {
        let value = value.get("image_processor").unwrap_or(value);
        let object = value.as_object().ok_or_else(|| Error::Config("expected a JSON object".into()))?;
        let class =
            ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| object.get(*key)?.as_str()).unwrap_or("CLIPImageProcessor");
        let (siglip, llava) = match class.trim_end_matches("Fast").trim_end_matches("Pil") {
            "CLIPImageProcessor" | "CLIPFeatureExtractor" => (false, false),
            "LlavaImageProcessor" => (false, true),
            "SiglipImageProcessor" => (true, false),
            other => {
                let message =
                    format!("`image_processor_type` = \"{other}\"; expected CLIPImageProcessor, SiglipImageProcessor or LlavaImageProcessor");
                return Err(Error::Config(message));
            }
        };
        let flag = |key: &str, default: bool| object.get(key).and_then(Value::as_bool).unwrap_or(default);
        let default = if siglip { ([0.5; 3], [0.5; 3]) } else { CLIP };
        let (mean, std) = (colours(object, "image_mean", default.0)?, colours(object, "image_std", default.1)?);
        let resample = match object.get("resample").filter(|v| !v.is_null()).map(Value::as_u64) {
            None | Some(Some(3)) => Resample::Bicubic,
            Some(Some(2)) => Resample::Bilinear,
            Some(Some(1)) => Resample::Lanczos,
            Some(_) => return Err(Error::Config(format!("`resample` = {}; expected 1 (Lanczos), 2 (bilinear) or 3 (bicubic)", object["resample"]))),
        };
        let default_size = if siglip { Size::Exact { height: 224, width: 224 } } else { Size::ShortestEdge(224) };
        let crop = match size(object, "crop_size", Size::Exact { height: 224, width: 224 })? {
            Size::ShortestEdge(side) => (side, side),
            Size::Exact { height, width } => (height, width),
        };
        Ok(Self {
            pad_to_square: flag("do_pad", llava) && llava || object.get("image_aspect_ratio").and_then(Value::as_str) == Some("pad"),
            size: if flag("do_resize", true) { Some(size(object, "size", default_size)?) } else { None },
            resample,
            crop: flag("do_center_crop", !siglip).then_some(crop),
            rescale_factor: if flag("do_rescale", true) { object.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0) } else { 1.0 },
            normalize: flag("do_normalize", true).then_some((mean, std)),
            image_mean: mean,
        })
    }

    /// What a fresh tower is given: resized to its input, with the colours of its family. CLIP: the shorter side, then the centre. SigLIP:
    /// both sides.
    pub fn for_tower(config: &VisionConfig) -> Self {
        let side = config.image_size;
        let clip = config.family == VisionFamily::Clip;
        let (mean, std) = if clip { CLIP } else { ([0.5; 3], [0.5; 3]) };
        Self {
            pad_to_square: false,
            size: Some(if clip { Size::ShortestEdge(side) } else { Size::Exact { height: side, width: side } }),
            resample: Resample::Bicubic,
            crop: clip.then_some((side, side)),
            rescale_factor: 1.0 / 255.0,
            normalize: Some((mean, std)),
            image_mean: mean,
        }
    }

    /// Write `preprocessor_config.json`.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        write_json(&dir.as_ref().join("preprocessor_config.json"), &self.to_json())
    }

    /// The `preprocessor_config.json` of this processor; every field is there, so no class default matters.
    pub fn to_json(&self) -> Value {
        let exact = |(height, width): (usize, usize)| json!({"height": height, "width": width});
        let mut value = json!({
            "image_processor_type": match (self.pad_to_square, self.size, self.crop) {
                (true, ..) => "LlavaImageProcessor",
                (false, Some(Size::Exact { .. }), None) => "SiglipImageProcessor",
                _ => "CLIPImageProcessor",
            },
            "do_convert_rgb": true,
            "do_resize": self.size.is_some(),
            "resample": self.resample.number(),
            "do_center_crop": self.crop.is_some(),
            "do_rescale": self.rescale_factor != 1.0,
            "rescale_factor": self.rescale_factor,
            "do_normalize": self.normalize.is_some(),
            "image_mean": self.image_mean,
            "image_std": self.normalize.map_or([1.0; 3], |(_, std)| std),
        });
        if self.pad_to_square {
            value["do_pad"] = json!(true);
        }
        if let Some(size) = self.size {
            value["size"] = match size {
                Size::ShortestEdge(side) => json!({"shortest_edge": side}),
                Size::Exact { height, width } => exact((height, width)),
            };
        }
        if let Some(crop) = self.crop {
            value["crop_size"] = exact(crop);
        }
        value
    }

    /// The pixels that the model sees, still in 8 bits.
    pub fn resized(&self, image: &RgbImage) -> Result<RgbImage> {
        let mut image = Cow::Borrowed(image);
        if self.pad_to_square {
            image = Cow::Owned(padded(&image, self.image_mean.map(|m| (m * 255.0) as u8))?);
        }
        if let Some(size) = self.size {
            let (height, width) = match size {
                Size::Exact { height, width } => (height, width),
                Size::ShortestEdge(side) => {
                    let longer = |long: usize, short: usize| (side as f64 * long as f64 / short as f64) as usize;
                    match (image.height, image.width) {
                        (h, w) if h < w => (side, longer(w, h)),
                        (h, w) => (longer(h, w), side),
                    }
                }
            };
            // A line of pixels becomes very long when its shorter side grows.
            check_size(width, height, MAX_PIXELS, "the resized image")?;
            image = Cow::Owned(resize(&image, width, height, self.resample));
        }
        Ok(match self.crop {
            Some((height, width)) => centre(&image, height, width),
            None => image.into_owned(),
        })
    }

    /// `[B, 3, height, width]`. All images must come out equally large, which they do for any `crop` or exact `size`.
    pub fn pixel_values(&self, images: &[RgbImage], device: &Device) -> Result<Tensor<4>> {
        let (mean, std) = self.normalize.unwrap_or(([0.0; 3], [1.0; 3]));
        let (mut shape, mut values) = (None, Vec::new());
        for image in images {
            let image = self.resized(image)?;
            let now = (image.height, image.width);
            if *shape.get_or_insert(now) != now {
                return Err(Error::Image(format!("images of one batch come out in different sizes, {shape:?} and {now:?}; process them one by one")));
            }
            for c in 0..3 {
                values.extend(image.data.chunks_exact(3).map(|p| ((f64::from(p[c]) * self.rescale_factor - mean[c]) / std[c]) as f32));
            }
        }
        let (height, width) = shape.ok_or_else(|| Error::Image("no images".into()))?;
        Ok(host::from_vec(values, [images.len(), 3, height, width], device))
    }
}

/// In the middle of a square of that colour.
fn padded(image: &RgbImage, colour: [u8; 3]) -> Result<RgbImage> {
    let side = image.width.max(image.height);
    check_size(side, side, MAX_PIXELS, "the padded image")?;
    let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
    let mut data = colour.repeat(side * side);
    for (y, row) in image.data.chunks_exact(image.width * 3).enumerate() {
        data[((y + top) * side + left) * 3..][..row.len()].copy_from_slice(row);
    }
    Ok(RgbImage { width: side, height: side, data })
}

/// The centre; black where the image is smaller.
fn centre(image: &RgbImage, height: usize, width: usize) -> RgbImage {
    let offset = |from: usize, to: usize| (from as i64 - to as i64).div_euclid(2);
    let (top, left) = (offset(image.height, height), offset(image.width, width));
    let inside = |at: i64, limit: usize| usize::try_from(at).ok().filter(|&at| at < limit);
    let mut data = vec![0; height * width * 3];
    for (i, pixel) in data.chunks_exact_mut(3).enumerate() {
        let (y, x) = (inside((i / width) as i64 + top, image.height), inside((i % width) as i64 + left, image.width));
        if let (Some(y), Some(x)) = (y, x) {
            pixel.copy_from_slice(&image.data[(y * image.width + x) * 3..][..3]);
        }
    }
    RgbImage { width, height, data }
}

fn colours(object: &Map<String, Value>, key: &str, default: [f64; 3]) -> Result<[f64; 3]> {
    let Some(value) = object.get(key).filter(|v| !v.is_null()) else { return Ok(default) };
    let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    let positive = |n: &[f64; 3]| key != "image_std" || n.iter().all(|n| *n > 0.0);
    let bad = || Error::Config(format!("`{key}`: expected three numbers, standard deviations above 0, got {value}"));
    numbers.and_then(|n| <[f64; 3]>::try_from(n).ok()).filter(positive).ok_or_else(bad)
}

/// `224`, `{"shortest_edge": 224}` or `{"height": 224, "width": 224}`.
fn size(object: &Map<String, Value>, key: &str, default: Size) -> Result<Size> {
    let Some(value) = object.get(key).filter(|v| !v.is_null()) else { return Ok(default) };
    let side = |v: Option<&Value>| v.and_then(Value::as_u64).filter(|n| (1..=16_384).contains(n)).map(|n| n as usize);
    let exact = || Some(Size::Exact { height: side(value.get("height"))?, width: side(value.get("width"))? });
    let found = match (side(Some(value)), default) {
        (Some(side), Size::ShortestEdge(_)) => Some(Size::ShortestEdge(side)),
        (Some(side), Size::Exact { .. }) => Some(Size::Exact { height: side, width: side }),
        (None, _) => side(value.get("shortest_edge")).map(Size::ShortestEdge).or_else(exact),
    };
    found.ok_or_else(|| {
        Error::Config(format!("`{key}` = {value}; expected a number, {{\"shortest_edge\": n}} or {{\"height\": n, \"width\": n}}, from 1 to 16384"))
    })
}
