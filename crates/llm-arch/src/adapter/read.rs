//! An adapter folder against the tensors of a model. Every problem is reported, each with the tensor's name.

use super::{Adapter, AdapterConfig, Change, Delta};
use crate::hf::names::{Source, sources};
use crate::hf::transpose;
use crate::{DecoderConfig, Error, Result};
use llm_tensor::weights::Weights;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The tensors of one module.
#[derive(Default)]
struct Parts {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
}

impl Adapter {
    /// Read a PEFT folder for a model of that configuration.
    pub fn load(dir: impl AsRef<Path>, model: &DecoderConfig) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("adapter_config.json");
        let bad = |message: String| Error::File { path: path.clone(), message };
        let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read the adapter's configuration: {e}")))?;
        let value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        let config = AdapterConfig::from_json(&value).map_err(bad)?;
        let file = dir.join("adapter_model.safetensors");
        if !file.exists() && dir.join("adapter_model.bin").exists() {
            let message = "only adapter_model.bin is there, a Python pickle; save it again with PEFT's safe_serialization".into();
            return Err(Error::File { path: file, message });
        }
        let mut reader = Reader { weights: Weights::open(&file)?, file, config: &config, problems: Vec::new() };
        let changes = reader.changes(model)?;
        let Reader { file, problems, .. } = reader;
        if !problems.is_empty() {
            return Err(Error::Adapter { path: file, problems });
        }
        Ok(Self { dir: dir.to_path_buf(), config, changes })
    }
}

