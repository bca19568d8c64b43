//! Embeddings against the forward pass.

use llm_arch::{PackedBatch, hf};
use llm_infer::{Error, Model, Pooling, embed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tokenizer::Tokenizer;
use std::path::Path;

fn model(name: &str) -> Model {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let decoder = hf::load(fixtures.join("decoder").join(name), &Device::flex()).unwrap();
    Model::from_parts(decoder, Tokenizer::load(fixtures.join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap(), name)
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// A text's vector is its own: neither its neighbours in the batch nor their lengths change it.
#[test]
fn vectors_are_pooled_hidden_states_of_each_sequence_alone() {
    // The second model's rotary frequencies depend on the length.
    for name in ["llama_gqa_untied", "llama_rope_dynamic"] {
        let model = model(name);
        let d = model.decoder.config().hidden_size;
        let sequences: Vec<Vec<u32>> = [3u32, 1, 20, 7].iter().map(|&n| (0..n).map(|i| (5 + i * 11 + n) % 120).collect()).collect();
        for pooling in [Pooling::Last, Pooling::Mean, Pooling::Cls] {
            let vectors = embed(&model, &sequences, pooling, false).unwrap();
            let units = embed(&model, &sequences, pooling, true).unwrap();
            for ((tokens, vector), unit) in sequences.iter().zip(&vectors).zip(&units) {
                let hidden = to_vec(model.decoder.hidden(&PackedBatch::sequence(tokens)));
                let rows: Vec<&[f32]> = hidden.chunks_exact(d).collect();
                let expected = match pooling {
                    Pooling::Last => rows[rows.len() - 1].to_vec(),
                    Pooling::Cls => rows[0].to_vec(),
                    Pooling::Mean => (0..d).map(|i| rows.iter().map(|r| r[i]).sum::<f32>() / rows.len() as f32).collect(),
                };
                assert!(close(vector, &expected), "{name}, {pooling:?}, {} tokens", tokens.len());
                let norm = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!(close(unit, &expected.iter().map(|x| x / norm).collect::<Vec<_>>()));
                assert!((unit.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn more_texts_than_fit_a_pass_and_texts_that_fit_nowhere() {
    let model = model("llama_gqa_untied");
    let many: Vec<Vec<u32>> = (0..100u32).map(|n| (0..90).map(|i| (i * 7 + n) % 120).collect()).collect();
    let vectors = embed(&model, &many, Pooling::Mean, true).unwrap();
    assert_eq!(vectors.len(), 100);
    assert!(close(&vectors[99], &embed(&model, &many[99..], Pooling::Mean, true).unwrap()[0]));
    assert!(embed(&model, &[], Pooling::Last, true).unwrap().is_empty());
    assert!(matches!(embed(&model, &[vec![3; 1000]], Pooling::Last, true), Err(Error::ContextLength { .. })));
    assert!(embed(&model, &[vec![]], Pooling::Last, true).is_err());
    assert!(embed(&model, &[vec![1 << 20]], Pooling::Last, true).is_err());
}
