//! Quantised matrices: layouts against fixtures made by other code, kernels against the decoded matrix, one bit pattern for any threads and
//! for any number of rows.

use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::kernels::{RowInvariant, matmul, packed};
use llm_tensor::nn::{Embedding, Linear, Weight, parameter_from};
use llm_tensor::quant::bitsandbytes::{Absmax, Int8, Table4};
use llm_tensor::quant::gptq::Gptq;
use llm_tensor::quant::{Activations, Meaning, Packed, awq};
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
    let wide = kind % 2 == 1 || kind == 8;
    let code = |random: u32| match kind {
        7 => random % 32,      // 5 bits with mins
        8 => 96 + random % 64, // 6 bits
        _ => random % if wide { 256 } else { 16 },
    };
    let codes: Vec<u8> = (0..outputs * inputs).map(|_| code(next()) as u8).collect();
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
        3 | 8 => (Meaning::Bits8, Some(vec![128; outputs * groups])),
        4 => (Meaning::Bits4, Some(vec![8; outputs * groups])),
        _ => {
            let mins = zeros.iter().zip(&scales).map(|(zero, scale)| f32::from(*zero) * scale * 0.97).collect();
            return Packed::with_mins([outputs, inputs], group, &codes, if wide { Meaning::Bits8 } else { Meaning::Bits4 }, scales, mins);
        }
    };
    Packed::new([outputs, inputs], group, ordered.then_some(order), &codes, meaning, scales, zeros)
}

/// Kinds of [`matrix`].
const KINDS: usize = 9;

/// Rows of inputs between -0.4 and 0.6.
fn inputs_of(rows: usize, inputs: usize) -> Vec<f32> {
    (0..rows * inputs).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.4).collect()
}

/// The error that rounding the inputs can make: half a step of each input's unit times the absolute values of a row.
fn rounding_bound(x: &[f32], dense: &[f32], inputs: usize) -> f32 {
    let step = x.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let row = |row: &[f32]| row.iter().map(|w| w.abs()).sum::<f32>();
    dense.chunks_exact(inputs).map(row).fold(0f32, f32::max) * step * 0.51
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_path_multiplies_with_the_decoded_matrix(
        outputs in 1usize..150, inputs in 1usize..200, group in 1usize..80, kind in 0usize..KINDS, ordered: bool, rows in 1usize..7, seed: u64,
    ) {
        let w = matrix(outputs, inputs, group, kind, ordered, seed);
        let x = inputs_of(rows, inputs);
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
        let middle = outputs / 2;
        prop_assert_eq!(&w.row(middle)[..], &dense[middle * inputs..][..inputs]);
    }

    #[test]
    fn inputs_in_8_bits_err_by_their_rounding_and_no_more(
        outputs in 1usize..70, inputs in 1usize..300,
        group in prop_oneof![1usize..80, Just(16), Just(32), Just(64), Just(128), Just(300)],
        kind in 0usize..KINDS, ordered: bool, rows in 1usize..19, seed: u64,
    ) {
        let exact = matrix(outputs, inputs, group, kind, ordered, seed);
        let w = exact.clone().with_activations(Activations::Int8);
        prop_assert_eq!(w.activations(), if kind == 2 { Activations::Exact } else { Activations::Int8 });
        let dense = w.dequantize();
        // Scales and mins with 11 bits.
        let largest = exact.dequantize().iter().fold(0f32, |m, v| m.max(v.abs()));
        prop_assert!(largest_difference(&dense, &exact.dequantize()) <= largest.max(25.0 * 0.1) / 1024.0);
        prop_assert_eq!(&w.clone().with_activations(Activations::Exact).dequantize(), &dense);
        for k in [0, inputs / 2, inputs - 1] {
            let value = |w: &Packed| {
                let [scale, zero, min] = w.scaling(outputs - 1, k / w.group());
                (f32::from(w.raw_code(outputs - 1, k)) - zero) * scale - min
            };
            prop_assert!((value(&w) - value(&exact)).abs() <= largest.max(25.0) / 1024.0);
        }

        let x = inputs_of(rows, inputs);
        let y = packed::linear(&x, &w);
        let want = matmul::linear(&x, &dense, inputs, outputs);
        let exact_part = 2e-5 * want.iter().fold(1f32, |m, v| m.max(v.abs())) * (inputs as f32).sqrt();
        prop_assert!(largest_difference(&y, &want) <= exact_part + rounding_bound(&x, &dense, inputs));

        // The composed body multiplies with floats, on any device.
        let device = Device::flex();
        let weight = ops::PackedWeight::new(std::sync::Arc::new(w.clone()), &device);
        let composed = host::to_vec(ops::packed_linear_composed(host::from_vec(x, [rows, inputs], &device), &weight));
        prop_assert!(largest_difference(&composed, &want) < 10.0 * exact_part);

        let (a, b) = (outputs / 3, outputs.div_ceil(2));
        let part = w.rows(&[b..outputs, 0..a]).dequantize();
        prop_assert_eq!(&part[..(outputs - b) * inputs], &dense[b * inputs..]);
        prop_assert_eq!(&part[(outputs - b) * inputs..], &dense[..a * inputs]);
    }
}

