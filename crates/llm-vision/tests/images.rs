//! Image files against Pillow and preprocessing against transformers. If one of these fails, a model sees other pixels than those it was
//! trained on, or a hostile file ends the process.

use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::weights::Weights;
use llm_vision::resize::{Resample, resize};
use llm_vision::{ImageProcessor, RgbImage};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images").join(name)
}

fn open(name: &str) -> RgbImage {
    RgbImage::decode(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// What Pillow gives, under names that begin with `prefix`: the rest of the name, rows, columns, pixels.
fn pillow(prefix: &str) -> Vec<(String, usize, usize, Vec<u8>)> {
    recorded("expected_u8.safetensors", prefix)
}

fn recorded(file: &str, prefix: &str) -> Vec<(String, usize, usize, Vec<u8>)> {
    let bytes = std::fs::read(fixture(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let wanted = tensors.iter().filter_map(|(name, view)| {
        let name = name.strip_prefix(prefix)?.to_string();
        Some((name, view.shape()[0], view.shape()[1], view.data().to_vec()))
    });
    wanted.collect()
}

fn largest(got: &[u8], want: &[u8]) -> u8 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| g.abs_diff(*w)).max().unwrap()
}

#[test]
fn resizing_equals_pillow_to_the_last_bit() {
    let cases = pillow("pil_");
    assert_eq!(cases.len(), 12);
    for (name, height, width, want) in cases {
        let (filter, rest) = name.split_once('.').unwrap();
        let filter = match filter {
            "bicubic" => Resample::Bicubic,
            "bilinear" => Resample::Bilinear,
            _ => Resample::Lanczos,
        };
        let image = open(&format!("{}.png", rest.split('.').next().unwrap()));
        let got = resize(&image, width, height, filter);
        assert_eq!((got.width, got.height), (width, height));
        assert_eq!(largest(&got.data, &want), 0, "{name}");
    }
}

/// Palettes, grey, alpha, one bit, the eight orientations, progressive and subsampled JPEG, WebP with and without loss.
#[test]
fn files_hold_the_pixels_that_pillow_finds() {
    let cases = pillow("files.");
    assert!(cases.len() >= 20);
    for (name, height, width, want) in cases {
        let got = open(&format!("files/{name}"));
        assert_eq!((got.height, got.width), (height, width), "{name}");
        let off = largest(&got.data, &want);
        // JPEG and lossy WebP leave the rounding of the inverse transform, and how chroma is enlarged, to the decoder.
        let mean = got.data.iter().zip(&want).map(|(g, w)| f64::from(g.abs_diff(*w))).sum::<f64>() / want.len() as f64;
        println!("{name}: at most {off}, mean {mean:.3}");
        let limit = match name.as_str() {
            "subsampled.jpg" | "lossy.webp" => 2.0,
            "cmyk.jpg" => 1.0,
            _ if name.ends_with(".jpg") => 0.5,
            _ => 0.0,
        };
        assert!(mean <= limit, "{name}: mean {mean}, at most {off}");
    }
}

/// Sixteen bits, interlacing, a transparent colour, profiles, the first frame of animations, restart marks.
#[test]
fn rarer_kinds_of_files_hold_them_too() {
    let cases = recorded("formats/expected_u8.safetensors", "");
    assert_eq!(cases.len(), 12);
    for (name, height, width, want) in cases {
        let got = open(&format!("formats/{name}"));
        assert_eq!((got.height, got.width), (height, width), "{name}");
        let off = largest(&got.data, &want);
        println!("{name}: at most {off}");
        assert!(off <= if name.ends_with(".jpg") { 3 } else { 0 }, "{name}: {off}");
    }
}

#[test]
fn pixel_values_equal_those_of_transformers() {
    let expected = Weights::open(fixture("expected.safetensors")).unwrap();
    let mut cases = 0;
    for name in expected.names() {
        let (processor, rest) = name.split_once('.').unwrap();
        let (image, every8th) = rest.split_once('.').unwrap();
        let padded = processor.strip_prefix("llava_pad_");
        let mut json: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(fixture(&format!("processor_{}/preprocessor_config.json", padded.unwrap_or(processor)))).unwrap(),
        )
        .unwrap();
        if padded.is_some() {
            json["image_aspect_ratio"] = "pad".into();
        }
        let processor = ImageProcessor::from_json(&json).unwrap();
        let got = processor.pixel_values(&[open(&format!("{image}.png"))], &Device::flex()).unwrap();
        let [_, _, height, width] = got.dims();
        let mut got = to_vec(got);
        if every8th.ends_with("every8th") {
            let kept = |i: &usize| (i / width % height).is_multiple_of(8) && (i % width).is_multiple_of(8);
            got = (0..got.len()).filter(kept).map(|i| got[i]).collect();
        }
        let want = expected.get(name).unwrap().values;
        assert_eq!(got.len(), want.len(), "{name}");
        let worst = got.iter().zip(&want).fold(0f32, |m, (g, w)| m.max((g - w).abs()));
        println!("{name}: {worst:.1e}");
        // A grey level is 0.0078 or more: every pixel has the same 8-bit value.
        assert!(worst < 1e-5, "{name}: {worst}");
        cases += 1;
    }
    assert_eq!(cases, 18);
}

#[test]
fn configurations_in_all_spellings() {
    let read = |text: &str| ImageProcessor::from_json(&serde_json::from_str(text).unwrap());
    let old = read(r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}"#).unwrap();
    let new = r#"{"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}"#;
    assert_eq!(old, read(new).unwrap());
    assert_eq!(old, read(&format!(r#"{{"processor_class": "LlavaProcessor", "image_processor": {new}}}"#)).unwrap());
    for (text, part) in [
        (r#"{"image_processor_type": "ViTImageProcessor"}"#, "CLIPImageProcessor"),
        (r#"{"image_mean": [0.5]}"#, "image_mean"),
        (r#"{"image_std": [0.5, 0, 0.5]}"#, "image_std"),
        (r#"{"size": {"longest_edge": 3}}"#, "shortest_edge"),
        (r#"{"size": 0}"#, "size"),
        (r#"{"resample": 0}"#, "resample"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    // An image smaller than the crop gets a black border, as in transformers.
    let mut crop_only = old;
    crop_only.size = None;
    crop_only.crop = Some((4, 3));
    let got = crop_only.resized(&RgbImage { width: 2, height: 1, data: vec![9; 6] }).unwrap();
    assert_eq!(got.data.iter().filter(|v| **v == 9).count(), 6);
    assert_eq!((got.height, got.width), (4, 3));
}
