//! Forward and backward passes of a step, on one device or several.
//!
//! With several, each has a copy of the weights and takes every n-th micro-batch. Gradients come back to the first device and are summed
//! in the order of the micro-batches, so any number of devices of one kind gives the same sum to the bit. On the processor a "device" is a
//! worker with a thread pool of its own.

use super::{Loss, Objective};
use crate::optimizer::Gradients;
use crate::{Error, Result};
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::rayon::{self, ThreadPool, ThreadPoolBuilder};
use llm_tensor::{host, params};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// What the micro-batches of a step came to.
#[derive(Debug)]
pub struct Accumulated {
    /// Loss of each, still on its device ([`read_loss`]).
    pub losses: Vec<Tensor<1>>,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Summed gradients; in `f32` when there is more than one micro-batch, so that a short format does not round the sum.
    pub gradients: Gradients,
}

/// One micro-batch.
struct Part {
    loss: Tensor<1>,
    tokens: u64,
    gradients: Gradients,
}

fn add(sum: &mut Gradients, name: String, gradient: Tensor<1>) {
    let gradient = match sum.remove(&name) {
        Some(so_far) => so_far + gradient,
        None => gradient,
    };
    sum.insert(name, gradient);
}

/// Forward and backward pass of one micro-batch, its gradients added to `sum`: those of recomputed blocks one block at a time.
fn pass<O: Objective>(objective: &O, model: &O::Model, batch: &O::Batch, scale: f64, many: bool, sum: &mut Gradients) -> Result<(Tensor<1>, u64)> {
    let Loss { value, tokens, deferred } = objective.loss(model, batch)?;
    let scaled = if scale == 1.0 { value.clone() } else { value.clone().mul_scalar(scale) };
    let grads = scaled.backward();
    let widened = |g: Tensor<1>| if many && g.dtype() != DType::F32 { g.cast(DType::F32) } else { g };
    let mut gradients = params::gradients(model, &grads);
    if let Some(deferred) = deferred {
        let segments = deferred.finish(model, &grads)?;
        drop(grads);
        for (name, gradient) in segments {
            // A tied table has a gradient as output projection already.
            let gradient = match gradients.remove(&name) {
                Some(of_projection) => of_projection + gradient,
                None => gradient,
            };
            add(sum, name, widened(gradient));
        }
    }
    gradients.into_iter().for_each(|(name, gradient)| add(sum, name, widened(gradient)));
    Ok((value.inner(), tokens))
}

impl Accumulated {
    fn add(&mut self, part: Part) {
        self.losses.push(part.loss);
        self.tokens += part.tokens;
        part.gradients.into_iter().for_each(|(name, gradient)| add(&mut self.gradients, name, gradient));
    }
}

/// The threads of a worker. They stay, and with them the memory that the allocator keeps for each.
fn pool(worker: usize, threads: usize) -> Option<Arc<ThreadPool>> {
    static POOLS: Mutex<BTreeMap<(usize, usize), Arc<ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&(worker, threads)) {
        return Some(pool.clone());
    }
    let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().ok()?);
    pools.insert((worker, threads), pool.clone());
    Some(pool)
}

/// Forward and backward passes of the micro-batches; gradients are multiplied by `scale`. `models` are copies of one model, the first on
/// the device where the sum is wanted.
pub fn accumulate<O: Objective>(objective: &O, models: &[O::Model], batches: Vec<O::Batch>, scale: f64) -> Result<Accumulated> {
    let mut sum = Accumulated { losses: Vec::new(), tokens: 0, gradients: Gradients::new() };
    let many = batches.len() > 1;
    let workers = models.len().min(batches.len());
    if workers <= 1 {
        let model = models.first().ok_or_else(|| Error::Config("no model to train".into()))?;
        for batch in &batches {
            let (loss, tokens) = pass(objective, model, batch, scale, many, &mut sum.gradients)?;
            sum.losses.push(loss);
            sum.tokens += tokens;
        }
        return Ok(sum);
    }
    let mut shares: Vec<Vec<(usize, O::Batch)>> = (0..workers).map(|_| Vec::new()).collect();
    for (i, batch) in batches.into_iter().enumerate() {
        shares[i % workers].push((i, batch));
    }
    let threads = rayon::current_num_threads();
    let (sender, receiver) = mpsc::channel::<(usize, Result<Part>)>();
    std::thread::scope(|scope| {
        for (worker, (model, share)) in models.iter().zip(shares).enumerate() {
            let (model, sender) = (model.clone(), sender.clone());
            let work = move || {
                for (i, batch) in share {
                    let mut gradients = Gradients::new();
                    let result = pass(objective, &model, &batch, scale, many, &mut gradients);
                    let result = result.map(|(loss, tokens)| Part { loss, tokens, gradients });
                    let failed = result.is_err();
                    if sender.send((i, result)).is_err() || failed {
                        return;
                    }
                }
            };
            let pool = pool(worker, (threads / workers).max(1));
            scope.spawn(move || match pool {
                Some(pool) => pool.install(work),
                // Without a pool of its own it shares the common one.
                None => work(),
            });
        }
        drop(sender);
        let home = sum_device::<O>(models);
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        for (i, result) in receiver {
            waiting.insert(i, result?);
            while let Some(part) = waiting.remove(&next) {
                sum.add(moved(part, home.as_ref()));
                next += 1;
            }
        }
        // A thread that ended without a word has panicked; the scope passes that on.
        if waiting.is_empty() { Ok(sum) } else { Err(Error::Config(format!("micro-batch {next} of the step was lost"))) }
    })
}

fn sum_device<O: Objective>(models: &[O::Model]) -> Option<Device> {
    use crate::Trainable;
    let device = models.first()?.device();
    Some(if device.is_autodiff() { device.inner() } else { device })
}

fn moved(part: Part, home: Option<&Device>) -> Part {
    let Some(home) = home else { return part };
    let to = |t: Tensor<1>| if &t.device() == home { t } else { t.to_device(home) };
    Part { loss: to(part.loss), tokens: part.tokens, gradients: part.gradients.into_iter().map(|(name, g)| (name, to(g))).collect() }
}

/// The loss of a step: the sum of those of its micro-batches. Waits for the device.
pub fn read_loss(losses: Vec<Tensor<1>>) -> f32 {
    losses.into_iter().map(|loss| f64::from(host::scalar(loss))).sum::<f64>() as f32
}
