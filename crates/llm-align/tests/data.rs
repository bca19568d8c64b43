//! Masks on real chat templates: exactly the answers, the same prompt on both sides, and no template that drops something goes unseen.

use llm_align::data::{self, Conversation, Encoder, Labelled, OnBadRow, Pair};
use llm_align::sequences::Sequence;
use llm_tokenizer::{Message, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/chat_templates")
}

fn tokenizer(template: &str, bos: &Value, eos: &Value) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("tokenizer/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = json!({"bos_token": bos, "eos_token": eos, "chat_template": template});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

/// The templates that models have, by name.
fn templates() -> &'static Vec<(String, Tokenizer)> {
    static ALL: OnceLock<Vec<(String, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let recorded: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat_templates.json")).unwrap()).unwrap();
        let one = |t: &Value| {
            (t["template_name"].as_str().unwrap().to_string(), tokenizer(t["template"].as_str().unwrap(), &t["bos_token"], &t["eos_token"]))
        };
        // What tests the Jinja engine only is no template of a model's.
        recorded["templates"].as_array().unwrap().iter().map(one).filter(|(name, _)| name != "feature_mix").collect()
    })
}

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn chatml(template: &str) -> Tokenizer {
    tokenizer(template, &Value::Null, &json!("<|im_end|>"))
}

/// The text of each run of trained tokens.
fn trained(tokenizer: &Tokenizer, sequence: &Sequence) -> Vec<String> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    let mut before = false;
    for (&id, &said) in sequence.ids.iter().zip(&sequence.loss_mask) {
        if said && !before {
            runs.push(Vec::new());
        }
        if said {
            runs.last_mut().unwrap().push(id);
        }
        before = said;
    }
    runs.iter().map(|ids| tokenizer.decode(ids, true).trim().to_string()).collect()
}

fn said(turns: &[&str]) -> Vec<Message> {
    turns.iter().enumerate().map(|(i, text)| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, *text)).collect()
}

fn conversation(turns: &[&str], prompt: usize) -> Conversation {
    Conversation { row: 1, id: "1".into(), messages: said(turns), prompt, tools: None }
}

