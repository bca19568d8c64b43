//! Which licence a text is or names: `SPDX-License-Identifier` lines, the usual file headers, and the texts of LICENSE files.
//!
//! A licence text is recognised by sentences that only it has, compared without case, punctuation and line breaks. This finds
//! the licences that matter for an allow-list; what it does not know it leaves unnamed rather than guess.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All sentences of one row must occur. Order matters: the first row that fits wins.
const TEXTS: &[(&str, &[&str])] = &[
    ("AGPL-3.0-only", &["gnu affero general public license", "version 3"]),
    ("LGPL-3.0-only", &["gnu lesser general public license", "version 3"]),
    ("LGPL-2.1-only", &["gnu lesser general public license", "version 2 1"]),
    ("LGPL-2.0-only", &["gnu library general public license"]),
    ("GPL-3.0-only", &["gnu general public license", "version 3"]),
    ("GPL-2.0-only", &["gnu general public license", "version 2"]),
    ("MPL-2.0", &["mozilla public license", "2 0"]),
    ("EPL-2.0", &["eclipse public license", "2 0"]),
    ("Apache-2.0", &["apache license", "version 2 0"]),
    ("CC0-1.0", &["cc0 1 0 universal"]),
    ("CC-BY-SA-4.0", &["attribution sharealike 4 0 international"]),
    ("CC-BY-NC-4.0", &["attribution noncommercial 4 0 international"]),
    ("CC-BY-4.0", &["attribution 4 0 international"]),
    ("Unlicense", &["this is free and unencumbered software released into the public domain"]),
    ("BSL-1.0", &["boost software license version 1 0"]),
    ("WTFPL", &["do what the fuck you want to public license"]),
    ("Zlib", &["this software is provided as is without any express or implied warranty", "altered source versions must be plainly marked"]),
    ("BSD-3-Clause", &["redistribution and use in source and binary forms", "neither the name"]),
    ("BSD-2-Clause", &["redistribution and use in source and binary forms"]),
    ("ISC", &["permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted"]),
    ("ISC", &["permission to use copy modify and distribute this software for any purpose with or without fee is hereby granted"]),
    ("MIT", &["permission is hereby granted free of charge to any person obtaining a copy", "the above copyright notice and this permission notice"]),
    ("MIT-0", &["permission is hereby granted free of charge to any person obtaining a copy"]),
    ("Python-2.0", &["python software foundation license version 2"]),
    ("PostgreSQL", &["permission to use copy modify and distribute this software and its documentation for any purpose without fee"]),
];

/// Bytes of a file that are looked at for a header, and of a licence text.
const HEADER: usize = 6 << 10;
const LICENCE: usize = 64 << 10;

/// The SPDX expression that a source file's header states.
pub fn of_header(text: &str) -> Option<String> {
    let head = &text[..super::books::floor(text, HEADER)];
    if let Some(expression) = head.lines().find_map(|l| l.split_once("SPDX-License-Identifier:")).map(|(_, e)| e) {
        let end = ["*/", "-->", "*)", "\"", "#}"].iter().filter_map(|e| expression.find(e)).min().unwrap_or(expression.len());
        return Some(expression[..end].trim().to_string()).filter(|e| !e.is_empty() && e.len() < 200);
    }
    // Only the comment at the top: the code of a licence checker speaks of licences too.
    let comment: String = head
        .lines()
        .take_while(|l| {
            let l = l.trim_start();
            l.is_empty()
                || l.starts_with(['#', '*', ';', '%', '(', '<', '!'])
                || l.starts_with("//")
                || l.starts_with("/*")
                || l.starts_with("--")
                || l.starts_with("\"\"\"")
        })
        .collect::<Vec<_>>()
        .join("\n");
    if comment.is_empty() {
        return None;
    }
    let words = words(&comment);
    if words.contains("licensed under the mit license") || words.contains("under the terms of the mit license") {
        return Some("MIT".into());
    }
    let later = words.contains("or at your option any later version");
    of_words(&words).map(|name| if later { name.replace("-only", "-or-later") } else { name.to_string() })
}

/// The licence that a LICENSE file holds.
pub fn of_text(text: &str) -> Option<&'static str> {
    of_words(&words(&text[..super::books::floor(text, LICENCE)]))
}

