//! Azure, as far as runs and jobs need it, on one port of this machine: written from the public
//! descriptions of its services. It is not Azure.
//!
//! - `POST /TENANT/oauth2/v2.0/token`: Entra ID's sign-in (OAuth 2.0 client credentials with a secret or an
//!   assertion, refresh tokens)
//! - `GET /metadata/identity/oauth2/token`, `GET /msi/token`: managed identities of virtual machines (IMDS)
//!   and of App Service
//! - `GET /metadata/endpoints`: the list of clouds
//! - `/subscriptions/…/workspaces/w…`: Azure Resource Manager (Microsoft.MachineLearningServices)
//! - `/mlflow/v2.0/subscriptions/…`: the workspace's MLflow API, which a real MLflow server of version 2
//!   stands behind
//! - `/history/v1.0/…/artifacts/batch/metadata`, `/artifact/v2.0/…/write`, `/history/v1.0/…/token`: run
//!   history and artifacts
//! - `/blobs/…`: a storage with shared access signatures; what is put there of a run, MLflow's artifact
//!   store gets as well
//!
//! Every call but the sign-in's asks for a token that was given here and has not ended.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";
pub const TENANT: &str = "99999999-8888-7777-6666-555555555555";
pub const CLIENT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
/// What must be shown nowhere.
pub const CLIENT_SECRET: &str = "cl13nt~s3cret.value";
pub const ASSERTION: &str = "f3d3rated.assertion.value";
pub const REFRESH_TOKEN: &str = "r3fresh.token.value";
pub const IDENTITY_HEADER: &str = "1dentity-header-value";
pub const SIGNATURE: &str = "s1gnature%2Bvalue%3D";
/// All tokens start with it.
pub const TOKEN: &str = "t0ken.value.";
/// The client that the Azure CLI is.
pub const CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";

/// A running service; it ends with the process.
#[derive(Clone)]
pub struct Azure {
    pub port: u16,
    /// The port that its addresses name: its own, or that of a proxy before it.
    pub front: u16,
    state: Arc<Mutex<State>>,
}

/// What it keeps, and what it is told to do.
#[derive(Default)]
pub struct State {
    pub requests: Vec<Request>,
    /// Answers that come first, for paths that contain the text.
    pub script: Vec<(&'static str, Answer)>,
    /// Seconds that a token lasts; 3600.
    pub life: Option<i64>,
    tokens: Vec<(String, Instant)>,
    /// By run and path: what `batch/metadata` made.
    pub entries: BTreeMap<(String, String), ()>,
    /// Where content is put instead of here: the address of a container, and a signature.
    pub storage: Option<(String, String)>,
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By blob: blocks that belong to nothing yet, and those that its content is made of.
    blocks: BTreeMap<String, [BTreeMap<String, Vec<u8>>; 2]>,
    /// What `PUT` made in the workspace.
    pub resources: BTreeMap<String, Value>,
    mlflow: Option<u16>,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// An answer, or none.
#[derive(Clone, Debug)]
pub enum Answer {
    Json(u16, Value),
    /// Status, headers, body.
    Raw(u16, &'static str, &'static str),
    /// Nothing comes for this long, then nothing at all.
    Nothing(Duration),
}

impl Azure {
    /// The service, with an MLflow server behind it or none.
    pub fn start(mlflow: Option<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State { mlflow, ..State::default() }));
        let azure = Self { port, front: port, state };
        azure.listen(listener);
        azure
    }

    /// The same service behind a proxy, which passes on what comes for `front`.
    pub fn behind(mut self, proxy: impl FnOnce(u16) -> u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        self.port = listener.local_addr().expect("bound").port();
        self.front = proxy(self.port);
        self.listen(listener);
        self
    }

