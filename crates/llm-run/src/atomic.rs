//! Nothing is ever half-written: data goes to a temporary sibling, is flushed to the disk, then renamed over the target.
//!
//! After a crash the target holds either the old or the new content. Temporary siblings of a killed process start with
//! `.tmp-`, are ignored by every reader here, and are removed by the next writer of the same target.

use crate::error::{Result, io};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

fn temporary(target: &Path) -> PathBuf {
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".tmp-{name}"))
}

fn sync_parent(path: &Path) {
    // Some file systems refuse to open a directory; the rename itself is still atomic there.
    if let Some(dir) = path.parent().and_then(|p| File::open(if p.as_os_str().is_empty() { Path::new(".") } else { p }).ok()) {
        let _ = dir.sync_all();
    }
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent).map_err(io(parent, "cannot create folder")),
        _ => Ok(()),
    }
}

/// Write `bytes` to `path` atomically; parent folders are created.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut file = AtomicFile::create(path.as_ref())?;
    let target = file.target.clone();
    file.write_all(bytes.as_ref()).map_err(io(&target, "cannot write"))?;
    file.commit()
}

/// A buffered writer whose content appears under its name only on [`AtomicFile::commit`].
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Start writing; parent folders are created.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_path_buf();
        make_parent(&target)?;
        let temporary = temporary(&target);
        let file = File::create(&temporary).map_err(io(&temporary, "cannot create"))?;
        Ok(Self { target, temporary, writer: Some(BufWriter::with_capacity(1 << 18, file)) })
    }

    /// Flush, fsync and rename to the final name.
    pub fn commit(mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(|e| io(&self.target, "cannot write")(e.into_error()))?;
            file.sync_all().map_err(io(&self.target, "cannot flush"))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(io(&self.target, "cannot rename into place"))?;
        sync_parent(&self.target);
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match &mut self.writer {
            Some(w) => w.write(buf),
            None => Err(std::io::Error::other("already committed")),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// A folder that appears under its name, whole, only on [`AtomicDir::commit`].
#[derive(Debug)]
pub struct AtomicDir {
    target: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl AtomicDir {
    /// Start a folder; a leftover of a killed run is removed first.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_path_buf();
        make_parent(&target)?;
        let temporary = temporary(&target);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(io(&temporary, "cannot remove leftover"))?;
        }
        fs::create_dir(&temporary).map_err(io(&temporary, "cannot create folder"))?;
        Ok(Self { target, temporary, committed: false })
    }

    /// Where to write files until the commit.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Put the folder in its place; an older folder of that name is replaced.
    pub fn commit(mut self) -> Result<()> {
        for entry in walk(&self.temporary)? {
            File::open(&entry).and_then(|f| f.sync_all()).map_err(io(&entry, "cannot flush"))?;
        }
        let old = self.target.with_file_name(format!(".tmp-old-{}", self.target.file_name().unwrap_or_default().to_string_lossy()));
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io(&old, "cannot remove leftover"))?;
        }
        if self.target.exists() {
            fs::rename(&self.target, &old).map_err(io(&self.target, "cannot move aside"))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(io(&self.target, "cannot rename into place"))?;
        sync_parent(&self.target);
        self.committed = true;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io(&old, "cannot remove the replaced folder"))?;
        }
        Ok(())
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Remove a folder, if it is there, so that a crash on the way leaves no half of it under its name.
pub fn remove_dir(path: &Path) -> Result<()> {
    let old = path.with_file_name(format!(".tmp-old-{}", path.file_name().unwrap_or_default().to_string_lossy()));
    for leftover in [true, false] {
        if !leftover && path.exists() {
            fs::rename(path, &old).map_err(io(path, "cannot move aside"))?;
        }
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io(&old, "cannot remove"))?;
        }
    }
    Ok(())
}

/// All regular files below `dir`, sorted by path, temporary files left out.
pub fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).map_err(io(&dir, "cannot list"))? {
            let entry = entry.map_err(io(&dir, "cannot list"))?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                continue;
            }
            let kind = entry.file_type().map_err(io(&path, "cannot stat"))?;
            if kind.is_dir() {
                stack.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_leaves_the_old_content_and_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.txt");
        write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_removed_folder_takes_its_leftover_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (target, leftover) = (dir.path().join("step-1"), dir.path().join(".tmp-old-step-1"));
        for path in [&target, &leftover] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        }
        remove_dir(&target).unwrap();
        remove_dir(&target).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        for name in ["first", "second"] {
            let new = AtomicDir::create(&target).unwrap();
            fs::write(new.path().join(name), name).unwrap();
            new.commit().unwrap();
        }
        let names: Vec<_> = walk(&target).unwrap();
        assert_eq!(names, [target.join("second")]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the replaced folder must be gone");
    }
}
