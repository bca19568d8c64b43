//! Structured output with models that know nothing: whatever they prefer, the answer is in the language.

use llm_arch::{Decoder, PackedBatch, hf};
use llm_infer::Error;
use llm_infer::grammar::{Constraint, Grammar, Grammars, Tool, ToolRules, lark_tools};
use llm_infer::sampling::{self, History, Sampling};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn tokenizer(name: &str) -> Tokenizer {
    let folder = fixtures().join("tokenizers").join(name);
    if name != "tiktoken_tiny" {
        return Tokenizer::load(folder).unwrap();
    }
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("tiny.tiktoken"), dir.path().join("tiny.tiktoken")).unwrap();
    let beside = json!({"pat_str": cases["pattern"], "special_tokens": cases["special_tokens"]});
    std::fs::write(dir.path().join("tiny.json"), beside.to_string()).unwrap();
    Tokenizer::load(dir.path().join("tiny.tiktoken")).unwrap()
}

/// Every kind that spells its text token by token.
const KINDS: [&str; 7] = [
    "bytelevel_gpt2",
    "bytelevel_llama3_split",
    "tiktoken_tiny",
    "sentencepiece_bpe",
    "sentencepiece_bpe_byte_fallback",
    "sentencepiece_unigram",
    "unigram_metaspace",
];

fn ends(tokenizer: &Tokenizer) -> Vec<u32> {
    tokenizer.eos_id().or_else(|| tokenizer.special_id("</s>")).into_iter().collect()
}

fn grammars() -> &'static (Tokenizer, Grammars) {
    static MADE: OnceLock<(Tokenizer, Grammars)> = OnceLock::new();
    MADE.get_or_init(|| {
        let tokenizer = tokenizer("bytelevel_gpt2");
        let grammars = Grammars::new(&tokenizer, &[2]);
        (tokenizer, grammars)
    })
}

fn compile(constraint: &Constraint) -> Grammar {
    grammars().1.compile(constraint).unwrap()
}

fn raw(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).copied().collect();
    String::from_utf8(bytes).unwrap()
}

