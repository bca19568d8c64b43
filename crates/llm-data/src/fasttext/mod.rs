//! fastText classifiers: files of the reference read and written, texts labelled, models trained and quantised.
//!
//! The format and the arithmetic are those of fastText 0.9.2 (Joulin et al., 2016, <https://arxiv.org/abs/1607.01759>; product
//! quantisation: Joulin et al., 2016, <https://arxiv.org/abs/1612.03651>), down to its oddities: hashes of words are sign-extended
//! before they are combined to n-grams, the sigmoid of one-vs-all comes from a table, and a reported probability is
//! `exp(ln(p + 1e-5))`, so that it can be 1.00001. Every text is one line to fastText: line breaks are spaces, and `</s>` ends it.
//!
//! The files come from others: no size in a header is believed before the bytes are known to be there.

mod dictionary;
mod evaluate;
mod format;
mod matrix;
mod output;
mod quantise;
mod train;

pub use evaluate::{Curve, Operating, Target};
pub use quantise::QuantiseConfig;
pub use train::{Example, TrainConfig, train};

use crate::error::{Error, Result, io};
use dictionary::Dictionary;
use matrix::Matrix;
use output::Output;
use std::path::Path;

/// What fastText puts before labels.
pub const LABEL_PREFIX: &str = "__label__";

/// How the output layer turns scores into probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// A Huffman tree over the labels.
    Hs = 1,
    /// Negative sampling: one sigmoid a label.
    Ns = 2,
    /// One distribution over all labels.
    Softmax = 3,
    /// One versus all: one sigmoid a label.
    Ova = 4,
}

/// The settings that a model file carries. Names are the reference's.
#[derive(Debug, Clone, PartialEq)]
pub struct Args {
    /// Size of the hidden layer.
    pub dim: i32,
    /// Window of embedding models; unused here.
    pub ws: i32,
    /// Passes over the training set.
    pub epoch: i32,
    /// Rarer words have no row of their own.
    pub min_count: i32,
    /// Negatives sampled.
    pub neg: i32,
    /// Longest n-gram of words.
    pub word_ngrams: i32,
    /// Output layer.
    pub loss: Loss,
    /// 3: supervised.
    pub model: i32,
    /// Rows for hashed n-grams.
    pub bucket: i32,
    /// Shortest n-gram of characters.
    pub minn: i32,
    /// Longest n-gram of characters; 0: none.
    pub maxn: i32,
    /// Unused here.
    pub lr_update_rate: i32,
    /// Sampling threshold of embedding models.
    pub t: f64,
}

/// A supervised model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Settings.
    pub args: Args,
    dictionary: Dictionary,
    /// `[words + n-grams, dim]`.
    input: Matrix,
    /// `[labels, dim]`, or `[labels - 1, dim]` used by the inner nodes of a tree.
    output: Matrix,
    /// The file says `qout`; kept so that writing gives the same file.
    quantised_output: bool,
    layer: Output,
}

/// A label and its probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Without [`LABEL_PREFIX`].
    pub label: String,
    /// As the reference reports it: `exp(ln(p + 1e-5))`.
    pub probability: f32,
}

impl Model {
    /// Read `.bin` or `.ftz`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(io(path, "cannot open"))?;
        let length = file.metadata().map_err(io(path, "cannot read"))?.len();
        format::read(std::io::BufReader::with_capacity(1 << 20, file), length).map_err(|message| Error::Format { path: path.to_path_buf(), message })
    }

    /// Read a model from memory; `name` stands for the path in errors.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        format::read(bytes, bytes.len() as u64).map_err(|message| Error::Format { path: name.into(), message })
    }

    /// The model as the bytes of a `.bin` (or, quantised, `.ftz`).
    pub fn to_bytes(&self) -> Vec<u8> {
        format::write(self)
    }

    /// Write the model; the usual ending is `.bin`, or `.ftz` when it is quantised.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(llm_run::atomic::write(path, self.to_bytes())?)
    }

    fn new(args: Args, dictionary: Dictionary, input: Matrix, output: Matrix, quantised_output: bool) -> Result<Self, String> {
        let layer = Output::new(args.loss, &dictionary.label_counts())?;
        Ok(Self { args, dictionary, input, output, quantised_output, layer })
    }

    /// True for the contents of an `.ftz`.
    pub fn is_quantised(&self) -> bool {
        matches!(self.input, Matrix::Quantised(_))
    }

    /// The labels, in the order of the output layer, without prefix.
    pub fn labels(&self) -> Vec<String> {
        (0..self.dictionary.labels()).map(|i| self.label(i)).collect()
    }

    /// Words that have a row of their own.
    pub fn words(&self) -> usize {
        self.dictionary.words()
    }

    fn label(&self, index: usize) -> String {
        let label = self.dictionary.label(index);
        let text = String::from_utf8_lossy(label);
        text.strip_prefix(LABEL_PREFIX).unwrap_or(&text).to_string()
    }

    /// The rows of a text, repeated where features repeat.
    fn features(&self, text: &str) -> Vec<u32> {
        let mut rows = Vec::with_capacity(text.len() / 2);
        self.dictionary.features(text.as_bytes(), &self.args, &mut rows);
        rows
    }

    fn hidden(&self, rows: &[u32]) -> Vec<f32> {
        let mut hidden = vec![0.0; self.args.dim as usize];
        for &row in rows {
            self.input.add_row_to(row as usize, &mut hidden);
        }
        let scale = 1.0 / rows.len().max(1) as f32;
        hidden.iter_mut().for_each(|x| *x *= scale);
        hidden
    }

    /// The `k` best labels with probability at least `threshold`, best first; none for a text without any known feature.
    pub fn predict(&self, text: &str, k: usize, threshold: f32) -> Vec<Prediction> {
        let rows = self.features(text);
        if rows.is_empty() {
            return Vec::new();
        }
        let hidden = self.hidden(&rows);
        let found = self.layer.best(&self.output, &hidden, k, threshold);
        found.into_iter().map(|(score, index)| Prediction { label: self.label(index), probability: score.exp() }).collect()
    }

    /// Probability of one label (given without prefix): 0 when the model does not have it or knows nothing of the text.
    pub fn probability(&self, text: &str, label: &str) -> f32 {
        self.predict(text, usize::MAX, 0.0).into_iter().find(|p| p.label == label).map_or(0.0, |p| p.probability.min(1.0))
    }
}
