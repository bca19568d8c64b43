//! Rows of shards as a model eats them, and the documents in them.

use llm_arch::PackedBatch;
use llm_data::shards::{Label, Row};
use llm_tensor::ops;
use std::ops::Range;

/// Inputs and targets of a few rows.
#[derive(Debug)]
pub struct TokenRows {
    /// Inputs; documents do not see each other.
    pub batch: PackedBatch,
    /// The token after each input; [`ops::IGNORE`] where the next document begins.
    pub targets: ops::Indices,
    /// Targets that are asked for.
    pub counted: usize,
}

impl TokenRows {
    /// Shift rows of T+1 tokens into inputs and targets.
    pub fn new(rows: &[Row]) -> Self {
        let length = rows.first().map_or(0, |r| r.tokens.len() - 1);
        let mut ids = Vec::with_capacity(rows.len() * length);
        let mut targets = Vec::with_capacity(rows.len() * length);
        for row in rows {
            ids.extend_from_slice(&row.tokens[..length]);
            let at = targets.len();
            targets.extend_from_slice(&row.tokens[1..]);
            for &start in row.document_starts.iter().filter(|&&s| s > 0) {
                targets[at + start as usize - 1] = ops::IGNORE;
            }
        }
        let starts: Vec<&[u32]> = rows.iter().map(|r| r.document_starts).collect();
        let counted = targets.iter().filter(|&&t| t != ops::IGNORE).count();
        Self { batch: PackedBatch::documents(ids, &starts, length), targets: targets.into(), counted }
    }
}

/// What a row holds of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its tokens in the row. All but the first are targets; the target at place p of the row is token p + 1.
    pub tokens: Range<usize>,
    /// What it is.
    pub label: Label,
}

impl Segment {
    /// Places of its targets.
    pub fn targets(&self) -> Range<usize> {
        self.tokens.start..self.tokens.end - 1
    }
}

/// The documents of a row, padding included, which has no targets.
pub fn segments<'a>(row: &Row<'a>) -> impl Iterator<Item = Segment> + use<'a> {
    let row = *row;
    let ends = row.document_starts.iter().skip(1).copied().chain([row.tokens.len() as u32]);
    row.document_starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(move |(i, (&start, end))| Segment { tokens: start as usize..end as usize, label: row.label(i) })
}
