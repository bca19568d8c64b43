//! What training a mixture of experts needs beside the loss: balancing losses, the bias update after a step, and a look at the
//! load of the experts. A dense model passes through untouched.

use burn::tensor::Tensor;
use llm_arch::{Decoder, PackedBatch};
use llm_moe::{RoutingStats, balance};
use llm_run::Seed;
use llm_tensor::burn;
use serde_json::{Map, Value, json};

/// Load of the experts since the last report.
#[derive(Debug, Default)]
pub struct Mixture {
    layers: Vec<Load>,
}

#[derive(Debug, Default, Clone)]
struct Load {
    counts: Vec<u64>,
    dropped: usize,
}

impl Mixture {
    /// Final hidden states `[N, D]`, and the balancing losses that the configuration gives a coefficient. `noise` seeds the routers' jitter.
    pub fn hidden(&mut self, model: &Decoder, batch: &PackedBatch, noise: Seed) -> (Tensor<2>, Option<Tensor<1>>) {
        let Some(config) = &model.config().moe else { return (model.hidden(batch), None) };
        let (hidden, routing) = model.hidden_routed(batch, noise);
        self.layers.resize(routing.len().max(self.layers.len()), Load::default());
        for (load, routing) in self.layers.iter_mut().zip(&routing) {
            load.counts.resize(routing.counts.len(), 0);
            load.counts.iter_mut().zip(&routing.counts).for_each(|(total, count)| *total += count);
            load.dropped += routing.dropped;
        }
        let lengths = vec![batch.span.length; batch.span.batch];
        (hidden, balance::auxiliary_loss(config, &routing, &lengths, None))
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

    /// Numbers of the layer whose experts are used least evenly, and a word when they have collapsed. Starts counting anew.
    pub fn metrics(&mut self, num_experts_per_tok: usize) -> Map<String, Value> {
        let layers = std::mem::take(&mut self.layers);
        let stats = layers.iter().map(|load| RoutingStats::new(&load.counts, num_experts_per_tok, load.dropped));
        let Some((layer, worst)) = stats.enumerate().min_by(|a, b| a.1.entropy.total_cmp(&b.1.entropy)) else { return Map::new() };
        let mut out = worst.to_json();
        out.insert("moe_layer".into(), json!(layer));
        if let Some(verdict) = worst.collapsed() {
            out.insert("moe_collapsed".into(), json!(verdict));
        }
        out
    }
}
