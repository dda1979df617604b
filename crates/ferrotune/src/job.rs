//! A training run under way, whatever it trains: its folder and its record, how it ends, the table and
//! the report. What methods do each in its own way is a [`Learner`]: networks in `commands/train.rs`,
//! linear machines in `svm/`.

use crate::benchmark::outcome::REPORT;
use crate::cli::TrainArguments;
use crate::commands::upload;
use crate::config::{Config, MethodName, environment};
use crate::device::Device;
use crate::evaluation::targets;
use crate::failure::{BeforeStart, Failure, Outcome};
use crate::interrupt::{Interrupt, Interrupted};
use crate::metrics::Classes;
use crate::prepared::Rows;
use crate::progress::{print, tell};
use crate::recorder::Recorder;
use crate::results::{self, Facts, Learned, Tested};
use crate::run_folder::RunFolder;
use crate::thresholds::Thresholds;
use crate::trackers::Place;
use crate::{artifact, inputs, report};
use anyhow::Result;
use data::DataReport;
use std::time::Instant;
use stores::Store;
use tracking::{Environment, RunInfo, Status};

/// What a command line asks for.
pub struct Order {
    pub config: Config,
    /// The folder of the run that goes on, if one does.
    resumed: Option<RunFolder>,
    /// Where the run is tracked besides its folder, if anywhere.
    place: Option<Place>,
    /// Where the finished run is copied.
    store: Option<Store>,
    interrupt: Interrupt,
    started: Instant,
}

/// A run under way.
pub struct Job<L> {
    /// Everything that decides it.
    pub config: Config,
    /// What it runs on.
    pub device: Device,
    /// What it reads.
    pub rows: Rows,
    /// What a user should know about the data.
    pub data_report: DataReport,
    /// What is trained.
    pub learner: L,
    /// Where it leaves everything.
    pub folder: RunFolder,
    /// Where it is copied in the end.
    store: Option<Store>,
    /// Whether to end.
    pub interrupt: Interrupt,
    started: Instant,
}

/// Why training ended.
pub enum End {
    /// There is nothing more to train, for this reason.
    Finished(String),
    /// Someone asked.
    Interrupted,
}

/// The models of a run, tested.
pub struct Tests {
    /// The best on the validation rows: its name, the epoch or combination of settings that it is of.
    pub best: (String, usize, Tested),
    /// The same model at thresholds that were tuned on the validation rows.
    pub tuned: Option<(Thresholds, Tested)>,
    /// The last one, of methods that go on past the best.
    pub last: Option<(String, usize, Tested)>,
}

/// What is trained, and what is done its own way. Everything takes the job that it is a part of.
pub trait Learner: Sized + Send {
    /// Reads what there is besides rows; pins names in the configuration.
    ///
    /// # Errors
    /// Something is missing, damaged, or does not fit the rest.
    fn prepare(config: &mut Config, device: &Device, rows: &Rows) -> Result<(Self, DataReport)>;

    /// Refuses what would end half-way.
    ///
    /// # Errors
    /// There is too little memory.
    fn check(&self, config: &Config) -> Result<()>;

    /// Puts a run that goes on where its last checkpoint was, at the start if there is none. Returns
    /// how many points it had recorded there.
    ///
    /// # Errors
    /// The checkpoint is damaged, or of another configuration or other rows.
    fn resume(job: &mut Job<Self>) -> Result<u64>;

    /// Trains to the end, and keeps the best model.
    ///
    /// # Errors
    /// Training diverged, or the file system refuses.
    fn train(job: &mut Job<Self>, recorder: &mut Recorder) -> Result<End>;

    /// Tests what was trained.
    ///
    /// # Errors
    /// [`Interrupted`]; a model cannot be read back.
    fn test(job: &mut Job<Self>) -> Result<Tests>;

    /// What the report says of the method and its course.
    ///
    /// # Errors
    /// The record cannot be read.
    fn learned(job: &Job<Self>, recorder: &Recorder) -> Result<Learned>;

    /// Writes the best model in the formats that the configuration names; that for MLflow is one of
    /// the run's models there.
    ///
    /// # Errors
    /// The file system refuses.
    fn export(job: &Job<Self>, recorder: &mut Recorder) -> Result<()>;
}

