//! Names of people, by lists of given names and surnames; the place where a recogniser of named entities would fit in.

use crate::error::{Error, Result, io};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// Finds names of people: byte ranges, in order.
pub trait NameFinder: Send + Sync {
    /// All names in `text`; `lang` is its language if known.
    fn find(&self, text: &str, lang: Option<&str>) -> Vec<Range<usize>>;
}

/// Names from lists. A name is a known given name followed by a known surname (with further given names, initials, `von`,
/// `de la` between), or a form of address or degree followed by a known surname. A given name alone stays.
#[derive(Debug, Default)]
pub struct Gazetteer {
    given: HashSet<String>,
    surnames: HashSet<String>,
}

const TITLES: &[&str] = &[
    "Herr",
    "Herrn",
    "Frau",
    "Mr",
    "Mrs",
    "Ms",
    "Miss",
    "Dr",
    "Prof",
    "Professor",
    "Sir",
    "Señor",
    "Señora",
    "Señorita",
    "Sr",
    "Sra",
    "Srta",
    "Don",
    "Doña",
];
const PARTICLES: &[&str] = &["von", "van", "de", "del", "della", "la", "las", "los", "der", "den", "zu", "y", "da", "di", "du", "le", "mc", "O"];

impl Gazetteer {
    /// From a text file with a section `[given]` and a section `[surnames]`, one name a line; `#` starts a comment.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(io(path, "cannot read the list of names"))?;
        let mut lists = Self::default();
        let mut section: Option<bool> = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            match (line, section) {
                ("", _) => {}
                ("[given]", _) => section = Some(true),
                ("[surnames]", _) => section = Some(false),
                (name, Some(true)) => drop(lists.given.insert(name.to_lowercase())),
                (name, Some(false)) => drop(lists.surnames.insert(name.to_lowercase())),
                (name, None) => {
                    let message = format!("`{name}` stands before a section; start the file with a line `[given]` or `[surnames]`");
                    return Err(crate::error::record(path, format!("line {}", number + 1), message));
                }
            }
        }
        if lists.surnames.is_empty() {
            return Err(Error::Format { path: path.to_path_buf(), message: "has no [surnames]; without them no name is found".into() });
        }
        Ok(lists)
    }

    /// From lists in memory.
    pub fn new<'a>(given: impl IntoIterator<Item = &'a str>, surnames: impl IntoIterator<Item = &'a str>) -> Self {
        let set = |names: &mut dyn Iterator<Item = &'a str>| names.map(str::to_lowercase).collect();
        Self { given: set(&mut given.into_iter()), surnames: set(&mut surnames.into_iter()) }
    }

    fn is_given(&self, word: &str) -> bool {
        // "Hans-Peter", "Ana".
        word.split('-').all(|part| capital(part) && self.given.contains(&part.to_lowercase()))
    }

    fn is_surname(&self, word: &str) -> bool {
        let whole = word.to_lowercase();
        capital(word) && (self.surnames.contains(&whole) || word.contains('-') && word.split('-').all(|p| self.surnames.contains(&p.to_lowercase())))
    }
}

fn capital(word: &str) -> bool {
    word.chars().next().is_some_and(char::is_uppercase)
}

/// The word at the head of `text`, letters with inner hyphens and apostrophes.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphabetic() || matches!(c, '-' | '\'' | '’'))).unwrap_or(text.len());
    text[..end].trim_end_matches(['-', '\'', '’'])
}

impl NameFinder for Gazetteer {
    fn find(&self, text: &str, _lang: Option<&str>) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let (mut at, mut boundary) = (0, true);
        while let Some(c) = text[at..].chars().next() {
            if !(boundary && c.is_uppercase()) {
                boundary = !c.is_alphanumeric();
                at += c.len_utf8();
                continue;
            }
            let first = word(&text[at..]);
            let end = if self.is_given(first) || TITLES.contains(&first) { self.surname_after(text, at + first.len()) } else { None };
            match end {
                Some(end) => {
                    // The form of address stays: it says no more than that there is a name.
                    let start = if TITLES.contains(&first) { end.0 } else { at };
                    found.push(start..end.1);
                    at = end.1;
                }
                None => at += first.len().max(c.len_utf8()),
            }
            boundary = false;
        }
        found
    }
}

impl Gazetteer {
    /// Over spaces, given names, initials, titles and particles to the surnames: where the name's first word after `at`
    /// starts, and its end.
    fn surname_after(&self, text: &str, mut at: usize) -> Option<(usize, usize)> {
        let mut first = None;
        let mut end = None;
        for _ in 0..6 {
            let rest = &text[at..];
            let gap = rest.len() - rest.trim_start_matches(['.', ' ', '\u{a0}']).len();
            if gap == 0 || gap > 3 || rest.starts_with(". ") && end.is_some() {
                break;
            }
            let next = word(&rest[gap..]);
            let here = at + gap;
            if self.is_surname(next) {
                end = Some(here + next.len());
            } else if !(end.is_none() && (self.is_given(next) || next.chars().count() == 1 && capital(next) || TITLES.contains(&next))
                || PARTICLES.contains(&next))
            {
                break;
            }
            if !TITLES.contains(&next) {
                first = first.or(Some(here));
            }
            at = here + next.len();
        }
        Some((first?, end?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&str> {
        let lists =
            Gazetteer::new(["Anna", "Hans", "Peter", "Juan", "María", "Grace", "Mark"], ["Müller", "Schmidt", "García", "López", "Hopper", "Young"]);
        lists.find(text, None).into_iter().map(|r| &text[r]).collect()
    }

    #[test]
    fn full_names_and_addressed_ones() {
        assert_eq!(names("Anna Müller traf Hans-Peter von Schmidt."), ["Anna Müller", "Hans-Peter von Schmidt"]);
        assert_eq!(names("Frau Dr. Müller und Herr Schmidt"), ["Müller", "Schmidt"]);
        assert_eq!(names("Juan García López, María de la García"), ["Juan García López", "María de la García"]);
        assert_eq!(names("Rear Admiral Grace M. Hopper wrote it. Young people"), ["Grace M. Hopper"]);
    }

    #[test]
    fn words_that_are_also_names_stay() {
        for text in ["Mark the date.", "Der Müller mahlt.", "Young at heart", "Peter ging. Müller kam.", "anna müller", "grace Hopper's"] {
            assert!(names(text).is_empty(), "{text}: {:?}", names(text));
        }
    }
}