struct Reader<'a> {
    weights: Weights,
    file: PathBuf,
    config: &'a AdapterConfig,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn changes(&mut self, model: &DecoderConfig) -> Result<BTreeMap<String, Vec<Change>>> {
        let sources = sources(model);
        let mut by_name: HashMap<&str, &Source> = HashMap::new();
        for source in &sources {
            by_name.insert(&source.name, source);
            // A model without its head is saved without the first part of the name.
            by_name.entry(source.name.split_once('.').map_or(source.name.as_str(), |(_, rest)| rest)).or_insert(source);
        }
        let mut changes: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        let names: Vec<String> = self.weights.names().into_iter().map(str::to_string).collect();
        for name in names {
            let short = name.strip_prefix("base_model.model.").unwrap_or(&name);
            let module = |suffix: &str| short.strip_suffix(suffix).map(str::to_string);
            if let Some(module) = module(".lora_A.weight") {
                modules.entry(module).or_default().a = Some(name);
            } else if let Some(module) = module(".lora_B.weight") {
                modules.entry(module).or_default().b = Some(name);
            } else if let Some(module) = module(".lora_magnitude_vector").or_else(|| module(".lora_magnitude_vector.weight")) {
                modules.entry(module).or_default().magnitude = Some(name);
            } else if short.contains(".lora_") {
                self.problems.push(format!("`{name}`: adapters of embeddings and biases are not supported"));
            } else if let Some(source) = by_name.get(short.replace(".modules_to_save.", ".").as_str()) {
                self.whole(source, &name, &mut changes)?;
            } else {
                self.problems.push(format!("`{name}` is no tensor of this model"));
            }
        }
        for source in &sources {
            let Some(module) = source.name.strip_suffix(".weight").filter(|_| source.shape.len() == 2) else { continue };
            // Routers and experts may be left out: which of them are modules depends on the version of transformers.
            let expected = self.config.targets(module) && !source.runs.iter().any(|run| run.parameter.contains(".moe."));
            let short = module.split_once('.').map_or(module, |(_, rest)| rest);
            match modules.remove(module).or_else(|| modules.remove(short)) {
                Some(parts) => self.low_rank(source, module, &parts, &mut changes)?,
                None if expected => self.problems.push(format!("`{module}` is a target but has no lora_A and lora_B")),
                None => {}
            }
        }
        self.problems.extend(modules.keys().map(|module| format!("`{module}` is no projection of this model")));
        let saved = |module: &String| changes.keys().any(|name| name.contains(module.as_str()));
        // What a family calls otherwise cannot be looked up; then the file's own tensors were all placed above.
        let missing = self.config.modules_to_save.iter().filter(|module| ["lm_head", "embed_tokens"].contains(&module.as_str()) && !saved(module));
        self.problems.extend(missing.map(|module| format!("`{module}` is in modules_to_save but not in the file")));
        Ok(changes)
    }

    /// The elements of a tensor of that shape; a problem otherwise.
    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let found = self.weights.shape(name).unwrap_or_default();
        if found != shape {
            self.problems.push(format!("`{name}` has shape {found:?}, expected {shape:?}"));
            return Ok(None);
        }
        let values = self.weights.get(name)?.values;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            self.problems.push(format!("`{name}` holds {} at element {at}; the file is damaged or its training diverged", values[at]));
            return Ok(None);
        }
        Ok(Some(values))
    }

    fn whole(&mut self, source: &Source, name: &str, changes: &mut BTreeMap<String, Vec<Change>>) -> Result<()> {
        let Some(mut values) = self.values(name, &source.shape)? else { return Ok(()) };
        if source.transposed {
            values = transpose(&values, source.shape[0], source.shape[1]);
        }
        for (parameter, first_row, rows) in targets(source) {
            let delta = Delta::Whole(gather(source, parameter, first_row, rows, source.width(), &values));
            changes.entry(parameter.to_string()).or_default().push(Change { first_row, rows, delta });
        }
        Ok(())
    }

    fn low_rank(&mut self, source: &Source, module: &str, parts: &Parts, changes: &mut BTreeMap<String, Vec<Change>>) -> Result<()> {
        if !self.config.targets(module) {
            self.problems.push(format!("`{module}` has tensors but is no target of adapter_config.json"));
        }
        let (Some(a), Some(b)) = (&parts.a, &parts.b) else {
            self.problems.push(format!("`{module}` has only one of lora_A and lora_B"));
            return Ok(());
        };
        if self.config.use_dora != parts.magnitude.is_some() {
            let what =
                if self.config.use_dora { "use_dora is set but there is no lora_magnitude_vector" } else { "there is a magnitude without use_dora" };
            self.problems.push(format!("`{module}`: {what}"));
            return Ok(());
        }
        let (rank, scale) = self.config.rank_and_scale(module);
        let inputs = source.width();
        let outputs = source.shape.iter().product::<usize>() / inputs.max(1);
        let magnitude = match &parts.magnitude {
            Some(name) => {
                // Older files keep it as a row or a column.
                let flat = self.weights.shape(name).filter(|shape| shape.iter().product::<usize>() == outputs).map(<[usize]>::to_vec);
                self.values(name, &flat.unwrap_or_else(|| vec![outputs]))?
            }
            None => None,
        };
        let (a, b) = (self.values(a, &[rank, inputs])?, self.values(b, &[outputs, rank])?);
        let (Some(a), Some(b)) = (a, b) else { return Ok(()) };
        for (parameter, first_row, rows) in targets(source) {
            let delta = Delta::LowRank {
                rank,
                scale,
                a: a.clone(),
                b: gather(source, parameter, first_row, rows, rank, &b),
                magnitude: magnitude.as_ref().map(|m| gather(source, parameter, first_row, rows, 1, m)),
            };
            changes.entry(parameter.to_string()).or_default().push(Change { first_row, rows, delta });
        }
        Ok(())
    }
}

/// The parameters that a tensor has rows of: name, first row, number of rows.
fn targets(source: &Source) -> Vec<(&str, usize, usize)> {
    let mut out: Vec<(&str, usize, usize)> = Vec::new();
    for run in &source.runs {
        match out.iter_mut().find(|(name, ..)| *name == run.parameter) {
            Some((_, first, rows)) => (*first, *rows) = (run.row.min(*first), *rows + run.rows),
            None => out.push((&run.parameter, run.row, run.rows)),
        }
    }
    out
}

/// The rows of one parameter out of those of a tensor, `width` numbers each.
fn gather(source: &Source, parameter: &str, first_row: usize, rows: usize, width: usize, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; rows * width];
    let mut at = 0;
    for run in &source.runs {
        if run.parameter == parameter {
            out[(run.row - first_row) * width..][..run.rows * width].copy_from_slice(&values[at * width..(at + run.rows) * width]);
        }
        at += run.rows;
    }
    out
}
