//! Ranks that are killed at any moment, and a disk without room: what is visible is always whole, and in the end it is what an
//! undisturbed run writes.

mod common;

use common::{difference, json_lines, snapshot};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const CONFIG: &str = "unit_bytes = 60000\nthreads = 2\nsignals = true\n[[step]]\nkind = \"redact\"\n[[step]]\nkind = \"language\"\n[[step]]\nkind = \"tutorial\"\n[step.text]\nmin_words = 30\n";

fn command(config: &Path, input: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-data"));
    command.arg("process").arg("--config").arg(config).arg("--set").arg(format!("input=[\"{}\"]", input.display())).arg("--out").arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn setup(dir: &Path, documents: usize) -> (PathBuf, PathBuf) {
    let input = dir.join("in");
    std::fs::create_dir(&input).unwrap();
    std::fs::write(input.join("a.jsonl"), json_lines(0..documents)).unwrap();
    std::fs::write(input.join("b.jsonl.zst"), zstd::encode_all(json_lines(documents..documents + documents / 4).as_bytes(), 1).unwrap()).unwrap();
    let config = dir.join("config.toml");
    std::fs::write(&config, CONFIG).unwrap();
    (config, input)
}

/// What is visible in the folder is whole: records say the truth about the files they name, and every part opens.
fn everything_visible_is_whole(out: &Path) -> u64 {
    new_files_are_whole(out, &mut HashMap::new())
}

/// The same for files that are new or changed since the last look. A file that appears half written is caught when it appears, and one
/// that is written in place has another length or time afterwards; reading all of them every time would take a processor of its own
/// from the ranks.
fn new_files_are_whole(out: &Path, seen: &mut HashMap<PathBuf, (u64, u64, SystemTime)>) -> u64 {
    let mut checked = 0;
    let Ok(files) = llm_run::atomic::walk(out) else { return 0 };
    for file in files {
        let name = file.strip_prefix(out).unwrap().display().to_string();
        let Ok(meta) = std::fs::metadata(&file) else { continue }; // a unit that is done again removes its record first
        let version = (meta.ino(), meta.len(), meta.modified().unwrap());
        if seen.get(&file) == Some(&version) {
            continue;
        }
        let Ok(bytes) = std::fs::read(&file) else { continue };
        if name.ends_with(".parquet") {
            assert!(bytes.len() > 12 && bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{name} is visible and half written");
        } else if name.ends_with(".json") {
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_else(|e| panic!("{name} is visible and half written: {e}"));
        } else {
            assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "{name} is visible and half written");
        }
        seen.insert(file, version);
        checked += 1;
    }
    checked
}

fn chaos(kills: u64, documents: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (config, input) = setup(dir.path(), documents);
    let calm = dir.path().join("calm");
    let started = Instant::now();
    assert!(command(&config, &input, &calm).status().unwrap().success());
    let whole = started.elapsed();
    let expected = snapshot(&calm);

    let (done, checks) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut killed, mut runs, mut useful) = (0u64, 0u64, 0u64);
    std::thread::scope(|scope| {
        let out = dir.path().join("out");
        let (watched, done, checks) = (out.clone(), &done, &checks);
        scope.spawn(move || {
            let mut seen = HashMap::new();
            while !done.load(Ordering::SeqCst) {
                checks.fetch_add(new_files_are_whole(&watched, &mut seen), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let random = llm_run::Seed(3).stream("chaos");
        let world_size = 3;
        while killed < kills {
            // Two ranks at a time, now and then the same one twice; one of them dies at any moment, the other may finish.
            let round = runs;
            let draw = |what: &str| random.stream(what).at(round).0 >> 33;
            let ranks = [draw("first") % world_size, draw("second") % world_size];
            let start = |rank: &u64| {
                let mut call = command(&config, &input, &out);
                call.args(["--rank", &rank.to_string(), "--world-size", &world_size.to_string()]);
                call.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            };
            let mut children: Vec<Child> = ranks.iter().map(start).collect();
            std::thread::sleep(whole.mul_f64((draw("when") % 1000) as f64 / 1000.0));
            let victim = (draw("victim") % 2) as usize;
            children[victim].kill().unwrap();
            killed += u64::from(!children[victim].wait().unwrap().success());
            if draw("both") % 2 == 0 {
                children[1 - victim].kill().unwrap();
            }
            let status = children[1 - victim].wait().unwrap();
            killed += u64::from(!status.success());
            runs += 1;
            // From time to time everything that was done is thrown away, or there would be nothing left to interrupt.
            let complete = llm_run::atomic::walk(&out.join("units")).map_or(0, |f| f.len());
            useful += u64::from(complete > 0);
            let total = expected.keys().filter(|n| n.starts_with("units/")).count();
            if complete == total && killed < kills {
                std::fs::remove_dir_all(out.join("units")).unwrap();
                if draw("all") % 2 == 0 {
                    std::fs::remove_dir_all(out.join("documents")).unwrap();
                }
            }
            assert!(runs < 40 * kills.max(10), "{killed} kills in {runs} runs: the test does not hit anything");
        }
        for rank in 0..world_size {
            let output = start_and_wait(&config, &input, &out, rank, world_size);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        done.store(true, Ordering::SeqCst);
    });
    println!("{killed} processes killed in {runs} rounds, {} looks at visible files", checks.load(Ordering::SeqCst));
    assert!(useful > 0 && checks.load(Ordering::SeqCst) > 0);
    let difference = difference(&expected, &snapshot(&dir.path().join("out")));
    assert!(difference.is_empty(), "after {killed} kills these differ: {difference:?}");
    let output = command(&config, &input, &dir.path().join("out")).arg("--verify").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let leftovers =
        std::fs::read_dir(dir.path().join("out/documents")).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".tmp-"));
    assert_eq!(leftovers.count(), 0, "temporary files of killed processes must be cleared away");
}

fn start_and_wait(config: &Path, input: &Path, out: &Path, rank: u64, world_size: u64) -> std::process::Output {
    command(config, input, out).args(["--rank", &rank.to_string(), "--world-size", &world_size.to_string()]).output().unwrap()
}

#[test]
fn killed_ranks_leave_nothing_half_written_and_lose_nothing() {
    chaos(5, 2000);
}

#[test]
#[ignore = "the long version: 50 kills"]
fn fifty_killed_ranks_leave_nothing_half_written_and_lose_nothing() {
    chaos(50, 3000);
}

#[test]
fn ctrl_c_keeps_complete_units_and_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (config, input) = setup(dir.path(), 6000);
    let out = dir.path().join("out");
    let child = command(&config, &input, &out).spawn().unwrap();
    let units = || llm_run::atomic::walk(&out.join("units")).map_or(0, |f| f.len());
    let started = Instant::now();
    while units() == 0 && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let kept = units();
    if output.status.success() {
        println!("skipped: it was done before the signal came");
        return;
    }
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(kept > 0 && everything_visible_is_whole(&out) > 0);
    let output = command(&config, &input, &out).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains(&format!("{kept} were complete before")), "{errors}");
}

#[test]
fn the_launcher_starts_a_killed_rank_again() {
    let dir = tempfile::tempdir().unwrap();
    let (config, input) = setup(dir.path(), 6000);
    let (calm, out) = (dir.path().join("calm"), dir.path().join("out"));
    assert!(command(&config, &input, &calm).output().unwrap().status.success());
    let mut launch = Command::new(env!("CARGO_BIN_EXE_llm-data"));
    launch.args(["launch", "local", "--world-size", "2", "--config"]).arg(&config).arg("--set").arg(format!("input=[\"{}\"]", input.display()));
    let launcher = launch.arg("--out").arg(&out).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One of its children, by its parent in /proc.
    let child = || {
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
            (parent == launcher.id()).then_some(pid)
        })
    };
    let started = Instant::now();
    let victim = loop {
        if let Some(pid) = child() {
            break pid;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "the launcher starts nobody");
    };
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    let output = launcher.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.contains("attempt 2 of 3"), "{errors}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("documents"));
    let difference = difference(&snapshot(&calm), &snapshot(&out));
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_nothing_half_written_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let (config, input) = setup(dir.path(), 6000);
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        println!("skipped: mounting a small file system is not allowed here");
        return;
    }
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let _mounted = Mounted(small.clone());
    let out = small.join("out");
    let output = command(&config, &input, &out).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "200 kB must not be enough");
    let error = errors.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains("small/out/") && error.contains("No space left"), "{errors}");
    everything_visible_is_whole(&out);
    let left = std::fs::read_dir(out.join("documents")).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with(".tmp-"));
    assert_eq!(left.count(), 0, "a failed unit must clear away what it wrote");
    // With room the same command goes on.
    assert!(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small).status().unwrap().success());
    let output = command(&config, &input, &out).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calm = dir.path().join("calm");
    assert!(command(&config, &input, &calm).output().unwrap().status.success());
    assert!(difference(&snapshot(&calm), &snapshot(&out)).is_empty());
}
