//! Benchmark files to the texts that must not be trained on: what is asked, what is answered, and both in a row.
//!
//! Formats are known by extension and by their fields, not by file name: CSV with and without a header (MMLU, TruthfulQA),
//! TSV (MGSM), JSON and JSON lines of all the harness's tasks, SQuAD, plain text (one text a line), each also gzipped.

use crate::error::{Error, Result, io, record};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// One task of a benchmark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// Texts that give it away: the question, long answers, question and right answer joined.
    pub texts: Vec<String>,
}

/// What is asked, in the order in which the parts are shown.
const QUESTIONS: &[&str] =
    &["Body", "context", "ctx", "premise", "question", "Question", "problem", "query", "prompt", "text", "input", "instruction", "sentence"];
/// What is answered.
const ANSWERS: &[&str] = &[
    "answer",
    "solution",
    "declaration",
    "canonical_solution",
    "code",
    "test",
    "test_list",
    "challenge_test_list",
    "target",
    "output",
    "continuation",
    "choice1",
    "choice2",
    "endings",
    "choices",
    "options",
    "Best Answer",
    "final_decision",
    "label",
];

/// Items of a file.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = name.strip_suffix(".gz").unwrap_or(&name).to_string();
    let mut bytes = std::fs::read(path).map_err(io(path, "cannot read"))?;
    if plain != name {
        let mut text = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).take(1 << 32).read_to_end(&mut text).map_err(io(path, "cannot decompress"))?;
        bytes = text;
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}');
    let items: Vec<Item> = match plain.rsplit('.').next().unwrap_or_default() {
        "jsonl" | "ndjson" => {
            let mut items = Vec::new();
            for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
                let value: Value =
                    serde_json::from_str(line).map_err(|e| record(path, format!("line {}", i + 1), format!("expected a JSON object: {e}")))?;
                walk(&value, &mut items);
            }
            items
        }
        "json" => {
            let value: Value =
                serde_json::from_str(text).map_err(|e| Error::Format { path: path.to_path_buf(), message: format!("expected JSON: {e}") })?;
            let mut items = Vec::new();
            walk(&value, &mut items);
            items
        }
        "csv" => table(&csv(text)),
        "tsv" => text.lines().map(|l| pair(&l.split('\t').map(str::to_string).collect::<Vec<_>>())).collect(),
        _ => text.lines().map(|l| Item { texts: vec![l.split('\t').next().unwrap_or_default().to_string()] }).collect(),
    };
    Ok(items.into_iter().filter(|i| i.texts.iter().any(|t| !t.trim().is_empty())).collect())
}

/// True for extensions that [`read`] takes.
pub fn is_readable(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt"].iter().any(|e| plain.ends_with(e))
}

/// Objects that hold a question become items, wherever they are.
fn walk(value: &Value, items: &mut Vec<Item>) {
    match value {
        Value::Array(all) => all.iter().for_each(|v| walk(v, items)),
        Value::Object(object) => {
            if let Some(canary) = object.get("canary").and_then(Value::as_str) {
                items.push(Item { texts: vec![canary.to_string()] });
            }
            // SQuAD: a passage with its questions.
            if let (Some(context), Some(questions)) = (object.get("context").and_then(Value::as_str), object.get("qas")) {
                items.push(Item { texts: vec![context.to_string()] });
                return walk(questions, items);
            }
            match item(object) {
                Some(item) => items.push(item),
                None => object.values().filter(|v| v.is_array() || v.is_object()).for_each(|v| walk(v, items)),
            }
        }
        _ => {}
    }
}

fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(s) => out.push(s.clone()),
        Value::Array(all) => all.iter().for_each(|v| strings(v, out)),
        // `mc1_targets`: answers as keys; `turns` inside `choices`; SQuAD answers.
        Value::Object(object) => object.iter().filter(|(k, _)| *k == "text" || *k == "turns").for_each(|(_, v)| strings(v, out)),
        _ => {}
    }
}

fn item(object: &Map<String, Value>) -> Option<Item> {
    let gold = ["gold", "label", "answer", "index"].iter().find_map(|k| object.get(*k)).and_then(Value::as_u64).map(|g| g as usize);
    let mut parts: Vec<String> = Vec::new();
    for key in QUESTIONS {
        if let Some(text) = object.get(*key).and_then(Value::as_str).map(|t| t.trim_start_matches("Question: ").to_string())
            && !parts.contains(&text)
        {
            parts.push(text);
        }
    }
    // WinoGrande: the contexts differ in a name, the right one is the gold's.
    let mut options = Vec::new();
    object.get("context_options").iter().for_each(|v| strings(v, &mut options));
    if let Some(context) = options.get(gold.unwrap_or(0)) {
        parts.push(context.clone());
    }
    object.get("turns").iter().for_each(|v| strings(v, &mut parts));
    if parts.is_empty() && !object.contains_key("choices") {
        return None;
    }
    let question = parts.join(" ");
    let mut texts = parts.clone();
    if parts.len() > 1 {
        texts.push(question.clone());
    }
    for key in ANSWERS {
        let mut answers = Vec::new();
        object.get(*key).iter().for_each(|v| strings(v, &mut answers));
        // The right one of several, or the only one, follows the question.
        let right = if answers.len() == 1 { answers.first() } else { gold.and_then(|g| answers.get(g)) };
        if let Some(right) = right.filter(|_| !matches!(*key, "test" | "test_list" | "challenge_test_list")) {
            texts.push(format!("{question} {right}"));
        }
        texts.extend(answers);
    }
    for key in ["mc1_targets", "mc2_targets"] {
        let answers = object.get(key).and_then(Value::as_object);
        for (answer, right) in answers.into_iter().flatten() {
            texts.push(if right.as_u64() == Some(1) { format!("{question} {answer}") } else { answer.clone() });
        }
    }
    Some(Item { texts })
}

