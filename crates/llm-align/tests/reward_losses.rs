//! Losses of reward models and value functions against the recorded numbers of a reference in double precision: values and gradients.

use llm_align::losses::policy::{ClipRange, clipped};
use llm_align::losses::reward::{bradley_terry, centring};
use llm_align::losses::value::{ValueLoss, clipped_value};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/losses").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn case<'a>(all: &'a Value, name: &str) -> &'a Value {
    all["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap()
}

/// All numbers of a list, or of a list of lists.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

/// Those where the mask is 1.
fn masked(value: &Value, mask: &Value) -> Vec<f64> {
    numbers(value).into_iter().zip(numbers(mask)).filter(|(_, m)| *m == 1.0).map(|(x, _)| x).collect()
}

fn plain(values: &[f64]) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    Tensor::from_inner(host::from_vec(values.clone(), [values.len()], &Device::flex()))
}

fn tracked(values: &[f64]) -> Tensor<1> {
    plain(values).require_grad()
}

fn near(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < 2e-6 * w.abs().max(1.0), "{what}: {got:?} is not {want:?}");
    }
}

fn values(x: &Tensor<1>) -> Vec<f32> {
    host::to_vec(x.clone().inner())
}

/// If this fails, a reward model learns from another loss than TRL's.
#[test]
fn bradley_terry_is_the_reference_with_and_without_margin() {
    let all = fixture("reward_model.json");
    for name in ["no_margin", "margin"] {
        let (inputs, expected) = (&case(&all, name)["inputs"], &case(&all, name)["expected"]);
        let (chosen, rejected) = (tracked(&numbers(&inputs["chosen_rewards"])), tracked(&numbers(&inputs["rejected_rewards"])));
        let margins = numbers(&inputs["margin"]);
        let loss = bradley_terry(chosen.clone(), rejected.clone(), Some(plain(&margins)));
        near(&values(&loss), &numbers(&expected["per_pair"]), name);
        if margins.iter().all(|&m| m == 0.0) {
            near(&values(&bradley_terry(chosen.clone(), rejected.clone(), None)), &numbers(&expected["per_pair"]), name);
        }
        let centred = loss.clone().mean() + centring(chosen.clone(), rejected.clone()).mean().mul_scalar(0.01);
        near(&values(&centred), &[expected["mean_plus_center_0p01"].as_f64().unwrap()], name);
        let gradients = loss.mean().backward();
        near(&host::to_vec(chosen.grad(&gradients).unwrap()), &numbers(&expected["grad_chosen"]), name);
        near(&host::to_vec(rejected.grad(&gradients).unwrap()), &numbers(&expected["grad_rejected"]), name);
    }
}

#[test]
fn bradley_terry_has_the_golden_values() {
    let (chosen, rejected) = (tracked(&[1.0, 0.5, -0.2]), tracked(&[0.2, 0.7, -1.0]));
    let plain_loss = bradley_terry(chosen.clone(), rejected.clone(), None).mean();
    near(&values(&plain_loss), &[0.513_446_733_759_049], "plain");
    let margin = bradley_terry(chosen.clone(), rejected.clone(), Some(plain(&[0.1, 0.0, 0.5]))).mean();
    near(&values(&margin), &[0.585_226_720_911_858_9], "margin");
    let centred = plain_loss + centring(chosen, rejected).mean().mul_scalar(0.01);
    near(&values(&centred), &[0.527_846_733_759_049], "centred");
}

/// If this fails, rewards far apart give infinite losses, or gradients that are no numbers.
#[test]
fn bradley_terry_of_extreme_rewards_stays_finite() {
    let (chosen, rejected) = (tracked(&[200.0, -200.0]), tracked(&[-200.0, 200.0]));
    let loss = bradley_terry(chosen.clone(), rejected, None);
    near(&values(&loss), &[0.0, 400.0], "loss");
    let gradients = loss.sum().backward();
    near(&host::to_vec(chosen.grad(&gradients).unwrap()), &[0.0, -1.0], "gradient");
}

/// If this fails, the value function is trained by another loss than TRL's.
#[test]
fn the_clipped_value_loss_is_the_reference() {
    let all = fixture("ppo.json");
    let (inputs, expected) = (&case(&all, "value_clip")["inputs"], &case(&all, "value_clip")["expected"]);
    let of = |key: &str| masked(&inputs[key], &inputs["mask"]);
    let predicted = tracked(&of("vpred"));
    let clip = inputs["clip"].as_f64().unwrap();
    let ValueLoss { loss_M, clipped_M } = clipped_value(predicted.clone(), plain(&of("old_values")), plain(&of("returns")), clip);
    let clipped: Vec<f32> = host::to_vec(clipped_M);
    let share = clipped.iter().sum::<f32>() / clipped.len() as f32;
    near(&[share], &[expected["clip_fraction"].as_f64().unwrap()], "clip fraction");
    let loss = loss_M.mean();
    near(&values(&loss), &[expected["loss"].as_f64().unwrap()], "loss");
    let gradients = loss.backward();
    near(&host::to_vec(predicted.grad(&gradients).unwrap()), &masked(&expected["grad_vpred"], &inputs["mask"]), "gradient");
}

/// If this fails, the two halves of PPO's loss do not add up to the golden number.
#[test]
fn policy_and_value_loss_have_the_golden_values() {
    let log_ratio = plain(&[-1.0 + 1.2, -0.5 + 0.4, -2.0 + 1.0, 0.0]);
    let advantages = plain(&[0.018_034_785_178_981_824, 1.032_564_709_486_723, 0.305_845_448_507_960_97, -1.356_444_943_173_664_7]);
    let policy = clipped(log_ratio, advantages, &ClipRange::symmetric(0.2)).mean();
    near(&values(&policy), &[0.071_996_440_647_482_9], "policy");
    let returns = plain(&[1.022_475, 1.160_499_999_999_999_9, 1.19, 1.0]);
    let value = clipped_value(plain(&[0.9, 0.3, 0.7, 0.5]), plain(&[0.5, 0.4, 0.6, 0.8]), returns, 0.2).loss_M.mean();
    near(&values(&value), &[0.166_818_796_953_124_96], "value");
    near(&values(&(policy + value.mul_scalar(0.1))), &[0.088_678_320_342_795_4], "both");
}
