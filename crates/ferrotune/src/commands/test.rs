//! `ferrotune test RUN`: a trained model on its test split, or on a labelled file.

use crate::artifact::{self, Schema};
use crate::classifier::Classifier;
use crate::cli::{Kept, TestArguments};
use crate::config::Config;
use crate::evaluation::targets;
use crate::failure::{BeforeStart, Outcome};
use crate::prepared::split_files;
use crate::progress::{Downloads, bar, print};
use crate::results::{self, Tested};
use anyhow::{Context, Result, bail};
use data::Example;

/// Runs the command.
pub fn run(arguments: &TestArguments) -> Outcome {
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let quantization = arguments.quantization.map(Kept::quantization);
    let classifier =
        Classifier::load(&folder, quantization, &Downloads::default()).before_start()?;
    let examples = rows(arguments, &classifier.schema).before_start()?;
    let bar = bar(examples.len() as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}");
    let evaluation = classifier.evaluate(&examples, |rows| bar.inc(rows as u64))?;
    bar.finish_and_clear();
    let (classes, seed) = (classifier.classes(), classifier.schema.seed);
    let labels = &classifier.schema.labels;
    let (tested, tuned) = classifier.device.run(|| {
        let truth = targets(&examples, classes);
        let tested = Tested::new(evaluation, &truth, classes, seed);
        let thresholds = classifier.thresholds.as_ref();
        let tuned = thresholds.map(|t| tested.at(&t.values(), &truth, classes, seed));
        (tested, tuned)
    });
    if arguments.json {
        let scores = &tested.evaluation.scores;
        let mut json = serde_json::json!({
            "rows": examples.len(),
            "loss": tested.evaluation.loss,
            "scores": scores,
            "intervals": tested.intervals,
        });
        if let Some(tuned) = &tuned {
            let (scores, intervals) = (&tuned.evaluation.scores, &tuned.intervals);
            json["tuned"] = serde_json::json!({"scores": scores, "intervals": intervals});
        }
        print(format_args!("{json}"))?;
    } else {
        let which = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{} model", which.trim_end_matches(".old"));
        let mut models = vec![(name.clone(), &tested)];
        models.extend(tuned.iter().map(|tuned| (format!("{name}, tuned thresholds"), tuned)));
        print(format_args!("{}", results::table(examples.len(), labels, classes, &models)))?;
    }
    Ok(())
}

fn rows(arguments: &TestArguments, schema: &Schema) -> Result<Vec<Example>> {
    if let Some(file) = &arguments.file {
        return Ok(data::load_split(&schema.data_config(), file, &schema.labels)?);
    }
    let config = arguments.run.join("config.toml");
    if !config.is_file() {
        bail!("{} is a model, not a run: name labelled rows with --file", arguments.run.display());
    }
    let mut config = Config::read(&config)?;
    let files = split_files(&mut config, &Downloads::default())?;
    let dataset = data::load(&config.data, &files, config.seed)?;
    if dataset.test.is_empty() {
        bail!("the run has no test rows: name labelled rows with --file");
    }
    if dataset.labels != schema.labels {
        return Err(anyhow::anyhow!("classes {:?} are not the model's", dataset.labels.names))
            .context("the data changed since the run");
    }
    Ok(dataset.test)
}