/// What a model that prefers tokens at random answers. After a while it likes to close what it opened.
fn answer(mut grammar: Grammar, tokenizer: &Tokenizer, ends: &[u32], seed: u64) -> Vec<u32> {
    let closing: Vec<u32> = (0..tokenizer.vocab_size() as u32)
        .filter(|&id| tokenizer.token_bytes(id).is_some_and(|b| matches!(b, b"\"" | b"}" | b"]" | b" \"" | b"," | b":")))
        .chain(ends.iter().copied())
        .collect();
    let mut tokens = Vec::new();
    while !grammar.must_stop() {
        assert!(tokens.len() < 2000, "no end: {}", raw(tokenizer, &tokens));
        let mut rng = Seed(seed).stream("logits").at(tokens.len() as u64).rng();
        // Longer than the vocabulary, as tables of models are.
        let mut logits: Vec<f32> = (0..tokenizer.vocab_size() + 40).map(|_| rng.normal() as f32).collect();
        logits[tokenizer.vocab_size()..].fill(100.0);
        if tokens.len() > 60 {
            closing.iter().for_each(|&id| logits[id as usize] += 10.0);
        }
        grammar.apply(&mut logits).unwrap();
        let (token, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        assert!(logits[token] > f32::NEG_INFINITY, "no token is allowed after {:?}", raw(tokenizer, &tokens));
        let token = token as u32;
        if ends.contains(&token) {
            assert!(grammar.is_complete(), "an end inside of {}", raw(tokenizer, &tokens));
            grammar.accept(token).unwrap();
            break;
        }
        grammar.accept(token).unwrap();
        tokens.push(token);
    }
    tokens
}

fn answers(constraint: &Constraint, n: u64) -> Vec<String> {
    let (tokenizer, _) = grammars();
    (0..n).map(|seed| raw(tokenizer, &answer(compile(constraint), tokenizer, &[2], seed))).collect()
}

type Check = fn(&Value) -> bool;

fn is_tree(value: &Value) -> bool {
    value["value"].is_i64() && value["children"].as_array().is_some_and(|c| c.len() <= 2 && c.iter().all(is_tree))
}

fn schemas() -> Vec<(Value, Check)> {
    let name = json!({"type": "string", "maxLength": 8});
    let cases: [(Value, Check); 11] = [
        (
            json!({"type": "object", "properties": {
                "name": name, "age": {"type": "integer", "minimum": 0, "maximum": 130},
                "address": {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["zip"], "additionalProperties": false}
            }, "required": ["name", "age", "address"], "additionalProperties": false}),
            |v| {
                let zip = v["address"]["zip"].as_str().unwrap();
                v["name"].as_str().unwrap().chars().count() <= 8
                    && v["age"].as_u64().unwrap() <= 130
                    && zip.len() == 5
                    && zip.bytes().all(|b| b.is_ascii_digit())
                    && v.as_object().unwrap().len() == 3
            },
        ),
        (json!({"enum": ["red", "größer", 7, null, true, "東"]}), |v| {
            [json!("red"), json!("größer"), json!(7), json!(null), json!(true), json!("東")].contains(v)
        }),
        (json!({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}), |v| {
            v.as_array().is_some_and(|a| (2..=4).contains(&a.len()) && a.iter().all(Value::is_boolean))
        }),
        (
            json!({"anyOf": [{"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": false}, {"type": "null"}, {"const": "none"}]}),
            |v| v["x"].is_number() || v.is_null() || v == "none",
        ),
        (
            json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
                "value": {"type": "integer", "minimum": -9, "maximum": 9}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
            }, "required": ["value", "children"], "additionalProperties": false}}}),
            is_tree,
        ),
        (json!({"type": "number", "exclusiveMinimum": 1.5, "maximum": 2.25}), |v| v.as_f64().is_some_and(|x| x > 1.5 && x <= 2.25)),
        (json!({"type": "integer", "multipleOf": 5, "minimum": -20, "maximum": 20}), |v| {
            v.as_f64().is_some_and(|x| x % 5.0 == 0.0 && x.abs() <= 20.0)
        }),
        (json!({"type": "string", "format": "date"}), |v| {
            let part = |at: usize, n: usize| v.as_str().and_then(|s| s.get(at..at + n)).and_then(|s| s.parse::<u32>().ok());
            part(0, 4).is_some() && (1..=12).contains(&part(5, 2).unwrap()) && (1..=31).contains(&part(8, 2).unwrap())
        }),
        (json!({"type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}}, "additionalProperties": false, "maxProperties": 3}), |v| {
            v.as_object().unwrap().iter().all(|(k, v)| k.len() == 2 && k.starts_with('k') && v.is_boolean())
        }),
        (
            json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}, {"properties": {"a": {"minimum": 7}}, "additionalProperties": false}]}),
            |v| (7..=9).contains(&v["a"].as_i64().unwrap()),
        ),
        (
            json!({"type": "array", "prefixItems": [{"type": "integer", "maximum": 99, "minimum": 0}, {"type": "string", "maxLength": 3}], "items": false, "minItems": 2}),
            |v| v.as_array().is_some_and(|a| a.len() == 2 && a[0].is_i64() && a[1].is_string()),
        ),
    ];
    cases.into()
}

/// If this fails, a program that parses answers meets one it cannot parse.
#[test]
fn a_random_model_under_a_schema_writes_what_satisfies_it() {
    for (schema, check) in schemas() {
        for text in answers(&Constraint::JsonSchema(schema.clone()), 8) {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?} under {schema}"));
            assert!(check(&value), "{text} under {schema}");
        }
    }
    for text in answers(&Constraint::JsonObject, 4) {
        // JSON bounds no exponent; the parser does.
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => assert!(value.is_object(), "{text}"),
            Err(e) => assert!(e.to_string().contains("number out of range"), "{e}: {text}"),
        }
    }
}

