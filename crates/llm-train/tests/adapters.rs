//! Adapters in the one training loop: only they change, a killed run goes on as if nothing had happened, recomputation and plans know them.

use llm_arch::adapter::{self, AdapterSpec, BaseFormat};
use llm_arch::{Adapter, Decoder, DecoderConfig, PackedBatch, hf, presets};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::{DType, Device};
use llm_tensor::weights::Weights;
use llm_tensor::{Precision, host, params};
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::memory::{AdapterPlan, MemoryPlan, Saves, Workload};
use llm_train::recompute::{self, Forward, Recompute};
use llm_train::trainer::{accumulate, read_loss};
use llm_train::{Loss, Objective, OptimizerConfig, Result, Schedule, ScheduleKind, Trainable, Trainer, TrainerConfig};
use std::collections::BTreeSet;
use std::path::Path;

const LENGTH: usize = 24;

/// The same few texts again and again.
struct Texts {
    recompute: Recompute,
}

impl Objective for Texts {
    type Model = Decoder;
    type Batch = u64;
    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<u64>> {
        Ok(vec![step % 3, 3])
    }
    fn loss(&self, model: &Decoder, &number: &u64) -> Result<Loss> {
        let mut rng = Seed(9).at(number).rng();
        let ids: Vec<u32> = (0..LENGTH).map(|_| rng.below(model.config().vocab_size) as u32).collect();
        let mut targets = ids[1..].to_vec();
        targets.push(ids[0]);
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &PackedBatch::sequence(&ids), None, self.recompute);
        let value = model.nll(hidden_ND, targets.into()).sum() / (2 * LENGTH) as f32;
        Ok(Loss { value, tokens: LENGTH as u64, deferred })
    }
}

fn tokenizer() -> Tokenizer {
    let texts: Vec<String> = (0..40).map(|i| format!("text {i} of a few words that repeat themselves")).collect();
    llm_tokenizer::trainer::train(&texts, &llm_tokenizer::trainer::TrainerConfig { vocab_size: 300, ..Default::default() }).unwrap()
}

/// A model folder with tokenizer.
fn folder() -> tempfile::TempDir {
    let (dir, tokenizer) = (tempfile::tempdir().unwrap(), tokenizer());
    let mut config = DecoderConfig {
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 64,
        ..DecoderConfig::default()
    };
    llm_train::pretrain::fit_to_tokenizer(&mut config, &tokenizer);
    hf::save(dir.path(), &Decoder::new(&config, Seed(1), &Device::flex()).unwrap()).unwrap();
    tokenizer.save(dir.path()).unwrap();
    dir
}

fn fresh(dir: &Path, spec: &AdapterSpec) -> Decoder {
    let base = adapter::load_frozen(dir, spec, &Device::flex().autodiff(), Precision::F32).unwrap();
    adapter::train(base, spec, Seed(2), dir.to_path_buf()).unwrap()
}

fn specs() -> [AdapterSpec; 3] {
    let plain = AdapterSpec { r: 4, ..AdapterSpec::default() };
    let quantised = AdapterSpec { base: BaseFormat::Nf4, lora_dropout: 0.1, modules_to_save: vec!["embed_tokens".into()], ..plain.clone() };
    [AdapterSpec { use_dora: true, lora_dropout: 0.2, ..plain.clone() }, AdapterSpec { base: BaseFormat::Nf4, ..plain }, quantised]
}

fn run(dir: &Path, out: &Path, spec: &AdapterSpec, max_steps: u64) -> Decoder {
    let config = TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr: 1e-2, weight_decay: 0.0, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, ..Schedule::default() },
        eval_every: 0,
        checkpoint_every: 2,
        ..TrainerConfig::default()
    };
    let trainer = Trainer { config, out: out.to_path_buf(), name: "adapter".into(), identity: Identity::new(serde_json::json!({"spec": spec})) };
    trainer.run(&mut Texts { recompute: Recompute::None }, || Ok(fresh(dir, spec)), &Tokenizer::load(dir).unwrap()).unwrap().model
}

