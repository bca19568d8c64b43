//! What several test files share: text that is hard on tokenizers, and the reference implementation.
#![allow(dead_code, missing_docs)]

use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// The shared data beside the repository; `None`, with a printed reason, where there is none.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

pub fn reference(file: &Path) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(file).unwrap()
}

pub fn reference_ids(reference: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    reference.encode(text, false).unwrap().get_ids().to_vec()
}

/// Texts with many scripts, code, odd blanks, long words.
pub fn hard_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n",
        "  \n \t x",
        "It's we'LL I'ſ don't 'tis 'sun 'S 'ſt",
        "x=12345678;y=3.14e-10",
        "naïve café Straße ﬁn",
        "数学 天气 is fun。日本語のテキスト",
        "😀👍🏽👨\u{200d}👩\u{200d}👧 🇩🇪",
        "tab\tnew\nline\r\n\r\n  indented",
        "def add(a, b):\n    return a + b\n\n\n\tif x:\r\n",
        "á combining á composed",
        "zero\u{200b}width \u{a0}nbsp\u{3000}ideographic\u{2003}em",
        "Ⅷ ½ ² ٣٤٥ १२३ 𝟘𝟙",
        "नमस्ते दुनिया",
        "مرحبا بالعالم",
        "שלום עולם",
        "Привет, мир!",
        "สวัสดีชาวโลก",
        "안녕하세요 세계",
        "Γειά σου Κόσμε",
        "ሰላም ልዑል",
        "გამარჯობა",
        "{\"k\": [1,2], \"s\": \"\\u00e9\"}",
        "<|eot_id|> literal <think> </s>",
        "\u{fdd0}\u{fdd3}\u{fffd}\0\u{1}\u{85}\u{1c}",
        "a\u{2028}b\u{2029}c",
        "   trailing   ",
        "!!!\n\n???\r\n.",
        " \u{a0} \u{a0}a",
    ]
    .map(str::to_string)
    .to_vec();
    texts.push("a".repeat(5000));
    texts.push("abcde".repeat(997));
    texts.push("ж日é".repeat(700));
    texts.push("0123456789".repeat(300));
    texts.push(" ".repeat(3000) + "x");
    texts.push("\n ".repeat(500));
    texts.push("-=".repeat(400));
    texts
}

/// Random text in which everything the patterns distinguish is frequent.
pub fn any_text() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        4 => "[a-zA-Z]{1,6}",
        2 => "[ \t\r\n\u{a0}\u{3000}\u{85}]{1,4}",
        2 => "[0-9²٣Ⅷ]{1,5}",
        2 => "['’](s|t|re|ve|m|ll|d|S|RE|Ll|ſ|x)",
        2 => "[!-/:-@{-~]{1,4}",
        1 => "[é-ſͰ-Ͽ一-丂\u{300}-\u{303}\u{200d}😀-😂]{1,3}",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(atom, 0..25).prop_map(|atoms| atoms.concat())
}

/// A tokenizer trained on the hard texts, so that its merges fire in all scripts.
pub fn trained(vocab_size: usize, digits: usize) -> Tokenizer {
    let config = TrainerConfig { vocab_size, digits, min_frequency: 1, ..TrainerConfig::default() };
    train(hard_texts(), &config).unwrap()
}
