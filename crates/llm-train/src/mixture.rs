//! What training a mixture of experts needs beside the loss: balancing losses, the bias update after a step, and a look at the
//! load of the experts. A dense model passes through untouched.
//!
//! Per step, for the metrics:
//!
//! | key | what |
//! |---|---|
//! | `moe_load` | per sparse layer and expert the load over the mean load; 0 is a dead expert. `[layer][expert]` |
//! | `moe_router_entropy` | per sparse layer how undecided the router is about a token, 0 to 1 |
//! | `moe_aux_loss` | the balancing losses with their coefficients; the logged `loss` holds them |
//! | `moe_entropy`, `moe_dead_experts`, `moe_max_over_mean`, `moe_dropped_share`, `moe_collapsed`, `moe_layer` | the layer with the least even load |
//!
//! The same on held-out rows, without the losses, under names that begin with `val_`.

use crate::recompute::{self, Forward, Recompute};
use burn::tensor::Tensor;
use llm_arch::{Decoder, PackedBatch};
use llm_moe::{Routing, RoutingStats, Scoring, balance, stats};
use llm_run::Seed;
use llm_tensor::{burn, host};
use serde_json::{Map, Value, json};

/// Load of the experts since the last report.
#[derive(Debug, Default)]
pub struct Mixture {
    layers: Vec<Load>,
    /// What was added to the loss, still on the device.
    balance: Vec<Tensor<1>>,
}

#[derive(Debug, Default, Clone)]
struct Load {
    counts: Vec<u64>,
    dropped: usize,
    /// Sums over the tokens, still on the device.
    router_entropy: Vec<Tensor<1>>,
    tokens: usize,
}

impl Mixture {
    /// The forward pass, and the balancing losses that the configuration gives a coefficient, times `share`: that of the micro-batch in
    /// its step. `noise` seeds the routers' jitter.
    pub fn forward(&mut self, model: &Decoder, batch: &PackedBatch, noise: Seed, share: f32, mode: Recompute) -> (Forward, Option<Tensor<1>>) {
        let forward = recompute::forward(model, batch, Some(noise), mode);
        let Some(config) = &model.config().moe else { return (forward, None) };
        self.count(&forward.routing, config.scoring_func);
        let lengths = vec![batch.span.length; batch.span.batch];
        let balance = balance::auxiliary_loss(config, &forward.routing, &lengths, None).map(|balance| balance * share);
        self.balance.extend(balance.iter().map(|balance| balance.clone().detach()));
        (forward, balance)
    }

    /// [`Mixture::forward`] without recomputation: final hidden states `[N, D]` and balancing losses.
    pub fn hidden(&mut self, model: &Decoder, batch: &PackedBatch, noise: Seed, share: f32) -> (Tensor<2>, Option<Tensor<1>>) {
        let (forward, balance) = self.forward(model, batch, noise, share, Recompute::None);
        (forward.hidden_ND, balance)
    }

    /// Final hidden states as at inference, with a look at the routers.
    pub fn watch(&mut self, model: &Decoder, batch: &PackedBatch) -> Tensor<2> {
        let Some(config) = &model.config().moe else { return model.hidden(batch) };
        let (hidden, routing) = model.hidden_routed(batch, None);
        self.count(&routing, config.scoring_func);
        hidden
    }

    /// Add what another one has seen.
    pub fn merge(&mut self, other: Self) {
        self.layers.resize(other.layers.len().max(self.layers.len()), Load::default());
        for (load, seen) in self.layers.iter_mut().zip(other.layers) {
            load.counts.resize(seen.counts.len().max(load.counts.len()), 0);
            load.counts.iter_mut().zip(&seen.counts).for_each(|(total, count)| *total += count);
            load.dropped += seen.dropped;
            load.router_entropy.extend(seen.router_entropy);
            load.tokens += seen.tokens;
        }
        self.balance.extend(other.balance);
    }

    fn count(&mut self, routing: &[Routing], scoring: Scoring) {
        self.layers.resize(routing.len().max(self.layers.len()), Load::default());
        for (load, routing) in self.layers.iter_mut().zip(routing) {
            load.counts.resize(routing.counts.len(), 0);
            load.counts.iter_mut().zip(&routing.counts).for_each(|(total, count)| *total += count);
            load.dropped += routing.dropped;
            let tokens = routing.logits_NE.dims()[0];
            load.router_entropy.push(stats::router_entropy(scoring, routing.logits_NE.clone().detach()) * tokens as f32);
            load.tokens += tokens;
        }
    }

    /// Move the correction biases of the routers against the load of the step (DeepSeek-V3, section 2.1.2), those that `trained`
    /// accepts by their names.
    pub fn after_step(&self, model: &mut Decoder, trained: impl Fn(&str) -> bool) {
        let layers = model.model.layers.iter_mut().enumerate().filter_map(|(i, block)| Some((i, block.moe.as_mut()?)));
        for ((i, moe), load) in layers.zip(&self.layers) {
            if moe.config().bias_update_rate > 0.0 && trained(&format!("model.layers.{i}.moe.gate.e_score_correction_bias")) {
                moe.update_bias(&load.counts);
            }
        }
    }

    /// The numbers of the module's table, and a word when the layer whose experts are used least evenly has collapsed. Starts
    /// counting anew.
    pub fn metrics(&mut self, num_experts_per_tok: usize) -> Map<String, Value> {
        let Self { layers, balance } = std::mem::take(self);
        let stats = layers.iter().map(|load| RoutingStats::new(&load.counts, num_experts_per_tok, load.dropped));
        let Some((layer, worst)) = stats.enumerate().min_by(|a, b| a.1.entropy.total_cmp(&b.1.entropy)) else { return Map::new() };
        let mut out = worst.to_json();
        out.insert("moe_layer".into(), json!(layer));
        if let Some(verdict) = worst.collapsed() {
            out.insert("moe_collapsed".into(), json!(verdict));
        }
        out.insert("moe_load".into(), layers.iter().map(|load| stats::relative_load(&load.counts)).collect());
        // One read for all that is still on the device.
        let scalars: Vec<Tensor<1>> = layers.iter().flat_map(|load| load.router_entropy.iter().cloned()).chain(balance.iter().cloned()).collect();
        let mut scalars = host::to_vec(Tensor::cat(scalars, 0)).into_iter().map(f64::from);
        let mut sum = |n: usize| scalars.by_ref().take(n).sum::<f64>();
        let thousandths = |x: f64| json!((x * 1e3).round() / 1e3);
        let entropies = layers.iter().map(|load| thousandths(sum(load.router_entropy.len()) / load.tokens.max(1) as f64));
        out.insert("moe_router_entropy".into(), entropies.collect());
        if !balance.is_empty() {
            out.insert("moe_aux_loss".into(), json!(sum(balance.len())));
        }
        out
    }
}
