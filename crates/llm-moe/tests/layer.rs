//! The layer computes what its definition says: equal to a dense form in which every expert sees every token, in value and in every
//! gradient; equal for any order of the tokens; drops counted.

#![allow(non_snake_case)]

use llm_moe::{Error, Moe, MoeConfig, RoutingStats, Scoring, TopkMethod};
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor, activation};
use llm_tensor::host::{from_vec, to_vec};
use llm_tensor::{ops, params};
use proptest::prelude::*;
use std::collections::BTreeMap;

const HIDDEN: usize = 12;

fn random(name: &str, n: usize, scale: f64) -> Vec<f32> {
    let mut rng = Seed(5).stream(name).rng();
    (0..n).map(|_| (rng.normal() * scale) as f32).collect()
}

fn layer(config: &MoeConfig, device: &Device) -> Moe {
    Moe::new(config, HIDDEN, &mut |name, shape| random(name, shape.iter().product(), 0.4), device).unwrap()
}

fn configs() -> Vec<(&'static str, MoeConfig)> {
    let mixtral = MoeConfig { moe_intermediate_size: 10, ..Default::default() };
    let qwen2 =
        MoeConfig { num_experts_per_tok: 3, norm_topk_prob: false, shared_expert_intermediate_size: 7, shared_expert_gate: true, ..mixtral.clone() };
    let v2 = MoeConfig {
        topk_method: TopkMethod::GroupLimitedGreedy,
        norm_topk_prob: false,
        n_group: 4,
        topk_group: 2,
        routed_scaling_factor: 4.0,
        shared_expert_intermediate_size: 20,
        ..mixtral.clone()
    };
    let v3 =
        MoeConfig { scoring_func: Scoring::Sigmoid, topk_method: TopkMethod::NoauxTc, norm_topk_prob: true, num_experts_per_tok: 4, ..v2.clone() };
    vec![("mixtral", mixtral), ("qwen2", qwen2), ("deepseek_v2", v2), ("deepseek_v3", v3)]
}

/// Every expert on every token, times a dense matrix of weights that is zero where an expert was not chosen.
fn dense(moe: &Moe, x_ND: Tensor<2>, chosen: &[u32], kept: &[f32]) -> Tensor<2> {
    let config = moe.config();
    let (n, e, k) = (x_ND.dims()[0], config.num_experts, config.num_experts_per_tok);
    let device = x_ND.device();
    let linear = |x: Tensor<2>, w: Tensor<2>| x.matmul(w.swap_dims(0, 1));
    let swiglu =
        |x: Tensor<2>, gate: Tensor<2>, up: Tensor<2>, down: Tensor<2>| linear(activation::silu(linear(x.clone(), gate)) * linear(x, up), down);
    let logits_NE = linear(x_ND.clone(), moe.gate.weight.val());
    let scores_NE = match config.scoring_func {
        Scoring::Softmax => activation::softmax(logits_NE, 1),
        Scoring::Sigmoid => activation::sigmoid(logits_NE),
    };
    let mask = |value: &dyn Fn(usize) -> f32| {
        let mut mask = vec![0f32; n * e];
        chosen.iter().enumerate().for_each(|(i, &expert)| mask[i / k * e + expert as usize] = value(i));
        from_vec::<2>(mask, [n, e], &device)
    };
    let mut w_NE = scores_NE * mask(&|_| 1.0);
    if config.norm_topk_prob {
        w_NE = w_NE.clone() / w_NE.sum_dim(1);
    }
    w_NE = w_NE * mask(&|i| kept[i]) * config.routed_scaling_factor;
    let mut y_ND = x_ND.zeros_like();
    for i in 0..e {
        let one = |w: &Tensor<3>| {
            let [_, o, d] = w.dims();
            w.clone().slice([i..i + 1, 0..o, 0..d]).reshape([o, d])
        };
        let experts = &moe.experts;
        let out_ND = swiglu(x_ND.clone(), one(&experts.gate_proj.val()), one(&experts.up_proj.val()), one(&experts.down_proj.val()));
        y_ND = y_ND + out_ND * w_NE.clone().slice([0..n, i..i + 1]);
    }
    if let Some(shared) = &moe.shared_experts {
        let out_ND = swiglu(x_ND.clone(), shared.gate_proj.weight.val(), shared.up_proj.weight.val(), shared.down_proj.weight.val());
        y_ND = y_ND
            + match &moe.shared_expert_gate {
                Some(gate) => out_ND * activation::sigmoid(linear(x_ND, gate.weight.val())),
                None => out_ND,
            };
    }
    y_ND
}

