//! fastText models of the reference give the reference's answers; damaged ones give errors; ours are read back as they were.

use llm_data::fasttext::{Curve, Example, Loss, Model, QuantiseConfig, TrainConfig, train};
use proptest::prelude::*;
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/fasttext"))
}

fn models() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "bin" || e == "ftz"));
    all.sort();
    assert!(all.len() >= 10, "{all:?}");
    all
}

#[derive(serde::Deserialize)]
struct Expected {
    model: String,
    text: String,
    labels: Vec<String>,
    probabilities: Vec<f32>,
}

fn expected() -> Vec<Expected> {
    serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

#[test]
fn labels_and_probabilities_are_the_references() {
    let (mut worst, mut compared) = (0f32, 0);
    for path in models() {
        let model = Model::open(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let cases: Vec<Expected> = expected().into_iter().filter(|e| e.model == name).collect();
        assert!(!cases.is_empty(), "no expectations for {name}: run benches/peers/make_fasttext_fixtures.py");
        for case in cases {
            let found = model.predict(&case.text, 5, 0.0);
            assert_eq!(found.len(), case.labels.len(), "{name}: {:?}", case.text);
            for (i, (ours, theirs)) in found.iter().zip(&case.probabilities).enumerate() {
                worst = worst.max((ours.probability - theirs).abs());
                assert!((ours.probability - theirs).abs() < 1e-5, "{name}: {:?}: {ours:?} {theirs}", case.text);
                // Labels of equal probability may come in any order.
                let tied = |j: Option<&f32>| j.is_some_and(|p| (p - theirs).abs() < 2e-6);
                let alike = tied(case.probabilities.get(i + 1)) || i > 0 && tied(case.probabilities.get(i - 1));
                assert!(
                    alike || i == 4 || format!("__label__{}", ours.label) == case.labels[i],
                    "{name}: {:?}: {found:?} {:?}",
                    case.text,
                    case.labels
                );
            }
            compared += 1;
        }
    }
    println!("{compared} predictions, largest difference {worst:e}");
}

#[test]
fn files_are_written_as_they_were_read() {
    for path in models() {
        let bytes = std::fs::read(&path).unwrap();
        assert!(Model::from_bytes(&bytes, "x").unwrap().to_bytes() == bytes, "{}", path.display());
    }
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let error = |bytes: &[u8]| Model::from_bytes(bytes, "lid.bin").unwrap_err().to_string();
    assert!(error(b"").contains("truncated"), "{}", error(b""));
    assert!(error(&[7; 400]).contains("no fastText model"));
    let good = std::fs::read(fixtures().join("ova.bin")).unwrap();
    let mut vectors = good.clone();
    vectors[36] = 1;
    assert!(error(&vectors).contains("word vectors"), "{}", error(&vectors));
    for cut in [20, 70, 300, good.len() / 2, good.len() - 1] {
        assert!(error(&good[..cut]).contains("truncated"), "{cut}: {}", error(&good[..cut]));
    }
    // A header that asks for terabytes.
    let mut huge = good;
    huge[8..12].copy_from_slice(&i32::MAX.to_le_bytes());
    assert!(error(&huge).contains("damaged"), "{}", error(&huge));
    assert!(error(&[good_with_rows(i64::MAX / 64), vec![]].concat()).contains("damaged"));
}

/// `ova.bin` with another number of rows in the input matrix.
fn good_with_rows(rows: i64) -> Vec<u8> {
    let mut bytes = std::fs::read(fixtures().join("ova.bin")).unwrap();
    let model = Model::from_bytes(&bytes, "x").unwrap();
    let output = 1 + 16 + model.labels().len() * model.args.dim as usize * 4;
    let input = (model.words() + model.args.bucket as usize) * model.args.dim as usize * 4 + 16;
    let at = bytes.len() - output - input;
    bytes[at..at + 8].copy_from_slice(&rows.to_le_bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Bytes changed, removed or repeated anywhere: an error or a model that answers, never a panic.
    #[test]
    fn damaged_files_do_not_panic(which in 0usize..10, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..12), head in any::<bool>()) {
        let mut bytes = std::fs::read(&models()[which]).unwrap();
        for (at, value, kind) in edits {
            // Half of the cases are about the headers.
            let at = at.index(if head { bytes.len().min(120) } else { bytes.len() });
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, value),
            }
        }
        if let Ok(model) = Model::from_bytes(&bytes, "mutated") {
            let _ = model.predict("Der Übersetzer said que sí, __label__en and so on", 3, 0.0);
            let _ = model.to_bytes();
        }
    }

    #[test]
    fn any_text_gets_an_answer(text in any::<String>(), which in 0usize..10) {
        let model = Model::open(&models()[which]).unwrap();
        for p in model.predict(&text, 3, 0.0) {
            prop_assert!((0.0..=1.0001).contains(&p.probability));
        }
    }
}

