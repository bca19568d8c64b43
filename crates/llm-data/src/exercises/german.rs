//! German wording.

use super::language::{Object, Phrases};

const fn object(plural: &'static str) -> Object {
    Object { plural, how_many: "wie viele" }
}

pub(super) const PHRASES: Phrases = Phrases {
    objects: &[
        object("Äpfel"),
        object("Birnen"),
        object("Bücher"),
        object("Karten"),
        object("Münzen"),
        object("Steine"),
        object("Stifte"),
        object("Bälle"),
        object("Kekse"),
        object("Blumen"),
        object("Eier"),
        object("Nüsse"),
    ],
    words: &[
        "rot", "grün", "blau", "hell", "schwarz", "gelb", "alt", "neu", "jung", "klein", "dick", "lang", "kurz", "hoch", "tief", "warm", "kalt",
        "schnell", "langsam", "gut", "schlecht", "voll", "leer", "frei", "reich", "arm", "weich", "hart", "leicht", "schwer", "heute", "hier",
        "dort", "jetzt", "nie", "immer", "bald", "spät", "links", "rechts", "oben", "unten", "ja", "zwei", "drei", "vier", "fünf", "sechs", "sieben",
        "acht", "neun", "zehn", "essen", "trinken", "lesen", "singen", "sehen", "kommen", "geben", "schlafen",
    ],
    addition: &[
        "Was ist {a} + {b}?",
        "Addiere {a} und {b}.",
        "{n} hat {a} {o} und bekommt {b} dazu. Wie viele {o} hat {n} jetzt?",
        "{n} hat {a} {o}. {m} hat {b}. Wie viele {o} haben sie zusammen?",
        "In einer Kiste sind {a} {o}, in einer anderen {b}. Wie viele {o} sind es insgesamt?",
    ],
    subtraction: &[
        "Was ist {a} - {b}?",
        "Ziehe {b} von {a} ab.",
        "{n} hat {a} {o} und verschenkt {b}. Wie viele {o} bleiben übrig?",
        "In einer Kiste sind {a} {o}. {n} nimmt {b}. Wie viele {o} bleiben übrig?",
        "{n} hatte {a} {o} und hat {b} verloren. Wie viele {o} hat {n} jetzt?",
    ],
    two_step: &[
        "Was ist {a} + {b} - {c}?",
        "{n} hat {a} {o}, kauft {b} dazu und verschenkt {c}. Wie viele {o} bleiben übrig?",
        "In einer Kiste sind {a} {o}. {n} legt {b} dazu, {m} nimmt {c}. Wie viele {o} bleiben?",
        "{n} findet {a} {o}, dann noch {b} und verliert {c}. Wie viele {o} hat {n} jetzt?",
    ],
    multiplication: &[
        "Was ist {a} * {b}?",
        "Multipliziere {a} mit {b}.",
        "Es gibt {a} Kisten. In jeder sind {b} {o}. Wie viele {o} sind es insgesamt?",
        "{n} kauft {a} Tüten. In jeder sind {b} {o}. Wie viele {o} hat {n} jetzt?",
        "{a} Kinder haben je {b} {o}. Wie viele {o} haben sie zusammen?",
    ],
    larger: &[
        "Welche Zahl ist größer, {a} oder {b}?",
        "Was ist das Maximum von {a} und {b}?",
        "{n} hat {a} {o}, {m} hat {b}. Welche Zahl ist größer?",
    ],
    smaller: &[
        "Welche Zahl ist kleiner, {a} oder {b}?",
        "Was ist das Minimum von {a} und {b}?",
        "{n} hat {a} {o}, {m} hat {b}. Welche Zahl ist kleiner?",
    ],
    sequence: &["Welche Zahl kommt als nächste: {s}?", "Setze mit einer Zahl fort: {s}", "{n} zählt {s}. Was ist die nächste Zahl?"],
    missing_addend: &[
        "Welche Zahl fehlt: {a} + ? = {b}",
        "Löse {a} + x = {b}.",
        "{n} hat {a} {o} und will {b}. Wie viele {o} braucht {n} noch?",
        "{n} hatte {a} {o} und hat jetzt {b}. Wie viele {o} hat {n} bekommen?",
    ],
    counting: &["Wie oft kommt \"{w}\" in \"{l}\" vor?", "Zähle \"{w}\" in \"{l}\"."],
    uppercase: &["Schreibe \"{w}\" in Großbuchstaben.", "Setze \"{w}\" in Großbuchstaben."],
    reverse: &["Schreibe \"{w}\" rückwärts.", "Drehe die Buchstaben von \"{w}\" um."],
    first_letter: &["Was ist der erste Buchstabe von \"{w}\"?", "Nenne den ersten Buchstaben von \"{w}\"."],
    last_word: &["Was ist das letzte Wort von \"{l}\"?", "Nenne das letzte Wort von \"{l}\"."],
    repeat: &["Wiederhole \"{w}\" {a} Mal.", "Schreibe \"{w}\" {a} Mal."],
};
