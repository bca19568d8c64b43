//! Spanish wording.

use super::language::{Object, Phrases};

const fn feminine(plural: &'static str) -> Object {
    Object { plural, how_many: "cuántas" }
}

const fn masculine(plural: &'static str) -> Object {
    Object { plural, how_many: "cuántos" }
}

pub(super) const PHRASES: Phrases = Phrases {
    objects: &[
        feminine("manzanas"),
        feminine("peras"),
        masculine("libros"),
        feminine("cartas"),
        feminine("monedas"),
        feminine("piedras"),
        masculine("lápices"),
        feminine("pelotas"),
        feminine("galletas"),
        feminine("flores"),
        masculine("huevos"),
        feminine("nueces"),
    ],
    words: &[
        "rojo", "verde", "azul", "blanco", "negro", "gris", "viejo", "nuevo", "joven", "chico", "grande", "largo", "corto", "alto", "hondo", "tibio",
        "frío", "veloz", "lento", "bueno", "malo", "lleno", "hueco", "libre", "rico", "pobre", "suave", "duro", "claro", "pesado", "hoy", "aquí",
        "allí", "ahora", "nunca", "siempre", "pronto", "tarde", "cerca", "lejos", "arriba", "abajo", "sí", "dos", "tres", "cuatro", "cinco", "seis",
        "siete", "ocho", "nueve", "diez", "comer", "beber", "leer", "cantar", "ver", "venir", "dar", "dormir",
    ],
    addition: &[
        "¿Cuánto es {a} + {b}?",
        "Suma {a} y {b}.",
        "{n} tiene {a} {o} y recibe {b} más. ¿{Q} {o} tiene {n} ahora?",
        "{n} tiene {a} {o}. {m} tiene {b}. ¿{Q} {o} tienen en total?",
        "Hay {a} {o} en una caja y {b} en otra. ¿{Q} {o} hay en total?",
    ],
    subtraction: &[
        "¿Cuánto es {a} - {b}?",
        "Resta {b} de {a}.",
        "{n} tiene {a} {o} y regala {b}. ¿{Q} {o} quedan?",
        "Hay {a} {o} en una caja. {n} toma {b}. ¿{Q} {o} quedan?",
        "{n} tenía {a} {o} y perdió {b}. ¿{Q} {o} tiene {n} ahora?",
    ],
    two_step: &[
        "¿Cuánto es {a} + {b} - {c}?",
        "{n} tiene {a} {o}, compra {b} más y regala {c}. ¿{Q} {o} quedan?",
        "Hay {a} {o} en una caja. {n} pone {b} más y {m} toma {c}. ¿{Q} {o} quedan?",
        "{n} encuentra {a} {o}, luego {b} más, y pierde {c}. ¿{Q} {o} tiene {n} ahora?",
    ],
    multiplication: &[
        "¿Cuánto es {a} * {b}?",
        "Multiplica {a} por {b}.",
        "Hay {a} cajas con {b} {o} en cada una. ¿{Q} {o} hay en total?",
        "{n} compra {a} bolsas con {b} {o} en cada una. ¿{Q} {o} tiene {n} ahora?",
        "Hay {a} niños con {b} {o} cada uno. ¿{Q} {o} tienen en total?",
    ],
    larger: &["¿Qué número es mayor entre {a} y {b}?", "¿Cuál es el máximo de {a} y {b}?", "{n} tiene {a} {o}, {m} tiene {b}. ¿Qué número es mayor?"],
    smaller: &[
        "¿Qué número es menor entre {a} y {b}?",
        "¿Cuál es el mínimo de {a} y {b}?",
        "{n} tiene {a} {o}, {m} tiene {b}. ¿Qué número es menor?",
    ],
    sequence: &["¿Qué número sigue: {s}?", "Continúa con un número: {s}", "{n} cuenta {s}. ¿Cuál es el número siguiente?"],
    missing_addend: &[
        "¿Qué número falta: {a} + ? = {b}",
        "Resuelve {a} + x = {b}.",
        "{n} tiene {a} {o} y quiere {b}. ¿{Q} {o} le faltan?",
        "{n} tenía {a} {o} y ahora tiene {b}. ¿{Q} {o} recibió?",
    ],
    counting: &["¿Cuántas veces aparece \"{w}\" en \"{l}\"?", "Cuenta \"{w}\" en \"{l}\"."],
    uppercase: &["Escribe \"{w}\" en mayúsculas.", "Pon \"{w}\" en mayúsculas."],
    reverse: &["Escribe \"{w}\" al revés.", "Invierte las letras de \"{w}\"."],
    first_letter: &["¿Cuál es la primera letra de \"{w}\"?", "Nombra la primera letra de \"{w}\"."],
    last_word: &["¿Cuál es la última palabra de \"{l}\"?", "Nombra la última palabra de \"{l}\"."],
    repeat: &["Repite \"{w}\" {a} veces.", "Escribe \"{w}\" {a} veces."],
};
