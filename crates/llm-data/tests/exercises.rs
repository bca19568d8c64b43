//! Properties of the generated exercises. The gold answers are checked by an evaluator that shares no code with the
//! generator: it reads the operands back out of the prompt's text and computes the answer from them.

use llm_data::exercises::{self, Category, Exercise, ExercisesConfig, Language, generate, is_correct};
use std::collections::{BTreeMap, BTreeSet, HashSet};

fn config(seed: u64) -> ExercisesConfig {
    ExercisesConfig { count_train: 3000, count_heldout: 450, seed, ..ExercisesConfig::default() }
}

fn numbers(text: &str) -> Vec<i64> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect()
}

fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// The answer by reading the prompt.
fn evaluate(e: &Exercise) -> String {
    let text = e.prompt();
    let n = numbers(text);
    let says = |stems: &[&str]| stems.iter().any(|s| text.contains(s));
    match e.category {
        Category::Addition => n.iter().sum::<i64>().to_string(),
        Category::Subtraction | Category::MissingAddend => (n.iter().max().unwrap() - n.iter().min().unwrap()).to_string(),
        Category::TwoStep => (n[0] + n[1] - n[2]).to_string(),
        Category::Multiplication => n.iter().product::<i64>().to_string(),
        Category::Comparison if says(&["larger", "maximum", "größer", "Maximum", "mayor", "máximo"]) => n.iter().max().unwrap().to_string(),
        Category::Comparison if says(&["smaller", "minimum", "kleiner", "Minimum", "menor", "mínimo"]) => n.iter().min().unwrap().to_string(),
        Category::Comparison => panic!("comparison without direction: {text}"),
        Category::Sequence => (2 * n[n.len() - 1] - n[n.len() - 2]).to_string(),
        Category::Counting => quoted(text)[1].split(' ').filter(|w| *w == quoted(text)[0]).count().to_string(),
        Category::Instruction => {
            let argument = quoted(text)[0];
            if says(&["capital", "upper case", "Großbuchstaben", "mayúsculas"]) {
                argument.to_uppercase()
            } else if says(&["backwards", "Reverse", "rückwärts", "Drehe", "al revés", "Invierte"]) {
                argument.chars().rev().collect()
            } else if says(&["first letter", "Buchstabe von", "Buchstaben von", "primera letra"]) {
                argument.chars().next().unwrap().to_string()
            } else if says(&["last word", "letzte Wort", "última palabra"]) {
                argument.split(' ').next_back().unwrap().to_string()
            } else {
                vec![argument; n[0] as usize].join(" ")
            }
        }
    }
}

/// Value of `a+b-c`, `a*b+c`, as written in the reasoning.
fn value(expression: &str) -> i64 {
    let mut total = 0;
    let mut sign = 1;
    let mut rest = expression;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        total += sign * rest[..end].split('*').map(|f| f.parse::<i64>().unwrap()).product::<i64>();
        if end == rest.len() {
            return total;
        }
        sign = if rest.as_bytes()[end] == b'+' { 1 } else { -1 };
        rest = &rest[end + 1..];
    }
}

fn is_arithmetic(category: Category) -> bool {
    !matches!(category, Category::Counting | Category::Instruction)
}

/// What is computed, without language and wording: read from the prompt, with commuting operands sorted.
fn identity(e: &Exercise) -> Option<(&'static str, Vec<i64>)> {
    let mut n = numbers(e.prompt());
    let name = match e.category {
        Category::MissingAddend => "subtraction",
        c if is_arithmetic(c) => c.name(),
        _ => return None,
    };
    match e.category {
        Category::TwoStep => n[..2].sort_unstable(),
        Category::Sequence => {}
        _ => n.sort_unstable(),
    }
    Some((name, n))
}

#[test]
fn gold_answers_are_what_an_independent_reader_computes() {
    for seed in 0..3 {
        let generated = generate(&config(seed)).unwrap();
        for e in generated.train.iter().chain(&generated.heldout) {
            assert_eq!(evaluate(e), e.answer, "{}", e.prompt());
            assert!(!e.prompt().contains(['{', '}']), "unfilled placeholder: {}", e.prompt());
            let assistant = &e.messages[1];
            assert_eq!(assistant.content, e.answer);
            let response = format!("<think>{}</think>{}<|eot_id|>", e.reasoning(), assistant.content);
            assert!(is_correct(&response, &e.answer), "{response}");
            assert!(!is_correct(&response, &format!("{}1", e.answer)));
        }
    }
}

#[test]
fn every_step_of_the_reasoning_holds_and_it_ends_in_the_answer() {
    let largest = ExercisesConfig { largest: 999, ..config(5) };
    for config in [config(4), largest] {
        for e in generate(&config).unwrap().train.iter().filter(|e| is_arithmetic(e.category)) {
            for step in e.reasoning().split([',', ':', ' ']).filter(|s| !s.is_empty()) {
                if let Some((left, right)) = step.split_once('=') {
                    assert_eq!(value(left), value(right), "{step} in {}", e.reasoning());
                } else if let Some((left, right)) = step.split_once('<') {
                    assert!(value(left) < value(right), "{step}");
                } else if let Some((left, right)) = step.split_once('>') {
                    assert!(value(left) > value(right), "{step}");
                }
            }
            let states_relation = e.category == Category::Comparison && !e.reasoning().contains(':');
            assert!(states_relation || e.reasoning().ends_with(&e.answer), "{} -> {}", e.reasoning(), e.answer);
        }
    }
}

