//! The configuration: what there is to be set, with the reference recipe as default, and what it must be.
//! `layers` reads it from files, the environment and the command line.

mod layers;

pub use layers::{VARIABLE_PREFIX, environment, variables};

use crate::cli::Format;
use crate::svm::Settings as SvmSettings;
use crate::trackers::TrackingConfig;
use anyhow::{Result, bail};
use architectures::{LoraConfig, Quantization};
use data::{DataConfig, Task};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Hub id (`roberta-base`, `org/name@revision`), local folder, or `pypi:PACKAGE[==VERSION]`.
    pub pretrained_model: String,
    /// Name of the run; a random one by default.
    pub name: Option<String>,
    /// Shown as the run's description.
    pub description: Option<String>,
    /// Where run folders are made.
    pub output_dir: PathBuf,
    /// Decides initial weights, data order and dropout.
    pub seed: u64,
    /// `lora`, `full` to train every weight, or `svm`: no network, but linear support vector machines
    /// over TF-IDF features.
    pub method: MethodName,
    /// Frozen weights in memory, with `method = "lora"`: `none`, `nf4` (4 bits, QLoRA) or `int8`
    /// (8 bits, in which forward's products are computed too).
    pub quantization: Quantization,
    /// `auto` (bf16-mixed where the processor has bf16 products), `32-true` or `bf16-mixed`.
    pub precision: PrecisionName,
    /// Threads; by default one per core. Does not change the result.
    pub threads: Option<usize>,
    /// Above which probability a label, or the positive class of a binary task, is given: `half`, or
    /// `tuned` to the highest F1 on the best model's validation rows, each label for itself.
    pub thresholds: ThresholdRule,
    /// Where rows come from.
    pub data: DataConfig,
    /// With `method = "svm"`: features, and the settings that are searched.
    pub svm: SvmSettings,
    /// Adapters, with `method = "lora"`.
    pub lora: LoraConfig,
    /// The loop.
    pub training: TrainingConfig,
    /// When to stop, and which model is the best.
    pub early_stopping: EarlyStoppingConfig,
    /// Where the run is recorded besides its folder.
    pub tracking: TrackingConfig,
    /// What is written of the best model at the end.
    pub export: ExportConfig,
    /// Where finished runs are copied.
    pub artifacts: ArtifactsConfig,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// Adapters on a frozen encoder.
    Lora,
    /// Every weight.
    Full,
    /// Linear machines over TF-IDF features; no network.
    Svm,
}

impl MethodName {
    /// As a configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            MethodName::Lora => "lora",
            MethodName::Full => "full",
            MethodName::Svm => "svm",
        }
    }

    /// Whether a key, as `section.key`, means something under this method.
    pub fn has_use_for(self, key: &str) -> bool {
        let is_in = |foreign: &str| {
            key.strip_prefix(foreign).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        !self.foreign_keys().iter().any(|foreign| is_in(foreign))
    }

    /// Keys and sections that mean nothing under this method: refused where they are set, and left
    /// out where the configuration is written.
    fn foreign_keys(self) -> &'static [&'static str] {
        match self {
            MethodName::Lora | MethodName::Full => &["svm"],
            MethodName::Svm => &[
                "pretrained_model",
                "quantization",
                "precision",
                "thresholds",
                "data.max_length",
                "tracking.registered_model_name",
                "lora",
                "training",
                "early_stopping",
                "export",
            ],
        }
    }
}

/// Precision of the large products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrecisionName {
    /// What the processor does best.
    #[serde(rename = "auto")]
    Auto,
    /// f32 throughout.
    #[serde(rename = "32-true")]
    True32,
    /// bf16 inputs, f32 sums.
    #[serde(rename = "bf16-mixed")]
    Bf16Mixed,
}

/// Where thresholds come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdRule {
    /// One half.
    Half,
    /// Validation rows.
    Tuned,
}

/// The training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Passes over the training rows, at most.
    pub max_epochs: usize,
    /// Stop after this time in steps: `90s`, `30m`, `1h30m`. The schedule is not shortened by it.
    pub max_time: Option<String>,
    /// Examples per batch.
    pub batch_size: usize,
    /// Batches per optimizer step; the loss is averaged over all their examples.
    pub gradient_accumulation_steps: usize,
    /// Tokens computed at a time: bounds memory, does not change what is learned.
    pub tokens_per_micro_batch: usize,
    /// Keep only each layer's input and compute the rest again in backward: less memory, more time,
    /// the same result.
    pub gradient_checkpointing: bool,
    /// AdamW's learning rate, at its highest.
    pub learning_rate: f64,
    /// `constant`, `linear` or `cosine`, after the warm-up.
    pub lr_scheduler_type: SchedulerType,
    /// Share of all steps in which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay; biases and LayerNorms are spared.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0 switches it off.
    pub max_grad_norm: f64,
    /// `none`, `balanced`, or one weight per class; of multi-label tasks, per label for the rows that
    /// have it.
    pub class_weights: ClassWeights,
}

