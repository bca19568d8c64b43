//! Adapters that are trained: losses, logits and gradients are PEFT's, what is written is what was read, and a quantised base is only a base in
//! another format. If one of these fails, a run learns something else than the same settings learn in PEFT, or loses it on the way to the disk.

use llm_arch::adapter::{self, AdapterSpec, BaseFormat, ModuleNames, beside, merge, restore, resume, train, write};
use llm_arch::{Adapter, Decoder, PackedBatch, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{self, to_vec};
use llm_tensor::nn::Weight;
use llm_tensor::weights::Weights;
use llm_tensor::{Precision, ops, params};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const VARIANTS: [&str; 4] = ["qv_r4", "all_linear_rslora", "dora_qv", "qv_lm_head_saved"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids() -> Vec<Vec<u32>> {
    serde_json::from_value(json(&fixture("lora/inputs.json"))["input_ids"].clone()).unwrap()
}

fn batch() -> PackedBatch {
    PackedBatch::documents(ids().concat(), &[&[0], &[0]], ids()[0].len())
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    to_vec(decoder.logits(decoder.hidden(&batch())))
}

/// Mean over the tokens that have a next one.
fn loss(decoder: &Decoder) -> Tensor<1> {
    let targets: Vec<u32> = ids().iter().flat_map(|row| row[1..].iter().copied().chain([ops::IGNORE])).collect();
    let trained = targets.iter().filter(|t| **t != ops::IGNORE).count();
    decoder.nll(decoder.hidden(&batch()), targets.into()).sum() / trained as f32
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_within(what, got, want, 1e-5);
}

fn assert_within(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst <= tolerance * largest, "{what}: off by {worst:e}, largest expected value {largest}");
}

/// The fixture's adapter on its base, ready to be trained.
fn trained(name: &str) -> Decoder {
    let base = hf::load(fixture("lora/base"), &Device::flex().autodiff()).unwrap();
    let dir = fixture("lora").join(name);
    let spec = AdapterSpec::of_folder(&dir, BaseFormat::None, true).unwrap();
    let adapter = Adapter::load(&dir, base.config()).unwrap();
    resume(base, &spec, &adapter, Seed(0), fixture("lora/base")).unwrap()
}

/// `model.layers.0.self_attn.q_proj.weight.lora_A` as the recorded gradients call it.
fn recorded(name: &str) -> String {
    let module = match name.split_once(".weight.lora_") {
        Some((module, part)) => format!("{module}.lora_{part}.weight"),
        None => name.replace(".weight", ".modules_to_save.weight"),
    };
    format!("grad.base_model.model.{module}")
}

#[test]
fn losses_logits_and_gradients_are_those_of_peft() {
    for name in VARIANTS {
        let expected = Weights::open(fixture("lora").join(name).join("expected.safetensors")).unwrap();
        let want = |key: &str| expected.get(key).unwrap().values;
        let decoder = trained(name);
        assert_close(name, &logits(&decoder.untracked()), &want("logits_adapter"));
        assert_close(name, &logits(&decoder.without_adapter().unwrap()), &want("logits_base"));
        let value = loss(&decoder);
        let gradients = params::gradients(&decoder, &value.backward());
        let wanted = json(&fixture("lora").join(name).join("loss.json"))["loss"].as_f64().unwrap();
        let got = f64::from(host::scalar(value.inner()));
        assert!((got - wanted).abs() < 1e-5 * wanted, "{name}: loss {got}, expected {wanted}");
        let recorded_names = expected.names().into_iter().filter(|n| n.starts_with("grad.")).count();
        assert_eq!(gradients.len(), recorded_names, "{name}: {:?}", gradients.keys());
        for (parameter, gradient) in gradients {
            assert_within(&format!("{name} {parameter}"), &to_vec(gradient), &want(&recorded(&parameter)), 1e-4);
        }
    }
}

#[test]
fn what_is_written_is_what_was_read_and_comes_back_to_the_bit() {
    for name in VARIANTS {
        let (decoder, dir) = (trained(name), tempfile::tempdir().unwrap());
        write(dir.path(), &decoder).unwrap();
        let open = |dir: &Path| Weights::open(dir.join("adapter_model.safetensors")).unwrap();
        let (ours, theirs) = (open(dir.path()), open(&fixture("lora").join(name)));
        let sorted = |w: &Weights| w.names().into_iter().map(str::to_string).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&ours), sorted(&theirs), "{name}");
        for tensor in theirs.names() {
            assert_eq!(ours.get(tensor).unwrap(), theirs.get(tensor).unwrap(), "{name} {tensor}");
        }
        let (written, read) = (json(&dir.path().join("adapter_config.json")), json(&fixture("lora").join(name).join("adapter_config.json")));
        for (key, value) in written.as_object().unwrap() {
            if key != "base_model_name_or_path" {
                assert_eq!(value, &read[key], "{name}: {key}");
            }
        }
        assert_eq!(adapter::base_of(dir.path()).unwrap(), fixture("lora/base").canonicalize().unwrap());
        let back = restore(&decoder, dir.path()).unwrap();
        assert!(params::is_tracked(&back) && back.frozen() == decoder.frozen(), "{name}");
        assert_eq!(logits(&back.untracked()), logits(&decoder.untracked()), "{name}");
        // A folder of an adapter is a model folder too.
        assert_close(name, &logits(&hf::load(dir.path(), &Device::flex()).unwrap()), &logits(&decoder.untracked()));
    }
}

