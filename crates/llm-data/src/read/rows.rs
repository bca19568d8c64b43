//! Rows of data sets to documents: JSON lines, JSON arrays, Parquet and Arrow share what is here.
//!
//! Which column is what: the settings name it, else the names that the field uses are tried in order (`url`, `metadata.url`,
//! `max_stars_repo_licenses`, ...). Several columns become one text through a template, `"{question}\n{answer}"`; a dot leads
//! into a struct (`{answers.text}`). Code rows in the manner of The Stack are checked like code files ([`super::code`]).

use super::format::{Batches, Input, Out};
use super::jsonl::{self, Lines};
use super::paths::PathsConfig;
use super::{Outcome, code, dates};
use crate::document::Document;
use crate::error::{Error, Result, record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{BufReader, Read};

pub(super) use super::columnar::{arrow, parquet};

/// Which columns of a row are used for what. An empty name: the usual names are tried.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RowsConfig {
    /// Text from several columns, e.g. `"{question}\n{answer}"`; replaces `text_field`. `{{` and `}}` are braces.
    pub template: String,
    /// Column that ids are made of, after the label of the file; empty: the number of the row.
    pub id_field: String,
    /// Column of [`Document::url`].
    pub url_field: String,
    /// Column of [`Document::date`].
    pub date_field: String,
    /// Column of [`Document::lang`].
    pub lang_field: String,
    /// Column of [`Document::license`].
    pub license_field: String,
    /// Only these splits of a data set folder (`train`); empty: all of them.
    pub splits: Vec<String>,
}

const TEXT: &[&str] = &["content", "raw_content", "document", "article", "code"];
const URL: &[&str] = &["url", "metadata.url", "source_url", "warc_url"];
const DATE: &[&str] = &[
    "date",
    "created",
    "timestamp",
    "published",
    "publish_date",
    "visit_date",
    "metadata.warc_date",
    "metadata.date",
    "max_stars_repo_stars_event_max_datetime",
    "added",
];
const LANG: &[&str] = &["lang", "language", "metadata.lang"];
const LICENSE: &[&str] = &["license", "licence", "licenses", "max_stars_repo_licenses", "detected_licenses", "metadata.license"];
/// Where a code row says which file it was.
const PATH: &[&str] = &["max_stars_repo_path", "path", "file_path"];

/// The columns that may be needed: what a columnar reader has to read.
pub(super) fn wanted(config: &PathsConfig) -> Vec<String> {
    let rows = &config.rows;
    let mut names: Vec<&str> = vec![&config.text_field, &rows.id_field, &rows.url_field, &rows.date_field, &rows.lang_field, &rows.license_field];
    names.extend(["messages", "id", "domain", "lang_score", "quality", "is_vendor", "is_generated", "src_encoding"]);
    names.extend([TEXT, URL, DATE, LANG, LICENSE, PATH].concat());
    let fields: Vec<String> = Template::parse(&rows.template).map(|t| t.fields().map(str::to_string).collect()).unwrap_or_default();
    let roots = names.into_iter().map(str::to_string).chain(fields).filter_map(|n| n.split('.').next().map(str::to_string));
    roots.filter(|n| !n.is_empty()).collect()
}

/// Whether columns of these names can give a text.
pub(super) fn can_have_text(config: &PathsConfig, columns: &[&str]) -> bool {
    let field = config.text_field.as_str();
    let usual = field == "text" && TEXT.iter().any(|n| columns.contains(n));
    !config.rows.template.is_empty() || columns.contains(&field) || columns.contains(&"messages") || usual
}

/// A text with holes for columns.
#[derive(Debug, PartialEq)]
struct Template(Vec<(String, Option<String>)>);

impl Template {
    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Config(format!("paths.rows.template: {why} in {text:?}; write {{column}}, and {{{{ or }}}} for braces"));
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let end = after.find('}').filter(|_| brace == "{").ok_or_else(|| wrong("a single brace"))?;
            let name = after[..end].trim();
            if name.is_empty() || name.contains('{') {
                return Err(wrong("a hole without a column"));
            }
            parts.push((std::mem::take(&mut literal), Some(name.to_string())));
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        parts.push((literal, None));
        Ok(Self(parts))
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(_, field)| field.as_deref())
    }

    fn fill(&self, row: &Map<String, Value>) -> Result<String, String> {
        let mut out = String::new();
        for (literal, field) in &self.0 {
            out.push_str(literal);
            if let Some(field) = field {
                let value = lookup(row, field).ok_or_else(|| format!("no column `{field}`"))?;
                out.push_str(&words(value));
            }
        }
        Ok(out)
    }
}

/// A value by name, or through dots.
fn lookup<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    lookup(row.get(first)?.as_object()?, rest)
}

/// A value as text: strings as they are, lists line by line.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    }
}

