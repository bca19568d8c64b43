//! Losses that pull an image and its text together and push the others apart.
//!
//! Legend: B images and as many texts, T texts, E features.

use llm_tensor::burn::tensor::{Tensor, activation::log_sigmoid};
use llm_tensor::ops;

/// Largest `logit_scale` that CLIP was trained with: `ln 100` (Radford et al., 2021, section 2.5). Trainers clamp the parameter to it after
/// each step; the losses take what they are given.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// Rows of length one; a row of zeros stays zeros and gets no gradient.
pub fn normalize(x_BE: Tensor<2>) -> Tensor<2> {
    const SMALLEST: f64 = 1e-30;
    let length_B1 = x_BE.clone().powi_scalar(2).sum_dim(1).clamp_min(SMALLEST).sqrt();
    x_BE / length_B1
}

/// Cosines times `exp(logit_scale)`, plus a bias: `[B, E]`, `[T, E]` -> `[B, T]`. `logit_scale` and `logit_bias` are `[1]`.
pub fn logits(image_BE: Tensor<2>, text_TE: Tensor<2>, logit_scale: Tensor<1>, logit_bias: Option<Tensor<1>>) -> Tensor<2> {
    let logits_BT = normalize(image_BE).matmul(normalize(text_TE).transpose()) * logit_scale.exp().unsqueeze::<2>();
    match logit_bias {
        Some(bias) => logits_BT + bias.unsqueeze::<2>(),
        None => logits_BT,
    }
}

/// CLIP: the mean of two cross entropies, which text an image belongs to and which image a text belongs to, averaged over the batch
/// (Radford et al., 2021, figure 3). Row `i` of both belongs together. `[1]`.
///
/// The features are normalised here.
pub fn clip_loss(image_BE: Tensor<2>, text_BE: Tensor<2>, logit_scale: Tensor<1>) -> Tensor<1> {
    let logits_BB = logits(image_BE, text_BE, logit_scale, None);
    let own: ops::Indices = (0..logits_BB.dims()[0] as u32).collect();
    let texts_B = ops::cross_entropy(logits_BB.clone(), own.clone());
    let images_B = ops::cross_entropy(logits_BB.transpose(), own);
    (texts_B.mean() + images_B.mean()).mul_scalar(0.5)
}

/// SigLIP: each of the B x B pairs is a question of its own, does it belong together; the sum of their negative log-likelihoods over B
/// (Zhai et al., 2023, algorithm 1). Row `i` of both belongs together. `[1]`.
///
/// The features are normalised here.
pub fn siglip_loss(image_BE: Tensor<2>, text_BE: Tensor<2>, logit_scale: Tensor<1>, logit_bias: Tensor<1>) -> Tensor<1> {
    let logits_BB = logits(image_BE, text_BE, logit_scale, Some(logit_bias));
    let b = logits_BB.dims()[0];
    // 1 on the diagonal, -1 elsewhere.
    let signs = Tensor::<2>::eye(b, &logits_BB.device()).mul_scalar(2.0).sub_scalar(1.0).cast(logits_BB.dtype());
    log_sigmoid(logits_BB * signs).sum().div_scalar(-(b as f64))
}
