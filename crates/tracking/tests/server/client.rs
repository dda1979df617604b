//! The REST client, call by call.

use serde_json::json;
use tracking::{
    Batch, Client, Connection, Credentials, Dataset, Environment, Error, Metric, NewLoggedModel,
    NewModelVersion, NewRun, Pair, Retry, Secret, Status, Tls,
};

use crate::real::{Server, Version, connection};

fn point(key: &str, value: f64, step: i64) -> Metric {
    Metric { key: key.to_owned(), value, step, timestamp_ms: 1_700_000_000_000 + step }
}

fn new_run<'a>(experiment_id: &'a str, name: &'a str, tags: Vec<Pair>) -> NewRun<'a> {
    NewRun { experiment_id, user_id: "me", run_name: name, start_time: 1_700_000_000_000, tags }
}

fn status(error: &Error) -> u16 {
    match error {
        Error::Refused { status, .. } => *status,
        other => panic!("no refusal: {other}"),
    }
}

#[test]
fn mlflow_3_takes_every_call() {
    if let Some(server) = Server::start(Version::Three, &[]) {
        every_call(&server);
    }
}

#[test]
fn mlflow_2_takes_every_call() {
    if let Some(server) = Server::start(Version::Two, &[]) {
        every_call(&server);
    }
}

fn every_call(server: &Server) {
    let client = server.client();
    let experiment = experiments(&client);
    let run = client
        .create_run(&new_run(&experiment, "one", vec![Pair::new("who", "this one")]))
        .expect("created");
    let run_id = run.info.run_id.as_str();
    histories(server, run_id);
    limits(&client, run_id);
    files(server, run_id, &run.info.artifact_uri);
    inputs(&client, run_id);
    models(server, &experiment, run_id, &run.info.artifact_uri);

    client.update_run(run_id, Status::Failed, Some(1_700_000_009_000)).expect("updated");
    let found = client.run(run_id).expect("found");
    assert_eq!(
        (found.info.status.as_str(), found.info.end_time),
        ("FAILED", Some(1_700_000_009_000))
    );
    client.update_run(run_id, Status::Running, None).expect("goes on");
    assert_eq!(client.run(run_id).expect("found").info.status, "RUNNING");

    let read = server.read(run_id);
    assert_eq!((&read["status"], &read["run_name"]), (&json!("RUNNING"), &json!("one")));
    assert_eq!(read["params"]["lr"], json!("0.1"));
    assert_eq!(read["metrics"]["a/b c"].as_array().expect("points").len(), 7);
    assert!(read["artifacts"].to_string().contains("model/ü & ö.bin"), "{read}");

    let mine = || client.runs_with_tag(&experiment, "who", "this one").expect("found");
    assert_eq!(mine().len(), 1);
    client.delete_run(run_id).expect("deleted");
    assert_eq!(mine().len(), 0);
    assert_eq!(client.run(run_id).expect("in the trash").info.lifecycle_stage, "deleted");
    let refused =
        client.log_batch(run_id, &Batch { metrics: vec![point("m", 1.0, 1)], ..Batch::default() });
    assert_eq!(status(&refused.expect_err("a deleted run takes nothing")), 400);
    assert_eq!(status(&client.run("0123").expect_err("no such run")), 404);
}

fn experiments(client: &Client) -> String {
    let name = "clauses: \"it's\" & ünïcode?";
    assert_eq!(client.experiment_by_name(name).expect("asked"), None);
    let id = client.create_experiment(name).expect("created");
    let found = client.experiment_by_name(name).expect("asked").expect("there");
    assert_eq!((found.experiment_id.as_str(), found.name.as_str()), (id.as_str(), name));
    assert_eq!(client.experiment(&id).expect("there"), found);
    assert!(!found.is_deleted());
    let twice = client.create_experiment(name).expect_err("the name is taken");
    assert!(matches!(&twice, Error::Refused { code, .. } if code == "RESOURCE_ALREADY_EXISTS"));
    assert_eq!(status(&client.experiment("4711").expect_err("no such experiment")), 404);
    id
}

