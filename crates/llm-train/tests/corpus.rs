//! What pre-training reads: validation by domain and language, weights of the loss, other data in the last steps, and texts that the model
//! writes. Expected numbers are computed here from documents one by one.

mod common;

use common::{packed_documents, repacked, small};
use llm_arch::{Decoder, PackedBatch};
use llm_data::document::Document;
use llm_data::pack::{PackConfig, Packing};
use llm_data::shards::Shards;
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_run::Metrics;
use llm_tensor::burn::tensor::Device;
use llm_tensor::{DeviceSpec, host};
use llm_train::Objective;
use llm_train::pretrain::heldout::Heldout;
use llm_train::pretrain::order::Order;
use llm_train::pretrain::rows::segments;
use llm_train::pretrain::{AnnealConfig, Pretrain, PretrainConfig, SamplesConfig, pretrain};
use llm_train::trainer::{accumulate, read_loss};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

const DOMAINS: [&str; 3] = ["web", "books", ""];

/// Domains and languages do not go together.
fn document(i: usize) -> Document {
    let lines = ["The sun shines on every place. ", "Die Sonne scheint überall. ", "0 1 2 3 5 8 13\n"];
    Document {
        id: format!("d{i}"),
        text: format!("{i} {}", lines[i % 3].repeat(1 + (i * 5) % 7)),
        source: "test".into(),
        domain: DOMAINS[i / 2 % 3].into(),
        lang: [Some("en".to_string()), Some("de".to_string()), None][i % 3].clone(),
        ..Document::default()
    }
}

fn packing(packing: Packing) -> PackConfig {
    PackConfig { packing, sequence_length: 48, ..PackConfig::default() }
}

fn workshop(dir: &Path, kind: Packing) -> PretrainConfig {
    packed_documents(dir, 120, 40, document, packing(kind));
    PretrainConfig { eval_rows: 0, batch_size: 8, micro_batch_size: 4, ..small(dir) }
}

fn opened(config: &PretrainConfig) -> (Pretrain, Decoder) {
    let (objective, _) = Pretrain::open(&mut config.clone()).unwrap();
    let model = objective.initial_model(&Device::flex().autodiff()).unwrap().tracked();
    (objective, model)
}

fn number(record: &Map<String, Value>, key: &str) -> f64 {
    record.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number `{key}` in {record:?}"))
}

/// Sum of the losses of a text's tokens, and how many there are.
fn nll(model: &Decoder, tokens: &[u32]) -> (f64, usize) {
    if tokens.len() < 2 {
        return (0.0, 0);
    }
    let losses = model.nll(model.hidden(&PackedBatch::sequence(&tokens[..tokens.len() - 1])), tokens[1..].into());
    (host::to_vec(losses).into_iter().map(f64::from).sum(), tokens.len() - 1)
}

fn index(id: &str) -> usize {
    id.trim_start_matches('d').split('#').next().unwrap().parse().unwrap()
}

#[test]
fn every_domain_and_language_has_its_own_validation() {
    for kind in [Packing::BestFit, Packing::Concatenate] {
        let dir = tempfile::tempdir().unwrap();
        let config = workshop(dir.path(), kind);
        let (mut objective, model) = opened(&config);
        let model = model.untracked();
        let record = objective.validate(&model).unwrap();
        let shards = Shards::open(&config.heldout).unwrap();
        let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
        for r in 0..shards.len() {
            for (segment, id) in segments(&shards.row(r)).zip(shards.document_ids(r)).filter(|(_, id)| !id.is_empty()) {
                let (nll, targets) = nll(&model, &shards.row(r).tokens[segment.tokens]);
                let document = document(index(&id));
                let domain = if document.domain.is_empty() { "none".to_string() } else { document.domain };
                for key in ["".to_string(), format!("/domain={domain}"), format!("/lang={}", document.lang.unwrap_or("none".into()))] {
                    let sum = sums.entry(key).or_default();
                    *sum = (sum.0 + nll, sum.1 + targets);
                }
            }
        }
        assert_eq!(sums.len(), 7);
        for (key, (nll, targets)) in &sums {
            let (found, expected) = (number(&record, &format!("val_loss{key}")), nll / *targets as f64);
            assert!((found - expected).abs() < 1e-5 * expected, "{kind:?}, val_loss{key}: {found}, expected {expected}");
        }
        if kind == Packing::BestFit {
            // Whole documents: their bytes are those of the texts.
            for (prefix, get) in
                [("domain=", (|d| d.domain) as fn(Document) -> String), ("lang=", (|d| d.lang.unwrap_or_default()) as fn(Document) -> String)]
            {
                for name in if prefix == "lang=" { ["en", "de"] } else { ["web", "books"] } {
                    let bytes: usize = (120..160).map(document).filter(|d| get(d.clone()) == name).map(|d| d.text.len()).sum();
                    let expected = sums[&format!("/{prefix}{name}")].0 / std::f64::consts::LN_2 / bytes as f64;
                    let found = number(&record, &format!("val_bits_per_byte/{prefix}{name}"));
                    assert!((found - expected).abs() < 1e-5 * expected, "{prefix}{name}: {found}, expected {expected}");
                }
            }
        }
    }
}

