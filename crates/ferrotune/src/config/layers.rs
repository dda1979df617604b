//! Where a configuration comes from and how it is written: layers of one TOML tree, later ones winning: defaults
//! < file < environment (`FERROTUNE__SECTION__KEY`) < command line (`--set section.key=value` and named
//! flags). Unknown keys are refused with the nearest known one, and keys that mean nothing under the method.

use super::Config;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use toml::{Table, Value};

/// Prefix of environment variables that set a key: `FERROTUNE__TRAINING__MAX_EPOCHS=3`.
pub const VARIABLE_PREFIX: &str = "FERROTUNE__";

impl Config {
    /// The configuration from all layers, checked. `overrides` are `section.key=value`.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a value of the wrong type or out of range.
    pub fn resolve(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[String],
    ) -> Result<Config> {
        let mut tree = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the configuration {}", path.display()))?;
                text.parse::<Table>().with_context(|| format!("{} is not TOML", path.display()))?
            }
            None => Table::new(),
        };
        for (key, value) in variables(environment) {
            set(&mut tree, &key, &value)?;
        }
        for assignment in overrides {
            let (key, value) = assignment
                .split_once('=')
                .with_context(|| format!("`{assignment}` is not of the form key=value"))?;
            set(&mut tree, key.trim(), value.trim())?;
        }
        let config = parse(tree.clone())?;
        config.refuse_foreign_keys(&tree)?;
        config.check()?;
        Ok(config)
    }

    /// The configuration that a run was started with.
    ///
    /// # Errors
    /// The file cannot be read or was edited into something invalid.
    pub fn read(path: &Path) -> Result<Config> {
        Config::resolve(Some(path), std::iter::empty(), &[])
    }

    /// As TOML, without what means nothing under its method.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.tree()).expect("a configuration is plain data")
    }

    /// All keys with a meaning under its method.
    pub fn tree(&self) -> Table {
        let mut tree = Table::try_from(self).expect("a configuration is plain data");
        for key in self.method.foreign_keys() {
            let (section, key) = key.split_once('.').map_or((None, *key), |(s, k)| (Some(s), k));
            match section {
                None => tree.remove(key),
                Some(section) => {
                    tree.get_mut(section).and_then(Value::as_table_mut).and_then(|t| t.remove(key))
                }
            };
        }
        tree
    }

    /// What was set in vain would be believed to matter.
    fn refuse_foreign_keys(&self, tree: &Table) -> Result<()> {
        let is_set = |key: &&&str| match key.split_once('.') {
            None => tree.contains_key(**key),
            Some((section, key)) => tree.get(section).and_then(|t| t.get(key)).is_some(),
        };
        let set: Vec<String> = self
            .method
            .foreign_keys()
            .iter()
            .filter(is_set)
            .flat_map(|key| named(tree, key))
            .collect();
        if set.is_empty() {
            return Ok(());
        }
        bail!("method = \"{}\" has no use for {}: leave it out", self.method.name(), set.join(", "))
    }
}

/// The environment, without what is no text and so can be no setting of ours.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// What of an environment sets a key, and to what; by key.
pub fn variables(environment: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut variables: Vec<_> = environment
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(VARIABLE_PREFIX)?.to_lowercase().replace("__", ".");
            Some((key, value))
        })
        .collect();
    variables.sort();
    variables
}