/// Properties come in the order of the schema, which is what a model was shown.
#[test]
fn properties_keep_their_order() {
    let schema = json!({"type": "object", "properties": {"z": {"type": "null"}, "a": {"type": "null"}, "m": {"type": "null"}}, "required": ["z", "a", "m"], "additionalProperties": false});
    for text in answers(&Constraint::JsonSchema(schema), 3) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["z", "a", "m"], "{text}");
    }
}

#[test]
fn a_network_with_random_weights_under_a_schema() {
    let (tokenizer, _) = grammars();
    let mut config = hf::load(fixtures().join("decoder/llama_gqa_untied"), &Device::flex()).unwrap().config().clone();
    config.vocab_size = tokenizer.vocab_size() + 20;
    config.max_position_embeddings = 512;
    let decoder = Decoder::new(&config, Seed(3), &Device::flex()).unwrap();
    let schema = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 6}, "rain": {"type": "boolean"}}, "required": ["city", "rain"], "additionalProperties": false});
    for seed in 0..3 {
        let mut grammar = compile(&Constraint::JsonSchema(schema.clone()));
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let mut tokens = tokenizer.encode("The weather: ");
        let prompt_len = tokens.len();
        while !grammar.must_stop() {
            assert!(tokens.len() < 400);
            let logits = to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&tokens))));
            let mut last = logits[logits.len() - config.vocab_size..].to_vec();
            grammar.apply(&mut last).unwrap();
            let token = sampling::choose(&last, &sampling, History { tokens: &tokens, prompt_len, end_ids: &[2] }).token;
            grammar.accept(token).unwrap();
            if token == 2 {
                break;
            }
            tokens.push(token);
        }
        let text = tokenizer.decode(&tokens[prompt_len..], true);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert!(value["city"].as_str().unwrap().chars().count() <= 6 && value["rain"].is_boolean());
    }
}

#[test]
fn regular_expressions_choices_and_grammars() {
    for text in answers(&Constraint::Regex(r"^([0-9]{3}-[0-9]{4}|naïve|[α-ω]{2,5}\$)$".into()), 12) {
        let digits = text.len() == 8 && text.bytes().enumerate().all(|(i, b)| if i == 3 { b == b'-' } else { b.is_ascii_digit() });
        let greek = text.strip_suffix('$').is_some_and(|t| (2..=5).contains(&t.chars().count()) && t.chars().all(|c| ('α'..='ω').contains(&c)));
        assert!(digits || greek || text == "naïve", "{text}");
    }
    let texts = ["yes", "no \"quoted\"\n", "ja, natürlich", "👍🏽"];
    let given = answers(&Constraint::choice(&texts), 30);
    assert!(given.iter().all(|t| texts.contains(&t.as_str())), "{given:?}");
    assert!(texts.iter().all(|t| given.iter().any(|g| g == t)), "a choice that nobody makes: {given:?}");

    let sums = "start: term (\" + \" term){0,3}\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[1-9][0-9]{0,2}/\n";
    for text in answers(&Constraint::Lark(sums.into()), 6) {
        let mut depth = 0i32;
        for c in text.chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            assert!(depth >= 0 && "0123456789()+ ".contains(c), "{text}");
        }
        assert_eq!(depth, 0, "{text}");
    }
}

