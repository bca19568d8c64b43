//! A random Llama of a quarter million parameters, written the way Hugging Face lays a model folder out. Weights come from
//! a fixed seed: every test, and every process of a test, sees the same model.

use llm_run::Seed;
use llm_tensor::weights::{HostTensor, save};
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

const HIDDEN: usize = 64;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = HIDDEN / HEADS;
const INTERMEDIATE: usize = 160;
const CONTEXT: usize = 1024;

/// Large enough that greedy replies are not one repeated token.
const STD: f64 = 0.12;

const TEXT: &str = "the cat sat on the mat and the dog sat on the log. one two three four five six seven. \
    ¿cuánto es siete por ocho? wie viel ist drei mal vier? what is two plus three? the answer is four.";

pub fn write(dir: &Path) {
    let tokenizer = train([TEXT, TEXT], &TrainerConfig { vocab_size: 320, ..TrainerConfig::default() }).unwrap();
    tokenizer.save(dir).unwrap();
    let vocab = tokenizer.vocab_size();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "vocab_size": vocab, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": tokenizer.bos_id(), "eos_token_id": tokenizer.eos_id(), "torch_dtype": "float32",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = weights(vocab);
    // End tokens get the logit 0, which is never the highest: greedy replies run to their limit.
    let head = tensors.get_mut("lm_head.weight").unwrap();
    for id in [tokenizer.eos_id().unwrap(), tokenizer.special_id("<|eot_id|>").unwrap()] {
        head.values[id as usize * HIDDEN..][..HIDDEN].fill(0.0);
    }
    save(dir.join("model.safetensors"), &tensors).unwrap();
}

fn weights(vocab: usize) -> BTreeMap<String, HostTensor> {
    let mut tensors = BTreeMap::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        let mut rng = Seed(1).stream(&name).rng();
        let values = (0..rows * columns).map(|_| (rng.normal() * STD) as f32).collect();
        tensors.insert(name, HostTensor { shape: vec![rows, columns], values });
    };
    matrix("model.embed_tokens.weight".into(), vocab, HIDDEN);
    matrix("lm_head.weight".into(), vocab, HIDDEN);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        matrix(name("self_attn.q_proj"), HEADS * HEAD_DIM, HIDDEN);
        matrix(name("self_attn.k_proj"), KV_HEADS * HEAD_DIM, HIDDEN);
        matrix(name("self_attn.v_proj"), KV_HEADS * HEAD_DIM, HIDDEN);
        matrix(name("self_attn.o_proj"), HIDDEN, HEADS * HEAD_DIM);
        matrix(name("mlp.gate_proj"), INTERMEDIATE, HIDDEN);
        matrix(name("mlp.up_proj"), INTERMEDIATE, HIDDEN);
        matrix(name("mlp.down_proj"), HIDDEN, INTERMEDIATE);
    }
    let norms = (0..LAYERS).flat_map(|l| ["input_layernorm", "post_attention_layernorm"].map(|n| format!("model.layers.{l}.{n}.weight")));
    for name in norms.chain(["model.norm.weight".to_string()]) {
        tensors.insert(name, HostTensor { shape: vec![HIDDEN], values: vec![1.0; HIDDEN] });
    }
    tensors
}
