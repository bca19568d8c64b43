//! Losses, advantages and estimates equal those of TRL: values, token losses and gradients, on the same numbers.
//!
//! `fixtures/losses/{grpo,ppo}.json` were written by PyTorch in double precision, `golden_vectors.json` by a transcription in plain Python.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

use llm_align::losses::advantages::{Baseline, ScaleRewards, gae, group, soft_overlong, whiten};
use llm_align::losses::kl::{KlEstimator, shaped_rewards};
use llm_align::losses::policy::{ClipRange, ImportanceLevel, LossType, Owners, UpdateSize, cispo, clip_counts, clipped, constant, log_ratios, sapo};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use serde_json::Value;
use std::path::Path;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/losses").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn case(file: &Value, name: &str) -> (Value, Value) {
    let case = file["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    (case["inputs"].clone(), case["expected"].clone())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| number(x) as f32).collect()
}

/// Rows of a padded matrix without their padding.
fn ragged(value: &Value, mask: &Value) -> Vec<Vec<f32>> {
    let row = |(row, mask): (&Value, &Value)| numbers(row).into_iter().zip(numbers(mask)).filter(|(_, m)| *m == 1.0).map(|(x, _)| x).collect();
    value.as_array().unwrap().iter().zip(mask.as_array().unwrap()).map(row).collect()
}

fn packed(value: &Value, mask: &Value) -> Vec<f32> {
    ragged(value, mask).concat()
}

fn owners(rows: &[Vec<f32>]) -> Vec<usize> {
    rows.iter().enumerate().flat_map(|(i, row)| std::iter::repeat_n(i, row.len())).collect()
}

fn close(what: &str, got: &[f32], wanted: &[f32]) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
        assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{what}[{i}]: {g}, expected {w}");
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn plain(values: &[f32]) -> Tensor<1> {
    constant(values.to_vec(), [values.len()], &device())
}

/// Token losses, their weighted sum and its gradient.
fn differentiate(log_p: &[f32], weights: &[f32], losses: impl Fn(Tensor<1>) -> Tensor<1>) -> (Vec<f32>, f32, Vec<f32>) {
    let log_p_M = host::from_vec(log_p.to_vec(), [log_p.len()], &device()).require_grad();
    let losses_M = losses(log_p_M.clone());
    let loss = (losses_M.clone() * plain(weights)).sum();
    let gradients = loss.backward();
    (host::to_vec(losses_M.inner()), host::scalar(loss.inner()), host::to_vec(log_p_M.grad(&gradients).unwrap()))
}

/// If this fails, a group's answers are weighted differently than TRL weights them.
#[test]
fn advantages_are_those_of_the_reference() {
    let file = fixture("grpo.json");
    for name in ["advantages", "constant_rewards_group"] {
        let (inputs, expected) = case(&file, name);
        let rewards: Vec<Option<f32>> = numbers(&inputs["rewards"]).into_iter().map(Some).collect();
        let size = inputs["group_size"].as_u64().unwrap() as usize;
        for (key, baseline, scale) in [
            ("grpo_trl_unbiased_std_eps1e4", Baseline::GroupMean, ScaleRewards::Group),
            ("grpo_population_std_eps1e8", Baseline::GroupMean, ScaleRewards::GroupPopulation),
            ("dr_grpo_mean_only", Baseline::GroupMean, ScaleRewards::None),
            ("batch_std_unbiased_eps1e4", Baseline::GroupMean, ScaleRewards::Batch),
            ("rloo_leave_one_out", Baseline::LeaveOneOut, ScaleRewards::None),
        ] {
            if let Some(wanted) = expected.get(key) {
                close(&format!("{name}, {key}"), &group(&rewards, size, baseline, scale), &numbers(wanted));
            }
        }
    }
    let golden = fixture("golden_vectors.json");
    let rewards = |key: &str| numbers(&golden["grpo"][key]).into_iter().map(Some).collect::<Vec<_>>();
    let grpo = |key: &str, scale| group(&rewards(key), 4, Baseline::GroupMean, scale);
    close("golden", &grpo("rewards", ScaleRewards::Group), &numbers(&golden["grpo"]["advantages_std_ddof1_eps1e4"]));
    close("golden, unscaled", &grpo("rewards", ScaleRewards::None), &numbers(&golden["grpo"]["advantages_noscale"]));
    close("golden, b", &grpo("rewards_b", ScaleRewards::Group), &numbers(&golden["grpo"]["adv_b"]));
    let rloo = group(&rewards("rewards"), 4, Baseline::LeaveOneOut, ScaleRewards::None);
    close("golden, rloo", &rloo, &numbers(&golden["rloo"]));
    for (length, wanted) in golden["dapo_soft_overlong"].as_object().unwrap() {
        close("overlong", &[soft_overlong(length.parse().unwrap(), 100, 20)], &[number(wanted) as f32]);
    }
}

