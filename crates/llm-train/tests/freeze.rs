//! Freezing by name. If this fails, a stage that should leave a part of the model alone changes it, or pays for its gradients.

use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::params;
use llm_tensor::weights::Weights;
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::trainer::accumulate;
use llm_train::{Loss, Objective, Result, Trainer, TrainerConfig};
use std::path::Path;

/// The same row of every step, and a death at one of them.
struct Row {
    dies_at: Option<u64>,
}

impl Objective for Row {
    type Model = Decoder;
    type Batch = ();
    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<()>> {
        if self.dies_at == Some(step) { Err(llm_train::Error::Objective("killed".into())) } else { Ok(vec![(), ()]) }
    }
    fn loss(&self, model: &Decoder, _: &()) -> Result<Loss> {
        let ids: Vec<u32> = (0..24).map(|i| i * 7 % 40).collect();
        let value = model.nll(model.hidden(&PackedBatch::sequence(&ids[..23])), ids[1..].into()).sum() / 46.0;
        Ok(Loss { value, tokens: 23, deferred: None })
    }
}

fn start() -> Result<Decoder> {
    let config = DecoderConfig {
        vocab_size: 40,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 32,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    };
    Ok(Decoder::new(&config, Seed(3), &Device::flex())?)
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap()
}

fn trainer(out: &Path, freeze: &[&str]) -> Trainer {
    let freeze = freeze.iter().map(|p| p.to_string()).collect();
    let config = TrainerConfig { max_steps: 8, eval_every: 0, checkpoint_every: 3, freeze, ..TrainerConfig::default() };
    Trainer { config, out: out.into(), name: "freeze".into(), identity: Identity::new(serde_json::json!("x")) }
}

const FREEZE: [&str; 3] = ["model.embed_tokens.*", "*.layers.0.*", "model.norm.weight"];

#[test]
fn frozen_parameters_keep_every_bit_and_the_others_learn_before_and_after_a_restart() {
    let out = tempfile::tempdir().unwrap();
    trainer(out.path(), &FREEZE).run(&mut Row { dies_at: Some(5) }, start, &tokenizer()).unwrap_err();
    let state = Weights::open(out.path().join("checkpoints/step-00000003/optimizer.safetensors")).unwrap();
    let trained = |name: &str| name.starts_with("model.layers.1.") || name.starts_with("lm_head.");
    assert!(!state.names().is_empty() && state.names().into_iter().all(trained), "moments of frozen parameters: {:?}", state.names());

    let outcome = trainer(out.path(), &FREEZE).run(&mut Row { dies_at: None }, start, &tokenizer()).unwrap();
    let (before, after) = (params::to_host(&start().unwrap()), params::to_host(&outcome.model));
    for (name, old) in &before {
        let same = old.values.iter().zip(&after[name].values).all(|(a, b)| a.to_bits() == b.to_bits());
        assert_eq!(same, !trained(name), "{name}");
    }
    let losses: Vec<f64> = Metrics::read(out.path().join("metrics.jsonl")).unwrap().iter().map(|r| r["loss"].as_f64().unwrap()).collect();
    assert!(losses.len() == 8 && losses[7] < losses[0], "{losses:?}");

    let whole = tempfile::tempdir().unwrap();
    let undisturbed = trainer(whole.path(), &FREEZE).run(&mut Row { dies_at: None }, start, &tokenizer()).unwrap();
    assert_eq!(params::to_host(&undisturbed.model), after);
}

/// Freezing leaves the gradients of the rest as they are, and there are no others.
#[test]
fn gradients_of_the_rest_are_those_of_full_training() {
    let model = || start().unwrap();
    let full = accumulate(&Row { dies_at: None }, &[params::track(model())], vec![()], 1.0).unwrap().gradients;
    let trained = |name: &str| name == "model.layers.0.mlp.up_proj.weight" || name.starts_with("model.layers.1.input");
    let part = accumulate(&Row { dies_at: None }, &[params::track_where(model(), trained)], vec![()], 1.0).unwrap().gradients;
    assert_eq!(part.keys().map(String::as_str).collect::<Vec<_>>(), ["model.layers.0.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"]);
    for (name, gradient) in part {
        let values = |t: &llm_tensor::burn::tensor::Tensor<1>| llm_tensor::host::to_vec(t.clone());
        assert_eq!(values(&gradient), values(&full[&name]), "{name}");
    }
}

#[test]
fn patterns_without_effect_or_without_mercy_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let message = |freeze: &[&str]| trainer(out.path(), freeze).run(&mut Row { dies_at: None }, start, &tokenizer()).unwrap_err().to_string();
    let text = message(&["vision_tower.*"]);
    assert!(text.contains("`vision_tower.*`") && text.contains("lm_head., model."), "{text}");
    let text = message(&["model.*", "lm_head.*"]);
    assert!(text.contains("nothing is left to train"), "{text}");
}
