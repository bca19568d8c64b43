//! Reading: lists in one order, whole small objects, streams in large blocks, and any range.
//!
//! A stream asks for [`BLOCK`] bytes at a time and has one block under way while the last one is used, so that neither the
//! distance to the bucket nor the reader's own small buffers decide the speed (many small requests are the classic way to lose a
//! factor of ten on object stores).

use super::retry::{blocking, is_absent, retry, short};
use super::{Key, Location, local_error, runtime};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Bytes per request of a stream.
pub const BLOCK: u64 = 8 << 20;

/// Something that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it lies.
    pub location: Location,
    /// Its path below what was listed; its name when it was named itself.
    pub relative: String,
    /// Bytes.
    pub size: u64,
    /// Changes when the content does: the store's entity tag, or the time of the last change.
    pub version: String,
}

fn object(location: Location, relative: String, meta: &ObjectMeta) -> Object {
    let version = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
    Object { location, relative, size: meta.size, version }
}

fn local_object(path: &std::path::Path, relative: String) -> Result<Object> {
    let meta = std::fs::metadata(path).map_err(local_error(path, "cannot read"))?;
    let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
    Ok(Object { location: Location::local(path), relative, size: meta.len(), version: format!("mtime-{modified}") })
}

/// One object; `None` when there is none.
pub fn stat(location: &Location) -> Result<Option<Object>> {
    let found = match location.remote()? {
        None => match location.as_local() {
            Some(path) if path.is_dir() => return Ok(None),
            Some(path) => local_object(path, location.name()),
            None => return Ok(None),
        },
        Some((store, key)) => blocking(location, "cannot read", || store.head(&key)).map(|meta| object(location.clone(), location.name(), &meta)),
    };
    match found {
        Ok(object) => Ok(Some(object)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Everything below `location` (or the object itself), sorted by path. Names that begin with a dot are left out.
pub fn list(location: &Location) -> Result<Vec<Object>> {
    let hidden = |relative: &str| relative.split('/').any(|part| part.starts_with('.'));
    let mut objects = Vec::new();
    match location.remote()? {
        None => {
            let Some(root) = location.as_local() else { return Ok(objects) };
            if root.is_file() {
                return Ok(vec![local_object(root, location.name())?]);
            }
            if !root.is_dir() {
                return Ok(objects);
            }
            for path in llm_run::atomic::walk(root)? {
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                if !hidden(&relative) {
                    // A file that goes away while the folder is listed was not there.
                    match local_object(&path, relative) {
                        Err(e) if is_absent(&e) => {}
                        found => objects.push(found?),
                    }
                }
            }
        }
        Some((store, key)) => {
            let listed = blocking(location, "cannot list", || store.list(Some(&key)).try_collect::<Vec<ObjectMeta>>())?;
            for meta in listed {
                let relative: Vec<String> =
                    meta.location.prefix_match(&key).map(|parts| parts.map(|p| p.as_ref().to_string()).collect()).unwrap_or_default();
                let relative = relative.join("/");
                if !relative.is_empty() && !hidden(&relative) {
                    objects.push(object(location.join(&relative), relative, &meta));
                }
            }
            if objects.is_empty() && !key.as_ref().is_empty() {
                objects.extend(stat(location)?);
            }
        }
    }
    objects.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(objects)
}

async fn fetch(store: Arc<dyn ObjectStore>, key: Key, range: Range<u64>) -> object_store::Result<Bytes> {
    retry(|| async {
        let bytes = store.get_range(&key, range.clone()).await?;
        if bytes.len() as u64 == range.end - range.start { Ok(bytes) } else { Err(short(bytes.len(), range.end - range.start)) }
    })
    .await
}

/// A whole object; `None` when there is none.
pub fn get(location: &Location) -> Result<Option<Bytes>> {
    let read = match location.remote()? {
        None => match location.as_local() {
            Some(path) => std::fs::read(path).map(Bytes::from).map_err(local_error(path, "cannot read")),
            None => return Ok(None),
        },
        Some((store, key)) => blocking(location, "cannot read", || async {
            let answer = store.get(&key).await?;
            let size = answer.meta.size;
            let bytes = answer.bytes().await?;
            if bytes.len() as u64 == size { Ok(bytes) } else { Err(short(bytes.len(), size)) }
        }),
    };
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Exactly the bytes of `range`.
pub fn get_range(location: &Location, range: Range<u64>) -> Result<Bytes> {
    match location.remote()? {
        None => {
            let Some(path) = location.as_local() else { return Ok(Bytes::new()) };
            let mut file = File::open(path).map_err(local_error(path, "cannot open"))?;
            file.seek(SeekFrom::Start(range.start)).map_err(local_error(path, "cannot seek"))?;
            // A damaged length must not be allocated on faith.
            let mut bytes = Vec::new();
            file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes).map_err(local_error(path, "cannot read"))?;
            if (bytes.len() as u64) < range.end.saturating_sub(range.start) {
                let message = format!("bytes {} to {} were asked for, the file ends at {}", range.start, range.end, range.start + bytes.len() as u64);
                return Err(Error::Format { path: path.to_path_buf(), message });
            }
            Ok(bytes.into())
        }
        Some((store, key)) => runtime::block_on(fetch(store, key, range))?.map_err(|e| location.failed("cannot read", &e)),
    }
}

/// A stream over `range` of an object.
pub fn open(object: &Object, range: Range<u64>) -> Result<ObjectReader> {
    let end = range.end.min(object.size);
    let source = match object.location.remote()? {
        None => {
            let path = object.location.display_path();
            let mut file = File::open(&path).map_err(local_error(&path, "cannot open"))?;
            file.seek(SeekFrom::Start(range.start)).map_err(local_error(&path, "cannot seek"))?;
            Source::File(file)
        }
        Some((store, key)) => Source::Blocks { store, key, block: Bytes::new(), next: None },
    };
    Ok(ObjectReader { location: object.location.clone(), source, at: range.start, fetched: range.start, end })
}

/// Reads a range from its first byte to its last.
#[derive(Debug)]
pub struct ObjectReader {
    location: Location,
    source: Source,
    /// Offset of the next byte that the caller gets.
    at: u64,
    /// Offset of the next byte that nobody asked the store for.
    fetched: u64,
    end: u64,
}

#[derive(Debug)]
enum Source {
    File(File),
    Blocks { store: Arc<dyn ObjectStore>, key: Key, block: Bytes, next: Option<JoinHandle<object_store::Result<Bytes>>> },
}

impl ObjectReader {
    /// Offset in the object of the byte that comes next.
    pub fn position(&self) -> u64 {
        self.at
    }

    fn next_block(&mut self) -> Result<()> {
        let Source::Blocks { store, key, block, next } = &mut self.source else { return Ok(()) };
        let request = |fetched: &mut u64| -> Result<Option<JoinHandle<object_store::Result<Bytes>>>> {
            if *fetched >= self.end {
                return Ok(None);
            }
            let range = *fetched..(*fetched + BLOCK).min(self.end);
            *fetched = range.end;
            runtime::spawn(fetch(Arc::clone(store), key.clone(), range)).map(Some)
        };
        let current = match next.take() {
            Some(current) => Some(current),
            None => request(&mut self.fetched)?,
        };
        *next = request(&mut self.fetched)?;
        if let Some(current) = current {
            let answer = runtime::block_on(current)?.unwrap_or_else(|e| Err(e.into()));
            *block = answer.map_err(|e| self.location.failed("cannot read", &e))?;
        }
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        if matches!(&self.source, Source::Blocks { block, .. } if block.is_empty()) {
            self.next_block().map_err(io::Error::other)?;
        }
        let n = match &mut self.source {
            Source::File(file) => match file.read(&mut buffer[..wanted])? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at byte {}, it had {}", self.at, self.end))),
                n => n,
            },
            Source::Blocks { block, .. } => {
                let part = block.split_to(wanted.min(block.len()));
                buffer[..part.len()].copy_from_slice(&part);
                part.len()
            }
        };
        self.at += n as u64;
        Ok(n)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        if let Source::Blocks { next: Some(next), .. } = &self.source {
            next.abort();
        }
    }
}

/// Random access for Parquet: runs of bytes that are fetched with few large requests and then kept until the next
/// [`RangedObject::load`].
#[derive(Debug, Clone)]
pub struct RangedObject {
    object: Arc<Object>,
    loaded: Arc<Vec<(u64, Bytes)>>,
}

impl RangedObject {
    /// Nothing is read yet.
    pub fn new(object: Object) -> Self {
        Self { object: Arc::new(object), loaded: Arc::default() }
    }

    /// The same object with these ranges in memory. Ranges that lie close together become one request.
    pub fn load(&self, mut ranges: Vec<Range<u64>>) -> Result<Self> {
        const GAP: u64 = 1 << 20;
        ranges.sort_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let mut loaded = Vec::new();
        for range in merged {
            if range.end > self.object.size || range.start > range.end {
                let message = format!(
                    "its metadata name bytes {} to {}, it has {}; it may be truncated: copy it again or leave it out",
                    range.start, range.end, self.object.size
                );
                return Err(Error::Format { path: self.object.location.display_path(), message });
            }
            loaded.push((range.start, get_range(&self.object.location, range)?));
        }
        Ok(Self { object: Arc::clone(&self.object), loaded: Arc::new(loaded) })
    }

    fn bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.saturating_add(length as u64);
        for (from, bytes) in self.loaded.iter() {
            if *from <= start && end <= from + bytes.len() as u64 {
                let at = (start - from) as usize;
                return Ok(bytes.slice(at..at + length));
            }
        }
        if end > self.object.size {
            let message = format!("{length} bytes at {start} are beyond its end");
            return Err(Error::Format { path: self.object.location.display_path(), message });
        }
        get_range(&self.object.location, start..end)
    }
}

impl parquet::file::reader::Length for RangedObject {
    fn len(&self) -> u64 {
        self.object.size
    }
}

impl parquet::file::reader::ChunkReader for RangedObject {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        for (from, bytes) in self.loaded.iter() {
            if *from <= start && start < from + bytes.len() as u64 {
                return Ok(Box::new(io::Cursor::new(bytes.slice((start - from) as usize..))));
            }
        }
        let reader = open(&self.object, start..self.object.size).map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))?;
        Ok(Box::new(io::BufReader::new(reader)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.bytes(start, length).map_err(|e| parquet::errors::ParquetError::External(Box::new(e)))
    }
}
