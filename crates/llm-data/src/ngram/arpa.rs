//! ARPA text: `\data\`, the counts, then the n-grams of each length as `log10 probability TAB words [TAB log10 back-off]`.

use super::model::{Builder, Model};
use super::train::Estimate;
use super::{MAX_ORDER, kenlm};
use crate::error::{Error, Result, io, record};
use llm_run::atomic::AtomicFile;
use std::io::{BufRead, Read, Write};
use std::path::Path;

/// Greatest length of a line: no n-gram comes near it.
const MAX_LINE: u64 = 1 << 20;

struct Lines<'a, R> {
    path: &'a Path,
    reader: R,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<'_, R> {
    fn error(&self, message: impl Into<String>) -> Error {
        record(self.path, format!("line {}", self.number), message)
    }

    /// The next line without its end; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line).map_err(io(self.path, "cannot read"))?;
        if read as u64 == MAX_LINE {
            return Err(self.error("longer than 1 MiB; this is no ARPA file"));
        }
        if read == 0 {
            return Ok(None);
        }
        while self.line.last().is_some_and(u8::is_ascii_whitespace) {
            self.line.pop();
        }
        Ok(Some(&self.line))
    }

    /// The next line that is not empty.
    fn text(&mut self) -> Result<String> {
        loop {
            match self.next()? {
                None => return Err(self.error("the file ends here; it is truncated: fetch it again")),
                Some([]) => {}
                Some(line) => return Ok(String::from_utf8_lossy(line).into_owned()),
            }
        }
    }
}

impl Model {
    /// Read an ARPA file (also `.gz`) or a KenLM binary with probing hash tables.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(io(path, "cannot open"))?;
        let length = file.metadata().map_err(io(path, "cannot read"))?.len();
        let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
        let head = reader.fill_buf().map_err(io(path, "cannot read"))?;
        if head.starts_with(kenlm::MAGIC_START) {
            return kenlm::read(reader, length).map_err(|message| Error::Format { path: path.to_path_buf(), message });
        }
        if head.starts_with(&[0x1F, 0x8B]) {
            let unpacked = std::io::BufReader::with_capacity(1 << 20, flate2::bufread::MultiGzDecoder::new(reader));
            // Text of n-grams shrinks to a third or a fifth; an n-gram is never less than a byte packed.
            return read(path, unpacked, length.saturating_mul(40));
        }
        read(path, reader, length)
    }
}

pub(super) fn read(path: &Path, reader: impl BufRead, length: u64) -> Result<Model> {
    let mut lines = Lines { path, reader, number: 0, line: Vec::new() };
    let first = lines.text()?;
    if first != "\\data\\" {
        return Err(lines.error("expected `\\data\\`; give an ARPA file or a KenLM binary"));
    }
    let mut counts: Vec<u64> = Vec::new();
    let mut header = loop {
        let line = lines.text()?;
        let Some(rest) = line.strip_prefix("ngram ") else { break line };
        let parsed = rest.split_once('=').and_then(|(n, count)| Some((n.trim().parse::<usize>().ok()?, count.trim().parse::<u64>().ok()?)));
        let Some((n, count)) = parsed.filter(|(n, _)| *n == counts.len() + 1) else {
            return Err(lines.error(format!("`{line}`: expected `ngram {}=COUNT`", counts.len() + 1)));
        };
        // A digit, a word and their ends, twice that for two words.
        if count.saturating_mul(2 * n as u64 + 1) > length || count > u64::from(u32::MAX) {
            return Err(lines.error(format!("{count} {n}-grams do not fit into a file of {length} bytes; it is truncated or damaged")));
        }
        counts.push(count);
    };
    if !(2..=MAX_ORDER).contains(&counts.len()) {
        return Err(lines.error(format!("a model of order {}, expected 2 to {MAX_ORDER}", counts.len())));
    }
    let mut builder = Builder::new(&counts, kenlm::MULTIPLIER);
    for (n, count) in (1..).zip(&counts) {
        if header != format!("\\{n}-grams:") {
            return Err(lines.error(format!("`{header}`: expected `\\{n}-grams:`")));
        }
        for _ in 0..*count {
            let line = lines.next()?.unwrap_or_default().to_vec();
            let wrong = |what: &str| lines.error(format!("`{}`: {what}", String::from_utf8_lossy(&line)));
            let mut fields = line.split(|b| *b == b'\t' || *b == b' ').filter(|f| !f.is_empty());
            let number = |field: Option<&[u8]>| {
                let value: Option<f32> = field.and_then(|f| std::str::from_utf8(f).ok()).and_then(|f| f.parse().ok());
                value.filter(|v| !v.is_nan())
            };
            let prob = number(fields.next()).ok_or_else(|| wrong("expected a log10 probability first"))?.clamp(-1e30, 0.0);
            let words: Vec<&[u8]> = fields.by_ref().take(n).collect();
            if words.len() < n {
                return Err(wrong(&format!("expected {n} words")));
            }
            let backoff = match fields.next() {
                None => -0.0,
                field => number(field).ok_or_else(|| wrong("expected a log10 back-off after the words"))?.max(-1e30),
            };
            if fields.next().is_some() || !backoff.is_finite() {
                return Err(wrong(&format!("expected a probability, {n} words and at most a back-off")));
            }
            let value = (prob, if backoff == 0.0 { -0.0 } else { backoff });
            let done = if n == 1 {
                builder.unigram(words[0], value)
            } else {
                let reversed: Vec<u32> = words.iter().rev().map(|w| builder.word(w)).collect();
                builder.ngram(&reversed, value)
            };
            done.map_err(|e| wrong(&e))?;
        }
        header = lines.text()?;
    }
    if header != "\\end\\" {
        return Err(lines.error(format!("`{header}`: expected `\\end\\`")));
    }
    builder.finish().map_err(|e| lines.error(e))
}

impl Estimate {
    /// Write ARPA text.
    pub fn save_arpa(&self, path: &Path) -> Result<()> {
        let mut out = std::io::BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        self.write_arpa(&mut out).map_err(io(path, "cannot write"))?;
        let file = out.into_inner().map_err(|e| io(path, "cannot write")(e.into_error()))?;
        Ok(file.commit()?)
    }

    fn write_arpa(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "\\data\\")?;
        for (n, count) in (1..).zip(self.counts()) {
            writeln!(out, "ngram {n}={count}")?;
        }
        for n in 1..=self.order() {
            writeln!(out, "\n\\{n}-grams:")?;
            for (words, prob, backoff) in self.ngrams(n) {
                write!(out, "{prob}\t")?;
                for (i, word) in words.enumerate() {
                    out.write_all(if i > 0 { b" " } else { b"" })?;
                    out.write_all(word)?;
                }
                match backoff {
                    Some(backoff) => writeln!(out, "\t{backoff}")?,
                    None => writeln!(out)?,
                }
            }
        }
        writeln!(out, "\n\\end\\")
    }
}
