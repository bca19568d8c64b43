//! Data of alignment: conversations, preference pairs, labelled answers and prompts, in the formats of others.
//!
//! | module | job |
//! |---|---|
//! | `formats` | what a row is, found by its columns |
//! | `messages` | roles, turns, and what is wrong with them |
//! | [`encode`] | to ids and loss masks, through the tokenizer's chat template |
//!
//! Files are `.jsonl`, `.json` (an array) or `.parquet`, also compressed. A row that cannot be used is an error that names file, row and
//! reason, or with [`OnBadRow::Skip`] left out, counted and reported: nothing is repaired in silence.

pub mod encode;
mod formats;
mod messages;

pub use encode::Encoder;
pub use formats::Kind;

use crate::{Error, Result};
use formats::{Judged, Said, Sides};
use llm_data::read::objects::{Object, objects};
use llm_run::atomic;
use llm_tensor::rayon::prelude::*;
use llm_tokenizer::Message;
use messages::Columns;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Stop with an error that names it.
    #[default]
    Error,
    /// Leave it out, count it, and say so.
    Skip,
}

impl OnBadRow {
    /// For serde: is it the default?
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// 1-based: the line of a JSON lines file, the element of an array, the row of a Parquet file.
    pub row: usize,
    /// Why.
    pub reason: String,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// Usable rows, in order.
    pub rows: Vec<T>,
    /// The others.
    pub skipped: Vec<Skipped>,
}

/// A conversation whose last turn is the assistant's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// 1-based.
    pub row: usize,
    /// Its `id`, or the number of the row.
    pub id: String,
    /// The turns.
    pub messages: Vec<Message>,
    /// How many of the first messages are a prompt, whose answers are not trained; 0 trains every answer.
    pub prompt: usize,
    /// Tools of the column `tools`, in the OpenAI form.
    pub tools: Option<Value>,
}

/// A prompt with a better and a worse answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pair {
    /// 1-based.
    pub row: usize,
    /// Its `id`, or the number of the row.
    pub id: String,
    /// Ends with the user.
    pub prompt: Vec<Message>,
    /// The better answer; more messages than one where tools or further turns are in it.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// How much better, in the unit of the data set's scores.
    pub margin: Option<f32>,
}

/// A prompt with an answer that is good or bad.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled {
    /// 1-based.
    pub row: usize,
    /// Its `id`, or the number of the row.
    pub id: String,
    /// Ends with the user.
    pub prompt: Vec<Message>,
    /// The answer.
    pub completion: Vec<Message>,
    /// Is it good?
    pub label: bool,
}

/// A prompt to answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompt {
    /// 1-based.
    pub row: usize,
    /// Its `id`, or the number of the row.
    pub id: String,
    /// Ends with the user.
    pub messages: Vec<Message>,
    /// The gold answer.
    pub answer: Option<String>,
    /// All columns of the row, for verifiers.
    pub columns: Map<String, Value>,
}

impl Prompt {
    /// The last message: what is asked.
    pub fn text(&self) -> &str {
        self.messages.last().map_or("", |last| &last.content)
    }
}

/// A row that knows its place.
pub trait Numbered {
    /// 1-based row and id.
    fn place(&self) -> (usize, &str);
}

macro_rules! numbered {
    ($($row:ty),*) => {
        $(impl Numbered for $row {
            fn place(&self) -> (usize, &str) {
                (self.row, &self.id)
            }
        })*
    };
}
numbered!(Conversation, Pair, Labelled, Prompt);

/// Read conversations.
pub fn conversations(path: &Path, on_bad_row: OnBadRow) -> Result<Rows<Conversation>> {
    read(path, on_bad_row, |row, id, columns| {
        let one = |Said { messages, prompt, tools }: Said| Conversation { row, id: id.clone(), messages, prompt, tools };
        Ok(formats::conversations(&columns)?.into_iter().map(one).collect())
    })
}

/// Read preference pairs.
pub fn pairs(path: &Path, on_bad_row: OnBadRow) -> Result<Rows<Pair>> {
    read(path, on_bad_row, |row, id, columns| {
        let Sides { prompt, chosen, rejected, margin } = formats::pair(&columns)?;
        Ok(vec![Pair { row, id, prompt, chosen, rejected, margin }])
    })
}

/// Read labelled answers; a pair gives its better answer as a good one and its worse as a bad one.
pub fn labelled(path: &Path, on_bad_row: OnBadRow) -> Result<Rows<Labelled>> {
    read(path, on_bad_row, |row, id, columns| {
        let one = |Judged { prompt, completion, label }: Judged| Labelled { row, id: id.clone(), prompt, completion, label };
        Ok(formats::labelled(&columns)?.into_iter().map(one).collect())
    })
}

/// Read prompts, with their gold answers where they have one.
pub fn prompts(path: &Path, on_bad_row: OnBadRow) -> Result<Rows<Prompt>> {
    read(path, on_bad_row, |row, id, columns| {
        let (messages, answer) = formats::asked(&columns)?;
        Ok(vec![Prompt { row, id, messages, answer, columns }])
    })
}

