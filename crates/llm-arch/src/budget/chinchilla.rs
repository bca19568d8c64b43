//! How large, how long, how many days, how much money.
//!
//! Training N parameters on D tokens takes about `6 N D` operations. For a fixed number of operations the loss is lowest near D = 20 N
//! (Hoffmann et al. 2022, tables 2 and 3); a smaller model on more tokens is a little worse for the money and cheaper ever after, which is
//! why Llama 3 8B saw 1,900 tokens per parameter. The loss shown is the parametric fit of that paper's runs, corrected by Besiroglu et al.
//! 2024 (`1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658`, in nats on its own data): only differences between rows mean something, and it is
//! for dense models. For a mixture N is what a token uses, `num_active_parameters`; that understates what the others add in quality.

use crate::DecoderConfig;
use crate::budget::{Device, Flops, Parts};
use crate::presets::{PRESETS, Preset};
use serde::Serialize;

/// Tokens per parameter of rows beside the chosen one: compute-optimal, then increasingly over-trained up to Llama 3 8B's.
pub const RATIOS: [f64; 6] = [20.0, 50.0, 100.0, 200.0, 500.0, 1875.0];

/// What is given; the rest is solved for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Floating-point operations to spend.
    Compute(f64),
    /// Parameters of the model.
    Size(f64),
    /// Tokens at hand.
    Tokens(f64),
}

/// What time and money are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Assumptions {
    /// One of these ...
    pub device: Device,
    /// ... so many of them ...
    pub devices: usize,
    /// ... reaching this share of their peak ...
    pub mfu: f64,
    /// ... at this price per device and hour.
    pub price: f64,
    /// Tokens of an optimiser step.
    pub batch_tokens: f64,
}

impl Assumptions {
    /// Useful operations of one device in an hour; 0 where no peak is known.
    pub fn flops_per_device_hour(&self) -> f64 {
        self.device.peak_flops.unwrap_or(0.0) * self.mfu * 3600.0
    }

    /// The operations that hours of every device buy.
    pub fn flops_in(&self, hours: f64) -> f64 {
        self.flops_per_device_hour() * self.devices as f64 * hours
    }

    /// The operations that a sum of money buys.
    pub fn flops_for(&self, money: f64) -> f64 {
        self.flops_per_device_hour() * money / self.price
    }
}

/// One way to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Run {
    /// D / N.
    pub tokens_per_parameter: f64,
    /// N; of a mixture the active ones.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// Optimiser steps.
    pub steps: f64,
    /// Operations.
    pub flops: f64,
    /// Device-hours.
    pub device_hours: f64,
    /// On all devices together.
    pub days: f64,
    /// In the currency of the price.
    pub cost: f64,
    /// Of the fit; none for a mixture.
    pub loss: Option<f64>,
}

/// A preset near the size in question and what the same compute (or tokens) means for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Near {
    /// Name.
    pub name: &'static str,
    /// Parameters that a token uses.
    pub active: f64,
    /// Tokens: what the compute buys at this size, or the plan's.
    pub tokens: f64,
    /// Their ratio.
    pub tokens_per_parameter: f64,
    /// Days on the devices.
    pub days: f64,
}

/// A plan: the run at the chosen ratio, alternatives, presets nearby.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What was given.
    pub goal: Goal,
    /// The run at the chosen ratio.
    pub chosen: Run,
    /// [`RATIOS`] and the chosen one, ascending.
    pub alternatives: Vec<Run>,
    /// The nearest presets.
    pub near: Vec<Near>,
}

/// Operations of training, per token: `6 N`, or a model's own count with attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cost {
    /// No shape known.
    SixN,
    /// [`Flops::training`] of a given model, which is a mixture or not.
    PerToken(f64, bool),
}

/// Loss of a dense model by the corrected fit, in nats.
pub fn fitted_loss(parameters: f64, tokens: f64) -> f64 {
    1.8172 + 482.01 / parameters.powf(0.3478) + 2085.43 / tokens.powf(0.3658)
}

impl Run {
    fn new(parameters: f64, tokens: f64, cost: Cost, a: &Assumptions) -> Self {
        let (per_token, mixture) = match cost {
            Cost::SixN => (6.0 * parameters, false),
            Cost::PerToken(flops, mixture) => (flops, mixture),
        };
        let flops = per_token * tokens;
        let device_hours = flops / a.flops_per_device_hour();
        Self {
            tokens_per_parameter: tokens / parameters,
            parameters,
            tokens,
            steps: (tokens / a.batch_tokens).ceil(),
            flops,
            device_hours,
            days: device_hours / a.devices as f64 / 24.0,
            cost: device_hours * a.price,
            loss: (!mixture).then(|| fitted_loss(parameters, tokens)),
        }
    }

    /// The run that a goal and a ratio of tokens to parameters determine.
    pub fn solve(goal: Goal, ratio: f64, cost: Cost, a: &Assumptions) -> Self {
        match goal {
            Goal::Size(n) => Self::new(n, ratio * n, cost, a),
            Goal::Tokens(d) => Self::new(d / ratio, d, cost, a),
            // C = 6 N D and D = r N.
            Goal::Compute(c) => {
                let n = (c / (6.0 * ratio)).sqrt();
                Self::new(n, ratio * n, cost, a)
            }
        }
    }
}

impl Plan {
    /// Solve for a model of unknown shape.
    pub fn of(goal: Goal, ratio: f64, a: &Assumptions) -> Self {
        Self::with(goal, ratio, Cost::SixN, None, a)
    }

