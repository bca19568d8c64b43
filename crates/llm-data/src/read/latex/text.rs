//! LaTeX source to text: headings in Markdown's form, paragraphs, lists, verbatim code, and every formula as it was written.
//!
//! Floats, drawings, tables and the bibliography go; commands that only format go and their arguments stay. One pass over the
//! body; only the arguments of headings and the like are looked into again, to a bounded depth.

use super::macros::{command, group, option};
use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;

const MAX_DEPTH: usize = 8;
/// A formula between dollar signs that is longer was never closed.
const MAX_INLINE: usize = 8 << 10;

/// Environments that go with their content.
const DROPPED: &[&str] = &[
    "figure",
    "figure*",
    "table",
    "table*",
    "tabular",
    "tabular*",
    "tabularx",
    "longtable",
    "wrapfigure",
    "subfigure",
    "tikzpicture",
    "pspicture",
    "picture",
    "thebibliography",
    "filecontents",
    "filecontents*",
    "comment",
    "CCSXML",
    "sidewaystable",
    "sidewaysfigure",
    "algorithm",
    "algorithm*",
    "algorithmic",
    "keywords",
    "IEEEkeywords",
    "forest",
    "titlepage",
];
/// Environments of formulas, kept as they are.
const MATHS: &[&str] = &[
    "equation",
    "equation*",
    "align",
    "align*",
    "gather",
    "gather*",
    "multline",
    "multline*",
    "eqnarray",
    "eqnarray*",
    "displaymath",
    "math",
    "alignat",
    "alignat*",
    "flalign",
    "flalign*",
    "subequations",
    "dmath",
    "dmath*",
    "tikzcd",
];
/// Environments copied letter by letter.
const VERBATIM: &[&str] = &["verbatim", "verbatim*", "Verbatim", "lstlisting", "minted", "alltt"];
/// Commands that go with their arguments.
const WITH_ARGUMENTS: &[&str] = &[
    "label",
    "cite",
    "citep",
    "citet",
    "citealp",
    "citeauthor",
    "citeyear",
    "nocite",
    "ref",
    "eqref",
    "pageref",
    "autoref",
    "cref",
    "Cref",
    "vref",
    "vspace",
    "hspace",
    "vskip",
    "includegraphics",
    "bibliography",
    "bibliographystyle",
    "usepackage",
    "setlength",
    "addtolength",
    "pagestyle",
    "thispagestyle",
    "setcounter",
    "addtocounter",
    "input",
    "include",
    "graphicspath",
    "hypersetup",
    "newtheorem",
    "color",
    "thanks",
    "footnote",
    "footnotetext",
    "footnotemark",
    "index",
    "author",
    "date",
    "affiliation",
    "institute",
    "email",
    "address",
    "caption",
    "markboth",
    "titlerunning",
    "authorrunning",
    "orcid",
    "pacs",
    "newcommand",
    "renewcommand",
    "providecommand",
    "def",
    "DeclareMathOperator",
    "newenvironment",
    "renewenvironment",
    "theoremstyle",
    "numberwithin",
    "fontsize",
    "rule",
    "vbox",
    "hypertarget",
    "phantom",
    "hphantom",
    "vphantom",
    "raisebox",
    "addcontentsline",
    "tableofcontents",
    "documentclass",
    "documentstyle",
    "makeatletter",
    "newlength",
    "definecolor",
    "citestyle",
    "acmConference",
    "ccsdesc",
    "keywords",
    "subjclass",
    "RequirePackage",
    "printbibliography",
    "addbibresource",
    "PassOptionsToPackage",
    "title",
    "todo",
    "linebreak",
    "pagebreak",
    "includepdf",
];

