//! Fertility: numbers worked out by hand, tokenizers side by side as alone, and a page that nothing in a sample can break.
mod common;

use common::{any_text, fixtures, hard_texts, trained};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::fertility::{Candidate, Counts, Fertility, Measure, Piece, Report, language, page, table, unique_names};
use llm_tokenizer::sample::{Reader, Sample};
use llm_tokenizer::trainer::{Model, SPECIAL_TOKENS, TrainerConfig, train};
use proptest::prelude::*;
use std::path::PathBuf;
use std::process::Command;

const EVIL: &str = "</span></p><script>alert('x')</script>\"><img src=x onerror=y>&\u{1b}[31m and so it goes on for a while.";

/// Bytes, and in this order `he`, `the`, ` the`.
fn the() -> Tokenizer {
    let config = TrainerConfig { vocab_size: 256 + 3 + SPECIAL_TOKENS.len(), ..TrainerConfig::default() };
    train(["the the the the"], &config).unwrap()
}

fn fixture(name: &str) -> Tokenizer {
    Tokenizer::load(fixtures().join("tokenizers").join(name)).unwrap()
}

fn sample(text: &str, lang: &str, link: &str) -> Sample {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
    Sample { text: text.to_string(), lang: some(lang), domain: None, parallel: some(link), id: None }
}

fn measure(tokenizers: Vec<(&str, Tokenizer)>, samples: &[Sample]) -> Report {
    let mut measure = Measure::new(tokenizers.into_iter().map(|(name, t)| Candidate::new(name, t)).collect());
    measure.feed(samples);
    measure.finish()
}

/// Texts of three languages with and without domains and translations.
fn samples() -> Vec<Sample> {
    let mut samples: Vec<Sample> = Reader::open(fixtures().join("tokenizers/udhr.jsonl")).unwrap().map(Result::unwrap).collect();
    samples.extend(hard_texts().iter().enumerate().map(|(i, text)| sample(text, ["en", "de", "zh", ""][i % 4], "")));
    samples
}

fn close(a: Option<f64>, b: f64) -> bool {
    a.is_some_and(|a| (a - b).abs() < 1e-12)
}

#[test]
fn the_numbers_of_a_known_text() {
    let report = measure(vec![("the", the())], &[sample("the the cat", "en", "1"), sample("die Öl", "de", "1")]);
    let fertility = &report.tokenizers[0];
    let (en, de) = (fertility.by_lang["en"], fertility.by_lang["de"]);
    // `the`, ` the`, and ` `, `c`, `a`, `t`.
    assert_eq!((en.counts.tokens, en.counts.words, en.counts.single_token_words, en.counts.bytes), (6, 3, 2, 11));
    assert_eq!((en.tokens_per_word, en.context_share, en.parity_parallel, en.parallel_texts), (2.0, Some(1.0), Some(1.0), 1));
    assert_eq!((de.counts.tokens, de.counts.bytes, de.counts.characters, de.counts.words), (7, 7, 6, 2));
    assert_eq!((de.tokens_per_word, de.bytes_per_token, de.single_token_words, de.unknown_share), (3.5, 1.0, 0.0, 0.0));
    assert!((de.tokens_per_character - 7.0 / 6.0).abs() < 1e-12);
    assert!(close(de.context_share, 6.0 / 11.0) && close(de.parity_per_byte, 11.0 / 6.0) && close(de.training_flops_per_byte, 11.0 / 6.0));
    assert!(close(de.kv_cache_per_1000_characters, 77.0 / 36.0), "7 tokens of 6 characters against 6 of 11");
    assert!(close(de.parity_parallel, 7.0 / 6.0) && close(de.context_share_parallel, 6.0 / 7.0));
    assert_eq!(fertility.total.counts.tokens, 13);
    assert!(fertility.by_lang_and_domain.contains_key("de/unknown"));
    let words = report.sentence("de");
    for part in [
        "German gets 0.55 of English's window",
        "3.50 tokens per word",
        "1.83 times the training FLOPs",
        "2.14 times the KV",
        "1.17 times the tokens (1 translation)",
    ] {
        assert!(words.contains(part), "{part} not in: {words}");
    }
}

