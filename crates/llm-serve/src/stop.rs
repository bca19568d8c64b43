//! Stop strings on a stream of text pieces.
//!
//! A stop string may begin in one token and end in another, and the reply must not contain any part of it. So text that
//! could still become a stop string is held back until the next piece decides. The match that *completes first* wins, the
//! longest one among equals: the result depends on the text alone, never on how it was cut into tokens.

/// Finds the first of several stop strings.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    matched: Option<String>,
}

/// What one piece of text releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Text that is certain to stay.
    pub text: String,
    /// A stop string was completed; whatever follows is not part of the reply.
    pub stopped: bool,
}

impl StopMatcher {
    /// Empty strings are ignored; they would match everywhere.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Take in the next piece.
    pub fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        let ends = |stop: &String| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, stop.clone()));
        let first = self.stops.iter().filter_map(ends).min();
        if let Some((_, start, stop)) = first {
            self.matched = Some(stop);
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        Released { text: std::mem::replace(&mut self.held, tail), stopped: false }
    }

    /// The stop string that was completed.
    pub fn matched(&self) -> Option<&str> {
        self.matched.as_deref()
    }

    /// The text ended: what was held back belongs to it after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
pub(crate) fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(stops: &[String], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops);
        let mut out = String::new();
        for piece in pieces {
            let released = matcher.push(piece);
            out.push_str(&released.text);
            if released.stopped {
                return (out, true);
            }
        }
        out.push_str(&matcher.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_across_pieces_leaves_no_trace() {
        let stops = ["\n\n".to_string(), "END".to_string()];
        assert_eq!(run(&stops, ["one\n", "two E", "N", "D three"]), ("one\ntwo ".into(), true));
        assert_eq!(run(&stops, ["one E", "N"]), ("one EN".into(), false));
    }

    #[test]
    fn the_first_completed_match_wins() {
        let stops = ["abcdef".to_string(), "cd".to_string()];
        assert_eq!(run(&stops, ["xabcdef"]), ("xab".into(), true));
        let same_end = ["b".to_string(), "ab".to_string()];
        assert_eq!(run(&same_end, ["xab"]), ("x".into(), true));
        let mut matcher = StopMatcher::new(&stops);
        matcher.push("xabcdef");
        assert_eq!(matcher.matched(), Some("cd"));
    }

    #[test]
    fn what_cannot_match_is_released_at_once() {
        let mut matcher = StopMatcher::new(&["straßen".to_string()]);
        assert_eq!(matcher.push("die straß").text, "die ");
        assert_eq!(matcher.push("ig").text, "straßig");
        assert_eq!(matcher.push("s").text, "");
        assert_eq!(matcher.push("s").text, "s");
        assert_eq!(matcher.finish(), "s");
    }

    proptest! {
        #[test]
        fn cutting_the_text_elsewhere_changes_nothing(text in "[abß]{0,30}", stops in prop::collection::vec("[abß]{1,4}", 0..4), cut in prop::collection::vec(1usize..5, 1..12)) {
            let whole = run(&stops, [text.as_str()]);
            let chars: Vec<char> = text.chars().collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for size in cut.iter().cycle() {
                if at >= chars.len() {
                    break;
                }
                let end = (at + size).min(chars.len());
                pieces.push(chars[at..end].iter().collect::<String>());
                at = end;
            }
            prop_assert_eq!(run(&stops, pieces.iter().map(String::as_str)), whole);
        }
    }
}