/// What the documents of a row stand for is what the row stands for.
#[test]
fn bytes_of_documents_add_up_to_those_of_rows() {
    for kind in [Packing::BestFit, Packing::Concatenate] {
        let dir = tempfile::tempdir().unwrap();
        let config = workshop(dir.path(), kind);
        let tokenizer = llm_tokenizer::Tokenizer::load(&config.tokenizer).unwrap();
        let shards = Shards::open(&config.train).unwrap();
        let heldout = Heldout::new(Shards::open(&config.heldout).unwrap(), &tokenizer);
        for r in 0..shards.len() {
            let row = shards.row(r);
            let bytes: u64 = segments(&row).map(|s| heldout.bytes_of(&row.tokens[s.tokens.start + 1..s.tokens.end])).sum();
            assert_eq!(bytes, u64::from(row.target_bytes), "{kind:?}, row {r}");
        }
    }
}

#[test]
fn weights_make_the_loss_a_weighted_mean() {
    let dir = tempfile::tempdir().unwrap();
    let base = workshop(dir.path(), Packing::Concatenate);
    let loss = |config: &PretrainConfig| {
        let (mut objective, model) = opened(config);
        let batches = objective.batches(2, &model).unwrap();
        read_loss(accumulate(&objective, &[model], batches, 1.0).unwrap().losses)
    };
    let weighted = |weights: &[(&str, f64)]| {
        let loss_weights = weights.iter().map(|(key, weight)| (key.to_string(), *weight)).collect();
        PretrainConfig { loss_weights, ..base.clone() }
    };
    let config = weighted(&[("domain=web", 0.5), ("domain=none", 0.0), ("lang=de", 3.0)]);
    let (_, model) = opened(&config);
    let model = model.untracked();
    let shards = Shards::open(&config.train).unwrap();
    let order = Order::new(&config, shards.len(), 0);
    let (mut sum, mut weights) = (0.0, 0.0);
    for slot in 0..config.batch_size as u64 {
        let r = order.place(2, slot).row;
        for (segment, id) in segments(&shards.row(r)).zip(shards.document_ids(r)) {
            let document = document(index(&id));
            let domain = [("web", 0.5), ("books", 1.0), ("", 0.0)].into_iter().find(|(name, _)| *name == document.domain).unwrap().1;
            let weight = domain * if document.lang.as_deref() == Some("de") { 3.0 } else { 1.0 };
            let (nll, targets) = nll(&model, &shards.row(r).tokens[segment.tokens]);
            sum += weight * nll;
            weights += weight * targets as f64;
        }
    }
    let (found, expected) = (f64::from(loss(&config)), sum / weights);
    assert!((found - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");

    let plain = loss(&base);
    assert!((f64::from(plain) - expected).abs() > 1e-3, "the weights must matter for this test to say anything");
    assert_eq!(loss(&weighted(&[("domain=web", 1.0), ("lang=de", 1.0)])).to_bits(), plain.to_bits(), "weights of 1 change nothing");
    let message = Pretrain::open(&mut weighted(&[("domain=wep", 1.0)])).unwrap_err().to_string();
    assert!(message.contains("domain=wep") && message.contains("domain=web") && message.contains("lang=de"), "{message}");
    let message = Pretrain::open(&mut weighted(&[("domain=web", -1.0)])).unwrap_err().to_string();
    assert!(message.contains("positive"), "{message}");
}

/// The first folder counts nothing here, so what is left of the loss is that of the second.
#[test]
fn the_last_steps_read_the_annealing_folder() {
    let dir = tempfile::tempdir().unwrap();
    let base = workshop(dir.path(), Packing::Concatenate);
    let other = dir.path().join("other");
    packed_documents(&other, 60, 1, |i| Document { domain: "good".into(), ..document(i) }, packing(Packing::BestFit));
    std::fs::rename(dir.path().join("train"), dir.path().join("train-0")).unwrap();
    std::fs::rename(other.join("train"), dir.path().join("train")).unwrap();
    repacked(dir.path(), "anneal", "tokenizer", packing(Packing::Concatenate));
    let mut config = PretrainConfig {
        heldout: Default::default(),
        loss_weights: ["web", "books", "none"].iter().map(|name| (format!("domain={name}"), 0.0)).collect(),
        anneal: Some(AnnealConfig { train: dir.path().join("anneal/train"), fraction: 0.3, share: 0.5 }),
        ..base
    };
    config.trainer.max_steps = 10;
    config.trainer.schedule.warmup_steps = 0;
    let out = dir.path().join("out");
    pretrain(config.clone(), &out, "test").unwrap();
    let records = Metrics::read(out.join("metrics.jsonl")).unwrap();
    let shares: Vec<f64> = records.iter().map(|r| number(r, "anneal_share")).collect();
    assert_eq!(shares, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5]);
    for (record, share) in records.iter().zip(shares) {
        assert_eq!(number(record, "loss") > 1.0, share > 0.0, "{record:?}");
    }
    for (fraction, share, named) in [(0.0, 0.5, "anneal.fraction"), (0.5, 1.5, "anneal.share")] {
        let anneal = Some(AnnealConfig { train: dir.path().join("anneal/train"), fraction, share });
        let message = Pretrain::open(&mut PretrainConfig { anneal, ..config.clone() }).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
    repacked(dir.path(), "short", "tokenizer", PackConfig { sequence_length: 32, ..PackConfig::default() });
    config.anneal.as_mut().unwrap().train = dir.path().join("short/train");
    let message = Pretrain::open(&mut config).unwrap_err().to_string();
    assert!(message.contains("pack both alike"), "{message}");
}

/// The last texts of a run are those of its model.
#[test]
fn samples_are_what_the_model_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = workshop(dir.path(), Packing::Concatenate);
    config.samples = SamplesConfig { prompts: vec!["Die Sonne".into(), String::new()], max_new_tokens: 12, ..SamplesConfig::default() };
    config.trainer.max_steps = 3;
    config.trainer.eval_every = 3;
    let out = dir.path().join("out");
    pretrain(config.clone(), &out, "test").unwrap();
    let records = Metrics::read(out.join("metrics.jsonl")).unwrap();
    let samples: Vec<&Value> = records.iter().filter_map(|r| r.get("samples")).collect();
    assert_eq!(samples.len(), 2, "before the first and after the last step");

    let model = Model::load(out.join("model"), &DeviceSpec::Cpu).unwrap();
    let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
    for (i, prompt) in config.samples.prompts.iter().enumerate() {
        let ids = [vec![model.tokenizer.bos_id().unwrap()], model.tokenizer.encode(prompt)].concat();
        let sampling = Sampling { max_tokens: 12, ..Sampling::default() };
        let completion = engine.generate(vec![Request::new(ids, sampling)]).unwrap().remove(0);
        assert_eq!(samples[1][i]["text"], model.tokenizer.decode(&completion.tokens, false));
        assert_eq!(samples[1][i]["prompt"], prompt.as_str());
    }
    config.samples.max_new_tokens = 64;
    let message = Pretrain::open(&mut config).unwrap_err().to_string();
    assert!(message.contains("samples") && message.contains("max_position_embeddings"), "{message}");
}

/// Rows that were packed with another tokenizer mean nothing to this one.
#[test]
fn shards_of_another_tokenizer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = workshop(dir.path(), Packing::Concatenate);
    common::tokenizer(dir.path(), "larger", 320, &(0..8).map(|i| document(i).text).collect::<Vec<_>>());
    config.tokenizer = dir.path().join("larger");
    let message = Pretrain::open(&mut config).unwrap_err().to_string();
    assert!(message.contains("pack again"), "{message}");
}
