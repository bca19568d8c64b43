//! MGSM (Shi et al. 2022): 250 problems of GSM8K, translated by people; here English, German and Spanish.
//!
//! lm-evaluation-harness, version 4: `mgsm_direct_LANG` asks for the answer, `mgsm_native_cot_LANG` for a solution in the
//! language of the question, `mgsm_en_cot_LANG` for one in English. The files hold no examples, so there are none (the
//! harness's default, too). The comparison deletes punctuation: 1.5 equals 15, and a German decimal comma does not matter.

use crate::error::Result;
use crate::grade::filter::{FLEXIBLE, Overlook, RegexFilter, exact_match, mgsm_strict};
use crate::python::strip;
use crate::reader::{Record, tsv};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Score, Spec, Task, TaskName};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Direct,
    NativeCot,
    EnglishCot,
}

struct Mgsm {
    spec: Spec,
    style: Style,
    strict: RegexFilter,
    /// "Question:" and what the answer begins with.
    words: (&'static str, &'static str),
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let languages = [
        ("en", "Question:", "Answer:", "Step-by-Step Answer:"),
        ("de", "Frage:", "Antwort:", "Schritt-für-Schritt-Antwort:"),
        ("es", "Pregunta:", "Respuesta:", "Respuesta paso a paso:"),
    ];
    let styles = [(Style::Direct, "direct"), (Style::NativeCot, "native_cot"), (Style::EnglishCot, "en_cot")];
    let mut tasks: Vec<Box<dyn Task>> = Vec::new();
    for (style, name) in styles {
        for (lang, question, answer, steps) in languages {
            let metrics = vec![MetricSpec::mean(Metric::ExactMatch)];
            let file = format!("mgsm/mgsm_{lang}.tsv");
            let mut spec = Spec::new(TaskName::lm_eval(format!("mgsm_{name}_{lang}"), "4"), Kind::Generation, &[&file], metrics);
            spec.lang = Some(lang.to_string());
            spec.target_delimiter = if style == Style::Direct { "" } else { " " };
            let asked = match style {
                Style::Direct => answer,
                Style::NativeCot => steps,
                Style::EnglishCot => "Step-by-Step Answer:",
            };
            let strict = mgsm_strict(if style == Style::EnglishCot { "en" } else { lang });
            tasks.push(Box::new(Mgsm { spec, style, strict, words: (question, asked) }));
        }
    }
    tasks
}

impl Task for Mgsm {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let records = tsv(&self.spec.file(data)?, &["question", "answer_number"])?;
        Ok(Loaded { documents: records.iter().enumerate().map(|(i, r)| self.document(i, r)).collect::<Result<_>>()?, ..Loaded::default() })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let text = answers.first().map_or("", Answer::text);
        let score = |filter, extracted: String| {
            let right = exact_match(&extracted, &document.target, Overlook::MGSM);
            Score::graded(filter, Metric::ExactMatch, extracted, right)
        };
        let flexible = || score("flexible-extract", FLEXIBLE.apply(text));
        Ok(match self.style {
            Style::Direct => vec![score("remove_whitespace", strip(text).to_string()), flexible()],
            Style::NativeCot => vec![score("strict-match", self.strict.apply(text)), flexible()],
            Style::EnglishCot => vec![score("get-answer", self.strict.apply(text))],
        })
    }
}

impl Mgsm {
    fn document(&self, i: usize, record: &Record) -> Result<Document> {
        let (question, asked) = self.words;
        let text = format!("{question} {}\n{asked}", record.text("question")?);
        let target = record.text("answer_number")?.trim().replace(',', "");
        if target.parse::<i64>().is_err() {
            return Err(record.error(format!("field `answer_number`: expected a whole number, found {target:?}")));
        }
        let until = [question, "</s>", "<|im_end|>"].map(String::from).to_vec();
        Ok(Document::new(i.to_string(), text, target, Ask::Generate(Generate { until, ..Generate::default() }), record.value()))
    }
}