#[test]
fn inputs_in_8_bits_move_an_output_by_half_a_per_cent() {
    // Nearly normal inputs: sums of 12 uniform numbers.
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let x: Vec<f32> = (0..4 * 512).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    for kind in [3, 4, 6] {
        let w = matrix(64, 512, 32, kind, false, 2).with_activations(Activations::Int8);
        let (y, want) = (packed::linear(&x, &w), matmul::linear(&x, &w.dequantize(), 512, 64));
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
        let error = (square(&mut y.iter().zip(&want).map(|(a, b)| a - b)) / square(&mut want.iter().copied())).sqrt();
        assert!((0.002..0.008).contains(&error), "kind {kind}: {error}");
    }
}

#[test]
fn groups_of_16_take_no_more_room_than_their_codes() {
    let n = 64 * 256;
    for (kind, exact_bytes, bytes) in [(3, n, n), (4, n / 2, n / 2), (8, n, n * 3 / 4)] {
        let exact = matrix(64, 256, 16, kind, false, 1);
        assert_eq!(exact.bytes(), exact_bytes + 4 * n / 16, "codes and scales");
        assert_eq!(exact.with_activations(Activations::Int8).bytes(), bytes + 2 * n / 16, "scales in half precision");
    }
}

#[test]
fn scales_far_from_1_survive_half_precision() {
    for scale in [1e-20f32, 3e-7, 1.0, 4e12] {
        let exact = Packed::new([2, 32], 32, None, &[3; 64], Meaning::Bits4, vec![scale, scale * 1e-4], None);
        let w = exact.clone().with_activations(Activations::Int8);
        for (a, b) in w.dequantize().iter().zip(exact.dequantize()) {
            assert!((a / b - 1.0).abs() < 1.0 / 2048.0, "{a} for {b}");
        }
        let y = packed::linear(&[1.0; 32], &w);
        assert!((y[0] / (96.0 * scale) - 1.0).abs() < 1.0 / 1024.0, "{} for {scale}", y[0]);
    }
    let broken = Packed::new([1, 32], 32, None, &[3; 32], Meaning::Bits4, vec![f32::NAN], None);
    assert_eq!(broken.with_activations(Activations::Int8).activations(), Activations::Exact);
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_32() {
    let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let (outputs, inputs) = (210, 320);
    let x = inputs_of(32, inputs);
    let same = |name: &str, product: &dyn Fn(&[f32]) -> Vec<f32>| {
        let together = product(&x);
        for n in [1, 2, 3, 8, 9, 31] {
            assert_eq!(bits(&product(&x[..n * inputs])), bits(&together[..n * outputs]), "{name}, {n} rows");
        }
        let last = product(&x[31 * inputs..]);
        assert_eq!(bits(&last), bits(&together[31 * outputs..]), "{name}, the last row");
    };
    // Without asking: inputs in 8 bits, and bfloat16.
    for kind in (0..KINDS).filter(|kind| *kind != 2) {
        for group in [16, 32, 320] {
            let w = matrix(outputs, inputs, group, kind, kind < 5 || kind == 8, 9).with_activations(Activations::Int8);
            same(&format!("{w:?}, kind {kind}"), &|x| packed::linear(x, &w));
        }
    }
    let values = matrix(outputs, inputs, 32, 0, false, 4).dequantize();
    let half = Packed::bf16([outputs, inputs], &values);
    same("bfloat16", &|x| packed::linear(x, &half));
    // Under the guard: everything.
    let _one_order = RowInvariant::begin();
    same("dense", &|x| matmul::linear(x, &values, inputs, outputs));
    for kind in 0..KINDS {
        let w = matrix(outputs, inputs, 64, kind, kind < 5 || kind == 8, 9);
        same(&format!("exact, kind {kind}"), &|x| packed::linear(x, &w));
    }
    let device = Device::flex();
    let experts = host::from_vec([&values[..], &values[..]].concat(), [2, outputs, inputs], &device);
    same("experts", &|x| {
        let n = x.len() / inputs;
        let x = host::from_vec(x.to_vec(), [n, inputs], &device);
        host::to_vec(ops::grouped_linear(x, experts.clone(), vec![0, n as u32, n as u32].into()))
    });
}

#[test]
fn bfloat16_keeps_its_values_and_halves_the_bytes() {
    let values: Vec<f32> = (0..48 * 100).map(|i| half(((i * 53 + 7) % 89) as f32 / 89.0 - 0.6)).collect();
    let w = Packed::bf16([48, 100], &values);
    assert_eq!((w.dequantize(), w.bytes(), w.bits()), (values.clone(), 2 * values.len(), 16));
    assert_eq!(w.rows(&[40..48, 3..4]).row(8), values[300..400]);
    let x = inputs_of(5, 100);
    let want = matmul::linear(&x, &values, 100, 48);
    assert!(largest_difference(&packed::linear(&x, &w), &want) < 1e-4);
    let device = Device::flex();
    let mut dense: Weight = parameter_from(values.clone(), [48, 100], Precision::F32, &device).into();
    dense.keep_bf16();
    assert_eq!(dense.as_packed(), Some(&w));
    let composed = ops::packed_linear_composed(host::from_vec(x, [5, 100], &device), &ops::PackedWeight::new(std::sync::Arc::new(w), &device));
    assert!(largest_difference(&host::to_vec(composed), &want) < 1e-4);
}

/// Rounded to bfloat16.
fn half(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0xffff_0000)
}

