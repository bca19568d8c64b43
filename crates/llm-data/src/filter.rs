//! The filters: five checks for natural language, and their counterparts for code.
//!
//! Natural language (`tutorial` profile): 100 to 100,000 words; at most 20 % non-alphabetic characters; at most 20 %
//! duplicate lines; language in the allow-list with confidence at least 0.65; quality score at least the threshold.
//!
//! *Non-alphabetic* is the share of characters that are neither letters nor white space, among **all** characters, so
//! prose lies near 3 to 6 % and documentation with code near 10 to 18 %. *Duplicate lines* are second and later
//! occurrences of a line, weighted by their characters (the second of Gopher's two measures, Rae et al., 2021, table A1):
//! counted by number, the speakers' names alone would drop every play and the repeated lines of code every tutorial.
//! Words are separated by white space, so the word limits are not meant for languages written without spaces.

use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use crate::langid;
use crate::quality::{QualityConfig, QualityModel, is_reference};
use llm_run::{Progress, Seed};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Configuration of `llm-data filter`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Output folder of `read`.
    pub input: PathBuf,
    /// Seed of the quality model.
    pub seed: u64,
    /// Limits of natural language.
    pub text: TextLimits,
    /// Limits of code.
    pub code: CodeLimits,
    /// The learned score.
    pub quality: QualityConfig,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { input: PathBuf::new(), seed: 42, text: TextLimits::default(), code: CodeLimits::default(), quality: QualityConfig::default() }
    }
}

/// Limits of natural language.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextLimits {
    /// Least number of words.
    pub min_words: usize,
    /// Greatest number of words.
    pub max_words: usize,
    /// Greatest share of characters that are neither letters nor white space.
    pub max_non_alphabetic: f64,
    /// Greatest share of duplicate lines.
    pub max_duplicate_lines: f64,
    /// Least confidence of the language identification.
    pub min_lang_score: f32,
    /// Languages to keep, ISO 639-1; empty: all.
    pub languages: Vec<String>,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self {
            min_words: 100,
            max_words: 100_000,
            max_non_alphabetic: 0.20,
            max_duplicate_lines: 0.20,
            min_lang_score: 0.65,
            languages: ["en", "de", "es"].map(String::from).to_vec(),
        }
    }
}

/// Limits of code.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeLimits {
    /// Least number of lines that are not empty.
    pub min_lines: usize,
    /// Least size.
    pub min_bytes: usize,
    /// Greatest size.
    pub max_bytes: usize,
    /// Greatest share of characters that are neither letters nor white space: tables of numbers.
    pub max_non_alphabetic: f64,
    /// Greatest share of duplicate lines.
    pub max_duplicate_lines: f64,
    /// Longest line: minified or embedded data.
    pub max_line_chars: usize,
    /// Greatest mean length of a line.
    pub max_mean_line_chars: f64,
    /// Drop files that say a program wrote them.
    pub drop_generated: bool,
}

impl Default for CodeLimits {
    fn default() -> Self {
        Self {
            min_lines: 5,
            min_bytes: 200,
            max_bytes: 200_000,
            max_non_alphabetic: 0.40,
            max_duplicate_lines: 0.40,
            max_line_chars: 500,
            max_mean_line_chars: 100.0,
            drop_generated: true,
        }
    }
}

/// The steps in their order; the first that a document fails is the one that counts.
pub const STEPS: &[&str] = &[
    "length",
    "non-alphabetic",
    "duplicate lines",
    "language",
    "quality",
    "code length",
    "code generated",
    "code line length",
    "code non-alphabetic",
    "code duplicate lines",
];

/// Share of characters that are neither letters nor white space, among all characters; 0 for an empty text.
pub fn non_alphabetic(text: &str) -> f64 {
    let (mut all, mut odd) = (0usize, 0usize);
    for c in text.chars() {
        all += 1;
        odd += usize::from(!c.is_alphabetic() && !c.is_whitespace());
    }
    odd as f64 / all.max(1) as f64
}

/// Characters in second and later occurrences of a line, as a share of the characters in all lines (trimmed).
pub fn duplicate_lines(text: &str) -> f64 {
    let mut seen = HashSet::new();
    let (mut all, mut duplicates) = (0usize, 0usize);
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let chars = line.chars().count();
        all += chars;
        duplicates += if seen.insert(line) { 0 } else { chars };
    }
    duplicates as f64 / all.max(1) as f64
}

