//! Web archives (WARC/1.0, 1.1; plain, gzip, zstd, lz4) through `fastwarc`.
//!
//! Read are `response` records with status 200 and an HTML or plain-text body, `resource` records of those types, and
//! `conversion` records (WET). Truncated and malformed records are skipped and counted: web archives are never clean. A
//! body is read into a buffer of our own with a limit, because a record's `Content-Length` may lie.

use super::format::{Batches, Input, Out};
use super::paths::PathsConfig;
use super::{Outcome, encoding};
use crate::document::Document;
use crate::error::Result;
use crate::extract::extract;
use fastwarc::warc::iter::{ArchiveIterator, ArchiveIteratorOptions};
use fastwarc::warc::record::{AutoDecode, WarcRecord, WarcRecordType};
use std::io::{BufReader, Read};

/// A larger body is not read.
const MAX_BODY: u64 = 32 << 20;
const MAX_HEADER: usize = 32 << 10;
/// After so many failures in a row the rest of the file is given up.
const MAX_FAILURES: usize = 3;

/// A body as it lies in the archive.
struct Raw {
    id: String,
    url: Option<String>,
    kind: WarcRecordType,
    content_type: String,
    http: bool,
    body: Vec<u8>,
}

/// Read one archive; records are `id#n`.
pub fn read(input: Input<'_>, _config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let (id, source) = (input.id, input.source);
    let mut bytes = Vec::new();
    Input::raw(input.body).read_to_end(&mut bytes).map_err(crate::error::io(&input.path, "cannot read"))?;
    let file = BufReader::with_capacity(1 << 18, std::io::Cursor::new(bytes));
    let options = ArchiveIteratorOptions { parse_http: false, quirks_mode: true, max_header_len: MAX_HEADER, ..Default::default() };
    let mut batches = Batches::new(|raw: Result<Raw, Box<Outcome>>| Ok(raw.map_or_else(|skip| vec![*skip], |raw| page(&raw, source))), out);
    let (mut number, mut failures) = (0, 0);
    for record in ArchiveIterator::with_options(file, options) {
        number += 1;
        let id = format!("{id}#{number}");
        let outcome = match record {
            Ok(record) => take(&id, &mut record.borrow_mut()),
            Err(e) => Err(Box::new(Outcome::skip("malformed WARC record", id, e.to_string(), "a WARC/1.x record", ""))),
        };
        match outcome {
            Ok(Some(raw)) => {
                failures = 0;
                batches.push(Ok(raw), 1 << 17)?;
            }
            Ok(None) => failures = 0,
            Err(skip) => {
                failures += usize::from(matches!(&*skip, Outcome::Skip(d, _) if d.step == "malformed WARC record"));
                batches.push(Err(skip), 0)?;
            }
        }
        if failures >= MAX_FAILURES {
            break;
        }
    }
    batches.flush()
}

/// The raw body of a record that may hold a document; `Err` is a skip.
fn take(id: &str, record: &mut WarcRecord) -> Result<Option<Raw>, Box<Outcome>> {
    let kind = record.record_type();
    if !matches!(kind, WarcRecordType::Response | WarcRecordType::Resource | WarcRecordType::Conversion) {
        return Ok(None);
    }
    let header = |name: &str| record.headers().get(name).map(|v| v.trim().trim_matches(['<', '>']).to_string());
    let (url, content_type) = (header("WARC-Target-URI"), header("Content-Type").unwrap_or_default());
    let (http, length) = (record.is_http(), record.content_length());
    if length > MAX_BODY {
        return Err(Box::new(Outcome::skip("record size", id, length, MAX_BODY, "")));
    }
    let mut body = Vec::new();
    let read = match record.reader_mut() {
        Some(reader) => reader.take(MAX_BODY).read_to_end(&mut body),
        None => Ok(0),
    };
    match read {
        Err(e) => Err(Box::new(Outcome::skip("malformed WARC record", id, e.to_string(), "a readable body", ""))),
        Ok(n) if (n as u64) < length => Err(Box::new(Outcome::skip("truncated WARC record", id, n, length, ""))),
        Ok(_) => Ok(Some(Raw { id: id.to_string(), url, kind, content_type, http, body })),
    }
}

