//! Exact match on questions about held-out pictures, by kind of question and by language.
//!
//! The prompt is one user message, the image before the question, rendered by the model's own chat template with a generation
//! prompt; answers are greedy and come from the engine that serves. Grading compares the whole answer (what stands between
//! `<think>` and `</think>` left out) with the gold answer and its other ways of saying it (`llm_data::scenes::accepted`:
//! number words, genders, articles); case, blanks and a final dot do not count.
//!
//! Beside each value stands `majority`: what a model would reach that never looks and always gives the most frequent
//! gold answer of the question's kind and language.

use crate::documents::hash_order;
use crate::error::{Error, Result};
use crate::exercises::{finish_reason, split_answer};
use crate::model::{LanguageModel, Local};
use crate::results::{Group, Metric, ShownSample, TaskResult};
use crate::samples::{Sample, slices};
use crate::stats::wilson95;
use llm_data::pictures::{Picture, Question};
use llm_data::scenes::accepted;
use llm_infer::{Image, Request, Sampling};
use llm_run::{Progress, Seed};
use llm_tokenizer::Message;
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Task name.
pub const TASK: &str = "pictures";
/// Folder of the images that [`ShownSample`]s are about: `ID.png` for the samples `ID#N`.
pub const FOLDER: &str = "pictures";

/// One question about one picture.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    picture: &'a Picture,
    /// Place among the picture's questions.
    number: usize,
    question: &'a Question,
}

impl Asked<'_> {
    fn id(&self) -> String {
        format!("{}#{}", self.picture.id, self.number)
    }

    fn hash(&self) -> String {
        let image = llm_run::hash::bytes(&self.picture.image);
        llm_run::hash::bytes(json!([image, self.question.question, self.question.answer]).to_string().as_bytes())
    }
}

/// Read held-out pictures; without any question it is an error.
pub fn read(path: &Path) -> Result<Vec<Picture>> {
    let pictures = llm_data::pictures::read(path)?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = pictures.iter().find(|p| !seen.insert(p.id.as_str())) {
        return Err(Error::Config(format!("{}: picture id `{}` appears twice; ids must be unique", path.display(), twice.id)));
    }
    if let Some(picture) = pictures.iter().find(|p| p.questions.iter().any(|q| plain(&q.answer).is_empty())) {
        let message = format!("{}: picture `{}` has a question without an answer, which cannot be graded", path.display(), picture.id);
        return Err(Error::Config(message));
    }
    if pictures.iter().all(|p| p.questions.is_empty()) {
        return Err(Error::Empty { path: path.to_path_buf(), what: "holds no questions about pictures; run `llm-data scenes` first" });
    }
    Ok(pictures)
}

/// All questions, or under a `limit` those first in hash order; in the order of the pictures either way.
pub fn questions(pictures: &[Picture], limit: Option<usize>, seed: Seed) -> Vec<Asked<'_>> {
    let of = |picture| move |(number, question)| Asked { picture, number, question };
    let mut asked: Vec<Asked<'_>> = pictures.iter().flat_map(|p| p.questions.iter().enumerate().map(of(p))).collect();
    if let Some(limit) = limit {
        let mut order: Vec<usize> = (0..asked.len()).collect();
        order.sort_by_key(|&i| hash_order(seed, &asked[i].id()));
        let kept: BTreeSet<usize> = order.into_iter().take(limit).collect();
        let mut place = 0..;
        asked.retain(|_| place.next().is_some_and(|i| kept.contains(&i)));
    }
    asked
}

