//! Packing end to end: nothing is lost, bytes add up, and threads make no difference.

use llm_data::document::{Document, DocumentWriter};
use llm_data::exercises::{self, ExercisesConfig};
use llm_data::export::{ExportConfig, Format, export};
use llm_data::pack::{Extra, Form, LabelBy, PackConfig, Packing, pack};
use llm_data::shards::Shards;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn documents(n: usize) -> Vec<Document> {
    (0..n)
        .map(|i| {
            let code = i % 3 == 0;
            let line = if code { "    let größe = vec![1, 2, 3];\n" } else { "Packing joins documents – and cuts them into rows. " };
            Document {
                id: format!("d{i}"),
                text: format!("{i} {}", line.repeat(1 + (i * 7) % 23)),
                source: "test".into(),
                lang: (!code).then(|| "en".to_string()),
                domain: if code { "code" } else { "docs" }.into(),
                ..Document::default()
            }
        })
        .collect()
}

fn corpus(dir: &Path, n: usize) -> PackConfig {
    for (name, n) in [("train", n), ("heldout", 10)] {
        let mut writer = DocumentWriter::create(&dir.join(name)).unwrap();
        documents(n).into_iter().for_each(|d| writer.push(d).unwrap());
        writer.finish().unwrap();
    }
    let texts: Vec<String> = documents(30).into_iter().map(|d| d.text).collect();
    let tokenizer = train(&texts, &TrainerConfig { vocab_size: 400, ..TrainerConfig::default() }).unwrap();
    tokenizer.save(dir.join("tokenizer")).unwrap();
    PackConfig {
        tokenizer: dir.join("tokenizer"),
        train: dir.join("train"),
        heldout: Some(dir.join("heldout")),
        sequence_length: 48,
        rows_per_shard: 100,
        ..PackConfig::default()
    }
}

/// Targets of all rows in order, after the very first id.
fn stream(shards: &Shards) -> Vec<u32> {
    let mut ids = shards.row(0).tokens[..1].to_vec();
    for i in 0..shards.len() {
        assert_eq!(shards.row(i).tokens[0], ids[ids.len() - 1], "row {i} does not go on where the one before ended");
        ids.extend(&shards.row(i).tokens[1..]);
    }
    ids
}

fn exercise_file(dir: &Path) -> PathBuf {
    let path = dir.join("train.jsonl");
    let config = ExercisesConfig { count_train: 30, count_heldout: 3, ..ExercisesConfig::default() };
    exercises::write(&path, &exercises::generate(&config).unwrap().train).unwrap();
    path
}

#[test]
fn tokens_and_bytes_are_conserved() {
    let dir = tempfile::tempdir().unwrap();
    let config = PackConfig { fim_rate: 0.0, ..corpus(dir.path(), 60) };
    let out = dir.path().join("out");
    let summaries = pack(&config, &out).unwrap();
    let tokenizer = Tokenizer::load(dir.path().join("tokenizer")).unwrap();
    let (bos, eos) = (tokenizer.bos_id().unwrap(), tokenizer.eos_id().unwrap());
    for (name, n) in [("train", 60), ("heldout", 10)] {
        let (shards, summary) = (Shards::open(out.join(name)).unwrap(), &summaries[name]);
        let ids = stream(&shards);
        let expected: usize = documents(n).iter().map(|d| tokenizer.encode(&d.text).len() + 2).sum();
        assert_eq!(ids.len() as u64, summary.tokens);
        assert_eq!(summary.tokens + summary.dropped_tokens, expected as u64);
        assert!(summary.dropped_tokens < 48);

        // Every document but the last, cut one is there, whole, between its marks.
        let texts: BTreeSet<String> = documents(n).into_iter().map(|d| d.text).collect();
        let found: Vec<String> = ids.split(|id| *id == eos).filter(|d| d.first() == Some(&bos)).map(|d| tokenizer.decode(&d[1..], false)).collect();
        let whole = found.iter().filter(|t| texts.contains(*t)).count();
        assert!(whole + 1 >= n && found.len() <= n, "{name}: {whole} of {n}");

        // Bytes of the targets are the bytes of the text, but for the dropped tail.
        let bytes: u64 = (0..shards.len()).map(|i| u64::from(shards.row(i).target_bytes)).sum();
        assert_eq!(bytes, found.iter().map(|t| t.len() as u64).sum::<u64>());

        // Starts are at begin marks (or 0), and their ids are the documents'.
        for i in 0..shards.len() {
            let row = shards.row(i);
            assert!(row.document_starts[1..].iter().all(|s| row.tokens[*s as usize] == bos));
            assert_eq!(row.tokens[1..].iter().filter(|id| **id == bos).count(), row.document_starts.len() - 1);
        }
    }
}

