//! Vocabularies after surgery. If one of these fails, old ids change their meaning, text is cut into tokens it was not cut into before, or
//! Hugging Face's libraries number the tokens differently from the rows of the model.
mod common;

use common::{any_text, fixtures, hard_texts, reference, reference_ids, shared, trained};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::surgery::{NewToken, Placement, Placing};
use proptest::prelude::*;
use serde_json::json;

const KINDS: [&str; 5] = ["bytelevel_gpt2", "bytelevel_llama3_split", "sentencepiece_bpe_byte_fallback", "unigram_metaspace", "wordpiece_bert"];

fn fixture(kind: &str) -> Tokenizer {
    Tokenizer::load(fixtures().join("tokenizers").join(kind)).unwrap()
}

fn token(content: &str, special: bool) -> NewToken {
    NewToken { content: content.into(), special }
}

/// Saved, opened with the `tokenizers` crate, and opened again: the same ids everywhere.
fn agrees(tokenizer: &Tokenizer, texts: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let (again, theirs) = (Tokenizer::load(dir.path()).unwrap(), reference(&dir.path().join("tokenizer.json")));
    assert_eq!(again.vocabulary_hash(), tokenizer.vocabulary_hash());
    for text in texts {
        let ids = tokenizer.encode_with_special(text);
        assert_eq!(ids, reference_ids(&theirs, text), "{text:?}");
        assert_eq!(ids, again.encode_with_special(text), "{text:?}");
    }
}

#[test]
fn new_tokens_follow_the_old_ones_and_ordinary_text_is_cut_as_before() {
    for old in KINDS.map(fixture).into_iter().chain([trained(700, 3)]) {
        let grown = old.with_tokens(&[token("<tool_call>", true), token("<|note|>", false)]).unwrap();
        let new = &grown.tokenizer;
        let first = old.vocab_size() as u32;
        assert_eq!(grown.made.iter().map(|made| made.id).collect::<Vec<_>>(), [first, first + 1]);
        assert_eq!(grown.made[0].pieces, old.encode("<tool_call>"));
        assert_eq!((new.vocab_size(), new.bos_id(), new.eos_id()), (old.vocab_size() + 2, old.bos_id(), old.eos_id()));
        for text in hard_texts() {
            assert_eq!(new.encode(&text), old.encode(&text), "{text:?}");
        }
        assert!(!new.encode("a<tool_call>b").contains(&first), "untrusted text made a special token");
        assert!(new.encode_with_special("a<tool_call>b").contains(&first) && new.encode("a<|note|>b").contains(&(first + 1)));
        agrees(new, &["a<tool_call>b <|note|> c".to_string(), "<|note|><|note|>".into()]);
    }
}

#[test]
fn what_cannot_be_added_is_named() {
    let old = trained(700, 3);
    let refused = |tokens: &[NewToken], why: &str| {
        let message = old.with_tokens(tokens).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
    };
    refused(&[token("<think>", true)], "already");
    refused(&[token("a", false)], "already");
    refused(&[token("", true)], "without text");
    refused(&[token("<x>", true), token("<x>", true)], "twice");
}

#[test]
fn the_other_files_name_new_tokens_too() {
    let dir = tempfile::tempdir().unwrap();
    trained(700, 3).save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let old = Tokenizer::load(dir.path()).unwrap();
    let decoder: serde_json::Map<_, _> = old.added_tokens().iter().map(|t| (t.id.to_string(), json!({"content": t.content}))).collect();
    config["added_tokens_decoder"] = decoder.into();
    config["additional_special_tokens"] = json!(["<think>"]);
    std::fs::write(&path, config.to_string()).unwrap();
    let old = Tokenizer::load(dir.path()).unwrap();
    let read = |tokenizer: &Tokenizer| -> serde_json::Value {
        tokenizer.save(dir.path()).unwrap();
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
    };
    let grown = read(&old.with_tokens(&[token("<tool>", true)]).unwrap().tokenizer);
    assert_eq!(grown["added_tokens_decoder"][old.vocab_size().to_string()]["content"], "<tool>");
    assert_eq!(grown["additional_special_tokens"], json!(["<think>", "<tool>"]));
    let pruned = old.pruned([]).unwrap();
    let decoder = read(&pruned.tokenizer)["added_tokens_decoder"].clone();
    for token in pruned.tokenizer.added_tokens() {
        assert_eq!(decoder[token.id.to_string()]["content"], token.content);
    }
    assert_eq!(decoder.as_object().unwrap().len(), old.added_tokens().len());
}

