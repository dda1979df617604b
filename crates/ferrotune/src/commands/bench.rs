//! `ferrotune bench`: how fast this machine trains and predicts, and in how much memory.
//!
//! Every workload warms up (an epoch by its first steps) and then runs `--repeats` times; the
//! median is reported beside the extremes. Random weights are as good as trained ones here: no
//! operation's time depends on them.

use crate::artifact::Base;
use crate::cli::{BenchArguments, Shape, Workload};
use crate::config::Config;
use crate::config::environment;
use crate::device::Device;
use crate::evaluation::{Split, classes_of, logits, token_budget};
use crate::failure::{BeforeStart, Outcome};
use crate::memory::{self, Bytes};
use crate::metrics::Classes;
use crate::prepared::{split_files, tokenized};
use crate::progress::{Downloads, bar, print};
use crate::trainer::{self, Trainer};
use anyhow::{Result, bail};
use architectures::{Checkpoint, Cpu, SequenceClassifier};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use data::Encoded;
use std::path::Path;
use std::time::Instant;

/// Sequences and their length in the workload `step`.
const BATCH: (usize, usize) = (32, 128);
/// Steps that warm an epoch up.
const WARM_UP: usize = 2;

/// Runs the command.
pub fn run(arguments: &BenchArguments) -> Outcome {
    let config = Config::resolve(arguments.config.as_deref(), environment(), &arguments.set)
        .before_start()?;
    trainer::method(&config).before_start()?;
    let device = Device::new(config.threads, config.precision).before_start()?;
    let mut bench = device.run(|| Bench::prepare(arguments, config, &device)).before_start()?;
    let budget = token_budget(device.threads());
    let figures = device.run(|| bench.measure(arguments, budget))?;
    let count = figures.seconds.len();
    let median = (figures.seconds[(count - 1) / 2] + figures.seconds[count / 2]) / 2.0;
    let rate = figures.tokens as f64 / median;
    let (least, most) = (figures.seconds[0], figures.seconds[figures.seconds.len() - 1]);
    if arguments.json {
        print(format_args!(
            "{}",
            serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "workload": figures.what,
                "processor": processor(),
                "instruction_set": device.isa.to_string(),
                "precision": device.precision_name(),
                "quantization": figures.settings.quantization,
                "gradient_checkpointing": figures.settings.training.gradient_checkpointing,
                "tokens_per_micro_batch": figures.settings.training.tokens_per_micro_batch,
                "threads": device.threads(),
                "sequences": figures.sequences,
                "tokens": figures.tokens,
                "seconds": figures.seconds,
                "median_seconds": median,
                "tokens_per_second": rate,
                "peak_memory_bytes": memory::peak().map(|bytes| bytes.0),
                "predicted_memory_bytes": figures.predicted.map(|bytes| bytes.0),
            })
        ))?;
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let amount = |bytes: Option<Bytes>| bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
    for (name, value) in [
        ("workload", figures.what),
        ("processor", processor()),
        (
            "device",
            format!("{} threads, {}, {}", device.threads(), device.isa, device.precision_name()),
        ),
        ("settings", settings(&figures.settings)),
        ("work", format!("{} sequences, {} tokens", figures.sequences, figures.tokens)),
        ("median of", figures.seconds.len().to_string()),
        ("seconds", format!("{median:.3} ({least:.3} to {most:.3})")),
        ("tokens per second", format!("{rate:.0}")),
        ("memory, predicted", amount(figures.predicted)),
        ("memory, at its peak", amount(memory::peak())),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    Ok(print(format_args!("{table}"))?)
}

/// What of the configuration decides time and memory.
fn settings(config: &Config) -> String {
    let Config { method, quantization, training, .. } = config;
    let checkpointing =
        if training.gradient_checkpointing { ", gradient checkpointing" } else { "" };
    format!("method {}, quantization {}{checkpointing}", method.name(), quantization.name())
}

/// What is measured.
struct Bench {
    trainer: Trainer,
    /// Training rows of `step` and `epoch`, test rows of `predict`.
    split: Split,
    what: String,
    settings: Config,
}

/// What came out.
struct Figures {
    what: String,
    settings: Config,
    sequences: usize,
    tokens: u64,
    /// Ascending.
    seconds: Vec<f64>,
    /// Memory, as training would have announced it.
    predicted: Option<Bytes>,
}

