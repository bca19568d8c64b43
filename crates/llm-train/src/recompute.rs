//! Activation recomputation, block by block (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, section 3; Megatron-LM's
//! full recomputation with one layer a piece): a step keeps the residual stream that enters each block and, at any time, what the
//! backward pass of a single block needs. Every block runs forward twice, which costs a third of the arithmetic of its training.
//!
//! Burn's tape has no checkpoint per block, so the backward pass goes in segments:
//!
//! 1. [`forward`] takes the batch through the blocks without a tape and hands the loss two kinds of leaves: the residual stream after the
//!    last block and, of a mixture, the router logits of each block, which balancing losses read.
//! 2. `loss.backward()` gives the gradients of final norm, output projection and leaves.
//! 3. [`Deferred::finish`] walks back from the last block: run it again on a tape, from a leaf, and go backward from the surrogate
//!    `sum(y * g)`, whose gradient is the `g` that came from above. The embeddings are the last segment.
//!
//! Both passes of a block compute the same numbers, so loss and gradients are those of a single tape: to the bit in `f32` on the CPU, up to the
//! order of sums where three or more terms meet. Frozen parameters have no gradients here either, and the walk ends below the lowest
//! block that is trained.
//!
//! Legend: N tokens, D hidden, E experts.

use crate::trainable::Trainable;
use crate::{Error, Result};
use llm_arch::decoder::Segments;
use llm_arch::{Decoder, PackedBatch};
use llm_moe::Routing;
use llm_run::Seed;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{DType, Gradients, Tensor};
use llm_tensor::params;
use serde::{Deserialize, Serialize};

/// What of the activations is computed again in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: all activations are kept.
    #[default]
    None,
    /// Every block.
    Block,
}

impl Recompute {
    /// For serde: is it the default?
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// A forward pass, as far as a loss needs it.
#[derive(Debug)]
pub struct Forward {
    /// Final hidden states.
    pub hidden_ND: Tensor<2>,
    /// What the router of each sparse block did.
    pub routing: Vec<Routing>,
    /// What [`crate::Loss`] must carry.
    pub deferred: Option<Deferred>,
}

/// The blocks whose backward pass is still to come.
#[derive(Debug)]
pub struct Deferred {
    batch: PackedBatch,
    noise: Option<Seed>,
    /// Index of the lowest block that has something to train, or whose input has.
    lowest: usize,
    /// Are tables below the blocks trained?
    tables: bool,
    /// What enters the blocks from `lowest` on.
    inputs: Vec<Tensor<2>>,
    /// Leaves for the logits of their routers.
    logits: Vec<Option<Tensor<2>>>,
    /// Leaf for what leaves the last.
    last_ND: Tensor<2>,
}

fn leaf(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(x.inner()).require_grad()
}

/// Hidden states of a packed batch. `noise` as in [`Decoder::hidden_routed`]. A model without tracked parameters gives plain ones.
pub fn forward(model: &Decoder, batch: &PackedBatch, noise: Option<Seed>, recompute: Recompute) -> Forward {
    let layers = model.model.layers.len();
    let tables = params::is_tracked(&model.model.embed_tokens) || params::is_tracked(&model.model.position_embeddings);
    let lowest = if tables { 0 } else { model.model.layers.iter().position(params::is_tracked).unwrap_or(layers) };
    if recompute.is_none() || lowest == layers {
        let (hidden_ND, routing) = model.hidden_routed(batch, noise);
        return Forward { hidden_ND, routing, deferred: None };
    }
    // Constants of a tape, not tensors without one: some operations of Burn have other bodies there, and other last bits.
    let constant = params::track_where(model.clone(), |_| false);
    let segments = constant.segments(batch, noise);
    let mut x_ND = segments.enter();
    let (mut inputs, mut logits, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for layer in 0..layers {
        let deferred = layer >= lowest;
        if deferred {
            inputs.push(x_ND.clone().inner());
        }
        let (y_ND, routing) = segments.block(layer, x_ND);
        x_ND = y_ND;
        let routing = routing
            .map(|routing| Routing { logits_NE: if deferred { leaf(routing.logits_NE) } else { Tensor::from_inner(routing.logits_NE) }, ..routing });
        if deferred {
            logits.push(routing.as_ref().map(|routing| routing.logits_NE.clone()));
        }
        all.extend(routing);
    }
    let last_ND = leaf(x_ND);
    let hidden_ND = model.segments(batch, noise).leave(last_ND.clone());
    let deferred = Deferred { batch: batch.clone(), noise, lowest, tables, inputs, logits, last_ND };
    Forward { hidden_ND, routing: all, deferred: Some(deferred) }
}

impl Deferred {
    /// The gradients that are still missing after `loss.backward()` gave `gradients`: by name, a block at a time while they are taken.
    /// `model` is the one that [`forward`] saw, or has it inside.
    pub fn finish<'a, M: Trainable>(self, model: &'a M, gradients: &Gradients) -> Result<Backward<'a>> {
        let no_decoder = || Error::Objective("recompute: this kind of model has no decoder; set recompute = \"none\"".into());
        let (decoder, prefix) = model.decoder().ok_or_else(no_decoder)?;
        let d_logits = self.logits.iter().map(|logits_NE| logits_NE.as_ref()?.grad(gradients)).collect();
        let d_ND = self.last_ND.grad(gradients);
        let Self { batch, noise, lowest, tables, inputs, .. } = self;
        Ok(Backward { decoder, prefix, segments: decoder.segments(&batch, noise), lowest, tables, inputs, d_logits, d_ND, ready: Vec::new() })
    }
}

