//! Real books, pages and archives, where the shared corpora are at hand; skipped with a reason where they are not.

use llm_data::document::{Document, read_all};
use llm_data::extract::extract;
use llm_data::langid;
use llm_data::read::jsonl::{self, OnError};
use llm_data::read::{ReadConfig, Source, read};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

fn corpora(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/corpora")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

fn read_paths(include: Vec<PathBuf>) -> (Vec<Document>, llm_data::funnel::Funnel) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ReadConfig { sources: vec![Source::Paths], ..ReadConfig::default() };
    config.paths.include = include;
    config.paths.on_error = OnError::Skip;
    let funnel = read(&config, dir.path()).unwrap();
    (read_all(dir.path()).unwrap(), funnel)
}

#[test]
fn books_lose_their_frame_and_fall_into_chapters() {
    let Some(root) = corpora("de").zip(corpora("en")).zip(corpora("es")).map(|((a, b), c)| vec![a, b, c]) else { return };
    let (documents, funnel) = read_paths(root);
    for d in &documents {
        assert!(!d.text.contains("*** START OF") && !d.text.contains("Project Gutenberg-tm License"), "{}", d.id);
        assert!(d.text.len() <= 60_000, "{}: {} bytes", d.id, d.text.len());
    }
    let chapters = |name: &str| documents.iter().filter(|d| d.id.contains(name)).count();
    assert_eq!(chapters("pride_and_prejudice"), 61, "61 chapters, the title page with the first");
    assert_eq!(chapters("alice_in_wonderland"), 12 + usize::from(documents.iter().any(|d| d.id.ends_with("alice_in_wonderland.txt#013"))));
    assert!(chapters("cervantes") >= 30 && chapters("hesse") > 5);
    assert_eq!(funnel.counts["Project Gutenberg frames removed"], 7);
    // The same book in latin-1 and in UTF-8 gives the same text.
    let text = |id: &str| documents.iter().filter(|d| d.id.contains(id)).map(|d| d.text.as_str()).collect::<String>();
    assert_eq!(text("kafka_verwandlung.latin-1"), text("kafka_verwandlung.txt"));
}

#[test]
fn archives_give_pages_and_count_what_is_broken() {
    let Some(root) = corpora("warc") else { return };
    let (documents, funnel) = read_paths(vec![root]);
    assert!(documents.len() > 80, "{}", documents.len());
    let dropped = |step: &str| funnel.steps.iter().find(|s| s.name == step).map_or(0, |s| s.dropped);
    assert_eq!(dropped("truncated WARC record"), 1, "clipped.warc.gz");
    assert!(dropped("unsupported file type") >= 5, "ARC files are older than WARC");
    assert!(documents.iter().any(|d| d.url.as_deref().is_some_and(|u| u.contains("iana.org"))));
    let ids: BTreeSet<&str> = documents.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids.len(), documents.len(), "ids are unique");
    // Plain, gzip and lz4 of the same archive hold the same pages.
    let pages = |name: &str| documents.iter().filter(|d| d.id.contains(&format!("{name}#"))).map(|d| d.text.clone()).collect::<Vec<_>>();
    assert!(!pages("resiliparse/warcfile.warc").is_empty());
    assert_eq!(pages("resiliparse/warcfile.warc"), pages("resiliparse/warcfile.warc.gz"));
    assert_eq!(pages("resiliparse/warcfile.warc"), pages("resiliparse/warcfile.warc.lz4"));
}

/// Scrapinghub's benchmark: word 4-gram F1 against hand-made article bodies.
#[test]
fn extraction_agrees_with_hand_made_article_bodies() {
    let Some(root) = corpora("html_eval/article_extraction") else { return };
    let truth: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("ground-truth.json")).unwrap()).unwrap();
    let grams = |text: &str| -> BTreeSet<String> {
        let words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        words.windows(4).map(|w| w.join(" ")).collect()
    };
    let (mut sum, mut n) = (0.0, 0);
    for (id, row) in truth.as_object().unwrap() {
        let path = root.join(format!("html/{id}.html.gz"));
        if !path.is_file() {
            continue;
        }
        let mut html = String::new();
        jsonl::open(&path).unwrap().read_to_string(&mut html).unwrap();
        let (found, gold) = (grams(&extract(&html).text), grams(row["articleBody"].as_str().unwrap()));
        let common = found.intersection(&gold).count() as f64;
        sum += 2.0 * common / (found.len() + gold.len()).max(1) as f64;
        n += 1;
    }
    let f1 = sum / f64::from(n);
    println!("mean F1 over {n} pages: {f1:.3}");
    assert!(f1 > 0.85, "{f1}");
}

#[test]
fn sentences_get_their_language() {
    let Some(root) = corpora("langid/lingua_sentences") else { return };
    for lang in ["en", "de", "es"] {
        let text = std::fs::read_to_string(root.join(format!("{lang}.txt"))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // Paragraphs of five sentences: about the least that the length filter lets through.
        let paragraphs: Vec<String> = lines.chunks(5).map(|c| c.join(" ")).collect();
        let right = paragraphs.iter().filter(|p| langid::identify(p).is_some_and(|l| l.code == lang && l.score >= 0.65)).count();
        assert!(right * 100 >= paragraphs.len() * 90, "{lang}: {right} of {}", paragraphs.len());
    }
}

#[test]
fn the_installed_rust_book_reads_without_furniture() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ReadConfig { sources: vec![Source::RustDocs, Source::Paths], ..ReadConfig::default() };
    config.rust_docs.books = vec!["nomicon".into()];
    config.rust_docs.max_api_pages = 5;
    // Something to read when the documentation is not installed.
    std::fs::write(dir.path().join("x.txt"), "text").unwrap();
    config.paths.include = vec![dir.path().join("x.txt")];
    let funnel = read(&config, &dir.path().join("out")).unwrap();
    if !funnel.by_source.contains_key("rust-docs/nomicon") {
        assert!(funnel.notices.iter().any(|n| n.contains("rustup component add rust-docs")), "{:?}", funnel.notices);
        eprintln!("skipped: the Rust documentation is not installed");
        return;
    }
    for document in read_all(&dir.path().join("out")).unwrap() {
        for furniture in ["Keyboard shortcuts", "Press ← or →", "Toggle Table of Contents", "Search this book", "Expand description"] {
            assert!(!document.text.contains(furniture), "{furniture} in {}", document.id);
        }
    }
}
