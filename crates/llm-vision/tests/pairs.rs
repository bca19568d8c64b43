//! Image-text pairs against transformers: features, logits, losses and their gradients, from files to numbers and back. If one of these
//! fails, a pair trained here is another one in transformers, or does not learn what it should.

#![allow(non_snake_case)] // tensor variables carry shape suffixes

use llm_run::Seed;
use llm_tensor::burn::module::Param;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{from_vec, scalar, to_vec};
use llm_tensor::weights::{SaveOptions, Weights};
use llm_tensor::{Precision, params};
use llm_vision::contrastive::{clip_loss, siglip_loss};
use llm_vision::{Pair, PairConfig, PositionInit, TextBatch, VisionFamily, checkpoint};
use std::path::{Path, PathBuf};

/// Relative to the largest expected value.
const TOLERANCE: f32 = 1e-5;
const PAIRS: [&str; 3] = ["clip_pair", "clip_pair_eos2", "siglip_pair"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vision").join(name)
}

fn load(dir: &Path) -> Pair {
    checkpoint::load_pair(dir, &Device::flex(), Precision::F32).unwrap()
}

fn check<const D: usize>(expected: &Weights, name: &str, got: Tensor<D>, floor: f32) {
    let want = expected.get(name).unwrap();
    let got = to_vec(got);
    assert_eq!(got.len(), want.values.len(), "{name}");
    let largest = want.values.iter().fold(floor, |m, w| m.max(w.abs()));
    let worst = got.iter().zip(&want.values).map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m }) / largest;
    println!("{name}: {worst:.1e}");
    assert!(worst < TOLERANCE, "{name}: {worst}");
}

#[derive(serde::Deserialize)]
struct Inputs {
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
}

fn inputs(dir: &Path) -> (Inputs, Tensor<4>) {
    let pixels = Weights::open(dir.join("inputs.safetensors")).unwrap().get("pixel_values").unwrap();
    let shape: [usize; 4] = pixels.shape.try_into().unwrap();
    (serde_json::from_str(&std::fs::read_to_string(dir.join("inputs.json")).unwrap()).unwrap(), from_vec(pixels.values, shape, &Device::flex()))
}

fn check_pair(name: &str, pair: &Pair) {
    let dir = fixture(name);
    let expected = Weights::open(dir.join("expected.safetensors")).unwrap();
    let (inputs, pixels) = inputs(&dir);
    let batch = TextBatch::new(&inputs.input_ids).unwrap();
    let text = pair.text_model.forward(&batch).unwrap();
    check(&expected, "text_last_hidden_state", text.last_hidden_state, 0.0);
    let image_BE = pair.image_features(pixels).unwrap();
    let text_BE = pair.text_features(&batch).unwrap();
    check(&expected, "image_features", image_BE.clone(), 0.0);
    check(&expected, "text_features", text_BE.clone(), 0.0);
    let masked = batch.with_mask(&inputs.attention_mask.concat()).unwrap();
    check(&expected, "masked.text_features", pair.text_features(&masked).unwrap(), 0.0);
    check(&expected, "logits_per_image", pair.logits_per_image(image_BE.clone(), text_BE.clone()), 0.0);
    check(&expected, "loss", pair.loss(image_BE, text_BE), 0.0);
}

#[test]
fn pairs_see_and_read_what_transformers_sees_and_reads() {
    for name in PAIRS {
        println!("{name}");
        check_pair(name, &load(&fixture(name)));
    }
}

/// The gradient of every parameter, among them the scale and bias of the logits.
#[test]
fn gradients_are_those_of_pytorch() {
    for name in PAIRS {
        println!("{name}");
        let dir = fixture(name);
        let expected = Weights::open(dir.join("expected.safetensors")).unwrap();
        let (inputs, pixels) = inputs(&dir);
        let pair = load(&dir).tracked();
        let text_BE = pair.text_features(&TextBatch::new(&inputs.input_ids).unwrap()).unwrap();
        let loss = pair.loss(pair.image_features(pixels).unwrap(), text_BE);
        let gradients = params::gradients(&pair, &loss.backward());
        let names: Vec<&str> = expected.names().into_iter().filter(|name| name.starts_with("grad")).collect();
        assert_eq!(names.iter().filter(|n| n.starts_with("grad_norm.")).count(), params::shapes(&pair).len());
        for name in names {
            let (kind, parameter) = name.split_once('.').unwrap();
            let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{parameter} has no gradient")).clone();
            // Biases of keys move nothing: their gradients are rounding errors.
            match kind {
                "grad" => check(&expected, name, gradient, 1e-2),
                _ => check(&expected, name, gradient.powi_scalar(2).sum().sqrt(), 1e-2),
            }
        }
    }
}

