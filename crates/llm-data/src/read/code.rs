//! Program source: its language, and whether people wrote it.
//!
//! The language comes from the extension, the file name (`Makefile`), the shebang line, and for extensions that several
//! languages share from the content. Generated, minified and vendored files are left out and counted: they are most of what a
//! repository holds by size and teach a model nothing. Measures as in The Stack and in GitHub's linguist.

use super::format::{Input, Out};
use super::license;
use super::license_text;
use super::paths::PathsConfig;
use super::{Outcome, text};
use crate::document::Document;
use crate::error::Result;
use crate::filter::generated_marker;
use serde::{Deserialize, Serialize};

/// What happens to source files and code rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeConfig {
    /// Licences that are fine, SPDX identifiers; empty: any.
    pub licenses: Vec<String>,
    /// With a list of licences: keep files for which none is found.
    pub keep_unlicensed: bool,
    /// Leave generated files out.
    pub skip_generated: bool,
    /// Leave minified files out.
    pub skip_minified: bool,
    /// Leave files in `vendor`, `node_modules` and the like out, and well-known copies of libraries.
    pub skip_vendored: bool,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self { licenses: Vec::new(), keep_unlicensed: false, skip_generated: true, skip_minified: true, skip_vendored: true }
    }
}

impl CodeConfig {
    /// Whether files found to be so are left out.
    pub(super) fn skips(&self, step: &str) -> bool {
        match step {
            "generated file" => self.skip_generated,
            "minified file" => self.skip_minified,
            _ => self.skip_vendored,
        }
    }
}

/// Language and the extensions that are its own.
const EXTENSIONS: &[(&str, &[&str])] = &[
    ("ada", &["adb", "ads"]),
    ("agda", &["agda"]),
    ("assembly", &["asm", "s"]),
    ("awk", &["awk"]),
    ("batchfile", &["bat", "cmd"]),
    ("c", &["c", "h"]),
    ("clojure", &["clj", "cljs", "cljc"]),
    ("cmake", &["cmake"]),
    ("cpp", &["cc", "cpp", "cxx", "hpp", "hh", "hxx", "inl"]),
    ("csharp", &["cs"]),
    ("css", &["css", "scss", "less"]),
    ("cuda", &["cu", "cuh"]),
    ("dart", &["dart"]),
    ("elixir", &["ex", "exs"]),
    ("elm", &["elm"]),
    ("erlang", &["erl", "hrl"]),
    ("fortran", &["f", "for", "f90", "f95", "f03"]),
    ("fsharp", &["fs", "fsx", "fsi"]),
    ("glsl", &["glsl", "vert", "frag"]),
    ("go", &["go"]),
    ("graphql", &["graphql"]),
    ("groovy", &["groovy", "gradle"]),
    ("haskell", &["hs", "lhs"]),
    ("hcl", &["tf"]),
    ("java", &["java"]),
    ("javascript", &["js", "mjs", "cjs", "jsx"]),
    ("julia", &["jl"]),
    ("kotlin", &["kt", "kts"]),
    ("lean", &["lean"]),
    ("lisp", &["lisp", "el", "scm", "rkt"]),
    ("lua", &["lua"]),
    ("makefile", &["mk"]),
    ("matlab", &["m"]),
    ("nim", &["nim"]),
    ("nix", &["nix"]),
    ("objective-c", &["mm"]),
    ("ocaml", &["ml", "mli"]),
    ("pascal", &["pas", "pp"]),
    ("perl", &["pl", "pm"]),
    ("php", &["php"]),
    ("powershell", &["ps1", "psm1"]),
    ("protobuf", &["proto"]),
    ("python", &["py", "pyi", "pyx"]),
    ("r", &["r"]),
    ("ruby", &["rb"]),
    ("rust", &["rs"]),
    ("scala", &["scala", "sc"]),
    ("shell", &["sh", "bash", "zsh", "fish"]),
    ("solidity", &["sol"]),
    ("sql", &["sql"]),
    ("swift", &["swift"]),
    ("tcl", &["tcl"]),
    ("toml", &["toml"]),
    ("typescript", &["ts", "mts", "tsx"]),
    ("verilog", &["v", "sv"]),
    ("vhdl", &["vhd", "vhdl"]),
    ("visual-basic", &["vb"]),
    ("vue", &["vue"]),
    ("wgsl", &["wgsl"]),
    ("zig", &["zig"]),
];

/// The language that a file's name says, `None` if it is not source.
pub fn language_of_name(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let by_name = match lower.as_str() {
        "makefile" | "gnumakefile" => "makefile",
        "dockerfile" | "containerfile" => "dockerfile",
        "cmakelists.txt" => "cmake",
        "rakefile" | "gemfile" | "vagrantfile" => "ruby",
        "jenkinsfile" => "groovy",
        "build.bazel" | "workspace.bazel" | "sconstruct" => "python",
        ".bashrc" | ".profile" | ".zshrc" => "shell",
        _ => "",
    };
    if !by_name.is_empty() {
        return Some(by_name);
    }
    let extension = lower.rsplit_once('.').map(|(_, e)| e)?;
    EXTENSIONS.iter().find(|(_, list)| list.contains(&extension)).map(|(language, _)| *language)
}

