//! Folders of sequence classification with one label: a decoder without output projection, and `score.weight` `[1, D]` that turns the final
//! hidden state of a token into a number (`LlamaForSequenceClassification` and its sisters, transformers' `modeling_layers.py`). The number of
//! a text is that of its last token that is no padding, so the padding token must be one that texts do not end with.

use super::{Checkpoint, FileTensors, config_to_json, config_value, parse_config};
use crate::{Decoder, DecoderConfig, Error, Result};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::{self, Pending, SaveOptions, Weights};
use serde_json::{Value, json};
use std::path::Path;

const SCORE: &str = "score.weight";

/// Load such a folder: the decoder without output projection, and the `D` numbers of its head. With `like` the decoder gets these settings,
/// which may say more than `config.json` can, and every parameter is dense; all shapes must be the same.
pub fn load_classifier(dir: impl AsRef<Path>, like: Option<&DecoderConfig>, device: &Device, precision: Precision) -> Result<(Decoder, Vec<f32>)> {
    let dir = dir.as_ref();
    let file = |name: &str, message: String| Error::File { path: dir.join(name), message };
    let mut config = parse_config(dir, &config_value(dir)?)?;
    config.tie_word_embeddings = true;
    let width = config.hidden_size;
    let checkpoint = Checkpoint::resolve(dir, config, Weights::open(dir)?, None, None, &[SCORE])?;
    match checkpoint.weights.shape(SCORE) {
        Some([1, columns]) if *columns == width => {}
        Some(shape) => {
            let message = format!("`{SCORE}` has shape {shape:?}, expected [1, {width}]: a reward model has one label");
            return Err(file("model.safetensors", message));
        }
        None => {
            let message = format!("no `{SCORE}` [1, {width}] in it: this is a model without scalar head, not one for sequence classification");
            return Err(file("model.safetensors", message));
        }
    }
    let decoder = match like {
        None => checkpoint.load(device, precision)?,
        Some(like) if crate::parameters::parameters(like) == crate::parameters::parameters(&checkpoint.config) => {
            Decoder::build(like, device, precision, &mut |name, shape| checkpoint.parameter(name, shape))?
        }
        Some(_) => return Err(file("config.json", "describes a model of other sizes than the one being trained".into())),
    };
    let score = checkpoint.weights.get(SCORE)?.values;
    if let Some(at) = score.iter().position(|v| !v.is_finite()) {
        let message = format!("tensor `{SCORE}` holds {} at element {at}; the checkpoint is damaged or its training diverged", score[at]);
        return Err(file("model.safetensors", message));
    }
    Ok((decoder, score))
}

/// Save a decoder without output projection ([`Decoder::without_head`]) and its head of `D` numbers as such a folder.
pub fn save_classifier(dir: impl AsRef<Path>, decoder: &Decoder, score: &[f32], pad_token_id: Option<u32>, options: SaveOptions) -> Result<()> {
    let dir = dir.as_ref();
    let tensors = FileTensors::of(decoder);
    let mut pending = tensors.pending();
    pending.push(Pending { name: SCORE.into(), shape: vec![1, score.len()] });
    weights::save_folder(dir, pending, options, |tensor| if tensor.name == SCORE { score.to_vec() } else { tensors.values(&tensor.name) })?;
    let mut config = config_to_json(decoder.config(), options.precision);
    if let Some(fields) = config.as_object_mut() {
        let causal = fields["architectures"][0].as_str().unwrap_or_default();
        let class = causal.replace("ForCausalLM", "ForSequenceClassification").replace("LMHeadModel", "ForSequenceClassification");
        fields.insert("architectures".into(), json!([class]));
        // There is nothing to tie.
        fields.insert("tie_word_embeddings".into(), json!(false));
        fields.insert("num_labels".into(), json!(1));
        fields.insert("id2label".into(), json!({"0": "LABEL_0"}));
        fields.insert("label2id".into(), json!({"LABEL_0": 0}));
        fields.insert("pad_token_id".into(), pad_token_id.map_or(Value::Null, |id| json!(id)));
    }
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    Ok(llm_run::atomic::write(dir.join("config.json"), text)?)
}