#[test]
fn words_become_tokens_through_merges_and_the_rest_as_added_tokens() {
    let old = trained(500, 3);
    let words = [" Donaudampfschiff", "Donaudampf", "hahahaha", " Donaudampfschiff", "two words", "日本語", "a"].map(str::to_string);
    let grown = old.with_vocabulary(&words, Placement::Merges).unwrap();
    let new = &grown.tokenizer;
    assert!(new.is_native());
    for word in &words {
        assert_eq!(new.encode(word).len(), 1, "{word:?}: {:?}", new.encode(word));
    }
    let how = |text: &str| grown.made.iter().find(|made| made.text == text).map(|made| made.placing);
    assert_eq!((how(" Donaudampfschiff"), how("two words")), (Some(Placing::Merged), Some(Placing::Added)));
    assert_eq!(grown.present.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), [" Donaudampfschiff", "a"]);
    // Ids without a gap, each with the old pieces of its text: what rows are made from.
    for (place, made) in grown.made.iter().enumerate() {
        assert_eq!(made.id as usize, old.vocab_size() + place);
        let bytes: Vec<u8> = made.pieces.iter().flat_map(|&id| old.token_bytes(id).unwrap().to_vec()).collect();
        assert_eq!(new.token_bytes(made.id), Some(bytes.as_slice()));
    }
    // Control tokens stay out of reach.
    assert_eq!(new.encode("<|eot_id|>"), old.encode("<|eot_id|>"));
    let texts = ["im Donaudampfschiff der Donaudampf, two words hahahaha<|eot_id|>".to_string(), "日本語hahaha".into()];
    agrees(new, &texts);
    // And once more on top.
    let twice = new.with_tokens(&[token("<tool>", true)]).unwrap();
    assert_eq!(twice.made[0].id as usize, new.vocab_size());
    agrees(&twice.tokenizer, &texts);
    agrees(&twice.tokenizer.pruned(twice.tokenizer.encode(&texts[0])).unwrap().tokenizer, &texts);

    let apart = old.with_vocabulary(&words, Placement::Added).unwrap();
    assert!(apart.made.iter().all(|made| made.placing == Placing::Added));
    agrees(&apart.tokenizer, &texts);
}

/// Samples through a pruned tokenizer: the same tokens under new ids.
fn prune_keeps(old: &Tokenizer, samples: &[String]) -> usize {
    let wanted: Vec<u32> = samples.iter().flat_map(|text| old.encode(text)).collect();
    let pruned = old.pruned(wanted).unwrap();
    let new = &pruned.tokenizer;
    assert_eq!(new.vocab_size(), pruned.old_ids.len());
    for text in samples {
        let ids: Vec<u32> = new.encode(text).into_iter().map(|id| pruned.old_ids[id as usize]).collect();
        assert_eq!(ids, old.encode(text), "{text:?}");
    }
    for token in old.added_tokens() {
        let id = new.special_id(&token.content).unwrap();
        assert_eq!(pruned.old_ids[id as usize], token.id);
    }
    let moved = |id: Option<u32>| id.map(|id| pruned.old_ids[id as usize]);
    assert_eq!((moved(new.bos_id()), moved(new.eos_id()), moved(new.pad_id())), (old.bos_id(), old.eos_id(), old.pad_id()));
    pruned.old_ids.len()
}

#[test]
fn pruning_to_samples_keeps_their_tokens_in_every_kind_of_tokenizer() {
    for kind in KINDS {
        let old = fixture(kind);
        let samples = ["It's we'LL I'ſ don't 'tis a test, of the words".to_string(), "naïve café Straße 数学".into(), "the the there".into()];
        let size = prune_keeps(&old, &samples);
        assert!(size < old.vocab_size(), "{kind}: nothing was pruned");
        let pruned = old.pruned(samples.iter().flat_map(|text| old.encode(text))).unwrap();
        agrees(&pruned.tokenizer, &samples);
    }
    if let Some(dir) = shared("tokenizers/minimind") {
        prune_keeps(&Tokenizer::load(dir).unwrap(), &hard_texts());
    }
}

#[test]
fn ids_in_post_processors_follow_their_tokens() {
    for kind in ["sentencepiece_bpe_byte_fallback", "unigram_metaspace", "wordpiece_bert"] {
        let old = fixture(kind);
        let pruned = old.pruned(old.encode("the")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        pruned.tokenizer.save(dir.path()).unwrap();
        let theirs = reference(&dir.path().join("tokenizer.json"));
        let before = reference(&fixtures().join("tokenizers").join(kind).join("tokenizer.json"));
        let ids: Vec<u32> = theirs.encode("the", true).unwrap().get_ids().iter().map(|&id| pruned.old_ids[id as usize]).collect();
        assert_eq!(ids, before.encode("the", true).unwrap().get_ids(), "{kind}");
    }
}

#[test]
fn ids_that_are_no_tokens_cannot_be_kept() {
    let message = trained(500, 3).pruned([9999]).unwrap_err().to_string();
    assert!(message.contains("9999"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn pruned_to_any_texts(texts in prop::collection::vec(any_text(), 1..4)) {
        thread_local!(static OLD: Tokenizer = trained(700, 3));
        OLD.with(|old| prune_keeps(old, &texts));
    }

    /// Every word becomes one token, whatever was made before it.
    #[test]
    fn any_words_become_tokens(words in prop::collection::vec(" ?[a-d]{1,9}", 1..12)) {
        thread_local!(static OLD: Tokenizer = trained(400, 3));
        OLD.with(|old| {
            let grown = old.with_vocabulary(&words, Placement::Merges).unwrap();
            for word in &words {
                prop_assert_eq!(grown.tokenizer.encode(word).len(), 1, "{:?}", word);
            }
            Ok(())
        })?;
    }
}
