//! Every source on real files: the shared corpora where they are at hand (skipped with a reason where not), the registry's own
//! packages, and containers built around real text.

use llm_data::document::{Document, read_all};
use llm_data::funnel::Funnel;
use llm_data::read::jsonl::OnError;
use llm_data::read::paths::PathsConfig;
use llm_data::read::{ReadConfig, Source, gutenberg, read};
use std::path::{Path, PathBuf};

fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there", path.display());
    None
}

fn read_paths(paths: PathsConfig) -> (Vec<Document>, Funnel, String) {
    let dir = tempfile::tempdir().unwrap();
    let config = ReadConfig { sources: vec![Source::Paths], paths, ..ReadConfig::default() };
    let funnel = read(&config, dir.path()).unwrap();
    (read_all(dir.path()).unwrap(), funnel, std::fs::read_to_string(dir.path().join("dropped.jsonl")).unwrap())
}

fn skipping(include: Vec<PathBuf>) -> PathsConfig {
    PathsConfig { include, on_error: OnError::Skip, ..PathsConfig::default() }
}

fn dropped(funnel: &Funnel, step: &str) -> u64 {
    funnel.steps.iter().find(|s| s.name == step).map_or(0, |s| s.dropped)
}

#[test]
fn books_know_their_title_date_and_language() {
    let Some(root) = data("corpora") else { return };
    for (name, title, author, lang, date) in [
        ("de/goethe_faust1.txt", "Faust: Der Tragödie erster Teil", "Johann Wolfgang von Goethe", Some("de"), "2000-06"),
        ("de/hesse_siddhartha.txt", "Siddhartha", "Herman Hesse", Some("en"), "2008-04-06"),
        ("de/kafka_verwandlung.txt", "Die Verwandlung", "Franz Kafka", Some("de"), "2007-08-21"),
        ("en/alice_in_wonderland.txt", "Alice’s Adventures in Wonderland", "Lewis Carroll", Some("en"), "1994-03"),
        ("es/cervantes_don_quijote.txt", "Don Quijote", "Miguel de Cervantes Saavedra", Some("es"), "1999-12"),
    ] {
        let text = std::fs::read_to_string(root.join(name)).unwrap();
        let book = gutenberg::parse(&text).unwrap();
        assert_eq!((book.title.as_deref(), book.author.as_deref()), (Some(title), Some(author)), "{name}");
        assert_eq!((book.lang.as_deref(), book.date.as_deref()), (lang, Some(date)), "{name}");
        for gone in ["Project Gutenberg EBook", "Produced by", "Ende dieses Projekt", "freundlicherweise"] {
            assert!(!book.text.contains(gone), "{name}: {gone}");
        }
        assert!(book.text.len() * 10 > text.len() * 8, "{name}: {} of {}", book.text.len(), text.len());
    }
}

#[test]
fn archives_are_read_record_by_record_and_damage_has_a_place() {
    let Some(root) = data("corpora/warc") else { return };
    let (documents, funnel, drops) = read_paths(skipping(vec![root]));
    // One record in the world has neither: the last of link-extraction-test.warc.
    let without: Vec<&str> =
        documents.iter().filter(|d| d.date.as_deref().is_none_or(|d| d.len() < 10) || d.url.is_none()).map(|d| d.id.as_str()).collect();
    assert_eq!(without, ["warc/webarchive-commons/link-extraction-test.warc#8"], "every other page has its address and date");
    for line in drops.lines().filter(|l| l.contains("WARC record")) {
        assert!(line.contains("at byte "), "{line}");
    }
    assert!(dropped(&funnel, "HTTP status") > 0 && dropped(&funnel, "media type") > 0);
    // The damaged ones of warcio's own tests still give their good records.
    let of = |name: &str| documents.iter().filter(|d| d.id.contains(name)).count();
    for name in ["example-bad-non-chunked", "example-wrong-chunks", "example-iana.org-chunked", "example-trunc", "dolma/sample-0000"] {
        assert!(of(name) > 0, "{name}\n{drops}");
    }
}

#[test]
fn rows_of_code_have_language_and_licence() {
    let Some(root) = data("corpora/code/code_from_datasets.jsonl") else { return };
    let (documents, ..) = read_paths(skipping(vec![root.clone()]));
    assert!(documents.len() > 1000 && documents.iter().all(|d| d.license.is_some() && d.lang.is_some()), "{}", documents.len());
    let mut config = skipping(vec![root]);
    config.code.licenses = vec!["CC-BY-4.0".into()];
    let (some, funnel, _) = read_paths(config);
    assert_eq!(some.len() as u64 + dropped(&funnel, "licence"), documents.len() as u64);
}

/// The unpacked packages of the registry are trees with licences.
#[test]
fn code_trees_have_the_licence_of_their_package() {
    let Some(registry) = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| std::env::home_dir().map(|h| h.join(".cargo"))) else { return };
    let index = std::fs::read_dir(registry.join("registry/src")).ok().and_then(|mut d| d.next()).and_then(Result::ok);
    let Some(index) = index else {
        eprintln!("skipped: no unpacked packages");
        return;
    };
    let package = |name: &str| {
        let mut found: Vec<PathBuf> = std::fs::read_dir(index.path()).unwrap().flatten().map(|e| e.path()).collect();
        found.retain(|p| {
            p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.strip_prefix(name).is_some_and(|r| r.starts_with(['0', '1', '2', '3'])))
        });
        found.sort();
        found.pop()
    };
    let (Some(serde), Some(encoding)) = (package("serde-"), package("encoding_rs-")) else { return };
    let mut config = skipping(vec![serde, encoding]);
    config.code.licenses = llm_data::read::license::PERMISSIVE.iter().map(|s| s.to_string()).collect();
    let (documents, funnel, _) = read_paths(config);
    let rust: Vec<&Document> = documents.iter().filter(|d| d.lang.as_deref() == Some("rust")).collect();
    assert!(rust.len() > 20);
    assert!(rust.iter().filter(|d| d.id.starts_with("serde-")).all(|d| d.license.as_deref() == Some("Apache-2.0 OR MIT")));
    assert!(dropped(&funnel, "generated file") > 0, "encoding_rs has generated tables");
}

