//! The forgetting monitor around an objective that has no rewards to watch: SFT and preferences.

use super::{General, Watchdog, WatchdogConfig, general};
use llm_arch::Decoder;
use llm_tokenizer::Tokenizer;
use llm_train::{Error, Loss, Objective, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Held-out rows of the general data that SFT replays ([`crate::sft`](mod@crate::sft)); they do where no file of general text is given.
const REPLAY: &str = "val_loss/replay";

/// An objective and its monitor. All that is learned is the objective's.
#[derive(Debug)]
pub struct Watched<O> {
    objective: O,
    watchdog: Watchdog,
    general: Option<General>,
    /// Steps taken.
    steps: u64,
}

impl<O> Watched<O> {
    /// Watch with these settings; the model sees texts of at most `context` tokens.
    pub fn new(objective: O, config: &WatchdogConfig, tokenizer: &Tokenizer, context: usize) -> Result<Self> {
        config.check().map_err(Error::Config)?;
        Ok(Self { objective, watchdog: Watchdog::new(config.clone()), general: General::open(config, tokenizer, context)?, steps: 0 })
    }
}

impl<O: Objective<Model = Decoder>> Objective for Watched<O> {
    type Model = Decoder;
    type Batch = O::Batch;

    fn batches(&mut self, step: u64, model: &Decoder) -> Result<Vec<O::Batch>> {
        self.steps = step + 1;
        self.objective.batches(step, model)
    }

    fn loss(&self, model: &Decoder, batch: &O::Batch) -> Result<Loss> {
        self.objective.loss(model, batch)
    }

    fn after_step(&mut self, model: &mut Decoder) {
        self.objective.after_step(model);
    }

    fn halt(&self) -> Option<String> {
        self.watchdog.stopped().or_else(|| self.objective.halt())
    }

    fn metrics(&mut self) -> Map<String, Value> {
        self.objective.metrics()
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.objective.validate(model)?;
        let measured = self.general.as_ref().map(|general| general.loss(model));
        record.extend(measured.map(|loss| (general::KEY.to_string(), json!(loss))));
        if let Some(loss) = measured.or_else(|| record.get(REPLAY).and_then(Value::as_f64)) {
            self.watchdog.general_loss(self.steps, loss);
            record.extend(self.watchdog.take_record());
        }
        Ok(record)
    }

    fn describe(&self, loss: f32) -> String {
        self.objective.describe(loss)
    }

    fn documents(&self, step: u64) -> Vec<String> {
        self.objective.documents(step)
    }

    fn locate(&self, model: &Decoder, batch: &O::Batch) -> Option<String> {
        self.objective.locate(model, batch)
    }

    fn save(&self) -> Map<String, Value> {
        let mut state = self.objective.save();
        state.insert("watchdog".into(), Value::Object(self.watchdog.save()));
        state.insert("watched_steps".into(), json!(self.steps));
        state
    }

    fn restore(&mut self, state: &Map<String, Value>) {
        if let Some(Value::Object(memory)) = state.get("watchdog") {
            self.watchdog.restore(memory);
        }
        self.steps = state.get("watched_steps").and_then(Value::as_u64).unwrap_or(0);
        self.objective.restore(state);
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        self.objective.tokens()
    }

    fn forecasts_loss(&self) -> bool {
        self.objective.forecasts_loss()
    }

    fn settings(&self) -> Value {
        self.objective.settings()
    }

    fn finish(&self, dir: &Path) -> Result<()> {
        self.objective.finish(dir)
    }
}
