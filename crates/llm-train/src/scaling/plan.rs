//! A sweep of isoFLOP runs: for each budget models around the size that would be best at 20 tokens per parameter, each trained until the
//! budget is spent.
//!
//! Shapes are the dial's. Batch size and learning rate are those of the budget ([`crate::dial::recipe`]), the same for all sizes of it.

use crate::dial::recipe::{batch_tokens, learning_rate, weight_decay};
use crate::dial::shape::Count;
use crate::dial::{Data, Shape};
use crate::quantity::{count, power, rounded};
use crate::{Error, Result};
use llm_arch::DecoderConfig;
use llm_arch::budget::{Flops, Parts};
use std::fmt::Write;
use toml::{Table, Value};

/// A run has at least so many steps, or the batch is made smaller.
const FEWEST_STEPS: f64 = 400.0;

/// What to plan.
#[derive(Debug, Clone, PartialEq)]
pub struct IsoFlops {
    /// FLOPs of the budgets.
    pub budgets: Vec<f64>,
    /// Models for each.
    pub sizes: usize,
    /// The smallest is so many times smaller than the middle, the largest so many times larger.
    pub spread: f64,
    /// Of the middle.
    pub tokens_per_parameter: f64,
    /// Rows of a forward pass.
    pub micro_batch_size: usize,
}

/// One run of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct IsoRun {
    /// Name in the sweep.
    pub name: String,
    /// Budget.
    pub budget: f64,
    /// What it will really cost.
    pub flops: f64,
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// Key -> value.
    pub set: Table,
}

impl IsoFlops {
    /// The runs, and a word about each size that cannot be built.
    pub fn runs(&self, model: &DecoderConfig, given: &dyn Fn(&str) -> bool, data: &Data) -> Result<(Vec<IsoRun>, Vec<String>)> {
        if self.sizes < 3 {
            return Err(Error::Config(format!("sizes = {}: a parabola needs at least 3", self.sizes)));
        }
        if !(self.spread > 1.0 && self.spread.is_finite()) {
            return Err(Error::Config(format!("spread = {}: expected a number above 1, such as 4", self.spread)));
        }
        let model = DecoderConfig { vocab_size: data.vocab_size, ..model.clone() };
        let (mut runs, mut notes): (Vec<IsoRun>, Vec<String>) = (Vec::new(), Vec::new());
        for &budget in &self.budgets {
            let middle = (budget / 6.0 / self.tokens_per_parameter).sqrt();
            for i in 0..self.sizes {
                let target = middle * self.spread.powf(2.0 * i as f64 / (self.sizes - 1) as f64 - 1.0);
                match Shape::of_size(&model, given, target, Count::Matmul) {
                    Ok(shape) => {
                        let run = self.run(budget, shape, &model, given, data);
                        if !runs.iter().any(|r| r.name == run.name) {
                            runs.push(run);
                        }
                    }
                    Err(_) => {
                        notes.push(format!("{}: no model near {} parameters with a vocabulary of {}", power(budget), count(target), data.vocab_size))
                    }
                }
            }
        }
        Ok((runs, notes))
    }

    fn run(&self, budget: f64, shape: Shape, model: &DecoderConfig, given: &dyn Fn(&str) -> bool, data: &Data) -> IsoRun {
        let mut model = model.clone();
        shape.fill(&mut model, given);
        let parameters = Parts::of(&model).matmul_active as f64;
        let per_token = Flops::of(&model, data.sequence_length).training;
        let tokens = budget / per_token;
        let length = data.sequence_length as f64;
        let wanted = batch_tokens(budget).min(tokens / FEWEST_STEPS) / length;
        let rows = wanted.round().max(1.0) as usize;
        let steps = (tokens / (rows as f64 * length)).round().max(1.0) as u64;
        let tokens = steps as f64 * rows as f64 * length;
        let lr = rounded(learning_rate(budget), 3);
        let integer = |x: usize| Value::Integer(x as i64);
        let mut set = Table::new();
        let mut put = |key: &str, value: Value| drop(set.insert(key.into(), value));
        put("model.num_hidden_layers", integer(model.num_hidden_layers));
        put("model.hidden_size", integer(model.hidden_size));
        put("model.num_attention_heads", integer(model.num_attention_heads));
        put("model.num_key_value_heads", integer(model.num_key_value_heads));
        put("model.intermediate_size", integer(model.intermediate_size));
        put("batch_size", integer(rows));
        put("micro_batch_size", integer(self.micro_batch_size.min(rows)));
        put("trainer.max_steps", Value::Integer(steps as i64));
        put("trainer.eval_every", Value::Integer(steps as i64));
        put("trainer.checkpoint_every", Value::Integer(steps.div_ceil(4) as i64));
        put("trainer.optimizer.lr", Value::Float(lr));
        put("trainer.optimizer.weight_decay", Value::Float(rounded(weight_decay(lr, steps, tokens / parameters), 2)));
        put("trainer.schedule.warmup_steps", Value::Integer((steps / 20) as i64));
        let name = format!("{}_{}", power(budget), count(parameters).replace(' ', ""));
        IsoRun { name, budget, flops: per_token * tokens, parameters, tokens, set }
    }
}

