//! Mixing, redaction and decontamination as stages on folders of documents.

use llm_data::contamination::{Action, Decontaminate, DecontaminateConfig, IndexConfig, Scratch, StageConfig, decontaminate, write_index};
use llm_data::document::{Document, DocumentWriter, read_all};
use llm_data::mix::{MixConfig, Rule, Source, Unit, mix};
use llm_data::pii::{Pii, PiiConfig, PiiStageConfig, ReportReader, UnredactConfig, redact_documents, unredact_documents};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn write(dir: &Path, documents: impl IntoIterator<Item = Document>) -> PathBuf {
    let path = dir.join("documents");
    let mut writer = DocumentWriter::create(&path).unwrap();
    documents.into_iter().for_each(|d| writer.push(d).unwrap());
    writer.finish().unwrap();
    path
}

fn document(id: String, lang: &str, domain: &str, text: String) -> Document {
    Document { id, text, lang: Some(lang.into()), domain: domain.into(), source: "test".into(), ..Document::default() }
}

fn corpus(dir: &Path) -> PathBuf {
    let of = |i: usize| {
        let (lang, domain) = [("en", "web"), ("en", "web"), ("en", "web"), ("de", "web"), ("rust", "code"), ("fr", "web")][i % 6];
        document(format!("d{i}"), lang, domain, format!("{i} {}", "some words of text ".repeat(1 + i * 13 % 40)))
    };
    write(dir, (0..1200).map(of))
}

fn source(lang: &str, domain: &str, weight: f64, max_epochs: Option<f64>) -> Source {
    Source { rule: Rule { lang: Some(lang.into()), domain: Some(domain.into()), ..Rule::default() }, weight, max_epochs }
}

fn config(input: PathBuf) -> MixConfig {
    let sources = BTreeMap::from([
        ("code".to_string(), source("*", "code", 0.2, Some(3.0))),
        ("english".to_string(), source("en", "web", 0.5, None)),
        ("german".to_string(), source("de", "web", 0.3, None)),
    ]);
    MixConfig { inputs: vec![input], sources, unit: Unit::Bytes, budget: 300_000, ..MixConfig::default() }
}

fn hash(path: &Path) -> String {
    llm_run::hash::path(path).unwrap()
}

#[test]
fn shares_are_met_within_a_document_and_order_depends_on_nothing_but_seed_and_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(corpus(dir.path()));
    let (funnel, report) = mix(&config, &dir.path().join("a")).unwrap();
    let longest = 800.0;
    for s in &report.sources {
        assert!((s.written - s.planned).abs() <= longest / 2.0 && !s.capped, "{s:?}");
        assert!((s.share - s.target_share).abs() < 0.005, "{s:?}");
    }
    assert_eq!(report.unmatched, 200, "French fits no source");
    assert_eq!(funnel.steps.iter().find(|s| s.name == "no source").unwrap().dropped, 200);
    let mixed = read_all(&dir.path().join("a")).unwrap();
    let bytes: usize = mixed.iter().map(|d| d.text.len()).sum();
    assert_eq!(bytes as f64, report.total);
    // German is drawn more than once: whole passes, unique ids.
    let german = report.sources.iter().find(|s| s.name == "german").unwrap();
    assert!(german.epochs > 1.0, "{german:?}");
    let ids: std::collections::HashSet<&str> = mixed.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids.len(), mixed.len());
    assert!(ids.iter().any(|id| id.ends_with("#pass1")));
    // Any prefix is mixed.
    let head = &mixed[..mixed.len() / 10];
    let share = head.iter().filter(|d| d.lang.as_deref() == Some("de")).count() as f64 / head.len() as f64;
    let whole = german.documents_written as f64 / mixed.len() as f64;
    assert!((share - whole).abs() < 0.02, "{share} {whole}");

    // Small buckets, one thread: the same bytes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| mix(&MixConfig { bucket_bytes: 10_000, ..config.clone() }, &dir.path().join("b"))).unwrap();
    assert_eq!(hash(&dir.path().join("a/documents")), hash(&dir.path().join("b/documents")));
    mix(&MixConfig { epoch: 1, ..config.clone() }, &dir.path().join("c")).unwrap();
    assert_ne!(hash(&dir.path().join("a/documents")), hash(&dir.path().join("c/documents")));
    assert!(!dir.path().join("a/.tmp-buckets").exists());
}

