//! Towers, connectors and whole models against PyTorch and transformers, from files to numbers. If one of these fails, published
//! checkpoints give other features or other words than their authors'.

use llm_arch::{CachedBatch, KvDtype, KvPool, PackedBatch};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{from_vec, to_vec};
use llm_tensor::weights::{SaveOptions, Weights};
use llm_vision::{VisionTower, Vlm, checkpoint};
use std::path::{Path, PathBuf};

/// Relative to the largest expected value.
const TOLERANCE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision").join(name)
}

fn difference(got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) -> f32 {
    assert_eq!(got.len(), want.len(), "number of elements");
    let pairs = || got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, pair)| pair);
    let largest = pairs().fold(0f32, |m, (_, w)| m.max(w.abs()));
    let worst = pairs().map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    worst / largest
}

fn check<const D: usize>(expected: &Weights, name: &str, got: Tensor<D>) {
    let want = expected.get(name).unwrap();
    assert_eq!(got.dims().to_vec(), want.shape, "{name}");
    let off = difference(&to_vec(got), &want.values, |_| true);
    println!("{name}: {off:.1e}");
    assert!(off < TOLERANCE, "{name}: {off}");
}

fn pixels(dir: &Path) -> Tensor<4> {
    let pixels = Weights::open(dir.join("inputs.safetensors")).unwrap().get("pixel_values").unwrap();
    let shape: [usize; 4] = pixels.shape.try_into().unwrap();
    from_vec(pixels.values, shape, &Device::flex())
}

fn check_tower(dir: &Path, tower: &VisionTower) {
    let expected = Weights::open(dir.join("expected.safetensors")).unwrap();
    let output = tower.forward(pixels(dir)).unwrap();
    let states = &output.hidden_states;
    for (i, state) in states.iter().enumerate() {
        check(&expected, &format!("hidden.{i}"), state.clone());
    }
    check(&expected, "last_hidden_state", output.last_hidden_state);
    check(&expected, "pooler_output", output.pooler_output.unwrap());
    let config = tower.config();
    let features = tower.hidden_states(pixels(dir), config.num_hidden_layers - 1).unwrap().pop().unwrap();
    check(&expected, "select_layer_minus2_patch", features.narrow(1, config.class_tokens(), config.num_patches()));
}

fn load_tower(dir: &Path) -> VisionTower {
    checkpoint::load_tower(dir, &Device::flex(), Precision::F32).unwrap()
}

const TOWERS: [&str; 3] = ["clip_vision", "clip_vision_gelu_nonsquare_patchcount", "siglip_vision"];

#[test]
fn towers_see_what_transformers_sees() {
    for name in TOWERS {
        println!("{name}");
        check_tower(&fixture(name), &load_tower(&fixture(name)));
    }
}

/// A folder with other tensor names or another configuration beside the same numbers.
fn variant(name: &str, weights: &str, config: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (from, to) in [(weights, "model.safetensors"), (config, "config.json")] {
        std::fs::copy(fixture(name).join(from), copy.path().join(to)).unwrap();
    }
    copy
}

#[test]
fn names_and_configurations_of_transformers_4_are_read() {
    for name in ["clip_vision", "siglip_vision"] {
        let copy = variant(name, "model_v4names.safetensors", "config_v4.json");
        check_tower(&fixture(name), &load_tower(copy.path()));
    }
    let copy = variant("llava15", "model_v4names.safetensors", "config_v4.json");
    check_vlm("llava15", &Vlm::load(copy.path(), &Device::flex(), Precision::F32).unwrap());
}

#[test]
fn a_saved_tower_is_the_file_that_transformers_4_writes() {
    for name in TOWERS {
        let out = tempfile::tempdir().unwrap();
        let tower = load_tower(&fixture(name));
        checkpoint::save_tower(out.path(), &tower, SaveOptions::default()).unwrap();
        let again = load_tower(out.path());
        assert_eq!(again.config(), tower.config());
        check_tower(&fixture(name), &again);
        if fixture(name).join("model_v4names.safetensors").exists() {
            let (ours, theirs) = (Weights::open(out.path()).unwrap(), Weights::open(fixture(name).join("model_v4names.safetensors")).unwrap());
            assert_eq!(ours.names(), theirs.names());
            for tensor in ours.names() {
                assert_eq!(ours.get(tensor).unwrap(), theirs.get(tensor).unwrap(), "{tensor}");
            }
        }
    }
}

/// If this fails, a wrong file is half loaded, or the message does not say which tensor it is.
#[test]
fn weights_that_do_not_fit_are_named() {
    let dir = variant("clip_vision", "model.safetensors", "config.json");
    let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    for (from, to, part) in [
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", "missing `encoder.layers.3.layer_norm1.weight`"),
        ("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", "unexpected `encoder.layers.2.layer_norm1.bias`"),
        ("\"image_size\": 28", "\"image_size\": 35", "`embeddings.position_embedding.weight` has shape [17, 32], expected [26, 32]"),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "`hidden_size` = 32"),
        ("\"quick_gelu\"", "\"relu\"", "expected quick_gelu, gelu"),
    ] {
        std::fs::write(dir.path().join("config.json"), text.replace(from, to)).unwrap();
        let message = checkpoint::load_tower(dir.path(), &Device::flex(), Precision::F32).unwrap_err().to_string();
        assert!(message.contains(part), "no {part} in {message}");
    }
    let tower = load_tower(&fixture("clip_vision"));
    let message = tower.forward(Tensor::zeros([1, 3, 28, 35], &Device::flex())).unwrap_err().to_string();
    assert!(message.contains("[B, 3, 28, 28]"), "{message}");
}

