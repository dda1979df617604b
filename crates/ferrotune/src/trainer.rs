//! One optimizer step, one epoch's bookkeeping, and the state that makes a resumed run equal to an
//! uninterrupted one. Randomness is a function of (seed, epoch, step), so no generator is stored.

use crate::config::{ClassWeighting, ClassWeights, Config, MethodName, SelectionMetric};
use crate::evaluation::{Evaluation, Split, evaluate, probabilities};
use crate::memory::{self, Bytes};
use crate::metrics::{self, Classes, Counts, Scores};
use crate::schedule::Schedule;
use anyhow::{Result, bail};
use architectures::{
    AdamWSettings, Backend, Batch, Cpu, Method, Optimizer, Pass, SequenceClassifier,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Micro-batches that memory is predicted from, beside the longest: buffers of several lengths add up.
const MICRO_BATCHES_COUNTED: usize = 100;

/// Where a run stands; saved with every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: usize,
    /// Optimizer steps taken of the next epoch.
    pub step_in_epoch: usize,
    /// Figures of the epoch that is under way.
    pub running: Running,
    /// Figures of the epochs finished.
    pub epochs: Vec<EpochRecord>,
    /// The best epoch (from 1) and its value of the selection metric.
    pub best: Option<(usize, f64)>,
    /// The value that early stopping compares with.
    pub reference: Option<f64>,
    /// Epochs since it last improved by more than `min_delta`.
    pub epochs_without_progress: usize,
    /// Metric points recorded.
    pub metric_position: u64,
    /// Seconds spent in steps.
    pub training_seconds: f64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The configuration; a run is not resumed with another one.
    pub config: String,
    /// The instruction set.
    pub instruction_set: String,
    /// Fingerprint of the training rows; a run is not resumed with others.
    pub training_rows: String,
}

/// Sums over the steps of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Weighted sum of losses.
    pub loss: f64,
    /// Sum of their weights.
    pub weight: f64,
    /// Answers while training.
    pub counts: Counts,
}

/// Figures of one finished epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Mean training loss.
    pub train_loss: f64,
    /// Figures of the answers given while training, dropout on.
    pub train: Scores,
    /// Mean validation loss.
    pub validation_loss: f64,
    /// Figures of the whole validation split.
    pub validation: Scores,
}

/// What one optimizer step did.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Mean loss of its examples.
    pub loss: f64,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate it took.
    pub learning_rate: f64,
}

/// A network, its optimizer and where they stand.
#[derive(Debug)]
pub struct Trainer {
    /// What runs the network.
    pub backend: Cpu,
    /// The network.
    pub model: SequenceClassifier<Cpu>,
    /// Its optimizer.
    pub optimizer: Optimizer<Cpu>,
    /// Where the run stands.
    pub state: TrainerState,
    config: Config,
    schedule: Schedule,
    /// One weight per class, or per label for the rows that have it; or none.
    class_weights: Vec<f32>,
    classes: Classes,
    order: Vec<u32>,
}

/// The method that a configuration asks for.
///
/// # Errors
/// It trains no network.
pub fn method(config: &Config) -> Result<Method> {
    Ok(match config.method {
        MethodName::Full => Method::Full,
        MethodName::Lora => Method::Lora(config.lora.clone()),
        MethodName::Svm => bail!("method = \"svm\" trains no network"),
    })
}

impl Trainer {
    /// At the start of a run.
    ///
    /// # Errors
    /// The class weights or the selection metric do not fit the classes.
    pub fn new(
        backend: Cpu,
        mut model: SequenceClassifier<Cpu>,
        config: &Config,
        classes: Classes,
        train: &Split,
    ) -> Result<Trainer> {
        let t = &config.training;
        check_metric(config.early_stopping.metric, classes)?;
        let class_weights = match &t.class_weights {
            ClassWeights::Named(ClassWeighting::None) => Vec::new(),
            ClassWeights::Named(ClassWeighting::Balanced) => balanced_weights(train, classes),
            ClassWeights::Given(weights) if weights.len() == classes.count() => weights.clone(),
            ClassWeights::Given(weights) => bail!(
                "training.class_weights has {} weights, but there are {} classes",
                weights.len(),
                classes.count()
            ),
        };
        let steps_per_epoch = train.rows().div_ceil(step_size(config)) as u64;
        let total_steps = steps_per_epoch * t.max_epochs as u64;
        let schedule = Schedule {
            learning_rate: t.learning_rate,
            kind: t.lr_scheduler_type,
            warmup_steps: (t.warmup_ratio * total_steps as f64).ceil() as u64,
            total_steps,
        };
        let settings = AdamWSettings {
            weight_decay: t.weight_decay,
            max_grad_norm: (t.max_grad_norm > 0.0).then_some(t.max_grad_norm),
            ..AdamWSettings::default()
        };
        model.gradient_checkpointing = t.gradient_checkpointing;
        let optimizer = Optimizer::new(&backend, &model.parameters, settings);
        let state = TrainerState {
            config: config.to_toml(),
            instruction_set: backend.isa().to_string(),
            training_rows: format!("{:016x}", train.fingerprint()),
            running: Running::new(classes),
            ..TrainerState::default()
        };
        Ok(Trainer {
            backend,
            model,
            optimizer,
            state,
            config: config.clone(),
            schedule,
            class_weights,
            classes,
            order: Vec::new(),
        })
    }

