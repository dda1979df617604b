//! Where this machine may have an identity, and how each is turned into an access token: a client
//! secret in the environment, a federated token (workload identity), a managed identity (virtual
//! machines, App Service, Azure ML compute), the token of an Azure ML job.
//!
//! Microsoft's `azure_identity` crate would do the same: it asks for another HTTP client with another
//! TLS provider and an asynchronous runtime, and it starts the `az` program where we read its login.
//! Each source here is one request to a documented address. Refused: client certificates.
//!
//! No reason given here holds a secret: requests are never shown, and of answers only the error's
//! name and its first line.

use std::fs;
use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use ureq::Agent;

use super::cli_login::CliLogin;
use super::cloud::{Cloud, endpoint};
use super::tokens::Token;
use crate::server::{Environment, Secret, query_value};
use crate::{Error, now_ms};

/// Where virtual machines ask for tokens, unless `AZURE_POD_IDENTITY_AUTHORITY_HOST` says otherwise.
const IMDS: &str = "http://169.254.169.254";
/// Of an answer without a word about it.
const UNKNOWN_LIFE: i64 = 600;
const ANSWER_LIMIT: u64 = 1 << 20;

/// Why a source gives no token.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such identity here: the next source is asked.
    Absent(String),
    /// There is one, and it is refused: no other is put in its place.
    Refused(String),
    /// Nothing is known: it may be had later.
    Later(Error),
}

impl Refusal {
    /// That of a place where there is an identity, whatever it answers.
    fn of_identity(self) -> Self {
        match self {
            Self::Absent(reason) => Self::Refused(reason),
            other => other,
        }
    }
}

/// One place that an identity can come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    ClientSecret,
    WorkloadIdentity,
    ManagedIdentity,
    CliLogin(CliLogin),
    /// The token that Azure ML gives a job, and the address at which it gives the next one.
    Job {
        first: Secret,
        renewal: Option<String>,
    },
}

impl Source {
    /// As people know it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClientSecret => "client secret",
            Self::WorkloadIdentity => "workload identity",
            Self::ManagedIdentity => "managed identity",
            Self::CliLogin(_) => "Azure CLI",
            Self::Job { .. } => "MLFLOW_TRACKING_TOKEN",
        }
    }

    /// A token; `last` is the one before.
    pub fn token(
        &self,
        environment: &Environment,
        cloud: &Cloud,
        transport: &Transport,
        last: Option<&Token>,
    ) -> Result<Token, Refusal> {
        match self {
            Self::ClientSecret => client_secret(environment, cloud, transport),
            Self::WorkloadIdentity => workload_identity(environment, cloud, transport),
            Self::ManagedIdentity => managed_identity(environment, cloud, transport, last),
            Self::CliLogin(login) => login.token(cloud, transport),
            Self::Job { first, renewal } => job(first, renewal.as_deref(), transport, last),
        }
    }
}

fn client_secret(
    environment: &Environment,
    cloud: &Cloud,
    transport: &Transport,
) -> Result<Token, Refusal> {
    if environment.text("AZURE_CLIENT_SECRET").is_none()
        && environment.text("AZURE_CLIENT_CERTIFICATE_PATH").is_some()
    {
        return Err(Refusal::Refused(
            "AZURE_CLIENT_CERTIFICATE_PATH is set, but certificates are not supported".to_owned(),
        ));
    }
    let secret = required(environment, "AZURE_CLIENT_SECRET")?;
    let client = required(environment, "AZURE_CLIENT_ID")?;
    let tenant = required(environment, "AZURE_TENANT_ID")?;
    let form = [("client_id", client), ("client_secret", secret)];
    transport.grant(cloud, tenant, "client_credentials", &form)
}

fn workload_identity(
    environment: &Environment,
    cloud: &Cloud,
    transport: &Transport,
) -> Result<Token, Refusal> {
    let path = required(environment, "AZURE_FEDERATED_TOKEN_FILE")?;
    let client = required(environment, "AZURE_CLIENT_ID")?;
    let tenant = required(environment, "AZURE_TENANT_ID")?;
    // The file is written anew before its token ends.
    let assertion = fs::read_to_string(path)
        .map_err(|error| Refusal::Refused(format!("cannot read {path}: {error}")))?;
    let form = [
        ("client_id", client),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion.trim()),
    ];
    transport.grant(cloud, tenant, "client_credentials", &form)
}

