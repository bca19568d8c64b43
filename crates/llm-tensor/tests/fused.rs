//! Every fused operation equals its composed form, in value and in every gradient. If one of these fails, training on the
//! CPU computes something else than training on a GPU.

use llm_run::Seed;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::host::{from_vec, scalar, to_vec};
use llm_tensor::ops::{self, Activation, AdamWStep, AttentionSpan, IGNORE, Indices, Pairing, RopeTable, Score, SquareSum, composed};

fn random<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let mut rng = Seed(1).stream(name).rng();
    from_vec((0..shape.iter().product()).map(|_| rng.normal() as f32).collect(), shape, device)
}

fn close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * scale, "{name}[{i}]: {g} instead of {w}");
    }
}

/// Compare value and gradients of `f` and `g` over the same tracked inputs, under a random linear loss.
fn compare<const D: usize>(name: &str, inputs: Vec<Tensor<2>>, f: impl Fn(&[Tensor<2>]) -> Tensor<D>, g: impl Fn(&[Tensor<2>]) -> Tensor<D>) {
    let run = |op: &dyn Fn(&[Tensor<2>]) -> Tensor<D>| {
        let inputs: Vec<_> = inputs.iter().map(|t| t.clone().detach().require_grad()).collect();
        let y = op(&inputs);
        let value = to_vec(y.clone().inner());
        let weights = random("loss", y.dims(), &y.device());
        let grads = (y * weights).sum().backward();
        let grads: Vec<_> = inputs.iter().map(|t| to_vec(t.grad(&grads).expect("gradient"))).collect();
        (value, grads)
    };
    let (value_f, grads_f) = run(&f);
    let (value_g, grads_g) = run(&g);
    close(&format!("{name} value"), &value_f, &value_g);
    for (i, (a, b)) in grads_f.iter().zip(&grads_g).enumerate() {
        close(&format!("{name} gradient {i}"), a, b);
    }
}

#[test]
fn row_wise_operations_equal_their_composed_form() {
    let device = Device::flex().autodiff();
    let ids = |n: usize, below: usize| -> Indices {
        let mut rng = Seed(3).rng();
        (0..n).map(|_| rng.below(below) as u32).collect()
    };
    for n in [1usize, 7, 130] {
        let x = random("x", [n, 48], &device);
        let w = random("w", [80, 48], &device);
        compare("linear", vec![x.clone(), w.clone()], |t| ops::linear(t[0].clone(), t[1].clone()), |t| composed::linear(t[0].clone(), t[1].clone()));
        let scale = random("scale", [1, 48], &device);
        let flat = |t: &Tensor<2>| t.clone().reshape([48]);
        compare(
            "rms_norm",
            vec![x.clone(), scale.clone()],
            |t| ops::rms_norm(t[0].clone(), flat(&t[1]), 1e-6),
            |t| composed::rms_norm(t[0].clone(), flat(&t[1]), 1e-6),
        );
        compare(
            "gemma_rms_norm",
            vec![x.clone(), scale.clone()],
            |t| ops::gemma_rms_norm(t[0].clone(), flat(&t[1]), 1e-6),
            |t| composed::gemma_rms_norm(t[0].clone(), flat(&t[1]), 1e-6),
        );
        compare(
            "layer_norm",
            vec![x.clone() + 3.0, scale, random("shift", [1, 48], &device)],
            |t| ops::layer_norm(t[0].clone(), flat(&t[1]), flat(&t[2]), 1e-5),
            |t| composed::layer_norm(t[0].clone(), flat(&t[1]), flat(&t[2]), 1e-5),
        );
        let up = random("up", [n, 48], &device);
        for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            let inputs = vec![x.clone(), up.clone()];
            compare("gated", inputs, |t| ops::gated(t[0].clone(), t[1].clone(), act), |t| composed::gated(t[0].clone(), t[1].clone(), act));
            compare("activate", vec![x.clone()], |t| ops::activate(t[0].clone(), act), |t| composed::activate(t[0].clone(), act));
        }
        let rows = ids(n, 80);
        compare("embedding", vec![w.clone()], |t| ops::embedding(t[0].clone(), rows.clone()), |t| composed::embedding(t[0].clone(), &rows));
        let mut targets = ids(n, 48).to_vec();
        targets[n / 2] = IGNORE;
        let targets: Indices = targets.into();
        compare(
            "cross_entropy",
            vec![x.clone() * 5.0],
            |t| ops::cross_entropy(t[0].clone(), targets.clone()),
            |t| composed::cross_entropy(t[0].clone(), &targets),
        );
        let positions = ids(n, 200);
        for (head_dim, pairing) in [(8usize, Pairing::Halves), (12, Pairing::Halves), (8, Pairing::Neighbours), (12, Pairing::Neighbours)] {
            let table = RopeTable::new(&[1.0, 0.1, 0.01, 0.001], 200, 1.0, pairing);
            let heads = 48 / head_dim;
            let cube = |t: &Tensor<2>| t.clone().reshape([n, heads, head_dim]);
            compare(
                "rope",
                vec![x.clone()],
                |t| ops::rope(cube(&t[0]), positions.clone(), &table),
                |t| composed::rope(cube(&t[0]), &positions, &table),
            );
        }
    }
}

