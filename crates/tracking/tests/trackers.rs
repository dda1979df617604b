//! What every tracker must do, shown on each one, and what a run feeds to its followers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tracking::{Error, FileStore, Metric, Run, RunInfo, RunRecord, Status, Tracker};

fn point(key: &str, value: f64, step: i64) -> Metric {
    Metric { key: key.to_owned(), value, timestamp_ms: 1000 + step, step }
}

fn pairs(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Both kinds of tracker, each of a new run below `place`.
fn both(place: &Path) -> Vec<(&'static str, Box<dyn Tracker>)> {
    let info = RunInfo::new("shared");
    let record = RunRecord::create(&place.join("run"), &info).expect("record");
    let store = FileStore::create(&place.join("store"), &info).expect("store");
    vec![("record", Box::new(record)), ("store", Box::new(store))]
}

/// Every file below a folder with its content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = std::fs::read(&path).expect("file");
            found.insert(path, bytes);
        }
    }
    found
}

#[test]
fn a_parameter_can_be_repeated_but_not_changed() {
    let place = tempfile::tempdir().expect("folder");
    for (name, mut tracker) in both(place.path()) {
        tracker.log_params(&pairs(&[("lr", "1"), ("long", &"x".repeat(7000))])).expect(name);
        tracker.log_params(&pairs(&[("lr", "1"), ("long", &"x".repeat(7000))])).expect(name);
        let error = tracker.log_params(&pairs(&[("lr", "2")])).expect_err(name).to_string();
        assert!(error.contains("\"lr\"") && error.contains("\"1\""), "{name}: {error}");
        tracker.set_tags(&pairs(&[("a", "1")])).expect(name);
        tracker.set_tags(&pairs(&[("a", "2")])).expect(name);
    }
}

