//! The forward pass in segments: entry, one block at a time, exit. Whoever calls decides which of them leave a gradient tape, and can run
//! one again: activation recomputation (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, section 3) does both.
//!
//! A segment computes what [`Decoder::hidden_routed`] computes there, to the bit, the noise of a router included: that is a function of
//! seed and layer.
//!
//! Legend: N tokens, D hidden.

use super::{Context, Decoder, PackedBatch, Pass, Place};
use burn::tensor::Tensor;
use llm_moe::Routing;
use llm_run::Seed;
use llm_tensor::burn;

/// A decoder and the batch that goes through it.
pub struct Segments<'a> {
    decoder: &'a Decoder,
    batch: PackedBatch,
    place: Place,
    noise: Option<Seed>,
}

impl std::fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments").field("batch", &self.batch).field("noise", &self.noise).finish_non_exhaustive()
    }
}

impl Decoder {
    /// The forward pass over a packed batch, to be taken in segments. `noise` as in [`Decoder::hidden_routed`].
    pub fn segments<'a>(&'a self, batch: &PackedBatch, noise: Option<Seed>) -> Segments<'a> {
        Segments { decoder: self, batch: batch.clone(), place: self.place(&batch.positions, &Context::Packed(batch)), noise }
    }
}

impl Segments<'_> {
    /// The residual stream `[N, D]` as it enters the first block.
    pub fn enter(&self) -> Tensor<2> {
        self.decoder.enter(&self.batch)
    }

    /// One block: the residual stream `[N, D]` before it to that after it, and what its router did, if it has one.
    pub fn block(&self, layer: usize, x_ND: Tensor<2>) -> (Tensor<2>, Option<Routing>) {
        self.decoder.note_batch(&self.batch.ids);
        let mut pass = Pass { routing_noise: self.noise, routing: Some(Vec::new()), ..Pass::default() };
        let block = &self.decoder.model.layers[layer];
        let x_ND = self.decoder.block(layer, block, x_ND, &self.place, &mut Context::Packed(&self.batch), &mut pass);
        (x_ND, pass.routing.and_then(|mut routing| routing.pop()))
    }

    /// The final norm: the residual stream `[N, D]` after the last block to hidden states.
    pub fn leave(&self, x_ND: Tensor<2>) -> Tensor<2> {
        self.decoder.model.norm.forward(x_ND)
    }
}