#[test]
fn grouped_linear_equals_its_composed_form_for_ragged_and_empty_groups() {
    let device = Device::flex().autodiff();
    let (inputs, outputs) = (24usize, 200usize);
    for offsets in [[0u32, 1, 1, 601], [0, 0, 37, 37], [0, 0, 0, 1], [0, 256, 257, 700]] {
        let offsets: Indices = offsets.to_vec().into();
        let x = random("x", [offsets[3] as usize, inputs], &device);
        let w = random("w", [3 * outputs, inputs], &device);
        let cube = |w: &Tensor<2>| w.clone().reshape([3, outputs, inputs]);
        compare(
            "grouped_linear",
            vec![x.clone(), w.clone()],
            |t| ops::grouped_linear(t[0].clone(), cube(&t[1]), offsets.clone()),
            |t| composed::grouped_linear(t[0].clone(), cube(&t[1]), &offsets),
        );
        let w = w.detach().require_grad();
        let grads = ops::grouped_linear(x, cube(&w), offsets.clone()).sum().backward();
        let dw = to_vec(w.grad(&grads).unwrap());
        for e in (0..3).filter(|&e| offsets[e] == offsets[e + 1]) {
            assert!(dw[e * outputs * inputs..][..outputs * inputs].iter().all(|&x| x == 0.0), "group {e} has no rows, so no gradient");
        }
    }
    let none = ops::grouped_linear(Tensor::zeros([0, inputs], &device), Tensor::zeros([2, outputs, inputs], &device), vec![0, 0, 0].into());
    assert_eq!(none.dims(), [0, outputs]);
}

#[test]
fn linear_cross_entropy_equals_its_composed_form() {
    let device = Device::flex().autodiff();
    // The last size has more rows than one block of the kernel (2^21 / 40 000 < 64, the smallest block).
    for (n, vocab, hidden) in [(1usize, 48usize, 8usize), (7, 33, 16), (130, 80, 48), (150, 40_000, 8)] {
        let mut rng = Seed(5).rng();
        let mut targets: Vec<u32> = (0..n).map(|_| rng.below(vocab) as u32).collect();
        for at in (0..n).filter(|at| at % 5 == 3) {
            targets[at] = IGNORE;
        }
        let targets: Indices = targets.into();
        let inputs = vec![random("h", [n, hidden], &device), random("w", [vocab, hidden], &device)];
        for softcap in [None, Some(3.0)] {
            let fused = |t: &[Tensor<2>]| ops::linear_cross_entropy(t[0].clone(), t[1].clone(), targets.clone(), softcap);
            let reference = |t: &[Tensor<2>]| composed::linear_cross_entropy(t[0].clone(), t[1].clone(), &targets, softcap);
            compare("linear_cross_entropy, a gradient per row", inputs.clone(), fused, reference);
            compare("linear_cross_entropy, one gradient for all rows", inputs.clone(), |t| fused(t).sum(), |t| reference(t).sum());
            let parts = |t: &[Tensor<2>]| composed::linear_cross_entropy_by_rows(t[0].clone(), t[1].clone(), &targets, softcap, 40);
            compare("linear_cross_entropy in parts", inputs.clone(), parts, reference);
            let plain: Vec<_> = inputs.iter().map(|t| t.clone().inner()).collect();
            close("linear_cross_entropy without gradients", &to_vec(fused(&plain)), &to_vec(reference(&plain)));
        }
    }
}

