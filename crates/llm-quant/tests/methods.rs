//! The methods themselves: against numbers of bitsandbytes, and against what the papers promise.

use llm_quant::gptq::{Hessian, Options, Prepared, quantize};
use llm_quant::round;
use llm_run::Seed;
use llm_tensor::quant::bitsandbytes::{Absmax, Int8};
use llm_tensor::quant::nf4;
use llm_tensor::weights::Weights;

fn fixture(name: &str) -> Weights {
    Weights::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/quant/").to_string() + name).unwrap()
}

fn bytes(weights: &Weights, name: &str) -> Vec<u8> {
    weights.raw(name).unwrap().2.to_vec()
}

#[test]
fn int8_rows_are_those_of_the_fixture() {
    let weights = fixture("int8.safetensors");
    let ours = Int8::round(&weights.get("weight").unwrap().values, [64, 64]);
    let codes: Vec<i8> = bytes(&weights, "rowwise.q").iter().map(|b| b.cast_signed()).collect();
    assert_eq!(ours.weight, codes);
    for (m, s) in ours.scb.iter().zip(weights.get("rowwise.scale").unwrap().values) {
        assert!((m / 127.0 - s).abs() <= s * 1e-6);
    }
    let zeros = Int8::round(&[0.0; 8], [2, 4]).packed().dequantize();
    assert_eq!(zeros, [0.0; 8], "a row of zeros must not divide by zero");
}

#[test]
fn nf4_is_bit_identical_to_bitsandbytes() {
    let weights = fixture("nf4.safetensors");
    let values = weights.get("weight").unwrap().values;
    let plain = nf4::nf4(&values, [64, 64], 64, false, "float32");
    assert_eq!(plain.packed, bytes(&weights, "packed"));
    assert_eq!(plain.absmax, Absmax::Plain(weights.get("absmax").unwrap().values));
    let double = nf4::nf4(&values, [64, 64], 64, true, "float32");
    let Absmax::Nested { codes, absmax, table, offset, .. } = &double.absmax else { panic!("not nested") };
    assert_eq!(table, &weights.get("double_quant.nested_code").unwrap().values, "the dynamic 8-bit type");
    assert_eq!(codes, &bytes(&weights, "double_quant.absmax_u8"));
    let near = |a: f32, name: &str| {
        let b = weights.get(&format!("double_quant.{name}")).unwrap().values[0];
        assert!((a - b).abs() <= b.abs() * 1e-6, "{name}: {a}, expected {b}");
    };
    near(*offset, "offset");
    near(absmax[0], "nested_absmax");
    let want = weights.get("double_quant.dequantized").unwrap().values;
    let worst = double.packed().dequantize().iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "{worst}");
}

#[test]
fn a_grid_holds_zero_and_its_ends() {
    for symmetric in [false, true] {
        let weights: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 31.0).collect();
        let matrix = round::groups(&weights, [1, 64], 4, 32, symmetric);
        let back = matrix.packed().unwrap().dequantize();
        for (g, (w, b)) in weights.chunks(32).zip(back.chunks(32)).enumerate() {
            let step = matrix.scales[g].to_f32();
            // Half a step; a whole one at the end that the middle code, or a zero point that cannot be 0, leaves outside.
            let cut = symmetric || w.iter().all(|w| *w > 0.0);
            assert!(w.iter().zip(b).all(|(w, b)| (w - b).abs() <= step * if cut { 1.01 } else { 0.51 }), "{w:?} {b:?}");
        }
        assert!(round::groups(&weights.repeat(8), [8, 64], 4, 32, symmetric).pack().is_ok());
        // Groups of zeros, and weights of one sign, whose zero point cannot be stored as 0.
        for weights in [vec![0.0; 64], vec![0.3; 64]] {
            let back = round::groups(&weights, [1, 64], 4, 32, symmetric).packed().unwrap().dequantize();
            assert!(back.iter().zip(&weights).all(|(b, w)| (b - w).abs() < 0.05), "{back:?}");
        }
    }
}

