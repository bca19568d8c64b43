//! The tasks on models whose distribution is known, so that every number can be computed by hand.

use llm_data::document::{Document, DocumentWriter};
use llm_eval::compare::compare;
use llm_eval::config::RunConfig;
use llm_eval::model::LanguageModel;
use llm_eval::ngram::ByteTrigram;
use llm_eval::results::{Group, ModelInfo, Results};
use llm_eval::run::evaluate;
use llm_eval::{Result, exercises, samples};
use llm_infer::{Completion, FinishReason, Likelihood, Request, Scored};
use llm_run::Seed;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::json;
use std::path::Path;
use std::sync::OnceLock;

const TEXT: &str = "Die Sonne scheint auf das Dach. The sun shines on the roof. El sol brilla sobre el tejado. ";

fn tokenizer() -> Tokenizer {
    static ONCE: OnceLock<Tokenizer> = OnceLock::new();
    let make = || train([TEXT.repeat(20)], &TrainerConfig { vocab_size: 320, ..TrainerConfig::default() }).unwrap();
    ONCE.get_or_init(make).clone()
}

/// log p(token | previous token), not normalised: any number will do for bookkeeping.
fn log_p(previous: u32, token: u32) -> f32 {
    -(1.0 + ((previous * 31 + token) % 7) as f32)
}

/// Scores by [`log_p`] and answers with `reply(prompt text)`.
struct Scripted {
    tokenizer: Tokenizer,
    context: usize,
    reply: fn(&str) -> &'static str,
}

impl Scripted {
    fn new(context: usize, reply: fn(&str) -> &'static str) -> Self {
        Self { tokenizer: tokenizer(), context, reply }
    }
}

impl LanguageModel for Scripted {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
    fn context_length(&self) -> usize {
        self.context
    }
    fn log_probabilities(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        assert!(sequences.iter().all(|s| s.len() <= self.context), "a window exceeds the context");
        Ok(sequences.iter().map(|s| s.windows(2).map(|w| log_p(w[0], w[1])).collect()).collect())
    }
    fn likelihoods(&self, sequences: &[Scored]) -> Result<Vec<Likelihood>> {
        let sum = |s: &Scored| s.tokens[s.start - 1..].windows(2).map(|w| f64::from(log_p(w[0], w[1]))).sum();
        Ok(sequences.iter().map(|s| Likelihood { sum: sum(s), greedy: s.tokens.len().is_multiple_of(2) }).collect())
    }
    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize, &Completion) -> Result<()>) -> Result<Vec<Completion>> {
        let mut answer = |(place, request): (usize, Request)| {
            assert!(request.prompt.len() + request.sampling.max_tokens <= self.context);
            assert_eq!(request.sampling.temperature, 0.0);
            let mut tokens = self.tokenizer.encode_with_special((self.reply)(&self.tokenizer.decode(&request.prompt, false)));
            let finish_reason = if tokens.len() > request.sampling.max_tokens { FinishReason::Length } else { FinishReason::Stop };
            tokens.truncate(request.sampling.max_tokens);
            let completion = Completion::of(tokens.clone(), vec![0.0; tokens.len()], finish_reason);
            done(place, &completion).map(|()| completion)
        };
        requests.into_iter().enumerate().map(&mut answer).collect()
    }
}

fn documents() -> Vec<Document> {
    let make = |i: usize| Document {
        id: format!("d{i}"),
        text: TEXT[..].repeat(i % 5 + 1) + "Überraschung <|eot_id|>",
        domain: if i.is_multiple_of(2) { "docs" } else { "web" }.into(),
        lang: (!i.is_multiple_of(3)).then(|| "de".into()),
        ..Document::default()
    };
    (0..20).map(make).collect()
}

fn write_documents(dir: &Path, documents: Vec<Document>) {
    let mut writer = DocumentWriter::create(dir).unwrap();
    documents.into_iter().for_each(|d| writer.push(d).unwrap());
    writer.finish().unwrap();
}

fn info(name: &str) -> ModelInfo {
    ModelInfo { path: name.into(), hash: "0".into(), id: name.into() }
}