/// Sets `a.b.c` to a TOML value, or to the text itself where it is none.
fn set(tree: &mut Table, key: &str, text: &str) -> Result<()> {
    if key == "seed"
        && let Ok(number) = text.parse::<i128>()
        && number > i128::from(i64::MAX)
    {
        bail!("{key} is {number}, but must be at most {}", i64::MAX);
    }
    let value = format!("x = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut table = tree;
    for part in path {
        table = table
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .with_context(|| format!("`{key}`: `{part}` is a value, not a section"))?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// The keys that are set in a section, or the key itself.
fn named(tree: &Table, key: &str) -> Vec<String> {
    match tree.get(key) {
        Some(Value::Table(section)) if !section.is_empty() => {
            section.keys().map(|inner| format!("`{key}.{inner}`")).collect()
        }
        _ => vec![format!("`{key}`")],
    }
}

fn parse(tree: Table) -> Result<Config> {
    serde_path_to_error::deserialize(Value::Table(tree)).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        let text = text.trim();
        match nearest(text) {
            Some((unknown, known)) => {
                anyhow!("unknown configuration key `{path}`: {unknown} (did you mean `{known}`?)")
            }
            None => anyhow!("configuration key `{path}`: {text}"),
        }
    })
}

/// From serde's "unknown field `x`, expected one of `a`, `b`": what is unknown, and the most
/// similar of the expected.
fn nearest(text: &str) -> Option<(String, String)> {
    let rest = text.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2);
    let similarity = |name: &&str| (strsim::jaro_winkler(name, unknown) * 1e6) as u64;
    let best = known.max_by_key(similarity)?;
    Some((format!("there is no `{unknown}`"), best.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MethodName;
    use crate::config::tests::resolve;

    #[test]
    fn the_default_is_the_reference_recipe_and_round_trips() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.lora.r, config.lora.alpha, config.training.batch_size), (8, 32.0, 256));
        let again: Config = parse(config.to_toml().parse().unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn later_layers_win() {
        let environment = [("FERROTUNE__TRAINING__MAX_EPOCHS", "3"), ("FERROTUNE_ISA", "scalar")];
        let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let config = Config::resolve(
            None,
            environment.clone().into_iter(),
            &["lora.target_modules=all-linear".to_owned()],
        )
        .unwrap();
        assert_eq!(config.training.max_epochs, 3);
        assert!(matches!(config.lora.target_modules, architectures::TargetModules::Keyword(_)));
        let overrides = ["training.max_epochs=5".to_owned()];
        let config = Config::resolve(None, environment.into_iter(), &overrides).unwrap();
        assert_eq!(config.training.max_epochs, 5);
    }

    #[test]
    fn unknown_keys_name_the_nearest_known_one() {
        let error = resolve(&["training.learnig_rate=1"]).unwrap_err().to_string();
        assert!(error.contains("training") && error.contains("`learning_rate`"), "{error}");
        let error = resolve(&["pretrained=x"]).unwrap_err().to_string();
        assert!(error.contains("`pretrained_model`"), "{error}");
    }

    #[test]
    fn keys_that_mean_nothing_under_a_method_are_refused_and_not_written() {
        for (assignments, keys) in [
            (
                &["method=svm", "training.max_epochs=3", "lora.r=4"][..],
                "`lora.r`, `training.max_epochs`",
            ),
            (
                &["method=svm", "pretrained_model=x", "precision=auto"],
                "`pretrained_model`, `precision`",
            ),
            (&["method=svm", "data.max_length=64"], "`data.max_length`"),
            (&["svm.c=[1.0]"], "method = \"lora\" has no use for `svm.c`"),
        ] {
            let error = resolve(assignments).unwrap_err().to_string();
            assert!(error.contains(keys), "{assignments:?}: {error}");
        }
        let config = resolve(&["method=svm", "svm.min_df=2"]).unwrap();
        let written = config.to_toml();
        assert!(!written.contains("max_length") && !written.contains("[lora]"), "{written}");
        assert_eq!(parse(written.parse().unwrap()).unwrap(), config);
        assert!(!resolve(&[]).unwrap().to_toml().contains("[svm]"));
        let (full, svm) = (MethodName::Full, MethodName::Svm);
        assert!(full.has_use_for("training.max_epochs") && !svm.has_use_for("training.max_epochs"));
        assert!(svm.has_use_for("svm.c") && !full.has_use_for("svm.c") && !full.has_use_for("svm"));
        assert!(svm.has_use_for("data.max_length_of_all") && svm.has_use_for("seed"));
    }
}
