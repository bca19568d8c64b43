//! Images through the engine: the words of transformers, whatever is batched, chunked, shared or preempted. If one of these fails, an
//! answer depends on who else asks, or is about somebody else's image.

use llm_infer::{Completion, Engine, EngineConfig, Error, Image, Model, Request, Sampling, Vision};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::from_vec;
use llm_tensor::weights::Weights;
use llm_tensor::{DeviceSpec, Precision};
use llm_tokenizer::Tokenizer;
use llm_vision::{ImageProcessor, Vlm};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const FIXTURES: [&str; 3] = ["llava15", "llava15_two_images", "llava_siglip_full"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn processor(side: usize) -> ImageProcessor {
    let size = json!({"height": side, "width": side});
    ImageProcessor::from_json(&json!({"image_processor_type": "SiglipImageProcessor", "size": size})).unwrap()
}

fn model(name: &str) -> Model {
    let vlm = Vlm::load(fixtures().join("vision").join(name), &Device::flex(), Precision::F32).unwrap();
    let vision = Vision::new(&vlm, processor(vlm.config().vision.image_size)).unwrap();
    let tokenizer = Tokenizer::load(fixtures().join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let mut model = Model::from_parts(vlm.language_model, tokenizer, name);
    model.eos_token_ids = vec![];
    model.vision = Some(vision);
    model
}

/// The recorded prompts and images, and what transformers generated.
fn recorded(name: &str, model: &Model) -> (Vec<Request>, Vec<Vec<u32>>) {
    let dir = fixtures().join("vision").join(name);
    let inputs: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("inputs.json")).unwrap()).unwrap();
    let pixels = Weights::open(dir.join("inputs.safetensors")).unwrap().get("pixel_values").unwrap();
    let image_size: usize = pixels.shape[1..].iter().product();
    let shape = [1, pixels.shape[1], pixels.shape[2], pixels.shape[3]];
    let mut images = pixels.values.chunks_exact(image_size).map(|v| Image::from_pixel_values(from_vec(v.to_vec(), shape, &Device::flex())));
    let vision = model.vision.as_ref().unwrap();
    let (placeholder, length) = (vision.image_token_id(), vision.tokens_per_image());
    let steps = inputs["greedy_steps"].as_u64().unwrap() as usize;
    let numbers = |v: &Value| -> Vec<u32> { v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect() };
    let rows = inputs["input_ids"].as_array().unwrap().iter().zip(inputs["attention_mask"].as_array().unwrap());
    let requests = rows.map(|(ids, mask)| {
        let all: Vec<u32> = numbers(ids).into_iter().zip(numbers(mask)).filter(|(_, m)| *m == 1).map(|(id, _)| id).collect();
        let (mut prompt, mut at) = (Vec::new(), 0);
        while at < all.len() {
            prompt.push(all[at]);
            at += if all[at] == placeholder { length } else { 1 };
        }
        let images = images.by_ref().take(vision.placeholders(&prompt)).collect();
        Request::new(prompt, greedy(model, steps)).with_images(images)
    });
    let requests = requests.collect();
    let tokens = Weights::open(dir.join("expected.safetensors")).unwrap().integers("greedy_tokens").unwrap();
    (requests, tokens.chunks_exact(steps).map(|row| row.iter().map(|&t| t as u32).collect()).collect())
}

/// As recorded: the best token below the placeholder.
fn greedy(model: &Model, max_tokens: usize) -> Sampling {
    let banned = model.vision.as_ref().unwrap().image_token_id()..model.decoder.config().vocab_size as u32;
    Sampling { max_tokens, logit_bias: banned.map(|id| (id, f32::NEG_INFINITY)).collect(), ..Sampling::default() }
}

fn text(model: &Model, n: u32) -> Request {
    Request::new((0..9 + 5 * n).map(|i| 3 + (i * 7 + n) % 100).collect(), greedy(model, 12))
}

