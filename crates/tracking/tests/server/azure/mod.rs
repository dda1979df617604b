//! Azure ML: tokens, workspaces, runs and their artifacts, against a service written from the public
//! descriptions of Azure's, with a real MLflow server behind it.

mod artifacts;
mod runs;
#[allow(dead_code, reason = "the tests of the command line use all of it")]
mod service;
mod tokens;
