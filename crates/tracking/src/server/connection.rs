//! How a server is reached: address, credentials, TLS, patience. Everything MLflow's environment
//! variables say about it, with MLflow's defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{Address, query_value};
use super::environment::Environment;
use super::{Credentials, Retry, Secret};
use crate::azure::Tokens;
use crate::{Error, Result};

/// Bytes of a part of a large file.
pub(crate) const PART: u64 = 10 << 20;

/// The settings of a [`Client`](super::Client).
#[derive(Debug, Clone)]
pub struct Connection {
    pub(crate) address: Address,
    /// `Authorization` header made of a user name and password in the tracking URI.
    pub(crate) in_uri: Option<Secret>,
    /// The server that keeps the model registry, where it is another one.
    pub(crate) registry: Option<(Address, Option<Secret>)>,
    /// How requests are authorised.
    pub credentials: Credentials,
    /// Whom to trust, and how to prove who we are.
    pub tls: Tls,
    /// How long to wait for a connection, and for each answer or piece of it. 120 s.
    pub timeout: Duration,
    /// When failed requests are repeated.
    pub retry: Retry,
    /// The workspace that requests are for, on servers that have workspaces.
    pub workspace: Option<String>,
    /// Whether too long values of parameters and tags are cut, rather than sent and refused.
    pub truncate_long_values: bool,
    /// When files are uploaded in parts.
    pub multipart: Multipart,
    /// The run of the Azure ML job that this process is: the service sets its status.
    pub(crate) job: Option<String>,
}

/// Whom to trust, and how to prove who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trust any server. For trials only.
    pub insecure: bool,
    /// PEM file with the certificates to trust, instead of the system's.
    pub server_certificates: Option<PathBuf>,
    /// PEM file with our certificate and its private key.
    pub client_certificate: Option<PathBuf>,
}

/// When a file is uploaded in parts straight to the storage behind the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// Whether to; otherwise the server is asked whether it offers it.
    pub enabled: Option<bool>,
    /// The smallest file that is, in bytes. 500 MiB.
    pub minimum: u64,
    /// The length of a part in bytes. 10 MiB. Files of a workspace of Azure ML go in blocks of it, if
    /// they are longer.
    pub part: u64,
}

impl Connection {
    /// The server at `uri` with MLflow's defaults and no credentials but those in `uri`.
    ///
    /// # Errors
    /// [`Error::Uri`] if it names no server.
    pub fn new(uri: &str) -> Result<Self> {
        let (address, in_uri) = Address::parse(uri)?;
        Ok(Self {
            address,
            in_uri,
            registry: None,
            credentials: Credentials::None,
            tls: Tls::default(),
            timeout: Duration::from_secs(120),
            retry: Retry::default(),
            workspace: None,
            truncate_long_values: true,
            multipart: Multipart { enabled: None, minimum: 500 << 20, part: PART },
            job: None,
        })
    }

