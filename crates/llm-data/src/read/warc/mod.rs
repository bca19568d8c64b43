//! Web archives: WARC and WET, plain, gzip, zstd or lz4, without an index.
//!
//! [`stream`] decompresses and finds the way on after damage, [`archive`] makes records of the bytes, [`http`] takes responses
//! apart; here a record becomes a document. Read are `response` records with status 200 and an HTML or plain-text body,
//! `resource` records of those types, and `conversion` records (WET). Specification: WARC 1.1 (ISO 28500), and the practice of
//! Common Crawl, wget, Heritrix and warcio.

pub mod archive;
pub mod http;
pub mod stream;

use super::format::{Batches, Input, Out};
use super::paths::PathsConfig;
use super::{Outcome, dates, encoding};
use crate::document::Document;
use crate::error::{Result, io};
use crate::extract::extract;
use archive::{Archive, Damage, Headers, Record};
use std::borrow::Cow;

fn kind(headers: &Headers) -> String {
    headers.get("WARC-Type").unwrap_or_default().to_ascii_lowercase()
}

/// Records that may hold a document.
fn is_wanted(headers: &Headers) -> bool {
    matches!(kind(headers).as_str(), "response" | "resource" | "conversion")
}

/// Read one archive; records are `id#n`, counted from 1 with those that are no documents.
pub fn read(input: Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let Input { id, source, path, license, body } = input;
    let base = Document {
        source: source.to_string(),
        license: license.or_else(|| config.license.clone()),
        domain: config.domain_or("web"),
        ..Document::default()
    };
    let archive = open(Input::raw(body), id).map_err(io(&path, "cannot read"))?;
    let job = |(number, record): (u64, Result<Record, Damage>)| {
        let id = format!("{id}#{number}");
        Ok(match record {
            Ok(record) => page(&record, Document { id, ..base.clone() }),
            Err(damage) => vec![Outcome::skip(damage.step, id, at(damage.offset, damage.detail), "a readable WARC record", "")],
        })
    };
    let mut batches = Batches::new(job, out);
    for (number, record) in (1..).zip(archive) {
        match &record {
            Ok(record) if !is_wanted(&record.headers) => {}
            _ => {
                let bytes = record.as_ref().map_or(0, |r| r.body.len());
                batches.push((number, record), bytes)?;
            }
        }
    }
    batches.flush()
}

/// Which records have their bodies read.
pub type Wanted = fn(&Headers) -> bool;

/// The records of an archive with the bodies of those that may hold a document.
pub fn open(reader: super::codec::Bytes, name: &str) -> std::io::Result<Archive<Wanted>> {
    let stream = stream::Stream::new(reader, name)?;
    let compressed = stream.is_compressed();
    Ok(Archive::new(stream, compressed, is_wanted as Wanted))
}

fn at(offset: u64, what: impl std::fmt::Display) -> String {
    format!("at byte {offset}: {what}")
}

