//! Models that see, put together from parts, saved, loaded and trained. If one of these fails, a saved model is another model, a part of it
//! does not learn, or a connector of one layer does not work.

use llm_arch::{Decoder, PackedBatch, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{from_vec, scalar, to_vec};
use llm_tensor::ops::Activation;
use llm_tensor::weights::{SaveOptions, Weights};
use llm_tensor::{Precision, params};
use llm_vision::{ConnectorKind, ImageProcessor, SelectStrategy, VisionConfig, VisionTower, Vlm, VlmOptions, checkpoint};
use std::path::{Path, PathBuf};

const IMAGE: u32 = 120;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn load(dir: &Path) -> Vlm {
    Vlm::load(dir, &Device::flex(), Precision::F32).unwrap()
}

fn tower(name: &str) -> VisionTower {
    checkpoint::load_tower(fixture("vision").join(name), &Device::flex(), Precision::F32).unwrap()
}

fn decoder() -> Decoder {
    let mut config = hf::load_config(fixture("decoder/llama_tied")).unwrap();
    config.num_hidden_layers = 2;
    Decoder::new(&config, Seed(1), &Device::flex()).unwrap()
}

fn options(connector: ConnectorKind) -> VlmOptions {
    VlmOptions { image_token_id: IMAGE, connector, ..VlmOptions::default() }
}

fn pixels(config: &VisionConfig, images: usize, seed: u64) -> Tensor<4> {
    let side = config.image_size;
    let mut rng = Seed(seed).rng();
    let values = (0..images * 3 * side * side).map(|_| rng.normal() as f32).collect();
    from_vec(values, [images, 3, side, side], &Device::flex())
}

/// Negative log-likelihood of the words after an image.
fn loss(vlm: &Vlm, pixel_values: Tensor<4>) -> Tensor<1> {
    let ids = vlm.expand(&[5, IMAGE, 7, 8, 9]);
    let mut targets = vec![llm_tensor::ops::IGNORE; ids.len()];
    for (target, id) in targets.iter_mut().rev().zip([10, 9, 8]) {
        *target = id;
    }
    let features = vlm.image_features(pixel_values).unwrap();
    let hidden = vlm.hidden(&PackedBatch::sequence(&ids), Some(features), None).unwrap();
    vlm.language_model.nll(hidden, targets.into()).sum()
}

#[test]
fn a_saved_model_is_the_file_that_transformers_4_writes() {
    for name in ["llava15", "llava_siglip_full"] {
        let (dir, out) = (fixture("vision").join(name), tempfile::tempdir().unwrap());
        let vlm = load(&dir);
        let processor = ImageProcessor::for_tower(&vlm.config().vision);
        vlm.save(out.path(), &processor, SaveOptions::default()).unwrap();
        let again = load(out.path());
        assert_eq!(again.config(), vlm.config());
        assert_eq!(params::to_host(&again), params::to_host(&vlm));
        assert_eq!(ImageProcessor::load(out.path()).unwrap(), processor);
        if dir.join("model_v4names.safetensors").exists() {
            let (ours, theirs) = (Weights::open(out.path()).unwrap(), Weights::open(dir.join("model_v4names.safetensors")).unwrap());
            assert_eq!(ours.names(), theirs.names());
            for tensor in ours.names() {
                assert_eq!(ours.get(tensor).unwrap(), theirs.get(tensor).unwrap(), "{tensor}");
            }
        }
    }
}

/// Both connectors, over one hidden state and over two, with and without class token.
#[test]
fn models_put_together_work_and_survive_a_folder() {
    let full = SelectStrategy::Full;
    for (name, options) in [
        ("clip_vision", options(ConnectorKind::Mlp)),
        ("clip_vision", VlmOptions { multimodal_projector_bias: false, ..options(ConnectorKind::Linear) }),
        ("siglip_vision", VlmOptions { vision_feature_select_strategy: full, vision_feature_layer: vec![-1], ..options(ConnectorKind::Linear) }),
        ("clip_vision", VlmOptions { vision_feature_layer: vec![1, -2], projector_hidden_act: Activation::GeluTanh, ..options(ConnectorKind::Mlp) }),
        ("clip_vision", VlmOptions { spatial_merge_size: 2, vision_feature_layer: vec![1, -2], ..options(ConnectorKind::Mlp) }),
    ] {
        let vlm = Vlm::from_parts(decoder(), tower(name), &options, Seed(2)).unwrap();
        let (d, vision) = (vlm.config().text.hidden_size, &vlm.config().vision);
        let pixel_values = pixels(vision, 2, 3);
        let features = vlm.image_features(pixel_values.clone()).unwrap();
        assert_eq!(features.dims(), [2 * vlm.config().tokens_per_image(), d]);
        let names: Vec<String> = params::shapes(&vlm).into_keys().collect();
        for part in ["vision_tower.encoder.layers.0.", "multi_modal_projector.linear_1.weight", "language_model.model.layers.1."] {
            assert!(names.iter().any(|name| name.starts_with(part)), "{part}");
        }
        assert_eq!(names.iter().any(|n| n.contains("linear_2")), options.connector == ConnectorKind::Mlp);
        let counted: usize = params::shapes(&vlm).values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(vlm.num_parameters(), counted);

        let out = tempfile::tempdir().unwrap();
        vlm.save(out.path(), &ImageProcessor::for_tower(vision), SaveOptions::default()).unwrap();
        let again = load(out.path());
        assert_eq!(again.config(), vlm.config());
        assert_eq!(params::to_host(&again), params::to_host(&vlm));
        assert_eq!(to_vec(again.image_features(pixel_values).unwrap()), to_vec(features));

        // The same seed, the same connector; another seed, another one, and nothing else.
        let other = Vlm::from_parts(decoder(), tower(name), &options, Seed(3)).unwrap();
        let (one, two) = (params::to_host(&vlm), params::to_host(&other));
        let changed: Vec<&String> = one.keys().filter(|name| one[*name] != two[*name]).collect();
        assert!(!changed.is_empty() && changed.iter().all(|name| name.starts_with("multi_modal_projector.linear")), "{changed:?}");
    }
}

/// If this fails, an image token is made of patches that do not lie together.
#[test]
fn a_merged_token_is_a_square_of_patches() {
    let make = |spatial_merge_size| {
        Vlm::from_parts(decoder(), tower("clip_vision"), &VlmOptions { spatial_merge_size, ..options(ConnectorKind::Mlp) }, Seed(2)).unwrap()
    };
    let (plain, merged) = (make(1), make(2));
    let pixel_values = pixels(&plain.config().vision, 2, 3);
    let (patches, squares) = (plain.tower_features(pixel_values.clone()).unwrap(), merged.tower_features(pixel_values).unwrap());
    let e = patches.dims()[1];
    assert_eq!((patches.dims()[0], squares.dims()), (2 * 16, [2 * 4, 4 * e]));
    let (patches, squares) = (to_vec(patches), to_vec(squares));
    for (square, values) in squares.chunks(4 * e).enumerate() {
        let (image, row, column) = (square / 4, square % 4 / 2, square % 2);
        for (i, part) in values.chunks(e).enumerate() {
            let patch = image * 16 + (2 * row + i / 2) * 4 + 2 * column + i % 2;
            assert_eq!(part, &patches[patch * e..(patch + 1) * e], "square {square}, patch {i}");
        }
    }
}

/// Weights in half precision and in shards: the folder says so, and the model sees the same.
#[test]
fn half_precision_and_shards() {
    let vlm = Vlm::from_parts(decoder(), tower("clip_vision"), &options(ConnectorKind::Mlp), Seed(2)).unwrap();
    let processor = ImageProcessor::for_tower(&vlm.config().vision);
    let out = tempfile::tempdir().unwrap();
    vlm.save(out.path(), &processor, SaveOptions { precision: Precision::Bf16, max_shard_bytes: 60_000 }).unwrap();
    assert!(out.path().join("model.safetensors.index.json").exists());
    let config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(out.path().join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["dtype"], &config["text_config"]["dtype"]), (&"bfloat16".into(), &"bfloat16".into()));
    let (wide, half) = (load(out.path()), Vlm::load(out.path(), &Device::flex(), Precision::Bf16).unwrap());
    let pixel_values = pixels(&vlm.config().vision, 1, 4);
    let (want, got) = (to_vec(wide.image_features(pixel_values.clone()).unwrap()), to_vec(half.image_features(pixel_values).unwrap()));
    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(want.iter().zip(&got).all(|(w, g)| (w - g).abs() < 0.05 * largest));
    let fresh = Vlm::from_parts(half.language_model, half.vision_tower, &options(ConnectorKind::Mlp), Seed(2)).unwrap();
    assert!(params::layouts(&fresh).values().all(|(_, dtype)| *dtype == Precision::Bf16.dtype()));
}