#[test]
fn bits_per_byte_counts_every_text_token_once_for_any_context() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heldout");
    write_documents(&path, documents());
    let tokenizer = tokenizer();
    let (mut bits, mut bytes, mut tokens) = (0.0, 0, 0);
    for document in documents() {
        let mut ids = vec![tokenizer.bos_id().unwrap()];
        ids.extend(tokenizer.encode(&document.text));
        bits -= ids.windows(2).map(|w| f64::from(log_p(w[0], w[1]))).sum::<f64>() / std::f64::consts::LN_2;
        bytes += document.text.len();
        tokens += ids.len() - 1;
    }
    let config = RunConfig { documents: Some(path), resamples: 100, ..RunConfig::default() };
    for context in [2, 7, 64, 100_000] {
        let (results, rows) = evaluate(&Scripted::new(context, |_| ""), info("m"), &config, None).unwrap();
        let task = &results.tasks["bits_per_byte"];
        assert!((task.value - bits / bytes as f64).abs() < 1e-9, "context {context}: {} is not {}", task.value, bits / bytes as f64);
        assert_eq!((&task.details["bytes"], &task.details["tokens"], task.n), (&json!(bytes), &json!(tokens), 20));
        let domains = task.details["by_domain"].as_object().unwrap();
        let weighted: f64 = domains.values().map(|d| d["value"].as_f64().unwrap() * d["bytes"].as_f64().unwrap()).sum();
        assert!((weighted - bits).abs() < 1e-6 && domains.len() == 2);
        assert_eq!(task.details["by_lang"]["unknown"]["documents"], 7);
        assert_eq!(rows.len(), 20);
        let [low, high] = task.ci95.unwrap();
        assert!(low < task.value && task.value < high);
    }
}

#[test]
fn the_baseline_is_scored_on_exactly_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (heldout, train) = (dir.path().join("heldout"), dir.path().join("train"));
    write_documents(&heldout, documents());
    write_documents(&train, documents().split_off(10));
    let config = RunConfig { documents: Some(heldout), train_documents: Some(train), limit_bytes: Some(700), ..RunConfig::default() };
    let (results, rows) = evaluate(&Scripted::new(32, |_| ""), info("m"), &config, None).unwrap();
    let (model, baseline) = (&results.tasks["bits_per_byte"], &results.tasks["ngram3"]);
    assert_eq!(model.details["bytes"], baseline.details["bytes"]);
    assert!((698..=700).contains(&model.details["bytes"].as_u64().unwrap()));
    let mut counts = ByteTrigram::default();
    documents().split_off(10).iter().for_each(|d| counts.add(d.text.as_bytes()));
    let trigram = counts.freeze();
    let (mut bits, mut bytes) = (0.0, 0.0);
    for row in &rows {
        let text = documents().into_iter().find(|d| d.id == row.id).unwrap().text;
        let scored = &text.as_bytes()[..row.weight as usize];
        bits += trigram.bits(scored);
        bytes += row.weight;
    }
    assert!((baseline.value - bits / bytes).abs() < 1e-12);
}

fn write_exercises(path: &Path, n: usize) {
    let row = |i: usize| {
        let messages = json!([{"role": "user", "content": format!("How much is {i} + {i}?")}, {"role": "assistant", "reasoning_content": "add", "content": format!("{}", 2 * i)}]);
        json!({"id": format!("h{i}"), "lang": if i.is_multiple_of(2) { "en" } else { "de" }, "category": "add", "messages": messages, "answer": format!("{}", 2 * i)}).to_string()
    };
    std::fs::write(path, (0..n).map(row).collect::<Vec<_>>().join("\n")).unwrap();
}

fn good(prompt: &str) -> &'static str {
    assert!(prompt.ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"), "{prompt}");
    assert!(!prompt.contains("add"), "the solution leaked into the prompt: {prompt}");
    match prompt {
        p if p.contains("1 + 1") => "<think>1 + 1 is 2</think>2",
        p if p.contains("2 + 2") => "<think>so it is 5</think>4",
        p if p.contains("3 + 3") => "<think>6",
        _ => "no idea",
    }
}

