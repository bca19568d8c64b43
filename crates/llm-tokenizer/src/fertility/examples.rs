//! A sentence of each language, cut into tokens by each tokenizer.
//!
//! Best is the same sentence in all languages, so a text with translations goes first; else the most ordinary looking sentence
//! from the heads of a language's first texts. What is chosen depends on the samples alone, not on the tokenizers.

use super::UNKNOWN;
use super::count::Candidate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use unicode_segmentation::UnicodeSegmentation;

/// Texts looked at for each language, translated texts kept, and bytes of each.
const MOST_TEXTS: u32 = 64;
const MOST_LINKS: usize = 64;
const HEAD_BYTES: usize = 4096;
/// Characters: the best number, the fewest and the most.
const BEST: usize = 80;
const FEWEST: usize = 20;
const MOST: usize = 200;

/// A piece of text: characters, or bytes where a token is not whole characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    /// Whole characters, as the vocabulary spells them.
    Text(String),
    /// Part of a character.
    Bytes(Vec<u8>),
}

/// A sentence as one tokenizer cuts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Name of the tokenizer.
    pub tokenizer: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// What they stand for.
    pub pieces: Vec<Piece>,
}

/// A sentence of one language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Language code.
    pub lang: String,
    /// What ties it to its translations, where it has any.
    pub parallel: Option<String>,
    /// The sentence.
    pub text: String,
    /// By tokenizer.
    pub cuts: Vec<Cut>,
}

#[derive(Debug, Default)]
struct Best {
    texts: u32,
    /// Distance from an ordinary sentence, and the sentence.
    found: Option<(usize, String)>,
}

/// Sentences that may become examples.
#[derive(Debug, Default)]
pub(super) struct Picker {
    langs: BTreeMap<String, Best>,
    links: BTreeMap<String, BTreeMap<String, String>>,
}

impl Picker {
    /// Look at a sample.
    pub fn see(&mut self, text: &str, lang: &str, link: Option<&str>) {
        if let Some(link) = link
            && (self.links.len() < MOST_LINKS || self.links.contains_key(link))
            && let Some(sentence) = opening(text)
        {
            self.links.entry(link.to_string()).or_default().entry(lang.to_string()).or_insert(sentence);
        }
        let best = self.langs.entry(lang.to_string()).or_default();
        if best.texts >= MOST_TEXTS {
            return;
        }
        best.texts += 1;
        let fallback = || text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST).collect::<String>();
        let found = sentences(text).into_iter().min_by_key(|s| s.0).unwrap_or_else(|| (usize::MAX, fallback()));
        if !found.1.is_empty() && best.found.as_ref().is_none_or(|best| found.0 < best.0) {
            best.found = Some(found);
        }
    }

    /// The examples: the reference language first, text without a language last.
    pub fn examples(&self, candidates: &[Candidate], reference: &str) -> Vec<Example> {
        let shared = self.links.iter().filter(|(_, texts)| texts.len() > 1);
        let distance = |texts: &BTreeMap<String, String>| texts.values().map(|t| t.chars().count().abs_diff(BEST)).max();
        let shared = shared.min_by_key(|(_, texts)| (std::cmp::Reverse(texts.len()), distance(texts)));
        let mut langs: Vec<&String> = self.langs.keys().collect();
        langs.sort_by_key(|lang| (*lang != reference, *lang == UNKNOWN));
        let example = |lang: &String| {
            let translated = shared.and_then(|(link, texts)| Some((Some(link.clone()), texts.get(lang)?)));
            let own = || Some((None, &self.langs.get(lang)?.found.as_ref()?.1));
            let (parallel, text) = translated.or_else(own)?;
            let cuts = candidates.iter().map(|c| cut(c, text)).collect();
            Some(Example { lang: lang.clone(), parallel, text: text.clone(), cuts })
        };
        langs.into_iter().filter_map(example).collect()
    }
}

fn cut(candidate: &Candidate, text: &str) -> Cut {
    let ids = candidate.tokenizer.encode(text);
    let piece = |id: &u32| {
        let bytes = candidate.tokenizer.token_bytes(*id).unwrap_or_default();
        std::str::from_utf8(bytes).map_or_else(|_| Piece::Bytes(bytes.to_vec()), |text| Piece::Text(text.to_string()))
    };
    Cut { tokenizer: candidate.name.clone(), pieces: ids.iter().map(piece).collect(), ids }
}

/// A short text whole, else its first sentence: what translations have in common.
fn opening(text: &str) -> Option<String> {
    let head = &text[..text.floor_char_boundary(HEAD_BYTES)];
    let line = head.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits = |text: &str| (1..=MOST).contains(&text.chars().count());
    let first = if fits(&line) && head.len() == text.len() { Some(line.as_str()) } else { line.unicode_sentences().next().map(str::trim) };
    first.filter(|first| fits(first)).map(str::to_string)
}

/// The sentences of the head of a text, each with its distance from an ordinary one. Lines of a paragraph are joined.
fn sentences(text: &str) -> Vec<(usize, String)> {
    let head = &text[..text.floor_char_boundary(HEAD_BYTES)];
    let head = head.replace("\r\n", "\n");
    let paragraphs = head.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let found = paragraphs.flat_map(|p| p.unicode_sentences().map(|s| s.trim().to_string()).collect::<Vec<_>>());
    found
        .map(|s| (s.chars().count(), s))
        .filter(|(length, _)| (FEWEST..=MOST).contains(length))
        .map(|(n, s)| (n.abs_diff(BEST) + oddity(&s), s))
        .collect()
}

/// What is more of a heading, a list or a piece of code than a sentence; so is one that ends with a short form (`Mr.`).
fn oddity(sentence: &str) -> usize {
    let ends = sentence.trim_end_matches(['"', '\'', '”', '’', '“', '»', ')']).ends_with(['.', '!', '?', '。', '！', '？', '…', '।', '؟']);
    let last = sentence.unicode_words().next_back().map_or(0, |w| w.chars().count());
    let marks = sentence.chars().filter(|c| c.is_numeric() || "_*#{}[]|<>=/\\@&:()".contains(*c)).count();
    let shouts = sentence.chars().filter(|c| c.is_uppercase()).count() * 4 > sentence.chars().count();
    (if ends { 0 } else { 80 })
        + if sentence.starts_with(char::is_lowercase) { 40 } else { 0 }
        + if last < 4 && sentence.is_ascii() { 20 } else { 0 }
        + if shouts { 80 } else { 0 }
        + marks * 10
}
