//! `ferrotune train`: the main flow, top to bottom, of a network.
//!
//! config → data → tokens → packed batches → steps → epochs (validate, keep the best, checkpoint)
//! → test the last and the best model → table and report.
//!
//! What is the same whatever is trained is in `job.rs`; training without a network in `svm/`.

use crate::artifact;
use crate::cli::{Format, TrainArguments};
use crate::config::{Config, MethodName, ThresholdRule};
use crate::device::Device;
use crate::exports::Export;
use crate::failure::Outcome;
use crate::interrupt::Interrupted;
use crate::job::{End, Job, Learner, Order, Tests};
use crate::memory::{self, Bytes};
use crate::prepared::{Network, Rows};
use crate::progress::{self, tell};
use crate::recorder::Recorder;
use crate::report;
use crate::results::{self, Learned, Tested};
use crate::run_folder;
use crate::svm::Svm;
use crate::thresholds::Thresholds;
use crate::trainer::{self, Trainer};
use anyhow::{Context, Result, bail};
use architectures::{Method, Quantization, TargetKeyword, TargetModules, peft};
use data::DataReport;
use std::path::Path;
use std::time::{Duration, Instant};

/// A run is checkpointed at the end of each epoch, and this often within one.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// Runs the command.
pub fn run(arguments: &TrainArguments) -> Outcome {
    let order = Order::new(arguments)?;
    match order.config.method {
        MethodName::Lora | MethodName::Full => order.carry_out::<Network>(),
        MethodName::Svm => order.carry_out::<Svm>(),
    }
}

impl Learner for Network {
    fn prepare(config: &mut Config, device: &Device, rows: &Rows) -> Result<(Self, DataReport)> {
        Network::load(config, device, rows)
    }

    fn check(&self, config: &Config) -> Result<()> {
        refuse_what_does_not_fit(self.trainer.predicted_memory(&self.train)?, config)
    }

    fn resume(job: &mut Job<Network>) -> Result<u64> {
        let last = job.folder.last();
        let trainer = &mut job.learner.trainer;
        if last.is_dir() {
            read_weights(trainer, &job.config, &last)?;
            let (backend, parameters) = (&trainer.backend, &trainer.model.parameters);
            let state = run_folder::read_state(&last, backend, &mut trainer.optimizer, parameters)?;
            if state.config != trainer.state.config {
                bail!(
                    "the configuration in {} is not the one the checkpoint was trained with",
                    job.folder.path().display()
                );
            }
            if state.training_rows != trainer.state.training_rows {
                bail!("the training rows are not those the checkpoint was trained on");
            }
            if state.instruction_set != trainer.state.instruction_set {
                tracing::warn!(
                    "the run began on {} and goes on on {}: results may differ in rounding",
                    state.instruction_set,
                    trainer.state.instruction_set
                );
            }
            trainer.state = state;
        }
        Ok(trainer.state.metric_position)
    }

    fn train(job: &mut Job<Network>, recorder: &mut Recorder) -> Result<End> {
        job.train(recorder)
    }

    /// The last model and the best.
    fn test(job: &mut Job<Network>) -> Result<Tests> {
        let (test, classes, seed) = (&job.learner.test, job.rows.classes, job.config.seed);
        let tested = |trainer: &Trainer| {
            job.device.run(|| -> Result<Tested> {
                let evaluation = trainer.evaluate(test, |_| job.interrupt.check())?;
                Ok(Tested::new(evaluation, &test.labels, classes, seed))
            })
        };
        let last = tested(&job.learner.trainer)?;
        let best_folder = job.folder.best();
        read_weights(&mut job.learner.trainer, &job.config, &best_folder)?;
        let best = tested(&job.learner.trainer)?;
        let thresholds = Thresholds::read(&best_folder, &job.rows.schema.labels)?;
        let tuned = thresholds.map(|thresholds| {
            let tested = || best.at(&thresholds.values(), &test.labels, classes, seed);
            let tested = job.device.run(tested);
            (thresholds, tested)
        });
        let state = &job.learner.trainer.state;
        let best_epoch = state.best.map_or(state.epoch, |(epoch, _)| epoch);
        Ok(Tests {
            best: (format!("best model (epoch {best_epoch})"), best_epoch, best),
            tuned,
            last: Some((format!("last model (epoch {})", state.epoch), state.epoch, last)),
        })
    }