#[test]
fn every_template_trains_the_answers_and_nothing_else() {
    for (name, tokenizer) in templates() {
        let encoder = Encoder::new(tokenizer, 4096);
        let sequence =
            encoder.conversation(&conversation(&["Hi there", "Yes.", "And then?", "No, 12."], 0)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(trained(tokenizer, &sequence), ["Yes.", "No, 12."], "{name}");
        let behind = encoder.conversation(&conversation(&["Hi there", "Yes.", "And then?", "No, 12."], 3)).unwrap();
        assert_eq!((trained(tokenizer, &behind), &behind.ids), (vec!["No, 12.".to_string()], &sequence.ids), "{name}");
    }
}

#[test]
fn both_sides_of_a_pair_begin_with_the_prompt_that_is_sampled_from() {
    for (name, tokenizer) in templates() {
        let encoder = Encoder::new(tokenizer, 4096);
        let answer = |text: &str| vec![Message::new("assistant", text)];
        let prompt = said(&["Hi", "Yes.", "And?"]);
        let pair = Pair { prompt: prompt.clone(), chosen: answer("Blue, 3."), rejected: answer("Blue, 4!"), ..Pair::default() };
        let (chosen, rejected) = encoder.pair(&pair).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((trained(tokenizer, &chosen), trained(tokenizer, &rejected)), (vec!["Blue, 3.".into()], vec!["Blue, 4!".into()]), "{name}");
        let from = chosen.loss_mask.iter().position(|m| *m).unwrap();
        assert_eq!(chosen.ids[..from], rejected.ids[..from], "{name}");
        let labelled = Labelled { prompt: prompt.clone(), completion: answer("Blue, 3."), label: true, ..Labelled::default() };
        assert_eq!(encoder.labelled(&labelled).unwrap(), chosen, "{name}");
        // DeepSeek's prompt ends with the beginning of a thought, which its answers do not have.
        assert_eq!(encoder.prompt(&prompt).unwrap() == chosen.ids[..from], name != "deepseek_r1", "{name}");
    }
}

#[test]
fn a_template_that_drops_something_is_told() {
    let row = |message: Message| Conversation { messages: vec![Message::new("user", "Q"), message], ..conversation(&[], 0) };
    let answer = Message::new("assistant", "The answer");
    let refused = |template: &str, message: Message| {
        let tokenizer = chatml(template);
        Encoder::new(&tokenizer, 100).conversation(&row(message)).unwrap_err()
    };
    let without_answer = CHATML.replace("m.content", "(m.content if m.role == 'user' else '')");
    let first_only = CHATML.replace("for m in messages", "for m in messages[:1]");
    let marked_nowhere = CHATML.replace("{% endfor %}", "{% generation %}{% endgeneration %}{% endfor %}");
    let end_only = "{% for m in messages %}{{ m.role + m.content }}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{% endfor %}";
    for (template, expected) in [
        (without_answer.as_str(), "drops the answer"),
        (first_only.as_str(), "its text"),
        (marked_nowhere.as_str(), "no assistant tokens"),
        (end_only, "turns of the assistant"),
    ] {
        let message = refused(template, answer.clone());
        assert!(message.contains(expected), "{template}: {message}");
    }
    let end_of_answer = "{% for m in messages %}{{ m.role + m.content }}{% if m.role == 'assistant' %}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{% endif %}{% endfor %}";
    assert!(refused(end_of_answer, answer.clone()).contains("drops the answer messages[1]"));
    assert!(refused(CHATML, answer.clone().with_reasoning("because")).contains("reasoning_content"));
    let calls = Message { tool_calls: Some(json!([{"type": "function", "function": {"name": "look_up"}}])), ..answer };
    assert!(refused(CHATML, calls).contains("tool calls"));
}

#[test]
fn sequences_beyond_the_context_and_equal_tokens_are_told() {
    let tokenizer = chatml(&CHATML.replace("m.content", "(m.content | trim)"));
    let encoder = Encoder::new(&tokenizer, 12);
    let message = encoder.conversation(&conversation(&["Hi", "one two three four five six seven"], 0)).unwrap_err();
    assert!(message.contains("do not fit the context of 12"), "{message}");
    assert!(encoder.prompt(&said(&["one two three four five six seven"])).unwrap_err().contains("context of 12"));
    let answer = |text: &str| vec![Message::new("assistant", text)];
    let pair = Pair { prompt: said(&["Q"]), chosen: answer("A"), rejected: answer("A "), ..Pair::default() };
    assert!(Encoder::new(&tokenizer, 100).pair(&pair).unwrap_err().contains("the same tokens"));
}

/// Exercises of `llm-data` are conversations as they always were.
#[test]
fn exercises_are_read_as_before() {
    use llm_data::exercises::{self, ExercisesConfig};
    let dir = tempfile::tempdir().unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 60, count_heldout: 5, ..ExercisesConfig::default() }).unwrap().train;
    let path = dir.path().join("train.jsonl");
    exercises::write(&path, &rows).unwrap();
    let found = data::conversations(&path, OnBadRow::Error).unwrap().rows;
    assert!(found.iter().zip(&rows).all(|(a, b)| a.messages == b.messages && a.id == b.id && a.prompt == 0) && found.len() == rows.len());
    let texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    let tokenizer = llm_tokenizer::trainer::train(&texts, &llm_tokenizer::trainer::TrainerConfig { vocab_size: 400, ..Default::default() }).unwrap();
    let encoder = Encoder::new(&tokenizer, 512);
    for (row, exercise) in found.iter().zip(&rows) {
        let tokens = tokenizer.apply_chat_template(&exercise.messages, false).unwrap();
        assert_eq!(encoder.conversation(row).unwrap(), Sequence { ids: tokens.ids, loss_mask: tokens.assistant_mask });
    }
    for (prompt, exercise) in data::prompts(&path, OnBadRow::Error).unwrap().rows.iter().zip(&rows) {
        let question: Vec<Message> = exercise.messages.iter().take_while(|m| m.role != "assistant").cloned().collect();
        assert_eq!((&prompt.messages, prompt.answer.as_deref()), (&question, Some(exercise.answer.as_str())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is said, the mask covers the answers, whole, with the end of each turn, and nothing else.
    #[test]
    fn masks_cover_exactly_the_answers(turns in prop::collection::vec("[a-zA-Z0-9 äß漢<|>\n.]{0,12}[a-z]", 1..4), prompt in 0usize..4) {
        let tokenizer = &templates()[0].1;
        let all: Vec<String> = turns.iter().flat_map(|t| [format!("q {t}"), format!("a {t}")]).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let first = (2 * prompt).min(all.len() - 2);
        let sequence = Encoder::new(tokenizer, 4096).conversation(&conversation(&all, first)).unwrap();
        let spoken: Vec<u32> = sequence.ids.iter().zip(&sequence.loss_mask).filter(|(_, m)| **m).map(|(id, _)| *id).collect();
        let expected: String = all[first..].iter().skip(1).step_by(2).map(|t| format!("{}<|eot_id|>", t.trim())).collect();
        prop_assert_eq!(tokenizer.decode(&spoken, false), expected);
    }
}