/// If this fails, an adapter's run is not the run it was before it was killed, or it changes its base.
#[test]
fn a_killed_run_goes_on_to_the_bit_and_leaves_its_base_alone() {
    let dir = folder();
    for spec in specs() {
        let [straight, killed] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let model = run(dir.path(), straight.path(), &spec, 8);
        run(dir.path(), killed.path(), &spec, 4);
        run(dir.path(), killed.path(), &spec, 8);
        let read = |out: &Path| std::fs::read(out.join("model/adapter_model.safetensors")).unwrap();
        assert!(read(straight.path()) == read(killed.path()), "{spec:?}");
        let losses: Vec<f64> = Metrics::read(straight.path().join("metrics.jsonl")).unwrap().iter().map(|r| r["loss"].as_f64().unwrap()).collect();
        assert!(losses[7] < losses[0] - 0.05, "no learning: {losses:?}");

        let start = fresh(dir.path(), &spec);
        let frozen = start.frozen();
        let (before, after) = (params::to_host(&start), params::to_host(&model));
        for (name, values) in &before {
            assert_eq!(values == &after[name], frozen.contains(name), "{name}");
        }
        let base = model.without_adapter().unwrap();
        let folder = adapter::load_frozen(dir.path(), &spec, &Device::flex(), Precision::F32).unwrap();
        assert_eq!(params::to_host(&base), params::to_host(&folder), "the base inside");
        // The optimiser knows what is trained and nothing else.
        let state = Weights::open(straight.path().join("checkpoints/step-00000008/optimizer.safetensors")).unwrap();
        let names: BTreeSet<String> = state.names().into_iter().filter_map(|n| n.strip_suffix(".exp_avg").map(str::to_string)).collect();
        assert_eq!(names, start.trained(&BTreeSet::new()).into_keys().collect::<BTreeSet<_>>());
        assert!(!straight.path().join("checkpoints/step-00000008/model.safetensors").exists());
        // The run's model is an adapter that anyone can load, beside its tokenizer.
        let out = straight.path().join("model");
        assert!(Adapter::load(&out, model.config()).is_ok() && Tokenizer::load(&out).is_ok());
        assert_eq!(adapter::base_of(&out).unwrap(), dir.path().canonicalize().unwrap());
    }
}

/// If this fails, recomputation drops other inputs than the forward pass, or forgets the adapter.
#[test]
fn recomputed_blocks_give_the_same_gradients() {
    let dir = folder();
    for spec in specs() {
        let model = params::map(fresh(dir.path(), &spec), |name, shape, value| {
            let n: usize = shape.iter().product();
            let moved = || host::from_vec((0..n).map(|i| (i as f32).sin() * 0.05).collect(), [n], &value.device());
            if name.ends_with("lora_B") { value.clone() + moved() } else { value }
        });
        let step = |recompute| accumulate(&Texts { recompute }, std::slice::from_ref(&model), vec![0, 1], 1.0).unwrap();
        let (one, blocks) = (step(Recompute::None), step(Recompute::Block));
        assert_eq!(read_loss(one.losses).to_bits(), read_loss(blocks.losses).to_bits());
        let names: Vec<String> = model.trained(&BTreeSet::new()).into_keys().collect();
        assert_eq!(one.gradients.keys().cloned().collect::<Vec<_>>(), names);
        assert_eq!(blocks.gradients.keys().cloned().collect::<Vec<_>>(), names);
        for (name, gradient) in one.gradients {
            let values = |g: llm_tensor::burn::tensor::Tensor<1>| host::to_vec(g.cast(DType::F32));
            let (want, got) = (values(gradient), values(blocks.gradients[&name].clone()));
            let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(largest > 0.0, "{name} has no gradient");
            assert!(want.iter().zip(&got).all(|(a, b)| (a - b).abs() <= 1e-6 * largest), "{name}");
        }
    }
}

/// The plan of a model: weights, and what a full fine-tuning of it takes.
fn plans(model: &DecoderConfig, spec: &AdapterSpec) -> (MemoryPlan, MemoryPlan) {
    let adapter = AdapterPlan::of(model, spec).unwrap();
    let optimizer = OptimizerConfig::default();
    let whole = Workload {
        model,
        precision: Precision::F32,
        rows: 1,
        length: 256,
        micro_batches: 1,
        recompute: Recompute::None,
        fused: true,
        workers: 1,
        optimizer: &optimizer,
        freeze: &[],
        adapter: None,
        saves: Saves::Nothing,
    };
    (MemoryPlan::of(&Workload { adapter: Some(&adapter), ..whole }, 0.0), MemoryPlan::of(&whole, 0.0))
}

/// If this fails, a plan of QLoRA counts other bytes than are there.
#[test]
fn a_plan_counts_the_bytes_of_the_frozen_base() {
    let dir = folder();
    for spec in specs() {
        let model = fresh(dir.path(), &spec);
        let trained: usize = model.trained(&BTreeSet::new()).values().map(|(shape, _)| shape.iter().product::<usize>()).sum();
        let (plan, _) = plans(model.config(), &spec);
        assert_eq!(plan.weights, (model.frozen_bytes() + 4 * trained) as f64, "{spec:?}");
        assert_eq!(plan.moments, 8.0 * trained as f64);
    }
    let gpt2 = presets::preset("gpt2").unwrap();
    let spec = AdapterSpec { base: BaseFormat::Nf4, ..AdapterSpec::default() };
    let (qlora, whole) = plans(&gpt2, &spec);
    let frozen = gpt2.num_parameters() as f64;
    let base = qlora.weights - qlora.moments / 2.0;
    assert!(base <= 0.6 * frozen, "{} bytes a frozen parameter", base / frozen);
    assert!(qlora.peak < 0.4 * whole.peak, "{} of {}", qlora.peak, whole.peak);
}

/// An adapter of another base is refused where it is loaded.
#[test]
fn a_folder_whose_base_is_gone_is_named() {
    let (dir, out) = (folder(), tempfile::tempdir().unwrap());
    let model = fresh(dir.path(), &specs()[1]);
    model.save(out.path(), Default::default()).unwrap();
    drop(dir);
    let message = hf::load(out.path(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("base_model_name_or_path"), "{message}");
}
