//! Every reader on damaged input: bytes flipped, cut, inserted, repeated and exchanged. Whatever comes, a reader answers with
//! documents and counted skips, in time, and never with a panic.
//!
//! The quick form runs with the tests. The long form is
//! `FUZZ_SECONDS=600 cargo test -p llm-data --test mutation -- --ignored --nocapture`; it keeps the input it is working on in
//! the system's temporary folder (`llm-data-mutation-TARGET.bin`), so that a crash leaves its cause behind.

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use llm_data::document::{Document, DocumentWriter};
use llm_data::read::Outcome;
use llm_data::read::format::{Body, Format, Input};
use llm_data::read::jsonl::OnError;
use llm_data::read::paths::PathsConfig;
use llm_run::Rng;
use llm_run::Seed;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that one small input may take, debug build and a busy machine included.
const SLOW: Duration = Duration::from_secs(20);

struct Target {
    name: &'static str,
    file: &'static str,
    format: Format,
    seeds: Vec<Vec<u8>>,
    /// Pieces that mean something in the format.
    tokens: &'static [&'static str],
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn page(i: usize) -> String {
    format!(
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>Page {i}</title></head><body><nav><a href=/>Home</a></nav><article><h1>Heading {i}</h1>\
         <p>The harbour was quiet that morning, and the ships that had come in overnight lay still &amp; silent.</p><pre><code>let x = {i};</code></pre>\
         <ul><li>one<li>two</ul><table><tr><td>1<td>2</table></article><footer>Imprint</footer></body></html>"
    )
}

fn warc_records() -> Vec<Vec<u8>> {
    (0..4)
        .map(|i| {
            let body = page(i).into_bytes();
            let (encoding, body) = if i % 2 == 0 { ("gzip", gzip(&body)) } else { ("identity", body) };
            let chunked = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let http = [head.as_bytes(), &chunked].concat();
            let warc = format!(
                "WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Target-URI: http://example.org/{i}\r\n\
                 Content-Type: application/http; msgtype=response\r\nContent-Length: {}\r\n\r\n",
                http.len()
            );
            [warc.as_bytes(), &http, b"\r\n\r\n"].concat()
        })
        .collect()
}

fn parquet() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
    for i in 0..40 {
        let date = (i % 2 == 0).then(|| "2024-05-06".to_string());
        writer.push(Document { id: format!("d{i}"), text: format!("text number {i}"), domain: "docs".into(), date, ..Document::default() }).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(dir.path().join("documents/part-00000.parquet")).unwrap()
}

fn arrow(file: bool, compressed: bool) -> Vec<u8> {
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..30).map(|i| format!("text number {i}, long enough to be worth compressing"))));
    let url: ArrayRef = Arc::new((0..30).map(|i| (i % 3 == 0).then(|| format!("https://example.org/{i}"))).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("text", text), ("url", url)]).unwrap();
    let compression = compressed.then_some(arrow_ipc::CompressionType::ZSTD);
    let options = arrow_ipc::writer::IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut bytes = Vec::new();
    if file {
        let mut writer = arrow_ipc::writer::FileWriter::try_new_with_options(&mut bytes, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    } else {
        let mut writer = arrow_ipc::writer::StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }
    bytes
}

const WIKI: &str = "{{Infobox|a=[[B]]|c={{lang|de|Haus}}}}\n'''Ada''' was a [[writer|''w'']].<ref name=x>y</ref>\n\n== Work ==\n* one\n** [https://x.org two]\n{| class=x\n! a\n|-\n| b\n|}\n<math>\\sum_i</math> <!-- c --> <syntaxhighlight>\nx\n</syntaxhighlight>\n[[File:A.jpg|thumb|x]] [[Category:P]]";

const LATEX: &str = "\\documentclass{article}\n\\newcommand{\\R}[1][n]{\\mathbb{R}^{#1}}\\def\\p#1#2{(#1,#2)}\n\\title{A \\emph{t}}\\begin{document}\\section{One}\nLet $x\\in\\R$ and \\p ab. % c\n\\begin{equation}a=b\\label{e}\\end{equation}\n\\begin{itemize}\\item a\\end{itemize}\\begin{verbatim}\n%x\n\\end{verbatim}\\begin{figure}f\\end{figure}\n\\input{part} \\\"o \\verb|y| \\[ z \\]\\end{document}";

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/part.tex", "folder".repeat(30));
    let files: [(&str, &[u8]); 3] = [("main.tex", LATEX.as_bytes()), ("part.tex", b"\\section{Two} text"), (&long, b"x")];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    // Readers look for `ustar`, which both forms of the header hold.
    builder.into_inner().unwrap()
}

