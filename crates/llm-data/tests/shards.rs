//! Shards on disk: what was written is read back, other Arrow readers agree, and damage is an error, never a panic.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt32Type};
use llm_data::shards::{Label, Labels, NewRow, ShardInfo, ShardWriter, Shards};
use llm_run::Seed;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const LENGTH: usize = 16;

fn info() -> ShardInfo {
    ShardInfo { sequence_length: LENGTH, vocab_size: 4096, tokenizer: "abc".into() }
}

fn rows(n: usize) -> Vec<NewRow> {
    let row = |i: usize| {
        let mut rng = Seed(1).at(i as u64).rng();
        let mut document_starts = vec![0];
        if i.is_multiple_of(3) {
            document_starts.extend([4, 11]);
        }
        NewRow {
            tokens: (0..=LENGTH).map(|_| rng.below(4096) as u32).collect(),
            document_labels: document_starts.iter().map(|s| Label { domain: (i % 3) as u16, language: (*s % 2) as u16 }).collect(),
            document_ids: document_starts.iter().map(|s| Arc::from(format!("dök-{i}-{s}"))).collect(),
            document_starts,
            target_bytes: rng.below(100) as u32,
        }
    };
    (0..n).map(row).collect()
}

fn labels() -> Labels {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    Labels { domains: names(&["", "bücher", "code"]), languages: names(&["", "de"]) }
}

fn write(dir: &Path, rows: &[NewRow], rows_per_shard: usize) {
    let mut writer = ShardWriter::create(dir, info(), rows_per_shard).unwrap().with_labels(labels()).unwrap();
    for row in rows {
        writer.push(row.clone()).unwrap();
    }
    writer.finish().unwrap();
}

fn check_all(shards: &Shards) {
    for i in 0..shards.len() {
        let row = shards.row(i);
        assert_eq!(row.tokens.len(), shards.sequence_length() + 1);
        assert_eq!(shards.document_ids(i).len(), row.document_starts.len());
        for d in 0..row.document_starts.len() {
            let label = row.label(d);
            assert!(usize::from(label.domain) < shards.labels().domains.len().max(1));
            assert!(usize::from(label.language) < shards.labels().languages.len().max(1));
        }
    }
}

#[test]
fn rows_survive_a_round_trip_over_shards_and_batches() {
    let dir = tempfile::tempdir().unwrap();
    for (n, rows_per_shard) in [(1, 10), (25, 10), (1300, 1200), (20, 10)] {
        let (dir, rows) = (dir.path().join("train"), rows(n));
        write(&dir, &rows, rows_per_shard);
        let shards = Shards::open(&dir).unwrap();
        assert_eq!((shards.len(), shards.info(), shards.labels()), (n, &info(), &labels()));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), n.div_ceil(rows_per_shard) + 1, "shards and checksums.json");
        for (i, expected) in rows.iter().enumerate() {
            let row = shards.row(i);
            assert_eq!(row.tokens, expected.tokens);
            assert_eq!((row.document_starts, row.target_bytes), (&expected.document_starts[..], expected.target_bytes));
            assert!(shards.document_ids(i).iter().zip(&expected.document_ids).all(|(a, b)| **a == **b));
            let found: Vec<Label> = (0..row.document_starts.len()).map(|d| row.label(d)).collect();
            assert_eq!(found, expected.document_labels);
        }
    }
}

/// Shards as they were before documents had labels: all of them have none.
#[test]
fn shards_without_labels_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("train");
    let mut writer = ShardWriter::create(&dir, info(), 10).unwrap();
    let plain: Vec<NewRow> = rows(12).into_iter().map(|row| NewRow { document_labels: Vec::new(), ..row }).collect();
    plain.iter().for_each(|row| writer.push(row.clone()).unwrap());
    writer.finish().unwrap();
    let file = std::fs::File::open(dir.join("shard-00000.arrow")).unwrap();
    assert_eq!(arrow_ipc::reader::FileReader::try_new(file, None).unwrap().schema().fields().len(), 4);
    let shards = Shards::open(&dir).unwrap();
    assert_eq!((shards.len(), shards.labels()), (12, &Labels::default()));
    check_all(&shards);
    assert!((0..12).all(|i| shards.row(i).tokens == plain[i].tokens && shards.row(i).label(0) == Label::default()));
}

