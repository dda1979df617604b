//! A run that is killed, interrupted or given other threads ends with the bits of one that is not.

mod common;

use common::Scene;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Enough steps to be killed among, few enough to be run often.
const SETTINGS: [&str; 4] = [
    "training.batch_size=4",
    "training.max_epochs=12",
    "training.learning_rate=3e-3",
    "early_stopping.patience=0",
];

/// What must be equal: the weights of both models, and the history without its clock.
#[derive(Debug, PartialEq)]
struct Outcome {
    weights: [Vec<u8>; 2],
    metrics: Vec<String>,
}

/// Runs of one scene, each in a folder of its own.
struct Runs(Scene);

impl Runs {
    fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let output = format!("output_dir={name}");
        let settings: Vec<&str> =
            SETTINGS.iter().chain(more).copied().chain([output.as_str()]).collect();
        self.0.train_arguments(&settings)
    }

    fn start(&self, arguments: &[String]) -> Child {
        let mut command = self.0.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program")
    }

    /// The only run in the folder `name`, once there is one.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let mut runs = std::fs::read_dir(self.0.path(name)).ok()?;
        runs.next().map(|run| run.expect("a folder").path())
    }

    fn resume_arguments(&self, name: &str) -> Vec<String> {
        let run = self.folder(name).expect("a run");
        ["train", "--resume", &run.display().to_string()].map(str::to_owned).into()
    }

    fn outcome(&self, name: &str) -> Outcome {
        let run = self.folder(name).expect("a run");
        let read = |file: &str| std::fs::read(run.join(file)).expect("a file of the run");
        let history = String::from_utf8(read("metrics.jsonl")).expect("text");
        let without_clock = |line: &str| {
            let mut point: Value = serde_json::from_str(line).expect("a metric point");
            point["timestamp"] = Value::Null;
            point.to_string()
        };
        let file = ["adapter_model.safetensors", "model.safetensors"]
            .into_iter()
            .find(|file| run.join("last").join(file).is_file())
            .expect("weights");
        Outcome {
            weights: ["last", "best"].map(|model| read(&format!("{model}/{file}"))),
            metrics: history.lines().map(without_clock).collect(),
        }
    }

    fn whole(&self, name: &str, more: &[&str]) -> Outcome {
        let answer = self.0.run(&self.arguments(name, more));
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        self.outcome(name)
    }

    fn resumed(&self, name: &str) -> Outcome {
        let answer = self.0.run(&self.resume_arguments(name));
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        self.outcome(name)
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let runs = Runs(Scene::new());
    let one = runs.whole("one", &["threads=1"]);
    assert_eq!(one, runs.whole("two", &["threads=2"]));
    assert!(one.metrics.len() > 3 * 10 * 12, "every step is recorded");
}

#[test]
fn twenty_kills_leave_the_same_bits() {
    let runs = Runs(Scene::new());
    let started = Instant::now();
    let uninterrupted = runs.whole("whole", &[]);
    let takes = started.elapsed().as_micros() as u64;

    let mut random = 0x2545_F491_4F6C_DD1Du64;
    let (mut kills, mut attempt) = (0, 0);
    while kills < 20 {
        attempt += 1;
        assert!(attempt < 100, "only {kills} of {attempt} runs could be killed");
        let name = format!("killed-{attempt}");
        let mut child = runs.start(&runs.arguments(&name, &[]));
        for _ in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(Duration::from_micros(random % takes));
            child.kill().expect("a signal");
            let ended = child.wait().expect("a child").success();
            let resumable = runs.folder(&name).is_some_and(|run| run.join("config.toml").is_file());
            if ended || !resumable {
                break;
            }
            kills += 1;
            child = runs.start(&runs.resume_arguments(&name));
        }
        child.kill().expect("a signal");
        child.wait().expect("a child");
        if runs.folder(&name).is_some_and(|run| run.join("config.toml").is_file()) {
            assert_eq!(uninterrupted, runs.resumed(&name), "after {kills} kills");
        }
    }
}

#[cfg(unix)]
#[test]
fn signals_checkpoint_in_the_middle_of_an_epoch() {
    let runs = Runs(Scene::new());
    // Long epochs, so that a signal lands inside one.
    let lora = ["training.batch_size=1", "training.max_epochs=40"];
    let full = [
        "method=full",
        "training.batch_size=2",
        "training.gradient_accumulation_steps=2",
        "training.tokens_per_micro_batch=24",
        "training.max_epochs=40",
    ];
    for (signal, settings) in [("INT", &lora[..]), ("TERM", &full[..])] {
        let uninterrupted = runs.whole(&format!("whole-{signal}"), settings);
        let mut child = runs.start(&runs.arguments(signal, settings));
        let waiting = Instant::now();
        while runs.folder(signal).is_none_or(|run| !run.join("last").is_dir()) {
            assert!(waiting.elapsed() < Duration::from_secs(60), "no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut kill = Command::new("kill");
        let sent = kill.arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
        assert_eq!(child.wait().expect("a child").code(), Some(130), "SIG{signal}");
        let run = runs.folder(signal).expect("a run");
        let record = std::fs::read_to_string(run.join("run.json")).expect("a record");
        assert!(record.contains("KILLED"), "{record}");
        assert_eq!(uninterrupted, runs.resumed(signal), "SIG{signal}");
    }
}

#[cfg(unix)]
#[test]
fn signals_end_a_long_validation_or_test() {
    let runs = Runs(Scene::new());
    for (long, epochs) in [("validation", "2"), ("test", "1")] {
        runs.0.file("long.jsonl", common::jsonl(6000));
        let settings =
            [format!("data.{long}_file=long.jsonl"), format!("training.max_epochs={epochs}")];
        let settings = settings.each_ref().map(String::as_str);
        let uninterrupted = runs.whole(&format!("whole-{long}"), &settings);
        let mut child = runs.start(&runs.arguments(long, &settings));
        let waiting = Instant::now();
        while runs.folder(long).is_none_or(|run| !run.join("last").is_dir()) {
            assert!(waiting.elapsed() < Duration::from_secs(60), "no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut kill = Command::new("kill");
        let sent = kill.arg("-INT").arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
        assert_eq!(child.wait().expect("a child").code(), Some(130), "in the {long}");
        let run = runs.folder(long).expect("a run");
        let record = std::fs::read_to_string(run.join("run.json")).expect("a record");
        assert!(record.contains("KILLED"), "{record}");
        assert_eq!(uninterrupted, runs.resumed(long), "in the {long}");
    }
}