    fn learned(job: &Job<Network>, recorder: &Recorder) -> Result<Learned> {
        let Trainer { model, state, .. } = &job.learner.trainer;
        let seconds = state.training_seconds;
        let per_second = |count: f64| (seconds > 0.0).then(|| count / seconds);
        let trained: u64 = state.epochs.iter().map(|epoch| epoch.train.counts.rows()).sum();
        Ok(Learned {
            model: job.config.pretrained_model.clone(),
            method: method_in_words(&job.config),
            best_epoch: state.best.map(|(epoch, _)| epoch as u32),
            selected_by: format!("validation {}", job.config.early_stopping.metric.name()),
            epochs: state.epochs.iter().map(results::epoch).collect(),
            steps: recorder.steps()?,
            candidates: Vec::new(),
            parameters: report::Parameters {
                trainable: model.parameters.count() as u64,
                total: (model.parameters.count() + model.frozen) as u64,
                new_layers: model.newly_initialised.clone(),
            },
            timing: report::Timing {
                training_seconds: Some(seconds),
                steps: Some(state.step),
                tokens_per_second: per_second(state.tokens as f64),
                examples_per_second: per_second(trained as f64),
                ..report::Timing::default()
            },
            instruction_set: job.device.isa.to_string(),
            precision: job.device.precision_name().to_owned(),
        })
    }

    fn export(job: &Job<Network>, recorder: &mut Recorder) -> Result<()> {
        let (base, isa) = (&job.learner.base, job.device.isa);
        for &format in &job.config.export.formats {
            let int8 = format == Format::Onnx && job.config.export.int8;
            let export = Export::open(&job.folder.best(), Some(base), format, int8, isa)?;
            let target = run_folder::export(job.folder.path(), format);
            durable::create_folder(target.parent().unwrap_or(&target))?;
            durable::replace_folder(&target, |folder| job.device.run(|| export.write(folder)))?;
            tell(format_args!("exported: {}", target.display()));
            if format == Format::Mlflow {
                recorder.model(&target, &job.config)?;
            }
        }
        Ok(())
    }
}

impl Job<Network> {
    fn train(&mut self, recorder: &mut Recorder) -> Result<End> {
        self.announce();
        if self.interrupt.requested() {
            return Ok(End::Interrupted);
        }
        let steps_per_epoch = self.learner.trainer.steps_per_epoch(&self.learner.train);
        let max_seconds = self.config.max_seconds()?;
        let out_of_time = |trainer: &Trainer| {
            max_seconds.is_some_and(|max| trainer.state.training_seconds >= max)
        };
        let mut saved = Instant::now();
        loop {
            let trainer = &self.learner.trainer;
            // A checkpoint may stand in the middle of an epoch: it is evaluated before time ends it.
            let whole = trainer.state.step_in_epoch == 0;
            let time_is_up = whole && trainer.state.epoch > 0 && out_of_time(trainer);
            if let Some(note) = finished(trainer, &self.config, time_is_up) {
                return Ok(End::Finished(note));
            }
            let epoch = trainer.state.epoch + 1;
            let epoch_started = Instant::now();
            let bar =
                progress::training(steps_per_epoch as u64).with_prefix(format!("epoch {epoch}"));
            bar.set_position(trainer.state.step_in_epoch as u64);
            while self.learner.trainer.state.step_in_epoch < steps_per_epoch {
                let Network { trainer, train, .. } = &mut self.learner;
                if trainer.state.step_in_epoch > 0 && out_of_time(trainer) {
                    break;
                }
                let step = self.device.run(|| trainer.step(train))?;
                recorder.step(trainer.state.step, &step)?;
                let speed = trainer.state.tokens as f64 / trainer.state.training_seconds;
                bar.set_message(format!("loss {:.4}  {speed:.0} tokens/s", step.loss));
                bar.inc(1);
                if self.interrupt.requested() {
                    bar.finish_and_clear();
                    self.checkpoint(recorder)?;
                    return Ok(End::Interrupted);
                }
                if saved.elapsed() >= CHECKPOINT_EVERY {
                    self.checkpoint(recorder)?;
                    saved = Instant::now();
                }
            }
            bar.finish_and_clear();
            let Network { trainer, validation, .. } = &mut self.learner;
            let ended =
                self.device.run(|| trainer.end_epoch(validation, |_| self.interrupt.check()));
            let (best, evaluation) = match ended {
                // Resumed, the run evaluates first.
                Err(error) if error.is::<Interrupted>() => {
                    self.checkpoint(recorder)?;
                    return Ok(End::Interrupted);
                }
                other => other?,
            };
            let record = trainer.state.epochs.last().context("an epoch has just ended")?;
            recorder.epoch(record)?;
            let seconds = epoch_started.elapsed().as_secs_f64();
            tell(format_args!("{}", results::epoch_line(record, best, seconds)));
            if best {
                let Network { base, card, validation, trainer, .. } = &self.learner;
                let method = trainer::method(&self.config)?;
                let tuned = (self.config.thresholds == ThresholdRule::Tuned)
                    .then(|| Thresholds::tune(&evaluation, validation, &card.schema.labels));
                durable::replace_folder(&self.folder.best(), |folder| {
                    artifact::write(folder, &trainer.backend, &trainer.model, &method, base, card)?;
                    tuned.iter().try_for_each(|thresholds| thresholds.write(folder))
                })?;
            }
            self.checkpoint(recorder)?;
            saved = Instant::now();
            if self.interrupt.requested() {
                return Ok(End::Interrupted);
            }
        }
    }

