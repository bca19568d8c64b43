//! Every grader against what the harnesses' own functions made of the same strings (`benches/peers/grader_vectors.py`).

use llm_eval::grade::filter::{FLEXIBLE, GSM8K_STRICT, Overlook, exact_match, mgsm_strict};
use llm_eval::grade::{bbh, chart, hendrycks, minerva, pass_at_k};
use serde_json::Value;
use std::sync::LazyLock;

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/eval/graders.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});

fn rows(name: &str) -> &'static [Value] {
    let rows = VECTORS[name].as_array().unwrap();
    assert!(rows.len() >= 200, "{name}: {}", rows.len());
    rows
}

/// All differences, not only the first.
fn hold(name: &str, ours: impl Fn(&Value) -> Value) {
    let rows = rows(name);
    let last = |row: &Value| row.as_array().unwrap().last().unwrap().clone();
    let different: Vec<String> = rows.iter().filter(|r| ours(r) != last(r)).map(|r| format!("{r}: ours {}", ours(r))).collect();
    assert!(different.is_empty(), "{name}: {} of {} differ\n{}", different.len(), rows.len(), different.join("\n"));
}

fn text(name: &str, ours: impl Fn(&str) -> String) {
    hold(name, |row| ours(row[0].as_str().unwrap()).into());
}

fn optional(name: &str, ours: impl Fn(&str) -> Option<String>) {
    hold(name, |row| ours(row[0].as_str().unwrap()).into());
}

fn pair(name: &str, ours: impl Fn(&str, &str) -> bool) {
    hold(name, |row| ours(row[0].as_str().unwrap(), row[1].as_str().unwrap()).into());
}

#[test]
fn number_filters() {
    text("gsm8k_strict", |t| GSM8K_STRICT.apply(t));
    text("flexible", |t| FLEXIBLE.apply(t));
    for lang in ["en", "de", "es"] {
        text(&format!("mgsm_strict_{lang}"), |t| mgsm_strict(lang).apply(t));
    }
    text("remove_whitespace", |t| llm_eval::python::strip(t).to_string());
}

#[test]
fn exact_matches() {
    pair("exact_match_gsm8k", |a, b| exact_match(a, b, Overlook::GSM8K));
    pair("exact_match_mgsm", |a, b| exact_match(a, b, Overlook::MGSM));
    pair("exact_match", |a, b| exact_match(a, b, Overlook::default()));
}

#[test]
fn minerva_answers() {
    text("minerva_final", minerva::final_answer);
    text("minerva_normalise", minerva::normalise);
    optional("boxed", |t| minerva::last_boxed(t).and_then(minerva::unboxed).map(str::to_string));
}

#[test]
fn minerva_equivalence_is_that_of_sympy() {
    pair("minerva_equiv", minerva::is_equiv);
}

#[test]
fn hendrycks_answers() {
    text("hendrycks_answer", |t| hendrycks::answer(t).to_string());
    optional("hendrycks_strip", hendrycks::strip_string);
    pair("hendrycks_equiv", hendrycks::is_equiv);
}

#[test]
fn bbh_answers() {
    text("bbh", bbh::harness);
    for (text, answer) in [
        ("So the answer is True.", "True"),
        ("So the answer is True", "True"),
        ("the answer is 3.\nNo, the answer is 4.", "4"),
        ("the answer is (A). ", "(A)"),
        ("the answer is ", "[invalid]"),
        ("no idea", "[invalid]"),
    ] {
        assert_eq!(bbh::fixed(text), answer, "{text}");
    }
}

#[test]
fn charts() {
    pair("chart", chart::relaxed);
}

#[test]
fn pass_at_k_is_unbiased() {
    for row in rows("pass_at_k") {
        let n = |i: usize| row[i].as_u64().unwrap();
        match (pass_at_k(n(0), n(1), n(2)), row[3].as_f64()) {
            (Some(ours), Some(theirs)) => assert!((ours - theirs).abs() < 1e-12, "{row}: {ours}"),
            (None, None) => {}
            (ours, _) => panic!("{row}: {ours:?}"),
        }
    }
}

/// The whole of MATH-500: a reference equals itself in every grader, and what is compared with what it was taken from.
#[test]
fn references_of_math_are_readable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/benchmarks/math/math500_test.jsonl");
    let Ok(lines) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not there");
        return;
    };
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let solution = record["solution"].as_str().unwrap();
        let answer = record["answer"].as_str().unwrap();
        let reference = minerva::reference(solution).unwrap_or_else(|| panic!("no reference in {solution}"));
        let response = format!("Final Answer: The final answer is ${answer}$. I hope it is correct.");
        assert!(minerva::is_equiv(&minerva::normalise(&minerva::final_answer(&response)), &reference), "{answer} and {reference}");
        assert!(hendrycks::is_equiv(answer, hendrycks::reference(solution).unwrap()), "{answer}");
    }
}
