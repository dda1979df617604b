//! One HTTP exchange with a server: JSON out, JSON in, and what went wrong in between.
//!
//! Refused: redirects (credentials go to the address they were given for, and to no other),
//! answers that are no JSON object or longer than 64 MiB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use ureq::http::{HeaderMap, Request, Response};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, SendBody};

use super::retry::Repeated;
use super::{Connection, Retry, Secret, Tls};
use crate::azure::Tokens;
use crate::error::at;
use crate::{Error, Result};

/// The longest list the API gives is a page of 25,000 metric points.
const ANSWER_LIMIT: u64 = 64 << 20;
/// As much of a strange answer as a message shows, in characters.
const SHOWN: usize = 200;
pub(crate) const USER_AGENT: &str = concat!("ferrotune/", env!("CARGO_PKG_VERSION"));

/// A server and the way to it.
pub(crate) struct Http {
    agent: Agent,
    authorization: Authorization,
    workspace: Option<String>,
    retry: Retry,
}

/// Who asks.
pub(crate) enum Authorization {
    /// Nobody in particular.
    None,
    /// This header.
    Fixed(Secret),
    /// Entra ID tokens, which end.
    Tokens(Tokens),
}

impl Http {
    pub fn new(connection: &Connection) -> Result<Self> {
        Ok(Self {
            agent: agent(connection.timeout, &connection.tls)?,
            authorization: connection.credentials.authorization(connection.in_uri.clone()),
            workspace: connection.workspace.clone(),
            retry: connection.retry.clone(),
        })
    }

    /// A service of another kind, with the system's certificates.
    pub fn of_service(
        authorization: Authorization,
        retry: Retry,
        timeout: Duration,
    ) -> Result<Self> {
        let agent = agent(timeout, &Tls::default())?;
        Ok(Self { agent, authorization, workspace: None, retry })
    }

    pub fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        self.call(Repeated::Harmless, || {
            let request = self.request("GET", url)?.body(()).map_err(|e| bad(url, &e))?;
            json(url, self.exchange(url, request)?)
        })
    }

    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        url: &str,
        body: &impl Serialize,
        repeated: Repeated,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).expect("requests are plain data");
        self.call(repeated, || {
            let request = self.request(method, url)?.header("content-type", "application/json");
            let request = request.body(body.as_slice()).map_err(|e| bad(url, &e))?;
            json(url, self.exchange(url, request)?)
        })
    }

    /// As `send`, for an answer that holds a secret: no message shows any of it.
    pub fn send_for_secret<T: DeserializeOwned>(
        &self,
        method: &str,
        url: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.send(method, url, body, Repeated::Harmless).map_err(without_answer)
    }

    /// As `get`, for an answer that holds a secret.
    pub fn get_secret<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        self.get(url).map_err(without_answer)
    }

    /// Calls until it succeeds, as a request that can be repeated.
    pub fn repeated<T>(&self, call: impl FnMut() -> Result<T>) -> Result<T> {
        self.retry.run(Repeated::Harmless, call)
    }

    /// Streams a file to its place behind the server.
    pub fn put_file(&self, url: &str, path: &Path) -> Result<()> {
        self.call(Repeated::Harmless, || {
            let file = File::open(path).map_err(at("read", path))?;
            let request =
                self.request("PUT", url)?.header("content-type", "application/octet-stream");
            let request = request.body(file).map_err(|e| bad(url, &e))?;
            // Nothing matters in the answer, but a page of HTML is no yes.
            let _: BTreeMap<String, IgnoredAny> = json(url, self.exchange(url, request)?)?;
            Ok(())
        })
    }

    /// Streams `length` bytes of `content` to an address that authorises itself; gives the
    /// status and the `ETag`. Not repeated: the content is used up.
    pub fn put_part(
        &self,
        url: &str,
        headers: &[(String, String)],
        content: &mut dyn Read,
        length: u64,
    ) -> Result<(u16, String)> {
        // Such an address is a credential itself: messages show it without its query.
        let shown = url.split('?').next().unwrap_or_default();
        let mut request =
            Request::builder().method("PUT").uri(url).header("content-length", length);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(SendBody::from_reader(content)).map_err(|e| bad(shown, &e))?;
        let answer = stored(shown, self.exchange(shown, request)?)?;
        let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
        Ok((answer.status().as_u16(), tag.unwrap_or_default().to_owned()))
    }

    /// Calls as the retries say; once more where a token was refused before its end.
    fn call<T>(&self, repeated: Repeated, mut call: impl FnMut() -> Result<T>) -> Result<T> {
        match (self.retry.run(repeated, &mut call), &self.authorization) {
            (Err(Error::Refused { status: 401, .. }), Authorization::Tokens(tokens)) => {
                tokens.renew();
                self.retry.run(repeated, call)
            }
            (answer, _) => answer,
        }
    }

    fn request(&self, method: &str, url: &str) -> Result<ureq::http::request::Builder> {
        let mut request = Request::builder().method(method).uri(url);
        let authorization = match &self.authorization {
            Authorization::None => None,
            Authorization::Fixed(header) => Some(header.clone()),
            Authorization::Tokens(tokens) => Some(tokens.header()?),
        };
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization.expose());
        }
        if let Some(workspace) = &self.workspace {
            request = request.header("x-mlflow-workspace", workspace);
        }
        Ok(request)
    }

    fn exchange(&self, url: &str, request: Request<impl AsSendBody>) -> Result<Response<Body>> {
        self.agent.run(request).map_err(|error| broken(url, &error))
    }
}