#[derive(serde::Deserialize)]
struct Inputs {
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
    image_token_counts: Vec<usize>,
    greedy_steps: usize,
}

fn check_vlm(name: &str, vlm: &Vlm) {
    let dir = fixture(name);
    println!("{name}");
    let expected = Weights::open(dir.join("expected.safetensors")).unwrap();
    let inputs: Inputs = serde_json::from_str(&std::fs::read_to_string(dir.join("inputs.json")).unwrap()).unwrap();
    let features = vlm.image_features(pixels(&dir)).unwrap();
    check(&expected, "image_features", features.clone());

    // Left padding is a document that starts later.
    let first = |mask: &[u32]| mask.iter().position(|&m| m == 1).unwrap();
    let starts: Vec<Vec<u32>> = inputs.attention_mask.iter().map(|m| vec![0, first(m) as u32]).collect();
    let starts: Vec<&[u32]> = starts.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::documents(inputs.input_ids.concat(), &starts, inputs.input_ids[0].len());
    let visible = inputs.attention_mask.concat();
    let compare = |name: &str, got: Tensor<2>| {
        let width = got.dims()[1];
        let off = difference(&to_vec(got), &expected.get(name).unwrap().values, |i| visible[i / width] == 1);
        println!("{name}: {off:.1e}");
        assert!(off < TOLERANCE, "{name}: {off}");
    };
    let mut seen = 0;
    let mut observe = |i: usize, x: &Tensor<2>| {
        compare(&format!("hidden.{i}"), x.clone());
        seen += 1;
    };
    let hidden = vlm.hidden(&batch, Some(features.clone()), Some(&mut observe)).unwrap();
    compare("logits", vlm.language_model.logits(hidden));
    assert_eq!(seen, 3, "hidden states");

    // The prompt with its images once, then token by token from the cache.
    let want = expected.integers("greedy_tokens").unwrap();
    let limit = vlm.config().image_token_id as usize;
    let mut from = 0;
    for (row, (ids, mask)) in inputs.input_ids.iter().zip(&inputs.attention_mask).enumerate() {
        let rows = inputs.image_token_counts[row];
        let mut features = (rows > 0).then(|| features.clone().narrow(0, from, rows));
        from += rows;
        let mut new = ids[first(mask)..].to_vec();
        let pages: Vec<u32> = (0..((new.len() + inputs.greedy_steps).div_ceil(8)) as u32).rev().collect();
        let mut pool = KvPool::new(vlm.language_model.config(), pages.len(), 8, KvDtype::F32);
        let (mut tokens, mut at) = (Vec::new(), 0);
        while tokens.len() < inputs.greedy_steps {
            let positions = (at..at + new.len() as u32).collect();
            let batch = CachedBatch { ids: new.clone().into(), positions, pages: vec![&pages; new.len()] };
            at += new.len() as u32;
            let hidden = vlm.hidden_cached(&batch, features.take(), &mut pool).unwrap();
            let n = hidden.dims()[0];
            let logits = to_vec(vlm.language_model.logits(hidden.narrow(0, n - 1, 1)));
            let best = logits[..limit].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            tokens.push(best as i64);
            new = vec![best as u32];
        }
        assert_eq!(tokens, want[row * inputs.greedy_steps..][..inputs.greedy_steps], "{name}, row {row}");
    }
}

#[test]
fn language_models_see_what_transformers_sees() {
    for name in ["llava15", "llava15_two_images", "llava_siglip_full"] {
        check_vlm(name, &Vlm::load(fixture(name), &Device::flex(), Precision::F32).unwrap());
    }
}

/// Folders that were saved from memory: `model.vision_tower`, `model.multi_modal_projector`, `model.language_model`, `lm_head`.
#[test]
fn names_of_transformers_5_in_memory_are_read() {
    let copy = variant("llava15", "model.safetensors", "config.json");
    let weights = Weights::open(copy.path()).unwrap();
    let renamed = |name: &str| match name.strip_prefix("language_model.") {
        Some("lm_head.weight") => "lm_head.weight".to_string(),
        Some(rest) => rest.replacen("model.", "model.language_model.", 1),
        None => format!("model.{name}"),
    };
    let tensors = weights.names().into_iter().map(|name| (renamed(name), weights.get(name).unwrap())).collect();
    let out = variant("llava15", "model.safetensors", "config.json");
    llm_tensor::weights::save(out.path().join("model.safetensors"), &tensors).unwrap();
    check_vlm("llava15", &Vlm::load(out.path(), &Device::flex(), Precision::F32).unwrap());
}

/// If this fails, a prompt whose images do not match is answered with shifted features.
#[test]
fn placeholders_must_match_the_images() {
    let vlm = Vlm::load(fixture("llava15"), &Device::flex(), Precision::F32).unwrap();
    let ids = vlm.expand(&[5, 120, 6]);
    assert_eq!(ids.len(), 18);
    assert_eq!((ids[0], ids[1], ids[16], ids[17]), (5, 120, 120, 6));
    let features = Tensor::<2>::zeros([16, 32], &Device::flex());
    assert_eq!(vlm.embed(&ids, Some(features.clone())).unwrap().dims(), [18, 32]);
    let message = vlm.embed(&ids[..17], Some(features.narrow(0, 0, 15))).unwrap_err().to_string();
    assert!(message.contains("16 image tokens for 15 image features"), "{message}");
    assert!(vlm.embed(&ids, None).is_err());
    assert_eq!(vlm.embed(&[1, 2], None).unwrap().dims(), [2, 32]);
}