/// Output, gradient of the input and of every parameter, under a random linear loss.
fn results(moe: &Moe, n: usize, f: impl Fn(Tensor<2>) -> Tensor<2>) -> BTreeMap<String, Vec<f32>> {
    let device = Device::flex().autodiff();
    let x_ND = from_vec(random("x", n * HIDDEN, 1.0), [n, HIDDEN], &device).require_grad();
    let y_ND = f(x_ND.clone());
    let loss = from_vec(random("loss", n * HIDDEN, 1.0), [n, HIDDEN], &device);
    let gradients = (y_ND.clone() * loss).sum().backward();
    let mut results: BTreeMap<_, _> = params::gradients(moe, &gradients).into_iter().map(|(name, g)| (name, to_vec(g))).collect();
    results.insert("output".into(), to_vec(y_ND.inner()));
    results.insert("input".into(), to_vec(x_ND.grad(&gradients).unwrap()));
    results
}

fn same(case: &str, got: &BTreeMap<String, Vec<f32>>, want: &BTreeMap<String, Vec<f32>>) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{case}");
    for (name, want) in want {
        let scale = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        for (i, (g, w)) in got[name].iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 2e-5 * scale, "{case}: {name}[{i}] = {g} instead of {w}");
        }
    }
}

#[test]
fn values_and_gradients_equal_the_dense_form() {
    let device = Device::flex().autodiff();
    for (case, config) in configs() {
        let moe = layer(&config, &device);
        for n in [1, 37] {
            let sparse = results(&moe, n, |x| moe.forward(x, None).0);
            let chosen = moe.forward(from_vec(random("x", n * HIDDEN, 1.0), [n, HIDDEN], &device), None).1.chosen;
            same(case, &sparse, &results(&moe, n, |x| dense(&moe, x, &chosen, &vec![1.0; chosen.len()])));
            let trained = ["gate.weight", "experts.gate_proj", "experts.up_proj", "experts.down_proj"];
            assert!(trained.iter().all(|name| sparse.contains_key(*name)), "{case}: {:?}", sparse.keys());
            assert!(!sparse.contains_key("gate.e_score_correction_bias"), "the bias is not trained by gradient");
        }
    }
}

#[test]
fn overflow_is_dropped_counted_and_without_gradient() {
    let device = Device::flex().autodiff();
    let config = MoeConfig { capacity_factor: Some(0.75), ..configs()[0].1.clone() };
    let moe = layer(&config, &device);
    let n = 40;
    let x_ND = || from_vec(random("x", n * HIDDEN, 1.0), [n, HIDDEN], &device);
    let (_, routing) = moe.forward(x_ND(), Some(Seed(1)));
    let capacity = 8; // ceil(0.75 * 40 * 2 / 8)
    assert_eq!(config.capacity(n), Some(capacity));
    let overflow: u64 = routing.counts.iter().map(|c| c.saturating_sub(capacity as u64)).sum();
    assert!(overflow > 0 && routing.dropped as u64 == overflow, "{routing:?}");
    assert_eq!(routing.counts.iter().sum::<u64>(), 80, "counts are of choices, dropped or not");
    assert_eq!(RoutingStats::new(&routing.counts, 2, routing.dropped).dropped_share, overflow as f64 / 80.0);
    let mut taken = vec![0; config.num_experts];
    let kept: Vec<f32> = routing
        .chosen
        .iter()
        .map(|&e| {
            taken[e as usize] += 1;
            if taken[e as usize] <= capacity { 1.0 } else { 0.0 }
        })
        .collect();
    let sparse = results(&moe, n, |x| moe.forward(x, Some(Seed(1))).0);
    same("capacity", &sparse, &results(&moe, n, |x| dense(&moe, x, &routing.chosen, &kept)));
    assert_eq!(moe.forward(x_ND(), None).1.dropped, 0, "nothing is dropped outside training");
}

#[test]
fn equal_scores_choose_the_lower_experts() {
    let device = Device::flex();
    for (case, config) in configs() {
        let moe = Moe::new(&config, HIDDEN, &mut |_, shape| vec![0.0; shape.iter().product()], &device).unwrap();
        let (_, routing) = moe.forward(from_vec(random("x", 3 * HIDDEN, 1.0), [3, HIDDEN], &device), None);
        let lowest: Vec<u32> = (0..config.num_experts_per_tok as u32).collect();
        assert_eq!(&*routing.chosen, lowest.repeat(3), "{case}");
    }
}

