//! Joining documents and cutting them into rows: neighbouring rows share one token.

use crate::error::Result;
use crate::shards::{Label, NewRow};
use std::sync::Arc;

/// Joins documents and cuts rows.
pub(super) struct Cutter {
    length: usize,
    pub tokens: Vec<u32>,
    starts: Vec<u32>,
    ids: Vec<Arc<str>>,
    labels: Vec<Label>,
    /// Rows cut so far. After the first `tokens[0]` is already the last target of the row before.
    pub rows: usize,
}

impl Cutter {
    pub fn new(length: usize) -> Self {
        Self { length, tokens: Vec::with_capacity(length + 1), starts: Vec::new(), ids: Vec::new(), labels: Vec::new(), rows: 0 }
    }

    /// Add a document; rows that are full go to `emit`.
    pub fn push(&mut self, mut document: &[u32], id: &Arc<str>, label: Label, mut emit: impl FnMut(NewRow) -> Result<()>) -> Result<()> {
        self.starts.push(self.tokens.len() as u32);
        self.ids.push(id.clone());
        self.labels.push(label);
        while !document.is_empty() {
            let (now, later) = document.split_at(document.len().min(self.length + 1 - self.tokens.len()));
            self.tokens.extend_from_slice(now);
            document = later;
            if self.tokens.len() == self.length + 1 {
                let tokens = std::mem::replace(&mut self.tokens, Vec::with_capacity(self.length + 1));
                self.tokens.extend(tokens.last());
                let document_starts = std::mem::replace(&mut self.starts, vec![0]);
                let document_ids = std::mem::replace(&mut self.ids, vec![id.clone()]);
                let document_labels = std::mem::replace(&mut self.labels, vec![label]);
                self.rows += 1;
                emit(NewRow { tokens, document_starts, document_ids, target_bytes: 0, document_labels })?;
            }
        }
        Ok(())
    }

    /// Tokens in no row.
    pub fn unwritten(&self) -> usize {
        self.tokens.len() - usize::from(self.rows > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Rows joined at their shared id, and what is left over, are the documents joined; starts name every document.
        #[test]
        fn no_token_is_lost_or_invented(lengths in prop::collection::vec(1usize..40, 1..30), length in 1usize..20) {
            let mut cutter = Cutter::new(length);
            let (mut all, mut rows, mut next): (Vec<u32>, Vec<NewRow>, u32) = (Vec::new(), Vec::new(), 0);
            for (d, n) in lengths.iter().enumerate() {
                let document: Vec<u32> = (next..next + *n as u32).collect();
                next += *n as u32;
                all.extend(&document);
                cutter.push(&document, &Arc::from(format!("d{d}")), Label { domain: d as u16, language: 0 }, |row| { rows.push(row); Ok(()) }).unwrap();
            }
            let mut joined: Vec<u32> = Vec::new();
            let mut starts = Vec::new();
            for row in &rows {
                prop_assert_eq!(row.tokens.len(), length + 1);
                prop_assert_eq!(row.document_starts[0], 0);
                let at = joined.len() - usize::from(!joined.is_empty());
                for (label, id) in row.document_labels.iter().zip(&row.document_ids) {
                    prop_assert_eq!(&**id, format!("d{}", label.domain));
                }
                starts.extend(row.document_starts.iter().zip(&row.document_ids).map(|(s, id)| (at + *s as usize, id.clone())));
                joined.truncate(at);
                joined.extend(&row.tokens);
            }
            prop_assert_eq!(cutter.unwritten(), all.len() - joined.len());
            prop_assert_eq!(&joined[..], &all[..joined.len()]);
            let mut begin = 0;
            for (d, n) in lengths.iter().enumerate() {
                if begin < joined.len() {
                    prop_assert!(starts.iter().any(|(s, id)| *s == begin && **id == *format!("d{d}")), "start of document {}", d);
                }
                begin += n;
            }
        }
    }
}
