//! Quantised matrices: layouts against fixtures made by other code, kernels against the decoded matrix, one bit pattern for any threads.

use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::kernels::{matmul, packed};
use llm_tensor::nn::{Linear, Weight, parameter_from};
use llm_tensor::quant::bitsandbytes::{Absmax, Int8, Table4};
use llm_tensor::quant::gptq::Gptq;
use llm_tensor::quant::{Meaning, Packed, awq};
use llm_tensor::weights::{Dtype, RawTensor, SaveOptions, Weights, save_mixed_folder};
use llm_tensor::{Precision, host, ops, params, rayon};
use proptest::prelude::*;

fn fixture(name: &str) -> Weights {
    Weights::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/quant/").to_string() + name).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn bytes(weights: &Weights, name: &str) -> Vec<u8> {
    weights.raw(name).unwrap().2.to_vec()
}

#[test]
fn gptq_fixtures_are_read_and_packed_again_bit_by_bit() {
    let weights = fixture("gptq_awq.safetensors");
    for (name, bits, ordered) in [("gptq.sequential", 4, false), ("gptq.act_order", 4, true), ("gptq8", 8, false)] {
        let stored = Gptq::read(&weights, name, bits, [32, 64], false).unwrap();
        let grouped = stored.unpack();
        assert_eq!(grouped.pack().unwrap(), stored, "{name}");
        let matrix = grouped.packed().unwrap();
        assert_eq!(matrix.order().is_some(), ordered, "{name}");
        let want = weights.get(&format!("{name}.dequantized_out_in")).unwrap().values;
        assert_eq!(matrix.dequantize(), want, "{name}");
        if bits == 4 {
            let (x, y) = (weights.get(&format!("{name}.x")).unwrap().values, weights.get(&format!("{name}.y")).unwrap().values);
            assert!(largest_difference(&packed::linear(&x, &matrix), &y) < 1e-4, "{name}");
        }
        for tensor in stored.tensors(name).iter().filter(|t| weights.contains(&t.name)) {
            let (dtype, shape, data) = weights.raw(&tensor.name).unwrap();
            assert_eq!((tensor.dtype, tensor.shape.as_slice(), tensor.bytes.as_slice()), (dtype, shape, data));
        }
    }
    let unpacked = Gptq::read(&weights, "gptq.sequential", 4, [32, 64], false).unwrap().unpack();
    let in_out = bytes(&weights, "unpacked.q_in_out_u8");
    assert!((0..32 * 64).all(|i| unpacked.codes[i] == in_out[i % 64 * 32 + i / 64]));
    let zeros = bytes(&weights, "unpacked.zeros_u8");
    assert!((0..32 * 2).all(|i| unpacked.zeros[i] == zeros[i % 2 * 32 + i / 2]));
}

#[test]
fn awq_fixtures_are_read() {
    let weights = fixture("gptq_awq.safetensors");
    let matrix = awq::read(&weights, "awq", [32, 64]).unwrap();
    assert_eq!((matrix.bits(), matrix.group(), matrix.order()), (4, 32, None));
    assert_eq!(matrix.dequantize(), weights.get("awq.dequantized_out_in").unwrap().values);
    for (shape, names) in [([64, 64], "awq.qweight"), ([32, 128], "expected I32 [128, 4]"), ([30, 64], "multiple of 8")] {
        let message = awq::read(&weights, "awq", shape).unwrap_err();
        assert!(message.contains(names), "{message}");
    }
}

#[test]
fn version_2_of_the_layout_stores_zero_points_as_they_are() {
    let weights = fixture("gptq_awq.safetensors");
    let mut stored = Gptq::read(&weights, "gptq.sequential", 4, [32, 64], false).unwrap();
    let want = stored.clone();
    for word in &mut stored.qzeros {
        *word = (0..8).fold(0u32, |w, j| w | ((word.cast_unsigned() >> (4 * j) & 15) + 1) << (4 * j)).cast_signed();
    }
    let dir = tempfile::tempdir().unwrap();
    save_mixed_folder(dir.path(), Vec::new(), SaveOptions::default(), |_| Vec::new(), stored.tensors("l")).unwrap();
    // A zero point of 15 + 1 does not fit in 4 bits, so the fixture has none.
    assert_eq!(Gptq::read(&Weights::open(dir.path()).unwrap(), "l", 4, [32, 64], true).unwrap(), want);
}

