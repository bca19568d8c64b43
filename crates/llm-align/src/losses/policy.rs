//! Surrogate losses of policy gradients on packed answers, and how the losses of tokens become one number.
//!
//! | surrogate | token loss, with ratio `r = p / p_old` | source |
//! |---|---|---|
//! | [`clipped`] | `-min(r A, clip(r, 1 - low, 1 + high) A)` | PPO (2017), GRPO; DAPO's clip-higher |
//! | with `delta` | `r` of the first term is at most `delta` | INTELLECT-2, TRL `delta`: two-sided clipping |
//! | with `dual` | for `A < 0` at most `-dual A` | Ye et al., Mastering Complex Control in MOBA Games, 2020 |
//! | [`cispo`] | `-sg(min(r, max)) A log p` | MiniMax-M1 (2025); TRL `cispo` |
//! | [`sapo`] | `-A sigmoid(t (r - 1)) 4 / t` | SAPO (Gao et al., 2025); TRL `sapo` |
//!
//! The ratio is that of the token, of the whole answer to the power of 1 / length (GSPO, Zheng et al., 2025), or of the whole answer
//! (RLOO): [`ImportanceLevel`]. Where the old policy is the present one every ratio is 1, and the gradient of all of them is that
//! of `-A log p`.
//!
//! Legend: M trained tokens, A answers.

use llm_tensor::burn::tensor::{Device, Tensor, activation};
use llm_tensor::host;
use serde::{Deserialize, Serialize};

/// Whose probability the ratio compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// Each token's own (PPO, GRPO).
    #[default]
    Token,
    /// The geometric mean over the answer, which all of its tokens share (GSPO; TRL `sequence`).
    Sequence,
    /// That of the whole answer (TRL's RLOO trainer).
    SequenceProduct,
}

/// How the losses of tokens become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over answers of each answer's token mean (DeepSeekMath, equation 3).
    Grpo,
    /// Mean over micro-batches of each one's token mean: depends on how the answers are cut into micro-batches (TRL `bnpo`).
    Bnpo,
    /// Mean over all tokens of the update (Yu et al., DAPO, 2025).
    #[default]
    Dapo,
    /// Sum over tokens / (answers * max_tokens) (Liu et al., Dr. GRPO, 2025).
    DrGrpo,
}

/// What an update consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateSize {
    /// Its answers.
    pub answers: usize,
    /// Their trained tokens.
    pub tokens: usize,
    /// Most tokens an answer may have.
    pub max_tokens: usize,
}

impl LossType {
    /// Weight of each token of an answer of `length` trained tokens. For [`LossType::Bnpo`] `update` is one micro-batch, and the caller
    /// divides by their number.
    pub fn weight(self, length: usize, update: UpdateSize) -> f32 {
        let UpdateSize { answers, tokens, max_tokens } = update;
        match self {
            Self::Dapo | Self::Bnpo => 1.0 / tokens.max(1) as f32,
            Self::Grpo => 1.0 / (answers * length.max(1)) as f32,
            Self::DrGrpo => 1.0 / (answers * max_tokens) as f32,
        }
    }
}

/// A tensor that takes part in a computation on `device` without being trained.
pub fn constant<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    if device.is_autodiff() {
        Tensor::from_inner(host::from_vec(values, shape, &device.clone().inner()))
    } else {
        host::from_vec(values, shape, device)
    }
}

/// Which answer each token of a packed row belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// `[M]` answer of each token, below A.
    owner: Vec<usize>,
    /// `[A]` tokens of each answer.
    lengths: Vec<usize>,
}

impl Owners {
    /// From `[M]` numbers that are equal for tokens of one answer, whose tokens stand together.
    pub fn new(owner: &[usize]) -> Self {
        let mut lengths: Vec<usize> = Vec::new();
        let mut own = Vec::with_capacity(owner.len());
        for (i, number) in owner.iter().enumerate() {
            match lengths.last_mut() {
                Some(last) if owner[i - 1] == *number => *last += 1,
                _ => lengths.push(1),
            }
            own.push(lengths.len() - 1);
        }
        Self { owner: own, lengths }
    }

    /// Tokens of each answer, `[A]`.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// `[A, M]`: 1, or a share of it, where a token belongs to an answer.
    fn matrix(&self, share: impl Fn(usize) -> f32, device: &Device) -> Tensor<2> {
        let (a, m) = (self.lengths.len(), self.owner.len());
        let mut values = vec![0f32; a * m];
        for (i, &owner) in self.owner.iter().enumerate() {
            values[owner * m + i] = share(owner);
        }
        constant(values, [a, m], device)
    }

