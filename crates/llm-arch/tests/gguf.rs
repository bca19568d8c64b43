//! GGUF files against llama.cpp's own Python package (`fixtures/gguf`, made by `benches/peers/make_gguf_fixtures.py`) and against transformers'
//! recorded numbers. If these fail, a model that others converted computes something else here, or one of ours does there.

use llm_arch::{Decoder, DecoderConfig, PackedBatch, gguf, hf, parity};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::quant::Activations;
use llm_tensor::quant::gguf::{BlockType, WRITTEN, dequantize, packed, quantize};
use llm_tensor::{Precision, params};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::formats::gguf::{Header, Metadata, TensorInfo, Value};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// zlib's CRC-32, which Python has.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 }))
}

/// Worst difference relative to the largest expected value.
fn off(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max) / largest
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|i| (i * 29 + 3) % decoder.config().vocab_size as u32).collect();
    to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&ids))))
}

struct Blocks {
    bytes: Vec<u8>,
    header: Header,
}

impl Blocks {
    fn open() -> Self {
        let path = fixtures("gguf/blocks.gguf");
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(&bytes[..], &path).unwrap();
        Self { bytes, header }
    }

    fn tensor(&self, name: &str) -> (&TensorInfo, BlockType, &[u8]) {
        let info = self.header.tensors.iter().find(|t| t.name == name).unwrap();
        let kind = BlockType::from_number(info.kind).unwrap();
        let bytes = info.shape[0] * kind.row_bytes(info.shape[1]).unwrap();
        (info, kind, &self.bytes[(self.header.data + info.offset) as usize..][..bytes])
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let (_, kind, bytes) = self.tensor(name);
        let mut out = Vec::new();
        dequantize(kind, bytes, &mut out);
        out
    }
}

#[test]
fn blocks_mean_what_llama_cpps_package_says() {
    let file = Blocks::open();
    let kinds = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"];
    for name in kinds {
        let want = file.values(&format!("{name}.values"));
        assert_eq!(off(&file.values(name), &want), 0.0, "{name}");
        let (info, kind, bytes) = file.tensor(name);
        assert_eq!(kind.to_string(), name);
        if let Some(matrix) = packed(kind, [info.shape[0], info.shape[1]], bytes, |r| r).unwrap() {
            assert!(off(&matrix.dequantize(), &want) < 1e-6, "{name}: as a matrix off by {}", off(&matrix.dequantize(), &want));
        }
    }
    let source = file.values("source");
    for kind in WRITTEN {
        let mut bytes = Vec::new();
        quantize(kind, &source, &mut bytes).unwrap();
        assert!(bytes == file.tensor(&kind.to_string()).2, "{kind}: other bytes than the package writes");
    }
}

#[test]
fn metadata_of_every_kind_is_read() {
    let metadata = Blocks::open().header.metadata;
    let value = |name: &str| metadata.0.get(&format!("value.{name}")).unwrap_or_else(|| panic!("no {name}")).clone();
    for name in ["uint8", "uint16", "uint32", "uint64"] {
        assert_eq!(value(name).size(), Some(100), "{name}");
    }
    for name in ["int8", "int16", "int32", "int64"] {
        assert_eq!((value(name).size(), value(name).number()), (None, Some(-100.0)), "{name}");
    }
    assert_eq!((value("float32"), value("float64"), value("bool")), (Value::F32(0.25), Value::F64(0.1), Value::Bool(true)));
    assert_eq!(value("string"), Value::Text("wörter".into()));
    assert_eq!(value("ints"), Value::I32s(vec![1, -2, 3]));
    assert_eq!(value("floats"), Value::F32s(vec![0.5, -1.5]));
    assert_eq!(value("strings"), Value::Texts(vec!["a".into(), String::new(), "ü".into()]));
    assert_eq!(value("bools"), Value::Bools(vec![true, false]));
    let again = Metadata::parse(&metadata.to_bytes()[..], Path::new("again")).unwrap();
    assert_eq!(again, metadata);
}

/// What a GGUF file does not say about a configuration.
fn comparable(config: &DecoderConfig) -> DecoderConfig {
    let mut config = DecoderConfig { pad_token_id: None, ..config.clone() };
    if let Some(moe) = &mut config.moe {
        moe.router_aux_loss_coef = 0.0;
    }
    config
}

/// The decoder fixture, with the one number changed that GGUF cannot say.
fn original(name: &str) -> (Decoder, bool) {
    let dir = fixtures("decoder").join(name);
    let decoder = hf::load(&dir, &Device::flex()).unwrap();
    let mut config = decoder.config().clone();
    let head = config.head_size() as f64;
    if config.query_pre_attn_scalar.is_none_or(|scalar| scalar == head) {
        return (decoder, true);
    }
    config.query_pre_attn_scalar = Some(head);
    (hf::load_with(&dir, &config, &Device::flex(), Precision::F32).unwrap(), false)
}

