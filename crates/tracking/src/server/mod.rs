//! MLflow tracking servers: [`Client`] is their REST API, [`Server`] a run that is sent to one in
//! the background, [`sync`] what brings one up to the record afterwards.

mod address;
mod artifacts;
mod background;
mod client;
mod connection;
mod credentials;
mod environment;
pub(crate) mod http;
mod model;
mod models;
mod placement;
mod progress;
pub(crate) mod retry;
mod sender;
mod sync;
mod wire;

pub(crate) use address::{Address, is_loopback, query_value};
pub use address::{is_server, without_user};
pub use artifacts::ArtifactInfo;
pub(crate) use background::answer_within;
pub use background::{Server, check_server, check_workspace};
pub use client::Client;
pub(crate) use connection::PART;
pub use connection::{Connection, Multipart, Tls};
pub use credentials::{Credentials, Secret};
pub use environment::Environment;
pub(crate) use http::{USER_AGENT, shown};
pub use models::{LoggedModel, ModelVersion, NewLoggedModel, NewModelVersion};
pub use placement::Placement;
pub use progress::page;
pub use retry::Retry;
pub use sync::{Synced, sync};
pub use wire::{
    Batch, DatasetInput, Experiment, ModelOutput, NewRun, Pair, ServerDataset, ServerInfo,
    ServerRun, ServerRunData, ServerRunInfo, ServerRunInputs, ServerRunOutputs,
};