    /// `[M]`: for every token the sum of `x_M` over its answer, or the mean.
    fn spread(&self, x_M: Tensor<1>, mean: bool) -> Tensor<1> {
        let (m, device) = (self.owner.len(), x_M.device());
        let share = |owner: usize| if mean { 1.0 / self.lengths[owner] as f32 } else { 1.0 };
        let x_A1 = self.matrix(share, &device).matmul(x_M.reshape([m, 1]));
        self.matrix(|_| 1.0, &device).transpose().matmul(x_A1).reshape([m])
    }
}

/// `[M]` logarithms of the ratios: of the tokens, or of their answers for every token.
pub fn log_ratios(log_p_M: Tensor<1>, old_M: Tensor<1>, level: ImportanceLevel, owners: &Owners) -> Tensor<1> {
    let of_tokens_M = log_p_M - old_M;
    match level {
        ImportanceLevel::Token => of_tokens_M,
        ImportanceLevel::Sequence => owners.spread(of_tokens_M, true),
        ImportanceLevel::SequenceProduct => owners.spread(of_tokens_M, false),
    }
}

/// Bounds of the ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipRange {
    /// How far below 1 it counts.
    pub low: f32,
    /// How far above 1 it counts.
    pub high: f32,
    /// Largest ratio of the term that is not clipped; above 1 + high.
    pub delta: Option<f32>,
    /// Largest loss of a bad token as a multiple of its -advantage; above 1.
    pub dual: Option<f32>,
}

impl ClipRange {
    /// The same distance on both sides: PPO.
    pub fn symmetric(eps: f32) -> Self {
        Self { low: eps, high: eps, delta: None, dual: None }
    }
}

/// `[M]` losses of PPO and its relatives.
pub fn clipped(log_ratio_M: Tensor<1>, advantages_M: Tensor<1>, range: &ClipRange) -> Tensor<1> {
    let ratio_M = log_ratio_M.exp();
    let bounded_M = ratio_M.clone().clamp(1.0 - range.low, 1.0 + range.high) * advantages_M.clone();
    let free_M = match range.delta {
        Some(delta) => ratio_M.clamp_max(delta),
        None => ratio_M,
    };
    let losses_M = (free_M * advantages_M.clone()).min_pair(bounded_M).neg();
    let Some(dual) = range.dual else { return losses_M };
    let bad_M = advantages_M.clone().lower_elem(0.0);
    losses_M.clone().mask_where(bad_M, losses_M.min_pair(advantages_M.mul_scalar(-dual)))
}

/// `[M]` losses of CISPO: the ratio, at most `max`, weighs the gradient of `log p` and has none itself.
pub fn cispo(log_p_M: Tensor<1>, log_ratio_M: Tensor<1>, advantages_M: Tensor<1>, max: f32) -> Tensor<1> {
    let weight_M = log_ratio_M.exp().clamp_max(max).detach();
    (weight_M * advantages_M * log_p_M).neg()
}

/// `[M]` losses of SAPO: a soft gate of temperature `positive` where the advantage is positive, `negative` elsewhere.
pub fn sapo(log_ratio_M: Tensor<1>, advantages_M: Tensor<1>, positive: f32, negative: f32) -> Tensor<1> {
    let distance_M = log_ratio_M.exp().sub_scalar(1.0);
    let gate = |temperature: f32| activation::sigmoid(distance_M.clone().mul_scalar(temperature)).mul_scalar(4.0 / temperature);
    let good_M = advantages_M.clone().greater_elem(0.0);
    (gate(negative).mask_where(good_M, gate(positive)) * advantages_M).neg()
}

