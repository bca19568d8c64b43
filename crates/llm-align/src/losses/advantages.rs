//! From rewards to advantages.
//!
//! | function | source |
//! |---|---|
//! | [`group`] | GRPO (Shao et al., 2024), Dr. GRPO, RLOO (Ahmadian et al., 2024); TRL, `grpo_trainer.py` and `rloo_trainer.py` |
//! | [`normalize_then_sum`] | GDPO (Liu et al., 2026): each reward is normalised on its own |
//! | [`gae`] | Schulman et al., High-Dimensional Continuous Control, 2016; TRL, `ppo_trainer.py` |
//! | [`whiten`] | TRL, `ppo_trainer.py`: unbiased variance |
//! | [`soft_overlong`] | DAPO (Yu et al., 2025), equation 13 |
//! | [`length_rewards`] | Kimi k1.5 (2025), section 2.3.3 |
//!
//! Everything is computed in double precision and in the order of the answers. A reward that is missing (None: the answer cannot be
//! scored) takes no part in any statistic, and its answer has advantage 0.

use serde::{Deserialize, Serialize};

/// What an advantage is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The group's standard deviation (n - 1) + 1e-4, as TRL does.
    #[default]
    Group,
    /// The group's population standard deviation (n) + 1e-8.
    GroupPopulation,
    /// The standard deviation (n - 1) of all rewards of the batch + 1e-4, as TRL does.
    Batch,
    /// Nothing (Dr. GRPO, RLOO).
    None,
}

/// What is subtracted from a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// The mean of the group.
    #[default]
    GroupMean,
    /// The mean of the others in the group (RLOO).
    LeaveOneOut,
}

/// TRL's addend to a standard deviation.
const EPS: f64 = 1e-4;

/// Mean and standard deviation of what there is; `ddof` is subtracted from the count.
fn moments(values: impl Iterator<Item = f64> + Clone, ddof: f64) -> (f64, f64) {
    let n = values.clone().count() as f64;
    if n == 0.0 {
        return (0.0, 0.0);
    }
    let mean = values.clone().sum::<f64>() / n;
    let variance = values.map(|x| (x - mean).powi(2)).sum::<f64>() / (n - ddof).max(1.0);
    (mean, variance.sqrt())
}

fn scored(rewards: &[Option<f32>]) -> impl Iterator<Item = f64> + Clone {
    rewards.iter().flatten().map(|&r| f64::from(r))
}

/// Advantages of answers in groups of `group_size`, one after the other: reward minus baseline, scaled.
pub fn group(rewards: &[Option<f32>], group_size: usize, baseline: Baseline, scale: ScaleRewards) -> Vec<f32> {
    let (_, of_batch) = moments(scored(rewards), 1.0);
    let of_group = |group: &[Option<f32>]| {
        let n = scored(group).count() as f64;
        let (mean, unbiased) = moments(scored(group), 1.0);
        let divisor = match scale {
            ScaleRewards::Group => unbiased + EPS,
            ScaleRewards::GroupPopulation => moments(scored(group), 0.0).1 + 1e-8,
            ScaleRewards::Batch => of_batch + EPS,
            ScaleRewards::None => 1.0,
        };
        let advantage = |reward: f32| match baseline {
            Baseline::GroupMean => (f64::from(reward) - mean) / divisor,
            Baseline::LeaveOneOut if n < 2.0 => 0.0,
            // r - (n mean - r) / (n - 1).
            Baseline::LeaveOneOut => (f64::from(reward) - mean) * (n / (n - 1.0)) / divisor,
        };
        group.iter().map(|reward| reward.map_or(0.0, |reward| advantage(reward) as f32)).collect::<Vec<f32>>()
    };
    rewards.chunks(group_size.max(1)).flat_map(of_group).collect()
}

/// Advantages from several rewards, `parts[answer][reward]`: each is normalised within its group, the weighted sums within the batch. So a
/// reward of large numbers does not drown the others. An answer that no reward can score has advantage 0.
pub fn normalize_then_sum(parts: &[Vec<Option<f32>>], weights: &[f32], group_size: usize) -> Vec<f32> {
    let mut sums: Vec<Option<f64>> = vec![None; parts.len()];
    for (k, &weight) in weights.iter().enumerate() {
        for (g, group) in parts.chunks(group_size.max(1)).enumerate() {
            let of = |answer: &Vec<Option<f32>>| answer.get(k).copied().flatten().map(f64::from);
            let (mean, std) = moments(group.iter().filter_map(of), 1.0);
            for (i, answer) in group.iter().enumerate() {
                if let Some(reward) = of(answer) {
                    *sums[g * group_size.max(1) + i].get_or_insert(0.0) += f64::from(weight) * (reward - mean) / (std + EPS);
                }
            }
        }
    }
    let (mean, std) = moments(sums.iter().flatten().copied(), 1.0);
    sums.iter().map(|sum| sum.map_or(0.0, |sum| ((sum - mean) / (std + EPS)) as f32)).collect()
}

