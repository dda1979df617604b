//! `ferrotune benchmark`: methods side by side on one data set, over several seeds, beside what was
//! published.
//!
//! Every (method, seed) is a run of its own in the benchmark's folder. The same command again runs
//! only what is missing and goes on with what was cut off; the table is written in any case, and has what
//! other calls ran in that folder as well.

use crate::artifact::{Base, read_json, write_json};
use crate::benchmark::jobs::Runner;
use crate::benchmark::outcome::{Outcome as Figures, Row};
use crate::benchmark::{Job, Method, Settings, finished, known_names, methods_in, page, table};
use crate::cli::BenchmarkArguments;
use crate::config::{environment, variables};
use crate::failure::{BeforeStart, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::memory::{self, Bytes};
use crate::prepared::split_files;
use crate::progress::{Downloads, print, tell};
use crate::trainer;
use anyhow::{Result, anyhow, bail};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

const SETTINGS: &str = "benchmark.json";
/// What a process holds besides its network: the program, the rows, their tokens.
const BESIDES: u64 = 256 << 20;

/// Runs the command.
pub fn run(arguments: &BenchmarkArguments) -> Outcome {
    let interrupt = Interrupt::listen()?;
    let settings = settings(arguments).before_start()?;
    let methods = methods(arguments, &settings).before_start()?;
    let folder = output(arguments, &settings).before_start()?;
    let labels = check_data(&settings, &folder).before_start()?;
    keep(&settings, &folder).before_start()?;

    let mut plan = Plan::new(&settings, methods, &arguments.seeds, &folder, labels);
    plan.prepare()?;
    let threads = arguments.threads.or_else(|| Some(available_parallelism().ok()?.get()));
    let (parallel, threads) = plan.share(arguments.parallel, threads.unwrap_or(1));
    interrupt.checkpoints_from_now_on();
    let runner = Runner {
        settings: &settings,
        methods: &plan.methods,
        folder: &folder,
        parallel,
        threads,
        interrupt: &interrupt,
    };
    let done = runner.run(&plan.open);
    let rows = with_others(plan.rows(done), &settings, &folder);

    let title =
        format!("{}, protocol {}", dataset_name(&settings.dataset), settings.protocol.name());
    let path = |extension: &str| folder.join(format!("benchmark.{extension}"));
    durable::write(&path("md"), table::markdown(&title, &rows).as_bytes())?;
    durable::write(&path("csv"), table::csv(&rows).as_bytes())?;
    durable::write(&path("html"), page::html(&title, &rows)?.as_bytes())?;
    print(format_args!("{}", table::terminal(&rows)))?;
    tell(format_args!("written: {}", path("html").display()));
    let missing: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            row.failures().into_iter().map(|reason| format!("{}: {reason}", row.method.name))
        })
        .collect();
    if interrupt.requested() {
        return Err(Failure::Interrupted);
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::Job(anyhow!("without a result: {}", missing.join("; ")))),
    }
}

fn settings(arguments: &BenchmarkArguments) -> Result<Settings> {
    let mut seen = HashSet::new();
    if arguments.seeds.is_empty() || !arguments.seeds.iter().all(|seed| seen.insert(seed)) {
        bail!("--seeds is {:?}, but must name each seed once", arguments.seeds);
    }
    if arguments.parallel == Some(0) || arguments.threads == Some(0) {
        bail!("--parallel and --threads must be at least 1");
    }
    for assignment in &arguments.set {
        let key = assignment.split('=').next().unwrap_or_default().trim();
        let option = match key {
            "seed" => "--seeds",
            "threads" => "--threads",
            "output_dir" | "name" => "--output",
            "pretrained_model" => "--methods",
            "data.dataset" => "the data set it is given",
            _ => continue,
        };
        bail!("--set {key} is not for a benchmark, which sets it itself: see {option}");
    }
    let dataset = match Path::new(&arguments.dataset).is_dir() {
        true => std::path::absolute(&arguments.dataset)?.display().to_string(),
        false => arguments.dataset.clone(),
    };
    let variables = variables(environment()).into_iter();
    let variables = variables.map(|(key, value)| format!("{key}={value}"));
    let set = variables.chain(arguments.set.iter().cloned()).collect();
    Ok(Settings { dataset, protocol: arguments.protocol, set })
}

