//! The index and what it finds: planted questions, edits, files that are damaged.

use super::*;
use proptest::prelude::*;

const LONG: &str = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take to make one robe?";
const SHORT: &str = "What happens to you if you eat watermelon seeds?";
const TINY: &str = "Is it true?";

fn index(normalisation: Normalisation) -> Index {
    let dir = tempfile::tempdir().unwrap();
    let lines: String =
        [LONG, SHORT, TINY].iter().map(|q| format!("{}\n", serde_json::json!({"question": q, "answer": "Nothing at all."}))).collect();
    std::fs::write(dir.path().join("quiz_test.jsonl"), lines).unwrap();
    std::fs::write(
        dir.path().join("quiz_train.jsonl"),
        "{\"question\": \"One two three four five six seven eight nine ten eleven twelve thirteen?\"}\n",
    )
    .unwrap();
    Index::build(&IndexConfig { benchmarks: vec![dir.path().to_path_buf()], normalisation, ..IndexConfig::default() }).unwrap()
}

fn filler(n: usize) -> String {
    (0..n).map(|i| format!("filler{i} ")).collect()
}

fn step(action: Action) -> Decontaminate {
    Decontaminate::new(&DecontaminateConfig { action, ..DecontaminateConfig::default() }, Arc::new(index(Normalisation::Words))).unwrap()
}

#[test]
fn long_questions_match_by_n_grams_short_ones_as_a_whole_tiny_ones_never() {
    let index = index(Normalisation::Words);
    let mut scratch = Scratch::default();
    let mut find = |text: &str| index.find(text, &mut scratch);
    let text = format!("{}{}{}", filler(30), LONG.to_uppercase(), filler(30));
    let spans = find(&text);
    assert_eq!(spans.len(), 1);
    assert_eq!(&text[spans[0].start..spans[0].end], LONG.to_uppercase().trim_end_matches('?'));
    // 26 words hold 14 runs of 13; the whole question plus its answer adds runs that are not in the text.
    assert_eq!(spans[0].ngrams, 26 - 13 + 1);
    assert_eq!(find(&format!("so {SHORT} yes")).len(), 1);
    assert_eq!(find("so What happens to you if you eat melon seeds? yes").len(), 0);
    assert_eq!(find(TINY).len(), 0);
    assert_eq!(find("one two three four five six seven eight nine ten eleven twelve thirteen fourteen").len(), 0, "training splits are not indexed");
    assert_eq!((index.info.files.len(), index.info.files[0].too_short), (1, 1));
    assert_eq!(index.info.benchmarks, ["quiz"]);
}

#[test]
fn an_edit_breaks_only_the_n_grams_over_it() {
    let index = index(Normalisation::Words);
    // The second word from the end: 13-grams before it stay.
    let edited = LONG.replace("one robe", "a robe");
    let spans = index.find(&edited, &mut Scratch::default());
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].ngrams, 24 - 13 + 1);
    // One in the middle leaves none of 26 words.
    assert_eq!(index.find(&LONG.replace("much white", "much green").replace("many", "few"), &mut Scratch::default()).len(), 0);
}

#[test]
fn janitor_ignores_punctuation_within_words() {
    let index = index(Normalisation::Janitor);
    let text = LONG.replace("2 bolts", "2, bolts").replace("fiber.", "fiber");
    assert_eq!(index.find(&text, &mut Scratch::default()).len(), 1);
}

#[test]
fn masking_cuts_a_margin_and_keeps_long_parts() {
    let step = step(Action::Mask);
    let (head, tail) = (filler(60), filler(70));
    let mut document = Document { id: "d".into(), text: format!("{head}{LONG} {tail}"), ..Document::default() };
    let mut trace = Trace::default();
    assert_eq!(step.apply(&mut document, &mut trace).unwrap(), Verdict::Keep);
    assert!(trace.counts.iter().any(|(name, n)| name == "contaminated by quiz" && *n == 1));
    let (before, after) = document.text.split_once("\n\n").unwrap();
    assert!(head.starts_with(before) && tail.trim_end().ends_with(after));
    // 200 characters and no broken word.
    assert!(head.len() - before.len() >= 200 && head.len() - before.len() < 212, "{}", head.len() - before.len());
    assert!(document.text.split_whitespace().all(|w| w.starts_with("filler")));
}

#[test]
fn short_rests_and_many_parts_drop_the_document() {
    let step = step(Action::Mask);
    let apply = |text: String| step.apply(&mut Document { text, ..Document::default() }, &mut Trace::default()).unwrap();
    assert!(matches!(apply(format!("{}{LONG}", filler(5))), Verdict::Drop(r) if r.check == "contamination"));
    let many: String = (0..11).map(|_| format!("{LONG} {}", filler(120))).collect();
    match apply(many) {
        Verdict::Drop(reason) => assert_eq!((reason.value, reason.threshold), ("quiz (11 parts)".into(), "10 parts".into())),
        Verdict::Keep => panic!("eleven parts must be too many"),
    }
    assert_eq!(apply((0..10).map(|_| format!("{LONG} {}", filler(120))).collect()), Verdict::Keep);
}

