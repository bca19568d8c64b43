//! The decoder: one forward pass for every family.
//!
//! What differs between families is asked from the configuration: where norms stand, how positions enter, how a block attends
//! (`attention`), what it feeds forward (a dense block here, or a mixture of `llm-moe`). Where keys and values come from, the same packed
//! batch or a paged cache, is the only difference between training and generation.
//!
//! Parameter paths are canonical names (`parameters`); `hf` translates them to those of checkpoints.
//!
//! Legend: N tokens, D hidden, F feed-forward, V vocabulary.

mod segments;

pub use segments::Segments;

use crate::adapter::AdapterTraining;
use crate::attention::{Attention, Context, LatentAttention, Place};
use crate::build::{Builder, Init, PackedInit};
use crate::cache::{CachedBatch, KvPool};
use crate::config::{Layout, Positions};
use crate::parameters::{self, Role};
use crate::{DecoderConfig, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use llm_moe::{Moe, Routing};
use llm_run::Seed;
use llm_tensor::nn::{Embedding, Linear, LoraBank, Norm, Weight};
use llm_tensor::ops::{self, AttentionSpan, Indices, Pairing, RopeTable};
use llm_tensor::{Precision, burn};
use std::sync::Arc;

/// A packed batch of token rows.
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// `[B * T]` ids.
    pub ids: Indices,
    /// `[B * T]` positions, restarting with each document.
    pub positions: Indices,
    /// Who sees whom.
    pub span: AttentionSpan,
}

impl PackedBatch {
    /// Rows of equal length; `starts[b]` are the offsets at which documents begin in row `b`.
    pub fn documents(ids: Vec<u32>, starts: &[&[u32]], length: usize) -> Self {
        let span = AttentionSpan::documents(starts, length);
        Self { ids: ids.into(), positions: span.positions(), span }
    }

    /// One sequence.
    pub fn sequence(ids: &[u32]) -> Self {
        Self::documents(ids.to_vec(), &[&[0]], ids.len())
    }
}

/// A decoder-only language model.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Everything below the output projection.
    pub model: Trunk,
    /// Output projection; absent when tied to the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    rope: RopeTable,
    /// What is being trained, if that is an adapter.
    #[module(skip)]
    pub(crate) adapter: Option<Arc<AdapterTraining>>,
}

/// Embedding, blocks, final norm.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[V, D]`.
    pub embed_tokens: Embedding,
    /// `[P, D]`: learned positions.
    pub position_embeddings: Option<Embedding>,
    /// Blocks.
    pub layers: Vec<Block>,
    /// Final norm.
    pub norm: Norm,
}

/// One block. Which norms exist depends on the layout (`parameters::block_norms`).
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub input_layernorm: Option<Norm>,
    /// Ordinary attention.
    pub self_attn: Option<Attention>,
    /// Latent attention.
    pub mla: Option<LatentAttention>,
    /// Before the feed-forward block, or after attention where there are norms after branches.
    pub post_attention_layernorm: Option<Norm>,
    /// Before the feed-forward block of a sandwich.
    pub pre_feedforward_layernorm: Option<Norm>,
    /// After the feed-forward block.
    pub post_feedforward_layernorm: Option<Norm>,
    /// Dense feed-forward.
    pub mlp: Option<Mlp>,
    /// Experts.
    pub moe: Option<Moe>,
}

/// Dense feed-forward: gated when there is a gate.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[F, D]`.
    pub gate_proj: Option<Linear>,
    /// `[F, D]`.
    pub up_proj: Linear,
    /// `[D, F]`.
    pub down_proj: Linear,
}

/// Looks at the residual stream: 0 is the embedding, `i` the output of block `i - 1`, the last one is after the final norm.
pub type Observer<'a> = &'a mut dyn FnMut(usize, &Tensor<2>);

/// What a forward pass may be asked for besides its result.
#[derive(Default)]
struct Pass<'a> {
    observer: Option<Observer<'a>>,
    /// Training: noise of the routers. None at inference.
    routing_noise: Option<Seed>,
    /// What the routers did, if someone asks.
    routing: Option<Vec<Routing>>,
}

fn apply(norm: &Option<Norm>, x_ND: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x_ND),
        None => x_ND,
    }
}

impl Decoder {
    /// Fresh random weights: a function of the seed and each parameter's name.
    pub fn new(config: &DecoderConfig, seed: Seed, device: &Device) -> Result<Self> {
        Self::new_as(config, seed, Precision::F32, device)
    }

