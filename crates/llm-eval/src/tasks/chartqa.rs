//! ChartQA (Masry et al. 2022): questions about charts.
//!
//! lmms-eval `chartqa`, version 0: the picture, the question, "Answer the question with a single word.", 16 tokens; relaxed
//! accuracy (numbers within 5 %) over all questions, and over those written by people and by a model where the file says
//! which is which (`type`).

use crate::error::Result;
use crate::grade::chart::relaxed;
use crate::python::strip;
use crate::reader::{Record, json};
use crate::results::Metric;
use crate::task::{Answer, Ask, Document, Generate, Kind, Loaded, MetricSpec, Score, Spec, Task, TaskName};
use std::path::{Component, Path};

const FOLDER: &str = "vlm/chartqa";
const FILES: &[&str] = &["vlm/chartqa/test.json", "vlm/chartqa/test_sample.json"];

struct ChartQa(Spec);

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let name = TaskName { task: "chartqa".to_string(), harness: "lmms-eval", version: "0" };
    vec![Box::new(ChartQa(Spec::new(name, Kind::Generation, FILES, vec![MetricSpec::mean(Metric::RelaxedAccuracy)])))]
}

impl Task for ChartQa {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let pictures = data.join(FOLDER).join("png");
        let records = json(&self.0.file(data)?, None)?;
        let documents = records.iter().enumerate().map(|(i, r)| document(i, r, &pictures)).collect::<Result<_>>()?;
        Ok(Loaded { documents, ..Loaded::default() })
    }

    fn score(&self, document: &Document, answers: &[Answer]) -> Result<Vec<Score>> {
        let answer = strip(answers.first().map_or("", Answer::text)).to_string();
        let right = relaxed(&answer, &document.target);
        let score = |filter| Score::graded(filter, Metric::RelaxedAccuracy, answer.clone(), right);
        let part = match document.record.get("type").and_then(|t| t.as_str()) {
            Some("human_test") => Some("human"),
            Some(_) => Some("augmented"),
            None => None,
        };
        Ok(std::iter::once(score("none")).chain(part.map(score)).collect())
    }
}

fn document(i: usize, record: &Record, pictures: &Path) -> Result<Document> {
    let name = Path::new(record.text("imgname")?);
    let plain = name.components().all(|c| matches!(c, Component::Normal(_))) && name.components().count() == 1;
    let picture = pictures.join(name);
    if !plain || !picture.is_file() {
        return Err(record.error(format!("field `imgname`: expected the name of a file in {}, found {}", pictures.display(), name.display())));
    }
    let text = format!("{}\nAnswer the question with a single word.", record.text("query")?);
    let ask = Ask::Generate(Generate { until: Vec::new(), max_gen_toks: 16, ..Generate::default() });
    let mut document = Document::new(i.to_string(), text, record.text_or_number("label")?, ask, record.value());
    document.images.push(picture);
    Ok(document)
}