/// The walk from the last block to the embeddings.
#[derive(Debug)]
pub struct Backward<'a> {
    decoder: &'a Decoder,
    prefix: &'static str,
    segments: Segments<'a>,
    lowest: usize,
    tables: bool,
    inputs: Vec<Tensor<2>>,
    d_logits: Vec<Option<Tensor<2>>>,
    /// Gradient of what leaves the next segment. None: the loss does not depend on it.
    d_ND: Option<Tensor<2>>,
    /// Gradients of the last segment that nobody has taken yet.
    ready: Vec<(String, Tensor<1>)>,
}

impl Backward<'_> {
    /// Backward through `sum(y * d)` over the outputs of a segment that have a gradient; routers compute in `f32` whatever the model does.
    fn through<const K: usize>(outputs: [(Option<Tensor<2>>, Option<Tensor<2>>); K]) -> Option<Gradients> {
        let terms = outputs.into_iter().filter_map(|(y, d)| Some((y? * Tensor::from_inner(d?)).sum().cast(DType::F32)));
        let surrogate = terms.reduce(|a, b| a + b)?;
        surrogate.is_tracked().then(|| surrogate.backward())
    }

    fn block(&mut self, input_ND: Tensor<2>) {
        let layer = self.lowest + self.inputs.len();
        let below = self.tables || layer > self.lowest;
        let input_ND = if below { leaf(input_ND) } else { Tensor::from_inner(input_ND) };
        let (y_ND, routing) = self.segments.block(layer, input_ND.clone());
        let logits_NE = routing.map(|routing| routing.logits_NE);
        let outputs = [(Some(y_ND), self.d_ND.take()), (logits_NE, self.d_logits.pop().flatten())];
        if let Some(mut gradients) = Self::through(outputs) {
            self.d_ND = input_ND.grad_remove(&mut gradients);
            self.collect(&format!("model.layers.{layer}"), &self.decoder.model.layers[layer], &gradients);
        }
    }

    fn embeddings(&mut self) {
        self.tables = false;
        if let Some(gradients) = Self::through([(Some(self.segments.enter()), self.d_ND.take())]) {
            let model = &self.decoder.model;
            self.collect("model.embed_tokens", &model.embed_tokens, &gradients);
            self.collect("model.position_embeddings", &model.position_embeddings, &gradients);
        }
    }

    fn collect<M: Module>(&mut self, at: &str, module: &M, gradients: &Gradients) {
        let prefix = self.prefix;
        self.ready.extend(params::gradients(module, gradients).into_iter().map(|(name, gradient)| (format!("{prefix}{at}.{name}"), gradient)));
    }
}

impl Iterator for Backward<'_> {
    type Item = (String, Tensor<1>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(gradient) = self.ready.pop() {
                return Some(gradient);
            }
            match self.inputs.pop() {
                Some(input_ND) => self.block(input_ND),
                None if self.tables => self.embeddings(),
                None => return None,
            }
        }
    }
}