fn run(model: &Model, config: EngineConfig, requests: Vec<Request>) -> Vec<Vec<u32>> {
    let mut engine = Engine::new(model, config).unwrap();
    let free = engine.free_pages();
    let tokens = engine.generate(requests).unwrap().into_iter().map(|c: Completion| c.tokens).collect();
    assert_eq!(engine.free_pages(), free, "pages leaked");
    tokens
}

#[test]
fn greedy_tokens_are_those_of_transformers_in_any_company() {
    for name in FIXTURES {
        let model = model(name);
        let (requests, expected) = recorded(name, &model);
        for (request, expected) in requests.iter().zip(&expected) {
            assert_eq!(run(&model, EngineConfig::default(), vec![request.clone()])[0], *expected, "{name} alone");
        }
        let texts: Vec<Request> = (0..3).map(|n| text(&model, n)).collect();
        let alone: Vec<_> = texts.iter().map(|t| run(&model, EngineConfig::default(), vec![t.clone()]).remove(0)).collect();
        // Both prompts, texts between, and everything again: the second time the pages of the first are found.
        let mixed: Vec<Request> = requests.iter().zip(&texts).flat_map(|(r, t)| [t.clone(), r.clone(), r.clone()]).collect();
        let wanted: Vec<_> = expected.iter().zip(&alone).flat_map(|(e, t)| [t.clone(), e.clone(), e.clone()]).collect();
        for config in [
            EngineConfig::default(),
            EngineConfig { page_size: 4, ..EngineConfig::default() },
            // A chunk ends inside an image, and pages hold parts of images and text.
            EngineConfig { max_batch: 3, max_step_tokens: 5, page_size: 3, ..EngineConfig::default() },
            EngineConfig { max_batch: 1, max_step_tokens: 1, ..EngineConfig::default() },
            // Room for two sequences: the others are preempted, in the middle of an image too, and computed again.
            EngineConfig { max_batch: 6, max_step_tokens: 7, kv_pages: 17, page_size: 8, ..EngineConfig::default() },
        ] {
            assert_eq!(run(&model, config, mixed.clone()), wanted, "{name}, {config:?}");
        }
    }
}

#[test]
fn an_image_is_looked_at_once_and_only_its_own_pages_are_shared() {
    let model = model("llava15");
    let (requests, expected) = recorded("llava15", &model);
    let [first, second] = <[Request; 2]>::try_from(requests).unwrap();
    let swapped = Request { images: second.images.clone(), ..first.clone() };
    let mut engine = Engine::new(&model, EngineConfig { page_size: 4, ..EngineConfig::default() }).unwrap();
    let tokens =
        |engine: &mut Engine, requests: Vec<Request>| -> Vec<Vec<u32>> { engine.generate(requests).unwrap().into_iter().map(|c| c.tokens).collect() };
    // Eight answers about one image beside one about another: two looks.
    let mut many = vec![first.clone(); 8];
    many.insert(3, swapped.clone());
    let answers = tokens(&mut engine, many);
    assert_eq!(engine.images_computed(), 2);
    assert!(answers.iter().enumerate().all(|(i, a)| (*a == expected[0]) == (i != 3)), "{answers:?}");
    // The same words about another image, one after the other.
    assert_eq!(tokens(&mut engine, vec![first.clone()])[0], expected[0]);
    assert_eq!(tokens(&mut engine, vec![swapped.clone()])[0], answers[3]);
    assert_eq!(engine.images_computed(), 2, "both were seen lately");

    // While the first answer is being written its pages are taken: fewer new pages, and no look.
    let free = |engine: &Engine| engine.free_pages();
    let mut engine = Engine::new(&model, EngineConfig { page_size: 4, ..EngineConfig::default() }).unwrap();
    let mut taken = Vec::new();
    for request in [first.clone(), first, swapped] {
        let before = free(&engine);
        engine.submit(request).unwrap();
        engine.step().unwrap();
        taken.push(before - free(&engine));
    }
    assert!(taken[1] < taken[0] / 2, "the same image is shared: {taken:?}");
    assert!(taken[2] > taken[0] / 2, "another one is not: {taken:?}");
}