fn table4(weights: &Weights, double: bool) -> Table4 {
    let table: [f32; 16] = weights.get("code").unwrap().values.try_into().unwrap();
    let absmax = if double {
        let values = |name: &str| weights.get(&format!("double_quant.{name}")).unwrap().values;
        Absmax::Nested {
            codes: bytes(weights, "double_quant.absmax_u8"),
            absmax: values("nested_absmax"),
            table: values("nested_code"),
            blocksize: 256,
            offset: values("offset")[0],
        }
    } else {
        Absmax::Plain(weights.get("absmax").unwrap().values)
    };
    Table4 { shape: [64, 64], quant_type: "nf4".into(), blocksize: 64, table, packed: bytes(weights, "packed"), absmax, dtype: "float32".into() }
}

#[test]
fn nf4_fixtures_decode_to_what_bitsandbytes_gives() {
    let weights = fixture("nf4.safetensors");
    assert_eq!(table4(&weights, false).packed().dequantize(), weights.get("dequantized").unwrap().values);
    assert_eq!(table4(&weights, true).packed().dequantize(), weights.get("double_quant.dequantized").unwrap().values);
    let fp4 = Table4 {
        quant_type: "fp4".into(),
        table: weights.get("fp4.code").unwrap().values.try_into().unwrap(),
        packed: bytes(&weights, "fp4.packed"),
        absmax: Absmax::Plain(weights.get("fp4.absmax").unwrap().values),
        ..table4(&weights, false)
    };
    assert_eq!(fp4.packed().dequantize(), weights.get("fp4.dequantized").unwrap().values);
}

#[test]
fn what_is_written_in_the_layout_of_bitsandbytes_is_read_back() {
    let weights = fixture("nf4.safetensors");
    for double in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let matrix = table4(&weights, double);
        save_mixed_folder(dir.path(), Vec::new(), SaveOptions::default(), |_| Vec::new(), matrix.tensors("a.b")).unwrap();
        let back = Weights::open(dir.path()).unwrap();
        assert_eq!(Table4::read(&back, "a.b", [64, 64]).unwrap(), matrix);
        let message = Table4::read(&back, "a.b", [32, 128]).unwrap_err();
        assert!(message.contains("quant_state") && message.contains("[64, 64]"), "{message}");
    }
    let weights = fixture("int8.safetensors");
    let codes: Vec<i8> = bytes(&weights, "rowwise.q").iter().map(|b| b.cast_signed()).collect();
    let scales = weights.get("rowwise.scale").unwrap().values;
    let int8 = Int8 { shape: [64, 64], weight: codes.clone(), scb: scales.iter().map(|s| s * 127.0).collect() };
    assert!(largest_difference(&int8.packed().dequantize(), &weights.get("rowwise.dequantized").unwrap().values) < 1e-6);
    let dir = tempfile::tempdir().unwrap();
    save_mixed_folder(dir.path(), Vec::new(), SaveOptions::default(), |_| Vec::new(), int8.tensors("q")).unwrap();
    assert_eq!(Int8::read(&Weights::open(dir.path()).unwrap(), "q", [64, 64]).unwrap(), int8);
}

#[test]
fn damaged_layouts_are_named() {
    let weights = fixture("gptq_awq.safetensors");
    let stored = Gptq::read(&weights, "gptq.act_order", 4, [32, 64], false).unwrap();
    let read = |change: &dyn Fn(&mut Vec<RawTensor>)| {
        let mut tensors = stored.tensors("l");
        change(&mut tensors);
        let dir = tempfile::tempdir().unwrap();
        save_mixed_folder(dir.path(), Vec::new(), SaveOptions::default(), |_| Vec::new(), tensors).unwrap();
        Gptq::read(&Weights::open(dir.path()).unwrap(), "l", 4, [32, 64], false).and_then(|g| g.unpack().packed().map(drop)).unwrap_err()
    };
    let message = read(&|t| t[0].shape = vec![32, 8]);
    assert!(message.contains("l.qweight") && message.contains("[8, 32]"), "{message}");
    let message = read(&|t| drop(t.remove(1)));
    assert!(message.contains("l.qzeros"), "{message}");
    let message = read(&|t| t[3].bytes[0] = 9);
    assert!(message.contains("g_idx") && message.contains('9'), "{message}");
    let message = read(&|t| t[3].bytes = vec![0; 256]);
    assert!(message.contains("groups"), "{message}");
    let message = read(&|t| t[0].dtype = Dtype::F32);
    assert!(message.contains("F32"), "{message}");
}