    fn announce(&self) {
        let Trainer { model, state, .. } = &self.learner.trainer;
        let (trained, frozen) = (model.parameters.count(), model.frozen);
        let quantization = match self.config.quantization {
            Quantization::None => String::new(),
            quantization => format!(", frozen weights in {}", quantization.name()),
        };
        tell(format_args!(
            "{}: {trained} of {} parameters trained; {} threads, {}, {}{quantization}",
            self.config.pretrained_model,
            trained + frozen,
            self.device.threads(),
            self.device.isa,
            self.device.precision_name()
        ));
        if !model.newly_initialised.is_empty() {
            let other = model.labels_of_checkpoint.map_or(String::new(), |labels| {
                format!(" (those of the model are for {labels} labels)")
            });
            tell(format_args!(
                "new layers, trained and saved: {}{other}",
                model.newly_initialised.join(", ")
            ));
        }
        if state.step > 0 {
            tell(format_args!("resumed after step {}", state.step));
        }
    }

    fn checkpoint(&mut self, recorder: &mut Recorder) -> Result<()> {
        recorder.sync()?;
        let Network { base, card, trainer, .. } = &mut self.learner;
        trainer.state.metric_position = recorder.position();
        let Trainer { backend, model, optimizer, state, .. } = trainer;
        let method = trainer::method(&self.config)?;
        durable::replace_folder(&self.folder.last(), |folder| {
            artifact::write(folder, backend, model, &method, base, card)?;
            run_folder::write_state(folder, backend, state, optimizer, &model.parameters)
        })
    }
}

/// Why there is nothing more to train, if so.
fn finished(trainer: &Trainer, config: &Config, out_of_time: bool) -> Option<String> {
    let (state, early) = (&trainer.state, &config.early_stopping);
    if out_of_time {
        return Some(format!("training.max_time reached after epoch {}", state.epoch));
    }
    if early.patience > 0 && state.epochs_without_progress >= early.patience {
        return Some(format!("early stopping after epoch {}", state.epoch));
    }
    (state.epoch >= config.training.max_epochs)
        .then(|| format!("all {} epochs trained", state.epoch))
}

/// Takes the trained weights of a model folder.
fn read_weights(trainer: &mut Trainer, config: &Config, folder: &Path) -> Result<()> {
    match trainer::method(config)? {
        Method::Lora(_) => peft::read_adapter(&trainer.backend, &mut trainer.model, folder)?,
        Method::Full => peft::read_full(&trainer.backend, &mut trainer.model, folder)?,
    }
    Ok(())
}

fn method_in_words(config: &Config) -> String {
    let lora = &config.lora;
    if config.method == MethodName::Full {
        return "full fine-tuning".to_owned();
    }
    let targets = match &lora.target_modules {
        TargetModules::Keyword(TargetKeyword::AllLinear) => "all linear layers".to_owned(),
        TargetModules::Keyword(TargetKeyword::QueryValue) => "query and value".to_owned(),
        TargetModules::Names(names) => names.join(", "),
    };
    format!("LoRA r {}, alpha {} on {targets}", lora.r, lora.alpha)
}

/// Ends what would be killed for want of memory.
fn refuse_what_does_not_fit(needed: Option<Bytes>, config: &Config) -> Result<()> {
    let Some(((needed, held), free)) = needed.zip(memory::held()).zip(memory::available()) else {
        return Ok(());
    };
    tell(format_args!("memory: {needed} at its peak"));
    if needed.0 > held.0 + free.0 {
        let checkpointing = match config.training.gradient_checkpointing {
            true => "",
            false => " or set training.gradient_checkpointing=true",
        };
        bail!(
            "training needs {needed} of memory, of which {} are free or held already; lower \
             training.tokens_per_micro_batch (now {}){checkpointing}",
            Bytes(held.0 + free.0),
            config.training.tokens_per_micro_batch
        );
    }
    Ok(())
}