#[test]
fn a_quantised_table_is_looked_up_and_multiplied() {
    let device = Device::flex();
    for activations in [Activations::Exact, Activations::Int8] {
        let w = matrix(50, 64, 32, 3, false, 8).with_activations(activations);
        let table = Embedding { weight: Weight::packed(w.clone(), &device) };
        let rows = host::to_vec(table.forward(vec![7, 0, 49, 7].into()));
        let want: Vec<f32> = [7, 0, 49, 7].iter().flat_map(|row| w.row(*row)).collect();
        assert_eq!(rows, want);
        assert_eq!(params::to_host(&table)["weight"].values, w.dequantize());
        // The same matrix as an output projection.
        let logits = host::to_vec(table.weight.forward(host::from_vec(w.row(7), [1, 64], &device)));
        let want = matmul::linear(&w.row(7), &w.dequantize(), 64, 50);
        assert!(largest_difference(&logits, &want) <= 1e-2 + rounding_bound(&w.row(7), &w.dequantize(), 64));
        let mut clone = table.clone();
        clone.weight.set_activations(Activations::Int8);
        assert_eq!(clone.weight.as_packed().map(Packed::activations), Some(Activations::Int8));
        assert_eq!(table.weight.as_packed().map(Packed::activations), Some(activations), "a clone is changed alone");
    }
}

#[test]
fn threads_change_no_bit() {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    for (kind, activations) in (0..KINDS).flat_map(|kind| [(kind, Activations::Exact), (kind, Activations::Int8)]) {
        let w = matrix(700, 1100, 64, kind, false, 3).with_activations(activations);
        for rows in [1, 2, 9] {
            let x: Vec<f32> = (0..rows * 1100).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
            let bits = |n| pool(n).install(|| packed::linear(&x, &w)).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(1), bits(4), "kind {kind}, {activations:?}, {rows} rows");
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
