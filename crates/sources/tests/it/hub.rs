//! The hub's protocol and cache layout, against a local server that speaks it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::server::{Request, Response, Server, nowhere};
use sha2::{Digest, Sha256};
use sources::{Error, Origin, Progress, Secret, Settings, Silent, dataset, model};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weights() -> Vec<u8> {
    (0..200_000u32).map(|n| (n % 251) as u8).collect()
}

type Files = BTreeMap<&'static str, Vec<u8>>;

fn model_files() -> Files {
    [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"t\":1}".to_vec()),
        ("model.safetensors", weights()),
    ]
    .into()
}

/// Answers as the hub does: small files directly, large ones by a redirect to `storage`.
fn hub(repo: &'static str, files: Files, storage: String) -> Server {
    Server::start(move |request| repository(request, repo, &files, &storage))
}

fn repository(request: &Request, repo: &str, files: &Files, storage: &str) -> Response {
    let path = request.path.trim_start_matches("/datasets");
    let Some((revision, file)) = path
        .strip_prefix(&format!("/{repo}/resolve/"))
        .and_then(|rest| rest.split_once('/'))
        .filter(|(revision, _)| ["main", "refs%2Fpr%2F1", COMMIT].contains(revision))
    else {
        return Response::new(404).header("X-Error-Code", "RepoNotFound");
    };
    let Some(content) = files.get(file) else {
        return Response::new(404).header("X-Error-Code", "EntryNotFound");
    };
    assert!(request.method == "HEAD" || revision == COMMIT, "content is asked for by commit");
    let hash = sha256(content);
    if content.len() > 1000 {
        return Response::new(302)
            .header("Location", format!("{storage}/{hash}?Signature=secret"))
            .header("X-Repo-Commit", COMMIT)
            .header("X-Linked-Etag", format!("\"{hash}\""))
            .header("X-Linked-Size", content.len());
    }
    Response::new(200)
        .header("X-Repo-Commit", COMMIT)
        .header("ETag", format!("W/\"{}\"", &hash[..40]))
        .body(content.as_slice())
}

fn storage(content: Vec<u8>) -> Server {
    Server::start(move |request| Response::ranged(request, &content))
}

fn settings(endpoint: &str, cache: &Path) -> Settings {
    Settings {
        endpoint: endpoint.into(),
        token: Some(Secret::new("hf_secret")),
        hub_cache: cache.join("hub"),
        ..Settings::from_lookup(|name| (name == "HOME").then(|| cache.display().to_string()))
    }
}

#[derive(Default)]
struct Counter(Mutex<Vec<(String, Option<u64>, u64)>>);

impl Progress for Counter {
    fn start(&self, what: &str, total: Option<u64>) {
        self.0.lock().expect("lock").push((what.into(), total, 0));
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().expect("lock").last_mut().expect("started").2 += bytes;
    }
    fn finish(&self) {}
}

