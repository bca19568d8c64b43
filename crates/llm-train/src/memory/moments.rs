//! What exists beside weights and optimiser at the moments of a step that can be its largest: the loss, the backward pass of each block,
//! the embeddings, the update, a checkpoint.
//!
//! A backward pass frees what a block kept when it is through with it and leaves the gradients of its parameters behind. So it is largest
//! at the top, where all activations exist, or at the bottom, where all gradients do. Within a block the feed-forward is widest: with the
//! gradient of its output, `d` of the product of gate and up, and the gradients of both, while gate and up still exist.
//!
//! Legend (numbers per token): D hidden, F feed-forward, Q and U all query and value heads, G and W all key heads and their values, k
//! experts of a token.

use super::{Saves, Workload, composed};
use llm_arch::budget::memory::kept_by_layer;
use llm_arch::parameters::Parameter;
use llm_tensor::kernels::linear_cross_entropy::block_rows;

/// Bytes that exist for a moment.
#[derive(Debug, Default)]
pub(super) struct Moment {
    pub at: String,
    pub gradients: f64,
    pub activations: f64,
    pub buffers: f64,
}

impl Moment {
    pub fn total(&self) -> f64 {
        self.gradients + self.activations + self.buffers
    }
}

/// Trained numbers by place.
struct Trained {
    /// The output projection, or the table that is one.
    head: f64,
    norm: f64,
    /// Of each block, and its last projection, whose gradient is there first.
    blocks: Vec<(f64, f64)>,
    tables: f64,
    all: f64,
}

impl Trained {
    fn of(w: &Workload, all: &[Parameter]) -> Self {
        let sum = |keep: &dyn Fn(&str) -> bool| all.iter().filter(|p| keep(&p.name) && w.is_trained(p)).map(|p| p.size() as f64).sum::<f64>();
        let blocks = (0..w.model.num_hidden_layers).map(|i| {
            let at = format!("model.layers.{i}.");
            (sum(&|name| name.starts_with(&at)), sum(&|name| name.starts_with(&at) && name.contains("down_proj")))
        });
        let head = if w.model.tie_word_embeddings { "model.embed_tokens." } else { "lm_head." };
        Self {
            head: sum(&|name| name.starts_with(head)),
            norm: sum(&|name| name.starts_with("model.norm.")),
            blocks: blocks.collect(),
            tables: sum(&|name| name.contains("embed")),
            all: sum(&|_| true),
        }
    }
}

/// Bytes that the optimiser keeps between steps, without master copies.
pub(super) fn kept_by_optimizer(w: &Workload, all: &[Parameter]) -> f64 {
    all.iter().filter(|p| w.is_trained(p)).map(|p| w.optimizer.state_bytes(&p.name, &p.shape)).sum()
}

