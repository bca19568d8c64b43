//! An HTTP response as it lies in an archive: status, fields, and the body without its transfer and content encodings.
//!
//! Crawlers often store the body already decoded and leave the header as it was. So an encoding that the bytes do not have is
//! no error: a body that is not chunked, or not gzip, is taken as it is. One that begins as encoded and breaks off is kept as
//! far as it goes when something of it could be decoded. No encoding grows a body beyond the limit.

use super::archive::{Headers, MAX_BODY};
use std::borrow::Cow;
use std::io::Read;

/// Encodings on top of each other that are undone.
const MAX_ENCODINGS: usize = 4;

/// A response.
#[derive(Debug)]
pub struct Http<'a> {
    /// `None` when the status line is unreadable.
    pub status: Option<u16>,
    /// Header fields.
    pub headers: Headers,
    /// The body, decoded.
    pub body: Cow<'a, [u8]>,
    /// The body broke off within an encoding, or was larger than the limit.
    pub cut: bool,
}

/// Take a response apart.
pub fn parse(bytes: &[u8]) -> Result<Http<'_>, &'static str> {
    if !bytes.starts_with(b"HTTP/") {
        return Err("no status line");
    }
    let window = &bytes[..bytes.len().min(1 << 20)];
    let (header, body_at) = memchr::memchr_iter(b'\n', window)
        .find_map(|at| match &window[at + 1..] {
            [b'\n', ..] => Some((at, at + 2)),
            [b'\r', b'\n', ..] => Some((at, at + 3)),
            _ => None,
        })
        .ok_or("no end of the header")?;
    let lines = &bytes[..header];
    let first = lines.iter().position(|b| *b == b'\n').unwrap_or(lines.len());
    let status = String::from_utf8_lossy(&lines[..first]).split_whitespace().nth(1).and_then(|s| s.parse().ok());
    let headers = Headers::parse(&lines[first..]);
    let mut body = Cow::Borrowed(&bytes[body_at..]);
    let mut cut = false;
    if headers.get("Transfer-Encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"))
        && let Some((joined, complete)) = dechunk(&body)
    {
        body = Cow::Owned(joined);
        cut |= !complete;
    }
    let encodings = headers.get("Content-Encoding").unwrap_or_default().to_ascii_lowercase();
    for encoding in encodings.split(',').map(str::trim).rev().filter(|e| !e.is_empty()).take(MAX_ENCODINGS) {
        if let Some((decoded, complete)) = decode(encoding, &body) {
            body = Cow::Owned(decoded);
            cut |= !complete;
        }
    }
    Ok(Http { status, headers, body, cut })
}

/// The chunks joined, and whether the last one was there; `None` when the first line is no chunk size.
fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        let end = memchr::memchr(b'\n', &rest[..rest.len().min(256)]);
        let size = end.and_then(|end| {
            let line = std::str::from_utf8(&rest[..end]).ok()?;
            usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()
        });
        let (Some(end), Some(size)) = (end, size) else {
            // Garbage after chunks: what was joined is kept.
            return (!out.is_empty()).then_some((out, false));
        };
        rest = &rest[end + 1..];
        if size == 0 {
            return Some((out, true));
        }
        let have = size.min(rest.len());
        out.extend_from_slice(&rest[..have]);
        if have < size {
            return Some((out, false));
        }
        rest = &rest[size..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
    }
}