    /// [`Decoder::new`] with the weights in another number format.
    pub fn new_as(config: &DecoderConfig, seed: Seed, precision: Precision, device: &Device) -> Result<Self> {
        Self::build(config, device, precision, &mut |name, shape| Ok(parameters::initial_values(config, seed, name, shape)))
    }

    /// A decoder whose values `init` hands out by canonical name and shape.
    pub fn build(config: &DecoderConfig, device: &Device, precision: Precision, init: Init) -> Result<Self> {
        Self::build_packed(config, device, precision, init, &mut |_, _| Ok(None))
    }

    /// [`Decoder::build`] where `packed` is asked first for the matrix of each projection.
    pub(crate) fn build_packed(config: &DecoderConfig, device: &Device, precision: Precision, init: Init, packed: PackedInit) -> Result<Self> {
        config.validate()?;
        let mut builder = Builder { config, device, precision, init, packed };
        let (model, lm_head) = builder.decoder()?;
        Ok(Self { model, lm_head, config: config.clone(), rope: Self::rope_table(config), adapter: None })
    }

    fn rope_table(config: &DecoderConfig) -> RopeTable {
        if config.positions == Positions::Learned {
            return RopeTable::new(&[], 0, 1.0, Pairing::Halves);
        }
        let frequencies = config.inverse_frequencies(config.max_position_embeddings);
        let length = if config.rope_scaling.depends_on_length() { 0 } else { config.max_position_embeddings };
        RopeTable::new(&frequencies, length, config.rope_scaling.attention_factor() as f32, Self::pairing(config))
    }

    fn pairing(config: &DecoderConfig) -> Pairing {
        if config.rope_interleave { Pairing::Neighbours } else { Pairing::Halves }
    }

    /// The table and the row of each token in it. Frequencies that depend on the length of a text get a row per token.
    fn place(&self, positions: &Indices, context: &Context) -> Place {
        if !self.config.rope_scaling.depends_on_length() {
            return Place { table: self.rope.clone(), rows: positions.clone() };
        }
        let lengths: Vec<usize> = match context {
            // As in transformers: the longest text of the batch counts.
            Context::Packed(_) => vec![positions.iter().max().map_or(1, |&p| p as usize + 1); positions.len()],
            Context::Cached(batch, _) => {
                let mut longest = std::collections::HashMap::new();
                for (pages, &p) in batch.pages.iter().zip(positions.iter()) {
                    let length = longest.entry(pages.as_ptr()).or_insert(0);
                    *length = (p as usize + 1).max(*length);
                }
                batch.pages.iter().map(|pages| longest[&pages.as_ptr()]).collect()
            }
        };
        let mut known = std::collections::HashMap::new();
        for &length in &lengths {
            known.entry(length).or_insert_with(|| self.config.inverse_frequencies(length));
        }
        let rows = positions.iter().zip(&lengths).map(|(&p, length)| (p as usize, known[length].as_slice()));
        let factor = self.config.rope_scaling.attention_factor() as f32;
        let table = RopeTable::rows(rows, self.config.rotary_dim() / 2, factor, Self::pairing(&self.config));
        Place { table, rows: (0..positions.len() as u32).collect() }
    }

    /// Sizes and choices.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Learned numbers, counted from the weights.
    pub fn num_parameters(&self) -> usize {
        let buffers: usize = parameters::parameters(&self.config).iter().filter(|p| p.role == Role::Buffer).map(|p| p.size()).sum();
        Module::num_params(self) - buffers
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.model.norm.weight.val().device()
    }

    /// Number format of the weights.
    pub fn precision(&self) -> Precision {
        Precision::of(self.model.norm.weight.val().dtype()).unwrap_or_default()
    }

    /// The same weights, tracked for training: all of them, or those of the adapter that is being trained.
    pub fn tracked(self) -> Self {
        let frozen = self.frozen();
        llm_tensor::params::track_where(self, |name| !frozen.contains(name))
    }

    /// The same weights without tracking: for evaluation and generation. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// The same without output projection, for another head in its place. The configuration then says that the projection is tied, so that
    /// none is counted, looked for or written.
    pub fn without_head(mut self) -> Self {
        self.lm_head = None;
        self.config.tie_word_embeddings = true;
        self
    }

    /// Final hidden states `[N, D]` of a packed batch.
    pub fn hidden(&self, batch: &PackedBatch) -> Tensor<2> {
        self.run(self.embed(batch.ids.clone()), &batch.positions, Context::Packed(batch), &mut Pass::default())
    }

