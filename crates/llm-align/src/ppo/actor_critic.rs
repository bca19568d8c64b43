//! What PPO trains: a policy and a value function, one module for the one trainer.
//!
//! The folder of it is that of the policy, with the value function in `value/`: a reward model's folder (sequence classification) where it has a
//! trunk of its own, `value_head.safetensors` where it is a head on the policy's.
//!
//! Legend: N tokens, M answer tokens, D hidden.

use crate::reward::RewardModel;
use crate::reward::model::head;
use llm_arch::Decoder;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::nn::{Linear, parameter_from};
use llm_tensor::ops;
use llm_tensor::weights::{self, HostTensor, SaveOptions, Weights};
use llm_tensor::{Precision, burn, host};
use llm_train::sequences::Sequences;
use llm_train::{Error, Result, Trainable};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Folder of the value function beside the policy's files.
const FOLDER: &str = "value";
/// File and tensor of a head on the policy.
const FILE: &str = "value_head.safetensors";
const TENSOR: &str = "value_head.weight";

/// Policy and value function. Parameters are named `policy.*`, `value.*` and `value_head.*`.
#[derive(Module, Debug)]
pub struct ActorCritic {
    /// The policy.
    pub policy: Decoder,
    /// A value function with a trunk of its own.
    pub value: Option<RewardModel>,
    /// `[1, D]`: a value function on the policy's hidden states.
    pub value_head: Option<Linear>,
}

impl ActorCritic {
    /// With a value function of its own.
    pub fn separate(policy: Decoder, value: RewardModel) -> Self {
        Self { policy, value: Some(value), value_head: None }
    }

    /// With a head of zeros on the policy.
    pub fn shared(policy: Decoder) -> Self {
        let width = policy.config().hidden_size;
        let head = Linear::dense(parameter_from(vec![0.0; width], [1, width], policy.precision(), &policy.device()), None);
        Self { policy, value: None, value_head: Some(head) }
    }

    /// Values `[M]` before each trained token is chosen; `hidden_MD` are the policy's hidden states there.
    pub fn values(&self, sequences: &Sequences, hidden_MD: Tensor<2>) -> Tensor<1> {
        match (&self.value_head, &self.value) {
            (Some(score), _) => head(score, hidden_MD),
            (None, Some(value)) => value.values(sequences),
            // Neither constructor leaves both out.
            (None, None) => Tensor::zeros([sequences.trained()], &hidden_MD.device()),
        }
    }

    /// The policy's hidden states `[M, D]` at the trained positions.
    pub fn hidden(&self, sequences: &Sequences) -> Tensor<2> {
        ops::embedding(self.policy.hidden(&sequences.batch), sequences.rows.clone())
    }

    fn restore_value(&self, dir: &Path) -> Result<(Option<RewardModel>, Option<Linear>)> {
        if let Some(value) = &self.value {
            return Ok((Some(value.restore(dir)?), None));
        }
        let Some(head) = &self.value_head else { return Ok((None, None)) };
        let (path, shape) = (dir.join(FILE), head.weight.shape());
        let HostTensor { shape: found, values } = Weights::open(&path)?.get(TENSOR)?;
        if found != shape || values.iter().any(|v| !v.is_finite()) {
            return Err(Error::Checkpoint { path, message: format!("`{TENSOR}` is {found:?}, expected numbers of shape {shape:?}") });
        }
        Ok((None, Some(Linear::dense(parameter_from(values, shape, self.policy.precision(), &self.policy.device()), None))))
    }
}

impl Trainable for ActorCritic {
    fn device(&self) -> Device {
        self.policy.device()
    }

    fn precision(&self) -> Precision {
        self.policy.precision()
    }

    fn buffers(&self) -> BTreeSet<String> {
        let prefixed = |prefix: &'static str, names: BTreeSet<String>| names.into_iter().map(move |name| format!("{prefix}.{name}"));
        let value = self.value.as_ref().map(Trainable::buffers).unwrap_or_default();
        prefixed("policy", Trainable::buffers(&self.policy)).chain(prefixed("value", value)).collect()
    }

    fn files(&self) -> Vec<&'static str> {
        let value: &[&'static str] = match &self.value {
            Some(_) => &["value/config.json", "value/model.safetensors"],
            None => &["value/value_head.safetensors"],
        };
        self.policy.files().into_iter().chain(value.iter().copied()).collect()
    }

    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()> {
        let folder = dir.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|e| Error::Objective(format!("{}: cannot create: {e}", folder.display())))?;
        if let Some(value) = &self.value {
            value.save(&folder, options)?;
        }
        if let Some(head) = &self.value_head {
            let weight = head.weight.val();
            let weight = if weight.device().is_autodiff() { weight.inner() } else { weight };
            let tensor = HostTensor { shape: head.weight.shape().to_vec(), values: host::to_vec(weight) };
            weights::save(folder.join(FILE), &BTreeMap::from([(TENSOR.to_string(), tensor)]))?;
        }
        Trainable::save(&self.policy, dir, options)
    }

    fn restore(&self, dir: &Path) -> Result<Self> {
        let folder = dir.join(FOLDER);
        let policy = self.policy.restore(dir)?;
        // A value function that cannot be read is damage of the checkpoint: an older one is whole perhaps.
        let damaged = |e: Error| Error::Checkpoint { path: folder.clone(), message: e.to_string() };
        let (value, value_head) = self.restore_value(&folder).map_err(damaged)?;
        Ok(Self { policy, value, value_head })
    }

    fn decoder(&self) -> Option<(&Decoder, &'static str)> {
        Some((&self.policy, "policy."))
    }
}
