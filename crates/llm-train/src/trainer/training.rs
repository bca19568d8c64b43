//! A run while it runs: the state of a checkpoint, unpacked, and what a step does to it.

use super::accumulate::{Accumulated, accumulate, read_loss};
use super::{Objective, Trainer, best, is_validation, trouble};
use crate::checkpoint::retention::Best;
use crate::checkpoint::{Halted, Loaded, Loading, Snapshot, State, Writer};
use crate::loss_scale::LossScale;
use crate::optimizer::{Clip, Optimizer};
use crate::spikes::{self, Policy, Skipped, Spike};
use crate::watch::{Kind, Watch};
use crate::{Error, Result, Trainable, freeze};
use llm_run::run::memory_bytes;
use llm_run::{Metrics, program};
use llm_tensor::burn::tensor::Device;
use llm_tensor::device::is_cpu;
use llm_tensor::params;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

/// What to do after a step.
pub(super) enum After {
    GoOn,
    /// The loss no longer falls, or the objective wants it.
    Stop,
}

/// A run between two steps.
pub(super) struct Training<'a, M: Trainable> {
    trainer: &'a Trainer,
    /// The model on its device, and copies on the replicas. Empty only while a step is taken.
    models: Vec<M>,
    replicas: Vec<Device>,
    optimizer: Optimizer,
    state: State,
    scale: LossScale,
    skipped: Skipped,
    frozen: BTreeSet<String>,
    metrics: Metrics,
    writer: Writer,
    watch: Watch,
    /// Losses of the validations so far.
    val_losses: Vec<f64>,
    /// Seconds before this start.
    before: f64,
    clock: Instant,
    /// Since when the loop has been at something else than a step.
    idle_since: Instant,
    /// The step was not taken back.
    moved: bool,
    /// Steps in a row whose routing counts as collapsed.
    collapsed: u64,
}

/// Collapsed steps in a row that are worth a word; single ones are noise.
const COLLAPSE_ALARM: u64 = 20;

/// What a step has come to before anything is changed.
struct Judged {
    loss: f32,
    norm: f64,
    spike: Option<Spike>,
    overflow: bool,
}

