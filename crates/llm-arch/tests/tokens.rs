//! Models after surgery on their vocabulary. If one of these fails, a model that was given a new token writes other text than before, its new
//! rows are noise, or a mismatch of tokenizer and model goes unseen.

use llm_arch::tokens::glitch::{Kind, glitch};
use llm_arch::tokens::rows::RowInit;
use llm_arch::tokens::{ModelFolder, Resize, Settings, Transplant, check, samples};
use llm_arch::{Decoder, DecoderConfig, PackedBatch, hf};
use llm_run::Seed;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::weights::{self, HostTensor, SaveOptions, Weights};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::surgery::{NewToken, Placement};
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const TEXT: &str = "the cat sat on the mat and the dog sat on the log. wie viel ist drei mal vier? what is two plus three? the answer";
const MEAN: Settings = Settings { init: RowInit::Mean, pad_to_multiple: None };
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A small Llama and its tokenizer; `padding` rows have no token.
fn model(tied: bool, padding: usize, options: SaveOptions) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = train([TEXT, TEXT], &TrainerConfig { vocab_size: 320, ..TrainerConfig::default() }).unwrap();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size() + padding,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        tie_word_embeddings: tied,
        bos_token_id: tokenizer.bos_id(),
        eos_token_id: vec![tokenizer.eos_id().unwrap(), tokenizer.special_id("<|eot_id|>").unwrap()],
        pad_token_id: tokenizer.pad_id(),
        ..DecoderConfig::default()
    };
    hf::save_as(dir.path(), &Decoder::new(&config, Seed(7), &Device::flex()).unwrap(), options).unwrap();
    tokenizer.save(dir.path()).unwrap();
    dir
}

/// Logits of every position, one list per position.
fn logits(dir: &Path, ids: &[u32]) -> Vec<Vec<f32>> {
    let decoder = hf::load(dir, &Device::flex()).unwrap();
    let batch = PackedBatch::documents(ids.to_vec(), &[&[0]], ids.len());
    let vocab = decoder.config().vocab_size;
    to_vec(decoder.logits(decoder.hidden(&batch))).chunks(vocab).map(<[f32]>::to_vec).collect()
}

fn row(dir: &Path, name: &str, id: u32) -> Vec<f32> {
    let table = Weights::open(dir).unwrap().get(name).unwrap();
    table.values[id as usize * table.shape[1]..][..table.shape[1]].to_vec()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn new(content: &str) -> NewToken {
    NewToken { content: content.into(), special: true }
}

fn log_mean_exp(values: impl Iterator<Item = f32>) -> f64 {
    let values: Vec<f64> = values.map(f64::from).collect();
    (values.iter().map(|v| v.exp()).sum::<f64>() / values.len() as f64).ln()
}

#[test]
fn old_logits_stay_to_the_bit_and_new_ones_are_bounded_by_their_pieces() {
    for (tied, padding) in [(true, 0), (false, 0), (true, 9), (false, 9)] {
        let (dir, out) = (model(tied, padding, SaveOptions::default()), tempfile::tempdir().unwrap());
        let out = out.path().join("out");
        let folder = ModelFolder::open(dir.path()).unwrap();
        let old = folder.tokenizer.vocab_size();
        let grown = folder.tokenizer.with_tokens(&[new("<tool_call>"), new("</tool_call>")]).unwrap();
        let sizes = folder.grow(&grown, &MEAN, &out).unwrap();
        let rows = if padding > 0 { old + padding } else { (old + 2).next_multiple_of(64) };
        assert_eq!((sizes.tokens, sizes.rows, sizes.filled), ((old, old + 2), (old + padding, rows), rows - old - 2));

        let ids = folder.tokenizer.encode("the cat sat on the log.");
        let (before, after) = (logits(dir.path(), &ids), logits(&out, &ids));
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.len(), rows);
            let bits = |logits: &[f32]| logits[..old].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(before), bits(after), "tied {tied}, padding {padding}");
            for made in &grown.made {
                let bound = log_mean_exp(made.pieces.iter().map(|&id| before[id as usize]));
                assert!(f64::from(after[made.id as usize]) <= bound + 1e-5, "logit of {:?} above {bound}", made.text);
            }
            let bound = log_mean_exp(before[..old].iter().copied());
            for filled in &after[old + 2..] {
                assert!(f64::from(*filled) <= bound + 1e-5, "a row without a token is likelier than an old token on average");
            }
        }

        let (config, past) = (json(out.join("config.json")), json(dir.path().join("config.json")));
        assert_eq!(config["vocab_size"], rows);
        for field in ["bos_token_id", "eos_token_id", "pad_token_id", "hidden_size", "rope_theta"] {
            assert_eq!(config[field], past[field], "{field}");
        }
        let tokenizer = Tokenizer::load(&out).unwrap();
        assert_eq!(tokenizer.special_id("</tool_call>"), Some(old as u32 + 1));
        check::require(&out, &hf::load_config(&out).unwrap(), &tokenizer).unwrap();
        assert!(folder.grow(&grown, &MEAN, &out).unwrap_err().to_string().contains("exists already"));
    }
}

