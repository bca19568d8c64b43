//! Likelihoods over shared beginnings against the plain packed forward pass.

use llm_arch::hf;
use llm_infer::{Error, Likelihood, Model, Request, Sampling, Scored, likelihoods, score};
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use std::path::Path;

fn model(name: &str) -> Model {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let decoder = hf::load(fixtures.join("decoder").join(name), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(fixtures.join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    Model::from_parts(decoder, tokenizer, "tiny")
}

/// Questions with answers of one and several tokens, duplicates, an answer that is the beginning of another one, and one that
/// fills the context to the last token that is never fed.
fn sequences(context: usize) -> Vec<(Vec<u32>, usize)> {
    let mut all = Vec::new();
    for question in 0..6u32 {
        let length = (context as u32 / 3).min(20) + question;
        let prompt: Vec<u32> = (0..length).map(|j| if j < length / 2 { j } else { (j * 7 + question) % 100 }).collect();
        for answer in [&[5][..], &[6], &[5, 9, 11], &[5, 9], &[5]] {
            all.push(([&prompt[..], answer].concat(), prompt.len()));
        }
    }
    all.push(((0..=context as u32).map(|i| (i * 13) % 101).collect(), context - 4));
    all
}

fn run(model: &Model, sequences: &[(Vec<u32>, usize)]) -> Vec<Likelihood> {
    let scored: Vec<Scored> = sequences.iter().map(|(tokens, start)| Scored { tokens, start: *start }).collect();
    likelihoods(model, &scored).unwrap()
}

#[test]
fn shared_beginnings_change_nothing() {
    // Plain, sliding window, mixture, latent attention, and frequencies that depend on the length of the text.
    for name in ["llama_gqa_untied", "mistral_swa", "mixtral", "deepseek_v2_lite", "gpt2", "llama_rope_dynamic"] {
        let model = model(name);
        let context = model.decoder.config().max_position_embeddings;
        let sequences = sequences(context);
        let together = run(&model, &sequences);
        for ((tokens, start), got) in sequences.iter().zip(&together) {
            if tokens.len() <= context {
                let logs = score(&model, std::slice::from_ref(tokens)).unwrap().remove(0);
                let expected: f64 = logs[start - 1..].iter().map(|&l| f64::from(l)).sum();
                // Dynamic frequencies see one token less here, the last one is not fed; within the original length that is the same.
                assert!((got.sum - expected).abs() < 2e-5 * expected.abs().max(1.0), "{name}: {got:?} is not {expected}");
            }
        }
        let mut order: Vec<usize> = (0..sequences.len()).rev().collect();
        order.rotate_left(7);
        let shuffled: Vec<_> = order.iter().map(|&i| sequences[i].clone()).collect();
        for (&i, got) in order.iter().zip(run(&model, &shuffled)) {
            assert_eq!(got, together[i], "{name}: the order of requests changed a number");
        }
    }
}

#[test]
fn greedy_is_what_the_engine_writes() {
    let model = model("llama_gqa_untied");
    let prompt: Vec<u32> = (3..30).collect();
    let sampling = Sampling { max_tokens: 5, ..Sampling::default() };
    let request = Request::new(prompt.clone(), sampling);
    let mut quiet = model.clone();
    quiet.eos_token_ids = vec![];
    let written = llm_infer::Engine::new(&quiet, Default::default()).unwrap().generate(vec![request]).unwrap().remove(0).tokens;
    let mut other = written.clone();
    other[3] = (other[3] + 1) % 100;
    let got = run(&model, &[([&prompt[..], &written].concat(), prompt.len()), ([&prompt[..], &other].concat(), prompt.len())]);
    assert_eq!((got[0].greedy, got[1].greedy), (true, false));
}

#[test]
fn senseless_requests_are_refused() {
    let model = model("llama_gqa_untied");
    let context = model.decoder.config().max_position_embeddings;
    let refused = |tokens: &[u32], start| likelihoods(&model, &[Scored { tokens, start }]).unwrap_err();
    assert!(refused(&[1, 2], 0).to_string().contains("at least one token before it"));
    assert!(refused(&[1, 2], 3).to_string().contains("token 3 of 2"));
    assert!(refused(&[1, 1 << 20], 1).to_string().contains("not in the vocabulary"));
    assert!(matches!(refused(&vec![1; context + 2], 1), Error::ContextLength { .. }));
}