fn page(raw: &Raw, source: &str) -> Vec<Outcome> {
    let id = raw.id.as_str();
    let (content_type, charset, payload) = match raw.http.then(|| http(&raw.body)) {
        None => (raw.content_type.clone(), None, raw.body.clone()),
        Some(Err(e)) => return vec![Outcome::skip("malformed HTTP", id, e, "an HTTP response", "")],
        Some(Ok(http)) if http.status != Some(200) => {
            return vec![Outcome::skip("HTTP status", id, http.status.unwrap_or_default(), 200, "")];
        }
        Some(Ok(http)) => (http.content_type, http.charset, http.payload),
    };
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let html = match media.as_str() {
        "text/html" | "application/xhtml+xml" => true,
        "text/plain" => false,
        "" if payload.trim_ascii_start().first() == Some(&b'<') => true,
        _ if raw.kind == WarcRecordType::Conversion => false,
        _ => return vec![Outcome::skip("media type", id, media, "text/html or text/plain", "")],
    };
    let charset = charset.or_else(|| if html { encoding::html_charset(&payload) } else { None });
    let Some(decoded) = encoding::decode(&payload, charset.as_deref()) else {
        return vec![Outcome::skip("binary", id, "NUL bytes", "text", "")];
    };
    let (text, extractor, canonical) = if html {
        let page = extract(&decoded.text);
        (page.text, Some(page.extractor), page.url)
    } else {
        (decoded.text, None, None)
    };
    if text.trim().is_empty() {
        return vec![Outcome::skip("no main text", id, 0, 1, "")];
    }
    let url = raw.url.clone().or(canonical);
    let document = Document { id: id.to_string(), text, source: source.to_string(), url, domain: "web".into(), ..Document::default() };
    let mut outcomes = vec![Outcome::Keep(document)];
    outcomes.extend(extractor.map(|e| Outcome::Count(e.name(), 1)));
    outcomes
}

struct Http {
    status: Option<u16>,
    content_type: String,
    charset: Option<String>,
    payload: Vec<u8>,
}

/// Parse an HTTP response with its transfer and content encodings; a damaged encoding falls back to the raw body.
fn http(body: &[u8]) -> Result<Http, String> {
    let parse = |decode: AutoDecode| -> Result<Http, String> {
        let mut record = WarcRecord::new();
        record.set_is_http(true);
        record.set_bytes_payload(body.to_vec());
        record.parse_http_with_opts(decode, MAX_HEADER, true).map_err(|e| e.to_string())?;
        let status = record.http_headers().and_then(|h| h.status_code());
        let content_type = record.http_headers().and_then(|h| h.get("Content-Type")).map(|v| v.to_string()).unwrap_or_default();
        let charset = content_type.to_ascii_lowercase().split("charset=").nth(1).map(|c| c.trim_matches(['"', '\'', ' ', ';']).to_string());
        let mut payload = Vec::new();
        if let Some(reader) = record.reader_mut() {
            reader.take(MAX_BODY).read_to_end(&mut payload).map_err(|e| e.to_string())?;
        }
        Ok(Http { status, content_type, charset, payload })
    };
    parse(AutoDecode::All).or_else(|_| parse(AutoDecode::None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_http_response_is_taken_apart() {
        let body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHallo\r\n0\r\n\r\n";
        let parsed = http(body).unwrap();
        assert_eq!((parsed.status, parsed.charset.as_deref(), parsed.payload.as_slice()), (Some(200), Some("iso-8859-1"), &b"Hallo"[..]));
    }

    proptest! {
        #[test]
        fn any_body_is_an_answer(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = http(&body);
            let mut response = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
            response.extend_from_slice(&body);
            let _ = http(&response);
        }
    }
}
