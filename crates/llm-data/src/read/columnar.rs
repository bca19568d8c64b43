//! Parquet and Arrow files, row by row, with bounded memory whatever their metadata claim.
//!
//! Parquet is read through random access, only the columns that may be needed; a stream without random access is first
//! written to a temporary file. An Arrow IPC file is read as the stream that it contains after its first eight bytes, so both
//! forms are one reader, and every length in it is checked before anything is allocated: the libraries believe them.

use super::format::{Body, Input, Out, RandomAccess, Sequential};
use super::paths::PathsConfig;
use super::rows::{RowReader, can_have_text, wanted};
use super::{Outcome, dates};
use crate::document::BATCH;
use crate::error::{Error, Result, check_interrupt, io, record};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde_json::{Map, Value};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::sync::Arc;

/// Largest message of an Arrow stream, and largest buffer after decompression.
const MAX_MESSAGE: u64 = 1 << 30;
/// Largest metadata of one Arrow message.
const MAX_METADATA: usize = 16 << 20;
/// Deepest nesting of lists and structs that is looked into.
const MAX_DEPTH: usize = 16;

/// A panic in a columnar library is an error of the file: their metadata have assertions that damage can break.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its metadata contradict each other".into()))
}

struct Chunks {
    access: Arc<dyn RandomAccess>,
    size: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<Sequential>;

    /// Used for page headers, which are short but may hold long statistics.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::with_capacity(1 << 14, Sequential::new(Arc::clone(&self.access), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {} bytes", self.size)));
        }
        Ok(self.access.read_at(start, length).map_err(|e| ParquetError::External(Box::new(e)))?.into())
    }
}

/// Random access to any input.
fn random(input: &mut Input<'_>) -> Result<Arc<dyn RandomAccess>> {
    match std::mem::replace(&mut input.body, Body::Stream(Box::new(std::io::empty()))) {
        Body::Random(access) => Ok(access),
        Body::Stream(mut reader) => {
            let mut spool = tempfile::tempfile().map_err(io(&std::env::temp_dir(), "cannot create a temporary file"))?;
            std::io::copy(&mut reader, &mut spool).map_err(io(&input.path, "cannot read"))?;
            Ok(Arc::new(spool))
        }
    }
}

/// Rows of a Parquet file.
pub fn parquet(input: Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    parquet_part(input, config, 0..u64::MAX, out)
}

/// Rows of the row groups of a Parquet file that begin in `range`, bytes; numbered as in the whole file.
pub fn parquet_part(mut input: Input<'_>, config: &PathsConfig, range: Range<u64>, out: Out<'_>) -> Result<()> {
    let rows = RowReader::new(&input, config)?;
    let access = random(&mut input)?;
    let fail = |e: String, out: Out<'_>| {
        let hint = if e.contains("text_field") { "" } else { "; it may be truncated: copy it again or leave it out" };
        let message = format!("not a readable Parquet file ({e}){hint}");
        out(config.damaged("damaged file", input.id, Error::Format { path: input.path.clone(), message })?)
    };
    let size = access.size().map_err(io(&input.path, "cannot read"))?;
    let wanted = wanted(config);
    let choose = |names: &[&str]| {
        if !can_have_text(config, names) {
            let known = names[..names.len().min(12)].join(", ");
            return Err(format!("no column `{}`; it has {known}: set paths.text_field to the one that holds the text", config.text_field));
        }
        Ok((0..names.len()).filter(|i| wanted.iter().any(|w| w == names[*i])).collect())
    };
    let opened = guarded(|| open(Chunks { access, size }, choose, &range));
    let (mut reader, mut number) = match opened {
        Ok(opened) => opened,
        Err(e) => return fail(e, out),
    };
    while let Some(batch) = guarded(|| reader.next().transpose().map_err(|e| e.to_string())).transpose() {
        match batch {
            Ok(batch) => number = hand_out(&batch, number, &rows, out)?,
            Err(e) => {
                let message = format!("damaged Parquet data ({e}); copy the file again or leave it out");
                return out(rows.damaged(&format!("{}#{}", input.id, number + 1), record(&input.path, format!("after row {number}"), message))?);
            }
        }
    }
    Ok(())
}