/// Generalised advantage estimation of one answer: `(advantages, returns)`, both as long as `rewards`. What comes after the last token is
/// worth nothing.
pub fn gae(rewards: &[f32], values: &[f32], gamma: f64, lambda: f64) -> (Vec<f32>, Vec<f32>) {
    let n = rewards.len().min(values.len());
    let (mut advantages, mut returns) = (vec![0f32; n], vec![0f32; n]);
    let (mut running, mut next_value) = (0f64, 0f64);
    for t in (0..n).rev() {
        let value = f64::from(values[t]);
        running = f64::from(rewards[t]) + gamma * next_value - value + gamma * lambda * running;
        advantages[t] = running as f32;
        returns[t] = (running + value) as f32;
        next_value = value;
    }
    (advantages, returns)
}

/// Divide by the standard deviation (unbiased variance + 1e-8), after subtracting the mean, which is added again unless `shift_mean`.
/// Fewer than two values stay as they are.
pub fn whiten(values: &mut [f32], shift_mean: bool) {
    if values.len() < 2 {
        return;
    }
    let (mean, std) = moments(values.iter().map(|&v| f64::from(v)), 1.0);
    let scale = 1.0 / (std * std + 1e-8).sqrt();
    for value in values {
        let white = (f64::from(*value) - mean) * scale;
        *value = (if shift_mean { white } else { white + mean }) as f32;
    }
}

/// DAPO's soft punishment of long answers: 0 up to `max_length - buffer` tokens, from there linearly down to -1 at `max_length`, and -1
/// beyond. With a `buffer` of 0 only what is beyond pays.
pub fn soft_overlong(length: usize, max_length: usize, buffer: usize) -> f32 {
    let free = max_length.saturating_sub(buffer);
    if length <= free {
        0.0
    } else if length <= max_length && buffer > 0 {
        (-((length - free) as f64) / buffer as f64) as f32
    } else {
        -1.0
    }
}

