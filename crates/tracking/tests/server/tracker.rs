//! Runs sent to real servers in the background: what arrives, whatever goes wrong on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tracking::{
    Connection, Error, Metric, NewLoggedModel, NewModelVersion, NewRun, Pair, Placement, Retry,
    Run, RunRecord, Server, Status, Tracker,
};

use crate::proxy::{Proxy, Trouble};
use crate::real::{self, Version};
use crate::scene::{
    PATIENCE, Scene, assert_one_model, assert_read, log_all, model, points, registered,
};

#[test]
fn a_run_arrives_whole_on_mlflow_3() {
    let Some(mut server) = real::Server::start(Version::Three, &[]) else { return };
    arrives_whole(&server);
    goes_on_when_resumed(&server);
    deleted_and_refused(&server);
    server_dies(&mut server);
}

#[test]
fn a_run_arrives_whole_on_mlflow_2() {
    let Some(server) = real::Server::start(Version::Two, &[]) else { return };
    arrives_whole(&server);
    goes_on_when_resumed(&server);
}

fn arrives_whole(server: &real::Server) {
    let scene = Scene::new(&server.uri());
    let mut run = scene.run();
    log_all(&mut run, scene.place.path(), 1200);
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(!run.is_behind());
    let runs = scene.runs(&server.client());
    assert_eq!(runs.len(), 1);
    assert_read(&server.read(&runs[0]), run.record());
    let registered = registered(&scene.info);
    let model = format!("models:/{registered}@champion");
    assert_eq!(server.predict(&model, "you may leave"), json!(["fair: you may leave"]));
    // Nothing is left to do, and doing it changes nothing.
    let synced = scene.sync(false).expect("equal");
    assert_eq!((synced.run_id, synced.points), (runs[0].clone(), 2400));
    // Nor does it when everything is sent again.
    std::fs::remove_file(scene.folder().join("server.json")).expect("there");
    assert_eq!(scene.sync(false).expect("equal").run_id, runs[0]);
    assert_one_model(&scene, &server.client(), &runs[0]);
}