#[test]
fn labels_without_a_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&dir.path().join("train"), info(), 10).unwrap().with_labels(labels()).unwrap();
    let row = rows(1).remove(0);
    let label = |domain, language| vec![Label { domain, language }; row.document_starts.len()];
    for document_labels in [label(3, 0), label(0, 2), Vec::new()] {
        assert!(writer.push(NewRow { document_labels, ..row.clone() }).unwrap_err().to_string().contains("labels"));
    }
    writer.push(NewRow { document_labels: label(2, 1), ..row.clone() }).unwrap();
}

#[test]
fn the_arrow_reader_sees_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, rows) = (dir.path().join("train"), rows(30));
    write(&dir, &rows, 100);
    let file = std::fs::File::open(dir.join("shard-00000.arrow")).unwrap();
    let batch = arrow_ipc::reader::FileReader::try_new(file, None).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 30);
    let tokens = batch.column_by_name("tokens").unwrap().as_list::<i32>().value(7);
    assert_eq!(tokens.as_primitive::<UInt32Type>().values(), &rows[7].tokens[..]);
    let ids = batch.column_by_name("document_ids").unwrap().as_list::<i32>().value(6);
    assert_eq!(ids.as_string::<i32>().value(2), &*rows[6].document_ids[2]);
    assert_eq!(ids.len(), 3);
    let domains = batch.column_by_name("document_domains").unwrap().as_list::<i32>().value(7);
    assert_eq!(domains.as_primitive::<UInt16Type>().values(), &[1]);
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, &rows(50), 20);
    write(&b, &rows(50), 20);
    assert_eq!(Shards::open(&a).unwrap().hash().unwrap(), Shards::open(&b).unwrap().hash().unwrap());
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("train");
    let mut writer = ShardWriter::create(&target, info(), 2).unwrap().with_labels(labels()).unwrap();
    for row in rows(5) {
        writer.push(row).unwrap();
    }
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(Shards::open(&target).unwrap_err().to_string().contains("llm-data pack"));
}

#[test]
fn every_truncation_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("train");
    write(&dir, &rows(12), 100);
    let path = dir.join("shard-00000.arrow");
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let message = Shards::open(&dir).unwrap_err().to_string();
        assert!(message.contains("shard-00000.arrow") && message.contains("damaged or truncated"), "{message}");
    }
}

/// If this fails, training learns from what a disk made up.
#[test]
fn every_flipped_bit_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("train");
    write(&dir, &rows(12), 5);
    Shards::open(&dir).unwrap().verify().unwrap();
    let path = dir.join("shard-00001.arrow");
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        let message = Shards::open(&dir).and_then(|shards| shards.hash()).unwrap_err().to_string();
        assert!(message.contains("shard-00001.arrow"), "byte {at}: {message}");
    }
    std::fs::remove_file(&path).unwrap();
    let message = Shards::open(&dir).unwrap().verify().unwrap_err().to_string();
    assert!(message.contains("shard-00001.arrow"), "a missing shard: {message}");
    std::fs::write(&path, &bytes).unwrap();
    std::fs::copy(&path, dir.join("shard-00007.arrow")).unwrap();
    let message = Shards::open(&dir).unwrap().verify().unwrap_err().to_string();
    assert!(message.contains("shard-00007.arrow"), "a shard too many: {message}");
    std::fs::remove_file(dir.join("checksums.json")).unwrap();
    Shards::open(&dir).unwrap().hash().unwrap();
}

#[test]
fn shards_of_two_runs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, &rows(3), 100);
    let writer = ShardWriter::create(&b, ShardInfo { vocab_size: 5000, ..info() }, 100).unwrap();
    let mut writer = writer.with_labels(labels()).unwrap();
    writer.push(rows(1).remove(0)).unwrap();
    writer.finish().unwrap();
    std::fs::copy(b.join("shard-00000.arrow"), a.join("shard-00001.arrow")).unwrap();
    let message = Shards::open(&a).unwrap_err().to_string();
    assert!(message.contains("shard-00001.arrow") && message.contains("5000"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// A damaged file opens or does not; if it opens, every row can be read.
    #[test]
    fn damaged_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), tail: bool) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("train");
        write(&dir, &rows(6), 100);
        let path = dir.join("shard-00000.arrow");
        let mut bytes = std::fs::read(&path).unwrap();
        for (index, byte) in changes {
            // Half of the cases aim at the footer, where the offsets are.
            let from = if tail { bytes.len() * 2 / 3 } else { 0 };
            let at = from + index.index(bytes.len() - from);
            bytes[at] = byte;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(shards) = Shards::open(&dir) {
            check_all(&shards);
        }
    }
}