/// Inputs that move together, as activations do: a few directions and some noise.
fn inputs(n: usize, size: usize) -> Vec<f32> {
    let mut rng = Seed(7).rng();
    let directions: Vec<f32> = (0..6 * size).map(|_| rng.normal() as f32).collect();
    let mut out = Vec::new();
    for _ in 0..n {
        let at: Vec<f32> = (0..6).map(|_| rng.normal() as f32).collect();
        out.extend((0..size).map(|i| (0..6).map(|d| at[d] * directions[d * size + i]).sum::<f32>() + 0.3 * rng.normal() as f32));
    }
    out
}

#[test]
fn gptq_loses_less_than_rounding_on_its_inputs() {
    let (outputs, size) = (48, 192);
    let mut rng = Seed(3).rng();
    let weights: Vec<f32> = (0..outputs * size).map(|_| rng.normal() as f32 * 0.05).collect();
    let mut hessian = Hessian::new(size);
    // In two pieces, as batches come.
    let x = inputs(600, size);
    hessian.add(&x[..200 * size]);
    hessian.add(&x[200 * size..]);
    for (symmetric, group) in [(true, 64), (false, 32), (true, 192)] {
        let rounded = round::groups(&weights, [outputs, size], 4, group, symmetric).packed().unwrap().dequantize();
        let base = hessian.output_error(&weights, &rounded);
        for act_order in [false, true] {
            let options = Options { bits: 4, group, symmetric, act_order, damping: 0.01 };
            let prepared = Prepared::new(&hessian, &options).unwrap();
            let matrix = quantize(&weights, [outputs, size], &prepared, &options);
            assert_eq!(matrix.packed().unwrap().order().is_some(), act_order && group < size, "one group needs no order");
            let error = hessian.output_error(&weights, &matrix.packed().unwrap().dequantize());
            assert!(error < 0.5 * base, "sym {symmetric}, groups of {group}, act_order {act_order}: {error:e} against {base:e}");
        }
    }
    // The error is that of the outputs themselves.
    let rounded = round::groups(&weights, [outputs, size], 4, 64, true).packed().unwrap().dequantize();
    let product = |w: &[f32]| llm_tensor::kernels::matmul::linear(&x, w, size, outputs);
    let (a, b) = (product(&weights), product(&rounded));
    let direct = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64;
    let told = hessian.output_error(&weights, &rounded);
    assert!((told / direct - 1.0).abs() < 1e-3, "{told:e} {direct:e}");
}

#[test]
fn without_correlations_gptq_is_rounding() {
    let weights: Vec<f32> = (0..16 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 70.0).collect();
    let mut hessian = Hessian::new(64);
    let identity: Vec<f32> = (0..64 * 64).map(|i| f32::from(u8::from(i % 65 == 0))).collect();
    hessian.add(&identity);
    let options = Options { bits: 4, group: 32, symmetric: false, act_order: false, damping: 0.0 };
    let ours = quantize(&weights, [16, 64], &Prepared::new(&hessian, &options).unwrap(), &options);
    assert_eq!(ours, round::groups(&weights, [16, 64], 4, 32, false));
}

#[test]
fn dead_inputs_and_too_little_text_are_survived() {
    let mut x = inputs(3, 64);
    x.iter_mut().skip(5).step_by(64).for_each(|v| *v = 0.0);
    let mut hessian = Hessian::new(64);
    hessian.add(&x);
    let weights: Vec<f32> = (0..8 * 64).map(|i| ((i * 31 % 97) as f32 - 48.0) / 97.0).collect();
    let options = Options { bits: 4, group: 32, symmetric: true, act_order: true, damping: 0.0 };
    let prepared = Prepared::new(&hessian, &options).unwrap();
    assert!(prepared.damping > 0.0, "three rows cannot determine 64 inputs");
    let back = quantize(&weights, [8, 64], &prepared, &options).packed().unwrap().dequantize();
    assert!(back.iter().all(|v| v.is_finite()) && back.iter().skip(5).step_by(64).all(|v| *v == 0.0));
    hessian.add(&[f32::NAN; 64]);
    assert!(Prepared::new(&hessian, &options).unwrap_err().contains("finite"));
}
