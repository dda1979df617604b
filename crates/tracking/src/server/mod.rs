//! MLflow tracking servers: [`Client`] is their REST API.

mod address;
mod artifacts;
mod client;
mod connection;
mod credentials;
mod environment;
mod http;
mod models;
mod retry;
mod wire;

pub use address::is_server;
pub use artifacts::ArtifactInfo;
pub use client::Client;
pub use connection::{Connection, Multipart, Tls};
pub use credentials::{Credentials, Secret};
pub use environment::Environment;
pub use models::{LoggedModel, ModelVersion, NewLoggedModel, NewModelVersion};
pub use retry::Retry;
pub use wire::{
    Batch, DatasetInput, Experiment, NewRun, Pair, ServerDataset, ServerInfo, ServerRun,
    ServerRunData, ServerRunInfo, ServerRunInputs,
};
