//! The task engine: prompts against lm-evaluation-harness, numbers against hand, kill and resume against an undisturbed run.

use llm_eval::backend::{Backend, Identity};
use llm_eval::evaluate::evaluate_on;
use llm_eval::journal::Journal;
use llm_eval::model::LanguageModel;
use llm_eval::prompt::{Chat, Instance, Prompt, instances, prompts};
use llm_eval::samples;
use llm_eval::task::Task;
use llm_eval::tokens::Tokens;
use llm_eval::{Error, Options, Result, evaluate, tasks};
use llm_infer::{Completion, Likelihood, Request, Scored};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::Value;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Real benchmark files, which are not part of the repository.
fn data() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/benchmarks")).to_path_buf();
    if !path.exists() {
        eprintln!("skipped: no benchmark files under {}", path.display());
    }
    path.exists().then_some(path)
}

fn fnv(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// A chat as the fixture's generator writes it.
fn written(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat { messages, .. } => messages.iter().map(|m| format!("{}\u{1f}{}\u{1d}", m.role, m.content)).collect(),
    }
}

/// `benches/peers/make_eval_fixtures.py` recorded what the harness asks: few-shot draws, delimiters, choices, chats.
#[test]
fn requests_are_those_of_the_harness() {
    let Some(data) = data() else { return };
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/eval/lm_eval_requests.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let name = case["task"].as_str().unwrap();
        let task = tasks::find(&[name.to_string()], &data).unwrap().remove(0);
        let (spec, loaded) = (task.spec(), task.load(&data).unwrap());
        let chat = Chat { apply: case["chat"] == true, multiturn: case["multiturn"] == true, system: String::new() };
        let shots = if spec.fixed_shots { spec.shots } else { case["shots"].as_u64().unwrap() as usize };
        let hashes: Vec<&str> = case["hashes"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
        for (i, prompt) in prompts(spec, &loaded, shots, hashes.len(), &chat).unwrap().iter().enumerate() {
            let text = |instance: Instance| match instance {
                Instance::Likelihood { prompt, continuation } => format!("{}\u{1e}{continuation}", written(&prompt)),
                other => format!("{other:?}"),
            };
            let asked: Vec<String> = instances(spec, &loaded.documents[i], prompt).into_iter().map(text).collect();
            assert_eq!(fnv(&asked.join("\u{1c}")), hashes[i], "{name}, document {i}, {case:.90}: {asked:#?}");
        }
    }
}

fn tokenizer() -> Tokenizer {
    static ONCE: OnceLock<Tokenizer> = OnceLock::new();
    let text = "Question: why is the sun warm? Answer: because it shines. A man walks home, he stops. ";
    ONCE.get_or_init(|| train([text.repeat(20)], &TrainerConfig { vocab_size: 300, ..TrainerConfig::default() }).unwrap()).clone()
}

/// A model of known likelihoods that may die after a number of calls.
struct Scripted {
    key: &'static str,
    context: usize,
    scored: Cell<usize>,
    dies_after: usize,
}

impl Scripted {
    fn new(key: &'static str) -> Self {
        Self { key, context: 64, scored: Cell::new(0), dies_after: usize::MAX }
    }
}

fn log_p(tokens: &[u32], i: usize) -> f64 {
    -(1.0 + f64::from((tokens[i - 1] * 31 + tokens[i]) % 13)) / 3.0
}

impl LanguageModel for Scripted {
    fn tokenizer(&self) -> &Tokenizer {
        static ONCE: OnceLock<Tokenizer> = OnceLock::new();
        ONCE.get_or_init(tokenizer)
    }
    fn context_length(&self) -> usize {
        self.context
    }
    fn log_probabilities(&self, _: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        Err(Error::Config("not asked for".into()))
    }
    fn likelihoods(&self, sequences: &[Scored]) -> Result<Vec<Likelihood>> {
        if self.scored.get() >= self.dies_after {
            return Err(Error::Config("killed".into()));
        }
        self.scored.set(self.scored.get() + sequences.len());
        assert!(sequences.iter().all(|s| s.tokens.len() <= self.context + 1), "a sequence exceeds the context");
        let one =
            |s: &Scored| Likelihood { sum: (s.start..s.tokens.len()).map(|i| log_p(s.tokens, i)).sum(), greedy: s.tokens.len().is_multiple_of(3) };
        Ok(sequences.iter().map(one).collect())
    }
    fn generate(&self, _: Vec<Request>, _: &mut dyn FnMut(usize, &Completion) -> Result<()>) -> Result<Vec<Completion>> {
        Err(Error::Config("not asked for".into()))
    }
    fn identity(&self) -> Identity {
        Identity { id: "scripted".into(), key: self.key.into(), ..Identity::default() }
    }
}