#[test]
fn drop_report_and_harmless_benchmarks() {
    let text = format!("{}{LONG}{}", filler(100), filler(100));
    let apply = |step: &Decontaminate| {
        let mut document = Document { text: text.clone(), ..Document::default() };
        (step.apply(&mut document, &mut Trace::default()).unwrap(), document.text == text)
    };
    assert!(matches!(apply(&step(Action::Drop)).0, Verdict::Drop(_)));
    assert_eq!(apply(&step(Action::Report)), (Verdict::Keep, true));
    let config = DecontaminateConfig { action: Action::Drop, report_only: vec!["quiz".into()], ..DecontaminateConfig::default() };
    let index = Arc::new(index(Normalisation::Words));
    assert_eq!(apply(&Decontaminate::new(&config, index.clone()).unwrap()), (Verdict::Keep, true));
    let typo = DecontaminateConfig { report_only: vec!["quizz".into()], ..config };
    assert!(Decontaminate::new(&typo, index).unwrap_err().to_string().contains("it has quiz"));
}

#[test]
fn templates_of_many_items_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let template = "For which of these two scenarios does the main character do something clearly morally wrong";
    let items = |n: usize| (0..n).map(|i| format!("{template} number{i}\n")).collect::<String>();
    let count = |n: usize| {
        std::fs::write(dir.path().join("scenes.txt"), items(n)).unwrap();
        let index = Index::build(&IndexConfig { benchmarks: vec![dir.path().to_path_buf()], ..IndexConfig::default() }).unwrap();
        (index.holds(template), index.info.templates, index.len())
    };
    // Sixteen words give four runs each; three of them are common to all.
    assert_eq!(count(10), (true, 0, 3 + 10));
    assert_eq!(count(11), (false, 3, 11));
}

#[test]
fn runs_of_numbers_are_no_match() {
    let dir = tempfile::tempdir().unwrap();
    let primes = "2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59";
    std::fs::write(
        dir.path().join("code.jsonl"),
        serde_json::json!({"prompt": format!("Return all of the primes below sixty in order: {primes}")}).to_string(),
    )
    .unwrap();
    let index = Index::build(&IndexConfig { benchmarks: vec![dir.path().to_path_buf()], ..IndexConfig::default() }).unwrap();
    assert!(!index.holds(primes) && index.holds(&format!("the primes below sixty in order: {primes}")));
}

#[test]
fn a_saved_index_is_the_same_and_damage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("contamination.idx");
    let index = index(Normalisation::Words);
    let size = index.save(&path).unwrap();
    assert_eq!(size, std::fs::metadata(&path).unwrap().len());
    let back = Index::open(&path).unwrap();
    assert_eq!((back.info.clone(), back.keys.clone(), back.values.clone(), back.sets.clone()), (index.info, index.keys, index.values, index.sets));
    assert!(back.holds(LONG) && back.holds(SHORT));
    let bytes = std::fs::read(&path).unwrap();
    for at in [0, 9, 40, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(Index::open(&path).unwrap_err().to_string().contains("contamination-index"));
    }
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    assert!(Index::open(&path).is_err());
}

#[test]
fn merged_parts_are_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("a_test.jsonl"), serde_json::json!({"question": LONG, "answer": "x"}).to_string()).unwrap();
    std::fs::write(at("b_test.jsonl"), serde_json::json!({"question": SHORT, "answer": LONG}).to_string()).unwrap();
    let build = |files: &[&str]| Index::build(&IndexConfig { benchmarks: files.iter().map(|f| at(f)).collect(), ..IndexConfig::default() });
    for part in ["a", "b"] {
        build(&[&format!("{part}_test.jsonl")]).unwrap().save(&at(&format!("{part}.idx"))).unwrap();
    }
    let (whole, merged) = (build(&["a_test.jsonl", "b_test.jsonl"]).unwrap(), build(&["a.idx", "b.idx"]).unwrap());
    assert_eq!((&whole.info, &whole.keys, &whole.values, &whole.sets), (&merged.info, &merged.keys, &merged.values, &merged.sets));
    assert_eq!((&whole.lengths, &whole.anchors), (&merged.lengths, &merged.anchors));
    let other = IndexConfig { benchmarks: vec![at("a.idx")], n: 8, ..IndexConfig::default() };
    assert!(Index::build(&other).unwrap_err().to_string().contains("cannot be merged"));
}

#[test]
fn nothing_configured_is_no_error() {
    assert!(Decontaminate::from_config(&DecontaminateConfig::default()).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn masking_leaves_no_n_gram_and_invents_no_word(before in 0usize..120, between in 0usize..120, after in 0usize..120) {
        let step = step(Action::Mask);
        let text = format!("{}{LONG} {}{SHORT} {}", filler(before), filler(between), filler(after));
        let outcome = step.outcome(&text, &mut Scratch::default());
        prop_assert!(!outcome.spans.is_empty());
        if let Some(new) = outcome.text {
            prop_assert!(step.index().find(&new, &mut Scratch::default()).is_empty());
            prop_assert!(new.split_whitespace().all(|w| text.contains(w)));
        }
    }

    #[test]
    fn any_text_is_accepted(text in any::<String>()) {
        let _ = step(Action::Mask).outcome(&text, &mut Scratch::default());
    }
}