#[test]
fn rows_within_the_padding_are_made_anew() {
    let (dir, out) = (model(false, 9, SaveOptions::default()), tempfile::tempdir().unwrap());
    let out = out.path().join("out");
    let folder = ModelFolder::open(dir.path()).unwrap();
    let grown = folder.tokenizer.with_tokens(&[new("<tool>")]).unwrap();
    folder.grow(&grown, &MEAN, &out).unwrap();
    let made = &grown.made[0];
    for name in [EMBEDDING, "lm_head.weight"] {
        let pieces: Vec<Vec<f32>> = made.pieces.iter().map(|&id| row(dir.path(), name, id)).collect();
        for (j, value) in row(&out, name, made.id).into_iter().enumerate() {
            let mean = pieces.iter().map(|row| f64::from(row[j])).sum::<f64>() / pieces.len() as f64;
            assert_eq!(value, mean as f32, "{name}");
        }
        for id in made.id..made.id + 9 {
            assert_ne!(row(&out, name, id), row(dir.path(), name, id), "{name}: row {id} is what it was");
        }
    }
}

#[test]
fn everything_else_is_copied_in_its_format_and_shard() {
    let options = SaveOptions { precision: Precision::Bf16, max_shard_bytes: 20_000 };
    let (dir, out) = (model(false, 0, options), tempfile::tempdir().unwrap());
    let out = out.path().join("out");
    let folder = ModelFolder::open(dir.path()).unwrap();
    folder.grow(&folder.tokenizer.with_tokens(&[new("<tool>")]).unwrap(), &MEAN, &out).unwrap();
    let (before, after) = (Weights::open(dir.path()).unwrap(), Weights::open(&out).unwrap());
    assert_eq!(before.names(), after.names());
    for name in before.names() {
        let (old, new) = (before.raw(name).unwrap(), after.raw(name).unwrap());
        assert_eq!(old.0, new.0, "{name}");
        assert!(new.2.starts_with(old.2), "{name}: old rows changed");
        assert_eq!(before.file(name).unwrap().file_name(), after.file(name).unwrap().file_name());
    }
    hf::load(&out, &Device::flex()).unwrap();
}

#[test]
fn draws_repeat_and_zeros_are_zeros() {
    let (dir, out) = (model(true, 0, SaveOptions::default()), tempfile::tempdir().unwrap());
    let folder = ModelFolder::open(dir.path()).unwrap();
    let grown = folder.tokenizer.with_tokens(&[new("<a>"), new("<b>")]).unwrap();
    let write = |name: &str, init: RowInit| {
        let path = out.path().join(name);
        folder.grow(&grown, &Settings { init, pad_to_multiple: Some(1) }, &path).unwrap();
        [0, 1].map(|i| row(&path, EMBEDDING, grown.made[i].id))
    };
    let [first, second] = write("one", RowInit::Normal(Seed(1)));
    assert_eq!([first.clone(), second.clone()], write("again", RowInit::Normal(Seed(1))));
    assert!(first != second && first != write("other", RowInit::Normal(Seed(2)))[0]);
    // Spread like the rows there are, which were drawn with 0.02.
    let deviation = (first.iter().chain(&second).map(|v| v * v).sum::<f32>() / 64.0).sqrt();
    assert!((0.01..0.04).contains(&deviation), "{deviation}");
    assert!(write("zeros", RowInit::Zeros).concat().iter().all(|v| *v == 0.0));
}