/// The row groups that begin in `range`, the columns that `choose` picks by the names of all of them; and the number of rows before.
fn open(
    chunks: Chunks,
    choose: impl FnOnce(&[&str]) -> Result<Vec<usize>, String>,
    range: &Range<u64>,
) -> Result<(ParquetRecordBatchReader, u64), String> {
    let size = chunks.size;
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(|e| e.to_string())?;
    let mut columns = builder.metadata().row_groups().iter().flat_map(|g| g.columns());
    let beyond = |offset: i64, length: i64| offset < 0 || length < 0 || offset.checked_add(length).is_none_or(|end| end as u64 > size);
    if columns.any(|c| {
        let start = c.dictionary_page_offset().unwrap_or(c.data_page_offset());
        start < 0 || beyond(c.data_page_offset(), 0) || beyond(start.min(c.data_page_offset()), c.compressed_size())
    }) {
        return Err("a column lies beyond the end of the file".to_string());
    }
    let names: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
    let chosen = choose(&names)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), chosen);
    let (mut groups, mut first) = (Vec::new(), 0);
    for (index, group) in builder.metadata().row_groups().iter().enumerate() {
        let begins = group.columns().iter().map(|c| c.byte_range().0).min().unwrap_or(0);
        if range.contains(&begins) {
            groups.push(index);
        } else if groups.is_empty() {
            first += group.num_rows().max(0) as u64;
        }
    }
    let reader = builder.with_row_groups(groups).with_projection(mask).with_batch_size(BATCH).build().map_err(|e| e.to_string())?;
    Ok((reader, first))
}

/// Every row of a Parquet file as a JSON object of all its columns, numbered from 1, or why it is none.
pub(super) fn parquet_objects(mut input: Input<'_>, take: &mut dyn FnMut(u64, Result<Map<String, Value>, String>) -> Result<()>) -> Result<()> {
    let access = random(&mut input)?;
    let size = access.size().map_err(io(&input.path, "cannot read"))?;
    let all = |names: &[&str]| Ok((0..names.len()).collect());
    let (mut reader, mut number) = guarded(|| open(Chunks { access, size }, all, &(0..u64::MAX))).map_err(|e| {
        let message = format!("not a readable Parquet file ({e}); it may be truncated: copy it again or leave it out");
        Error::Format { path: input.path.clone(), message }
    })?;
    while let Some(batch) = guarded(|| reader.next().transpose().map_err(|e| e.to_string())).transpose() {
        let batch = batch.map_err(|e| {
            record(&input.path, format!("after row {number}"), format!("damaged Parquet data ({e}); copy the file again or leave it out"))
        })?;
        check_interrupt()?;
        for row in objects(&batch) {
            number += 1;
            take(number, row)?;
        }
    }
    Ok(())
}

/// Rows of an Arrow IPC file or stream.
pub fn arrow(mut input: Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let rows = RowReader::new(&input, config)?;
    let mut messages = Messages { reader: input.decoded()?, offset: 0, first: true };
    let mut decoder = StreamDecoder::new();
    let mut number = 0;
    loop {
        let at = messages.offset;
        let step = messages.next().and_then(|message| {
            let Some(mut buffer) = message else { return Ok((None, true)) };
            let batch = guarded(|| decoder.decode(&mut buffer).map_err(|e| e.to_string()))?;
            Ok((batch, false))
        });
        match step {
            Ok((_, true)) => return Ok(()),
            Ok((Some(batch), _)) => number = hand_out(&batch, number, &rows, out)?,
            Ok((None, _)) => {}
            Err(e) => {
                let place = format!("byte {at}, after row {number}");
                let message = format!("damaged Arrow data ({e}); copy the file again or leave it out");
                return out(rows.damaged(&format!("{}#{}", input.id, number + 1), record(&input.path, place, message))?);
            }
        }
    }
}

/// The framing of an Arrow IPC stream.
struct Messages {
    reader: super::codec::Bytes,
    offset: u64,
    first: bool,
}

