//! `ferrotune test RUN`: a trained model on its test split, or on a labelled file.

use crate::artifact;
use crate::cli::{Kept, TestArguments};
use crate::config::Config;
use crate::evaluation::{Split, TOKEN_BUDGET, classes_of, evaluate};
use crate::failure::{BeforeStart, Outcome};
use crate::prepared::split_files;
use crate::progress::{Downloads, bar, print};
use crate::results::{self, Tested};
use crate::thresholds::Thresholds;
use anyhow::{Context, Result, bail};
use data::Example;

/// Runs the command.
pub fn run(arguments: &TestArguments) -> Outcome {
    let folder = artifact::locate(&arguments.run, arguments.model).before_start()?;
    let downloads = Downloads::default();
    let quantization = arguments.quantization.map(Kept::quantization);
    let (loaded, device) = artifact::load(&folder, quantization, &downloads).before_start()?;
    let examples = rows(arguments, &loaded.card).before_start()?;
    let tokenizer = loaded.tokenizer(&folder).before_start()?;
    let thresholds = Thresholds::read(&folder, &loaded.card).before_start()?;
    let classes = classes_of(&loaded.card.labels);
    let (tested, tuned) = device.run(|| -> Result<(Tested, Option<Tested>)> {
        let split = Split::encode(&tokenizer, &examples, classes, "test")?;
        let bar = bar(examples.len() as u64, "{wide_bar} {pos}/{len} texts  ETA {eta}");
        let evaluation =
            evaluate(&loaded.backend, &loaded.model, &split, classes, TOKEN_BUDGET, |rows| {
                bar.inc(rows as u64);
                Ok(())
            })?;
        bar.finish_and_clear();
        let seed = loaded.card.seed;
        let tested = Tested::new(evaluation, &split.labels, classes, seed);
        let tuned = thresholds.map(|t| tested.at(&t.values(), &split.labels, classes, seed));
        Ok((tested, tuned))
    })?;
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
        print(format_args!("{}", results::table(examples.len(), classes, &models)))?;
    }
    Ok(())
}

fn rows(arguments: &TestArguments, card: &artifact::Card) -> Result<Vec<Example>> {
    if let Some(file) = &arguments.file {
        return Ok(data::load_split(&card.data_config(), file, &card.labels)?);
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
    if dataset.labels != card.labels {
        return Err(anyhow::anyhow!("classes {:?} are not the model's", dataset.labels.names))
            .context("the data changed since the run");
    }
    Ok(dataset.test)
}
