//! What looks wrong in one step: each detector compares averages with thresholds and with the start, and says in words what it saw.
//!
//! Every detector but those of absolute budgets asks two things: is the change large (the threshold of the configuration), and is it no
//! noise ([`SIGNIFICANT`] standard deviations of the moving average against the start).

use super::config::Kind;
use super::{HELDOUT_SMOOTHING, Memory, WatchdogConfig};

/// Standard deviations that a change must have.
const SIGNIFICANT: f64 = 4.0;
/// The same for the judge's fall from its best, which is the highest of many noisy values.
const SIGNIFICANT_FALL: f64 = 8.0;
/// Standard deviations that the reward must have risen before a judge that does not follow counts.
const CLEAR_RISE: f64 = 10.0;
/// Values of the judge before it is believed to fall, and to stall.
const LEAST_HELDOUT: u64 = 4;
const LEAST_STALLED: u64 = 8;
/// Share that cut-off, hollow or repeating answers must have gained since the start.
const GAINED: f64 = 0.2;
/// Nats before reward per nat is judged.
const LEAST_NATS: f64 = 10.0;
/// Groups with a signal, on average, that are as none.
const FEW_GROUPS: f64 = 0.02;

/// Kinds that look wrong now, with what was seen.
pub(super) fn symptoms(config: &WatchdogConfig, memory: &Memory) -> Vec<(Kind, String)> {
    let mut found: Vec<(Kind, String)> = Vec::new();
    let decay = config.smoothing;
    let mut see = |kind: Kind, seen: Option<String>| found.extend(seen.map(|seen| (kind, seen)));
    see(Kind::Kl, kl(config, memory));
    see(Kind::RewardPerNat, reward_per_nat(config, memory));
    see(Kind::LengthDrift, length(config, memory));
    let shares = [
        (Kind::Repetition, &memory.repetition, config.max_repetition, "of the 4-grams of an answer are repetitions"),
        (Kind::Truncated, &memory.truncated, config.max_truncated, "of the answers are cut off"),
        (Kind::FormatOnly, &memory.format_only, config.max_format_only, "of the answers earn with their form alone"),
    ];
    for (kind, track, most, what) in shares {
        let wrong = most > 0.0 && track.n() > 0 && track.now() >= most && track.now() - track.start() >= GAINED && track.score(decay) > SIGNIFICANT;
        see(kind, wrong.then(|| format!("{} {what}, {} at the start", percent(track.now()), percent(track.start()))));
    }
    let distinct = &memory.distinct;
    let few = config.min_distinct > 0.0 && distinct.n() > 0 && distinct.now() < config.min_distinct * distinct.start();
    let seen = || format!("{} of the answers to different prompts differ, {} at the start", percent(distinct.now()), percent(distinct.start()));
    see(Kind::Diversity, (few && distinct.score(decay) < -SIGNIFICANT).then(seen));
    see(Kind::EntropyCollapse, entropy(config, memory));
    see(Kind::NoSignal, no_signal(config, memory));
    let hacking = reward_hacking(config, memory, &found);
    found.extend(hacking.map(|seen| (Kind::RewardHacking, seen)));
    found
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Three digits or so.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 || v == 0.0 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn kl(config: &WatchdogConfig, memory: &Memory) -> Option<String> {
    let now = memory.kl.now();
    (config.max_kl > 0.0 && now > config.max_kl)
        .then(|| format!("{} nats per answer from the reference, more than {}", short(now), short(config.max_kl)))
}

/// Does the second half of the KL pay as the first did?
fn reward_per_nat(config: &WatchdogConfig, memory: &Memory) -> Option<String> {
    let (kl, reward) = (memory.kl.now(), memory.reward.now());
    if config.min_reward_per_nat == 0.0 || kl < LEAST_NATS {
        return None;
    }
    let (half_kl, half_reward) = *memory.levels.iter().rev().find(|(level, _)| *level <= kl / 2.0)?;
    let earned = half_reward - memory.reward.start();
    if earned <= SIGNIFICANT * memory.reward.noise_of_now(config.smoothing) {
        return None;
    }
    let (first, second) = (earned / half_kl, (reward - half_reward) / (kl - half_kl));
    (second < config.min_reward_per_nat * first).then(|| {
        format!(
            "the first {} nats of KL raised the reward by {}, the next {} by {}",
            short(half_kl),
            short(earned),
            short(kl - half_kl),
            short(reward - half_reward)
        )
    })
}

fn length(config: &WatchdogConfig, memory: &Memory) -> Option<String> {
    let (most, track) = (config.max_length_ratio, &memory.length);
    if most == 0.0 || track.start() <= 0.0 || track.score(config.smoothing).abs() < SIGNIFICANT {
        return None;
    }
    let ratio = track.now() / track.start();
    (ratio > most || ratio < 1.0 / most).then(|| format!("answers have {} tokens, {} at the start", short(track.now()), short(track.start())))
}

fn entropy(config: &WatchdogConfig, memory: &Memory) -> Option<String> {
    let track = &memory.entropy;
    let (now, start) = (track.now(), track.start());
    if track.n() == 0 || track.score(config.smoothing) > -SIGNIFICANT {
        return None;
    }
    let low = now < config.min_entropy && now < start / 2.0;
    (low || now < config.min_entropy_ratio * start).then(|| format!("{} nats per token, {} at the start", short(now), short(start)))
}

fn no_signal(config: &WatchdogConfig, memory: &Memory) -> Option<String> {
    let groups = &memory.groups_with_signal;
    if groups.n() > 0 && groups.now() < FEW_GROUPS {
        return Some(format!("the answers to a prompt all get the same reward in {} of the groups", percent(1.0 - groups.now())));
    }
    let patience = 4 * config.patience;
    (memory.same_reward >= patience).then(|| format!("the reward has been {} for {} steps", short(memory.last_reward), memory.same_reward))
}

/// The reward rises, and either the judge falls or answers repeat themselves, or two other things are wrong at the same time, three where the
/// judge has risen too. One drift alone is not called hacking: a model that learns to reason writes longer answers, one that becomes sure has
/// less entropy.
fn reward_hacking(config: &WatchdogConfig, memory: &Memory, found: &[(Kind, String)]) -> Option<String> {
    let (reward, heldout, decay) = (&memory.reward, &memory.heldout, config.smoothing);
    if reward.score(decay) < SIGNIFICANT {
        return None;
    }
    let seen = |kind: Kind| found.iter().find(|(k, _)| *k == kind).map(|(k, seen)| format!("{}: {seen}", k.name()));
    let mut strong: Vec<String> = seen(Kind::Repetition).into_iter().collect();
    let mut weak: Vec<String> = Vec::new();
    let noise = heldout.noise_of_now(HELDOUT_SMOOTHING);
    if let Some(best) = memory.best.filter(|_| config.max_heldout_drop > 0.0 && heldout.n() >= LEAST_HELDOUT) {
        let fell = best.heldout - heldout.now() > config.max_heldout_drop.max(SIGNIFICANT_FALL * noise);
        if fell && reward.now() >= best.reward - reward.noise_of_now(decay) {
            strong.push(format!("the held-out judge fell from {} after step {} to {}", short(best.heldout), best.step, short(heldout.now())));
        }
        let stalled = heldout.n() >= LEAST_STALLED && heldout.now() - heldout.start() < noise && reward.score(decay) > CLEAR_RISE;
        if stalled && strong.is_empty() {
            weak.push(format!("the held-out judge has not risen, {} at the start and {} now", short(heldout.start()), short(heldout.now())));
        }
    }
    // Both are about the KL and count once.
    weak.extend(seen(Kind::Kl).or_else(|| seen(Kind::RewardPerNat)));
    weak.extend([Kind::LengthDrift, Kind::Truncated, Kind::FormatOnly, Kind::Diversity, Kind::EntropyCollapse].into_iter().filter_map(seen));
    // A judge that has clearly risen too speaks for the run.
    let defended = heldout.n() >= LEAST_STALLED && heldout.score(HELDOUT_SMOOTHING) > SIGNIFICANT;
    if strong.is_empty() && weak.len() < if defended { 3 } else { 2 } {
        return None;
    }
    let evidence: Vec<String> = strong.into_iter().chain(weak).collect();
    Some(format!("the reward rose from {} to {} while {}", short(reward.start()), short(reward.now()), evidence.join("; ")))
}
