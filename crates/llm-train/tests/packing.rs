//! Packing changes how fast a step is and nothing else: loss and gradients of packed rows are those of the documents one by one, and those of
//! many small batches are those of a large one. If one of these fails, the numbers of a run depend on how its documents lie in rows.

mod common;

use common::{packed_documents, small};
use llm_arch::{Decoder, PackedBatch};
use llm_data::document::Document;
use llm_data::pack::{PackConfig, Packing};
use llm_data::shards::{Row, Shards};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::{host, params};
use llm_train::Objective;
use llm_train::ScheduleKind;
use llm_train::pretrain::rows::segments;
use llm_train::pretrain::{Pretrain, PretrainConfig, TokenRows, pretrain};
use llm_train::trainer::{accumulate, read_loss};
use std::collections::BTreeMap;
use std::path::Path;

/// Of lengths from a few tokens to several rows.
fn document(i: usize) -> Document {
    let lines = ["The rows are packed. ", "Jede Zeile hält, was sie kann. ", "let rows = pack(documents);\n"];
    Document {
        id: format!("d{i}"),
        text: lines[i % 3].repeat(1 + (i * i) % 9),
        source: "test".into(),
        domain: ["web", "books", "code"][i % 3].into(),
        ..Document::default()
    }
}

fn workshop(dir: &Path, packing: Packing) -> PretrainConfig {
    packed_documents(dir, 150, 10, document, PackConfig { packing, sequence_length: 48, fim_rate: 0.3, ..PackConfig::default() });
    PretrainConfig { batch_size: 32, micro_batch_size: 32, ..small(dir) }
}

type Gradients = BTreeMap<String, Vec<f32>>;

fn gradients(model: &Decoder, loss: Tensor<1>) -> Gradients {
    let found = params::gradients(model, &loss.backward());
    found.into_iter().map(|(name, gradient)| (name, host::to_vec(gradient))).collect()
}

fn add(sum: &mut Gradients, more: Gradients) {
    for (name, values) in more {
        match sum.get_mut(&name) {
            Some(sum) => sum.iter_mut().zip(values).for_each(|(a, b)| *a += b),
            None => drop(sum.insert(name, values)),
        }
    }
}

/// Relative to the largest element of each parameter's gradient.
fn assert_near(a: &Gradients, b: &Gradients, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, a) in a {
        let b = &b[name];
        let scale = a.iter().fold(0f32, |most, v| most.max(v.abs())).max(1e-6);
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{what}: gradients of {name} differ by {worst:e}");
    }
}

#[test]
fn packed_rows_are_the_documents_alone() {
    for packing in [Packing::Concatenate, Packing::BestFit] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = workshop(dir.path(), packing);
        let (objective, tokenizer) = Pretrain::open(&mut config).unwrap();
        let model = objective.initial_model(&Device::flex().autodiff()).unwrap().tracked();
        let shards = Shards::open(&config.train).unwrap();
        let rows: Vec<Row> = (0..12).map(|i| shards.row(i)).collect();

        let together = TokenRows::new(&rows);
        let counted = together.counted as f32;
        let loss = model.nll(model.hidden(&together.batch), together.targets).sum() / counted;
        let (packed_loss, packed) = (host::scalar(loss.clone().inner()), gradients(&model, loss));

        let (mut alone_loss, mut alone, mut targets) = (0f64, Gradients::new(), 0);
        let (mut padding, mut continued) = (0, 0);
        for (r, row) in rows.iter().enumerate() {
            for (segment, id) in segments(row).zip(shards.document_ids(r)) {
                let tokens = &row.tokens[segment.tokens];
                padding += usize::from(id.is_empty());
                continued += usize::from(!id.is_empty() && Some(tokens[0]) != tokenizer.bos_id());
                if tokens.len() < 2 {
                    continue;
                }
                let loss = model.nll(model.hidden(&PackedBatch::sequence(&tokens[..tokens.len() - 1])), tokens[1..].into()).sum() / counted;
                alone_loss += f64::from(host::scalar(loss.clone().inner()));
                add(&mut alone, gradients(&model, loss));
                targets += tokens.len() - 1;
            }
        }
        assert_eq!(targets, together.counted, "{packing:?}");
        assert!(continued > 0 && (packing == Packing::Concatenate || padding > 0), "{packing:?}: {continued} continued, {padding} padding");
        assert!((f64::from(packed_loss) - alone_loss).abs() < 1e-5 * alone_loss, "{packing:?}: {packed_loss} and {alone_loss}");
        assert_near(&packed, &alone, packing.name());
    }
}

/// The loss is a mean over the targets of the whole step, not of micro-batches, which have different numbers of them (and weights).
#[test]
fn micro_batches_of_any_size_give_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let base = workshop(dir.path(), Packing::BestFit);
    for weights in [BTreeMap::new(), BTreeMap::from([("domain=code".to_string(), 0.25), ("domain=web".to_string(), 3.0)])] {
        let step = |micro_batch_size: usize| {
            let mut config = PretrainConfig { micro_batch_size, loss_weights: weights.clone(), ..base.clone() };
            let (mut objective, _) = Pretrain::open(&mut config).unwrap();
            let model = objective.initial_model(&Device::flex().autodiff()).unwrap().tracked();
            let batches = objective.batches(3, &model).unwrap();
            let sum = accumulate(&objective, &[model], batches, 1.0).unwrap();
            assert_eq!(sum.losses.len(), 32usize.div_ceil(micro_batch_size));
            let gradients: Gradients = sum.gradients.into_iter().map(|(name, gradient)| (name, host::to_vec(gradient))).collect();
            (read_loss(sum.losses), gradients)
        };
        let (loss, whole) = step(32);
        for micro_batch_size in [1, 4, 8, 5] {
            let (other, parts) = step(micro_batch_size);
            assert!((other - loss).abs() < 1e-5 * loss, "micro-batches of {micro_batch_size}: {other} and {loss}");
            assert_near(&whole, &parts, &format!("micro-batches of {micro_batch_size}"));
        }
    }
}

/// If this fails, a run that is continued with another micro-batch size is another run although it was asked to be the same.
#[test]
fn exact_micro_batches_give_the_same_bits_whatever_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let base = PretrainConfig { exact_micro_batches: true, ..workshop(dir.path(), Packing::Concatenate) };
    let losses = |first: usize, then: usize| {
        let out = dir.path().join(format!("{first}-{then}"));
        let run = |micro_batch_size: usize, max: u64| {
            let mut config = PretrainConfig { micro_batch_size, ..base.clone() };
            // The schedule does not depend on where the run stops, so that two lengths are one run.
            config.trainer.schedule.kind = ScheduleKind::Constant;
            config.trainer.max_steps = 6;
            config.trainer.checkpoint_every = 3;
            config.trainer.keep_checkpoint_every = 3;
            config.trainer.eval_every = 0;
            pretrain(config, &out, "exact").unwrap();
            if max == 3 {
                // As if it had been killed after the third step.
                std::fs::remove_dir_all(out.join("checkpoints/step-00000006")).unwrap();
                std::fs::remove_dir_all(out.join("model")).unwrap();
            }
        };
        run(first, 3);
        run(then, 6);
        let log = llm_run::Metrics::read(out.join("metrics.jsonl")).unwrap();
        (log.iter().map(|r| r["loss"].clone()).collect::<Vec<_>>(), llm_run::hash::path(out.join("model/model.safetensors")).unwrap())
    };
    assert_eq!(losses(8, 8), losses(8, 4));
}
