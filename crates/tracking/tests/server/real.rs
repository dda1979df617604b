//! Real MLflow servers, one process each, and MLflow's own client to read back what they hold.
//!
//! `FERROTUNE_MLFLOW_PYTHON` and `FERROTUNE_MLFLOW_2_PYTHON` name Pythons with the packages of
//! `tests/requirements-3.txt` and `tests/requirements-2.txt`; a test without them says that it is
//! skipped. The tests of the command line use this file as well.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tracking::{Client, Connection, Retry};

/// A generation of MLflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Two,
    Three,
}

impl Version {
    fn python(self) -> Option<OsString> {
        let name = match self {
            Self::Two => "FERROTUNE_MLFLOW_2_PYTHON",
            Self::Three => "FERROTUNE_MLFLOW_PYTHON",
        };
        let python = std::env::var_os(name);
        if python.is_none() {
            eprintln!("skipped: {name} names no Python with MLflow {self:?}");
        }
        python
    }
}

/// A running server, which ends with this value, or with this process.
pub struct Server {
    version: Version,
    python: OsString,
    folder: tempfile::TempDir,
    options: Vec<&'static str>,
    process: Option<(Child, ChildStdin)>,
    pub port: u16,
}

impl Server {
    /// A server with an empty store; none if there is no Python for it.
    pub fn start(version: Version, options: &[&'static str]) -> Option<Self> {
        let python = version.python()?;
        let folder = tempfile::tempdir().expect("folder");
        let options = options.to_vec();
        let mut server = Self { version, python, folder, options, process: None, port: 0 };
        server.restart();
        Some(server)
    }

    /// Starts it again on its port and its store.
    pub fn restart(&mut self) {
        self.kill();
        let mut process = Command::new(&self.python)
            .arg(tests().join("server/serve.py"))
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let stdin = process.stdin.take().expect("piped");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("reads");
        self.process = Some((process, stdin));
        self.port = line.trim().parse().expect("the server announces its port");
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(&mut self) {
        if let Some((mut process, _)) = self.process.take() {
            process.kill().expect("kills");
            process.wait().expect("ends");
        }
    }

    pub fn uri(&self) -> String {
        let tls = self.options.iter().any(|option| ["tls", "client-cert"].contains(option));
        format!("http{}://127.0.0.1:{}", if tls { "s" } else { "" }, self.port)
    }

    /// Where it keeps everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn client(&self) -> Client {
        Client::new(&connection(&self.uri())).expect("client")
    }

    /// What MLflow's own client reads of a run.
    pub fn read(&self, run_id: &str) -> Value {
        let output = Command::new(&self.python)
            .arg(tests().join("read_with_mlflow.py"))
            .args([&self.uri(), run_id])
            .output()
            .expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What a model of its predicts for a text, loaded by MLflow itself.
    pub fn predict(&self, model: &str, text: &str) -> Value {
        let output = Command::new(&self.python)
            .arg(tests().join("server/predict.py"))
            .args([&self.uri(), model, text])
            .output()
            .expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub fn version(&self) -> Version {
        self.version
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection that does not wait between tries.
pub fn connection(uri: &str) -> Connection {
    let mut connection = Connection::new(uri).expect("an address");
    connection.retry = Retry { backoff_factor: 0.05, backoff_jitter: 0.0, ..Retry::default() };
    connection
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracking/tests")
}