/// If this fails, a stage of training moves a part that it should not reach, or does not reach one that it should.
#[test]
fn gradients_reach_every_part() {
    let vlm = Vlm::from_parts(decoder(), tower("clip_vision"), &options(ConnectorKind::Mlp), Seed(2)).unwrap();
    let pixel_values = pixels(&vlm.config().vision, 1, 5);
    let plain = scalar(loss(&vlm, pixel_values.clone()));
    let tracked = vlm.clone().tracked();
    let value = loss(&tracked, pixel_values.clone());
    assert!((scalar(value.clone()) - plain).abs() < 1e-4 * plain);
    let gradients = params::gradients(&tracked, &value.backward());
    // Features are the last hidden state but one: the last block and the norm after it take no part.
    let unused = |name: &str| name.starts_with("vision_tower.encoder.layers.2.") || name.starts_with("vision_tower.post_layernorm");
    for name in params::shapes(&vlm).into_keys() {
        assert_eq!(gradients.contains_key(&name), !unused(&name), "{name}");
    }
    // By differences, in every part: a step along the gradient changes the loss by its square.
    for part in ["vision_tower.", "multi_modal_projector.", "language_model."] {
        let square: f32 = gradients.iter().filter(|(n, _)| n.starts_with(part)).map(|(_, g)| scalar(g.clone().powi_scalar(2).sum())).sum();
        let moved = |by: f32| {
            let vlm = params::map(vlm.clone(), |name, _, value| match gradients.get(name) {
                Some(gradient) if name.starts_with(part) => value + gradient.clone().mul_scalar(by / square.sqrt()),
                _ => value,
            });
            scalar(loss(&vlm, pixel_values.clone()))
        };
        let h = 4e-3;
        let slope = (moved(h) - moved(-h)) / (2.0 * h);
        println!("{part}: {slope} by differences, {} by backward", square.sqrt());
        assert!((slope / square.sqrt() - 1.0).abs() < 0.02, "{part}: {slope}, expected {}", square.sqrt());
    }
    let still = tracked.untracked();
    assert!(!still.device().is_autodiff());
    assert_eq!(params::to_host(&still), params::to_host(&vlm));
}

