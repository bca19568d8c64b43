//! Settings, the sets of pictures, and the same words as text documents.
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
/// The set of pictures with objects everywhere.
const CROWDED: &str = "crowded";
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
    /// Pictures of `crowded.parquet`: as in training, but with up to nine objects of any kind. Practice is harder than the exam: where
    /// there is something everywhere, guessing does not help.
    pub count_crowded: usize,
    /// Height and width in pixels, 32 to 1024.
    pub image_size: usize,
    /// Languages of captions and questions; every picture has all of them.
    pub langs: Vec<Language>,
    /// Relative frequency of each kind of scene.
    pub shares: Shares,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        let (langs, shares) = (Language::ALL.to_vec(), Shares::default());
        Self { seed: 0, count_train: 8000, count_heldout: 400, count_crowded: 0, image_size: 64, langs, shares }
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
    let kind = match config.shares.at(((index as f64 + 0.5) * 0.618_033_988_749_894_9).fract()) {
        Kind::Shapes if set == CROWDED => Kind::Crowd,
        kind => kind,
    };
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
            let reasoning = wording.reasoning(ask, scene.objects());
            let (kind, answer) = (ask.kind().into(), wording.answer(answer));
            picture.questions.push(Question { lang: lang.clone(), kind, question, answer, reasoning });
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