fn examples(n: usize, offset: usize) -> Vec<Example> {
    let subjects = [["the garden", "a river", "our house"], ["der Garten", "ein Fluss", "unser Haus"]];
    let verbs = [["grows", "is seen", "stands"], ["wächst", "ist zu sehen", "steht"]];
    (0..n)
        .map(|i| {
            let (k, lang) = ((i + offset) * 7919, i % 2);
            let text = (0..5).map(|j| format!("{} {} {}", subjects[lang][(k >> j) % 3], verbs[lang][(k >> (j + 3)) % 3], (k * j) % 50));
            Example { label: ["en", "de"][lang].into(), text: text.collect::<Vec<_>>().join("\n") }
        })
        .collect()
}

#[test]
fn training_learns_and_is_the_same_for_any_number_of_threads() {
    let config = TrainConfig { bucket: 2000, minn: 2, maxn: 3, ..TrainConfig::default() };
    let data = examples(400, 0);
    let model = train(&data, &config, 1).unwrap();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    for threads in [1, 3] {
        assert!(pool(threads).install(|| train(&data, &config, 1)).unwrap().to_bytes() == model.to_bytes(), "{threads} threads");
    }
    assert!(train(&data, &config, 2).unwrap().to_bytes() != model.to_bytes());
    for example in examples(50, 7_000) {
        assert_eq!(model.predict(&example.text, 1, 0.0)[0].label, example.label);
    }
    let ova = train(&data, &TrainConfig { loss: Loss::Ova, ..config.clone() }, 1).unwrap();
    assert_eq!(ova.predict("der Garten wächst", 1, 0.0)[0].label, "de");
    let again = Model::from_bytes(&model.to_bytes(), "saved").unwrap();
    assert_eq!(again.predict("the garden", 2, 0.0), model.predict("the garden", 2, 0.0));
}

#[test]
fn quantised_models_are_smaller_and_answer_nearly_the_same() {
    let config = TrainConfig { bucket: 6000, minn: 2, maxn: 4, dim: 10, ..TrainConfig::default() };
    let model = train(&examples(400, 0), &config, 1).unwrap();
    for quantise in [
        QuantiseConfig::default(),
        QuantiseConfig { norms: false, width: 3, keep_rows: 0 },
        QuantiseConfig { keep_rows: 500, ..QuantiseConfig::default() },
    ] {
        let small = model.quantise(&quantise).unwrap();
        let bytes = small.to_bytes();
        assert!(bytes.len() * 3 < model.to_bytes().len(), "{quantise:?}: {}", bytes.len());
        let small = Model::from_bytes(&bytes, "small.ftz").unwrap();
        for example in examples(40, 9_000) {
            let (a, b) = (model.probability(&example.text, "en"), small.probability(&example.text, "en"));
            assert!((a - b).abs() < 0.1, "{quantise:?}: {a} {b}");
        }
    }
    assert!(model.quantise(&QuantiseConfig { keep_rows: 100, ..QuantiseConfig::default() }).unwrap_err().to_string().contains("256"));
}

#[test]
fn settings_that_cannot_be_trained_are_refused() {
    let data = examples(10, 0);
    let error = |config: TrainConfig| train(&data, &config, 1).unwrap_err().to_string();
    assert!(error(TrainConfig { loss: Loss::Hs, ..TrainConfig::default() }).contains("softmax or ova"));
    assert!(error(TrainConfig { dim: 0, ..TrainConfig::default() }).contains("dim"));
    let same: Vec<Example> = data.iter().map(|e| Example { label: "x".into(), ..e.clone() }).collect();
    assert!(train(&same, &TrainConfig::default(), 1).unwrap_err().to_string().contains("two at least"));
    assert!(Curve::new(vec![]).auc().is_none());
}