/// A record as a document, or why not.
fn page(record: &Record, mut document: Document) -> Vec<Outcome> {
    let headers = &record.headers;
    let id = document.id.clone();
    let skip = |step: &str, value: String, threshold: &str| vec![Outcome::skip(step, id.as_str(), at(record.offset, value), threshold, "")];
    let mut outcomes = Vec::new();
    let own_type = headers.get("Content-Type").unwrap_or_default();
    let is_conversion = kind(headers) == "conversion";
    let (content_type, body) = if own_type.to_ascii_lowercase().starts_with("application/http") {
        match http::parse(&record.body) {
            Err(e) => return skip("malformed HTTP", e.to_string(), "an HTTP response"),
            Ok(http) if http.status != Some(200) => {
                return skip("HTTP status", http.status.map_or_else(|| "unreadable".to_string(), |s| s.to_string()), "200");
            }
            Ok(http) => {
                outcomes.extend(http.cut.then_some(Outcome::Count("HTTP bodies that break off", 1)));
                (http.headers.get("Content-Type").unwrap_or_default().to_string(), http.body)
            }
        }
    } else {
        (own_type.to_string(), Cow::Borrowed(record.body.as_slice()))
    };
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_html = match media.as_str() {
        "text/html" | "application/xhtml+xml" => true,
        "text/plain" => false,
        "" if body.trim_ascii_start().first() == Some(&b'<') => true,
        _ if is_conversion => false,
        _ => return skip("media type", media, "text/html or text/plain"),
    };
    let declared = charset(&content_type).or_else(|| if is_html { encoding::html_charset(&body) } else { None });
    let Some(decoded) = encoding::decode(&body, declared.as_deref()) else { return skip("binary", "NUL bytes".into(), "text") };
    let uri = headers.get("WARC-Target-URI").map(|u| u.trim_matches(['<', '>', ' ']).to_string());
    document.url = uri.filter(|u| !u.is_empty());
    document.date = headers.get("WARC-Date").and_then(dates::iso);
    if is_html {
        let page = extract(&decoded.text);
        document.url = document.url.or(page.url);
        document.text = page.text;
        outcomes.push(Outcome::Count(page.extractor.name(), 1));
    } else {
        document.text = decoded.text;
    }
    if document.text.trim().is_empty() {
        return skip("no main text", "0 characters".into(), "1");
    }
    if headers.get("WARC-Truncated").is_some() {
        outcomes.push(Outcome::Count("records that the crawler truncated", 1));
    }
    outcomes.push(Outcome::Keep(document));
    outcomes
}

