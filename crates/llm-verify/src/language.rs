//! Is the response in the language that was asked in? Policies that are rewarded for results alone begin to mix languages
//! (DeepSeek-AI, DeepSeek-R1, 2025, section 2.3.2, whose reward is the share of words in the target language).
//!
//! Here it is the share of letters: every line with enough of them is identified by itself, short ones join the next. What
//! is not prose (formulas, code blocks) says nothing about the language and is left out; so does a response with too few
//! letters to tell, which gets the full reward: there is nothing to object to.

use llm_data::langid::identify;

/// Letters from which on a piece of text is identified.
const ENOUGH_LETTERS: usize = 25;
/// Fewest letters by which a prompt's own language is told.
const ENOUGH_PROMPT: usize = 12;

/// Where the expected language comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanguageRule {
    /// Always this one (ISO 639-1).
    Fixed(String),
    /// A column of the row.
    Column(String),
    /// The prompt's.
    Prompt,
}

fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphabetic()).count()
}

/// The language of a prompt; `None` when it is too short to tell.
pub fn of_prompt(prompt: &str) -> Option<&'static str> {
    let text = prose(prompt);
    if letters(&text) < ENOUGH_PROMPT { None } else { identify(&text).map(|l| l.code) }
}

/// Share of the letters of `text` that are in `language`, 0 to 1; 1 when there is too little to tell.
pub fn share(text: &str, language: &str) -> f32 {
    let (mut all, mut right) = (0usize, 0usize);
    let mut piece = String::new();
    let mut judge = |piece: &mut String, enough: usize| {
        let n = letters(piece);
        if n >= enough {
            if let Some(found) = identify(piece) {
                all += n;
                right += if found.code == language { n } else { 0 };
            }
            piece.clear();
        }
    };
    let text = prose(text);
    for line in text.lines() {
        piece.push_str(line);
        piece.push('\n');
        judge(&mut piece, ENOUGH_LETTERS);
    }
    // The rest alone is too short to be told, unless it is all there is.
    if all == 0 { 1.0 } else { right as f32 / all as f32 }
}

/// Without code blocks, formulas between dollar signs and LaTeX commands.
fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, block) in text.split("```").enumerate() {
        if i % 2 == 1 {
            continue;
        }
        for line in block.split_inclusive('\n') {
            let pieces: Vec<&str> = line.split('$').collect();
            // An odd number of dollar signs is money.
            let formulas = pieces.len() % 2 == 1;
            for (j, piece) in pieces.iter().enumerate() {
                if j % 2 == 0 || !formulas {
                    out.push_str(piece);
                }
                out.push(' ');
            }
        }
        out.push('\n');
    }
    out.split(' ').filter(|word| !word.starts_with('\\')).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GERMAN: &str = "Zuerst rechnen wir aus, wie viele Äpfel in den drei Körben zusammen liegen, und ziehen dann die verfaulten ab.";
    const ENGLISH: &str = "First we work out how many apples there are in the three baskets together, and then take away the rotten ones.";

    #[test]
    fn shares() {
        assert_eq!(share(GERMAN, "de"), 1.0);
        assert_eq!(share(ENGLISH, "de"), 0.0);
        let mixed = share(&format!("{GERMAN}\n{ENGLISH}"), "de");
        assert!((0.4..0.6).contains(&mixed), "{mixed}");
        assert_eq!(share("42", "de"), 1.0);
        assert_eq!(share(&format!("{GERMAN}\n```\nlet the_answer_to_everything = forty_two_of_the_things();\n```\n"), "de"), 1.0);
        assert_eq!(of_prompt(GERMAN), Some("de"));
        assert_eq!(of_prompt("3 + 4 = ?"), None);
    }
}
