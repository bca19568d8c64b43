//! What a model that sees has besides its decoder, and images made ready for it.
//!
//! An [`Image`] is preprocessed when it arrives; tower and connector run when its first placeholder is due in the engine, one image at a
//! time, so that an answer does not depend on which other images wait. Features of the last few images are kept: several questions about
//! one image, or several answers to one question, look once.
//!
//! Legend: N tokens of a step, P tokens of an image, D width of the decoder.

use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::{host, ops};
use llm_vision::processor::Size;
use llm_vision::{Connector, ImageProcessor, RgbImage, VisionTower, Vlm, VlmConfig, vlm};
use std::collections::VecDeque;
use std::sync::Arc;

/// Images whose features are kept.
const KEPT: usize = 16;

/// Tower, connector and preprocessing.
#[derive(Debug, Clone)]
pub struct Vision {
    /// The tower, without gradient tracking.
    pub tower: VisionTower,
    /// From the tower to the decoder.
    pub connector: Connector,
    /// From an image to what the tower takes.
    pub processor: ImageProcessor,
    config: VlmConfig,
    device: Device,
}

/// An image that a [`crate::Request`] can hold: pixel values and the hash of the file they come from. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Image {
    pixel_values: Tensor<4>,
    hash: Arc<str>,
}

impl Image {
    /// From pixel values `[1, C, image_size, image_size]` that are already there.
    pub fn from_pixel_values(pixel_values: Tensor<4>) -> Self {
        let bytes: Vec<u8> = host::to_vec(pixel_values.clone()).into_iter().flat_map(f32::to_le_bytes).collect();
        Self { pixel_values, hash: llm_run::hash::bytes(&bytes).into() }
    }

    /// BLAKE3 of the file, or of the pixel values of an image without one.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    pub(crate) fn shared_hash(&self) -> Arc<str> {
        Arc::clone(&self.hash)
    }
}

impl Vision {
    /// The eyes of a model; its decoder stays with it. Weights are shared, not copied.
    pub fn new(vlm: &Vlm, processor: ImageProcessor) -> Result<Self> {
        let config = vlm.config().clone();
        let side = config.vision.image_size;
        let comes_out = processor.crop.or(match processor.size {
            Some(Size::Exact { height, width }) => Some((height, width)),
            Some(Size::ShortestEdge(_)) | None => None,
        });
        if comes_out != Some((side, side)) {
            let size = comes_out.map_or_else(|| "any size".to_string(), |(height, width)| format!("{height} x {width}"));
            return Err(Error::Request(format!(
                "preprocessing gives images of {size}, but the vision tower takes {side} x {side}; set `size` or `crop_size` in preprocessor_config.json"
            )));
        }
        let device = vlm.language_model.device();
        Ok(Self { tower: vlm.vision_tower.valid(), connector: vlm.multi_modal_projector.valid(), processor, config, device })
    }

    /// The placeholder.
    pub fn image_token_id(&self) -> u32 {
        self.config.image_token_id
    }

    /// Tokens an image takes in the context.
    pub fn tokens_per_image(&self) -> usize {
        self.config.tokens_per_image()
    }

    /// Placeholders in a prompt.
    pub fn placeholders(&self, prompt: &[u32]) -> usize {
        prompt.iter().filter(|&&id| id == self.config.image_token_id).count()
    }

    /// Decode and preprocess a PNG, JPEG or WebP file.
    pub fn image(&self, bytes: &[u8]) -> Result<Image> {
        self.image_limited(bytes, llm_vision::decode::MAX_PIXELS)
    }

    /// [`Vision::image`] of at most so many pixels.
    pub fn image_limited(&self, bytes: &[u8], max_pixels: usize) -> Result<Image> {
        let pixels = RgbImage::decode_limited(bytes, max_pixels)?;
        Ok(Image { pixel_values: self.processor.pixel_values(&[pixels], &self.device)?, hash: llm_run::hash::bytes(bytes).into() })
    }

    /// What the decoder sees of an image, `[P, D]`.
    pub fn features(&self, image: &Image) -> Result<Tensor<2>> {
        Ok(vlm::image_features(&self.tower, &self.connector, &self.config, image.pixel_values.clone())?)
    }

    /// An image of another model, or of a wrong shape, must not reach the engine's thread.
    pub(crate) fn check(&self, image: &Image) -> Result<()> {
        let (side, colours) = (self.config.vision.image_size, self.config.vision.num_channels);
        let found = image.pixel_values.dims();
        if found != [1, colours, side, side] {
            return Err(Error::Request(format!("pixel values have shape {found:?}; this model takes [1, {colours}, {side}, {side}]")));
        }
        Ok(())
    }
}

/// Features of the images that were asked for last.
#[derive(Debug, Default)]
pub(crate) struct FeatureCache {
    /// The latest at the back.
    kept: VecDeque<(Arc<str>, Tensor<2>)>,
    /// Images that went through the tower so far.
    pub computed: usize,
}

impl FeatureCache {
    pub fn features(&mut self, vision: &Vision, image: &Image) -> Result<Tensor<2>> {
        let known = self.kept.iter().position(|(hash, _)| *hash == image.hash).and_then(|at| self.kept.remove(at));
        let entry = match known {
            Some(entry) => entry,
            None => {
                self.computed += 1;
                (image.shared_hash(), vision.features(image)?)
            }
        };
        let features = entry.1.clone();
        self.kept.push_back(entry);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        Ok(features)
    }
}

/// Rows of images, each with the token at which it begins, in the place of those tokens' vectors.
pub(crate) fn place(x_ND: Tensor<2>, seen: Vec<(usize, Tensor<2>)>) -> Tensor<2> {
    let (n, dtype) = (x_ND.dims()[0], x_ND.dtype());
    // One table of both, and for each token the row that it takes.
    let mut rows: Vec<u32> = (0..n as u32).collect();
    let mut next = n as u32;
    let mut table = vec![x_ND];
    for (at, features_PD) in seen {
        for row in &mut rows[at..at + features_PD.dims()[0]] {
            *row = next;
            next += 1;
        }
        table.push(features_PD.cast(dtype));
    }
    ops::embedding(Tensor::cat(table, 0), rows.into())
}
