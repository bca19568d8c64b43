//! Settings, the two sets of pictures, and the same words as text documents.
//!
//! `train.parquet` and `heldout.parquet` are [`crate::pictures`]. `text/train` and `text/heldout` hold the captions and the
//! questions without answers as documents: what a tokenizer and a language model need to know the words of, and nothing
//! that could be answered without looking.

use super::ask;
use super::scene::{Content, Kind, Scene};
use super::wording;
use super::{png, raster};
use crate::document::{Document, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::exercises::Language;
use crate::pictures::{Caption, Picture, PictureWriter, Question};
use llm_run::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Pictures made at a time.
const BATCH: usize = 256;
/// Draws after which a kind has no scene on one side; with a fifth held out this does not happen.
const MAX_DRAWS: usize = 10_000;

/// Settings of `llm-data scenes`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScenesConfig {
    /// Everything follows from it.
    pub seed: u64,
    /// Pictures of `train.parquet`.
    pub count_train: usize,
    /// Pictures of `heldout.parquet`.
    pub count_heldout: usize,
    /// Height and width in pixels, 32 to 1024.
    pub image_size: usize,
    /// Languages of captions and questions; every picture has all of them.
    pub langs: Vec<Language>,
    /// Relative frequency of each kind of scene.
    pub shares: Shares,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self { seed: 0, count_train: 8000, count_heldout: 400, image_size: 64, langs: Language::ALL.to_vec(), shares: Shares::default() }
    }
}

/// Relative frequency of each kind of scene; they need not sum to 1, and 0 leaves a kind out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// One to four coloured objects.
    pub shapes: f64,
    /// A printed word.
    pub word: f64,
    /// A bar chart.
    pub chart: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { shapes: 0.7, word: 0.15, chart: 0.15 }
    }
}

impl Shares {
    fn of(&self) -> [(Kind, f64); 3] {
        [(Kind::Shapes, self.shapes), (Kind::Word, self.word), (Kind::Chart, self.chart)]
    }

    /// The kind at quantile `u` of `0..1`.
    fn at(&self, u: f64) -> Kind {
        let mut left = u * self.of().iter().map(|(_, share)| share).sum::<f64>();
        for (kind, share) in self.of() {
            left -= share;
            if left < 0.0 && share > 0.0 {
                return kind;
            }
        }
        self.of().into_iter().rev().find(|(_, share)| *share > 0.0).map_or(Kind::Shapes, |(kind, _)| kind)
    }
}

impl ScenesConfig {
    /// Refuse settings that cannot work, naming the setting.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Config(message));
        if self.langs.is_empty() {
            return refuse("langs is empty; give at least one of en, de, es".into());
        }
        if !(32..=1024).contains(&self.image_size) {
            return refuse(format!("image_size = {} must lie between 32 and 1024", self.image_size));
        }
        let shares = self.shares.of().map(|(_, share)| share);
        if shares.iter().any(|s| !s.is_finite() || *s < 0.0) || shares.iter().sum::<f64>() <= 0.0 {
            return refuse("shares must be 0 or positive, and at least one positive".into());
        }
        Ok(())
    }
}

/// What was made, for the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Pictures.
    pub pictures: usize,
    /// Bytes of their files.
    pub image_bytes: usize,
    /// Captions.
    pub captions: usize,
    /// Questions by kind, all languages.
    pub questions: BTreeMap<String, usize>,
}

/// Picture `index` of a set and what it shows.
fn picture(config: &ScenesConfig, set: &str, index: usize) -> Result<(Scene, Picture)> {
    // Multiples of the golden ratio fill 0..1 evenly: shares are right to a picture or two, at any count.
    let kind = config.shares.at(((index as f64 + 0.5) * 0.618_033_988_749_894_9).fract());
    let seed = Seed(config.seed).stream("scenes").stream(set).at(index as u64);
    let mut rng = seed.stream("scene").rng();
    let scene = (0..MAX_DRAWS)
        .map(|_| Scene::draw(kind, &mut rng))
        .find(|scene| scene.is_heldout(config.seed) == (set == "heldout"))
        .ok_or_else(|| Error::Empty(format!("no {set} scene of kind {kind:?} exists under seed {}; choose another seed", config.seed)))?;
    let canvas = raster::render(&scene, config.image_size, &mut seed.stream("pixels").rng());
    let image = png::encode(config.image_size, &canvas.data).map_err(|e| Error::Empty(format!("cannot encode a PNG: {e}")))?;
    let mut words = seed.stream("words").rng();
    let mut picture = Picture { id: format!("{set}-{index:05}"), image, ..Picture::default() };
    for language in &config.langs {
        let (wording, lang) = (wording::of(*language), language.code().to_string());
        let texts = wording.captions(&scene, &mut words);
        picture.captions.extend(texts.into_iter().map(|text| Caption { lang: lang.clone(), text }));
        for (ask, answer) in ask::questions(&scene, &mut words) {
            let question = wording.question(ask, &mut words);
            picture.questions.push(Question { lang: lang.clone(), kind: ask.kind().into(), question, answer: wording.answer(answer) });
        }
    }
    Ok((scene, picture))
}

/// One document per picture and language.
fn documents(picture: &Picture, content: &Content, langs: &[Language]) -> Vec<Document> {
    let kind = match content {
        Content::Shapes(_) => "shapes",
        Content::Word { .. } => "word",
        Content::Chart(_) => "chart",
    };
    let document = |language: &Language| {
        let lang = language.code();
        let captions = picture.captions.iter().filter(|c| c.lang == lang).map(|c| c.text.as_str());
        let questions = picture.questions.iter().filter(|q| q.lang == lang).map(|q| q.question.as_str());
        Document {
            id: format!("scenes/{}/{lang}", picture.id),
            text: captions.chain(questions).collect::<Vec<_>>().join("\n"),
            source: format!("scenes/{kind}"),
            lang: Some(lang.to_string()),
            domain: "caption".to_string(),
            ..Document::default()
        }
    };
    langs.iter().map(document).collect()
}

/// Write both sets below `out`; what each holds comes back by its name.
pub fn write(config: &ScenesConfig, out: &Path) -> Result<BTreeMap<&'static str, Summary>> {
    config.validate()?;
    let mut summaries = BTreeMap::new();
    for (set, count) in [("train", config.count_train), ("heldout", config.count_heldout)] {
        let mut file = PictureWriter::create(&out.join(format!("{set}.parquet")))?;
        let mut text = DocumentWriter::create(&out.join("text").join(set).join("documents"))?;
        let mut summary = Summary::default();
        for start in (0..count).step_by(BATCH) {
            check_interrupt()?;
            let range = start..(start + BATCH).min(count);
            let made: Vec<(Scene, Picture)> = range.into_par_iter().map(|i| picture(config, set, i)).collect::<Result<_>>()?;
            for (scene, picture) in made {
                summary.pictures += 1;
                summary.image_bytes += picture.image.len();
                summary.captions += picture.captions.len();
                for question in &picture.questions {
                    *summary.questions.entry(question.kind.clone()).or_default() += 1;
                }
                documents(&picture, &scene.content, &config.langs).into_iter().try_for_each(|d| text.push(d))?;
                file.push(picture)?;
            }
        }
        text.finish()?;
        file.finish()?;
        summaries.insert(set, summary);
    }
    Ok(summaries)
}