    /// [`Decoder::hidden`] of a mixture with what the router of each sparse layer did. In training `noise` seeds their jitter and
    /// switches the capacity on; without it this is inference, watched.
    pub fn hidden_routed(&self, batch: &PackedBatch, noise: Option<Seed>) -> (Tensor<2>, Vec<Routing>) {
        let mut pass = Pass { routing_noise: noise, routing: Some(Vec::new()), ..Pass::default() };
        let hidden = self.run(self.embed(batch.ids.clone()), &batch.positions, Context::Packed(batch), &mut pass);
        (hidden, pass.routing.unwrap_or_default())
    }

    /// [`Decoder::hidden`] that shows the residual stream on the way.
    pub fn hidden_observed(&self, batch: &PackedBatch, observer: Observer) -> Tensor<2> {
        let mut pass = Pass { observer: Some(observer), ..Pass::default() };
        self.run(self.embed(batch.ids.clone()), &batch.positions, Context::Packed(batch), &mut pass)
    }

    /// Final hidden states `[N, D]` of a batch that reads and extends the cache.
    pub fn hidden_cached(&self, batch: &CachedBatch, pool: &mut KvPool) -> Tensor<2> {
        self.run(self.embed(batch.ids.clone()), &batch.positions, Context::Cached(batch, pool), &mut Pass::default())
    }

    /// Token vectors `[N, D]` as they enter the first block, learned positions left out: what a caller may replace rows of.
    pub fn embed(&self, ids: Indices) -> Tensor<2> {
        let x_ND = self.rows_of(&self.model.embed_tokens, ids);
        if !self.config.scale_embeddings {
            return x_ND;
        }
        // Gemma rounds the factor to the model's own format.
        let factor = (self.config.hidden_size as f32).sqrt();
        let factor = Tensor::<2>::full([1, 1], factor, &x_ND.device()).cast(x_ND.dtype());
        x_ND * factor
    }

    /// Rows of a table in the model's number format; quantised ones come in `f32`, on the device that the table was made for.
    fn rows_of(&self, table: &Embedding, ids: Indices) -> Tensor<2> {
        let x_ND = table.forward(ids);
        if table.weight.as_packed().is_none() {
            return x_ND;
        }
        let x_ND = match (x_ND.device().is_autodiff(), self.device().is_autodiff()) {
            (false, true) => Tensor::from_inner(x_ND),
            (true, false) => x_ND.inner(),
            _ => x_ND,
        };
        x_ND.cast(self.precision().dtype())
    }

    /// [`Decoder::hidden_observed`] from given vectors `[N, D]` in place of those of [`Decoder::embed`]; the batch's ids are not read.
    pub fn hidden_from(&self, x_ND: Tensor<2>, batch: &PackedBatch, observer: Option<Observer>) -> Tensor<2> {
        self.run(x_ND, &batch.positions, Context::Packed(batch), &mut Pass { observer, ..Pass::default() })
    }

    /// [`Decoder::hidden_cached`] from given vectors `[N, D]`; the batch's ids are not read.
    pub fn hidden_cached_from(&self, x_ND: Tensor<2>, batch: &CachedBatch, pool: &mut KvPool) -> Tensor<2> {
        self.run(x_ND, &batch.positions, Context::Cached(batch, pool), &mut Pass::default())
    }

    /// Scores over the vocabulary: `[N, D]` -> `[N, V]`.
    pub fn logits(&self, hidden_ND: Tensor<2>) -> Tensor<2> {
        let logits_NV = self.output().forward(hidden_ND);
        match self.config.final_logit_softcapping {
            Some(cap) => logits_NV.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits_NV,
        }
    }

    /// Negative log-likelihoods `[N]` of the targets in nats, without the `[N, V]` logits. [`ops::IGNORE`] gives 0.
    pub fn nll(&self, hidden_ND: Tensor<2>, targets: Indices) -> Tensor<1> {
        let output = self.output();
        let softcap = self.config.final_logit_softcapping.map(|cap| cap as f32);
        if output.trained().is_some() || output.bank().is_some_and(LoraBank::active) {
            // An update of the projection itself; and a bank knows the rows of a whole batch.
            return ops::cross_entropy(self.logits(hidden_ND), targets);
        }
        match output.packed_weight() {
            Some(table) => ops::packed_cross_entropy(hidden_ND, table, targets, softcap),
            None => ops::linear_cross_entropy(hidden_ND, output.val(), targets, softcap),
        }
    }

    /// `[V, D]` of the output projection.
    fn output(&self) -> &Weight {
        self.lm_head.as_ref().map_or(&self.model.embed_tokens.weight, |head| &head.weight)
    }