#[test]
fn what_a_vocabulary_cannot_spell_is_counted_and_is_no_word_of_one_token() {
    let tokenizer = fixture("wordpiece_bert");
    assert!(tokenizer.unk_id().is_some());
    let report = measure(vec![("wordpiece", tokenizer)], &[sample("漢字", "zh", "")]);
    let zh = report.tokenizers[0].by_lang["zh"];
    assert_eq!((zh.counts.tokens, zh.counts.unknown_tokens, zh.unknown_share, zh.counts.words, zh.counts.single_token_words), (2, 2, 1.0, 2, 0));
    assert!(page(&report).contains(">unknown<"));
    assert_eq!(the().unk_id(), None, "a byte-level vocabulary spells everything");
}

#[test]
fn side_by_side_is_the_same_as_alone() {
    let all = [("the", the()), ("trained", trained(600, 1)), ("wordpiece", fixture("wordpiece_bert")), ("unigram", fixture("unigram_metaspace"))];
    let samples = samples();
    let together = measure(all.to_vec(), &samples);
    for (one, beside) in all.iter().zip(&together.tokenizers) {
        let alone = measure(vec![one.clone()], &samples);
        let expected = Fertility { tokens_vs_first: beside.tokens_vs_first.clone(), ..alone.tokenizers[0].clone() };
        assert_eq!(*beside, expected, "{}", one.0);
        let cuts = |report: &Report| -> Vec<_> { report.examples.iter().flat_map(|e| e.cuts.clone()).filter(|c| c.tokenizer == one.0).collect() };
        assert_eq!(cuts(&alone), cuts(&together));
    }
    for t in &together.tokenizers {
        for (lang, group) in &t.by_lang {
            let first = together.tokenizers[0].by_lang[lang];
            assert_eq!(
                (group.counts.bytes, group.counts.words, group.counts.documents),
                (first.counts.bytes, first.counts.words, first.counts.documents)
            );
            assert!((t.tokens_vs_first[lang] - group.counts.tokens as f64 / first.counts.tokens as f64).abs() < 1e-12);
        }
        assert_eq!(t.by_lang["de"].parallel_texts, 30);
        assert!(t.by_lang["zh"].parity_parallel.is_none());
    }
}

#[test]
fn a_text_with_several_translations_counts_once() {
    let byte = |text: &str, lang: &str, link: &str| sample(text, lang, link);
    let samples = [byte("abcd", "en", "1"), byte("xy", "de", "1"), byte("xxyyxx", "de", "1"), byte("only here", "de", "2"), byte("alone", "en", "3")];
    let report = measure(vec![("the", the())], &samples);
    let (en, de) = (report.tokenizers[0].by_lang["en"], report.tokenizers[0].by_lang["de"]);
    assert_eq!((de.parity_parallel, de.parallel_texts), (Some(1.0), 1), "(2 + 6) / 2 tokens against 4");
    assert_eq!((en.parity_parallel, en.parallel_texts), (Some(1.0), 1));
    // Numbers of documents link nothing.
    let report = measure(vec![("the", the())], &[byte("abcd", "en", "1"), byte("xy", "de", "2")]);
    assert!(!report.has_parallel());
}

#[test]
fn an_example_is_the_text_in_pieces() {
    let report = measure(vec![("the", the()), ("trained", trained(600, 1))], &samples());
    assert_eq!(report.examples.iter().map(|e| e.lang.as_str()).collect::<Vec<_>>(), ["en", "de", "es", "zh", "unknown"]);
    let shared: Vec<_> = report.examples.iter().filter_map(|e| e.parallel.as_deref()).collect();
    assert!(shared.len() == 3 && shared.iter().all(|link| *link == shared[0]), "{shared:?}: the same sentence in all three");
    for example in &report.examples {
        for cut in &example.cuts {
            let bytes: Vec<u8> = cut
                .pieces
                .iter()
                .flat_map(|p| match p {
                    Piece::Text(text) => text.clone().into_bytes(),
                    Piece::Bytes(bytes) => bytes.clone(),
                })
                .collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), example.text);
            assert_eq!(cut.ids.len(), cut.pieces.len());
        }
    }
    let umlaut = &measure(vec![("the", the())], &[sample("Öl", "de", "")]).examples[0].cuts[0].pieces;
    assert_eq!(umlaut[..2], [Piece::Bytes(vec![0xC3]), Piece::Bytes(vec![0x96])], "half a character is bytes");
}

