//! Sources and READMEs of the registry packages that a `Cargo.toml` depends on.
//!
//! `cargo metadata` says where they are; they are on every machine that has built the workspace. It is asked offline
//! first, so nothing is downloaded for data's sake. The licence is the package's own SPDX expression and must be
//! satisfiable with [`super::license::PERMISSIVE`] alone. Tests, benches, vendored, generated, minified and huge files
//! are left out; what remains is sampled by seeded hash to `max_bytes`, with a cap per package.

use super::license::{PERMISSIVE, is_allowed, normalised};
use super::{Outcome, Sink, encoding};
use crate::document::Document;
use crate::error::{Error, Result, io};
use crate::filter::generated_marker;
use crate::funnel::Drop;
use cargo_metadata::{Metadata, MetadataCommand};
use llm_run::Seed;
use llm_run::atomic::walk;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Settings of this reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CargoSourcesConfig {
    /// The `Cargo.toml` whose dependencies are read.
    pub manifest: PathBuf,
    /// Total size of the sample, bytes.
    pub max_bytes: u64,
    /// At most this much from one package, bytes.
    pub max_package_bytes: u64,
    /// Larger files are left out.
    pub max_file_bytes: u64,
    /// Licences that are fine, SPDX identifiers.
    pub licenses: Vec<String>,
    /// Folder names whose content is left out.
    pub skip_folders: Vec<String>,
}

impl Default for CargoSourcesConfig {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Self {
            manifest: PathBuf::from("Cargo.toml"),
            max_bytes: 16_000_000,
            max_package_bytes: 500_000,
            max_file_bytes: 100_000,
            licenses: names(PERMISSIVE),
            skip_folders: names(&[
                "tests",
                "test",
                "testdata",
                "test_data",
                "test-data",
                "fixtures",
                "snapshots",
                "corpus",
                "fuzz",
                "benches",
                "vendor",
                "vendored",
                "third_party",
                "third-party",
                "generated",
                "gen",
                "tables",
                "target",
                "node_modules",
                "ui",
            ]),
        }
    }
}

struct File {
    path: PathBuf,
    id: String,
    size: u64,
    license: String,
    url: Option<String>,
    readme: bool,
}

/// Read the packages' files.
pub fn read(config: &CargoSourcesConfig, seed: u64, sink: &mut Sink) -> Result<()> {
    let metadata = metadata(&config.manifest)?;
    let mut packages: Vec<_> = metadata.packages.iter().filter(|p| p.source.is_some()).collect();
    packages.sort_by(|a, b| (a.name.as_str(), &a.version).cmp(&(b.name.as_str(), &b.version)));
    let mut files = Vec::new();
    for package in packages {
        let label = format!("{}-{}", package.name, package.version);
        let license = package.license.clone().unwrap_or_else(|| "none given".into());
        if !is_allowed(&license, &config.licenses).unwrap_or(false) {
            sink.take([Outcome::skip("licence", label, license, "permissive licences only", "")])?;
            continue;
        }
        let Some(root) = package.manifest_path.parent().map(|p| p.as_std_path().to_path_buf()).filter(|p| p.is_dir()) else {
            sink.take([Outcome::skip("package not unpacked", label, package.manifest_path.to_string(), "run cargo fetch", "")])?;
            continue;
        };
        for path in walk(&root)? {
            let Some((relative, readme)) = wanted(&path, &root, &config.skip_folders) else { continue };
            let size = std::fs::metadata(&path).map_err(io(&path, "cannot read"))?.len();
            let id = format!("{label}/{relative}");
            files.push(File { path, id, size, license: normalised(&license), url: package.repository.clone(), readme });
        }
    }
    let (chosen, left_out) = sample(files, config, seed);
    sink.take(left_out)?;
    if chosen.is_empty() {
        sink.notice(format!("{}: no registry package with readable sources; going on without them", config.manifest.display()));
    }
    sink.run(&chosen, document)
}

fn host() -> Option<String> {
    let output = Command::new("rustc").arg("-vV").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|l| l.strip_prefix("host: ")).map(str::to_string)
}

/// Offline and locked first; then with the network; the last error is the one to show.
fn metadata(manifest: &Path) -> Result<Metadata> {
    if !manifest.is_file() {
        return Err(Error::Format { path: manifest.to_path_buf(), message: "no such file; set cargo_sources.manifest to a Cargo.toml".into() });
    }
    // Without the platform, cargo would want the packages of every platform to be unpacked.
    let platform: Vec<String> = host().map_or_else(Vec::new, |h| vec!["--filter-platform".into(), h]);
    let mut last = String::new();
    for flags in [&["--offline", "--locked"][..], &["--offline"], &["--locked"], &[]] {
        let mut options = platform.clone();
        options.extend(flags.iter().map(|s| s.to_string()));
        match MetadataCommand::new().manifest_path(manifest).other_options(options).exec() {
            Ok(metadata) => return Ok(metadata),
            Err(e) => last = e.to_string(),
        }
    }
    let line = last.lines().find(|l| l.contains("error")).unwrap_or(&last).trim().to_string();
    Err(Error::Format { path: manifest.to_path_buf(), message: format!("cargo metadata failed ({line}); run `cargo fetch` beside it first") })
}

