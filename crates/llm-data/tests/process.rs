//! `llm-data process` as a library: any number of ranks, reruns, changed settings, failing stores, two processes at one rank.

mod common;

use common::{Faulty, difference, json_lines, snapshot};
use llm_data::document;
use llm_data::ranks::Ranks;
use llm_data::store::{self, Location};
use llm_data::work::{self, Finished, ProcessConfig, Report, Shown, finish, process};
use object_store::memory::InMemory;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const STEPS: &str = "[[step]]\nkind = \"redact\"\n[[step]]\nkind = \"language\"\nlanguages = [\"en\", \"de\"]\nmin_score = 0.5\n";

/// A folder with JSON lines that are split, one that is compressed, a small Parquet file, and small files that share a unit.
fn sources(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("a.jsonl"), json_lines(0..1500)).unwrap();
    std::fs::write(folder.join("b.jsonl.zst"), zstd::encode_all(json_lines(1500..1900).as_bytes(), 1).unwrap()).unwrap();
    for i in 0..5 {
        std::fs::write(folder.join(format!("c{i}.jsonl")), json_lines(1900 + i * 20..1920 + i * 20)).unwrap();
    }
    let mut writer = document::DocumentWriter::create(&folder.join("d")).unwrap();
    for (i, line) in json_lines(2000..2400).lines().enumerate() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = row["text"].as_str().unwrap().to_string();
        writer.push(document::Document { id: format!("d{i}"), text, domain: "docs".into(), ..Default::default() }).unwrap();
    }
    writer.finish().unwrap();
}

fn config(input: &str, steps: &str) -> ProcessConfig {
    let text = format!("input = [\"{input}\"]\nunit_bytes = 60000\nsignals = true\n{steps}");
    toml::from_str(&text).unwrap()
}

fn run(config: &ProcessConfig, out: &Location, rank: usize, world_size: usize) -> llm_data::Result<Report> {
    process(config, out, Ranks::new(rank, world_size).unwrap(), Shown::Nothing)
}

fn whole(config: &ProcessConfig, out: &Location) -> llm_data::funnel::Funnel {
    match finish(config, out).unwrap() {
        Finished::Whole(funnel) => *funnel,
        Finished::Missing { units, first } => panic!("{units} units are missing, the first is {first}"),
    }
}

#[test]
fn one_two_and_four_ranks_in_any_order_write_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    sources(&dir.path().join("in"));
    let config = config(&dir.path().join("in").display().to_string(), STEPS);
    let mut first = None;
    for (name, world_size, order) in [("one", 1, vec![0]), ("two", 2, vec![1, 0]), ("four", 4, vec![2, 0, 3, 1])] {
        let out = Location::local(dir.path().join(name));
        for rank in order {
            assert!(matches!(finish(&config, &out).unwrap(), Finished::Missing { .. }));
            run(&config, &out, rank, world_size).unwrap();
        }
        let funnel = whole(&config, &out);
        assert_eq!(funnel.documents_in, 2400);
        assert!(funnel.documents_out > 1000 && funnel.counts["redacted e-mail addresses"] > 100, "{funnel:?}");
        let files = snapshot(&dir.path().join(name));
        let ids: BTreeSet<String> = document::read_all(&dir.path().join(name)).unwrap().into_iter().map(|d| d.id).collect();
        assert_eq!(ids.len() as u64, funnel.documents_out, "ids are lost or doubled");
        let first = first.get_or_insert_with(|| files.clone());
        assert!(first.len() > 20 && difference(first, &files).is_empty(), "{name}: {:?}", difference(first, &files));
    }
}

