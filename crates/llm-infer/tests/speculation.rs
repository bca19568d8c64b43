//! Guessing changes no token: not of greedy answers, not of sampled ones, under no setting.

mod common;

use common::{greedy, model, plain};
use llm_arch::PackedBatch;
use llm_infer::sampling::{self, History};
use llm_infer::{Completion, Constraint, Engine, EngineConfig, FinishReason, Grammars, Model, Request, Sampling, Speculation, Stats};
use llm_tensor::host::to_vec;
use std::collections::BTreeMap;

const LOOKUP: Speculation = Speculation::Lookup { max_ngram: 3, tokens: 5 };
const DRAFT: Speculation = Speculation::Draft { tokens: 4 };

fn run(model: &Model, draft: Option<&Model>, speculation: Speculation, requests: &[Request]) -> (Vec<Completion>, Stats) {
    let mut engine = Engine::new(model, EngineConfig { speculation, page_size: 4, guess_cost: Some(0.05), ..EngineConfig::default() }).unwrap();
    if let Some(draft) = draft {
        engine = engine.with_draft(draft).unwrap();
    }
    let free = engine.free_pages();
    let done = engine.generate(requests.to_vec()).unwrap();
    assert_eq!(engine.free_pages(), free);
    (done, engine.stats())
}

/// A prompt that repeats itself, so that lookup finds something.
fn prompt(n: u32) -> Vec<u32> {
    (0..24).map(|i| (i % 6 * 17 + n) % 120).collect()
}

/// Every setting that a guess could break.
fn settings() -> Vec<Sampling> {
    let sampled = Sampling { temperature: 1.0, top_k: 20, top_p: 0.9, ..greedy(40) };
    vec![
        greedy(40),
        Sampling { repetition_penalty: 1.3, no_repeat_ngram_size: 3, ..greedy(40) },
        Sampling { frequency_penalty: 0.5, presence_penalty: 0.5, logit_bias: vec![(7, 3.0), (9, f32::NEG_INFINITY)], ..greedy(40) },
        sampled.clone(),
        Sampling { temperature: 0.3, min_p: 0.1, typical_p: 0.95, ..greedy(40) },
        Sampling { min_tokens: 10, stop_ids: (0..60).collect(), ..sampled.clone() },
        Sampling { stop: ["a", "b", "B", "x"].map(String::from).to_vec(), top_logprobs: 2, ..sampled },
    ]
}

#[test]
fn guesses_change_no_token_under_any_setting() {
    let (target, other) = (model("llama_gqa_untied"), model("mistral_swa"));
    let requests: Vec<Request> = settings()
        .into_iter()
        .zip(0..)
        .flat_map(|(s, n)| (0..3).map(move |seed| Request::new(prompt(n + 5), Sampling { seed, ..s.clone() })))
        .collect();
    let (expected, plainly) = run(&target, None, Speculation::None, &requests);
    assert_eq!(plainly.drafted_tokens, 0);
    for (draft, speculation) in [(None, LOOKUP), (Some(&other), DRAFT), (Some(&target), DRAFT)] {
        let (got, stats) = run(&target, draft, speculation, &requests);
        for ((got, expected), request) in got.iter().zip(&expected).zip(&requests) {
            assert_eq!((&got.tokens, got.finish_reason), (&expected.tokens, expected.finish_reason), "{speculation:?}, {:?}", request.sampling);
            assert_eq!(got.end_token, expected.end_token);
            assert!(got.logprobs.iter().zip(&expected.logprobs).all(|(a, b)| (a - b).abs() < 1e-4));
        }
        assert!(stats.drafted_tokens > 20, "{stats:?}");
        assert!(stats.accepted_tokens > 0 || draft.is_some(), "{stats:?}");
        if draft.is_some_and(|d| d.id == target.id) {
            // A draft that is the model itself is right but for the last bits of its logits.
            assert!(stats.accepted_tokens * 10 >= stats.drafted_tokens * 8, "{stats:?}");
            assert!(stats.steps < plainly.steps, "{} steps instead of {}", stats.steps, plainly.steps);
        }
    }
}

#[test]
fn greedy_with_guesses_is_the_plain_forward_pass() {
    let target = model("qwen3");
    let requests = [Request::new(prompt(1), greedy(30))];
    for (draft, speculation) in [(None, LOOKUP), (Some(model("llama_gqa_untied")), DRAFT)] {
        assert_eq!(run(&target, draft.as_ref(), speculation, &requests).0[0].tokens, plain(&target, &prompt(1), 30));
    }
}

