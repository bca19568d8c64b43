//! The text side end to end on a small corpus of our own: read, filter, dedup, split, sample; determinism; error paths.

use llm_data::dedup::{DedupConfig, dedup};
use llm_data::document::{Document, DocumentWriter, read_all};
use llm_data::explain::{Fate, fates};
use llm_data::filter::{FilterConfig, filter};
use llm_data::read::jsonl::OnError;
use llm_data::read::{ReadConfig, Source, read};
use llm_data::sample::{SampleConfig, sample};
use llm_data::split::{SplitConfig, split};
use llm_run::Seed;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// English-looking paragraphs that differ from document to document.
fn prose(n: u64) -> String {
    let mut rng = Seed(n).stream("prose").rng();
    let who =
        ["The old captain", "A young doctor", "Her brother", "The gardener", "Our neighbour", "The teacher", "A stranger", "The miller's daughter"];
    let what = [
        "walked slowly through",
        "had never forgotten",
        "wrote a long letter about",
        "was looking for",
        "spoke quietly of",
        "remembered",
        "returned to",
        "dreamed about",
    ];
    let whom = [
        "the quiet harbour",
        "the house by the river",
        "that cold winter",
        "the book he had lost",
        "the road to the mountains",
        "an empty room",
        "the summer before the war",
        "the garden behind the church",
    ];
    let when = [
        "in the morning",
        "when the rain had stopped",
        "before anyone else was awake",
        "for many years",
        "without saying a word",
        "as if nothing had happened",
    ];
    (0..40)
        .map(|i| {
            let n: u64 = rng.below(1000) as u64;
            let end = if i % 6 == 5 { ".\n\n" } else { ". " };
            format!("{} {} {} {}, and page {} was missing{end}", rng.pick(&who), rng.pick(&what), rng.pick(&whom), rng.pick(&when), spelled(n))
        })
        .collect()
}

fn spelled(n: u64) -> String {
    let digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    n.to_string().bytes().map(|b| digits[usize::from(b - b'0')]).collect::<Vec<_>>().join(" ")
}

fn corpus(dir: &Path) -> PathBuf {
    let root = dir.join("corpus");
    std::fs::create_dir_all(root.join("texts")).unwrap();
    for i in 0..120 {
        std::fs::write(root.join(format!("texts/t{i:03}.md")), prose(i)).unwrap();
    }
    std::fs::write(root.join("texts/copy.md"), prose(5)).unwrap();
    std::fs::write(root.join("texts/near.md"), format!("{} One more sentence at the very end of it all.", prose(7))).unwrap();
    std::fs::write(root.join("texts/short.md"), "Too short.").unwrap();
    std::fs::write(root.join("texts/menu.md"), "Home\nProducts\nAbout us\nContact\nLogin\nImprint\nHelp\nSearch\n".repeat(40)).unwrap();
    std::fs::write(root.join("texts/contact.md"), format!("{} Write to jane@uni-ulm.de or call +49 731 50-22033.\n", prose(900))).unwrap();
    std::fs::write(
        root.join("program.rs"),
        (0..40).map(|i| format!("pub fn function_{i}(value: u64) -> u64 {{\n    value.wrapping_mul({i}).rotate_left({i})\n}}\n")).collect::<String>(),
    )
    .unwrap();
    std::fs::write(root.join("data.bin"), [0u8, 1, 2]).unwrap();
    root
}

fn read_config(include: &Path) -> ReadConfig {
    let mut config = ReadConfig { sources: vec![Source::Paths], ..ReadConfig::default() };
    config.paths.include = vec![include.to_path_buf()];
    config
}

/// All stages into `run`.
fn pipeline(corpus: &Path, run: &Path) {
    read(&read_config(corpus), &run.join("read")).unwrap();
    filter(&FilterConfig { input: run.join("read"), ..FilterConfig::default() }, &run.join("filter")).unwrap();
    dedup(&DedupConfig { input: run.join("filter"), ..DedupConfig::default() }, &run.join("dedup")).unwrap();
    split(&SplitConfig { input: run.join("dedup"), fraction: 0.1, ..SplitConfig::default() }, &run.join("split")).unwrap();
    sample(&SampleConfig { inputs: vec![run.join("split/train")], max_bytes: 50_000, ..SampleConfig::default() }, &run.join("sample")).unwrap();
}