/// The decoded bytes and whether they are all; `None` when nothing could be decoded or the encoding is unknown.
fn decode(encoding: &str, bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let read = |mut reader: Box<dyn Read + '_>| -> Option<(Vec<u8>, bool)> {
        let mut out = Vec::new();
        // `read_to_end` keeps what it read before an error.
        let result = reader.by_ref().take(MAX_BODY as u64 + 1).read_to_end(&mut out);
        let complete = result.is_ok() && out.len() <= MAX_BODY;
        out.truncate(MAX_BODY);
        (!out.is_empty()).then_some((out, complete))
    };
    match encoding {
        "gzip" | "x-gzip" if bytes.starts_with(&[0x1f, 0x8b]) => read(Box::new(flate2::bufread::MultiGzDecoder::new(bytes))),
        // The field says zlib, some servers send raw deflate.
        "deflate" => read(Box::new(flate2::bufread::ZlibDecoder::new(bytes))).or_else(|| read(Box::new(flate2::bufread::DeflateDecoder::new(bytes)))),
        "br" => read(Box::new(brotli_decompressor::Decompressor::new(bytes, 1 << 16))),
        "zstd" if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => {
            let mut decoder = zstd::Decoder::new(bytes).ok()?;
            // RFC 9659: 8 MiB are the most that a browser accepts.
            decoder.window_log_max(23).ok()?;
            read(Box::new(decoder))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn response(fields: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes(), body].concat()
    }

    fn body(fields: &str, bytes: &[u8]) -> (String, bool) {
        let response = response(fields, bytes);
        let http = parse(&response).unwrap();
        (String::from_utf8_lossy(&http.body).into_owned(), http.cut)
    }

    #[test]
    fn every_encoding_is_undone() {
        let text = "Grüße from the archive. ".repeat(20);
        let zlib = {
            let mut e = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(text.as_bytes()).unwrap();
            e.finish().unwrap()
        };
        let raw = {
            let mut e = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(text.as_bytes()).unwrap();
            e.finish().unwrap()
        };
        // Brotli, quality 1, by the reference encoder: "hello brotli\n".
        let brotli = [0x0b, 0x06, 0x80, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x20, 0x62, 0x72, 0x6f, 0x74, 0x6c, 0x69, 0x0a, 0x03];
        let zst = zstd::encode_all(text.as_bytes(), 3).unwrap();
        for (name, bytes) in
            [("gzip", gzip(text.as_bytes())), ("deflate", zlib), ("deflate", raw), ("zstd", zst), ("identity", text.clone().into_bytes())]
        {
            assert_eq!(body(&format!("Content-Encoding: {name}"), &bytes), (text.clone(), false), "{name}");
            let chunked =
                format!("{:x};x=y\r\n", bytes.len()).into_bytes().into_iter().chain(bytes.clone()).chain(*b"\r\n0\r\n\r\n").collect::<Vec<u8>>();
            assert_eq!(body(&format!("content-encoding: {name}\r\nTransfer-Encoding: chunked"), &chunked), (text.clone(), false), "{name} chunked");
        }
        assert_eq!(body("Content-Encoding: br", &brotli).0, "hello brotli\n");
    }

    #[test]
    fn encodings_that_are_not_there_are_no_error_and_cut_ones_are_kept() {
        assert_eq!(body("Transfer-Encoding: chunked", b"<html>not chunked"), ("<html>not chunked".into(), false));
        assert_eq!(body("Content-Encoding: gzip", b"<html>already decoded"), ("<html>already decoded".into(), false));
        assert_eq!(body("Transfer-Encoding: chunked", b"5\r\nHallo\r\nff\r\nWelt"), ("HalloWelt".into(), true));
        let text = (0..4000).map(|i| format!("{i} ")).collect::<String>();
        let zipped = gzip(text.as_bytes());
        let (part, cut) = body("Content-Encoding: gzip", &zipped[..zipped.len() / 2]);
        assert!(cut && text.starts_with(&part) && part.len() > 1000);
    }

    #[test]
    fn a_decompression_bomb_stops_at_the_limit() {
        let zipped = gzip(&vec![b' '; MAX_BODY * 3]);
        let response = response("Content-Encoding: gzip", &zipped);
        let http = parse(&response).unwrap();
        assert!(http.cut && http.body.len() == MAX_BODY);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), encoding in "(gzip|deflate|br|zstd|gzip, br)", chunked: bool) {
            let _ = parse(&bytes);
            let transfer = if chunked { "\r\nTransfer-Encoding: chunked" } else { "" };
            let _ = parse(&response(&format!("Content-Encoding: {encoding}{transfer}"), &bytes));
        }
    }
}
