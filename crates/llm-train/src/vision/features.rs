//! What a frozen tower makes of the images: computed once, before the first step, and kept on the host.
//!
//! Images are computed in the order of their indices and in groups of one size, so that a run that is started again sees the same bits.
//!
//! Legend: I images, P tokens of an image, E width of the tower's features.

use super::images::Images;
use crate::{Error, Result};
use llm_run::{Progress, program};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::host;
use llm_vision::{Vlm, VlmConfig};
use std::collections::{BTreeMap, BTreeSet};

/// Images of one forward pass.
const GROUP: usize = 32;

/// Tower features of images, by index.
#[derive(Debug)]
pub struct Features {
    /// Where the `[P, E]` of an image begin in `values`.
    places: BTreeMap<usize, usize>,
    values: Vec<f32>,
    tokens: usize,
    width: usize,
}

impl Features {
    /// Memory that the features of so many images take.
    pub fn bytes(config: &VlmConfig, images: usize) -> usize {
        images.saturating_mul(4 * config.tokens_per_image() * config.feature_size())
    }

    /// Look at the images called `which`.
    pub fn compute(model: &Vlm, images: &Images, which: &BTreeSet<usize>) -> Result<Self> {
        let model = model.valid();
        let (config, device) = (model.config(), model.device());
        let (tokens, width) = (config.tokens_per_image(), config.feature_size());
        let mut features = Self { places: BTreeMap::new(), values: Vec::with_capacity(which.len() * tokens * width), tokens, width };
        let order: Vec<usize> = which.iter().copied().collect();
        let mut progress = Progress::new("features", order.len() as u64, "images");
        for group in order.chunks(GROUP) {
            let seen = model.tower_features(images.pixel_values(group, &device)?.cast(model.precision().dtype()))?;
            for (i, &image) in group.iter().enumerate() {
                features.places.insert(image, features.values.len() + i * tokens * width);
            }
            features.values.extend(host::to_vec(seen));
            progress.set(features.places.len() as u64);
            if program::interrupted() {
                return Err(Error::Interrupted { step: 0 });
            }
        }
        progress.finish(format!("of {} images", order.len()));
        Ok(features)
    }

    /// `[I * P, E]`; none when an image was not looked at.
    pub fn get(&self, which: &[usize], dtype: DType, device: &Device) -> Option<Tensor<2>> {
        let size = self.tokens * self.width;
        let mut values = Vec::with_capacity(which.len() * size);
        for image in which {
            values.extend_from_slice(&self.values[*self.places.get(image)?..][..size]);
        }
        Some(host::from_vec(values, [which.len() * self.tokens, self.width], device).cast(dtype))
    }
}
