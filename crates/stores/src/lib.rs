//! Where finished artifacts go: a folder, Azure Blob Storage, S3 or Google Cloud Storage, by way of the
//! `object_store` crate.
//!
//! A [`Store`] is opened from a location and the environment's credentials, and can be
//! [checked](Store::check) before there is anything to send. [`Store::upload`] sends the files of one
//! [`Collection`] side by side, large ones in parts, retrying what can be retried; what is there
//! already with the same hash is not sent again; and it ends by writing the manifest, so that whoever
//! finds a manifest finds all it lists. A manifest that lists other content, or is damaged, is removed
//! before the first file is replaced.
//!
//! Refused: names that would leave the collection's place, symbolic links, secrets in locations. No
//! message holds a secret.
//!
//! ```
//! use stores::{Collection, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let (run, archive) = (place.path().join("run"), place.path().join("archive"));
//! # std::fs::create_dir_all(run.join("best"))?;
//! # std::fs::write(run.join("best/config.json"), "{}")?;
//! # std::fs::create_dir(&archive)?;
//! # let archive = archive.to_str().ok_or("path")?;
//! let store = Store::open(archive, std::env::vars())?; // or azure://container/prefix
//! store.check()?;
//! let uploaded = store.upload(&Collection::new("steady-otter", &run, &["best"])?, |_| true)?;
//! assert_eq!((uploaded.sent, uploaded.present), (1, 0));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod azure;
mod collection;
mod error;
mod location;
mod upload;

pub use collection::{Collection, Entry};
pub use error::{Error, Result};
pub use location::Store;
pub use upload::{Listed, MANIFEST, Manifest, News, Uploaded};
