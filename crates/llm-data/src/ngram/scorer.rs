//! From text to tokens to perplexity: what a token is must be the same in training and in use, so it is kept beside the model.

use super::model::{Model, Score};
use super::{Estimate, Perplexity, TrainConfig};
use crate::error::{Error, Result, io};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The file beside a model that says what its tokens are.
pub const DESCRIPTION: &str = "ngram.json";

/// What an n-gram consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Separated by white space.
    #[default]
    Words,
    /// Single characters, for languages without spaces.
    Characters,
    /// Pieces of a tokenizer.
    Pieces,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Units {
    /// What a token is.
    pub unit: Unit,
    /// Lower-case, without accents, digits as 0, punctuation apart from words.
    pub normalise: bool,
    /// Folder or `tokenizer.json`; for `pieces`.
    pub tokenizer: Option<PathBuf>,
}

/// What `train-ngram` writes beside the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// File name of the model in the same folder.
    pub model: String,
    /// What its tokens are.
    #[serde(flatten)]
    pub units: Units,
    /// Perplexities of the reference sample at 0, 1, … 100 % of its documents.
    pub percentiles: Vec<f64>,
}

/// A model and its tokens.
pub struct Scorer {
    /// The model.
    pub model: Model,
    units: Units,
    tokenizer: Option<Tokenizer>,
    /// Of the reference sample; empty for a bare model file.
    pub percentiles: Vec<f64>,
}

impl std::fmt::Debug for Scorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scorer").field("units", &self.units).finish_non_exhaustive()
    }
}

impl Units {
    /// The tokenizer, where tokens are its pieces.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match (self.unit, &self.tokenizer) {
            (Unit::Pieces, Some(path)) => Tokenizer::load(path).map(Some).map_err(|e| Error::Config(format!("tokenizer: {e}"))),
            (Unit::Pieces, None) => Err(Error::Config("unit = pieces needs `tokenizer`, a folder or tokenizer.json".into())),
            _ => Ok(None),
        }
    }

    /// Calls `each` with the tokens of every line that has any. Tokens contain no white space.
    pub fn lines(&self, tokenizer: Option<&Tokenizer>, text: &str, mut each: impl FnMut(&[String])) {
        let mut tokens: Vec<String> = Vec::new();
        for line in text.lines() {
            tokens.clear();
            let line: std::borrow::Cow<'_, str> = if self.normalise { normalise(line).into() } else { line.into() };
            match (self.unit, tokenizer) {
                (Unit::Pieces, Some(tokenizer)) => tokens.extend(tokenizer.encode(&line).iter().map(u32::to_string)),
                (Unit::Characters, _) => {
                    let mut space = true;
                    for c in line.chars() {
                        // One mark for any white space.
                        if !c.is_whitespace() {
                            tokens.push(c.to_string());
                        } else if !space {
                            tokens.push("▁".into());
                        }
                        space = c.is_whitespace();
                    }
                }
                _ => tokens.extend(words(&line).map(str::to_string)),
            }
            if !tokens.is_empty() {
                each(&tokens);
            }
        }
    }
}

/// KenLM's words.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_ascii_whitespace() || c == '\x0B' || c == '\0').filter(|w| !w.is_empty())
}

/// Lower-case, without accents, digits as 0, punctuation and symbols as words of their own.
fn normalise(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase) {
        if c.is_numeric() {
            out.push('0');
        } else if c.is_alphabetic() || c.is_whitespace() {
            out.push(c);
        } else if !c.is_control() {
            out.extend([' ', c, ' ']);
        }
    }
    out
}

impl Scorer {
    /// A model of which the tokens are known.
    pub fn new(model: Model, units: Units) -> Result<Self> {
        let tokenizer = units.tokenizer()?;
        Ok(Self { model, units, tokenizer, percentiles: Vec::new() })
    }

    /// Open a folder of `train-ngram`, or a model file alone, whose tokens are then words as they stand.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::new(Model::open(path)?, Units::default());
        }
        let file = path.join(DESCRIPTION);
        let text = std::fs::read_to_string(&file).map_err(io(&file, "cannot read"))?;
        let wrong = |message: String| Error::Format { path: file.clone(), message };
        let description: Description = serde_json::from_str(&text).map_err(|e| wrong(format!("{e}; run `llm-data train-ngram` again")))?;
        if description.model.contains(['/', '\\']) {
            return Err(wrong(format!("model `{}`: expected the name of a file in this folder", description.model)));
        }
        let mut scorer = Self::new(Model::open(&path.join(&description.model))?, description.units)?;
        scorer.percentiles = description.percentiles;
        Ok(scorer)
    }

    /// log10 probability and tokens, line by line.
    pub fn score(&self, text: &str) -> Score {
        let mut sum = Score::default();
        if self.units.unit == Unit::Words && !self.units.normalise {
            // The same without copying the words.
            for line in text.lines() {
                let mut words = words(line).peekable();
                if words.peek().is_some() {
                    sum += self.model.score(words.map(str::as_bytes));
                }
            }
            return sum;
        }
        self.units.lines(self.tokenizer.as_ref(), text, |tokens| sum += self.model.score(tokens.iter().map(String::as_bytes)));
        sum
    }
}

impl Perplexity for Scorer {
    fn perplexity(&self, text: &str) -> f64 {
        self.score(text).perplexity()
    }
}

/// Train on texts that are cut into tokens by `units`.
pub fn train(texts: &[&str], units: &Units, config: &TrainConfig) -> Result<Estimate> {
    let tokenizer = units.tokenizer()?;
    // One buffer of all lines: words are separated by spaces, which no token contains.
    let mut all: Vec<u8> = Vec::new();
    for text in texts {
        units.lines(tokenizer.as_ref(), text, |tokens| {
            for token in tokens {
                all.extend(token.as_bytes());
                all.push(b' ');
            }
            all.push(b'\n');
        });
    }
    let lines = all.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    super::estimate(lines.map(|l| l.split(|b| *b == b' ').filter(|w| !w.is_empty())), config)
}
