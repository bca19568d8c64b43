//! Main-text extraction against gold texts: precision, recall and F1 of [`llm_data::extract`] and of the crate below it.
//!
//! `cargo run -p llm-data --example extraction -- DATA [--worst]` with DATA holding `article_extraction`, `trafilatura` and
//! `readability` (layout of the three projects' own repositories). Measures: word 4-gram shingles as multisets, normalised per
//! page, as scrapinghub's article-extraction-benchmark takes them; for trafilatura's set the sentences that must and must not be
//! there.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;
type Extractor = fn(&str) -> String;

/// The crate alone, with the settings of its published figures.
fn crate_alone(html: &str) -> String {
    let options = trafilatura::Options::default().with_fallback(true).with_exclude_comments(true);
    trafilatura::extract(html, &options).map(|r| r.content_text).unwrap_or_default()
}

fn ours(html: &str) -> String {
    llm_data::extract::extract(html).text
}

fn page(path: &Path) -> AnyResult<String> {
    let mut bytes = Vec::new();
    llm_data::read::jsonl::open(path)?.read_to_end(&mut bytes)?;
    let declared = llm_data::read::encoding::html_charset(&bytes);
    Ok(llm_data::read::encoding::decode(&bytes, declared.as_deref()).map(|d| d.text).unwrap_or_default())
}

fn shingles(text: &str) -> HashMap<Vec<&str>, usize> {
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).collect();
    let mut counts = HashMap::new();
    for window in words.windows(4.min(words.len().max(1))) {
        *counts.entry(window.to_vec()).or_default() += 1;
    }
    counts
}

/// True positives, false positives, false negatives of one page, their sum 1.
fn overlap(found: &str, gold: &str) -> [f64; 3] {
    let (found, gold) = (shingles(found), shingles(gold));
    let mut counts = [0.0; 3];
    for key in found.keys().chain(gold.keys().filter(|k| !found.contains_key(*k))) {
        let (f, g) = (found.get(key).copied().unwrap_or(0), gold.get(key).copied().unwrap_or(0));
        counts[0] += f.min(g) as f64;
        counts[1] += f.saturating_sub(g) as f64;
        counts[2] += g.saturating_sub(f) as f64;
    }
    let sum: f64 = counts.iter().sum();
    if sum > 0.0 { counts.map(|c| c / sum) } else { [1.0, 0.0, 0.0] }
}

fn f1([tp, fp, fn_]: [f64; 3]) -> f64 {
    2.0 * tp / (2.0 * tp + fp + fn_).max(1e-12)
}

fn article(root: &Path) -> AnyResult<Vec<(String, String, String)>> {
    let truth: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("ground-truth.json"))?)?;
    let mut pages = Vec::new();
    for (id, row) in truth.as_object().into_iter().flatten() {
        let path = root.join(format!("html/{id}.html.gz"));
        if path.is_file() {
            pages.push((id.clone(), page(&path)?, row["articleBody"].as_str().unwrap_or_default().to_string()));
        }
    }
    Ok(pages)
}

fn readability(root: &Path) -> AnyResult<Vec<(String, String, String)>> {
    let mut folders: Vec<_> = std::fs::read_dir(root)?.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    let mut pages = Vec::new();
    for folder in folders {
        let gold = llm_data::html_text::render(&page(&folder.join("expected.html"))?);
        pages.push((folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), page(&folder.join("source.html"))?, gold));
    }
    Ok(pages)
}

fn shingle_table(name: &str, pages: &[(String, String, String)], worst: bool) {
    for (who, extract) in [("llm-data", ours as Extractor), ("trafilatura crate", crate_alone)] {
        let start = Instant::now();
        let mut sum = [0.0; 3];
        let mut each = Vec::new();
        for (id, html, gold) in pages {
            let counts = overlap(&extract(html), gold);
            each.push((f1(counts), id));
            for (total, count) in sum.iter_mut().zip(counts) {
                *total += count;
            }
        }
        let [tp, fp, fn_] = sum;
        let ms = start.elapsed().as_secs_f64() * 1e3 / pages.len().max(1) as f64;
        println!("| {name} | {} | {who} | {:.3} | {:.3} | {:.3} | {ms:.1} |", pages.len(), tp / (tp + fp), tp / (tp + fn_), f1(sum));
        each.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (f1, id) in each.iter().take(if worst { 8 } else { 0 }) {
            eprintln!("    {f1:.3} {id}");
        }
    }
}

fn sentences(root: &Path, worst: bool) -> AnyResult<()> {
    let truth: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("evaldata.json"))?)?;
    let rows: Vec<&serde_json::Value> = truth.as_object().into_iter().flat_map(|o| o.values()).collect();
    for (who, extract) in [("llm-data", ours as Extractor), ("trafilatura crate", crate_alone)] {
        let start = Instant::now();
        let (mut tp, mut fp, mut fn_, mut n) = (0.0, 0.0, 0.0, 0);
        for row in &rows {
            let file = row["file"].as_str().unwrap_or_default();
            let path = root.join("html").join(file);
            if !path.is_file() {
                continue;
            }
            n += 1;
            // White space is layout: a sentence may be broken over lines in one output and not in the other.
            let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let text = flat(&extract(&page(&path)?));
            let list = |name: &str| row[name].as_array().into_iter().flatten().filter_map(|v| v.as_str()).map(flat).collect::<Vec<_>>();
            let (with, without) = (list("with"), list("without"));
            let found = with.iter().filter(|s| text.contains(s.as_str())).count();
            let wrong = without.iter().filter(|s| text.contains(s.as_str())).count();
            (tp, fn_, fp) = (tp + found as f64, fn_ + (with.len() - found) as f64, fp + wrong as f64);
            if worst && (found < with.len() || wrong > 0) {
                eprintln!("    {who} {file}: {found} of {}, {wrong} unwanted", with.len());
            }
        }
        let ms = start.elapsed().as_secs_f64() * 1e3 / f64::from(n.max(1));
        println!("| trafilatura | {n} | {who} | {:.3} | {:.3} | {:.3} | {ms:.1} |", tp / (tp + fp), tp / (tp + fn_), f1([tp, fp, fn_]));
    }
    Ok(())
}

fn main() -> AnyResult<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let worst = arguments.iter().any(|a| a == "--worst");
    let root = arguments.iter().find(|a| !a.starts_with("--")).ok_or("name the folder with the gold sets")?;
    let root = Path::new(root);
    println!("| set | pages | extractor | precision | recall | F1 | ms a page |\n|---|---:|---|---:|---:|---:|---:|");
    shingle_table("article bodies", &article(&root.join("article_extraction"))?, worst);
    sentences(&root.join("trafilatura"), worst)?;
    shingle_table("readability", &readability(&root.join("readability"))?, worst);
    Ok(())
}
