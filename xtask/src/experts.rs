//! What a run says about its mixtures of experts: the load of every expert at every step, and the dense model beside it. Read from
//! `metrics.jsonl` (keys: `llm-train/src/mixture.rs`) and the manifests; the report shows it, the bars judge it.
//!
//! "At the end" is the last twentieth of the steps, at least ten: one step has too few texts for a verdict.

use crate::folder::{RunFolder, StageView};
use serde_json::{Map, Value};

/// Load over the mean load, `[layer][expert]`: 1 is balanced, 0 dead.
pub type Load = Vec<Vec<f64>>;

/// One record of a mixture.
#[derive(Debug)]
pub struct Look {
    /// Optimiser step.
    pub step: f64,
    /// Load in this step.
    pub load: Load,
    /// Per layer, how undecided the router is about a token, 0 to 1.
    pub router_entropy: Vec<f64>,
}

/// A pre-training stage.
#[derive(Debug)]
pub struct Trained<'a> {
    /// The stage.
    pub stage: &'a StageView,
    /// Every step of a mixture; nothing for a dense model.
    pub looks: Vec<Look>,
    /// The last look at held-out rows.
    pub heldout: Option<Load>,
}

fn load(record: &Map<String, Value>, key: &str) -> Option<Load> {
    let load: Load = serde_json::from_value(record.get(key)?.clone()).ok()?;
    (!load.is_empty() && load.iter().all(|layer| !layer.is_empty() && layer.len() == load[0].len())).then_some(load)
}

impl<'a> Trained<'a> {
    fn of(stage: &'a StageView) -> Self {
        let look = |record: &Map<String, Value>| {
            let router_entropy = record.get("moe_router_entropy").and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default();
            Some(Look { step: record.get("step")?.as_f64()?, load: load(record, "moe_load")?, router_entropy })
        };
        let mut looks: Vec<Look> = stage.metrics.iter().filter_map(look).collect();
        if let Some(layers) = looks.first().map(|l| (l.load.len(), l.load[0].len())) {
            looks.retain(|l| (l.load.len(), l.load[0].len()) == layers);
        }
        Self { stage, looks, heldout: stage.metrics.iter().rev().find_map(|r| load(r, "val_moe_load")) }
    }

    /// Training loss without the balancing losses: cross-entropy in nats per token, by step.
    pub fn cross_entropy(&self) -> Vec<(f64, f64)> {
        let number = |record: &Map<String, Value>, key: &str| record.get(key).and_then(Value::as_f64);
        let points = self.stage.metrics.iter();
        points.filter_map(|r| Some((number(r, "step")?, number(r, "loss")? - number(r, "moe_aux_loss").unwrap_or(0.0)))).collect()
    }

    /// Mean of [`Self::cross_entropy`] at the end.
    pub fn final_cross_entropy(&self) -> Option<f64> {
        let points = self.cross_entropy();
        let end = &points[ending(points.len())..];
        (!end.is_empty()).then(|| end.iter().map(|p| p.1).sum::<f64>() / end.len() as f64)
    }

    /// The last value of a key of the metrics.
    pub fn last(&self, key: &str) -> Option<f64> {
        self.stage.metrics.iter().rev().find_map(|r| r.get(key)?.as_f64())
    }

    /// A number of the manifest's summary.
    pub fn summary(&self, key: &str) -> Option<f64> {
        self.stage.manifest.as_ref()?.summary.get(key)?.as_f64()
    }

    /// Mean load at the end; none for a dense model.
    pub fn end(&self) -> Option<Load> {
        mean(&self.looks[ending(self.looks.len())..])
    }

    /// Experts per layer.
    pub fn experts(&self) -> Option<usize> {
        Some(self.looks.first()?.load[0].len())
    }

