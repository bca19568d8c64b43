//! Which experts see a token, and with which weight.
//!
//! Scores and weights are differentiable tensors; the choice itself has no gradient and is made on the host, where the
//! grouping of tokens needs it anyway. Equal scores: the lower expert wins. Everything is `f32`, whatever the model's type.
//!
//! A group that is not chosen is out, as in transformers 5 (negative infinity), for DeepSeek-V2 too: there the reference
//! writes 0, which differs only when the allowed scores are exactly 0.
//!
//! Legend: N tokens, D hidden, E experts, K experts per token.

use crate::{MoeConfig, Scoring, TopkMethod};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, activation};
use llm_tensor::rayon::prelude::*;
use llm_tensor::{burn, host, ops};
use std::sync::Arc;

/// Tokens per task of the choice.
const TOKENS_PER_TASK: usize = 256;

/// One linear map from a token to a logit per expert.
#[derive(Module, Debug)]
pub struct Router {
    /// `[E, D]`.
    pub weight: Param<Tensor<2>>,
    /// `[E]`, added to the scores for the choice only (`noaux_tc`). A buffer: no gradient reaches it, [`crate::balance::bias_update`] moves it.
    pub e_score_correction_bias: Option<Param<Tensor<1>>>,
}

impl Router {
    /// `[N, D]` -> `[N, E]`.
    pub fn logits(&self, x_ND: Tensor<2>) -> Tensor<2> {
        ops::linear(single(x_ND), single(self.weight.val()))
    }

    /// The chosen experts of each token, best first, `[N * K]`, and their weights `[N, K]`.
    pub fn choose(&self, config: &MoeConfig, logits_NE: Tensor<2>) -> (Arc<[u32]>, Tensor<2>) {
        let [n, e] = logits_NE.dims();
        let scores_NE = scores(config.scoring_func, logits_NE);
        let bias = self.e_score_correction_bias.as_ref().map(|b| host::to_vec(b.val()));
        let chosen: Arc<[u32]> = select(config, &host::to_vec(scores_NE.clone()), bias.as_deref()).into();
        let k = config.num_experts_per_tok;
        let places = chosen.iter().enumerate().map(|(i, &expert)| (i / k * e) as u32 + expert).collect();
        let weights_NK = ops::embedding(scores_NE.reshape([n * e, 1]), places).reshape([n, k]);
        // DeepSeek-V3 adds 1e-20 against a sum of zero; beside a softmax's sum of at least K / E it vanishes.
        let weights_NK = if config.norm_topk_prob { weights_NK.clone() / (weights_NK.sum_dim(1) + 1e-20) } else { weights_NK };
        (chosen, if config.routed_scaling_factor == 1.0 { weights_NK } else { weights_NK * config.routed_scaling_factor })
    }
}

fn single(x: Tensor<2>) -> Tensor<2> {
    if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) }
}

/// Scores `[N, E]` of `f32` logits.
pub(crate) fn scores(scoring: Scoring, logits_NE: Tensor<2>) -> Tensor<2> {
    match scoring {
        Scoring::Softmax => activation::softmax(logits_NE, 1),
        Scoring::Sigmoid => activation::sigmoid(logits_NE),
    }
}

/// The chosen experts of every token, best first, from scores `[N, E]`: `[N * K]`.
pub fn select(config: &MoeConfig, scores_NE: &[f32], bias_E: Option<&[f32]>) -> Vec<u32> {
    let (e, k) = (config.num_experts, config.num_experts_per_tok);
    let mut chosen = vec![0u32; scores_NE.len() / e * k];
    let grouped = config.topk_method != TopkMethod::Greedy && config.n_group > 1;
    chosen.par_chunks_mut(TOKENS_PER_TASK * k).zip(scores_NE.par_chunks(TOKENS_PER_TASK * e)).for_each(|(chosen, scores)| {
        let mut adjusted = vec![0f32; e];
        let mut top = TopK::default();
        for (chosen, scores) in chosen.chunks_exact_mut(k).zip(scores.chunks_exact(e)) {
            let mut scores = scores;
            if grouped || bias_E.is_some() {
                adjusted.copy_from_slice(scores);
                bias_E.into_iter().flatten().zip(&mut adjusted).for_each(|(bias, score)| *score += bias);
                if grouped {
                    mask_groups(config, &mut adjusted, &mut top);
                }
                scores = &adjusted;
            }
            chosen.copy_from_slice(top.of(scores, k));
        }
    });
    chosen
}

/// Negative infinity in all groups but the best.
fn mask_groups(config: &MoeConfig, scores: &mut [f32], top: &mut TopK) {
    let size = config.num_experts / config.n_group;
    let group_scores: Vec<f32> = scores
        .chunks_exact(size)
        .map(|group| {
            let best = top.of(group, if config.topk_method == TopkMethod::NoauxTc { 2 } else { 1 });
            best.iter().map(|&i| group[i as usize]).sum()
        })
        .collect();
    let groups = top.of(&group_scores, config.topk_group);
    for (i, group) in scores.chunks_exact_mut(size).enumerate() {
        if !groups.contains(&(i as u32)) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Positions of the largest values, found in one pass with a small sorted list.
#[derive(Default)]
pub(crate) struct TopK(Vec<u32>);

impl TopK {
    /// The `k` largest of `values`, largest first, the lower position first among equals; a NaN is never preferred.
    pub(crate) fn of(&mut self, values: &[f32], k: usize) -> &[u32] {
        let best = &mut self.0;
        best.clear();
        for (i, &value) in values.iter().enumerate() {
            if best.len() < k {
                best.push(i as u32);
            } else if best.last().is_some_and(|&last| above(value, values[last as usize])) {
                best[k - 1] = i as u32;
            } else {
                continue;
            }
            let mut at = best.len() - 1;
            while at > 0 && above(value, values[best[at - 1] as usize]) {
                best.swap(at, at - 1);
                at -= 1;
            }
        }
        best
    }
}

fn above(a: f32, b: f32) -> bool {
    a > b || (b.is_nan() && !a.is_nan())
}

#[cfg(test)]
mod tests {
    use super::TopK;

    #[test]
    fn top_k_is_sorted_and_ties_go_to_the_lower_position() {
        let mut top = TopK::default();
        assert_eq!(top.of(&[1.0, 3.0, 3.0, 2.0, 3.0], 3), [1, 2, 4]);
        assert_eq!(top.of(&[0.5; 6], 4), [0, 1, 2, 3]);
        assert_eq!(top.of(&[f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN], 2), [1, 2]);
        assert_eq!(top.of(&[f32::NAN; 3], 2), [0, 1], "still distinct experts");
    }
}