#[test]
fn each_document_meets_its_fate_and_explain_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    pipeline(&corpus(dir.path()), &run);
    let dropped_by = |id: &str, stage: &str| match fates(id, &run.join(stage)).unwrap().remove(0).1 {
        Fate::Dropped(drop) => drop.step,
        Fate::Kept(..) => "kept".into(),
        Fate::Unseen => "unseen".into(),
    };
    assert_eq!(dropped_by("corpus/data.bin", "read"), "unsupported file type");
    assert_eq!(dropped_by("corpus/texts/short.md", "filter"), "length");
    assert_eq!(dropped_by("corpus/texts/menu.md", "filter"), "duplicate lines");
    // `copy.md` comes before `t005.md`, so it is the one that stays; `near.md` before `t007.md`.
    assert_eq!(dropped_by("corpus/texts/copy.md", "dedup"), "kept");
    assert_eq!(dropped_by("corpus/texts/t005.md", "dedup"), "exact duplicate");
    assert_eq!(dropped_by("corpus/texts/t007.md", "dedup"), "near duplicate");
    assert_eq!(dropped_by("corpus/program.rs", "split"), "kept");
    assert_eq!(dropped_by("corpus/nowhere.md", "read"), "unseen");

    let (train, heldout) = (read_all(&run.join("split/train")).unwrap(), read_all(&run.join("split/heldout")).unwrap());
    let ids = |documents: &[Document]| documents.iter().map(|d| d.id.clone()).collect::<BTreeSet<_>>();
    assert!(ids(&train).is_disjoint(&ids(&heldout)));
    assert!((5..25).contains(&heldout.len()), "{}", heldout.len());
    let contact = train.iter().chain(&heldout).find(|d| d.id.ends_with("contact.md")).unwrap();
    assert!(contact.text.contains("Write to [EMAIL] or call [PHONE].") && contact.quality.unwrap() > 0.5 && contact.lang.as_deref() == Some("en"));
    for id in ids(&train).iter().chain(&ids(&heldout)) {
        assert!(!id.contains(dir.path().to_str().unwrap()), "{id} holds a machine path");
    }
    let rows = std::fs::read_to_string(run.join("sample/sample.jsonl")).unwrap();
    assert!(rows.lines().count() > 10 && rows.len() < 80_000);
}

#[test]
fn one_and_two_threads_write_the_same_bytes_and_a_rerun_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = corpus(dir.path());
    let hash = |threads: usize, name: &str| {
        let run = dir.path().join(name);
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| pipeline(&root, &run));
        llm_run::hash::path(&run).unwrap()
    };
    let one = hash(1, "one");
    assert_eq!(one, hash(2, "two"));
    assert_eq!(one, hash(2, "two"), "a second run over a finished one");
    // What a killed run leaves behind is not taken for output.
    std::fs::create_dir_all(dir.path().join("one/dedup/.tmp-documents")).unwrap();
    std::fs::write(dir.path().join("one/dedup/.tmp-documents/part-00000.parquet"), "half").unwrap();
    assert_eq!(one, hash(2, "one"));
    assert!(!dir.path().join("one/dedup/.tmp-documents").exists());
}

/// The error of reading `files` with default settings; nothing may be left in the output folder.
fn read_error(files: &[(&str, &[u8])], on_error: OnError) -> Result<usize, String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("in");
    std::fs::create_dir_all(&root).unwrap();
    for (name, bytes) in files {
        std::fs::write(root.join(name), bytes).unwrap();
    }
    let mut config = read_config(&root);
    config.paths.on_error = on_error;
    let out = dir.path().join("out");
    match read(&config, &out) {
        Ok(funnel) => Ok(funnel.documents_out as usize),
        Err(error) => {
            let left: Vec<_> = std::fs::read_dir(&out).map(|d| d.collect()).unwrap_or_default();
            assert!(left.is_empty(), "half-written: {left:?}");
            Err(error.to_string())
        }
    }
}