#[test]
fn a_saved_pair_is_the_file_that_transformers_writes() {
    for name in PAIRS {
        let out = tempfile::tempdir().unwrap();
        let pair = load(&fixture(name));
        checkpoint::save_pair(out.path(), &pair, SaveOptions::default()).unwrap();
        let (ours, theirs) = (Weights::open(out.path()).unwrap(), Weights::open(fixture(name).join("model.safetensors")).unwrap());
        assert_eq!(ours.names(), theirs.names());
        for tensor in ours.names() {
            assert_eq!(ours.get(tensor).unwrap(), theirs.get(tensor).unwrap(), "{tensor}");
        }
        let again = load(out.path());
        assert_eq!(again.config(), pair.config());
        check_pair(name, &again);
        // The tower of a pair alone, as a vision-language model takes it.
        let tower = checkpoint::load_tower(out.path(), &Device::flex(), Precision::F32).unwrap();
        assert_eq!(params::to_host(&tower), params::to_host(&pair.vision_model));
        assert_eq!(tower.config(), pair.vision_model.config());
    }
}

/// Numbers worked out in double precision, and derivatives by differences.
#[test]
fn losses_and_their_derivatives() {
    let (b, e) = (3, 4);
    let device = Device::flex();
    let mut rng = Seed(5).rng();
    let mut values = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
    let (image, text, scale, bias) = (values(b * e), values(b * e), 0.7f32, -0.4f32);
    let logits = |image: &[f32], text: &[f32], scale: f64, bias: f64| -> Vec<Vec<f64>> {
        let unit = |x: &[f32]| {
            let length = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            x.iter().map(|v| f64::from(*v) / length).collect::<Vec<f64>>()
        };
        let rows = |x: &[f32]| x.chunks(e).map(unit).collect::<Vec<_>>();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() * scale.exp() + bias;
        rows(image).iter().map(|i| rows(text).iter().map(|t| dot(i, t)).collect()).collect()
    };
    let clip = |image: &[f32], text: &[f32], scale: f64| -> f64 {
        let l = logits(image, text, scale, 0.0);
        let nll = |row: Vec<f64>, own: usize| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[own];
        let total: f64 = (0..b).map(|i| nll(l[i].clone(), i) + nll(l.iter().map(|row| row[i]).collect(), i)).sum();
        total / (2 * b) as f64
    };
    let siglip = |image: &[f32], text: &[f32], scale: f64, bias: f64| -> f64 {
        let l = logits(image, text, scale, bias);
        let pairs = (0..b).flat_map(|i| (0..b).map(move |j| (i, j)));
        pairs.map(|(i, j)| (1.0 + (-(if i == j { l[i][j] } else { -l[i][j] })).exp()).ln()).sum::<f64>() / b as f64
    };
    // Inputs as parameters, so that gradients can be asked for.
    let leaf = |values: &[f32], shape: [usize; 2]| Tensor::<2>::from_inner(from_vec(values.to_vec(), shape, &device)).require_grad();
    let (i, t) = (leaf(&image, [b, e]), leaf(&text, [b, e]));
    let one = |value: f32| Tensor::<1>::from_inner(from_vec(vec![value], [1], &device)).require_grad();
    let (s, z) = (one(scale), one(bias));
    for sigmoid in [false, true] {
        let loss = match sigmoid {
            false => clip_loss(i.clone(), t.clone(), s.clone()),
            true => siglip_loss(i.clone(), t.clone(), s.clone(), z.clone()),
        };
        let exact = |image: &[f32], text: &[f32], scale: f64, bias: f64| match sigmoid {
            false => clip(image, text, scale),
            true => siglip(image, text, scale, bias),
        };
        let (scale, bias) = (f64::from(scale), f64::from(bias));
        let want = exact(&image, &text, scale, bias);
        assert!((f64::from(scalar(loss.clone())) - want).abs() < 1e-5, "{want}");
        let gradients = loss.backward();
        let h = 1e-3f32;
        let numeric = |x: &[f32], at: usize, f: &dyn Fn(&[f32]) -> f64| {
            let moved = |by: f32| {
                let mut x = x.to_vec();
                x[at] += by;
                f(&x)
            };
            (moved(h) - moved(-h)) / f64::from(2.0 * h)
        };
        let (gi, gt) = (to_vec(i.grad(&gradients).unwrap()), to_vec(t.grad(&gradients).unwrap()));
        for at in 0..b * e {
            let by_image = numeric(&image, at, &|x| exact(x, &text, scale, bias));
            let by_text = numeric(&text, at, &|x| exact(&image, x, scale, bias));
            assert!((f64::from(gi[at]) - by_image).abs() < 1e-4 && (f64::from(gt[at]) - by_text).abs() < 1e-4, "element {at}");
        }
        let by_scale = (exact(&image, &text, scale + 1e-4, bias) - exact(&image, &text, scale - 1e-4, bias)) / 2e-4;
        assert!((f64::from(scalar(s.grad(&gradients).unwrap())) - by_scale).abs() < 1e-4, "scale");
        if sigmoid {
            let by_bias = (exact(&image, &text, scale, bias + 1e-4) - exact(&image, &text, scale, bias - 1e-4)) / 2e-4;
            assert!((f64::from(scalar(z.grad(&gradients).unwrap())) - by_bias).abs() < 1e-4, "bias");
        }
    }
    // A tower that gives zeros must not turn everything into not-a-number.
    let zero = leaf(&[0.0; 12], [b, e]);
    let loss = clip_loss(zero.clone(), t.clone(), s.clone());
    assert!((scalar(loss.clone()) - 3f32.ln()).abs() < 1e-5);
    assert!(to_vec(zero.grad(&loss.backward()).unwrap()).iter().all(|g| g.is_finite()));
}

