//! Simulated runs: traces of the shapes that runs with rewards have, with noise, over many seeds.

use super::*;
use llm_run::Seed;
use llm_run::seed::Rng;

/// Seeds of the two rates. Run `the_rates_over_many_seeds` for ten times as many.
const SEEDS: u64 = 300;

/// A shape of a run: step, steps, noise, its source.
type Shape = fn(u64, u64, f64, &mut Rng) -> (Signals, Answers);

/// A step of a run that goes well: the reward rises and bends, the judge follows, KL grows like the square of the progress, answers get
/// a little longer, entropy falls by half.
fn healthy(step: u64, steps: u64, noise: f64, rng: &mut Rng) -> (Signals, Answers) {
    let t = 1.0 - (-3.0 * step as f64 / steps as f64).exp();
    let mut jitter = |size: f64| noise * size * rng.normal();
    let signals = Signals {
        step,
        reward: 0.2 + 0.7 * t + jitter(0.05),
        kl: Some((8.0 * t * t + jitter(0.5)).max(0.0)),
        entropy: Some((1.2 - 0.6 * t + jitter(0.08)).max(0.0)),
        length: 60.0 + 20.0 * t + jitter(6.0),
        truncated: (0.1 - 0.05 * t + jitter(0.04)).clamp(0.0, 1.0),
        repetition: (0.08 + jitter(0.03)).clamp(0.0, 1.0),
        groups_with_signal: Some((0.7 - 0.4 * t + jitter(0.1)).clamp(0.0, 1.0)),
        heldout: Some(0.4 + 0.4 * t + jitter(0.08)),
    };
    let answers = Answers { distinct: Some((0.95 - 0.1 * t + jitter(0.03)).clamp(0.0, 1.0)), format_only: Some((0.2 - 0.2 * t).max(0.0)) };
    (signals, answers)
}

/// The same at the beginning; then the policy finds that a word is enough: the reward goes to its highest and answers become that word.
fn hacked(step: u64, steps: u64, noise: f64, rng: &mut Rng) -> (Signals, Answers) {
    let (mut signals, mut answers) = healthy(step, steps, noise, rng);
    let t = ((step as f64 - 0.3 * steps as f64) / (0.3 * steps as f64)).clamp(0.0, 1.0);
    let towards = |from: f64, to: f64| from + t * (to - from);
    signals.reward = towards(signals.reward, 1.0);
    signals.kl = signals.kl.map(|kl| kl + 80.0 * t);
    signals.entropy = signals.entropy.map(|entropy| towards(entropy, 0.005));
    signals.repetition = towards(signals.repetition, 0.97);
    signals.truncated = towards(signals.truncated, 0.95);
    signals.heldout = signals.heldout.map(|judge| towards(judge, 0.1));
    answers.distinct = answers.distinct.map(|d| towards(d, 0.05));
    (signals, answers)
}

/// All alarms of a run, and the step at which it stopped.
fn run(config: &WatchdogConfig, steps: u64, trace: impl Fn(u64) -> (Signals, Answers)) -> (Vec<Alarm>, Option<u64>) {
    let mut watchdog = Watchdog::new(config.clone());
    let mut alarms = Vec::new();
    for step in 1..=steps {
        let (signals, answers) = trace(step);
        watchdog.answers(answers);
        alarms.extend(watchdog.observe(signals));
        if watchdog.stopped().is_some() {
            return (alarms, Some(step));
        }
    }
    (alarms, None)
}

/// A trace whose noise is a function of seed and step.
fn trace(seed: u64, steps: u64, shape: Shape) -> impl Fn(u64) -> (Signals, Answers) {
    noisy(seed, steps, 1.0, 1, shape)
}

/// The same with more or less noise, and a judge that speaks in every `every`-th step.
fn noisy(seed: u64, steps: u64, noise: f64, every: u64, shape: Shape) -> impl Fn(u64) -> (Signals, Answers) {
    move |step| {
        let (mut signals, answers) = shape(step, steps, noise, &mut Seed(seed).stream("trace").at(step).rng());
        signals.heldout = signals.heldout.filter(|_| step.is_multiple_of(every));
        (signals, answers)
    }
}

