//! The trainer against PyTorch: loss of every step, gradient norm and final weights of a run written by our generators
//! (transformers + torch.optim.AdamW). If this fails, a recipe that works elsewhere does something else here.

use llm_arch::{Decoder, PackedBatch, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::Weights;
use llm_tensor::{Precision, ops, params};
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::mixture::Mixture;
use llm_train::trainer::{Loss, Objective, Trainer, TrainerConfig};
use llm_train::{OptimizerConfig, Result, Schedule, ScheduleKind};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

fn identity(of: &str) -> Identity {
    Identity::new(serde_json::json!({ "train": of }))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Batches as the fixture lists them: `[step][micro][row][token]`.
#[derive(Default)]
struct Recorded {
    mixture: Mutex<Mixture>,
    batches: Vec<Vec<Vec<Vec<u32>>>>,
    labels: Vec<Vec<Vec<Vec<i64>>>>,
}

struct Micro {
    batch: PackedBatch,
    targets: ops::Indices,
    total: usize,
}

impl Objective for Recorded {
    type Model = Decoder;
    type Batch = Micro;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<Micro>> {
        let step = step as usize;
        let mut micro = Vec::new();
        for (rows, labels) in self.batches[step].iter().zip(&self.labels[step]) {
            let length = rows[0].len();
            let starts = vec![&[0u32][..]; rows.len()];
            // The label of position t is the token at t; the model at t - 1 predicts it.
            let targets: Vec<u32> =
                labels.iter().flat_map(|l| l[1..].iter().map(|&x| if x < 0 { ops::IGNORE } else { x as u32 }).chain([ops::IGNORE])).collect();
            micro.push(Micro { batch: PackedBatch::documents(rows.concat(), &starts, length), targets: targets.into(), total: 0 });
        }
        let total = micro.iter().flat_map(|m| m.targets.iter()).filter(|&&t| t != ops::IGNORE).count();
        micro.iter_mut().for_each(|m| m.total = total);
        Ok(micro)
    }

    fn loss(&self, model: &Decoder, micro: &Micro) -> Result<Loss> {
        let mut seen = Mixture::default();
        let (hidden, balance) = seen.hidden(model, &micro.batch, Seed(0), 1.0);
        self.mixture.lock().unwrap().merge(seen);
        let value = model.nll(hidden, micro.targets.clone()).sum() / micro.total as f32;
        let value = balance.map_or(value.clone(), |balance| value + balance);
        Ok(Loss { value, tokens: micro.targets.len() as u64, deferred: None })
    }

    fn after_step(&mut self, model: &mut Decoder) {
        std::mem::take(self.mixture.get_mut().unwrap()).after_step(model, |_| true);
    }
}

fn recorded(run: &Value) -> Recorded {
    let batches: Vec<Vec<Vec<Vec<u32>>>> = serde_json::from_value(run["batches"].clone()).unwrap();
    let labels = match run.get("labels") {
        Some(Value::Array(_)) => serde_json::from_value(run["labels"].clone()).unwrap(),
        _ => batches.iter().map(|s| s.iter().map(|m| m.iter().map(|r| r.iter().map(|&t| i64::from(t)).collect()).collect()).collect()).collect(),
    };
    Recorded { batches, labels, ..Recorded::default() }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(fixtures().join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap()
}

fn read(name: &str) -> (PathBuf, Value) {
    let dir = fixtures().join(name);
    let run = serde_json::from_str(&std::fs::read_to_string(dir.join("run.json")).unwrap()).unwrap();
    (dir, run)
}

fn config(run: &Value) -> TrainerConfig {
    let hyper = |key: &str| run["hyper"][key].as_f64();
    TrainerConfig {
        max_steps: hyper("steps").unwrap() as u64,
        optimizer: OptimizerConfig {
            lr: hyper("lr").unwrap(),
            betas: (0.9, 0.95),
            eps: hyper("eps").unwrap(),
            weight_decay: hyper("weight_decay").unwrap(),
            grad_clip: hyper("clip").unwrap(),
            ..OptimizerConfig::default()
        },
        schedule: Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: hyper("warmup").unwrap() as u64,
            min_lr_ratio: hyper("min_lr_rate").unwrap_or(0.0),
            ..Schedule::default()
        },
        eval_every: 0,
        checkpoint_every: 3,
        keep_checkpoints: 1,
        ..TrainerConfig::default()
    }
}

#[test]
fn losses_gradient_norms_and_final_weights_equal_pytorch() {
    for name in ["train_llama", "train_llama_accum_masked_tied", "train_mixtral_aux"] {
        let (dir, run) = read(name);
        let out = tempfile::tempdir().unwrap();
        let trainer = Trainer { config: config(&run), out: out.path().into(), name: name.into(), identity: identity("x") };
        trainer.run(&mut recorded(&run), || Ok(hf::load(dir.join("init"), &Device::flex())?), &tokenizer()).unwrap();
        let log = llm_run::Metrics::read(out.path().join("metrics.jsonl")).unwrap();
        let expected = &run["expected"]["float32"];
        for (i, record) in log.iter().enumerate() {
            for (key, ours, tolerance) in [("loss", "loss", 1e-4), ("grad_norm", "grad_norm", 1e-3), ("lr", "lr", 1e-9)] {
                let want = expected[key][i].as_f64().unwrap();
                let got = record[ours].as_f64().unwrap();
                assert!((got - want).abs() <= tolerance * want.abs().max(1e-6), "{name} step {i} {key}: {got} instead of {want}");
            }
        }
        assert_eq!(log.len() as u64, trainer.config.max_steps);
        let (got, want) = (Weights::open(out.path().join("model")).unwrap(), Weights::open(dir.join("final")).unwrap());
        for name in want.names() {
            let (g, w) = (got.get(name).unwrap(), want.get(name).unwrap());
            let worst = g.values.iter().zip(&w.values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-4, "{name}: weights differ by {worst}");
        }
    }
}

/// Fails once at a given step, as a killed process would.
struct Dies {
    inner: Recorded,
    at: Option<u64>,
}

impl Objective for Dies {
    type Model = Decoder;
    type Batch = Micro;
    fn batches(&mut self, step: u64, model: &Decoder) -> Result<Vec<Micro>> {
        if self.at == Some(step) {
            return Err(llm_train::Error::Objective("killed".into()));
        }
        self.inner.batches(step, model)
    }
    fn loss(&self, model: &Decoder, micro: &Micro) -> Result<Loss> {
        self.inner.loss(model, micro)
    }
    fn after_step(&mut self, model: &mut Decoder) {
        self.inner.after_step(model);
    }
}

/// A run that is killed at each of these steps and started again must leave the same model and the same losses.
fn resumes(config: &TrainerConfig, objective: &dyn Fn() -> Recorded, start: &dyn Fn() -> Result<Decoder>, deaths: &[u64]) {
    let hash = |out: &Path| llm_run::hash::path(out.join("model/model.safetensors")).unwrap();
    let losses =
        |out: &Path| -> Vec<f64> { llm_run::Metrics::read(out.join("metrics.jsonl")).unwrap().iter().map(|r| r["loss"].as_f64().unwrap()).collect() };
    let trainer = |out: &Path| Trainer { config: config.clone(), out: out.into(), name: "resume".into(), identity: identity("x") };
    let whole = tempfile::tempdir().unwrap();
    trainer(whole.path()).run(&mut objective(), start, &tokenizer()).unwrap();
    for &at in deaths {
        let out = tempfile::tempdir().unwrap();
        trainer(out.path()).run(&mut Dies { inner: objective(), at: Some(at) }, start, &tokenizer()).unwrap_err();
        trainer(out.path()).run(&mut Dies { inner: objective(), at: None }, start, &tokenizer()).unwrap();
        assert_eq!(hash(out.path()), hash(whole.path()), "died at step {at}");
        assert_eq!(losses(out.path()), losses(whole.path()));
    }
}

#[test]
fn a_run_that_died_and_was_started_again_is_the_same_run_to_the_bit() {
    let (dir, run) = read("train_llama");
    resumes(&config(&run), &|| recorded(&run), &|| Ok(hf::load(dir.join("init"), &Device::flex())?), &[0, 2, 3, 11, 19]);
}

/// bfloat16 with master copies: every loss within 1 % of the f32 run's, and the same after a restart.
#[test]
fn bfloat16_training_stays_close_to_float32_and_resumes_to_the_bit() {
    let (dir, run) = read("train_llama");
    let start = || Ok(hf::load_as(dir.join("init"), &Device::flex(), Precision::Bf16)?);
    let out = tempfile::tempdir().unwrap();
    let trainer = Trainer { config: config(&run), out: out.path().into(), name: "bfloat16".into(), identity: identity("x") };
    let outcome = trainer.run(&mut recorded(&run), start, &tokenizer()).unwrap();
    assert_eq!(outcome.model.precision(), Precision::Bf16);
    let log = llm_run::Metrics::read(out.path().join("metrics.jsonl")).unwrap();
    for (i, record) in log.iter().enumerate() {
        for (key, tolerance) in [("loss", 1e-2), ("grad_norm", 5e-2)] {
            let want = run["expected"]["float32"][key][i].as_f64().unwrap();
            let got = record[key].as_f64().unwrap();
            assert!((got - want).abs() <= tolerance * want, "step {i} {key}: {got} instead of {want}");
        }
    }
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(out.path().join("model/config.json")).unwrap()).unwrap();
    assert_eq!(saved["dtype"], "bfloat16");
    resumes(&config(&run), &|| recorded(&run), &start, &[4]);
}

/// Router biases have no moments, move after every step, and their rate is in no `config.json`.
#[test]
fn a_mixture_with_correction_biases_resumes_to_the_bit() {
    let dir = fixtures().join("decoder/deepseek_v3");
    let mut model = hf::load_config(&dir).unwrap();
    model.moe.as_mut().unwrap().bias_update_rate = 1e-3;
    let mut rng = Seed(4).rng();
    let mut row = || (0..12).map(|_| rng.below(model.vocab_size) as u32).collect::<Vec<u32>>();
    let batches: Vec<_> = (0..6).map(|_| vec![vec![row(), row()]]).collect();
    let labels: Vec<_> =
        batches.iter().map(|s| s.iter().map(|m| m.iter().map(|r| r.iter().map(|&t| i64::from(t)).collect()).collect()).collect()).collect();
    let objective = || Recorded { batches: batches.clone(), labels: labels.clone(), ..Recorded::default() };
    let config = TrainerConfig { max_steps: 6, eval_every: 0, checkpoint_every: 2, ..TrainerConfig::default() };
    for precision in [Precision::F32, Precision::Bf16] {
        let start = || Ok(Decoder::new_as(&model, Seed(0), precision, &Device::flex())?);
        resumes(&config, &objective, &start, &[5]);
    }
}

#[test]
fn a_foreign_checkpoint_is_refused_and_a_damaged_one_passed_over() {
    let (dir, run) = read("train_llama");
    let start = || Ok(hf::load(dir.join("init"), &Device::flex())?);
    let out = tempfile::tempdir().unwrap();
    let config = TrainerConfig { keep_checkpoints: 2, ..config(&run) };
    let trainer = |of: &str| Trainer { config: config.clone(), out: out.path().into(), name: "damage".into(), identity: identity(of) };
    trainer("x").run(&mut Dies { inner: recorded(&run), at: Some(7) }, start, &tokenizer()).unwrap_err();
    let message = trainer("y").run(&mut recorded(&run), start, &tokenizer()).unwrap_err().to_string();
    assert!(message.contains("step-00000006") && message.contains("train was \"x\", is \"y\""), "{message}");

    let damage = |step: u64, file: &str| {
        let file = out.path().join(format!("checkpoints/step-{step:08}/{file}"));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 10]).unwrap();
    };
    damage(6, "optimizer.safetensors");
    // Step 3 is whole, and what follows from it is the same run.
    trainer("x").run(&mut Dies { inner: recorded(&run), at: Some(4) }, start, &tokenizer()).unwrap_err();
    damage(3, "trainer.json");
    let message = trainer("x").run(&mut recorded(&run), start, &tokenizer()).unwrap_err().to_string();
    assert!(message.contains("truncated") && message.contains("optimizer.safetensors") && message.contains("no other checkpoint"), "{message}");
    assert!(params::shapes(&start().unwrap()).len() > 10);
}

/// If this fails, a second device changes what is learned.
#[test]
fn two_devices_learn_what_one_learns_to_the_bit() {
    let (dir, run) = read("train_llama_accum_masked_tied");
    let weights = |replicas: usize| {
        let out = tempfile::tempdir().unwrap();
        let config = TrainerConfig { replicas: vec![llm_tensor::DeviceSpec::Cpu; replicas], ..config(&run) };
        let trainer = Trainer { config, out: out.path().into(), name: "replicas".into(), identity: identity("x") };
        let outcome = trainer.run(&mut recorded(&run), || Ok(hf::load(dir.join("init"), &Device::flex())?), &tokenizer()).unwrap();
        (outcome.loss.to_bits(), llm_run::hash::path(out.path().join("model/model.safetensors")).unwrap())
    };
    let one = weights(0);
    assert_eq!(weights(1), one);
    assert_eq!(weights(2), one);
}
