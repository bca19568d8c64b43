//! Tokens that training hardly met, found from the weights alone (Land & Bartolo 2024, "Fishing for Magikarp", arXiv 2405.05417).
//!
//! A tokenizer is trained on one text and a model on another, so some tokens of the vocabulary never occur in training; in a prompt they
//! make a model talk nonsense. Their rows stay where they began. With an untied model the length of the *input* row says so: weight decay
//! shrinks rows that get no gradient, or leaves them small. With a tied table every row is pushed by the output projection, so its
//! direction says it: rows of tokens that never were a target all point the same way, that of rows known to be unused. The first principal
//! component of the table, which all rows share, is taken out first.
//!
//! What comes out are candidates in the order of suspicion, not verdicts: the paper asks the model to repeat each of them.

use super::ModelFolder;
use super::indicators::Rows;
use crate::Result;
use llm_tokenizer::Tokenizer;
use serde::Serialize;
use std::collections::BTreeMap;

/// What kind of token an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text can be made of it, and it of text.
    Ordinary,
    /// A control token.
    Special,
    /// Begins or ends within a character.
    PartialUtf8,
    /// Encoding its text gives other tokens.
    Unreachable,
    /// No token: a row that pads the table.
    Padding,
}

/// A token under suspicion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suspect {
    /// Its id.
    pub id: u32,
    /// Its text; half characters are U+FFFD.
    pub text: String,
    /// The number it is sorted by, lowest first.
    pub indicator: f64,
    /// Length of its input row.
    pub norm: f64,
    /// Cosine distance of its output row to the unused ones.
    pub distance: Option<f64>,
    /// The indicator lies within those of the unused rows.
    pub like_unused: bool,
}

/// What was found in a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether the output projection is the embedding table.
    pub tied: bool,
    /// What `indicator` is.
    pub indicator: &'static str,
    /// Rows known to be unused: padding, bytes that UTF-8 never has, reserved control tokens, and those that were named.
    pub unused: Vec<u32>,
    /// The highest indicator of an unused row.
    pub unused_indicator: Option<f64>,
    /// The middle indicator of all ordinary tokens.
    pub median: f64,
    /// How many rows are of each kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// Ordinary tokens with the lowest indicators.
    pub suspects: Vec<Suspect>,
    /// Tokens that no text leads to.
    pub unreachable: Vec<u32>,
    /// Tokens that are no whole characters.
    pub partial_utf8: Vec<u32>,
}

/// Look at every row. `share` of the ordinary tokens are suspects (the paper takes 2 %); `named` are further ids known to be unused.
pub fn glitch(folder: &ModelFolder, share: f64, named: &[u32]) -> Result<Report> {
    let tokenizer = &folder.tokenizer;
    let (input, output, width) = folder.tables()?;
    let kinds: Vec<Kind> = {
        let reach = Reach::new(tokenizer);
        (0..folder.rows() as u32).map(|id| reach.kind(id)).collect()
    };
    let mut unused: Vec<u32> = (0..folder.rows() as u32).filter(|&id| kinds[id as usize] == Kind::Padding || never_used(tokenizer, id)).collect();
    unused.extend(named.iter().filter(|&&id| (id as usize) < folder.rows()));
    unused.sort_unstable();
    unused.dedup();

    let norms = Rows { values: &input, width }.norms();
    let rows = Rows { values: output.as_deref().unwrap_or(&input), width };
    let distances = if unused.is_empty() { None } else { Some(rows.distances(&unused, &rows.principal())) };
    let (indicator, numbers) = match (&distances, folder.tied()) {
        (Some(distances), true) => ("cosine distance to unused rows, without the first principal component", distances),
        (None, true) => ("length of the row (no row is known to be unused; name some with --unused)", &norms),
        (_, false) => ("length of the input row", &norms),
    };
    let mut order: Vec<u32> =
        (0..folder.rows() as u32).filter(|&id| kinds[id as usize] == Kind::Ordinary && unused.binary_search(&id).is_err()).collect();
    order.sort_by(|&a, &b| numbers[a as usize].total_cmp(&numbers[b as usize]).then(a.cmp(&b)));
    let unused_indicator = unused.iter().map(|&id| numbers[id as usize]).max_by(f64::total_cmp);
    let suspect = |id: u32| {
        let indicator = numbers[id as usize];
        Suspect {
            id,
            text: String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned(),
            indicator,
            norm: norms[id as usize],
            distance: distances.as_ref().map(|d| d[id as usize]),
            like_unused: unused_indicator.is_some_and(|most| indicator <= most),
        }
    };
    let of = |kind: Kind| (0..folder.rows() as u32).filter(|&id| kinds[id as usize] == kind).collect();
    let mut counts = BTreeMap::new();
    kinds.iter().for_each(|&kind| *counts.entry(kind).or_default() += 1);
    let taken = (share * order.len() as f64).ceil() as usize;
    Ok(Report {
        tied: folder.tied(),
        indicator,
        unused_indicator,
        median: order.get(order.len() / 2).map_or(0.0, |&id| numbers[id as usize]),
        kinds: counts,
        suspects: order.iter().take(taken).map(|&id| suspect(id)).collect(),
        unreachable: of(Kind::Unreachable),
        partial_utf8: of(Kind::PartialUtf8),
        unused,
    })
}

/// Bytes that no UTF-8 text has, and control tokens that were reserved for later.
fn never_used(tokenizer: &Tokenizer, id: u32) -> bool {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let reserved = || {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        tokenizer.is_special(id) && ["reserved", "unused"].iter().any(|word| text.contains(word))
    };
    matches!(bytes, [0xC0 | 0xC1 | 0xF5..=0xFF]) || reserved()
}

/// Whether text leads to a token.
struct Reach<'a> {
    tokenizer: &'a Tokenizer,
    /// A text before the token, for tokenizers that put a blank before the first word, and its ids.
    before: (&'static str, Vec<u32>),
}

impl<'a> Reach<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        const BEFORE: &str = "«";
        Self { tokenizer, before: (BEFORE, tokenizer.encode(BEFORE)) }
    }

    fn kind(&self, id: u32) -> Kind {
        let Some(bytes) = self.tokenizer.token_bytes(id) else { return Kind::Padding };
        if self.tokenizer.is_special(id) {
            return Kind::Special;
        }
        let Ok(text) = str::from_utf8(bytes) else { return Kind::PartialUtf8 };
        let (before, ids) = &self.before;
        let alone = self.tokenizer.encode(text) == [id];
        let blank = || text.strip_prefix(' ').is_some_and(|rest| self.tokenizer.encode(rest) == [id]);
        let within = || self.tokenizer.encode(&format!("{before}{text}")).strip_prefix(ids.as_slice()) == Some(&[id][..]);
        if alone || blank() || within() { Kind::Ordinary } else { Kind::Unreachable }
    }
}