/// Turns rows into outcomes.
pub(super) struct RowReader<'a> {
    config: &'a PathsConfig,
    template: Option<Template>,
    input: Shared,
}

/// What all rows of a file share.
struct Shared {
    id: String,
    path: std::path::PathBuf,
    base: Document,
}

impl<'a> RowReader<'a> {
    pub(super) fn new(input: &Input<'_>, config: &'a PathsConfig) -> Result<Self> {
        let template = if config.rows.template.is_empty() { None } else { Some(Template::parse(&config.rows.template)?) };
        let base = input.document(String::new(), config);
        Ok(Self { config, template, input: Shared { id: input.id.to_string(), path: input.path.clone(), base } })
    }

    fn string(&self, row: &Map<String, Value>, chosen: &str, usual: &[&str]) -> Option<String> {
        let found = if chosen.is_empty() { usual.iter().find_map(|n| lookup(row, n).filter(|v| !v.is_null())) } else { lookup(row, chosen) };
        let value = match found? {
            // All licences of a repository hold for its files.
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" AND "),
            value => words(value),
        };
        Some(value).filter(|v| !v.is_empty())
    }

    fn text(&self, row: &Map<String, Value>) -> Result<String, String> {
        if let Some(template) = &self.template {
            return template.fill(row);
        }
        let field = self.config.text_field.as_str();
        // A lone column of another name is more likely a mistake than a data set.
        let usual = || TEXT.iter().find_map(|n| row.get(*n).and_then(Value::as_str)).filter(|_| field == "text" && row.len() > 1).map(str::to_string);
        jsonl::text_of(row, field).or_else(usual).ok_or_else(|| {
            let known: Vec<&str> = row.keys().map(String::as_str).take(12).collect();
            format!("no string field `{field}` and no `messages`; it has {}: set paths.text_field or on_error = \"skip\"", known.join(", "))
        })
    }

    /// The outcomes of one row; `number` counts from 1, `place` is for messages.
    pub(super) fn row(&self, number: u64, place: &str, row: &Map<String, Value>) -> Result<Vec<Outcome>> {
        let rows = &self.config.rows;
        let mut id = format!("{}#{number}", self.input.id);
        let text = match self.text(row) {
            Ok(text) if text.trim().is_empty() => Err("the text is empty or null; fix the row or set paths.on_error = \"skip\"".to_string()),
            other => other,
        };
        let text = match text {
            Ok(text) => text,
            Err(message) => return Ok(vec![self.damaged(&id, record(&self.input.path, place, message))?]),
        };
        if let Some(own) = lookup(row, &rows.id_field).filter(|_| !rows.id_field.is_empty()).map(words).filter(|v| !v.is_empty()) {
            id = format!("{}#{own}", self.input.id);
        }
        let number_of = |name: &str| row.get(name).and_then(Value::as_f64).map(|v| v as f32);
        let lang = self.string(row, &rows.lang_field, LANG).map(|l| l.to_lowercase());
        let is_code = lang.as_deref().is_some_and(|l| jsonl::CODE_LANGUAGES.contains(&l));
        let domain = self.string(row, "", &["domain"]).unwrap_or_else(|| {
            let prose = if row.contains_key("messages") { "exercise" } else { "web" };
            if is_code { "code" } else { prose }.to_string()
        });
        let url = self.string(row, &rows.url_field, URL).or_else(|| self.string(row, "", &["id"]).filter(|id| id.starts_with("http")));
        let document = Document {
            id,
            text,
            url,
            lang,
            lang_score: number_of("lang_score"),
            license: self.string(row, &rows.license_field, LICENSE).or_else(|| self.input.base.license.clone()),
            domain: self.config.domain_or(&domain),
            quality: number_of("quality"),
            date: self.string(row, &rows.date_field, DATE).and_then(|d| dates::iso(&d)),
            ..self.input.base.clone()
        };
        if is_code || document.is_code() {
            let path = self.string(row, "", PATH);
            for (flag, step) in [("is_vendor", "vendored file"), ("is_generated", "generated file")] {
                if row.get(flag).and_then(Value::as_bool) == Some(true) && self.config.code.skips(step) {
                    return Ok(vec![Outcome::skip(step, document.id, format!("{flag} is true"), "false", &document.text)]);
                }
            }
            return Ok(vec![code::checked(document, path.as_deref(), &self.config.code)]);
        }
        Ok(vec![Outcome::Keep(document)])
    }

    pub(super) fn damaged(&self, id: &str, error: Error) -> Result<Outcome> {
        self.config.damaged("damaged row", id, error)
    }
}