/// Without comments: `%` to the end of the line, and the line break when nothing else was on the line. `\%` stays, and so does
/// what stands in verbatim environments.
pub fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut verbatim: Option<&str> = None;
    for line in source.split_inclusive('\n') {
        if let Some(name) = verbatim {
            out.push_str(line);
            if line.contains(&format!("\\end{{{name}}}")) {
                verbatim = None;
            }
            continue;
        }
        verbatim = VERBATIM.iter().find(|n| line.contains(&format!("\\begin{{{n}}}")) && !line.contains(&format!("\\end{{{n}}}"))).copied();
        let mut escaped = false;
        let mark = line.bytes().position(|b| {
            let found = b == b'%' && !escaped;
            escaped = b == b'\\' && !escaped;
            found
        });
        match mark {
            None => out.push_str(line),
            Some(at) if line[..at].trim().is_empty() => {}
            Some(at) => {
                out.push_str(&line[..at]);
                // TeX eats the line break too; a space is nearer to what was meant more often than not.
                out.push('\n');
            }
        }
    }
    out
}

/// The text of a document (or of a fragment without `\begin{document}`).
pub fn to_text(source: &str) -> String {
    let (preamble, body) = source.split_once("\\begin{document}").unwrap_or(("", source));
    let body = body.split("\\end{document}").next().unwrap_or(body);
    let mut out = String::new();
    let title = [preamble, body].into_iter().find_map(|part| {
        let at = part.find("\\title")?;
        let rest = &part[at + 6..];
        group(option(rest).map_or(rest, |(_, r)| r))
    });
    if let Some((title, _)) = title {
        let title = inline(title, 1);
        if !title.is_empty() {
            out.push_str(&format!("# {title}\n\n"));
        }
    }
    let mut converter = Converter { depth: 0, missing: BTreeSet::new(), out };
    converter.run(body);
    tidy(&converter.out)
}