/// `sweep.toml` of the runs. `config` is the base, `base` a table over it.
pub fn sweep_toml(runs: &[IsoRun], config: Option<&std::path::Path>, base: &Table) -> Result<String> {
    let total: f64 = runs.iter().map(|r| r.flops).sum();
    let mut out = format!(
        "# {} isoFLOP runs, {} FLOPs together: llm-train sweep THIS --out DIR, then llm-train scaling fit DIR --out FIT\n",
        runs.len(),
        power(total)
    );
    if let Some(config) = config {
        let _ = writeln!(out, "config = {}", Value::String(config.display().to_string()));
    }
    let _ = writeln!(out, "program = \"pretrain\"\nmetric = \"val_loss\"\nmax_runs = {}", runs.len().max(256));
    if !base.is_empty() {
        let wrapped = Table::from_iter([("base".to_string(), Value::Table(base.clone()))]);
        let text = toml::to_string(&wrapped).map_err(|e| Error::Config(format!("cannot write the base as TOML: {e}")))?;
        let _ = writeln!(out, "\n{}", text.trim_end());
    }
    for run in runs {
        let _ = writeln!(out, "\n# {} parameters, {} tokens, {} FLOPs", count(run.parameters), count(run.tokens), power(run.flops));
        let _ = writeln!(out, "[[runs]]\nname = {}\n[runs.set]", Value::String(run.name.clone()));
        for (key, value) in &run.set {
            let _ = writeln!(out, "\"{key}\" = {value}");
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Spec;

    fn plan(budgets: &[f64]) -> (Vec<IsoRun>, Vec<String>) {
        let iso = IsoFlops { budgets: budgets.to_vec(), sizes: 5, spread: 4.0, tokens_per_parameter: 20.0, micro_batch_size: 8 };
        let data = Data { vocab_size: 1024, sequence_length: 256, tokens: None };
        iso.runs(&DecoderConfig::default(), &|_| false, &data).unwrap()
    }

    /// If this fails, the curves of a study are not of one budget each.
    #[test]
    fn every_run_spends_its_budget() {
        let (runs, notes) = plan(&[1e14, 1e16]);
        assert_eq!((runs.len(), notes.len()), (10, 0), "{notes:?}");
        for run in &runs {
            assert!((run.flops / run.budget - 1.0).abs() < 0.01, "{run:?}");
        }
        let ratio = |i: usize| runs[i].tokens / runs[i].parameters;
        assert!(runs[4].parameters / runs[0].parameters > 12.0 && ratio(0) > 100.0 && ratio(4) < 3.0, "{} {}", ratio(0), ratio(4));
        assert!((runs[2].tokens / runs[2].parameters / 20.0 - 1.0).abs() < 0.35, "attention costs as well: {}", ratio(2));
    }

    #[test]
    fn the_file_is_a_sweep_and_what_cannot_be_built_is_said() {
        let (runs, notes) = plan(&[1e10, 1e15]);
        assert!(notes.iter().any(|n| n.contains("vocabulary of 1024")), "{notes:?}");
        let base = "seed = 3\n[trainer.optimizer]\neps = 1e-9".parse::<Table>().unwrap();
        let text = sweep_toml(&runs, None, &base).unwrap();
        let spec: Spec = toml::from_str(&text).unwrap();
        assert_eq!((spec.runs.len(), spec.base), (runs.len(), base));
        let points = spec.runs.len();
        assert!(points >= 5 && spec.runs.iter().all(|r| r.set.contains_key("trainer.max_steps")), "{text}");
    }
}