fn methods(arguments: &BenchmarkArguments, settings: &Settings) -> Result<Vec<Method>> {
    if arguments.methods.iter().any(String::is_empty) {
        bail!("--methods has an empty name");
    }
    let named = |name: &str| Method::named(name, &settings.dataset);
    let methods: Vec<Method> = match arguments.methods.is_empty() {
        true => known_names().map(named).collect(),
        false => arguments.methods.iter().map(|name| named(name)).collect(),
    };
    let mut seen = HashSet::new();
    for method in &methods {
        if !seen.insert(method.file_name()) {
            bail!("--methods names {} twice", method.name);
        }
    }
    Ok(methods)
}

fn output(arguments: &BenchmarkArguments, settings: &Settings) -> Result<PathBuf> {
    let name = || format!("{}-{}", dataset_name(&settings.dataset), settings.protocol.name());
    let path = arguments.output.clone().unwrap_or_else(|| Path::new("benchmarks").join(name()));
    Ok(std::path::absolute(path)?)
}

/// The last part of a data set's name.
fn dataset_name(dataset: &str) -> &str {
    let name = dataset.split('@').next().unwrap_or(dataset).trim_end_matches(['/', '\\']);
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// Reads the data once, to refuse before anything is run what no run could use; how many labels it has.
fn check_data(settings: &Settings, folder: &Path) -> Result<usize> {
    settings.config(None, 0, folder, 1)?;
    let mut config = settings.config(Some("none"), 0, folder, 1)?;
    let files = split_files(&mut config, &Downloads::default())?;
    let dataset = data::load(&config.data, &files, config.seed)?;
    if dataset.labels.task != data::Task::MultiLabel {
        bail!("a benchmark is of multi-label tasks, whose micro-F1 it compares");
    }
    for (name, rows) in [("validation", &dataset.validation), ("test", &dataset.test)] {
        if rows.is_empty() {
            bail!("{} has no {name} rows", settings.dataset);
        }
    }
    Ok(dataset.labels.names.len())
}

/// Makes the folder one of these settings, or refuses it as one of others.
fn keep(settings: &Settings, folder: &Path) -> Result<()> {
    let path = folder.join(SETTINGS);
    if path.is_file() {
        let kept: Settings = read_json(&path)?;
        if let Some(difference) = kept.difference(settings) {
            bail!(
                "{} holds runs of {difference}: name another folder with --output",
                folder.display()
            );
        }
        return Ok(());
    }
    durable::create_folder(folder)?;
    write_json(&path, settings)
}

/// Adds the results of other calls that this one did not ask for.
fn with_others(mut rows: Vec<Row>, settings: &Settings, folder: &Path) -> Vec<Row> {
    for (method, runs) in methods_in(&folder.join("runs"), &settings.dataset) {
        let mut others = Vec::new();
        let known = rows.iter().position(|row| row.method.file_name() == method.file_name());
        for (seed, folder) in &runs {
            let is_known = |row: &Row| row.outcomes.iter().any(|(known, _)| known == seed);
            if known.is_none_or(|row| !is_known(&rows[row])) {
                let found = finished(folder).map_err(|error| format!("{error:#}")).transpose();
                others.extend(found.map(|figures| (*seed, figures)));
            }
        }
        match known {
            Some(row) => {
                rows[row].outcomes.extend(others);
                rows[row].outcomes.sort_by_key(|(seed, _)| *seed);
            }
            None if others.is_empty() => {}
            None => rows.push(Row { method, outcomes: others }),
        }
    }
    rows
}

/// What is to be run, and what is known without running.
struct Plan<'a> {
    settings: &'a Settings,
    methods: Vec<Method>,
    seeds: &'a [u64],
    labels: usize,
    /// By method and seed: what has been run before, or why it cannot be.
    known: Vec<Vec<Option<Result<Figures, String>>>>,
    /// The rest.
    open: Vec<Job>,
    /// The most memory that an open job is likely to need.
    needs: Bytes,
}