fn inline(source: &str, depth: usize) -> String {
    if depth > MAX_DEPTH {
        return String::new();
    }
    let mut converter = Converter { depth, missing: BTreeSet::new(), out: String::new() };
    converter.run(source);
    converter.out.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Converter {
    depth: usize,
    /// Ends of environments that do not come any more.
    missing: BTreeSet<String>,
    out: String,
}

impl Converter {
    fn run(&mut self, source: &str) {
        let mut rest = source;
        while let Some(at) = rest.find(['\\', '$', '{', '}', '~', '`', '\'', '-']) {
            self.out.push_str(&rest[..at]);
            rest = self.mark(&rest[at..]);
        }
        self.out.push_str(rest);
    }

    /// Handle what `rest` begins with; the text behind it.
    fn mark<'a>(&mut self, rest: &'a str) -> &'a str {
        match rest.as_bytes() {
            [b'$', b'$', ..] => self.formula(rest, "$$", "$$", true),
            [b'$', ..] => self.formula(rest, "$", "$", false),
            [b'\\', b'(', ..] => self.formula(rest, "\\(", "\\)", false),
            [b'\\', b'[', ..] => self.formula(rest, "\\[", "\\]", true),
            [b'\\', ..] => self.command(&rest[1..]),
            [b'{' | b'}', ..] => &rest[1..],
            [b'~', ..] => self.replaced(rest, 1, " "),
            [b'`', b'`', ..] => self.replaced(rest, 2, "“"),
            [b'\'', b'\'', ..] => self.replaced(rest, 2, "”"),
            [b'-', b'-', b'-', ..] => self.replaced(rest, 3, "—"),
            [b'-', b'-', ..] => self.replaced(rest, 2, "–"),
            _ => self.replaced(rest, 1, &rest[..1]),
        }
    }

    fn replaced<'a>(&mut self, rest: &'a str, length: usize, text: &str) -> &'a str {
        self.out.push_str(text);
        &rest[length..]
    }

    fn formula<'a>(&mut self, rest: &'a str, open: &str, close: &str, display: bool) -> &'a str {
        let inside = &rest[open.len()..];
        let end = super::super::books::floor(inside, MAX_INLINE);
        let mut from = 0;
        let found = loop {
            match inside[from..end].find(close).map(|i| from + i) {
                Some(at) if close.starts_with('$') && inside[..at].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1 => from = at + 1,
                other => break other,
            }
        };
        let Some(at) = found else { return self.replaced(rest, open.len(), open) };
        let formula = without_labels(&inside[..at]);
        if display {
            self.out.push_str(&format!("\n\n$${}$$\n\n", formula.trim()));
        } else {
            self.out.push_str(&format!("${}$", formula.trim()));
        }
        &inside[at + close.len()..]
    }

    fn command<'a>(&mut self, after: &'a str) -> &'a str {
        let name = command(after);
        let rest = &after[name.len()..];
        let starred = rest.strip_prefix('*').unwrap_or(rest);
        match name {
            "" => rest,
            "begin" => self.environment(rest),
            "end" => group(rest).map_or(rest, |(_, rest)| {
                self.out.push('\n');
                rest
            }),
            "part" | "chapter" | "section" | "subsection" | "subsubsection" | "paragraph" | "subparagraph" => {
                let rest = option(starred).map_or(starred, |(_, rest)| rest);
                let Some((title, rest)) = group(rest) else { return rest };
                let level = match name {
                    "part" | "chapter" => 1,
                    "section" => 2,
                    "subsection" => 3,
                    _ => 4,
                };
                let title = inline(title, self.depth + 1);
                self.out.push_str(&format!("\n\n{} {title}\n\n", "#".repeat(level)));
                rest
            }
            "item" => {
                self.out.push_str("\n- ");
                match option(rest) {
                    Some((label, rest)) => {
                        let label = inline(label, self.depth + 1);
                        self.out.push_str(&label);
                        self.out.push(' ');
                        rest
                    }
                    None => rest,
                }
            }
            "href" | "textcolor" | "colorbox" | "texorpdfstring" => group(starred).map_or(rest, |(_, rest)| rest),
            "url" | "nolinkurl" | "path" => group(rest).map_or(rest, |(url, rest)| {
                self.out.push_str(url);
                rest
            }),
            "verb" => {
                let Some(fence) = starred.chars().next() else { return rest };
                let inside = &starred[fence.len_utf8()..];
                match inside.find([fence, '\n']) {
                    Some(end) => {
                        self.out.push_str(&inside[..end]);
                        &inside[end + inside[end..].chars().next().map_or(0, char::len_utf8)..]
                    }
                    None => rest,
                }
            }
            "\\" | "newline" | "par" | "newpage" | "clearpage" | "bigskip" | "medskip" | "smallskip" => {
                self.out.push_str(if name == "\\" || name == "newline" { "\n" } else { "\n\n" });
                option(starred).map_or(starred, |(_, rest)| rest)
            }
            "%" | "&" | "_" | "#" | "$" | "{" | "}" => self.replaced(after, 1, name),
            " " | "," | ";" | ":" | "!" | "/" | "quad" | "qquad" | "@" | "\n" => {
                self.spaced(rest, if matches!(name, "!" | "/" | "@") { "" } else { " " })
            }
            "ldots" | "dots" | "textellipsis" => self.spaced(rest, "…"),
            "textbackslash" => self.spaced(rest, "\\"),
            "LaTeX" | "TeX" => self.spaced(rest, name),
            "S" => self.spaced(rest, "§"),
            "copyright" => self.spaced(rest, "©"),
            "ss" | "ae" | "AE" | "oe" | "OE" | "aa" | "AA" | "o" | "O" | "l" | "L" | "i" | "j" => {
                let letter = match name {
                    "ss" => "ß",
                    "ae" => "æ",
                    "AE" => "Æ",
                    "oe" => "œ",
                    "OE" => "Œ",
                    "aa" => "å",
                    "AA" => "Å",
                    "o" => "ø",
                    "O" => "Ø",
                    "l" => "ł",
                    "L" => "Ł",
                    "i" => "i",
                    _ => "j",
                };
                self.spaced(rest, letter)
            }
            "\"" | "'" | "`" | "^" | "~" | "=" | "." | "c" | "v" | "u" | "H" | "k" | "r" => self.accent(name, rest),
            _ if WITH_ARGUMENTS.contains(&name) => {
                let mut rest = starred;
                while let Some((_, after)) = option(rest).or_else(|| group(rest)) {
                    rest = after;
                }
                rest
            }
            // A command that formats: it goes, with its options; its arguments are text.
            _ => {
                let rest = option(starred).filter(|_| starred.starts_with('[')).map_or(starred, |(_, rest)| rest);
                if name.len() > 1 && rest.starts_with(' ') { &rest[1..] } else { rest }
            }
        }
    }

    fn spaced<'a>(&mut self, rest: &'a str, text: &str) -> &'a str {
        self.out.push_str(text);
        rest.strip_prefix("{}").unwrap_or(rest)
    }

    fn accent<'a>(&mut self, name: &str, rest: &'a str) -> &'a str {
        let mark = match name {
            "\"" => '\u{308}',
            "'" => '\u{301}',
            "`" => '\u{300}',
            "^" => '\u{302}',
            "~" => '\u{303}',
            "=" => '\u{304}',
            "." => '\u{307}',
            "c" => '\u{327}',
            "v" => '\u{30c}',
            "u" => '\u{306}',
            "H" => '\u{30b}',
            "k" => '\u{328}',
            _ => '\u{30a}',
        };
        let trimmed = rest.trim_start_matches(' ');
        let (letter, after) = match group(trimmed) {
            Some((inside, after)) => (inside, after),
            None if name.len() == 1 && name.bytes().all(|b| b.is_ascii_alphabetic()) && trimmed.len() == rest.len() => return rest,
            None => {
                let length = match trimmed.strip_prefix('\\') {
                    Some(after) => 1 + command(after).len(),
                    None => trimmed.chars().next().map_or(0, char::len_utf8),
                };
                trimmed.split_at(length)
            }
        };
        let mut letters = letter.trim_start_matches('\\').chars();
        let Some(first) = letters.next().filter(|c| c.is_alphabetic()) else { return after };
        self.out.extend([first, mark].into_iter().nfc());
        self.out.extend(letters);
        after
    }

    fn environment<'a>(&mut self, rest: &'a str) -> &'a str {
        let Some((name, inside)) = group(rest) else { return rest };
        let name = name.trim();
        let known = DROPPED.contains(&name) || MATHS.contains(&name) || VERBATIM.contains(&name);
        let close = format!("\\end{{{name}}}");
        if known && !self.missing.contains(name) {
            if let Some(at) = inside.find(&close) {
                let content = &inside[..at];
                if MATHS.contains(&name) {
                    let formula = without_labels(content);
                    self.out.push_str(&format!("\n\n\\begin{{{name}}}\n{}\n{close}\n\n", formula.trim_matches(['\n', ' '])));
                } else if VERBATIM.contains(&name) {
                    let content = option(content).filter(|_| content.starts_with('[')).map_or(content, |(_, rest)| rest);
                    self.out.push_str(&format!("\n\n{VERBATIM_MARK}{}{VERBATIM_MARK}\n\n", content.trim_matches('\n').replace(VERBATIM_MARK, "")));
                }
                return &inside[at + close.len()..];
            }
            self.missing.insert(name.to_string());
        }
        match name {
            "abstract" => self.out.push_str("\n\n## Abstract\n\n"),
            "itemize" | "enumerate" | "description" | "document" | "center" | "quote" | "quotation" | "appendix" | "minipage" | "flushleft"
            | "flushright" | "multicols" => {
                self.out.push_str("\n\n");
                // Options and widths are not text.
                let mut rest = inside;
                while let Some((_, after)) = option(rest).filter(|_| rest.starts_with('[')).or_else(|| group(rest).filter(|_| rest.starts_with('{')))
                {
                    rest = after;
                }
                return rest;
            }
            other => {
                // Theorems and the like say what they are.
                self.out.push_str("\n\n");
                let theorem = [
                    "theorem",
                    "thm",
                    "lemma",
                    "lem",
                    "corollary",
                    "proposition",
                    "prop",
                    "definition",
                    "defn",
                    "remark",
                    "example",
                    "proof",
                    "conjecture",
                    "claim",
                ];
                if theorem.contains(&other) {
                    let word = match other {
                        "thm" => "theorem",
                        "lem" => "lemma",
                        "prop" => "proposition",
                        "defn" => "definition",
                        word => word,
                    };
                    let mut letters = word.chars();
                    self.out.extend(letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters));
                    let named = option(inside).filter(|_| inside.starts_with('['));
                    if let Some((title, _)) = named {
                        let title = inline(title, self.depth + 1);
                        self.out.push_str(&format!(" ({title})"));
                    }
                    self.out.push_str(". ");
                    return named.map_or(inside, |(_, rest)| rest);
                }
            }
        }
        inside
    }
}

