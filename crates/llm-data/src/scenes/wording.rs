//! What the three languages have in common: a table of nouns and colours each, and the calls that turn questions, answers
//! and scenes into sentences.

use super::ask::{Answer, Ask, Reference};
use super::scene::{Cell, Colour, GRID, Object, Scene, Shape};
use super::{english, german, spanish};
use crate::exercises::Language;
use llm_run::Rng;

/// A language's sentences about scenes.
pub(super) trait Wording: Sync {
    /// One of several ways to ask.
    fn question(&self, ask: Ask, rng: &mut Rng) -> String;
    /// The gold answer.
    fn answer(&self, answer: Answer) -> String;
    /// Other right ways to say it.
    fn alternatives(&self, answer: Answer) -> Vec<String>;
    /// `a small red star`.
    fn object(&self, object: &Object) -> String;
    /// `at the top left`.
    fn place(&self, cell: Cell) -> String;
    /// Descriptions of the scene: of everything place by place and object by object, and of shapes, colours or places alone. What tells
    /// pictures apart by one kind of thing has to be seen, not guessed from the others.
    fn captions(&self, scene: &Scene, rng: &mut Rng) -> Vec<String>;

    /// An object found by its place: `at the top left a red star`.
    fn there(&self, object: &Object) -> String {
        format!("{} {}", self.place(object.cell), self.object(object))
    }
    /// An object found by what it is: `a red star at the top left`.
    fn here(&self, object: &Object) -> String {
        format!("{} {}", self.object(object), self.place(object.cell))
    }
    /// What is seen where a question makes one look, in phrases of the descriptions; empty where it names no object.
    fn reasoning(&self, ask: Ask, objects: &[Object]) -> String {
        let seen = |reference: Reference| {
            let object = reference.find(objects)?;
            Some(if matches!(reference, Reference::At(_)) { self.there(&object) } else { self.here(&object) })
        };
        ask.references().into_iter().filter_map(seen).collect::<Vec<_>>().join(", ")
    }
}

pub(super) fn of(language: Language) -> &'static dyn Wording {
    match language {
        Language::En => &english::English,
        Language::De => &german::German,
        Language::Es => &spanish::Spanish,
    }
}

/// Answers that mean the same as `answer` in that language, `answer` first. An unknown language or answer has no others.
pub fn accepted(lang: &str, answer: &str) -> Vec<String> {
    let mut all = vec![answer.to_string()];
    if let Some(language) = Language::ALL.into_iter().find(|l| l.code() == lang) {
        let wording = of(language);
        let known = every_answer().find(|a| wording.answer(*a) == answer);
        all.extend(known.map(|known| wording.alternatives(known)).unwrap_or_default());
    }
    all
}

fn every_answer() -> impl Iterator<Item = Answer> {
    let colours = Colour::ALL.iter().map(|c| Answer::Colour(*c));
    let shapes = Shape::ALL.iter().map(|s| Answer::Shape(*s));
    let numbers = (0..=9).map(Answer::Number);
    let places = (0..9).map(|i| Answer::Place(Cell(i)));
    colours.chain(shapes).chain(numbers).chain(places).chain([Answer::Left, Answer::Right, Answer::Above, Answer::Below])
}

/// Replace `{x}` by the value of `x` in one of the templates.
pub(super) fn fill(templates: &[&str], values: &[(&str, String)], rng: &mut Rng) -> String {
    let template = rng.pick(templates).to_string();
    values.iter().fold(template, |text, (name, value)| text.replace(name, value))
}

/// With a capital letter at the start.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(items: &[String], and: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

/// Every object and its place: `a red star at the top left and a blue circle in the centre`.
pub(super) fn by_object(wording: &impl Wording, objects: &[Object], and: &str) -> String {
    let phrases: Vec<String> = objects.iter().map(|o| wording.here(o)).collect();
    format!("{}.", capital(&listed(&phrases, and)))
}

