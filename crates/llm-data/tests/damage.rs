//! Damage to container files: any flipped, cut or added byte is a skip or an error, never a panic and never a hang.

use llm_data::document::{Document, DocumentWriter, read_all};
use llm_data::read::jsonl::OnError;
use llm_data::read::{ReadConfig, Source, read};
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;

fn warc() -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..4 {
        let html = format!("<html><body><main><p>Page {i} of the archive, with a sentence that is long enough to be kept.</p></main></body></html>");
        let http = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n{html}", html.len());
        write!(
            out,
            "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-00000000000{i}>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n\
             WARC-Target-URI: http://example.org/{i}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {}\r\n\r\n{http}\r\n\r\n",
            http.len()
        )
        .unwrap();
    }
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn damaged(mut bytes: Vec<u8>, flips: &[(usize, u8)], cut: usize) -> Vec<u8> {
    for (at, value) in flips {
        let n = bytes.len();
        bytes[at % n] = *value;
    }
    bytes.truncate(bytes.len() - cut % bytes.len());
    bytes
}

fn documents_of(name: &str, bytes: &[u8]) -> Result<usize, llm_data::Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    std::fs::write(dir.path().join("z.txt"), "another document").unwrap();
    let mut config = ReadConfig { sources: vec![Source::Paths], ..ReadConfig::default() };
    config.paths.include = vec![dir.path().join(name), dir.path().join("z.txt")];
    config.paths.on_error = OnError::Skip;
    read(&config, &dir.path().join("out")).map(|funnel| funnel.documents_out as usize - 1)
}

fn parquet(dir: &Path) -> Vec<u8> {
    let mut writer = DocumentWriter::create(&dir.join("documents")).unwrap();
    for i in 0..50 {
        writer.push(Document { id: format!("d{i}"), text: format!("text number {i}"), domain: "docs".into(), ..Document::default() }).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(dir.join("documents/part-00000.parquet")).unwrap()
}

#[test]
fn the_undamaged_files_are_read() {
    assert_eq!(documents_of("a.warc", &warc()).unwrap(), 4);
    assert_eq!(documents_of("a.warc.gz", &gzip(&warc())).unwrap(), 4);
}

/// Found by the test below: the footer of this file says that a column starts before the file does.
#[test]
fn a_negative_column_offset_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = parquet(dir.path());
    let path = dir.path().join("documents/part-00000.parquet");
    let mut refused = 0;
    for at in bytes.len().saturating_sub(1500)..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] = 133;
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(read_all(&path).is_err());
    }
    assert!(refused > 100, "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_damaged_archive_loses_pages_and_nothing_else(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6), cut in 0usize..3000, compressed: bool) {
        let (name, bytes) = if compressed { ("a.warc.gz", gzip(&warc())) } else { ("a.warc", warc()) };
        let bytes = damaged(bytes, &flips, if cut < 2000 { cut } else { 0 });
        prop_assert!(documents_of(name, &bytes).is_ok());
    }

    #[test]
    fn a_damaged_parquet_file_is_an_error_or_still_readable(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in 0usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let bytes = damaged(parquet(dir.path()), &flips, if cut < 200 { cut } else { 0 });
        let path = dir.path().join("documents/part-00000.parquet");
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = read_all(&path) {
            prop_assert!(error.to_string().contains("part-00000.parquet"), "{}", error);
        }
    }
}