    /// The residual stream `[N, D]` as it enters the first block.
    pub fn enter(&self, batch: &PackedBatch) -> Tensor<2> {
        self.with_positions(self.embed(batch.ids.clone()), &batch.positions)
    }

    /// One block: the residual stream `[N, D]` of a packed batch before it to that after it.
    pub fn through_block(&self, layer: usize, x_ND: Tensor<2>, batch: &PackedBatch) -> Tensor<2> {
        let mut context = Context::Packed(batch);
        let place = self.place(&batch.positions, &context);
        self.block(layer, &self.model.layers[layer], x_ND, &place, &mut context, &mut Pass::default())
    }

    fn with_positions(&self, x_ND: Tensor<2>, positions: &Indices) -> Tensor<2> {
        match &self.model.position_embeddings {
            Some(table) => x_ND + self.rows_of(table, positions.clone()),
            None => x_ND,
        }
    }

    fn run(&self, embedded_ND: Tensor<2>, positions: &Indices, mut context: Context, pass: &mut Pass) -> Tensor<2> {
        if let Context::Packed(batch) = &context {
            self.note_batch(&batch.ids);
        }
        let place = self.place(positions, &context);
        let mut x_ND = self.with_positions(embedded_ND, positions);
        for (i, block) in self.model.layers.iter().enumerate() {
            if let Some(observer) = &mut pass.observer {
                observer(i, &x_ND);
            }
            x_ND = self.block(i, block, x_ND, &place, &mut context, pass);
        }
        let x_ND = self.model.norm.forward(x_ND);
        if let Some(observer) = &mut pass.observer {
            observer(self.model.layers.len(), &x_ND);
        }
        x_ND
    }

    fn block(&self, i: usize, block: &Block, x_ND: Tensor<2>, place: &Place, context: &mut Context, pass: &mut Pass) -> Tensor<2> {
        let mut attend = |x_ND: Tensor<2>| match (&block.self_attn, &block.mla) {
            (Some(attention), _) => attention.forward(&self.config, i, x_ND, place, context),
            (None, Some(mla)) => mla.forward(&self.config, i, x_ND, place, context),
            (None, None) => x_ND,
        };
        match self.config.layout {
            Layout::PreNorm => {
                let x_ND = x_ND.clone() + attend(apply(&block.input_layernorm, x_ND));
                x_ND.clone() + self.feed_forward(i, block, apply(&block.post_attention_layernorm, x_ND), pass)
            }
            Layout::PostNorm => {
                let x_ND = x_ND.clone() + apply(&block.post_attention_layernorm, attend(x_ND));
                x_ND.clone() + apply(&block.post_feedforward_layernorm, self.feed_forward(i, block, x_ND, pass))
            }
            Layout::Sandwich => {
                let x_ND = x_ND.clone() + apply(&block.post_attention_layernorm, attend(apply(&block.input_layernorm, x_ND)));
                let fed = self.feed_forward(i, block, apply(&block.pre_feedforward_layernorm, x_ND.clone()), pass);
                x_ND + apply(&block.post_feedforward_layernorm, fed)
            }
            Layout::Parallel => {
                let attended = attend(apply(&block.input_layernorm, x_ND.clone()));
                let fed = self.feed_forward(i, block, apply(&block.post_attention_layernorm, x_ND.clone()), pass);
                x_ND + attended + fed
            }
            Layout::ParallelShared => {
                let normed = apply(&block.input_layernorm, x_ND.clone());
                x_ND + attend(normed.clone()) + self.feed_forward(i, block, normed, pass)
            }
        }
    }

    fn feed_forward(&self, i: usize, block: &Block, x_ND: Tensor<2>, pass: &mut Pass) -> Tensor<2> {
        match (&block.mlp, &block.moe) {
            (Some(mlp), _) => mlp.forward(x_ND, &self.config),
            (None, Some(moe)) => {
                let noise = pass.routing_noise.map(|seed| seed.stream("router").at(i as u64));
                let (y_ND, routing) = moe.forward(x_ND, noise);
                if let Some(all) = &mut pass.routing {
                    all.push(routing);
                }
                y_ND
            }
            (None, None) => x_ND,
        }
    }
}

impl Mlp {
    fn forward(&self, x_ND: Tensor<2>, config: &DecoderConfig) -> Tensor<2> {
        let inner = match &self.gate_proj {
            Some(gate) => {
                let [gate, up] = Linear::forward_all([gate, &self.up_proj], x_ND);
                ops::gated(gate, up, config.hidden_act)
            }
            None => ops::activate(self.up_proj.forward(x_ND), config.hidden_act),
        };
        self.down_proj.forward(inner)
    }
}