/// Two subjects of MMLU and a LAMBADA of ours.
fn write_data(dir: &Path) {
    std::fs::create_dir_all(dir.join("mmlu/test")).unwrap();
    std::fs::create_dir_all(dir.join("lambada")).unwrap();
    for (subject, n) in [("anatomy", 300), ("virology", 100)] {
        let rows: String = (0..n).map(|i| format!("\"Why, {i}?\",sun,\"warm, home\",man {i},stops,{}\n", ["A", "B", "C", "D"][i % 4])).collect();
        std::fs::write(dir.join(format!("mmlu/test/{subject}_test.csv")), rows).unwrap();
    }
    let lines: String = (0..50).map(|i| format!("{{\"text\": \"A man walks {i} home, he {}\"}}\n", "stops ".repeat(i % 30).trim_end())).collect();
    std::fs::write(dir.join("lambada/lambada_test.jsonl"), lines).unwrap();
}

fn chosen(dir: &Path) -> Vec<Box<dyn Task>> {
    tasks::find(&["mmlu".into(), "lambada".into()], dir).unwrap()
}

#[test]
fn numbers_follow_from_the_likelihoods() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let options = Options { data: dir.path().to_path_buf(), resamples: 50, ..Options::default() };
    let model = Scripted::new("");
    let got = evaluate(&model, &chosen(dir.path()), &options).unwrap();
    let (anatomy, virology, group) = (&got.tasks["mmlu_anatomy@lm-eval@1"], &got.tasks["mmlu_virology@lm-eval@1"], &got.tasks["mmlu@lm-eval@2"]);
    assert_eq!((anatomy.n, virology.n, group.n, got.samples.len()), (300, 100, 400, 450));
    assert!((group.value - (anatomy.value * 300.0 + virology.value * 100.0) / 400.0).abs() < 1e-12);
    // By hand from the rows: what the model was shown, cut from the left to its context.
    let bos = model.tokenizer().bos_id().unwrap();
    for row in &got.samples {
        assert_eq!((row.prompt_tokens[0], row.prompt_tokens.iter().filter(|&&t| t == bos).count()), (bos, 1), "exactly one begin-of-text token");
        for (choice, sum) in row.choice_tokens.iter().zip(&row.log_likelihoods) {
            let whole: Vec<u32> = row.prompt_tokens.iter().chain(choice).copied().collect();
            let seen = &whole[whole.len().saturating_sub(65)..];
            let expected: f64 = (seen.len() - choice.len()..seen.len()).map(|i| log_p(seen, i)).sum();
            assert!((sum - expected).abs() < 1e-9, "{}: {sum} is not {expected}", row.id);
        }
        if row.task.starts_with("mmlu") {
            let best = llm_eval::metrics::argmax(row.log_likelihoods.iter().copied());
            assert_eq!(row.correct, Some(Some(best.to_string()) == row.gold), "{}", row.id);
        }
    }
    let lambada = &got.tasks["lambada_openai@lm-eval@1"];
    let rows: Vec<_> = got.samples.iter().filter(|s| s.task.starts_with("lambada")).collect();
    let perplexity = (-rows.iter().map(|s| s.log_likelihoods[0]).sum::<f64>() / 50.0).exp();
    let reported = lambada.details["metrics"]["perplexity"]["value"].as_f64().unwrap();
    assert!((reported - perplexity).abs() < 1e-9 * perplexity, "{reported} is not {perplexity}");
    let limited = evaluate(&model, &chosen(dir.path()), &Options { limit: Some(7), ..options }).unwrap();
    assert_eq!(limited.tasks["mmlu@lm-eval@2"].n, 14);
    assert_eq!(limited.samples[0], got.samples[0], "a limit takes the first ones");
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let tasks = chosen(dir.path());
    let options = Options { data: dir.path().to_path_buf(), resamples: 50, ..Options::default() };
    let run = |model: &Scripted, journal: &mut Journal| evaluate_on(&Tokens::new(model, None).unwrap(), &tasks, &options, Some(journal));
    let bytes = |name: &str, samples: &[samples::Sample]| {
        samples::write(&dir.path().join(name), samples).unwrap();
        std::fs::read(dir.path().join(name)).unwrap()
    };
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    std::fs::create_dir_all(&whole).unwrap();
    std::fs::create_dir_all(&killed).unwrap();
    let undisturbed = Scripted::new("weights");
    let expected = run(&undisturbed, &mut Journal::open(&whole).unwrap()).unwrap();

    let dying = Scripted { dies_after: 900, ..Scripted::new("weights") };
    assert!(run(&dying, &mut Journal::open(&killed).unwrap()).unwrap_err().to_string().contains("killed"));
    // The kill came in the middle of a write.
    let path = killed.join(llm_eval::journal::FILE);
    let written = std::fs::read(&path).unwrap();
    std::fs::write(&path, &written[..written.len() - 7]).unwrap();
    let going_on = Scripted::new("weights");
    let got = run(&going_on, &mut Journal::open(&killed).unwrap()).unwrap();
    assert_eq!(got.tasks, expected.tasks);
    assert_eq!(bytes("a.parquet", &got.samples), bytes("b.parquet", &expected.samples));
    assert!(going_on.scored.get() < undisturbed.scored.get(), "nothing was taken from the journal");

    // Another model finds nothing in this journal: its answers are its own.
    let stranger = Scripted::new("other weights");
    run(&stranger, &mut Journal::open(&killed).unwrap()).unwrap();
    assert_eq!(stranger.scored.get(), undisturbed.scored.get(), "another model's answers were taken");
    let again = Scripted::new("weights");
    run(&again, &mut Journal::open(&killed).unwrap()).unwrap();
    assert_eq!(again.scored.get(), 0);
}

