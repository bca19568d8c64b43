//! Which tokens texts use, and how they are cut by a pruned tokenizer. Texts are streamed, so samples may be larger than memory.

use crate::Result;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::sample::{Reader, files};
use llm_tokenizer::surgery::Pruned;
use std::path::PathBuf;

/// Texts encoded at once.
const BATCH: usize = 512;

/// How often each token occurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// By id.
    pub by_id: Vec<u64>,
    /// Texts read.
    pub texts: u64,
}

impl Counts {
    /// Ids that occur, the most frequent first and the lower id first among equals.
    pub fn ranked(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..self.by_id.len() as u32).filter(|&id| self.by_id[id as usize] > 0).collect();
        ids.sort_by_key(|&id| (std::cmp::Reverse(self.by_id[id as usize]), id));
        ids
    }
}

/// What pruning does to texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recut {
    /// Tokens of the texts before.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// Texts that are cut differently.
    pub different: u64,
    /// The beginning of the first of them.
    pub first: Option<String>,
}

/// Count the tokens of all samples. Texts that hold the text of a control token count twice: as training reads them, where it is one, and
/// as users write them, where it is not.
pub fn count(tokenizer: &Tokenizer, paths: &[PathBuf]) -> Result<Counts> {
    let mut counts = Counts { by_id: vec![0; tokenizer.vocab_size()], texts: 0 };
    batches(paths, |texts| {
        counts.texts += texts.len() as u64;
        for id in encode(tokenizer, texts).into_iter().flatten() {
            counts.by_id[id as usize] += 1;
        }
    })?;
    Ok(counts)
}

/// Cut all samples with both tokenizers.
pub fn recut(tokenizer: &Tokenizer, pruned: &Pruned, paths: &[PathBuf]) -> Result<Recut> {
    let mut out = Recut::default();
    batches(paths, |texts| {
        let (before, after) = (encode(tokenizer, texts), encode(&pruned.tokenizer, texts));
        for (place, (before, after)) in before.iter().zip(&after).enumerate() {
            out.before += before.len() as u64;
            out.after += after.len() as u64;
            if !after.iter().map(|&id| &pruned.old_ids[id as usize]).eq(before) {
                out.different += 1;
                out.first.get_or_insert_with(|| texts.get(place).map_or_else(String::new, |text| text.chars().take(60).collect()));
            }
        }
    })?;
    Ok(out)
}

fn batches(paths: &[PathBuf], mut each: impl FnMut(&[String])) -> Result<()> {
    let mut texts = Vec::with_capacity(BATCH);
    for file in files(paths)? {
        for sample in Reader::open(&file)? {
            texts.push(sample?.text);
            if texts.len() == BATCH {
                each(&texts);
                texts.clear();
            }
        }
    }
    each(&texts);
    Ok(())
}

/// The ids of each text; behind them, those of texts with control tokens once more, with the control tokens as such.
fn encode(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Vec<u32>> {
    let controls = |text: &&String| tokenizer.added_tokens().iter().any(|t| t.special && !t.content.is_empty() && text.contains(&t.content));
    let mut ids = tokenizer.encode_batch(texts);
    ids.extend(texts.iter().filter(controls).map(|text| tokenizer.encode_with_special(text)));
    ids
}
