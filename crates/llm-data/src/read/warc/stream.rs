//! The bytes of an archive, decompressed member by member, with the place of every member.
//!
//! Archives are compressed one record to a member (or frame) so that a reader can start anywhere. This keeps that property
//! for damaged files: when a member does not decompress, the next one is looked for by its magic number and by whether it
//! begins with `WARC/`, and reading goes on there.

use super::super::codec::{self, Bytes, Codec};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, Read};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Compressed bytes read at once.
const CHUNK: usize = 1 << 18;
/// Compressed bytes of a member that are kept, so that the search after damage can begin at its start.
const KEEP: usize = 4 << 20;
/// A member may grow to this size whatever its ratio.
const BOMB_BYTES: u64 = 256 << 20;
/// Beyond that size it may have grown by this much.
const BOMB_RATIO: u64 = 200;
/// Bytes of a candidate that are decompressed to see whether it is a record.
const TRIAL: usize = 16;

/// What happened when more bytes were asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were added.
    Data,
    /// A new member begins at this place of the file; what is added next belongs to it.
    Member(u64),
    /// The rest of a member is lost: at this place of the file, for this reason. Reading goes on behind it.
    Damage(u64, String),
    /// Nothing is left.
    End,
}

enum Member {
    Gzip(Decompress),
    Zstd(Decoder<'static>),
}

/// Decompressed bytes of an archive.
pub struct Stream {
    source: Source,
    codec: Codec,
    dictionary: Option<Vec<u8>>,
    member: Option<Member>,
    scratch: Vec<u8>,
    /// Where the current member began, what it has consumed and produced.
    start: u64,
    consumed: u64,
    produced: u64,
    /// Bytes were promised by the name or the magic number, none were found so far.
    plain: Option<Bytes>,
    ended: bool,
}

/// A buffered source that remembers what it gave since `mark`.
struct Source {
    reader: Bytes,
    buffer: Vec<u8>,
    at: usize,
    /// Place of `buffer[0]` in the file.
    base: u64,
    eof: bool,
    failure: Option<String>,
}

impl Source {
    fn place(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Read on; bytes before `keep_from` (a place in the file) may be forgotten.
    fn fill(&mut self, keep_from: u64) {
        let keep = usize::try_from(keep_from.saturating_sub(self.base)).unwrap_or(0).min(self.at);
        let keep = if self.at - keep > KEEP { self.at } else { keep };
        if keep > CHUNK || keep == self.buffer.len() {
            self.buffer.drain(..keep);
            self.base += keep as u64;
            self.at -= keep;
        }
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[before..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let n = read.unwrap_or_else(|e| {
            self.failure = Some(e.to_string());
            0
        });
        self.buffer.truncate(before + n);
        self.eof |= n == 0;
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }
}

impl Stream {
    /// Any archive; the codec is known by the first bytes.
    pub fn new(reader: Bytes, name: &str) -> io::Result<Self> {
        let (head, reader) = codec::peek(reader, 8);
        let codec = Codec::of_magic(&head).unwrap_or(Codec::Plain);
        let mut source = Source { reader: Box::new(io::empty()), buffer: Vec::new(), at: 0, base: 0, eof: false, failure: None };
        let mut plain = None;
        match codec {
            Codec::Gzip | Codec::Zstd => source.reader = reader,
            // lz4 and bzip2 are decoded as one stream; so is a file whose first bytes are damaged beyond recognition.
            _ if head.starts_with(b"WARC") || codec != Codec::Plain => plain = Some(codec.open(reader)?),
            _ => match Codec::of_name(name).0 {
                Codec::Gzip | Codec::Zstd => source.reader = reader,
                _ => plain = Some(reader),
            },
        }
        let codec = if plain.is_none() && codec == Codec::Plain { Codec::of_name(name).0 } else { codec };
        let mut stream =
            Self { source, codec, dictionary: None, member: None, scratch: vec![0; CHUNK], start: 0, consumed: 0, produced: 0, plain, ended: false };
        if codec == Codec::Zstd && stream.plain.is_none() {
            stream.read_dictionary();
        }
        Ok(stream)
    }

    /// `.warc.zst` files may begin with their dictionary in a skippable frame, itself compressed or not.
    fn read_dictionary(&mut self) {
        const MAX: usize = 16 << 20;
        self.source.fill(0);
        let Some([0x5d, 0x2a, 0x4d, 0x18, a, b, c, d]) = self.source.rest().first_chunk::<8>().copied() else { return };
        let size = u32::from_le_bytes([a, b, c, d]) as usize;
        while size <= MAX && self.source.rest().len() < 8 + size && !self.source.eof {
            self.source.fill(0);
        }
        let Some(bytes) = self.source.rest().get(8..8 + size) else { return };
        let dictionary = match Codec::of_magic(bytes) {
            Some(Codec::Zstd) => {
                let mut out = Vec::new();
                let decoded = zstd::Decoder::new(bytes).and_then(|d| d.take(MAX as u64).read_to_end(&mut out));
                decoded.ok().map(|_| out)
            }
            _ => Some(bytes.to_vec()),
        };
        self.dictionary = dictionary;
        self.source.at += 8 + size;
    }

    fn decoder(&self) -> Option<Member> {
        match self.codec {
            Codec::Gzip => Some(Member::Gzip(Decompress::new_gzip(15))),
            _ => match &self.dictionary {
                Some(dictionary) => Decoder::with_dictionary(dictionary),
                None => Decoder::new(),
            }
            .ok()
            .map(Member::Zstd),
        }
    }

    /// Members have places of their own; else places are those of the decompressed bytes.
    pub fn is_compressed(&self) -> bool {
        self.plain.is_none()
    }

    /// Add some bytes to `out`, or say what else happened.
    pub fn more(&mut self, out: &mut Vec<u8>) -> Event {
        if let Some(plain) = &mut self.plain {
            return read_plain(plain, out, &mut self.consumed, &mut self.ended);
        }
        loop {
            if self.ended {
                return Event::End;
            }
            if self.source.rest().is_empty() && !self.source.eof {
                self.source.fill(if self.member.is_some() { self.start } else { u64::MAX });
                continue;
            }
            if self.source.rest().is_empty() {
                self.ended = true;
                let why = match (self.source.failure.take(), &self.member) {
                    (Some(failure), _) => failure,
                    (None, Some(_)) => "ends within a compressed record".to_string(),
                    (None, None) => return Event::End,
                };
                return Event::Damage(self.start, why);
            }
            if self.member.is_none() {
                // Zeros between members and at the end of a file are padding.
                let zeros = self.source.rest().iter().take_while(|b| **b == 0).count();
                self.source.at += zeros;
                if self.source.rest().is_empty() {
                    continue;
                }
                self.member = self.decoder();
                (self.start, self.consumed, self.produced) = (self.source.place(), 0, 0);
                return Event::Member(self.start);
            }
            match self.step(out) {
                Ok(true) => return Event::Data,
                Ok(false) => {}
                Err(why) => {
                    let place = self.start;
                    self.resynchronise();
                    return Event::Damage(place, why);
                }
            }
        }
    }

    /// Decompress once; true when bytes were added.
    fn step(&mut self, out: &mut Vec<u8>) -> Result<bool, String> {
        let input = &self.source.buffer[self.source.at..];
        let member = self.member.as_mut().ok_or("no memory for a decoder")?;
        let (result, used, made) = run(member, input, &mut self.scratch);
        out.extend_from_slice(&self.scratch[..made]);
        self.source.at += used;
        self.consumed += used as u64;
        self.produced += made as u64;
        let done = result?;
        if used == 0 && made == 0 {
            // Also when it says that it is done: an empty member would begin at the same place for ever.
            return Err("the decoder does not go on".into());
        }
        if done {
            self.member = None;
        }
        if self.produced > BOMB_BYTES && self.produced / self.consumed.max(1) > BOMB_RATIO {
            self.member = None;
            return Err(format!("decompression bomb: {} bytes became {}", self.consumed, self.produced));
        }
        Ok(made > 0)
    }

    /// Go to the next member that begins like a record.
    fn resynchronise(&mut self) {
        self.member = None;
        // Always behind the start: a decoder that used nothing of its input would find the same member for ever.
        if let Some(from) = (self.start + 1).checked_sub(self.source.base) {
            self.source.at = usize::try_from(from).unwrap_or(usize::MAX).min(self.source.buffer.len());
        }
        let magic: &[u8] = if self.codec == Codec::Gzip { &[0x1f, 0x8b, 8] } else { &[0x28, 0xb5, 0x2f, 0xfd] };
        loop {
            while let Some(at) = memchr::memmem::find(self.source.rest(), magic) {
                self.source.at += at;
                // A candidate near the end of the buffer needs more bytes to be judged.
                if self.source.rest().len() < 4096 && !self.source.eof {
                    self.source.fill(self.source.place());
                }
                if self.begins_a_record() {
                    return;
                }
                self.source.at += 1;
            }
            if self.source.eof {
                self.source.at = self.source.buffer.len();
                return;
            }
            self.source.at = self.source.buffer.len().saturating_sub(magic.len() - 1).max(self.source.at);
            self.source.fill(self.source.place());
        }
    }

    fn begins_a_record(&self) -> bool {
        let Some(mut member) = self.decoder() else { return false };
        let mut out = [0; TRIAL];
        let (mut used, mut made) = (0, 0);
        loop {
            let (result, u, m) = run(&mut member, &self.source.rest()[used..], &mut out[made..]);
            used += u;
            made += m;
            if made >= 5 {
                return out.starts_with(b"WARC/");
            }
            if result.is_err() || u == 0 && m == 0 {
                return false;
            }
        }
    }
}

/// `(finished, bytes used, bytes made)`.
fn run(member: &mut Member, input: &[u8], output: &mut [u8]) -> (Result<bool, String>, usize, usize) {
    match member {
        Member::Gzip(decoder) => {
            let (used, made) = (decoder.total_in(), decoder.total_out());
            let result = decoder.decompress(input, output, FlushDecompress::None).map(|s| s == Status::StreamEnd).map_err(|e| e.to_string());
            (result, (decoder.total_in() - used) as usize, (decoder.total_out() - made) as usize)
        }
        Member::Zstd(decoder) => {
            let mut input = InBuffer::around(input);
            let mut output = OutBuffer::around(output);
            let result = decoder.run(&mut input, &mut output).map(|hint| hint == 0).map_err(|e| e.to_string());
            (result, input.pos(), output.pos())
        }
    }
}

fn read_plain(reader: &mut Bytes, out: &mut Vec<u8>, consumed: &mut u64, ended: &mut bool) -> Event {
    if *ended {
        return Event::End;
    }
    if *consumed == 0 {
        *consumed = 1;
        return Event::Member(0);
    }
    let before = out.len();
    out.resize(before + CHUNK, 0);
    let read = loop {
        match reader.read(&mut out[before..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    out.truncate(before + *read.as_ref().unwrap_or(&0));
    match read {
        Ok(0) => {
            *ended = true;
            Event::End
        }
        Ok(n) => {
            *consumed += n as u64;
            Event::Data
        }
        Err(e) => {
            *ended = true;
            Event::Damage(*consumed - 1, e.to_string())
        }
    }
}
