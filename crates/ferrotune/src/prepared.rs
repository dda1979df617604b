//! What a run reads before its first step: rows, whatever is trained on them; and, for a network, base
//! model and tokens.

use crate::artifact::{Base, Card, Schema};
use crate::config::Config;
use crate::device::Device;
use crate::evaluation::{Split, classes_of};
use crate::metrics::Classes;
use crate::progress::Downloads;
use crate::trainer::{self, Trainer};
use anyhow::{Context, Result, bail};
use architectures::{Cpu, SequenceClassifier};
use data::{DataReport, Dataset, SplitFiles, Tokenizer};

/// What every method reads.
pub struct Rows {
    /// Texts and labels.
    pub dataset: Dataset,
    /// How figures are computed.
    pub classes: Classes,
    /// What goes into the model folders of it.
    pub schema: Schema,
}

impl Rows {
    /// Finds and reads the data; pins names and paths in the configuration, so that it reruns the same
    /// from anywhere.
    ///
    /// # Errors
    /// A file is missing or damaged, or there are no validation rows.
    pub fn load(config: &mut Config) -> Result<Rows> {
        let files = split_files(config, &Downloads::default())?;
        config.output_dir = std::path::absolute(&config.output_dir)?;
        let dataset = data::load(&config.data, &files, config.seed)?;
        if dataset.validation.is_empty() {
            bail!(
                "no validation rows: give a validation file, or data.validation_fraction above 0"
            );
        }
        let schema = Schema::new(&config.data, &dataset.labels, config.seed);
        Ok(Rows { classes: classes_of(&dataset.labels), dataset, schema })
    }
}

/// A network to be trained, and its rows as it reads them.
pub struct Network {
    /// The pretrained model.
    pub base: Base,
    /// What goes into the model folders.
    pub card: Card,
    /// What is trained on.
    pub train: Split,
    /// What models are selected on.
    pub validation: Split,
    /// What is reported.
    pub test: Split,
    /// The network, its optimizer and where they stand.
    pub trainer: Trainer,
}

impl Network {
    /// Finds and reads tokenizer and model; pins its name in the configuration.
    ///
    /// # Errors
    /// Something is missing, damaged, or does not fit the rest.
    pub fn load(config: &mut Config, device: &Device, rows: &Rows) -> Result<(Self, DataReport)> {
        let Rows { dataset, classes, schema } = rows;
        let base = Base::find(&config.pretrained_model, &Downloads::default())?;
        config.pretrained_model = base.pinned.clone();
        config.precision = device.precision_setting();
        let network = architectures::Config::read(&base.folder)?;
        let [train, validation, test] = tokenized(config, dataset, &base, &network)?;
        let backend = Cpu::new(device.isa, device.precision, config.quantization);
        let method = trainer::method(config)?;
        let labels = dataset.labels.names.len();
        let model = SequenceClassifier::load(&backend, &base.folder, labels, &method, config.seed)?;
        let encoded = [&train, &validation, &test].map(|split| split.encoded.as_slice());
        let data_report = DataReport::new(dataset, encoded, config.data.max_length);
        let card = Card {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pretrained_model: base.pinned.clone(),
            schema: schema.clone(),
            max_length: config.data.max_length,
            precision: config.precision,
            quantization: config.quantization,
        };
        let trainer = Trainer::new(backend, model, config, *classes, &train)?;
        Ok((Network { base, card, train, validation, test, trainer }, data_report))
    }
}

/// The three splits as tokens of the base model's tokenizer.
///
/// # Errors
/// The tokenizer is damaged or of another model, or refuses a text.
pub fn tokenized(
    config: &Config,
    dataset: &Dataset,
    base: &Base,
    model: &architectures::Config,
) -> Result<[Split; 3]> {
    let longest = model.max_length();
    if config.data.max_length > longest {
        bail!(
            "data.max_length is {}, but {} reads at most {longest} tokens",
            config.data.max_length,
            config.pretrained_model
        );
    }
    let tokenizer = Tokenizer::from_folder(&base.folder, config.data.max_length)?;
    let highest = tokenizer.highest_id() as usize;
    if highest >= model.vocab_size() {
        bail!(
            "the tokenizer of {} gives token id {highest}, but the model has {} embeddings",
            base.folder.display(),
            model.vocab_size()
        );
    }
    let classes = classes_of(&dataset.labels);
    Ok([
        Split::encode(&tokenizer, &dataset.train, classes, "training")?,
        Split::encode(&tokenizer, &dataset.validation, classes, "validation")?,
        Split::encode(&tokenizer, &dataset.test, classes, "test")?,
    ])
}

/// The files of each split; paths in the configuration become absolute, and a hub data set is
/// pinned to its commit.
pub fn split_files(config: &mut Config, progress: &dyn sources::Progress) -> Result<SplitFiles> {
    let data = &mut config.data;
    let mut files = SplitFiles::default();
    if data.train_file.is_none() {
        let name =
            data.dataset.as_deref().context("neither data.dataset nor data.train_file is set")?;
        let found = sources::dataset(name, &sources::Settings::from_env(), progress)?;
        files = SplitFiles { train: found.train, validation: found.validation, test: found.test };
        data.dataset = match found.revision {
            Some(commit) => {
                Some(format!("{}@{commit}", name.split('@').next().unwrap_or_default()))
            }
            None => Some(std::path::absolute(name)?.display().to_string()),
        };
    }
    for (file, split) in [
        (&mut data.train_file, &mut files.train),
        (&mut data.validation_file, &mut files.validation),
        (&mut data.test_file, &mut files.test),
    ] {
        if let Some(path) = file {
            *path = std::path::absolute(&*path)?;
            *split = vec![path.clone()];
        }
    }
    Ok(files)
}