impl<'a, M: Trainable + 'static> Training<'a, M> {
    /// From the newest checkpoint, or the start.
    pub(super) fn open<O: Objective<Model = M>>(trainer: &'a Trainer, objective: &mut O, initial: M) -> Result<Self> {
        let (config, dir) = (&trainer.config, trainer.checkpoints());
        let buffers = initial.buffers();
        let mut frozen = freeze::frozen(&initial, &config.freeze, &buffers)?;
        frozen.extend(buffers);
        let loading = Loading { dir: &dir, identity: &trainer.identity, optimizer: &config.optimizer, like: &initial, frozen: &frozen };
        let found = loading.newest(u64::MAX)?;
        let fresh = found.is_none();
        let Loaded { model, optimizer, state, passed_over } = match found {
            Some(found) => found,
            None => {
                Skipped::clear(&trainer.out);
                let _ = std::fs::remove_file(trainer.out.join("spikes.jsonl"));
                let optimizer = Optimizer::new(config.optimizer.clone(), &initial.trained(&frozen))?;
                Loaded { model: initial, optimizer, state: State::start(trainer.identity.clone()), passed_over: Vec::new() }
            }
        };
        let mut replicas = config.replicas.iter().map(|spec| Ok(spec.open()?.autodiff())).collect::<Result<Vec<Device>>>()?;
        if is_cpu(&model.device()) {
            replicas.extend((1..config.workers).map(|_| model.device()));
        }
        let metrics = Metrics::open(trainer.out.join("metrics.jsonl"), state.step)?;
        let mut watch = Watch::start(config.watch.clone(), &trainer.out, trainer.about(objective, &model, state.step))?;
        for damage in passed_over {
            watch.event(state.step, Kind::Note, format!("passed over a damaged checkpoint: {damage}"));
        }
        let mut training = Self {
            trainer,
            models: Vec::new(),
            replicas,
            optimizer,
            scale: LossScale::new(model.precision(), state.loss_scale),
            skipped: Skipped::read(&trainer.out)?,
            before: state.elapsed_seconds,
            val_losses: val_losses(trainer)?,
            writer: Writer::new(dir, trainer.retention(), config.async_checkpoints),
            state,
            frozen,
            metrics,
            watch,
            clock: Instant::now(),
            idle_since: Instant::now(),
            moved: true,
            collapsed: 0,
        };
        training.set_model(model);
        objective.restore(&training.state.objective);
        training.consider_halt(objective);
        if !fresh && training.validation_is_missing()? {
            training.validate(objective)?;
        }
        if fresh {
            if config.spikes.policy == Policy::Rewind && config.max_steps > 0 {
                // There must be a place to go back to.
                training.save(objective)?;
            }
            if config.eval_every > 0 {
                training.validate(objective)?;
            }
        }
        training.idle_since = Instant::now();
        Ok(training)
    }

    /// Track what is trained, and give every replica its copy.
    fn set_model(&mut self, model: M) {
        let frozen = &self.frozen;
        let model = params::track_where(model, |name| !frozen.contains(name));
        let copy = |device: &Device| if *device == model.device() { model.clone() } else { model.clone().to_device(device) };
        let copies = self.replicas.iter().map(|device| params::track_where(copy(device), |name| !frozen.contains(name)));
        self.models = copies.collect();
        self.models.insert(0, model);
    }

    fn model(&self) -> Result<&M> {
        self.models.first().ok_or_else(|| Error::Config("a step of this run failed before".into()))
    }

    pub(super) fn over(&self) -> bool {
        let config = &self.trainer.config;
        self.state.step >= config.max_steps || self.state.halted.is_some() || config.early_stopping.over(&self.val_losses)
    }

    /// Is a validation due at this step?
    fn validation_is_due(&self) -> bool {
        let (every, step) = (self.trainer.config.eval_every, self.state.step);
        every > 0 && (step.is_multiple_of(every) || step >= self.trainer.config.max_steps)
    }

    /// The run was killed between a checkpoint and the validation of the same step.
    fn validation_is_missing(&self) -> Result<bool> {
        let here = |r: &Map<String, Value>| r.get("step").and_then(Value::as_u64) == Some(self.state.step) && is_validation(r);
        let known = Metrics::read(self.trainer.out.join("metrics.jsonl"))?;
        // An objective without held-out data never has one.
        Ok(self.validation_is_due() && known.iter().any(is_validation) && !known.iter().any(here))
    }

    /// One step, or what a spike made of it.
    pub(super) fn step<O: Objective<Model = M>>(&mut self, objective: &mut O) -> Result<()> {
        let started = Instant::now();
        let loop_seconds = started.duration_since(self.idle_since).as_secs_f64();
        let config = &self.trainer.config;
        let lr = config.optimizer.lr * config.schedule.factor(self.state.step, config.max_steps);
        let number = self.skipped.batch(self.state.step);
        if let Some((decoder, _)) = self.model()?.decoder() {
            decoder.set_step(self.state.step);
        }
        let batches = objective.batches(number, self.model()?)?;
        let Accumulated { losses, tokens, gradients } = accumulate(objective, &self.models, batches, self.scale.factor())?;
        let clip = Clip::new(&gradients, config.optimizer.grad_clip, 1.0 / self.scale.factor());
        // Only who may refuse the update has to know the numbers before it; else they are read after the update is queued, so that a GPU
        // does not wait for the host in between.
        let refusing = matches!(config.spikes.policy, Policy::Skip | Policy::Rewind) || self.scale.active();
        let mut late = Some(losses);
        let mut judged = refusing.then(|| self.judge(read_loss(late.take().unwrap_or_default()), clip.norm()));
        if let Some(Judged { spike: Some(spike), .. }) = &judged {
            match config.spikes.policy {
                Policy::Rewind => return self.rewind(objective, number, spike, lr),
                Policy::Skip => self.skip(objective, number, spike, lr, &gradients)?,
                Policy::Log | Policy::Off => {}
            }
        }
        let refused = |j: &Judged| j.overflow || (j.spike.is_some() && config.spikes.policy == Policy::Skip);
        let taken = !judged.as_ref().is_some_and(refused);
        if taken {
            let model = self.models.swap_remove(0);
            self.models.clear();
            let mut model = self.optimizer.step(model, gradients, &clip, lr, self.state.step + 1);
            objective.after_step(&mut model);
            self.set_model(model);
        }
        let Judged { loss, norm, spike, overflow } = match judged.take() {
            Some(judged) => judged,
            None => self.judge(read_loss(late.take().unwrap_or_default()), clip.norm()),
        };
        if taken && let Some(spike) = &spike {
            if !spike.value.is_finite() {
                return Err(self.diverged(objective, number, spike.to_string(), lr));
            }
            self.log(objective, number, spike, "logged")?;
        }
        if overflow {
            self.watch.event(self.state.step + 1, Kind::LossScale, format!("gradients overflow, halved to {}", self.scale.factor()));
        }
        self.state.step += 1;
        self.state.tokens += tokens;
        self.state.elapsed_seconds = self.before + self.clock.elapsed().as_secs_f64();
        let seconds = started.elapsed().as_secs_f64();
        self.idle_since = Instant::now();
        self.record(objective, &[("loss", f64::from(loss)), ("lr", lr), ("grad_norm", norm)], tokens, seconds, loop_seconds, taken)?;
        if let Some(reason) = self.state.monitor.diverged(&config.spikes) {
            return Err(self.diverged(objective, number, reason, lr));
        }
        self.moved = true;
        Ok(())
    }

    fn judge(&mut self, loss: f32, norm: f64) -> Judged {
        let config = &self.trainer.config.spikes;
        if self.scale.active() {
            if loss.is_finite() && !norm.is_finite() && self.scale.overflow() {
                return Judged { loss, norm, spike: None, overflow: true };
            }
            self.scale.good();
        }
        let spike = match config.policy {
            Policy::Off => {
                let wrong = [("loss", f64::from(loss)), ("grad_norm", norm)].into_iter().find(|(_, value)| !value.is_finite());
                wrong.map(|(what, value)| Spike { what, value, mean: f64::NAN, std: f64::NAN })
            }
            _ => self.state.monitor.judge(config, loss, norm),
        };
        Judged { loss, norm, spike, overflow: false }
    }

    fn record<O: Objective<Model = M>>(
        &mut self,
        objective: &mut O,
        numbers: &[(&str, f64)],
        tokens: u64,
        seconds: f64,
        loop_seconds: f64,
        taken: bool,
    ) -> Result<()> {
        let rate = tokens as f64 / seconds;
        let rounded = |x: f64, digits: f64| json!((x * digits).round() / digits);
        // The loss as the f32 it is, so that files of two runs can be compared as text.
        let exact = |key: &str, x: f64| if key == "loss" { json!(x as f32) } else { json!(x) };
        let mut record = Map::from_iter([("step".to_string(), json!(self.state.step))]);
        record.extend(numbers.iter().map(|(key, x)| (key.to_string(), exact(key, *x))));
        record.extend([
            ("tokens".to_string(), json!(self.state.tokens)),
            ("tokens_per_second".to_string(), json!(rate.round())),
            ("elapsed_seconds".to_string(), rounded(self.state.elapsed_seconds, 1e3)),
            ("step_seconds".to_string(), rounded(seconds, 1e6)),
            ("loop_seconds".to_string(), rounded(loop_seconds, 1e6)),
        ]);
        if !taken {
            record.insert("skipped".into(), json!(true));
        }
        if self.scale.active() {
            record.insert("loss_scale".into(), json!(self.scale.factor()));
        }
        record.extend(memory_bytes().map(|bytes| ("memory_bytes".to_string(), json!(bytes))));
        let more = objective.metrics();
        self.watch_routing(&more);
        self.tell_alarms(&more);
        record.extend(more);
        self.watch.step(&record);
        Ok(self.metrics.log(&Value::Object(record))?)
    }

    /// A word when routing has been collapsed for a while.
    fn watch_routing(&mut self, record: &Map<String, Value>) {
        let Some(verdict) = record.get("moe_collapsed").and_then(Value::as_str) else {
            self.collapsed = 0;
            return;
        };
        self.collapsed += 1;
        if self.collapsed == COLLAPSE_ALARM {
            let layer = record.get("moe_layer").unwrap_or(&Value::Null);
            let text = format!("routing has collapsed in layer {layer} for {COLLAPSE_ALARM} steps: {verdict}");
            self.watch.event(self.state.step, Kind::Note, text);
        }
    }

    /// Alarms of the objective in a record.
    fn tell_alarms(&mut self, record: &Map<String, Value>) {
        for alarm in record.get("alarms").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.watch.event(self.state.step, Kind::Alarm, alarm);
        }
    }

    /// A run that was halted before stays so until what halted it is set otherwise.
    fn consider_halt<O: Objective<Model = M>>(&mut self, objective: &O) {
        let Some(halted) = self.state.halted.take() else { return };
        if halted.watchdog == watchdog(objective) {
            let text = format!("{}. It stays halted; set `watchdog` otherwise to go on, e.g. --set watchdog.enabled=false", halted.reason);
            self.watch.event(self.state.step, Kind::Halted, text);
            self.state.halted = Some(halted);
        } else {
            self.watch.event(self.state.step, Kind::Note, format!("going on, `watchdog` was changed; the run was halted here: {}", halted.reason));
        }
    }

    /// Note that the objective wants to end, if it does and it is news.
    fn ask_halt<O: Objective<Model = M>>(&mut self, objective: &O) -> bool {
        let reason = if self.state.halted.is_none() { objective.halt() } else { None };
        let news = reason.is_some();
        if let Some(reason) = reason {
            self.state.halted = Some(Halted { reason, watchdog: watchdog(objective) });
        }
        news
    }

    fn log<O: Objective<Model = M>>(&mut self, objective: &O, batch: u64, spike: &Spike, action: &str) -> Result<()> {
        let step = self.state.step + 1;
        let kind = match action {
            "skipped" => Kind::Skipped,
            "rewound" => Kind::Rewind,
            _ => Kind::Spike,
        };
        self.watch.event(step, kind, format!("{spike} (all of them are in spikes.jsonl)"));
        spikes::log(&self.trainer.out, step, batch, spike, action, &objective.documents(batch))
    }

    /// Policy `skip`.
    fn skip<O: Objective<Model = M>>(
        &mut self,
        objective: &mut O,
        batch: u64,
        spike: &Spike,
        lr: f64,
        gradients: &crate::optimizer::Gradients,
    ) -> Result<()> {
        let in_a_row = self.state.monitor.in_a_row();
        if in_a_row >= self.trainer.config.spikes.max_spikes {
            let place = trouble::in_gradients(gradients).filter(|_| !spike.value.is_finite());
            let place = place.map(|place| format!("; {place}")).unwrap_or_default();
            return Err(self.diverged(objective, batch, format!("{in_a_row} steps in a row were skipped; the last: {spike}{place}"), lr));
        }
        self.log(objective, batch, spike, "skipped")
    }

    /// Policy `rewind`.
    fn rewind<O: Objective<Model = M>>(&mut self, objective: &mut O, batch: u64, spike: &Spike, lr: f64) -> Result<()> {
        let trainer = self.trainer;
        let returns = self.skipped.leave_out(batch);
        self.log(objective, batch, spike, "rewound")?;
        if returns >= trainer.config.spikes.max_spikes {
            return Err(self.diverged(objective, batch, format!("went back {returns} times; the last: {spike}"), lr));
        }
        self.skipped.write(&trainer.out)?;
        self.writer.wait()?;
        let dir = trainer.checkpoints();
        let like = self.model()?.clone();
        let loading = Loading { dir: &dir, identity: &trainer.identity, optimizer: &trainer.config.optimizer, like: &like, frozen: &self.frozen };
        let Some(found) = loading.newest(self.state.step)? else {
            return Err(self.diverged(objective, batch, format!("{spike}; there is no checkpoint to go back to"), lr));
        };
        let elapsed = self.state.elapsed_seconds;
        self.state = State { elapsed_seconds: elapsed, ..found.state };
        self.optimizer = found.optimizer;
        self.scale = LossScale::new(found.model.precision(), self.state.loss_scale);
        self.models.clear();
        self.set_model(found.model);
        objective.metrics();
        objective.restore(&self.state.objective);
        self.metrics = Metrics::open(trainer.out.join("metrics.jsonl"), self.state.step)?;
        if self.state.step == 0 && trainer.config.eval_every > 0 {
            self.validate(objective)?;
        }
        self.val_losses = val_losses(trainer)?;
        self.watch.rewound(self.state.step);
        // What was due at this step has been done.
        self.moved = false;
        self.idle_since = Instant::now();
        Ok(())
    }

    /// The error that ends a run, with the place where numbers stopped being numbers.
    fn diverged<O: Objective<Model = M>>(&mut self, objective: &mut O, batch: u64, mut reason: String, lr: f64) -> Error {
        let place = self.models.first().and_then(|model| {
            let in_layers = |objective: &mut O| objective.batches(batch, model).ok()?.iter().find_map(|b| objective.locate(model, b));
            trouble::in_parameters(&model.valid()).or_else(|| in_layers(objective))
        });
        if let Some(place) = place {
            reason = format!("{reason}; {place}");
        }
        let error = Error::Diverged { step: self.state.step, reason, lr };
        self.watch.event(self.state.step, Kind::Failed, error.to_string());
        error
    }

    /// Save, validate, stop: whatever is due.
    pub(super) fn after_step<O: Objective<Model = M>>(&mut self, objective: &mut O) -> Result<After> {
        if !std::mem::replace(&mut self.moved, true) {
            return Ok(After::GoOn);
        }
        let (config, step) = (&self.trainer.config, self.state.step);
        let stop = program::interrupted();
        let every = |n: u64| n > 0 && step.is_multiple_of(n);
        let halted = self.ask_halt(objective);
        let (last, evaluate) = (self.over(), self.validation_is_due() || halted && config.eval_every > 0);
        if self.watch.save_requested()
            || stop
            || halted
            || every(config.checkpoint_every)
            || every(config.keep_checkpoint_every)
            || (evaluate && config.keep_best_checkpoints > 0)
        {
            self.save(objective)?;
        }
        if stop && !last {
            self.writer.wait()?;
            program::saved();
            self.watch.event(step, Kind::Interrupted, "start the same command again to continue from there");
            return Err(Error::Interrupted { step });
        }
        self.writer.look()?;
        if evaluate {
            self.validate(objective)?;
            if self.ask_halt(objective) {
                self.save(objective)?;
            }
        }
        if let Some(halted) = &self.state.halted {
            let reason = halted.reason.clone();
            self.metrics.log(&json!({"step": step, "halted": reason}))?;
            self.watch.event(step, Kind::Halted, reason);
            return Ok(After::Stop);
        }
        if evaluate && config.early_stopping.over(&self.val_losses) {
            let patience = config.early_stopping.patience;
            self.watch.event(step, Kind::Note, format!("stopping early: val_loss has not fallen for {patience} validations"));
            return Ok(After::Stop);
        }
        if stop || evaluate || every(config.checkpoint_every) {
            self.idle_since = Instant::now();
        }
        Ok(After::GoOn)
    }

    fn save<O: Objective<Model = M>>(&mut self, objective: &O) -> Result<()> {
        self.state.objective = objective.save();
        self.state.loss_scale = self.scale.save();
        let (model, optimizer, state) = (self.model()?.valid(), self.optimizer.clone(), self.state.clone());
        self.writer.submit(Snapshot { model, optimizer, state })?;
        self.watch.event(self.state.step, Kind::Checkpoint, "saved");
        Ok(())
    }

    fn validate<O: Objective<Model = M>>(&mut self, objective: &mut O) -> Result<()> {
        let mut record = objective.validate(&self.model()?.valid())?;
        if record.is_empty() {
            return Ok(());
        }
        let step = self.state.step;
        record.insert("step".into(), json!(step));
        let loss = record.get("val_loss").and_then(Value::as_f64);
        self.tell_alarms(&record);
        self.watch.validation(&record);
        if let Some(Value::Array(samples)) = record.get("samples") {
            let text = |sample: &Value, key: &str| sample[key].as_str().unwrap_or_default().to_string();
            let texts = samples.iter().map(|sample| (text(sample, "prompt"), text(sample, "text"))).collect();
            let rewards: Vec<Option<f64>> = samples.iter().map(|sample| sample["reward"].as_f64()).collect();
            self.watch.samples(step, texts, if rewards.iter().any(Option::is_some) { rewards } else { Vec::new() });
        }
        self.metrics.log(&Value::Object(record))?;
        if let Some(loss) = loss {
            self.val_losses.push(loss);
            if self.trainer.config.keep_best_checkpoints > 0 && step > 0 {
                self.writer.wait()?;
                let dir = self.trainer.checkpoints();
                Best::note(&dir, step, loss)?;
                self.trainer.retention().apply(&dir);
            }
        }
        Ok(())
    }

    /// The model that the run leaves, and its state.
    pub(super) fn end<O: Objective<Model = M>>(mut self, objective: &O) -> Result<(M, State)> {
        self.writer.wait()?;
        let mut model = self.model()?.valid();
        if self.trainer.config.load_best_model_at_end
            && let Some((step, found)) = best(&self.trainer.checkpoints(), self.model()?)?
        {
            self.watch.event(self.state.step, Kind::Note, format!("the model of step {step} had the lowest val_loss and is the run's"));
            model = found;
        }
        let records = Metrics::read(self.trainer.out.join("metrics.jsonl"))?;
        let loss = records.iter().rev().find_map(|r| r.get("loss")?.as_f64()).unwrap_or(f64::NAN) as f32;
        let State { step, tokens, .. } = self.state;
        let halted = if self.state.halted.is_some() { " (halted)" } else { "" };
        self.watch.finish(format!("{step} steps{halted}, {:.2}M tokens, {}", tokens as f64 / 1e6, objective.describe(loss)));
        Ok((model, self.state))
    }
}

/// The settings that decide about a halt.
fn watchdog<O: Objective>(objective: &O) -> Value {
    objective.settings().get("watchdog").cloned().unwrap_or_default()
}

/// Held-out losses that the metrics of the run know.
fn val_losses(trainer: &Trainer) -> Result<Vec<f64>> {
    Ok(Metrics::read(trainer.out.join("metrics.jsonl"))?.iter().filter_map(|r| r.get("val_loss")?.as_f64()).collect())
}