#[test]
fn one_and_two_threads_write_the_same_bytes_and_another_seed_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let base = corpus(dir.path(), 80);
    let extra = vec![Extra { path: exercise_file(dir.path()), share: 0.2, form: Form::Chat }];
    let config = PackConfig { extra, ..base };
    let run = |name: &str, threads: usize, seed: u64| {
        let out = dir.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| pack(&PackConfig { seed, ..config.clone() }, &out)).unwrap();
        assert!(!out.join(".tmp-tokens").exists());
        llm_run::hash::path(&out).unwrap()
    };
    assert_eq!(run("one", 1, 3), run("two", 2, 3));
    assert_ne!(run("again", 2, 3), run("other", 2, 4));
}

#[test]
fn fill_in_the_middle_touches_code_of_the_training_set_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = PackConfig { fim_rate: 1.0, ..corpus(dir.path(), 60) };
    let out = dir.path().join("out");
    let summaries = pack(&config, &out).unwrap();
    assert!(summaries["train"].fim_chunks >= 20, "every third of 60 documents is code");
    assert_eq!(summaries["heldout"].fim_chunks, 0);
    let tokenizer = Tokenizer::load(dir.path().join("tokenizer")).unwrap();
    let prefix = tokenizer.special_id("<|fim_prefix|>").unwrap();
    let shards = Shards::open(out.join("train")).unwrap();
    for i in 0..shards.len() {
        let row = shards.row(i);
        let ids = shards.document_ids(i);
        for (at, _) in row.tokens.iter().enumerate().filter(|(_, id)| **id == prefix) {
            let document = row.document_starts.iter().rposition(|s| *s as usize <= at).unwrap();
            let number: usize = ids[document][1..].parse().unwrap();
            assert_eq!(number % 3, 0, "document {number} is no code");
        }
    }
}

/// Of every document in a row the shards know what it is, in both packings; padding is nothing.
#[test]
fn documents_keep_their_domain_and_language() {
    let dir = tempfile::tempdir().unwrap();
    let base = PackConfig { fim_rate: 0.0, ..corpus(dir.path(), 60) };
    let source = Shards::open({
        pack(&PackConfig { label_by: LabelBy::Source, ..base.clone() }, &dir.path().join("source")).unwrap();
        dir.path().join("source/train")
    });
    assert_eq!(source.unwrap().labels().domains, ["", "test"]);
    for packing in [Packing::Concatenate, Packing::BestFit] {
        let out = dir.path().join(packing.name());
        pack(&PackConfig { packing, ..base.clone() }, &out).unwrap();
        let shards = Shards::open(out.join("train")).unwrap();
        let mut seen = BTreeSet::new();
        for r in 0..shards.len() {
            for (d, id) in shards.document_ids(r).iter().enumerate() {
                let label = shards.row(r).label(d);
                let names = (&*shards.labels().domains[usize::from(label.domain)], &*shards.labels().languages[usize::from(label.language)]);
                let number: Option<usize> = id.trim_start_matches('d').split('#').next().and_then(|n| n.parse().ok());
                assert_eq!(names, number.map_or(("", ""), |n| if n % 3 == 0 { ("code", "") } else { ("docs", "en") }), "{id}");
                seen.insert(names.0.to_string());
            }
        }
        assert!(seen.contains("code") && seen.contains("docs"));
    }
}

