//! Runs in a workspace: what arrives, whatever goes wrong on the way; and runs that somebody made before.

use std::time::{Duration, Instant};

use tracking::{
    Client, Connection, Environment, Error, NewRun, Placement, Run, RunRecord, Status, Tracker,
};

use super::service::{Answer, Azure, SUBSCRIPTION, TOKEN};
use crate::proxy::{Proxy, Trouble};
use crate::real::{Server, Version, connection};
use crate::scene::{Scene, assert_one_model, assert_read, log_all, points};
use crate::tracker::TROUBLES;

/// A scene whose server is the workspace.
fn scene(azure: &Azure, more: &[(&str, &str)]) -> Scene {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment: Environment =
        azure.environment_with_secret().into_iter().chain(more).collect();
    let mut scene = Scene::new("http://unused");
    scene.connection =
        Connection::from_environment(&azure.tracking_uri(), &environment).expect("settings");
    scene.placement = Some(
        Placement::from_environment(Some(&scene.info.experiment_name), &environment)
            .expect("a placement"),
    );
    scene
}

#[test]
fn a_run_arrives_whole_in_a_workspace() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    let azure = Azure::start(Some(server.port));
    let scene = scene(&azure, &[]);
    let mut run = scene.run();
    log_all(&mut run, scene.place.path(), 1200);
    let long = ("note".to_owned(), "x".repeat(1500));
    let odd = ("k".repeat(101), "v".to_owned());
    run.set_tags(&[long, odd.clone()]).expect("tags");
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(!run.is_behind());
    let client = server.client();
    let runs = scene.runs(&client);
    assert_eq!(runs.len(), 1);
    let mut read = server.read(&runs[0]);
    assert_eq!(read["tags"]["note"], "x".repeat(1000), "as long as a workspace allows");
    read["tags"]["note"] = "x".repeat(1500).into();
    assert!(read["tags"][&odd.0].is_null(), "longer than a workspace allows");
    read["tags"][&odd.0] = odd.1.into();
    assert_read(&read, run.record());
    assert_one_model(&scene, &client, &runs[0]);
    let paths = read["artifacts"].to_string();
    for file in ["model/MLmodel", "model/data/word.txt"] {
        assert!(paths.contains(file), "{paths}");
    }
    let synced = scene.sync(false).expect("equal");
    assert_eq!((synced.run_id.as_str(), synced.points), (runs[0].as_str(), 2400));
    let page = synced.page.expect("a page");
    assert!(page.starts_with(&format!("https://ml.azure.com/runs/{}?wsid=", runs[0])), "{page}");
    assert!(page.contains(&format!("/subscriptions/{SUBSCRIPTION}/")), "{page}");
    // Nor does it change anything when everything is sent again, artifacts that have an entry included.
    std::fs::remove_file(scene.folder().join("server.json")).expect("there");
    assert_eq!(scene.sync(false).expect("equal").run_id, runs[0]);
    assert_one_model(&scene, &client, &runs[0]);
    assert_eq!(azure.requests("logged-models").len(), 0, "a workspace has none");
    let batches = azure.requests("runs/log-batch");
    let points = |body: &[u8]| String::from_utf8_lossy(body).matches("\"timestamp\"").count();
    assert_eq!(batches.iter().map(|request| points(&request.body)).max(), Some(250));
    let kept = std::fs::read_to_string(scene.folder().join("server.json")).expect("there");
    assert!(!kept.contains(TOKEN) && !kept.contains("sig="), "{kept}");
}

#[test]
fn trouble_with_every_call_of_a_workspace_leaves_equal_histories() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    std::thread::scope(|threads| {
        for trouble in TROUBLES {
            let server = &server;
            threads.spawn(move || trouble_with_every_call(server, trouble));
        }
    });
}