impl Order {
    /// Settles the configuration, from the command line or from the folder of the run that goes on.
    ///
    /// # Errors
    /// Nothing can be started: it is not valid, or another process works in the folder.
    pub fn new(arguments: &TrainArguments) -> Result<Order, Failure> {
        let started = Instant::now();
        let interrupt = Interrupt::listen()?;
        let (resumed, mut config) = match &arguments.resume {
            Some(path) => {
                let (folder, config) = RunFolder::open(path).before_start()?;
                (Some(folder), config)
            }
            None => {
                let (file, overrides) = (arguments.config.as_deref(), arguments.overrides());
                (None, Config::resolve(file, environment(), &overrides).before_start()?)
            }
        };
        let environment = Environment::of_process();
        let mut tracking = config.tracking.clone();
        if resumed.is_none() {
            tracking.complete(&environment).before_start()?;
        }
        tracking.locate_or_wait(&environment).before_start()?;
        let place = tracking.place(&environment).before_start()?;
        place.as_ref().map_or(Ok(()), Place::check).before_start()?;
        let store = config.artifacts.uri.as_deref().map(upload::open).transpose().before_start()?;
        if resumed.is_none() {
            // From anywhere the run's folder leads to the same places.
            tracking.pin().before_start()?;
            config.tracking = tracking;
            config.artifacts.uri = store.as_ref().map(|store| store.location().to_owned());
        }
        Ok(Order { config, resumed, place, store, interrupt, started })
    }

    /// Reads everything, opens folder and record, trains, tests.
    ///
    /// # Errors
    /// What stands in the way, or makes the job fail.
    pub fn carry_out<L: Learner>(self) -> Outcome {
        let Order { mut config, resumed, place, store, interrupt, started } = self;
        let device = Device::new(config.threads, config.precision).before_start()?;
        let rows = Rows::load(&mut config).before_start()?;
        let prepare = || L::prepare(&mut config, &device, &rows);
        let (learner, data_report) = device.run(prepare).before_start()?;
        tell(format_args!("{data_report}"));
        if let Classes::Binary = rows.classes {
            let positive = &rows.dataset.labels.names[1];
            tell(format_args!("positive class: {positive}, the last of data.label_names"));
        }
        learner.check(&config).before_start()?;

        interrupt.checkpoints_from_now_on();
        let (folder, info) = match resumed {
            Some(folder) => (folder, None),
            None => {
                let info = run_info(&config);
                let name = format!("{}-{}", folder_name(&info.run_name), &info.run_id[..8]);
                let path = config.output_dir.join(name);
                (RunFolder::create(path, &config).before_start()?, Some(info))
            }
        };
        tell(format_args!("run folder: {}", folder.path().display()));
        let mut job =
            Job { config, device, rows, data_report, learner, folder, store, interrupt, started };
        let mut recorder = job.open(info, place.as_ref()).before_start()?;
        job.train_and_test(&mut recorder)
    }
}

/// A new run, under the name the configuration gives it.
fn run_info(config: &Config) -> RunInfo {
    let mut info = RunInfo::new(config.tracking.experiment());
    info.run_name = config.name.clone().unwrap_or(info.run_name);
    info
}

/// A run's name as part of a folder's.
fn folder_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(plain).collect()
}

impl<L: Learner> Job<L> {
    /// Opens the record; `info` is that of a new run. One that goes on is put where it was.
    fn open(&mut self, info: Option<RunInfo>, place: Option<&Place>) -> Result<Recorder> {
        let (info, position) = match info {
            Some(info) => (info, 0),
            None => (run_info(&self.config), L::resume(self)?),
        };
        let datasets = inputs::datasets(&self.config, &self.rows.dataset);
        let (folder, config, interrupt) = (&self.folder, &self.config, &self.interrupt);
        Recorder::open(folder, config, &info, &datasets, place, interrupt, position)
    }

