//! The author's own macros: `\newcommand`, `\renewcommand`, `\providecommand`, `\def` and `\DeclareMathOperator` with plain
//! bodies are expanded, so that formulas read the same in every paper. Bodies that program (`\if`, `\csname`, `@`) are left
//! alone. Expansion is bounded in depth, number and size: `\def\a{\a\a}` is a legal file.

use std::collections::HashMap;

/// Longest body that is expanded.
const MAX_BODY: usize = 600;
/// Depth of macros in macros.
const MAX_DEPTH: usize = 12;
/// Replacements in one document.
const MAX_STEPS: usize = 200_000;

#[derive(Debug, Clone)]
struct Macro {
    arguments: usize,
    default: Option<String>,
    body: String,
}

/// Expand the macros that `source` defines; the definitions go.
pub fn expand(source: &str) -> String {
    let (text, macros) = collect(source);
    if macros.is_empty() {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut steps = 0;
    let limit = text.len() * 2 + (1 << 20);
    replace(&text, &macros, 0, &mut steps, limit, &mut out);
    out
}

/// The content of `{...}` at the start of `text` (after white space), and what follows. Braces are counted; a backslash takes the next character with it.
pub fn group(text: &str) -> Option<(&str, &str)> {
    delimited(text, b'{', b'}')
}

/// The content of `[...]`, likewise.
pub fn option(text: &str) -> Option<(&str, &str)> {
    delimited(text, b'[', b']')
}

fn delimited(text: &str, open: u8, close: u8) -> Option<(&str, &str)> {
    /// An argument longer than this was never closed.
    const MAX: usize = 16 << 10;
    let trimmed = text.trim_start_matches([' ', '\t', '\n']);
    // An empty line ends the search for an argument.
    if text[..text.len() - trimmed.len()].matches('\n').count() > 1 || trimmed.as_bytes().first() != Some(&open) {
        return None;
    }
    let (mut depth, mut braces, mut escaped) = (0, 0, false);
    for (i, byte) in trimmed.bytes().enumerate().take(MAX) {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == open && braces == 0 {
            depth += 1;
        } else if byte == close && braces == 0 {
            depth -= 1;
            if depth == 0 {
                return Some((&trimmed[1..i], &trimmed[i + 1..]));
            }
        } else if open == b'[' && byte == b'{' {
            braces += 1;
        } else if open == b'[' && byte == b'}' {
            braces -= 1;
        }
    }
    None
}

/// The name of the command at the start of `text` (after its backslash): letters, or one other character.
pub fn command(text: &str) -> &str {
    let letters = text.bytes().take_while(|b| b.is_ascii_alphabetic() || *b == b'@').count();
    if letters > 0 { &text[..letters] } else { &text[..text.chars().next().map_or(0, char::len_utf8)] }
}

fn collect(source: &str) -> (String, HashMap<String, Macro>) {
    let mut macros = HashMap::new();
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = command(after);
        let tail = after[name.len()..].trim_start_matches('*');
        let defined = match name {
            "newcommand" | "renewcommand" | "providecommand" | "DeclareRobustCommand" => new_command(tail),
            "DeclareMathOperator" => operator(tail),
            "def" => def(tail),
            _ => None,
        };
        match defined {
            Some((name, definition, tail)) => {
                let plain = !["@", "\\if", "\\csname", "\\expandafter", "\\catcode", "\\def", "\\newcommand", "##"]
                    .iter()
                    .any(|w| definition.body.contains(w));
                if definition.body.len() <= MAX_BODY && plain {
                    macros.insert(name, definition);
                }
                rest = tail;
            }
            None => {
                out.push('\\');
                out.push_str(name);
                rest = &after[name.len()..];
            }
        }
    }
    out.push_str(rest);
    (out, macros)
}

fn macro_name(text: &str) -> Option<(String, &str)> {
    if let Some((inside, rest)) = group(text) {
        let name = inside.trim().strip_prefix('\\')?;
        return (command(name) == name && !name.is_empty()).then(|| (name.to_string(), rest));
    }
    let after = text.trim_start().strip_prefix('\\')?;
    let name = command(after);
    (!name.is_empty()).then(|| (name.to_string(), &after[name.len()..]))
}

fn new_command(text: &str) -> Option<(String, Macro, &str)> {
    let (name, mut rest) = macro_name(text)?;
    let (mut arguments, mut default) = (0, None);
    if let Some((n, after)) = option(rest) {
        arguments = n.trim().parse().ok().filter(|n| *n <= 9)?;
        rest = after;
        if let Some((value, after)) = option(rest) {
            default = Some(value.to_string());
            rest = after;
        }
    }
    let (body, rest) = group(rest)?;
    Some((name, Macro { arguments, default, body: body.to_string() }, rest))
}

