//! What the terminal output shares: colour only where a person sees it, numbers as people read them, text that fits.
//!
//! Colour is on when the stream is a terminal, `NO_COLOR` (<https://no-color.org>) is unset and `TERM` is not `dumb`.

use std::io::IsTerminal;

/// The widest line that is printed.
pub const WIDTH: usize = 80;

/// Paints text, or leaves it as it is.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For text that goes to stdout.
    pub fn stdout() -> Self {
        Self { on: std::io::stdout().is_terminal() && wanted() }
    }

    /// For text that goes to stderr.
    pub fn stderr() -> Self {
        Self { on: std::io::stderr().is_terminal() && wanted() }
    }

    /// Never any colour.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { on: false }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Dimmed.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Cyan: names and commands to type.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    /// Green: good news.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Yellow: worth a look.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var("TERM").map_or(true, |t| t != "dumb")
}

/// Columns a text takes; escapes are not counted. Wide scripts do not occur in what is laid out here.
#[cfg(test)]
pub fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            for c in chars.by_ref() {
                if c == 'm' {
                    break;
                }
            }
        } else {
            count += 1;
        }
    }
    count
}

/// One line of at most `width` columns; control characters become spaces, a cut is marked with `…`.
pub fn clip(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if clean.chars().count() <= width {
        return clean;
    }
    let mut cut: String = clean.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Break a text into lines of at most `width` columns, at spaces where possible; existing line breaks stay.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().filter(|c| !c.is_control()).collect();
            let used = line.chars().count();
            if used > 0 && used + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            }
            while word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

/// `1_536` -> `1.5 KiB`.
pub fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 { format!("{value:.0} {}", units[unit]) } else { format!("{value:.1} {}", units[unit]) }
}

pub use llm_run::progress::thousands;

/// `s` where the count is not one.
pub fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The known name nearest to a mistyped one, if it is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.into_iter().map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min()?;
    (best.0 <= 1 + wrong.len() / 3).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_and_wrapped_within_the_width() {
        assert_eq!(clip("a\tb\n\x1b[31mc", 20), "a b [31mc");
        assert_eq!(clip("abcdef", 4), "abc…");
        let lines = wrap("the quick brown fox incomprehensibilities", 9);
        assert!(lines.iter().all(|l| l.chars().count() <= 9), "{lines:?}");
        assert_eq!(lines[0], "the quick");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(12.0), "12 B");
    }

    #[test]
    fn escapes_take_no_columns() {
        assert_eq!(columns(&Paint { on: true }.bold("four")), 4);
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        assert_eq!(nearest("pretrian", ["sft", "pretrain"]), Some("pretrain"));
        assert_eq!(nearest("quantise", ["sft", "read"]), None);
    }
}
