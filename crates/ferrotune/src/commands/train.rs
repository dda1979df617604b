//! `ferrotune train`: the main flow, top to bottom.
//!
//! config → data → tokens → packed batches → steps → epochs (validate, keep the best, checkpoint)
//! → test the last and the best model → table and report.

use crate::artifact;
use crate::benchmark::outcome::REPORT;
use crate::cli::{Format, TrainArguments};
use crate::commands::upload;
use crate::config::{Config, ThresholdRule, environment};
use crate::device::Device;
use crate::exports::Export;
use crate::failure::{BeforeStart, Failure, Outcome};
use crate::inputs;
use crate::interrupt::{Interrupt, Interrupted};
use crate::memory::{self, Bytes};
use crate::prepared::Prepared;
use crate::progress::{self, print, tell};
use crate::recorder::Recorder;
use crate::report;
use crate::results::{self, Facts, Tested};
use crate::run_folder::{self, RunFolder};
use crate::thresholds::Thresholds;
use crate::trackers::Place;
use crate::trainer::{self, Trainer};
use anyhow::{Context, Result, bail};
use architectures::{Method, Quantization, peft};
use std::time::{Duration, Instant};
use stores::Store;
use tracking::{Environment, RunInfo, Status};

/// A run is checkpointed at the end of each epoch, and this often within one.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// Runs the command.
pub fn run(arguments: &TrainArguments) -> Outcome {
    let started = Instant::now();
    let interrupt = Interrupt::listen()?;
    let resumed = match &arguments.resume {
        Some(path) => Some(RunFolder::open(path).before_start()?),
        None => None,
    };
    let mut config = match &resumed {
        Some((_, config)) => config.clone(),
        None => Config::resolve(arguments.config.as_deref(), environment(), &arguments.overrides())
            .before_start()?,
    };
    let environment = Environment::of_process();
    if resumed.is_none() {
        config.tracking.complete(&environment).before_start()?;
    }
    let place = config.tracking.place(&environment).before_start()?;
    place.as_ref().map_or(Ok(()), Place::check).before_start()?;
    let store = config.artifacts.uri.as_deref().map(upload::open).transpose().before_start()?;
    let device = Device::new(config.threads, config.precision).before_start()?;
    let (prepared, mut trainer) =
        device.run(|| Prepared::load(&mut config, &device)).before_start()?;
    tell(format_args!("{}", prepared.data_report));
    let needed = trainer.predicted_memory(&prepared.train).before_start()?;
    refuse_what_does_not_fit(needed, &config).before_start()?;

    let (folder, info) = match resumed {
        Some((folder, _)) => (folder, None),
        None => {
            let info = run_info(&config);
            let name = format!("{}-{}", folder_name(&info.run_name), &info.run_id[..8]);
            let folder = RunFolder::create(config.output_dir.join(name), &config).before_start()?;
            (folder, Some(info))
        }
    };
    tell(format_args!("run folder: {}", folder.path().display()));
    let mut job = Job { config, device, prepared, folder, store, interrupt, started };
    let mut recorder = job.open(&mut trainer, info, place.as_ref()).before_start()?;
    job.train_and_test(&mut trainer, &mut recorder)
}

/// A new run, under the name the configuration gives it.
fn run_info(config: &Config) -> RunInfo {
    let mut info = RunInfo::new(config.tracking.experiment());
    info.run_name = config.name.clone().unwrap_or(info.run_name);
    info
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

/// A run's name as part of a folder's.
fn folder_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(plain).collect()
}

/// A run under way.
struct Job {
    config: Config,
    device: Device,
    prepared: Prepared,
    folder: RunFolder,
    /// Where the finished run is copied.
    store: Option<Store>,
    interrupt: Interrupt,
    started: Instant,
}

/// Why the loop ended.
enum End {
    Finished(String),
    Interrupted,
}

impl Job {
    fn train_and_test(&mut self, trainer: &mut Trainer, recorder: &mut Recorder) -> Outcome {
        let outcome = self.train(trainer, recorder).and_then(|end| match end {
            End::Interrupted => Ok(None),
            End::Finished(note) => match self.finish(trainer, recorder, &note) {
                Err(error) if error.is::<Interrupted>() => Ok(None),
                tested => tested.map(Some),
            },
        });
        let status = match &outcome {
            Ok(Some(())) => Status::Finished,
            Ok(None) => Status::Killed,
            Err(_) => Status::Failed,
        };
        let finished = recorder.finish(status);
        match outcome {
            Ok(Some(())) => Ok(finished?),
            Ok(None) => {
                tell(format_args!(
                    "go on with: ferrotune train --resume {}",
                    self.folder.path().display()
                ));
                Err(Failure::Interrupted)
            }
            Err(error) => Err(Failure::Job(error)),
        }
    }

