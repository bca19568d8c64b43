//! Language identification: of a whole text, of its paragraphs, and as a step that keeps the wanted languages.
//!
//! Two backends: the built-in one, which needs no file, and any fastText model with languages as labels, such as `lid.176.bin`,
//! `lid.176.ftz` or GlotLID (`deu_Latn` becomes `de`).

mod builtin;
mod paragraphs;
mod step;

pub use builtin::{Language, SAMPLE_CHARS, SURE, identify};
pub use paragraphs::{Span, paragraphs, shares};
pub use step::{LanguageConfig, LanguageStep, Paragraphs};

use crate::error::Result;
use crate::fasttext::Model;
use std::path::Path;

/// What says which language a text is.
#[derive(Debug, Default)]
pub enum Backend {
    /// See [`identify`].
    #[default]
    Builtin,
    /// A fastText model.
    FastText(Box<Model>),
}

/// A language and how sure the backend is.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// ISO 639-1 where there is one.
    pub code: String,
    /// 0 to 1.
    pub score: f32,
}

impl Backend {
    /// The built-in backend, or the model file `path`.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        Ok(match path {
            None => Self::Builtin,
            Some(path) => Self::FastText(Box::new(Model::open(path)?)),
        })
    }

    /// The language of `text`; `None` when there is nothing to go by.
    pub fn identify(&self, text: &str) -> Option<Found> {
        match self {
            Self::Builtin => identify(text).map(|l| Found { code: l.code.to_string(), score: l.score }),
            Self::FastText(model) => {
                if !text.contains(char::is_alphabetic) {
                    return None;
                }
                let best = model.predict(text, 1, 0.0).into_iter().next()?;
                Some(Found { code: language_of(&best.label), score: best.probability.min(1.0) })
            }
        }
    }
}

/// `eng_Latn`, `eng` and `en` are all `en`.
fn language_of(label: &str) -> String {
    let base = label.split(['_', '-']).next().unwrap_or(label);
    match base.len() {
        3 => builtin::short(base).unwrap_or(base).to_string(),
        _ => base.to_string(),
    }
}
