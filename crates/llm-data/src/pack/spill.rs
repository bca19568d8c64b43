//! Token ids of a whole corpus on disk while their order is decided, with one small index entry per document in memory.

use super::LabelBy;
use crate::document::Document;
use crate::error::{Error, Result, io};
use crate::shards::{Label, Labels};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Token ids on disk, with an index entry per document in memory. The file goes with the value.
pub(super) struct Spill {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    label_by: LabelBy,
    pub entries: Vec<Entry>,
    /// Names of domains, for the summary.
    pub domains: Vec<String>,
    /// Names for the shards.
    pub labels: Labels,
}

pub(super) struct Entry {
    offset: u64,
    /// Tokens.
    pub len: u64,
    pub id: Arc<str>,
    /// Place in [`Spill::domains`].
    pub domain: usize,
    /// Places in [`Spill::labels`].
    pub label: Label,
    pub text_bytes: u64,
}

/// The place of a name in a list, at the end if it is new.
fn place(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_string());
        names.len() - 1
    })
}

/// The same as a number of 16 bits.
fn number(names: &mut Vec<String>, name: &str, what: &str) -> Result<u16> {
    let many = |_| {
        Error::Config(format!("more than 65536 {what}s; shards number them in 16 bits: give documents fewer, or set label_by to the other field"))
    };
    u16::try_from(place(names, name)).map_err(many)
}

impl Spill {
    pub fn create(out: &Path, label_by: LabelBy) -> Result<Self> {
        std::fs::create_dir_all(out).map_err(io(out, "cannot create folder"))?;
        // The name marks it as temporary for everything that walks the folder.
        let path = out.join(".tmp-tokens");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(io(&path, "cannot create"))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { path, file, written: 0, label_by, entries: Vec::new(), domains: Vec::new(), labels: Labels::default() })
    }

    /// Add the ids of a document.
    pub fn push(&mut self, ids: &[u32], document: &Document) -> Result<()> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.file.write_all(&bytes).map_err(io(&self.path, "cannot write (is the disk full?)"))?;
        let domain = place(&mut self.domains, &document.domain);
        let name = match self.label_by {
            LabelBy::Domain => &document.domain,
            LabelBy::Source => &document.source,
        };
        let label = Label {
            domain: number(&mut self.labels.domains, name, "domain")?,
            language: number(&mut self.labels.languages, document.lang.as_deref().unwrap_or_default(), "language")?,
        };
        let (id, text_bytes) = (Arc::from(document.id.as_str()), document.text.len() as u64);
        self.entries.push(Entry { offset: self.written, len: ids.len() as u64, id, domain, label, text_bytes });
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The ids of entry `index`.
    pub fn read(&mut self, index: usize, ids: &mut Vec<u32>) -> Result<()> {
        let entry = &self.entries[index];
        let mut bytes = vec![0; entry.len as usize * 4];
        // Seeking through the writer flushes it first.
        self.file.seek(SeekFrom::Start(entry.offset)).map_err(io(&self.path, "cannot seek"))?;
        self.file.get_mut().read_exact(&mut bytes).map_err(io(&self.path, "cannot read back"))?;
        ids.clear();
        ids.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
        Ok(())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