/// One JSON object a line.
pub(super) fn json_lines(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let reader = RowReader::new(input, config)?;
    let decoded = input.decoded()?;
    let lines = Lines::new(&input.path, BufReader::with_capacity(1 << 18, decoded));
    let path = input.path.clone();
    let job = |(number, line): (u64, Result<Vec<u8>>)| match line.and_then(|line| jsonl::object(&path, number, &line)) {
        Ok(row) => reader.row(number, &format!("line {number}"), &row),
        Err(error) => Ok(vec![reader.damaged(&format!("{}#{number}", reader.input.id), error)?]),
    };
    let mut batches = Batches::new(job, out);
    let mut last = 0;
    for line in lines {
        match line {
            Ok((number, line)) => {
                last = number;
                let bytes = line.len();
                batches.push((number, Ok(line)), bytes)?;
            }
            Err(error) => {
                last += 1;
                batches.push((last, Err(error)), 0)?;
            }
        }
    }
    batches.flush()
}

/// Largest JSON file that is one value.
const MAX_JSON: u64 = 256 << 20;

/// The elements of a JSON array, or one value; or what is wrong with the text.
pub(super) fn values(text: &[u8]) -> Result<Vec<Value>, String> {
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Array(rows)) => Ok(rows),
        Ok(value) => Ok(vec![value]),
        Err(e) => Err(e.to_string()),
    }
}

/// All of a file that is one JSON value.
pub(super) fn json_text(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let n = reader.take(MAX_JSON + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if n as u64 > MAX_JSON {
        return Err(format!("larger than {} MiB: write one object a line as .jsonl", MAX_JSON >> 20));
    }
    Ok(text)
}

/// One JSON value.
pub(super) fn json(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let reader = RowReader::new(input, config)?;
    let rows = match json_text(input.decoded()?).and_then(|text| values(&text)) {
        Ok(rows) => rows,
        Err(e) => {
            let message = format!("not valid JSON ({e}); fix it or set paths.on_error = \"skip\"");
            return out(reader.damaged(input.id, Error::Format { path: input.path.clone(), message })?);
        }
    };
    for (i, row) in rows.iter().enumerate() {
        let number = i as u64 + 1;
        let place = format!("element {number}");
        let outcomes = match row.as_object() {
            Some(row) => reader.row(number, &place, row)?,
            None => {
                let message = "expected an object with a text field; fix it or set paths.on_error = \"skip\"";
                vec![reader.damaged(&format!("{}#{number}", input.id), record(&input.path, place, message))?]
            }
        };
        outcomes.into_iter().try_for_each(&mut *out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn outcomes(row: Value, config: &PathsConfig) -> Vec<Outcome> {
        let input = Input::stream("set/a.jsonl", std::io::empty());
        let reader = RowReader::new(&input, config).unwrap();
        reader.row(7, "line 7", row.as_object().unwrap()).unwrap()
    }

    fn kept(row: Value, config: &PathsConfig) -> Document {
        match outcomes(row, config).pop() {
            Some(Outcome::Keep(document)) => document,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn columns_go_where_they_belong() {
        let document = kept(json!({"text": "t", "url": "https://x.org", "created": "2024-05-06T00:00:00Z", "lang": "DE"}), &PathsConfig::default());
        assert_eq!((document.id.as_str(), document.url.as_deref(), document.lang.as_deref()), ("set/a.jsonl#7", Some("https://x.org"), Some("de")));
        assert_eq!(document.date.as_deref(), Some("2024-05-06T00:00:00Z"));
        let mut config = PathsConfig::default();
        config.rows.template = "Q: {question}\nA: {answers.text} {{ok}}".into();
        config.rows.id_field = "key".into();
        let document = kept(json!({"question": "why", "answers": {"text": ["a", "b"]}, "key": 12}), &config);
        assert_eq!((document.text.as_str(), document.id.as_str()), ("Q: why\nA: a\nb {ok}", "set/a.jsonl#12"));
    }

    #[test]
    fn rows_of_the_stack_are_code_with_licences() {
        let row =
            json!({"content": "fn f() {}\n", "lang": "Rust", "max_stars_repo_licenses": ["MIT", "GPL-3.0-only"], "max_stars_repo_path": "src/a.rs"});
        let mut config = PathsConfig::default();
        let document = kept(row.clone(), &config);
        assert_eq!((document.domain.as_str(), document.license.as_deref()), ("code", Some("MIT AND GPL-3.0-only")));
        config.code.licenses = vec!["MIT".into()];
        assert!(matches!(&outcomes(row, &config)[0], Outcome::Skip(d, _) if d.step == "licence"));
    }

    #[test]
    fn a_wrong_template_is_named() {
        for wrong in ["{", "a}", "{}", "{a{b}"] {
            assert!(Template::parse(wrong).unwrap_err().to_string().contains("paths.rows.template"), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_template_is_one_or_an_error(text in "[{}a.\n ]{0,20}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.fill(&Map::new());
            }
        }
    }
}
