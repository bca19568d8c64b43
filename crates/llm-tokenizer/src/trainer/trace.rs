//! Byte-level BPE step by step, for teaching: pair counts, the chosen pair and why, the words and the vocabulary after it.

use super::byte_order;
use super::config::TrainerConfig;
use super::merge::{Learner, Limits};
use crate::byte_level::to_alphabet;
use crate::error::{Result, io};
use std::io::Write;
use std::path::Path;

/// The corpus of Sennrich et al. (2016), "Neural Machine Translation of Rare Words with Subword Units": words and counts.
pub const TOY_CORPUS: [(&str, u64); 4] = [("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)];

/// Columns of the output.
const WIDTH: usize = 80;
/// Pairs and words shown at each step.
const SHOWN: usize = 6;

/// Write at most `merges` steps of a training on `words` to `out`; with `colour`, in terminal colours.
pub fn trace(words: &[(String, u64)], config: &TrainerConfig, merges: usize, colour: bool, out: &mut impl Write) -> Result<()> {
    let text = render(words, config, merges, colour);
    out.write_all(text.as_bytes()).map_err(io(Path::new("standard output"), "cannot write"))
}

fn render(words: &[(String, u64)], config: &TrainerConfig, merges: usize, colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() };
    let order = byte_order(config);
    let id = |byte: u8| order.iter().position(|&b| b == byte).unwrap_or(0) as u32;
    let tokens = order.iter().map(|&b| vec![b].into_boxed_slice()).collect();
    let symbols = words.iter().map(|(word, count)| (word.bytes().map(id).collect(), *count));
    let allowed = |text: &[u8]| text.len() <= config.max_token_bytes;
    let mut learner = Learner::new(tokens, (words.len(), 0), symbols, Limits::by_id(config.min_frequency, &allowed));
    let mut out = format!("{}\n", paint("1", "Byte-level BPE, step by step. The vocabulary begins with the 256 bytes."));
    list(&mut out, "words", words.iter().take(SHOWN * 2).map(|(word, count)| format!("{}:{count}", to_alphabet(word.as_bytes()))));
    let mut learned: Vec<String> = Vec::new();
    while learned.len() < merges {
        let best = learner.best(SHOWN);
        let show = |learner: &Learner<'_>, id: u32| to_alphabet(&learner.tokens()[id as usize]);
        let pairs: Vec<String> = best.iter().map(|&((a, b), n)| format!("{}+{}:{n}", show(&learner, a), show(&learner, b))).collect();
        let Some(step) = learner.step() else { break };
        let ties = best.iter().filter(|&&(pair, n)| n == step.count && pair != step.pair).count();
        let more = if ties == SHOWN - 1 { " or more" } else { "" };
        let why = match ties {
            0 => format!("the most frequent pair, {} times", step.count),
            1.. => format!("{} times like {ties}{more} other(s); the lowest ids win", step.count),
        };
        let (left, right) = (show(&learner, step.pair.0), show(&learner, step.pair.1));
        let joined = show(&learner, step.joined);
        learned.push(format!("{}={joined}", step.joined));
        out.push_str(&format!("\n{}\n", paint("1", &format!("step {}", learned.len()))));
        list(&mut out, "pairs", pairs.into_iter());
        out.push_str(&format!("  merge  {} -> {}\n", paint("33", &format!("{left} + {right}")), paint("1;32", &joined)));
        list(&mut out, "why", std::iter::once(why));
        let cut =
            learner.words().take(SHOWN * 2).map(|(ids, n)| format!("{}:{n}", ids.iter().map(|&id| show(&learner, id)).collect::<Vec<_>>().join(".")));
        list(&mut out, "words", cut);
        list(&mut out, "tokens", std::iter::once("256 bytes".to_string()).chain(learned.iter().cloned()));
    }
    out.push_str(&match learned.len() < merges {
        true => format!("\nDone: no other pair occurs {} times.\n", config.min_frequency),
        false => format!("\nDone: {merges} merges, as asked for.\n"),
    });
    out
}

/// A named list, broken so that no line is longer than a terminal.
fn list(out: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let mut line = format!("  {name:<6}");
    for item in items {
        if line.chars().count() + 1 + item.chars().count() > WIDTH && line.len() > 8 {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(8);
        }
        line.push(' ');
        line.push_str(&item);
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toy_corpus_has_its_classic_counts() {
        let words: Vec<(String, u64)> = TOY_CORPUS.iter().map(|&(w, n)| (w.to_string(), n)).collect();
        let text = render(&words, &TrainerConfig::default(), usize::MAX, false);
        let merges: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("  merge  ")).collect();
        assert_eq!(merges[..4], ["e + s -> es", "es + t -> est", "l + o -> lo", "lo + w -> low"], "{text}");
        assert!(text.contains("e+s:9 s+t:9 w+e:8") && text.contains("9 times like 1 other(s)"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH) && !text.contains('\x1b'), "{text}");
        assert!(render(&words, &TrainerConfig::default(), 1, true).contains("\x1b[1;32mes\x1b[0m"));
    }
}
