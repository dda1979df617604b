//! What every service's emulator is put through: uploads whole, repeated, stopped, in trouble, and read back
//! by the service's own client.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod proxy;

use proxy::{Proxy, Rule, Trouble};
use serde_json::{Map, Value};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;
use stores::{Collection, MANIFEST, Manifest, News, Store};

pub type Tested = Result<(), Box<dyn Error>>;

/// An emulator of a service, and the service's own client.
pub trait Service {
    /// The scheme of its locations.
    const SCHEME: &'static str;
    /// What is in the first line of a request that sends a part of an object.
    const PART: &'static str;
    /// And of one that puts the parts together.
    const WHOLE: &'static str;

    /// Where it listens.
    fn port(&self) -> u16;

    /// The environment in which it, or a proxy at this port, is found and patience is short.
    fn environment(&self, port: u16) -> Vec<(String, String)>;

    /// Lets the service's own client `write CONTAINER NAME TEXT` or `delete CONTAINER NAME`.
    fn client(&self, arguments: &[&str]);

    /// A new container.
    fn container(&self) -> String;

    /// All objects of a container, as its own client reads them: `bytes`, `sha256`, `type`, `json`.
    fn objects(&self, container: &str) -> Map<String, Value>;

    /// Uploads in parts that were begun and not ended, as far as the service tells of them.
    fn unfinished(&self, _container: &str) -> usize {
        0
    }

    fn location(&self, container: &str) -> String {
        format!("{}://{container}", Self::SCHEME)
    }

    /// The store there, by way of the service itself or a proxy.
    fn store(&self, location: &str, port: u16) -> Result<Store, stores::Error> {
        Store::open(location, self.environment(port))
    }
}

/// Runs the tests of this module with a service, unless it is not there.
#[macro_export]
macro_rules! suite {
    ($start:path) => {
        $crate::suite!($start:
            everything_arrives_once_and_the_manifest_last
            a_stopped_upload_shows_nothing_half_and_goes_on_where_it_was
            passing_trouble_is_waited_out
            parts_of_several_files_do_not_crowd_the_line
            lasting_trouble_fails_and_the_next_upload_mends_it
            a_manifest_goes_before_what_it_lists_is_replaced
            a_damaged_manifest_is_told_and_goes_before_files_are_replaced
        );
    };
    ($start:path: $($test:ident)*) => {
        $(
            #[test]
            fn $test() -> suite::Tested {
                $start().map_or(Ok(()), |service| suite::$test(&service))
            }
        )*
    };
}

