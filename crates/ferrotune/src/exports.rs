//! Trained models in others' formats: what is in a model folder, put together for the `export` crate.

use crate::artifact::{self, Base, CARD, Card};
use crate::cli::Format;
use crate::progress::{Downloads, bar};
use crate::svm;
use crate::thresholds::{self, Thresholds};
use anyhow::{Result, bail};
use architectures::{Isa, Quantization, peft};
use data::{TOKENIZER_FILES, Tokenizer};
use export::{Classifier, Provenance};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A model, and the format it goes out in.
#[derive(Debug)]
pub struct Export {
    folder: PathBuf,
    card: Card,
    what: What,
}

#[derive(Debug)]
enum What {
    Adapter,
    Merged(Classifier),
    Mlflow(Classifier),
    /// And whether in 8 bits.
    Onnx(Classifier, bool),
}

impl Export {
    /// The model in `folder`, all its files checked. `base` is the pretrained model, which is looked for
    /// where it is not given.
    ///
    /// # Errors
    /// A file is missing or damaged, the pretrained model cannot be found, there is no adapter for a
    /// format that is one, or 8 bits are asked of a format that has none.
    pub fn open(
        folder: &Path,
        base: Option<&Base>,
        format: Format,
        int8: bool,
        isa: Isa,
    ) -> Result<Export> {
        if svm::is_linear(folder)? {
            bail!("{} has no network: linear machines have no format of others", folder.display());
        }
        let card: Card = artifact::read_json(&folder.join(CARD))?;
        if int8 && format != Format::Onnx {
            bail!("8 bits are for the format onnx, not {}", format.name());
        }
        let what = match format {
            Format::Peft if !folder.join(peft::ADAPTER_CONFIG).is_file() => {
                bail!("{} has no adapter: every weight was trained", folder.display())
            }
            Format::Peft => What::Adapter,
            Format::Merged => What::Merged(classifier(folder, base, &card, isa)?),
            Format::Mlflow => What::Mlflow(classifier(folder, base, &card, isa)?),
            Format::Onnx => What::Onnx(classifier(folder, base, &card, isa)?, int8),
        };
        Ok(Export { folder: folder.to_path_buf(), card, what })
    }

    /// Fills an existing folder.
    ///
    /// # Errors
    /// The file system refuses, or the model's files changed.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let bar = bar(0, "exporting {wide_bar} {percent} %  ETA {eta}");
        let progress = |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        };
        // With the card a folder stays a model that `predict` and `test` know.
        let card = |card: &Card| {
            artifact::copy_files(&self.folder, folder, &[thresholds::FILE])?;
            artifact::write_json(&folder.join(CARD), card)
        };
        match &self.what {
            What::Adapter => {
                let files = tokenizer_files(&self.folder);
                export::peft_adapter(&self.folder, &files, self.card.max_length, folder)?;
                card(&self.card)?;
            }
            What::Merged(classifier) => {
                export::merged_checkpoint(classifier, folder, progress)?;
                card(&Card { quantization: Quantization::None, ..self.card.clone() })?;
            }
            What::Mlflow(classifier) => {
                export::mlflow_model(
                    classifier,
                    &made_now(),
                    &self.thresholds()?,
                    folder,
                    progress,
                )?;
            }
            What::Onnx(classifier, int8) => {
                export::onnx_model(classifier, *int8, &self.thresholds()?, folder, progress)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The thresholds, where there are some, as a file says them of itself: an object by label.
    fn thresholds(&self) -> Result<Map<String, Value>> {
        let Some(thresholds) = Thresholds::read(&self.folder, &self.card.schema.labels)? else {
            return Ok(Map::new());
        };
        let by_label: Map<String, Value> = thresholds
            .each()
            .map(|(label, threshold, _)| (label.to_owned(), json!(threshold)))
            .collect();
        Ok([("thresholds".to_owned(), by_label.into())].into_iter().collect())
    }
}

fn classifier(folder: &Path, base: Option<&Base>, card: &Card, isa: Isa) -> Result<Classifier> {
    let tokenizer = Tokenizer::from_folder(folder, card.max_length)?;
    let settings: Map<String, Value> = artifact::read_json(&folder.join("config.json"))?;
    let named = settings.get("id2label").and_then(Value::as_object).map_or(0, Map::len);
    let expected = card.schema.labels.names.len();
    if named != expected {
        bail!(
            "{} does not fit together: config.json has {named} labels, {CARD} has {expected}",
            folder.display()
        );
    }
    let padding = settings.get("pad_token_id").and_then(Value::as_u64);
    let tokenizer = export::Tokenizer {
        json: tokenizer.to_json()?,
        files: tokenizer_files(folder),
        max_length: card.max_length,
        pad_token: padding.and_then(|id| tokenizer.token(u32::try_from(id).ok()?)),
    };
    let base = match (folder.join(peft::ADAPTER_CONFIG).is_file(), base) {
        (false, _) => None,
        (true, Some(base)) => Some(base.folder.clone()),
        (true, None) => Some(Base::find(&card.pretrained_model, &Downloads::default())?.folder),
    };
    let (base, name) = (base.as_deref(), &card.pretrained_model);
    Ok(Classifier::open(folder, base, card.quantization, name, tokenizer, isa)?)
}

/// The tokenizer's files that there are.
fn tokenizer_files(folder: &Path) -> Vec<String> {
    let there = TOKENIZER_FILES.into_iter().filter(|name| folder.join(name).is_file());
    there.map(str::to_owned).collect()
}

/// This moment as MLflow writes it, and no run.
fn made_now() -> Provenance {
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let utc_time_created = now.replace('T', " ").trim_end_matches('Z').to_owned();
    Provenance { utc_time_created, run_id: None, artifact_path: None }
}