/// The language that the first line says.
pub fn language_of_shebang(text: &str) -> Option<&'static str> {
    let line = text.lines().next()?.strip_prefix("#!")?;
    let mut words = line.split(|c: char| c.is_whitespace() || c == '/').filter(|w| !w.is_empty()).rev();
    words.find_map(|word| {
        let name = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        Some(match name {
            "python" | "pypy" => "python",
            "sh" | "bash" | "zsh" | "dash" | "ksh" | "fish" => "shell",
            "node" | "deno" | "bun" => "javascript",
            "perl" => "perl",
            "ruby" => "ruby",
            "lua" | "luajit" => "lua",
            "php" => "php",
            "Rscript" => "r",
            "awk" | "gawk" => "awk",
            "tclsh" | "wish" => "tcl",
            "julia" => "julia",
            "make" => "makefile",
            _ => return None,
        })
    })
}

/// Decides between the languages that share an extension; `language` is what the extension said.
pub fn language_of_content(language: &'static str, head: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(&head[..head.len().min(16 << 10)]);
    let line = |test: &dyn Fn(&str) -> bool| text.lines().map(str::trim_start).any(test);
    let starts = |list: &'static [&'static str]| line(&|l| list.iter().any(|p| l.starts_with(p)));
    match language {
        "c" if starts(&["@interface", "@property", "@protocol", "@implementation", "#import"]) => "objective-c",
        "c" if starts(&["class ", "namespace ", "template <", "template<", "using namespace", "public:", "private:"]) || text.contains("std::") => {
            "cpp"
        }
        "matlab" if starts(&["@interface", "@implementation", "#import", "#include", "@class", "@end"]) => "objective-c",
        "perl" if line(&|l| l.starts_with(":- ") || l.contains(":-") && l.ends_with('.') || l.ends_with(":-")) && !text.contains('$') => "prolog",
        "verilog" if starts(&["Require ", "Theorem ", "Lemma ", "Inductive ", "Definition "]) => "coq",
        "fsharp" if starts(&["#version", "uniform ", "varying "]) => "glsl",
        "typescript" if text.trim_start().starts_with("<?xml") => "xml",
        other => language_of_shebang(&text).filter(|_| other == "shell").unwrap_or(other),
    }
}

const VENDOR_FOLDERS: &[&str] = &[
    "vendor",
    "vendored",
    "third_party",
    "third-party",
    "thirdparty",
    "node_modules",
    "bower_components",
    "jspm_packages",
    "site-packages",
    ".venv",
    "carthage",
    "pods",
    "extern",
];
const VENDOR_FILES: &[&str] = &[
    "jquery",
    "bootstrap.",
    "sqlite3.c",
    "sqlite3.h",
    "catch.hpp",
    "doctest.h",
    "stb_image",
    "modernizr",
    "angular.",
    "d3.v",
    "moment.js",
    "gtest-all",
];
const GENERATED_NAMES: &[&str] = &[
    "_pb2.py",
    "_pb2_grpc.py",
    ".pb.go",
    ".pb.cc",
    ".pb.h",
    ".g.dart",
    ".freezed.dart",
    ".designer.cs",
    ".g.cs",
    ".g.i.cs",
    "_generated.go",
    ".generated.ts",
    "_generated.rs",
    ".tab.c",
    ".tab.h",
    "lex.yy.c",
    "_gen.go",
    ".mocks.dart",
];