/// A fresh adapter whose B is not zero any more.
fn moved(decoder: Decoder, spec: &AdapterSpec) -> Decoder {
    let fresh = train(decoder, spec, Seed(4), PathBuf::from("base")).unwrap();
    let mut rng = Seed(5).rng();
    params::map(fresh, |name, shape, value| {
        let n: usize = shape.iter().product();
        let change = name.ends_with("lora_B") || name.ends_with("vector");
        if change { value.clone() + host::from_vec((0..n).map(|_| rng.normal() as f32 * 0.1).collect(), [n], &value.device()) } else { value }
    })
}

/// If this fails, an adapter of a family with fused projections is another one once it is saved.
#[test]
fn fused_projections_are_written_as_one_and_read_as_the_same() {
    for name in ["gpt2", "phi3", "gpt_neox", "falcon_new", "qwen3_moe", "deepseek_v2_lite"] {
        for (use_dora, use_rslora) in [(false, true), (true, false)] {
            let folder = fixture("decoder").join(name);
            let spec = AdapterSpec { r: 3, lora_alpha: 6.0, use_dora, use_rslora, ..AdapterSpec::default() };
            let decoder = moved(hf::load(&folder, &Device::flex()).unwrap(), &spec);
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &decoder).unwrap();
            let read = Adapter::load(dir.path(), decoder.config()).unwrap();
            let base = || hf::load(&folder, &Device::flex()).unwrap();
            assert_within(name, &logits(&merge(base(), &read).unwrap()), &logits(&decoder), 3e-5);
            assert_within(name, &logits(&beside(base(), &read).unwrap()), &logits(&decoder), 3e-5);
            assert_eq!(logits(&restore(&decoder, dir.path()).unwrap()), logits(&decoder), "{name}");
            assert_eq!(json(&dir.path().join("adapter_config.json"))["fan_in_fan_out"], name == "gpt2");
            // Trained on with the settings of the folder, where a part has the rank of the whole.
            let spec = AdapterSpec::of_folder(dir.path(), BaseFormat::None, true).unwrap();
            let again = resume(base(), &spec, &read, Seed(0), PathBuf::new()).unwrap();
            assert_within(name, &logits(&again), &logits(&decoder), 3e-5);
        }
    }
}