impl Messages {
    fn exactly(&mut self, n: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(n as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        self.offset += read as u64;
        if read < n { Err(format!("ends after {read} of {n} bytes")) } else { Ok(bytes) }
    }

    /// One message with its framing; `None` at the end.
    fn next(&mut self) -> Result<Option<Buffer>, String> {
        let mut prefix = Vec::new();
        self.offset += self.reader.by_ref().take(8).read_to_end(&mut prefix).map_err(|e| e.to_string())? as u64;
        if self.first && prefix == *b"ARROW1\0\0" {
            // The writer fills up to its alignment, at most 64 bytes.
            for _ in 0..8 {
                prefix.clear();
                self.offset += self.reader.by_ref().take(8).read_to_end(&mut prefix).map_err(|e| e.to_string())? as u64;
                if prefix != [0; 8] {
                    break;
                }
            }
        }
        let first = std::mem::take(&mut self.first);
        // A stream may end without its mark; a file has its footer behind the mark.
        if prefix.is_empty() && !first {
            return Ok(None);
        }
        let [0xff, 0xff, 0xff, 0xff, length @ ..] = prefix.as_slice() else { return Err("no Arrow message where one should begin".into()) };
        let length = <[u8; 4]>::try_from(length).map(u32::from_le_bytes).map_err(|_| "ends within a message")? as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > MAX_METADATA {
            return Err(format!("metadata of {length} bytes"));
        }
        let metadata = self.exactly(length)?;
        let message = arrow_ipc::root_as_message(&metadata).map_err(|e| e.to_string())?;
        let size = u64::try_from(message.bodyLength()).ok().filter(|n| *n <= MAX_MESSAGE).ok_or("a body that is too large or negative")?;
        let body = self.exactly(size as usize)?;
        let dictionary = message.header_as_dictionary_batch().and_then(|d| d.data());
        if let Some(batch) = message.header_as_record_batch().or(dictionary) {
            check_buffers(&batch, &body)?;
        }
        Ok(Some(Buffer::from_vec([prefix, metadata, body].concat())))
    }
}

/// Every buffer lies in the body, and none says that it is huge when decompressed.
fn check_buffers(batch: &arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), String> {
    let compressed = batch.compression().is_some();
    for buffer in batch.buffers().iter().flatten() {
        let from = usize::try_from(buffer.offset()).map_err(|_| "a negative offset")?;
        let length = usize::try_from(buffer.length()).map_err(|_| "a negative length")?;
        let bytes = from.checked_add(length).and_then(|end| body.get(from..end)).ok_or("a buffer beyond the end of its message")?;
        if let Some(head) = bytes.first_chunk::<8>().filter(|_| compressed) {
            let claimed = i64::from_le_bytes(*head);
            if claimed > MAX_MESSAGE as i64 || claimed < -1 {
                return Err(format!("a buffer of {claimed} bytes"));
            }
        }
    }
    let rows = batch.length();
    if rows < 0 || batch.nodes().iter().flatten().any(|n| n.length() < 0 || n.null_count() < 0 || n.null_count() > n.length()) {
        return Err("a negative number of rows".into());
    }
    Ok(())
}

/// The rows of a batch as JSON objects, or why one is none.
fn objects(batch: &RecordBatch) -> impl Iterator<Item = Result<Map<String, Value>, String>> {
    let schema = batch.schema();
    // Dictionaries are looked up by row, once per batch.
    let keys: Vec<Option<Vec<usize>>> = batch.columns().iter().map(|c| c.as_any_dictionary_opt().map(|d| d.normalized_keys())).collect();
    (0..batch.num_rows()).map(move |index| {
        let cell = |column: &ArrayRef, keys: &Option<Vec<usize>>| match (keys, column.as_any_dictionary_opt()) {
            (Some(keys), Some(dictionary)) if column.is_valid(index) => value(dictionary.values(), *keys.get(index)?, 0),
            _ => value(column, index, 0),
        };
        guarded(|| {
            let fields = schema.fields().iter().zip(batch.columns().iter().zip(&keys));
            Ok(fields.filter_map(|(field, (column, keys))| Some((field.name().clone(), cell(column, keys)?))).collect())
        })
    })
}

fn hand_out(batch: &RecordBatch, first: u64, rows: &RowReader<'_>, out: Out<'_>) -> Result<u64> {
    check_interrupt()?;
    for (number, row) in (first + 1..).zip(objects(batch)) {
        let place = format!("row {number}");
        match row {
            Ok(row) if row.is_empty() => return Ok(number - 1),
            Ok(row) => rows.row(number, &place, &row)?.into_iter().try_for_each(&mut *out)?,
            Err(e) => out(Outcome::skip("damaged row", place, e, "readable", ""))?,
        }
    }
    Ok(first + batch.num_rows() as u64)
}

/// One cell as JSON; `None` for types that hold no text.
fn value(column: &ArrayRef, row: usize, depth: usize) -> Option<Value> {
    fn number<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize) -> Option<Value>
    where
        T::Native: Into<serde_json::Value>,
    {
        Some(column.as_primitive_opt::<T>()?.value(row).into())
    }
    fn date(seconds: i64) -> Option<Value> {
        Some(dates::of_unix(seconds).into())
    }
    let list = |items: ArrayRef| -> Option<Value> { Some(Value::Array((0..items.len()).filter_map(|i| value(&items, i, depth + 1)).collect())) };
    if depth > MAX_DEPTH || row >= column.len() || matches!(column.data_type(), DataType::Null) {
        return None;
    }
    if column.is_null(row) {
        return Some(Value::Null);
    }
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string_opt::<i32>()?.value(row).into()),
        DataType::LargeUtf8 => Some(column.as_string_opt::<i64>()?.value(row).into()),
        DataType::Utf8View => Some(column.as_string_view_opt()?.value(row).into()),
        DataType::Binary => std::str::from_utf8(column.as_binary_opt::<i32>()?.value(row)).ok().map(Value::from),
        DataType::LargeBinary => std::str::from_utf8(column.as_binary_opt::<i64>()?.value(row)).ok().map(Value::from),
        DataType::Boolean => Some(column.as_boolean_opt()?.value(row).into()),
        DataType::Int8 => number::<Int8Type>(column, row),
        DataType::Int16 => number::<Int16Type>(column, row),
        DataType::Int32 => number::<Int32Type>(column, row),
        DataType::Int64 => number::<Int64Type>(column, row),
        DataType::UInt8 => number::<UInt8Type>(column, row),
        DataType::UInt16 => number::<UInt16Type>(column, row),
        DataType::UInt32 => number::<UInt32Type>(column, row),
        DataType::UInt64 => number::<UInt64Type>(column, row),
        DataType::Float32 => number::<Float32Type>(column, row),
        DataType::Float64 => number::<Float64Type>(column, row),
        DataType::Date32 => date(i64::from(column.as_primitive_opt::<Date32Type>()?.value(row)) * 86_400),
        DataType::Date64 => date(column.as_primitive_opt::<Date64Type>()?.value(row).div_euclid(1000)),
        DataType::Timestamp(unit, _) => date(match unit {
            TimeUnit::Second => column.as_primitive_opt::<TimestampSecondType>()?.value(row),
            TimeUnit::Millisecond => column.as_primitive_opt::<TimestampMillisecondType>()?.value(row).div_euclid(1000),
            TimeUnit::Microsecond => column.as_primitive_opt::<TimestampMicrosecondType>()?.value(row).div_euclid(1_000_000),
            TimeUnit::Nanosecond => column.as_primitive_opt::<TimestampNanosecondType>()?.value(row).div_euclid(1_000_000_000),
        }),
        DataType::List(_) => list(column.as_list_opt::<i32>()?.value(row)),
        DataType::LargeList(_) => list(column.as_list_opt::<i64>()?.value(row)),
        DataType::Struct(fields) => {
            let columns = column.as_struct_opt()?;
            let pairs = fields.iter().zip(columns.columns());
            Some(Value::Object(pairs.filter_map(|(f, c)| Some((f.name().clone(), value(c, row, depth + 1)?))).collect()))
        }
        _ => None,
    }
}