/// Course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerType {
    /// Stays.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 in half a cosine.
    Cosine,
}

/// Weights of the classes in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// A rule.
    Named(ClassWeighting),
    /// One weight per class, by index.
    Given(Vec<f32>),
}

/// A rule for class weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeighting {
    /// All 1.
    None,
    /// Inversely proportional to the class's rows.
    Balanced,
}

/// When to stop, and which model is the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// Validation metric: `f1`, `micro_f1`, `macro_f1`, `loss`, `accuracy`, `precision`, `recall`,
    /// `average_precision`.
    pub metric: SelectionMetric,
    /// Smaller gains do not count as progress.
    pub min_delta: f64,
    /// Epochs without progress before training stops; 0 never stops early.
    pub patience: usize,
}

/// What the best model is best at, on the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// F1 of the positive class; macro-F1 for more than two classes, or labels.
    F1,
    /// Micro-F1 with "none" as LexGLUE has it; multi-label only.
    MicroF1,
    /// Macro-F1, of multi-label tasks with "none" as LexGLUE has it; not for binary tasks.
    MacroF1,
    /// Mean loss; lower is better.
    Loss,
    /// Share of right answers.
    Accuracy,
    /// Precision.
    Precision,
    /// Recall.
    Recall,
    /// Average precision; binary only.
    AveragePrecision,
}

impl SelectionMetric {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            SelectionMetric::F1 => "F1",
            SelectionMetric::MicroF1 => "micro-F1",
            SelectionMetric::MacroF1 => "macro-F1",
            SelectionMetric::Loss => "loss",
            SelectionMetric::Accuracy => "accuracy",
            SelectionMetric::Precision => "precision",
            SelectionMetric::Recall => "recall",
            SelectionMetric::AveragePrecision => "average precision",
        }
    }
}

/// What is written of the best model at the end, into the run folder's `export/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {
    /// `peft`, `merged`, `mlflow`, `onnx`; as `ferrotune export`.
    pub formats: Vec<Format>,
    /// Whether ONNX is in 8 bits.
    pub int8: bool,
}

/// Where finished runs are copied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsConfig {
    /// `azure://CONTAINER/PREFIX`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or a folder.
    pub uri: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            pretrained_model: "roberta-base".to_owned(),
            name: None,
            description: None,
            output_dir: "runs".into(),
            seed: 42,
            method: MethodName::Lora,
            quantization: Quantization::None,
            precision: PrecisionName::Auto,
            threads: None,
            thresholds: ThresholdRule::Half,
            data: DataConfig::default(),
            svm: SvmSettings::default(),
            lora: LoraConfig::default(),
            training: TrainingConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
            tracking: TrackingConfig::default(),
            export: ExportConfig::default(),
            artifacts: ArtifactsConfig::default(),
        }
    }
}

impl Default for TrainingConfig {
    fn default() -> Self {
        TrainingConfig {
            max_epochs: 10,
            max_time: None,
            batch_size: 256,
            gradient_accumulation_steps: 1,
            tokens_per_micro_batch: 2048,
            gradient_checkpointing: false,
            learning_rate: 2e-4,
            lr_scheduler_type: SchedulerType::Constant,
            warmup_ratio: 0.0,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            class_weights: ClassWeights::Named(ClassWeighting::None),
        }
    }
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        EarlyStoppingConfig { metric: SelectionMetric::F1, min_delta: 0.005, patience: 4 }
    }
}

/// More epochs, examples, steps or tokens at a time make no sense, and their products must not
/// overflow.
const LARGEST: usize = 1 << 24;
/// Bytes of a run's name, which with nine more is a folder's: these have 255 at most.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 1..=240;

