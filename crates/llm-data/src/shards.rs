//! Token shards: packed rows in Arrow IPC files that are memory-mapped and read without a copy.
//!
//! A folder holds `shard-00000.arrow`, `shard-00001.arrow`, …, each an uncompressed Arrow IPC *file* that any Arrow tool
//! opens. One record is one training row:
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `tokens` | `List<UInt32>` | `sequence_length + 1` ids: inputs are `[..L]`, targets `[1..]` |
//! | `document_starts` | `List<UInt32>` | offsets in the row where a document begins; 0 is always there, even when the row continues a document |
//! | `document_ids` | `List<Utf8>` | the document of each start |
//! | `target_bytes` | `UInt32` | UTF-8 bytes that the targets stand for (control tokens: 0), for bits per byte |
//! | `document_domains` | `List<UInt16>` | of each start the document's domain: its place in `domains` |
//! | `document_languages` | `List<UInt16>` | of each start the document's language: its place in `languages` |
//!
//! Schema metadata: `sequence_length`, `vocab_size`, `tokenizer` (BLAKE3 of its folder), `packing` where it is not
//! `concatenate`, and with the last two columns `domains` and `languages`, JSON lists of names whose first is empty. Shards without
//! these columns are of one domain and one language that have no name.
//!
//! | module | job |
//! |---|---|
//! | `write` | rows to files |
//! | `checksums` | what their bytes must be |
//! | `read` | files to checked buffers |
//!
//! `checksums.json` holds the BLAKE3 of each file ([`Shards::verify`]).
//!
//! The surprising decision: the reader does not go through Arrow's array decoder. That one may panic on a damaged file,
//! because lengths inside a message are trusted. Here the FlatBuffers metadata is verified and every buffer is
//! bounds-checked against the file once at [`Shards::open`]; afterwards a row is two slices of the mapping.

mod checksums;
mod read;
mod write;

pub use write::{NewRow, ShardWriter};

use crate::error::{Error, Result};
use llm_run::atomic::walk;
use read::Batch;
use std::path::{Path, PathBuf};

/// What a folder of shards was packed with; kept in the schema metadata of each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// Targets per row; a row holds one id more.
    pub sequence_length: usize,
    /// Embedding rows a model needs for these ids.
    pub vocab_size: usize,
    /// BLAKE3 of the tokenizer folder.
    pub tokenizer: String,
}

/// What the numbers of domains and languages stand for. The first name of each is empty: documents that have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Names of domains.
    pub domains: Vec<String>,
    /// Names of languages.
    pub languages: Vec<String>,
}

impl Default for Labels {
    fn default() -> Self {
        Self { domains: vec![String::new()], languages: vec![String::new()] }
    }
}

/// Domain and language of a document, as places in [`Labels`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Label {
    /// Place in [`Labels::domains`].
    pub domain: u16,
    /// Place in [`Labels::languages`].
    pub language: u16,
}

/// A row as slices of the mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// `sequence_length + 1` ids.
    pub tokens: &'a [u32],
    /// Offsets where documents begin, the first one 0 (a new document there, or the continuation of one).
    pub document_starts: &'a [u32],
    /// Bytes that `tokens[1..]` stand for.
    pub target_bytes: u32,
    domains: &'a [u16],
    languages: &'a [u16],
}

impl Row<'_> {
    /// Domain and language of the document of start `i`.
    pub fn label(&self, i: usize) -> Label {
        let get = |column: &[u16]| column.get(i).copied().unwrap_or(0);
        Label { domain: get(self.domains), language: get(self.languages) }
    }
}

/// A folder of shards, memory-mapped.
#[derive(Debug)]
pub struct Shards {
    dir: PathBuf,
    info: ShardInfo,
    packing: String,
    labels: Labels,
    batches: Vec<Batch>,
    rows: usize,
}

