//! The user's own files and folders, in any format that [`Format`] knows.
//!
//! Ids start with the name of the folder or file that was given, never with where it lies on this machine. Files of one
//! document are read in parallel; files of many documents are streamed one after the other, their records in parallel.

use super::code::CodeConfig;
use super::format::{Format, Input};
use super::jsonl::OnError;
use super::license_text::Trees;
use super::rows::RowsConfig;
use super::{Outcome, Sink, codec, dataset};
use crate::error::{Error, Result, check_interrupt};
use llm_run::atomic::walk;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Settings of this reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathsConfig {
    /// Files and folders.
    pub include: Vec<PathBuf>,
    /// Files whose id contains one of these are left out.
    pub exclude: Vec<String>,
    /// Name of the text field of JSON, Parquet and Arrow rows.
    pub text_field: String,
    /// The other columns of rows.
    pub rows: RowsConfig,
    /// Source files.
    pub code: CodeConfig,
    /// Markdown: keep only the words of links.
    pub strip_links: bool,
    /// A damaged line, row or record: `fail` or `skip`.
    pub on_error: OnError,
    /// Licence of documents that name none themselves.
    pub license: Option<String>,
    /// Domain of documents that name none themselves; empty: by kind of file.
    pub domain: String,
    /// Larger text, HTML and code files are left out.
    pub max_file_bytes: u64,
}

impl Default for PathsConfig {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            text_field: "text".into(),
            rows: RowsConfig::default(),
            code: CodeConfig::default(),
            strip_links: false,
            on_error: OnError::Fail,
            license: None,
            domain: String::new(),
            max_file_bytes: 256 << 20,
        }
    }
}

impl PathsConfig {
    /// The configured domain, else `kind`.
    pub(super) fn domain_or(&self, kind: &str) -> String {
        if self.domain.is_empty() { kind.to_string() } else { self.domain.clone() }
    }
}

struct Entry {
    path: PathBuf,
    id: String,
    format: Format,
    size: u64,
    license: Option<String>,
    /// Settings of the data set folder it lies in.
    config: Option<std::sync::Arc<PathsConfig>>,
}

/// Files of one document that are held at once, bytes.
const GROUP_BYTES: u64 = 64 << 20;

/// Read everything that `include` names, in that order.
pub fn read(config: &PathsConfig, sink: &mut Sink) -> Result<()> {
    if config.include.is_empty() {
        return Err(Error::Config("paths.include is empty; name at least one file or folder, e.g. --set 'paths.include=[\"my-texts\"]'".into()));
    }
    let entries = list(config)?;
    if entries.is_empty() {
        let names: Vec<String> = config.include.iter().map(|p| p.display().to_string()).collect();
        return Err(Error::Empty(format!("{}: no file in it (after paths.exclude); nothing to read", names.join(", "))));
    }
    for group in entries.chunk_by(|a, b| !a.format.is_container() && !b.format.is_container()) {
        check_interrupt()?;
        if let [entry] = group
            && entry.format.is_container()
        {
            one(entry, config, &mut |outcome| sink.take([outcome]))?;
            continue;
        }
        let mut rest = group;
        while !rest.is_empty() {
            let mut bytes = 0;
            let n = rest.iter().take_while(|e| {
                bytes += e.size;
                bytes <= GROUP_BYTES
            });
            let (now, later) = rest.split_at(n.count().max(1));
            sink.run(now, |entry| {
                let mut outcomes = Vec::new();
                one(entry, config, &mut |outcome| {
                    outcomes.push(outcome);
                    Ok(())
                })?;
                Ok(outcomes)
            })?;
            rest = later;
        }
    }
    Ok(())
}

fn one(entry: &Entry, config: &PathsConfig, out: &mut dyn FnMut(Outcome) -> Result<()>) -> Result<()> {
    let config = entry.config.as_deref().unwrap_or(config);
    let source = source(&entry.id);
    let input = Input { license: entry.license.clone(), ..Input::file(&entry.path, &entry.id, &source)? };
    entry.format.read(input, config, out)
}

fn list(config: &PathsConfig) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut labels = BTreeSet::new();
    for root in &config.include {
        let found = if root.is_dir() {
            walk(root)?
        } else if root.is_file() {
            vec![root.clone()]
        } else {
            return Err(Error::Format { path: root.clone(), message: "no such file or folder; correct paths.include".into() });
        };
        let absolute = std::path::absolute(root).unwrap_or_else(|_| root.clone());
        let name = absolute.file_name().map_or_else(|| "root".to_string(), |n| n.to_string_lossy().into_owned());
        let label = (1..).map(|n| if n == 1 { name.clone() } else { format!("{name}~{n}") }).find(|l| !labels.contains(l)).unwrap_or(name);
        labels.insert(label.clone());
        let trees = Trees::scan(found.iter().map(PathBuf::as_path));
        let set = if root.is_dir() { dataset::Dataset::of(root, &found, config) } else { None };
        for path in found {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            let hidden = relative.split('/').any(|part| part.starts_with('.'));
            let id = if relative.is_empty() { label.clone() } else { format!("{label}/{relative}") };
            if hidden || config.exclude.iter().any(|e| id.contains(e.as_str())) || set.as_ref().is_some_and(|s| !s.holds(&relative)) {
                continue;
            }
            let format = format_of(&path);
            let license = match format {
                Format::Code(_) | Format::Markdown | Format::Text => trees.of(&path).map(str::to_string),
                _ => None,
            };
            let size = std::fs::metadata(&path).map_or(0, |m| m.len());
            entries.push(Entry { format, path, id, size, license, config: set.as_ref().map(|s| s.config.clone()) });
        }
    }
    Ok(entries)
}

/// By name; the file is opened only where the name does not say it.
fn format_of(path: &Path) -> Format {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match Format::of(&name) {
        Format::Unsupported => {
            let decoded = std::fs::File::open(path).ok().and_then(|file| codec::decoded(Box::new(file), &name).ok());
            let head = decoded.map_or_else(Vec::new, |reader| codec::peek(reader, 4096).0);
            Format::of_content(&name, &head)
        }
        known => known,
    }
}

/// `paths/<top folder or file>/<second>`: enough to tell collections apart in a report.
pub(crate) fn source(id: &str) -> String {
    let mut parts: Vec<&str> = id.split('/').take(3).collect();
    if parts.len() > 1 {
        parts.pop();
    }
    format!("paths/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_of_the_same_name_get_different_ids() {
        let dir = tempfile::tempdir().unwrap();
        for parent in ["a", "b"] {
            std::fs::create_dir_all(dir.path().join(parent).join("texts")).unwrap();
            std::fs::write(dir.path().join(parent).join("texts/x.txt"), "x").unwrap();
        }
        let include = vec![dir.path().join("a/texts"), dir.path().join("b/texts")];
        let ids: Vec<String> = list(&PathsConfig { include, ..Default::default() }).unwrap().into_iter().map(|e| e.id).collect();
        assert_eq!(ids, ["texts/x.txt", "texts~2/x.txt"]);
    }
}