#[test]
fn a_rerun_does_what_is_missing_or_changed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    sources(&input);
    let (path, out) = (input.display().to_string(), Location::local(dir.path().join("out")));
    let base = config(&path, STEPS);
    let count = |config: &ProcessConfig| {
        let report = run(config, &out, 0, 1).unwrap();
        whole(config, &out);
        (report.skipped, report.done.units as usize)
    };
    let (skipped, units) = count(&base);
    assert!(skipped == 0 && units > 5);
    assert_eq!(count(&base), (units, 0), "nothing changed");
    // How many units at a time and how it is shown change no document.
    assert_eq!(count(&ProcessConfig { threads: 1, ..base.clone() }), (units, 0));
    // One output gone, one record damaged: these two units.
    std::fs::remove_file(dir.path().join("out/documents/part-000001.parquet")).unwrap();
    std::fs::write(dir.path().join("out/units/000003.json"), "{").unwrap();
    assert_eq!(count(&base), (units - 2, 2));
    // Each changed setting reruns everything, and changing it back does so again.
    for changed in [
        STEPS.replace("0.5", "0.51"),
        STEPS.replace("\"en\", \"de\"", "\"en\""),
        STEPS.replace("kind = \"redact\"", "kind = \"redact\"\nphone = false"),
        String::new(),
    ] {
        assert_eq!(count(&config(&path, &changed)), (0, units), "{changed}");
        assert_eq!(count(&config(&path, &changed)), (units, 0), "{changed}");
    }
    let mut other = base.clone();
    other.paths.text_field = "url".into();
    other.paths.exclude = vec!["/d/".into()];
    assert_eq!(count(&other).0, 0);
    count(&base);
    // A changed input reruns the units that read it.
    let text = json_lines(1500..1901);
    std::fs::write(input.join("b.jsonl.zst"), zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    assert_eq!(count(&base), (units - 1, 1));
    // Fewer units: what the larger plan left is removed.
    let fewer = ProcessConfig { unit_bytes: 1 << 30, ..base.clone() };
    let (_, now) = count(&fewer);
    assert!(now < units);
    let files = snapshot(&dir.path().join("out"));
    assert_eq!(files.keys().filter(|n| n.starts_with("documents/")).count(), now);
    let fresh = Location::local(dir.path().join("fresh"));
    run(&fewer, &fresh, 0, 1).unwrap();
    whole(&fewer, &fresh);
    assert!(difference(&files, &snapshot(&dir.path().join("fresh"))).is_empty(), "a rerun must be like a fresh run");
}

#[test]
fn a_hundred_changes_of_settings_never_take_an_old_unit_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), json_lines(0..60)).unwrap();
    let path = dir.path().join("a.jsonl").display().to_string();
    let out = Location::local(dir.path().join("out"));
    for i in 0..100 {
        let steps = format!("[[step]]\nkind = \"language\"\nmin_score = {}\n", 0.3 + f64::from(i) / 1e4);
        let changed = ProcessConfig { unit_bytes: 1 << 20, ..config(&path, &steps) };
        let report = run(&changed, &out, 0, 1).unwrap();
        assert_eq!(report.skipped, 0, "a stale unit at change {i}");
    }
}

#[test]
fn a_file_that_a_step_names_is_part_of_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("a.jsonl");
    std::fs::write(&input, json_lines(0..60)).unwrap();
    let model = dir.path().join("model");
    std::fs::write(&model, "one").unwrap();
    let unit = || {
        // No step on its own reads this key; the identity only asks which texts name files.
        let config = config(&input.display().to_string(), &format!("[[step]]\nkind = \"x\"\nmodel = \"{}\"\n", model.display()));
        work::record::Identity::new(&config).unwrap().of(&work::unit::plan(&config).unwrap()[0])
    };
    let first = unit();
    assert_eq!(unit(), first);
    std::fs::write(&model, "two").unwrap();
    assert_ne!(unit(), first);
}

#[test]
fn two_processes_at_one_rank_end_with_one_result() {
    let dir = tempfile::tempdir().unwrap();
    sources(&dir.path().join("in"));
    let config = config(&dir.path().join("in").display().to_string(), STEPS);
    let alone = Location::local(dir.path().join("alone"));
    run(&config, &alone, 0, 1).unwrap();
    whole(&config, &alone);
    let shared = Location::local(dir.path().join("shared"));
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    run(&config, &shared, 0, 1).unwrap();
                    whole(&config, &shared);
                });
            }
        });
        let difference = difference(&snapshot(&dir.path().join("alone")), &snapshot(&dir.path().join("shared")));
        assert!(difference.is_empty(), "{difference:?}");
        std::fs::remove_dir_all(dir.path().join("shared")).unwrap();
    }
}

#[test]
fn other_settings_into_the_same_folder_at_the_same_time_are_refused_or_lose() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), json_lines(0..300)).unwrap();
    let path = dir.path().join("a.jsonl").display().to_string();
    let out = Location::local(dir.path().join("out"));
    let (one, two) = (config(&path, STEPS), config(&path, ""));
    let results: Vec<llm_data::Result<Report>> = std::thread::scope(|scope| {
        let both = [&one, &two].map(|c| scope.spawn(|| run(c, &out, 0, 1)));
        both.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for error in results.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("other settings"), "{error}");
    }
    // Whoever comes last and alone is right.
    run(&one, &out, 0, 1).unwrap();
    whole(&one, &out);
    let fresh = Location::local(dir.path().join("fresh"));
    run(&one, &fresh, 0, 1).unwrap();
    whole(&one, &fresh);
    assert!(difference(&snapshot(&dir.path().join("out")), &snapshot(&dir.path().join("fresh"))).is_empty());
}

