//! Learned models on real text: languages, human judgements of quality, classifiers and perplexity from documents to verdicts.

use llm_data::classifier::{ClassifierConfig, ClassifierStep, LabelledInput, TrainClassifierConfig, train_classifier};
use llm_data::document::{Document, DocumentWriter};
use llm_data::fasttext::{Curve, Example, QuantiseConfig, Target, TrainConfig, train};
use llm_data::langid::{Backend, identify};
use llm_data::ngram::buckets::{Bucket, PerplexityConfig, PerplexityStep};
use llm_data::ngram::sample::{NgramConfig, train_ngram};
use llm_data::ngram::{Perplexity, Scorer};
use llm_data::quality::{QualityConfig, QualityModel};
use llm_data::step::{Step, Trace, Verdict};
use llm_run::Seed;
use std::path::PathBuf;

fn corpora(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/corpora")).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not here", path.display());
    None
}

#[test]
fn sentences_of_30_languages() {
    let Some(root) = corpora("langid/lingua_sentences") else { return };
    let mut files: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut sum = 0.0;
    for file in &files {
        let lang = file.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let sentences: Vec<&str> = text.lines().filter(|l| l.chars().count() >= 50).collect();
        let right = sentences.iter().filter(|s| identify(s).is_some_and(|l| l.code == lang)).count();
        let accuracy = right as f64 / sentences.len() as f64;
        println!("{lang} {right:>4} of {:>4}  {accuracy:.3}", sentences.len());
        sum += accuracy;
        assert!(!["en", "de", "es"].contains(&lang) || accuracy >= 0.97, "{lang}: {accuracy:.3}, the bar is 0.97");
    }
    println!("mean {:.3} over {} languages", sum / files.len() as f64, files.len());
    assert!(sum / files.len() as f64 > 0.9);
}

/// `(label is 1, text)`.
fn human_labels() -> Option<Vec<(bool, String)>> {
    let text = std::fs::read_to_string(corpora("quality/dclm_agreement_data.jsonl")?).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    Some(rows.map(|r| (r["label"] == 1, r["text"].as_str().unwrap().to_string())).collect())
}

fn pieces(text: &str, chars: usize) -> Vec<String> {
    let all: Vec<char> = text.chars().collect();
    all.chunks(chars).map(|c| c.iter().collect()).collect()
}

/// Encyclopaedia against crawl, asked about documents that people have judged.
#[test]
fn quality_against_human_labels() {
    let (Some(rows), Some(wiki), Some(web)) = (human_labels(), corpora("en/wiki_demo.txt"), corpora("web/c4_demo.jsonl")) else { return };
    let wiki = std::fs::read_to_string(wiki).unwrap();
    let web = std::fs::read_to_string(web).unwrap();
    let good: Vec<String> = wiki.lines().flat_map(|l| pieces(l, 2000)).filter(|p| p.len() > 500).collect();
    let crawl = web.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["text"].as_str().unwrap().to_string());
    let bad: Vec<String> = crawl.flat_map(|t| pieces(&t, 2000)).filter(|p| p.len() > 500).collect();
    let example = |label: &str, text: &String| Example { label: label.into(), text: text.to_lowercase() };
    let examples: Vec<Example> = good.iter().map(|t| example("good", t)).chain(bad.iter().map(|t| example("web", t))).collect();
    let config = TrainConfig { epoch: 10, ..TrainConfig::default() };
    let model = train(&examples, &config, 1).unwrap();
    let curve = Curve::new(rows.iter().map(|(positive, text)| (model.probability(&text.to_lowercase(), "good"), *positive)).collect());
    println!("encyclopaedia against crawl, {} and {} pieces: AUC {:.3} on {} documents", good.len(), bad.len(), curve.auc().unwrap(), rows.len());
    let references: Vec<(String, String)> = good.iter().enumerate().map(|(i, t)| (i.to_string(), t.clone())).collect();
    let damage = QualityModel::train(&references, &QualityConfig::default(), 1).unwrap();
    let auc = Curve::new(rows.iter().map(|(positive, text)| (damage.score(text), *positive)).collect()).auc().unwrap();
    println!("the filter stage's own score (references against damage): AUC {auc:.3}");
    // Ten parts, each judged by a model of the others.
    let part = |i: usize| Seed(3).at(i as u64).rng().below(10);
    let mut scores = Vec::new();
    for held in 0..10 {
        let seen: Vec<Example> = rows
            .iter()
            .enumerate()
            .filter(|(i, _)| part(*i) != held)
            .map(|(_, (positive, text))| Example { label: positive.to_string(), text: text.to_lowercase() })
            .collect();
        let model = train(&seen, &TrainConfig { epoch: 20, min_count: 3, ..TrainConfig::default() }, 1).unwrap();
        scores.extend(
            rows.iter().enumerate().filter(|(i, _)| part(*i) == held).map(|(_, (p, text))| (model.probability(&text.to_lowercase(), "true"), *p)),
        );
    }
    println!("trained on the judgements themselves, ten-fold: AUC {:.3}", Curve::new(scores).auc().unwrap());
    // What the classifier is trained for it must do: unseen encyclopaedia against unseen crawl.
    let Some(other) = corpora("en/enwiki_8_long_articles.txt") else { return };
    let unseen = std::fs::read_to_string(other).unwrap();
    let kept: Vec<String> = unseen.lines().skip(3).flat_map(|l| pieces(l, 2000)).collect();
    let points = kept.iter().map(|t| (t, true)).chain(rows.iter().map(|(_, t)| (t, false)));
    let auc = Curve::new(points.map(|(t, p)| (model.probability(&t.to_lowercase(), "good"), p)).collect()).auc().unwrap();
    println!("unseen encyclopaedia against unseen crawl: AUC {auc:.3}");
    assert!(auc > 0.95, "{auc}");
}

