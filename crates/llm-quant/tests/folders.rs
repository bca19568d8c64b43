//! From a model folder to a quantised one and back, for several families and every method.

use llm_arch::hf::{self, Quantisation};
use llm_arch::{Decoder, PackedBatch};
use llm_data::shards::{NewRow, ShardInfo, ShardWriter};
use llm_quant::compare::memory;
use llm_quant::config::{Method, QuantizeConfig};
use llm_quant::quantize::quantize;
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::{Precision, host};
use std::path::{Path, PathBuf};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(name)
}

fn shards(dir: &Path) -> PathBuf {
    let out = dir.join("shards");
    let info = ShardInfo { sequence_length: 32, vocab_size: 128, tokenizer: "t".into() };
    let mut writer = ShardWriter::create(&out, info, 8).unwrap();
    for i in 0..24 {
        let mut rng = Seed(5).at(i).rng();
        let tokens = (0..33).map(|_| rng.below(128) as u32).collect();
        writer
            .push(NewRow { tokens, document_starts: vec![0, 9], document_ids: vec!["a".into(), "b".into()], target_bytes: 1, ..NewRow::default() })
            .unwrap();
    }
    writer.finish().unwrap();
    out
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..40).map(|i| (i * 13 + 5) % 120).collect();
    host::to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&ids))))
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Root mean square of the difference, relative to that of `a`.
fn moved(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (change, size): (f64, f64) = a.iter().zip(b).fold((0.0, 0.0), |(c, s), (a, b)| (c + square(a - b), s + square(*a)));
    (change / size).sqrt() as f32
}

fn spread(a: &[f32]) -> f32 {
    a.iter().fold(0f32, |m, v| m.max(v.abs()))
}

#[test]
fn every_method_writes_a_folder_that_loads_and_is_close() {
    let dir = tempfile::tempdir().unwrap();
    let calibration = shards(dir.path());
    for family in ["llama_tied", "llama_gqa_untied", "deepseek_v2", "qwen2_moe"] {
        let dense = hf::load(model(family), &Device::flex()).unwrap();
        let before = logits(&dense);
        for (i, (method, bits, sym, tolerance)) in [
            (Method::Int8, 8, true, 0.1),
            (Method::Nf4, 4, true, 0.6),
            (Method::Rtn, 8, true, 0.1),
            (Method::Rtn, 4, false, 0.6),
            (Method::Rtn, 4, true, 0.6),
            (Method::Gptq, 4, true, 0.7),
            (Method::Gptq, 8, false, 0.1),
        ]
        .into_iter()
        .enumerate()
        {
            let what = format!("{family} {method:?} {bits} bits");
            let out = dir.path().join(format!("{family}-{i}"));
            let config = QuantizeConfig {
                model: model(family),
                method,
                bits,
                sym,
                group_size: 8,
                calibration: Some(calibration.clone()),
                samples: 16,
                ..QuantizeConfig::default()
            };
            let layers = quantize(&config, &out).unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut loaded = hf::load(&out, &Device::flex()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let after = logits(&loaded);
            let change = moved(&before, &after);
            println!("{what}: {change}");
            assert!(change > 0.0 && change < tolerance, "{what}: logits move by {change} of their size");

            // The same numbers as through dense weights of the same values, which is what training gets.
            let config = loaded.config().clone();
            let twin = hf::load_with(&out, &config, &Device::flex(), Precision::F32).unwrap();
            assert!(difference(&after, &logits(&twin)) < 1e-4 * spread(&after), "{what}");
            let packed = loaded.linears_mut().iter().filter(|(_, l)| l.weight.as_packed().is_some()).count();
            assert_eq!(packed, layers.len(), "{what}: every projection is quantised in memory");
            // Groups of 8, which these tiny sizes need, are padded to 32 codes: 8 bits save nothing there.
            let padded = bits == 8 && matches!(method, Method::Rtn | Method::Gptq);
            assert!(padded || memory(&loaded).0 < memory(&dense).0, "{what}");
        }
    }
}

#[test]
fn two_runs_write_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let calibration = shards(dir.path());
    let write = |name: &str, threads: usize| {
        let out = dir.path().join(name);
        let config = QuantizeConfig {
            model: model("llama_gqa_untied"),
            group_size: 24,
            calibration: Some(calibration.clone()),
            samples: 20,
            seed: 3,
            ..QuantizeConfig::default()
        };
        let pool = llm_tensor::rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quantize(&config, &out)).unwrap();
        std::fs::read(out.join("model.safetensors")).unwrap()
    };
    assert!(write("a", 1) == write("b", 3), "threads change the file");
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let message = |change: &dyn Fn(&mut QuantizeConfig)| {
        let mut config = QuantizeConfig { model: model("llama_tied"), method: Method::Rtn, group_size: 8, ..QuantizeConfig::default() };
        change(&mut config);
        quantize(&config, &out).unwrap_err().to_string()
    };
    let text = message(&|c| c.group_size = 64);
    assert!(text.contains("q_proj") && text.contains("48 inputs") && text.contains("16 does"), "{text}");
    let text = message(&|c| c.model = model("phi3"));
    assert!(text.contains("q_proj") && text.contains("Phi3"), "{text}");
    let text = message(&|c| c.model = dir.path().join("nothing"));
    assert!(text.contains("nothing"), "{text}");
    let text = message(&|c| c.keep = vec!["model.".into()]);
    assert!(text.contains("`keep`"), "{text}");
    assert!(!out.exists());

    let config = QuantizeConfig { model: model("llama_tied"), method: Method::Int8, keep: vec!["down_proj".into()], ..QuantizeConfig::default() };
    quantize(&config, &out).unwrap();
    assert_eq!(hf::Checkpoint::open(&out).unwrap().quantisation(), Some(Quantisation::Int8));
    let text = message(&|c| c.model = out.clone());
    assert!(text.contains("quantised already"), "{text}");
}

#[test]
fn damaged_folders_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let config = QuantizeConfig { model: model("llama_tied"), method: Method::Rtn, group_size: 8, ..QuantizeConfig::default() };
    quantize(&config, &out).unwrap();
    let edit = |from: &str, to: &str| {
        let path = out.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let message = hf::load(&out, &Device::flex()).unwrap_err().to_string();
        std::fs::write(&path, text).unwrap();
        message
    };
    let message = edit("\"quant_method\": \"gptq\"", "\"quant_method\": \"aqlm\"");
    assert!(message.contains("config.json") && message.contains("aqlm"), "{message}");
    let message = edit("\"bits\": 4", "\"bits\": 2");
    assert!(message.contains("`quantization_config.bits` = 2"), "{message}");
    let message = edit("\"bits\": 4", "\"bits\": 8");
    assert!(message.contains("model.safetensors") && message.contains("qweight"), "{message}");
    // A dense reader of the same file misses the matrices.
    let message = edit("\"quantization_config\"", "\"other\"");
    assert!(message.contains("missing `model.layers.0.self_attn.q_proj.weight`"), "{message}");
}
