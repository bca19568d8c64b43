//! The file that describes a sweep.
//!
//! ```toml
//! config = "base.toml"        # or a table [base], or both: the table wins
//! program = "pretrain"        # contrastive, vision
//! seeds = 3                   # each setting with the base's seed, the next one, ...
//! metric = "val_loss"         # of the last validation, or any number of the manifest's summary
//! goal = "min"
//! max_runs = 100
//!
//! [grid]                      # every combination
//! "trainer.optimizer.lr" = [1e-3, 3e-3]
//! depth = [2, 4]              # the dial works here as well
//!
//! [random]                    # each combination with so many draws
//! samples = 8
//! seed = 0
//! [random.parameters]
//! "trainer.optimizer.weight_decay" = { log_uniform = [1e-2, 1.0] }
//!
//! [[runs]]                    # and single runs
//! name = "wide"
//! set = { "model.hidden_size" = 256 }
//! ```

use crate::{Error, Result};
use llm_run::{Seed, config};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Keys and values of one point of the sweep, in the order of the file.
pub type Settings = Vec<(String, Value)>;

/// What is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// `llm-train pretrain`.
    #[default]
    Pretrain,
    /// `llm-train contrastive`.
    Contrastive,
    /// `llm-train vision`.
    Vision,
}

impl Program {
    /// The sub-command.
    pub fn command(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Contrastive => "contrastive",
            Self::Vision => "vision",
        }
    }
}

/// Which end of the metric is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Losses.
    #[default]
    Min,
    /// Accuracies.
    Max,
}

/// Where random values come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Evenly between two numbers.
    Uniform([f64; 2]),
    /// Evenly in the logarithm between two positive numbers.
    LogUniform([f64; 2]),
    /// A whole number, both ends included.
    Integer([i64; 2]),
    /// One of these.
    Choice(Vec<Value>),
}

/// Random draws.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Random {
    /// How many.
    pub samples: u64,
    /// Of the draws; not that of the runs.
    pub seed: u64,
    /// Key -> distribution.
    pub parameters: BTreeMap<String, Distribution>,
}

/// A run of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Single {
    /// Name of its folder.
    pub name: String,
    /// Key -> value.
    pub set: Table,
}

/// `sweep.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// Configuration of every run; relative to this file.
    pub config: Option<PathBuf>,
    /// The same in place, over `config`.
    pub base: Table,
    /// What is run.
    pub program: Program,
    /// Key -> values.
    pub grid: Table,
    /// Random draws.
    pub random: Option<Random>,
    /// Single runs.
    pub runs: Vec<Single>,
    /// Repetitions with other seeds.
    pub seeds: u64,
    /// What is compared.
    pub metric: String,
    /// Which end of it is good.
    pub goal: Goal,
    /// More runs than this are refused.
    pub max_runs: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            config: None,
            base: Table::new(),
            program: Program::default(),
            grid: Table::new(),
            random: None,
            runs: Vec::new(),
            seeds: 1,
            metric: "val_loss".into(),
            goal: Goal::default(),
            max_runs: 256,
        }
    }
}

fn bad(message: String) -> Error {
    Error::Config(message)
}

impl Spec {
    /// Read a file; `config` becomes a path from here.
    pub fn read(path: &Path) -> Result<Self> {
        let mut spec: Self = config::load(Some(path), &[])?;
        spec.config = spec.config.map(|file| path.parent().map_or(file.clone(), |dir| dir.join(&file)));
        Ok(spec)
    }

    /// The configuration that every run starts from.
    pub fn base(&self) -> Result<Table> {
        let mut base = config::table(self.config.as_deref(), &[])?;
        merge(&mut base, self.base.clone());
        Ok(base)
    }

    /// Every point: single runs with their names, then grid times draws.
    pub fn points(&self) -> Result<Vec<(Option<String>, Settings)>> {
        let mut points: Vec<(Option<String>, Settings)> = Vec::new();
        for run in &self.runs {
            points.push(((!run.name.is_empty()).then(|| run.name.clone()), dotted(&run.set)));
        }
        let mut combinations: Vec<Settings> = vec![Vec::new()];
        for (key, values) in dotted(&self.grid) {
            let values = match values {
                Value::Array(values) if !values.is_empty() => values,
                other => return Err(bad(format!("grid: `{key}` = {other}: expected a list of values such as [1e-3, 3e-3]"))),
            };
            combinations = combinations.iter().flat_map(|c| values.iter().map(|v| with(c, &key, v.clone()))).collect();
        }
        if let Some(random) = &self.random {
            if random.samples == 0 || random.parameters.is_empty() {
                return Err(bad("random: expected `samples` of at least 1 and a table [random.parameters]".into()));
            }
            let draws = (0..random.samples).map(|i| random.draw(i)).collect::<Result<Vec<_>>>()?;
            combinations = combinations.iter().flat_map(|c| draws.iter().map(|draw| c.iter().chain(draw).cloned().collect())).collect();
        }
        if !(self.grid.is_empty() && self.random.is_none()) {
            points.extend(combinations.into_iter().map(|c| (None, c)));
        }
        if points.is_empty() {
            return Err(bad("the sweep varies nothing: give [grid], [random] or [[runs]]".into()));
        }
        Ok(points)
    }

