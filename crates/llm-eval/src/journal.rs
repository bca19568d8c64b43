//! Answers that were already paid for: a run that was killed goes on where it stopped.
//!
//! One JSON line per answered request, appended as the answers come. A request is named by the hash of the model (weights,
//! tokenizer, template, number format), the task with its version and all that is asked ([`crate::backend::request_id`]), so
//! the answers of another model, prompt or version are never taken for this one's: they simply are not found. A line that a
//! kill cut in half is ignored, and the request asked again.

use crate::error::{Error, Result};
use crate::task::Answer;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// File name inside a result folder; it is removed when the results are written.
pub const FILE: &str = "requests.jsonl";

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    answer: Answer,
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    known: HashMap<String, Answer>,
}

impl Journal {
    /// Open or create `DIR/requests.jsonl` and read what it holds.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let damaged = |message: String| Error::Results { path: path.clone(), message };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mut known = HashMap::new();
        for line in bytes.split(|&b| b == b'\n') {
            if let Ok(Line { id, answer }) = serde_json::from_slice(line) {
                known.insert(id, answer);
            }
        }
        let mut file = File::options().create(true).append(true).open(&path).map_err(|e| damaged(format!("cannot open: {e}")))?;
        if bytes.last().is_some_and(|&b| b != b'\n') {
            file.write_all(b"\n").map_err(|e| damaged(format!("cannot write: {e}")))?;
        }
        Ok(Self { path, file, known })
    }

    /// The answer to a request, if it was given before.
    pub fn get(&self, id: &str) -> Option<&Answer> {
        self.known.get(id)
    }

    /// Note an answer; it is with the operating system when this returns.
    pub fn put(&mut self, id: &str, answer: &Answer) -> Result<()> {
        let mut line = serde_json::to_vec(&Line { id: id.to_string(), answer: answer.clone() })
            .map_err(|e| Error::Results { path: self.path.clone(), message: e.to_string() })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::Results { path: self.path.clone(), message: format!("cannot write: {e}") })
    }

    /// The results are safe: remove the file.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| Error::Results { path: self.path.clone(), message: format!("cannot remove: {e}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_costs_one_answer() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |sum| Answer::Likelihood { sum, greedy: true };
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.put("a", &answer(-0.1)).unwrap();
        journal.put("b", &Answer::Text { text: "zwei\nZeilen".into(), tokens: 3, finish: "stop".into() }).unwrap();
        drop(journal);
        let path = dir.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.get("a"), journal.get("b")), (Some(&answer(-0.1)), None));
        // The cut line must not swallow the next one.
        journal.put("c", &answer(-1.0 / 3.0)).unwrap();
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.get("a"), journal.get("c")), (Some(&answer(-0.1)), Some(&answer(-1.0 / 3.0))));
        journal.remove().unwrap();
        assert!(!path.exists());
    }
}
