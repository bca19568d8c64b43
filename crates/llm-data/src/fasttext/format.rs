//! The file format, versions 11 and 12, little-endian: header, settings, dictionary, input matrix, output matrix.

use super::dictionary::{Dictionary, Entry};
use super::matrix::{CENTROIDS, Dense, Matrix, Quantised, Quantiser};
use super::{Args, Loss, Model};
use std::io::Read;

const MAGIC: i32 = 793_712_314;
const VERSION: i32 = 12;
const SUPERVISED: i32 = 3;
/// Longest n-gram that is believed; the reference's users take 1 to 6.
const MAX_NGRAM: i32 = 64;

type Result<T, E = String> = std::result::Result<T, E>;

/// Bytes of a file, of which `left` are still to come.
struct Source<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Source<R> {
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.expect(N as u64, what)?;
        self.reader.read_exact(&mut out).map_err(|e| format!("{what}: {e}"))?;
        self.left -= N as u64;
        Ok(out)
    }

    fn i32(&mut self, what: &str) -> Result<i32> {
        Ok(i32::from_le_bytes(self.bytes(what)?))
    }

    fn i64(&mut self, what: &str) -> Result<i64> {
        Ok(i64::from_le_bytes(self.bytes(what)?))
    }

    fn flag(&mut self, what: &str) -> Result<bool> {
        match self.bytes::<1>(what)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{what} is {other}, expected 0 or 1; the file is damaged")),
        }
    }

    /// An error before anything of that size is allocated.
    fn expect(&self, bytes: u64, what: &str) -> Result<()> {
        if bytes > self.left {
            return Err(format!("{what} would take {bytes} bytes, but {} are left; the file is truncated or damaged: fetch it again", self.left));
        }
        Ok(())
    }

    fn many(&mut self, n: usize, what: &str) -> Result<Vec<u8>> {
        self.expect(n as u64, what)?;
        let mut out = vec![0; n];
        self.reader.read_exact(&mut out).map_err(|e| format!("{what}: {e}"))?;
        self.left -= n as u64;
        Ok(out)
    }

    fn floats(&mut self, n: usize, what: &str) -> Result<Vec<f32>> {
        self.expect((n as u64).saturating_mul(4), what)?;
        let mut out = Vec::with_capacity(n);
        let mut buffer = vec![0u8; 1 << 16];
        while out.len() < n {
            let bytes = (4 * (n - out.len())).min(buffer.len());
            self.reader.read_exact(&mut buffer[..bytes]).map_err(|e| format!("{what}: {e}"))?;
            out.extend(buffer[..bytes].chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        }
        self.left -= 4 * n as u64;
        Ok(out)
    }

    /// Up to and without the next zero byte.
    fn word(&mut self) -> Result<Box<[u8]>> {
        let mut word = Vec::new();
        loop {
            match self.bytes::<1>("a word of the vocabulary")?[0] {
                0 => return Ok(word.into_boxed_slice()),
                b => word.push(b),
            }
        }
    }
}

fn size(value: i64, what: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| format!("{what} is {value}, expected a size; the file is damaged"))
}

/// Read a model of `length` bytes.
pub(super) fn read(reader: impl Read, length: u64) -> Result<Model> {
    let mut s = Source { reader, left: length };
    let (magic, version) = (s.i32("the header")?, s.i32("the header")?);
    if magic != MAGIC {
        return Err(format!("no fastText model: it begins with {magic:#x}, expected {MAGIC:#x}; give the .bin or .ftz of a supervised model"));
    }
    if !(11..=VERSION).contains(&version) {
        return Err(format!("fastText format {version}, expected 11 or 12; save the model with fastText 0.1 or newer"));
    }
    let args = args(&mut s, version)?;
    let dictionary = dictionary(&mut s, &args)?;
    let quantised = s.flag("the mark of quantisation")?;
    let input = matrix(&mut s, quantised, "the input matrix")?;
    let quantised_output = s.flag("the mark of a quantised output")?;
    let output = matrix(&mut s, quantised && quantised_output, "the output matrix")?;
    if s.left > 0 {
        return Err(format!("{} bytes follow the model; the file is damaged", s.left));
    }
    check(&args, &dictionary, &input, &output)?;
    Model::new(args, dictionary, input, output, quantised_output)
}

