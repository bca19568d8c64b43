//! Who gets a turn, and what is left behind: priorities, age, shares, deadlines, cancellation, windows, the prefix cache.

mod common;

use common::{alone, completions, drain, greedy, model};
use llm_infer::{Engine, EngineConfig, Event, FinishReason, Preemption, Request, RequestId, Sampling};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn prompt(n: u32, length: u32) -> Vec<u32> {
    (0..length).map(|i| (i * 7 + n) % 120).collect()
}

fn request(n: u32, length: u32, max_tokens: usize) -> Request {
    Request::new(prompt(n, length), greedy(max_tokens))
}

fn engine(config: EngineConfig) -> Engine {
    Engine::new(&model("llama_gqa_untied"), config).unwrap()
}

fn one_at_a_time() -> EngineConfig {
    EngineConfig { max_batch: 1, aging: Duration::ZERO, ..EngineConfig::default() }
}

/// Requests in the order in which they were started.
fn order(events: &[Event]) -> Vec<RequestId> {
    let started = |event: &Event| match event {
        Event::Started { id, .. } => Some(*id),
        _ => None,
    };
    events.iter().filter_map(started).collect()
}

#[test]
fn lower_numbers_come_first_and_equals_in_order() {
    let mut engine = engine(one_at_a_time());
    let ids: Vec<RequestId> = [3, 0, 3, -1, 0].iter().map(|&priority| engine.submit(Request { priority, ..request(1, 9, 3) }).unwrap()).collect();
    let wanted: Vec<RequestId> = [3, 1, 4, 0, 2].iter().map(|&i| ids[i]).collect();
    assert_eq!(order(&drain(&mut engine)), wanted);
}

#[test]
fn an_urgent_request_takes_the_place_of_another_which_loses_nothing() {
    let model = model("llama_gqa_untied");
    for preemption in [Preemption::Recompute, Preemption::Swap] {
        let mut engine = Engine::new(&model, EngineConfig { preemption, ..one_at_a_time() }).unwrap();
        let slow = Request { priority: 1, ..request(1, 20, 12) };
        let first = engine.submit(slow.clone()).unwrap();
        let mut events: Vec<Event> = (0..5).flat_map(|_| engine.step().unwrap()).collect();
        let second = engine.submit(request(2, 10, 4)).unwrap();
        events.extend(drain(&mut engine));
        let done: Vec<RequestId> = events.iter().filter_map(|e| if let Event::Done { id, .. } = e { Some(*id) } else { None }).collect();
        assert_eq!((order(&events), done), (vec![first, second], vec![second, first]));
        assert_eq!(engine.stats().preemptions, 1);
        assert_eq!(completions(&events)[&first].tokens, alone(&model, &slow).tokens);
    }
}

#[test]
fn whoever_waited_long_enough_is_next() {
    for (aging, winner) in [(Duration::ZERO, 1), (Duration::from_millis(2), 0)] {
        let mut engine = engine(EngineConfig { aging, ..one_at_a_time() });
        let mut ids = vec![engine.submit(Request { priority: 5, ..request(1, 9, 3) }).unwrap()];
        sleep(Duration::from_millis(40));
        ids.push(engine.submit(request(2, 9, 3)).unwrap());
        assert_eq!(order(&drain(&mut engine))[0], ids[winner], "{aging:?}");
    }
}

/// If this fails, a busy day means that batch work never ends.
#[test]
fn a_stream_of_urgent_requests_starves_nobody() {
    let mut engine = engine(EngineConfig { aging: Duration::from_millis(1), ..one_at_a_time() });
    let low = engine.submit(Request { priority: 10, ..request(1, 9, 6) }).unwrap();
    let began = Instant::now();
    loop {
        while engine.load().1 < 2 {
            engine.submit(request(2, 9, 2)).unwrap();
        }
        if completions(&engine.step().unwrap()).contains_key(&low) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "starved");
    }
}

#[test]
fn users_take_turns() {
    let mut engine = engine(one_at_a_time());
    let mut submit = |fairness, n| (0..n).map(|i| engine.submit(Request { fairness, ..request(i, 9, 3) }).unwrap()).collect::<Vec<_>>();
    let (many, few) = (submit(1, 6), submit(2, 2));
    let order = order(&drain(&mut engine));
    assert_eq!(order[..4], [many[0], few[0], many[1], few[1]]);
    assert_eq!(order[4..], many[2..]);
}