/// A matrix with every feature of the format, from a seed.
fn matrix(outputs: usize, inputs: usize, group: usize, kind: usize, ordered: bool, seed: u64) -> Packed {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let groups = inputs.div_ceil(group);
    let wide = kind % 2 == 1;
    let codes: Vec<u8> = (0..outputs * inputs).map(|_| (next() % if wide { 256 } else { 16 }) as u8).collect();
    let scales: Vec<f32> = (0..outputs * groups).map(|_| (next() % 1000) as f32 / 1e4 + 1e-3).collect();
    let zeros: Vec<i16> = (0..outputs * groups).map(|_| (next() % if wide { 256 } else { 16 }) as i16).collect();
    let mut order: Vec<u32> = (0..inputs as u32).collect();
    for i in (1..inputs).rev() {
        order.swap(i, next() as usize % (i + 1));
    }
    let table = std::array::from_fn(|i| (i as f32 - 7.3) / 8.0);
    let (meaning, zeros) = match kind {
        0 => (Meaning::Bits4, Some(zeros)),
        1 => (Meaning::Bits8, Some(zeros)),
        2 => (Meaning::Table("nf4", table), None),
        3 => (Meaning::Bits8, Some(vec![128; outputs * groups])),
        _ => (Meaning::Bits4, Some(vec![8; outputs * groups])),
    };
    Packed::new([outputs, inputs], group, ordered.then_some(order), &codes, meaning, scales, zeros)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_path_multiplies_with_the_decoded_matrix(
        outputs in 1usize..150, inputs in 1usize..200, group in 1usize..80, kind in 0usize..5, ordered: bool, rows in 1usize..7, seed: u64,
    ) {
        let w = matrix(outputs, inputs, group, kind, ordered, seed);
        let x: Vec<f32> = (0..rows * inputs).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.4).collect();
        let dense = w.dequantize();
        let want = matmul::linear(&x, &dense, inputs, outputs);
        let scale = want.iter().fold(1f32, |m, v| m.max(v.abs()));
        prop_assert!(largest_difference(&packed::linear(&x, &w), &want) < 2e-5 * scale * (inputs as f32).sqrt());

        let device = Device::flex();
        let weight = ops::PackedWeight::new(std::sync::Arc::new(w.clone()), &device);
        let input = host::from_vec(x, [rows, inputs], &device);
        let composed = host::to_vec(ops::packed_linear_composed(input, &weight));
        prop_assert!(largest_difference(&composed, &want) < 1e-4 * scale);

        let (a, b) = (outputs / 3, outputs.div_ceil(2));
        let part = w.rows(&[b..outputs, 0..a]).dequantize();
        prop_assert_eq!(&part[..(outputs - b) * inputs], &dense[b * inputs..]);
        prop_assert_eq!(&part[(outputs - b) * inputs..], &dense[..a * inputs]);
    }
}

#[test]
fn threads_change_no_bit() {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    for kind in 0..5 {
        let w = matrix(700, 1100, 64, kind, false, 3);
        for rows in [1, 2, 9] {
            let x: Vec<f32> = (0..rows * 1100).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
            let bits = |n| pool(n).install(|| packed::linear(&x, &w)).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(1), bits(4), "kind {kind}, {rows} rows");
        }
    }
}

#[test]
fn a_quantised_projection_behaves_like_its_dense_twin() {
    let w = matrix(48, 96, 32, 0, true, 5);
    for device in [Device::flex(), Device::flex().autodiff()] {
        let dense = Linear::dense(parameter_from(w.dequantize(), [48, 96], Precision::F32, &device), None);
        let bias = Some(parameter_from(vec![0.5; 48], [48], Precision::F32, &device));
        let packed = Linear { weight: Weight::packed(w.clone(), &device), bias };
        let x: Tensor<2> = host::from_vec((0..2 * 96).map(|i| (i % 13) as f32 / 13.0).collect(), [2, 96], &device);
        let (a, b) = (dense.forward(x.clone()).add_scalar(0.5), packed.forward(x.clone()));
        assert!(largest_difference(&host::to_vec(a), &host::to_vec(b)) < 1e-4);
        assert_eq!(params::to_host(&packed)["weight"].values, w.dequantize());
        if device.is_autodiff() {
            // Gradients reach the input through a quantised matrix.
            let x = x.require_grad();
            let grads = packed.forward(x.clone()).sum().backward();
            let column: Vec<f32> = (0..96).map(|i| w.dequantize().iter().skip(i).step_by(96).sum()).collect();
            assert!(largest_difference(&host::to_vec(x.grad(&grads).unwrap())[..96], &column) < 1e-4);
        } else {
            let half = packed.weight.forward(x.cast(DType::BF16));
            assert_eq!(half.dtype(), DType::BF16);
            assert!(w.bytes() * 5 < 48 * 96 * 4);
        }
    }
}