fn is_sound(page: &str) {
    for name in ["div", "section", "table", "tr", "td", "figure", "svg", "span", "p", "ul", "li", "text", "details", "dl", "title", "rect"] {
        let open = page.matches(&format!("<{name} ")).count() + page.matches(&format!("<{name}>")).count();
        assert_eq!(open, page.matches(&format!("</{name}>")).count(), "{name}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf<"));
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("url(") && !page.contains("<script"), "the page needs no network");
}

#[test]
fn hostile_text_cannot_become_markup() {
    let mut rows = vec![sample(EVIL, EVIL, EVIL), sample(EVIL, "en", EVIL), sample("Ein ganz gewöhnlicher deutscher Satz.", "de", "")];
    rows[0].domain = Some(EVIL.to_string());
    let report = measure(vec![(EVIL, the()), ("b", fixture("wordpiece_bert"))], &rows);
    let page = page(&report);
    is_sound(&page);
    assert!(!page.contains("<img") && !page.contains('\u{1b}') && page.contains("&lt;script&gt;"));
    assert!(!table(&report).contains('\u{1b}'), "control characters must not reach the terminal");
}

#[test]
fn samples_without_languages_still_have_a_report() {
    let report = measure(vec![("the", the())], &[sample("the cat sat on the mat", "", ""), sample("and on the log", "", "7")]);
    assert_eq!(report.langs(), ["unknown"]);
    let group = report.tokenizers[0].by_lang["unknown"];
    assert_eq!((group.context_share, group.kv_cache_per_1000_characters, group.parity_parallel), (None, None, None));
    let page = page(&report);
    is_sound(&page);
    assert!(page.contains("There is no English text to compare with") && page.contains("Tokens per word") && !page.contains("Share of the context"));
    assert!(table(&report).contains("Text of no known language takes"));
    let json = report.to_json().unwrap();
    assert!(json["total"]["context_share"].is_null() && json["tokenizers"][0]["total"]["tokens"] == group.counts.tokens);
}

#[test]
fn another_language_can_be_the_measure() {
    let mut measure = Measure::new(vec![Candidate::new("the", the())]).reference("de");
    measure.feed(&[sample("the the", "en", ""), sample("die", "de", "")]);
    let report = measure.finish();
    assert!(close(report.tokenizers[0].by_lang["en"].context_share, 3.5) && report.langs() == ["de", "en"]);
    assert!(report.sentence("en").starts_with("English gets 3.50 of German's window"));
}

#[test]
fn the_table_fits_80_columns() {
    let long = "a/very/long/path/to/a/tokenizer/that/has/an/even/longer/name/that/nobody/could/fit/into/a/column-of-a-table";
    let report = measure(vec![(long, the()), ("b", trained(600, 1))], &samples());
    let text = table(&report);
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert!(text.contains("German") && text.contains("window"));
    let short = table(&measure(vec![("the", the())], &samples()));
    assert!(short.lines().filter(|l| l.contains(" % ")).count() >= 6, "{short}");
}

#[test]
fn names_come_from_folders_and_are_unique() {
    let names = |paths: &[&str]| unique_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(names(&["/x/a", "/x/b"]), ["a", "b"]);
    assert_eq!(names(&["/x/one/tok", "/x/two/tok", "/x/c"]), ["one/tok", "two/tok", "c"]);
    assert_eq!(names(&["/x/a/tokenizer.json", "/x/a/other.json"]), ["a", "other"]);
    assert_eq!(names(&["/x/a", "/x/a"]), ["x/a", "x/a (2)"]);
    assert_eq!(names(&["/tok", "/x/tok"]), ["tok", "x/tok"]);
    assert_eq!((language("de"), language("de-AT"), language("tlh")), ("German".into(), "German (de-AT)".into(), "tlh".into()));
}