/// App Service and its like name their own address; virtual machines have one that is always the same.
fn managed_identity(
    environment: &Environment,
    cloud: &Cloud,
    transport: &Transport,
    last: Option<&Token>,
) -> Result<Token, Refusal> {
    let named = |variable, secret_variable| {
        let (url, secret) = (environment.text(variable)?, environment.text(secret_variable)?);
        Some((variable, url, secret))
    };
    let client = environment.text("AZURE_CLIENT_ID");
    let (url, header, client_key, version) =
        if let Some((name, url, secret)) = named("IDENTITY_ENDPOINT", "IDENTITY_HEADER") {
            (near(name, url)?, ("x-identity-header", secret), "client_id", "2019-08-01")
        } else if let Some((name, url, secret)) = named("MSI_ENDPOINT", "MSI_SECRET") {
            (near(name, url)?, ("secret", secret), "clientid", "2017-09-01")
        } else {
            return virtual_machine(environment, cloud, transport, last.is_some());
        };
    let client = client.or_else(|| environment.text("DEFAULT_IDENTITY_CLIENT_ID"));
    let url = identity_url(&url, version, cloud, client.map(|client| (client_key, client)));
    // The address is there for nothing else.
    token(&transport.get(&url, &[header]).map_err(Refusal::of_identity)?)
}

/// `known` is an identity that gave a token before.
fn virtual_machine(
    environment: &Environment,
    cloud: &Cloud,
    transport: &Transport,
    known: bool,
) -> Result<Token, Refusal> {
    const HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    let host = near(HOST, environment.text(HOST).unwrap_or(IMDS))?;
    let client = environment.text("AZURE_CLIENT_ID").map(|client| ("client_id", client));
    let url = format!("{host}/metadata/identity/oauth2/token");
    let url = identity_url(&url, "2018-02-01", cloud, client);
    match transport.probe(&url, &[("metadata", "true")]) {
        Ok(answer) => token(&answer),
        Err(refusal) if known => Err(refusal.of_identity()),
        Err(Refusal::Later(Error::Unreachable { .. } | Error::BadAnswer { .. })) => {
            Err(Refusal::Absent(
                "this is no machine of Azure: nobody answers at its identity address".to_owned(),
            ))
        }
        Err(Refusal::Refused(reason)) => Err(Refusal::Absent(reason)),
        Err(other) => Err(other),
    }
}

fn identity_url(url: &str, version: &str, cloud: &Cloud, client: Option<(&str, &str)>) -> String {
    let resource = query_value(&cloud.resource_manager);
    let mut url = format!("{url}?api-version={version}&resource={resource}");
    if let Some((key, client)) = client {
        url += &format!("&{key}={}", query_value(client));
    }
    url
}

/// The service renews the tokens of its jobs for who shows the one before.
fn job(
    first: &Secret,
    renewal: Option<&str>,
    transport: &Transport,
    last: Option<&Token>,
) -> Result<Token, Refusal> {
    let current = last.map_or(first, |last| &last.secret);
    let ends = expiry_of_jwt(current.expose());
    if last.is_none() && ends.is_none_or(|ends| ends > now_ms() / 1000) {
        return Ok(Token::new(first.clone(), ends));
    }
    let Some(renewal) = renewal else {
        return Err(Refusal::Refused("it has ended".to_owned()));
    };
    let bearer = format!("Bearer {}", current.expose());
    let answer = transport.get(renewal, &[("authorization", &bearer)])?;
    match answer["token"].as_str() {
        Some(token) => Ok(Token::new(Secret::new(token.to_owned()), expiry_of_jwt(token))),
        None => Err(Refusal::Refused("the answer to its renewal holds no token".to_owned())),
    }
}

/// When a JSON web token ends, in seconds since 1970. It is not verified: that is for the one who
/// gets it.
fn expiry_of_jwt(token: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?.get("exp")?.as_i64()
}

fn required<'a>(environment: &'a Environment, name: &str) -> Result<&'a str, Refusal> {
    environment.text(name).ok_or_else(|| Refusal::Absent(format!("{name} is not set")))
}

fn near(name: &str, url: &str) -> Result<String, Refusal> {
    endpoint(name, url).map_err(|error| Refusal::Refused(error.to_string()))
}

/// The token in an answer. Ends are numbers, or numbers in quotes; the oldest services write dates.
pub(super) fn token(answer: &Value) -> Result<Token, Refusal> {
    let Some(secret) = answer["access_token"].as_str() else {
        return Err(Refusal::Refused("the answer holds no access_token".to_owned()));
    };
    let number = |name: &str| match &answer[name] {
        Value::String(text) => text.parse().ok(),
        value => value.as_i64(),
    };
    let now = now_ms() / 1000;
    let ends = number("expires_in").map(|seconds| now + seconds).or_else(|| number("expires_on"));
    Ok(Token::new(Secret::new(secret.to_owned()), Some(ends.unwrap_or(now + UNKNOWN_LIFE))))
}

