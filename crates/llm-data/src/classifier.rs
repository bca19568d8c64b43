//! Text classifiers: trained on labelled documents, calibrated for a wanted precision, recall or share, applied as a step.
//!
//! The model is fastText's (see [`crate::fasttext`]), so that models from elsewhere serve as well: quality, educational value,
//! toxicity, domain. Long documents are judged by their beginning, as all such classifiers in use are: [`ClassifierConfig::max_chars`].

use crate::document::Document;
use crate::error::{Error, Result, io, record};
use crate::fasttext::{Curve, Example, Model, Operating, QuantiseConfig, Target, TrainConfig, train};
use crate::step::{Rule, Step, Trace, Verdict};
use llm_run::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where labelled texts come from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelledInput {
    /// Documents of a stage, or a JSONL file.
    pub path: PathBuf,
    /// Label of all of them; empty: each JSONL row has its own in `label_field`.
    pub label: String,
    /// JSONL field of the text.
    pub text_field: String,
    /// JSONL field of the label: a word, a number or true/false.
    pub label_field: String,
}

/// Settings of `llm-data train-classifier`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainClassifierConfig {
    /// Labelled texts.
    pub inputs: Vec<LabelledInput>,
    /// The label whose probability is the score.
    pub positive: String,
    /// Seed of the split and of the training.
    pub seed: u64,
    /// Share of the documents that choose the threshold.
    pub calibration: f64,
    /// Share of the documents that measure the result.
    pub test: f64,
    /// What the threshold is chosen for: `{ precision = 0.9 }`, `{ recall = 0.9 }`, `{ keep = 0.1 }`.
    pub target: Target,
    /// Characters of each document that are seen; 0: all.
    pub max_chars: usize,
    /// Lower-case the text first, and in use.
    pub lowercase: bool,
    /// The model.
    pub model: TrainConfig,
    /// Also write a quantised model.
    pub quantise: Option<QuantiseConfig>,
}

impl Default for TrainClassifierConfig {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            positive: "positive".into(),
            seed: 42,
            calibration: 0.1,
            test: 0.1,
            target: Target::Recall(0.9),
            max_chars: 10_000,
            lowercase: false,
            model: TrainConfig::default(),
            quantise: None,
        }
    }
}

/// What training found; `classifier.json` beside the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    /// File name of the model.
    pub model: String,
    /// The label whose probability is the score.
    pub positive: String,
    /// Chosen on the calibration part.
    pub threshold: f32,
    /// Characters seen.
    pub max_chars: usize,
    /// Text is lower-cased first.
    pub lowercase: bool,
    /// Documents per label: training, calibration, test.
    pub documents: BTreeMap<String, [usize; 3]>,
    /// Area under the ROC curve on the test part.
    pub auc: Option<f64>,
    /// The threshold on the calibration part.
    pub calibrated: Operating,
    /// The threshold on the test part.
    pub tested: Operating,
    /// Precision and recall over thresholds on the test part.
    pub table: Vec<Operating>,
}

/// Read labelled texts as `(id, label, text)`.
pub fn read_labelled(input: &LabelledInput) -> Result<Vec<(String, String, String)>> {
    let mut out = Vec::new();
    let is_jsonl = input.path.extension().is_some_and(|e| e == "jsonl" || e == "json");
    if !is_jsonl {
        if input.label.is_empty() {
            return Err(Error::Config(format!("{}: documents need a `label` in their entry of inputs", input.path.display())));
        }
        for document in crate::document::read_all(&input.path)? {
            out.push((document.id, input.label.clone(), document.text));
        }
        return Ok(out);
    }
    let or = |s: &str, default: &'static str| if s.is_empty() { default.to_string() } else { s.to_string() };
    let (text_field, label_field) = (or(&input.text_field, "text"), or(&input.label_field, "label"));
    let bytes = std::fs::read(&input.path).map_err(io(&input.path, "cannot read"))?;
    for (number, line) in (1..).zip(bytes.split(|b| *b == b'\n')).filter(|(_, l)| !l.trim_ascii().is_empty()) {
        let wrong = |message: String| record(&input.path, format!("line {number}"), message);
        let row: serde_json::Value = serde_json::from_slice(line).map_err(|e| wrong(format!("not JSON: {e}")))?;
        let text = row.get(&text_field).and_then(|v| v.as_str()).ok_or_else(|| wrong(format!("no text in field `{text_field}`")))?;
        let label = match (input.label.as_str(), row.get(&label_field)) {
            ("", Some(serde_json::Value::String(s))) => s.clone(),
            ("", Some(v @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)))) => v.to_string(),
            ("", _) => return Err(wrong(format!("no label in field `{label_field}`: expected a word, a number or true/false"))),
            (label, _) => label.to_string(),
        };
        out.push((format!("{}#{number}", input.path.display()), label, text.to_string()));
    }
    Ok(out)
}

