//! Files of other programs: the ids that their own programs give, and a way back.
mod common;

use common::{any_text, fixtures, hard_texts, shared};
use llm_tokenizer::{Format, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;

/// Inputs of the kitoken vectors: a line each, `\n` written out, `\s` at the end for a blank.
fn kitoken_inputs(name: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(shared(&format!("tokenizers/kitoken/{name}_input.txt"))?).unwrap();
    if name == "utf8" {
        return Some(vec![text]);
    }
    let line = |line: &str| {
        let line = line.replace("\\n", "\n");
        line.strip_suffix("\\s").map(|l| format!("{l} ")).unwrap_or(line)
    };
    Some(text.lines().map(line).collect())
}

fn ids_of(text: &str) -> Vec<Vec<u32>> {
    text.lines().map(|line| line.split(',').filter_map(|id| id.trim().parse().ok()).collect()).collect()
}

/// If this fails, a tokenizer that people have on disk gives other ids here than everywhere else.
#[test]
fn published_vocabularies() {
    for (file, vectors) in [
        ("gpt2/encoder.json", "tokenizers/*_tokens_gpt2.txt"),
        ("clip/bpe_simple_vocab_16e6.txt.gz", "tokenizers/*_tokens_clip_base.txt"),
        ("llama2/tokenizer.model", "sentencepiece/*_tokens_llama2.txt"),
        ("mistral/mistral_instruct_tokenizer_240323.model.v3", "sentencepiece/*_tokens_mistral03.txt"),
        ("tiktoken/cl100k_base.tiktoken", "tiktoken/*_tokens_cl100k_base.txt"),
        ("tiktoken/llama3_tokenizer.model", "tokenizers/*_tokens_llama32.txt"),
        ("kitoken/tokenizers/gpt_neox.json", "tokenizers/*_tokens_gpt_neox.txt"),
        ("kitoken/tokenizers/bert_base_cased.json", "tokenizers/*_tokens_bert_base_cased.txt"),
        ("kitoken/tokenizers/sqlpilot.json", "tokenizers/*_tokens_sqlpilot.txt"),
        ("kitoken/tokenizers/hw_doc_summarizer.json", "tokenizers/*_tokens_hw_doc_summarizer.txt"),
    ] {
        let Some(path) = shared(&format!("tokenizers/{file}")) else { continue };
        let tokenizer = Tokenizer::load(&path).unwrap();
        for name in ["small", "mixed", "utf8"] {
            let expected = shared(&format!("tokenizers/kitoken/{}", vectors.replace('*', name))).unwrap();
            let expected = ids_of(&std::fs::read_to_string(expected).unwrap());
            let inputs = kitoken_inputs(name).unwrap();
            assert_eq!(inputs.len(), expected.len(), "{file} {name}");
            for (text, ids) in inputs.iter().zip(&expected) {
                // `sentencepiece` finds no control tokens in text.
                let found = if vectors.starts_with("sentencepiece") { tokenizer.encode(text) } else { tokenizer.encode_with_special(text) };
                assert_eq!(&found, ids, "{file} {name}: {:?}", text.chars().take(200).collect::<String>());
            }
        }
    }
}

/// llama.cpp's own test vectors.
#[test]
fn gguf_vocabularies() {
    for (vocabulary, vectors) in [
        ("llama_cpp/ggml-vocab-llama-spm.gguf", "ggml-vocab-llama-spm"),
        ("llama_cpp/ggml-vocab-gpt-2.gguf", "ggml-vocab-gpt-2"),
        ("llama_cpp/ggml-vocab-bert-bge.gguf", "ggml-vocab-bert-bge"),
        ("llama2/tokenizer.model", "ggml-vocab-phi-3"),
        ("tiktoken/llama3_tokenizer.model", "ggml-vocab-llama-bpe"),
    ] {
        let (Some(file), Some(inputs), Some(outputs)) = (
            shared(&format!("tokenizers/{vocabulary}")),
            shared(&format!("tokenizers/llama_cpp/{vectors}.gguf.inp")),
            shared(&format!("tokenizers/llama_cpp/{vectors}.gguf.out")),
        ) else {
            continue;
        };
        let tokenizer = Tokenizer::load(file).unwrap();
        let inputs = std::fs::read_to_string(inputs).unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs = std::fs::read_to_string(outputs).unwrap();
        let mut checked = 0;
        for (text, line) in inputs.iter().zip(outputs.lines()) {
            let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text), ids, "{vectors}: {text:?}");
            checked += 1;
        }
        assert!(checked > 30, "{vectors}: {checked}");
    }
}