/// If this fails, a loss of the GRPO family is not the one of its name.
#[test]
fn token_losses_of_the_grpo_family() {
    let (inputs, expected) = case(&fixture("grpo.json"), "token_loss");
    let mask = &inputs["mask"];
    let rows = ragged(&inputs["logps"], mask);
    let (log_p, owner) = (rows.concat(), owners(&rows));
    let (old, reference) = (packed(&inputs["old_logps"], mask), packed(&inputs["ref_logps"], mask));
    let advantages: Vec<f32> = owner.iter().map(|&o| numbers(&inputs["advantages"])[o]).collect();
    let (low, high) = (number(&inputs["eps_low"]) as f32, number(&inputs["eps_high"]) as f32);
    let max_tokens = inputs["max_completion_length"].as_u64().unwrap() as usize;
    let update = UpdateSize { answers: rows.len(), tokens: log_p.len(), max_tokens };
    let symmetric = ClipRange::symmetric(low);
    let owned = Owners::new(&owner);
    let (token, sequence) = (ImportanceLevel::Token, ImportanceLevel::Sequence);
    for (name, loss_type, range, level, beta) in [
        ("grpo_eps_symmetric_kl", LossType::Grpo, symmetric, token, number(&inputs["beta"])),
        ("grpo_no_kl", LossType::Grpo, symmetric, token, 0.0),
        ("dapo_clip_higher_token_mean_no_kl", LossType::Dapo, ClipRange { high, ..symmetric }, token, 0.0),
        ("dr_grpo_const_norm_no_kl", LossType::DrGrpo, symmetric, token, 0.0),
        ("gspo_sequence_ratio_no_kl", LossType::Grpo, symmetric, sequence, 0.0),
        ("two_sided_clip_delta1.4", LossType::Grpo, ClipRange { delta: Some(1.4), ..symmetric }, token, 0.0),
    ] {
        let wanted = &expected["losses"][name];
        let weights: Vec<f32> = owner.iter().map(|&o| loss_type.weight(rows[o].len(), update)).collect();
        let (losses, loss, gradient) = differentiate(&log_p, &weights, |log_p_M| {
            let ratios_M = log_ratios(log_p_M.clone(), plain(&old), level, &owned);
            let losses_M = clipped(ratios_M, plain(&advantages), &range);
            losses_M + KlEstimator::K3.estimate(log_p_M, plain(&reference)).mul_scalar(beta)
        });
        close(&format!("{name}: token losses"), &losses, &packed(&wanted["per_token"], mask));
        close(&format!("{name}: loss"), &[loss], &[number(&wanted["loss"]) as f32]);
        close(&format!("{name}: gradient"), &gradient, &packed(&wanted["grad_logps"], mask));
    }
    let ratios_M = log_ratios(plain(&log_p), plain(&old), token, &owned);
    let (below, above) = clip_counts(ratios_M, plain(&advantages), &ClipRange { high, ..symmetric });
    let share = |count: Tensor<1>| host::scalar(count) / log_p.len() as f32;
    close("clip ratios", &[share(below), share(above)], &[number(&expected["clip_ratio_low"]) as f32, number(&expected["clip_ratio_high"]) as f32]);
}