#[test]
fn names_keys_and_values_are_those_of_llama_cpps_package() {
    let checks: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixtures("gguf/checks.json")).unwrap()).unwrap();
    let checks = checks.as_object().unwrap();
    assert!(checks.len() >= 15);
    for (name, check) in checks {
        let (decoder, recorded) = original(name);
        let ours = gguf::FileTensors::of(&decoder);
        let path = fixtures(&format!("gguf/{name}.header"));
        let mut file = std::fs::read(&path).unwrap();
        let header = Header::parse(&file[..], &path).unwrap();
        assert_eq!(file.len() as u64, header.data, "{name}");
        let (mut left, mut exact): (BTreeMap<String, Vec<usize>>, bool) = (ours.pending().into_iter().map(|t| (t.name, t.shape)).collect(), true);
        file.resize(check["bytes"].as_u64().unwrap() as usize, 0);
        for tensor in &header.tensors {
            let shape = left.remove(&tensor.name).unwrap_or_else(|| panic!("{name}: we do not write `{}`", tensor.name));
            assert_eq!(shape, tensor.shape, "{name}: `{}`", tensor.name);
            let bytes: Vec<u8> = ours.values(&tensor.name).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
            if check["tensors"][&tensor.name] != crc32(&bytes) {
                // Formulas may round otherwise; rows that are moved may not.
                assert_eq!(tensor.name, "rope_freqs.weight", "{name}: other values");
                exact = false;
            }
            file[(header.data + tensor.offset) as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert!(left.is_empty(), "{name}: only we write {:?}", left.keys());
        assert!(!exact || check["file"] == crc32(&file), "{name}: the file is not the one that Python wrote");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, &file).unwrap();
        let read = gguf::load(&path, &Device::flex(), Precision::F32).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(comparable(read.config()), comparable(decoder.config()), "{name}");
        if recorded {
            let report = parity::check_decoder(&read, &fixtures("decoder").join(name), parity::TOLERANCE).unwrap();
            println!("{name:24} logits {:.1e} greedy {:?}", report.logits, report.greedy);
            assert!(report.passed && report.greedy.1 > 0, "{name}: {report:#?}");
        } else {
            assert!(off(&logits(&read), &logits(&decoder)) < 1e-5, "{name}");
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for (name, half) in [
        ("llama_gqa_untied", 2e-3),
        ("llama_rope_llama3", 2e-3),
        ("llama_rope_yarn", 2e-3),
        ("mistral_swa", 2e-3),
        ("mixtral", 0.05), // rounding may send a token to another expert
        ("qwen2", 2e-3),
        ("qwen3", 2e-3),
        ("gemma2", 1e-2), // four norms a block: what was rounded counts for more
        ("phi3", 2e-3),
        ("gpt2", 2e-3),
        ("olmo2", 2e-3),
    ] {
        let (decoder, _) = original(name);
        let want = logits(&decoder);
        for (kind, bar) in [(BlockType::F32, 1e-5), (BlockType::F16, half)] {
            let path = dir.path().join(format!("{name}-{kind}.gguf"));
            gguf::save(&path, &decoder, None, name, kind).unwrap();
            let checkpoint = gguf::Checkpoint::open(&path).unwrap();
            assert_eq!(checkpoint.num_parameters(), decoder.config().num_parameters(), "{name}");
            let read = checkpoint.load(&Device::flex(), Precision::F32).unwrap();
            assert_eq!(comparable(read.config()), comparable(decoder.config()), "{name}");
            // Half precision keeps 11 bits; nothing else may have happened to a value, wherever it went.
            let half = if kind == BlockType::F16 { 2f32.powi(-11) } else { 0.0 };
            let (ours, theirs) = (params::to_host(&decoder), params::to_host(&read));
            for (parameter, original) in &ours {
                let worst = original.values.iter().zip(&theirs[parameter].values).find(|(a, b)| (*a - *b).abs() > half * a.abs() + 2e-7);
                assert!(worst.is_none(), "{name} {kind}: `{parameter}` changed: {worst:?}");
            }
            let off = off(&logits(&read), &want);
            println!("{name:20} {kind:5} {off:.1e}");
            assert!(off < bar, "{name} {kind}: logits off by {off}");
        }
    }
    let falcon = hf::load(fixtures("decoder/falcon"), &Device::flex()).unwrap();
    let message = gguf::save(dir.path().join("falcon.gguf"), &falcon, None, "falcon", BlockType::F16).unwrap_err().to_string();
    assert!(message.contains("Falcon"), "{message}");
    let message = gguf::save(dir.path().join("k.gguf"), &falcon, None, "falcon", BlockType::Q4K).unwrap_err().to_string();
    assert!(message.contains("Q4_K are read but not written") || message.contains("type Q4_K"), "{message}");
}

/// A Llama whose rows are whole blocks of every type.
fn wide() -> Decoder {
    let config = DecoderConfig {
        vocab_size: 96,
        hidden_size: 256,
        intermediate_size: 256,
        num_hidden_layers: 2,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    };
    Decoder::new(&config, Seed(11), &Device::flex()).unwrap()
}

/// The file with every matrix of the blocks replaced by random ones of another type.
fn with_blocks(file: &[u8], kind: BlockType) -> Vec<u8> {
    let header = Header::parse(file, Path::new("wide")).unwrap();
    let (mut infos, mut data) = (Vec::new(), Vec::new());
    let mut rng = Seed(5).rng();
    for tensor in &header.tensors {
        let is_matrix = tensor.name.starts_with("blk.") && tensor.shape.len() == 2;
        let old = BlockType::from_number(tensor.kind).unwrap();
        let kind = if is_matrix { kind } else { old };
        infos.push(TensorInfo { kind: kind.number(), offset: data.len() as u64, ..tensor.clone() });
        let width = *tensor.shape.last().unwrap();
        let rows = tensor.shape.iter().product::<usize>() / width;
        let bytes = kind.row_bytes(width).unwrap() * rows;
        if is_matrix {
            let block = kind.row_bytes(kind.block()).unwrap();
            for _ in 0..bytes / block {
                let mut random: Vec<u8> = (0..block).map(|_| rng.below(256) as u8).collect();
                let halves: &[(usize, f32)] = match kind {
                    BlockType::Q6K => &[(208, 2e-5)],
                    BlockType::Q4K | BlockType::Q5K => &[(0, 1e-4), (2, 1e-4)],
                    BlockType::Q4_1 | BlockType::Q5_1 => &[(0, 0.005), (2, -0.04)],
                    _ => &[(0, 0.005)],
                };
                // Half precision by hand: the type writes its own.
                for (at, value) in halves {
                    let mut two = Vec::new();
                    quantize(BlockType::F16, &[*value], &mut two).unwrap();
                    random[*at..at + 2].copy_from_slice(&two);
                }
                data.extend(random);
            }
        } else {
            data.extend(&file[(header.data + tensor.offset) as usize..][..bytes]);
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    [header.metadata.header_bytes(&infos), data].concat()
}

#[test]
fn quantised_models_compute_what_their_values_say() {
    let dir = tempfile::tempdir().unwrap();
    let decoder = wide();
    let want = logits(&decoder);
    let base = dir.path().join("base.gguf");
    gguf::save(&base, &decoder, None, "base", BlockType::F32).unwrap();
    let base = std::fs::read(&base).unwrap();
    for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q4K, BlockType::Q5K, BlockType::Q6K]
    {
        let path = dir.path().join(format!("{kind}.gguf"));
        if WRITTEN.contains(&kind) {
            gguf::save(&path, &decoder, None, "wide", kind).unwrap();
        } else {
            std::fs::write(&path, with_blocks(&base, kind)).unwrap();
        }
        let loaded = gguf::load(&path, &Device::flex(), Precision::F32).unwrap();
        let mut exact = loaded.clone();
        exact.set_activations(Activations::Exact);
        // The same values in a dense model.
        let values = params::to_host(&exact);
        let mut init = |name: &str, _: &[usize]| Ok(values[name].values.clone());
        let dense = Decoder::build(exact.config(), &Device::flex(), Precision::F32, &mut init).unwrap();
        let reference = logits(&dense);
        let (a, b) = (off(&logits(&exact), &reference), off(&logits(&loaded), &reference));
        println!("{kind:5} exact {a:.1e}, 8-bit inputs {b:.1e}");
        assert!(a < 1e-4, "{kind}: off by {a}");
        assert!(b < 0.05, "{kind}: off by {b} with inputs in 8 bits");
        if WRITTEN.contains(&kind) {
            let (loss, bar) = (off(&reference, &want), if kind == BlockType::Q8_0 { 0.03 } else { 0.4 });
            println!("{kind:5} against the original {loss:.1e}");
            assert!(loss < bar, "{kind}: {loss} from the original");
        }
    }
}

#[test]
fn programs_convert_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (model, file, back) = (dir.path().join("model"), dir.path().join("model.gguf"), dir.path().join("back"));
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_llm-arch")).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let tokenizer = Tokenizer::load(fixtures("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size() + 3,
        hidden_size: 64,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        ..DecoderConfig::default()
    };
    let decoder = Decoder::new(&config, Seed(3), &Device::flex()).unwrap();
    std::fs::create_dir(&model).unwrap();
    hf::save(&model, &decoder).unwrap();
    tokenizer.save(&model).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let (ok, said) = run(&["convert", &path(&model), "--out", &path(&file), "--to", "gguf", "--type", "q8_0"]);
    assert!(ok, "{said}");
    let (ok, said) = run(&["inspect", &path(&file)]);
    assert!(ok && said.contains("Q8_0") && said.contains("every tensor fits"), "{said}");
    let (ok, said) = run(&["generate", &path(&file), "the the", "--max-new-tokens", "4", "--json"]);
    assert!(ok, "{said}");
    let (ok, said) = run(&["convert", &path(&file), "--out", &path(&back)]);
    assert!(ok, "{said}");
    let again = hf::load(&back, &Device::flex()).unwrap();
    assert!(off(&logits(&again), &logits(&decoder)) < 0.03);
    let text = "the quick brown fox, 1234";
    assert_eq!(Tokenizer::load(&back).unwrap().encode(text), tokenizer.encode(text));
    let (ok, said) = run(&["convert", &path(&model), "--out", &path(&dir.path().join("k")), "--to", "gguf", "--type", "q4_k"]);
    assert!(!ok && said.contains("q4_k") && said.contains("Q8_0"), "{said}");
}

/// A small file, whole.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    let config = DecoderConfig {
        vocab_size: 8,
        hidden_size: 32,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: 32,
        ..DecoderConfig::default()
    };
    gguf::save(&path, &Decoder::new(&config, Seed(1), &Device::flex()).unwrap(), None, "small", BlockType::Q8_0).unwrap();
    std::fs::read(&path).unwrap()
});

