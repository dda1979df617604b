//! `server.json` of a run folder: which run on which server it is, and what that server has
//! acknowledged. A resumed run goes on from here. Losing it does no harm: the run is found again by
//! its tag, and what is sent twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::Placement;
use super::address::Address;
use super::model::ModelSent;
use crate::azure::studio_page;
use crate::error::at;
use crate::facts::{read_json, write_json};
use crate::history::Place;
use crate::{Dataset, Result, Status};

const FILE: &str = "server.json";

/// What a server has of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The server's address, without credentials.
    pub address: String,
    pub placement: Placement,
    pub experiment_id: Option<String>,
    pub run: Option<RunOnServer>,
    /// The run that this one takes the place of, until that is deleted.
    #[serde(default)]
    pub replaces: Option<String>,
    /// A request that creates the run got no answer: it may be carried out late, when the run was
    /// looked for and created again. From then on the end of the run looks for it, and every sync.
    #[serde(default)]
    pub perhaps_twice: bool,
    #[serde(default)]
    pub sent: Sent,
}

/// A run as the server calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunOnServer {
    pub run_id: String,
    pub artifact_uri: String,
}

/// What was acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sent {
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub datasets: BTreeSet<Dataset>,
    pub metrics: Place,
    /// Files by artifact path.
    pub artifacts: BTreeMap<String, Stamp>,
    /// By name.
    pub models: BTreeMap<String, ModelSent>,
    pub status: Option<(Status, Option<i64>)>,
}

/// What tells a file from a later one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    length: u64,
    modified_ns: u64,
}

impl Stamp {
    pub fn of(file: &Path) -> Result<Self> {
        let found = file.metadata().map_err(at("read", file))?;
        let modified = found.modified().map_err(at("read", file))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { length: found.len(), modified_ns: since.as_nanos() as u64 })
    }
}

impl Progress {
    pub fn new(address: &str, placement: &Placement) -> Self {
        Self {
            address: address.to_owned(),
            placement: placement.clone(),
            experiment_id: None,
            run: None,
            replaces: None,
            perhaps_twice: false,
            sent: Sent::default(),
        }
    }

    /// That of a run folder with this server; a new one if it was sent nowhere, or elsewhere.
    pub fn open(folder: &Path, address: &str, placement: &Placement) -> Result<Self> {
        let path = folder.join(FILE);
        let found = if path.exists() { Some(read_json::<Self>(&path)?) } else { None };
        // A run that somebody made for this process gets all of it.
        let other = |found: &Self| {
            let (theirs, known) = (placement.run(), found.run.as_ref());
            theirs.is_some_and(|theirs| known.is_none_or(|known| known.run_id != theirs))
        };
        Ok(found
            .filter(|found| found.address == address && !other(found))
            .unwrap_or_else(|| Self::new(address, placement)))
    }

    /// Where a browser shows the run.
    pub fn page(&self) -> Option<String> {
        let (experiment, run) = (self.experiment_id.as_ref()?, self.run.as_ref()?);
        let (address, _) = Address::parse(&self.address).ok()?;
        if let Some(workspace) = address.workspace() {
            return Some(studio_page(address.host(), workspace, &run.run_id));
        }
        Some(format!("{}/#/experiments/{experiment}/runs/{}", self.address, run.run_id))
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(FILE), self)
    }
}

/// The address at which a browser shows the run in `folder`, if it was sent to a server.
///
/// # Errors
/// Its `server.json` is damaged or cannot be read.
pub fn page(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(FILE);
    Ok(if path.exists() { read_json::<Progress>(&path)?.page() } else { None })
}