    /// The most bytes that this process will hold in training, so far as the first epoch tells;
    /// `None` where the system does not say what it holds now.
    ///
    /// # Errors
    /// The method does not fit the network.
    pub fn predicted_memory(&self, train: &Split) -> Result<Option<Bytes>> {
        let order = data::epoch_order(self.config.seed, 0, train.rows() as u32);
        let budget = self.config.training.tokens_per_micro_batch;
        let mut micro_batches: Vec<Vec<u32>> = order
            .chunks(step_size(&self.config))
            .flat_map(|rows| data::micro_batches(rows, &train.lengths, budget))
            .map(|rows| rows.iter().map(|&row| train.lengths[row as usize]).collect())
            .collect();
        let longest = micro_batches.iter().max_by_key(|lengths| lengths.iter().sum::<u32>());
        let longest = longest.cloned();
        micro_batches.truncate(MICRO_BATCHES_COUNTED);
        micro_batches.extend(longest);
        let SequenceClassifier { config, labels, gradient_checkpointing, .. } = &self.model;
        let method = method(&self.config)?;
        let step = architectures::step_bytes(
            config,
            *labels,
            &method,
            *gradient_checkpointing,
            &micro_batches,
        )?;
        Ok(memory::held().map(|held| Bytes(held.0 + step as u64)))
    }

    /// Optimizer steps in an epoch.
    pub fn steps_per_epoch(&self, train: &Split) -> usize {
        train.rows().div_ceil(step_size(&self.config))
    }

    /// Takes the next step of the epoch that is under way.
    ///
    /// # Errors
    /// The loss or a gradient is not finite.
    pub fn step(&mut self, train: &Split) -> Result<Step> {
        let started = Instant::now();
        let size = step_size(&self.config);
        if self.order.is_empty() || self.state.step_in_epoch == 0 {
            let (epoch, rows) = (self.state.epoch as u64, train.rows() as u32);
            self.order = data::epoch_order(self.config.seed, epoch, rows);
        }
        let first = self.state.step_in_epoch * size;
        // Taken out, to be read while the network is changed; put back below.
        let order = std::mem::take(&mut self.order);
        let rows = &order[first..(first + size).min(order.len())];
        let weight_of = |label: u32| self.class_weights.get(label as usize).copied().unwrap_or(1.0);
        let total_weight: f32 = match self.classes {
            Classes::Binary | Classes::Multi(_) => {
                rows.iter().map(|&r| weight_of(train.labels[r as usize])).sum()
            }
            Classes::MultiLabel(labels) => (rows.len() * labels) as f32,
        };

        self.model.parameters.clear_gradients(&self.backend);
        let mut pass = Pass {
            dropout: true,
            seed: self.config.seed,
            step: self.state.step as u32,
            first_token: 0,
            first_sequence: 0,
        };
        let mut loss = 0.0;
        let budget = self.config.training.tokens_per_micro_batch;
        for part in data::micro_batches(rows, &train.lengths, budget) {
            loss += self.micro_batch(train, part, &pass, total_weight);
            pass.first_token += part.iter().map(|&r| train.lengths[r as usize]).sum::<u32>();
            pass.first_sequence += part.len() as u32;
        }
        self.order = order;
        let learning_rate = self.schedule.at(self.state.step);
        let Trainer { backend, model, optimizer, .. } = self;
        let gradient_norm = optimizer.step(backend, &mut model.parameters, learning_rate);
        let mean = loss / f64::from(total_weight);
        if !(mean.is_finite() && gradient_norm.is_finite()) {
            self.refuse_infinite(mean, gradient_norm)?;
        }
        let state = &mut self.state;
        state.running.loss += loss;
        state.running.weight += f64::from(total_weight);
        state.step += 1;
        state.step_in_epoch += 1;
        state.tokens += u64::from(pass.first_token);
        state.training_seconds += started.elapsed().as_secs_f64();
        Ok(Step { loss: mean, gradient_norm, learning_rate })
    }

    /// Forward, loss, backward of a part of a step's examples; returns their weighted loss.
    fn micro_batch(&mut self, train: &Split, rows: &[u32], pass: &Pass, total_weight: f32) -> f64 {
        let backend = &self.backend;
        let packed = data::pack(&train.encoded, &train.labels, rows);
        let batch = Batch::new(backend, &packed.ids, &packed.cu_seqlens);
        let (logits, saved) = self.model.forward(backend, pass, &batch);
        let labels = backend.indices(packed.labels);
        let weights = &self.class_weights;
        let (loss, dlogits) = match self.classes {
            Classes::Binary | Classes::Multi(_) => {
                backend.cross_entropy(&logits, &labels, weights, total_weight)
            }
            Classes::MultiLabel(_) => {
                backend.binary_cross_entropy(&logits, &labels, weights, total_weight)
            }
        };
        self.model.backward(backend, pass, &batch, saved, &dlogits);
        let mut answers = backend.download(&logits);
        probabilities(&mut answers, self.classes);
        let answers = metrics::answers(&answers, self.classes, &[]);
        self.state.running.counts.add(&labels, &answers);
        loss
    }