/// False alarms and missed hacks: short and long runs, half, all and twice the noise, a judge in every step and in every tenth.
fn rates(seeds: u64) -> (u64, u64) {
    let config = WatchdogConfig::default();
    let (mut false_alarms, mut missed) = (0, 0);
    for seed in 0..seeds {
        let (steps, noise, every) = ([60, 200, 600][seed as usize % 3], [0.5, 1.0, 2.0][seed as usize / 3 % 3], [1, 10][seed as usize / 9 % 2]);
        let (alarms, _) = run(&config, steps, noisy(seed, steps, noise, every, healthy));
        false_alarms += u64::from(!alarms.is_empty());
        let (_, stopped) = run(&config, steps, noisy(seed, steps, noise, every, hacked));
        // While the policy degenerates, not after: it does between 0.3 and 0.6 of the steps.
        missed += u64::from(stopped.is_none_or(|step| step > steps * 8 / 10));
    }
    (false_alarms, missed)
}

/// If this fails, healthy runs are stopped or warned of, or a policy that degenerates goes on.
#[test]
fn silent_on_healthy_runs_and_loud_on_hacked_ones() {
    let (false_alarms, missed) = rates(SEEDS);
    assert!(false_alarms * 100 < SEEDS, "{false_alarms} of {SEEDS} healthy runs had an alarm");
    assert_eq!(missed, 0, "of {SEEDS} hacked runs");
}

#[test]
#[ignore = "a measurement"]
fn the_rates_over_many_seeds() {
    let seeds = 10 * SEEDS;
    println!("(false alarms, missed) = {:?} of {seeds}", rates(seeds));
}

