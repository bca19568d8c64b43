//! A trained model in a GGUF file answers as its author's program does. If this fails, downloaded files give fluent nonsense.
//!
//! The model is karpathy's stories260K in the layout of llama2.c, which pairs the rows of q and k as GGUF does: its numbers are put into the file
//! as they are, so nothing of ours has a part in the file but the header.

use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_tensor::DeviceSpec;
use llm_tensor::quant::gguf::{BlockType, quantize};
use llm_tokenizer::formats::gguf::{Metadata, TensorInfo, Value};
use std::path::{Path, PathBuf};

const NAME: &str = "checkpoints/stories260K";

/// The folder with real data beside the checkout.
fn stories() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(NAME);
    if !dir.join("stories260K.bin").exists() {
        println!("skipped: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

/// The model's file with matrices in `kind` where their rows allow it.
fn file(dir: &Path, kind: BlockType) -> Vec<u8> {
    let bin = std::fs::read(dir.join("stories260K.bin")).unwrap();
    let head: Vec<usize> = bin[..28].as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b) as usize).collect();
    let [dim, hidden, layers, heads, kv_heads, vocab, context] = head[..] else { panic!("{head:?}") };
    let values: Vec<f32> = bin[28..].as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let kv = dim / heads * kv_heads;
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        values[at - n..at].to_vec()
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = vec![("token_embd.weight".into(), vec![vocab, dim], take(vocab * dim))];
    for (name, shape) in [
        ("attn_norm", vec![dim]),
        ("attn_q", vec![dim, dim]),
        ("attn_k", vec![kv, dim]),
        ("attn_v", vec![kv, dim]),
        ("attn_output", vec![dim, dim]),
        ("ffn_norm", vec![dim]),
        ("ffn_gate", vec![hidden, dim]),
        ("ffn_down", vec![dim, hidden]),
        ("ffn_up", vec![hidden, dim]),
    ] {
        for layer in 0..layers {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape.clone(), take(shape.iter().product())));
        }
    }
    tensors.push(("output_norm.weight".into(), vec![dim], take(dim)));

    let mut metadata = words(&std::fs::read(dir.join("tok512.bin")).unwrap(), vocab);
    let number = |n: usize| Value::U32(n as u32);
    for (key, value) in [
        ("general.architecture", Value::Text("llama".into())),
        ("llama.context_length", number(context)),
        ("llama.embedding_length", number(dim)),
        ("llama.block_count", number(layers)),
        ("llama.feed_forward_length", number(hidden)),
        ("llama.attention.head_count", number(heads)),
        ("llama.attention.head_count_kv", number(kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", number(dim / heads)),
    ] {
        metadata.0.insert(key.into(), value);
    }
    let (mut infos, mut data) = (Vec::new(), Vec::new());
    for (name, shape, values) in tensors {
        let fits = shape.len() == 2 && kind.row_bytes(shape[1]).is_some();
        let kind = if fits { kind } else { BlockType::F32 };
        infos.push(TensorInfo { name, shape, kind: kind.number(), offset: data.len() as u64 });
        quantize(kind, &values, &mut data).unwrap();
        data.resize(data.len().next_multiple_of(32), 0);
    }
    [metadata.header_bytes(&infos), data].concat()
}

/// llama2.c's tokenizer: the longest length, then score, length and bytes of each piece.
fn words(bytes: &[u8], vocab: usize) -> Metadata {
    let (mut tokens, mut scores, mut kinds, mut at) = (Vec::new(), Vec::new(), Vec::new(), 4);
    for id in 0..vocab {
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let (score, length) = (f32::from_le_bytes(four(at)), i32::from_le_bytes(four(at + 4)) as usize);
        let text = String::from_utf8(bytes[at + 8..at + 8 + length].to_vec()).unwrap();
        at += 8 + length;
        let (text, kind) = match id {
            0 => ("<unk>".to_string(), 2),
            1 => ("<s>".to_string(), 3),
            2 => ("</s>".to_string(), 3),
            _ if text.starts_with("<0x") && text.len() == 6 => (text, 6),
            _ => (text.replace(' ', "\u{2581}"), 1),
        };
        tokens.push(text);
        scores.push(score);
        kinds.push(kind);
    }
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("model", Value::Text("llama".into())),
        ("tokens", Value::Texts(tokens)),
        ("scores", Value::F32s(scores)),
        ("token_type", Value::I32s(kinds)),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
        ("add_bos_token", Value::Bool(true)),
    ] {
        metadata.0.insert(format!("tokenizer.ggml.{key}"), value);
    }
    metadata
}

/// The greedy text in the model's card.
fn told(dir: &Path) -> String {
    let card = std::fs::read_to_string(dir.join("stories260K.md")).unwrap();
    let (_, rest) = card.split_once("-t 0.0\n").unwrap();
    rest.split_once("```").unwrap().0.trim().to_string()
}

fn text(model: &Model) -> String {
    let request = Request::new(vec![1], Sampling { max_tokens: 256, ..Sampling::default() });
    let completion = Engine::new(model, EngineConfig::default()).unwrap().generate(vec![request]).unwrap().remove(0);
    model.tokenizer.decode(&completion.tokens, true).trim().to_string()
}

#[test]
fn a_trained_model_tells_its_story() {
    let Some(dir) = stories() else { return };
    let told = told(&dir);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stories260K-F32.gguf");
    std::fs::write(&path, file(&dir, BlockType::F32)).unwrap();
    // The file, or the folder in which it is alone.
    for named in [path.as_path(), folder.path()] {
        let model = Model::load(named, &DeviceSpec::Cpu).unwrap();
        assert_eq!((model.id.as_str(), model.eos_token_ids.as_slice()), ("stories260K-F32", &[2][..]));
        let text = text(&model);
        assert!(text.starts_with(&told), "the card says\n{told}\nand we\n{text}");
        assert_eq!(model.tokenizer.decode(&model.tokenizer.encode("Lily's mom said, \"Hi!\""), true), "Lily's mom said, \"Hi!\"");
    }
    let hash = Model::load(&path, &DeviceSpec::Cpu).unwrap().hash;
    // In 8 bits the story begins the same.
    let path = folder.path().join("stories260K-Q8_0.gguf");
    std::fs::write(&path, file(&dir, BlockType::Q8_0)).unwrap();
    let model = Model::load(&path, &DeviceSpec::Cpu).unwrap();
    assert_ne!(model.hash, hash);
    let text = text(&model);
    assert!(text.starts_with("Once upon a time, there was a little girl named Lily. She loved to play outside in the park."), "{text}");
    // Two files in a folder: which one is meant has to be said.
    let message = Model::load(folder.path(), &DeviceSpec::Cpu).unwrap_err().to_string();
    assert!(message.contains("2 GGUF files"), "{message}");
}
