//! English wording.

use super::language::{Object, Phrases};

const fn object(plural: &'static str) -> Object {
    Object { plural, how_many: "how many" }
}

pub(super) const PHRASES: Phrases = Phrases {
    objects: &[
        object("apples"),
        object("pears"),
        object("books"),
        object("cards"),
        object("coins"),
        object("stones"),
        object("pens"),
        object("balls"),
        object("cookies"),
        object("flowers"),
        object("eggs"),
        object("nuts"),
    ],
    words: &[
        "red", "green", "blue", "white", "black", "yellow", "old", "new", "young", "small", "big", "long", "short", "high", "deep", "warm", "cold",
        "fast", "slow", "good", "bad", "full", "empty", "free", "rich", "poor", "soft", "hard", "light", "heavy", "today", "here", "there", "now",
        "never", "always", "soon", "late", "left", "right", "up", "down", "yes", "two", "three", "four", "five", "six", "seven", "eight", "nine",
        "ten", "eat", "drink", "read", "sing", "see", "come", "give", "sleep",
    ],
    addition: &[
        "What is {a} + {b}?",
        "Add {a} and {b}.",
        "{n} has {a} {o} and gets {b} more. How many {o} does {n} have now?",
        "{n} has {a} {o}. {m} has {b}. How many {o} do they have together?",
        "There are {a} {o} in one box and {b} in another. How many {o} are there in total?",
    ],
    subtraction: &[
        "What is {a} - {b}?",
        "Subtract {b} from {a}.",
        "{n} has {a} {o} and gives away {b}. How many {o} are left?",
        "There are {a} {o} in a box. {n} takes {b}. How many {o} remain?",
        "{n} had {a} {o} and lost {b}. How many {o} does {n} have now?",
    ],
    two_step: &[
        "What is {a} + {b} - {c}?",
        "{n} has {a} {o}, buys {b} more and gives away {c}. How many {o} are left?",
        "There are {a} {o} in a box. {n} adds {b} and {m} takes {c}. How many {o} remain?",
        "{n} finds {a} {o}, then {b} more, and loses {c}. How many {o} does {n} have now?",
    ],
    multiplication: &[
        "What is {a} * {b}?",
        "Multiply {a} by {b}.",
        "There are {a} boxes with {b} {o} in each. How many {o} are there in total?",
        "{n} buys {a} bags with {b} {o} in each. How many {o} does {n} have now?",
        "{a} children have {b} {o} each. How many {o} do they have together?",
    ],
    larger: &["Which number is larger, {a} or {b}?", "What is the maximum of {a} and {b}?", "{n} has {a} {o}, {m} has {b}. Which number is larger?"],
    smaller: &[
        "Which number is smaller, {a} or {b}?",
        "What is the minimum of {a} and {b}?",
        "{n} has {a} {o}, {m} has {b}. Which number is smaller?",
    ],
    sequence: &["Which number comes next: {s}?", "Continue with one number: {s}", "{n} counts {s}. What is the next number?"],
    missing_addend: &[
        "Which number is missing: {a} + ? = {b}",
        "Solve {a} + x = {b}.",
        "{n} has {a} {o} and wants {b}. How many {o} does {n} still need?",
        "{n} had {a} {o} and now has {b}. How many {o} did {n} get?",
    ],
    counting: &["How many times does \"{w}\" occur in \"{l}\"?", "Count \"{w}\" in \"{l}\"."],
    uppercase: &["Write \"{w}\" in capital letters.", "Put \"{w}\" in upper case."],
    reverse: &["Write \"{w}\" backwards.", "Reverse the letters of \"{w}\"."],
    first_letter: &["What is the first letter of \"{w}\"?", "Name the first letter of \"{w}\"."],
    last_word: &["What is the last word of \"{l}\"?", "Name the last word of \"{l}\"."],
    repeat: &["Repeat \"{w}\" {a} times.", "Write \"{w}\" {a} times."],
};
