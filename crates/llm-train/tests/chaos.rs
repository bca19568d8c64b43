//! Training that is killed at any moment, also while it writes a checkpoint, and started again: every loss and the final model are those
//! of an undisturbed run, and no half checkpoint is ever taken. The real program, the real signals.
#![cfg(unix)]

mod common;

use common::program::{Result, Workshop, read_said, signal, stderr, wait_until, whole_checkpoints};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Is a checkpoint being written?
fn writing(out: &Path) -> bool {
    let entries = fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).any(|name| name.starts_with(".tmp-step-"))
}

/// The step that a run said it continued from; 0 when it started anew.
fn continued_from(out: &Path) -> u64 {
    let said = read_said(out);
    let number = said.split_once("continuing from step ").map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_string());
    number.map_or(0, |n| n.parse().unwrap())
}

/// Kill `kills` runs: every other one after a random time, the rest at a random moment of a checkpoint's writing.
fn chaos(kills: u64) {
    let workshop = Workshop::new();
    let started = Instant::now();
    let calm = workshop.calm("calm");
    let whole = started.elapsed();
    let random = llm_run::Seed(11).stream("chaos");
    let draw = |what: &str, n: u64| (random.stream(what).at(n).0 >> 33) as f64 / (1u64 << 31) as f64;
    let out = workshop.path("out");
    let (mut killed, mut aimed, mut in_the_act, mut finished, mut resumed) = (0, 0, 0, 0, 0);
    for round in 0.. {
        assert!(round < 20 * kills + 100, "{killed} kills in {round} rounds: nothing is hit");
        let before = whole_checkpoints(&out).last().copied().unwrap_or(0);
        let mut child = workshop.start(&out);
        let aim = round % 2 == 1;
        if killed < kills {
            if aim {
                // The first write of this run, or a later one; somewhere between the first file and the rename.
                let which = (draw("which", round) * 4.0) as u32;
                for n in 0..=which {
                    while !writing(&out) && child.try_wait().unwrap().is_none() {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    while n < which && writing(&out) && child.try_wait().unwrap().is_none() {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                std::thread::sleep(Duration::from_secs_f64(0.01 * draw("moment", round).powi(2)));
            } else {
                std::thread::sleep(whole.mul_f64(draw("when", round)));
            }
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        // Killed within its first moments it says nothing; otherwise it went on from the newest checkpoint that was there.
        let from = continued_from(&out);
        assert!(from == before || from == 0 && !status.success(), "step {before} is saved, but it continued from {from}:\n{}", read_said(&out));
        resumed += u64::from(from > 0);
        if status.success() {
            finished += 1;
            Result::of(&out).assert_equal(&calm, &format!("after {killed} kills"));
            if killed >= kills {
                break;
            }
            // Another life, or there would be nothing left to interrupt.
            fs::remove_dir_all(&out).unwrap();
        } else {
            assert!(status.code().is_none(), "it was not the kill that ended it: {status}\n{}", read_said(&out));
            killed += 1;
            aimed += u64::from(aim);
            in_the_act += u64::from(writing(&out));
        }
    }
    println!(
        "{killed} kills ({aimed} aimed, {in_the_act} left a half checkpoint), {resumed} continued, {finished} runs finished like the undisturbed one"
    );
    assert!(in_the_act > 0 && resumed > 0, "{in_the_act} half checkpoints, {resumed} continued: the test hits nothing");
    let left: Vec<_> = fs::read_dir(&out).unwrap().flatten().map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with(".tmp-")).collect();
    assert!(left.is_empty(), "temporary files of killed runs must be cleared away: {left:?}");
}

#[test]
fn killed_runs_become_the_undisturbed_run_to_the_bit() {
    chaos(6);
}

#[test]
#[ignore = "the long version: 20 kills, or as many as CHAOS_KILLS says"]
fn many_killed_runs_become_the_undisturbed_run_to_the_bit() {
    chaos(std::env::var("CHAOS_KILLS").map_or(20, |n| n.parse().unwrap()));
}

const LONGER: u64 = 240;

/// Long enough to be there when a signal comes.
fn longer() -> Workshop {
    let mut workshop = Workshop::new();
    workshop.sets = vec![format!("trainer.max_steps={LONGER}"), "trainer.checkpoint_every=40".into()];
    workshop
}

/// If this fails, a scheduler that takes its machine back marks the job as failed, or its work is lost.
#[test]
fn sigterm_saves_ends_well_and_the_next_start_continues() {
    let workshop = longer();
    let (calm, out) = (workshop.calm("calm"), workshop.path("out"));
    for (name, code) in [("TERM", 0), ("INT", 130)] {
        let mut child = workshop.start(&out);
        let metrics = || fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
        let before = whole_checkpoints(&out).last().copied().unwrap_or(0);
        wait_until(60, "two steps", || metrics().contains(&format!("\"step\":{},", before + 2)));
        let asked = Instant::now();
        signal(&child, name);
        let status = child.wait().unwrap();
        let took = asked.elapsed();
        assert_eq!(status.code(), Some(code), "SIG{name}: {}", read_said(&out));
        assert!(took < Duration::from_secs(30), "SIG{name}: {took:?}");
        assert!(!out.join("model").exists() && !out.join("manifest.json").exists(), "SIG{name}: it looks finished");
        let steps = whole_checkpoints(&out);
        let saved = *steps.last().unwrap();
        assert!(saved >= before + 2 && saved < LONGER, "SIG{name}: {steps:?}");
        let said = read_said(&out);
        assert!(said.contains(&format!("interrupted after step {saved}; start the same command again")), "{said}");
        assert!(before == 0 || said.contains(&format!("continuing from step {before}")), "{said}");
    }
    let output = workshop.run(&out);
    assert!(output.status.success() && stderr(&output).contains("continuing from step"), "{}", stderr(&output));
    Result::of(&out).assert_equal(&calm, "after SIGTERM and Ctrl-C");
}

/// SIGTERM often comes twice: to the process and to its group.
#[test]
fn a_second_sigterm_does_not_prevent_the_save() {
    let workshop = longer();
    let out = workshop.path("out");
    let mut child = workshop.start(&out);
    wait_until(60, "a checkpoint", || !llm_train::checkpoint::steps(&out.join("checkpoints")).is_empty());
    signal(&child, "TERM");
    signal(&child, "TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", read_said(&out));
    let saved = *whole_checkpoints(&out).last().unwrap();
    assert!(saved >= 40 && read_said(&out).contains(&format!("interrupted after step {saved}")), "{}", read_said(&out));
}
