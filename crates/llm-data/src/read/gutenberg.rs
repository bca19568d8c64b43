//! Project Gutenberg's plain-text books: what the header says, and the text without header, footer, licence and notes.
//!
//! The frame has changed often since 1991: `*** START OF THIS PROJECT GUTENBERG EBOOK X ***`, the small print of the old
//! etexts, English, German and Spanish closing lines before the closing mark. What is cut is always a prefix and a suffix of
//! the file plus whole paragraphs of the transcriber at the two ends; nothing in between is touched. The header's language is
//! believed only when the text agrees.

use super::dates;
use crate::langid;
use regex::Regex;
use std::sync::LazyLock;

/// A book and what its header says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Book<'a> {
    /// The text of the book itself.
    pub text: &'a str,
    /// `Title:`.
    pub title: Option<String>,
    /// `Author:`.
    pub author: Option<String>,
    /// `Language:` as ISO 639-1, if the text is in that language.
    pub lang: Option<String>,
    /// `Release Date:` in ISO 8601, as precise as the header.
    pub date: Option<String>,
    /// The book's page, from its number.
    pub url: Option<String>,
}

/// How much of the file a header may take.
const HEADER: usize = 24_000;

macro_rules! regex {
    ($pattern:expr) => {{
        static REGEX: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($pattern).ok());
        REGEX.as_ref()
    }};
}

/// Take a book apart; `None` when nothing says that it is one of Project Gutenberg's.
pub fn parse(text: &str) -> Option<Book<'_>> {
    let head = &text[..super::books::floor(text, HEADER)];
    let start = regex!(r"(?im)^[ \t]*\*\*\* ?START OF (?:THIS|THE) PROJECT GUTENBERG.*?\*\*\*[ \t]*$")
        .and_then(|r| r.find(head))
        .or_else(|| {
            // Etexts up to about 2003: the licence is at the top and closes with this mark.
            regex!(r"(?m)^.{0,8}END[ .*]*THE SMALL PRINT! FOR PUBLIC DOMAIN E.{0,80}$").and_then(|r| r.find_iter(head).last())
        })
        .map(|m| m.end());
    let body = &text[start.unwrap_or(0)..];
    let end = regex!(
        r"(?im)^[ \t]*(?:\*\*\* ?(?:END|ENDE|FIN) (?:OF|DIESES|DE) .{0,12}PROJE[CK]TO? GUTENBERG.*|(?-i:End) of (?:the |this )?Project Gutenberg.*|Ende (?:dieses|des) Proje[ck]t[ -]Gutenberg.*|Fin (?:del?|de este) (?:libro |texto |e-?book )?(?:electrónico )?(?:del? )?Proyecto Gutenberg.*)$"
    )
    .and_then(|r| r.find(body))
    .map(|m| m.start());
    if start.is_none() && end.is_none() {
        return None;
    }
    let body = without_notes(&body[..end.unwrap_or(body.len())]);
    let header = &text[..start.unwrap_or(0)];
    let field = |name: &str| {
        let line = header.lines().find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_string()).filter(|v| !v.is_empty())
    };
    let number = regex!(r"(?i)\[e(?:book|text)\s*#\s*(\d{1,7})\]").and_then(|r| r.captures(header)).map(|c| c[1].to_string());
    let date = field("Release Date").or_else(|| field("Posting Date")).and_then(|d| dates::iso(d.split('[').next().unwrap_or_default()));
    Some(Book {
        text: body,
        title: field("Title"),
        author: field("Author"),
        lang: field("Language").and_then(|l| confirmed(&l, body)),
        date,
        url: number.map(|n| format!("https://www.gutenberg.org/ebooks/{n}")),
    })
}

/// The named language's code, when a sample from the middle of the text is in it.
fn confirmed(name: &str, body: &str) -> Option<String> {
    let code = [("english", "en"), ("german", "de"), ("deutsch", "de"), ("spanish", "es"), ("español", "es"), ("french", "fr"), ("italian", "it")]
        .into_iter()
        .find_map(|(n, code)| name.to_lowercase().starts_with(n).then_some(code))?;
    let from = super::books::floor(body, body.len() / 2);
    let sample = &body[from..super::books::floor(body, from + 4000)];
    langid::identify(sample).is_some_and(|l| l.code == code).then(|| code.to_string())
}