/// A tower off the tape under a connector and a decoder on it: what training the connector costs least.
#[test]
fn a_frozen_tower_needs_no_tape() {
    let vlm = Vlm::from_parts(decoder(), tower("clip_vision"), &options(ConnectorKind::Linear), Seed(2)).unwrap();
    let pixel_values = pixels(&vlm.config().vision, 1, 6);
    let whole = vlm.clone().tracked();
    let want = params::gradients(&whole, &loss(&whole, pixel_values.clone()).backward());
    let mut mixed = vlm.clone().tracked();
    mixed.vision_tower = vlm.vision_tower.clone();
    let gradients = params::gradients(&mixed, &loss(&mixed, pixel_values).backward());
    let rest: Vec<&String> = want.keys().filter(|name| !name.starts_with("vision_tower.")).collect();
    assert_eq!(gradients.keys().collect::<Vec<_>>(), rest);
    // Another tape may add the parts of a gradient in another order.
    for name in rest {
        let (got, want) = (to_vec(gradients[name].clone()), to_vec(want[name].clone()));
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * largest), "{name}");
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let message = |name: &str, options: VlmOptions| Vlm::from_parts(decoder(), tower(name), &options, Seed(0)).unwrap_err().to_string();
    let fine = options(ConnectorKind::Mlp);
    for (name, options, part) in [
        ("clip_vision", VlmOptions { image_token_id: 32_000, ..fine.clone() }, "32000 is not below vocab_size"),
        ("siglip_vision", fine.clone(), "SigLIP has no class token; use full"),
        ("clip_vision", VlmOptions { vision_feature_layer: vec![-5], ..fine.clone() }, "expected indices from -4 to 3"),
        ("clip_vision", VlmOptions { vision_feature_layer: vec![], ..fine.clone() }, "vision_feature_layer"),
        ("clip_vision", VlmOptions { spatial_merge_size: 3, ..fine.clone() }, "does not divide the 4 x 4 patches"),
        (
            "clip_vision",
            VlmOptions { spatial_merge_size: 2, vision_feature_select_strategy: SelectStrategy::Full, ..fine.clone() },
            "takes patches only",
        ),
    ] {
        let message = message(name, options);
        assert!(message.contains(part), "no {part} in {message}");
    }
    // A folder that calls its connector linear and has a second layer that does something.
    let vlm = Vlm::from_parts(decoder(), tower("clip_vision"), &options(ConnectorKind::Mlp), Seed(2)).unwrap();
    let out = tempfile::tempdir().unwrap();
    vlm.save(out.path(), &ImageProcessor::for_tower(&vlm.config().vision), SaveOptions::default()).unwrap();
    let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
    std::fs::write(out.path().join("config.json"), text.replace("mlp2x_gelu", "linear")).unwrap();
    let message = Vlm::load(out.path(), &Device::flex(), Precision::F32).unwrap_err().to_string();
    assert!(message.contains("`multi_modal_projector.linear_2.weight` is not the identity"), "{message}");
}
