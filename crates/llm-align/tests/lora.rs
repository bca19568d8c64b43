//! The model that objectives open, with an adapter or without, and merging with its checks. If one of these fails, a run trains or is compared with
//! another model than its configuration says, or a merged model is published that is not the one that was trained.

mod tiny;

use llm_align::model;
use llm_arch::adapter::{AdapterSpec, BaseFormat, write};
use llm_arch::{Decoder, DecoderConfig, PackedBatch, hf};
use llm_data::exercises::{self, ExercisesConfig};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::Weights;
use llm_tensor::{host, params};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/lora").join(name)
}

fn logits(model: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..20).map(|i| i * 37 % model.config().vocab_size as u32).collect();
    host::to_vec(model.logits(model.hidden(&PackedBatch::sequence(&ids))))
}

/// `[2, 10, V]` of the fixture's input.
fn recorded_logits(model: &Decoder) -> Vec<f32> {
    let text = std::fs::read_to_string(fixture("inputs.json")).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["input_ids"].clone()).unwrap();
    host::to_vec(model.logits(model.hidden(&PackedBatch::documents(ids.concat(), &[&[0], &[0]], ids[0].len()))))
}

fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() <= tolerance * largest), "{what}");
}

fn merge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-align")).arg("merge").args(args).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_merged_folder_computes_what_peft_merges() {
    for name in ["qv_r4", "all_linear_rslora", "dora_qv", "qv_lm_head_saved"] {
        let dir = tempfile::tempdir().unwrap();
        let (adapter, base) = (fixture(name), fixture("base"));
        for (precision, tolerance) in [("float32", 1e-5), ("bfloat16", 5e-2)] {
            let out = dir.path().join(precision);
            let output = merge(&["--adapter", path(&adapter), "--model", path(&base), "--out", path(&out), "--precision", precision]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && text.contains("logits differ by"), "{name}: {text}");
            let want = Weights::open(adapter.join("expected.safetensors")).unwrap().get("logits_merged").unwrap().values;
            assert_close(name, &recorded_logits(&hf::load(&out, &Device::flex()).unwrap()), &want, tolerance);
        }
        let out = dir.path().join("refused");
        let output = merge(&["--adapter", path(&adapter), "--model", path(&base), "--out", path(&out), "--tolerance", "1e-12"]);
        assert!(!output.status.success() && !out.exists(), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("not written"));
    }
}

/// If this fails, `cat` publishes another model than the sum of what was trained.
#[test]
fn several_adapters_become_one() {
    let (dir, base) = (tempfile::tempdir().unwrap(), fixture("base"));
    let [first, second] = ["qv_r4", "all_linear_rslora"].map(fixture);
    let weighted = |dir: &Path, weight: f64| format!("{}={weight}", dir.display());
    let run = |combination: &str, name: &str| {
        let (a, b, out) = (weighted(&first, 0.5), weighted(&second, -1.5), dir.path().join(name));
        (merge(&["--adapter", &a, "--adapter", &b, "--model", path(&base), "--out", path(&out), "--combination", combination]), out)
    };
    let (output, out) = run("cat", "cat");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let values = |dir: &Path| params::to_host(&hf::load(dir, &Device::flex()).unwrap());
    let merged = |adapter: &Path| {
        let expected = Weights::open(adapter.join("expected.safetensors")).unwrap();
        move |name: &str| expected.get(&format!("merged.{name}")).ok().map(|tensor| tensor.values)
    };
    let (start, end, one, two) = (values(&base), values(&out), merged(&first), merged(&second));
    for (name, w) in start {
        let delta = |merged: Option<Vec<f32>>, weight: f32| match merged {
            Some(merged) => merged.iter().zip(&w.values).map(|(m, w)| weight * (m - w)).collect(),
            None => vec![0f32; w.values.len()],
        };
        let (one, two) = (delta(one(&name), 0.5), delta(two(&name), -1.5));
        let want: Vec<f32> = w.values.iter().zip(one.iter().zip(&two)).map(|(w, (a, b))| w + a + b).collect();
        assert_close(&name, &end[&name].values, &want, 1e-5);
    }
    let (output, out) = run("linear", "linear");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !out.exists() && text.contains("positive number"), "{text}");
}