/// Every kind of value arrives, and what is sent again changes nothing.
fn histories(server: &Server, run_id: &str) {
    let client = server.client();
    // Not -0.0, which becomes 0.0 in SQLite.
    let values = [0.1, -1.0, 1e-7, 5e-324, f64::MAX, 1e22, f64::NAN];
    let metrics: Vec<_> = (0i64..).zip(values).map(|(n, v)| point("a/b c", v, n)).collect();
    let batch = Batch {
        metrics: metrics.clone(),
        params: vec![Pair::new("lr", "0.1"), Pair::new("empty", "")],
        tags: vec![Pair::new("note", "a\nb")],
    };
    client.log_batch(run_id, &batch).expect("logged");
    let again = client.log_batch(run_id, &batch);
    match server.version() {
        Version::Three => again.expect("logged again"),
        // To MLflow 2 a NaN is never the NaN it has.
        Version::Two => assert_eq!(status(&again.expect_err("the NaN is there")), 400),
    }
    let finite = Batch { metrics: metrics[..6].to_vec(), ..batch };
    client.log_batch(run_id, &finite).expect("logged again");
    let mut found = client.metric_history(run_id, "a/b c").expect("history");
    found.sort_by_key(|metric| metric.step);
    assert_eq!(found, metrics);
    let run = client.run(run_id).expect("found");
    assert_eq!(run.tag("note"), Some("a\nb"));
    assert!(run.data.params.contains(&Pair::new("lr", "0.1")));
    assert!(run.data.params.contains(&Pair::new("empty", "")));

    // The store has no infinities; the greatest finite numbers stand for them.
    let infinite = Batch { metrics: vec![point("inf", f64::INFINITY, 0)], ..Batch::default() };
    for _ in 0..2 {
        client.log_batch(run_id, &infinite).expect("logged");
    }
    assert_eq!(client.metric_history(run_id, "inf").expect("history")[0].value, f64::MAX);

    let changed = Batch {
        metrics: vec![point("not this", 1.0, 0)],
        params: vec![Pair::new("lr", "0.2")],
        ..Batch::default()
    };
    assert_eq!(status(&client.log_batch(run_id, &changed).expect_err("params never change")), 400);
    assert_eq!(client.metric_history(run_id, "not this").expect("history"), []);
    client.set_tag(run_id, &Pair::new("note", "c")).expect("set");
    assert_eq!(client.run(run_id).expect("found").tag("note"), Some("c"));
}

/// As much as one request may hold, and no more.
fn limits(client: &Client, run_id: &str) {
    let pairs = |n: usize| (0..n).map(|i| Pair::new(&format!("p{i}"), "1")).collect::<Vec<_>>();
    let metrics = |n: i64| (0..n).map(|i| point("many", 0.5, i)).collect::<Vec<_>>();
    let full = Batch { metrics: metrics(800), params: pairs(100), tags: pairs(100) };
    client.log_batch(run_id, &full).expect("as much as allowed");
    assert_eq!(client.metric_history(run_id, "many").expect("history").len(), 800);
    for over in [
        Batch { metrics: metrics(1001), ..Batch::default() },
        Batch { params: pairs(101), ..Batch::default() },
        Batch { tags: pairs(101), ..Batch::default() },
        Batch { metrics: metrics(801), params: pairs(100), tags: pairs(100) },
    ] {
        assert_eq!(status(&client.log_batch(run_id, &over).expect_err("too much")), 400);
    }
}

