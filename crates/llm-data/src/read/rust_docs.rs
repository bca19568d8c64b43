//! The HTML documentation of the installed Rust toolchain: books whole, API pages as a seeded sample.
//!
//! Found through `rustc --print sysroot`. It is there after `rustup component add rust-docs` (part of the default
//! profile); when it is not, the reader says so and the run goes on with the other sources.

use super::{Outcome, Sink};
use crate::document::Document;
use crate::error::{Result, io};
use crate::extract::extract;
use llm_run::Seed;
use llm_run::atomic::walk;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Licence of the Rust documentation.
const LICENSE: &str = "Apache-2.0 OR MIT";

/// Settings of this reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RustDocsConfig {
    /// The folder `share/doc/rust/html`; empty: ask `rustc`.
    pub root: PathBuf,
    /// Read whole.
    pub books: Vec<String>,
    /// Sampled.
    pub api: Vec<String>,
    /// Pages per API crate.
    pub max_api_pages: usize,
    /// Larger pages are left out (the API pages of `Vec` or `Iterator` are megabytes of signatures).
    pub max_page_bytes: u64,
}

impl Default for RustDocsConfig {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Self {
            root: PathBuf::new(),
            books: names(&["book", "reference", "nomicon", "rust-by-example"]),
            api: names(&["std", "core", "alloc"]),
            max_api_pages: 200,
            max_page_bytes: 300_000,
        }
    }
}

fn installed_root() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().ok().filter(|o| o.status.success())?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(sysroot.trim()).join("share/doc/rust/html"))
}

/// Read the books and the sampled API pages.
pub fn read(config: &RustDocsConfig, seed: u64, sink: &mut Sink) -> Result<()> {
    let root = if config.root.as_os_str().is_empty() { installed_root() } else { Some(config.root.clone()) };
    let Some(root) = root.filter(|r| r.is_dir()) else {
        sink.notice("the Rust documentation is not installed (rustup component add rust-docs); going on without it");
        return Ok(());
    };
    let mut pages = Vec::new();
    for book in &config.books {
        let dir = root.join(book);
        if !dir.is_dir() {
            sink.notice(format!("the Rust documentation has no `{book}`; going on without it"));
            continue;
        }
        pages.extend(html_files(&dir)?.into_iter().filter(|p| is_content(p)));
    }
    for name in &config.api {
        let dir = root.join(name);
        if !dir.is_dir() {
            sink.notice(format!("the Rust documentation has no `{name}`; going on without it"));
            continue;
        }
        pages.extend(sample_api(html_files(&dir)?, &root, seed, config.max_api_pages));
    }
    sink.run(&pages, |path| page(path, &root, config.max_page_bytes))
}

fn html_files(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(walk(dir)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "html")).collect())
}

/// Not the single-page print versions, tables of contents and error pages.
fn is_content(path: &Path) -> bool {
    !matches!(path.file_name().and_then(|n| n.to_str()), Some("print.html" | "toc.html" | "404.html" | "SUMMARY.html"))
}

/// The `n` pages with the smallest seeded hash, in path order: a sample that stays nearly the same when pages are added.
fn sample_api(files: Vec<PathBuf>, root: &Path, seed: u64, n: usize) -> Vec<PathBuf> {
    let skipped = |p: &Path| {
        // Thousands of near-identical pages of SIMD intrinsics, and lists without prose.
        let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        p.components().any(|c| matches!(c.as_os_str().to_str(), Some("arch" | "core_arch" | "simd" | "intrinsics")))
            || matches!(name, "all.html" | "sidebar-items.html")
    };
    let mut keyed: Vec<(u64, PathBuf)> = files.into_iter().filter(|p| !skipped(p)).map(|p| (Seed(seed).stream(&relative(&p, root)).0, p)).collect();
    keyed.sort();
    keyed.truncate(n);
    let mut pages: Vec<PathBuf> = keyed.into_iter().map(|(_, p)| p).collect();
    pages.sort();
    pages
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn page(path: &Path, root: &Path, max_bytes: u64) -> Result<Vec<Outcome>> {
    let name = relative(path, root);
    let id = format!("rust-docs/{name}");
    let size = std::fs::metadata(path).map_err(io(path, "cannot read"))?.len();
    if size > max_bytes {
        return Ok(vec![Outcome::skip("page size", id, size, max_bytes, "")]);
    }
    let bytes = std::fs::read(path).map_err(io(path, "cannot read"))?;
    let html = String::from_utf8_lossy(&bytes);
    if html.contains("http-equiv=\"refresh\"") {
        return Ok(vec![Outcome::skip("redirect page", id, "http-equiv=refresh", "", "")]);
    }
    let page = extract(&html);
    if page.text.trim().is_empty() {
        return Ok(vec![Outcome::skip("no main text", id, 0, 1, "")]);
    }
    let collection = name.split('/').next().unwrap_or_default();
    let document = Document {
        id,
        text: page.text,
        source: format!("rust-docs/{collection}"),
        url: Some(format!("https://doc.rust-lang.org/{name}")),
        license: Some(LICENSE.to_string()),
        domain: "docs".to_string(),
        ..Document::default()
    };
    Ok(vec![Outcome::Keep(document), Outcome::Count(page.extractor.name(), 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_stable_and_leaves_out_intrinsics() {
        let root = Path::new("/docs");
        let files: Vec<PathBuf> = (0..50).map(|i| root.join(format!("std/p{i:02}.html"))).collect();
        let a = sample_api(files.clone(), root, 1, 10);
        assert_eq!(a, sample_api(files.iter().rev().cloned().collect(), root, 1, 10), "order of listing must not matter");
        assert_ne!(a, sample_api(files.clone(), root, 2, 10));
        assert_eq!(sample_api(vec![root.join("core/arch/x.html")], root, 1, 10), Vec::<PathBuf>::new());
        assert!(is_content(Path::new("book/ch01.html")) && !is_content(Path::new("book/print.html")));
    }
}