#[test]
fn refused_names_are_told_and_leave_no_trace() {
    let place = tempfile::tempdir().expect("folder");
    let file = place.path().join("file");
    durable::write(&file, b"x").expect("write");
    for (name, mut tracker) in both(place.path()) {
        let before = content(place.path());
        for key in ["../x", "/x", "a//b", "a\0b", "%2e%2e/x", "", "a?"] {
            let good_then_bad = pairs(&[("good", "1"), (key, "1")]);
            tracker.log_params(&good_then_bad).expect_err(name);
            tracker.set_tags(&good_then_bad).expect_err(name);
            let metrics = [point("good", 1.0, 0), point(key, 1.0, 0)];
            let error = tracker.log_metrics(&metrics).expect_err(name);
            assert!(matches!(&error, Error::Name { name, .. } if name == key), "{error}");
        }
        for path in ["../x", "/x", "a/../../x", "a\0b", "%2e%2e"] {
            let error = tracker.log_artifact(&file, path).expect_err(name);
            assert!(matches!(&error, Error::Name { name, .. } if name == path), "{error}");
        }
        let early = Metric { timestamp_ms: -1, ..point("a", 1.0, 0) };
        assert!(matches!(tracker.log_metrics(&[early]), Err(Error::Timestamp { .. })));
        assert!(matches!(tracker.finish(Status::Running, 0), Err(Error::NotFinal)));
        assert_eq!(content(place.path()), before, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn links_lead_artifacts_neither_in_nor_out() {
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().expect("folder");
    let (secret, model) = (place.path().join("secret"), place.path().join("model"));
    durable::create_folder(&secret).expect("folder");
    durable::create_folder(&model).expect("folder");
    durable::write(&model.join("real"), b"x").expect("write");
    for (name, mut tracker) in both(place.path()) {
        tracker.log_artifact(&model, "model").expect(name);
        symlink(&secret, model.join("link")).expect("link");
        assert!(matches!(tracker.log_artifact(&model, "model"), Err(Error::Link(_))), "{name}");
        std::fs::remove_file(model.join("link")).expect("remove");
    }
    // A link planted among the artifacts themselves.
    symlink(&secret, place.path().join("run/artifacts/out")).expect("link");
    let mut record = RunRecord::open(&place.path().join("run")).expect("record");
    let refused = record.log_artifact(&model.join("real"), "out");
    assert!(matches!(refused, Err(Error::Link(_))));
    assert!(content(&secret).is_empty());
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let place = tempfile::tempdir().expect("folder");
    let info = RunInfo { start_time_ms: 5, ..RunInfo::new("resume") };
    let start = |name: &str| {
        let folder = place.path().join(name);
        let store = folder.join("store");
        let record = RunRecord::create(&folder, &info).expect("record");
        let mut run = Run::new(record);
        let store = FileStore::create(&store, &info).expect("store");
        let run_folder = store.folder().to_path_buf();
        run.follow("store", Box::new(store)).expect("follows");
        (run, folder, run_folder)
    };
    let log = |run: &mut Run, steps: std::ops::Range<i64>| {
        for step in steps {
            run.log_metrics(&[point("loss", 1.0 / step as f64, step), point("lr", 0.1, step)])
                .expect("metrics");
        }
    };
    let (mut whole, whole_folder, whole_store) = start("whole");
    log(&mut whole, 0..20);
    whole.finish(Status::Finished, 99).expect("finish");

    let (mut cut, cut_folder, cut_store) = start("cut");
    log(&mut cut, 0..10);
    cut.sync().expect("sync");
    let position = cut.record().position();
    log(&mut cut, 10..13);
    cut.log_metrics(&[point("only/now", 1.0, 13)]).expect("metrics");
    drop(cut);
    // Killed in the middle of a line.
    append(&cut_folder.join("metrics.jsonl"), b"{\"key\":\"lo");
    append(&cut_store.join("metrics/loss"), b"1013 0.");
    durable::write(&cut_store.join("metrics/.tmp-aB3xY9"), b"").expect("write");

    let mut cut = Run::new(RunRecord::open(&cut_folder).expect("opens"));
    assert_eq!(cut.record().status(), Status::Running);
    let store = FileStore::open(&cut_folder.join("store"), &info.run_id).expect("opens");
    cut.follow("store", Box::new(store)).expect("follows");
    cut.rewind_to(position).expect("rewinds");
    log(&mut cut, 10..20);
    cut.finish(Status::Finished, 99).expect("finish");

    for file in ["metrics.jsonl", "run.json"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).expect(file);
        assert_eq!(read(&cut_folder), read(&whole_folder), "{file}");
    }
    let metrics = |run: &Path| {
        let folder = run.join("metrics");
        content(&folder)
            .into_iter()
            .map(|(path, text)| (path.strip_prefix(&folder).expect("below").to_owned(), text))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(metrics(&cut_store), metrics(&whole_store));
}

#[test]
fn a_record_cut_at_any_byte_opens_with_its_whole_lines() {
    let place = tempfile::tempdir().expect("folder");
    let folder = place.path().join("run");
    let mut record = RunRecord::create(&folder, &RunInfo::new("torn")).expect("record");
    let history = [point("a", f64::NAN, 0), point("b", f64::NEG_INFINITY, 1), point("c", 0.1, 2)];
    record.log_metrics(&history).expect("metrics");
    drop(record);
    let path = folder.join("metrics.jsonl");
    let bytes = std::fs::read(&path).expect("file");
    let text = String::from_utf8(bytes.clone()).expect("UTF-8");
    assert_eq!(text.lines().next(), Some(r#"{"key":"a","value":"NaN","step":0,"timestamp":1000}"#));
    for end in 0..=bytes.len() {
        write_unsynced(&path, &bytes[..end]);
        let mut record = RunRecord::open(&folder).expect("opens");
        let whole = bytes[..end].iter().filter(|&&b| b == b'\n').count();
        assert_eq!(record.position(), whole as u64);
        assert_eq!(std::fs::read(&path).expect("file").len(), end, "opening changes nothing");
        record.log_metrics(&[point("d", 4.0, 4)]).expect("metrics");
        let mut expected = history[..whole].to_vec();
        expected.push(point("d", 4.0, 4));
        assert_eq!(record.history().expect("reads"), expected);
    }
    // Damage that no crash explains is not passed over.
    durable::write(&path, &[b"garbage\n", bytes.as_slice()].concat()).expect("write");
    assert!(matches!(RunRecord::open(&folder), Err(Error::Damaged { line: Some(1), .. })));
}

#[test]
fn a_rewind_beyond_the_end_and_a_second_run_are_refused() {
    let place = tempfile::tempdir().expect("folder");
    let (folder, store) = (place.path().join("run"), place.path().join("store"));
    let info = RunInfo::new("twice");
    let mut record = RunRecord::create(&folder, &info).expect("record");
    FileStore::create(&store, &info).expect("store");
    let refused = record.rewind_to(1);
    assert!(matches!(refused, Err(Error::Position { position: 1, points: 0, .. })));
    assert!(matches!(RunRecord::create(&folder, &info), Err(Error::RunExists(_))));
    assert!(matches!(FileStore::create(&store, &info), Err(Error::RunExists(_))));
    let missing = "0".repeat(32);
    assert!(matches!(FileStore::open(&store, &missing), Err(Error::NoRun { .. })));
    assert!(matches!(FileStore::open(&store, "../x"), Err(Error::RunId(_))));
}

#[test]
fn files_of_the_run_folder_are_named_and_others_copied() {
    let place = tempfile::tempdir().expect("folder");
    let folder = place.path().join("run");
    let mut record = RunRecord::create(&folder, &RunInfo::new("files")).expect("record");
    let (inside, outside) = (folder.join("best"), place.path().join("config.toml"));
    durable::create_folder(&inside).expect("folder");
    durable::write(&inside.join("adapter.bin"), b"a").expect("write");
    durable::write(&outside, b"c").expect("write");
    record.log_artifact(&inside, "model").expect("artifact");
    record.log_artifact(&outside, "").expect("artifact");
    let record = RunRecord::open(&folder).expect("opens");
    assert_eq!(
        record.artifacts().collect::<Vec<_>>(),
        [
            ("config.toml", folder.join("artifacts/config.toml")),
            ("model/adapter.bin", inside.join("adapter.bin")),
        ]
    );
    assert!(!folder.join("artifacts/model").exists());
}

#[test]
fn a_failing_follower_neither_stops_the_run_nor_stays_behind() {
    let place = tempfile::tempdir().expect("folder");
    let (folder, root) = (place.path().join("run"), place.path().join("store"));
    let info = RunInfo::new("outage");
    let mut run = Run::new(RunRecord::create(&folder, &info).expect("record"));
    let store = FileStore::create(&root, &info).expect("store");
    let metrics = store.folder().join("metrics");
    run.follow("store", Box::new(store)).expect("follows");

    // A file where the folder of metrics should be: nothing can be written.
    std::fs::remove_dir(&metrics).expect("remove");
    durable::write(&metrics, b"in the way").expect("write");
    run.log_metrics(&[point("loss", 1.0, 1)]).expect("the run goes on");
    run.log_params(&pairs(&[("lr", "1")])).expect("the run goes on");
    run.sync().expect("the run goes on");
    std::fs::remove_file(&metrics).expect("remove");
    durable::create_folder(&metrics).expect("folder");
    run.log_metrics(&[point("loss", 0.5, 2)]).expect("metrics");
    run.finish(Status::Finished, 9).expect("finish");

    let lines = std::fs::read_to_string(metrics.join("loss")).expect("caught up");
    assert_eq!(lines, "1001 1.0 1\n1002 0.5 2\n");
    assert!(metrics.with_file_name("params").join("lr").exists());
}

#[expect(clippy::disallowed_methods, reason = "hundreds of files nobody needs on disk")]
fn write_unsynced(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("write");
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(bytes).expect("append");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_value_is_read_back_to_the_bit(values in prop::collection::vec(any::<u64>(), 1..20)) {
        let place = tempfile::tempdir().expect("folder");
        let mut record = RunRecord::create(place.path(), &RunInfo::new("bits")).expect("record");
        let history: Vec<_> =
            (0..).zip(&values).map(|(n, &bits)| point("v", f64::from_bits(bits), n)).collect();
        record.log_metrics(&history).expect("metrics");
        prop_assert_eq!(record.history().expect("reads"), history);
    }
}
