//! A folder in AWQ's layout computes what its decoded matrices compute. If this fails, quantised models that others made give nonsense here.

use llm_arch::{Decoder, PackedBatch, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::weights::{Dtype, Pending, RawTensor, SaveOptions, Weights, save_mixed_folder};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Inputs that share a scale.
const GROUP: usize = 24;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder/llama_gqa_untied")
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..20).map(|i| i * 31 % 128).collect();
    to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&ids))))
}

/// Random codes, zero points and scales of a projection: the tensors as AutoAWQ packs them, and the matrix `[out, in]` they stand for.
fn projection(layer: &str, outputs: usize, inputs: usize) -> (Vec<RawTensor>, Vec<f32>) {
    let mut rng = Seed(layer.len() as u64).stream(layer).rng();
    let groups = inputs / GROUP;
    let codes: Vec<u32> = (0..inputs * outputs).map(|_| rng.below(16) as u32).collect(); // [in, out]
    let zeros: Vec<u32> = (0..groups * outputs).map(|_| rng.below(16) as u32).collect();
    // Powers of two are exact in half precision; their bytes by hand.
    let exponents: Vec<u16> = (0..groups * outputs).map(|_| 7 + rng.below(2) as u16).collect();
    // Eight outputs a word: the first four bits are output 0, the next output 2, then 4, 6, 1, 3, 5, 7.
    let pack = |numbers: &[u32]| -> Vec<u8> {
        let words = numbers.chunks_exact(8).map(|n| [n[0], n[2], n[4], n[6], n[1], n[3], n[5], n[7]]);
        words.flat_map(|n| n.iter().rev().fold(0u32, |word, n| word << 4 | n).to_le_bytes()).collect()
    };
    let scale = |at: usize| 2f32.powi(i32::from(exponents[at]) - 15);
    let dense = (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))).map(|(o, i)| {
        let at = i / GROUP * outputs + o;
        (codes[i * outputs + o] as f32 - zeros[at] as f32) * scale(at)
    });
    let tensor = |name: &str, dtype, shape, bytes| RawTensor { name: format!("{layer}.{name}"), dtype, shape, bytes };
    let raw = vec![
        tensor("qweight", Dtype::I32, vec![inputs, outputs / 8], pack(&codes)),
        tensor("qzeros", Dtype::I32, vec![groups, outputs / 8], pack(&zeros)),
        tensor("scales", Dtype::F16, vec![groups, outputs], exponents.iter().flat_map(|e| (e << 10).to_le_bytes()).collect()),
    ];
    (raw, dense.collect())
}

#[test]
fn an_awq_folder_computes_what_its_matrices_say() {
    let weights = Weights::open(fixture()).unwrap();
    let (mut raw, mut dense, mut kept) = (Vec::new(), BTreeMap::new(), Vec::new());
    for name in weights.names() {
        let shape = weights.shape(name).unwrap().to_vec();
        match name.strip_suffix("_proj.weight") {
            Some(_) => {
                let (tensors, values) = projection(name.strip_suffix(".weight").unwrap(), shape[0], shape[1]);
                raw.extend(tensors);
                dense.insert(name.to_string(), values);
            }
            None => {
                kept.push(Pending { name: name.to_string(), shape });
                dense.insert(name.to_string(), weights.get(name).unwrap().values);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    save_mixed_folder(dir.path(), kept, SaveOptions::default(), |tensor| dense[&tensor.name].clone(), raw).unwrap();
    let text = std::fs::read_to_string(fixture().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["quantization_config"] =
        json!({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": true, "modules_to_not_convert": null});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();

    let quantised = hf::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(hf::Checkpoint::open(dir.path()).unwrap().quantisation(), Some(hf::Quantisation::Awq));
    let mut linears = quantised.clone();
    assert!(linears.linears_mut().iter().all(|(_, linear)| linear.weight.as_packed().is_some()), "a projection is dense");
    let mut init = |name: &str, _: &[usize]| Ok(dense[name].clone());
    let reference = logits(&Decoder::build(quantised.config(), &Device::flex(), llm_tensor::Precision::F32, &mut init).unwrap());
    let largest = reference.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = logits(&quantised).iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-4 * largest, "off by {worst} of {largest}");

    config["quantization_config"]["version"] = "gemv".into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let message = hf::load(dir.path(), &Device::flex()).map(drop).unwrap_err().to_string();
    assert!(message.contains("gemv") && message.contains("config.json"), "{message}");
}