    /// Opens the record; `info` is that of a new run. Without it the trainer is put where the last
    /// checkpoint was, at the start if there is none.
    fn open(
        &self,
        trainer: &mut Trainer,
        info: Option<RunInfo>,
        place: Option<&Place>,
    ) -> Result<Recorder> {
        let last = self.folder.last();
        if info.is_none() && last.is_dir() {
            let backend = &trainer.backend;
            match trainer::method(&self.config) {
                Method::Lora(_) => peft::read_adapter(backend, &mut trainer.model, &last)?,
                Method::Full => peft::read_full(backend, &mut trainer.model, &last)?,
            }
            let parameters = &trainer.model.parameters;
            let state = run_folder::read_state(&last, backend, &mut trainer.optimizer, parameters)?;
            if state.config != trainer.state.config {
                bail!(
                    "the configuration in {} is not the one the checkpoint was trained with",
                    self.folder.path().display()
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
        let info = info.unwrap_or_else(|| run_info(&self.config));
        let position = trainer.state.metric_position;
        let datasets = inputs::datasets(&self.config, &self.prepared.dataset);
        Recorder::open(&self.folder, &self.config, &info, &datasets, place, position)
    }

    fn train(&mut self, trainer: &mut Trainer, recorder: &mut Recorder) -> Result<End> {
        self.announce(trainer);
        self.interrupt.checkpoints_from_now_on();
        let steps_per_epoch = trainer.steps_per_epoch(&self.prepared.train);
        let max_seconds = self.config.max_seconds()?;
        let out_of_time = |trainer: &Trainer| {
            max_seconds.is_some_and(|max| trainer.state.training_seconds >= max)
        };
        let mut saved = Instant::now();
        loop {
            // A checkpoint may stand in the middle of an epoch: it is evaluated before time ends it.
            let whole = trainer.state.step_in_epoch == 0;
            let note =
                self.finished(trainer, whole && trainer.state.epoch > 0 && out_of_time(trainer));
            if let Some(note) = note {
                return Ok(End::Finished(note));
            }
            let epoch = trainer.state.epoch + 1;
            let epoch_started = Instant::now();
            let bar =
                progress::training(steps_per_epoch as u64).with_prefix(format!("epoch {epoch}"));
            bar.set_position(trainer.state.step_in_epoch as u64);
            while trainer.state.step_in_epoch < steps_per_epoch {
                if trainer.state.step_in_epoch > 0 && out_of_time(trainer) {
                    break;
                }
                let step = self.device.run(|| trainer.step(&self.prepared.train))?;
                recorder.step(trainer.state.step, &step)?;
                let speed = trainer.state.tokens as f64 / trainer.state.training_seconds;
                bar.set_message(format!("loss {:.4}  {speed:.0} tokens/s", step.loss));
                bar.inc(1);
                if self.interrupt.requested() {
                    bar.finish_and_clear();
                    self.checkpoint(trainer, recorder)?;
                    return Ok(End::Interrupted);
                }
                if saved.elapsed() >= CHECKPOINT_EVERY {
                    self.checkpoint(trainer, recorder)?;
                    saved = Instant::now();
                }
            }
            bar.finish_and_clear();
            let ended = self
                .device
                .run(|| trainer.end_epoch(&self.prepared.validation, |_| self.interrupt.check()));
            let (best, evaluation) = match ended {
                // Resumed, the run evaluates first.
                Err(error) if error.is::<Interrupted>() => {
                    self.checkpoint(trainer, recorder)?;
                    return Ok(End::Interrupted);
                }
                other => other?,
            };
            let record = trainer.state.epochs.last().context("an epoch has just ended")?;
            recorder.epoch(record)?;
            let seconds = epoch_started.elapsed().as_secs_f64();
            tell(format_args!("{}", results::epoch_line(record, best, seconds)));
            if best {
                let Prepared { base, card, validation, .. } = &self.prepared;
                let method = trainer::method(&self.config);
                let tuned = (self.config.thresholds == ThresholdRule::Tuned)
                    .then(|| Thresholds::tune(&evaluation, validation, card));
                durable::replace_folder(&self.folder.best(), |folder| {
                    artifact::write(folder, &trainer.backend, &trainer.model, &method, base, card)?;
                    tuned.iter().try_for_each(|thresholds| thresholds.write(folder))
                })?;
            }
            self.checkpoint(trainer, recorder)?;
            saved = Instant::now();
            if self.interrupt.requested() {
                return Ok(End::Interrupted);
            }
        }
    }

    fn announce(&self, trainer: &Trainer) {
        let model = &trainer.model;
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
            tell(format_args!(
                "new layers, trained and saved: {}",
                model.newly_initialised.join(", ")
            ));
        }
        if trainer.state.step > 0 {
            tell(format_args!("resumed after step {}", trainer.state.step));
        }
    }

    /// Why there is nothing more to train, if so.
    fn finished(&self, trainer: &Trainer, out_of_time: bool) -> Option<String> {
        let (state, early) = (&trainer.state, &self.config.early_stopping);
        if out_of_time {
            return Some(format!("training.max_time reached after epoch {}", state.epoch));
        }
        if early.patience > 0 && state.epochs_without_progress >= early.patience {
            return Some(format!("early stopping after epoch {}", state.epoch));
        }
        (state.epoch >= self.config.training.max_epochs)
            .then(|| format!("all {} epochs trained", state.epoch))
    }

    fn checkpoint(&self, trainer: &mut Trainer, recorder: &mut Recorder) -> Result<()> {
        recorder.sync()?;
        trainer.state.metric_position = recorder.position();
        let Prepared { base, card, .. } = &self.prepared;
        let Trainer { backend, model, optimizer, state, .. } = trainer;
        let method = trainer::method(&self.config);
        durable::replace_folder(&self.folder.last(), |folder| {
            artifact::write(folder, backend, model, &method, base, card)?;
            run_folder::write_state(folder, backend, state, optimizer, &model.parameters)
        })
    }

    /// What follows the last step.
    fn finish(&mut self, trainer: &mut Trainer, recorder: &mut Recorder, note: &str) -> Result<()> {
        self.test(trainer, recorder, note)?;
        self.export(recorder)?;
        match &self.store {
            Some(store) => upload::upload(store, self.folder.path(), &self.interrupt),
            None => Ok(()),
        }
    }

    /// Writes the best model in the formats that the configuration names; that for MLflow is one of
    /// the run's models there.
    fn export(&self, recorder: &mut Recorder) -> Result<()> {
        let (base, isa) = (&self.prepared.base, self.device.isa);
        for &format in &self.config.export.formats {
            let int8 = format == Format::Onnx && self.config.export.int8;
            let export = Export::open(&self.folder.best(), Some(base), format, int8, isa)?;
            let target = run_folder::export(self.folder.path(), format);
            durable::create_folder(target.parent().unwrap_or(&target))?;
            durable::replace_folder(&target, |folder| self.device.run(|| export.write(folder)))?;
            tell(format_args!("exported: {}", target.display()));
            if format == Format::Mlflow {
                recorder.model(&target, &self.config)?;
            }
        }
        Ok(())
    }

    /// Tests the last and the best model, prints the table, writes the report.
    fn test(&mut self, trainer: &mut Trainer, recorder: &mut Recorder, note: &str) -> Result<()> {
        tell(format_args!("{note}"));
        let Prepared { dataset, classes, test, data_report, card, .. } = &self.prepared;
        let tested = |trainer: &Trainer| {
            self.device.run(|| -> Result<Tested> {
                let evaluation = trainer.evaluate(test, |_| self.interrupt.check())?;
                Ok(Tested::new(evaluation, &test.labels, *classes, self.config.seed))
            })
        };
        let last = tested(trainer)?;
        let best_folder = self.folder.best();
        match trainer::method(&self.config) {
            Method::Lora(_) => {
                peft::read_adapter(&trainer.backend, &mut trainer.model, &best_folder)?
            }
            Method::Full => peft::read_full(&trainer.backend, &mut trainer.model, &best_folder)?,
        }
        let best = tested(trainer)?;
        let thresholds = Thresholds::read(&best_folder, card)?;
        let tuned = thresholds.map(|thresholds| {
            let seed = self.config.seed;
            let tested = || best.at(&thresholds.values(), &test.labels, *classes, seed);
            (self.device.run(tested), thresholds)
        });
        let state = &trainer.state;
        let best_epoch = state.best.map_or(state.epoch, |(epoch, _)| epoch);
        let table = if test.rows() > 0 {
            recorder.test("Last_Test_", state.epoch, &last.evaluation)?;
            recorder.test("Test_", best_epoch, &best.evaluation)?;
            let mut models = vec![(format!("best model (epoch {best_epoch})"), &best)];
            if let Some((tuned, _)) = &tuned {
                recorder.test("Tuned_Test_", best_epoch, &tuned.evaluation)?;
                models.push(("best model, tuned thresholds".to_owned(), tuned));
            }
            models.push((format!("last model (epoch {})", state.epoch), &last));
            Some(results::table(test.rows(), *classes, &models))
        } else {
            tell(format_args!("no test rows: nothing was tested"));
            None
        };
        let run_name = recorder.info().run_name.clone();
        let facts = Facts {
            run_name: &run_name,
            config: &self.config,
            labels: &dataset.labels,
            classes: *classes,
            data: data_report,
            test: &dataset.test,
            tuned: tuned.as_ref().map(|(tested, thresholds)| (thresholds, tested)),
            steps: recorder.steps()?,
            parameters: (
                trainer.model.parameters.count(),
                trainer.model.parameters.count() + trainer.model.frozen,
                &trainer.model.newly_initialised,
            ),
            device: &self.device,
            seconds: self.started.elapsed().as_secs_f64(),
            note,
        };
        let content = results::report(&facts, state, &best, &last);
        let (html, markdown) =
            (self.folder.path().join("report.html"), self.folder.path().join("report.md"));
        durable::write(&html, report::html(&content)?.as_bytes())?;
        durable::write(&markdown, report::markdown(&content).as_bytes())?;
        artifact::write_json(&self.folder.path().join(REPORT), &content)?;
        recorder.artifact(&html, "")?;
        recorder.artifact(&best_folder, "best")?;
        if let Some(table) = table {
            print(format_args!("{table}"))?;
        }
        tell(format_args!("report: {}", html.display()));
        Ok(())
    }
}
