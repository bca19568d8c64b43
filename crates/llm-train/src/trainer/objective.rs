//! What the loop asks of a task: pre-training, fine-tuning, reinforcement learning and the stages of models that see are all this.

use crate::recompute::Deferred;
use crate::{Result, Trainable};
use llm_tensor::burn::tensor::Tensor;
use serde_json::{Map, Value};
use std::path::Path;

/// The loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// One element, already divided so that the micro-batches of a step *sum* to the step's loss.
    pub value: Tensor<1>,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// The part of the backward pass that the tape of `value` does not hold: none where nothing is recomputed.
    pub deferred: Option<Deferred>,
}

/// What is being learned. Everything must be a function of (objective, step, model).
pub trait Objective: Sync {
    /// What is trained.
    type Model: Trainable + 'static;
    /// One micro-batch.
    type Batch: Send;

    /// The micro-batches of 0-based `step`; objectives that generate use the current `model`. After a spike batches may be left out: then
    /// this is the number of the batch, not that of the optimiser's step.
    fn batches(&mut self, step: u64, model: &Self::Model) -> Result<Vec<Self::Batch>>;

    /// Forward pass of one micro-batch; several threads may call it at once.
    fn loss(&self, model: &Self::Model, batch: &Self::Batch) -> Result<Loss>;

    /// Changes to the model that are no gradient step, right after one.
    fn after_step(&mut self, _model: &mut Self::Model) {}

    /// Why the run should end here, if it should; asked after every step and every validation. A checkpoint is saved, the model is written
    /// and the run ends in order. Started again, it goes on only if the settings under the key `watchdog` ([`Objective::settings`]) have
    /// changed.
    fn halt(&self) -> Option<String> {
        None
    }

    /// Numbers of the step to log besides loss and rates. Texts in a list `alarms`, here or in [`Objective::validate`], are told and marked in
    /// the report.
    fn metrics(&mut self) -> Map<String, Value> {
        Map::new()
    }

    /// Held-out numbers, e.g. `val_loss`. Empty when there is nothing to validate on.
    fn validate(&mut self, _model: &Self::Model) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }

    /// A few words for the progress line.
    fn describe(&self, loss: f32) -> String {
        format!("loss {loss:.3}")
    }

    /// Names of the documents in the batch of a step, for the log of spikes.
    fn documents(&self, _step: u64) -> Vec<String> {
        Vec::new()
    }

    /// The first layer whose output for this batch is no number, in words.
    fn locate(&self, _model: &Self::Model, _batch: &Self::Batch) -> Option<String> {
        None
    }

    /// State to keep in checkpoints.
    fn save(&self) -> Map<String, Value> {
        Map::new()
    }

    /// State from a checkpoint.
    fn restore(&mut self, _state: &Map<String, Value>) {}

    /// Tokens that go through the model in a step, about, and the length of the texts they come in; none if that is not known.
    fn tokens(&self) -> Option<(f64, usize)> {
        None
    }

    /// Does the loss fall as that of next-token prediction on fresh text does? Then its end is forecast.
    fn forecasts_loss(&self) -> bool {
        false
    }

    /// All settings, for the report.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// Write what belongs into the model's folder beside weights and tokenizer.
    fn finish(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }
}
