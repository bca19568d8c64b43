//! What to show of a training, and what is known about it before its first step.

use crate::schedule::Schedule;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is shown and written while training. Nothing here changes what is trained, so it is no part of a run's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// A dashboard that fills the terminal instead of the progress line.
    pub tui: bool,
    /// Event files for TensorBoard in `OUT/tensorboard`.
    pub tensorboard: bool,
    /// `OUT/report.html`, written anew with every validation and at the end.
    pub report: bool,
    /// What an hour of the machine costs, in any currency, for the forecast.
    pub price_per_hour: Option<f64>,
    /// What the machine draws, in watts, for the forecast.
    pub watts: Option<f64>,
    /// What the device could do, for MFU, in 10^12 FLOP/s; the bf16 peak of a known card when absent.
    pub peak_tflops: Option<f64>,
    /// Measure the peak with matrix products for half a second when it is not known.
    pub probe_peak: bool,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { tui: false, tensorboard: true, report: true, price_per_hour: None, watts: None, peak_tflops: None, probe_peak: false }
    }
}

/// Flags of programs that train.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct WatchArgs {
    /// Show a dashboard that fills the terminal; the same as --set trainer.watch.tui=true
    #[arg(long)]
    pub tui: bool,
}

impl WatchArgs {
    /// Flags win over the configuration.
    pub fn apply(&self, config: &mut WatchConfig) {
        config.tui |= self.tui;
    }
}

/// What is known about a training before its first step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// On the progress line and as title.
    pub name: String,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Where this start continues; 0 is from the beginning.
    pub start_step: u64,
    /// Tokens that go through the model in a step, about.
    pub tokens_per_step: Option<f64>,
    /// Forward and backward.
    pub flops_per_token: Option<f64>,
    /// What the device could do in a second.
    pub peak_flops: Option<f64>,
    /// Learned numbers.
    pub parameters: usize,
    /// Those that work on one token.
    pub active_parameters: usize,
    /// What computes.
    pub device: String,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// Steps from one validation to the next; 0 is never.
    pub eval_every: u64,
    /// Steps from one checkpoint to the next; 0 is never.
    pub checkpoint_every: u64,
    /// Does the loss fall as losses of pre-training do, so that its end can be guessed?
    #[serde(default)]
    pub forecasts_loss: bool,
    /// All settings of the run.
    pub config: Value,
}