impl Bench {
    fn prepare(arguments: &BenchArguments, mut config: Config, device: &Device) -> Result<Bench> {
        if arguments.repeats == 0 {
            bail!("--repeats is 0, but must be at least 1");
        }
        let backend = Cpu::new(device.isa, device.precision, config.quantization);
        let method = trainer::method(&config)?;
        let names_no_model = config.pretrained_model == Config::default().pretrained_model;
        let shape = match (arguments.workload, arguments.shape) {
            (Workload::Step, None) if names_no_model => Some(Shape::RobertaBase),
            (_, shape) => shape,
        };
        let seed = config.seed;
        let random = |shape: Shape, labels| {
            let (network, checkpoint) = (network(shape)?, Checkpoint::random(seed));
            SequenceClassifier::build(&backend, network, &checkpoint, labels, &method, seed)
        };
        let name = |value: &dyn Fn() -> Option<PossibleValue>| {
            value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let model = match shape {
            Some(shape) => name(&|| shape.to_possible_value()),
            None => config.pretrained_model.clone(),
        };
        let what = format!("{}, {model}", name(&|| arguments.workload.to_possible_value()));
        if arguments.workload == Workload::Step {
            config.training.batch_size = BATCH.0;
            config.training.gradient_accumulation_steps = 1;
            let model = match shape {
                Some(shape) => random(shape, 2)?,
                None => {
                    let base = Base::find(&config.pretrained_model, &Downloads::default())?;
                    SequenceClassifier::load(&backend, &base.folder, 2, &method, seed)?
                }
            };
            let split = synthetic(model.config.vocab_size());
            let trainer = Trainer::new(backend, model, &config, Classes::Binary, &split)?;
            return Ok(Bench { trainer, split, what, settings: config });
        }
        let downloads = Downloads::default();
        let base = Base::find(&config.pretrained_model, &downloads)?;
        let files = split_files(&mut config, &downloads)?;
        let dataset = data::load(&config.data, &files, config.seed)?;
        let labels = dataset.labels.names.len();
        let model = match shape {
            Some(shape) => random(shape, labels)?,
            None => SequenceClassifier::load(&backend, &base.folder, labels, &method, config.seed)?,
        };
        let [train, _, test] = tokenized(&config, &dataset, &base, &model.config)?;
        let classes = classes_of(&dataset.labels);
        let trainer = Trainer::new(backend, model, &config, classes, &train)?;
        let split = if arguments.workload == Workload::Predict { test } else { train };
        if split.rows() == 0 {
            bail!("there are no rows for this workload");
        }
        Ok(Bench { trainer, split, what, settings: config })
    }

    /// Predicts `token_budget` tokens at a time.
    fn measure(&mut self, arguments: &BenchArguments, token_budget: usize) -> Result<Figures> {
        let bar = bar(1 + arguments.repeats as u64, "measuring {wide_bar} {pos}/{len}");
        let predicted = match arguments.workload {
            Workload::Predict => None,
            Workload::Step | Workload::Epoch => self.trainer.predicted_memory(&self.split)?,
        };
        let mut seconds = Vec::new();
        for repeat in 0..=arguments.repeats {
            let steps = self.trainer.steps_per_epoch(&self.split);
            let started = Instant::now();
            match arguments.workload {
                Workload::Step | Workload::Epoch if repeat == 0 => {
                    self.steps(steps.min(WARM_UP))?
                }
                Workload::Step | Workload::Epoch => self.steps(steps)?,
                Workload::Predict => {
                    let Trainer { backend, model, .. } = &self.trainer;
                    logits(backend, model, &self.split, token_budget, |_| Ok(()))?;
                }
            }
            if repeat > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        seconds.sort_by(f64::total_cmp);
        let tokens = self.split.lengths.iter().map(|&length| u64::from(length)).sum();
        let (what, sequences) = (self.what.clone(), self.split.rows());
        let settings = self.settings.clone();
        Ok(Figures { what, settings, sequences, tokens, seconds, predicted })
    }

    /// The first steps of an epoch.
    fn steps(&mut self, count: usize) -> Result<()> {
        self.trainer.state.step_in_epoch = 0;
        for _ in 0..count {
            self.trainer.step(&self.split)?;
        }
        Ok(())
    }
}

/// The batch of the workload `step`: ids that walk over the whole vocabulary, labels in turn.
fn synthetic(vocabulary: usize) -> Split {
    let (sequences, length) = BATCH;
    let id = |token: usize| (token.wrapping_mul(0x9E37_79B9) % vocabulary) as u32;
    let encoded = (0..sequences)
        .map(|n| Encoded { ids: (n * length..(n + 1) * length).map(id).collect(), length })
        .collect();
    Split::new(encoded, (0..sequences as u32).map(|n| n % 2).collect())
}

/// The published configurations of these models.
fn network(shape: Shape) -> Result<architectures::Config, architectures::Error> {
    let json = match shape {
        Shape::RobertaBase => {
            r#"{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 768,
                "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
                "pad_token_id": 1}"#
        }
        Shape::MinilmL6 => {
            r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 384,
                "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
                "max_position_embeddings": 512, "pad_token_id": 0}"#
        }
    };
    architectures::Config::parse(Path::new("built in"), json)
}

/// The processor's name, where the system tells.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