/// HTTP for tokens: short, without redirects, and straight to addresses of the machine's link.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    far: Agent,
    near: Agent,
    probing: Agent,
}

impl Transport {
    /// Waits 20 s for an answer, or for as long as `timeout` says where that is shorter.
    pub fn new(timeout: Option<Duration>) -> Self {
        let agent = |connect, answer, through_proxy: bool| -> Agent {
            let answer = Duration::from_secs(answer);
            let answer = timeout.map_or(answer, |timeout| timeout.min(answer));
            let mut config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(crate::server::USER_AGENT)
                .timeout_resolve(Some(Duration::from_secs(connect)))
                .timeout_connect(Some(Duration::from_secs(connect)))
                .timeout_global(Some(answer))
                .tls_config(
                    ureq::tls::TlsConfig::builder()
                        .root_certs(ureq::tls::RootCerts::PlatformVerifier)
                        .build(),
                );
            if !through_proxy {
                config = config.proxy(None);
            }
            config.build().into()
        };
        Self { far: agent(5, 20, true), near: agent(2, 20, false), probing: agent(1, 5, false) }
    }

    /// Asks the sign-in for a token of the cloud's resource manager.
    pub fn grant(
        &self,
        cloud: &Cloud,
        tenant: &str,
        grant: &str,
        form: &[(&str, &str)],
    ) -> Result<Token, Refusal> {
        let url = format!("{}/{}/oauth2/v2.0/token", cloud.authority, query_value(tenant));
        let scope = cloud.scope();
        let form = form.iter().copied().chain([("grant_type", grant), ("scope", &scope)]);
        let form: Vec<_> =
            form.map(|(key, value)| format!("{key}={}", query_value(value))).collect();
        let sent = self
            .far
            .post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .send(form.join("&"));
        // This is the place for it: no other identity is tried instead.
        token(&read(&url, sent).map_err(Refusal::of_identity)?)
    }

    /// A JSON document from an address with TLS, or of this machine.
    pub fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Value, Refusal> {
        ask(if url.starts_with("https:") { &self.far } else { &self.near }, url, headers)
    }

    /// The same from an address where perhaps nobody is.
    pub fn probe(&self, url: &str, headers: &[(&str, &str)]) -> Result<Value, Refusal> {
        ask(&self.probing, url, headers)
    }
}

fn ask(agent: &Agent, url: &str, headers: &[(&str, &str)]) -> Result<Value, Refusal> {
    let request = headers.iter().fold(agent.get(url), |r, (name, value)| r.header(*name, *value));
    read(url, request.call())
}

/// What the answer to a request for a token means.
fn read(
    url: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Value, Refusal> {
    let shown = url.split('?').next().unwrap_or_default().to_owned();
    let unreachable = |reason: String| {
        Refusal::Later(Error::Unreachable { url: shown.clone(), reason, sent: false })
    };
    let mut answer = answer.map_err(|error| unreachable(error.to_string()))?;
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok());
    let body = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec();
    let body = body.map_err(|error| unreachable(error.to_string()))?;
    let said = match serde_json::from_slice::<Value>(&body) {
        Err(error) if error.is_eof() && status == 200 => {
            return Err(unreachable("the answer breaks off".to_owned()));
        }
        said => said.ok(),
    };
    match (status, said) {
        (200, Some(said)) => Ok(said),
        (200 | 300..=399, _) => Err(Refusal::Later(Error::BadAnswer {
            url: shown,
            reason: format!("{status}, and no JSON"),
        })),
        // As those of a tracking server that may do better later.
        (429 | 500.., _) => Err(Refusal::Later(Error::Refused {
            url: shown,
            status: if matches!(status, 429 | 500 | 502..=504) { status } else { 503 },
            code: String::new(),
            message: "no token now".to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
        })),
        (_, said) => {
            let text = |name: &str| said.as_ref()?.get(name)?.as_str().map(str::to_owned);
            let code = text("error").unwrap_or_else(|| status.to_string());
            let description = text("error_description").unwrap_or_default();
            let reason = description.lines().next().unwrap_or_default();
            let reason = format!("{shown} answers {code}: {}", crate::server::shown(reason));
            Err(match status {
                400 | 401 => Refusal::Refused(reason),
                _ => Refusal::Absent(reason),
            })
        }
    }
}

/// A file of somebody's login: its text, or why there is none.
pub(super) fn login_file(path: &std::path::Path) -> Result<String, Refusal> {
    match fs::read_to_string(path) {
        // The CLI writes a byte order mark.
        Ok(text) => Ok(text.trim_start_matches('\u{feff}').to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Refusal::Absent(format!("there is no {}", path.display())))
        }
        Err(error) => Err(Refusal::Absent(format!("cannot read {}: {error}", path.display()))),
    }
}