fn trouble_with_every_call(server: &Server, trouble: Trouble) {
    let mut proxy = None;
    let azure = Azure::start(Some(server.port)).behind(|port| {
        let started = Proxy::before(port);
        proxy.insert(started).port
    });
    let proxy = proxy.expect("started");
    // Where nothing comes, nobody need wait long for it.
    let silent = matches!(trouble, Trouble::Stall | Trouble::Hang);
    let seconds = if silent { "2" } else { "60" };
    let scene = scene(
        &azure,
        &[
            ("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0.2"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", seconds),
            ("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", "100000"),
        ],
    );
    // A sign-in that refuses is told at the start; later it is a trouble like others.
    let refuses = matches!(trouble, Trouble::Answer(text) if text.contains(" 401 "));
    if !refuses {
        proxy.make(trouble);
    }
    let mut run = scene.run();
    if refuses {
        proxy.make(trouble);
        azure.revoke();
    }
    let start = Instant::now();
    log_all(&mut run, scene.place.path(), 10);
    let large = scene.place.path().join("large");
    let content: Vec<u8> = (0..250_000u32).map(|n| (n % 251) as u8).collect();
    durable::write(&large, &content).expect("write");
    run.log_artifact(&large, "").expect("artifact");
    assert!(start.elapsed() < Duration::from_secs(5), "{trouble:?}");
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(!run.is_behind(), "{trouble:?}");
    let mut hit = proxy.calm();
    assert_same(server, &azure, &scene, &run, trouble);

    // A file once more, over the one that is there.
    let client = Client::new(&scene.connection).expect("client");
    let run_id = scene.sync(false).expect("equal").run_id;
    let location = client.run(&run_id).expect("found").info.artifact_uri;
    azure.state().blobs.clear();
    proxy.make(trouble);
    while let Err(error) = client.upload_artifact(&location, "large", &large) {
        // Who waits is told of a page, and of a sign-in or a storage that refuses, at once.
        let told = matches!(
            &error,
            Error::BadAnswer { .. }
                | Error::TokenRefused { .. }
                | Error::Refused { status: 401, .. }
        );
        assert!(told, "{trouble:?}: {error}");
    }
    hit.extend(proxy.calm());
    let there = azure.state().blobs[&format!("dcid.{run_id}/large")].clone();
    assert!(there == content, "{trouble:?}");
    for call in [
        "GET /metadata",
        "GET experiments/get-by-name",
        "POST v2.0/token",
        "POST experiments/create",
        "POST runs/search",
        "POST runs/create",
        "POST runs/log-batch",
        "POST runs/log-inputs",
        "POST runs/update",
        "POST runs/log-model",
        "POST batch/metadata",
        "GET RUN/write",
        "PUT blob",
        "PUT block",
        "PUT blocklist",
        "POST registered-models/create",
        "GET model-versions/search",
        "POST model-versions/create",
        "POST registered-models/alias",
    ] {
        let before = ["GET /metadata", "GET experiments", "POST experiments"];
        let before = refuses && before.iter().any(|start| call.starts_with(start));
        assert!(before || hit.contains(call), "{trouble:?}: {call} in {hit:?}");
    }
}

/// The workspace has what the record has, and its storage the same bytes.
#[track_caller]
fn assert_same(server: &Server, azure: &Azure, scene: &Scene, run: &Run, trouble: Trouble) {
    let synced = scene.sync(false).expect("equal");
    assert_eq!(synced.points, 20, "{trouble:?}");
    let client = server.client();
    assert_eq!(scene.runs(&client), std::slice::from_ref(&synced.run_id), "{trouble:?}");
    let found = client.run(&synced.run_id).expect("found");
    assert_eq!(found.info.status, "FINISHED", "{trouble:?}");
    assert_eq!(found.data.params.len(), 121, "{trouble:?}");
    assert_eq!(found.inputs.datasets.len(), 1, "{trouble:?}");
    assert_one_model(scene, &client, &synced.run_id);
    assert_eq!(client.artifacts(&synced.run_id, "best").expect("listed").len(), 1, "{trouble:?}");
    let blobs = azure.state().blobs.clone();
    for (path, file) in run.record().artifacts() {
        let there = &blobs[&format!("dcid.{}/{path}", synced.run_id)];
        assert!(*there == std::fs::read(file).expect("a file"), "{trouble:?}: {path}");
    }
}

/// As a service does before it starts a process.
fn made_before(server: &Server) -> (String, String) {
    let client = server.client();
    let experiment_id = client.create_experiment(&tracking::new_run_name()).expect("created");
    let run = client.create_run(&NewRun {
        experiment_id: &experiment_id,
        user_id: "service",
        run_name: "job",
        start_time: 1_699_999_999_000,
        tags: vec![tracking::Pair::new("theirs", "kept")],
    });
    let run_id = run.expect("created").info.run_id;
    let of_service = tracking::Metric { key: "service/x".to_owned(), ..points(1..2)[0].clone() };
    let batch = tracking::Batch { metrics: vec![of_service], ..Default::default() };
    client.log_batch(&run_id, &batch).expect("logged");
    (experiment_id, run_id)
}

#[test]
fn a_run_goes_on_in_the_run_that_the_environment_names() {
    for version in [Version::Three, Version::Two] {
        let Some(server) = Server::start(version, &[]) else { return };
        let (_, run_id) = made_before(&server);
        let mut scene = Scene::new(&server.uri());
        scene.placement = Some(Placement::Run(run_id.clone()));
        let mut run = scene.run();
        run.log_metrics(&points(0..10)).expect("metrics");
        run.finish(Status::Failed, 1_700_000_009_000).expect("finishes");
        assert!(!run.is_behind());
        let read = server.read(&run_id);
        assert_eq!(read["status"], "FAILED");
        assert_eq!((&read["run_name"], &read["tags"]["theirs"]), (&"job".into(), &"kept".into()));
        assert_eq!(read["tags"]["ferrotune.run_id"], scene.info.run_id);
        assert_eq!(read["runs"].as_array().expect("runs").len(), 1, "no other run was made");
        let synced = scene.sync(false).expect("the service's own points are no difference");
        assert_eq!((synced.run_id.as_str(), synced.points), (run_id.as_str(), 20));
        let refused = scene.sync(true).expect_err("it is not ours to replace").to_string();
        assert!(refused.contains("MLFLOW_RUN_ID"), "{refused}");

        // Sent elsewhere before, all of it goes to the run that is named now.
        let (_, other) = made_before(&server);
        scene.placement = Some(Placement::Run(other.clone()));
        assert_eq!(scene.sync(false).expect("sent").run_id, other);

        // One that is not there, or was deleted, is told before anything else.
        let start = |id: &str| {
            let record = tempfile::tempdir().expect("folder");
            RunRecord::create(record.path(), &scene.info).expect("record");
            let placement = Placement::Run(id.to_owned());
            tracking::check_server(&connection(&server.uri()), &placement)
                .map_err(|e| e.to_string())
        };
        assert!(start("0123").expect_err("no such run").contains("0123"));
        server.client().delete_run(&run_id).expect("deleted");
        let error = start(&run_id).expect_err("deleted");
        assert!(error.contains(&format!("run {run_id} is deleted on http")), "{error}");
    }
}

#[test]
fn a_job_of_azure_ml_sends_all_but_its_status() {
    let Some(server) = Server::start(Version::Two, &[]) else { return };
    let azure = Azure::start(Some(server.port));
    let (experiment_id, run_id) = made_before(&server);
    assert_eq!(experiment_id, "1");
    // What the service sets for its jobs; the token has not long to last.
    let jwt = |ends: i64| {
        use base64::Engine as _;
        let claims = format!("{{\"exp\": {ends}}}");
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        format!("x.{claims}.x")
    };
    let now = tracking::now_ms() / 1000;
    for (token, renewed) in [(azure.token(), 0), (jwt(now - 10), 1)] {
        azure.state().requests.clear();
        if renewed > 0 {
            azure.take(&token);
        }
        let mut environment = azure.environment();
        for (name, value) in [
            ("MLFLOW_TRACKING_TOKEN", token.as_str()),
            ("MLFLOW_RUN_ID", &run_id),
            ("MLFLOW_EXPERIMENT_ID", &experiment_id),
            ("AZUREML_RUN_ID", &run_id),
        ] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        let environment: Environment = environment.into_iter().collect();
        let mut scene = Scene::new("http://unused");
        scene.connection =
            Connection::from_environment(&azure.tracking_uri(), &environment).expect("settings");
        scene.placement = Some(Placement::from_environment(None, &environment).expect("a run"));
        let mut run: Run = scene.run();
        run.log_metrics(&points(0..10)).expect("metrics");
        run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
        assert!(!run.is_behind());
        let found = server.client().run(&run_id).expect("there");
        assert_eq!((found.info.status.as_str(), found.info.end_time), ("RUNNING", None));
        let history = server.client().metric_history(&run_id, "Train_Loss_Step").expect("asked");
        assert!(history.len() >= 10);
        assert_eq!(azure.requests("runs/update").len(), 0);
        assert_eq!(azure.requests("/oauth2/").len(), 0, "no other identity is asked for");
        assert_eq!(azure.requests(&format!("/runs/{run_id}/token")).len(), renewed);
    }
}

#[test]
fn who_may_not_write_is_told_before_training() {
    let azure = Azure::start(None);
    let forbidden =
        serde_json::json!({ "error": { "code": "Forbidden", "message": "no access to w" } });
    azure.answer("experiments/get-by-name", &[Answer::Json(403, forbidden)]);
    let scene = scene(&azure, &[]);
    let error = tracking::check_server(&scene.connection, &scene.placement()).expect_err("no");
    let error = error.to_string();
    assert!(error.contains("403 Forbidden: no access to w"), "{error}");
    let shown = format!("{:?}", scene.connection);
    assert!(!shown.contains(super::service::CLIENT_SECRET), "{shown}");
}

#[test]
fn an_experiment_s_name_is_as_short_as_a_workspace_wants_it() {
    let azure = Azure::start(None);
    let mut scene = scene(&azure, &[]);
    scene.placement = Some(Placement::ExperimentName("x".repeat(257)));
    let refused = tracking::check_server(&scene.connection, &scene.placement());
    let refused = refused.expect_err("too long").to_string();
    assert!(refused.contains("257") && refused.contains("256"), "{refused}");
    assert!(azure.requests("/mlflow/").is_empty(), "nobody was asked");
}
