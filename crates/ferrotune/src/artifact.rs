//! A trained model on disk. `last/` and `best/` of a run are such folders; `last/` also holds what
//! resuming needs.
//!
//! A network is adapter or full weights in others' formats, tokenizer, `config.json`, and
//! `ferrotune.json` with what those formats have no place for. Linear machines are `svm.safetensors`
//! and a `ferrotune.json` of their own.

use crate::cli::Which;
use crate::config::PrecisionName;
use anyhow::{Context, Result, bail};
use architectures::{Cpu, Method, Quantization, SequenceClassifier, peft, write_tensors};
use data::{DataConfig, LabelScheme, TOKENIZER_FILES, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Our own part of the folder.
pub const CARD: &str = "ferrotune.json";

/// What Hugging Face's and PEFT's files have no place for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// ferrotune's version that wrote it.
    pub version: String,
    /// The pretrained model, with its revision, as `ferrotune` resolves it.
    pub pretrained_model: String,
    /// What it tells of which rows.
    #[serde(flatten)]
    pub schema: Schema,
    /// Tokens at which texts are cut.
    pub max_length: usize,
    /// Precision it was trained and tested in.
    pub precision: PrecisionName,
    /// How the frozen weights were kept.
    #[serde(default)]
    pub quantization: Quantization,
}

/// How rows are read, and what a model tells of them: what every model's card has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Class names, and how labels are read.
    pub labels: LabelScheme,
    /// Seed of the run; also that of the intervals.
    pub seed: u64,
    /// Column that holds the text.
    pub text_column: String,
    /// Column that holds the label.
    pub label_column: Option<String>,
    /// Columns that hold a label each.
    #[serde(default)]
    pub label_columns: Option<Vec<String>>,
    /// What stands between labels in text.
    #[serde(default = "usual_separator")]
    pub label_separator: String,
}

fn usual_separator() -> String {
    DataConfig::default().label_separator
}

/// The pretrained model of a run.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name with its revision, as `ferrotune` resolves it.
    pub pinned: String,
    /// Its name for PEFT: a hub id, or a folder.
    pub for_peft: String,
}

impl Base {
    /// Finds, and where needed downloads, a pretrained model.
    ///
    /// # Errors
    /// It cannot be found, downloaded or is incomplete.
    pub fn find(name: &str, progress: &dyn sources::Progress) -> Result<Base> {
        let settings = sources::Settings::from_env();
        let model = sources::model(name, &settings, progress)?;
        let folder = std::path::absolute(&model.path)
            .with_context(|| format!("cannot resolve {}", model.path.display()))?;
        let path = folder.display().to_string();
        let (pinned, for_peft) = match (model.origin, model.revision) {
            (sources::Origin::Local, _) => (path.clone(), path),
            (sources::Origin::Hub, revision) => {
                let id = name.split('@').next().unwrap_or(name).to_owned();
                (revision.map_or(id.clone(), |revision| format!("{id}@{revision}")), id)
            }
            (sources::Origin::Wheel, version) => {
                let package = name.split("==").next().unwrap_or(name);
                (version.map_or(name.to_owned(), |version| format!("{package}=={version}")), path)
            }
        };
        Ok(Base { folder, pinned, for_peft })
    }
}

/// Writes a fine-tuned network into an existing folder.
///
/// # Errors
/// The file system refuses, or the base model's files changed.
pub fn write(
    folder: &Path,
    backend: &Cpu,
    model: &SequenceClassifier<Cpu>,
    method: &Method,
    base: &Base,
    card: &Card,
) -> Result<()> {
    match method {
        Method::Lora(lora) => {
            peft::write_adapter(backend, model, lora, &base.for_peft, folder)?;
        }
        Method::Full => {
            write_tensors(&folder.join("model.safetensors"), model.state(backend))?;
        }
    }
    // The tokenizer travels with the model, in the files that the base model has.
    copy_files(&base.folder, folder, &TOKENIZER_FILES)?;
    let config = classifier_config(base, model, card)?;
    write_json(&folder.join("config.json"), &config)?;
    write_json(&folder.join(CARD), card)
}

/// Copies those of the files `names` that there are.
///
/// # Errors
/// The file system refuses.
pub fn copy_files(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let source = from.join(name);
        if source.is_file() {
            let bytes = std::fs::read(&source)
                .with_context(|| format!("cannot read {}", source.display()))?;
            durable::write(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}

/// The base model's `config.json` as that of a classifier with these labels.
fn classifier_config(base: &Base, model: &SequenceClassifier<Cpu>, card: &Card) -> Result<Value> {
    let mut config: Value = read_json(&base.folder.join("config.json"))?;
    let names = &card.schema.labels.names;
    let by_index: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    let by_name: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(i, name)| (name.clone(), json!(i))).collect();
    config["architectures"] = json!([model.config.family.classifier]);
    config["id2label"] = by_index.into();
    config["label2id"] = by_name.into();
    // What is written is f32, whatever the base was stored as.
    for key in ["dtype", "torch_dtype"] {
        if config.get(key).is_some() {
            config[key] = json!("float32");
        }
    }
    // Nor is it in few bits; an adapter's base is found by its own configuration.
    if let Some(config) = config.as_object_mut() {
        config.remove("quantization_config");
    }
    config["problem_type"] = json!(match card.schema.labels.task {
        Task::Binary | Task::Multiclass => "single_label_classification",
        Task::MultiLabel => "multi_label_classification",
    });
    Ok(config)
}

/// The folder of a run's model: `RUN/best` (or `RUN/last`), or a model folder itself.
///
/// # Errors
/// There is no model in it, or `which` is asked of a folder that is one model.
pub fn locate(run: &Path, which: Option<Which>) -> Result<PathBuf> {
    if run.join(CARD).is_file() {
        return match which {
            Some(which) => bail!(
                "{} is one model, so --model {} cannot choose: name the run folder above it",
                run.display(),
                which.folder()
            ),
            None => Ok(run.to_path_buf()),
        };
    }
    let which = which.unwrap_or(Which::Best).folder();
    let folder = durable::readable_folder(&run.join(which));
    if folder.join(CARD).is_file() {
        return Ok(folder);
    }
    bail!("no trained model in {}: looked for {which}/{CARD} and {CARD} there", run.display())
}

impl Schema {
    /// That of a run's rows.
    pub fn new(config: &DataConfig, labels: &LabelScheme, seed: u64) -> Schema {
        Schema {
            labels: labels.clone(),
            seed,
            text_column: config.text_column.clone(),
            label_column: config.label_column.clone(),
            label_columns: config.label_columns.clone(),
            label_separator: config.label_separator.clone(),
        }
    }

    /// How labelled rows for the model are read.
    pub fn data_config(&self) -> DataConfig {
        DataConfig {
            text_column: self.text_column.clone(),
            label_column: self.label_column.clone(),
            label_columns: self.label_columns.clone(),
            label_separator: self.label_separator.clone(),
            task: self.labels.task,
            ..DataConfig::default()
        }
    }
}

/// Writes JSON, atomically.
///
/// # Errors
/// The file system refuses.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(durable::write(path, format!("{text}\n").as_bytes())?)
}

/// Reads JSON.
///
/// # Errors
/// The file is missing or says something else.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}
