//! BIG-Bench Hard (Suzgun et al. 2022): 27 kinds of exercises, answered after a chain of thought.
//!
//! lm-evaluation-harness `bbh_cot_fewshot_TASK`, version 4, group `bbh_cot_fewshot`, version 3: the paper's three examples
//! and description, read from its own prompt files. One generation, two extractions: `get-answer` is the harness's with its
//! slip (the last character of the line is lost, see [`crate::grade::bbh`]), `fixed` is what was meant.

use crate::error::{Error, Result};
use crate::grade::bbh;
use crate::reader::{Record, json, text};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Sampler, Score, Shots, Spec, Task, TaskName};
use serde_json::json;
use std::path::Path;

const TASKS: &str = "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies \
    geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects logical_deduction_three_objects \
    movie_recommendation multistep_arithmetic_two navigate object_counting penguins_in_a_table reasoning_about_colored_objects \
    ruin_names salient_translation_error_detection snarks sports_understanding temporal_sequences \
    tracking_shuffled_objects_five_objects tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects \
    web_of_lies word_sorting";

const STEPS: &str = "A: Let's think step by step.";

struct Bbh {
    spec: Spec,
    prompt: String,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let task = |name: &'static str| -> Box<dyn Task> {
        let file = format!("bbh/{name}.json");
        let prompt = format!("bbh/cot-prompts/{name}.txt");
        let metrics = vec![MetricSpec::mean(Metric::ExactMatch)];
        let mut spec = Spec::new(TaskName::lm_eval(format!("bbh_cot_fewshot_{name}"), "4"), Kind::Generation, &[&file], metrics);
        spec.files.push(vec![prompt.clone()]);
        spec.group = Some(TaskName::lm_eval("bbh_cot_fewshot", "3"));
        spec.shots = 3;
        spec.target_delimiter = "";
        Box::new(Bbh { spec, prompt })
    };
    TASKS.split_whitespace().map(task).collect()
}

impl Task for Bbh {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let path = data.join(&self.prompt);
        let (description, pool) = examples(&text(&path)?).ok_or_else(|| Error::Exercise {
            path,
            line: 1,
            message: format!("expected a description, and examples of `Q: ` and `{STEPS}`"),
        })?;
        let records = json(&self.spec.file(data)?, Some("examples"))?;
        let document = |(i, record): (usize, &Record)| {
            let mut document = question(i, record.text("input")?, record.text("target")?, record.value());
            document.description.clone_from(&description);
            Ok(document)
        };
        let documents = records.iter().enumerate().map(document).collect::<Result<_>>()?;
        Ok(Loaded { documents, shots: Shots { pool, sampler: Sampler::FirstN, exclude_self: false } })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let text = answers.first().map_or("", Answer::text);
        let score = |filter, extracted: String| {
            let right = extracted == document.target;
            Score::graded(filter, Metric::ExactMatch, extracted, right)
        };
        Ok(vec![score("get-answer", bbh::harness(text)), score("fixed", bbh::fixed(text))])
    }
}

fn question(i: usize, input: &str, target: &str, record: serde_json::Value) -> Document {
    let until = ["</s>", "Q", "\n\n"].map(String::from).to_vec();
    let ask = Ask::Generate(Generate { until, max_gen_toks: 1024, ..Generate::default() });
    Document::new(i.to_string(), format!("Q: {input}\n{STEPS}\n"), target, ask, record)
}

/// A prompt file: a warning and a line of dashes, the description, and questions with their solutions.
fn examples(file: &str) -> Option<(String, Vec<Document>)> {
    let body = file.split_once("-----\n").map_or(file, |(_, body)| body).trim_end_matches('\n');
    let mut parts = body.split("\n\nQ: ");
    let description = format!("{}\n\n", parts.next()?);
    let example = |(i, part): (usize, &str)| {
        let (input, target) = part.split_once(&format!("\n{STEPS}"))?;
        let target = target.trim_start();
        Some(question(i, input, target, json!({"input": input, "target": target})))
    };
    let pool: Option<Vec<Document>> = parts.enumerate().map(example).collect();
    pool.filter(|pool| !pool.is_empty()).map(|pool| (description, pool))
}
