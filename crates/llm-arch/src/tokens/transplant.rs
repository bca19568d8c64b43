//! Another tokenizer for a model: which row each of its tokens gets.
//!
//! A token that both tokenizers have, told by its bytes, keeps its row wherever its id is; so do tokens with the same part (begin, end,
//! padding). The row of any other token is made: of the rows of the pieces that the old tokenizer cuts its text into (Hewitt 2021; the
//! rule of `tokens extend`), or, for control tokens, whose text says nothing, a draw around the mean of the old rows as transformers'
//! `mean_resizing` does it.

use super::rows::{Row, RowInit, Tables};
use super::{ModelFolder, Sizes};
use crate::{Decoder, DecoderConfig, Error, Result};
use llm_run::Seed;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Rows of tokens that the old tokenizer does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Such tokens are an error.
    #[default]
    Error,
    /// The mean of the rows of the old tokenizer's pieces; control tokens as with `mean`.
    Subtokens,
    /// Draws around the mean of the old rows.
    Mean,
}

/// What becomes of the tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Tokens of the old and the new tokenizer.
    pub tokens: (usize, usize),
    /// Tokens that keep their row.
    pub carried: usize,
    /// Those of them that have another id now.
    pub moved: usize,
    /// Tokens whose row is the mean of the rows of pieces.
    pub split: usize,
    /// Tokens whose row is drawn.
    pub drawn: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tokens: (old, new), carried, moved, split, drawn } = self;
        write!(f, "tokens {old} -> {new}: {carried} carried over ({moved} with another id), {split} made of pieces, {drawn} drawn")
    }
}

/// A row for each token of a tokenizer.
#[derive(Debug, Clone)]
pub struct Transplant {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What becomes of its tokens.
    pub counts: Counts,
    plan: Vec<Row>,
    /// The new id of each old token that lives on.
    ids: HashMap<u32, u32>,
}

impl Transplant {
    /// Match the tokens of two tokenizers. `seed` is that of drawn rows.
    pub fn new(old: &Tokenizer, new: &Tokenizer, resize: Resize, seed: Seed) -> Self {
        let vocabulary = Vocabulary::of(old);
        let mut counts = Counts { tokens: (old.vocab_size(), new.vocab_size()), ..Counts::default() };
        let (mut plan, mut ids) = (Vec::with_capacity(new.vocab_size()), HashMap::new());
        let added: HashSet<u32> = new.added_tokens().iter().map(|token| token.id).collect();
        for id in 0..new.vocab_size() as u32 {
            let Some(bytes) = new.token_bytes(id) else {
                plan.push(Row::Filled);
                continue;
            };
            if let Some(kept) = vocabulary.counterpart(new, id, bytes, added.contains(&id)) {
                counts.carried += 1;
                counts.moved += usize::from(kept != id);
                ids.entry(kept).or_insert(id);
                plan.push(Row::Kept(kept));
                continue;
            }
            let pieces = if resize == Resize::Subtokens && !new.is_special(id) { vocabulary.pieces(bytes) } else { Vec::new() };
            if pieces.is_empty() {
                counts.drawn += 1;
                plan.push(Row::Drawn(seed));
            } else {
                counts.split += 1;
                plan.push(Row::Made(pieces));
            }
        }
        Self { tokenizer: new.clone(), counts, plan, ids }
    }

    /// True if every id stands for what it stood for.
    pub fn is_identity(&self) -> bool {
        let Counts { tokens, moved, split, drawn, .. } = self.counts;
        tokens.0 == tokens.1 && moved + split + drawn == 0
    }

    /// With [`Resize::Error`], tokens without a row as an error that names some of them.
    pub fn require(&self, resize: Resize, model: &Path) -> Result<()> {
        let missing: Vec<String> = (0..).zip(&self.plan).filter(|(_, row)| matches!(row, Row::Drawn(_))).map(|(id, _)| self.shown(id)).collect();
        if resize != Resize::Error || missing.is_empty() {
            return Ok(());
        }
        let some = missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let problem = format!("{} tokens have no row, e.g. {some}; resize = \"subtokens\" makes rows of the pieces they are cut into", missing.len());
        Err(Error::Vocabulary { path: model.to_path_buf(), problems: vec![problem] })
    }

    fn shown(&self, id: u32) -> String {
        format!("{:?}", String::from_utf8_lossy(self.tokenizer.token_bytes(id).unwrap_or_default()))
    }

    /// The id that takes the place of `id` in a field of this name.
    pub(super) fn renamed(&self, field: &str, id: u32) -> Option<u32> {
        let part = match field {
            "bos_token_id" => self.tokenizer.bos_id(),
            "pad_token_id" => self.tokenizer.pad_id(),
            _ => None,
        };
        let end = || self.tokenizer.eos_id().filter(|_| field == "eos_token_id");
        part.or_else(|| self.ids.get(&id).copied()).or_else(end)
    }

