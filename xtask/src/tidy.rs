//! `cargo xtask tidy`: what a compiler does not hold.
//!
//! - the top level has only its agreed entries
//! - every Rust file opens with a `//!` header and stays below [`MOST_LINES`] lines
//! - no absolute path of somebody's machine
//! - a crate depends only on crates below it ([`ORDER`])
//! - links between the documents lead somewhere

use crate::programs;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Longest file.
const MOST_LINES: usize = 700;
/// Entries of the top level, besides dotfiles and what git ignores.
const TOP: [&str; 9] = ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "rust-toolchain.toml", "crates", "xtask", "docs", "benches"];
/// May be there too.
const TOP_ALSO: [&str; 3] = ["fixtures", "target", "runs"];
/// From the ground up: a crate may use crates of earlier rows only.
const ORDER: [&[&str]; 11] = [
    &["llm-run"],
    &["llm-tokenizer", "llm-tensor"],
    &["llm-data", "llm-moe"],
    &["llm-arch", "llm-verify"],
    &["llm-vision"],
    &["llm-infer"],
    &["llm-eval"],
    &["llm-train"],
    &["llm-align", "llm-serve"],
    &["llm-quant"],
    &["xtask"],
];
/// Crates that xtask and the data crates must never link.
const HEAVY: [&str; 2] = ["burn", "llm-tensor"];
/// Crates that build without the tensor library.
const LIGHT: [&str; 5] = ["llm-run", "llm-tokenizer", "llm-data", "llm-verify", "xtask"];

/// Check the workspace; every finding is a line, and any finding is an error.
pub fn run() -> Result<()> {
    let root = programs::root();
    let findings = check(&root)?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("{} finding{}", findings.len(), crate::term::plural(findings.len()))
}

fn check(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    top_level(root, &mut findings)?;
    let mut files = Vec::new();
    for name in ["crates", "xtask", "docs", "benches", "fixtures", ".ci", ".cargo"] {
        collect(&root.join(name), &mut files)?;
    }
    for name in ["README.md", "Cargo.toml"] {
        files.push(root.join(name));
    }
    files.sort();
    for file in files.iter().filter(|f| f.is_file()) {
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        match extension {
            "rs" => rust_file(&name, &text, &mut findings),
            "md" => links(file, &name, &text, &mut findings),
            _ => {}
        }
        if matches!(extension, "rs" | "md" | "toml" | "sh" | "py" | "yml" | "yaml" | "css" | "") {
            machine_paths(&name, &text, &mut findings);
        }
    }
    dependencies(root, &mut findings)?;
    Ok(findings)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn top_level(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    for name in TOP {
        if !root.join(name).exists() {
            findings.push(format!("{name}: missing at the top level"));
        }
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP.contains(&name.as_str()) && !TOP_ALSO.contains(&name.as_str()) {
            findings.push(format!("{name}: not one of the agreed top-level entries"));
        }
    }
    Ok(())
}

fn rust_file(name: &str, text: &str, findings: &mut Vec<String>) {
    // Attributes such as #![cfg(...)] may stand before the header.
    let first = text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!")).unwrap_or_default();
    if !first.starts_with("//!") {
        findings.push(format!("{name}:1: no `//!` header that says what the file is for"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        findings.push(format!("{name}: {lines} lines; beyond {MOST_LINES} a file is two"));
    }
}

/// Folders that exist on one machine only.
fn machine_paths(name: &str, text: &str, findings: &mut Vec<String>) {
    // Written in halves, so that this file does not find itself.
    let folders = [["/ho", "me/"], ["/Us", "ers/"], ["/ro", "ot/"], ["/wo", "rk/"], ["/mn", "t/"]].map(|p| p.concat());
    for (index, line) in text.lines().enumerate() {
        for folder in &folders {
            let mut from = 0;
            while let Some(at) = line[from..].find(folder.as_str()).map(|i| i + from) {
                from = at + folder.len();
                // Only the start of an absolute path counts, not a part of a longer one or of an address.
                let before = line[..at].chars().next_back();
                if before.is_none_or(|c| matches!(c, ' ' | '"' | '\'' | '`' | '(' | '=' | ':' | '>')) {
                    findings.push(format!("{name}:{}: absolute path {folder}... of one machine", index + 1));
                }
            }
        }
    }
}

/// Relative links `[text](path#anchor)` of a Markdown file.
fn links(file: &Path, name: &str, text: &str, findings: &mut Vec<String>) {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !folder.join(path).exists() {
                findings.push(format!("{name}:{}: link to {path}, which does not exist", index + 1));
            }
        }
    }
}

fn level(name: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&name))
}