/// Around verbatim text until paragraphs are joined.
const VERBATIM_MARK: char = '\u{f8fd}';

/// Formulas without the labels that nothing refers to any more.
fn without_labels(formula: &str) -> String {
    let mut out = String::with_capacity(formula.len());
    let mut rest = formula;
    while let Some(at) = rest.find("\\label") {
        out.push_str(&rest[..at]);
        rest = group(&rest[at + 6..]).map_or(&rest[at + 6..], |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

/// Paragraphs on one line, formulas and verbatim text as they are, at most one empty line.
fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, part) in text.split(VERBATIM_MARK).enumerate() {
        if i % 2 == 1 {
            out.truncate(out.trim_end().len());
            out.push_str("\n\n");
            out.push_str(part);
            out.push_str("\n\n");
            continue;
        }
        for paragraph in part.split("\n\n") {
            let formula = paragraph.trim_start().starts_with("\\begin{");
            let mut block = String::new();
            for line in paragraph.lines().map(str::trim).filter(|l| !l.is_empty()) {
                let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
                let new_line = formula || words.starts_with("- ") || words.starts_with('#');
                block.push_str(if block.is_empty() {
                    ""
                } else if new_line {
                    "\n"
                } else {
                    " "
                });
                block.push_str(&words);
            }
            if !block.is_empty() {
                out.push_str(&block.replace(" .", ".").replace(" ,", ","));
                out.push_str("\n\n");
            }
        }
    }
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_papers_are_made_of() {
        let source = r#"\documentclass{article}
\title[Short]{On the \textbf{M\"obius} function}
\author{A. Author\thanks{grant}}
\begin{document}
\maketitle
\begin{abstract}We show ``something'' --- at last.\end{abstract}
\section{Intro\label{s}}
As in~\cite[p.~3]{x}, let $f\colon A\to B$ and
\begin{equation}\label{e} a = b % no
\end{equation}
hold for 5\% of \emph{all {cases}}.\footnote{Gone.}

\begin{figure}\includegraphics[width=3cm]{a}\caption{Gone}\end{figure}
\begin{theorem}[Gauss] \[ x^2 \ge 0 \] \end{theorem}
\begin{itemize}\item one \item[b)] two\end{itemize}
\begin{verbatim}
for i in x:  % kept
    print(i)
\end{verbatim}
See \href{https://x.org}{the page} and \url{https://y.org/a_b}; Erd\H{o}s, Fran\c{c}ois, na\"{\i}ve, \ss.
\begin{thebibliography}{9}\bibitem{x} Gone\end{thebibliography}
\end{document} trailing"#;
        let expected = "# On the Möbius function\n\n## Abstract\n\nWe show “something” — at last.\n\n## Intro\n\nAs in, let $f\\colon A\\to B$ and\n\n\\begin{equation}\na = b\n\\end{equation}\n\nhold for 5% of all cases.\n\nTheorem (Gauss).\n\n$$x^2 \\ge 0$$\n\n- one\n- b) two\n\nfor i in x:  % kept\n    print(i)\n\nSee the page and https://y.org/a_b; Erdős, François, naïve, ß.\n";
        assert_eq!(to_text(&without_comments(source)), expected);
    }

    #[test]
    fn unclosed_things_are_text_and_cost_little() {
        assert_eq!(to_text("a $5 and b"), "a $5 and b\n");
        assert_eq!(to_text(r"a \begin{figure} never closed"), "a\n\nnever closed\n");
        for piece in [r"\section{", r"\begin{figure}", "$", r"\textbf{", "{", r"\footnote["] {
            let _ = to_text(&piece.repeat(20_000));
        }
    }

    proptest! {
        #[test]
        fn any_source_is_accepted(source in r#"(\\begin\{(equation|figure|verbatim|thm|itemize)\}|\\end\{(equation|figure|verbatim)\}|\\section|\\item|\\verb\||\\"|\\'|\\c|\$\$?|\{|\}|\[|\]|%|\n|\\|ä|[a-z ]{1,4}){0,50}"#) {
            let _ = to_text(&without_comments(&source));
        }

        #[test]
        fn any_string_is_accepted(source in any::<String>()) {
            let _ = to_text(&without_comments(&source));
        }
    }
}
