//! The hand-written pre-tokenisers cut exactly as their regular expressions do.
mod common;

use common::{any_text, hard_texts};
use llm_tokenizer::pretokenize::Pattern;
use proptest::prelude::*;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

const PATTERNS: [Pattern; 5] = [Pattern::Gpt2, Pattern::Llama3 { digits: 3 }, Pattern::Llama3 { digits: 1 }, Pattern::Cl100k, Pattern::O200k];

fn by_regex(pattern: Pattern) -> Split {
    Split::new(SplitPattern::Regex(pattern.regex()), SplitDelimiterBehavior::Isolated, false).unwrap()
}

fn check(split: &Split, pattern: Pattern, text: &str) {
    let mut cut = PreTokenizedString::from(text);
    split.pre_tokenize(&mut cut).unwrap();
    let expected: Vec<&str> =
        cut.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter().map(|(word, ..)| word).filter(|w| !w.is_empty()).collect();
    let words: Vec<&str> = pattern.words(text).collect();
    assert_eq!(words, expected, "{pattern:?} on {text:?}");
}

#[test]
fn on_hard_texts() {
    for pattern in PATTERNS {
        let split = by_regex(pattern);
        for text in hard_texts() {
            check(&split, pattern, &text);
        }
    }
}

#[test]
fn on_every_character_in_several_neighbourhoods() {
    for pattern in PATTERNS {
        let split = by_regex(pattern);
        let every: Vec<char> = ('\0'..=char::MAX).filter(|c| (*c as u32) < 0x32000 || (*c as u32) >= 0xE0000 && (*c as u32) < 0xE0200).collect();
        for chunk in every.chunks(4096) {
            let text: String = chunk.iter().flat_map(|&c| [c, ' ', c, 'a', c, '\'', c, '1', 'A', c, 'B', c, '\n']).collect();
            check(&split, pattern, &text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn on_random_text(text in any_text()) {
        for pattern in PATTERNS {
            thread_local!(static SPLITS: Vec<Split> = PATTERNS.map(by_regex).into());
            SPLITS.with(|splits| check(&splits[PATTERNS.iter().position(|&p| p == pattern).unwrap()], pattern, &text));
        }
    }
}
