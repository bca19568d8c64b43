//! From a document and its few-shot examples to what the model reads.
//!
//! A prompt is a list of turns, as in the harness: the description, then question and answer of every example, then the
//! question. As plain text the turns are joined with their delimiters; as a chat the examples are turns of their own
//! (`multiturn`) or, together with the question, one user message. In a chat the answer follows the assistant's header
//! directly, so the delimiter in front of a choice is dropped.

use crate::error::{Error, Result};
use crate::python::{PythonRandom, is_space};
use crate::task::{Ask, Document, Loaded, Sampler, Spec};
use llm_tokenizer::Message;
use serde::{Deserialize, Serialize};

/// Seed of the harness's few-shot sampler.
pub const FEWSHOT_SEED: u64 = 1234;

/// Whether and how prompts are chats.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chat {
    /// Render prompts with the model's chat template.
    pub apply: bool,
    /// Few-shot examples are turns of their own.
    pub multiturn: bool,
    /// Stands before the description, in a system message.
    pub system: String,
}

/// What the model reads before its answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Text as it is.
    Text(String),
    /// A conversation for the model's own template.
    Chat {
        /// Its turns; the last one is the user's.
        messages: Vec<Message>,
        /// How the assistant's answer begins.
        prefix: Option<String>,
    },
}

/// One thing to ask the model, as the harness's `Instance`.
#[derive(Debug, Clone, PartialEq)]
pub enum Instance {
    /// Log-likelihood of a continuation.
    Likelihood {
        /// The context; may be empty.
        prompt: Prompt,
        /// What is scored, delimiter included.
        continuation: String,
    },
    /// Log-likelihood of a whole text in disjoint windows.
    Rolling {
        /// The text.
        text: String,
    },
    /// A continuation.
    Generate {
        /// The context.
        prompt: Prompt,
        /// Pictures shown with it.
        images: Vec<std::path::PathBuf>,
        /// How.
        settings: crate::task::Generate,
        /// Which of several answers to the same prompt.
        repeat: usize,
    },
}

struct Turn<'a> {
    role: &'static str,
    content: std::borrow::Cow<'a, str>,
    delimiter: &'a str,
}

/// Join two texts with `delimiter` unless one is empty or there is white space where they meet.
fn delimited(prefix: &str, suffix: &str, delimiter: &str) -> String {
    let meets_space = prefix.chars().next_back().is_some_and(is_space) || suffix.chars().next().is_some_and(is_space);
    if prefix.is_empty() || suffix.is_empty() || meets_space { format!("{prefix}{suffix}") } else { format!("{prefix}{delimiter}{suffix}") }
}

/// Question, and answer of an example or beginning of the model's own.
fn turns<'a>(spec: &'a Spec, document: &'a Document, example: bool) -> Vec<Turn<'a>> {
    let answer = if example { document.target.as_str() } else { "" };
    let prefix = document.gen_prefix.as_deref().filter(|p| !p.is_empty());
    let needs_space = |p: &str| !document.text.is_empty() && !document.text.ends_with(is_space) && !p.starts_with(is_space);
    let delimiter = match prefix {
        None if !answer.is_empty() => spec.target_delimiter,
        Some(prefix) if needs_space(prefix) => spec.target_delimiter,
        _ => "",
    };
    let mut turns = vec![Turn { role: "user", content: document.text.as_str().into(), delimiter }];
    if !answer.is_empty() {
        turns.push(Turn { role: "assistant", content: delimited(prefix.unwrap_or(""), answer, " ").into(), delimiter: spec.fewshot_delimiter });
    } else if let Some(prefix) = prefix {
        turns.push(Turn { role: "assistant", content: prefix.into(), delimiter: "" });
    }
    turns
}

/// Prompts of the first `limit` documents, in order: the sampler's state runs through them.
pub fn prompts(spec: &Spec, loaded: &Loaded, shots: usize, limit: usize, chat: &Chat) -> Result<Vec<Prompt>> {
    let mut random = PythonRandom::new(FEWSHOT_SEED);
    loaded
        .documents
        .iter()
        .take(limit)
        .map(|document| Ok(prompt(spec, document, &examples(spec, loaded, document, shots, &mut random)?, chat)))
        .collect()
}

