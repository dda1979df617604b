//! Models and data set files from the Hugging Face hub, by way of its cache.
//!
//! Our own small client rather than the `hf-hub` crate: version 1.0.0 brings 225 crates (tokio,
//! reqwest, the Xet transfer stack, none of it optional), knows nothing of HF_HUB_OFFLINE, starts a
//! cut download anew, and compares no file with its announced sha256.
//!
//! The hub is asked what a revision means today by one request; files already cached for that
//! commit cost no further one. When it is out of reach, what is cached stands in, with a warning.
//! Writes `refs/` last, so that a cached revision of ours is always whole.

mod cache;
mod remote;

use crate::folder::{CONFIG, OPTIONAL, TOKENIZERS, WEIGHTS, no_tokenizer, no_weights};
use crate::name::HubId;
use crate::{Error, ModelFolder, Origin, Progress, Settings, folder};

pub(crate) use cache::{Cached, find, write_ref};
pub(crate) use remote::{Remote, Snapshot};

/// Models and data sets live in different places of the hub and of its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    DataSet,
}

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::DataSet => "datasets",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::DataSet => "data set",
        }
    }
}

/// The model `id`, from the cache or the hub.
pub(crate) fn model(
    name: &str,
    id: &HubId,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<ModelFolder, Error> {
    let found = |cached: Cached| ModelFolder {
        path: cached.folder,
        name: name.into(),
        revision: Some(cached.commit),
        origin: Origin::Hub,
    };
    if settings.offline || id.is_pinned() {
        if let Some(cached) = cached_model(id, settings)? {
            return Ok(found(cached));
        }
        if settings.offline {
            return Err(Error::Offline { name: name.into(), cache: settings.hub_cache.clone() });
        }
    }

    let remote = Remote::new(Kind::Model, id, settings)?;
    let commit = match remote.commit_of(CONFIG) {
        Ok(Some(commit)) => commit,
        Ok(None) => return Err(incomplete(name, CONFIG, &remote)),
        Err(outage) if outage.is_outage() => {
            let Some(cached) = cached_model(id, settings)? else { return Err(outage) };
            tracing::warn!("{outage}; using {name} from the cache, commit {}", cached.commit);
            return Ok(found(cached));
        }
        Err(error) => return Err(error),
    };
    let at_commit = HubId { revision: commit.clone(), ..id.clone() };
    if let Some(cached) = cached_model(&at_commit, settings)? {
        cache::write_ref(settings, Kind::Model, id, &commit)?;
        return Ok(found(cached));
    }

    let snapshot = Snapshot::new(&remote, commit, progress);
    if snapshot.fetch(CONFIG)?.is_none() {
        return Err(incomplete(name, CONFIG, &remote));
    }
    fetch_tokenizer(name, &remote, &snapshot)?;
    for file in OPTIONAL {
        snapshot.fetch(file)?;
    }
    fetch_weights(name, &remote, &snapshot)?;
    folder::check(name, &snapshot.folder)?;
    cache::write_ref(settings, Kind::Model, id, &snapshot.commit)?;
    Ok(found(Cached { folder: snapshot.folder, commit: snapshot.commit }))
}

/// The first set of files that the repository has whole.
fn fetch_tokenizer(name: &str, remote: &Remote, snapshot: &Snapshot) -> Result<(), Error> {
    for files in TOKENIZERS {
        let mut whole = true;
        for file in files {
            whole = whole && snapshot.fetch(file)?.is_some();
        }
        if whole {
            return Ok(());
        }
    }
    Err(incomplete(name, &no_tokenizer(), remote))
}

fn fetch_weights(name: &str, remote: &Remote, snapshot: &Snapshot) -> Result<(), Error> {
    for weights in &WEIGHTS {
        if snapshot.fetch(weights.whole)?.is_some() {
            return Ok(());
        }
        let Some(index) = snapshot.fetch(weights.index)? else { continue };
        for shard in weights.shards(&index)? {
            if snapshot.fetch(&shard)?.is_none() {
                return Err(incomplete(name, &shard, remote));
            }
        }
        return Ok(());
    }
    Err(incomplete(name, &no_weights(), remote))
}

fn incomplete(name: &str, missing: &str, remote: &Remote) -> Error {
    Error::Incomplete { name: name.into(), missing: missing.into(), place: remote.place() }
}

/// A whole cached snapshot, under either name that the repository has or had.
fn cached_model(id: &HubId, settings: &Settings) -> Result<Option<Cached>, Error> {
    for id in id.with_renames() {
        let Some(cached) = cache::find(settings, Kind::Model, &id) else { continue };
        if folder::missing(&cached.folder)?.is_empty() {
            return Ok(Some(cached));
        }
    }
    Ok(None)
}
