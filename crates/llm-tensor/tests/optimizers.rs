//! The fused steps of the optimisers equal their composed forms. If one of these fails, training on the CPU takes other steps than
//! training on a GPU.

use llm_run::Seed;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::host::{from_vec, to_vec};
use llm_tensor::kernels::muon::orthogonalize;
use llm_tensor::ops::composed::optimizer as composed;
use llm_tensor::ops::{self, AdafactorStep, AdamWStep, Iteration, LionStep, MuonStep, Quantized, Sign};

fn random(name: &str, n: usize) -> Tensor<1> {
    let mut rng = Seed(1).stream(name).rng();
    from_vec((0..n).map(|_| rng.normal() as f32).collect(), [n], &Device::flex())
}

/// No negative numbers.
fn squares(name: &str, n: usize) -> Tensor<1> {
    random(name, n).powf_scalar(2.0)
}

fn close(name: &str, got: Tensor<1>, want: Tensor<1>) {
    let (got, want) = (to_vec(got), to_vec(want));
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= 2e-5 * scale, "{name}[{i}]: {g} instead of {w}");
    }
}

#[test]
fn lion_equals_its_composed_form() {
    let step = LionStep { lr: 3e-3, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, grad_scale: 0.5 };
    let (p1, m1) = ops::lion(random("p", 1000), random("m", 1000), random("g", 1000), step);
    let (p2, m2) = composed::lion(random("p", 1000), random("m", 1000), random("g", 1000), step);
    close("p", p1, p2);
    close("m", m1, m2);
}

fn iteration() -> Iteration {
    Iteration { coefficients: vec![[3.4445, -4.7750, 2.0315]; 5].into(), slack: 1.0, eps: 1e-7 }
}

#[test]
fn muon_equals_its_composed_form_for_every_shape() {
    for (batch, shape) in [(1, [24, 24]), (1, [40, 16]), (1, [16, 40]), (3, [8, 12]), (1, [1, 7]), (1, [7, 1])] {
        let n = batch * shape[0] * shape[1];
        for nesterov in [true, false] {
            let step = MuonStep { shape, lr: 0.02, keep: 0.99, momentum: 0.95, nesterov, grad_scale: 0.5, iteration: iteration() };
            let (p1, m1) = ops::muon(random("p", n), random("m", n), random("g", n), &step);
            let (p2, m2) = composed::muon(random("p", n), random("m", n), random("g", n), &step, DType::F32);
            close(&format!("{batch} x {shape:?} p"), p1, p2);
            close(&format!("{batch} x {shape:?} m"), m1, m2);
        }
    }
}

/// If this fails, Muon's steps have another spectrum than they should.
#[test]
fn what_the_iteration_makes_is_nearly_orthogonal() {
    let (rows, columns) = (12, 30);
    let mut x = to_vec(random("x", rows * columns));
    orthogonalize(&mut x, rows, columns, &iteration());
    for i in 0..rows {
        let norm: f32 = x[i * columns..][..columns].iter().map(|x| x * x).sum();
        assert!((0.4..1.5).contains(&norm), "row {i} has squared norm {norm}");
    }
    let mut zero = vec![0f32; 12];
    orthogonalize(&mut zero, 3, 4, &iteration());
    assert_eq!(zero, [0.0; 12], "no momentum, no step");
}

#[test]
fn adafactor_equals_its_composed_form() {
    let step = AdafactorStep {
        lr: 0.05,
        weight: 0.3,
        relative: 0.05,
        eps1: f32::EPSILON,
        eps2: 1e-3,
        clip_threshold: 1.0,
        weight_decay: 0.1,
        grad_scale: 0.5,
    };
    for (batch, shape) in [(1, [130, 40]), (1, [3, 200]), (2, [70, 9])] {
        let (rows, columns, n) = (batch * shape[0], batch * shape[1], batch * shape[0] * shape[1]);
        let (p1, r1, c1) = ops::adafactor_matrices(random("p", n), squares("r", rows), squares("c", columns), random("g", n), shape, step);
        let (p2, r2, c2) = composed::adafactor_matrices(random("p", n), squares("r", rows), squares("c", columns), random("g", n), shape, step);
        close(&format!("{batch} x {shape:?} p"), p1, p2);
        close(&format!("{batch} x {shape:?} rows"), r1, r2);
        close(&format!("{batch} x {shape:?} columns"), c1, c2);
    }
    let (p1, v1) = ops::adafactor_vector(random("p", 77), squares("v", 77), random("g", 77), step);
    let (p2, v2) = composed::adafactor_vector(random("p", 77), squares("v", 77), random("g", 77), step);
    close("vector p", p1, p2);
    close("vector variance", v1, v2);
}

#[test]
fn eight_bit_adamw_equals_its_composed_form() {
    for n in [1usize, 255, 256, 257, 20_000] {
        let state = |name: &str, sign| composed::encode(if sign == Sign::Signed { random(name, n) } else { squares(name, n) }, sign);
        let step = AdamWStep { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 7, grad_scale: 0.5 };
        let (p1, m1, v1) = ops::adamw_8bit(random("p", n), state("m", Sign::Signed), state("v", Sign::Unsigned), random("g", n), step);
        let (p2, m2, v2) = composed::adamw_8bit(random("p", n), state("m", Sign::Signed), state("v", Sign::Unsigned), random("g", n), step);
        close("p", p1, p2);
        for (name, a, b) in [("m", m1, m2), ("v", v1, v2)] {
            close(name, a.absmax.clone(), b.absmax.clone());
            // The last bit of a moment may round to the neighbour.
            let differ = a.codes().iter().zip(b.codes()).filter(|(a, b)| **a != *b).count();
            assert!(a.codes().iter().zip(b.codes()).all(|(a, b)| a.abs_diff(b) <= 1) && differ * 1000 <= n, "{name}: {differ} of {n} codes differ");
        }
    }
}

#[test]
fn codes_survive_a_file_and_zeros_are_zero() {
    let device = Device::flex();
    for n in [1usize, 3, 256, 1000] {
        let x = composed::encode(random("x", n), Sign::Signed);
        let codes = x.codes();
        assert_eq!(codes.len(), n);
        let back = Quantized::from_codes(&codes, x.absmax.clone());
        assert_eq!(back.codes(), codes);
        let (a, b) = (to_vec(composed::decode(x, Sign::Signed)), to_vec(composed::decode(back, Sign::Signed)));
        assert_eq!(a, b);
        let largest = to_vec(random("x", n)).iter().fold(0f32, |m, x| m.max(x.abs()));
        for (a, x) in a.iter().zip(to_vec(random("x", n))) {
            assert!((a - x).abs() <= 0.01 * largest, "{a} for {x}");
        }
        assert!(to_vec(composed::decode(Quantized::zeros(n, &device), Sign::Signed)).iter().all(|x| *x == 0.0));
    }
}
