//! The largest micro-batch that a budget has room for, with recomputation only where nothing fits without.

use super::{MemoryPlan, Workload, mib};
use crate::recompute::Recompute;
use crate::{Error, Result};

/// What was chosen.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Rows of a micro-batch.
    pub micro_batch_size: usize,
    /// Activations kept or computed again.
    pub recompute: Recompute,
    /// What that needs.
    pub plan: MemoryPlan,
}

/// Program memory is rounded up to this, so that a run that is started again chooses as before.
const PROGRAM_STEP: f64 = (32 << 20) as f64;

/// For steps of `batch_size` rows: the largest divisor of it whose plan is within `budget` bytes. Rows, micro-batches and recomputation of `w`
/// are replaced, but what is to be recomputed stays so. `program` as in [`MemoryPlan::of`].
pub fn fit(w: &Workload, batch_size: usize, budget: f64, program: f64) -> Result<Choice> {
    let program = (program / PROGRAM_STEP).ceil() * PROGRAM_STEP;
    let plan = |rows: usize, recompute| MemoryPlan::of(&Workload { rows, micro_batches: batch_size / rows, recompute, ..*w }, program);
    let divisors: Vec<usize> = (1..=batch_size).rev().filter(|rows| batch_size.is_multiple_of(*rows)).collect();
    let modes = if w.recompute.is_none() { vec![Recompute::None, Recompute::Block] } else { vec![w.recompute] };
    let mut least: Option<MemoryPlan> = None;
    for recompute in modes {
        for &micro_batch_size in &divisors {
            let plan = plan(micro_batch_size, recompute);
            if plan.peak <= budget {
                return Ok(Choice { micro_batch_size, recompute, plan });
            }
            if least.as_ref().is_none_or(|least| plan.peak < least.peak) {
                least = Some(plan);
            }
        }
    }
    let Some(least) = least else { return Err(Error::Config("batch_size must be positive".into())) };
    let fixed = least.peak - least.activations - least.buffers - least.allocator;
    let advice = if fixed > budget {
        format!("program, weights, moments and gradients alone take {} MiB: train fewer parameters", mib(fixed))
    } else {
        format!("beside {} MiB of weights, moments and gradients: shorter rows, or fewer parameters", mib(fixed))
    };
    Err(Error::Config(format!(
        "memory_budget of {} MiB: the least that works is {} MiB, with micro_batch_size = {} and recompute = \"{}\" ({advice})",
        mib(budget),
        mib(least.peak),
        least.micro_batch_size,
        if least.recompute.is_none() { "none" } else { "block" },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Saves;
    use llm_arch::DecoderConfig;
    use llm_tensor::Precision;
    use proptest::prelude::*;

    fn workload(model: &DecoderConfig) -> Workload<'_> {
        Workload {
            model,
            precision: Precision::F32,
            rows: 1,
            length: 512,
            micro_batches: 1,
            recompute: Recompute::None,
            fused: true,
            workers: 1,
            optimizer: Box::leak(Box::default()),
            freeze: &[],
            adapter: None,
            saves: Saves::Nothing,
        }
    }

    #[test]
    fn an_impossible_budget_says_what_the_least_is_and_that_is_enough() {
        let model = DecoderConfig::default();
        let message = fit(&workload(&model), 12, 1e6, 0.0).unwrap_err().to_string();
        assert!(message.contains("recompute = \"block\"") && message.contains("fewer parameters"), "{message}");
        let least: f64 = message.split("least that works is ").nth(1).unwrap().split(' ').next().unwrap().replace(',', "").parse().unwrap();
        assert!(fit(&workload(&model), 12, (least + 1.0) * 1048576.0, 0.0).is_ok(), "{message}");
    }

    proptest! {
        /// If this fails, a budget is exceeded, or speed is given away: a larger micro-batch, or one without recomputation, would have fitted.
        #[test]
        fn the_choice_fits_and_nothing_better_does(mib in 50f64..4000.0, batch_size in 1usize..40, layers in 1usize..12) {
            let model = DecoderConfig { num_hidden_layers: layers, ..DecoderConfig::default() };
            let w = workload(&model);
            let budget = mib * 1048576.0;
            let peak = |rows: usize, recompute| MemoryPlan::of(&Workload { rows, micro_batches: batch_size / rows, recompute, ..w }, 0.0).peak;
            let divisors: Vec<usize> = (1..=batch_size).filter(|r| batch_size % r == 0).collect();
            match fit(&w, batch_size, budget, 0.0) {
                Ok(choice) => {
                    prop_assert!(choice.plan.peak <= budget && batch_size % choice.micro_batch_size == 0);
                    prop_assert_eq!(choice.plan.peak, peak(choice.micro_batch_size, choice.recompute));
                    prop_assert!(divisors.iter().all(|&r| r <= choice.micro_batch_size || peak(r, choice.recompute) > budget));
                    prop_assert!(choice.recompute.is_none() || divisors.iter().all(|&r| peak(r, Recompute::None) > budget));
                }
                Err(_) => {
                    let modes = [Recompute::None, Recompute::Block];
                    prop_assert!(divisors.iter().all(|&r| modes.iter().all(|&mode| peak(r, mode) > budget)));
                }
            }
        }
    }
}