/// Parts of a document are transformed one by one, and what stands between them is a token, in held-out code too.
#[test]
fn fragments_of_code_have_a_token_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let base = corpus(dir.path(), 20);
    let mut writer = DocumentWriter::create(&dir.path().join("repositories")).unwrap();
    let parts = ["fn one() {}\n", "fn two() { 2 }\n", "fn drei() { 3 }\n"];
    for i in 0..40 {
        let document = Document { id: format!("r{i}"), text: parts.join("<|eot_id|>"), domain: "code".into(), ..Document::default() };
        writer.push(document).unwrap();
    }
    writer.finish().unwrap();
    let input = dir.path().join("repositories");
    let config = PackConfig {
        train: input.clone(),
        heldout: Some(input),
        fim_rate: 1.0,
        fim_fragment_rate: 1.0,
        fim_separator: "<|eot_id|>".into(),
        packing: Packing::BestFit,
        sequence_length: 200,
        ..base
    };
    let summaries = pack(&config, &dir.path().join("out")).unwrap();
    assert_eq!((summaries["train"].fim_chunks, summaries["heldout"].fim_chunks), (120, 0));
    let tokenizer = Tokenizer::load(&config.tokenizer).unwrap();
    let count = |name: &str, token: &str| -> usize {
        let shards = Shards::open(dir.path().join("out").join(name)).unwrap();
        let id = tokenizer.special_id(token).unwrap();
        (0..shards.len()).map(|r| shards.row(r).tokens.iter().filter(|t| **t == id).count()).sum()
    };
    assert_eq!((count("train", "<|eot_id|>"), count("heldout", "<|eot_id|>"), count("train", "<|fim_middle|>")), (80, 80, 120));
    let message = pack(&PackConfig { fim_separator: "<|none|>".into(), ..config }, &dir.path().join("no")).unwrap_err().to_string();
    assert!(message.contains("<|none|>") && message.contains("fim_separator"), "{message}");
}

#[test]
fn extra_files_get_their_share_and_the_cap_holds() {
    let dir = tempfile::tempdir().unwrap();
    let base = corpus(dir.path(), 200);
    for form in [Form::Text, Form::Chat] {
        let extra = vec![Extra { path: exercise_file(dir.path()), share: 0.3, form }];
        let config = PackConfig { extra, max_tokens: 6000, fim_rate: 0.0, ..base.clone() };
        let summary = &pack(&config, &dir.path().join("out")).unwrap()["train"];
        let total: u64 = summary.tokens_by_domain.values().sum();
        let share = summary.tokens_by_domain["exercise"] as f64 / total as f64;
        assert!((share - 0.3).abs() < 0.03, "{share}");
        assert!((5800..6700).contains(&summary.tokens), "{}", summary.tokens);
    }
}

#[test]
fn mistakes_are_answered_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let good = corpus(dir.path(), 5);
    let out = dir.path().join("out");
    for (config, named) in [
        (PackConfig { train: PathBuf::new(), ..good.clone() }, "`train` is not set"),
        (PackConfig { train: dir.path().join("nowhere"), ..good.clone() }, "nowhere"),
        (PackConfig { tokenizer: dir.path().join("nowhere"), ..good.clone() }, "nowhere"),
        (PackConfig { fim_rate: 2.0, ..good.clone() }, "fim_rate"),
        (PackConfig { sequence_length: 100_000, ..good.clone() }, "lower sequence_length"),
        (PackConfig { extra: vec![Extra { path: dir.path().join("none.jsonl"), share: 0.1, form: Form::Text }], ..good.clone() }, "none.jsonl"),
    ] {
        let message = pack(&config, &out).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
        assert!(!out.join("train").exists() && !out.join(".tmp-tokens").exists());
    }
}

