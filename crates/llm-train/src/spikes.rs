//! Steps that look wrong, and what is done about them.
//!
//! A step *spikes* when its loss or its gradient norm lies more than `sigma` standard deviations above the mean of the last `window`
//! steps (6 and 128, as OLMo-core's `SkipStepOptimizer` has them; it wants half a window before it judges), or is no number. It is looked
//! at before the update, so a spiked batch need not reach the weights. What was judged a spike does not enter the window, but under `log`.
//!
//! | policy | what happens |
//! |---|---|
//! | `off` | nothing; a loss that is no number ends the run, as under `log` |
//! | `log` | it is noted; the update is made |
//! | `skip` | the step is taken without an update |
//! | `rewind` | back to the newest checkpoint; the batches that spiked are left out when the steps are taken again (as the authors of PaLM did by hand, section 5.1). The same place again: twice as many batches before it are left out as well |
//!
//! Which batches are left out is kept in `skipped.json` beside the checkpoints, so a killed run leaves out the same ones. Every spike is a
//! line of `spikes.jsonl` with the documents of its batch.
//!
//! A run *diverges* when the mean loss of the window rises more than `divergence` nats above its lowest value, or when `max_spikes`
//! spikes follow each other; it ends with advice, and its checkpoints stay.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do about a spike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nothing.
    Off,
    /// A line in `spikes.jsonl`.
    #[default]
    Log,
    /// No update.
    Skip,
    /// Back to a checkpoint, without the batch.
    Rewind,
}

/// `[trainer.spikes]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeConfig {
    /// What to do.
    pub policy: Policy,
    /// Standard deviations above the mean.
    pub sigma: f64,
    /// Steps to compare with; half of them must be there.
    pub window: usize,
    /// Spikes in a row, or returns to one place, that end the run.
    pub max_spikes: u64,
    /// Nats that the mean loss of a window may rise above its lowest; 0 is no limit.
    pub divergence: f64,
}

impl Default for SpikeConfig {
    fn default() -> Self {
        Self { policy: Policy::Log, sigma: 6.0, window: 128, max_spikes: 16, divergence: 2.0 }
    }
}

/// What the detector remembers; part of every checkpoint, in `f32` so that JSON gives back the same numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    losses: VecDeque<f32>,
    norms: VecDeque<f32>,
    /// Lowest mean of a full window of losses.
    lowest: Option<f32>,
    /// Spikes without a step between them.
    in_a_row: u64,
}

/// Why a step counts as a spike.
#[derive(Debug, Clone, PartialEq)]
pub struct Spike {
    /// `loss` or `grad_norm`.
    pub what: &'static str,
    /// Its value.
    pub value: f64,
    /// Mean of the window.
    pub mean: f64,
    /// Standard deviation in the window.
    pub std: f64,
}

impl std::fmt::Display for Spike {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, value, mean, std } = self;
        if value.is_finite() {
            write!(f, "{what} {value:.3}, {:.1} standard deviations above its mean of {mean:.3}", (value - mean) / std.max(f64::MIN_POSITIVE))
        } else {
            write!(f, "{what} is {value}")
        }
    }
}

/// Mean and standard deviation (n - 1).
fn moments(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.clone().sum::<f64>() / n.max(1.0);
    let variance = values.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance.sqrt())
}

impl Monitor {
    /// Is a step with this loss and gradient norm a spike? An ordinary one is remembered.
    pub fn judge(&mut self, config: &SpikeConfig, loss: f32, norm: f64) -> Option<Spike> {
        let found = self.spike(config, "loss", f64::from(loss), self.losses.iter().map(|&x| f64::from(x)));
        let found = found.or_else(|| self.spike(config, "grad_norm", norm, self.norms.iter().map(|&x| f64::from(x))));
        let finite = loss.is_finite() && norm.is_finite();
        if found.is_some() && (config.policy != Policy::Log || !finite) {
            self.in_a_row += 1;
            return found;
        }
        self.in_a_row = 0;
        self.losses.push_back(loss);
        self.norms.push_back(norm as f32);
        while self.losses.len() > config.window.max(2) {
            self.losses.pop_front();
            self.norms.pop_front();
        }
        found
    }

    fn spike(&self, config: &SpikeConfig, what: &'static str, value: f64, window: impl ExactSizeIterator<Item = f64> + Clone) -> Option<Spike> {
        let enough = window.len() >= (config.window / 2).max(2);
        let (mean, std) = moments(window);
        // A window without any spread (a constant loss) judges nothing.
        let far = enough && std > 0.0 && value - mean > config.sigma * std;
        (!value.is_finite() || far).then_some(Spike { what, value, mean, std })
    }

    /// Spikes without a step between them.
    pub fn in_a_row(&self) -> u64 {
        self.in_a_row
    }

    /// Has the loss risen for good? Call once a step.
    pub fn diverged(&mut self, config: &SpikeConfig) -> Option<String> {
        if config.divergence <= 0.0 || self.losses.len() < config.window.max(2) {
            return None;
        }
        let (mean, _) = moments(self.losses.iter().map(|&x| f64::from(x)));
        let lowest = self.lowest.get_or_insert(mean as f32);
        *lowest = lowest.min(mean as f32);
        let rise = mean - f64::from(*lowest);
        (rise > config.divergence).then(|| format!("the loss over the last {} steps is {mean:.2}, {rise:.2} above its lowest", config.window))
    }
}

/// Batches that are left out: the data of optimiser step k is that of the k-th batch which is not among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    batches: BTreeSet<u64>,
    /// Returns to the same place: batch and how often.
    last: Option<(u64, u64)>,
}

