//! Grades a file of answers and shows why each got what it got: how rewards are debugged before a policy learns from them.
//!
//! Rows are JSON lines `{"prompt", "response", "answer", ...}`; a prompt may be a list of messages, whose contents are joined. The
//! output folder has `graded.jsonl`, the rows with `rewards` (by name), `total` and, with maths among the rewards, `extracted`.

use crate::error::{Error, Result};
use crate::math;
use crate::response::Response;
use crate::rewards::{Rewards, Scored, Task};
use crate::spec::RewardSpec;
use llm_run::Run;
use llm_run::atomic::AtomicFile;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Rows graded at a time.
const CHUNK: usize = 1024;

/// `llm-verify grade`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradeConfig {
    /// JSON lines with the fields `response`, and what the rewards need: `prompt`, `answer`, columns.
    pub responses: PathBuf,
    /// What they are graded by.
    pub rewards: Vec<RewardSpec>,
    /// Rows of the printed table: the first ones.
    pub show: usize,
}

impl Default for GradeConfig {
    fn default() -> Self {
        Self { responses: PathBuf::new(), rewards: RewardSpec::default_list(), show: 20 }
    }
}

struct Row {
    prompt: String,
    response: String,
    answer: Option<String>,
    columns: Map<String, Value>,
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let file = std::fs::File::open(path).map_err(|source| Error::File { path: path.into(), source })?;
    let mut rows = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|source| Error::File { path: path.into(), source })?;
        if line.trim().is_empty() {
            continue;
        }
        rows.push(row(&line).map_err(|message| Error::Line { path: path.into(), line: i + 1, message })?);
    }
    Ok(rows)
}

fn row(line: &str) -> Result<Row, String> {
    let columns: Map<String, Value> = serde_json::from_str(line).map_err(|e| format!("{e}; expected an object with the field `response`"))?;
    let response = match columns.get("response") {
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(format!("field `response` is {other}; expected a string")),
        None => return Err("no field `response`".into()),
    };
    let prompt = match columns.get("prompt") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(messages)) => {
            let contents: Option<Vec<&str>> = messages.iter().map(|m| m.get("content").and_then(Value::as_str)).collect();
            contents.ok_or("field `prompt`: a message without a `content` that is a string")?.join("\n")
        }
        Some(other) => return Err(format!("field `prompt` is {other}; expected a string or a list of messages")),
    };
    let answer = match columns.get("answer") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(other) => return Err(format!("field `answer` is {other}; expected a string or a number")),
    };
    Ok(Row { prompt, response, answer, columns })
}

/// Grade `config.responses` into `out`; the table to print.
///
/// # Errors
/// A file, line or row that is not what it should be, by name.
pub fn grade(config: &GradeConfig, out: &Path) -> Result<String> {
    if config.responses.as_os_str().is_empty() {
        return Err(Error::Config { name: "responses".into(), message: "no file; say --set responses=FILE".into() });
    }
    let rewards = Rewards::open(&config.rewards)?;
    let rows = read(&config.responses)?;
    let mut run = Run::start(out, "llm-verify", "grade", config)?;
    run.input(&config.responses)?;
    let mut scored: Vec<Scored> = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let tasks: Vec<Task> = chunk
            .iter()
            .map(|row| Task { prompt: &row.prompt, response: &row.response, answer: row.answer.as_deref(), columns: &row.columns })
            .collect();
        let first = scored.len();
        scored.extend(rewards.grade(&tasks).map_err(|error| match error {
            Error::Row { row, name, message } => Error::Row { row: row + first, name, message },
            other => other,
        })?);
    }
    let names = rewards.names();
    let extracted: Vec<Option<String>> = rows.iter().map(|row| extracted(config, row)).collect();
    write(&run.path("graded.jsonl"), &rows, &names, &scored, &extracted)?;
    let summary = summary(&names, &scored);
    run.finish(summary.clone())?;
    Ok(table(config, &rows, &names, &scored, &extracted, &summary))
}

/// What the maths reward saw as the final answer.
fn extracted(config: &GradeConfig, row: &Row) -> Option<String> {
    let rules = config.rewards.iter().find_map(|spec| match spec {
        RewardSpec::Math { extract, .. } => Some(extract),
        _ => None,
    })?;
    let answer = Response::new(&row.response).answer?;
    math::final_answer(&answer, rules).map(str::to_string)
}