/// Question and answer of two columns, or MMLU's question, four choices and letter.
fn pair(row: &[String]) -> Item {
    let Some((question, rest)) = row.split_first() else { return Item::default() };
    let letter = rest.last().filter(|l| l.len() == 1).and_then(|l| "ABCDEFGHIJ".find(l.as_str()));
    let mut texts = vec![question.clone()];
    match letter.and_then(|l| rest[..rest.len() - 1].get(l)) {
        Some(right) => texts.push(format!("{question} {right}")),
        None => texts.extend(rest.first().map(|right| format!("{question} {right}"))),
    }
    texts.extend(rest.iter().cloned());
    Item { texts }
}

fn table(rows: &[Vec<String>]) -> Vec<Item> {
    let Some(header) = rows.first() else { return Vec::new() };
    let known = |name: &str| QUESTIONS.contains(&name) || ANSWERS.contains(&name);
    if header.iter().filter(|h| known(h)).count() >= 2 {
        let objects = rows[1..].iter().map(|row| header.iter().cloned().zip(row.iter().map(|v| Value::String(v.clone()))).collect::<Map<_, _>>());
        return objects.filter_map(|o| item(&o)).collect();
    }
    rows.iter().map(|r| pair(r)).collect()
}

/// Rows of a CSV (RFC 4180): quoted fields hold commas, line breaks and doubled quotes.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            c => field.push(c),
        }
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows.retain(|r| r.iter().any(|f| !f.is_empty()));
    rows
}

/// `gsm8k` for `gsm8k/test.jsonl`, `math500` for `math/math500_test.jsonl`.
pub fn benchmark_name(relative: &Path) -> String {
    let parts: Vec<String> = relative.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    // Folders that hold several benchmarks.
    let skip = usize::from(parts.len() > 1 && matches!(parts[0].as_str(), "commonsense" | "math" | "vlm"));
    let name = &parts[skip.min(parts.len() - 1)];
    if skip + 1 < parts.len() {
        return name.clone();
    }
    let stem = name.split('.').next().unwrap_or(name);
    let tail = ["_testmini", "_test", "_val", "_dev", "_first", "_train", "_sample"];
    let cut = tail.iter().filter_map(|t| stem.find(t)).min().unwrap_or(stem.len());
    stem[..cut].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Vec<Item> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).unwrap()
    }

    #[test]
    fn csv_fields_may_hold_anything() {
        assert_eq!(csv("a,\"b, \"\"c\"\"\nd\",e\r\nf,,"), [vec!["a", "b, \"c\"\nd", "e"], vec!["f", "", ""]]);
    }

    #[test]
    fn the_right_answer_follows_the_question() {
        let mmlu = read_text("a.csv", "What is it?,one,two,three,four,C\n");
        assert_eq!(mmlu[0].texts[..2], ["What is it?", "What is it? three"]);
        let arc = read_text("b.jsonl", r#"{"choices": ["x", "y"], "query": "Question: Which?", "gold": 1}"#);
        assert_eq!(arc[0].texts, ["Which?", "Which? y", "x", "y"]);
        let winogrande = read_text("c.jsonl", r#"{"context_options": ["S so S", "S so M"], "continuation": "won.", "gold": 1}"#);
        assert!(winogrande[0].texts.contains(&"S so M won.".to_string()));
        let truthful = read_text("d.json", r#"[{"question": "Why?", "mc1_targets": {"so": 1, "no": 0}}]"#);
        assert_eq!(truthful[0].texts, ["Why?", "Why? so", "no"]);
        let squad = read_text(
            "e.json",
            r#"{"data": [{"paragraphs": [{"context": "Long ago.", "qas": [{"question": "When?", "answers": [{"text": "ago"}]}]}]}]}"#,
        );
        assert_eq!(squad.len(), 2);
        let mgsm = read_text("f.tsv", "Wie viele?\t18\nUnd jetzt?\t3\n");
        assert_eq!(mgsm[1].texts[..2], ["Und jetzt?", "Und jetzt? 3"]);
    }

    #[test]
    fn damage_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, "{\"question\": \"a\"}\n{\"quest").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("x.jsonl") && message.contains("line 2"), "{message}");
    }

    #[test]
    fn names_of_benchmarks() {
        for (path, name) in [
            ("gsm8k/test.jsonl", "gsm8k"),
            ("math/math500_test.jsonl", "math500"),
            ("commonsense/arc_easy.jsonl", "arc_easy"),
            ("vlm/chartqa/test_sample.json", "chartqa"),
            ("hellaswag_val_first300.txt", "hellaswag"),
            ("mine.csv", "mine"),
        ] {
            assert_eq!(benchmark_name(Path::new(path)), name);
        }
    }
}