fn args<R: Read>(s: &mut Source<R>, version: i32) -> Result<Args> {
    let mut next = || s.i32("the settings");
    let mut args = Args {
        dim: next()?,
        ws: next()?,
        epoch: next()?,
        min_count: next()?,
        neg: next()?,
        word_ngrams: next()?,
        loss: match next()? {
            1 => Loss::Hs,
            2 => Loss::Ns,
            3 => Loss::Softmax,
            4 => Loss::Ova,
            other => return Err(format!("loss {other} is unknown, expected 1 to 4; the file is damaged")),
        },
        model: next()?,
        bucket: next()?,
        minn: next()?,
        maxn: next()?,
        lr_update_rate: next()?,
        t: f64::from_le_bytes(s.bytes("the settings")?),
    };
    if args.model != SUPERVISED {
        return Err(format!("model type {}: these are word vectors, no classifier; give a model of `fasttext supervised`", args.model));
    }
    if version == 11 {
        // Old classifiers were saved with a maxn that they did not use.
        args.maxn = 0;
    }
    let small = |value: i32| (0..=MAX_NGRAM).contains(&value);
    if args.dim < 1 || args.bucket < 0 || !small(args.minn) || !small(args.maxn) || !small(args.word_ngrams) {
        return Err(format!(
            "dim {}, bucket {}, minn {}, maxn {}, wordNgrams {}: out of range (n-grams up to {MAX_NGRAM}); the file is damaged",
            args.dim, args.bucket, args.minn, args.maxn, args.word_ngrams
        ));
    }
    Ok(args)
}

fn dictionary<R: Read>(s: &mut Source<R>, args: &Args) -> Result<Dictionary> {
    const WHAT: &str = "the dictionary's header";
    let (entries, words, labels) = (s.i32(WHAT)?, s.i32(WHAT)?, s.i32(WHAT)?);
    let (tokens, pruned) = (s.i64(WHAT)?, s.i64(WHAT)?);
    if words < 0 || labels < 0 || words.checked_add(labels) != Some(entries) {
        return Err(format!("{words} words and {labels} labels do not make {entries} entries; the file is damaged"));
    }
    // A zero byte, a count and a type at least.
    s.expect(10 * entries as u64, "the vocabulary")?;
    let mut all = Vec::with_capacity(entries as usize);
    for i in 0..entries {
        let word = s.word()?;
        let count = s.i64("the vocabulary")?;
        let is_label = s.flag("the type of an entry")?;
        if is_label != (i >= words) {
            return Err(format!("entry {i} of the vocabulary is of the wrong type; expected {words} words, then {labels} labels"));
        }
        all.push(Entry { word, count, is_label });
    }
    let pruned = match pruned {
        -1 => None,
        n => {
            let n = size(n, "the number of kept n-grams")?;
            s.expect((n as u64).saturating_mul(8), "the kept n-grams")?;
            Some((0..n).map(|_| Ok((s.i32("the kept n-grams")?, s.i32("the kept n-grams")?))).collect::<Result<Vec<_>>>()?)
        }
    };
    Dictionary::new(all, tokens, pruned, args)
}

fn matrix<R: Read>(s: &mut Source<R>, quantised: bool, what: &str) -> Result<Matrix> {
    let has_norms = quantised && s.flag(what)?;
    let (rows, columns) = (size(s.i64(what)?, what)?, size(s.i64(what)?, what)?);
    if !quantised {
        let n = rows.checked_mul(columns).ok_or_else(|| format!("{what} has {rows} x {columns} numbers; the file is damaged"))?;
        return Ok(Matrix::Dense(Dense { rows, columns, data: s.floats(n, what)? }));
    }
    let n = size(s.i32(what)?.into(), what)?;
    let codes = s.many(n, what)?;
    let quantiser = quantiser(s, what)?;
    if quantiser.dim != columns || rows.checked_mul(quantiser.parts) != Some(codes.len()) {
        return Err(format!(
            "{what}: {} codes for {rows} rows of {columns} numbers in {} parts of a vector of {}; the file is damaged",
            codes.len(),
            quantiser.parts,
            quantiser.dim
        ));
    }
    let norms = if has_norms {
        let codes = s.many(rows, what)?;
        let norms = self::quantiser(s, what)?;
        if norms.dim != 1 {
            return Err(format!("{what}: norms of {} numbers, expected 1; the file is damaged", norms.dim));
        }
        Some((codes, norms))
    } else {
        None
    };
    Ok(Matrix::Quantised(Quantised { rows, columns, codes, quantiser, norms }))
}