fn files(server: &Server, run_id: &str, location: &str) {
    let client = server.client();
    let file = server.folder().join("a file of 3 MB");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    durable::write(&file, &content).expect("write");
    for path in ["x.bin", "model/ü & ö.bin"] {
        client.upload_artifact(location, path, &file).expect(path);
        let stored = location.trim_start_matches("mlflow-artifacts:/");
        let stored = server.folder().join("artifacts").join(stored).join(path);
        assert!(std::fs::read(stored).expect("stored") == content, "{path}");
    }
    let listed = client.artifacts(run_id, "model").expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].path, "model/ü & ö.bin");
    assert_eq!((listed[0].is_dir, listed[0].file_size), (false, Some(3_000_000)));
    for path in ["../x", "/x", "%2e%2e/x"] {
        let refused = client.upload_artifact(location, path, &file);
        assert!(matches!(refused, Err(Error::Name { .. })), "{path}");
    }
    let elsewhere = client.upload_artifact("s3://bucket/1", "x", &file);
    assert!(matches!(elsewhere, Err(Error::RemoteArtifacts { uri }) if uri == "s3://bucket/1"));
}

fn inputs(client: &Client, run_id: &str) {
    let dataset = Dataset {
        name: "clauses".to_owned(),
        digest: "0123abcd".to_owned(),
        source_type: "local".to_owned(),
        source: r#"{"uri": "train.csv"}"#.to_owned(),
        schema: r#"{"mlflow_colspec": [{"name": "text", "type": "string"}]}"#.to_owned(),
        profile: r#"{"num_rows": 3}"#.to_owned(),
        context: "training".to_owned(),
    };
    for _ in 0..2 {
        client.log_inputs(run_id, std::slice::from_ref(&dataset)).expect("logged");
    }
    let found = client.run(run_id).expect("found").inputs.datasets;
    assert_eq!(found.len(), 1, "named twice, it is one");
    assert_eq!(found[0].dataset.name, "clauses");
    assert_eq!(found[0].tags, [Pair::new("mlflow.data.context", "training")]);
    let long = Dataset { digest: "x".repeat(37), ..dataset };
    assert!(matches!(client.log_inputs(run_id, &[long]), Err(Error::TooLong { limit: 36, .. })));
}

fn models(server: &Server, experiment_id: &str, run_id: &str, location: &str) {
    let client = server.client();
    let model = NewLoggedModel {
        experiment_id,
        name: "clauses",
        source_run_id: run_id,
        params: vec![Pair::new("r", "8")],
        tags: vec![],
    };
    let (source, model_id) = match client.create_logged_model(&model) {
        Ok(created) => {
            let file = server.folder().join("MLmodel");
            durable::write(&file, b"flavors: {}\n").expect("write");
            client.upload_artifact(&created.artifact_uri, "MLmodel", &file).expect("uploaded");
            for _ in 0..2 {
                client.finish_logged_model(run_id, &created.model_id, 7).expect("ready");
            }
            let found = client.logged_models_of(experiment_id, run_id).expect("found");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].model_id, created.model_id);
            (format!("models:/{}", created.model_id), Some(created.model_id))
        }
        Err(error) => {
            assert_eq!((server.version(), status(&error)), (Version::Two, 404));
            let description = json!({
                "run_id": run_id, "artifact_path": "clauses", "flavors": {},
                "utc_time_created": "2024-01-01 00:00:00.000000",
            });
            client.record_model(run_id, &description).expect("recorded");
            (format!("{location}/clauses"), None)
        }
    };
    for _ in 0..2 {
        client.ensure_registered_model("tos").expect("there");
    }
    let version = NewModelVersion {
        name: "tos",
        source: &source,
        run_id,
        model_id: model_id.as_deref(),
        tags: vec![],
    };
    let created = client.create_model_version(&version).expect("created");
    assert_eq!(created.version, "1");
    assert_eq!(client.model_version("tos", "1").expect("found").status, "READY");
    assert_eq!(client.versions_of(run_id).expect("found")[0].name, "tos");
    client.set_alias("tos", "champion", "1").expect("set");
}