#[test]
fn caps_move_the_rest_to_the_others_and_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(corpus(dir.path()));
    config.budget = 700_000;
    let (_, report) = mix(&config, &dir.path().join("a")).unwrap();
    let code = report.sources.iter().find(|s| s.name == "code").unwrap();
    assert!((code.epochs - 1.0).abs() < 1.1, "{code:?}");
    config.sources.get_mut("code").unwrap().max_epochs = Some(0.5);
    let (_, report) = mix(&config, &dir.path().join("b")).unwrap();
    let code = report.sources.iter().find(|s| s.name == "code").unwrap();
    assert!(code.capped && (code.epochs - 0.5).abs() < 0.02, "{code:?}");
    assert!((report.total - 700_000.0).abs() < 3.0 * 800.0, "{}", report.total);
    config.sources.insert("nothing".into(), source("xx", "*", 1.0, None));
    let message = mix(&config, &dir.path().join("c")).unwrap_err().to_string();
    assert!(message.contains("mix.sources.nothing"), "{message}");
}

#[test]
fn the_example_mixture_adds_up() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/mix-llama3.toml"));
    let config: MixConfig = llm_run::config::load(Some(path), &[]).unwrap();
    let of = |lang: &str, domain: &str| {
        let document = document("x".into(), lang, domain, String::new());
        config.sources.iter().find(|(_, s)| s.rule.fits(&document)).unwrap().0.as_str()
    };
    assert_eq!([of("en", "web"), of("de", "web"), of("rust", "code"), of("en", "math")], ["general", "multilingual", "code", "maths"]);
    assert_eq!(config.sources.values().map(|s| s.weight).sum::<f64>(), 100.0);
}

#[test]
fn redaction_is_restored_from_a_private_report() {
    let dir = tempfile::tempdir().unwrap();
    let text = |i: usize| match i % 3 {
        0 => format!("Mail {i}: user{i}@firma.de, IBAN DE89 3704 0044 0532 0130 00, Tel. 0731/50220{}", i % 10),
        1 => format!("nothing personal in {i}"),
        _ => format!("host 93.184.216.{i} and 93.184.216.34"),
    };
    let originals: Vec<Document> = (0..90).map(|i| document(format!("d{i}"), "de", "web", text(i))).collect();
    let input = write(dir.path(), originals.clone());
    let out = dir.path().join("redacted");
    let funnel = redact_documents(&PiiStageConfig { input, ..PiiStageConfig::default() }, &out).unwrap();
    let count = |name: &str| funnel.counts.get(name).copied().unwrap_or(0);
    assert_eq!((count("redacted email"), count("redacted iban"), count("redacted phone"), count("redacted ip")), (30, 30, 30, 60));
    let redacted = read_all(&out).unwrap();
    assert!(redacted.iter().all(|d| !d.text.contains('@') && !d.text.contains("DE89") && !d.text.contains("93.184")));
    assert_eq!(redacted[0].text, "Mail 0: <EMAIL>, IBAN <IBAN>, Tel. <PHONE>");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |p: PathBuf| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(out.join("private")), mode(out.join("private/pii.parquet"))), (0o700, 0o600));
    }
    assert_eq!(ReportReader::open(&out.join("private")).unwrap().of("d0").len(), 3);
    // A part of the documents, in another order.
    let some = write(&dir.path().join("some"), redacted.into_iter().rev().take(50));
    let config = UnredactConfig { input: some, report: out.join("private") };
    let (documents, _) = unredact_documents(&config, &dir.path().join("restored")).unwrap();
    assert_eq!(documents, 50);
    let restored = read_all(&dir.path().join("restored")).unwrap();
    assert_eq!(restored, originals.into_iter().rev().take(50).collect::<Vec<_>>());
}

#[test]
fn without_benchmarks_the_stage_says_so_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let input = corpus(dir.path());
    let (funnel, reports) = decontaminate(&StageConfig { input: input.clone(), ..StageConfig::default() }, &dir.path().join("out")).unwrap();
    assert!(funnel.notices[0].contains("not decontaminated") && reports.is_empty());
    assert_eq!(read_all(&input).unwrap(), read_all(&dir.path().join("out")).unwrap());
}

/// The shared benchmark files, if they are there.
fn benchmarks() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/benchmarks"));
    if !path.is_dir() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path.to_path_buf())
}