/// Paragraphs of the transcriber at the start and the end of a text.
fn without_notes(text: &str) -> &str {
    const FRONT: usize = 12;
    let mut body = text.trim_matches(['\n', ' ', '\t']);
    for _ in 0..FRONT {
        let first = paragraph_end(body);
        if !is_note(&body[..first]) {
            break;
        }
        body = body[first..].trim_start_matches(['\n', ' ', '\t']);
    }
    for _ in 0..FRONT {
        let last = body.trim_end().rfind("\n\n").map_or(0, |at| at + 2);
        if last == 0 || !is_note(&body[last..]) {
            break;
        }
        body = body[..last].trim_end();
    }
    // A list of corrections under its own heading runs to the end.
    if let Some(notes) =
        regex!(r"(?m)^[ \t]*\[?(?:Transcriber['’]?s?['’]? Notes?|Anmerkungen? (?:zur|der) Transkription|Notas? del transcriptor)\b.*$")
            .and_then(|r| r.find_iter(body).last())
        && notes.start() > body.len() / 10 * 9
    {
        body = body[..notes.start()].trim_end();
    }
    body
}

fn paragraph_end(text: &str) -> usize {
    text.find("\n\n").unwrap_or(text.len())
}

fn is_note(paragraph: &str) -> bool {
    let start = paragraph.trim_start_matches(['\n', ' ', '[', '*', '_', '\t']);
    const STARTS: &[&str] = &[
        "Produced by",
        "E-text prepared by",
        "This etext was prepared by",
        "This eBook was produced by",
        "Transcriber",
        "Transcribed from",
        "Anmerkung zur Transkription",
        "Anmerkungen zur Transkription",
        "Nota del transcriptor",
        "Note: Project Gutenberg also has",
        "Dieses Buch wurde uns freundlicherweise",
        "This book was generously provided by the German Gutenberg",
        "HTML version by",
    ];
    paragraph.len() < 3000 && STARTS.iter().any(|s| start.starts_with(s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_frame_goes_and_the_text_stays() {
        let text = "The Project Gutenberg EBook of X\n\nLicence talk\n\nTitle: X\n\nAuthor: Somebody\n\nRelease Date: August 21, 2007 [EBook #22367]\n\nLanguage: Klingon\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n\nProduced by Somebody\n\n[Transcriber's Note: long s is s.]\n\n\nX\n\nText ends.\n\n\nEnd of the Project Gutenberg EBook of X\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nmore licence";
        let book = parse(text).unwrap();
        assert_eq!(book.text, "X\n\nText ends.");
        assert_eq!((book.title.as_deref(), book.author.as_deref(), book.date.as_deref()), (Some("X"), Some("Somebody"), Some("2007-08-21")));
        assert_eq!((book.url.as_deref(), book.lang), (Some("https://www.gutenberg.org/ebooks/22367"), None));
        assert_eq!(parse("plain text"), None);
    }

    #[test]
    fn closing_lines_of_three_languages_and_of_old_etexts() {
        for (text, expected) in [
            ("Anfang\n\nEnde dieses Projekt Gutenberg Etextes \"Faust\" von Goethe\n\nrest", "Anfang"),
            ("Principio\n\nFin de Proyecto Gutenberg etext de Don Quijote\n", "Principio"),
            ("Principio\n\nFin del libro electrónico de Proyecto Gutenberg\n", "Principio"),
            ("*** START OF THE PROJECT GUTENBERG EBOOK 11 ***\nA\n\n*** END OF THE PROJECT GUTENBERG EBOOK 11 ***\nz", "A"),
            (
                "licence\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\nOld text\n\nEnd of Project Gutenberg Etext of X\n",
                "Old text",
            ),
        ] {
            assert_eq!(parse(text).unwrap().text, expected);
        }
    }

    #[test]
    fn a_story_that_speaks_of_transcribers_keeps_them() {
        let text = format!(
            "*** START OF THIS PROJECT GUTENBERG EBOOK X ***\nOne.\n\nTranscriber he was by trade.\n\n{}\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\n",
            "Two. ".repeat(100)
        );
        assert!(parse(&text).unwrap().text.contains("by trade"));
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in "(\\*\\*\\* START OF THIS PROJECT GUTENBERG X \\*\\*\\*\n|End of the Project Gutenberg\n|Title: |Produced by|\n|[a-zä ]{0,9}){0,30}") {
            if let Some(book) = parse(&text) {
                prop_assert!(text.contains(book.text));
            }
        }
    }
}
