//! Chat templates: equal to what transformers rendered, prefix-stable, and safe against text that looks like control tokens.
mod common;

use common::{any_text, fixtures, trained};
use llm_tokenizer::{ChatTemplate, Message, RenderOptions, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

/// The fixture's tokenizer with one of the fixture's templates.
fn with_template(entry: &Value) -> (tempfile::TempDir, Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("chat_templates/tokenizer/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = serde_json::json!({"bos_token": entry["bos_token"], "eos_token": entry["eos_token"], "chat_template": entry["template"]});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    (dir, tokenizer)
}

/// Every case of the fixture is looked at: those that fail by their words, the others by text, and by ids and mask where recorded.
#[test]
fn rendered_text_ids_and_masks_of_seven_families() {
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat_templates/chat_templates.json")).unwrap()).unwrap();
    let (mut runs, mut errors, mut encoded, mut masks, mut continued) = (0, 0, 0, 0, 0);
    let mut families = Vec::new();
    for entry in recorded["templates"].as_array().unwrap() {
        let (_dir, tokenizer) = with_template(entry);
        families.push(entry["template_name"].as_str().unwrap());
        for run in entry["runs"].as_array().unwrap() {
            let name = format!("{} on {}", entry["template_name"], run["messages_name"]);
            let key = run["messages_name"].as_str().unwrap();
            // "TOOL_CHAT[:4]" is the first four messages of TOOL_CHAT.
            let (key, first) = key.trim_end_matches(']').split_once("[:").map_or((key, usize::MAX), |(key, n)| (key, n.parse().unwrap()));
            let mut messages: Vec<Message> = serde_json::from_value(recorded["messages"][key].clone()).unwrap();
            messages.truncate(first);
            let tools = Some(run["tools"].clone()).filter(|t| !t.is_null()).map(|t| if t.is_array() { t } else { recorded["tools"].clone() });
            let options = RenderOptions {
                add_generation_prompt: run["add_generation_prompt"] == true,
                continue_final_message: run["continue_final_message"] == true,
                tools,
                ..RenderOptions::default()
            };
            if let Some(expected) = run.get("error").filter(|e| !e.is_null()) {
                let error = tokenizer.apply_chat_template_with(&messages, &options).unwrap_err().to_string();
                assert!(error.contains(expected.as_str().unwrap()), "{name}: {error}, expected {expected}");
                errors += 1;
                continue;
            }
            continued += usize::from(options.continue_final_message);
            assert_eq!(tokenizer.render_chat(&messages, &options).unwrap(), run["rendered"].as_str().unwrap(), "{name}");
            runs += 1;
            let Some(ids) = run.get("input_ids") else {
                continue;
            };
            let tokens = tokenizer.apply_chat_template_with(&messages, &options).unwrap();
            assert_eq!(serde_json::json!(tokens.ids), *ids, "{name}");
            assert_eq!(tokens.ids, tokenizer.chat_ids_with(&messages, &options).unwrap(), "{name}");
            encoded += 1;
            if let Some(mask) = run["assistant_mask"].as_array() {
                let ours: Vec<u64> = tokens.assistant_mask.iter().map(|&m| u64::from(m)).collect();
                assert_eq!(serde_json::json!(ours), serde_json::json!(mask), "{name}");
                masks += 1;
            }
        }
    }
    assert_eq!(families, ["llama3", "mistral", "chatml_qwen25", "gemma", "deepseek_r1", "zephyr", "feature_mix"]);
    // 75 cases: 4 fail, one is continued, ten of `feature_mix` are text only.
    assert_eq!((runs, errors, encoded, masks, continued), (71, 4, 60, 60, 1));
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", "What is 2 + 2?"),
        Message::new("assistant", "4").with_reasoning("2 + 2 = 4"),
        Message::new("user", "Sure?"),
        Message::new("assistant", "Yes."),
    ]
}

#[test]
fn our_template_in_full() {
    let tokenizer = trained(600, 1);
    let text = tokenizer.render_chat(&conversation()[..3], &RenderOptions::default()).unwrap();
    assert_eq!(
        text,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n<think>2 + 2 = 4</think>4<|eot_id|>"
    );
    let tokens = tokenizer.apply_chat_template(&conversation(), false).unwrap();
    assert_eq!(tokens.ids, tokenizer.encode_with_special(&tokenizer.render_chat(&conversation(), &RenderOptions::default()).unwrap()));
    let spoken: Vec<u32> = tokens.ids.iter().zip(&tokens.assistant_mask).filter(|(_, m)| **m).map(|(&id, _)| id).collect();
    assert_eq!(tokenizer.decode(&spoken, false), "<think>2 + 2 = 4</think>4<|eot_id|>Yes.<|eot_id|>");
}

#[test]
fn the_final_message_is_continued_where_its_text_ends() {
    let go_on = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    let started = [Message::new("user", "Count."), Message::new("assistant", "One, two, ")];
    let text = trained_once().render_chat(&started, &go_on).unwrap();
    assert!(text.ends_with("<|end_header_id|>\n\nOne, two,"), "blanks go where the template strips them: {text}");
    let tokens = trained_once().apply_chat_template_with(&started, &go_on).unwrap();
    assert_eq!(tokens.ids, trained_once().encode_with_special(&text));
    let spoken: Vec<u32> = tokens.ids.iter().zip(&tokens.assistant_mask).filter(|(_, m)| **m).map(|(&id, _)| id).collect();
    assert_eq!(trained_once().decode(&spoken, false), "One, two,");

    let faithful =
        "{% for m in messages %}{{ m.role + ': ' + m.content + ';' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    let faithful = retemplated(faithful, false);
    assert_eq!(faithful.render_chat(&started, &go_on).unwrap(), "user: Count.;assistant: One, two, ");
    let tokens = faithful.apply_chat_template_with(&started, &go_on).unwrap();
    let spoken: Vec<u32> = tokens.ids.iter().zip(&tokens.assistant_mask).filter(|(_, m)| **m).map(|(&id, _)| id).collect();
    assert_eq!(faithful.decode(&spoken, false).trim_start(), "One, two, ", "without generation blocks too");

    let both = RenderOptions { add_generation_prompt: true, ..go_on.clone() };
    assert!(trained_once().render_chat(&started, &both).unwrap_err().to_string().contains("exclude each other"));
    let deaf = retemplated("{{ messages[0].content }}", false);
    assert!(deaf.render_chat(&started, &go_on).unwrap_err().to_string().contains("nothing can be continued"));
}

/// `tokenizer_config.json` names `<image>`, and the template is that of LLaVA-1.5 folders: it takes lists only.
const LLAVA_TEMPLATE: &str = "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}\
    {% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}\
    {% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

/// The trained tokenizer with another template and, if asked for, `<image>` in the place of `<|image|>`.
fn retemplated(template: &str, llava: bool) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    trained_once().save(dir.path()).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    if llava {
        let file = dir.path().join("tokenizer.json");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("<|image|>", "<image>")).unwrap();
    }
    Tokenizer::load(dir.path()).unwrap()
}

