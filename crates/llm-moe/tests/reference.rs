//! Routing and losses equal the reference's numbers: transformers' code run in PyTorch (`fixtures/losses/moe_*.json`) and our
//! own double-precision transcription of the papers (`fixtures/moe/golden.json`). If one of these fails, a Mixtral, Qwen, or DeepSeek
//! checkpoint computes something else here than where it was trained.

#![allow(non_snake_case)]

use llm_moe::balance::{auxiliary_loss, bias_update, load_balancing_loss, sequence_loss, switch_loss, z_loss};
use llm_moe::{MoeConfig, Router, Routing, Scoring, TopkMethod};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{from_vec, scalar, to_vec};
use llm_tensor::nn::parameter;
use serde_json::Value;
use std::path::Path;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn matrix(value: &Value) -> Tensor<2> {
    let rows = rows(value);
    from_vec(rows.concat(), [rows.len(), rows[0].len()], &Device::flex())
}

fn close(name: &str, got: f32, want: f64) {
    assert!((f64::from(got) - want).abs() <= 1e-5 * want.abs().max(1e-2), "{name}: {got} instead of {want}");
}

/// The router's choice for given logits, per token.
fn choose(config: &MoeConfig, logits_NE: Tensor<2>, bias: Option<Vec<f32>>) -> (Vec<Vec<usize>>, Vec<Vec<f32>>) {
    config.validate().unwrap();
    let device = logits_NE.device();
    let e = config.num_experts;
    let router =
        Router { weight: parameter(Tensor::zeros([e, 1], &device)), e_score_correction_bias: bias.map(|b| parameter(from_vec(b, [e], &device))) };
    let (chosen, weights) = router.choose(config, logits_NE);
    let k = config.num_experts_per_tok;
    let experts = chosen.chunks(k).map(|c| c.iter().map(|&e| e as usize).collect()).collect();
    (experts, to_vec(weights).chunks(k).map(<[f32]>::to_vec).collect())
}

#[test]
fn routers_of_every_family_equal_the_reference() {
    let case = &fixture("losses/moe_routing.json")["cases"][0];
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let logits = matrix(&inputs["router_logits"]);
    let bias: Vec<f32> = serde_json::from_value(inputs["e_score_correction_bias"].clone()).unwrap();
    let scaling = inputs["routed_scaling_factor"].as_f64().unwrap();
    let size = |name: &str| inputs[name].as_u64().unwrap() as usize;
    let base = MoeConfig { num_experts_per_tok: size("top_k"), n_group: size("n_group"), topk_group: size("topk_group"), ..Default::default() };
    let v2 = MoeConfig { norm_topk_prob: false, routed_scaling_factor: scaling, ..base.clone() };
    let v3 = MoeConfig { scoring_func: Scoring::Sigmoid, topk_method: TopkMethod::NoauxTc, routed_scaling_factor: scaling, ..base.clone() };
    let limited = MoeConfig { topk_method: TopkMethod::GroupLimitedGreedy, ..v2.clone() };
    let zero = vec![0f32; 8];
    for (name, config, bias) in [
        ("mixtral_topk_renormalised", base.clone(), None),
        ("softmax_topk_no_renorm", MoeConfig { norm_topk_prob: false, ..base.clone() }, None),
        ("deepseek_v2_greedy", v2.clone(), None),
        ("deepseek_v2_group_limited_greedy", limited, None),
        ("deepseek_v3_norm", v3.clone(), Some(bias.clone())),
        ("deepseek_v3_no_norm", MoeConfig { norm_topk_prob: false, ..v3.clone() }, Some(bias)),
        ("deepseek_v3_no_groups_zero_bias", MoeConfig { n_group: 1, topk_group: 1, ..v3.clone() }, Some(zero)),
    ] {
        let dense = rows(&expected[name]["dense_weights"]);
        let (chosen, weights) = choose(&config, logits.clone(), bias);
        for (t, want) in dense.iter().enumerate() {
            let mut got = [0f32; 8];
            chosen[t].iter().zip(&weights[t]).for_each(|(&e, &w)| got[e] = w);
            for e in 0..8 {
                assert!((got[e] - want[e]).abs() <= 1e-5, "{name}, token {t}, expert {e}: {} instead of {}", got[e], want[e]);
            }
        }
    }
}

