//! Where a server is: its base address, and what follows from it for artifacts and for people.
//!
//! `http:` and `https:` name the server itself, with a path if it lives behind one. `azureml:` is
//! the form in which Azure Machine Learning names a workspace; its REST API lives at the same host
//! under `/mlflow/v2.0`, with TLS wherever that is not this machine. A user name and password in the
//! address are taken out of it at once, so no message and no file can show them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str};
use ureq::http::Uri;

use super::Secret;
use crate::{Error, Result};

/// What a path segment must escape; servers decode it again.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What an address given as a whole must escape: nothing that means something in it.
const WHOLE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

const PROXY: &str = "/api/2.0/mlflow-artifacts";
/// Before an Azure ML workspace.
const WORKSPACES: [&str; 2] = ["/mlflow/v1.0", "/mlflow/v2.0"];

/// The base address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    scheme: String,
    /// Host and port.
    authority: String,
    /// Path in front of `/api/…`: empty, or starting with a slash and not ending with one.
    prefix: String,
}

/// Whether a tracking URI names a server rather than a folder.
#[must_use]
pub fn is_server(uri: &str) -> bool {
    let scheme = uri.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https" | "azureml"))
}

impl Address {
    /// Reads a tracking URI; gives the `Authorization` header of a user name and password in it.
    pub fn parse(uri: &str) -> Result<(Self, Option<Secret>)> {
        let refused = |reason| Error::Uri { uri: without_user(uri), reason };
        let escaped = percent_encoding::utf8_percent_encode(uri.trim(), WHOLE).to_string();
        let parsed: Uri = escaped.parse().map_err(|_| refused("it is no address"))?;
        let (Some(scheme), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
            return Err(refused("it names no host"));
        };
        if parsed.query().is_some() || uri.contains('#') {
            return Err(refused("an address of a server has no '?' and no '#'"));
        }
        let (user, authority) = match authority.as_str().rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority.as_str()),
        };
        if authority.is_empty() || authority.starts_with(':') {
            return Err(refused("it names no host"));
        }
        let path = parsed.path().trim_end_matches('/');
        let (scheme, prefix) = match scheme {
            "http" | "https" => (scheme.to_owned(), path.to_owned()),
            "azureml" => {
                let workspace = workspace_of(path)
                    .ok_or_else(|| refused("it has no /mlflow/v1.0/ before the workspace"))?;
                let host = parsed.host().unwrap_or_default();
                let scheme = if is_loopback(host) { "http" } else { "https" };
                (scheme.to_owned(), format!("/mlflow/v2.0{workspace}"))
            }
            _ => return Err(refused("only http:, https: and azureml: name a server")),
        };
        let address = Self { scheme, authority: authority.to_owned(), prefix };
        Ok((address, user.map(basic_from_user)))
    }

    /// The address of a REST call such as `/api/2.0/mlflow/runs/create`.
    pub fn call(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// The Azure ML workspace that this is, as its services name it: `/subscriptions/…/workspaces/…`.
    pub fn workspace(&self) -> Option<&str> {
        workspace_of(&self.prefix).filter(|workspace| workspace.starts_with("/subscriptions/"))
    }

    /// Whether this is Azure ML: a workspace, or a registry that several share.
    pub fn is_azure_ml(&self) -> bool {
        workspace_of(&self.prefix).is_some()
    }

    /// The host, without a port.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// The host's address without a path.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Where the files below an artifact location are put by HTTP; none if it is kept somewhere
    /// that the server does not stand before.
    pub fn artifacts(&self, location: &str) -> Option<ArtifactRoot> {
        let (scheme, rest) = location.split_once(':')?;
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        match scheme {
            "mlflow-artifacts" => {
                let authority = if authority.is_empty() { &self.authority } else { authority };
                Some(ArtifactRoot {
                    server: format!("{}://{authority}{}", self.scheme, self.prefix),
                    folder: path.trim_matches('/').to_owned(),
                })
            }
            "http" | "https" => {
                let (prefix, folder) = path.split_once(&format!("{PROXY}/artifacts"))?;
                Some(ArtifactRoot {
                    server: format!("{scheme}://{authority}{prefix}"),
                    folder: folder.trim_matches('/').to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// What follows the version of Azure ML's MLflow API in a path, with its slash.
fn workspace_of(path: &str) -> Option<&str> {
    let rest = WORKSPACES.iter().find_map(|version| path.strip_prefix(version))?;
    rest.starts_with('/').then_some(rest)
}

/// Whether a host's name or address means this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The base address, without credentials and without a slash at its end.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

/// A folder behind a server's artifact proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactRoot {
    server: String,
    /// Folder below the proxy's root; no slash at either end.
    folder: String,
}

impl ArtifactRoot {
    /// The address of the file at `path` below this folder.
    pub fn file(&self, path: &str) -> String {
        self.at("artifacts", path)
    }

    /// The address of a step (`create`, `complete`, `abort`) of an upload in parts to the folder
    /// `path` below this one.
    pub fn multipart(&self, step: &str, path: &str) -> String {
        self.at(&format!("mpu/{step}"), path)
    }

    /// The server in front of it.
    pub fn server(&self) -> &str {
        &self.server
    }

    fn at(&self, kind: &str, path: &str) -> String {
        let mut url = format!("{}{PROXY}/{kind}", self.server);
        for segment in self.folder.split('/').chain(path.split('/')).filter(|s| !s.is_empty()) {
            url.push('/');
            url.extend(percent_encoding::utf8_percent_encode(segment, SEGMENT));
        }
        url
    }
}

/// A value in a query.
pub(crate) fn query_value(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, SEGMENT).to_string()
}

fn basic_from_user(user: &str) -> Secret {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain: Vec<u8> = percent_decode_str(name).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    basic(&plain)
}

/// The header value of a user name and password, joined by a colon.
pub(crate) fn basic(user_and_password: &[u8]) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(user_and_password)))
}

/// A URI as messages and files may show it, without a user name and password, whether it can be
/// parsed or not.
#[must_use]
pub fn without_user(uri: &str) -> String {
    match uri.rsplit_once('@') {
        None => uri.to_owned(),
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://{after}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(uri: &str) -> Address {
        Address::parse(uri).expect(uri).0
    }

    #[test]
    fn addresses_are_read_and_their_passwords_taken_out() {
        for (uri, base) in [
            ("http://localhost:5000", "http://localhost:5000"),
            ("https://host/mlflow/", "https://host/mlflow"),
            (" http://[::1]:5000 ", "http://[::1]:5000"),
            ("https://me:pa%40ss@host:1/a b", "https://host:1/a%20b"),
            (
                "azureml://westeurope.api.azureml.ms/mlflow/v1.0/subscriptions/s/workspaces/w",
                "https://westeurope.api.azureml.ms/mlflow/v2.0/subscriptions/s/workspaces/w",
            ),
            ("azureml://127.0.0.1:8/mlflow/v2.0/x", "http://127.0.0.1:8/mlflow/v2.0/x"),
        ] {
            assert_eq!(address(uri).to_string(), base);
        }
        let workspace = address("azureml://h/mlflow/v1.0/subscriptions/s/workspaces/w/");
        assert_eq!(workspace.workspace(), Some("/subscriptions/s/workspaces/w"));
        assert_eq!(workspace.origin(), "https://h");
        assert_eq!(address("https://h/mlflow/v2.0x/subscriptions/s").workspace(), None);
        let (_, header) = Address::parse("https://me:pa%40ss@host").expect("an address");
        assert_eq!(header.expect("a password").expose(), "Basic bWU6cGFAc3M=");
    }

    #[test]
    fn what_names_no_server_is_refused_without_showing_a_password() {
        for uri in [
            "",
            "http://",
            "http://:5000",
            "ftp://me:secret@host",
            "host:5000",
            "http://h/?a=secret",
            "http://h/#x",
            "azureml://me:secret@x.api.azureml.ms/elsewhere",
            "azureml://x.api.azureml.ms/mlflow/v1.0",
            "http://me:secret@/",
        ] {
            let error = Address::parse(uri).expect_err(uri).to_string();
            assert!(!error.contains("me:secret"), "{error}");
        }
        assert!(is_server("HTTP://h") && is_server("azureml://h/x"));
        assert!(!is_server("mlruns") && !is_server("file:///x") && !is_server("http:/x"));
    }

    #[test]
    fn artifacts_lie_behind_the_proxy_they_are_named_for() {
        let server = address("https://host:1/base");
        let root = server.artifacts("mlflow-artifacts:/3/abc/artifacts").expect("a proxy");
        let proxy = "https://host:1/base/api/2.0/mlflow-artifacts";
        assert_eq!(
            root.file("model/ü %.bin"),
            format!("{proxy}/artifacts/3/abc/artifacts/model/%C3%BC%20%25.bin")
        );
        assert_eq!(root.multipart("create", ""), format!("{proxy}/mpu/create/3/abc/artifacts"));
        let other = server.artifacts("mlflow-artifacts://store:2/3").expect("a proxy");
        assert_eq!(other.file("x"), "https://store:2/base/api/2.0/mlflow-artifacts/artifacts/3/x");
        let url = "http://h/p/api/2.0/mlflow-artifacts/artifacts/experiments/3";
        let named = server.artifacts(url).expect("a proxy");
        assert_eq!((named.file("x"), named.server()), (format!("{url}/x"), "http://h/p"));
        for elsewhere in ["s3://bucket/3", "/srv/mlruns/3", "file:///x", "http://h/x", ""] {
            assert_eq!(server.artifacts(elsewhere), None, "{elsewhere}");
        }
    }
}