fn targets() -> Vec<Target> {
    let wiki = |i: usize| {
        format!(
            "<page><title>T{i}</title><ns>0</ns><revision><timestamp>2024-01-01T00:00:00Z</timestamp><text>{}</text></revision></page>",
            WIKI.replace('&', "&amp;").replace('<', "&lt;")
        )
    };
    let dump =
        format!("<mediawiki xml:lang=\"en\"><siteinfo><base>https://en.wikipedia.org/wiki/M</base></siteinfo>{}{}</mediawiki>", wiki(1), wiki(2));
    let rows = "{\"text\": \"one\", \"url\": \"https://x.org\", \"date\": \"2024-05-06\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Q\"}]}\n{\"content\": \"fn f() {}\", \"lang\": \"Rust\", \"licenses\": [\"MIT\"]}\n";
    let book = "Title: X\nRelease Date: May 6, 2007 [EBook #12]\nLanguage: English\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nProduced by Y\n\nChapter I\n\nText.\n\nEnd of the Project Gutenberg EBook of X\n";
    let markdown = "---\ntitle: x\ndate: 2024-05-06\n---\n# A\n[b](https://c.org) `d`\n```\ne\n```\n";
    let code = "#!/usr/bin/env python3\n# SPDX-License-Identifier: MIT\nimport os\n\ndef f(x):\n    return x + 1\n";
    let target = |name, file, format, seeds, tokens| Target { name, file, format, seeds, tokens };
    vec![
        target(
            "warc",
            "a.warc.gz",
            Format::Warc,
            vec![
                warc_records().concat(),
                warc_records().iter().flat_map(|r| gzip(r)).collect(),
                warc_records().iter().flat_map(|r| zstd::encode_all(r.as_slice(), 1).unwrap()).collect(),
            ],
            &[
                "WARC/1.0\r\n",
                "\r\n\r\n",
                "Content-Length: 99999999999\r\n",
                "Content-Length: -1\r\n",
                "\u{1f}",
                "HTTP/1.1 200 OK\r\n",
                "ffffffffffffffff\r\n",
                "\n",
            ],
        ),
        target("parquet", "a.parquet", Format::Parquet, vec![parquet()], &["PAR1", "\u{0}\u{0}\u{0}\u{0}", "text"]),
        target(
            "arrow",
            "a.arrow",
            Format::Arrow,
            vec![arrow(false, false), arrow(true, false), arrow(false, true)],
            &["ARROW1\u{0}\u{0}", "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}"],
        ),
        target(
            "jsonl",
            "a.jsonl",
            Format::JsonLines,
            vec![rows.into(), gzip(rows.as_bytes())],
            &["{", "}", "\"", "[", "\n", "\\ud800", "null", "1e999", "{\"text\":"],
        ),
        target("json", "a.json", Format::Json, vec![format!("[{}]", rows.trim().replace('\n', ",")).into()], &["[", "{", "\"", ",", "]"]),
        target(
            "html",
            "a.html",
            Format::Html,
            vec![page(1).into_bytes()],
            &[
                "<div>",
                "</div>",
                "<table>",
                "<a>",
                "<b>",
                "<p>",
                "<!--",
                "<script>",
                "</script>",
                "<svg>",
                "<math>",
                "<template>",
                "<select>",
                "&#x110000;",
                "<main>",
                "<pre>",
                "\u{0}",
            ],
        ),
        target(
            "wikitext",
            "wiki.xml",
            Format::Wiki,
            vec![dump.into_bytes()],
            &[
                "{{",
                "}}",
                "[[",
                "]]",
                "{|",
                "|}",
                "|",
                "''",
                "==",
                "&lt;ref&gt;",
                "&lt;/ref&gt;",
                "&lt;math&gt;",
                "<page>",
                "</page>",
                "<text>",
                "&#0;",
                "\n",
                "&lt;!--",
            ],
        ),
        target(
            "latex",
            "a.tex",
            Format::Latex,
            vec![LATEX.as_bytes().to_vec()],
            &[
                "\\begin{figure}",
                "\\end{figure}",
                "\\newcommand{\\a}{\\a\\a}",
                "\\a",
                "$",
                "$$",
                "{",
                "}",
                "[",
                "]",
                "%",
                "\\",
                "\\section{",
                "\\verb|",
                "\\def\\b#1{#1#1}\\b",
                "\\begin{verbatim}",
            ],
        ),
        target("tar", "2401.01234.tar.gz", Format::Latex, vec![tar(), gzip(&tar())], &["ustar", "\u{0}", "77777777777", "main.tex", "L"]),
        target(
            "gutenberg",
            "a.txt",
            Format::Text,
            vec![book.into()],
            &["*** START OF THIS PROJECT GUTENBERG X ***\n", "End of Project Gutenberg\n", "\n\n", "Chapter I\n", "[Transcriber's Note"],
        ),
        target("markdown", "a.md", Format::Markdown, vec![markdown.into()], &["---\n", "[", "](", ")", "`", "```\n", "!["]),
        target("code", "a.py", Format::Code("python"), vec![code.into()], &["SPDX-License-Identifier:", "#!", "\n", "// ", "@generated"]),
    ]
}