/// Documents as both packings and both export formats give them, sorted.
fn exported(dir: &Path, packing: Packing, format: Format) -> Vec<Vec<u32>> {
    let out = dir.join(packing.name());
    let config = PackConfig { packing, fim_rate: 0.3, ..corpus(dir, 60) };
    if !out.exists() {
        pack(&config, &out).unwrap();
    }
    let target = dir.join(format!("{}-{format:?}", packing.name()));
    let config = ExportConfig { input: out.join("train"), format, name: "x".into(), tokenizer: "ours".into() };
    let summary = export(&config, &target).unwrap();
    assert_eq!(summary.token_size, 2);
    let read = |name: &str| std::fs::read(target.join(name)).unwrap();
    let (tokens, ends) = match format {
        Format::Datatrove => {
            let index = read("x.ds.index");
            let ends: Vec<u64> = index.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
            let metadata = String::from_utf8(read("x.ds.metadata")).unwrap();
            assert!(metadata.starts_with(&format!("ours|2\n{}\n", summary.tokens)), "{metadata}");
            (read("x.ds"), ends)
        }
        Format::Megatron => {
            let index = read("x.idx");
            let n = summary.documents as usize;
            assert_eq!((&index[..9], index[17], index.len()), (&b"MMIDIDX\0\0"[..], 8, 42 + 20 * n));
            let word = |at: usize| u64::from_le_bytes(index[at..at + 8].try_into().unwrap());
            assert_eq!((word(9), word(18), word(26)), (1, n as u64, n as u64 + 1));
            let lengths: Vec<u64> = (0..n).map(|i| u64::from(u32::from_le_bytes(index[34 + 4 * i..38 + 4 * i].try_into().unwrap()))).collect();
            let ends: Vec<u64> = lengths
                .iter()
                .scan(0, |end, n| {
                    Some({
                        *end += n;
                        *end
                    })
                })
                .collect();
            for i in 0..n {
                assert_eq!(word(34 + 4 * n + 8 * i), 2 * (ends[i] - lengths[i]));
                assert_eq!(word(34 + 12 * n + 8 * i), i as u64);
            }
            (read("x.bin"), ends)
        }
    };
    let tokens: Vec<u32> = tokens.chunks(2).map(|b| u32::from(u16::from_le_bytes(b.try_into().unwrap()))).collect();
    let mut from = 0;
    let mut documents: Vec<Vec<u32>> =
        ends.into_iter().map(|end| tokens[std::mem::replace(&mut from, end as usize)..end as usize].to_vec()).collect();
    documents.sort();
    documents
}

#[test]
fn exports_hold_every_document_whole_in_both_packings() {
    let dir = tempfile::tempdir().unwrap();
    let best = exported(dir.path(), Packing::BestFit, Format::Datatrove);
    assert_eq!(best, exported(dir.path(), Packing::BestFit, Format::Megatron));
    assert_eq!(best.len(), 60);
    let tokenizer = Tokenizer::load(dir.path().join("tokenizer")).unwrap();
    let (bos, eos) = (tokenizer.bos_id().unwrap(), tokenizer.eos_id().unwrap());
    assert!(best.iter().all(|d| d[0] == bos && d[d.len() - 1] == eos && d[1..d.len() - 1].iter().all(|t| *t != bos && *t != eos)));
    let joined = exported(dir.path(), Packing::Concatenate, Format::Datatrove);
    assert_eq!(joined, exported(dir.path(), Packing::Concatenate, Format::Megatron));
    // The last row is cut off: all documents but the last are the same ones.
    let same = joined.iter().filter(|d| best.contains(d)).count();
    assert!(joined.len() - same <= 1 && best.len() - joined.len() <= 1, "{same} of {} and {}", joined.len(), best.len());
}

#[test]
fn best_fit_cuts_only_what_is_longer_than_a_row_and_pads_little() {
    let dir = tempfile::tempdir().unwrap();
    let config = PackConfig { packing: Packing::BestFit, fim_rate: 0.0, sequence_length: 200, ..corpus(dir.path(), 300) };
    let best = pack(&config, &dir.path().join("best")).unwrap();
    let joined = pack(&PackConfig { packing: Packing::Concatenate, ..config.clone() }, &dir.path().join("joined")).unwrap();
    let (best, joined) = (&best["train"], &joined["train"]);
    assert_eq!(best.needlessly_truncated, 0);
    assert!(joined.needlessly_truncated > 20 && best.truncated_documents < joined.truncated_documents, "{best:?} {joined:?}");
    assert!(best.padding_share < 0.02, "{}", best.padding_share);
    assert_eq!(best.tokens, joined.tokens + joined.dropped_tokens);
    let shards = Shards::open(dir.path().join("best/train")).unwrap();
    assert_eq!(shards.packing(), "best_fit");
    let tokenizer = Tokenizer::load(&config.tokenizer).unwrap();
    let mut bytes = 0;
    for r in 0..shards.len() {
        let row = shards.row(r);
        bytes += u64::from(row.target_bytes);
        for (id, start) in shards.document_ids(r).iter().zip(row.document_starts) {
            let token = row.tokens[*start as usize];
            if id.is_empty() {
                assert!(tokenizer.is_special(token), "padding is a control token");
            } else {
                assert!(id.contains("#part") && !id.ends_with("#part0") || Some(token) == tokenizer.bos_id(), "{id}");
            }
        }
    }
    assert_eq!(bytes, best.text_bytes, "every byte of text is asked for once");
}