/// Ask a model folder.
pub fn ask(model: &Local, asked: &[Asked<'_>], max_tokens: usize) -> Result<Vec<Sample>> {
    let eyes = model.model().eyes()?;
    ask_with(model, &|file| Ok(eyes.image(file)?), eyes.tokens_per_image(), asked, max_tokens)
}

/// Ask any model; `image` makes an image ready for it, which takes `tokens_per_image` of the context. One sample per question, in order.
pub fn ask_with(
    model: &dyn LanguageModel,
    image: &dyn Fn(&[u8]) -> Result<Image>,
    tokens_per_image: usize,
    asked: &[Asked<'_>],
    max_tokens: usize,
) -> Result<Vec<Sample>> {
    let tokenizer = model.tokenizer();
    let stop_ids: Vec<u32> = tokenizer.special_id("<|eot_id|>").into_iter().chain(tokenizer.eos_id()).collect();
    let mut requests: Vec<Request> = Vec::with_capacity(asked.len());
    let mut last: Option<(&str, Image)> = None;
    for item in asked {
        let message = Message::new("user", item.question.question.as_str()).with_images(1);
        let prompt = tokenizer.chat_ids(&[message], true)?;
        let length = prompt.len() + tokens_per_image.saturating_sub(1);
        let room = model.context_length().saturating_sub(length);
        if room == 0 {
            let message = format!("question `{}` has {length} prompt tokens and the context holds {}", item.id(), model.context_length());
            return Err(Error::Model { model: "context".to_string(), message });
        }
        let seen = match last.take() {
            Some((id, seen)) if id == item.picture.id => seen,
            _ => image(&item.picture.image)?,
        };
        let sampling = Sampling { temperature: 0.0, max_tokens: max_tokens.min(room), stop_ids: stop_ids.clone(), ..Sampling::default() };
        requests.push(Request::new(prompt, sampling).with_images(vec![seen.clone()]));
        last = Some((&item.picture.id, seen));
    }
    let prompts: Vec<Vec<u32>> = requests.iter().map(|r| r.prompt.clone()).collect();
    let mut progress = Progress::new(TASK, asked.len() as u64, "questions");
    let completions = model.generate(requests, &mut |_, _| {
        progress.inc(1);
        Ok(())
    })?;
    let samples: Vec<Sample> = asked
        .iter()
        .zip(prompts)
        .zip(completions)
        .map(|((item, prompt), completion)| {
            let answer = split_answer(tokenizer, &prompt, &completion.tokens);
            let correct = is_right(item.question, &answer.content);
            Sample {
                task: TASK.to_string(),
                id: item.id(),
                item_hash: item.hash(),
                lang: Some(item.question.lang.clone()),
                category: Some(item.question.kind.clone()),
                prompt: Some(tokenizer.decode(&prompt, false)),
                extracted: Some(plain(&answer.content)),
                response: Some(answer.content),
                reasoning: answer.reasoning,
                gold: Some(item.question.answer.clone()),
                correct: Some(correct),
                score: f64::from(u8::from(correct)),
                weight: 1.0,
                tokens: u32::try_from(completion.tokens.len()).unwrap_or(u32::MAX),
                finish_reason: Some(finish_reason(completion.finish_reason).to_string()),
                prompt_tokens: prompt,
                response_tokens: completion.tokens,
                ..Sample::default()
            }
        })
        .collect();
    let right = samples.iter().filter(|s| s.correct == Some(true)).count();
    progress.finish(format!("{right} of {} right", samples.len()));
    Ok(samples)
}

/// Small letters, single blanks, no dot at the end.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").trim_end_matches('.').trim_end().to_lowercase()
}

fn is_right(question: &Question, response: &str) -> bool {
    let response = plain(response);
    accepted(&question.lang, &question.answer).iter().any(|answer| plain(answer) == response)
}

/// The overall result and its slices: `pictures`, `pictures/LANG`, `pictures/KIND`.
pub fn summarise(samples: &[Sample]) -> BTreeMap<String, TaskResult> {
    slices(TASK, samples).into_iter().map(|(name, (group, samples))| (name, summary(group, &samples))).collect()
}

fn summary(group: Option<Group>, samples: &[&Sample]) -> TaskResult {
    let n = samples.len() as u64;
    let share = |k: u64| k as f64 / n.max(1) as f64;
    let right = samples.iter().filter(|s| s.correct == Some(true)).count() as u64;
    // By language and kind: how often each answer is the right one.
    let mut golds = BTreeMap::new();
    for sample in samples {
        let answers: &mut BTreeMap<_, u64> = golds.entry((&sample.lang, &sample.category)).or_default();
        *answers.entry(&sample.gold).or_default() += 1;
    }
    let majority: u64 = golds.values().filter_map(|answers| answers.values().max()).sum();
    let cut = samples.iter().filter(|s| s.finish_reason.as_deref() == Some("length")).count() as u64;
    let mut details = Map::new();
    details.insert("correct".to_string(), json!(right));
    details.insert("majority".to_string(), json!(share(majority)));
    details.insert("truncated".to_string(), json!(share(cut)));
    TaskResult { metric: Metric::ExactMatch, value: share(right), n, ci95: Some(wilson95(right, n)), group, details }
}

/// `count` samples to show, each about another picture where possible: kinds of questions in turn, within a kind in hash order, so that
/// every model measured with the same seed shows the same.
pub fn show(asked: &[Asked<'_>], samples: &[Sample], count: usize, seed: Seed) -> Vec<ShownSample> {
    let mut kinds: BTreeMap<&str, Vec<(&Asked<'_>, &Sample)>> = BTreeMap::new();
    for pair in asked.iter().zip(samples) {
        kinds.entry(&pair.0.question.kind).or_default().push(pair);
    }
    for pairs in kinds.values_mut() {
        pairs.sort_by_key(|(item, _)| std::cmp::Reverse(hash_order(seed, &item.id())));
    }
    let mut shown: Vec<ShownSample> = Vec::new();
    let mut seen = BTreeSet::new();
    while shown.len() < count && kinds.values().any(|pairs| !pairs.is_empty()) {
        for pairs in kinds.values_mut() {
            let fresh = pairs.iter().rposition(|(item, _)| !seen.contains(item.picture.id.as_str()));
            let Some(place) = fresh.or(pairs.len().checked_sub(1)) else { continue };
            let (item, sample) = pairs.remove(place);
            seen.insert(item.picture.id.as_str());
            shown.push(shown_sample(item, sample));
        }
    }
    shown.truncate(count);
    shown
}

fn shown_sample(item: &Asked<'_>, sample: &Sample) -> ShownSample {
    ShownSample {
        task: TASK.to_string(),
        id: item.id(),
        lang: item.question.lang.clone(),
        category: item.question.kind.clone(),
        prompt: item.question.question.clone(),
        response: sample.response.clone().unwrap_or_default(),
        reasoning: sample.reasoning.clone(),
        gold: item.question.answer.clone(),
        extracted: sample.extracted.clone(),
        correct: sample.correct == Some(true),
    }
}

/// Write the images of shown samples into `dir/pictures`.
pub fn write_shown(dir: &Path, pictures: &[Picture], shown: &[ShownSample]) -> Result<()> {
    let wanted: BTreeSet<&str> = shown.iter().filter(|s| s.task == TASK).filter_map(|s| Some(s.id.rsplit_once('#')?.0)).collect();
    let plain_name = |id: &str| !id.starts_with('.') && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    for picture in pictures.iter().filter(|p| wanted.contains(p.id.as_str()) && plain_name(&p.id)) {
        llm_run::atomic::write(dir.join(FOLDER).join(format!("{}.{}", picture.id, extension(&picture.image))), &picture.image)?;
    }
    Ok(())
}

/// Of an encoded image, by its first bytes.
fn extension(image: &[u8]) -> &'static str {
    match image {
        [0xFF, 0xD8, ..] => "jpg",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "png",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(lang: &str, kind: &str, answer: &str) -> Question {
        Question { lang: lang.into(), kind: kind.into(), question: "?".into(), answer: answer.into(), ..Question::default() }
    }

    #[test]
    fn grading_knows_other_words_and_no_wrong_ones() {
        for (lang, gold, response, right) in [
            ("en", "red", " Red. ", true),
            ("en", "3", "three", true),
            ("de", "Kreis", "ein  Kreis", true),
            ("es", "rojo", "Roja", true),
            ("es", "a la izquierda", "izquierda", true),
            ("en", "red", "red or blue", false),
            ("en", "3", "3 4", false),
            ("en", "3", "drei", false),
            ("en", "top left", "left", false),
            ("en", "red", "", false),
        ] {
            assert_eq!(is_right(&question(lang, "x", gold), response), right, "{gold} / {response}");
        }
    }

    fn pictures() -> Vec<Picture> {
        let some = |n: usize| (0..n).map(|i| question(["en", "de"][i % 2], ["colour", "count"][i / 2 % 2], "1")).collect();
        (0..6).map(|i| Picture { id: format!("p{i}"), image: vec![i as u8], captions: Vec::new(), questions: some(4) }).collect()
    }

    fn samples(asked: &[Asked<'_>]) -> Vec<Sample> {
        let sample = |(i, item): (usize, &Asked<'_>)| Sample {
            task: TASK.into(),
            id: item.id(),
            lang: Some(item.question.lang.clone()),
            category: Some(item.question.kind.clone()),
            gold: Some(if i % 3 == 0 { "2" } else { "1" }.into()),
            correct: Some(i % 4 == 0),
            weight: 1.0,
            ..Sample::default()
        };
        asked.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn slices_add_up_and_the_blind_guess_is_counted() {
        let pictures = pictures();
        let asked = questions(&pictures, None, Seed(1));
        let tasks = summarise(&samples(&asked));
        assert_eq!(
            tasks.keys().map(String::as_str).collect::<Vec<_>>(),
            ["pictures", "pictures/colour", "pictures/count", "pictures/de", "pictures/en"]
        );
        assert_eq!((tasks["pictures"].n, tasks["pictures"].value), (24, 0.25));
        assert_eq!(tasks["pictures/en"].n + tasks["pictures/de"].n, 24);
        // 24 items, every third gold is "2": 8, and no slice has more twos than ones.
        assert!((tasks["pictures"].details["majority"].as_f64().unwrap() - 16.0 / 24.0).abs() < 1e-9);
        let [low, high] = tasks["pictures"].ci95.unwrap();
        assert!(low < 0.25 && high > 0.25);
    }

    #[test]
    fn a_limit_keeps_the_same_questions_whatever_else_is_there() {
        let pictures = pictures();
        let some = questions(&pictures, Some(5), Seed(3));
        assert_eq!(some.len(), 5);
        let more: Vec<String> = questions(&pictures, Some(9), Seed(3)).iter().map(Asked::id).collect();
        assert!(some.iter().all(|a| more.contains(&a.id())));
    }

    #[test]
    fn shown_samples_take_kinds_in_turn_and_other_pictures() {
        let pictures = pictures();
        let asked = questions(&pictures, None, Seed(1));
        let rows = samples(&asked);
        let shown = show(&asked, &rows, 6, Seed(2));
        assert_eq!(shown.iter().filter(|s| s.category == "colour").count(), 3);
        let ids: BTreeSet<&str> = shown.iter().map(|s| s.id.split('#').next().unwrap()).collect();
        assert_eq!(ids.len(), 6, "six samples, six pictures");
        let dir = tempfile::tempdir().unwrap();
        write_shown(dir.path(), &pictures, &shown).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 6);
        assert_eq!(show(&asked, &rows, 99, Seed(2)).len(), 24, "never more than there are");
    }

    #[test]
    fn what_cannot_be_graded_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        let write = |pictures: Vec<Picture>| {
            let mut writer = llm_data::pictures::PictureWriter::create(&path).unwrap();
            pictures.into_iter().for_each(|p| writer.push(p).unwrap());
            writer.finish().unwrap();
            read(&path).map_err(|e| e.to_string())
        };
        let mut all = pictures();
        assert_eq!(write(all.clone()).unwrap().len(), 6);
        all[3].questions[1].answer = " . ".into();
        assert!(write(all).unwrap_err().contains("`p3` has a question without an answer"));
        let mut all = pictures();
        all[1].id = "p0".into();
        assert!(write(all).unwrap_err().contains("appears twice"));
        let mut all = pictures();
        all.iter_mut().for_each(|p| p.questions.clear());
        assert!(write(all).unwrap_err().contains("no questions"));
    }
}