/// Every place and what is there: `in the centre a red star, at the centre right nothing` and so on, round the grid from any place. Here an
/// object is found by its place, as for a question that names a place; among objects alone a guess would often do, and a model that
/// guesses never learns to look.
pub(super) fn by_place(wording: &impl Wording, objects: &[Object], [and, nothing]: [&str; 2], rng: &mut Rng) -> String {
    let first = rng.below(GRID * GRID);
    let cells = (first..first + GRID * GRID).map(|i| Cell(i % (GRID * GRID)));
    let at = |cell| objects.iter().find(|o| o.cell == cell).map_or_else(|| format!("{} {nothing}", wording.place(cell)), |o| wording.there(o));
    let phrases: Vec<String> = cells.map(at).collect();
    format!("{}.", capital(&listed(&phrases, and)))
}

/// What objects are, told apart by `key`, with how many there are; the most frequent first.
pub(super) fn counted<K: PartialEq>(objects: &[Object], key: impl Fn(&Object) -> K) -> Vec<(K, usize)> {
    let mut counts: Vec<(K, usize)> = Vec::new();
    for object in objects {
        let key = key(object);
        match counts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, n)) => *n += 1,
            None => counts.push((key, 1)),
        }
    }
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts
}

/// Which of two forms a number takes: 0 for one, else 1.
pub(super) fn plural(n: usize) -> usize {
    usize::from(n != 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;
    use std::collections::BTreeSet;

    /// All phrasings of a question.
    fn all(language: Language, ask: Ask) -> BTreeSet<String> {
        (0..60).map(|i| of(language).question(ask, &mut Seed(i).rng())).collect()
    }

    #[test]
    fn genders_and_cases_agree() {
        let star = Reference::Both(Colour::Red, Shape::Star);
        let diamond = Reference::Both(Colour::Orange, Shape::Diamond);
        let german = all(Language::De, Ask::Side(star, diamond));
        assert!(german.contains("Ist der rote Stern links oder rechts von der orangefarbenen Raute?"), "{german:?}");
        let german = all(Language::De, Ask::Level(diamond, star));
        assert!(german.contains("Ist die orangefarbene Raute über oder unter dem roten Stern?"), "{german:?}");
        assert!(all(Language::De, Ask::Where(star)).contains("Wo siehst du den roten Stern?"));
        let spanish = all(Language::Es, Ask::Side(star, Reference::Shape(Shape::Circle)));
        assert!(spanish.contains("¿Está la estrella roja a la izquierda o a la derecha del círculo?"), "{spanish:?}");
        assert!(all(Language::Es, Ask::CountShape(Shape::Cross)).contains("¿Cuántas cruces hay?"));
        assert!(all(Language::Es, Ask::CountColour(Colour::Blue)).contains("¿Cuántas figuras azules ves?"));
        assert!(all(Language::En, Ask::ShapeOf(Reference::At(Cell(4)))).contains("Which shape is in the centre?"));
    }

    #[test]
    fn every_question_is_asked_in_several_ways() {
        for language in Language::ALL {
            for ask in [Ask::CountAll, Ask::Word, Ask::Highest, Ask::Lowest, Ask::Bars, Ask::FirstBar, Ask::ColourOfWord] {
                assert!(all(language, ask).len() >= 2, "{language:?} {ask:?}");
            }
        }
    }

    #[test]
    fn other_ways_to_say_it_count_and_other_answers_do_not() {
        let has = |lang: &str, answer: &str, other: &str| accepted(lang, answer).iter().any(|a| a == other);
        assert!(has("es", "rojo", "roja") && has("de", "rot", "rotes") && has("en", "3", "three") && has("de", "1", "eine"));
        assert!(has("de", "Kreis", "der Kreis") && has("es", "a la izquierda", "izquierda") && has("en", "centre", "center"));
        assert!(!has("es", "rojo", "azul") && !has("en", "2", "three") && !has("en", "top left", "left"));
        assert_eq!(accepted("fr", "rouge"), ["rouge"]);
        // No two different answers share a way of saying them: a wrong answer could be taken for a right one.
        for language in Language::ALL {
            let forms: Vec<BTreeSet<String>> = every_answer()
                .map(|a| of(language).alternatives(a).into_iter().chain([of(language).answer(a)]).map(|s| s.to_lowercase()).collect())
                .collect();
            for (i, one) in forms.iter().enumerate() {
                for other in &forms[..i] {
                    assert!(one.is_disjoint(other), "{language:?}: {one:?} and {other:?}");
                }
            }
        }
    }
}
