//! The engine against the plain forward pass: whatever is batched, shared, chunked or preempted, a request's tokens are those
//! it gets alone.

use llm_arch::{PackedBatch, hf};
use llm_infer::{Engine, EngineConfig, Error, FinishReason, Model, Request, Sampling, score};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tokenizer::Tokenizer;
use std::path::Path;

fn model() -> Model {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let decoder = hf::load(fixtures.join("decoder/llama_gqa_untied"), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(fixtures.join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let mut model = Model::from_parts(decoder, tokenizer, "tiny");
    model.eos_token_ids = vec![];
    model
}

fn requests(temperature: f32) -> Vec<Request> {
    (0..12)
        .map(|i| {
            // Three prompts of different length, each several times: prefixes are shared.
            let prompt = (0..10 + 17 * (i % 3)).map(|j| (j * 7 + i % 3) % 120).collect();
            Request::new(prompt, Sampling { temperature, seed: u64::from(i), max_tokens: 20, top_p: 0.9, ..Sampling::default() })
        })
        .collect()
}

#[test]
fn batching_sharing_chunking_and_preemption_do_not_change_tokens() {
    let model = model();
    for temperature in [0.0, 1.0] {
        let alone: Vec<_> = requests(temperature)
            .into_iter()
            .map(|r| Engine::new(&model, EngineConfig::default()).unwrap().generate(vec![r]).unwrap().remove(0).tokens)
            .collect();
        for config in [
            EngineConfig::default(),
            EngineConfig { max_batch: 4, max_step_tokens: 9, ..EngineConfig::default() },
            // 15 pages of 8 tokens: two long sequences fill it, so sequences are preempted and computed again.
            EngineConfig { max_batch: 12, max_step_tokens: 64, kv_pages: 15, page_size: 8, ..EngineConfig::default() },
        ] {
            let mut engine = Engine::new(&model, config).unwrap();
            let free = engine.free_pages();
            let together: Vec<_> = engine.generate(requests(temperature)).unwrap().into_iter().map(|c| c.tokens).collect();
            assert_eq!(together, alone, "temperature {temperature}, {config:?}");
            assert_eq!(engine.free_pages(), free, "pages leaked");
        }
    }
}

#[test]
fn greedy_tokens_and_logprobs_equal_the_packed_forward_pass() {
    let model = model();
    let prompt: Vec<u32> = (3..30).collect();
    let request = Request::new(prompt.clone(), Sampling { max_tokens: 12, ..Sampling::default() });
    let completion = Engine::new(&model, EngineConfig::default()).unwrap().generate(vec![request]).unwrap().remove(0);
    assert_eq!(completion.finish_reason, FinishReason::Length);
    let mut tokens = prompt.clone();
    for &token in &completion.tokens {
        let logits = to_vec(model.decoder.logits(model.decoder.hidden(&PackedBatch::sequence(&tokens))));
        let last = &logits[logits.len() - model.decoder.config().vocab_size..];
        let best = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        assert_eq!(token, best);
        tokens.push(token);
    }
    let scores = score(&model, &[tokens.clone(), vec![], prompt.clone(), vec![5]]).unwrap();
    assert_eq!(scores.iter().map(Vec::len).collect::<Vec<_>>(), [tokens.len() - 1, 0, prompt.len() - 1, 0]);
    for (a, b) in scores[0][prompt.len() - 1..].iter().zip(&completion.logprobs) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    for (a, b) in scores[2].iter().zip(&scores[0]) {
        assert!((a - b).abs() < 1e-5, "a neighbour in the batch changed a score");
    }
}

#[test]
fn ends_and_limits() {
    let mut model = model();
    let prompt: Vec<u32> = (3..30).collect();
    let run = |model: &Model, sampling: Sampling| {
        Engine::new(model, EngineConfig::default()).unwrap().generate(vec![Request::new(prompt.clone(), sampling)])
    };
    let free = run(&model, Sampling { max_tokens: 10, ..Sampling::default() }).unwrap().remove(0);
    // The fourth token as end token: three remain.
    let first = free.tokens.iter().position(|t| *t == free.tokens[3]).unwrap();
    model.eos_token_ids = vec![free.tokens[3]];
    let ended = run(&model, Sampling { max_tokens: 10, ..Sampling::default() }).unwrap().remove(0);
    assert_eq!((ended.tokens.as_slice(), ended.finish_reason), (&free.tokens[..first], FinishReason::Stop));
    assert_eq!(run(&model, Sampling { max_tokens: 0, ..Sampling::default() }).unwrap().remove(0).finish_reason, FinishReason::Length);

    let error = run(&model, Sampling { max_tokens: 100_000, ..Sampling::default() }).unwrap_err();
    assert!(matches!(error, Error::ContextLength { prompt: 27, max_tokens: 100_000, .. }), "{error}");
    let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
    assert!(engine.submit(Request::default()).is_err());
    assert!(engine.submit(Request::new(vec![1 << 20], Sampling::default())).is_err());
}

#[test]
fn a_cancelled_request_frees_its_pages_and_the_others_go_on() {
    let model = model();
    let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
    let free = engine.free_pages();
    let ids: Vec<_> = requests(0.0).into_iter().map(|r| engine.submit(r).unwrap()).collect();
    for _ in 0..5 {
        engine.step().unwrap();
    }
    for id in &ids[1..] {
        engine.cancel(*id);
    }
    let mut done = 0;
    while !engine.is_idle() {
        done += engine.step().unwrap().iter().filter(|e| matches!(e, llm_infer::Event::Done { .. })).count();
    }
    assert_eq!((done, engine.free_pages()), (ids.len(), free));
}

/// What the sampler knows of a request comes through the engine: its end tokens, where the prompt ends, its vocabulary.
#[test]
fn min_tokens_biases_and_penalties_reach_the_sampler() {
    let mut model = model();
    let prompt: Vec<u32> = (3..30).collect();
    let run = |model: &Model, sampling: Sampling| {
        Engine::new(model, EngineConfig::default()).unwrap().generate(vec![Request::new(prompt.clone(), sampling)])
    };
    let greedy = Sampling { max_tokens: 10, ..Sampling::default() };
    let first = run(&model, greedy.clone()).unwrap()[0].tokens[0];

    // The model ends at once, with its own end token or with one of the request's: min_tokens bans both.
    let stopping = Sampling { stop_ids: vec![first], ..greedy.clone() };
    assert_eq!(run(&model, stopping.clone()).unwrap()[0].tokens, [0u32; 0]);
    let held = run(&model, Sampling { min_tokens: 4, ..stopping }).unwrap().remove(0);
    assert!(held.tokens.len() >= 4 && !held.tokens.contains(&first), "{held:?}");
    model.eos_token_ids = vec![first];
    assert_eq!(run(&model, greedy.clone()).unwrap()[0].tokens, [0u32; 0]);
    assert_eq!(run(&model, Sampling { min_tokens: 4, ..greedy.clone() }).unwrap()[0].tokens, held.tokens);
    model.eos_token_ids = vec![];

    let biased = run(&model, Sampling { logit_bias: vec![(77, 100.0)], ..greedy.clone() }).unwrap().remove(0);
    assert_eq!(biased.tokens, [77; 10]);
    // The token is worth one repetition, and the prompt is not counted: 7 is in it.
    let fair = Sampling { logit_bias: vec![(7, 1000.0), (77, 995.0)], presence_penalty: 10.0, ..greedy.clone() };
    assert_eq!(run(&model, fair).unwrap()[0].tokens, [7, 77, 7, 7, 7, 7, 7, 7, 7, 7], "7, then 77 once, then both are penalised");
    let no_bigram = Sampling { logit_bias: vec![(7, 1000.0), (77, 900.0)], no_repeat_ngram_size: 2, ..greedy.clone() };
    let tokens = run(&model, no_bigram).unwrap().remove(0).tokens;
    assert_eq!(tokens[..4], [7, 7, 77, 7]);
    assert!(![7, 8, 77].contains(&tokens[4]), "7 8 is in the prompt, 7 7 and 7 77 in the answer, yet {} follows", tokens[4]);

    for (sampling, field) in [
        (Sampling { logit_bias: vec![(1 << 20, 1.0)], ..greedy.clone() }, "logit_bias"),
        (Sampling { min_tokens: 11, ..greedy.clone() }, "min_tokens"),
        (Sampling { top_p: -0.5, ..greedy }, "top_p"),
    ] {
        let error = run(&model, sampling).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
