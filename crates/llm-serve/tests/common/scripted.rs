//! A model that says what the test tells it to: every piece of its reply is one token, and each token is followed by one other,
//! whatever came before. So tool calls, thoughts and broken JSON can be served by the real engine.
//!
//! Blocks add nothing to the residual stream, and the output row of a token is the embedding of the one before it.

use llm_run::Seed;
use llm_tensor::weights::{HostTensor, save};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const HIDDEN: usize = 128;
const CONTEXT: usize = 16_384;

/// ChatML with Hermes' tools, as Qwen has it, in our own few words.
pub const HERMES: &str = "{% if tools %}<|start_header_id|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}Call with <tool_call>\n\
    {% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}\
    {% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}<|eot_id|>\n\
    {% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}";

/// The same with Mistral's mark.
pub const MISTRAL: &str = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}\
    {% if m.tool_calls %}{{ '[TOOL_CALLS]' }}{{ m.tool_calls | tojson }}{% endif %}<|eot_id|>\n\
    {% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant\n{% endif %}";

/// A folder whose model answers with `pieces`, which have to differ. `special` are control tokens that the vocabulary gets besides its
/// own; pieces may name them.
pub fn model(template: &str, pieces: &[&str], special: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    train(["the cat sat on the mat"], &TrainerConfig { vocab_size: 280, ..TrainerConfig::default() }).unwrap().save(path).unwrap();
    std::fs::write(path.join("chat_template.jinja"), template).unwrap();
    let ids = add_tokens(path, pieces, special);
    let tokenizer = Tokenizer::load(path).unwrap();

    let vocab = tokenizer.vocab_size();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": HIDDEN / 4,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": vocab, "tie_word_embeddings": false,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": tokenizer.bos_id(), "eos_token_id": tokenizer.eos_id(), "torch_dtype": "float32",
    });
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();

    let mut rng = Seed(7).stream("scripted").rng();
    let embedding: Vec<f32> = (0..vocab * HIDDEN).map(|_| rng.normal() as f32).collect();
    let mut head = vec![0.0f32; vocab * HIDDEN];
    let mut follow = |before: u32, after: u32| {
        for i in 0..HIDDEN {
            head[after as usize * HIDDEN + i] += embedding[before as usize * HIDDEN + i];
        }
    };
    // A prompt ends with a line break, or with a thought that was closed for the model.
    let newline = *tokenizer.encode("\n").last().unwrap();
    let starts = [Some(newline), tokenizer.special_id("</think>").filter(|id| !ids.contains(id))];
    starts.into_iter().flatten().for_each(|start| follow(start, ids[0]));
    ids.windows(2).for_each(|pair| follow(pair[0], pair[1]));
    follow(*ids.last().unwrap(), tokenizer.special_id("<|eot_id|>").unwrap());

    let mut tensors = BTreeMap::new();
    let mut put = |name: &str, shape: Vec<usize>, values: Vec<f32>| {
        tensors.insert(name.to_string(), HostTensor { shape, values });
    };
    put("model.embed_tokens.weight", vec![vocab, HIDDEN], embedding);
    put("lm_head.weight", vec![vocab, HIDDEN], head);
    for (name, rows, columns) in [
        ("self_attn.q_proj", HIDDEN, HIDDEN),
        ("self_attn.k_proj", HIDDEN, HIDDEN),
        ("self_attn.v_proj", HIDDEN, HIDDEN),
        ("self_attn.o_proj", HIDDEN, HIDDEN),
        ("mlp.gate_proj", 16, HIDDEN),
        ("mlp.up_proj", 16, HIDDEN),
        ("mlp.down_proj", HIDDEN, 16),
    ] {
        put(&format!("model.layers.0.{name}.weight"), vec![rows, columns], vec![0.0; rows * columns]);
    }
    for name in ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"] {
        put(&format!("{name}.weight"), vec![HIDDEN], vec![1.0; HIDDEN]);
    }
    save(path.join("model.safetensors"), &tensors).unwrap();
    dir
}

/// The ids of the pieces; those that are no control tokens become ordinary added tokens.
fn add_tokens(path: &Path, pieces: &[&str], special: &[&str]) -> Vec<u32> {
    let file = path.join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let before = Tokenizer::load(path).unwrap();
    let mut next = before.vocab_size() as u32;
    let mut ids: BTreeMap<String, u32> = BTreeMap::new();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for (text, is_special) in special.iter().map(|t| (t, true)).chain(pieces.iter().map(|t| (t, false))) {
        if let Some(id) = before.special_id(text) {
            ids.insert(text.to_string(), id);
        } else if !ids.contains_key(*text) {
            added.push(json!({"id": next, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": is_special}));
            ids.insert(text.to_string(), next);
            next += 1;
        }
    }
    std::fs::write(&file, json.to_string()).unwrap();
    pieces.iter().map(|text| ids[*text]).collect()
}
