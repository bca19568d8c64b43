//! Documents to training rows: tokenise, shuffle, join, cut.
//!
//! Documents are visited in a shuffled order that the seed names, written one after the other as
//! `<|begin_of_text|>` ids `<|end_of_text|>`, and cut into rows of `sequence_length + 1` ids. Consecutive rows share one
//! id (the last target of a row is the first input of the next), so every id but the very first is a target exactly once
//! and `target_bytes` of all rows add up to the bytes of the text. A long document goes on in the next row; then
//! `document_starts[0] = 0` marks a continuation. What does not fill the last row is dropped and counted.
//!
//! With `packing = "best_fit"` rows hold whole documents instead ([Ding et al. 2024](https://arxiv.org/abs/2404.10830)): only
//! documents longer than a row are cut, their parts named `ID#part1` and so on, and what no document fills is padding. A padding
//! token is a document of its own with an empty id: a trainer that asks nothing of the token before a document's start asks
//! nothing of padding.
//!
//! Each document of a row has its domain (or source, `label_by`) and language beside its id, so that losses can be told apart.
//!
//! The order is random access into a corpus that need not fit into memory: ids are first spilled in reading order to a
//! temporary file, with one small index entry per document, and then read back in shuffled order. Tokenisation runs on all
//! threads in batches whose results keep their order, so the bytes do not depend on the number of threads.
//!
//! | module | job |
//! |---|---|
//! | `config` | settings |
//! | `spill` | ids on disk while their order is decided |
//! | `cutter` | rows of joined documents |
//! | `best_fit` | rows of whole documents |

mod best_fit;
mod config;
mod cutter;
mod spill;

pub use config::{Extra, Form, LabelBy, PackConfig, Packing};

use crate::document::{self, Document, DocumentReader};
use crate::error::{Error, Result, check_interrupt};
use crate::exercises::{self, Exercise};
use crate::fim::{self, Piece};
use crate::shards::{Label, NewRow, ShardInfo, ShardWriter};
use cutter::Cutter;
use llm_run::{Progress, Seed};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use spill::Spill;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What packing did, for the manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PackSummary {
    /// Documents that gave at least one token to a row, extra documents included.
    pub documents: u64,
    /// UTF-8 bytes of their text.
    pub text_bytes: u64,
    /// Tokens written, begin and end marks included; shared ids of neighbouring rows count once.
    pub tokens: u64,
    /// Tokens of the last, unfinished row.
    pub dropped_tokens: u64,
    /// Rows written.
    pub rows: u64,
    /// Chunks transformed to fill-in-the-middle, in all documents read.
    pub fim_chunks: u64,
    /// Tokens of padding, with `best_fit`.
    #[serde(default)]
    pub padding_tokens: u64,
    /// Padding among all tokens of the rows.
    #[serde(default)]
    pub padding_share: f64,
    /// Documents that lie in more than one row.
    #[serde(default)]
    pub truncated_documents: u64,
    /// Those of them that would have fitted into one.
    #[serde(default)]
    pub needlessly_truncated: u64,
    /// Tokens by domain of the documents used; extra files under `exercise`.
    pub tokens_by_domain: BTreeMap<String, u64>,
}

/// Pack `config.train` to `<out>/train` and `config.heldout` to `<out>/heldout`.
pub fn pack(config: &PackConfig, out: &Path) -> Result<BTreeMap<&'static str, PackSummary>> {
    config.validate()?;
    let tokenizer = Tokenizer::load(&config.tokenizer).map_err(|e| Error::Config(format!("tokenizer: {e}")))?;
    let info =
        ShardInfo { sequence_length: config.sequence_length, vocab_size: tokenizer.vocab_size(), tokenizer: llm_run::hash::path(&config.tokenizer)? };
    let packer = Packer { config, tokenizer: Marked::new(tokenizer, config)?, info, out };
    let mut summaries = BTreeMap::from([("train", packer.set("train", &config.train)?)]);
    if let Some(heldout) = &config.heldout {
        summaries.insert("heldout", packer.set("heldout", heldout)?);
    }
    Ok(summaries)
}

/// Bytes of text that each id stands for, 0 for control tokens: what `target_bytes` adds up.
pub fn byte_lengths(tokenizer: &Tokenizer) -> Vec<u32> {
    let length = |id| if tokenizer.is_special(id) { 0 } else { tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len() as u32) };
    (0..tokenizer.vocab_size() as u32).map(length).collect()
}

