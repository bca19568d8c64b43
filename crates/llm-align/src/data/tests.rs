//! Every format, every bad row, and damage.

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

fn columns(value: Value) -> Columns {
    match value {
        Value::Object(columns) => columns,
        other => panic!("{other} is no row"),
    }
}

/// `role: content` of each message, for short comparisons.
fn turns(messages: &[Message]) -> String {
    messages.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join(" | ")
}

fn file(rows: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    (dir, path)
}

/// A file of the shared data beside the repository; `None`, with a printed reason, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn conversations_of_every_format() {
    let qa = "user: Q | assistant: A";
    for (row, expected, prompt) in [
        (json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "label": null}), qa, 0),
        (
            json!({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"}),
            "system: S | user: Q | assistant: A",
            0,
        ),
        (json!({"instruction": "Q", "input": "", "output": "A"}), qa, 0),
        (json!({"instruction": "Q", "input": "I", "output": "A"}), "user: Q\nI | assistant: A", 0),
        (
            json!({"instruction": "Q", "output": "A", "system": "S", "history": [["q", "a"]]}),
            "system: S | user: q | assistant: a | user: Q | assistant: A",
            0,
        ),
        (json!({"prompt": "Q", "completion": "A"}), qa, 1),
        (json!({"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}), qa, 1),
        (json!({"prompt": "\n\nHuman: Q\n\nAssistant:", "response": "A"}), qa, 1),
        (json!({"question": "Q", "answer": "A"}), qa, 0),
    ] {
        let found = formats::conversations(&columns(row.clone())).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!((found.len(), turns(&found[0].messages).as_str(), found[0].prompt), (1, expected, prompt), "{row}");
    }
    let seed = json!({"instruction": "Q", "instances": [{"input": "", "output": "A"}, {"input": "I", "output": "B"}]});
    let found = formats::conversations(&columns(seed)).unwrap();
    assert_eq!(found.iter().map(|f| turns(&f.messages)).collect::<Vec<_>>(), [qa, "user: Q\nI | assistant: B"]);
}

#[test]
fn tools_are_framed_as_openai_has_them() {
    let row = |tools: Value| columns(json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "tools": tools}));
    let framed = json!([{"type": "function", "function": {"name": "f"}}]);
    for tools in [json!("[{\"name\": \"f\"}]"), json!([{"name": "f"}]), framed.clone()] {
        assert_eq!(formats::conversations(&row(tools)).unwrap()[0].tools, Some(framed.clone()));
    }
    for none in [json!([]), json!(""), json!("[]"), Value::Null] {
        assert_eq!(formats::conversations(&row(none)).unwrap()[0].tools, None);
    }
    assert!(formats::conversations(&row(json!("f"))).unwrap_err().contains("`tools`"));
    let pair = json!({"prompt": "Q", "chosen": "A", "rejected": "B", "tools": [{"name": "f"}]});
    assert!(formats::pair(&columns(pair)).unwrap_err().contains("`tools`"));
}

#[test]
fn pairs_of_every_format() {
    let user = json!({"role": "user", "content": "Q"});
    let answer = |text: &str| json!({"role": "assistant", "content": text});
    for (row, prompt, margin) in [
        (json!({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 0.5}), "user: Q", Some(0.5)),
        (json!({"prompt": [user], "chosen": [answer("A")], "rejected": [answer("B")]}), "user: Q", None),
        (json!({"chosen": [user, answer("A")], "rejected": [user, answer("B")], "score_chosen": 8, "score_rejected": 5.5}), "user: Q", Some(2.5)),
        (json!({"prompt": "Q", "chosen": [user, answer("A")], "rejected": [user, answer("B")]}), "user: Q", None),
        (
            json!({"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}),
            "user: Q",
            None,
        ),
        (json!({"instruction": "Q", "input": "I", "output": "A", "chosen": "A", "rejected": "B"}), "user: Q\nI", None),
        (json!({"question": "Q", "chosen": "A", "rejected": "B", "system": "S"}), "system: S | user: Q", None),
        (
            json!({"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: Q\n\nAssistant: B"}),
            "user: q | assistant: a | user: Q",
            None,
        ),
        (json!({"instruction": "Q", "output_1": "B", "output_2": "A", "preference": 1.75}), "user: Q", Some(0.5)),
    ] {
        let found = formats::pair(&columns(row.clone())).unwrap_or_else(|e| panic!("{row}: {e}"));
        let sides = (turns(&found.prompt), turns(&found.chosen), turns(&found.rejected));
        assert_eq!(sides, (prompt.into(), "assistant: A".into(), "assistant: B".into()), "{row}");
        assert_eq!(found.margin, margin, "{row}");
    }
}

#[test]
fn pairs_that_are_none_are_told() {
    for (row, expected) in [
        (json!({"prompt": "Q", "chosen": "A", "rejected": "A "}), "equal"),
        (json!({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: A"}), "equal"),
        (json!({"prompt": "Q", "chosen": "A", "rejected": ""}), "`rejected`: empty answer"),
        (json!({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant:"}), "`rejected`: empty answer"),
        (json!({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: R\n\nAssistant: A"}), "`chosen` has no answer"),
        (json!({"chosen": "A", "rejected": "B"}), "no prompt"),
        (json!({"prompt": "", "chosen": "A", "rejected": "B"}), "empty message"),
        (json!({"prompt": "Q", "answers": ["A", "B"]}), "the row has prompt, answers; expected one of: prompt, chosen and rejected"),
        (json!({"prompt": "Q", "chosen": 3, "rejected": "B"}), "`chosen`: expected a list of messages, found a number"),
        (json!({"prompt": "Q", "chosen": [{"role": "critic", "content": "A"}], "rejected": "B"}), "unknown role"),
        (json!({"instruction": "Q", "output_1": "A", "output_2": "B", "preference": 1.5}), "neither"),
        (json!({"instruction": "Q", "output_1": "A", "output_2": "B", "preference": 7}), "`preference`"),
    ] {
        let message = formats::pair(&columns(row.clone())).unwrap_err();
        assert!(message.contains(expected), "{row}: {message}");
    }
}

#[test]
fn labelled_answers_of_every_format() {
    for (row, expected) in [
        (json!({"prompt": "Q", "completion": "A", "label": true}), vec![("A", true)]),
        (json!({"prompt": "Q", "completion": "A", "label": 0}), vec![("A", false)]),
        (json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "label": "False"}), vec![("A", false)]),
        (json!({"instruction": "Q", "output": "A", "kto_tag": true}), vec![("A", true)]),
        (json!({"prompt": "Q", "chosen": "A", "rejected": "B"}), vec![("A", true), ("B", false)]),
    ] {
        let found = formats::labelled(&columns(row.clone())).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!(found.iter().map(|f| (f.completion[0].content.as_str(), f.label)).collect::<Vec<_>>(), expected, "{row}");
        assert!(found.iter().all(|f| turns(&f.prompt) == "user: Q"), "{row}");
    }
    for (row, expected) in [
        (json!({"prompt": "Q", "completion": "A", "label": "good"}), "`label`: expected true or false"),
        (json!({"prompt": "Q", "completion": "A"}), "unknown format"),
        (json!({"messages": [{"role": "user", "content": "Q"}], "label": true}), "no assistant"),
    ] {
        let message = formats::labelled(&columns(row.clone())).unwrap_err();
        assert!(message.contains(expected), "{row}: {message}");
    }
}

#[test]
fn prompts_and_their_answers() {
    let chat = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "reasoning_content": "R"}]);
    for (row, answer) in [
        (json!({"question": "Q", "answer": "So <<1+1=2>>2.\n#### 1,002"}), Some("1,002")),
        (json!({"id": "x", "messages": chat, "answer": "A", "category": "addition"}), Some("A")),
        (json!({"messages": chat}), None),
        (json!({"prompt": "Q", "answer": 42}), Some("42")),
        (json!({"problem": "Q", "solution": "\\boxed{3}", "answer": "3"}), Some("3")),
        (json!({"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"ground_truth": "7"}}), Some("7")),
        (json!({"instruction": "Q"}), None),
        (json!({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}), None),
    ] {
        let (messages, found) = formats::asked(&columns(row.clone())).unwrap_or_else(|e| panic!("{row}: {e}"));
        assert_eq!((turns(&messages).as_str(), found.as_deref()), ("user: Q", answer), "{row}");
    }
    let (_dir, path) = file(&[json!({"id": "p1", "question": "Q", "answer": "#### 5", "tests": "assert f(1)"})]);
    let found = prompts(&path, OnBadRow::Error).unwrap().rows.remove(0);
    assert_eq!((found.row, found.id.as_str(), found.text(), found.columns["tests"].as_str()), (1, "p1", "Q", Some("assert f(1)")));
}

#[test]
fn rows_are_told_apart_by_their_columns() {
    let chat = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]);
    for (row, kind) in [
        (json!({"messages": chat}), Kind::Conversations),
        (json!({"messages": chat, "label": true}), Kind::Labelled),
        (json!({"prompt": "Q", "chosen": "A", "rejected": "B"}), Kind::Pairs),
        (json!({"prompt": "Q", "answer": "A"}), Kind::Prompts),
        (json!({"prompt": "Q", "label": 1}), Kind::Prompts),
        (json!({"nothing": 1}), Kind::Conversations),
    ] {
        assert_eq!(Kind::of(&columns(row.clone())), kind, "{row}");
    }
}

#[test]
fn bad_rows_are_errors_with_their_number_or_counted() {
    let good = json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    for (bad, expected) in [
        (json!({"messages": []}), "no messages"),
        (json!({"id": "b", "messages": [{"role": "wizard", "content": "Q"}]}), "unknown role \"wizard\""),
        (json!({"messages": [{"role": "assistant", "content": "A"}]}), "roles out of order"),
        (json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": " "}]}), "empty answer"),
        (json!({"messages": [{"role": "user", "content": "Q"}]}), "no assistant message"),
        (json!({"text": "words"}), "unknown format: the row has text; expected one of: messages; conversations"),
        (json!([1, 2]), "expected a JSON object, found a list"),
        (json!({"messages": [{"role": "user", "content": "<image>Q"}], "images": ["a.png"]}), "pictures"),
    ] {
        let (_dir, path) = file(&[good.clone(), bad.clone(), good.clone()]);
        let message = conversations(&path, OnBadRow::Error).unwrap_err().to_string();
        assert!(message.contains("rows.jsonl: row 2") && message.contains(expected) && message.contains("on_bad_row"), "{bad}: {message}");
        let found = conversations(&path, OnBadRow::Skip).unwrap();
        assert_eq!(found.rows.iter().map(|r| r.row).collect::<Vec<_>>(), [1, 3]);
        assert!(found.skipped.len() == 1 && found.skipped[0].row == 2 && found.skipped[0].reason.contains(expected), "{:?}", found.skipped);
        let (_dir, path) = file(&[bad]);
        let message = conversations(&path, OnBadRow::Skip).unwrap_err().to_string();
        assert!(message.contains("none of its 1 rows can be used") && message.contains(expected), "{message}");
    }
    let (dir, path) = file(&[]);
    assert!(conversations(&path, OnBadRow::Skip).unwrap_err().to_string().contains("no rows"));
    std::fs::write(&path, format!("{good}\n{{\"messages\": \n")).unwrap();
    assert!(conversations(&path, OnBadRow::Error).unwrap_err().to_string().contains("row 2: not valid JSON"));
    let found = conversations(&path, OnBadRow::Skip).unwrap();
    let kept = keep(&path, found, OnBadRow::Skip, |row| Ok(row.id.clone())).unwrap();
    assert_eq!((kept.0.as_slice(), kept.1.len()), (&["1".to_string()][..], 1));
    assert_eq!(report(dir.path(), &[(path.as_path(), kept.1.as_slice())]).unwrap(), 1);
    assert!(std::fs::read_to_string(dir.path().join(SKIPPED)).unwrap().contains("not valid JSON"));
    assert_eq!(report(dir.path(), &[]).unwrap(), 0);
    assert!(!dir.path().join(SKIPPED).exists(), "the list of an earlier try must go");
}

#[test]
fn what_cannot_be_encoded_is_a_bad_row_too() {
    let good = json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]});
    let (_dir, path) = file(&[good.clone(), good]);
    let encode = |row: &Conversation| if row.row == 2 { Err("too long".to_string()) } else { Ok(row.row) };
    let message = keep(&path, conversations(&path, OnBadRow::Error).unwrap(), OnBadRow::Error, encode).unwrap_err().to_string();
    assert!(message.contains("row 2: too long"), "{message}");
    let (kept, skipped) = keep(&path, conversations(&path, OnBadRow::Skip).unwrap(), OnBadRow::Skip, encode).unwrap();
    assert_eq!((kept, skipped), (vec![1], vec![Skipped { row: 2, reason: "too long".into() }]));
}

/// Real files of the formats, whole: how many rows each has and how many of them cannot be used, counted by hand.
#[test]
fn the_files_that_people_have() {
    type Count = fn(&Path) -> (usize, usize);
    fn count<T>(rows: Rows<T>) -> (usize, usize) {
        (rows.rows.len(), rows.skipped.len())
    }
    let said: Count = |path| count(conversations(path, OnBadRow::Skip).unwrap());
    let compared: Count = |path| count(pairs(path, OnBadRow::Skip).unwrap());
    let judged: Count = |path| count(labelled(path, OnBadRow::Skip).unwrap());
    let asked: Count = |path| count(prompts(path, OnBadRow::Skip).unwrap());
    for (name, read, expected) in [
        ("preferences/alpaca/alpaca_de_first3000.json", said, (3000, 0)),
        ("preferences/codealpaca/code_alpaca_first600.json", said, (599, 1)),
        ("preferences/sharegpt/dummy_conversation.json", said, (500, 0)),
        ("preferences/llama_factory/identity.json", said, (91, 0)),
        ("preferences/llama_factory/glaive_toolcall_en_demo.json", said, (100, 0)),
        ("preferences/llama_factory/dpo_en_demo.json", compared, (150, 0)),
        ("preferences/hh_rlhf/harmless-base_test_first400.jsonl", compared, (399, 1)),
        ("preferences/rasbt_instruction_preference.json", compared, (1094, 6)),
        ("preferences/alpaca_eval/annotations_first120.json", compared, (120, 0)),
        ("preferences/llama_factory/kto_en_demo.json", judged, (100, 0)),
        ("preferences/tulu_pairs/eval_instances_tulu_1_first100.jsonl", asked, (100, 0)),
        ("benchmarks/gsm8k/train_first2000.jsonl", asked, (2000, 0)),
    ] {
        if let Some(path) = shared(name) {
            assert_eq!(read(&path), expected, "{name}");
        }
    }
    if let Some(path) = shared("preferences/mllm_demo/mllm_demo.json") {
        assert!(conversations(&path, OnBadRow::Skip).unwrap_err().to_string().contains("pictures"));
    }
}

/// JSON of any form in the columns that are looked at, and around them.
fn any_value() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "",
        " ",
        "user",
        "assistant",
        "gpt",
        "tool",
        "system",
        "\n\nHuman: a\n\nAssistant: b",
        "\n\nAssistant:",
        "\n\nHuman:",
        "#### 3",
        "true",
        "[{}]",
        "{\"name\": 1}",
        "漢字\u{0}",
        "</think>",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..4).prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        words.prop_map(Value::from),
    ];
    let names =
        prop::sample::select(vec!["role", "from", "content", "value", "tool_calls", "name", "type", "text", "input", "output", "ground_truth"]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
        ]
    })
}

const NAMES: [&str; 24] = [
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "instances",
    "prompt",
    "completion",
    "response",
    "question",
    "answer",
    "chosen",
    "rejected",
    "output_1",
    "output_2",
    "preference",
    "label",
    "kto_tag",
    "margin",
    "tools",
    "images",
    "reward_model",
];

proptest! {
    /// Whatever a row holds, it is read or refused with a reason, and what is read is a conversation.
    #[test]
    fn no_row_panics(fields in prop::collection::vec((0..NAMES.len(), any_value()), 0..6)) {
        let row: Columns = fields.into_iter().map(|(name, value)| (NAMES[name].to_string(), value)).collect();
        Kind::of(&row);
        if let Ok(found) = formats::conversations(&row) {
            prop_assert!(found.iter().all(|c| messages::check(&c.messages, &["assistant"]).is_ok()));
        }
        if let Ok(found) = formats::pair(&row) {
            prop_assert!(found.chosen != found.rejected && !found.prompt.is_empty());
        }
        if let Ok(found) = formats::labelled(&row) {
            prop_assert!(found.iter().all(|f| !f.completion.is_empty() && !f.prompt.is_empty()));
        }
        if let Ok((asked, _)) = formats::asked(&row) {
            prop_assert!(asked.last().is_some_and(|last| last.role != "assistant"));
        }
    }

    /// Good rows, damaged byte by byte.
    #[test]
    fn no_damage_panics(at in 0usize..400, byte in any::<u8>(), cut in any::<bool>()) {
        let rows = concat!(
            "{\"messages\": [{\"role\": \"user\", \"content\": \"Q\"}, {\"role\": \"assistant\", \"content\": \"A\"}]}\n",
            "{\"prompt\": \"Q\", \"chosen\": [{\"role\": \"assistant\", \"content\": \"A\"}], \"rejected\": \"B\", \"margin\": 1}\n",
            "{\"instruction\": \"Q\", \"input\": \"\", \"output\": \"A\", \"history\": [[\"q\", \"a\"]], \"label\": true}\n",
        );
        let mut bytes = rows.as_bytes().to_vec();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let _ = conversations(&path, OnBadRow::Skip);
        let _ = pairs(&path, OnBadRow::Skip);
        let _ = labelled(&path, OnBadRow::Skip);
        let _ = prompts(&path, OnBadRow::Skip);
    }
}