impl<'a> Plan<'a> {
    fn new(
        settings: &'a Settings,
        methods: Vec<Method>,
        seeds: &'a [u64],
        folder: &Path,
        labels: usize,
    ) -> Plan<'a> {
        let mut open = Vec::new();
        for (index, method) in methods.iter().enumerate() {
            let runs = folder.join("runs").join(method.file_name());
            open.extend(seeds.iter().map(|&seed| Job {
                method: index,
                seed,
                folder: runs.join(format!("seed-{seed}")),
            }));
        }
        let known = methods.iter().map(|_| seeds.iter().map(|_| None).collect()).collect();
        Plan { settings, methods, seeds, labels, known, open, needs: Bytes(0) }
    }

    /// Reads what has been run before, and finds the models of the rest; a model that cannot be had
    /// leaves its row without figures.
    fn prepare(&mut self) -> Result<()> {
        let jobs = std::mem::take(&mut self.open);
        let mut open: Vec<Job> = Vec::new();
        for job in jobs {
            match finished(&job.folder).map_err(|error| format!("{error:#}")) {
                Ok(None) => open.push(job),
                Ok(Some(figures)) => self.know(&job, Ok(figures)),
                Err(reason) => self.know(&job, Err(reason)),
            }
        }
        for index in 0..self.methods.len() {
            if !open.iter().any(|job| job.method == index) {
                continue;
            }
            let Some(name) = self.methods[index].model.clone() else {
                self.needs = self.needs.max(Bytes(BESIDES));
                continue;
            };
            match self.find(&name) {
                Ok((pinned, needs)) => {
                    self.methods[index].model = Some(pinned);
                    self.needs = self.needs.max(needs);
                    tell(format_args!("{}: about {needs} of memory", self.methods[index].name));
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    tell(format_args!("{}: {reason}", self.methods[index].name));
                    let (gone, rest) = open.into_iter().partition(|job| job.method == index);
                    open = rest;
                    let gone: Vec<Job> = gone;
                    gone.iter().for_each(|job| self.know(job, Err(reason.clone())));
                }
            }
        }
        self.open = open;
        Ok(())
    }

    fn know(&mut self, job: &Job, figures: Result<Figures, String>) {
        let seed = self.seeds.iter().position(|&seed| seed == job.seed);
        if let Some(seed) = seed {
            self.known[job.method][seed] = Some(figures);
        }
    }

    /// A model with its revision, and about how much memory training it takes.
    fn find(&self, model: &str) -> Result<(String, Bytes)> {
        let base = Base::find(model, &Downloads::default())?;
        let network = architectures::Config::read(&base.folder)?;
        let config = self.settings.config(Some(model), 0, Path::new("runs"), 1)?;
        let method = trainer::method(&config)?;
        let (trained, frozen) = architectures::parameter_counts(&network, self.labels, &method)?;
        let longest = config.data.max_length.min(network.max_length()) as u32;
        let together = (config.training.tokens_per_micro_batch as u32 / longest).max(1) as usize;
        let step = architectures::step_bytes(
            &network,
            self.labels,
            &method,
            config.training.gradient_checkpointing,
            &[vec![longest; together.min(config.training.batch_size)]],
        )?;
        // Value, gradient and two moments; frozen matrices are kept in two layouts.
        let weights = 16 * trained as u64 + 8 * frozen as u64;
        Ok((base.pinned, Bytes(weights + step as u64 + BESIDES)))
    }

    /// How many jobs at a time, and with how many threads each: as many as memory holds of the largest,
    /// and no more than there are threads.
    fn share(&self, wanted: Option<usize>, threads: usize) -> (usize, usize) {
        let fit = match memory::available() {
            Some(free) if self.needs.0 > 0 => (free.0 / self.needs.0).max(1) as usize,
            _ => threads,
        };
        let parallel = wanted.unwrap_or(threads).min(fit).min(self.open.len()).max(1);
        let each = (threads / parallel).max(1);
        if !self.open.is_empty() {
            let count = self.open.len();
            tell(format_args!("{count} runs, {parallel} at a time with {each} threads each"));
        }
        (parallel, each)
    }

    /// The table's rows.
    fn rows(mut self, done: Vec<Result<Figures, String>>) -> Vec<Row> {
        for (job, figures) in std::mem::take(&mut self.open).iter().zip(done) {
            self.know(job, figures);
        }
        let seeds = self.seeds;
        let row = |(method, known): (Method, Vec<Option<Result<Figures, String>>>)| Row {
            method,
            outcomes: seeds
                .iter()
                .zip(known)
                .filter_map(|(&seed, figures)| Some((seed, figures?)))
                .collect(),
        };
        self.methods.into_iter().zip(self.known).map(row).collect()
    }
}
