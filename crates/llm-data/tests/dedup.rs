//! Duplicate removal against plain algorithms, in little memory, shared among processes, killed, and on a full disk.

use llm_data::dedup::minhash::{MinHash, similarity};
use llm_data::dedup::{DedupConfig, Keep, Method, audit, dedup, normalised_hash};
use llm_data::document::{Document, DocumentWriter, read_all};
use llm_data::ranks::Ranks;
use llm_run::Seed;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const ALL: [Method; 6] = [Method::Exact, Method::Minhash, Method::Simhash, Method::Line, Method::Paragraph, Method::Substring];

fn document(id: usize, text: String) -> Document {
    Document { id: format!("d{id:05}"), text, domain: "web".into(), source: "test".into(), ..Document::default() }
}

/// Texts of which many are copies of others: the same, edited in some words, cut, or with a passage of another.
fn texts(count: usize, seed: u64) -> Vec<String> {
    let mut rng = Seed(seed).stream("texts").rng();
    let mut all: Vec<String> = Vec::new();
    for i in 0..count {
        let fresh = |rng: &mut llm_run::Rng| {
            let words: Vec<String> = (0..40 + rng.below(80))
                .map(|n| {
                    format!(
                        "w{}{}",
                        rng.below(4000),
                        if n % 11 == 10 {
                            "\n"
                        } else if n % 37 == 36 {
                            "\n\n"
                        } else {
                            ""
                        }
                    )
                })
                .collect();
            words.join(" ")
        };
        let text = match (rng.below(10), all.len()) {
            (0, n) if n > 0 => format!("{}  ", rng.pick(&all)),
            (1..=3, n) if n > 0 => {
                let mut words: Vec<String> = rng.pick(&all).split(' ').map(str::to_string).collect();
                for _ in 0..rng.below(9) {
                    let at = rng.below(words.len());
                    words[at] = format!("edit{i}");
                }
                words.join(" ")
            }
            (4, n) if n > 0 => {
                let other = rng.pick(&all).clone();
                let passage: String = other.chars().skip(rng.below(60)).take(100 + rng.below(200)).collect();
                format!("{} {passage} {}", fresh(&mut rng), fresh(&mut rng))
            }
            _ => fresh(&mut rng),
        };
        all.push(text);
    }
    all
}

/// A stage's output folder in `parts` files.
fn write(dir: &Path, documents: &[Document], parts: usize) -> PathBuf {
    let folder = dir.join("in/documents");
    std::fs::create_dir_all(&folder).unwrap();
    for (index, chunk) in documents.chunks(documents.len().div_ceil(parts)).enumerate() {
        let mut writer = DocumentWriter::create(&dir.join("part")).unwrap();
        for document in chunk {
            writer.push(document.clone()).unwrap();
        }
        writer.finish().unwrap();
        std::fs::rename(dir.join("part/part-00000.parquet"), folder.join(format!("part-{index:05}.parquet"))).unwrap();
    }
    dir.join("in")
}

fn ids(dir: &Path) -> Vec<String> {
    read_all(dir).unwrap().into_iter().map(|d| d.id).collect()
}

/// The stage as one would write it without a thought for memory.
fn plain(texts: &[String], config: &DedupConfig) -> Vec<usize> {
    let minhash = MinHash::new(config.ngram, config.bands, config.rows, config.seed);
    let signatures: Vec<Vec<u64>> = texts.iter().map(|t| minhash.signature(t)).collect();
    let mut roots: Vec<usize> = (0..texts.len()).collect();
    fn find(roots: &[usize], mut i: usize) -> usize {
        while roots[i] != i {
            i = roots[i];
        }
        i
    }
    let mut edges = Vec::new();
    let mut first = HashMap::new();
    for (i, text) in texts.iter().enumerate() {
        edges.push((*first.entry(normalised_hash(text)).or_insert(i), i));
    }
    let mut buckets: BTreeMap<(usize, u64), Vec<usize>> = BTreeMap::new();
    for (i, signature) in signatures.iter().enumerate() {
        for (band, key) in minhash.band_keys(signature).enumerate() {
            buckets.entry((band, key)).or_default().push(i);
        }
    }
    for bucket in buckets.values() {
        let mut heads: Vec<usize> = Vec::new();
        for &i in bucket {
            match heads.iter().find(|h| similarity(&signatures[**h], &signatures[i]) >= config.least_similarity()) {
                Some(&head) => edges.push((head, i)),
                None => heads.push(i),
            }
        }
    }
    for (a, b) in edges {
        let (a, b) = (find(&roots, a), find(&roots, b));
        roots[a.max(b)] = a.min(b);
    }
    (0..texts.len()).filter(|i| find(&roots, *i) == *i).collect()
}

