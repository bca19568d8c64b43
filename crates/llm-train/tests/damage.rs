//! A full disk, damaged shards and damaged checkpoints: one line that names the file, a status that is not zero, and what was saved
//! before is good afterwards. The real program.
#![cfg(unix)]

mod common;

use common::program::{EVERY, Result, Workshop, stderr, whole_checkpoints};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Ended by an error in one line that holds all of `words`, without a panic.
fn assert_says(output: &Output, words: &[&str]) {
    let text = stderr(output);
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(errors.len(), 1, "{text}");
    for word in words {
        assert!(errors[0].contains(word), "no `{word}` in: {}", errors[0]);
    }
}

/// A file system of its own, gone with the value; none where mounting is not allowed.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: &Path, size: &str) -> Option<Self> {
        fs::create_dir(dir).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir).output();
        mounted.is_ok_and(|o| o.status.success()).then(|| Self(dir.to_path_buf()))
    }

    fn resize(&self, size: &str) {
        assert!(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Bytes of a checkpoint: the weights and two moments of each.
fn checkpoint_bytes(calm: &Result) -> usize {
    3 * calm.model["model/model.safetensors"].len()
}

#[test]
fn a_full_disk_ends_the_run_with_the_file_and_the_last_checkpoint_stays_good() {
    let workshop = Workshop::new();
    let calm = workshop.calm("calm");
    // One checkpoint fits, the next beside it does not.
    let size = checkpoint_bytes(&calm) * 3 / 2;
    let Some(small) = Mounted::new(&workshop.path("small"), &size.to_string()) else {
        println!("skipped: mounting a small file system is not allowed here");
        return;
    };
    let out = small.0.join("out");
    let output = workshop.run(&out);
    assert_says(&output, &["small/out/", "No space left"]);
    assert_eq!(whole_checkpoints(&out), [EVERY], "the first checkpoint fits and must be whole");
    let half: Vec<_> = fs::read_dir(out.join("checkpoints")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(half.len(), 1, "a failed write must make room again: {half:?}");
    small.resize("64m");
    let output = workshop.run(&out);
    assert!(output.status.success() && stderr(&output).contains(&format!("continuing from step {EVERY}")), "{}", stderr(&output));
    Result::of(&out).assert_equal(&calm, "after a full disk");
}

#[test]
fn a_file_that_may_not_grow_is_like_a_full_disk() {
    let workshop = Workshop::new();
    let (calm, out) = (workshop.calm("calm"), workshop.path("out"));
    // The limit of a shell counts blocks of 512 bytes or more; where its signal is ignored, the write itself fails.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"];
    let output = workshop.command(&limited, &out).output().unwrap();
    assert_says(&output, &["out/", "File too large"]);
    assert!(whole_checkpoints(&out).is_empty());
    let output = workshop.run(&out);
    assert!(output.status.success(), "{}", stderr(&output));
    Result::of(&out).assert_equal(&calm, "after a file that could not grow");
}

fn shards(workshop: &Workshop) -> Vec<PathBuf> {
    let files = llm_run::atomic::walk(&workshop.path("pack/train")).unwrap();
    files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "arrow")).collect()
}

/// If this fails, training learns from what a failing disk made up.
#[test]
fn a_damaged_shard_is_refused_with_its_name() {
    let workshop = Workshop::new();
    let file = shards(&workshop).remove(0);
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let good = fs::read(&file).unwrap();
    let try_with = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let out = workshop.path("damaged");
        let output = workshop.run(&out);
        println!("{what}: {}", stderr(&output).lines().last().unwrap_or_default());
        assert_says(&output, &[&name]);
        assert!(!out.join("model").exists() && llm_train::checkpoint::steps(&out.join("checkpoints")).is_empty(), "{what}");
    };
    for keep in [0, 5, good.len() / 2, good.len() - 1] {
        try_with(&good[..keep], &format!("cut to {keep} bytes"));
    }
    let random = llm_run::Seed(3).stream("flips");
    for n in 0..24 {
        let mut bytes = good.clone();
        let at = (random.at(n).0 % good.len() as u64) as usize;
        bytes[at] ^= 1 << (random.stream("bit").at(n).0 % 8);
        try_with(&bytes, &format!("bit flipped at {at} of {}", good.len()));
    }
    fs::write(&file, &good).unwrap();
    let output = workshop.run(&workshop.path("damaged"));
    assert!(output.status.success(), "the undamaged shard: {}", stderr(&output));
}

/// Stops after some steps with checkpoints in `out`.
fn stopped(workshop: &Workshop, out: &Path) -> Vec<u64> {
    use common::program::wait_until;
    let mut child = workshop.start(out);
    wait_until(60, "two checkpoints", || llm_train::checkpoint::steps(&out.join("checkpoints")).len() >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    whole_checkpoints(out)
}

#[test]
fn a_damaged_newest_checkpoint_gives_way_to_the_one_before() {
    let workshop = Workshop::new();
    let calm = workshop.calm("calm");
    for (file, damage) in [("model.safetensors", "flip"), ("optimizer.safetensors", "cut"), ("trainer.json", "cut"), ("trainer.json", "remove")] {
        let out = workshop.path("out");
        let steps = stopped(&workshop, &out);
        let [.., before, newest] = steps[..] else { panic!("{steps:?}") };
        let path = out.join(format!("checkpoints/step-{newest:08}/{file}"));
        let mut bytes = fs::read(&path).unwrap();
        match damage {
            "flip" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                fs::write(&path, bytes).unwrap();
            }
            "cut" => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let output = workshop.run(&out);
        let text = stderr(&output);
        assert!(output.status.success() && text.contains(&format!("continuing from step {before}")), "{file} {damage}: {text}");
        assert!(text.lines().any(|l| l.contains(&format!("step-{newest:08}"))), "{file} {damage}: no note that names the damaged one:\n{text}");
        Result::of(&out).assert_equal(&calm, &format!("{file} {damage}"));
        fs::remove_dir_all(&out).unwrap();
    }
}

/// If this fails, a run whose checkpoints are all bad starts anew in silence, and days of work look like minutes.
#[test]
fn checkpoints_that_are_all_damaged_are_an_error() {
    let workshop = Workshop::new();
    let out = workshop.path("out");
    for step in stopped(&workshop, &out) {
        let path = out.join(format!("checkpoints/step-{step:08}/model.safetensors"));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_says(&workshop.run(&out), &["checkpoints/step-", "model.safetensors"]);
}
