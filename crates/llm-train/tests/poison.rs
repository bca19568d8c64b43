//! Bad data in the middle of a run: rows of random tokens, of one token repeated and of shuffled tokens are planted where given steps will
//! read them. With a policy against spikes the held-out loss in the end must be that of clean data within 1 %.
//!
//! The rows are planted by position in the data order, so all runs of a seed see the same clean rows at the same steps.
#![cfg(unix)]

mod common;

use llm_data::shards::{NewRow, ShardWriter, Shards};
use llm_run::Seed;
use llm_run::seed::permuted;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const STEPS: u64 = 440;
const BATCH: u64 = 8;
/// First step, steps, poisoned rows of each: after the statistics of a detector have settled.
const BURSTS: [(u64, u64, u64); 3] = [(200, 1, 8), (280, 3, 8), (360, 1, 4)];
const KINDS: [&str; 3] = ["random", "repeated", "shuffled"];
const LIMIT: f64 = 0.01;

/// This repository's documentation in pieces.
fn pieces() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let files = llm_run::atomic::walk(&docs).unwrap();
    let text: String = files.iter().filter(|p| p.extension().is_some_and(|e| e == "md")).map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        if pieces.last().is_some_and(|p| p.len() > 700) {
            pieces.push(String::new());
        }
        let last = pieces.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
    }
    // Held out are pieces from everywhere, not the end of the last file.
    Seed(1).rng().shuffle(&mut pieces);
    pieces
}

/// The clean shards with the rows of the bursts replaced.
fn poison(clean: &Shards, kind: &str, seed: u64, dir: &Path) {
    let n = clean.len() as u64;
    assert!(n >= STEPS * BATCH, "{n} rows: a poisoned row would come twice");
    let order = Seed(seed).stream("data order").at(0);
    let rows = BURSTS.iter().flat_map(|&(first, steps, rows)| (first..first + steps).flat_map(move |s| s * BATCH..s * BATCH + rows));
    let bad: std::collections::BTreeSet<u64> = rows.map(|i| permuted(order, i, n)).collect();
    let info = clean.info().clone();
    let mut writer = ShardWriter::create(dir, info.clone(), 1 << 20).unwrap().with_packing(clean.packing());
    for i in 0..n {
        let row = clean.row(i as usize);
        let mut tokens = row.tokens.to_vec();
        let mut rng = Seed(seed).stream(kind).at(i).rng();
        match kind {
            _ if !bad.contains(&i) => {}
            "random" => tokens.iter_mut().for_each(|t| *t = rng.below(info.vocab_size) as u32),
            "repeated" => tokens.fill(rng.below(info.vocab_size) as u32),
            _ => rng.shuffle(&mut tokens),
        }
        let ids = clean.document_ids(i as usize).into_iter().map(Arc::from).collect();
        let document_starts = row.document_starts.to_vec();
        writer.push(NewRow { tokens, document_starts, document_ids: ids, target_bytes: row.target_bytes, ..NewRow::default() }).unwrap();
    }
    writer.finish().unwrap();
}

struct Training {
    dir: PathBuf,
    seed: u64,
}

