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
//!
//! Schema metadata: `sequence_length`, `vocab_size`, `tokenizer` (BLAKE3 of its folder), `packing` where it is not
//! `concatenate`.
//!
//! `checksums.json` holds the BLAKE3 of each file ([`Shards::verify`]).
//!
//! The surprising decision: the reader does not go through Arrow's array decoder. That one may panic on a damaged file,
//! because lengths inside a message are trusted. Here the FlatBuffers metadata is verified and every buffer is
//! bounds-checked against the file once at [`Shards::open`]; afterwards a row is two slices of the mapping.

mod checksums;

use crate::error::{Error, Result, io};
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, ListArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_buffer::{ArrowNativeType, Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use llm_run::atomic::{AtomicDir, walk};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

const MAGIC: &[u8; 6] = b"ARROW1";
/// Rows per record batch: bounds the writer's memory, invisible to readers.
const BATCH_ROWS: usize = 512;

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

/// A row to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// `sequence_length + 1` ids.
    pub tokens: Vec<u32>,
    /// Offsets where documents begin, the first one 0.
    pub document_starts: Vec<u32>,
    /// One id per start.
    pub document_ids: Vec<Arc<str>>,
    /// Bytes that `tokens[1..]` stand for.
    pub target_bytes: u32,
}

/// Writes a folder of shards that appears, whole, on [`ShardWriter::finish`].
pub struct ShardWriter {
    dir: AtomicDir,
    info: ShardInfo,
    schema: SchemaRef,
    rows_per_shard: usize,
    open: Option<(FileWriter<BufWriter<File>>, PathBuf, usize)>,
    shards: usize,
    buffer: Vec<NewRow>,
    /// Rows accepted so far.
    pub rows: usize,
}

fn schema(info: &ShardInfo) -> SchemaRef {
    let item = |kind| Arc::new(Field::new("item", kind, false));
    let metadata = HashMap::from([
        ("sequence_length".to_string(), info.sequence_length.to_string()),
        ("vocab_size".to_string(), info.vocab_size.to_string()),
        ("tokenizer".to_string(), info.tokenizer.clone()),
    ]);
    let fields = vec![
        Field::new("tokens", DataType::List(item(DataType::UInt32)), false),
        Field::new("document_starts", DataType::List(item(DataType::UInt32)), false),
        Field::new("document_ids", DataType::List(item(DataType::Utf8)), false),
        Field::new("target_bytes", DataType::UInt32, false),
    ];
    Arc::new(Schema::new(fields).with_metadata(metadata))
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter").field("info", &self.info).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl ShardWriter {
    /// Note how documents became rows, where that is not by concatenation; before the first row.
    pub fn with_packing(mut self, packing: &str) -> Self {
        let mut metadata = self.schema.metadata().clone();
        metadata.insert("packing".to_string(), packing.to_string());
        self.schema = Arc::new(Schema::new(self.schema.fields().clone()).with_metadata(metadata));
        self
    }

    /// Start the folder `dir`; an older folder of that name is replaced at the end.
    pub fn create(dir: &Path, info: ShardInfo, rows_per_shard: usize) -> Result<Self> {
        let (dir, schema) = (AtomicDir::create(dir)?, schema(&info));
        Ok(Self { dir, info, schema, rows_per_shard: rows_per_shard.max(1), open: None, shards: 0, buffer: Vec::new(), rows: 0 })
    }

    /// Add one row of `sequence_length + 1` tokens.
    pub fn push(&mut self, row: NewRow) -> Result<()> {
        if row.tokens.len() != self.info.sequence_length + 1 {
            return Err(Error::Config(format!("a row of {} tokens does not fit sequence_length {}", row.tokens.len(), self.info.sequence_length)));
        }
        self.buffer.push(row);
        self.rows += 1;
        let in_shard = self.open.as_ref().map_or(0, |o| o.2) + self.buffer.len();
        if in_shard >= self.rows_per_shard {
            self.flush()?;
            return self.close_shard();
        }
        if self.buffer.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (mut writer, path, rows) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.dir.path().join(format!("shard-{:05}.arrow", self.shards));
                self.shards += 1;
                let file = File::create(&path).map_err(io(&path, "cannot create"))?;
                let writer = FileWriter::try_new(BufWriter::new(file), &self.schema).map_err(|e| unwritable(&path, &e))?;
                (writer, path, 0)
            }
        };
        let batch = to_batch(&self.buffer, &self.schema).map_err(|e| unwritable(&path, &e))?;
        writer.write(&batch).map_err(|e| unwritable(&path, &e))?;
        self.open = Some((writer, path, rows + self.buffer.len()));
        self.buffer.clear();
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        match self.open.take() {
            Some((mut writer, path, _)) => writer.finish().map_err(|e| unwritable(&path, &e)),
            None => Ok(()),
        }
    }

    /// Write what is buffered and put the folder in its place.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.close_shard()?;
        checksums::write(self.dir.path())?;
        Ok(self.dir.commit()?)
    }
}