    fn train_and_test(&mut self, recorder: &mut Recorder) -> Outcome {
        let outcome = L::train(self, recorder).and_then(|end| match end {
            End::Interrupted => Ok(None),
            End::Finished(note) => match self.finish(recorder, &note) {
                Err(error) if error.is::<Interrupted>() => Ok(None),
                finished => finished.map(Some),
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

    /// What follows the last step: tests, table, report, exports, upload.
    fn finish(&mut self, recorder: &mut Recorder, note: &str) -> Result<()> {
        tell(format_args!("{note}"));
        let tests = L::test(self)?;
        let table = self.table(&tests, recorder)?;
        let indifference = self.indifference(&tests.best.2);
        let note = [Some(note), indifference.as_deref()].into_iter().flatten().collect::<Vec<_>>();
        self.report(&tests, recorder, &note.join("; "))?;
        if let Some(table) = table {
            print(format_args!("{table}"))?;
        }
        if let Some(indifference) = indifference {
            tell(format_args!("warning: {indifference}"));
        }
        let html = self.folder.path().join("report.html");
        tell(format_args!("report: {}", html.display()));
        L::export(self, recorder)?;
        match &self.store {
            Some(store) => upload::upload(store, self.folder.path(), &self.interrupt),
            None => Ok(()),
        }
    }

    /// What is to be said of a model that gives all rows the same answer.
    fn indifference(&self, best: &Tested) -> Option<String> {
        let (labels, classes) = (&self.rows.dataset.labels, self.rows.classes);
        let truth = targets(&self.rows.dataset.test, classes);
        let answer = best.evaluation.only_answer(&truth, classes)?;
        let answer = results::in_words(&answer, &labels.names, classes);
        let what_may_help = match self.config.method {
            MethodName::Svm => "svm.class_weights may help",
            MethodName::Lora | MethodName::Full => {
                "more epochs, another learning rate, training.class_weights or thresholds = \"tuned\" may help"
            }
        };
        Some(format!(
            "at the usual threshold the best model answers every test row with `{answer}`: {what_may_help}"
        ))
    }

    /// Records the tests, and puts them side by side.
    fn table(&self, tests: &Tests, recorder: &mut Recorder) -> Result<Option<String>> {
        let rows = self.rows.dataset.test.len();
        if rows == 0 {
            tell(format_args!("no test rows: nothing was tested"));
            return Ok(None);
        }
        let Tests { best: (name, step, best), tuned, last } = tests;
        if let Some((_, step, last)) = last {
            recorder.test("Last_Test_", *step, &last.evaluation)?;
        }
        recorder.test("Test_", *step, &best.evaluation)?;
        let mut models = vec![(name.clone(), best)];
        if let Some((_, tuned)) = tuned {
            recorder.test("Tuned_Test_", *step, &tuned.evaluation)?;
            models.push(("best model, tuned thresholds".to_owned(), tuned));
        }
        models.extend(last.as_ref().map(|(name, _, last)| (name.clone(), last)));
        Ok(Some(results::table(rows, &self.rows.dataset.labels, self.rows.classes, &models)))
    }

    fn report(&self, tests: &Tests, recorder: &mut Recorder, note: &str) -> Result<()> {
        let run_name = recorder.info().run_name.clone();
        let facts = Facts {
            run_name: &run_name,
            config: &self.config,
            labels: &self.rows.dataset.labels,
            classes: self.rows.classes,
            data: &self.data_report,
            test: &self.rows.dataset.test,
            best: &tests.best.2,
            last: tests.last.as_ref().map(|(_, _, tested)| tested),
            tuned: tests.tuned.as_ref().map(|(thresholds, tested)| (thresholds, tested)),
            threads: self.device.threads(),
            seconds: self.started.elapsed().as_secs_f64(),
            note,
        };
        let content = results::report(&facts, L::learned(self, recorder)?);
        let [html, markdown, json] =
            ["report.html", "report.md", REPORT].map(|name| self.folder.path().join(name));
        durable::write(&html, report::html(&content)?.as_bytes())?;
        durable::write(&markdown, report::markdown(&content).as_bytes())?;
        artifact::write_json(&json, &content)?;
        recorder.artifact(&html, "")?;
        recorder.artifact(&self.folder.best(), "best")
    }
}
