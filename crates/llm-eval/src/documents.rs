//! Which documents are scored: all of them, or a sample that depends on nothing but the documents and the seed.
//!
//! Under a byte limit, documents are taken in the order of a hash of (seed, id) until the limit is reached; the last one
//! is cut at a character boundary. So the sample does not depend on the order of files or rows, it is a uniform draw over
//! documents, a higher limit extends a lower one, and two models are always measured on the same text.

use crate::error::{Error, Result, check_interrupt};
use llm_data::document::{Document, DocumentReader};
use llm_run::Seed;
use std::collections::BTreeMap;
use std::path::Path;

/// Hash order of an id: the draw behind every limit in this crate.
pub fn hash_order(seed: Seed, id: &str) -> u64 {
    seed.stream(id).0
}

/// Call `visit` on every document under `path`, in file order, without holding more than one batch in memory.
pub fn for_each(path: &Path, mut visit: impl FnMut(Document)) -> Result<()> {
    for batch in DocumentReader::open(path)? {
        check_interrupt()?;
        batch?.into_iter().for_each(&mut visit);
    }
    Ok(())
}

/// The documents to use, sorted by hash order; never more than `limit_bytes` of text, and about that much memory.
pub fn select(path: &Path, limit_bytes: Option<u64>, seed: Seed) -> Result<Vec<Document>> {
    let limit = limit_bytes.unwrap_or(u64::MAX);
    let mut kept: BTreeMap<(u64, String, usize), Document> = BTreeMap::new();
    let (mut bytes, mut row) = (0u64, 0usize);
    for_each(path, |document| {
        row += 1;
        if document.text.is_empty() {
            return;
        }
        bytes += document.text.len() as u64;
        kept.insert((hash_order(seed, &document.id), document.id.clone(), row), document);
        // Drop from the end what the limit is reached without.
        while let Some(last) = kept.last_entry() {
            let length = last.get().text.len() as u64;
            if bytes - length < limit {
                break;
            }
            bytes -= length;
            last.remove();
        }
    })?;
    let mut documents: Vec<Document> = kept.into_values().collect();
    if let Some(last) = documents.last_mut() {
        let surplus = bytes.saturating_sub(limit) as usize;
        last.text.truncate(last.text.floor_char_boundary(last.text.len() - surplus));
        if last.text.is_empty() {
            documents.pop();
        }
    }
    if documents.is_empty() {
        return Err(Error::Empty { path: path.to_path_buf(), what: "no text in these documents; run the data stages first or raise the byte limit" });
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_data::document::DocumentWriter;

    fn folder(dir: &Path, ids: impl Iterator<Item = usize>) {
        let mut writer = DocumentWriter::create(dir).unwrap();
        for i in ids {
            let text = format!("Dokument {i}: ").to_string() + &"äöü".repeat(i % 17);
            writer.push(Document { id: format!("d{i}"), text, domain: "docs".into(), ..Document::default() }).unwrap();
        }
        writer.finish().unwrap();
    }

    fn total(documents: &[Document]) -> u64 {
        documents.iter().map(|d| d.text.len() as u64).sum()
    }

    #[test]
    fn the_sample_ignores_row_order_and_grows_with_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (forward, backward) = (dir.path().join("a"), dir.path().join("b"));
        folder(&forward, 0..300);
        folder(&backward, (0..300).rev());
        let small = select(&forward, Some(1000), Seed(1)).unwrap();
        assert_eq!(small, select(&backward, Some(1000), Seed(1)).unwrap());
        assert!((997..=1000).contains(&total(&small)), "{}", total(&small));
        let large = select(&forward, Some(4000), Seed(1)).unwrap();
        assert_eq!(small[..small.len() - 1], large[..small.len() - 1]);
        assert_ne!(small, select(&forward, Some(1000), Seed(2)).unwrap());
    }

    #[test]
    fn without_a_limit_everything_is_scored() {
        let dir = tempfile::tempdir().unwrap();
        folder(&dir.path().join("a"), 0..300);
        let mut bytes = 0;
        for_each(&dir.path().join("a"), |d| bytes += d.text.len() as u64).unwrap();
        let all = select(&dir.path().join("a"), None, Seed(1)).unwrap();
        assert_eq!((all.len(), total(&all)), (300, bytes));
        assert_eq!(total(&select(&dir.path().join("a"), Some(bytes), Seed(1)).unwrap()), bytes);
    }

    #[test]
    fn an_empty_or_missing_folder_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        folder(&dir.path().join("empty"), 0..0);
        assert!(select(&dir.path().join("empty"), None, Seed(1)).unwrap_err().to_string().contains("empty"));
        assert!(select(&dir.path().join("missing"), None, Seed(1)).unwrap_err().to_string().contains("missing"));
    }
}
