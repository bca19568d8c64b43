//! The linter: a template for every finding, and none of the sound ones is called wrong.
mod common;

use common::{fixtures, trained};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::chat::{Finding, Severity, lint, lint_with};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The fixture's tokenizer with a template; `post` is its post-processor.
fn write(dir: &Path, template: Option<&str>, bos: &Value, eos: &Value, post: Option<Value>) {
    let text = std::fs::read_to_string(fixtures().join("chat_templates/tokenizer/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    if let Some(post) = post {
        json["post_processor"] = post;
    }
    std::fs::write(dir.join("tokenizer.json"), json.to_string()).unwrap();
    let mut config = json!({"bos_token": bos, "eos_token": eos});
    if let Some(template) = template {
        config["chat_template"] = template.into();
    }
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

fn loaded(template: Option<&str>, bos: Value, eos: Value, post: Option<Value>) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), template, &bos, &eos, post);
    Tokenizer::load(dir.path()).unwrap()
}

fn chatml(template: &str) -> Vec<Finding> {
    lint(&loaded(Some(template), Value::Null, json!("<|im_end|>"), None))
}

fn has(findings: &[Finding], severity: Severity, rule: &str) -> bool {
    findings.iter().any(|f| f.severity == severity && f.rule == rule)
}

/// A sound template without blocks, and with.
const SOUND: &str = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
const MARKED: &str = "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}{% generation %}{{- m.content + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}\
    {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}\
    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

#[test]
fn sound_templates_have_no_errors() {
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("chat_templates/chat_templates.json")).unwrap()).unwrap();
    let mut sound = 0;
    for entry in recorded["templates"].as_array().unwrap() {
        let findings = lint(&loaded(entry["template"].as_str(), entry["bos_token"].clone(), entry["eos_token"].clone(), None));
        let errors: Vec<&Finding> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
        // A collection of the engine's features is no chat template.
        assert_eq!(errors.is_empty(), entry["template_name"] != "feature_mix", "{}: {errors:#?}", entry["template_name"]);
        assert!(findings.is_sorted_by_key(|f| f.severity), "the worst first");
        sound += usize::from(errors.is_empty());
    }
    assert_eq!(sound, 6);
    let ours = lint(&trained(600, 1));
    assert!(ours.iter().all(|f| f.severity != Severity::Error), "{ours:#?}");
    let quiet: Vec<&'static str> = chatml(MARKED).iter().filter(|f| f.severity == Severity::Note).map(|f| f.rule).collect();
    assert_eq!(quiet, ["reasoning-dropped"], "only that `reasoning_content` is not shown");
}

