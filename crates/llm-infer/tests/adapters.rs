//! LoRA adapters by request. If one of these fails, a request is answered with somebody else's adapter, or pays for it with other tokens.

use llm_arch::{Adapter, CachedBatch, KvDtype, KvPool, PackedBatch, adapter, hf};
use llm_infer::{AdapterId, Adapters, Engine, EngineConfig, Error, Model, Request, Sampling};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::weights::Weights;
use llm_tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn model() -> Model {
    let decoder = hf::load(fixture("lora/base"), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(fixture("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let mut model = Model::from_parts(decoder, tokenizer, "tiny");
    model.eos_token_ids = vec![];
    model
}

/// The model with an adapter in its weights.
fn merged(name: &str) -> Model {
    let mut model = model();
    let adapter = Adapter::load(fixture("lora").join(name), model.decoder.config()).unwrap();
    model.decoder = adapter::merge(model.decoder, &adapter).unwrap();
    model
}

fn request(i: u32, temperature: f32) -> Request {
    // Three beginnings, so that prefixes would be shared if nothing forbade it.
    let prompt = (0..12 + 9 * (i % 3)).map(|j| (j * 7 + i % 3) % 120).collect();
    Request::new(prompt, Sampling { temperature, seed: u64::from(i), max_tokens: 16, ..Sampling::default() })
}

const NAMES: [&str; 4] = ["qv_r4", "all_linear_rslora", "dora_qv", "qv_lm_head_saved"];

#[test]
fn adapters_in_one_batch_give_the_tokens_of_each_alone() {
    let model = model();
    for temperature in [0.0, 0.8] {
        // With each adapter alone in its engine; the merged model must agree where nothing is drawn.
        let alone: Vec<Vec<Vec<u32>>> = (0..=NAMES.len())
            .map(|a| {
                let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
                let adapter = NAMES.get(a).map(|name| engine.load_adapter(&fixture("lora").join(name)).unwrap());
                let mut alone = |i| engine.generate(vec![Request { adapter, ..request(i, temperature) }]).unwrap().remove(0).tokens;
                (0..6).map(&mut alone).collect()
            })
            .collect();
        for (name, alone) in NAMES.iter().zip(&alone).filter(|_| temperature == 0.0) {
            let mut engine = Engine::new(&merged(name), EngineConfig::default()).unwrap();
            let tokens: Vec<Vec<u32>> = engine.generate((0..6).map(|i| request(i, 0.0)).collect()).unwrap().into_iter().map(|c| c.tokens).collect();
            assert_eq!(&tokens, alone, "{name}: merged");
        }
        assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "adapters that change nothing show nothing");
        for config in [
            EngineConfig::default(),
            EngineConfig { max_batch: 5, max_step_tokens: 11, ..EngineConfig::default() },
            // Too few pages for all: some are preempted and computed again.
            EngineConfig { max_batch: 12, max_step_tokens: 64, kv_pages: 24, page_size: 4, ..EngineConfig::default() },
        ] {
            let mut engine = Engine::new(&model, config).unwrap();
            let ids: Vec<AdapterId> = NAMES.iter().map(|name| engine.load_adapter(&fixture("lora").join(name)).unwrap()).collect();
            let requests = (0..6).flat_map(|i| (0..=NAMES.len()).map(move |a| (i, a)));
            let with = |(i, a): (u32, usize)| Request { adapter: ids.get(a).copied(), ..request(i, temperature) };
            let together = engine.generate(requests.clone().map(with).collect()).unwrap();
            for ((i, a), completion) in requests.zip(together) {
                assert_eq!(completion.tokens, alone[a][i as usize], "request {i} with adapter {a}, temperature {temperature}, {config:?}");
            }
        }
    }
}

/// The recorded logits of PEFT, through the cache and the choice of rows that the engine makes.
#[test]
fn logits_through_the_cache_equal_peft() {
    let text = std::fs::read_to_string(fixture("lora/inputs.json")).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["input_ids"].clone()).unwrap();
    let mut decoder = model().decoder;
    let plain = decoder.clone();
    let mut adapters = Adapters::default();
    for name in NAMES {
        let id = adapters.load(&mut decoder, &fixture("lora").join(name)).unwrap();
        let expected = Weights::open(fixture("lora").join(name).join("expected.safetensors")).unwrap();
        let mut pool = KvPool::new(decoder.config(), 4, 8, KvDtype::F32);
        let pages: [&[u32]; 2] = [&[2, 0], &[1, 3]];
        let n = ids[0].len();
        let batch = CachedBatch {
            ids: ids.concat().into(),
            positions: (0..2 * n as u32).map(|i| i % n as u32).collect(),
            pages: (0..2 * n).map(|i| pages[i / n]).collect(),
        };
        // The first text with the adapter, the second without.
        let rows = || (0..2 * n).map(|i| (i < n).then_some(id));
        adapters.select(rows());
        let hidden = decoder.hidden_cached(&batch, &mut pool);
        adapters.select(rows());
        let logits = to_vec(decoder.logits(hidden));
        adapters.select([]);
        let half = logits.len() / 2;
        let [with, without] = ["logits_adapter", "logits_base"].map(|key| expected.get(key).unwrap().values);
        for (got, want) in [(&logits[..half], &with[..half]), (&logits[half..], &without[half..])] {
            let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
            assert!(worst <= 1e-5 * largest, "{name}: off by {worst:e}, largest {largest}");
        }
    }
    let batch = PackedBatch::sequence(&ids[0]);
    assert_eq!(to_vec(decoder.hidden(&batch)), to_vec(plain.hidden(&batch)), "nobody chose an adapter");
}

#[test]
fn adapters_come_and_go_while_requests_run() {
    let model = model();
    let mut engine = Engine::new(&model, EngineConfig::default()).unwrap();
    let unknown = Request { adapter: Some(AdapterId(0)), ..request(0, 0.0) };
    assert!(matches!(engine.submit(unknown), Err(Error::Request(message)) if message.contains("adapter 0 is not loaded")));
    let plain = engine.generate(vec![request(0, 0.0)]).unwrap().remove(0).tokens;
    let first = engine.load_adapter(&fixture("lora/qv_r4")).unwrap();
    engine.submit(Request { adapter: Some(first), ..request(0, 0.0) }).unwrap();
    let error = engine.unload_adapter(first).unwrap_err().to_string();
    assert!(error.contains("cannot be unloaded: 1 requests use it"), "{error}");
    engine.step().unwrap();
    assert!(engine.unload_adapter(first).is_err());
    // One more while the other runs.
    let second = engine.load_adapter(&fixture("lora/dora_qv")).unwrap();
    assert_ne!(first, second);
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    assert_eq!(engine.adapters().loaded().count(), 2);
    assert!(engine.set_decoder(&model.decoder).unwrap_err().to_string().contains("adapters are loaded"));
    engine.unload_adapter(first).unwrap();
    assert!(engine.unload_adapter(first).is_err());
    // A number is not given again, or what the cache kept for the old one would be found.
    let third = engine.load_adapter(&fixture("lora/all_linear_rslora")).unwrap();
    assert!(third > second);
    engine.unload_adapter(second).unwrap();
    engine.unload_adapter(third).unwrap();
    engine.set_decoder(&model.decoder).unwrap();
    assert_eq!(engine.generate(vec![request(0, 0.0)]).unwrap().remove(0).tokens, plain);
    let error = engine.load_adapter(&fixture("lora")).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}