fn of_words(words: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(_, sentences)| sentences.iter().all(|s| words.contains(s))).map(|(name, _)| *name)
}

/// Lower-case words with single spaces.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        out.push_str(&word.to_ascii_lowercase());
        out.push(' ');
    }
    out.truncate(out.trim_end().len());
    out
}

/// Licences by folder.
#[derive(Debug, Default)]
pub struct Trees(BTreeMap<PathBuf, String>);

impl Trees {
    /// From the LICENSE files and package manifests among `files`. Several licence texts in one folder are a choice
    /// (`LICENSE-MIT` beside `LICENSE-APACHE`); a manifest's own expression wins.
    pub fn scan<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut texts: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        let mut trees = BTreeMap::new();
        for path in files {
            let Some(name) = path.file_name().and_then(|n| n.to_str()).map(str::to_ascii_lowercase) else { continue };
            let Some(folder) = path.parent() else { continue };
            let is_text = ["license", "licence", "copying", "unlicense"].iter().any(|p| name.starts_with(p)) && !name.ends_with(".rs");
            if is_text {
                if let Some(found) = head(path).as_deref().and_then(of_text) {
                    texts.entry(folder.to_path_buf()).or_default().push(found.to_string());
                }
            } else if let "cargo.toml" | "package.json" | "pyproject.toml" = name.as_str()
                && let Some(found) = head(path).as_deref().and_then(of_manifest)
            {
                trees.insert(folder.to_path_buf(), super::license::normalised(&found));
            }
        }
        for (folder, mut names) in texts {
            names.sort();
            names.dedup();
            trees.entry(folder).or_insert_with(|| names.join(" OR "));
        }
        Self(trees)
    }

    /// The licence of the nearest folder above `path` that has one.
    pub fn of(&self, path: &Path) -> Option<&str> {
        path.ancestors().skip(1).find_map(|folder| self.0.get(folder)).map(String::as_str)
    }
}

fn head(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(LICENCE as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `license = "MIT"` or `"license": "MIT"`.
fn of_manifest(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim_start().trim_start_matches('"');
        let rest = line.strip_prefix("license")?.trim_start_matches('"').trim_start().strip_prefix(['=', ':'])?;
        let value = rest.trim().strip_prefix(['"', '\''])?;
        let value = &value[..value.find(['"', '\''])?];
        (!value.is_empty() && value.len() < 200).then(|| value.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_name_their_licence() {
        for (text, expected) in [
            ("// SPDX-License-Identifier: MIT OR Apache-2.0\nfn f() {}", Some("MIT OR Apache-2.0")),
            ("/* SPDX-License-Identifier: BSD-3-Clause */\nint x;", Some("BSD-3-Clause")),
            ("# Licensed under the Apache License, Version 2.0 (the \"License\");\nimport os", Some("Apache-2.0")),
            (
                "// This program is free software under the GNU General Public License, version 2,\n// or (at your option) any later version.\n",
                Some("GPL-2.0-or-later"),
            ),
            ("fn check() { assert!(text.contains(\"Apache License, Version 2.0\")) }", None),
            ("", None),
        ] {
            assert_eq!(of_header(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_tree_has_the_licence_of_its_nearest_folder() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let mit = "Permission is hereby granted, free of charge, to any person obtaining a copy ... The above copyright notice and this permission notice shall";
        let files = [
            write("LICENSE-MIT", mit),
            write("LICENSE-APACHE", "Apache License\n  Version 2.0, January 2004"),
            write("lib/COPYING", "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007"),
            write("crate/Cargo.toml", "[package]\nlicense = \"MIT/Apache-2.0\"\n"),
            write("crate/LICENSE", mit),
        ];
        let trees = Trees::scan(files.iter().map(PathBuf::as_path));
        let of = |name: &str| trees.of(&dir.path().join(name)).map(str::to_string);
        assert_eq!(of("src/a.rs").as_deref(), Some("Apache-2.0 OR MIT"));
        assert_eq!(of("lib/deep/a.c").as_deref(), Some("GPL-3.0-only"));
        assert_eq!(of("crate/src/a.rs").as_deref(), Some("Apache-2.0 OR MIT"));
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in "(// |SPDX-License-Identifier:|\\*/|MIT|license|\"|=|\n|ä| ){0,40}") {
            let _ = (of_header(&text), of_text(&text), of_manifest(&text));
        }
    }
}