/// Each change to a sound template is found under its name.
#[test]
fn every_finding_has_a_template() {
    use Severity::{Error, Note, Warning};
    let header = "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}";
    let loud = |with: &str| SOUND.replace(header, with);
    let cases: Vec<(Severity, &str, String)> = vec![
        (Error, "raises", SOUND.to_string() + "{{- raise_exception('no') if messages | length > 1 }}"),
        (Warning, "raises", SOUND.to_string() + "{{- raise_exception('no system') if messages[0].role == 'system' }}"),
        (Error, "system-dropped", loud(&format!("{{%- if m.role != 'system' %}}{header}{{%- endif %}}"))),
        (Error, "content-dropped", loud(&format!("{{%- if m.role != 'user' or loop.last %}}{header}{{%- endif %}}"))),
        (Warning, "content-duplicated", loud(&header.replace("m.content", "m.content + m.content"))),
        (Warning, "content-changed", loud(&header.replace("m.content", "(m.content | upper)"))),
        (Note, "content-stripped", loud(&header.replace("m.content", "(m.content | trim)"))),
        (Warning, "layout-changed", loud(&header.replace("m.content", "(m.content | replace('\\n', ' '))"))),
        (Warning, "control-text-changed", loud(&header.replace("m.content", "m.content.split('<')[0]"))),
        (Note, "reasoning-dropped", SOUND.to_string()),
        (Warning, "tools-ignored", SOUND.to_string()),
        (Warning, "tool-calls-dropped", SOUND.to_string()),
        (Warning, "tool-result-dropped", loud(&format!("{{%- if m.role != 'tool' %}}{header}{{%- endif %}}"))),
        (Error, "prefix-unstable", loud(&format!("{{%- if loop.last %}}{{{{- 'Now: ' }}}}{{%- endif %}}{header}"))),
        (
            Warning,
            "prefix-unstable",
            loud(&format!("{{%- if loop.last and messages[0].role == 'system' %}}{{{{- 'Now: ' }}}}{{%- endif %}}{header}")),
        ),
        (Error, "generation-prompt", SOUND.replace("assistant\\n", "bot\\n")),
        (Error, "generation-prompt", SOUND.replace("if add_generation_prompt", "if false")),
        (Warning, "generation-prompt", SOUND.replace("assistant\\n", "assistant\\n<think>\\n")),
        (Note, "generation-prompt", SOUND.replace("assistant\\n", "assistant")),
        (Note, "no-generation-blocks", SOUND.to_string()),
        (Error, "masks-unclear", format!("{{{{- messages[-1].content }}}}{}", SOUND.replace("if add_generation_prompt", "if false"))),
        (Error, "generation-empty", format!("{SOUND}{{% generation %}}{{% endgeneration %}}")),
        (
            Error,
            "generation-without-end",
            MARKED.replace(" + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}", " }}{% endgeneration %}{{- '<|im_end|>\\n' }}"),
        ),
        (Warning, "generation-misses-text", MARKED.replace("{% generation %}{{- m.content + ", "{{- m.content }}{% generation %}{{- ")),
        (Error, "generation-too-wide", format!("{{% generation %}}{SOUND}{{% endgeneration %}}")),
        (
            Warning,
            "generation-too-wide",
            MARKED.replace("{{- '<|im_start|>assistant\\n' }}{% generation %}", "{% generation %}{{- '<|im_start|>assistant\\n' }}"),
        ),
        (Note, "generation-too-wide", MARKED.replace("{% endgeneration %}{{- '\\n' }}", "{{- '\\n' }}{% endgeneration %}")),
        (
            Note,
            "generation-unchecked",
            "{{- messages[-1].content }}{%- for m in messages %}{{- m.role }}{% generation %}{{- m.content }}{% endgeneration %}{%- endfor %}"
                .to_string(),
        ),
        (Warning, "no-end-of-turn", SOUND.replace("<|im_end|>", "")),
        (Error, "end-of-turn-not-eos", SOUND.replace("<|im_end|>", "<end_of_turn>")),
        (Note, "end-of-turn-not-eos", SOUND.replace("<|im_end|>", "<|eot_id|>")),
        (Error, "unknown-token", SOUND.replace("<|im_start|>", "<|turn|>")),
        (Warning, "unknown-token", SOUND.to_string() + "{%- if messages[0].role == 'judge' %}{{- '<|verdict|>' }}{%- endif %}"),
    ];
    for (severity, rule, template) in cases {
        let findings = chatml(&template);
        assert!(has(&findings, severity, rule), "{severity:?} {rule} of {template}\n{findings:#?}");
        let sound = chatml(if rule.starts_with("generation-") && rule != "generation-prompt" { MARKED } else { SOUND });
        let always = ["reasoning-dropped", "tools-ignored", "tool-calls-dropped", "no-generation-blocks"];
        assert!(always.contains(&rule) || !has(&sound, severity, rule), "{rule} is not said of a sound template");
    }
    let unstable = chatml(&loud(&format!("{{%- if loop.last %}}{{{{- 'Now: ' }}}}{{%- endif %}}{header}")));
    let shown = &unstable.iter().find(|f| f.rule == "prefix-unstable").unwrap().shown;
    assert!(shown[0].text.contains("Now: ") && !shown[1].text.contains("Now: <|im_start|>user"), "the place where they part is shown: {shown:?}");
}

#[test]
fn begin_of_text_tokens_are_counted() {
    let adds = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    let with_bos = format!("{{{{- bos_token }}}}{SOUND}");
    let findings = |template: &str, bos: &str, post| lint(&loaded(Some(template), json!(bos), json!("<|im_end|>"), post));
    assert!(has(&findings(&with_bos, "<s>", Some(adds.clone())), Severity::Warning, "double-bos"));
    assert!(has(&findings(SOUND, "<s>", Some(adds)), Severity::Warning, "no-bos"));
    assert!(has(&findings(&format!("{{{{- bos_token }}}}{with_bos}"), "<s>", None), Severity::Error, "double-bos"));
    assert!(!findings(&with_bos, "<s>", None).iter().any(|f| f.rule.ends_with("-bos")));
    assert!(has(&findings(SOUND, "<|startoftext|>", None), Severity::Error, "unknown-token"), "a bos_token outside the vocabulary");
}

#[test]
fn ids_of_generation_config_end_turns() {
    let tokenizer = loaded(Some(&SOUND.replace("<|im_end|>", "<end_of_turn>")), Value::Null, json!("</s>"), None);
    assert!(has(&lint(&tokenizer), Severity::Error, "end-of-turn-not-eos"));
    let id = tokenizer.special_id("<end_of_turn>").unwrap();
    assert!(!lint_with(&tokenizer, &[id]).iter().any(|f| f.rule == "end-of-turn-not-eos"));
    assert!(has(&lint(&loaded(None, Value::Null, json!("</s>"), None)), Severity::Error, "no-template"));
}

#[test]
fn the_program_prints_findings_and_fails_on_errors() {
    let run = |dir: &Path, json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-tokenizer"));
        command.args(["lint", "--tokenizer"]).arg(dir).args(json.then_some("--json")).output().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Some(&SOUND.replace("<|im_end|>", "<end_of_turn>")), &Value::Null, &json!("</s>"), None);
    let wrong = run(dir.path(), false);
    let text = String::from_utf8(wrong.stdout).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: end-of-turn-not-eos") && text.contains("1 error,"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 12]}"#).unwrap();
    let right = run(dir.path(), true);
    let report: Value = serde_json::from_slice(&right.stdout).unwrap();
    assert_eq!((right.status.code(), &report["errors"]), (Some(0), &json!(0)), "{report:#}");
    assert_eq!(report["findings"][0]["severity"], "warning");
}