#[test]
fn a_bucket_that_fails_a_fifth_of_the_time_gives_the_same_documents() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    sources(&input);
    let inner = Arc::new(InMemory::new());
    let faulty = Arc::new(Faulty::new(inner, 0.2));
    store::register("memory://bad", Arc::clone(&faulty) as _);
    for (name, bytes) in snapshot(&input) {
        store::put(&Location::parse(&format!("memory://bad/in/{name}")).unwrap(), bytes).unwrap();
    }
    let local = config(&input.display().to_string(), STEPS);
    let out = Location::local(dir.path().join("out"));
    run(&local, &out, 0, 1).unwrap();
    whole(&local, &out);
    let remote = config("memory://bad/in", STEPS);
    let bucket = Location::parse("memory://bad/out").unwrap();
    for rank in [1, 0] {
        run(&remote, &bucket, rank, 2).unwrap();
    }
    whole(&remote, &bucket);
    assert!((0..4).all(|k| faulty.failures[k].load(Ordering::SeqCst) > 0), "every kind of failure must have happened");
    println!("{} failures on the way", faulty.all_failures());
    let here = snapshot(&dir.path().join("out"));
    for name in here.keys().filter(|n| !n.starts_with("units/")) {
        let there = store::get(&bucket.join(name)).unwrap().unwrap();
        assert!(here[name] == there, "{name} differs");
    }
}

#[test]
fn damaged_rows_are_an_error_with_its_place_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}{{\"text\": 7}}\n{}not json\n", json_lines(0..20), json_lines(20..40));
    std::fs::write(dir.path().join("a.jsonl"), text).unwrap();
    let mut config = config(&dir.path().join("a.jsonl").display().to_string(), "");
    let out = Location::local(dir.path().join("out"));
    let error = run(&config, &out, 0, 1).unwrap_err().to_string();
    assert!(error.contains("a.jsonl: line 21") && error.contains("on_error"), "{error}");
    assert!(!dir.path().join("out/units").exists(), "a failed unit must not look complete");
    config.paths.on_error = llm_data::read::jsonl::OnError::Skip;
    run(&config, &out, 0, 1).unwrap();
    let funnel = whole(&config, &out);
    assert_eq!((funnel.documents_in, funnel.documents_out, funnel.steps.iter().map(|s| s.dropped).sum::<u64>()), (42, 40, 2));
    let drops = std::fs::read_to_string(dir.path().join("out/dropped.jsonl")).unwrap();
    assert!(drops.lines().count() == 2 && drops.contains("a.jsonl#21"), "{drops}");
}

#[test]
fn an_output_within_an_input_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    sources(&dir.path().join("in"));
    let config = config(&dir.path().join("in").display().to_string(), "");
    let error = run(&config, &Location::local(dir.path().join("in/out")), 0, 1).unwrap_err().to_string();
    assert!(error.contains("lies within the input"), "{error}");
}

#[test]
fn verification_finds_a_changed_bit_and_has_the_unit_done_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), json_lines(0..300)).unwrap();
    let config = config(&dir.path().join("a.jsonl").display().to_string(), STEPS);
    let out = Location::local(dir.path().join("out"));
    run(&config, &out, 0, 1).unwrap();
    whole(&config, &out);
    let before = snapshot(&dir.path().join("out"));
    assert!(work::finish::verify(&config, &out).unwrap().is_empty());
    let part = dir.path().join("out/documents/part-000000.parquet");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert_eq!(work::finish::verify(&config, &out).unwrap(), [part.display().to_string()]);
    run(&config, &out, 0, 1).unwrap();
    whole(&config, &out);
    assert!(difference(&before, &snapshot(&dir.path().join("out"))).is_empty());
}