#[test]
fn a_pruned_model_computes_the_same_for_what_is_kept() {
    for tied in [true, false] {
        let (dir, out) = (model(tied, 3, SaveOptions::default()), tempfile::tempdir().unwrap());
        let sample = out.path().join("sample.jsonl");
        std::fs::write(&sample, "{\"text\": \"the cat sat on the log.\"}\n{\"text\": \"<|eot_id|>drei\"}\n").unwrap();
        let out = out.path().join("out");
        let folder = ModelFolder::open(dir.path()).unwrap();
        let counts = samples::count(&folder.tokenizer, std::slice::from_ref(&sample)).unwrap();
        let mut wanted = counts.ranked();
        wanted.extend(folder.named_ids().unwrap());
        let pruned = folder.tokenizer.pruned(wanted).unwrap();
        let recut = samples::recut(&folder.tokenizer, &pruned, &[sample]).unwrap();
        assert_eq!((recut.different, recut.before), (0, recut.after));
        folder.prune(&pruned, &MEAN, &out).unwrap();
        assert!(pruned.old_ids.len() < folder.tokenizer.vocab_size());

        let text = "the cat sat on the log.";
        let (before, after) = (logits(dir.path(), &folder.tokenizer.encode(text)), logits(&out, &pruned.tokenizer.encode(text)));
        for (before, after) in before.iter().zip(&after) {
            for (new, &old) in pruned.old_ids.iter().enumerate() {
                assert_eq!(after[new].to_bits(), before[old as usize].to_bits(), "token {old}, tied {tied}");
            }
        }
        let tokenizer = Tokenizer::load(&out).unwrap();
        for file in ["config.json", "generation_config.json"] {
            let config = json(out.join(file));
            assert_eq!(config["eos_token_id"][1], tokenizer.special_id("<|eot_id|>").unwrap(), "{file}");
            assert_eq!(config["bos_token_id"], tokenizer.bos_id().unwrap(), "{file}");
        }
        check::require(&out, &hf::load_config(&out).unwrap(), &tokenizer).unwrap();
    }
}

#[test]
fn extended_words_are_one_token_with_the_mean_of_their_pieces() {
    let (dir, out) = (model(false, 0, SaveOptions::default()), tempfile::tempdir().unwrap());
    let out = out.path().join("out");
    let folder = ModelFolder::open(dir.path()).unwrap();
    let grown = folder.tokenizer.with_vocabulary(&[" Herzinfarkt".into(), "two words".into()], Placement::Merges).unwrap();
    folder.grow(&grown, &MEAN, &out).unwrap();
    let tokenizer = Tokenizer::load(&out).unwrap();
    let [id] = *tokenizer.encode(" Herzinfarkt").as_slice() else { panic!("more than one token") };
    let pieces: Vec<Vec<f32>> = folder.tokenizer.encode(" Herzinfarkt").iter().map(|&id| row(dir.path(), EMBEDDING, id)).collect();
    let mean = pieces.iter().map(|row| f64::from(row[0])).sum::<f64>() / pieces.len() as f64;
    assert_eq!(row(&out, EMBEDDING, id)[0], mean as f32);
    check::require(&out, &hf::load_config(&out).unwrap(), &tokenizer).unwrap();
}

fn llm_arch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-arch")).args(args).output().unwrap()
}