#[test]
fn routers_equal_the_golden_vectors_in_order_too() {
    let golden = fixture("moe/golden.json");
    let softmax = &golden["moe_softmax"];
    for (name, norm_topk_prob) in [("weights_renorm", true), ("weights_no_renorm", false)] {
        let config = MoeConfig { num_experts: 4, norm_topk_prob, ..Default::default() };
        let (chosen, weights) = choose(&config, matrix(&softmax["logits"]), None);
        assert_eq!(serde_json::to_value(chosen).unwrap(), softmax["indices"], "{name}");
        for (got, want) in weights.concat().iter().zip(rows(&softmax[name]).concat()) {
            close(name, *got, f64::from(want));
        }
    }
    let v3 = &golden["deepseek_v3_router"];
    let config = MoeConfig {
        n_group: 4,
        topk_group: 2,
        scoring_func: Scoring::Sigmoid,
        topk_method: TopkMethod::NoauxTc,
        routed_scaling_factor: 2.5,
        ..Default::default()
    };
    let bias: Vec<f32> = serde_json::from_value(v3["bias"].clone()).unwrap();
    let logits: Vec<f32> = serde_json::from_value(v3["logits"].clone()).unwrap();
    let (chosen, weights) = choose(&config, from_vec(logits.clone(), [1, 8], &Device::flex()), Some(bias));
    assert_eq!(serde_json::to_value(&chosen[0]).unwrap(), v3["indices"]);
    for (got, want) in weights[0].iter().zip(v3["weights"].as_array().unwrap()) {
        close("deepseek_v3_router", *got, want.as_f64().unwrap());
    }
    // All biased scores negative: an expert outside the chosen groups must not come back.
    let (chosen, _) = choose(&config, from_vec(logits, [1, 8], &Device::flex()), Some(vec![-9.0, -9.0, -5.0, -5.0, -9.0, -9.0, -5.0, -5.0]));
    assert!(chosen[0].iter().all(|e| [2, 3, 6, 7].contains(e)), "{chosen:?}");
}

#[test]
fn balancing_losses_equal_the_reference() {
    for case in fixture("losses/moe_load_balancing.json")["cases"].as_array().unwrap() {
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        let layers: Vec<_> = inputs["gate_logits"].as_array().unwrap().iter().map(matrix).collect();
        if let Some(want) = expected["mean_logsumexp_sq"].as_f64() {
            close("z-loss", scalar(z_loss(layers[0].clone(), None)), want);
            continue;
        }
        let mask: Option<Vec<bool>> =
            inputs["attention_mask"].as_array().map(|m| m.iter().flat_map(|r| r.as_array().unwrap()).map(|v| v == 1).collect());
        let k = inputs["top_k"].as_u64().unwrap() as usize;
        let loss = load_balancing_loss(&layers, k, mask.as_deref()).unwrap();
        close(case["name"].as_str().unwrap(), scalar(loss), expected["loss"].as_f64().unwrap());
    }
}

