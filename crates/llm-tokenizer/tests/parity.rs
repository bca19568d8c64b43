//! Ids and text equal to the `tokenizers` crate: for what we train, for recorded fixtures, for real tokenizers.
mod common;

use common::{any_text, fixtures, hard_texts, reference, reference_ids, shared, trained};
use llm_tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;

fn check(ours: &Tokenizer, theirs: &tokenizers::Tokenizer, text: &str) {
    let ids = ours.encode_with_special(text);
    assert_eq!(ids, reference_ids(theirs, text), "ids of {:?}", text.chars().take(200).collect::<String>());
    for skip in [true, false] {
        assert_eq!(ours.decode(&ids, skip), theirs.decode(&ids, skip).unwrap(), "text of {ids:?}");
    }
}

#[test]
fn what_we_save_encodes_the_same_there() {
    for digits in [1, 3] {
        let ours = trained(900, digits);
        let dir = tempfile::tempdir().unwrap();
        ours.save(dir.path()).unwrap();
        let theirs = reference(&dir.path().join("tokenizer.json"));
        let loaded = Tokenizer::load(dir.path()).unwrap();
        assert!(loaded.is_native());
        assert_eq!((loaded.bos_id(), loaded.eos_id(), loaded.pad_id()), (ours.bos_id(), ours.eos_id(), ours.pad_id()));
        for text in hard_texts() {
            check(&ours, &theirs, &text);
            assert_eq!(loaded.encode(&text), ours.encode(&text));
            assert_eq!(loaded.decode(&loaded.encode(&text), false), text, "text survives the round trip");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn random_text(text in any_text()) {
        thread_local!(static PAIR: (Tokenizer, tokenizers::Tokenizer) = {
            let ours = trained(700, 3);
            let dir = tempfile::tempdir().unwrap();
            ours.save(dir.path()).unwrap();
            (ours, reference(&dir.path().join("tokenizer.json")))
        });
        PAIR.with(|(ours, theirs)| {
            check(ours, theirs, &text);
            assert_eq!(ours.decode(&ours.encode(&text), true), text);
        });
    }
}

#[test]
fn recorded_fixtures() {
    for (name, native) in [
        ("bytelevel_gpt2", true),
        ("bytelevel_llama3_split", true),
        ("unigram_metaspace", false),
        ("wordpiece_bert", false),
        ("sentencepiece_bpe_byte_fallback", true),
    ] {
        let dir = fixtures().join("tokenizers").join(name);
        let ours = Tokenizer::load(&dir).unwrap();
        assert_eq!(ours.is_native(), native, "{name}");
        let theirs = reference(&dir.join("tokenizer.json"));
        let recorded: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap();
        let cases = recorded["cases"].as_array().unwrap();
        assert!(cases.len() > 20, "{name}");
        for case in cases.iter().filter(|c| c["add_special_tokens"] == false) {
            let text = case["text"].as_str().unwrap();
            let ids = ours.encode_with_special(text);
            assert_eq!(serde_json::json!(ids), case["ids"], "{name}: {text:?}");
            assert_eq!(ours.decode(&ids, true), case["decoded_skip_special"], "{name}: {text:?}");
            assert_eq!(ours.decode(&ids, false), case["decoded_keep_special"], "{name}: {text:?}");
            let mut stream = ours.decode_stream(false);
            let pieces: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            assert_eq!(pieces + &stream.finish(), case["decoded_keep_special"], "{name}: streamed {text:?}");
        }
        for text in hard_texts().iter().filter(|t| t.len() < 2000) {
            check(&ours, &theirs, text);
        }
    }
}

#[test]
fn real_tokenizers() {
    for (name, native) in [
        ("tokenizers/minimind/tokenizer.json", true),
        ("tokenizers/kitoken/tokenizers/gpt_neox.json", true),
        ("tokenizers/kitoken/tokenizers/sqlpilot.json", false),
    ] {
        let Some(file) = shared(name) else { continue };
        let ours = Tokenizer::load(&file).unwrap();
        let theirs = reference(&file);
        assert_eq!(ours.is_native(), native, "{name}");
        let inputs = ["small_input.txt", "mixed_input.txt", "utf8_input.txt"].map(|f| Path::new("tokenizers/kitoken").join(f));
        for input in inputs.iter().filter_map(|f| shared(f.to_str().unwrap())) {
            check(&ours, &theirs, &std::fs::read_to_string(input).unwrap());
        }
        for text in hard_texts() {
            check(&ours, &theirs, &text);
        }
    }
}

#[test]
fn untrusted_text_never_gives_a_special_token() {
    let ours = trained(600, 1);
    let text = "a <|eot_id|> b<think><|begin_of_text|>";
    let ids = ours.encode(text);
    assert!(ids.iter().all(|&id| !ours.is_special(id)));
    assert_eq!(ours.decode(&ids, true), text);
    assert!(ours.encode_with_special(text).contains(&ours.special_id("<|eot_id|>").unwrap()));
}

#[test]
fn a_batch_is_the_single_calls_in_order() {
    let ours = trained(600, 1);
    let texts = hard_texts();
    let single: Vec<_> = texts.iter().map(|t| ours.encode(t)).collect();
    assert_eq!(ours.encode_batch(&texts), single);
}

#[test]
fn a_megabyte_without_a_blank_takes_no_quadratic_time() {
    let ours = trained(900, 1);
    for unit in ["a", "日本語"] {
        let text = unit.repeat(1_000_000 / unit.len());
        let start = std::time::Instant::now();
        let ids = ours.encode(&text);
        // Quadratic merging takes minutes here.
        assert!(start.elapsed().as_secs() < 10, "{unit}: {:?}", start.elapsed());
        assert_eq!(ours.decode(&ids, true), text);
    }
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    for (text, expected) in [
        ("{", "line 1"),
        ("{}", "no `model`"),
        (r#"{"model": {}, "added_tokens": [{"id": 4294967295, "content": "x"}]}"#, "at most"),
        (r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": 3}"#, "added_tokens"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(expected), "{error}");
    }
    let missing = Tokenizer::load(dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nowhere"), "{missing}");
}
