//! From a location and the environment to a store that answers.

use crate::{Error, Result, azure};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, RetryConfig};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a request may take: a part of 5 MiB at 1 Mbit/s. Well below the time for which it is
/// repeated.
const REQUEST: &str = "45s";
const CONNECT: &str = "5s";
const REPEATED: Duration = Duration::from_secs(240);
/// A check is there to fail early.
const CHECKED: Duration = Duration::from_secs(15);

/// Written and removed by [`Store::check`].
const PROBE: &str = ".ferrotune-write-check";

/// A place that keeps artifacts.
#[derive(Debug)]
pub struct Store {
    kind: Kind,
    /// As given, which holds no secret.
    location: String,
    pub(crate) prefix: Path,
    pub(crate) runtime: Runtime,
}

/// What answers, not yet told how patient to be.
#[derive(Debug)]
enum Kind {
    Folder(std::path::PathBuf),
    Azure(Box<object_store::azure::MicrosoftAzureBuilder>),
    S3(Box<AmazonS3Builder>),
    GoogleCloud(Box<GoogleCloudStorageBuilder>),
}

impl Store {
    /// The store at `location`: a folder, `azure://CONTAINER/PREFIX`, `s3://BUCKET/PREFIX` or
    /// `gs://BUCKET/PREFIX`, with the credentials of `environment` (`AZURE_STORAGE_CONNECTION_STRING`
    /// and the `AZURE_…`, `AWS_…` and `GOOGLE_…` variables of the services' own tools). Nothing is sent
    /// yet.
    ///
    /// # Errors
    /// A location that names no store, credentials that cannot be read.
    pub fn open(
        location: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Store> {
        let refused = |reason: &str| Error::Location {
            location: location.split('?').next().unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
        };
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let (kind, prefix) = match location.split_once("://") {
            _ if location.is_empty() => return Err(refused("it is empty")),
            None => {
                let folder =
                    std::path::absolute(location.strip_prefix("file:").unwrap_or(location));
                (Kind::Folder(folder.map_err(Error::Start)?), Path::default())
            }
            Some(("file", path)) => (Kind::Folder(path.into()), Path::default()),
            Some((scheme, rest)) => {
                if rest.contains(['?', '@', '#']) {
                    return Err(refused("credentials belong into the environment"));
                }
                let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if container.is_empty() {
                    return Err(refused("it names no container"));
                }
                let prefix = Path::parse(prefix.trim_matches('/'))
                    .map_err(|_| refused("its prefix has a part that is empty, `.` or `..`"))?;
                let kind = match scheme {
                    "azure" | "az" => {
                        let builder = azure::builder(&environment)?.with_container_name(container);
                        Kind::Azure(Box::new(builder))
                    }
                    "s3" => Kind::S3(Box::new(s3(&environment).with_bucket_name(container))),
                    "gs" => {
                        let builder = google_cloud(&environment).with_bucket_name(container);
                        Kind::GoogleCloud(Box::new(builder))
                    }
                    _ => {
                        return Err(refused(
                            "it is neither a folder nor azure://, s3:// or gs:// with a container",
                        ));
                    }
                };
                (kind, prefix)
            }
        };
        // The first to be set stays, which is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let location = match &kind {
            Kind::Folder(folder) => folder.display().to_string(),
            Kind::Azure(_) | Kind::S3(_) | Kind::GoogleCloud(_) => location.to_owned(),
        };
        Ok(Store { kind, location: location.trim_end_matches('/').to_owned(), prefix, runtime })
    }

    /// As it was given, a folder's path made absolute; it holds no secret.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Tries to write and remove a small object, so that wrong credentials, a missing container or a
    /// folder that cannot be written to show before there is anything to lose.
    ///
    /// # Errors
    /// What the store answers, within about a minute.
    pub fn check(&self) -> Result<()> {
        let store = self.connect(CHECKED)?;
        let probe = self.prefix.clone().join(PROBE);
        self.runtime.block_on(async {
            store
                .put(&probe, Vec::new().into())
                .await
                .map_err(|error| Error::store("write to", self.location(), &error))?;
            // A writer need not be allowed to delete.
            let _ = store.delete(&probe).await;
            Ok(())
        })
    }

    /// The store, with requests repeated for this long.
    fn connect(&self, patience: Duration) -> Result<Arc<dyn ObjectStore>> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(200),
                max_backoff: Duration::from_secs(15),
                base: 2.0,
            },
            max_retries: 10,
            retry_timeout: patience,
        };
        let store: object_store::Result<Arc<dyn ObjectStore>> = match &self.kind {
            Kind::Folder(folder) => {
                let made = durable::create_folder(folder);
                made.map_err(|error| Error::Location {
                    location: self.location.clone(),
                    reason: error.to_string(),
                })?;
                LocalFileSystem::new_with_prefix(folder)
                    .map(|store| Arc::new(store.with_fsync(true)) as _)
            }
            Kind::Azure(builder) => {
                builder.as_ref().clone().with_retry(retry).build().map(|store| Arc::new(store) as _)
            }
            Kind::S3(builder) => {
                builder.as_ref().clone().with_retry(retry).build().map(|store| Arc::new(store) as _)
            }
            Kind::GoogleCloud(builder) => {
                builder.as_ref().clone().with_retry(retry).build().map(|store| Arc::new(store) as _)
            }
        };
        store.map_err(|error| Error::store("open", self.location(), &error))
    }

    /// The store, as patient as an upload should be.
    pub(crate) fn patient(&self) -> Result<Arc<dyn ObjectStore>> {
        self.connect(REPEATED)
    }
}

fn s3(environment: &[(String, String)]) -> AmazonS3Builder {
    let with = |builder: AmazonS3Builder, key, value: &str| builder.with_config(key, value);
    configured(environment, "aws_", AmazonS3Builder::new(), AmazonS3ConfigKey::Client, with)
}

fn google_cloud(environment: &[(String, String)]) -> GoogleCloudStorageBuilder {
    let with =
        |builder: GoogleCloudStorageBuilder, key, value: &str| builder.with_config(key, value);
    let builder = GoogleCloudStorageBuilder::new();
    configured(environment, "google_", builder, GoogleConfigKey::Client, with)
}

/// The builder with our patience, and then every variable of the environment that it knows.
pub(crate) fn configured<B, K: FromStr>(
    environment: &[(String, String)],
    prefix: &str,
    mut builder: B,
    client: fn(ClientConfigKey) -> K,
    with: impl Fn(B, K, &str) -> B,
) -> B {
    builder = with(builder, client(ClientConfigKey::Timeout), REQUEST);
    builder = with(builder, client(ClientConfigKey::ConnectTimeout), CONNECT);
    environment.iter().fold(builder, |builder, (name, value)| {
        let name = name.to_ascii_lowercase();
        match name.starts_with(prefix).then(|| name.parse().ok()).flatten() {
            Some(key) => with(builder, key, value),
            None => builder,
        }
    })
}