fn open(bytes: &[u8]) -> Result<gguf::Checkpoint, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    gguf::Checkpoint::open(&path).map_err(|e| e.to_string())
}

/// [`SMALL`] with its metadata changed.
fn edited(edit: impl FnOnce(&mut BTreeMap<String, Value>)) -> Result<gguf::Checkpoint, String> {
    let mut header = Header::parse(&SMALL[..], Path::new("small")).unwrap();
    edit(&mut header.metadata.0);
    open(&[header.metadata.header_bytes(&header.tensors), SMALL[header.data as usize..].to_vec()].concat())
}

#[test]
fn what_is_not_understood_is_named() {
    assert!(edited(|_| ()).is_ok());
    let text = |text: &str| Value::Text(text.into());
    for (key, value, said) in [
        ("general.architecture", Some(text("mamba")), "\"mamba\" is not supported"),
        ("llama.attention.layer_norm_rms_epsilon", None, "llama.attention.layer_norm_rms_epsilon"),
        ("llama.block_count", None, "llama.block_count"),
        ("llama.block_count", Some(Value::U32(2)), "missing `blk.1.attn_norm.weight`"),
        ("llama.logit_scale", Some(Value::F32(0.5)), "llama.logit_scale"),
        ("llama.rope.scaling.type", Some(text("spiral")), "spiral"),
        ("llama.attention.head_count", Some(Value::Text("two".into())), "llama.attention.head_count"),
        ("llama.attention.head_count_kv", Some(Value::I32s(vec![1, 2])), "the same for all layers"),
        ("llama.attention.value_length", Some(Value::U32(8)), "llama.attention.value_length"),
        ("general.alignment", Some(Value::U32(33)), "general.alignment"),
        ("split.count", Some(Value::U32(3)), "split.count"),
    ] {
        let message = edited(|metadata| {
            metadata.remove(key);
            metadata.extend(value.map(|value| (key.to_string(), value)));
        });
        let message = message.map(drop).expect_err(key);
        assert!(message.contains(said) && message.contains("model.gguf"), "{key}: {message}");
    }
    let mut header = Header::parse(&SMALL[..], Path::new("small")).unwrap();
    header.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_up.weight").unwrap().kind = 10;
    let message = open(&[header.metadata.header_bytes(&header.tensors), SMALL[header.data as usize..].to_vec()].concat()).map(drop).unwrap_err();
    assert!(message.contains("`blk.0.ffn_up.weight`") && message.contains("Q2_K") && message.contains("Q4_K"), "{message}");
    let message = open(&SMALL[..SMALL.len() - 64]).map(drop).unwrap_err();
    assert!(message.contains("incomplete"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No damage takes the program down, and no length in a file is believed.
    #[test]
    fn damaged_files_are_an_error(cut in 0usize..20_000, changes in prop::collection::vec((0usize..20_000, any::<u8>()), 0..6)) {
        let mut bytes = SMALL.clone();
        let length = bytes.len();
        // Mostly the header, where the structure is.
        let header = Header::parse(&SMALL[..], Path::new("small")).unwrap().data as usize;
        for (at, value) in changes {
            bytes[if at % 4 == 0 { at % length } else { at % header }] = value;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut % length);
        }
        if let Ok(checkpoint) = open(&bytes)
            && checkpoint.config.max_position_embeddings < 10_000
        {
            let _ = checkpoint.load(&Device::flex(), Precision::F32);
        }
    }
}
