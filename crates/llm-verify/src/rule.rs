//! Conditions on a text that anybody can check: contains, begins, ends, matches, so many words. All of them must hold.

use regex::{Regex, RegexBuilder};

/// What a text has to be like.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Somewhere in it.
    pub contains: Option<String>,
    /// At its beginning.
    pub starts_with: Option<String>,
    /// At its end.
    pub ends_with: Option<String>,
    /// Found somewhere in it.
    pub regex: Option<Regex>,
    /// At most so many words.
    pub max_words: Option<usize>,
    /// At least so many words.
    pub min_words: Option<usize>,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
}

impl Conditions {
    /// A pattern for [`Conditions::regex`].
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn pattern(text: &str, ignore_case: bool) -> Result<Regex, String> {
        RegexBuilder::new(text).case_insensitive(ignore_case).build().map_err(|e| format!("regex: {e}"))
    }

    /// Is there any condition?
    pub fn is_empty(&self) -> bool {
        self.contains.is_none()
            && self.starts_with.is_none()
            && self.ends_with.is_none()
            && self.regex.is_none()
            && self.max_words.is_none()
            && self.min_words.is_none()
    }

    /// Do all hold? White space around the text does not count.
    pub fn hold(&self, text: &str) -> bool {
        let text = text.trim();
        let folded = if self.ignore_case { text.to_lowercase() } else { text.to_string() };
        let fold = |wanted: &String| if self.ignore_case { wanted.to_lowercase() } else { wanted.clone() };
        let words = text.split_whitespace().count();
        self.contains.as_ref().is_none_or(|w| folded.contains(&fold(w)))
            && self.starts_with.as_ref().is_none_or(|w| folded.starts_with(&fold(w)))
            && self.ends_with.as_ref().is_none_or(|w| folded.ends_with(&fold(w)))
            && self.regex.as_ref().is_none_or(|r| r.is_match(text))
            && self.max_words.is_none_or(|most| words <= most)
            && self.min_words.is_none_or(|least| words >= least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_must_hold() {
        let rule = Conditions {
            contains: Some("Rust".into()),
            ends_with: Some("!".into()),
            max_words: Some(4),
            min_words: Some(2),
            ..Conditions::default()
        };
        assert!(rule.hold(" I like Rust! \n"));
        for bad in ["Rust!", "I like rust!", "I like Rust", "I do really like Rust!"] {
            assert!(!rule.hold(bad), "{bad}");
        }
        let loose = Conditions { starts_with: Some("DEAR".into()), ignore_case: true, ..Conditions::default() };
        assert!(loose.hold("Dear all") && !loose.hold("All dear"));
        let regex = Conditions { regex: Some(Conditions::pattern(r"^\d+ (?:cats|dogs)$", true).unwrap()), ..Conditions::default() };
        assert!(regex.hold("12 CATS") && !regex.hold("12 cows"));
        assert!(Conditions::default().is_empty() && !rule.is_empty() && Conditions::pattern("(", false).is_err());
    }
}
