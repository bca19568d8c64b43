//! Compression around a file: gzip, zstd, bzip2, lz4 frames, decoded as a stream.
//!
//! What the first bytes say wins over what the name says: archives are renamed and unpacked along the way more often than
//! their magic numbers are wrong. Files made of several members or frames (`pigz`, `pbzip2`, Wikipedia's multistream dumps,
//! archives with one member per record) are read to the last one.

use std::io::{self, BufRead, BufReader, Read};

/// A boxed source of bytes that may be read on another thread.
pub type Bytes = Box<dyn Read + Send>;

const BUFFER: usize = 1 << 18;
/// Largest zstd window: 128 MiB, what the `zstd` tool itself accepts without `--long`.
const MAX_WINDOW_LOG: u32 = 27;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Plain,
    /// RFC 1952, one member or many.
    Gzip,
    /// RFC 8878, one frame or many.
    Zstd,
    /// bzip2, one stream or many.
    Bzip2,
    /// LZ4 frames.
    Lz4,
}

impl Codec {
    /// By the end of a name; also the name without it.
    pub fn of_name(name: &str) -> (Self, &str) {
        let lower = name.to_ascii_lowercase();
        for (end, codec) in [(".gz", Self::Gzip), (".zst", Self::Zstd), (".bz2", Self::Bzip2), (".lz4", Self::Lz4)] {
            if lower.ends_with(end) {
                return (codec, &name[..name.len() - end.len()]);
            }
        }
        if lower.ends_with(".tgz") {
            return (Self::Gzip, name);
        }
        (Self::Plain, name)
    }

    /// By the first bytes.
    pub fn of_magic(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // Skippable frames are 0x184D2A50 to 0x184D2A5F; a dictionary lies in one at the start of a `.warc.zst`.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Decode `reader`.
    pub fn open(self, reader: impl Read + Send + 'static) -> io::Result<Bytes> {
        Ok(match self {
            Self::Plain => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, reader))),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(reader)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(BufReader::with_capacity(BUFFER, reader))),
            Self::Lz4 => Box::new(Lz4Frames(lz4_flex::frame::FrameDecoder::new(BufReader::with_capacity(BUFFER, reader)))),
        })
    }
}

/// The frame decoder ends with each frame; this goes on to the next one.
struct Lz4Frames<R: Read>(lz4_flex::frame::FrameDecoder<BufReader<R>>);

impl<R: Read> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.0.read(buffer)?;
            if n > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(n);
            }
        }
    }
}

/// Up to `n` first bytes and a reader that starts with them again.
pub fn peek(mut reader: Bytes, n: usize) -> (Vec<u8>, Bytes) {
    let mut head = vec![0; n];
    let mut at = 0;
    let mut failure = None;
    while at < n {
        match reader.read(&mut head[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                failure = Some(e);
                break;
            }
        }
    }
    head.truncate(at);
    let again = io::Cursor::new(head.clone());
    match failure {
        // The error comes again where it came: after the bytes that could be read.
        Some(e) => (head, Box::new(again.chain(Failing(Some(e))))),
        None => (head, Box::new(again.chain(reader))),
    }
}

struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Decode by the first bytes, else by the name. A name that promises compression the bytes do not have is believed only if
/// the bytes look neither like text nor like a tar archive.
pub fn decoded(reader: Bytes, name: &str) -> io::Result<Bytes> {
    let (head, reader) = peek(reader, 512);
    let codec = Codec::of_magic(&head).unwrap_or_else(|| {
        let tar = head.get(257..262) == Some(b"ustar");
        let text = tar || head.iter().take(16).all(|b| *b >= 0x20 || matches!(b, b'\n' | b'\r' | b'\t'));
        if text { Codec::Plain } else { Codec::of_name(name).0 }
    });
    codec.open(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn all(reader: Bytes, name: &str) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decoded(reader, name)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_codec_reads_all_its_members() {
        let bz = |bytes: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let lz4 = |bytes: &[u8]| {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let (one, two) = ("first member, ".repeat(50), "second member");
        for (name, encode) in [("x.gz", &gzip as &dyn Fn(&[u8]) -> Vec<u8>), ("x.bz2", &bz), ("x.lz4", &lz4), ("x.zst", &zst)] {
            let bytes = [encode(one.as_bytes()), encode(two.as_bytes())].concat();
            for name in [name, "renamed"] {
                assert_eq!(all(Box::new(io::Cursor::new(bytes.clone())), name).unwrap(), format!("{one}{two}").as_bytes(), "{name}");
            }
        }
        assert_eq!(all(Box::new(&b"unpacked by hand"[..]), "x.gz").unwrap(), b"unpacked by hand");
        assert!(all(Box::new(&b"\0\x01\x02 not gzip at all"[..]), "x.gz").is_err());
    }

    #[test]
    fn a_failing_source_fails_where_it_failed() {
        let source = (&b"abc"[..]).chain(Failing(Some(io::Error::other("gone"))));
        let (head, mut rest) = peek(Box::new(source), 10);
        assert_eq!(head, b"abc");
        let mut out = Vec::new();
        assert_eq!(rest.read_to_end(&mut out).unwrap_err().to_string(), "gone");
        assert_eq!(out, b"abc");
    }
}