/// The same answers are spelled by every kind of tokenizer that can spell.
#[test]
fn every_kind_of_tokenizer() {
    for name in KINDS {
        let tokenizer = tokenizer(name);
        let ends = ends(&tokenizer);
        let grammars = Grammars::new(&tokenizer, &ends);
        let pattern = Constraint::Regex("(?:the |in a |no){2,4}end".into());
        for seed in 0..6 {
            let tokens = answer(grammars.compile(&pattern).unwrap(), &tokenizer, &ends, seed);
            let text = raw(&tokenizer, &tokens);
            assert!(text.ends_with("end") && text.len() < 30, "{name}: {text}");
            // What the server shows is what was matched.
            assert_eq!(tokenizer.decode(&tokens, true), text, "{name}");
        }
        if tokenizer.unk_id().is_none() {
            let schema = json!({"type": "array", "items": {"enum": ["größe", "東京", "x y"]}, "minItems": 1, "maxItems": 3});
            for seed in 0..4 {
                let tokens = answer(grammars.compile(&Constraint::JsonSchema(schema.clone())).unwrap(), &tokenizer, &ends, seed);
                let text = tokenizer.decode(&tokens, true);
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}: {text:?}"));
                assert!(value.as_array().unwrap().iter().all(|v| ["größe", "東京", "x y"].contains(&v.as_str().unwrap())));
            }
        }
    }
    let wordpiece = Grammars::new(&tokenizer("wordpiece_bert"), &[3]);
    let error = wordpiece.compile(&Constraint::JsonObject).unwrap_err().to_string();
    assert!(error.contains("spell"), "{error}");
}

/// Where the text is known, only the tokenizer's own tokens spell it: others the model has never seen.
#[test]
fn forced_text_is_spelled_as_the_tokenizer_does() {
    for name in KINDS {
        let tokenizer = tokenizer(name);
        let text = "x in the end of the world";
        let canonical = tokenizer.encode(&format!("\u{e000}{text}"));
        let head = tokenizer.encode("\u{e000}");
        let mut grammar = Grammars::new(&tokenizer, &ends(&tokenizer)).compile(&Constraint::Regex(text.into())).unwrap();
        for (i, &token) in canonical[head.len()..].iter().enumerate() {
            // The last token may be another one if it could go on beyond the text.
            assert!(grammar.mask().unwrap().allows(token), "{name}: token {i} of {text}");
            grammar.accept(token).unwrap();
        }
        assert!(grammar.is_complete() && grammar.must_stop(), "{name}");
    }
}

#[test]
fn end_tokens_exactly_where_the_answer_may_end() {
    let mut grammar = compile(&Constraint::Regex("a{2,3}".into()));
    let a = grammars().0.encode("a")[0];
    for (complete, stop) in [(false, false), (false, false), (true, false), (true, true)] {
        assert_eq!((grammar.is_complete(), grammar.must_stop(), grammar.mask().unwrap().allows(2)), (complete, stop, complete));
        if !stop {
            grammar.accept(a).unwrap();
        }
    }
    assert_eq!(grammar.mask().unwrap().tokens().collect::<Vec<_>>(), [2], "nothing but the end");
    assert!(grammar.accept(a).is_err());
    grammar.accept(2).unwrap();

    // Control tokens are no text, not even where any text is allowed.
    let mut any = compile(&Constraint::Regex("(?s:.*)".into()));
    let tokenizer = &grammars().0;
    let mask = any.mask().unwrap();
    assert!(
        (0..tokenizer.vocab_size() as u32).all(|id| mask.allows(id) == (id == 2 || !tokenizer.is_special(id))
            || tokenizer.token_bytes(id).is_none_or(|b| std::str::from_utf8(b).is_err()))
    );
    assert!(!mask.allows(u32::MAX) && mask.count() > 256 - 13);
}

