//! MMLU (Hendrycks et al. 2021): exam questions of 57 subjects with four answers.
//!
//! lm-evaluation-harness `mmlu_SUBJECT`, version 1, and the group `mmlu`, version 2: the mean over the subjects that are there,
//! weighted by their questions. The model is asked for one of the letters ` A` to ` D`. The harness shows no examples unless
//! told; the paper's number is `num_fewshot=5`, the first five of the development file.

use crate::error::Result;
use crate::python::strip;
use crate::reader::{Record, csv};
use crate::results::Metric;
use crate::task::{Document, Kind, Loaded, MetricSpec, Sampler, Shots, Spec, Task, TaskName};
use std::path::Path;

const SUBJECTS: &str = "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry \
    college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics \
    electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry \
    high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics \
    high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology \
    high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law \
    jurisprudence logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes \
    moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine \
    professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions";

const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

struct Mmlu {
    spec: Spec,
    subject: &'static str,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let task = |subject: &'static str| -> Box<dyn Task> {
        let name = TaskName::lm_eval(format!("mmlu_{subject}"), "1");
        let file = format!("mmlu/test/{subject}_test.csv");
        let mut spec = Spec::new(name, Kind::MultipleChoice, &[&file], vec![MetricSpec::mean(Metric::Acc)]);
        spec.group = Some(TaskName::lm_eval("mmlu", "2"));
        Box::new(Mmlu { spec, subject })
    };
    SUBJECTS.split_whitespace().map(task).collect()
}

impl Task for Mmlu {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| csv(path, Some(&COLUMNS))?.iter().enumerate().map(|(i, r)| self.document(i, r)).collect::<Result<Vec<_>>>();
        let documents = read(&self.spec.file(data)?)?;
        let development = data.join(format!("mmlu/dev/{}_dev.csv", self.subject));
        let pool = if development.exists() { read(&development)? } else { Vec::new() };
        Ok(Loaded { documents, shots: Shots { pool, sampler: Sampler::FirstN, exclude_self: false } })
    }
}

impl Mmlu {
    fn document(&self, i: usize, record: &Record) -> Result<Document> {
        let mut text = strip(record.text("question")?).to_string();
        for letter in LETTERS {
            text.push_str(&format!("\n{letter}. {}", record.text(letter)?));
        }
        text.push_str("\nAnswer:");
        let answer = record.text("answer")?.trim();
        let gold = LETTERS.iter().position(|l| *l == answer);
        let gold = gold.ok_or_else(|| record.error(format!("field `answer`: expected A, B, C or D, found {answer:?}")))?;
        let mut document = Document::choice(i.to_string(), text, LETTERS.map(String::from).to_vec(), gold, record.value());
        let subject = self.subject.replace('_', " ");
        document.description = format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
        Ok(document)
    }
}
