//! Names: of languages by their codes (ISO 639), and of tokenizers by their folders.

use std::path::{Component, Path, PathBuf};

/// ISO 639-1 code and English name of languages that text collections often hold.
const LANGUAGES: &[(&str, &str)] = &[
    ("af", "Afrikaans"),
    ("am", "Amharic"),
    ("ar", "Arabic"),
    ("az", "Azerbaijani"),
    ("be", "Belarusian"),
    ("bg", "Bulgarian"),
    ("bn", "Bengali"),
    ("bs", "Bosnian"),
    ("ca", "Catalan"),
    ("cs", "Czech"),
    ("cy", "Welsh"),
    ("da", "Danish"),
    ("de", "German"),
    ("el", "Greek"),
    ("en", "English"),
    ("eo", "Esperanto"),
    ("es", "Spanish"),
    ("et", "Estonian"),
    ("eu", "Basque"),
    ("fa", "Persian"),
    ("fi", "Finnish"),
    ("fr", "French"),
    ("ga", "Irish"),
    ("gl", "Galician"),
    ("gu", "Gujarati"),
    ("ha", "Hausa"),
    ("he", "Hebrew"),
    ("hi", "Hindi"),
    ("hr", "Croatian"),
    ("hu", "Hungarian"),
    ("hy", "Armenian"),
    ("id", "Indonesian"),
    ("is", "Icelandic"),
    ("it", "Italian"),
    ("ja", "Japanese"),
    ("ka", "Georgian"),
    ("kk", "Kazakh"),
    ("km", "Khmer"),
    ("kn", "Kannada"),
    ("ko", "Korean"),
    ("la", "Latin"),
    ("lt", "Lithuanian"),
    ("lv", "Latvian"),
    ("mk", "Macedonian"),
    ("ml", "Malayalam"),
    ("mn", "Mongolian"),
    ("mr", "Marathi"),
    ("ms", "Malay"),
    ("my", "Burmese"),
    ("ne", "Nepali"),
    ("nl", "Dutch"),
    ("no", "Norwegian"),
    ("pa", "Punjabi"),
    ("pl", "Polish"),
    ("pt", "Portuguese"),
    ("ro", "Romanian"),
    ("ru", "Russian"),
    ("sk", "Slovak"),
    ("sl", "Slovenian"),
    ("sq", "Albanian"),
    ("sr", "Serbian"),
    ("sv", "Swedish"),
    ("sw", "Swahili"),
    ("ta", "Tamil"),
    ("te", "Telugu"),
    ("th", "Thai"),
    ("tr", "Turkish"),
    ("uk", "Ukrainian"),
    ("ur", "Urdu"),
    ("vi", "Vietnamese"),
    ("yo", "Yoruba"),
    ("zh", "Chinese"),
];

/// English name of a language code such as `de` or `de-AT`; a code not known here stays as it is.
pub fn language(code: &str) -> String {
    if code == super::UNKNOWN {
        return "Text of no known language".to_string();
    }
    let mut parts = code.split(['-', '_']);
    let base = parts.next().unwrap_or(code);
    match LANGUAGES.iter().find(|(known, _)| *known == base) {
        Some((_, name)) if parts.next().is_none() => (*name).to_string(),
        Some((_, name)) => format!("{name} ({code})"),
        None => code.to_string(),
    }
}

/// Names of tokenizers: the last part of each path, with as many parts before it as it takes to tell them apart.
pub fn unique_names(paths: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<String>> = paths.iter().map(|path| parts(path)).collect();
    let mut depths = vec![1; paths.len()];
    loop {
        let names: Vec<String> = parts.iter().zip(&depths).map(|(parts, depth)| parts[parts.len().saturating_sub(*depth)..].join("/")).collect();
        let occurs = |name: &String| names.iter().filter(|n| *n == name).count();
        let longer: Vec<usize> = (0..names.len()).filter(|&i| occurs(&names[i]) > 1 && depths[i] < parts[i].len()).collect();
        if longer.is_empty() {
            return numbered(names);
        }
        longer.into_iter().for_each(|i| depths[i] += 1);
    }
}

/// The folder stands for its `tokenizer.json`; another file for itself.
fn parts(path: &Path) -> Vec<String> {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut parts: Vec<String> = whole
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    if parts.len() > 1 && parts.last().is_some_and(|last| last == "tokenizer.json") {
        parts.pop();
    } else if let Some(stem) = parts.last_mut().and_then(|last| last.strip_suffix(".json").map(str::to_string).map(|stem| (last, stem))) {
        *stem.0 = stem.1;
    }
    if parts.is_empty() { vec!["tokenizer".to_string()] } else { parts }
}

/// The same path twice: `a`, `a (2)`.
fn numbered(names: Vec<String>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        let candidates = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name} ({n})")));
        let free = candidates.into_iter().find(|c| !unique.contains(c)).unwrap_or(name);
        unique.push(free);
    }
    unique
}
