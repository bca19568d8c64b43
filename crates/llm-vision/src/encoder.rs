//! The stack of blocks that vision and text towers of CLIP and SigLIP share: norms before the branches, biases everywhere.
//!
//! Where every token sees every other, scores are a matrix product and a softmax; there are a few hundred tokens an image, so they are
//! simply stored. Causal attention is the decoder's.
//!
//! Field names are the tensor names of checkpoints.
//!
//! Legend: B images or texts, T tokens of one, N = B*T, D hidden, F feed-forward, H heads, K head size.

use crate::config::VisionActivation;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Bool, Device, Tensor, activation::softmax};
use llm_tensor::nn::{Linear, Norm};
use llm_tensor::ops::{self, Activation, AttentionSpan, Score};

/// The stack of blocks.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Blocks.
    pub layers: Vec<EncoderLayer>,
}

/// A block with norms before its branches.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Before attention.
    pub layer_norm1: Norm,
    /// Attention.
    pub self_attn: SelfAttention,
    /// Before the feed-forward block.
    pub layer_norm2: Norm,
    /// Feed-forward.
    pub mlp: FeedForward,
}

/// Attention between the tokens of an image or a text.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[D, D]`.
    pub q_proj: Linear,
    /// `[D, D]`.
    pub k_proj: Linear,
    /// `[D, D]`.
    pub v_proj: Linear,
    /// `[D, D]`.
    pub out_proj: Linear,
}

/// Feed-forward.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[F, D]`.
    pub fc1: Linear,
    /// `[D, F]`.
    pub fc2: Linear,
}

/// Which tokens a token sees.
#[derive(Debug, Clone)]
pub(crate) enum Sight {
    /// All of its row.
    All,
    /// Those before it and itself.
    Causal(AttentionSpan),
    /// `[B, 1, T, T]` or what broadcasts to it, true where the query of the third dimension must not see the key of the fourth.
    Masked(Box<Tensor<4, Bool>>),
}

/// What a block needs to know about the rows it works on.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    pub batch: usize,
    pub heads: usize,
    pub act: VisionActivation,
    pub sight: Sight,
}

pub(crate) fn activate(x_NF: Tensor<2>, act: VisionActivation) -> Tensor<2> {
    match act {
        VisionActivation::Gelu => ops::activate(x_NF, Activation::Gelu),
        VisionActivation::GeluPytorchTanh => ops::activate(x_NF, Activation::GeluTanh),
        // x s(1.702 x) = silu(1.702 x) / 1.702, which has a kernel.
        VisionActivation::QuickGelu => ops::activate(x_NF.mul_scalar(1.702), Activation::Silu).div_scalar(1.702),
    }
}

/// `q [B, Tq, D]`, `k`, `v [B, T, D]` -> `[B, Tq, D]`, in heads.
pub(crate) fn attend(q_BTD: Tensor<3>, k_BTD: Tensor<3>, v_BTD: Tensor<3>, heads: usize, hidden: Option<&Tensor<4, Bool>>) -> Tensor<3> {
    let [b, queries, d] = q_BTD.dims();
    let split = |x_BTD: Tensor<3>| {
        let t = x_BTD.dims()[1];
        x_BTD.reshape([b, t, heads, d / heads]).swap_dims(1, 2)
    };
    let (q_BHTK, k_BHTK, v_BHTK) = (split(q_BTD), split(k_BTD), split(v_BTD));
    let scale = 1.0 / ((d / heads) as f64).sqrt();
    let mut scores = q_BHTK.mul_scalar(scale).matmul(k_BHTK.swap_dims(2, 3));
    if let Some(hidden) = hidden {
        // The largest negative number of half precision: a row in which everything is hidden stays finite.
        let shape = scores.dims();
        scores = scores.mask_fill(hidden.clone().expand(shape), -65_504.0);
    }
    softmax(scores, 3).matmul(v_BHTK).swap_dims(1, 2).reshape([b, queries, d])
}

/// The same values on a tape or off it, as `device` says: modules whose parts are frozen in different ways meet here.
pub(crate) fn beside<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    match (x.device().is_autodiff(), device.is_autodiff()) {
        (false, true) => Tensor::from_inner(x),
        _ => x,
    }
}

impl Encoder {
    /// The output of each of the first `blocks` blocks for `[N, D]`.
    pub(crate) fn states<'a>(&'a self, x_ND: Tensor<2>, blocks: usize, rows: &'a Rows) -> impl Iterator<Item = Tensor<2>> + 'a {
        self.layers.iter().take(blocks).scan(x_ND, move |x_ND, layer| {
            *x_ND = layer.forward(x_ND.clone(), rows);
            Some(x_ND.clone())
        })
    }
}

impl EncoderLayer {
    fn forward(&self, x_ND: Tensor<2>, rows: &Rows) -> Tensor<2> {
        let x_ND = x_ND.clone() + self.self_attn.forward(self.layer_norm1.forward(x_ND), rows);
        x_ND.clone() + self.mlp.forward(self.layer_norm2.forward(x_ND), rows.act)
    }
}

impl SelfAttention {
    fn forward(&self, x_ND: Tensor<2>, rows: &Rows) -> Tensor<2> {
        let ([n, d], heads) = (x_ND.dims(), rows.heads);
        let (q_ND, k_ND, v_ND) = (self.q_proj.forward(x_ND.clone()), self.k_proj.forward(x_ND.clone()), self.v_proj.forward(x_ND));
        let hidden = match &rows.sight {
            Sight::Causal(span) => {
                let split = |x: Tensor<2>| x.reshape([n, heads, d / heads]);
                let score = Score { scale: 1.0 / ((d / heads) as f32).sqrt(), softcap: None };
                return self.out_proj.forward(ops::attention(split(q_ND), split(k_ND), split(v_ND), span, score).reshape([n, d]));
            }
            Sight::Masked(hidden) => Some(hidden.as_ref()),
            Sight::All => None,
        };
        let split = |x: Tensor<2>| x.reshape([rows.batch, n / rows.batch, d]);
        self.out_proj.forward(attend(split(q_ND), split(k_ND), split(v_ND), heads, hidden).reshape([n, d]))
    }
}

impl FeedForward {
    pub(crate) fn forward(&self, x_ND: Tensor<2>, act: VisionActivation) -> Tensor<2> {
        self.fc2.forward(activate(self.fc1.forward(x_ND), act))
    }
}
