//! What a row is, found by its columns.
//!
//! | rows | columns |
//! |---|---|
//! | conversations | `messages` or `conversations` (+ `system`, `tools`); `instruction` (+ `input`, `history`, `system`) with `output`, `response` or `instances`; `prompt` with `completion` or `response`; `question` with `answer` |
//! | pairs | `chosen` and `rejected`, as text or messages, with `prompt`, `messages`, `conversations`, `instruction` or `question`; without a prompt both share their first messages, or are texts `\n\nHuman: ..`; `instruction`, `output_1`, `output_2` and `preference` |
//! | labelled | `label` or `kto_tag` with `prompt` and `completion`, `messages`, `conversations` or `instruction` and `output`; or pairs, which give two |
//! | prompts | `prompt`, `messages`, `conversations`, `instruction`, `question`, `problem` or `query`; the answer in `answer`, `ground_truth`, `expected_answer`, `final_answer`, `target`, `solution` or `reward_model.ground_truth` |
//!
//! Sources: TRL `docs/source/dataset_formats.md`, LLaMA-Factory `data/README.md`, the data sets themselves.

use super::messages::{Columns, anthropic, check, column, filled, first, instruction, messages, prompt, said, with_system};
use llm_data::read::objects::kind;
use llm_tokenizer::Message;
use serde_json::Value;

const CONVERSATIONS: &str = "messages; conversations; instruction and output (input, history, system); prompt and completion; question and answer";
const PAIRS: &str = "prompt, chosen and rejected; messages or conversations, chosen and rejected; instruction (input), chosen and rejected; \
                     chosen and rejected that share their first messages; instruction, output_1, output_2 and preference";
const LABELLED: &str = "prompt, completion and label; messages or conversations and label (or kto_tag); instruction, output and label; or pairs";
const PROMPTS: &str = "prompt; messages; conversations; instruction (input); question; problem; query";

/// Columns of lists of messages.
const TURNS: [&str; 3] = ["messages", "conversations", "conversation"];

fn unknown(row: &Columns, accepted: &str) -> String {
    let names: Vec<&str> = row.keys().map(String::as_str).take(16).collect();
    format!("unknown format: the row has {}; expected one of: {accepted}", super::list(&names))
}

fn has(row: &Columns, name: &str) -> bool {
    column(row, name).is_some()
}

fn no_pictures(row: &Columns) -> Result<(), String> {
    match first(row, &["images", "image", "videos"]).and_then(Value::as_array) {
        Some(list) if !list.is_empty() => Err("pictures are not trained here; `llm-train instruct` does that".into()),
        _ => Ok(()),
    }
}

/// Only conversations show a model its tools.
fn no_tools(row: &Columns) -> Result<(), String> {
    match tools(row)? {
        Some(_) => Err("`tools` are known in conversations only; put them into the system message".into()),
        None => Ok(()),
    }
}

/// The column `tools`: a list, or JSON of one, in the OpenAI form or without its frame.
fn tools(row: &Columns) -> Result<Option<Value>, String> {
    let wrong = || "`tools`: expected a list of tools, or JSON of one".to_string();
    let list = match column(row, "tools") {
        None => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str::<Vec<Value>>(text).map_err(|_| wrong())?,
        Some(Value::Array(list)) => list.clone(),
        Some(_) => return Err(wrong()),
    };
    let framed = |tool: Value| if tool.get("function").is_some() { tool } else { serde_json::json!({"type": "function", "function": tool}) };
    Ok((!list.is_empty()).then(|| list.into_iter().map(framed).collect()))
}

/// A conversation of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub messages: Vec<Message>,
    /// How many of them are a prompt, whose answers are not trained.
    pub prompt: usize,
    pub tools: Option<Value>,
}

