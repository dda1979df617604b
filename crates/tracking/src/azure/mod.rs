//! Azure Machine Learning: where a workspace is, who may use it, and what its services take.
//!
//! [`Tokens`] are Entra ID access tokens, from wherever this machine has an identity. A [`Workspace`]
//! is what `config.json` or an `azureml://` address names, and [`Management`] Azure Resource Manager's
//! view of it: its tracking address, its assets, its jobs. Runs in a workspace are MLflow runs
//! ([`Server`](crate::Server)); only their artifacts take a way of their own.
//!
//! Written from the public descriptions of these services and tested against servers made from them;
//! it was not run against Azure.

mod blob;
mod cli_login;
mod cloud;
mod run_artifacts;
mod sources;
mod tokens;
mod workspace;

pub use tokens::Tokens;
pub use workspace::{Management, Workspace, is_reference, studio_page};
