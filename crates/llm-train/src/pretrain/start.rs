//! What training starts from: fresh weights, or those of a model folder, perhaps with another tokenizer.

use super::config::PretrainConfig;
use crate::{Error, Result};
use llm_arch::tokens::{ModelFolder, ROUND, Transplant, check};
use llm_arch::{Decoder, DecoderConfig, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// Fields of `model` that follow from the tokenizer.
const FROM_TOKENIZER: [&str; 4] = ["vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"];
/// Fields of `model.moe` that only training reads; `config.json` may not have them.
const FOR_TRAINING: [&str; 6] =
    ["router_jitter_noise", "capacity_factor", "router_aux_loss_coef", "router_z_loss_coef", "seq_aux_loss_coef", "bias_update_rate"];

/// Where the first weights come from.
#[derive(Debug)]
pub enum Start {
    /// Nowhere.
    Fresh,
    /// A folder whose tokenizer says the same.
    Folder,
    /// A folder with another tokenizer.
    Transplant(Box<(ModelFolder, Transplant)>),
}

impl Start {
    /// Look at `init` and complete `config.model`: from the tokenizer, and from the folder's `config.json` if there is one.
    pub fn open(config: &mut PretrainConfig, tokenizer: &Tokenizer) -> Result<Self> {
        if config.init.as_os_str().is_empty() {
            fit_to_tokenizer(&mut config.model, tokenizer);
            config.model.validate()?;
            return Ok(Self::Fresh);
        }
        let folder = ModelFolder::open(&config.init)?;
        check::require(&config.init, folder.decoder_config(), &folder.tokenizer)?;
        let model = agreed(&config.model, folder.decoder_config()).map_err(|problem| {
            let message = format!("{problem}, as init = {} says; leave it out: a model that is continued stays what it is", config.init.display());
            Error::Config(message)
        })?;
        let transplant = Transplant::new(&folder.tokenizer, tokenizer, config.resize, Seed(config.seed).stream("new tokens"));
        if transplant.is_identity() {
            config.model = model;
            return Ok(Self::Folder);
        }
        transplant.require(config.resize, &config.init)?;
        config.model = transplant.config(&model, ROUND);
        Ok(Self::Transplant(Box::new((folder, transplant))))
    }

    /// What became of the tokens, if they changed.
    pub fn report(&self) -> Option<&llm_arch::tokens::transplant::Counts> {
        if let Self::Transplant(pair) = self { Some(&pair.1.counts) } else { None }
    }

    /// The model of step 0.
    pub fn model(&self, config: &PretrainConfig, device: &Device) -> Result<Decoder> {
        Ok(match self {
            Self::Fresh => Decoder::new_as(&config.model, Seed(config.seed).stream("initial weights"), config.precision, device)?,
            Self::Folder => hf::load_with(&config.init, &config.model, device, config.precision)?,
            Self::Transplant(pair) => pair.0.load(&pair.1, &config.model, device, config.precision)?,
        })
    }
}

/// Vocabulary size (rounded up to a multiple of 64, as matrix kernels like it) and special ids.
pub fn fit_to_tokenizer(model: &mut DecoderConfig, tokenizer: &Tokenizer) {
    model.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    model.bos_token_id = tokenizer.bos_id();
    model.pad_token_id = tokenizer.pad_id();
    model.eos_token_id = [tokenizer.eos_id(), tokenizer.special_id("<|eot_id|>")].into_iter().flatten().collect();
    model.eos_token_id.dedup();
}

/// The configuration of the folder with what `given` says about training, or the first contradiction. A value that is its type's default
/// says nothing.
fn agreed(given: &DecoderConfig, found: &DecoderConfig) -> Result<DecoderConfig, String> {
    let mut out = found.clone();
    let fields = |value: Result<Value, serde_json::Error>| match value {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (default, theirs) = (fields(serde_json::to_value(DecoderConfig::default())), fields(serde_json::to_value(found)));
    for (key, value) in fields(serde_json::to_value(given)) {
        if Some(&value) != default.get(&key) && Some(&value) != theirs.get(&key) && key != "moe" && !FROM_TOKENIZER.contains(&key.as_str()) {
            return Err(format!("model.{key} = {value}, but it is {}", theirs.get(&key).unwrap_or(&Value::Null)));
        }
    }
    match (&given.moe, &mut out.moe) {
        (None, _) => {}
        (Some(_), None) => return Err("model.moe is given, but the model has no experts".into()),
        (Some(given), Some(moe)) => {
            let default = fields(serde_json::to_value(llm_moe::MoeConfig::default()));
            let mut theirs = fields(serde_json::to_value(&*moe));
            for (key, value) in fields(serde_json::to_value(given)).into_iter().filter(|(key, value)| Some(value) != default.get(key)) {
                if FOR_TRAINING.contains(&key.as_str()) {
                    theirs.insert(key, value);
                } else if theirs.get(&key) != Some(&value) {
                    return Err(format!("model.moe.{key} = {value}, but it is {}", theirs.get(&key).unwrap_or(&Value::Null)));
                }
            }
            *moe = serde_json::from_value(Value::Object(theirs)).map_err(|e| format!("model.moe: {e}"))?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_moe::MoeConfig;

    #[test]
    fn what_contradicts_the_folder_is_refused_and_what_only_training_has_is_taken() {
        let moe = |seq_aux_loss_coef| Some(MoeConfig { num_experts: 4, moe_intermediate_size: 8, seq_aux_loss_coef, ..MoeConfig::default() });
        let found = DecoderConfig { hidden_size: 64, rope_theta: 5e5, moe: moe(0.0), ..DecoderConfig::default() };
        let silent = agreed(&DecoderConfig::default(), &found).unwrap();
        assert_eq!(silent, found);
        let repeated = DecoderConfig { hidden_size: 64, moe: moe(0.01), vocab_size: 7, ..DecoderConfig::default() };
        assert_eq!(agreed(&repeated, &found).unwrap().moe, moe(0.01));
        let wrong = DecoderConfig { hidden_size: 128, ..DecoderConfig::default() };
        assert_eq!(agreed(&wrong, &found).unwrap_err(), "model.hidden_size = 128, but it is 64");
        let experts = DecoderConfig { moe: Some(MoeConfig { num_experts: 6, ..MoeConfig::default() }), ..DecoderConfig::default() };
        assert_eq!(agreed(&experts, &found).unwrap_err(), "model.moe.num_experts = 6, but it is 4");
        assert!(agreed(&experts, &DecoderConfig::default()).unwrap_err().contains("no experts"));
    }
}