#[test]
fn a_model_is_fetched_once_into_the_hubs_own_layout() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let store = storage(weights());
    let server = hub("org/tiny", model_files(), store.url.clone());
    let settings = settings(&server.url, cache.path());

    let progress = Counter::default();
    let found = model("org/tiny", &settings, &progress).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((found.origin, found.revision.as_deref()), (Origin::Hub, Some(COMMIT)));
    assert_eq!(fs::read(found.path.join("model.safetensors")).expect("read"), weights());

    let repository = cache.path().join("hub/models--org--tiny");
    assert_eq!(found.path, repository.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).expect("ref"), COMMIT);
    let link = fs::read_link(found.path.join("model.safetensors")).expect("a link");
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights())));
    let absent = repository.join(".no_exist").join(COMMIT).join("tokenizer_config.json");
    assert!(absent.is_file());
    assert_eq!(fs::read_dir(repository.join("blobs")).expect("blobs").count(), 3);
    let size = weights().len() as u64;
    let seen = progress.0.lock().expect("lock").clone();
    assert_eq!(seen.last(), Some(&("model.safetensors".into(), Some(size), size)));

    // The token goes to the hub and stays there.
    let bearer = Some("Bearer hf_secret");
    assert!(server.requests().iter().all(|r| r.header("authorization") == bearer));
    let stored = store.requests();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].header("authorization"), None);

    // The second run asks what main means, and no more.
    model("org/tiny", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    let asked: Vec<String> = server.requests().iter().map(|r| r.method.clone()).collect();
    assert_eq!(asked, ["HEAD"]);
    assert!(store.requests().is_empty());

    // A commit never moves: no request at all.
    let pinned = format!("org/tiny@{COMMIT}");
    model(&pinned, &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert!(server.requests().is_empty());
}

#[test]
fn the_cache_serves_when_offline_or_when_the_hub_is_down() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let store = storage(weights());
    let server = hub("roberta-base", model_files(), store.url.clone());
    let mut settings = settings(&server.url, cache.path());
    settings.offline = true;
    let error = model("roberta-base", &settings, &Silent).expect_err("empty cache");
    assert!(matches!(error, Error::Offline { .. }), "{error}");
    assert!(server.requests().is_empty());

    settings.offline = false;
    model("roberta-base", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    server.requests();
    settings.offline = true;
    // The same repository under the name that the hub gave it later.
    for name in ["roberta-base", "FacebookAI/roberta-base"] {
        let found = model(name, &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((found.name.as_str(), found.revision.as_deref()), (name, Some(COMMIT)));
    }
    assert!(server.requests().is_empty());

    settings.offline = false;
    settings.endpoint = nowhere();
    model("roberta-base", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    let error = model("org/other", &settings, &Silent).expect_err("not cached");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&settings.endpoint), "{error}");
}

#[test]
fn a_cut_download_resumes_in_the_same_run_and_in_the_next() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let dead = Arc::new(AtomicBool::new(true));
    let is_dead = dead.clone();
    let store = Server::start(move |request| {
        let response = Response::ranged(request, &weights());
        match request.header("range") {
            None => response.cut_after(70_000),
            // While the storage is dying, a resumed body brings nothing.
            Some(_) if is_dead.load(Ordering::SeqCst) => response.cut_after(0),
            Some(_) => response.cut_after(100_000),
        }
    });
    let server = hub("org/tiny", model_files(), store.url.clone());
    let settings = settings(&server.url, cache.path());

    let error = model("org/tiny", &settings, &Silent).expect_err("it dies");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let blobs = cache.path().join("hub/models--org--tiny/blobs");
    let partial = blobs.join(format!("{}.incomplete", sha256(&weights())));
    assert_eq!(fs::metadata(&partial).expect("kept").len(), 70_000);
    assert!(!cache.path().join("hub/models--org--tiny/refs/main").exists());

    dead.store(false, Ordering::SeqCst);
    store.requests();
    let found = model("org/tiny", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fs::read(found.path.join("model.safetensors")).expect("read"), weights());
    let requests = store.requests();
    let ranges: Vec<_> = requests.iter().map(|r| r.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=70000-"), Some("bytes=170000-")]);
    assert!(!partial.exists());
}

#[test]
fn content_that_is_not_the_announced_one_is_refused_and_removed() {
    for wrong in [vec![7; 200_000], vec![7; 200_001]] {
        let cache = tempfile::tempdir().expect("temporary folder");
        let store = storage(wrong);
        let server = hub("org/tiny", model_files(), store.url.clone());
        let error =
            model("org/tiny", &settings(&server.url, cache.path()), &Silent).expect_err("wrong");
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        let blobs = fs::read_dir(cache.path().join("hub/models--org--tiny/blobs")).expect("blobs");
        assert_eq!(blobs.count(), 2, "the two small files only");
    }
}

#[test]
fn a_renamed_repository_is_followed_with_the_token() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let store = storage(weights());
    let (files, place) = (model_files(), store.url.clone());
    let server = Server::start(move |request| match request.path.strip_prefix("/old-name/") {
        Some(rest) => Response::new(307).header("Location", format!("/org/new-name/{rest}")),
        None => repository(request, "org/new-name", &files, &place),
    });
    let found = model("old-name@refs/pr/1", &settings(&server.url, cache.path()), &Silent)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(found.path.starts_with(cache.path().join("hub/models--old-name/snapshots")));
    assert!(cache.path().join("hub/models--old-name/refs/refs/pr/1").is_file());
    assert!(server.requests().iter().all(|r| r.header("authorization").is_some()));
}

