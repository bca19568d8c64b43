//! Decoders whose matrices are stored in fewer than 32 bits. If one of these fails, a model in bfloat16 or with a quantised table gives other
//! scores than the numbers it holds, or its losses disagree with its scores.

use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::nn::Weight;
use llm_tensor::quant::{Activations, Meaning, Packed};

const IDS: [u32; 40] = {
    let mut ids = [0; 40];
    let mut i = 0;
    while i < 40 {
        ids[i] = (i as u32 * 13 + 5) % 90;
        i += 1;
    }
    ids
};

fn decoder(tied: bool) -> Decoder {
    let config = DecoderConfig {
        vocab_size: 90,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 64,
        tie_word_embeddings: tied,
        ..DecoderConfig::default()
    };
    Decoder::new(&config, Seed(7), &Device::flex()).unwrap()
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(&IDS))))
}

/// Root mean square of the difference, relative to that of `a`.
fn moved(a: &[f32], b: &[f32]) -> f32 {
    let (change, size) = a.iter().zip(b).fold((0f32, 0f32), |(c, s), (a, b)| (c + (a - b) * (a - b), s + a * a));
    (change / size).sqrt()
}

/// A matrix rounded to 8 bits in groups of 32.
fn rounded(weight: &Weight) -> Packed {
    let [outputs, inputs] = weight.shape();
    let values = to_vec(weight.val());
    let scales: Vec<f32> = values.chunks(32).map(|g| g.iter().fold(1e-9f32, |m, v| m.max(v.abs())) / 127.0).collect();
    let codes: Vec<u8> = values.iter().enumerate().map(|(i, v)| ((v / scales[i / 32]).round() as i16 + 128) as u8).collect();
    let zeros = vec![128; scales.len()];
    Packed::new([outputs, inputs], 32, None, &codes, Meaning::Bits8, scales, Some(zeros))
}

#[test]
fn bfloat16_is_kept_by_every_matrix_and_scores_stay() {
    for tied in [true, false] {
        let dense = decoder(tied);
        let mut half = dense.clone();
        half.keep_bf16();
        assert!(half.linears_mut().iter().all(|(_, linear)| linear.weight.as_packed().is_some_and(|w| w.bits() == 16)));
        assert!(half.model.embed_tokens.weight.as_packed().is_some());
        let change = moved(&logits(&dense), &logits(&half));
        assert!(change > 0.0 && change < 0.01, "{change}");
    }
}

#[test]
fn a_quantised_table_embeds_scores_and_measures() {
    let dense = decoder(true);
    for activations in [Activations::Exact, Activations::Int8] {
        let mut packed = dense.clone();
        let table = rounded(&packed.model.embed_tokens.weight);
        let device = Device::flex();
        packed.model.embed_tokens.weight = Weight::packed(table, &device);
        for (_, linear) in packed.linears_mut() {
            let matrix = rounded(&linear.weight);
            linear.weight = Weight::packed(matrix, &device);
        }
        packed.set_activations(activations);
        assert_eq!(packed.model.embed_tokens.weight.as_packed().map(Packed::activations), Some(activations));
        let (before, after) = (logits(&dense), logits(&packed));
        assert!(moved(&before, &after) < 0.02, "{activations:?}: {}", moved(&before, &after));

        let targets: Vec<u32> = IDS.iter().map(|id| (id + 1) % 90).collect();
        let hidden = packed.hidden(&PackedBatch::sequence(&IDS));
        let losses = to_vec(packed.nll(hidden, targets.clone().into()));
        for ((loss, logits), target) in losses.iter().zip(after.chunks(90)).zip(targets) {
            let sum: f32 = logits.iter().map(|l| l.exp()).sum();
            assert!((loss - (sum.ln() - logits[target as usize])).abs() < 1e-4, "{loss}");
        }
    }
}