/// Kimi's length reward of the answers of one group: 0.5 for the shortest, -0.5 for the longest, linear between, and never more than 0
/// for an answer that is not right. All 0 if all are equally long.
pub fn length_rewards(lengths: &[usize], right: &[bool]) -> Vec<f32> {
    let (Some(&shortest), Some(&longest)) = (lengths.iter().min(), lengths.iter().max()) else { return Vec::new() };
    if shortest == longest {
        return vec![0.0; lengths.len()];
    }
    let of = |(&length, &right): (&usize, &bool)| {
        let reward = 0.5 - ((length - shortest) as f64 / (longest - shortest) as f64) as f32;
        if right { reward } else { reward.min(0.0) }
    };
    lengths.iter().zip(right).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some(rewards: &[f32]) -> Vec<Option<f32>> {
        rewards.iter().map(|&r| Some(r)).collect()
    }

    #[test]
    fn advantages_are_those_of_trl() {
        // (r - mean) / (std with n - 1, + 1e-4): group [1, 0, 0, 1] has mean 0.5 and std 0.57735.
        let got = group(&some(&[1.0, 0.0, 0.0, 1.0]), 4, Baseline::GroupMean, ScaleRewards::Group);
        for (g, w) in got.iter().zip([0.865_875, -0.865_875, -0.865_875, 0.865_875]) {
            assert!((g - w).abs() < 1e-5, "{got:?}");
        }
        assert_eq!(group(&some(&[1.0, 1.0]), 2, Baseline::GroupMean, ScaleRewards::Group), [0.0, 0.0]);
        assert_eq!(group(&some(&[3.0, 1.0]), 2, Baseline::GroupMean, ScaleRewards::None), [1.0, -1.0]);
    }

    /// If this fails, an answer that the verifier could not grade counts as a wrong one and pulls its group's mean down.
    #[test]
    fn an_answer_without_reward_takes_no_part() {
        for baseline in [Baseline::GroupMean, Baseline::LeaveOneOut] {
            for scale in [ScaleRewards::Group, ScaleRewards::GroupPopulation, ScaleRewards::Batch, ScaleRewards::None] {
                let with = group(&[Some(1.0), None, Some(0.0), Some(1.0)], 4, baseline, scale);
                let without = group(&some(&[1.0, 0.0, 1.0]), 3, baseline, scale);
                assert_eq!([with[0], with[2], with[3]], without[..], "{baseline:?} {scale:?}");
                assert_eq!(with[1], 0.0);
                assert_eq!(group(&[None, None], 2, baseline, scale), [0.0, 0.0]);
                assert_eq!(group(&[Some(1.0), None], 2, baseline, scale), [0.0, 0.0]);
            }
        }
    }

    /// If this fails, the reward of the larger numbers decides alone.
    #[test]
    fn rewards_of_different_size_count_alike_when_each_is_normalised() {
        let parts: Vec<Vec<Option<f32>>> = [(1.0, 0.0), (0.0, 0.0), (1.0, 100.0), (0.0, 100.0)].map(|(a, b)| vec![Some(a), Some(b)]).into();
        let got = normalize_then_sum(&parts, &[1.0, 1.0], 4);
        assert!(got[0].abs() < 0.01 && got[3].abs() < 0.01, "opposite rewards cancel: {got:?}");
        assert!((got[2] - 1.2247).abs() < 0.01 && (got[1] + 1.2247).abs() < 0.01, "{got:?}");
        let got = normalize_then_sum(&parts, &[1.0, 0.0], 4);
        assert!((got[0] - 0.8659).abs() < 1e-3 && (got[1] + 0.8659).abs() < 1e-3, "{got:?}");
        assert_eq!(normalize_then_sum(&[vec![None, None], vec![Some(1.0), Some(1.0)]], &[1.0, 1.0], 2)[0], 0.0);
    }

    #[test]
    fn long_answers_pay_as_in_dapo() {
        let got: Vec<f32> = [80, 81, 90, 100, 101].map(|n| soft_overlong(n, 100, 20)).into();
        assert_eq!(got, [0.0, -0.05, -0.5, -1.0, -1.0]);
        assert_eq!([soft_overlong(100, 100, 0), soft_overlong(101, 100, 0)], [0.0, -1.0]);
    }

    #[test]
    fn short_right_answers_are_worth_more_and_short_wrong_ones_are_not() {
        assert_eq!(length_rewards(&[10, 20, 30, 10], &[true, true, true, false]), [0.5, 0.0, -0.5, 0.0]);
        assert_eq!(length_rewards(&[7, 7], &[true, false]), [0.0, 0.0]);
    }

    proptest! {
        /// If this fails, a constant added to all rewards changes what is learned.
        #[test]
        fn advantages_of_a_group_sum_to_zero_and_ignore_a_shift(
            rewards in prop::collection::vec(-4f32..4.0, 2..12), shift in -2f32..2.0, leave in any::<bool>(),
        ) {
            let baseline = if leave { Baseline::LeaveOneOut } else { Baseline::GroupMean };
            let n = rewards.len();
            let a = group(&some(&rewards), n, baseline, ScaleRewards::None);
            let moved: Vec<f32> = rewards.iter().map(|r| r + shift).collect();
            let b = group(&some(&moved), n, baseline, ScaleRewards::None);
            prop_assert!(a.iter().sum::<f32>().abs() < 1e-4);
            for (a, b) in a.iter().zip(&b) {
                prop_assert!((a - b).abs() < 1e-4);
            }
        }

        /// If this fails, GAE with lambda 1 is not the return minus the value.
        #[test]
        fn gae_with_lambda_one_is_the_return(rewards in prop::collection::vec(-1f32..1.0, 1..20), value in -1f32..1.0) {
            let values = vec![value; rewards.len()];
            let (advantages, returns) = gae(&rewards, &values, 1.0, 1.0);
            for (t, (advantage, found)) in advantages.iter().zip(&returns).enumerate() {
                let to_go: f32 = rewards[t..].iter().sum();
                prop_assert!((found - to_go).abs() < 1e-4);
                prop_assert!((advantage - (to_go - value)).abs() < 1e-4);
            }
        }

        #[test]
        fn whitened_values_have_mean_zero_and_variance_one(mut values in prop::collection::vec(-3f32..3.0, 3..40)) {
            values[0] = 4.0;
            whiten(&mut values, true);
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (n - 1.0);
            prop_assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-3);
        }
    }
}
