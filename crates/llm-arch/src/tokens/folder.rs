//! A model folder, read without its weights and written again with other vocabulary tables.

use super::rows::{self, Maker, Row, RowInit, Tables};
use super::transplant::Transplant;
use super::{check, ids};
use crate::hf::{self, Checkpoint};
use crate::{Decoder, DecoderConfig, Error, Result};
use llm_run::atomic::{self, AtomicDir};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::surgery::{Grown, Pruned};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Tables have a multiple of so many rows unless told otherwise, as matrix kernels like it.
pub const ROUND: usize = 64;

/// From the name of a field and the id in it to its new id; none leaves it.
pub(super) type Renamed<'a> = &'a dyn Fn(&str, u32) -> Option<u32>;

/// A model and its tokenizer.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    checkpoint: Checkpoint,
    config: Value,
    generation: Option<Value>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
}

/// How new tables are made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Values of new rows.
    pub init: RowInit,
    /// Round the number of rows up to a multiple of this. None: 64, but a table that has room enough keeps its size.
    pub pad_to_multiple: Option<usize>,
}

/// Before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Ids of the tokenizer.
    pub tokens: (usize, usize),
    /// Rows of the tables.
    pub rows: (usize, usize),
    /// Rows that are neither old nor a token's.
    pub filled: usize,
}