    /// The server at `uri`, reached as MLflow's environment variables say.
    ///
    /// # Errors
    /// [`Error::Uri`]; [`Error::Setting`] with the variable that cannot be used.
    pub fn from_environment(uri: &str, environment: &Environment) -> Result<Self> {
        let mut connection = Self::new(uri)?;
        if let Some(registry) = environment.text("MLFLOW_REGISTRY_URI") {
            connection.set_registry(registry)?;
        }
        connection.credentials = Credentials::from_environment(environment)?;
        connection.use_entra(environment);
        connection.job = environment.text("AZUREML_RUN_ID").map(str::to_owned);
        connection.tls = Tls {
            insecure: environment.flag("MLFLOW_TRACKING_INSECURE_TLS")?.unwrap_or(false),
            server_certificates: environment.path("MLFLOW_TRACKING_SERVER_CERT_PATH"),
            client_certificate: environment.path("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        };
        if connection.tls.insecure && connection.tls.server_certificates.is_some() {
            return Err(Error::Setting {
                name: "MLFLOW_TRACKING_INSECURE_TLS".to_owned(),
                reason: "it cannot be set together with MLFLOW_TRACKING_SERVER_CERT_PATH".into(),
            });
        }
        connection.timeout = environment.request_timeout()?.unwrap_or(connection.timeout);
        connection.retry = Retry::from_environment(environment)?;
        connection.workspace = environment.text("MLFLOW_WORKSPACE").map(str::to_owned);
        if let Some(cut) = environment.flag("MLFLOW_TRUNCATE_LONG_VALUES")? {
            connection.truncate_long_values = cut;
        }
        let multipart = &mut connection.multipart;
        multipart.enabled = environment.flag("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")?;
        if let Some(bytes) =
            environment.number("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", 1..=u64::MAX)?
        {
            multipart.minimum = bytes;
        }
        if let Some(bytes) =
            environment.number("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", 1..=u64::MAX)?
        {
            multipart.part = bytes;
        }
        Ok(connection)
    }

    /// For a workspace of Azure ML: the tokens of this machine's identity, unless other credentials are
    /// given; those of a job are renewed. A job's token goes to no other server.
    fn use_entra(&mut self, environment: &Environment) {
        let of_workspace = environment.tracking_uri().is_some_and(|uri| uri.starts_with("azureml"));
        let is_token = matches!(self.credentials, Credentials::Token(_));
        if is_token && of_workspace && !self.address.is_azure_ml() {
            self.credentials = Credentials::None;
        }
        let Some(workspace) = self.address.workspace().filter(|_| self.in_uri.is_none()) else {
            return;
        };
        match &self.credentials {
            Credentials::None => {
                let subscription = workspace.split('/').nth(2);
                self.credentials = Credentials::Entra(Tokens::new(environment, subscription));
            }
            Credentials::Token(token) => {
                let value = |name: &str| environment.text(name).map(query_value);
                let experiment = value("MLFLOW_EXPERIMENT_ID")
                    .map(|id| format!("experimentids/{id}"))
                    .or_else(|| {
                        let name = value("MLFLOW_EXPERIMENT_NAME")?;
                        Some(format!("experiments/{name}"))
                    });
                let run = value("MLFLOW_RUN_ID");
                let renewal = experiment.zip(run).map(|(experiment, run)| {
                    let origin = self.address.origin();
                    format!("{origin}/history/v1.0{workspace}/{experiment}/runs/{run}/token")
                });
                let tokens = Tokens::of_job(environment, token.clone(), renewal);
                self.credentials = Credentials::Entra(tokens);
            }
            Credentials::User { .. } | Credentials::Entra(_) => {}
        }
    }

    /// Names the server that keeps the model registry, where it is another one.
    ///
    /// # Errors
    /// [`Error::Uri`] if it names no server.
    pub fn set_registry(&mut self, uri: &str) -> Result<()> {
        self.registry = Some(Address::parse(uri)?);
        Ok(())
    }

    /// The same for requests that are not repeated.
    pub(super) fn once(&self) -> Self {
        let mut once = self.clone();
        once.retry.retries = 0;
        once
    }

    /// The same settings for the server that keeps the model registry; Entra ID tokens go to Azure ML
    /// alone.
    pub(crate) fn for_registry(&self) -> Self {
        let mut connection = self.clone();
        if let Some((address, in_uri)) = &self.registry {
            if matches!(self.credentials, Credentials::Entra(_)) && !address.is_azure_ml() {
                connection.credentials = Credentials::None;
            }
            (connection.address, connection.in_uri) = (address.clone(), in_uri.clone());
        }
        connection
    }
}

/// The server's address, without credentials.
impl std::fmt::Display for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_heard_and_a_wrong_one_is_named() {
        let environment: Environment = [
            ("MLFLOW_TRACKING_TOKEN", "t"),
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/ca.pem"),
            ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "/me.pem"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "7"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"),
            ("MLFLOW_WORKSPACE", "team"),
            ("MLFLOW_TRUNCATE_LONG_VALUES", "0"),
            ("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true"),
            ("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", "11"),
            ("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", "5"),
            ("MLFLOW_REGISTRY_URI", "http://registry:1/"),
        ]
        .into_iter()
        .collect();
        let found = Connection::from_environment("http://me:s3cret@h", &environment).expect("ok");
        assert_eq!(found.credentials, Credentials::Token(Secret::new("t".to_owned())));
        assert_eq!(
            found.tls,
            Tls {
                insecure: false,
                server_certificates: Some("/ca.pem".into()),
                client_certificate: Some("/me.pem".into()),
            }
        );
        assert_eq!((found.timeout.as_secs(), found.retry.retries), (7, 3));
        assert_eq!((found.workspace.as_deref(), found.truncate_long_values), (Some("team"), false));
        let multipart = Multipart { enabled: Some(true), minimum: 11, part: 5 };
        assert_eq!(found.multipart, multipart);
        assert_eq!(found.for_registry().to_string(), "http://registry:1");
        assert!(!format!("{found:?}").contains("s3cret"));

        for (name, value) in [
            ("MLFLOW_TRACKING_INSECURE_TLS", "maybe"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "0"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "11"),
            ("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", "0"),
        ] {
            let environment = [(name, value)].into_iter().collect();
            let error = Connection::from_environment("http://h", &environment).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
        let both = [
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/ca.pem"),
        ];
        let refused = Connection::from_environment("http://h", &both.into_iter().collect());
        assert!(matches!(refused, Err(Error::Setting { .. })));
    }

    #[test]
    fn the_token_of_a_job_goes_to_its_workspace_alone() {
        let workspace = "azureml://h.api.azureml.ms/mlflow/v1.0/subscriptions/s/workspaces/w";
        let token = ("MLFLOW_TRACKING_TOKEN", "s3cret");
        let other = ("MLFLOW_REGISTRY_URI", "http://registry:1");
        let job: Environment =
            [("MLFLOW_TRACKING_URI", workspace), token, other].into_iter().collect();
        let found = Connection::from_environment(workspace, &job).expect("a workspace");
        assert!(matches!(found.credentials, Credentials::Entra(_)));
        assert_eq!(found.for_registry().credentials, Credentials::None);
        let found = Connection::from_environment("http://ours", &job).expect("a server");
        assert_eq!(found.credentials, Credentials::None);
        let ours = [("MLFLOW_TRACKING_URI", "http://ours"), token].into_iter().collect();
        let found = Connection::from_environment("http://other", &ours).expect("a server");
        assert!(matches!(found.credentials, Credentials::Token(_)), "as MLflow does");
    }
}