/// The conversations of a row: one, or an instruction's instances.
pub fn conversations(row: &Columns) -> Result<Vec<Said>, String> {
    no_pictures(row)?;
    let tools = tools(row)?;
    let whole = |messages: Vec<Message>, prompt: usize| -> Result<Said, String> {
        check(&messages, &["assistant"])?;
        Ok(Said { messages, prompt, tools: tools.clone() })
    };
    if let Some(turns) = first(row, &TURNS) {
        return Ok(vec![whole(with_system(row, messages(turns)?), 0)?]);
    }
    if let (true, Some(Value::Array(instances))) = (has(row, "instruction"), column(row, "instances")) {
        let one = |instance: &Value| -> Result<Said, String> {
            let fields = instance.as_object().ok_or_else(|| format!("expected an object {{input, output}}, found {}", kind(instance)))?;
            let mut one = row.clone();
            one.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
            let output = column(&one, "output").ok_or("no `output`")?;
            whole([instruction(&one)?, said(output, "assistant")?].concat(), 0)
        };
        return instances.iter().enumerate().map(|(i, instance)| one(instance).map_err(|e| format!("instances[{i}]: {e}"))).collect();
    }
    if let (true, Some(answer)) = (has(row, "instruction"), first(row, &["output", "response"])) {
        return Ok(vec![whole([instruction(row)?, said(answer, "assistant")?].concat(), 0)?]);
    }
    if let (Some(question), Some(answer)) = (column(row, "prompt"), first(row, &["completion", "response"])) {
        let question = with_system(row, prompt(question)?);
        let prompt = question.len();
        return Ok(vec![whole([question, said(answer, "assistant")?].concat(), prompt)?]);
    }
    if let (Some(question), Some(answer)) = (column(row, "question"), column(row, "answer")) {
        return Ok(vec![whole(with_system(row, [said(question, "user")?, said(answer, "assistant")?].concat()), 0)?]);
    }
    Err(unknown(row, CONVERSATIONS))
}

/// A prompt with a better and a worse answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Sides {
    pub prompt: Vec<Message>,
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
    pub margin: Option<f32>,
}

fn is_pair(row: &Columns) -> bool {
    (has(row, "chosen") && has(row, "rejected")) || ["instruction", "output_1", "output_2", "preference"].iter().all(|name| has(row, name))
}

/// The pair of a row.
pub fn pair(row: &Columns) -> Result<Sides, String> {
    if !is_pair(row) {
        return Err(unknown(row, PAIRS));
    }
    no_pictures(row)?;
    no_tools(row)?;
    let sides = match (column(row, "chosen"), column(row, "rejected")) {
        (Some(chosen), Some(rejected)) => chosen_and_rejected(row, chosen, rejected)?,
        _ => compared(row)?,
    };
    let Sides { prompt, chosen, rejected, .. } = &sides;
    for (name, side) in [("chosen", chosen), ("rejected", rejected)] {
        if side.first().is_none_or(|first| first.role != "assistant") {
            return Err(format!("`{name}` has no answer of the assistant's after what it shares with the other side"));
        }
        check(&[prompt.as_slice(), side.as_slice()].concat(), &["assistant"]).map_err(|e| format!("`{name}`: {e}"))?;
    }
    check(prompt, &["user", "tool"]).map_err(|e| format!("prompt: {e}"))?;
    let same = |(a, b): (&Message, &Message)| a.content.trim() == b.content.trim() && a.reasoning_content == b.reasoning_content;
    let calls = |side: &[Message]| side.iter().map(|m| m.tool_calls.clone()).collect::<Vec<_>>();
    if chosen.len() == rejected.len() && chosen.iter().zip(rejected).all(same) && calls(chosen) == calls(rejected) {
        return Err("chosen and rejected are equal, so there is nothing to prefer".into());
    }
    Ok(sides)
}

