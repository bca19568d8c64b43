//! The real `llm-align` on input that cannot work: it says which file, row and key, what was expected and what to do, ends with status 1,
//! and leaves no model, no manifest and no temporary file. What `on_bad_row = "skip"` leaves out is counted and listed.

use llm_arch::{Decoder, DecoderConfig, hf};
use llm_data::exercises::{self, ExercisesConfig};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A tiny model with a tokenizer, made once; every test writes its own rows.
struct Workshop {
    dir: tempfile::TempDir,
}

fn workshop() -> &'static Workshop {
    static ONCE: OnceLock<Workshop> = OnceLock::new();
    ONCE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let rows = exercises::generate(&ExercisesConfig { count_train: 60, count_heldout: 3, ..ExercisesConfig::default() }).unwrap().train;
        let texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
        let settings = llm_tokenizer::trainer::TrainerConfig { vocab_size: 320, ..Default::default() };
        let tokenizer = llm_tokenizer::trainer::train(&texts, &settings).unwrap();
        for (name, hidden_size) in [("model", 16), ("wider", 32)] {
            let mut config = DecoderConfig {
                hidden_size,
                intermediate_size: 32,
                num_hidden_layers: 1,
                num_attention_heads: 2,
                num_key_value_heads: 1,
                max_position_embeddings: 128,
                ..DecoderConfig::default()
            };
            llm_train::pretrain::fit_to_tokenizer(&mut config, &tokenizer);
            let decoder = Decoder::new(&config, Seed(1), &Device::flex()).unwrap();
            hf::save(dir.path().join(name), &decoder).unwrap();
            tokenizer.save(dir.path().join(name)).unwrap();
        }
        Workshop { dir }
    })
}

impl Workshop {
    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    /// A copy of the model with another chat template.
    fn with_template(&self, folder: &Path, template: &str) -> PathBuf {
        let copy = folder.join("other-template");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(self.model()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
        fs::write(copy.join("chat_template.jinja"), template).unwrap();
        copy
    }
}

/// One call in a folder of its own.
struct Call {
    folder: tempfile::TempDir,
    command: &'static str,
    sets: Vec<String>,
}

impl Call {
    fn new(command: &'static str) -> Self {
        let sets = vec!["device=cpu".to_string(), "seed=1".into()];
        let call = Self { folder: tempfile::tempdir().unwrap(), command, sets };
        call.set("model", workshop().model().display())
    }

    /// A command that trains, for one step.
    fn training(command: &'static str) -> Self {
        Self::new(command).set("trainer.max_steps", 1).set("trainer.eval_every", 0)
    }

    fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.sets.retain(|s| !s.starts_with(&format!("{key}=")));
        self.sets.push(format!("{key}={value}"));
        self
    }

    /// Rows as a JSONL file under a key.
    fn rows(self, key: &str, rows: &[Value]) -> Self {
        self.text(key, &rows.iter().map(|row| format!("{row}\n")).collect::<String>())
    }

    fn text(self, key: &str, text: &str) -> Self {
        let path = self.folder.path().join(format!("{key}.jsonl"));
        fs::write(&path, text).unwrap();
        self.set(key, path.display())
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn run(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-align"));
        command.arg(self.command).arg("--out").arg(self.out()).env("RAYON_NUM_THREADS", "1");
        for set in &self.sets {
            command.arg("--set").arg(set);
        }
        command.output().unwrap()
    }

    /// It must be refused, with all of these in what it says, and nothing half done.
    fn refused(&self, said: &[&str]) {
        let output = self.run();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{} {:?}: {stderr}", self.command, self.sets);
        assert!(stderr.lines().any(|line| line.starts_with("error: ")), "no error line: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        for word in said {
            assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
        }
        for name in ["model", "manifest.json", "judge.json", "pairs.jsonl", "train.jsonl"] {
            assert!(!self.out().join(name).exists(), "{} was refused and left {name}: {stderr}", self.command);
        }
        let left = fs::read_dir(self.out()).into_iter().flatten().flatten();
        let temporary: Vec<_> = left.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with(".tmp-")).collect();
        assert!(temporary.is_empty(), "{temporary:?} left behind");
    }

    /// It must work; what it said.
    fn works(&self) -> String {
        let output = self.run();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} {:?}: {stderr}", self.command, self.sets);
        stderr
    }
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn conversation(answer: &str) -> Value {
    json!({"messages": [said("user", "What is 1 + 1?"), said("assistant", answer)]})
}