fn unwritable(path: &Path, error: &arrow_schema::ArrowError) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write shard: {error}") }
}

fn to_batch(rows: &[NewRow], schema: &SchemaRef) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let list = |column: usize, lengths: Vec<usize>, values: ArrayRef| -> Result<ArrayRef, arrow_schema::ArrowError> {
        let DataType::List(item) = schema.field(column).data_type() else {
            return Err(arrow_schema::ArrowError::SchemaError(format!("column {column} is not a list")));
        };
        Ok(Arc::new(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, None)?))
    };
    let numbers = |values: Vec<u32>| -> ArrayRef { Arc::new(PrimitiveArray::<UInt32Type>::from(values)) };
    let starts: Vec<usize> = rows.iter().map(|r| r.document_starts.len()).collect();
    let ids = StringArray::from_iter_values(rows.iter().flat_map(|r| r.document_ids.iter().map(|id| &**id)));
    let columns = vec![
        list(0, rows.iter().map(|r| r.tokens.len()).collect(), numbers(rows.iter().flat_map(|r| r.tokens.iter().copied()).collect()))?,
        list(1, starts.clone(), numbers(rows.iter().flat_map(|r| r.document_starts.iter().copied()).collect()))?,
        list(2, starts, Arc::new(ids))?,
        numbers(rows.iter().map(|r| r.target_bytes).collect()),
    ];
    RecordBatch::try_new(schema.clone(), columns)
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
}

/// A folder of shards, memory-mapped.
#[derive(Debug)]
pub struct Shards {
    dir: PathBuf,
    info: ShardInfo,
    packing: String,
    batches: Vec<Batch>,
    rows: usize,
}

