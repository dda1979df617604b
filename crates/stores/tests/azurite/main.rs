//! Uploads to Azurite, read back by Azure's own client: whole, repeated, in trouble, refused.

mod emulator;
mod proxy;

use emulator::{Azurite, KEY};
use proxy::{Proxy, Rule, Trouble};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use stores::{Collection, MANIFEST, Manifest, News, Store};

type Tested = Result<(), Box<dyn Error>>;

/// A file of three parts, an empty one and small ones.
fn run_folder(folder: &Path) -> Tested {
    fs::create_dir_all(folder.join("best/deep"))?;
    let large: Vec<u8> =
        (0..11_000_000u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    durable::write(&folder.join("best/model.safetensors"), &large)?;
    durable::write(&folder.join("best/config.json"), b"{}")?;
    durable::write(&folder.join("best/deep/empty file"), b"")?;
    durable::write(&folder.join("report.md"), b"# Report\n")?;
    Ok(())
}

fn collection(folder: &Path) -> Result<Collection, stores::Error> {
    Collection::new("steady-otter", folder, &["best", "report.md"])
}

fn open(location: &str, connection: &str) -> Result<Store, stores::Error> {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Store::open(
        location,
        [set("AZURE_STORAGE_CONNECTION_STRING", connection), set("AZURE_TIMEOUT", "3s")],
    )
}

/// Azure's client reads what the manifest lists, and nothing else.
fn assert_whole(azurite: &Azurite, container: &str, prefix: &str) -> Tested {
    let blobs = azurite.blobs(container);
    let manifest = fetch_manifest(azurite, container, prefix)?;
    assert_eq!(blobs.len(), manifest.files.len() + 1);
    for (name, listed) in &manifest.files {
        let blob = &blobs[&format!("{prefix}{name}")];
        assert_eq!(blob["sha256"], listed.sha256.as_str(), "{name}");
        assert_eq!(blob["bytes"], listed.bytes, "{name}");
    }
    Ok(())
}

fn fetch_manifest(
    azurite: &Azurite,
    container: &str,
    prefix: &str,
) -> Result<Manifest, Box<dyn Error>> {
    let text = azurite.sdk(&["read", container, &format!("{prefix}{MANIFEST}")]);
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn everything_arrives_once_and_the_manifest_last() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = azurite.container();
    let location = format!("azure://{container}/team/runs");
    let store = open(&location, &azurite.connection(azurite.port))?;
    store.check()?;
    assert!(azurite.blobs(&container).is_empty(), "a check leaves nothing");

    let mut last = None;
    let uploaded = store.upload(&collection(folder.path())?, |news| {
        last = Some(news);
        true
    })?;
    assert_eq!((uploaded.sent, uploaded.present), (4, 0));
    assert_eq!(uploaded.location, format!("{location}/steady-otter"));
    let whole = uploaded.bytes;
    assert!(whole > 11_000_000);
    assert_eq!(last, Some(News::Progress { done: whole, total: whole }));
    let prefix = "team/runs/steady-otter/";
    assert_whole(&azurite, &container, prefix)?;
    let blobs = azurite.blobs(&container);
    assert_eq!(blobs[&format!("{prefix}best/config.json")]["type"], "application/json");

    let again = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!((again.sent, again.present), (0, 4));

    durable::write(&folder.path().join("report.md"), b"# Another report\n")?;
    azurite.sdk(&["delete", &container, &format!("{prefix}best/config.json")]);
    let again = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!((again.sent, again.present), (2, 2), "the changed file and the missing one");
    assert_whole(&azurite, &container, prefix)
}

#[test]
fn a_stopped_upload_shows_nothing_half_and_goes_on_where_it_was() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = azurite.container();
    // Parts of the large file but the first never arrive; it is stopped when all else is there.
    let rule = Rule {
        target: "comp=block&",
        at: 1..usize::MAX,
        trouble: Trouble::Stall(Duration::from_secs(4)),
    };
    let proxy = Proxy::start(azurite.port, rule);
    let store = open(&format!("azure://{container}"), &azurite.connection(proxy.port))?;
    let stopped = store.upload(
        &collection(folder.path())?,
        |news| !matches!(news, News::Progress { done, total } if done == total),
    );
    assert!(matches!(stopped, Err(stores::Error::Stopped)), "{stopped:?}");
    let blobs = azurite.blobs(&container);
    assert!(blobs.keys().all(|name| !name.ends_with(MANIFEST) && !name.ends_with("safetensors")));
    let before = blobs.len();
    assert!(before > 0, "small files were sent");

    let store = open(&format!("azure://{container}"), &azurite.connection(azurite.port))?;
    let uploaded = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!(uploaded.present, before, "what was sent is not sent again");
    assert_whole(&azurite, &container, "steady-otter/")
}

#[test]
fn passing_trouble_is_waited_out() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    for (target, trouble) in [
        ("comp=block&", Trouble::Status(500)),
        ("comp=block&", Trouble::Status(503)),
        ("comp=block&", Trouble::Reset),
        ("comp=block&", Trouble::HalfAnswer),
        ("comp=block&", Trouble::Stall(Duration::from_secs(4))),
        ("comp=blocklist", Trouble::Status(503)),
        ("report.md", Trouble::Status(429)),
        ("HEAD", Trouble::Reset),
        (MANIFEST, Trouble::Status(500)),
    ] {
        let container = azurite.container();
        let proxy = Proxy::start(azurite.port, Rule { target, at: 0..2, trouble });
        let store = open(&format!("azure://{container}"), &azurite.connection(proxy.port))?;
        let uploaded = store
            .upload(&collection(folder.path())?, |_| true)
            .map_err(|error| format!("{target}, {trouble:?}: {error}"))?;
        assert_eq!(uploaded.sent, 4, "{target}, {trouble:?}");
        assert!(proxy.seen() > 2, "{target} was not in trouble");
        assert_whole(&azurite, &container, "steady-otter/")?;
    }
    Ok(())
}