/// What the first readable row of a file is.
pub fn kind(path: &Path) -> Result<Kind> {
    let first = objects(path)?.into_iter().find_map(|object| object.columns.ok());
    first.map(|columns| Kind::of(&columns)).ok_or_else(|| nothing(path, &[]))
}

fn read<T>(path: &Path, on_bad_row: OnBadRow, parse: impl Fn(usize, String, Columns) -> Result<Vec<T>, String>) -> Result<Rows<T>> {
    let mut out = Rows { rows: Vec::new(), skipped: Vec::new() };
    for Object { number, columns } in objects(path)? {
        let row = number as usize;
        let id = columns.as_ref().map_or_else(|_| row.to_string(), |columns| id_of(columns, row));
        match columns.and_then(|columns| parse(row, id.clone(), columns)) {
            Ok(parsed) => out.rows.extend(parsed),
            Err(reason) => out.skipped.push(refused(path, on_bad_row, (row, &id), reason)?),
        }
    }
    if out.rows.is_empty() { Err(nothing(path, &out.skipped)) } else { Ok(out) }
}

fn id_of(columns: &Columns, row: usize) -> String {
    match messages::first(columns, &["id", "prompt_id", "uuid", "task_id"]) {
        Some(Value::String(id)) => short(id),
        Some(Value::Number(id)) => id.to_string(),
        _ => row.to_string(),
    }
}

/// A bad row as an error, or as one that is left out.
fn refused(path: &Path, on_bad_row: OnBadRow, (row, id): (usize, &str), reason: String) -> Result<Skipped> {
    if on_bad_row == OnBadRow::Skip {
        return Ok(Skipped { row, reason });
    }
    let id = if id == row.to_string() { String::new() } else { format!(" (`{id}`)") };
    let message = format!("{}: row {row}{id}: {reason}; fix the row, or set on_bad_row = \"skip\"", path.display());
    Err(Error::Objective(message))
}

fn nothing(path: &Path, skipped: &[Skipped]) -> Error {
    let why = match skipped.first() {
        Some(Skipped { row, reason }) => format!("none of its {} rows can be used; the first, row {row}: {reason}", skipped.len()),
        None => "no rows in it".into(),
    };
    Error::Objective(format!("{}: {why}", path.display()))
}

/// Encode rows, in order, on all threads. What cannot be encoded is an error or left out, like a row that could not be read.
pub fn keep<T: Numbered + Sync, U: Send>(
    path: &Path,
    rows: Rows<T>,
    on_bad_row: OnBadRow,
    encode: impl Fn(&T) -> Result<U, String> + Send + Sync,
) -> Result<(Vec<U>, Vec<Skipped>)> {
    let Rows { rows, mut skipped } = rows;
    let encoded: Vec<Result<U, String>> = rows.par_iter().map(encode).collect();
    let mut kept = Vec::with_capacity(rows.len());
    for (row, encoded) in rows.iter().zip(encoded) {
        match encoded {
            Ok(encoded) => kept.push(encoded),
            Err(reason) => skipped.push(refused(path, on_bad_row, row.place(), reason)?),
        }
    }
    skipped.sort_by_key(|skipped| skipped.row);
    if kept.is_empty() { Err(nothing(path, &skipped)) } else { Ok((kept, skipped)) }
}

/// Name of the list of rows that were left out.
pub const SKIPPED: &str = "skipped.jsonl";

/// Say how many rows of each file were left out and why the first were, and write all of them to `OUT/skipped.jsonl`. Gives their number.
pub fn report(out: &Path, files: &[(&Path, &[Skipped])]) -> Result<usize> {
    let mut lines = String::new();
    for (path, skipped) in files.iter().filter(|(_, skipped)| !skipped.is_empty()) {
        eprintln!("{}: {} rows skipped", path.display(), skipped.len());
        for Skipped { row, reason } in skipped.iter().take(3) {
            eprintln!("  row {row}: {reason}");
        }
        if skipped.len() > 3 {
            eprintln!("  all of them are in {}", out.join(SKIPPED).display());
        }
        for Skipped { row, reason } in *skipped {
            lines += &format!("{}\n", json!({"file": path.display().to_string(), "row": row, "reason": reason}));
        }
    }
    let list = out.join(SKIPPED);
    if !lines.is_empty() {
        atomic::write(list, lines)?;
    } else if list.exists() {
        // Of an earlier try.
        let _ = std::fs::remove_file(list);
    }
    Ok(files.iter().map(|(_, skipped)| skipped.len()).sum())
}

/// The beginning of a text, for messages.
fn short(text: &str) -> String {
    let mut out: String = text.chars().take(40).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// Names, for messages.
fn list(names: &[&str]) -> String {
    if names.is_empty() { "no columns".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