#[test]
fn the_file_has_the_fields_others_read() {
    let report = measure(vec![("the", the()), ("trained", trained(600, 1))], &samples());
    let json = report.to_json().unwrap();
    for key in ["vocab_size", "total", "by_lang", "by_domain", "by_lang_and_domain", "reference", "tokenizers", "examples", "sentences"] {
        assert!(!json[key].is_null(), "{key}");
    }
    assert_eq!(json["by_lang"], json["tokenizers"][0]["by_lang"], "at the top is the first");
    let group: Vec<&String> = json["by_lang"]["de"].as_object().unwrap().keys().collect();
    let expected = [
        "documents",
        "bytes",
        "characters",
        "words",
        "single_token_word_count",
        "tokens",
        "unknown_tokens",
        "tokens_per_word",
        "tokens_per_character",
        "bytes_per_token",
        "characters_per_token",
        "single_token_words",
        "unknown_share",
        "context_share",
        "parity_per_byte",
        "parallel_texts",
        "parity_parallel",
        "context_share_parallel",
        "training_flops_per_byte",
        "kv_cache_per_1000_characters",
    ];
    assert_eq!(group, expected);
    let again: Report = serde_json::from_value(json).unwrap();
    assert_eq!(again.examples, report.examples);
}

#[test]
fn the_program_measures_two_folders_of_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    the().save(at("a/tok")).unwrap();
    trained(600, 1).save(at("b/tok")).unwrap();
    let samples = fixtures().join("tokenizers/udhr.jsonl");
    let run = |set: String, out: &str| {
        let out = at(out);
        let sets = [set, format!("samples=[{:?}]", samples.display().to_string())];
        let done = Command::new(env!("CARGO_BIN_EXE_llm-tokenizer"))
            .args(["fertility", "--set", &sets[0], "--set", &sets[1], "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = std::fs::read_to_string(out.join("fertility.json")).unwrap();
        is_sound(&std::fs::read_to_string(out.join("fertility.html")).unwrap());
        (serde_json::from_str::<serde_json::Value>(&text).unwrap(), String::from_utf8(done.stdout).unwrap())
    };
    let (both, shown) = run(format!("tokenizers=[{:?}, {:?}]", at("a/tok").display().to_string(), at("b/tok").display().to_string()), "both");
    assert_eq!((&both["tokenizers"][0]["name"], &both["tokenizers"][1]["name"]), (&"a/tok".into(), &"b/tok".into()));
    assert!(shown.contains("b/tok"), "{shown}");
    let (one, _) = run(format!("tokenizer={:?}", at("b/tok").display().to_string()), "one");
    assert_eq!(one["by_lang"], both["tokenizers"][1]["by_lang"]);
    assert_eq!(one["name"], "tok");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn batches_and_groups_add_up(texts in prop::collection::vec((any_text(), 0usize..3), 1..6)) {
        let rows: Vec<Sample> = texts.iter().map(|(text, lang)| sample(text, ["en", "de", ""][*lang], "")).collect();
        let at_once = measure(vec![("the", the())], &rows);
        let mut one_by_one = Measure::new(vec![Candidate::new("the", the())]);
        rows.iter().for_each(|row| one_by_one.feed(std::slice::from_ref(row)));
        prop_assert_eq!(&one_by_one.finish(), &at_once);
        let t = &at_once.tokenizers[0];
        for groups in [&t.by_lang, &t.by_domain, &t.by_lang_and_domain] {
            prop_assert_eq!(groups.values().map(|g| g.counts.tokens).sum::<u64>(), t.total.counts.tokens);
        }
        for g in t.by_lang.values() {
            if let (Some(share), Some(parity)) = (g.context_share, g.parity_per_byte) {
                prop_assert!((share * parity - 1.0).abs() < 1e-9);
            }
            prop_assert!(g.counts.single_token_words <= g.counts.words && g.counts.unknown_tokens == 0);
        }
    }
}

/// A tokenizer of pieces puts a blank in front by itself: `the` is one token to it as it is to others.
#[test]
fn words_of_one_piece_count() {
    let text = "the cat sat on the mat ".repeat(30);
    let config = TrainerConfig { vocab_size: 330, ..TrainerConfig::of(Model::SentencepieceBpe) };
    let tokenizer = train([text.as_str()], &config).unwrap();
    let counts = Counts::of(&[Candidate::new("pieces", tokenizer)], "the cat sat on the mat");
    assert_eq!((counts[0].words, counts[0].single_token_words), (6, 6));
}