fn quantiser<R: Read>(s: &mut Source<R>, what: &str) -> Result<Quantiser> {
    let mut next = || s.i32(what).and_then(|v| size(v.into(), what));
    let (dim, parts, width, last_width) = (next()?, next()?, next()?, next()?);
    let fits = dim > 0 && width > 0 && parts == dim.div_ceil(width) && last_width == dim - (parts - 1) * width;
    if !fits {
        return Err(format!("{what}: {parts} parts of {width} (last {last_width}) do not make a vector of {dim}; the file is damaged"));
    }
    let centroids = s.floats(dim.saturating_mul(CENTROIDS), what)?;
    Ok(Quantiser { dim, parts, width, last_width, centroids })
}

/// Every row that a text can ask for must be there.
fn check(args: &Args, dictionary: &Dictionary, input: &Matrix, output: &Matrix) -> Result<()> {
    let hashed = match &dictionary.pruned {
        Some(kept) => {
            if kept.iter().any(|(_, place)| *place < 0) {
                return Err("a kept n-gram has a negative row; the file is damaged".into());
            }
            kept.iter().map(|(_, place)| *place as usize + 1).max().unwrap_or(0)
        }
        None if args.maxn > 0 || args.word_ngrams > 1 => args.bucket as usize,
        None => 0,
    };
    let (rows, labels, dim) = (dictionary.words() + hashed, dictionary.labels(), args.dim as usize);
    for (name, matrix, rows) in [("input", input, rows), ("output", output, labels)] {
        if matrix.columns() != dim || matrix.rows() < rows {
            return Err(format!(
                "the {name} matrix is {} x {}, expected at least {rows} x {dim} for this vocabulary; the file is damaged",
                matrix.rows(),
                matrix.columns()
            ));
        }
    }
    if output.rows() != labels {
        return Err(format!("the output matrix has {} rows for {labels} labels; the file is damaged", output.rows()));
    }
    Ok(())
}

/// The bytes of the file.
pub(super) fn write(model: &Model) -> Vec<u8> {
    let mut out = Vec::new();
    let Args { dim, ws, epoch, min_count, neg, word_ngrams, loss, model: kind, bucket, minn, maxn, lr_update_rate, t } = model.args;
    let header = [MAGIC, VERSION, dim, ws, epoch, min_count, neg, word_ngrams, loss as i32, kind, bucket, minn, maxn, lr_update_rate];
    header.iter().for_each(|v| out.extend(v.to_le_bytes()));
    out.extend(t.to_le_bytes());
    let d = &model.dictionary;
    for v in [d.entries.len(), d.words(), d.labels()] {
        out.extend((v as i32).to_le_bytes());
    }
    out.extend(d.tokens.to_le_bytes());
    out.extend(d.pruned.as_ref().map_or(-1, |p| p.len() as i64).to_le_bytes());
    for entry in &d.entries {
        out.extend(&entry.word);
        out.push(0);
        out.extend(entry.count.to_le_bytes());
        out.push(u8::from(entry.is_label));
    }
    for (bucket, place) in d.pruned.iter().flatten() {
        out.extend(bucket.to_le_bytes());
        out.extend(place.to_le_bytes());
    }
    out.push(u8::from(model.is_quantised()));
    write_matrix(&model.input, &mut out);
    out.push(u8::from(model.quantised_output));
    write_matrix(&model.output, &mut out);
    out
}

fn write_matrix(matrix: &Matrix, out: &mut Vec<u8>) {
    if let Matrix::Quantised(m) = matrix {
        out.push(u8::from(m.norms.is_some()));
    }
    for v in [matrix.rows(), matrix.columns()] {
        out.extend((v as i64).to_le_bytes());
    }
    match matrix {
        Matrix::Dense(m) => m.data.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Matrix::Quantised(m) => {
            out.extend((m.codes.len() as i32).to_le_bytes());
            out.extend(&m.codes);
            write_quantiser(&m.quantiser, out);
            if let Some((codes, norms)) = &m.norms {
                out.extend(codes);
                write_quantiser(norms, out);
            }
        }
    }
}

fn write_quantiser(q: &Quantiser, out: &mut Vec<u8>) {
    for v in [q.dim, q.parts, q.width, q.last_width] {
        out.extend((v as i32).to_le_bytes());
    }
    q.centroids.iter().for_each(|v| out.extend(v.to_le_bytes()));
}