/// If this fails, an average over answers of different length is not the one of its name.
#[test]
fn golden_losses_of_the_grpo_family() {
    let golden = &fixture("golden_vectors.json")["grpo"];
    let rows = |key: &str| golden[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let log_p = rows("logp");
    let owner = owners(&log_p);
    let owned = Owners::new(&owner);
    let update = UpdateSize { answers: 4, tokens: owner.len(), max_tokens: 8 };
    let (scaled, unscaled) = ("advantages_std_ddof1_eps1e4", "advantages_noscale");
    let wide = ClipRange { high: 0.28, ..ClipRange::symmetric(0.2) };
    let narrow = ClipRange { high: 4e-4, ..ClipRange::symmetric(3e-4) };
    for (name, loss_type, advantages, range, level, beta) in [
        ("grpo_seqmean_clip0_2_beta0_04", LossType::Grpo, scaled, ClipRange::symmetric(0.2), ImportanceLevel::Token, 0.04),
        ("bnpo_tokmean_clip0_2_beta0_04", LossType::Bnpo, scaled, ClipRange::symmetric(0.2), ImportanceLevel::Token, 0.04),
        ("dr_grpo_maxlen8_beta0_noscale", LossType::DrGrpo, unscaled, ClipRange::symmetric(0.2), ImportanceLevel::Token, 0.0),
        ("dapo_tokmean_clip_lo0_2_hi0_28_beta0", LossType::Dapo, scaled, wide, ImportanceLevel::Token, 0.0),
        ("gspo_sequence_ratio_clip3e4_4e4", LossType::Grpo, scaled, narrow, ImportanceLevel::Sequence, 0.0),
    ] {
        let of_answers = numbers(&golden[advantages]);
        let advantages: Vec<f32> = owner.iter().map(|&o| of_answers[o]).collect();
        let weights: Vec<f32> = owner.iter().map(|&o| loss_type.weight(log_p[o].len(), update)).collect();
        let (losses, loss, _) = differentiate(&log_p.concat(), &weights, |log_p_M| {
            let ratios_M = log_ratios(log_p_M.clone(), plain(&rows("old").concat()), level, &owned);
            let k3_M = KlEstimator::K3.estimate(log_p_M, plain(&rows("ref").concat()));
            clipped(ratios_M, plain(&advantages), &range) + k3_M.mul_scalar(beta)
        });
        close(name, &[loss], &[number(&golden[name]) as f32]);
        if beta > 0.0 {
            close("token losses", &losses, &rows("per_token_grpo").concat());
        }
    }
}

/// What has no fixture, from its formula with numbers worked out by hand.
#[test]
fn cispo_sapo_and_whole_answers() {
    let (log_p, old, advantages) = ([-1.0f32, -0.5, -2.0], [-1.0f32 - 2f32.ln(), -0.5, -2.0 + 2f32.ln()], [1.0f32, -1.0, 2.0]);
    let owned = Owners::new(&[0, 0, 1]);
    let token = |log_p_M: Tensor<1>| log_ratios(log_p_M, plain(&old), ImportanceLevel::Token, &owned);
    // Ratios 2, 1, 1/2; the first is cut to 1.5. The ratio has no gradient.
    let (losses, _, gradient) = differentiate(&log_p, &[1.0; 3], |p| cispo(p.clone(), token(p), plain(&advantages), 1.5));
    close("cispo", &losses, &[1.5, -0.5, 2.0]);
    close("cispo, gradient", &gradient, &[-1.5, 1.0, -1.0]);

    let gate = |r: f32, t: f32| 4.0 / t / (1.0 + (-t * (r - 1.0)).exp());
    let slope = |r: f32, t: f32| r * 4.0 * (gate(r, t) * t / 4.0) * (1.0 - gate(r, t) * t / 4.0);
    let (losses, _, gradient) = differentiate(&log_p, &[1.0; 3], |p| sapo(token(p), plain(&advantages), 1.0, 1.05));
    close("sapo", &losses, &[-gate(2.0, 1.0), gate(1.0, 1.05), -2.0 * gate(0.5, 1.0)]);
    close("sapo, gradient", &gradient, &[-slope(2.0, 1.0), slope(1.0, 1.05), -2.0 * slope(0.5, 1.0)]);

    // The first answer's ratio is 2 * 1; each of its tokens carries it, at half the weight.
    let whole = |p: Tensor<1>| log_ratios(p, plain(&old), ImportanceLevel::SequenceProduct, &owned);
    let range = ClipRange::symmetric(10.0);
    let same = [1.0f32, 1.0, 2.0];
    let (losses, loss, gradient) = differentiate(&log_p, &[0.25, 0.25, 0.5], |p| clipped(whole(p), plain(&same), &range));
    close("whole answers", &losses, &[-2.0, -2.0, -1.0]);
    close("whole answers, loss", &[loss], &[-1.5]);
    close("whole answers, gradient", &gradient, &[-1.0, -1.0, -0.5]);
}

/// If this fails, PPO's advantages, returns or policy loss are not TRL's.
#[test]
fn ppo_is_that_of_the_reference() {
    let file = fixture("ppo.json");
    for name in ["gae", "gae_gamma1_lam1"] {
        let (inputs, expected) = case(&file, name);
        let mask = &inputs["mask"];
        let (rewards, values) = (ragged(&inputs["rewards"], mask), ragged(&inputs["values"], mask));
        let (gamma, lambda) = (number(&inputs["gamma"]), number(&inputs["lam"]));
        let (mut advantages, returns): (Vec<Vec<f32>>, Vec<Vec<f32>>) = rewards.iter().zip(&values).map(|(r, v)| gae(r, v, gamma, lambda)).unzip();
        close(name, &advantages.concat(), &packed(&expected["advantages"], mask));
        if expected.get("returns").is_some() {
            close(name, &returns.concat(), &packed(&expected["returns"], mask));
            let mut white = std::mem::take(&mut advantages).concat();
            whiten(&mut white, true);
            close("whitened", &white, &packed(&expected["advantages_whitened_unbiased_var"], mask));
        }
    }
    let (inputs, expected) = case(&file, "policy_clip");
    let mask = &inputs["mask"];
    let packs = |key: &str| packed(&inputs[key], mask);
    let (log_p, old, advantages) = (packs("logps"), packs("old_logps"), packs("advantages"));
    let n = log_p.len();
    let (range, owned) = (ClipRange::symmetric(number(&inputs["clip"]) as f32), Owners::new(&vec![0; n]));
    let ratios = |p: Tensor<1>| log_ratios(p, plain(&old), ImportanceLevel::Token, &owned);
    let weights = vec![1.0 / n as f32; n];
    let (losses, loss, gradient) = differentiate(&log_p, &weights, |p| clipped(ratios(p), plain(&advantages), &range));
    close("ratio", &host::to_vec(ratios(plain(&log_p)).exp().inner()), &packed(&expected["ratio"], mask));
    close("token losses", &losses, &packed(&expected["per_token"], mask));
    close("loss", &[loss], &[number(&expected["loss"]) as f32]);
    close("gradient", &gradient, &packed(&expected["grad_logps"], mask));
    let (below, above) = clip_counts(ratios(plain(&log_p)), plain(&advantages), &range);
    close("clip fraction", &[(host::scalar(below) + host::scalar(above)) / n as f32], &[number(&expected["clip_fraction"]) as f32]);
    for (estimator, key) in [(KlEstimator::K2, "approx_kl_half_sq"), (KlEstimator::K3, "approx_kl_k3")] {
        // Drawn from the old weights.
        let mean = host::scalar(estimator.estimate(plain(&old), plain(&log_p)).mean().inner());
        close(key, &[mean], &[number(&expected[key]) as f32]);
    }
}

/// If this fails, k1, k2 and k3 are mixed up, or the rewards that PPO shapes with them.
#[test]
fn kl_estimates_are_those_of_the_reference() {
    let file = fixture("ppo.json");
    let (inputs, expected) = case(&file, "kl_estimators");
    let mask = &inputs["mask"];
    let (log_p, reference) = (packed(&inputs["logps"], mask), packed(&inputs["ref_logps"], mask));
    let golden = &fixture("golden_vectors.json")["kl_estimators"];
    for (estimator, key) in [(KlEstimator::K1, "k1"), (KlEstimator::K2, "k2"), (KlEstimator::K3, "k3")] {
        let estimates = host::to_vec(estimator.estimate(plain(&log_p), plain(&reference)).inner());
        close(key, &estimates, &packed(&expected[key], mask));
        let mean = estimates.iter().sum::<f32>() / estimates.len() as f32;
        close(key, &[mean], &[number(&expected[format!("{key}_mean")]) as f32]);
        let of_one: Vec<f32> = log_p.iter().zip(&reference).map(|(&p, &q)| estimator.of(f64::from(p), f64::from(q)) as f32).collect();
        close(key, &of_one, &estimates);
        let small = estimator.estimate(plain(&numbers(&golden["logp"])), plain(&numbers(&golden["ref"])));
        close(key, &host::to_vec(small.inner()), &numbers(&golden[key]));
    }
    let (inputs, expected) = case(&file, "kl_shaped_rewards");
    let mask = &inputs["mask"];
    let rows = ragged(&inputs["logps"], mask).into_iter().zip(ragged(&inputs["ref_logps"], mask)).zip(numbers(&inputs["scores"]));
    let rewards: Vec<f32> = rows.flat_map(|((p, q), score)| shaped_rewards(KlEstimator::K1, &p, &q, score, number(&inputs["kl_coef"]))).collect();
    close("shaped rewards", &rewards, &packed(&expected["rewards"], mask));
}

/// The golden PPO case: one row, whole.
#[test]
fn golden_ppo() {
    let golden = fixture("golden_vectors.json");
    let (g, ppo) = (&golden["gae"], &golden["ppo"]);
    let (mut advantages, returns) = gae(&numbers(&g["rewards"]), &numbers(&g["values"]), number(&g["gamma"]), number(&g["lam"]));
    close("advantages", &advantages, &numbers(&g["advantages"]));
    close("returns", &returns, &numbers(&g["returns"]));
    whiten(&mut advantages, true);
    close("whitened", &advantages, &numbers(&g["whitened_unbiased_var"]));
    let owned = Owners::new(&[0; 4]);
    let (_, loss, _) = differentiate(&numbers(&ppo["logp"]), &[0.25; 4], |p| {
        clipped(log_ratios(p, plain(&numbers(&ppo["old_logp"])), ImportanceLevel::Token, &owned), plain(&advantages), &ClipRange::symmetric(0.2))
    });
    close("loss", &[loss], &[number(&ppo["pg_loss"]) as f32]);
}
