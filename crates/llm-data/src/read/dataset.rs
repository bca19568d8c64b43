//! Folders in the layout of Hugging Face data sets: `data/train-00000-of-00008.parquet`, `README.md` with a YAML head.
//!
//! The README names the licence and the columns (`dataset_info: features:`); the file names carry the split. When the
//! settings leave the text column at its default and the data set has no column of that name, the one string column does.

use super::paths::PathsConfig;
use super::text::front_matter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A data set folder.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The settings for its files.
    pub config: Arc<PathsConfig>,
    splits: Vec<String>,
}

const ROWS: &[&str] = &[".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".arrow"];

impl Dataset {
    /// `None` when the folder is not laid out as one: it has a README with a YAML head and files of rows, or a
    /// `dataset_info.json`.
    pub fn of(root: &Path, files: &[PathBuf], config: &PathsConfig) -> Option<Self> {
        let has_rows = files.iter().any(|f| f.file_name().and_then(|n| n.to_str()).is_some_and(is_rows));
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap_or_default();
        let (front, _) = front_matter(&readme);
        let info = ["dataset_info.json", "dataset_infos.json"].iter().find_map(|n| std::fs::read_to_string(root.join(n)).ok());
        if !has_rows || front.is_empty() && info.is_none() {
            return None;
        }
        let mut own = config.clone();
        if own.license.is_none() {
            own.license = license(&front, &readme);
        }
        let columns = info.as_deref().map(columns_of_json).filter(|c| !c.is_empty()).unwrap_or_else(|| columns_of_yaml(&readme));
        let strings: Vec<&str> = columns.iter().filter(|(_, kind)| kind == "string" || kind == "large_string").map(|(n, _)| n.as_str()).collect();
        let default = own.text_field == "text" && own.rows.template.is_empty();
        if default && !columns.is_empty() && !columns.iter().any(|(n, _)| matches!(n.as_str(), "text" | "content" | "messages")) {
            let likely = ["document", "article", "body", "code", "abstract", "sentence", "raw_content", "story"];
            if let Some(name) = likely.iter().find(|l| strings.contains(l)).or(if strings.len() == 1 { strings.first() } else { None }) {
                own.text_field = (*name).to_string();
            }
        }
        Some(Self { splits: own.rows.splits.clone(), config: Arc::new(own) })
    }

    /// Whether a file of the folder is read: rows of a wanted split, nothing else.
    pub fn holds(&self, relative: &str) -> bool {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        if !is_rows(name) || name.starts_with("dataset_info") || name == "state.json" {
            return false;
        }
        self.splits.is_empty() || split_of(relative).is_some_and(|s| self.splits.iter().any(|w| w == s))
    }
}

fn is_rows(name: &str) -> bool {
    ROWS.iter().any(|end| name.ends_with(end))
}

/// `train` of `data/train-00000-of-00008.parquet`, `train/0000.parquet` and `train.jsonl`.
pub fn split_of(relative: &str) -> Option<&str> {
    const KNOWN: &[&str] = &["train", "validation", "valid", "dev", "test"];
    let mut parts: Vec<&str> = relative.split('/').collect();
    let name = parts.pop()?;
    let stem = name.split('.').next().unwrap_or(name);
    let by_name = stem.split_once("-0").map_or(stem, |(split, _)| split);
    if by_name != stem || KNOWN.contains(&by_name) {
        return Some(by_name);
    }
    parts.into_iter().rev().find(|p| KNOWN.contains(p))
}

/// The `license` of a README's head: a value, or the first entries of a list. Hub names are SPDX in lower case.
fn license(front: &[(String, &str)], readme: &str) -> Option<String> {
    let (_, value) = front.iter().find(|(k, _)| k == "license")?;
    let values: Vec<&str> = if value.is_empty() {
        let after = readme.lines().skip_while(|l| l.trim_end() != "license:").skip(1);
        after.map_while(|l| l.trim_start().strip_prefix("- ")).map(str::trim).collect()
    } else {
        value.trim_matches(['[', ']']).split(',').map(|v| v.trim().trim_matches(['"', '\''])).collect()
    };
    let spdx = |name: &str| {
        let known = super::license::PERMISSIVE.iter().find(|p| p.eq_ignore_ascii_case(name));
        known.map_or_else(|| if name.starts_with("cc-") || name.contains("gpl") { name.to_uppercase() } else { name.to_string() }, |p| p.to_string())
    };
    let names: Vec<String> = values.into_iter().filter(|v| !v.is_empty()).map(spdx).collect();
    (!names.is_empty()).then(|| names.join(" AND "))
}

/// `(name, dtype)` of `- name: X` / `dtype: Y` pairs below `features:`.
fn columns_of_yaml(readme: &str) -> Vec<(String, String)> {
    let mut columns: Vec<(String, String)> = Vec::new();
    let mut indent = None;
    for line in readme.lines().take(2000).skip_while(|l| l.trim() != "features:").skip(1) {
        let depth = line.len() - line.trim_start().len();
        let text = line.trim();
        if let Some(name) = text.strip_prefix("- name:") {
            if *indent.get_or_insert(depth) != depth {
                if depth < indent.unwrap_or(0) {
                    break;
                }
                continue;
            }
            columns.push((name.trim().trim_matches(['"', '\'']).to_string(), String::new()));
        } else if let Some(kind) = text.strip_prefix("dtype:") {
            if let Some(last) = columns.last_mut().filter(|(_, k)| k.is_empty()) {
                last.1 = kind.trim().to_string();
            }
        } else if depth <= indent.unwrap_or(0) && !text.starts_with('-') && indent.is_some() {
            break;
        }
    }
    columns
}

/// The same of `dataset_info.json`, or of the first configuration of `dataset_infos.json`.
fn columns_of_json(text: &str) -> Vec<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let first = || value.as_object().and_then(|o| o.values().next()).and_then(|v| v.get("features"));
    let features = value.get("features").or_else(first).and_then(|f| f.as_object());
    let kind = |v: &serde_json::Value| v.get("dtype").and_then(|d| d.as_str()).unwrap_or_default().to_string();
    features.map(|f| f.iter().map(|(name, v)| (name.clone(), kind(v))).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "---\nlicense: cc-by-4.0\ndataset_info:\n  features:\n  - name: id\n    dtype: int64\n  - name: article\n    dtype: string\n  - name: labels\n    sequence:\n      - name: x\n        dtype: string\n  splits:\n  - name: train\n---\n# A data set\n";

    #[test]
    fn the_readme_gives_licence_and_text_column() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("README.md"), README).unwrap();
        let files = [dir.path().join("README.md"), dir.path().join("data/train-00000-of-00002.parquet")];
        let mut config = PathsConfig::default();
        config.rows.splits = vec!["train".into()];
        let set = Dataset::of(dir.path(), &files, &config).unwrap();
        assert_eq!((set.config.license.as_deref(), set.config.text_field.as_str()), (Some("CC-BY-4.0"), "article"));
        assert!(set.holds("data/train-00000-of-00002.parquet") && !set.holds("data/test-00000-of-00001.parquet") && !set.holds("README.md"));
        assert!(Dataset::of(dir.path(), &files[..1], &config).is_none(), "a README alone is a README");
    }

    #[test]
    fn splits_by_file_name() {
        for (name, split) in [
            ("data/train-00000-of-00008.parquet", Some("train")),
            ("default/validation/0000.parquet", Some("validation")),
            ("test.jsonl", Some("test")),
            ("en/part.parquet", None),
        ] {
            assert_eq!(split_of(name), split, "{name}");
        }
    }

    #[test]
    fn licences_in_lists() {
        let readme = "---\nlicense:\n- mit\n- apache-2.0\n---\n";
        assert_eq!(license(&front_matter(readme).0, readme).as_deref(), Some("MIT AND Apache-2.0"));
    }
}