/// Path inside the package and whether it is the README; `None` for what is not read.
fn wanted(path: &Path, root: &Path, skip: &[String]) -> Option<(String, bool)> {
    let relative = path.strip_prefix(root).ok()?.to_string_lossy().replace('\\', "/");
    let mut parts: Vec<&str> = relative.split('/').collect();
    let name = parts.pop()?;
    if parts.iter().any(|p| p.starts_with('.') || skip.iter().any(|s| s.eq_ignore_ascii_case(p))) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let readme = lower == "readme.md";
    let source = lower.ends_with(".rs")
        && !matches!(lower.as_str(), "tests.rs" | "test.rs" | "build.rs")
        && !lower.ends_with("_test.rs")
        && !lower.ends_with("_tests.rs");
    (readme || source).then_some((relative, readme))
}

/// READMEs and sources in the order of a seeded hash, until the caps are reached; the result is in path order.
fn sample(files: Vec<File>, config: &CargoSourcesConfig, seed: u64) -> (Vec<File>, Vec<Outcome>) {
    let mut keyed: Vec<(bool, u64, File)> = files.into_iter().map(|f| (!f.readme, Seed(seed).stream(&f.id).0, f)).collect();
    keyed.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    let mut per_package: BTreeMap<String, u64> = BTreeMap::new();
    let mut total = 0;
    for (_, _, file) in keyed {
        let package = file.id.split('/').next().unwrap_or_default().to_string();
        let used = per_package.entry(package).or_default();
        let reason = if file.size > config.max_file_bytes {
            Some(("file size", file.size, config.max_file_bytes))
        } else if total + file.size > config.max_bytes {
            Some(("sampled to max_bytes", total, config.max_bytes))
        } else if *used + file.size > config.max_package_bytes {
            Some(("sampled to max_package_bytes", *used, config.max_package_bytes))
        } else {
            None
        };
        match reason {
            Some((step, value, limit)) => {
                let drop = Drop { id: file.id, step: step.into(), value: value.into(), threshold: limit.into(), text: String::new() };
                left_out.push(Outcome::Skip(drop, file.size as usize));
            }
            None => {
                *used += file.size;
                total += file.size;
                chosen.push(file);
            }
        }
    }
    chosen.sort_by(|a, b| a.id.cmp(&b.id));
    (chosen, left_out)
}

fn document(file: &File) -> Result<Vec<Outcome>> {
    let bytes = std::fs::read(&file.path).map_err(io(&file.path, "cannot read"))?;
    let Some(decoded) = encoding::decode(&bytes, None) else {
        return Ok(vec![Outcome::skip("binary", file.id.as_str(), "NUL bytes", "text", "")]);
    };
    let text = decoded.text;
    if !file.readme
        && let Some(marker) = generated_marker(&text)
    {
        return Ok(vec![Outcome::skip("generated file", file.id.as_str(), marker, "no marker in the first lines", &text)]);
    }
    Ok(vec![Outcome::Keep(Document {
        id: file.id.clone(),
        text,
        source: if file.readme { "cargo/readme" } else { "cargo/source" }.to_string(),
        url: file.url.clone(),
        lang: (!file.readme).then(|| "rust".to_string()),
        license: Some(file.license.clone()),
        domain: if file.readme { "readme" } else { "code" }.to_string(),
        ..Document::default()
    })])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str, size: u64, readme: bool) -> File {
        File { path: PathBuf::new(), id: id.into(), size, license: "MIT".into(), url: None, readme }
    }

    #[test]
    fn tests_and_vendored_code_are_not_read() {
        let skip = CargoSourcesConfig::default().skip_folders;
        let root = Path::new("/r/serde-1.0.0");
        let is = |p: &str| wanted(&root.join(p), root, &skip);
        assert_eq!(is("src/lib.rs"), Some(("src/lib.rs".into(), false)));
        assert_eq!(is("README.md"), Some(("README.md".into(), true)));
        for no in ["tests/a.rs", "src/vendor/x.rs", "src/lib_test.rs", "build.rs", "Cargo.toml", ".github/x.rs", "src/a.c"] {
            assert_eq!(is(no), None, "{no}");
        }
    }

    #[test]
    fn the_sample_respects_its_caps_and_prefers_readmes() {
        let config = CargoSourcesConfig { max_bytes: 1000, max_package_bytes: 400, max_file_bytes: 300, ..Default::default() };
        let mut files: Vec<File> = (0..40).map(|i| file(&format!("p{}-1/src/{i}.rs", i % 4), 100, false)).collect();
        files.push(file("p0-1/README.md", 100, true));
        files.push(file("p1-1/src/big.rs", 301, false));
        let (chosen, left_out) = sample(files, &config, 3);
        assert_eq!(chosen.iter().map(|f| f.size).sum::<u64>(), 1000);
        assert!(chosen.iter().any(|f| f.readme));
        for p in 0..4 {
            assert!(chosen.iter().filter(|f| f.id.starts_with(&format!("p{p}-"))).count() <= 4);
        }
        assert_eq!(left_out.len() + chosen.len(), 42);
    }

    #[test]
    fn a_missing_manifest_is_named() {
        let message = metadata(Path::new("nowhere/Cargo.toml")).unwrap_err().to_string();
        assert!(message.contains("nowhere/Cargo.toml") && message.contains("cargo_sources.manifest"), "{message}");
    }
}