#[test]
fn heldout_problems_occur_in_no_language_of_the_training_set() {
    let generated = generate(&config(1)).unwrap();
    let trained: HashSet<_> = generated.train.iter().filter_map(identity).collect();
    let heldout: Vec<_> = generated.heldout.iter().filter_map(identity).collect();
    assert!(heldout.len() > 300);
    for problem in &heldout {
        assert!(!trained.contains(problem), "{problem:?}");
    }
    assert_eq!(heldout.iter().collect::<HashSet<_>>().len(), heldout.len(), "held-out problems repeat");
    let prompts: HashSet<_> = generated.train.iter().map(Exercise::prompt).collect();
    assert_eq!(prompts.len(), generated.train.len(), "training prompts repeat");

    // More training rows never move a problem to the other side.
    let more = generate(&ExercisesConfig { count_train: 6000, ..config(1) }).unwrap();
    assert_eq!(more.heldout, generated.heldout);
}

#[test]
fn words_of_instructions_are_held_out_by_meaning() {
    let weights = toml_weights("instruction");
    let generated = generate(&ExercisesConfig { weights, count_train: 600, count_heldout: 60, ..config(2) }).unwrap();
    let tasks = |rows: &[Exercise], lang| -> BTreeSet<(String, String)> {
        let rows = rows.iter().filter(|e| e.lang == lang);
        rows.map(|e| (quoted(e.prompt())[0].to_string(), e.answer.clone())).collect()
    };
    for lang in Language::ALL {
        assert!(tasks(&generated.train, lang).is_disjoint(&tasks(&generated.heldout, lang)));
    }
}

fn toml_weights(only: &str) -> exercises::Weights {
    let zeros: BTreeMap<&str, f64> = Category::ALL.iter().map(|c| (c.name(), f64::from(c.name() == only))).collect();
    serde_json::from_value(serde_json::to_value(zeros).unwrap()).unwrap()
}

#[test]
fn shares_are_those_of_the_configuration() {
    let config = config(3);
    let generated = generate(&config).unwrap();
    let share = |pick: &dyn Fn(&Exercise) -> bool| generated.train.iter().filter(|e| pick(e)).count() as f64 / generated.train.len() as f64;
    for lang in Language::ALL {
        assert!((share(&|e| e.lang == lang) - 1.0 / 3.0).abs() < 1e-9);
        for category in Category::ALL {
            let expected = config.weights.of(category) / Category::ALL.iter().map(|c| config.weights.of(*c)).sum::<f64>() / 3.0;
            assert!((share(&|e| e.lang == lang && e.category == category) - expected).abs() < 0.002, "{lang:?} {category:?}");
        }
    }
    let worked = generated.train.iter().filter(|e| e.category == Category::Addition && e.reasoning().contains(':')).count() as f64;
    let additions = generated.train.iter().filter(|e| e.category == Category::Addition).count() as f64;
    assert!((worked / additions - 0.5).abs() < 0.06);
    for (worked_share, all_worked) in [(0.0, false), (1.0, true)] {
        let one_style = generate(&ExercisesConfig { worked_share, ..config.clone() }).unwrap();
        let additions = one_style.train.iter().filter(|e| e.category == Category::Addition);
        assert!(additions.into_iter().all(|e| e.reasoning().contains(':') == all_worked));
    }
}

/// A category's own share of worked solutions goes before the general one, and moves no problem.
#[test]
fn a_category_may_have_its_own_share_of_worked_solutions() {
    let plain = config(6);
    let own = ExercisesConfig { worked_shares: [(Category::Subtraction, 0.0), (Category::Addition, 1.0)].into(), ..plain.clone() };
    let (plain, own) = (generate(&plain).unwrap(), generate(&own).unwrap());
    for (category, worked) in [(Category::Subtraction, false), (Category::Addition, true)] {
        assert!(own.train.iter().filter(|e| e.category == category).all(|e| e.reasoning().contains(':') == worked), "{category:?}");
    }
    let prompts = |rows: &[Exercise]| rows.iter().map(|e| e.messages[0].content.clone()).collect::<Vec<_>>();
    assert_eq!(prompts(&plain.heldout), prompts(&own.heldout));
}

/// With digits as single tokens every character of an arithmetic line is at most one token.
#[test]
fn reasoning_and_prompts_stay_short() {
    let generated = generate(&config(6)).unwrap();
    let arithmetic = || generated.train.iter().filter(|e| is_arithmetic(e.category));
    let lengths: Vec<usize> = arithmetic().map(|e| e.reasoning().len()).collect();
    assert!(lengths.iter().sum::<usize>() / lengths.len() <= 24);
    for e in arithmetic() {
        let limit = if e.category == Category::TwoStep { 56 } else { 40 };
        assert!(e.reasoning().len() <= limit, "{} characters: {}", e.reasoning().len(), e.reasoning());
    }
    assert!(generated.train.iter().all(|e| e.prompt().chars().count() <= 110));
}

#[test]
fn files_survive_a_round_trip_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.jsonl");
    let rows = generate(&ExercisesConfig { count_train: 20, ..config(7) }).unwrap().train;
    exercises::write(&path, &rows).unwrap();
    assert_eq!(exercises::read(&path).unwrap(), rows);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 30]).unwrap();
    let message = exercises::read(&path).unwrap_err().to_string();
    assert!(message.contains("train.jsonl") && message.contains("line 20"), "{message}");
}

#[test]
fn impossible_settings_are_refused_with_the_setting_named() {
    for (config, named) in [
        (ExercisesConfig { languages: vec![], ..config(0) }, "languages"),
        (ExercisesConfig { worked_share: 1.5, ..config(0) }, "worked_share"),
        (ExercisesConfig { worked_shares: [(Category::TwoStep, -0.1)].into(), ..config(0) }, "worked_shares.two_step"),
        (ExercisesConfig { largest: 5, ..config(0) }, "largest"),
        (ExercisesConfig { count_heldout: 100_000, ..config(0) }, "count_heldout"),
    ] {
        let message = generate(&config).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}
