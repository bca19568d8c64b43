//! Keeping experts equally busy: losses on the router's logits, and the bias update that needs no loss.
//!
//! Every balancing loss is `sum over tokens and experts of probability * coefficient`, where the coefficients are constants
//! made of how often each expert was among the best of its token. They are computed on the host; gradients flow through
//! the probabilities only, as in all the references:
//!
//! - [`load_balancing_loss`]: Hugging Face's form of Switch Transformer's loss, balanced value K (experts per token), not 1
//! - [`switch_loss`]: Megatron-LM's, one layer, balanced value 1; equal to the former divided by K
//! - [`sequence_loss`]: DeepSeek-V2 and V3 (equations 17 to 20), per sequence, balanced value 1
//! - [`z_loss`]: ST-MoE, keeps logits small
//! - [`bias_update`]: DeepSeek-V3, no gradient at all
//!
//! None is multiplied by a coefficient here; [`auxiliary_loss`] does that. The best experts of a token are those by score, without
//! a correction bias or groups.
//!
//! Legend: N tokens, E experts, K experts per token.

use crate::router::{TopK, scores};
use crate::{MoeConfig, Routing, Scoring};
use burn::tensor::{DType, Tensor, activation};
use llm_tensor::{burn, host};
use std::ops::Range;

/// Scores that sum to 1 over the experts.
pub(crate) fn probabilities(scoring: Scoring, logits_NE: Tensor<2>) -> Tensor<2> {
    let p_NE = scores(scoring, logits_NE.cast(DType::F32));
    match scoring {
        Scoring::Softmax => p_NE,
        Scoring::Sigmoid => p_NE.clone() / (p_NE.sum_dim(1) + 1e-20),
    }
}

fn is_counted(mask: Option<&[bool]>, token: usize) -> bool {
    mask.is_none_or(|m| m[token])
}

/// How often each expert is among the K best of the counted tokens, and how many tokens those are.
fn load(p_NE: &[f32], e: usize, k: usize, tokens: Range<usize>, mask: Option<&[bool]>) -> (Vec<f64>, usize) {
    let (mut counts, mut counted) = (vec![0f64; e], 0);
    let mut top = TopK::default();
    for t in tokens.filter(|&t| is_counted(mask, t)) {
        counted += 1;
        top.of(&p_NE[t * e..][..e], k).iter().for_each(|&i| counts[i as usize] += 1.0);
    }
    (counts, counted)
}

/// Coefficients `factor * counts` of the counted tokens, zero for the others.
fn coefficients(counts: &[f64], factor: f64, tokens: Range<usize>, mask: Option<&[bool]>, out: &mut Vec<f32>) {
    for t in tokens {
        let factor = if is_counted(mask, t) { factor } else { 0.0 };
        out.extend(counts.iter().map(|c| (c * factor) as f32));
    }
}

fn weigh(p_NE: Tensor<2>, coefficients: Vec<f32>) -> Tensor<1> {
    let constant = host::from_vec(coefficients, p_NE.dims(), &p_NE.device());
    (p_NE * constant).sum()
}

/// Switch Transformer's loss in Hugging Face's form, over the logits of all layers: `E * sum_e f_e P_e`, where `f_e` is how many of a
/// token's K experts are expert `e`, on average, and `P_e` its mean probability. Tokens whose `mask` is false are not counted.
pub fn load_balancing_loss(logits: &[Tensor<2>], k: usize, mask: Option<&[bool]>) -> Option<Tensor<1>> {
    let e = logits.first()?.dims()[1];
    let (mut totals, mut rows) = (vec![0f64; e], 0usize);
    let layers: Vec<_> = logits.iter().map(|l| probabilities(Scoring::Softmax, l.clone())).collect();
    for p_NE in &layers {
        let (counts, counted) = load(&host::to_vec(p_NE.clone()), e, k, 0..p_NE.dims()[0], mask);
        totals.iter_mut().zip(counts).for_each(|(total, c)| *total += c);
        rows += counted;
    }
    let factor = e as f64 / (rows.max(1) as f64).powi(2);
    let losses = layers.into_iter().map(|p_NE| {
        let n = p_NE.dims()[0];
        let mut c = Vec::with_capacity(n * e);
        coefficients(&totals, factor, 0..n, mask, &mut c);
        weigh(p_NE, c)
    });
    losses.reduce(|a, b| a + b)
}

