//! Towers, pairs and vision-language models.

use super::images::PIXELS;
use super::{Recorded, larger};
use crate::checkpoint::{load_pair, load_tower, read_json};
use crate::sequence::Sequence;
use crate::{Error, ImageProcessor, Result, RgbImage, TextBatch, Vlm};
use llm_arch::PackedBatch;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::{from_vec, to_vec};
use llm_tensor::{Precision, host};
use serde::Deserialize;
use serde_json::Value;

/// What `inputs.json` may say.
#[derive(Debug, Deserialize)]
struct Inputs {
    input_ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<u32>>,
    #[serde(default)]
    image_token_counts: Vec<usize>,
    #[serde(default)]
    greedy_steps: usize,
}

fn everything(_: usize) -> bool {
    true
}

impl Recorded {
    fn pixels(&self, device: &Device) -> Result<Tensor<4>> {
        let pixels = self.input("pixel_values")?;
        let path = self.dir.join("inputs.safetensors");
        let bad = || Error::file(&path, format!("`pixel_values` has shape {:?}; expected images, channels, rows, columns", pixels.shape));
        let shape: [usize; 4] = pixels.shape.clone().try_into().map_err(|_| bad())?;
        Ok(from_vec(pixels.values, shape, device))
    }

    fn inputs(&self) -> Result<Inputs> {
        let path = self.dir.join("inputs.json");
        let inputs: Inputs = serde_json::from_value(read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
        let length = inputs.input_ids.first().map_or(0, Vec::len);
        let (rows, mask) = (&inputs.input_ids, &inputs.attention_mask);
        if length == 0 || mask.len() != rows.len() || rows.iter().chain(mask).any(|row| row.len() != length) {
            return Err(Error::file(&path, "input_ids and attention_mask must be rows of one length"));
        }
        Ok(inputs)
    }

    fn tensor<const D: usize>(&mut self, quantity: &str, name: &str, got: Tensor<D>) -> Result<()> {
        if !self.expected.contains(name) {
            return Ok(());
        }
        self.compare(quantity, name, &to_vec(got), everything)
    }
}

/// Hidden states of every block, the last one, the pooled vector, and what a vision-language model takes.
pub fn tower(recorded: &mut Recorded, device: &Device, precision: Precision) -> Result<()> {
    let tower = load_tower(&recorded.dir, device, precision)?;
    let output = tower.forward(recorded.pixels(device)?)?;
    let config = tower.config();
    for (i, state) in output.hidden_states.iter().enumerate() {
        recorded.tensor("hidden", &format!("hidden.{i}"), state.clone())?;
    }
    recorded.tensor("last", "last_hidden_state", output.last_hidden_state)?;
    if let Some(pooled) = output.pooler_output {
        recorded.tensor("pooled", "pooler_output", pooled)?;
    }
    let selected = output.hidden_states[config.num_hidden_layers - 1].clone();
    recorded.tensor("selected", "select_layer_minus2_patch", selected.narrow(1, config.class_tokens(), config.num_patches()))
}

/// Features of both towers, logits and loss.
pub fn pair(recorded: &mut Recorded, device: &Device, precision: Precision) -> Result<()> {
    let pair = load_pair(&recorded.dir, device, precision)?;
    let inputs = recorded.inputs()?;
    let batch = TextBatch::new(&inputs.input_ids)?;
    let text = pair.text_model.forward(&batch)?;
    recorded.tensor("last", "text_last_hidden_state", text.last_hidden_state)?;
    let image_BE = pair.image_features(recorded.pixels(device)?)?;
    let text_BE = pair.text_features(&batch)?;
    recorded.tensor("image", "image_features", image_BE.clone())?;
    recorded.tensor("text", "text_features", text_BE.clone())?;
    let masked = pair.text_features(&batch.with_mask(&inputs.attention_mask.concat())?)?;
    recorded.tensor("text", "masked.text_features", masked)?;
    recorded.tensor("logits", "logits_per_image", pair.logits_per_image(image_BE.clone(), text_BE.clone()))?;
    recorded.tensor("loss", "loss", pair.loss(image_BE, text_BE))
}

/// Image features, hidden states of the decoder, logits, greedy tokens through the cache.
pub fn vlm(recorded: &mut Recorded, device: &Device, precision: Precision) -> Result<()> {
    let vlm = Vlm::load(&recorded.dir, device, precision)?;
    let inputs = recorded.inputs()?;
    let pixel_values = recorded.pixels(device)?;
    pictures(recorded, &pixel_values)?;
    let features = vlm.image_features(pixel_values)?;
    recorded.tensor("features", "image_features", features.clone())?;

    // Left padding is a document that starts later.
    let first = |mask: &[u32]| mask.iter().position(|&m| m == 1).unwrap_or(0);
    let starts: Vec<Vec<u32>> = inputs.attention_mask.iter().map(|m| vec![0, first(m) as u32]).collect();
    let starts: Vec<&[u32]> = starts.iter().map(Vec::as_slice).collect();
    let batch = PackedBatch::documents(inputs.input_ids.concat(), &starts, inputs.input_ids[0].len());
    let visible = inputs.attention_mask.concat();
    let mut states = Vec::new();
    let mut observe = |i: usize, x: &Tensor<2>| states.push((i, host::to_vec(x.clone()), x.dims()[1]));
    let hidden = vlm.hidden(&batch, Some(features.clone()), Some(&mut observe))?;
    for (i, state, width) in states {
        let name = format!("hidden.{i}");
        if recorded.expected.contains(&name) {
            recorded.compare("hidden", &name, &state, |j| visible[j / width] == 1)?;
        }
    }
    let width = vlm.language_model.config().vocab_size;
    recorded.compare("logits", "logits", &to_vec(vlm.language_model.logits(hidden)), |j| visible[j / width] == 1)?;
    greedy(recorded, &vlm, &inputs, &features)
}

/// Where the pictures lie beside the pixels that went in, the folder's own processor must give the same.
fn pictures(recorded: &mut Recorded, pixel_values: &Tensor<4>) -> Result<()> {
    let paths = (0..pixel_values.dims()[0]).map(|i| recorded.dir.join(format!("image{i}.png")));
    let paths: Vec<_> = paths.filter(|path| path.exists()).collect();
    if paths.len() != pixel_values.dims()[0] {
        return Ok(());
    }
    let images = paths.iter().map(RgbImage::open).collect::<Result<Vec<_>>>()?;
    let got = to_vec(ImageProcessor::load(&recorded.dir)?.pixel_values(&images, &Device::flex())?);
    let want = to_vec(pixel_values.clone());
    if got.len() != want.len() {
        return Err(recorded.file(format!("{} pixel values went in, the processor gives {}", want.len(), got.len())));
    }
    let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0f32, larger);
    recorded.note("pixels", f64::from(worst), PIXELS.0);
    Ok(())
}