/// The tokenizer with the marks that packing needs.
struct Marked {
    tokenizer: Tokenizer,
    bos: u32,
    eos: u32,
    /// Bytes of text each id stands for, 0 for control tokens.
    bytes: Vec<u32>,
}

impl Marked {
    fn new(tokenizer: Tokenizer, config: &PackConfig) -> Result<Self> {
        let missing = |what: &str| Error::Config(format!("the tokenizer {} has no {what}", config.tokenizer.display()));
        let bos = tokenizer.bos_id().ok_or_else(|| missing("begin-of-text token, which starts every document"))?;
        let eos = tokenizer.eos_id().ok_or_else(|| missing("end-of-text token, which ends every document"))?;
        if config.fim_rate > 0.0 {
            for token in [fim::PREFIX, fim::MIDDLE, fim::SUFFIX] {
                tokenizer.special_id(token).ok_or_else(|| missing(&format!("{token} token; set fim_rate = 0")))?;
            }
        }
        if !config.fim_separator.is_empty() && tokenizer.special_id(&config.fim_separator).is_none() {
            return Err(missing(&format!("{} token; add it, or leave fim_separator empty", config.fim_separator)));
        }
        let bytes = byte_lengths(&tokenizer);
        Ok(Self { tokenizer, bos, eos, bytes })
    }

    fn bytes_of(&self, ids: &[u32]) -> u32 {
        ids.iter().map(|id| self.bytes.get(*id as usize).copied().unwrap_or(0)).sum()
    }
}

struct Packer<'a> {
    config: &'a PackConfig,
    tokenizer: Marked,
    info: ShardInfo,
    out: &'a Path,
}