impl Training {
    /// First and last held-out loss, and the largest logged loss after the first burst.
    fn run(&self, train: &str, policy: &str) -> (f64, f64, f64) {
        let out = self.dir.join(format!("out-{}-{policy}-{}", train.replace('/', "-"), self.seed));
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut sets = vec![
            format!("train={:?}", at(train)),
            format!("heldout={:?}", at("pack/heldout")),
            format!("tokenizer={:?}", at("tokenizer")),
            format!("batch_size={BATCH}"),
            format!("micro_batch_size={BATCH}"),
            "eval_rows=0".into(),
            format!("seed={}", self.seed),
            "device=cpu".into(),
            "model={ hidden_size = 64, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 4, intermediate_size = 160, \
             max_position_embeddings = 32 }"
                .into(),
            format!("trainer.max_steps={STEPS}"),
            format!("trainer.eval_every={STEPS}"),
            "trainer.checkpoint_every=50".into(),
            "trainer.keep_checkpoints=3".into(),
            "trainer.optimizer.lr=4e-3".into(),
            "trainer.schedule.warmup_steps=40".into(),
        ];
        if policy != "off" {
            sets.extend([format!("trainer.spikes.policy={policy}"), "trainer.spikes.sigma=6".into(), "trainer.spikes.window=128".into()]);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-train"));
        command.arg("pretrain").arg("--out").arg(&out);
        sets.iter().for_each(|set| {
            command.arg("--set").arg(set);
        });
        let output = command.output().unwrap();
        assert!(output.status.success(), "{train}, {policy}: {}", String::from_utf8_lossy(&output.stderr));
        let records = llm_run::Metrics::read(out.join("metrics.jsonl")).unwrap();
        let number = |key: &'static str| records.iter().filter_map(move |r| r.get(key).and_then(Value::as_f64));
        let late = records.iter().filter(|r| r["step"].as_u64() > Some(BURSTS[0].0)).filter_map(|r| r.get("loss").and_then(Value::as_f64));
        (number("val_loss").next().unwrap(), number("val_loss").next_back().unwrap(), late.fold(0.0, f64::max))
    }
}

/// `SPIKES_SEEDS` seeds (1); what came out as JSON lines, and into the file `SPIKES_JSON` if that is set.
#[test]
#[ignore = "a measurement of minutes"]
fn poisoned_rows_do_not_cost_a_percent() {
    let dir = tempfile::tempdir().unwrap();
    let pieces = pieces();
    let heldout = pieces.len() / 12;
    common::packed(dir.path(), pieces.len() - heldout, heldout, |i| pieces[i].clone());
    let clean = Shards::open(dir.path().join("pack/train")).unwrap();
    let seeds: u64 = std::env::var("SPIKES_SEEDS").map_or(1, |s| s.parse().unwrap());
    let (mut lines, mut worse) = (Vec::new(), Vec::new());
    for seed in 0..seeds {
        let training = Training { dir: dir.path().into(), seed };
        let mut losses = BTreeMap::new();
        let mut note = |kind: &str, policy: &str, (first, last, worst): (f64, f64, f64)| {
            losses.insert((kind.to_string(), policy.to_string()), last);
            let base = losses[&("clean".to_string(), "off".to_string())];
            let line = json!({"seed": seed, "data": kind, "policy": policy, "first_val_loss": first, "val_loss": last, "largest_loss": worst,
                "over_clean": last / base - 1.0});
            println!("{line}");
            lines.push(line);
            if policy != "off" && last / base - 1.0 > LIMIT {
                worse.push(format!("seed {seed}, {kind}, {policy}: {last:.4} instead of {base:.4}"));
            }
        };
        for policy in ["off", "skip", "rewind"] {
            note("clean", policy, training.run("pack/train", policy));
        }
        for kind in KINDS {
            let name = format!("poisoned/{kind}-{seed}");
            poison(&clean, kind, seed, &dir.path().join(&name));
            for policy in ["off", "skip", "rewind"] {
                note(kind, policy, training.run(&name, policy));
            }
        }
    }
    if let Ok(path) = std::env::var("SPIKES_JSON") {
        let text = serde_json::to_string_pretty(&json!({"steps": STEPS, "batch": BATCH, "bursts": BURSTS, "limit": LIMIT, "runs": lines})).unwrap();
        llm_run::atomic::write(path, text + "\n").unwrap();
    }
    assert!(worse.is_empty(), "more than {LIMIT} worse than clean: {worse:#?}");
}

/// If this fails, the measurement compares runs on the same data.
#[test]
fn exactly_the_rows_of_the_bursts_are_poisoned() {
    let dir = tempfile::tempdir().unwrap();
    let words = |i: usize| format!("{} {} {}. ", i * 7919 % 1000, i * 31 % 977, i).repeat(40);
    common::packed(dir.path(), 500, 2, words);
    let clean = Shards::open(dir.path().join("pack/train")).unwrap();
    assert!(clean.len() as u64 >= STEPS * BATCH, "{} rows", clean.len());
    poison(&clean, "random", 0, &dir.path().join("bad"));
    let bad = Shards::open(dir.path().join("bad")).unwrap();
    let order = Seed(0).stream("data order").at(0);
    let n = clean.len() as u64;
    let changed = |step: u64| {
        (0..BATCH).map(|j| permuted(order, step * BATCH + j, n) as usize).filter(|&i| clean.row(i).tokens != bad.row(i).tokens).count() as u64
    };
    for step in 0..STEPS {
        let expected = BURSTS.iter().find(|(first, steps, _)| (*first..first + steps).contains(&step)).map_or(0, |b| b.2);
        assert_eq!(changed(step), expected, "step {step}");
    }
}