#[test]
fn a_data_set_folder_is_read_by_its_readme() {
    let Some(root) = data("benchmarks/gsm8k") else { return };
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("gsm8k");
    std::fs::create_dir_all(set.join("data")).unwrap();
    std::fs::copy(root.join("test.jsonl"), set.join("data/test-00000-of-00001.jsonl")).unwrap();
    std::fs::copy(root.join("train_first2000.jsonl"), set.join("data/train-00000-of-00001.jsonl")).unwrap();
    std::fs::write(set.join("README.md"), "---\nlicense: mit\ntask_categories:\n- question-answering\n---\n# GSM8K\n").unwrap();
    let mut config = skipping(vec![set]);
    config.rows.template = "{question}\n{answer}".into();
    config.rows.splits = vec!["test".into()];
    let (documents, ..) = read_paths(config);
    assert_eq!(documents.len(), 1319);
    assert!(documents.iter().all(|d| d.license.as_deref() == Some("MIT") && d.text.contains("####") && d.id.contains("test-00000")));
}

/// Real articles in a dump of our own: what goes in as text comes out as text.
#[test]
fn a_dump_around_real_articles_gives_them_back() {
    let Some(path) = data("corpora/en/wiki_demo.txt") else { return };
    let text = std::fs::read_to_string(path).unwrap();
    let articles: Vec<&str> = text.lines().filter(|l| l.len() > 500 && !l.contains(['[', '{', '<', '|', '_'])).take(10).collect();
    assert!(articles.len() >= 5, "{}", articles.len());
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let pages: String = articles
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let source = format!("{{{{Infobox|x=[[y]]}}}}\n{a}<ref>{{{{cite|x}}}}</ref>\n\n== References ==\n{{{{reflist}}}}\n[[Category:C]]");
            format!(
                "<page><title>A {i}</title><ns>0</ns><revision><timestamp>2024-05-06T00:00:00Z</timestamp><text>{}</text></revision></page>",
                escape(&source)
            )
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("enwiki-pages-articles.xml.zst");
    std::fs::write(&dump, zstd::encode_all(format!("<mediawiki>{pages}</mediawiki>").as_bytes(), 3).unwrap()).unwrap();
    let (documents, ..) = read_paths(skipping(vec![dump]));
    assert_eq!(documents.len(), articles.len());
    for (document, article) in documents.iter().zip(articles) {
        let words = |t: &str| t.replace("''", "").split_whitespace().map(str::to_string).collect::<Vec<_>>();
        let body = document.text.split_once("\n\n").unwrap().1;
        assert_eq!(words(body), words(article), "{}", document.id);
    }
}

/// The same rows through every container.
#[test]
fn parquet_arrow_and_json_lines_agree() {
    use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
    use std::sync::Arc;
    let Some(path) = data("corpora/web/c4_demo.jsonl") else { return };
    let rows: Vec<serde_json::Value> = std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let texts: Vec<&str> = rows.iter().filter_map(|r| r["text"].as_str()).collect();
    let text: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let date: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1_714_979_289_000; texts.len()]));
    let batch = RecordBatch::try_from_iter([("text", text), ("timestamp", date)]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut writer = parquet::arrow::ArrowWriter::try_new(std::fs::File::create(at("a.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut writer = arrow_ipc::writer::FileWriter::try_new(std::fs::File::create(at("file.arrow")).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(std::fs::File::create(at("stream.arrow")).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let lines: String = texts.iter().map(|t| serde_json::json!({"text": t, "timestamp": "2024-05-06T07:08:09Z"}).to_string() + "\n").collect();
    std::fs::write(at("a.jsonl"), lines).unwrap();
    let expected: Vec<(String, Option<String>)> = texts.iter().map(|t| (t.to_string(), Some("2024-05-06T07:08:09Z".to_string()))).collect();
    for name in ["a.jsonl", "a.parquet", "file.arrow", "stream.arrow"] {
        let (documents, ..) = read_paths(skipping(vec![at(name)]));
        let found: Vec<(String, Option<String>)> = documents.into_iter().map(|d| (d.text, d.date)).collect();
        assert!(found == expected, "{name}: {} rows, first {:?}", found.len(), found.first());
    }
}

#[test]
fn one_thread_and_many_give_the_same_bytes() {
    let Some(root) = data("corpora/warc/resiliparse") else { return };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| read_paths(skipping(vec![root.clone()])))
    };
    let ((one, _, drops_one), (four, _, drops_four)) = (run(1), run(4));
    assert!(one == four && drops_one == drops_four);
}

#[test]
fn nothing_depends_on_where_the_files_lie() {
    let write = |root: &Path| {
        std::fs::create_dir_all(root.join("set")).unwrap();
        std::fs::write(root.join("set/a.md"), "---\ndate: 2024-01-01\n---\n# A\n").unwrap();
        std::fs::write(root.join("set/b.json"), "{broken").unwrap();
        std::fs::write(root.join("set/c.py"), "#!/usr/bin/python\nprint(1)\n").unwrap();
        read_paths(skipping(vec![root.join("set")]))
    };
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (write(a.path()), write(b.path()));
    assert_eq!((one.0, one.2), (two.0, two.2));
}