/// Harness `_encode_pair` and `loglikelihood`: blanks move, an empty context becomes the prefix token, nothing is doubled.
#[test]
fn pairs_are_encoded_as_in_the_harness() {
    let model = Scripted::new("");
    let tokens = Tokens::new(&model, None).unwrap();
    let (tokenizer, bos) = (model.tokenizer(), model.tokenizer().bos_id().unwrap());
    let pair = |context: &str, continuation: &str| {
        let instance = Instance::Likelihood { prompt: Prompt::Text(context.into()), continuation: continuation.into() };
        tokens.prepare(&[instance]).map(|mut p| p.remove(0))
    };
    let with_bos = |text: &str| std::iter::once(bos).chain(tokenizer.encode(text)).collect::<Vec<u32>>();
    let moved = pair("the sun  ", "is").unwrap();
    assert_eq!((moved.context.clone(), [moved.context, moved.continuation].concat()), (with_bos("the sun"), with_bos("the sun  is")));
    let empty = pair("", "the sun").unwrap();
    assert_eq!((empty.context, empty.continuation), (vec![bos], tokenizer.encode("the sun")));
    let begun = pair("", "<|begin_of_text|>the sun").unwrap();
    assert_eq!((begun.context, begun.continuation), (vec![bos], tokenizer.encode("the sun")));
    let twice = pair("<|begin_of_text|>the", " sun").unwrap();
    assert_eq!(twice.context, with_bos("the"));
    assert!(pair("the sun", "").unwrap_err().to_string().contains("adds no token"));
    let without = Tokens::new(&model, Some(false)).unwrap();
    let plain = without.prepare(&[Instance::Likelihood { prompt: Prompt::Text("the sun".into()), continuation: " is".into() }]).unwrap();
    assert_eq!(plain[0].context, tokenizer.encode("the sun"));
}

/// Harness `get_rolling_token_windows` with a context of one: every token once, windows of the whole context, and a last one that
/// sees as much before it as fits.
#[test]
fn rolling_windows_are_those_of_the_harness() {
    let model = Scripted { context: 10, ..Scripted::new("") };
    let tokens = Tokens::new(&model, Some(false)).unwrap();
    let text = "the sun is warm and a man walks home, why he stops";
    let asked = [Instance::Rolling { text: text.into() }];
    let prepared = tokens.prepare(&asked).unwrap();
    let ids = &prepared[0].continuation;
    assert!(ids.len() > 20 && !ids.len().is_multiple_of(10), "{} tokens", ids.len());
    let all: Vec<u32> = prepared[0].context.iter().chain(ids).copied().collect();
    let mut got = None;
    tokens
        .answer(&asked, &prepared, &[false], &mut |_, answer| {
            got = Some(answer.sum());
            Ok(())
        })
        .unwrap();
    // The likelihoods of this model depend on one token before, which every window holds.
    let expected: f64 = (1..all.len()).map(|i| log_p(&all, i)).sum();
    assert!((got.unwrap() - expected).abs() < 1e-9);
    assert_eq!(model.scored.get(), ids.len().div_ceil(10));
}
