//! The sampler against Hugging Face's processors (fixtures/sampling), against a plain implementation that sorts the whole
//! vocabulary, and against its own distribution.

use llm_run::Seed;
use llm_tensor::sample::{History, Sampling, choose, distribution};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is off has no effect, so every test starts from here.
fn base() -> Sampling {
    Sampling { temperature: 1.0, ..Sampling::default() }
}

fn numbers<T>(value: &Value, convert: impl Fn(f64) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(|v| convert(v.as_f64().unwrap())).collect()
}

#[test]
fn probabilities_equal_hugging_face() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/sampling/processors.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 20, "the fixture has lost cases");
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let mut sampling = base();
        for (key, value) in case["params"].as_object().unwrap() {
            let number = value.as_f64().unwrap();
            match key.as_str() {
                "temperature" => sampling.temperature = number as f32,
                "top_k" => sampling.top_k = number as usize,
                "top_p" => sampling.top_p = number as f32,
                "min_p" => sampling.min_p = number as f32,
                "typical_p" => sampling.typical_p = number as f32,
                "epsilon_cutoff" => sampling.epsilon_cutoff = number as f32,
                "eta_cutoff" => sampling.eta_cutoff = number as f32,
                "repetition_penalty" => sampling.repetition_penalty = number as f32,
                "frequency_penalty" => sampling.frequency_penalty = number as f32,
                "presence_penalty" => sampling.presence_penalty = number as f32,
                "no_repeat_ngram_size" => sampling.no_repeat_ngram_size = number as usize,
                other => panic!("{name}: no setting for {other}"),
            }
        }
        for row in 0..2 {
            let logits = numbers(&fixture["logits"][row], |v| v as f32);
            let tokens = numbers(&fixture["previous_ids"][row], |v| v as u32);
            let history = History { tokens: &tokens, ..History::default() };
            let got: BTreeMap<u32, f64> = distribution(&logits, &sampling, history).into_iter().collect();
            let want = numbers(&case["expected"]["probs"][row], |v| v);
            let kept = numbers(&case["expected"]["kept"][row], |v| v > 0.0);
            for (id, (p, kept)) in want.into_iter().zip(kept).enumerate() {
                let mine = got.get(&(id as u32));
                assert_eq!(mine.is_some(), kept, "{name}, row {row}: token {id} kept?");
                let difference = (mine.unwrap_or(&0.0) - p).abs();
                assert!(difference < 1e-5, "{name}, row {row}, token {id}: {mine:?}, Hugging Face has {p}");
            }
        }
    }
}

/// Top-k, top-p, min-p the obvious way: sort everything, then cut.
fn sorted_distribution(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
    let scaled: Vec<f32> = logits.iter().map(|l| l / sampling.temperature).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let max = scaled[order[0]];
    let mut weights: Vec<(u32, f64)> = order.iter().map(|&i| (i as u32, f64::from(scaled[i] - max).exp())).collect();
    let normalise = |weights: &mut Vec<(u32, f64)>| {
        let total: f64 = weights.iter().map(|w| w.1).sum();
        weights.iter_mut().for_each(|w| w.1 /= total);
    };
    normalise(&mut weights);
    if sampling.top_p < 1.0 {
        let mut before = 0.0;
        weights.retain(|w| {
            let keep = before == 0.0 || before < f64::from(sampling.top_p);
            before += w.1;
            keep
        });
    }
    let floor = weights[0].1 * f64::from(sampling.min_p);
    weights.retain(|w| w.1 >= floor);
    normalise(&mut weights);
    weights
}

/// Logits of a language model are peaked; `spread` says how much.
fn logits(seed: u64, vocab: usize, spread: f64) -> Vec<f32> {
    let mut rng = Seed(seed).stream("logits").rng();
    (0..vocab).map(|_| (rng.normal() * spread) as f32).collect()
}

#[test]
fn ranking_no_further_than_needed_draws_the_token_of_the_full_sort() {
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..1500 {
        let logits = logits(seed, 3000, [0.3, 1.5, 4.0][seed as usize % 3]);
        let sampling = match seed % 5 {
            0 => Sampling { top_p: 0.9, seed, ..base() },
            1 => Sampling { top_k: 50, seed, temperature: 1.7, ..base() },
            2 => Sampling { top_k: 100, top_p: 0.8, min_p: 0.02, seed, ..base() },
            3 => Sampling { min_p: 0.05, seed, temperature: 0.7, ..base() },
            // No filter, but a processor that changes nothing: ranked as far as the number drawn.
            _ => Sampling { no_repeat_ngram_size: 9, seed, ..base() },
        };
        let tokens = vec![0; seed as usize % 7];
        let mut rest = Seed(seed).stream("sample").at(tokens.len() as u64).rng().uniform();
        let want = sorted_distribution(&logits, &sampling).into_iter().find(|w| {
            rest -= w.1;
            rest < 0.0
        });
        let got = choose(&logits, &sampling, History { tokens: &tokens, ..History::default() }).token;
        assert_eq!(Some(got), want.map(|w| w.0), "seed {seed}: {sampling:?}");
        drawn.insert(got);
    }
    assert!(drawn.len() > 500, "the draws hardly vary");
}

