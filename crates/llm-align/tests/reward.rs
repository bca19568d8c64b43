//! Reward models end to end on a tiny model: a rule is learned, judged, saved, read back and used to score.

mod rule;

use llm_align::reward::{RewardModel, Texts};
use llm_align::{ScoreConfig, reward, score};
use llm_arch::{Decoder, DecoderConfig, Family, hf};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use rule::World;
use serde_json::Value;
use std::path::Path;

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn score_config(world: &World, model: &Path, data: &str) -> ScoreConfig {
    ScoreConfig {
        model: model.to_path_buf(),
        data: world.path(data),
        kind: None,
        on_bad_row: Default::default(),
        micro_batch_tokens: 512,
        device: DeviceSpec::Cpu,
    }
}

/// If this fails, a reward model does not learn a rule that a word decides, or its folder is another model than the one that was trained.
#[test]
fn a_rule_is_learned_and_the_folder_holds_it() {
    let world = World::new();
    let out = world.path("rm");
    let mut config = world.reward_config();
    config.center_rewards_coefficient = 0.01;
    config.trainer.eval_every = 50;
    let outcome = reward(config, &out).unwrap();
    let records = Metrics::read(out.join("metrics.jsonl")).unwrap();
    let validations: Vec<_> = records.iter().filter(|r| r.contains_key("val_accuracy")).collect();
    let last = |key: &str| validations.last().unwrap()[key].as_f64().unwrap();
    assert_eq!(validations.len(), 2, "before the first step and after the last");
    assert!(last("val_accuracy") >= 0.9, "{validations:?}");
    assert!(last("val_loss") < 0.5 && last("val_brier") < 0.15, "{validations:?}");
    assert!(records.iter().any(|r| r.get("accuracy").is_some_and(|a| a.as_f64() > Some(0.9))), "the step's own accuracy is not logged");
    let calibration = json(&out.join("calibration.json"));
    assert_eq!(calibration["pairs"], 64);
    assert_eq!(calibration["accuracy"].as_f64(), Some(last("val_accuracy")));
    assert_eq!(calibration["bins"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap()).sum::<u64>(), 64);

    let folder = out.join("model");
    let config = json(&folder.join("config.json"));
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    assert_eq!((config["num_labels"].as_u64(), config["id2label"].as_object().unwrap().len()), (Some(1), 1));
    let device = Device::flex();
    let read = RewardModel::load(&folder, &device).unwrap();
    let texts: [&[u32]; 2] = [&[3, 4, 5], &[7, 8]];
    let of = |model: &RewardModel| host::to_vec(model.untracked().rewards(&Texts::pack(texts)));
    let bits = |rewards: Vec<f32>| rewards.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    assert_eq!(bits(of(&read)), bits(of(&outcome.model)));
    let again = world.path("again");
    read.save(&again, SaveOptions::default()).unwrap();
    for file in ["model.safetensors", "config.json"] {
        assert_eq!(std::fs::read(again.join(file)).unwrap(), std::fs::read(folder.join(file)).unwrap(), "{file}");
    }

    let scores = world.path("scores.jsonl");
    let summary = score(&score_config(&world, &folder, "heldout.jsonl"), &scores).unwrap();
    assert_eq!(summary["accuracy"].as_f64(), Some(last("val_accuracy")));
    let lines = Metrics::read(&scores).unwrap();
    assert_eq!(lines.len(), 64);
    let number = |line: &serde_json::Map<String, Value>, key: &str| line[key].as_f64().unwrap();
    assert!(lines.iter().all(|l| (number(l, "chosen") - number(l, "rejected") - number(l, "margin")).abs() < 1e-5));
    let summary = score(&score_config(&world, &folder, "sft.jsonl"), &scores).unwrap();
    assert_eq!((summary["rows"].as_u64(), Metrics::read(&scores).unwrap().len()), (Some(256), 256));
}

/// If this fails, training a reward model is no function of its configuration, or a killed run becomes another one.
#[test]
fn a_killed_run_continues_to_the_bit() {
    let world = World::new();
    let mut config = world.reward_config();
    config.heldout = Default::default();
    config.trainer.max_steps = 5;
    config.trainer.checkpoint_every = 2;
    let out = world.path("rm");
    let weights = || std::fs::read(out.join("model/model.safetensors")).unwrap();
    reward(config.clone(), &out).unwrap();
    let whole = weights();
    std::fs::remove_dir_all(out.join("checkpoints/step-00000004")).unwrap();
    std::fs::remove_dir_all(out.join("model")).unwrap();
    reward(config.clone(), &out).unwrap();
    assert!(weights() == whole);
    // A small budget cuts the same step into more passes.
    let other = world.path("small");
    config.micro_batch_tokens = 100;
    reward(config, &other).unwrap();
    let losses = |out: &Path| Metrics::read(out.join("metrics.jsonl")).unwrap().iter().filter_map(|r| r["loss"].as_f64()).collect::<Vec<f64>>();
    for (a, b) in losses(&out).iter().zip(losses(&other)) {
        assert!((a - b).abs() < 1e-3, "{a} with one micro-batch, {b} with small ones");
    }
}