#[test]
fn planted_questions_are_found_in_real_benchmarks_and_fewer_of_them_after_edits() {
    let Some(folder) = benchmarks() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = IndexConfig { benchmarks: vec![folder.clone()], ..IndexConfig::default() };
    let (index, bytes) = write_index(&config, dir.path()).unwrap();
    println!("{} keys, {:.1} MB, {} benchmarks", index.len(), bytes as f64 / 1e6, index.info.benchmarks.len());
    for name in [
        "mmlu",
        "gsm8k",
        "hellaswag",
        "arc_easy",
        "piqa",
        "truthfulqa",
        "bbh",
        "mgsm",
        "xcopa",
        "humaneval",
        "humaneval_x",
        "mbpp",
        "math500",
        "lambada",
        "chartqa",
        "winogrande",
        "xquad",
        "mathvista",
    ] {
        assert!(index.info.benchmarks.iter().any(|b| b == name), "{name} is not indexed: {:?}", index.info.benchmarks);
    }
    // Every question of GSM8K's test set of at least 13 words, each in a document of its own, with every k-th word replaced.
    let questions: Vec<String> = std::fs::read_to_string(folder.join("gsm8k/test.jsonl"))
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["question"].as_str().unwrap().to_string())
        .filter(|q| q.split_whitespace().count() >= 13)
        .collect();
    let mut shares = Vec::new();
    for every in [usize::MAX, 40, 30, 20, 12] {
        let edited = questions.iter().enumerate().map(|(i, q)| {
            let words = q.split_whitespace().enumerate().map(|(k, w)| if (k + i) % every == every - 1 { "zebra" } else { w });
            let filler = format!("unrelated sentence number {i} about nothing in particular. ").repeat(20);
            document(format!("q{i}"), "en", "web", format!("{filler}{} {filler}", words.collect::<Vec<_>>().join(" ")))
        });
        let input = write(&dir.path().join(format!("in-{every}")), edited);
        let decontaminate_config =
            DecontaminateConfig { index: Some(dir.path().join("contamination.idx")), action: Action::Report, ..DecontaminateConfig::default() };
        let (_, reports) =
            decontaminate(&StageConfig { input, decontaminate: decontaminate_config }, &dir.path().join(format!("out-{every}"))).unwrap();
        shares.push(reports["gsm8k"].documents as f64 / questions.len() as f64);
    }
    println!("GSM8K found with every 0th, 40th, 30th, 20th, 12th word replaced: {shares:.3?}");
    assert_eq!(shares[0], 1.0, "an exact copy is always found");
    assert!(shares[1] > 0.95 && shares[3] > 0.5, "{shares:?}");
    // Eleven words between white space are at times thirteen of ours (`market's`, `$2.50`).
    assert!(shares[4] < 0.15, "{shares:?}");
}

/// Documents of about 3 kB from the shared books, if they are there.
fn books() -> Option<Vec<String>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/corpora"));
    let mut texts = Vec::new();
    for name in
        ["en/alice_in_wonderland.txt", "en/pride_and_prejudice.txt", "en/wiki_demo.txt", "de/goethe_faust1.txt", "es/cervantes_don_quijote.txt"]
    {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else {
            println!("skipped: {} is not there", root.join(name).display());
            return None;
        };
        let mut rest = text.as_str();
        while rest.len() > 3000 {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(3000));
            texts.push(head.to_string());
            rest = tail;
        }
    }
    Some(texts)
}

/// Processor time of this thread where the system tells, else time on the clock.
fn processor_seconds() -> f64 {
    static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let clock = || BEGUN.get_or_init(std::time::Instant::now).elapsed().as_secs_f64();
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    scheduled.and_then(|s| s.split_whitespace().next()?.parse::<f64>().ok()).map_or_else(clock, |ns| ns * 1e-9)
}

#[test]
fn looking_at_a_document_takes_microseconds() {
    let (Some(folder), Some(texts)) = (benchmarks(), books()) else { return };
    let config = DecontaminateConfig { build: IndexConfig { benchmarks: vec![folder], ..IndexConfig::default() }, ..DecontaminateConfig::default() };
    let step = Decontaminate::from_config(&config).unwrap().unwrap();
    let pii = Pii::new(&PiiConfig::default()).unwrap();
    let bytes: usize = texts.iter().map(String::len).sum();
    let least = |work: &mut dyn FnMut(&str)| {
        (0..7)
            .map(|_| {
                let begun = processor_seconds();
                texts.iter().for_each(|t| work(t));
                (processor_seconds() - begun) / texts.len() as f64 * 1e6
            })
            .fold(f64::INFINITY, f64::min)
    };
    let mut scratch = Scratch::default();
    let mut spans = 0;
    let contamination = least(&mut |text| spans += step.outcome(text, &mut scratch).spans.len());
    let mut found = 0;
    let redaction = least(&mut |text| found += pii.find(text, None, false).len());
    let size = bytes as f64 / texts.len() as f64;
    println!(
        "{} documents of {size:.0} bytes, one thread: decontamination {contamination:.1} us, personal data {redaction:.1} us ({:.0} and {:.0} MB/s); {} spans, {} finds",
        texts.len(),
        size / contamination,
        size / redaction,
        spans / 7,
        found / 7
    );
    assert_eq!(spans, 0, "books hold no benchmark");
    assert!(contamination <= 34.0, "{contamination} us");
}