fn chosen_and_rejected(row: &Columns, chosen: &Value, rejected: &Value) -> Result<Sides, String> {
    let margin = margin(row);
    let turns = |value: &Value, name: &str| said(value, "assistant").map_err(|e| format!("`{name}`: {e}"));
    let texts = (chosen.as_str().and_then(anthropic), rejected.as_str().and_then(anthropic));
    if let (Some(chosen), Some(rejected)) = texts {
        return shared(chosen, rejected, margin);
    }
    let (chosen, rejected) = (turns(chosen, "chosen")?, turns(rejected, "rejected")?);
    // UltraFeedback names the prompt and begins both sides with it all the same.
    let whole = |side: &[Message]| side.first().is_some_and(|first| first.role != "assistant");
    if whole(&chosen) && whole(&rejected) {
        return shared(with_system(row, chosen), with_system(row, rejected), margin);
    }
    let question = if let Some(question) = column(row, "prompt") {
        with_system(row, prompt(question)?)
    } else if let Some(turns) = first(row, &TURNS) {
        with_system(row, messages(turns)?)
    } else if has(row, "instruction") {
        instruction(row)?
    } else if let Some(question) = column(row, "question") {
        with_system(row, said(question, "user")?)
    } else {
        return Err("chosen and rejected have no prompt: give it a column `prompt`, or begin both sides with its messages".into());
    };
    Ok(Sides { prompt: question, chosen, rejected, margin })
}

/// Both sides whole: the prompt is what they share, up to the message in which they differ (TRL, `extract_prompt`).
fn shared(chosen: Vec<Message>, rejected: Vec<Message>, margin: Option<f32>) -> Result<Sides, String> {
    let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    if chosen.len() == common && rejected.len() == common {
        return Err("chosen and rejected are equal, so there is nothing to prefer".into());
    }
    let (prompt, rest) = chosen.split_at(common);
    Ok(Sides { prompt: prompt.to_vec(), chosen: rest.to_vec(), rejected: rejected[common..].to_vec(), margin })
}

/// AlpacaEval's annotations: 1 prefers the first answer, 2 the second, and what lies between is a probability.
fn compared(row: &Columns) -> Result<Sides, String> {
    let preference = column(row, "preference").and_then(Value::as_f64).filter(|p| (1.0..=2.0).contains(p));
    let preference = preference.ok_or("`preference`: expected a number from 1 (first answer) to 2 (second answer)")?;
    if preference == 1.5 {
        return Err("`preference` is 1.5: neither answer is preferred".into());
    }
    let answer = |name: &str| filled(row, name).map(|text| vec![Message::new("assistant", text)]).ok_or_else(|| format!("empty answer: `{name}`"));
    let (one, two) = (answer("output_1")?, answer("output_2")?);
    let (chosen, rejected) = if preference < 1.5 { (one, two) } else { (two, one) };
    Ok(Sides { prompt: instruction(row)?, chosen, rejected, margin: Some(((preference - 1.5).abs() * 2.0) as f32) })
}

/// How much better the chosen answer is: `margin`, or the difference of two scores.
fn margin(row: &Columns) -> Option<f32> {
    const SCORES: [(&str, &str); 4] = [
        ("score_chosen", "score_rejected"),
        ("chosen_score", "rejected_score"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_rating", "rejected_rating"),
    ];
    let number = |name: &str| column(row, name).and_then(Value::as_f64);
    let difference = || SCORES.iter().find_map(|(chosen, rejected)| Some(number(chosen)? - number(rejected)?));
    number("margin").or_else(difference).map(|m| m as f32)
}

/// A prompt, an answer, and whether it is a good one.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub prompt: Vec<Message>,
    pub completion: Vec<Message>,
    pub label: bool,
}

/// The column that says whether an answer is good.
fn label_column(row: &Columns) -> Option<&Value> {
    first(row, &["label", "kto_tag"])
}

fn label(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(label) => Ok(*label),
        Value::Number(n) if n.as_f64() == Some(1.0) => Ok(true),
        Value::Number(n) if n.as_f64() == Some(0.0) => Ok(false),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(format!("`label`: expected true or false, found {}", super::short(&other.to_string()))),
    }
}