/// What the model sees of a text.
fn seen(text: &str, max_chars: usize, lowercase: bool) -> String {
    let end = if max_chars == 0 { text.len() } else { text.char_indices().nth(max_chars).map_or(text.len(), |(i, _)| i) };
    if lowercase { text[..end].to_lowercase() } else { text[..end].to_string() }
}

/// Train, calibrate and test; writes `model.bin`, perhaps `model.ftz`, and `classifier.json` into `out`.
pub fn train_classifier(config: &TrainClassifierConfig, out: &Path) -> Result<Description> {
    if config.inputs.is_empty() {
        return Err(Error::Config("train-classifier: no inputs; give e.g. --set 'inputs=[{path=\"good\", label=\"positive\"}, …]'".into()));
    }
    let valid = |share: f64| (0.0..1.0).contains(&share);
    if !valid(config.calibration) || !valid(config.test) || config.calibration + config.test >= 1.0 {
        return Err(Error::Config(format!(
            "calibration {} and test {}: expected shares that leave some to train on",
            config.calibration, config.test
        )));
    }
    let seed = Seed(config.seed).stream("classifier").stream("split");
    let mut parts: [Vec<Example>; 3] = Default::default();
    let mut documents: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for input in &config.inputs {
        for (id, label, text) in read_labelled(input)? {
            // The same text never stands on both sides.
            let at = seed.stream(&text).rng().uniform();
            let part = if at < config.test { 2 } else { usize::from(at < config.test + config.calibration) };
            let label = label.replace(|c: char| c.is_ascii_whitespace() || c == '\0', "_");
            if label.is_empty() {
                return Err(Error::Config(format!("{id}: the label is empty")));
            }
            documents.entry(label.clone()).or_default()[part] += 1;
            parts[part].push(Example { label, text: seen(&text, config.max_chars, config.lowercase) });
        }
    }
    if !documents.contains_key(&config.positive) {
        let known: Vec<&str> = documents.keys().map(String::as_str).collect();
        return Err(Error::Config(format!("positive is `{}`, but the labels are {}", config.positive, known.join(", "))));
    }
    let [training, calibration, test] = parts;
    let model = train(&training, &config.model, config.seed)?;
    let curve =
        |part: &[Example]| Curve::new(part.par_iter().map(|e| (model.probability(&e.text, &config.positive), e.label == config.positive)).collect());
    // Without a part of its own the threshold is chosen on what was trained on, which flatters it.
    let calibrated = curve(if calibration.is_empty() { &training } else { &calibration });
    let tested = curve(if test.is_empty() { &training } else { &test });
    let chosen = calibrated.threshold(config.target).ok_or_else(|| {
        Error::Empty(format!(
            "no threshold reaches {:?} on the {} calibration documents; lower the target or give more documents",
            config.target,
            calibration.len()
        ))
    })?;
    model.save(&out.join("model.bin"))?;
    if let Some(quantise) = &config.quantise {
        model.quantise(quantise)?.save(&out.join("model.ftz"))?;
    }
    let description = Description {
        model: "model.bin".into(),
        positive: config.positive.clone(),
        threshold: chosen.threshold,
        max_chars: config.max_chars,
        lowercase: config.lowercase,
        documents,
        auc: tested.auc(),
        calibrated: chosen,
        tested: tested.at(chosen.threshold),
        table: tested.table(20),
    };
    let text = serde_json::to_string_pretty(&description).unwrap_or_default() + "\n";
    llm_run::atomic::write(out.join("classifier.json"), text)?;
    Ok(description)
}

