//! Training: a function of the text, whatever the threads and the order.
mod common;

use common::{hard_texts, shared};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{ByteOrder, Pretokenizer, SPECIAL_TOKENS, Trainer, TrainerConfig, Weights, train};

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
            texts.chunks(7 * threads).for_each(|chunk| trainer.feed(chunk));
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
    assert!(error(TrainerConfig { bos_token: "<s>".to_string(), ..TrainerConfig::default() }, &["a"]).contains("bos_token = \"<s>\" is not among"));
    let weights = Weights([("de".to_string(), -1.0)].into());
    assert!(error(TrainerConfig { weights, ..TrainerConfig::default() }, &["a"]).contains("weights.de"));
}

#[test]
fn counts_on_disk_and_a_stopped_process_change_nothing() {
    let config = TrainerConfig { vocab_size: 900, ..TrainerConfig::default() };
    let texts = texts();
    let expected = json_of(&train(&texts, &config).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let middle = texts.len() / 2;
    let mut first = Trainer::new(config.clone()).unwrap();
    first.spill_to(dir.path(), 1);
    for chunk in texts[..middle].chunks(9) {
        first.feed(chunk);
        assert!(first.wants_to_spill());
        first.save_counts().unwrap();
    }
    let left = first.save_counts().unwrap();
    drop(first);
    let mut second = Trainer::new(config).unwrap();
    second.spill_to(dir.path(), 1 << 30);
    second.resume(&left);
    second.feed(&texts[middle..]);
    assert!(json_of(&second.finish().unwrap().0) == expected);
}

/// The reference trains with the same cut and alphabet, and has the same rule for ties.
#[test]
fn merges_are_those_of_hugging_face() {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    let texts = texts();
    let config = TrainerConfig {
        vocab_size: 1500,
        pretokenizer: Some(Pretokenizer::Gpt2),
        byte_order: ByteOrder::Gpt2,
        max_token_bytes: usize::MAX,
        special_tokens: Vec::new(),
        bos_token: String::new(),
        eos_token: String::new(),
        pad_token: String::new(),
        ..TrainerConfig::default()
    };
    let ours = json_of(&train(&texts, &config).unwrap());
    let mut trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut theirs = tokenizers::TokenizerBuilder::<_, tokenizers::NormalizerWrapper, _, ByteLevel, ByteLevel>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, false, true)))
        .with_normalizer(None)
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .unwrap();
    theirs.train(&mut trainer, texts.into_iter()).unwrap();
    let merges = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["model"]["merges"].clone();
    let theirs = merges(&theirs.to_string(false).unwrap());
    assert_eq!(theirs.as_array().unwrap().len(), 1500 - 256);
    assert!(merges(&ours) == theirs);
}

#[test]
fn weights_make_a_small_language_as_heavy_as_a_large_one() {
    let large = "the house of the mother ".repeat(500);
    let small = "das haus der mutter ";
    let weights = Weights([("de".to_string(), 1.0), ("en".to_string(), 1.0)].into());
    let mut trainer = Trainer::new(TrainerConfig { vocab_size: 300, weights: weights.clone(), ..TrainerConfig::default() }).unwrap();
    trainer.feed_group(&[small], weights.group(Some("de"), None));
    trainer.feed_group(&[&large], weights.group(None, Some("en")));
    trainer.feed(&["neither language counts "]);
    let (tokenizer, summary) = trainer.finish().unwrap();
    assert!((summary.weights["de"].given - 0.5).abs() < 1e-4 && summary.weights["de"].found < 0.01, "{:?}", summary.weights);
    // Once in the text, but as heavy as the whole of English.
    assert_eq!(tokenizer.encode(" haus").len(), 1);
}