#[test]
fn balancing_losses_equal_the_golden_vectors() {
    let golden = fixture("moe/golden.json");
    let softmax = &golden["moe_softmax"];
    let logits = || matrix(&softmax["logits"]);
    let want = |name: &str| softmax[name].as_f64().unwrap();
    close("HF", scalar(load_balancing_loss(&[logits()], 2, None).unwrap()), want("hf_load_balancing_loss"));
    close("Megatron", scalar(switch_loss(logits(), 2, Scoring::Softmax, None)), want("megatron_switch_loss_coeff1"));
    close("z-loss", scalar(z_loss(logits(), None)), want("z_loss_coeff1"));
    let sequence = golden["deepseek_seq_balance_alpha1"]["loss"].as_f64().unwrap();
    close("sequence-wise", scalar(sequence_loss(logits(), 2, Scoring::Sigmoid, &[3], None)), sequence);
    // Twice the same sequence has the loss of one; padding in between changes nothing.
    let padded = Tensor::cat(vec![logits(), matrix(&serde_json::json!([[9.0, 0.0, 0.0, 0.0]])), logits()], 0);
    let mask = [true, true, true, false, true, true, true];
    close("two sequences", scalar(sequence_loss(padded.clone(), 2, Scoring::Sigmoid, &[4, 3], Some(&mask))), sequence);
    close("padded z-loss", scalar(z_loss(padded, Some(&mask))), want("z_loss_coeff1"));

    let update = &golden["bias_update"];
    let counts: Vec<u64> = serde_json::from_value(update["tokens"].clone()).unwrap();
    let new: Vec<f32> = serde_json::from_value(update["new"].clone()).unwrap();
    assert_eq!(bias_update(&[0.0; 4], &counts, update["rate"].as_f64().unwrap()), new);
}

#[test]
fn a_balanced_router_has_the_documented_loss_and_coefficients_are_applied() {
    // Token t prefers experts t and t + 1 of 4: every expert is chosen equally often.
    let device = Device::flex();
    let values = (0..8).flat_map(|t| (0..4).map(move |e| if e == t % 4 || e == (t + 1) % 4 { 2.0 } else { 0.0 })).collect();
    let logits_NE: Tensor<2> = from_vec(values, [8, 4], &device);
    close("HF", scalar(load_balancing_loss(&[logits_NE.clone(), logits_NE.clone()], 2, None).unwrap()), 2.0);
    close("Megatron", scalar(switch_loss(logits_NE.clone(), 2, Scoring::Softmax, None)), 1.0);
    close("sequence-wise", scalar(sequence_loss(logits_NE.clone(), 2, Scoring::Sigmoid, &[4, 4], None)), 1.0);
    let z = f64::from(scalar(z_loss(logits_NE.clone(), None)));
    let layer = Routing { logits_NE, chosen: Vec::new().into(), counts: vec![], dropped: 0 };
    let layers = [layer.clone(), layer];
    let config = MoeConfig { router_aux_loss_coef: 0.5, router_z_loss_coef: 0.01, seq_aux_loss_coef: 0.1, ..Default::default() };
    close("sum", scalar(auxiliary_loss(&config, &layers, &[4, 4], None).unwrap()), 0.5 * 2.0 + 2.0 * (0.01 * z + 0.1));
    assert!(auxiliary_loss(&MoeConfig::default(), &layers, &[8], None).is_none());
}

/// The gradients of the losses, against central differences. The counts are constant under a step that small.
#[test]
fn losses_have_the_gradient_of_their_probabilities() {
    let values = vec![1.0, 2.0, 0.0, -1.0, 0.5, 0.3, 3.0, 0.0, 2.0, 1.9, 1.8, 1.7];
    let losses: [(&str, &dyn Fn(Tensor<2>) -> Tensor<1>); 4] = [
        ("HF", &|l| load_balancing_loss(&[l], 2, None).unwrap()),
        ("Megatron", &|l| switch_loss(l, 2, Scoring::Softmax, None)),
        ("sequence-wise", &|l| sequence_loss(l, 2, Scoring::Sigmoid, &[2, 1], None)),
        ("z-loss", &|l| z_loss(l, None)),
    ];
    for (name, loss) in losses {
        let logits = from_vec(values.clone(), [3, 4], &Device::flex().autodiff()).require_grad();
        let gradients = loss(logits.clone()).backward();
        let got = to_vec(logits.grad(&gradients).unwrap());
        for i in 0..values.len() {
            let at = |step: f32| {
                let mut moved = values.clone();
                moved[i] += step;
                scalar(loss(from_vec(moved, [3, 4], &Device::flex())))
            };
            let want = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((got[i] - want).abs() < 1e-3 * want.abs().max(1.0), "{name}, element {i}: {} instead of {want}", got[i]);
        }
    }
}
