//! `checksums.json` beside the shards: the BLAKE3 of each. A bit that a disk or a copy changed inside the tokens still makes a valid file,
//! and training would learn from it; here it is an error that names the shard.

use crate::error::{Error, Result, io};
use std::collections::BTreeMap;
use std::path::Path;

const NAME: &str = "checksums.json";

/// Of the finished shards in `dir`.
pub(super) fn write(dir: &Path) -> Result<()> {
    let mut checksums = BTreeMap::new();
    for path in super::files(dir)? {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        checksums.insert(name, llm_run::hash::path(&path)?);
    }
    Ok(llm_run::atomic::write(dir.join(NAME), serde_json::to_string_pretty(&checksums).unwrap_or_default() + "\n")?)
}

/// Compare all shards with their checksums; the identity of the folder, or `None` for one that has no checksums.
pub(super) fn verify(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&path, "cannot read")(e)),
    };
    let bad = |path: &Path, message: String| Error::Format { path: path.to_path_buf(), message };
    let checksums: BTreeMap<String, String> = serde_json::from_str(&text)
        .map_err(|e| bad(&path, format!("damaged ({e}); delete it if the shards are good, or run `llm-data pack` again")))?;
    for (name, expected) in &checksums {
        let shard = dir.join(name);
        if llm_run::hash::path(&shard)? != *expected {
            return Err(bad(&shard, format!("its content is not what {NAME} says; the shard is damaged, run `llm-data pack` again")));
        }
    }
    for shard in super::files(dir)? {
        if !checksums.keys().any(|name| dir.join(name) == shard) {
            return Err(bad(&shard, format!("not in {NAME}; one folder must come from one run")));
        }
    }
    Ok(Some(llm_run::hash::bytes(text.as_bytes())))
}