/// Why a file is not worth reading: step and what was found. `path` is relative to the tree.
pub fn objection(path: &str, text: &str, language: &str) -> Option<(&'static str, String)> {
    let lower = path.to_ascii_lowercase();
    let (folders, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    if let Some(folder) = folders.split('/').find(|f| VENDOR_FOLDERS.contains(f)) {
        return Some(("vendored file", format!("in {folder}/")));
    }
    if VENDOR_FILES.iter().any(|f| name.starts_with(f)) {
        return Some(("vendored file", name.to_string()));
    }
    if let Some(end) = GENERATED_NAMES.iter().find(|end| name.ends_with(*end)) {
        return Some(("generated file", format!("name ends in {end}")));
    }
    if let Some(marker) = generated_marker(text) {
        return Some(("generated file", marker.to_string()));
    }
    if text.lines().take(4).any(|l| l.contains("Code generated by ")) {
        return Some(("generated file", "Code generated by".to_string()));
    }
    if name.contains(".min.") {
        return Some(("minified file", "name".to_string()));
    }
    minified(text, language).map(|why| ("minified file", why))
}

/// Long lines with hardly any white space.
fn minified(text: &str, language: &str) -> Option<String> {
    if text.len() < 1000 {
        return None;
    }
    let lines = text.lines().count().max(1);
    let mean = text.len() / lines;
    let web = matches!(language, "javascript" | "css" | "typescript");
    let white = text.bytes().filter(u8::is_ascii_whitespace).count() as f64 / text.len() as f64;
    (mean > if web { 110 } else { 400 } && white < 0.1).then(|| format!("{mean} bytes a line, {:.1} % white space", white * 100.0))
}

/// A source file as a document, or why not. The path inside its tree is for what names say.
pub(super) fn checked(mut document: Document, path: Option<&str>, config: &CodeConfig) -> Outcome {
    let own = license_text::of_header(&document.text);
    if let Some(own) = own {
        document.license = Some(own);
    }
    let language = document.lang.clone().unwrap_or_default();
    if let Some((step, why)) = objection(path.unwrap_or_default(), &document.text, &language)
        && config.skips(step)
    {
        return Outcome::skip(step, document.id, why, "written by people, for this tree", &document.text);
    }
    if !config.licenses.is_empty() {
        let fine = match &document.license {
            Some(expression) => license::is_allowed(expression, &config.licenses).unwrap_or(false),
            None => config.keep_unlicensed,
        };
        if !fine {
            let found = document.license.clone().unwrap_or_else(|| "none found".to_string());
            return Outcome::skip("licence", document.id, found, config.licenses.join(" "), &document.text);
        }
    }
    Outcome::Keep(document)
}

/// A source file.
pub(super) fn read(input: &mut Input<'_>, language: &'static str, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let Some(text) = text::decoded(input, config, false, out)? else { return Ok(()) };
    let language = language_of_content(language, text.as_bytes());
    let base = input.document(input.id.to_string(), config);
    let document = Document { text, lang: Some(language.to_string()), domain: config.domain_or("code"), ..base };
    let path = input.id.split_once('/').map_or(input.id, |(_, inside)| inside);
    out(checked(document, Some(path), &config.code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn languages_by_name_shebang_and_content() {
        for (name, expected) in
            [("a.RS", "rust"), ("Makefile", "makefile"), ("x/CMakeLists.txt", ""), ("CMakeLists.txt", "cmake"), ("a.tsx", "typescript")]
        {
            assert_eq!(language_of_name(name).unwrap_or_default(), expected, "{name}");
        }
        assert_eq!(language_of_shebang("#!/usr/bin/env -S python3.11 -u\n"), Some("python"));
        assert_eq!(language_of_shebang("#! /bin/sh -e\n"), Some("shell"));
        assert_eq!(language_of_shebang("# comment"), None);
        for (from, text, expected) in [
            ("c", "#pragma once\nnamespace a {\n}", "cpp"),
            ("c", "#ifndef A_H\nint f(void);", "c"),
            ("matlab", "#import <Foundation/Foundation.h>\n@implementation A", "objective-c"),
            ("perl", "parent(a, b).\nx(A) :- y(A).", "prolog"),
            ("verilog", "Theorem t : True.", "coq"),
        ] {
            assert_eq!(language_of_content(from, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn files_that_people_did_not_write_are_found() {
        let step = |path: &str, text: &str, language: &str| objection(path, text, language).map(|(s, _)| s);
        assert_eq!(step("a/node_modules/b.js", "x", "javascript"), Some("vendored file"));
        assert_eq!(step("static/jquery-3.1.js", "x", "javascript"), Some("vendored file"));
        assert_eq!(step("api/v1_pb2.py", "x", "python"), Some("generated file"));
        assert_eq!(step("a.go", "// Code generated by stringer; DO NOT EDIT.\n", "go"), Some("generated file"));
        assert_eq!(step("a.js", &"var a=1;function b(c){return c+a};".repeat(60), "javascript"), Some("minified file"));
        assert_eq!(step("src/lib.rs", &"fn f(x: u32) -> u32 {\n    x + 1\n}\n".repeat(60), "rust"), None);
    }

    #[test]
    fn a_licence_in_the_file_wins_over_that_of_the_tree() {
        let document =
            Document { text: "// SPDX-License-Identifier: GPL-2.0-only\nint x;\n".into(), license: Some("MIT".into()), ..Document::default() };
        let config = CodeConfig { licenses: vec!["MIT".into()], ..CodeConfig::default() };
        assert!(matches!(checked(document.clone(), None, &config), Outcome::Skip(d, _) if d.step == "licence" && d.value == "GPL-2.0-only"));
        assert!(matches!(checked(document, None, &CodeConfig::default()), Outcome::Keep(d) if d.license.as_deref() == Some("GPL-2.0-only")));
    }

    proptest! {
        #[test]
        fn any_content_is_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (language, _) in EXTENSIONS {
                let _ = language_of_content(language, &bytes);
            }
            let text = String::from_utf8_lossy(&bytes);
            let _ = objection(&text, &text, "c");
        }
    }
}