/// Killed after it sent more than the last checkpoint holds, then resumed.
fn goes_on_when_resumed(server: &real::Server) {
    let scene = Scene::new(&server.uri());
    let mut run = scene.run();
    run.log_metrics(&points(0..10)).expect("metrics");
    run.sync().expect("checkpoint");
    let position = run.record().position();
    run.log_metrics(&points(10..20)).expect("metrics");
    let of_machine = Metric { key: "system/x".to_owned(), ..points(0..1)[0].clone() };
    run.log_metrics(&[of_machine]).expect("metrics");
    let client = server.client();
    let start = Instant::now();
    let arrived = || {
        let runs = scene.runs(&client);
        let history = |id: &String| client.metric_history(id, "Train_Loss_Step").expect("asked");
        runs.first().map_or(0, |id| history(id).len())
    };
    while arrived() < 20 {
        assert!(start.elapsed() < PATIENCE, "live points do not arrive");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(run);

    let mut run = scene.run();
    run.rewind_to(position).expect("rewinds");
    let later = |steps| -> Vec<Metric> {
        points(steps).into_iter().map(|m| Metric { timestamp_ms: 1_800_000_000_000, ..m }).collect()
    };
    run.log_metrics(&later(10..30)).expect("metrics");
    run.finish(Status::Finished, 1_800_000_000_001).expect("finishes");
    assert!(!run.is_behind(), "the points were measured when they were measured first");
    let runs = scene.runs(&client);
    assert_eq!(runs.len(), 1, "the same run");
    assert_eq!(scene.sync(false).expect("equal").points, 61, "the machine's is not taken back");
    assert_eq!(client.run(&runs[0]).expect("found").info.status, "FINISHED");

    // Resumed once more, it computes something else: what was sent cannot be taken back.
    let mut run = scene.run();
    run.rewind_to(position).expect("rewinds");
    assert_eq!(client.run(&runs[0]).expect("found").info.run_id, runs[0]);
    let other: Vec<_> =
        later(10..30).into_iter().map(|m| Metric { value: m.value + 0.5, ..m }).collect();
    run.log_metrics(&other).expect("metrics");
    run.finish(Status::Finished, 1_800_000_000_002).expect("finishes");
    assert!(run.is_behind());
    let differs = scene.sync(false).expect_err("points too many");
    let Error::Differs { missing: 0, extra: 40, .. } = differs else { panic!("{differs}") };
    let synced = scene.sync(true).expect("equal");
    assert_eq!(scene.runs(&client), std::slice::from_ref(&synced.run_id));
    assert_ne!(synced.run_id, runs[0]);
    assert_eq!(scene.sync(false).expect("equal"), synced);
}

fn deleted_and_refused(server: &real::Server) {
    let client = server.client();
    let scene = Scene::new(&server.uri());
    let mut run = scene.run();
    run.log_metrics(&points(0..3)).expect("metrics");
    run.finish(Status::Failed, 1_700_000_009_000).expect("finishes");
    let first = scene.runs(&client);
    client.delete_run(&first[0]).expect("deleted");
    let synced = scene.sync(false).expect("sent as a new run");
    assert_ne!(synced.run_id, first[0]);
    assert_eq!(client.run(&synced.run_id).expect("found").info.status, "FAILED");

    // Experiments that are not there, and one that is taken.
    let fails = |placement: &Placement| {
        let folder = tempfile::tempdir().expect("folder");
        RunRecord::create(folder.path(), &scene.info).expect("record");
        Server::start(folder.path(), &scene.connection, placement, PATIENCE).err()
    };
    let error = fails(&Placement::ExperimentId("4711".to_owned())).expect("no such experiment");
    assert!(error.to_string().contains("4711"), "{error}");
    let name = Placement::ExperimentName("deleted".to_owned());
    let id = client.create_experiment("deleted").expect("created");
    assert!(fails(&name).is_none());
    crate::client::delete_experiment(&server.uri(), &id);
    let error = fails(&name).expect("deleted");
    assert!(error.to_string().contains("\"deleted\" is deleted on http"), "{error}");
    // A path at which there is no MLflow.
    let elsewhere = Connection::new(&format!("{}/nowhere", server.uri())).expect("an address");
    let error = Server::start(&scene.folder(), &elsewhere, &name, PATIENCE).err();
    assert!(matches!(error, Some(Error::Refused { status: 404, .. })), "{error:?}");
}

/// Down at the start, up, killed in the middle, up again after the end.
fn server_dies(server: &mut real::Server) {
    let scene = Scene::new(&server.uri());
    server.kill();
    RunRecord::create(&scene.folder(), &scene.info).expect("record");
    let mut run = Run::new(RunRecord::open(&scene.folder()).expect("opens"));
    let followed = scene.server(Duration::from_secs(1)).expect("starts all the same");
    run.follow("server", Box::new(followed)).expect("follows");
    let longest = |run: &mut Run, steps: std::ops::Range<i64>| {
        let longest = steps.map(|step| {
            let start = Instant::now();
            run.log_metrics(&points(step..step + 1)).expect("metrics");
            start.elapsed()
        });
        assert!(longest.max() < Some(Duration::from_secs(1)), "training waits for nothing");
    };
    longest(&mut run, 0..50);
    server.restart();
    let client = server.client();
    let start = Instant::now();
    while client.experiment_by_name(&scene.info.experiment_name).expect("asked").is_none() {
        assert!(start.elapsed() < PATIENCE, "it is not tried again");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill();
    longest(&mut run, 50..100);
    let start = Instant::now();
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(run.is_behind() && start.elapsed() < Duration::from_secs(10));
    server.restart();
    assert_eq!(scene.sync(false).expect("caught up").points, 200);
    assert_eq!(scene.runs(&client).len(), 1);
}

pub const TROUBLES: [Trouble; 12] = [
    Trouble::Answer("HTTP/1.1 500 Oh\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
    Trouble::Answer("HTTP/1.1 503 Down\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy"),
    Trouble::Answer(
        "HTTP/1.1 429 Slow\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    ),
    Trouble::Answer("HTTP/1.1 401 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
    Trouble::Answer(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n<html>login!",
    ),
    Trouble::Answer(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 99\r\n\r\n{\"experiment\":",
    ),
    Trouble::Reset,
    Trouble::Lost,
    Trouble::Half,
    Trouble::Cut,
    Trouble::Stall,
    Trouble::Hang,
];

#[test]
fn every_trouble_with_every_call_leaves_equal_histories() {
    let Some(server) = &real::Server::start(Version::Three, &[]) else { return };
    std::thread::scope(|threads| {
        for trouble in TROUBLES {
            threads.spawn(move || trouble_with_every_call(server, trouble));
        }
        threads.spawn(|| created_late(server));
    });
}

#[test]
fn lost_answers_of_mlflow_2_leave_equal_histories() {
    let Some(server) = real::Server::start(Version::Two, &[]) else { return };
    trouble_with_every_call(&server, Trouble::Lost);
    created_late(&server);
}

/// The requests that create the run, its model and a version of that get no answer, and are carried out when
/// other ones were.
fn created_late(server: &real::Server) {
    let proxy = Proxy::before(server.port);
    let mut scene = Scene::new(&proxy.uri());
    scene.connection.timeout = Duration::from_secs(2);
    proxy.make(Trouble::Hang);
    let mut run = scene.run();
    run.log_metrics(&points(0..3)).expect("metrics");
    let client = server.client();
    let start = Instant::now();
    let created = || match client.experiment_by_name(&scene.info.experiment_name) {
        Ok(Some(_)) => scene.runs(&client),
        _ => Vec::new(),
    };
    while created().is_empty() {
        assert!(start.elapsed() < PATIENCE, "no run is created");
        std::thread::sleep(Duration::from_millis(100));
    }
    let found = client.experiment_by_name(&scene.info.experiment_name).expect("asked");
    let experiment_id = found.expect("there").experiment_id;
    let late = NewRun {
        experiment_id: &experiment_id,
        user_id: &scene.info.user,
        run_name: &scene.info.run_name,
        start_time: scene.info.start_time_ms,
        tags: vec![Pair::new("ferrotune.run_id", &scene.info.run_id)],
    };
    client.create_run(&late).expect("created");
    assert_eq!(created().len(), 2);

    run.log_model(&model(scene.place.path(), &scene.info)).expect("model");
    let versions = || {
        let runs = created();
        let of_run = |id: &String| client.versions_of(id).expect("asked");
        runs.iter().flat_map(of_run).collect::<Vec<_>>()
    };
    while versions().is_empty() {
        assert!(start.elapsed() < PATIENCE, "no version is created");
        std::thread::sleep(Duration::from_millis(100));
    }
    let first = versions().remove(0);
    let ours = || vec![Pair::new("ferrotune.run_id", &scene.info.run_id)];
    let run_id = created().into_iter().find(|id| client.versions_of(id).expect("asked").len() == 1);
    let run_id = run_id.expect("the run of the version");
    let model_id = first.source.strip_prefix("models:/");
    // The second is what somebody makes of it, and the third somebody uses: they stay.
    for tags in [ours(), Vec::new(), ours()] {
        let (name, source) = (first.name.as_str(), first.source.as_str());
        let late = NewModelVersion { name, source, run_id: &run_id, model_id, tags };
        client.create_model_version(&late).expect("created");
    }
    client.set_alias(&first.name, "shadow", "4").expect("set");
    if model_id.is_some() {
        for tags in [ours(), Vec::new()] {
            let late = NewLoggedModel {
                experiment_id: &experiment_id,
                name: "model",
                source_run_id: &run_id,
                params: Vec::new(),
                tags,
            };
            client.create_logged_model(&late).expect("created");
        }
    }
    // A server that does not let us delete has all of the run nevertheless.
    let refused = "HTTP/1.1 405 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    proxy.make_with("DELETE", Trouble::Answer(refused));
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(!run.is_behind());
    assert_eq!(client.run(&run_id).expect("there").info.status, "FINISHED");
    assert_eq!((versions().len(), proxy.calm().len()), (4, 1));
    let synced = scene.sync(false).expect("equal");
    assert_eq!((created(), synced.points), (vec![run_id.clone()], 6));
    let versions = versions();
    let left: BTreeSet<_> = versions.iter().map(|version| version.version.as_str()).collect();
    assert_eq!(left, BTreeSet::from(["1", "3", "4"]));
    if model_id.is_some() {
        assert_eq!(client.logged_models_of(&experiment_id, &run_id).expect("asked").len(), 2);
    }
}

fn trouble_with_every_call(server: &real::Server, trouble: Trouble) {
    let proxy = Proxy::before(server.port);
    let mut scene = Scene::new(&proxy.uri());
    let silent = matches!(trouble, Trouble::Stall | Trouble::Hang);
    scene.connection.timeout = Duration::from_secs(if silent { 2 } else { 60 });
    scene.connection.retry = Retry { backoff_factor: 0.2, ..scene.connection.retry };
    // Credentials that are refused at the start are an error; later they are a trouble like others.
    let late = matches!(trouble, Trouble::Answer(text) if text.contains(" 401 "));
    if !late {
        proxy.make(trouble);
    }
    let mut run = scene.run();
    if late {
        proxy.make(trouble);
    }
    let start = Instant::now();
    log_all(&mut run, scene.place.path(), 10);
    assert!(start.elapsed() < Duration::from_secs(5), "{trouble:?}");
    run.finish(Status::Finished, 1_700_000_009_000).expect("finishes");
    assert!(!run.is_behind(), "{trouble:?}, after {:?}", proxy.calm());
    drop(run);
    let hit = proxy.calm();
    let synced = scene.sync(false).expect("equal");
    assert_eq!(synced.points, 20, "{trouble:?}");
    let client = server.client();
    assert_eq!(scene.runs(&client), std::slice::from_ref(&synced.run_id), "{trouble:?}");
    let found = client.run(&synced.run_id).expect("found");
    assert_eq!(found.info.status, "FINISHED", "{trouble:?}");
    assert_eq!(found.data.params.len(), 121, "{trouble:?}");
    assert_eq!(found.inputs.datasets.len(), 1, "{trouble:?}");
    assert_eq!(client.artifacts(&synced.run_id, "best").expect("listed").len(), 1);
    assert_one_model(&scene, &client, &synced.run_id);
    let of_3 = ["POST runs/outputs", "PATCH logged-models"];
    let of_2 = ["POST runs/log-model", "GET runs/get"];
    let of_both = [
        "POST runs/search",
        "POST runs/create",
        "POST runs/log-batch",
        "POST runs/log-inputs",
        "POST runs/update",
        "POST logged-models/search",
        "POST registered-models/create",
        "GET model-versions/search",
        "POST model-versions/create",
        "POST registered-models/alias",
    ];
    let generation = if server.version() == Version::Three { of_3 } else { of_2 };
    for call in of_both.into_iter().chain(generation) {
        assert!(hit.contains(call), "{trouble:?}: {call} in {hit:?}");
    }
    assert!(hit.iter().any(|call| call.starts_with("PUT mlflow-artifacts")), "{hit:?}");
    assert!(late || hit.contains("GET experiments/get-by-name"), "{hit:?}");
    assert!(late || hit.contains("POST experiments/create"), "{hit:?}");
}