#[test]
fn deadlines_end_what_waits_and_what_runs() {
    let mut engine = engine(one_at_a_time());
    let free = engine.free_pages();
    let soon = Instant::now() + Duration::from_millis(60);
    let running = engine.submit(Request { deadline: Some(soon), ..request(1, 20, 100) }).unwrap();
    let waiting = engine.submit(Request { deadline: Some(Instant::now()), priority: 1, ..request(2, 20, 5) }).unwrap();
    let mut events = engine.step().unwrap();
    assert_eq!(engine.load(), (1, 0));
    let late = completions(&events).remove(&waiting).unwrap();
    assert_eq!((late.finish_reason, late.tokens.len(), late.timings.prefill), (FinishReason::Deadline, 0, Duration::ZERO));
    sleep(soon.saturating_duration_since(Instant::now()) + Duration::from_millis(5));
    events.extend(engine.step().unwrap());
    let ended = completions(&events).remove(&running).unwrap();
    assert_eq!((ended.finish_reason, engine.free_pages()), (FinishReason::Deadline, free));
    assert!(!ended.tokens.is_empty() && ended.tokens.len() == ended.logprobs.len());
    assert!(engine.is_idle());
}

#[test]
fn cancelling_frees_at_once() {
    let mut engine = engine(EngineConfig { max_batch: 2, ..one_at_a_time() });
    let free = engine.free_pages();
    let ids: Vec<RequestId> = (0..4).map(|n| engine.submit(request(n, 30, 10)).unwrap()).collect();
    engine.step().unwrap();
    let held = engine.stats().kv_pages_used;
    engine.cancel(ids[0]);
    assert!(engine.stats().kv_pages_used < held);
    ids.iter().for_each(|&id| engine.cancel(id));
    assert_eq!((engine.free_pages(), engine.load()), (free, (0, 0)));
    assert_eq!(completions(&drain(&mut engine)).len(), 4);
}

#[test]
fn prompts_and_answers_share_the_step() {
    // Fifteen that decode and a prompt in steps of sixteen tokens: two for the prompt, fourteen for the others, who take turns.
    let mut engine = engine(EngineConfig { max_batch: 16, max_step_tokens: 16, prefix_cache: false, ..EngineConfig::default() });
    let ids: Vec<RequestId> = (0..15).map(|n| engine.submit(request(n, 1, 60)).unwrap()).collect();
    engine.step().unwrap();
    let long = engine.submit(request(99, 40, 2)).unwrap();
    let mut turns = vec![0; ids.len()];
    for step in 1.. {
        let events = engine.step().unwrap();
        let tokens = |wanted: RequestId| events.iter().filter(|e| matches!(e, Event::Token { id, .. } if *id == wanted)).count();
        ids.iter().zip(&mut turns).for_each(|(&id, turns)| *turns += tokens(id));
        if tokens(long) > 0 {
            assert!(step <= 21, "the prompt of 40 tokens took {step} steps");
            assert!(turns.iter().all(|&t| t + 3 >= step), "{turns:?} turns in {step} steps");
            break;
        }
        assert!(step < 50, "the prompt starves");
    }
    // A long prompt does not hold up a short one that comes after it.
    let mut engine = self::engine(EngineConfig { max_batch: 4, max_step_tokens: 8, ..EngineConfig::default() });
    let long = engine.submit(request(1, 100, 2)).unwrap();
    let short = engine.submit(request(2, 4, 2)).unwrap();
    let done: Vec<RequestId> = drain(&mut engine).iter().filter_map(|e| if let Event::Done { id, .. } = e { Some(*id) } else { None }).collect();
    assert_eq!(done, [short, long]);
}

