//! The program as a user meets it: recorded numbers, folders, images, mistakes. If one of these fails, `llm-vision` answers with nonsense or
//! not at all.

use llm_arch::{Decoder, DecoderConfig};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use llm_tensor::{Precision, params};
use llm_vision::{ImageProcessor, Vlm, VlmOptions, checkpoint};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn run(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-vision")).args(args.iter().map(|a| a.as_ref())).output().unwrap()
}

fn stdout(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(args: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let output = run(args);
    assert!(!output.status.success(), "succeeded: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// Every recorded folder, among them the cases of the parity set; one that differs is named and ends with a failure.
#[test]
fn parity_passes_what_agrees_and_only_that() {
    let names = ["clip_vision", "clip_vision_gelu_nonsquare_patchcount", "siglip_vision", "llava15", "llava15_two_images", "llava_siglip_full"];
    let pairs = ["clip_pair", "clip_pair_eos2", "siglip_pair"];
    let mut folders: Vec<PathBuf> = names.iter().chain(&pairs).map(|name| fixture("vision").join(name)).collect();
    folders.push(fixture("images"));
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"parity", &"--json"];
    args.extend(folders.iter().map(|f| f as &dyn AsRef<std::ffi::OsStr>));
    let rows: Vec<Value> = serde_json::from_str(&stdout(&args)).unwrap();
    assert_eq!(rows.len(), folders.len());
    for row in &rows {
        assert_eq!(row["passed"], true, "{row}");
        if row["kind"] == "llava" {
            assert_eq!(row["greedy"], json!([32, 32]), "{row}");
        }
    }
    assert_eq!(rows[9]["quantities"][0]["tensors"], 18);

    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture("vision/llava15")).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let config = copy.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, part) in [
        ("\"vision_feature_layer\": -2", "\"vision_feature_layer\": -1", "FAILED"),
        ("\"projector_hidden_act\": \"gelu\"", "\"projector_hidden_act\": \"silu\"", "FAILED"),
        ("\"model_type\": \"llava\"", "\"model_type\": \"bert\"", "`model_type` = \"bert\"; expected clip_vision_model"),
    ] {
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let output = run(&[&"parity", &copy.path()]);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && printed.contains(part), "{printed}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 1 folders"));
    }
}

#[test]
fn folders_are_described() {
    let text = stdout(&[&"inspect", &fixture("vision/clip_vision_gelu_nonsquare_patchcount")]);
    for part in ["30 x 30 pixels, patches of 8 x 8", "10 of an image", "6 pixels at the right and bottom are not seen", "57,504"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let value: Value = serde_json::from_str(&stdout(&[&"inspect", &"--json", &fixture("vision/llava15")])).unwrap();
    assert_eq!(value["parameters"], json!({"connector": 2112, "language model": 26784, "vision tower": 31040}));
    assert_eq!(value["model"]["in_the_prompt"], "16 tokens an image, placeholder 120");
    let message = stderr(&[&"inspect", &fixture("decoder/llama_tied")]);
    assert!(message.contains("`model_type` = \"llama\"") && message.contains("llava"), "{message}");
    assert!(stderr(&[&"inspect", &"nowhere"]).contains("nowhere: not a model folder"));
}

/// Parts become a folder, the folder another one in half precision; both are what the library would make.
#[test]
fn models_are_put_together_and_converted() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, half) = (dir.path().join("whole"), dir.path().join("half"));
    let (text, tower) = (fixture("decoder/llama_tied"), fixture("vision/siglip_pair"));
    stdout(&[&"assemble", &"--text", &text, &"--tower", &tower, &"--image-token", &"120", &"--connector", &"linear", &"--out", &whole]);
    let vlm = Vlm::load(&whole, &Device::flex(), Precision::F32).unwrap();
    let alone = checkpoint::load_tower(&tower, &Device::flex(), Precision::F32).unwrap();
    assert_eq!(params::to_host(&vlm.vision_tower), params::to_host(&alone));
    assert_eq!(vlm.config().tokens_per_image(), 4);
    assert!(vlm.multi_modal_projector.linear_2.is_none());
    let message = stderr(&[&"assemble", &"--text", &text, &"--tower", &tower, &"--image-token", &"120", &"--out", &whole]);
    assert!(message.contains("exists already"), "{message}");
    stdout(&[&"convert", &whole, &"--out", &half, &"--precision", &"bfloat16"]);
    let again = Vlm::load(&half, &Device::flex(), Precision::Bf16).unwrap();
    assert_eq!(again.config(), vlm.config());
    let bytes = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(bytes(&half) < bytes(&whole) * 6 / 10);
    assert_eq!(ImageProcessor::load(&half).unwrap(), ImageProcessor::load(&whole).unwrap());
}

