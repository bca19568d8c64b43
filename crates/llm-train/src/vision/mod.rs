//! Learning from pictures on the one loop.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`contrastive`](mod@contrastive) | `Contrastive` | a vision and a text tower from pictures and their captions |
//! | [`instruct`](mod@instruct) | `Instruct` | a language model that answers about pictures: connector stage and instruction stage |
//! | [`conversations`] | `Conversation` | captions, questions and text exercises as token sequences with image placeholders |
//! | [`images`] | `Images` | decoded and resized once, normalised when asked for |
//! | [`features`] | `Features` | what a frozen tower sees, computed once |

pub mod contrastive;
pub mod conversations;
pub mod features;
pub mod images;
pub mod instruct;
mod whiten;

pub use contrastive::{ContrastiveConfig, contrastive};
pub use instruct::{ConnectorInit, InstructConfig, instruct};

use crate::{Error, Result};
use llm_data::pictures::{self, Picture};
use std::path::Path;

/// Refuse an unset path with advice.
fn require(key: &str, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::Config(format!("`{key}` is missing; set it in the configuration or with --set {key}=PATH")));
    }
    Ok(())
}

/// The pictures of a file or folder; none is an error.
fn read(path: &Path) -> Result<Vec<Picture>> {
    let pictures = pictures::read(path)?;
    if pictures.is_empty() {
        return Err(Error::Objective(format!("{}: no pictures in it", path.display())));
    }
    Ok(pictures)
}

/// `count` indices spread evenly over `0..n`; all of them when `count` is 0 or too large.
fn spread(count: usize, n: usize) -> impl Iterator<Item = usize> {
    let count = if count == 0 { n } else { count.min(n) };
    (0..count).map(move |i| i * n / count)
}
