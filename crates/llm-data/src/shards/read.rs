//! Reading a shard: the metadata is verified, every buffer is checked against the file, and what is left are slices of the mapping.

use super::{Labels, ShardInfo};
use crate::error::{Result, io};
use arrow_buffer::{ArrowNativeType, Buffer, ScalarBuffer};
use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

const MAGIC: &[u8; 6] = b"ARROW1";

/// The checked buffers of one record batch. `ScalarBuffer`s point into the mapping and keep it alive.
#[derive(Debug)]
pub(super) struct Batch {
    pub first_row: usize,
    pub rows: usize,
    pub tokens_offset: usize,
    pub tokens: ScalarBuffer<u32>,
    pub start_offsets: ScalarBuffer<i32>,
    pub starts: ScalarBuffer<u32>,
    pub id_offsets: ScalarBuffer<i32>,
    pub ids: Buffer,
    pub target_bytes: ScalarBuffer<u32>,
    pub domains: Option<ScalarBuffer<u16>>,
    pub languages: Option<ScalarBuffer<u16>>,
}

impl Batch {
    /// Places in the columns by document of those of row `i`.
    pub fn starts_of(&self, i: usize) -> std::ops::Range<usize> {
        self.start_offsets[i] as usize..self.start_offsets[i + 1] as usize
    }
}

/// Map a file as an Arrow buffer that owns the mapping.
pub(super) fn map(path: &Path) -> Result<Buffer> {
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

/// A file whose structure was checked.
pub(super) struct Shard {
    pub info: ShardInfo,
    pub packing: String,
    pub labels: Option<Labels>,
    pub batches: Vec<Batch>,
}

/// Read the metadata and check all offsets, or say what is wrong.
pub(super) fn shard(file: &Buffer) -> Result<Shard, String> {
    let len = file.len();
    if len < 2 * MAGIC.len() + 6 || &file[..MAGIC.len()] != MAGIC || &file[len - MAGIC.len()..] != MAGIC {
        return Err("not an Arrow IPC file".into());
    }
    let trailer = len - MAGIC.len() - 4;
    let footer_len = i32::from_le_bytes([file[trailer], file[trailer + 1], file[trailer + 2], file[trailer + 3]]);
    let footer = part(file, trailer as i64 - i64::from(footer_len), i64::from(footer_len), "the footer")?;
    let footer = arrow_ipc::root_as_footer(&footer).map_err(|e| format!("damaged footer ({e})"))?;
    let schema = footer.schema().ok_or("no schema")?;
    let (info, labels) = read_schema(schema)?;
    let packing = metadata(schema, "packing").unwrap_or("concatenate").to_string();
    let mut batches = Vec::new();
    for block in footer.recordBatches().into_iter().flatten() {
        let number = batches.len();
        let batch = read_batch(file, block, &info, labels.as_ref()).map_err(|e| format!("record batch {number}: {e}"))?;
        batches.push(batch);
    }
    Ok(Shard { info, packing, labels, batches })
}

fn metadata<'a>(schema: arrow_ipc::Schema<'a>, name: &str) -> Option<&'a str> {
    schema.custom_metadata().into_iter().flatten().find(|kv| kv.key() == Some(name)).and_then(|kv| kv.value())
}

fn read_schema(schema: arrow_ipc::Schema<'_>) -> Result<(ShardInfo, Option<Labels>), String> {
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
        ("document_domains", Type::List, Some(Type::Int)),
        ("document_languages", Type::List, Some(Type::Int)),
    ];
    if fields != expected && fields != expected[..4] {
        return Err("the columns are not those of a token shard (tokens, document_starts, document_ids, target_bytes)".into());
    }
    let labelled = fields.len() == expected.len();
    if schema.endianness() != arrow_ipc::Endianness::Little || cfg!(target_endian = "big") {
        return Err("byte order differs from this machine's".into());
    }
    let get = |name: &str| metadata(schema, name).ok_or_else(|| format!("no `{name}` in the schema metadata"));
    let names = |name: &str| serde_json::from_str::<Vec<String>>(get(name)?).map_err(|e| format!("`{name}` in the schema metadata: {e}"));
    let number = |name: &str| get(name)?.parse::<usize>().map_err(|e| format!("`{name}` in the schema metadata: {e}"));
    let sequence_length = number("sequence_length")?;
    if sequence_length == 0 || sequence_length >= i32::MAX as usize {
        return Err(format!("sequence_length {sequence_length} in the schema metadata is out of range"));
    }
    let labels = if labelled { Some(Labels { domains: names("domains")?, languages: names("languages")? }) } else { None };
    Ok((ShardInfo { sequence_length, vocab_size: number("vocab_size")?, tokenizer: get("tokenizer")?.to_string() }, labels))
}

fn read_batch(file: &Buffer, block: &arrow_ipc::Block, info: &ShardInfo, labels: Option<&Labels>) -> Result<Batch, String> {
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
    // Field nodes: three lists with their items, then target_bytes, then perhaps two lists with their items. Buffers: (validity,
    // offsets) of a list, (validity, values) of its numbers or (validity, offsets, bytes) of its strings.
    let (columns, expected) = if labels.is_some() { (11, 23) } else { (7, 15) };
    if buffers.len() != expected {
        return Err(format!("{} buffers, expected {expected}", buffers.len()));
    }
    let lengths = to_lengths(&nodes, columns)?;
    let &[rows, tokens, rows_2, starts, rows_3, ids, rows_4, ref more @ ..] = lengths.as_slice() else {
        return Err("too few columns".into());
    };
    if [rows_2, rows_3, rows_4] != [rows; 3] || starts != ids || !(more.is_empty() || more == [rows, starts, rows, starts]) {
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
    // Numbers of names, as many as there are starts and divided in the same way.
    let numbers = |first: usize, names: &[String], what: &str| -> Result<ScalarBuffer<u16>, String> {
        if offsets(&buffer(first + 1, what)?, rows, starts, what)?[..] != start_offsets[..] {
            return Err(format!("{what} and document_starts differ in number"));
        }
        let numbers = scalars::<u16>(&buffer(first + 3, what)?, starts, what)?;
        match numbers.iter().find(|n| usize::from(**n) >= names.len()) {
            Some(number) => Err(format!("{what} hold {number}, but only {} have names", names.len())),
            None => Ok(numbers),
        }
    };
    let domains = labels.map(|labels| numbers(15, &labels.domains, "document_domains")).transpose()?;
    let languages = labels.map(|labels| numbers(19, &labels.languages, "document_languages")).transpose()?;
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
        domains,
        languages,
    })
}

fn to_lengths(nodes: &[i64], expected: usize) -> Result<Vec<usize>, String> {
    let lengths: Vec<usize> = nodes.iter().filter_map(|n| usize::try_from(*n).ok().filter(|n| *n < i32::MAX as usize)).collect();
    if lengths.len() == expected && nodes.len() == expected {
        Ok(lengths)
    } else {
        Err(format!("{} columns and items, expected {expected} with lengths below 2^31", nodes.len()))
    }
}