#[test]
fn a_deleted_experiment_keeps_its_name() {
    let Some(server) = Server::start(Version::Three, &[]) else { return };
    let client = server.client();
    let id = client.create_experiment("gone").expect("created");
    delete_experiment(&server.uri(), &id);
    assert!(client.experiment_by_name("gone").expect("asked").expect("there").is_deleted());
    let refused = client.create_experiment("gone").expect_err("the name is taken");
    assert_eq!(status(&refused), 400);
}

/// The client deletes no experiments, people do.
pub fn delete_experiment(uri: &str, id: &str) {
    let body = format!("{{\"experiment_id\": \"{id}\"}}");
    let url = format!("{uri}/api/2.0/mlflow/experiments/delete");
    let answer = ureq::post(&url).header("content-type", "application/json").send(&body);
    assert!(answer.expect("an answer").status().is_success());
}

#[test]
fn passwords_and_tokens_are_sent_where_they_belong() {
    let Some(server) = Server::start(Version::Three, &["auth"]) else { return };
    let asked = |connection: &Connection| {
        Client::new(connection).expect("client").experiment("0").map(|found| found.name)
    };
    let mut connection = connection(&server.uri());
    assert_eq!(status(&asked(&connection).expect_err("nobody")), 401);
    let user = |password: &str| Credentials::User {
        name: "admin".to_owned(),
        password: Secret::new(password.to_owned()),
    };
    connection.credentials = user("wrong");
    let error = asked(&connection).expect_err("the wrong password");
    assert_eq!(status(&error), 401);
    assert!(!error.to_string().contains("wrong"), "{error}");
    connection.credentials = user("s3cret-password");
    assert_eq!(asked(&connection).expect("the right one"), "Default");

    let home = tempfile::tempdir().expect("folder");
    durable::create_folder(&home.path().join(".mlflow")).expect("folder");
    let ini =
        b"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = s3cret-password\n";
    durable::write(&home.path().join(".mlflow/credentials"), ini).expect("write");
    let environment: Environment =
        [("HOME", home.path().to_str().expect("UTF-8"))].into_iter().collect();
    let from_file = Connection::from_environment(&server.uri(), &environment).expect("settings");
    assert_eq!(asked(&from_file).expect("from the file"), "Default");
    let uri = server.uri().replace("//", "//admin:s3cret-password@");
    let in_uri = Connection::new(&uri).expect("an address");
    assert_eq!(asked(&in_uri).expect("in the address"), "Default");
    let environment = [("MLFLOW_TRACKING_TOKEN", "t0ken")].into_iter().collect();
    let token = Connection::from_environment(&server.uri(), &environment).expect("settings");
    assert_eq!(status(&asked(&token).expect_err("this server takes no tokens")), 401);
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let Some(server) = Server::start(Version::Three, &["client-cert"]) else { return };
    let asked = |tls: Tls| {
        let mut connection = connection(&server.uri());
        connection.retry = Retry { retries: 0, ..connection.retry };
        connection.tls = tls;
        Client::new(&connection).and_then(|client| client.experiment("0"))
    };
    let file = |name: &str| Some(server.folder().join(name));
    let (ours, theirs) = (file("client.pem"), file("server.pem"));
    let both = Tls {
        insecure: false,
        server_certificates: theirs.clone(),
        client_certificate: ours.clone(),
    };
    assert_eq!(asked(both.clone()).expect("both trust each other").name, "Default");
    let unknown = Tls { server_certificates: ours.clone(), ..both.clone() };
    let error = asked(unknown).expect_err("a certificate that is not trusted");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let insecure = Tls { insecure: true, server_certificates: None, ..both.clone() };
    assert_eq!(asked(insecure).expect("any server is trusted").name, "Default");
    let nobody = Tls { client_certificate: None, ..both.clone() };
    assert!(matches!(asked(nobody), Err(Error::Unreachable { .. })));
    for (file, word) in [(file("mlflow.db"), "PEM"), (file("missing"), "missing")] {
        let error = asked(Tls { client_certificate: file, ..both.clone() }).expect_err("no key");
        assert!(error.to_string().contains(word), "{error}");
    }
}