fn mutate(target: &Target, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = rng.pick(&target.seeds).clone();
    for _ in 0..1 + rng.below(6) {
        let n = bytes.len().max(1);
        let at = rng.below(n).min(bytes.len());
        match rng.below(8) {
            0 if at < bytes.len() => bytes[at] = rng.below(256) as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + rng.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let most = if rng.below(20) == 0 { 3000 } else { 4 };
                let times = 1 + rng.below(most);
                bytes.splice(at..at, rng.pick(target.tokens).as_bytes().repeat(times));
            }
            5 => {
                let end = (at + 1 + rng.below(200)).min(bytes.len());
                let piece = bytes[at..end].repeat(1 + rng.below(30));
                bytes.splice(at..at, piece);
            }
            6 if at + 8 <= bytes.len() => {
                // Lengths and offsets: extreme numbers of either width.
                let value = *rng.pick(&[0u64, 1, u64::MAX, i64::MAX as u64, 1 << 31, 1 << 32, 1 << 40]);
                let width = if rng.below(2) == 0 { 4 } else { 8 };
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            _ => {
                let other = rng.pick(&target.seeds);
                let from = rng.below(other.len());
                let to = (from + rng.below(500)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
        bytes.truncate(1 << 20);
    }
    bytes
}

/// Documents and skips.
fn read(target: &Target, bytes: Vec<u8>) -> Result<(usize, usize), llm_data::Error> {
    let config = PathsConfig { on_error: OnError::Skip, ..PathsConfig::default() };
    let input = Input { body: Body::Random(Arc::new(bytes)), ..Input::stream(target.file, std::io::empty()) };
    let (mut kept, mut skipped, mut size) = (0, 0, 0);
    target.format.read(input, &config, &mut |outcome| {
        match outcome {
            Outcome::Keep(document) => {
                kept += 1;
                size += document.text.len();
                assert!(!document.id.is_empty());
            }
            Outcome::Skip(drop, _) => {
                skipped += 1;
                if std::env::var_os("FUZZ_SHOW").is_some() {
                    eprintln!("{drop:?}");
                }
                assert!(!drop.step.is_empty() && drop.id.starts_with(target.file), "{drop:?}");
            }
            Outcome::Count(..) => {}
        }
        Ok(())
    })?;
    // The largest honest growth is HTTP's 32 MiB per record.
    assert!(size < 512 << 20, "{}: {size} bytes of text", target.name);
    Ok((kept, skipped))
}

fn run(target: &Target, seed: u64, seconds: f64, least: usize) {
    let started = Instant::now();
    let keep = std::env::temp_dir().join(format!("llm-data-mutation-{}.bin", target.name));
    let mut rng = Seed(seed).stream(target.name).rng();
    let (mut runs, mut kept, mut skipped, mut slowest) = (0usize, 0, 0, Duration::ZERO);
    while runs < least || started.elapsed().as_secs_f64() < seconds {
        let bytes = mutate(target, &mut rng);
        if seconds > 0.0 {
            std::fs::write(&keep, &bytes).unwrap();
        }
        let start = Instant::now();
        let answer = read(target, bytes);
        let took = start.elapsed();
        slowest = slowest.max(took);
        assert!(took < SLOW, "{}: run {runs} took {took:?}; its input is {}", target.name, keep.display());
        match answer {
            Ok((k, s)) => (kept, skipped) = (kept + k, skipped + s),
            Err(error) => panic!("{}: run {runs} of seed {seed}: {error}", target.name),
        }
        runs += 1;
    }
    if seconds > 0.0 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_string();
        println!(
            "{}: {runs} runs in {:.0} s, {kept} documents, {skipped} skips, slowest {slowest:.1?}, peak memory {peak}",
            target.name,
            started.elapsed().as_secs_f64()
        );
        let _ = std::fs::remove_file(&keep);
    }
}

#[test]
fn the_seeds_are_read() {
    for target in targets() {
        for seed in &target.seeds {
            let (kept, skipped) = read(&target, seed.clone()).unwrap();
            assert!(kept > 0 && skipped == 0, "{}: {kept} documents, {skipped} skips", target.name);
        }
    }
}

/// What the long form found once stays here: `FUZZ_FILE` runs one kept input against `FUZZ_TARGET`.
#[test]
#[ignore = "needs FUZZ_FILE and FUZZ_TARGET"]
fn one_kept_input() {
    let file = std::env::var("FUZZ_FILE").expect("FUZZ_FILE names the input");
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the reader");
    let target = targets().into_iter().find(|t| t.name == name).expect("a known target");
    println!("{:?}", read(&target, std::fs::read(file).unwrap()));
}

#[test]
fn damaged_input_is_counted() {
    for target in targets() {
        run(&target, 1, 0.0, 60);
    }
}

/// `FUZZ_TARGET` names one target, `FUZZ_SECONDS` (60) is for each.
#[test]
#[ignore = "long; see the header"]
fn damaged_input_for_as_long_as_asked() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60.0);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let only = std::env::var("FUZZ_TARGET").ok();
    for target in targets().iter().filter(|t| only.as_deref().is_none_or(|o| o == t.name)) {
        run(target, seed, seconds, 1);
    }
}