#[test]
fn samples_follow_the_distribution() {
    let logits = logits(3, 24, 1.2);
    let tokens: Vec<u32> = (0..12).map(|i| i * 7 % 24).collect();
    let history = History { tokens: &tokens, prompt_len: 4, end_ids: &[2], ..History::default() };
    for (name, sampling) in [
        ("plain", base()),
        ("temperature", Sampling { temperature: 0.6, ..base() }),
        ("top_p", Sampling { top_p: 0.9, ..base() }),
        ("top_k, typical", Sampling { top_k: 16, typical_p: 0.8, ..base() }),
        ("cutoffs", Sampling { epsilon_cutoff: 0.01, eta_cutoff: 0.02, ..base() }),
        ("penalties", Sampling { repetition_penalty: 1.3, frequency_penalty: 0.4, presence_penalty: -0.3, ..base() }),
        ("bans", Sampling { min_tokens: 20, no_repeat_ngram_size: 1, logit_bias: vec![(1, 2.0)], top_p: 0.95, ..base() }),
    ] {
        let want = distribution(&logits, &sampling, history);
        let n = 40_000u64;
        let mut counts = BTreeMap::new();
        for seed in 0..n {
            *counts.entry(choose(&logits, &Sampling { seed, ..sampling.clone() }, history).token).or_insert(0.0) += 1.0;
        }
        let mut chi_square = 0.0;
        for (token, p) in &want {
            let expected = p * n as f64;
            chi_square += (counts.remove(token).unwrap_or(0.0) - expected).powi(2) / expected;
        }
        assert!(counts.is_empty(), "{name}: tokens were drawn that the distribution has not: {counts:?}");
        // Mean and standard deviation of chi-square with f degrees of freedom are f and sqrt(2 f).
        let freedom = want.len() as f64 - 1.0;
        assert!(chi_square < freedom + 5.0 * (2.0 * freedom).sqrt(), "{name}: chi-square {chi_square} with {freedom} degrees of freedom");
        assert_eq!(choose(&logits, &sampling, history), choose(&logits, &sampling, history), "{name}: same seed, another token");
    }
}

#[test]
fn position_and_seed_change_the_draw_and_greedy_ignores_them() {
    let logits = logits(1, 500, 1.0);
    let at = |sampling: &Sampling, length: usize| choose(&logits, sampling, History { tokens: &vec![0; length], ..History::default() });
    let distinct = |sampling: &Sampling| (0..40).map(|i| at(sampling, i).token).collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(&base()) > 20);
    assert!((0..40).map(|seed| at(&Sampling { seed, ..base() }, 3).token).collect::<std::collections::BTreeSet<_>>().len() > 20);
    assert_eq!(distinct(&Sampling::default()), 1);
}

/// Anything a checked request may say about filters and penalties.
fn settings() -> impl Strategy<Value = Sampling> {
    let off_or = |off: f32, range: std::ops::Range<f32>| prop_oneof![Just(off), range];
    let filters = (0usize..40, off_or(1.0, 0.0..1.0), off_or(0.0, 0.0..1.0), off_or(1.0, 0.01..1.0), off_or(0.0, 0.0..0.5), off_or(0.0, 0.0..0.5));
    let penalties = (off_or(1.0, 0.1..3.0), off_or(0.0, -2.0..2.0), off_or(0.0, -2.0..2.0), 0usize..4, 0usize..8, 0.05f32..5.0);
    (filters, penalties, prop::collection::vec((0u32..30, -100f32..100.0), 0..3)).prop_map(|(f, p, logit_bias)| Sampling {
        top_k: f.0,
        top_p: f.1,
        min_p: f.2,
        typical_p: f.3,
        epsilon_cutoff: f.4,
        eta_cutoff: f.5,
        repetition_penalty: p.0,
        frequency_penalty: p.1,
        presence_penalty: p.2,
        no_repeat_ngram_size: p.3,
        min_tokens: p.4,
        temperature: p.5,
        logit_bias,
        ..Sampling::default()
    })
}

/// Ties, bans by the caller, and ordinary numbers.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![8 => -20f32..20.0, 2 => Just(1.0f32), 1 => Just(f32::NEG_INFINITY)], 1..30).prop_map(|mut logits| {
        logits[0] = 0.5;
        logits
    })
}