fn agent(timeout: Duration, settings: &Tls) -> Result<Agent> {
    let connect = timeout.min(Duration::from_secs(10));
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(USER_AGENT)
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout))
        .timeout_per_write(Some(timeout))
        // uvicorn, MLflow's own server, closes idle connections after 5 s.
        .max_idle_age(Duration::from_secs(4))
        .tls_config(tls(settings)?)
        .build();
    Ok(config.into())
}

/// What an exchange that broke off means.
fn broken(url: &str, error: &ureq::Error) -> Error {
    use ureq::Timeout::{Connect, Resolve};
    let sent = match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_)
        | ureq::Error::Timeout(Connect | Resolve) => false,
        ureq::Error::Io(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::Protocol(_) => {
            return Error::BadAnswer { url: url.to_owned(), reason: error.to_string() };
        }
        _ => true,
    };
    Error::Unreachable { url: url.to_owned(), reason: error.to_string(), sent }
}

/// A request that cannot even be written down.
fn bad(url: &str, error: &ureq::http::Error) -> Error {
    Error::Setting { name: url.to_owned(), reason: format!("it makes no HTTP request: {error}") }
}

/// The body of an answer that should be a JSON object; an empty one is an empty object.
fn json<T: DeserializeOwned>(url: &str, answer: Response<Body>) -> Result<T> {
    let mut answer = accepted(url, answer)?;
    let text = body(url, &mut answer)?;
    let text = if text.trim().is_empty() { "{}" } else { text.as_str() };
    serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => broken_off(url),
        false => Error::BadAnswer {
            url: url.to_owned(),
            reason: format!("{error} in {:?}", shown(text)),
        },
    })
}

/// Half an answer, where it did not say how long it is.
fn broken_off(url: &str) -> Error {
    let reason = "the answer breaks off".to_owned();
    Error::Unreachable { url: url.to_owned(), reason, sent: true }
}

/// An answer that says yes; any other becomes an error that says why.
fn accepted(url: &str, mut answer: Response<Body>) -> Result<Response<Body>> {
    let status = answer.status().as_u16();
    match status {
        200..=299 => return Ok(answer),
        300..=399 => {
            let to = header(answer.headers(), "location").unwrap_or("nowhere");
            let reason = format!("it redirects to {to}; use that address if it is the server's");
            return Err(Error::BadAnswer { url: url.to_owned(), reason });
        }
        _ => {}
    }
    let retry_after = retry_after(&answer);
    let text = body(url, &mut answer)?;
    let said = match serde_json::from_str::<serde_json::Value>(&text) {
        // Half a refusal does not tell what is refused.
        Err(error) if error.is_eof() && !text.is_empty() => return Err(broken_off(url)),
        said => said.ok(),
    };
    // MLflow's names, then those of Azure.
    let field = |mlflow: &str, azure: &str| {
        let said = said.as_ref()?;
        let found = said.get(mlflow).or_else(|| said.get("error")?.get(azure))?;
        found.as_str().map(str::to_owned)
    };
    Err(Error::Refused {
        url: url.to_owned(),
        status,
        code: field("error_code", "code").unwrap_or_default(),
        message: field("message", "message").unwrap_or_else(|| shown(&text)),
        retry_after,
    })
}

/// An answer of a storage that says yes. A refusal may repeat the signature that it refuses, so that
/// no more than its code is told.
fn stored(url: &str, mut answer: Response<Body>) -> Result<Response<Body>> {
    let status = answer.status().as_u16();
    if (200..=299).contains(&status) {
        return Ok(answer);
    }
    let retry_after = retry_after(&answer);
    let text = body(url, &mut answer)?;
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map_or("", |(code, _)| code).to_owned();
    let message = "the storage refuses".to_owned();
    let url = url.to_owned();
    Err(Error::Refused { url, status, code, message, retry_after })
}

fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = header(answer.headers(), "retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn without_answer(error: Error) -> Error {
    match error {
        Error::BadAnswer { url, .. } => {
            Error::BadAnswer { url, reason: "the answer is not what it should be".to_owned() }
        }
        error => error,
    }
}

fn body(url: &str, answer: &mut Response<Body>) -> Result<String> {
    let bytes = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec();
    let bytes = bytes.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(limit) => Error::BadAnswer {
            url: url.to_owned(),
            reason: format!("its answer has more than {limit} bytes"),
        },
        error => broken(url, &error),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The start of a text, on one line.
pub(crate) fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

fn tls(settings: &Tls) -> Result<TlsConfig> {
    let mut config = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(settings.insecure);
    if let Some(path) = &settings.server_certificates {
        let (certificates, _) = pem(path)?;
        if certificates.is_empty() {
            return Err(refused(path, "it holds no PEM certificate"));
        }
        config = config.root_certs(RootCerts::new_with_certs(&certificates));
    }
    if let Some(path) = &settings.client_certificate {
        let (certificates, key) = pem(path)?;
        let Some(key) = key.filter(|_| !certificates.is_empty()) else {
            return Err(refused(path, "it must hold a PEM certificate and its private key"));
        };
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates, key)));
    }
    Ok(config.build())
}

/// The certificates and the first private key of a PEM file.
fn pem(path: &Path) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>)> {
    let bytes = fs::read(path).map_err(at("read the certificates", path))?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(PemItem::PrivateKey(found)) => key = key.or(Some(found)),
            Ok(_) => {}
            Err(error) => return Err(refused(path, &error.to_string())),
        }
    }
    Ok((certificates, key))
}

fn refused(path: &Path, reason: &str) -> Error {
    Error::Setting { name: path.display().to_string(), reason: reason.to_owned() }
}
