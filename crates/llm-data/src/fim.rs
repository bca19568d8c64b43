//! Fill in the middle (Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle"): a share of
//! code is reordered so that a left-to-right model learns to write what belongs between two given parts.
//!
//! A piece of text is cut at two uniformly drawn character positions into prefix, middle and suffix and written as
//!
//! - PSM: `<|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>` middle
//! - SPM: `<|fim_prefix|>` `<|fim_suffix|>` suffix `<|fim_middle|>` prefix middle
//!
//! in shares that `spm_rate` says (a half each is the paper's joint training, with its SPM variant 2, and StarCoder's). A
//! document longer than a training row would be torn apart by packing, so by default the transformation works on chunks of
//! about a row (the paper's *context-level* FIM), each drawn on its own; on whole documents (*document-level*) it is what
//! StarCoder did. Parts are tokenised separately: cuts fall inside tokens, as they do when the model is used. The paper finds
//! rates of 0.5 to 0.9 free of cost for ordinary text; StarCoder took 0.5.
//!
//! A document of several parts with a separator between them (the files of a repository) is transformed part by part, as Megatron-LM's
//! `GPTFIMDataset` does with `fim_split_sample` and `fragment_fim_rate`: the document is chosen first, then each part by itself.

use llm_run::Rng;
use serde::{Deserialize, Serialize};

/// Opens a transformed chunk.
pub const PREFIX: &str = "<|fim_prefix|>";
/// Before the suffix.
pub const SUFFIX: &str = "<|fim_suffix|>";
/// Before the middle.
pub const MIDDLE: &str = "<|fim_middle|>";

/// What is cut into prefix, middle and suffix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Chunks of about a training row.
    #[default]
    Context,
    /// Whole documents.
    Document,
}

/// Part of a transformed document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A control token.
    Token(&'a str),
    /// Text of the document, never empty.
    Text(&'a str),
}

/// Transform each chunk of about `chunk_bytes` with probability `rate`, of these `spm_rate` in the order SPM; neighbouring chunks that stay as they are stay
/// one piece.
pub fn transform<'a>(text: &'a str, rate: f64, spm_rate: f64, chunk_bytes: usize, rng: &mut Rng) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let (mut plain_from, mut at) = (0, 0);
    while at < text.len() {
        let end = chunk_end(text, at, chunk_bytes);
        if rng.chance(rate) {
            push(&mut pieces, &text[plain_from..at]);
            chunk(&text[at..end], spm_rate, rng, &mut pieces);
            plain_from = end;
        }
        at = end;
    }
    push(&mut pieces, &text[plain_from..]);
    pieces
}

/// How often text is transformed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of chunks, and of documents that have parts.
    pub document: f64,
    /// Of chunks in the parts of the latter.
    pub fragment: f64,
    /// In the order SPM, of what is transformed.
    pub spm: f64,
}

/// [`transform`] of a document whose parts have `separator` between them; there it becomes a control token. Without one in the text, or
/// with an empty one, the document is one part.
pub fn transform_fragments<'a>(text: &'a str, separator: &'a str, rates: Rates, chunk_bytes: usize, rng: &mut Rng) -> Vec<Piece<'a>> {
    if separator.is_empty() || !text.contains(separator) {
        return transform(text, rates.document, rates.spm, chunk_bytes, rng);
    }
    let rate = if rng.chance(rates.document) { rates.fragment } else { 0.0 };
    let mut pieces = Vec::new();
    for (i, fragment) in text.split(separator).enumerate() {
        if i > 0 {
            pieces.push(Piece::Token(separator));
        }
        pieces.extend(transform(fragment, rate, rates.spm, chunk_bytes, rng));
    }
    pieces
}

fn push<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// The end of the chunk that starts at `at`: after the last line break in reach, else at a character boundary.
fn chunk_end(text: &str, at: usize, chunk_bytes: usize) -> usize {
    let limit = at.saturating_add(chunk_bytes.max(4));
    if limit >= text.len() {
        return text.len();
    }
    let limit = text.floor_char_boundary(limit);
    text[at..limit].rfind('\n').map_or(limit, |line| at + line + 1)
}