impl Packer<'_> {
    fn set(&self, name: &'static str, input: &Path) -> Result<PackSummary> {
        let train = name == "train";
        let seed = Seed(self.config.seed).stream(name);
        let mut summary = PackSummary::default();
        let mut spill = Spill::create(self.out, self.config.label_by)?;
        let mut order = self.tokenise(name, input, train, &mut spill, &mut summary)?;
        seed.stream("order").rng().shuffle(&mut order);
        if train {
            let shares: f64 = self.config.extra.iter().map(|e| e.share).sum();
            if self.config.max_tokens > 0 {
                truncate(&mut order, &spill, (self.config.max_tokens as f64 * (1.0 - shares)) as u64);
            }
            let own: u64 = order.iter().map(|i| spill.entries[*i].len).sum();
            for (number, extra) in self.config.extra.iter().enumerate() {
                let wanted = (own as f64 * extra.share / (1.0 - shares)) as u64;
                let more = self.extra(extra, number, wanted, &mut spill)?;
                order.extend(more);
            }
            seed.stream("mixed order").rng().shuffle(&mut order);
        }
        match self.config.packing {
            Packing::Concatenate => self.write(name, &order, &mut spill, &mut summary)?,
            Packing::BestFit => self.write_best_fit(name, &order, seed, &mut spill, &mut summary)?,
        }
        Ok(summary)
    }

    /// Ids of all documents, spilled in reading order.
    fn tokenise(&self, name: &str, input: &Path, train: bool, spill: &mut Spill, summary: &mut PackSummary) -> Result<Vec<usize>> {
        let mut progress = Progress::new(&format!("tokenise {name}"), document::count(input)?, "documents");
        let rates = fim::Rates {
            document: if train { self.config.fim_rate } else { 0.0 },
            fragment: self.config.fim_fragment_rate,
            spm: self.config.fim_spm_rate,
        };
        // About a row of code: three bytes a token.
        let chunk_bytes = match self.config.fim_level {
            fim::Level::Context => self.config.sequence_length * 3,
            fim::Level::Document => usize::MAX,
        };
        let seed = Seed(self.config.seed).stream("fim");
        for batch in DocumentReader::open(input)? {
            check_interrupt()?;
            let batch = batch?;
            let pieces: Vec<Vec<Piece<'_>>> = batch
                .iter()
                .map(|d| {
                    if d.is_code() {
                        return fim::transform_fragments(&d.text, &self.config.fim_separator, rates, chunk_bytes, &mut seed.stream(&d.id).rng());
                    }
                    Some(d.text.as_str()).filter(|text| !text.is_empty()).map(Piece::Text).into_iter().collect()
                })
                .collect();
            let texts: Vec<&str> = pieces.iter().flatten().filter_map(|p| if let Piece::Text(t) = p { Some(*t) } else { None }).collect();
            let mut encoded = self.tokenizer.tokenizer.encode_batch(&texts).into_iter();
            for (document, pieces) in batch.iter().zip(&pieces) {
                let mut ids = vec![self.tokenizer.bos];
                for piece in pieces {
                    match piece {
                        Piece::Text(_) => ids.extend(encoded.next().unwrap_or_default()),
                        Piece::Token(token) => {
                            summary.fim_chunks += u64::from(*token == fim::PREFIX);
                            ids.extend(self.tokenizer.tokenizer.special_id(token));
                        }
                    }
                }
                ids.push(self.tokenizer.eos);
                spill.push(&ids, document)?;
            }
            progress.inc(batch.len() as u64);
        }
        progress.finish(format!("{} documents", spill.entries.len()));
        Ok((0..spill.entries.len()).collect())
    }

    /// Entries of an exercise file, repeated until they hold `wanted` tokens.
    fn extra(&self, extra: &Extra, number: usize, wanted: u64, spill: &mut Spill) -> Result<Vec<usize>> {
        let rows = exercises::read(&extra.path)?;
        if rows.is_empty() && wanted > 0 {
            return Err(Error::Empty(format!("{}: no exercises to mix in; write them with `llm-data exercises`", extra.path.display())));
        }
        let first = spill.entries.len();
        for row in &rows {
            let (ids, text) = self.exercise(row, extra)?;
            let document = Document { id: format!("exercises/{}", row.id), domain: "exercise".into(), text, ..Document::default() };
            spill.push(&ids, &document)?;
        }
        let mut entries = Vec::new();
        let (mut tokens, mut epoch) = (0, 0);
        while tokens < wanted {
            let mut order: Vec<usize> = (first..spill.entries.len()).collect();
            Seed(self.config.seed).stream("extra").at(number as u64).at(epoch).rng().shuffle(&mut order);
            for entry in order {
                if tokens >= wanted {
                    break;
                }
                tokens += spill.entries[entry].len;
                entries.push(entry);
            }
            epoch += 1;
        }
        Ok(entries)
    }

    fn exercise(&self, row: &Exercise, extra: &Extra) -> Result<(Vec<u32>, String)> {
        let Marked { tokenizer, bos, eos, .. } = &self.tokenizer;
        match extra.form {
            Form::Text => {
                let text = format!("{}\n{}\n{}\n", row.prompt(), row.reasoning(), row.answer);
                let mut ids = vec![*bos];
                ids.extend(tokenizer.encode(&text));
                ids.push(*eos);
                Ok((ids, text))
            }
            Form::Chat => {
                let mut ids = tokenizer.chat_ids(&row.messages, false).map_err(|e| Error::Config(format!("{}: {e}", extra.path.display())))?;
                if ids.first() != Some(bos) {
                    ids.insert(0, *bos);
                }
                if ids.last() != Some(eos) {
                    ids.push(*eos);
                }
                let text = tokenizer.decode(&ids, true);
                Ok((ids, text))
            }
        }
    }

    /// Cut the documents in this order into rows.
    fn write(&self, name: &'static str, order: &[usize], spill: &mut Spill, summary: &mut PackSummary) -> Result<()> {
        let total: u64 = order.iter().map(|i| spill.entries[*i].len).sum();
        let length = self.config.sequence_length;
        if total < length as u64 + 1 {
            return Err(Error::Empty(format!(
                "{name}: {} documents hold {total} tokens, fewer than one row of {}; give more documents or lower sequence_length",
                order.len(),
                length + 1
            )));
        }
        let writer = ShardWriter::create(&self.out.join(name), self.info.clone(), self.config.rows_per_shard)?;
        let mut writer = writer.with_labels(spill.labels.clone())?;
        let mut progress = Progress::new(&format!("pack {name}"), total, "tokens");
        let mut cutter = Cutter::new(length);
        let mut ids = Vec::new();
        for (visited, index) in order.iter().enumerate() {
            if visited % 256 == 0 {
                check_interrupt()?;
            }
            spill.read(*index, &mut ids)?;
            let entry = &spill.entries[*index];
            let rows_before = cutter.rows;
            cutter.push(&ids, &entry.id, entry.label, |mut row| {
                row.target_bytes = self.tokenizer.bytes_of(&row.tokens[1..]);
                writer.push(row)
            })?;
            // A row that ends with the document's last token does not cut it.
            if cutter.rows - rows_before > usize::from(cutter.tokens.len() == 1) {
                summary.truncated_documents += 1;
                summary.needlessly_truncated += u64::from(ids.len() <= length + 1);
            }
            summary.documents += 1;
            summary.text_bytes += entry.text_bytes;
            *summary.tokens_by_domain.entry(spill.domains[entry.domain].clone()).or_default() += entry.len;
            progress.inc(ids.len() as u64);
        }
        summary.rows = writer.rows as u64;
        summary.dropped_tokens = cutter.unwritten() as u64;
        summary.tokens = total - summary.dropped_tokens;
        writer.finish()?;
        progress.finish(format!("{} rows of {length} targets", summary.rows));
        Ok(())
    }
}

