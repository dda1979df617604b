//! Azurite, Azure's own emulator of its blob service, and Azure's own client beside it.
//!
//! `FERROTUNE_AZURITE` is Azurite's `dist/src/blob/main.js`, `FERROTUNE_AZURE_PYTHON` a Python with the
//! packages of `requirements.txt`. Without them tests print that they were skipped.

use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The account and key that every Azurite has, as Azure's documentation publishes them.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub struct Azurite {
    process: Child,
    pub port: u16,
    python: String,
    _folder: tempfile::TempDir,
}

impl Azurite {
    /// Starts one, unless it is not there.
    pub fn start() -> Option<Azurite> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (script, python) =
            var("FERROTUNE_AZURITE").zip(var("FERROTUNE_AZURE_PYTHON")).or_else(|| {
                eprintln!("skipped: FERROTUNE_AZURITE and FERROTUNE_AZURE_PYTHON are not both set");
                None
            })?;
        let folder = tempfile::tempdir().expect("a folder");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let process = Command::new(Path::new(&python).with_file_name("node"))
            .arg(script)
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .arg("--location")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts");
        let azurite = Azurite { process, port, python, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(120), "Azurite does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(azurite)
    }

    /// A connection string for this port: Azurite's own or a proxy's.
    pub fn connection(&self, port: u16) -> String {
        format!(
            "DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};\
             BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        )
    }

    /// A new container.
    pub fn container(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("container-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.sdk(&["create", &name]);
        name
    }

    /// All blobs of a container, as Azure's client reads them.
    pub fn blobs(&self, container: &str) -> serde_json::Map<String, Value> {
        serde_json::from_str(&self.sdk(&["list", container])).expect("JSON")
    }

    pub fn sdk(&self, arguments: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../stores/tests/azure_sdk.py");
        let output = Command::new(&self.python)
            .args([script, &self.connection(self.port)])
            .args(arguments)
            .output()
            .expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