/// The phrase by which a source file says, in its first lines, that a program wrote it.
pub fn generated_marker(text: &str) -> Option<&'static str> {
    const MARKERS: &[&str] = &[
        "@generated",
        "automatically generated",
        "auto-generated",
        "autogenerated",
        "do not edit",
        "generated by bindgen",
        "this file is generated",
        "machine generated",
    ];
    let end = text.char_indices().nth(1500).map_or(text.len(), |(i, _)| i);
    let head = text[..end].lines().take(12).collect::<Vec<_>>().join("\n").to_lowercase();
    MARKERS.iter().find(|m| head.contains(**m)).copied()
}

/// What a step found: `(step, value, threshold)`.
type Finding = (&'static str, serde_json::Value, serde_json::Value);

fn rounded(value: f64) -> serde_json::Value {
    ((value * 1e4).round() / 1e4).into()
}

/// Checks of natural language before the quality score. Sets `lang` and `lang_score`.
pub fn check_text(document: &mut Document, limits: &TextLimits) -> Option<Finding> {
    let words = document.text.split_whitespace().take(limits.max_words.saturating_add(1)).count();
    if words < limits.min_words {
        return Some(("length", words.into(), limits.min_words.into()));
    }
    if words > limits.max_words {
        return Some(("length", words.into(), limits.max_words.into()));
    }
    let share = non_alphabetic(&document.text);
    if share > limits.max_non_alphabetic {
        return Some(("non-alphabetic", rounded(share), limits.max_non_alphabetic.into()));
    }
    let share = duplicate_lines(&document.text);
    if share > limits.max_duplicate_lines {
        return Some(("duplicate lines", rounded(share), limits.max_duplicate_lines.into()));
    }
    let found = langid::identify(&document.text);
    let (code, score) = found.map_or(("unknown", 0.0), |l| (l.code, l.score));
    document.lang = Some(code.to_string());
    document.lang_score = Some(score);
    let wanted = limits.languages.is_empty() || limits.languages.iter().any(|l| l == code);
    if !wanted || score < limits.min_lang_score {
        let threshold = format!("one of {} with {}", limits.languages.join(" "), limits.min_lang_score);
        return Some(("language", format!("{code} {score:.2}").into(), threshold.into()));
    }
    None
}

/// Checks of code.
pub fn check_code(document: &Document, limits: &CodeLimits) -> Option<Finding> {
    let text = &document.text;
    if text.len() < limits.min_bytes {
        return Some(("code length", text.len().into(), format!("{} bytes", limits.min_bytes).into()));
    }
    if text.len() > limits.max_bytes {
        return Some(("code length", text.len().into(), format!("{} bytes", limits.max_bytes).into()));
    }
    let lengths: Vec<usize> = text.lines().map(|l| l.chars().count()).filter(|n| *n > 0).collect();
    if lengths.len() < limits.min_lines {
        return Some(("code length", lengths.len().into(), format!("{} lines", limits.min_lines).into()));
    }
    if let Some(marker) = limits.drop_generated.then(|| generated_marker(text)).flatten() {
        return Some(("code generated", marker.into(), "no marker in the first lines".into()));
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if longest > limits.max_line_chars {
        return Some(("code line length", longest.into(), limits.max_line_chars.into()));
    }
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
    if mean > limits.max_mean_line_chars {
        return Some(("code line length", rounded(mean), limits.max_mean_line_chars.into()));
    }
    let share = non_alphabetic(text);
    if share > limits.max_non_alphabetic {
        return Some(("code non-alphabetic", rounded(share), limits.max_non_alphabetic.into()));
    }
    let share = duplicate_lines(text);
    (share > limits.max_duplicate_lines).then(|| ("code duplicate lines", rounded(share), limits.max_duplicate_lines.into()))
}

fn judge(mut document: Document, config: &FilterConfig) -> (Document, Option<Finding>) {
    let finding = if document.is_code() { check_code(&document, &config.code) } else { check_text(&mut document, &config.text) };
    (document, finding)
}

/// The references that train the quality model: two passes of the cheap checks, nothing kept but the sample.
fn references(config: &FilterConfig) -> Result<Vec<(String, String)>> {
    let mut curated: BTreeMap<String, usize> = BTreeMap::new();
    let mut candidates: Vec<(u64, String, bool, String)> = Vec::new();
    let seed = Seed(config.seed).stream("references");
    let limit = config.quality.max_references;
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let passed: Vec<Document> = batch?
            .into_par_iter()
            .filter(|d| !d.is_code())
            .map(|d| judge(d, config))
            .filter(|(_, finding)| finding.is_none())
            .map(|(d, _)| d)
            .collect();
        for document in passed {
            let lang = document.lang.clone().unwrap_or_default();
            let is_curated = is_reference(&document, &BTreeSet::new());
            *curated.entry(lang.clone()).or_default() += usize::from(is_curated);
            candidates.push((seed.stream(&document.id).0, document.id, is_curated, lang));
        }
    }
    let scarce: BTreeSet<String> = curated.into_iter().filter(|(_, n)| *n < config.quality.min_references).map(|(l, _)| l).collect();
    let mut chosen: Vec<(u64, String)> =
        candidates.into_iter().filter(|(_, _, is_curated, lang)| *is_curated || scarce.contains(lang)).map(|(h, id, _, _)| (h, id)).collect();
    chosen.sort();
    chosen.truncate(limit);
    let wanted: HashSet<String> = chosen.into_iter().map(|(_, id)| id).collect();
    let mut texts = Vec::new();
    for batch in DocumentReader::open(&config.input)? {
        texts.extend(batch?.into_iter().filter(|d| wanted.contains(&d.id)).map(|d| (d.id, d.text)));
    }
    Ok(texts)
}

/// Run the stage.
pub fn filter(config: &FilterConfig, out: &Path) -> Result<Funnel> {
    let mut funnel = FunnelWriter::create(out, "filter", STEPS)?;
    let total = crate::document::count(&config.input)?;
    let mut progress = Progress::new("filter", total, "documents");
    let model = if config.quality.enabled {
        let references = references(config)?;
        let model = QualityModel::train(&references, &config.quality, config.seed);
        if model.is_none() {
            funnel.notice(format!("no quality score: {} reference documents, {} needed", references.len(), config.quality.min_references));
        }
        model
    } else {
        None
    };
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let batch = batch?;
        let n = batch.len() as u64;
        let judged: Vec<(Document, Option<Finding>)> = batch
            .into_par_iter()
            .map(|document| {
                let (mut document, mut finding) = judge(document, config);
                if let (None, false, Some(model)) = (&finding, document.is_code(), &model) {
                    let score = model.score(&document.text);
                    document.quality = Some(score);
                    if score < config.quality.threshold {
                        finding = Some(("quality", rounded(f64::from(score)), rounded(f64::from(config.quality.threshold))));
                    }
                }
                (document, finding)
            })
            .collect();
        for (document, finding) in judged {
            funnel.input(document.text.len());
            match finding {
                None => {
                    funnel.output(&document);
                    writer.push(document)?;
                }
                Some((step, value, threshold)) => {
                    let drop = Drop { step: step.to_string(), value, threshold, text: excerpt(&document.text), id: document.id };
                    funnel.drop(drop, document.text.len())?;
                }
            }
        }
        progress.inc(n);
    }
    if writer.documents == 0 {
        let worst =
            funnel.funnel.steps.iter().max_by_key(|s| s.dropped).map_or_else(String::new, |s| format!("; `{}` dropped most ({})", s.name, s.dropped));
        return Err(Error::Empty(format!("{}: no document of {total} passed the filters{worst}; loosen the limits", config.input.display())));
    }
    if let Some(model) = &model {
        model.save(&out.join("quality.json"))?;
    }
    writer.finish()?;
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok(funnel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(body: &str) -> Document {
        Document { id: "x".into(), text: body.into(), domain: "docs".into(), ..Document::default() }
    }

    fn step_of(document: Document) -> Option<&'static str> {
        let mut document = document;
        check_text(&mut document, &TextLimits::default()).map(|f| f.0)
    }

    /// `n` different English words-in-sentences.
    fn english(n: usize) -> String {
        let words = [
            "when", "the", "winter", "came", "they", "would", "often", "walk", "through", "quiet", "streets", "and", "speak", "about", "what", "had",
            "happened",
        ];
        (0..n).map(|i| format!("{}{}", words[(i * 7 + i / 17) % words.len()], if i % 11 == 10 { ".\n" } else { " " })).collect()
    }

    #[test]
    fn length_passes_at_100_words_and_fails_at_99() {
        assert_eq!(step_of(text(&english(99))), Some("length"));
        assert_eq!(step_of(text(&english(100))), None);
        let limits = TextLimits { max_words: 150, ..TextLimits::default() };
        assert!(check_text(&mut text(&english(150)), &limits).is_none());
        assert_eq!(check_text(&mut text(&english(151)), &limits).unwrap().0, "length");
    }

    #[test]
    fn non_alphabetic_passes_at_20_percent_and_fails_above() {
        let letters = "ab ".repeat(200);
        let all = letters.chars().count();
        let at_limit = format!("{letters}{}", "#".repeat(all / 4));
        assert!((non_alphabetic(&at_limit) - 0.2).abs() < 1e-9);
        assert_ne!(step_of(text(&at_limit)), Some("non-alphabetic"));
        assert_eq!(step_of(text(&format!("{at_limit}#"))), Some("non-alphabetic"));
        assert_eq!(non_alphabetic(""), 0.0);
    }

    #[test]
    fn duplicate_lines_pass_at_20_percent_and_fail_above() {
        // Lines of 40 characters, all different but the repeated one.
        let line =
            |i: usize| format!("{:<40}", format!("line {} of a text in words", ["a", "b", "c", "d"][i % 4].repeat(i / 4 + 1))).replace("  ", " x");
        let text_of = |distinct: usize, repeats: usize| (0..distinct).map(line).chain((0..repeats).map(|_| line(0))).collect::<Vec<_>>().join("\n");
        let share = duplicate_lines(&text_of(40, 10));
        assert!((share - 0.2).abs() < 0.01, "{share}");
        let at = TextLimits { max_duplicate_lines: share, ..TextLimits::default() };
        let step = |body: String| check_text(&mut text(&body), &at).map(|f| f.0);
        assert_ne!(step(text_of(40, 10)), Some("duplicate lines"));
        assert_eq!(step(text_of(40, 11)), Some("duplicate lines"));
        assert_eq!(step_of(text(&text_of(40, 20))), Some("duplicate lines"));
    }

    #[test]
    fn the_speakers_of_a_play_are_no_duplicates_to_speak_of() {
        let play: String = (0..60)
            .map(|i| format!("FAUST:\n{}, so sprach er und {} dann noch einmal von neuem.\n", "ja ".repeat(i % 9 + 1), "ging ".repeat(i / 9 + 1)))
            .collect();
        assert!(duplicate_lines(&play) < 0.2, "{}", duplicate_lines(&play));
    }

    #[test]
    fn language_must_be_wanted_and_sure() {
        let french =
            "Lorsque l'hiver arriva, ils marchaient souvent dans les rues tranquilles et parlaient de ce qui s'était passé pendant la guerre. "
                .repeat(6);
        assert_eq!(step_of(text(&french)), Some("language"));
        let limits = TextLimits { languages: vec!["fr".into()], max_duplicate_lines: 1.0, ..TextLimits::default() };
        let mut document = text(&french);
        assert!(check_text(&mut document, &limits).is_none());
        assert_eq!(document.lang.as_deref(), Some("fr"));
        let sure = TextLimits { min_lang_score: 1.1, ..limits };
        assert_eq!(check_text(&mut document, &sure).unwrap().0, "language");
    }

    #[test]
    fn code_has_its_own_limits() {
        let code = |body: String| Document { text: body, domain: "code".into(), ..Document::default() };
        let check = |body: String| check_code(&code(body), &CodeLimits::default()).map(|f| f.0);
        let lines =
            |n: usize| (0..n).map(|i| format!("    let value_number_{} = compute_something({i});\n", "x".repeat(i % 60 + 1))).collect::<String>();
        assert_eq!(check(lines(20)), None);
        assert_eq!(check(lines(4)), Some("code length"));
        assert_eq!(check(format!("// @generated by a tool\n{}", lines(20))), Some("code generated"));
        assert_eq!(check(format!("{}// {}\n", lines(20), "y".repeat(497))), None);
        assert_eq!(check(format!("{}// {}\n", lines(20), "y".repeat(498))), Some("code line length"));
        assert_eq!(check((0..40).map(|i| format!("0x{i:02x}, 0x{:02x}, 0x00, 0x11, 0x22,\n", i * 3)).collect()), Some("code non-alphabetic"));
        assert_eq!(check("    the_same_statement_again();\n".repeat(30)), Some("code duplicate lines"));
    }

    #[test]
    fn markers_only_count_in_the_head() {
        assert_eq!(generated_marker("// This file is automatically generated\n"), Some("automatically generated"));
        assert_eq!(generated_marker(&format!("{}// do not edit\n", "fn f() {}\n".repeat(20))), None);
    }

    proptest! {
        #[test]
        fn shares_are_shares(text in any::<String>()) {
            prop_assert!((0.0..=1.0).contains(&non_alphabetic(&text)));
            prop_assert!((0.0..1.0).contains(&duplicate_lines(&text)));
            let _ = generated_marker(&text);
        }
    }
}