/// If this fails, QLoRA trains something else than LoRA on the dequantised model, or its base is not the one of its settings.
#[test]
fn a_quantised_base_is_its_dequantised_twin() {
    let device = Device::flex().autodiff();
    for (base, saved) in [(BaseFormat::Nf4, vec![]), (BaseFormat::Int8, vec!["lm_head".to_string()])] {
        let spec = AdapterSpec { r: 4, lora_alpha: 8.0, base, modules_to_save: saved, ..AdapterSpec::default() };
        let packed = adapter::load_frozen(&fixture("lora/base"), &spec, &device, Precision::F32).unwrap();
        let mut looked_at = packed.clone();
        let quantised = looked_at.linears_mut().iter().filter(|(_, linear)| linear.weight.as_packed().is_some()).count();
        assert_eq!(quantised, 14, "every projection of two blocks");
        assert!(packed.model.embed_tokens.weight.as_packed().is_some());
        let head_is_packed = packed.lm_head.as_ref().unwrap().weight.as_packed().is_some();
        assert_eq!(head_is_packed, spec.modules_to_save.is_empty());
        let mut values = params::to_host(&packed);
        let dense = Decoder::build(packed.config(), &device, Precision::F32, &mut |name, _| Ok(values.remove(name).unwrap().values)).unwrap();
        let (packed, dense) = (moved(packed, &spec), moved(dense, &AdapterSpec { base: BaseFormat::None, ..spec.clone() }));
        assert_close("logits", &logits(&packed.untracked()), &logits(&dense.untracked()));
        let gradients = |decoder: &Decoder| {
            let value = loss(decoder);
            let gradients = params::gradients(decoder, &value.backward());
            (host::scalar(value.inner()), gradients.into_iter().map(|(name, g)| (name, to_vec(g))).collect::<BTreeMap<_, _>>())
        };
        let ((a, packed), (b, dense)) = (gradients(&packed), gradients(&dense));
        assert!((a - b).abs() < 1e-5 * b, "{a}, {b}");
        assert_eq!(packed.keys().collect::<Vec<_>>(), dense.keys().collect::<Vec<_>>());
        for (name, gradient) in packed {
            assert_within(&name, &gradient, &dense[&name], 1e-4);
        }
    }
}

/// The bytes that bitsandbytes would keep for the same weights.
#[test]
fn a_base_in_nf4_holds_the_values_of_bitsandbytes() {
    let weights = Weights::open(fixture("quant/nf4.safetensors")).unwrap();
    let values = weights.get("weight").unwrap().values;
    for (double_quant, name) in [(false, "dequantized"), (true, "double_quant.dequantized")] {
        let spec = AdapterSpec { base: BaseFormat::Nf4, double_quant, ..AdapterSpec::default() };
        let weight = Weight::packed(spec.store(&values, [64, 64]).unwrap(), &Device::flex());
        assert_close(name, &to_vec(weight.val()), &weights.get(name).unwrap().values);
    }
}

#[test]
fn another_adapter_than_the_settings_say_is_refused_with_what_differs() {
    let base = || hf::load(fixture("lora/base"), &Device::flex()).unwrap();
    let dir = fixture("lora/qv_r4");
    let found = Adapter::load(&dir, base().config()).unwrap();
    let settings = AdapterSpec::of_folder(&dir, BaseFormat::None, true).unwrap();
    let names = |names: &[&str]| ModuleNames::Names(names.iter().map(|n| n.to_string()).collect());
    for (spec, part) in [
        (AdapterSpec { r: 8, lora_alpha: 2.0 * settings.lora_alpha, ..settings.clone() }, "rank is 4, by the settings it is 8"),
        (AdapterSpec { lora_alpha: 1.0, ..settings.clone() }, "factor"),
        (AdapterSpec { use_dora: true, ..settings.clone() }, "use_dora"),
        (AdapterSpec { target_modules: names(&["q_proj"]), ..settings.clone() }, "v_proj"),
        (AdapterSpec { target_modules: names(&["q_proj", "v_proj", "o_proj"]), ..settings.clone() }, "o_proj"),
        (AdapterSpec { modules_to_save: vec!["lm_head".into()], ..settings.clone() }, "lm_head"),
    ] {
        let message = resume(base(), &spec, &found, Seed(0), PathBuf::new()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("merge it"), "{message}");
    }
}