#[test]
fn a_refused_token_changes_nothing_and_accepted_ones_can_be_taken_back() {
    let (tokenizer, _) = grammars();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let start = compile(&Constraint::JsonSchema(schema));
    let mut grammar = start.clone();
    let tokens = tokenizer.encode("{\"a\": 17}");
    let mut masks = vec![grammar.mask().unwrap().clone()];
    assert_eq!(grammar.validate(&tokens), tokens.len());
    assert_eq!(grammar.validate(&[&tokens[..2], &[tokens[0], 7]].concat()), 2);
    assert_eq!(grammar.validate(&[u32::MAX]), 0);
    for &token in &tokens {
        for wrong in [1, u32::MAX, tokenizer.encode("~")[0]] {
            assert!(matches!(grammar.accept(wrong), Err(Error::Grammar(_))));
        }
        grammar.accept(token).unwrap();
        masks.push(grammar.mask().unwrap().clone());
    }
    assert!(grammar.is_complete());
    let mut fork = grammar.clone();
    for mask in masks.iter().rev().skip(1) {
        grammar.rollback(1).unwrap();
        assert_eq!(grammar.mask().unwrap(), mask);
    }
    assert_eq!(start.clone().mask().unwrap(), grammar.mask().unwrap());
    assert!(grammar.rollback(1).is_err(), "nothing is left to take back");
    // A clone does not notice. Its end can be taken back as well.
    fork.accept(2).unwrap();
    fork.rollback(1 + tokens.len()).unwrap();
    assert_eq!(fork.validate(&tokens), tokens.len());
}

/// Blanks between the parts of a JSON text end, so a model that likes them writes something else in the end.
#[test]
fn blanks_are_not_for_ever() {
    let (tokenizer, _) = grammars();
    let mut grammar = compile(&Constraint::JsonObject);
    grammar.accept(tokenizer.encode("{")[0]).unwrap();
    let blanks: Vec<u32> = [" ", "\n", "\t"].iter().map(|t| tokenizer.encode(t)[0]).collect();
    let count = std::iter::from_fn(|| {
        let blank = *blanks.iter().find(|&&b| grammar.mask().unwrap().allows(b))?;
        grammar.accept(blank).unwrap();
        Some(())
    });
    assert!(count.take(1000).count() < 80);
}

#[test]
fn what_cannot_be_compiled_is_an_error_that_says_why() {
    let compile = |constraint| match grammars().1.compile(&constraint) {
        Err(Error::Grammar(message)) => message,
        other => panic!("{other:?}"),
    };
    let schema = |schema| compile(Constraint::JsonSchema(schema));
    for (message, word) in [
        (schema(json!({"type": "strin"})), "strin"),
        (schema(json!({"type": "object", "properties": 7})), "properties"),
        (schema(json!({"$ref": "#/$defs/nowhere"})), "nowhere"),
        (schema(json!({"$ref": "https://example.com/schema.json"})), "example.com"),
        (schema(json!({"type": "string", "pattern": "("})), "("),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 3})), "5"),
        (schema(json!({"not": {"type": "string"}})), "not"),
        (schema(json!(17)), "schema must be an object"),
        (compile(Constraint::Regex("a(b".into())), "regular expression"),
        (compile(Constraint::Lark("start: nothing\n".into())), "nothing"),
        (compile(Constraint::Lark("start: <|nobody|>\n".into())), "nobody"),
        (compile(Constraint::Lark("begin: \"a\"\n".into())), "start"),
        (compile(Constraint::Lark("start: \"a".into())), "grammar"),
    ] {
        assert!(message.contains(word), "{word}: {message}");
        assert!(message.len() < 1200 && !message.contains("backtrace") && !message.contains("<non-verbose/>"), "{message}");
    }
}