#[test]
fn lasting_trouble_fails_and_the_next_upload_mends_it() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    for (target, status) in
        [("comp=block&", 412), ("comp=blocklist", 409), ("report.md", 403), (MANIFEST, 400)]
    {
        let container = azurite.container();
        let rule = Rule { target, at: 1..99, trouble: Trouble::Status(status) };
        let rule = if target == "comp=blocklist" { Rule { at: 0..99, ..rule } } else { rule };
        let proxy = Proxy::start(azurite.port, rule);
        let store = open(&format!("azure://{container}"), &azurite.connection(proxy.port))?;
        let failed = store.upload(&collection(folder.path())?, |_| true);
        let message = failed.expect_err("lasting trouble").to_string();
        assert!(message.contains(&status.to_string()), "{message}");
        let blobs = azurite.blobs(&container);
        assert!(!blobs.contains_key(&format!("steady-otter/{MANIFEST}")), "{target}");

        let store = open(&format!("azure://{container}"), &azurite.connection(azurite.port))?;
        store.upload(&collection(folder.path())?, |_| true)?;
        assert_whole(&azurite, &container, "steady-otter/")?;
    }
    Ok(())
}

#[test]
fn a_manifest_goes_before_what_it_lists_is_replaced() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = azurite.container();
    let store = open(&format!("azure://{container}"), &azurite.connection(azurite.port))?;
    store.upload(&collection(folder.path())?, |_| true)?;
    durable::write(&folder.path().join("report.md"), b"# Another report\n")?;
    let rule = Rule { target: "report.md", at: 1..99, trouble: Trouble::Status(403) };
    let proxy = Proxy::start(azurite.port, rule);
    let store = open(&format!("azure://{container}"), &azurite.connection(proxy.port))?;
    store.upload(&collection(folder.path())?, |_| true).expect_err("report.md is refused");
    assert!(!azurite.blobs(&container).contains_key(&format!("steady-otter/{MANIFEST}")));
    Ok(())
}

#[test]
fn a_damaged_manifest_is_told_and_goes_before_files_are_replaced() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    durable::write(&folder.path().join("report.md"), b"# Report\n")?;
    let container = azurite.container();
    let (location, place) = (format!("azure://{container}"), format!("steady-otter/{MANIFEST}"));
    azurite.sdk(&["write", &container, &place, "{\"files\": {\"report.md\": {\"bytes\": 9"]);
    let rule = Rule { target: "report.md", at: 1..99, trouble: Trouble::Status(403) };
    let proxy = Proxy::start(azurite.port, rule);
    let mut told = Vec::new();
    let mut tell = |news| {
        if let News::DamagedManifest { place, .. } = news {
            told.push(place);
        }
        true
    };
    let store = open(&location, &azurite.connection(proxy.port))?;
    store.upload(&collection(folder.path())?, &mut tell).expect_err("report.md is refused");
    assert!(azurite.blobs(&container).is_empty());

    let store = open(&location, &azurite.connection(azurite.port))?;
    store.upload(&collection(folder.path())?, &mut tell)?;
    assert_eq!(told, [format!("{location}/{place}")]);
    assert_whole(&azurite, &container, "steady-otter/")
}

#[test]
fn wrong_credentials_and_places_are_refused_without_secrets() -> Tested {
    let Some(azurite) = Azurite::start() else { return Ok(()) };
    let container = azurite.container();
    let location = format!("azure://{container}/runs");
    let right = azurite.connection(azurite.port);
    let other = "c29tZXRoaW5nIGVsc2UsIGJ1dCBhbHNvIGluIGJhc2U2NA==";
    let expired = azurite.sdk(&["sas", &container, "-30"]);
    let signature =
        expired.split("sig=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or("?");
    for (location, connection, secret) in [
        (location.as_str(), right.replace(KEY, other), other),
        ("azure://no-such-container", right.clone(), KEY),
        (location.as_str(), expired.clone(), signature),
    ] {
        let started = Instant::now();
        let refused = open(location, &connection)?.check().expect_err("refused").to_string();
        assert!(refused.contains(location) && !refused.contains(secret), "{refused}");
        assert!(started.elapsed() < Duration::from_secs(30), "{refused}");
    }
    // One that is valid is taken.
    let valid = azurite.sdk(&["sas", &container, "30"]);
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let store = open(&location, &valid)?;
    store.check()?;
    assert_eq!(store.upload(&collection(folder.path())?, |_| true)?.sent, 4);

    let unreachable = open(&location, &azurite.connection(1))?.check().expect_err("no one there");
    assert!(unreachable.to_string().contains(&location), "{unreachable}");
    let secret = format!("azure://{container}?sv=1&sig=SECRET");
    let refused = Store::open(&secret, []).expect_err("a secret in the location").to_string();
    assert!(!refused.contains("SECRET"), "{refused}");
    Ok(())
}