fn pair(chosen: &str, rejected: &str) -> Value {
    json!({"prompt": [said("user", "What is 1 + 1?")], "chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)]})
}

#[test]
fn what_is_not_there_is_named() {
    Call::training("sft").set("train", "nowhere.jsonl").refused(&["nowhere.jsonl"]);
    Call::training("sft").refused(&["`train` is missing", "--set train="]);
    Call::training("sft").set("model", "no/model").rows("train", &[conversation("2")]).refused(&["no/model"]);
    Call::training("dpo").set("train", "nowhere.jsonl").refused(&["nowhere.jsonl"]);
    Call::training("grpo").set("train", "nowhere.jsonl").refused(&["nowhere.jsonl"]);
    Call::training("ppo").rows("train", &[json!({"prompt": "1 + 1"})]).refused(&["reward_model"]);
    Call::new("judge").set("prompts", "nowhere.jsonl").refused(&["nowhere.jsonl"]);
}

#[test]
fn a_typo_in_a_key_gets_a_suggestion() {
    for (command, wrong, meant) in [
        ("sft", "batchsize", "batch_size"),
        ("dpo", "bta", "beta"),
        ("reward", "centre_rewards_coefficient", "center_rewards_coefficient"),
        ("grpo", "groupsize", "group_size"),
        ("ppo", "kl_coeff", "kl_coef"),
        ("judge", "sample", "samples"),
    ] {
        Call::new(command).set(wrong, 1).refused(&[wrong, &format!("did you mean `{meant}`")]);
    }
    Call::training("grpo").set("algorithm", "gsop").refused(&["gsop", "gspo"]);
    Call::training("sft").set("trainer.max_step", 1).refused(&["max_step", "did you mean `max_steps`"]);
}

#[test]
fn bad_conversations_are_named_by_their_row() {
    let good = || conversation("2");
    for (row, reason) in [
        (json!({"messages": []}), "no messages"),
        (json!({"messages": [said("user", "hm"), said("robot", "beep")]}), "robot"),
        (json!({"messages": [said("user", "hm")]}), "assistant"),
        (json!({"messages": [said("user", "hm"), said("assistant", "")]}), "empty"),
        (json!({"messages": "hm"}), "list of messages"),
        (json!({"text": "hm"}), "unknown format"),
        (conversation(&"2 ".repeat(400)), "tokens do not fit the context of 128"),
    ] {
        let call = Call::training("sft").rows("train", &[good(), good(), row]);
        call.refused(&["train.jsonl", "row 3", reason, "on_bad_row"]);
    }
    let broken = format!("{}\n{{\"messages\": [\n", good());
    Call::training("sft").text("train", &broken).refused(&["train.jsonl", "row 2"]);
    Call::training("sft").text("train", "").refused(&["train.jsonl", "no rows"]);
}

#[test]
fn skipped_rows_are_counted_and_listed() {
    let rows = [conversation("2"), json!({"messages": []}), conversation("3"), json!({"messages": [said("user", "hm"), said("robot", "beep")]})];
    let call = Call::training("sft").rows("train", &rows).set("on_bad_row", "skip").set("batch_size", 2);
    let stderr = call.works();
    assert!(stderr.contains("2 rows skipped") && stderr.contains("row 2"), "{stderr}");
    let list = fs::read_to_string(call.out().join("skipped.jsonl")).unwrap();
    let rows: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.iter().map(|r| r["row"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4]);
    assert!(rows[1]["reason"].as_str().unwrap().contains("robot"), "{list}");
    // Nothing left is no training.
    let call = Call::training("sft").rows("train", &[json!({"messages": []})]).set("on_bad_row", "skip");
    call.refused(&["none of its 1 rows", "row 1"]);
}

#[test]
fn a_template_that_drops_the_answer_is_no_template_to_train_with() {
    let folder = tempfile::tempdir().unwrap();
    let questions = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    let model = workshop().with_template(folder.path(), questions);
    let call = |command| Call::training(command).set("model", model.display());
    call("sft").rows("train", &[conversation("2")]).refused(&["row 1", "template"]);
    call("dpo").rows("train", &[pair("2", "3")]).refused(&["row 1", "template"]);
    call("reward").rows("train", &[pair("2", "3")]).refused(&["row 1", "template"]);
}

#[test]
fn bad_pairs_are_named_by_their_row() {
    for command in ["dpo", "reward"] {
        for (row, reason) in [
            (pair("2", "2"), "equal"),
            (pair("2", ""), "empty"),
            (json!({"prompt": [said("user", "hm")], "chosen": [said("assistant", "2")]}), "rejected"),
            (json!({"chosen": "2", "rejected": "3"}), "prompt"),
        ] {
            Call::training(command).rows("train", &[pair("2", "3"), row]).refused(&["train.jsonl", "row 2", reason]);
        }
        let call = Call::training(command).rows("train", &[pair("2", "3"), pair("2", "2")]).set("on_bad_row", "skip").set("batch_size", 1);
        assert!(call.works().contains("1 rows skipped"));
    }
    Call::training("kto").rows("train", &[json!({"prompt": "hm", "completion": "2", "label": "maybe"})]).refused(&["row 1", "label"]);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let prompts = || [json!({"prompt": "What is 1 + 1?", "answer": "2"})];
    let rewards = r#"[{ kind = "rule", contains = "2" }]"#;
    Call::training("grpo").rows("train", &prompts()).set("group_size", 1).refused(&["group_size"]);
    Call::training("grpo").rows("train", &prompts()).set("max_tokens", 500).refused(&["max_tokens", "context of 128"]);
    Call::training("grpo").rows("train", &prompts()).set("temperature", -1).refused(&["temperature"]);
    Call::training("dpo").rows("train", &[pair("2", "3")]).set("loss", "sigmoyd").refused(&["sigmoyd", "sigmoid"]);
    Call::training("ppo").rows("train", &prompts()).set("rewards", rewards).set("num_mini_batches", 7).refused(&["num_mini_batches"]);
    Call::training("grpo").rows("train", &prompts()).set("rewards", r#"[{ kind = "rull" }]"#).refused(&["rull", "rule"]);
    Call::new("judge").rows("prompts", &prompts()).set("samples", 0).refused(&["samples"]);
    Call::new("judge").rows("prompts", &prompts()).set("sampling.max_tokens", 500).refused(&["row 1", "max_tokens", "context of 128"]);
}

#[test]
fn a_model_of_another_kind_is_told_apart() {
    // A language model is no reward model.
    let model = workshop().model();
    let call = Call::training("ppo").rows("train", &[json!({"prompt": "1 + 1"})]).set("reward_model", model.display());
    call.refused(&["score"]);
    // A reward model is no language model.
    let trained = Call::training("reward").rows("train", &[pair("2", "3")]).set("batch_size", 1);
    trained.works();
    let reward = trained.out().join("model");
    Call::training("sft").rows("train", &[conversation("2")]).set("model", reward.display()).refused(&[&reward.display().to_string()]);
    Call::new("judge").rows("prompts", &[json!({"prompt": "1 + 1"})]).set("model", reward.display()).refused(&[&reward.display().to_string()]);
}

#[test]
fn an_adapter_of_another_model_does_not_fit() {
    let call = Call::training("sft").rows("train", &[conversation("2")]).set("batch_size", 1);
    let call = call.set("adapter", r#"{ r = 2, lora_alpha = 4, target_modules = "all-linear" }"#);
    call.works();
    let adapter = call.out().join("model");
    let path = adapter.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!(workshop().dir.path().join("wider").display().to_string());
    fs::write(&path, config.to_string()).unwrap();
    let prompts = [json!({"prompt": "1 + 1", "answer": "2"})];
    Call::new("judge").rows("prompts", &prompts).set("model", adapter.display()).refused(&[&adapter.display().to_string()]);
    config["base_model_name_or_path"] = json!("no/such/base");
    fs::write(&path, config.to_string()).unwrap();
    Call::new("judge").rows("prompts", &prompts).set("model", adapter.display()).refused(&["no/such/base"]);
}

/// A judge of the user's that answers with something that is no reward must not teach anything.
#[cfg(unix)]
#[test]
fn a_reward_that_is_no_number_is_never_trained_on() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("judge.sh");
    fs::write(&program, "#!/bin/sh\nwhile read -r line; do echo NaN; done\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let rewards = format!("[{{ kind = \"command\", command = [\"{}\"] }}]", program.display());
    let call = Call::training("grpo").rows("train", &[json!({"prompt": "What is 1 + 1?", "answer": "2"})]);
    let call = call.set("rewards", rewards).set("prompts_per_step", 1).set("group_size", 2).set("max_tokens", 4);
    call.refused(&["NaN"]);
}

/// Without this the tests above could all pass because the tiny model cannot be used at all.
#[test]
fn good_input_works() {
    let tokenizer = Tokenizer::load(workshop().model()).unwrap();
    assert!(tokenizer.chat_ids(&[llm_tokenizer::Message::new("user", "hm")], true).is_ok());
    Call::training("sft").rows("train", &[conversation("2")]).set("batch_size", 1).works();
    Call::training("dpo").rows("train", &[pair("2", "3")]).set("batch_size", 1).works();
    let call = Call::new("judge").rows("prompts", &[json!({"prompt": "What is 1 + 1?", "answer": "2"})]);
    call.set("sampling.max_tokens", 4).set("reference", workshop().model().display()).works();
}