/// `tokens check` on a changed folder: its status and everything it prints.
fn checked(dir: &Path, edit: impl FnOnce(&mut Value)) -> (Option<i32>, String) {
    let path = dir.join("config.json");
    let before = std::fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&before).unwrap();
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let output = llm_arch(&["tokens", "check", "--model", dir.to_str().unwrap()]);
    std::fs::write(&path, before).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn mismatches_are_found_and_explained() {
    let dir = model(true, 5, SaveOptions::default());
    let (status, text) = checked(dir.path(), |_| {});
    assert!(status == Some(0) && text.contains("belong together"), "{text}");
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 6] = [
        (|config| config["eos_token_id"] = 5000.into(), "out of range"),
        (|config| config["eos_token_id"] = 65.into(), "ordinary token \"A\""),
        (|config| config["bos_token_id"] = config["pad_token_id"].clone(), "another model's"),
        (|config| config["eos_token_id"] = (config["vocab_size"].as_u64().unwrap() - 1).into(), "no token of the tokenizer"),
        (|config| config["vocabulary_hash"] = "0123".into(), "hash 0123"),
        (|config| config["vocab_size"] = 200.into(), "only 200 rows"),
    ];
    for (edit, why) in cases {
        let (status, text) = checked(dir.path(), edit);
        assert!(status == Some(1) && text.contains(why), "expected {why}: {text}");
    }
    // Generating asks the same questions.
    std::fs::write(dir.path().join("generation_config.json"), "{\"eos_token_id\": 65}").unwrap();
    let output = llm_arch(&["generate", dir.path().to_str().unwrap(), "the", "--max-new-tokens", "2"]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("ordinary token"));
    // A tokenizer of another size.
    let other = tempfile::tempdir().unwrap();
    train([TEXT], &TrainerConfig { vocab_size: 330, ..TrainerConfig::default() }).unwrap().save(other.path()).unwrap();
    let args = ["tokens", "check", "--model", dir.path().to_str().unwrap(), "--tokenizer", other.path().to_str().unwrap(), "--json"];
    let output = llm_arch(&args);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && !found["problems"].as_array().unwrap().is_empty(), "{found}");
}

