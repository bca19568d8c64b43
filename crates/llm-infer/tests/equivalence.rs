//! Every family through the engine against plain forward passes: whoever arrives when, however prompts are cut, whatever is shared, preempted
//! or guessed, the greedy tokens are the same. If one of these fails, an answer depends on who else asks.

mod common;

use common::{causal_folders, completions, greedy, model, plain};
use llm_infer::{Engine, EngineConfig, Event, Model, Preemption, Request, Sampling, Speculation, Stats};
use llm_run::Seed;

const ANSWER: usize = 8;

/// Three prompts, some with a common beginning, and each more than once.
fn prompts(model: &Model) -> Vec<Vec<u32>> {
    let config = model.decoder.config();
    let longest = (config.max_position_embeddings - ANSWER).min(33) as u32;
    let vocab = config.vocab_size.min(120) as u32;
    let prompt = |length: u32, family: u32| (0..length).map(move |i| if i < length / 2 { (i * 7 + 3) % vocab } else { (i * 5 + family) % vocab });
    let some: Vec<Vec<u32>> = vec![prompt(longest, 1).collect(), prompt(longest, 2).collect(), prompt(longest * 2 / 3, 3).collect()];
    [0, 1, 2, 0, 0, 1, 2, 2, 1].iter().map(|&i| some[i].clone()).collect()
}

/// Requests join at random steps.
fn run(mut engine: Engine, requests: &[Request], seed: u64) -> (Vec<Vec<u32>>, Stats) {
    let free = engine.free_pages();
    let mut rng = Seed(seed).stream("arrivals").rng();
    let (mut ids, mut events) = (Vec::new(), Vec::new());
    while ids.len() < requests.len() || !engine.is_idle() {
        while ids.len() < requests.len() && rng.chance(0.3) {
            ids.push(engine.submit(requests[ids.len()].clone()).unwrap());
        }
        events.extend(engine.step().unwrap());
    }
    let done = completions(&events);
    let started = events.iter().filter(|e| matches!(e, Event::Started { .. })).count();
    let streamed = events.iter().filter(|e| matches!(e, Event::Token { .. })).count();
    let stats = engine.stats();
    assert_eq!((engine.free_pages(), stats.kv_pages_used, stats.running, stats.waiting), (free, 0, 0, 0), "pages leaked");
    assert_eq!(started, requests.len());
    let tokens: Vec<Vec<u32>> = ids.iter().map(|id| done[id].tokens.clone()).collect();
    let total: usize = tokens.iter().map(Vec::len).sum();
    assert_eq!((streamed, stats.generation_tokens), (total, total as u64));
    assert_eq!(stats.prompt_tokens, requests.iter().map(|r| r.prompt.len() as u64).sum::<u64>());
    assert_eq!(stats.prefix_cache_hits, done.values().map(|c| c.cached_tokens as u64).sum::<u64>());
    assert!(stats.prefix_cache_hits <= stats.prefix_cache_queries && stats.accepted_tokens <= stats.drafted_tokens);
    (tokens, stats)
}

fn configs(longest: usize) -> Vec<EngineConfig> {
    let base = EngineConfig { page_size: 4, ..EngineConfig::default() };
    // Room for one and a half.
    let tight = EngineConfig { max_batch: 3, max_step_tokens: 16, page_size: 2, kv_pages: (longest * 3 / 2).div_ceil(2), ..base };
    let swap = EngineConfig { preemption: Preemption::Swap, ..tight };
    let lookup = Speculation::Lookup { max_ngram: 3, tokens: 4 };
    vec![
        base,
        EngineConfig { prefix_cache: false, ..base },
        EngineConfig { max_batch: 3, max_step_tokens: 5, page_size: 3, ..base },
        EngineConfig { max_batch: 1, max_step_tokens: 1, ..base },
        EngineConfig { exact: true, max_step_tokens: 64, ..base },
        tight,
        swap,
        // Memory for a few pages outside the pool: some swap, some are computed again.
        EngineConfig { swap_bytes: 20_000, ..swap },
        EngineConfig { speculation: lookup, guess_cost: Some(0.02), ..base },
        EngineConfig { speculation: lookup, guess_cost: Some(0.02), ..swap },
        EngineConfig { speculation: Speculation::Draft { tokens: 3 }, guess_cost: Some(0.02), ..base },
        EngineConfig { speculation: Speculation::Draft { tokens: 3 }, guess_cost: Some(0.02), ..swap },
    ]
}

#[test]
fn every_family_says_in_company_what_it_says_alone() {
    let mut total = Stats::default();
    for (f, name) in causal_folders().iter().enumerate() {
        let model = model(name);
        let prompts = prompts(&model);
        let mut expected: Vec<Vec<u32>> = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let known = prompts[..i].iter().position(|p| p == prompt).map(|at| expected[at].clone());
            expected.push(known.unwrap_or_else(|| plain(&model, prompt, ANSWER)));
        }
        // Of three priorities, so that running ones are displaced.
        let requests: Vec<Request> =
            prompts.into_iter().zip(0..).map(|(p, i)| Request { priority: 2 - i % 3, ..Request::new(p, greedy(ANSWER)) }).collect();
        let longest = requests.iter().map(|r| r.prompt.len()).max().unwrap() + ANSWER;
        for (c, config) in configs(longest).into_iter().enumerate() {
            let mut engine = Engine::new(&model, config).unwrap();
            if matches!(config.speculation, Speculation::Draft { .. }) {
                engine = engine.with_draft(&model).unwrap();
            }
            let (tokens, stats) = run(engine, &requests, (f * 100 + c) as u64);
            assert_eq!(tokens, expected, "{name}, {config:?}");
            total.preemptions += stats.preemptions;
            total.prefix_cache_hits += stats.prefix_cache_hits;
            total.accepted_tokens += stats.accepted_tokens;
        }
    }
    assert!(total.preemptions > 80 && total.prefix_cache_hits > 5_000 && total.accepted_tokens > 500, "not much was tested: {total:?}");
}

/// If this fails, `exact` does not mean what it says.
#[test]
fn exact_gives_the_same_bits_in_any_company() {
    for name in causal_folders() {
        let model = model(&name);
        let sampling = Sampling { temperature: 0.8, top_logprobs: 3, ..greedy(ANSWER) };
        let requests: Vec<Request> =
            prompts(&model).into_iter().cycle().take(32).zip(0..).map(|(p, seed)| Request::new(p, Sampling { seed, ..sampling.clone() })).collect();
        let exact = EngineConfig { exact: true, page_size: 4, ..EngineConfig::default() };
        let bits = |config: EngineConfig, requests: &[Request]| -> Vec<(Vec<u32>, Vec<u32>)> {
            let mut engine = Engine::new(&model, config).unwrap();
            let completions = engine.generate(requests.to_vec()).unwrap();
            completions.into_iter().map(|c| (c.tokens, c.logprobs.iter().map(|l| l.to_bits()).collect())).collect()
        };
        let alone: Vec<_> = requests.iter().flat_map(|r| bits(EngineConfig { max_batch: 1, ..exact }, std::slice::from_ref(r))).collect();
        for config in [
            EngineConfig { max_batch: 32, ..exact },
            EngineConfig { max_batch: 32, max_step_tokens: 33, ..exact },
            EngineConfig { max_batch: 5, max_step_tokens: 7, ..exact },
            EngineConfig { max_batch: 16, speculation: Speculation::Lookup { max_ngram: 2, tokens: 4 }, guess_cost: Some(0.0), ..exact },
        ] {
            assert_eq!(bits(config, &requests), alone, "{name}, {config:?}");
        }
    }
}