/// If this fails, moving a limit over stored signals tells another story than running `process` with that limit.
#[test]
fn what_if_over_stored_signals_is_what_a_rerun_does() {
    use llm_data::whatif::what_if;
    let dir = tempfile::tempdir().unwrap();
    sources(&dir.path().join("in"));
    let input = dir.path().join("in").display().to_string();
    let steps = |score: f64, words: usize| {
        format!(
            "[[step]]\nkind = \"language\"\nlanguages = [\"en\", \"de\"]\nmin_score = {score}\n[[step]]\nkind = \"tutorial\"\n[step.text]\nmin_words = {words}\n"
        )
    };
    let go = |name: &str, score: f64, words: usize| {
        let (config, out) = (config(&input, &steps(score, words)), Location::local(dir.path().join(name)));
        run(&config, &out, 0, 1).unwrap();
        whole(&config, &out)
    };
    let first = go("first", 0.2, 30);
    let same = what_if(&dir.path().join("first"), &[]).unwrap();
    assert_eq!((same.documents, same.kept_before, same.kept_now, same.lost, same.gained), (2400, first.documents_out, first.documents_out, 0, 0));
    let second = go("second", 0.9, 200);
    assert!(second.documents_out < first.documents_out, "the test moves nothing: {}", second.documents_out);
    let sets = ["language.min_score=0.9".to_string(), "tutorial.text.min_words=200".to_string()];
    let moved = what_if(&dir.path().join("first"), &sets).unwrap();
    assert_eq!((moved.kept_now, moved.gained), (second.documents_out, 0));
    for step in second.steps.iter().filter(|s| s.dropped > 0) {
        let now = moved.checks.iter().find(|c| c.check == step.name).map_or(0, |c| c.dropped_now);
        assert_eq!(now, step.dropped, "{}", step.name);
    }
    let refused = |set: &str| what_if(&dir.path().join("first"), &[set.into()]).unwrap_err().to_string();
    assert!(refused("language.languages=['en']").contains("language.languages"));
    assert!(refused("tutorial.text.min_wrds=1").contains("min_words"));
    assert!(refused("langage.min_score=1").contains("did you mean `language`"));
}

/// If this fails, what `pii` replaced in a large run is lost, or readable for everybody, or benchmarks are not looked for when they are named.
#[test]
fn replaced_personal_data_comes_back_and_named_benchmarks_are_looked_for() {
    use llm_data::pii::{UnredactConfig, unredact_documents};
    let dir = tempfile::tempdir().unwrap();
    let question =
        "a farmer keeps seven hundred and twelve speckled hens in four barns how many feathers must he sweep before breakfast on a windy sunday";
    std::fs::write(dir.path().join("questions.jsonl"), format!("{{\"question\": \"{question}\", \"answer\": \"12\"}}\n")).unwrap();
    let text = |i: usize| {
        format!(
            "Write to agent{i}@widgets-factory.de before noon, please, since the post leaves early on such days. {}",
            "More words follow here. ".repeat(20)
        )
    };
    let mut rows: Vec<String> = (0..50).map(|i| serde_json::json!({ "text": text(i) }).to_string()).collect();
    rows.push(serde_json::json!({ "text": format!("{}{question}{}", "Before it. ".repeat(60), " After it.".repeat(60)) }).to_string());
    std::fs::write(dir.path().join("in.jsonl"), rows.join("\n") + "\n").unwrap();
    let mut config = config(&dir.path().join("in.jsonl").display().to_string(), "[[step]]\nkind = \"pii\"\n");
    let out = dir.path().join("out");
    let place = Location::local(&out);
    run(&config, &place, 0, 1).unwrap();
    let funnel = whole(&config, &place);
    assert_eq!(funnel.counts["redacted email"], 50);
    assert!(funnel.notices.iter().any(|n| n.starts_with("not decontaminated")), "{:?}", funnel.notices);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(out.join("private")), mode(out.join("private/part-000000.parquet"))), (0o700, 0o600));
    }
    let back = UnredactConfig { input: out.clone(), report: out.join("private") };
    assert_eq!(unredact_documents(&back, &dir.path().join("back")).unwrap(), (51, 50));
    let texts: Vec<String> = document::read_all(&dir.path().join("back")).unwrap().into_iter().map(|d| d.text).collect();
    assert_eq!(texts[7], text(7));

    config.benchmarks = vec![dir.path().join("questions.jsonl")];
    run(&config, &place, 0, 1).unwrap();
    let funnel = whole(&config, &place);
    assert!(funnel.notices.is_empty(), "{:?}", funnel.notices);
    let texts: Vec<String> = document::read_all(&out).unwrap().into_iter().map(|d| d.text).collect();
    assert!(!texts.concat().contains("speckled hens"), "the benchmark's question is still there");
}