/// If this fails, transformers does not find the class or the tensors of a family's reward model.
#[test]
fn every_family_has_its_own_names() {
    for (family, class, inner) in [
        (Family::Llama, "LlamaForSequenceClassification", "model.embed_tokens.weight"),
        (Family::Qwen2, "Qwen2ForSequenceClassification", "model.embed_tokens.weight"),
        (Family::Gpt2, "GPT2ForSequenceClassification", "transformer.wte.weight"),
    ] {
        let mut config = DecoderConfig {
            family,
            vocab_size: 64,
            hidden_size: 16,
            intermediate_size: 64,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            max_position_embeddings: 32,
            tie_word_embeddings: false,
            ..DecoderConfig::default()
        };
        if family == Family::Gpt2 {
            let file = serde_json::json!({"model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32});
            config = hf::config_from_json(&file).unwrap();
        } else if family == Family::Qwen2 {
            config.qkv_bias = true;
        }
        let model = RewardModel::from_decoder(Decoder::new(&config, Seed(2), &Device::flex()).unwrap(), Seed(3));
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), SaveOptions::default()).unwrap();
        assert_eq!(json(&dir.path().join("config.json"))["architectures"][0], class);
        let weights = llm_tensor::weights::Weights::open(dir.path()).unwrap();
        assert!(weights.contains(inner) && weights.contains("score.weight") && !weights.contains("lm_head.weight"), "{:?}", weights.names());
        let read = RewardModel::load(dir.path(), &Device::flex()).unwrap();
        let texts = Texts::pack([&[1u32, 2, 3][..]]);
        assert_eq!(host::to_vec(read.rewards(&texts)), host::to_vec(model.rewards(&texts)), "{class}");
    }
}

/// If this fails, a text that ends with the padding token is padded away by others, and they read the reward one token too early.
#[test]
fn the_end_token_is_never_the_padding() {
    let world = World::new();
    let tokenizer = Tokenizer::load(world.path("model")).unwrap();
    let model = |pad: Option<u32>| {
        let mut config = hf::load_config(world.path("model")).unwrap();
        config.pad_token_id = pad;
        RewardModel::from_decoder(Decoder::new(&config, Seed(1), &Device::flex()).unwrap(), Seed(1)).with_pad_token(&tokenizer)
    };
    let ends = hf::load_config(world.path("model")).unwrap().eos_token_id;
    assert!(!ends.is_empty());
    let chosen = model(Some(ends[0])).pad_token_id;
    assert!(chosen.is_none_or(|id| !ends.contains(&id)), "{chosen:?} ends texts");
    assert_eq!(model(Some(5)).pad_token_id, Some(5));
}

/// If this fails, a folder that cannot be used gives a wrong number, or an error that helps nobody.
#[test]
fn bad_input_is_named() {
    let world = World::new();
    let device = Device::flex();
    let message = RewardModel::load(world.path("model"), &device).unwrap_err().to_string();
    assert!(message.contains("score.weight") || message.contains("unexpected"), "{message}");
    let mut config = world.reward_config();
    config.train = world.path("nowhere.jsonl");
    let message = reward(config, &world.path("out")).unwrap_err().to_string();
    assert!(message.contains("nowhere.jsonl"), "{message}");

    let model = RewardModel::from_decoder(hf::load(world.path("model"), &device).unwrap(), Seed(1));
    model.save(world.path("rm"), SaveOptions::default()).unwrap();
    let message = score(&score_config(&world, &world.path("rm"), "prompts.jsonl"), &world.path("s.jsonl")).unwrap_err().to_string();
    assert!(message.contains("tokenizer") || message.contains("prompts"), "{message}");
    std::fs::write(world.path("broken.jsonl"), "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\n").unwrap();
    let mut config = world.reward_config();
    config.train = world.path("broken.jsonl");
    let message = reward(config, &world.path("out")).unwrap_err().to_string();
    assert!(message.contains("broken.jsonl") && message.contains("row 1"), "{message}");
}
