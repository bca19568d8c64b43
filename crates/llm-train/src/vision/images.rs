//! Images that training looks at again and again: decoded and resized once where memory allows, kept in 8 bits, normalised when asked for.
//!
//! The values are those of `ImageProcessor::pixel_values`, from a table of the 256 levels of each colour.
//!
//! Legend: I images, S side in pixels.

use crate::{Error, Result};
use llm_data::pictures::Picture;
use llm_run::{Progress, program};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use llm_tensor::rayon::prelude::*;
use llm_vision::{ImageProcessor, RgbImage};
use std::path::Path;

/// Images decoded between two looks at Ctrl-C.
const PART: usize = 512;

/// The images of a data set, by index.
#[derive(Debug)]
pub struct Images {
    processor: ImageProcessor,
    side: usize,
    /// `[3][256]`: a level of a colour, normalised.
    levels: [[f32; 256]; 3],
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// `[I, S, S, 3]`.
    Pixels(Vec<u8>),
    /// Name and file of each: decoded whenever asked for.
    Files(Vec<(String, Vec<u8>)>),
}

impl Images {
    /// Take the images out of `pictures`, which were read from `from`, for a tower that sees `side` x `side` pixels. Resized images are kept
    /// in memory if all together need at most `cache_bytes`.
    pub fn take(pictures: &mut [Picture], from: &Path, processor: ImageProcessor, side: usize, cache_bytes: usize) -> Result<Self> {
        let files: Vec<(String, Vec<u8>)> =
            pictures.iter_mut().map(|p| (format!("{}: picture `{}`", from.display(), p.id), std::mem::take(&mut p.image))).collect();
        let (mean, std) = processor.normalize.unwrap_or(([0.0; 3], [1.0; 3]));
        let levels = std::array::from_fn(|c| std::array::from_fn(|v| ((v as f64 * processor.rescale_factor - mean[c]) / std[c]) as f32));
        let mut images = Self { processor, side, levels, store: Store::Files(Vec::new()) };
        if files.len().saturating_mul(side * side * 3) > cache_bytes {
            images.store = Store::Files(files);
            return Ok(images);
        }
        let mut pixels = Vec::with_capacity(files.len() * side * side * 3);
        let mut progress = Progress::new("images", files.len() as u64, "images");
        program::catch_interrupts();
        for part in files.chunks(PART) {
            let decoded: Vec<Vec<u8>> = part.par_iter().map(|(name, file)| images.decode(name, file)).collect::<Result<_>>()?;
            decoded.into_iter().for_each(|image| pixels.extend(image));
            progress.set((pixels.len() / (side * side * 3)) as u64);
            if program::interrupted() {
                return Err(Error::Interrupted { step: 0 });
            }
        }
        progress.finish(format!("{} decoded", files.len()));
        images.store = Store::Pixels(pixels);
        Ok(images)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.store {
            Store::Pixels(pixels) => pixels.len() / (self.side * self.side * 3),
            Store::Files(files) => files.len(),
        }
    }

    fn decode(&self, name: &str, file: &[u8]) -> Result<Vec<u8>> {
        let bad = |e: llm_vision::Error| Error::Objective(format!("{name}: {e}"));
        let image = self.processor.resized(&RgbImage::decode(file).map_err(bad)?).map_err(bad)?;
        if (image.height, image.width) != (self.side, self.side) {
            let (height, width, side) = (image.height, image.width, self.side);
            let message = format!("{name}: preprocessing makes {height} x {width} pixels of it, the tower takes {side} x {side}");
            return Err(Error::Objective(message + "; preprocessor_config.json and config.json of the tower do not fit"));
        }
        Ok(image.data)
    }

    /// `[I, 3, S, S]`.
    pub fn pixel_values(&self, which: &[usize], device: &Device) -> Result<Tensor<4>> {
        let size = self.side * self.side * 3;
        let decoded: Vec<Vec<u8>> = match &self.store {
            Store::Pixels(_) => Vec::new(),
            Store::Files(files) => which.par_iter().map(|&i| self.decode(&files[i].0, &files[i].1)).collect::<Result<_>>()?,
        };
        let mut values = Vec::with_capacity(which.len() * size);
        for (at, &i) in which.iter().enumerate() {
            let image = match &self.store {
                Store::Pixels(pixels) => &pixels[i * size..][..size],
                Store::Files(_) => &decoded[at],
            };
            for (c, levels) in self.levels.iter().enumerate() {
                values.extend(image.chunks_exact(3).map(|pixel| levels[usize::from(pixel[c])]));
            }
        }
        Ok(host::from_vec(values, [which.len(), 3, self.side, self.side], device))
    }

    /// What the images go through.
    pub fn processor(&self) -> &ImageProcessor {
        &self.processor
    }
}