/// Small models with the ids that `sentencepiece` and `tiktoken` give.
#[test]
fn recorded_models() {
    for (name, file, key) in [
        ("sentencepiece_bpe", "tokenizer.model", "ids"),
        ("sentencepiece_unigram", "tokenizer.model", "ids"),
        ("tiktoken_tiny", "tiny.tiktoken", "ids_special_as_text"),
    ] {
        let dir = fixtures().join("tokenizers").join(name);
        let recorded: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap();
        let tokenizer = match name {
            // The pattern and control tokens are beside the ranks.
            "tiktoken_tiny" => {
                let copy = tempfile::tempdir().unwrap();
                let ranks = copy.path().join(file);
                std::fs::copy(dir.join(file), &ranks).unwrap();
                let beside = serde_json::json!({"pat_str": recorded["pattern"], "special_tokens": recorded["special_tokens"]});
                std::fs::write(ranks.with_extension("json"), beside.to_string()).unwrap();
                Tokenizer::load(ranks).unwrap()
            }
            _ => Tokenizer::load(dir.join(file)).unwrap(),
        };
        assert!(tokenizer.is_native());
        for case in recorded["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text);
            assert_eq!(serde_json::json!(ids), case[key], "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, true), case["decoded"], "{name}: {text:?}");
            let mut stream = tokenizer.decode_stream(true);
            let pieces: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            assert_eq!(pieces + &stream.finish(), case["decoded"], "{name}: streamed {text:?}");
            if let Some(allowed) = case.get("ids_special_allowed") {
                assert_eq!(&serde_json::json!(tokenizer.encode_with_special(text)), allowed, "{name}: {text:?}");
            }
        }
    }
}

/// What can be written is read again as the same tokenizer, here and by the `tokenizers` crate.
#[test]
fn round_trips() {
    let dir = tempfile::tempdir().unwrap();
    for (file, formats) in [
        ("llama2/tokenizer.model", &[Format::Hf, Format::Sentencepiece, Format::Gguf][..]),
        ("gpt2/encoder.json", &[Format::Hf, Format::Tiktoken, Format::Gguf]),
        ("tiktoken/llama3_tokenizer.model", &[Format::Hf, Format::Tiktoken, Format::Gguf]),
        ("tiktoken/cl100k_base.tiktoken", &[Format::Hf, Format::Tiktoken]),
        ("sentencepiece/test_model.model", &[Format::Hf, Format::Sentencepiece]),
        ("llama_cpp/ggml-vocab-llama-spm.gguf", &[Format::Hf, Format::Sentencepiece, Format::Gguf]),
    ] {
        let Some(path) = shared(&format!("tokenizers/{file}")) else { continue };
        let tokenizer = Tokenizer::load(&path).unwrap();
        for &format in formats {
            let out = dir.path().join(format!("{}-{format:?}", file.replace('/', "-")));
            let out = if format == Format::Tiktoken { out.with_extension("tiktoken") } else { out };
            tokenizer.save_as(format, &out).unwrap();
            let again = Tokenizer::load(&out).unwrap();
            let theirs = (format == Format::Hf).then(|| common::reference(&out.join("tokenizer.json")));
            for text in hard_texts() {
                // A Unigram model of the library finds control tokens by itself; they are cut in two there.
                if file.contains("test_model") && format == Format::Hf && text.contains("</s>") {
                    continue;
                }
                let ids = tokenizer.encode(&text);
                assert_eq!(again.encode(&text), ids, "{file} as {format:?}: {text:.100?}");
                // What stands for the unknown is spelled differently in a tokenizer.json.
                if !tokenizer.decode(&ids, true).contains('\u{2047}') {
                    assert_eq!(again.decode(&ids, true), tokenizer.decode(&ids, true), "{file} as {format:?}: {text:.100?}");
                }
                if let Some(theirs) = &theirs {
                    assert_eq!(common::reference_ids(theirs, &text), again.encode_with_special(&text), "{file} in `tokenizers`: {text:.100?}");
                }
            }
        }
        for refused in [Format::Sentencepiece, Format::Tiktoken].iter().filter(|f| !formats.contains(f)) {
            let error = tokenizer.save_as(*refused, dir.path().join("never")).unwrap_err().to_string();
            assert!(error.contains("cannot express"), "{file}: {error}");
            assert!(!dir.path().join("never").exists());
        }
    }
}

/// Llama's pipelines in a `tokenizer.json` give what `tokenizers` gives, blanks and unknown characters included.
#[test]
fn pieces_of_a_tokenizer_json() {
    let model = Tokenizer::load(fixtures().join("tokenizers/sentencepiece_bpe/tokenizer.model")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
    let original: Value = serde_json::from_str(&text).unwrap();
    let blank_rule = original["normalizer"]["normalizers"].as_array().unwrap().last().unwrap().clone();
    let metaspace = |scheme: &str| serde_json::json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
    let mut variants = vec![original.clone()];
    for scheme in ["always", "first", "never"] {
        let mut variant = original.clone();
        variant["normalizer"] = Value::Null;
        variant["pre_tokenizer"] = metaspace(scheme);
        variants.push(variant);
    }
    let mut gemma = original.clone();
    gemma["normalizer"] = blank_rule;
    gemma["pre_tokenizer"] = serde_json::json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    gemma["decoder"]["decoders"].as_array_mut().unwrap().pop();
    variants.push(gemma);
    let mut unknown = original;
    unknown["model"]["byte_fallback"] = false.into();
    variants.push(unknown.clone());
    unknown["model"]["fuse_unk"] = false.into();
    variants.push(unknown);
    for (i, variant) in variants.iter().enumerate() {
        let file = dir.path().join(format!("{i}.json"));
        std::fs::write(&file, variant.to_string()).unwrap();
        let ours = Tokenizer::load(&file).unwrap();
        assert!(ours.is_native(), "variant {i}");
        let theirs = common::reference(&file);
        let mut texts = hard_texts();
        texts.extend(["<s> x</s>y", " <s>", "a<s>", "\u{2581}x \u{2581}", "é\u{1f9ff}é"].map(String::from));
        for text in texts {
            let ids = ours.encode_with_special(&text);
            assert_eq!(ids, common::reference_ids(&theirs, &text), "variant {i}: {text:.100?}");
            for skip in [true, false] {
                assert_eq!(ours.decode(&ids, skip), theirs.decode(&ids, skip).unwrap(), "variant {i}: {text:.100?}");
            }
        }
        // Bytes that are not text, in every order.
        let bytes: Vec<u32> = "<0xE6> <0x97> <0x41> <0xFF>".split(' ').map(|b| theirs.token_to_id(b).unwrap()).collect();
        for a in &bytes {
            for b in &bytes {
                let ids = [bytes[0], *a, *b, 300, *b, bytes[1]];
                assert_eq!(ours.decode(&ids, true), theirs.decode(&ids, true).unwrap(), "variant {i}");
            }
        }
    }
}

/// Unigram: from the `.model`, from the `tokenizer.json` written from it, and in `tokenizers`.
#[test]
fn unigram_of_a_tokenizer_json() {
    let model = Tokenizer::load(fixtures().join("tokenizers/sentencepiece_unigram/tokenizer.model")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let ours = Tokenizer::load(dir.path()).unwrap();
    assert!(ours.is_native());
    let theirs = common::reference(&dir.path().join("tokenizer.json"));
    for text in hard_texts() {
        assert_eq!(ours.encode(&text), model.encode(&text), "{text:.100?}");
        let ids = ours.encode_with_special(&text);
        assert_eq!(ids, common::reference_ids(&theirs, &text), "{text:.100?}");
        assert_eq!(ours.decode(&ids, true), theirs.decode(&ids, true).unwrap(), "{text:.100?}");
    }
    let back = dir.path().join("back.model");
    ours.save_as(Format::Sentencepiece, &back).unwrap();
    let back = Tokenizer::load(back).unwrap();
    for text in hard_texts() {
        assert_eq!(back.encode(&text), model.encode(&text), "{text:.100?}");
    }
}

/// A model that finds control tokens by itself must not do so in text of strangers.
#[test]
fn the_other_library_gives_no_control_token_either() {
    let Some(dir) = shared("tokenizers/sentencepiece") else { return };
    let model = Tokenizer::load(dir.join("test_model.model")).unwrap();
    let out = tempfile::tempdir().unwrap();
    model.save(out.path()).unwrap();
    let ours = Tokenizer::load(out.path()).unwrap();
    let (end, unknown) = (ours.special_id("</s>").unwrap(), ours.special_id("<unk>").unwrap());
    for text in ["</s>", "a</s>b", "x </s></s>", "<s>"] {
        let ids = ours.encode(text);
        assert!(ids.iter().all(|&id| id == unknown || !ours.is_special(id)), "{text}: {ids:?}");
        assert!(!ids.is_empty());
    }
    assert!(ours.encode_with_special("a</s>").contains(&end));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    /// A `.model` file and the `tokenizer.json` written from it are one tokenizer.
    #[test]
    fn model_and_json_agree(text in any_text()) {
        thread_local!(static PAIR: (Tokenizer, tokenizers::Tokenizer) = {
            let ours = Tokenizer::load(fixtures().join("tokenizers/sentencepiece_bpe/tokenizer.model")).unwrap();
            let out = tempfile::tempdir().unwrap();
            ours.save(out.path()).unwrap();
            (ours, common::reference(&out.path().join("tokenizer.json")))
        });
        PAIR.with(|(ours, theirs)| {
            // Control tokens in text are the JSON's business.
            if !text.contains("<s>") && !text.contains("</s>") && !text.contains("<unk>") && !text.contains("<pad>") {
                assert_eq!(ours.encode(&text), common::reference_ids(theirs, &text));
            }
        });
    }
}

/// Damaged files are errors that name the file and what is wrong in it, whatever was cut off or changed.
#[test]
fn damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        "llama_cpp/ggml-vocab-llama-spm.gguf",
        "sentencepiece/test_model.model",
        "tiktoken/cl100k_base.tiktoken",
        "kitoken/tokenizers/sqlpilot.json",
    ];
    for name in files {
        let Some(path) = shared(&format!("tokenizers/{name}")) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        let copy = dir.path().join(path.file_name().unwrap());
        for keep in [0, 1, 3, 4, 7, 20, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&copy, &bytes[..keep]).unwrap();
            if let Err(error) = Tokenizer::load(&copy) {
                let error = error.to_string();
                assert!(
                    error.contains(copy.file_name().unwrap().to_str().unwrap()) && error.len() > copy.display().to_string().len() + 10,
                    "{error}"
                );
            } else {
                assert!(keep + 1 == bytes.len(), "{name} cut to {keep} bytes was accepted");
            }
        }
    }
    for (name, content, expected) in [
        ("a.tiktoken", "IQ== 0\nIg== x\n", "line 2: expected base64"),
        ("a.tiktoken", "IQ== 0\nIg== 0\n", "rank 0 is given twice"),
        ("a.tiktoken", "IQ== 0\n", "a.json beside it"),
        ("a.gguf", "GGUF\u{1}\0\0\0", "version 1"),
        ("a.bin", "hello", "not a tokenizer that is known here"),
    ] {
        std::fs::write(dir.path().join(name), content).unwrap();
        let error = Tokenizer::load(dir.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(Tokenizer::load(empty.path()).unwrap_err().to_string().contains("no tokenizer.json here"));
}

/// A folder of each kind is found without naming the file.
#[test]
fn folders() {
    for (folder, native) in [("llama2", true), ("gpt2", true), ("minimind", true)] {
        let Some(path) = shared(&format!("tokenizers/{folder}")) else { continue };
        let tokenizer = Tokenizer::load(path).unwrap();
        assert_eq!(tokenizer.is_native(), native);
        assert!(tokenizer.eos_id().is_some(), "{folder}");
    }
    if let Some(path) = shared("tokenizers/llama_cpp") {
        assert!(Tokenizer::load(Path::new(&path)).unwrap_err().to_string().contains("name one"));
    }
}

/// Offsets are those of `tokenizers` where the pipeline is the same there.
#[test]
fn offsets() {
    let dir = tempfile::tempdir().unwrap();
    for (file, exact) in [
        ("llama2/tokenizer.model", true),
        ("gpt2/encoder.json", true),
        // Its post-processor takes blanks out of the ranges.
        ("kitoken/tokenizers/gpt_neox.json", false),
        ("kitoken/tokenizers/sqlpilot.json", true),
        ("kitoken/tokenizers/bert_base_cased.json", true),
        // Its characters are put together first.
        ("sentencepiece/test_model.model", false),
    ] {
        let Some(path) = shared(&format!("tokenizers/{file}")) else { continue };
        let ours = Tokenizer::load(&path).unwrap();
        let out = dir.path().join(file.replace('/', "-"));
        ours.save(&out).unwrap();
        let theirs = common::reference(&out.join("tokenizer.json"));
        for text in hard_texts() {
            let encoding = ours.encode_with_special_and_offsets(&text);
            assert_eq!(encoding.ids, ours.encode_with_special(&text), "{file}: {text:.100?}");
            assert_eq!(ours.encode_with_offsets(&text).ids, ours.encode(&text), "{file}: {text:.100?}");
            let expected = theirs.encode(text.as_str(), false).unwrap();
            if exact {
                let expected: Vec<_> = expected.get_offsets().iter().map(|&(start, end)| start..end).collect();
                assert_eq!(encoding.offsets, expected, "{file}: {text:.100?}");
            }
            assert!(encoding.offsets.iter().all(|range| text.get(range.clone()).is_some()), "{file}: {text:.100?}");
            assert!(encoding.offsets.windows(2).all(|pair| pair[0].start <= pair[1].start), "{file}: {text:.100?}");
        }
    }
}
