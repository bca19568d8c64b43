//! Fill in the middle (Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle"): a share of
//! code is reordered so that a left-to-right model learns to write what belongs between two given parts.
//!
//! A piece of text is cut at two uniformly drawn character positions into prefix, middle and suffix and written as
//!
//! - PSM: `<|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>` middle
//! - SPM: `<|fim_prefix|>` `<|fim_suffix|>` suffix `<|fim_middle|>` prefix middle
//!
//! in equal shares (the paper's joint training, with its SPM variant 2). A document longer than a training row would be
//! torn apart by packing, so the transformation works on chunks of about a row (the paper's *context-level* FIM), each
//! drawn on its own. Parts are tokenised separately: cuts fall inside tokens, as they do when the model is used.

use llm_run::Rng;

/// Opens a transformed chunk.
pub const PREFIX: &str = "<|fim_prefix|>";
/// Before the suffix.
pub const SUFFIX: &str = "<|fim_suffix|>";
/// Before the middle.
pub const MIDDLE: &str = "<|fim_middle|>";

/// Part of a transformed document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A control token.
    Token(&'static str),
    /// Text of the document, never empty.
    Text(&'a str),
}

/// Transform each chunk of about `chunk_bytes` with probability `rate`; neighbouring chunks that stay as they are stay
/// one piece.
pub fn transform<'a>(text: &'a str, rate: f64, chunk_bytes: usize, rng: &mut Rng) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let (mut plain_from, mut at) = (0, 0);
    while at < text.len() {
        let end = chunk_end(text, at, chunk_bytes);
        if rng.chance(rate) {
            push(&mut pieces, &text[plain_from..at]);
            chunk(&text[at..end], rng, &mut pieces);
            plain_from = end;
        }
        at = end;
    }
    push(&mut pieces, &text[plain_from..]);
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

fn chunk<'a>(text: &'a str, rng: &mut Rng, pieces: &mut Vec<Piece<'a>>) {
    let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    let (a, b) = (*rng.pick(&boundaries), *rng.pick(&boundaries));
    let (prefix, rest) = text.split_at(a.min(b));
    let (middle, suffix) = rest.split_at(a.max(b) - a.min(b));
    let spm = rng.chance(0.5);
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
            let pieces = transform(&text, 1.0, 4096, &mut Seed(seed).rng());
            prop_assert_eq!(restore(&pieces, 1), Some(text));
        }

        #[test]
        fn many_chunks_give_the_text_back(text in "([a-zäß]{0,20}\n){1,40}", chunk in 10usize..200, seed: u64) {
            let pieces = transform(&text, 1.0, chunk, &mut Seed(seed).rng());
            let chunks = pieces.iter().filter(|p| **p == Piece::Token(PREFIX)).count();
            prop_assert_eq!(restore(&pieces, chunks), Some(text.clone()));
            let bytes: usize = pieces.iter().map(|p| if let Piece::Text(t) = p { t.len() } else { 0 }).sum();
            prop_assert_eq!(bytes, text.len());
        }

        #[test]
        fn rate_zero_changes_nothing(text in "\\PC{1,200}", seed: u64) {
            prop_assert_eq!(transform(&text, 0.0, 16, &mut Seed(seed).rng()), vec![Piece::Text(&text)]);
        }
    }

    #[test]
    fn both_orders_occur_equally_and_the_rate_is_kept() {
        let (mut transformed, mut spm) = (0, 0);
        for i in 0..4000 {
            let pieces = transform("fn main() { println!(\"hello\"); }", 0.5, 4096, &mut Seed(9).at(i).rng());
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
}