/// Megatron-LM's form for one layer: `E / (K T^2) * sum_e (sum of probabilities) * (tokens of e)`.
pub fn switch_loss(logits_NE: Tensor<2>, k: usize, scoring: Scoring, mask: Option<&[bool]>) -> Tensor<1> {
    let n = logits_NE.dims()[0];
    sequence_loss(logits_NE, k, scoring, &[n], mask)
}

/// The mean over sequences of `sum_e f_e P_e` inside each, with `f_e = E / (K T) * (tokens of e)`. `lengths` are those of consecutive
/// sequences and sum to N; a sequence without counted tokens adds nothing and is not counted either.
///
/// # Panics
/// When the lengths do not sum to N.
pub fn sequence_loss(logits_NE: Tensor<2>, k: usize, scoring: Scoring, lengths: &[usize], mask: Option<&[bool]>) -> Tensor<1> {
    let [n, e] = logits_NE.dims();
    assert_eq!(lengths.iter().sum::<usize>(), n, "sequence lengths must cover all tokens");
    let p_NE = probabilities(scoring, logits_NE);
    let values = host::to_vec(p_NE.clone());
    let mut start = 0;
    let sequences: Vec<_> = lengths
        .iter()
        .map(|length| {
            let tokens = start..start + length;
            start += length;
            let (counts, counted) = load(&values, e, k, tokens.clone(), mask);
            (tokens, counts, counted)
        })
        .collect();
    let counted_sequences = sequences.iter().filter(|s| s.2 > 0).count().max(1);
    let mut c = Vec::with_capacity(n * e);
    for (tokens, counts, counted) in sequences {
        let factor = e as f64 / (k as f64 * (counted.max(1) as f64).powi(2) * counted_sequences as f64);
        coefficients(&counts, factor, tokens, mask, &mut c);
    }
    weigh(p_NE, c)
}

/// Mean over the counted tokens of the squared log-sum-exp of their logits.
pub fn z_loss(logits_NE: Tensor<2>, mask: Option<&[bool]>) -> Tensor<1> {
    let logits_NE = logits_NE.cast(DType::F32);
    let n = logits_NE.dims()[0];
    // For any column: logit - log softmax = log-sum-exp.
    let first_N1 = logits_NE.clone().slice([0..n, 0..1]);
    let lse_N1 = first_N1 - activation::log_softmax(logits_NE, 1).slice([0..n, 0..1]);
    let counted = (0..n).filter(|&t| is_counted(mask, t)).count().max(1);
    let c = (0..n).map(|t| if is_counted(mask, t) { 1.0 / counted as f32 } else { 0.0 }).collect();
    weigh(lse_N1.clone() * lse_N1, c)
}

/// The sum of all losses that `config` gives a coefficient: the load-balancing loss once over all layers (as Hugging Face), z-loss and
/// sequence-wise loss summed over layers (as Megatron-LM and DeepSeek). None when no coefficient is set or there is no layer.
pub fn auxiliary_loss(config: &MoeConfig, layers: &[Routing], lengths: &[usize], mask: Option<&[bool]>) -> Option<Tensor<1>> {
    let k = config.num_experts_per_tok;
    let mut losses = Vec::new();
    if config.router_aux_loss_coef > 0.0 {
        let logits: Vec<_> = layers.iter().map(|l| l.logits_NE.clone()).collect();
        losses.extend(load_balancing_loss(&logits, k, mask).map(|loss| loss * config.router_aux_loss_coef));
    }
    for layer in layers {
        if config.router_z_loss_coef > 0.0 {
            losses.push(z_loss(layer.logits_NE.clone(), mask) * config.router_z_loss_coef);
        }
        if config.seq_aux_loss_coef > 0.0 {
            losses.push(sequence_loss(layer.logits_NE.clone(), k, config.scoring_func, lengths, mask) * config.seq_aux_loss_coef);
        }
    }
    losses.into_iter().reduce(|a, b| a + b)
}

/// One step of the loss-free balancing: experts below the mean load go up by `rate`, those above go down. `counts` are of the whole
/// batch of an optimiser step, summed over accumulation and devices.
pub fn bias_update(bias: &[f32], counts: &[u64], rate: f64) -> Vec<f32> {
    let total: u128 = counts.iter().map(|&c| u128::from(c)).sum();
    let step = |&count: &u64| match total.cmp(&(u128::from(count) * counts.len() as u128)) {
        std::cmp::Ordering::Greater => rate as f32,
        std::cmp::Ordering::Less => -rate as f32,
        std::cmp::Ordering::Equal => 0.0,
    };
    bias.iter().zip(counts).map(|(bias, count)| bias + step(count)).collect()
}
