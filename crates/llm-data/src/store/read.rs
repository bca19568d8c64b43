//! Reading: lists in one order, whole small objects, streams in large blocks, and any range.
//!
//! A stream asks for [`BLOCK`] bytes at a time and has one block under way while the last one is used, so that neither the
//! distance to the bucket nor the reader's own small buffers decide the speed (many small requests are the classic way to lose a
//! factor of ten on object stores).

use super::retry::{blocking, is_absent, retry, short, stopped};
use super::{Key, Location, local_error, runtime};
use crate::error::{Error, Result};
use crate::read::format::RandomAccess;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
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
            let answer = runtime::block_on(current)?.unwrap_or_else(|e| Err(stopped(e)));
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

/// Random access in blocks: what a Parquet reader asks for in small pieces is answered from the last few large reads.
#[derive(Debug)]
pub struct ObjectAccess {
    object: Object,
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

/// Blocks that are kept: enough for the columns of a row group that are read side by side.
const KEPT_BLOCKS: usize = 16;

impl ObjectAccess {
    /// Nothing is read yet.
    pub fn new(object: Object) -> Self {
        Self { object, blocks: Mutex::default() }
    }

    fn block(&self, number: u64) -> Result<Bytes> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match blocks.iter().position(|(n, _)| *n == number).and_then(|i| blocks.remove(i)) {
            Some(found) => found,
            None => (number, get_range(&self.object.location, number * BLOCK..((number + 1) * BLOCK).min(self.object.size))?),
        };
        blocks.push_front(found.clone());
        blocks.truncate(KEPT_BLOCKS);
        Ok(found.1)
    }
}

impl RandomAccess for ObjectAccess {
    fn size(&self) -> io::Result<u64> {
        Ok(self.object.size)
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.object.size);
        let Some(end) = end else {
            let message = format!("{length} bytes at {offset} are beyond the end of {} ({} bytes)", self.object.location, self.object.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        };
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let block = self.block(at / BLOCK).map_err(io::Error::other)?;
            let from = (at % BLOCK) as usize;
            let part = &block[from..block.len().min(from + (end - at) as usize)];
            bytes.extend_from_slice(part);
            at += part.len() as u64;
        }
        Ok(bytes)
    }
}
