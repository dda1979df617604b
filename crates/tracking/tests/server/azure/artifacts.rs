//! Artifacts of runs in a workspace, into the service's storage and into Azurite's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracking::{Client, Connection, Environment, Error};

use super::service::{Answer, Azure, SIGNATURE};
use crate::emulator::Azurite;

/// A client of the workspace, with a client secret.
pub fn client(azure: &Azure) -> Client {
    let environment: Environment = azure.environment_with_secret().into_iter().collect();
    let connection = Connection::from_environment(&azure.tracking_uri(), &environment);
    Client::new(&connection.expect("settings")).expect("client")
}

fn location(azure: &Azure) -> String {
    format!("{}/experiments/clauses/runs/r-1/artifacts", azure.tracking_uri())
}

fn file(folder: &tempfile::TempDir, content: &[u8]) -> PathBuf {
    let path = folder.path().join("file");
    durable::write(&path, content).expect("write");
    path
}

#[test]
fn a_file_is_put_and_replaced_and_its_address_shown_nowhere() {
    let folder = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    let (client, location) = (client(&azure), location(&azure));
    let stored = || azure.state().blobs.get("dcid.r-1/best/ü & ö.bin").cloned();
    for content in [&b"one"[..], b"another", b""] {
        let file = file(&folder, content);
        client.upload_artifact(&location, "best/ü & ö.bin", &file).expect("stored");
        assert_eq!(stored().as_deref(), Some(content));
    }
    assert_eq!(azure.requests("/batch/metadata").len(), 3);
    assert_eq!(azure.requests("/write?path=").len(), 2, "where there is an entry");
    let metadata = &azure.requests("/batch/metadata")[0];
    assert!(metadata.target.contains("/history/v1.0/subscriptions/"), "{}", metadata.target);
    assert!(metadata.target.contains("/experiments/clauses/runs/r-1/artifacts/"));

    // An address whose time is over: another one is asked for, once.
    let file = file(&folder, b"late");
    let over = Answer::Raw(403, "", "<Error><Code>AuthenticationFailed</Code></Error>");
    azure.answer("/blobs/", std::slice::from_ref(&over));
    client.upload_artifact(&location, "best/ü & ö.bin", &file).expect("stored");
    assert_eq!(stored().as_deref(), Some(&b"late"[..]));
    azure.answer("/blobs/", &[over.clone(), over]);
    let error = client.upload_artifact(&location, "x", &file).expect_err("refused twice");
    assert!(matches!(&error, Error::Refused { status: 403, .. }), "{error}");
    assert!(error.to_string().contains("403 AuthenticationFailed"), "{error}");

    // What is said of failures holds no signature, whatever is answered.
    let mut shown = error.to_string();
    for (target, answer) in [
        ("/blobs/", Answer::Raw(400, "", "<Error>sig=s1gnature%2Bvalue%3D</Error>")),
        ("/batch/metadata", Answer::Raw(200, "", "\"?sig=s1gnature%2Bvalue%3D\"")),
        ("/batch/metadata", Answer::Raw(200, "", "{\"artifactContentInformation\": {}}")),
        (
            "/batch/metadata",
            Answer::Raw(200, "", "{\"errors\": {\"x\": {\"error\": {\"message\": \"no\"}}}}"),
        ),
    ] {
        azure.answer(target, &[answer]);
        let error = client.upload_artifact(&location, "y", &file).expect_err("refused");
        shown += &format!("{error} {error:?}");
    }
    assert!(!shown.contains(SIGNATURE) && !shown.contains("sig="), "{shown}");

    let other = format!("{}/models/m", azure.tracking_uri());
    let error = client.upload_artifact(&other, "x", &file);
    assert!(matches!(error, Err(Error::RemoteArtifacts { .. })));
    for path in ["../x", "/x", "%2e%2e/x"] {
        let refused = client.upload_artifact(&location, path, &file);
        assert!(matches!(refused, Err(Error::Name { .. })), "{path}");
    }
}

#[test]
fn a_storage_that_reads_nothing_is_not_waited_for() {
    let folder = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("bound");
    azure.state().storage = Some((format!("http://{at}/c"), format!("sig={SIGNATURE}")));
    let environment: Environment = azure.environment_with_secret().into_iter().collect();
    let connection = Connection::from_environment(&azure.tracking_uri(), &environment);
    let mut connection = connection.expect("settings");
    (connection.timeout, connection.retry.retries) = (Duration::from_secs(1), 0);
    connection.multipart.part = 1 << 30;
    let client = Client::new(&connection).expect("client");
    // One that a connection buffers, and one that it does not.
    let large = folder.path().join("large");
    durable::write(&large, &vec![0; 32 << 20]).expect("write");
    let start = Instant::now();
    for file in [file(&folder, b"small"), large] {
        let error = client.upload_artifact(&location(&azure), "x", &file).expect_err("silence");
        assert!(matches!(error, Error::Unreachable { sent: true, .. }), "{error}");
        assert!(!error.to_string().contains("sig="), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn large_files_go_in_blocks_that_a_real_storage_puts_together() {
    let Some(azurite) = Azurite::start() else { return };
    let folder = tempfile::tempdir().expect("folder");
    let azure = Azure::start(None);
    let container = azurite.container();
    let sas = azurite.sdk(&["sas", &container, "30"]);
    let signature = sas.split("SharedAccessSignature=").nth(1).expect("a signature").to_owned();
    let base = sas.split(';').next().and_then(|part| part.strip_prefix("BlobEndpoint="));
    let base = format!("{}/{container}", base.expect("an address").trim_end_matches('/'));
    azure.state().storage = Some((base.clone(), signature.clone()));
    let (client, location) = (client(&azure), location(&azure));
    // Blocks of 10 MiB, and a little more; then none; then an empty one.
    let large: Vec<u8> = (0..(32 << 20) + 77u32).map(|n| (n % 251) as u8).collect();
    for (name, content) in [("best/large", &large[..]), ("small", b"12345"), ("empty", b"")] {
        client.upload_artifact(&location, name, &file(&folder, content)).expect(name);
    }
    let blobs = azurite.blobs(&container);
    let size = |name: &str| blobs[&format!("dcid.r-1/{name}")]["bytes"].as_u64().expect("a size");
    assert_eq!((size("best/large"), size("small"), size("empty")), (large.len() as u64, 5, 0));
    let mut answer =
        ureq::get(format!("{base}/dcid.r-1/best/large?{signature}")).call().expect("there");
    let there = answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("whole");
    assert!(there == large, "the same bytes in the same order");
}
