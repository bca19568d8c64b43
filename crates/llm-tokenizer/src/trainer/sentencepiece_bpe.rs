//! BPE over characters as SentencePiece does it (`src/bpe_model_trainer.cc`): words begin with a mark for the blank, the most frequent
//! pair of pieces is joined, rare characters are left to byte tokens.
//!
//! Of equally frequent pairs the one with fewer characters wins, then the one first in code point order. A second way to an
//! existing piece is not joined. SentencePiece looks at the pairs that were most frequent a hundred merges ago; here all are looked at.

use super::config::TrainerConfig;
use super::merge::{Learner, Limits};
use super::pieces::{Alphabet, Rules, as_text, room};
use super::save_pieces;
use super::words::Words;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The tokenizer and the number of its merges.
pub fn train(
    counted: Words,
    config: &TrainerConfig,
    min_frequency: u64,
    keep_going: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(Tokenizer, usize)> {
    let (pieces, merges) = learn(counted, config, min_frequency, keep_going)?;
    Ok((save_pieces::sentencepiece_bpe(&pieces, config)?, merges))
}

/// Pieces, best first: joined ones in the order they were made, then characters by frequency.
fn learn(
    counted: Words,
    config: &TrainerConfig,
    min_frequency: u64,
    keep_going: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<(Vec<String>, usize)> {
    let alphabet = Alphabet::new(&counted, config.character_coverage);
    let wanted = room(config);
    Alphabet::check_room(alphabet.chars().len(), config)?;
    let rules = Rules::new(config);
    let allowed = |text: &[u8]| rules.allows(as_text(text));
    let key = |left: &[u8], right: &[u8]| {
        let text = [left, right].concat();
        (as_text(&text).chars().count() as u32, text.into_boxed_slice())
    };
    let tokens = alphabet.chars().iter().map(|c| c.to_string().into_bytes().into_boxed_slice()).collect();
    let words = counted.iter().flat_map(|(word, count)| alphabet.runs(word).map(move |run| (run, count)));
    let words = words.map(|(run, count)| (alphabet.ids(run), count));
    let limits = Limits { min_frequency, allowed: &allowed, key: &key, rejoin: false };
    let mut learner = Learner::new(tokens, (counted.len(), counted.total_bytes()), words, limits);
    drop(counted);
    let mut merges = 0;
    while learner.tokens().len() < wanted && learner.step().is_some() {
        merges += 1;
        if merges % 64 == 0 && !keep_going(learner.tokens().len(), wanted) {
            return Err(Error::Train("interrupted".to_string()));
        }
    }
    let mut pieces: Vec<String> = learner.into_tokens().iter().map(|token| as_text(token).to_string()).collect();
    pieces.rotate_left(alphabet.chars().len());
    Ok((pieces, merges))
}

#[cfg(test)]
mod tests {
    use super::super::config::Model;
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BTreeSet};

    /// Recounts everything before every merge. `tokens` begin with the characters.
    fn learn_slowly(words: &BTreeMap<String, u64>, rules: &Rules, mut tokens: Vec<String>, wanted: usize) -> Vec<String> {
        let mut words: Vec<(Vec<String>, u64)> = words.iter().map(|(w, c)| (w.chars().map(String::from).collect(), *c)).collect();
        let chars = tokens.len();
        while tokens.len() < chars + wanted {
            let mut counts: BTreeMap<(&String, &String), u64> = BTreeMap::new();
            for (parts, count) in &words {
                for pair in parts.windows(2) {
                    *counts.entry((&pair[0], &pair[1])).or_default() += count;
                }
            }
            let id = |part: &String| tokens.iter().position(|t| t == part).unwrap();
            let ranked = counts.iter().filter_map(|(&(left, right), count)| {
                let text = format!("{left}{right}");
                let fit = rules.allows(&text) && !tokens.contains(&text);
                fit.then(|| (*count, Reverse((text.chars().count(), text, id(left), id(right)))))
            });
            let Some((_, Reverse((_, text, left, right)))) = ranked.max() else { break };
            for (parts, _) in &mut words {
                let mut i = 0;
                while i + 1 < parts.len() {
                    if parts[i] == tokens[left] && parts[i + 1] == tokens[right] {
                        parts.splice(i..i + 2, [text.clone()]);
                    }
                    i += 1;
                }
            }
            tokens.push(text);
        }
        tokens.split_off(chars)
    }

    proptest! {
        #[test]
        fn merges_are_those_of_counting_anew_each_time(words in prop::collection::btree_map("▁[ab1,]{1,7}|▁(ab){1,4}|▁a{2,9}", 1u64..20, 1..15)) {
            let chars = words.keys().flat_map(|w| w.chars()).collect::<BTreeSet<char>>().len();
            let config = TrainerConfig { vocab_size: 259 + chars + 25, character_coverage: 1.0, max_piece_chars: 5, ..TrainerConfig::of(Model::SentencepieceBpe) };
            let mut counted = Words::default();
            words.iter().for_each(|(word, &count)| counted.push(word.as_bytes(), count));
            let (pieces, merges) = learn(counted, &config, 1, &mut |_, _| true).unwrap();
            prop_assert_eq!(pieces.len(), merges + chars);
            let slow = learn_slowly(&words, &Rules::new(&config), pieces[merges..].to_vec(), 25);
            prop_assert_eq!(&pieces[..merges], &slow);
        }
    }
}
