//! `samples.parquet`: one row per scored item, the evidence behind every number in `results.json`.
//!
//! A task's value is always the sum of `score` over the sum of `weight`: right answers over answers, bits over bytes. That
//! one convention lets every task share the bootstrap and `llm-eval compare`. `item_hash` identifies what was asked (not
//! how a tokenizer cut it), so two models with different tokenizers can be compared and changed items are noticed.

use crate::error::{Error, Result};
use crate::results::Group;
use crate::stats::Item;
use arrow_array::builder::{BooleanBuilder, Float64Builder, ListBuilder, StringBuilder, UInt32Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use llm_run::atomic::AtomicFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// File name inside a result folder.
pub const FILE: &str = "samples.parquet";

/// Rows per record batch.
const BATCH: usize = 4096;

/// The samples of a task as a whole, by language and by category: `TASK`, `TASK/LANG`, `TASK/CATEGORY`.
pub(crate) fn slices<'a>(task: &str, samples: &'a [Sample]) -> BTreeMap<String, (Option<Group>, Vec<&'a Sample>)> {
    let mut slices: BTreeMap<String, (Option<Group>, Vec<&Sample>)> = BTreeMap::new();
    for sample in samples {
        let mut add = |name: String, group| slices.entry(name).or_insert((group, Vec::new())).1.push(sample);
        add(task.to_string(), None);
        if let Some(lang) = &sample.lang {
            add(format!("{task}/{lang}"), Some(Group::Language));
        }
        if let Some(category) = &sample.category {
            add(format!("{task}/{category}"), Some(Group::Category));
        }
    }
    slices
}

/// One scored item.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Task name as in `results.json`, e.g. `exercises`.
    pub task: String,
    /// The item's own id.
    pub id: String,
    /// BLAKE3 of what was asked and expected.
    pub item_hash: String,
    /// Language tag.
    pub lang: Option<String>,
    /// Exercise category or document domain.
    pub category: Option<String>,
    /// The rendered prompt, control tokens included; `None` for documents.
    pub prompt: Option<String>,
    /// The very ids the model saw.
    pub prompt_tokens: Vec<u32>,
    /// The answer, reasoning and control tokens removed.
    pub response: Option<String>,
    /// The ids generated.
    pub response_tokens: Vec<u32>,
    /// What stood between `<think>` and `</think>`.
    pub reasoning: Option<String>,
    /// The expected answer.
    pub gold: Option<String>,
    /// What the answer extraction found.
    pub extracted: Option<String>,
    /// Right or wrong, for graded tasks.
    pub correct: Option<bool>,
    /// Numerator of the task's value.
    pub score: f64,
    /// Denominator of the task's value.
    pub weight: f64,
    /// Tokens generated, or scored.
    pub tokens: u32,
    /// `stop` or `length`.
    pub finish_reason: Option<String>,
    /// Continuations that were scored, delimiter included.
    pub choices: Vec<String>,
    /// Their tokens.
    pub choice_tokens: Vec<Vec<u32>>,
    /// Their log-likelihoods in nats.
    pub log_likelihoods: Vec<f64>,
    /// Whether each is what greedy decoding writes.
    pub greedy: Vec<bool>,
    /// JSON object: metric, with its filter, -> value of this item.
    pub metrics: Option<String>,
    /// JSON object: filter -> what it made of the answer.
    pub filtered: Option<String>,
}

impl Sample {
    /// This row's share of the task's value.
    pub fn item(&self) -> Item {
        Item { score: self.score, weight: self.weight }
    }
}