    fn listen(&self, listener: TcpListener) {
        let served = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let azure = served.clone();
                // A client that went away is no failure of the service's.
                std::thread::spawn(move || azure.serve(client).ok());
            }
        });
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.front)
    }

    /// The workspace in Azure's form of a tracking URI.
    pub fn tracking_uri(&self) -> String {
        format!("azureml://127.0.0.1:{}/mlflow/v1.0{}", self.front, workspace())
    }

    /// What makes a process find this service instead of Azure.
    pub fn environment(&self) -> Vec<(String, String)> {
        let set = |name: &str, value: String| (name.to_owned(), value);
        vec![
            set("AZURE_AUTHORITY_HOST", self.uri()),
            set("ARM_CLOUD_METADATA_URL", format!("{}/metadata/endpoints", self.uri())),
            // Nobody is there.
            set("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9".to_owned()),
            set("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0.05".to_owned()),
            set("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0".to_owned()),
        ]
    }

    /// That, and a client secret.
    pub fn environment_with_secret(&self) -> Vec<(String, String)> {
        let mut environment = self.environment();
        for (name, value) in [
            ("AZURE_TENANT_ID", TENANT),
            ("AZURE_CLIENT_ID", CLIENT),
            ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
        ] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        environment
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// The requests whose target contains a text.
    pub fn requests(&self, text: &str) -> Vec<Request> {
        let requests = self.state().requests.clone();
        requests.into_iter().filter(|request| request.target.contains(text)).collect()
    }

    /// The next calls of this kind are answered so.
    pub fn answer(&self, target: &'static str, answers: &[Answer]) {
        self.state().script.extend(answers.iter().map(|answer| (target, answer.clone())));
    }

    /// Tokens given so far are no longer taken.
    pub fn revoke(&self) {
        self.state().tokens.clear();
    }

    /// A token that was given by somebody else.
    pub fn take(&self, token: &str) {
        let ends = Instant::now() + Duration::from_secs(3600);
        self.state().tokens.push((token.to_owned(), ends));
    }

    /// A token as the sign-in gives it.
    pub fn token(&self) -> String {
        let mut state = self.state();
        let life = state.life.unwrap_or(3600);
        let token = format!("{TOKEN}{}", state.requests.len());
        let ends = Instant::now() + Duration::from_secs(life.max(0) as u64);
        state.tokens.push((token.clone(), ends));
        token
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(request) = read(&mut client)? else { return Ok(()) };
        self.state().requests.push(request.clone());
        let scripted = {
            let mut state = self.state();
            let found = state.script.iter().position(|(target, _)| request.target.contains(target));
            found.map(|found| state.script.remove(found).1)
        };
        let answer = scripted.unwrap_or_else(|| self.route(&request));
        let (status, headers, body) = match answer {
            Answer::Json(status, body) => {
                (status, "content-type: application/json\r\n", body.to_string())
            }
            Answer::Raw(status, headers, body) => (status, headers, body.to_owned()),
            Answer::Nothing(time) => {
                std::thread::sleep(time);
                return Ok(());
            }
        };
        let length = body.len();
        write!(
            client,
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
    }

    fn route(&self, request: &Request) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        if path.ends_with("/oauth2/v2.0/token") {
            return self.sign_in(path, &form(&request.body));
        }
        match path {
            "/metadata/identity/oauth2/token" => {
                let known = request.headers.get("metadata").is_some_and(|value| value == "true");
                return self.identity(known, query, "2018-02-01");
            }
            "/msi/token" => {
                let header = request.headers.get("x-identity-header");
                let known = header.is_some_and(|value| value == IDENTITY_HEADER);
                return self.identity(known, query, "2019-08-01");
            }
            "/metadata/endpoints" => {
                let cloud = |name: &str, at: &str| {
                    json!({ "name": name, "resourceManager": at,
                            "authentication": { "loginEndpoint": at, "audiences": [at] } })
                };
                let clouds =
                    [cloud("AzureCloud", &self.uri()), cloud("Other", "https://o.example")];
                return Answer::Json(200, json!(clouds));
            }
            _ => {}
        }
        if let Some(blob) = path.strip_prefix("/blobs/") {
            return self.storage(request, blob, query);
        }
        let bearer = request.headers.get("authorization").and_then(|h| h.strip_prefix("Bearer "));
        let now = Instant::now();
        let known =
            |(token, ends): &(String, Instant)| Some(token.as_str()) == bearer && *ends > now;
        if !self.state().tokens.iter().any(known) {
            return error(401, "InvalidAuthenticationToken", "The access token is invalid.");
        }
        let workspace = workspace();
        let below = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix(workspace.as_str());
        if let Some(call) = below("/mlflow/v2.0") {
            return self.mlflow(request, call, query);
        }
        if let Some(path) = below("/history/v1.0") {
            return self.history(path, &request.body);
        }
        if let Some(path) = below("/artifact/v2.0/") {
            return error(404, "NotFound", path);
        }
        if let Some(path) = below("/artifact/v2.0") {
            return self.artifact(path, query);
        }
        match below("") {
            Some(path) if query == "api-version=2024-10-01" => self.manage(request, path),
            _ => error(404, "NotFound", "no such resource"),
        }
    }

    fn sign_in(&self, path: &str, form: &BTreeMap<String, String>) -> Answer {
        let value = |name: &str| form.get(name).map_or("", String::as_str);
        let refused = |code: &str, text: &str| {
            let text = format!("{text}\r\nTrace ID: 1\r\nTimestamp: 2");
            Answer::Json(400, json!({ "error": code, "error_description": text }))
        };
        if path != format!("/{TENANT}/oauth2/v2.0/token") {
            return refused("invalid_request", "AADSTS90002: Tenant not found.");
        }
        if value("scope") != format!("{}/.default", self.uri()) {
            return refused("invalid_scope", "AADSTS70011: The scope is not valid.");
        }
        let ok = match value("grant_type") {
            "client_credentials" if form.contains_key("client_assertion") => {
                value("client_assertion") == ASSERTION
                    && value("client_assertion_type").ends_with("jwt-bearer")
            }
            "client_credentials" => value("client_secret") == CLIENT_SECRET,
            "refresh_token" => value("refresh_token") == REFRESH_TOKEN && value("client_id") == CLI,
            _ => return refused("unsupported_grant_type", "AADSTS70003: No such grant."),
        };
        if !ok {
            let code = if value("grant_type") == "refresh_token" {
                "invalid_grant"
            } else {
                "invalid_client"
            };
            return refused(code, "AADSTS7000215: Invalid client secret provided.");
        }
        let life = self.state().life.unwrap_or(3600);
        Answer::Json(
            200,
            json!({ "token_type": "Bearer", "expires_in": life, "access_token": self.token() }),
        )
    }

    fn identity(&self, known: bool, query: &str, version: &str) -> Answer {
        let resource = format!("resource={}", self.uri());
        if !known || !unescaped(query).contains(&resource) || !query.contains(version) {
            return Answer::Json(400, json!({ "error": "invalid_request" }));
        }
        // In quotes, as these services write numbers.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ends = now.expect("after 1970").as_secs() + 3600;
        let ends = ends.to_string();
        Answer::Json(200, json!({ "access_token": self.token(), "expires_on": ends }))
    }

    /// The workspace's MLflow: a real one, whose artifact locations are those of the workspace.
    fn mlflow(&self, request: &Request, call: &str, query: &str) -> Answer {
        let Some(port) = self.state().mlflow else {
            return error(404, "NotFound", "nothing is behind this workspace");
        };
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        // Version 2 has no logged models, nor has Azure.
        let (status, body) =
            forward(port, &request.method, &format!("{call}{query}"), &request.body);
        let text = String::from_utf8_lossy(&body);
        let mut said: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
        if let Some(uri) = said.pointer_mut("/run/info/artifact_uri") {
            *uri = self.location(uri.as_str().expect("text")).into();
        }
        let runs = said.get_mut("runs").and_then(Value::as_array_mut);
        for uri in
            runs.into_iter().flatten().filter_map(|run| run.pointer_mut("/info/artifact_uri"))
        {
            *uri = self.location(uri.as_str().expect("text")).into();
        }
        Answer::Json(status, said)
    }

    fn location(&self, of_mlflow: &str) -> String {
        let parts: Vec<_> = of_mlflow.trim_start_matches("mlflow-artifacts:/").split('/').collect();
        format!("{}/experiments/{}/runs/{}/artifacts", self.tracking_uri(), parts[0], parts[1])
    }

    fn history(&self, path: &str, body: &[u8]) -> Answer {
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let run = match parts[..] {
            ["experimentids" | "experiments", _, "runs", run, "artifacts", "batch", "metadata"] => {
                run
            }
            ["experimentids", "1", "runs", _, "token"] => {
                return Answer::Json(200, json!({ "token": self.token() }));
            }
            _ => return error(404, "NotFound", path),
        };
        let body: Value = serde_json::from_slice(body).expect("JSON");
        let (mut made, mut errors) = (json!({}), json!({}));
        for path in body["paths"].as_array().expect("paths") {
            let path = path["path"].as_str().expect("a path").to_owned();
            let id = (run.to_owned(), path.clone());
            if self.state().entries.insert(id, ()).is_some() {
                let message = format!(
                    "Resource Conflict: ArtifactId ExperimentRun/dcid.{run}/{path} already exists."
                );
                errors[path] = json!({ "error": { "code": "UserError", "message": message } });
            } else {
                made[&path] = self.content(run, &path);
            }
        }
        let errors = if errors == json!({}) { Value::Null } else { errors };
        Answer::Json(200, json!({ "artifactContentInformation": made, "errors": errors }))
    }

    fn artifact(&self, path: &str, query: &str) -> Answer {
        let prefix = "/artifacts/ExperimentRun/dcid.";
        let run = path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("/write"));
        let (Some(run), Some(path)) = (run, query.strip_prefix("path=")) else {
            return error(404, "NotFound", path);
        };
        Answer::Json(200, self.content(run, &unescaped(path)))
    }

    fn content(&self, run: &str, path: &str) -> Value {
        let path: Vec<_> = path.split('/').map(escaped).collect();
        let path = format!("dcid.{run}/{}", path.join("/"));
        let uri = match &self.state().storage {
            Some((container, signature)) => format!("{container}/{path}?{signature}"),
            None => format!("{}/blobs/{path}?sv=2021&sig={SIGNATURE}", self.uri()),
        };
        json!({ "contentUri": uri, "origin": "ExperimentRun" })
    }

    fn storage(&self, request: &Request, blob: &str, query: &str) -> Answer {
        if !query.contains(&format!("sig={SIGNATURE}")) {
            // Refusals of real storages repeat what they refuse.
            return Answer::Raw(
                403,
                "content-type: application/xml\r\n",
                "<Error><Code>AuthenticationFailed</Code><Message>sig=s1gnature%2Bvalue%3D</Message></Error>",
            );
        }
        let value = |name: &str| {
            query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        let blob = unescaped(blob);
        let content = match value("comp") {
            Some("block") => {
                let id = unescaped(value("blockid").expect("a block has an id"));
                let mut state = self.state();
                state.blocks.entry(blob).or_default()[0].insert(id, request.body.clone());
                return Answer::Raw(201, "", "");
            }
            Some("blocklist") => {
                let mut state = self.state();
                let [loose, bound] = state.blocks.entry(blob.clone()).or_default();
                let list = String::from_utf8(request.body.clone()).expect("text");
                let ids = list.split("<Latest>").skip(1);
                let ids = ids.map(|rest| rest.split('<').next().expect("an id"));
                let found = ids.map(|id| {
                    let block = loose.get(id).or_else(|| bound.get(id))?;
                    Some((id.to_owned(), block.clone()))
                });
                let Some(found) = found.collect::<Option<Vec<_>>>() else {
                    let said = "<Error><Code>InvalidBlockList</Code></Error>";
                    return Answer::Raw(400, "content-type: application/xml\r\n", said);
                };
                let content = found.iter().map(|(_, block)| block.as_slice()).collect::<Vec<_>>();
                let content = content.concat();
                (*loose, *bound) = (BTreeMap::new(), found.into_iter().collect());
                content
            }
            _ => {
                assert_eq!(request.headers.get("x-ms-blob-type").expect("a kind"), "BlockBlob");
                self.state().blocks.remove(&blob);
                request.body.clone()
            }
        };
        assert!(!request.headers.contains_key("authorization"), "the address is all there is");
        if let (Some((run, path)), Some(port)) =
            (blob.strip_prefix("dcid.").and_then(|rest| rest.split_once('/')), self.state().mlflow)
        {
            let path: Vec<_> = path.split('/').map(escaped).collect();
            let (_, found) =
                forward(port, "GET", &format!("/api/2.0/mlflow/runs/get?run_id={run}"), b"");
            let found: Value = serde_json::from_slice(&found).expect("JSON");
            let experiment =
                found["run"]["info"]["experiment_id"].as_str().expect("an id").to_owned();
            let call = format!(
                "/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{}",
                path.join("/")
            );
            assert_eq!(forward(port, "PUT", &call, &content).0, 200);
        }
        self.state().blobs.insert(blob, content);
        Answer::Raw(201, "etag: \"1\"\r\n", "")
    }

    /// Azure Resource Manager.
    fn manage(&self, request: &Request, path: &str) -> Answer {
        let path = path.trim_start_matches('/');
        match (request.method.as_str(), path) {
            ("GET", "") => Answer::Json(
                200,
                json!({ "name": "w", "location": "westeurope",
                        "properties": { "mlFlowTrackingUri": self.tracking_uri() } }),
            ),
            ("POST", path) if path.ends_with("/startPendingUpload") => {
                let body: Value = serde_json::from_slice(&request.body).expect("JSON");
                if body != json!({ "pendingUploadType": "TemporaryBlobReference" }) {
                    return error(400, "UserError", "PendingUploadType is missing");
                }
                let uri = format!("{}/blobs/code", self.uri());
                let sas = format!("{uri}?sv=2021&sig={SIGNATURE}");
                let credential = json!({ "credentialType": "SAS", "sasUri": sas });
                Answer::Json(
                    200,
                    json!({ "pendingUploadType": "TemporaryBlobReference",
                            "blobReferenceForConsumption": { "blobUri": uri, "credential": credential } }),
                )
            }
            ("PUT", path) => {
                let body: Value = serde_json::from_slice(&request.body).expect("JSON");
                self.state().resources.insert(path.to_owned(), body.clone());
                Answer::Json(201, json!({ "id": path, "properties": body["properties"] }))
            }
            _ => error(404, "NotFound", path),
        }
    }
}

