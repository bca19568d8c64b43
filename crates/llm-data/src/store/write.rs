//! Writing: an object appears whole or not at all, and [`create`] lets exactly one of several writers have it.
//!
//! On a disk the bytes go to a temporary sibling that belongs to this process alone (two processes may write the same target),
//! are flushed, and renamed; [`create`] links instead, which fails when the name is taken. In a bucket up to [`PART`] bytes are one
//! `PUT`; more is a multipart upload, invisible until it is completed; [`create`] is a `PUT` with `If-None-Match`. Temporary files of a
//! killed process begin with `.tmp-`, as everywhere in this workspace, and are cleared away by [`sweep`].

use super::retry::{blocking, is_absent, retry};
use super::{Location, local_error, runtime};
use crate::error::{Error, Result};
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a part of a multipart upload.
pub const PART: usize = 8 << 20;

/// What became of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there now.
    Created,
    /// Another writer was there before; nothing was written.
    Exists,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of the content.
    pub blake3: String,
}

fn host() -> &'static str {
    static HOST: LazyLock<String> = LazyLock::new(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
        let name: String = name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.is_empty() { "host".to_string() } else { name }
    });
    &HOST
}

fn temporary(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".tmp-{name}-{}-{}-{}", host(), std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// True when the process that wrote a temporary file is gone: one of this machine that is not running, or a day without a change.
fn is_abandoned(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy().into_owned();
    let mut parts = name.rsplit('-').skip(1);
    let (process, machine) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let running = Path::new("/proc").join(process).exists();
    if machine == host() && Path::new("/proc/self").exists() && process.parse::<u32>().is_ok() && !running {
        return true;
    }
    let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(24 * 3600))
}

/// Write a small object, whatever was there.
pub fn put(location: &Location, bytes: impl Into<bytes::Bytes>) -> Result<()> {
    let bytes = bytes.into();
    let mut writer = Writer::create(location)?;
    writer.write_all(&bytes).map_err(|e| writer.failed(e))?;
    writer.finish().map(drop)
}

/// Write a small object unless there is one.
pub fn create(location: &Location, bytes: impl Into<bytes::Bytes>) -> Result<Outcome> {
    let bytes = bytes.into();
    match location.remote()? {
        None => {
            let target = location.display_path();
            let mut file = LocalFile::create(&target)?;
            file.writer.write_all(&bytes).map_err(local_error(&target, "cannot write"))?;
            file.link()
        }
        Some((store, key)) => {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let answer = runtime::block_on(retry(|| store.put_opts(&key, PutPayload::from(bytes.clone()), options.clone())))?;
            match answer {
                Ok(_) => Ok(Outcome::Created),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Outcome::Exists),
                Err(e) => Err(location.failed("cannot create", &e)),
            }
        }
    }
}

/// Remove an object; one that is not there is fine.
pub fn delete(location: &Location) -> Result<()> {
    let removed = match location.remote()? {
        None => {
            let path = location.display_path();
            std::fs::remove_file(&path).map_err(local_error(&path, "cannot remove"))
        }
        Some((store, key)) => blocking(location, "cannot remove", || store.delete(&key)),
    };
    match removed {
        Err(e) if is_absent(&e) => Ok(()),
        other => other,
    }
}

/// Remove what killed processes left below `location`; files of processes that run stay.
pub fn sweep(location: &Location) -> Result<()> {
    let Some(root) = location.as_local() else { return Ok(()) }; // unfinished uploads are the bucket's life-cycle rules' business
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(".tmp-") && is_abandoned(&entry) {
                delete(&Location::local(entry.path()))?;
            }
        }
    }
    Ok(())
}

/// A temporary file of this process.
#[derive(Debug)]
struct LocalFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
    done: bool,
}