#[test]
fn exercises_are_asked_split_graded_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heldout.jsonl");
    write_exercises(&file, 5);
    let asked = exercises::read(&file, None, Seed(0)).unwrap();
    let config = RunConfig { exercises: Some(file), samples: 3, max_tokens: 40, ..RunConfig::default() };
    let measure = |name: &str, reply| {
        let (results, rows) = evaluate(&Scripted::new(128, reply), info(name), &config, Some(&asked)).unwrap();
        samples::write(&dir.path().join(name).join(samples::FILE), &rows).unwrap();
        results.write(&dir.path().join(name)).unwrap();
        (results, rows)
    };
    let (results, rows) = measure("good", good);
    measure("bad", |_| "7");
    let all = &results.tasks["exercises"];
    assert_eq!((all.value, all.n, &all.details["malformed"]), (0.4, 5, &json!(0.6)));
    assert_eq!(results.tasks["exercises/en"].group, Some(Group::Language));
    assert_eq!((results.tasks["exercises/en"].n, results.tasks["exercises/de"].n), (3, 2));
    assert_eq!(results.tasks["exercises/add"].group, Some(Group::Category));
    let two = rows.iter().find(|r| r.id == "h2").unwrap();
    assert_eq!((two.response.as_deref(), two.reasoning.as_deref(), two.correct), (Some("4"), Some("so it is 5"), Some(true)));
    let three = rows.iter().find(|r| r.id == "h3").unwrap();
    assert_eq!((three.response.as_deref(), three.reasoning.as_deref(), &three.extracted), (Some(""), Some("6"), &None));
    assert_eq!(results.samples.len(), 3);
    let back = Results::read(&dir.path().join("good")).unwrap();
    assert_eq!((&back.model, &back.samples), (&results.model, &results.samples));
    assert!(back.tasks.keys().eq(results.tasks.keys()) && (back.tasks["exercises"].value - all.value).abs() < 1e-12);
    let got = compare(&dir.path().join("bad"), &dir.path().join("good"), 500, Seed(0)).unwrap();
    assert_eq!((got.tasks[0].only_a, got.tasks[0].only_b, got.tasks[0].mcnemar_p), (Some(0), Some(2), Some(0.5)));
}

#[test]
fn a_prompt_without_room_for_an_answer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heldout.jsonl");
    write_exercises(&file, 1);
    let asked = exercises::read(&file, None, Seed(0)).unwrap();
    let message = exercises::ask(&Scripted::new(8, good), &asked, 10).unwrap_err().to_string();
    assert!(message.contains("`h0`") && message.contains("holds 8"), "{message}");
}

#[test]
fn damaged_exercise_files_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heldout.jsonl");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        exercises::read(&file, None, Seed(0)).unwrap_err().to_string()
    };
    write_exercises(&file, 1);
    let line = std::fs::read_to_string(&file).unwrap();
    assert!(read(&format!("{line}\n{{\"id\": ")).contains("line 2"));
    assert!(read(&format!("{line}\n\n{line}")).contains("line 3: id `h0` appears twice"));
    assert!(read(&line.replace("\"answer\":\"0\"", "\"answer\":\"\"")).contains("`answer` is empty"));
    assert!(read(&line.replace("\"user\"", "\"assistant\"")).contains("must ask something"));
    assert!(read(" \n").contains("holds no exercises"));
    assert!(exercises::read(&dir.path().join("none"), None, Seed(0)).unwrap_err().to_string().contains("none"));
}

#[test]
fn a_limit_takes_the_same_exercises_whatever_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heldout.jsonl");
    write_exercises(&file, 40);
    let ids = || exercises::read(&file, Some(10), Seed(5)).unwrap().into_iter().map(|e| e.id).collect::<Vec<_>>();
    let forward = ids();
    let mut lines: Vec<String> = std::fs::read_to_string(&file).unwrap().lines().map(str::to_string).collect();
    lines.reverse();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let mut backward = ids();
    backward.reverse();
    assert_eq!(forward.len(), 10);
    assert_eq!(forward, backward);
}
