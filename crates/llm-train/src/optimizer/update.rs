//! One step of one parameter.

use super::config::{AdjustLr, NsCoefficients, OptimizerConfig, Rule};
use super::moments::{Moments, matrix};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::ops::{self, AdafactorStep, AdamWStep, Iteration, LionStep, MuonStep};

/// Best polynomials of the rounds of Muon's iteration (Amsel et al. 2025, algorithm 1); the last is that of every further round.
const POLAR_EXPRESS: [[f64; 3]; 8] = [
    [8.28721201814563, -23.595886519098837, 17.300387312530933],
    [4.107059111542203, -2.9478499167379106, 0.5448431082926601],
    [3.9486908534822946, -2.908902115962949, 0.5518191394370137],
    [3.3184196573706015, -2.488488024314874, 0.51004894012372],
    [2.300652019954817, -1.6689039845747493, 0.4188073119525673],
    [1.891301407787398, -1.2679958271945868, 0.37680408948524835],
    [1.8750014808534479, -1.2500016453999487, 0.3750001645474248],
    [1.875, -1.25, 0.375],
];

/// Room that the authors leave in all rounds but the last kind, and in the norm before them.
const POLAR_SLACK: f64 = 1.01;

const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// What is the same for all parameters of a step.
pub(super) struct Step<'a> {
    pub(super) config: &'a OptimizerConfig,
    /// Learning rate of this step.
    pub(super) lr: f64,
    /// 1-based.
    pub(super) step: u64,
    /// Muon's iteration.
    pub(super) iteration: Iteration,
}

/// The iteration that a configuration asks for.
pub(super) fn iteration(config: &OptimizerConfig) -> Iteration {
    let muon = &config.muon;
    let polar = muon.ns_coefficients == NsCoefficients::PolarExpress;
    let round = |i: usize| -> [f32; 3] {
        let last = POLAR_EXPRESS.len() - 1;
        let slack = if i < last { POLAR_SLACK } else { 1.0 };
        let [a, b, c] = POLAR_EXPRESS[i.min(last)];
        let polynomial = if polar { [a / slack, b / slack.powi(3), c / slack.powi(5)] } else { QUINTIC };
        polynomial.map(|x| x as f32)
    };
    Iteration { coefficients: (0..muon.ns_steps).map(round).collect(), slack: if polar { POLAR_SLACK as f32 } else { 1.0 }, eps: muon.eps as f32 }
}