/// A file of two parts, an empty one and small ones.
pub fn run_folder(folder: &Path) -> Tested {
    fs::create_dir_all(folder.join("best/deep"))?;
    let large: Vec<u8> =
        (0..6_000_000u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    durable::write(&folder.join("best/model.safetensors"), &large)?;
    durable::write(&folder.join("best/config.json"), b"{}")?;
    durable::write(&folder.join("best/deep/empty file für 100 %"), b"")?;
    durable::write(&folder.join("report.md"), b"# Report\n")?;
    Ok(())
}

pub fn collection(folder: &Path) -> Result<Collection, stores::Error> {
    Collection::new("steady-otter", folder, &["best", "report.md"])
}

/// The service's client reads what the manifest lists, and nothing else.
fn assert_whole<S: Service>(service: &S, container: &str, prefix: &str) -> Tested {
    let objects = service.objects(container);
    let manifest = objects[&format!("{prefix}{MANIFEST}")]["json"].clone();
    let manifest: Manifest = serde_json::from_value(manifest)?;
    assert_eq!(objects.len(), manifest.files.len() + 1);
    for (name, listed) in &manifest.files {
        let object = &objects[&format!("{prefix}{name}")];
        assert_eq!(object["sha256"], listed.sha256.as_str(), "{name}");
        assert_eq!(object["bytes"], listed.bytes, "{name}");
    }
    Ok(())
}

pub fn everything_arrives_once_and_the_manifest_last<S: Service>(service: &S) -> Tested {
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = service.container();
    let location = format!("{}/team/runs", service.location(&container));
    let store = service.store(&location, service.port())?;
    store.check()?;
    assert!(service.objects(&container).is_empty(), "a check leaves nothing");

    let mut last = None;
    let uploaded = store.upload(&collection(folder.path())?, |news| {
        last = Some(news);
        true
    })?;
    assert_eq!((uploaded.sent, uploaded.present), (4, 0));
    assert_eq!(uploaded.location, format!("{location}/steady-otter"));
    let whole = uploaded.bytes;
    assert!(whole > 6_000_000);
    assert_eq!(last, Some(News::Progress { done: whole, total: whole }));
    let prefix = "team/runs/steady-otter/";
    assert_whole(service, &container, prefix)?;
    let objects = service.objects(&container);
    assert_eq!(objects[&format!("{prefix}best/config.json")]["type"], "application/json");

    let again = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!((again.sent, again.present), (0, 4));

    durable::write(&folder.path().join("report.md"), b"# Another report\n")?;
    service.client(&["delete", &container, &format!("{prefix}best/config.json")]);
    let again = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!((again.sent, again.present), (2, 2), "the changed file and the missing one");
    assert_whole(service, &container, prefix)
}

pub fn a_stopped_upload_shows_nothing_half_and_goes_on_where_it_was<S: Service>(
    service: &S,
) -> Tested {
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = service.container();
    // Of the large file one part arrives, whichever; then it is stopped.
    let rule = Rule {
        target: S::PART,
        at: 1..usize::MAX,
        trouble: Trouble::Stall(Duration::from_secs(4)),
    };
    let proxy = Proxy::start(service.port(), rule);
    let store = service.store(&service.location(&container), proxy.port)?;
    let stopped = store.upload(
        &collection(folder.path())?,
        |news| !matches!(news, News::Progress { done, total } if total - done < 6_000_000),
    );
    assert!(matches!(stopped, Err(stores::Error::Stopped)), "{stopped:?}");
    assert_eq!(service.unfinished(&container), 0, "no part is left behind");
    let objects = service.objects(&container);
    assert!(objects.keys().all(|name| !name.ends_with(MANIFEST) && !name.ends_with("safetensors")));
    let before = objects.len();
    assert!(before > 0, "small files were sent");

    let store = service.store(&service.location(&container), service.port())?;
    let uploaded = store.upload(&collection(folder.path())?, |_| true)?;
    assert_eq!(uploaded.present, before, "what was sent is not sent again");
    assert_whole(service, &container, "steady-otter/")
}

pub fn passing_trouble_is_waited_out<S: Service>(service: &S) -> Tested {
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    for (target, trouble) in [
        (S::PART, Trouble::Status(500)),
        (S::PART, Trouble::Status(503)),
        (S::PART, Trouble::Reset),
        (S::PART, Trouble::HalfAnswer),
        (S::PART, Trouble::Stall(Duration::from_secs(4))),
        (S::WHOLE, Trouble::Status(503)),
        ("report.md", Trouble::Status(429)),
        ("HEAD", Trouble::Reset),
        (MANIFEST, Trouble::Status(500)),
    ] {
        let container = service.container();
        let proxy = Proxy::start(service.port(), Rule { target, at: 0..2, trouble });
        let store = service.store(&service.location(&container), proxy.port)?;
        let uploaded = store
            .upload(&collection(folder.path())?, |_| true)
            .map_err(|error| format!("{target}, {trouble:?}: {error}"))?;
        assert_eq!(uploaded.sent, 4, "{target}, {trouble:?}");
        assert!(proxy.seen() > 2, "{target} was not in trouble");
        assert_whole(service, &container, "steady-otter/")?;
    }
    Ok(())
}

/// Each request has its time to end; were there one for every part, a slow line would let none of them.
pub fn parts_of_several_files_do_not_crowd_the_line<S: Service>(service: &S) -> Tested {
    let folder = tempfile::tempdir()?;
    let large: Vec<u8> = (0..6_000_000u32).map(|n| (n % 251) as u8).collect();
    for name in ["a", "b", "c"] {
        durable::write(&folder.path().join(name), &large)?;
    }
    let container = service.container();
    let trouble = Trouble::Late(Duration::from_millis(500));
    let proxy = Proxy::start(service.port(), Rule { target: S::PART, at: 0..usize::MAX, trouble });
    let store = service.store(&service.location(&container), proxy.port)?;
    store.upload(&Collection::new("steady-otter", folder.path(), &["a", "b", "c"])?, |_| true)?;
    assert!((1..=4).contains(&proxy.most()), "{} parts at a time", proxy.most());
    assert_whole(service, &container, "steady-otter/")
}

pub fn lasting_trouble_fails_and_the_next_upload_mends_it<S: Service>(service: &S) -> Tested {
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    for (target, status) in [(S::PART, 412), (S::WHOLE, 409), ("report.md", 403), (MANIFEST, 400)] {
        let container = service.container();
        let rule = Rule { target, at: 1..99, trouble: Trouble::Status(status) };
        let rule = if target == S::WHOLE { Rule { at: 0..99, ..rule } } else { rule };
        let proxy = Proxy::start(service.port(), rule);
        let store = service.store(&service.location(&container), proxy.port)?;
        let failed = store.upload(&collection(folder.path())?, |_| true);
        let message = failed.expect_err("lasting trouble").to_string();
        assert!(message.contains(&status.to_string()), "{message}");
        let objects = service.objects(&container);
        assert!(!objects.contains_key(&format!("steady-otter/{MANIFEST}")), "{target}");

        let store = service.store(&service.location(&container), service.port())?;
        store.upload(&collection(folder.path())?, |_| true)?;
        assert_whole(service, &container, "steady-otter/")?;
    }
    Ok(())
}

pub fn a_manifest_goes_before_what_it_lists_is_replaced<S: Service>(service: &S) -> Tested {
    let folder = tempfile::tempdir()?;
    run_folder(folder.path())?;
    let container = service.container();
    let store = service.store(&service.location(&container), service.port())?;
    store.upload(&collection(folder.path())?, |_| true)?;
    durable::write(&folder.path().join("report.md"), b"# Another report\n")?;
    let rule = Rule { target: "report.md", at: 1..99, trouble: Trouble::Status(403) };
    let proxy = Proxy::start(service.port(), rule);
    let store = service.store(&service.location(&container), proxy.port)?;
    store.upload(&collection(folder.path())?, |_| true).expect_err("report.md is refused");
    assert!(!service.objects(&container).contains_key(&format!("steady-otter/{MANIFEST}")));
    Ok(())
}

pub fn a_damaged_manifest_is_told_and_goes_before_files_are_replaced<S: Service>(
    service: &S,
) -> Tested {
    let folder = tempfile::tempdir()?;
    durable::write(&folder.path().join("report.md"), b"# Report\n")?;
    let container = service.container();
    let (location, place) = (service.location(&container), format!("steady-otter/{MANIFEST}"));
    service.client(&["write", &container, &place, "{\"files\": {\"report.md\": {\"bytes\": 9"]);
    let rule = Rule { target: "report.md", at: 1..99, trouble: Trouble::Status(403) };
    let proxy = Proxy::start(service.port(), rule);
    let mut told = Vec::new();
    let mut tell = |news| {
        if let News::DamagedManifest { place, .. } = news {
            told.push(place);
        }
        true
    };
    let store = service.store(&location, proxy.port)?;
    store.upload(&collection(folder.path())?, &mut tell).expect_err("report.md is refused");
    assert!(service.objects(&container).is_empty());

    let store = service.store(&location, service.port())?;
    store.upload(&collection(folder.path())?, &mut tell)?;
    assert_eq!(told, [format!("{location}/{place}")]);
    assert_whole(service, &container, "steady-otter/")
}
