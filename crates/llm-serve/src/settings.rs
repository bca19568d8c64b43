//! `serve --config serve.toml`: the flags of the command line in a file.
//!
//! A key of the file is a flag without its dashes (`max_queue = 64` is `--max-queue 64`); a list repeats it. The file is turned into flags
//! that stand before those of the command line, so there is one place that knows them, the command line wins, and a key with a typo is
//! refused with the same advice as a flag with one.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments of the program with those of `--config` put in behind `serve`.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    if arguments.get(1).is_none_or(|command| command != "serve") {
        return Ok(arguments);
    }
    let Some(file) = config_file(&arguments[2..]) else { return Ok(arguments) };
    let table = llm_run::config::table(Some(&file), &[]).map_err(|e| Error::Settings(e.to_string()))?;
    let mut expanded = arguments[..2].to_vec();
    for (key, value) in table {
        let wrong = |what: &str| Error::Settings(format!("{}: `{key}` {what}", file.display()));
        let flag = format!("--{}", key.replace('_', "-"));
        if flag == "--config" {
            return Err(wrong("cannot name another file"));
        }
        let values = match value.as_array() {
            Some(values) => values.clone(),
            None => vec![value],
        };
        for value in values {
            let text = match (value.as_str(), value.as_integer(), value.as_float(), value.as_bool()) {
                (Some(text), ..) => text.to_string(),
                (_, Some(number), ..) => number.to_string(),
                (_, _, Some(number), _) => number.to_string(),
                (_, _, _, Some(true)) => {
                    expanded.push(flag.clone().into());
                    continue;
                }
                (_, _, _, Some(false)) => continue,
                _ => return Err(wrong("must be a string, a number, true or false, or a list of these")),
            };
            // In one word, so that a value that begins with a dash is none the less a value.
            expanded.push(format!("{flag}={text}").into());
        }
    }
    expanded.extend_from_slice(&arguments[2..]);
    Ok(expanded)
}

fn config_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut file = None;
    for (at, argument) in arguments.iter().enumerate() {
        if argument == "--config" {
            file = arguments.get(at + 1).map(PathBuf::from);
        } else if let Some(path) = argument.to_str().and_then(|a| a.strip_prefix("--config=")) {
            file = Some(path.into());
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_file_becomes_flags_before_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.toml");
        std::fs::write(&file, "model = \"m\"\nmax_queue = 64\ncors_origin = [\"a\", \"b\"]\nexact = true\nother = false\nnice = -1\n").unwrap();
        let path = file.to_str().unwrap();
        let expanded = expand(words(&["llm-serve", "serve", "--config", path, "--max-queue", "1"])).unwrap();
        let flags = ["--model=m", "--max-queue=64", "--cors-origin=a", "--cors-origin=b", "--exact", "--nice=-1"];
        assert_eq!(expanded, words(&[&["llm-serve", "serve"], flags.as_slice(), &["--config", path, "--max-queue", "1"]].concat()));
        for untouched in [&["llm-serve"][..], &["llm-serve", "usage", "--config", path], &["llm-serve", "serve", "--port", "0"]] {
            assert_eq!(expand(words(untouched)).unwrap(), words(untouched));
        }
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.toml");
        let refused = |text: &str| {
            std::fs::write(&file, text).unwrap();
            expand(words(&["llm-serve", "serve", &format!("--config={}", file.display())])).unwrap_err().to_string()
        };
        assert!(refused("[table]\nx = 1").contains("`table` must be"));
        assert!(refused("config = \"x\"").contains("another file"));
        assert!(refused("= 1").contains("serve.toml"));
        std::fs::remove_file(&file).unwrap();
        assert!(expand(words(&["llm-serve", "serve", "--config", file.to_str().unwrap()])).unwrap_err().to_string().contains("serve.toml"));
    }
}