/// Write the rows atomically (zstd).
pub fn write(path: &Path, samples: &[Sample]) -> Result<()> {
    let damaged = |e: &dyn std::fmt::Display| Error::Results { path: path.to_path_buf(), message: format!("cannot write: {e}") };
    let mut file = AtomicFile::create(path)?;
    let level = ZstdLevel::try_new(3).map_err(|e| damaged(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let schema = to_batch(&[]).map_err(|e| damaged(&e))?.schema();
    let mut writer = ArrowWriter::try_new(&mut file, schema, Some(properties)).map_err(|e| damaged(&e))?;
    for chunk in samples.chunks(BATCH) {
        writer.write(&to_batch(chunk).map_err(|e| damaged(&e))?).map_err(|e| damaged(&e))?;
    }
    writer.close().map_err(|e| damaged(&e))?;
    file.flush().map_err(|e| damaged(&e))?;
    Ok(file.commit()?)
}

fn to_batch(samples: &[Sample]) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
    fn required(samples: &[Sample], get: impl Fn(&Sample) -> &str) -> ArrayRef {
        let mut column = StringBuilder::new();
        samples.iter().for_each(|s| column.append_value(get(s)));
        Arc::new(column.finish())
    }
    fn optional(samples: &[Sample], get: impl Fn(&Sample) -> &Option<String>) -> ArrayRef {
        let mut column = StringBuilder::new();
        samples.iter().for_each(|s| column.append_option(get(s).as_deref()));
        Arc::new(column.finish())
    }
    fn ids(samples: &[Sample], get: impl Fn(&Sample) -> &[u32]) -> ArrayRef {
        let mut column = ListBuilder::new(UInt32Builder::new());
        for sample in samples {
            column.values().append_slice(get(sample));
            column.append(true);
        }
        Arc::new(column.finish())
    }
    fn number(samples: &[Sample], get: impl Fn(&Sample) -> f64) -> ArrayRef {
        let mut column = Float64Builder::new();
        samples.iter().for_each(|s| column.append_value(get(s)));
        Arc::new(column.finish())
    }
    let mut choices = ListBuilder::new(StringBuilder::new());
    let mut choice_tokens = ListBuilder::new(ListBuilder::new(UInt32Builder::new()));
    let mut log_likelihoods = ListBuilder::new(Float64Builder::new());
    let mut greedy = ListBuilder::new(BooleanBuilder::new());
    for sample in samples {
        sample.choices.iter().for_each(|c| choices.values().append_value(c));
        choices.append(true);
        for tokens in &sample.choice_tokens {
            choice_tokens.values().values().append_slice(tokens);
            choice_tokens.values().append(true);
        }
        choice_tokens.append(true);
        log_likelihoods.values().append_slice(&sample.log_likelihoods);
        log_likelihoods.append(true);
        greedy.values().append_slice(&sample.greedy);
        greedy.append(true);
    }
    let mut correct = BooleanBuilder::new();
    let mut tokens = UInt32Builder::new();
    for sample in samples {
        correct.append_option(sample.correct);
        tokens.append_value(sample.tokens);
    }
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("task", required(samples, |s| &s.task), false),
        ("id", required(samples, |s| &s.id), false),
        ("item_hash", required(samples, |s| &s.item_hash), false),
        ("lang", optional(samples, |s| &s.lang), true),
        ("category", optional(samples, |s| &s.category), true),
        ("prompt", optional(samples, |s| &s.prompt), true),
        ("prompt_tokens", ids(samples, |s| &s.prompt_tokens), false),
        ("response", optional(samples, |s| &s.response), true),
        ("response_tokens", ids(samples, |s| &s.response_tokens), false),
        ("reasoning", optional(samples, |s| &s.reasoning), true),
        ("gold", optional(samples, |s| &s.gold), true),
        ("extracted", optional(samples, |s| &s.extracted), true),
        ("correct", Arc::new(correct.finish()), true),
        ("score", number(samples, |s| s.score), false),
        ("weight", number(samples, |s| s.weight), false),
        ("tokens", Arc::new(tokens.finish()), false),
        ("finish_reason", optional(samples, |s| &s.finish_reason), true),
        ("choices", Arc::new(choices.finish()), false),
        ("choice_tokens", Arc::new(choice_tokens.finish()), false),
        ("log_likelihoods", Arc::new(log_likelihoods.finish()), false),
        ("greedy", Arc::new(greedy.finish()), false),
        ("metrics", optional(samples, |s| &s.metrics), true),
        ("filtered", optional(samples, |s| &s.filtered), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns)
}

/// The columns that a comparison needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// Task name.
    pub task: String,
    /// Item id.
    pub id: String,
    /// BLAKE3 of what was asked.
    pub item_hash: String,
    /// Right or wrong, for graded tasks.
    pub correct: Option<bool>,
    /// Share of the task's value.
    pub item: Item,
}

/// Read the graded columns of `DIR/samples.parquet`.
pub fn read_graded(dir: &Path) -> Result<Vec<Graded>> {
    let path = dir.join(FILE);
    let damaged = |e: &dyn std::fmt::Display| Error::Results { path: path.clone(), message: format!("not a readable samples file: {e}") };
    let file = File::open(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.with_batch_size(BATCH).build()).map_err(|e| damaged(&e))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| damaged(&e))?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| damaged(&format!("column `{name}` is missing")));
        let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(|| damaged(&format!("column `{name}` is not text")));
        let number = |name: &str| column(name)?.as_primitive_opt::<Float64Type>().ok_or_else(|| damaged(&format!("column `{name}` is not float64")));
        let (task, id, item_hash) = (text("task")?, text("id")?, text("item_hash")?);
        let (score, weight) = (number("score")?, number("weight")?);
        let correct = column("correct")?.as_boolean_opt().ok_or_else(|| damaged(&"column `correct` is not boolean"))?;
        rows.extend((0..batch.num_rows()).map(|i| Graded {
            task: task.value(i).to_string(),
            id: id.value(i).to_string(),
            item_hash: item_hash.value(i).to_string(),
            correct: correct.is_valid(i).then(|| correct.value(i)),
            item: Item { score: score.value(i), weight: weight.value(i) },
        }));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let samples: Vec<Sample> = (0..5000u32)
            .map(|i| Sample {
                task: "exercises".into(),
                id: format!("ex-{i}"),
                item_hash: format!("h{i}"),
                prompt_tokens: vec![i; 3],
                correct: (i % 3 > 0).then_some(i % 2 == 0),
                score: f64::from(i),
                weight: 1.0,
                ..Sample::default()
            })
            .collect();
        write(&dir.path().join(FILE), &samples).unwrap();
        let back = read_graded(dir.path()).unwrap();
        assert_eq!(back.len(), samples.len());
        for (row, sample) in back.iter().zip(&samples) {
            assert_eq!((&row.id, row.correct, row.item), (&sample.id, sample.correct, sample.item()));
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_graded(dir.path()).unwrap_err().to_string().contains("samples.parquet"));
        std::fs::write(dir.path().join(FILE), b"PAR1 nonsense").unwrap();
        assert!(read_graded(dir.path()).unwrap_err().to_string().contains("not a readable samples file"));
        write(&dir.path().join(FILE), &[]).unwrap();
        assert_eq!(read_graded(dir.path()).unwrap(), []);
    }
}