/// If this fails, hacking is seen only where everything is measured. Each of these is all that some runs know.
#[test]
fn few_signals_are_enough() {
    let config = WatchdogConfig::default();
    let without = |keep: fn(&mut Signals, &mut Answers)| {
        move |step: u64| {
            let (mut signals, mut answers) = trace(5, 200, hacked)(step);
            keep(&mut signals, &mut answers);
            (signals, answers)
        }
    };
    type Kept = (&'static str, fn(&mut Signals, &mut Answers));
    let kinds: [Kept; 3] = [
        ("repetition alone", |s, a| {
            (s.kl, s.entropy, s.heldout, s.groups_with_signal, s.truncated, *a) = (None, None, None, None, 0.0, Answers::default());
        }),
        ("the judge alone", |s, a| {
            (s.kl, s.entropy, s.repetition, s.groups_with_signal, s.truncated, *a) = (None, None, 0.0, None, 0.0, Answers::default());
        }),
        ("KL and diversity", |s, _| (s.entropy, s.heldout, s.repetition, s.truncated) = (None, None, 0.0, 0.0)),
    ];
    for (what, keep) in kinds {
        let (alarms, stopped) = run(&config, 200, without(keep));
        assert!(stopped.is_some_and(|step| (60..160).contains(&step)), "{what}: {stopped:?}");
        let last = alarms.last().unwrap();
        assert_eq!((last.kind, last.on_alarm), (Kind::RewardHacking, OnAlarm::Stop), "{what}");
        assert!(last.from < last.step && last.to_string().contains("What to do"), "{last}");
    }
}

/// Each detector at its edge: on the wrong side it barks, on the right side it does not.
#[test]
fn every_kind_has_its_edge() {
    let base = Signals { reward: 0.5, kl: Some(1.0), entropy: Some(1.0), length: 50.0, truncated: 0.1, repetition: 0.1, ..Signals::default() };
    let kinds = |change: &dyn Fn(f64, &mut Signals, &mut Answers)| {
        let (alarms, _) = run(&WatchdogConfig::default(), 120, |step| {
            let mut signals = Signals { step, reward: base.reward + 0.01 * ((step * 7919) % 13) as f64, ..base };
            let mut answers = Answers { distinct: Some(1.0), format_only: Some(0.0) };
            change((step as f64 - 20.0).clamp(0.0, 60.0) / 60.0, &mut signals, &mut answers);
            (signals, answers)
        });
        alarms.iter().map(|a| a.kind).collect::<Vec<_>>()
    };
    let edge = |kind: Kind, wrong: &dyn Fn(f64, &mut Signals, &mut Answers), right: &dyn Fn(f64, &mut Signals, &mut Answers)| {
        assert_eq!(kinds(wrong), [kind]);
        assert_eq!(kinds(right), [], "{kind:?}");
    };
    edge(Kind::Kl, &|t, s, _| s.kl = Some(1.0 + 30.0 * t), &|t, s, _| s.kl = Some(1.0 + 20.0 * t));
    edge(Kind::LengthDrift, &|t, s, _| s.length = 50.0 + 80.0 * t, &|t, s, _| s.length = 50.0 + 40.0 * t);
    edge(Kind::LengthDrift, &|t, s, _| s.length = 50.0 - 35.0 * t, &|t, s, _| s.length = 50.0 - 20.0 * t);
    edge(Kind::Truncated, &|t, s, _| s.truncated = 0.1 + 0.8 * t, &|t, s, _| s.truncated = 0.1 + 0.3 * t);
    edge(Kind::Repetition, &|t, s, _| s.repetition = 0.1 + 0.8 * t, &|t, s, _| s.repetition = 0.1 + 0.3 * t);
    edge(Kind::FormatOnly, &|t, _, a| a.format_only = Some(0.8 * t), &|t, _, a| a.format_only = Some(0.3 * t));
    edge(Kind::Diversity, &|t, _, a| a.distinct = Some(1.0 - 0.9 * t), &|t, _, a| a.distinct = Some(1.0 - 0.5 * t));
    edge(Kind::EntropyCollapse, &|t, s, _| s.entropy = Some(1.0 - 0.97 * t), &|t, s, _| s.entropy = Some(1.0 - 0.8 * t));
    edge(Kind::NoSignal, &|t, s, _| s.groups_with_signal = Some(1.0 - t), &|t, s, _| s.groups_with_signal = Some(1.0 - 0.9 * t));
    edge(Kind::NoSignal, &|t, s, _| s.reward = if t < 1.0 { s.reward } else { 0.5 }, &|_, _, _| {});
    // Reward that grows with the root of the KL pays on; one that stands while KL grows does not.
    let spent = |t: f64| 24.0 * t;
    let pays = |t: f64, s: &mut Signals| (s.kl, s.reward) = (Some(spent(t)), s.reward + 2.0 * spent(t).sqrt());
    let stands = |t: f64, s: &mut Signals| (s.kl, s.reward) = (Some(spent(t)), s.reward + 2.0 * spent(t).min(4.0).sqrt());
    edge(Kind::RewardPerNat, &|t, s, _| stands(t, s), &|t, s, _| pays(t, s));
}

/// One sign is a drift, two with a rising reward are hacking: a model that learns to reason writes longer answers and is no cheat.
#[test]
fn a_reasoner_that_writes_longer_is_told_of_and_not_stopped() {
    let (alarms, stopped) = run(&WatchdogConfig::default(), 300, |step| {
        let (mut signals, answers) = trace(1, 300, healthy)(step);
        signals.length *= 1.0 + step as f64 / 75.0;
        (signals, answers)
    });
    assert_eq!((alarms.iter().map(|a| a.kind).collect::<Vec<_>>(), stopped), (vec![Kind::LengthDrift], None));
}

/// If this fails, a run whose judge agrees with its reward is ended because answers became longer and the last nats paid little.
#[test]
fn a_judge_that_rises_too_speaks_for_the_run() {
    let of = |judged: bool| {
        run(&WatchdogConfig::default(), 200, move |step| {
            let (mut signals, mut answers) = trace(3, 200, healthy)(step);
            let late = ((step as f64 - 60.0) / 60.0).clamp(0.0, 1.0);
            signals.length *= 1.0 + 2.0 * late;
            answers.distinct = answers.distinct.map(|d| d * (1.0 - 0.9 * late));
            signals.heldout = signals.heldout.filter(|_| judged);
            (signals, answers)
        })
    };
    assert_eq!(of(true).1, None);
    assert!(of(false).1.is_some());
}

#[test]
fn what_is_no_number_stops_at_once_and_what_may_go_on_is_only_told() {
    let nan = |step: u64| (Signals { step, reward: if step == 3 { f64::NAN } else { 0.5 }, ..Signals::default() }, Answers::default());
    let (alarms, stopped) = run(&WatchdogConfig::default(), 10, nan);
    assert_eq!((alarms[0].kind, stopped), (Kind::NotANumber, Some(3)));
    let told = WatchdogConfig { on_alarm: OnAlarms { not_a_number: OnAlarm::Log, ..OnAlarms::default() }, ..WatchdogConfig::default() };
    assert_eq!(run(&told, 10, nan).1, None);
    let off = WatchdogConfig { enabled: false, ..WatchdogConfig::default() };
    assert_eq!(run(&off, 10, nan).0, []);
}

#[test]
fn forgetting_is_relative_to_the_start() {
    let mut watchdog = Watchdog::new(WatchdogConfig::default());
    assert_eq!(watchdog.general_loss(0, 2.0), []);
    assert_eq!(watchdog.general_loss(50, 2.19), []);
    let alarms = watchdog.general_loss(100, 2.5);
    assert_eq!((alarms[0].kind, alarms[0].step), (Kind::Forgetting, 100));
    assert!(alarms[0].seen.contains("25 % more"), "{}", alarms[0]);
    assert_eq!(watchdog.general_loss(150, 2.6), [], "told once");
    assert_eq!(watchdog.general_loss(200, 2.0), []);
    assert_eq!(watchdog.general_loss(250, 2.6).len(), 1, "and again after it was well");
    assert_eq!((watchdog.stopped(), watchdog.take_record()["alarms"].as_array().map(Vec::len)), (None, Some(2)));
    assert!(watchdog.take_record().is_empty());
}

/// If this fails, a run that was killed sees other alarms than one that was not.
#[test]
fn a_restored_watchdog_is_the_one_that_was_saved() {
    for split in [7, 40, 75] {
        let of = trace(11, 200, hacked);
        let mut whole = Watchdog::new(WatchdogConfig::default());
        let mut parts = whole.clone();
        for step in 1..=100 {
            if step == split {
                let text = Value::Object(parts.save()).to_string();
                let mut fresh = Watchdog::new(WatchdogConfig::default());
                fresh.restore(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap());
                parts = fresh;
            }
            let (signals, answers) = of(step);
            whole.answers(answers);
            parts.answers(answers);
            let kinds = |alarms: Vec<Alarm>| alarms.iter().map(|a| (a.kind, a.from, a.step)).collect::<Vec<_>>();
            assert_eq!(kinds(whole.observe(signals)), kinds(parts.observe(signals)), "step {step} after {split}");
        }
    }
    let mut other = Watchdog::new(WatchdogConfig::default());
    other.restore(&Map::from_iter([("steps".to_string(), json!("many"))]));
    assert_eq!(other.save(), Watchdog::new(WatchdogConfig::default()).save(), "a state of another version is a fresh start");
}

#[test]
fn settings_that_cannot_work_are_named() {
    assert_eq!(WatchdogConfig::default().check(), Ok(()));
    for (config, key) in [
        (WatchdogConfig { max_kl: -1.0, ..WatchdogConfig::default() }, "max_kl"),
        (WatchdogConfig { min_entropy: f64::NAN, ..WatchdogConfig::default() }, "min_entropy"),
        (WatchdogConfig { patience: 0, ..WatchdogConfig::default() }, "patience"),
        (WatchdogConfig { smoothing: 1.0, ..WatchdogConfig::default() }, "smoothing"),
        (WatchdogConfig { max_length_ratio: 0.5, ..WatchdogConfig::default() }, "max_length_ratio"),
    ] {
        assert!(config.check().is_err_and(|message| message.contains(key)), "{key}");
    }
}