    /// The configuration of a model with the new tokens: ids are the tokenizer's, rows a multiple of `pad_to_multiple`.
    pub fn config(&self, old: &DecoderConfig, pad_to_multiple: usize) -> DecoderConfig {
        let part = |ours: Option<u32>, field: &str, id: Option<u32>| ours.or_else(|| self.renamed(field, id?));
        let mut ends: Vec<u32> = old.eos_token_id.iter().filter_map(|&id| self.renamed("eos_token_id", id)).collect();
        ends.extend(self.tokenizer.eos_id());
        let mut known = HashSet::new();
        ends.retain(|id| known.insert(*id));
        DecoderConfig {
            vocab_size: self.plan.len().next_multiple_of(pad_to_multiple.max(1)),
            bos_token_id: part(self.tokenizer.bos_id(), "bos_token_id", old.bos_token_id),
            pad_token_id: part(self.tokenizer.pad_id(), "pad_token_id", old.pad_token_id),
            eos_token_id: ends,
            ..old.clone()
        }
    }
}

impl ModelFolder {
    /// Write the model with another tokenizer. Ids in the configuration get their new numbers; one without any is an error.
    pub fn transplant(&self, transplant: &Transplant, pad_to_multiple: usize, out: &Path) -> Result<Sizes> {
        self.renamable(transplant)?;
        let tables = self.tables_for(transplant, transplant.plan.len().next_multiple_of(pad_to_multiple.max(1)));
        self.write(out, &transplant.tokenizer, tables, &|field, id| transplant.renamed(field, id))
    }

    /// The model with another tokenizer in memory, all dense. `config` is that of [`Transplant::config`], or one that says more about training.
    pub fn load(&self, transplant: &Transplant, config: &DecoderConfig, device: &Device, precision: Precision) -> Result<Decoder> {
        self.build(config, device, precision, &self.tables_for(transplant, config.vocab_size))
    }

    fn tables_for(&self, transplant: &Transplant, rows: usize) -> Tables {
        Tables { averaged: self.token_rows(), ..Tables::of(transplant.plan.clone(), rows, RowInit::Mean) }
    }
}

/// The old tokens by what they stand for.
struct Vocabulary<'a> {
    tokenizer: &'a Tokenizer,
    /// Control tokens apart from others, as they do not mean their text. The lowest of several ids.
    by_bytes: HashMap<(bool, &'a [u8]), u32>,
    longest: usize,
}

impl<'a> Vocabulary<'a> {
    fn of(tokenizer: &'a Tokenizer) -> Self {
        let (mut by_bytes, mut longest) = (HashMap::new(), 0);
        for id in 0..tokenizer.vocab_size() as u32 {
            if let Some(bytes) = tokenizer.token_bytes(id).filter(|bytes| !bytes.is_empty()) {
                by_bytes.entry((tokenizer.is_special(id), bytes)).or_insert(id);
                longest = longest.max(bytes.len());
            }
        }
        Self { tokenizer, by_bytes, longest }
    }

    /// The old token that is the new token `id`: by its bytes; as an added token of the same text whatever its kind; or with the same part.
    fn counterpart(&self, new: &Tokenizer, id: u32, bytes: &[u8], added: bool) -> Option<u32> {
        let old = self.tokenizer;
        let text = || std::str::from_utf8(bytes).ok().filter(|_| added).and_then(|text| old.special_id(text));
        let part = || {
            let parts = [(new.eos_id(), old.eos_id()), (new.bos_id(), old.bos_id()), (new.pad_id(), old.pad_id())];
            parts.into_iter().find(|(new, _)| *new == Some(id)).and_then(|(_, old)| old)
        };
        self.by_bytes.get(&(new.is_special(id), bytes)).copied().or_else(text).or_else(part)
    }

    /// The ids that these bytes are cut into. Where encoding adds something (the blank that SentencePiece puts before a text) or cannot
    /// be asked (half characters), the longest tokens from the left.
    fn pieces(&self, bytes: &[u8]) -> Vec<u32> {
        let same = |ids: &Vec<u32>| ids.iter().flat_map(|&id| self.tokenizer.token_bytes(id).unwrap_or_default()).eq(bytes);
        let encoded = std::str::from_utf8(bytes).ok().and_then(|text| {
            let candidates = [Some(text), text.strip_prefix(' ')];
            candidates.into_iter().flatten().map(|text| self.tokenizer.encode(text)).find(same)
        });
        encoded.unwrap_or_else(|| self.longest_from_left(bytes))
    }

