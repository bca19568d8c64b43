//! The pipeline with a stand-in for the stage programs: a shell script that logs its calls, counts slowly with a
//! checkpoint, or fails.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = r#"#!/bin/sh
# COMMAND --config FILE --out DIR
command=$1; config=$3; out=$5
echo "$command $(basename "$out")" >> "$(dirname "$0")/calls"
case $command in
  copy) grep -v '^path' "$config" > "$out/data" ;;
  count)
    trap 'exit 0' TERM
    i=$(cat "$out/checkpoint" 2>/dev/null || echo 0)
    echo "from $i" >> "$(dirname "$0")/calls"
    while [ "$i" -lt 40 ]; do
      i=$((i + 1)); echo "$i" > "$out/.tmp-c"; mv "$out/.tmp-c" "$out/checkpoint"; sleep 0.05
    done
    rm "$out/checkpoint"; echo "counted to $i" > "$out/data" ;;
  fail) exit 3 ;;
esac
echo '{"program":"stand-in","command":"'"$command"'","version":"0","command_line":[],"config":null,"seed":null,"inputs":{},"output_hash":null,"summary":null,"started_at":1,"wall_seconds":0.1,"peak_memory_bytes":1048576,"cpus":1,"finished":true}' > "$out/manifest.json"
"#;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(second: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("stage.sh");
        fs::write(&program, PROGRAM).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let stage = |id: &str, command: &str, config: &str| {
            format!(
                "[[stage]]\nid = \"{id}\"\ntitle = \"Stage {id}\"\nprogram = \"{}\"\ncommand = \"{command}\"\nconfig = {config}\n",
                program.display()
            )
        };
        let recipe = format!(
            "name = \"bench\"\nseed = 7\n{}{}{}",
            stage("one", "copy", "{ seed = \"{seed}\" }"),
            stage("two", second, "{ path = \"{one}/data\", width = 1 }"),
            stage("three", "copy", "{ path = \"{two}/data\" }")
        );
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["pipeline", "run"]).arg(self.path("recipe.toml")).arg("--out").arg(self.path("run")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn start(&self) -> Child {
        self.command(&[]).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The calls since the last look.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_string).collect()
    }

    fn wait_for(&self, what: impl Fn(&Path) -> bool) {
        let started = Instant::now();
        while !what(self.dir.path()) {
            assert!(started.elapsed() < Duration::from_secs(30), "nothing happened");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for_count(&self, least: u32) {
        self.wait_for(|dir| {
            fs::read_to_string(dir.join("run/two/checkpoint")).ok().and_then(|t| t.trim().parse::<u32>().ok()).is_some_and(|n| n >= least)
        });
    }

    fn result(&self) -> String {
        fs::read_to_string(self.path("run/two/data")).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn signal(child: &Child, name: &str) {
    Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
}

#[test]
fn only_what_changed_and_what_depends_on_it_runs_again() {
    let bench = Bench::new("copy");
    let first = bench.run(&[]);
    assert!(first.status.success(), "{}", stderr(&first));
    assert_eq!(bench.calls(), ["copy one", "copy two", "copy three"]);
    assert_eq!(fs::read_to_string(bench.path("run/one/data")).unwrap(), "seed = 7\n");
    assert!(bench.path("run/report.html").exists());

    bench.run(&[]);
    assert!(bench.calls().is_empty());

    let changed = bench.run(&["--set", "two.width=2"]);
    assert_eq!(bench.calls(), ["copy two", "copy three"]);
    assert!(
        stderr(&changed).contains("its configuration changed") && stderr(&changed).contains("its input changed: {two}/data"),
        "{}",
        stderr(&changed)
    );

    bench.run(&["--set", "two.width=2", "--from", "three"]);
    assert_eq!(bench.calls(), ["copy three"]);
    bench.run(&["--set", "two.width=2", "--only", "one"]);
    assert_eq!(bench.calls(), ["copy one"]);

    fs::remove_file(bench.path("run/two/data")).unwrap();
    bench.run(&["--set", "two.width=2"]);
    assert_eq!(bench.calls(), ["copy two"], "the same content again: what follows is unchanged");

    bench.run(&["--set", "two.width=2", "--force"]);
    assert_eq!(bench.calls().len(), 3);
}

#[test]
fn a_dry_run_says_what_would_run_and_writes_nothing() {
    let bench = Bench::new("copy");
    let output = bench.run(&["--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("3 stages would run") && text.contains("runs: after `one`"), "{text}");
    assert!(!bench.path("run").exists());
    bench.run(&[]);
    let output = bench.run(&["--dry-run", "--set", "two.width=5"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("2 stages would run") && text.contains("unchanged"), "{text}");
}

#[test]
fn after_kill_9_the_stage_continues_from_its_checkpoint() {
    let bench = Bench::new("count");
    let mut child = bench.start();
    bench.wait_for_count(3);
    signal(&child, "KILL");
    child.wait().unwrap();
    // The stage itself is still going: the next run must stop it before it starts another.
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("continues") && stderr(&output).contains("still going"), "{}", stderr(&output));
    let calls = bench.calls();
    assert_eq!(calls.iter().filter(|c| *c == "count two").count(), 2, "{calls:?}");
    let resumed: u32 = calls.iter().rev().find_map(|c| c.strip_prefix("from ")).unwrap().parse().unwrap();
    assert!(resumed >= 3, "{calls:?}");
    assert_eq!(bench.result(), "counted to 40\n");
    let stamp: serde_json::Value = serde_json::from_str(&fs::read_to_string(bench.path("run/two/.stage.json")).unwrap()).unwrap();
    assert_eq!(stamp["attempts"], 2);
    assert!(!bench.path("run/two/.tmp-running.json").exists());
}

#[test]
fn an_interrupt_ends_with_a_line_how_to_continue() {
    let bench = Bench::new("count");
    let child = bench.start();
    bench.wait_for_count(3);
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = stderr(&output);
    assert!(text.contains("stopped at stage `two`; to continue: cargo xtask pipeline run"), "{text}");
    assert!(bench.run(&[]).status.success());
    assert_eq!(bench.result(), "counted to 40\n");
}

#[test]
fn a_changed_key_clears_the_partial_folder_first() {
    let bench = Bench::new("count");
    let mut child = bench.start();
    bench.wait_for_count(3);
    signal(&child, "INT");
    child.wait().unwrap();
    bench.calls();
    assert!(bench.run(&["--set", "two.width=9"]).status.success());
    assert!(bench.calls().contains(&"from 0".to_string()));
}

#[test]
fn a_failed_stage_is_named_with_its_command_and_status() {
    let bench = Bench::new("fail");
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("error: stage `two` failed (exit status 3): ") && text.contains("stage.sh fail --config"), "{text}");
    assert_eq!(bench.calls(), ["copy one", "fail two"]);
}

#[test]
fn two_runs_in_one_folder_are_refused() {
    let bench = Bench::new("count");
    let mut child = bench.start();
    bench.wait_for_count(2);
    let output = bench.run(&[]);
    assert!(!output.status.success() && stderr(&output).contains("another run works in this folder"), "{}", stderr(&output));
    signal(&child, "INT");
    child.wait().unwrap();
}

#[test]
fn typos_are_answered_with_what_was_meant() {
    let bench = Bench::new("copy");
    for (arguments, expected) in [
        (["--set", "tow.width=2"], "did you mean `two`"),
        (["--from", "thre"], "did you mean `three`"),
        (["--set", "two"], "expected stage.key=value"),
    ] {
        let output = bench.run(&arguments);
        assert!(!output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(bench.calls().is_empty());
}

/// A program that saves at SIGTERM and ends with status 0, as `llm-train` does, is not finished.
#[test]
fn a_stage_that_stopped_in_order_is_continued_not_taken_for_done() {
    let bench = Bench::new("count");
    let child = bench.start();
    bench.wait_for_count(5);
    let stamp: serde_json::Value = serde_json::from_str(&fs::read_to_string(bench.path("run/two/.tmp-running.json")).unwrap()).unwrap();
    assert!(Command::new("kill").args(["-TERM", &stamp["pid"].to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("stopped at stage `two`") && !bench.path("run/three").exists(), "{}", stderr(&output));
    bench.calls();
    let output = bench.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(bench.result().trim(), "counted to 40");
    assert!(bench.calls().iter().any(|c| c.starts_with("from ") && c != "from 0"), "it must go on where it was");
}