impl Skipped {
    fn path(out: &Path) -> PathBuf {
        out.join("skipped.json")
    }

    /// Those of the run in `out`.
    pub fn read(out: &Path) -> Result<Self> {
        let path = Self::path(out);
        if !path.exists() {
            return Ok(Self::default());
        }
        let bad = |e: String| Error::Checkpoint { path: path.clone(), message: format!("{e}; it says which batches are left out after a spike") };
        let text = std::fs::read_to_string(&path).map_err(|e| bad(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| bad(e.to_string()))
    }

    /// Forget those of an earlier run.
    pub fn clear(out: &Path) {
        let _ = std::fs::remove_file(Self::path(out));
    }

    /// Keep for the next start.
    pub fn write(&self, out: &Path) -> Result<()> {
        Ok(llm_run::atomic::write(Self::path(out), serde_json::to_vec(self).unwrap_or_default())?)
    }

    /// The batch of 0-based optimiser step `step`.
    pub fn batch(&self, step: u64) -> u64 {
        // Every batch left out at or before the place moves it on by one; the set is ascending.
        self.batches.iter().fold(step, |at, &skipped| if skipped <= at { at + 1 } else { at })
    }

    /// Leave out `batch`, and when training came back to this place before, twice as many before it each time.
    pub fn leave_out(&mut self, batch: u64) -> u64 {
        let returns = match self.last {
            // Within the reach of the last one it is the same trouble.
            Some((place, returns)) if batch.abs_diff(place) <= 1 << returns.min(20) => returns + 1,
            _ => 0,
        };
        self.last = Some((batch, returns));
        let reach = if returns == 0 { 0 } else { 1u64 << returns.min(20) };
        self.batches.extend(batch.saturating_sub(reach)..=batch);
        returns
    }
}

/// Append a line to `spikes.jsonl`.
pub fn log(out: &Path, step: u64, batch: u64, spike: &Spike, action: &str, documents: &[String]) -> Result<()> {
    let path = out.join("spikes.jsonl");
    let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    let line = json!({
        "step": step,
        "batch": batch,
        "what": spike.what,
        "value": number(spike.value),
        "mean": number(spike.mean),
        "std": number(spike.std),
        "action": action,
        "documents": documents,
    });
    let failed = |e: std::io::Error| Error::Config(format!("{}: cannot write: {e}", path.display()));
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
    writeln!(file, "{line}").map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;
    use proptest::prelude::*;

    /// If this fails, ordinary noise is taken for spikes, or spikes for ordinary noise.
    #[test]
    fn six_sigma_are_found_and_a_falling_loss_is_not() {
        let config = SpikeConfig { policy: Policy::Skip, ..SpikeConfig::default() };
        let mut monitor = Monitor::default();
        let mut rng = Seed(3).rng();
        let mut noise = || (0..12).map(|_| rng.below(1000) as f64 / 1000.0 - 0.5).sum::<f64>() * 0.05;
        for step in 0..2000u64 {
            let loss = 3.0 + 5.0 * (-(step as f64) / 200.0).exp() + noise();
            assert_eq!(monitor.judge(&config, loss as f32, 1.0 + noise()), None, "step {step}");
            assert_eq!(monitor.diverged(&config), None);
        }
        let spike = monitor.judge(&config, 3.6, 1.0).unwrap();
        assert_eq!(spike.what, "loss");
        assert_eq!(monitor.judge(&config, 3.0, 2.0).unwrap().what, "grad_norm");
        assert_eq!(monitor.judge(&config, f32::NAN, 1.0).unwrap().to_string(), "loss is NaN");
        assert_eq!(monitor.in_a_row(), 3);
        assert_eq!(monitor.judge(&config, 3.05, 1.0), None);
        assert_eq!(monitor.in_a_row(), 0);
    }

    #[test]
    fn a_loss_that_rises_slowly_is_a_divergence() {
        let config = SpikeConfig { window: 16, ..SpikeConfig::default() };
        let mut monitor = Monitor::default();
        let mut verdict = None;
        for step in 0..200 {
            monitor.judge(&config, 2.0 + 0.05 * step as f32, 1.0);
            verdict = verdict.or(monitor.diverged(&config));
        }
        assert!(verdict.unwrap().contains("above its lowest"));
    }

    proptest! {
        /// If this fails, a batch comes twice or never after a rewind.
        #[test]
        fn every_batch_that_is_not_left_out_comes_once_and_in_order(left_out in prop::collection::btree_set(0u64..60, 0..30)) {
            let skipped = Skipped { batches: left_out.clone(), last: None };
            let got: Vec<u64> = (0..40).map(|step| skipped.batch(step)).collect();
            let want: Vec<u64> = (0..).filter(|b| !left_out.contains(b)).take(40).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn coming_back_to_the_same_place_leaves_out_more() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.leave_out(100), 0);
        assert_eq!(skipped.batches.len(), 1);
        assert_eq!(skipped.leave_out(101), 1);
        assert_eq!(skipped.batches, (99..=101).collect());
        assert_eq!(skipped.leave_out(102), 2);
        assert_eq!(skipped.batches, (98..=102).collect());
        assert_eq!(skipped.leave_out(500), 0);
        assert!(skipped.batches.contains(&500) && !skipped.batches.contains(&499));
        let dir = tempfile::tempdir().unwrap();
        skipped.write(dir.path()).unwrap();
        assert_eq!(Skipped::read(dir.path()).unwrap(), skipped);
    }
}
