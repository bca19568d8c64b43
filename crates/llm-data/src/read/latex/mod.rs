//! Papers in LaTeX, as arXiv keeps them: one `.tex` file, or a tar archive with the files of a submission, compressed or not;
//! also arXiv's bulk archives, which are tar archives of such files.
//!
//! The main file is found by its `\documentclass`; what it includes is read from the archive (or from beside it, never from
//! above), macros are expanded ([`macros`]) and the rest becomes text ([`text`]) with formulas left as LaTeX. Sizes, numbers of
//! files and depths are bounded.

pub mod macros;
pub mod text;

use super::codec::{self, Bytes};
use super::format::{Input, Out};
use super::paths::PathsConfig;
use super::{Outcome, encoding};
use crate::document::Document;
use crate::error::Result;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

/// Largest file of a submission that is read.
const MAX_FILE: u64 = 8 << 20;
/// Largest submission after decompression.
const MAX_SUBMISSION: u64 = 512 << 20;
/// Text files of a submission.
const MAX_FILES: usize = 2_000;
/// Inclusion of files in files.
const MAX_DEPTH: usize = 8;
/// Size of the text after inclusion.
const MAX_TEXT: usize = 32 << 20;

type Files = BTreeMap<String, String>;

/// Read a paper, or an archive of papers.
pub fn read(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let base = Document { domain: config.domain_or("docs"), ..input.document(String::new(), config) };
    let folder = input.path.parent().filter(|_| input.path.is_file()).map(Path::to_path_buf);
    let decoded = input.decoded()?;
    archive(decoded, input.id, folder.as_deref(), &base, 0, out)
}

fn archive(reader: Bytes, id: &str, folder: Option<&Path>, base: &Document, depth: usize, out: Out<'_>) -> Result<()> {
    let (head, reader) = codec::peek(reader, 512);
    if head.get(257..262) != Some(b"ustar") {
        let mut bytes = Vec::new();
        if let Err(e) = reader.take(MAX_FILE + 1).read_to_end(&mut bytes) {
            return out(Outcome::skip("damaged file", id, format!("after byte {}: {e}", bytes.len()), "readable", ""));
        }
        let Some(source) = source(&bytes) else { return out(Outcome::skip("binary", id, "no text", "LaTeX", "")) };
        let files = BTreeMap::from([("main.tex".to_string(), source)]);
        return out(paper(id, &files, folder, base));
    }
    let mut files = Files::new();
    let mut tar = tar::Archive::new(reader.take(if depth == 0 { u64::MAX } else { MAX_SUBMISSION }));
    let damaged = |e: std::io::Error| Outcome::skip("damaged archive", id, e.to_string(), "a readable tar archive", "");
    let entries = match tar.entries() {
        Ok(entries) => entries,
        Err(e) => return out(damaged(e)),
    };
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            // Members before the damage are good; without the header of this one there is no way to the next.
            Err(e) => {
                out(damaged(e))?;
                break;
            }
        };
        let Some(name) = entry.path().ok().map(|p| p.to_string_lossy().trim_start_matches("./").to_string()) else { continue };
        let lower = name.to_ascii_lowercase();
        let place = entry.raw_file_position();
        if depth == 0 && (lower.ends_with(".gz") || lower.ends_with(".tar")) {
            let inner = format!("{id}/{}", name.rsplit('/').next().unwrap_or(&name));
            let mut bytes = Vec::new();
            let read = entry.by_ref().take(MAX_SUBMISSION / 4).read_to_end(&mut bytes);
            match read.and_then(|_| codec::decoded(Box::new(std::io::Cursor::new(bytes)), &name)) {
                Ok(decoded) => archive(decoded, &inner, None, base, depth + 1, out)?,
                Err(e) => out(Outcome::skip("damaged file", inner, format!("at byte {place}: {e}"), "readable", ""))?,
            }
            continue;
        }
        if [".tex", ".ltx", ".sty"].iter().all(|e| !lower.ends_with(e)) && lower.contains('.')
            || files.len() >= MAX_FILES
            || !entry.header().entry_type().is_file()
        {
            continue;
        }
        let mut bytes = Vec::new();
        match entry.take(MAX_FILE).read_to_end(&mut bytes) {
            Ok(_) => {
                if let Some(source) = source(&bytes) {
                    files.insert(name, source);
                }
            }
            Err(e) => {
                out(Outcome::skip("damaged file", format!("{id}/{name}"), format!("at byte {place}: {e}"), "readable", ""))?;
                break;
            }
        }
    }
    if files.is_empty() && depth == 0 {
        return Ok(());
    }
    out(paper(id, &files, None, base))
}