    fn refuse_infinite(&self, loss: f64, norm: f64) -> Result<()> {
        let culprit = self
            .model
            .parameters
            .iter()
            .find(|p| !self.backend.sum_of_squares(&p.gradient).is_finite());
        let culprit = culprit.map_or("no single tensor", |p| p.name.as_str());
        bail!(
            "training diverged at step {}: loss {loss}, gradient norm {norm}, first in {culprit}; \
             a lower learning rate (now {}) may help",
            self.state.step + 1,
            self.config.training.learning_rate
        )
    }

    /// Ends an epoch: evaluates on the validation split, keeps its figures, and says
    /// whether the model is the best so far, with its answers.
    ///
    /// # Errors
    /// As [`evaluate`]; nothing has then changed.
    pub fn end_epoch(
        &mut self,
        validation: &Split,
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<(bool, Evaluation)> {
        let evaluation = self.evaluate(validation, progress)?;
        let running = std::mem::replace(&mut self.state.running, Running::new(self.classes));
        self.state.epoch += 1;
        self.state.step_in_epoch = 0;
        let metric = self.config.early_stopping.metric;
        let value = selection_value(metric, evaluation.loss, &evaluation.scores);
        self.state.epochs.push(EpochRecord {
            epoch: self.state.epoch,
            train_loss: running.loss / running.weight,
            train: Scores::of(running.counts, self.classes),
            validation_loss: evaluation.loss,
            validation: evaluation.scores.clone(),
        });
        Ok((self.judge(value, evaluation.loss), evaluation))
    }

    /// The model as it is now on a whole split.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(
        &self,
        split: &Split,
        progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        let budget = self.config.training.tokens_per_micro_batch;
        evaluate(&self.backend, &self.model, split, self.classes, budget, progress)
    }

    /// `value` is the higher the better; of equals the model with the lower loss is the better one.
    fn judge(&mut self, value: f64, loss: f64) -> bool {
        let early = &self.config.early_stopping;
        let state = &mut self.state;
        let best = state.best.is_none_or(|(epoch, best)| {
            value > best || (value == best && loss < state.epochs[epoch - 1].validation_loss)
        });
        if best {
            state.best = Some((state.epoch, value));
        }
        if state.reference.is_none_or(|reference| value > reference + early.min_delta) {
            state.reference = Some(value);
            state.epochs_without_progress = 0;
        } else {
            state.epochs_without_progress += 1;
        }
        best
    }
}

impl Running {
    fn new(classes: Classes) -> Running {
        Running { counts: Counts::none(classes), ..Running::default() }
    }
}

/// Refuses a selection metric that the task does not have.
fn check_metric(metric: SelectionMetric, classes: Classes) -> Result<()> {
    let (name, tasks) = match (metric, classes) {
        (SelectionMetric::AveragePrecision, Classes::Multi(_) | Classes::MultiLabel(_)) => {
            ("average_precision", "a binary task has")
        }
        (SelectionMetric::MicroF1, Classes::Binary | Classes::Multi(_)) => {
            ("micro_f1", "a multi-label task has")
        }
        (SelectionMetric::MacroF1, Classes::Binary) => {
            ("macro_f1", "a task of several classes or labels has")
        }
        _ => return Ok(()),
    };
    bail!("early_stopping.metric is {name}, which only {tasks}")
}

/// Weights by the training rows of each class or label.
fn balanced_weights(train: &Split, classes: Classes) -> Vec<f32> {
    let mut counts = vec![0; classes.count()];
    match classes {
        Classes::Binary | Classes::Multi(_) => {
            train.labels.iter().for_each(|&label| counts[label as usize] += 1);
            metrics::class_weights(&counts)
        }
        Classes::MultiLabel(labels) => {
            for row in train.labels.chunks(labels) {
                counts.iter_mut().zip(row).for_each(|(count, &has)| *count += has as usize);
            }
            metrics::positive_weights(&counts, train.rows())
        }
    }
}

/// Examples per optimizer step.
fn step_size(config: &Config) -> usize {
    config.training.batch_size * config.training.gradient_accumulation_steps
}

/// A selection metric, signed so that higher is better; NaN counts as the worst.
pub fn selection_value(metric: SelectionMetric, loss: f64, scores: &Scores) -> f64 {
    let value = match metric {
        SelectionMetric::F1 | SelectionMetric::MacroF1 => scores.f1,
        SelectionMetric::MicroF1 => scores.micro_f1.unwrap_or(f64::NAN),
        SelectionMetric::Loss => -loss,
        SelectionMetric::Accuracy => scores.accuracy,
        SelectionMetric::Precision => scores.precision,
        SelectionMetric::Recall => scores.recall,
        SelectionMetric::AveragePrecision => scores.average_precision.unwrap_or(f64::NAN),
    };
    if value.is_nan() { f64::MIN } else { value }
}