/// A model with a tokenizer whose last token is the placeholder.
fn model(dir: &Path, template: Option<&str>) {
    const IMAGE: u32 = 480;
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(fixture("chat_templates/tokenizer/tokenizer.json")).unwrap()).unwrap();
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (IMAGE.into(), "<image>".into());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::copy(fixture("chat_templates/tokenizer/tokenizer_config.json"), dir.join("tokenizer_config.json")).unwrap();
    if let Some(template) = template {
        std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    }
    let config = DecoderConfig {
        vocab_size: 496,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 96,
        ..DecoderConfig::default()
    };
    let decoder = Decoder::new(&config, Seed(1), &Device::flex()).unwrap();
    let tower = checkpoint::load_tower(fixture("vision/clip_vision"), &Device::flex(), Precision::F32).unwrap();
    let processor = ImageProcessor::for_tower(tower.config());
    let options = VlmOptions { image_token_id: IMAGE, ..VlmOptions::default() };
    Vlm::from_parts(decoder, tower, &options, Seed(2)).unwrap().save(dir, &processor, SaveOptions::default()).unwrap();
}

#[test]
fn images_are_described_with_and_without_template() {
    let (one, two) = (fixture("images/image0.png"), fixture("images/files/orientation6.jpg"));
    let count = |value: &Value| value["prompt_ids"].as_array().unwrap().iter().filter(|id| **id == 480).count();
    let parts = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    let texts = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}";
    for (template, first) in [(None, 1), (Some(parts), 9), (Some(texts), 1)] {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path(), template);
        let path = dir.path();
        let describe = |more: &[&str], images: &[&PathBuf]| {
            let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"describe", &"--model", &path, &"--json", &"--max-new-tokens", &"8"];
            args.extend(more.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>));
            args.extend(images.iter().map(|i| *i as &dyn AsRef<std::ffi::OsStr>));
            serde_json::from_str::<Value>(&stdout(&args)).unwrap()
        };
        let answer = describe(&[], &[&one]);
        assert_eq!(count(&answer), 16, "{answer}");
        assert_eq!(answer["prompt_ids"][0], first, "{answer}");
        assert!(answer["ids"].as_array().unwrap().iter().all(|id| *id != 480));
        let again = describe(&[], &[&one]);
        assert_eq!((&again["ids"], &again["text"], &again["finish_reason"]), (&answer["ids"], &answer["text"], &answer["finish_reason"]));
        // Two images, twice the tokens; placed in the prompt.
        assert_eq!(count(&describe(&["--prompt", "hi"], &[&one, &two])), 32);
        assert_eq!(count(&describe(&["--raw", "--prompt", "a <image> b"], &[&two])), 16);
        // Seeds decide what is sampled.
        let hot = ["--temperature", "2", "--seed"];
        let sampled = |seed: &str| describe(&[&hot[..], &[seed]].concat(), &[&one])["ids"].clone();
        assert_eq!(sampled("3"), sampled("3"));
        assert!((4..9).any(|seed| sampled(&seed.to_string()) != sampled("3")));
    }
    let dir = tempfile::tempdir().unwrap();
    model(dir.path(), Some("{% for m in messages %}{{ m.role }}{% endfor %}"));
    let message = stderr(&[&"describe", &"--model", &dir.path(), &one]);
    assert!(message.contains("does not take images") && message.contains("--raw"), "{message}");
    let message = stderr(&[&"describe", &"--model", &dir.path(), &"--raw", &one, &two, &"--prompt", &"<image>"]);
    assert!(message.contains("1 times for 2 images"), "{message}");
    let message = stderr(&[&"describe", &"--model", &dir.path(), &"--raw", &one, &"--max-new-tokens", &"90"]);
    assert!(message.contains("do not fit the model's 96 positions"), "{message}");
    let message = stderr(&[&"describe", &"--model", &dir.path(), &fixture("images/expected.safetensors")]);
    assert!(message.contains("expected.safetensors: not a PNG, JPEG or WebP file"), "{message}");
}