/// The checked buffers of one record batch. `ScalarBuffer`s point into the mapping and keep it alive.
#[derive(Debug)]
struct Batch {
    first_row: usize,
    rows: usize,
    tokens_offset: usize,
    tokens: ScalarBuffer<u32>,
    start_offsets: ScalarBuffer<i32>,
    starts: ScalarBuffer<u32>,
    id_offsets: ScalarBuffer<i32>,
    ids: Buffer,
    target_bytes: ScalarBuffer<u32>,
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
            let (info, packing, batches) = read_shard(&map(path)?).map_err(damaged)?;
            let all = shards.get_or_insert_with(|| Shards {
                dir: dir.to_path_buf(),
                info: info.clone(),
                packing: packing.clone(),
                batches: Vec::new(),
                rows: 0,
            });
            if all.info != info || all.packing != packing {
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

    /// Row `index`, without a copy.
    ///
    /// # Panics
    /// Like a slice, when `index >= len()`.
    pub fn row(&self, index: usize) -> Row<'_> {
        let (batch, i) = self.locate(index);
        let length = self.info.sequence_length + 1;
        let from = batch.tokens_offset + i * length;
        Row { tokens: &batch.tokens[from..from + length], document_starts: &batch.starts[batch.starts_of(i)], target_bytes: batch.target_bytes[i] }
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

impl Batch {
    fn starts_of(&self, i: usize) -> std::ops::Range<usize> {
        self.start_offsets[i] as usize..self.start_offsets[i + 1] as usize
    }
}

/// Map a file as an Arrow buffer that owns the mapping.
fn map(path: &Path) -> Result<Buffer> {
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    // SAFETY: the mapping is read-only and private to this process. Shards are written under another name and renamed
    // into place, never modified afterwards, so the bytes do not change while they are mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io(path, "cannot map into memory"))?;
    let Some(start) = NonNull::new(map.as_ptr().cast_mut()) else { return Ok(Buffer::from(Vec::<u8>::new())) };
    let len = map.len();
    // SAFETY: `start` is valid for reads of `len` bytes as long as `map` lives, and the buffer owns it through the `Arc`;
    // a `Buffer` never writes to custom allocations.
    Ok(unsafe { Buffer::from_custom_allocation(start, len, Arc::new(map)) })
}

/// A part of a file, or what is wrong with it.
fn part(file: &Buffer, offset: i64, len: i64, what: &str) -> Result<Buffer, String> {
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
    match range {
        Some((offset, len)) if offset.checked_add(len).is_some_and(|end| end <= file.len()) => Ok(file.slice_with_length(offset, len)),
        _ => Err(format!("{what} lies outside the file ({offset}+{len} of {} bytes)", file.len())),
    }
}

/// The first `count` values of a buffer as numbers.
fn scalars<T: ArrowNativeType>(buffer: &Buffer, count: usize, what: &str) -> Result<ScalarBuffer<T>, String> {
    let size = std::mem::size_of::<T>();
    if count.checked_mul(size).is_none_or(|bytes| bytes > buffer.len()) {
        return Err(format!("{what} holds {} bytes, expected {count} values", buffer.len()));
    }
    if !(buffer.as_ptr() as usize).is_multiple_of(size) {
        return Err(format!("{what} is not aligned"));
    }
    Ok(ScalarBuffer::new(buffer.clone(), 0, count))
}

/// Offsets of a list column: `rows + 1` values, not decreasing, within `0..=limit`.
fn offsets(buffer: &Buffer, rows: usize, limit: usize, what: &str) -> Result<ScalarBuffer<i32>, String> {
    let offsets = scalars::<i32>(buffer, rows + 1, what)?;
    let ordered = offsets.windows(2).all(|w| w[0] <= w[1]);
    if !ordered || offsets[0] < 0 || offsets[rows] as usize > limit {
        return Err(format!("{what} are not ordered offsets into {limit} values"));
    }
    Ok(offsets)
}

fn read_shard(file: &Buffer) -> Result<(ShardInfo, String, Vec<Batch>), String> {
    let len = file.len();
    if len < 2 * MAGIC.len() + 6 || &file[..MAGIC.len()] != MAGIC || &file[len - MAGIC.len()..] != MAGIC {
        return Err("not an Arrow IPC file".into());
    }
    let trailer = len - MAGIC.len() - 4;
    let footer_len = i32::from_le_bytes([file[trailer], file[trailer + 1], file[trailer + 2], file[trailer + 3]]);
    let footer = part(file, trailer as i64 - i64::from(footer_len), i64::from(footer_len), "the footer")?;
    let footer = arrow_ipc::root_as_footer(&footer).map_err(|e| format!("damaged footer ({e})"))?;
    let schema = footer.schema().ok_or("no schema")?;
    let info = read_schema(schema)?;
    let packing = schema.custom_metadata().into_iter().flatten().find(|kv| kv.key() == Some("packing")).and_then(|kv| kv.value());
    let mut batches = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let number = batches.len();
        let batch = read_batch(file, block, &info).map_err(|e| format!("record batch {number}: {e}"))?;
        batches.push(batch);
    }
    Ok((info, packing.unwrap_or("concatenate").to_string(), batches))
}

fn read_schema(schema: arrow_ipc::Schema<'_>) -> Result<ShardInfo, String> {
    use arrow_ipc::Type;
    let fields: Vec<(&str, Type, Option<Type>)> = schema
        .fields()
        .into_iter()
        .flatten()
        .map(|f| (f.name().unwrap_or_default(), f.type_type(), f.children().and_then(|c| c.iter().next()).map(|c| c.type_type())))
        .collect();
    let expected = [
        ("tokens", Type::List, Some(Type::Int)),
        ("document_starts", Type::List, Some(Type::Int)),
        ("document_ids", Type::List, Some(Type::Utf8)),
        ("target_bytes", Type::Int, None),
    ];
    if fields != expected {
        return Err("the columns are not those of a token shard (tokens, document_starts, document_ids, target_bytes)".into());
    }
    if schema.endianness() != arrow_ipc::Endianness::Little || cfg!(target_endian = "big") {
        return Err("byte order differs from this machine's".into());
    }
    let get = |name: &str| {
        let found = schema.custom_metadata().into_iter().flatten().find(|kv| kv.key() == Some(name));
        found.and_then(|kv| kv.value()).ok_or_else(|| format!("no `{name}` in the schema metadata"))
    };
    let number = |name: &str| get(name)?.parse::<usize>().map_err(|e| format!("`{name}` in the schema metadata: {e}"));
    let sequence_length = number("sequence_length")?;
    if sequence_length == 0 || sequence_length >= i32::MAX as usize {
        return Err(format!("sequence_length {sequence_length} in the schema metadata is out of range"));
    }
    Ok(ShardInfo { sequence_length, vocab_size: number("vocab_size")?, tokenizer: get("tokenizer")?.to_string() })
}

fn read_batch(file: &Buffer, block: &arrow_ipc::Block, info: &ShardInfo) -> Result<Batch, String> {
    // A message is a continuation mark, a length, the FlatBuffers metadata, and the body with the buffers.
    let metadata_len = i64::from(block.metaDataLength());
    let metadata = part(file, block.offset(), metadata_len, "the metadata")?;
    let body_at = block.offset().checked_add(metadata_len).ok_or("offset overflow")?;
    let body = part(file, body_at, block.bodyLength(), "the body")?;
    let message = metadata.get(8..).ok_or("the metadata is too short")?;
    let message = arrow_ipc::root_as_message(message).map_err(|e| format!("damaged metadata ({e})"))?;
    let header = message.header_as_record_batch().ok_or("not a record batch")?;
    if header.compression().is_some() {
        return Err("compressed shards cannot be mapped".into());
    }
    let nodes: Vec<i64> = header.nodes().into_iter().flatten().map(|n| n.length()).collect();
    let buffers: Vec<(i64, i64)> = header.buffers().into_iter().flatten().map(|b| (b.offset(), b.length())).collect();
    // Field nodes: three lists with their items, then target_bytes. Buffers: (validity, offsets) of a list, (validity,
    // values) of its numbers or (validity, offsets, bytes) of its strings.
    let ([rows, tokens, rows_2, starts, rows_3, ids, rows_4], 15) = (to_lengths(&nodes)?, buffers.len()) else {
        return Err(format!("{} buffers, expected 15", buffers.len()));
    };
    if [rows_2, rows_3, rows_4] != [rows; 3] || starts != ids {
        return Err("columns of different length".into());
    }
    let buffer = |i: usize, what: &str| part(&body, buffers[i].0, buffers[i].1, what);

    let length = info.sequence_length + 1;
    let token_offsets = offsets(&buffer(1, "tokens")?, rows, tokens, "offsets of tokens")?;
    if token_offsets.windows(2).any(|w| (w[1] - w[0]) as usize != length) {
        return Err(format!("a row does not hold {length} tokens"));
    }
    let start_offsets = offsets(&buffer(5, "document_starts")?, rows, starts, "offsets of document_starts")?;
    if offsets(&buffer(9, "document_ids")?, rows, ids, "offsets of document_ids")?[..] != start_offsets[..] {
        return Err("document_ids and document_starts differ in number".into());
    }
    let starts_buffer = scalars::<u32>(&buffer(7, "document_starts")?, starts, "document_starts")?;
    for w in start_offsets.windows(2) {
        let row = &starts_buffer[w[0] as usize..w[1] as usize];
        if row.first() != Some(&0) || row.windows(2).any(|s| s[0] >= s[1]) || row.last().is_some_and(|s| *s as usize >= length) {
            return Err(format!("document_starts {row:?} do not rise from 0 within {length} tokens"));
        }
    }
    let text = buffer(12, "document_ids")?;
    Ok(Batch {
        first_row: 0,
        rows,
        tokens_offset: token_offsets[0] as usize,
        tokens: scalars(&buffer(3, "tokens")?, tokens, "tokens")?,
        start_offsets,
        starts: starts_buffer,
        id_offsets: offsets(&buffer(11, "document_ids")?, ids, text.len(), "offsets of the ids' text")?,
        ids: text,
        target_bytes: scalars(&buffer(14, "target_bytes")?, rows, "target_bytes")?,
    })
}

fn to_lengths(nodes: &[i64]) -> Result<[usize; 7], String> {
    let lengths: Vec<usize> = nodes.iter().filter_map(|n| usize::try_from(*n).ok().filter(|n| *n < i32::MAX as usize)).collect();
    <[usize; 7]>::try_from(lengths).map_err(|_| format!("{} columns and items, expected 7 with lengths below 2^31", nodes.len()))
}