fn chunk<'a>(text: &'a str, spm_rate: f64, rng: &mut Rng, pieces: &mut Vec<Piece<'a>>) {
    let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    let (a, b) = (*rng.pick(&boundaries), *rng.pick(&boundaries));
    let (prefix, rest) = text.split_at(a.min(b));
    let (middle, suffix) = rest.split_at(a.max(b) - a.min(b));
    let spm = rng.chance(spm_rate);
    pieces.push(Piece::Token(PREFIX));
    if !spm {
        push(pieces, prefix);
    }
    pieces.push(Piece::Token(SUFFIX));
    push(pieces, suffix);
    pieces.push(Piece::Token(MIDDLE));
    if spm {
        push(pieces, prefix);
    }
    push(pieces, middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;
    use proptest::prelude::*;

    /// Text between the control tokens, by position in the alternation prefix, suffix, middle.
    fn restore(pieces: &[Piece<'_>], chunks: usize) -> Option<String> {
        let mut text = String::new();
        let (mut prefix, mut suffix, mut middle) = (String::new(), String::new(), String::new());
        let mut part = None;
        let mut seen = 0;
        let mut flush = |p: &mut String, m: &mut String, s: &mut String| {
            for x in [p, m, s] {
                text.push_str(x);
                x.clear();
            }
        };
        for piece in pieces {
            match piece {
                Piece::Token(token) => {
                    if *token == PREFIX {
                        flush(&mut prefix, &mut middle, &mut suffix);
                        seen += 1;
                    }
                    part = Some(*token);
                }
                Piece::Text(t) => match part {
                    Some(PREFIX) => prefix.push_str(t),
                    Some(SUFFIX) => suffix.push_str(t),
                    Some(MIDDLE) => middle.push_str(t),
                    _ => return None,
                },
            }
        }
        flush(&mut prefix, &mut middle, &mut suffix);
        (seen == chunks).then_some(text)
    }

    proptest! {
        #[test]
        fn prefix_middle_suffix_give_the_text_back(text in "\\PC{1,200}", seed: u64) {
            // One chunk, always transformed; in SPM the prefix stands at the head of the middle, which restores the same.
            let pieces = transform(&text, 1.0, 0.5, 4096, &mut Seed(seed).rng());
            prop_assert_eq!(restore(&pieces, 1), Some(text));
        }

        #[test]
        fn many_chunks_give_the_text_back(text in "([a-zäß]{0,20}\n){1,40}", chunk in 10usize..200, seed: u64) {
            let pieces = transform(&text, 1.0, 0.5, chunk, &mut Seed(seed).rng());
            let chunks = pieces.iter().filter(|p| **p == Piece::Token(PREFIX)).count();
            prop_assert_eq!(restore(&pieces, chunks), Some(text.clone()));
            let bytes: usize = pieces.iter().map(|p| if let Piece::Text(t) = p { t.len() } else { 0 }).sum();
            prop_assert_eq!(bytes, text.len());
        }

        #[test]
        fn rate_zero_changes_nothing(text in "\\PC{1,200}", seed: u64) {
            prop_assert_eq!(transform(&text, 0.0, 0.5, 16, &mut Seed(seed).rng()), vec![Piece::Text(&text)]);
        }
    }

    proptest! {
        /// Parts stay apart: between two separators there is the text that was there, transformed or not.
        #[test]
        fn parts_are_transformed_one_by_one(parts in prop::collection::vec("[a-zß\n]{0,40}", 1..6), seed: u64) {
            let text = parts.join("<sep>");
            let rates = Rates { document: 1.0, fragment: 0.5, spm: 0.5 };
            let pieces = transform_fragments(&text, "<sep>", rates, 4096, &mut Seed(seed).rng());
            let found: Vec<&[Piece<'_>]> = pieces.split(|piece| *piece == Piece::Token("<sep>")).collect();
            if parts.len() > 1 {
                prop_assert_eq!(found.len(), parts.len());
            }
            for (pieces, part) in found.iter().zip(&parts) {
                match pieces {
                    [] => prop_assert!(part.is_empty()),
                    [Piece::Text(text)] => prop_assert_eq!(text, part),
                    _ => prop_assert_eq!(restore(pieces, 1), Some(part.clone())),
                }
            }
        }
    }

    #[test]
    fn a_document_is_chosen_before_its_parts() {
        let rates = Rates { document: 0.5, fragment: 0.5, spm: 0.5 };
        let counts: Vec<usize> = (0..4000)
            .map(|i| {
                let pieces = transform_fragments("one;two;three;four", ";", rates, 4096, &mut Seed(3).at(i).rng());
                pieces.iter().filter(|p| **p == Piece::Token(PREFIX)).count()
            })
            .collect();
        // A half is not chosen; of the rest a sixteenth has no part that is.
        let none = counts.iter().filter(|&&n| n == 0).count() as f64 / 4000.0;
        assert!((none - (0.5 + 0.5 / 16.0)).abs() < 0.03, "{none}");
        let all = counts.iter().sum::<usize>() as f64 / 16_000.0;
        assert!((all - 0.25).abs() < 0.02, "{all}");
    }

    #[test]
    fn both_orders_occur_equally_and_the_rate_is_kept() {
        let (mut transformed, mut spm) = (0, 0);
        for i in 0..4000 {
            let pieces = transform("fn main() { println!(\"hello\"); }", 0.5, 0.5, 4096, &mut Seed(9).at(i).rng());
            if pieces.len() > 1 {
                transformed += 1;
                spm += usize::from(pieces[1] == Piece::Token(SUFFIX));
            }
        }
        assert!((1850..2150).contains(&transformed), "{transformed}");
        // An empty prefix (about one in seventeen) looks like SPM.
        let share = f64::from(spm as u32) / f64::from(transformed);
        assert!((0.48..0.60).contains(&share), "{share}");
    }

    #[test]
    fn spm_rate_chooses_the_order_and_cuts_are_uniform_over_characters() {
        let text = "äbcdefghij";
        let mut first = [0usize; 11];
        for i in 0..20_000 {
            let psm = transform(text, 1.0, 0.0, usize::MAX, &mut Seed(5).at(i).rng());
            let prefix = match psm[1] {
                Piece::Text(t) => t.chars().count(),
                Piece::Token(_) => 0,
            };
            assert_eq!(psm.iter().filter(|p| matches!(p, Piece::Token(_))).count(), 3);
            first[prefix] += 1;
            // In SPM no text stands before the suffix token.
            assert_eq!(transform(text, 1.0, 1.0, usize::MAX, &mut Seed(5).at(i).rng())[1], Piece::Token(SUFFIX));
        }
        // The smaller of two uniform draws of 0..=10: (2 (10 - k) + 1) / 121.
        for (k, n) in first.iter().enumerate() {
            let expected = 20_000.0 * (2.0 * (10.0 - k as f64) + 1.0) / 121.0;
            assert!((*n as f64 - expected).abs() < 4.5 * expected.sqrt(), "{k}: {n}, expected {expected:.0}");
        }
    }
}