/// All moments, in the order of a step. `lasting` are the bytes that exist throughout.
pub(super) fn moments(w: &Workload, kept_by_optimizer: f64, lasting: f64) -> Vec<Moment> {
    let parameters = w.parameters();
    let trained = Trained::of(w, &parameters);
    let layers = w.model.num_hidden_layers;
    let number = w.precision.bytes() as f64;
    let per_token = w.tokens() as f64 * number;
    let stream = per_token * w.model.hidden_size as f64;
    // Where nothing below is trained, nothing is kept.
    let lowest = if trained.tables > 0.0 { 0 } else { trained.blocks.iter().position(|b| b.0 > 0.0).unwrap_or(layers) };
    let kept: Vec<f64> = (0..layers).map(|i| if i < lowest { 0.0 } else { kept(w, i) }).collect();
    let recomputed = !w.recompute.is_none();
    // Of the micro-batches before; when blocks go backward one by one, their gradients go into it at once.
    let sum = if w.micro_batches > 1 { 4.0 * trained.all } else { 0.0 };
    let streamed = recomputed && w.micro_batches > 1;

    // Input, output and gradient of the final norm.
    let last = 3.0 * stream;
    let inputs = |blocks: usize| stream * blocks.saturating_sub(lowest) as f64;
    let (kept_logits, logits) = logits(w);
    let scratch = w.adapter.map_or(0.0, |adapter| adapter.scratch(w.model) + if recomputed { adapter.norms() } else { 0.0 });
    let mut moments = vec![Moment {
        at: "in the loss".into(),
        gradients: sum + number * trained.head,
        activations: last + kept_logits + if recomputed { inputs(layers) } else { kept.iter().sum() },
        buffers: logits,
    }];
    if let Some(adapter) = w.adapter {
        let largest = adapter.loading(&parameters);
        moments.push(Moment { at: "while the base is quantised".into(), buffers: (largest - lasting).max(0.0), ..Moment::default() });
        let activations = if recomputed { inputs(layers) } else { kept.iter().sum() };
        moments.push(Moment { at: "in the forward pass".into(), gradients: sum, activations, buffers: adapter.norms() });
    }
    let mut gradients = number * (trained.head + trained.norm);
    for i in (lowest..layers).rev() {
        let (block, down) = trained.blocks[i];
        moments.push(Moment {
            at: format!("in the backward pass of block {i}"),
            gradients: sum + gradients + number * down,
            activations: if recomputed { inputs(i) + kept[i] } else { kept[..=i].iter().sum() },
            buffers: widest(w, i) + scratch,
        });
        if !streamed {
            gradients += number * block;
        }
    }
    if trained.tables > 0.0 {
        // A tied table gets its second gradient beside the first.
        moments.push(Moment {
            at: "in the backward pass of the embeddings".into(),
            gradients: sum + gradients + number * trained.tables,
            buffers: stream,
            ..Moment::default()
        });
    }
    let gradients = if w.micro_batches > 1 { sum } else { number * trained.all };
    let largest = parameters.iter().filter(|p| w.is_trained(p)).map(Parameter::size).max().unwrap_or(0) as f64;
    // In short formats one parameter at a time is widened: its gradient and its new value.
    let buffers = if number < 4.0 { 8.0 * largest } else { 0.0 };
    moments.push(Moment { at: "in the update".into(), gradients, buffers, ..Moment::default() });
    let copies = |at: &str, numbers: f64| Moment { at: at.into(), buffers: 4.0 * numbers, ..Moment::default() };
    // What is saved, and what a checkpoint that is being written holds on to.
    let all = if w.adapter.is_some() { trained.all } else { parameters.iter().map(Parameter::size).sum::<usize>() as f64 };
    if w.saves != Saves::Nothing {
        moments.push(copies("while the model is saved", all));
    }
    // Workers are in the middle of their micro-batches at the same time, each with gradients of its own.
    let workers = w.workers.min(w.micro_batches).max(1) as f64;
    if workers > 1.0 {
        for moment in moments.iter_mut().filter(|moment| moment.at != "in the update") {
            moment.gradients = sum + workers * (moment.gradients - sum);
            moment.activations *= workers;
            moment.buffers *= workers;
        }
    }
    let master = if number < 4.0 { 1.0 } else { 0.0 };
    if w.saves == Saves::Beside {
        let state = kept_by_optimizer + 4.0 * master * trained.all;
        let held = number * all + state;
        let copied = state.max(4.0 * all);
        moments.iter_mut().for_each(|moment| moment.buffers += held + copied);
    }
    if w.saves == Saves::Checkpoints {
        moments.push(copies("while a checkpoint is saved", kept_by_optimizer / 4.0 + master * trained.all));
    }
    moments
}

/// Bytes that the forward pass of a block keeps.
fn kept(w: &Workload, layer: usize) -> f64 {
    let tokens = w.tokens() as f64;
    let model = if w.fused { 4.0 * kept_by_layer(w.model, layer) as f64 } else { composed::kept_by_layer(w, layer) };
    let adapter = w.adapter.map_or(0.0, |adapter| adapter.kept_by_layer(w, layer) * w.precision.bytes() as f64);
    tokens * (model + adapter)
}

/// Bytes of logits that are kept and that exist for a while. The fused output projection keeps none and takes a block of rows at a time: their
/// logits, once more as the matrix product packs them, their inputs and the gradients of these.
fn logits(w: &Workload) -> (f64, f64) {
    if !w.fused {
        return composed::logits(w);
    }
    if let Some(logits) = w.adapter.and_then(|adapter| adapter.logits(w)) {
        return logits;
    }
    let (v, d) = (w.model.vocab_size, w.model.hidden_size);
    (0.0, 4.0 * (block_rows(v).min(w.tokens()) * 2 * (v + d)) as f64)
}

/// Bytes that exist in the backward pass of a block beside what the forward pass kept, where they are most.
fn widest(w: &Workload, layer: usize) -> f64 {
    let tokens = w.tokens() as f64;
    tokens * if w.fused { 4.0 * widest_fused(w, layer) } else { composed::widest(w, layer) }
}

/// [`widest`] of the fused operations, in numbers per token.
fn widest_fused(w: &Workload, layer: usize) -> f64 {
    let c = w.model;
    let (d, f) = (c.hidden_size as f64, c.intermediate_size as f64);
    let heads = |count: usize, size: usize| (count * size) as f64;
    let (q, k) = (heads(c.num_attention_heads, c.head_size()), heads(c.num_key_value_heads, c.head_size()));
    let (u, v) = (heads(c.num_attention_heads, c.value_head_size()), heads(c.num_key_value_heads, c.value_head_size()));
    let attention = d + u + q + k + v - 2.0 * d;
    match &c.moe {
        Some(moe) if c.is_moe(layer) => {
            let (chosen, f) = (moe.num_experts_per_tok as f64, moe.moe_intermediate_size as f64);
            // At the weighted sum: its gradient, and both of its products; later gate and up, when the outputs of the experts are freed.
            d + chosen * (3.0 * d).max(2.0 * f - 2.0 * d)
        }
        _ if c.gated_mlp => (d + 2.0 * f).max(attention - 3.0 * f),
        _ => (d + f).max(attention - 2.0 * f),
    }
}
