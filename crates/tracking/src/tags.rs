//! The tags that MLflow's own client sets, so that its pages show who ran what from where.

use std::path::Path;

use crate::{RunInfo, git};

/// The standard tags of a run: user, run name, the program as its source, the git checkout that
/// `folder` lies in (when it lies in one), and the note shown as the run's description.
#[must_use]
pub fn standard_tags(
    info: &RunInfo,
    source_name: &str,
    note: Option<&str>,
    folder: &Path,
) -> Vec<(String, String)> {
    let mut tags = vec![
        ("mlflow.user", info.user.clone()),
        ("mlflow.runName", info.run_name.clone()),
        ("mlflow.source.name", source_name.to_owned()),
        ("mlflow.source.type", "LOCAL".to_owned()),
    ];
    if let Some(checkout) = git::read(folder) {
        tags.push(("mlflow.source.git.commit", checkout.commit));
        tags.extend(checkout.branch.map(|branch| ("mlflow.source.git.branch", branch)));
        tags.extend(checkout.url.map(|url| ("mlflow.source.git.repoURL", url)));
    }
    tags.extend(note.map(|note| ("mlflow.note.content", note.to_owned())));
    tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