impl Packer<'_> {
    /// Whole documents into rows, each where it leaves least room.
    fn write_best_fit(&self, name: &'static str, order: &[usize], seed: Seed, spill: &mut Spill, summary: &mut PackSummary) -> Result<()> {
        let length = self.config.sequence_length + 1;
        let capacity = length as u32;
        let pieces = best_fit::pieces(order.iter().map(|i| spill.entries[*i].len), capacity);
        let parts = |document: u32| spill.entries[order[document as usize]].len > length as u64;
        summary.truncated_documents = pieces.iter().filter(|p| p.part == 1).count() as u64;
        let mut rows = best_fit::pack(&pieces, capacity);
        if rows.is_empty() {
            return Err(Error::Empty(format!("{name}: no document to pack")));
        }
        let long: Vec<bool> = (0..order.len() as u32).map(parts).collect();
        // The longest documents were placed first; training must not see them first.
        seed.stream("rows").rng().shuffle(&mut rows);
        let pad = self.tokenizer.tokenizer.pad_id().unwrap_or(self.tokenizer.eos);
        let writer = ShardWriter::create(&self.out.join(name), self.info.clone(), self.config.rows_per_shard)?;
        let mut writer = writer.with_packing(Packing::BestFit.name()).with_labels(spill.labels.clone())?;
        let mut progress = Progress::new(&format!("pack {name}"), rows.len() as u64, "rows");
        let (mut ids, mut words) = (Vec::new(), seed.stream("within rows").rng());
        let empty: Arc<str> = Arc::from("");
        for (number, mut row) in rows.into_iter().enumerate() {
            if number % 256 == 0 {
                check_interrupt()?;
            }
            words.shuffle(&mut row);
            let mut new = NewRow { tokens: Vec::with_capacity(length), ..NewRow::default() };
            for piece in row {
                let entry = &spill.entries[order[piece.document as usize]];
                new.document_starts.push(new.tokens.len() as u32);
                new.document_labels.push(entry.label);
                new.document_ids.push(if long[piece.document as usize] {
                    Arc::from(format!("{}#part{}", entry.id, piece.part))
                } else {
                    entry.id.clone()
                });
                spill.read(order[piece.document as usize], &mut ids)?;
                let piece_ids = &ids[piece.start as usize..piece.start as usize + piece.len as usize];
                new.target_bytes += self.tokenizer.bytes_of(&piece_ids[1..]);
                new.tokens.extend_from_slice(piece_ids);
                summary.tokens += u64::from(piece.len) - u64::from(piece.part > 0);
            }
            summary.padding_tokens += (length - new.tokens.len()) as u64;
            while new.tokens.len() < length {
                new.document_starts.push(new.tokens.len() as u32);
                new.document_ids.push(empty.clone());
                new.document_labels.push(Label::default());
                new.tokens.push(pad);
            }
            writer.push(new)?;
            progress.inc(1);
        }
        for index in order {
            let entry = &spill.entries[*index];
            summary.documents += 1;
            summary.text_bytes += entry.text_bytes;
            *summary.tokens_by_domain.entry(spill.domains[entry.domain].clone()).or_default() += entry.len;
        }
        summary.rows = writer.rows as u64;
        summary.padding_share = summary.padding_tokens as f64 / (summary.rows * length as u64) as f64;
        writer.finish()?;
        progress.finish(format!("{} rows of {} targets", summary.rows, length - 1));
        Ok(())
    }
}

/// Keep the head of `order` that reaches `max_tokens`.
fn truncate(order: &mut Vec<usize>, spill: &Spill, max_tokens: u64) {
    let mut tokens = 0;
    let kept = order.iter().take_while(|i| {
        let fits = tokens < max_tokens;
        tokens += spill.entries[**i].len;
        fits
    });
    let kept = kept.count();
    order.truncate(kept);
}