#[test]
fn shards_are_fetched_by_their_index() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let mut files = model_files();
    files.remove("model.safetensors");
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    files.insert("model.safetensors.index.json", index.into());
    files.insert("model-1.safetensors", b"one".to_vec());
    let server = hub("org/big", files.clone(), String::new());
    let error =
        model("org/big", &settings(&server.url, cache.path()), &Silent).expect_err("one missing");
    assert!(error.to_string().contains("lacks model-2.safetensors"), "{error}");

    let cache = tempfile::tempdir().expect("temporary folder");
    files.insert("model-2.safetensors", b"two".to_vec());
    let server = hub("org/big", files, String::new());
    let found = model("org/big", &settings(&server.url, cache.path()), &Silent)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fs::read(found.path.join("model-2.safetensors")).expect("read"), b"two");
}

#[test]
fn refusals_say_what_to_do() {
    let failure = |status: u16, code: &'static str, token: bool| {
        let cache = tempfile::tempdir().expect("temporary folder");
        let server =
            Server::start(move |_| Response::new(status).header("X-Error-Code", code).body("x"));
        let mut settings = settings(&server.url, cache.path());
        settings.token = token.then(|| Secret::new("hf_secret"));
        let text = model("org/m", &settings, &Silent).expect_err("refused").to_string();
        assert!(text.contains(&server.url) && !text.contains("hf_secret"), "{text}");
        text
    };
    assert!(failure(401, "RepoNotFound", false).contains("check the name; if the repository"));
    assert!(failure(401, "GatedRepo", false).contains("set HF_TOKEN"));
    assert!(failure(403, "GatedRepo", true).contains("accept its terms"));
    assert!(failure(404, "RepoNotFound", true).contains("has no model \"org/m\""));
    assert!(failure(404, "RevisionNotFound", true).contains("has no revision \"org/m@main\""));
    assert!(failure(404, "", true).contains("lacks config.json"));
    assert!(failure(500, "", true).contains("status 500"));
    assert!(failure(200, "", true).contains("lacks X-Repo-Commit; is it a hub?"));
}

#[test]
fn older_files_are_fetched_where_there_are_no_others() {
    let fetched = |files: Files| {
        let cache = tempfile::tempdir().expect("temporary folder");
        let server = hub("org/old", files, String::new());
        let found = model("org/old", &settings(&server.url, cache.path()), &Silent)
            .unwrap_or_else(|e| panic!("{e}"));
        let entries = fs::read_dir(found.path).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    let mut files = model_files();
    files.remove("model.safetensors");
    let index = r#"{"weight_map":{"a":"pytorch_model-1.bin"}}"#;
    files.insert("pytorch_model.bin.index.json", index.into());
    files.insert("pytorch_model-1.bin", b"shard".to_vec());
    let shards = ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "tokenizer.json"];
    assert_eq!(fetched(files.clone())[1..], shards);
    files.insert("pytorch_model.bin", b"whole".to_vec());
    assert_eq!(fetched(files.clone())[1..], ["pytorch_model.bin", "tokenizer.json"]);
    files.insert("model.safetensors", b"safe".to_vec());
    assert_eq!(fetched(files.clone())[1..], ["model.safetensors", "tokenizer.json"]);

    // So is the tokenizer that a model was published with.
    files.remove("tokenizer.json");
    files.insert("spiece.model", b"pieces".to_vec());
    files.insert("added_tokens.json", b"{}".to_vec());
    let names = fetched(files.clone());
    assert_eq!(names, ["added_tokens.json", "config.json", "model.safetensors", "spiece.model"]);
    files.insert("merges.txt", b"a b".to_vec());
    files.insert("vocab.json", b"{}".to_vec());
    assert_eq!(fetched(files)[2..], ["merges.txt", "model.safetensors", "vocab.json"]);
}