fn operator(text: &str) -> Option<(String, Macro, &str)> {
    let (name, rest) = macro_name(text)?;
    let (body, rest) = group(rest)?;
    Some((name, Macro { arguments: 0, default: None, body: format!("\\operatorname{{{body}}}") }, rest))
}

fn def(text: &str) -> Option<(String, Macro, &str)> {
    let (name, rest) = macro_name(text)?;
    let open = rest.bytes().take(40).position(|b| b == b'{')?;
    // Only plain parameters: #1#2.
    let parameters = rest[..open].trim();
    let arguments = parameters.len() / 2;
    let expected: String = (1..=arguments).map(|n| format!("#{n}")).collect();
    if parameters != expected || arguments > 9 {
        return None;
    }
    let (body, rest) = group(&rest[open..])?;
    Some((name, Macro { arguments, default: None, body: body.to_string() }, rest))
}

fn replace(text: &str, macros: &HashMap<String, Macro>, depth: usize, steps: &mut usize, limit: usize, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = command(after);
        let tail = &after[name.len()..];
        let found = macros.get(name).filter(|_| depth < MAX_DEPTH && *steps < MAX_STEPS && out.len() < limit);
        match found.and_then(|m| arguments(m, tail).map(|(values, tail)| (m, values, tail))) {
            Some((definition, values, tail)) => {
                *steps += 1;
                let filled = fill(&definition.body, &values);
                let before = out.len();
                replace(&filled, macros, depth + 1, steps, limit, out);
                // `\R x` eats its space; what comes out must not run into the next letter.
                let next_is_letter = tail.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
                let ends_in_command = out[before..].rfind('\\').is_some_and(|i| out[before + i + 1..].bytes().all(|b| b.is_ascii_alphabetic()));
                if next_is_letter && ends_in_command {
                    out.push(' ');
                }
                rest = tail;
            }
            None => {
                out.push('\\');
                out.push_str(name);
                rest = tail;
            }
        }
    }
    out.push_str(rest);
}

fn arguments<'a>(definition: &Macro, text: &'a str) -> Option<(Vec<String>, &'a str)> {
    let mut values = Vec::new();
    let mut rest = text;
    if definition.arguments == 0 {
        return Some((values, rest));
    }
    if let Some(default) = &definition.default {
        match option(rest) {
            Some((value, after)) => {
                values.push(value.to_string());
                rest = after;
            }
            None => values.push(default.clone()),
        }
    }
    while values.len() < definition.arguments {
        if let Some((value, after)) = group(rest) {
            values.push(value.to_string());
            rest = after;
            continue;
        }
        // An argument without braces is one character or one command.
        let trimmed = rest.trim_start_matches([' ', '\t', '\n']);
        let length = match trimmed.strip_prefix('\\') {
            Some(after) => 1 + command(after).len(),
            None => trimmed.chars().next().filter(|c| !matches!(c, '}' | '$' | '&'))?.len_utf8(),
        };
        values.push(trimmed[..length].to_string());
        rest = &trimmed[length..];
    }
    Some((values, rest))
}

fn fill(body: &str, values: &[String]) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('#') {
        out.push_str(&rest[..at]);
        let digit = rest.as_bytes().get(at + 1).filter(|b| b.is_ascii_digit());
        match digit.and_then(|d| values.get(usize::from(d - b'0').checked_sub(1)?)) {
            Some(value) => {
                out.push_str(value);
                rest = &rest[at + 2..];
            }
            None => {
                out.push('#');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn macros_with_arguments_defaults_and_macros_in_them() {
        let source = r"\newcommand{\R}{\mathbb{R}}\newcommand\norm[2][2]{\|#2\|_{#1}}\def\pair#1#2{(#1,#2)}\DeclareMathOperator*{\argmax}{arg\,max}\renewcommand{\vec}[1]{\mathbf{#1}}A $\R^n$, $\norm{x}$, $\norm[1]{\vec y}$, $\pair a\R$, $\argmax_x$.";
        assert_eq!(expand(source), r"A $\mathbb{R}^n$, $\|x\|_{2}$, $\|\mathbf{y}\|_{1}$, $(a,\mathbb{R})$, $\operatorname{arg\,max}_x$.");
    }

    #[test]
    fn bombs_and_programs_are_left() {
        let bomb = format!(r"\def\a{{\a\a}}\newcommand{{\b}}{{{}}}\a {}", r"\c".repeat(50), r"\b".repeat(2000));
        assert!(expand(&bomb).len() < 3 << 20);
        assert!(expand(r"\newcommand{\x}{\ifnum1=1 a\fi}\x").contains(r"\x"));
    }

    proptest! {
        #[test]
        fn any_source_is_accepted(source in r"(\\newcommand|\\def|\\a|\\b|\{|\}|\[|\]|#1|#|[0-9a ]|\n|ä|\\){0,60}") {
            let _ = expand(&source);
        }
    }
}