/// Decoded, without comments.
fn source(bytes: &[u8]) -> Option<String> {
    encoding::decode(bytes, None).map(|d| text::without_comments(&d.text))
}

fn paper(id: &str, files: &Files, folder: Option<&Path>, base: &Document) -> Outcome {
    let Some(main) = main_file(files) else {
        return Outcome::skip("no main file", id, format!("{} text files", files.len()), "one with \\documentclass and \\begin{document}", "");
    };
    let mut whole = String::new();
    let mut open = BTreeSet::new();
    include(main, files, folder, 0, &mut open, &mut whole);
    let body = text::to_text(&macros::expand(&whole));
    if body.trim().is_empty() {
        return Outcome::skip("no text", id, 0, "1 character", "");
    }
    let paper = arxiv_id(id);
    let url = paper.as_ref().map(|(id, _)| format!("https://arxiv.org/abs/{id}"));
    Outcome::Keep(Document { id: id.to_string(), text: body, url, date: paper.map(|(_, date)| date), ..base.clone() })
}

/// The file that is a whole document and is included by no other; of several the one called so, else the longest.
fn main_file(files: &Files) -> Option<&str> {
    let whole = |s: &String| (s.contains("\\documentclass") || s.contains("\\documentstyle")) && s.contains("\\begin{document}");
    let stem = |name: &str| name.rsplit('/').next().unwrap_or(name).split('.').next().unwrap_or_default().to_ascii_lowercase();
    let named = |name: &str| matches!(stem(name).as_str(), "main" | "ms" | "paper" | "article" | "manuscript" | "root");
    let candidates = files.iter().filter(|(_, s)| whole(s));
    candidates.max_by_key(|(name, s)| (named(name), s.len(), std::cmp::Reverse(name.as_str()))).map(|(name, _)| name.as_str())
}

fn include(name: &str, files: &Files, folder: Option<&Path>, depth: usize, open: &mut BTreeSet<String>, out: &mut String) {
    static INPUT: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"\\(?:input|include|subfile|import)\b\s*(?:\{(?P<dir>[^{}\\]{0,200})\}\s*)??(?:\{(?P<a>[^{}\\]{1,200})\}|(?P<b>[A-Za-z0-9_./-]{1,200}))",
        )
        .ok()
    });
    let found = if let Some(text) = files.get(name) { Some(text.clone()) } else { beside(folder, name) };
    let (Some(text), Some(regex)) = (found, INPUT.as_ref()) else { return };
    if !open.insert(name.to_string()) {
        return;
    }
    let mut at = 0;
    for found in regex.captures_iter(&text) {
        let (Some(all), Some(target)) = (found.get(0), found.name("a").or(found.name("b"))) else { continue };
        if out.len() > MAX_TEXT {
            break;
        }
        out.push_str(&text[at..all.start()]);
        at = all.end();
        let target = format!("{}{}", found.name("dir").map_or("", |d| d.as_str()), target.as_str().trim());
        let target = target.trim_start_matches("./");
        if depth + 1 < MAX_DEPTH && !target.split('/').any(|part| part == "..") && !target.starts_with('/') {
            // `\input{a}` means a.tex; paths are relative to the main file.
            let folder_of = name.rsplit_once('/').map_or("", |(f, _)| f);
            let prefix = if folder_of.is_empty() { String::new() } else { format!("{folder_of}/") };
            let names = [format!("{target}.tex"), target.to_string(), format!("{prefix}{target}.tex"), format!("{prefix}{target}")];
            let next = names.iter().find(|n| files.contains_key(*n) || beside(folder, n).is_some());
            if let Some(next) = next {
                include(next, files, folder, depth + 1, open, out);
            }
        }
    }
    out.push_str(&text[at..]);
    open.remove(name);
}