impl LocalFile {
    fn create(target: &Path) -> Result<Self> {
        if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(local_error(parent, "cannot create folder"))?;
        }
        let temporary = temporary(target);
        let file = File::create(&temporary).map_err(local_error(&temporary, "cannot create"))?;
        Ok(Self { target: target.to_path_buf(), temporary, writer: BufWriter::with_capacity(1 << 18, file), done: false })
    }

    fn keep_private(&self) -> Result<()> {
        #[cfg(unix)]
        for (path, mode) in [(self.target.parent(), 0o700), (Some(self.temporary.as_path()), 0o600)] {
            use std::os::unix::fs::PermissionsExt;
            let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) else { continue };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(local_error(path, "cannot make private"))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(local_error(&self.target, "cannot write"))?;
        self.writer.get_ref().sync_all().map_err(local_error(&self.target, "cannot flush to the disk"))
    }

    fn sync_folder(&self) {
        if let Some(folder) = self.target.parent().and_then(|p| File::open(p).ok()) {
            let _ = folder.sync_all();
        }
    }

    fn rename(mut self) -> Result<()> {
        self.flush()?;
        std::fs::rename(&self.temporary, &self.target).map_err(local_error(&self.target, "cannot rename into place"))?;
        self.done = true;
        self.sync_folder();
        Ok(())
    }

    fn link(mut self) -> Result<Outcome> {
        self.flush()?;
        match std::fs::hard_link(&self.temporary, &self.target) {
            Ok(()) => {
                self.sync_folder();
                Ok(Outcome::Created)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Outcome::Exists),
            // A file system without links: the rename is still atomic, only the check is not.
            Err(_) if !self.target.exists() => self.rename().map(|()| Outcome::Created),
            Err(_) => Ok(Outcome::Exists),
        }
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

enum Target {
    Local(LocalFile),
    Remote { buffer: Vec<u8>, upload: Option<Box<dyn MultipartUpload>> },
}

/// Streams an object that appears on [`Writer::finish`]; dropped before, it leaves nothing.
pub struct Writer {
    location: Location,
    target: Target,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("location", &self.location).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Writer {
    /// Start; parent folders are created.
    pub fn create(location: &Location) -> Result<Self> {
        let target = match location.remote()? {
            None => Target::Local(LocalFile::create(&location.display_path())?),
            Some(_) => Target::Remote { buffer: Vec::new(), upload: None },
        };
        Ok(Self { location: location.clone(), target, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Start an object that on a disk only its owner can read, in a folder that only its owner can open. In a bucket the bucket's own
    /// rules hold.
    pub fn create_private(location: &Location) -> Result<Self> {
        let writer = Self::create(location)?;
        if let Target::Local(file) = &writer.target {
            file.keep_private()?;
        }
        Ok(writer)
    }

    /// Where the object will be.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// An error of [`Write`] with the object's name.
    pub fn failed(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io { path: self.location.display_path(), action: "cannot write", source },
        }
    }

    /// Send what is buffered as one part.
    fn send(&mut self) -> Result<()> {
        let Target::Remote { buffer, upload } = &mut self.target else { return Ok(()) };
        let part = PutPayload::from(std::mem::take(buffer));
        let failed = |e: object_store::Error| self.location.failed("cannot write", &e);
        if upload.is_none() {
            let Some((store, key)) = self.location.remote()? else { return Ok(()) };
            *upload = Some(blocking(&self.location, "cannot write", || store.put_multipart(&key))?);
        }
        let Some(upload) = upload else { return Ok(()) };
        // A part must not be handed in twice; `object_store` repeats the request itself.
        runtime::block_on(upload.put_part(part))?.map_err(failed)
    }

    /// Make it visible.
    pub fn finish(mut self) -> Result<Written> {
        if matches!(&self.target, Target::Remote { buffer, upload: Some(_) } if !buffer.is_empty()) {
            self.send()?;
        }
        let blake3 = self.hasher.finalize().to_hex().to_string();
        match std::mem::replace(&mut self.target, Target::Remote { buffer: Vec::new(), upload: None }) {
            Target::Local(file) => file.rename()?,
            Target::Remote { upload: Some(mut upload), .. } => {
                runtime::block_on(upload.complete())?.map_err(|e| self.location.failed("cannot complete", &e))?;
            }
            Target::Remote { buffer, upload: None } => {
                let Some((store, key)) = self.location.remote()? else { return Ok(Written { bytes: self.bytes, blake3 }) };
                let payload = PutPayload::from(buffer);
                blocking(&self.location, "cannot write", || store.put(&key, payload.clone()))?;
            }
        }
        Ok(Written { bytes: self.bytes, blake3 })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = match &mut self.target {
            Target::Local(file) => file.writer.write(bytes)?,
            Target::Remote { buffer, .. } => {
                let n = bytes.len().min(PART - buffer.len().min(PART));
                buffer.extend_from_slice(&bytes[..n]);
                if buffer.len() >= PART {
                    self.send().map_err(io::Error::other)?;
                }
                n
            }
        };
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Target::Remote { upload: Some(upload), .. } = &mut self.target {
            let _ = runtime::block_on(upload.abort());
        }
    }
}
