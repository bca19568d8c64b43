//! MATH-500 (Hendrycks et al. 2021; the 500 of Lightman et al. 2023): competition problems whose answers are LaTeX.
//!
//! | task | prompt | counted |
//! |---|---|---|
//! | `minerva_math500@lm-eval@3.1` | the four examples of the Minerva paper, from `math/minerva_fewshot.jsonl` (`problem`, `solution`), which is not ours to ship | `none`, `normalised` |
//! | `math500_4shot@llm-eval@1` | the same form; the examples are the first four records of the file itself, which are not evaluated | `none`, `normalised` |
//! | `hendrycks_math500@lm-eval@1` | no examples, `Answer:` | what stands between the first and last `$`, `strip_string` |
//!
//! `none` is the harness's metric by that name: normalised answers that are the same text or the same value. Values are
//! compared by [`llm_verify::math::equal_expressions`] where the harness asks SymPy. `normalised` is the text alone. `math_verify` is not
//! offered.

use crate::error::Result;
use crate::grade::{hendrycks, minerva};
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Sampler, Score, Shots, Spec, Task, TaskName};
use std::path::Path;

const FILE: &str = "math/math500_test.jsonl";
const EXAMPLES: &str = "math/minerva_fewshot.jsonl";
const SHOTS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Minerva,
    OwnExamples,
    Hendrycks,
}

struct Math {
    spec: Spec,
    protocol: Protocol,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let task = |name, protocol| -> Box<dyn Task> {
        let mut spec = Spec::new(name, Kind::Generation, &[FILE], vec![MetricSpec::mean(Metric::ExactMatch)]);
        if protocol != Protocol::Hendrycks {
            spec.shots = SHOTS;
        }
        if protocol == Protocol::Minerva {
            spec.files.push(vec![EXAMPLES.to_string()]);
        }
        Box::new(Math { spec, protocol })
    };
    vec![
        task(TaskName::lm_eval("minerva_math500", "3.1"), Protocol::Minerva),
        task(TaskName::own("math500_4shot", "1"), Protocol::OwnExamples),
        task(TaskName::lm_eval("hendrycks_math500", "1"), Protocol::Hendrycks),
    ]
}

impl Task for Math {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let records = jsonl(&self.spec.file(data)?)?;
        let examples = match self.protocol {
            Protocol::Minerva => jsonl(&data.join(EXAMPLES))?,
            Protocol::OwnExamples => records.iter().take(SHOTS).cloned().collect(),
            Protocol::Hendrycks => Vec::new(),
        };
        let first = if self.protocol == Protocol::OwnExamples { SHOTS } else { 0 };
        let documents = records.iter().enumerate().skip(first).map(|(i, r)| self.document(i, r)).collect::<Result<_>>()?;
        let pool = examples.iter().enumerate().map(|(i, r)| self.example(i, r)).collect::<Result<_>>()?;
        Ok(Loaded { documents, shots: Shots { pool, sampler: Sampler::FirstN, exclude_self: false } })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let text = answers.first().map_or("", Answer::text);
        if self.protocol == Protocol::Hendrycks {
            let answer = hendrycks::answer(text);
            let right = hendrycks::is_equiv(answer, &document.target);
            return Ok(vec![Score::graded("none", Metric::ExactMatch, answer.to_string(), right)]);
        }
        let answer = minerva::normalise(&minerva::final_answer(text));
        let right = minerva::is_equiv(&answer, &document.target);
        let same = answer == document.target;
        let score = |filter, right| Score::graded(filter, Metric::ExactMatch, answer.clone(), right);
        Ok(vec![score("none", right), score("normalised", same)])
    }
}

impl Math {
    fn question(&self, record: &Record) -> Result<String> {
        let problem = record.text("problem")?;
        Ok(match self.protocol {
            Protocol::Hendrycks => format!("Problem: {problem}\nAnswer:"),
            _ => format!("Problem:\n{problem}\n\nSolution:"),
        })
    }

    fn ask() -> Ask {
        Ask::Generate(Generate { until: vec!["Problem:".to_string()], ..Generate::default() })
    }

    fn document(&self, i: usize, record: &Record) -> Result<Document> {
        let solution = record.text("solution")?;
        let boxed = minerva::last_boxed(solution).and_then(minerva::unboxed);
        let boxed = boxed.ok_or_else(|| record.error("field `solution`: expected an answer in \\boxed{...}"))?;
        let target = if self.protocol == Protocol::Hendrycks { boxed.to_string() } else { minerva::normalise(boxed) };
        let id = record.fields.get("unique_id").and_then(|id| id.as_str()).map_or_else(|| i.to_string(), str::to_string);
        Ok(Document::new(id, self.question(record)?, target, Self::ask(), record.value()))
    }

    fn example(&self, i: usize, record: &Record) -> Result<Document> {
        let mut solution = record.text("solution")?.to_string();
        if self.protocol == Protocol::OwnExamples {
            let boxed = minerva::last_boxed(&solution).and_then(minerva::unboxed);
            let boxed = boxed.ok_or_else(|| record.error("field `solution`: expected an answer in \\boxed{...}"))?;
            solution = format!("{solution}\nFinal Answer: The final answer is ${boxed}$. I hope it is correct.");
        }
        Ok(Document::new(i.to_string(), self.question(record)?, solution, Self::ask(), record.value()))
    }
}
