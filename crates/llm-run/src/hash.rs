//! BLAKE3 of bytes, files and folders: the identity of everything that flows between stages.

use crate::atomic::walk;
use crate::error::{Result, io};
use std::fs::{self, File};
use std::path::Path;

/// Hex BLAKE3 of a byte string.
pub fn bytes(data: &[u8]) -> String {
    blake3::hash(data).to_hex().to_string()
}

/// Files of a run that only describe it.
pub const DESCRIPTIONS: [&str; 3] = ["metrics.jsonl", "events.jsonl", "report.html"];
/// Folders of a run that are no result.
const INTERMEDIATE: [&str; 2] = ["checkpoints", "tensorboard"];

/// Hex BLAKE3 of a file, or of a folder.
///
/// A folder's hash covers the relative path and content of every file in it in sorted order, except what only describes
/// *how* it was made: `manifest.json`, [`DESCRIPTIONS`], `tensorboard/` and hidden files hold times and paths, `checkpoints/` holds intermediate states.
pub fn path(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    if fs::metadata(path).map_err(io(path, "cannot read"))?.is_file() {
        return file(path).map(|h| h.to_hex().to_string());
    }
    let mut hasher = blake3::Hasher::new();
    for entry in walk(path)? {
        let relative = entry.strip_prefix(path).unwrap_or(&entry).to_string_lossy().replace('\\', "/");
        let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with('.')
            || name == "manifest.json"
            || DESCRIPTIONS.contains(&name)
            || relative.split('/').any(|part| INTERMEDIATE.contains(&part))
        {
            continue;
        }
        hasher.update(&(relative.len() as u64).to_le_bytes());
        hasher.update(relative.as_bytes());
        hasher.update(file(&entry)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn file(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut reader = File::open(path).map_err(io(path, "cannot read"))?;
    std::io::copy(&mut reader, &mut hasher).map_err(io(path, "cannot read"))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_folder_hash_sees_names_and_contents_but_not_bookkeeping() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        let first = super::path(dir.path()).unwrap();
        std::fs::write(dir.path().join("manifest.json"), "{}").unwrap();
        std::fs::write(dir.path().join(".stage.json"), "{}").unwrap();
        std::fs::write(dir.path().join("report.html"), "12:00").unwrap();
        assert_eq!(super::path(dir.path()).unwrap(), first);
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        let renamed = super::path(dir.path()).unwrap();
        assert_ne!(renamed, first);
        std::fs::write(dir.path().join("b"), "2").unwrap();
        assert_ne!(super::path(dir.path()).unwrap(), renamed);
    }
}
