//! Training: a function of the text, whatever the threads and the order.
mod common;

use common::{hard_texts, shared};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{SPECIAL_TOKENS, Trainer, TrainerConfig, train};

fn json_of(tokenizer: &Tokenizer) -> String {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap()
}

/// Real text, so that ties and counts are those of a real training: this repository's own, and a book where there is one.
fn texts() -> Vec<String> {
    let mut texts = hard_texts();
    for page in ["architecture.md", "testing.md"] {
        let text = std::fs::read_to_string(format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        texts.extend(text.split_inclusive("\n\n").map(str::to_string));
    }
    if let Some(file) = shared("corpora/en/alice_in_wonderland.txt") {
        texts.extend(std::fs::read_to_string(file).unwrap().split_inclusive("\n\n").map(str::to_string));
    }
    texts
}

#[test]
fn threads_order_and_batches_do_not_matter() {
    let config = TrainerConfig { vocab_size: 1200, ..TrainerConfig::default() };
    let mut texts = texts();
    let expected = json_of(&train(&texts, &config).unwrap());
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        llm_run::Seed(threads as u64).rng().shuffle(&mut texts);
        let tokenizer = pool.install(|| {
            let mut trainer = Trainer::new(config.clone()).unwrap();
            texts.chunks(7 * threads).for_each(|chunk| trainer.feed(chunk).unwrap());
            trainer.finish().unwrap().0
        });
        assert!(json_of(&tokenizer) == expected, "{threads} threads");
    }
}

#[test]
fn ids_are_bytes_then_merges_then_special_tokens() {
    let tokenizer = train(texts(), &TrainerConfig { vocab_size: 700, ..TrainerConfig::default() }).unwrap();
    assert_eq!(tokenizer.vocab_size(), 700);
    assert_eq!(tokenizer.token_bytes(b'a'.into()), Some(&b"a"[..]));
    let first = (700 - SPECIAL_TOKENS.len()) as u32;
    for (token, id) in SPECIAL_TOKENS.iter().zip(first..) {
        assert_eq!(tokenizer.special_id(token), Some(id));
        assert!(tokenizer.is_special(id) && !tokenizer.is_special(id - SPECIAL_TOKENS.len() as u32));
    }
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(first), Some(first + 1), Some(first + 2)));
}

#[test]
fn digits_one_by_one_or_in_threes() {
    let text = "12345 ".repeat(200);
    let lengths = |digits: usize| {
        let tokenizer = train([&text], &TrainerConfig { vocab_size: 300, digits, ..TrainerConfig::default() }).unwrap();
        tokenizer.encode("12345").iter().map(|&id| tokenizer.token_bytes(id).unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(1), [1, 1, 1, 1, 1]);
    assert_eq!(lengths(3), [3, 2]);
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let error = |config: TrainerConfig, texts: &[&str]| train(texts, &config).unwrap_err().to_string();
    assert!(error(TrainerConfig { vocab_size: 100, ..TrainerConfig::default() }, &["a"]).contains("268"));
    assert!(error(TrainerConfig { digits: 2, ..TrainerConfig::default() }, &["a"]).contains("1 (digits one by one)"));
    assert!(error(TrainerConfig::default(), &[""]).contains("no text"));
}