/// Write the sets below `out`; what each holds comes back by its name.
pub fn write(config: &ScenesConfig, out: &Path) -> Result<BTreeMap<&'static str, Summary>> {
    config.validate()?;
    let mut summaries = BTreeMap::new();
    let sets = [("train", config.count_train), ("heldout", config.count_heldout), (CROWDED, config.count_crowded)];
    for (set, count) in sets.into_iter().filter(|(set, count)| *set != CROWDED || *count > 0) {
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

#[cfg(test)]
mod tests {
    use super::super::scene::Cell;
    use super::*;
    use std::collections::BTreeSet;

    fn some(config: &ScenesConfig, set: &str, count: usize) -> Vec<(Scene, Picture)> {
        (0..count).map(|i| picture(config, set, i).unwrap()).collect()
    }

    #[test]
    fn no_heldout_scene_is_a_training_scene() {
        let config = ScenesConfig { image_size: 32, seed: 7, ..ScenesConfig::default() };
        let keys = |set| some(&config, set, 600).into_iter().map(|(scene, _)| scene.key()).collect::<BTreeSet<_>>();
        let (train, heldout) = (keys("train"), keys("heldout"));
        assert!(train.is_disjoint(&heldout) && keys(CROWDED).is_disjoint(&heldout));
        assert!(heldout.len() > 300, "only {} different scenes are held out", heldout.len());
    }

    #[test]
    fn a_picture_depends_on_seed_and_index_alone() {
        let config = ScenesConfig { count_train: 300, count_heldout: 5, count_crowded: 40, ..ScenesConfig::default() };
        let dir = tempfile::tempdir().unwrap();
        let summary = write(&config, dir.path()).unwrap();
        let all = crate::pictures::read(&dir.path().join("train.parquet")).unwrap();
        assert_eq!((all.len(), summary["train"].pictures), (300, 300));
        for i in [0, 7, 299] {
            assert_eq!(all[i], picture(&ScenesConfig::default(), "train", i).unwrap().1, "more pictures must not change picture {i}");
        }
        let crowded = crate::pictures::read(&dir.path().join("crowded.parquet")).unwrap();
        assert_eq!(crowded[39], picture(&ScenesConfig::default(), CROWDED, 39).unwrap().1);
        assert_ne!(all[7].image, picture(&ScenesConfig { seed: 1, ..config }, "train", 7).unwrap().1.image);
        let texts = crate::document::read_all(&dir.path().join("text/heldout")).unwrap();
        assert_eq!(texts.len(), 15, "a document per held-out picture and language");
    }

    /// The pixels say what the description says: counted from the picture, an object's colour is where it should be.
    #[test]
    fn objects_are_drawn_where_they_are_said_to_be() {
        let config = ScenesConfig { shares: Shares { shapes: 1.0, word: 0.0, chart: 0.0 }, ..ScenesConfig::default() };
        for i in 0..100 {
            let (scene, _) = picture(&config, "train", i).unwrap();
            let canvas = raster::render(&scene, 64, &mut Seed(i as u64).rng());
            let Content::Shapes(objects) = &scene.content else { panic!("shares ask for shapes only") };
            let corner: Vec<i64> = canvas.data[..3].iter().map(|v| i64::from(*v)).collect();
            // Pixels that are clearly not background, per place of the grid.
            let mut painted = [0; 9];
            for (p, pixel) in canvas.data.chunks_exact(3).enumerate() {
                let far: i64 = pixel.iter().zip(&corner).map(|(a, b)| (i64::from(*a) - b).abs()).sum();
                painted[p / 64 * 3 / 64 * 3 + p % 64 * 3 / 64] += usize::from(far > 90);
            }
            if objects.iter().any(|o| o.cell == Cell(0)) {
                continue; // the corner may lie in the object
            }
            for (cell, pixels) in painted.into_iter().enumerate() {
                let expected = objects.iter().any(|o| o.cell == Cell(cell));
                assert_eq!(pixels > 12, expected, "picture {i}, place {cell}: {pixels} pixels");
            }
        }
    }

    #[test]
    fn every_language_gives_the_same_facts() {
        let config = ScenesConfig { image_size: 32, ..ScenesConfig::default() };
        for (scene, picture) in some(&config, "train", 200) {
            for language in Language::ALL {
                let own: Vec<&Question> = picture.questions.iter().filter(|q| q.lang == language.code()).collect();
                assert!(own.len() >= 2 && own.iter().all(|q| !q.question.contains('{') && !q.answer.is_empty()), "{own:?}");
                if let Content::Shapes(objects) = &scene.content {
                    assert_eq!(own[0].kind, "count");
                    assert_eq!(own[0].answer, objects.len().to_string());
                }
            }
            assert!(picture.captions.iter().all(|c| c.text.ends_with('.') && !c.text.contains('{')), "{:?}", picture.captions);
        }
    }

    /// If this fails, a description leaves a place out or puts something else there, or a model is taught to look where it is not asked to.
    #[test]
    fn a_description_has_all_places_and_a_question_what_is_to_be_seen() {
        let config = ScenesConfig { image_size: 32, shares: Shares { shapes: 1.0, word: 0.0, chart: 0.0 }, ..ScenesConfig::default() };
        let (nothing, of_shapes) = ([("en", "nothing"), ("de", "nichts"), ("es", "nada")], 6);
        let mut by_place = 0;
        for (scene, picture) in some(&config, "train", 200) {
            let Content::Shapes(objects) = &scene.content else { panic!("shares ask for shapes only") };
            for (lang, nothing) in nothing {
                let captions: Vec<&str> = picture.captions.iter().filter(|c| c.lang == lang).map(|c| c.text.as_str()).collect();
                assert_eq!(captions.len(), of_shapes);
                assert_eq!(captions[0].matches(nothing).count(), 9 - objects.len(), "{}", captions[0]);
                let wording = wording::of(language(lang));
                for question in picture.questions.iter().filter(|q| q.lang == lang && q.kind != "count") {
                    let said = format!("{} {}", captions[0], captions[1]).to_lowercase();
                    let phrases: Vec<&str> = question.reasoning.split(", ").collect();
                    assert!(phrases.iter().all(|phrase| said.contains(&phrase.to_lowercase())), "{said}: {question:?}");
                    let is = |o: &&super::super::scene::Object, phrase: &str| [wording.there(o), wording.here(o)].contains(&phrase.to_string());
                    let found: Vec<_> = phrases.iter().map(|phrase| objects.iter().find(|o| is(o, phrase)).expect("of the scene")).collect();
                    by_place += usize::from(question.reasoning == wording.there(found[0]));
                    let (left, above) = match found[..] {
                        [a, b] => (a.cell.column() < b.cell.column(), a.cell.row() < b.cell.row()),
                        _ => (false, false),
                    };
                    use ask::Answer;
                    let (colour, shape, place) = (Answer::Colour(found[0].colour), Answer::Shape(found[0].shape), Answer::Place(found[0].cell));
                    let side = if left { Answer::Left } else { Answer::Right };
                    let answers = match (question.kind.as_str(), found.len()) {
                        ("position", 2) => vec![side, if above { Answer::Above } else { Answer::Below }],
                        ("position", _) => vec![place],
                        _ => vec![colour, shape],
                    };
                    assert!(answers.into_iter().any(|a| wording.answer(a) == question.answer), "{question:?}");
                }
            }
        }
        assert!(by_place > 200, "only {by_place} questions name a place");
    }

    fn language(code: &str) -> Language {
        Language::ALL.into_iter().find(|l| l.code() == code).unwrap()
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let message = |config: ScenesConfig| config.validate().unwrap_err().to_string();
        assert!(message(ScenesConfig { langs: Vec::new(), ..ScenesConfig::default() }).contains("langs"));
        assert!(message(ScenesConfig { image_size: 8, ..ScenesConfig::default() }).contains("image_size = 8"));
        assert!(message(ScenesConfig { shares: Shares { shapes: -1.0, word: 0.0, chart: 0.0 }, ..ScenesConfig::default() }).contains("shares"));
    }
}