#[test]
fn the_commands_work_one_after_the_other() {
    let dir = model(false, 0, SaveOptions::default());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let run = |args: &[&str]| {
        let output = llm_arch(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let start = dir.path().to_str().unwrap();
    let text = run(&["tokens", "add", "--model", start, "--token", "<tool>", "--token", "-->", "--special", "--out", &at("a")]);
    assert!(text.contains("<tool>") && text.contains("rows"), "{text}");
    std::fs::write(at("words.txt"), " Herzinfarkt\n Herz\nthe\n").unwrap();
    let text = run(&["tokens", "extend", "--model", &at("a"), "--tokens", &at("words.txt"), "--init", "normal", "--seed", "3", "--out", &at("b")]);
    assert!(text.contains("merges") && text.contains("was there"), "{text}");
    std::fs::write(at("sample.txt"), TEXT).unwrap();
    let text = run(&["tokens", "prune", "--model", &at("b"), "--samples", &at("sample.txt"), "--pad-to-multiple", "8", "--out", &at("c")]);
    assert!(text.contains("all as before"), "{text}");
    assert_eq!(json(dir.path().join("c/config.json"))["vocab_size"].as_u64().unwrap() % 8, 0);
    run(&["tokens", "prune", "--model", &at("c"), "--samples", &at("sample.txt"), "--keep-top", "5", "--out", &at("d")]);
    run(&["tokens", "prune", "--model", start, "--keep-top", "290", "--out", &at("e")]);
    for name in ["a", "b", "c", "d", "e"] {
        run(&["tokens", "check", "--model", &at(name)]);
        run(&["generate", &at(name), "the cat", "--max-new-tokens", "3"]);
        run(&["tokens", "glitch", "--model", &at(name)]);
    }
    let output = llm_arch(&["tokens", "add", "--model", start, "--token", "<tool>", "--out", &at("a")]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists already"));
}

/// Replace rows of a table: `made(id)` where it is some.
fn retouch(dir: &Path, name: &str, made: impl Fn(u32) -> Option<Vec<f32>>) {
    let weights = Weights::open(dir).unwrap();
    let mut tensors: BTreeMap<String, HostTensor> = weights.names().into_iter().map(|n| (n.to_string(), weights.get(n).unwrap())).collect();
    let table = tensors.get_mut(name).unwrap();
    let width = table.shape[1];
    for (id, row) in table.values.chunks_mut(width).enumerate() {
        if let Some(values) = made(id as u32) {
            row.copy_from_slice(&values);
        }
    }
    weights::save(dir.join("model.safetensors"), &tensors).unwrap();
}

#[test]
fn tokens_without_training_come_first() {
    let glitches = [259u32, 270, 280];
    // Untied: weight decay left nearly nothing of their rows.
    let dir = model(false, 4, SaveOptions::default());
    let old: Vec<Vec<f32>> = (0..340).map(|id| if glitches.contains(&id) { row(dir.path(), EMBEDDING, id) } else { Vec::new() }).collect();
    retouch(dir.path(), EMBEDDING, |id| glitches.contains(&id).then(|| old[id as usize].iter().map(|v| v * 0.01).collect()));
    let report = glitch(&ModelFolder::open(dir.path()).unwrap(), 0.05, &[]).unwrap();
    let mut first: Vec<u32> = report.suspects.iter().take(3).map(|s| s.id).collect();
    first.sort_unstable();
    assert_eq!(first, glitches);
    assert!(report.suspects[2].norm < 0.1 * report.median);

    // Tied: all rows share a part, and those that were never a target point the same way besides, as the padding does.
    let dir = model(true, 4, SaveOptions::default());
    let tokens = Tokenizer::load(dir.path()).unwrap().vocab_size() as u32;
    retouch(dir.path(), EMBEDDING, |id| {
        let mut rng = Seed(5).at(u64::from(id)).rng();
        // Bytes that UTF-8 never has were no target either; byte 0 is id 0.
        let unused = id >= tokens || glitches.contains(&id) || matches!(id, 0xC0 | 0xC1 | 0xF5..=0xFF);
        let spread = if unused { 0.05 } else { 1.0 };
        let shared = 3.0 * rng.normal();
        Some((0..32).map(|j| (if j == 0 { shared } else { spread * rng.normal() + f64::from(unused && j == 1) * 2.0 }) as f32).collect())
    });
    let report = glitch(&ModelFolder::open(dir.path()).unwrap(), 0.05, &[]).unwrap();
    let mut first: Vec<u32> = report.suspects.iter().take(3).map(|s| s.id).collect();
    first.sort_unstable();
    assert_eq!(first, glitches, "{:?}", report.suspects);
    assert!(report.suspects[0].distance.unwrap() < 0.05 && report.suspects[3].distance.unwrap() > 0.2);
    assert!(report.unused.ends_with(&[tokens, tokens + 1, tokens + 2, tokens + 3]));
    // Bytes above 127 are half characters; the trained ones are reachable.
    assert_eq!(report.kinds[&Kind::Padding], 4);
    assert!(report.partial_utf8.len() >= 128 && report.unreachable.is_empty(), "{report:?}");
}

/// A tokenizer that was trained for a larger vocabulary: its control tokens have other ids, and it has merges that the old one lacks.
fn larger(dir: &Path) -> Tokenizer {
    let mut config = TrainerConfig { vocab_size: 331, ..TrainerConfig::default() };
    config.special_tokens.push("<tool>".into());
    let tokenizer = train([TEXT, TEXT, " Herzinfarkt Herzinfarkt Herzinfarkt"], &config).unwrap();
    tokenizer.save(dir).unwrap();
    tokenizer
}

#[test]
fn a_transplanted_model_computes_the_same_for_tokens_that_both_have() {
    for (tied, precision) in [(true, Precision::F32), (false, Precision::F32), (false, Precision::Bf16)] {
        let options = SaveOptions { precision, ..SaveOptions::default() };
        let (dir, work) = (model(tied, 5, options), tempfile::tempdir().unwrap());
        let out = work.path().join("out");
        let folder = ModelFolder::open(dir.path()).unwrap();
        let new = larger(&work.path().join("tokenizer"));
        let transplant = Transplant::new(&folder.tokenizer, &new, Resize::Subtokens, Seed(1));
        let sizes = folder.transplant(&transplant, 64, &out).unwrap();
        assert_eq!((sizes.tokens, sizes.rows.1), ((folder.tokenizer.vocab_size(), new.vocab_size()), new.vocab_size().next_multiple_of(64)));

        // The same texts under the ids of both.
        let same: Vec<(u32, u32)> = (0..folder.tokenizer.vocab_size() as u32)
            .filter_map(|old| {
                let found = (0..new.vocab_size() as u32)
                    .find(|&id| new.token_bytes(id) == folder.tokenizer.token_bytes(old) && new.is_special(id) == folder.tokenizer.is_special(old));
                Some((old, found?))
            })
            .collect();
        assert_eq!(same.len(), transplant.counts.carried);
        assert!(transplant.counts.moved > 0 && transplant.counts.split > 0 && transplant.counts.drawn == 1, "{}", transplant.counts);
        let ids: Vec<(u32, u32)> = same.iter().copied().step_by(7).take(40).collect();
        let before = logits(dir.path(), &ids.iter().map(|ids| ids.0).collect::<Vec<_>>());
        let after = logits(&out, &ids.iter().map(|ids| ids.1).collect::<Vec<_>>());
        for (before, after) in before.iter().zip(&after) {
            assert!(after.iter().all(|v| v.is_finite()));
            for &(old, new) in &same {
                assert_eq!(before[old as usize].to_bits(), after[new as usize].to_bits(), "token {old}, now {new}");
            }
        }
        // In memory it is the same model.
        let config = transplant.config(folder.decoder_config(), 64);
        let decoder = folder.load(&transplant, &config, &Device::flex(), Precision::F32).unwrap();
        let written = hf::load(&out, &Device::flex()).unwrap();
        assert_eq!(&config, written.config());
        if precision == Precision::F32 {
            assert_eq!(llm_tensor::params::to_host(&decoder), llm_tensor::params::to_host(&written));
        }
        check::require(&out, written.config(), &Tokenizer::load(&out).unwrap()).unwrap();
    }
}

/// A control token's row is the mean of all rows and next to no noise: its logit is the mean logit.
#[test]
fn drawn_rows_are_near_the_mean_and_differ() {
    let (dir, work) = (model(false, 0, SaveOptions::default()), tempfile::tempdir().unwrap());
    let folder = ModelFolder::open(dir.path()).unwrap();
    let new = larger(&work.path().join("tokenizer"));
    let write = |name: &str, seed: u64| {
        let out = work.path().join(name);
        let transplant = Transplant::new(&folder.tokenizer, &new, Resize::Mean, Seed(seed));
        assert_eq!(transplant.counts.split, 0);
        folder.transplant(&transplant, 64, &out).unwrap();
        row(&out, EMBEDDING, new.special_id("<tool>").unwrap())
    };
    let (drawn, other) = (write("one", 1), write("two", 2));
    assert_eq!(drawn, write("again", 1));
    let (table, _, width) = folder.tables().unwrap();
    let tokens = folder.tokenizer.vocab_size();
    for j in 0..width {
        let column: Vec<f64> = (0..tokens).map(|i| f64::from(table[i * width + j])).collect();
        let mean = column.iter().sum::<f64>() / tokens as f64;
        let deviation = (column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / tokens as f64).sqrt();
        assert!((f64::from(drawn[j]) - mean).abs() < 6.0 * 1e-9f64.sqrt() * deviation + 1e-9, "dimension {j}");
    }
    assert_ne!(drawn, other);
}

#[test]
fn extend_vocab_writes_a_model_that_fits_its_tokenizer() {
    let (dir, work) = (model(true, 0, SaveOptions::default()), tempfile::tempdir().unwrap());
    larger(&work.path().join("tokenizer"));
    let at = |name: &str| work.path().join(name).to_str().unwrap().to_string();
    let extend = |more: &[&str]| {
        let (tokenizer, out) = (at("tokenizer"), at("out"));
        let args = [&["extend-vocab", dir.path().to_str().unwrap(), "--tokenizer", &tokenizer, "--out", &out], more].concat();
        let output = llm_arch(&args);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let (fine, text) = extend(&["--resize", "error"]);
    assert!(!fine && text.contains("have no row") && !work.path().join("out").exists(), "{text}");
    let (fine, text) = extend(&[]);
    assert!(fine && text.contains("carried over") && text.contains("made of pieces"), "{text}");
    let checked = llm_arch(&["tokens", "check", "--model", &at("out")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // An id in the configuration whose token is gone.
    let [the] = *Tokenizer::load(dir.path()).unwrap().encode(" the").as_slice() else { panic!("more than one token") };
    std::fs::write(dir.path().join("generation_config.json"), format!("{{\"suppress_tokens\": [{the}]}}")).unwrap();
    std::fs::remove_dir_all(work.path().join("out")).unwrap();
    train(["xyz"], &TrainerConfig { vocab_size: 270, ..TrainerConfig::default() }).unwrap().save(work.path().join("tokenizer")).unwrap();
    let (fine, text) = extend(&[]);
    assert!(!fine && text.contains("suppress_tokens") && text.contains("does not have"), "{text}");
}