/// PyTorch's numbers: with the identity as weight the hidden states are the logits, so both operations answer.
#[test]
fn cross_entropy_and_its_gradient_equal_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/losses/cross_entropy.json");
    let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let device = Device::flex().autodiff();
    for case in fixture["cases"].as_array().unwrap() {
        let logits: Vec<Vec<Vec<f32>>> = serde_json::from_value(case["inputs"]["logits"].clone()).unwrap();
        let labels: Vec<Vec<i64>> = serde_json::from_value(case["inputs"]["labels"].clone()).unwrap();
        let (n, v) = (labels.iter().map(Vec::len).sum::<usize>(), logits[0][0].len());
        let target = |&l: &i64| if l < 0 { IGNORE } else { l as u32 };
        let targets: Indices = labels.iter().flat_map(|row| row[1..].iter().map(target).chain([IGNORE])).collect();
        let kept = case["expected"]["kept"].as_str().map_or_else(|| case["expected"]["kept"].as_f64(), |s| s.parse().ok()).unwrap() as f32;
        let want: Vec<Vec<Vec<f32>>> = serde_json::from_value(case["expected"]["grad_logits"].clone()).unwrap();
        let mean = case["expected"]["mean"].as_f64().unwrap() as f32;
        let flat = |x: &[Vec<Vec<f32>>]| x.iter().flatten().flatten().copied().collect::<Vec<f32>>();
        for fused_projection in [false, true] {
            let x = from_vec(flat(&logits), [n, v], &device).require_grad();
            let nll = if fused_projection {
                ops::linear_cross_entropy(x.clone(), Tensor::eye(v, &device), targets.clone(), None)
            } else {
                ops::cross_entropy(x.clone(), targets.clone())
            };
            let loss = nll.sum() / kept;
            let grads = loss.backward();
            close("mean", &to_vec(loss.inner()), &[mean]);
            close("gradient of the logits", &to_vec(x.grad(&grads).unwrap()), &flat(&want));
        }
    }
}

#[test]
fn a_frozen_head_or_a_batch_without_targets_still_gives_the_gradients_that_exist() {
    let device = Device::flex().autodiff();
    let weight = random("w", [60, 16], &device);
    for targets in [vec![3u32; 9], vec![IGNORE; 9]] {
        let targets: Indices = targets.into();
        let gradient = |fused: bool| {
            let h = random("h", [9, 16], &device).require_grad();
            let nll = match fused {
                true => ops::linear_cross_entropy(h.clone(), weight.clone(), targets.clone(), None),
                false => composed::linear_cross_entropy(h.clone(), weight.clone(), &targets, None),
            };
            to_vec(h.grad(&nll.sum().backward()).expect("gradient"))
        };
        close("hidden, frozen head", &gradient(true), &gradient(false));
    }
    let w = random("w", [60, 16], &device).require_grad();
    let none = ops::linear_cross_entropy(Tensor::zeros([0, 16], &device), w.clone(), Vec::new().into(), None);
    let grads = none.sum().backward();
    assert!(to_vec(w.grad(&grads).expect("gradient")).iter().all(|&x| x == 0.0), "no rows, no gradient");
}

#[test]
fn attention_equals_its_composed_form_for_packed_windowed_and_grouped_heads() {
    let device = Device::flex().autodiff();
    let (batch, length, size) = (2usize, 150usize, 16usize);
    let packed = AttentionSpan::documents(&[&[0, 40, 41, 100], &[0, 149]], length);
    for span in [AttentionSpan::causal(batch, length), packed.clone(), packed.sliding(33)] {
        for (heads, kv_heads, value, softcap) in [(4usize, 4usize, 16, None), (4, 2, 16, Some(2.0)), (6, 1, 16, None), (4, 4, 10, Some(5.0))] {
            let n = batch * length;
            let score = Score { scale: 0.25, softcap };
            let inputs = vec![
                random("q", [n, heads * size], &device),
                random("k", [n, kv_heads * size], &device),
                random("v", [n, kv_heads * value], &device),
            ];
            let cubes = |t: &[Tensor<2>]| {
                (t[0].clone().reshape([n, heads, size]), t[1].clone().reshape([n, kv_heads, size]), t[2].clone().reshape([n, kv_heads, value]))
            };
            compare(
                "attention",
                inputs,
                |t| {
                    let (q, k, v) = cubes(t);
                    ops::attention(q, k, v, &span, score)
                },
                |t| {
                    let (q, k, v) = cubes(t);
                    composed::attention(q, k, v, &span, score)
                },
            );
        }
    }
}

