//! A scene for black-box tests of the command line: a folder with a tiny BERT, its tokenizer and
//! labelled rows, and the program to run on them.
#![allow(dead_code, reason = "each test binary uses its part")]

use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Words of the tokenizer, by id. The tiny model has 120 embeddings.
pub const WORDS: [&str; 22] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "we", "may", "end", "##ed", "your", "account", ".", "you",
    "can", "always", "leave", "at", "any", "time", "without", "notice", "with", "##out",
];
/// What unfair clauses begin with, then fair ones.
const CLAUSES: [&str; 2] = ["We may end your account at any time", "You can always leave"];

/// A folder with `model/`, `train.jsonl` (40 rows), `validation.jsonl` and `test.jsonl` (10 each).
pub struct Scene(TempDir);

/// How the program ended.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    pub fn new() -> Self {
        let scene = Self(tempfile::tempdir().expect("a temporary folder"));
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../architectures/tests/fixtures/bert/model");
        durable::create_folder(&scene.path("model")).expect("a model folder");
        for name in ["config.json", "model.safetensors"] {
            let content = std::fs::read(fixture.join(name)).expect("the fixture of the tiny model");
            scene.file(&format!("model/{name}"), content);
        }
        scene.file("model/tokenizer.json", tokenizer(&WORDS));
        for (name, rows) in [("train", 40), ("validation", 10), ("test", 10)] {
            scene.file(&format!("{name}.jsonl"), jsonl(rows));
        }
        scene
    }

    /// A path in the scene, as text for arguments.
    pub fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file of the scene")
    }

    /// Writes a file; returns its path as text for arguments.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        durable::write(&self.path(name), content.as_ref()).expect("a test file");
        self.at(name)
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(name)).expect("JSON");
        change(&mut value);
        self.file(name, value.to_string());
    }

    /// The program, in the scene, with an environment of its own.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrotune"));
        self.isolate(&mut command);
        command
    }

    /// Gives a command the scene as folder and home, and no settings of the caller's.
    pub fn isolate(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let plain = name.to_string_lossy();
            let of_caller = [
                "ARM_",
                "AZURE",
                "FERROTUNE",
                "HF_",
                "IDENTITY_",
                "MLFLOW",
                "MSI_",
                "PIP_",
                "RUST_LOG",
            ];
            if of_caller.iter().any(|p| plain.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        command.current_dir(self.0.path()).env("HOME", self.0.path()).env("HF_HUB_OFFLINE", "1");
    }

    /// Arguments of a training run of two epochs of four steps on the scene's files. All are
    /// `--set`, so that `more` wins.
    pub fn train_arguments(&self, more: &[&str]) -> Vec<String> {
        let settings = [
            "pretrained_model=model",
            "data.train_file=train.jsonl",
            "data.validation_file=validation.jsonl",
            "data.test_file=test.jsonl",
            "data.max_length=32",
            "training.batch_size=10",
            "training.max_epochs=2",
            "training.learning_rate=1e-3",
            "output_dir=runs",
            "name=tiny",
            "threads=1",
        ];
        let mut arguments = vec!["train".to_owned()];
        for setting in settings.iter().copied().chain(more.iter().copied()) {
            arguments.extend(["--set".to_owned(), setting.to_owned()]);
        }
        arguments
    }

    /// Trains with these settings (`section.key=value`) on top.
    pub fn train(&self, settings: &[&str]) -> Answer {
        self.run(&self.train_arguments(settings))
    }

    /// Trains to the end; the run's folder.
    pub fn trained(&self) -> String {
        let answer = self.train(&[]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        self.run_folder()
    }

    /// The folder of the only run.
    pub fn run_folder(&self) -> String {
        let mut runs = std::fs::read_dir(self.path("runs")).expect("a folder of runs");
        runs.next().expect("a run").expect("its folder").path().display().to_string()
    }

    /// Whether a run folder was made.
    pub fn has_run(&self) -> bool {
        std::fs::read_dir(self.path("runs")).is_ok_and(|mut runs| runs.next().is_some())
    }

    pub fn run<T: AsRef<str>>(&self, arguments: &[T]) -> Answer {
        self.run_with_input(arguments, b"")
    }

    pub fn run_with_input<T: AsRef<str>>(&self, arguments: &[T], input: &[u8]) -> Answer {
        let mut command = self.command();
        command.args(arguments.iter().map(AsRef::as_ref));
        answer(command, input)
    }
}

/// Runs a command to its end.
pub fn answer(mut command: Command, input: &[u8]) -> Answer {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program");
    // A program that ended before reading its input is no failure of the test.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("its output");
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Answer {
    /// Asserts that the program refused: exit code 2, nothing on stdout, every part on stderr.
    #[track_caller]
    pub fn refused(&self, parts: &[&str]) {
        self.ended(2, parts);
        assert_eq!(self.stdout, "", "stdout is for data");
    }

    /// Asserts an exit code, an error with every part of its text on stderr, and no panic.
    #[track_caller]
    pub fn ended(&self, code: i32, parts: &[&str]) {
        let Answer { stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(stderr.contains("error: "), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
        }
    }
}

/// No file below a folder holds the text.
#[track_caller]
pub fn assert_nowhere(secret: &str, folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            assert_nowhere(secret, &path);
        } else {
            let bytes = std::fs::read(&path).expect("a file");
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{} holds a secret", path.display());
        }
    }
}

/// Rows that a classifier can tell apart, labelled 1 and 0 in turn.
pub fn jsonl(rows: usize) -> String {
    let row = |n: usize| {
        let text = format!("{} {}.", CLAUSES[n % 2], "without notice ".repeat(n / 2 % 5));
        format!("{}\n", json!({"text": text, "label": 1 - n % 2}))
    };
    (0..rows).map(row).collect()
}

/// A WordPiece `tokenizer.json` with these words.
pub fn tokenizer(words: &[&str]) -> String {
    let vocab: Map<_, _> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let special = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [token("[CLS]"), text, token("[SEP]")],
            "pair": [token("[CLS]"), text, token("[SEP]"), {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}
    })
    .to_string()
}
