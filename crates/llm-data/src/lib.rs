//! Raw documents to packed token shards.

pub mod corrupt;
pub mod dedup;
pub mod document;
mod error;
pub mod exercises;
pub mod explain;
pub mod extract;
pub mod filter;
pub mod fim;
pub mod funnel;
pub mod html_text;
pub mod langid;
pub mod pack;
pub mod pictures;
pub mod quality;
pub mod ranks;
pub mod read;
pub mod redact;
pub mod sample;
pub mod scenes;
pub mod shards;
pub mod split;
pub mod stats;
pub mod step;

pub use error::{Error, Result};
