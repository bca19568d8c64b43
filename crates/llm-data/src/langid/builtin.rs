//! The detector that needs no file: `whatlang` (character trigrams, 69 languages), with `whichlang` where it is unsure.
//!
//! Documentation mixes prose with code, and code looks like whatever language its identifiers resemble. So the detector
//! sees up to [`SAMPLE_CHARS`] characters of the lines that look like prose, taken from the whole document; only when
//! there is too little prose does it see everything.
//!
//! On single sentences `whatlang` confuses neighbours: Spanish with Portuguese, Dutch with Afrikaans. `whichlang` (a linear model,
//! 16 languages) does not, but knows no language beside its own. It is asked only below [`SURE`], and only believed between two of
//! its languages, or against a rare neighbour that it does not know. What they disagree about is never sure.

/// Characters shown to the detector.
pub const SAMPLE_CHARS: usize = 4_000;
/// Confidence from which on `whatlang` is not doubted.
pub const SURE: f32 = 0.9;
/// Greatest confidence of an answer about which the two disagree: below the 0.65 that filters ask for.
const DISPUTED: f32 = 0.64;
const MIN_PROSE_CHARS: usize = 200;

/// A language and how sure the detector is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Language {
    /// ISO 639-1 where there is one, else ISO 639-3.
    pub code: &'static str,
    /// 0 to 1.
    pub score: f32,
}

/// The language of `text`; `None` when there is nothing to go by.
pub fn identify(text: &str) -> Option<Language> {
    let prose = sample(text.lines().filter(|l| is_prose(l)), text.len());
    let sample = if prose.chars().count() >= MIN_PROSE_CHARS { prose } else { sample(text.lines(), text.len()) };
    let info = whatlang::detect(&sample)?;
    let found = Language { code: code(info.lang()), score: info.confidence() as f32 };
    if found.score >= SURE {
        return Some(found);
    }
    let other = which(whichlang::detect_language(&sample));
    let neighbour = matches!((found.code, other), ("af", "nl") | ("tk" | "tuk" | "uz" | "uzb", "tr"));
    if other != found.code && (neighbour || WHICH.contains(&found.code)) {
        return Some(Language { code: other, score: DISPUTED * (1.0 - found.score) });
    }
    Some(found)
}

/// Languages that `whichlang` knows.
const WHICH: [&str; 16] = ["ar", "zh", "de", "en", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "es", "sv", "tr", "vi"];

fn which(lang: whichlang::Lang) -> &'static str {
    use whichlang::Lang::*;
    match lang {
        Ara => "ar",
        Cmn => "zh",
        Deu => "de",
        Eng => "en",
        Fra => "fr",
        Hin => "hi",
        Ita => "it",
        Jpn => "ja",
        Kor => "ko",
        Nld => "nl",
        Por => "pt",
        Rus => "ru",
        Spa => "es",
        Swe => "sv",
        Tur => "tr",
        Vie => "vi",
    }
}

/// ISO 639-1 for an ISO 639-3 code, where the detector knows both.
pub(super) fn short(code3: &str) -> Option<&'static str> {
    whatlang::Lang::from_code(code3).map(code)
}

/// Every k-th line, so that the sample covers the whole document.
fn sample<'a>(lines: impl Iterator<Item = &'a str>, bytes: usize) -> String {
    let stride = (bytes / (2 * SAMPLE_CHARS)).max(1);
    let (mut out, mut left) = (String::new(), SAMPLE_CHARS);
    for line in lines.step_by(stride) {
        let taken: String = line.trim().chars().take(left).collect();
        left -= taken.chars().count().min(left);
        out.push_str(&taken);
        out.push('\n');
        if left == 0 {
            break;
        }
    }
    out
}

fn is_prose(line: &str) -> bool {
    let (mut letters, mut symbols, mut spaces) = (0usize, 0usize, 0usize);
    for c in line.trim().chars() {
        if c.is_alphabetic() {
            letters += 1;
        } else if c == ' ' {
            spaces += 1;
        } else if matches!(
            c,
            '{' | '}' | '(' | ')' | '[' | ']' | '=' | '<' | '>' | ';' | '_' | '#' | ':' | '/' | '&' | '*' | '|' | '\\' | '"' | '0'..='9'
        ) {
            symbols += 1;
        }
    }
    letters >= 20 && spaces >= 2 && symbols * 12 <= letters
}

fn code(lang: whatlang::Lang) -> &'static str {
    use whatlang::Lang::*;
    match lang {
        Eng => "en",
        Deu => "de",
        Spa => "es",
        Fra => "fr",
        Ita => "it",
        Por => "pt",
        Nld => "nl",
        Swe => "sv",
        Dan => "da",
        Nob => "no",
        Fin => "fi",
        Pol => "pl",
        Ces => "cs",
        Slk => "sk",
        Slv => "sl",
        Hrv => "hr",
        Srp => "sr",
        Hun => "hu",
        Ron => "ro",
        Bul => "bg",
        Rus => "ru",
        Ukr => "uk",
        Bel => "be",
        Ell => "el",
        Tur => "tr",
        Ara => "ar",
        Heb => "he",
        Pes => "fa",
        Hin => "hi",
        Ben => "bn",
        Tam => "ta",
        Tel => "te",
        Tha => "th",
        Vie => "vi",
        Ind => "id",
        Jpn => "ja",
        Kor => "ko",
        Cmn => "zh",
        Cat => "ca",
        Lat => "la",
        Epo => "eo",
        Afr => "af",
        Est => "et",
        Lav => "lv",
        Lit => "lt",
        Mkd => "mk",
        other => other.code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn code_between_paragraphs_does_not_confuse() {
        let prose = "Der Übersetzer prüft zur Übersetzungszeit, ob alle Verweise gültig sind, und lehnt das Programm sonst mit einer Meldung ab.\n";
        let code = "let mut guess = String::new();\nio::stdin().read_line(&mut guess).expect(\"Failed to read line\");\n";
        let text = [prose, code, code, code, prose, code, code, prose].concat();
        let found = identify(&text).unwrap();
        assert!(found.code == "de" && found.score > 0.65, "{found:?}");
    }

    #[test]
    fn nothing_to_go_by() {
        assert_eq!(identify(""), None);
        assert_eq!(identify("1234 5678\n{}()"), None);
    }

    proptest! {
        #[test]
        fn any_text_gets_a_score_between_0_and_1(text in any::<String>()) {
            if let Some(language) = identify(&text) {
                prop_assert!((0.0..=1.0).contains(&language.score));
            }
        }
    }
}