proptest! {
    #[test]
    fn distributions_are_distributions(sampling in settings(), logits in any_logits(), tokens in prop::collection::vec(0u32..40, 0..12)) {
        let history = History { tokens: &tokens, prompt_len: tokens.len() / 2, end_ids: &[1, 300], ..History::default() };
        let kept = distribution(&logits, &sampling, history);
        prop_assert!((kept.iter().map(|w| w.1).sum::<f64>() - 1.0).abs() < 1e-9, "{:?}", kept);
        prop_assert!(kept.windows(2).all(|w| w[0].1 >= w[1].1), "not sorted: {:?}", kept);
        let choice = choose(&logits, &sampling, history);
        prop_assert!(kept.iter().any(|w| w.0 == choice.token), "{} was drawn out of {:?}", choice.token, kept);
    }

    /// A filter drops tokens and scales up the rest evenly; it never brings one back or leaves nothing.
    #[test]
    fn filters_only_shrink(sampling in settings(), logits in any_logits()) {
        let temperature = sampling.temperature;
        let mut before = distribution(&logits, &Sampling { temperature, ..base() }, History::default());
        let off = Sampling { temperature, ..base() };
        // One more filter at a time, in the order in which they apply.
        let chain = [
            Sampling { top_k: sampling.top_k, ..off.clone() },
            Sampling { top_k: sampling.top_k, top_p: sampling.top_p, ..off.clone() },
            Sampling { top_k: sampling.top_k, top_p: sampling.top_p, min_p: sampling.min_p, ..off.clone() },
            Sampling { top_k: sampling.top_k, top_p: sampling.top_p, min_p: sampling.min_p, typical_p: sampling.typical_p, ..off.clone() },
            Sampling { frequency_penalty: 0.0, presence_penalty: 0.0, repetition_penalty: 1.0, eta_cutoff: 0.0, min_tokens: 0, no_repeat_ngram_size: 0, logit_bias: vec![], ..sampling.clone() },
            Sampling { frequency_penalty: 0.0, presence_penalty: 0.0, repetition_penalty: 1.0, min_tokens: 0, no_repeat_ngram_size: 0, logit_bias: vec![], ..sampling },
        ];
        for step in chain {
            let after = distribution(&logits, &step, History::default());
            prop_assert!(!after.is_empty());
            let old: BTreeMap<u32, f64> = before.iter().copied().collect();
            prop_assert!(after.iter().all(|w| old.contains_key(&w.0)), "{:?} brought back a token", step);
            let mass: f64 = after.iter().map(|w| old[&w.0]).sum();
            for (token, p) in &after {
                prop_assert!((p - old[token] / mass).abs() < 1e-9, "{:?}: token {} is not scaled as the others", step, token);
            }
            before = after;
        }
    }

    /// The lazy cut equals the obvious one.
    #[test]
    fn prefix_filters_equal_the_full_sort(
        logits in any_logits(), top_k in 0usize..40, top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0], min_p in 0f32..1.0, temperature in 0.2f32..3.0,
    ) {
        let sampling = Sampling { top_k, top_p, min_p, temperature, ..Sampling::default() };
        let got = distribution(&logits, &sampling, History::default());
        let want: Vec<_> = sorted_distribution(&logits, &sampling).into_iter().filter(|w| w.1 > 0.0).collect();
        prop_assert_eq!(got.iter().map(|w| w.0).collect::<Vec<_>>(), want.iter().map(|w| w.0).collect::<Vec<_>>());
        for (a, b) in got.iter().zip(want) {
            prop_assert!((a.1 - b.1).abs() < 1e-12);
        }
    }
}

/// `cargo test --workspace --test sampling -- --ignored --nocapture` prints what one choice costs over 128k tokens.
#[test]
#[ignore = "a measurement"]
fn time_of_a_choice() {
    let logits = logits(5, 128_256, 2.5);
    for (name, sampling) in [
        ("greedy", Sampling::default()),
        ("plain", base()),
        ("top_k 50", Sampling { top_k: 50, ..base() }),
        ("top_p 0.9", Sampling { top_p: 0.9, ..base() }),
        ("top_k 50, top_p 0.9", Sampling { top_k: 50, top_p: 0.9, ..base() }),
        ("min_p 0.05", Sampling { min_p: 0.05, ..base() }),
        ("repetition_penalty", Sampling { repetition_penalty: 1.1, ..base() }),
        ("typical_p 0.9", Sampling { typical_p: 0.9, ..base() }),
        ("greedy, 5 top_logprobs", Sampling { top_logprobs: 5, ..Sampling::default() }),
    ] {
        let mut times: Vec<f64> = (0..31)
            .map(|seed| {
                let start = std::time::Instant::now();
                std::hint::black_box(choose(&logits, &Sampling { seed, ..sampling.clone() }, History::default()));
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let kept = distribution(&logits, &sampling, History::default()).len();
        println!("{name:24} {:6.2} ms (median of {}), {kept} tokens kept", times[15], times.len());
    }
    let sampling = Sampling { top_p: 0.9, ..base() };
    let start = std::time::Instant::now();
    std::hint::black_box(sorted_distribution(&logits, &sampling));
    println!("{:24} {:6.2} ms", "top_p 0.9, full sort", start.elapsed().as_secs_f64() * 1e3);
}