#[test]
fn the_result_is_that_of_the_plain_algorithm_in_any_memory_and_in_any_number_of_parts() {
    let dir = tempfile::tempdir().unwrap();
    let texts = texts(1500, 1);
    let documents: Vec<Document> = texts.iter().enumerate().map(|(i, t)| document(i, t.clone())).collect();
    let mut results = Vec::new();
    for (name, memory, parts) in [("a", "1GiB", 1), ("b", "64KiB", 1), ("c", "300KB", 5)] {
        let input = write(&dir.path().join(name), &documents, parts);
        let config = DedupConfig { input, memory: memory.into(), ..DedupConfig::default() };
        let out = dir.path().join(name).join("out");
        let funnel = dedup(&config, &out).unwrap();
        assert!(!out.join("work").exists(), "the work folder is removed");
        let expected: Vec<String> = plain(&texts, &config).into_iter().map(|i| format!("d{i:05}")).collect();
        assert!(expected.len() < 1200 && funnel.steps.iter().all(|s| s.dropped > 50), "the corpus has duplicates of both kinds");
        assert_eq!(ids(&out), expected, "{memory}, {parts} parts");
        results.push(std::fs::read(out.join("dropped.jsonl")).unwrap());
    }
    assert!(results.windows(2).all(|w| w[0] == w[1]), "memory and parts change what is noted of dropped documents");
}

#[test]
fn any_number_of_processes_and_threads_writes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Document> = texts(400, 2).into_iter().enumerate().map(|(i, t)| document(i, t)).collect();
    let input = write(dir.path(), &documents, 7);
    let run = |world_size: usize, threads: usize, memory: &str| {
        let out = dir.path().join(format!("out-{world_size}-{threads}-{memory}"));
        std::thread::scope(|scope| {
            for rank in (0..world_size).rev() {
                let config = DedupConfig {
                    input: input.clone(),
                    methods: ALL.to_vec(),
                    min_substring_bytes: 64,
                    memory: memory.into(),
                    ranks: Ranks { rank, world_size },
                    wait_seconds: 120,
                    ..DedupConfig::default()
                };
                let out = &out;
                scope.spawn(move || {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| dedup(&config, out)).unwrap();
                });
            }
        });
        llm_run::hash::path(&out).unwrap()
    };
    let one = run(1, 1, "128KiB");
    // With more memory several parts of the input are worked on at the same time.
    for (world_size, threads, memory) in
        [(1, 3, "128KiB"), (2, 1, "128KiB"), (4, 2, "128KiB"), (1, 1, "1GiB"), (1, 3, "256MiB"), (1, 8, "1GiB"), (2, 3, "1GiB")]
    {
        assert_eq!(run(world_size, threads, memory), one, "{world_size} processes of {threads} threads with {memory}");
    }
}

#[test]
fn a_process_that_waits_for_nobody_says_which_one_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Document> = texts(20, 3).into_iter().enumerate().map(|(i, t)| document(i, t)).collect();
    let input = write(dir.path(), &documents, 2);
    let config = DedupConfig { input, ranks: Ranks { rank: 0, world_size: 2 }, wait_seconds: 0, ..DedupConfig::default() };
    let out = dir.path().join("out");
    let message = dedup(&config, &out).unwrap_err().to_string();
    assert!(message.contains("start rank 1 of 2"), "{message}");
    assert!(!out.join("documents").exists());
}

#[test]
fn the_policy_chooses_who_stays() {
    let dir = tempfile::tempdir().unwrap();
    let base = texts(1, 4).remove(0);
    let variants = [
        (base.clone(), Some(0.1), Some("2020-01-01")),
        (format!("{base} and one word more"), Some(0.9), Some("2024-05-05")),
        (base.clone(), Some(0.4), Some("2026-01-01T00:00:00Z")),
        (format!("{base} and some words more at the end"), None, None),
    ];
    let documents: Vec<Document> = variants
        .into_iter()
        .enumerate()
        .map(|(i, (text, quality, date))| Document { quality, date: date.map(Into::into), ..document(i, text) })
        .collect();
    let input = write(dir.path(), &documents, 2);
    for (keep, expected) in [(Keep::First, 0), (Keep::Longest, 3), (Keep::Quality, 1), (Keep::Newest, 2)] {
        let out = dir.path().join(format!("{keep:?}"));
        dedup(&DedupConfig { input: input.clone(), keep, ..DedupConfig::default() }, &out).unwrap();
        let expected = format!("d{expected:05}");
        assert_eq!(ids(&out), [expected.as_str()], "{keep:?}");
        let mut entries = Vec::new();
        audit::read(&out.join("audit.parquet"), |e| {
            entries.push(e);
            Ok(())
        })
        .unwrap();
        assert_eq!(entries.len(), 3);
        assert!(entries.iter().all(|e| e.kept == expected && e.cluster == "d00000" && e.similarity.unwrap() >= 0.7), "{entries:?}");
        let exact = entries.iter().filter(|e| e.method == "exact").count();
        assert_eq!(exact, 1, "one of the two equal texts goes because of the other: {entries:?}");
    }
}

