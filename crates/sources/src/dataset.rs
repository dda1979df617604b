//! The files of a data set, by split. A hub data set is `org/repo[/config][@revision]` (and
//! `lex_glue/CONFIG` for the benchmark's home); a local one is a folder. Both are laid out as the
//! hub lays them out: `<config>/train-00000-of-00001.parquet`, `data/test.jsonl`, `validation.csv`.
//!
//! Refuses a set without training files and one that lacks a part (`-00001-of-00003` missing).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::hub::{self, Kind, Remote, Snapshot};
use crate::name::{HubId, is_local, is_plain};
use crate::{Error, Progress, Settings, folder};

/// In order of preference: of a split stored in several formats, the first is taken.
const FORMATS: [&str; 3] = ["parquet", "jsonl", "csv"];

/// A data set's local files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFiles {
    /// Training examples; never empty.
    pub train: Vec<PathBuf>,
    /// Validation examples; may be empty.
    pub validation: Vec<PathBuf>,
    /// Test examples; may be empty.
    pub test: Vec<PathBuf>,
    /// The name as the user gave it.
    pub name: String,
    /// The hub commit.
    pub revision: Option<String>,
}

/// Finds the data set `name`, downloading what is missing.
///
/// # Errors
/// A name no source understands, a hub out of reach and nothing cached, a download that does not
/// match its hash or size, or no files that look like a training split.
pub fn dataset(
    name: &str,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<DatasetFiles, Error> {
    if is_local(name) {
        return local(name, Path::new(name));
    }
    let (id, config) = parse(name).ok_or_else(|| Error::InvalidName {
        kind: "data set",
        name: name.into(),
        reason: "expected an existing folder, or ORG/REPO[/CONFIG][@REVISION] on the hub".into(),
    })?;
    let config = config.as_deref();
    let cached = || -> Result<Option<DatasetFiles>, Error> {
        let Some(cached) = hub::find(settings, Kind::DataSet, &id) else { return Ok(None) };
        let splits = Splits::select(name, &cached.folder.display(), &walk(&cached.folder), config)?;
        Ok(Some(splits.at(name, &cached.folder, Some(cached.commit))))
    };
    if settings.offline {
        let offline = || Error::Offline { name: name.into(), cache: settings.hub_cache.clone() };
        return cached()?.ok_or_else(offline);
    }

    let remote = Remote::new(Kind::DataSet, &id, settings)?;
    let (commit, files) = match remote.list() {
        Ok(listing) => listing,
        Err(outage) if outage.is_outage() => {
            let Some(found) = cached()? else { return Err(outage) };
            tracing::warn!("{outage}; using {name} from the cache");
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    let splits = Splits::select(name, &remote.place(), &files, config)?;
    let snapshot = Snapshot::new(&remote, commit, progress);
    for file in splits.all() {
        if snapshot.fetch(file)?.is_none() {
            let reason = format!("{file} is listed but not there");
            return Err(Error::NoData { name: name.into(), place: remote.place(), reason });
        }
    }
    hub::write_ref(settings, Kind::DataSet, &id, &snapshot.commit)?;
    Ok(splits.at(name, &snapshot.folder, Some(snapshot.commit)))
}

fn local(name: &str, folder: &Path) -> Result<DatasetFiles, Error> {
    folder::check_is_one("data set", name, folder)?;
    let files = walk(folder);
    // A folder that holds one configuration may be named without it.
    let folders: BTreeSet<&str> =
        files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let only = match folders.first() {
        Some(&only) if folders.len() == 1 && files.iter().all(|f| f.contains('/')) => Some(only),
        _ => None,
    };
    let splits = Splits::select(name, &folder.display(), &files, only)?;
    Ok(splits.at(name, folder, None))
}

fn parse(name: &str) -> Option<(HubId, Option<String>)> {
    let (path, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (repo, config) = match *path.split('/').collect::<Vec<_>>() {
        ["lex_glue"] => ("coastalcph/lex_glue".into(), None),
        ["lex_glue", config] => ("coastalcph/lex_glue".into(), Some(config)),
        [org, repo] => (format!("{org}/{repo}"), None),
        [org, repo, config] => (format!("{org}/{repo}"), Some(config)),
        _ => return None,
    };
    if config.is_some_and(|config| !is_plain(config)) {
        return None;
    }
    Some((HubId::parse(&format!("{repo}@{revision}")).ok()?, config.map(String::from)))
}

/// Files at most two folders deep, with `/` between, sorted.
fn walk(folder: &Path) -> Vec<String> {
    fn visit(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) {
        // An unreadable folder holds no files for us; the error then says what was looked for.
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path();
            if path.is_file() {
                found.push(format!("{prefix}{name}"));
            } else if depth > 0 && path.is_dir() {
                visit(&path, &format!("{prefix}{name}/"), depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(folder, "", 2, &mut found);
    found.sort();
    found
}

/// Relative file names by split.
struct Splits {
    train: Vec<String>,
    validation: Vec<String>,
    test: Vec<String>,
}

impl Splits {
    /// The files of a configuration, or of the default one: `data/`, else the top folder.
    fn select(
        name: &str,
        place: &dyn std::fmt::Display,
        files: &[String],
        config: Option<&str>,
    ) -> Result<Self, Error> {
        let no_data =
            |reason: String| Error::NoData { name: name.into(), place: place.to_string(), reason };
        let bases = match config {
            Some(config) => vec![format!("{config}/"), format!("data/{config}/")],
            None => vec!["data/".to_owned(), String::new()],
        };
        for base in &bases {
            for format in FORMATS {
                let of = |split| split_files(files, base, format, split);
                let splits = Self {
                    train: of(&["train", "training"]),
                    validation: of(&["validation", "valid", "val", "dev"]),
                    test: of(&["test"]),
                };
                if splits.train.is_empty() {
                    continue;
                }
                return match missing_part(splits.all(), files) {
                    Some(missing) => Err(no_data(format!("{missing} is missing"))),
                    None => Ok(splits),
                };
            }
        }
        let folders: BTreeSet<&str> =
            files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
        let folders: Vec<&str> = folders.into_iter().take(20).collect();
        let configs = match folders.is_empty() {
            true => String::new(),
            false => format!("; it has the folders {}", folders.join(", ")),
        };
        let looked: Vec<String> =
            bases.iter().map(|base| format!("{base}train*.{{parquet,jsonl,csv}}")).collect();
        Err(no_data(format!("no training files; looked for {}{configs}", looked.join(" and "))))
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        let files = self.train.iter().chain(&self.validation).chain(&self.test);
        files.map(String::as_str)
    }

    fn at(self, name: &str, folder: &Path, revision: Option<String>) -> DatasetFiles {
        let paths = |files: Vec<String>| files.iter().map(|file| folder.join(file)).collect();
        DatasetFiles {
            train: paths(self.train),
            validation: paths(self.validation),
            test: paths(self.test),
            name: name.into(),
            revision,
        }
    }
}

/// Files `<base><split>.<format>`, `<base><split>-….<format>` or `<base><split>/….<format>`.
fn split_files(files: &[String], base: &str, format: &str, names: &[&str]) -> Vec<String> {
    let belongs = |file: &&String| {
        let Some(rest) = file.strip_prefix(base) else { return false };
        let first = rest.split(['/', '.', '-', '_']).next().unwrap_or_default();
        let is_format = rest.rsplit_once('.').is_some_and(|(_, ending)| ending == format);
        is_format && names.contains(&first) && rest.split('/').all(is_plain)
    };
    let mut found: Vec<String> = files.iter().filter(belongs).cloned().collect();
    found.sort();
    found
}

/// The first part that a series `…-00000-of-00003.parquet` lacks.
fn missing_part<'a>(wanted: impl Iterator<Item = &'a str>, files: &[String]) -> Option<String> {
    let series: BTreeSet<_> = wanted.filter_map(series_of).collect();
    let files: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    // A lying count costs no more than one step past the first gap.
    series.into_iter().find_map(|(stem, count, ending)| {
        (0..count.parse::<u64>().unwrap_or(0))
            .map(|part| format!("{stem}-{part:0width$}-of-{count}.{ending}", width = count.len()))
            .find(|part| !files.contains(part.as_str()))
    })
}

/// Stem, count and ending of one part's name.
fn series_of(file: &str) -> Option<(&str, &str, &str)> {
    let (head, ending) = file.rsplit_once('.')?;
    let (head, count) = head.rsplit_once("-of-")?;
    let (stem, _) = head.rsplit_once('-')?;
    Some((stem, count, ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(files: &[&str], config: Option<&str>) -> Result<Splits, Error> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        Splits::select("set", &"here", &files, config)
    }

    #[test]
    fn names_are_taken_apart() {
        let of = |name| parse(name).map(|(id, config)| (id.repo, id.revision, config));
        let lex_glue = "coastalcph/lex_glue".to_owned();
        let config = Some("unfair_tos".to_owned());
        assert_eq!(
            of("lex_glue/unfair_tos"),
            Some((lex_glue.clone(), "main".into(), config.clone()))
        );
        assert_eq!(
            of("coastalcph/lex_glue/unfair_tos@refs/pr/1"),
            Some((lex_glue, "refs/pr/1".into(), config))
        );
        for bad in ["", "a", "a/b/c/d", "a/b/../c", "a/b/.."] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_configuration_is_its_folder() {
        let files = [
            "README.md",
            "other/train-00000-of-00001.parquet",
            "unfair_tos/test-00000-of-00001.parquet",
            "unfair_tos/train-00000-of-00001.parquet",
            "unfair_tos/validation-00000-of-00001.parquet",
        ];
        let splits = select(&files, Some("unfair_tos")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(splits.train, ["unfair_tos/train-00000-of-00001.parquet"]);
        assert_eq!(splits.validation, ["unfair_tos/validation-00000-of-00001.parquet"]);
        assert_eq!(splits.test, ["unfair_tos/test-00000-of-00001.parquet"]);
        let text = select(&files, None).err().expect("needs a configuration").to_string();
        assert!(text.contains("it has the folders other, unfair_tos"), "{text}");
    }

    #[test]
    fn a_missing_part_is_named() {
        let files = ["data/train-00000-of-00002.parquet"];
        let text = select(&files, None).err().expect("a part is missing").to_string();
        assert!(text.contains("data/train-00001-of-00002.parquet is missing"), "{text}");
        assert!(select(&["train-0-of-18446744073709551615.csv"], None).is_err());
    }

    #[test]
    fn one_format_is_taken_and_odd_names_are_left() {
        let files = ["train.csv", "train.parquet", "test.csv", "training_notes.md", "dev.parquet"];
        let splits = select(&files, None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(splits.train, ["train.parquet"]);
        assert_eq!(splits.validation, ["dev.parquet"]);
        assert!(splits.test.is_empty());
        assert!(select(&["data/train/../../x.csv", "train/.hidden.csv"], None).is_err());
    }

    #[test]
    fn local_folders_are_found_in_both_layouts() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = folder.path().join("unfair_tos");
        durable::create_folder(&config).expect("created");
        let file = config.join("train-00000-of-00001.parquet");
        durable::write(&file, b"").expect("written");
        let name = folder.path().to_str().expect("UTF-8");
        let found = local(name, folder.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.train, [file]);

        let plain = folder.path().join("train.jsonl");
        durable::write(&plain, b"").expect("written");
        let found = local(name, folder.path()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.train, found.test), (vec![plain], vec![]));
    }
}