fn write(path: &Path, rows: &[Row], names: &[String], scored: &[Scored], extracted: &[Option<String>]) -> Result<()> {
    let failed = |source| Error::File { path: path.into(), source };
    let mut file = AtomicFile::create(path)?;
    for ((row, scored), extracted) in rows.iter().zip(scored).zip(extracted) {
        let mut line = row.columns.clone();
        let parts: Map<String, Value> = names.iter().cloned().zip(scored.parts.iter().map(|p| json!(p))).collect();
        line.insert("rewards".into(), Value::Object(parts));
        line.insert("total".into(), json!(scored.total));
        if let Some(extracted) = extracted {
            line.insert("extracted".into(), json!(extracted));
        }
        writeln!(file, "{}", Value::Object(line)).map_err(failed)?;
    }
    Ok(file.commit()?)
}

/// Mean and number of values for each reward.
fn summary(names: &[String], scored: &[Scored]) -> Value {
    let mean = |values: Vec<f32>| {
        let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
        let mean = (!values.is_empty()).then(|| sum / values.len() as f64);
        json!({"mean": mean, "scored": values.len(), "unscored": scored.len() - values.len()})
    };
    let mut out = Map::new();
    for (i, name) in names.iter().enumerate() {
        out.insert(name.clone(), mean(scored.iter().filter_map(|s| s.parts[i]).collect()));
    }
    out.insert("total".into(), mean(scored.iter().filter_map(|s| s.total).collect()));
    json!({"rows": scored.len(), "rewards": out})
}

fn table(config: &GradeConfig, rows: &[Row], names: &[String], scored: &[Scored], extracted: &[Option<String>], summary: &Value) -> String {
    let number = |value: Option<f32>| value.map_or_else(|| "-".to_string(), |v| format!("{v:.3}"));
    let mut text = format!("{:>6} {:>8}", "row", "total");
    for name in names {
        text.push_str(&format!(" {name:>10}"));
    }
    text.push_str("  answer <- reference\n");
    for (i, (row, scored)) in rows.iter().zip(scored).enumerate().take(config.show) {
        text.push_str(&format!("{:>6} {:>8}", i + 1, number(scored.total)));
        for part in &scored.parts {
            text.push_str(&format!(" {:>10}", number(*part)));
        }
        let end = || row.response.lines().last().unwrap_or_default().to_string();
        let answer = extracted[i].clone().unwrap_or_else(end);
        let reference = row.answer.as_deref().and_then(|a| a.lines().last()).unwrap_or("-");
        text.push_str(&format!("  {} <- {}\n", short(&answer), short(reference)));
    }
    if rows.len() > config.show {
        text.push_str(&format!("... {} more rows in graded.jsonl\n", rows.len() - config.show));
    }
    for name in names.iter().map(String::as_str).chain(["total"]) {
        let of = &summary["rewards"][name];
        let mean = of["mean"].as_f64().map_or_else(|| "-".to_string(), |m| format!("{m:.4}"));
        text.push_str(&format!("{name:<12} mean {mean}  scored {}  unscored {}\n", of["scored"], of["unscored"]));
    }
    text
}

/// One line, not too long for a table.
fn short(text: &str) -> String {
    const MOST: usize = 40;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= MOST { line } else { format!("...{}", line.chars().skip(line.chars().count() - MOST + 3).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_graded_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let responses = folder.path().join("responses.jsonl");
        let lines = [
            json!({"prompt": "1/2?", "response": "\\boxed{0.5}", "answer": "\\frac12"}),
            json!({"prompt": [{"role": "user", "content": "2?"}], "response": "The answer is 3.", "answer": 2, "id": "b"}),
            json!({"response": "no reference"}),
        ];
        std::fs::write(&responses, lines.map(|l| l.to_string()).join("\n\n")).unwrap();
        let rewards = serde_json::from_value(json!([{"kind": "math"}, {"kind": "rule", "contains": "answer"}])).unwrap();
        let config = GradeConfig { responses: responses.clone(), rewards, show: 2 };
        let out = folder.path().join("out");
        let table = grade(&config, &out).unwrap();
        assert!(table.contains("0.5 <- \\frac12") && table.contains("3 <- 2") && table.contains("1 more rows"), "{table}");
        assert!(table.contains("math         mean 0.5000  scored 2  unscored 1"), "{table}");
        let graded = std::fs::read_to_string(out.join("graded.jsonl")).unwrap();
        let second: Value = serde_json::from_str(graded.lines().nth(1).unwrap()).unwrap();
        assert_eq!((&second["rewards"]["math"], &second["total"], &second["id"]), (&json!(0.0), &json!(1.0), &json!("b")));
        assert!(out.join("manifest.json").exists());

        std::fs::write(&responses, "{\"response\": \"a\"}\n{\"response\": 3}\n").unwrap();
        let message = grade(&config, &out).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("`response`"), "{message}");
        let message = grade(&GradeConfig::default(), &out).unwrap_err().to_string();
        assert!(message.contains("responses"), "{message}");
    }
}