#[test]
fn packed_documents_cannot_see_each_other() {
    let device = Device::flex();
    let span = AttentionSpan::documents(&[&[0, 5]], 9);
    assert_eq!(&*span.positions(), &[0, 1, 2, 3, 4, 0, 1, 2, 3]);
    let cube = |name: &str, bump: f32| {
        let mut values = to_vec(random(name, [9, 2, 8], &device));
        values[..5 * 16].iter_mut().for_each(|v| *v += bump);
        from_vec(values, [9, 2, 8], &device)
    };
    let run = |bump| {
        to_vec(ops::attention(cube("q", bump), cube("k", bump), cube("v", bump), &span, Score { scale: 0.3, softcap: None }))[5 * 16..].to_vec()
    };
    assert_eq!(run(0.0), run(3.0), "the second document must not notice a change in the first");
}

#[test]
fn adamw_equals_its_composed_form() {
    let device = Device::flex();
    let t = |name: &str| random(name, [1000], &device);
    let v = t("v").powf_scalar(2.0);
    let step = AdamWStep { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 7, grad_scale: 0.5 };
    let (p1, m1, v1) = ops::adamw(t("p"), t("m"), v.clone(), t("g"), step);
    let (p2, m2, v2) = composed::adamw(t("p"), t("m"), v, t("g"), step);
    for (name, a, b) in [("p", p1, p2), ("m", m1, m2), ("v", v1, v2)] {
        close(name, &to_vec(a), &to_vec(b));
    }
}

#[test]
fn square_sum_is_a_double_precision_sum() {
    for n in [0usize, 1, 7, 20_000, 50_001] {
        let x = random("x", [n], &Device::flex());
        let want: f64 = to_vec(x.clone()).iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let SquareSum::Host(sum) = ops::square_sum([&x]) else { panic!("the fused kernel was not used") };
        assert!((sum - want).abs() <= 1e-12 * want, "{n} elements");
        let sum = f64::from(scalar(composed::square_sum(x.clone())));
        assert!((sum - want).abs() <= 1e-5 * want, "{n} elements on a device: {sum} instead of {want}");
        let SquareSum::Device(sum) = ops::square_sum([&x.clone().cast(DType::BF16), &x]) else { panic!("bfloat16 has no fused kernel") };
        assert!((f64::from(scalar(*sum)) - 2.0 * want).abs() <= 1e-2 * want, "{n} elements, half of them in bfloat16");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let device = Device::flex().autodiff();
    let run = |threads: usize| {
        let pool = llm_tensor::rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let x = random("x", [512, 192], &device).require_grad();
            let w = random("w", [512, 192], &device).require_grad();
            let scale = random("s", [192], &device).require_grad();
            let y = ops::linear(ops::rms_norm(x.clone(), scale.clone(), 1e-5), w.clone());
            let q = y.clone().reshape([512, 8, 64]);
            let y = ops::attention(q.clone(), q.clone(), q, &AttentionSpan::causal(2, 256), Score { scale: 0.1, softcap: None }).reshape([512, 512]);
            let stacked = w.clone().reshape([2, 256, 192]);
            let y = y + ops::grouped_linear(x.clone(), stacked, vec![0, 500, 512].into()).repeat_dim(1, 2);
            let nll = ops::cross_entropy(y.clone(), (0..512).map(|i| i as u32).collect());
            let factors = random("factors", [512], &device);
            let head = random("head", [6000, 512], &device).require_grad();
            let tail = ops::linear_cross_entropy(y, head.clone(), (0..512).map(|i| i * 11).collect(), Some(9.0));
            let nll = nll + tail * factors;
            let grads = nll.clone().sum().backward();
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            (
                bits(to_vec(nll.inner())),
                bits(to_vec(x.grad(&grads).unwrap())),
                bits(to_vec(w.grad(&grads).unwrap())),
                bits(to_vec(scale.grad(&grads).unwrap())),
                bits(to_vec(head.grad(&grads).unwrap())),
            )
        })
    };
    assert!(run(1) == run(2), "1 and 2 threads");
    assert!(run(1) == run(4), "1 and 4 threads");
}
