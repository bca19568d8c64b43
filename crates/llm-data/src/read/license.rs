//! Licences: SPDX expressions against an allow-list of permissive ones.
//!
//! `A OR B` is fine when one side is, `A AND B` when both are, `A WITH exception` when `A` is. The old Cargo form
//! `MIT/Apache-2.0` means OR. Grammar: SPDX specification 2.3, annex D.

/// Permissive licences: use, change and redistribution with attribution at most.
pub const PERMISSIVE: &[&str] = &[
    "0BSD",
    "AFL-3.0",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "NCSA",
    "PostgreSQL",
    "Python-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "WTFPL",
    "X11",
    "Zlib",
    "bzip2-1.0.6",
    "libpng-2.0",
    "zlib-acknowledgement",
];

/// True when `expression` can be satisfied with licences of `allowed` (compared without case) alone.
///
/// `Err` holds the place that does not parse.
pub fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens, at: 0, allowed, depth: 0 };
    let value = parser.or()?;
    if parser.at < tokens.len() { Err(format!("unexpected `{}`", tokens[parser.at])) } else { Ok(value) }
}

/// One spelling for expressions that mean the same: `MIT/Apache-2.0` and `Apache-2.0 OR MIT`. What holds more than `OR`
/// stays as it is.
pub fn normalised(expression: &str) -> String {
    let spaced = expression.replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let simple =
        tokens.len() % 2 == 1 && tokens.iter().enumerate().all(|(i, t)| (i % 2 == 1) == t.eq_ignore_ascii_case("OR")) && !spaced.contains('(');
    if !simple {
        return expression.trim().to_string();
    }
    let mut names: Vec<&str> = tokens.into_iter().step_by(2).collect();
    names.sort_by_key(|n| n.to_ascii_lowercase());
    names.dedup();
    names.join(" OR ")
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    at: usize,
    allowed: &'a [String],
    depth: usize,
}

impl Parser<'_> {
    fn next_is(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| t.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn or(&mut self) -> Result<bool, String> {
        let mut value = self.and()?;
        while self.next_is("OR") {
            value |= self.and()?;
        }
        Ok(value)
    }

    fn and(&mut self) -> Result<bool, String> {
        let mut value = self.term()?;
        while self.next_is("AND") {
            value &= self.term()?;
        }
        Ok(value)
    }

    fn term(&mut self) -> Result<bool, String> {
        if self.next_is("(") {
            self.depth += 1;
            if self.depth > 32 {
                return Err("more than 32 nested parentheses".into());
            }
            let value = self.or()?;
            self.depth -= 1;
            return if self.next_is(")") { Ok(value) } else { Err("missing `)`".into()) };
        }
        let name = self.tokens.get(self.at).ok_or("ends where a licence was expected")?;
        if ["AND", "OR", "WITH", ")"].iter().any(|w| name.eq_ignore_ascii_case(w)) {
            return Err(format!("`{name}` where a licence was expected"));
        }
        self.at += 1;
        if self.next_is("WITH") {
            self.tokens.get(self.at).ok_or("ends where an exception was expected")?;
            self.at += 1;
        }
        let name = name.trim_end_matches('+');
        Ok(self.allowed.iter().any(|a| a.eq_ignore_ascii_case(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed(expression: &str) -> Result<bool, String> {
        let list: Vec<String> = PERMISSIVE.iter().map(|s| s.to_string()).collect();
        is_allowed(expression, &list)
    }

    #[test]
    fn or_needs_one_and_needs_both() {
        for good in [
            "MIT",
            "mit",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert_eq!(allowed(good), Ok(true), "{good}");
        }
        for bad in ["GPL-3.0-or-later", "MIT AND GPL-2.0", "MPL-2.0", "LGPL-2.1 OR (MIT AND AGPL-3.0)", "Proprietary"] {
            assert_eq!(allowed(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(allowed("MIT OR GPL-2.0 AND GPL-3.0"), Ok(true));
        assert_eq!(allowed("(MIT OR GPL-2.0) AND GPL-3.0"), Ok(false));
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND MIT", "MIT WITH"] {
            assert!(allowed(broken).is_err(), "{broken}");
        }
        assert!(allowed(&"(".repeat(10_000)).is_err());
    }

    #[test]
    fn spellings_are_unified() {
        for same in ["MIT/Apache-2.0", "Apache-2.0 OR MIT", "MIT OR Apache-2.0", "MIT / Apache-2.0"] {
            assert_eq!(normalised(same), "Apache-2.0 OR MIT");
        }
        assert_eq!(normalised("(MIT OR Apache-2.0) AND Unicode-3.0"), "(MIT OR Apache-2.0) AND Unicode-3.0");
        assert_eq!(normalised("MIT"), "MIT");
    }

    proptest! {
        #[test]
        fn never_panics(text in "(MIT|GPL|OR|AND|WITH|\\(|\\)|/| |[a-z.-]{1,4}){0,40}") {
            let _ = allowed(&text);
            prop_assert_eq!(normalised(&normalised(&text)), normalised(&text));
        }
    }
}
