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
    /// `[C, height, width]`, in host memory, so that any thread can make one.
    pixel_values: Arc<[f32]>,
    shape: [usize; 3],
    hash: Arc<str>,
}

/// Makes [`Image`]s of files. It holds no weights, so a server's network threads can have one.
#[derive(Debug, Clone)]
pub struct ImageReader {
    processor: ImageProcessor,
}

impl ImageReader {
    /// Decode and preprocess a PNG, JPEG or WebP file of at most so many pixels.
    pub fn read(&self, bytes: &[u8], max_pixels: usize) -> Result<Image> {
        let pixels = RgbImage::decode_limited(bytes, max_pixels)?;
        let pixel_values = self.processor.pixel_values(&[pixels], &Device::flex())?;
        Ok(Image::new(pixel_values, llm_run::hash::bytes(bytes)))
    }
}

impl Image {
    fn new(pixel_values: Tensor<4>, hash: String) -> Self {
        let [_, colours, height, width] = pixel_values.dims();
        Self { pixel_values: host::to_vec(pixel_values).into(), shape: [colours, height, width], hash: hash.into() }
    }

    /// From pixel values `[1, C, image_size, image_size]` that are already there.
    pub fn from_pixel_values(pixel_values: Tensor<4>) -> Self {
        let bytes: Vec<u8> = host::to_vec(pixel_values.clone()).into_iter().flat_map(f32::to_le_bytes).collect();
        Self::new(pixel_values, llm_run::hash::bytes(&bytes))
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
        self.reader().read(bytes, llm_vision::decode::MAX_PIXELS)
    }

    /// What makes images for this model.
    pub fn reader(&self) -> ImageReader {
        ImageReader { processor: self.processor.clone() }
    }

    /// What the decoder sees of an image, `[P, D]`.
    pub fn features(&self, image: &Image) -> Result<Tensor<2>> {
        let [c, h, w] = image.shape;
        let pixel_values = host::from_vec(image.pixel_values.to_vec(), [1, c, h, w], &self.device);
        Ok(vlm::image_features(&self.tower, &self.connector, &self.config, pixel_values)?)
    }

    /// An image of another model, or of a wrong shape, must not reach the engine's thread.
    pub(crate) fn check(&self, image: &Image) -> Result<()> {
        let (side, colours) = (self.config.vision.image_size, self.config.vision.num_channels);
        if image.shape != [colours, side, side] {
            return Err(Error::Request(format!("pixel values have shape {:?}; this model takes [{colours}, {side}, {side}]", image.shape)));
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