/// Sentences of a small grammar, or the same words shuffled.
fn text(seed: u64, fluent: bool) -> String {
    let mut rng = Seed(seed).stream("text").rng();
    let subjects = ["the old captain", "a young lady", "my brother", "the quiet neighbour", "nobody in the house"];
    let verbs = ["had never seen", "was talking about", "soon forgot", "wanted to keep", "did not believe in"];
    let objects = ["the long letter from home", "such a beautiful garden", "the story of the lost ship", "any of these old books"];
    let mut lines = Vec::new();
    for _ in 0..12 {
        let line = format!("{} {} {} .", rng.pick(&subjects), rng.pick(&verbs), rng.pick(&objects));
        let mut words: Vec<&str> = line.split(' ').collect();
        if !fluent {
            rng.shuffle(&mut words);
        }
        lines.push(words.join(" "));
    }
    lines.join("\n")
}

fn document(id: String, text: String) -> Document {
    Document { id, text, domain: "docs".into(), lang: Some("en".into()), ..Document::default() }
}

fn write(dir: &std::path::Path, documents: impl Iterator<Item = Document>) {
    let mut writer = DocumentWriter::create(&dir.join("documents")).unwrap();
    documents.for_each(|d| writer.push(d).unwrap());
    writer.finish().unwrap();
}

