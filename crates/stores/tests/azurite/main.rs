//! Uploads to Azurite, read back by Azure's own client.

mod emulator;
#[path = "../suite/mod.rs"]
mod suite;

use emulator::{Azurite, KEY};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};
use stores::Store;
use suite::{Service, Tested, collection, run_folder};

suite!(Azurite::start);

impl Service for Azurite {
    const SCHEME: &'static str = "azure";
    const PART: &'static str = "comp=block&";
    const WHOLE: &'static str = "comp=blocklist";

    fn port(&self) -> u16 {
        self.port
    }

    fn environment(&self, port: u16) -> Vec<(String, String)> {
        environment(&self.connection(port))
    }

    fn client(&self, arguments: &[&str]) {
        self.sdk(arguments);
    }

    fn container(&self) -> String {
        self.container()
    }

    fn objects(&self, container: &str) -> Map<String, Value> {
        self.blobs(container)
    }
}

fn environment(connection: &str) -> Vec<(String, String)> {
    [("AZURE_STORAGE_CONNECTION_STRING", connection), ("AZURE_TIMEOUT", "3s")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
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
        let refused = Store::open(location, environment(&connection))?
            .check()
            .expect_err("refused")
            .to_string();
        assert!(refused.contains(location) && !refused.contains(secret), "{refused}");
        assert!(started.elapsed() < Duration::from_secs(30), "{refused}");
    }
    // One that is valid is taken.
    let valid = azurite.sdk(&["sas", &container, "30"]);
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let store = Store::open(&location, environment(&valid))?;
    store.check()?;
    assert_eq!(store.upload(&collection(folder.path())?, |_| true)?.sent, 4);

    let unreachable = azurite.store(&location, 1)?.check().expect_err("no one there");
    assert!(unreachable.to_string().contains(&location), "{unreachable}");
    let secret = format!("azure://{container}?sv=1&sig=SECRET");
    let refused = Store::open(&secret, []).expect_err("a secret in the location").to_string();
    assert!(!refused.contains("SECRET"), "{refused}");
    Ok(())
}