impl Config {
    fn check(&self) -> Result<()> {
        let t = &self.training;
        let positive = [
            ("training.max_epochs", t.max_epochs),
            ("training.batch_size", t.batch_size),
            ("training.gradient_accumulation_steps", t.gradient_accumulation_steps),
            ("training.tokens_per_micro_batch", t.tokens_per_micro_batch),
            ("threads", self.threads.unwrap_or(1)),
        ];
        for (key, value) in positive {
            if value == 0 {
                bail!("{key} is 0, but must be at least 1");
            }
            let largest = if key == "threads" { 1024 } else { LARGEST };
            if value > largest {
                bail!("{key} is {value}, but must be at most {largest}");
            }
        }
        if let Some(length) =
            self.name.as_ref().map(String::len).filter(|length| !NAME_BYTES.contains(length))
        {
            let (least, most) = (NAME_BYTES.start(), NAME_BYTES.end());
            bail!(
                "name has {length} bytes, but must have {least} to {most}: a folder is named after it"
            );
        }
        if self.output_dir.as_os_str().is_empty() {
            bail!("output_dir is empty: `.` is the working directory");
        }
        if !(t.learning_rate.is_finite() && t.learning_rate > 0.0) {
            bail!("training.learning_rate is {}, but must be positive", t.learning_rate);
        }
        for (key, value) in [
            ("training.weight_decay", t.weight_decay),
            ("training.max_grad_norm", t.max_grad_norm),
            ("early_stopping.min_delta", self.early_stopping.min_delta),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                bail!("{key} is {value}, but must be 0 or more");
            }
        }
        if !(0.0..1.0).contains(&t.warmup_ratio) {
            bail!("training.warmup_ratio is {}, but must be in 0..1", t.warmup_ratio);
        }
        if let ClassWeights::Given(weights) = &t.class_weights
            && weights.iter().any(|w| !(w.is_finite() && *w > 0.0))
        {
            bail!("training.class_weights is {weights:?}, but every weight must be positive");
        }
        self.tracking.check()?;
        if self.method == MethodName::Full && self.quantization != Quantization::None {
            bail!(
                "quantization is `{}`, but method = \"full\" trains every weight, and only frozen \
                 weights can be quantised",
                self.quantization.name()
            );
        }
        if self.thresholds == ThresholdRule::Tuned && self.data.task == Task::Multiclass {
            bail!(
                "thresholds is \"tuned\", but of the classes of a multiclass task the most \
                 probable is taken: no threshold decides"
            );
        }
        if self.tracking.registered_model_name.is_some()
            && !self.export.formats.contains(&Format::Mlflow)
        {
            bail!("tracking.registered_model_name needs `mlflow` among export.formats");
        }
        if self.method == MethodName::Full && self.export.formats.contains(&Format::Peft) {
            bail!("export.formats names `peft`, but method = \"full\" trains no adapter");
        }
        if self.method == MethodName::Svm {
            self.svm.check(self.seed, self.data.task)?;
        }
        self.max_seconds()?;
        self.lora.check()?;
        self.data.check()?;
        Ok(())
    }

    /// `training.max_time` in seconds.
    ///
    /// # Errors
    /// It is no time, or none at all.
    pub fn max_seconds(&self) -> Result<Option<f64>> {
        let Some(text) = &self.training.max_time else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() => Ok(Some(time.as_secs_f64())),
            _ => bail!("training.max_time is `{text}`, but must be like 90s, 30m or 1h30m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn resolve(overrides: &[&str]) -> Result<Config> {
        let overrides: Vec<String> = overrides.iter().map(|&s| s.to_owned()).collect();
        Config::resolve(None, std::iter::empty(), &overrides)
    }

    #[test]
    fn names_of_methods_are_those_that_are_read() {
        for method in [MethodName::Lora, MethodName::Full, MethodName::Svm] {
            let config = resolve(&[&format!("method={}", method.name())]).unwrap();
            assert_eq!(config.method, method);
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (assignment, expected) in [
            ("lora.r=0", "lora.r is 0"),
            ("training.learning_rate=0", "training.learning_rate is 0"),
            ("training.batch_size=0", "training.batch_size is 0"),
            ("training.batch_size=-1", "training.batch_size"),
            ("training.max_time=soon", "training.max_time is `soon`"),
            ("training.class_weights=[0.0, 1.0]", "every weight must be positive"),
            ("precision=fp8", "precision"),
            ("thresholds=best", "thresholds"),
        ] {
            let error = resolve(&[assignment]).unwrap_err().to_string();
            assert!(error.contains(expected), "{assignment}: {error}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90s", 90.0), ("30m", 1800.0), ("1h30m", 5400.0)] {
            let config = resolve(&[&format!("training.max_time=\"{text}\"")]).unwrap();
            assert_eq!(config.max_seconds().unwrap(), Some(seconds));
        }
    }
}
