//! HTTP as the sources need it: redirects followed by hand so that a credential is sent to the
//! origin it belongs to and to no other, and downloads that resume where they were cut.
//!
//! Refuses redirects from https to http, more than ten redirects, and files whose size or sha256
//! is not the announced one.

mod download;
mod url;

pub(crate) use download::{Expected, download, lock};
pub(crate) use url::{join, origin, parse, public, split_credentials};

use std::io;
use std::path::Path;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::Error;

const MAX_REDIRECTS: usize = 10;
/// A busy server (429, 5xx) is asked this often before we give up.
const ATTEMPTS: u32 = 3;
/// Listings and indices; the largest known are a few MB.
const TEXT_LIMIT: u64 = 64 << 20;

/// A credential and the one origin it may be sent to.
#[derive(Clone)]
pub(crate) struct Credential {
    pub origin: String,
    pub header: String,
}

pub(crate) struct Client {
    agent: Agent,
    credential: Option<Credential>,
}

/// The last answer of a chain of redirects.
pub(crate) struct Answer {
    pub url: Uri,
    pub status: u16,
    /// Headers of every answer in the chain, the last one last.
    pub hops: Vec<HeaderMap>,
    body: Body,
}

impl Client {
    pub fn new(
        timeout: Duration,
        certificates: Option<&Path>,
        credential: Option<Credential>,
    ) -> Result<Self, Error> {
        let roots = match certificates {
            Some(path) => trusted(path)?,
            None => RootCerts::PlatformVerifier,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity") // sizes and ranges count the file's own bytes
            .user_agent(concat!("ferrotune/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(timeout.min(Duration::from_secs(10))))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Ok(Self { agent: config.into(), credential })
    }

    pub fn get(&self, url: &Uri, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        self.send(Method::GET, url, headers, |_| false)
    }

    /// A HEAD that stops at an answer for which `enough` holds, redirect or not.
    pub fn head(&self, url: &Uri, enough: impl Fn(&HeaderMap) -> bool) -> Result<Answer, Error> {
        self.send(Method::HEAD, url, &[], enough)
    }

    fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: &[(&str, &str)],
        enough: impl Fn(&HeaderMap) -> bool,
    ) -> Result<Answer, Error> {
        let mut url = url.clone();
        let mut hops = Vec::new();
        for _ in 0..=MAX_REDIRECTS {
            let (status, head, body) = self.send_patiently(&method, &url, headers)?;
            let target = matches!(status, 301 | 302 | 303 | 307 | 308)
                .then(|| text(&head, "location"))
                .flatten()
                .map(|location| join(&url, location))
                .transpose()?;
            let leaves = target.as_ref().is_some_and(|to| origin(to) != origin(&url));
            let stop = leaves && enough(&head);
            hops.push(head);
            match target {
                Some(to) if !stop => {
                    if url.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
                        return Err(bad(&url, "a redirect from https to an unprotected address"));
                    }
                    url = to;
                }
                _ => return Ok(Answer { url, status, hops, body }),
            }
        }
        Err(bad(&url, "too many redirects"))
    }

    fn send_patiently(
        &self,
        method: &Method,
        url: &Uri,
        headers: &[(&str, &str)],
    ) -> Result<(u16, HeaderMap, Body), Error> {
        let mut attempt = 1;
        loop {
            let answer = self.send_once(method, url, headers)?;
            if attempt == ATTEMPTS || !matches!(answer.0, 429 | 500..=599) {
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(250) * attempt);
            attempt += 1;
        }
    }

    fn send_once(
        &self,
        method: &Method,
        url: &Uri,
        headers: &[(&str, &str)],
    ) -> Result<(u16, HeaderMap, Body), Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(credential) = self.credential.as_ref().filter(|c| c.origin == origin(url)) {
            request = request.header("authorization", &credential.header);
        }
        let request = request.body(()).map_err(|error| bad(url, &error.to_string()))?;
        let answer = self.agent.run(request).map_err(|error| match error {
            ureq::Error::Http(_) | ureq::Error::BadUri(_) | ureq::Error::Protocol(_) => {
                bad(url, &error.to_string())
            }
            error => Error::Unreachable { url: public(url), reason: error.to_string() },
        })?;
        let (head, body) = answer.into_parts();
        Ok((head.status.as_u16(), head.headers, body))
    }
}

impl Answer {
    /// The value nearest to the end of the chain.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.hops.iter().rev().find_map(|head| text(head, name))
    }

    /// The value in the last answer alone.
    pub fn last_header(&self, name: &str) -> Option<&str> {
        self.hops.last().and_then(|head| text(head, name))
    }

    pub fn ok(self) -> Result<Self, Error> {
        match self.status {
            200..=299 => Ok(self),
            status => Err(Error::Status { url: public(&self.url), status }),
        }
    }

    /// The whole body, for answers that are text.
    pub fn text(mut self) -> Result<String, Error> {
        let bytes = self.body.with_config().limit(TEXT_LIMIT).read_to_vec();
        let bytes = bytes.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                bad(&self.url, &format!("more than {limit} bytes"))
            }
            error => Error::Unreachable { url: public(&self.url), reason: error.to_string() },
        })?;
        String::from_utf8(bytes).map_err(|_| bad(&self.url, "it is not UTF-8"))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(crate) fn bad(url: &Uri, reason: &str) -> Error {
    Error::BadAnswer { url: public(url), reason: reason.into() }
}

fn trusted(path: &Path) -> Result<RootCerts, Error> {
    let pem = std::fs::read(path).map_err(Error::io("read the certificates", path))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let none = io::Error::new(io::ErrorKind::InvalidData, "it holds no PEM certificate");
        return Err(Error::io("read the certificates", path)(none));
    }
    Ok(RootCerts::from(certificates))
}