/// If this fails, a long answer of a model with a window needs memory for all of it.
#[test]
fn a_window_bounds_the_pages_of_any_length() {
    let model = model("mistral_swa");
    assert_eq!(model.decoder.config().window(0), Some(8));
    let request = Request::new(prompt(1, 21), greedy(100));
    let expected = alone(&model, &request).tokens;
    for (kv_pages, max_step_tokens) in [(4, 64), (5, 3), (40, 64)] {
        let config = EngineConfig { page_size: 4, kv_pages, max_batch: 2, max_step_tokens, ..EngineConfig::default() };
        let mut engine = Engine::new(&model, config).unwrap();
        assert_eq!(engine.context_length(), 128);
        let id = engine.submit(request.clone()).unwrap();
        let mut events = engine.step().unwrap();
        while !engine.is_idle() {
            events.extend(engine.step().unwrap());
            assert!(engine.stats().kv_pages_used <= 4, "{}", engine.stats().kv_pages_used);
        }
        assert_eq!(completions(&events)[&id].tokens, expected);
        // Several at once, preempted both ways.
        for preemption in [Preemption::Recompute, Preemption::Swap] {
            let mut engine = Engine::new(&model, EngineConfig { preemption, ..config }).unwrap();
            for done in engine.generate(vec![request.clone(); 3]).unwrap() {
                assert_eq!(done.tokens, expected, "{config:?}, {preemption:?}");
            }
            assert_eq!(engine.free_pages(), kv_pages);
        }
    }
}

#[test]
fn a_prefix_outlives_its_request() {
    let model = model("llama_gqa_untied");
    let mut engine = Engine::new(&model, EngineConfig { page_size: 8, ..EngineConfig::default() }).unwrap();
    let first = request(1, 30, 10);
    let answer = engine.generate(vec![first.clone()]).unwrap().remove(0);
    assert_eq!(answer.cached_tokens, 0);
    // The same again: all but the last token, three pages and a part of the fourth.
    let again = engine.generate(vec![first.clone()]).unwrap().remove(0);
    assert_eq!((again.cached_tokens, &again.tokens), (29, &answer.tokens));
    // The conversation goes on: the answer is known too, up to its last full page.
    let turn = Request::new([&first.prompt[..], &answer.tokens, &[5, 6, 7]].concat(), greedy(5));
    let expected = alone(&model, &turn).tokens;
    let next = engine.generate(vec![turn.clone()]).unwrap().remove(0);
    assert_eq!((next.cached_tokens, next.tokens), (32, expected.clone()));
    // A prompt that parts from it in the middle of a page takes the first half of that page.
    let other = Request::new([&first.prompt[..20], &[101, 102, 103]].concat(), greedy(5));
    let expected_other = alone(&model, &other).tokens;
    let forked = engine.generate(vec![other]).unwrap().remove(0);
    assert_eq!((forked.cached_tokens, forked.tokens), (20, expected_other));
    let stats = engine.stats();
    assert_eq!((stats.prefix_cache_hits, stats.prefix_cache_queries), (29 + 32 + 20, 30 + 30 + 43 + 23));
    engine.clear_cache();
    let cold = engine.generate(vec![turn.clone()]).unwrap().remove(0);
    assert_eq!((cold.cached_tokens, cold.tokens), (0, expected));
    engine.set_decoder(&model.decoder).unwrap();
    assert_eq!(engine.generate(vec![turn]).unwrap()[0].cached_tokens, 0, "keys of other weights");
}

#[test]
fn choices_of_one_prompt_share_all_but_the_last_page() {
    let mut engine = engine(EngineConfig { page_size: 8, ..EngineConfig::default() });
    for seed in 0..4 {
        engine.submit(Request::new(prompt(1, 20), Sampling { temperature: 1.0, seed, ..greedy(3) })).unwrap();
    }
    engine.step().unwrap();
    assert_eq!(engine.stats().kv_pages_used, 2 + 4);
}

#[test]
fn timings_are_those_of_the_request() {
    let mut engine = engine(one_at_a_time());
    let began = Instant::now();
    let ids: Vec<RequestId> = (0..2).map(|n| engine.submit(request(n, 20, 10)).unwrap()).collect();
    let done = completions(&drain(&mut engine));
    let total = |id: &RequestId| done[id].timings.queue + done[id].timings.prefill + done[id].timings.decode;
    assert!(total(&ids[1]) <= began.elapsed());
    assert!(done[&ids[1]].timings.queue >= done[&ids[0]].timings.prefill + done[&ids[0]].timings.decode, "it waited for the first");
    assert!(done[&ids[0]].timings.decode > Duration::ZERO);
}