/// A file beside the main one on the disk.
fn beside(folder: Option<&Path>, name: &str) -> Option<String> {
    let path = folder?.join(name);
    if !path.is_file() || !name.ends_with(".tex") {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    source(&bytes)
}

/// `2401.01234` or `math9901001` in a file's name: arXiv's id and the month it stands for.
fn arxiv_id(id: &str) -> Option<(String, String)> {
    static ID: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?:^|/)(?:(?P<new>(?P<y>\d\d)(?P<m>0[1-9]|1[0-2])\.\d{4,5})(?:v\d+)?|(?P<area>[a-z-]{2,9})(?P<old>(?P<oy>\d\d)(?P<om>0[1-9]|1[0-2])\d{3}))(?:\.tar)?(?:\.gz|\.tex|\.tgz)?$").ok()
    });
    let found = ID.as_ref()?.captures(id)?;
    if let Some(new) = found.name("new") {
        return Some((new.as_str().to_string(), format!("20{}-{}", &found["y"], &found["m"])));
    }
    // The old scheme ran from 1991 to 2007.
    let century = if &found["oy"] >= "90" { "19" } else { "20" };
    Some((format!("{}/{}", &found["area"], &found["old"]), format!("{century}{}-{}", &found["oy"], &found["om"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn run(bytes: Vec<u8>, name: &str) -> (Vec<Document>, Vec<String>) {
        let (mut kept, mut skipped) = (Vec::new(), Vec::new());
        read(&mut Input::stream(name, std::io::Cursor::new(bytes)), &PathsConfig::default(), &mut |o| {
            match o {
                Outcome::Keep(d) => kept.push(d),
                Outcome::Skip(d, _) => skipped.push(d.step),
                Outcome::Count(..) => {}
            }
            Ok(())
        })
        .unwrap();
        (kept, skipped)
    }

    const MAIN: &[u8] = b"\\documentclass{article} % comment\n\\newcommand{\\R}{\\mathbb{R}}\n\\title{A \\emph{short} paper}\n\\begin{document}\\maketitle\n\\input{intro}\n\\input{../outside}\\input{main}\nEnd.\n\\end{document}";
    const INTRO: &[u8] = b"\\section{Introduction}\nLet $x \\in \\R$ be given. % gone\n";

    #[test]
    fn a_submission_becomes_one_document() {
        let bytes = tar(&[("intro.tex", INTRO), ("main.tex", MAIN), ("fig.pdf", b"%PDF")]);
        let (kept, _) = run(bytes.clone(), "arxiv/2401.01234.tar.gz");
        assert_eq!(kept[0].text, "# A short paper\n\n## Introduction\n\nLet $x \\in \\mathbb{R}$ be given.\n\nEnd.\n");
        assert_eq!((kept[0].url.as_deref(), kept[0].date.as_deref()), (Some("https://arxiv.org/abs/2401.01234"), Some("2024-01")));
        let bulk = tar(&[("2401/2401.01234.gz", &bytes), ("2401/2401.00002.gz", MAIN), ("2401/2401.00003.pdf", b"%PDF")]);
        let ids: Vec<String> = run(bulk, "arXiv_src_2401_001.tar").0.into_iter().map(|d| d.id).collect();
        assert_eq!(ids, ["arXiv_src_2401_001.tar/2401.01234.gz", "arXiv_src_2401_001.tar/2401.00002.gz"]);
    }

    #[test]
    fn files_beside_the_main_one_are_included_and_parts_are_not_papers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("main.tex"), MAIN).unwrap();
        std::fs::write(dir.path().join("intro.tex"), INTRO).unwrap();
        let mut texts = Vec::new();
        for name in ["main.tex", "intro.tex"] {
            let path = dir.path().join(name);
            let mut input = Input::file(&path, name, "s").unwrap();
            read(&mut input, &PathsConfig::default(), &mut |o| {
                texts.push(match o {
                    Outcome::Keep(d) => d.text,
                    Outcome::Skip(d, _) => d.step,
                    Outcome::Count(..) => String::new(),
                });
                Ok(())
            })
            .unwrap();
        }
        assert!(texts[0].contains("## Introduction") && texts[1] == "no main file", "{texts:?}");
    }

    #[test]
    fn damaged_archives_are_counted() {
        let bytes = tar(&[("intro.tex", INTRO), ("main.tex", MAIN)]);
        assert!(!run(bytes[..700].to_vec(), "a.tar").1.is_empty());
        let mut broken = bytes.clone();
        broken[512 * 2 + 150] ^= 0xff;
        assert!(run(broken, "a.tar").1.contains(&"damaged archive".to_string()));
    }

    #[test]
    fn ids_of_both_schemes() {
        assert_eq!(arxiv_id("x/2401.01234v2.tar.gz"), Some(("2401.01234".into(), "2024-01".into())));
        assert_eq!(arxiv_id("hep-th9901001.gz"), Some(("hep-th/9901001".into(), "1999-01".into())));
        assert_eq!(arxiv_id("x/notes.tex"), None);
    }
}