/// Settings of the step: any fastText model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Name of the step in funnels: `quality`, `toxicity`, `educational`.
    pub name: String,
    /// Output folder of `train-classifier`, or a fastText model.
    pub model: PathBuf,
    /// The label whose probability is the score; empty: what the folder says.
    pub label: String,
    /// Least score that passes.
    pub min: Option<f32>,
    /// Greatest score that passes. With neither, the folder's threshold is the least score.
    pub max: Option<f32>,
    /// Characters seen of each document; a folder has its own.
    pub max_chars: usize,
    /// Documents of other languages pass unmeasured; empty: all are measured.
    pub languages: Vec<String>,
    /// Keep the score as the document's `quality`.
    pub set_quality: bool,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            name: "classifier".into(),
            model: PathBuf::new(),
            label: String::new(),
            min: None,
            max: None,
            max_chars: 10_000,
            languages: Vec::new(),
            set_quality: false,
        }
    }
}

/// The step.
#[derive(Debug)]
pub struct ClassifierStep {
    model: Model,
    lowercase: bool,
    config: ClassifierConfig,
}

impl ClassifierStep {
    /// Open the model.
    pub fn new(mut config: ClassifierConfig) -> Result<Self> {
        let (mut path, mut lowercase) = (config.model.clone(), false);
        if path.is_dir() {
            let file = path.join("classifier.json");
            let text = std::fs::read_to_string(&file).map_err(io(&file, "cannot read"))?;
            let found: Description = serde_json::from_str(&text)
                .map_err(|e| Error::Format { path: file.clone(), message: format!("{e}; run `llm-data train-classifier` again") })?;
            if found.model.contains(['/', '\\']) {
                return Err(Error::Format { path: file, message: format!("model `{}`: expected the name of a file in this folder", found.model) });
            }
            path.push(&found.model);
            if config.label.is_empty() {
                config.label = found.positive;
            }
            if config.min.is_none() && config.max.is_none() {
                config.min = Some(found.threshold);
            }
            (config.max_chars, lowercase) = (found.max_chars, found.lowercase);
        }
        let model = Model::open(&path)?;
        let labels = model.labels();
        if !labels.contains(&config.label) {
            let known: Vec<&str> = labels.iter().take(20).map(String::as_str).collect();
            return Err(Error::Config(format!(
                "{}: label `{}` is not in {}, which has {}",
                config.name,
                config.label,
                path.display(),
                known.join(", ")
            )));
        }
        if config.min.is_none() && config.max.is_none() && !config.set_quality {
            return Err(Error::Config(format!("{}: neither min nor max nor set_quality is set, so the step would do nothing", config.name)));
        }
        Ok(Self { model, lowercase, config })
    }

    /// The score of a text, 0 to 1.
    pub fn score(&self, text: &str) -> f32 {
        self.model.probability(&seen(text, self.config.max_chars, self.lowercase), &self.config.label)
    }
}

impl Step for ClassifierStep {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn rules(&self) -> Vec<Rule> {
        let config = &self.config;
        let signal = format!("{}/{}", config.name, config.label);
        vec![Rule::new(config.name.as_str(), signal, config.min.map(Into::into), config.max.map(Into::into))]
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let config = &self.config;
        let lang = document.lang.as_deref().unwrap_or_default();
        if document.is_code() || !(config.languages.is_empty() || config.languages.iter().any(|l| l == lang)) {
            return Ok(Verdict::Keep);
        }
        let score = self.score(&document.text);
        if config.set_quality {
            document.quality = Some(score);
        }
        trace.signal(format!("{}/{}", config.name, config.label), score.into(), config.min.map(Into::into), config.max.map(Into::into));
        let rounded = |x: f32| (f64::from(x) * 1e4).round() / 1e4;
        let broken = config.min.filter(|min| score < *min).or(config.max.filter(|max| score > *max));
        Ok(broken.map_or(Verdict::Keep, |limit| Verdict::drop(config.name.as_str(), rounded(score), rounded(limit))))
    }
}