#[test]
fn jitter_is_a_function_of_the_seed_and_absent_outside_training() {
    let device = Device::flex();
    let config = MoeConfig { router_jitter_noise: 0.1, ..configs()[0].1.clone() };
    let moe = layer(&config, &device);
    let run = |training| to_vec(moe.forward(from_vec(random("x", 9 * HIDDEN, 1.0), [9, HIDDEN], &device), training).0);
    assert_eq!(run(Some(Seed(1))), run(Some(Seed(1))));
    assert_ne!(run(Some(Seed(1))), run(Some(Seed(2))));
    assert_ne!(run(Some(Seed(1))), run(None));
    let still = layer(&configs()[0].1, &device);
    assert_eq!(run(None), to_vec(still.forward(from_vec(random("x", 9 * HIDDEN, 1.0), [9, HIDDEN], &device), Some(Seed(1))).0));
}

#[test]
fn the_bias_moves_against_the_load_and_changes_the_choice_alone() {
    let device = Device::flex();
    let config = MoeConfig { bias_update_rate: 0.5, ..configs()[3].1.clone() };
    let mut moe = layer(&config, &device);
    let before = params::to_host(&moe);
    let x_ND = || from_vec(random("x", 30 * HIDDEN, 1.0), [30, HIDDEN], &device);
    let first = moe.forward(x_ND(), None).1;
    moe.update_bias(&first.counts);
    let after = params::to_host(&moe);
    for (name, value) in &before {
        assert_eq!(value.values != after[name].values, name == "gate.e_score_correction_bias", "{name}");
    }
    let second = moe.forward(x_ND(), None).1;
    assert_eq!(to_vec(first.logits_NE), to_vec(second.logits_NE));
    assert_ne!(first.chosen, second.chosen);
}

#[test]
fn parameters_carry_their_names_and_wrong_sizes_are_named() {
    let device = Device::flex();
    let mut asked = Vec::new();
    let config = configs().remove(1).1;
    let moe = Moe::new(
        &config,
        HIDDEN,
        &mut |name, shape| {
            asked.push((name.to_string(), shape.to_vec()));
            vec![0.0; shape.iter().product()]
        },
        &device,
    )
    .unwrap();
    asked.sort();
    assert_eq!(asked, params::shapes(&moe).into_iter().collect::<Vec<_>>(), "`init` is asked under the names the module has");
    let error = Moe::new(&config, HIDDEN, &mut |_, _| vec![0.0; 5], &device).unwrap_err();
    assert!(matches!(&error, Error::Parameter { name, got: 5, .. } if name == "gate.weight"), "{error}");
    assert!(Moe::new(&MoeConfig { num_experts: 0, ..config }, HIDDEN, &mut |_, _| vec![], &device).is_err());
}

#[test]
fn threads_do_not_change_a_bit() {
    let device = Device::flex().autodiff();
    let config = configs().remove(0).1;
    let run = |threads: usize| {
        let pool = llm_tensor::rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let moe = layer(&config, &device);
            results(&moe, 700, |x| moe.forward(x, None).0)
        })
    };
    assert!(run(1) == run(2));
}

#[test]
fn an_empty_batch_is_an_empty_result() {
    let device = Device::flex();
    let (y_ND, routing) = layer(&configs()[1].1, &device).forward(Tensor::zeros([0, HIDDEN], &device), None);
    assert_eq!((y_ND.dims(), routing.chosen.len()), ([0, HIDDEN], 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn permuted_tokens_give_the_permuted_output(seed: u64, n in 1usize..50, case in 0usize..4) {
        let device = Device::flex();
        let moe = layer(&configs()[case].1, &device);
        let x_ND: Tensor<2> = from_vec(random("x", n * HIDDEN, 1.0), [n, HIDDEN], &device);
        let mut order: Vec<u32> = (0..n as u32).collect();
        Seed(seed).rng().shuffle(&mut order);
        let order: ops::Indices = order.into();
        let (y_ND, routing) = moe.forward(x_ND.clone(), None);
        let (permuted_ND, permuted_routing) = moe.forward(ops::embedding(x_ND, order.clone()), None);
        prop_assert_eq!(routing.counts, permuted_routing.counts);
        let want = to_vec(ops::embedding(y_ND, order));
        // Not bit-equal: a row may fall into another block of the matrix product.
        for (g, w) in to_vec(permuted_ND).into_iter().zip(want) {
            prop_assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{} instead of {}", g, w);
        }
    }
}