fn dependencies(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut manifests: Vec<PathBuf> =
        fs::read_dir(root.join("crates")).into_iter().flatten().flatten().map(|e| e.path().join("Cargo.toml")).collect();
    manifests.push(root.join("xtask/Cargo.toml"));
    manifests.sort();
    for manifest in manifests.iter().filter(|m| m.exists()) {
        let name = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        let table: Table = llm_run::config::table(Some(manifest), &[])?;
        let Some(package) = table.get("package").and_then(|p| p.get("name")).and_then(Value::as_str) else {
            continue;
        };
        let Some(own) = level(package) else {
            findings.push(format!("{name}: {package} has no place in the order of crates (xtask/src/tidy.rs)"));
            continue;
        };
        // Tests may look sideways at a crate of any level below the top; what is shipped may not.
        for used in table.get("dependencies").and_then(Value::as_table).into_iter().flat_map(Table::keys) {
            if level(used).is_some_and(|l| l >= own) {
                findings.push(format!("{name}: {package} must not depend on {used}: dependencies point downward only"));
            }
            if LIGHT.contains(&package) && HEAVY.contains(&used.as_str()) {
                findings.push(format!("{name}: {package} must build without {used}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "rust-toolchain.toml"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        for name in ["crates/llm-data/src", "xtask/src", "docs", "benches"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("xtask/Cargo.toml"), "[package]\nname = \"xtask\"\n").unwrap();
        fs::write(dir.path().join("crates/llm-data/Cargo.toml"), "[package]\nname = \"llm-data\"\n[dependencies]\nllm-run = {}\n").unwrap();
        fs::write(dir.path().join("crates/llm-data/src/lib.rs"), "//! What it is.\n").unwrap();
        dir
    }

    #[test]
    fn a_tidy_workspace_has_no_findings() {
        assert_eq!(check(workspace().path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_rule_finds_its_violation() {
        let dir = workspace();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("notes.txt", "");
        put("crates/llm-data/src/a.rs", "fn a() {}\n");
        put("crates/llm-data/src/b.rs", &format!("//! b\n{}", "\n".repeat(MOST_LINES)));
        put("crates/llm-data/src/c.rs", &format!("//! c\nconst A: &str = \"{}x\";\n", ["/ho", "me/"].concat()));
        put("docs/d.md", "[a](../README.md#top) [b](gone.md) [c](https://x.y/z)\n");
        put("crates/llm-data/Cargo.toml", "[package]\nname = \"llm-data\"\n[dependencies]\nllm-arch = {}\nburn = {}\n");
        fs::remove_file(dir.path().join("LICENSE")).unwrap();
        let findings = check(dir.path()).unwrap().join("\n");
        for expected in [
            "notes.txt: not one",
            "a.rs:1: no `//!`",
            "b.rs: 701 lines",
            "c.rs:2: absolute path",
            "d.md:1: link to gone.md",
            "must not depend on llm-arch",
            "without burn",
            "LICENSE: missing",
        ] {
            assert!(findings.contains(expected), "{expected} not in\n{findings}");
        }
        assert_eq!(findings.lines().count(), 8, "{findings}");
    }
}
