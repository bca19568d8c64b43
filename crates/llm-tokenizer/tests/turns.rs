//! Assistant masks of templates without `{% generation %}` blocks: equal to what the blocks say, or an error, never a wrong mask.
mod common;

use common::{any_text, fixtures, trained};
use llm_tokenizer::chat::DEFAULT_TEMPLATE;
use llm_tokenizer::{ChatTokens, Message, RenderOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::OnceLock;

/// `source` as whoever wrote it before there were generation blocks.
fn without_blocks(source: &str) -> String {
    let mut text = source.to_string();
    for tag in ["generation", "endgeneration"] {
        // An empty comment has the same whitespace control as the tag.
        for (left, right) in [("-", "-"), ("-", ""), ("", "-"), ("", "")] {
            text = text.replace(&format!("{{%{left} {tag} {right}%}}"), &format!("{{#{left} {right}#}}"));
        }
    }
    assert!(!text.contains("generation %}") && !text.contains("generation -%}"), "{text}");
    text
}

fn fixture_tokenizer(template: &str, bos: &Value, eos: &Value) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("chat_templates/tokenizer/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = json!({"bos_token": bos, "eos_token": eos, "chat_template": template});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

fn chatml(template: &str) -> Tokenizer {
    fixture_tokenizer(template, &Value::Null, &json!("<|im_end|>"))
}

/// What the mask says the assistant speaks, turn by turn.
fn spoken(tokenizer: &Tokenizer, tokens: &ChatTokens) -> Vec<String> {
    let mut turns: Vec<Vec<u32>> = Vec::new();
    let mut before = false;
    for (&id, &said) in tokens.ids.iter().zip(&tokens.assistant_mask) {
        if said && !before {
            turns.push(Vec::new());
        }
        if said {
            turns.last_mut().unwrap().push(id);
        }
        before = said;
    }
    turns.iter().map(|ids| tokenizer.decode(ids, false)).collect()
}

fn says(tokenizer: &Tokenizer, messages: &[Message]) -> Vec<String> {
    spoken(tokenizer, &tokenizer.apply_chat_template(messages, false).unwrap())
}

fn exchange() -> Vec<Message> {
    vec![Message::new("user", "Hi"), Message::new("assistant", "Yes."), Message::new("user", "And?"), Message::new("assistant", "No.")]
}

/// The recorded masks again, without their blocks. ChatML's and Gemma's blocks enclose the newline after the end-of-turn token too,
/// which no model has to write; differences leave it out.
#[test]
fn masks_by_comparison_are_those_of_the_blocks() {
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat_templates/chat_templates.json")).unwrap()).unwrap();
    let mut compared = 0;
    for entry in recorded["templates"].as_array().unwrap() {
        let tokenizer = fixture_tokenizer(&without_blocks(entry["template"].as_str().unwrap()), &entry["bos_token"], &entry["eos_token"]);
        assert!(!tokenizer.chat_template().unwrap().marks_generation());
        for run in entry["runs"].as_array().unwrap() {
            let Some(mask) = run["assistant_mask"].as_array() else {
                continue;
            };
            let name = format!("{} on {}", entry["template_name"], run["messages_name"]);
            let key = run["messages_name"].as_str().unwrap();
            let (key, first) = key.trim_end_matches(']').split_once("[:").map_or((key, usize::MAX), |(key, n)| (key, n.parse().unwrap()));
            let mut messages: Vec<Message> = serde_json::from_value(recorded["messages"][key].clone()).unwrap();
            messages.truncate(first);
            let tools = (!run["tools"].is_null()).then(|| recorded["tools"].clone());
            let options = RenderOptions { add_generation_prompt: run["add_generation_prompt"] == true, tools, ..RenderOptions::default() };
            let tokens = tokenizer.apply_chat_template_with(&messages, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(json!(tokens.ids), run["input_ids"], "{name}");
            let mut expected: Vec<bool> = mask.iter().map(|m| m == 1).collect();
            let ends: Vec<u32> = ["<|im_end|>", "<end_of_turn>"].iter().filter_map(|t| tokenizer.special_id(t)).collect();
            for (spoken, before) in expected.iter_mut().skip(1).zip(&tokens.ids) {
                *spoken &= !ends.contains(before);
            }
            assert_eq!(tokens.assistant_mask, expected, "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 60);
}

/// The last turn keeps its thought, earlier ones lose it: only the comparison of what follows the text finds their end.
#[test]
fn thoughts_that_are_stripped_from_earlier_turns() {
    let qwen3 = chatml(
        "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}\
         {%- if loop.last %}{{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{%- endif %}\
         {{- m.content }}{{- '<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}\
         {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    );
    let mut messages = exchange();
    messages[1].reasoning_content = Some("Hm.".into());
    messages[3].reasoning_content = Some("Hm, hm.".into());
    assert_eq!(says(&qwen3, &messages), ["Yes.<|im_end|>", "<think>\nHm, hm.\n</think>\n\nNo.<|im_end|>"]);
    assert_eq!(says(&qwen3, &messages[..2]), ["<think>\nHm.\n</think>\n\nYes.<|im_end|>"]);
    messages[1].content = " Yes. \n".into();
    assert_eq!(says(&qwen3, &messages)[0], " Yes. \n<|im_end|>");
    messages[1].content = "<|im_end|>".into();
    assert_eq!(says(&qwen3, &messages)[0], "<|im_end|><|im_end|>", "what is quoted is text, and the turn goes on behind it");
}

#[test]
fn turns_of_other_kinds_of_templates() {
    // No generation prompt, textual roles, an end-of-text token at the end of a turn.
    let vicuna = fixture_tokenizer(
        "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}{% endfor %}",
        &Value::Null,
        &json!("</s>"),
    );
    assert_eq!(says(&vicuna, &exchange()).iter().map(|t| t.trim_start()).collect::<Vec<_>>(), ["Yes.</s>", "No.</s>"]);
    // The end-of-text token comes between turns only.
    let between = chatml(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% if not loop.last %}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_end|>\\n<|im_start|>assistant\\n' }}{% endif %}",
    );
    assert_eq!(says(&between, &exchange()), ["Yes.<|im_end|>", "No."]);
    // Something is written at the end of every conversation.
    let closed = chatml(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% else %}{{ '<|eot_id|>' }}{% endif %}",
    );
    assert_eq!(says(&closed, &exchange())[0], "Yes.<|im_end|>");
    // No control tokens at all: blank lines are the template's, blanks of the text are the text's.
    let alpaca = chatml(
        "{% for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}",
    );
    let mut messages = exchange();
    messages[1].content = "Yes.  ".into();
    let turns = says(&alpaca, &messages);
    assert!(turns[0].starts_with("Yes.  ") && turns[0].trim_end() == "Yes." && turns[1].trim_end() == "No.", "{turns:?}");
    // The assistant begins.
    let first = [Message::new("assistant", "Hello."), Message::new("user", "Hi")];
    assert_eq!(says(&chatml(CHATML_THAT_NEEDS_A_MESSAGE), &first), ["Hello.<|im_end|>"]);
}

const CHATML_THAT_NEEDS_A_MESSAGE: &str = "{% if messages[0].role == 'x' %}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// If this fails, a model is trained on text that is not its own.
#[test]
fn an_unclear_turn_is_an_error_that_names_the_message() {
    let error = |template: &str| chatml(template).apply_chat_template(&exchange(), false).unwrap_err().to_string();
    let twice = error("{{ messages[-1].content }}|{% for m in messages %}{{ m.role + m.content }}{% endfor %}");
    assert!(twice.contains("messages[1] (assistant)") && twice.contains("2 times"), "{twice}");
    let counted = error("{{ messages | map(attribute='content') | join('') | length }}{% for m in messages %}{{ m.role + m.content }}{% endfor %}");
    assert!(counted.contains("messages[1] (assistant)") && counted.contains("depends on the text"), "{counted}");
    let dropped = error("{{ messages | length }}{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}");
    assert!(dropped.contains("does not show its text") && dropped.contains("endgeneration"), "{dropped}");
    let backwards = error("{% for m in messages | reverse %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}");
    assert!(backwards.contains("messages[1]") && backwards.contains("another message"), "{backwards}");
    let preamble =
        "{% for m in messages if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% endfor %}{{ messages[0].content + '<|im_end|>' }}";
    let after = chatml(preamble).apply_chat_template(&exchange()[..2], false).unwrap_err().to_string();
    assert!(after.contains("another message"), "{after}");
    // Prompts need no mask.
    let ids = chatml("{{ messages[-1].content }}|{% for m in messages %}{{ m.content }}{% endfor %}").chat_ids(&exchange(), true).unwrap();
    assert!(!ids.is_empty());
}

fn ours() -> &'static [Tokenizer; 2] {
    static BOTH: OnceLock<[Tokenizer; 2]> = OnceLock::new();
    BOTH.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = trained(700, 1);
        tokenizer.save(dir.path()).unwrap();
        std::fs::write(dir.path().join("chat_template.jinja"), without_blocks(DEFAULT_TEMPLATE)).unwrap();
        [tokenizer, Tokenizer::load(dir.path()).unwrap()]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_conversation_has_the_mask_of_its_blocks(texts in prop::collection::vec((any_text(), any_text(), prop::option::of(any_text())), 1..4), prompt: bool) {
        let [with, without] = ours();
        let turn = |(user, reply, reasoning): &(String, String, Option<String>)| {
            [Message::new("user", user.clone()), Message { reasoning_content: reasoning.clone(), ..Message::new("assistant", reply.clone()) }]
        };
        let messages: Vec<Message> = texts.iter().flat_map(turn).collect();
        prop_assert_eq!(with.apply_chat_template(&messages, prompt).unwrap(), without.apply_chat_template(&messages, prompt).unwrap());
    }
}