/// How many tokens the bounds take the gradient of: `([1] low, [1] high)`, with negative advantages below and positive ones above (TRL's
/// `clip_ratio/low` and `clip_ratio/high` before the mean).
pub fn clip_counts(log_ratio_M: Tensor<1>, advantages_M: Tensor<1>, range: &ClipRange) -> (Tensor<1>, Tensor<1>) {
    let (ratio_M, advantages_M) = (log_ratio_M.inner().exp(), advantages_M.inner());
    let below_M = ratio_M.clone().lower_elem(1.0 - range.low).bool_and(advantages_M.clone().lower_elem(0.0));
    let above_M = ratio_M.greater_elem(1.0 + range.high).bool_and(advantages_M.greater_elem(0.0));
    (below_M.float().sum(), above_M.float().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;

    fn tracked(values: &[f32]) -> Tensor<1> {
        host::from_vec(values.to_vec(), [values.len()], &Device::flex().autodiff()).require_grad()
    }

    fn plain(values: &[f32]) -> Tensor<1> {
        constant(values.to_vec(), [values.len()], &Device::flex().autodiff())
    }

    /// The gradient of the weighted sum of `loss(log_p)`.
    fn gradient(log_p: &[f32], loss: impl Fn(Tensor<1>) -> Tensor<1>) -> Vec<f32> {
        let log_p_M = tracked(log_p);
        let gradients = loss(log_p_M.clone()).sum().backward();
        log_p_M.grad(&gradients).map(host::to_vec).unwrap_or_default()
    }

    const LOG_P: [f32; 5] = [-1.0, -0.3, -2.0, -0.7, -0.1];
    const ADVANTAGES: [f32; 5] = [0.5, 0.5, 0.5, -1.5, -1.5];

    /// If this fails, one update per batch of rollouts is not the policy gradient: the plain form that it uses would be another one.
    #[test]
    fn at_ratio_one_every_surrogate_has_the_gradient_of_the_policy_gradient() {
        let owners = Owners::new(&[4, 4, 4, 9, 9]);
        let range = ClipRange { low: 0.2, high: 0.28, delta: Some(4.0), dual: Some(3.0) };
        let ratios = |log_p_M: &Tensor<1>, level| log_ratios(log_p_M.clone(), log_p_M.clone().detach(), level, &owners);
        type Surrogate<'a> = Box<dyn Fn(Tensor<1>) -> Tensor<1> + 'a>;
        let surrogates: [(&str, Surrogate); 4] = [
            ("token", Box::new(|p: Tensor<1>| clipped(ratios(&p, ImportanceLevel::Token), plain(&ADVANTAGES), &range))),
            ("sequence", Box::new(|p: Tensor<1>| clipped(ratios(&p, ImportanceLevel::Sequence), plain(&ADVANTAGES), &range))),
            ("cispo", Box::new(|p: Tensor<1>| cispo(p.clone(), ratios(&p, ImportanceLevel::Token), plain(&ADVANTAGES), 5.0))),
            ("sapo", Box::new(|p: Tensor<1>| sapo(ratios(&p, ImportanceLevel::Token), plain(&ADVANTAGES), 1.0, 1.05))),
        ];
        for (name, surrogate) in surrogates {
            // `old` is the same tensor without its tape, so a leaf must not keep its gradient through it.
            let log_p_M = tracked(&LOG_P);
            let moved_M = log_p_M.clone().mul_scalar(1.0);
            let gradients = surrogate(moved_M).sum().backward();
            let got = log_p_M.grad(&gradients).map(host::to_vec).unwrap_or_default();
            for (g, a) in got.iter().zip(ADVANTAGES) {
                assert!((g + a).abs() < 1e-5, "{name}: {got:?}");
            }
        }
    }

    /// If this fails, a bad token that became likely again can push without bound.
    #[test]
    fn the_dual_clip_bounds_only_bad_tokens() {
        let old = [-4.0, -4.0];
        let loss = |p: Tensor<1>, dual| {
            let owners = Owners::new(&[0, 1]);
            let ratios_M = log_ratios(p, plain(&old), ImportanceLevel::Token, &owners);
            clipped(ratios_M, plain(&[-1.0, 1.0]), &ClipRange { dual, ..ClipRange::symmetric(0.2) })
        };
        assert_eq!(host::to_vec(loss(plain(&[-1.0, -1.0]), Some(3.0)).inner()), [3.0, -1.2]);
        assert_eq!(gradient(&[-1.0, -1.0], |p| loss(p, Some(3.0))), [0.0, 0.0]);
        assert!(gradient(&[-1.0, -1.0], |p| loss(p, None))[0] > 20.0);
    }

    #[test]
    fn answers_are_told_apart_by_their_numbers() {
        let owners = Owners::new(&[0, 0, 3, 5, 5, 5]);
        assert_eq!(owners.lengths(), [2, 1, 3]);
        let x_M = plain(&[1.0, 3.0, 5.0, 1.0, 2.0, 6.0]);
        assert_eq!(host::to_vec(owners.spread(x_M.clone(), false).inner()), [4.0, 4.0, 5.0, 9.0, 9.0, 9.0]);
        assert_eq!(host::to_vec(owners.spread(x_M, true).inner()), [2.0, 2.0, 5.0, 3.0, 3.0, 3.0]);
        assert_eq!(Owners::new(&[]).lengths(), [0usize; 0]);
    }

    /// If this fails, the four ways to average are not those of their papers.
    #[test]
    fn weights_of_tokens() {
        let update = UpdateSize { answers: 4, tokens: 40, max_tokens: 16 };
        let weight = |loss: LossType| loss.weight(5, update);
        assert_eq!([weight(LossType::Grpo), weight(LossType::Dapo), weight(LossType::DrGrpo)], [1.0 / 20.0, 1.0 / 40.0, 1.0 / 64.0]);
    }
}