impl Step<'_> {
    /// New value in `f32` and state of a parameter.
    pub(super) fn update(
        &self,
        rule: &Rule,
        shape: &[usize],
        value: Tensor<1>,
        moments: Moments,
        gradient: Tensor<1>,
        grad_scale: f32,
    ) -> (Tensor<1>, Moments) {
        match moments {
            Moments::AdamW { exp_avg, exp_avg_sq } => {
                let (value, exp_avg, exp_avg_sq) = ops::adamw(value, exp_avg, exp_avg_sq, gradient, self.adamw(rule, grad_scale));
                (value, Moments::AdamW { exp_avg, exp_avg_sq })
            }
            Moments::AdamW8bit { exp_avg, exp_avg_sq } => {
                let (value, exp_avg, exp_avg_sq) = ops::adamw_8bit(value, *exp_avg, *exp_avg_sq, gradient, self.adamw(rule, grad_scale));
                (value, Moments::AdamW8bit { exp_avg: Box::new(exp_avg), exp_avg_sq: Box::new(exp_avg_sq) })
            }
            Moments::Muon { momentum_buffer } => {
                let step = self.muon(rule, matrix(shape).unwrap_or([1, value.dims()[0]]), grad_scale);
                let (value, momentum_buffer) = ops::muon(value, momentum_buffer, gradient, &step);
                (value, Moments::Muon { momentum_buffer })
            }
            Moments::Lion { exp_avg } => {
                let (value, exp_avg) = ops::lion(value, exp_avg, gradient, self.lion(rule, grad_scale));
                (value, Moments::Lion { exp_avg })
            }
            Moments::Factors { row_var, col_var } => {
                let matrix = matrix(shape).unwrap_or([1, value.dims()[0]]);
                let step = self.adafactor(rule, grad_scale);
                let (value, row_var, col_var) = ops::adafactor_matrices(value, row_var, col_var, gradient, matrix, step);
                (value, Moments::Factors { row_var, col_var })
            }
            Moments::Variance { variance } => {
                let (value, variance) = ops::adafactor_vector(value, variance, gradient, self.adafactor(rule, grad_scale));
                (value, Moments::Variance { variance })
            }
        }
    }

    fn lr(&self, rule: &Rule) -> f64 {
        self.lr * rule.lr_scale
    }

    fn adamw(&self, rule: &Rule, grad_scale: f32) -> AdamWStep {
        let OptimizerConfig { betas, eps, .. } = self.config;
        AdamWStep {
            lr: self.lr(rule) as f32,
            beta1: betas.0 as f32,
            beta2: betas.1 as f32,
            eps: *eps as f32,
            weight_decay: rule.weight_decay as f32,
            step: self.step,
            grad_scale,
        }
    }

    fn lion(&self, rule: &Rule, grad_scale: f32) -> LionStep {
        let (beta1, beta2) = self.config.betas;
        LionStep { lr: self.lr(rule) as f32, beta1: beta1 as f32, beta2: beta2 as f32, weight_decay: rule.weight_decay as f32, grad_scale }
    }

    fn muon(&self, rule: &Rule, shape: [usize; 2], grad_scale: f32) -> MuonStep {
        let muon = &self.config.muon;
        let lr = self.lr(rule);
        let (rows, columns) = (shape[0] as f64, shape[1].max(1) as f64);
        let adjustment = match muon.adjust_lr {
            AdjustLr::Original => (rows / columns).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
            AdjustLr::SpectralUnclamped => (rows / columns).sqrt(),
        };
        MuonStep {
            shape,
            lr: (lr * adjustment) as f32,
            keep: (1.0 - lr * rule.weight_decay) as f32,
            momentum: muon.momentum as f32,
            nesterov: muon.nesterov,
            grad_scale,
            iteration: self.iteration.clone(),
        }
    }

    fn adafactor(&self, rule: &Rule, grad_scale: f32) -> AdafactorStep {
        let (lr, step, adafactor) = (self.lr(rule), self.step as f64, &self.config.adafactor);
        AdafactorStep {
            lr: lr as f32,
            weight: step.powf(adafactor.beta2_decay) as f32,
            relative: lr.min(1.0 / step.sqrt()) as f32,
            eps1: adafactor.eps1 as f32,
            eps2: adafactor.eps2 as f32,
            clip_threshold: adafactor.clip_threshold as f32,
            weight_decay: rule.weight_decay as f32,
            grad_scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::MuonConfig;

    /// Singular values go through the rounds' polynomials. If this fails, a coefficient is wrong: Muon's steps are no longer those of an
    /// orthogonal matrix.
    #[test]
    fn the_rounds_bring_every_singular_value_near_one() {
        let through = |ns_coefficients, ns_steps, smallest: f64| {
            let muon = MuonConfig { ns_coefficients, ns_steps, ..MuonConfig::default() };
            let iteration = iteration(&OptimizerConfig { muon, ..OptimizerConfig::default() });
            let values = (0..=1000).map(|i| smallest.powf(f64::from(i) / 1000.0) / f64::from(iteration.slack));
            let ends = values.map(|x| {
                iteration.coefficients.iter().fold(x, |x, c| f64::from(c[0]) * x + f64::from(c[1]) * x.powi(3) + f64::from(c[2]) * x.powi(5))
            });
            ends.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)))
        };
        let (low, high) = through(NsCoefficients::Quintic, 5, 0.01);
        assert!(low > 0.6 && high < 1.25, "quintic: {low} to {high}");
        let (low, high) = through(NsCoefficients::PolarExpress, 5, 0.01);
        assert!(low > 0.85 && high < 1.15, "polar express: {low} to {high}");
        let (low, high) = through(NsCoefficients::PolarExpress, 8, 0.001);
        assert!(low > 0.99 && high < 1.01, "polar express to its end: {low} to {high}");
    }
}