/// Greedy tokens: of those below the placeholder, as they were recorded.
fn greedy(recorded: &mut Recorded, vlm: &Vlm, inputs: &Inputs, features: &Tensor<2>) -> Result<()> {
    const NAME: &str = "greedy_tokens";
    if !recorded.expected.contains(NAME) {
        return Ok(());
    }
    let (want, steps) = (recorded.expected.integers(NAME)?, inputs.greedy_steps);
    let path = recorded.dir.join("inputs.json");
    let counts = &inputs.image_token_counts;
    if counts.len() != inputs.input_ids.len() || counts.iter().sum::<usize>() != features.dims()[0] || steps == 0 {
        let message =
            format!("image_token_counts = {}, greedy_steps = {steps}; expected one count a row, together the features", Value::from(counts.clone()));
        return Err(Error::file(&path, message));
    }
    let limit = vlm.config().image_token_id as usize;
    let (mut equal, mut from) = (0, 0);
    for (row, (ids, mask)) in inputs.input_ids.iter().zip(&inputs.attention_mask).enumerate() {
        let rows = counts[row];
        let mut images = (rows > 0).then(|| features.clone().narrow(0, from, rows));
        from += rows;
        let mut new: Vec<u32> = ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect();
        let mut sequence = Sequence::new(vlm, new.len() + steps);
        for step in 0..steps {
            let logits = sequence.read(&new, images.take())?;
            let best = logits[..limit].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |b| b.0 as u32);
            equal += usize::from(want.get(row * steps + step) == Some(&i64::from(best)));
            new = vec![best];
        }
    }
    recorded.greedy = Some((equal, want.len()));
    Ok(())
}