/// The labelled answers of a row: one, or the two sides of a pair (TRL, `unpair_preference_dataset`).
pub fn labelled(row: &Columns) -> Result<Vec<Judged>, String> {
    let Some(value) = label_column(row).filter(|_| !is_pair(row)) else {
        if !is_pair(row) {
            return Err(unknown(row, LABELLED));
        }
        let Sides { prompt, chosen, rejected, .. } = pair(row)?;
        let good = Judged { prompt: prompt.clone(), completion: chosen, label: true };
        return Ok(vec![good, Judged { prompt, completion: rejected, label: false }]);
    };
    no_pictures(row)?;
    no_tools(row)?;
    let label = label(value)?;
    let (question, completion) = if let (Some(question), Some(answer)) = (column(row, "prompt"), first(row, &["completion", "response"])) {
        (with_system(row, prompt(question)?), said(answer, "assistant")?)
    } else if let Some(turns) = first(row, &TURNS) {
        let mut turns = with_system(row, messages(turns)?);
        let answer = turns.pop();
        (turns, answer.into_iter().collect())
    } else if let (true, Some(answer)) = (has(row, "instruction"), first(row, &["output", "response"])) {
        (instruction(row)?, said(answer, "assistant")?)
    } else {
        return Err(unknown(row, LABELLED));
    };
    check(&[question.as_slice(), completion.as_slice()].concat(), &["assistant"])?;
    if completion.first().is_none_or(|first| first.role != "assistant") {
        return Err("the completion does not begin with the assistant's answer".into());
    }
    Ok(vec![Judged { prompt: question, completion, label }])
}

/// A question and perhaps its answer.
pub type Asked = (Vec<Message>, Option<String>);

/// The prompt of a row. Where the row holds a whole conversation, it ends before the last answer.
pub fn asked(row: &Columns) -> Result<Asked, String> {
    no_pictures(row)?;
    no_tools(row)?;
    let mut question = if let Some(question) = column(row, "prompt") {
        with_system(row, prompt(question)?)
    } else if let Some(turns) = first(row, &TURNS) {
        with_system(row, messages(turns)?)
    } else if has(row, "instruction") {
        instruction(row)?
    } else if let Some(question) = first(row, &["question", "problem", "query"]) {
        with_system(row, said(question, "user")?)
    } else if is_pair(row) {
        pair(row)?.prompt
    } else {
        return Err(unknown(row, PROMPTS));
    };
    question.pop_if(|last| last.role == "assistant");
    check(&question, &["user", "tool"])?;
    Ok((question, answer(row)))
}

/// The gold answer; of GSM8K's what follows `####`.
fn answer(row: &Columns) -> Option<String> {
    const NAMES: [&str; 6] = ["answer", "ground_truth", "expected_answer", "final_answer", "target", "solution"];
    let nested = || column(row, "reward_model").and_then(|spec| spec.get("ground_truth")).filter(|value| !value.is_null());
    let text = match first(row, &NAMES).or_else(nested)? {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(match text.rsplit_once("####") {
        Some((_, last)) => last.trim().to_string(),
        None => text,
    })
}

/// What a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Conversations, for SFT.
    Conversations,
    /// Preference pairs, for DPO and reward models.
    Pairs,
    /// Answers with a label, for KTO.
    Labelled,
    /// Prompts, for GRPO and PPO.
    Prompts,
}

impl Kind {
    /// By the columns of a row.
    pub fn of(row: &Columns) -> Self {
        let labelled = label_column(row).is_some_and(|value| label(value).is_ok());
        if is_pair(row) {
            Self::Pairs
        } else if labelled && labelled_columns(row) {
            Self::Labelled
        } else if conversations(row).is_err() && asked(row).is_ok() {
            Self::Prompts
        } else {
            Self::Conversations
        }
    }
}

fn labelled_columns(row: &Columns) -> bool {
    first(row, &TURNS).is_some() || first(row, &["completion", "response", "output"]).is_some()
}
