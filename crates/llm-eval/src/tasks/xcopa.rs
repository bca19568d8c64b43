//! XCOPA (Ponti et al. 2020): cause or effect of a premise, in eleven languages.
//!
//! lm-evaluation-harness `xcopa_LANG`, version 1: the premise without its last character and a connector; the first letter of
//! each choice made small. There is no German. Few-shot examples come from the validation file.

use crate::error::Result;
use crate::python::strip;
use crate::reader::{Record, jsonl};
use crate::results::Metric;
use crate::task::{Document, Kind, Loaded, MetricSpec, Sampler, Shots, Spec, Task, TaskName};
use std::path::Path;

/// Language, "because", "therefore".
const LANGUAGES: [(&str, &str, &str); 11] = [
    ("et", "sest", "seetõttu"),
    ("ht", "poukisa", "donk sa"),
    ("id", "karena", "maka"),
    ("it", "perché", "quindi"),
    ("qu", "imataq", "chaymi"),
    ("sw", "kwa sababu", "kwa hiyo"),
    ("ta", "காரணமாக", "எனவே"),
    ("th", "เพราะ", "ดังนั้น"),
    ("tr", "çünkü", "bu yüzden"),
    ("vi", "bởi vì", "vì vậy"),
    ("zh", "因为", "所以"),
];

struct Xcopa {
    spec: Spec,
    lang: &'static str,
    cause: &'static str,
    effect: &'static str,
}

/// The family.
pub fn tasks() -> Vec<Box<dyn Task>> {
    let task = |(lang, cause, effect): (&'static str, &'static str, &'static str)| -> Box<dyn Task> {
        let file = format!("xcopa/{lang}/test.{lang}.jsonl");
        let name = TaskName::lm_eval(format!("xcopa_{lang}"), "1");
        let mut spec = Spec::new(name, Kind::MultipleChoice, &[&file], vec![MetricSpec::mean(Metric::Acc)]);
        spec.group = Some(TaskName::lm_eval("xcopa", "1"));
        spec.lang = Some(lang.to_string());
        Box::new(Xcopa { spec, lang, cause, effect })
    };
    LANGUAGES.into_iter().map(task).collect()
}

impl Task for Xcopa {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn load(&self, data: &Path) -> Result<Loaded> {
        let read = |path: &Path| jsonl(path)?.iter().enumerate().map(|(i, r)| self.document(i, r)).collect::<Result<Vec<_>>>();
        let documents = read(&self.spec.file(data)?)?;
        let validation = data.join(format!("xcopa/{0}/val.{0}.jsonl", self.lang));
        match validation.exists() {
            true => Ok(Loaded { documents, shots: Shots { pool: read(&validation)?, sampler: Sampler::Random, exclude_self: false } }),
            false => Ok(Loaded::evaluated_only(documents)),
        }
    }
}

impl Xcopa {
    fn document(&self, i: usize, record: &Record) -> Result<Document> {
        let connector = match record.text("question")? {
            "cause" => self.cause,
            "effect" => self.effect,
            other => return Err(record.error(format!("field `question`: expected `cause` or `effect`, found `{other}`"))),
        };
        let mut premise = strip(record.text("premise")?).chars();
        premise.next_back();
        let choice = |name: &str| -> Result<String> {
            let mut chars = record.text(name)?.chars();
            let first = chars.next().ok_or_else(|| record.error(format!("field `{name}` is empty")))?;
            Ok(first.to_lowercase().chain(chars).collect())
        };
        let choices = vec![choice("choice1")?, choice("choice2")?];
        let gold = record.place("label", 2)?;
        Ok(Document::choice(i.to_string(), format!("{} {connector}", premise.as_str()), choices, gold, record.value()))
    }
}