    /// Keys that are not the same in all points, in the order of their first appearance.
    pub fn varied(points: &[Settings]) -> Vec<String> {
        let mut keys: Vec<&String> = Vec::new();
        points.iter().flatten().for_each(|(key, _)| {
            if !keys.contains(&key) {
                keys.push(key)
            }
        });
        let value = |point: &Settings, key: &str| point.iter().find(|(k, _)| k == key).map(|(_, v)| v.to_string());
        keys.into_iter().filter(|key| points.iter().any(|p| value(p, key) != value(&points[0], key))).cloned().collect()
    }
}

fn with(settings: &Settings, key: &str, value: Value) -> Settings {
    settings.iter().cloned().chain([(key.to_string(), value)]).collect()
}

/// `{a = {b = 1}}` as `a.b = 1`.
fn dotted(table: &Table) -> Settings {
    let mut out = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => out.extend(dotted(inner).into_iter().map(|(sub, value)| (format!("{key}.{sub}"), value))),
            value => out.push((key.clone(), value.clone())),
        }
    }
    out
}

/// `from` over `into`, table by table.
pub fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

impl Random {
    /// Draw `index`: a function of seed, key and index, so more samples leave the first ones as they are.
    fn draw(&self, index: u64) -> Result<Settings> {
        let one = |(key, distribution): (&String, &Distribution)| {
            let mut rng = Seed(self.seed).stream(key).at(index).rng();
            let range = |message: &str| bad(format!("random.parameters: `{key}`: {message}"));
            let value = match distribution {
                Distribution::Uniform([low, high]) if low < high => Value::Float(four(low + (high - low) * rng.uniform())),
                Distribution::LogUniform([low, high]) if 0.0 < *low && low < high => {
                    Value::Float(four((low.ln() + (high.ln() - low.ln()) * rng.uniform()).exp()))
                }
                Distribution::Integer([low, high]) if low <= high => Value::Integer(rng.range(*low, *high)),
                Distribution::Choice(values) if !values.is_empty() => rng.pick(values).clone(),
                Distribution::LogUniform(_) => return Err(range("log_uniform expects two positive numbers, the smaller first")),
                Distribution::Choice(_) => return Err(range("choice expects at least one value")),
                _ => return Err(range("expected two numbers, the smaller first")),
            };
            Ok((key.clone(), value))
        };
        self.parameters.iter().map(one).collect()
    }
}

fn four(x: f64) -> f64 {
    crate::quantity::rounded(x, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_grid_is_every_combination_and_draws_multiply_it() {
        let text = "[grid]\n\"a.b\" = [1, 2]\nc.d = [true]\n[random]\nsamples = 3\n[random.parameters]\n\"lr\" = { log_uniform = [1e-4, 1e-2] }";
        let points: Vec<Settings> = spec(text).points().unwrap().into_iter().map(|p| p.1).collect();
        assert_eq!(points.len(), 6);
        assert_eq!(Spec::varied(&points), ["a.b", "lr"], "c.d is always true");
        for point in &points {
            let lr = point[2].1.as_float().unwrap();
            assert!((1e-4..=1e-2).contains(&lr), "{point:?}");
        }
        assert_eq!(points[0][2], points[3][2], "the same draws for every combination");
        let more = spec(&text.replace("samples = 3", "samples = 5")).points().unwrap();
        assert_eq!(more[..3].iter().map(|p| p.1.clone()).collect::<Vec<_>>(), points[..3], "more samples keep the first ones");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, word) in [
            ("", "varies nothing"),
            ("[grid]\na = 3", "expected a list"),
            ("[random]\nsamples = 2", "[random.parameters]"),
            ("[random]\nsamples = 2\n[random.parameters]\na = { log_uniform = [0.0, 1.0] }", "positive"),
            ("[random]\nsamples = 2\n[random.parameters]\na = { integer = [3, 1] }", "smaller first"),
        ] {
            let message = spec(text).points().unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
        assert!(toml::from_str::<Spec>("gird = {}").is_err());
    }

    #[test]
    fn a_table_in_place_wins_over_the_file_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base.toml"), "seed = 1\n[trainer]\nmax_steps = 5\neval_every = 2").unwrap();
        std::fs::write(dir.path().join("sweep.toml"), "config = \"base.toml\"\n[base.trainer]\nmax_steps = 9\n[grid]\nseed = [1]").unwrap();
        let base = Spec::read(&dir.path().join("sweep.toml")).unwrap().base().unwrap();
        assert_eq!(base, "seed = 1\n[trainer]\nmax_steps = 9\neval_every = 2".parse::<Table>().unwrap());
    }
}