#[test]
fn lines_and_paragraphs_stay_where_they_are_first() {
    let dir = tempfile::tempdir().unwrap();
    let line = "This line is long enough to be looked at.";
    let paragraph = "A paragraph that stands in two documents,\nover two lines of its own here.";
    let texts = [
        format!("first\n{line}\nshort\n\n{paragraph}\n\nunique words of the first one"),
        format!("{line}\nsecond\nshort\n\n{paragraph}\n\nunique words of the second one"),
        format!("  {line} \n"),
    ];
    let documents: Vec<Document> = texts.into_iter().enumerate().map(|(i, t)| document(i, t)).collect();
    let input = write(dir.path(), &documents, 2);
    let run = |methods: &[Method], min_chars_left: usize| {
        let out = dir.path().join(format!("{methods:?}"));
        let config = DedupConfig { input: input.clone(), methods: methods.to_vec(), min_chars_left, ..DedupConfig::default() };
        let funnel = dedup(&config, &out).unwrap();
        (read_all(&out).unwrap(), funnel, audit::of("d00001", &out).unwrap())
    };
    let (lines, funnel, entries) = run(&[Method::Line], 1);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].text, documents[0].text);
    assert_eq!(lines[1].text, "second\nshort\n\n\nunique words of the second one");
    assert_eq!((funnel.counts["documents cut"], funnel.steps.iter().find(|s| s.name == "nothing left").unwrap().dropped), (1, 1));
    assert_eq!(entries.iter().map(|e| (e.kept.as_str(), e.range)).collect::<Vec<_>>()[0], ("d00000", Some((0, 42))));
    let (paragraphs, ..) = run(&[Method::Paragraph], 1);
    assert_eq!(paragraphs[1].text, format!("{line}\nsecond\nshort\n\nunique words of the second one"));
    // A code file keeps its repetitions.
    let code: Vec<Document> = documents.iter().map(|d| Document { domain: "code".into(), ..d.clone() }).collect();
    let config =
        DedupConfig { input: write(&dir.path().join("code"), &code, 1), methods: vec![Method::Line, Method::Substring], ..DedupConfig::default() };
    dedup(&config, &dir.path().join("code/out")).unwrap();
    assert_eq!(read_all(&dir.path().join("code/out")).unwrap(), code);
}

#[test]
fn stretches_are_those_of_comparing_every_window() {
    let dir = tempfile::tempdir().unwrap();
    let n = 80;
    let mut texts = texts(250, 5);
    texts.push("ab".repeat(200));
    texts.push(format!("{}{}", &texts[3].clone(), "ä".repeat(100)));
    texts.push(format!("x{}", "ä".repeat(100)));
    let documents: Vec<Document> = texts.iter().enumerate().map(|(i, t)| document(i, t.clone())).collect();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut expected = Vec::new();
    for text in &texts {
        let bytes = text.as_bytes();
        let mut goes = vec![false; bytes.len()];
        for (start, window) in bytes.windows(n).enumerate() {
            if !seen.insert(window.to_vec()) {
                goes[start..start + n].fill(true);
            }
        }
        // A character of which a byte stays, stays.
        let rest: String = text.char_indices().filter(|(at, c)| !goes[*at..at + c.len_utf8()].iter().all(|g| *g)).map(|(_, c)| c).collect();
        if !rest.trim().is_empty() {
            expected.push(rest);
        }
    }
    for (name, memory) in [("a", "1GiB"), ("b", "64KiB")] {
        let config = DedupConfig {
            input: write(&dir.path().join(name), &documents, 3),
            methods: vec![Method::Substring],
            min_substring_bytes: n,
            memory: memory.into(),
            ..DedupConfig::default()
        };
        let out = dir.path().join(name).join("out");
        let funnel = dedup(&config, &out).unwrap();
        assert!(funnel.counts["bytes cut"] > 5000);
        let got: Vec<String> = read_all(&out).unwrap().into_iter().map(|d| d.text).collect();
        assert_eq!(got.len(), expected.len(), "{memory}");
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got, expected, "{memory}");
        }
    }
}