fn small(family: VisionFamily) -> PairConfig {
    let mut config = PairConfig::defaults(family);
    (config.vision.hidden_size, config.vision.intermediate_size, config.vision.num_hidden_layers, config.vision.num_attention_heads) =
        (64, 128, 2, 4);
    (config.vision.image_size, config.vision.patch_size) = (32, 8);
    if family == VisionFamily::Clip {
        config.projection_dim = 48;
    }
    (config.text.hidden_size, config.text.intermediate_size, config.text.num_hidden_layers, config.text.num_attention_heads) = (64, 96, 3, 4);
    (config.text.vocab_size, config.text.projection_size, config.text.eos_token_id) = (200, 64, 199);
    config
}

/// If this fails, training starts from other weights than that of transformers, or from others each time.
#[test]
fn fresh_pairs_are_spread_like_those_of_transformers() {
    let deviation = |values: &[f32]| (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    let glorot = |out: f64, inp: f64| (2.0 / (out + inp)).sqrt();
    for (family, expected) in [
        (
            VisionFamily::Clip,
            vec![
                ("vision_model.encoder.layers.1.self_attn.q_proj.weight", 0.125 / 2.0),
                ("vision_model.encoder.layers.1.self_attn.out_proj.weight", 0.125),
                ("vision_model.encoder.layers.0.mlp.fc1.weight", 128f64.powf(-0.5)),
                ("vision_model.encoder.layers.0.mlp.fc2.weight", 0.125 / 2.0),
                ("text_model.encoder.layers.0.self_attn.v_proj.weight", 0.125 / 6f64.sqrt()),
                ("vision_model.embeddings.patch_embedding.weight", 0.02),
                ("text_model.embeddings.token_embedding.weight", 0.02),
                ("visual_projection.weight", 0.125),
            ],
        ),
        (
            VisionFamily::Siglip,
            vec![
                ("vision_model.encoder.layers.1.self_attn.q_proj.weight", glorot(64.0, 64.0)),
                ("text_model.encoder.layers.0.mlp.fc1.weight", glorot(96.0, 64.0)),
                ("vision_model.embeddings.patch_embedding.weight", 192f64.powf(-0.5) / 0.8796),
                ("text_model.embeddings.token_embedding.weight", 0.125),
                ("vision_model.head.attention.in_proj_weight", glorot(192.0, 64.0)),
                ("vision_model.head.attention.out_proj.weight", 0.125 / 0.8796),
                ("text_model.head.weight", 0.125 / 0.8796),
                ("text_model.encoder.layers.0.mlp.fc1.bias", 1e-6),
            ],
        ),
    ] {
        let config = small(family);
        let pair = Pair::init(&config, PositionInit::Normal, Seed(3), &Device::flex()).unwrap();
        let values = params::to_host(&pair);
        for (name, want) in expected {
            let got = deviation(&values[name].values);
            // Within four standard errors of a sample's deviation.
            assert!((got / want - 1.0).abs() < 4.0 / (2.0 * values[name].values.len() as f64).sqrt(), "{name}: {got}, expected {want}");
        }
        assert!(values["vision_model.post_layernorm.weight"].values.iter().all(|&v| v == 1.0));
        assert!(values["text_model.encoder.layers.1.self_attn.k_proj.bias"].values.iter().all(|&v| v == 0.0));
        assert_eq!(values["logit_scale"].values, [config.logit_scale_init_value as f32]);
        assert_eq!(params::to_host(&Pair::init(&config, PositionInit::Normal, Seed(3), &Device::flex()).unwrap()), values);
        assert_ne!(params::to_host(&Pair::init(&config, PositionInit::Normal, Seed(4), &Device::flex()).unwrap()), values);
        assert_eq!(PairConfig::from_json(&config.to_json()).unwrap(), config);
        // Saved and loaded: what was never trained is a pair, too.
        let out = tempfile::tempdir().unwrap();
        checkpoint::save_pair(out.path(), &pair, SaveOptions::default()).unwrap();
        assert_eq!(params::to_host(&load(out.path())), values);
    }
}

/// If this fails, a wrong text is answered with wrong features instead of a reason.
#[test]
fn what_does_not_fit_is_named() {
    let pair = load(&fixture("clip_pair"));
    let message = |rows: &[Vec<u32>]| match TextBatch::new(rows) {
        Ok(batch) => pair.text_features(&batch).unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    for (rows, part) in [
        (vec![vec![5, 95], vec![5]], "text 1 has 1 tokens, the first has 2"),
        (vec![], "no text"),
        (vec![vec![5, 95], vec![5, 6]], "text 1 has no end token 95"),
        (vec![vec![96, 95]], "token 96 is not below vocab_size = 96"),
        (vec![vec![95; 13]], "texts of 13 tokens; this tower takes at most 12"),
    ] {
        let message = message(&rows);
        assert!(message.contains(part), "no {part} in {message}");
    }
    let batch = TextBatch::padded(&[vec![1, 2, 3, 95], vec![1, 95]], 3, 0).unwrap();
    assert_eq!((batch.batch(), batch.length()), (2, 3));
    assert!(pair.text_features(&batch).is_ok(), "a cut text keeps its end token");
    assert!(batch.with_mask(&[1]).is_err());

    let mut config = small(VisionFamily::Siglip);
    config.text.projection_size = 60;
    let message = Pair::init(&config, PositionInit::Normal, Seed(0), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("`projection_size` = 60"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("siglip_pair").join("config.json")).unwrap();
    std::fs::copy(fixture("siglip_pair").join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    for (from, to, part) in [
        ("\"max_position_embeddings\": 12", "\"max_position_embeddings\": 13", "`text_model.embeddings.position_embedding.weight`"),
        ("\"model_type\": \"siglip\",", "\"model_type\": \"clip\",", "missing `text_projection.weight`"),
        ("\"vision_use_head\": true", "\"vision_use_head\": false", "vision_use_head"),
        ("\"model_type\": \"siglip\",", "\"model_type\": \"bert\",", "\"clip\" or \"siglip\""),
    ] {
        std::fs::write(dir.path().join("config.json"), text.replace(from, to)).unwrap();
        let message = checkpoint::load_pair(dir.path(), &Device::flex(), Precision::F32).unwrap_err().to_string();
        assert!(message.contains(part), "no {part} in {message}");
    }
}

/// Param is what a trainer moves: the scale of a tracked pair is a leaf.
#[test]
fn a_tracked_pair_is_made_of_leaves() {
    let pair = load(&fixture("clip_pair")).tracked();
    let leaf = |p: &Param<Tensor<1>>| p.val().is_require_grad();
    assert!(leaf(&pair.logit_scale) && !leaf(&pair.untracked().logit_scale));
}