impl Shards {
    /// Map all shards of a folder and check their structure; a damaged or truncated file is an error that names it.
    ///
    /// Contents of token buffers are not read; [`Shards::verify`] does that.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let format = |message: &str| Error::Format { path: dir.to_path_buf(), message: message.to_string() };
        if !dir.is_dir() {
            return Err(format("no such folder of shards; run `llm-data pack` first"));
        }
        let files = files(dir)?;
        let mut shards: Option<Shards> = None;
        for path in &files {
            let damaged = |message: String| Error::Format {
                path: path.clone(),
                message: format!("{message}; the shard is damaged or truncated, run `llm-data pack` again"),
            };
            let read::Shard { info, packing, labels, batches } = read::shard(&read::map(path)?).map_err(damaged)?;
            let labels = labels.unwrap_or_default();
            let all = shards.get_or_insert_with(|| Shards {
                dir: dir.to_path_buf(),
                info: info.clone(),
                packing: packing.clone(),
                labels: labels.clone(),
                batches: Vec::new(),
                rows: 0,
            });
            if all.info != info || all.packing != packing || all.labels != labels {
                return Err(Error::Format {
                    path: path.clone(),
                    message: format!("packed with {info:?}, but {} with {:?}; one folder must come from one run", files[0].display(), all.info),
                });
            }
            for mut batch in batches {
                batch.first_row = all.rows;
                all.rows += batch.rows;
                all.batches.push(batch);
            }
        }
        shards.ok_or_else(|| format("holds no .arrow shard; run `llm-data pack` first"))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Targets per row.
    pub fn sequence_length(&self) -> usize {
        self.info.sequence_length
    }

    /// What the shards were packed with.
    pub fn info(&self) -> &ShardInfo {
        &self.info
    }

    /// `concatenate` or `best_fit`: how documents became rows.
    pub fn packing(&self) -> &str {
        &self.packing
    }

    /// Names of domains and languages; only the empty ones where the shards have no such columns.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Row `index`, without a copy.
    ///
    /// # Panics
    /// Like a slice, when `index >= len()`.
    pub fn row(&self, index: usize) -> Row<'_> {
        let (batch, i) = self.locate(index);
        let length = self.info.sequence_length + 1;
        let from = batch.tokens_offset + i * length;
        let starts = batch.starts_of(i);
        Row {
            tokens: &batch.tokens[from..from + length],
            document_starts: &batch.starts[starts.clone()],
            target_bytes: batch.target_bytes[i],
            domains: batch.domains.as_ref().map_or(&[], |column| &column[starts.clone()]),
            languages: batch.languages.as_ref().map_or(&[], |column| &column[starts]),
        }
    }

    /// Ids of the documents in row `index`, one per entry of `document_starts`.
    ///
    /// # Panics
    /// Like a slice, when `index >= len()`.
    pub fn document_ids(&self, index: usize) -> Vec<String> {
        let (batch, i) = self.locate(index);
        let offsets = batch.starts_of(i).map(|k| (batch.id_offsets[k] as usize, batch.id_offsets[k + 1] as usize));
        offsets.map(|(from, to)| String::from_utf8_lossy(&batch.ids[from..to]).into_owned()).collect()
    }

    /// Read all shard files and compare them with their checksums; a difference is an error that names the file. Folders without
    /// checksums pass.
    pub fn verify(&self) -> Result<()> {
        checksums::verify(&self.dir).map(|_| ())
    }

    /// The identity of the training data, after [`Shards::verify`].
    pub fn hash(&self) -> Result<String> {
        match checksums::verify(&self.dir)? {
            Some(identity) => Ok(identity),
            None => Ok(llm_run::hash::path(&self.dir)?),
        }
    }

    fn locate(&self, index: usize) -> (&Batch, usize) {
        assert!(index < self.rows, "row {index} of {} shard rows", self.rows);
        let batch = &self.batches[self.batches.partition_point(|b| b.first_row + b.rows <= index)];
        (batch, index - batch.first_row)
    }
}

/// The shards of a folder in their order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(walk(dir)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "arrow")).collect())
}