fn charset(content_type: &str) -> Option<String> {
    let lower = content_type.to_ascii_lowercase();
    let value = lower.split_once("charset=")?.1.split(';').next()?.trim().trim_matches(['"', '\'']).to_string();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    fn record(n: usize, body: &str) -> Vec<u8> {
        format!("WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <urn:uuid:{n}>\r\nWARC-Date: 2024-05-06T07:08:09Z\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}\r\n\r\n", body.len()).into_bytes()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn all(bytes: Vec<u8>, name: &str) -> Vec<Result<String, Damage>> {
        let records = open(Box::new(Cursor::new(bytes)), name).unwrap();
        records.map(|r| r.map(|r| String::from_utf8_lossy(&r.body).into_owned())).collect()
    }

    fn bodies(n: usize) -> Vec<String> {
        // Hardly compressible, so that damage hits data rather than a table.
        (0..n).map(|i| (0..200).map(|k| format!("{:x}", (i * 7919 + k * 104_729) ^ (k << 7))).collect::<String>()).collect()
    }

    #[test]
    fn the_same_records_in_every_compression() {
        let bodies = bodies(5);
        let records: Vec<Vec<u8>> = bodies.iter().enumerate().map(|(i, b)| record(i, b)).collect();
        let plain = records.concat();
        let per_record = records.iter().flat_map(|r| gzip(r)).collect();
        let blocks = plain.chunks(100).flat_map(gzip).collect();
        let frames = records.iter().flat_map(|r| zstd::encode_all(r.as_slice(), 3).unwrap()).collect();
        let dictionary = plain.clone();
        let mut with_dictionary = [&[0x5d, 0x2a, 0x4d, 0x18], &(dictionary.len() as u32).to_le_bytes()[..], &dictionary].concat();
        for r in &records {
            let mut encoder = zstd::bulk::Compressor::with_dictionary(3, &dictionary).unwrap();
            with_dictionary.extend(encoder.compress(r).unwrap());
        }
        let cases: [(&str, Vec<u8>); 6] = [
            ("a.warc", plain.clone()),
            ("a.warc.gz", per_record),
            ("one.gz", gzip(&plain)),
            ("blocks.gz", blocks),
            ("a.warc.zst", frames),
            ("d.warc.zst", with_dictionary),
        ];
        for (name, bytes) in cases {
            assert_eq!(all(bytes, name).into_iter().collect::<Result<Vec<_>, _>>().unwrap(), bodies, "{name}");
        }
    }

    #[test]
    fn one_damaged_member_costs_one_record_and_says_where() {
        let bodies = bodies(6);
        let zstd = |bytes: &[u8]| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        for encode in [&gzip as &dyn Fn(&[u8]) -> Vec<u8>, &zstd] {
            let members: Vec<Vec<u8>> = bodies.iter().enumerate().map(|(i, b)| encode(&record(i, b))).collect();
            let offset: usize = members[..2].iter().map(Vec::len).sum();
            for cut in [false, true] {
                let mut damaged = members.clone();
                if cut {
                    let half = damaged[2].len() / 2;
                    damaged[2].truncate(half);
                } else {
                    damaged[2][150] ^= 0x55;
                    damaged[2][151] ^= 0xaa;
                }
                let read = all(damaged.concat(), "a.warc.gz");
                let good: Vec<&String> = read.iter().filter_map(|r| r.as_ref().ok()).filter(|b| bodies.contains(b)).collect();
                assert_eq!(good.len(), 5, "cut {cut}: {read:?}");
                let damage: Vec<u64> = read.iter().filter_map(|r| r.as_ref().err()).map(|d| d.offset).collect();
                assert!(damage.contains(&(offset as u64)), "{damage:?}, expected {offset}");
            }
        }
    }

    #[test]
    fn lying_lengths_do_not_swallow_the_next_record() {
        let plain = [record(0, "first"), record(1, "second"), record(2, "third")].concat();
        let text = String::from_utf8(plain).unwrap();
        for (lie, step) in [
            ("Content-Length: 900", "truncated WARC record"),
            ("Content-Length: 2", "malformed WARC record"),
            ("Content-Length: x", "malformed WARC record"),
        ] {
            let read = all(text.replacen("Content-Length: 6", lie, 1).into_bytes(), "a.warc");
            let good: Vec<&str> = read.iter().filter_map(|r| r.as_deref().ok()).collect();
            assert!(good.contains(&"first") && good.contains(&"third"), "{lie}: {read:?}");
            assert!(read.iter().filter_map(|r| r.as_ref().err()).any(|d| d.step == step), "{lie}: {read:?}");
        }
    }

    #[test]
    fn a_member_that_never_ends_is_given_up() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        write!(encoder, "WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 900000000\r\n\r\n").unwrap();
        let zeros = vec![0u8; 1 << 20];
        for _ in 0..300 {
            encoder.write_all(&zeros).unwrap();
        }
        let bytes = [encoder.finish().unwrap(), gzip(&record(1, "after it"))].concat();
        let read = all(bytes, "a.warc.gz");
        assert!(matches!(&read[0], Err(d) if d.step == "record size"), "{:?}", read[0]);
        assert_eq!(read.last().unwrap().as_deref().ok(), Some("after it"));
    }

    #[test]
    fn responses_become_documents_with_address_and_date() {
        let http = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\nGr\u{fc}\u{df}e";
        let latin: Vec<u8> = http.chars().map(|c| c as u8).collect();
        let head = format!(
            "WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: <http://example.org/>\r\nWARC-Date: 2024-05-06T07:08:09Z\r\nContent-Type: application/http;msgtype=response\r\nContent-Length: {}\r\n\r\n",
            latin.len()
        );
        let bytes = [head.as_bytes(), &latin, b"\r\n\r\n"].concat();
        let mut kept = Vec::new();
        read(Input::stream("a.warc", Cursor::new(bytes)), &PathsConfig::default(), &mut |o| {
            if let Outcome::Keep(d) = o {
                kept.push(d);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(
            (kept[0].text.as_str(), kept[0].url.as_deref(), kept[0].date.as_deref()),
            ("Grüße", Some("http://example.org/"), Some("2024-05-06T07:08:09Z"))
        );
    }
}