    fn longest_from_left(&self, mut bytes: &[u8]) -> Vec<u32> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let mut lengths = (1..=self.longest.min(bytes.len())).rev();
            let found = lengths.find_map(|n| Some((n, *self.by_bytes.get(&(false, &bytes[..n]))?)));
            let Some((n, id)) = found else {
                // A byte that no token has says nothing; the others do.
                bytes = &bytes[1..];
                continue;
            };
            pieces.push(id);
            bytes = &bytes[n..];
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tokenizer::trainer::{TrainerConfig, train};

    const TEXT: &str = "the cat sat on the mat and the dog sat on the log. wie viel ist drei mal vier? what is two plus three? the answer";

    fn trained(vocab_size: usize, special: &[&str]) -> Tokenizer {
        let mut config = TrainerConfig { vocab_size, ..TrainerConfig::default() };
        config.special_tokens.extend(special.iter().map(|token| token.to_string()));
        train([TEXT, TEXT], &config).unwrap()
    }

    /// If this fails, a token of one tokenizer gets the row of another token.
    #[test]
    fn tokens_are_told_by_their_bytes_whatever_their_ids() {
        let (old, new) = (trained(300, &[]), trained(330, &["<tool>"]));
        let transplant = Transplant::new(&old, &new, Resize::Subtokens, Seed(0));
        let Counts { tokens, carried, moved, split, drawn } = transplant.counts.clone();
        let size = new.vocab_size();
        assert_eq!((tokens, carried + split + drawn), ((300, size), size));
        assert!(drawn == 1 && split > 0 && moved > 0, "{}", transplant.counts);
        for (id, row) in (0..).zip(&transplant.plan) {
            match row {
                Row::Kept(kept) => assert_eq!(new.token_bytes(id), old.token_bytes(*kept)),
                Row::Made(pieces) => {
                    let bytes: Vec<u8> = pieces.iter().flat_map(|&id| old.token_bytes(id).unwrap()).copied().collect();
                    assert!(pieces.len() > 1 && new.token_bytes(id) == Some(&*bytes));
                }
                Row::Drawn(_) => assert_eq!(new.special_id("<tool>"), Some(id)),
                Row::Filled => panic!("{id} has no token"),
            }
        }
        assert!(Transplant::new(&old, &old, Resize::Error, Seed(0)).is_identity());
        assert!(!transplant.is_identity());
        let message = Transplant::new(&old, &new, Resize::Error, Seed(0)).require(Resize::Error, Path::new("m")).unwrap_err().to_string();
        assert!(message.contains(&format!("{} tokens have no row", split + 1)), "{message}");
        // The other way round there is nothing to make.
        let shrunk = Transplant::new(&new, &old, Resize::Error, Seed(0));
        assert_eq!((shrunk.counts.carried, shrunk.counts.drawn), (300, 0));
    }

    /// From pieces to byte-level BPE: the blank before a word is in the piece, and begin and end of text are called differently.
    #[test]
    fn a_sentencepiece_vocabulary_becomes_a_byte_level_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/sentencepiece_bpe/tokenizer.model");
        let (old, new) = (Tokenizer::load(path).unwrap(), trained(330, &[]));
        let transplant = Transplant::new(&old, &new, Resize::Subtokens, Seed(0));
        let row = |id: Option<u32>| transplant.plan[id.unwrap() as usize].clone();
        assert_eq!(row(new.bos_id()), Row::Kept(old.bos_id().unwrap()));
        assert_eq!(row(new.eos_id()), Row::Kept(old.eos_id().unwrap()));
        for (id, row) in (0..).zip(&transplant.plan).filter(|(id, _)| !new.is_special(*id)) {
            let joined = |ids: &[u32]| ids.iter().flat_map(|&id| old.token_bytes(id).unwrap()).copied().collect::<Vec<u8>>();
            match row {
                Row::Kept(kept) => assert_eq!(new.token_bytes(id), old.token_bytes(*kept)),
                Row::Made(pieces) => assert!(joined(pieces).len() <= new.token_bytes(id).unwrap().len()),
                _ => {}
            }
        }
        assert!(transplant.counts.carried > 40, "{}", transplant.counts);
    }

    #[test]
    fn ids_of_the_configuration_are_the_tokenizers() {
        let (old, new) = (trained(300, &[]), trained(330, &[]));
        let before = DecoderConfig {
            vocab_size: 384,
            bos_token_id: old.bos_id(),
            eos_token_id: vec![old.special_id("<|eot_id|>").unwrap(), old.eos_id().unwrap()],
            pad_token_id: None,
            ..DecoderConfig::default()
        };
        let after = Transplant::new(&old, &new, Resize::Subtokens, Seed(0)).config(&before, 64);
        assert_eq!((after.vocab_size, after.bos_token_id, after.pad_token_id), (new.vocab_size().next_multiple_of(64), new.bos_id(), new.pad_id()));
        assert_eq!(after.eos_token_id, [new.special_id("<|eot_id|>").unwrap(), new.eos_id().unwrap()]);
    }
}
