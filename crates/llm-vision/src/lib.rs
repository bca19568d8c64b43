//! Images for language models.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`config`] | `VisionConfig` | sizes and choices of a vision tower |
//! | [`encoder`] | `Encoder` | the blocks that all towers share |
//! | [`tower`] | `VisionTower` | the vision transformer of CLIP and SigLIP |
//! | [`pair_config`] | `TextConfig`, `PairConfig` | sizes and choices of a text tower and of a pair |
//! | [`text`] | `TextTower`, `TextBatch` | the text transformer of CLIP and SigLIP |
//! | [`pair`] | `Pair` | a vision and a text tower whose features are compared |
//! | [`contrastive`] | `clip_loss`, `siglip_loss` | what pairs are trained with |
//! | `init` | | fresh weights, spread as transformers does it |
//! | [`checkpoint`] | `load_tower`, `load_pair`, `save_*` | Hugging Face folders, with the names of transformers 4 and 5 |
//! | [`connector`] | `Connector` | from the tower's width to the language model's |
//! | [`vlm_config`] | `VlmConfig`, `VlmOptions` | sizes and choices of a model that sees |
//! | [`vlm`] | `Vlm` | tower, connector and decoder; image features in the place of placeholder tokens |
//! | [`sequence`] | `Sequence` | one prompt with its images, continued through the cache |
//! | [`parity`] | `check` | all of these against recorded numbers of another implementation |
//! | [`decode`] | `RgbImage` | PNG, JPEG and WebP files, turned upright, with a limit on their size |
//! | `container`, `exif` | | what files promise, read before they are decoded |
//! | [`processor`] | `ImageProcessor` | from an image to `pixel_values`, as Pillow and transformers do it |
//! | [`resize`] | `Resample` | Pillow's resampling |
//!
//! Deliberately absent: text, serving, and a file per published model.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

mod build;
pub mod checkpoint;
pub mod config;
pub mod connector;
mod container;
pub mod contrastive;
pub mod decode;
pub mod encoder;
mod error;
mod exif;
mod init;
pub mod pair;
pub mod pair_config;
pub mod parity;
pub mod processor;
pub mod resize;
pub mod sequence;
pub mod text;
pub mod tower;
pub mod vlm;
pub mod vlm_config;

pub use config::{VisionConfig, VisionFamily};
pub use connector::Connector;
pub use decode::RgbImage;
pub use error::{Error, Result};
pub use init::PositionInit;
pub use pair::Pair;
pub use pair_config::{PairConfig, TextConfig};
pub use processor::ImageProcessor;
pub use sequence::Sequence;
pub use text::{TextBatch, TextOutput, TextTower};
pub use tower::{VisionOutput, VisionTower};
pub use vlm::Vlm;
pub use vlm_config::{ConnectorKind, SelectStrategy, VlmConfig, VlmOptions};