    /// The plan of a given model trained on rows of `context` tokens.
    pub fn for_model(config: &DecoderConfig, context: usize, ratio: f64, a: &Assumptions) -> Self {
        let cost = Cost::PerToken(Flops::of(config, context).training, config.moe.is_some());
        Self::with(Goal::Size(Parts::of(config).active as f64), ratio, cost, Some(context), a)
    }

    fn with(goal: Goal, ratio: f64, cost: Cost, context: Option<usize>, a: &Assumptions) -> Self {
        let chosen = Run::solve(goal, ratio, cost, a);
        let mut ratios: Vec<f64> = RATIOS.into_iter().filter(|r| (r / ratio - 1.0).abs() > 1e-9).chain([ratio]).collect();
        ratios.sort_by(f64::total_cmp);
        let alternatives = ratios.into_iter().map(|r| Run::solve(goal, r, cost, a)).collect();
        let mut by_distance: Vec<(f64, &Preset, DecoderConfig, f64)> = PRESETS
            .iter()
            .map(|p| {
                let config = p.config();
                let active = config.num_active_parameters() as f64;
                ((active / chosen.parameters).ln().abs(), p, config, active)
            })
            .collect();
        by_distance.sort_by(|a, b| a.0.total_cmp(&b.0));
        let near = by_distance.into_iter().take(3).map(|(_, preset, config, active)| {
            let flops = Flops::of(&config, context.unwrap_or(DEFAULT_CONTEXT).min(config.max_position_embeddings)).training;
            let tokens = match goal {
                Goal::Compute(c) => c / flops,
                Goal::Size(_) | Goal::Tokens(_) => chosen.tokens,
            };
            let days = tokens * flops / a.flops_per_device_hour() / a.devices as f64 / 24.0;
            Near { name: preset.name, active, tokens, tokens_per_parameter: tokens / active, days }
        });
        Self { goal, chosen, alternatives, near: near.collect() }
    }
}

/// Length of the rows where nobody says otherwise, bounded by what a model was made for.
pub const DEFAULT_CONTEXT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;

    fn machine() -> Assumptions {
        Assumptions { device: *Device::find("H100").unwrap(), devices: 8, mfu: 0.4, price: 2.5, batch_tokens: 524_288.0 }
    }

    /// If this fails, a plan made from its own answer gives another answer.
    #[test]
    fn budget_size_and_tokens_lead_back_to_each_other() {
        let a = machine();
        for hours in [0.5, 24.0, 1000.0] {
            for ratio in [20.0, 200.0] {
                let budget = a.flops_in(hours);
                let from_budget = Plan::of(Goal::Compute(budget), ratio, &a).chosen;
                let from_size = Plan::of(Goal::Size(from_budget.parameters), ratio, &a).chosen;
                let from_tokens = Plan::of(Goal::Tokens(from_budget.tokens), ratio, &a).chosen;
                let from_money = Plan::of(Goal::Compute(a.flops_for(from_size.cost)), ratio, &a).chosen;
                for run in [from_size, from_tokens, from_money] {
                    assert!((run.parameters / from_budget.parameters - 1.0).abs() < 1e-9, "{hours} h: {run:?}");
                    assert!((run.days * 24.0 / hours - 1.0).abs() < 1e-9, "{hours} h became {} days", run.days);
                }
            }
        }
    }

    /// Chinchilla itself: 70 B parameters on 1.4 T tokens, 5.76e23 operations (table 3: 67 B and 1.5 T for that budget).
    #[test]
    fn chinchilla_is_the_optimum_of_its_budget() {
        let run = Plan::of(Goal::Compute(5.76e23), 20.0, &machine()).chosen;
        assert!((run.parameters / 67e9 - 1.0).abs() < 0.05, "{:.3e} parameters", run.parameters);
        assert!((run.tokens / 1.4e12 - 1.0).abs() < 0.05, "{:.3e} tokens", run.tokens);
    }

    /// If this fails, the loss column contradicts the rule of 20.
    #[test]
    fn the_fit_is_lowest_near_twenty_tokens_per_parameter() {
        let a = machine();
        for compute in [1e20, 1e22, 5.76e23] {
            let loss = |ratio: f64| Run::solve(Goal::Compute(compute), ratio, Cost::SixN, &a).loss.unwrap();
            let best = (1..400).map(f64::from).min_by(|x, y| loss(*x).total_cmp(&loss(*y))).unwrap();
            assert!((12.0..32.0).contains(&best), "{compute:e}: {best} tokens per parameter");
            assert!(loss(20.0) < loss(200.0));
        }
    }

    #[test]
    fn a_model_costs_six_n_and_its_attention() {
        let a = machine();
        let llama = preset("llama-3-8b").unwrap();
        let plan = Plan::for_model(&llama, 8192, 1875.0, &a);
        assert!((plan.chosen.tokens / 15e12 - 1.0).abs() < 0.01, "Llama 3 8B saw 15 T tokens");
        let flops = Flops::of(&llama, 8192);
        assert_eq!(plan.chosen.flops, flops.training * plan.chosen.tokens);
        assert_eq!(plan.near[0].name, "llama-3-8b");
        assert!(plan.chosen.loss.is_some());

        let mixtral = preset("mixtral-8x7b").unwrap();
        let plan = Plan::for_model(&mixtral, 4096, 20.0, &a);
        assert_eq!(plan.chosen.parameters, mixtral.num_active_parameters() as f64, "a mixture is planned by what a token uses");
        assert!(plan.chosen.loss.is_none());
    }
}