impl ModelFolder {
    /// Read configuration, headers and tokenizer, and see that they fit each other.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let checkpoint = Checkpoint::open(&dir)?;
        let tokenizer = Tokenizer::load(&dir)?;
        let problems: Vec<String> = check::rows(&checkpoint.config, &tokenizer).into_iter().collect();
        if !problems.is_empty() {
            return Err(Error::Vocabulary { path: dir, problems });
        }
        let generation = check::read(&dir.join("generation_config.json"))?;
        Ok(Self { config: hf::config_value(&dir)?, generation, checkpoint, tokenizer, dir })
    }

    /// The configuration.
    pub fn decoder_config(&self) -> &DecoderConfig {
        &self.checkpoint.config
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Whether the output projection is the embedding table.
    pub fn tied(&self) -> bool {
        self.checkpoint.config.tie_word_embeddings
    }

    /// Rows of the vocabulary tables.
    pub fn rows(&self) -> usize {
        self.checkpoint.config.vocab_size
    }

    /// The input and the output table, row-major, and the width of both; the output is none where it is tied.
    pub fn tables(&self) -> Result<(Vec<f32>, Option<Vec<f32>>, usize)> {
        let weights = self.checkpoint.weights();
        let values = |parameter: &str| -> Result<Vec<f32>> { Ok(weights.get(self.tensor(parameter)?)?.values) };
        let output = if self.tied() { None } else { Some(values("lm_head.weight")?) };
        Ok((values("model.embed_tokens.weight")?, output, self.checkpoint.config.hidden_size))
    }

    fn tensor(&self, parameter: &str) -> Result<&str> {
        self.checkpoint.tensor_of(parameter).ok_or_else(|| Error::File {
            path: self.dir.clone(),
            message: format!("`{parameter}` is quantised, so its rows cannot be read one by one; start from the model before quantisation"),
        })
    }

    /// The ids that `config.json` and `generation_config.json` name: they must survive pruning.
    pub fn named_ids(&self) -> Result<Vec<u32>> {
        let mut named = Vec::new();
        for (file, value) in [("config.json", Some(&self.config)), ("generation_config.json", self.generation.as_ref())] {
            for (field, id) in value.map(ids::list).unwrap_or_default() {
                match u32::try_from(id).ok().filter(|&id| self.tokenizer.token_bytes(id).is_some()) {
                    Some(id) => named.push(id),
                    None => {
                        let message = format!("`{field}` = {id} is no token, so it cannot get a new id; correct or remove it");
                        return Err(Error::File { path: self.dir.join(file), message });
                    }
                }
            }
        }
        Ok(named)
    }

    /// Write the model with the tokenizer that grew out of its own. Every row from the old tokenizer's length on is made anew, also where
    /// the model has rows there already: they padded its tables and no text ever trained them.
    pub fn grow(&self, grown: &Grown, settings: &Settings, out: &Path) -> Result<Sizes> {
        let old = self.tokenizer.vocab_size();
        let mut plan: Vec<Row> = (0..old as u32).map(Row::Kept).collect();
        plan.extend(grown.made.iter().map(|made| Row::Made(made.pieces.clone())));
        let tokens = plan.len();
        let rows = match settings.pad_to_multiple {
            None if tokens <= self.rows() => self.rows(),
            multiple => tokens.max(self.rows()).next_multiple_of(multiple.unwrap_or(ROUND).max(1)),
        };
        self.write(out, &grown.tokenizer, Tables::of(plan, rows, settings.init), &|_, id| Some(id))
    }

    /// Write the model with its pruned tokenizer; ids in the configuration get their new numbers.
    pub fn prune(&self, pruned: &Pruned, settings: &Settings, out: &Path) -> Result<Sizes> {
        let plan: Vec<Row> = pruned.old_ids.iter().copied().map(Row::Kept).collect();
        let rows = plan.len().next_multiple_of(settings.pad_to_multiple.unwrap_or(ROUND).max(1));
        let renamed = |_: &str, id: u32| pruned.old_ids.iter().position(|&old| old == id).map(|new| new as u32);
        self.write(out, &pruned.tokenizer, Tables::of(plan, rows, settings.init), &renamed)
    }

    pub(super) fn write(&self, out: &Path, tokenizer: &Tokenizer, tables: Tables, renamed: Renamed) -> Result<Sizes> {
        if out.exists() {
            return Err(Error::File { path: out.to_path_buf(), message: "exists already; choose a new folder".into() });
        }
        let (tokens, rows) = ((self.tokenizer.vocab_size(), tokenizer.vocab_size()), tables.plan.len());
        let weights = self.checkpoint.weights();
        let mut changed = HashMap::new();
        for name in self.table_names()? {
            changed.insert(name.clone(), Some(rows::table(weights, &name, &tables)?));
        }
        if self.tied() {
            // Copies of the tied table, which loaders ignore.
            let copies = ["lm_head.weight", "embed_out.weight"].into_iter().filter(|name| weights.contains(name));
            changed.extend(copies.map(|name| (name.to_string(), None)));
        }
        let folder = AtomicDir::create(out)?;
        weights.rewrite(folder.path(), &changed)?;
        let (mut config, mut generation) = (self.config.clone(), self.generation.clone());
        let renumber = |field: &str, id: &mut Value| {
            if let Some(new) = id.as_u64().and_then(|id| renamed(field, u32::try_from(id).ok()?)) {
                *id = new.into();
            }
        };
        ids::each(&mut config, renumber);
        generation.iter_mut().for_each(|generation| ids::each(generation, renumber));
        config["vocab_size"] = rows.into();
        config[check::HASH_FIELD] = tokenizer.vocabulary_hash().into();
        atomic::write(folder.path().join("config.json"), format!("{config:#}\n"))?;
        if let Some(generation) = generation {
            atomic::write(folder.path().join("generation_config.json"), format!("{generation:#}\n"))?;
        }
        tokenizer.save(folder.path())?;
        let license = self.dir.join("LICENSE");
        if license.is_file() {
            let bytes = std::fs::read(&license).map_err(|e| Error::File { path: license, message: format!("cannot read: {e}") })?;
            atomic::write(folder.path().join("LICENSE"), bytes)?;
        }
        folder.commit()?;
        Ok(Sizes { tokens, rows: (self.rows(), rows), filled: rows - tokens.1 })
    }

    /// Old rows that a token has.
    pub(super) fn token_rows(&self) -> Vec<u32> {
        (0..self.tokenizer.vocab_size() as u32).filter(|&id| self.tokenizer.token_bytes(id).is_some()).collect()
    }

    /// Every id that the configuration names must have a new one.
    pub(super) fn renamable(&self, transplant: &Transplant) -> Result<()> {
        for (field, id) in self.named_ids_by_field() {
            if u32::try_from(id).ok().and_then(|id| transplant.renamed(&field, id)).is_none() {
                let message =
                    format!("`{field}` names the token {id}, which the new tokenizer does not have; add the token there or remove the field");
                return Err(Error::File { path: self.dir.clone(), message });
            }
        }
        Ok(())
    }

    fn named_ids_by_field(&self) -> Vec<(String, u64)> {
        [Some(&self.config), self.generation.as_ref()].into_iter().flatten().flat_map(ids::list).collect()
    }

    /// The decoder in memory, dense, with other vocabulary tables.
    pub(super) fn build(&self, config: &DecoderConfig, device: &Device, precision: Precision, tables: &Tables) -> Result<Decoder> {
        let width = self.checkpoint.config.hidden_size;
        Decoder::build(config, device, precision, &mut |name, shape| {
            if name != "model.embed_tokens.weight" && name != "lm_head.weight" {
                return self.checkpoint.parameter(name, shape);
            }
            let values = self.checkpoint.parameter(name, &[self.rows(), width])?;
            let maker = Maker::new(name, &values, width, tables);
            Ok(tables.plan.iter().enumerate().flat_map(|(id, row)| maker.row(id, row)).collect())
        })
    }

    /// Every tensor with a row per token: the tables, and those of layers for multi-token prediction, which are not loaded here.
    fn table_names(&self) -> Result<Vec<String>> {
        let mut names = vec![self.tensor("model.embed_tokens.weight")?.to_string()];
        if !self.tied() {
            names.push(self.tensor("lm_head.weight")?.to_string());
        }
        let weights = self.checkpoint.weights();
        let shape = [self.rows(), self.checkpoint.config.hidden_size];
        for name in weights.names() {
            let table = name.ends_with(".embed_tokens.weight") || name.ends_with(".shared_head.head.weight");
            if table && weights.shape(name) == Some(&shape) && !names.iter().any(|known| known == name) {
                names.push(name.to_string());
            }
        }
        Ok(names)
    }
}