/// The second token of many answers, guessed by another model, against its exact distribution. If this fails, speculation bends what a
/// model says.
#[test]
fn guessed_tokens_have_the_distribution_of_the_model() {
    let (target, draft) = (model("llama_gqa_untied"), model("mistral_swa"));
    let sampling = Sampling { temperature: 1.0, ..greedy(4) };
    let start = prompt(3);
    let next = |tokens: &[u32]| {
        let logits = to_vec(target.decoder.logits(target.decoder.hidden(&PackedBatch::sequence(tokens)).narrow(0, tokens.len() - 1, 1)));
        sampling::distribution(&logits, &sampling, History::default())
    };
    let mut expected: BTreeMap<u32, f64> = BTreeMap::new();
    for (first, p) in next(&start) {
        for (second, q) in next(&[&start[..], &[first]].concat()) {
            *expected.entry(second).or_default() += p * q;
        }
    }
    let n = 4000;
    let requests: Vec<Request> = (0..n).map(|seed| Request::new(start.clone(), Sampling { seed, ..sampling.clone() })).collect();
    let (done, stats) = run(&target, Some(&draft), DRAFT, &requests);
    assert!(stats.accepted_tokens > 200 && stats.accepted_tokens + 200 < stats.drafted_tokens, "both kinds must occur: {stats:?}");
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    done.iter().for_each(|c| *counts.entry(c.tokens[1]).or_default() += 1.0);
    assert!(counts.keys().all(|token| expected.contains_key(token)), "a token without probability");
    let n = n as f64;
    let chi: f64 = expected.iter().map(|(t, p)| (counts.get(t).unwrap_or(&0.0) - p * n).powi(2) / (p * n)).sum();
    let freedom = (expected.len() - 1) as f64;
    // Mean and deviation of chi-square; five deviations are beyond the 0.9999 quantile from two degrees on.
    assert!(chi < freedom + 5.0 * (2.0 * freedom).sqrt(), "chi-square {chi} with {freedom} degrees of freedom");
}

#[test]
fn hopeless_guessing_stops() {
    let (target, draft) = (model("llama_gqa_untied"), model("mistral_swa"));
    let requests: Vec<Request> = (0..8).map(|n| Request::new(prompt(n), greedy(90))).collect();
    let (_, stats) = run(&target, Some(&draft), Speculation::Draft { tokens: 8 }, &requests);
    assert!(stats.drafted_tokens * 3 < stats.generation_tokens, "{stats:?}");
}

#[test]
fn a_draft_must_fit_the_model() {
    let (target, draft) = (model("llama_gqa_untied"), model("llama_tied"));
    let engine = || Engine::new(&target, EngineConfig { speculation: DRAFT, ..EngineConfig::default() }).unwrap();
    assert!(engine().with_draft(&draft).unwrap_err().to_string().contains("llama_tied"));
    let plain = Engine::new(&target, EngineConfig::default()).unwrap();
    assert!(plain.with_draft(&target).unwrap_err().to_string().contains("nothing to do"));
    for speculation in
        [Speculation::Lookup { max_ngram: 0, tokens: 3 }, Speculation::Lookup { max_ngram: 2, tokens: 0 }, Speculation::Draft { tokens: 0 }]
    {
        assert!(Engine::new(&target, EngineConfig { speculation, ..EngineConfig::default() }).is_err());
    }
}

/// If this fails, an answer that must be in a language is not, or differs when it is guessed.
#[test]
fn grammars_hold_at_every_token() {
    let mut target = model("llama_gqa_untied");
    target.eos_token_ids = vec![2];
    let grammars = Grammars::new(&target.tokenizer, &target.eos_token_ids);
    let grammar = grammars.compile(&Constraint::Regex("[0-9]{3}-[a-c]{2,6}!".into())).unwrap();
    let requests: Vec<Request> = (0..6)
        .map(|seed| {
            let sampling = Sampling { temperature: (seed % 2) as f32, seed, ..greedy(20) };
            Request { grammar: Some(grammar.clone()), ..Request::new(prompt(seed as u32), sampling) }
        })
        .collect();
    let (expected, _) = run(&target, None, Speculation::None, &requests);
    for done in &expected {
        let text = target.tokenizer.decode(&done.tokens, false);
        let (digits, letters) = text.strip_suffix('!').and_then(|t| t.split_once('-')).unwrap_or_else(|| panic!("{text:?} is not in the language"));
        assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{text}");
        assert!((2..=6).contains(&letters.len()) && letters.bytes().all(|b| (b'a'..=b'c').contains(&b)), "{text}");
        assert_eq!(done.finish_reason, FinishReason::Stop);
    }
    for (draft, speculation) in [(None, LOOKUP), (Some(&target), DRAFT)] {
        let (got, _) = run(&target, draft, speculation, &requests);
        assert!(got.iter().zip(&expected).all(|(a, b)| a.tokens == b.tokens && a.finish_reason == b.finish_reason));
    }
    // Cut off before it is complete.
    let short = Request { grammar: Some(grammar), ..Request::new(prompt(1), greedy(2)) };
    assert_eq!(run(&target, None, Speculation::None, &[short]).0[0].finish_reason, FinishReason::Length);
}