    /// Bits per byte of the model on held-out documents, by the evaluation that took it.
    pub fn bits_per_byte(&self, run: &RunFolder) -> Option<f64> {
        run.evaluated().iter().find(|m| m.maker == Some(self.stage.id.as_str()))?.results.tasks.get("bits_per_byte")?.value
    }
}

/// The first of `n` steps that are the end.
fn ending(n: usize) -> usize {
    n - (n / 20).max(10).min(n)
}

/// Mean load over some looks.
pub fn mean(looks: &[Look]) -> Option<Load> {
    let mut sum = looks.first()?.load.clone();
    for look in &looks[1..] {
        for (sum, load) in sum.iter_mut().flatten().zip(look.load.iter().flatten()) {
            *sum += load;
        }
    }
    sum.iter_mut().flatten().for_each(|x| *x /= looks.len() as f64);
    Some(sum)
}

/// The busiest expert over the mean, in the layer where that is worst.
pub fn max_over_mean(load: &Load) -> f64 {
    load.iter().flatten().copied().fold(0.0, f64::max)
}

/// The idlest expert over the mean, in the layer where that is worst.
pub fn min_over_mean(load: &Load) -> f64 {
    load.iter().flatten().copied().fold(f64::INFINITY, f64::min)
}

/// Experts without a token, in all layers.
pub fn dead(load: &Load) -> usize {
    load.iter().flatten().filter(|&&x| x == 0.0).count()
}

/// Entropy of a layer's load over ln E: 1 balanced.
pub fn entropy(layer: &[f64]) -> f64 {
    let total: f64 = layer.iter().sum();
    let shares = layer.iter().map(|x| x / total).filter(|p| *p > 0.0);
    if layer.len() > 1 && total > 0.0 { (-shares.map(|p| p * p.ln()).sum::<f64>() / (layer.len() as f64).ln()).max(0.0) } else { 1.0 }
}

/// The pre-training stages of a run, if one of them is a mixture: mixtures first.
pub fn trained(run: &RunFolder) -> Vec<Trained<'_>> {
    let stages = run.stages.iter().filter(|s| s.command == "pretrain" && !s.metrics.is_empty());
    let (mut mixtures, dense): (Vec<_>, Vec<_>) = stages.map(Trained::of).partition(|t| !t.looks.is_empty());
    if !mixtures.is_empty() {
        mixtures.extend(dense);
    }
    mixtures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(step: u32, load: Load) -> Look {
        Look { step: f64::from(step), load, router_entropy: vec![] }
    }

    #[test]
    fn the_end_is_a_twentieth_but_at_least_ten_steps() {
        assert_eq!((ending(800), ending(100), ending(4), ending(0)), (760, 90, 0, 0));
    }

    #[test]
    fn an_expert_is_dead_only_if_no_step_used_it() {
        let looks = [look(1, vec![vec![0.0, 2.0], vec![0.0, 2.0]]), look(2, vec![vec![0.5, 1.5], vec![0.0, 2.0]])];
        let load = mean(&looks).unwrap();
        assert_eq!(load, [[0.25, 1.75], [0.0, 2.0]]);
        assert_eq!((dead(&load), max_over_mean(&load), min_over_mean(&load)), (1, 2.0, 0.0));
        assert!(mean(&[]).is_none());
    }

    #[test]
    fn entropy_is_one_when_balanced_and_zero_when_collapsed() {
        assert!((entropy(&[1.0; 8]) - 1.0).abs() < 1e-12);
        assert_eq!(entropy(&[4.0, 0.0, 0.0, 0.0]), 0.0);
        assert!((entropy(&[2.0, 2.0, 0.0, 0.0]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_damaged_load_is_no_load() {
        let record = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        for text in ["{}", r#"{"moe_load":[]}"#, r#"{"moe_load":[[]]}"#, r#"{"moe_load":[[1],[1,2]]}"#, r#"{"moe_load":"x"}"#] {
            assert!(load(&record(text), "moe_load").is_none(), "{text}");
        }
    }
}
