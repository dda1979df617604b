//! Moto's server, an emulator of S3, and boto3, Amazon's own client, beside it.
//!
//! `FERROTUNE_S3_PYTHON` is a Python with the packages of `requirements-s3.txt`. Without it tests print that
//! they were skipped.

use crate::suite::Service;
use serde_json::{Map, Value};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const SECRET: &str = "c29tZXRoaW5nIHNlY3JldA";

pub struct Moto {
    process: Child,
    port: u16,
    python: String,
}

impl Moto {
    /// Starts one that lets everybody in, unless it is not there.
    pub fn start() -> Option<Moto> {
        Moto::start_with(&[])
    }

    /// One that lets nobody in.
    pub fn closed() -> Option<Moto> {
        Moto::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "0")])
    }

    fn start_with(environment: &[(&str, &str)]) -> Option<Moto> {
        let python = std::env::var("FERROTUNE_S3_PYTHON").ok().filter(|value| !value.is_empty());
        let python = python.or_else(|| {
            eprintln!("skipped: FERROTUNE_S3_PYTHON is not set");
            None
        })?;
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let process = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let moto = Moto { process, port, python };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(120), "Moto does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(moto)
    }

    fn boto3(&self, arguments: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3_sdk.py");
        let output = Command::new(&self.python)
            .args([script, &format!("http://127.0.0.1:{}", self.port)])
            .args(arguments)
            .output()
            .expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Service for Moto {
    const SCHEME: &'static str = "s3";
    const PART: &'static str = "partNumber=";
    const WHOLE: &'static str = "?uploadId=";

    fn port(&self) -> u16 {
        self.port
    }

    fn environment(&self, port: u16) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{port}");
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "otter"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_TIMEOUT", "3s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn client(&self, arguments: &[&str]) {
        self.boto3(arguments);
    }

    fn container(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.boto3(&["create", &name]);
        name
    }

    fn objects(&self, container: &str) -> Map<String, Value> {
        serde_json::from_str(&self.boto3(&["list", container])).expect("JSON")
    }

    fn unfinished(&self, container: &str) -> usize {
        self.boto3(&["unfinished", container]).parse().expect("a number")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