#[test]
fn a_model_without_a_tokenizer_says_what_could_be_one() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let mut files = model_files();
    files.remove("tokenizer.json");
    files.insert("vocab.json", b"{}".to_vec());
    let server = hub("org/old", files, String::new());
    let error = model("org/old", &settings(&server.url, cache.path()), &Silent).expect_err("half");
    let expected = "lacks tokenizer.json (or vocab.txt, vocab.json with merges.txt, spiece.model";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn hostile_commits_and_etags_are_refused() {
    for (commit, etag) in [("../../x", "\"abc\""), (COMMIT, "\"../../x\""), (COMMIT, "\"a/b\"")] {
        let cache = tempfile::tempdir().expect("temporary folder");
        let server = Server::start(move |_| {
            Response::new(200).header("X-Repo-Commit", commit).header("ETag", etag).body("{}")
        });
        let error =
            model("org/m", &settings(&server.url, cache.path()), &Silent).expect_err("hostile");
        assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn a_data_set_comes_by_split_and_then_from_the_cache() {
    let cache = tempfile::tempdir().expect("temporary folder");
    let files: Files = ["train", "validation", "test"]
        .map(|split| match split {
            "train" => ("unfair_tos/train-00000-of-00001.parquet", b"tr".to_vec()),
            "test" => ("unfair_tos/test-00000-of-00001.parquet", b"te".to_vec()),
            _ => ("unfair_tos/validation-00000-of-00001.parquet", b"va".to_vec()),
        })
        .into();
    let names: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    let listing = serde_json::json!({ "sha": COMMIT, "siblings": names }).to_string();
    let server = Server::start(move |request| match request.path.as_str() {
        "/api/datasets/coastalcph/lex_glue/revision/main" => {
            Response::new(200).body(listing.clone())
        }
        _ => repository(request, "coastalcph/lex_glue", &files, ""),
    });
    let mut settings = settings(&server.url, cache.path());

    let first =
        dataset("lex_glue/unfair_tos", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(first.revision.as_deref(), Some(COMMIT));
    assert_eq!(fs::read(&first.train[0]).expect("read"), b"tr");
    assert_eq!(fs::read(&first.validation[0]).expect("read"), b"va");
    assert_eq!(fs::read(&first.test[0]).expect("read"), b"te");
    let folder = cache.path().join("hub/datasets--coastalcph--lex_glue/snapshots").join(COMMIT);
    assert!(first.train[0].starts_with(folder));
    server.requests();

    let again =
        dataset("lex_glue/unfair_tos", &settings, &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again, first);
    assert_eq!(server.requests().len(), 1, "the listing alone");

    settings.offline = true;
    assert_eq!(dataset("lex_glue/unfair_tos", &settings, &Silent).expect("cached"), first);
    settings.offline = false;
    settings.endpoint = nowhere();
    assert_eq!(dataset("lex_glue/unfair_tos", &settings, &Silent).expect("cached"), first);

    settings.endpoint = server.url.clone();
    let error = dataset("lex_glue/nothing", &settings, &Silent).expect_err("no such configuration");
    assert!(error.to_string().contains("it has the folders unfair_tos"), "{error}");
    let error = dataset("org/unknown", &settings, &Silent).expect_err("unknown");
    assert!(error.to_string().contains("has no data set \"org/unknown\""), "{error}");
}