#[test]
fn damaged_input_ends_in_one_line_that_names_the_place() {
    let good = b"{\"text\":\"fine\"}\n";
    let mut lines = good.repeat(3);
    lines.extend_from_slice(b"{\"text\": \n");
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.jsonl", &lines, &["a.jsonl", "line 4", "on_error"]),
        ("b.jsonl", b"{\"content\":\"x\"}\n", &["b.jsonl", "line 1", "content", "text_field"]),
        ("c.json", b"[{\"text\":\"x\"}, 5]", &["c.json", "element 2"]),
        ("d.parquet", b"PAR1 no", &["d.parquet", "Parquet", "truncated"]),
        ("e.txt.gz", b"\x1f\x8b\x08\x00broken", &["e.txt.gz", "copy the file again"]),
    ];
    for (name, bytes, expected) in cases {
        let message = read_error(&[(name, bytes), ("z.txt", b"some text")], OnError::Fail).unwrap_err();
        assert!(!message.contains('\n'), "one line: {message}");
        for part in *expected {
            assert!(message.contains(part), "`{part}` in: {message}");
        }
        let kept = read_error(&[(name, bytes), ("z.txt", b"some text")], OnError::Skip).unwrap();
        assert!(kept >= 1, "{name}: the other documents stay");
    }
}

#[test]
fn missing_and_empty_inputs_say_what_to_do() {
    let empty = read_error(&[], OnError::Fail).unwrap_err();
    assert!(empty.contains("no file in it"), "{empty}");
    let useless = read_error(&[("x.bin", b"\0")], OnError::Fail).unwrap_err();
    assert!(useless.contains("no document was read"), "{useless}");
    let dir = tempfile::tempdir().unwrap();
    let missing = read(&read_config(&dir.path().join("nowhere")), &dir.path().join("out")).unwrap_err().to_string();
    assert!(missing.contains("nowhere") && missing.contains("paths.include"), "{missing}");
}

#[test]
fn a_corpus_that_fails_every_check_is_an_error_and_not_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DocumentWriter::create(&dir.path().join("in/documents")).unwrap();
    writer.push(Document { id: "a".into(), text: "short".into(), domain: "docs".into(), ..Document::default() }).unwrap();
    writer.finish().unwrap();
    let out = dir.path().join("out");
    let message = filter(&FilterConfig { input: dir.path().join("in"), ..FilterConfig::default() }, &out).unwrap_err().to_string();
    assert!(message.contains("`length` dropped most"), "{message}");
    assert!(!out.join("documents").exists() && !out.join("funnel.json").exists());
}

#[test]
fn parquet_of_other_people_needs_only_a_text_column() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DocumentWriter::create(&dir.path().join("in")).unwrap();
    for i in 0..3 {
        writer
            .push(Document { id: format!("x{i}"), text: prose(i), domain: "web".into(), license: Some("CC0-1.0".into()), ..Document::default() })
            .unwrap();
    }
    writer.finish().unwrap();
    read(&read_config(&dir.path().join("in")), &dir.path().join("out")).unwrap();
    let documents = read_all(&dir.path().join("out")).unwrap();
    assert_eq!(
        documents.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(),
        ["in/part-00000.parquet#1", "in/part-00000.parquet#2", "in/part-00000.parquet#3"]
    );
    assert_eq!(documents[1].license.as_deref(), Some("CC0-1.0"));
    let mut config = read_config(&dir.path().join("in"));
    config.paths.text_field = "body".into();
    let message = read(&config, &dir.path().join("out2")).unwrap_err().to_string();
    assert!(message.contains("no column `body`") && message.contains("text_field"), "{message}");
}