#[test]
fn simhash_finds_near_documents_without_signatures() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Seed(6).rng();
    let long: Vec<String> = (0..3000).map(|_| format!("w{}", rng.below(5000))).collect();
    let mut edited = long.clone();
    edited[1500] = "changed".into();
    let other: Vec<String> = (0..3000).map(|_| format!("w{}", rng.below(5000))).collect();
    let documents: Vec<Document> = [long, other, edited].iter().enumerate().map(|(i, w)| document(i, w.join(" "))).collect();
    let config = DedupConfig { input: write(dir.path(), &documents, 1), methods: vec![Method::Simhash], ..DedupConfig::default() };
    dedup(&config, &dir.path().join("out")).unwrap();
    assert_eq!(ids(&dir.path().join("out")), ["d00000", "d00001"]);
    assert_eq!(audit::of("d00002", &dir.path().join("out")).unwrap()[0].method, "simhash");
}

fn program(input: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-data"));
    command.arg("dedup").args(["--memory", "128KiB"]).arg("--set").arg(format!("input={}", input.display()));
    command.args(["--set", "methods=[\"exact\",\"minhash\",\"line\",\"substring\"]"]).args(more).arg("--out").arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn a_killed_run_is_taken_up_and_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Document> = texts(1200, 7).into_iter().enumerate().map(|(i, t)| document(i, t)).collect();
    let input = write(dir.path(), &documents, 6);
    let whole = dir.path().join("whole");
    assert!(program(&input, &whole, &[]).output().unwrap().status.success());
    let expected = llm_run::hash::path(&whole).unwrap();
    let count = read_all(&whole).unwrap().len();
    let out = dir.path().join("killed");
    let mut rng = Seed(8).rng();
    let (mut killed, mut finished, mut longest, mut seen) = (0, 0, 0.2, HashSet::new());
    while killed < 20 && finished < 60 {
        let mut child = program(&input, &out, &[]).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(longest * rng.uniform()));
        let _ = child.kill();
        // How long a run takes depends on what it finds done and on what else the machine does: the delays adapt to it.
        if child.wait().unwrap().success() {
            finished += 1;
            longest *= 0.7;
            assert_eq!(llm_run::hash::path(&out).unwrap(), expected, "after {killed} kills");
            std::fs::remove_dir_all(&out).unwrap();
            continue;
        }
        killed += 1;
        longest *= 1.1;
        if out.join("documents").exists() {
            assert_eq!(read_all(&out).unwrap().len(), count, "documents became visible before they were whole");
        }
        for entry in std::fs::read_dir(out.join("work")).into_iter().flatten().flatten() {
            for phase in std::fs::read_dir(entry.path()).unwrap().flatten() {
                seen.insert(phase.file_name());
            }
        }
    }
    assert!(killed >= 10, "only {killed} runs lived long enough to be killed");
    assert!(["signatures", "ranges"].iter().all(|phase| seen.contains(std::ffi::OsStr::new(phase))), "no run came far: {seen:?}");
    let last = program(&input, &out, &[]).output().unwrap();
    assert!(last.status.success(), "{:?}: {}", last.status, String::from_utf8_lossy(&last.stderr));
    assert_eq!(llm_run::hash::path(&out).unwrap(), expected);
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let documents: Vec<Document> = texts(1500, 9).into_iter().enumerate().map(|(i, t)| document(i, t)).collect();
    let input = write(dir.path(), &documents, 2);
    let small = dir.path().join("small");
    std::fs::create_dir_all(&small).unwrap();
    let out = dir.path().join("out");
    let inner = program(&input, &out, &["--set", &format!("work={}", small.join("work").display())]);
    let mut command = Command::new("unshare");
    command.arg("-rm").arg("sh").arg("-c").arg("mount -t tmpfs -o size=300k tmpfs \"$0\" || exit 77; exec \"$@\"").arg(&small);
    command.arg(inner.get_program()).args(inner.get_args()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return println!("skipped: no unshare ({error})"),
    };
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(77) || message.starts_with("unshare") {
        return println!("skipped: no file system of its own can be mounted here ({message})");
    }
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("No space left on device") && message.contains("work"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(!out.join("documents").exists() && !out.join("funnel.json").exists());
}
