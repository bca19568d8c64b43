//! Images for language models.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `VisionConfig` | sizes and choices of a vision tower |
//! | [`tower`] | `VisionTower` | the vision transformer of CLIP and SigLIP |
//! | [`checkpoint`] | `load_tower`, `save_tower` | Hugging Face folders, with the names of transformers 4 and 5 |
//! | [`connector`] | `Connector` | from the tower's width to the language model's |
//! | [`vlm`] | `Vlm` | tower, connector and decoder; image features in the place of placeholder tokens |
//! | [`decode`] | `RgbImage` | PNG, JPEG and WebP files, turned upright, with a limit on their size |
//! | [`processor`] | `ImageProcessor` | from an image to `pixel_values`, as Pillow and transformers do it |
//! | [`resize`] | `Resample` | Pillow's resampling |
//!
//! Deliberately absent: text, serving, and a file per published model.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

pub mod checkpoint;
pub mod config;
pub mod connector;
pub mod decode;
mod error;
pub mod processor;
pub mod resize;
pub mod tower;
pub mod vlm;

pub use config::{VisionConfig, VisionFamily};
pub use connector::Connector;
pub use decode::RgbImage;
pub use error::{Error, Result};
pub use processor::ImageProcessor;
pub use tower::{VisionOutput, VisionTower};
pub use vlm::{Vlm, VlmConfig};
