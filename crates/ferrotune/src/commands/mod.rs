//! One file per subcommand.

pub mod azureml;
pub mod bench;
pub mod benchmark;
pub mod export;
pub mod predict;
pub mod quantize;
pub mod sync;
pub mod test;
pub mod train;
pub mod upload;