fn examples<'a>(spec: &Spec, loaded: &'a Loaded, document: &Document, shots: usize, random: &mut PythonRandom) -> Result<Vec<&'a Document>> {
    let pool = &loaded.shots.pool;
    if shots == 0 {
        return Ok(Vec::new());
    }
    let others = |places: Vec<usize>| -> Vec<&'a Document> {
        let drawn = places.into_iter().map(|i| &pool[i]).filter(|d| !loaded.shots.exclude_self || d.record != document.record);
        drawn.take(shots).collect()
    };
    let too_few = || {
        let message = format!("{}: {shots} few-shot examples were asked for and there are only {}", spec.name, pool.len());
        Error::Config(format!("{message}; lower `num_fewshot` or put the file of examples into the data folder"))
    };
    let chosen = match loaded.shots.sampler {
        Sampler::FirstN => others((0..pool.len()).collect()),
        Sampler::Random => {
            let drawn = others(random.sample(pool.len(), shots + usize::from(loaded.shots.exclude_self)).ok_or_else(too_few)?);
            if drawn.len() == shots {
                drawn
            } else {
                // The pool holds the document more than once: the harness draws again from the others.
                let rest: Vec<&Document> = pool.iter().filter(|d| d.record != document.record).collect();
                random.sample(rest.len(), shots).ok_or_else(too_few)?.into_iter().map(|i| rest[i]).collect()
            }
        }
    };
    if chosen.len() < shots { Err(too_few()) } else { Ok(chosen) }
}

fn prompt(spec: &Spec, document: &Document, examples: &[&Document], chat: &Chat) -> Prompt {
    let system = delimited(&chat.system, &document.description, spec.fewshot_delimiter);
    let mut all: Vec<Turn> = examples.iter().flat_map(|example| turns(spec, example, true)).collect();
    all.extend(turns(spec, document, false));
    if !chat.apply {
        let mut text = system;
        for turn in &all {
            text.push_str(&turn.content);
            text.push_str(turn.delimiter);
        }
        return Prompt::Text(text);
    }
    let prefix = (all.last().is_some_and(|t| t.role == "assistant")).then(|| all.pop().map(|t| t.content.into_owned())).flatten();
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(Message::new("system", system));
    }
    if chat.multiturn {
        messages.extend(all.iter().map(|turn| Message::new(turn.role, turn.content.clone())));
    } else {
        let last = all.len() - 1;
        let text: String = all.iter().enumerate().flat_map(|(i, turn)| [&*turn.content, if i == last { "" } else { turn.delimiter }]).collect();
        messages.push(Message::new("user", text));
    }
    Prompt::Chat { messages, prefix }
}

/// What is asked about a document, in the order its answers are counted in.
pub fn instances(spec: &Spec, document: &Document, prompt: &Prompt) -> Vec<Instance> {
    let prompt = || prompt.clone();
    match &document.ask {
        Ask::Choice { choices, .. } => {
            let keeps = |p: &Option<String>| p.as_ref().is_some_and(|p| !p.is_empty() && !p.ends_with(is_space));
            let delimiter = match prompt() {
                Prompt::Chat { prefix, .. } if !keeps(&prefix) => "",
                _ => spec.target_delimiter,
            };
            choices.iter().map(|c| Instance::Likelihood { prompt: prompt(), continuation: format!("{delimiter}{c}") }).collect()
        }
        Ask::Likelihood => vec![Instance::Likelihood { prompt: prompt(), continuation: document.target.clone() }],
        Ask::Rolling { .. } => vec![Instance::Rolling { text: document.target.clone() }],
        Ask::Generate(settings) => (0..settings.repeats.max(1))
            .map(|repeat| Instance::Generate { prompt: prompt(), images: document.images.clone(), settings: settings.clone(), repeat })
            .collect(),
    }
}
