//! Iterates over the records of web archives and reads every body: the measurement of `benches/peers/warc.py`.
//!
//! `cargo run -p llm-data --example warc_iterate -- [--http] FILE...`; with `--http` responses are also taken apart, their
//! encodings undone. Prints one JSON line.

use llm_data::read::warc::{archive::Archive, http, stream::Stream};
use std::fs::File;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut records, mut damaged, mut bytes, mut is_http) = (0u64, 0u64, 0u64, false);
    for argument in std::env::args().skip(1) {
        if argument == "--http" {
            is_http = true;
            continue;
        }
        let stream = Stream::new(Box::new(File::open(&argument)?), &argument)?;
        let compressed = stream.is_compressed();
        for record in Archive::new(stream, compressed, |_| true) {
            let Ok(record) = record else {
                damaged += 1;
                continue;
            };
            records += 1;
            bytes += match is_http.then(|| http::parse(&record.body)) {
                Some(Ok(response)) => response.body.len() as u64,
                _ => record.body.len() as u64,
            };
        }
    }
    println!("{{\"records\": {records}, \"damaged\": {damaged}, \"bytes\": {bytes}}}");
    Ok(())
}