#[test]
fn images_and_placeholders_must_match() {
    let model = model("llava15");
    let (requests, _) = recorded("llava15", &model);
    let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
    let mut refused = |request: Request| engine.submit(request).unwrap_err();
    let none = refused(Request { images: vec![], ..requests[0].clone() }).to_string();
    assert!(none.contains("1 image tokens") && none.contains("0 images"), "{none}");
    let two = refused(Request { images: vec![requests[0].images[0].clone(); 2], ..requests[0].clone() }).to_string();
    assert!(two.contains("1 image tokens") && two.contains("2 images"), "{two}");
    let shape =
        refused(Request { images: vec![Image::from_pixel_values(from_vec(vec![0.0; 12], [1, 3, 2, 2], &Device::flex()))], ..requests[0].clone() });
    assert!(shape.to_string().contains("[3, 28, 28]"), "{shape}");
    // 9 tokens and 8 images of 16 do not fit 128 positions, though 17 tokens would.
    let image = requests[0].images[0].clone();
    let prompt = [vec![5; 9], vec![120; 8]].concat();
    assert_eq!(model.prompt_len(&prompt), 137);
    let long = refused(Request::new(prompt, Sampling { max_tokens: 1, ..Sampling::default() }).with_images(vec![image.clone(); 8]));
    assert!(matches!(long, Error::ContextLength { prompt: 137, .. }), "{long}");

    let blind = Model { vision: None, ..model };
    let error = Engine::new(&blind, EngineConfig::default()).unwrap().submit(Request { images: vec![image], ..requests[0].clone() }).unwrap_err();
    assert!(error.to_string().contains("text only"), "{error}");
    assert!(blind.image(b"").unwrap_err().to_string().contains("text only"));
}

/// A folder as published ones are, with a vocabulary of the words `w0` to `w119` and `<image>`.
fn folder(image_size: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "generation_config.json"] {
        std::fs::copy(fixtures().join("vision/llava15").join(file), dir.path().join(file)).unwrap();
    }
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    let vocab: serde_json::Map<String, Value> = (0..120).map(|i| (format!("w{i}"), json!(i))).collect();
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
            "added_tokens": [{"id": 120, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
        }),
    );
    write("preprocessor_config.json", json!({"image_processor_type": "CLIPImageProcessor", "size": 28, "crop_size": image_size}));
    dir
}

#[test]
fn folders_are_loaded_with_their_eyes() {
    let dir = folder(28);
    let model = Model::load(dir.path(), &DeviceSpec::default()).unwrap();
    let vision = model.vision.as_ref().unwrap();
    assert_eq!((vision.image_token_id(), vision.tokens_per_image(), model.eos_token_ids.as_slice()), (120, 16, [2].as_slice()));
    let answers: Vec<_> = ["image0.png", "image1.png"]
        .iter()
        .map(|name| {
            let image = model.image(&std::fs::read(fixtures().join("images").join(name)).unwrap()).unwrap();
            run(&model, EngineConfig::default(), vec![Request::new(vec![5, 120, 7], greedy(&model, 16)).with_images(vec![image])]).remove(0)
        })
        .collect();
    assert_ne!(answers[0], answers[1], "the image makes no difference");
    assert!(model.image(b"\x89PNG\r\n\x1a\nx").is_err());

    let error = Model::load(folder(30).path(), &DeviceSpec::default()).unwrap_err().to_string();
    assert!(error.contains("30 x 30") && error.contains("28 x 28"), "{error}");
    let config = dir.path().join("config.json");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("\"image_token_index\": 120", "\"image_token_index\": 119")).unwrap();
    let error = Model::load(dir.path(), &DeviceSpec::default()).unwrap_err().to_string();
    assert!(error.contains("<image> with id 120") && error.contains("119"), "{error}");
    std::fs::remove_file(dir.path().join("preprocessor_config.json")).unwrap();
    assert!(Model::load(dir.path(), &DeviceSpec::default()).unwrap_err().to_string().contains("preprocessor_config.json"));
}