#[test]
fn a_classifier_from_labelled_documents_to_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("classifier");
    std::fs::create_dir_all(&out).unwrap();
    write(&dir.path().join("good"), (0..200).map(|i| document(format!("g{i}"), text(i, true))));
    let rows: String = (0..200).map(|i| format!("{}\n", serde_json::json!({ "body": text(1000 + i, false), "class": "bad text" }))).collect();
    std::fs::write(dir.path().join("bad.jsonl"), rows).unwrap();
    let config = TrainClassifierConfig {
        inputs: vec![
            LabelledInput { path: dir.path().join("good"), label: "good".into(), ..LabelledInput::default() },
            LabelledInput { path: dir.path().join("bad.jsonl"), text_field: "body".into(), label_field: "class".into(), ..LabelledInput::default() },
        ],
        positive: "good".into(),
        calibration: 0.2,
        test: 0.2,
        target: Target::Precision(0.95),
        model: TrainConfig { bucket: 20_000, epoch: 15, ..TrainConfig::default() },
        quantise: Some(QuantiseConfig::default()),
        ..TrainClassifierConfig::default()
    };
    let found = train_classifier(&config, &out).unwrap();
    assert_eq!(found.documents.keys().collect::<Vec<_>>(), ["bad_text", "good"]);
    assert!(found.auc.unwrap() > 0.95 && found.calibrated.precision >= 0.95, "{found:?}");
    assert!(out.join("model.ftz").metadata().unwrap().len() * 3 < out.join("model.bin").metadata().unwrap().len());
    let step = ClassifierStep::new(ClassifierConfig { name: "quality".into(), model: out.clone(), set_quality: true, ..ClassifierConfig::default() })
        .unwrap();
    let verdict = |fluent| {
        let mut document = document("x".into(), text(77_777, fluent));
        let mut trace = Trace::everything();
        let verdict = step.apply(&mut document, &mut trace).unwrap();
        assert_eq!(trace.signals[0].name, "quality/good");
        assert_eq!(trace.signals[0].value as f32, document.quality.unwrap());
        verdict
    };
    assert_eq!(verdict(true), Verdict::Keep);
    assert!(matches!(verdict(false), Verdict::Drop(reason) if reason.check == "quality"));
    // A bare model needs to be told its label.
    let bare = ClassifierConfig { model: out.join("model.ftz"), label: "toxic".into(), max: Some(0.5), ..ClassifierConfig::default() };
    let error = ClassifierStep::new(bare).unwrap_err().to_string();
    assert!(error.contains("toxic") && error.contains("bad_text"), "{error}");
    let wrong = TrainClassifierConfig { positive: "fine".into(), ..config };
    assert!(train_classifier(&wrong, &out).unwrap_err().to_string().contains("bad_text, good"));
}

#[test]
fn perplexity_sorts_documents_into_head_and_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("lm"));
    std::fs::create_dir_all(&out).unwrap();
    write(&input, (0..300).map(|i| document(format!("d{i}"), text(i, i % 10 < 8))));
    let config = NgramConfig { input, reference: 0.3, ..NgramConfig::default() };
    let found = train_ngram(&config, &out).unwrap();
    assert!(found.training_documents + found.reference_documents == 300 && found.perplexity > 1.0, "{found:?}");
    let scorer = Scorer::open(&out).unwrap();
    assert_eq!(scorer.percentiles.len(), 101);
    let (fluent, noise) = (scorer.perplexity(&text(9_999, true)), scorer.perplexity(&text(9_999, false)));
    assert!(fluent * 3.0 < noise, "{fluent} {noise}");
    assert!(scorer.perplexity("").is_infinite());
    let step = PerplexityStep::new(PerplexityConfig { model: out.clone(), middle_percentile: 70.0, ..PerplexityConfig::default() }).unwrap();
    assert_eq!(step.bucket(&text(9_999, false)).1, Bucket::Tail);
    let mut trace = Trace::default();
    let Verdict::Drop(reason) = step.apply(&mut document("x".into(), text(9_999, false)), &mut trace).unwrap() else { panic!("kept") };
    assert_eq!((reason.check.as_str(), trace.counts[0].0.as_str()), ("perplexity", "perplexity tail"));
    assert_eq!(step.apply(&mut document("x".into(), text(9_998, true)), &mut trace).unwrap(), Verdict::Keep);
    // The same for any number of threads and any order.
    let again = dir.path().join("again");
    std::fs::create_dir_all(&again).unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| train_ngram(&config, &again)).unwrap();
    for file in ["model.kenlm", "ngram.json"] {
        assert!(std::fs::read(out.join(file)).unwrap() == std::fs::read(again.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn fasttext_models_name_languages_too() {
    let label = |path: &str| Backend::open(Some(&PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/fasttext")).join(path)));
    let backend = label("softmax.ftz").unwrap();
    assert_eq!(backend.identify("Als Gregor am anderen Morgen in seinem Zimmer erwachte, sah er das.").unwrap().code, "de");
    assert_eq!(backend.identify("1234 ---"), None);
    assert!(label("expected.json").unwrap_err().to_string().contains("no fastText model"));
}