/// Schemas and grammars made to be expensive: an error or a grammar, soon, and never a panic or an overflow.
#[test]
fn bombs_do_not_go_off() {
    let mut deep = json!({"type": "integer"});
    for _ in 0..2000 {
        deep = json!({"type": "array", "items": deep});
    }
    let mut nested = json!({"type": "integer"});
    for _ in 0..45 {
        nested = json!({"type": "array", "items": nested});
    }
    let mut chain: serde_json::Map<String, Value> = (0..9000).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}))).collect();
    chain.insert("d9000".into(), json!({"type": "null"}));
    let double = |i: u32| {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        (format!("d{i}"), json!({"type": "object", "properties": {"a": next, "b": next}, "required": ["a", "b"]}))
    };
    let mut doubling: serde_json::Map<String, Value> = (0..40).map(double).collect();
    doubling.insert("d40".into(), json!({"type": "null"}));
    let options =
        |n: usize| json!({"anyOf": (0..n).map(|i| json!({"type": "object", "properties": {(format!("p{i}")): {"const": i}}})).collect::<Vec<_>>()});
    let constraints = [
        Constraint::JsonSchema(deep),
        Constraint::JsonSchema(nested),
        Constraint::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": chain})),
        Constraint::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": doubling})),
        Constraint::JsonSchema(json!({"$ref": "#"})),
        Constraint::JsonSchema(json!({"allOf": [{"$ref": "#"}]})),
        Constraint::JsonSchema(json!({"allOf": (0..20).map(|_| options(20)).collect::<Vec<_>>()})),
        Constraint::JsonSchema(json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "string"}})),
        Constraint::JsonSchema(json!({"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000})),
        Constraint::JsonSchema(json!({"type": "object", "minProperties": 100_000})),
        Constraint::JsonSchema(json!({"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"})),
        Constraint::JsonSchema(json!({"type": "integer", "multipleOf": 982_451_653})),
        Constraint::JsonSchema(json!({"enum": (0..20_000).map(|i| format!("{i:x}")).collect::<Vec<_>>()})),
        Constraint::Regex("(a|b)*a(a|b){200}".into()),
        Constraint::Regex("(x+x+)+y".into()),
        Constraint::Regex("(".repeat(10_000) + &")".repeat(10_000)),
        Constraint::Regex(r"\p{L}{1,100000}".into()),
        Constraint::Lark(format!("start: {}\"a\"{}\n", "(".repeat(5000), ")".repeat(5000))),
        Constraint::Lark(
            (0..4000).map(|i| format!("{}: r{}\n", if i == 0 { "start".into() } else { format!("r{i}") }, i + 1)).collect::<String>()
                + "r4000: \"a\"\n",
        ),
        Constraint::Lark("start: start start | \"\"\n".into()),
        Constraint::Lark("start: a*\na: b*\nb: \"x\"*\n".into()),
        Constraint::Lark("start: \"a\"{1,2000000000}\n".into()),
    ];
    let (tokenizer, grammars) = grammars();
    for (i, constraint) in constraints.iter().enumerate() {
        let begin = Instant::now();
        if let Ok(mut grammar) = grammars.compile(constraint) {
            // Compiled: then every step is bounded as well.
            for seed in 0..40 {
                let Ok(mask) = grammar.mask() else { break };
                let allowed: Vec<u32> = mask.tokens().filter(|&t| t != 2).collect();
                if allowed.is_empty() || grammar.must_stop() || grammar.accept(allowed[seed * 31 % allowed.len()]).is_err() {
                    break;
                }
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "constraint {i} took {:?}", begin.elapsed());
    }
    // And the next request is served as if nothing had been.
    let text = raw(tokenizer, &answer(grammars.compile(&Constraint::choice(&["fine"])).unwrap(), tokenizer, &[2], 0));
    assert_eq!(text, "fine");
}

fn with_tool_tokens(special: bool) -> Tokenizer {
    let text = ["call a tool: {\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}} and then some more text about tools"; 3];
    let trained = train(text, &TrainerConfig { vocab_size: 300, ..TrainerConfig::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    trained.save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let first = trained.vocab_size();
    for (i, content) in ["<tool_call>", "</tool_call>", "<|end|>"].iter().enumerate() {
        let special = special || i == 2;
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": first + i, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
        }));
    }
    std::fs::write(&path, json.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

/// Calls in a text, as the server reads them; an error where one is not whole.
fn calls(text: &str) -> Result<(Vec<Value>, String), String> {
    let mut rest = text;
    let (mut found, mut free) = (Vec::new(), String::new());
    while let Some((before, after)) = rest.split_once("<tool_call>") {
        let (call, after) = after.split_once("</tool_call>").ok_or("a call without an end")?;
        let call = call.strip_prefix('\n').and_then(|c| c.strip_suffix('\n')).ok_or("a call without line breaks")?;
        found.push(serde_json::from_str(call).map_err(|e| format!("{e}: {call}"))?);
        free.push_str(before);
        rest = after;
    }
    free.push_str(rest);
    Ok((found, free))
}

#[test]
fn tool_calls_are_whole_whatever_the_model_says_around_them() {
    let weather = json!({"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "additionalProperties": false, "$defs": {"city": {"enum": ["Paris", "Köln"]}}});
    let tools = [Tool { name: "weather", parameters: &weather }, Tool { name: "say \"hi\"", parameters: &Value::Null }];
    for special in [true, false] {
        let tokenizer = with_tool_tokens(special);
        let end = tokenizer.special_id("<|end|>").unwrap();
        let open = tokenizer.special_id("<tool_call>").unwrap();
        let grammars = Grammars::new(&tokenizer, &[end]);
        let compile = |rules| grammars.compile(&lark_tools(&tokenizer, &tools, rules).unwrap()).unwrap();
        let run = |rules, seed: u64, keen: bool| {
            let mut grammar = compile(rules);
            let mut tokens: Vec<u32> = Vec::new();
            while !grammar.must_stop() && tokens.len() < 600 {
                let mut rng = Seed(seed).at(tokens.len() as u64).rng();
                let mut logits: Vec<f32> = (0..tokenizer.vocab_size()).map(|_| rng.normal() as f32).collect();
                logits[end as usize] += if tokens.len() > 40 { 50.0 } else { -50.0 };
                if keen && tokens.len() % 9 == 3 {
                    logits[open as usize] += 20.0;
                }
                grammar.apply(&mut logits).unwrap();
                let token = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
                grammar.accept(token).unwrap();
                if token == end {
                    return tokenizer.decode(&tokens, false);
                }
                tokens.push(token);
            }
            assert!(grammar.must_stop(), "no end: {}", tokenizer.decode(&tokens, false));
            tokenizer.decode(&tokens, false)
        };
        let valid = |call: &Value| match call["name"].as_str() {
            Some("weather") => ["Paris", "Köln"].contains(&call["arguments"]["city"].as_str().unwrap()),
            Some("say \"hi\"") => call["arguments"] == json!({}),
            _ => false,
        };
        let mut called = 0;
        for seed in 0..6 {
            let text = run(ToolRules::auto(), seed, true);
            let (found, free) = calls(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
            assert!(found.iter().all(valid), "{text}");
            assert!(!free.contains("tool_call>"), "{text}");
            called += found.len();

            let (found, free) = calls(&run(ToolRules::required(), seed, false)).unwrap();
            assert!(!found.is_empty() && found.iter().all(valid) && free.trim().is_empty(), "{found:?} {free:?}");
            let (found, _) = calls(&run(ToolRules::required().single(), seed, true)).unwrap();
            assert_eq!(found.len(), 1);
            let (found, _) = calls(&run(ToolRules::auto().single(), seed, true)).unwrap();
            assert!(found.len() <= 1, "{found:?}");
        }
        assert!(called > 3, "a model that wants to call may do so: {called} calls");
        // An answer without a call, and one that is a text the template writes.
        let mut plain = compile(ToolRules::auto());
        assert!(plain.is_complete(), "silence");
        let template = "I look it up.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"say \\\"hi\\\"\", \"arguments\": {}}\n</tool_call>";
        let tokens = tokenizer.encode_with_special(template);
        assert_eq!(plain.validate(&tokens), tokens.len(), "special {special}");
        tokens.iter().for_each(|&t| plain.accept(t).unwrap());
        assert!(plain.is_complete());
    }
    let tokenizer = with_tool_tokens(true);
    for (tools, rules) in [(&[][..], ToolRules::auto()), (&tools[..], ToolRules { text: true, least: 2, most: Some(1) })] {
        assert!(matches!(lark_tools(&tokenizer, tools, rules), Err(Error::Grammar(_))));
    }
    assert!(lark_tools(&tokenizer, &[Tool { name: "x", parameters: &json!([1]) }], ToolRules::auto()).is_err());
}

/// A vocabulary as large as today's models have: how long the first grammar takes, and a mask. Run with `--nocapture` to see.
#[test]
fn a_large_vocabulary_is_ready_soon() {
    const LETTERS: &[u8] = b" etaoinshrdlucmfwypvbgkjqxz0123456789\"{}:,";
    let mut rng = Seed(1).rng();
    let ranks: Vec<Vec<u8>> = {
        let mut seen: std::collections::BTreeSet<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let mut words: Vec<Vec<u8>> = seen.iter().cloned().collect();
        while words.len() < 128_000 {
            // Merges of earlier tokens, as BPE has them.
            let mut word = words[rng.below(words.len().min(20_000))].clone();
            word.push(LETTERS[rng.below(LETTERS.len())]);
            if word.len() < 14 && seen.insert(word.clone()) {
                words.push(word);
            }
        }
        words
    };
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (rank, word) in ranks.iter().enumerate() {
        text.push_str(&format!("{} {rank}\n", base64(word)));
    }
    let path = dir.path().join("large.tiktoken");
    std::fs::write(&path, text).unwrap();
    let tokenizer = Tokenizer::load(&path).unwrap();
    let begin = Instant::now();
    let grammars = Grammars::new(&tokenizer, &[]);
    grammars.prepare().unwrap();
    let built = begin.elapsed();
    let begin = Instant::now();
    let mut grammar = grammars.compile(&Constraint::JsonSchema(schemas().remove(0).0)).unwrap();
    let compiled = begin.elapsed();
    let begin = Instant::now();
    let mut steps = 0u32;
    while !grammar.must_stop() && steps < 200 {
        let allowed: Vec<u32> = grammar.mask().unwrap().tokens().collect();
        if allowed.is_empty() {
            break;
        }
        grammar.accept(allowed[rng.below(allowed.len())]).unwrap();
        steps += 1;
    }
    println!("vocabulary of 128000: trie {built:?}, compile {compiled:?}, step {:?}", begin.elapsed() / steps.max(1));
    assert!(built < Duration::from_secs(30) && compiled < Duration::from_secs(10));
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            text.push(if i <= chunk.len() { char::from(DIGITS[(word >> (18 - 6 * i)) as usize & 63]) } else { '=' });
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The mask and `accept` agree: what is allowed is accepted, and `validate` counts it.
    #[test]
    fn whatever_the_mask_allows_is_accepted(which in 0usize..14, picks in prop::collection::vec(any::<u32>(), 1..60)) {
        let constraint = match which {
            11 => Constraint::JsonObject,
            12 => Constraint::Regex(r"(\w+ ?){1,4}[.!]".into()),
            13 => Constraint::Lark("start: (WORD \" \")* \"end\"\nWORD: /[a-zé]+/\n".into()),
            i => Constraint::JsonSchema(schemas().swap_remove(i).0),
        };
        let mut grammar = compile(&constraint);
        for pick in picks {
            let allowed: Vec<u32> = grammar.mask().unwrap().tokens().collect();
            prop_assert!(!allowed.is_empty());
            prop_assert_eq!(allowed.contains(&2), grammar.is_complete());
            let token = allowed[pick as usize % allowed.len()];
            if !grammar.must_stop() {
                prop_assert_eq!(grammar.validate(&[token]), 1);
            }
            let mut other = grammar.clone();
            prop_assert!(other.accept(token).is_ok());
            grammar.accept(token).unwrap();
            if token == 2 {
                break;
            }
        }
    }
}