/// The workspace's id.
pub fn workspace() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/\
         Microsoft.MachineLearningServices/workspaces/w"
    )
}

/// The Azure CLI's folder after `az login`, as a user or as a service principal.
pub fn cli_login(folder: &std::path::Path, authority: &str, kind: &str) {
    let name = if kind == "user" { "me@example.com" } else { CLIENT };
    durable::create_folder(folder).expect("folder");
    let subscription = |id: &str, tenant: &str, default: bool| {
        json!({ "id": id, "tenantId": tenant, "isDefault": default, "state": "Enabled",
                "user": { "name": name, "type": kind } })
    };
    let profile = json!({
        "installationId": "1",
        "subscriptions": [subscription("other", "elsewhere", true), subscription(SUBSCRIPTION, TENANT, false)],
    });
    let account = json!({ "home_account_id": "oid.home", "environment": authority,
                          "realm": "organizations", "username": "Me@example.com" });
    let refresh = json!({ "credential_type": "RefreshToken", "home_account_id": "oid.home",
                          "environment": authority, "client_id": CLI, "family_id": "1",
                          "target": "https://management.core.windows.net//.default", "secret": REFRESH_TOKEN });
    let cache = json!({ "Account": { "a": account }, "RefreshToken": { "r": refresh }, "AccessToken": {},
                        "IdToken": {}, "AppMetadata": {} });
    let entries =
        json!([{ "client_id": CLIENT, "tenant": TENANT, "client_secret": CLIENT_SECRET }]);
    for (file, text) in [
        ("azureProfile.json", format!("\u{feff}{profile}")),
        ("msal_token_cache.json", cache.to_string()),
        ("service_principal_entries.json", entries.to_string()),
    ] {
        durable::write(&folder.join(file), text.as_bytes()).expect("write");
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::Json(status, json!({ "error": { "code": code, "message": message } }))
}

fn read(client: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65536]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            n => bytes.extend(&buffer[..n]),
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |text| text.parse().expect("a length"));
    while body.len() < length {
        match client.read(&mut buffer)? {
            0 => return Ok(None),
            n => body.extend(&buffer[..n]),
        }
    }
    Ok(Some(Request { method, target, headers, body }))
}

/// Status and body of what a server on this machine answers.
fn forward(port: u16, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut server = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    server.write_all(head.as_bytes()).and_then(|()| server.write_all(body)).expect("sent");
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer).into_owned();
    (head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status"), body)
}

fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body).into_owned();
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), unescaped(value))).collect()
}

fn unescaped(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
