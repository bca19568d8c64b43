//! Image processors: `NAME.IMAGE.pixel_values` of `expected.safetensors`, and 8-bit images of `expected_u8.safetensors`.

use super::{Recorded, larger};
use crate::checkpoint::read_json;
use crate::processor::ImageProcessor;
use crate::resize::{Resample, resize};
use crate::{Error, Result, RgbImage};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use safetensors::SafeTensors;

/// One grey level of the processors that are compared, and a mean that a systematic shift would exceed.
pub const PIXELS: (f64, f64) = (0.0153, 0.002);

/// Pixel values of every processor that we have; those of others are named.
pub fn processors(recorded: &mut Recorded) -> Result<()> {
    let names: Vec<String> = recorded.expected.names().into_iter().map(str::to_string).collect();
    for name in names {
        let parts: Vec<&str> = name.split('.').collect();
        let &[processor, image, kind] = parts.as_slice() else {
            return Err(recorded.file(format!("`{name}`: expected PROCESSOR.IMAGE.pixel_values")));
        };
        let padded = processor.strip_prefix("llava_pad_");
        let folder = recorded.dir.join(format!("processor_{}", padded.unwrap_or(processor)));
        if !folder.is_dir() {
            recorded.skipped.push(name.clone());
            continue;
        }
        let path = folder.join("preprocessor_config.json");
        let mut json = read_json(&path)?;
        if padded.is_some() {
            json["image_aspect_ratio"] = "pad".into();
        }
        let processor = ImageProcessor::from_json(&json).map_err(|e| Error::file(&path, e.to_string()))?;
        let image = RgbImage::open(recorded.dir.join(format!("{image}.png")))?;
        let pixels = processor.pixel_values(&[image], &Device::flex())?;
        let [_, _, height, width] = pixels.dims();
        let mut got = to_vec(pixels);
        if kind.ends_with("every8th") {
            let kept = |i: &usize| (i / width % height).is_multiple_of(8) && (i % width).is_multiple_of(8);
            got = (0..got.len()).filter(kept).map(|i| got[i]).collect();
        }
        let want = recorded.expected.get(&name)?.values;
        if got.len() != want.len() {
            return Err(recorded.file(format!("`{name}` holds {} numbers, the processor gives {}", want.len(), got.len())));
        }
        let differences = || got.iter().zip(&want).map(|(g, w)| (g - w).abs());
        recorded.note("pixels", f64::from(differences().fold(0f32, larger)), PIXELS.0);
        recorded.note("mean", differences().map(f64::from).sum::<f64>() / want.len() as f64, PIXELS.1);
    }
    bytes(recorded)
}

/// Resized images in 8 bits, of which none may differ.
fn bytes(recorded: &mut Recorded) -> Result<()> {
    let path = recorded.dir.join("expected_u8.safetensors");
    if !path.exists() {
        return Ok(());
    }
    let damaged = |e: &dyn std::fmt::Display| Error::file(&path, format!("cannot read: {e}"));
    let file = std::fs::read(&path).map_err(|e| damaged(&e))?;
    let expected = SafeTensors::deserialize(&file).map_err(|e| damaged(&e))?;
    for (name, view) in expected.iter() {
        let parts: Vec<&str> = name.split('.').collect();
        let (want, shape) = (view.data(), view.shape());
        let got = match parts.as_slice() {
            [filter, image, _, "u8_hwc"] if filter.starts_with("pil_") && shape.len() == 3 => {
                let filter = match *filter {
                    "pil_bicubic" => Resample::Bicubic,
                    "pil_bilinear" => Resample::Bilinear,
                    _ => Resample::Lanczos,
                };
                resize(&RgbImage::open(recorded.dir.join(format!("{image}.png")))?, shape[1], shape[0], filter)
            }
            [processor, image, "u8_hwc"] if recorded.dir.join(format!("processor_{processor}")).is_dir() => {
                let processor = ImageProcessor::load(recorded.dir.join(format!("processor_{processor}")))?;
                processor.resized(&RgbImage::open(recorded.dir.join(format!("{image}.png")))?)?
            }
            // Files of other formats have a test of their own: how JPEG is rounded is the decoder's choice.
            _ => {
                recorded.skipped.push(name.to_string());
                continue;
            }
        };
        if got.data.len() != want.len() {
            return Err(Error::file(&path, format!("`{name}` holds {} bytes, resizing gives {}", want.len(), got.data.len())));
        }
        let worst = got.data.iter().zip(want).map(|(g, w)| g.abs_diff(*w)).max().unwrap_or(0);
        recorded.note("grey levels", f64::from(worst), 0.0);
    }
    Ok(())
}