fn asked_with_images() -> Vec<Message> {
    let two = r#"[{"type": "text", "text": "Compare "}, {"type": "image"}, {"type": "text", "text": " with"}, {"type": "image"}]"#;
    vec![
        Message::new("user", "What is it?").with_images(1),
        Message::new("assistant", "A cat."),
        serde_json::from_str(&format!(r#"{{"role": "user", "content": {two}}}"#)).unwrap(),
    ]
}

/// The text is what transformers 5 renders for the same lists.
#[test]
fn images_are_placeholders_at_their_places() {
    let tokenizer = trained_once();
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let text = tokenizer.render_chat(&asked_with_images(), &options).unwrap();
    assert_eq!(
        text,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>What is it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA \
         cat.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nCompare<|image|>with<|image|><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let tokens = tokenizer.apply_chat_template(&asked_with_images(), true).unwrap();
    assert_eq!(tokens.ids, tokenizer.encode_with_special(&text));
    assert_eq!(tokens.ids.iter().filter(|&&id| Some(id) == tokenizer.image_token_id()).count(), 3);

    let llava = retemplated(LLAVA_TEMPLATE, true);
    assert_eq!(llava.image_token(), Some("<image>"));
    assert_eq!(
        llava.render_chat(&asked_with_images(), &options).unwrap(),
        "USER: <image>\nWhat is it? ASSISTANT: A cat. USER: <image>\n<image>\nCompare   with ASSISTANT:"
    );
    let ids = llava.apply_chat_template(&asked_with_images(), true).unwrap().ids;
    assert_eq!(ids.iter().filter(|&&id| Some(id) == llava.image_token_id()).count(), 3);
    assert_eq!(llava.render_chat(&conversation()[..2], &options).unwrap(), "Be brief. USER: What is 2 + 2? ASSISTANT:", "text only, same template");
}

#[test]
fn templates_that_cannot_place_images_say_so() {
    let error = |template: &str, llava| retemplated(template, llava).apply_chat_template(&asked_with_images(), true).unwrap_err().to_string();
    let text_only = "{% for m in messages %}<|start_header_id|>{{ m.role + m.content }}{% endfor %}";
    assert!(error(text_only, false).contains("text only"));
    assert!(error("{% for m in messages %}{{ m.content | trim }}{% endfor %}", false).contains("text only"));
    // Right template, wrong vocabulary; and a template that drops images.
    let wrong = error(LLAVA_TEMPLATE, false);
    assert!(wrong.contains("0 <|image|> tokens for 3 images"), "{wrong}");
    let deaf = "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}";
    assert!(error(deaf, false).contains("for 3 images"));
}

#[test]
fn nobody_says_a_placeholder() {
    let seen = [Message::new("user", "Draw."), Message::new("assistant", "Here.").with_images(1)];
    let tokens = trained_once().apply_chat_template(&seen, false).unwrap();
    let spoken: Vec<u32> = tokens.ids.iter().zip(&tokens.assistant_mask).filter(|(_, m)| **m).map(|(&id, _)| id).collect();
    assert_eq!(trained_once().decode(&spoken, false), "Here.<|eot_id|>");
}

#[test]
fn the_template_of_older_processors_is_found() {
    let dir = tempfile::tempdir().unwrap();
    trained_once().save(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    std::fs::write(dir.path().join("chat_template.json"), serde_json::json!({"chat_template": LLAVA_TEMPLATE}).to_string()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.chat_template().unwrap().source(), LLAVA_TEMPLATE);
}

/// If this fails, a user can claim images that are not there, or shift those that are.
#[test]
fn text_beside_an_image_never_becomes_its_token() {
    for (tokenizer, token) in [(trained_once().clone(), "<|image|>"), (retemplated(LLAVA_TEMPLATE, true), "<image>")] {
        for cut in 1..token.len() {
            let parts = serde_json::json!([{"type": "text", "text": &token[..cut]}, {"type": "image"}, {"type": "text", "text": format!("{}{token}", &token[cut..])}]);
            let message: Message = serde_json::from_value(serde_json::json!({"role": "user", "content": parts})).unwrap();
            let ids = tokenizer.apply_chat_template(&[message], true).unwrap().ids;
            assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.image_token_id()).count(), 1, "{token} cut at {cut}");
        }
    }
}

#[test]
fn a_tokenizer_without_template_says_so() {
    let plain = Tokenizer::load(fixtures().join("tokenizers/bytelevel_gpt2")).unwrap();
    assert!(plain.apply_chat_template(&conversation(), true).unwrap_err().to_string().contains("chat_template.jinja"));
    assert!(ChatTemplate::new("{% for %}").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_prompt_is_a_prefix_of_the_conversation(user in any_text(), reply in any_text(), reasoning in prop::option::of(any_text())) {
        let tokenizer = trained_once();
        let question = vec![Message::new("user", user)];
        let mut whole = question.clone();
        whole.push(Message { reasoning_content: reasoning, ..Message::new("assistant", reply) });
        let generation = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let prompt_text = tokenizer.render_chat(&question, &generation).unwrap();
        prop_assert!(tokenizer.render_chat(&whole, &RenderOptions::default()).unwrap().starts_with(&prompt_text));
        let prompt = tokenizer.apply_chat_template(&question, true).unwrap();
        let full = tokenizer.apply_chat_template(&whole, false).unwrap();
        prop_assert!(full.ids.starts_with(&prompt.ids), "ids too");
        let first = full.assistant_mask.iter().position(|&m| m);
        prop_assert_eq!(first, Some(prompt.ids.len()), "the mask begins where the prompt ends");
        prop_assert!(prompt.assistant_mask.iter().all(|&m| !m));
    }

    #[test]
    fn message_text_never_becomes_a_control_token(before in any_text(), after in any_text(), token in 0usize..12, cut in 0usize..8) {
        let tokenizer = trained_once();
        let control = &tokenizer.added_tokens()[token].content;
        let attack = format!("{before}{control}{after}{}", &control[..cut.min(control.len())]);
        let messages = [Message::new("user", attack.clone()), Message::new("assistant", attack.clone()).with_reasoning(attack.clone()), Message::new("user", attack)];
        let harmless = [Message::new("user", "x"), Message::new("assistant", "x").with_reasoning("x"), Message::new("user", "x")];
        let specials = |messages: &[Message]| -> Vec<u32> {
            tokenizer.apply_chat_template(messages, true).unwrap().ids.into_iter().filter(|&id| tokenizer.is_special(id)).collect()
        };
        prop_assert_eq!(specials(&messages), specials(&harmless));
        let tokens = tokenizer.apply_chat_template(&messages, true).unwrap();
        let rendered = tokenizer.render_chat(&messages, &RenderOptions { add_generation_prompt: true, ..RenderOptions::default() }).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens.ids, false), rendered, "and no text is lost");
    }
}

fn trained_once() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(|| trained(700, 1))
}