/// A model folder with a tokenizer, exercises, and an adapter of it.
fn workshop(spec: &AdapterSpec) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 60, count_heldout: 4, ..ExercisesConfig::default() }).unwrap().train;
    exercises::write(&dir.path().join("train.jsonl"), &rows).unwrap();
    let texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    let base = dir.path().join("model");
    tiny::save(&base, &texts, 300, tiny::config());
    let fresh = model::open(&base, &Some(spec.clone()), 3, &Device::flex()).unwrap();
    let moved = params::map(fresh, |name, _, value| if name.ends_with("lora_B") { value.add_scalar(0.03) } else { value });
    std::fs::create_dir(dir.path().join("adapter")).unwrap();
    write(&dir.path().join("adapter"), &moved).unwrap();
    dir
}

#[test]
fn a_merge_that_raises_the_loss_is_refused() {
    let dir = workshop(&AdapterSpec { r: 4, lora_alpha: 4.0, ..AdapterSpec::default() });
    let [adapter, rows, out] = ["adapter", "train.jsonl", "merged"].map(|name| dir.path().join(name));
    let with = |drop: &str| merge(&["--adapter", path(&adapter), "--out", path(&out), "--check", path(&rows), drop]);
    let refused = with("--max-drop=-0.5");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && !out.exists() && text.contains("the loss on") && text.contains("--max-drop"), "{text}");
    let taken = with("--max-drop=0.001");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert_close("merged", &logits(&hf::load(&out, &Device::flex()).unwrap()), &logits(&hf::load(&adapter, &Device::flex()).unwrap()), 1e-5);
    assert!(out.join("tokenizer.json").exists());
}

/// If this fails, a penalty pulls towards another model than the one that training started from.
#[test]
fn the_reference_is_the_starting_model_and_shares_its_weights() {
    for base in [BaseFormat::None, BaseFormat::Nf4] {
        let spec = AdapterSpec { r: 4, lora_alpha: 4.0, base, modules_to_save: vec!["lm_head".into()], ..AdapterSpec::default() };
        let untied = DecoderConfig {
            tie_word_embeddings: false,
            vocab_size: 96,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            ..DecoderConfig::default()
        };
        let untied = DecoderConfig { num_attention_heads: 2, num_key_value_heads: 1, ..untied };
        let dir = tempfile::tempdir().unwrap();
        hf::save(dir.path(), &Decoder::new(&untied, Seed(1), &Device::flex()).unwrap()).unwrap();
        let device = Device::flex().autodiff();
        let policy = model::open(dir.path(), &Some(spec.clone()), 3, &device).unwrap();
        let start = logits(&policy.untracked());
        let reference = model::reference(&policy);
        assert!(!params::is_tracked(&reference) && params::is_tracked(&policy));
        assert_close("fresh", &logits(&reference), &start, 1e-6);
        // Training replaces the trained parameters; the reference stays.
        let trained =
            params::map(policy, |name, _, value| if name.contains("lora_B") || name.starts_with("lm_head") { value.add_scalar(0.1) } else { value });
        assert_ne!(logits(&trained.untracked()), start);
        assert_close("after training", &logits(&reference), &start, 1e-6);
        // Of an adapter that is trained on, the reference has the adapter.
        let adapter = tempfile::tempdir().unwrap();
        write(adapter.path(), &trained).unwrap();
        let again = model::open(adapter.path(), &Some(spec), 3, &device).unwrap();
        let further = logits(&again.untracked());
        assert_eq!(logits(&model::reference(&again)), further);
        assert_close("read", &further, &logits(&trained.untracked()), 1e-6);
        if base == BaseFormat::None {
            // Without settings the adapter is in the weights, and all of them are trained.
            let whole = model::open(adapter.path(), &None, 3, &device).unwrap();
            assert!(whole.adapter().is_none());
            assert_close("merged", &logits(&whole.untracked()), &further, 1e-5);
        }
    }
}
